//! The snapshot, beside two raw binary COPYs of the very same rows.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use futures_util::TryStreamExt;
use sqlx::{Connection, Executor, PgConnection};

use crate::daemon::{Daemon, reached};
use crate::shares::Shares;
use crate::support::servers::{Mongod, Postgres};
use crate::{Round, Scale, ledger};

/// The database of the last round; the backlog goes on from there.
pub(crate) const DATABASE: &str = "bench";

/// What the client hands to the socket at once.
const SEND_BYTES: usize = 256 * 1024;

/// The first round counts for nothing: it is alone with memory, log segments and files that nobody has touched before.
pub(crate) async fn rounds(mongod: &Mongod, postgres: &Postgres, scale: &Scale) -> Result<Vec<Round>> {
    let mut rounds = Vec::new();
    let mut halves = Vec::new();
    let mut before = None;
    for number in 0..=scale.rounds {
        let shares = Shares::now()?;
        let round = snapshot(mongod, postgres, scale.documents).await?;
        let shares = shares.until_now()?;
        let mut connection = postgres.connect(DATABASE).await?;
        if halves.is_empty() {
            halves = encoded_halves(&mut connection).await?;
        }
        let of_limit = Shares::now()?;
        let after = raw_copies(postgres, &mut connection, &halves, scale.documents).await?;
        // Before and after, so that a machine that becomes slower or faster shows on both sides.
        let limit = f64::midpoint(before.replace(after).unwrap_or(after), after);
        let of_limit = of_limit.until_now()?;
        connection.close().await?;
        let name = if number == 0 { "to warm up".to_owned() } else { format!("round {number}") };
        println!("snapshot {name}: {:.0} of {limit:.0} documents/s; {shares}, {of_limit}", round.value);
        if number > 0 {
            rounds.push(Round { limit, ..round });
        }
    }
    Ok(rounds)
}

/// Copies the ledger into a fresh database; the daemon is stopped afterwards. `limit` is not set.
pub(crate) async fn snapshot(mongod: &Mongod, postgres: &Postgres, documents: u64) -> Result<Round> {
    let mut server = postgres.connect("postgres").await?;
    sqlx::raw_sql("drop database if exists bench").execute(&mut server).await?;
    sqlx::raw_sql("checkpoint").execute(&mut server).await?;
    server.close().await?;
    postgres.create_database(DATABASE).await?;
    let mut connection = postgres.connect(DATABASE).await?;
    connection.execute(ledger::TABLE).await?;
    let daemon = Daemon::start(mongod, &postgres.url_of(DATABASE), ledger::MAPPING)?;
    reached(
        &mut connection,
        "the end of the snapshot",
        "select snapshot_state = 'done' from rowstream.mapping",
    )
    .await?;
    let (seconds, rows): (f64, i64) = sqlx::query_as(
        "select extract(epoch from snapshot_finished_at - snapshot_started_at)::float8,
                (select count(*) from ledger) from rowstream.mapping",
    )
    .fetch_one(&mut connection)
    .await?;
    ensure!(rows as u64 == documents, "{rows} rows came of {documents} documents");
    let round = Round {
        value: documents as f64 / seconds,
        limit: f64::NAN,
        cpu: daemon.cpu()?,
        peak_memory: daemon.peak_memory()?,
    };
    daemon.stop().await?;
    connection.close().await?;
    Ok(round)
}

/// The table's rows in key order, as two whole binary COPY streams.
async fn encoded_halves(connection: &mut PgConnection) -> Result<Vec<Vec<u8>>> {
    let mut halves = Vec::new();
    sqlx::raw_sql(
        "create view middle as select source_id from ledger order by source_id
         offset (select count(*) / 2 from ledger) limit 1",
    )
    .execute(&mut *connection)
    .await?;
    for sql in [
        "copy (select * from ledger where source_id < (select source_id from middle) order by source_id) \
         to stdout (format binary)",
        "copy (select * from ledger where source_id >= (select source_id from middle) order by source_id) \
         to stdout (format binary)",
    ] {
        let mut half = Vec::new();
        let mut stream = connection.copy_out_raw(sql).await?;
        while let Some(bytes) = stream.try_next().await? {
            half.extend_from_slice(&bytes);
        }
        halves.push(half);
    }
    Ok(halves)
}

/// Rows per second into an empty table like the first one, one connection and transaction for each half.
async fn raw_copies(
    postgres: &Postgres,
    connection: &mut PgConnection,
    halves: &[Vec<u8>],
    rows: u64,
) -> Result<f64> {
    sqlx::raw_sql("create table raw (like ledger including all); checkpoint")
        .execute(&mut *connection)
        .await?;
    let mut connections = Vec::new();
    for _ in halves {
        connections.push(postgres.connect(DATABASE).await?);
    }
    let [first, second] = connections.as_mut_slice() else {
        anyhow::bail!("two halves have two connections")
    };
    let began = Instant::now();
    let (one, other) = tokio::try_join!(raw_copy(first, &halves[0]), raw_copy(second, &halves[1]))?;
    let took = began.elapsed();
    ensure!(one + other == rows, "{one} + {other} rows were copied of {rows}");
    sqlx::raw_sql("drop table raw").execute(connection).await?;
    Ok(rows as f64 / took.as_secs_f64())
}

async fn raw_copy(connection: &mut PgConnection, bytes: &[u8]) -> Result<u64> {
    let mut copy = connection.copy_in_raw("copy raw from stdin (format binary)").await.context("copy")?;
    for part in bytes.chunks(SEND_BYTES) {
        copy.send(part).await?;
    }
    Ok(copy.finish().await?)
}
