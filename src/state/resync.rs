//! Sources whose rows may not be what their documents say, until a full comparison has repaired them: a mark in
//! `rowstream.mapping`, so that a restart does not forget it.

use std::fmt;

use sqlx::{PgConnection, Row};

/// Why the rows of a source are compared with all of its documents, and repaired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The mapping says something else than when its rows were written.
    Mapping,
    /// The collection was not followed for a while, or is another one.
    Scope,
    /// The table is another one.
    Table,
    /// The stream has skipped changes.
    History,
    /// An operator wants it.
    Command,
    /// The pipeline's state was forgotten; its rows were not.
    Reset,
}

impl Cause {
    /// As the state has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mapping => "mapping",
            Self::Scope => "scope",
            Self::Table => "table",
            Self::History => "history",
            Self::Command => "command",
            Self::Reset => "reset",
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let all = [Self::Mapping, Self::Scope, Self::Table, Self::History, Self::Command, Self::Reset];
        all.into_iter().find(|cause| cause.as_str() == text)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mapping => "its mapping has changed",
            Self::Scope => "its collection was not followed",
            Self::Table => "its table is another one",
            Self::History => "changes may have been lost",
            Self::Command => "an operator asked for it",
            Self::Reset => "the state was reset",
        })
    }
}

/// A source that is due.
#[derive(Debug, Clone, PartialEq)]
pub struct Due {
    pub source: String,
    pub cause: Cause,
    /// Seconds since 1970.
    pub since: f64,
    /// Its copy is done: until then there is nothing to compare.
    pub is_copied: bool,
}

/// These sources are due from now on. What is held of them is tried again at once, since it may be written now.
/// Call it in the transaction that makes it necessary.
pub async fn ask(
    connection: &mut PgConnection,
    pipeline: &str,
    sources: &[&str],
    cause: Cause,
) -> Result<u64, sqlx::Error> {
    let done = sqlx::query(
        "with due as (
             update rowstream.mapping set resync_since = clock_timestamp(), resync_cause = $3
             where pipeline = $1 and source = any($2) returning source),
         held as (
             update rowstream.held as h set next_attempt_at = least(h.next_attempt_at, clock_timestamp())
             from due where h.pipeline = $1 and h.source = due.source and h.state <> 'resolved')
         select source from due",
    )
    .bind(pipeline)
    .bind(sources)
    .bind(cause.as_str())
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// Those that are due; whatever is not mapped now stays so until it is.
pub async fn due(
    connection: &mut PgConnection,
    pipeline: &str,
    mapped: &[&str],
) -> Result<Vec<Due>, sqlx::Error> {
    let rows = sqlx::query(
        "select source, resync_cause, extract(epoch from resync_since)::float8, snapshot_state = 'done'
         from rowstream.mapping
         where pipeline = $1 and source = any($2) and resync_since is not null order by resync_since, source",
    )
    .bind(pipeline)
    .bind(mapped)
    .fetch_all(connection)
    .await?;
    let due = |row: sqlx::postgres::PgRow| Due {
        source: row.get(0),
        // The column's check constraint knows no other words.
        cause: Cause::parse(row.get(1)).unwrap_or(Cause::Command),
        since: row.get(2),
        is_copied: row.get(3),
    };
    Ok(rows.into_iter().map(due).collect())
}

/// These sources are what their documents say, by this run; one that was asked for again since it began is not.
pub async fn done(
    connection: &mut PgConnection,
    pipeline: &str,
    sources: &[&str],
    run: i64,
) -> Result<u64, sqlx::Error> {
    let done = sqlx::query(
        "update rowstream.mapping as m set resync_since = null, resync_cause = null
         from rowstream.reconcile_run as r
         where m.pipeline = $1 and m.source = any($2) and r.pipeline = m.pipeline and r.id = $3
             and m.resync_since <= r.started_at",
    )
    .bind(pipeline)
    .bind(sources)
    .bind(run)
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}
