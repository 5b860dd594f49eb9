//! References that were not resolved by their first choice, and the stubs made for them.

use sqlx::{PgConnection, Row};

use crate::domain::CanonicalId;

/// "Awaited" by documents whose `source_id` does not tell their id: it only remembers the id, and never comes.
pub const OWN_ID: &str = "id";

/// One document waits for one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    pub source_id: String,
    pub id: CanonicalId,
    /// What is awaited, and its key: at most 512 bytes.
    pub awaited: String,
    pub key: Vec<u8>,
    /// The key of the stub that stands in for it.
    pub stub: Option<Vec<u8>>,
}

/// A document whose references can be settled anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    pub source: String,
    pub id: CanonicalId,
    /// When, in microseconds since 1970: it tells one reason from the next.
    pub due_at: i64,
}

/// A row that was made for references.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Stub {
    pub target: String,
    pub key: Vec<u8>,
    /// Of the whole row as it was made.
    pub hash: String,
}

/// What these documents wait for from now on; returns the keys of stubs that lost a waiter.
pub async fn replace(
    connection: &mut PgConnection,
    pipeline: &str,
    source: &str,
    source_ids: &[&str],
    waits: &[Wait],
) -> Result<Vec<Vec<u8>>, sqlx::Error> {
    let mut left: Vec<Vec<u8>> = sqlx::query_scalar(
        "with gone as (
             delete from rowstream.wait where pipeline = $1 and source = $2 and source_id = any($3) returning stub)
         select distinct stub from gone where stub is not null",
    )
    .bind(pipeline)
    .bind(source)
    .bind(source_ids)
    .fetch_all(&mut *connection)
    .await?;
    left.retain(|stub| !waits.iter().any(|wait| wait.stub.as_ref() == Some(stub)));
    add(connection, pipeline, source, waits).await?;
    Ok(left)
}

pub async fn add(
    connection: &mut PgConnection,
    pipeline: &str,
    source: &str,
    waits: &[Wait],
) -> Result<(), sqlx::Error> {
    if waits.is_empty() {
        return Ok(());
    }
    let source_ids: Vec<&str> = waits.iter().map(|wait| wait.source_id.as_str()).collect();
    let ids: Vec<&[u8]> = waits.iter().map(|wait| wait.id.as_bytes()).collect();
    let awaited: Vec<&str> = waits.iter().map(|wait| wait.awaited.as_str()).collect();
    let keys: Vec<&[u8]> = waits.iter().map(|wait| wait.key.as_slice()).collect();
    let stubs: Vec<Option<&[u8]>> = waits.iter().map(|wait| wait.stub.as_deref()).collect();
    sqlx::query(
        // Two columns of one document may await the same row.
        "insert into rowstream.wait (pipeline, source, source_id, id, awaited, awaited_key, stub)
         select distinct on (new.source_id, new.awaited, new.awaited_key) $1, $2, new.* from unnest($3::text[], $4::bytea[], $5::text[], $6::bytea[], $7::bytea[])
             as new (source_id, id, awaited, awaited_key, stub)
         order by new.source_id, new.awaited, new.awaited_key, new.stub nulls last
         on conflict (pipeline, source, source_id, awaited, awaited_key) do update set stub = excluded.stub",
    )
    .bind(pipeline)
    .bind(source)
    .bind(source_ids)
    .bind(ids)
    .bind(awaited)
    .bind(keys)
    .bind(stubs)
    .execute(connection)
    .await?;
    Ok(())
}

/// These rows are there now: whoever waits for one of them is due. How many documents are.
pub async fn wake(
    connection: &mut PgConnection,
    pipeline: &str,
    awaited: &str,
    keys: &[&[u8]],
) -> Result<u64, sqlx::Error> {
    let done = sqlx::query(
        "update rowstream.wait set due_at = clock_timestamp()
         where pipeline = $1 and awaited = $2 and awaited_key = any($3) and due_at is null",
    )
    .bind(pipeline)
    .bind(awaited)
    .bind(keys)
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// These documents are due, whatever they wait for: something that their references follow is no longer the same.
pub async fn touch(
    connection: &mut PgConnection,
    pipeline: &str,
    source: &str,
    documents: &[(String, CanonicalId)],
) -> Result<(), sqlx::Error> {
    let source_ids: Vec<&str> = documents.iter().map(|(source_id, _)| source_id.as_str()).collect();
    let ids: Vec<&[u8]> = documents.iter().map(|(_, id)| id.as_bytes()).collect();
    sqlx::query(
        "insert into rowstream.wait (pipeline, source, source_id, id, awaited, awaited_key, due_at)
         select distinct on (new.source_id) $1, $2, new.*, 'change', ''::bytea, clock_timestamp()
         from unnest($3::text[], $4::bytea[]) as new (source_id, id)
         on conflict (pipeline, source, source_id, awaited, awaited_key) do update set due_at = clock_timestamp()",
    )
    .bind(pipeline)
    .bind(source)
    .bind(source_ids)
    .bind(ids)
    .execute(connection)
    .await?;
    Ok(())
}

/// The collection is gone, and with it everything its documents waited for.
pub async fn forget_source(
    connection: &mut PgConnection,
    pipeline: &str,
    source: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query("delete from rowstream.wait where pipeline = $1 and source = $2")
        .bind(pipeline)
        .bind(source)
        .execute(connection)
        .await?;
    Ok(())
}

/// Keys of that kind that somebody waits for and that are not there yet, in order; those after that one.
pub async fn keys(
    connection: &mut PgConnection,
    pipeline: &str,
    awaited: &str,
    after: &[u8],
    limit: i64,
) -> Result<Vec<Vec<u8>>, sqlx::Error> {
    sqlx::query_scalar(
        "select distinct awaited_key from rowstream.wait
         where pipeline = $1 and awaited = $2 and awaited_key > $3 and due_at is null order by awaited_key limit $4",
    )
    .bind(pipeline)
    .bind(awaited)
    .bind(after)
    .bind(limit)
    .fetch_all(connection)
    .await
}

pub async fn due(
    connection: &mut PgConnection,
    pipeline: &str,
    sources: &[&str],
    limit: i64,
) -> Result<Vec<Due>, sqlx::Error> {
    let rows = sqlx::query(
        "select source, id, (extract(epoch from max(due_at)) * 1000000)::bigint as due_at from rowstream.wait
         where pipeline = $1 and source = any($2) and due_at is not null
         group by source, id order by min(due_at) limit $3",
    )
    .bind(pipeline)
    .bind(sources)
    .bind(limit)
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

/// The ids of these documents, of those that were remembered by [`OWN_ID`].
pub async fn own_ids(
    connection: &mut PgConnection,
    pipeline: &str,
    source: &str,
    source_ids: &[&str],
) -> Result<Vec<CanonicalId>, sqlx::Error> {
    let ids: Vec<Vec<u8>> = sqlx::query_scalar(
        "select id from rowstream.wait
         where pipeline = $1 and source = $2 and source_id = any($3) and awaited = $4",
    )
    .bind(pipeline)
    .bind(source)
    .bind(source_ids)
    .bind(OWN_ID)
    .fetch_all(connection)
    .await?;
    Ok(ids.iter().map(|id| CanonicalId::from_bytes(id)).collect())
}

/// What is known at the beginning of a session.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overview {
    /// Everything somebody waits for, and who: (awaited, source).
    pub awaited: Vec<(String, String)>,
    /// The tables that have stubs.
    pub stubbed: Vec<String>,
}

pub async fn overview(connection: &mut PgConnection, pipeline: &str) -> Result<Overview, sqlx::Error> {
    let awaited = sqlx::query_as("select distinct awaited, source from rowstream.wait where pipeline = $1")
        .bind(pipeline)
        .fetch_all(&mut *connection)
        .await?;
    let stubbed = sqlx::query_scalar("select distinct target from rowstream.stub where pipeline = $1")
        .bind(pipeline)
        .fetch_all(connection)
        .await?;
    Ok(Overview { awaited, stubbed })
}

/// Writes stubs down.
pub async fn add_stubs(
    connection: &mut PgConnection,
    pipeline: &str,
    stubs: &[Stub],
) -> Result<(), sqlx::Error> {
    let targets: Vec<&str> = stubs.iter().map(|stub| stub.target.as_str()).collect();
    let keys: Vec<&[u8]> = stubs.iter().map(|stub| stub.key.as_slice()).collect();
    let hashes: Vec<&str> = stubs.iter().map(|stub| stub.hash.as_str()).collect();
    sqlx::query(
        "insert into rowstream.stub (pipeline, target, row_key, row_hash)
         select $1, new.* from unnest($2::text[], $3::bytea[], $4::text[]) as new (target, row_key, row_hash)
         on conflict (pipeline, target, row_key) do update set row_hash = excluded.row_hash",
    )
    .bind(pipeline)
    .bind(targets)
    .bind(keys)
    .bind(hashes)
    .execute(connection)
    .await?;
    Ok(())
}

/// Which of these keys are of stubs.
pub async fn stubs(
    connection: &mut PgConnection,
    pipeline: &str,
    target: &str,
    keys: &[&[u8]],
) -> Result<Vec<Vec<u8>>, sqlx::Error> {
    sqlx::query_scalar(
        "select row_key from rowstream.stub where pipeline = $1 and target = $2 and row_key = any($3)",
    )
    .bind(pipeline)
    .bind(target)
    .bind(keys)
    .fetch_all(connection)
    .await
}

/// Somebody's own rows have these keys now: they are stubs no longer.
pub async fn forget_stubs(
    connection: &mut PgConnection,
    pipeline: &str,
    target: &str,
    keys: &[Vec<u8>],
) -> Result<(), sqlx::Error> {
    sqlx::query("delete from rowstream.stub where pipeline = $1 and target = $2 and row_key = any($3)")
        .bind(pipeline)
        .bind(target)
        .bind(keys)
        .execute(connection)
        .await?;
    Ok(())
}

/// Those of these stubs that nobody waits behind any more; they are no longer written down as stubs.
pub async fn take_abandoned(
    connection: &mut PgConnection,
    pipeline: &str,
    keys: &[Vec<u8>],
) -> Result<Vec<Stub>, sqlx::Error> {
    let rows = sqlx::query(
        "delete from rowstream.stub as stub
         where pipeline = $1 and row_key = any($2) and not exists
             (select from rowstream.wait where wait.pipeline = stub.pipeline and wait.stub = stub.row_key)
         returning target, row_key, row_hash",
    )
    .bind(pipeline)
    .bind(keys)
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Stub { target: row.get("target"), key: row.get("row_key"), hash: row.get("row_hash") })
        .collect())
}
