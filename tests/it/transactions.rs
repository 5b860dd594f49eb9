//! MongoDB's transactions where they are awkward: above what one oplog entry holds, and cut in two by our own end.

use anyhow::{Context, Result, ensure};
use bson::{Document, doc};
use mongodb::options::WriteConcern;
use sqlx::{Connection, Executor, PgConnection};

use crate::daemon::{Daemon, PATIENCE};
use crate::oracle::Plain;
use crate::stage::{Stage, numbered};
use crate::support::until;

/// Rows of both tables, as of one moment.
async fn seen(connection: &mut PgConnection) -> Result<(i64, i64)> {
    let sql = "select (select count(*) from left_side), (select count(*) from right_side)";
    Ok(sqlx::query_as(sql).fetch_one(connection).await?)
}

#[tokio::test]
async fn a_transaction_above_sixteen_megabytes_arrives_whole() -> Result<()> {
    const EACH: i64 = 12;
    let stage = Stage::new("large_transaction").await?;
    for name in ["left_side", "right_side"] {
        stage.database.create_collection(name).await?;
    }
    let mappings = stage.whole("left_side") + &stage.whole("right_side");
    let daemon = Daemon::start(&stage.config(&mappings.replace("allow_empty", "id_type: int, allow_empty")))?;
    stage.settled(&daemon, "right_side").await?;

    let mut session = stage.client.start_session().await?;
    session.start_transaction().write_concern(WriteConcern::majority()).await?;
    let filler = "x".repeat(1_000_000);
    for number in 0..EACH {
        for name in ["left_side", "right_side"] {
            let document = doc! { "_id": number, "filler": &filler };
            stage.database.collection::<Document>(name).insert_one(document).session(&mut session).await?;
        }
    }
    let left = stage.database.collection::<Document>("left_side");
    left.update_one(doc! { "_id": 0_i64 }, doc! { "$set": { "last": true } }).session(&mut session).await?;
    left.delete_one(doc! { "_id": 1_i64 }).session(&mut session).await?;
    session.commit_transaction().await?;

    let mut connection = stage.postgres().await?;
    until("the whole transaction", PATIENCE, async || {
        let found = seen(&mut connection).await?;
        ensure!(found == (0, 0) || found == (EACH - 1, EACH), "half a transaction is there: {found:?}");
        Ok((found != (0, 0)).then_some(()))
    })
    .await
    .with_context(|| daemon.last_words())?;
    for name in ["left_side", "right_side"] {
        stage.equal(name, Plain::Int).await?;
    }
    assert_eq!(stage.number("select count(*) from left_side where document ? 'last'").await?, 1);
    assert!(daemon.stop().await?.success());
    Ok(())
}

/// Rows of the table wait for a lock when `stop` comes.
const DOOR: &str = "
    create function door() returns trigger language plpgsql as $$
    begin
        if new.document ? 'door' then perform pg_advisory_xact_lock(7); end if;
        return new;
    end $$;
    create trigger door before insert or update on things for each row execute function door()";

/// A transaction of MongoDB of which the first part is written, and the second waits behind the door.
async fn waits_in_the_middle(stage: &Stage, daemon: &Daemon) -> Result<PgConnection> {
    stage.execute(DOOR).await?;
    let mut door = stage.postgres().await?;
    door.execute("select pg_advisory_lock(7)").await?;
    let things = stage.database.collection::<Document>("things");
    let mut session = stage.client.start_session().await?;
    session.start_transaction().write_concern(WriteConcern::majority()).await?;
    for number in 0..60_i64 {
        let id = doc! { "_id": number };
        // What is done to one document lies far apart, on both sides of where it is cut.
        things.update_one(id.clone(), doc! { "$set": { "n": -number } }).session(&mut session).await?;
        things.insert_one(doc! { "_id": 1_000 + number, "n": number }).session(&mut session).await?;
        if number == 30 {
            things.insert_one(doc! { "_id": 5_000_i64, "door": true }).session(&mut session).await?;
        }
        if number >= 40 {
            let before = doc! { "_id": 1_000 + number - 40 };
            things.delete_one(before.clone()).session(&mut session).await?;
            if number % 2 == 0 {
                let again = doc! { "_id": 1_000 + number - 40, "again": true };
                things.insert_one(again).session(&mut session).await?;
            }
        }
    }
    session.commit_transaction().await?;
    let waiting = "select count(*) from pg_locks where locktype = 'advisory' and not granted
                   and database = (select oid from pg_database where datname = current_database())";
    until(
        "the second part to wait",
        PATIENCE,
        async || Ok((stage.number(waiting).await? == 1).then_some(())),
    )
    .await
    .with_context(|| daemon.last_words())?;
    let there =
        stage.number("select count(*) from things where source_id::int between 1000 and 1059").await?;
    ensure!((1..60).contains(&there), "{there} of 60 are there: it is not in the middle");
    Ok(door)
}

/// A batch is full after one change, and a transaction is cut after eight of those.
async fn following(name: &str) -> Result<(Stage, String, Daemon)> {
    let stage = Stage::new(name).await?;
    stage.collection("things").insert_many(numbered(0, 60)).await?;
    let mapping = stage.whole("things").replace("allow_empty", "id_type: int, allow_empty");
    let config = format!("{}batch: {{ max_changes: 1 }}\n", stage.config(&mapping));
    let daemon = Daemon::start(&config)?;
    stage.becomes_equal(&daemon, "things", Plain::Int).await?;
    Ok((stage, config, daemon))
}

#[tokio::test]
async fn killed_in_the_middle_of_a_transaction_it_goes_on_inside_of_it() -> Result<()> {
    let (stage, config, daemon) = following("killed_in_transaction").await?;
    let mut door = waits_in_the_middle(&stage, &daemon).await?;
    daemon.kill9()?;
    door.execute("select pg_advisory_unlock(7)").await?;
    stage.execute("update rowstream.lease set heartbeat = 'epoch'").await?;
    let daemon = Daemon::start(&config)?;
    stage.becomes_equal(&daemon, "things", Plain::Int).await?;
    stage.settled(&daemon, "things").await?;
    stage.equal("things", Plain::Int).await?;
    assert_eq!(stage.number("select count(*) from rowstream.held").await?, 0);
    Ok(())
}

#[tokio::test]
async fn told_to_stop_in_the_middle_of_a_batch_it_ends_with_0_and_the_rest_comes_later() -> Result<()> {
    let (stage, config, daemon) = following("stopped_in_batch").await?;
    let mut door = waits_in_the_middle(&stage, &daemon).await?;
    daemon.signal("TERM")?;
    daemon.logged("stopping").await?;
    door.execute("select pg_advisory_unlock(7)").await?;
    assert_eq!(daemon.ends().await?.code(), Some(0));
    let sessions = "select count(*) from pg_stat_activity where datname = current_database()
                    and application_name like 'rowstream %'";
    until("its sessions to end", PATIENCE, async || Ok((stage.number(sessions).await? == 0).then_some(())))
        .await?;
    let daemon = Daemon::start(&config)?;
    stage.becomes_equal(&daemon, "things", Plain::Int).await?;
    assert!(daemon.stop().await?.success());
    door.close().await?;
    Ok(())
}
