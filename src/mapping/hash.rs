//! The meaning of a mapping as a text and its hash: another hash means that rows must be made again.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::config::{
    Aim, ChildSpec, ColumnSpec, Deletes, Filter, KeySpec, MappingSpec, MatchSpec, Missing, ReferenceSpec,
    Scalar, SyncSpec, Targets, ValueSpec,
};
use crate::domain::IdType;

/// Counts what decides which rows there are and what is in them. How the pipeline behaves (`critical`,
/// `enabled`, `on_drop`, …) and the order of the columns do not count. Spelled out, so that renaming
/// something in the code changes no hash.
pub(super) fn meaning(spec: &MappingSpec, id_type: IdType, columns: &[ColumnSpec]) -> String {
    let mut columns: Vec<&ColumnSpec> = columns.iter().collect();
    columns.sort_by(|left, right| left.name.cmp(&right.name));
    let columns: Vec<Value> = columns.into_iter().map(column).collect();
    let key = match &spec.key {
        KeySpec::SourceId { source, source_id } => json!([source, source_id]),
        KeySpec::Columns(names) if spec.shared => json!({ "shared": names }),
        KeySpec::Columns(names) => json!({ "columns": names }),
    };
    let mut meaning = json!([
        "mapping/1",
        spec.source,
        [spec.collection.database, spec.collection.collection],
        [spec.table.schema, spec.table.name],
        key,
        id_type.to_string(),
        deletes(&spec.deletes),
        columns,
        spec.filter.as_ref().map(Filter::to_yaml),
        spec.sync.as_ref().map(SyncSpec::to_yaml),
        spec.transform,
    ]);
    if let (Value::Array(parts), [_, ..]) = (&mut meaning, spec.children.as_slice()) {
        parts.push(spec.children.iter().map(child).collect());
    }
    meaning.to_string()
}

/// What stands at each place of a meaning; those without a word are not told by name.
const PARTS: [&str; 12] = [
    "the form",
    "source",
    "collection",
    "table",
    "key",
    "id_type",
    "deletes",
    "columns",
    "filter",
    "sync",
    "transform",
    "children",
];
const COLUMNS: usize = 7;

pub(super) fn hash(meaning: &str) -> String {
    let digest = Sha256::digest(meaning);
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// What a mapping says otherwise than before, in words for people; both are meanings.
pub fn differences(before: &str, now: &str) -> Vec<String> {
    let parts = |meaning: &str| serde_json::from_str::<Vec<Value>>(meaning).unwrap_or_default();
    let (before, now) = (parts(before), parts(now));
    let mut found = Vec::new();
    for place in 0..before.len().max(now.len()) {
        let (old, new) = (before.get(place), now.get(place));
        if old == new {
            continue;
        }
        match (place, old, new) {
            (COLUMNS, Some(old), Some(new)) => found.extend(column_differences(old, new)),
            _ => found.push(PARTS.get(place).copied().unwrap_or("another rule").to_owned()),
        }
    }
    found.dedup();
    found
}

fn column_differences(old: &Value, new: &Value) -> Vec<String> {
    let columns = |list: &Value| list.as_array().cloned().unwrap_or_default();
    let name = |column: &Value| column[0].as_str().unwrap_or_default().to_owned();
    let (old, new) = (columns(old), columns(new));
    let mut found = Vec::new();
    for column in &new {
        match old.iter().find(|before| name(before) == name(column)) {
            Some(before) if before == column => {}
            Some(_) => found.push(format!("column {}", name(column))),
            None => found.push(format!("column {} is new", name(column))),
        }
    }
    let is_gone = |column: &&Value| !new.iter().any(|now| name(now) == name(column));
    found.extend(old.iter().filter(is_gone).map(|column| format!("column {} is gone", name(column))));
    found
}

fn child(spec: &ChildSpec) -> Value {
    let mut columns: Vec<&ColumnSpec> = spec.columns.iter().collect();
    columns.sort_by(|left, right| left.name.cmp(&right.name));
    let columns: Vec<Value> = columns.into_iter().map(column).collect();
    json!([spec.table.schema, spec.table.name, spec.origin(), spec.key, columns])
}

fn column(spec: &ColumnSpec) -> Value {
    let value = match &spec.value {
        ValueSpec::Path { from, reading } => json!(["path", from, reading.settings()]),
        ValueSpec::Document { without, json, strip_nul } => {
            json!(["document", without, json.as_str(), strip_nul])
        }
        ValueSpec::Expression { expression, reading } => {
            json!(["expression", expression.text(), reading.settings()])
        }
        ValueSpec::Transformed { reading } => json!(["transformed", reading.settings()]),
        ValueSpec::SourceId => json!(["source_id"]),
        ValueSpec::ClusterTime => json!(["cluster_time"]),
        ValueSpec::Constant(constant) => json!(["constant", scalar(constant)]),
        ValueSpec::Collect { from, distinct } => json!(["collect", from, distinct]),
        ValueSpec::KeyUuid => json!(["key_uuid"]),
        ValueSpec::KeyPrefixed(prefix) => json!(["key_prefixed", prefix]),
        ValueSpec::Reference(reference) => self::reference(reference),
    };
    json!([spec.name, value, spec.insert_only, spec.required, spec.default.as_ref().map(scalar)])
}

fn reference(spec: &ReferenceSpec) -> Value {
    let aim = match &spec.aim {
        Aim::Document { to, from, strip_prefix } => {
            let to = match to {
                Targets::First(sources) => json!(["first", sources]),
                Targets::By { path, map } => json!(["by", path, map]),
            };
            json!(["document", to, from, strip_prefix])
        }
        Aim::Parent => json!(["parent"]),
        Aim::Row { table, matches } => {
            let matches: Vec<Value> = matches
                .iter()
                .map(|(column, value)| match value {
                    MatchSpec::Path(path) => json!([column, "path", path]),
                    MatchSpec::Constant(constant) => json!([column, "constant", scalar(constant)]),
                })
                .collect();
            json!(["row", table.schema, table.name, matches])
        }
    };
    let missing = match &spec.missing {
        Missing::Hold => json!("hold"),
        Missing::Null => json!("null"),
        Missing::Keep => json!("keep"),
        Missing::Drop => json!("drop"),
        Missing::Create(stub) => {
            let columns: Vec<Value> = stub.columns.iter().map(column).collect();
            json!(["create", stub.source, stub.prefix, columns])
        }
    };
    match &spec.each {
        None => json!(["reference", aim, spec.take, missing]),
        Some(each) => json!(["references", aim, spec.take, missing, each]),
    }
}

/// Tagged, so that the number 1 and the text "1" differ, and a null differs from none.
fn scalar(scalar: &Scalar) -> Value {
    match scalar {
        Scalar::Null => json!(["null"]),
        Scalar::Bool(flag) => json!(["bool", flag]),
        Scalar::Int(number) => json!(["int", number]),
        Scalar::Float(number) => json!(["float", number.to_bits()]),
        Scalar::Text(text) => json!(["text", text]),
        Scalar::List(items) => json!(["list", items.iter().map(self::scalar).collect::<Vec<_>>()]),
    }
}

fn deletes(deletes: &Deletes) -> Value {
    match deletes {
        Deletes::Hard => json!("hard"),
        Deletes::Keep => json!("keep"),
        Deletes::Soft { column } => json!(["soft", column]),
    }
}
