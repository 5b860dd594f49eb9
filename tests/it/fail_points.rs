//! The daemon fails, waits or dies before and after each durable step, while somebody writes; then both sides are
//! equal, and everything that cannot be written is held.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bson::{Document, doc};
use rowstream::pipeline::FailPoint;

use crate::daemon::{Daemon, PATIENCE};
use crate::following::ORDERS;
use crate::oracle::Plain;
use crate::stage::Stage;
use crate::support::until;
use crate::writer::{self, Writer};

/// Three chunks, each large enough for COPY.
const DOCUMENTS: i64 = 450;
const CHUNK: i64 = 150;
const TEXT: usize = 4_000;

/// Longer than the lease of the tests.
const DELAY: &str = "4000";

/// Every so many documents of `amounts` cannot be written.
const BAD_EVERY: i64 = 7;

/// Whether the fault comes at the second time only: the first chunk and the first batch went well.
fn fault(point: FailPoint, action: &str) -> String {
    let once = matches!(point, FailPoint::TakeLease | FailPoint::LeaseTaken);
    let before = if once { "" } else { "1*off->" };
    format!("{}={before}1*return({action})", point.name())
}

/// The main task has no session to end: the process goes with it.
fn ends_the_process(point: FailPoint, action: &str) -> bool {
    let main_task = matches!(point, FailPoint::TakeLease | FailPoint::LeaseTaken);
    action == "abort" || (action == "panic" && main_task)
}

fn config(stage: &Stage) -> String {
    let amounts = format!(
        "  - source: amounts
    collection: {}.amounts
    table: amounts
    id_type: int
    columns:
      amount: {{ from: amount, required: true }}
",
        stage.name
    );
    stage.config(&(stage.whole(ORDERS) + &amounts))
        + &format!("snapshot: {{ chunk_documents: {CHUNK}, workers: 2 }}\n")
}

async fn amounts(stage: &Stage, from: i64, to: i64) -> Result<()> {
    let amount = |n: i64| match n % BAD_EVERY {
        0 => doc! { "_id": n, "amount": "none" },
        _ => doc! { "_id": n, "amount": n },
    };
    stage.collection("amounts").insert_many((from..to).map(amount)).await?;
    Ok(())
}

/// What is neither in the table nor held, in `amounts`.
async fn amounts_are_whole(stage: &Stage, daemon: &Daemon, count: i64) -> Result<()> {
    let bad = (count + BAD_EVERY - 1) / BAD_EVERY;
    let sql = "select concat_ws(' ', (select count(*) from amounts where amount = source_id::int),
        (select count(*) from rowstream.held where state <> 'resolved' and source = 'amounts' and reason = 'wrong_type'),
        (select count(*) from rowstream.held where source <> 'amounts'))";
    let expected = format!("{} {bad} 0", count - bad);
    let mut last = None;
    let whole = until("the amounts, written or held", PATIENCE, async || {
        last = stage.text(sql).await.ok().flatten();
        Ok((last.as_deref() == Some(&expected)).then_some(()))
    });
    whole.await.with_context(|| format!("{last:?}, expected {expected}\n{}", daemon.last_words()))
}

async fn expire_lease(stage: &Stage) -> Result<()> {
    stage.execute("update rowstream.lease set heartbeat = 'epoch'").await
}

async fn survives(point: FailPoint, action: &str) -> Result<()> {
    let stage = Stage::new(&format!("{}_{action}", point.name())).await?;
    stage
        .execute("create table amounts (source text, source_id text, amount int not null, primary key (source, source_id))")
        .await?;
    let large = |n: i64| doc! { "_id": n, "n": n, "text": "x".repeat(TEXT) };
    let documents: Vec<Document> = (0..DOCUMENTS).map(large).collect();
    stage.collection(ORDERS).insert_many(documents).await?;
    amounts(&stage, 0, 40).await?;
    let config = config(&stage);
    let mut writer = Writer::start(&stage, ORDERS, DOCUMENTS, 80, Duration::from_millis(20));

    let faults = fault(point, action);
    let mut daemon = Daemon::start_in(&config, &[], &[("FAILPOINTS", &faults)])?;
    // What is held by the stream: the first that the chunk has held is `off`.
    daemon.logged("http is listening").await?;
    amounts(&stage, 40, 80).await?;
    let reached = daemon.logged("fail point reached").await?;
    ensure!(reached.contains(&format!("\"{}\"", point.name())), "{reached}");
    if ends_the_process(point, action) {
        let status = daemon.ends().await?;
        ensure!(!status.success(), "it ended well");
        expire_lease(&stage).await?;
        daemon = Daemon::start(&config)?;
    }
    writer.writes_on(2).await?;
    let goal = writer.written().bursts;
    until("what was written to arrive", PATIENCE, async || {
        Ok((writer::arrived(&stage, ORDERS).await.unwrap_or(0) >= goal).then_some(()))
    })
    .await
    .with_context(|| daemon.last_words())?;
    daemon.kill9()?;
    writer.writes_on(1).await?;
    writer.finish().await?;
    expire_lease(&stage).await?;
    let daemon = Daemon::start(&config)?;
    // The snapshot may have been in the middle.
    stage.becomes_equal(&daemon, ORDERS, Plain::Int).await?;
    stage.settled(&daemon, ORDERS).await?;
    stage.equal(ORDERS, Plain::Int).await?;
    amounts_are_whole(&stage, &daemon, 80).await?;
    let unfinished = "select count(*) from rowstream.mapping where snapshot_state <> 'done'";
    until("the snapshots", PATIENCE, async || Ok((stage.number(unfinished).await? == 0).then_some(())))
        .await
        .with_context(|| daemon.last_words())?;
    ensure!(daemon.stop().await?.success());
    Ok(())
}

/// Death comes everywhere; of the rest `make soak` takes all, and `make test` every second point, each with one
/// action at the least.
async fn survives_everywhere(action: &str) -> Result<()> {
    let every_second = action != "abort" && std::env::var_os("SOAK_MINUTES").is_none();
    let odd = usize::from(action == "panic");
    for (number, point) in FailPoint::ALL.into_iter().enumerate() {
        if every_second && number % 2 != odd {
            continue;
        }
        survives(point, action).await.with_context(|| format!("{action} at {}", point.name()))?;
    }
    Ok(())
}

#[tokio::test]
async fn an_error_before_and_after_each_durable_step_loses_nothing() -> Result<()> {
    survives_everywhere("error").await
}

#[tokio::test]
async fn a_panic_before_and_after_each_durable_step_loses_nothing() -> Result<()> {
    survives_everywhere("panic").await
}

#[tokio::test]
async fn a_death_before_and_after_each_durable_step_loses_nothing() -> Result<()> {
    survives_everywhere("abort").await
}

#[tokio::test]
async fn a_pause_before_and_after_each_durable_step_loses_nothing() -> Result<()> {
    survives_everywhere(DELAY).await
}
