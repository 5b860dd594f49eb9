//! Whether tables are still what their mappings were compiled against. PostgreSQL converts by assignment:
//! into a column that was narrowed behind our back it rounds without a word.

use std::collections::BTreeSet;

use sqlx::Row;
use sqlx::error::DatabaseError;
use sqlx::postgres::PgRow;

use super::Target;
use super::catalog::ColumnsOf;
use super::error::Error;
use super::statement::{self, Sql};
use crate::domain::TableName;
use crate::mapping::Mapping;

const GUARD: &str = include_str!("guard.sql");
const PARAMETERS: &str = "$1::text[], $2::text[], $3::oid[], $4::text[]";

/// Once per connection, for [`guard`]: its plan costs more than its answer.
pub fn prepare_guard() -> String {
    format!("prepare rowstream_guard (text[], text[], oid[], text[]) as {GUARD}")
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
    let wanted: BTreeSet<(&TableName, ColumnsOf<'_>)> = targets
        .iter()
        .map(|target| (&target.mapping.table, ColumnsOf::new(&target.mapping.fingerprint)))
        .collect();
    if wanted.is_empty() { None } else { Some(statement::guard(&wanted)) }
}

/// Fails with [`is_elsewhere`] unless these names still lead to the tables that were compared. No lock keeps the name of a
/// schema: what was compared and what a statement has written to may be two. `None` without targets.
pub fn same_names(targets: &[&Target]) -> Option<Sql> {
    let names: BTreeSet<(&TableName, &str)> = targets
        .iter()
        .map(|target| (&target.mapping.table, ColumnsOf::new(&target.mapping.fingerprint).oid))
        .collect();
    if names.is_empty() { None } else { Some(statement::same_names(&names)) }
}

pub fn is_elsewhere(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(DatabaseError::code).is_some_and(|code| code == statement::ELSEWHERE)
}

/// As [`guard`], of one table, as a query of its own.
pub(super) fn text(mapping: &Mapping) -> String {
    let ColumnsOf { oid, versions } = ColumnsOf::new(&mapping.fingerprint);
    let literals = [&mapping.table.schema, &mapping.table.name, oid, versions].map(statement::literal);
    let [schema, name, oid, versions] = literals;
    let wanted = format!("array[{schema}], array[{name}], array[{oid}]::oid[], array[{versions}]");
    let query = GUARD.find("select").map_or(GUARD, |start| &GUARD[start..]);
    query.replace(PARAMETERS, &wanted)
}

/// The error of a row of a guard: the table it names is another one, or its columns were altered.
pub fn changed(row: &PgRow) -> Option<Error> {
    match (row.try_get("changed_schema"), row.try_get("changed_table")) {
        (Ok(schema), Ok(name)) => Some(Error::CatalogChanged { table: TableName { schema, name } }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_has_the_parameters_that_are_replaced_and_no_others() {
        assert_eq!(GUARD.matches(PARAMETERS).count(), 1);
        let (_, query) = GUARD.split_once("select").expect("a query");
        assert_eq!(query.matches('$').count(), PARAMETERS.matches('$').count());
    }
}
