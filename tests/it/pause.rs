//! What stops the pipeline on purpose: an operator's word, and too many changes that cannot be applied.

use anyhow::Result;
use bson::doc;
use serde_json::json;

use crate::daemon::{Daemon, command};
use crate::oracle::Plain;
use crate::stage::{Stage, becomes, numbered};

#[tokio::test]
async fn a_pause_survives_a_restart_and_everything_since_is_applied_after_it() -> Result<()> {
    let stage = Stage::new("paused").await?;
    let things = stage.collection("things");
    things.insert_many(numbered(0, 5)).await?;
    let config = stage.config(&stage.whole("things").replace("allow_empty", "id_type: int, allow_empty"));
    let daemon = Daemon::start(&config)?;
    stage.becomes_equal(&daemon, "things", Plain::Int).await?;

    let said = command(&["pause"], &config)?;
    assert!(said.status.success() && String::from_utf8(said.stdout)?.contains("pipeline test is paused"));
    daemon.logged("\"event\":\"paused\"").await?;
    daemon.check_becomes("leader", &["failing"]).await?;
    assert!(daemon.detail("leader").await?.contains("rowstream resume"));
    things.insert_many(numbered(5, 10)).await?;
    assert!(daemon.stop().await?.success());

    let daemon = Daemon::start(&config)?;
    daemon.logged("\"event\":\"paused\"").await?;
    assert_eq!(stage.number("select count(*) from things").await?, 5);
    let once = command(&["run", "--until-caught-up"], &config)?;
    assert_eq!(once.status.code(), Some(1));
    assert!(String::from_utf8(once.stderr)?.contains("rowstream resume"));

    let (code, answer) = daemon.post("/resume", &json!(null)).await?;
    assert_eq!((code, &answer["message"]), (202, &"it goes on within seconds".into()), "{answer}");
    stage.becomes_equal(&daemon, "things", Plain::Int).await?;
    daemon.check_becomes("leader", &["ok"]).await?;
    let (_, answer) = daemon.post("/resume", &json!(null)).await?;
    assert_eq!(answer["message"], "it was not paused");
    let (code, _) = daemon.post("/pause", &json!(null)).await?;
    assert_eq!(code, 202);
    daemon.check_becomes("leader", &["failing"]).await?;
    let said = command(&["resume"], &config)?;
    assert_eq!(String::from_utf8(said.stdout)?, "pipeline test goes on within seconds\n");
    daemon.check_becomes("leader", &["ok"]).await?;
    Ok(())
}

/// The copy stands still at two of its rows, for as long as a session of the test has the lock of each.
#[tokio::test]
async fn a_copy_that_is_paused_or_stopped_by_hand_goes_on_where_it_was() -> Result<()> {
    let stage = Stage::new("copy_paused").await?;
    stage.collection("things").insert_many(numbered(0, 2_000)).await?;
    stage
        .execute(
            "create table things (source text, source_id text, document jsonb not null,
                 primary key (source, source_id));
             create function wait() returns trigger language plpgsql as
                 'begin perform pg_advisory_xact_lock(new.source_id::integer); return new; end';
             create trigger wait before insert on things for each row when (new.source_id in ('250', '350'))
                 execute function wait()",
        )
        .await?;
    let mut locks = stage.postgres().await?;
    sqlx::query("select pg_advisory_lock(250), pg_advisory_lock(350)").execute(&mut locks).await?;
    let config = stage.config(&stage.whole("things").replace("allow_empty", "id_type: int, allow_empty"));
    let config = config + "snapshot: { chunk_documents: 50, workers: 1 }\n";
    let finished = "select count(*) from rowstream.chunk where finished_at is not null";
    let daemon = Daemon::start(&config)?;
    becomes(&stage, &daemon, finished, 5).await?;
    assert!(command(&["pause"], &config)?.status.success());
    daemon.logged("\"event\":\"paused\"").await?;
    sqlx::query("select pg_advisory_unlock(250)").execute(&mut locks).await?;
    let (_, answer) = daemon.post("/resume", &json!(null)).await?;
    assert_eq!(answer["message"], "it goes on within seconds");
    daemon.logged("\"resumed_at\":250").await?;
    becomes(&stage, &daemon, finished, 7).await?;

    daemon.signal("TERM")?;
    daemon.logged("stopping").await?;
    sqlx::query("select pg_advisory_unlock(350)").execute(&mut locks).await?;
    assert!(daemon.ends().await?.success());
    let copied = stage.number(finished).await?;
    assert!((7..40).contains(&copied), "{copied} chunks of 40 were copied when it stopped");
    let daemon = Daemon::start(&config)?;
    daemon.logged(&format!("\"resumed_at\":{}", copied * 50)).await?;
    daemon.logged("snapshot done").await?;
    stage.becomes_equal(&daemon, "things", Plain::Int).await?;
    assert!(daemon.stop().await?.success());
    Ok(())
}

#[tokio::test]
async fn a_systemic_fault_halts_before_it_drains_a_collection_and_goes_on_once_it_is_mended() -> Result<()> {
    let stage = Stage::new("hold_limit").await?;
    stage
        .execute(
            "create table things (source text, source_id text, n bigint, text varchar(5), primary key (source, source_id))",
        )
        .await?;
    let config = stage.config(&format!(
        "  - {{ source: things, collection: {}.things, table: things, id_type: int, allow_empty: true,
      columns: {{ n: n, text: text }} }}\n",
        stage.name
    ));
    let config = config
        .replace("retry_initial: 500ms", "limit: 20, retry_initial: 1h")
        .replace("retry_max: 2s", "retry_max: 1h");
    let things = stage.collection("things");
    // A few bad ones among many good ones are no fault of the mapping.
    things
        .insert_many(
            (0..100)
                .map(|n| doc! { "_id": n as i64, "n": n, "text": if n < 30 { "too long" } else { "fits" } }),
        )
        .await?;
    let mut daemon = Daemon::start(&config)?;
    becomes(&stage, &daemon, "select count(*) from rowstream.held", 30).await?;
    becomes(&stage, &daemon, "select count(*) from things", 70).await?;
    daemon.check_becomes("leader", &["ok"]).await?;

    things.insert_many(numbered(100, 300)).await?;
    let line = daemon.logged("\"event\":\"halted\"").await?;
    assert!(
        line.contains("changes cannot be applied")
            && line.contains("column text")
            && line.contains("held.limit"),
        "{line}"
    );
    daemon.check_becomes("leader", &["failing"]).await?;
    assert!(daemon.is_running());
    assert_eq!(
        stage.number("select count(*) from rowstream.held").await?,
        30,
        "nothing of the fault is held"
    );
    assert_eq!(stage.number("select count(*) from things").await?, 70);

    stage.execute("alter table things alter column text type text").await?;
    becomes(&stage, &daemon, "select count(*) from things where n >= 100", 200).await?;
    daemon.check_becomes("leader", &["ok"]).await?;
    Ok(())
}
