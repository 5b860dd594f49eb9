//! The `key`, `adopt` and `shared` of a mapping.

use ::config::ValueKind;

use super::mappings::NAME_BYTES;
use super::model::{ColumnSpec, KeySpec, ValueSpec};
use super::tree::{Field, Section};

/// A map names the columns that rowstream writes itself; a list names some of the mapping's own columns.
pub(super) fn key(section: &mut Section<'_>) -> KeySpec {
    if let Some(field) = section.field("key")
        && matches!(field.value(), ValueKind::Array(_))
    {
        return KeySpec::Columns(names(field));
    }
    source_id(section.section("key"))
}

fn source_id(mut section: Section<'_>) -> KeySpec {
    let source = match section.field_or_null("source") {
        None => Some("source".to_owned()),
        Some(field) if field.is_null() => None,
        Some(field) => column_name(&field),
    };
    let source_id = section.field("source_id").and_then(|field| column_name(&field));
    let source_id = source_id.unwrap_or_else(|| "source_id".to_owned());
    if source.as_ref() == Some(&source_id) {
        section.mistake_at(
            "source_id",
            "must differ from key.source",
            "a table of one source has source: null",
        );
    }
    section.finish();
    KeySpec::SourceId { source, source_id }
}

/// Unique keys: a name is a key of one column, a list within the list one of several.
pub(super) fn adopt(section: &mut Section<'_>) -> Option<Vec<Vec<String>>> {
    let field = section.field("adopt")?;
    let keys = field.items()?.into_iter().map(|item| match item.value() {
        ValueKind::Array(_) => names(item),
        _ => column_name(&item).into_iter().collect(),
    });
    Some(keys.filter(|names| !names.is_empty()).collect())
}

/// What the three must have in common with the columns.
pub(super) fn check(
    section: &Section<'_>,
    key: &KeySpec,
    columns: Option<&[ColumnSpec]>,
    adopt: Option<&[Vec<String>]>,
    shared: bool,
) {
    let specs = columns.unwrap_or_default();
    let find = |name: &str| specs.iter().find(|spec| spec.name == name);
    if let KeySpec::Columns(names) = key {
        for name in names.iter().filter(|name| find(name).is_none()) {
            section.mistake_at("key", &format!("must be names among columns, and {name} is none"), "");
        }
        for name in names {
            if let Some(ValueSpec::ClusterTime | ValueSpec::Document { .. } | ValueSpec::Collect { .. }) =
                find(name).map(|spec| &spec.value)
            {
                section.mistake_at(
                    "key",
                    &format!("must not be made of {name}: it changes with every change"),
                    "",
                );
            }
        }
    }
    if let Some(column) = specs.iter().find(|spec| matches!(spec.value, ValueSpec::Collect { .. }))
        && !shared
    {
        section.mistake_at(
            "columns",
            &format!("must not collect in {} unless shared is true", column.name),
            "",
        );
    }
    for name in adopt.into_iter().flatten().flatten() {
        if find(name).is_none() {
            section.mistake_at("adopt", &format!("must be names among columns, and {name} is none"), "");
        }
    }
    let is_of_fields = matches!(key, KeySpec::Columns(names) if !is_derived(names, specs));
    if shared && !is_of_fields {
        let hint = "the documents of one row are those with the same values in these columns";
        section.mistake_at("shared", "needs a key of columns that come from the document's fields", hint);
    }
}

/// Every column's value follows from `_id` alone.
pub(crate) fn is_derived(names: &[String], columns: &[ColumnSpec]) -> bool {
    names.iter().all(|name| columns.iter().any(|spec| spec.name == *name && follows_from_id(&spec.value)))
}

/// The value is the same for as long as the document lives.
pub(crate) fn follows_from_id(value: &ValueSpec) -> bool {
    match value {
        ValueSpec::SourceId | ValueSpec::Constant(_) | ValueSpec::KeyUuid | ValueSpec::KeyPrefixed(_) => true,
        ValueSpec::Path { from, .. } => matches!(from.as_slice(), [path] if path == "_id"),
        ValueSpec::Document { .. }
        | ValueSpec::Expression { .. }
        | ValueSpec::Transformed { .. }
        | ValueSpec::ClusterTime
        | ValueSpec::Collect { .. }
        | ValueSpec::Reference(_) => false,
    }
}

pub(super) fn names(field: Field<'_>) -> Vec<String> {
    if matches!(field.value(), ValueKind::Array(items) if items.is_empty()) {
        field.mistake("must name at least one column", "");
    }
    field.items().unwrap_or_default().iter().filter_map(column_name).collect()
}

pub(super) fn column_name(field: &Field<'_>) -> Option<String> {
    let name = field.text()?;
    if name.len() > NAME_BYTES {
        field.mistake("must not be longer than 63 bytes", "PostgreSQL cuts longer names off");
        return None;
    }
    Some(name)
}
