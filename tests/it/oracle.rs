//! What should be in PostgreSQL, computed from the documents without a line of the product's code.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use bson::{Bson, Document};
use futures_util::TryStreamExt;
use serde_json::Value;
use sqlx::Row;

use crate::stage::Stage;

/// The id type that is written plain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plain {
    ObjectId,
    String,
    Int,
}

/// The key text of an id, for the kinds that the tests use.
pub(crate) fn source_id(id: &Bson, plain: Plain) -> Result<String> {
    Ok(match (id, plain) {
        (Bson::ObjectId(id), Plain::ObjectId) => id.to_hex(),
        (Bson::ObjectId(id), _) => format!("$oid:{}", id.to_hex()),
        (Bson::String(id), Plain::String) if !id.starts_with('$') => id.clone(),
        (Bson::String(id), _) => format!("$string:{id}"),
        (Bson::Int32(id), Plain::Int) => id.to_string(),
        (Bson::Int64(id), Plain::Int) => id.to_string(),
        (Bson::Double(id), Plain::Int) if id.fract() == 0.0 => format!("{id:.0}"),
        (Bson::Int32(id), _) => format!("$number:{id}"),
        (Bson::Int64(id), _) => format!("$number:{id}"),
        (Bson::Double(id), _) => format!("$number:{id}"),
        (Bson::Boolean(id), _) => format!("$bool:{id}"),
        (Bson::Null, _) => "$null".to_owned(),
        (Bson::DateTime(id), _) => format!("$date:{}", id.timestamp_millis()),
        (other, _) => bail!("the oracle knows no text for an id of type {:?}", other.element_type()),
    })
}

/// Relaxed extended JSON by the bson crate, as a value, with what docs/TYPES.md says beside it.
pub(crate) fn json(document: &Document) -> Value {
    let mut value = Bson::Document(document.clone()).into_relaxed_extjson();
    as_documented(&mut value);
    value
}

/// ⚠ The crate drops the zeros at the end of a fraction (`.78Z` for 780 ms); the specification has three
/// digits or none. And jsonb has no -0.0: its sign is kept in words.
fn as_documented(value: &mut Value) {
    match value {
        Value::Number(number)
            if number.as_f64().is_some_and(|zero| zero == 0.0 && zero.is_sign_negative()) =>
        {
            *value = serde_json::json!({ "$numberDouble": "-0.0" });
        }
        Value::Object(fields) => {
            for (name, value) in fields {
                if name == "$date"
                    && let Value::String(text) = value
                    && let Some((moment, fraction)) = text.trim_end_matches('Z').split_once('.')
                {
                    *text = format!("{moment}.{fraction:0<3}Z");
                }
                as_documented(value);
            }
        }
        Value::Array(elements) => elements.iter_mut().for_each(as_documented),
        _ => {}
    }
}

/// Every difference between a collection and its table of whole documents.
pub(crate) async fn whole_documents(stage: &Stage, collection: &str, plain: Plain) -> Result<Vec<String>> {
    let mut expected = BTreeMap::new();
    let mut documents = stage.collection(collection).find(bson::doc! {}).await?;
    while let Some(document) = documents.try_next().await? {
        let id = document.get("_id").context("no _id")?;
        expected.insert(source_id(id, plain)?, json(&document));
    }
    // PostgreSQL compares, as jsonb: serde_json reads many a double one step beside what was written.
    let (ids, texts): (Vec<_>, Vec<_>) = expected.iter().map(|(id, json)| (id, json.to_string())).unzip();
    let sql = format!(
        "select actual.source, coalesce(actual.source_id, expected.id) as id, actual.document::text as actual,
                expected.document as expected
         from \"{}\" as actual
         full join unnest($1::text[], $2::text[]) as expected(id, document) on expected.id = actual.source_id
         where actual.document is distinct from expected.document::jsonb or actual.source <> $3",
        collection.replace('"', "\"\"")
    );
    let mut session = stage.session().await?;
    let query = sqlx::query(sqlx::AssertSqlSafe(sql)).persistent(false);
    let rows = query.bind(ids).bind(texts).bind(collection).fetch_all(&mut *session).await?;
    let difference = |row: sqlx::postgres::PgRow| {
        let id: String = row.get("id");
        let (actual, expected): (Option<String>, Option<String>) = (row.get("actual"), row.get("expected"));
        match (actual, expected) {
            (None, _) => format!("document {id} has no row"),
            (_, None) => format!("row {id} has no document"),
            (Some(actual), Some(expected)) => {
                let source: String = row.get("source");
                format!("row {id} of source {source} is {actual}, its document {expected}")
            }
        }
    };
    Ok(rows.into_iter().map(difference).collect())
}
