//! What is known of each mapping across restarts.

use sqlx::{PgConnection, Row};
use uuid::Uuid;

use crate::domain::IdType;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    pub source: String,
    pub mapping_hash: String,
    /// What the hash was made of.
    pub meaning: String,
    pub id_type: IdType,
    /// The collection its rows came from.
    pub collection: String,
    /// `None` where nobody knows, or it came to an end.
    pub collection_uuid: Option<Uuid>,
    /// The table they were written to, and its name then: `schema.name`.
    pub target_oid: u32,
    pub target: String,
    /// Its changes were followed up to the checkpoint; not so for one that was taken out for a while.
    pub in_scope: bool,
    pub snapshot: SnapshotState,
    /// Every chunk has its row.
    pub planned: bool,
    pub documents_estimated: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotState {
    Pending,
    Running,
    Done,
}

impl SnapshotState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Done => "done",
        }
    }
}

pub async fn load(connection: &mut PgConnection, pipeline: &str) -> Result<Vec<Known>, sqlx::Error> {
    let rows = sqlx::query(
        "select source, mapping_hash, meaning, id_type, collection, collection_uuid::text, target,
                target_oid, in_scope, snapshot_state, planned, documents_estimated
         from rowstream.mapping where pipeline = $1",
    )
    .bind(pipeline)
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Known {
            source: row.get("source"),
            mapping_hash: row.get("mapping_hash"),
            meaning: row.get("meaning"),
            // The column's check constraint knows no other words.
            id_type: match row.get::<&str, _>("id_type") {
                "object_id" => IdType::ObjectId,
                "string" => IdType::String,
                "int" => IdType::Int,
                _ => IdType::Uuid,
            },
            collection: row.get("collection"),
            collection_uuid: row.get::<Option<&str>, _>("collection_uuid").and_then(|text| text.parse().ok()),
            // An oid is unsigned, what is stored never above.
            target_oid: row.get::<i64, _>("target_oid") as u32,
            target: row.get("target"),
            in_scope: row.get("in_scope"),
            snapshot: match row.get::<&str, _>("snapshot_state") {
                "done" => SnapshotState::Done,
                "running" => SnapshotState::Running,
                _ => SnapshotState::Pending,
            },
            planned: row.get("planned"),
            documents_estimated: row.get("documents_estimated"),
        })
        .collect())
}

/// What is written down of a mapping.
#[derive(Debug, Clone, Copy)]
pub struct Registered<'a> {
    pub source: &'a str,
    pub mapping_hash: &'a str,
    pub meaning: &'a str,
    pub id_type: IdType,
    pub collection: &'a str,
    pub target: &'a str,
    pub target_oid: u32,
}

/// First sight of a mapping; one that is known keeps its state.
pub async fn register(
    connection: &mut PgConnection,
    pipeline: &str,
    mapping: Registered<'_>,
    snapshot: SnapshotState,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into rowstream.mapping
             (pipeline, source, mapping_hash, id_type, collection, target, snapshot_state, planned, meaning, target_oid)
         values ($1, $2, $3, $4, $5, $6, $7, $7 = 'done', $8, $9) on conflict do nothing",
    )
    .bind(pipeline)
    .bind(mapping.source)
    .bind(mapping.mapping_hash)
    .bind(mapping.id_type.to_string())
    .bind(mapping.collection)
    .bind(mapping.target)
    .bind(snapshot.as_str())
    .bind(mapping.meaning)
    .bind(i64::from(mapping.target_oid))
    .execute(connection)
    .await?;
    Ok(())
}

/// The mapping means something else now, or is followed again.
pub async fn changed(
    connection: &mut PgConnection,
    pipeline: &str,
    mapping: Registered<'_>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update rowstream.mapping
         set mapping_hash = $3, collection_uuid = case when collection = $4 then collection_uuid end,
             collection = $4, target = $5, meaning = $6, target_oid = $7, in_scope = true
         where pipeline = $1 and source = $2",
    )
    .bind(pipeline)
    .bind(mapping.source)
    .bind(mapping.mapping_hash)
    .bind(mapping.collection)
    .bind(mapping.target)
    .bind(mapping.meaning)
    .bind(i64::from(mapping.target_oid))
    .execute(connection)
    .await?;
    Ok(())
}

/// Which collection the position speaks of. `None`: of none that is there any more.
pub async fn is_of_collection(
    connection: &mut PgConnection,
    pipeline: &str,
    source: &str,
    uuid: Option<Uuid>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update rowstream.mapping set collection_uuid = $3::uuid where pipeline = $1 and source = $2",
    )
    .bind(pipeline)
    .bind(source)
    .bind(uuid.map(|uuid| uuid.to_string()))
    .execute(connection)
    .await?;
    Ok(())
}

/// Whatever is not among these is not followed from here on.
pub async fn leave_scope(
    connection: &mut PgConnection,
    pipeline: &str,
    followed: &[&str],
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update rowstream.mapping set in_scope = false where pipeline = $1 and in_scope and source <> all($2)",
    )
    .bind(pipeline)
    .bind(followed)
    .execute(connection)
    .await?;
    Ok(())
}

pub async fn snapshot_started(
    connection: &mut PgConnection,
    pipeline: &str,
    source: &str,
    documents_estimated: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update rowstream.mapping
         set snapshot_state = 'running', documents_estimated = $3,
             snapshot_started_at = coalesce(snapshot_started_at, clock_timestamp())
         where pipeline = $1 and source = $2 and snapshot_state <> 'done'",
    )
    .bind(pipeline)
    .bind(source)
    .bind(documents_estimated)
    .execute(connection)
    .await?;
    Ok(())
}

pub async fn planned(connection: &mut PgConnection, pipeline: &str, source: &str) -> Result<(), sqlx::Error> {
    sqlx::query("update rowstream.mapping set planned = true where pipeline = $1 and source = $2")
        .bind(pipeline)
        .bind(source)
        .execute(connection)
        .await?;
    Ok(())
}

/// Done if every chunk is planned and finished; says whether it is.
pub async fn snapshot_done(
    connection: &mut PgConnection,
    pipeline: &str,
    source: &str,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "update rowstream.mapping as m
         set snapshot_state = 'done', snapshot_finished_at = clock_timestamp()
         where pipeline = $1 and source = $2 and planned
           and not exists (
               select from rowstream.chunk as c
               where c.pipeline = m.pipeline and c.source = m.source and c.finished_at is null)",
    )
    .bind(pipeline)
    .bind(source)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Forgets the snapshot, so that it is taken again from the start. The mapping's row comes first: a chunk
/// that is being planned at this moment waits for it, and then finds that its predecessor is gone. The first has none,
/// and may have been read before: within a session, void what is registered.
pub async fn snapshot_again(
    connection: &mut PgConnection,
    pipeline: &str,
    source: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update rowstream.mapping
         set snapshot_state = 'pending', planned = false, documents_estimated = null,
             snapshot_started_at = null, snapshot_finished_at = null
         where pipeline = $1 and source = $2",
    )
    .bind(pipeline)
    .bind(source)
    .execute(&mut *connection)
    .await?;
    sqlx::query("delete from rowstream.chunk where pipeline = $1 and source = $2")
        .bind(pipeline)
        .bind(source)
        .execute(connection)
        .await?;
    Ok(())
}

/// Others that lock the same mapping wait until the transaction ends.
pub async fn lock(connection: &mut PgConnection, pipeline: &str, source: &str) -> Result<(), sqlx::Error> {
    sqlx::query("select from rowstream.mapping where pipeline = $1 and source = $2 for no key update")
        .bind(pipeline)
        .bind(source)
        .execute(connection)
        .await?;
    Ok(())
}
