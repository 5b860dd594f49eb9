//! Documents that cannot be written are held with their reason. They stop nobody, they say nothing of their
//! values, and they heal by themselves once their reason is gone.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use bson::raw::RawDocumentBuf;
use bson::{Bson, DateTime, Document, doc};
use sqlx::Row;

use crate::daemon::{Daemon, PATIENCE};
use crate::stage::{Stage, becomes};
use crate::support::until;

/// In every bad value: whatever of a document gets out, this does.
const SECRET: &str = "hunter2";

const TABLE: &str = "create table notes (
    source text, source_id text, at timestamptz not null, amount integer check (amount >= 0),
    title varchar(10), code text, body text, content jsonb,
    primary key (source, source_id), constraint notes_code unique (code))";

async fn stage(name: &str, more: &str) -> Result<(Stage, String)> {
    let stage = Stage::new(name).await?;
    stage.execute(TABLE).await?;
    let config = stage.config(&format!(
        "  - source: notes
    collection: {}.notes
    table: notes
    id_type: string
    allow_empty: true{more}
    columns:
      at: {{ from: at, required: true }}
      amount: amount
      title: title
      code: code
      body: body
      content: {{ from: $document, without: [_id, body] }}\n",
        stage.name
    ));
    Ok((stage, config))
}

fn good(id: &str) -> Document {
    doc! { "_id": id, "at": DateTime::from_millis(1_700_000_000_000), "amount": 1, "body": "good" }
}

fn with(id: &str, field: &str, value: impl Into<Bson>) -> Document {
    let mut document = good(id);
    document.insert(field, value);
    document
}

/// Each with the reason and the column under which it must be held.
fn bad(prefix: &str) -> Vec<(Document, &'static str, Option<&'static str>)> {
    let id = |kind: &str| format!("{prefix} {kind}");
    let far = DateTime::from_millis(i64::MAX);
    vec![
        (with(&id("nul in text"), "body", format!("{SECRET}\0")), "nul_character", Some("body")),
        (with(&id("nul in jsonb"), "other", format!("{SECRET}\0")), "nul_character", Some("content")),
        (doc! { "_id": id("no date"), "body": SECRET }, "missing_required", Some("at")),
        (with(&id("null date"), "at", Bson::Null), "missing_required", Some("at")),
        (with(&id("date as text"), "at", format!("2024-01-01 {SECRET}")), "wrong_type", Some("at")),
        (with(&id("date too late"), "at", far), "out_of_range", Some("at")),
        (with(&id("number too large"), "amount", 1_i64 << 40), "out_of_range", Some("amount")),
        (with(&id("number with a fraction"), "amount", 1.5), "not_exact", Some("amount")),
        (with(&id("not a number"), "amount", SECRET), "wrong_type", Some("amount")),
        (with(&id("too long"), "title", format!("{SECRET} too long")), "too_long", Some("title")),
        (with(&id("a document as text"), "title", doc! { "is": SECRET }), "wrong_type", Some("title")),
        (with(&id("check"), "amount", -1), "constraint", None),
        (with(&id("taken"), "code", format!("{SECRET} taken")), "unique_violation", None),
    ]
}

/// Has what `taken` wants, and comes first in the order of keys.
fn occupant() -> Document {
    with("0 occupant", "code", format!("{SECRET} taken"))
}

/// Text that is not UTF-8, as old drivers stored it: inserted byte by byte.
async fn insert_invalid_utf8(stage: &Stage, id: &str) -> Result<()> {
    let document = with(id, "body", format!("{SECRET} ????"));
    let command = doc! {
        "insert": "notes", "documents": [document], "writeConcern": { "w": "majority" },
    };
    let mut bytes = command.to_vec()?;
    let place = bytes.windows(4).position(|four| four == b"????").context("the marker")?;
    bytes[place..place + 4].copy_from_slice(&[0xff, 0xfe, 0xc3, 0x28]);
    let reply = stage.database.run_raw_command(RawDocumentBuf::from_bytes(bytes)?).await?;
    anyhow::ensure!(reply.get_i32("n")? == 1, "{reply}");
    Ok(())
}

#[derive(Debug, PartialEq)]
struct Held {
    state: String,
    reason: String,
    column: Option<String>,
    attempts: i32,
}

async fn held(stage: &Stage) -> Result<BTreeMap<String, Held>> {
    let mut session = stage.session().await?;
    let rows =
        sqlx::query("select source_id, state, reason, column_name, attempts from rowstream.held order by 1")
            .fetch_all(&mut *session)
            .await?;
    let entry = |row: &sqlx::postgres::PgRow| {
        (row.get(0), Held { state: row.get(1), reason: row.get(2), column: row.get(3), attempts: row.get(4) })
    };
    Ok(rows.iter().map(entry).collect())
}

const OPEN: &str = "select count(*) from rowstream.held where state <> 'resolved'";

#[tokio::test]
async fn bad_documents_are_held_with_their_reason_while_all_others_are_written() -> Result<()> {
    let (stage, config) = stage("held", "").await?;
    // Every level, to see that no value is in any of them.
    let config = config.replace("log: { format: json }", "log: { format: json, level: debug }");
    let notes = stage.collection("notes");
    let copied = bad("copied");
    notes.insert_one(occupant()).await?;
    insert_invalid_utf8(&stage, "copied not utf8").await?;
    for (place, (document, ..)) in copied.iter().enumerate() {
        notes.insert_many([document.clone(), good(&format!("good {place}"))]).await?;
    }
    let daemon = Daemon::start(&config)?;
    becomes(&stage, &daemon, "select count(*) from notes", 1 + copied.len() as i64).await?;
    becomes(&stage, &daemon, OPEN, 1 + copied.len() as i64).await?;

    let followed = bad("followed");
    insert_invalid_utf8(&stage, "followed not utf8").await?;
    let documents: Vec<Document> = followed.iter().map(|(document, ..)| document.clone()).collect();
    notes.insert_many(&documents).await?;
    notes.insert_many((0..50).map(|number| good(&format!("better {number}")))).await?;
    becomes(&stage, &daemon, "select count(*) from notes where source_id like 'better%'", 50).await?;

    let found = held(&stage).await?;
    assert_eq!(found.len(), 2 * (1 + copied.len()));
    for (document, reason, column) in copied.iter().chain(&followed) {
        let id = document.get_str("_id")?;
        let held = found.get(id).with_context(|| format!("{id} is not held"))?;
        assert_eq!((held.state.as_str(), held.reason.as_str()), ("failed", *reason), "{id}");
        assert_eq!(held.column.as_deref(), *column, "{id}");
    }
    for id in ["copied not utf8", "followed not utf8"] {
        assert_eq!((found[id].reason.as_str(), found[id].column.as_deref()), ("invalid_utf8", Some("body")));
    }
    assert_eq!(
        stage
            .number("select count(*) from notes where source_id like 'copied%' or source_id like 'followed%'")
            .await?,
        0,
        "no bad document has a row"
    );

    // A health check, a page, a figure for it; and nowhere a value.
    daemon.check_becomes("held_changes", &["degraded"]).await?;
    until("the metric to count them", PATIENCE, async || {
        let counted = daemon.metric("rowstream_held_changes").await?;
        Ok((counted >= found.len() as f64).then_some(()))
    })
    .await?;
    for path in ["/", "/health", "/livez", "/readyz", "/status", "/metrics"] {
        let (code, body) = daemon.get(path).await?;
        assert_eq!(code, 200, "{path}");
        assert!(!body.contains(SECRET), "a value is in {path}: {body}");
    }
    let log = daemon.log();
    assert!(log.iter().any(|line| line.contains("changes held")), "{}", daemon.last_words());
    let leak = log.iter().find(|line| line.contains(SECRET));
    assert_eq!(leak, None, "a value is in the log");
    let leaks = format!("select count(*) from rowstream.held where message like '%{SECRET}%'");
    assert_eq!(stage.number(&leaks).await?, 0, "a value is in a message");
    assert!(daemon.stop().await?.success());
    Ok(())
}

#[tokio::test]
async fn what_is_held_heals_when_it_is_repaired_deleted_or_free_to_go() -> Result<()> {
    let (stage, config) = stage("healed", "").await?;
    let notes = stage.collection("notes");
    notes.insert_one(occupant()).await?;
    let documents = bad("a");
    notes.insert_many(documents.iter().map(|(document, ..)| document)).await?;
    insert_invalid_utf8(&stage, "a not utf8").await?;
    let count = documents.len() as i64;
    let daemon = Daemon::start(&config)?;
    becomes(&stage, &daemon, OPEN, count + 1).await?;
    daemon.check_becomes("held_changes", &["degraded"]).await?;

    // Nobody repairs anything: tried again and again, later and later.
    let attempts = "select min(attempts) from rowstream.held";
    until(
        "three attempts at each",
        PATIENCE,
        async || Ok((stage.number(attempts).await? >= 3).then_some(())),
    )
    .await
    .with_context(|| daemon.last_words())?;
    let pause = "select max(extract(epoch from next_attempt_at - last_attempt_at) * 1000)::bigint from rowstream.held";
    assert_eq!(stage.number(pause).await?, 2_000, "retry_initial 500 ms, doubled up to retry_max");
    assert_eq!(stage.number("select count(*) from notes").await?, 1);

    // One is deleted, one byte by byte repaired, one waits for another document, the rest are replaced.
    notes.delete_one(doc! { "_id": "a no date" }).await?;
    notes.update_one(doc! { "_id": "a not utf8" }, doc! { "$set": { "body": "good" } }).await?;
    notes.update_one(doc! { "_id": "0 occupant" }, doc! { "$unset": { "code": "" } }).await?;
    for (document, ..) in &documents {
        let id = document.get_str("_id")?;
        if !id.ends_with("no date") && !id.ends_with("taken") {
            notes.replace_one(doc! { "_id": id }, good(id)).await?;
        }
    }
    becomes(&stage, &daemon, OPEN, 0).await?;
    assert_eq!(stage.number("select count(*) from notes").await?, 1 + count);
    assert_eq!(stage.number("select count(*) from notes where source_id = 'a no date'").await?, 0);
    assert_eq!(
        stage.text("select code from notes where source_id = 'a taken'").await?,
        Some(format!("{SECRET} taken")),
        "what another document had is free, and nobody wrote this one again"
    );
    assert_eq!(stage.number("select count(*) from notes where body = 'good'").await?, 1 + count);
    let resolved = held(&stage).await?;
    assert!(resolved.values().all(|held| held.state == "resolved" && held.attempts >= 3), "{resolved:?}");
    assert_eq!(stage.number("select count(*) from rowstream.held where document is not null").await?, 0);
    daemon.check_becomes("held_changes", &["ok"]).await?;
    Ok(())
}

#[tokio::test]
async fn a_row_keeps_its_last_good_state_until_its_document_is_good_again() -> Result<()> {
    let (stage, config) = stage("last_good", "").await?;
    let notes = stage.collection("notes");
    notes.insert_many([good("updated"), good("replaced"), good("deleted")]).await?;
    let daemon = Daemon::start(&config)?;
    becomes(&stage, &daemon, "select count(*) from notes where amount = 1", 3).await?;

    notes.update_one(doc! { "_id": "updated" }, doc! { "$set": { "amount": -5, "body": "x" } }).await?;
    notes.replace_one(doc! { "_id": "replaced" }, doc! { "_id": "replaced", "body": "x" }).await?;
    notes.update_one(doc! { "_id": "deleted" }, doc! { "$set": { "at": "soon", "body": "x" } }).await?;
    becomes(&stage, &daemon, OPEN, 3).await?;
    assert_eq!(stage.number("select count(*) from notes where amount = 1 and body = 'good'").await?, 3);

    notes.update_one(doc! { "_id": "updated" }, doc! { "$set": { "amount": 2 } }).await?;
    notes.replace_one(doc! { "_id": "replaced" }, with("replaced", "amount", 3)).await?;
    notes.delete_one(doc! { "_id": "deleted" }).await?;
    becomes(&stage, &daemon, OPEN, 0).await?;
    let rows =
        "select string_agg(concat_ws(' ', source_id, amount, body), ', ' order by source_id) from notes";
    assert_eq!(stage.text(rows).await?.as_deref(), Some("replaced 3 good, updated 2 x"));

    // Bad once more: the same entry begins anew.
    notes.update_one(doc! { "_id": "updated" }, doc! { "$set": { "amount": -7 } }).await?;
    becomes(&stage, &daemon, OPEN, 1).await?;
    assert_eq!(stage.text(rows).await?.as_deref(), Some("replaced 3 good, updated 2 x"));
    Ok(())
}

#[tokio::test]
async fn where_deletes_keep_rows_a_held_document_that_is_deleted_is_resolved_all_the_same() -> Result<()> {
    let (stage, config) = stage("held_keep", "\n    deletes: keep").await?;
    let notes = stage.collection("notes");
    notes.insert_many([good("kept"), with("bad", "amount", -1)]).await?;
    let daemon = Daemon::start(&config)?;
    becomes(&stage, &daemon, "select count(*) from notes", 1).await?;
    notes.update_one(doc! { "_id": "kept" }, doc! { "$set": { "amount": -1 } }).await?;
    becomes(&stage, &daemon, OPEN, 2).await?;
    notes.delete_many(doc! {}).await?;
    becomes(&stage, &daemon, OPEN, 0).await?;
    let rows = "select string_agg(concat_ws(' ', source_id, amount), ', ') from notes";
    assert_eq!(stage.text(rows).await?.as_deref(), Some("kept 1"));
    Ok(())
}

#[tokio::test]
async fn a_critical_mapping_halts_instead_and_goes_on_when_the_document_is_repaired() -> Result<()> {
    let (stage, config) = stage("critical", "\n    critical: true").await?;
    let notes = stage.collection("notes");
    notes.insert_one(good("first")).await?;
    let mut daemon = Daemon::start(&config)?;
    becomes(&stage, &daemon, "select count(*) from notes", 1).await?;

    notes.insert_many([good("second"), with("bad", "body", format!("{SECRET}\0")), good("third")]).await?;
    let line = daemon.logged("halted").await?;
    assert!(line.contains("notes is critical") && line.contains("bad"), "{line}");
    daemon.check_becomes("leader", &["failing"]).await?;
    assert_eq!(daemon.get("/health").await?.0, 503);
    assert_eq!(daemon.get("/readyz").await?.0, 503);
    assert_eq!(daemon.get("/livez").await?.0, 200);
    assert_eq!(stage.number("select count(*) from rowstream.held").await?, 0);
    assert_eq!(stage.number("select count(*) from notes").await?, 1, "the batch of a halt is not written");
    assert!(daemon.is_running());

    notes.update_one(doc! { "_id": "bad" }, doc! { "$set": { "body": "good" } }).await?;
    becomes(&stage, &daemon, "select count(*) from notes", 4).await?;
    daemon.check_becomes("leader", &["ok"]).await?;
    assert!(daemon.log().iter().all(|line| !line.contains(SECRET)));
    Ok(())
}

/// Raised by the user's functions with codes of all kinds, and by the server itself without a word of where.
#[tokio::test]
async fn a_row_at_which_a_function_of_the_table_fails_is_held_alone() -> Result<()> {
    let (stage, config) = stage("functions", "").await?;
    stage
        .execute(
            r#"create function judge() returns trigger language plpgsql as $$
               begin
                   if new.body like 'raise %' then
                       raise exception 'hunter2: %', new.body using errcode = substr(new.body, 7, 5);
                   end if;
                   return new;
               end $$;
               create trigger judge before insert or update on notes for each row execute function judge();
               alter table notes add check (body not like 'internal%' or acldefault(code::"char", 10) is null)"#,
        )
        .await?;
    let codes = ["P0001", "XX000", "MY001", "55000", "28000"];
    let bad = |prefix: &str| -> Vec<Document> {
        let mut documents: Vec<Document> = codes
            .iter()
            .map(|code| with(&format!("{prefix} {code}"), "body", format!("raise {code}")))
            .collect();
        let mut internal = with(&format!("{prefix} internal"), "body", format!("internal {prefix}"));
        internal.insert("code", if prefix == "copied" { "x" } else { "y" });
        documents.push(internal);
        documents
    };
    let notes = stage.collection("notes");
    let good = |prefix: &str| (0..100).map(|number| good(&format!("{prefix} {number}"))).collect::<Vec<_>>();
    notes.insert_many(bad("copied").into_iter().chain(good("one"))).await?;
    let daemon = Daemon::start(&config)?;
    let (count, each) = ("select count(*) from notes", codes.len() as i64 + 1);
    becomes(&stage, &daemon, count, 100).await?;
    becomes(&stage, &daemon, OPEN, each).await?;
    notes.insert_many(good("two").into_iter().chain(bad("followed")).chain(good("three"))).await?;
    becomes(&stage, &daemon, count, 300).await?;
    becomes(&stage, &daemon, OPEN, 2 * each).await?;
    let held = held(&stage).await?;
    assert!(held.values().all(|held| held.reason == "rejected_by_target"), "{held:?}");
    assert!(daemon.log().iter().all(|line| !line.contains(SECRET) && !line.contains("halted")));

    stage.execute("drop trigger judge on notes; alter table notes drop constraint notes_check").await?;
    becomes(&stage, &daemon, OPEN, 0).await?;
    becomes(&stage, &daemon, count, 300 + 2 * each).await
}
