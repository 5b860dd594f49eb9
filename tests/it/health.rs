//! What is asked over HTTP, and how health falls and rises with what happens to the tables.

use anyhow::{Context, Result};
use bson::doc;
use serde_json::Value;
use sqlx::Connection;

use crate::daemon::{Daemon, PATIENCE};
use crate::oracle::Plain;
use crate::stage::{Stage, numbered};
use crate::support::servers::Mongod;
use crate::support::until;

/// Every check of `/health`, the file and the test that make it fall and rise on real servers.
const CHECKS: [(&str, &str, &str); 10] = [
    ("leader", include_str!("health.rs"), "a_privilege_that_is_taken_away_halts_until_it_is_given_back"),
    ("mongodb", include_str!("outages.rs"), "a_mongod_that_goes_and_comes_back_is_waited_for"),
    ("postgresql", include_str!("outages.rs"), "a_postgresql_that_goes_and_comes_back_is_waited_for"),
    ("stream", include_str!("outages.rs"), "a_mongod_that_goes_and_comes_back_is_waited_for"),
    (
        "checkpoint",
        include_str!("health.rs"),
        "an_old_checkpoint_is_told_after_a_restart_and_falls_until_it_moves",
    ),
    ("lag", include_str!("health.rs"), "lag_falls_while_a_table_is_locked_and_rises_when_it_is_free"),
    (
        "oplog_headroom",
        include_str!("health.rs"),
        "oplog_headroom_falls_while_nothing_is_applied_and_rises_again",
    ),
    ("held_changes", include_str!("held.rs"), "what_is_held_heals_when_it_is_repaired_deleted_or_free_to_go"),
    (
        "snapshot",
        include_str!("health.rs"),
        "a_copy_that_stands_still_falls_through_all_sessions_and_rises_with_a_chunk",
    ),
    (
        "reconcile",
        include_str!("comparison.rs"),
        "a_daemon_compares_by_its_timer_and_when_it_is_asked_and_tells_what_came_of_it",
    ),
];

#[test]
fn every_check_has_a_test_in_which_it_falls_and_rises() {
    for (check, file, test) in CHECKS {
        let body = file.split_once(&format!("async fn {test}(")).map(|(_, rest)| rest);
        let body = body.unwrap_or_else(|| panic!("there is no test {test}"));
        let body = body.split_once("\n}\n").map_or(body, |(body, _)| body);
        let said = |states: &str| body.contains(&format!("(\"{check}\", &{states}"));
        assert!(
            said("FALLEN)") || said("[\"degraded\"") || said("[\"failing\"]"),
            "{test} lets {check} not fall"
        );
        assert!(said("[\"ok\"])"), "{test} lets {check} not rise");
    }
}

fn mapping(stage: &Stage) -> String {
    stage.whole("things").replace("allow_empty", "id_type: int, allow_empty")
}

async fn following(name: &str) -> Result<(Stage, Daemon)> {
    let stage = Stage::new(name).await?;
    stage.collection("things").insert_many(numbered(0, 20)).await?;
    // A lock that a test holds is for the test to end.
    let config =
        stage.config(&mapping(&stage)).replace("postgres: { url:", "postgres: { lock_timeout: 60s, url:");
    let config = format!("{config}health: {{ lag_degraded: 1s, lag_failing: 3s }}\n");
    let daemon = Daemon::start(&config)?;
    stage.becomes_equal(&daemon, "things", Plain::Int).await?;
    Ok((stage, daemon))
}

#[tokio::test]
async fn every_page_answers_and_nothing_else_does() -> Result<()> {
    let (stage, daemon) = following("pages").await?;
    daemon.check_becomes("leader", &["ok"]).await?;
    daemon.check_becomes("snapshot", &["ok"]).await?;
    for path in ["/", "/health", "/livez", "/readyz", "/metrics", "/status"] {
        assert_eq!(daemon.get(path).await?.0, 200, "{path}");
        for method in ["POST", "PUT", "DELETE"] {
            assert_eq!(daemon.ask(method, path).await?.0, 405, "{method} {path}");
        }
    }
    let (code, body) = daemon.get("/nothing").await?;
    assert_eq!(code, 404);
    assert!(body.contains("/health"), "it says what there is: {body}");

    let (_, health) = daemon.get("/health").await?;
    let health: Value = serde_json::from_str(&health)?;
    let names: Vec<&str> = health["checks"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|check| check["name"].as_str())
        .collect();
    assert_eq!(names, CHECKS.map(|(check, ..)| check));
    assert_eq!(health["status"], "ok", "{health}");
    let status = daemon.status().await?;
    assert_eq!(status["pipeline"], "test", "{status}");
    assert_eq!(status["sources"][0]["source"], "things", "{status}");
    assert!(daemon.metric("rowstream_rows_written_total").await? >= 20.0);
    // Nothing of where the servers are, or who asks them.
    for path in ["/", "/health", "/status", "/metrics"] {
        let (_, body) = daemon.get(path).await?;
        assert!(!body.contains("mongodb://") && !body.contains("postgres://"), "{path}: {body}");
    }
    drop(stage);
    Ok(())
}

#[tokio::test]
async fn lag_falls_while_a_table_is_locked_and_rises_when_it_is_free() -> Result<()> {
    let (stage, daemon) = following("lag").await?;
    daemon.check_becomes("lag", &["ok"]).await?;
    let mut other = stage.postgres().await?;
    let mut lock = other.begin().await?;
    sqlx::query("lock table things in exclusive mode").execute(&mut *lock).await?;
    let mut next = 100;
    for expected in ["degraded", "failing"] {
        until(&format!("lag to be {expected}"), PATIENCE, async || {
            stage.collection("things").insert_many(numbered(next, next + 5)).await?;
            next += 5;
            Ok((daemon.check("lag").await?.1 == expected).then_some(()))
        })
        .await
        .with_context(|| daemon.last_words())?;
    }
    daemon.check_becomes("lag", &["failing"]).await?;
    assert_eq!(daemon.get("/health").await?.0, 503);
    assert_eq!(daemon.get("/readyz").await?.0, 200, "lag takes nobody out of service");
    assert_eq!(daemon.get("/livez").await?.0, 200);
    lock.rollback().await?;
    stage.becomes_equal(&daemon, "things", Plain::Int).await?;
    daemon.check_becomes("lag", &["ok"]).await?;
    assert_eq!(daemon.get("/health").await?.0, 200);
    Ok(())
}

#[tokio::test]
async fn a_snapshot_that_is_running_is_no_complaint_and_is_told() -> Result<()> {
    let stage = Stage::new("copying").await?;
    stage.collection("things").insert_many(numbered(0, 50)).await?;
    stage.execute(THINGS).await?;
    let mut other = stage.postgres().await?;
    let mut lock = other.begin().await?;
    sqlx::query("lock table things in exclusive mode").execute(&mut *lock).await?;
    let config =
        stage.config(&mapping(&stage)).replace("postgres: { url:", "postgres: { lock_timeout: 60s, url:");
    let daemon = Daemon::start(&format!("{config}snapshot: {{ chunk_documents: 10 }}\n"))?;
    daemon.logged("snapshot started").await?;
    assert_eq!(daemon.check("snapshot").await?.1, "ok");
    let told = daemon.detail("snapshot").await?;
    assert!(told.contains("0 of 1 sources copied"), "{told}");
    assert_eq!(daemon.status().await?["sources"][0]["snapshot"]["state"], "running");
    lock.rollback().await?;
    stage.becomes_equal(&daemon, "things", Plain::Int).await?;
    until("it to be complete", PATIENCE, async || {
        Ok(daemon.detail("snapshot").await?.contains("complete").then_some(()))
    })
    .await?;
    assert_eq!(daemon.status().await?["sources"][0]["snapshot"]["state"], "done");
    Ok(())
}

const THINGS: &str = "create table things (
    source text, source_id text, document jsonb not null, primary key (source, source_id))";

#[tokio::test]
async fn a_copy_that_stands_still_falls_through_all_sessions_and_rises_with_a_chunk() -> Result<()> {
    let stage = Stage::new("stalled_copy").await?;
    stage.collection("things").insert_many(numbered(0, 50)).await?;
    stage.execute(THINGS).await?;
    let mut other = stage.postgres().await?;
    let mut lock = other.begin().await?;
    sqlx::query("lock table things in exclusive mode").execute(&mut *lock).await?;
    let config =
        stage.config(&mapping(&stage)).replace("postgres: { url:", "postgres: { lock_timeout: 500ms, url:");
    let config = format!("{config}health: {{ snapshot_degraded: 3s }}\n");
    let daemon = Daemon::start(&config)?;
    // One session after the other begins the copy, and none gets on with it.
    daemon.check_becomes("snapshot", &["degraded"]).await?;
    assert!(daemon.log().iter().filter(|line| line.contains("snapshot started")).count() > 1);
    lock.rollback().await?;
    stage.becomes_equal(&daemon, "things", Plain::Int).await?;
    daemon.check_becomes("snapshot", &["ok"]).await?;
    Ok(())
}

#[tokio::test]
async fn an_old_checkpoint_is_told_after_a_restart_and_falls_until_it_moves() -> Result<()> {
    let stage = Stage::new("old_checkpoint").await?;
    let things = stage.collection("things");
    things.insert_many(numbered(0, 20)).await?;
    let config =
        stage.config(&mapping(&stage)).replace("postgres: { url:", "postgres: { lock_timeout: 2s, url:")
            + "health: { checkpoint_degraded: 10s }\n";
    let daemon = Daemon::start(&config)?;
    stage.becomes_equal(&daemon, "things", Plain::Int).await?;
    daemon.check_becomes("checkpoint", &["ok"]).await?;
    assert!(daemon.stop().await?.success());
    stage.execute("update rowstream.checkpoint set committed_at = committed_at - interval '2 hours'").await?;
    things.insert_one(doc! { "_id": 20_i64, "n": 20 }).await?;

    // Nothing can be committed: neither what happened meanwhile nor that nothing did.
    let mut other = stage.postgres().await?;
    let mut lock = other.begin().await?;
    sqlx::query("select from rowstream.checkpoint for update").execute(&mut *lock).await?;
    let daemon = Daemon::start(&config)?;
    daemon.logged("session started").await?;
    assert_eq!(daemon.check("checkpoint").await?.1, "ok", "it has had no time to move it");
    let told = daemon.detail("checkpoint").await?;
    assert!(told.contains("2 h 0 min old"), "{told}");
    assert!(daemon.metric("rowstream_checkpoint_age_seconds").await? >= 7_200.0);
    daemon.check_becomes("checkpoint", &["degraded"]).await?;
    let told = daemon.detail("checkpoint").await?;
    assert!(told.contains("has not moved for 2 h 0 min"), "{told}");
    lock.rollback().await?;
    daemon.check_becomes("checkpoint", &["ok"]).await?;
    stage.becomes_equal(&daemon, "things", Plain::Int).await?;
    assert!(daemon.metric("rowstream_checkpoint_age_seconds").await? < 60.0);
    Ok(())
}

/// On a mongod of its own: its oplog is as long as the test.
#[tokio::test]
async fn oplog_headroom_falls_while_nothing_is_applied_and_rises_again() -> Result<()> {
    let mongod = Mongod::start().await?;
    let stage = Stage::with_mongod(&mongod, "headroom").await?;
    let things = stage.collection("things");
    things.insert_many(numbered(0, 20)).await?;
    let config =
        stage.config(&mapping(&stage)).replace("postgres: { url:", "postgres: { lock_timeout: 60s, url:");
    let daemon = Daemon::start(&format!("{config}health: {{ oplog_headroom: 1d }}\n"))?;
    stage.becomes_equal(&daemon, "things", Plain::Int).await?;
    daemon.check_becomes("oplog_headroom", &["ok"]).await?;
    let mut other = stage.postgres().await?;
    let mut lock = other.begin().await?;
    sqlx::query("lock table things in exclusive mode").execute(&mut *lock).await?;
    things.insert_one(doc! { "_id": 20_i64 }).await?;
    // A primary writes to its oplog every ten seconds, if nobody else does.
    daemon.check_becomes("oplog_headroom", &["degraded"]).await?;
    let told = daemon.detail("oplog_headroom").await?;
    assert!(told.contains("of a window of"), "{told}");
    assert!(
        daemon.metric("rowstream_oplog_headroom_seconds").await?
            < daemon.metric("rowstream_oplog_window_seconds").await?
    );
    lock.rollback().await?;
    daemon.check_becomes("oplog_headroom", &["ok"]).await?;
    stage.becomes_equal(&daemon, "things", Plain::Int).await?;
    Ok(())
}

/// Breaks the table under a running daemon, writes a document, and mends the table.
async fn halts_until_mended(name: &str, breaking: &str, told: &[&str], mending: &str) -> Result<()> {
    let (stage, mut daemon) = following(name).await?;
    stage.execute(breaking).await?;
    stage.collection("things").insert_one(doc! { "_id": 77_i64, "n": 1 }).await?;
    let line = daemon.logged("halted").await?;
    for words in told {
        assert!(line.contains(words), "{words:?} is not in {line}");
    }
    daemon.check_becomes("leader", &["failing"]).await?;
    assert_eq!(daemon.get("/health").await?.0, 503);
    assert_eq!(daemon.get("/readyz").await?.0, 503);
    assert_eq!(daemon.get("/livez").await?.0, 200, "a restart would mend nothing");
    assert!(daemon.is_running());
    stage.collection("things").update_one(doc! { "_id": 1_i64 }, doc! { "$set": { "n": 2 } }).await?;

    stage.execute(mending).await?;
    stage.becomes_equal(&daemon, "things", Plain::Int).await?;
    daemon.check_becomes("leader", &["ok"]).await?;
    assert_eq!(daemon.get("/readyz").await?.0, 200);
    assert_eq!(stage.number("select count(*) from rowstream.held").await?, 0, "it was nobody's document");
    assert!(daemon.stop().await?.success());
    Ok(())
}

#[tokio::test]
async fn a_table_that_is_renamed_away_halts_until_it_is_back() -> Result<()> {
    let stage = "alter table things rename to aside; create view things as select 1 as one";
    let back = "drop view things; alter table aside rename to things";
    halts_until_mended("renamed_table", stage, &["public.things"], back).await
}

#[tokio::test]
async fn a_column_that_is_renamed_halts_until_it_has_its_name_again() -> Result<()> {
    halts_until_mended(
        "renamed_column",
        "alter table things rename column document to doc",
        &["public.things", "document"],
        "alter table things rename column doc to document",
    )
    .await
}

#[tokio::test]
async fn a_unique_key_that_is_dropped_halts_until_there_is_one() -> Result<()> {
    halts_until_mended(
        "dropped_key",
        "alter table things drop constraint things_pkey",
        &["public.things", "unique"],
        "alter table things add primary key (source, source_id)",
    )
    .await
}

const MINE: &str =
    "create table mine (source text, source_id text, n bigint, primary key (source, source_id))";

/// A table of the operator's own, with ten rows.
async fn following_own(name: &str) -> Result<(Stage, Daemon)> {
    let stage = Stage::new(name).await?;
    stage.execute(MINE).await?;
    stage.collection("things").insert_many(numbered(0, 10)).await?;
    let mapping = format!(
        "  - {{ source: things, collection: {}.things, table: mine, id_type: int, columns: {{ n: n }} }}\n",
        stage.name
    );
    let daemon = Daemon::start(&stage.config(&mapping))?;
    rows_become(&stage, &daemon, 10).await?;
    Ok((stage, daemon))
}

async fn rows_become(stage: &Stage, daemon: &Daemon, rows: i64) -> Result<()> {
    let there = until("the rows", PATIENCE, async || {
        Ok((stage.number("select count(n) from mine").await.ok() == Some(rows)).then_some(()))
    });
    there.await.with_context(|| daemon.last_words())
}

/// A table of the operator's own, which nobody but the operator can bring back.
#[tokio::test]
async fn a_table_that_is_dropped_halts_and_goes_on_when_it_is_back() -> Result<()> {
    let (stage, daemon) = following_own("dropped_table").await?;
    let things = stage.collection("things");
    stage.execute("drop table mine").await?;
    things.insert_many(numbered(10, 15)).await?;
    let line = daemon.logged("halted").await?;
    assert!(line.contains("table public.mine: the table does not exist"), "{line}");
    assert!(line.contains("create it"), "a hint: {line}");
    daemon.check_becomes("leader", &["failing"]).await?;
    stage.execute(MINE).await?;
    // It is another table: what was in the old one is copied again.
    rows_become(&stage, &daemon, 15).await?;
    daemon.check_becomes("leader", &["ok"]).await?;
    Ok(())
}

/// Every look at the table halts it anew; to those who ask it is one and the same halt.
#[tokio::test]
async fn a_halt_keeps_its_beginning_until_it_is_over() -> Result<()> {
    let (stage, daemon) = following_own("dropped_column").await?;
    let things = stage.collection("things");
    daemon.check_becomes("leader", &["ok"]).await?;
    let mut last = daemon.since("leader").await?;
    for _ in 0..2 {
        stage.execute("alter table mine drop column n").await?;
        things.insert_one(doc! { "_id": things.count_documents(doc! {}).await? as i64, "n": 1 }).await?;
        daemon.check_becomes("leader", &["failing"]).await?;
        let since = daemon.since("leader").await?;
        assert!(since > last, "{since} is not after {last}");
        // Some looks later.
        let epochs = "select epoch from rowstream.lease";
        let epoch = stage.number(epochs).await?;
        until("two more looks", PATIENCE, async || {
            let state = (daemon.check("leader").await?.1, daemon.since("leader").await?);
            assert_eq!(state, ("failing".to_owned(), since.clone()));
            Ok((stage.number(epochs).await? >= epoch + 2).then_some(()))
        })
        .await?;
        assert_eq!(daemon.status().await?["role"], "halted");
        stage.execute("alter table mine add column n bigint").await?;
        rows_become(&stage, &daemon, 1).await?;
        daemon.check_becomes("leader", &["ok"]).await?;
        last = daemon.since("leader").await?;
        assert!(last > since, "{last} is not after {since}");
        assert!(daemon.status().await?["halt"].is_null());
    }
    let told: Vec<String> =
        daemon.log().into_iter().filter(|line| line.contains("\"message\":\"halted\"")).collect();
    assert_eq!(told.len(), 2, "once each: {told:#?}");
    Ok(())
}

#[tokio::test]
async fn a_privilege_that_is_taken_away_halts_until_it_is_given_back() -> Result<()> {
    let stage = Stage::new("privilege").await?;
    let role = &stage.name;
    stage
        .execute(&format!(
            "create role {role} login;
             create table things (source text, source_id text, document jsonb not null, primary key (source, source_id));
             grant select, insert, update, delete on things to {role};
             grant create on database {role} to {role};"
        ))
        .await?;
    let url = stage.postgres_url.replace("postgres://postgres@", &format!("postgres://{role}@"));
    let config = crate::daemon::config(&stage.mongodb_uri, &url, &mapping(&stage));
    let things = stage.collection("things");
    things.insert_many(numbered(0, 10)).await?;
    let daemon = Daemon::start(&config)?;
    stage.becomes_equal(&daemon, "things", Plain::Int).await?;
    stage.execute(&format!("revoke update on things from {role}")).await?;
    things.update_one(doc! { "_id": 1_i64 }, doc! { "$set": { "n": 5 } }).await?;
    let line = daemon.logged("halted").await?;
    assert!(line.contains("things") && line.to_lowercase().contains("update"), "{line}");
    daemon.check_becomes("leader", &["failing"]).await?;
    stage.execute(&format!("grant update on things to {role}")).await?;
    stage.becomes_equal(&daemon, "things", Plain::Int).await?;
    daemon.check_becomes("leader", &["ok"]).await?;
    Ok(())
}
