//! Rows merged, copied and deleted in tables of every kind.

use std::sync::Arc;

use rowstream::config::KeySpec;
use rowstream::domain::{Portion, Reason, Row, TableName};
use rowstream::sink::{self, Target};

use super::setup::Field::{Int4, Jsonb, Null, Numeric};
use super::setup::{
    Database, Field, both_keys, canonical, counts, delete, drop_rows, insert_new, large, public, row, run,
    table, target, text, texts, upsert, venmo,
};

#[tokio::test]
async fn rows_are_inserted_updated_or_left_alone() {
    let mut database = Database::create("merge").await;
    let conn = &mut database.conn;
    run(
        conn,
        "create table t (source text, source_id text, amount numeric, raw json, document jsonb, made_by text,
                         primary key (source, source_id))",
    )
    .await;
    let found = table(conn, &public("t")).await;
    let target =
        target(&found, both_keys(), &["source", "source_id", "amount", "raw", "document", "made_by+"]);
    let one_ten = Numeric { digits: vec![1, 1000], weight: 0, scale: 2 };
    let one_one = Numeric { digits: vec![1, 1000], weight: 0, scale: 1 };
    let make = |id: &str, amount: &Field, raw: &str, by: &str| {
        venmo(id, &[amount.clone(), text(raw), Jsonb(r#"{"a": [1, null]}"#.into()), text(by)])
    };
    let first = [make("a", &one_ten, "{}", "first"), make("b", &Null, "[1]", "first")];
    assert_eq!(counts(&upsert(conn, &target, &first).await), (2, 0, 0, 0));
    let place = "select concat_ws(' ', ctid, xmin, amount, raw, document, made_by) from t order by source_id";
    let before = texts(conn, place).await;

    // made_by is written on insert only: no difference.
    let same = [make("a", &one_ten, "{}", "second"), make("b", &Null, "[1]", "second")];
    assert_eq!(counts(&upsert(conn, &target, &same).await), (0, 0, 2, 0));
    assert_eq!(texts(conn, place).await, before, "an equal row is not written again");

    // The scale is part of a number's stored form, and json is compared as it stands.
    let changed = [
        make("a", &one_one, "{}", "third"),
        make("b", &Null, "[1 ]", "third"),
        make("c", &Null, "1", "third"),
    ];
    assert_eq!(counts(&upsert(conn, &target, &changed).await), (1, 2, 0, 0));
    assert_eq!(
        texts(conn, "select concat_ws(' ', source_id, amount, raw, made_by) from t order by 1").await,
        ["a 1.1 {} first", "b [1 ] first", "c 1 third"]
    );

    let twice = [make("d", &Null, "1", "x"), make("d", &Null, "2", "x")];
    assert_eq!(counts(&upsert(conn, &target, &twice).await), (1, 0, 1, 0));
    assert_eq!(texts(conn, "select raw::text from t where source_id = 'd'").await, ["2"], "the last wins");
    database.drop().await;
}

#[tokio::test]
async fn a_table_with_nothing_but_its_key_is_merged_too() {
    let mut database = Database::create("key_only").await;
    let conn = &mut database.conn;
    run(conn, "create table t (id text primary key)").await;
    let found = table(conn, &public("t")).await;
    let target = target(&found, KeySpec::SourceId { source: None, source_id: "id".into() }, &["id"]);
    let rows = [row("a", &[text("a")]), row("b", &[text("b")])];
    assert_eq!(counts(&upsert(conn, &target, &rows).await), (2, 0, 0, 0));
    assert_eq!(counts(&upsert(conn, &target, &rows).await), (0, 0, 2, 0));
    assert_eq!(delete(conn, &target, &[(canonical("a"), "a".into())]).await.deleted, 1);
    assert_eq!(drop_rows(conn, &target).await.deleted, 1);
    database.drop().await;
}

#[tokio::test]
async fn a_partitioned_table_counts_the_same() {
    let mut database = Database::create("partitioned").await;
    let conn = &mut database.conn;
    run(
        conn,
        "create table t (gone int, source text, source_id text, n int, primary key (source, source_id))
             partition by hash (source_id);
         alter table t drop column gone;
         create table t0 partition of t for values with (modulus 2, remainder 0);
         create table t1 (n int, source_id text not null, source text not null);
         alter table t attach partition t1 for values with (modulus 2, remainder 1)",
    )
    .await;
    let found = table(conn, &public("t")).await;
    assert_eq!(found.kind, 'p');
    let target = target(&found, both_keys(), &["source", "source_id", "n"]);
    let rows = |n| (0..20).map(|id| venmo(&id.to_string(), &[Int4(n)])).collect::<Vec<_>>();
    assert_eq!(counts(&upsert(conn, &target, &rows(1)).await), (20, 0, 0, 0));
    assert_eq!(counts(&upsert(conn, &target, &rows(1)).await), (0, 0, 20, 0));
    assert_eq!(counts(&upsert(conn, &target, &rows(2)).await), (0, 20, 0, 0));
    database.drop().await;
}

#[tokio::test]
async fn partitions_with_their_parents_layout_are_merged() {
    let mut database = Database::create("same_layout").await;
    let conn = &mut database.conn;
    run(
        conn,
        "create table t (source text, source_id text, n int, primary key (source, source_id))
             partition by hash (source_id);
         create table t0 partition of t for values with (modulus 2, remainder 0);
         create table t1 partition of t for values with (modulus 2, remainder 1)",
    )
    .await;
    let found = table(conn, &public("t")).await;
    let target = target(&found, both_keys(), &["source", "source_id", "n"]);
    let rows = |n| (0..20).map(|id| venmo(&id.to_string(), &[Int4(n)])).collect::<Vec<_>>();
    assert_eq!(counts(&upsert(conn, &target, &rows(1)).await), (20, 0, 0, 0));
    assert_eq!(counts(&upsert(conn, &target, &rows(1)).await), (0, 0, 20, 0));
    assert_eq!(counts(&upsert(conn, &target, &rows(2)).await), (0, 20, 0, 0));
    assert_eq!(delete(conn, &target, &[(canonical("3"), "3".into())]).await.deleted, 1);
    assert_eq!(drop_rows(conn, &target).await.deleted, 19);
    database.drop().await;
}

#[tokio::test]
async fn a_first_load_is_copied_and_falls_back_when_a_row_is_refused() {
    let mut database = Database::create("first_load").await;
    let conn = &mut database.conn;
    run(
        conn,
        "create table t (source text, source_id text, n int check (n <> 2500), filler text,
                         primary key (source, source_id))",
    )
    .await;
    let found = table(conn, &public("t")).await;
    let target = target(&found, both_keys(), &["source", "source_id", "n", "filler"]);
    let copied = insert_new(conn, &target, &large(0..1000)).await.expect("copy");
    assert_eq!(counts(&copied), (1000, 0, 0, 0));
    let overlapping = insert_new(conn, &target, &large(500..1500)).await.expect("taken keys");
    assert_eq!(counts(&overlapping), (500, 0, 500, 0));
    let refused = insert_new(conn, &target, &large(2000..3000)).await.expect("a refused row");
    assert_eq!(counts(&refused), (999, 0, 0, 1));
    assert_eq!(counts(&insert_new(conn, &target, &large(3000..3010)).await.expect("a few")), (10, 0, 0, 0));
    assert_eq!(texts(conn, "select count(*)::text from t").await, ["2509"]);
    sink::analyze(conn, &target).await.expect("analyze");
    database.drop().await;
}

#[tokio::test]
async fn types_without_an_encoding_go_through_text() {
    let mut database = Database::create("text_cast").await;
    let conn = &mut database.conn;
    run(
        conn,
        r#"create schema "s s"; create type "s s"."M" as enum ('on', 'off');
           create table t (source "s s"."M", source_id uuid, address inet, span interval, bits bit(3), mood "s s"."M",
                           short varchar(3), primary key (source, source_id))"#,
    )
    .await;
    let found = table(conn, &public("t")).await;
    let names = ["source", "source_id", "address", "span", "bits", "mood", "short"];
    let plan = target(&found, both_keys(), &names);
    let mut mapping = (**plan.mapping()).clone();
    mapping.source = "on".into();
    let target = Target::new(Arc::new(mapping));
    let id = "00000000-0000-0000-0000-00000000000a";
    let uuid = |last: char| Field::Text(format!("{}{last}", "\0".repeat(15)));
    let make = |last: char, address: &str, bits: &str, mood: &str, short: &str| {
        row(
            &last.to_string(),
            &[
                text("on"),
                uuid(last),
                text(address),
                text("1 day 02:00"),
                text(bits),
                text(mood),
                text(short),
            ],
        )
    };
    let rows = [
        make('\u{a}', "10.0.0.1", "101", "off", "abc"),
        make('\u{b}', "nowhere", "101", "off", "abc"),
        make('\u{c}', "10.0.0.1", "10101", "off", "abc"),
        make('\u{d}', "10.0.0.1", "101", "maybe", "abc"),
        make('\u{e}', "10.0.0.1", "101", "on", "abcd"),
    ];
    let outcome = upsert(conn, &target, &rows).await;
    let reasons: Vec<Reason> = outcome.rejected.iter().map(|(_, rejection)| rejection.reason).collect();
    assert_eq!(
        reasons,
        [Reason::WrongType, Reason::RejectedByTarget, Reason::UnknownEnumLabel, Reason::TooLong]
    );
    for (_, rejection) in &outcome.rejected {
        assert!(!["nowhere", "10101", "maybe", "abcd"].iter().any(|value| rejection.message.contains(value)));
    }
    assert_eq!(
        texts(conn, "select concat_ws(' ', source, source_id, address, span, bits, mood) from t").await,
        [format!("on {id} 10.0.0.1 1 day 02:00:00 101 off")]
    );
    assert_eq!(counts(&upsert(conn, &target, &rows[..1]).await), (0, 0, 1, 0));

    let gone = [(canonical("x"), "not a uuid".to_owned()), (canonical("y"), id.to_owned())];
    let outcome = delete(conn, &target, &gone).await;
    assert_eq!((outcome.deleted, outcome.rejected.len()), (1, 1));
    // Nothing of ours depends on the user's type.
    run(conn, r#"drop table t; drop type "s s"."M""#).await;
    database.drop().await;
}

#[tokio::test]
async fn hostile_names_are_only_names() {
    let mut database = Database::create("names").await;
    let conn = &mut database.conn;
    run(conn, "create table x (id int)").await;
    let long = "é".repeat(31) + "z";
    let names = ["\"; drop table x; --", "select", "Upper", &long, "$1", "target"];
    let quoted: Vec<String> =
        names.iter().map(|name| format!("\"{}\" text", name.replace('"', "\"\""))).collect();
    let name = TableName { schema: "Sch\"ema".into(), name: "user\"; drop table x; --".into() };
    run(
        conn,
        &format!(
            r#"create schema "Sch""ema";
               create table "Sch""ema"."user""; drop table x; --" ({}, primary key ("select", "Upper"))"#,
            quoted.join(", ")
        ),
    )
    .await;
    let found = table(conn, &name).await;
    let key = KeySpec::SourceId { source: Some("select".into()), source_id: "Upper".into() };
    let order = ["select", "Upper", names[0], &long, "$1", "target"];
    let target = target(&found, key.clone(), &order);
    let rows =
        |value: &str| vec![row("k", &[&[text("venmo"), text("k")][..], &vec![text(value); 4]].concat())];
    assert_eq!(counts(&upsert(conn, &target, &rows("'; drop table x; --")).await), (1, 0, 0, 0));
    assert_eq!(counts(&upsert(conn, &target, &rows("2")).await), (0, 1, 0, 0));
    assert_eq!(delete(conn, &target, &[(canonical("k"), "k".into())]).await.deleted, 1);
    assert_eq!(drop_rows(conn, &target).await.deleted, 0);
    let big: Vec<Row> = (0..600)
        .map(|id| {
            row(
                &id.to_string(),
                &[&[text("venmo"), text(&id.to_string())][..], &vec![text(&"y".repeat(300)); 4]].concat(),
            )
        })
        .collect();
    assert_eq!(counts(&insert_new(conn, &target, &big).await.expect("copy")), (600, 0, 0, 0));
    assert_eq!(texts(conn, "select count(*)::text from x").await, ["0"]);
    database.drop().await;
}

/// The pipeline runs the sink in spawned tasks.
#[tokio::test]
async fn the_sinks_futures_can_be_sent() {
    fn sent<T: Send>(future: T) -> T {
        future
    }
    let mut database = Database::create("send").await;
    run(&mut database.conn, "create table t (id text primary key)").await;
    let found = table(&mut database.conn, &public("t")).await;
    let target = target(&found, KeySpec::SourceId { source: None, source_id: "id".into() }, &["id"]);
    let conn = &mut database.conn;
    sent(sink::upsert(conn, &target, &[], Portion::WHOLE)).await.expect("nothing to do");
    sent(sink::insert_new(conn, &target, &[], Portion::WHOLE)).await.expect("nothing to do");
    sent(sink::delete(conn, &target, &[], Portion::WHOLE)).await.expect("nothing to do");
    database.drop().await;
}
