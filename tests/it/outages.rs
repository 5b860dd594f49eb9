//! Both servers go and come back while somebody writes: nothing is lost, and nobody has to start anything.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::daemon::{Daemon, PATIENCE};
use crate::oracle::Plain;
use crate::stage::{Stage, numbered};
use crate::support::servers::{Mongod, Postgres};
use crate::support::until;
use crate::writer::{self, Writer};

const FALLEN: [&str; 2] = ["degraded", "failing"];

/// Servers of its own, a daemon that follows, and somebody who writes.
struct Scene {
    mongod: Mongod,
    postgres: Postgres,
    stage: Stage,
    daemon: Daemon,
    writer: Writer,
}

impl Scene {
    async fn new(seed: u64) -> Result<Self> {
        let (mongod, postgres) = tokio::try_join!(Mongod::start(), Postgres::start())?;
        let stage = Stage::on(&mongod, &postgres).await?;
        stage.collection("orders").insert_many(numbered(0, 500)).await?;
        let config = stage.config(&stage.whole("orders")) + "health: { outage_failing: 2s }\n";
        let daemon = Daemon::start(&config)?;
        daemon.logged("snapshot done").await?;
        let writer = Writer::start(&stage, "orders", 500, seed, Duration::from_millis(10));
        let mut scene = Self { mongod, postgres, stage, daemon, writer };
        scene.goes_on().await?;
        Ok(scene)
    }

    /// What is written from now on arrives.
    async fn goes_on(&mut self) -> Result<()> {
        self.writer.writes_on(3).await?;
        let goal = self.writer.written().bursts;
        until("what was written to arrive", PATIENCE, async || {
            Ok((writer::arrived(&self.stage, "orders").await.unwrap_or(0) >= goal).then_some(()))
        })
        .await
        .with_context(|| self.daemon.last_words())
    }

    async fn health_becomes(&self, code: u16) -> Result<()> {
        until(&format!("/health to answer {code}"), PATIENCE, async || {
            Ok((self.daemon.get("/health").await?.0 == code).then_some(()))
        })
        .await
        .with_context(|| self.daemon.last_words())
    }

    /// Everything that does not need the servers.
    async fn answers(&self) -> Result<()> {
        assert_eq!(self.daemon.get("/livez").await?.0, 200);
        assert!(self.daemon.metric("rowstream_build_info").await? > 0.0);
        self.daemon.status().await?;
        Ok(())
    }

    /// All is well again, the process is the same, and nothing is missing.
    async fn ends_well(mut self) -> Result<()> {
        self.goes_on().await?;
        for check in ["postgresql", "mongodb", "stream", "leader"] {
            self.daemon.check_becomes(check, &["ok"]).await?;
        }
        self.health_becomes(200).await?;
        assert!(self.daemon.is_running());
        self.writer.finish().await?;
        self.stage.settled(&self.daemon, "orders").await?;
        self.stage.equal("orders", Plain::Int).await?;
        assert_eq!(self.stage.number("select count(*) from rowstream.held").await?, 0);
        assert!(self.daemon.stop().await?.success());
        Ok(())
    }
}

#[tokio::test]
async fn a_postgresql_that_goes_and_comes_back_is_waited_for() -> Result<()> {
    let mut scene = Scene::new(41).await?;
    for cleanly in [true, false] {
        if cleanly {
            scene.postgres.stop().await?;
        } else {
            scene.postgres.kill9().await?;
        }
        scene.daemon.check_becomes("postgresql", &FALLEN).await?;
        // Longer than `outage_failing`, with writes that nobody can apply.
        scene.health_becomes(503).await?;
        assert_eq!(scene.daemon.check("postgresql").await?.1, "failing");
        scene.answers().await?;
        scene.writer.writes_on(5).await?;
        scene.postgres.start_again().await?;
        scene.daemon.check_becomes("postgresql", &["ok"]).await?;
        scene.health_becomes(200).await?;
        scene.goes_on().await?;
    }

    // All of its sessions at once, and the server stays.
    let connections = "select count(*) from pg_stat_activity where application_name like 'rowstream %'";
    assert!(scene.stage.number(connections).await? >= 2);
    let ended = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                 where application_name like 'rowstream %'";
    assert!(scene.stage.number(ended).await? >= 2);
    scene.daemon.logged("terminating connection due to administrator command").await?;
    scene.ends_well().await
}

#[tokio::test]
async fn a_mongod_that_goes_and_comes_back_is_waited_for() -> Result<()> {
    let mut scene = Scene::new(42).await?;
    for cleanly in [true, false] {
        if cleanly {
            scene.mongod.stop().await?;
        } else {
            scene.mongod.kill9().await?;
        }
        scene.daemon.check_becomes("mongodb", &FALLEN).await?;
        scene.daemon.check_becomes("stream", &FALLEN).await?;
        scene.health_becomes(503).await?;
        scene.answers().await?;
        scene.mongod.start_again().await?;
        scene.daemon.check_becomes("mongodb", &["ok"]).await?;
        scene.daemon.check_becomes("stream", &["ok"]).await?;
        scene.health_becomes(200).await?;
        scene.goes_on().await?;
    }
    scene.ends_well().await
}

#[tokio::test]
async fn a_frozen_mongod_is_noticed_and_followed_again_once_it_wakes() -> Result<()> {
    let scene = Scene::new(43).await?;
    scene.mongod.pause()?;
    scene.daemon.check_becomes("mongodb", &FALLEN).await?;
    scene.health_becomes(503).await?;
    scene.answers().await?;
    scene.mongod.resume()?;
    scene.daemon.check_becomes("mongodb", &["ok"]).await?;
    scene.ends_well().await
}

#[tokio::test]
async fn a_frozen_postgresql_is_noticed_and_used_again_once_it_wakes() -> Result<()> {
    let mut scene = Scene::new(44).await?;
    let before = writer::arrived(&scene.stage, "orders").await?;
    scene.postgres.pause()?;
    scene.writer.writes_on(5).await?;
    // Connections stay open and nothing answers: no error comes by itself.
    scene.daemon.check_becomes("postgresql", &FALLEN).await?;
    scene.answers().await?;
    scene.postgres.resume()?;
    scene.goes_on().await?;
    assert!(writer::arrived(&scene.stage, "orders").await? > before);
    scene.ends_well().await
}
