//! Statements and locks that take too long: less is tried at once until it passes, and what cannot pass is told.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bson::{Document, doc};
use serde_json::Value;
use sqlx::Executor;

use crate::daemon::{Daemon, PATIENCE};
use crate::oracle::Plain;
use crate::stage::{Stage, numbered};
use crate::support::until;

const FALLEN: [&str; 2] = ["degraded", "failing"];

const TABLE: &str = "create table things (
    source text, source_id text, document jsonb not null, primary key (source, source_id))";

/// A trigger that takes so long for each row.
fn slow(seconds: &str) -> String {
    format!(
        "create or replace function dawdle() returns trigger language plpgsql as
             $$begin perform pg_sleep({seconds}); return new; end$$;
         create or replace trigger dawdle before insert or update on things
             for each row execute function dawdle()"
    )
}

/// A second for a statement, half of it for a lock.
fn impatient(stage: &Stage) -> String {
    let mappings = stage.whole("things") + &stage.whole("others");
    let mappings = mappings.replace("allow_empty", "id_type: int, allow_empty");
    stage.config(&mappings).replace(
        "postgres: { url:",
        "postgres: { statement_timeout: 1s, lock_timeout: 500ms, idle_in_transaction_timeout: 5s, url:",
    ) + "health: { outage_failing: 3s }\n"
}

/// How many changes were allowed after each time-out.
fn allowed(daemon: &Daemon) -> Vec<u64> {
    let lines = daemon.log().into_iter().filter(|line| line.contains("took too long"));
    let line = |line: String| serde_json::from_str::<Value>(&line).ok();
    let number = |line: Value| line.pointer("/fields/at_once").or_else(|| line.get("at_once"))?.as_u64();
    lines.filter_map(line).filter_map(number).collect()
}

#[tokio::test]
async fn a_batch_that_takes_too_long_is_made_smaller_until_it_passes() -> Result<()> {
    let stage = Stage::new("slow_batch").await?;
    stage.execute(&format!("{TABLE}; {}", slow("0.01"))).await?;
    // Enough bytes to be copied straight into the table, were it faster.
    let large = |n: i64| doc! { "_id": n, "text": "x".repeat(4_000) };
    let documents: Vec<Document> = (0..200).map(large).collect();
    let things = stage.collection("things");
    things.insert_many(documents).await?;
    let daemon = Daemon::start(&impatient(&stage))?;
    stage.becomes_equal(&daemon, "things", Plain::Int).await?;
    ensure!(!allowed(&daemon).is_empty(), "the chunk took too long at first: {}", daemon.last_words());

    stage.execute(&slow("0.03")).await?;
    let before = allowed(&daemon).len();
    things.update_many(doc! {}, doc! { "$set": { "n": 1 } }).await?;
    stage.becomes_equal(&daemon, "things", Plain::Int).await?;
    let allowed = allowed(&daemon);
    ensure!(allowed.len() > before, "{allowed:?}");
    ensure!(allowed.iter().all(|changes| (1..=100).contains(changes)), "{allowed:?}");
    daemon.check_becomes("postgresql", &["ok"]).await?;
    assert_eq!(stage.number("select count(*) from rowstream.held").await?, 0);

    // A collection that goes takes its rows along, however long each of them takes.
    stage.execute("drop trigger dawdle on things").await?;
    stage
        .execute(&slow("0.02").replace("insert or update", "delete").replace("return new", "return old"))
        .await?;
    things.drop().await?;
    stage.becomes_equal(&daemon, "things", Plain::Int).await?;
    assert!(daemon.stop().await?.success());
    Ok(())
}

#[tokio::test]
async fn a_row_that_always_takes_too_long_is_told_with_its_table() -> Result<()> {
    let stage = Stage::new("slow_row").await?;
    stage.execute(&format!("{TABLE}; {}", slow("case when new.document ? 'slow' then 3 else 0 end"))).await?;
    let things = stage.collection("things");
    things.insert_many(numbered(0, 20)).await?;
    let daemon = Daemon::start(&impatient(&stage))?;
    stage.becomes_equal(&daemon, "things", Plain::Int).await?;
    daemon.check_becomes("postgresql", &["ok"]).await?;

    things.insert_many(numbered(20, 40)).await?;
    things.insert_one(doc! { "_id": 40_i64, "slow": true }).await?;
    stage.collection("others").insert_many(numbered(0, 5)).await?;
    daemon.check_becomes("postgresql", &["failing"]).await?;
    // Through all the sessions that begin meanwhile: being connected is no recovery.
    let sessions = allowed(&daemon).len() + 4;
    until("more attempts", PATIENCE, async || {
        let (code, state) = daemon.check("postgresql").await?;
        ensure!(code == 503 && state == "failing", "it is {state}: {}", daemon.last_words());
        Ok((allowed(&daemon).len() >= sessions).then_some(()))
    })
    .await?;
    let told = daemon.detail("postgresql").await?;
    ensure!(told.contains("table public.things") && told.contains("57014"), "{told}");
    let before = "select count(*) from things where source_id::int between 20 and 39";
    assert_eq!(stage.number(before).await?, 20, "what came before it is written");
    assert_eq!(daemon.get("/livez").await?.0, 200);

    stage.execute("drop trigger dawdle on things").await?;
    stage.becomes_equal(&daemon, "things", Plain::Int).await?;
    stage.becomes_equal(&daemon, "others", Plain::Int).await?;
    daemon.check_becomes("postgresql", &["ok"]).await?;
    assert!(daemon.stop().await?.success());
    Ok(())
}

#[tokio::test]
async fn a_row_that_another_session_locks_keeps_only_what_comes_after_it_waiting() -> Result<()> {
    let stage = Stage::new("locked_row").await?;
    stage.execute(TABLE).await?;
    let things = stage.collection("things");
    things.insert_many(numbered(0, 40)).await?;
    let daemon = Daemon::start(&impatient(&stage))?;
    stage.becomes_equal(&daemon, "things", Plain::Int).await?;

    let mut other = stage.postgres().await?;
    other.execute("begin; select from things where source_id = '20' for update").await?;
    things.update_many(doc! {}, doc! { "$set": { "n": -1 } }).await?;
    let written = "select count(*) from things where document->>'n' = '-1'";
    until("what comes before the row", PATIENCE, async || {
        Ok((stage.number(written).await? == 20).then_some(()))
    })
    .await
    .with_context(|| format!("{:?}\n{}", allowed(&daemon), daemon.last_words()))?;
    daemon.check_becomes("postgresql", &FALLEN).await?;
    let told = daemon.detail("postgresql").await?;
    ensure!(told.contains("table public.things") && told.contains("55P03"), "{told}");
    tokio::time::timeout(Duration::from_secs(10), other.execute("rollback")).await??;
    stage.becomes_equal(&daemon, "things", Plain::Int).await?;
    daemon.check_becomes("postgresql", &["ok"]).await?;

    // A table that is locked as a whole is named, too.
    other.execute("begin; lock table things in exclusive mode").await?;
    things.update_one(doc! { "_id": 1_i64 }, doc! { "$set": { "n": 5 } }).await?;
    daemon.check_becomes("postgresql", &FALLEN).await?;
    let told = daemon.detail("postgresql").await?;
    ensure!(told.contains("lock the table, table public.things"), "{told}");
    other.execute("rollback").await?;
    stage.becomes_equal(&daemon, "things", Plain::Int).await?;
    daemon.check_becomes("postgresql", &["ok"]).await?;
    Ok(())
}
