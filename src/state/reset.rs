//! Forgetting everything about a pipeline.

use sqlx::PgConnection;

/// Every table of the state has the pipeline's name, and chunks go with their mappings. All at once, or nothing
/// while somebody leads; says which. Of mappings whose rows say themselves whose they are, it stays known that
/// they have rows: they are copied anew, and then compared, since documents may go in between.
pub async fn reset(
    connection: &mut PgConnection,
    pipeline: &str,
    lease_ttl_seconds: f64,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "with free as (
             select $1::text as pipeline where not exists (
                 select from rowstream.lease where pipeline = $1 and owner <> ''
                     and heartbeat > clock_timestamp() - make_interval(secs => $2))),
         checkpoint as (delete from rowstream.checkpoint where pipeline in (select pipeline from free)),
         claimed as (
             select distinct pipeline, source from rowstream.row where pipeline in (select pipeline from free)),
         mapping as (
             delete from rowstream.mapping as m
             where pipeline in (select pipeline from free) and (snapshot_started_at is null or exists (
                 select from claimed where claimed.source = m.source))),
         kept as (
             update rowstream.mapping as m
             set snapshot_state = 'pending', planned = false, documents_estimated = null, snapshot_started_at = null,
                 snapshot_finished_at = null, collection_uuid = null,
                 resync_since = clock_timestamp(), resync_cause = 'reset'
             where pipeline in (select pipeline from free) and snapshot_started_at is not null and not exists (
                 select from claimed where claimed.source = m.source)),
         chunk as (delete from rowstream.chunk where pipeline in (select pipeline from free)),
         held as (delete from rowstream.held where pipeline in (select pipeline from free)),
         wait as (delete from rowstream.wait where pipeline in (select pipeline from free)),
         stub as (delete from rowstream.stub where pipeline in (select pipeline from free)),
         claim as (delete from rowstream.row where pipeline in (select pipeline from free)),
         left_out as (delete from rowstream.left_out where pipeline in (select pipeline from free)),
         link as (delete from rowstream.link where pipeline in (select pipeline from free)),
         touch as (delete from rowstream.touch where pipeline in (select pipeline from free)),
         run as (delete from rowstream.reconcile_run where pipeline in (select pipeline from free)),
         finding as (delete from rowstream.reconcile_finding where pipeline in (select pipeline from free)),
         lease as (delete from rowstream.lease where pipeline in (select pipeline from free))
         select pipeline from free",
    )
    .bind(pipeline)
    .bind(lease_ttl_seconds)
    .fetch_optional(connection)
    .await?;
    Ok(done.is_some())
}
