//! First copies, and copies that are made again: whatever the ids are, however many read, whoever is killed.

use anyhow::{Context, Result, ensure};
use bson::oid::ObjectId;
use bson::{Bson, Decimal128, Document, doc};
use serde_json::Value;

use crate::daemon::{Daemon, PATIENCE};
use crate::oracle::Plain;
use crate::stage::{Stage, numbered};
use crate::support::until;

const EACH: i64 = 24;

/// Collections whose ids are all of one type, some with less between two of them than a boundary could be.
fn ids_of_one_type() -> Result<Vec<(&'static str, Vec<Bson>)>> {
    let all = |id: &dyn Fn(i64) -> Bson| (0..EACH).map(id).collect::<Vec<_>>();
    let tenths =
        (0..EACH).map(|n| Ok(Bson::Decimal128(format!("{}.{}", n / 10, n % 10).parse::<Decimal128>()?)));
    let bytes =
        |n: i64| bson::Binary { subtype: bson::spec::BinarySubtype::Generic, bytes: vec![0; n as usize] };
    let uuid =
        |n: i64| bson::Uuid::from_bytes([[n as u8; 8], [0xA5; 8]].concat().try_into().unwrap_or([0; 16]));
    Ok(vec![
        ("of_int", all(&|n| Bson::Int32(n as i32 - 12))),
        ("of_long", all(&|n| Bson::Int64(i64::MAX - n))),
        ("of_double", all(&|n| Bson::Double(1.0 + n as f64 / 1_000.0))),
        ("of_decimal", tenths.collect::<Result<_>>()?),
        ("of_object_id", all(&|n| Bson::ObjectId(ObjectId::from_bytes([n as u8; 12])))),
        ("of_uuid", all(&|n| Bson::from(uuid(n)))),
        ("of_string", all(&|n| Bson::String("x".repeat(n as usize)))),
        ("of_binary", all(&|n| Bson::Binary(bytes(n)))),
        ("of_document", all(&|n| Bson::Document(doc! { "a": n / 10, "b": n % 10 }))),
        ("of_date", all(&|n| Bson::DateTime(bson::DateTime::from_millis(n - 12)))),
        ("single", vec![Bson::Int32(7)]),
        ("empty", vec![]),
    ])
}

/// Each row once, in each table.
async fn all_are_there(stage: &Stage) -> Result<()> {
    for (name, ids) in ids_of_one_type()? {
        let sql = format!(
            "select concat_ws(' ', count(*), count(distinct document->'n'), coalesce(sum((document->>'n')::int), 0)) from {name}"
        );
        let count = ids.len() as i64;
        let expected = format!("{count} {count} {}", count * (count - 1) / 2);
        let found = stage.text(&sql).await.context(name)?;
        ensure!(found.as_deref() == Some(expected.as_str()), "{name}: {found:?} instead of {expected}");
    }
    Ok(())
}

#[tokio::test]
async fn any_number_of_readers_and_chunks_copies_the_same_rows_whatever_the_type_of_ids() -> Result<()> {
    let first = Stage::new("copies").await?;
    for (name, ids) in ids_of_one_type()? {
        first.database.create_collection(name).await?;
        let documents = ids.into_iter().zip(0..).map(|(id, n)| doc! { "_id": id, "n": n });
        let documents: Vec<Document> = documents.collect();
        if !documents.is_empty() {
            first.collection(name).insert_many(documents).await?;
        }
    }
    for (chunk, workers) in [(1, 8), (7, 3), (16_384, 1)] {
        // Another database to write to, the same to read.
        let target = Stage::new(&format!("copies_{chunk}")).await?;
        let config = first.config("").replace(&first.postgres_url, &target.postgres_url);
        let config = format!("{config}snapshot: {{ chunk_documents: {chunk}, workers: {workers} }}\n");
        let (status, summary) =
            Daemon::start_with(&config, &["--until-caught-up"])?.ends_with_output().await?;
        ensure!(status.success(), "{summary}");
        all_are_there(&target).await.with_context(|| format!("chunks of {chunk}, {workers} readers"))?;
        let chunks = target.number("select count(*) from rowstream.chunk").await?;
        ensure!(chunks >= 10 * (EACH / chunk).max(1), "only {chunks} chunks of {chunk}");
    }
    Ok(())
}

async fn finished(stage: &Stage) -> Result<Vec<String>> {
    let sql = "select number || ' ' || finished_at from rowstream.chunk where finished_at is not null order by number";
    Ok(sqlx::query_scalar(sql).fetch_all(&mut *stage.session().await?).await?)
}

#[tokio::test]
async fn a_repeated_copy_that_is_killed_goes_on_where_it_was_and_is_made_once() -> Result<()> {
    const DOCUMENTS: i64 = 8_000;
    let stage = Stage::new("repeated_copy").await?;
    stage
        .execute(
            "create table things (source text, source_id text, v bigint, primary key (source, source_id))",
        )
        .await?;
    stage.collection("things").insert_many(numbered(0, DOCUMENTS)).await?;
    let config = |column: &str| {
        let mapping = format!(
            "  - {{ source: things, collection: {}.things, table: things, id_type: int, columns: {{ v: {column} }} }}\n",
            stage.name
        );
        stage.config(&mapping) + "snapshot: { chunk_documents: 100, workers: 1 }\n"
    };
    let before = config("{ from: n }");
    let after = config("{ cel: \"doc.n + 1\" }");
    let (status, summary) = Daemon::start_with(&before, &["--until-caught-up"])?.ends_with_output().await?;
    ensure!(status.success(), "{summary}");
    let sum = "select sum(v) from things";
    assert_eq!(stage.number(sum).await?, DOCUMENTS * (DOCUMENTS - 1) / 2);

    let daemon = Daemon::start(&after)?;
    let running = "select count(*) from rowstream.mapping where snapshot_state = 'running'";
    until("some chunks of the second copy", PATIENCE, async || {
        let some = finished(&stage).await?.len();
        Ok((stage.number(running).await? == 1 && (3..60).contains(&some)).then_some(()))
    })
    .await
    .with_context(|| daemon.last_words())?;
    daemon.kill9()?;
    let at_kill = finished(&stage).await?;
    ensure!(stage.number(running).await? == 1, "the copy was over when it was killed");
    stage.execute("update rowstream.lease set heartbeat = 'epoch'").await?;
    let daemon = Daemon::start(&after)?;
    let line: Value = serde_json::from_str(&daemon.logged("snapshot started").await?)?;
    let resumed = line.pointer("/fields/resumed_at").or_else(|| line.get("resumed_at"));
    let resumed = resumed.and_then(Value::as_i64).context("no resumed_at in the log")?;
    ensure!(resumed >= at_kill.len() as i64 * 100 && resumed > 0, "it began again, at {resumed}");
    daemon.logged("snapshot done").await?;
    assert_eq!(stage.number(sum).await?, DOCUMENTS * (DOCUMENTS + 1) / 2);
    let at_end = finished(&stage).await?;
    ensure!(at_kill.iter().all(|chunk| at_end.contains(chunk)), "a chunk was copied twice");
    assert!(daemon.stop().await?.success());

    let (status, summary) = Daemon::start_with(&after, &["--until-caught-up"])?.ends_with_output().await?;
    ensure!(status.success(), "{summary}");
    assert_eq!(finished(&stage).await?, at_end, "nothing is copied a third time");
    Ok(())
}

#[tokio::test]
async fn without_a_first_copy_only_what_changes_has_a_row() -> Result<()> {
    let stage = Stage::new("no_copy").await?;
    let things = stage.collection("things");
    things.insert_many(numbered(0, 10)).await?;
    // The stream begins with the last operation before it: not with one of these.
    stage.collection("elsewhere").insert_one(doc! {}).await?;
    let mapping = stage.whole("things").replace("allow_empty", "id_type: int, allow_empty");
    let daemon = Daemon::start(&format!("{}snapshot: {{ mode: never }}\n", stage.config(&mapping)))?;
    daemon.check_becomes("leader", &["ok"]).await?;
    daemon.check_becomes("stream", &["ok"]).await?;
    stage.settled(&daemon, "things").await?;
    things.update_one(doc! { "_id": 3_i64 }, doc! { "$set": { "n": "changed" } }).await?;
    things.insert_one(doc! { "_id": 10_i64 }).await?;
    things.delete_one(doc! { "_id": 4_i64 }).await?;
    stage.settled(&daemon, "things").await?;
    let rows =
        "select string_agg(concat_ws(' ', source_id, document->>'n'), ', ' order by source_id) from things";
    assert_eq!(stage.text(rows).await?.as_deref(), Some("10, 3 changed"));
    assert!(daemon.stop().await?.success());
    Ok(())
}

#[tokio::test]
async fn the_position_of_an_idle_pipeline_moves_on_while_others_are_busy() -> Result<()> {
    let stage = Stage::new("idle_pipeline").await?;
    stage.collection("things").insert_many(numbered(0, 10)).await?;
    let daemon = Daemon::start(&stage.config(&stage.whole("things")))?;
    stage.becomes_equal(&daemon, "things", Plain::Int).await?;
    let rows = "select md5(string_agg(xmin::text || ctid, ' ' order by source_id)) from things";
    let before = stage.text(rows).await?;
    let position = "select cluster_time from rowstream.checkpoint";
    // Again and again: the first time might be the session's beginning.
    for round in 0..2 {
        let command =
            doc! { "insert": "elsewhere", "documents": [{ "a": 1 }], "writeConcern": { "w": "majority" } };
        let reply = stage.database.run_command(command).await?;
        let time = reply.get_timestamp("operationTime")?;
        let written = (i64::from(time.time) << 32) | i64::from(time.increment);
        until("the position to pass what was written elsewhere", PATIENCE, async || {
            Ok((stage.number(position).await? >= written).then_some(()))
        })
        .await
        .with_context(|| format!("round {round}: {}", daemon.last_words()))?;
    }
    assert_eq!(stage.text(rows).await?, before);
    assert!(daemon.stop().await?.success());
    Ok(())
}

/// All that happens while nobody follows is looked up when it is over.
#[tokio::test]
async fn a_document_that_is_gone_or_another_one_when_it_is_read_leaves_no_trace_of_what_it_never_was()
-> Result<()> {
    let stage = Stage::new("read_late").await?;
    let things = stage.collection("things");
    let ids = ["gone", "again", "another", "late", "twice"];
    things.insert_many(ids.map(|id| doc! { "_id": id, "v": 0 })).await?;
    let mapping = stage.whole("things").replace("allow_empty", "id_type: string, allow_empty");
    let config = format!("{}batch: {{ max_changes: 1 }}\n", stage.config(&mapping));
    let daemon = Daemon::start(&config)?;
    stage.becomes_equal(&daemon, "things", Plain::String).await?;
    assert!(daemon.stop().await?.success());
    stage
        .execute(
            "create table history (number bigserial, source_id text, op text, document jsonb);
             create function remember() returns trigger language plpgsql as $$
             begin
                 if tg_op = 'DELETE' then insert into history (source_id, op) values (old.source_id, tg_op);
                 else insert into history (source_id, op, document) values (new.source_id, tg_op, new.document);
                 end if;
                 return null;
             end $$;
             create trigger remember after insert or update or delete on things for each row execute function remember()",
        )
        .await?;

    let set = async |id: &str, v: i32| {
        things.update_one(doc! { "_id": id }, doc! { "$set": { "v": v } }).await.map(drop)
    };
    for v in 1..4 {
        for id in ids {
            set(id, v).await?;
        }
    }
    things.delete_one(doc! { "_id": "gone" }).await?;
    things.delete_one(doc! { "_id": "again" }).await?;
    things.insert_one(doc! { "_id": "again", "v": 10 }).await?;
    things.replace_one(doc! { "_id": "another" }, doc! { "other": true }).await?;
    things.insert_one(doc! { "_id": "passing", "v": 0 }).await?;
    set("passing", 1).await?;
    things.delete_one(doc! { "_id": "passing" }).await?;
    things.delete_one(doc! { "_id": "twice" }).await?;
    things.insert_one(doc! { "_id": "twice", "v": 20 }).await?;
    set("twice", 21).await?;
    things.delete_one(doc! { "_id": "twice" }).await?;

    let daemon = Daemon::start(&config)?;
    stage.settled(&daemon, "things").await?;
    stage.equal("things", Plain::String).await?;
    // Each state is one the document has had, and after the last delete nothing comes any more.
    let strange = "select string_agg(concat_ws(' ', source_id, op, document), '; ') from history
        where op <> 'DELETE' and source_id not like 'marker %' and (document is null or document->>'_id' <> source_id
            or not (document ? 'other' or (document->>'v')::int in (0, 1, 2, 3, 10, 20, 21)))";
    assert_eq!(stage.text(strange).await?, None);
    let last = "select string_agg(concat_ws(' ', source_id, op), ', ' order by source_id) from
        (select distinct on (source_id) source_id, op from history where source_id in ('gone', 'passing', 'twice')
         order by source_id, number desc) as of_each";
    assert_eq!(stage.text(last).await?.as_deref(), Some("gone DELETE, passing DELETE, twice DELETE"));
    assert!(daemon.stop().await?.success());
    Ok(())
}
