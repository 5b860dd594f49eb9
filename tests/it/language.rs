//! Parts of the mapping language that meet: keys of a table's own with soft deletes, sync columns, children and
//! shared rows.

use anyhow::{Context, Result};
use bson::{Document, doc};

use crate::daemon::{Daemon, PATIENCE};
use crate::stage::{Stage, says};
use crate::support::until;

const TABLES: &str = "
    create table items (code text primary key, name text not null, gone boolean, sync_status text, sync_error text);
    create table parts (code text references items, position int, name text, label text, primary key (code, position));";

/// `code:name`, `-` behind it where it is marked as deleted, `!` where its document is held.
const ITEMS: &str = "select coalesce(string_agg(concat(code, ':', name, case when gone then '-' end,
        case sync_status when 'FAILED' then '!' end), ' ' order by code), '') from items";
const PARTS: &str = "select coalesce(string_agg(concat(code, position, ':', name), ' ' order by code, position), '') from parts";
const HELD: &str = "select coalesce(string_agg(source_id || ':' || reason, ' ' order by source_id), '')
    from rowstream.held where state <> 'resolved'";

/// One mapping of `items`, keyed by the field `code`.
async fn stage(name: &str, more: &str) -> Result<(Stage, String)> {
    let stage = Stage::new(&format!("language_{name}")).await?;
    stage.execute(TABLES).await?;
    let mapping = format!(
        "  - source: items
    collection: {}.items
    table: items
    id_type: string
    allow_empty: true
    key: [code]
    columns:
      code: {{ from: code, required: true }}
      name: name{more}\n",
        stage.name
    );
    let config = stage.config(&mapping);
    Ok((stage, config))
}

const SOFT: &str = "\n    deletes: { soft: gone }";
const SYNC: &str = "\n    sync: { status: sync_status, error: sync_error }";
const SHARED: &str = "\n    shared: true";
const CHILDREN: &str = r#"
    children:
      - table: parts
        each: parts
        key: [code, position]
        columns:
          code: $parent
          position: $index
          name: { cel: "element.name + string(element.count * 2)" }
          label: { cel: "doc.name + '/' + string(index + 1)" }"#;

fn item(id: &str, code: &str, name: &str) -> Document {
    doc! { "_id": id, "code": code, "name": name }
}

fn with_parts(id: &str, code: &str, parts: &[&str]) -> Document {
    let parts: Vec<Document> = parts.iter().map(|name| doc! { "name": *name, "count": 3 }).collect();
    doc! { "_id": id, "code": code, "name": id, "parts": parts }
}

async fn put(stage: &Stage, document: Document) -> Result<()> {
    let id = doc! { "_id": document.get_str("_id")? };
    stage.collection("items").replace_one(id, document).upsert(true).await?;
    Ok(())
}

async fn delete(stage: &Stage, id: &str) -> Result<()> {
    stage.collection("items").delete_one(doc! { "_id": id }).await?;
    Ok(())
}

#[tokio::test]
async fn a_row_with_a_key_of_its_own_is_marked_when_its_document_goes_and_found_when_it_comes_back()
-> Result<()> {
    let (stage, config) = stage("soft", SOFT).await?;
    stage.collection("items").insert_many([item("a", "x", "one"), item("b", "y", "two")]).await?;
    let daemon = Daemon::start(&config)?;
    says(&stage, &daemon, ITEMS, "x:one y:two").await?;
    delete(&stage, "a").await?;
    says(&stage, &daemon, ITEMS, "x:one- y:two").await?;
    put(&stage, item("a", "x", "again")).await?;
    says(&stage, &daemon, ITEMS, "x:again y:two").await?;
    // Another document with the key of a marked row has it from then on.
    delete(&stage, "a").await?;
    says(&stage, &daemon, ITEMS, "x:again- y:two").await?;
    put(&stage, item("c", "x", "other")).await?;
    says(&stage, &daemon, ITEMS, "x:other y:two").await?;
    put(&stage, item("a", "x", "late")).await?;
    says(&stage, &daemon, HELD, "a:duplicate_key").await?;
    delete(&stage, "c").await?;
    says(&stage, &daemon, ITEMS, "x:late y:two").await?;
    says(&stage, &daemon, HELD, "").await?;
    // All at once: who leaves makes way for who comes.
    let mut session = stage.client.start_session().await?;
    session.start_transaction().await?;
    let items = stage.collection("items");
    items.delete_one(doc! { "_id": "b" }).session(&mut session).await?;
    items.insert_one(item("d", "y", "heir")).session(&mut session).await?;
    session.commit_transaction().await?;
    says(&stage, &daemon, ITEMS, "x:late y:heir").await?;
    items.drop().await?;
    says(&stage, &daemon, ITEMS, "x:late- y:heir-").await?;
    says(&stage, &daemon, HELD, "").await
}

#[tokio::test]
async fn a_shared_row_is_marked_when_its_last_document_goes() -> Result<()> {
    let (stage, config) = stage("soft_shared", &format!("{SOFT}{SHARED}")).await?;
    stage.collection("items").insert_many([item("a", "x", "one"), item("b", "x", "two")]).await?;
    let daemon = Daemon::start(&config)?;
    says(&stage, &daemon, ITEMS, "x:one").await?;
    delete(&stage, "a").await?;
    says(&stage, &daemon, ITEMS, "x:two").await?;
    delete(&stage, "b").await?;
    says(&stage, &daemon, ITEMS, "x:two-").await?;
    put(&stage, item("c", "x", "three")).await?;
    says(&stage, &daemon, ITEMS, "x:three").await?;
    put(&stage, item("b", "x", "back")).await?;
    says(&stage, &daemon, ITEMS, "x:back").await?;
    says(&stage, &daemon, HELD, "").await
}

#[tokio::test]
async fn rows_with_keys_of_their_own_say_that_their_documents_are_held() -> Result<()> {
    let (stage, config) = stage("marked", SYNC).await?;
    stage.collection("items").insert_many([item("a", "x", "one"), item("b", "y", "two")]).await?;
    let daemon = Daemon::start(&config)?;
    says(&stage, &daemon, ITEMS, "x:one y:two").await?;
    put(&stage, doc! { "_id": "a", "code": "x" }).await?;
    says(&stage, &daemon, ITEMS, "x:one! y:two").await?;
    let error = stage.text("select sync_error from items where code = 'x'").await?.context("an error")?;
    assert!(error.contains("column name"), "{error}");
    // One that wants the key of another row keeps its own, which says so; the other one is not at fault.
    put(&stage, item("b", "x", "moved")).await?;
    says(&stage, &daemon, ITEMS, "x:one! y:two!").await?;
    put(&stage, item("a", "x", "good")).await?;
    says(&stage, &daemon, ITEMS, "x:good y:two!").await?;
    delete(&stage, "a").await?;
    says(&stage, &daemon, ITEMS, "x:moved").await?;
    assert_eq!(stage.text("select sync_error from items").await?, None);
    Ok(())
}

#[tokio::test]
async fn a_shared_row_says_so_only_of_the_document_that_writes_it() -> Result<()> {
    let (stage, config) = stage("marked_shared", &format!("{SYNC}{SHARED}")).await?;
    stage.collection("items").insert_many([item("a", "x", "one"), item("b", "x", "two")]).await?;
    let daemon = Daemon::start(&config)?;
    says(&stage, &daemon, ITEMS, "x:one").await?;
    put(&stage, doc! { "_id": "b", "code": "x" }).await?;
    says(&stage, &daemon, HELD, "b:missing_required").await?;
    says(&stage, &daemon, ITEMS, "x:one").await?;
    put(&stage, doc! { "_id": "a", "code": "x" }).await?;
    says(&stage, &daemon, ITEMS, "x:one!").await
}

#[tokio::test]
async fn a_shared_row_has_the_child_rows_of_the_document_that_writes_it() -> Result<()> {
    let (stage, config) = stage("shared_children", &format!("{SHARED}{CHILDREN}")).await?;
    let (a, b) = (with_parts("a", "x", &["p", "q"]), with_parts("b", "x", &["r"]));
    stage.collection("items").insert_many([b, a]).await?;
    let daemon = Daemon::start(&config)?;
    says(&stage, &daemon, ITEMS, "x:a").await?;
    says(&stage, &daemon, PARTS, "x0:p6 x1:q6").await?;
    let labels = "select string_agg(label, ' ' order by position) from parts";
    says(&stage, &daemon, labels, "a/1 a/2").await?;
    put(&stage, with_parts("b", "x", &["s", "t"])).await?;
    put(&stage, with_parts("a", "x", &["p"])).await?;
    says(&stage, &daemon, PARTS, "x0:p6").await?;
    delete(&stage, "a").await?;
    says(&stage, &daemon, PARTS, "x0:s6 x1:t6").await?;
    put(&stage, with_parts("0", "x", &["u"])).await?;
    says(&stage, &daemon, PARTS, "x0:u6").await?;
    delete(&stage, "b").await?;
    put(&stage, with_parts("1", "y", &["v"])).await?;
    says(&stage, &daemon, PARTS, "x0:u6 y0:v6").await?;
    // The last ones leave together.
    put(&stage, with_parts("2", "y", &["w"])).await?;
    stage.collection("items").delete_many(doc! {}).await?;
    says(&stage, &daemon, ITEMS, "").await?;
    says(&stage, &daemon, PARTS, "").await?;
    says(&stage, &daemon, HELD, "").await
}

#[tokio::test]
async fn rows_of_child_tables_are_counted_and_what_is_no_array_is_told_with_its_table() -> Result<()> {
    let (stage, config) = stage("counted", CHILDREN).await?;
    stage.collection("items").insert_one(with_parts("a", "x", &["p", "q"])).await?;
    let daemon = Daemon::start(&config)?;
    says(&stage, &daemon, PARTS, "x0:p6 x1:q6").await?;
    put(&stage, with_parts("a", "x", &["r"])).await?;
    says(&stage, &daemon, PARTS, "x0:r6").await?;
    delete(&stage, "a").await?;
    says(&stage, &daemon, PARTS, "").await?;
    let counts = ["insert", "update", "delete"];
    until("the counts", PATIENCE, async || {
        let (_, metrics) = daemon.get("/metrics").await?;
        let count = |op: &str| {
            let line = format!("rowstream_rows_written_total{{op=\"{op}\",table=\"public.parts\"}} ");
            metrics.lines().find_map(|found| found.strip_prefix(&line)?.parse::<u64>().ok())
        };
        Ok((counts.map(count) == [Some(2), Some(1), Some(2)]).then_some(()))
    })
    .await
    .with_context(|| daemon.last_words())?;
    put(&stage, doc! { "_id": "b", "code": "y", "name": "b", "parts": "p" }).await?;
    says(&stage, &daemon, HELD, "b:wrong_type").await?;
    let told = "table public.parts: parts is no array but of type string; not_array: single or drop takes it";
    assert_eq!(stage.text("select message from rowstream.held").await?.as_deref(), Some(told));
    Ok(())
}
