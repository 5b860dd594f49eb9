//! Collections that come, go, and change their names; names that mean something elsewhere.

use anyhow::{Context, Result};
use bson::{Document, doc};

use crate::daemon::{Daemon, PATIENCE, command};
use crate::oracle::Plain;
use crate::stage::{Stage, numbered};
use crate::support::until;

async fn rename(stage: &Stage, from: &str, to: &str) -> Result<()> {
    let name = |collection: &str| format!("{}.{collection}", stage.name);
    let command = doc! { "renameCollection": name(from), "to": name(to), "dropTarget": true };
    stage.client.database("admin").run_command(command).await?;
    Ok(())
}

fn int(mapping: &str) -> String {
    mapping.replace("allow_empty", "id_type: int, allow_empty")
}

#[tokio::test]
async fn rows_follow_a_collection_that_is_dropped_renamed_and_written_over() -> Result<()> {
    let stage = Stage::new("namespaces").await?;
    let (a, b) = (stage.collection("a"), stage.collection("b"));
    a.insert_many(numbered(0, 30)).await?;
    b.insert_many(numbered(100, 120)).await?;
    let mappings = int(&(stage.whole("a") + &stage.whole("b")));
    let daemon = Daemon::start(&stage.config(&mappings))?;
    let equal = async |what: &str, rows: i64| {
        stage.becomes_equal(&daemon, "a", Plain::Int).await.with_context(|| what.to_owned())?;
        stage.becomes_equal(&daemon, "b", Plain::Int).await.with_context(|| what.to_owned())?;
        assert_eq!(stage.number("select count(*) from a").await?, rows, "{what}");
        anyhow::Ok(())
    };
    equal("at first", 30).await?;

    a.drop().await?;
    equal("dropped", 0).await?;
    a.insert_many(numbered(0, 5)).await?;
    a.drop().await?;
    a.insert_many(numbered(3, 10)).await?;
    equal("dropped and made again", 7).await?;
    rename(&stage, "a", "elsewhere").await?;
    equal("renamed away", 0).await?;
    a.insert_many(numbered(50, 60)).await?;
    rename(&stage, "elsewhere", "a").await?;
    equal("another one renamed onto it", 7).await?;
    a.update_one(doc! { "_id": 5_i64 }, doc! { "$set": { "n": "followed" } }).await?;
    equal("written to after that", 7).await?;
    b.aggregate([doc! { "$match": { "n": { "$gte": 110 } } }, doc! { "$out": "a" }]).await?;
    equal("written over by $out", 10).await?;
    b.aggregate([doc! { "$set": { "n": -1 } }, doc! { "$merge": { "into": "a" } }]).await?;
    equal("merged into by $merge", 20).await?;
    rename(&stage, "a", "b").await?;
    equal("a mapped one renamed onto a mapped one", 0).await?;
    stage.database.drop().await?;
    equal("the whole database dropped", 0).await?;
    assert_eq!(stage.number("select count(*) from b").await?, 0);
    a.insert_many(numbered(0, 3)).await?;
    b.insert_many(numbered(0, 3)).await?;
    equal("all made again", 3).await?;
    assert!(daemon.stop().await?.success());
    Ok(())
}

#[tokio::test]
async fn a_drop_halts_where_the_mapping_says_so_and_no_row_goes() -> Result<()> {
    let stage = Stage::new("drop_halts").await?;
    stage.collection("a").insert_many(numbered(0, 30)).await?;
    let mapping = int(&stage.whole("a")).replace("allow_empty", "on_drop: halt, allow_empty");
    let mut daemon = Daemon::start(&stage.config(&mapping))?;
    stage.becomes_equal(&daemon, "a", Plain::Int).await?;
    stage.collection("a").update_one(doc! { "_id": 1_i64 }, doc! { "$set": { "n": "last" } }).await?;
    stage.collection("a").drop().await?;
    let line = daemon.logged("halted").await?;
    assert!(line.contains(&format!("collection {}.a of mapping a was dropped", stage.name)), "{line}");
    assert!(line.contains("on_drop: delete"), "a hint: {line}");
    daemon.check_becomes("leader", &["failing"]).await?;
    assert!(daemon.is_running());
    assert_eq!(stage.number("select count(*) from a").await?, 30);
    assert_eq!(daemon.get("/readyz").await?.0, 503);

    // Another one of its name changes nothing: nobody compares it with the rows of the one that was dropped.
    stage.collection("a").insert_many(numbered(100, 110)).await?;
    daemon.kill9()?;
    stage.execute("update rowstream.lease set heartbeat = 'epoch'").await?;
    let daemon = Daemon::start(&stage.config(&mapping))?;
    daemon.logged("halted").await?;
    assert_eq!(stage.number("select count(*) from a").await?, 30);
    let untouched = "select count(*) from rowstream.mapping where resync_since is null";
    assert_eq!(stage.number(untouched).await?, 1);
    assert_eq!(daemon.line("history_lost"), None);
    Ok(())
}

#[tokio::test]
async fn a_dropped_collection_whose_rows_are_referred_to_halts_until_they_are_free() -> Result<()> {
    let stage = Stage::new("referred_to").await?;
    let a = stage.collection("a");
    a.insert_many(numbered(0, 30)).await?;
    let daemon = Daemon::start(&stage.config(&int(&stage.whole("a"))))?;
    stage.becomes_equal(&daemon, "a", Plain::Int).await?;
    stage
        .execute(
            "create table line (source text, a_id text, constraint line_of foreign key (source, a_id) references a);
             insert into line values ('a', '7'), ('a', '9')",
        )
        .await?;
    a.drop().await?;
    a.insert_many(numbered(100, 110)).await?;
    let line = daemon.logged("halted").await?;
    for told in ["2 rows of mapping a in public.a", "line_of", "delete the rows that refer to them"] {
        assert!(line.contains(told), "{told:?} is not in {line}");
    }
    daemon.check_becomes("leader", &["failing"]).await?;
    assert_eq!(stage.number("select count(*) from a").await?, 30, "all or none of them");

    stage.execute("delete from line").await?;
    stage.becomes_equal(&daemon, "a", Plain::Int).await?;
    daemon.check_becomes("leader", &["ok"]).await?;

    // Where the collection became another one while nobody looked, what is referred to is held, and no other row stays.
    assert!(daemon.stop().await?.success());
    stage.execute("insert into line values ('a', '107')").await?;
    stage.collection("b").insert_many(numbered(200, 210)).await?;
    let other = int(&stage.whole("a")).replace(".a\"", ".b\"");
    let daemon = Daemon::start(&stage.config(&other))?;
    let rows = "select count(*) || ' ' || count(*) filter (where source_id::int >= 200) from a";
    let are = async |expected: &str| {
        let became = until("the rows of the other collection", PATIENCE, async || {
            Ok((stage.text(rows).await?.as_deref() == Some(expected)).then_some(()))
        });
        became.await.with_context(|| daemon.last_words())
    };
    are("11 10").await?;
    assert_eq!(stage.number("select count(*) from rowstream.held where source_id = '107'").await?, 1);
    stage.execute("delete from line").await?;
    are("10 10").await
}

#[tokio::test]
async fn where_deletes_keep_rows_nothing_takes_them_away() -> Result<()> {
    let stage = Stage::new("deletes_keep").await?;
    let a = stage.collection("a");
    a.insert_many(numbered(0, 10)).await?;
    let mapping = int(&stage.whole("a")).replace("allow_empty", "deletes: keep, allow_empty");
    let daemon = Daemon::start(&stage.config(&mapping))?;
    stage.becomes_equal(&daemon, "a", Plain::Int).await?;
    a.delete_many(doc! { "n": { "$lt": 5 } }).await?;
    a.update_one(doc! { "_id": 7_i64 }, doc! { "$set": { "n": 70 } }).await?;
    a.drop().await?;
    a.insert_many(numbered(100, 101)).await?;
    let arrived = until("what came after", PATIENCE, async || {
        Ok((stage.number("select count(*) from a where source_id = '100'").await? == 1).then_some(()))
    });
    arrived.await.with_context(|| daemon.last_words())?;
    assert_eq!(stage.number("select count(*) from a").await?, 11);
    Ok(())
}

#[tokio::test]
async fn two_mappings_of_one_collection_and_two_pipelines_of_one_database_keep_apart() -> Result<()> {
    let stage = Stage::new("twice").await?;
    let a = stage.collection("a");
    a.insert_many(numbered(0, 40)).await?;
    let mapping = |source: &str| {
        format!("  - {{ source: {source}, collection: {}.a, table: {source}, id_type: int }}\n", stage.name)
    };
    let both = stage.config(&(mapping("first") + &mapping("second")));
    let other = stage.config(&mapping("third")).replace("pipeline: test", "pipeline: other");
    let one = Daemon::start(&both)?;
    let two = Daemon::start(&other)?;
    let tables = ["first", "second", "third"];
    let all = async |sql: &str, expected: &str| {
        for table in tables {
            let sql = sql.replace("<table>", table);
            let mut last = None;
            let same = until(&sql, PATIENCE, async || {
                last = stage.text(&sql).await.unwrap_or_default();
                Ok((last.as_deref() == Some(expected)).then_some(()))
            });
            same.await.with_context(|| format!("{last:?}\n{}\n{}", one.last_words(), two.last_words()))?;
        }
        anyhow::Ok(())
    };
    all("select count(*) from <table> where source = '<table>'", "40").await?;
    a.update_many(doc! { "n": { "$lt": 10 } }, doc! { "$set": { "n": "changed" } }).await?;
    a.delete_many(doc! { "n": { "$gte": 30 } }).await?;
    a.insert_one(doc! { "_id": 99_i64, "n": "new" }).await?;
    all("select count(*) from <table> where document->>'n' = 'changed'", "10").await?;
    all("select count(*) from <table> where document->>'n' = 'new'", "1").await?;
    all("select count(*) from <table>", "31").await?;
    assert_eq!(
        stage
            .text("select string_agg(pipeline, ' ' order by pipeline) from rowstream.checkpoint")
            .await?
            .as_deref(),
        Some("other test")
    );
    // One of them stops; the other does not notice.
    assert!(two.stop().await?.success());
    a.insert_one(doc! { "_id": 100_i64 }).await?;
    let arrived = until("the first pipeline to go on", PATIENCE, async || {
        Ok((stage.number("select count(*) from first").await? == 32).then_some(()))
    });
    arrived.await.with_context(|| one.last_words())?;
    assert_eq!(stage.number("select count(*) from third").await?, 31);
    Ok(())
}

#[tokio::test]
async fn collections_of_any_name_get_a_table_of_that_name() -> Result<()> {
    let stage = Stage::new("names").await?;
    let names = [
        "dots.in.it",
        "with space",
        "quote\"d",
        "it's",
        "ünï 🎉",
        "Twin",
        "twin",
        "select",
        "x; drop table twin; --",
        "back\\slash",
        "{braces}",
        "100%",
        "-dash",
        "a\ttab",
        " ",
        "0",
    ];
    for name in names {
        stage.collection(name).insert_many(numbered(0, 5)).await?;
    }
    let daemon = Daemon::start(&stage.config(""))?;
    for name in names {
        stage.becomes_equal(&daemon, name, Plain::Int).await.with_context(|| name.to_owned())?;
    }
    for name in names {
        stage.collection(name).update_one(doc! { "_id": 1_i64 }, doc! { "$set": { "n": name } }).await?;
        stage.collection(name).delete_one(doc! { "_id": 2_i64 }).await?;
    }
    for name in names {
        stage.becomes_equal(&daemon, name, Plain::Int).await.with_context(|| name.to_owned())?;
    }
    stage.collection("x; drop table twin; --").drop().await?;
    stage.becomes_equal(&daemon, "x; drop table twin; --", Plain::Int).await?;
    stage.equal("twin", Plain::Int).await?;
    Ok(())
}

/// PostgreSQL cuts names at 63 bytes: two collections must not end up in one table.
#[tokio::test]
async fn long_names_with_one_beginning_never_share_a_table() -> Result<()> {
    let stage = Stage::new("long_names").await?;
    let beginning = "n".repeat(70);
    for end in ["one", "two"] {
        stage.collection(&format!("{beginning}{end}")).insert_one(doc! { "_id": 1_i64, "of": end }).await?;
    }
    let (status, summary) =
        Daemon::start_with(&stage.config(""), &["--until-caught-up"])?.ends_with_output().await?;
    assert_eq!(status.code(), Some(0), "{summary}");
    let tables: Vec<String> =
        sqlx::query_scalar("select relname::text from pg_class where relname like 'nnn%' and relkind = 'r'")
            .fetch_all(&mut stage.postgres().await?)
            .await?;
    assert_eq!(tables.len(), 2, "{tables:?}");
    for table in tables {
        assert_eq!(stage.number(&format!("select count(*) from \"{table}\"")).await?, 1, "{table}");
    }
    Ok(())
}

#[tokio::test]
async fn tables_and_columns_of_any_name_are_written() -> Result<()> {
    let stage = Stage::new("hostile").await?;
    stage
        .execute(
            r#"create schema "we""ird";
               create table "we""ird"."ta.ble ""x""; --" (
                   "so""urce" text, "Source_ID" text, "co""l" text, "select" int, "Ünï; 🎉" jsonb, "%s $1" text,
                   primary key ("so""urce", "Source_ID"))"#,
        )
        .await?;
    let mapping = format!(
        r#"  - source: "it's \"x\""
    collection: "{}.a.b c"
    table: {{ schema: 'we"ird', name: 'ta.ble "x"; --' }}
    id_type: int
    key: {{ source: 'so"urce', source_id: Source_ID }}
    columns:
      'co"l': text
      select: n
      'Ünï; 🎉': {{ from: $document, without: [_id] }}
      '%s $1': {{ value: "'; --" }}
"#,
        stage.name
    );
    let documents = stage.collection("a.b c");
    documents.insert_many(numbered(0, 3)).await?;
    let daemon = Daemon::start(&stage.config(&mapping))?;
    let table = r#""we""ird"."ta.ble ""x""; --""#;
    let rows = format!(
        r#"select string_agg(concat_ws('|', "so""urce", "Source_ID", "co""l", "select", "Ünï; 🎉"->'n', "%s $1"), ' ' order by "Source_ID") from {table}"#
    );
    let becomes = async |expected: &str| {
        let mut last = None;
        let same = until("the rows", PATIENCE, async || {
            last = stage.text(&rows).await?;
            Ok((last.as_deref() == Some(expected)).then_some(()))
        });
        same.await.with_context(|| format!("{last:?}\n{}", daemon.last_words()))
    };
    let row = |n: i64, v: i64| format!(r#"it's "x"|{n}|document {n}|{v}|{v}|'; --"#);
    becomes(&[row(0, 0), row(1, 1), row(2, 2)].join(" ")).await?;
    documents.update_one(doc! { "_id": 1_i64 }, doc! { "$set": { "n": 7_i64 } }).await?;
    documents.delete_one(doc! { "_id": 0_i64 }).await?;
    becomes(&[row(1, 7), row(2, 2)].join(" ")).await?;
    // A document that cannot be written there is held like anywhere else.
    documents.insert_one(doc! { "_id": 3_i64, "n": "no number" }).await?;
    let held = until("it to be held", PATIENCE, async || {
        stage.text("select concat_ws(' ', source, source_id, column_name) from rowstream.held").await
    });
    assert_eq!(held.await?, r#"it's "x" 3 select"#);
    let _: Option<Document> = documents.find_one(doc! {}).await?;
    Ok(())
}

#[tokio::test]
async fn a_mapping_that_was_out_for_a_while_has_what_happened_meanwhile() -> Result<()> {
    let stage = Stage::new("out_and_in").await?;
    for name in ["orders", "others"] {
        stage.collection(name).insert_many(numbered(0, 50)).await?;
    }
    let both = stage.config(&(stage.whole("orders") + &stage.whole("others")));
    let daemon = Daemon::start(&both)?;
    stage.becomes_equal(&daemon, "orders", Plain::Int).await?;
    stage.becomes_equal(&daemon, "others", Plain::Int).await?;
    assert!(daemon.stop().await?.success());

    let daemon = Daemon::start(&stage.config(&stage.whole("others")))?;
    stage.collection("orders").insert_many(numbered(50, 60)).await?;
    stage.collection("orders").delete_one(doc! { "_id": 3_i64 }).await?;
    stage.collection("orders").update_one(doc! { "_id": 4_i64 }, doc! { "$set": { "n": -4 } }).await?;
    // The checkpoint is past all of it.
    stage.settled(&daemon, "others").await?;
    assert!(daemon.stop().await?.success());

    let daemon = Daemon::start(&both)?;
    stage.becomes_equal(&daemon, "orders", Plain::Int).await?;
    stage.becomes_equal(&daemon, "others", Plain::Int).await?;
    Ok(())
}

#[tokio::test]
async fn a_mapping_with_a_new_name_copies_its_collection_anew_and_leaves_the_rows_of_the_old_one()
-> Result<()> {
    let stage = Stage::new("renamed_mapping").await?;
    let things = stage.collection("things");
    things.insert_many(numbered(0, 30)).await?;
    let mapping = |source: &str| {
        format!(
            "  - {{ source: {source}, collection: {}.things, table: things, id_type: int }}\n",
            stage.name
        )
    };
    let rows = async |daemon: &Daemon, expected: &str| {
        let sql = "select string_agg(concat_ws(' ', source, rows, n), ', ' order by source) from
                   (select source, count(*) as rows, sum((document->>'n')::int) as n from things group by 1) as of_source";
        let mut last = None;
        let same = until(expected, PATIENCE, async || {
            last = stage.text(sql).await.unwrap_or_default();
            Ok((last.as_deref() == Some(expected)).then_some(()))
        });
        same.await.with_context(|| format!("{last:?}\n{}", daemon.last_words()))
    };
    let first = Daemon::start(&stage.config(&mapping("old")))?;
    rows(&first, "old 30 435").await?;
    assert!(first.stop().await?.success());

    let second = Daemon::start(&stage.config(&mapping("new")))?;
    rows(&second, "new 30 435, old 30 435").await?;
    things.delete_one(doc! { "_id": 0_i64 }).await?;
    things.update_one(doc! { "_id": 1_i64 }, doc! { "$set": { "n": 101 } }).await?;
    rows(&second, "new 29 535, old 30 435").await?;
    let sources = second.status().await?["sources"].clone();
    assert_eq!(sources.as_array().map(Vec::len), Some(1), "{sources}");
    assert!(second.stop().await?.success());

    // Back again: nobody followed the old one's rows, so they are copied anew; the new one's stay.
    let third = Daemon::start(&stage.config(&mapping("old")))?;
    rows(&third, "new 29 535, old 29 535").await?;
    third.logged("was not followed").await?;
    things.delete_one(doc! { "_id": 1_i64 }).await?;
    rows(&third, "new 29 535, old 28 434").await?;
    assert!(third.stop().await?.success());
    Ok(())
}

#[tokio::test]
async fn a_mapping_that_is_not_enabled_keeps_its_rows_and_has_what_happened_once_it_is_enabled_again()
-> Result<()> {
    let stage = Stage::new("enabled").await?;
    for name in ["orders", "others"] {
        stage.collection(name).insert_many(numbered(0, 50)).await?;
    }
    let both = int(&(stage.whole("orders") + &stage.whole("others")));
    let daemon = Daemon::start(&stage.config(&both))?;
    stage.becomes_equal(&daemon, "orders", Plain::Int).await?;
    assert!(daemon.stop().await?.success());

    let without = both.replacen("id_type", "enabled: false, id_type", 1);
    let daemon = Daemon::start(&stage.config(&without))?;
    stage.collection("orders").insert_many(numbered(50, 60)).await?;
    stage.collection("orders").delete_one(doc! { "_id": 3_i64 }).await?;
    stage.collection("others").insert_many(numbered(50, 60)).await?;
    stage.becomes_equal(&daemon, "others", Plain::Int).await?;
    let sources = daemon.status().await?["sources"].clone();
    assert_eq!(sources.as_array().map(Vec::len), Some(1), "{sources}");
    assert_eq!(stage.number("select count(*) from orders where document->>'n' is not null").await?, 50);
    assert!(daemon.stop().await?.success());

    let daemon = Daemon::start(&stage.config(&both))?;
    stage.becomes_equal(&daemon, "orders", Plain::Int).await?;
    stage.collection("orders").delete_one(doc! { "_id": 4_i64 }).await?;
    stage.becomes_equal(&daemon, "orders", Plain::Int).await?;
    Ok(())
}

/// Whatever would run as SQL, or break out of a label, a path or a page, if it were pasted.
const HOSTILE: &str = r#"'; drop table victims; --"}\{{$1%s</script>"#;

#[tokio::test]
async fn hostile_names_are_only_names_in_references_children_labels_marks_pages_and_figures() -> Result<()> {
    let stage = Stage::new("hostile_all").await?;
    let quoted = |name: &str| format!("\"{}\"", format!("{name}{HOSTILE}").replace('"', "\"\""));
    let literal = |name: &str| format!("'{}'", format!("{name}{HOSTILE}").replace('\'', "''"));
    let yaml =
        |name: &str| format!("\"{}\"", format!("{name}{HOSTILE}").replace('\\', "\\\\").replace('"', "\\\""));
    let [parents, notes, lines, email, kind, text, word, gone, state, parent] =
        ["P", "N", "L", "e", "k", "t", "w", "g", "s", "p"].map(quoted);
    let enum_type = quoted("E");
    stage
        .execute(&format!(
            "create table victims (n int); insert into victims values (1);
             create type {enum_type} as enum ({label}, 'other');
             create table {parents} ({email} text primary key, {text} varchar(60) unique);
             create table {notes} (source text, source_id text, {kind} {enum_type}, {word} text, {parent} text,
                 {gone} boolean, {state} text, sync_error text, primary key (source, source_id), unique (source_id));
             create table {lines} (source_id text references {notes} (source_id), {word} varchar(60), {text} {enum_type}[],
                 primary key (source_id, {word}));",
            label = literal("l"),
        ))
        .await?;
    let mapping = format!(
        "  - source: {parents}
    collection: {database}.parents
    table: {{ schema: public, name: {parents} }}
    id_type: string
    key: [{email}]
    columns: {{ {email}: email, {text}: text }}
  - source: {notes}
    collection: {database}.notes
    table: {{ schema: public, name: {notes} }}
    id_type: string
    deletes: {{ soft: {gone} }}
    sync: {{ status: {state}, error: sync_error }}
    columns:
      {kind}: {{ from: kind, enum: {{ {label}: {label} }} }}
      {word}: {{ lookup: {{ table: {{ schema: public, name: {parents} }}, match: {{ {text}: word }}, take: {email} }} }}
      {parent}: {{ ref: {{ to: {parents}, from: parent, take: {email} }} }}
    children:
      - table: {{ schema: public, name: {lines} }}
        each: lines
        columns: {{ source_id: $parent, {word}: $element.word, {text}: $element.kinds }}\n",
        database = stage.name,
        parents = yaml("P"),
        notes = yaml("N"),
        lines = yaml("L"),
        email = yaml("e"),
        kind = yaml("k"),
        text = yaml("t"),
        word = yaml("w"),
        gone = yaml("g"),
        state = yaml("s"),
        parent = yaml("p"),
        label = yaml("l"),
    );
    let config = stage
        .config(&mapping)
        .replace("retry_initial: 500ms, retry_max: 2s", "retry_initial: 1h, retry_max: 2h");
    let value = |name: &str| format!("{name}{HOSTILE}");
    let note = |id: &str| {
        doc! {
            "_id": value(id), "kind": value("l"), "word": value("word"), "parent": value("1"),
            "lines": [{ "word": value("line"), "kinds": [value("l"), "other"] }],
        }
    };
    let (first, second) = (stage.collection("parents"), stage.collection("notes"));
    second.insert_many([note("a"), note("b")]).await?;
    let mut bad = note("bad");
    bad.insert("lines", vec![doc! { "word": value(&"long".repeat(20)) }]);
    second.insert_one(bad).await?;
    let daemon = Daemon::start(&config)?;
    let open = "select count(*) from rowstream.held where state <> 'resolved'";
    let becomes = async |sql: &str, wanted: i64| {
        let mut last = None;
        let same = until(sql, PATIENCE, async || {
            last = stage.number(sql).await.ok();
            Ok((last == Some(wanted)).then_some(()))
        });
        same.await.with_context(|| format!("found {last:?}; {}", daemon.last_words()))
    };
    // They wait for the parent; the bad one for longer.
    becomes(open, 3).await?;
    first.insert_one(doc! { "_id": value("1"), "email": value("mail"), "text": value("word") }).await?;
    becomes(open, 1).await?;
    let whole = format!(
        "select count(*) from {notes} where {kind} = {label} and {word} = {mail} and {parent} = {mail} and {state} = 'SYNCED'",
        label = literal("l"),
        mail = literal("mail"),
    );
    becomes(&whole, 2).await?;
    second.delete_one(doc! { "_id": value("b") }).await?;
    becomes(&format!("select count(*) from {notes} where {gone}"), 1).await?;
    first.update_one(doc! { "_id": value("1") }, doc! { "$set": { "email": value("new") } }).await?;
    becomes(&format!("select count(*) from {notes} where {parent} = {}", literal("new")), 1).await?;

    let percent = |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
    let (source, id) = (value("N"), value("bad"));
    for path in [
        format!("/status/{}/{}", percent(&source), percent(&id)),
        format!("/held?source={}&id={}&table={}", percent(&source), percent(&id), percent(&value("N"))),
        format!("/held/summary?column={}", percent(&value("w"))),
        "/status".to_owned(),
        "/health".to_owned(),
    ] {
        let (code, body) = daemon.get(&path).await?;
        assert_eq!(code, 200, "{path}: {body}");
        serde_json::from_str::<serde_json::Value>(&body).with_context(|| body.clone())?;
    }
    let (_, body) = daemon.get(&format!("/held?source={}", percent(&source))).await?;
    let held: serde_json::Value = serde_json::from_str(&body)?;
    assert_eq!((&held["total"], &held["held"][0]["source_id"]), (&1.into(), &id.as_str().into()), "{body}");
    let (_, page) = daemon.get("/").await?;
    assert!(!page.contains("victims"), "names come to the page as text, not as part of it");
    let (_, metrics) = daemon.get("/metrics").await?;
    let label = source.replace('\\', "\\\\").replace('"', "\\\"");
    let line = format!("rowstream_held_changes{{source=\"{label}\",state=\"failed\"}} 1\n");
    assert!(metrics.contains(&line), "{metrics}");

    let ask = |arguments: &[&str]| -> Result<(Option<i32>, String)> {
        let output = command(arguments, &config)?;
        Ok((output.status.code(), String::from_utf8([output.stdout, output.stderr].concat())?))
    };
    assert_eq!(ask(&["verify", "--source", &source])?.0, Some(0), "{}", ask(&["verify"])?.1);
    let (code, text) = ask(&["held", "discard", "--source", &source, "--id", &id, "--yes"])?;
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(stage.number(open).await?, 0);
    assert!(daemon.stop().await?.success());
    assert_eq!(stage.number("select n from victims").await?, 1);
    Ok(())
}
