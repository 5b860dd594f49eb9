//! Who lists whom in junctions that two collections keep: one row for each side that lists a pair, also while one
//! of the two has no row.

use sqlx::{PgConnection, Row};

use crate::domain::{CanonicalId, Side};

/// One side of a junction.
#[derive(Debug, Clone, Copy)]
pub struct List<'a> {
    pub pipeline: &'a str,
    pub junction: &'a str,
    pub side: Side,
}

/// A document of the list's side lists one of the other side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub lister: String,
    pub lister_id: CanonicalId,
    pub listed: String,
    pub listed_id: CanonicalId,
}

/// Two documents of which at least one lists the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// Of the list's side.
    pub own: String,
    pub other: CanonicalId,
    /// Whether it lists the other.
    pub is_own: bool,
}

/// These documents list this from now on, and nothing else.
pub async fn replace(
    connection: &mut PgConnection,
    list: List<'_>,
    listers: &[&str],
    links: &[Link],
) -> Result<(), sqlx::Error> {
    let new_listers: Vec<&str> = links.iter().map(|link| link.lister.as_str()).collect();
    let new_listed: Vec<&str> = links.iter().map(|link| link.listed.as_str()).collect();
    sqlx::query(
        "delete from rowstream.link
         where pipeline = $1 and junction = $2 and side = $3 and lister = any($4)
             and not exists (select from unnest($5::text[], $6::text[]) as new (lister, listed)
                 where new.lister = link.lister and new.listed = link.listed)",
    )
    .bind(list.pipeline)
    .bind(list.junction)
    .bind(list.side.as_str())
    .bind(listers)
    .bind(&new_listers)
    .bind(&new_listed)
    .execute(&mut *connection)
    .await?;
    if links.is_empty() {
        return Ok(());
    }
    let lister_ids: Vec<&[u8]> = links.iter().map(|link| link.lister_id.as_bytes()).collect();
    let listed_ids: Vec<&[u8]> = links.iter().map(|link| link.listed_id.as_bytes()).collect();
    sqlx::query(
        "insert into rowstream.link (pipeline, junction, side, lister, listed, lister_id, listed_id)
         select $1, $2, $3, new.* from unnest($4::text[], $5::text[], $6::bytea[], $7::bytea[]) as new
         on conflict do nothing",
    )
    .bind(list.pipeline)
    .bind(list.junction)
    .bind(list.side.as_str())
    .bind(new_listers)
    .bind(new_listed)
    .bind(lister_ids)
    .bind(listed_ids)
    .execute(connection)
    .await?;
    Ok(())
}

/// The pairs of these documents, whichever side lists them.
pub async fn pairs(
    connection: &mut PgConnection,
    list: List<'_>,
    own: &[&str],
) -> Result<Vec<Pair>, sqlx::Error> {
    let rows = sqlx::query(
        "select own, other, bool_or(is_own) as is_own from (
             select lister as own, listed_id as other, true as is_own from rowstream.link
             where pipeline = $1 and junction = $2 and side = $3 and lister = any($5)
             union all
             select listed, lister_id, false from rowstream.link
             where pipeline = $1 and junction = $2 and side = $4 and listed = any($5)) as found
         group by own, other order by own, other",
    )
    .bind(list.pipeline)
    .bind(list.junction)
    .bind(list.side.as_str())
    .bind(list.side.other().as_str())
    .bind(own)
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Pair {
            own: row.get("own"),
            other: CanonicalId::from_bytes(row.get("other")),
            is_own: row.get("is_own"),
        })
        .collect())
}

/// The collection is gone, and with it all that its documents list.
pub async fn forget(connection: &mut PgConnection, list: List<'_>) -> Result<(), sqlx::Error> {
    sqlx::query("delete from rowstream.link where pipeline = $1 and junction = $2 and side = $3")
        .bind(list.pipeline)
        .bind(list.junction)
        .bind(list.side.as_str())
        .execute(connection)
        .await?;
    Ok(())
}

/// Until the transaction ends, no other one that asks for it works on this junction's pairs.
pub async fn alone(connection: &mut PgConnection, list: List<'_>) -> Result<(), sqlx::Error> {
    sqlx::query("select pg_advisory_xact_lock(hashtextextended($1 || ' ' || $2, 0))")
        .bind(list.pipeline)
        .bind(list.junction)
        .execute(connection)
        .await?;
    Ok(())
}
