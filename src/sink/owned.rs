//! Whether a document has its row, asked by people.

use sqlx::PgConnection;

use super::error::Error;
use super::statement;
use crate::domain::TableName;

/// Each with its column; a table of one source alone has no column for it. A table that is gone has no row.
pub async fn has_row(
    conn: &mut PgConnection,
    table_oid: u32,
    source: Option<(&str, &str)>,
    source_id: (&str, &str),
) -> Result<bool, Error> {
    let unnamed = TableName { schema: String::new(), name: format!("with the oid {table_oid}") };
    let found: Option<(String, String)> = sqlx::query_as(
        "select nspname::text, relname::text from pg_class join pg_namespace on pg_namespace.oid = relnamespace
         where pg_class.oid = $1::bigint::oid",
    )
    .bind(i64::from(table_oid))
    .fetch_optional(&mut *conn)
    .await
    .map_err(|error| Error::from_sqlx(&unnamed, "look for a table", error))?;
    let Some((schema, name)) = found else { return Ok(false) };
    let table = TableName { schema, name };
    sqlx::query_scalar(statement::has_row(&table, source.map(|(column, _)| column), source_id.0))
        .bind(source_id.1)
        .bind(source.map(|(_, source)| source))
        .fetch_one(conn)
        .await
        .map_err(|error| Error::from_sqlx(&table, "look for a row", error))
}
