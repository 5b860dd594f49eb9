//! The demo: an expense tracker's MongoDB, copied and followed into PostgreSQL before your eyes.
//!
//! `make demo` starts it. It brings its own servers, or takes those of `MONGODB_URI` and `DATABASE_URL`, where
//! it makes a database of its own and removes it in the end. What it believes about the outcome it computes
//! by itself: nothing here uses rowstream's own code.
//!
//! | variable | |
//! |---|---|
//! | `DEMO_SECONDS` | ends by itself after so many seconds, with a comparison of every field; else Ctrl-C ends it |
//! | `DEMO_DOCUMENTS` | how many documents there are to begin with (5000) |
//! | `DEMO_RATE` | writes per second (200) |
//! | `DEMO_SEED` | other numbers, other documents (1) |
//! | `DEMO_PLANT_WRONG_VALUE` | 1: spoils one row before the comparison, which must then fail |
//! | `ROWSTREAM_BIN` | the program (target/debug/rowstream) |

#![expect(clippy::print_stdout, reason = "it speaks to a person")]

mod compare;
mod daemon;
mod progress;
mod sides;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::env;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bson::doc;
use sqlx::{AssertSqlSafe, Executor};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use daemon::Daemon;
use progress::Progress;
use sides::{Sides, table_exists};
use support::expenses::{self, Collection, Expenses, Writer};
use support::{servers, until};

/// Each waits for its write to be majority-committed, so that one alone could not keep up the rate.
const WRITERS: usize = 4;

/// How long the end may take, once nothing is written any more.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> ExitCode {
    match demonstrate().await {
        Ok(code) => code,
        Err(error) => {
            println!("\nthe demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Debug)]
struct Settings {
    /// `None`: until Ctrl-C.
    length: Option<Duration>,
    documents: usize,
    writes_per_second: u32,
    seed: u64,
    plant_wrong_value: bool,
    program: PathBuf,
}

impl Settings {
    fn from_environment() -> Result<Self> {
        let number = |name: &str| -> Result<Option<u64>> {
            match env::var(name) {
                Ok(text) if !text.is_empty() => {
                    Ok(Some(text.parse().with_context(|| format!("{name} must be a whole number"))?))
                }
                _ => Ok(None),
            }
        };
        let beside = env::current_exe()?.with_file_name("../rowstream");
        Ok(Self {
            length: number("DEMO_SECONDS")?.map(Duration::from_secs),
            documents: number("DEMO_DOCUMENTS")?.unwrap_or(5000) as usize,
            writes_per_second: u32::try_from(number("DEMO_RATE")?.unwrap_or(200).clamp(1, 100_000))?,
            seed: number("DEMO_SEED")?.unwrap_or(1),
            plant_wrong_value: number("DEMO_PLANT_WRONG_VALUE")? == Some(1),
            program: env::var_os("ROWSTREAM_BIN").map_or(beside, Into::into),
        })
    }
}

async fn demonstrate() -> Result<ExitCode> {
    let settings = Settings::from_environment()?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    // Dropping what has been started stops it, wherever it is interrupted.
    let sides = tokio::select! {
        sides = Sides::open() => sides?,
        _ = interrupt.recv() => return Ok(ExitCode::SUCCESS),
        _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
    };
    let outcome = tokio::select! {
        outcome = show(&settings, &sides) => outcome,
        _ = interrupt.recv() => Ok(interrupted()),
        _ = terminate.recv() => Ok(interrupted()),
    };
    sides.close().await;
    outcome
}

fn interrupted() -> ExitCode {
    println!("\nstopping everything …");
    ExitCode::SUCCESS
}

async fn show(settings: &Settings, sides: &Sides) -> Result<ExitCode> {
    let data = Expenses::generate(settings.seed, settings.documents);
    println!("loading {} documents into MongoDB …", data.count());
    data.insert_into(&sides.mongodb).await.context("loading documents into MongoDB")?;
    sides.postgres().await?.execute(AssertSqlSafe(expenses::SCHEMA)).await.context("creating the table")?;

    let daemon = Daemon::start(&settings.program, sides)?;
    println!("starting rowstream …");
    introduce(sides, &daemon, settings.length);

    let written = Arc::new(AtomicU64::new(0));
    let (stop, stopped) = watch::channel(false);
    let mut writers = JoinSet::new();
    for lane in 0..WRITERS {
        let writer = Writer::new(settings.seed, lane, WRITERS, &data);
        let pause = Duration::from_secs(WRITERS as u64) / settings.writes_per_second;
        writers.spawn(write(writer, sides.mongodb.clone(), pause, Arc::clone(&written), stopped.clone()));
    }

    let mut progress = Progress::new(sides, &daemon, data.count()).await?;
    let end = settings.length.map(|length| Instant::now() + length);
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    seconds.set_missed_tick_behavior(MissedTickBehavior::Skip);
    while end.is_none_or(|end| Instant::now() < end) {
        seconds.tick().await;
        daemon.check_alive()?;
        progress.show(written.load(Ordering::Relaxed)).await?;
        if let Some(ended) = writers.try_join_next() {
            ended.context("a writer broke off")?.context("writing to MongoDB")?;
        }
    }

    stop.send_replace(true);
    while let Some(ended) = writers.join_next().await {
        ended.context("a writer broke off")?.context("writing to MongoDB")?;
    }
    println!("\nno more writes; waiting for the last of {} to arrive …", written.load(Ordering::Relaxed));
    wait_until_caught_up(sides, &daemon).await?;
    daemon.stop().await?;
    println!("rowstream stopped; comparing every field of every document with its row …\n");
    if settings.plant_wrong_value {
        plant_wrong_value(sides).await?;
    }
    let verdict = compare::compare(sides).await?;
    print!("{verdict}");
    io::stdout().flush()?;
    Ok(if verdict.is_equal() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn introduce(sides: &Sides, daemon: &Daemon, length: Option<Duration>) {
    let page = daemon.address();
    println!();
    println!("  page       http://{page}/");
    println!("  health     http://{page}/health");
    println!("  status     http://{page}/status");
    println!("  metrics    http://{page}/metrics");
    println!("  look       {}", sides.psql_line());
    println!("  MongoDB    {}", sides.mongodb_line());
    println!("  log        {}", daemon.log().display());
    match length {
        Some(length) => println!("\nends by itself after {} seconds\n", length.as_secs()),
        None => println!("\nCtrl-C ends it, and stops everything that it started\n"),
    }
}

async fn write(
    mut writer: Writer,
    database: mongodb::Database,
    pause: Duration,
    written: Arc<AtomicU64>,
    mut stopped: watch::Receiver<bool>,
) -> Result<()> {
    let mut beat = tokio::time::interval(pause);
    beat.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => return Ok(()),
            _ = beat.tick() => {}
        }
        writer.next_write().apply(&database).await?;
        written.fetch_add(1, Ordering::Relaxed);
    }
}

/// The stream is in order: when a document that was written last has its row, all before it are there, except
/// what the snapshot has still to copy. So the counts must be equal, too.
async fn wait_until_caught_up(sides: &Sides, daemon: &Daemon) -> Result<()> {
    let last = "event_that_was_written_last";
    let marker = doc! { "_id": last, "id": last, "name": "the last write of the demo", "line_items": [] };
    sides.mongodb.collection(Collection::Events.name()).insert_one(marker).await?;
    let mut postgres = sides.postgres().await?;
    until("the row of the last document", CATCH_UP_LIMIT, async || {
        daemon.check_alive()?;
        if !table_exists(&mut postgres, Collection::Events).await? {
            return Ok(None);
        }
        let rows: i64 = sqlx::query_scalar("select count(*) from events where source_id = $1")
            .bind(last)
            .fetch_one(&mut postgres)
            .await?;
        if rows == 0 {
            return Ok(None);
        }
        let (documents, rows) = (sides.documents().await?, sides.rows(&mut postgres).await?);
        Ok((documents == rows).then_some(()))
    })
    .await
    .or_else(|error| {
        // The comparison will say what is missing.
        println!("{error:#}");
        Ok(())
    })
}

async fn plant_wrong_value(sides: &Sides) -> Result<()> {
    let mut postgres = sides.postgres().await?;
    let source_id: String = sqlx::query_scalar(
        "update transactions set transaction_date = transaction_date + interval '1 second' \
         where id = (select min(id) from transactions where source = 'stripe') returning source_id",
    )
    .fetch_one(&mut postgres)
    .await
    .context("planting a wrong value")?;
    println!("planted a wrong value: the transaction_date of stripe {source_id}\n");
    Ok(())
}
