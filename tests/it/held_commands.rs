//! What operators do with held changes, on the command line and over HTTP.

use anyhow::{Context, Result};
use bson::{DateTime, Document, doc};
use serde_json::{Value, json};

use crate::daemon::{Daemon, command};
use crate::stage::{Stage, becomes};

/// In every bad value: it may get out where values are asked for, and nowhere else.
const SECRET: &str = "hunter2";

const TABLE: &str = "create table notes (
    source text, source_id text, at timestamptz not null, amount integer, title varchar(10), owner text,
    primary key (source, source_id), constraint positive check (amount >= 0));
    create table people (source text, source_id text, name text, primary key (source, source_id), unique (name))";

/// Held changes are tried again by themselves only after an hour.
async fn stage(name: &str) -> Result<(Stage, String)> {
    let stage = Stage::new(name).await?;
    stage.execute(TABLE).await?;
    let config = stage.config(&format!(
        "  - source: people
    collection: {0}.people
    table: people
    id_type: string
    allow_empty: true
    columns: {{ name: name }}
  - source: notes
    collection: {0}.notes
    table: notes
    id_type: string
    allow_empty: true
    columns:
      at: {{ from: at, required: true }}
      amount: amount
      title: title
      owner: {{ ref: {{ to: people, from: owner, take: name }} }}\n",
        stage.name
    ));
    Ok((stage, config.replace("retry_initial: 500ms, retry_max: 2s", "retry_initial: 1h, retry_max: 2h")))
}

fn good(id: &str) -> Document {
    doc! { "_id": id, "at": DateTime::from_millis(1_700_000_000_000), "amount": 1 }
}

fn bad() -> Vec<Document> {
    let mut negative = good("negative");
    negative.insert("amount", -5);
    let mut long = good("a long title");
    long.insert("title", format!("{SECRET} and more"));
    let mut other = good("escape \u{1b}[31m");
    other.insert("title", format!("{SECRET} and more"));
    let mut orphan = good("orphan");
    orphan.insert("owner", "nobody yet");
    vec![negative, long, other, orphan]
}

const OPEN: &str = "select count(*) from rowstream.held where state <> 'resolved'";

/// Four held changes, and a daemon that holds them.
async fn holding(name: &str) -> Result<(Stage, String, Daemon)> {
    let (stage, config) = stage(name).await?;
    stage.collection("notes").insert_one(good("good")).await?;
    stage.collection("notes").insert_many(bad()).await?;
    let daemon = Daemon::start(&config)?;
    becomes(&stage, &daemon, OPEN, 4).await?;
    becomes(&stage, &daemon, "select count(*) from notes", 1).await?;
    Ok((stage, config, daemon))
}

/// Exit code, what it says, what it complains of.
fn ask(arguments: &[&str], config: &str) -> Result<(i32, String, String)> {
    let output = command(arguments, config)?;
    let code = output.status.code().context("ended by a signal")?;
    Ok((code, String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?))
}

/// Times differ from run to run, and how often the one that waits was tried.
fn timeless(text: &str) -> String {
    let mut timeless = String::new();
    let mut rest = text;
    while let Some(place) = rest.find("20").filter(|_| rest.len() >= 24) {
        let (before, from) = rest.split_at(place);
        timeless.push_str(before);
        let is_time = from.len() >= 24 && from.as_bytes()[10] == b'T' && from.as_bytes()[23] == b'Z';
        let (taken, shown) = if is_time { (24, "<time>") } else { (2, "20") };
        timeless.push_str(shown);
        rest = &from[taken..];
    }
    timeless.push_str(rest);
    for (twice, once) in [
        ("tried up to 2 times", "tried once"),
        ("(2 so far)", "(1 so far)"),
        ("  2      <time>", "  1      <time>"),
    ] {
        timeless = timeless.replace(twice, once);
    }
    timeless
}

fn ids(answer: &Value) -> Vec<String> {
    let held = answer["held"].as_array().into_iter().flatten();
    held.filter_map(|entry| entry["source_id"].as_str().map(str::to_owned)).collect()
}

#[tokio::test]
async fn people_read_what_is_held_and_why_and_values_only_where_they_ask_for_them() -> Result<()> {
    let (_stage, config, daemon) = holding("held_told").await?;
    let held = |arguments: &[&str]| ask(&[&["held"], arguments].concat(), &config);

    let (code, list, complaint) = held(&["list"])?;
    assert_eq!((code, complaint.as_str()), (0, ""));
    insta::assert_snapshot!("held_list", timeless(&list));
    let (_, summary, _) = held(&["summary"])?;
    insta::assert_snapshot!("held_summary", timeless(&summary));
    let (code, shown, _) = held(&["show", "notes", "orphan"])?;
    assert_eq!(code, 0);
    insta::assert_snapshot!("held_show", timeless(&shown));
    let (code, json, _) = held(&["show", "notes", "orphan", "--output", "json"])?;
    let json: Value = serde_json::from_str(&json)?;
    assert_eq!((code, &json["waits"][0]["source_id"]), (0, &"nobody yet".into()), "{json}");
    assert_eq!((&json["state"], &json["reason"]), (&"waiting".into(), &"unresolved_reference".into()));

    for (arguments, expected) in [
        (&["--reason", "too_long"][..], &["a long title", "escape \u{1b}[31m"][..]),
        (&["--column", "title", "--source", "notes", "--id", "a long title"], &["a long title"]),
        (&["--table", "notes", "--state", "waiting"], &["orphan"]),
        (&["--table", "public.notes", "--state", "failed", "--reason", "constraint"], &["negative"]),
        (&["--table", "people"], &[]),
        (&["--state", "resolved"], &[]),
    ] {
        let (code, json, _) = held(&[&["list", "--output", "json"], arguments].concat())?;
        assert_eq!(
            (code, ids(&serde_json::from_str(&json)?)),
            (0, expected.iter().map(|id| (*id).to_owned()).collect())
        );
    }
    let (code, _, complaint) = held(&["list", "--reason", "because"])?;
    assert!(code == 2 && complaint.contains("missing_required"), "{complaint}");
    let (code, _, complaint) = held(&["show", "notes", "good"])?;
    assert_eq!((code, complaint.as_str()), (1, "rowstream: nothing is held for good of notes\n"));

    // Values: in the export and where they are asked for.
    let (_, all, _) = held(&["list", "--output", "json"])?;
    assert!(![&list, &summary, &shown, &all].iter().any(|text| text.contains(SECRET)));
    let (_, text, _) = held(&["show", "notes", "a long title"])?;
    assert!(!text.contains(SECRET), "{text}");
    let (_, text, _) = held(&["show", "notes", "a long title", "--show-values"])?;
    assert!(text.contains(SECRET), "{text}");
    let (code, lines, _) = held(&["export", "--source", "notes"])?;
    let lines: Vec<Value> = lines.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    assert_eq!((code, lines.len()), (0, 4));
    assert_eq!(lines[0]["document"]["title"], format!("{SECRET} and more"));
    assert_eq!(lines[0]["document"]["amount"], json!({ "$numberInt": "1" }));
    let folder = tempfile::TempDir::new()?;
    let file = folder.path().join("held.jsonl");
    let path = file.to_str().context("a path in UTF-8")?;
    let (_, said, _) = held(&["export", "--state", "waiting", "--file", path])?;
    assert_eq!(said, format!("1 written to {path}\n"));
    assert_eq!(std::fs::read_to_string(&file)?.lines().count(), 1);
    drop(daemon);
    Ok(())
}

#[tokio::test]
async fn http_tells_what_is_held_page_by_page_without_a_value() -> Result<()> {
    let (_stage, _config, daemon) = holding("held_http").await?;
    let mut path = "/held?limit=3".to_owned();
    let mut found = Vec::new();
    let mut pages = 0;
    loop {
        let (code, body) = daemon.get(&path).await?;
        assert_eq!(code, 200, "{body}");
        assert!(!body.contains(SECRET), "{body}");
        let page: Value = serde_json::from_str(&body)?;
        assert_eq!(page["total"], 4);
        found.extend(ids(&page));
        pages += 1;
        match page["next"].as_str() {
            Some(next) => path = next.to_owned(),
            None => break,
        }
    }
    assert_eq!((pages, found.len()), (2, 4), "{found:?}");
    let (_, body) = daemon.get("/held?source=notes&id=escape%20%1B%5B31m").await?;
    assert_eq!(ids(&serde_json::from_str(&body)?), ["escape \u{1b}[31m"]);
    let (code, body) = daemon.get("/held/summary?table=notes").await?;
    let summary: Value = serde_json::from_str(&body)?;
    assert_eq!((code, summary["groups"].as_array().map(Vec::len)), (200, Some(3)), "{body}");
    assert_eq!(
        (&summary["groups"][0]["reason"], &summary["groups"][0]["count"]),
        (&"too_long".into(), &2.into())
    );
    assert!(summary["groups"][0]["hint"].as_str().is_some_and(|hint| hint.contains("truncate")), "{body}");
    Ok(())
}

#[tokio::test]
async fn a_retry_lets_the_daemon_read_again_now_and_says_if_none_leads() -> Result<()> {
    let (stage, config, daemon) = holding("held_retried").await?;
    stage.execute("alter table notes drop constraint positive").await?;
    let (code, text, complaint) = ask(&["held", "retry", "--reason", "constraint"], &config)?;
    assert_eq!((code, complaint.as_str()), (0, ""));
    assert_eq!(text, "1 held change is due: the daemon reads the documents again within seconds\n");
    becomes(&stage, &daemon, OPEN, 3).await?;
    becomes(&stage, &daemon, "select count(*) from notes where source_id = 'negative'", 1).await?;

    stage.execute("alter table notes alter column title type text").await?;
    let (code, answer) =
        daemon.post("/held/retry", &json!({ "source": "notes", "ids": ["a long title"] })).await?;
    assert_eq!((code, &answer["due"], &answer["led"]), (202, &1.into(), &true.into()), "{answer}");
    becomes(&stage, &daemon, "select count(*) from notes where source_id = 'a long title'", 1).await?;
    becomes(&stage, &daemon, OPEN, 2).await?;

    assert!(daemon.stop().await?.success());
    let (code, text, _) = ask(&["held", "retry"], &config)?;
    assert_eq!(code, 1);
    assert_eq!(
        text,
        "2 held changes are due, but no daemon leads now: the next `rowstream run` tries them\n"
    );
    let daemon = Daemon::start(&config)?;
    becomes(&stage, &daemon, OPEN, 1).await?;
    Ok(())
}

#[tokio::test]
async fn discarding_is_asked_for_twice_and_leaves_the_row_as_it_is() -> Result<()> {
    let (stage, config, daemon) = holding("held_discarded").await?;
    let notes = stage.collection("notes");
    notes.update_one(doc! { "_id": "good" }, doc! { "$set": { "amount": -1, "title": "new" } }).await?;
    becomes(&stage, &daemon, OPEN, 5).await?;
    let (code, _, complaint) = ask(&["held", "discard", "--yes"], &config)?;
    assert!(code == 2 && complaint.contains("--all"), "{complaint}");
    let (code, _, complaint) = ask(&["held", "discard", "--source", "notes", "--id", "good"], &config)?;
    assert!(code == 2 && complaint.contains("1 would be discarded"), "{complaint}");
    assert_eq!(stage.number(OPEN).await?, 5);

    let (code, text, _) = ask(&["held", "discard", "--source", "notes", "--id", "good", "--yes"], &config)?;
    assert!(code == 0 && text.starts_with("1 discarded. The rows keep their last good state"), "{text}");
    assert_eq!(stage.number(OPEN).await?, 4);
    assert_eq!(stage.number("select amount from notes where source_id = 'good'").await?, 1);
    let (code, answer) = daemon.post("/held/discard", &json!({ "all": true, "reason": "too_long" })).await?;
    assert_eq!((code, &answer["discarded"]), (200, &2.into()), "{answer}");
    assert_eq!(stage.number(OPEN).await?, 2);

    // What was discarded is only forgotten: a later change of the document is applied.
    notes.update_one(doc! { "_id": "good" }, doc! { "$set": { "amount": 7 } }).await?;
    becomes(&stage, &daemon, "select count(*) from notes where amount = 7 and title = 'new'", 1).await?;
    assert_eq!(stage.number(OPEN).await?, 2);
    Ok(())
}

#[tokio::test]
async fn one_document_tells_how_it_stands_since_when_and_why() -> Result<()> {
    let (stage, config, daemon) = holding("document_status").await?;
    let tell = |id: &str| ask(&["status", "notes", id], &config);
    let (code, text, _) = tell("good")?;
    assert_eq!(code, 0, "{text}");
    let mut all = timeless(text.trim_end());
    for id in ["negative", "orphan", "nobody"] {
        let (code, text, _) = tell(id)?;
        assert_eq!(code, 1, "{text}");
        all.push_str(&format!("\n\n{}", timeless(&text).trim_end()));
    }
    insta::assert_snapshot!("document_status", all.replace(&stage.name, "<database>"));
    let (code, _, complaint) = ask(&["status", "nothing", "1"], &config)?;
    assert_eq!((code, complaint.as_str()), (1, "rowstream: no source nothing has been copied yet\n"));

    let state = async |id: &str| -> Result<(u16, Value)> {
        let (code, body) = daemon.get(&format!("/status/notes/{id}")).await?;
        Ok((code, serde_json::from_str(&body)?))
    };
    for (id, expected) in
        [("good", "synced"), ("negative", "failed"), ("orphan", "pending"), ("nobody", "absent")]
    {
        let (code, answer) = state(id).await?;
        assert_eq!((code, &answer["state"]), (200, &expected.into()), "{answer}");
    }
    let (_, orphan) = state("orphan").await?;
    assert_eq!(orphan["waits"][0]["source_id"], "nobody yet", "{orphan}");
    let (_, escaped) = state("escape%20%1B%5B31m").await?;
    assert_eq!((&escaped["state"], &escaped["held"]["reason"]), (&"failed".into(), &"too_long".into()));
    assert!(!escaped.to_string().contains(SECRET), "{escaped}");
    assert_eq!(daemon.get("/status/nothing/1").await?.0, 404);

    // What it waits for comes, and it is told.
    stage.collection("people").insert_one(doc! { "_id": "nobody yet", "name": "Ann" }).await?;
    becomes(&stage, &daemon, "select count(*) from notes where owner = 'Ann'", 1).await?;
    let (_, orphan) = state("orphan").await?;
    assert_eq!(
        (&orphan["state"], &orphan["held"]["state"]),
        (&"synced".into(), &"resolved".into()),
        "{orphan}"
    );
    assert_eq!(orphan["since"], orphan["held"]["resolved_at"]);
    Ok(())
}

#[tokio::test]
async fn a_document_of_a_table_with_a_key_of_its_own_tells_whether_it_has_its_row() -> Result<()> {
    let stage = Stage::new("claimed_status").await?;
    stage.execute("create table people (email text primary key, name text)").await?;
    let people = stage.collection("people");
    people.insert_one(doc! { "_id": 1_i64, "email": "a@example.com", "name": "Ann" }).await?;
    let config = stage.config(&format!(
        "  - {{ source: people, collection: {}.people, table: people, id_type: int, key: [email],
      columns: {{ email: email, name: name }} }}\n",
        stage.name
    ));
    let daemon = Daemon::start(&config)?;
    becomes(&stage, &daemon, "select count(*) from people", 1).await?;
    people.insert_one(doc! { "_id": 2_i64, "email": "a@example.com", "name": "Bob" }).await?;
    becomes(&stage, &daemon, OPEN, 1).await?;
    let mut states = Vec::new();
    for id in ["1", "2", "3"] {
        let (_, body) = daemon.get(&format!("/status/people/{id}")).await?;
        assert!(!body.contains("example.com"), "{body}");
        let answer: Value = serde_json::from_str(&body)?;
        states.push((
            answer["state"].clone(),
            answer["row"]["exists"].clone(),
            answer["row"]["claim"]["waits_for_key"].clone(),
        ));
    }
    let expected = [
        (json!("synced"), json!(true), json!(false)),
        (json!("failed"), json!(false), json!(true)),
        (json!("absent"), json!(false), Value::Null),
    ];
    assert_eq!(states, expected);
    Ok(())
}
