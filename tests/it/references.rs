//! A reference takes its value from another row. What is not there yet follows its rule, is remembered, and is
//! settled again once it comes; nothing is left pointing at a row that goes.

use anyhow::{Context, Result};
use bson::{Document, doc};
use sqlx::Row;

use crate::daemon::{Daemon, PATIENCE};
use crate::stage::{Stage, becomes};
use crate::support::until;

const TABLES: &str = "
    create table parents (id serial primary key, mongo_id text not null unique, name text);
    create table others (id serial primary key, mongo_id text not null unique, name text);
    create table children (
        id serial primary key, mongo_id text not null unique, title text,
        parent_id integer ON_DELETE);";

/// A table of children whose reference to a parent is as a test wants it.
async fn stage(name: &str, foreign_key: &str, reference: &str) -> Result<(Stage, String)> {
    let stage = Stage::new(name).await?;
    stage.execute(&TABLES.replace("ON_DELETE", foreign_key)).await?;
    let mappings = format!(
        "  - {{ source: parents, collection: {0}.parents, table: parents, id_type: string, allow_empty: true,
        key: {{ source: null, source_id: mongo_id }}, columns: {{ name: name }} }}
  - {{ source: others, collection: {0}.others, table: others, id_type: int, allow_empty: true,
        key: {{ source: null, source_id: mongo_id }}, columns: {{ name: name }} }}
  - {{ source: children, collection: {0}.children, table: children, id_type: string, allow_empty: true,
        key: {{ source: null, source_id: mongo_id }},
        columns: {{ title: title, parent_id: {{ {reference} }} }} }}\n",
        stage.name
    );
    let config = stage.config(&mappings);
    Ok((stage, config))
}

/// Every child as `mongo_id → name of the parent`, in order.
async fn children(stage: &Stage) -> Result<Vec<(String, Option<String>)>> {
    let mut session = stage.session().await?;
    let rows = sqlx::query(
        "select c.mongo_id, coalesce(p.name, c.parent_id::text) from children c
         left join parents p on p.id = c.parent_id order by 1",
    )
    .fetch_all(&mut *session)
    .await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

fn pairs(pairs: &[(&str, Option<&str>)]) -> Vec<(String, Option<String>)> {
    pairs.iter().map(|(child, parent)| ((*child).to_owned(), parent.map(str::to_owned))).collect()
}

async fn become_children(stage: &Stage, daemon: &Daemon, wanted: &[(&str, Option<&str>)]) -> Result<()> {
    let wanted = pairs(wanted);
    let mut last = Vec::new();
    let reached = until("the children", PATIENCE, async || {
        last = children(stage).await?;
        Ok((last == wanted).then_some(()))
    });
    reached.await.with_context(|| format!("wanted {wanted:?}, found {last:?}; {}", daemon.last_words()))
}

fn child(id: &str, parent: &str) -> Document {
    doc! { "_id": id, "title": "t", "parent": parent }
}

const NOBODY_WAITS: &str = "select count(*) from rowstream.wait";
const HELD: &str = "select count(*) from rowstream.held where state <> 'resolved'";

const TO_PARENTS: &str = "ref: { to: parents, from: parent }";

#[tokio::test]
async fn a_reference_takes_the_serial_id_that_the_table_gave() -> Result<()> {
    let (stage, config) = stage("ref_serial", "references parents", TO_PARENTS).await?;
    // So that serial ids are no guess.
    stage.execute("select setval('parents_id_seq', 1000)").await?;
    stage
        .collection("parents")
        .insert_many([doc! { "_id": "p1", "name": "one" }, doc! { "_id": "p2", "name": "two" }])
        .await?;
    stage
        .collection("children")
        .insert_many([child("c1", "p1"), child("c2", "p2"), doc! { "_id": "c3" }])
        .await?;
    let daemon = Daemon::start(&config)?;
    become_children(&stage, &daemon, &[("c1", Some("one")), ("c2", Some("two")), ("c3", None)]).await?;
    let moved = doc! { "$set": { "parent": "p2" } };
    stage.collection("children").update_one(doc! { "_id": "c1" }, moved).await?;
    stage
        .collection("children")
        .update_one(doc! { "_id": "c2" }, doc! { "$unset": { "parent": "" } })
        .await?;
    become_children(&stage, &daemon, &[("c1", Some("two")), ("c2", None), ("c3", None)]).await?;
    Ok(())
}

#[tokio::test]
async fn a_parent_that_comes_late_releases_the_held_child() -> Result<()> {
    let (stage, config) = stage("ref_late", "not null references parents", TO_PARENTS).await?;
    stage.collection("children").insert_one(child("c1", "p1")).await?;
    let daemon = Daemon::start(&config)?;
    becomes(&stage, &daemon, HELD, 1).await?;
    let reason = stage.text("select reason || ' ' || column_name from rowstream.held").await?;
    assert_eq!(reason.as_deref(), Some("unresolved_reference parent_id"));
    stage.collection("children").insert_one(child("c2", "p1")).await?;
    becomes(&stage, &daemon, HELD, 2).await?;
    stage.collection("parents").insert_one(doc! { "_id": "p1", "name": "one" }).await?;
    become_children(&stage, &daemon, &[("c1", Some("one")), ("c2", Some("one"))]).await?;
    becomes(&stage, &daemon, HELD, 0).await?;
    becomes(&stage, &daemon, NOBODY_WAITS, 0).await?;
    Ok(())
}

#[tokio::test]
async fn a_null_gives_way_to_the_parent_that_comes_late() -> Result<()> {
    let reference = format!("{TO_PARENTS}, missing: null");
    let (stage, config) = stage("ref_null", "references parents", &reference).await?;
    stage.collection("children").insert_one(child("c1", "p1")).await?;
    let daemon = Daemon::start(&config)?;
    become_children(&stage, &daemon, &[("c1", None)]).await?;
    becomes(&stage, &daemon, HELD, 0).await?;
    // The wait survives a restart.
    anyhow::ensure!(daemon.stop().await?.success());
    stage.collection("parents").insert_one(doc! { "_id": "p1", "name": "one" }).await?;
    let daemon = Daemon::start(&config)?;
    become_children(&stage, &daemon, &[("c1", Some("one"))]).await?;
    becomes(&stage, &daemon, NOBODY_WAITS, 0).await?;
    Ok(())
}

#[tokio::test]
async fn changes_that_are_held_again_and_again_keep_no_other_from_its_turn() -> Result<()> {
    let reference = format!("{TO_PARENTS}, missing: null");
    let (stage, config) = stage("ref_turns", "references parents", &reference).await?;
    stage.execute("alter table children add check (title <> 'bad')").await?;
    // More than are retried at a tick, so that there always are some whose time has come.
    let config = config.replace("held: { retry", "held: { limit: 0, retry");
    let bad = (0..1_600).map(|n| doc! { "_id": format!("bad{n}"), "title": "bad" });
    stage.collection("children").insert_many(bad).await?;
    stage.collection("children").insert_one(child("c1", "p1")).await?;
    let daemon = Daemon::start(&config)?;
    becomes(&stage, &daemon, HELD, 1_600).await?;
    stage.collection("parents").insert_one(doc! { "_id": "p1", "name": "one" }).await?;
    let parent = "select count(*) from children where parent_id is not null";
    becomes(&stage, &daemon, parent, 1).await?;
    // Nor the position of a stream in which nothing happens any more.
    let seq = stage.number("select seq from rowstream.checkpoint").await?;
    becomes(&stage, &daemon, &format!("select count(*) from rowstream.checkpoint where seq > {}", seq + 1), 1)
        .await
}

#[tokio::test]
async fn two_columns_may_wait_for_one_row() -> Result<()> {
    let twice = "ref: { to: parents, from: parent }, missing: null }, second_id: { ref: { to: parents, from: parent, take: id }, \
                 missing: null";
    let (stage, config) = stage("ref_twice", "references parents", twice).await?;
    stage.execute("alter table children add column second_id integer").await?;
    stage.collection("children").insert_one(child("c1", "p1")).await?;
    let daemon = Daemon::start(&config)?;
    become_children(&stage, &daemon, &[("c1", None)]).await?;
    stage.collection("parents").insert_one(doc! { "_id": "p1", "name": "one" }).await?;
    become_children(&stage, &daemon, &[("c1", Some("one"))]).await?;
    becomes(&stage, &daemon, "select count(*) from children where second_id = parent_id", 1).await?;
    becomes(&stage, &daemon, NOBODY_WAITS, 0).await?;
    Ok(())
}

#[tokio::test]
async fn the_first_mapping_that_has_the_row_wins_and_a_better_one_takes_over() -> Result<()> {
    let reference =
        "ref: { to: [parents, others], from: parent, strip_prefix: item_, take: id }, missing: null";
    let (stage, config) = stage("ref_choices", "", reference).await?;
    stage.execute("select setval('others_id_seq', 5000)").await?;
    stage.collection("others").insert_one(doc! { "_id": 7_i64, "name": "seven" }).await?;
    stage.collection("children").insert_one(child("c1", "item_7")).await?;
    let daemon = Daemon::start(&config)?;
    become_children(&stage, &daemon, &[("c1", Some("5001"))]).await?;
    // The same number as text is an id of the first choice.
    stage.collection("parents").insert_one(doc! { "_id": "7", "name": "text seven" }).await?;
    become_children(&stage, &daemon, &[("c1", Some("text seven"))]).await?;
    // When it goes, the second one is good enough again.
    stage.collection("parents").delete_one(doc! { "_id": "7" }).await?;
    become_children(&stage, &daemon, &[("c1", Some("5001"))]).await?;
    Ok(())
}

#[tokio::test]
async fn under_cascade_a_child_is_held_and_comes_back_with_its_parent() -> Result<()> {
    let (stage, config) =
        stage("ref_cascade", "not null references parents on delete cascade", TO_PARENTS).await?;
    stage.collection("parents").insert_one(doc! { "_id": "p1", "name": "one" }).await?;
    stage.collection("children").insert_many([child("c1", "p1"), child("c2", "p1")]).await?;
    let daemon = Daemon::start(&config)?;
    become_children(&stage, &daemon, &[("c1", Some("one")), ("c2", Some("one"))]).await?;
    stage.collection("parents").delete_one(doc! { "_id": "p1" }).await?;
    become_children(&stage, &daemon, &[]).await?;
    becomes(&stage, &daemon, HELD, 2).await?;
    becomes(&stage, &daemon, "select count(*) from parents", 0).await?;
    // What changes meanwhile is not lost either.
    stage
        .collection("children")
        .update_one(doc! { "_id": "c2" }, doc! { "$set": { "title": "new" } })
        .await?;
    stage.collection("parents").insert_one(doc! { "_id": "p1", "name": "again" }).await?;
    become_children(&stage, &daemon, &[("c1", Some("again")), ("c2", Some("again"))]).await?;
    becomes(&stage, &daemon, "select count(*) from children where title = 'new'", 1).await?;
    becomes(&stage, &daemon, HELD, 0).await?;
    Ok(())
}

#[tokio::test]
async fn under_set_null_a_child_loses_its_parent_and_gets_it_back() -> Result<()> {
    let reference = format!("{TO_PARENTS}, missing: null");
    let (stage, config) = stage("ref_set_null", "references parents on delete set null", &reference).await?;
    stage.collection("parents").insert_one(doc! { "_id": "p1", "name": "one" }).await?;
    stage.collection("children").insert_one(child("c1", "p1")).await?;
    let daemon = Daemon::start(&config)?;
    become_children(&stage, &daemon, &[("c1", Some("one"))]).await?;
    stage.collection("parents").delete_one(doc! { "_id": "p1" }).await?;
    become_children(&stage, &daemon, &[("c1", None)]).await?;
    stage.collection("parents").insert_one(doc! { "_id": "p1", "name": "again" }).await?;
    become_children(&stage, &daemon, &[("c1", Some("again"))]).await?;
    Ok(())
}

#[tokio::test]
async fn under_restrict_a_delete_waits_for_the_last_child() -> Result<()> {
    let (stage, config) =
        stage("ref_restrict", "not null references parents on delete restrict", TO_PARENTS).await?;
    stage.collection("parents").insert_one(doc! { "_id": "p1", "name": "one" }).await?;
    stage.collection("children").insert_one(child("c1", "p1")).await?;
    let daemon = Daemon::start(&config)?;
    become_children(&stage, &daemon, &[("c1", Some("one"))]).await?;
    stage.collection("parents").delete_one(doc! { "_id": "p1" }).await?;
    becomes(
        &stage,
        &daemon,
        "select count(*) from rowstream.held where source = 'parents' and state <> 'resolved'",
        1,
    )
    .await?;
    become_children(&stage, &daemon, &[("c1", Some("one"))]).await?;
    stage.collection("children").delete_one(doc! { "_id": "c1" }).await?;
    becomes(&stage, &daemon, "select count(*) from parents", 0).await?;
    becomes(&stage, &daemon, HELD, 0).await?;
    Ok(())
}

#[tokio::test]
async fn dropping_the_parents_settles_every_child_first() -> Result<()> {
    let reference = format!("{TO_PARENTS}, missing: null");
    let (stage, config) = stage("ref_drop", "references parents on delete cascade", &reference).await?;
    stage.collection("parents").insert_one(doc! { "_id": "p1", "name": "one" }).await?;
    stage.collection("children").insert_many([child("c1", "p1"), child("c2", "p1")]).await?;
    let daemon = Daemon::start(&config)?;
    become_children(&stage, &daemon, &[("c1", Some("one")), ("c2", Some("one"))]).await?;
    stage.collection("parents").drop().await?;
    becomes(&stage, &daemon, "select count(*) from parents", 0).await?;
    become_children(&stage, &daemon, &[("c1", None), ("c2", None)]).await?;
    Ok(())
}

#[tokio::test]
async fn a_stub_gives_way_to_the_real_row() -> Result<()> {
    let stage = Stage::new("ref_stub").await?;
    stage
        .execute(
            "create table transactions (id text primary key, source text not null, source_id text not null,
                 at timestamptz, unique (source, source_id));
             create table items (id text primary key, mongo_id text not null unique,
                 transaction_id text not null references transactions on delete cascade)",
        )
        .await?;
    let config = stage.config(&format!(
        "  - source: venmo
    collection: {0}.venmo
    table: transactions
    id_type: string
    allow_empty: true
    columns: {{ id: {{ key: {{ prefix: txn_ }}, write: insert }}, at: {{ from: date, as: unix_seconds }} }}
  - source: items
    collection: {0}.items
    table: items
    id_type: string
    key: {{ source: null, source_id: mongo_id }}
    columns:
      id: {{ key: {{ prefix: li_ }}, write: insert }}
      transaction_id:
        ref: {{ to: [venmo], from: _id, strip_prefix: item_ }}
        missing: {{ create: {{ source: manual, prefix: manual_, columns: {{
          id: {{ key: {{ prefix: txn_ }} }}, at: {{ from: date, as: unix_seconds }} }} }} }}\n",
        stage.name
    ));
    let item = |id: &str| doc! { "_id": id, "date": 1_700_000_000 };
    stage.collection("items").insert_many([item("item_1"), item("item_2")]).await?;
    let daemon = Daemon::start(&config)?;
    const MANUAL: &str = "select count(*) from items join transactions t on t.id = transaction_id
        where t.source = 'manual' and t.source_id = 'manual_' || substr(mongo_id, 6) and t.at = to_timestamp(1700000000)";
    becomes(&stage, &daemon, MANUAL, 2).await?;
    stage.collection("venmo").insert_one(doc! { "_id": "1", "date": 5 }).await?;
    const REAL: &str = "select count(*) from items join transactions t on t.id = transaction_id
        where t.source = 'venmo' and t.source_id = substr(mongo_id, 6)";
    becomes(&stage, &daemon, REAL, 1).await?;
    // The stub went with its last waiter; the other one stays.
    becomes(&stage, &daemon, "select count(*) from transactions where source = 'manual'", 1).await?;
    becomes(&stage, &daemon, "select count(*) from rowstream.stub", 1).await?;
    // A stub that somebody has changed is theirs now.
    stage.execute("update transactions set at = now() where source = 'manual'").await?;
    stage.collection("venmo").insert_one(doc! { "_id": "2", "date": 5 }).await?;
    becomes(&stage, &daemon, REAL, 2).await?;
    becomes(&stage, &daemon, "select count(*) from transactions where source = 'manual'", 1).await?;
    becomes(&stage, &daemon, "select count(*) from rowstream.stub", 0).await?;
    Ok(())
}

#[tokio::test]
async fn a_look_up_finds_a_row_by_other_columns_and_waits_for_one_that_is_missing() -> Result<()> {
    let reference = "lookup: { table: parents, match: { name: parent }, take: id }, missing: null";
    let (stage, config) = stage("ref_lookup", "references parents on delete set null", reference).await?;
    stage.collection("parents").insert_one(doc! { "_id": "p1", "name": "one" }).await?;
    stage.collection("children").insert_many([child("c1", "one"), child("c2", "two")]).await?;
    let daemon = Daemon::start(&config)?;
    become_children(&stage, &daemon, &[("c1", Some("one")), ("c2", None)]).await?;
    stage.collection("parents").insert_one(doc! { "_id": "p2", "name": "two" }).await?;
    become_children(&stage, &daemon, &[("c1", Some("one")), ("c2", Some("two"))]).await?;
    Ok(())
}

#[tokio::test]
async fn a_row_made_for_a_look_up_stays_as_long_as_somebody_uses_it() -> Result<()> {
    let stage = Stage::new("ref_made").await?;
    stage
        .execute(
            "create table categories (id text primary key, name text not null unique);
             create table events (mongo_id text primary key,
                 category_id text references categories on delete cascade)",
        )
        .await?;
    let config = stage.config(&format!(
        "  - source: events
    collection: {}.events
    table: events
    id_type: string
    key: {{ source: null, source_id: mongo_id }}
    columns:
      category_id:
        lookup: {{ table: categories, match: {{ name: category }}, take: id }}
        missing: {{ create: {{ columns: {{ id: {{ key: {{ prefix: cat_ }} }} }} }} }}\n",
        stage.name
    ));
    let event = |id: &str, category: &str| doc! { "_id": id, "category": category };
    let events = stage.collection("events");
    events.insert_many([event("e1", "Food"), event("e2", "Food"), event("e3", "Rent")]).await?;
    let daemon = Daemon::start(&config)?;
    const NAMED: &str = "select count(*) from events join categories c on c.id = category_id";
    becomes(&stage, &daemon, NAMED, 3).await?;
    becomes(&stage, &daemon, "select count(*) from categories", 2).await?;
    // One that comes later finds it, and uses it as well.
    events.insert_one(event("e4", "Food")).await?;
    becomes(&stage, &daemon, NAMED, 4).await?;
    events.delete_many(doc! { "_id": { "$in": ["e1", "e2"] } }).await?;
    becomes(&stage, &daemon, "select count(*) from events", 2).await?;
    becomes(&stage, &daemon, "select count(*) from categories where name = 'Food'", 1).await?;
    events.update_one(doc! { "_id": "e4" }, doc! { "$set": { "category": "Rent" } }).await?;
    becomes(&stage, &daemon, "select count(*) from categories where name = 'Food'", 0).await?;
    becomes(&stage, &daemon, NAMED, 2).await?;
    // What somebody has put there himself is no stub.
    stage.execute("insert into categories values ('own', 'Fun')").await?;
    events.insert_one(event("e5", "Fun")).await?;
    becomes(&stage, &daemon, NAMED, 3).await?;
    events.delete_one(doc! { "_id": "e5" }).await?;
    becomes(&stage, &daemon, "select count(*) from events", 2).await?;
    becomes(&stage, &daemon, "select count(*) from categories where id = 'own'", 1).await?;
    Ok(())
}

#[tokio::test]
async fn many_children_that_come_before_their_parents_settle() -> Result<()> {
    let reference = format!("{TO_PARENTS}, missing: null");
    let (stage, config) = stage("ref_many", "references parents", &reference).await?;
    let documents = (0..20_000).map(|n| child(&format!("c{n:05}"), &format!("p{}", n % 100)));
    stage.collection("children").insert_many(documents).await?;
    let daemon = Daemon::start(&config)?;
    becomes(&stage, &daemon, "select count(*) from children", 20_000).await?;
    stage
        .collection("parents")
        .insert_many((0..100).map(|n| doc! { "_id": format!("p{n}"), "name": n.to_string() }))
        .await?;
    becomes(&stage, &daemon, "select count(*) from children where parent_id is not null", 20_000).await?;
    Ok(())
}

#[tokio::test]
async fn a_reference_that_cannot_work_is_told_before_the_first_write() -> Result<()> {
    let reference = "ref: { to: parent, from: parent }";
    let (_stage, config) = stage("ref_check", "references parents", reference).await?;
    let output = crate::daemon::command(&["check"], &config)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("refers to parent, which is no mapping"), "{text}");
    assert!(text.contains("did you mean parents?"), "{text}");
    assert_eq!(output.status.code(), Some(1), "{text}");
    Ok(())
}
