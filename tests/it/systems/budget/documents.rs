//! The entries of the two JSON files as `mongoimport` stores them: made up, the same for the same seed.

use anyhow::{Result, bail};
use bson::oid::ObjectId;
use bson::{Bson, DateTime, Document, doc};

use crate::support::expenses::Random;

/// Which of the two files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum File {
    Expenses,
    Incomes,
}

impl File {
    pub(super) const BOTH: [Self; 2] = [Self::Expenses, Self::Incomes];

    /// Of the collection, the table and the source.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Expenses => "expenses",
            Self::Incomes => "incomes",
        }
    }
}

/// `_id`s rise with the number, as an import's do.
pub(super) fn object_id(number: i64) -> ObjectId {
    let mut bytes = [0; 12];
    bytes[0] = 0x69;
    bytes[4..].copy_from_slice(&number.to_be_bytes());
    ObjectId::from_bytes(bytes)
}

/// As many entries of a file, with the ids 1 to `count`.
pub(super) fn entries(file: File, seed: u64, count: i64) -> Vec<Document> {
    let mut random = Random(seed ^ (file as u64) << 32);
    (1..=count).map(|number| entry(file, &mut random, number)).collect()
}

/// With the oddities that are harmless: empty and null notes, equal entries, two spellings of one category,
/// amounts that are whole numbers now and fractions then.
pub(super) fn entry(file: File, random: &mut Random, number: i64) -> Document {
    let cents = 50 + random.below(90_000) as i64;
    let amount = match random.below(4) {
        0 => Bson::Int32((cents / 100) as i32),
        1 => Bson::Int64(-cents / 100),
        _ => Bson::Double(cents as f64 / 100.0),
    };
    let mut entry = doc! { "_id": object_id(number), "date": day(random) };
    if file == File::Expenses {
        match random.below(5) {
            // Absent and null are one.
            0 => {}
            1 => drop(entry.insert("business", Bson::Null)),
            _ => drop(entry.insert("business", random.pick(BUSINESSES))),
        }
    }
    entry.insert("category", random.pick(CATEGORIES));
    entry.insert("amount", amount);
    entry.insert("account", random.pick(ACCOUNTS));
    entry.insert("currency", "₪");
    entry.insert("notes", random.pick(NOTES).map_or(Bson::Null, Into::into));
    let id = i32::try_from(number).map_or(Bson::Int64(number), Bson::Int32);
    entry.insert("id", id);
    entry
}

fn day(random: &mut Random) -> String {
    format!("202{}-{:02}-{:02}", 3 + random.below(3), 1 + random.below(12), 1 + random.below(28))
}

/// An entry with this kind of bad data: a kind of `bad_data.md`.
pub(super) fn bad(file: File, kind: &str, number: i64) -> Result<Document> {
    let mut entry = plain(file, number);
    let mut set = |field: &str, value: Bson| drop(entry.insert(field, value));
    match kind {
        "duplicate_id" => set("id", Bson::Int32(1)),
        "missing_id" => drop(entry.remove("id")),
        "null_id" => set("id", Bson::Null),
        "id_as_string" => set("id", number.to_string().into()),
        "id_as_double" => set("id", Bson::Double(number as f64)),
        "id_out_of_range" => set("id", Bson::Int64(1 << 40)),
        "id_not_a_number" => set("id", "seven".into()),
        "date_without_such_month" => set("date", "2025-13-01".into()),
        "date_day_first" => set("date", "01/11/2025".into()),
        "date_of_one_digit" => set("date", "2/11/2025".into()),
        "date_in_words" => set("date", "yesterday".into()),
        "empty_date" => set("date", "".into()),
        "null_date" => set("date", Bson::Null),
        "missing_date" => drop(entry.remove("date")),
        "date_with_time" => set("date", "2025-11-02T21:30:00".into()),
        "date_with_midnight" => set("date", "2025-11-02T00:00:00Z".into()),
        "date_as_date" => set("date", DateTime::from_millis(1_762_041_600_000).into()),
        "amount_as_string" => set("amount", "150.50".into()),
        "amount_with_separator" => set("amount", "1,200".into()),
        "null_amount" => set("amount", Bson::Null),
        "nan_amount" => set("amount", Bson::Double(f64::NAN)),
        "negative_amount" => set("amount", Bson::Double(-12.5)),
        "amount_overflow" => set("amount", Bson::Double(1e9)),
        "amount_with_more_places" => set("amount", Bson::Double(12.345)),
        "amount_with_float_noise" => set("amount", Bson::Double(0.1 + 0.2)),
        "business_absent" => drop(entry.remove("business")),
        "business_null" => set("business", Bson::Null),
        "business_too_long" => set("business", "b".repeat(256).into()),
        "category_in_other_case" => set("category", "fOOD".into()),
        "category_with_blanks" => set("category", " Food ".into()),
        "null_category" => set("category", Bson::Null),
        "account_in_other_case" => set("account", "cash".into()),
        "account_with_blanks" => set("account", "Bank ".into()),
        "account_as_number" => set("account", Bson::Int32(802)),
        "null_currency" => set("currency", Bson::Null),
        "missing_currency" => drop(entry.remove("currency")),
        "currency_as_code" => set("currency", "ILS".into()),
        "currency_too_long" => set("currency", "new shekels".into()),
        "notes_with_nul" => set("notes", "before\0after".into()),
        "notes_empty" => set("notes", "".into()),
        "unknown_field" => set("mood", "good".into()),
        _ => bail!("no entry of {} can be made for the kind {kind}", file.name()),
    }
    Ok(entry)
}

/// An entry with nothing odd.
pub(super) fn plain(file: File, number: i64) -> Document {
    let mut entry = doc! {
        "_id": object_id(number), "date": "2025-11-02", "category": "Food", "amount": 100.0, "account": "1683",
        "currency": "₪", "notes": "", "id": Bson::Int64(number),
    };
    if file == File::Expenses {
        entry.insert("business", "ampm");
    }
    entry
}

/// What `mongoimport --jsonArray` would make of a file: nothing at all of one that it cannot read.
pub(super) fn import(file: &[u8]) -> Result<Vec<Document>> {
    let text = std::str::from_utf8(file)?;
    let entries: Vec<serde_json::Map<String, serde_json::Value>> = serde_json::from_str(text)?;
    entries.into_iter().map(|entry| Ok(bson::serialize_to_document(&entry)?)).collect()
}

const BUSINESSES: &[&str] =
    &["ampm", "H&M", "Golda", "Keshet Teamim", "Railway", "Dog Groomer", "קפה", "O'Neill's"];
const CATEGORIES: &[&str] = &[
    "Food",
    "food",
    "Clothing",
    "Dinning out",
    "Commute",
    "Dog",
    "Home Gifts",
    "Groceries",
    "Updated Category",
];
const ACCOUNTS: &[&str] = &["1683", "0802", "Cash", "cash", "Bank", "8136"];
const NOTES: &[Option<&str>] =
    &[Some(""), None, Some(""), Some("Smoke Test 17"), Some("שתי שורות\nof two"), Some("\"quoted\"")];
