//! A replica set of three whose primary steps down, freezes, dies, and comes back with writes that no majority
//! has: what the others have is followed, and nothing else.

use std::time::Duration;

use anyhow::{Result, ensure};
use bson::{Document, doc};
use mongodb::options::{Acknowledgment, CollectionOptions, WriteConcern};

use crate::daemon::PATIENCE;
use crate::following::{Following, ORDERS};
use crate::stage::Stage;
use crate::support::servers::Mongod;
use crate::support::until;

/// Ids of documents that are written to a primary alone.
const GHOSTS: i64 = 5_000_000;

async fn is_primary(member: &Mongod) -> bool {
    let hello = member.run_admin(doc! { "hello": 1 });
    let hello = tokio::time::timeout(Duration::from_secs(2), hello).await;
    hello.is_ok_and(|hello| hello.is_ok_and(|hello| hello.get_bool("isWritablePrimary").unwrap_or(false)))
}

/// Waits for a primary among those that are up.
async fn primary<'a>(members: &'a [Mongod], except: &[usize]) -> Result<(usize, &'a Mongod)> {
    until("a primary", PATIENCE, async || {
        for (number, member) in members.iter().enumerate() {
            if !except.contains(&number) && is_primary(member).await {
                return Ok(Some((number, member)));
            }
        }
        Ok(None)
    })
    .await
}

async fn all_are_up(members: &[Mongod]) -> Result<()> {
    until("three members", PATIENCE, async || {
        for member in members {
            let Ok(hello) = member.run_admin(doc! { "hello": 1 }).await else { return Ok(None) };
            let is = |role: &str| hello.get_bool(role).unwrap_or(false);
            if !is("isWritablePrimary") && !is("secondary") {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
    .await
}

#[tokio::test]
async fn elections_lose_nothing_and_what_is_rolled_back_never_shows() -> Result<()> {
    let members = Mongod::start_members(3, &[]).await?;
    let postgres = crate::support::servers::Postgres::start().await?;
    let stage = Stage::on(&members[0], &postgres).await?;
    let mut following = Following::start(stage, 101).await?;

    // It steps down by itself.
    let (before, member) = primary(&members, &[]).await?;
    // The connection may be closed before the answer.
    let _ = member.run_admin(doc! { "replSetStepDown": 20, "secondaryCatchUpPeriodSecs": 10 }).await;
    let (now, _) = primary(&members, &[before]).await?;
    ensure!(now != before, "it leads still");
    following.goes_on().await?;

    // It freezes: its connections stay open.
    let (frozen, member) = primary(&members, &[]).await?;
    member.pause()?;
    primary(&members, &[frozen]).await?;
    following.goes_on().await?;
    member.resume()?;
    all_are_up(&members).await?;
    following.goes_on().await?;

    // It dies.
    let (dead, member) = primary(&members, &[]).await?;
    member.kill9().await?;
    primary(&members, &[dead]).await?;
    following.goes_on().await?;
    member.start_again().await?;
    all_are_up(&members).await?;
    following.goes_on().await?;

    // It takes writes that nobody else hears of, and dies with them.
    let (alone, member) = primary(&members, &[]).await?;
    let others: Vec<&Mongod> =
        (0..3).filter(|number| *number != alone).map(|number| &members[number]).collect();
    // Frozen ones would find in their sockets what it has sent meanwhile.
    for other in &others {
        other.run_admin(doc! { "configureFailPoint": "stopReplProducer", "mode": "alwaysOn" }).await?;
    }
    ghosts(&following.stage, member).await?;
    member.kill9().await?;
    for other in &others {
        other.run_admin(doc! { "configureFailPoint": "stopReplProducer", "mode": "off" }).await?;
    }
    primary(&members, &[alone]).await?;
    following.goes_on().await?;
    member.start_again().await?;
    all_are_up(&members).await?;
    let found =
        following.stage.collection(ORDERS).count_documents(doc! { "_id": { "$gte": GHOSTS } }).await?;
    ensure!(found == 0, "nothing was rolled back");
    let rows = format!("select count(*) from orders where source_id::bigint >= {GHOSTS}");
    ensure!(following.stage.number(&rows).await? == 0, "what was rolled back is in the table");
    following.ends_well().await
}

/// Inserts and updates that only this member has, in its journal.
async fn ghosts(stage: &Stage, member: &Mongod) -> Result<()> {
    let client = mongodb::Client::with_uri_str(member.direct_uri()).await?;
    let concern = WriteConcern::builder().w(Acknowledgment::Nodes(1)).journal(true).build();
    let options = CollectionOptions::builder().write_concern(concern).build();
    let orders = client.database(&stage.name).collection_with_options::<Document>(ORDERS, options);
    let documents = (0..20).map(|n| doc! { "_id": GHOSTS + n, "n": n });
    orders.insert_many(documents).await?;
    let updated =
        orders.update_many(doc! { "_id": { "$lt": 100_i64 } }, doc! { "$set": { "ghost": true } }).await?;
    ensure!(updated.modified_count > 0, "nothing was updated");
    client.shutdown().await;
    Ok(())
}
