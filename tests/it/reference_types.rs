//! What a reference takes from another row has that row's type: what can never stand in its column is told
//! before the first write, and what does not fit there is a matter of its document alone.

use anyhow::{Result, ensure};
use bson::{Document, doc};

use crate::daemon::{Daemon, command};
use crate::stage::{Stage, says};

/// `parents` by `mongo_id`, and `children` with the columns that a test wants.
async fn stage(name: &str, tables: &str, parents: &str, children: &str) -> Result<(Stage, String)> {
    let stage = Stage::new(name).await?;
    stage.execute(tables).await?;
    let config = stage.config(&format!(
        "  - {{ source: parents, collection: {0}.parents, table: parents, id_type: string, allow_empty: true,
        key: {{ source: null, source_id: mongo_id }}, columns: {{ {parents} }} }}
  - {{ source: children, collection: {0}.children, table: children, id_type: string, allow_empty: true,
        key: {{ source: null, source_id: mongo_id }}, columns: {{ {children} }} }}\n",
        stage.name
    ));
    Ok((stage, config))
}

/// What `check` says about one column.
fn told(config: &str, column: &str) -> Result<(bool, String)> {
    let output = command(&["check"], config)?;
    let text = String::from_utf8([output.stdout, output.stderr].concat())?;
    let mut lines = text.lines().skip_while(|line| !line.contains(&format!("column {column}:")));
    let told: Vec<&str> = lines.by_ref().take(2).collect();
    ensure!(!told.is_empty(), "{text}");
    Ok((output.status.success(), told.join("\n")))
}

fn child(id: &str, parent: &str) -> Document {
    doc! { "_id": id, "parent": parent }
}

const HELD: &str =
    "select string_agg(concat_ws(' ', source_id, column_name, reason), ', ' order by source_id)
    from rowstream.held where state <> 'resolved'";

#[tokio::test]
async fn a_column_that_can_hold_nothing_of_what_is_taken_is_told_before_the_first_write() -> Result<()> {
    let (_stage, config) = stage(
        "taken_never",
        "create table parents (id serial primary key, mongo_id text not null unique, name text);
         create table tags (name text primary key, place inet unique, kind text);
         create table children (mongo_id text primary key, parent integer, other uuid, tag text, kind text, parents integer[])",
        "name: name",
        "parent: { ref: { to: parents, from: parent } },
         other: { ref: { to: parents, from: parent } },
         tag: { lookup: { table: tags, match: { place: parent }, take: name } },
         kind: { lookup: { table: tags, match: { kind: kind }, take: name } },
         parents: { each: parents, ref: { to: parents, from: $element, take: id } }",
    )
    .await?;
    let mut all = Vec::new();
    for column in ["parent", "other", "tag", "kind", "parents"] {
        let (fits, told) = told(&config, column)?;
        ensure!(!fits, "{told}");
        all.push(told);
    }
    insta::assert_snapshot!(all.join("\n"), @r#"
    ✗ mapping children, table public.children, column parent: has the type integer, but takes mongo_id of public.parents, which is text
        say take: id
    ✗ mapping children, table public.children, column other: has the type uuid, but takes mongo_id of public.parents, which is text
        say take: another column, or alter the type of one of the two
    ✗ mapping children, table public.children, column tag: is matched by place of public.tags, whose type inet cannot be looked up by
        match another column
    ! mapping children, table public.children, column kind: is looked up in public.tags by columns without an index: each look-up reads the whole table
        create unique index on "public"."tags" ("kind")
    ! mapping children, table public.children, column parents: no index finds its elements: each delete in public.parents reads the whole table
        create index on "public"."children" using gin ("parents")
    "#);
    Ok(())
}

#[tokio::test]
async fn a_value_that_the_narrower_column_cannot_hold_holds_its_document_alone() -> Result<()> {
    let (stage, config) = stage(
        "taken_narrow",
        "create table parents (id bigserial primary key, mongo_id text not null unique, rate numeric, code text);
         create table children (mongo_id text primary key, parent integer references parents, rate numeric(4, 2),
             code varchar(3), codes varchar(3)[]);
         create index on children using gin (codes);
         alter sequence parents_id_seq start 2147483647 restart",
        "rate: { from: rate, as: number }, code: code",
        "parent: { ref: { to: parents, from: parent }, missing: null },
         rate: { ref: { to: parents, from: rate, take: rate }, missing: null },
         code: { ref: { to: parents, from: code, take: code }, missing: null },
         codes: { each: codes, ref: { to: parents, from: $element, take: code }, missing: drop }",
    )
    .await?;
    let parent = |id: &str, rate: &str, code: &str| doc! { "_id": id, "rate": rate, "code": code };
    // The first gets the greatest id that fits, the second the next one.
    stage.collection("parents").insert_one(parent("fits", "1.50", "abc")).await?;
    let daemon = Daemon::start(&config)?;
    says(&stage, &daemon, "select count(*) from parents", "1").await?;
    stage.collection("parents").insert_one(parent("large", "1.505", "abcd")).await?;
    says(&stage, &daemon, "select count(*) from parents", "2").await?;
    stage
        .collection("children")
        .insert_many([
            child("a", "fits"),
            child("b", "large"),
            doc! { "_id": "c", "rate": "large" },
            doc! { "_id": "d", "rate": "fits", "code": "fits", "codes": ["fits", "none"] },
            doc! { "_id": "e", "code": "large" },
            doc! { "_id": "f", "codes": ["fits", "large"] },
        ])
        .await?;
    let held = "b parent out_of_range, c rate not_exact, e code too_long, f codes too_long";
    says(&stage, &daemon, HELD, held).await?;
    let rows = "select string_agg(concat_ws(' ', mongo_id, parent, rate, code, codes), ', ' order by mongo_id) from children";
    says(&stage, &daemon, rows, "a 2147483647, d 1.50 abc {abc}").await?;
    // Who refers to a row is found across the types, too.
    stage.collection("parents").delete_one(doc! { "_id": "fits" }).await?;
    says(&stage, &daemon, rows, "a, d {}").await?;
    says(&stage, &daemon, HELD, held).await?;
    Ok(())
}

#[tokio::test]
async fn text_takes_any_key_and_lets_go_of_it_when_its_row_goes() -> Result<()> {
    let (stage, config) = stage(
        "taken_text",
        "create type color as enum ('red', 'blue');
         create type shade as enum ('blue', 'red', 'grey');
         create table parents (id serial primary key, mongo_id text not null unique, uid uuid, color color);
         create table children (mongo_id text primary key, parent text, uid varchar(40), ids text[], shade shade);
         create index on children using gin (ids)",
        "uid: { key: uuid }, color: color",
        "parent: { ref: { to: parents, from: parent, take: id }, missing: null },
         uid: { ref: { to: parents, from: parent, take: uid }, missing: keep },
         ids: { each: all, ref: { to: parents, from: $element, take: id }, missing: drop },
         shade: { ref: { to: parents, from: shade, take: color }, missing: null }",
    )
    .await?;
    stage
        .collection("parents")
        .insert_many([doc! { "_id": "p", "color": "red" }, doc! { "_id": "q", "color": "blue" }])
        .await?;
    stage
        .collection("children")
        .insert_many([
            doc! { "_id": "a", "parent": "p", "all": ["q", "p"], "shade": "q" },
            doc! { "_id": "b", "all": ["p"], "shade": "p" },
        ])
        .await?;
    let daemon = Daemon::start(&config)?;
    let rows = "select string_agg(concat_ws(' ', c.mongo_id, p.mongo_id, u.mongo_id, array_length(ids, 1), shade), ', ' order by c.mongo_id)
        from children c left join parents p on p.id::text = c.parent left join parents u on u.uid::text = c.uid";
    says(&stage, &daemon, rows, "a p p 2 blue, b 1 red").await?;
    stage.collection("parents").delete_one(doc! { "_id": "p" }).await?;
    says(&stage, &daemon, rows, "a 1 blue, b").await?;
    says(
        &stage,
        &daemon,
        "select string_agg(concat_ws(' ', mongo_id, parent, uid), ', ' order by mongo_id) from children",
        "a p, b",
    )
    .await?;
    says(&stage, &daemon, HELD, "").await?;
    Ok(())
}
