//! The tracker's documents: those of tests/support, whose shapes are the application's, with its users; and one of
//! each kind of bad data.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use bson::oid::ObjectId;
use bson::{Bson, Document, doc};

use crate::support::expenses::{Collection, Expenses};

pub(super) const VENMO: &str = "venmo_raw_data";
pub(super) const SPLITWISE: &str = "splitwise_raw_data";
pub(super) const STRIPE: &str = "stripe_raw_transaction_data";
pub(super) const CASH: &str = "cash_raw_data";
pub(super) const ACCOUNTS: &str = "accounts";
pub(super) const USERS: &str = "users";
pub(super) const LINE_ITEMS: &str = "line_items";
pub(super) const EVENTS: &str = "events";

/// In the order in which the application fills them.
pub(super) const COLLECTIONS: [&str; 8] =
    [VENMO, SPLITWISE, STRIPE, CASH, ACCOUNTS, USERS, LINE_ITEMS, EVENTS];

/// What the application's set-up puts into `categories`.
pub(super) const CATEGORIES: [&str; 15] = [
    "Alcohol",
    "Dining",
    "Entertainment",
    "Forma",
    "Groceries",
    "Hobbies",
    "Income",
    "Investment",
    "Medical",
    "Rent",
    "Shopping",
    "Subscription",
    "Transfer",
    "Transit",
    "Travel",
];

/// The documents of each collection, in the order of their `_id`s.
pub(super) type Documents = BTreeMap<&'static str, Vec<Document>>;

/// About `count` in all.
pub(super) fn generate(seed: u64, count: usize, users: usize) -> Documents {
    let expenses = Expenses::generate(seed, count);
    let mut documents: Documents = Collection::ALL
        .into_iter()
        .map(|collection| (collection.name(), expenses.of(collection).to_vec()))
        .collect();
    for (place, event) in documents.entry(EVENTS).or_default().iter_mut().enumerate() {
        // "All" is a filter of the page, "N/A" was cleaned up.
        let category = event.get_str("category").unwrap_or_default();
        if !CATEGORIES.contains(&category) {
            event.insert("category", CATEGORIES[place % CATEGORIES.len()]);
        }
    }
    documents.insert(USERS, (0..users as u64).map(user).collect());
    documents
}

pub(super) fn object_id(number: u64) -> ObjectId {
    let mut bytes = [0x66; 12];
    bytes[4..].copy_from_slice(&number.to_be_bytes());
    ObjectId::from_bytes(bytes)
}

pub(super) fn user(number: u64) -> Document {
    doc! {
        "_id": object_id(number),
        "first_name": "Ana",
        "last_name": format!("Ünal {number}"),
        "email": format!("user{number}@example.org"),
        "password_hash": "$2b$12$0123456789012345678901",
    }
}

pub(super) fn venmo(id: &str) -> Document {
    doc! {
        "_id": id, "id": id, "date_created": 1_740_000_000, "payment_type": "pay", "amount": 12.5, "note": "🍕",
        "status": "settled", "actor": { "first_name": "Ana" }, "target": { "first_name": "Jo" }, "comments": [],
    }
}

pub(super) fn splitwise(id: i64) -> Document {
    doc! {
        "_id": id, "id": id, "description": "Dinner", "cost": "12.30", "currency_code": "USD",
        "date": "2025-02-20T10:00:00Z", "deleted_at": Bson::Null, "users": [{ "first_name": "Ana" }],
    }
}

pub(super) fn stripe(id: &str) -> Document {
    doc! {
        "_id": id, "id": id, "account": "fca_1", "amount": -1234, "currency": "usd", "description": "SHOP",
        "status": "posted", "transacted_at": 1_740_000_000,
    }
}

pub(super) fn cash(id: ObjectId) -> Document {
    doc! { "_id": id, "date": 1_740_009_600.0, "person": "Ana", "description": "Market", "amount": 20.0 }
}

/// Of the Venmo payment with this id.
pub(super) fn line_item(venmo: &str) -> Document {
    let id = format!("line_item_{venmo}");
    doc! {
        "_id": &id, "id": &id, "date": 1_740_000_000.0, "responsible_party": "Jo ", "payment_method": "Venmo",
        "description": "Pizza", "amount": 12.5,
    }
}

pub(super) fn event(id: &str, line_items: &[&str]) -> Document {
    doc! {
        "_id": id, "id": id, "name": "Dinner", "category": "Dining", "date": 1_740_000_000.0, "line_items": line_items,
        "is_duplicate_transaction": false, "amount": 12.5, "tags": ["trip"],
    }
}

pub(super) fn account(id: &str, name: &str) -> Document {
    doc! {
        "_id": id, "id": id, "object": "financial_connections.account", "category": "cash", "subcategory": "checking",
        "display_name": name, "institution_name": "Ally", "last4": "1234", "status": "active",
    }
}

/// What has to be inserted for a kind of bad data: documents by their collection, the bad one last.
pub(super) type Made = Vec<(&'static str, Document)>;

/// `source` and `kind` as `bad_data.md` has them. `number` tells one from the other.
pub(super) fn bad(source: &str, kind: &str, number: u64) -> Result<Made> {
    let made = match source {
        "venmo" | "splitwise" | "stripe" | "cash" => raw(source, kind, number)?,
        "line_items" => bad_line_item(kind, number)?,
        "events" => bad_event(kind, number)?,
        "bank_accounts" | "payment_methods" => bad_account(kind, number)?,
        "users" => bad_user(kind, number)?,
        _ => bail!("there is no source {source}"),
    };
    Ok(made)
}

fn raw(source: &str, kind: &str, number: u64) -> Result<Made> {
    let text_id = format!("{}", 5_000_000_000_000_000_000 + number);
    let (collection, date, mut document) = match source {
        "venmo" => (VENMO, "date_created", venmo(&text_id)),
        "splitwise" => (SPLITWISE, "date", splitwise(4_000_000_000 + number as i64)),
        "stripe" => (STRIPE, "transacted_at", stripe(&format!("fctxn_bad_{number}"))),
        _ => (CASH, "date", cash(object_id(1_000_000 + number))),
    };
    let mut before = Made::new();
    let mut set = |field: &str, value: Bson| drop(document.insert(field, value));
    match kind {
        "missing_date" => drop(document.remove(date)),
        "null_date" => set(date, Bson::Null),
        "date_as_string" => set(date, "2025-02-20T10:00:00+02:00".into()),
        "date_in_milliseconds" => set(date, Bson::Int64(1_740_000_000_000)),
        "negative_date" => set(date, Bson::Int32(-86_399)),
        "invalid_date" => set(date, "2025-02-30T10:00:00Z".into()),
        "date_not_a_date" => set(date, doc! { "seconds": 1 }.into()),
        "nan_date" => set(date, Bson::Double(f64::NAN)),
        "date_with_fraction" if source == "splitwise" => set(date, "2025-02-20T10:00:00.125Z".into()),
        "date_with_fraction" => set(date, Bson::Double(1_740_000_000.5)),
        "date_without_zone" => set(date, "2025-02-20T10:00:00".into()),
        "amount_as_string" => set("amount", "$12.50".into()),
        "amount_with_separator" => set("amount", "1,200.00".into()),
        "nan_amount" => set("amount", Bson::Double(f64::NAN)),
        "amount_not_integer" => set("amount", Bson::Double(-1234.5)),
        "amount_overflow" => set("amount", Bson::Double(1e300)),
        "dangling_account" => set("account", "fca_nobody".into()),
        "unknown_status" => set("status", "pondering".into()),
        "deleted_later" => set("deleted_at", "2025-03-01T00:00:00Z".into()),
        "foreign_currency" => {
            set("currency", "ils".into());
            set("currency_code", "ILS".into());
        }
        "users_missing_me" => set("users", Bson::Array(vec![])),
        "nul_char" => set("description", "before\0after".into()),
        "same_id_in_two_sources" => {
            before.push((SPLITWISE, splitwise(text_id.parse()?)));
        }
        _ => bail!("no document of {source} can be made for the kind {kind}"),
    }
    before.push((collection, document));
    Ok(before)
}

fn bad_line_item(kind: &str, number: u64) -> Result<Made> {
    let payment = format!("{}", 6_000_000_000_000_000_000 + number);
    let mut item = line_item(&payment);
    let mut before: Made = vec![(VENMO, venmo(&payment))];
    let mut set = |field: &str, value: Bson| drop(item.insert(field, value));
    match kind {
        "orphan_line_item" => before.clear(),
        "orphan_of_unknown_shape" => {
            before.clear();
            set("_id", format!("typed_in_{number}").into());
        }
        "legacy_object_id" => {
            let id = object_id(2_000_000 + number);
            before = vec![(CASH, cash(id))];
            set("_id", id.into());
            item.remove("id");
        }
        "id_differs_from__id" => set("id", "line_item_of_something_else".into()),
        "unknown_payment_method" => set("payment_method", "cash".into()),
        "payment_method_with_blank" => set("payment_method", "VENMO ".into()),
        "missing_payment_method" => drop(item.remove("payment_method")),
        "null_payment_method" => set("payment_method", Bson::Null),
        "missing_amount" => drop(item.remove("amount")),
        "missing_date" => drop(item.remove("date")),
        "missing_description" => drop(item.remove("description")),
        "null_description" => set("description", Bson::Null),
        "empty_description" => set("description", "".into()),
        "wrong_type" => set("description", Bson::Int32(42)),
        "amount_overflow" => set("amount", Bson::Double(1e12)),
        "amount_not_numeric" => set("amount", "a lot".into()),
        "amount_as_string" => set("amount", "12.50".into()),
        "amount_with_currency" => set("amount", "$12.50".into()),
        "decimal_amount" => set("amount", Bson::Decimal128("12.345".parse()?)),
        "nan_amount" => set("amount", Bson::Double(f64::NAN)),
        "zero_amount" => set("amount", Bson::Int32(0)),
        "amount_with_float_noise" => set("amount", Bson::Double(12.600_000_000_000_001)),
        "future_date" => set("date", Bson::Int64(4_102_444_800)),
        "date_as_string" => set("date", "2025-02-20".into()),
        "dangling_event_id" => set("event_id", "event_nobody".into()),
        "responsible_party_with_blank" => set("responsible_party", "Ana Jo ".into()),
        "nul_char" => set("description", "before\0after".into()),
        _ => bail!("no line item can be made for the kind {kind}"),
    }
    before.push((LINE_ITEMS, item));
    Ok(before)
}

fn bad_event(kind: &str, number: u64) -> Result<Made> {
    let payment = format!("{}", 7_000_000_000_000_000_000 + number);
    let item = line_item(&payment);
    let item_id = item.get_str("_id")?.to_owned();
    let mut event = event(&format!("event_bad_{number}"), &[&item_id]);
    let mut set = |field: &str, value: Bson| drop(event.insert(field, value));
    match kind {
        "unknown_category" => set("category", "N/A".into()),
        "missing_category" => drop(event.remove("category")),
        "dangling_line_item" => set("line_items", vec![item_id.as_str(), "line_item_nobody"].into()),
        "duplicate_line_item" => set("line_items", vec![item_id.as_str(), item_id.as_str()].into()),
        "no_line_items" => set("line_items", Bson::Array(vec![])),
        "missing_line_items" => drop(event.remove("line_items")),
        "line_items_not_array" => set("line_items", item_id.as_str().into()),
        "tags_not_array" => set("tags", "trip".into()),
        "missing_tags" => drop(event.remove("tags")),
        "duplicate_tag" => set("tags", vec!["trip", "trip"].into()),
        "tag_wrong_type" => set("tags", Bson::Array(vec!["trip".into(), Bson::Int32(5), Bson::Null])),
        "invalid_date" => set("date", "soon".into()),
        "missing_date" => drop(event.remove("date")),
        "amount_mismatch" => set("amount", Bson::Double(-1.0)),
        "missing_name" => drop(event.remove("name")),
        "null_name" => set("name", Bson::Null),
        "nul_char" => set("name", "before\0after".into()),
        "is_duplicate_empty" => set("is_duplicate_transaction", "".into()),
        "is_duplicate_wrong_type" => set("is_duplicate_transaction", "maybe".into()),
        _ => bail!("no event can be made for the kind {kind}"),
    }
    Ok(vec![(VENMO, venmo(&payment)), (LINE_ITEMS, item), (EVENTS, event)])
}

fn bad_account(kind: &str, number: u64) -> Result<Made> {
    let name = format!("Account of kind {kind}");
    let mut account = account(&format!("fca_{kind}_{number}"), &name);
    let mut before = Made::new();
    let mut set = |field: &str, value: Bson| drop(account.insert(field, value));
    match kind {
        "missing_required" => drop(account.remove("institution_name")),
        "null_required" => set("display_name", Bson::Null),
        "last4_too_long" => set("last4", "12345".into()),
        "unknown_account_category" => {
            set("category", "investment".into());
            set("subcategory", "brokerage".into());
        }
        "unknown_status" => set("status", "pondering".into()),
        "duplicate_natural_key" => {
            before.push((ACCOUNTS, self::account(&format!("fca_{kind}_{number}_again"), &name)))
        }
        _ => bail!("no account can be made for the kind {kind}"),
    }
    before.push((ACCOUNTS, account));
    Ok(before)
}

fn bad_user(kind: &str, number: u64) -> Result<Made> {
    let mut user = user(3_000_000 + number);
    match kind {
        "missing_required" => drop(user.remove("email")),
        "null_required" => drop(user.insert("last_name", Bson::Null)),
        "duplicate_natural_key" => drop(user.insert("email", "user0@example.org")),
        _ => bail!("no user can be made for the kind {kind}"),
    }
    Ok(vec![(USERS, user)])
}

/// The same document with nothing bad about it.
pub(super) fn repaired(collection: &str, bad: &Document) -> Result<Document> {
    let id = bad.get("_id").context("no _id")?;
    let text = id.as_str().unwrap_or_default();
    let mut good = match collection {
        VENMO => venmo(text),
        SPLITWISE => splitwise(1),
        STRIPE => stripe(text),
        CASH => cash(ObjectId::new()),
        LINE_ITEMS => line_item(text),
        EVENTS => event(text, &[]),
        ACCOUNTS => account(text, &format!("Repaired {text}")),
        USERS => user(u64::from_be_bytes(id.as_object_id().context("an id")?.bytes()[4..].try_into()?)),
        _ => bail!("there is no collection {collection}"),
    };
    good.insert("_id", id.clone());
    Ok(good)
}
