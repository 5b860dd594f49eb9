//! Elements of documents that have no row, because their child table has refused it and `on_error: drop` lets it:
//! a comparison must not miss them.

use sqlx::PgConnection;

/// Elements of one child table.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    pub pipeline: &'a str,
    pub source: &'a str,
    /// The child table.
    pub target: &'a str,
}

/// Of these documents, these elements and no others are left out: source_id, and key of the row as in binary COPY.
pub async fn replace(
    connection: &mut PgConnection,
    scope: Scope<'_>,
    source_ids: &[&str],
    left_out: &[(String, &[u8])],
) -> Result<(), sqlx::Error> {
    if source_ids.is_empty() {
        return Ok(());
    }
    let Scope { pipeline, source, target } = scope;
    sqlx::query(
        "delete from rowstream.left_out
         where pipeline = $1 and source = $2 and target = $3 and source_id = any($4)",
    )
    .bind(pipeline)
    .bind(source)
    .bind(target)
    .bind(source_ids)
    .execute(&mut *connection)
    .await?;
    if left_out.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "insert into rowstream.left_out (pipeline, source, target, source_id, row_key)
         select $1, $2, $3, n.source_id, n.row_key from unnest($4::text[], $5::bytea[]) as n (source_id, row_key)
         on conflict do nothing",
    )
    .bind(pipeline)
    .bind(source)
    .bind(target)
    .bind(left_out.iter().map(|(source_id, _)| source_id.as_str()).collect::<Vec<_>>())
    .bind(left_out.iter().map(|(_, key)| *key).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}

/// Which of these elements are left out, by place.
pub async fn known(
    connection: &mut PgConnection,
    scope: Scope<'_>,
    elements: &[(&str, &[u8])],
) -> Result<Vec<usize>, sqlx::Error> {
    let Scope { pipeline, source, target } = scope;
    let places: Vec<i64> = sqlx::query_scalar(
        "select n.place from unnest($4::text[], $5::bytea[]) with ordinality as n (source_id, row_key, place)
         join rowstream.left_out as l
             on l.pipeline = $1 and l.source = $2 and l.target = $3
                 and l.source_id = n.source_id and l.row_key = n.row_key",
    )
    .bind(pipeline)
    .bind(source)
    .bind(target)
    .bind(elements.iter().map(|(source_id, _)| *source_id).collect::<Vec<_>>())
    .bind(elements.iter().map(|(_, key)| *key).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    Ok(places.into_iter().filter_map(|place| usize::try_from(place - 1).ok()).collect())
}

/// Of all documents of the source.
pub async fn forget(connection: &mut PgConnection, pipeline: &str, source: &str) -> Result<(), sqlx::Error> {
    sqlx::query("delete from rowstream.left_out where pipeline = $1 and source = $2")
        .bind(pipeline)
        .bind(source)
        .execute(connection)
        .await?;
    Ok(())
}
