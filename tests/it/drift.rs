//! What documents come to hold that no mapping expects is told, and stops nobody.

use anyhow::{Context, Result};
use bson::doc;
use serde_json::{Value, json};

use crate::daemon::{Daemon, PATIENCE};
use crate::stage::Stage;
use crate::support::until;

async fn drift(daemon: &Daemon, source: usize) -> Result<Value> {
    Ok(daemon.status().await?["sources"][source]["drift"].clone())
}

fn names(sightings: &Value) -> Vec<&str> {
    sightings.as_array().into_iter().flatten().filter_map(|one| one["name"].as_str()).collect()
}

#[tokio::test]
async fn new_fields_and_new_labels_are_told_with_examples_and_without_values() -> Result<()> {
    let stage = Stage::new("drift").await?;
    stage
        .execute(
            "create table orders (source text, source_id text, city text, kind text, primary key (source, source_id))",
        )
        .await?;
    let config = stage.config(&format!(
        "  - source: orders
    collection: {}.orders
    table: orders
    id_type: int
    allow_empty: true
    ignore: [__v]
    columns:
      city: address.city
      kind: {{ from: kind, enum: {{ a: A, b: B }}, otherwise: {{ value: other }} }}\n",
        stage.name
    ));
    let orders = stage.collection("orders");
    orders.insert_one(doc! { "_id": 1_i64, "kind": "a", "__v": 0, "address": { "city": "Ulm" } }).await?;
    let daemon = Daemon::start(&config)?;
    let rows = async |count: i64| {
        until("the rows", PATIENCE, async || {
            let there = stage.number("select count(*) from orders").await.ok();
            Ok((there == Some(count)).then_some(()))
        })
        .await
        .with_context(|| daemon.last_words())
    };
    rows(1).await?;
    let before = drift(&daemon, 0).await?;
    assert_eq!(
        (&before["fields"], &before["labels"]),
        (&json!([]), &json!([])),
        "all of it is read or ignored"
    );
    assert!(before["documents"].as_u64() >= Some(1), "it was looked at: {before}");

    let document = doc! { "_id": 2_i64, "kind": "hunter2", "coupon": "hunter2", "address": { "city": "Ulm", "zip": "hunter2" } };
    orders.insert_one(document).await?;
    rows(2).await?;
    let told = until("the drift to be told", PATIENCE, async || {
        let told = drift(&daemon, 0).await?;
        Ok((!names(&told["labels"]).is_empty()).then_some(told))
    })
    .await?;
    assert_eq!(names(&told["fields"]), ["coupon", "address.zip"], "{told}");
    assert_eq!(names(&told["labels"]), ["kind"], "{told}");
    assert_eq!(told["fields"][0]["examples"], json!(["2"]));
    assert!(told["fields"][0]["count"].as_u64() >= Some(1), "{told}");
    assert!(!told.to_string().contains("hunter2"), "{told}");
    assert!(daemon.metric("rowstream_unmapped_fields_total").await? >= 2.0);
    assert!(daemon.metric("rowstream_unmapped_paths").await? >= 2.0);
    assert_eq!(stage.number("select count(*) from rowstream.held").await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_mapping_that_keeps_whole_documents_has_no_drift() -> Result<()> {
    let stage = Stage::new("no_drift").await?;
    stage.collection("things").insert_one(doc! { "_id": 1_i64, "anything": { "at": "all" } }).await?;
    let daemon = Daemon::start(&stage.config(&stage.whole("things")))?;
    until("the row", PATIENCE, async || {
        Ok((stage.number("select count(*) from things").await.ok() == Some(1)).then_some(()))
    })
    .await
    .with_context(|| daemon.last_words())?;
    let told = drift(&daemon, 0).await?;
    assert_eq!((&told["documents"], &told["fields"]), (&0.into(), &json!([])), "{told}");
    Ok(())
}
