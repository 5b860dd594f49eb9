//! PostgreSQL is put back to an older state, and MongoDB is not where the checkpoint thinks it is.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bson::{Timestamp, doc};

use crate::daemon::{Daemon, PATIENCE, command};
use crate::oracle::Plain;
use crate::stage::{Stage, numbered};
use crate::support::servers::{Mongod, Postgres};
use crate::support::until;
use crate::writer::Writer;

async fn seq(stage: &Stage) -> Result<i64> {
    stage.number("select seq from rowstream.checkpoint").await
}

#[tokio::test]
async fn a_postgresql_that_was_put_back_to_a_backup_catches_up_by_itself() -> Result<()> {
    let (mongod, postgres) = tokio::try_join!(Mongod::start(), Postgres::start())?;
    let stage = Stage::on(&mongod, &postgres).await?;
    stage.collection("orders").insert_many(numbered(0, 500)).await?;
    let config = stage.config(&stage.whole("orders"));
    let mut daemon = Daemon::start(&config)?;
    daemon.logged("snapshot done").await?;
    let mut writer = Writer::start(&stage, "orders", 500, 51, Duration::from_millis(10));
    writer.writes_on(5).await?;
    let backup = postgres.back_up().await?;

    for stopped in [false, true] {
        let at_backup = seq(&stage).await?;
        writer.writes_on(20).await?;
        until("commits after the backup", PATIENCE, async || {
            Ok((seq(&stage).await.unwrap_or(0) > at_backup + 5).then_some(()))
        })
        .await
        .with_context(|| daemon.last_words())?;
        if stopped {
            assert!(daemon.stop().await?.success());
            let left = seq(&stage).await?;
            postgres.restore(&backup).await?;
            assert!(seq(&stage).await? < left, "the backup is not older");
            daemon = Daemon::start(&config)?;
        } else {
            postgres.restore(&backup).await?;
            assert!(daemon.is_running());
        }
        writer.writes_on(5).await?;
        stage.settled(&daemon, "orders").await?;
    }
    writer.finish().await?;
    stage.settled(&daemon, "orders").await?;
    stage.equal("orders", Plain::Int).await?;
    assert_eq!(daemon.get("/health").await?.0, 200);
    assert!(daemon.stop().await?.success());
    Ok(())
}

/// Commits do not wait for the disk: what a crash of PostgreSQL takes back, rows and position, comes again.
#[tokio::test]
async fn commits_that_postgresql_lost_in_a_crash_come_again() -> Result<()> {
    // Nobody flushes what was committed for as long as this test runs; the daemon's heartbeat would.
    let settings = ["wal_writer_delay=10s", "autovacuum=off"];
    let (mongod, postgres) = tokio::try_join!(Mongod::start(), Postgres::start_with(&settings))?;
    let stage = Stage::on(&mongod, &postgres).await?;
    stage.collection("orders").insert_many(numbered(0, 10)).await?;
    let config = stage.config(&stage.whole("orders")).replace("ttl: 3s", "ttl: 60s");
    let daemon = Daemon::start(&config)?;
    stage.settled(&daemon, "orders").await?;
    let mut lost = 0;
    // The first commits wake the sleeping WAL writer, which flushes them at once.
    for number in 10..60_i64 {
        stage.collection("orders").insert_many(numbered(number, number + 1)).await?;
        until("the row", PATIENCE, async || Ok((rows(&stage).await? > number).then_some(())))
            .await
            .with_context(|| daemon.last_words())?;
        if number < 50 {
            continue;
        }
        daemon.signal("STOP")?;
        let seen = (rows(&stage).await?, seq(&stage).await?);
        postgres.kill9().await?;
        postgres.start_again().await?;
        let left = (rows(&stage).await?, seq(&stage).await?);
        assert!(left.0 == seen.0 || left.1 < seen.1, "rows were lost, and not the position behind them");
        lost += seen.0 - left.0;
        daemon.signal("CONT")?;
        until("the lost rows", PATIENCE, async || Ok((rows(&stage).await? == seen.0).then_some(())))
            .await
            .with_context(|| daemon.last_words())?;
        if lost > 0 {
            break;
        }
    }
    assert!(lost > 0, "nothing was ever lost: this test shows nothing");
    stage.equal("orders", Plain::Int).await?;
    assert!(daemon.stop().await?.success());

    // What an operator does, and the end of a run, are on the disk when they are told.
    let at_the_end = seq(&stage).await?;
    postgres.kill9().await?;
    postgres.start_again().await?;
    assert_eq!(seq(&stage).await?, at_the_end);
    Ok(())
}

async fn rows(stage: &Stage) -> Result<i64> {
    stage.number("select count(*) from orders").await
}

/// A pipeline whose snapshot is done, stopped, with a change that it has not seen.
async fn stopped_pipeline(stage: &Stage) -> Result<String> {
    stage.collection("orders").insert_many(numbered(0, 100)).await?;
    let config = stage.config(&stage.whole("orders")) + "health: { outage_failing: 2s }\n";
    let daemon = Daemon::start(&config)?;
    daemon.logged("snapshot done").await?;
    stage.settled(&daemon, "orders").await?;
    assert!(daemon.stop().await?.success());
    stage.collection("orders").delete_one(doc! { "_id": 1_i64 }).await?;
    Ok(config)
}

/// Everything that a daemon without a way forward must leave alone. A chunk that is only planned is nothing yet.
async fn state(stage: &Stage) -> Result<String> {
    let sql = "select concat_ws(' ',
        (select md5(string_agg(o::text, ',' order by source_id)) from orders as o),
        (select row(token, cluster_time, seq, epoch) from rowstream.checkpoint),
        (select string_agg(row(source, snapshot_state, planned)::text, ',') from rowstream.mapping),
        (select count(*) from rowstream.chunk where finished_at is not null),
        (select count(*) from rowstream.held))";
    stage.text(sql).await?.context("no state")
}

/// It says what to do, stays up, and writes nothing.
async fn halts(stage: &Stage, config: &str, hint: &str) -> Result<()> {
    let before = state(stage).await?;
    let mut daemon = Daemon::start(config)?;
    let line = daemon.logged("\"message\":\"halted\"").await?;
    assert!(line.contains(hint), "{line}");
    until("/health to answer 503", PATIENCE, async || {
        let (code, said) = daemon.get("/health").await?;
        Ok((code == 503 && said.contains(hint)).then_some(()))
    })
    .await
    .with_context(|| daemon.last_words())?;
    assert_eq!(daemon.get("/readyz").await?.0, 503);
    assert_eq!(daemon.get("/livez").await?.0, 200);
    // It looks again, and again finds no way forward.
    let epoch = stage.number("select epoch from rowstream.lease").await?;
    until("another look", PATIENCE, async || {
        Ok((stage.number("select epoch from rowstream.lease").await? > epoch).then_some(()))
    })
    .await?;
    until("the next halt", PATIENCE, async || Ok((daemon.status().await?["role"] == "halted").then_some(())))
        .await
        .with_context(|| daemon.last_words())?;
    assert!(daemon.is_running());
    assert_eq!(state(stage).await?, before);
    assert!(daemon.stop().await?.success());
    Ok(())
}

/// Until the oplog has forgotten where the daemon stopped.
async fn oplog_moves_past_the_checkpoint(stage: &Stage) -> Result<()> {
    let stopped_at = stage.number("select cluster_time from rowstream.checkpoint").await?;
    let oplog = stage.client.database("local").collection::<bson::Document>("oplog.rs");
    let filler = "x".repeat(100_000);
    until("the oplog to move past the checkpoint", PATIENCE, async || {
        stage.collection("other").insert_one(doc! { "filler": &filler }).await?;
        let first = oplog.find_one(doc! {}).await?.context("an empty oplog")?;
        let Timestamp { time, .. } = first.get_timestamp("ts")?;
        Ok((i64::from(time) > stopped_at >> 32).then_some(()))
    })
    .await
}

#[tokio::test]
async fn a_position_that_has_left_the_oplog_halts_the_pipeline_with_a_hint() -> Result<()> {
    // A small oplog, and checkpoints that let go of it every second.
    let mongod = Mongod::start_with(&["--oplogSize", "1", "--syncdelay", "1"]).await?;
    let stage = Stage::with_mongod(&mongod, "history_lost").await?;
    let config = stopped_pipeline(&stage).await?;
    oplog_moves_past_the_checkpoint(&stage).await?;
    halts(&stage, &config, "size the oplog").await
}

/// The first copy is not done when the daemon dies, and the oplog does not wait for it.
#[tokio::test]
async fn a_copy_whose_position_has_left_the_oplog_halts_and_is_made_again_after_a_reset() -> Result<()> {
    let mongod = Mongod::start_with(&["--oplogSize", "1", "--syncdelay", "1"]).await?;
    let stage = Stage::with_mongod(&mongod, "copy_outlived").await?;
    stage.collection("orders").insert_many(numbered(0, 300)).await?;
    // The copy stands still at a row for as long as this session has the lock.
    stage
        .execute(
            "create table orders (source text, source_id text, document jsonb not null,
                 primary key (source, source_id));
             create function wait() returns trigger language plpgsql as
                 'begin perform pg_advisory_xact_lock(1); return new; end';
             create trigger wait before insert on orders for each row when (new.source_id = '250')
                 execute function wait()",
        )
        .await?;
    let mut lock = stage.postgres().await?;
    sqlx::query("select pg_advisory_lock(1)").execute(&mut lock).await?;
    let config = stage.config(&stage.whole("orders")) + "snapshot: { chunk_documents: 50, workers: 1 }\n";
    let daemon = Daemon::start(&config)?;
    let copied = "select count(*) from rowstream.chunk where finished_at is not null";
    until("a part of the copy", PATIENCE, async || {
        Ok((stage.number(copied).await.unwrap_or(0) >= 2).then_some(()))
    })
    .await
    .with_context(|| daemon.last_words())?;
    daemon.kill9()?;
    drop(lock);
    stage.collection("orders").delete_one(doc! { "_id": 1_i64 }).await?;
    oplog_moves_past_the_checkpoint(&stage).await?;
    stage.execute("update rowstream.lease set heartbeat = 'epoch'").await?;
    halts(&stage, &config, "size the oplog").await?;

    let reset = command(&["reset", "--yes"], &config)?;
    ensure!(reset.status.success(), "{}", String::from_utf8_lossy(&reset.stderr));
    let daemon = Daemon::start(&config)?;
    daemon.logged("snapshot done").await?;
    let resync = command(&["resync", "orders"], &config)?;
    ensure!(resync.status.success(), "{}", String::from_utf8_lossy(&resync.stdout));
    stage.becomes_equal(&daemon, "orders", Plain::Int).await?;
    assert!(daemon.stop().await?.success());
    Ok(())
}

#[tokio::test]
async fn a_token_that_mongodb_does_not_know_halts_the_pipeline_with_a_hint() -> Result<()> {
    let stage = Stage::new("foreign_token").await?;
    let config = stopped_pipeline(&stage).await?;
    let foreign = bson::serialize_to_vec(&doc! { "_data": "00112233445566778899" })?;
    let hex: String = foreign.iter().map(|byte| format!("{byte:02x}")).collect();
    stage.execute(&format!("update rowstream.checkpoint set token = '\\x{hex}'")).await?;
    halts(&stage, &config, "belongs to another cluster").await
}

/// It says so once, goes on from now, and every row becomes what its document says.
async fn goes_on_from_now(stage: &Stage, config: &str) -> Result<()> {
    let orders = stage.collection("orders");
    orders.update_one(doc! { "_id": 2_i64 }, doc! { "$set": { "text": "changed" } }).await?;
    let config = format!("{config}on_history_lost: resync\n");
    let daemon = Daemon::start(&config)?;
    daemon.logged("\"event\":\"history_lost\"").await?;
    stage.becomes_equal(&daemon, "orders", Plain::Int).await?;
    orders.insert_many(numbered(1_000, 1_010)).await?;
    stage.becomes_equal(&daemon, "orders", Plain::Int).await?;
    daemon.check_becomes("stream", &["ok"]).await?;
    assert!(daemon.stop().await?.success());

    let daemon = Daemon::start(&config)?;
    orders.delete_one(doc! { "_id": 1_000_i64 }).await?;
    stage.becomes_equal(&daemon, "orders", Plain::Int).await?;
    assert!(!daemon.log().iter().any(|line| line.contains("history_lost")), "again: {}", daemon.last_words());
    assert!(daemon.stop().await?.success());
    Ok(())
}

#[tokio::test]
async fn where_the_policy_says_so_a_position_that_has_left_the_oplog_is_given_up_for_the_present()
-> Result<()> {
    let mongod = Mongod::start_with(&["--oplogSize", "1", "--syncdelay", "1"]).await?;
    let stage = Stage::with_mongod(&mongod, "history_given_up").await?;
    let config = stopped_pipeline(&stage).await?;
    oplog_moves_past_the_checkpoint(&stage).await?;
    goes_on_from_now(&stage, &config).await
}

#[tokio::test]
async fn where_the_policy_says_so_a_token_that_mongodb_does_not_know_is_given_up_for_the_present()
-> Result<()> {
    let stage = Stage::new("foreign_given_up").await?;
    let config = stopped_pipeline(&stage).await?;
    let foreign = bson::serialize_to_vec(&doc! { "_data": "00112233445566778899" })?;
    let hex: String = foreign.iter().map(|byte| format!("{byte:02x}")).collect();
    stage.execute(&format!("update rowstream.checkpoint set token = '\\x{hex}'")).await?;
    goes_on_from_now(&stage, &config).await
}

/// A position is behind an event, or behind nothing that is ours (a high-water mark), which any oplog knows.
async fn stopped_behind(event: bool, stage: &Stage) -> Result<String> {
    let config = stopped_pipeline(stage).await?;
    let is_event = async || {
        Ok::<_, anyhow::Error>(
            stage.number("select octet_length(token) from rowstream.checkpoint").await? > 64,
        )
    };
    for _ in 0..5 {
        let daemon = Daemon::start(&config)?;
        stage.settled(&daemon, "orders").await?;
        if !event {
            until("a position behind no event", PATIENCE, async || {
                stage.collection("elsewhere").insert_one(doc! {}).await?;
                Ok((!is_event().await?).then_some(()))
            })
            .await
            .with_context(|| daemon.last_words())?;
        }
        assert!(daemon.stop().await?.success());
        if is_event().await? == event {
            return Ok(config);
        }
    }
    anyhow::bail!("the position is never behind {}", if event { "an event" } else { "no event" })
}

/// Another cluster of the same names, as after a restore from a dump: its oplog reaches back. That is told as a source
/// that was restored, whatever the policy is.
async fn goes_on_with_another_cluster(stage: &Stage, event: bool, because: &str) -> Result<()> {
    let first = Mongod::start().await?;
    let on_first = Stage::beside(&first, stage).await?;
    let config = stopped_behind(event, &on_first).await?;
    stage.collection("orders").insert_many(numbered(50, 150)).await?;
    let config = config.replace(&on_first.mongodb_uri, &stage.mongodb_uri);
    let daemon = Daemon::start(&config)?;
    // A token is looked for as soon as something comes behind it.
    let mut next = 150;
    let told = until(because, PATIENCE, async || {
        stage.collection("orders").insert_many(numbered(next, next + 1)).await?;
        next += 1;
        Ok(daemon.line(because))
    });
    let line = told.await.with_context(|| daemon.last_words())?;
    assert!(line.contains("\"event\":\"history_lost\"") && line.contains("may have been restored"), "{line}");
    stage.becomes_equal(&daemon, "orders", Plain::Int).await?;
    assert!(daemon.stop().await?.success());
    // Told once.
    let again = Daemon::start(&config)?;
    stage.settled(&again, "orders").await?;
    assert_eq!(again.line("history_lost"), None);
    assert!(again.stop().await?.success());
    Ok(())
}

#[tokio::test]
async fn a_position_of_another_cluster_makes_every_row_what_that_cluster_says() -> Result<()> {
    let stage = Stage::new("another_cluster").await?;
    goes_on_with_another_cluster(&stage, true, "the resume token is not in the oplog").await
}

#[tokio::test]
async fn an_idle_position_of_another_cluster_is_found_by_the_collections_that_are_others() -> Result<()> {
    let stage = Stage::new("idle_another_cluster").await?;
    goes_on_with_another_cluster(&stage, false, "collections are others").await
}

/// Only what the stream did not tell of is a surprise.
#[tokio::test]
async fn a_collection_that_is_made_anew_while_it_is_followed_is_no_other() -> Result<()> {
    let stage = Stage::new("made_anew").await?;
    stage.collection("orders").insert_many(numbered(0, 10)).await?;
    let config = stage.config(&stage.whole("orders"));
    let daemon = Daemon::start(&config)?;
    stage.settled(&daemon, "orders").await?;
    for _ in 0..2 {
        stage.collection("orders").drop().await?;
        stage.collection("orders").insert_many(numbered(20, 30)).await?;
        stage.settled(&daemon, "orders").await?;
    }
    assert!(daemon.stop().await?.success());
    let again = Daemon::start(&config)?;
    stage.settled(&again, "orders").await?;
    assert_eq!(again.line("history_lost"), None);
    stage.equal("orders", Plain::Int).await?;
    assert!(again.stop().await?.success());

    // Nor while nobody looks: the stream tells of it before anybody is alarmed.
    stage.collection("orders").drop().await?;
    stage.collection("orders").insert_many(numbered(40, 50)).await?;
    let again = Daemon::start(&config)?;
    stage.settled(&again, "orders").await?;
    stage.equal("orders", Plain::Int).await?;
    assert_eq!(again.line("history_lost"), None);
    assert!(again.stop().await?.success());
    Ok(())
}
