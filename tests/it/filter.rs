//! `filter`: the same documents that MongoDB's own `find` would choose, and no row of any other.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use bson::oid::ObjectId;
use bson::{Bson, DateTime, Decimal128, Document, doc};
use futures_util::TryStreamExt;

use crate::daemon::{Daemon, command};
use crate::stage::{Stage, numbered, says};

const ID: &str = "5f43a1b2c3d4e5f60718293a";

/// Each is YAML and, read as JSON, a query.
const FILTERS: [&str; 34] = [
    r#"{"a": null}"#,
    r#"{"a": {"$ne": null}}"#,
    r#"{"a": {"$exists": true}}"#,
    r#"{"a": {"$exists": false}}"#,
    r#"{"a": 1}"#,
    r#"{"a": 1.5}"#,
    r#"{"a": {"$gt": 0}}"#,
    r#"{"a": {"$gte": 1, "$lt": 3}}"#,
    r#"{"a": {"$lte": -1.5}}"#,
    r#"{"a": {"$gte": null}}"#,
    r#"{"a": {"$lte": null}}"#,
    r#"{"a": {"$gt": "b"}}"#,
    r#"{"a": {"$lt": "b"}}"#,
    r#"{"a": {"$in": [1, "b", null]}}"#,
    r#"{"a": {"$nin": [1, "b", true]}}"#,
    r#"{"a": {"$nin": [null]}}"#,
    r#"{"a": true}"#,
    r#"{"a": {"$gt": false}}"#,
    r#"{"a": {"$ne": true}}"#,
    r#"{"a": {"$date": "2025-01-01T00:00:00Z"}}"#,
    r#"{"a": {"$gt": {"$date": "2024-06-01T00:00:00Z"}}}"#,
    r#"{"a": {"$oid": "5f43a1b2c3d4e5f60718293a"}}"#,
    r#"{"a": {"$lt": {"$oid": "5f43a1b2c3d4e5f60718293b"}}}"#,
    r#"{"a": {"$numberDecimal": "0.1"}}"#,
    r#"{"a": {"$gt": {"$numberDecimal": "0.1"}}}"#,
    r#"{"a.b": 1}"#,
    r#"{"a.b": null}"#,
    r#"{"a.b": {"$ne": 1}}"#,
    r#"{"a.b": {"$exists": true}}"#,
    r#"{"a.0": 1}"#,
    r#"{"a.1.b": {"$exists": true}}"#,
    r#"{"a.0.b": null}"#,
    r#"{"a.b.c": {"$gte": 2}}"#,
    r#"{"a": {"$gte": 1}, "x": {"$lt": 60}, "_id": {"$ne": 3}}"#,
];

fn values() -> Vec<Bson> {
    let decimal = |text: &str| Bson::from(text.parse::<Decimal128>().expect("a decimal"));
    let date = |text: &str| Bson::from(DateTime::parse_rfc3339_str(text).expect("a date"));
    vec![
        Bson::Null,
        1.into(),
        1_i64.into(),
        1.0.into(),
        decimal("1.00"),
        0.into(),
        (-1.5).into(),
        decimal("-1.50"),
        1.5.into(),
        0.1.into(),
        decimal("0.1"),
        3.into(),
        f64::NAN.into(),
        f64::INFINITY.into(),
        decimal("NaN"),
        i64::MAX.into(),
        "a".into(),
        "b".into(),
        "c".into(),
        "".into(),
        Bson::Symbol("b".into()),
        true.into(),
        false.into(),
        date("2025-01-01T00:00:00Z"),
        date("2024-01-01T00:00:00Z"),
        ObjectId::parse_str(ID).expect("an id").into(),
        ObjectId::from_bytes([0xff; 12]).into(),
        Bson::Array(vec![]),
        Bson::Array(vec![Bson::Null]),
        Bson::Array(vec![1.into(), "b".into()]),
        Bson::Array(vec![Bson::Array(vec![1.into()])]),
        Bson::Array(vec![doc! { "b": 1 }.into(), 1.into()]),
        Bson::Array(vec![doc! {}.into()]),
        Bson::Array(vec![doc! { "b": 2 }.into(), doc! { "b": [1, 3] }.into()]),
        Bson::Array(vec![doc! { "0": 1 }.into()]),
        Bson::Array(vec![Bson::Array(vec![doc! { "b": 1 }.into()]), Bson::Array(vec![])]),
        doc! {}.into(),
        doc! { "b": 1 }.into(),
        doc! { "b": null }.into(),
        doc! { "b": { "c": 2 } }.into(),
        doc! { "b": [{ "c": 1 }, { "c": 2 }] }.into(),
        doc! { "0": 1 }.into(),
        doc! { "1": { "b": 5 } }.into(),
        Bson::MinKey,
        Bson::Timestamp(bson::Timestamp { time: 1, increment: 1 }),
    ]
}

#[tokio::test]
async fn a_filter_chooses_what_mongodb_would_choose() -> Result<()> {
    let stage = Stage::new("filter_oracle").await?;
    let collection = stage.collection("things");
    let with_a =
        values().into_iter().enumerate().map(|(n, a)| doc! { "_id": n as i64, "x": n as i64, "a": a });
    collection.insert_many(with_a.chain([doc! { "_id": 1_000_i64 }])).await?;
    let mappings: String = FILTERS
        .iter()
        .enumerate()
        .map(|(n, filter)| {
            format!(
                "  - {{ source: f{n}, collection: {}.things, table: f{n}, id_type: int, filter: {filter} }}\n",
                stage.name
            )
        })
        .collect();
    let output = command(&["run", "--until-caught-up"], &stage.config(&mappings))?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut connection = stage.postgres().await?;
    let mut wrong = Vec::new();
    for (n, filter) in FILTERS.iter().enumerate() {
        let json: serde_json::Value = serde_json::from_str(filter)?;
        let query = Document::try_from(json.as_object().context("a map")?.clone())?;
        let found: Vec<Document> = collection.find(query).await?.try_collect().await?;
        let wanted: BTreeSet<i64> =
            found.iter().filter_map(|document| document.get_i64("_id").ok()).collect();
        let sql = format!("select source_id::bigint from f{n}");
        let rows: Vec<i64> = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_all(&mut connection).await?;
        let rows: BTreeSet<i64> = rows.into_iter().collect();
        if rows != wanted {
            let of =
                |ids: Vec<&i64>| ids.iter().map(|id| values()[**id as usize].to_string()).collect::<Vec<_>>();
            let missing = of(wanted.difference(&rows).collect());
            let extra = of(rows.difference(&wanted).collect());
            wrong.push(format!("{filter}: missing {missing:?}, too many {extra:?}"));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

const IDS: &str = "select string_agg(source_id, ' ' order by source_id) from things";
const HELD: &str = "select count(*) from rowstream.held where state <> 'resolved'";

fn mapping(stage: &Stage, filter: &str) -> String {
    stage.config(&format!(
        "  - {{ source: things, collection: {}.things, table: things, id_type: string, filter: {filter},
        allow_empty: true, columns: {{ n: n }} }}\n",
        stage.name
    ))
}

const THINGS: &str =
    "create table things (source text, source_id text, n int, primary key (source, source_id))";

#[tokio::test]
async fn a_document_that_stops_matching_loses_its_row_and_has_it_again() -> Result<()> {
    let stage = Stage::new("filter_stream").await?;
    stage.execute(THINGS).await?;
    let things = stage.collection("things");
    things
        .insert_many([
            doc! { "_id": "a", "n": 1 },
            doc! { "_id": "b", "n": 2, "deleted": true },
            doc! { "_id": "bad", "n": "no number" },
        ])
        .await?;
    let daemon = Daemon::start(&mapping(&stage, "{ deleted: { $ne: true } }"))?;
    says(&stage, &daemon, IDS, "a").await?;
    says(&stage, &daemon, HELD, "1").await?;
    let set = |deleted: bool| doc! { "$set": { "deleted": deleted } };
    // Held, and no longer wanted: nothing waits for it any more.
    things.update_one(doc! { "_id": "bad" }, set(true)).await?;
    says(&stage, &daemon, HELD, "0").await?;
    things.update_one(doc! { "_id": "b" }, set(false)).await?;
    says(&stage, &daemon, IDS, "a b").await?;
    things.update_one(doc! { "_id": "a" }, set(true)).await?;
    says(&stage, &daemon, IDS, "b").await?;
    things.insert_one(doc! { "_id": "c", "n": 3, "deleted": true }).await?;
    things.replace_one(doc! { "_id": "a" }, doc! { "n": 4 }).await?;
    says(&stage, &daemon, IDS, "a b").await?;
    Ok(())
}

#[tokio::test]
async fn another_filter_copies_again_and_takes_away_what_no_longer_belongs() -> Result<()> {
    let stage = Stage::new("filter_changed").await?;
    stage.execute(THINGS).await?;
    let things = stage.collection("things");
    things
        .insert_many(numbered(0, 3).map(|mut document| {
            let id = format!("t{}", document.get_i64("n").unwrap_or_default());
            document.insert("_id", id);
            document
        }))
        .await?;
    things.insert_one(doc! { "_id": "bad", "n": "none" }).await?;
    let daemon = Daemon::start(&mapping(&stage, "{ n: { $ne: 0 } }"))?;
    says(&stage, &daemon, IDS, "t1 t2").await?;
    says(&stage, &daemon, HELD, "1").await?;
    assert!(daemon.stop().await?.success());
    let daemon = Daemon::start(&mapping(&stage, "{ n: { $lt: 2 } }"))?;
    says(&stage, &daemon, IDS, "t0 t1").await?;
    says(&stage, &daemon, HELD, "0").await?;
    Ok(())
}
