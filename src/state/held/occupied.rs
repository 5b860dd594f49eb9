//! Documents that are held since another row has their unique value: when may they have it?

use sqlx::{PgConnection, Row};

use crate::domain::RowKey;

/// Of those that were held for one value, this many are tried again in a second: one of them gets it.
const TRIED_IN_A_SECOND: i64 = 100;

/// A value that somebody waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Occupied {
    /// The mapping whose document waits.
    pub source: String,
    /// Of the unique key.
    pub columns: Vec<String>,
    /// A COPY tuple.
    pub value: Vec<u8>,
    /// The row that had it.
    pub occupant: RowKey,
}

/// How the state writes the columns of a unique key.
pub(super) fn text(columns: &[String]) -> String {
    serde_json::Value::from(columns).to_string()
}

fn columns(text: &str) -> Vec<String> {
    serde_json::from_str(text).unwrap_or_default()
}

/// The tables, with their keys, whose rows somebody waits for to give a value up.
pub async fn targets(connection: &mut PgConnection, pipeline: &str) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(
        "select distinct occupied_target from rowstream.held
         where pipeline = $1 and occupant is not null",
    )
    .bind(pipeline)
    .fetch_all(connection)
    .await
}

/// The rows for which these documents wait.
pub async fn occupants(
    connection: &mut PgConnection,
    pipeline: &str,
    source: &str,
    source_ids: &[&str],
) -> Result<Vec<RowKey>, sqlx::Error> {
    let keys: Vec<Vec<u8>> = sqlx::query_scalar(
        "select distinct occupant from rowstream.held
         where pipeline = $1 and source = $2 and source_id = any($3) and occupant is not null",
    )
    .bind(pipeline)
    .bind(source)
    .bind(source_ids)
    .fetch_all(connection)
    .await?;
    Ok(keys.into_iter().map(RowKey::from_bytes).collect())
}

/// What is waited for that these rows of the table had when it was last tried; `None`: any of its rows.
pub async fn occupied(
    connection: &mut PgConnection,
    pipeline: &str,
    target: &str,
    rows: Option<&[&[u8]]>,
) -> Result<Vec<Occupied>, sqlx::Error> {
    let rows = sqlx::query(
        "select distinct source, occupied_columns, occupied_value, occupant from rowstream.held
         where pipeline = $1 and occupied_target = $2 and occupant is not null
           and ($3::bytea[] is null or occupant = any($3))",
    )
    .bind(pipeline)
    .bind(target)
    .bind(rows)
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Occupied {
            source: row.get(0),
            columns: columns(row.get(1)),
            value: row.get(2),
            occupant: RowKey::from_bytes(row.get(3)),
        })
        .collect())
}

/// These values are free: whoever is held for one of them is due, the longest waiting at once. The rows are locked in
/// one order, since transactions of chunks may release the same ones.
pub async fn release(
    connection: &mut PgConnection,
    pipeline: &str,
    target: &str,
    columns: &[String],
    values: &[&[u8]],
) -> Result<u64, sqlx::Error> {
    let done = sqlx::query(
        "with waiting as (
             select source, source_id, occupied_value, first_held_at from rowstream.held
             where pipeline = $1 and occupied_target = $2 and occupant is not null
               and occupied_columns = $3 and occupied_value = any($4)
             order by source, source_id for update
         ),
         placed as (
             select source, source_id,
                    row_number() over (partition by occupied_value order by first_held_at, source, source_id) - 1 as place
             from waiting
         )
         update rowstream.held as h
         set next_attempt_at = least(h.next_attempt_at, clock_timestamp() + placed.place / $5 * interval '1 second')
         from placed
         where h.pipeline = $1 and h.source = placed.source and h.source_id = placed.source_id",
    )
    .bind(pipeline)
    .bind(target)
    .bind(text(columns))
    .bind(values)
    .bind(TRIED_IN_A_SECOND)
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// These values, each with the row that has it now, have changed hands past whoever waits for them.
pub async fn pass_on(
    connection: &mut PgConnection,
    pipeline: &str,
    target: &str,
    columns: &[String],
    values: &[(&[u8], &RowKey)],
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update rowstream.held as h set occupant = now.occupant
         from unnest($4::bytea[], $5::bytea[]) as now (value, occupant)
         where h.pipeline = $1 and h.occupied_target = $2 and h.occupant is not null
           and h.occupied_columns = $3 and h.occupied_value = now.value and h.occupant <> now.occupant",
    )
    .bind(pipeline)
    .bind(target)
    .bind(text(columns))
    .bind(values.iter().map(|(value, _)| *value).collect::<Vec<_>>())
    .bind(values.iter().map(|(_, occupant)| occupant.as_bytes()).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}
