//! Copying what is there, beside the stream, in chunks that survive a restart.

use std::collections::VecDeque;
use std::sync::Arc;

use mongodb::Client;
use tokio::sync::{Mutex, Notify, RwLock};

use super::commit::{ChunkOutcome, Writer};
use super::fail_point::FailPoint;
use super::outstanding::{Outstanding, Registration, Settled};
use super::pace::Pace;
use super::plan::Plan;
use super::prepare::{SourceBatch, read};
use super::report::Report;
use super::{Error, SessionState};
use crate::domain::{CanonicalId, Document, SourceIndex};
use crate::source;
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

enum Next {
    Work(SourceIndex, Chunk),
    /// Others still work at the last chunks of this source.
    Wait,
    Finished,
}

impl Chunks {
    pub(super) fn new(pending: Vec<Pending>) -> Self {
        Self { inner: Mutex::new(Inner { waiting: pending.into(), current: None }), settled: Notify::new() }
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

/// What every worker of a session shares.
#[derive(Debug)]
pub(super) struct Copying {
    pub client: Client,
    pub plan: Arc<Plan>,
    pub chunks: Chunks,
    pub outstanding: Arc<Outstanding>,
    /// Chunks share it, the stream holds it alone: their transactions exclude each other.
    pub turn: Arc<RwLock<()>>,
    pub pace: Pace,
    pub report: Report,
}

/// One worker: takes chunks until there are none.
pub(super) async fn work(copying: &Copying, mut writer: Writer, session: &SessionState) -> Result<(), Error> {
    loop {
        let ring = copying.chunks.settled.notified();
        tokio::pin!(ring);
        // Armed before looking, or a chunk that settles in between would not wake us.
        ring.as_mut().enable();
        match copying.next(&mut writer).await? {
            Next::Finished => return Ok(()),
            Next::Wait => ring.await,
            Next::Work(source, chunk) => {
                if session.is_stopping() {
                    return Ok(());
                }
                copying.copy(&mut writer, source, &chunk).await?;
                copying.chunks.settle().await;
            }
        }
    }
}

impl Copying {
    async fn next(&self, writer: &mut Writer) -> Result<Next, Error> {
        let mut inner = self.chunks.inner.lock().await;
        loop {
            let Some(current) = &mut inner.current else {
                let Some(pending) = inner.waiting.pop_front() else { return Ok(Next::Finished) };
                let mapped = self.plan.of(pending.source);
                writer.start_snapshot(pending.source, mapped.documents_estimated).await?;
                self.report.snapshot_started(&self.plan, pending.source, pending.progress.documents as u64);
                inner.current = Some(Current::new(pending));
                continue;
            };
            if let Some(chunk) = current.unfinished.pop_front() {
                current.in_work += 1;
                return Ok(Next::Work(current.source, chunk));
            }
            if let Some(mut chunk) = current.next.take() {
                chunk.upper = self.boundary(current.source, chunk.lower.as_ref()).await?;
                writer.plan_chunk(current.source, &chunk, chunk.upper.is_none()).await?;
                current.next = chunk.upper.clone().map(|lower| Chunk {
                    number: chunk.number + 1,
                    lower: Some(lower),
                    upper: None,
                });
                current.in_work += 1;
                return Ok(Next::Work(current.source, chunk));
            }
            if current.in_work > 0 {
                return Ok(Next::Wait);
            }
            let source = current.source;
            if !writer.finish_snapshot(source).await? {
                // A chunk was taken away under us; the state knows better than we do.
                return Err(Error::Rebuild { because: "the chunks of a snapshot changed" });
            }
            inner.current = None;
            self.report.snapshot_done(&self.plan, source);
            writer.analyze(source).await?;
        }
    }

    async fn boundary(
        &self,
        source: SourceIndex,
        lower: Option<&CanonicalId>,
    ) -> Result<Option<CanonicalId>, Error> {
        let mapped = self.plan.of(source);
        source::next_boundary(&self.client, &mapped.mapping.namespace, lower, mapped.chunk_documents)
            .await
            .map_err(read)
    }

    /// Reads and transforms a chunk: while one reply is transformed, the next is on its way.
    async fn read(
        &self,
        source: SourceIndex,
        chunk: &Chunk,
        registration: &Registration,
    ) -> Result<SourceBatch, Error> {
        let namespace = &self.plan.of(source).mapping.namespace;
        let (lower, upper) = (chunk.lower.as_ref(), chunk.upper.as_ref());
        let mut reading = source::read_chunk(&self.client, namespace, lower, upper, registration.read_after)
            .await
            .map_err(read)?;
        let mut batch = SourceBatch::new(source);
        let mut documents = reading.next().await.map_err(read)?;
        while let Some(reply) = documents {
            let (transformed, next) = tokio::join!(transform(&self.plan, batch, reply), reading.next());
            batch = transformed?;
            documents = next.map_err(read)?;
        }
        Ok(batch)
    }

    async fn copy(&self, writer: &mut Writer, source: SourceIndex, chunk: &Chunk) -> Result<(), Error> {
        loop {
            let registration = self.outstanding.register(source);
            FailPoint::ReadChunk.reach().await?;
            let mut batch = self.read(source, chunk, &registration).await?;
            FailPoint::ChunkRead.reach().await?;
            let documents = (batch.documents.len() + batch.deletes.len() + batch.kept.len()) as u64;
            let turn = self.turn.read().await;
            match self.outstanding.settle(&registration) {
                // Read again: the collection under this name is another one now.
                Settled::Void => continue,
                Settled::Without(seen) => {
                    batch.rows.retain(|row| !seen.contains(&row.id));
                    batch.refused.retain(|refused| !seen.contains(&refused.id));
                    batch.deletes.retain(|(id, _)| !seen.contains(id));
                    batch.deletes.sort_by(|left, right| left.1.cmp(&right.1));
                    batch.kept.retain(|(id, _)| !seen.contains(id));
                }
            }
            let straight = self.report.copies_straight(source);
            let read_after = self.outstanding.last_handed();
            let outcome = writer.chunk(chunk.number, documents, &mut batch, straight, read_after);
            let outcome = outcome.await.inspect_err(|error| {
                if matches!(error, Error::TimedOut { .. }) {
                    self.pace.timed_out_with(documents as usize);
                }
            })?;
            drop(turn);
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

/// Transforming a reply takes tens of milliseconds of one core: not on a thread that serves others.
async fn transform(
    plan: &Arc<Plan>,
    mut batch: SourceBatch,
    documents: Vec<(CanonicalId, Document)>,
) -> Result<SourceBatch, Error> {
    let plan = Arc::clone(plan);
    let transformed = tokio::task::spawn_blocking(move || {
        for (id, document) in documents {
            batch.put(&plan, &id, document, None);
        }
        batch
    });
    transformed.await.map_err(|error| Error::retry("transform", error))
}
