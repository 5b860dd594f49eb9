//! One writer at a time. Time is PostgreSQL's clock, never ours.

use std::time::Duration;

use sqlx::postgres::PgRow;
use sqlx::postgres::types::PgInterval;
use sqlx::{Connection, PgConnection, Row};

use super::transaction::literal;

/// A leader's number; every take-over raises it, and a smaller one can no longer commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch(pub i64);

/// Who holds the lease when we do not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub owner: String,
    pub epoch: Epoch,
    pub heartbeat_age: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acquired {
    Leader(Epoch),
    Standby(Holder),
}

/// Takes the lease if it is free, expired, or already ours (then with a new epoch).
///
/// The row lock waits for every transaction of the former epoch, for each holds the row `for key
/// share`: what is loaded after this returns is settled. Heartbeats change no key and pass beside.
pub async fn acquire(
    connection: &mut PgConnection,
    pipeline: &str,
    owner: &str,
    ttl: Duration,
) -> Result<Acquired, sqlx::Error> {
    let ttl = PgInterval { months: 0, days: 0, microseconds: ttl.as_micros() as i64 };
    let mut transaction = connection.begin().await?;
    sqlx::query(
        "insert into rowstream.lease (pipeline, owner, epoch, heartbeat)
         values ($1, '', 0, 'epoch') on conflict do nothing",
    )
    .bind(pipeline)
    .execute(&mut *transaction)
    .await?;
    // Looked at without a lock first: a standby must not queue behind the leader's transactions.
    let seen = sqlx::query(
        "select owner, epoch, (extract(epoch from clock_timestamp() - heartbeat) * 1000)::float8 as age_ms,
                owner = $2 or heartbeat < clock_timestamp() - $3::interval as free
         from rowstream.lease where pipeline = $1",
    )
    .bind(pipeline)
    .bind(owner)
    .bind(ttl)
    .fetch_one(&mut *transaction)
    .await?;
    let holder = Holder {
        owner: seen.get("owner"),
        epoch: Epoch(seen.get("epoch")),
        heartbeat_age: Duration::from_millis(seen.get::<f64, _>("age_ms").clamp(0.0, 1e12) as u64),
    };
    if !seen.get::<bool, _>("free") {
        transaction.commit().await?;
        return Ok(Acquired::Standby(holder));
    }
    end_sessions_of(&mut transaction, pipeline, &holder.owner, owner).await?;
    sqlx::query("select from rowstream.lease where pipeline = $1 for update")
        .bind(pipeline)
        .execute(&mut *transaction)
        .await?;
    let epoch: Option<i64> = sqlx::query_scalar(
        "update rowstream.lease set owner = $2, epoch = epoch + 1, heartbeat = clock_timestamp()
         where pipeline = $1 and (owner = $2 or heartbeat < clock_timestamp() - $3::interval)
         returning epoch",
    )
    .bind(pipeline)
    .bind(owner)
    .bind(ttl)
    .fetch_optional(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(match epoch {
        Some(epoch) => Acquired::Leader(Epoch(epoch)),
        None => Acquired::Standby(holder),
    })
}

/// The `application_name` of an owner's connections, by which its successor finds them.
pub fn application_name(pipeline: &str, owner: &str) -> String {
    let mut name = format!("rowstream {owner} {pipeline}");
    // PostgreSQL cuts at 63 bytes; cutting here keeps both sides of the comparison equal.
    while name.len() > 63 {
        name.pop();
    }
    name
}

/// The server's process of this connection. Not prepared: behind a transaction pooler, the name of a prepared
/// statement may be another session's.
pub async fn process(connection: &mut PgConnection) -> Result<i32, sqlx::Error> {
    sqlx::raw_sql("select pg_backend_pid()").fetch_one(connection).await?.try_get(0)
}

/// For which of these connections the server still has a process: they may not have heard of its end.
pub async fn served(connection: &mut PgConnection, processes: &[i32]) -> Result<Vec<i32>, sqlx::Error> {
    sqlx::query_scalar("select pid from pg_stat_activity where pid = any($1)")
        .bind(processes)
        .fetch_all(connection)
        .await
}

/// A paused leader may sit in an open transaction and would block the take-over until a time-out.
/// Ending its sessions is allowed to the same role, and harmless: its epoch is over.
async fn end_sessions_of(
    connection: &mut PgConnection,
    pipeline: &str,
    former: &str,
    owner: &str,
) -> Result<(), sqlx::Error> {
    if former.is_empty() || former == owner {
        return Ok(());
    }
    sqlx::query(
        "select pg_terminate_backend(pid) from pg_stat_activity
         where application_name = $1 and usename = current_user and pid <> pg_backend_pid()",
    )
    .bind(application_name(pipeline, former))
    .execute(connection)
    .await?;
    Ok(())
}

/// `false`: somebody else is the leader now.
pub async fn heartbeat(
    connection: &mut PgConnection,
    pipeline: &str,
    epoch: Epoch,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "update rowstream.lease set heartbeat = clock_timestamp() where pipeline = $1 and epoch = $2",
    )
    .bind(pipeline)
    .bind(epoch.0)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Among the first statements of every transaction on the target: without a row that is [`is_fence`] it must
/// not go on. From here to the end of the transaction nobody can take the lease over. There is no row either
/// if a transaction that has written was left open on this connection.
pub fn fence(pipeline: &str, epoch: Epoch) -> String {
    format!(
        "select epoch as fenced from rowstream.lease where pipeline = {} and epoch = {} \
         and txid_current_if_assigned() is null for key share",
        literal(pipeline),
        epoch.0
    )
}

/// Once per connection; `EXECUTE_FENCE` is the fence then.
pub fn prepare_fence(pipeline: &str, epoch: Epoch) -> String {
    format!("prepare rowstream_fence as {}", fence(pipeline, epoch))
}

pub const EXECUTE_FENCE: &str = "execute rowstream_fence";

pub fn is_fence(row: &PgRow) -> bool {
    row.try_column("fenced").is_ok()
}

/// Since when nobody is to work, as text, if so.
pub async fn paused_since(
    connection: &mut PgConnection,
    pipeline: &str,
) -> Result<Option<String>, sqlx::Error> {
    let since: Option<Option<String>> = sqlx::query_scalar(
        "select to_char(paused_at at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')
         from rowstream.lease where pipeline = $1",
    )
    .bind(pipeline)
    .fetch_optional(connection)
    .await?;
    Ok(since.flatten())
}

/// Until `resume`, whoever leads; also before anybody ever has.
pub async fn pause(connection: &mut PgConnection, pipeline: &str) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into rowstream.lease as lease (pipeline, owner, epoch, heartbeat, paused_at)
         values ($1, '', 0, 'epoch', clock_timestamp())
         on conflict (pipeline) do update set paused_at = coalesce(lease.paused_at, excluded.paused_at)",
    )
    .bind(pipeline)
    .execute(connection)
    .await?;
    Ok(())
}

/// `false`: it was not paused.
pub async fn resume(connection: &mut PgConnection, pipeline: &str) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "update rowstream.lease set paused_at = null where pipeline = $1 and paused_at is not null",
    )
    .bind(pipeline)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Gives the lease up if it is ours, so that a standby need not wait for it to expire.
pub async fn release_of(
    connection: &mut PgConnection,
    pipeline: &str,
    owner: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update rowstream.lease set owner = '', heartbeat = 'epoch' where pipeline = $1 and owner = $2",
    )
    .bind(pipeline)
    .bind(owner)
    .execute(connection)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_application_name_fits_what_postgresql_keeps_and_is_cut_between_characters() {
        let name = application_name(&"ä".repeat(80), "0123abcd");
        assert!(name.len() <= 63 && name.starts_with("rowstream 0123abcd ä"), "{name}");
    }
}
