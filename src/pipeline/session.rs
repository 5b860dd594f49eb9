//! One stretch of work under one epoch of the lease.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mongodb::Client;
use sqlx::PgConnection;
use tokio::sync::{Notify, RwLock, Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use super::Error;
use super::ahead::Ahead;
use super::batch::Gatherer;
use super::commit::{ForWhom, HeldPolicy, Writer, apply, state};
use super::foreseen::Foreseen;
use super::hold_limit::HoldLimit;
use super::holding::Holding;
use super::others::Others;
use super::outstanding::Outstanding;
use super::pace::Pace;
use super::plan::{Mapped, Plan};
use super::prepare::read;
use super::references::Waiting;
use super::repairing::Repairing;
use super::report::Report;
use super::snapshot::{Chunks, Copying, Pending, Writers, work};
use super::stream::{Committing, Reading};
use crate::domain::{ClusterTime, Key, SourceIndex};
use crate::state::checkpoint::Checkpoint;
use crate::state::lease::Epoch;
use crate::state::{held, lease, resync, row, touch, wait};
use crate::{sink, source};

/// Batches that may be ready while one commits. One keeps both sides busy; more only adds delay.
const PREPARED_BATCHES: usize = 1;

/// How often the lag is measured, held changes looked through, and a caught-up stop considered.
const TICK: Duration = Duration::from_secs(1);

/// Held changes retried in one tick, if a batch takes as many.
const RETRIES_AT_ONCE: usize = 500;

/// Documents whose wait is over that are read again at once.
const RELEASED_AT_ONCE: i64 = 5_000;

/// A document whose wait is over twice is not read more often than this.
const RELEASED_AGAIN: Duration = Duration::from_millis(200);

/// A retry that was handed over and has not been committed is not handed over again before this.
const RETRY_IN_FLIGHT: Duration = Duration::from_secs(30);

/// How often the beginning of the oplog is looked at.
const OPLOG_MEASURED_EVERY: Duration = Duration::from_secs(10);

/// Resolved entries older than the retention are removed this often.
const PURGE_EVERY: Duration = Duration::from_secs(600);

/// Everything a session works with. Whoever builds it holds the lease at `epoch` and has loaded
/// `checkpoint` and `pending` after taking it.
#[derive(Debug)]
pub struct Session {
    pub client: Client,
    pub plan: Arc<Plan>,
    pub pipeline: Arc<str>,
    pub epoch: Epoch,
    pub checkpoint: Checkpoint,
    pub pending: Vec<Pending>,
    /// Sources with held changes.
    pub held: Vec<SourceIndex>,
    /// Sources for a value of whose rows somebody is held.
    pub occupied: Vec<SourceIndex>,
    pub waits: wait::Overview,
    pub others: Others,
    pub pace: Pace,
    pub linger: Duration,
    pub after_loss: source::AfterLoss,
    pub policy: HeldPolicy,
    pub limit: HoldLimit,
    pub retention: Duration,
    /// Documents that a repair asked for, read again in a second.
    pub repairs_per_second: usize,
    pub lease_ttl: Duration,
    /// For the batches of the stream.
    pub stream_connection: PgConnection,
    /// The server's process of that connection.
    pub stream_process: i32,
    /// One for each snapshot worker.
    pub snapshot_connections: Vec<PgConnection>,
    /// Writes down which chunks there are; only with snapshot workers.
    pub planner_connection: Option<PgConnection>,
    /// The server's processes of these.
    pub snapshot_processes: Vec<i32>,
    /// For the heartbeat and the look through held changes.
    pub keeper_connection: PgConnection,
    pub report: Report,
    pub end: End,
}

/// When a session ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Never,
    /// Once everything that had happened by then is copied and applied, and what a repair asked for is read.
    CaughtUp,
    /// Then, and once no source is due for a re-sync.
    Resynced,
}

/// How a session ends when nothing went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    Stopped,
    CaughtUp,
}

/// Whether the session is to stop, for all its tasks.
#[derive(Debug, Clone)]
pub struct SessionState {
    stop: watch::Sender<bool>,
}

impl SessionState {
    fn new() -> Self {
        Self { stop: watch::Sender::new(false) }
    }

    fn stop(&self) {
        self.stop.send_replace(true);
    }

    pub fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }

    pub async fn stopping(&self) {
        // The sender lives in self, so waiting cannot fail.
        let _ = self.stop.subscribe().wait_for(|stop| *stop).await;
    }
}

enum Done {
    Stream,
    Snapshot,
    Keeper(Finish),
}

impl Session {
    /// Works until `shutdown` is true, until caught up if that was asked for, or until an error.
    /// Everything in flight at a graceful end is committed.
    pub async fn run(self, shutdown: watch::Receiver<bool>) -> Result<Finish, Error> {
        let session = SessionState::new();
        let start = self.checkpoint.position.clone();
        let outstanding = Arc::new(Outstanding::new(start.time));
        let turn = Arc::new(RwLock::new(()));
        let committer = Arc::new(Semaphore::new(1));
        let for_whom = ForWhom {
            plan: Arc::clone(&self.plan),
            pipeline: Arc::clone(&self.pipeline),
            epoch: self.epoch,
            policy: self.policy,
            limit: self.limit,
            holding: Arc::new(Holding::new(self.plan.mapped.len(), &self.held, &self.occupied)),
            pace: self.pace.clone(),
            client: self.client.clone(),
            waiting: Arc::new(Waiting::new(&self.plan, &self.waits)),
            woken: Arc::new(Notify::new()),
            repairing: Arc::default(),
        };
        let writer = |connection| Writer::new(connection, for_whom.clone());
        // A server may take longer for an answer than a leader may for its heartbeat.
        let (budget, patience) = (self.pace.whole().max_bytes, self.lease_ttl * 3);
        let manner = source::Manner { budget, after_loss: self.after_loss, patience };
        let replies = source::open(&self.client, self.plan.scope.clone(), start, manner);
        let mut tasks: JoinSet<Result<Done, Error>> = JoinSet::new();
        tasks.spawn(follow(self.report.clone(), replies.state()));
        let (touch, touches) = mpsc::channel(1);
        let (prepared, to_commit) = mpsc::channel(PREPARED_BATCHES);

        let reading = Reading {
            client: self.client.clone(),
            plan: Arc::clone(&self.plan),
            gatherer: Gatherer::new(self.pace.whole(), self.plan.routes()),
            pace: self.pace.clone(),
            linger: self.linger,
            committer: Arc::clone(&committer),
            outstanding: Arc::clone(&outstanding),
            report: self.report.clone(),
            ahead: Ahead::default(),
            foreseen: Foreseen::new(&self.plan, &self.client, Arc::clone(&for_whom.holding)),
            others: self.others,
            is_history_lost: false,
        };
        let committing = Committing {
            writer: writer(self.stream_connection),
            seq: self.checkpoint.seq,
            turn: Arc::clone(&turn),
            busy: committer,
            pace: self.pace.clone(),
            report: self.report.clone(),
        };
        let reading_session = session.clone();
        tasks.spawn(async move {
            let reading = reading.run(replies, touches, prepared, &reading_session);
            let (stopped, ()) = tokio::try_join!(reading, committing.run(to_commit))?;
            // What came before the stop is committed now.
            stopped.map_or(Ok(Done::Stream), Err)
        });

        let mut copying_lanes = 0;
        let mut connections_of_copying = None;
        if let Some(planner) = self.planner_connection {
            let copying = Arc::new(Copying {
                client: self.client.clone(),
                plan: Arc::clone(&self.plan),
                chunks: Chunks::new(self.pending, writer(planner)),
                writers: Writers::new(self.snapshot_connections.into_iter().map(writer).collect()),
                outstanding,
                turn,
                pace: self.pace.clone(),
                report: self.report.clone(),
            });
            copying_lanes = copying.writers.lanes();
            for _ in 0..copying_lanes {
                let (copying, session) = (Arc::clone(&copying), session.clone());
                tasks.spawn(async move { work(&copying, &session).await.map(|()| Done::Snapshot) });
            }
            connections_of_copying = Some(copying);
        }

        let (snapshots_done, snapshots) = watch::channel(copying_lanes == 0);
        let keeper = Keeper {
            client: self.client,
            plan: self.plan,
            pipeline: self.pipeline,
            epoch: self.epoch,
            connection: self.keeper_connection,
            stream_process: self.stream_process,
            snapshot_processes: self.snapshot_processes,
            snapshots_done: snapshots.clone(),
            lease_ttl: self.lease_ttl,
            retention: self.retention,
            pace: self.pace,
            report: self.report,
            touch,
            woken: Arc::clone(&for_whom.woken),
            repairing: Arc::clone(&for_whom.repairing),
            repairs_per_second: self.repairs_per_second,
            in_flight: HashMap::new(),
            woken_in_flight: HashMap::new(),
            end: self.end,
        };
        let target = (self.end != End::Never).then_some(snapshots);
        tasks.spawn(async move { keeper.run(shutdown, target).await.map(Done::Keeper) });

        let mut finish = Finish::Stopped;
        while let Some(task) = tasks.join_next().await {
            match task.map_err(|error| Error::retry("session", error))?? {
                Done::Stream => return Ok(finish),
                Done::Snapshot => {
                    copying_lanes -= 1;
                    if copying_lanes == 0 {
                        snapshots_done.send_replace(true);
                        // ⚠ After the word: the keeper takes those that are gone before it for lost.
                        drop(connections_of_copying.take());
                    }
                }
                Done::Keeper(how) => {
                    finish = how;
                    session.stop();
                }
            }
        }
        Ok(finish)
    }
}

/// Tells what the stream's task says of itself, for as long as the session lasts.
async fn follow(report: Report, mut state: watch::Receiver<source::StreamState>) -> Result<Done, Error> {
    loop {
        report.stream_state(&state.borrow_and_update().clone());
        if state.changed().await.is_err() {
            // The stream's own last words come by the way of its replies.
            std::future::pending::<()>().await;
        }
    }
}

/// Keeps the lease, measures the lag, brings held changes back, and says when to stop.
#[derive(Debug)]
struct Keeper {
    client: Client,
    plan: Arc<Plan>,
    pipeline: Arc<str>,
    epoch: Epoch,
    connection: PgConnection,
    stream_process: i32,
    snapshot_processes: Vec<i32>,
    snapshots_done: watch::Receiver<bool>,
    lease_ttl: Duration,
    retention: Duration,
    pace: Pace,
    report: Report,
    touch: mpsc::Sender<Vec<Key>>,
    /// When each was due, and when it was handed over.
    in_flight: HashMap<Key, (i64, Instant)>,
    woken: Arc<Notify>,
    repairing: Arc<Repairing>,
    repairs_per_second: usize,
    /// Those whose wait is over: since when, and when each was handed over.
    woken_in_flight: HashMap<Key, (i64, Instant)>,
    end: End,
}

/// Documents that are to be read again.
#[derive(Debug)]
struct Due {
    /// With when each became due.
    since: Vec<(Key, i64)>,
    /// Whose wait is over, likewise.
    woken: Vec<(Key, i64)>,
}

impl Keeper {
    async fn run(
        mut self,
        mut shutdown: watch::Receiver<bool>,
        until_caught_up: Option<watch::Receiver<bool>>,
    ) -> Result<Finish, Error> {
        let mut tick = tokio::time::interval(TICK.min(self.lease_ttl / 3));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut purged: Option<Instant> = None;
        let mut measured: Option<Instant> = None;
        // The time everything must have been applied to; asked once the snapshots are done.
        let mut target: Option<ClusterTime> = None;
        loop {
            let woken = tokio::select! {
                _ = shutdown.wait_for(|stop| *stop) => return Ok(Finish::Stopped),
                _ = tick.tick() => false,
                () = self.woken.notified(), if !self.touch_is_busy() => true,
            };
            if woken {
                let due = Due { since: Vec::new(), woken: self.released().await? };
                self.hand_over(due);
                continue;
            }
            // The loop lives, whatever the servers do.
            self.report.progressed();
            tokio::select! {
                _ = shutdown.wait_for(|stop| *stop) => return Ok(Finish::Stopped),
                kept = tokio::time::timeout(self.lease_ttl, self.keep(&mut purged, &mut measured)) => match kept {
                    Ok(kept) => kept?,
                    // The lease has run out meanwhile. A server that is gone without a word would keep its
                    // connections waiting for many minutes; ending the session drops them.
                    Err(silent) => return Err(Error::retry("keep the lease", silent)),
                },
            }
            let Some(snapshots) = &until_caught_up else { continue };
            if !*snapshots.borrow() {
                continue;
            }
            match target {
                None => target = Some(source::operation_time(&self.client).await.map_err(read)?),
                Some(time) if self.report.applied() >= time && !self.is_repairing().await? => {
                    return Ok(Finish::CaughtUp);
                }
                Some(_) => {}
            }
        }
    }

    /// What is due at every tick.
    async fn keep(
        &mut self,
        purged: &mut Option<Instant>,
        measured: &mut Option<Instant>,
    ) -> Result<(), Error> {
        if !lease::heartbeat(&mut self.connection, &self.pipeline, self.epoch).await.map_err(state)? {
            return Err(Error::Fenced);
        }
        if let Some(since) = lease::paused_since(&mut self.connection, &self.pipeline).await.map_err(state)? {
            return Err(Error::Paused { since });
        }
        self.connections_live().await?;
        self.measure().await;
        if measured.is_none_or(|at| at.elapsed() >= OPLOG_MEASURED_EVERY) {
            // Its beginning moves: what was ample at the start may be gone hours later.
            if let Ok(window) = tokio::time::timeout(TICK, source::oplog_window(&self.client)).await {
                self.report.oplog(window);
            }
            *measured = Some(Instant::now());
        }
        let mut due = Due { since: self.held().await?, woken: self.released().await? };
        due.since.extend(self.sharing().await?);
        due.since.extend(self.repairs().await?);
        self.hand_over(due);
        if purged.is_none_or(|at| at.elapsed() >= PURGE_EVERY) {
            held::purge(&mut self.connection, &self.pipeline, self.retention).await.map_err(state)?;
            *purged = Some(Instant::now());
        }
        Ok(())
    }

    /// ⚠ The end of the server's session is not heard on a connection that a firewall has forgotten: whoever writes on
    /// it would wait for many minutes, with the turn of all others in hand.
    async fn connections_live(&mut self) -> Result<(), Error> {
        let mut processes = vec![self.stream_process];
        if !*self.snapshots_done.borrow() {
            processes.extend(&self.snapshot_processes);
        }
        let served = lease::served(&mut self.connection, &processes).await.map_err(state)?;
        let lost = processes.into_iter().find(|process| !served.contains(process));
        let whose = match lost {
            None => return Ok(()),
            Some(process) if process == self.stream_process => "the stream's",
            // Copied meanwhile.
            Some(_) if *self.snapshots_done.borrow() => return Ok(()),
            Some(_) => "a snapshot's",
        };
        let gone = std::io::Error::other(format!("postgresql has ended the session of {whose} connection"));
        Err(Error::retry("write", gone))
    }

    /// A MongoDB that does not answer is told by the stream's own state; here it only means no figure.
    async fn measure(&self) {
        match tokio::time::timeout(TICK, source::operation_time(&self.client)).await {
            Ok(Ok(time)) => self.report.server_time(time),
            Ok(Err(error)) => self.report.mongodb_failed(&Error::chain(&error)),
            Err(_) => self.report.mongodb_failed("no answer within a second"),
        }
    }

    fn touch_is_busy(&self) -> bool {
        self.touch.capacity() == 0
    }

    /// Documents that waited for a row which is there now.
    async fn released(&mut self) -> Result<Vec<(Key, i64)>, Error> {
        if !self.plan.has_references() {
            return Ok(Vec::new());
        }
        let sources: Vec<&str> =
            self.plan.mapped.iter().map(|mapped| mapped.mapping.source.as_str()).collect();
        let due = wait::due(&mut self.connection, &self.pipeline, &sources, RELEASED_AT_ONCE);
        let due = due.await.map_err(state)?;
        self.woken_in_flight.retain(|_, (_, since)| since.elapsed() < RETRY_IN_FLIGHT);
        let is_new = |(key, due_at): &(Key, i64)| match self.woken_in_flight.get(key) {
            // Due again, for another reason.
            Some((before, since)) => before != due_at && since.elapsed() >= RELEASED_AGAIN,
            None => true,
        };
        Ok(due
            .into_iter()
            .filter_map(|due| Some((Key { source: self.plan.source(&due.source)?, id: due.id }, due.due_at)))
            .filter(is_new)
            .collect())
    }

    /// What they wait for may be a change of their table that no write notices: a label of an enum.
    async fn catalog_is_the_same(&mut self, due: &[(Key, i64)]) -> Result<(), Error> {
        let mut sources: Vec<SourceIndex> = due.iter().map(|(key, _)| key.source).collect();
        sources.sort_unstable();
        sources.dedup();
        for source in sources {
            let mapping = &self.plan.of(source).mapping;
            let present = sink::fingerprint(&mut self.connection, &mapping.table).await.map_err(apply)?;
            if present.as_deref() != Some(mapping.fingerprint.as_str()) {
                return Err(Error::Rebuild { because: "a table with held changes has changed" });
            }
        }
        Ok(())
    }

    /// Documents whose turn it is to write a row that several share.
    async fn sharing(&mut self) -> Result<Vec<(Key, i64)>, Error> {
        let shares = |mapped: &&Mapped| mapped.mapping.key.shared;
        let sources: Vec<&str> =
            self.plan.mapped.iter().filter(shares).map(|mapped| mapped.mapping.source.as_str()).collect();
        if sources.is_empty() {
            return Ok(Vec::new());
        }
        let touched = row::touched(&mut self.connection, &self.pipeline, &sources, RETRIES_AT_ONCE as i64);
        Ok(touched
            .await
            .map_err(state)?
            .into_iter()
            .filter_map(|found| {
                Some((Key { source: self.plan.source(&found.source)?, id: found.id }, found.touched_at))
            })
            .collect())
    }

    /// Documents that a repair wants to be read again.
    async fn repairs(&mut self) -> Result<Vec<(Key, i64)>, Error> {
        let limit = self.repairs_per_second as i64;
        let plan = Arc::clone(&self.plan);
        let sources = plan.names();
        let touches = touch::due(&mut self.connection, &self.pipeline, &sources, limit);
        let due: Vec<(Key, i64)> = touches
            .await
            .map_err(state)?
            .into_iter()
            .filter_map(|touch| {
                Some((Key { source: self.plan.source(&touch.source)?, id: touch.id }, touch.since))
            })
            .collect();
        // Whoever commits one of them from now on takes its request back.
        self.repairing.wanted(!due.is_empty());
        self.report.repaired(self.repairing.take_done());
        Ok(due)
    }

    async fn is_repairing(&mut self) -> Result<bool, Error> {
        let plan = Arc::clone(&self.plan);
        let sources = plan.names();
        let count = touch::count(&mut self.connection, &self.pipeline, &sources).await.map_err(state)?;
        if count > 0 || self.end != End::Resynced {
            return Ok(count > 0);
        }
        let due = resync::due(&mut self.connection, &self.pipeline, &sources).await.map_err(state)?;
        Ok(!due.is_empty())
    }

    /// Each once, until it is committed or was asked for again. All kinds go together: one that always has
    /// something would keep the others from their turn.
    fn hand_over(&mut self, due: Due) {
        let new =
            |(key, due_at): &(Key, i64)| self.in_flight.get(key).is_none_or(|(before, _)| before != due_at);
        let since: Vec<(Key, i64)> = due.since.into_iter().filter(new).collect();
        let keys: Vec<Key> = since.iter().chain(&due.woken).map(|(key, _)| key.clone()).collect();
        // A pipeline that is busy gets them at the next tick.
        if keys.is_empty() || self.touch.try_send(keys).is_err() {
            return;
        }
        let now = Instant::now();
        self.in_flight.extend(since.into_iter().map(|(key, due_at)| (key, (due_at, now))));
        self.woken_in_flight.extend(due.woken.into_iter().map(|(key, due_at)| (key, (due_at, now))));
    }

    /// Held changes whose next attempt is due.
    async fn held(&mut self) -> Result<Vec<(Key, i64)>, Error> {
        let counts = held::counts(&mut self.connection, &self.pipeline).await.map_err(state)?;
        let open = counts.iter().any(|count| count.state != "resolved");
        self.report.held_counted(&counts);
        self.in_flight.retain(|_, (_, since)| since.elapsed() < RETRY_IN_FLIGHT);
        if !open {
            return Ok(Vec::new());
        }
        // Entries of sources that are not mapped now would fill the limit and keep the others waiting.
        let sources: Vec<&str> =
            self.plan.mapped.iter().map(|mapped| mapped.mapping.source.as_str()).collect();
        let at_once = RETRIES_AT_ONCE.min(self.pace.limits().max_changes);
        let due = held::due(&mut self.connection, &self.pipeline, &sources, at_once as i64);
        let due = due.await.map_err(state)?;
        let due: Vec<(Key, i64)> = due
            .into_iter()
            // A source that is no longer mapped keeps its entries; nobody can apply them now.
            .filter_map(|due| Some((Key { source: self.plan.source(&due.source)?, id: due.id }, due.due_at)))
            .collect();
        if !due.is_empty() {
            self.catalog_is_the_same(&due).await?;
        }
        Ok(due)
    }
}
