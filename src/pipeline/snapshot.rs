//! Copying what is there, beside the stream, in chunks that survive a restart.

use std::collections::VecDeque;
use std::sync::{Arc, MutexGuard, PoisonError};

use mongodb::Client;
use tokio::sync::{Mutex, Notify, RwLock, Semaphore};

use super::commit::{ChunkOutcome, Writer};
use super::fail_point::FailPoint;
use super::outstanding::{Outstanding, Registration, Settled};
use super::pace::Pace;
use super::plan::Plan;
use super::prepare::{SourceBatch, read};
use super::report::Report;
use super::{Error, SessionState};
use crate::domain::SourceIndex;
use crate::source::{self, Found};
use crate::state::chunk::{Chunk, Progress};

/// Hands out chunks, one source after the other.
#[derive(Debug)]
pub(super) struct Chunks {
    inner: Mutex<Inner>,
    /// Rung whenever a chunk is settled.
    settled: Notify,
}

#[derive(Debug)]
struct Inner {
    waiting: VecDeque<Pending>,
    current: Option<Current>,
    /// Of its own: who plans must not wait for somebody else's copy.
    planner: Writer,
}

/// A source whose snapshot is not done, and how far it came before.
#[derive(Debug)]
pub struct Pending {
    pub source: SourceIndex,
    pub planned: bool,
    pub progress: Progress,
}

#[derive(Debug)]
struct Current {
    source: SourceIndex,
    unfinished: VecDeque<Chunk>,
    /// Where the next chunk begins; `None` once every chunk is planned.
    next: Option<Chunk>,
    in_work: usize,
}

/// What was read of a chunk, registered before, to see where it ends.
struct First {
    registration: Registration,
    replies: Vec<Vec<Found>>,
}

enum Next {
    Work(SourceIndex, Chunk, Option<First>),
    /// Others still work at the last chunks of this source.
    Wait,
    Finished,
}

impl Chunks {
    pub(super) fn new(pending: Vec<Pending>, planner: Writer) -> Self {
        let inner = Inner { waiting: pending.into(), current: None, planner };
        Self { inner: Mutex::new(inner), settled: Notify::new() }
    }

    async fn settle(&self) {
        if let Some(current) = &mut self.inner.lock().await.current {
            current.in_work -= 1;
        }
        self.settled.notify_waiters();
    }
}

impl Current {
    fn new(pending: Pending) -> Self {
        let next = match (pending.planned, pending.progress.last) {
            (true, _) => None,
            (false, Some(last)) => Some(Chunk { number: last.number + 1, lower: last.upper, upper: None }),
            (false, None) => Some(Chunk::default()),
        };
        Self { source: pending.source, unfinished: pending.progress.unfinished.into(), next, in_work: 0 }
    }
}

/// The connections that copy; a chunk that was read takes one for its transaction.
#[derive(Debug)]
pub(super) struct Writers {
    idle: std::sync::Mutex<Vec<Writer>>,
    free: Semaphore,
    count: usize,
}

impl Writers {
    pub(super) fn new(writers: Vec<Writer>) -> Self {
        let count = writers.len();
        Self { idle: std::sync::Mutex::new(writers), free: Semaphore::new(count), count }
    }

    /// Chunks in work: half as many again, so that the next is read while all connections copy, and neither
    /// server waits for the other. More would only take memory.
    pub(super) fn lanes(&self) -> usize {
        self.count + self.count / 2
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Writer>> {
        // A list that is pushed to and popped from: a panic elsewhere leaves it whole.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn take(&self) -> Result<Writer, Error> {
        // Given back by `give_back` alone: a writer that failed is not used again.
        let permit = self.free.acquire().await.map_err(|error| Error::retry("session", error))?;
        permit.forget();
        self.idle().pop().ok_or(Error::Rebuild { because: "a snapshot's connection was lost" })
    }

    fn give_back(&self, writer: Writer) {
        self.idle().push(writer);
        self.free.add_permits(1);
    }
}

/// What every lane of a session shares.
#[derive(Debug)]
pub(super) struct Copying {
    pub client: Client,
    pub plan: Arc<Plan>,
    pub chunks: Chunks,
    pub writers: Writers,
    pub outstanding: Arc<Outstanding>,
    /// Chunks share it, the stream holds it alone: their transactions exclude each other.
    pub turn: Arc<RwLock<()>>,
    pub pace: Pace,
    pub report: Report,
}

/// One lane: takes chunks until there are none.
pub(super) async fn work(copying: &Copying, session: &SessionState) -> Result<(), Error> {
    loop {
        let ring = copying.chunks.settled.notified();
        tokio::pin!(ring);
        // Armed before looking, or a chunk that settles in between would not wake us.
        ring.as_mut().enable();
        match copying.next().await? {
            Next::Finished => return Ok(()),
            Next::Wait => ring.await,
            Next::Work(source, chunk, first) => {
                if session.is_stopping() {
                    return Ok(());
                }
                copying.copy(source, &chunk, first).await?;
                copying.chunks.settle().await;
            }
        }
    }
}

impl Copying {
    async fn next(&self) -> Result<Next, Error> {
        let mut inner = self.chunks.inner.lock().await;
        let Inner { waiting, current: of_current, planner } = &mut *inner;
        loop {
            let Some(current) = of_current else {
                let Some(pending) = waiting.pop_front() else { return Ok(Next::Finished) };
                let mapped = self.plan.of(pending.source);
                planner.start_snapshot(pending.source, mapped.documents_estimated).await?;
                self.report.snapshot_started(&self.plan, pending.source, pending.progress.documents as u64);
                *of_current = Some(Current::new(pending));
                continue;
            };
            if let Some(chunk) = current.unfinished.pop_front() {
                current.in_work += 1;
                return Ok(Next::Work(current.source, chunk, None));
            }
            if let Some(mut chunk) = current.next.take() {
                let first = self.read_next(current.source, &mut chunk).await?;
                planner.plan_chunk(current.source, &chunk, chunk.upper.is_none()).await?;
                current.next = chunk.upper.clone().map(|lower| Chunk {
                    number: chunk.number + 1,
                    lower: Some(lower),
                    upper: None,
                });
                current.in_work += 1;
                return Ok(Next::Work(current.source, chunk, Some(first)));
            }
            if current.in_work > 0 {
                return Ok(Next::Wait);
            }
            let source = current.source;
            if !planner.finish_snapshot(source).await? {
                // A chunk was taken away under us; the state knows better than we do.
                return Err(Error::Rebuild { because: "the chunks of a snapshot changed" });
            }
            *of_current = None;
            self.report.snapshot_done(&self.plan, source);
            planner.analyze(source).await?;
        }
    }

    /// Reads a chunk from where the one before ended, and with it where it ends itself.
    async fn read_next(&self, source: SourceIndex, chunk: &mut Chunk) -> Result<First, Error> {
        let registration = self.outstanding.register(source);
        FailPoint::ReadChunk.reach().await?;
        let mapped = self.plan.of(source);
        let (namespace, documents) = (&mapped.mapping.namespace, mapped.chunk_documents);
        let (lower, after) = (chunk.lower.as_ref(), registration.read_after);
        let read_next = source::read_next(&self.client, namespace, lower, documents, after).await;
        let (replies, upper) = read_next.map_err(read)?;
        chunk.upper = upper;
        Ok(First { registration, replies })
    }

    /// Reads and transforms a chunk between its bounds: while one reply is transformed, the next is on its way.
    async fn read(&self, source: SourceIndex, chunk: &Chunk) -> Result<(Registration, SourceBatch), Error> {
        let registration = self.outstanding.register(source);
        FailPoint::ReadChunk.reach().await?;
        let namespace = &self.plan.of(source).mapping.namespace;
        let (lower, upper) = (chunk.lower.as_ref(), chunk.upper.as_ref());
        let mut reading = source::read_chunk(&self.client, namespace, lower, upper, registration.read_after)
            .await
            .map_err(read)?;
        let mut batch = SourceBatch::new(source);
        let mut documents = reading.next().await.map_err(read)?;
        while let Some(reply) = documents {
            let (transformed, next) = tokio::join!(transform(&self.plan, batch, vec![reply]), reading.next());
            batch = transformed?;
            documents = next.map_err(read)?;
        }
        Ok((registration, batch))
    }

    async fn copy(&self, source: SourceIndex, chunk: &Chunk, mut first: Option<First>) -> Result<(), Error> {
        loop {
            let (registration, mut batch) = match first.take() {
                Some(First { registration, replies }) => {
                    let batch = transform(&self.plan, SourceBatch::new(source), replies).await?;
                    (registration, batch)
                }
                None => self.read(source, chunk).await?,
            };
            FailPoint::ChunkRead.reach().await?;
            let documents = (batch.documents.len() + batch.deletes.len() + batch.kept.len()) as u64;
            let mut writer = self.writers.take().await?;
            let turn = self.turn.read().await;
            match self.outstanding.settle(&registration) {
                // Read again: the collection under this name is another one now.
                Settled::Void => {
                    self.writers.give_back(writer);
                    continue;
                }
                Settled::Without(seen) => batch.leave_out(&seen),
            }
            batch.deletes.sort_by(|left, right| left.1.cmp(&right.1));
            let straight = self.report.copies_straight(source);
            let read_after = self.outstanding.last_handed();
            let outcome = writer.chunk(chunk.number, documents, &mut batch, straight, read_after);
            let outcome = outcome.await.inspect_err(|error| {
                if matches!(error, Error::TimedOut { .. }) {
                    self.pace.timed_out_with(documents as usize);
                }
            })?;
            drop(turn);
            self.writers.give_back(writer);
            return match outcome {
                ChunkOutcome::Committed(committed) => {
                    self.pace.committed();
                    self.report.chunk_committed(&batch, documents, &committed);
                    Ok(())
                }
                ChunkOutcome::Gone => {
                    Err(Error::Rebuild { because: "the collection was dropped while it was copied" })
                }
            };
        }
    }
}

/// Transforming takes tens of milliseconds of one core: not on a thread that serves others.
async fn transform(
    plan: &Arc<Plan>,
    mut batch: SourceBatch,
    replies: Vec<Vec<Found>>,
) -> Result<SourceBatch, Error> {
    let plan = Arc::clone(plan);
    let transformed = tokio::task::spawn_blocking(move || {
        for (id, document) in replies.into_iter().flatten() {
            batch.put(&plan, &id, document, None);
        }
        batch
    });
    transformed.await.map_err(|error| Error::retry("transform", error))
}
