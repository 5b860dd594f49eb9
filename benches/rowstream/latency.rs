//! From sent to visible: a steady rate of writes, each waiting for the majority.
//!
//! Each writer has one write on its way at a time, so that its n-th event is its n-th write, and the
//! highest number of a writer that is visible says that all before are.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use bson::{Document, doc};
use mongodb::options::{Acknowledgment, CollectionOptions, WriteConcern};
use mongodb::{Client, Collection};
use sqlx::{Connection, PgConnection};

use crate::daemon::{Daemon, reached};
use crate::shares::Shares;
use crate::support::servers::{Mongod, Postgres};
use crate::table::{Goal, Line};
use crate::{Scale, backlog, ledger};

const P99_GOAL: Duration = Duration::from_millis(10);

/// Enough that a majority write of some milliseconds does not slow the rate down.
const WRITERS: usize = 8;

/// Rounds are measured until as many as are wanted were quiet, but not more than this many times as many.
const PATIENT_ROUNDS: usize = 3;

/// Written before anything is counted: the first writes open connections, create the collection and fill
/// caches, on both sides.
const WARM_UP: Duration = Duration::from_secs(2);

/// PostgreSQL itself keeps the time of every commit (`track_commit_timestamp`), and a trigger notes whose commit it
/// was: whoever polled or listened instead would take a third of a core, or two switches of process for each commit,
/// from what is measured.
pub(crate) const SETTING: &str = "track_commit_timestamp=on";

const TABLE: &str = "create table live (source text not null, source_id text not null, writer int not null,
    n bigint not null, note text, document jsonb not null, primary key (source, source_id));
    create unlogged table written (writer int, n bigint, xid xid);
    create function note() returns trigger language plpgsql as
        $$begin insert into written values (new.writer, new.n, pg_current_xact_id()::xid); return null; end$$;
    create trigger note after insert or update on live for each row execute function note()";

/// Everything that was written, in the order of the commits: (writer, n, microseconds since 1970).
const COMMITS: &str =
    "select writer, n, (extract(epoch from pg_xact_commit_timestamp(xid)) * 1e6)::int8 as at
    from written order by at";

/// Each writer's n-th write is its last.
const IS_WRITTEN: &str = "select count(*) = $1 from (
    select from written group by writer having max(n) = $2) as finished";

fn mapping(collection: &str) -> String {
    format!(
        "  - source: live
    collection: {}.{collection}
    table: live
    id_type: string
    allow_empty: true
    columns: {{ writer: writer, n: n, note: note, document: $document }}
",
        ledger::DATABASE
    )
}

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

/// One measurement beside its limit.
#[derive(Debug, Clone, Copy)]
struct Turn {
    visible: Percentiles,
    journaled: Percentiles,
    /// Share of a core.
    cpu: f64,
    peak_memory: u64,
    /// No other machine of the host took its time.
    is_quiet: bool,
}

pub(crate) async fn lines(
    mongod: &Mongod,
    postgres: &Postgres,
    client: &Client,
    scale: &Scale,
) -> Result<Vec<Line>> {
    let mut turns: Vec<Turn> = Vec::new();
    // A collection and a database for each: one that is dropped would end the stream of the next.
    for number in 0..scale.rounds * PATIENT_ROUNDS {
        let collection = |name: &str| format!("live_{name}_{number}");
        let shares = Shares::now()?;
        let raw = live(client, &collection("journaled"), Acknowledgment::Majority);
        let journaled = raw_stream(&raw, scale).await?;
        let (of_limit, shares) = (shares.until_now()?, Shares::now()?);
        let applied = live(client, &collection("applied"), Acknowledgment::Majority);
        let (visible, cpu, peak_memory) = daemon(mongod, postgres, &applied, number, scale).await?;
        let shares = shares.until_now()?;
        let rate = visible.count as f64 / scale.latency.as_secs_f64();
        println!(
            "latency round {number}: {rate:.0} writes/s, p50 {} p99 {} of {} and {}; {}, {of_limit}",
            milliseconds(visible.p50),
            milliseconds(visible.p99),
            milliseconds(journaled.p50),
            milliseconds(journaled.p99),
            shares
        );
        let is_quiet = shares.is_quiet() && of_limit.is_quiet();
        turns.push(Turn { visible, journaled, cpu, peak_memory, is_quiet });
        if turns.iter().filter(|turn| turn.is_quiet).count() == scale.rounds {
            break;
        }
    }
    let one_node = raw_stream(&live(client, "live_one_node", Acknowledgment::Nodes(1)), scale).await?;
    let peak = turns.iter().map(|turn| turn.peak_memory).max().unwrap_or_default();
    let all = turns.len();
    if turns.iter().any(|turn| turn.is_quiet) {
        turns.retain(|turn| turn.is_quiet);
        println!("latency: {} of {all} rounds were quiet, and count", turns.len());
    } else {
        println!("latency: no round was quiet, so all count: other machines of the host are in the figures");
    }
    turns.sort_by_key(|turn| turn.visible.p99);
    let Turn { visible, journaled, cpu, .. } = *turns.get(turns.len() / 2).context("no round")?;
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
    let written = write(collection, scale, &track).await;
    let seen = crate::support::until("all writes to be seen", crate::daemon::PATIENCE, async || {
        Ok(lock(&track).waiting.iter().all(VecDeque::is_empty).then_some(()))
    });
    let result = match written {
        Ok(_) => seen.await,
        Err(error) => Err(error),
    };
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
    collection: &Collection<Document>,
    number: usize,
    scale: &Scale,
) -> Result<(Percentiles, f64, u64)> {
    let database = format!("live_{number}");
    postgres.create_database(&database).await?;
    let url = postgres.url_of(&database);
    let mut connection = postgres.connect(&database).await?;
    sqlx::raw_sql(TABLE).execute(&mut connection).await?;
    let daemon = Daemon::start(mongod, &url, &mapping(collection.name()))?;
    reached(
        &mut connection,
        "the beginning of the stream",
        "select snapshot_state = 'done' from rowstream.mapping",
    )
    .await?;
    let track = Tracks::default();
    let (cpu, began) = (daemon.cpu()?, Instant::now());
    let (instant, time) = (Instant::now(), SystemTime::now().duration_since(UNIX_EPOCH)?);
    let count = write(collection, scale, &track).await?;
    let share = (daemon.cpu()? - cpu).as_secs_f64() / began.elapsed().as_secs_f64();
    committed(&mut connection, count).await?;
    let peak = daemon.peak_memory()?;
    daemon.stop().await?;
    let commits: Vec<(i32, i64, i64)> = sqlx::query_as(COMMITS).fetch_all(&mut connection).await?;
    connection.close().await?;
    {
        let mut track = lock(&track);
        for (writer, n, at) in commits {
            let at = Duration::from_micros(at.try_into()?).saturating_sub(time);
            track.saw_up_to(writer.try_into()?, n.try_into()?, instant + at);
        }
    }
    Ok((Percentiles::of(&track)?, share, peak))
}

/// Waits until the last write of each writer is there.
async fn committed(connection: &mut PgConnection, count: u64) -> Result<()> {
    crate::support::until("all writes to be committed", crate::daemon::PATIENCE, async || {
        let query = sqlx::query_scalar(IS_WRITTEN).bind(WRITERS as i64).bind(i64::try_from(count)?);
        let is_written: bool = query.fetch_one(&mut *connection).await?;
        Ok(is_written.then_some(()))
    })
    .await
}

/// Writes at the rate for as long as it takes; how many each writer wrote.
async fn write(collection: &Collection<Document>, scale: &Scale, track: &Tracks) -> Result<u64> {
    let mut writers = tokio::task::JoinSet::new();
    lock(track).since = Some(Instant::now() + WARM_UP);
    let pause = Duration::from_secs_f64(WRITERS as f64 / scale.rate as f64);
    let count = ((WARM_UP + scale.latency).as_secs_f64() / pause.as_secs_f64()) as u64;
    for writer in 0..WRITERS {
        let (collection, track) = (collection.clone(), Arc::clone(track));
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
    Ok(count)
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
    /// The highest number of a writer that is visible says that all before are.
    fn saw_up_to(&mut self, writer: usize, n: u64, at: Instant) {
        while self.seen[writer] < n {
            self.saw_next(writer, at);
        }
    }

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
