//! The `mappings` list: what a document becomes, as far as the file alone can tell.

use ::config::ValueKind;

use super::children;
use super::columns::columns;
use super::defaults;
use super::filter::filter;
use super::junctions;
use super::key::{self, column_name};
use super::model::{
    ColumnSpec, Deletes, KeySpec, MappingSpec, OnDrop, OnMappingChange, SchemaMode, ValueSpec,
};
use super::sync::sync;
use super::tree::{Field, Section};
use crate::domain::{IdType, Namespace, TableName};

/// PostgreSQL cuts longer names off without a word, and two names become one.
pub(super) const NAME_BYTES: usize = 63;
/// What fits the indexed key column beside a long source_id.
const SOURCE_BYTES: usize = 255;

/// `None`: the list itself is unusable. A mapping with mistakes is left out, and they are reported.
pub(super) fn mappings(field: Field<'_>) -> Option<Vec<MappingSpec>> {
    if field.is_null() || matches!(field.value(), ValueKind::Array(items) if items.is_empty()) {
        field.mistake("must hold at least one mapping", "leave the key out to copy a whole database");
        return None;
    }
    let mut specs: Vec<(Place, MappingSpec)> = Vec::new();
    for item in field.items()? {
        let Some(section) = item.into_section() else { continue };
        let Some((place, spec)) = mapping(section) else { continue };
        for (earlier, other) in &specs {
            conflicts(&place, &spec, earlier, other);
        }
        specs.push((place, spec));
    }
    let (places, mut specs): (Vec<Place<'_>>, Vec<MappingSpec>) = specs.into_iter().unzip();
    for (place, constraint) in junctions::mirror(&mut specs) {
        places[place].section.mistake_at("children", &constraint, "");
    }
    Some(specs)
}

/// The fields of a mapping that are compared with other mappings.
struct Place<'r> {
    source: Field<'r>,
    section: Section<'r>,
}

fn conflicts(place: &Place<'_>, spec: &MappingSpec, earlier: &Place<'_>, other: &MappingSpec) {
    if spec.source == other.source {
        place.source.mistake(format!("must differ from {}.source", earlier.section.path().shown()), "");
    }
    if spec.table == other.table && !spec.key.can_share_with(&other.key) {
        let with_columns =
            matches!(spec.key, KeySpec::Columns(_)) || matches!(other.key, KeySpec::Columns(_));
        let why = if with_columns { "key: [...] in one of the two only" } else { "key.source: null" };
        place.section.mistake_at(
            "table",
            &format!(
                "must not be the table of {}, since one of the two has {why}",
                earlier.section.path().shown()
            ),
            "a shared table needs a source column, so that each mapping knows its own rows",
        );
    }
}

fn mapping(mut section: Section<'_>) -> Option<(Place<'_>, MappingSpec)> {
    let source_field = section.required("source", "it names the mapping and is the first half of the key");
    let source = source_field.as_ref().and_then(source);
    let collection = section
        .required("collection", "the full name: database.collection")
        .and_then(|field| collection(&field));
    let table = match section.field("table") {
        Some(field) => table(field),
        None => collection.as_ref().and_then(|collection| default_table(&section, collection)),
    };
    let id_types = [
        ("object_id", IdType::ObjectId),
        ("string", IdType::String),
        ("int", IdType::Int),
        ("uuid", IdType::Uuid),
    ];
    let id_type = section.choice("id_type", &id_types);
    let key = key::key(&mut section);
    let adopt = key::adopt(&mut section);
    let shared = section.flag("shared", false);
    let filter = section.field("filter").and_then(filter);
    let columns = section.field_or_null("columns").map(|field| columns(field, &key));
    let children = section.field("children").map(children::children).unwrap_or_default();
    let ignore = section.field("ignore").map(ignored).unwrap_or_default();
    if !children.is_empty() && columns.is_none() {
        section.mistake_at("children", "must not be given without columns", "list the columns of the table");
    }
    key::check(&section, &key, columns.as_deref(), adopt.as_deref(), shared);
    let whole_documents = columns.is_none();
    let transform = section.field("transform").and_then(|field| field.text());
    let asks = |column: &ColumnSpec| matches!(column.value, ValueSpec::Transformed { .. });
    if transform.is_none() && columns.iter().flatten().any(asks) {
        section.mistake_at(
            "transform",
            "is required where a column is $transform",
            "the name of a transformer",
        );
    }
    let deletes = section.field("deletes").and_then(deletes);
    let sync = section.field("sync").and_then(sync);
    let schema = schema_mode(&mut section, whole_documents);
    let on_drop = section.choice("on_drop", &[("delete", OnDrop::Delete), ("halt", OnDrop::Halt)]);
    let changes = [("resync", OnMappingChange::Resync), ("halt", OnMappingChange::Halt)];
    let on_mapping_change = section.choice("on_mapping_change", &changes);
    let critical = section.flag("critical", false);
    let enabled = section.flag("enabled", true);
    let allow_empty = section.flag("allow_empty", false);
    section.finish();
    let place = Place { source: source_field?, section };
    let spec = MappingSpec {
        source: source?,
        collection: collection?,
        table: table?,
        id_type,
        key,
        adopt,
        shared,
        transform,
        filter,
        columns,
        children,
        ignore,
        deletes: deletes.unwrap_or(Deletes::Hard),
        sync,
        schema,
        on_drop: on_drop.unwrap_or(OnDrop::Delete),
        on_mapping_change: on_mapping_change.unwrap_or(OnMappingChange::Resync),
        critical,
        enabled,
        allow_empty,
    };
    Some((place, spec))
}

/// Paths of fields.
fn ignored(field: Field<'_>) -> Vec<String> {
    field.items().into_iter().flatten().filter_map(|item| item.text()).collect()
}

fn deletes(field: Field<'_>) -> Option<Deletes> {
    const CONSTRAINT: &str = "must be hard, keep or { soft: <column> }";
    match field.value() {
        ValueKind::String(text) if text == "hard" => Some(Deletes::Hard),
        ValueKind::String(text) if text == "keep" => Some(Deletes::Keep),
        ValueKind::Table(_) => {
            let mut section = field.into_section()?;
            let hint = "a column of timestamptz, timestamp or boolean";
            let column = section.required("soft", hint).and_then(|field| column_name(&field));
            section.finish();
            column.map(|column| Deletes::Soft { column })
        }
        _ => {
            field.mistake(CONSTRAINT, "");
            None
        }
    }
}

fn source(field: &Field<'_>) -> Option<String> {
    let source = field.text()?;
    if source.len() > SOURCE_BYTES {
        field.mistake(format!("must not be longer than {SOURCE_BYTES} bytes"), "");
        return None;
    }
    Some(source)
}

fn collection(field: &Field<'_>) -> Option<Namespace> {
    let text = field.text()?;
    let Some(namespace) = Namespace::parse(&text) else {
        field.mistake("must be the full name of a collection: database.collection", "");
        return None;
    };
    if let Some(mistake) = database_mistake(&namespace.database) {
        // Without the name: what is no name may be a connection string, which only the given text redacts.
        let constraint =
            format!("must begin with the name of a database that can be copied; this one {mistake}");
        field.mistake(constraint, "");
        return None;
    }
    if namespace.collection.starts_with("system.") || namespace.collection.contains('$') {
        field.mistake("must not be a collection of the server's own (system.… or with a $)", "");
        return None;
    }
    Some(namespace)
}

/// What is wrong with the name of a MongoDB database to copy from, if anything.
pub(super) fn database_mistake(name: &str) -> Option<&'static str> {
    if matches!(name, "admin" | "config" | "local") {
        return Some("belongs to the server itself");
    }
    if name.len() > NAME_BYTES || name.contains(|c: char| c.is_whitespace() || "/\\.\"$*<>:|?%".contains(c)) {
        return Some("is not a name that MongoDB gives to a database");
    }
    None
}

/// What is wrong with the name of a PostgreSQL schema to write to, if anything.
pub(super) fn schema_mistake(name: &str) -> Option<&'static str> {
    if name.len() > NAME_BYTES {
        return Some("must not be longer than 63 bytes");
    }
    if name == "rowstream" {
        return Some("must not be rowstream, the schema of rowstream's own state");
    }
    if name.starts_with("pg_") || name == "information_schema" {
        return Some("must not be a schema of the server's own");
    }
    None
}

pub(super) fn table(field: Field<'_>) -> Option<TableName> {
    if matches!(field.value(), ValueKind::Table(_)) {
        let mut section = field.into_section()?;
        let schema = section.field("schema");
        let name = section.required("name", "the table's name, taken as it is");
        section.finish();
        let schema = match schema {
            Some(field) => schema_name(&field, field.text()?)?,
            None => defaults::SCHEMA.to_owned(),
        };
        let name = name?;
        return Some(TableName { schema, name: table_name(&name, name.text()?)? });
    }
    let text = field.text()?;
    let (schema, name) = text.split_once('.').unwrap_or((defaults::SCHEMA, &text));
    if schema.is_empty() || name.is_empty() || name.contains('.') {
        field.mistake("must be a table or schema.table", "a name with dots: { schema: public, name: a.b }");
        return None;
    }
    let schema = schema_name(&field, schema.to_owned())?;
    Some(TableName { schema, name: table_name(&field, name.to_owned())? })
}

fn schema_name(field: &Field<'_>, name: String) -> Option<String> {
    if let Some(mistake) = schema_mistake(&name) {
        let hint = if mistake.starts_with("must not be longer") { "the schema's name" } else { "" };
        field.mistake(mistake, hint);
        return None;
    }
    Some(name)
}

fn table_name(field: &Field<'_>, name: String) -> Option<String> {
    if name.len() > NAME_BYTES {
        field.mistake("must not be longer than 63 bytes", "PostgreSQL would cut the table's name off");
        return None;
    }
    Some(name)
}

fn default_table(section: &Section<'_>, collection: &Namespace) -> Option<TableName> {
    if collection.collection.len() > NAME_BYTES {
        let hint = "PostgreSQL would cut it off at 63 bytes";
        section.mistake_at("table", "is required where the collection's name is too long for a table", hint);
        return None;
    }
    Some(TableName { schema: defaults::SCHEMA.to_owned(), name: collection.collection.clone() })
}

fn schema_mode(section: &mut Section<'_>, whole_documents: bool) -> SchemaMode {
    let default = if whole_documents { SchemaMode::Create } else { SchemaMode::Expect };
    section
        .choice("schema", &[("expect", SchemaMode::Expect), ("create", SchemaMode::Create)])
        .unwrap_or(default)
}
