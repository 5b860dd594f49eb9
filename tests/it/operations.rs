//! What MongoDB can do to documents, and what must be in PostgreSQL afterwards.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use bson::{Bson, DateTime, Decimal128, Document, doc};
use mongodb::options::WriteConcern;
use sqlx::{Connection, Row};

use crate::daemon::{Daemon, PATIENCE};
use crate::oracle::Plain;
use crate::stage::{Stage, numbered};
use crate::support::until;

#[tokio::test]
async fn every_update_operator_reaches_the_row() -> Result<()> {
    let stage = Stage::new("operators").await?;
    let things = stage.collection("things");
    let price: Decimal128 = "12.30".parse()?;
    let document = |name: &str| {
        doc! {
            "_id": name, "n": 5, "big": 1_i64 << 60, "price": price, "x": 1.5, "bits": 0b1100,
            "list": [3, 1, 2, 3], "deep": { "a": { "b": [{ "c": 1 }, { "c": 2 }] } }, "0": "numeric", "text": "text",
        }
    };
    let far: Vec<i32> = (0..1_000).collect();
    let operators = [
        ("set", doc! { "$set": { "n": 6, "deep.a.b.1.c": "x", "list.7": 1, "new.path": { "y": 1 } } }),
        ("set a numeric key", doc! { "$set": { "0": "zero", "deep.0": 1, "list.0": "index" } }),
        ("unset", doc! { "$unset": { "n": "", "deep.a.b.0.c": "", "list.1": "" } }),
        (
            "inc",
            doc! { "$inc": { "n": -7, "big": 1, "x": 0.1, "price": Decimal128::from_bytes(price.bytes()) } },
        ),
        ("mul", doc! { "$mul": { "n": 3, "x": 2, "absent": 2 } }),
        ("min", doc! { "$min": { "n": 4, "x": 9 } }),
        ("max", doc! { "$max": { "n": 6, "when": DateTime::from_millis(1) } }),
        ("rename", doc! { "$rename": { "text": "deep.text", "n": "m" } }),
        ("bit", doc! { "$bit": { "bits": { "xor": 0b0101 } } }),
        ("push", doc! { "$push": { "list": { "$each": [9, 8], "$position": 1, "$slice": 4, "$sort": -1 } } }),
        ("push many", doc! { "$push": { "list": { "$each": far } } }),
        ("pull", doc! { "$pull": { "list": 3, "deep.a.b": { "c": 1 } } }),
        ("pull all", doc! { "$pullAll": { "list": [3, 1] } }),
        ("pop", doc! { "$pop": { "list": 1 } }),
        ("pop first", doc! { "$pop": { "list": -1 } }),
        ("add to set", doc! { "$addToSet": { "list": { "$each": [3, 4] } } }),
        ("current date", doc! { "$currentDate": { "when": true, "stamp": { "$type": "timestamp" } } }),
        ("positional", doc! { "$set": { "deep.a.b.$[].c": 7, "list.$[]": 0 } }),
        ("empty names", doc! { "$set": { "deep.": "empty" } }),
    ];
    things.insert_many(operators.iter().map(|(name, _)| document(name))).await?;
    things.insert_many(["replaced", "piped", "many 1", "many 2"].map(document)).await?;
    let daemon = Daemon::start(&stage.config(&stage.whole("things")))?;
    stage.becomes_equal(&daemon, "things", Plain::String).await?;

    for (name, update) in operators {
        let result = things.update_one(doc! { "_id": name }, update).await;
        // Whether an empty name may be set is a matter of the server's version.
        if name != "empty names" {
            assert_eq!(result.context(name)?.modified_count, 1, "{name}");
        }
    }
    let upsert = doc! { "$setOnInsert": { "made": true }, "$set": { "n": 1 } };
    things.update_one(doc! { "_id": "upserted" }, upsert.clone()).upsert(true).await?;
    things.update_one(doc! { "_id": "set" }, upsert).upsert(true).await?;
    things.insert_one(doc! { "_id": "dollar", "$c": 1, "a": { "$ref": "x", "$id": 1 } }).await?;
    let fields = doc! { "_id": "replaced", "a.b": 1, "": 3, "with-dash": { "op": "x", "_data": 1 } };
    things.replace_one(doc! { "_id": "replaced" }, fields).await?;
    let stages = [doc! { "$set": { "n": { "$add": ["$n", "$bits"] } } }, doc! { "$unset": "deep" }];
    things.update_one(doc! { "_id": "piped" }, stages.to_vec()).await?;
    things.update_many(doc! { "_id": { "$regex": "^many" } }, doc! { "$inc": { "n": 10 } }).await?;
    things.find_one_and_update(doc! { "_id": "many 1" }, doc! { "$set": { "found": true } }).await?;
    things.find_one_and_delete(doc! { "_id": "many 2" }).await?;
    stage.becomes_equal(&daemon, "things", Plain::String).await?;
    assert!(daemon.stop().await?.success());
    Ok(())
}

/// Every row of operations on one `_id` ends as the last of them says, however it is cut into batches.
async fn series(name: &str, batch: &str) -> Result<()> {
    let stage = Stage::new(name).await?;
    let things = stage.collection("things");
    let before = ["update", "delete", "delete, insert", "replace, delete", "delete, insert, delete"];
    things.insert_many(before.map(|id| doc! { "_id": id, "n": 0 })).await?;
    let config = format!("{}\n{batch}", stage.config(&stage.whole("things")));
    let daemon = Daemon::start(&config)?;
    stage.becomes_equal(&daemon, "things", Plain::String).await?;

    let insert = async |id: &str, n: i32| things.insert_one(doc! { "_id": id, "n": n }).await.map(drop);
    let update = async |id: &str, n: i32| {
        things.update_one(doc! { "_id": id }, doc! { "$set": { "n": n } }).await.map(drop)
    };
    let replace = async |id: &str| {
        things.replace_one(doc! { "_id": id }, doc! { "_id": id, "replaced": true }).await.map(drop)
    };
    let delete = async |id: &str| things.delete_one(doc! { "_id": id }).await.map(drop);

    update("update", 1).await?;
    delete("delete").await?;
    delete("delete, insert").await?;
    insert("delete, insert", 2).await?;
    replace("replace, delete").await?;
    delete("replace, delete").await?;
    delete("delete, insert, delete").await?;
    insert("delete, insert, delete", 3).await?;
    delete("delete, insert, delete").await?;
    insert("insert, delete", 4).await?;
    delete("insert, delete").await?;
    insert("insert, update, replace", 5).await?;
    update("insert, update, replace", 6).await?;
    replace("insert, update, replace").await?;
    for round in 0..20 {
        insert("twenty rounds", round).await?;
        update("twenty rounds", round + 100).await?;
        if round < 19 {
            delete("twenty rounds").await?;
        }
    }
    stage.settled(&daemon, "things").await?;
    stage.equal("things", Plain::String).await?;
    let ids = "select string_agg(source_id, '; ' order by source_id) from things";
    assert_eq!(
        stage.text(ids).await?.as_deref(),
        Some("delete, insert; insert, update, replace; twenty rounds; update")
    );
    Ok(())
}

#[tokio::test]
async fn a_series_of_operations_on_one_id_ends_as_its_last_one_says() -> Result<()> {
    series("series", "").await
}

#[tokio::test]
async fn a_series_ends_the_same_when_every_change_is_a_batch_of_its_own() -> Result<()> {
    series("series_of_one", "batch: { max_changes: 1 }\n").await
}

#[tokio::test]
async fn what_changes_nothing_rewrites_no_row() -> Result<()> {
    let stage = Stage::new("unchanged").await?;
    let things = stage.collection("things");
    things.insert_many(numbered(0, 20)).await?;
    let daemon = Daemon::start(&stage.config(&stage.whole("things")))?;
    stage.becomes_equal(&daemon, "things", Plain::Int).await?;
    let versions =
        "select string_agg(concat_ws(' ', source_id, xmin, ctid), ', ' order by source_id) from things";
    for document in numbered(0, 10) {
        things.replace_one(doc! { "_id": document.get("_id") }, &document).await?;
    }
    let no_op = things.update_many(doc! {}, [doc! { "$set": { "n": "$n" } }].to_vec()).await?;
    assert_eq!(no_op.modified_count, 0);
    // There and back again.
    things.update_many(doc! {}, doc! { "$inc": { "n": 1 } }).await?;
    things.update_many(doc! {}, doc! { "$inc": { "n": -1 } }).await?;
    stage.settled(&daemon, "things").await?;
    stage.equal("things", Plain::Int).await?;
    let replaced = stage.text(versions).await?;
    // The way there may have been seen; the documents that were only replaced must not.
    things.delete_many(doc! { "n": { "$gte": 10 } }).await?;
    for document in numbered(0, 10) {
        things.replace_one(doc! { "_id": document.get("_id") }, &document).await?;
    }
    stage.settled(&daemon, "things").await?;
    let ten = |versions: Option<String>| -> BTreeSet<String> {
        let of_ten = |row: &&str| row.split(' ').next().is_some_and(|id| id.len() == 1);
        versions.unwrap_or_default().split(", ").filter(of_ten).map(str::to_owned).collect()
    };
    assert_eq!(ten(stage.text(versions).await?), ten(replaced));
    Ok(())
}

#[tokio::test]
async fn bulk_writes_with_failing_members_leave_what_mongodb_left() -> Result<()> {
    let stage = Stage::new("bulk").await?;
    let things = stage.collection("things");
    things.insert_many(numbered(0, 10)).await?;
    let daemon = Daemon::start(&stage.config(&stage.whole("things")))?;
    stage.becomes_equal(&daemon, "things", Plain::Int).await?;

    // 9 is taken: ordered stops there, unordered goes on.
    assert!(
        things
            .insert_many(numbered(100, 105).chain(numbered(9, 10)).chain(numbered(105, 110)))
            .await
            .is_err()
    );
    let some = numbered(200, 205).chain(numbered(9, 10)).chain(numbered(205, 210));
    assert!(things.insert_many(some).ordered(false).await.is_err());
    things.insert_many(numbered(1_000, 4_000)).await?;
    things
        .update_many(doc! { "n": { "$gte": 1_000, "$lt": 2_000 } }, doc! { "$set": { "text": "bulk" } })
        .await?;
    things.delete_many(doc! { "n": { "$gte": 1_500, "$lt": 2_500 } }).await?;
    stage.becomes_equal(&daemon, "things", Plain::Int).await?;
    assert_eq!(stage.number("select count(*) from things").await?, 10 + 5 + 10 + 2_000);
    Ok(())
}

const LEDGERS: [&str; 3] = ["debits", "credits", "journal"];

/// Documents that a transaction inserts into each of the three.
const EACH: i64 = 100;

/// One transaction over three collections: new documents, and one that is replaced.
async fn transact(stage: &Stage, number: i64, abort: bool) -> Result<()> {
    let mut session = stage.client.start_session().await?;
    session.start_transaction().write_concern(WriteConcern::majority()).await?;
    for name in LEDGERS {
        let collection = stage.database.collection::<Document>(name);
        let documents = (0..EACH).map(|n| doc! { "_id": number * 1_000 + n, "of": number });
        collection.insert_many(documents).session(&mut session).await?;
        let latest = doc! { "_id": -1_i64, "of": number };
        collection.replace_one(doc! { "_id": -1_i64 }, latest).upsert(true).session(&mut session).await?;
    }
    if abort {
        session.abort_transaction().await?;
    } else {
        session.commit_transaction().await?;
    }
    Ok(())
}

/// What a reader of PostgreSQL sees at one moment: the transactions that are there, whole.
async fn seen(connection: &mut sqlx::PgConnection) -> Result<Vec<i64>> {
    let mut transaction = connection.begin_with("begin isolation level repeatable read").await?;
    let mut views = Vec::new();
    for name in LEDGERS {
        let sql = format!(
            "select (document->>'of')::bigint, count(*), bool_or(source_id = '-1') from \"{name}\" group by 1 order by 1"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(&mut *transaction).await?;
        let view: Vec<(i64, i64, bool)> =
            rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
        let newest = view.last().map(|(of, ..)| *of);
        for (of, count, latest) in &view {
            ensure!(*count - i64::from(*latest) == EACH, "{name} has {count} rows of transaction {of}");
            ensure!(*latest == (Some(*of) == newest), "{name} is behind at transaction {of}: {view:?}");
        }
        views.push(view.into_iter().map(|(of, ..)| of).collect::<Vec<_>>());
    }
    transaction.rollback().await?;
    ensure!(views[0] == views[1] && views[1] == views[2], "half a transaction is there: {views:?}");
    Ok(views.swap_remove(0))
}

#[tokio::test]
async fn a_transaction_over_three_collections_is_never_seen_half() -> Result<()> {
    let stage = Stage::new("transactions").await?;
    for name in LEDGERS {
        stage.database.create_collection(name).await?;
    }
    let mapping = |name| stage.whole(name).replace("allow_empty", "id_type: int, allow_empty");
    let mappings: String = LEDGERS.into_iter().map(mapping).collect();
    // A batch is full after 50 changes; a transaction has 303.
    let daemon = Daemon::start(&format!("{}\nbatch: {{ max_changes: 50 }}\n", stage.config(&mappings)))?;
    // While a collection is being copied it may be ahead of the others.
    let copied = "select count(*) from rowstream.mapping where snapshot_state = 'done'";
    until("all three to be copied", PATIENCE, async || {
        Ok((stage.number(copied).await.ok() == Some(3)).then_some(()))
    })
    .await
    .with_context(|| daemon.last_words())?;
    stage.settled(&daemon, "journal").await?;

    let over = Arc::new(AtomicBool::new(false));
    let mut connection = stage.postgres().await?;
    let reader = tokio::spawn({
        let over = Arc::clone(&over);
        async move {
            let mut moments = BTreeSet::new();
            while !over.load(Ordering::Relaxed) {
                moments.insert(seen(&mut connection).await?.len());
            }
            Ok::<_, anyhow::Error>(moments)
        }
    });
    for number in 1..=30 {
        transact(&stage, number, number % 10 == 0).await?;
    }
    let committed: Vec<i64> = (1..=30).filter(|number| number % 10 != 0).collect();
    let mut own = stage.postgres().await?;
    let arrived = until("all transactions", PATIENCE, async || {
        let there = seen(&mut own).await?;
        Ok((there.len() >= committed.len()).then_some(there))
    });
    let arrived = arrived.await.with_context(|| daemon.last_words());
    over.store(true, Ordering::Relaxed);
    let moments = reader.await??;
    assert_eq!(arrived?, committed, "and none of those that were aborted");
    assert!(moments.len() > 3, "the reader was there while they came: {moments:?}");
    for name in LEDGERS {
        stage.equal(name, Plain::Int).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_transaction_that_writes_one_document_often_leaves_its_last_state_and_an_aborted_one_nothing()
-> Result<()> {
    let stage = Stage::new("transaction_series").await?;
    let things = stage.collection("things");
    things.insert_many(numbered(0, 5)).await?;
    let daemon = Daemon::start(&stage.config(&stage.whole("things")))?;
    stage.becomes_equal(&daemon, "things", Plain::Int).await?;
    let before = stage
        .text("select md5(string_agg(xmin::text || document, '' order by source_id)) from things")
        .await?;

    let plain = stage.database.collection::<Document>("things");
    for commit in [false, true] {
        let mut session = stage.client.start_session().await?;
        session.start_transaction().write_concern(WriteConcern::majority()).await?;
        plain.insert_one(doc! { "_id": 9_i64, "n": 1 }).session(&mut session).await?;
        plain.update_one(doc! { "_id": 9_i64 }, doc! { "$set": { "n": 2 } }).session(&mut session).await?;
        plain.delete_one(doc! { "_id": 9_i64 }).session(&mut session).await?;
        plain.insert_one(doc! { "_id": 9_i64, "n": Bson::Null }).session(&mut session).await?;
        plain.delete_one(doc! { "_id": 0_i64 }).session(&mut session).await?;
        plain.update_one(doc! { "_id": 1_i64 }, doc! { "$set": { "n": 3 } }).session(&mut session).await?;
        if commit {
            session.commit_transaction().await?;
            stage.becomes_equal(&daemon, "things", Plain::Int).await?;
        } else {
            session.abort_transaction().await?;
            stage.settled(&daemon, "things").await?;
            let now = "select md5(string_agg(xmin::text || document, '' order by source_id)) from things";
            assert_eq!(stage.text(now).await?, before);
        }
    }
    assert_eq!(
        stage.text("select document->'n' from things where source_id = '9'").await?.as_deref(),
        Some("null")
    );
    Ok(())
}
