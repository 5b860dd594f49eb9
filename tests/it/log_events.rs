//! What alerts are built on: every failure is one event with a name that does not change.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bson::doc;
use serde_json::Value;

use crate::daemon::Daemon;
use crate::stage::{Stage, numbered};

const OPERATIONS: &str = include_str!("../../docs/OPERATIONS.md");

fn files(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        match path.is_dir() {
            true => files(&path, found)?,
            false => found.push(path),
        }
    }
    Ok(())
}

/// What stands in the parentheses of each call of the macro.
fn calls<'t>(text: &'t str, name: &str) -> Vec<&'t str> {
    let starts = text.match_indices(name).map(|(place, _)| &text[place + name.len()..]);
    starts.map(|call| call.split_once(");").map_or(call, |(call, _)| call)).collect()
}

fn constant<'t>(call: &'t str, field: &str) -> Option<&'t str> {
    call.split_once(&format!("{field} = \""))?.1.split_once('"').map(|(value, _)| value)
}

#[test]
fn every_warning_and_error_has_an_event_and_a_severity_and_every_event_is_documented() -> Result<()> {
    let mut paths = Vec::new();
    files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut paths)?;
    let (mut seen, mut wrong) = (0, Vec::new());
    for path in paths.iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs")) {
        let text = fs::read_to_string(path)?;
        for call in calls(&text, "tracing::warn!(").into_iter().chain(calls(&text, "tracing::error!(")) {
            seen += 1;
            let event = constant(call, "event");
            if event.is_none() || !call.contains("severity") {
                wrong.push(format!("{}: {call}", path.display()));
            }
            if let Some(event) = event.filter(|event| !OPERATIONS.contains(&format!("`{event}`"))) {
                wrong.push(format!("{event} is not in docs/OPERATIONS.md"));
            }
        }
    }
    assert!(seen > 10, "the calls are found: {seen}");
    assert!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

/// The first line of this event, whole.
async fn event(daemon: &Daemon, name: &str) -> Result<Value> {
    let line = daemon.logged(&format!("\"event\":\"{name}\"")).await?;
    serde_json::from_str(&line).with_context(|| format!("not a line of JSON: {line}"))
}

#[tokio::test]
async fn json_logs_tell_what_is_held_what_falls_and_what_halts() -> Result<()> {
    let stage = Stage::new("log_events").await?;
    stage
        .execute(
            "create table things (source text, source_id text, n integer, primary key (source, source_id))",
        )
        .await?;
    let things = stage.collection("things");
    things.insert_many(numbered(0, 3)).await?;
    things.insert_one(doc! { "_id": 9_i64, "n": "hunter2" }).await?;
    let config = stage.config(&format!(
        "  - {{ source: things, collection: {}.things, table: things, id_type: int, columns: {{ n: n }} }}\n",
        stage.name
    ));
    let daemon = Daemon::start(&config)?;

    let held = event(&daemon, "held").await?;
    assert_eq!(
        (&held["severity"], &held["level"], &held["count"]),
        (&"error".into(), &"WARN".into(), &1.into())
    );
    assert_eq!((&held["source"], &held["table"]), (&"things".into(), &"public.things".into()));
    assert_eq!((&held["reason"], &held["column"]), (&"wrong_type".into(), &"n".into()));
    assert_eq!(held["message"], "changes held");
    let fell = event(&daemon, "health_fell").await?;
    assert_eq!((&fell["severity"], &fell["check"]), (&"warning".into(), &"held_changes".into()), "{fell}");

    stage.execute("alter table things rename column n to m").await?;
    things.insert_one(doc! { "_id": 10_i64, "n": 1 }).await?;
    let halted = event(&daemon, "halted").await?;
    assert_eq!((&halted["severity"], &halted["level"]), (&"critical".into(), &"ERROR".into()));
    assert!(halted["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "{halted}");
    assert!(daemon.log().iter().all(|line| !line.contains("hunter2")));
    Ok(())
}
