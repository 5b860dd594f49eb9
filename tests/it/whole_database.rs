//! The one-minute start: no mapping at all.

use anyhow::Result;
use bson::doc;

use crate::daemon::Daemon;
use crate::oracle::Plain;
use crate::stage::{Stage, numbered};

#[tokio::test]
async fn without_a_mapping_every_collection_is_copied_and_followed() -> Result<()> {
    let stage = Stage::new("whole_database").await?;
    stage.collection("orders").insert_many(numbered(0, 500)).await?;
    stage.collection("customers").insert_many([doc! { "name": "Ada" }, doc! { "name": "Grace" }]).await?;
    let daemon = Daemon::start(&stage.config(""))?;
    stage.becomes_equal(&daemon, "orders", Plain::Int).await?;
    stage.becomes_equal(&daemon, "customers", Plain::ObjectId).await?;

    stage.collection("orders").update_one(doc! { "_id": 7_i64 }, doc! { "$set": { "n": -1 } }).await?;
    stage.collection("orders").delete_many(doc! { "n": { "$gte": 400 } }).await?;
    stage.collection("customers").insert_one(doc! { "name": "Edith" }).await?;
    stage.becomes_equal(&daemon, "orders", Plain::Int).await?;
    stage.becomes_equal(&daemon, "customers", Plain::ObjectId).await?;
    assert!(daemon.stop().await?.success());
    Ok(())
}

#[tokio::test]
async fn a_collection_that_comes_later_gets_its_table_while_the_others_go_on() -> Result<()> {
    let stage = Stage::new("discovered").await?;
    stage.collection("first").insert_many(numbered(0, 50)).await?;
    let daemon = Daemon::start(&stage.config(""))?;
    stage.becomes_equal(&daemon, "first", Plain::Int).await?;
    stage.collection("second").insert_many(numbered(0, 70)).await?;
    stage.collection("first").insert_many(numbered(50, 80)).await?;
    stage.becomes_equal(&daemon, "second", Plain::Int).await?;
    stage.becomes_equal(&daemon, "first", Plain::Int).await?;
    Ok(())
}

#[tokio::test]
async fn collections_that_came_or_went_while_nobody_looked_leave_nothing_behind() -> Result<()> {
    let stage = Stage::new("came_and_went").await?;
    for name in ["stays", "goes"] {
        stage.collection(name).insert_many(numbered(0, 30)).await?;
    }
    let daemon = Daemon::start(&stage.config(""))?;
    for name in ["stays", "goes"] {
        stage.becomes_equal(&daemon, name, Plain::Int).await?;
    }
    assert!(daemon.stop().await?.success());

    stage.collection("passing").insert_many(numbered(0, 30)).await?;
    stage.collection("passing").drop().await?;
    stage.collection("goes").update_many(doc! {}, doc! { "$set": { "last": true } }).await?;
    stage.collection("goes").drop().await?;
    stage.collection("stays").insert_many(numbered(30, 60)).await?;

    let daemon = Daemon::start(&stage.config(""))?;
    stage.becomes_equal(&daemon, "stays", Plain::Int).await?;
    stage.becomes_equal(&daemon, "goes", Plain::Int).await?;
    assert_eq!(stage.number("select count(*) from goes").await?, 0);
    assert!(daemon.stop().await?.success());
    Ok(())
}
