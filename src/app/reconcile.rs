//! Comparisons and repairs for commands: the same as the daemon's, on connections of their own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mongodb::Client;
use sqlx::PgConnection;
use tokio::sync::watch;

use super::postgres::{self, Servers};
use super::{Tables, Until, inspect};
use crate::config::Config;
use crate::pipeline::{Error, Plan};
use crate::reconcile::{Duty, Extent, Options, Outcome, Repairer, Repairs, Report, Verifier, Which};
use crate::state::resync::{self, Cause};
use crate::state::{self, SchemaState, reconcile};

/// How often a repair looks how far it is.
const POLLED_EVERY: Duration = Duration::from_millis(200);

/// Runs that are looked through for the report of a re-sync.
const HISTORY: i64 = 20;

/// What is to be compared.
#[derive(Debug, Clone)]
pub struct Asked {
    pub extent: Extent,
    /// Empty: all of them.
    pub sources: Vec<String>,
    pub documents_per_second: Option<u64>,
    pub patience: Duration,
    /// Of so many rows of each look, the values that differ come with the report.
    pub shown: usize,
}

/// Whether a repair only says what it would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Apply {
    DryRun,
    Apply,
}

/// What every command of this kind begins with.
struct Ready {
    client: Client,
    connection: PgConnection,
    plan: Arc<Plan>,
    pipeline: Arc<str>,
}

impl Ready {
    async fn new(config: &Config, servers: Servers, sources: &[String]) -> Result<Self, Error> {
        let Servers { client, mut connection } = servers;
        let failed = |error| Error::retry("look at the schema rowstream", error);
        if state::schema_state(&mut connection).await.map_err(failed)? != SchemaState::Current {
            let hint = "nothing was copied by this version yet: start `rowstream run` first";
            return Err(Error::halt("there is no state of this version to compare with", hint));
        }
        let inspection = inspect(config, &client, &mut connection, Tables::LeaveAlone, &[]).await?;
        let plan = Arc::new(inspection.into_plan()?);
        if let Some(unknown) = sources.iter().find(|name| plan.source(name).is_none()) {
            let hint = format!("the sources are {}", plan.names().join(", "));
            return Err(Error::halt(format!("there is no source {unknown}"), hint));
        }
        Ok(Self { client, connection, plan, pipeline: config.pipeline.as_str().into() })
    }

    /// Somebody leads, and does what is asked of the pipeline.
    async fn is_followed(&mut self, lease_ttl: Duration) -> Result<bool, Error> {
        let followed = reconcile::followed(&mut self.connection, &self.pipeline).await.map_err(kept)?;
        let age = followed.and_then(|followed| followed.heartbeat_age);
        Ok(age.is_some_and(|age| age < lease_ttl.as_secs_f64()))
    }

    /// One comparison or repair of a pipeline at a time.
    async fn begin(&mut self, extent: &str, cause: &str) -> Result<i64, Error> {
        let begun = reconcile::begin(&mut self.connection, &self.pipeline, extent, cause).await;
        let hint = "wait until it is over; one whose process is gone is over after a minute";
        let other = || Error::halt("another comparison of this pipeline is going on", hint);
        begun.map_err(kept)?.ok_or_else(other)
    }

    /// Ends a run that has not ended itself, and lets go of reports whose retention is over.
    async fn finish(&mut self, run: i64, how: &str, retention: Duration) -> Result<(), Error> {
        reconcile::finish(&mut self.connection, &self.pipeline, run, how, None).await.map_err(kept)?;
        reconcile::purge(&mut self.connection, &self.pipeline, retention).await.map(drop).map_err(kept)
    }
}

fn kept(error: sqlx::Error) -> Error {
    Error::retry("keep the report", error)
}

/// As many as there are workers of a snapshot, and one for what is looked at again.
pub(super) async fn comparing(config: &Config) -> Result<Vec<PgConnection>, Error> {
    let mut comparing = Vec::new();
    for _ in 0..=config.snapshot.workers {
        let connected = postgres::connect_read_only(&config.postgres, &name(config)).await;
        comparing.push(connected.map_err(failed)?);
    }
    Ok(comparing)
}

pub(super) async fn connect(config: &Config) -> Result<PgConnection, Error> {
    postgres::connect(&config.postgres, &name(config)).await.map_err(failed)
}

fn name(config: &Config) -> String {
    format!("rowstream verify {}", config.pipeline)
}

fn failed(error: postgres::ConnectError) -> Error {
    postgres::failed("connect to postgresql", error)
}

/// Compares once and keeps the report in the state.
pub async fn verify(
    config: &Config,
    servers: Servers,
    asked: Asked,
    cause: &str,
    stop: watch::Receiver<bool>,
) -> Result<Outcome, Error> {
    let mut ready = Ready::new(config, servers, &asked.sources).await?;
    let (comparing, state) = (comparing(config).await?, connect(config).await?);
    let run = ready.begin(asked.extent.as_str(), cause).await?;
    let verifier = Verifier {
        client: ready.client.clone(),
        plan: Arc::clone(&ready.plan),
        pipeline: Arc::clone(&ready.pipeline),
        run,
        progress: None,
        options: Options {
            extent: asked.extent,
            duty: Duty::Report,
            sources: asked.sources,
            documents_per_second: asked.documents_per_second,
            patience: asked.patience,
            lease_ttl: config.lease.ttl,
            assertions: config.reconcile.assertions.clone(),
            shown: asked.shown,
        },
        comparing,
        state,
        stop,
    };
    let outcome = verifier.run().await;
    let how = match &outcome {
        Ok(Outcome::Done(_)) => "done",
        Ok(Outcome::Stopped) => "cancelled",
        Err(_) => "failed",
    };
    ready.finish(run, how, config.reconcile.retention).await?;
    outcome
}

/// Repairs what runs have found, or says what it would do. Without a daemon, it works as one until it is done.
pub async fn repair(
    config: Config,
    servers: Servers,
    which: Which,
    apply: Apply,
    patience: Duration,
    stop: watch::Receiver<bool>,
) -> Result<Repairs, Error> {
    let mut ready = Ready::new(&config, servers, &which.sources).await?;
    let comparing = postgres::connect_read_only(&config.postgres, &name(&config)).await.map_err(failed)?;
    let state = connect(&config).await?;
    let run = ready.begin("findings", "repair").await?;
    let retention = config.reconcile.retention;
    let (client, plan) = (ready.client.clone(), Arc::clone(&ready.plan));
    let of_run = (Arc::clone(&ready.pipeline), run);
    let mut repairer = Repairer::new((client, plan), of_run, (comparing, state), patience, config.lease.ttl);
    let repaired = work(&mut repairer, config, which, apply, patience, stop).await;
    ready.finish(run, if repaired.is_ok() { "done" } else { "failed" }, retention).await?;
    repaired
}

async fn work(
    repairer: &mut Repairer,
    config: Config,
    which: Which,
    apply: Apply,
    patience: Duration,
    mut stop: watch::Receiver<bool>,
) -> Result<Repairs, Error> {
    let repairs = repairer.plan(&which).await?;
    if apply == Apply::DryRun || repairs.documents == 0 {
        return Ok(repairs);
    }
    repairer.order(&repairs).await?;
    if !repairer.is_followed().await? {
        let summary = super::run(config, Until::Repaired, stop).await;
        summary.map_err(|error| Error::retry("repair", std::io::Error::other(format!("{error:#}"))))?;
        return repairer.judge(repairs).await;
    }
    let (mut left, mut moved) = (repairer.left().await?, Instant::now());
    while left > 0 {
        if *stop.borrow() || moved.elapsed() > patience {
            let hint = "its daemon goes on with them; `rowstream status` and /health say why it is slow";
            return Err(Error::halt(format!("{left} documents are not read again yet"), hint));
        }
        // A sender that is gone will never ask to stop.
        let _ = tokio::time::timeout(POLLED_EVERY, stop.wait_for(|stop| *stop)).await;
        let now = repairer.left().await?;
        if now != left {
            (left, moved) = (now, Instant::now());
        }
    }
    repairer.judge(repairs).await
}

/// What became of a wish for a re-sync.
#[derive(Debug)]
pub enum Resynced {
    /// By the last of its comparisons.
    Done(Box<Report>),
    /// Somebody told this process to stop; the wish stays.
    Stopped,
}

/// Marks these sources as due and waits until the daemon has compared and repaired them; without a daemon, works as
/// one until then.
pub async fn resync(
    config: Config,
    servers: Servers,
    sources: Vec<String>,
    patience: Duration,
    mut stop: watch::Receiver<bool>,
) -> Result<Resynced, Error> {
    let mut ready = Ready::new(&config, servers, &sources).await?;
    let names: Vec<&str> = sources.iter().map(String::as_str).collect();
    let pipeline = Arc::clone(&ready.pipeline);
    let asked = resync::ask(&mut ready.connection, &pipeline, &names, Cause::Command).await.map_err(kept)?;
    if asked < names.len() as u64 {
        let hint = "nothing of it was copied yet: `rowstream run` does";
        return Err(Error::halt(format!("{} has no rows to be compared", names.join(", ")), hint));
    }
    if !ready.is_followed(config.lease.ttl).await? {
        let ran = super::run(config, Until::CaughtUp, stop.clone()).await;
        ran.map_err(|error| Error::retry("re-sync", std::io::Error::other(format!("{error:#}"))))?;
    }
    let (mut seen, mut moved) = (None, Instant::now());
    loop {
        let due = resync::due(&mut ready.connection, &pipeline, &names).await.map_err(kept)?;
        if due.is_empty() {
            break;
        }
        if *stop.borrow() {
            return Ok(Resynced::Stopped);
        }
        let running = reconcile::moved(&mut ready.connection, &pipeline).await.map_err(kept)?;
        if seen.as_ref() != Some(&(due.len(), running.clone())) {
            (seen, moved) = (Some((due.len(), running)), Instant::now());
        } else if moved.elapsed() > patience {
            let hint = "its daemon goes on with it; `rowstream status` and /health say why it is slow";
            return Err(Error::halt(format!("the re-sync of {} makes no progress", names.join(", ")), hint));
        }
        // A sender that is gone will never ask to stop.
        let _ = tokio::time::timeout(POLLED_EVERY, stop.wait_for(|stop| *stop)).await;
    }
    let history = reconcile::history(&mut ready.connection, &pipeline, HISTORY).await.map_err(kept)?;
    let of_resyncs = history.into_iter().filter(|run| run.cause == "resync");
    let report = of_resyncs.filter_map(|run| serde_json::from_value(run.report?).ok()).next();
    let none = || Error::halt("the re-sync left no report", "`rowstream verify` compares again");
    report.map(|report| Resynced::Done(Box::new(report))).ok_or_else(none)
}
