//! Which document stands for which row, for tables that do not say it themselves: their rows have a key of
//! the mapping's own columns, and no `source_id`.
//!
//! A claim and its row commit together. The unique index decides between two transactions that want one key.

use std::collections::HashSet;

use sqlx::{PgConnection, Row as _};

use crate::domain::{CanonicalId, RowKey};

/// What is known of one document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub source: String,
    pub source_id: String,
    pub id: CanonicalId,
    /// Of its row; `None`: it has none and waits for one.
    pub key: Option<RowKey>,
    /// The key it is held for.
    pub wants: Option<RowKey>,
    /// The row had this key before the document came, and keeps it.
    pub adopted: bool,
    /// The document is gone while its row stays.
    pub kept: bool,
    /// What the document adds to collected columns: a JSON object by column.
    pub collected: Option<String>,
}

/// Whose claims are asked for.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    pub pipeline: &'a str,
    pub source: &'a str,
    /// The table and the columns of its key.
    pub target: &'a str,
    /// Several documents may have one key.
    pub shared: bool,
}

/// A document to be read again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Touched {
    pub source: String,
    pub id: CanonicalId,
    /// Microseconds since 1970.
    pub touched_at: i64,
}

const COLUMNS: &str = "r.source, r.source_id, r.id, r.row_key, r.wants, r.adopted, r.kept, r.collected::text";

fn claim(row: &sqlx::postgres::PgRow) -> Claim {
    Claim {
        source: row.get(0),
        source_id: row.get(1),
        id: CanonicalId::from_bytes(row.get(2)),
        key: row.get::<Option<Vec<u8>>, _>(3).map(RowKey::from_bytes),
        wants: row.get::<Option<Vec<u8>>, _>(4).map(RowKey::from_bytes),
        adopted: row.get(5),
        kept: row.get(6),
        collected: row.get(7),
    }
}

/// The claims of these documents, and all claims of these keys.
pub async fn load(
    connection: &mut PgConnection,
    scope: Scope<'_>,
    source_ids: &[&str],
    keys: &[&RowKey],
) -> Result<Vec<Claim>, sqlx::Error> {
    let mut claims = of_documents(connection, scope, source_ids).await?;
    let sql = format!(
        "select {COLUMNS} from unnest($3::bytea[]) as wanted (row_key)
         cross join lateral (
             select * from rowstream.row r
             where r.pipeline = $1 and r.target = $2 and r.row_key = wanted.row_key and {} shared offset 0) as r",
        if scope.shared { "" } else { "not" }
    );
    let keys: Vec<&[u8]> = keys.iter().map(|key| key.as_bytes()).collect();
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(scope.pipeline)
        .bind(scope.target)
        .bind(keys)
        .fetch_all(connection)
        .await?;
    let known: HashSet<String> = claims.iter().map(|claim| claim.source_id.clone()).collect();
    let of_keys = rows.iter().map(claim);
    claims.extend(of_keys.filter(|claim| claim.source != scope.source || !known.contains(&claim.source_id)));
    Ok(claims)
}

/// The claims of these documents.
pub async fn of_documents(
    connection: &mut PgConnection,
    scope: Scope<'_>,
    source_ids: &[&str],
) -> Result<Vec<Claim>, sqlx::Error> {
    let sql = format!(
        "select {COLUMNS} from unnest($3::text[]) as wanted (source_id)
         cross join lateral (
             select * from rowstream.row r
             where r.pipeline = $1 and r.source = $2 and r.source_id = wanted.source_id offset 0) as r"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(scope.pipeline)
        .bind(scope.source)
        .bind(source_ids)
        .fetch_all(connection)
        .await?;
    Ok(rows.iter().map(claim).collect())
}

/// The next claims of the source that have a row, in the order of their source_ids.
pub async fn page(
    connection: &mut PgConnection,
    scope: Scope<'_>,
    after: Option<&str>,
    limit: i64,
) -> Result<Vec<Claim>, sqlx::Error> {
    let sql = format!(
        "select {COLUMNS} from rowstream.row r
         where r.pipeline = $1 and r.source = $2 and ($3::text is null or r.source_id > $3)
         order by r.source_id limit $4"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(scope.pipeline)
        .bind(scope.source)
        .bind(after)
        .bind(limit)
        .fetch_all(connection)
        .await?;
    Ok(rows.iter().map(claim).collect())
}

/// Writes these claims down, in the order of their keys, so that two transactions wait for each other in one
/// order. Returns the source_ids of those that are written: the keys of the others are taken.
pub async fn insert(
    connection: &mut PgConnection,
    scope: Scope<'_>,
    claims: &[&Claim],
) -> Result<Vec<String>, sqlx::Error> {
    if claims.is_empty() {
        return Ok(Vec::new());
    }
    let bytes = |key: &Option<RowKey>| key.as_ref().map(|key| key.as_bytes().to_vec());
    sqlx::query_scalar(
        "insert into rowstream.row
             (pipeline, source, target, shared, source_id, id, row_key, wants, adopted, kept, collected)
         select $1, $2, $3, $4, c.source_id, c.id, c.row_key, c.wants, c.adopted, c.kept, c.collected::jsonb
         from unnest($5::text[], $6::bytea[], $7::bytea[], $8::bytea[], $9::boolean[], $10::boolean[], $11::text[])
             as c (source_id, id, row_key, wants, adopted, kept, collected)
         order by c.row_key, c.source_id
         on conflict do nothing
         returning source_id",
    )
    .bind(scope.pipeline)
    .bind(scope.source)
    .bind(scope.target)
    .bind(scope.shared)
    .bind(claims.iter().map(|claim| claim.source_id.as_str()).collect::<Vec<_>>())
    .bind(claims.iter().map(|claim| claim.id.as_bytes()).collect::<Vec<_>>())
    .bind(claims.iter().map(|claim| bytes(&claim.key)).collect::<Vec<_>>())
    .bind(claims.iter().map(|claim| bytes(&claim.wants)).collect::<Vec<_>>())
    .bind(claims.iter().map(|claim| claim.adopted).collect::<Vec<_>>())
    .bind(claims.iter().map(|claim| claim.kept).collect::<Vec<_>>())
    .bind(claims.iter().map(|claim| claim.collected.as_deref()).collect::<Vec<_>>())
    .fetch_all(connection)
    .await
}

/// Takes the claims of these documents away.
pub async fn delete(
    connection: &mut PgConnection,
    pipeline: &str,
    source: &str,
    source_ids: &[&str],
) -> Result<(), sqlx::Error> {
    if source_ids.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "delete from rowstream.row as r using unnest($3::text[]) as gone (source_id)
         where r.pipeline = $1 and r.source = $2 and r.source_id = gone.source_id",
    )
    .bind(pipeline)
    .bind(source)
    .bind(source_ids)
    .execute(connection)
    .await?;
    Ok(())
}

/// The documents are gone while their rows stay: whoever wants one of the keys may have the row.
pub async fn keep(
    connection: &mut PgConnection,
    pipeline: &str,
    source: &str,
    source_ids: &[&str],
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update rowstream.row as r set kept = true, wants = null from unnest($3::text[]) as gone (source_id)
         where r.pipeline = $1 and r.source = $2 and r.source_id = gone.source_id",
    )
    .bind(pipeline)
    .bind(source)
    .bind(source_ids)
    .execute(connection)
    .await?;
    Ok(())
}

/// These keys are free now: the documents that are held for them are due at once.
pub async fn release(
    connection: &mut PgConnection,
    pipeline: &str,
    target: &str,
    keys: &[&RowKey],
) -> Result<u64, sqlx::Error> {
    if keys.is_empty() {
        return Ok(0);
    }
    let keys: Vec<&[u8]> = keys.iter().map(|key| key.as_bytes()).collect();
    let done = sqlx::query(
        "update rowstream.held as h set next_attempt_at = clock_timestamp()
         from unnest($3::bytea[]) as free (row_key)
         join rowstream.row r on r.pipeline = $1 and r.target = $2 and r.wants = free.row_key
         where h.pipeline = $1 and h.source = r.source and h.source_id = r.source_id and h.state <> 'resolved'",
    )
    .bind(pipeline)
    .bind(target)
    .bind(keys)
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// These documents are to be read again.
pub async fn touch(
    connection: &mut PgConnection,
    pipeline: &str,
    source: &str,
    source_ids: &[&str],
) -> Result<(), sqlx::Error> {
    if source_ids.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "update rowstream.row as r set touched_at = clock_timestamp() from unnest($3::text[]) as wanted (source_id)
         where r.pipeline = $1 and r.source = $2 and r.source_id = wanted.source_id",
    )
    .bind(pipeline)
    .bind(source)
    .bind(source_ids)
    .execute(connection)
    .await?;
    Ok(())
}

/// Documents that are to be read again, the longest waiting first.
pub async fn touched(
    connection: &mut PgConnection,
    pipeline: &str,
    sources: &[&str],
    limit: i64,
) -> Result<Vec<Touched>, sqlx::Error> {
    let rows = sqlx::query(
        "select source, id, (extract(epoch from touched_at) * 1000000)::bigint from rowstream.row
         where pipeline = $1 and source = any($2) and touched_at is not null order by touched_at limit $3",
    )
    .bind(pipeline)
    .bind(sources)
    .bind(limit)
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Touched {
            source: row.get(0),
            id: CanonicalId::from_bytes(row.get(1)),
            touched_at: row.get(2),
        })
        .collect())
}

/// What the documents of each key have collected: (key, column, a JSON array in the order of source_ids). In
/// columns of `distinct`, each value stands once, at its first place.
pub async fn collected(
    connection: &mut PgConnection,
    scope: Scope<'_>,
    keys: &[&RowKey],
    distinct: &[&str],
) -> Result<Vec<(RowKey, String, String)>, sqlx::Error> {
    let keys: Vec<&[u8]> = keys.iter().map(|key| key.as_bytes()).collect();
    let rows = sqlx::query(
        r#"select found.row_key, found.name, jsonb_agg(found.value order by found.first)::text
           from (
               select r.row_key, c.name, c.value, min(r.source_id collate "C") as first
               from unnest($3::bytea[]) as wanted (row_key)
               join rowstream.row r
                   on r.pipeline = $1 and r.target = $2 and r.row_key = wanted.row_key and r.shared and not r.kept
               cross join jsonb_each(r.collected) as c (name, value)
               group by r.row_key, c.name, c.value, case when c.name = any($4) then null else r.source_id end
           ) as found
           group by found.row_key, found.name"#,
    )
    .bind(scope.pipeline)
    .bind(scope.target)
    .bind(keys)
    .bind(distinct)
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (RowKey::from_bytes(row.get(0)), row.get(1), row.get(2))).collect())
}

/// What the claims of the source are on, other than `target`.
pub async fn other_targets(
    connection: &mut PgConnection,
    scope: Scope<'_>,
) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(
        "select distinct target from rowstream.row where pipeline = $1 and source = $2 and target <> $3",
    )
    .bind(scope.pipeline)
    .bind(scope.source)
    .bind(scope.target)
    .fetch_all(connection)
    .await
}

/// Takes all claims of the source away.
pub async fn delete_source(
    connection: &mut PgConnection,
    pipeline: &str,
    source: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query("delete from rowstream.row where pipeline = $1 and source = $2")
        .bind(pipeline)
        .bind(source)
        .execute(connection)
        .await?;
    Ok(())
}

/// Claims that were shared are not any more, or the other way round. Of several documents with one key, the
/// lowest keeps it.
pub async fn set_shared(connection: &mut PgConnection, scope: Scope<'_>) -> Result<(), sqlx::Error> {
    sqlx::query(
        r#"update rowstream.row as r set shared = $4, touched_at = null,
               row_key = case when $4 or r.source_id = (
                   select min(o.source_id collate "C") from rowstream.row o
                   where o.pipeline = $1 and o.target = $3 and o.row_key = r.row_key) then r.row_key end
           where r.pipeline = $1 and r.source = $2 and r.shared <> $4"#,
    )
    .bind(scope.pipeline)
    .bind(scope.source)
    .bind(scope.target)
    .bind(scope.shared)
    .execute(connection)
    .await?;
    Ok(())
}
