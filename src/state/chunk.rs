//! Snapshot chunks. Finishing one is part of the transaction that wrote its rows.

use sqlx::{PgConnection, Row};

use crate::domain::CanonicalId;

/// A range of `_id` in BSON order: lower inclusive, upper exclusive, `None` open.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Chunk {
    pub number: i32,
    pub lower: Option<CanonicalId>,
    pub upper: Option<CanonicalId>,
}

/// Where a snapshot stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    pub unfinished: Vec<Chunk>,
    /// Planned so far, finished ones included.
    pub last: Option<Chunk>,
    pub documents: i64,
}

pub async fn progress(
    connection: &mut PgConnection,
    pipeline: &str,
    source: &str,
) -> Result<Progress, sqlx::Error> {
    let rows = sqlx::query(
        "select number, lower, upper, documents, finished_at is not null as finished
         from rowstream.chunk where pipeline = $1 and source = $2 order by number",
    )
    .bind(pipeline)
    .bind(source)
    .fetch_all(connection)
    .await?;
    let mut progress = Progress::default();
    for row in rows {
        let bound = |name: &str| row.get::<Option<&[u8]>, _>(name).map(CanonicalId::from_bytes);
        let chunk = Chunk { number: row.get("number"), lower: bound("lower"), upper: bound("upper") };
        if row.get::<bool, _>("finished") {
            progress.documents += row.get::<Option<i64>, _>("documents").unwrap_or(0);
        } else {
            progress.unfinished.push(chunk.clone());
        }
        progress.last = Some(chunk);
    }
    Ok(progress)
}

/// Writes a chunk down. `false`: the chunk before it is gone, so the snapshot was begun again meanwhile.
pub async fn plan(
    connection: &mut PgConnection,
    pipeline: &str,
    source: &str,
    chunk: &Chunk,
) -> Result<bool, sqlx::Error> {
    // Waits for whoever begins the snapshot again, and keeps them waiting until this chunk is committed.
    sqlx::query("select from rowstream.mapping where pipeline = $1 and source = $2 for no key update")
        .bind(pipeline)
        .bind(source)
        .execute(&mut *connection)
        .await?;
    let done = sqlx::query(
        "insert into rowstream.chunk (pipeline, source, number, lower, upper)
         select $1, $2, $3, $4, $5
         where $3 = 0 or exists (
             select from rowstream.chunk where pipeline = $1 and source = $2 and number = $3 - 1)",
    )
    .bind(pipeline)
    .bind(source)
    .bind(chunk.number)
    .bind(chunk.lower.as_ref().map(CanonicalId::as_bytes))
    .bind(chunk.upper.as_ref().map(CanonicalId::as_bytes))
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// An unfinished last chunk is open to the end, where documents may have gathered since it was planned:
/// it is planned again.
pub async fn reopen_last(
    connection: &mut PgConnection,
    pipeline: &str,
    source: &str,
) -> Result<(), sqlx::Error> {
    let deleted = sqlx::query(
        "delete from rowstream.chunk
         where pipeline = $1 and source = $2 and upper is null and finished_at is null",
    )
    .bind(pipeline)
    .bind(source)
    .execute(&mut *connection)
    .await?;
    if deleted.rows_affected() > 0 {
        sqlx::query("update rowstream.mapping set planned = false where pipeline = $1 and source = $2")
            .bind(pipeline)
            .bind(source)
            .execute(connection)
            .await?;
    }
    Ok(())
}

/// `false`: the chunk is gone or finished already, and its rows must not be written.
pub async fn finish(
    connection: &mut PgConnection,
    pipeline: &str,
    source: &str,
    number: i32,
    documents: i64,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "update rowstream.chunk set documents = $4, finished_at = clock_timestamp()
         where pipeline = $1 and source = $2 and number = $3 and finished_at is null",
    )
    .bind(pipeline)
    .bind(source)
    .bind(number)
    .bind(documents)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}
