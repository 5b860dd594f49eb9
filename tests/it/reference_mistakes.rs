//! Every mistake in a reference or in a table of children is told by `check`, with what to do, all at once.

use anyhow::{Result, ensure};

use crate::daemon::command;
use crate::stage::Stage;

/// What `check` says of these mappings, without what it says of the servers.
fn told(stage: &Stage, mappings: &str) -> Result<String> {
    let output = command(&["check"], &stage.config(&mappings.replace("<database>", &stage.name)))?;
    ensure!(!output.status.success());
    let text = String::from_utf8([output.stdout, output.stderr].concat())?;
    let mut lines: Vec<&str> = Vec::new();
    let mut is_fatal = false;
    for line in text.lines() {
        is_fatal = if line.starts_with(' ') { is_fatal } else { line.starts_with("✗ mapping") };
        if is_fatal {
            lines.push(line);
        }
    }
    ensure!(!lines.is_empty(), "{text}");
    Ok(lines.join("\n").replace(&stage.name, "<database>"))
}

#[tokio::test]
async fn each_reference_that_cannot_work_is_refused_with_its_column_and_what_to_do() -> Result<()> {
    let stage = Stage::new("mistakes_references").await?;
    stage
        .execute(
            "create table prices (day date primary key, amount numeric);
             create table parents (id serial primary key, mongo_id text not null unique, name text unique);
             create table wide (source text, source_id text, id serial unique, n text, primary key (source, source_id));
             create table children (mongo_id text primary key, must integer not null, kept integer, matched integer,
                 takes integer, unclear integer, claimed numeric, stub integer, stranger integer)",
        )
        .await?;
    let mappings = "
  - { source: prices, collection: <database>.prices, table: prices, id_type: string, allow_empty: true, key: [day],
      columns: { day: { from: day, as: iso8601, required: true }, amount: amount } }
  - { source: parents, collection: <database>.parents, table: parents, id_type: string, allow_empty: true,
      key: { source: null, source_id: mongo_id }, columns: { name: name } }
  - { source: wide, collection: <database>.wide, table: wide, id_type: string, allow_empty: true, columns: { n: n } }
  - source: children
    collection: <database>.children
    table: children
    id_type: string
    allow_empty: true
    key: { source: null, source_id: mongo_id }
    columns:
      must: { ref: { to: parents, from: p, take: id }, missing: null }
      kept: { ref: { to: parents, from: p, take: id }, missing: keep }
      matched: { lookup: { table: parents, match: { nam: p }, take: id } }
      takes: { ref: { to: parents, from: p, take: idd } }
      unclear: { ref: { to: wide, from: p } }
      claimed: { ref: { to: prices, from: p, take: amount }, missing: { create: { source: made, columns: { amount: amount } } } }
      stub: { lookup: { table: parents, match: { name: p }, take: id }, missing: { create: { columns: { nam: p } } } }
      stranger: { ref: { to: parent, from: p, take: id } }
";
    insta::assert_snapshot!(told(&stage, mappings)?, @r#"
    ✗ mapping children, table public.children, column must: is not null, but missing: null
        say hold, or create
    ✗ mapping children, table public.children, column kept: is no text, but missing: keep
        say hold, null or create
    ✗ mapping children, table public.children, column matched: is matched by nam, which public.parents does not have
        did you mean name?
    ✗ mapping children, table public.children, column takes: takes idd, which public.parents does not have
        did you mean id?
    ✗ mapping children, table public.children, column unclear: has no foreign key to public.wide, so it is not clear what to take
        say take: the column of "wide" that is meant
    ✗ mapping children, table public.children, column claimed: create: needs a target whose rows have a source_id
        say hold or null
    ✗ mapping children, table public.children, column stub: create: column nam of public.parents does not exist
        did you mean name?
    ✗ mapping children, table public.children, column stub: create: column mongo_id of public.parents is not null and has no default, but is not mapped
        map it, or give the column a default
    ✗ mapping children, table public.children, column stranger: refers to parent, which is no mapping
        did you mean parents?
    "#);
    Ok(())
}

#[tokio::test]
async fn each_table_of_children_that_cannot_hold_them_is_refused_with_what_to_do() -> Result<()> {
    let stage = Stage::new("mistakes_children").await?;
    stage
        .execute(
            "create table orders (id serial primary key, mongo_id text not null unique, n text);
             create table keyless (order_id integer references orders, n integer);
             create table shared (n integer primary key, order_id integer references orders);
             create table single (order_id integer primary key references orders, n integer)",
        )
        .await?;
    let mappings = "
  - source: orders
    collection: <database>.orders
    table: orders
    id_type: string
    allow_empty: true
    key: { source: null, source_id: mongo_id }
    columns: { n: n }
    children:
      - { table: keyless, each: lines, columns: { order_id: $parent, n: $element.n } }
      - { table: shared, each: lines, columns: { order_id: $parent, n: $element.n } }
      - { table: single, each: lines, columns: { order_id: $parent, n: $element.n } }
";
    insta::assert_snapshot!(told(&stage, mappings)?, @r"
    ✗ mapping orders, table public.keyless: has no unique key all of whose columns are mapped
        name the columns of a unique key with key:, and list them among columns
    ✗ mapping orders, table public.shared: the key (n) does not tell rows of different documents apart
        make a unique key with order_id in it, and name its columns with key:
    ✗ mapping orders, table public.single: the key (order_id) does not tell the elements of one document apart
        make a unique key with another column in it, and name its columns with key:
    ");
    Ok(())
}

#[tokio::test]
async fn tables_that_references_and_children_need_are_named_where_they_are_missing() -> Result<()> {
    let stage = Stage::new("mistakes_tables").await?;
    stage.execute("create table orders (mongo_id text primary key, tag text)").await?;
    let mappings = "
  - source: orders
    collection: <database>.orders
    table: orders
    id_type: string
    allow_empty: true
    key: { source: null, source_id: mongo_id }
    columns: { tag: { lookup: { table: tags, match: { name: tag }, take: id } } }
    children: [{ table: lines, each: lines, columns: { order_id: $parent, n: $element.n } }]
";
    insta::assert_snapshot!(told(&stage, mappings)?, @r"
    ✗ mapping orders, table public.orders, column tag: is looked up in public.tags, which does not exist
        create it with your own migrations
    ✗ mapping orders, table public.lines: the table does not exist
        create it with your own migrations
    ");
    Ok(())
}
