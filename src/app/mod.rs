//! The composition root: the only place that builds things and wires them together.

mod inspect;
mod pooler;
mod postgres;
mod reconcile;
mod scheduler;
mod schema;
mod summary;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use mongodb::Client;
use tokio::net::TcpListener;
use tokio::sync::watch;

pub use inspect::{Inspection, Line, Tables, Verdict, inspect};
pub use pooler::refuse_pooler;
pub use postgres::{Servers, connect_postgres};
pub use reconcile::{Apply, Asked, Resynced, repair, resync, verify};
use scheduler::{Scheduler, Wanted};
pub use schema::{Drafted, schema};
pub use summary::Summary;

use crate::config::{Config, OnHistoryLost};
use crate::domain::Namespace;
use crate::metrics::Metrics;
use crate::pipeline::{
    End, Error, FailPoint, Finish, HeldPolicy, HoldLimit, Limits, Moment, Pace, Report, Session, Status,
};
use crate::source::AfterLoss;
use crate::state::held::{self, Backoff};
use crate::state::lease::{self, Acquired, Epoch};
use crate::state::{self, SchemaState};
use crate::{http, notify, pipeline, source};

/// A standby looks this often whether the lease is free: well within the seconds a take-over may take.
const STANDBY_LOOKS_EVERY: Duration = Duration::from_secs(1);

/// A halted pipeline looks this often whether its reason is gone.
const HALTED_LOOKS_EVERY: Duration = Duration::from_secs(5);

/// Sessions that end at once with the wish to start over, until somebody is asked to look.
const REBUILDS_IN_VAIN: u32 = 8;

/// A session that lasted this long was sound: the next failure begins with short pauses again.
const SOUND_AFTER: Duration = Duration::from_secs(10);

/// A comparison of rows that goes on when a session ends is cut off after this.
const COMPARING_ENDS_WITHIN: Duration = Duration::from_secs(2);

/// When a run ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// It is told to.
    Stopped,
    /// Everything that had happened by then is copied and applied, repairs that were asked for are made, and no source
    /// is due for a re-sync.
    CaughtUp,
    /// As caught up, but for re-syncs.
    Repaired,
}

/// Loads, wires and runs everything until `shutdown` is true, or until its end.
/// Servers that are away are waited for; errors are what nobody but the operator can mend at start.
pub async fn run(config: Config, until: Until, shutdown: watch::Receiver<bool>) -> anyhow::Result<Summary> {
    let status = Status::new(&config.pipeline, env!("CARGO_PKG_VERSION"), Moment::now());
    let metrics = Arc::new(Metrics::new(
        env!("CARGO_PKG_VERSION"),
        option_env!("ROWSTREAM_REVISION").unwrap_or("unknown"),
    )?);
    let report = Report::new(status, metrics);
    let served = if config.http.enabled && until == Until::Stopped {
        let listen = config.http.listen;
        let listener = TcpListener::bind(listen)
            .await
            .with_context(|| format!("cannot listen on http.listen {listen}"))?;
        let address = listener.local_addr()?;
        tracing::info!(%address, "http is listening");
        let access = http::Access::new(config.http.token.clone(), address);
        let operator = postgres::operator(&config);
        let state =
            http::Http::new(report.status(), report.metrics(), config.health.clone(), access, operator);
        let mut stopped = shutdown.clone();
        Some(tokio::spawn(http::serve(listener, state, async move {
            // Gone or true: either way the end.
            let _ = stopped.wait_for(|stop| *stop).await;
        })))
    } else {
        None
    };
    let watchdog = tokio::spawn(feed_watchdog(report.clone()));
    let whole = Limits { max_changes: config.batch.max_changes, max_bytes: config.batch.max_bytes };
    let app = App {
        owner: owner(),
        pace: Pace::new(whole),
        hold_limit: HoldLimit::new(config.held.limit),
        config,
        report,
        until,
        shutdown,
        discovered: Vec::new(),
        is_direct: AtomicBool::new(false),
        warned: Mutex::default(),
    };
    let finished = app.supervise().await;
    notify::stopping();
    watchdog.abort();
    if let Some(served) = served {
        served.abort();
    }
    finished
}

/// Tells two daemons apart, for as long as they run.
fn owner() -> String {
    let random = uuid::Uuid::new_v4().simple().to_string();
    random[..12].to_owned()
}

async fn feed_watchdog(report: Report) {
    let Some(interval) = notify::watchdog_interval() else { return };
    loop {
        tokio::time::sleep(interval / 2).await;
        if report.status().is_alive(Moment::now()) {
            notify::alive();
        }
    }
}

struct App {
    config: Config,
    report: Report,
    pace: Pace,
    hold_limit: HoldLimit,
    owner: String,
    until: Until,
    shutdown: watch::Receiver<bool>,
    /// Collections of a database that is copied whole, seen in the stream; they may be gone by now.
    discovered: Vec<Namespace>,
    /// There was no transaction pooler in between, and no session has ended with an error since.
    is_direct: AtomicBool,
    /// Warnings of the last inspection: each session inspects, and a change alone is worth a line.
    warned: Mutex<Vec<Line>>,
}

/// How one attempt at being the leader ended.
enum Attempt {
    Finished(Finish),
    Standby,
}

impl App {
    async fn supervise(mut self) -> anyhow::Result<Summary> {
        // The process does its part from here on, be it only to wait: a start must not time out because a
        // server is away.
        notify::ready();
        let started = Instant::now();
        let client = source::connect(self.config.mongodb.uri.expose(), "rowstream").await?;
        let mut pauses = pauses();
        let mut failing_since: Option<Instant> = None;
        let mut rebuilds = 0;
        while !*self.shutdown.borrow() {
            let began = Instant::now();
            let pause = match self.attempt(&client).await {
                Ok(Attempt::Finished(finish)) => {
                    self.count_held().await;
                    self.release().await;
                    return Ok(self.summary(finish == Finish::CaughtUp, started.elapsed()));
                }
                Ok(Attempt::Standby) => {
                    failing_since = None;
                    pauses = self::pauses();
                    STANDBY_LOOKS_EVERY
                }
                Err(error) => {
                    self.is_direct.store(false, Ordering::Relaxed);
                    let error = self.rebuilt_in_vain(error, &mut rebuilds);
                    if began.elapsed() > SOUND_AFTER {
                        failing_since = None;
                        rebuilds = 0;
                        pauses = self::pauses();
                    }
                    let since = *failing_since.get_or_insert_with(Instant::now);
                    self.failed(&error);
                    if self.gives_up(&error, since) {
                        return Err(error.into());
                    }
                    match error {
                        Error::Halt { .. } => HALTED_LOOKS_EVERY,
                        Error::Paused { .. } => STANDBY_LOOKS_EVERY,
                        Error::Discovered { namespace } => {
                            self.discovered.push(namespace);
                            continue;
                        }
                        Error::Fenced
                        | Error::Rebuild { .. }
                        | Error::Retry { .. }
                        | Error::TimedOut { .. } => pauses.next().unwrap_or(HALTED_LOOKS_EVERY),
                    }
                }
            };
            self.pause(pause).await;
        }
        // Stopped while it waited; the lease may still be ours from the session before.
        self.release().await;
        Ok(self.summary(false, started.elapsed()))
    }

    /// A plan that is made again and again, and fails each time at once, will not come right by itself.
    fn rebuilt_in_vain(&self, error: Error, rebuilds: &mut u32) -> Error {
        match error {
            Error::Rebuild { because } => {
                *rebuilds += 1;
                if *rebuilds < REBUILDS_IN_VAIN {
                    return error;
                }
                Error::halt(
                    format!("starting over does not help: {because}"),
                    "is a migration running, or something that grants columns again and again? does a trigger on a mapped table use something that does not exist?",
                )
            }
            other => other,
        }
    }

    /// A one-shot run ends with an error where a daemon would wait for somebody to act.
    fn gives_up(&self, error: &Error, failing_since: Instant) -> bool {
        self.until != Until::Stopped
            && match error {
                Error::Halt { .. } | Error::Paused { .. } => true,
                Error::Retry { .. } | Error::TimedOut { .. } => {
                    failing_since.elapsed() >= self.config.health.outage_failing
                }
                Error::Fenced | Error::Rebuild { .. } | Error::Discovered { .. } => false,
            }
    }

    /// The one place where the end of a session is logged.
    fn failed(&self, error: &Error) {
        let text = Error::chain(error);
        match error {
            Error::Halt { reason, hint } => {
                if self.report.halted(reason, hint) {
                    tracing::error!(event = "halted", severity = "critical", reason, hint, "halted");
                }
                return;
            }
            Error::Paused { .. } => {
                if self.report.halted(&text, Error::RESUME) {
                    tracing::warn!(event = "paused", severity = "warning", reason = text, "paused");
                }
                return;
            }
            Error::Retry { stage, .. } => {
                self.report.failed(stage, &text);
                tracing::warn!(event = "retry", severity = "warning", stage, error = text, "will try again");
            }
            Error::TimedOut { source } => {
                self.report.timed_out(source.tables(), &text);
                self.pace.timed_out();
                let at_once = self.pace.limits().max_changes;
                tracing::warn!(
                    event = "retry",
                    severity = "warning",
                    stage = "apply",
                    at_once,
                    error = text,
                    "took too long, will try again with less"
                );
            }
            Error::Fenced => {
                tracing::warn!(
                    event = "fenced",
                    severity = "warning",
                    "replaced by another leader or restored, loading the state again"
                )
            }
            Error::Rebuild { because } => tracing::info!(because, "starting over from the stored state"),
            Error::Discovered { namespace } => {
                tracing::info!(collection = %namespace, "a new collection came");
                return;
            }
        }
        self.report.restarting();
    }

    /// Sleeps, but wakes to stop; the loop is alive while it waits.
    async fn pause(&mut self, duration: Duration) {
        self.report.progressed();
        // An error means that the sender is gone, which is a stop as well.
        let _ = tokio::time::timeout(duration, self.shutdown.wait_for(|stop| *stop)).await;
        self.report.progressed();
    }

    async fn attempt(&self, client: &Client) -> Result<Attempt, Error> {
        let mut keeper = self.connect("connect to postgresql").await?;
        self.report.postgresql_up();
        if !self.is_direct.load(Ordering::Relaxed) {
            // Before the schema is made: a migration's lock is of its session.
            refuse_pooler(&self.config, &mut keeper).await?;
            self.is_direct.store(true, Ordering::Relaxed);
        }
        ensure_schema(&mut keeper).await?;
        // Before the lease is taken: a paused pipeline has no use for it.
        let paused = lease::paused_since(&mut keeper, &self.config.pipeline).await;
        if let Some(since) = paused.map_err(|error| of_state("look at the lease", error))? {
            return Err(Error::Paused { since });
        }
        let ttl = self.config.lease.ttl;
        FailPoint::TakeLease.reach().await?;
        let epoch = match lease::acquire(&mut keeper, &self.config.pipeline, &self.owner, ttl).await {
            Ok(Acquired::Leader(epoch)) => epoch,
            Ok(Acquired::Standby(holder)) => {
                self.report.standby(&holder.owner);
                notify::status("standing by");
                return Ok(Attempt::Standby);
            }
            Err(error) => return Err(of_state("take the lease", error)),
        };
        FailPoint::LeaseTaken.reach().await?;
        let mut stopped = self.shutdown.clone();
        let session = tokio::select! {
            session = self.session(client, keeper, epoch) => session?,
            error = self.keep_lease(epoch) => return Err(error),
            // A server that does not answer must not delay a stop.
            _ = stopped.wait_for(|stop| *stop) => return Ok(Attempt::Finished(Finish::Stopped)),
        };
        self.report.leader(epoch, &self.owner);
        self.report.running();
        notify::status("following");
        let (stop, stopped) = watch::channel(false);
        let wanted = match self.until {
            Until::Stopped => Some(Wanted::All),
            Until::CaughtUp => Some(Wanted::Resyncs),
            Until::Repaired => None,
        };
        let comparing = wanted.map(|wanted| {
            let scheduler = Scheduler {
                config: self.config.clone(),
                client: client.clone(),
                plan: Arc::clone(&session.plan),
                report: self.report.clone(),
                stop: stopped,
                wanted,
                failed: 0,
                interrupted: None,
            };
            tokio::spawn(scheduler.run())
        });
        let finished = session.run(self.shutdown.clone()).await.map(Attempt::Finished);
        stop.send_replace(true);
        if let Some(mut comparing) = comparing
            && tokio::time::timeout(COMPARING_ENDS_WITHIN, &mut comparing).await.is_err()
        {
            // Somebody takes its comparison up again once it has been silent for a minute.
            comparing.abort();
        }
        finished
    }

    /// Looking at hundreds of collections may take longer than the lease lasts.
    async fn keep_lease(&self, epoch: Epoch) -> Error {
        let keeping = async {
            let mut connection = self.connect("connect to postgresql").await?;
            loop {
                tokio::time::sleep(self.config.lease.ttl / 3).await;
                self.report.progressed();
                let kept = lease::heartbeat(&mut connection, &self.config.pipeline, epoch).await;
                if !kept.map_err(|error| of_state("keep the lease", error))? {
                    return Err(Error::Fenced);
                }
            }
        };
        let ended: Result<std::convert::Infallible, Error> = keeping.await;
        match ended {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn session(
        &self,
        client: &Client,
        mut keeper: sqlx::PgConnection,
        epoch: Epoch,
    ) -> Result<Session, Error> {
        let config = &self.config;
        let inspection = inspect(config, client, &mut keeper, Tables::Create, &self.discovered).await?;
        self.report.oplog(inspection.oplog);
        self.report.mongodb_up();
        inspection.warn(&mut self.warned.lock().unwrap_or_else(PoisonError::into_inner));
        let plan = inspection.into_plan()?;
        self.report.planned(&plan);
        let now = source::operation_time(client).await.map_err(inspect::unread)?;
        let mode = config.snapshot.mode;
        let loaded =
            pipeline::load(&mut keeper, &config.pipeline, epoch, &plan, mode, now, &self.pace).await?;
        self.report.loaded(&loaded);
        let (stream_connection, stream_process) = self.connect_writer("connect the stream's writer").await?;
        let (mut snapshot_connections, mut planner_connection) = (Vec::new(), None);
        let mut snapshot_processes = Vec::new();
        if !loaded.pending.is_empty() {
            let (planner, process) = self.connect_writer("connect the snapshot's planner").await?;
            planner_connection = Some(planner);
            snapshot_processes.push(process);
            for _ in 0..config.snapshot.workers {
                let (worker, process) = self.connect_writer("connect a snapshot worker").await?;
                snapshot_connections.push(worker);
                snapshot_processes.push(process);
            }
        }
        Ok(Session {
            client: client.clone(),
            plan: Arc::new(plan),
            pipeline: config.pipeline.as_str().into(),
            epoch,
            checkpoint: loaded.checkpoint,
            pending: loaded.pending,
            held: loaded.held,
            occupied: loaded.occupied,
            waits: loaded.waits,
            others: loaded.others,
            pace: self.pace.clone(),
            linger: config.batch.linger,
            after_loss: match config.on_history_lost {
                OnHistoryLost::Halt => AfterLoss::End,
                OnHistoryLost::Resync => AfterLoss::GoOn,
            },
            policy: HeldPolicy {
                keep_document: config.held.keep_document,
                max_document_bytes: config.held.max_document_bytes,
                backoff: Backoff {
                    initial: config.held.retry_initial,
                    max: config.held.retry_max,
                    waiting_limit: config.held.waiting_limit,
                },
            },
            limit: self.hold_limit.clone(),
            retention: config.held.retention,
            repairs_per_second: usize::try_from(config.reconcile.repairs_per_second).unwrap_or(usize::MAX),
            lease_ttl: config.lease.ttl,
            stream_connection,
            stream_process,
            snapshot_connections,
            planner_connection,
            snapshot_processes,
            keeper_connection: keeper,
            report: self.report.clone(),
            end: match self.until {
                Until::Stopped => End::Never,
                Until::CaughtUp => End::Resynced,
                Until::Repaired => End::CaughtUp,
            },
        })
    }

    async fn connect(&self, stage: &'static str) -> Result<sqlx::PgConnection, Error> {
        let name = lease::application_name(&self.config.pipeline, &self.owner);
        postgres::connect(&self.config.postgres, &name).await.map_err(|error| postgres::failed(stage, error))
    }

    /// With the server's process of the connection.
    async fn connect_writer(&self, stage: &'static str) -> Result<(sqlx::PgConnection, i32), Error> {
        let name = lease::application_name(&self.config.pipeline, &self.owner);
        let connected = postgres::connect_writer(&self.config.postgres, &name).await;
        let mut connection = connected.map_err(|error| postgres::failed(stage, error))?;
        let process = lease::process(&mut connection).await.map_err(|error| of_state(stage, error))?;
        Ok((connection, process))
    }

    /// What the last batches held is part of a one-shot run's verdict.
    async fn count_held(&self) {
        if self.until == Until::Stopped {
            return;
        }
        let counting = async {
            let mut connection = self.connect("count held changes").await?;
            held::counts(&mut connection, &self.config.pipeline)
                .await
                .map_err(|error| Error::retry("count held changes", error))
        };
        match counting.await {
            Ok(counts) => self.report.held_counted(&counts),
            Err(error) => tracing::warn!(
                event = "held_not_counted",
                severity = "warning",
                error = Error::chain(&error),
                "held changes are not counted"
            ),
        }
    }

    /// So that a standby takes over at once. If it does not work, the lease expires by itself.
    async fn release(&self) {
        let releasing = async {
            let mut connection = self.connect("release the lease").await?;
            lease::release_of(&mut connection, &self.config.pipeline, &self.owner)
                .await
                .map_err(|error| Error::retry("release the lease", error))
        };
        if let Ok(Err(error)) = tokio::time::timeout(Duration::from_secs(2), releasing).await {
            tracing::warn!(
                event = "lease_not_released",
                severity = "warning",
                error = Error::chain(&error),
                "could not release the lease"
            );
        }
    }

    fn summary(&self, caught_up: bool, took: Duration) -> Summary {
        Summary::new(&self.report.status().snapshot(Moment::now()), caught_up, took)
    }
}

fn pauses() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(Duration::from_secs(10))
        .without_max_times()
        .with_jitter()
        .build()
}

/// An error of the state, told by what could not be done if that may be tried again.
fn of_state(stage: &'static str, error: sqlx::Error) -> Error {
    match pipeline::state(error) {
        Error::Retry { source, .. } => Error::Retry { stage, source },
        other => other,
    }
}

/// A role that may create schemas needs no separate step; one that may not is told which.
async fn ensure_schema(connection: &mut sqlx::PgConnection) -> Result<(), Error> {
    let failed = |error| of_state("look at the schema rowstream", error);
    match state::schema_state(connection).await.map_err(failed)? {
        SchemaState::Current | SchemaState::Closed => {
            let lacking = state::lacking(connection).await.map_err(failed)?;
            if lacking.is_empty() {
                return Ok(());
            }
            Err(Error::halt(
                format!("the role of postgres.url lacks {} on the schema rowstream", lacking.join(", ")),
                "run `rowstream migrate` with --grant-to for this role, as the owner of the schema",
            ))
        }
        SchemaState::Newer => Err(Error::halt(
            "the schema rowstream was written by a newer version",
            "run that version or a later one; an older one could misread the state",
        )),
        SchemaState::Missing | SchemaState::Outdated => {
            state::migrate(connection).await.map_err(|error| {
                Error::halt(
                    Error::chain(&error),
                    "run `rowstream migrate` as a role that may create schemas, with --grant-to for the role of `run`",
                )
            })
        }
    }
}
