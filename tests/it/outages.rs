//! Both servers go and come back while somebody writes: nothing is lost, and nobody has to start anything.

use anyhow::Result;

use crate::following::{FALLEN, Following};
use crate::stage::Stage;
use crate::support::servers::{Mongod, Postgres};
use crate::writer;

/// Servers of its own, and all of it at work.
struct Scene {
    mongod: Mongod,
    postgres: Postgres,
    following: Following,
}

impl Scene {
    async fn new(seed: u64) -> Result<Self> {
        let (mongod, postgres) = tokio::try_join!(Mongod::start(), Postgres::start())?;
        let following = Following::start(Stage::on(&mongod, &postgres).await?, seed).await?;
        Ok(Self { mongod, postgres, following })
    }
}

#[tokio::test]
async fn a_postgresql_that_goes_and_comes_back_is_waited_for() -> Result<()> {
    let mut scene = Scene::new(41).await?;
    for shutdown in ["fast", "immediate", "none at all"] {
        match shutdown {
            "fast" => scene.postgres.stop().await?,
            "immediate" => scene.postgres.stop_at_once().await?,
            _ => scene.postgres.kill9().await?,
        }
        scene.following.daemon.check_becomes("postgresql", &FALLEN).await?;
        // Longer than `outage_failing`, with writes that nobody can apply.
        scene.following.health_becomes(503).await?;
        assert_eq!(scene.following.daemon.check("postgresql").await?.1, "failing");
        scene.following.answers().await?;
        scene.following.writer.writes_on(5).await?;
        scene.postgres.start_again().await?;
        scene.following.daemon.check_becomes("postgresql", &["ok"]).await?;
        scene.following.health_becomes(200).await?;
        scene.following.goes_on().await?;
    }

    // All of its sessions at once, and the server stays.
    let connections = "select count(*) from pg_stat_activity where application_name like 'rowstream %'";
    assert!(scene.following.stage.number(connections).await? >= 2);
    let ended = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                 where application_name like 'rowstream %'";
    assert!(scene.following.stage.number(ended).await? >= 2);
    scene.following.daemon.logged("terminating connection due to administrator command").await?;
    scene.following.ends_well().await
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
        scene.following.daemon.check_becomes("mongodb", &FALLEN).await?;
        scene.following.daemon.check_becomes("stream", &FALLEN).await?;
        scene.following.health_becomes(503).await?;
        scene.following.answers().await?;
        scene.mongod.start_again().await?;
        scene.following.daemon.check_becomes("mongodb", &["ok"]).await?;
        scene.following.daemon.check_becomes("stream", &["ok"]).await?;
        scene.following.health_becomes(200).await?;
        scene.following.goes_on().await?;
    }
    scene.following.ends_well().await
}

#[tokio::test]
async fn a_frozen_mongod_is_noticed_and_followed_again_once_it_wakes() -> Result<()> {
    let scene = Scene::new(43).await?;
    scene.mongod.pause()?;
    scene.following.daemon.check_becomes("mongodb", &FALLEN).await?;
    scene.following.health_becomes(503).await?;
    scene.following.answers().await?;
    scene.mongod.resume()?;
    scene.following.daemon.check_becomes("mongodb", &["ok"]).await?;
    scene.following.ends_well().await
}

#[tokio::test]
async fn a_frozen_postgresql_is_noticed_and_used_again_once_it_wakes() -> Result<()> {
    let mut scene = Scene::new(44).await?;
    let before = writer::arrived(&scene.following.stage, "orders").await?;
    scene.postgres.pause()?;
    scene.following.writer.writes_on(5).await?;
    // Connections stay open and nothing answers: no error comes by itself.
    scene.following.daemon.check_becomes("postgresql", &FALLEN).await?;
    scene.following.answers().await?;
    scene.postgres.resume()?;
    scene.following.goes_on().await?;
    assert!(writer::arrived(&scene.following.stage, "orders").await? > before);
    scene.following.ends_well().await
}
