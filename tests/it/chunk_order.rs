//! Documents change while a chunk of the snapshot is on its way: each order is forced.
//!
//! The chunk's read is held up by a fail point of mongod, its commit by a trigger on its row in the state, and
//! its turn by a lock on the checkpoint, which stops the stream in the middle of its own transaction.

use std::collections::HashMap;

use anyhow::{Result, ensure};
use bson::{Bson, Document, doc};
use rowstream::state::mapping::snapshot_again;
use sqlx::{Connection, Executor, PgConnection, Row};
use tokio::sync::{Mutex, MutexGuard, OnceCell};

use crate::daemon::{self, Daemon, PATIENCE};
use crate::oracle::Plain;
use crate::stage::Stage;
use crate::support::servers::Mongod;
use crate::support::until;

/// Long enough for everything that is to happen before the read.
const READ_HELD_UP_MS: i64 = 4_000;

/// Long enough to lock the checkpoint before the read is over.
const READ_HELD_UP_BRIEFLY_MS: i64 = 1_500;

/// Fail points are the whole server's: one test at a time has it.
async fn mongod() -> Result<MutexGuard<'static, Mongod>> {
    static MONGOD: OnceCell<Mutex<Mongod>> = OnceCell::const_new();
    let mongod = MONGOD.get_or_try_init(async || Ok::<_, anyhow::Error>(Mutex::new(Mongod::start().await?)));
    Ok(mongod.await?.lock().await)
}

/// A daemon that waits at a gate, and a history of its table.
struct Scene {
    stage: Stage,
    daemon: Daemon,
    /// Holds a lock on the gate's table.
    gate: PgConnection,
}

/// Where the daemon waits: for a lock, before it inserts into this table of the state.
#[derive(Clone, Copy)]
enum Gate {
    /// Its session has not begun: no chunk is read.
    Mapping,
    /// Its first chunk is read but not yet written down.
    Chunk,
}

impl Scene {
    async fn new(mongod: &Mongod, name: &str, at: Gate) -> Result<Self> {
        let stage = Stage::with_mongod(mongod, name).await?;
        // Two mappings, so that the stream is the database's and its getMore is told from the chunk's.
        let mappings = stage.whole("orders") + &stage.whole("other");
        Self::of(stage, &mappings, at).await
    }

    async fn of(stage: Stage, mappings: &str, at: Gate) -> Result<Self> {
        let documents = (0..8_400_i64).map(|n| doc! { "_id": n, "v": 0 });
        stage.collection("orders").insert_many(documents).await?;
        // The stream begins with the last operation before it: not with one of these.
        stage.collection("elsewhere").insert_one(doc! {}).await?;
        // One worker, or the other one's reads would meet the fail point.
        let config = stage.config(mappings).replace("\" }\nhttp", "\", lock_timeout: 60s }\nhttp")
            + "snapshot: { chunk_documents: 4200, workers: 1 }\n";
        let migrated = daemon::command(&["migrate"], &config)?;
        ensure!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
        stage
            .execute(
                "create function wait() returns trigger language plpgsql as $$
                 begin
                     perform pg_advisory_xact_lock_shared(1);
                     return new;
                 end $$;
                 create trigger wait before update on rowstream.chunk for each row execute function wait()",
            )
            .await?;
        let mut gate = stage.postgres().await?;
        let table = match at {
            Gate::Mapping => "rowstream.mapping",
            Gate::Chunk => "rowstream.chunk",
        };
        let lock = format!("begin; lock table {table} in share mode");
        gate.execute(sqlx::AssertSqlSafe(lock)).await?;
        let daemon = Daemon::start(&config)?;
        let scene = Self { stage, daemon, gate };
        scene.waits_for(&format!("insert into {table}")).await?;
        scene
            .stage
            .execute(
                "create table history (number bigserial, op text, source_id text, v bigint);
                 create function remember() returns trigger language plpgsql as $$
                 begin
                     if tg_op = 'DELETE' then
                         insert into history (op, source_id) values (tg_op, old.source_id);
                     else
                         insert into history (op, source_id, v)
                         values (tg_op, new.source_id, (new.document->>'v')::bigint);
                     end if;
                     return null;
                 end $$;
                 create trigger remember after insert or update or delete on orders
                     for each row execute function remember()",
            )
            .await?;
        Ok(scene)
    }

    /// Waits until a statement of the daemon waits for a lock.
    async fn waits_for(&self, statement: &str) -> Result<()> {
        let sql = format!(
            "select count(*) from pg_stat_activity
             where datname = current_database() and wait_event_type = 'Lock' and query like '%{statement}%'
                 and application_name like 'rowstream %'"
        );
        let waits = async || Ok((self.stage.number(&sql).await? > 0).then_some(()));
        until(&format!("{statement} to wait for a lock"), PATIENCE, waits).await
    }

    /// The chunk's `find` (its first 4,000 documents) or `getMore` (the rest) is held up; returns once the server has
    /// it in hand.
    async fn hold_up(&mut self, mongod: &Mongod, command: &str, milliseconds: i64) -> Result<()> {
        let data = doc! {
            "failCommands": [command], "appName": "rowstream", "namespace": format!("{}.orders", self.stage.name),
            "blockConnection": true, "blockTimeMS": milliseconds,
        };
        let armed = mongod
            .run_admin(doc! { "configureFailPoint": "failCommand", "mode": { "times": 1 }, "data": data })
            .await?;
        let entered = armed.get_i64("count").or_else(|_| armed.get_i32("count").map(i64::from))?;
        self.gate.execute("commit").await?;
        mongod
            .run_admin(doc! {
                "waitForFailPoint": "failCommand", "timesEntered": entered + 1, "maxTimeMS": 30_000,
            })
            .await?;
        Ok(())
    }

    async fn reads(&self, mongod: &Mongod) -> Result<bool> {
        let of_orders = [doc! { "command.find": "orders" }, doc! { "command.collection": "orders" }];
        let reading = doc! { "currentOp": 1, "appName": "rowstream", "$or": of_orders };
        Ok(!mongod.run_admin(reading).await?.get_array("inprog")?.is_empty())
    }

    /// Locks the checkpoint until the connection commits.
    async fn lock_checkpoint(&self) -> Result<PgConnection> {
        let mut lock = self.stage.postgres().await?;
        lock.execute("begin").await?;
        until("the checkpoint to lock", PATIENCE, async || {
            let locked = lock.execute("select from rowstream.checkpoint for update").await?;
            Ok((locked.rows_affected() == 1).then_some(()))
        })
        .await?;
        Ok(lock)
    }

    /// No chunk can be finished until the connection commits.
    async fn lock_chunks(&self) -> Result<PgConnection> {
        let mut lock = self.stage.postgres().await?;
        lock.execute("begin; select pg_advisory_xact_lock(1)").await?;
        Ok(lock)
    }

    /// Waits until the pipeline was handed this many events.
    async fn handed(&self, events: u32) -> Result<()> {
        until("the events to be handed over", PATIENCE, async || {
            Ok((self.daemon.metric("rowstream_events_read_total").await? >= f64::from(events)).then_some(()))
        })
        .await
    }

    /// Has the stream's transaction with a change of document 8 wait in its middle, and the chunk, which was read
    /// before, for its turn; until the connection commits.
    async fn waits_for_its_turn(&mut self, mongod: &Mongod) -> Result<PgConnection> {
        self.hold_up(mongod, "getMore", READ_HELD_UP_BRIEFLY_MS).await?;
        let lock = self.lock_checkpoint().await?;
        let set = doc! { "$set": { "v": 1 } };
        self.stage.collection("orders").update_one(doc! { "_id": 8_i64 }, set).await?;
        self.waits_for("update rowstream.checkpoint").await?;
        let is_over = async || Ok((!self.reads(mongod).await?).then_some(()));
        until("the end of the read", PATIENCE, is_over).await?;
        Ok(lock)
    }

    async fn finished_chunks(&self) -> Result<i64> {
        self.stage.number("select count(*) from rowstream.chunk where finished_at is not null").await
    }

    async fn ends_well(&self) -> Result<()> {
        self.daemon.logged("snapshot done").await?;
        self.stage.settled(&self.daemon, "orders").await?;
        self.stage.equal("orders", Plain::Int).await?;
        // No row ever went back, not even for a moment.
        let mut connection = self.stage.postgres().await?;
        let rows = sqlx::query("select op, source_id, v from history where v is not null order by number");
        let mut newest: HashMap<String, i64> = HashMap::new();
        for row in rows.fetch_all(&mut connection).await? {
            let (op, id, v): (String, String, i64) = (row.get(0), row.get(1), row.get(2));
            let former = newest.insert(id.clone(), v).unwrap_or(0);
            ensure!(v >= former, "row {id} went from version {former} back to {v} by {op}");
        }
        ensure!(!newest.is_empty(), "the history is empty");
        connection.close().await?;
        Ok(())
    }
}

/// Everything that can happen to a document, in the first chunk (0 to 4199, the last 200 of which are its second
/// reply) and behind it. Returns how many events that makes.
async fn change_everything(stage: &Stage) -> Result<u32> {
    let orders = stage.collection("orders");
    let id = |n: i64| doc! { "_id": n };
    let new = |n: i64, v: i64| doc! { "_id": n, "v": v, "new": true };
    let set = |v: i64| doc! { "$set": { "v": v } };
    let mut events = 0;
    for base in [0, 4_100, 4_500] {
        orders.update_one(id(base + 1), set(10)).await?;
        orders.replace_one(id(base + 2), doc! { "v": 11, "replaced": Bson::Null }).await?;
        orders.delete_one(id(base + 3)).await?;
        orders.delete_one(id(base + 4)).await?;
        orders.insert_one(new(base + 4, 12)).await?;
        orders.update_one(id(base + 5), set(13)).await?;
        orders.delete_one(id(base + 5)).await?;
        orders.delete_one(id(base + 6)).await?;
        orders.insert_one(new(base + 6, 14)).await?;
        orders.update_one(id(base + 6), set(15)).await?;
        orders.delete_one(id(base + 7)).await?;
        orders.insert_one(new(base + 7, 16)).await?;
        orders.delete_one(id(base + 7)).await?;
        events += 13;
    }
    // New ones: before the first, behind the last, and one that does not stay.
    orders.insert_many([new(-5, 17), new(9_000, 18), new(-6, 19)]).await?;
    orders.delete_one(id(-6)).await?;
    Ok(events + 4)
}

/// Waits until the stream has brought what `change_everything` leaves.
async fn applied(stage: &Stage) -> Result<()> {
    let sql =
        "select count(*) from orders where source_id in ('1', '2', '4', '6', '4101', '4501', '-5', '9000')";
    until("the stream to be applied", PATIENCE, async || Ok((stage.number(sql).await? == 8).then_some(())))
        .await
}

/// Everything changes and is applied while one command of the chunk's read is held up.
async fn changes_are_applied_during(command: &str, name: &str) -> Result<()> {
    let mongod = mongod().await?;
    let mut scene = Scene::new(&mongod, name, Gate::Mapping).await?;
    scene.hold_up(&mongod, command, READ_HELD_UP_MS).await?;
    let events = change_everything(&scene.stage).await?;
    scene.handed(events).await?;
    applied(&scene.stage).await?;
    assert!(scene.reads(&mongod).await?, "the read was over too early");
    assert_eq!(scene.finished_chunks().await?, 0);
    scene.ends_well().await
}

#[tokio::test]
async fn what_changes_between_a_chunks_registration_and_its_read_is_not_undone() -> Result<()> {
    // The stream writes its rows, and the chunk is still to be read.
    changes_are_applied_during("find", "registered").await
}

#[tokio::test]
async fn what_changes_and_is_applied_while_a_chunk_is_read_is_not_undone() -> Result<()> {
    // The first 4,000 are read, as they were; the chunk cannot commit yet, and the stream can.
    changes_are_applied_during("getMore", "half_read").await
}

#[tokio::test]
async fn what_changes_between_a_chunks_read_and_its_commit_is_not_undone() -> Result<()> {
    let mongod = mongod().await?;
    let mut scene = Scene::new(&mongod, "read", Gate::Chunk).await?;
    let mut lock = scene.lock_chunks().await?;
    scene.gate.execute("commit").await?;
    scene.waits_for("update rowstream.chunk").await?;
    let events = change_everything(&scene.stage).await?;
    scene.handed(events).await?;
    // The stream waits for its turn: nothing is written before the chunk is.
    assert_eq!(scene.stage.number("select count(*) from orders").await?, 0);
    lock.execute("commit").await?;
    scene.ends_well().await
}

#[tokio::test]
async fn what_changes_before_a_chunk_that_was_read_is_written_down_is_not_undone() -> Result<()> {
    let mongod = mongod().await?;
    let mut scene = Scene::new(&mongod, "written_down", Gate::Chunk).await?;
    let events = change_everything(&scene.stage).await?;
    scene.handed(events).await?;
    applied(&scene.stage).await?;
    assert_eq!(scene.stage.number("select count(*) from rowstream.chunk").await?, 0);
    scene.gate.execute("commit").await?;
    scene.ends_well().await
}

#[tokio::test]
async fn what_changes_while_a_chunk_waits_for_its_turn_is_not_undone() -> Result<()> {
    let mongod = mongod().await?;
    let mut scene = Scene::new(&mongod, "turn", Gate::Mapping).await?;
    let mut lock = scene.waits_for_its_turn(&mongod).await?;
    let events = change_everything(&scene.stage).await?;
    scene.handed(1 + events).await?;
    assert_eq!(scene.finished_chunks().await?, 0);
    assert_eq!(scene.stage.number("select count(*) from orders").await?, 0);
    lock.execute("commit").await?;
    scene.ends_well().await
}

/// The stream writes a document with what it waits for, the chunk that is on its way leaves out both.
#[tokio::test]
async fn what_a_document_waits_for_since_its_chunk_is_read_is_not_forgotten() -> Result<()> {
    let mongod = mongod().await?;
    let stage = Stage::with_mongod(&mongod, "awaited").await?;
    stage
        .execute(
            "create table other (id bigserial primary key, source text not null, source_id text not null,
                 name text, unique (source, source_id));
             create table orders (source text not null, source_id text not null, document jsonb,
                 parent bigint references other, unique (source, source_id))",
        )
        .await?;
    let mapping = |table: &str, columns: &str| {
        format!(
            "  - {{ source: {table}, collection: {}.{table}, table: {table}, id_type: int, allow_empty: true,
            columns: {{ {columns} }} }}\n",
            stage.name
        )
    };
    let parent = "document: $document, parent: { ref: { to: other, from: parent }, missing: null }";
    let mappings = mapping("orders", parent) + &mapping("other", "name: name");
    let mut scene = Scene::of(stage, &mappings, Gate::Mapping).await?;
    scene.hold_up(&mongod, "find", READ_HELD_UP_MS).await?;
    let orders = scene.stage.collection("orders");
    orders.update_one(doc! { "_id": 1_i64 }, doc! { "$set": { "v": 1, "parent": 7_i64 } }).await?;
    let waits =
        async || Ok((scene.stage.number("select count(*) from rowstream.wait").await? == 1).then_some(()));
    until("the order to wait", PATIENCE, waits).await?;
    assert!(scene.reads(&mongod).await?, "the read was over too early");
    assert_eq!(scene.stage.number("select count(*) from orders").await?, 1);
    let copied = async || Ok((scene.finished_chunks().await? == 3).then_some(()));
    until("the copy", PATIENCE, copied).await?;
    scene.stage.collection("other").insert_one(doc! { "_id": 7_i64, "name": "late" }).await?;
    let with_parent =
        "select count(*) from orders join other on other.id = parent where orders.source_id = '1'";
    let found = async || Ok((scene.stage.number(with_parent).await? == 1).then_some(()));
    until("the order to have its parent", PATIENCE, found).await
}

#[tokio::test]
async fn a_collection_dropped_while_a_chunk_is_outstanding_takes_its_rows_along() -> Result<()> {
    let mongod = mongod().await?;
    let again = || (0..30_i64).map(|n| doc! { "_id": n * 7, "v": 20, "second": true });
    for (name, while_it_waits) in [("dropped_before_read", false), ("dropped_before_commit", true)] {
        let mut scene = Scene::new(&mongod, name, Gate::Mapping).await?;
        let orders = scene.stage.collection("orders");
        let mut events = 0;
        let mut lock = None;
        if while_it_waits {
            lock = Some(scene.waits_for_its_turn(&mongod).await?);
            events += 1;
        } else {
            scene.hold_up(&mongod, "find", READ_HELD_UP_MS).await?;
        }
        orders.drop().await?;
        let documents: Vec<Document> = again().collect();
        events += 1 + documents.len() as u32;
        orders.insert_many(documents).await?;
        scene.handed(events).await?;
        assert_eq!(scene.finished_chunks().await?, 0, "{name}");
        match lock {
            Some(mut lock) => {
                lock.execute("commit").await?;
            }
            None => assert!(scene.reads(&mongod).await?, "the read was over too early"),
        }
        scene.ends_well().await?;
        let rows = scene.stage.number("select count(*) from orders").await?;
        assert_eq!(rows, again().count() as i64, "{name}");
    }
    Ok(())
}

/// Nobody may plan the second chunk of a snapshot whose first one is gone.
#[tokio::test]
async fn a_snapshot_that_is_begun_again_while_a_chunk_is_planned_is_taken_from_its_start() -> Result<()> {
    let mongod = mongod().await?;
    let mut scene = Scene::new(&mongod, "planned", Gate::Chunk).await?;
    // Behind the first chunk, which is being written down, and before the second.
    let mut other = scene.stage.postgres().await?;
    let locking = tokio::spawn(async move {
        let lock = "begin; select from rowstream.mapping where source = 'orders' for no key update";
        other.execute(lock).await.map(|_| other)
    });
    let waits = "select count(*) from pg_stat_activity where datname = current_database()
        and wait_event_type = 'Lock' and query like '%orders%' and application_name not like 'rowstream %'";
    until("the lock to wait", PATIENCE, async || Ok((scene.stage.number(waits).await? == 1).then_some(())))
        .await?;
    scene.gate.execute("commit").await?;
    let mut other = locking.await??;
    scene.waits_for("select from rowstream.mapping").await?;
    assert_eq!(scene.finished_chunks().await?, 1);
    snapshot_again(&mut other, "test", "orders").await?;
    other.execute("commit").await?;
    scene.daemon.logged("a snapshot was begun again while it was planned").await?;
    scene.ends_well().await?;
    assert_eq!(scene.finished_chunks().await?, 3, "two of orders and one of other");
    Ok(())
}
