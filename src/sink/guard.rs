//! Whether tables are still what their mappings were compiled against. PostgreSQL converts by assignment:
//! into a column that was narrowed behind our back it rounds without a word.

use std::collections::BTreeSet;

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::Target;
use super::catalog::columns_hash;
use super::error::Error;
use super::statement::{self, Sql};
use crate::domain::TableName;
use crate::mapping::Mapping;

const GUARD: &str = include_str!("guard.sql");

/// Once per connection, for [`guard`]: its plan costs more than its answer.
pub fn prepare_guard() -> String {
    format!("prepare rowstream_guard (text[], text[], text[]) as {GUARD}")
}

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

/// Compares the targets' tables with what their mappings were compiled against; its rows are for [`changed`].
/// Says nothing about what happens afterwards, unless the tables were locked before. `None` without targets.
pub fn guard(targets: &[&Target]) -> Option<Sql> {
    let wanted: BTreeSet<(&TableName, &str)> = targets
        .iter()
        .map(|target| (&target.mapping.table, columns_hash(&target.mapping.fingerprint)))
        .collect();
    if wanted.is_empty() { None } else { Some(statement::guard(&wanted)) }
}

/// As [`guard`], of one table, as a query of its own.
pub(super) fn text(mapping: &Mapping) -> String {
    let hash = columns_hash(&mapping.fingerprint);
    let wanted = [&mapping.table.schema, &mapping.table.name, hash];
    let arrays = wanted.map(|value| format!("array[{}]", statement::literal(value))).join(", ");
    let query = GUARD.find("select").map_or(GUARD, |start| &GUARD[start..]);
    query.replace("$1::text[], $2::text[], $3::text[]", &arrays)
}

/// The error of a row of a guard: the table it names has other columns now.
pub fn changed(row: &PgRow) -> Option<Error> {
    match (row.try_get("changed_schema"), row.try_get("changed_table")) {
        (Ok(schema), Ok(name)) => Some(Error::CatalogChanged { table: TableName { schema, name } }),
        _ => None,
    }
}
