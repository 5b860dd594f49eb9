//! Comparisons of rows with their documents: when they ran, what they found, and what else the state knows of
//! documents whose rows are not as they should be.

use std::time::Duration;

use serde_json::Value;
use sqlx::postgres::types::PgInterval;
use sqlx::{PgConnection, Row};

use crate::domain::{CanonicalId, ClusterTime};

/// A run whose process gives no sign of life for so long is nobody's.
const ABANDONED: &str = "interval '1 minute'";

/// One run as it is kept.
#[derive(Debug, Clone)]
pub struct Run {
    pub id: i64,
    pub extent: String,
    pub cause: String,
    pub state: String,
    /// Seconds since 1970.
    pub started_at: f64,
    pub finished_at: Option<f64>,
    pub progress: Option<Value>,
    pub report: Option<Value>,
    /// Documents of a sample, where somebody said how many.
    pub sample: Option<i64>,
}

/// What differs between a document and its rows in one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub source: String,
    pub source_id: String,
    /// `None`: nobody can read the id back from its text.
    pub id: Option<CanonicalId>,
    pub target: String,
    pub kind: String,
    pub columns: Vec<String>,
}

/// A finding that an earlier run has left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    pub finding: Finding,
    /// Its document was read again since it was found.
    pub repaired: bool,
    /// `false`: it differed again afterwards.
    pub converges: bool,
}

const COLUMNS: &str = "id, extent, cause, state, extract(epoch from started_at)::float8,
    extract(epoch from finished_at)::float8, progress::text, report::text, sample";

fn run(row: &sqlx::postgres::PgRow) -> Run {
    let json =
        |place: usize| row.get::<Option<String>, _>(place).and_then(|text| serde_json::from_str(&text).ok());
    Run {
        id: row.get(0),
        extent: row.get(1),
        cause: row.get(2),
        state: row.get(3),
        started_at: row.get(4),
        finished_at: row.get(5),
        progress: json(6),
        report: json(7),
        sample: row.get(8),
    }
}

/// Begins a run. `None`: another one is going on. One that nobody goes on with is over.
pub async fn begin(
    connection: &mut PgConnection,
    pipeline: &str,
    extent: &str,
    cause: &str,
) -> Result<Option<i64>, sqlx::Error> {
    let sql = format!(
        "update rowstream.reconcile_run set state = 'cancelled', finished_at = clock_timestamp()
         where pipeline = $1 and state = 'running' and heartbeat < clock_timestamp() - {ABANDONED}"
    );
    sqlx::query(sqlx::AssertSqlSafe(sql)).bind(pipeline).execute(&mut *connection).await?;
    sqlx::query_scalar(
        "insert into rowstream.reconcile_run (pipeline, extent, cause) values ($1, $2, $3)
         on conflict (pipeline) where state in ('asked', 'running') do nothing returning id",
    )
    .bind(pipeline)
    .bind(extent)
    .bind(cause)
    .fetch_optional(connection)
    .await
}

/// Asks the leader for a run. `None`: another one is going on, or was asked for.
pub async fn ask(
    connection: &mut PgConnection,
    pipeline: &str,
    sample: Option<i64>,
) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar(
        "insert into rowstream.reconcile_run (pipeline, extent, sample, cause, state)
         values ($1, case when $2::bigint is null then 'full' else 'sample' end, $2, 'http', 'asked')
         on conflict (pipeline) where state in ('asked', 'running') do nothing returning id",
    )
    .bind(pipeline)
    .bind(sample)
    .fetch_optional(connection)
    .await
}

/// One run.
pub async fn find(
    connection: &mut PgConnection,
    pipeline: &str,
    id: i64,
) -> Result<Option<Run>, sqlx::Error> {
    let sql = format!("select {COLUMNS} from rowstream.reconcile_run where pipeline = $1 and id = $2");
    let row =
        sqlx::query(sqlx::AssertSqlSafe(sql)).bind(pipeline).bind(id).fetch_optional(connection).await?;
    Ok(row.as_ref().map(run))
}

/// Takes up a run that was asked for, or one of these causes that was interrupted.
pub async fn take_up(
    connection: &mut PgConnection,
    pipeline: &str,
    causes: &[&str],
) -> Result<Option<Run>, sqlx::Error> {
    let sql = format!(
        "update rowstream.reconcile_run
         set heartbeat = clock_timestamp(), state = 'running',
             started_at = case state when 'asked' then clock_timestamp() else started_at end
         where pipeline = $1 and cause = any($2)
             and (state = 'asked' or state = 'running' and heartbeat < clock_timestamp() - {ABANDONED})
         returning {COLUMNS}"
    );
    let row =
        sqlx::query(sqlx::AssertSqlSafe(sql)).bind(pipeline).bind(causes).fetch_optional(connection).await?;
    Ok(row.as_ref().map(run))
}

/// A sign of life, and what is new of how far it is. `false`: the run is no longer ours.
pub async fn progressed(
    connection: &mut PgConnection,
    pipeline: &str,
    id: i64,
    progress: Option<&Value>,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "update rowstream.reconcile_run
         set heartbeat = clock_timestamp(), progress = coalesce(progress, '{}') || coalesce($3::jsonb, '{}')
         where pipeline = $1 and id = $2 and state = 'running'",
    )
    .bind(pipeline)
    .bind(id)
    .bind(progress.map(Value::to_string))
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Changes while the run that is going on makes progress.
pub async fn moved(connection: &mut PgConnection, pipeline: &str) -> Result<String, sqlx::Error> {
    sqlx::query_scalar(
        "select concat_ws(' ',
             (select concat_ws(' ', id, progress) from rowstream.reconcile_run
              where pipeline = $1 and state in ('asked', 'running')),
             (select count(*) from rowstream.touch where pipeline = $1),
             (select count(*) from rowstream.chunk where pipeline = $1 and finished_at is not null))",
    )
    .bind(pipeline)
    .fetch_one(connection)
    .await
}

/// Lets somebody else go on at once.
pub async fn abandon(connection: &mut PgConnection, pipeline: &str, id: i64) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update rowstream.reconcile_run set heartbeat = 'epoch'
         where pipeline = $1 and id = $2 and state = 'running'",
    )
    .bind(pipeline)
    .bind(id)
    .execute(connection)
    .await?;
    Ok(())
}

/// Ends a run: `state` is `done`, `cancelled` or `failed`.
pub async fn finish(
    connection: &mut PgConnection,
    pipeline: &str,
    id: i64,
    state: &str,
    report: Option<&Value>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update rowstream.reconcile_run
         set state = $3, finished_at = clock_timestamp(), progress = null, report = $4::jsonb
         where pipeline = $1 and id = $2 and state = 'running'",
    )
    .bind(pipeline)
    .bind(id)
    .bind(state)
    .bind(report.map(Value::to_string))
    .execute(connection)
    .await?;
    Ok(())
}

/// The newest runs first.
pub async fn history(
    connection: &mut PgConnection,
    pipeline: &str,
    limit: i64,
) -> Result<Vec<Run>, sqlx::Error> {
    let sql = format!(
        "select {COLUMNS} from rowstream.reconcile_run where pipeline = $1 order by id desc limit $2"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(pipeline).bind(limit).fetch_all(connection).await?;
    Ok(rows.iter().map(run).collect())
}

/// The newest run that has a report.
pub async fn last_report(connection: &mut PgConnection, pipeline: &str) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar(
        "select max(id) from rowstream.reconcile_run where pipeline = $1 and report is not null",
    )
    .bind(pipeline)
    .fetch_one(connection)
    .await
}

/// When comparisons of every source last began that are done, in seconds since 1970: of a sample, of everything.
pub async fn last_begun(
    connection: &mut PgConnection,
    pipeline: &str,
) -> Result<(Option<f64>, Option<f64>), sqlx::Error> {
    sqlx::query_as(
        "select extract(epoch from max(started_at) filter (where extent = 'sample'))::float8,
                extract(epoch from max(started_at) filter (where extent = 'full'))::float8
         from rowstream.reconcile_run
         where pipeline = $1 and state = 'done' and cause in ('command', 'timer', 'http')",
    )
    .bind(pipeline)
    .fetch_one(connection)
    .await
}

/// Removes runs that ended before the retention; the last one with a report stays.
pub async fn purge(
    connection: &mut PgConnection,
    pipeline: &str,
    retention: Duration,
) -> Result<u64, sqlx::Error> {
    let interval = PgInterval { months: 0, days: 0, microseconds: retention.as_micros() as i64 };
    let done = sqlx::query(
        "delete from rowstream.reconcile_run as r
         where pipeline = $1 and state not in ('asked', 'running') and finished_at < now() - $2::interval
           and id < (select max(id) from rowstream.reconcile_run as last
                     where last.pipeline = $1 and last.report is not null)",
    )
    .bind(pipeline)
    .bind(interval)
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// Writes findings down. One that is known keeps the time when it was first found; one whose document was read
/// again since does not converge.
pub async fn found(
    connection: &mut PgConnection,
    pipeline: &str,
    run: i64,
    findings: &[Finding],
) -> Result<(), sqlx::Error> {
    for part in findings.chunks(1_000) {
        let columns: Vec<String> = part.iter().map(|finding| to_json(&finding.columns)).collect();
        sqlx::query(
            "insert into rowstream.reconcile_finding as f (pipeline, run, source, source_id, target, kind, id, columns)
             select $1, $2, n.source, n.source_id, n.target, n.kind, n.id,
                    array(select jsonb_array_elements_text(n.columns::jsonb))
             from unnest($3::text[], $4::text[], $5::text[], $6::text[], $7::bytea[], $8::text[])
                 as n (source, source_id, target, kind, id, columns)
             on conflict (pipeline, source, source_id, target, kind) do update set
                 run = excluded.run, id = excluded.id, columns = excluded.columns, last_found_at = clock_timestamp(),
                 converges = f.converges and f.repaired_at is null",
        )
        .bind(pipeline)
        .bind(run)
        .bind(part.iter().map(|finding| finding.source.as_str()).collect::<Vec<_>>())
        .bind(part.iter().map(|finding| finding.source_id.as_str()).collect::<Vec<_>>())
        .bind(part.iter().map(|finding| finding.target.as_str()).collect::<Vec<_>>())
        .bind(part.iter().map(|finding| finding.kind.as_str()).collect::<Vec<_>>())
        .bind(part.iter().map(|finding| finding.id.as_ref().map(CanonicalId::as_bytes)).collect::<Vec<_>>())
        .bind(columns)
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

fn to_json(columns: &[String]) -> String {
    Value::from(columns.to_vec()).to_string()
}

/// Forgets the findings of these documents that this run has not found again: they are equal now.
pub async fn settled(
    connection: &mut PgConnection,
    pipeline: &str,
    run: i64,
    source: &str,
    source_ids: &[&str],
) -> Result<u64, sqlx::Error> {
    let done = sqlx::query(
        "delete from rowstream.reconcile_finding
         where pipeline = $1 and source = $2 and run <> $3 and source_id = any($4)",
    )
    .bind(pipeline)
    .bind(source)
    .bind(run)
    .bind(source_ids)
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// What is known of a source, in the order of source_ids, after the one named.
pub async fn known(
    connection: &mut PgConnection,
    pipeline: &str,
    source: &str,
    after: Option<&str>,
    limit: i64,
) -> Result<Vec<Known>, sqlx::Error> {
    let rows = sqlx::query(
        "select source_id, id, target, kind, to_jsonb(columns)::text, repaired_at is not null, converges
         from rowstream.reconcile_finding
         where pipeline = $1 and source = $2 and ($3::text is null or source_id > $3)
         order by source_id, target, kind limit $4",
    )
    .bind(pipeline)
    .bind(source)
    .bind(after)
    .bind(limit)
    .fetch_all(connection)
    .await?;
    let known = |row: sqlx::postgres::PgRow| Known {
        finding: Finding {
            source: source.to_owned(),
            source_id: row.get(0),
            id: row.get::<Option<Vec<u8>>, _>(1).map(|bytes| CanonicalId::from_bytes(&bytes)),
            target: row.get(2),
            kind: row.get(3),
            columns: serde_json::from_str(row.get(4)).unwrap_or_default(),
        },
        repaired: row.get(5),
        converges: row.get(6),
    };
    Ok(rows.into_iter().map(known).collect())
}

/// Since when the oldest finding of each source is known, in seconds since 1970, and how many of them do not
/// converge.
pub async fn oldest(
    connection: &mut PgConnection,
    pipeline: &str,
) -> Result<Vec<(String, f64, i64)>, sqlx::Error> {
    let rows = sqlx::query(
        "select source, extract(epoch from min(first_found_at))::float8, count(*) filter (where not converges)
         from rowstream.reconcile_finding where pipeline = $1 group by source",
    )
    .bind(pipeline)
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect())
}

/// The documents of these findings are read again from now on.
pub async fn repairing(
    connection: &mut PgConnection,
    pipeline: &str,
    source: &str,
    source_ids: &[&str],
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update rowstream.reconcile_finding set repaired_at = clock_timestamp()
         where pipeline = $1 and source = $2 and source_id = any($3)",
    )
    .bind(pipeline)
    .bind(source)
    .bind(source_ids)
    .execute(connection)
    .await?;
    Ok(())
}

/// Which of these documents have findings that differed again after a repair.
pub async fn stubborn(
    connection: &mut PgConnection,
    pipeline: &str,
    source: &str,
    source_ids: &[&str],
) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(
        "select distinct source_id from rowstream.reconcile_finding
         where pipeline = $1 and source = $2 and source_id = any($3) and not converges",
    )
    .bind(pipeline)
    .bind(source)
    .bind(source_ids)
    .fetch_all(connection)
    .await
}

/// Documents of the source that were read again for their findings and are still to be judged, in the order of
/// source_ids, after the one named.
pub async fn repaired(
    connection: &mut PgConnection,
    pipeline: &str,
    source: &str,
    after: Option<&str>,
    limit: i64,
) -> Result<Vec<(String, CanonicalId)>, sqlx::Error> {
    let rows = sqlx::query(
        "select source_id, (array_agg(id))[1] from rowstream.reconcile_finding
         where pipeline = $1 and source = $2 and ($3::text is null or source_id > $3) and id is not null
         group by source_id having bool_and(converges) and bool_or(repaired_at is not null)
         order by source_id limit $4",
    )
    .bind(pipeline)
    .bind(source)
    .bind(after)
    .bind(limit)
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.get(0), CanonicalId::from_bytes(row.get(1)))).collect())
}

/// The rows of these documents are as they should be.
pub async fn forget(
    connection: &mut PgConnection,
    pipeline: &str,
    source: &str,
    source_ids: &[&str],
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "delete from rowstream.reconcile_finding where pipeline = $1 and source = $2 and source_id = any($3)",
    )
    .bind(pipeline)
    .bind(source)
    .bind(source_ids)
    .execute(connection)
    .await?;
    Ok(())
}

/// Which of these documents are held: their rows are as they were before.
pub async fn held(
    connection: &mut PgConnection,
    pipeline: &str,
    source: &str,
    source_ids: &[&str],
) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(
        "select source_id from rowstream.held
         where pipeline = $1 and source = $2 and source_id = any($3) and state <> 'resolved'",
    )
    .bind(pipeline)
    .bind(source)
    .bind(source_ids)
    .fetch_all(connection)
    .await
}

/// Which of these documents the pipeline is about to read again by itself.
pub async fn due(
    connection: &mut PgConnection,
    pipeline: &str,
    source: &str,
    source_ids: &[&str],
) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(
        "select source_id from rowstream.wait
         where pipeline = $1 and source = $2 and source_id = any($3) and due_at is not null
         union
         select source_id from rowstream.row
         where pipeline = $1 and source = $2 and source_id = any($3) and touched_at is not null
         union
         select source_id from rowstream.touch where pipeline = $1 and source = $2 and source_id = any($3)",
    )
    .bind(pipeline)
    .bind(source)
    .bind(source_ids)
    .fetch_all(connection)
    .await
}

/// How many documents of each source are held.
pub async fn held_counts(
    connection: &mut PgConnection,
    pipeline: &str,
) -> Result<Vec<(String, i64)>, sqlx::Error> {
    let rows = sqlx::query(
        "select source, count(*) from rowstream.held where pipeline = $1 and state <> 'resolved' group by 1",
    )
    .bind(pipeline)
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Who follows the stream now, and how far.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Followed {
    /// Seconds since the leader's last sign of life; `None`: nobody leads.
    pub heartbeat_age: Option<f64>,
    pub applied: ClusterTime,
}

/// `None`: nothing was ever followed.
pub async fn followed(
    connection: &mut PgConnection,
    pipeline: &str,
) -> Result<Option<Followed>, sqlx::Error> {
    let row = sqlx::query(
        "select c.cluster_time, extract(epoch from clock_timestamp() - l.heartbeat)::float8
         from rowstream.checkpoint as c
         left join rowstream.lease as l on l.pipeline = c.pipeline and l.owner <> ''
         where c.pipeline = $1",
    )
    .bind(pipeline)
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| Followed {
        applied: ClusterTime::from_i64(row.get(0)),
        heartbeat_age: row.get::<Option<f64>, _>(1),
    }))
}

/// Forgets what other runs have found of a source that this run has compared in full.
pub async fn forget_others(
    connection: &mut PgConnection,
    pipeline: &str,
    run: i64,
    source: &str,
) -> Result<u64, sqlx::Error> {
    let done = sqlx::query(
        "delete from rowstream.reconcile_finding where pipeline = $1 and source = $2 and run <> $3",
    )
    .bind(pipeline)
    .bind(source)
    .bind(run)
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// Documents of the source that stand for rows, at random by pages of the table.
pub async fn sample_claims(
    connection: &mut PgConnection,
    pipeline: &str,
    source: &str,
    percent: f32,
    limit: i64,
) -> Result<Vec<(String, CanonicalId)>, sqlx::Error> {
    let rows = sqlx::query(
        "select source_id, id from rowstream.row tablesample system ($3)
         where pipeline = $1 and source = $2 and row_key is not null and not kept limit $4",
    )
    .bind(pipeline)
    .bind(source)
    .bind(percent)
    .bind(limit)
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.get(0), CanonicalId::from_bytes(row.get(1)))).collect())
}
