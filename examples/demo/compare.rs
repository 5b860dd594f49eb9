//! Every document beside its row, field by field, by rules written here a second time: rowstream's own code is
//! what is being judged.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result, bail};
use bson::{Bson, Document};
use futures_util::TryStreamExt as _;
use serde_json::{Map, Number, Value, json};
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

use crate::expenses::Collection;
use crate::progress::grouped;
use crate::sides::{Sides, table_exists};

/// What was found.
#[derive(Debug)]
pub(crate) struct Verdict(Vec<Compared>);

#[derive(Debug)]
struct Compared {
    collection: Collection,
    documents: usize,
    rows: usize,
    fields: usize,
    differences: Vec<String>,
}

impl Verdict {
    pub(crate) fn is_equal(&self) -> bool {
        self.0.iter().all(|compared| compared.differences.is_empty())
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 5;
        writeln!(f, "    {:<12}{:>11}{:>11}{:>11}{:>13}", "", "documents", "rows", "fields", "differences")?;
        for compared in &self.0 {
            let mark = if compared.differences.is_empty() { '✓' } else { '✗' };
            let number = |count: usize| grouped(count as i64);
            writeln!(
                f,
                "  {mark} {:<12}{:>11}{:>11}{:>11}{:>13}",
                compared.collection.source(),
                number(compared.documents),
                number(compared.rows),
                number(compared.fields),
                number(compared.differences.len()),
            )?;
        }
        writeln!(f)?;
        for compared in self.0.iter().filter(|compared| !compared.differences.is_empty()) {
            for difference in compared.differences.iter().take(SHOWN) {
                writeln!(f, "  ✗ {} {difference}", compared.collection)?;
            }
            if compared.differences.len() > SHOWN {
                writeln!(f, "    and {} more", compared.differences.len() - SHOWN)?;
            }
        }
        let verdict = if self.is_equal() { "both sides are equal" } else { "the two sides differ" };
        writeln!(f, "{verdict}")
    }
}

pub(crate) async fn compare(sides: &Sides) -> Result<Verdict> {
    let mut postgres = sides.postgres().await?;
    let mut verdict = Vec::new();
    for collection in Collection::ALL {
        let documents: Vec<Document> =
            sides.mongodb.collection(collection.name()).find(bson::doc! {}).await?.try_collect().await?;
        let mut rows = if collection.is_transaction() {
            transactions(&mut postgres, collection).await?
        } else {
            whole_documents(&mut postgres, collection).await?
        };
        let mut compared = Compared {
            collection,
            documents: documents.len(),
            rows: rows.len(),
            fields: 0,
            differences: Vec::new(),
        };
        for document in documents {
            let expected = Row::expected(collection, document)?;
            match rows.remove(&expected.source_id) {
                None => compared.differences.push(format!("{}: has no row", expected.source_id)),
                Some(row) => {
                    compared.fields += expected.fields();
                    compared.differences.extend(expected.differences(&row));
                }
            }
        }
        compared
            .differences
            .extend(rows.keys().map(|source_id| format!("{source_id}: a row without a document")));
        verdict.push(compared);
    }
    Ok(Verdict(verdict))
}

/// A row, as it is or as it should be.
#[derive(Debug)]
struct Row {
    source: String,
    source_id: String,
    /// The columns that only `transactions` has.
    transaction: Option<Transaction>,
    document: Value,
}

#[derive(Debug)]
struct Transaction {
    /// Its length and alphabet can be checked, its value is rowstream's own. Empty where it is expected.
    id: String,
    /// Microseconds since 1970.
    date: i64,
}

impl Row {
    fn expected(collection: Collection, mut document: Document) -> Result<Self> {
        let id = document.get("_id").context("a document without _id")?.clone();
        let source_id = match id {
            Bson::String(text) => text,
            Bson::Int64(number) => number.to_string(),
            Bson::ObjectId(id) => id.to_hex(),
            other => bail!("an _id of a type that the demo does not write: {other:?}"),
        };
        let transaction = if collection.is_transaction() {
            document.remove("_id");
            Some(Transaction { id: String::new(), date: date_of(collection, &document)? })
        } else {
            None
        };
        let document = extended_json(Bson::Document(document))?;
        Ok(Self { source: collection.source().into(), source_id, transaction, document })
    }

    /// How many are compared: columns, and fields of the document however deep.
    fn fields(&self) -> usize {
        let columns = if self.transaction.is_some() { 4 } else { 2 };
        columns + leaves(&self.document)
    }

    fn differences(&self, found: &Self) -> Vec<String> {
        let mut differences = Vec::new();
        let mut note = |column: &str, is: &dyn fmt::Display, should_be: &dyn fmt::Display| {
            differences.push(format!("{}: {column} is {is}, should be {should_be}", self.source_id));
        };
        if found.source != self.source {
            note("source", &found.source, &self.source);
        }
        if let (Some(expected), Some(found)) = (&self.transaction, &found.transaction) {
            if found.date != expected.date {
                note("transaction_date", &shown(found.date), &shown(expected.date));
            }
            let rest = found.id.strip_prefix("txn_").unwrap_or_default();
            // A ULID's text: 26 of Crockford's letters and digits.
            let is_ulid = rest.len() == 26 && rest.bytes().all(|b| b.is_ascii_alphanumeric());
            if !is_ulid {
                note("id", &found.id, &"txn_ and 26 letters and digits");
            }
        }
        let column = if self.transaction.is_some() { "source_data" } else { "document" };
        differing(column, &self.document, &found.document, &mut note);
        differences
    }
}

async fn transactions(postgres: &mut PgConnection, collection: Collection) -> Result<BTreeMap<String, Row>> {
    let rows: Vec<(String, String, String, i64)> = sqlx::query_as(
        "select id, source_id, source_data::text, (extract(epoch from transaction_date) * 1000000)::bigint \
         from transactions where source::text = $1",
    )
    .bind(collection.source())
    .fetch_all(postgres)
    .await?;
    let rows = rows.into_iter().map(|(id, source_id, document, date)| {
        let document = read_json(&document)?;
        let transaction = Some(Transaction { id, date });
        Ok((source_id.clone(), Row { source: collection.source().into(), source_id, transaction, document }))
    });
    rows.collect()
}

async fn whole_documents(
    postgres: &mut PgConnection,
    collection: Collection,
) -> Result<BTreeMap<String, Row>> {
    if !table_exists(postgres, collection).await? {
        return Ok(BTreeMap::new());
    }
    let sql = format!("select source::text, source_id, document::text from {}", collection.source());
    let rows: Vec<(String, String, String)> = sqlx::query_as(AssertSqlSafe(sql)).fetch_all(postgres).await?;
    let rows = rows.into_iter().map(|(source, source_id, document)| {
        let document = read_json(&document)?;
        Ok((source_id.clone(), Row { source, source_id, transaction: None, document }))
    });
    rows.collect()
}

/// When the transaction took place, in microseconds: each service says it in its own way.
fn date_of(collection: Collection, document: &Document) -> Result<i64> {
    let seconds = |field: &str| match document.get(field) {
        Some(Bson::Int32(seconds)) => Ok(i64::from(*seconds) * 1_000_000),
        Some(Bson::Int64(seconds)) => Ok(seconds * 1_000_000),
        Some(Bson::Double(seconds)) => Ok((seconds * 1e6).round() as i64),
        other => bail!("{field} is {other:?}"),
    };
    match collection {
        Collection::Venmo => seconds("date_created"),
        Collection::Stripe => seconds("transacted_at"),
        Collection::Cash => seconds("date"),
        Collection::Splitwise => {
            let text = document.get_str("date")?;
            Ok(bson::DateTime::parse_rfc3339_str(text)?.timestamp_millis() * 1000)
        }
        Collection::Accounts | Collection::LineItems | Collection::Events => {
            bail!("{collection} has no such date")
        }
    }
}

/// MongoDB's relaxed extended JSON (v2), for the types that the demo writes.
fn extended_json(value: Bson) -> Result<Value> {
    Ok(match value {
        Bson::Null => Value::Null,
        Bson::Boolean(value) => Value::Bool(value),
        Bson::String(text) => Value::String(text),
        Bson::Int32(number) => number.into(),
        Bson::Int64(number) => number.into(),
        Bson::Double(number) => match Number::from_f64(number) {
            Some(number) => Value::Number(number),
            None => bail!("a double that the demo does not write: {number}"),
        },
        Bson::ObjectId(id) => json!({ "$oid": id.to_hex() }),
        Bson::Array(elements) => {
            Value::Array(elements.into_iter().map(extended_json).collect::<Result<Vec<Value>>>()?)
        }
        Bson::Document(document) => Value::Object(
            document
                .into_iter()
                .map(|(name, value)| Ok((name, extended_json(value)?)))
                .collect::<Result<Map<String, Value>>>()?,
        ),
        other => bail!("a value of a type that the demo does not write: {other:?}"),
    })
}

/// Notes every place in which the two differ. Numbers are their values: 12 and 12.0 are one.
fn differing(
    path: &str,
    expected: &Value,
    found: &Value,
    note: &mut impl FnMut(&str, &dyn fmt::Display, &dyn fmt::Display),
) {
    match (expected, found) {
        (Value::Object(expected), Value::Object(found)) => {
            for (name, value) in expected {
                match found.get(name) {
                    Some(found) => differing(&format!("{path}.{name}"), value, found, note),
                    None => note(&format!("{path}.{name}"), &"absent", value),
                }
            }
            for (name, value) in found.iter().filter(|(name, _)| !expected.contains_key(*name)) {
                note(&format!("{path}.{name}"), value, &"absent");
            }
        }
        (Value::Array(expected), Value::Array(found)) if expected.len() == found.len() => {
            for (index, (expected, found)) in expected.iter().zip(found).enumerate() {
                differing(&format!("{path}.{index}"), expected, found, note);
            }
        }
        (Value::Number(expected), Value::String(found)) if is_number(found, expected) => {}
        (expected, Value::String(found)) if found.starts_with(NUMBER) => {
            note(path, &&found[NUMBER.len_utf8()..], expected);
        }
        _ if expected == found => {}
        _ => note(path, found, expected),
    }
}

/// Begins the text of a number. No string in a jsonb has this character.
const NUMBER: char = '\0';

/// JSON with its numbers left as text, since serde_json's own reading of them may be off in the last place.
fn read_json(text: &str) -> Result<Value> {
    let mut quoted = String::with_capacity(text.len() + text.len() / 4);
    let (mut in_string, mut escaped, mut in_number) = (false, false, false);
    for c in text.chars() {
        let of_number = !in_string && matches!(c, '-' | '+' | '.' | '0'..='9' | 'e' | 'E');
        // The letter e of true and false is in no number.
        if of_number && !in_number && matches!(c, '-' | '0'..='9') {
            quoted.push_str("\"\\u0000");
            in_number = true;
        } else if !of_number && in_number {
            quoted.push('"');
            in_number = false;
        }
        quoted.push(c);
        in_string ^= c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
    }
    if in_number {
        quoted.push('"');
    }
    Ok(serde_json::from_str(&quoted)?)
}

fn is_number(found: &str, expected: &Number) -> bool {
    let Some(found) = found.strip_prefix(NUMBER) else { return false };
    match (expected.as_i64(), found.parse::<i64>()) {
        (Some(expected), Ok(found)) => expected == found,
        // Rust's reading of a double is exact.
        _ => found.parse().ok() == expected.as_f64(),
    }
}

fn leaves(value: &Value) -> usize {
    match value {
        Value::Object(fields) => fields.values().map(leaves).sum(),
        Value::Array(elements) => elements.iter().map(leaves).sum(),
        _ => 1,
    }
}

fn shown(microseconds: i64) -> String {
    bson::DateTime::from_millis(microseconds.div_euclid(1000))
        .try_to_rfc3339_string()
        .unwrap_or_else(|_| format!("{microseconds} µs"))
}
