//! A mapping that says something else than when its rows were written.

use anyhow::{Context, Result};
use bson::doc;

use crate::daemon::{Daemon, PATIENCE, command};
use crate::stage::Stage;
use crate::support::until;

async fn stage(name: &str) -> Result<Stage> {
    let stage = Stage::new(name).await?;
    stage
        .collection("things")
        .insert_many((0..3).map(|id| doc! { "_id": id, "a": id, "b": id * 10 }))
        .await?;
    stage
        .execute("create table things (source text, source_id text, n int, m int, primary key (source, source_id))")
        .await?;
    Ok(stage)
}

fn config(stage: &Stage, columns: &str, more: &str) -> String {
    stage.config(&format!(
        "  - {{ source: things, collection: {}.things, table: things, columns: {{ {columns} }}, {more} }}\n",
        stage.name
    ))
}

/// Exit code, what it says, what it complains of.
fn ask(arguments: &[&str], config: &str) -> Result<(i32, String, String)> {
    let output = command(arguments, config)?;
    let code = output.status.code().context("ended by a signal")?;
    Ok((code, String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?))
}

const ROWS: &str = "select string_agg(concat_ws(' ', source_id, n, m), ', ' order by source_id) from things";
const ONCE: [&str; 2] = ["run", "--until-caught-up"];

#[tokio::test]
async fn a_changed_mapping_is_copied_again_and_check_says_so_before() -> Result<()> {
    let stage = stage("resync").await?;
    let before = config(&stage, "n: a", "critical: false");
    assert_eq!(ask(&ONCE, &before)?.0, 0);
    assert_eq!(stage.text(ROWS).await?.as_deref(), Some("0 0, 1 1, 2 2"));

    // How the pipeline behaves is no other meaning.
    let (_, text, _) = ask(&["check"], &config(&stage, "n: a", "critical: true"))?;
    assert!(!text.contains("has changed"), "{text}");
    let after = config(&stage, "n: b, m: a", "on_mapping_change: resync");
    let (code, text, _) = ask(&["check"], &after)?;
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("it has changed since its rows were written: column m is new, column n"), "{text}");
    assert_eq!(ask(&ONCE, &after)?.0, 0);
    assert_eq!(stage.text(ROWS).await?.as_deref(), Some("0 0 0, 1 10 1, 2 20 2"));
    let (_, text, _) = ask(&["check"], &after)?;
    assert!(!text.contains("has changed"), "{text}");
    Ok(())
}

#[tokio::test]
async fn a_changed_mapping_halts_where_it_shall_and_goes_on_once_it_is_accepted() -> Result<()> {
    let stage = stage("change_halts").await?;
    assert_eq!(ask(&ONCE, &config(&stage, "n: a, m: b", "on_mapping_change: halt"))?.0, 0);
    let rows = stage.text(ROWS).await?;

    let changed = config(&stage, "n: b", "on_mapping_change: halt");
    let (code, text, _) = ask(&["check"], &changed)?;
    assert_eq!(code, 1, "{text}");
    let (code, _, complaint) = ask(&ONCE, &changed)?;
    assert_eq!(code, 1, "{complaint}");
    assert!(complaint.contains("column n, column m is gone"), "{complaint}");
    assert_eq!(stage.text(ROWS).await?, rows, "nothing was written");

    // The daemon waits, and takes what it was told up by itself.
    let daemon = Daemon::start(&changed)?;
    daemon.logged("halted").await?;
    let (_, accept) = complaint.split_once("documents change: ").context("a hint")?;
    let (accept, _) = accept.split_once("'things'").context("a whole statement")?;
    stage.execute(&format!("{accept}'things'")).await?;
    stage.collection("things").update_one(doc! { "_id": 1 }, doc! { "$set": { "b": 7 } }).await?;
    until("the change to arrive", PATIENCE, async || {
        Ok((stage.text(ROWS).await?.as_deref() == Some("0 0 0, 1 7 10, 2 2 20")).then_some(()))
    })
    .await
    .with_context(|| daemon.last_words())?;
    assert!(daemon.stop().await?.success());

    // What it says now is what the next change is compared with.
    let (_, text, _) = ask(&["check"], &config(&stage, "n: a", "on_mapping_change: halt"))?;
    assert!(text.contains("were written: column n\n"), "{text}");
    Ok(())
}

#[tokio::test]
async fn another_collection_deletes_no_rows_where_a_change_halts() -> Result<()> {
    let stage = stage("other_collection").await?;
    let before = config(&stage, "n: a", "on_mapping_change: halt");
    assert_eq!(ask(&ONCE, &before)?.0, 0);
    stage.collection("others").insert_one(doc! { "_id": 9, "a": 9 }).await?;
    let after = before.replace(".things", ".others");
    let (code, _, complaint) = ask(&ONCE, &after)?;
    assert_eq!(code, 1);
    assert!(complaint.contains("were written: collection"), "{complaint}");
    assert_eq!(stage.number("select count(*) from things").await?, 3);
    assert_eq!(ask(&ONCE, &after.replace("halt", "resync"))?.0, 0);
    assert_eq!(stage.text(ROWS).await?.as_deref(), Some("9 9"));
    Ok(())
}
