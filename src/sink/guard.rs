//! Whether tables are still what their mappings were compiled against. PostgreSQL converts by assignment:
//! into a column that was narrowed behind our back it rounds without a word.

use std::collections::BTreeSet;

use sqlx::PgConnection;

use super::Target;
use super::catalog::columns_hash;
use super::error::Error;
use super::statement::{self, Sql};
use crate::domain::TableName;

const GUARD: &str = include_str!("guard.sql");

/// Locks the targets' tables, each once and in one order, against changes of their columns until the
/// transaction ends; `None` without targets.
pub fn lock(targets: &[&Target]) -> Option<Sql> {
    let tables: BTreeSet<&TableName> = targets.iter().map(|target| &target.mapping.table).collect();
    if tables.is_empty() { None } else { Some(statement::lock(tables.into_iter())) }
}

/// What it means that the statement with `lock` failed.
pub fn lock_error(targets: &[&Target], source: sqlx::Error) -> Error {
    let tables: BTreeSet<&TableName> = targets.iter().map(|target| &target.mapping.table).collect();
    Error::of_tables(tables.into_iter().cloned().collect(), "lock the table", source)
}

/// An error if a target's table has other columns than its mapping was compiled against. Says nothing about
/// what happens afterwards, unless the tables were locked before.
pub async fn guard(conn: &mut PgConnection, targets: &[&Target]) -> Result<(), Error> {
    let wanted: BTreeSet<(&TableName, &str)> = targets
        .iter()
        .map(|target| (&target.mapping.table, columns_hash(&target.mapping.fingerprint)))
        .collect();
    let Some((first, _)) = wanted.first() else { return Ok(()) };
    let schemas: Vec<&str> = wanted.iter().map(|(table, _)| table.schema.as_str()).collect();
    let names: Vec<&str> = wanted.iter().map(|(table, _)| table.name.as_str()).collect();
    let hashes: Vec<&str> = wanted.iter().map(|(_, hash)| *hash).collect();
    let changed: Option<(String, String)> = sqlx::query_as(GUARD)
        .bind(schemas)
        .bind(names)
        .bind(hashes)
        .fetch_optional(conn)
        .await
        .map_err(|source| Error::from_sqlx(first, "compare the catalog", source))?;
    match changed {
        None => Ok(()),
        Some((schema, name)) => Err(Error::CatalogChanged { table: TableName { schema, name } }),
    }
}
