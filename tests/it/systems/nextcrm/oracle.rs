//! What must be in NextCRM's tables, computed from the documents without a line of the product: which rows there are,
//! what each column holds, which pairs, and what is held because something that it needs is not there.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use bson::{Bson, DateTime, Document, doc, oid::ObjectId};
use sqlx::Row as _;
use uuid::{Uuid, uuid};

use super::generator::Documents;
use super::model::{COLLECTIONS, Column, JUNCTIONS, Kind, Side};
use crate::oracle::json;
use crate::stage::Stage;
use crate::systems::scene::{Row, Rows, Table, canonical};

/// As docs/CONFIGURATION.md has it.
const ID_NAMESPACE: Uuid = uuid!("95f5c7b4-e87b-5645-84e5-2e5531347372");

/// What the table of bad data says of one document; the oracle itself knows good values alone.
#[derive(Debug, Clone, Default)]
pub(super) struct Verdict {
    /// It has no row.
    pub(super) held: bool,
    /// These columns, as PostgreSQL prints them.
    pub(super) columns: BTreeMap<&'static str, Option<String>>,
}

#[derive(Debug, Default)]
pub(super) struct Oracle {
    pub(super) verdicts: BTreeMap<(&'static str, ObjectId), Verdict>,
    /// Rows that were there: the id of the user with this e-mail address.
    pub(super) adopted: BTreeMap<String, Uuid>,
}

#[derive(Debug)]
pub(super) struct Expected {
    pub(super) tables: Vec<Table>,
    /// Held since a reference that they need leads nowhere: collection, id and column.
    pub(super) waiting: Vec<(&'static str, ObjectId, &'static str)>,
}

/// The ids of every row that is there, by collection and ObjectId.
type Present = BTreeMap<(&'static str, ObjectId), Uuid>;

impl Oracle {
    /// `stage` lends PostgreSQL to write JSON as jsonb prints it.
    pub(super) async fn expects(&self, stage: &Stage, documents: &Documents) -> Result<Expected> {
        let (present, waiting) = self.present(documents)?;
        let mut tables = Vec::new();
        for collection in COLLECTIONS.iter() {
            let mut rows = Rows::new();
            for document in documents.get(collection.name).into_iter().flatten() {
                let id = document.get_object_id("_id")?;
                let Some(uuid) = present.get(&(collection.name, id)) else { continue };
                let verdict = self.verdicts.get(&(collection.name, id));
                let mut row = Row::new();
                for column in &collection.columns {
                    let given = verdict.and_then(|verdict| verdict.columns.get(column.name));
                    let value = match given {
                        Some(given) => given.clone(),
                        None => cell(collection.name, column, document, &present)
                            .with_context(|| format!("{} {id} {}", collection.name, column.name))?,
                    };
                    row.insert(column.name.to_owned(), value);
                }
                rows.insert(uuid.to_string(), row);
            }
            let mut table = Table { name: collection.name, select: collection.select, rows };
            let columns = collection.columns.iter().filter(|column| column.kind.is_json());
            for column in columns {
                as_jsonb_prints(stage, &mut table.rows, column.name).await?;
            }
            tables.push(table);
        }
        for junction in &JUNCTIONS {
            let rows = pairs(documents, &present, junction.left, junction.right);
            tables.push(Table { name: junction.table, select: junction.select(), rows });
        }
        Ok(Expected { tables, waiting })
    }

    /// Every document has a row but those that are held, and those that need one that has none.
    #[expect(clippy::type_complexity, reason = "the two halves of what is expected, named where they end up")]
    fn present(
        &self,
        documents: &Documents,
    ) -> Result<(Present, Vec<(&'static str, ObjectId, &'static str)>)> {
        let mut present = Present::new();
        for (&collection, documents) in documents {
            for document in documents {
                let id = document.get_object_id("_id")?;
                if self.verdicts.get(&(collection, id)).is_none_or(|verdict| !verdict.held) {
                    present.insert((collection, id), self.uuid(collection, document)?);
                }
            }
        }
        let mut waiting = Vec::new();
        loop {
            let mut gone = Vec::new();
            for collection in COLLECTIONS.iter() {
                let needed = collection.columns.iter().filter(|column| column.required);
                let needed: Vec<(&'static str, &'static str)> = needed
                    .filter_map(|column| match column.kind {
                        Kind::Ref(target) => Some((column.name, target)),
                        Kind::Int | Kind::Text | Kind::Enum(_) | Kind::Bool | Kind::Date => None,
                        Kind::Refs(_) | Kind::Texts | Kind::Json => None,
                    })
                    .collect();
                for document in documents.get(collection.name).into_iter().flatten() {
                    let id = document.get_object_id("_id")?;
                    if !present.contains_key(&(collection.name, id)) {
                        continue;
                    }
                    let missing = needed
                        .iter()
                        .find(|(column, target)| find(&present, target, document.get(column)).is_none());
                    gone.extend(missing.map(|(column, _)| (collection.name, id, *column)));
                }
            }
            if gone.is_empty() {
                return Ok((present, waiting));
            }
            for (collection, id, _) in &gone {
                present.remove(&(*collection, *id));
            }
            waiting.append(&mut gone);
        }
    }

    fn uuid(&self, collection: &str, document: &Document) -> Result<Uuid> {
        if collection == "Users"
            && let Some(adopted) = document.get_str("email").ok().and_then(|email| self.adopted.get(email))
        {
            return Ok(*adopted);
        }
        Ok(made_id(collection, document.get_object_id("_id")?))
    }
}

/// UUIDv5 of (namespace, source, NUL, source_id).
pub(super) fn made_id(collection: &str, id: ObjectId) -> Uuid {
    Uuid::new_v5(&ID_NAMESPACE, format!("{collection}\0{}", id.to_hex()).as_bytes())
}

/// The row that a reference leads to. 24 hex characters are as good as an ObjectId.
fn find(present: &Present, target: &'static str, value: Option<&Bson>) -> Option<Uuid> {
    let id = match value? {
        Bson::ObjectId(id) => *id,
        Bson::String(text) => ObjectId::parse_str(text).ok()?,
        _ => return None,
    };
    present.get(&(target, id)).copied()
}

fn cell(collection: &str, column: &Column, document: &Document, present: &Present) -> Result<Option<String>> {
    let fields = column.fields(collection);
    let found = fields.iter().filter_map(|field| document.get(field)).find(|value| **value != Bson::Null);
    let Some(value) = found else { return Ok(column.default.map(ToOwned::to_owned)) };
    Ok(Some(match (column.kind, value) {
        (Kind::Int, Bson::Int32(number)) => number.to_string(),
        (Kind::Int, Bson::Int64(number)) => i32::try_from(*number)?.to_string(),
        (Kind::Int, Bson::Double(number)) if number.fract() == 0.0 => format!("{number:.0}"),
        (Kind::Text | Kind::Enum(_), Bson::String(text)) => text.clone(),
        (Kind::Bool, Bson::Boolean(value)) => if *value { "t" } else { "f" }.to_owned(),
        (Kind::Date, Bson::DateTime(date)) => timestamp(*date)?,
        (Kind::Ref(target), _) => return Ok(find(present, target, Some(value)).map(|id| id.to_string())),
        (Kind::Refs(target), Bson::Array(ids)) => {
            let ids: Vec<String> = ids
                .iter()
                .filter_map(|id| find(present, target, Some(id)))
                .map(|id| id.to_string())
                .collect();
            serde_json::to_string(&ids)?
        }
        (Kind::Texts, Bson::Array(texts)) => {
            let texts: Option<Vec<&str>> = texts.iter().map(Bson::as_str).collect();
            serde_json::to_string(&texts.context("an array of more than texts")?)?
        }
        (Kind::Json, value) => json(&doc! { "value": value.clone() })["value"].to_string(),
        (kind, other) => bail!("the oracle knows nothing of {:?} as {kind:?}", other.element_type()),
    }))
}

/// `2024-03-01 12:30:00.12`: no `T`, no zone, no zeros at the end of a fraction.
fn timestamp(date: DateTime) -> Result<String> {
    let text = date.try_to_rfc3339_string()?.replace('T', " ");
    let text = text.trim_end_matches('Z');
    Ok(if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }.to_owned())
}

/// What either side lists, if both are there. Where there should be an array, a single id is one of one.
fn pairs(documents: &Documents, present: &Present, left: Side, right: Side) -> Rows {
    let mut pairs = BTreeSet::new();
    for (of, to, of_is_left) in [(left, right, true), (right, left, false)] {
        let Some(array) = of.array else { continue };
        for document in documents.get(of.collection).into_iter().flatten() {
            let Ok(id) = document.get_object_id("_id") else { continue };
            let Some(own) = present.get(&(of.collection, id)) else { continue };
            let listed = match document.get(array) {
                Some(Bson::Array(ids)) => ids.as_slice(),
                Some(single) => std::slice::from_ref(single),
                None => &[],
            };
            for other in listed.iter().filter_map(|id| find(present, to.collection, Some(id))) {
                pairs.insert(if of_is_left { format!("{own} {other}") } else { format!("{other} {own}") });
            }
        }
    }
    pairs.into_iter().map(|pair| (pair, Row::new())).collect()
}

/// Spaces and numbers are PostgreSQL's, the order of fields is the scene's.
async fn as_jsonb_prints(stage: &Stage, rows: &mut Rows, column: &str) -> Result<()> {
    let mut session = stage.session().await?;
    let given: Vec<Option<String>> = rows.values().map(|row| row[column].clone()).collect();
    let sql = "select given::jsonb::text from unnest($1::text[]) with ordinality as all_given(given, place) order by place";
    let printed = sqlx::query(sql).bind(given).fetch_all(&mut *session).await?;
    for (row, printed) in rows.values_mut().zip(printed) {
        let printed: Option<String> = printed.get(0);
        row.insert(column.to_owned(), printed.map(|text| canonical(&text)).transpose()?);
    }
    Ok(())
}
