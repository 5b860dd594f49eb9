//! Changes that could not be applied, one per document, with their reason. A later success of the
//! same key resolves the entry.

mod entries;
mod occupied;

use std::collections::HashMap;
use std::time::Duration;

use sqlx::postgres::types::PgInterval;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::{Arguments, PgConnection, Row};

pub use entries::{
    After, Filter, Group, HeldChange, Kept, Page, State, WaitsFor, discard, find, is_led, kept, list, retry,
    summary, waits,
};
pub use occupied::{Occupied, occupants, occupied, pass_on, release, targets};

use super::transaction::literal;
use crate::domain::{CanonicalId, Collision, Reason, Rejection};

/// Which entries follows.
macro_rules! resolve {
    () => {
        "update rowstream.held set state = 'resolved', resolved_at = now(), document = null, occupant = null,
             occupied_value = null
         where state <> 'resolved' and"
    };
}

/// What is written when a change is held.
#[derive(Debug, Clone)]
pub struct Entry {
    pub source_id: String,
    pub id: CanonicalId,
    pub rejection: Rejection,
    /// Whose row is in its way, where that is known.
    pub collision: Option<Collision>,
    /// Absent when keeping documents is switched off, or the document is above the size cap.
    pub document: Option<Vec<u8>>,
    pub document_bytes: Option<i64>,
}

/// How fast retries slow down, and how long a change may wait for a row.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    pub initial: Duration,
    pub max: Duration,
    pub waiting_limit: Duration,
}

/// How a change is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldAs {
    /// `waiting` or `failed`.
    pub state: State,
    /// For the first time, and for another reason than a row that is not there yet.
    pub is_new_fault: bool,
    /// It has waited for longer than the limit, and had not when it was tried before.
    pub is_overdue: bool,
    /// Another row has its unique value, and it was not in the way when it was tried before.
    pub collides_anew: bool,
}

/// A held change whose next attempt is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    pub source: String,
    pub id: CanonicalId,
    /// Microseconds since 1970 by PostgreSQL's clock: another one after every attempt.
    pub due_at: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    pub source: String,
    pub state: String,
    pub count: i64,
}

fn interval(duration: Duration) -> PgInterval {
    PgInterval { months: 0, days: 0, microseconds: duration.as_micros() as i64 }
}

/// A row that is not there yet may come by itself; everything else needs somebody.
fn state_of(rejection: &Rejection) -> State {
    match rejection.reason {
        Reason::UnresolvedReference => State::Waiting,
        _ => State::Failed,
    }
}

/// What one statement holds at most: enough that round trips do not count, little enough for one message.
const ENTRIES_AT_ONCE: usize = 1_000;
const BYTES_AT_ONCE: usize = 4 * 1024 * 1024;

/// Holds these changes; one that was held before counts an attempt more, and waits twice as long. What waits for
/// a row is `waiting`, until that has lasted for too long: then it wants somebody to look. `target` is the table and its
/// key. In the order of `entries`.
pub async fn hold(
    connection: &mut PgConnection,
    pipeline: &str,
    source: &str,
    target: &str,
    entries: &[Entry],
    backoff: Backoff,
) -> Result<Vec<HeldAs>, sqlx::Error> {
    let mut held = HashMap::with_capacity(entries.len());
    let mut rest = entries;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(fitting(rest));
        held.extend(hold_some(connection, pipeline, source, target, now, backoff).await?);
        rest = later;
    }
    Ok(entries.iter().filter_map(|entry| held.get(&entry.source_id).copied()).collect())
}

/// How many of the entries go into one statement; at least one.
fn fitting(entries: &[Entry]) -> usize {
    let mut bytes = 0;
    let fits = |entry: &&Entry| {
        bytes += entry.source_id.len() + entry.document.as_ref().map_or(0, Vec::len);
        bytes <= BYTES_AT_ONCE
    };
    entries.iter().take(ENTRIES_AT_ONCE).take_while(fits).count().max(1)
}

async fn hold_some(
    connection: &mut PgConnection,
    pipeline: &str,
    source: &str,
    target: &str,
    entries: &[Entry],
    backoff: Backoff,
) -> Result<Vec<(String, HeldAs)>, sqlx::Error> {
    let collisions = || entries.iter().map(|entry| entry.collision.as_ref());
    let rows = sqlx::query(include_str!("held/hold.sql"))
        .bind(pipeline)
        .bind(source)
        .bind(interval(backoff.initial))
        .bind(interval(backoff.max))
        .bind(interval(backoff.waiting_limit))
        .bind(entries.iter().map(|entry| entry.source_id.as_str()).collect::<Vec<_>>())
        .bind(entries.iter().map(|entry| entry.id.as_bytes()).collect::<Vec<_>>())
        .bind(entries.iter().map(|entry| state_of(&entry.rejection).as_str()).collect::<Vec<_>>())
        .bind(entries.iter().map(|entry| entry.rejection.reason.as_str()).collect::<Vec<_>>())
        .bind(entries.iter().map(|entry| entry.rejection.message.as_str()).collect::<Vec<_>>())
        .bind(entries.iter().map(|entry| entry.rejection.column.as_deref()).collect::<Vec<_>>())
        .bind(entries.iter().map(|entry| entry.document.as_deref()).collect::<Vec<_>>())
        .bind(entries.iter().map(|entry| entry.document_bytes).collect::<Vec<_>>())
        .bind(target)
        .bind(collisions().map(|one| one.map(|one| occupied::text(&one.columns))).collect::<Vec<_>>())
        .bind(collisions().map(|one| one.map(|one| one.value.as_slice())).collect::<Vec<_>>())
        .bind(collisions().map(|one| one.map(|one| one.occupant.as_bytes())).collect::<Vec<_>>())
        .fetch_all(&mut *connection)
        .await?;
    let held = |row: PgRow| {
        let state = if row.get("is_failed") { State::Failed } else { State::Waiting };
        let held = HeldAs {
            state,
            is_new_fault: row.get("is_new_fault"),
            is_overdue: row.get("is_overdue"),
            collides_anew: row.get("collides_anew"),
        };
        (row.get("source_id"), held)
    };
    Ok(rows.into_iter().map(held).collect())
}

/// A document was just held since another row has its unique value, which was not in its way before. That row's own
/// document may be held for the like reason: those that were tried last are due at once, so that they are tried together.
pub async fn try_together(
    connection: &mut PgConnection,
    pipeline: &str,
    source: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "with colliding as (
             select source_id from rowstream.held
             where pipeline = $1 and source = $2 and state <> 'resolved' and reason = 'unique_violation'
             order by last_attempt_at desc limit 100
         )
         update rowstream.held as h set next_attempt_at = now() from colliding
         where h.pipeline = $1 and h.source = $2 and h.source_id = colliding.source_id
           and (select count(*) from colliding) > 1",
    )
    .bind(pipeline)
    .bind(source)
    .execute(connection)
    .await?;
    Ok(())
}

/// These documents are applied: what was held for them is over. Returns how many were.
pub async fn resolve(
    connection: &mut PgConnection,
    pipeline: &str,
    source: &str,
    source_ids: &[&str],
) -> Result<u64, sqlx::Error> {
    let done = sqlx::query(concat!(resolve!(), " pipeline = $1 and source = $2 and source_id = any($3)"))
        .bind(pipeline)
        .bind(source)
        .bind(source_ids)
        .execute(connection)
        .await?;
    Ok(done.rows_affected())
}

/// As [`resolve`], as SQL: the ids are this parameter. Ends with its conditions.
pub fn resolving(pipeline: &str, source: &str, parameter: usize) -> String {
    format!(
        "{} pipeline = {} and source = {} and source_id = any(${parameter}::text[])",
        resolve!(),
        literal(pipeline),
        literal(source)
    )
}

/// The parameter of [`resolving`].
pub fn add_ids(arguments: &mut PgArguments, source_ids: &[&str]) -> Result<(), sqlx::Error> {
    arguments.add(source_ids).map_err(sqlx::Error::Encode)
}

/// The collection is gone: so are all reasons to hold its changes.
pub async fn resolve_source(
    connection: &mut PgConnection,
    pipeline: &str,
    source: &str,
) -> Result<u64, sqlx::Error> {
    let done = sqlx::query(concat!(resolve!(), " pipeline = $1 and source = $2"))
        .bind(pipeline)
        .bind(source)
        .execute(connection)
        .await?;
    Ok(done.rows_affected())
}

/// What is to be tried again now, oldest first.
pub async fn due(
    connection: &mut PgConnection,
    pipeline: &str,
    sources: &[&str],
    limit: i64,
) -> Result<Vec<Due>, sqlx::Error> {
    let rows = sqlx::query(
        "select source, id, (extract(epoch from next_attempt_at) * 1000000)::bigint as due_at from rowstream.held
         where pipeline = $1 and source = any($3) and state <> 'resolved'
           and next_attempt_at <= clock_timestamp()
         order by next_attempt_at limit $2",
    )
    .bind(pipeline)
    .bind(limit)
    .bind(sources)
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Due {
            source: row.get("source"),
            id: CanonicalId::from_bytes(row.get("id")),
            due_at: row.get("due_at"),
        })
        .collect())
}

pub async fn counts(connection: &mut PgConnection, pipeline: &str) -> Result<Vec<Count>, sqlx::Error> {
    let rows = sqlx::query(
        "select source, state, count(*) as count from rowstream.held where pipeline = $1 group by 1, 2",
    )
    .bind(pipeline)
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Count { source: row.get("source"), state: row.get("state"), count: row.get("count") })
        .collect())
}

/// Removes resolved entries that are older than the retention.
pub async fn purge(
    connection: &mut PgConnection,
    pipeline: &str,
    retention: Duration,
) -> Result<u64, sqlx::Error> {
    let done = sqlx::query(
        "delete from rowstream.held
         where pipeline = $1 and state = 'resolved' and resolved_at < now() - $2::interval",
    )
    .bind(pipeline)
    .bind(interval(retention))
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}
