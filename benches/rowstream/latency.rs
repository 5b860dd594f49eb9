//! From sent to visible: a steady rate of writes, each waiting for the majority.
//!
//! Each writer has one write on its way at a time, so that its n-th event is its n-th write, and the
//! highest number of a writer that is visible says that all before are.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bson::{Document, doc};
use mongodb::options::{Acknowledgment, CollectionOptions, WriteConcern};
use mongodb::{Client, Collection};
use sqlx::Connection;

use crate::daemon::{Daemon, reached};
use crate::support::servers::{Mongod, Postgres};
use crate::table::{Goal, Line};
use crate::{Scale, backlog, ledger};

/// Collections of the three measurements: one that is dropped would end the stream of the next.
const JOURNALED: &str = "live_journaled";
const APPLIED: &str = "live";
const ONE_NODE: &str = "live_one_node";
const DATABASE: &str = "live";
const P99_GOAL: Duration = Duration::from_millis(10);

/// Enough that a majority write of some milliseconds does not slow the rate down.
const WRITERS: usize = 8;

/// Written before anything is counted: the first writes open connections, create the collection and fill
/// caches, on both sides.
const WARM_UP: Duration = Duration::from_secs(2);

/// How long the poller sleeps between two looks. The runtime's timer counts in whole milliseconds, hence
/// a thread.
const LOOK_EVERY: Duration = Duration::from_micros(300);

const TABLE: &str = "create table live (source text not null, source_id text not null, writer int not null,
    n bigint not null, note text, document jsonb not null, primary key (source, source_id));
    create index on live (writer, n)";

const MAPPING: &str = "  - source: live
    collection: bench.live
    table: live
    id_type: string
    allow_empty: true
    columns: { writer: writer, n: n, note: note, document: $document }
";

/// By writer: when each write was sent, and when it was seen.
#[derive(Debug, Default)]
struct Track {
    /// Counted are writes sent from here on.
    since: Option<Instant>,
    waiting: [VecDeque<Instant>; WRITERS],
    seen: [u64; WRITERS],
    latencies: Vec<Duration>,
}

type Tracks = Arc<Mutex<Track>>;

/// Sorted latencies, as two numbers.
#[derive(Debug, Clone, Copy)]
struct Percentiles {
    p50: Duration,
    p99: Duration,
    count: usize,
}

pub(crate) async fn lines(
    mongod: &Mongod,
    postgres: &Postgres,
    client: &Client,
    scale: &Scale,
) -> Result<Vec<Line>> {
    let journaled = raw_stream(&live(client, JOURNALED, Acknowledgment::Majority), scale).await?;
    let (visible, cpu, peak) = daemon(mongod, postgres, client, scale).await?;
    let one_node = raw_stream(&live(client, ONE_NODE, Acknowledgment::Nodes(1)), scale).await?;
    let rate = visible.count as f64 / scale.latency.as_secs_f64();
    println!("latency: {rate:.0} writes/s were made and seen");
    let limit = |time: Duration| format!("{} to a raw stream", milliseconds(time));
    Ok(vec![
        Line {
            limit: limit(journaled.p50),
            ..Line::plain("latency p50, majority writes", milliseconds(visible.p50))
        },
        Line {
            limit: limit(journaled.p99),
            goal: Some(Goal {
                text: format!("≤ {}", milliseconds(P99_GOAL)),
                reached: visible.p99 <= P99_GOAL,
            }),
            ..Line::plain("latency p99, majority writes", milliseconds(visible.p99))
        },
        Line::plain(
            format!("CPU of the daemon at {} writes/s", scale.rate),
            format!("{:.0} % of a core", cpu * 100.0),
        ),
        Line::memory("latency", peak),
        Line {
            limit: format!("{} / {} to a raw stream", milliseconds(one_node.p50), milliseconds(one_node.p99)),
            ..Line::plain("the floor of w:1 writes, p50 / p99", "–".into())
        },
    ])
}

/// The limit: the change stream alone, without anybody who applies it.
async fn raw_stream(collection: &Collection<Document>, scale: &Scale) -> Result<Percentiles> {
    let client = collection.client();
    let from = ledger::majority_time(client).await?;
    let mut cursor = backlog::open(client, collection.name(), from).await?;
    let track = Tracks::default();
    let stop = Arc::new(AtomicBool::new(false));
    let (listening, listened) = (Arc::clone(&track), Arc::clone(&stop));
    let listener = tokio::spawn(async move {
        while !listened.load(Ordering::Relaxed) {
            let (at, writers) = events(&mut cursor).await?;
            let mut track = lock(&listening);
            for writer in writers {
                track.saw_next(writer, at);
            }
        }
        anyhow::Ok(())
    });
    let result = write(collection, scale, &track).await;
    stop.store(true, Ordering::Relaxed);
    listener.await??;
    result?;
    Percentiles::of(&track)
}

/// When a reply came, and whose writes are in it.
async fn events(cursor: &mut mongodb::raw_batch_cursor::RawBatchCursor) -> Result<(Instant, Vec<usize>)> {
    let (at, batch) = backlog::next(cursor).await?;
    let mut writers = Vec::new();
    for event in batch.doc_slices()? {
        let event = event?.as_document().context("an event is a document")?;
        if let Ok(Some(key)) = event.get("documentKey") {
            let id = key.as_document().context("a key is a document")?.get_str("_id")?;
            writers.push(id.split('-').next().context("an id has a writer")?.parse()?);
        }
    }
    Ok((at, writers))
}

async fn daemon(
    mongod: &Mongod,
    postgres: &Postgres,
    client: &Client,
    scale: &Scale,
) -> Result<(Percentiles, f64, u64)> {
    postgres.create_database(DATABASE).await?;
    let url = postgres.url_of(DATABASE);
    let mut connection = postgres.connect(DATABASE).await?;
    sqlx::raw_sql(TABLE).execute(&mut connection).await?;
    let daemon = Daemon::start(mongod, &url, MAPPING)?;
    reached(
        &mut connection,
        "the beginning of the stream",
        "select snapshot_state = 'done' from rowstream.mapping",
    )
    .await?;
    connection.close().await?;
    let track = Tracks::default();
    let stop = Arc::new(AtomicBool::new(false));
    let (polled, stopped) = (Arc::clone(&track), Arc::clone(&stop));
    let poller = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(poll(&url, &polled, &stopped))
    });
    let (cpu, began) = (daemon.cpu()?, Instant::now());
    let result = write(&live(client, APPLIED, Acknowledgment::Majority), scale, &track).await;
    let share = (daemon.cpu()? - cpu).as_secs_f64() / began.elapsed().as_secs_f64();
    let peak = daemon.peak_memory()?;
    stop.store(true, Ordering::Relaxed);
    poller.join().map_err(|_| anyhow::anyhow!("the poller panicked"))??;
    result?;
    daemon.stop().await?;
    Ok((Percentiles::of(&track)?, share, peak))
}

/// Looks again and again for the highest number of each writer.
#[expect(clippy::disallowed_methods, reason = "the thread is the poller's own")]
async fn poll(url: &str, track: &Tracks, stop: &AtomicBool) -> Result<()> {
    let mut connection = sqlx::PgConnection::connect(url).await?;
    while !stop.load(Ordering::Relaxed) {
        let found: Vec<Option<i64>> = sqlx::query_scalar(
            "select (select max(n) from live where writer = w) from generate_series(0, $1 - 1) w order by w",
        )
        .bind(WRITERS as i32)
        .fetch_all(&mut connection)
        .await?;
        let at = Instant::now();
        {
            let mut track = lock(track);
            for (writer, highest) in found.into_iter().enumerate() {
                while track.seen[writer] < highest.unwrap_or_default() as u64 {
                    track.saw_next(writer, at);
                }
            }
        }
        std::thread::sleep(LOOK_EVERY);
    }
    connection.close().await?;
    Ok(())
}

/// Writes at the rate for as long as it takes, and waits until all of it was seen.
async fn write(collection: &Collection<Document>, scale: &Scale, track: &Tracks) -> Result<()> {
    let mut writers = tokio::task::JoinSet::new();
    lock(track).since = Some(Instant::now() + WARM_UP);
    for writer in 0..WRITERS {
        let (collection, track) = (collection.clone(), Arc::clone(track));
        let pause = Duration::from_secs_f64(WRITERS as f64 / scale.rate as f64);
        let count = ((WARM_UP + scale.latency).as_secs_f64() / pause.as_secs_f64()) as u64;
        writers.spawn(async move {
            // Spread over the pause: a steady rate has no bursts.
            let start = Instant::now() + pause.mul_f64(writer as f64 / WRITERS as f64);
            let mut ticks = tokio::time::interval_at(start.into(), pause);
            let mut random = ledger::Random(writer as u64);
            let mut inserted = Vec::new();
            for n in 1..=count {
                ticks.tick().await;
                let update = !inserted.is_empty() && random.below(100) < 58;
                lock(&track).waiting[writer].push_back(Instant::now());
                if update {
                    let earlier: u64 = inserted[random.below(inserted.len())];
                    let id = format!("{writer}-{earlier}");
                    collection.update_one(doc! { "_id": id }, doc! { "$set": { "n": n as i64 } }).await?;
                } else {
                    inserted.push(n);
                    collection.insert_one(document(writer, n)).await?;
                }
            }
            anyhow::Ok(())
        });
    }
    while let Some(writer) = writers.join_next().await {
        writer??;
    }
    crate::support::until("all writes to be seen", crate::daemon::PATIENCE, async || {
        Ok(lock(track).waiting.iter().all(VecDeque::is_empty).then_some(()))
    })
    .await
}

fn document(writer: usize, n: u64) -> Document {
    let mut document = ledger::document(n);
    document.insert("_id", format!("{writer}-{n}"));
    document.insert("writer", writer as i32);
    document.insert("n", n as i64);
    document
}

fn live(client: &Client, name: &str, acknowledgment: Acknowledgment) -> Collection<Document> {
    let concern = WriteConcern::builder().w(acknowledgment).build();
    let options = CollectionOptions::builder().write_concern(concern).build();
    client.database(ledger::DATABASE).collection_with_options(name, options)
}

fn lock(track: &Tracks) -> std::sync::MutexGuard<'_, Track> {
    track.lock().expect("nobody panics with the track in hand")
}

fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1_000.0)
}

impl Track {
    fn saw_next(&mut self, writer: usize, at: Instant) {
        self.seen[writer] += 1;
        let sent = self.waiting[writer].pop_front();
        if let Some(sent) = sent.filter(|sent| self.since.is_some_and(|since| *sent >= since)) {
            self.latencies.push(at.saturating_duration_since(sent));
        }
    }
}

impl Percentiles {
    fn of(track: &Tracks) -> Result<Self> {
        let mut latencies = lock(track).latencies.clone();
        latencies.sort_unstable();
        let at = |share: f64| latencies.get((latencies.len() as f64 * share) as usize).copied();
        let (p50, p99) = at(0.5).zip(at(0.99)).context("nothing was written")?;
        Ok(Self { p50, p99, count: latencies.len() })
    }
}
