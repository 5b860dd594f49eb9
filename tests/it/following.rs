//! A daemon that follows, and somebody who writes: what every test of a fault begins and ends with.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::daemon::{Daemon, PATIENCE};
use crate::oracle::Plain;
use crate::stage::{Stage, numbered};
use crate::support::until;
use crate::writer::{self, Writer};

/// What a check is once something is wrong.
pub(crate) const FALLEN: [&str; 2] = ["degraded", "failing"];

/// The one collection, with whole documents.
pub(crate) const ORDERS: &str = "orders";

/// Documents that are there before the daemon.
pub(crate) const DOCUMENTS: i64 = 500;

#[derive(Debug)]
pub(crate) struct Following {
    pub(crate) stage: Stage,
    pub(crate) daemon: Daemon,
    pub(crate) writer: Writer,
}

impl Following {
    pub(crate) async fn start(stage: Stage, seed: u64) -> Result<Self> {
        let config = stage.config(&stage.whole(ORDERS)) + "health: { outage_failing: 2s }\n";
        Self::start_with(stage, &config, seed).await
    }

    /// With a configuration that maps `ORDERS`.
    pub(crate) async fn start_with(stage: Stage, config: &str, seed: u64) -> Result<Self> {
        stage.collection(ORDERS).insert_many(numbered(0, DOCUMENTS)).await?;
        let daemon = Daemon::start(config)?;
        daemon.logged("snapshot done").await?;
        let writer = Writer::start(&stage, ORDERS, DOCUMENTS, seed, Duration::from_millis(10));
        let mut following = Self { stage, daemon, writer };
        following.goes_on().await?;
        Ok(following)
    }

    /// What is written from now on arrives.
    pub(crate) async fn goes_on(&mut self) -> Result<()> {
        self.writer.writes_on(3).await?;
        let goal = self.writer.written().bursts;
        until("what was written to arrive", PATIENCE, async || {
            Ok((writer::arrived(&self.stage, ORDERS).await.unwrap_or(0) >= goal).then_some(()))
        })
        .await
        .with_context(|| self.daemon.last_words())
    }

    pub(crate) async fn health_becomes(&self, code: u16) -> Result<()> {
        until(&format!("/health to answer {code}"), PATIENCE, async || {
            Ok((self.daemon.get("/health").await?.0 == code).then_some(()))
        })
        .await
        .with_context(|| self.daemon.last_words())
    }

    /// Everything that does not need the servers.
    pub(crate) async fn answers(&self) -> Result<()> {
        assert_eq!(self.daemon.get("/livez").await?.0, 200);
        assert!(self.daemon.metric("rowstream_build_info").await? > 0.0);
        self.daemon.status().await?;
        Ok(())
    }

    /// All is well again, the process is the same, and nothing is missing.
    pub(crate) async fn ends_well(mut self) -> Result<()> {
        self.goes_on().await?;
        for check in ["postgresql", "mongodb", "stream", "leader"] {
            self.daemon.check_becomes(check, &["ok"]).await?;
        }
        self.health_becomes(200).await?;
        assert!(self.daemon.is_running());
        self.writer.finish().await?;
        self.stage.settled(&self.daemon, ORDERS).await?;
        self.stage.equal(ORDERS, Plain::Int).await?;
        assert_eq!(self.stage.number("select count(*) from rowstream.held").await?, 0);
        assert!(self.daemon.stop().await?.success());
        Ok(())
    }
}
