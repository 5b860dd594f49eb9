//! Every kind of damage among very many good rows, at rest and while writes flow: each is found and named, and
//! nothing else. `make soak` has more rows.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use bson::{Decimal128, Document, doc};
use serde_json::{Value, json};

use crate::comparison::{copied, found, repair, set, verify};
use crate::daemon::Daemon;
use crate::stage::Stage;

const TABLES: &str = "
    create table customers (id serial primary key, mongo_id text not null unique, name text);
    create table tags (id serial primary key, mongo_id text not null unique, name text);
    create table settings (id serial primary key, mongo_id text not null unique, name text);
    create table invoices (id serial primary key, mongo_id text not null unique, total numeric, note text,
        customer_id integer references customers);
    create table invoice_lines (invoice_id integer not null references invoices on delete cascade,
        position integer not null, title text, primary key (invoice_id, position));
    create table invoice_tags (invoice_id integer not null references invoices on delete cascade,
        tag_id integer not null references tags, primary key (invoice_id, tag_id));";

/// Each has a row, a line and a pair.
fn invoices() -> i64 {
    if std::env::var_os("SOAK_MINUTES").is_some() { 700_000 } else { 33_000 }
}

fn invoice(n: i64) -> Result<Document> {
    Ok(doc! {
        "_id": format!("i{n}"), "total": "1.10".parse::<Decimal128>()?, "note": format!("note {n}"),
        "customer": format!("c{}", n % 1_000), "lines": [{ "title": "one" }], "tags": [format!("t{}", n % 10)],
    })
}

fn mappings(database: &str) -> String {
    let named = |name: &str, columns: &str| {
        format!(
            "  - {{ source: {name}, collection: {database}.{name}, table: {name}, id_type: string, \
             key: {{ source: null, source_id: mongo_id }}, columns: {{ {columns} }} }}\n"
        )
    };
    let invoices = named(
        "invoices",
        "total: total, note: note, customer_id: { ref: { to: customers, from: customer }, missing: null } },
        children: [
          { table: invoice_lines, each: lines, key: [invoice_id, position], columns: {
             invoice_id: $parent, position: $index, title: $element.title } },
          { table: invoice_tags, each: tags, columns: {
             invoice_id: $parent, tag_id: { ref: { to: tags, from: $element }, missing: drop } } } ] #",
    );
    let named = ["customers", "tags", "settings"].map(|name| named(name, "name: name"));
    format!("{}{}", named.concat(), invoices.replace("] # } }", "] }"))
}

async fn loaded() -> Result<(Stage, String)> {
    let stage = Stage::new("verify_many").await?;
    stage.execute(TABLES).await?;
    let config = stage.config(&mappings(&stage.name));
    for (name, prefix, count) in [("customers", "c", 1_000), ("tags", "t", 10), ("settings", "s", 3)] {
        let documents = (0..count).map(|n| doc! { "_id": format!("{prefix}{n}"), "name": format!("{n}") });
        stage.collection(name).insert_many(documents).await?;
    }
    let documents: Vec<Document> = (0..invoices()).map(invoice).collect::<Result<_>>()?;
    for part in documents.chunks(10_000) {
        stage.collection("invoices").insert_many(part).await?;
    }
    copied(&config).await?;
    Ok((stage, config))
}

async fn damage(stage: &Stage) -> Result<()> {
    let id = |n: u32| format!("(select id from invoices where mongo_id = 'i{n}')");
    let tag = |n: u32| format!("(select id from tags where mongo_id = 't{n}')");
    let [i103, i104, i105] = [103, 104, 105].map(id);
    let [t4, t5] = [4, 5].map(tag);
    stage
        .execute(&format!(
            "update invoices set total = 1.1 where mongo_id = 'i100';
             update invoices set note = null where mongo_id = 'i101';
             delete from invoices where mongo_id = 'i102';
             insert into invoices (mongo_id) values ('nobody''s');
             delete from invoice_lines where invoice_id = {i103};
             update invoice_tags set tag_id = {t5} where invoice_id = {i104};
             update invoice_tags set tag_id = {t4} where invoice_id = {i105};
             update invoices set total = 1.00, note = 'as it was' where mongo_id = 'i106';
             update invoices set customer_id = (select id from customers where mongo_id = 'c108')
                 where mongo_id = 'i107';
             update invoices set note = upper(note), total = round(total), customer_id = null
                 where mongo_id in ('i110', 'i111', 'i112', 'i113', 'i114');
             update invoices set total = total + 0.000000000000000000000000000001 where mongo_id = 'i32999';
             truncate settings",
        ))
        .await
}

fn damaged() -> BTreeSet<String> {
    set(&[
        "different i100 total",
        "different i101 note",
        "missing i102",
        "extra nobody's",
        "missing_child i103",
        "missing_child i104",
        "extra_child i104",
        "missing_child i105",
        "extra_child i105",
        "different i106 total,note",
        "different i107 customer_id",
        "different i110 total,note,customer_id",
        "different i111 total,note,customer_id",
        "different i112 total,note,customer_id",
        "different i113 total,note,customer_id",
        "different i114 total,note,customer_id",
        "different i32999 total",
        "missing s0",
        "missing s1",
        "missing s2",
    ])
}

fn groups(report: &Value) -> impl Iterator<Item = &Value> {
    let sources = report["sources"].as_array().into_iter().flatten();
    sources.flat_map(|source| source["groups"].as_array().into_iter().flatten())
}

#[tokio::test]
async fn each_kind_of_damage_is_found_among_a_hundred_thousand_rows_and_nothing_else() -> Result<()> {
    let (stage, config) = loaded().await?;
    damage(&stage).await?;
    let (report, code) = verify(&config, &[])?;
    assert_eq!((code, found(&report)), (1, damaged()), "{report:#}");
    // Those of an older mapping are one line, with what they are likely to come from.
    let alike = groups(&report).find(|group| group["count"] == 5).context("no pattern")?;
    assert_eq!(alike["columns"], json!(["total", "note", "customer_id"]), "{report:#}");
    assert!(alike["hint"].as_str().is_some_and(|hint| hint.contains("older mapping")), "{report:#}");
    let (repairs, code) = repair(&config, &["--apply"])?;
    assert_eq!((code, repairs["repaired"].as_u64()), (0, Some(18)), "{repairs:#}");

    let daemon = Daemon::start(&config)?;
    daemon.logged("session started").await?;
    damage(&stage).await?;
    let written = AtomicBool::new(false);
    let writes = async {
        let collection = stage.collection("invoices");
        let mut n = 0;
        while !written.load(Ordering::Relaxed) {
            let id = doc! { "_id": format!("i{}", 1_000 + n % 20_000) };
            match n % 7 {
                0 => collection.delete_one(id).await.map(|_| ())?,
                1 => collection.insert_one(invoice(1_000_000 + n)?).await.map(|_| ())?,
                _ => {
                    let set = doc! { "note": format!("round {n}"), "customer": format!("c{}", n % 500) };
                    collection.update_one(id, doc! { "$set": set }).await?;
                }
            }
            n += 1;
        }
        anyhow::ensure!(n > 100, "only {n} writes flowed meanwhile");
        Ok::<_, anyhow::Error>(())
    };
    let comparing = async {
        let config = config.clone();
        let compared = tokio::task::spawn_blocking(move || verify(&config, &[])).await;
        written.store(true, Ordering::Relaxed);
        compared?
    };
    let (written, compared) = tokio::join!(writes, comparing);
    written?;
    let (report, code) = compared?;
    assert_eq!((code, found(&report)), (1, damaged()), "{report:#}");
    assert!(daemon.stop().await?.success());
    Ok(())
}
