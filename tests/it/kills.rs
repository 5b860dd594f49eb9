//! kill -9, again and again, while somebody writes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sqlx::Row;

use crate::daemon::{Daemon, PATIENCE};
use crate::oracle::Plain;
use crate::stage::{Stage, numbered};
use crate::support::until;
use crate::writer::{self, Random, Writer};

const KILLS_IN_MID_SNAPSHOT: usize = 12;
const KILLS_IN_MID_STREAM: usize = 12;

/// `make soak` goes on for SOAK_MINUTES.
fn soak() -> Result<Duration> {
    let Ok(minutes) = std::env::var("SOAK_MINUTES") else { return Ok(Duration::ZERO) };
    let minutes: u64 = minutes.parse().context("SOAK_MINUTES must be a whole number of minutes")?;
    Ok(Duration::from_secs(minutes * 60))
}

/// A kill that came too early or too late is not counted, but there must not be many.
const MISSES: usize = 6;

/// Finished chunks by number: when, and how many documents they had.
type Finished = BTreeMap<i32, (String, i64)>;

struct Chunks {
    finished: Finished,
    unfinished: usize,
    state: String,
}

async fn chunks(stage: &Stage) -> Result<Chunks> {
    let mut session = stage.session().await?;
    let state = "select snapshot_state from rowstream.mapping where pipeline = 'test' and source = 'orders'";
    let state: Option<String> = sqlx::query_scalar(state).fetch_optional(&mut *session).await?;
    let sql = "select number, finished_at::text, documents from rowstream.chunk where pipeline = 'test'";
    let rows = sqlx::query(sql).fetch_all(&mut *session).await?;
    let mut finished = Finished::new();
    let mut unfinished = 0;
    for row in rows {
        match row.get::<Option<String>, _>(1) {
            Some(at) => drop(finished.insert(row.get(0), (at, row.get(2)))),
            None => unfinished += 1,
        }
    }
    Ok(Chunks { finished, unfinished, state: state.unwrap_or_default() })
}

/// The dead cannot give their lease up; what would take its time-out happens at once.
async fn expire_lease(stage: &Stage) -> Result<()> {
    stage.execute("update rowstream.lease set heartbeat = 'epoch'").await
}

#[tokio::test]
async fn killed_in_mid_snapshot_it_goes_on_with_the_chunks_that_are_missing() -> Result<()> {
    const DOCUMENTS: i64 = 60_000;
    let stage = Stage::new("kills_snapshot").await?;
    let documents: Vec<_> = numbered(0, DOCUMENTS).collect();
    stage.collection("orders").insert_many(documents).await?;
    let config = stage.config(&stage.whole("orders")) + "snapshot: { chunk_documents: 500, workers: 2 }\n";
    let writer = Writer::start(&stage, "orders", DOCUMENTS, 11, Duration::from_millis(10));

    let mut daemon = Daemon::start(&config)?;
    let mut random = Random(12);
    let (mut kills, mut misses) = (0, 0);
    let mut before = Finished::new();
    while kills < KILLS_IN_MID_SNAPSHOT {
        let goal = before.len() + 1 + random.below(6) as usize;
        until("some chunks done and some not", PATIENCE, async || {
            let Ok(chunks) = chunks(&stage).await else { return Ok(None) };
            ensure!(chunks.state != "done", "the snapshot ended before {KILLS_IN_MID_SNAPSHOT} kills");
            Ok((chunks.finished.len() >= goal && chunks.unfinished > 0).then_some(()))
        })
        .await
        .with_context(|| daemon.last_words())?;
        daemon.kill9()?;

        let found = chunks(&stage).await?;
        for (number, chunk) in &before {
            ensure!(
                found.finished.get(number) == Some(chunk),
                "chunk {number} was finished and copied again"
            );
        }
        if found.state == "running" && !found.finished.is_empty() && found.unfinished > 0 {
            kills += 1;
        } else {
            misses += 1;
            ensure!(misses <= MISSES, "{misses} kills did not hit the middle of the snapshot");
        }
        before = found.finished;
        expire_lease(&stage).await?;
        daemon = Daemon::start(&config)?;
        let line: Value = serde_json::from_str(&daemon.logged("snapshot started").await?)?;
        let resumed = line.pointer("/fields/resumed_at").or_else(|| line.get("resumed_at"));
        let resumed = resumed.and_then(Value::as_i64).context("no resumed_at in the log")?;
        let copied: i64 = before.values().map(|(_, documents)| documents).sum();
        // More, if a transaction of the dead was still on its way.
        ensure!(resumed >= copied && copied > 0, "resumed at {resumed}, but {copied} had been copied");
    }
    daemon.logged("snapshot done").await?;
    writer.finish().await?;
    stage.settled(&daemon, "orders").await?;
    stage.equal("orders", Plain::Int).await?;
    let end = chunks(&stage).await?;
    assert!(before.iter().all(|(number, chunk)| end.finished.get(number) == Some(chunk)));
    assert_eq!((end.unfinished, end.state.as_str()), (0, "done"));
    assert!(daemon.stop().await?.success());
    Ok(())
}

#[tokio::test]
async fn killed_in_mid_stream_it_loses_nothing_and_applies_nothing_twice() -> Result<()> {
    let stage = Stage::new("kills_stream").await?;
    let documents: Vec<_> = numbered(0, 1_000).collect();
    stage.collection("orders").insert_many(documents).await?;
    let config = stage.config(&stage.whole("orders"));
    let mut daemon = Daemon::start(&config)?;
    daemon.logged("snapshot done").await?;
    let mut writer = Writer::start(&stage, "orders", 1_000, 21, Duration::ZERO);

    let mut random = Random(22);
    let mut kills = 0;
    let (began, soak) = (Instant::now(), soak()?);
    while kills < KILLS_IN_MID_STREAM || began.elapsed() < soak {
        writer.writes_on(1 + random.below(5)).await?;
        // At work: a later commit of this daemon.
        let goal = stage.number("select seq from rowstream.checkpoint").await? + 1 + random.below(4);
        until("the stream to be applied", PATIENCE, async || {
            Ok((stage.number("select seq from rowstream.checkpoint").await? >= goal).then_some(()))
        })
        .await
        .with_context(|| daemon.last_words())?;
        // What it has in hand stays there, while the writer gets ahead of it.
        daemon.signal("STOP")?;
        writer.writes_on(2).await?;
        let written = writer.written();
        daemon.kill9()?;

        let time = stage.number("select cluster_time from rowstream.checkpoint").await?;
        let arrived = writer::arrived(&stage, "orders").await?;
        ensure!(time < written.time && arrived < written.bursts, "the checkpoint is not behind the writer");
        kills += 1;
        expire_lease(&stage).await?;
        daemon = Daemon::start(&config)?;
    }
    writer.finish().await?;
    stage.settled(&daemon, "orders").await?;
    stage.equal("orders", Plain::Int).await?;
    assert_eq!(stage.number("select count(*) from rowstream.held").await?, 0);
    assert!(daemon.stop().await?.success());
    Ok(())
}
