//! The stream's own path through the pipeline: replies become batches, batches become transactions.
//! Two tasks with one batch between them: while one commits, the next is read and transformed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use mongodb::Client;
use tokio::sync::{RwLock, Semaphore, mpsc};
use uuid::Uuid;

use super::ahead::{Ahead, Place, look_up};
use super::batch::{Gatherer, Stop};
use super::commit::Writer;
use super::fail_point::FailPoint;
use super::foreseen::Foreseen;
use super::others::Others;
use super::outstanding::Outstanding;
use super::pace::Pace;
use super::plan::Plan;
use super::prepare::{Prepared, prepare, read};
use super::report::Report;
use super::{Error, SessionState};
use crate::domain::{Document, Key, SourceIndex};
use crate::source::{self, Continuity, EventKind, Reply};

/// How often the position of an idle stream is written down. Often enough that its token never comes
/// near the end of the oplog; rarely enough that an idle pipeline writes next to nothing.
const IDLE_CHECKPOINT_EVERY: Duration = Duration::from_secs(5);

/// Gathers, looks up, transforms.
#[derive(Debug)]
pub(super) struct Reading {
    pub client: Client,
    pub plan: Arc<Plan>,
    pub gatherer: Gatherer,
    pub pace: Pace,
    pub linger: Duration,
    /// Free while nothing is being committed.
    pub committer: Arc<Semaphore>,
    pub outstanding: Arc<Outstanding>,
    pub report: Report,
    pub ahead: Ahead,
    pub foreseen: Foreseen,
    pub others: Others,
    /// Everything is compared anyway.
    pub is_history_lost: bool,
}

type LookingUp = BoxFuture<'static, Result<Vec<(Place, Document)>, Error>>;

impl Reading {
    /// Ends when `session` stops, or with the reason why the stream cannot be followed further: everything
    /// before has been handed on by then, and is still to be committed. An error ends both at once.
    pub(super) async fn run(
        mut self,
        mut replies: source::Stream,
        mut touches: mpsc::Receiver<Vec<Key>>,
        prepared: mpsc::Sender<Prepared>,
        session: &SessionState,
    ) -> Result<Option<Error>, Error> {
        let mut waiting_since: Option<Instant> = None;
        let mut looking_up: Option<LookingUp> = None;
        loop {
            self.gatherer.limit(self.pace.limits());
            if let Some(stop) = self.gatherer.stopped() {
                return Ok(Some(self.stopped(stop)));
            }
            if self.gatherer.has_changes() {
                waiting_since.get_or_insert_with(Instant::now);
            } else {
                waiting_since = None;
            }
            let due = self.gatherer.closed()
                && (self.gatherer.has_changes() || self.gatherer.has_position())
                && (self.gatherer.is_full()
                    || waiting_since.is_none_or(|since| since.elapsed() >= self.linger));
            if looking_up.is_none() {
                looking_up = self.look_ahead();
            }
            let linger_over = async {
                match waiting_since {
                    Some(since) if !due => tokio::time::sleep_until((since + self.linger).into()).await,
                    _ => std::future::pending().await,
                }
            };
            // A full batch is prepared while another one commits. One that is not full had better grow until
            // then: prepared too early, it would keep what comes next waiting for two commits instead of one.
            let wait_for_idle = !self.gatherer.is_full();
            let committer = Arc::clone(&self.committer);
            let hand_over = async {
                // First this: by then the batch before is in the committer's hands, and it is busy.
                let permit = prepared.reserve().await;
                if wait_for_idle {
                    // Never closed, and given back at once.
                    drop(committer.acquire().await);
                }
                permit
            };
            let is_ready = due && looking_up.is_none();
            let looked_up = async {
                match &mut looking_up {
                    Some(looking_up) => looking_up.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = session.stopping() => {
                    if self.gatherer.has_changes() && self.gatherer.closed() {
                        let next = self.prepare().await?;
                        // The receiver is gone only when the session is over anyway.
                        let _ = prepared.send(next).await;
                    }
                    return Ok(None);
                }
                documents = looked_up => {
                    looking_up = None;
                    self.ahead.came(documents?);
                }
                permit = hand_over, if is_ready => {
                    let Ok(permit) = permit else { return Ok(None) };
                    if self.drain(&mut replies)? && !self.gatherer.closed() {
                        continue;
                    }
                    permit.send(self.prepare().await?);
                    waiting_since = None;
                }
                // Before the replies: in a backlog there is always one, and touches are few.
                Some(keys) = touches.recv(), if !self.gatherer.is_full() => self.touch(keys),
                reply = replies.next(), if !self.gatherer.is_full() => match reply {
                    Some(reply) => self.take(reply)?,
                    None => return Err(Error::halt("the change stream ended without a reason", "see the log")),
                },
                () = linger_over => {}
            }
        }
    }

    /// While the batch before is being committed, what the next one needs can be read. A full one is read as one, and
    /// so is one far behind: what is read of it then need not be read again.
    fn look_ahead(&mut self) -> Option<LookingUp> {
        if self.committer.available_permits() > 0 || self.gatherer.is_full() {
            return None;
        }
        if self.gatherer.last_time().is_some_and(|last| self.foreseen.is_behind(last)) {
            return None;
        }
        let plan = Arc::clone(&self.plan);
        let places = self.gatherer.touched().map(|key| (plan.of(key.source).collection, key.id.clone()));
        let places = self.ahead.wanted(places);
        if places.is_empty() {
            return None;
        }
        let (client, now) = (self.client.clone(), self.outstanding.last_handed());
        Some(async move { look_up(&client, &plan, places, now).await }.boxed())
    }

    /// Takes what is there already: a larger batch costs less per change. Says whether anything came.
    fn drain(&mut self, replies: &mut source::Stream) -> Result<bool, Error> {
        let mut came = false;
        while !self.gatherer.is_full()
            && let Some(Some(reply)) = replies.next().now_or_never()
        {
            self.take(reply)?;
            came = true;
        }
        Ok(came)
    }

    fn take(&mut self, reply: Result<Reply, source::Error>) -> Result<(), Error> {
        let reply = reply.map_err(read)?;
        // Before anything else: chunks that are read from now on must not undo what this reply brings. The
        // time first: a chunk that is registered in between is read after it, or is told of the keys.
        self.outstanding.handed(reply.time);
        for event in &reply.events {
            let sources: Vec<SourceIndex> = self.gatherer.sources(event).collect();
            for source in sources {
                match &event.kind {
                    EventKind::Document { id, .. } => {
                        self.outstanding.saw(source, id);
                        self.ahead.changed(self.plan.of(source).collection, id);
                    }
                    _ => {
                        self.outstanding.void(source);
                        self.ahead.forget();
                    }
                }
            }
        }
        self.foreseen.answered(reply.operation_time, reply.opens_cursor);
        self.joined(reply.continuity);
        self.report.reply_read(&self.plan, &reply);
        self.gatherer.offer(reply);
        self.report.queue_measured(self.gatherer.bytes());
        Ok(())
    }

    /// Where changes may be missing, nothing that is there can be relied on.
    fn joined(&mut self, continuity: Continuity) {
        let because = match continuity {
            Continuity::Unbroken => return,
            Continuity::TokenNotFound => {
                "the resume token is not in the oplog; mongodb may have been restored"
            }
            Continuity::HistoryLost => {
                "the position has left the oplog or is of another cluster; on_history_lost says to go on from now"
            }
        };
        tracing::error!(
            event = "history_lost",
            severity = "error",
            because,
            "changes may be missing: every row is compared with its document"
        );
        self.is_history_lost = true;
        self.gatherer.skipped();
    }

    fn tell_others(&self, others: &[(SourceIndex, Uuid)]) {
        if others.is_empty() || self.is_history_lost {
            return;
        }
        let names: Vec<&str> =
            others.iter().map(|(source, _)| self.plan.of(*source).mapping.source.as_str()).collect();
        tracing::error!(
            event = "history_lost",
            severity = "error",
            sources = names.join(", "),
            because = "collections are others than those that were followed; mongodb may have been restored",
            "changes may be missing: every row is compared with its document"
        );
    }

    fn touch(&mut self, keys: Vec<Key>) {
        for key in keys {
            self.outstanding.saw(key.source, &key.id);
            self.ahead.changed(self.plan.of(key.source).collection, &key.id);
            // An update that joins it in the batch must not take its place and then be passed over.
            self.foreseen.touched(&key);
            self.gatherer.touch(key);
        }
    }

    async fn prepare(&mut self) -> Result<Prepared, Error> {
        let mut batch = self.gatherer.take();
        let position = batch.position.as_ref().map(|position| position.time);
        batch.others = self.others.settled(&batch.ended, position);
        self.tell_others(&batch.others);
        let spared = self.foreseen.spare(&mut batch);
        let found = self.ahead.take();
        let is_found = |key: &Key| found.contains_key(&(self.plan.of(key.source).collection, key.id.clone()));
        self.foreseen.look_up(&batch, is_found, &self.outstanding);
        FailPoint::LookUp.reach().await?;
        let prepared =
            prepare(&self.client, &self.plan, batch, found, self.outstanding.last_handed()).await?;
        Ok(Prepared { spared, ..prepared })
    }

    fn stopped(&self, stop: &Stop) -> Error {
        match stop {
            Stop::Discovered(namespace) => Error::Discovered { namespace: namespace.clone() },
            Stop::Dropped(source) => {
                let mapping = &self.plan.of(*source).mapping;
                Error::halt(
                    format!(
                        "collection {} of mapping {} was dropped or renamed",
                        mapping.namespace, mapping.source
                    ),
                    "its rows are as they were; set on_drop: delete to let them go with it, or take the mapping out",
                )
            }
        }
    }
}

/// Commits, one batch after the other.
#[derive(Debug)]
pub(super) struct Committing {
    pub writer: Writer,
    /// Number of the last commit.
    pub seq: i64,
    /// Chunks share it, the stream holds it alone: their transactions exclude each other.
    pub turn: Arc<RwLock<()>>,
    /// Taken while a batch is being committed.
    pub busy: Arc<Semaphore>,
    pub pace: Pace,
    pub report: Report,
}

impl Committing {
    /// Ends when the sender is gone and everything sent is committed, or on an error.
    pub(super) async fn run(mut self, mut prepared: mpsc::Receiver<Prepared>) -> Result<(), Error> {
        let mut committed_at: Option<Instant> = None;
        while let Some(mut batch) = prepared.recv().await {
            let recently = committed_at.is_some_and(|at| at.elapsed() < IDLE_CHECKPOINT_EVERY);
            if batch.is_empty() && batch.spared == 0 && recently {
                // Everything before is committed, nothing came since: as good as written down.
                self.report.idle(&batch);
                continue;
            }
            let rebuild = !batch.replaced.is_empty();
            let busy = Arc::clone(&self.busy);
            let _busy = busy.acquire().await;
            let turn = self.turn.write().await;
            let changes = batch.changes();
            let committed = self.writer.batch(&mut batch, self.seq).await.inspect_err(|error| {
                if matches!(error, Error::TimedOut { .. }) {
                    self.pace.timed_out_with(changes);
                }
            })?;
            drop(turn);
            if !batch.is_empty() {
                self.pace.committed();
            }
            if batch.position.is_some() {
                self.seq += 1;
                // What was only read again moves no position: it must not keep an idle one from being stored.
                committed_at = Some(Instant::now());
            }
            self.report.batch_committed(&batch, &committed, self.seq);
            if rebuild {
                return Err(Error::Rebuild { because: "another collection took a mapped name" });
            }
        }
        Ok(())
    }
}
