//! The leader's own comparisons: by the timer, and those that were asked for over HTTP. On connections of their
//! own; whatever goes wrong with them is told, and never reaches the pipeline.

use std::sync::Arc;
use std::time::Duration;

use mongodb::Client;
use sqlx::PgConnection;
use tokio::sync::watch;

use super::reconcile::{comparing, connect};
use crate::config::Config;
use crate::pipeline::{Error, LastReconcile, Moment, Plan, Report};
use crate::reconcile::{Extent, Last, Next, Options, Outcome, Verifier, next};
use crate::source;
use crate::state::reconcile::{self, Run};

/// How soon a comparison that was asked for begins.
const LOOKS_EVERY: Duration = Duration::from_secs(2);

/// After a comparison that could not be made.
const PAUSE: Duration = Duration::from_secs(30);

/// A comparison that something comes in the way of goes on so often before it is given up.
const ATTEMPTS: u32 = 10;

/// Runs that are looked through for the last one of each kind.
const HISTORY: i64 = 50;

/// What compares while a session lasts.
#[derive(Debug)]
pub(super) struct Scheduler {
    pub config: Config,
    pub client: Client,
    pub plan: Arc<Plan>,
    pub report: Report,
    pub stop: watch::Receiver<bool>,
    /// Comparisons in a row that something came in the way of.
    pub failed: u32,
}

/// A run that is to be made, and how far it came before.
struct Begun {
    run: i64,
    extent: Extent,
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
                self.wait(PAUSE).await;
            }
        }
    }

    /// A sender that is gone is a stop as well.
    async fn wait(&mut self, duration: Duration) {
        let _ = tokio::time::timeout(duration, self.stop.wait_for(|stop| *stop)).await;
    }

    async fn work(&mut self, started: f64) -> Result<(), Error> {
        let mut connection = connect(&self.config).await?;
        while !*self.stop.borrow() {
            let pipeline = self.config.pipeline.clone();
            let history = reconcile::history(&mut connection, &pipeline, HISTORY).await.map_err(kept)?;
            self.tell(&history);
            let (run, wait) = match reconcile::take_up(&mut connection, &pipeline).await.map_err(kept)? {
                Some(run) => {
                    let size = run.sample.map_or(self.config.reconcile.sample, i64::unsigned_abs);
                    let extent = if run.extent == "full" { Extent::Full } else { Extent::Sample(size) };
                    (Some(Begun { run: run.id, extent, progress: run.progress }), Duration::ZERO)
                }
                None => self.due(&mut connection, &history, started).await?,
            };
            match run {
                Some(begun) => self.compare(&mut connection, begun).await?,
                None => self.wait(wait.min(LOOKS_EVERY)).await,
            }
        }
        Ok(())
    }

    /// What the timer wants now, or how long it waits.
    async fn due(
        &self,
        connection: &mut PgConnection,
        history: &[Run],
        started: f64,
    ) -> Result<(Option<Begun>, Duration), Error> {
        let done = || history.iter().filter(|run| run.state == "done" && run.cause != "repair");
        let latest = |of: &str| {
            done().filter(|run| run.extent == of).map(|run| run.started_at).fold(started, f64::max)
        };
        let last = Last { any: latest("sample"), full: latest("full") };
        match next(&self.config.reconcile, last, Moment::now().unix_seconds()) {
            Next::Wait(wait) => Ok((None, wait)),
            Next::Compare(extent) => {
                let retention = self.config.reconcile.retention;
                reconcile::purge(connection, &self.config.pipeline, retention).await.map_err(kept)?;
                let begun =
                    reconcile::begin(connection, &self.config.pipeline, extent.as_str(), "timer").await;
                let begun = begun.map_err(kept)?.map(|run| Begun { run, extent, progress: None });
                Ok((begun, LOOKS_EVERY))
            }
        }
    }

    async fn compare(&mut self, connection: &mut PgConnection, begun: Begun) -> Result<(), Error> {
        let Begun { run, extent, .. } = begun;
        tracing::info!(
            event = "reconcile_began",
            severity = "info",
            run,
            extent = extent.as_str(),
            goes_on = begun.progress.is_some(),
            "comparing"
        );
        let outcome = self.verify(begun).await;
        let pipeline = &self.config.pipeline;
        match outcome {
            Ok(Outcome::Done(report)) => {
                let (verdict, findings, documents) =
                    (report.verdict.as_str(), report.findings(), report.documents);
                self.report.reconcile_ended(verdict, documents);
                self.failed = 0;
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
                        "compared"
                    );
                }
                Ok(())
            }
            // Whoever leads next goes on with it, at once.
            Ok(Outcome::Stopped) => reconcile::abandon(connection, pipeline, run).await.map_err(kept),
            Err(error @ Error::Retry { .. }) if self.failed < ATTEMPTS => {
                self.failed += 1;
                reconcile::abandon(connection, pipeline, run).await.map_err(kept)?;
                Err(error)
            }
            Err(error) => {
                self.failed = 0;
                reconcile::finish(connection, pipeline, run, "failed", None).await.map_err(kept)?;
                Err(error)
            }
        }
    }

    async fn verify(&self, begun: Begun) -> Result<Outcome, Error> {
        let Begun { run, extent, progress } = begun;
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
                sources: Vec::new(),
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

    /// The last report stays in memory: it is told while PostgreSQL is away.
    fn tell(&self, history: &[Run]) {
        let Some(run) = history.iter().find(|run| run.report.is_some()) else { return };
        let Some(report) = &run.report else { return };
        if self.report.last_reconcile() == Some(run.id) {
            return;
        }
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let mut mismatches = Vec::new();
        for source in report["sources"].as_array().into_iter().flatten() {
            for (kind, count) in source["findings"].as_object().into_iter().flatten() {
                mismatches.push((text(&source["source"]), kind.clone(), count.as_u64().unwrap_or(0)));
            }
        }
        self.report.reconciled(LastReconcile {
            run: run.id,
            verdict: text(&report["verdict"]),
            finished_at: run.finished_at.unwrap_or(run.started_at),
            findings: mismatches.iter().map(|(_, _, count)| count).sum(),
            mismatches,
            report: Arc::new(report.clone()),
        });
    }
}

fn kept(error: sqlx::Error) -> Error {
    Error::retry("keep the report", error)
}
