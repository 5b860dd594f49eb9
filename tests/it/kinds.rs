//! Kinds of collections: capped, clustered, with a collation; views and time series beside them; and what only
//! concerns their definition.

use anyhow::{Context, Result, ensure};
use bson::{Bson, doc};

use crate::daemon::{Daemon, command};
use crate::oracle::Plain;
use crate::stage::{Stage, numbered};

#[tokio::test]
async fn collections_of_every_kind_are_copied_and_followed_beside_views_and_time_series() -> Result<()> {
    let stage = Stage::new("kinds").await?;
    let database = &stage.database;
    for create in [
        doc! { "create": "capped", "capped": true, "size": 1 << 20, "max": 20 },
        doc! { "create": "clustered", "clusteredIndex": { "key": { "_id": 1 }, "unique": true } },
        doc! { "create": "collated", "collation": { "locale": "de", "strength": 1 } },
        doc! { "create": "upper_first", "collation": { "locale": "en", "caseFirst": "upper" } },
        doc! { "create": "seen", "viewOn": "clustered", "pipeline": [{ "$match": { "n": 1 } }] },
        doc! { "create": "weather", "timeseries": { "timeField": "at", "metaField": "of" } },
    ] {
        database.run_command(create).await?;
    }
    let reading = |n: i64| doc! { "at": bson::DateTime::from_millis(n * 1_000), "of": "here", "n": n };
    stage.collection("weather").insert_many((0..10).map(reading)).await?;
    stage.collection("capped").insert_many(numbered(0, 15)).await?;
    let mixed: Vec<Bson> =
        vec![1.into(), "1".into(), 2.5.into(), true.into(), Bson::DateTime(bson::DateTime::from_millis(5))];
    let mixed = mixed.into_iter().chain((10..30).map(Bson::Int32)).zip(0..);
    stage.collection("clustered").insert_many(mixed.map(|(id, n)| doc! { "_id": id, "n": n })).await?;
    // In the order of bytes they stand otherwise than in that of German.
    let words = ["z", "ä", "B", "a b", "ss2", "Zo", "é1", "a", "ö", "c", "Ö2", "", "10", "9"];
    for name in ["collated", "upper_first"] {
        let documents = words.iter().zip(0..).map(|(word, n)| doc! { "_id": *word, "n": n });
        let result = stage.collection(name).insert_many(documents).ordered(false).await;
        // To strength 1, a and ä are one id.
        ensure!(result.is_ok() || name == "collated", "{result:?}");
    }
    let config = format!("{}snapshot: {{ chunk_documents: 3 }}\n", stage.config(""));
    let daemon = Daemon::start(&config)?;
    let all = [
        ("capped", Plain::Int),
        ("clustered", Plain::Int),
        ("collated", Plain::String),
        ("upper_first", Plain::String),
    ];
    let equal = async |what: &str| {
        for (name, plain) in all {
            stage.becomes_equal(&daemon, name, plain).await.with_context(|| format!("{name} {what}"))?;
        }
        anyhow::Ok(())
    };
    equal("copied").await?;

    // What falls out of a capped collection has a delete on this server.
    stage.collection("capped").insert_many(numbered(15, 60)).await?;
    stage.collection("clustered").update_many(doc! {}, doc! { "$inc": { "n": 100 } }).await?;
    stage.collection("clustered").delete_one(doc! { "_id": "1" }).await?;
    stage.collection("clustered").insert_one(doc! { "_id": Bson::Null, "n": 1 }).await?;
    for name in ["collated", "upper_first"] {
        let of_name = stage.collection(name);
        // By another spelling of the id, where the collation takes it for the same.
        of_name.update_one(doc! { "_id": "ZO" }, doc! { "$set": { "n": "spelled" } }).await?;
        of_name.delete_one(doc! { "_id": "C" }).await?;
        of_name.delete_one(doc! { "_id": "9" }).await?;
        of_name.insert_one(doc! { "_id": "new", "n": 1 }).await?;
        of_name.update_many(doc! {}, doc! { "$set": { "all": true } }).await?;
    }
    stage.collection("weather").insert_many((10..20).map(reading)).await?;
    equal("followed").await?;
    assert_eq!(stage.number("select count(*) from capped").await?, 20);
    assert_eq!(
        stage.number("select count(*) from collated where document->>'n' = 'spelled'").await?,
        1,
        "the other spelling meant the document"
    );

    // Definitions change, and no document does.
    let rows = "select md5(string_agg(xmin::text || ctid, ' ' order by source_id)) from clustered";
    let before = stage.text(rows).await?;
    for change in [
        doc! { "createIndexes": "clustered", "indexes": [{ "key": { "n": 1 }, "name": "of_n" }] },
        doc! { "collMod": "clustered", "index": { "name": "of_n", "hidden": true } },
        doc! { "collMod": "clustered", "validator": { "n": { "$exists": true } }, "validationLevel": "moderate" },
        doc! { "dropIndexes": "clustered", "index": "of_n" },
        doc! { "collMod": "clustered", "changeStreamPreAndPostImages": { "enabled": true } },
        doc! { "create": "never_written" },
        doc! { "collMod": "seen", "viewOn": "clustered", "pipeline": [] },
    ] {
        database.run_command(change.clone()).await.with_context(|| change.to_string())?;
    }
    stage.settled(&daemon, "capped").await?;
    assert_eq!(stage.text(rows).await?, before);
    stage.collection("clustered").update_one(doc! { "_id": 1 }, doc! { "$set": { "n": -1 } }).await?;
    stage.collection("clustered").replace_one(doc! { "_id": 10 }, doc! { "n": -2 }).await?;
    stage.collection("clustered").delete_one(doc! { "_id": 11 }).await?;
    equal("after their definitions changed").await?;

    let others = "select string_agg(relname, ' ') from pg_class as c join pg_namespace as n on n.oid = relnamespace
        where nspname = 'public' and relkind = 'r' and relname not in ('capped', 'clustered', 'collated', 'upper_first', 'never_written')";
    assert_eq!(stage.text(others).await?, None, "neither the view nor the time series has a table");
    assert!(daemon.stop().await?.success());
    Ok(())
}

#[tokio::test]
async fn a_view_or_a_time_series_that_is_mapped_is_refused_before_the_first_write() -> Result<()> {
    let stage = Stage::new("refused_kinds").await?;
    stage.collection("things").insert_one(doc! { "_id": 1 }).await?;
    for create in [
        doc! { "create": "seen", "viewOn": "things", "pipeline": [] },
        doc! { "create": "weather", "timeseries": { "timeField": "at" } },
    ] {
        stage.database.run_command(create).await?;
    }
    for (name, told) in [("seen", "is a view"), ("weather", "is a time series")] {
        // The good one beside it is not begun either.
        let config = stage.config(&(stage.whole("things") + &stage.whole(name)));
        let output = command(&["check"], &config)?;
        let text = String::from_utf8(output.stdout)?;
        ensure!(output.status.code() == Some(1) && text.contains(told), "{text}");
        let daemon = Daemon::start(&config)?;
        let line = daemon.logged("halted").await?;
        ensure!(line.contains(told), "{line}");
        assert!(daemon.stop().await?.success());
        ensure!(stage.number("select count(*) from rowstream.checkpoint").await? == 0, "{name} was begun");
    }
    Ok(())
}
