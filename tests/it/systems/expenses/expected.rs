//! The rows, child rows and pairs that the documents must become, computed from what is in MongoDB without a line of
//! the product's code. What a row is known by is its key in MongoDB, never an id that rowstream makes.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use bson::{Bson, Document, doc};
use futures_util::TryStreamExt as _;

use super::documents::{
    ACCOUNTS, CASH, CATEGORIES, COLLECTIONS, Documents, EVENTS, LINE_ITEMS, SPLITWISE, STRIPE, USERS, VENMO,
};
use crate::oracle;
use crate::systems::decimal::cents;
use crate::systems::moment;
use crate::systems::scene::{Row, Rows, Scene, Table, canonical, row};

pub(super) const TRANSACTIONS: &str =
    "select source || ':' || source_id as key, source_data, transaction_date from transactions";
pub(super) const LINE_ITEM_ROWS: &str =
    "select item.mongo_id as key, transaction.source || ':' || transaction.source_id as transaction, item.date,
            item.amount, item.description, method.name as payment_method, item.responsible_party, item.notes
     from line_items as item
     join transactions as transaction on transaction.id = item.transaction_id
     join payment_methods as method on method.id = item.payment_method_id";
const EVENT_ROWS: &str =
    "select event.mongo_id as key, event.date, event.description, category.name as category,
            event.is_duplicate
     from events as event join categories as category on category.id = event.category_id";
const PAIRS: &str = "select event.mongo_id || ' ' || item.mongo_id as key
     from event_line_items as pair join events as event on event.id = pair.event_id
     join line_items as item on item.id = pair.line_item_id";
const TAGS_OF_EVENTS: &str = "select event.mongo_id || ' ' || tag.name as key
     from event_tags as pair join events as event on event.id = pair.event_id join tags as tag on tag.id = pair.tag_id";
const METHODS: &str = "select name as key, type, external_id, aliases, is_active from payment_methods";
const BANK_ACCOUNTS: &str =
    "select mongo_id as key, id, institution_name, display_name, last4, status from bank_accounts";
const USER_ROWS: &str = "select mongo_id as key, first_name, last_name, email, password_hash from users";

/// What is in MongoDB now.
pub(super) async fn found(scene: &Scene) -> Result<Documents> {
    let mut documents = Documents::new();
    for collection in COLLECTIONS {
        let found = scene.stage.collection(collection).find(doc! {}).sort(doc! { "_id": 1 }).await?;
        documents.insert(collection, found.try_collect().await?);
    }
    Ok(documents)
}

pub(super) async fn tables(scene: &Scene) -> Result<Vec<Table>> {
    let documents = found(scene).await?;
    expected(&documents)
}

pub(super) fn expected(documents: &Documents) -> Result<Vec<Table>> {
    let of = |collection: &str| documents.get(collection).map_or(&[][..], Vec::as_slice);
    let mut transactions = Rows::new();
    for (collection, source, date) in [
        (VENMO, "venmo", "date_created"),
        (SPLITWISE, "splitwise", "date"),
        (STRIPE, "stripe", "transacted_at"),
        (CASH, "cash", "date"),
    ] {
        for document in of(collection) {
            if let Some(row) = transaction(document, date)? {
                transactions.insert(format!("{source}:{}", plain(document)), row);
            }
        }
    }
    let mut methods = payment_methods(of(ACCOUNTS));
    let mut line_items = Rows::new();
    for document in of(LINE_ITEMS) {
        let Some(mut item) = line_item(document) else { continue };
        let known = document.get_str("payment_method").is_ok_and(|name| methods.contains_key(name));
        if !known {
            item.insert("payment_method".into(), Some("Unknown".into()));
            methods.insert("Unknown".into(), method("cash", None, None, true));
        }
        let key = match candidates(document).into_iter().find(|key| transactions.contains_key(key)) {
            Some(key) => key,
            None => {
                let key = format!("manual:manual_line_item_{}", rest(document));
                if let Some(row) = transaction(document, "date")? {
                    transactions.insert(key.clone(), row);
                }
                key
            }
        };
        item.insert("transaction".into(), Some(key));
        line_items.insert(mongo_id(document), item);
    }
    let (mut events, mut pairs, mut tags) = (Rows::new(), Rows::new(), Rows::new());
    for document in of(EVENTS) {
        let Some(event) = event(document) else { continue };
        let key = mongo_id(document);
        let listed = document.get_array("line_items").map_or(&[][..], Vec::as_slice);
        for item in listed.iter().filter_map(Bson::as_str).filter(|item| line_items.contains_key(*item)) {
            pairs.insert(format!("{key} {item}"), Row::new());
        }
        let one = |value: &Bson| vec![value.clone()];
        let listed = match document.get("tags") {
            Some(Bson::Array(tags)) => tags.clone(),
            other => other.map(one).unwrap_or_default(),
        };
        for tag in listed.iter().filter_map(Bson::as_str) {
            tags.insert(format!("{key} {tag}"), Row::new());
        }
        events.insert(key, event);
    }
    let table = |name, select, rows| Table { name, select, rows };
    Ok(vec![
        table("transactions", TRANSACTIONS, transactions),
        table("payment_methods", METHODS, methods),
        table("bank_accounts", BANK_ACCOUNTS, of(ACCOUNTS).iter().filter_map(bank_account).collect()),
        table("users", USER_ROWS, users(of(USERS))),
        table("line_items", LINE_ITEM_ROWS, line_items),
        table("events", EVENT_ROWS, events),
        table("event_line_items", PAIRS, pairs),
        table("event_tags", TAGS_OF_EVENTS, tags),
    ])
}

/// As the table has it where it is of the mapping's own type.
fn plain(document: &Document) -> String {
    match document.get("_id") {
        Some(Bson::String(id)) => id.clone(),
        Some(Bson::Int64(id)) => id.to_string(),
        Some(Bson::Int32(id)) => id.to_string(),
        Some(Bson::ObjectId(id)) => id.to_hex(),
        _ => String::new(),
    }
}

/// Of a collection whose ids are text.
fn mongo_id(document: &Document) -> String {
    match document.get("_id") {
        Some(Bson::ObjectId(id)) => format!("$oid:{}", id.to_hex()),
        _ => plain(document),
    }
}

fn rest(document: &Document) -> String {
    let id = plain(document);
    id.strip_prefix("line_item_").map_or(id.clone(), str::to_owned)
}

/// The transactions that a line item may be of, in order. The same number can be an id in two of them.
fn candidates(document: &Document) -> Vec<String> {
    let id = rest(document);
    let mut keys = vec![format!("venmo:{id}")];
    if id.parse::<i64>().is_ok_and(|number| number.to_string() == id) {
        keys.push(format!("splitwise:{id}"));
    }
    keys.push(format!("stripe:{id}"));
    if id.len() == 24 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        keys.push(format!("cash:{id}"));
    }
    keys
}

fn date(value: Option<&Bson>) -> Option<String> {
    let seconds = |number: f64| number.is_finite().then(|| (number * 1e6).round() as i64);
    let microseconds = match value? {
        Bson::Int32(number) => i64::from(*number) * 1_000_000,
        Bson::Int64(number) => number.checked_mul(1_000_000)?,
        Bson::Double(number) => seconds(*number)?,
        Bson::DateTime(moment) => moment.timestamp_millis() * 1000,
        Bson::String(text) => moment::parse(text)?,
        _ => return None,
    };
    Some(moment::text(microseconds))
}

fn without_nul(text: &str) -> String {
    text.replace('\0', "")
}

/// `Ok(None)` for a document that must be held.
fn transaction(document: &Document, field: &str) -> Result<Option<Row>> {
    let Some(date) = date(document.get(field)) else { return Ok(None) };
    let mut data = document.clone();
    data.remove("_id");
    // A NUL is written as an escape in JSON, and so can be taken out of the text of the whole.
    let json = canonical(&oracle::json(&data).to_string().replace("\\u0000", ""))?;
    Ok(Some(row([("source_data", Some(json)), ("transaction_date", Some(date))])))
}

fn method(kind: &str, external_id: Option<String>, aliases: Option<String>, is_active: bool) -> Row {
    row([
        ("type", Some(kind.to_owned())),
        ("external_id", external_id),
        ("aliases", aliases),
        ("is_active", Some(if is_active { "t" } else { "f" }.to_owned())),
    ])
}

/// Several accounts are one payment method: the first in the order of `_id`s says what it is.
fn payment_methods(accounts: &[Document]) -> Rows {
    let mut by_name: BTreeMap<String, Vec<&Document>> = BTreeMap::new();
    for account in accounts {
        if let Ok(name) = account.get_str("display_name") {
            by_name.entry(name.to_owned()).or_default().push(account);
        }
    }
    let mut methods: Rows = by_name
        .into_iter()
        .map(|(name, accounts)| {
            let credit = accounts[0].get_str("subcategory").is_ok_and(|kind| kind == "credit_card");
            let ids: BTreeSet<String> = accounts.iter().map(|account| plain(account)).collect();
            let quoted: Vec<String> = ids.iter().map(|id| format!("{id:?}")).collect();
            let active = accounts[0].get_str("status").is_ok_and(|status| status == "active");
            let kind = if credit { "credit" } else { "bank" };
            (name, method(kind, Some(plain(accounts[0])), Some(format!("[{}]", quoted.join(","))), active))
        })
        .collect();
    for (name, kind) in [("Venmo", "venmo"), ("Splitwise", "splitwise"), ("Cash", "cash")] {
        methods.insert(name.to_owned(), method(kind, None, None, true));
    }
    methods
}

fn bank_account(account: &Document) -> Option<(String, Row)> {
    let text = |field: &str| account.get_str(field).ok().map(str::to_owned);
    let last4 = text("last4").filter(|digits| digits.chars().count() <= 4)?;
    let columns = row([
        ("id", Some(plain(account))),
        ("institution_name", Some(text("institution_name")?)),
        ("display_name", Some(text("display_name")?)),
        ("last4", Some(last4)),
        ("status", Some(text("status")?)),
    ]);
    Some((plain(account), columns))
}

/// Of two with one address, the one with the lower `_id` has it.
fn users(documents: &[Document]) -> Rows {
    let mut addresses = BTreeSet::new();
    let mut rows = Rows::new();
    for user in documents {
        let text = |field: &str| user.get_str(field).ok().map(str::to_owned);
        let columns = ["first_name", "last_name", "email", "password_hash"].map(|name| (name, text(name)));
        let complete = columns.iter().all(|(_, value)| value.is_some());
        if complete && addresses.insert(columns[2].1.clone()) {
            rows.insert(plain(user), row(columns));
        }
    }
    rows
}

/// Without its transaction. `None` for one that must be held.
fn line_item(document: &Document) -> Option<Row> {
    let text = |field: &str| document.get_str(field).ok().map(str::to_owned);
    let description = match document.get("description") {
        None | Some(Bson::Null) => String::new(),
        Some(Bson::String(text)) => without_nul(text),
        Some(_) => return None,
    };
    Some(row([
        ("date", Some(date(document.get("date"))?)),
        ("amount", Some(cents(document.get("amount")?, 10)?)),
        ("description", Some(description)),
        ("payment_method", Some(text("payment_method")?)),
        ("responsible_party", text("responsible_party")),
        ("notes", text("notes")),
    ]))
}

fn event(document: &Document) -> Option<Row> {
    let category = document.get_str("category").ok().filter(|name| CATEGORIES.contains(name))?;
    let is_duplicate = match document.get("is_duplicate_transaction") {
        None | Some(Bson::Null) => false,
        Some(Bson::String(text)) if text.is_empty() => false,
        Some(Bson::Boolean(value)) => *value,
        Some(_) => return None,
    };
    let name = match document.get("name") {
        None | Some(Bson::Null) => String::new(),
        Some(Bson::String(text)) => without_nul(text),
        Some(_) => return None,
    };
    match document.get("line_items") {
        None | Some(Bson::Null | Bson::Array(_)) => {}
        Some(_) => return None,
    }
    Some(row([
        ("date", Some(date(document.get("date"))?)),
        ("description", Some(name)),
        ("category", Some(category.to_owned())),
        ("is_duplicate", Some(if is_duplicate { "t" } else { "f" }.to_owned())),
    ]))
}

/// Whether the oracle expects a row of this source for a document.
pub(super) fn has_row(source: &str, document: &Document) -> Result<bool> {
    Ok(match source {
        "venmo" => transaction(document, "date_created")?.is_some(),
        "stripe" => transaction(document, "transacted_at")?.is_some(),
        "splitwise" | "cash" => transaction(document, "date")?.is_some(),
        "line_items" => line_item(document).is_some(),
        "events" => event(document).is_some(),
        "bank_accounts" => bank_account(document).is_some(),
        "payment_methods" => document.get_str("display_name").is_ok(),
        "users" => users(std::slice::from_ref(document)).len() == 1,
        _ => anyhow::bail!("there is no source {source}"),
    })
}

/// The key under which a document of this source is held.
pub(super) fn held_key(source: &str, document: &Document) -> (String, String) {
    let id = if source == "line_items" || source == "events" { mongo_id(document) } else { plain(document) };
    (source.to_owned(), id)
}
