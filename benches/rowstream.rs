//! `make bench`: what rowstream does in a second, each figure beside its limit measured in the same run.
//!
//! A limit is what the two servers allow on this machine at this moment: noise that slows both sides
//! leaves their ratio alone. Goals are shown, never enforced: a busy machine is no defect. What each
//! figure means is in docs/BENCHMARKS.md.

#![expect(clippy::print_stdout, reason = "a benchmark's result is its output")]

#[path = "../tests/support/mod.rs"]
mod support;

#[path = "rowstream/backlog.rs"]
mod backlog;
#[path = "rowstream/copy.rs"]
mod copy;
#[path = "rowstream/daemon.rs"]
mod daemon;
#[path = "rowstream/latency.rs"]
mod latency;
#[path = "rowstream/ledger.rs"]
mod ledger;
#[path = "rowstream/shares.rs"]
mod shares;
#[path = "rowstream/table.rs"]
mod table;
#[path = "rowstream/verify.rs"]
mod verify;

use std::env;
use std::time::Duration;

use anyhow::{Context, Result};
use bson::doc;
use sqlx::{Connection, PgConnection};

use support::servers::{Mongod, Postgres};
use table::{Goal, Line};

/// How much is measured; every number can be set in the environment.
#[derive(Debug)]
struct Scale {
    /// BENCH_DOCUMENTS of the snapshot.
    documents: u64,
    /// BENCH_EVENTS
    events: u64,
    /// BENCH_EVENTS_OF: how many documents they are written to.
    events_of: u64,
    /// BENCH_ROUNDS: each throughput is measured this often, in turns with its limit.
    rounds: usize,
    /// BENCH_SECONDS of writes for each latency.
    latency: Duration,
    /// BENCH_RATE: writes per second.
    rate: u64,
}

/// What one measurement of a throughput found.
#[derive(Debug, Clone, Copy)]
struct Round {
    value: f64,
    limit: f64,
    cpu: Duration,
    peak_memory: u64,
}

fn main() -> Result<()> {
    // `cargo test --benches` runs this too: it must compile, not measure.
    if env::args().any(|argument| argument == "--test") {
        return Ok(());
    }
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run())
}

async fn run() -> Result<()> {
    let scale = Scale {
        documents: from_environment("BENCH_DOCUMENTS", 1_000_000)?,
        events: from_environment("BENCH_EVENTS", 300_000)?,
        events_of: from_environment("BENCH_EVENTS_OF", 250_000)?,
        rounds: usize::try_from(from_environment("BENCH_ROUNDS", 5)?.max(1))?,
        latency: Duration::from_secs(from_environment("BENCH_SECONDS", 10)?),
        rate: from_environment("BENCH_RATE", 500)?,
    };
    let only = env::var("BENCH_ONLY").unwrap_or_default();
    let wanted = |phase: &str| only.is_empty() || only.split(',').any(|name| name == phase);
    let (mongod, postgres) = tokio::try_join!(Mongod::start(), Postgres::start_with(&[latency::SETTING]))?;
    let client = mongod.client().await?;
    describe(&client, &postgres, &scale).await?;

    // First: after the others both servers write to the disk what these have left in memory, for minutes.
    let latency = match wanted("latency") {
        true => latency::lines(&mongod, &postgres, &client, &scale).await?,
        false => Vec::new(),
    };
    let mut lines = Vec::new();
    if wanted("snapshot") || wanted("verify") {
        ledger::Ledger::load(&client, scale.documents).await?;
    }
    if wanted("snapshot") {
        let rounds = copy::rounds(&mongod, &postgres, &scale).await?;
        lines.extend(throughput("snapshot, documents/s", "two raw COPYs", 0.75, &rounds));
        lines.extend(cost("snapshot", scale.documents, &rounds));
    }
    if wanted("verify") {
        let rounds = verify::rounds(&mongod, &postgres, &scale).await?;
        lines.extend(throughput("verify, documents/s", "their snapshot", 0.8, &rounds));
    }
    if wanted("backlog") {
        let mut ledger = ledger::Ledger::load(&client, scale.events_of).await?;
        let rounds = backlog::rounds(&mongod, &postgres, &client, &mut ledger, &scale).await?;
        lines.extend(throughput("backlog, events/s", "raw drain", 0.5, &rounds));
        lines.extend(cost("backlog", scale.events, &rounds));
    }
    lines.extend(latency);
    println!("\n{}", table::render(&lines));
    Ok(())
}

/// The round whose ratio is the median: value and limit of one and the same moment.
fn throughput(name: &str, limit: &str, goal: f64, rounds: &[Round]) -> Option<Line> {
    let mut ordered = rounds.to_vec();
    ordered.sort_by(|left, right| (left.value / left.limit).total_cmp(&(right.value / right.limit)));
    let median = ordered.get(ordered.len() / 2)?;
    let ratio = median.value / median.limit;
    Some(Line {
        name: name.into(),
        value: table::thousands(median.value),
        limit: format!("{} {limit}", table::thousands(median.limit)),
        ratio: Some(ratio),
        goal: Some(Goal { text: format!("≥ {goal} of it"), reached: ratio >= goal }),
    })
}

fn cost(phase: &str, items: u64, rounds: &[Round]) -> Vec<Line> {
    let cpu: f64 = rounds.iter().map(|round| round.cpu.as_secs_f64()).sum();
    let per_million = cpu * 1e6 / (items as f64 * rounds.len() as f64);
    let peak = rounds.iter().map(|round| round.peak_memory).max().unwrap_or_default();
    vec![
        Line::plain(format!("{phase}, CPU of the daemon"), format!("{per_million:.1} s per million")),
        Line::memory(phase, peak),
    ]
}

async fn describe(client: &mongodb::Client, postgres: &Postgres, scale: &Scale) -> Result<()> {
    let build = client.database("admin").run_command(doc! { "buildInfo": 1 }).await?;
    let mut connection = postgres.connect("postgres").await?;
    let mut settings = Vec::new();
    for name in ["server_version", "fsync", "synchronous_commit", "full_page_writes", "shared_buffers"] {
        settings.push(setting(&mut connection, name).await?);
    }
    connection.close().await?;
    let cores = std::thread::available_parallelism()?;
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!(
        "{cores} cores shared by both servers, the daemon and this program; load before: {}",
        load.trim()
    );
    println!("mongod {}, one-node replica set, journaled majority writes", build.get_str("version")?);
    println!("PostgreSQL {}", settings.join(", "));
    println!(
        "{} documents of {} bytes into 15 columns with the document as jsonb; backlog of {} events of {}; \
         median of {} rounds",
        scale.documents,
        bson::serialize_to_vec(&ledger::document(1))?.len(),
        scale.events,
        scale.events_of,
        scale.rounds
    );
    Ok(())
}

async fn setting(connection: &mut PgConnection, name: &str) -> Result<String> {
    let value: String =
        sqlx::query_scalar("select current_setting($1)").bind(name).fetch_one(connection).await?;
    Ok(if name == "server_version" { value } else { format!("{name}={value}") })
}

fn from_environment(name: &str, default: u64) -> Result<u64> {
    match env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name} is no number: {text:?}")),
        Err(_) => Ok(default),
    }
}
