//! Rows in, rows out: merge, first load, delete.

use sqlx::PgConnection;

use super::arrays;
use super::copy;
use super::error::{Disposition, Error};
use super::exchange::exchange;
use super::guard;
use super::isolate::{Attempt, Savepoint, isolated, isolated_behind, run};
use super::keyed::{Delete, adopt, insert};
use super::occupant::name_occupants;
use super::statement::{self, ROLLBACK, SAVEPOINT};
use super::{Outcome, Target};
use crate::domain::{ColumnType, Portion, Rejection, Row, RowKey};

/// Rows and bytes of one merge statement. Up to here arrays are as fast as COPY into a staging table and
/// merging from there; beyond, PostgreSQL pays for the size of the arrays.
const MERGE_ROWS: usize = 4_000;
const MERGE_BYTES: usize = 4 * 1024 * 1024;

/// Below this many bytes a merge is faster than COPY, whose last packet waits for an acknowledgement
/// (sqlx leaves Nagle's algorithm on): 40 ms.
const COPY_BYTES: usize = 512 * 1024;

/// Inserts or updates the rows by their key; equal rows are left alone. Of rows with one id the last wins.
/// `portion`: of what one statement takes at the most, here as everywhere below.
pub async fn upsert(
    conn: &mut PgConnection,
    target: &Target,
    rows: &[Row],
    portion: Portion,
) -> Result<Outcome, Error> {
    upsert_behind(conn, target, rows, portion, Savepoint::Missing).await
}

/// As [`upsert`], behind a savepoint that may be set already: a round trip less.
pub async fn upsert_behind(
    conn: &mut PgConnection,
    target: &Target,
    rows: &[Row],
    portion: Portion,
    savepoint: Savepoint,
) -> Result<Outcome, Error> {
    let ordered = in_key_order(rows);
    let merge = Merge { target, portion };
    let (mut outcome, refused) = isolated_behind(conn, target, &merge, &ordered, savepoint).await?;
    let refused = refused.into_iter().map(|(row, rejection)| (*row, rejection)).collect();
    let (exchanged, mut refused) = exchange(conn, target, portion, refused).await?;
    let collisions = name_occupants(conn, target, &mut refused).await?;
    outcome.add(exchanged);
    outcome.collisions.extend(collisions);
    outcome.rejected.extend(refused.into_iter().map(|(row, rejection)| (row.id.clone(), rejection)));
    outcome.unchanged += (rows.len() - ordered.len()) as u64;
    Ok(outcome)
}

/// The rows of a first load: straight into the table while every key is new, else as `upsert`. A COPY is one
/// statement, so only a whole portion goes that way.
pub async fn insert_new(
    conn: &mut PgConnection,
    target: &Target,
    rows: &[Row],
    portion: Portion,
) -> Result<Outcome, Error> {
    let bytes: usize = rows.iter().map(|row| row.tuple.len()).sum();
    let as_text = target
        .mapping
        .columns
        .iter()
        .any(|column| matches!(column.column_type, ColumnType::Array { .. } | ColumnType::Other(_)))
        // The time of a write is told by the merge.
        || target.mapping.sync.at.is_some();
    let by_rows = as_text || bytes < COPY_BYTES || !portion.is_whole();
    if by_rows || !target.statements.keys.adopt.is_empty() {
        return write_new(conn, target, rows, portion).await;
    }
    check_columns(conn, target).await?;
    let ordered = in_key_order(rows);
    match copy::copy_rows(conn, &target.statements.copy, &ordered).await {
        Ok(inserted) => {
            let unchanged = (rows.len() as u64).saturating_sub(inserted);
            Ok(Outcome { inserted, unchanged, ..Outcome::default() })
        }
        Err(source) => {
            let error = Error::from_sqlx(&target.mapping.table, "copy rows", source);
            let (Disposition::Hold(_) | Disposition::Suspect(_)) = error.disposition() else {
                return Err(error);
            };
            run(conn, target, ROLLBACK).await?;
            let outcome = write_new(conn, target, rows, portion).await?;
            Ok(Outcome { fell_back: true, ..outcome })
        }
    }
}

/// Deletes every row of the mapping's source; how many there were.
async fn delete_source(conn: &mut PgConnection, target: &Target) -> Result<u64, Error> {
    let mut query = sqlx::query(statement::safe(&target.statements.delete_source));
    if target.mapping.key.source().is_some() {
        query = query.bind(&target.mapping.source);
    }
    let done = query
        .execute(conn)
        .await
        .map_err(|source| Error::from_sqlx(&target.mapping.table, "delete the rows of a source", source))?;
    Ok(done.rows_affected())
}

/// Rows of which none should be there. Where rows do not say whose they are, one that is there is nobody's.
async fn write_new(
    conn: &mut PgConnection,
    target: &Target,
    rows: &[Row],
    portion: Portion,
) -> Result<Outcome, Error> {
    if target.mapping.key.is_claimed() && !target.mapping.key.adopts_by_key {
        insert(conn, target, rows, portion).await
    } else {
        upsert(conn, target, rows, portion).await
    }
}

/// What became of the rows of a source: `drop_rows`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dropped {
    pub deleted: u64,
    /// Why rows stay, one for each.
    pub refused: Vec<Rejection>,
}

/// Deletes the rows of the mapping's source that can be deleted: all at once, or if one is refused or that
/// takes too long, page by page, so that the others go and memory stays bounded. Only where the rows say whose
/// they are.
pub async fn drop_rows(conn: &mut PgConnection, target: &Target, portion: Portion) -> Result<Dropped, Error> {
    if portion.is_whole() {
        run(conn, target, SAVEPOINT).await?;
        let error = match delete_source(conn, target).await {
            Ok(deleted) => return Ok(Dropped { deleted, refused: Vec::new() }),
            Err(error) => error,
        };
        let (Disposition::Hold(_) | Disposition::Suspect(_)) = error.disposition() else { return Err(error) };
        run(conn, target, ROLLBACK).await?;
    }
    let mut dropped = Dropped::default();
    let mut last = None;
    loop {
        let page = source_ids_after(conn, target, last.as_deref()).await?;
        let keys: Vec<RowKey> = page.iter().map(|id| RowKey::of_text(id)).collect();
        let (outcome, refused) = isolated(conn, target, &Delete { target, portion }, &keys).await?;
        dropped.deleted += outcome.deleted;
        dropped.refused.extend(refused.into_iter().map(|(_, rejection)| rejection));
        last = page.into_iter().next_back();
        if last.is_none() {
            return Ok(dropped);
        }
    }
}

/// The next page of the source_ids of the mapping's rows, in the column's order.
pub async fn source_ids_after(
    conn: &mut PgConnection,
    target: &Target,
    last: Option<&str>,
) -> Result<Vec<String>, Error> {
    let mut query = sqlx::query_scalar(statement::safe(&target.statements.source_ids)).bind(last);
    if target.mapping.key.source().is_some() {
        query = query.bind(&target.mapping.source);
    }
    query
        .fetch_all(conn)
        .await
        .map_err(|source| Error::from_sqlx(&target.mapping.table, "read the ids of a source", source))
}

/// Fresh statistics for a table that was just filled. A role that does not own the table gets a warning
/// from the server, which is no error.
pub async fn analyze(conn: &mut PgConnection, target: &Target) -> Result<(), Error> {
    let done = sqlx::raw_sql(statement::safe(&target.statements.analyze)).execute(conn).await;
    done.map(drop).map_err(|source| Error::from_sqlx(&target.mapping.table, "analyze the table", source))
}

/// COPY takes bytes for what the column is now: the table must be the one the mapping was compiled against, and
/// stay so until the transaction ends. Sets the savepoint behind it, in the same round trip.
async fn check_columns(conn: &mut PgConnection, target: &Target) -> Result<(), Error> {
    let table = &target.mapping.table;
    let answers = sqlx::raw_sql(statement::safe(&target.statements.begin_copy)).fetch_all(conn).await;
    let answers = answers.map_err(|source| Error::from_sqlx(table, "lock the table", source))?;
    answers.iter().find_map(guard::changed).map_or(Ok(()), Err)
}

/// By key, so that writers meet rows in one order; the last of those with the same key.
pub(super) fn in_key_order(rows: &[Row]) -> Vec<&Row> {
    let mut ordered: Vec<&Row> = rows.iter().rev().collect();
    // A stable sort of the reversed rows: the last one given stands first among its equals.
    ordered.sort_by(|left, right| left.source_id.cmp(&right.source_id));
    ordered.dedup_by(|later, first| later.source_id == first.source_id);
    ordered
}

pub(super) struct Merge<'a> {
    pub(super) target: &'a Target,
    pub(super) portion: Portion,
}

impl Attempt<&Row> for Merge<'_> {
    async fn attempt(&self, conn: &mut PgConnection, rows: &[&Row]) -> Result<Outcome, Error> {
        let mut outcome = Outcome::default();
        let mut rest = rows;
        while !rest.is_empty() {
            let (part, after) = rest.split_at(merge_length(rest, self.portion));
            adopt(conn, self.target, part).await?;
            outcome.add(merge(conn, self.target, part).await?);
            rest = after;
        }
        Ok(outcome)
    }
}

/// How many of these rows go into one statement: at least one.
pub(super) fn merge_length(rows: &[&Row], portion: Portion) -> usize {
    let mut bytes = 0;
    let fitting = rows.iter().take(portion.of(MERGE_ROWS)).take_while(|row| {
        bytes += row.tuple.len();
        bytes <= portion.of(MERGE_BYTES)
    });
    fitting.count().max(1)
}

pub(super) async fn merge(conn: &mut PgConnection, target: &Target, rows: &[&Row]) -> Result<Outcome, Error> {
    let table = &target.mapping.table;
    let arguments = arrays::arguments(&target.wire_types, rows.iter().map(|row| &row.tuple[..]))
        .map_err(|source| Error::Malformed { table: table.clone(), source })?;
    let (inserted, updated): (i64, i64) =
        sqlx::query_as_with(statement::safe(&target.statements.merge), arguments)
            .fetch_one(conn)
            .await
            .map_err(|source| Error::from_sqlx(table, "merge rows", source))?;
    let (inserted, updated) = (inserted.unsigned_abs(), updated.unsigned_abs());
    let unchanged = (rows.len() as u64).saturating_sub(inserted + updated);
    Ok(Outcome { inserted, updated, unchanged, ..Outcome::default() })
}
