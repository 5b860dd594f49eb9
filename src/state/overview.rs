//! The whole state of one pipeline at a glance, for `rowstream status`.

use serde::Serialize;
use sqlx::{Connection, PgConnection, Row};

use super::resync::Cause;
use super::{SchemaState, schema_state};
use crate::domain::ClusterTime;

#[derive(Debug, Serialize)]
pub struct Overview {
    pub pipeline: String,
    pub leader: Option<Leader>,
    pub checkpoint: Option<CheckpointAge>,
    pub mappings: Vec<MappingState>,
}

#[derive(Debug, Serialize)]
pub struct Leader {
    pub owner: String,
    pub epoch: i64,
    pub heartbeat_age_seconds: f64,
}

#[derive(Debug, Serialize)]
pub struct CheckpointAge {
    /// Seconds and counter, as MongoDB writes timestamps.
    pub cluster_time: String,
    pub seq: i64,
    pub age_seconds: f64,
}

#[derive(Debug, Serialize)]
pub struct MappingState {
    pub source: String,
    pub table: String,
    pub snapshot_state: String,
    pub documents: i64,
    pub held: i64,
    /// Why its rows are to be compared with all of its documents and repaired, if they are.
    pub resync: Option<String>,
}

impl Overview {
    pub fn held(&self) -> i64 {
        self.mappings.iter().map(|mapping| mapping.held).sum()
    }
}

/// `None`: there is no state schema, or nothing in it for this pipeline.
pub async fn load(connection: &mut PgConnection, pipeline: &str) -> Result<Option<Overview>, sqlx::Error> {
    if schema_state(connection).await? == SchemaState::Missing {
        return Ok(None);
    }
    let mut transaction = connection.begin_with("begin isolation level repeatable read read only").await?;
    let leader = sqlx::query(
        "select owner, epoch, extract(epoch from clock_timestamp() - heartbeat)::float8 as age
         from rowstream.lease where pipeline = $1 and owner <> ''",
    )
    .bind(pipeline)
    .fetch_optional(&mut *transaction)
    .await?
    .map(|row| Leader {
        owner: row.get("owner"),
        epoch: row.get("epoch"),
        heartbeat_age_seconds: row.get("age"),
    });
    let checkpoint = sqlx::query(
        "select cluster_time, seq, extract(epoch from clock_timestamp() - committed_at)::float8 as age
         from rowstream.checkpoint where pipeline = $1",
    )
    .bind(pipeline)
    .fetch_optional(&mut *transaction)
    .await?
    .map(|row| CheckpointAge {
        cluster_time: ClusterTime::from_i64(row.get("cluster_time")).to_string(),
        seq: row.get("seq"),
        age_seconds: row.get("age"),
    });
    let mappings: Vec<MappingState> = sqlx::query(
        "select source, target, snapshot_state, resync_cause,
                (select coalesce(sum(documents), 0)::bigint from rowstream.chunk as c
                 where c.pipeline = m.pipeline and c.source = m.source) as documents,
                (select count(*) from rowstream.held as h
                 where h.pipeline = m.pipeline and h.source = m.source and state <> 'resolved') as held
         from rowstream.mapping as m where pipeline = $1 order by source",
    )
    .bind(pipeline)
    .fetch_all(&mut *transaction)
    .await?
    .into_iter()
    .map(|row| MappingState {
        source: row.get("source"),
        table: row.get("target"),
        snapshot_state: row.get("snapshot_state"),
        documents: row.get("documents"),
        held: row.get("held"),
        resync: row
            .get::<Option<&str>, _>("resync_cause")
            .and_then(Cause::parse)
            .map(|cause| cause.to_string()),
    })
    .collect();
    transaction.commit().await?;
    if leader.is_none() && checkpoint.is_none() && mappings.is_empty() {
        return Ok(None);
    }
    Ok(Some(Overview { pipeline: pipeline.to_owned(), leader, checkpoint, mappings }))
}
