//! Rows that others find by what stands in them: when they go, whoever found them is settled first.

use anyhow::{Context, Result};
use bson::doc;

use crate::daemon::{Daemon, PATIENCE};
use crate::stage::Stage;
use crate::support::until;

const TABLES: &str = "
    create table methods (id serial primary key, mongo_id text unique, name text not null unique);
    create table items (mongo_id text primary key, method_id integer references methods on delete RULE);";

const HELD: &str = "select count(*) from rowstream.held where state <> 'resolved'";
const METHODS: &str = "select count(*) from methods";

/// Items that look their method up by its name.
async fn stage(name: &str, on_delete: &str, methods: &str) -> Result<(Stage, Daemon)> {
    let stage = Stage::new(name).await?;
    stage.execute(&TABLES.replace("RULE", on_delete)).await?;
    stage
        .collection("methods")
        .insert_many([doc! { "_id": "m1", "name": "cash" }, doc! { "_id": "m2", "name": "card" }])
        .await?;
    stage
        .collection("items")
        .insert_many([doc! { "_id": "i1", "method": "cash" }, doc! { "_id": "i2", "method": "card" }])
        .await?;
    let config = stage.config(&format!(
        "  - {{ source: methods, collection: {0}.methods, table: methods, id_type: string, {methods},
        columns: {{ name: name }} }}
  - source: items
    collection: {0}.items
    table: items
    id_type: string
    key: {{ source: null, source_id: mongo_id }}
    columns: {{ method_id: {{ lookup: {{ table: methods, match: {{ name: method }}, take: id }}, missing: null }} }}\n",
        stage.name
    ));
    let daemon = Daemon::start(&config)?;
    becomes(&stage, &daemon, "i1 cash, i2 card").await?;
    Ok((stage, daemon))
}

/// Every item with the name of its method.
async fn becomes(stage: &Stage, daemon: &Daemon, wanted: &str) -> Result<()> {
    let sql = "select string_agg(items.mongo_id || ' ' || coalesce(name, '-'), ', ' order by items.mongo_id)
               from items left join methods on methods.id = method_id";
    let mut last = None;
    let reached = until("the items", PATIENCE, async || {
        last = stage.text(sql).await.ok().flatten();
        Ok((last.as_deref() == Some(wanted)).then_some(()))
    });
    reached.await.with_context(|| format!("wanted {wanted}, found {last:?}; {}", daemon.last_words()))
}

async fn counts(stage: &Stage, daemon: &Daemon, sql: &str, number: i64) -> Result<()> {
    let reached =
        until(sql, PATIENCE, async || Ok((stage.number(sql).await.ok() == Some(number)).then_some(())));
    reached.await.with_context(|| daemon.last_words())
}

const OF_DOCUMENTS: &str = "key: { source: null, source_id: mongo_id }";
const SHARED: &str = "key: [name], shared: true";

#[tokio::test]
async fn a_row_that_is_found_by_its_name_leaves_those_who_refer_to_it() -> Result<()> {
    for (rule, on_delete) in [("restrict", "restrict"), ("cascade", "cascade"), ("set_null", "set null")] {
        let (stage, daemon) = stage(&format!("lookup_{rule}"), on_delete, OF_DOCUMENTS).await?;
        stage.collection("methods").delete_one(doc! { "_id": "m1" }).await?;
        becomes(&stage, &daemon, "i1 -, i2 card").await?;
        counts(&stage, &daemon, METHODS, 1).await?;
        counts(&stage, &daemon, HELD, 0).await?;
        stage.collection("methods").insert_one(doc! { "_id": "m3", "name": "cash" }).await?;
        becomes(&stage, &daemon, "i1 cash, i2 card").await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_row_of_several_documents_stays_until_the_last_of_them_leaves() -> Result<()> {
    let (stage, daemon) = stage("lookup_shared", "restrict", SHARED).await?;
    let methods = stage.collection("methods");
    methods.insert_one(doc! { "_id": "m0", "name": "cash" }).await?;
    counts(&stage, &daemon, "select count(*) from rowstream.row", 3).await?;
    methods.delete_one(doc! { "_id": "m1" }).await?;
    counts(&stage, &daemon, "select count(*) from rowstream.row", 2).await?;
    becomes(&stage, &daemon, "i1 cash, i2 card").await?;
    methods.delete_one(doc! { "_id": "m0" }).await?;
    becomes(&stage, &daemon, "i1 -, i2 card").await?;
    counts(&stage, &daemon, METHODS, 1).await?;
    counts(&stage, &daemon, HELD, 0).await?;
    // Two of one name that leave together.
    methods.insert_many([doc! { "_id": "m4", "name": "card" }]).await?;
    counts(&stage, &daemon, "select count(*) from rowstream.row", 2).await?;
    methods.delete_many(doc! { "name": "card" }).await?;
    becomes(&stage, &daemon, "i1 -, i2 -").await?;
    counts(&stage, &daemon, METHODS, 0).await?;
    counts(&stage, &daemon, HELD, 0).await?;
    Ok(())
}

#[tokio::test]
async fn a_dropped_collection_leaves_those_who_found_its_rows_by_name() -> Result<()> {
    for (name, key) in [("lookup_drop", OF_DOCUMENTS), ("lookup_drop_shared", SHARED)] {
        let (stage, daemon) = stage(name, "restrict", key).await?;
        stage.collection("methods").drop().await?;
        becomes(&stage, &daemon, "i1 -, i2 -").await?;
        counts(&stage, &daemon, METHODS, 0).await?;
        counts(&stage, &daemon, HELD, 0).await?;
    }
    Ok(())
}

#[tokio::test]
async fn another_row_of_the_same_name_takes_the_place_of_the_one_that_leaves() -> Result<()> {
    let (stage, daemon) = stage("lookup_other", "restrict", OF_DOCUMENTS).await?;
    stage.execute("alter table methods drop constraint methods_name_key").await?;
    stage.collection("methods").insert_one(doc! { "_id": "m9", "name": "cash" }).await?;
    counts(&stage, &daemon, METHODS, 3).await?;
    let first = stage.number("select method_id from items where mongo_id = 'i1'").await?;
    stage.collection("methods").delete_one(doc! { "_id": "m1" }).await?;
    counts(&stage, &daemon, METHODS, 2).await?;
    becomes(&stage, &daemon, "i1 cash, i2 card").await?;
    assert_ne!(stage.number("select method_id from items where mongo_id = 'i1'").await?, first);
    Ok(())
}

#[tokio::test]
async fn a_name_that_changes_leaves_those_who_found_the_row_by_it() -> Result<()> {
    let keys = [("source_id", OF_DOCUMENTS), ("fields", "key: [name]"), ("shared", SHARED)];
    for (name, key) in keys {
        let (stage, daemon) = stage(&format!("lookup_name_{name}"), "restrict", key).await?;
        let rename = async |id: &str, name: &str| {
            let change = doc! { "$set": { "name": name } };
            stage.collection("methods").update_one(doc! { "_id": id }, change).await
        };
        rename("m1", "coins").await?;
        becomes(&stage, &daemon, "i1 -, i2 card").await.context(name)?;
        rename("m1", "cash").await?;
        becomes(&stage, &daemon, "i1 cash, i2 card").await.context(name)?;
        // Two that exchange their names, in one transaction: each item has the other's row then.
        rename("m1", "x").await?;
        rename("m2", "cash").await?;
        rename("m1", "card").await?;
        becomes(&stage, &daemon, "i1 cash, i2 card").await.context(name)?;
        counts(&stage, &daemon, METHODS, 2).await?;
        counts(&stage, &daemon, HELD, 0).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_value_that_is_taken_from_a_row_follows_it() -> Result<()> {
    let stage = Stage::new("lookup_taken").await?;
    stage
        .execute(
            "create table methods (mongo_id text primary key, name text);
             create table items (mongo_id text primary key, method text);",
        )
        .await?;
    let config = stage.config(&format!(
        "  - {{ source: methods, collection: {0}.methods, table: methods, id_type: string,
        key: {{ source: null, source_id: mongo_id }}, columns: {{ name: name }} }}
  - source: items
    collection: {0}.items
    table: items
    id_type: string
    key: {{ source: null, source_id: mongo_id }}
    columns: {{ method: {{ ref: {{ to: methods, from: method, take: name }}, missing: null }} }}\n",
        stage.name
    ));
    stage.collection("methods").insert_one(doc! { "_id": "m1", "name": "cash" }).await?;
    stage.collection("items").insert_one(doc! { "_id": "i1", "method": "m1" }).await?;
    let daemon = Daemon::start(&config)?;
    counts(&stage, &daemon, "select count(*) from items where method = 'cash'", 1).await?;
    let change = doc! { "$set": { "name": "coins" } };
    stage.collection("methods").update_one(doc! { "_id": "m1" }, change).await?;
    counts(&stage, &daemon, "select count(*) from items where method = 'coins'", 1).await?;
    counts(&stage, &daemon, "select count(*) from rowstream.wait", 0).await?;
    Ok(())
}

#[tokio::test]
async fn a_row_made_for_a_look_up_becomes_that_of_the_document_that_comes_late() -> Result<()> {
    let adopting = "key: [code]";
    let keys =
        [("source_id", OF_DOCUMENTS), ("fields", "key: [name]"), ("shared", SHARED), ("other", adopting)];
    for (name, key) in keys {
        let stage = Stage::new(&format!("lookup_late_{name}")).await?;
        stage
            .execute(
                "create table methods (id serial primary key, mongo_id text unique, name text not null unique,
                     code text unique, fee int);
                 create table items (mongo_id text primary key, method_id integer references methods);",
            )
            .await?;
        let config = stage.config(&format!(
            "  - {{ source: methods, collection: {0}.methods, table: methods, id_type: string, allow_empty: true,
        {key}, columns: {{ name: name, fee: fee, code: code }} }}
  - source: items
    collection: {0}.items
    table: items
    id_type: string
    allow_empty: true
    key: {{ source: null, source_id: mongo_id }}
    columns:
      method_id:
        lookup: {{ table: methods, match: {{ name: method }}, take: id }}
        missing: {{ create: {{ columns: {{ code: method }} }} }}\n",
            stage.name
        ));
        let daemon = Daemon::start(&config)?;
        stage.collection("items").insert_one(doc! { "_id": "i1", "method": "cash" }).await?;
        becomes(&stage, &daemon, "i1 cash").await.context(name)?;
        counts(&stage, &daemon, "select count(*) from rowstream.stub", 1).await?;
        let id = stage.number("select id from methods").await?;
        stage
            .collection("methods")
            .insert_one(doc! { "_id": "m1", "name": "cash", "fee": 3, "code": "cash" })
            .await?;
        let there = format!("select count(*) from methods where fee = 3 and id = {id}");
        counts(&stage, &daemon, &there, 1).await.context(name)?;
        counts(&stage, &daemon, METHODS, 1).await?;
        counts(&stage, &daemon, "select count(*) from rowstream.stub", 0).await?;
        counts(&stage, &daemon, HELD, 0).await?;
        // It is the document's now: with its last item it does not go.
        stage.collection("items").delete_one(doc! { "_id": "i1" }).await?;
        counts(&stage, &daemon, "select count(*) from items", 0).await?;
        counts(&stage, &daemon, METHODS, 1).await?;
        let change = doc! { "$set": { "fee": 4 } };
        stage.collection("methods").update_one(doc! { "_id": "m1" }, change).await?;
        counts(&stage, &daemon, "select count(*) from methods where fee = 4", 1).await.context(name)?;
    }
    Ok(())
}

#[tokio::test]
async fn each_of_very_many_who_wait_is_found_by_the_row_it_waits_for() -> Result<()> {
    let stage = Stage::new("lookup_many").await?;
    // Equal numbers have many forms, equal texts have one: two ways to find who waits.
    stage
        .execute(
            "create table methods (mongo_id text primary key, name text unique, rate numeric unique);
             create table items (mongo_id text primary key, by_name text, by_rate text);
             create index on items (by_name); create index on items (by_rate)",
        )
        .await?;
    let config = stage.config(&format!(
        "  - {{ source: methods, collection: {0}.methods, table: methods, id_type: string, allow_empty: true,
        key: [mongo_id], columns: {{ mongo_id: _id, name: name, rate: {{ from: rate, as: number }} }} }}
  - source: items
    collection: {0}.items
    table: items
    id_type: int
    key: {{ source: null, source_id: mongo_id }}
    columns:
      by_name: {{ lookup: {{ table: methods, match: {{ name: of }}, take: mongo_id }}, missing: null }}
      by_rate: {{ lookup: {{ table: methods, match: {{ rate: rate }}, take: mongo_id }}, missing: null }}\n",
        stage.name
    ));
    let items = (0..12_000).map(|n| doc! { "_id": n, "of": format!("m{n}"), "rate": n });
    stage.collection("items").insert_many(items).await?;
    let daemon = Daemon::start(&config)?;
    counts(&stage, &daemon, "select count(*) from rowstream.wait", 24_000).await?;
    let methods = (0..12_000).step_by(300);
    let methods =
        methods.map(|n| doc! { "_id": format!("m{n}"), "name": format!("m{n}"), "rate": format!("{n}.0") });
    stage.collection("methods").insert_many(methods).await?;
    let found = |column: &str| format!("select count(*) from items where {column} = 'm' || mongo_id");
    counts(&stage, &daemon, &found("by_name"), 40).await?;
    counts(&stage, &daemon, &found("by_rate"), 40).await?;
    counts(&stage, &daemon, "select count(*) from rowstream.wait", 23_920).await?;
    Ok(())
}

#[tokio::test]
async fn a_row_that_somebody_needs_by_its_name_is_made_again_when_its_document_leaves() -> Result<()> {
    let cases = [
        ("restrict", "integer references methods on delete restrict", OF_DOCUMENTS),
        ("cascade", "integer not null references methods on delete cascade", OF_DOCUMENTS),
        ("set_null", "integer references methods on delete set null", OF_DOCUMENTS),
        ("fields", "integer references methods", "key: [name]"),
        ("shared", "integer references methods", SHARED),
    ];
    for (name, column, key) in cases {
        let stage = Stage::new(&format!("lookup_again_{name}")).await?;
        stage
            .execute(&format!(
                "create table methods (id serial primary key, mongo_id text unique, name text not null unique);
                 create table items (mongo_id text primary key, method_id {column});
                 create table item_methods (item text references items, place int, method_id integer not null {0},
                     primary key (item, place))",
                column.trim_start_matches("integer ").trim_start_matches("not null ")
            ))
            .await?;
        let by_name = |path: &str| {
            format!(
                "{{ lookup: {{ table: methods, match: {{ name: {path} }}, take: id }}, missing: {{ create: {{ columns: {{}} }} }} }}"
            )
        };
        let config = stage.config(&format!(
            "  - {{ source: methods, collection: {0}.methods, table: methods, id_type: string, {key}, columns: {{ name: name }} }}
  - source: items
    collection: {0}.items
    table: items
    id_type: string
    key: {{ source: null, source_id: mongo_id }}
    columns: {{ method_id: {1} }}
    children:
      - {{ table: item_methods, each: also, key: [item, place],
          columns: {{ item: $parent, place: $index, method_id: {2} }} }}\n",
            stage.name,
            by_name("method"),
            by_name("$element")
        ));
        let methods = stage.collection("methods");
        methods
            .insert_many([doc! { "_id": "m1", "name": "cash" }, doc! { "_id": "m2", "name": "card" }])
            .await?;
        stage
            .collection("items")
            .insert_many([
                doc! { "_id": "i1", "method": "cash" },
                doc! { "_id": "i2", "method": "card", "also": ["card", "cash"] },
            ])
            .await?;
        let daemon = Daemon::start(&config)?;
        becomes(&stage, &daemon, "i1 cash, i2 card").await.context(name)?;
        counts(&stage, &daemon, "select count(*) from rowstream.stub", 0).await.context(name)?;
        methods.delete_one(doc! { "_id": "m1" }).await?;
        // Once more as a stub, and not the row that was there.
        const MADE: &str = "select count(*) from rowstream.stub";
        counts(&stage, &daemon, MADE, 1).await.context(name)?;
        becomes(&stage, &daemon, "i1 cash, i2 card").await.context(name)?;
        const ALSO: &str = "select count(*) from item_methods join methods on methods.id = method_id";
        counts(&stage, &daemon, ALSO, 2).await.context(name)?;
        counts(&stage, &daemon, METHODS, 2).await.context(name)?;
        counts(&stage, &daemon, "select count(*) from methods where mongo_id = 'm1'", 0)
            .await
            .context(name)?;
        counts(&stage, &daemon, HELD, 0).await.context(name)?;
        // It gives way to a document as the first time.
        methods.insert_one(doc! { "_id": "m3", "name": "cash" }).await?;
        counts(&stage, &daemon, MADE, 0).await.context(name)?;
        becomes(&stage, &daemon, "i1 cash, i2 card").await.context(name)?;
        counts(&stage, &daemon, METHODS, 2).await.context(name)?;
    }
    Ok(())
}

#[tokio::test]
async fn a_value_too_long_to_be_awaited_holds_its_document_until_the_row_is_there() -> Result<()> {
    let stage = Stage::new("lookup_long").await?;
    // Texts of citext that are equal may have many forms: their hashes say nothing.
    stage
        .execute(
            "create extension if not exists citext;
             create table methods (mongo_id text primary key, name citext, code text);
             create table items (mongo_id text primary key, by_name text, by_code text)",
        )
        .await?;
    let by = |column: &str| {
        format!(
            "{{ lookup: {{ table: methods, match: {{ {column}: {column} }}, take: mongo_id }}, missing: null }}"
        )
    };
    let config = stage.config(&format!(
        "  - {{ source: methods, collection: {0}.methods, table: methods, id_type: string, allow_empty: true,
        key: [mongo_id], columns: {{ mongo_id: _id, name: name, code: code }} }}
  - {{ source: items, collection: {0}.items, table: items, id_type: string, key: {{ source: null, source_id: mongo_id }},
        columns: {{ by_name: {1}, by_code: {2} }} }}\n",
        stage.name,
        by("name"),
        by("code")
    ));
    let long = |letter: &str| letter.repeat(3_000);
    stage
        .collection("items")
        .insert_many([doc! { "_id": "i1", "name": long("a") }, doc! { "_id": "i2", "code": long("b") }])
        .await?;
    let daemon = Daemon::start(&config)?;
    const TOLD: &str = "select count(*) from rowstream.held
        where state <> 'resolved' and source_id = 'i1' and reason = 'too_long' and column_name = 'by_name'";
    counts(&stage, &daemon, TOLD, 1).await?;
    counts(&stage, &daemon, "select count(*) from items where mongo_id = 'i2' and by_code is null", 1)
        .await?;
    stage
        .collection("methods")
        .insert_one(doc! { "_id": "m1", "name": long("A"), "code": long("b") })
        .await?;
    counts(&stage, &daemon, "select count(*) from items where 'm1' in (by_name, by_code)", 2).await?;
    counts(&stage, &daemon, HELD, 0).await?;
    Ok(())
}
