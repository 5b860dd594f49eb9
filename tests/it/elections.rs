//! A replica set of three that changes its primary, while somebody writes.

use std::time::Duration;

use anyhow::{Context, Result};
use bson::doc;

use crate::daemon::{Daemon, PATIENCE};
use crate::oracle::Plain;
use crate::stage::{Stage, numbered};
use crate::support::servers::Mongod;
use crate::support::until;
use crate::writer::{self, Writer};

async fn primary(members: &[Mongod]) -> Result<&Mongod> {
    until("a primary", PATIENCE, async || {
        for member in members {
            let Ok(hello) = member.run_admin(doc! { "hello": 1 }).await else { continue };
            if hello.get_bool("isWritablePrimary").unwrap_or(false) {
                return Ok(Some(member));
            }
        }
        Ok(None)
    })
    .await
}

/// What is written from now on arrives.
async fn goes_on(stage: &Stage, daemon: &Daemon, writer: &mut Writer) -> Result<()> {
    writer.writes_on(3).await?;
    let goal = writer.written().bursts;
    until("what was written to arrive", PATIENCE, async || {
        Ok((writer::arrived(stage, "orders").await.unwrap_or(0) >= goal).then_some(()))
    })
    .await
    .with_context(|| daemon.last_words())
}

#[tokio::test]
async fn a_set_that_loses_its_primary_loses_nothing_whoever_is_read_from() -> Result<()> {
    let members = Mongod::start_members(3, &[]).await?;
    let stage = Stage::with_mongod(&members[0], "elections").await?;
    stage.collection("orders").insert_many(numbered(0, 300)).await?;
    let mapping = stage.whole("orders").replace("allow_empty", "id_type: int, allow_empty");
    let config = stage.config(&mapping);
    let of_secondaries = config.replace("?replicaSet=", "?readPreference=secondaryPreferred&replicaSet=");
    let mut writer = Writer::start(&stage, "orders", 300, 61, Duration::from_millis(20));
    for config in [config, of_secondaries] {
        let daemon = Daemon::start(&config)?;
        goes_on(&stage, &daemon, &mut writer).await?;
        let former = primary(&members).await?;
        let step_down = doc! { "replSetStepDown": 20, "secondaryCatchUpPeriodSecs": 10 };
        former.run_admin(step_down).await.context("stepping down")?;
        goes_on(&stage, &daemon, &mut writer).await?;

        let former = primary(&members).await?;
        former.kill9().await?;
        goes_on(&stage, &daemon, &mut writer).await?;
        former.start_again().await?;
        goes_on(&stage, &daemon, &mut writer).await?;
        daemon.check_becomes("stream", &["ok"]).await?;
        assert!(daemon.stop().await?.success());
    }
    writer.finish().await?;
    let daemon = Daemon::start(&stage.config(&mapping))?;
    stage.settled(&daemon, "orders").await?;
    stage.equal("orders", Plain::Int).await?;
    assert_eq!(stage.number("select count(*) from rowstream.held").await?, 0);
    assert!(daemon.stop().await?.success());
    Ok(())
}
