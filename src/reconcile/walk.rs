//! All documents of a mapping, chunk by chunk as the snapshot reads them, and then all rows that say they are
//! its own.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::{Duration, Instant};

use mongodb::Client;
use sqlx::PgConnection;
use tokio::sync::{Mutex, mpsc, watch};

use super::look::{Comparisons, Looker, Sight};
use super::progress::Place;
use super::report::KEYS;
use crate::config::Deletes;
use crate::domain::{CanonicalId, ClusterTime, Document, SourceIndex};
use crate::pipeline::{Drift, Error, Plan, SourceBatch, apply, claimed, claims_of, read, state};
use crate::sink;
use crate::source::{self, Found};
use crate::state::row;
use crate::transform::Absent;

/// Documents that are remembered as seen, in 16 bytes each or so. Rows of those beyond it are looked for in
/// MongoDB one by one, which only takes longer.
const REMEMBERED: usize = 2_000_000;

/// Documents that are read at once however few may be read in a second: a comparison by a few would be a statement for
/// each of them.
const LEAST_AT_ONCE: u64 = 1_000;

/// Claims of one page.
const PAGE: i64 = 10_000;

/// What every worker of a run shares.
#[derive(Debug)]
pub(super) struct Ground {
    pub client: Client,
    pub plan: Arc<Plan>,
    pub pipeline: Arc<str>,
    pub comparisons: Vec<Comparisons>,
    pub budget: Budget,
    pub stop: watch::Receiver<bool>,
}

/// How many documents may be read in a second.
#[derive(Debug)]
pub(super) struct Budget {
    per_second: Option<u64>,
    began: Instant,
    taken: AtomicU64,
}

impl Budget {
    pub(super) fn new(per_second: Option<u64>) -> Self {
        Self { per_second, began: Instant::now(), taken: AtomicU64::new(0) }
    }

    /// How many of a chunk are read before anybody waits.
    fn at_once(&self, chunk: u64) -> u64 {
        match self.per_second {
            Some(per_second) => chunk.min(per_second.max(LEAST_AT_ONCE)),
            None => chunk,
        }
    }

    /// Waits until so many documents more were allowed to be read.
    pub(super) async fn spend(&self, documents: u64) {
        let taken = self.taken.fetch_add(documents, Ordering::Relaxed) + documents;
        if let Some(per_second) = self.per_second {
            let due = Duration::from_secs_f64(taken as f64 / per_second.max(1) as f64);
            tokio::time::sleep_until((self.began + due).into()).await;
        }
    }
}

/// The documents of one mapping that were met, by hashes of their source_ids. Two with one hash would hide a row
/// that is too much: with a million rows, one time in ten million runs.
#[derive(Debug, Default)]
pub(super) struct Met {
    hasher: RandomState,
    hashes: StdMutex<HashSet<u64>>,
}

impl Met {
    fn extend<'s>(&self, source_ids: impl Iterator<Item = &'s str>) {
        let hashes: Vec<u64> = source_ids.map(|source_id| self.hasher.hash_one(source_id)).collect();
        let mut met = self.hashes.lock().unwrap_or_else(PoisonError::into_inner);
        let room = REMEMBERED.saturating_sub(met.len());
        met.extend(hashes.into_iter().take(room));
    }

    fn has(&self, source_id: &str) -> bool {
        let hash = self.hasher.hash_one(source_id);
        self.hashes.lock().unwrap_or_else(PoisonError::into_inner).contains(&hash)
    }
}

/// The documents of one mapping.
#[derive(Debug)]
pub(super) struct Walk {
    pub ground: Arc<Ground>,
    pub source: SourceIndex,
    pub after: ClusterTime,
    /// The number of the next chunk and where it begins, `None` at the end.
    next: Mutex<(u64, Option<Lower>)>,
    pub met: Met,
    /// Paths that no document had yet, of those whose chunks are compared.
    absent: StdMutex<Absent>,
}

type Lower = Option<CanonicalId>;

/// The documents of a chunk, with its place among the chunks and where it ends.
struct Chunk {
    number: u64,
    upper: Option<CanonicalId>,
    batch: SourceBatch,
}

/// Rows whose source_ids are hashes of ids that are too long: nobody can ask MongoDB for their documents.
#[derive(Debug, Default)]
pub(super) struct Unreadable {
    pub count: u64,
    /// The first of them.
    pub keys: Vec<String>,
}

impl Unreadable {
    fn add(&mut self, source_ids: Vec<String>) {
        self.count += source_ids.len() as u64;
        let room = KEYS.saturating_sub(self.keys.len());
        self.keys.extend(source_ids.into_iter().take(room));
    }
}

/// What one chunk has come to.
#[derive(Debug)]
pub(super) struct Step {
    /// Its place among the steps of the walk.
    pub number: u64,
    pub documents: u64,
    pub sight: Sight,
    /// Where the next one goes on.
    pub next: Place,
    /// Paths that its documents have and none before.
    pub seen: Vec<String>,
    pub drift: Drift,
}

impl Step {
    pub(super) fn new(documents: u64, sight: Sight, next: Place) -> Self {
        Self { number: 0, documents, sight, next, seen: Vec::new(), drift: Drift::default() }
    }
}

impl Walk {
    /// From the beginning, or from where another one was cut off.
    pub(super) fn new(
        ground: Arc<Ground>,
        source: SourceIndex,
        after: ClusterTime,
        from: Option<&Place>,
        absent: Absent,
    ) -> Self {
        let first = match from {
            None => Some(None),
            Some(Place::Documents(lower)) => Some(Some(CanonicalId::from_bytes(lower))),
            Some(Place::Rows(_)) => None,
        };
        let (next, absent) = (Mutex::new((0, first)), StdMutex::new(absent));
        Self { ground, source, after, next, met: Met::default(), absent }
    }

    /// One worker: compares chunks until there are none. When it fails, nobody begins another one.
    pub(super) async fn work(
        &self,
        mut connection: PgConnection,
        steps: mpsc::Sender<Step>,
    ) -> Result<PgConnection, Error> {
        let compared = self.chunks(&mut connection, &steps).await;
        if compared.is_err() {
            self.next.lock().await.1 = None;
        }
        compared.map(|()| connection)
    }

    /// While PostgreSQL compares one chunk, the next is read.
    async fn chunks(&self, connection: &mut PgConnection, steps: &mpsc::Sender<Step>) -> Result<(), Error> {
        let mut chunk = self.chunk().await?;
        while let Some(Chunk { number, upper, batch }) = chunk {
            let documents = (batch.documents.len() + batch.deletes.len() + batch.kept.len()) as u64;
            let id_type = self.ground.plan.id_type(self.source);
            let texts: Vec<String> = batch.documents.iter().map(|(id, _)| id.source_id(id_type)).collect();
            let gone = batch.deletes.iter().map(|(_, source_id)| source_id.as_str());
            self.met.extend(texts.iter().map(String::as_str).chain(gone));
            let seen = self.seen(&batch);
            let drift = self.ground.drift_of(&batch);
            let mut looker = self.ground.looker(connection);
            let (sight, following) = tokio::join!(looker.look(batch), self.chunk());
            let next = Place::after_chunk(upper.as_ref());
            let step = Step { number, seen, drift, ..Step::new(documents, sight?, next) };
            if steps.send(step).await.is_err() {
                break;
            }
            chunk = following?;
        }
        Ok(())
    }

    /// The next one, read; `None`: there is none, or it was told to stop.
    async fn chunk(&self) -> Result<Option<Chunk>, Error> {
        let Some((number, replies, upper)) = self.next().await? else { return Ok(None) };
        let batch = self.transform(replies).await?;
        Ok(Some(Chunk { number, upper, batch }))
    }

    /// Paths that no document before these had.
    fn seen(&self, batch: &SourceBatch) -> Vec<String> {
        let before = self.absent.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut left = before.clone();
        for (_, document) in &batch.documents {
            if left.is_empty() {
                break;
            }
            left.look_into(document.as_bytes());
        }
        let left = left.names();
        let seen: Vec<String> = before.names().into_iter().filter(|name| !left.contains(name)).collect();
        if !seen.is_empty() {
            let mut absent = self.absent.lock().unwrap_or_else(PoisonError::into_inner);
            let names = absent.names().into_iter().filter(|name| !seen.contains(name)).collect::<Vec<_>>();
            absent.retain(&names);
        }
        seen
    }

    /// The documents of the next chunk with its number and where it ends.
    async fn next(&self) -> Result<Option<(u64, Vec<Vec<Found>>, Option<CanonicalId>)>, Error> {
        let mut next = self.next.lock().await;
        if *self.ground.stop.borrow() {
            return Ok(None);
        }
        let Some(lower) = next.1.take() else { return Ok(None) };
        let mapped = self.ground.plan.of(self.source);
        let documents = self.ground.budget.at_once(mapped.chunk_documents);
        let namespace = &mapped.mapping.namespace;
        let client = &self.ground.client;
        let read_next = source::read_next(client, namespace, lower.as_ref(), documents, self.after).await;
        let (replies, upper) = read_next.map_err(read)?;
        let number = next.0;
        *next = (number + 1, upper.clone().map(Some));
        Ok(Some((number, replies, upper)))
    }

    async fn transform(&self, replies: Vec<Vec<Found>>) -> Result<SourceBatch, Error> {
        let mut batch = SourceBatch::new(self.source);
        for reply in replies {
            self.ground.budget.spend(reply.len() as u64).await;
            batch = self.ground.transform(batch, reply).await?;
        }
        Ok(batch)
    }

    /// Rows that say they are the mapping's and whose documents were not met; those of which nobody can read the
    /// id back.
    pub(super) async fn back(
        &self,
        connection: &mut PgConnection,
        steps: &mpsc::Sender<Step>,
        after: Option<String>,
    ) -> Result<Unreadable, Error> {
        let mapped = self.ground.plan.of(self.source);
        let mapping = &mapped.mapping;
        let mut last = after;
        let (mut unreadable, mut number) = (Unreadable::default(), 0);
        while !*self.ground.stop.borrow() {
            let mut ids: Vec<CanonicalId> = Vec::new();
            let mut hashed: Vec<String> = Vec::new();
            if mapping.key.is_claimed() {
                let target = claimed(mapping);
                let scope = claims_of(&self.ground.pipeline, &target, mapping);
                let claims = row::page(connection, scope, last.as_deref(), PAGE).await.map_err(state)?;
                last = claims.last().map(|claim| claim.source_id.clone());
                let is_soft = matches!(mapping.deletes, Deletes::Soft { .. });
                let of_rows =
                    claims.into_iter().filter(|claim| claim.key.is_some() && (is_soft || !claim.kept));
                ids.extend(of_rows.filter(|claim| !self.met.has(&claim.source_id)).map(|claim| claim.id));
            } else {
                let page = sink::source_ids_after(connection, &mapped.target, last.as_deref());
                let page = page.await.map_err(apply)?;
                last = page.last().cloned();
                for text in page.into_iter().filter(|text| !self.met.has(text)) {
                    match CanonicalId::from_source_id(&text, mapping.id_type) {
                        Some(id) => ids.push(id),
                        None => hashed.push(text),
                    }
                }
            }
            let sight = self.ground.look_for(connection, self.source, &ids, self.after).await?;
            let hashed: Vec<&str> = hashed.iter().map(String::as_str).collect();
            unreadable.add(self.ground.looker(connection).living(mapping, &hashed).await?);
            if last.is_none() {
                break;
            }
            let step = Step { number, ..Step::new(0, sight, Place::Rows(last.clone())) };
            if steps.send(step).await.is_err() {
                break;
            }
            number += 1;
        }
        Ok(unreadable)
    }
}

impl Ground {
    pub(super) fn looker<'a>(&'a self, connection: &'a mut PgConnection) -> Looker<'a> {
        Looker {
            connection,
            pipeline: &self.pipeline,
            plan: &self.plan,
            comparisons: &self.comparisons,
            shown: 0,
        }
    }

    /// Looks at those of these documents that are not there.
    pub(super) async fn look_for(
        &self,
        connection: &mut PgConnection,
        source: SourceIndex,
        ids: &[CanonicalId],
        after: ClusterTime,
    ) -> Result<Sight, Error> {
        if ids.is_empty() {
            return Ok(Sight::default());
        }
        let namespace = &self.plan.of(source).mapping.namespace;
        let found = source::existing(&self.client, namespace, ids, after).await.map_err(read)?;
        let found: HashSet<CanonicalId> = found.into_iter().collect();
        let mut batch = SourceBatch::new(source);
        let missing = ids.iter().filter(|id| !found.contains(id));
        missing.for_each(|id| batch.gone(&self.plan, id.clone()));
        let sight = self.looker(connection).look(batch).await?;
        Ok(Sight { filtered: 0, ..sight })
    }

    /// Looks at these documents, be they there or not; how many are, and what is new in them.
    pub(super) async fn look_at(
        self: &Arc<Self>,
        connection: &mut PgConnection,
        source: SourceIndex,
        ids: &[CanonicalId],
        after: ClusterTime,
    ) -> Result<(u64, Drift, Sight), Error> {
        let namespace = &self.plan.of(source).mapping.namespace;
        self.budget.spend(ids.len() as u64).await;
        let found = source::lookup(&self.client, namespace, ids, after).await.map_err(read)?;
        let documents = found.len() as u64;
        let mut missing: HashSet<CanonicalId> = ids.iter().cloned().collect();
        found.iter().for_each(|(id, _)| {
            missing.remove(id);
        });
        let mut batch = self.transform(SourceBatch::new(source), found).await?;
        missing.into_iter().for_each(|id| batch.gone(&self.plan, id));
        let drift = self.drift_of(&batch);
        Ok((documents, drift, self.looker(connection).look(batch).await?))
    }

    pub(super) fn drift_of(&self, batch: &SourceBatch) -> Drift {
        let mapping = &self.plan.of(batch.source).mapping;
        let column = |place: usize| mapping.columns.get(place).map_or("", |column| column.name.as_str());
        batch.drifted(mapping.id_type, column)
    }

    /// Tens of milliseconds of one core for each reply: not on a thread that serves others.
    async fn transform(
        &self,
        mut batch: SourceBatch,
        documents: Vec<(CanonicalId, Document)>,
    ) -> Result<SourceBatch, Error> {
        let plan = Arc::clone(&self.plan);
        let transformed = tokio::task::spawn_blocking(move || {
            for (id, document) in documents {
                batch.put(&plan, &id, document, None);
            }
            batch
        });
        transformed.await.map_err(|error| Error::retry("transform", error))
    }
}
