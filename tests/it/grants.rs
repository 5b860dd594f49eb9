//! What docs/OPERATIONS.md tells to grant is enough, and none of it can be left out without being told.

use anyhow::{Context, Result, ensure};
use bson::{Document, doc};

use crate::daemon::{Daemon, PATIENCE, command};
use crate::stage::{Stage, numbered};
use crate::support::until;
use crate::users::{PASSWORD, guarded, stage, uri};

const PAGE: &str = include_str!("../../docs/OPERATIONS.md");

/// The first block of this language below the heading.
fn block(language: &str) -> Result<&'static str> {
    let (_, section) = PAGE.split_once("## What it must be allowed\n").context("the section")?;
    let (_, rest) = section.split_once(&format!("```{language}\n")).context("the block")?;
    Ok(rest.split_once("```").context("its end")?.0)
}

/// The statements of the page, for this stage's database and a role of its own.
fn statements(stage: &Stage, role: &str) -> Result<Vec<String>> {
    let lines = block("sql")?.lines();
    Ok(lines.map(|line| line.replace("shop", &stage.name).replace("rowstream", role)).collect())
}

/// As the administrator: rights that everybody has by default are nobody's.
async fn prepare(stage: &Stage) -> Result<()> {
    stage
        .execute(&format!(
            "create table orders (source text, source_id text, n bigint, primary key (source, source_id));
             revoke all on database {} from public; revoke all on schema public from public",
            stage.name
        ))
        .await
}

fn said(arguments: &[&str], config: &str) -> Result<(Option<i32>, String)> {
    let output = command(arguments, config)?;
    Ok((output.status.code(), String::from_utf8([output.stdout, output.stderr].concat())?))
}

/// A daemon copies, follows, holds and lets go, and commands tell of it; by these roles.
async fn everything_works(stage: &Stage, config: &str) -> Result<()> {
    let (code, text) = said(&["check"], config)?;
    ensure!(code == Some(0), "{text}");
    let orders = stage.collection("orders");
    orders.insert_one(doc! { "_id": 100_i64, "n": "no number" }).await?;
    let daemon = Daemon::start(config)?;
    daemon.logged("snapshot done").await?;
    orders.insert_one(doc! { "_id": 101_i64, "n": 1 }).await?;
    orders.update_one(doc! { "_id": 1_i64 }, doc! { "$set": { "n": 2 } }).await?;
    orders.delete_one(doc! { "_id": 2_i64 }).await?;
    let rows = async |expected: i64| {
        let sql = "select count(*) from orders where n is not null";
        until("the rows", PATIENCE, async || Ok((stage.number(sql).await? == expected).then_some(())))
            .await
            .with_context(|| daemon.last_words())
    };
    rows(50).await?;
    let (code, text) = said(&["held", "list"], config)?;
    ensure!(code == Some(0) && text.contains("100"), "{text}");
    orders.update_one(doc! { "_id": 100_i64 }, doc! { "$set": { "n": 3 } }).await?;
    rows(51).await?;
    assert!(daemon.stop().await?.success());
    for verb in ["verify", "status", "repair"] {
        let (code, text) = said(&[verb], config)?;
        ensure!(code == Some(0), "{verb}: {text}");
    }
    Ok(())
}

#[tokio::test]
async fn what_the_page_tells_to_grant_is_enough_and_nothing_of_it_can_be_left_out() -> Result<()> {
    let (_folder, mongod, root) = guarded().await?;
    let stage = stage(&mongod, &root, "grants").await?;
    let role = format!("role_of_{}", stage.name);
    stage.collection("orders").insert_many(numbered(0, 50)).await?;
    prepare(&stage).await?;
    let grants = statements(&stage, &role)?;
    for grant in &grants {
        stage.execute(grant).await.with_context(|| grant.clone())?;
    }
    let mapping = format!(
        "  - {{ source: orders, collection: {}.orders, table: orders, id_type: int, columns: {{ n: n }} }}\n",
        stage.name
    );

    let users = stage.client.database("admin");
    let text = block("json")?.replace("shop", &stage.name);
    let create: Document = serde_json::from_str(&text)?;
    users.run_command(create).await?;
    let narrow = doc! { "createUser": "narrow", "pwd": PASSWORD, "roles": ["rowstream_orders"] };
    users.run_command(narrow).await?;

    // Whoever migrates is somebody else.
    let restricted = stage
        .config(&mapping)
        .replace(&stage.mongodb_uri, &uri(&stage.mongodb_uri, "narrow", "&authSource=admin"))
        .replace("postgres://postgres@", &format!("postgres://{role}@"));
    let administrator = restricted.replace(&format!("postgres://{role}@"), "postgres://postgres@");
    let (code, text) = said(&["migrate", "--grant-to", &role], &administrator)?;
    ensure!(code == Some(0), "{text}");
    everything_works(&stage, &restricted).await?;

    // PostgreSQL, one by one.
    let of_state =
        |privilege: &str, object: &str| format!("grant {privilege} on {object} rowstream to {role}");
    let state = ["select", "insert", "update", "delete"].map(|name| of_state(name, "all tables in schema"));
    let grants = grants.into_iter().filter(|line| line.starts_with("grant ")).chain(state);
    for grant in grants.chain([of_state("usage", "schema")]) {
        let revoke =
            grant.replacen("grant", "revoke", 1).replace(&format!(" to {role}"), &format!(" from {role}"));
        stage.execute(&revoke).await.with_context(|| revoke.clone())?;
        let (code, text) = said(&["check"], &restricted)?;
        let privilege = grant.split(' ').nth(1).context("a privilege")?;
        let object = if grant.contains("rowstream") { "schema rowstream" } else { "" };
        ensure!(code != Some(0), "nothing is said after {revoke}: {text}");
        let is_named = |line: &str| line.to_lowercase().contains(privilege) && line.contains(object);
        ensure!(text.lines().any(is_named), "after {revoke} it says {text}");
        stage.execute(&grant).await.with_context(|| grant.clone())?;
        ensure!(said(&["check"], &restricted)?.0 == Some(0), "{grant} did not help");
    }
    // A daemon says it, too.
    stage.execute(&format!("revoke update on all tables in schema rowstream from {role}")).await?;
    let (code, text) = said(&["run", "--until-caught-up"], &restricted)?;
    ensure!(code == Some(1) && text.contains("lacks update") && text.contains("--grant-to"), "{text}");
    stage.execute(&of_state("update", "all tables in schema")).await?;

    // MongoDB.
    for taken in ["find", "changeStream"] {
        let mut update = doc! { "updateRole": "rowstream_orders" };
        let resource = doc! { "db": &stage.name, "collection": "orders" };
        let left = if taken == "find" { "changeStream" } else { "find" };
        update.insert("privileges", vec![doc! { "resource": resource, "actions": [left] }]);
        users.run_command(update).await?;
        let (code, text) = said(&["check"], &restricted)?;
        ensure!(code != Some(0) && text.contains("grant the user `read`"), "without {taken}: {text}");
    }
    Ok(())
}
