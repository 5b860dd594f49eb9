//! Re-syncs: everything of a source is compared and repaired, because changes may have been lost, the mapping has
//! changed, the state was forgotten, or somebody wishes it.

use anyhow::{Context, Result, ensure};
use bson::{Timestamp, doc};
use serde_json::{Value, json};

use crate::comparison::{copied, filled, found, order, set, verify, words};
use crate::daemon::{self, Daemon, PATIENCE};
use crate::stage::Stage;
use crate::support::until;

const DUE: &str = "select count(*) from rowstream.mapping where resync_since is not null";

/// Every row with the transaction that wrote it.
const UNTOUCHED: &str = "select string_agg(source_id || ' ' || xmin, ',' order by source_id) from orders
    where source_id::int between 10 and 29";

async fn resynced(stage: &Stage, daemon: &Daemon) -> Result<Value> {
    until("the end of the re-sync", PATIENCE, async || Ok((stage.number(DUE).await? == 0).then_some(())))
        .await
        .with_context(|| daemon.last_words())?;
    last_report(stage).await
}

async fn last_report(stage: &Stage) -> Result<Value> {
    let report =
        "select report::text from rowstream.reconcile_run where cause = 'resync' order by id desc limit 1";
    Ok(serde_json::from_str(&stage.text(report).await?.context("no report")?)?)
}

/// The application writes while nobody follows, and the stream will not tell of it.
async fn unseen_changes(stage: &Stage) -> Result<()> {
    let orders = stage.collection("orders");
    orders.update_one(doc! { "_id": 1_i64 }, doc! { "$set": { "note": "unseen" } }).await?;
    orders.delete_one(doc! { "_id": 2_i64 }).await?;
    orders.insert_one(order(30)?).await?;
    unmapped(stage).await?;
    let now = stage.database.run_command(doc! { "ping": 1 }).await?;
    let Timestamp { time, increment } = now.get_timestamp("operationTime")?;
    let position = i64::from(time) << 32 | i64::from(increment);
    let skipped = format!("update rowstream.checkpoint set token = null, cluster_time = {position}");
    stage.execute(&skipped).await
}

/// A stream that begins at a time has what was written at it: this, and nothing that is mapped.
async fn unmapped(stage: &Stage) -> Result<()> {
    stage.collection("unmapped").insert_one(doc! {}).await?;
    Ok(())
}

const ASKED: &str = "update rowstream.mapping set resync_since = clock_timestamp(), resync_cause = 'history'";

#[tokio::test]
async fn changes_that_the_stream_has_lost_are_found_and_repaired_and_nothing_else_is_written() -> Result<()> {
    let (stage, config) = filled("resync_lost", 30).await?;
    unseen_changes(&stage).await?;
    stage.execute(ASKED).await?;
    let before = stage.text(UNTOUCHED).await?;
    let daemon = Daemon::start(&config)?;
    let report = resynced(&stage, &daemon).await?;
    let source = &report["sources"][0];
    assert_eq!(source["repaired"], json!({ "missing": 1, "different": 1, "extra": 1 }), "{report:#}");
    assert_eq!((report["verdict"].as_str(), found(&report)), (Some("passed"), set(&[])), "{report:#}");
    assert_eq!(stage.text(UNTOUCHED).await?, before, "rows that are equal are left alone");
    assert_eq!(stage.number("select count(*) from rowstream.reconcile_finding").await?, 0);
    assert!(daemon.stop().await?.success());
    assert_eq!(verify(&config, &[])?.1, 0);
    Ok(())
}

#[tokio::test]
async fn a_position_that_the_server_does_not_know_makes_every_source_due_and_takes_no_row_away() -> Result<()>
{
    let (stage, config) = filled("resync_ahead", 30).await?;
    unseen_changes(&stage).await?;
    // Ahead of the server, as after a restore of MongoDB.
    stage
        .execute("update rowstream.checkpoint set cluster_time = cluster_time + (3600::bigint << 32)")
        .await?;
    stage
        .execute(
            "create function never() returns trigger language plpgsql as
                 $$ begin if old.source_id <> '2' then raise 'row % goes', old.source_id; end if; return old; end $$;
             create trigger never before delete on orders for each row execute function never()",
        )
        .await?;
    let daemon = Daemon::start(&config)?;
    daemon.logged("history_lost").await?;
    until("the re-sync", PATIENCE, async || {
        let runs = "select count(*) from rowstream.reconcile_run where cause = 'resync' and state = 'done'";
        Ok((stage.number(runs).await? > 0 && stage.number(DUE).await? == 0).then_some(()))
    })
    .await
    .with_context(|| daemon.last_words())?;
    let rows = "select count(*) || ' ' || count(*) filter (where note = 'unseen' or source_id in ('2', '30')) from orders";
    assert_eq!(stage.text(rows).await?.as_deref(), Some("30 2"));
    assert!(daemon.stop().await?.success());
    Ok(())
}

#[tokio::test]
async fn a_resync_that_was_killed_goes_on_and_is_told_while_it_lasts() -> Result<()> {
    let (stage, config) = filled("resync_killed", 1_000).await?;
    stage.execute("update orders set note = 'x' where source_id in ('998', '999')").await?;
    stage.execute(ASKED).await?;
    let at = |rate: u32| {
        format!(
            "{config}reconcile: {{ every: 0s, documents_per_second: {rate} }}\nsnapshot: {{ chunk_documents: 100 }}\n"
        )
    };
    let daemon = Daemon::start(&at(300))?;
    let place = "select progress #>> '{kept,current,1}' from rowstream.reconcile_run
        where cause = 'resync' and progress #> '{kept,current,1,documents}' is not null";
    until("some progress", PATIENCE, async || Ok(stage.text(place).await.ok().flatten()))
        .await
        .with_context(|| daemon.last_words())?;
    daemon.check_becomes("reconcile", &["degraded"]).await?;
    let detail = daemon.detail("reconcile").await?;
    assert!(
        detail.contains("a re-sync of orders is under way") && detail.contains("may have been lost"),
        "{detail}"
    );
    assert_eq!(daemon.metric("rowstream_resync_due").await?, 1.0);
    assert_eq!(daemon.status().await?["resyncs"][0]["source"], "orders");
    let status = words(&daemon::command(&["status"], &config)?);
    assert!(
        status.contains("a re-sync of orders is due or under way") && status.contains("may have been lost"),
        "{status}"
    );
    daemon.kill9()?;
    // As if it had been silent for as long as it takes to be nobody's.
    stage.execute("update rowstream.reconcile_run set heartbeat = heartbeat - interval '1 hour'").await?;
    stage.execute("update rowstream.lease set heartbeat = 'epoch'").await?;
    // Before the place where it was: whoever began again would find it.
    stage.execute("update orders set note = 'x' where source_id = '0'").await?;
    let daemon = Daemon::start(&at(0))?;
    let report = resynced(&stage, &daemon).await?;
    assert_eq!(report["sources"][0]["repaired"], json!({ "different": 2 }), "{report:#}");
    stage.execute("update orders set note = 'note 0' where source_id = '0'").await?;
    assert_eq!(stage.number("select count(*) from rowstream.reconcile_run").await?, 1, "it is the same run");
    daemon.check_becomes("reconcile", &["ok"]).await?;
    assert!(daemon.stop().await?.success());
    assert_eq!(verify(&config, &[])?.1, 0);
    Ok(())
}

#[tokio::test]
async fn a_changed_mapping_is_copied_and_then_compared_until_no_row_is_left_without_a_document() -> Result<()>
{
    let (stage, config) = filled("resync_mapping", 30).await?;
    stage.execute("insert into orders (source, source_id) values ('orders', '1000')").await?;
    let changed = config.replace("note: note\n", "note: { from: note, case: upper }\n");
    ensure!(changed != config, "the mapping is the same");
    copied(&changed).await?;
    let rows = "select count(*) || ' ' || count(*) filter (where note = upper(note)) from orders";
    assert_eq!(stage.text(rows).await?.as_deref(), Some("30 30"));
    assert_eq!(last_report(&stage).await?["sources"][0]["repaired"], json!({ "extra": 1 }));
    assert_eq!(stage.number(DUE).await?, 0);
    Ok(())
}

#[tokio::test]
async fn an_operators_resync_is_done_by_the_daemon_or_by_the_command_itself() -> Result<()> {
    let (stage, config) = filled("resync", 200).await?;
    let damage = "truncate orders; insert into orders (source, source_id) values ('orders', '1000')";
    for led in [false, true] {
        stage.execute(damage).await?;
        let daemon = if led { Some(Daemon::start(&config)?) } else { None };
        if let Some(daemon) = &daemon {
            daemon.logged("session started").await?;
        }
        let output = daemon::command(&["resync", "orders"], &config)?;
        assert!(output.status.success(), "{}", words(&output));
        let told = "✓ 200 missing, 1 extra: their documents were read again";
        assert!(words(&output).contains(told), "{}", words(&output));
        assert_eq!(stage.number("select count(*) from orders").await?, 200);
        if let Some(daemon) = daemon {
            assert!(daemon.stop().await?.success());
        }
    }
    let unknown = daemon::command(&["resync", "nothing"], &config)?;
    assert_eq!(unknown.status.code(), Some(3), "{}", words(&unknown));
    assert!(words(&unknown).contains("the sources are orders"), "{}", words(&unknown));
    Ok(())
}

#[tokio::test]
async fn what_a_resync_does_not_help_is_told_and_not_repeated() -> Result<()> {
    let (stage, config) = filled("resync_stubborn", 20).await?;
    stage
        .execute(
            "create function shout() returns trigger language plpgsql as
                 $$ begin if new.source_id = '7' then new.note := upper(new.note); end if; return new; end $$;
             create trigger shout before insert or update on orders for each row execute function shout();
             update orders set note = 'x' where source_id in ('7', '8')",
        )
        .await?;
    for repaired in [json!({ "different": 2 }), Value::Null] {
        let output = daemon::command(&["resync", "orders", "--output", "json"], &config)?;
        let report: Value = serde_json::from_slice(&output.stdout).with_context(|| words(&output))?;
        assert_eq!(
            (output.status.code(), found(&report)),
            (Some(1), set(&["different 7 note"])),
            "{report:#}"
        );
        assert_eq!(report["sources"][0]["repaired"], repaired, "{report:#}");
        assert_eq!(stage.number(DUE).await?, 0, "it is done all the same");
    }
    Ok(())
}

#[tokio::test]
async fn rows_whose_documents_went_after_a_reset_go_with_the_next_run() -> Result<()> {
    let (stage, config) = filled("resync_reset", 20).await?;
    let output = daemon::command(&["reset", "--yes"], &config)?;
    assert!(output.status.success(), "{}", words(&output));
    stage.collection("orders").delete_many(doc! { "_id": { "$lt": 5_i64 } }).await?;
    unmapped(&stage).await?;
    copied(&config).await?;
    assert_eq!(stage.number("select count(*) from orders").await?, 15);
    assert_eq!(last_report(&stage).await?["sources"][0]["repaired"], json!({ "extra": 5 }));
    Ok(())
}
