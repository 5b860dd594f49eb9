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

/// Relaxed extended JSON by the bson crate, as a value.
pub(crate) fn json(document: &Document) -> Value {
    Bson::Document(document.clone()).into_relaxed_extjson()
}

/// Equal as JSON, numbers by value: jsonb prints 1e20 as digits.
pub(crate) fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => {
            if left.is_f64() || right.is_f64() {
                left.as_f64() == right.as_f64()
            } else {
                left == right
            }
        }
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| same(left, right))
        }
        (Value::Object(left), Value::Object(right)) => {
            left.len() == right.len()
                && left.iter().all(|(key, left)| right.get(key).is_some_and(|right| same(left, right)))
        }
        (left, right) => left == right,
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
    let mut connection = stage.postgres().await?;
    let sql = format!("select source, source_id, document::text from \"{collection}\"");
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(&mut connection).await?;
    let mut differences = Vec::new();
    for row in rows {
        let (source, id, actual): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        let actual: Value = serde_json::from_str(&actual)?;
        if source != collection {
            differences.push(format!("row {id} has source {source}"));
        }
        match expected.remove(&id) {
            None => differences.push(format!("row {id} has no document")),
            Some(expected) if !same(&expected, &actual) => {
                differences.push(format!("row {id} is {actual}, its document {expected}"));
            }
            Some(_) => {}
        }
    }
    differences.extend(expected.into_keys().map(|id| format!("document {id} has no row")));
    Ok(differences)
}
