//! Whether a value of a mapping can go into a column at all. Whether it does is decided per document.

use super::fit_reading::fit_reading;
use super::problem::{Problems, literal};
use crate::config::{Aim, ColumnSpec, MatchSpec, Scalar, ValueSpec};
use crate::domain::{Column, ColumnType, IdType, TextKind};

/// Length of the ULID text behind a prefix.
const ULID_CHARACTERS: usize = 26;
const UUID_CHARACTERS: usize = 36;
const OBJECT_ID_CHARACTERS: usize = 24;
/// `-9223372036854775808`
const INT_CHARACTERS: usize = 20;

pub(super) fn fit(spec: &ColumnSpec, column: &Column, problems: &mut Problems) {
    let name = Some(column.name.as_str());
    if let ColumnType::Other(type_name) = &column.column_type {
        problems.fatal(
            name,
            format!("has the type {type_name}, which rowstream cannot write"),
            "leave it out of columns, or use text or jsonb",
        );
        return;
    }
    if let Some((what, types)) = mismatch(&spec.value, &column.column_type) {
        problems.fatal(name, format!("has the type {}, but {what} needs {types}", column.type_sql), "");
    } else {
        fit_length(&spec.value, column, problems);
    }
    if let ValueSpec::Path { reading, .. }
    | ValueSpec::Expression { reading, .. }
    | ValueSpec::Transformed { reading } = &spec.value
    {
        fit_reading(reading, column, problems);
    }
    if column.not_null {
        fit_not_null(spec, column, problems);
    }
}

/// What is given and which types could hold it, if this one cannot.
fn mismatch(value: &ValueSpec, to: &ColumnType) -> Option<(&'static str, &'static str)> {
    use ColumnType as T;
    const TEXT: &str = "text or varchar";
    const JSON: &str = "json, jsonb or text";
    let is_text = matches!(to, T::Text { .. });
    let is_json = is_text || matches!(to, T::Json | T::Jsonb);
    let is_timestamp = matches!(to, T::Timestamp { .. } | T::TimestampTz { .. });
    let (fits, what, types) = match value {
        ValueSpec::Path { .. }
        | ValueSpec::Expression { .. }
        | ValueSpec::Transformed { .. }
        | ValueSpec::Constant(_)
        | ValueSpec::Reference(_) => return None,
        ValueSpec::Document { .. } => (is_json, "a whole document", JSON),
        ValueSpec::Collect { .. } => (matches!(to, T::Json | T::Jsonb), "collect", "json or jsonb"),
        ValueSpec::SourceId => (is_text, "$id", TEXT),
        ValueSpec::ClusterTime => (is_timestamp, "$cluster_time", "timestamp or timestamptz"),
        ValueSpec::KeyUuid => (is_text || matches!(to, T::Uuid), "key: uuid", "uuid, text or varchar"),
        ValueSpec::KeyPrefixed(_) => (is_text, "a key with a prefix", TEXT),
    };
    (!fits).then_some((what, types))
}

/// A made id has a known length: one that is too long would be refused for every document.
fn fit_length(value: &ValueSpec, column: &Column, problems: &mut Problems) {
    let needed = match value {
        ValueSpec::KeyUuid => UUID_CHARACTERS,
        ValueSpec::KeyPrefixed(prefix) => prefix.chars().count() + ULID_CHARACTERS,
        ValueSpec::Path { .. }
        | ValueSpec::Expression { .. }
        | ValueSpec::Transformed { .. }
        | ValueSpec::Document { .. }
        | ValueSpec::SourceId
        | ValueSpec::ClusterTime
        | ValueSpec::Collect { .. }
        | ValueSpec::Constant(_)
        | ValueSpec::Reference(_) => return,
    };
    if let Some(limit) = limit_below(column, needed) {
        let message = format!("holds {limit} characters, but its ids have {needed}");
        problems.fatal(Some(&column.name), message, "widen the column");
    }
}

fn limit_below(column: &Column, needed: usize) -> Option<u32> {
    match column.column_type {
        ColumnType::Text { limit: Some(limit), .. } if (limit as usize) < needed => Some(limit),
        _ => None,
    }
}

fn fit_not_null(spec: &ColumnSpec, column: &Column, problems: &mut Problems) {
    let name = Some(column.name.as_str());
    match &spec.value {
        ValueSpec::Constant(Scalar::Null) => {
            problems.fatal(name, "is not null, but its value is null", "give another value");
        }
        ValueSpec::ClusterTime => problems.fatal(
            name,
            "is not null, but a document that is copied by snapshot has no $cluster_time",
            "drop the column's not null",
        ),
        ValueSpec::Path { .. } | ValueSpec::Expression { .. } | ValueSpec::Transformed { .. }
            if spec.default == Some(Scalar::Null) =>
        {
            problems.fatal(name, "is not null, but its default is null", "give another default");
        }
        ValueSpec::Path { reading, .. }
        | ValueSpec::Expression { reading, .. }
        | ValueSpec::Transformed { reading }
            if spec.default.is_some() && !reading.default_for_null =>
        {
            problems.warning(
                name,
                "is not null, and a document where this field is null will be held",
                "on_null: default lets the default stand in for null too",
            )
        }
        ValueSpec::Path { .. } | ValueSpec::Transformed { .. } | ValueSpec::Reference(_)
            if !spec.required && spec.default.is_none() && !is_always_there(&spec.value) =>
        {
            problems.warning(
                name,
                "is not null, and a document without this field will be held",
                "give it a default, or say required: true",
            );
        }
        ValueSpec::Path { .. }
        | ValueSpec::Expression { .. }
        | ValueSpec::Transformed { .. }
        | ValueSpec::Document { .. }
        | ValueSpec::SourceId
        | ValueSpec::Constant(_)
        | ValueSpec::Collect { .. }
        | ValueSpec::KeyUuid
        | ValueSpec::KeyPrefixed(_)
        | ValueSpec::Reference(_) => {}
    }
}

/// Every document has an `_id`, every child row its parent and its element.
fn is_always_there(value: &ValueSpec) -> bool {
    let is_there = |from: &[String]| {
        from.iter().any(|path| matches!(path.as_str(), "_id" | "$document._id" | "$element" | "$index"))
    };
    match value {
        ValueSpec::Path { from, .. } => is_there(from),
        ValueSpec::Reference(reference) => match &reference.aim {
            Aim::Document { from, .. } => is_there(from),
            Aim::Parent => true,
            Aim::Row { matches, .. } => matches.iter().all(|(_, value)| match value {
                MatchSpec::Path(path) => is_there(std::slice::from_ref(path)),
                MatchSpec::Constant(_) => true,
            }),
        },
        ValueSpec::Document { .. }
        | ValueSpec::SourceId
        | ValueSpec::ClusterTime
        | ValueSpec::Constant(_)
        | ValueSpec::Collect { .. }
        | ValueSpec::KeyUuid
        | ValueSpec::KeyPrefixed(_)
        | ValueSpec::Expression { .. }
        | ValueSpec::Transformed { .. } => false,
    }
}

/// The column that holds the mapping's name.
pub(super) fn fit_source(source: &str, column: &Column, problems: &mut Problems) {
    let name = Some(column.name.as_str());
    match &column.column_type {
        ColumnType::Enum { labels } if labels.iter().any(|label| label == source) => {}
        ColumnType::Enum { .. } => problems.fatal(
            name,
            format!("is an enum without the label {}", literal(source)),
            format!("alter type {} add value {}", column.type_sql, literal(source)),
        ),
        ColumnType::Text { kind: TextKind::Text | TextKind::Varchar, .. } => {
            let needed = source.chars().count();
            if let Some(limit) = limit_below(column, needed) {
                let message = format!("holds {limit} characters, but {} has {needed}", literal(source));
                problems.fatal(name, message, "widen the column");
            }
        }
        _ => problems.fatal(
            name,
            format!(
                "has the type {}, but the source of a key needs text, varchar or an enum",
                column.type_sql
            ),
            "",
        ),
    }
}

/// The column that holds the id as text. Types that call different texts equal cannot: citext ignores
/// case, and character(n) ignores blanks at the end.
pub(super) fn fit_source_id(id_type: IdType, column: &Column, problems: &mut Problems) {
    let name = Some(column.name.as_str());
    if !matches!(column.column_type, ColumnType::Text { kind: TextKind::Text | TextKind::Varchar, .. }) {
        let message = format!("has the type {}, but the id of a key needs text or varchar", column.type_sql);
        problems.fatal(name, message, "two ids may differ only in case or in blanks, or be of another type");
        return;
    }
    let (needed, what) = match id_type {
        IdType::ObjectId => (OBJECT_ID_CHARACTERS, "an ObjectId"),
        IdType::Uuid => (UUID_CHARACTERS, "a UUID"),
        IdType::Int => (INT_CHARACTERS, "a large whole number"),
        IdType::String => return,
    };
    let Some(limit) = limit_below(column, needed) else { return };
    let message = format!("holds {limit} characters, but {what} has {needed}");
    match id_type {
        IdType::ObjectId | IdType::Uuid => problems.fatal(name, message, "widen the column"),
        IdType::Int | IdType::String => {
            problems.warning(name, message, "what does not fit is held; widen the column");
        }
    }
}
