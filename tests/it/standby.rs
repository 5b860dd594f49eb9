//! PostgreSQL fails over to a standby that had not everything: what it lacks is written again.

use anyhow::{Context, Result, ensure};

use crate::daemon::{PATIENCE, command};
use crate::following::{FALLEN, Following, ORDERS};
use crate::stage::Stage;
use crate::support::servers::{Mongod, Postgres};
use crate::support::until;
use crate::writer;

const SEQ: &str = "select seq from rowstream.checkpoint";

#[tokio::test]
async fn a_standby_that_was_behind_and_is_promoted_is_followed_to_and_made_complete() -> Result<()> {
    let (mongod, primary) = tokio::try_join!(Mongod::start(), Postgres::start())?;
    let stage = Stage::on(&mongod, &primary).await?;
    let standby = primary.start_standby().await?;
    // Neither order of the hosts may matter: here the standby comes first.
    let hosts = |postgres: &Postgres| {
        let url = postgres.url_of("app");
        let (_, rest) = url.split_once('@').unwrap_or_default();
        rest.trim_end_matches("/app").to_owned()
    };
    let both =
        stage.postgres_url.replace(&hosts(&primary), &format!("{},{}", hosts(&standby), hosts(&primary)));
    let config = stage.config(&stage.whole(ORDERS)).replace(&stage.postgres_url, &both);
    let config = config + "health: { outage_failing: 2s }\n";
    let mut following = Following::start_with(stage, &config, 121).await?;

    // The standby has what was written so far, and nothing of what comes.
    let behind = following.stage.on_postgres(standby.url_of("app"));
    let goal = following.writer.written().bursts;
    until("the standby to have caught up", PATIENCE, async || {
        Ok((writer::arrived(&behind, ORDERS).await.unwrap_or(0) >= goal).then_some(()))
    })
    .await?;
    behind.execute("alter system set primary_conninfo = ''").await?;
    behind.execute("select pg_reload_conf()").await?;
    let receiving = "select count(*) from pg_stat_wal_receiver";
    until("the standby to be on its own", PATIENCE, async || {
        Ok((behind.number(receiving).await? == 0).then_some(()))
    })
    .await?;
    for _ in 0..3 {
        following.goes_on().await?;
    }
    let left = following.stage.number(SEQ).await?;
    primary.kill9().await?;
    following.daemon.check_becomes("postgresql", &FALLEN).await?;
    let kept = behind.number(SEQ).await?;
    ensure!(kept < left, "the standby is not behind: {kept}, {left}");

    // It is no primary yet: nothing can be written to it, and it is said.
    following.writer.writes_on(3).await?;
    assert_eq!(behind.number(SEQ).await?, kept);
    let alone = config.replace(&both, &behind.postgres_url);
    let said = command(&["check"], &alone)?;
    let said = String::from_utf8(said.stdout)?;
    ensure!(said.contains("read-only standby") && said.contains("all of its hosts"), "{said}");

    behind.execute("select pg_promote()").await?;
    following.stage = behind;
    following.goes_on().await.context("on the new primary")?;
    following.ends_well().await
}
