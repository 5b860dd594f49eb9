//! The leader's own comparisons: re-syncs that are due, those that were asked for over HTTP, and those of the timer.
//! On connections of their own; whatever goes wrong with them is told, and never reaches the pipeline.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use mongodb::Client;
use sqlx::PgConnection;
use tokio::sync::watch;

use super::reconcile::{comparing, connect};
use crate::config::Config;
use crate::pipeline::{Error, LastReconcile, Moment, Plan, Report, ResyncStatus};
use crate::reconcile::{self as comparison, Duty, Extent, Last, Next, Options, Outcome, Verifier, next};
use crate::source;
use crate::state::{reconcile, resync};

/// How soon a comparison that was asked for begins.
const LOOKS_EVERY: Duration = Duration::from_secs(2);

/// As soon, where somebody waits for it.
const LOOKS_SOON: Duration = Duration::from_millis(200);

/// After a comparison that could not be made, and twice as long after each one more, up to the second.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A comparison that something comes in the way of goes on so often before it is given up.
const ATTEMPTS: u32 = 10;

/// Runs that are looked through for the last word on each source.
const HISTORY: i64 = 50;

const RESYNC: &str = "resync";

/// Which comparisons are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    All,
    /// Of a pipeline that ends once it has caught up.
    Resyncs,
}

/// What compares while a session lasts.
#[derive(Debug)]
pub(super) struct Scheduler {
    pub config: Config,
    pub client: Client,
    pub plan: Arc<Plan>,
    pub report: Report,
    pub stop: watch::Receiver<bool>,
    pub wanted: Wanted,
    /// Comparisons in a row that something came in the way of.
    pub failed: u32,
    /// A comparison of ours that something came in the way of: we go on with it.
    pub interrupted: Option<i64>,
}

/// A run that is to be made, and how far it came before.
struct Begun {
    run: i64,
    extent: Extent,
    duty: Duty,
    /// Empty: all of them.
    sources: Vec<String>,
    progress: Option<serde_json::Value>,
}

impl Scheduler {
    /// Ends once `stop` is true.
    pub(super) async fn run(mut self) {
        let started = Moment::now().unix_seconds();
        while !*self.stop.borrow() {
            if let Err(error) = self.work(started).await {
                tracing::warn!(
                    event = "reconcile_failed",
                    severity = "warning",
                    error = Error::chain(&error),
                    "rows could not be compared with their documents"
                );
                self.report.reconcile_ended("failed", 0);
                let pause = match self.failed {
                    // Nothing was compared: a server is away, or it makes no sense.
                    0 => LONGEST_PAUSE,
                    failed => PAUSE.saturating_mul(1 << failed.min(6) >> 1).min(LONGEST_PAUSE),
                };
                self.wait(pause).await;
            }
        }
    }

    /// A sender that is gone is a stop as well.
    async fn wait(&mut self, duration: Duration) {
        let _ = tokio::time::timeout(duration, self.stop.wait_for(|stop| *stop)).await;
    }

    async fn work(&mut self, started: f64) -> Result<(), Error> {
        let mut connection = connect(&self.config).await?;
        let pipeline = self.config.pipeline.clone();
        if let Some(run) = self.interrupted.take() {
            reconcile::abandon(&mut connection, &pipeline, run).await.map_err(kept)?;
        }
        while !*self.stop.borrow() {
            self.tell(&mut connection).await?;
            let (run, wait) = match self.resync(&mut connection).await? {
                Some(begun) => (Some(begun), Duration::ZERO),
                None if self.wanted == Wanted::Resyncs => (None, LOOKS_SOON),
                None => self.other(&mut connection, started).await?,
            };
            match run {
                Some(begun) => self.compare(&mut connection, begun).await?,
                None => self.wait(wait.min(LOOKS_EVERY)).await,
            }
        }
        Ok(())
    }

    /// A re-sync of the sources that are due, or one that was interrupted.
    async fn resync(&self, connection: &mut PgConnection) -> Result<Option<Begun>, Error> {
        let pipeline = &self.config.pipeline;
        let due = resync::due(connection, pipeline, &self.plan.names()).await.map_err(kept)?;
        self.report.resyncs(due.iter().map(ResyncStatus::of).collect());
        let sources: Vec<String> =
            due.into_iter().filter(|due| due.is_copied).map(|due| due.source).collect();
        let (duty, extent) = (Duty::Repair, Extent::Full);
        if let Some(run) = reconcile::take_up(connection, pipeline, &[RESYNC]).await.map_err(kept)? {
            if !sources.is_empty() {
                return Ok(Some(Begun { run: run.id, extent, duty, sources, progress: run.progress }));
            }
            reconcile::finish(connection, pipeline, run.id, "cancelled", None).await.map_err(kept)?;
        }
        if sources.is_empty() {
            return Ok(None);
        }
        let begun = reconcile::begin(connection, pipeline, extent.as_str(), RESYNC).await.map_err(kept)?;
        Ok(begun.map(|run| Begun { run, extent, duty, sources, progress: None }))
    }

    /// What was asked for over HTTP, or what the timer wants now; or how long it waits.
    async fn other(
        &self,
        connection: &mut PgConnection,
        started: f64,
    ) -> Result<(Option<Begun>, Duration), Error> {
        let pipeline = &self.config.pipeline;
        let begun =
            |run, extent, progress| Begun { run, extent, duty: Duty::Report, sources: Vec::new(), progress };
        let taken_up = reconcile::take_up(connection, pipeline, &["timer", "http"]).await.map_err(kept)?;
        if let Some(run) = taken_up {
            let size = run.sample.map_or(self.config.reconcile.sample, i64::unsigned_abs);
            let extent = if run.extent == "full" { Extent::Full } else { Extent::Sample(size) };
            return Ok((Some(begun(run.id, extent, run.progress)), Duration::ZERO));
        }
        let (sample, full) = reconcile::last_begun(connection, pipeline).await.map_err(kept)?;
        let latest = |last: Option<f64>| last.unwrap_or(started).max(started);
        let last = Last { any: latest(sample), full: latest(full) };
        match next(&self.config.reconcile, last, Moment::now().unix_seconds()) {
            Next::Wait(wait) => Ok((None, wait)),
            Next::Compare(extent) => {
                let run = reconcile::begin(connection, pipeline, extent.as_str(), "timer").await;
                Ok((run.map_err(kept)?.map(|run| begun(run, extent, None)), LOOKS_EVERY))
            }
        }
    }

    async fn compare(&mut self, connection: &mut PgConnection, begun: Begun) -> Result<(), Error> {
        let (run, duty, sources) = (begun.run, begun.duty, begun.sources.clone());
        tracing::info!(
            event = "reconcile_began",
            severity = "info",
            run,
            extent = begun.extent.as_str(),
            repairs = duty == Duty::Repair,
            sources = sources.join(", "),
            goes_on = begun.progress.is_some(),
            "comparing"
        );
        let outcome = self.verify(begun).await;
        let pipeline = &self.config.pipeline;
        match outcome {
            Ok(Outcome::Done(report)) => {
                self.failed = 0;
                self.ended(run, &report);
                if duty == Duty::Repair {
                    let sources: Vec<&str> = sources.iter().map(String::as_str).collect();
                    resync::done(connection, pipeline, &sources, run).await.map_err(kept)?;
                }
                let retention = self.config.reconcile.retention;
                reconcile::purge(connection, pipeline, retention).await.map(drop).map_err(kept)
            }
            // Whoever leads next goes on with it, at once.
            Ok(Outcome::Stopped) => reconcile::abandon(connection, pipeline, run).await.map_err(kept),
            Err(error @ Error::Retry { .. }) if self.failed < ATTEMPTS => {
                self.failed += 1;
                self.interrupted = Some(run);
                Err(error)
            }
            Err(error) => {
                self.failed = 0;
                reconcile::finish(connection, pipeline, run, "failed", None).await.map_err(kept)?;
                Err(error)
            }
        }
    }

    fn ended(&self, run: i64, report: &comparison::Report) {
        let (verdict, findings, documents) = (report.verdict.as_str(), report.findings(), report.documents);
        self.report.reconcile_ended(verdict, documents);
        if findings > 0 {
            tracing::error!(
                event = "reconcile_findings",
                severity = "error",
                run,
                findings,
                "rows differ from their documents; `rowstream repair` says what it would do"
            );
        } else {
            tracing::info!(
                event = "reconcile_ended",
                severity = "info",
                run,
                verdict,
                documents,
                repaired = report.repaired(),
                "compared"
            );
        }
    }

    async fn verify(&self, begun: Begun) -> Result<Outcome, Error> {
        let Begun { run, extent, duty, sources, progress } = begun;
        let config = &self.config;
        let client = match config.reconcile.read_preference {
            None => self.client.clone(),
            Some(preference) => {
                source::connect_preferring(config.mongodb.uri.expose(), "rowstream", preference)
                    .await
                    .map_err(crate::pipeline::read)?
            }
        };
        let verifier = Verifier {
            client,
            plan: Arc::clone(&self.plan),
            pipeline: config.pipeline.as_str().into(),
            run,
            progress,
            options: Options {
                extent,
                duty,
                sources,
                documents_per_second: config.reconcile.documents_per_second,
                patience: config.reconcile.patience,
                lease_ttl: config.lease.ttl,
                assertions: config.reconcile.assertions.clone(),
                shown: 0,
            },
            comparing: comparing(config).await?,
            state: connect(config).await?,
            stop: self.stop.clone(),
        };
        verifier.run().await
    }

    /// The last report stays in memory: it is told while PostgreSQL is away. Of sources that it says nothing of,
    /// an earlier one does.
    async fn tell(&self, connection: &mut PgConnection) -> Result<(), Error> {
        let pipeline = &self.config.pipeline;
        let last = reconcile::last_report(connection, pipeline).await.map_err(kept)?;
        if last.is_none() || self.report.last_reconcile() == last {
            return Ok(());
        }
        let history = reconcile::history(connection, pipeline, HISTORY).await.map_err(kept)?;
        let with_report = || history.iter().filter_map(|run| Some((run, run.report.as_ref()?)));
        let Some((run, report)) = with_report().next() else { return Ok(()) };
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let (mut mismatches, mut told) = (Vec::new(), HashSet::new());
        let of_sources = with_report().flat_map(|(_, report)| report["sources"].as_array()).flatten();
        let is_mapped = |name: &str| self.plan.source(name).is_some();
        let mapped = of_sources.filter(|source| source["source"].as_str().is_some_and(is_mapped));
        for source in mapped.filter(|source| told.insert(source["source"].as_str())) {
            for (kind, count) in source["findings"].as_object().into_iter().flatten() {
                mismatches.push((text(&source["source"]), kind.clone(), count.as_u64().unwrap_or(0)));
            }
        }
        let findings = mismatches.iter().map(|(_, _, count)| count).sum();
        let verdict = if findings > 0 { "failed".to_owned() } else { text(&report["verdict"]) };
        self.report.reconciled(LastReconcile {
            run: run.id,
            verdict,
            finished_at: run.finished_at.unwrap_or(run.started_at),
            findings,
            mismatches,
            report: Arc::new(report.clone()),
        });
        Ok(())
    }
}

fn kept(error: sqlx::Error) -> Error {
    Error::retry("keep the report", error)
}
