//! Comparisons and repairs for commands: the same as the daemon's, on connections of their own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mongodb::Client;
use sqlx::PgConnection;
use tokio::sync::watch;

use super::postgres::{self, Servers};
use super::{Tables, inspect};
use crate::config::Config;
use crate::pipeline::{Error, Plan};
use crate::reconcile::{Extent, Options, Outcome, Repairer, Repairs, Verifier, Which};
use crate::state::{self, SchemaState, reconcile};

/// How often a repair looks how far it is.
const POLLED_EVERY: Duration = Duration::from_millis(200);

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

    /// One comparison or repair of a pipeline at a time.
    async fn begin(&mut self, extent: &str, cause: &str) -> Result<i64, Error> {
        let begun = reconcile::begin(&mut self.connection, &self.pipeline, extent, cause).await;
        let hint = "wait until it is over; one whose process is gone is over after a minute";
        let other = || Error::halt("another comparison of this pipeline is going on", hint);
        begun.map_err(|error| Error::retry("keep the report", error))?.ok_or_else(other)
    }

    async fn finish(&mut self, run: i64, how: &str) -> Result<(), Error> {
        let finished = reconcile::finish(&mut self.connection, &self.pipeline, run, how, None).await;
        finished.map_err(|error| Error::retry("keep the report", error))
    }
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
    match &outcome {
        Ok(Outcome::Done(_)) => {}
        Ok(Outcome::Stopped) => ready.finish(run, "cancelled").await?,
        Err(_) => ready.finish(run, "failed").await?,
    }
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
    let (client, plan) = (ready.client.clone(), Arc::clone(&ready.plan));
    let of_run = (Arc::clone(&ready.pipeline), run);
    let mut repairer = Repairer::new((client, plan), of_run, (comparing, state), patience, config.lease.ttl);
    let repaired = work(&mut repairer, config, which, apply, patience, stop).await;
    ready.finish(run, if repaired.is_ok() { "done" } else { "failed" }).await?;
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
        let summary = super::run(config, true, stop).await;
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
