//! The rows that the entries must become, computed from the documents without a line of the product's code.

use anyhow::Result;
use bson::{Bson, Document};
use futures_util::TryStreamExt as _;

use super::documents::File;
use crate::systems::decimal::cents;
use crate::systems::scene::{Row, Rows, Scene, Table, row};

/// What must be in both tables, for the entries that are in MongoDB now. Of two with one number, the one with the
/// lower `_id` has the row.
pub(super) async fn tables(scene: &Scene) -> Result<Vec<Table>> {
    let mut tables = Vec::new();
    for file in File::BOTH {
        let found =
            scene.stage.collection(file.name()).find(bson::doc! {}).sort(bson::doc! { "_id": 1 }).await?;
        let entries: Vec<Document> = found.try_collect().await?;
        tables.push(table(file, &entries));
    }
    Ok(tables)
}

pub(super) fn table(file: File, entries: &[Document]) -> Table {
    let mut rows = Rows::new();
    for (id, row) in entries.iter().filter_map(|entry| expected(file, entry)) {
        rows.entry(id).or_insert(row);
    }
    let select = match file {
        File::Expenses => {
            "select id, date, business, category, amount, account, currency, notes, test_column from expenses"
        }
        File::Incomes => "select id, date, category, amount, account, currency, notes from incomes",
    };
    Table { name: file.name(), select, rows }
}

/// `None` for an entry that must be held.
pub(super) fn expected(file: File, entry: &Document) -> Option<(String, Row)> {
    let text = |field: &str| match entry.get(field) {
        Some(Bson::String(text)) => Some(text.clone()),
        _ => None,
    };
    let within = |text: String, limit: usize| (text.chars().count() <= limit).then_some(text);
    let trimmed = |field: &str| text(field).map(|text| text.trim().to_owned());

    let id = id(entry.get("id")?)?;
    let account = match entry.get("account")? {
        Bson::Int32(number) => number.to_string(),
        _ => trimmed("account")?,
    };
    let currency = match entry.get("currency") {
        None | Some(Bson::Null) => "₪".to_owned(),
        Some(_) => trimmed("currency")?,
    };
    let mut columns = row([
        ("date", Some(day(entry.get("date")?)?)),
        ("category", Some(within(trimmed("category")?, 100)?)),
        ("amount", Some(cents(entry.get("amount")?, 8)?)),
        ("account", Some(within(account, 100)?)),
        ("currency", Some(within(currency, 10)?)),
        ("notes", text("notes").map(|notes| notes.replace('\0', ""))),
    ]);
    if file == File::Expenses {
        let business = match text("business") {
            Some(name) => Some(within(name, 255)?),
            None => None,
        };
        columns.extend(row([("business", business), ("test_column", None)]));
    }
    Some((id, columns))
}

fn id(value: &Bson) -> Option<String> {
    let number = match value {
        Bson::Int32(number) => i64::from(*number),
        Bson::Int64(number) => *number,
        Bson::Double(number) if number.fract() == 0.0 => *number as i64,
        Bson::String(text) => text.parse().ok()?,
        _ => return None,
    };
    i32::try_from(number).ok().map(|number| number.to_string())
}

/// `2025-11-02`, with or without a time behind it, or `2/11/2025`.
fn day(value: &Bson) -> Option<String> {
    let text = match value {
        Bson::DateTime(moment) => moment.try_to_rfc3339_string().ok()?,
        Bson::String(text) => text.clone(),
        _ => return None,
    };
    let parts: Vec<&str> = match text.split_once('T') {
        Some((day, _)) => day.split('-').collect(),
        None if text.contains('/') => text.split('/').rev().collect(),
        None => text.split('-').collect(),
    };
    let [year, month, day] = parts[..] else { return None };
    let (month, day): (u32, u32) = (month.parse().ok()?, day.parse().ok()?);
    let exists = year.len() == 4 && (1..=12).contains(&month) && (1..=31).contains(&day);
    exists.then(|| format!("{year}-{month:02}-{day:02}"))
}
