//! `_id`s of every type, side by side in one collection: one row each, and never two ids in one row.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use bson::oid::ObjectId;
use bson::spec::BinarySubtype;
use bson::{Binary, Bson, DateTime, Decimal128, Document, Timestamp, doc};
use futures_util::TryStreamExt;
use sqlx::Row;

use crate::daemon::{Daemon, PATIENCE};
use crate::oracle;
use crate::stage::Stage;
use crate::support::until;

fn decimal(text: &str) -> Bson {
    Bson::Decimal128(text.parse::<Decimal128>().unwrap_or_else(|_| unreachable!("{text} is a decimal")))
}

fn binary(subtype: BinarySubtype, bytes: &[u8]) -> Bson {
    Bson::Binary(Binary { subtype, bytes: bytes.to_vec() })
}

/// No two of them are equal to MongoDB; many look alike.
fn ids() -> Vec<Bson> {
    let oid = "5f0000000000000000000001";
    let object_id = |hex: &str| ObjectId::parse_str(hex).map_or(Bson::Null, Bson::ObjectId);
    let text = |text: &str| Bson::String(text.to_owned());
    let uuid = [0x12; 16];
    let mut ids = vec![
        Bson::Null,
        Bson::Boolean(true),
        Bson::Boolean(false),
        Bson::Int32(0),
        Bson::Int32(1),
        Bson::Int32(-1),
        Bson::Int64(i64::MAX),
        Bson::Int64(i64::MIN),
        Bson::Int64((1 << 53) + 1),
        Bson::Double(9_007_199_254_740_992.0),
        Bson::Double(0.1),
        Bson::Double(1.5),
        Bson::Double(1e300),
        Bson::Double(5e-324),
        Bson::Double(f64::NAN),
        Bson::Double(f64::INFINITY),
        Bson::Double(f64::NEG_INFINITY),
        decimal("0.1"),
        decimal("1.25"),
        decimal("1E+6000"),
        decimal("1E-6000"),
        decimal("9223372036854775808"),
        object_id(oid),
        object_id("5f0000000000000000000002"),
        binary(BinarySubtype::Uuid, &uuid),
        binary(BinarySubtype::UuidOld, &uuid),
        binary(BinarySubtype::Generic, &uuid),
        binary(BinarySubtype::Generic, &[]),
        binary(BinarySubtype::UserDefined(0x80), &[0, 255]),
        Bson::DateTime(DateTime::from_millis(0)),
        Bson::DateTime(DateTime::from_millis(1)),
        Bson::DateTime(DateTime::from_millis(i64::MIN)),
        Bson::Timestamp(Timestamp { time: 0, increment: 1 }),
        Bson::Timestamp(Timestamp { time: 1, increment: 0 }),
        Bson::MinKey,
        Bson::MaxKey,
        Bson::Document(doc! {}),
        Bson::Document(doc! { "a": 1, "b": 2 }),
        Bson::Document(doc! { "b": 2, "a": 1 }),
        Bson::Document(doc! { "a": { "b": [1, "1", null] } }),
        Bson::Document(doc! { "a": "x\0y" }),
        Bson::Document(doc! { "long": "x".repeat(3_000) }),
    ];
    let texts = [
        "",
        " ",
        "a",
        "A",
        "a ",
        "ä",
        "a\u{308}",
        "\0",
        "a\0",
        "null",
        "true",
        "0",
        "1",
        "1.0",
        "-1",
        "01",
        oid,
        "$x",
        "$null",
        "$oid:5f0000000000000000000001",
        "$number:1",
        "$string:$x",
        "$string:",
        "$",
        "$bool:true",
        "$date:0",
        "12121212-1212-1212-1212-121212121212",
        "{\"a\":1,\"b\":2}",
        "{\"$oid\":\"5f\"}",
        "😀",
        "'; --",
        "\"",
        "\\N",
        "\t",
        "\n",
    ];
    ids.extend(texts.map(text));
    // Above what a btree's entry holds; and two that differ at their very end.
    ids.push(text(&"l".repeat(6_000)));
    ids.push(text(&format!("{}m", "l".repeat(5_999))));
    ids.push(text(&"w".repeat(512)));
    ids.push(text(&"w".repeat(513)));
    ids
}

/// `n` tells the documents apart without a look at their ids.
fn documents() -> Vec<Document> {
    ids().into_iter().zip(0..).map(|(id, n)| doc! { "_id": id, "n": n, "v": 0 }).collect()
}

/// (n, v) of each row, and the different texts of their ids.
async fn rows(stage: &Stage) -> Result<(Vec<(i32, i32)>, BTreeSet<String>)> {
    let mut session = stage.session().await?;
    let rows = sqlx::query(
        "select (document->>'n')::int, (document->>'v')::int, source_id from things order by 1, 2",
    )
    .fetch_all(&mut *session)
    .await?;
    let values = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    Ok((values, rows.iter().map(|row| row.get(2)).collect()))
}

async fn becomes(stage: &Stage, daemon: &Daemon, expected: &[(i32, i32)]) -> Result<BTreeSet<String>> {
    let mut last = Vec::new();
    let found = until("a row for every id", PATIENCE, async || {
        let (values, texts) = rows(stage).await.unwrap_or_default();
        last = values;
        Ok((last == expected).then_some(texts))
    });
    let texts = found.await.with_context(|| {
        let missing: Vec<_> = expected.iter().filter(|row| !last.contains(row)).collect();
        let extra: Vec<_> = last.iter().filter(|row| !expected.contains(row)).collect();
        format!("missing {missing:?}, extra {extra:?}\n{}", daemon.last_words())
    })?;
    assert_eq!(texts.len(), expected.len(), "different ids, different texts");
    assert!(texts.iter().all(|text| text.len() <= 512));
    Ok(texts)
}

fn mapping(stage: &Stage, id_type: &str) -> String {
    stage.whole("things").replace("allow_empty", &format!("id_type: {id_type}, allow_empty"))
}

/// A document with NUL in its `_id` cannot be jsonb: its whole-document row would be held.
fn without_nul(documents: Vec<Document>) -> Vec<Document> {
    let has_nul = |document: &Document| oracle::json(document).to_string().contains("\\u0000");
    documents.into_iter().filter(|document| !has_nul(document)).collect()
}

#[tokio::test]
async fn ids_of_all_types_in_one_collection_are_found_by_chunks_of_three_and_followed_one_by_one()
-> Result<()> {
    for id_type in ["string", "int", "object_id", "uuid"] {
        let stage = Stage::new(&format!("ids_{id_type}")).await?;
        let things = stage.collection("things");
        let documents = without_nul(documents());
        things.insert_many(&documents).await?;
        let config =
            format!("{}snapshot: {{ chunk_documents: 3 }}\n", stage.config(&mapping(&stage, id_type)));
        let daemon = Daemon::start(&config)?;
        let of = |v: i32, documents: &[Document]| {
            documents.iter().map(|document| Ok((document.get_i32("n")?, v))).collect::<Result<Vec<_>>>()
        };
        let copied = becomes(&stage, &daemon, &of(0, &documents)?).await?;
        let chunks = stage.number("select count(*) from rowstream.chunk").await?;
        assert!(chunks > documents.len() as i64 / 3 - 1, "{chunks} chunks of three");

        // Each by its own id: updated, replaced, deleted, inserted again.
        for document in &documents {
            let id = doc! { "_id": document.get("_id") };
            things.update_one(id, doc! { "$set": { "v": 1 } }).await?;
        }
        let updated = becomes(&stage, &daemon, &of(1, &documents)?).await?;
        assert_eq!(updated, copied, "by stream as by snapshot");
        let (odd, even): (Vec<_>, Vec<_>) =
            documents.into_iter().partition(|document| document.get_i32("n").is_ok_and(|n| n % 2 == 1));
        for document in &odd {
            assert_eq!(things.delete_one(doc! { "_id": document.get("_id") }).await?.deleted_count, 1);
        }
        becomes(&stage, &daemon, &of(1, &even)?).await?;
        things.insert_many(&odd).await?;
        let mut all = of(1, &even)?;
        all.extend(of(0, &odd)?);
        all.sort_unstable();
        assert_eq!(becomes(&stage, &daemon, &all).await?, copied);
        assert_eq!(stage.number("select count(*) from rowstream.held").await?, 0);
        assert!(daemon.stop().await?.success());
    }
    Ok(())
}

#[tokio::test]
async fn an_id_with_nul_has_a_key_like_any_other() -> Result<()> {
    let stage = Stage::new("ids_nul").await?;
    stage
        .execute("create table things (source text, source_id text, n int, v int, primary key (source, source_id))")
        .await?;
    let things = stage.collection("things");
    things.insert_many(documents()).await?;
    let mapping = format!(
        "  - {{ source: things, collection: {}.things, table: things, id_type: string, columns: {{ n: n, v: v }} }}\n",
        stage.name
    );
    let daemon = Daemon::start(&format!("{}snapshot: {{ chunk_documents: 3 }}\n", stage.config(&mapping)))?;
    let count = "select count(distinct (n, v)) from things where v = 0";
    let all = ids().len() as i64;
    let copied =
        until("all ids", PATIENCE, async || Ok((stage.number(count).await? == all).then_some(()))).await;
    copied.with_context(|| daemon.last_words())?;
    for id in ids() {
        things.update_one(doc! { "_id": id }, doc! { "$set": { "v": 1 } }).await?;
    }
    let count = "select count(*) filter (where v = 1) from things";
    let updated =
        until("all updates", PATIENCE, async || Ok((stage.number(count).await? == all).then_some(()))).await;
    updated.with_context(|| daemon.last_words())?;
    assert_eq!(stage.number("select count(*) from things").await?, all);
    things.delete_many(doc! {}).await?;
    let gone = until("all deletes", PATIENCE, async || {
        Ok((stage.number("select count(*) from things").await? == 0).then_some(()))
    });
    gone.await.with_context(|| daemon.last_words())?;
    Ok(())
}

/// The end of the order of ids is an id, too; wherever a chunk happens to end.
#[tokio::test]
async fn the_greatest_id_of_all_is_copied_whatever_the_length_of_chunks() -> Result<()> {
    for chunk in [1, 2, 3, 4, 5] {
        let stage = Stage::new(&format!("ids_greatest_{chunk}")).await?;
        let ends = [Bson::MinKey, Bson::Int32(1), Bson::String("x".into()), Bson::MaxKey];
        let documents = ends.iter().zip(0..).map(|(id, n)| doc! { "_id": id, "n": n, "v": 0 });
        stage.collection("things").insert_many(documents).await?;
        let config = stage.config(&mapping(&stage, "int"));
        let config = format!("{config}snapshot: {{ chunk_documents: {chunk} }}\n");
        let (status, summary) =
            Daemon::start_with(&config, &["--until-caught-up"])?.ends_with_output().await?;
        assert!(status.success(), "{summary}");
        assert_eq!(rows(&stage).await?.0, [(0, 0), (1, 0), (2, 0), (3, 0)], "in chunks of {chunk}");
    }
    Ok(())
}

#[tokio::test]
async fn a_number_is_one_id_however_it_is_written() -> Result<()> {
    let stage = Stage::new("ids_numbers").await?;
    let things = stage.collection("things");
    let daemon = Daemon::start(&stage.config(&mapping(&stage, "int")))?;
    let spellings =
        [Bson::Int32(1), Bson::Int64(1), Bson::Double(1.0), decimal("1"), decimal("1.00"), decimal("10E-1")];
    for (round, first) in spellings.iter().enumerate() {
        things.insert_one(doc! { "_id": first, "n": 0, "v": 0 }).await?;
        becomes(&stage, &daemon, &[(0, 0)]).await?;
        for (v, spelling) in (1..).zip(&spellings) {
            let one = things.update_one(doc! { "_id": spelling }, doc! { "$set": { "v": v } }).await?;
            assert_eq!(one.modified_count, 1);
        }
        assert_eq!(becomes(&stage, &daemon, &[(0, spellings.len() as i32)]).await?, ["1".to_owned()].into());
        let other = &spellings[(round + 1) % spellings.len()];
        things.replace_one(doc! { "_id": other }, doc! { "n": 0, "v": -1 }).await?;
        becomes(&stage, &daemon, &[(0, -1)]).await?;
        assert_eq!(things.delete_one(doc! { "_id": other }).await?.deleted_count, 1);
        becomes(&stage, &daemon, &[]).await?;
    }
    // Beside each other, where they are different numbers; inside documents as well.
    let neighbours = [
        Bson::Int64((1 << 53) + 1),
        Bson::Double(9_007_199_254_740_992.0),
        Bson::Double(-0.0),
        Bson::Double(0.1),
        decimal("0.1"),
        Bson::Document(doc! { "a": 1 }),
        Bson::Document(doc! { "a": 1.5 }),
    ];
    let documents = neighbours.iter().zip(0..).map(|(id, n)| doc! { "_id": id, "n": n, "v": 0 });
    things.insert_many(documents).await?;
    let again = Bson::Document(doc! { "a": 1.0 });
    assert!(things.insert_one(doc! { "_id": again.clone() }).await.is_err(), "MongoDB holds them for one");
    things.update_one(doc! { "_id": again }, doc! { "$set": { "v": 1 } }).await?;
    things.update_one(doc! { "_id": 0 }, doc! { "$set": { "v": 1 } }).await?;
    becomes(&stage, &daemon, &[(0, 0), (1, 0), (2, 1), (3, 0), (4, 0), (5, 1), (6, 0)]).await?;
    let found: Vec<Document> = things.find(doc! {}).await?.try_collect().await?;
    assert_eq!(found.len(), neighbours.len());
    Ok(())
}
