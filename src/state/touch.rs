//! Documents that a repair wants to be read again. The leader takes them up like those whose wait is over; they
//! go in the transaction that has written what the document says now.

use sqlx::{PgConnection, Row};

use crate::domain::CanonicalId;

/// A document to be read again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Touch {
    pub source: String,
    pub id: CanonicalId,
    /// Microseconds since 1970.
    pub since: i64,
}

/// Asks for these documents, by source_id and id; for one that is asked for already nothing changes.
pub async fn insert(
    connection: &mut PgConnection,
    pipeline: &str,
    source: &str,
    documents: &[(&str, &CanonicalId)],
) -> Result<u64, sqlx::Error> {
    let done = sqlx::query(
        "insert into rowstream.touch (pipeline, source, source_id, id)
         select $1, $2, t.source_id, t.id from unnest($3::text[], $4::bytea[]) as t (source_id, id)
         order by t.source_id on conflict do nothing",
    )
    .bind(pipeline)
    .bind(source)
    .bind(documents.iter().map(|(source_id, _)| *source_id).collect::<Vec<_>>())
    .bind(documents.iter().map(|(_, id)| id.as_bytes()).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// Those that have waited longest.
pub async fn due(
    connection: &mut PgConnection,
    pipeline: &str,
    sources: &[&str],
    limit: i64,
) -> Result<Vec<Touch>, sqlx::Error> {
    let rows = sqlx::query(
        "select source, id, (extract(epoch from since) * 1000000)::bigint from rowstream.touch
         where pipeline = $1 and source = any($2) order by since, source_id limit $3",
    )
    .bind(pipeline)
    .bind(sources)
    .bind(limit)
    .fetch_all(connection)
    .await?;
    let touch = |row: sqlx::postgres::PgRow| Touch {
        source: row.get(0),
        id: CanonicalId::from_bytes(row.get(1)),
        since: row.get(2),
    };
    Ok(rows.into_iter().map(touch).collect())
}

/// These documents have been read since.
pub async fn done(
    connection: &mut PgConnection,
    pipeline: &str,
    source: &str,
    source_ids: &[&str],
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "delete from rowstream.touch as t using unnest($3::text[]) as done (source_id)
         where t.pipeline = $1 and t.source = $2 and t.source_id = done.source_id",
    )
    .bind(pipeline)
    .bind(source)
    .bind(source_ids)
    .execute(connection)
    .await?;
    Ok(())
}

pub async fn count(
    connection: &mut PgConnection,
    pipeline: &str,
    sources: &[&str],
) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("select count(*) from rowstream.touch where pipeline = $1 and source = any($2)")
        .bind(pipeline)
        .bind(sources)
        .fetch_one(connection)
        .await
}
