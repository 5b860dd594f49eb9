//! A backlog of changes, beside a raw drain of the very same stream.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use bson::{Document, Timestamp, doc};
use futures_util::StreamExt;
use mongodb::Client;
use mongodb::options::ReadConcern;
use mongodb::raw_batch_cursor::{RawBatch, RawBatchCursor};
use sqlx::{Connection, PgConnection};

use crate::daemon::{Daemon, PATIENCE};
use crate::shares::Shares;
use crate::support::servers::{Mongod, Postgres};
use crate::support::until;
use crate::{Round, Scale, copy, ledger};

pub(crate) async fn rounds(
    mongod: &Mongod,
    postgres: &Postgres,
    client: &Client,
    ledger: &mut ledger::Ledger,
    scale: &Scale,
) -> Result<Vec<Round>> {
    copy::snapshot(mongod, postgres, scale.events_of).await?;
    let mut connection = postgres.connect(copy::DATABASE).await?;
    let mut rounds = Vec::new();
    for number in 0..scale.rounds {
        let from = ledger::majority_time(client).await?;
        ledger.change(scale.events).await?;
        let to = ledger::majority_time(client).await?;
        // What the round before has left behind would be cleaned up in the midst of this one.
        sqlx::raw_sql("vacuum ledger").execute(&mut connection).await?;
        sqlx::raw_sql("checkpoint").execute(&mut connection).await?;
        // Before and after, so that a machine that becomes slower or faster shows on both sides.
        let before = drain(client, from, scale.events).await?;
        let shares = Shares::now()?;
        let round = apply(mongod, postgres, &mut connection, to, scale).await?;
        let shares = shares.until_now()?;
        let after = drain(client, from, scale.events).await?;
        let limit = f64::midpoint(before, after);
        println!("backlog round {number}: {:.0} of {limit:.0} events/s; {shares}", round.value);
        rounds.push(Round { limit, ..round });
    }
    connection.close().await?;
    Ok(rounds)
}

/// From the first poll of the stream to the commit that is past the end.
async fn apply(
    mongod: &Mongod,
    postgres: &Postgres,
    connection: &mut PgConnection,
    to: Timestamp,
    scale: &Scale,
) -> Result<Round> {
    let mut daemon = Daemon::start(mongod, &postgres.url_of(copy::DATABASE), ledger::MAPPING)?;
    let began = daemon.session_started().await?;
    let to = (i64::from(to.time) << 32) | i64::from(to.increment);
    let age = until("the end of the backlog", PATIENCE, async || {
        let age: Option<f64> = sqlx::query_scalar(
            "select extract(epoch from clock_timestamp() - committed_at)::float8
             from rowstream.checkpoint where cluster_time >= $1",
        )
        .bind(to)
        .fetch_optional(&mut *connection)
        .await?;
        Ok(age.map(|age| (age, Instant::now())))
    });
    // The commit was some milliseconds before it was seen.
    let (age, seen) = age.await?;
    let seconds = (seen - began).as_secs_f64() - age;
    let round = Round {
        value: scale.events as f64 / seconds,
        limit: f64::NAN,
        cpu: daemon.cpu()?,
        peak_memory: daemon.peak_memory()?,
    };
    daemon.stop().await?;
    Ok(round)
}

/// Events per second when nothing is done with them: the same stages as rowstream's own stream.
async fn drain(client: &Client, from: Timestamp, events: u64) -> Result<f64> {
    let began = Instant::now();
    let mut cursor = open(client, ledger::COLLECTION, from).await?;
    let mut seen = 0;
    while seen < events {
        seen += next(&mut cursor).await?.1.doc_slices()?.into_iter().count() as u64;
    }
    let took = began.elapsed();
    ensure!(seen == events, "{seen} events came of {events}");
    Ok(seen as f64 / took.as_secs_f64())
}

pub(crate) async fn open(client: &Client, collection: &str, from: Timestamp) -> Result<RawBatchCursor> {
    let stages = [
        doc! { "$changeStream": { "startAtOperationTime": from } },
        doc! { "$match": { "$or": [
            { "ns.coll": { "$in": [collection] } },
            { "to.coll": { "$in": [collection] } },
            { "operationType": { "$in": ["dropDatabase", "invalidate"] } },
        ] } },
        doc! { "$project": {
            "_id": 1, "operationType": 1, "clusterTime": 1, "ns": 1, "to": 1, "documentKey": 1,
            "txnNumber": 1, "fullDocument": 1,
        } },
    ];
    let collection = client.database(ledger::DATABASE).collection::<Document>(collection);
    let cursor = collection
        .aggregate(stages)
        .read_concern(ReadConcern::majority())
        .max_await_time(std::time::Duration::from_millis(100))
        .batch_size(2_000)
        .batch();
    cursor.await.context("opening a change stream")
}

/// The next reply, and when it came.
pub(crate) async fn next(cursor: &mut RawBatchCursor) -> Result<(Instant, RawBatch)> {
    let batch = cursor.next().await.context("the change stream ended")??;
    Ok((Instant::now(), batch))
}
