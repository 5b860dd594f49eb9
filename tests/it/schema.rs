//! Tables that do not exist: printed as SQL, or made.

use anyhow::{Context, Result, ensure};
use bson::{Binary, Bson, DateTime, Decimal128, doc, spec::BinarySubtype};
use serde_json::Value;

use crate::daemon::{Daemon, command};
use crate::stage::Stage;

fn ask(arguments: &[&str], config: &str) -> Result<(i32, String)> {
    let output = command(arguments, config)?;
    let code = output.status.code().context("ended by a signal")?;
    ensure!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok((code, String::from_utf8(output.stdout)?))
}

/// Two mappings of one table, one of whole documents, one whose table is there, one in a schema that is not.
async fn shop(name: &str, mode: &str) -> Result<(Stage, String)> {
    let stage = Stage::new(name).await?;
    let decimal: Decimal128 = "1.10".parse()?;
    let uuid = Binary { subtype: BinarySubtype::Uuid, bytes: vec![7; 16] };
    stage
        .collection("orders")
        .insert_many([
            doc! { "_id": 1, "n": 1, "x": 1, "price": 2, "note": "a", "at": DateTime::from_millis(1), "mixed": 1 },
            doc! { "_id": 2, "n": 2_i64, "x": 1.5, "price": decimal, "note": null, "mixed": "two" },
            doc! { "_id": 3, "n": 3, "x": 2, "price": 1.5, "flag": true, "key": uuid, "list": [1] },
        ])
        .await?;
    stage.collection("returns").insert_one(doc! { "_id": 1, "n": 1, "why": "broken" }).await?;
    stage.collection("log").insert_one(doc! { "_id": 1, "a": { "b": 1 } }).await?;
    stage
        .execute("create table old (source text, source_id text, n bigint, unique (source, source_id))")
        .await?;
    let database = &stage.name;
    let mappings = format!(
        r#"  - source: orders
    collection: {database}.orders
    table: sales
    schema: {mode}
    columns:
      id: {{ key: {{ prefix: s_ }}, write: insert }}
      uid: {{ key: uuid }}
      n: {{ from: n, required: true }}
      x: x
      price: price
      note: {{ from: note, default: "" }}
      at: {{ from: at, as: rfc3339 }}
      mixed: mixed
      flag: flag
      key: key
      list: list
      never: {{ from: nowhere }}
      unseen: {{ from: nowhere, default: 0 }}
      changed_at: $cluster_time
      mongo_id: $id
      by: {{ value: rowstream }}
      raw: {{ from: $document, without: [_id] }}
  - source: returns
    collection: {database}.returns
    table: sales
    schema: {mode}
    columns:
      id: {{ key: {{ prefix: s_ }}, write: insert }}
      n: {{ from: n, required: true }}
      why: why
      raw: $document
  - {{ source: log, collection: {database}.log, table: {{ schema: 'Sch"ema', name: "lo\"g'; drop table old; --\n" }} }}
  - {{ source: old, collection: {database}.orders, table: old, columns: {{ n: n }} }}
  - source: own
    collection: {database}.orders
    table: own.keyed
    schema: {mode}
    key: {{ source: null, source_id: "select\"; --" }}
    columns: {{ "n\"; drop table old; --": n, "user\nx": note }}
"#
    );
    let config = stage.config(&mappings);
    Ok((stage, config))
}

#[tokio::test]
async fn what_schema_prints_makes_tables_that_pass_the_check() -> Result<()> {
    let (stage, config) = shop("printed", "expect").await?;
    let (code, sql) = ask(&["schema"], &config)?;
    assert_eq!(code, 0);
    insta::assert_snapshot!("ddl", sql);
    let (code, json) = ask(&["schema", "--output", "json"], &config)?;
    let json: Value = serde_json::from_str(&json)?;
    assert_eq!((code, &json[0]["columns"][4]["type"]), (0, &"bigint".into()), "{json}");
    assert_eq!(json[1]["schema"], "Sch\"ema");
    assert_eq!(json[2]["exists"], true);

    // Nothing was made by printing.
    let tables =
        "select string_agg(relname, ',') from pg_class where relkind = 'r' and relname in ('sales', 'keyed')";
    assert_eq!(stage.text(tables).await?, None);
    assert_eq!(ask(&["check"], &config)?.0, 1);
    // Applied twice, it is the same.
    stage.execute(&sql).await?;
    stage.execute(&sql).await?;
    let (code, text) = ask(&["check"], &config)?;
    assert_eq!(code, 0, "{text}");
    let (_, sql) = ask(&["schema"], &config)?;
    assert!(!sql.contains("create"), "nothing is left to do: {sql}");

    let ended = Daemon::start_with(&config, &["--until-caught-up"])?.ends_with_output().await?;
    assert!(ended.0.success(), "nothing is held: {}", ended.1);
    Ok(())
}

#[tokio::test]
async fn schema_create_makes_the_tables_and_every_document_of_the_sample_gets_its_row() -> Result<()> {
    let (stage, config) = shop("made", "create").await?;
    stage.execute("insert into old values ('mine', '1', 1)").await?;
    let (code, text) = ask(&["check"], &config)?;
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("the table will be created"), "{text}");
    let run = || async { Daemon::start_with(&config, &["--until-caught-up"])?.ends_with_output().await };
    let (status, text) = run().await?;
    assert!(status.success(), "{text}");
    let rows = "select string_agg(concat_ws(' ', source, source_id, n, x, price, note, mixed, never, unseen, why), '; '
                                  order by source, source_id) from sales";
    assert_eq!(
        stage.text(rows).await?.as_deref(),
        Some("orders 1 1 1 2 a 1 0; orders 2 2 1.5 1.10 \"two\" 0; orders 3 3 2 1.5  0; returns 1 1 broken")
    );
    assert_eq!(
        stage
            .number(
                r#"select count(*) from "Sch""ema"."lo""g'; drop table old; --
""#
            )
            .await?,
        1
    );
    assert_eq!(stage.number("select count(*) from own.keyed").await?, 3);
    assert_eq!(stage.number("select count(*) from old").await?, 4, "and the row that was there");
    // What is there is left as it is, also a column that nobody maps.
    stage.execute("alter table sales add column mine int default 5").await?;
    stage
        .collection("orders")
        .update_one(doc! { "_id": 1 }, doc! { "$set": { "n": Bson::Int64(9) } })
        .await?;
    let (status, text) = run().await?;
    assert!(status.success(), "{text}");
    assert_eq!(
        stage
            .text("select concat_ws(' ', n, mine) from sales where source_id = '1' and source = 'orders'")
            .await?
            .as_deref(),
        Some("9 5")
    );
    Ok(())
}

#[tokio::test]
async fn a_table_that_may_not_be_made_stops_the_start_with_a_hint() -> Result<()> {
    let stage = Stage::new("not_made").await?;
    let role = &stage.name;
    stage.collection("things").insert_one(doc! { "_id": 1, "n": 1 }).await?;
    stage
        .execute(&format!("create role \"{role}\" login; revoke create on schema public from public"))
        .await?;
    let owner = stage.config("");
    let (code, text) = ask(&["migrate", "--grant-to", role], &owner)?;
    assert_eq!(code, 0, "{text}");
    let config = stage.config(&stage.whole("things").replace("}", ", schema: create, columns: { n: n } }"));
    let url = stage.postgres_url.replace("postgres://postgres@", &format!("postgres://{role}@"));
    let config = config.replace(&stage.postgres_url, &url);
    let output = command(&["run", "--until-caught-up"], &config)?;
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    stage.execute(&format!("drop owned by \"{role}\"; drop role \"{role}\"")).await?;
    assert_eq!(output.status.code(), Some(1), "{complaint}");
    assert!(complaint.contains("grant create on the schema"), "{complaint}");
    Ok(())
}

#[tokio::test]
async fn references_become_foreign_keys_with_an_index_and_parents_are_made_first() -> Result<()> {
    let stage = Stage::new("made_keys").await?;
    let database = &stage.name;
    stage.execute("create table categories (id serial primary key, name text unique)").await?;
    stage.execute("insert into categories (name) values ('food')").await?;
    stage.collection("lines").insert_one(doc! { "_id": 1, "of": 7, "category": "food" }).await?;
    stage.collection("orders").insert_one(doc! { "_id": 7, "total": 3 }).await?;
    let mappings = format!(
        r#"  - source: lines
    collection: {database}.lines
    table: lines
    schema: create
    columns:
      order_id: {{ ref: {{ to: orders, from: of }} }}
      category_id: {{ lookup: {{ table: categories, match: {{ name: category }}, take: id }} }}
  - source: orders
    collection: {database}.orders
    table: orders
    schema: create
    columns: {{ id: {{ key: uuid, write: insert }}, total: total }}
"#
    );
    let config = stage.config(&mappings);
    let (code, sql) = ask(&["schema"], &config)?;
    assert_eq!(code, 0);
    insta::assert_snapshot!("ddl_with_references", sql);
    let (status, text) = Daemon::start_with(&config, &["--until-caught-up"])?.ends_with_output().await?;
    assert!(status.success(), "{text}");
    let joined = "select concat_ws(' ', o.total, c.name) from lines l join orders o on o.id = l.order_id
                  join categories c on c.id = l.category_id";
    assert_eq!(stage.text(joined).await?.as_deref(), Some("3 food"));
    stage.execute(&sql).await.context("applied again, it is the same")?;
    let (code, text) = ask(&["check"], &config)?;
    assert_eq!(code, 0, "{text}");
    assert!(!text.contains("no index"), "{text}");
    Ok(())
}

#[tokio::test]
async fn tables_of_children_are_made_with_their_keys_and_go_with_their_parents() -> Result<()> {
    let stage = Stage::new("made_children").await?;
    let database = &stage.name;
    stage
        .collection("orders")
        .insert_one(doc! {
            "_id": "o1", "at": DateTime::from_millis(0), "tags": ["new", "late"], "ship": { "city": "Ulm", "days": 2 },
            "lines": [{ "sku": "a", "price": 1.5 }, { "sku": "b", "price": 2 }], "users": ["u1", "u2"],
        })
        .await?;
    stage.collection("users").insert_many(["u1", "u2"].map(|id| doc! { "_id": id, "name": id })).await?;
    let mappings = format!(
        r#"  - source: orders
    collection: {database}.orders
    table: orders
    schema: create
    columns: {{ id: {{ key: {{ prefix: o_ }}, write: insert }}, at: at }}
    children:
      - table: order_lines
        each: lines
        columns: {{ order_id: $parent, place: $index, sku: $element.sku, price: $element.price, at: $document.at }}
      - table: order_tags
        each: tags
        key: [order_id, tag]
        columns: {{ id: {{ key: {{ prefix: t_ }} }}, order_id: $parent, tag: $element }}
      - table: order_ships
        object: ship
        columns: {{ order_id: $parent, city: {{ from: $element.city, required: true }}, days: $element.days }}
      - table: order_users
        each: users
        also_from: {{ source: users, each: orders }}
        columns: {{ order_id: $parent, user_id: {{ ref: {{ to: users, from: $element }} }} }}
  - source: users
    collection: {database}.users
    table: users
    schema: create
    key: {{ source: null, source_id: id }}
    columns: {{ name: name }}
"#
    );
    let config = stage.config(&mappings);
    // Before anything is there, what would be made is what is compiled against, and its faults are told.
    let (code, text) = ask(&["check"], &config)?;
    assert_eq!(code, 0, "{text}");
    assert_eq!(text.matches("the table will be created").count(), 2, "{text}");
    assert!(text.contains(&format!("mapping users: {database}.users → public.users, 2 columns")), "{text}");
    let (code, text) =
        ask(&["check"], &config.replace("{ name: name }", "{ name: { from: name, scale: 2 } }"))?;
    assert_eq!(code, 1, "{text}");
    let (_, sql) = ask(&["schema"], &config)?;
    insta::assert_snapshot!("ddl_with_children", sql);
    assert_eq!(stage.text("select to_regclass('orders')").await?, None, "nothing was made by asking");

    let daemon = Daemon::start_with(&config, &["--until-caught-up"])?;
    let (status, text) = daemon.ends_with_output().await?;
    assert!(status.success(), "{text}");
    const ROWS: &str = "select concat_ws(' ',
        (select string_agg(concat_ws(' ', place, sku, price, extract(epoch from at)), ', ' order by place) from order_lines),
        (select string_agg(tag, ', ' order by tag) from order_tags), (select concat_ws(' ', city, days) from order_ships),
        (select string_agg(user_id, ', ' order by user_id) from order_users))";
    let rows = stage.text(ROWS).await?;
    assert_eq!(rows.as_deref(), Some("0 a 1.5 0.000000, 1 b 2 0.000000 late, new Ulm 2 u1, u2"));
    stage.execute(&sql).await.context("applied again, it is the same")?;
    let (code, text) = ask(&["check"], &config)?;
    assert_eq!(code, 0, "{text}");
    assert!(!text.contains("will be created"), "{text}");
    stage.execute("delete from orders").await.context("what is inside of a document goes with its row")?;
    Ok(())
}
