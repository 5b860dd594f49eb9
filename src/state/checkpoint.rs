//! How far the stream is applied.

use std::fmt::Write;
use std::time::Duration;

use sqlx::{PgConnection, Row};

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
    let (pipeline, scope_hash, epoch) = (literal(pipeline), literal(scope_hash), epoch.0);
    format!(
        "prepare rowstream_advance (bigint, bytea, bigint) as
         with advanced as (
             update rowstream.checkpoint
             set token = $2, cluster_time = $3, scope_hash = {scope_hash}, epoch = {epoch}, seq = seq + 1,
                 committed_at = clock_timestamp()
             where pipeline = {pipeline} and epoch <= {epoch} and seq = $1
             returning 1
         )
         select 1 / count(*) from advanced"
    )
}

/// Moves on by one commit. Fails, and with it the transaction, if the state is not the one this leader left:
/// [`is_not_ours`].
pub fn advance(previous_seq: i64, position: &Position) -> String {
    let token = match &position.token {
        None => "null".to_owned(),
        Some(token) => {
            let mut hex = String::with_capacity(token.0.len() * 2 + 20);
            hex.push_str("decode('");
            for byte in &token.0 {
                // Writing to a String cannot fail.
                let _ = write!(hex, "{byte:02x}");
            }
            hex.push_str("', 'hex')");
            hex
        }
    };
    format!("execute rowstream_advance ({previous_seq}, {token}, {})", position.time.to_i64())
}

/// Whether [`advance`] failed because nothing was there to be moved: its division by zero.
pub fn is_not_ours(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "22012")
}
