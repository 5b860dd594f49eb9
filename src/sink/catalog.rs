//! What the catalog says about a table. One query tells the shape and hashes it, so that whatever a
//! mapping is compiled against is also what its fingerprint covers.

use serde::Deserialize;
use sqlx::PgConnection;

use super::error::Error;
use super::statement;
use crate::domain::{Column, ColumnType, ForeignKey, Sequence, Table, TableName, TextKind, UniqueKey};
use crate::mapping::Draft;

const TABLE: &str = include_str!("table.sql");
const MISSING_TABLES: &str = "select wanted.schema, wanted.name
    from unnest($1::text[], $2::text[]) as wanted (schema, name)
    where not exists (
        select from pg_catalog.pg_class c
        join pg_catalog.pg_namespace n on n.oid = c.relnamespace
        where n.nspname = wanted.schema and c.relname = wanted.name and c.relkind in ('r', 'p', 'v', 'm', 'f'))";
const HAS_SCHEMA: &str = "select exists (select from pg_catalog.pg_namespace where nspname = $1)";

#[derive(sqlx::FromRow)]
struct Answer {
    shape: String,
    fingerprint: String,
    indexes: String,
    element_indexes: String,
    missing_privileges: String,
    missing_column_privileges: String,
    row_security: bool,
}

#[derive(Deserialize)]
struct Shape {
    oid: u32,
    kind: char,
    columns: Vec<ShapeColumn>,
    unique_keys: Vec<ShapeUniqueKey>,
    foreign_keys: Vec<ShapeForeignKey>,
    triggers: Vec<String>,
    rules: Vec<String>,
}

#[derive(Deserialize)]
struct ShapeColumn {
    name: String,
    type_oid: u32,
    type_name: String,
    modifier: i32,
    /// The base type without modifiers, to cast to.
    cast_sql: String,
    type_sql: String,
    not_null: bool,
    has_default: bool,
    generated: bool,
    nondeterministic: bool,
    labels: Option<Vec<String>>,
    element: Option<ShapeElement>,
    sequence: Option<ShapeSequence>,
}

/// The type of an array's elements.
#[derive(Deserialize)]
struct ShapeElement {
    type_oid: u32,
    type_name: String,
    cast_sql: String,
    labels: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct ShapeSequence {
    schema: String,
    name: String,
    increment: i64,
    maximum: i64,
    cache: i64,
}

#[derive(Deserialize)]
struct ShapeUniqueKey {
    name: String,
    columns: Vec<String>,
    deferrable: bool,
    nondeterministic: bool,
    partial_or_expression: bool,
    predicate: Option<String>,
}

#[derive(Deserialize)]
struct ShapeForeignKey {
    name: String,
    columns: Vec<String>,
    schema: String,
    table: String,
    referenced_columns: Vec<String>,
    on_delete: char,
    on_update: char,
    deferrable: bool,
}

/// The table's shape; `None` if there is no such table.
pub async fn read_table(conn: &mut PgConnection, name: &TableName) -> Result<Option<Table>, Error> {
    let failed = |source| Error::from_sqlx(name, "read the catalog", source);
    let Some(answer) = answer(conn, name).await? else { return Ok(None) };
    let unreadable = |source| failed(sqlx::Error::Decode(Box::new(source)));
    let shape: Shape = serde_json::from_str(&answer.shape).map_err(unreadable)?;
    let missing_privileges: Vec<String> =
        serde_json::from_str(&answer.missing_privileges).map_err(unreadable)?;
    let missing_column_privileges =
        serde_json::from_str(&answer.missing_column_privileges).map_err(unreadable)?;
    let readable = !missing_privileges.iter().any(|name| name == "select" || name == "usage on schema");
    let is_empty =
        readable && sqlx::query_scalar(statement::is_empty(name)).fetch_one(conn).await.map_err(failed)?;
    Ok(Some(Table {
        name: name.clone(),
        oid: shape.oid,
        columns: shape.columns.into_iter().map(Column::from).collect(),
        unique_keys: shape.unique_keys.into_iter().map(UniqueKey::from).collect(),
        indexes: serde_json::from_str(&answer.indexes).map_err(unreadable)?,
        element_indexes: serde_json::from_str(&answer.element_indexes).map_err(unreadable)?,
        foreign_keys: shape.foreign_keys.into_iter().map(ForeignKey::from).collect(),
        triggers: shape.triggers,
        rules: shape.rules,
        row_security: answer.row_security,
        missing_privileges,
        missing_column_privileges,
        kind: shape.kind,
        is_empty,
        fingerprint: answer.fingerprint,
    }))
}

/// Those of the tables that are not there.
pub async fn missing_tables(
    conn: &mut PgConnection,
    names: impl Iterator<Item = &TableName>,
) -> Result<Vec<TableName>, Error> {
    let names: Vec<&TableName> = names.collect();
    let Some(first) = names.first() else { return Ok(Vec::new()) };
    let found: Vec<(String, String)> = sqlx::query_as(MISSING_TABLES)
        .bind(names.iter().map(|table| table.schema.as_str()).collect::<Vec<_>>())
        .bind(names.iter().map(|table| table.name.as_str()).collect::<Vec<_>>())
        .fetch_all(conn)
        .await
        .map_err(|source| Error::from_sqlx(first, "read the catalog", source))?;
    Ok(found.into_iter().map(|(schema, name)| TableName { schema, name }).collect())
}

/// The present `Table::fingerprint`; `None` if there is no such table.
pub async fn fingerprint(conn: &mut PgConnection, name: &TableName) -> Result<Option<String>, Error> {
    Ok(answer(conn, name).await?.map(|answer| answer.fingerprint))
}

/// A fingerprint has four parts, `kind.oid.versions.all`: all but the last answer what is asked of them alone.
pub(super) fn is_partitioned(fingerprint: &str) -> bool {
    fingerprint.split('.').next() == Some("p")
}

/// What `guard` compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ColumnsOf<'f> {
    pub(super) oid: &'f str,
    /// The transaction that each column is of, as an array.
    pub(super) versions: &'f str,
}

impl<'f> ColumnsOf<'f> {
    pub(super) fn new(fingerprint: &'f str) -> Self {
        let mut parts = fingerprint.split('.').skip(1);
        let mut next = || parts.next().unwrap_or_default();
        Self { oid: next(), versions: next() }
    }
}

async fn answer(conn: &mut PgConnection, name: &TableName) -> Result<Option<Answer>, Error> {
    sqlx::query_as(TABLE)
        .bind(&name.schema)
        .bind(&name.name)
        .fetch_optional(conn)
        .await
        .map_err(|source| Error::from_sqlx(name, "read the catalog", source))
}

/// The DDL of a table that does not exist, its schema included where that is missing too.
pub async fn create_sql(conn: &mut PgConnection, draft: &Draft) -> Result<String, Error> {
    let has_schema: bool = sqlx::query_scalar(HAS_SCHEMA)
        .bind(&draft.table.schema)
        .fetch_one(conn)
        .await
        .map_err(|source| Error::from_sqlx(&draft.table, "read the catalog", source))?;
    Ok(statement::create(draft, !has_schema))
}

/// Creates what `create_sql` says. One that came in between is left as it is.
pub async fn create_table(conn: &mut PgConnection, draft: &Draft) -> Result<(), Error> {
    let sql = create_sql(conn, draft).await?;
    sqlx::raw_sql(statement::safe(&sql))
        .execute(conn)
        .await
        .map_err(|source| Error::from_sqlx(&draft.table, "create the table", source))?;
    Ok(())
}

/// A comment in SQL that says that nothing is to be done for a table.
pub fn existing_comment(table: &TableName) -> String {
    format!("-- {} is there already\n", statement::named_in_comment(table))
}

impl From<ShapeColumn> for Column {
    fn from(shape: ShapeColumn) -> Self {
        Self {
            column_type: column_type(&shape),
            name: shape.name,
            type_sql: shape.type_sql,
            not_null: shape.not_null,
            has_default: shape.has_default,
            generated: shape.generated,
            nondeterministic: shape.nondeterministic,
            sequence: shape.sequence.map(|sequence| Sequence {
                name: TableName { schema: sequence.schema, name: sequence.name },
                increment: sequence.increment,
                maximum: sequence.maximum,
                cache: sequence.cache,
            }),
        }
    }
}

impl From<ShapeUniqueKey> for UniqueKey {
    fn from(shape: ShapeUniqueKey) -> Self {
        Self {
            name: shape.name,
            columns: shape.columns,
            deferrable: shape.deferrable,
            nondeterministic: shape.nondeterministic,
            partial_or_expression: shape.partial_or_expression,
            predicate: shape.predicate,
        }
    }
}

impl From<ShapeForeignKey> for ForeignKey {
    fn from(shape: ShapeForeignKey) -> Self {
        Self {
            name: shape.name,
            columns: shape.columns,
            references: TableName { schema: shape.schema, name: shape.table },
            referenced_columns: shape.referenced_columns,
            on_delete: shape.on_delete,
            on_update: shape.on_update,
            deferrable: shape.deferrable,
        }
    }
}

/// Built-in types are known by oid, which no user can take; citext is an extension's and has only a name.
fn column_type(shape: &ShapeColumn) -> ColumnType {
    let whole = ShapeElement {
        type_oid: shape.type_oid,
        type_name: shape.type_name.clone(),
        cast_sql: shape.cast_sql.clone(),
        labels: shape.labels.clone(),
    };
    let Some(element) = &shape.element else { return value_type(&whole, shape.modifier) };
    match value_type(element, shape.modifier) {
        ColumnType::Other(_) => ColumnType::Other(whole.cast_sql),
        element => ColumnType::Array { element: Box::new(element), cast_sql: whole.cast_sql },
    }
}

/// The modifier of an array is its elements'.
fn value_type(shape: &ShapeElement, modifier: i32) -> ColumnType {
    if let Some(labels) = &shape.labels {
        return ColumnType::Enum { labels: labels.clone() };
    }
    match shape.type_oid {
        16 => ColumnType::Bool,
        17 => ColumnType::Bytea,
        20 => ColumnType::Int8,
        21 => ColumnType::Int2,
        23 => ColumnType::Int4,
        25 => ColumnType::Text { kind: TextKind::Text, limit: None },
        114 => ColumnType::Json,
        700 => ColumnType::Float4,
        701 => ColumnType::Float8,
        1042 => ColumnType::Text { kind: TextKind::Bpchar, limit: length_limit(modifier) },
        1043 => ColumnType::Text { kind: TextKind::Varchar, limit: length_limit(modifier) },
        1082 => ColumnType::Date,
        1114 => ColumnType::Timestamp { precision: second_digits(modifier) },
        1184 => ColumnType::TimestampTz { precision: second_digits(modifier) },
        1700 => ColumnType::Numeric(numeric_limits(modifier)),
        2950 => ColumnType::Uuid,
        3802 => ColumnType::Jsonb,
        _ if shape.type_name == "citext" => ColumnType::Text { kind: TextKind::Citext, limit: None },
        _ => ColumnType::Other(shape.cast_sql.clone()),
    }
}

/// Modifiers of text and numeric count four bytes of a header that is long gone; -1 is none.
const MODIFIER_HEADER: i32 = 4;

fn length_limit(modifier: i32) -> Option<u32> {
    u32::try_from(modifier - MODIFIER_HEADER).ok()
}

fn second_digits(modifier: i32) -> u8 {
    u8::try_from(modifier).unwrap_or(6).min(6)
}

/// Precision in the upper half, scale in the lowest 11 bits as a signed number (since 15, else positive).
fn numeric_limits(modifier: i32) -> Option<(u16, i16)> {
    let packed = u32::try_from(modifier - MODIFIER_HEADER).ok()?;
    let precision = (packed >> 16) as u16;
    let scale = ((packed & 0x7ff) ^ 0x400) as i16 - 0x400;
    Some((precision, scale))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modifiers_of_numeric_have_signed_scales() {
        let modifier = |precision: i32, scale: i32| ((precision << 16) | (scale & 0x7ff)) + 4;
        assert_eq!(numeric_limits(-1), None);
        assert_eq!(numeric_limits(modifier(12, 2)), Some((12, 2)));
        assert_eq!(numeric_limits(modifier(5, -3)), Some((5, -3)));
        assert_eq!(numeric_limits(modifier(1000, 1000)), Some((1000, 1000)));
    }

    #[test]
    fn modifiers_without_a_limit_are_none() {
        assert_eq!(length_limit(-1), None);
        assert_eq!(length_limit(14), Some(10));
        assert_eq!(second_digits(-1), 6);
        assert_eq!(second_digits(3), 3);
    }
}
