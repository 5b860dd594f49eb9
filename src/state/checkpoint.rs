//! How far the stream is applied.

use std::fmt::Write as _;
use std::time::Duration;

use sqlx::error::DatabaseError;
use sqlx::postgres::PgArguments;
use sqlx::{Arguments, PgConnection, Row};

use super::lease::Epoch;
use super::transaction::literal;
use crate::domain::{ClusterTime, Position, ResumeToken};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    pub position: Position,
    /// Counts commits. Whoever finds another number than the one it left has been replaced, or
    /// PostgreSQL was put back to an older state.
    pub seq: i64,
    /// Of the watched collections and the filter the token was made under.
    pub scope_hash: String,
    /// Since it was written, by PostgreSQL's clock.
    pub age: Duration,
}

pub async fn load(connection: &mut PgConnection, pipeline: &str) -> Result<Option<Checkpoint>, sqlx::Error> {
    let row = sqlx::query(
        "select token, cluster_time, scope_hash, seq,
                greatest(extract(epoch from clock_timestamp() - committed_at), 0)::float8 as age
         from rowstream.checkpoint where pipeline = $1",
    )
    .bind(pipeline)
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| Checkpoint {
        position: Position {
            token: row.get::<Option<Vec<u8>>, _>("token").map(ResumeToken),
            time: ClusterTime::from_i64(row.get("cluster_time")),
        },
        seq: row.get("seq"),
        scope_hash: row.get("scope_hash"),
        age: Duration::from_secs_f64(row.get("age")),
    }))
}

/// The very first position of a pipeline. `false`: there is one already.
pub async fn start(
    connection: &mut PgConnection,
    pipeline: &str,
    epoch: Epoch,
    time: ClusterTime,
    scope_hash: &str,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "insert into rowstream.checkpoint (pipeline, token, cluster_time, scope_hash, epoch, seq, committed_at)
         values ($1, null, $2, $3, $4, 0, clock_timestamp()) on conflict do nothing",
    )
    .bind(pipeline)
    .bind(time.to_i64())
    .bind(scope_hash)
    .bind(epoch.0)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Once per connection, for [`advance`].
pub fn prepare_advance(pipeline: &str, epoch: Epoch, scope_hash: &str) -> String {
    format!(
        "prepare rowstream_advance (bytea, bigint, bigint) as with advanced as ({} returning seq)
         select 1 / count(*)::int as advanced from advanced",
        advancing(pipeline, epoch, scope_hash),
    )
}

/// Moves on by one commit: ($1: token, $2: cluster time, $3: the number of the commit before). Ends with its
/// conditions; updates nothing if the state is not the one this leader left.
pub fn advancing(pipeline: &str, epoch: Epoch, scope_hash: &str) -> String {
    format!(
        "update rowstream.checkpoint
         set token = $1, cluster_time = $2, scope_hash = {}, epoch = {epoch}, seq = seq + 1,
             committed_at = clock_timestamp()
         where pipeline = {} and epoch <= {epoch} and seq = $3",
        literal(scope_hash),
        literal(pipeline),
        epoch = epoch.0,
    )
}

/// How many parameters [`advancing`] has.
pub const ARGUMENTS: usize = 3;

/// The parameters of [`advancing`].
pub fn arguments(previous_seq: i64, position: &Position) -> Result<PgArguments, sqlx::Error> {
    let mut arguments = PgArguments::default();
    let token = position.token.as_ref().map(|token| &token.0[..]);
    let added = arguments.add(token);
    let added = added.and_then(|()| arguments.add(position.time.to_i64()));
    added.and_then(|()| arguments.add(previous_seq)).map_err(sqlx::Error::Encode)?;
    Ok(arguments)
}

/// Moves on by one commit. Fails with [`is_replaced`] if the state is not the one this leader left.
pub fn advance(previous_seq: i64, position: &Position) -> String {
    let token = match &position.token {
        Some(token) => format!("'\\x{}'::bytea", hex(&token.0)),
        None => "null".to_owned(),
    };
    format!("execute rowstream_advance ({token}, {}, {previous_seq})", position.time.to_i64())
}

/// There was nothing to divide by.
pub fn is_replaced(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(DatabaseError::code).is_some_and(|code| code == "22012")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
