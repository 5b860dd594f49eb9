//! Somebody who writes to MongoDB all the while: seeded inserts, updates, replacements, deletes, and
//! documents that come again.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bson::{Bson, Document, Timestamp, doc};
use mongodb::Database;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::daemon::PATIENCE;
use crate::stage::Stage;

/// The document that is written last in every burst, with the burst's number.
const CLOCK: i64 = -1;

/// Documents that come by insertion get numbers from here on.
const NEW_FROM: i64 = 1_000_000;

/// How far a majority has what was written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Written {
    pub(crate) bursts: i64,
    /// As the checkpoint has it: seconds << 32 | increment.
    pub(crate) time: i64,
}

/// Dropping it ends it, too.
#[derive(Debug)]
pub(crate) struct Writer {
    stop: watch::Sender<bool>,
    written: watch::Receiver<Written>,
    task: JoinHandle<Result<()>>,
}

impl Writer {
    /// Writes to documents 0 to `documents` and to new ones, with `pace` between bursts of about ten
    /// operations. An outage of MongoDB is waited out: the operation may or may not have happened.
    pub(crate) fn start(stage: &Stage, collection: &str, documents: i64, seed: u64, pace: Duration) -> Self {
        #[expect(clippy::print_stdout, reason = "a failing test shows its seed")]
        let () = println!("the writer's seed: {seed}");
        let (stop, stopping) = watch::channel(false);
        let (tell, written) = watch::channel(Written { bursts: 0, time: 0 });
        let work = Work {
            database: stage.database.clone(),
            collection: collection.to_owned(),
            documents,
            next: NEW_FROM,
            random: Random(seed),
        };
        let task = tokio::spawn(write(work, pace, stopping, tell));
        Self { stop, written, task }
    }

    pub(crate) fn written(&self) -> Written {
        *self.written.borrow()
    }

    /// Waits until this many more bursts are written.
    pub(crate) async fn writes_on(&mut self, bursts: i64) -> Result<()> {
        let target = self.written().bursts + bursts;
        let wait = self.written.wait_for(|written| written.bursts >= target);
        tokio::time::timeout(PATIENCE, wait).await.context("the writer stands still")??;
        Ok(())
    }

    /// Ends after the burst in hand.
    pub(crate) async fn finish(self) -> Result<Written> {
        self.stop.send_replace(true);
        self.task.await??;
        let written = *self.written.borrow();
        ensure!(written.bursts > 0, "nothing was written");
        Ok(written)
    }
}

/// The number of the last burst that has arrived in the table.
pub(crate) async fn arrived(stage: &Stage, table: &str) -> Result<i64> {
    let sql = format!("select document->>'burst' from \"{table}\" where source_id = '{CLOCK}'");
    Ok(stage.text(&sql).await?.map_or(Ok(0), |burst| burst.parse())?)
}

struct Work {
    database: Database,
    collection: String,
    documents: i64,
    next: i64,
    random: Random,
}

async fn write(
    mut work: Work,
    pace: Duration,
    mut stopping: watch::Receiver<bool>,
    tell: watch::Sender<Written>,
) -> Result<()> {
    let mut burst = 0;
    let mut failing_since: Option<Instant> = None;
    while !*stopping.borrow() {
        burst += 1;
        match work.burst(burst).await {
            Ok(time) => {
                failing_since = None;
                tell.send_replace(Written { bursts: burst, time });
            }
            Err(error) => {
                let since = *failing_since.get_or_insert_with(Instant::now);
                ensure!(since.elapsed() < PATIENCE, "the writer cannot write: {error:#}");
            }
        }
        // Wakes for the end; an error means that nobody listens any more, which is the end as well.
        let ended = tokio::time::timeout(pace, stopping.wait_for(|stop| *stop)).await;
        if matches!(ended, Ok(Err(_))) {
            break;
        }
    }
    Ok(())
}

impl Work {
    fn some(&mut self) -> i64 {
        if self.next > NEW_FROM && self.random.below(3) == 0 {
            return NEW_FROM + self.random.below(self.next - NEW_FROM);
        }
        self.random.below(self.documents)
    }

    fn body(&mut self, burst: i64) -> Document {
        let filler = "x".repeat(self.random.below(200) as usize);
        doc! { "n": self.random.below(1 << 40), "burst": burst, "filler": filler, "nested": { "list": [burst, "a"] } }
    }

    /// Returns the cluster time of its last operation.
    async fn burst(&mut self, burst: i64) -> Result<i64> {
        let mut new = Vec::new();
        for _ in 0..=self.random.below(3) {
            let mut document = doc! { "_id": self.next };
            document.extend(self.body(burst));
            new.push(Bson::Document(document));
            self.next += 1;
        }
        self.run("insert", "documents", new).await?;

        let mut updates = Vec::new();
        for _ in 0..3 {
            let n = self.random.below(1 << 40);
            let update = doc! { "$set": { "n": n, "burst": burst }, "$unset": { "text": 1 } };
            updates.push(Bson::Document(doc! { "q": { "_id": self.some() }, "u": update }));
        }
        for upsert in [false, true] {
            let body = self.body(burst);
            let replacement = doc! { "q": { "_id": self.some() }, "u": body, "upsert": upsert };
            updates.push(Bson::Document(replacement));
        }
        self.run("update", "updates", updates).await?;

        let gone: Vec<i64> = (0..3).map(|_| self.some()).collect();
        let deletes = gone.iter().map(|id| Bson::Document(doc! { "q": { "_id": id }, "limit": 1 })).collect();
        self.run("delete", "deletes", deletes).await?;

        // One of them comes again, as another.
        let again = doc! { "q": { "_id": gone[0] }, "u": self.body(burst), "upsert": true };
        let clock = doc! { "q": { "_id": CLOCK }, "u": { "burst": burst }, "upsert": true };
        self.run("update", "updates", vec![Bson::Document(again), Bson::Document(clock)]).await
    }

    async fn run(&mut self, verb: &str, of: &str, operations: Vec<Bson>) -> Result<i64> {
        let command = doc! { verb: &self.collection, of: operations, "writeConcern": { "w": "majority", "wtimeout": 5_000 } };
        let reply = self.database.run_command(command).await?;
        ensure!(!reply.contains_key("writeErrors") && !reply.contains_key("writeConcernError"), "{reply}");
        let Timestamp { time, increment } = reply.get_timestamp("operationTime")?;
        Ok((i64::from(time) << 32) | i64::from(increment))
    }
}

/// SplitMix64: the same numbers for the same seed, on every machine.
#[derive(Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, limit: i64) -> i64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit.max(1).unsigned_abs()) as i64
    }
}
