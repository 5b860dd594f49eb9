//! Unique values that change hands. A row is refused because another one still has its value; if that other one
//! gives it up in the same call, both are written as one set: their old values make way first, so that a chain
//! and a circle end like anything else.

use sqlx::PgConnection;

use super::catalog;
use super::error::{Disposition, Error};
use super::isolate::{isolated, run};
use super::keyed::key_arguments;
use super::statement;
use super::write::Merge;
use super::{Outcome, Target};
use crate::domain::{Portion, Reason, Rejection, Row, RowKey};

/// Around several attempts, each with savepoints of its own.
const SAVEPOINT: &str = "savepoint rowstream_exchange";
const RELEASE: &str = "release savepoint rowstream_exchange";
const ROLLBACK: &str = "rollback to savepoint rowstream_exchange; release savepoint rowstream_exchange";

/// A row and why it was refused.
type Refused<'r> = Vec<(&'r Row, Rejection)>;

/// Writes those of the refused rows that only stood in each other's way; the others stay refused, and the rows
/// they have stay as they are.
pub(super) async fn exchange<'r>(
    conn: &mut PgConnection,
    target: &Target,
    portion: Portion,
    refused: Refused<'r>,
) -> Result<(Outcome, Refused<'r>), Error> {
    let is_unique = |(_, rejection): &(&Row, Rejection)| rejection.reason == Reason::UniqueViolation;
    let (colliding, mut refused): (Refused<'r>, Refused<'r>) = refused.into_iter().partition(is_unique);
    if colliding.is_empty() {
        return Ok((Outcome::default(), refused));
    }
    // One alone has nobody to exchange with, but who was in its way may have been written after it.
    let way = if colliding.len() > 1 { way_to_give(conn, target).await? } else { None };
    let mut set: Vec<&'r Row> = colliding.into_iter().map(|(row, _)| row).collect();
    loop {
        run(conn, target, SAVEPOINT).await?;
        if let Some(sql) = &way
            && let Err(error) = give_way(conn, target, sql, &set).await
        {
            let Disposition::Hold(rejection) = error.disposition() else { return Err(error) };
            run(conn, target, ROLLBACK).await?;
            refused.extend(set.into_iter().map(|row| (row, rejection.clone())));
            return Ok((Outcome::default(), refused));
        }
        let (outcome, still) = isolated(conn, target, &Merge { target, portion }, &set).await?;
        if still.is_empty() {
            run(conn, target, RELEASE).await?;
            return Ok((outcome, refused));
        }
        // They are in nobody's way any more, or nobody gives way to them: without them, from where it began.
        run(conn, target, ROLLBACK).await?;
        let still: Refused<'r> = still.into_iter().map(|(row, rejection)| (*row, rejection)).collect();
        set.retain(|row| !still.iter().any(|(refused, _)| refused.source_id == row.source_id));
        refused.extend(still);
        if set.is_empty() {
            return Ok((Outcome::default(), refused));
        }
    }
}

/// The statement that takes rows out of each other's way; `None` if no column of a unique key can.
async fn way_to_give(conn: &mut PgConnection, target: &Target) -> Result<Option<String>, Error> {
    let mapping = &target.mapping;
    let Some(table) = catalog::read_table(conn, &mapping.table).await? else { return Ok(None) };
    let mut columns: Vec<usize> = Vec::new();
    for unique in &table.unique_keys {
        let places = mapping.columns.iter().enumerate().filter(|(place, column)| {
            let is_referring = || table.foreign_keys.iter().any(|key| key.columns.contains(&column.name));
            unique.columns.contains(&column.name)
                && !mapping.key.has(*place)
                && !column.insert_only
                && statement::placeholder(column).is_some()
                && (!column.not_null || !is_referring())
        });
        // A column that may be null needs no made-up value.
        if let Some((place, _)) = places.min_by_key(|(_, column)| column.not_null)
            && !columns.contains(&place)
        {
            columns.push(place);
        }
    }
    Ok((!columns.is_empty()).then(|| statement::give_way(mapping, &columns)))
}

async fn give_way(conn: &mut PgConnection, target: &Target, sql: &str, rows: &[&Row]) -> Result<(), Error> {
    let keys: Vec<RowKey> =
        rows.iter().filter_map(|row| target.mapping.key.row_key(&row.tuple).ok()).collect();
    let arguments = key_arguments(target, keys.iter())
        .map_err(|source| Error::Malformed { table: target.mapping.table.clone(), source })?;
    let done = sqlx::query_with(statement::safe(sql), arguments).execute(conn).await;
    done.map(drop)
        .map_err(|source| Error::from_sqlx(&target.mapping.table, "let unique values change hands", source))
}
