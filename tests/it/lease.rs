//! Two daemons on one pipeline: one leads, whatever happens to it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use sqlx::Executor;

use crate::daemon::{Daemon, PATIENCE};
use crate::oracle::Plain;
use crate::stage::{Stage, numbered};
use crate::support::until;
use crate::writer::{self, Writer};

/// As in the configuration of the tests.
const TTL: Duration = Duration::from_secs(3);

/// A take-over "within seconds", on a machine that has other things to do.
const SOON: Duration = Duration::from_secs(10);

async fn role(daemon: &Daemon) -> Result<String> {
    let status = daemon.status().await?;
    Ok(status["role"].as_str().context("no role in /status")?.to_owned())
}

async fn becomes(daemon: &Daemon, wanted: &str) -> Result<()> {
    until(&format!("the role {wanted}"), PATIENCE, async || Ok((role(daemon).await? == wanted).then_some(())))
        .await
        .with_context(|| daemon.last_words())
}

async fn epoch(stage: &Stage) -> Result<i64> {
    stage.number("select epoch from rowstream.lease").await
}

/// The role, and what the probes and /health say of it.
async fn is_a_healthy_standby(daemon: &Daemon) -> Result<()> {
    becomes(daemon, "standby").await?;
    let (ready, said) = daemon.get("/readyz").await?;
    assert!(ready == 200 && said.contains("standby"), "{ready} {said}");
    let (alive, _) = daemon.get("/livez").await?;
    assert_eq!(alive, 200);
    let (health, said) = daemon.get("/health").await?;
    assert!(health == 200 && said.contains("standby, "), "{health} {said}");
    assert_eq!(daemon.check("leader").await?.1, "ok");
    Ok(())
}

/// A leader that follows, a standby beside it, and somebody who writes.
struct Pair {
    stage: Stage,
    leader: Daemon,
    standby: Daemon,
    writer: Writer,
}

impl Pair {
    async fn new(name: &str, seed: u64, variables: &[(&str, &str)]) -> Result<Self> {
        let stage = Stage::new(name).await?;
        stage.collection("orders").insert_many(numbered(0, 300)).await?;
        let config = stage.config(&stage.whole("orders"));
        let leader = Daemon::start_in(&config, &[], variables)?;
        leader.logged("snapshot done").await?;
        let standby = Daemon::start(&config)?;
        is_a_healthy_standby(&standby).await?;
        assert_eq!(role(&leader).await?, "leader");
        let writer = Writer::start(&stage, "orders", 300, seed, Duration::from_millis(20));
        let mut pair = Self { stage, leader, standby, writer };
        pair.goes_on().await?;
        Ok(pair)
    }

    /// What is written from now on arrives.
    async fn goes_on(&mut self) -> Result<()> {
        self.writer.writes_on(3).await?;
        let goal = self.writer.written().bursts;
        until("what was written to arrive", PATIENCE, async || {
            Ok((writer::arrived(&self.stage, "orders").await? >= goal).then_some(()))
        })
        .await
        .with_context(|| format!("{}\n{}", self.leader.last_words(), self.standby.last_words()))
    }
}

#[tokio::test]
async fn a_frozen_leader_is_replaced_and_stands_by_once_it_wakes() -> Result<()> {
    let mut pair = Pair::new("frozen_leader", 31, &[]).await?;
    let first = epoch(&pair.stage).await?;
    pair.leader.signal("STOP")?;
    let frozen = Instant::now();
    becomes(&pair.standby, "leader").await?;
    assert!(frozen.elapsed() < TTL + SOON, "the take-over took {:?}", frozen.elapsed());
    assert_eq!(epoch(&pair.stage).await?, first + 1);
    pair.goes_on().await?;

    // It wakes in the belief that it leads, with a batch in its hands or a stream full of them.
    pair.leader.signal("CONT")?;
    is_a_healthy_standby(&pair.leader).await?;
    assert_eq!(role(&pair.standby).await?, "leader");
    assert_eq!(epoch(&pair.stage).await?, first + 1, "the woken leader took the lease back");
    pair.goes_on().await?;
    pair.writer.finish().await?;
    pair.stage.settled(&pair.standby, "orders").await?;
    pair.stage.equal("orders", Plain::Int).await
}

#[tokio::test]
async fn a_leader_frozen_in_the_middle_of_a_transaction_cannot_finish_it() -> Result<()> {
    // With a point between its rows and its commit no batch goes in one statement, which would commit by itself.
    let mut pair = Pair::new("frozen_in_transaction", 32, &[("FAILPOINTS", "commit=off")]).await?;
    let stage = &pair.stage;
    let first = epoch(stage).await?;
    // Behind its fence, and waits with a row.
    let mut lock = stage.postgres().await?;
    lock.execute("begin; select from orders for update").await?;
    let waiting = "select count(*) from pg_stat_activity where datname = current_database()
                   and wait_event_type = 'Lock' and query like '%orders%'";
    until("the leader's transaction to wait", PATIENCE, async || {
        Ok((stage.number(waiting).await? == 1).then_some(()))
    })
    .await?;
    pair.leader.signal("STOP")?;
    let frozen = Instant::now();
    let seq = stage.number("select seq from rowstream.checkpoint").await?;
    lock.execute("commit").await?;
    // The statement goes through, and the transaction stays open: nobody tells it to commit.
    becomes(&pair.standby, "leader").await?;
    assert!(frozen.elapsed() < TTL + SOON, "the take-over took {:?}", frozen.elapsed());
    assert_eq!(epoch(stage).await?, first + 1);
    pair.goes_on().await?;
    let stage = &pair.stage;
    let by = stage.number("select epoch from rowstream.checkpoint").await?;
    assert!(by == first + 1 && stage.number("select seq from rowstream.checkpoint").await? > seq);

    pair.leader.signal("CONT")?;
    is_a_healthy_standby(&pair.leader).await?;
    pair.goes_on().await?;
    assert_eq!(epoch(&pair.stage).await?, first + 1, "the woken leader took the lease back");
    pair.writer.finish().await?;
    pair.stage.settled(&pair.standby, "orders").await?;
    pair.stage.equal("orders", Plain::Int).await
}

#[tokio::test]
async fn a_leader_that_stops_leaves_the_lease_to_its_standby_at_once() -> Result<()> {
    // So long that only a lease that was given up can explain what comes.
    const LONG: &str = "ttl: 600s";
    let stage = Stage::new("stopped_leader").await?;
    stage.collection("orders").insert_many(numbered(0, 300)).await?;
    let config = stage.config(&stage.whole("orders")).replace("ttl: 3s", LONG);
    assert!(config.contains(LONG));
    let leader = Daemon::start(&config)?;
    leader.logged("snapshot done").await?;
    let standby = Daemon::start(&config)?;
    is_a_healthy_standby(&standby).await?;
    let mut writer = Writer::start(&stage, "orders", 300, 33, Duration::from_millis(20));
    writer.writes_on(3).await?;

    let stopped = Instant::now();
    assert!(leader.stop().await?.success());
    becomes(&standby, "leader").await?;
    assert!(stopped.elapsed() < SOON, "the take-over took {:?}", stopped.elapsed());
    writer.finish().await?;
    stage.settled(&standby, "orders").await?;
    stage.equal("orders", Plain::Int).await?;
    assert!(standby.stop().await?.success());
    Ok(())
}
