//! The meaning of a mapping as one short text: another hash means that rows must be made again.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::config::{ColumnSpec, Deletes, KeySpec, MappingSpec, Rule, Scalar, ValueSpec};
use crate::domain::IdType;

/// Counts what decides which rows there are and what is in them. How the pipeline behaves (`critical`,
/// `enabled`, `on_drop`, …) and the order of the columns do not count. Spelled out, so that renaming
/// something in the code changes no hash.
pub(super) fn hash(spec: &MappingSpec, id_type: IdType, columns: &[ColumnSpec]) -> String {
    let mut columns: Vec<&ColumnSpec> = columns.iter().collect();
    columns.sort_by(|left, right| left.name.cmp(&right.name));
    let columns: Vec<Value> = columns.into_iter().map(column).collect();
    let key = match &spec.key {
        KeySpec::SourceId { source, source_id } => json!([source, source_id]),
        KeySpec::Columns(names) if spec.shared => json!({ "shared": names }),
        KeySpec::Columns(names) => json!({ "columns": names }),
    };
    let meaning = json!([
        "mapping/1",
        spec.source,
        [spec.collection.database, spec.collection.collection],
        [spec.table.schema, spec.table.name],
        key,
        id_type.to_string(),
        deletes_name(&spec.deletes),
        columns,
    ]);
    let digest = Sha256::digest(meaning.to_string());
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn column(spec: &ColumnSpec) -> Value {
    let value = match &spec.value {
        ValueSpec::Path { from, rule } => json!(["path", from, rule.map(Rule::as_str)]),
        ValueSpec::Document { without } => json!(["document", without]),
        ValueSpec::SourceId => json!(["source_id"]),
        ValueSpec::ClusterTime => json!(["cluster_time"]),
        ValueSpec::Constant(constant) => json!(["constant", scalar(constant)]),
        ValueSpec::Collect { from, distinct } => json!(["collect", from, distinct]),
        ValueSpec::KeyUuid => json!(["key_uuid"]),
        ValueSpec::KeyPrefixed(prefix) => json!(["key_prefixed", prefix]),
    };
    json!([spec.name, value, spec.insert_only, spec.required, spec.default.as_ref().map(scalar)])
}

/// Tagged, so that the number 1 and the text "1" differ, and a null differs from none.
fn scalar(scalar: &Scalar) -> Value {
    match scalar {
        Scalar::Null => json!(["null"]),
        Scalar::Bool(flag) => json!(["bool", flag]),
        Scalar::Int(number) => json!(["int", number]),
        Scalar::Float(number) => json!(["float", number.to_bits()]),
        Scalar::Text(text) => json!(["text", text]),
    }
}

fn deletes_name(deletes: &Deletes) -> &'static str {
    match deletes {
        Deletes::Hard => "hard",
        Deletes::Keep => "keep",
    }
}
