//! How far the stream is applied.

use std::time::Duration;

use sqlx::{PgConnection, Row};

use super::lease::Epoch;
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

/// Moves on by one commit. `false`: the state is not the one this leader left.
pub async fn advance(
    connection: &mut PgConnection,
    pipeline: &str,
    epoch: Epoch,
    previous_seq: i64,
    position: &Position,
    scope_hash: &str,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "update rowstream.checkpoint
         set token = $4, cluster_time = $5, scope_hash = $6, epoch = $2, seq = seq + 1,
             committed_at = clock_timestamp()
         where pipeline = $1 and epoch <= $2 and seq = $3",
    )
    .bind(pipeline)
    .bind(epoch.0)
    .bind(previous_seq)
    .bind(position.token.as_ref().map(|token| token.0.as_slice()))
    .bind(position.time.to_i64())
    .bind(scope_hash)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}
