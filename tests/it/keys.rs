//! Keys of a table's own columns: which document has which row, and what becomes of rows that are there already.

use anyhow::{Context, Result};
use bson::{Document, doc};

use crate::daemon::{Daemon, PATIENCE};
use crate::stage::Stage;
use crate::support::until;

/// Waits until a query gives this text in its first column.
async fn becomes(stage: &Stage, daemon: &Daemon, sql: &str, expected: &str) -> Result<()> {
    let mut last = None;
    let reached = until(sql, PATIENCE, async || {
        last = stage.text(sql).await.unwrap_or_else(|error| Some(error.to_string()));
        Ok((last.as_deref() == Some(expected)).then_some(()))
    })
    .await;
    reached.with_context(|| format!("{last:?} instead of {expected:?}\n{}", daemon.last_words()))
}

/// Rows as `key:name`, in the order of keys.
const ITEMS: &str = "select coalesce(string_agg(id || ':' || name, ' ' order by id), '') from items";
const HELD: &str = "select coalesce(string_agg(source_id || ':' || reason, ' ' order by source_id), '') \
                    from rowstream.held where state <> 'resolved'";

/// One mapping of `items`, keyed by the field `n`; `more` are lines of the mapping.
fn items(stage: &Stage, more: &str) -> String {
    stage.config(&format!(
        "  - source: items
    collection: {}.items
    table: items
    id_type: string
    allow_empty: true
    key: [id]{more}
    columns:
      id: {{ from: n, required: true }}
      name: name\n",
        stage.name
    ))
}

fn item(id: &str, n: i32, name: &str) -> Document {
    doc! { "_id": id, "n": n, "name": name }
}

#[tokio::test]
async fn the_second_document_with_a_key_is_held_naming_the_first_and_released_when_it_leaves() -> Result<()> {
    let stage = Stage::new("keys_held").await?;
    stage
        .execute("create table items (id integer primary key, name text not null, extra text default 'own')")
        .await?;
    let items_of = stage.collection("items");
    items_of.insert_many([item("a", 1, "first"), item("b", 1, "second"), item("c", 2, "other")]).await?;
    let daemon = Daemon::start(&items(&stage, ""))?;
    becomes(&stage, &daemon, ITEMS, "1:first 2:other").await?;
    becomes(&stage, &daemon, HELD, "b:duplicate_key").await?;
    let message = "select message from rowstream.held where source_id = 'b'";
    let message = stage.text(message).await?.context("a message")?;
    assert_eq!(message, "its key is that of the document $string:a of mapping items");

    // By stream: a third for the same key, and one that moves onto a key that is taken.
    items_of.insert_one(item("d", 1, "third")).await?;
    items_of.update_one(doc! { "_id": "c" }, doc! { "$set": { "n": 1, "name": "moving" } }).await?;
    becomes(&stage, &daemon, HELD, "b:duplicate_key c:duplicate_key d:duplicate_key").await?;
    becomes(&stage, &daemon, ITEMS, "1:first 2:other").await?;

    // A document that has no row takes none with it.
    items_of.delete_one(doc! { "_id": "d" }).await?;
    becomes(&stage, &daemon, HELD, "b:duplicate_key c:duplicate_key").await?;
    becomes(&stage, &daemon, ITEMS, "1:first 2:other").await?;

    items_of.update_one(doc! { "_id": "c" }, doc! { "$set": { "n": 3 } }).await?;
    becomes(&stage, &daemon, ITEMS, "1:first 3:moving").await?;
    items_of.delete_one(doc! { "_id": "a" }).await?;
    becomes(&stage, &daemon, ITEMS, "1:second 3:moving").await?;
    becomes(&stage, &daemon, HELD, "").await?;
    assert!(daemon.stop().await?.success());
    Ok(())
}

#[tokio::test]
async fn a_row_moves_with_its_documents_key_and_keeps_what_is_not_mapped() -> Result<()> {
    let stage = Stage::new("keys_moved").await?;
    stage
        .execute(
            "create table items (id integer primary key, name text not null, extra text default 'own');
             create table notes (item integer references items on update cascade)",
        )
        .await?;
    let items_of = stage.collection("items");
    items_of
        .insert_many([item("a", 1, "a"), item("b", 2, "b"), item("c", 3, "c"), item("d", 4, "d")])
        .await?;
    let daemon = Daemon::start(&items(&stage, ""))?;
    becomes(&stage, &daemon, ITEMS, "1:a 2:b 3:c 4:d").await?;
    stage.execute("update items set extra = 'of ' || name; insert into notes values (1), (2)").await?;

    // A swap, in one transaction of MongoDB's; then a chain; then deletes whose keys others take at once.
    let mut session = stage.client.start_session().await?;
    session.start_transaction().await?;
    let of_session = stage.database.collection::<Document>("items");
    of_session.update_one(doc! { "_id": "a" }, doc! { "$set": { "n": 2 } }).session(&mut session).await?;
    of_session.update_one(doc! { "_id": "b" }, doc! { "$set": { "n": 1 } }).session(&mut session).await?;
    session.commit_transaction().await?;
    becomes(&stage, &daemon, ITEMS, "1:b 2:a 3:c 4:d").await?;
    let extras = "select string_agg(id || extra, ' ' order by id) from items";
    becomes(&stage, &daemon, extras, "1of b 2of a 3of c 4of d").await?;
    becomes(&stage, &daemon, "select string_agg(item::text, ' ' order by item) from notes", "1 2").await?;

    session.start_transaction().await?;
    for (id, n) in [("c", 5), ("d", 3)] {
        of_session.update_one(doc! { "_id": id }, doc! { "$set": { "n": n } }).session(&mut session).await?;
    }
    of_session.insert_one(item("e", 4, "e")).session(&mut session).await?;
    session.commit_transaction().await?;
    becomes(&stage, &daemon, ITEMS, "1:b 2:a 3:d 4:e 5:c").await?;
    becomes(&stage, &daemon, extras, "1of b 2of a 3of d 4own 5of c").await?;

    session.start_transaction().await?;
    of_session.delete_one(doc! { "_id": "c" }).session(&mut session).await?;
    of_session.insert_one(item("f", 5, "f")).session(&mut session).await?;
    session.commit_transaction().await?;
    becomes(&stage, &daemon, ITEMS, "1:b 2:a 3:d 4:e 5:f").await?;
    becomes(&stage, &daemon, HELD, "").await?;
    assert!(daemon.stop().await?.success());

    // A foreign key that does not follow keeps the row where it is, and the document is held.
    stage
        .execute("alter table notes drop constraint notes_item_fkey, add foreign key (item) references items")
        .await?;
    let daemon = Daemon::start(&items(&stage, ""))?;
    items_of.update_one(doc! { "_id": "a" }, doc! { "$set": { "n": 9 } }).await?;
    becomes(&stage, &daemon, HELD, "a:foreign_key_violation").await?;
    becomes(&stage, &daemon, ITEMS, "1:b 2:a 3:d 4:e 5:f").await?;
    stage.execute("delete from notes").await?;
    becomes(&stage, &daemon, ITEMS, "1:b 3:d 4:e 5:f 9:a").await?;
    becomes(&stage, &daemon, HELD, "").await?;
    assert!(daemon.stop().await?.success());
    Ok(())
}

#[tokio::test]
async fn chunks_side_by_side_lose_no_document_when_they_bring_the_same_key() -> Result<()> {
    let stage = Stage::new("keys_chunks").await?;
    stage.execute("create table items (id integer primary key, name text not null)").await?;
    // Every key three times, far apart.
    let documents = (0..3_000).map(|n| item(&format!("{n:04}"), n % 1_000, &format!("{n}")));
    stage.collection("items").insert_many(documents).await?;
    let config = format!("{}\nsnapshot: {{ workers: 4, chunk_documents: 100 }}\n", items(&stage, ""))
        .replace("held: { ", "held: { limit: 5000, ");
    let daemon = Daemon::start(&config)?;
    becomes(&stage, &daemon, "select count(*) from items", "1000").await?;
    becomes(&stage, &daemon, "select count(*) from rowstream.held where state <> 'resolved'", "2000").await?;
    let agree = "select count(*) from items join rowstream.row on int8send(items.id) = substr(row_key, 5)
                 where items.name::int = source_id::int";
    becomes(&stage, &daemon, agree, "1000").await?;
    becomes(&stage, &daemon, "select count(distinct wants) from rowstream.row where row_key is null", "1000")
        .await?;
    assert!(daemon.stop().await?.success());
    Ok(())
}

#[tokio::test]
async fn a_drop_takes_our_rows_and_no_others() -> Result<()> {
    let stage = Stage::new("keys_drop").await?;
    stage.execute("create table items (id integer primary key, name text not null)").await?;
    stage.collection("items").insert_many([item("a", 1, "a"), item("b", 2, "b")]).await?;
    let daemon = Daemon::start(&items(&stage, ""))?;
    becomes(&stage, &daemon, ITEMS, "1:a 2:b").await?;
    stage.execute("insert into items values (7, 'application')").await?;
    // A document that comes to a row of the application's does not write over it.
    stage.collection("items").insert_one(item("c", 7, "c")).await?;
    becomes(&stage, &daemon, HELD, "c:duplicate_key").await?;
    stage.collection("items").drop().await?;
    becomes(&stage, &daemon, ITEMS, "7:application").await?;
    becomes(&stage, &daemon, "select count(*) from rowstream.row", "0").await?;
    assert!(daemon.stop().await?.success());
    Ok(())
}

#[tokio::test]
async fn several_documents_stand_for_one_row_and_the_lowest_writes_it() -> Result<()> {
    let stage = Stage::new("keys_shared").await?;
    stage.execute("create table items (id integer primary key, name text not null, names jsonb)").await?;
    let items_of = stage.collection("items");
    items_of.insert_many([item("b", 1, "of b"), item("c", 1, "of c"), item("d", 2, "of d")]).await?;
    let config = items(&stage, "\n    shared: true")
        .replace("      name: name\n", "      name: name\n      names: { collect: name, distinct: true }\n");
    let daemon = Daemon::start(&config)?;
    const NAMES: &str = "select string_agg(id || ':' || name || names::text, ' ' order by id) from items";
    becomes(&stage, &daemon, NAMES, r#"1:of b["of b", "of c"] 2:of d["of d"]"#).await?;
    items_of.insert_one(item("a", 1, "of a")).await?;
    becomes(&stage, &daemon, NAMES, r#"1:of a["of a", "of b", "of c"] 2:of d["of d"]"#).await?;
    items_of.update_one(doc! { "_id": "c" }, doc! { "$set": { "name": "of b" } }).await?;
    becomes(&stage, &daemon, NAMES, r#"1:of a["of a", "of b"] 2:of d["of d"]"#).await?;
    items_of.update_one(doc! { "_id": "a" }, doc! { "$set": { "n": 2 } }).await?;
    becomes(&stage, &daemon, NAMES, r#"1:of b["of b"] 2:of a["of a", "of d"]"#).await?;
    items_of.delete_many(doc! { "_id": { "$in": ["a", "d"] } }).await?;
    becomes(&stage, &daemon, NAMES, r#"1:of b["of b"]"#).await?;
    items_of.delete_one(doc! { "_id": "b" }).await?;
    becomes(&stage, &daemon, NAMES, r#"1:of b["of b"]"#).await?;
    items_of.delete_one(doc! { "_id": "c" }).await?;
    becomes(&stage, &daemon, "select count(*) from items", "0").await?;
    becomes(&stage, &daemon, HELD, "").await?;
    assert!(daemon.stop().await?.success());
    Ok(())
}

/// Tables that an earlier script has filled: rows without an owner, with ids of their own.
async fn half_filled(stage: &Stage) -> Result<()> {
    stage
        .execute(
            "create table users (
                 id serial primary key, mongo_id text unique, email text not null unique, name text,
                 imported_by text not null default 'app', extra text);
             insert into users (id, email, name, imported_by, extra)
             select 100 + n, 'user' || n || '@example.com', 'old', 'script', 'kept' from generate_series(1, 3) as n",
        )
        .await
}

fn user(id: &str, number: i32, name: &str) -> Document {
    doc! { "_id": id, "email": format!("user{number}@example.com"), "name": name }
}

fn users(stage: &Stage, more: &str) -> String {
    stage.config(&format!(
        "  - source: users
    collection: {}.users
    table: users
    id_type: string
    allow_empty: true
    key: {{ source: null, source_id: mongo_id }}{more}
    columns:
      email: email
      name: name
      imported_by: {{ value: rowstream, write: insert }}\n",
        stage.name
    ))
}

const USERS: &str =
    // What the sequence gives next is below 101, and may have gaps.
    "select string_agg(concat_ws(' ', case when id < 101 then 1 else id end, mongo_id, name, imported_by, extra), ', '
                       order by id) from users";

#[tokio::test]
async fn rows_of_an_earlier_script_are_taken_over_with_their_ids_by_snapshot_and_by_stream() -> Result<()> {
    let stage = Stage::new("keys_adopt").await?;
    half_filled(&stage).await?;
    let users_of = stage.collection("users");
    users_of.insert_many([user("a", 1, "Ann"), user("z", 9, "Zoe")]).await?;

    // Without adopt, nobody begins.
    let daemon = Daemon::start(&users(&stage, ""))?;
    daemon.logged("has rows that belong to no document, and documents can meet them in (email)").await?;
    daemon.stop().await?;

    let daemon = Daemon::start(&users(&stage, "\n    adopt: [email]"))?;
    let snapshot = "1 z Zoe rowstream, 101 a Ann script kept, 102 old script kept, 103 old script kept";
    becomes(&stage, &daemon, USERS, snapshot).await?;
    users_of.insert_many([user("b", 2, "Bob"), user("c", 2, "also user2")]).await?;
    users_of.update_one(doc! { "_id": "a" }, doc! { "$set": { "email": "ann@example.com" } }).await?;
    let stream = "1 z Zoe rowstream, 101 a Ann script kept, 102 b Bob script kept, 103 old script kept";
    becomes(&stage, &daemon, USERS, stream).await?;
    becomes(&stage, &daemon, HELD, "c:unique_violation").await?;
    becomes(&stage, &daemon, "select email from users where id = 101", "ann@example.com").await?;
    users_of.delete_one(doc! { "_id": "b" }).await?;
    becomes(&stage, &daemon, "select string_agg(mongo_id, ' ' order by mongo_id) from users", "a c z")
        .await?;
    assert!(daemon.stop().await?.success());

    // Everything once more, without what was remembered.
    stage.execute("drop schema rowstream cascade").await?;
    users_of.insert_one(user("d", 3, "Dan")).await?;
    let daemon = Daemon::start(&users(&stage, "\n    adopt: [email]"))?;
    becomes(&stage, &daemon, "select name || id from users where mongo_id = 'd'", "Dan103").await?;
    becomes(&stage, &daemon, "select id || extra from users where mongo_id = 'a'", "101kept").await?;
    becomes(&stage, &daemon, "select count(*) from users where mongo_id is null", "0").await?;
    assert!(daemon.stop().await?.success());
    Ok(())
}

#[tokio::test]
async fn a_derived_key_gives_way_to_that_of_the_row_that_is_taken_over() -> Result<()> {
    let stage = Stage::new("keys_derived").await?;
    stage
        .execute(
            "create table users (id text primary key, email text unique, name text);
             insert into users values ('old 1', 'user1@example.com', 'old'), ('old 2', 'user2@example.com', 'old')",
        )
        .await?;
    let config = stage.config(&format!(
        "  - source: users
    collection: {}.users
    table: users
    id_type: string
    allow_empty: true
    key: [id]
    adopt: [email]
    columns:
      id: {{ key: {{ prefix: usr_ }} }}
      email: email
      name: name\n",
        stage.name
    ));
    let users_of = stage.collection("users");
    users_of.insert_many([user("a", 1, "Ann"), user("z", 9, "Zoe")]).await?;
    let daemon = Daemon::start(&config)?;
    const ROWS: &str = "select string_agg(substr(id, 1, 5) || ':' || name, ' ' order by id) from users";
    becomes(&stage, &daemon, "select name from users where id = 'old 1'", "Ann").await?;
    becomes(&stage, &daemon, "select substr(id, 1, 4) from users where name = 'Zoe'", "usr_").await?;
    users_of.insert_one(user("b", 2, "Bob")).await?;
    becomes(&stage, &daemon, "select name from users where id = 'old 2'", "Bob").await?;
    // From now on it is found by its claim, whatever its other columns say.
    users_of
        .update_one(doc! { "_id": "a" }, doc! { "$set": { "email": "ann@example.com", "name": "Anna" } })
        .await?;
    becomes(&stage, &daemon, "select name || email from users where id = 'old 1'", "Annaann@example.com")
        .await?;
    users_of.delete_one(doc! { "_id": "a" }).await?;
    becomes(&stage, &daemon, "select count(*) from users", "2").await?;
    let rows = stage.text(ROWS).await?.context("rows")?;
    assert!(rows.starts_with("old 2:Bob usr_"), "{rows}");
    becomes(&stage, &daemon, HELD, "").await?;
    users_of.drop().await?;
    becomes(&stage, &daemon, "select count(*) from users", "0").await?;
    assert!(daemon.stop().await?.success());
    Ok(())
}

#[tokio::test]
async fn a_sequence_stays_past_what_is_written_and_a_plain_insert_does_not_collide() -> Result<()> {
    let stage = Stage::new("keys_sequence").await?;
    stage
        .execute(
            "create table items (id serial primary key, name text not null, position int generated by default as identity);
             insert into items (id, name) values (3, 'of dual write')",
        )
        .await?;
    let items_of = stage.collection("items");
    items_of.insert_many((1..=40).map(|n| item(&format!("{n:02}"), n, "copied"))).await?;
    // Rows of the application's dual write have the ids of their documents.
    let daemon = Daemon::start(&items(&stage, "\n    adopt: [id]"))?;
    becomes(&stage, &daemon, "select count(*) from items where name = 'copied'", "40").await?;
    stage.execute("insert into items (name) values ('inserted')").await?;
    becomes(&stage, &daemon, "select id from items where name = 'inserted'", "41").await?;
    // Far ahead, and near, by stream; and a lower one does not take it back.
    for (n, next) in [(5_000, 5_001), (5_010, 5_011), (4_000, 5_012)] {
        items_of.insert_one(item(&format!("n{n}"), n, "followed")).await?;
        becomes(&stage, &daemon, &format!("select name from items where id = {n}"), "followed").await?;
        stage.execute(&format!("insert into items (name) values ('after {n}')")).await?;
        becomes(
            &stage,
            &daemon,
            &format!("select id from items where name = 'after {n}'"),
            &next.to_string(),
        )
        .await?;
    }
    let positions = "select count(*) - count(distinct position) from items";
    becomes(&stage, &daemon, positions, "0").await?;
    assert!(daemon.stop().await?.success());
    Ok(())
}

#[tokio::test]
async fn a_kept_row_goes_to_the_next_document_with_its_key_and_a_changed_key_is_no_start() -> Result<()> {
    let stage = Stage::new("keys_kept").await?;
    stage.execute("create table items (id integer primary key, name text not null unique)").await?;
    let items_of = stage.collection("items");
    items_of.insert_many([item("a", 1, "a"), item("b", 2, "b")]).await?;
    let config = items(&stage, "\n    deletes: keep");
    let daemon = Daemon::start(&config)?;
    becomes(&stage, &daemon, ITEMS, "1:a 2:b").await?;
    items_of.delete_one(doc! { "_id": "a" }).await?;
    items_of.insert_one(item("c", 1, "c")).await?;
    becomes(&stage, &daemon, ITEMS, "1:c 2:b").await?;
    becomes(&stage, &daemon, HELD, "").await?;
    daemon.kill9()?;

    // Another key of the same table says nothing about the rows that were written by the first.
    let other = config.replace("key: [id]", "key: [name]");
    let daemon = Daemon::start(&other)?;
    daemon
        .logged("has the key public.items (name) now, and its rows were written as public.items (id)")
        .await?;
    daemon.stop().await?;
    let daemon = Daemon::start(&config)?;
    items_of.insert_one(item("d", 4, "d")).await?;
    becomes(&stage, &daemon, ITEMS, "1:c 2:b 4:d").await?;
    assert!(daemon.stop().await?.success());
    Ok(())
}

#[tokio::test]
async fn a_document_without_a_key_or_with_one_that_does_not_fit_is_held_and_stops_nobody() -> Result<()> {
    let stage = Stage::new("keys_bad").await?;
    stage
        .execute("create table items (id smallint primary key check (id <> 13), name text not null)")
        .await?;
    let items_of = stage.collection("items");
    items_of
        .insert_many([item("bad check", 13, "x"), item("bad range", 70_000, "x"), item("good", 1, "1")])
        .await?;
    items_of.insert_one(doc! { "_id": "none", "name": "x" }).await?;
    items_of.insert_one(doc! { "_id": "text", "n": "7", "name": "x" }).await?;
    let daemon = Daemon::start(&items(&stage, ""))?;
    let held = "bad check:constraint bad range:out_of_range none:missing_required text:wrong_type";
    becomes(&stage, &daemon, HELD, held).await?;
    becomes(&stage, &daemon, ITEMS, "1:1").await?;
    becomes(&stage, &daemon, "select count(*) from rowstream.row where row_key is not null", "1").await?;

    // Repaired, each heals; a document whose key is refused later keeps its row as it was.
    items_of
        .update_many(
            doc! { "_id": { "$ne": "good" } },
            vec![doc! { "$set": { "n": { "$strLenCP": "$_id" } } }],
        )
        .await?;
    items_of.update_one(doc! { "_id": "good" }, doc! { "$set": { "n": 13 } }).await?;
    becomes(&stage, &daemon, HELD, "bad range:duplicate_key good:constraint text:duplicate_key").await?;
    becomes(&stage, &daemon, ITEMS, "1:1 4:x 9:x").await?;
    assert!(daemon.stop().await?.success());
    Ok(())
}

#[tokio::test]
async fn rows_that_refer_to_one_another_are_found_by_their_claims() -> Result<()> {
    let stage = Stage::new("keys_refer").await?;
    stage
        .execute(
            "create table parents (id integer primary key, name text);
             create table children (id integer primary key, parent_id integer references parents on delete cascade)",
        )
        .await?;
    let mapping = |name: &str, columns: &str| {
        format!(
            "  - source: {name}
    collection: {}.{name}
    table: {name}
    id_type: string
    allow_empty: true
    key: [id]
    columns:
      id: {{ from: n, required: true }}
{columns}",
            stage.name
        )
    };
    let child = "      parent_id: { ref: { to: parents, from: parent }, missing: null }\n";
    let config =
        stage.config(&format!("{}{}", mapping("parents", "      name: name\n"), mapping("children", child)));
    let parents = stage.collection("parents");
    parents.insert_many([item("p", 7, "p"), item("q", 8, "q")]).await?;
    let children = [("a", 1, "p"), ("b", 2, "q"), ("c", 3, "late")];
    let children = children.map(|(id, n, parent)| doc! { "_id": id, "n": n, "parent": parent });
    stage.collection("children").insert_many(children).await?;
    let daemon = Daemon::start(&config)?;
    const CHILDREN: &str =
        "select string_agg(id || ':' || coalesce(parent_id::text, ''), ' ' order by id) from children";
    becomes(&stage, &daemon, CHILDREN, "1:7 2:8 3:").await?;
    parents.insert_one(item("late", 9, "late")).await?;
    becomes(&stage, &daemon, CHILDREN, "1:7 2:8 3:9").await?;
    // PostgreSQL would delete the child, which nobody would write again.
    parents.delete_one(doc! { "_id": "p" }).await?;
    becomes(&stage, &daemon, CHILDREN, "1: 2:8 3:9").await?;
    parents.insert_one(item("p", 17, "p again")).await?;
    becomes(&stage, &daemon, CHILDREN, "1:17 2:8 3:9").await?;
    parents.drop().await?;
    becomes(&stage, &daemon, CHILDREN, "1: 2: 3:").await?;
    becomes(&stage, &daemon, "select count(*) from parents", "0").await?;
    becomes(&stage, &daemon, HELD, "").await?;
    assert!(daemon.stop().await?.success());
    Ok(())
}
