//! Rows that are made for references: once for all who want them, however many ask at once and how often.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use bson::doc;

use crate::comparison::{found, verify};
use crate::daemon::{Daemon, PATIENCE};
use crate::stage::Stage;
use crate::support::until;

const PAYMENTS: i64 = 60;
const ITEMS: i64 = 6_000;

async fn counts(stage: &Stage, daemon: &Daemon, sql: &str, number: i64) -> Result<()> {
    let mut last = None;
    let reached = until(sql, PATIENCE, async || {
        last = stage.number(sql).await.ok();
        Ok((last == Some(number)).then_some(()))
    });
    reached.await.with_context(|| format!("wanted {number}, found {last:?}; {}", daemon.last_words()))
}

/// Many items of few payments, none of which is there.
async fn stage(name: &str) -> Result<(Stage, String)> {
    let stage = Stage::new(name).await?;
    stage
        .execute(
            "create table payments (id text primary key, source text not null, source_id text not null,
                 at timestamptz, unique (source, source_id));
             create table items (mongo_id text primary key, payment_id text not null references payments)",
        )
        .await?;
    let config = stage.config(&format!(
        "  - source: bank
    collection: {0}.bank
    table: payments
    id_type: int
    allow_empty: true
    columns: {{ id: {{ key: {{ prefix: pay_ }}, write: insert }}, at: {{ from: at, as: unix_seconds }} }}
  - source: items
    collection: {0}.items
    table: items
    id_type: int
    key: {{ source: null, source_id: mongo_id }}
    columns:
      payment_id:
        ref: {{ to: bank, from: payment }}
        missing: {{ create: {{ source: manual, columns: {{ id: {{ key: {{ prefix: pay_ }} }} }} }} }}
snapshot: {{ chunk_documents: 100, workers: 4 }}\n",
        stage.name
    ));
    let items = (0..ITEMS).map(|n| doc! { "_id": n, "payment": n % PAYMENTS });
    stage.collection("items").insert_many(items).await?;
    Ok((stage, config))
}

const ITEM_ROWS: &str = "select count(*) from items";
const MADE: &str = "select count(*) from payments where source = 'manual'";
const RECORDED: &str = "select count(*) from rowstream.stub";
const HELD: &str = "select count(*) from rowstream.held where state <> 'resolved'";

async fn give_way(stage: &Stage, daemon: &Daemon) -> Result<()> {
    counts(stage, daemon, ITEM_ROWS, ITEMS).await?;
    counts(stage, daemon, MADE, PAYMENTS).await?;
    counts(stage, daemon, RECORDED, PAYMENTS).await?;
    counts(stage, daemon, HELD, 0).await?;
    // All at once, and each item by its own payment.
    stage.collection("bank").insert_many((0..PAYMENTS).map(|n| doc! { "_id": n, "at": 5 })).await?;
    const REAL: &str = "select count(*) from items join payments p on p.id = payment_id
        where source = 'bank' and source_id::bigint = mongo_id::bigint % 60";
    counts(stage, daemon, REAL, ITEMS).await?;
    counts(stage, daemon, MADE, 0).await?;
    counts(stage, daemon, RECORDED, 0).await?;
    counts(stage, daemon, "select count(*) from rowstream.wait", 0).await?;
    Ok(())
}

#[tokio::test]
async fn chunks_side_by_side_make_each_row_once() -> Result<()> {
    let (stage, config) = stage("stubs_beside").await?;
    let daemon = Daemon::start(&config)?;
    counts(&stage, &daemon, ITEM_ROWS, ITEMS).await?;
    // A comparison knows what was made: it is neither missing nor too much.
    let (report, code) = verify(&config, &[])?;
    assert_eq!((code, found(&report)), (0, BTreeSet::new()), "{report:#}");
    give_way(&stage, &daemon).await
}

#[tokio::test]
async fn killed_again_and_again_it_makes_no_row_twice_and_forgets_none() -> Result<()> {
    let (stage, config) = stage("stubs_killed").await?;
    for part in 1..=4 {
        let daemon = Daemon::start(&config)?;
        until("a part of the items", PATIENCE, async || {
            let items = stage.number(ITEM_ROWS).await.unwrap_or(0);
            Ok((items >= part * ITEMS / 6).then_some(()))
        })
        .await
        .with_context(|| daemon.last_words())?;
        daemon.kill9()?;
        let twice = "select count(*) from payments where source = 'manual'";
        assert!(stage.number(twice).await? <= PAYMENTS);
        // The dead cannot give their lease up; what would take its time-out happens at once.
        stage.execute("update rowstream.lease set heartbeat = 'epoch'").await?;
    }
    let daemon = Daemon::start(&config)?;
    give_way(&stage, &daemon).await
}
