//! Columns that rowstream fills by itself: the mark of a soft delete, and the sync columns.

use anyhow::Result;
use bson::doc;

use crate::daemon::Daemon;
use crate::stage::{Stage, says};

fn mapping(stage: &Stage, rules: &str) -> String {
    stage.config(&format!(
        "  - {{ source: things, collection: {}.things, table: things, id_type: string, {rules},
        columns: {{ n: n }} }}\n",
        stage.name
    ))
}

const THINGS: &str = "create table things (source text, source_id text, n int, COLUMNS,
                      primary key (source, source_id))";

#[tokio::test]
async fn a_soft_delete_marks_the_row_once_and_a_put_takes_the_mark_away() -> Result<()> {
    for (name, column) in [("soft_time", "timestamp"), ("soft_flag", "boolean not null")] {
        let stage = Stage::new(name).await?;
        stage.execute(&THINGS.replace("COLUMNS", &format!("gone {column}"))).await?;
        let things = stage.collection("things");
        things.insert_many([doc! { "_id": "a", "n": 1 }, doc! { "_id": "b", "n": 2 }]).await?;
        let config = mapping(&stage, "deletes: { soft: gone }");
        let daemon = Daemon::start(&config)?;
        let marked = "select string_agg(source_id || (case when coalesce(nullif(gone::text, 'false'), '') = '' \
                      then '' else ' gone' end), ', ' order by source_id) from things";
        says(&stage, &daemon, marked, "a, b").await?;
        things.delete_one(doc! { "_id": "a" }).await?;
        says(&stage, &daemon, marked, "a gone, b").await?;
        let version = "select xmin from things where source_id = 'a'";
        let before = stage.text(version).await?;
        things.insert_one(doc! { "_id": "c", "n": 3 }).await?;
        says(&stage, &daemon, marked, "a gone, b, c").await?;
        things.insert_one(doc! { "_id": "a", "n": 4 }).await?;
        says(&stage, &daemon, marked, "a, b, c").await?;
        assert_ne!(stage.text(version).await?, before);
        // The collection goes: every row is marked, and those that are marked already stay as they are.
        things.delete_one(doc! { "_id": "b" }).await?;
        says(&stage, &daemon, marked, "a, b gone, c").await?;
        let before = stage.text("select xmin from things where source_id = 'b'").await?;
        things.drop().await?;
        says(&stage, &daemon, marked, "a gone, b gone, c gone").await?;
        assert_eq!(stage.text("select xmin from things where source_id = 'b'").await?, before);
        assert_eq!(stage.text("select n from things where source_id = 'a'").await?.as_deref(), Some("4"));
    }
    Ok(())
}

#[tokio::test]
async fn a_filter_marks_softly_too() -> Result<()> {
    let stage = Stage::new("soft_filter").await?;
    stage.execute(&THINGS.replace("COLUMNS", "gone boolean")).await?;
    let things = stage.collection("things");
    things.insert_one(doc! { "_id": "a", "n": 1 }).await?;
    let daemon = Daemon::start(&mapping(&stage, "deletes: { soft: gone }, filter: { n: { $gt: 0 } }"))?;
    says(&stage, &daemon, "select gone from things", "false").await?;
    things.update_one(doc! { "_id": "a" }, doc! { "$set": { "n": 0 } }).await?;
    says(&stage, &daemon, "select gone from things", "true").await?;
    Ok(())
}

#[tokio::test]
async fn sync_columns_tell_how_a_row_stands_with_its_document() -> Result<()> {
    let stage = Stage::new("sync_columns").await?;
    stage.execute("create type sync_state as enum ('PENDING', 'SYNCED', 'FAILED')").await?;
    let columns =
        "sync_status sync_state not null, sync_error varchar(30), last_sync_at timestamptz not null";
    stage.execute(&THINGS.replace("COLUMNS", columns)).await?;
    let things = stage.collection("things");
    things.insert_many([doc! { "_id": "a", "n": 1 }, doc! { "_id": "b", "n": 2 }]).await?;
    let daemon = Daemon::start(&mapping(&stage, "sync: true"))?;
    let states =
        "select string_agg(concat_ws(' ', source_id, n, sync_status, sync_error), ', ' order by source_id)
                  from things";
    says(&stage, &daemon, states, "a 1 SYNCED, b 2 SYNCED").await?;
    let written =
        "select string_agg(last_sync_at::text, ' ' order by source_id) from things where source_id = 'b'";
    let before = stage.text(written).await?;
    // Nothing of the row changes: neither does its time.
    things.update_one(doc! { "_id": "b" }, doc! { "$set": { "other": 1 } }).await?;
    things.update_one(doc! { "_id": "a" }, doc! { "$set": { "n": "none" } }).await?;
    // The row keeps its last good state, and says why; the text is cut to its column.
    says(&stage, &daemon, states, "a 1 FAILED column n: string does not fit , b 2 SYNCED").await?;
    assert_eq!(stage.text(written).await?, before);
    things.update_one(doc! { "_id": "a" }, doc! { "$set": { "n": 1 } }).await?;
    says(&stage, &daemon, states, "a 1 SYNCED, b 2 SYNCED").await?;
    let later = "select count(*) from things a, things b
                 where a.source_id = 'a' and b.source_id = 'b' and a.last_sync_at > b.last_sync_at";
    says(&stage, &daemon, later, "1").await?;
    Ok(())
}
