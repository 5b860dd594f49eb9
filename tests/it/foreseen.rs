//! A daemon that is behind looks documents up as they are by then: what the stream has yet to tell of them is in
//! their rows already.

use anyhow::{Context, Result};
use bson::{Document, Timestamp, doc};

use crate::daemon::{Daemon, PATIENCE};
use crate::oracle::Plain;
use crate::stage::{Stage, numbered};
use crate::support::until;

const DOCUMENTS: i64 = 10;

/// A small batch, so that a backlog has many.
fn config(stage: &Stage) -> String {
    format!("{}batch: {{ max_changes: 10 }}\n", stage.config(&stage.whole("orders")))
}

/// Documents are copied, and nobody follows.
async fn stage(name: &str) -> Result<Stage> {
    let stage = Stage::new(name).await?;
    stage.collection("orders").insert_many(numbered(0, DOCUMENTS)).await?;
    let daemon = Daemon::start(&config(&stage))?;
    stage.settled(&daemon, "orders").await?;
    anyhow::ensure!(daemon.stop().await?.success(), "the daemon did not stop well");
    Ok(stage)
}

/// Each of these documents once: a batch.
async fn update(stage: &Stage, ids: std::ops::Range<i64>, n: i64) -> Result<()> {
    for id in ids {
        // None of the numbers that are there: an update that changes nothing makes no event.
        let change = doc! { "$set": { "n": 100 + n } };
        let found = stage.collection("orders").update_one(doc! { "_id": id }, change).await?;
        anyhow::ensure!(found.modified_count == 1, "document {id} was not changed");
    }
    Ok(())
}

/// A majority has something that was written in a later second than all there is now.
async fn a_second_passes(stage: &Stage) -> Result<()> {
    let majority = async || -> Result<Timestamp> {
        let hello = stage.client.database("admin").run_command(doc! { "hello": 1 }).await?;
        Ok(hello.get_document("lastWrite")?.get_document("majorityOpTime")?.get_timestamp("ts")?)
    };
    let before = majority().await?;
    until("a second to pass", PATIENCE, async || {
        stage.collection("elsewhere").insert_one(doc! {}).await?;
        Ok((majority().await?.time > before.time).then_some(()))
    })
    .await
}

async fn catches_up(stage: &Stage) -> Result<Daemon> {
    a_second_passes(stage).await?;
    let daemon = Daemon::start(&config(stage))?;
    stage.settled(&daemon, "orders").await?;
    stage.equal("orders", Plain::Int).await.with_context(|| daemon.last_words())?;
    Ok(daemon)
}

#[tokio::test]
async fn what_a_look_up_has_shown_is_neither_looked_up_nor_written_again() -> Result<()> {
    const TIMES: i64 = 30;
    let stage = stage("foreseen_updates").await?;
    for n in 0..TIMES {
        update(&stage, 0..DOCUMENTS, n).await?;
    }
    let daemon = catches_up(&stage).await?;
    let looked_up = daemon.metric("rowstream_lookups_total").await?;
    let spared = daemon.metric("rowstream_lookups_spared_total").await?;
    assert_eq!(looked_up + spared, (DOCUMENTS * TIMES) as f64);
    assert_eq!(looked_up, DOCUMENTS as f64);
    let written = r#"rowstream_rows_written_total{op="update",table="public.orders"}"#;
    assert_eq!(daemon.metric(written).await?, DOCUMENTS as f64);
    // What is written from now on is not foreseen.
    update(&stage, 0..DOCUMENTS, TIMES).await?;
    stage.becomes_equal(&daemon, "orders", Plain::Int).await
}

/// The row of document 0, by turns as it is at the end of the backlog and as it was in the midst of it.
#[tokio::test]
async fn what_was_shown_is_forgotten_once_anything_else_becomes_of_the_document() -> Result<()> {
    let stage = stage("foreseen_otherwise").await?;
    let orders = stage.collection("orders");
    let one: Document = doc! { "_id": 0_i64 };
    let others = async |n| update(&stage, 1..DOCUMENTS, n).await;
    update(&stage, 0..DOCUMENTS, 1).await?;
    orders.replace_one(one.clone(), doc! { "n": 2 }).await?;
    others(2).await?;
    update(&stage, 0..DOCUMENTS, 3).await?;
    orders.delete_one(one.clone()).await?;
    others(4).await?;
    orders.insert_one(doc! { "_id": 0_i64, "n": 5 }).await?;
    others(5).await?;
    // The last word on document 0 is an update that its row does not show: an insert came after it was shown.
    update(&stage, 0..DOCUMENTS, 6).await?;
    others(7).await?;
    let daemon = catches_up(&stage).await?;
    assert!(daemon.metric("rowstream_lookups_spared_total").await? > 0.0);
    Ok(())
}

#[tokio::test]
async fn a_collection_that_is_dropped_and_made_anew_in_a_backlog_is_copied() -> Result<()> {
    let stage = stage("foreseen_drop").await?;
    update(&stage, 0..DOCUMENTS, 1).await?;
    update(&stage, 0..DOCUMENTS, 2).await?;
    stage.collection("orders").drop().await?;
    let renamed = |to: &str| {
        let name = |collection: &str| format!("{}.{collection}", stage.name);
        doc! { "renameCollection": name("made"), "to": name(to) }
    };
    // Documents that came without events, but for the last update.
    stage.collection("made").insert_many(numbered(0, DOCUMENTS)).await?;
    stage.client.database("admin").run_command(renamed("orders")).await?;
    update(&stage, 0..DOCUMENTS, 3).await?;
    catches_up(&stage).await.map(drop)
}

/// Documents that a look-up has not found are as well known as those it has.
#[tokio::test]
async fn what_is_gone_at_the_end_of_a_backlog_is_gone_in_the_end() -> Result<()> {
    let stage = stage("foreseen_gone").await?;
    for n in 0..3 {
        update(&stage, 0..DOCUMENTS, n).await?;
    }
    stage.collection("orders").delete_many(doc! { "_id": { "$lt": DOCUMENTS / 2 } }).await?;
    let daemon = catches_up(&stage).await?;
    let looked_up = daemon.metric("rowstream_lookups_total").await?;
    assert_eq!(looked_up, DOCUMENTS as f64);
    Ok(())
}

/// A column that says when its row was changed is written with each change.
#[tokio::test]
async fn a_row_that_tells_the_time_of_its_change_is_written_with_each() -> Result<()> {
    let stage = Stage::new("foreseen_time").await?;
    let mapping = format!(
        "  - {{ source: orders, collection: {}.orders, table: orders, id_type: int,
        columns: {{ n: n, changed: $cluster_time }} }}\nbatch: {{ max_changes: 10 }}\n",
        stage.name
    );
    stage
        .execute(
            "create table orders (source text, source_id text, n bigint, changed timestamptz, unique (source, source_id))",
        )
        .await?;
    stage.collection("orders").insert_many(numbered(0, DOCUMENTS)).await?;
    let daemon = Daemon::start(&stage.config(&mapping))?;
    stage.settled(&daemon, "orders").await?;
    daemon.stop().await?;
    update(&stage, 0..DOCUMENTS, 1).await?;
    a_second_passes(&stage).await?;
    update(&stage, 0..DOCUMENTS, 2).await?;
    a_second_passes(&stage).await?;
    let daemon = Daemon::start(&stage.config(&mapping))?;
    stage.settled(&daemon, "orders").await?;
    assert_eq!(daemon.metric("rowstream_lookups_spared_total").await?, 0.0);
    assert_eq!(daemon.metric("rowstream_lookups_total").await?, (2 * DOCUMENTS) as f64);
    Ok(())
}

/// Nobody wakes it: its foreign key is not one that the mapping knows.
#[tokio::test]
async fn what_is_held_is_tried_again_with_each_update() -> Result<()> {
    let stage = Stage::new("foreseen_held").await?;
    stage
        .execute(
            "create table kinds (source text, source_id text, code bigint unique, unique (source, source_id));
             create table orders (source text, source_id text, n bigint, kind bigint references kinds (code),
                                  unique (source, source_id))",
        )
        .await?;
    let mapping = |collection: &str, columns: &str| {
        let name = &stage.name;
        format!(
            "  - {{ source: {collection}, collection: {name}.{collection}, table: {collection}, id_type: int, columns: {columns} }}\n"
        )
    };
    let config = format!(
        "{}batch: {{ max_changes: 10 }}\n",
        stage.config(&format!(
            "{}{}",
            mapping("kinds", "{ code: code }"),
            mapping("orders", "{ n: n, kind: kind }")
        ))
    );
    let config = config.replace("retry_initial: 500ms, retry_max: 2s", "retry_initial: 6h, retry_max: 6h");
    stage.collection("kinds").insert_one(doc! { "_id": 1_i64, "code": 1_i64 }).await?;
    stage.collection("orders").insert_many(numbered(0, DOCUMENTS)).await?;
    let daemon = Daemon::start(&config)?;
    stage.settled(&daemon, "orders").await?;
    daemon.stop().await?;

    update(&stage, 0..DOCUMENTS, 1).await?;
    for n in 2..9 {
        update(&stage, 1..DOCUMENTS, n).await?;
    }
    stage.collection("kinds").insert_one(doc! { "_id": 2_i64, "code": 2_i64 }).await?;
    update(&stage, 1..DOCUMENTS, 9).await?;
    // Shown from the first batch on, and refused until the kind has come.
    let kind = doc! { "$set": { "kind": 2_i64 } };
    stage.collection("orders").update_one(doc! { "_id": 0_i64 }, kind).await?;
    update(&stage, 1..DOCUMENTS, 10).await?;
    a_second_passes(&stage).await?;
    let daemon = Daemon::start(&config)?;
    stage.settled(&daemon, "orders").await?;
    assert_eq!(
        daemon.metric(r#"rowstream_held_total{reason="foreign_key_violation",source="orders"}"#).await?,
        1.0
    );
    let kinds = "select count(*) from orders where kind = 2";
    assert_eq!(stage.number(kinds).await?, 1, "{}", daemon.last_words());
    assert_eq!(stage.number("select count(*) from rowstream.held where state <> 'resolved'").await?, 0);
    Ok(())
}
