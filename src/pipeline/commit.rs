//! The only place that begins a transaction on the target.
//!
//! Every transaction has one shape: fence, apply rows, hold rejections, move on, commit. If any step
//! fails, or the answer to the commit is lost, the session ends and the next one loads the state anew.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mongodb::Client;

use sqlx::{AssertSqlSafe, Connection, PgConnection, Postgres, Transaction};
use tokio::sync::Notify;

use super::Error;
use super::holding::Holding;
use super::plan::Plan;
use super::prepare::{Prepared, Refused, SourceBatch, read};
use super::references::{Leaving, Settling, Waiting};
use crate::domain::{CanonicalId, ClusterTime, Document, SourceIndex};
use crate::mapping::OnDelete;
use crate::sink::{self, Outcome, Target};
use crate::source;
use crate::state::chunk::Chunk;
use crate::state::held::{Backoff, Entry};
use crate::state::lease::Epoch;
use crate::state::wait::Wait;
use crate::state::{checkpoint, chunk, held, lease, mapping, wait};

/// How changes are held.
#[derive(Debug, Clone, Copy)]
pub struct HeldPolicy {
    pub keep_document: bool,
    pub max_document_bytes: usize,
    pub backoff: Backoff,
}

/// A connection that may write the target, and whom it writes for.
#[derive(Debug)]
pub(super) struct Writer {
    connection: PgConnection,
    plan: Arc<Plan>,
    pipeline: Arc<str>,
    epoch: Epoch,
    policy: HeldPolicy,
    holding: Arc<Holding>,
    relations: Relations,
}

/// What is needed beside the target where rows refer to rows.
#[derive(Debug, Clone)]
pub(super) struct Relations {
    /// Documents whose rows refer to rows that go are read again.
    pub client: Client,
    pub waiting: Arc<Waiting>,
    /// Rung whenever somebody's wait may be over.
    pub woken: Arc<Notify>,
}

/// What one transaction did, per source.
#[derive(Debug, Default)]
pub struct Committed {
    pub sources: Vec<(SourceIndex, Tally)>,
    pub apply: Duration,
    pub commit: Duration,
}

#[derive(Debug, Default, Clone)]
pub struct Tally {
    pub inserted: u64,
    pub updated: u64,
    pub unchanged: u64,
    pub deleted: u64,
    pub resolved: u64,
    pub held: Vec<(CanonicalId, crate::domain::Rejection)>,
    /// A snapshot chunk that could not be copied straight into the table.
    pub fell_back: bool,
}

/// What became of a chunk.
#[derive(Debug)]
pub(super) enum ChunkOutcome {
    Committed(Committed),
    /// The chunk is no longer in the state: its collection was dropped or replaced.
    Gone,
}

type Tx<'a> = Transaction<'a, Postgres>;

impl Writer {
    pub(super) fn new(
        connection: PgConnection,
        plan: Arc<Plan>,
        pipeline: Arc<str>,
        epoch: Epoch,
        policy: HeldPolicy,
        holding: Arc<Holding>,
        relations: Relations,
    ) -> Self {
        Self { connection, plan, pipeline, epoch, policy, holding, relations }
    }

    /// One batch of the stream: rows, held changes and checkpoint together.
    /// `seq` is the number of the commit before.
    pub(super) async fn batch(&mut self, prepared: &mut Prepared, seq: i64) -> Result<Committed, Error> {
        let began = Instant::now();
        let leaving = Leaving::of(prepared);
        let written = prepared.sources.iter().map(|batch| batch.source);
        let written = written.chain(prepared.dropped.iter().copied()).chain(self.plan.referring(&leaving));
        let touched: Vec<SourceIndex> = written.collect();
        let mut open = self.begin(&touched).await?;
        let mut tallies: HashMap<SourceIndex, Tally> = HashMap::new();
        for source in &prepared.dropped {
            let deleted = open.drop_source(*source, prepared.read_after, &mut tallies).await?;
            tallies.entry(*source).or_default().deleted += deleted;
        }
        for source in &prepared.replaced {
            open.snapshot_again(*source).await?;
        }
        for batch in &mut prepared.sources {
            open.put(batch, &leaving, Way::Merge, &mut tallies).await?;
        }
        open.delete(prepared, leaving, &mut tallies).await?;
        if let Some(position) = &prepared.position {
            open.advance(position, seq).await?;
        }
        let apply = began.elapsed();
        open.commit().await?;
        let commit = began.elapsed().saturating_sub(apply);
        let mut sources: Vec<_> = tallies.into_iter().collect();
        sources.sort_by_key(|(source, _)| *source);
        Ok(Committed { sources, apply, commit })
    }

    /// One snapshot chunk: its rows, its held documents and its end together.
    pub(super) async fn chunk(
        &mut self,
        number: i32,
        documents: u64,
        batch: &mut SourceBatch,
        straight: bool,
    ) -> Result<ChunkOutcome, Error> {
        let began = Instant::now();
        let mut open = self.begin(&[batch.source]).await?;
        if !open.finish_chunk(batch.source, number, documents as i64).await? {
            return Ok(ChunkOutcome::Gone);
        }
        let way = if straight { Way::Straight } else { Way::Merge };
        let mut tallies = HashMap::new();
        let waits = open.put(batch, &Leaving::default(), way, &mut tallies).await?;
        let apply = began.elapsed();
        open.commit().await?;
        let commit = began.elapsed().saturating_sub(apply);
        if !waits.is_empty() {
            // A parent that was committed beside this transaction could not see who waits for it here.
            let mut open = self.begin(&[]).await?;
            open.look_again(batch.source, &waits).await?;
            open.commit().await?;
        }
        Ok(ChunkOutcome::Committed(Committed { sources: tallies.into_iter().collect(), apply, commit }))
    }

    pub(super) async fn start_snapshot(&mut self, source: SourceIndex, estimated: u64) -> Result<(), Error> {
        let mut open = self.begin(&[]).await?;
        let (transaction, pipeline, name) = open.named(source);
        mapping::snapshot_started(transaction, pipeline, name, estimated as i64).await.map_err(state)?;
        open.commit().await
    }

    /// Writes a chunk down before it is read; `last` also that there are no more.
    pub(super) async fn plan_chunk(
        &mut self,
        source: SourceIndex,
        planned: &Chunk,
        last: bool,
    ) -> Result<(), Error> {
        let mut open = self.begin(&[]).await?;
        let (transaction, pipeline, name) = open.named(source);
        if !chunk::plan(transaction, pipeline, name, planned).await.map_err(state)? {
            return Err(Error::Rebuild { because: "a snapshot was begun again while it was planned" });
        }
        if last {
            mapping::planned(transaction, pipeline, name).await.map_err(state)?;
        }
        open.commit().await
    }

    /// Marks the snapshot done if every chunk is; says whether it is.
    pub(super) async fn finish_snapshot(&mut self, source: SourceIndex) -> Result<bool, Error> {
        let mut open = self.begin(&[]).await?;
        let (transaction, pipeline, name) = open.named(source);
        let done = mapping::snapshot_done(transaction, pipeline, name).await.map_err(state)?;
        open.commit().await?;
        Ok(done)
    }

    /// Fresh statistics for a table that was just filled. Needs its owner; not having that is no fault.
    pub(super) async fn analyze(&mut self, source: SourceIndex) -> Result<(), Error> {
        sink::analyze(&mut self.connection, &self.plan.of(source).target).await.map_err(apply)
    }

    async fn begin(&mut self, touched: &[SourceIndex]) -> Result<Open<'_>, Error> {
        let mapped = || touched.iter().map(|source| self.plan.of(*source));
        let stubs = mapped().flat_map(|mapped| &mapped.stubs).flatten().map(|stub| &stub.target);
        let targets: Vec<&Target> = mapped().map(|mapped| &mapped.target).chain(stubs).collect();
        let transaction = begin_fenced(&mut self.connection, &self.pipeline, self.epoch, &targets).await?;
        Ok(Open {
            transaction,
            plan: &self.plan,
            pipeline: &self.pipeline,
            epoch: self.epoch,
            policy: self.policy,
            holding: &self.holding,
            relations: &self.relations,
        })
    }
}

/// Begins as every transaction on the target must. The tables it will write are locked against changes of
/// their columns and compared with what the mappings were compiled against: after an `alter table … type`
/// PostgreSQL would round without a word.
pub(super) async fn begin_fenced<'a>(
    connection: &'a mut PgConnection,
    pipeline: &str,
    epoch: Epoch,
    targets: &[&Target],
) -> Result<Tx<'a>, Error> {
    // A deferred constraint would pass every savepoint and fail the commit of the whole batch.
    const BEGIN: &str = "begin; set constraints all immediate";
    let begun = match sink::lock(targets) {
        Some(lock) => connection.begin_with(AssertSqlSafe(format!("{BEGIN}; {}", lock.0))).await,
        None => connection.begin_with(BEGIN).await,
    };
    let mut transaction = begun.map_err(state)?;
    if !lease::fence(&mut transaction, pipeline, epoch).await.map_err(state)? {
        return Err(Error::Fenced);
    }
    sink::guard(&mut transaction, targets).await.map_err(apply)?;
    Ok(transaction)
}

/// An open, fenced transaction.
struct Open<'a> {
    transaction: Tx<'a>,
    plan: &'a Plan,
    pipeline: &'a str,
    epoch: Epoch,
    policy: HeldPolicy,
    holding: &'a Holding,
    relations: &'a Relations,
}

/// How rows come into a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Merge,
    /// By COPY, as long as every key is new.
    Straight,
}

impl Open<'_> {
    fn named(&mut self, source: SourceIndex) -> (&mut PgConnection, &str, &str) {
        (&mut self.transaction, self.pipeline, &self.plan.of(source).mapping.source)
    }

    fn settling<'s>(&'s mut self, leaving: &'s Leaving) -> Settling<'s> {
        Settling {
            connection: &mut self.transaction,
            pipeline: self.pipeline,
            plan: self.plan,
            waiting: &self.relations.waiting,
            leaving,
        }
    }

    /// References first, then the rows; what waits from now on.
    async fn put(
        &mut self,
        batch: &mut SourceBatch,
        leaving: &Leaving,
        way: Way,
        tallies: &mut HashMap<SourceIndex, Tally>,
    ) -> Result<Vec<Wait>, Error> {
        let filled = self.settling(leaving).fill(batch.source, &mut batch.rows, &batch.documents).await?;
        batch.refused.extend(filled.refused);
        let target = &self.plan.of(batch.source).target;
        let outcome = match way {
            Way::Merge => sink::upsert(&mut self.transaction, target, &batch.rows).await,
            Way::Straight => sink::insert_new(&mut self.transaction, target, &batch.rows).await,
        };
        let outcome = outcome.map_err(apply)?;
        self.settle(batch, outcome, tallies).await?;
        if self.plan.has_references() {
            let all = batch.source_ids(self.plan);
            let all: Vec<&str> = all.iter().map(String::as_str).collect();
            let rows: Vec<&str> = batch.rows.iter().map(|row| row.source_id.as_str()).collect();
            let mut settling = self.settling(leaving);
            settling.wait(batch.source, &all, &filled.waits).await?;
            if settling.wake(batch.source, &rows).await? > 0 {
                self.relations.woken.notify_one();
            }
        }
        Ok(filled.waits)
    }

    async fn look_again(&mut self, source: SourceIndex, waits: &[Wait]) -> Result<(), Error> {
        if self.settling(&Leaving::default()).look_again(source, waits).await? > 0 {
            self.relations.woken.notify_one();
        }
        Ok(())
    }

    /// Children first: the order of the configuration has parents first.
    async fn delete(
        &mut self,
        prepared: &Prepared,
        mut leaving: Leaving,
        tallies: &mut HashMap<SourceIndex, Tally>,
    ) -> Result<(), Error> {
        let with_deletes = prepared.sources.iter().filter(|batch| !batch.deletes.is_empty());
        let going: Vec<(SourceIndex, Vec<CanonicalId>)> = with_deletes
            .clone()
            .map(|batch| (batch.source, batch.deletes.iter().map(|(id, _)| id.clone()).collect()))
            .collect();
        let mut also = self.let_go(going, &mut leaving, prepared.read_after, tallies).await?;
        also.sort_by_key(|batch| batch.source);
        let mut batches: Vec<&SourceBatch> = with_deletes.chain(&also).collect();
        batches.sort_by_key(|batch| batch.source);
        for batch in batches.into_iter().rev() {
            let target = &self.plan.of(batch.source).target;
            let outcome = sink::delete(&mut self.transaction, target, &batch.deletes).await.map_err(apply)?;
            self.settle_deletes(batch, outcome, tallies).await?;
        }
        Ok(())
    }

    /// Settles the rows of other documents that refer to rows that go, as if those were gone already; the
    /// rows that must go with them.
    async fn let_go(
        &mut self,
        mut going: Vec<(SourceIndex, Vec<CanonicalId>)>,
        leaving: &mut Leaving,
        read_after: ClusterTime,
        tallies: &mut HashMap<SourceIndex, Tally>,
    ) -> Result<Vec<SourceBatch>, Error> {
        let mut also = Vec::new();
        let mut seen = HashSet::new();
        while !going.is_empty() {
            let mut referrers: BTreeMap<SourceIndex, Vec<CanonicalId>> = BTreeMap::new();
            for (source, ids) in going.drain(..) {
                for (of, id) in self.settling(leaving).referrers(source, &ids).await? {
                    if seen.insert((of, id.clone())) {
                        referrers.entry(of).or_default().push(id);
                    }
                }
            }
            for (of, ids) in referrers {
                let gone = self.read_again(of, &ids, leaving, read_after, tallies).await?;
                let ids = gone.deletes.iter().map(|(id, _)| id.clone()).collect();
                leaving.documents.extend(gone.deletes.iter().map(|(id, _)| (of, id.clone())));
                going.push((of, ids));
                also.push(gone);
            }
            going.retain(|(_, ids)| !ids.is_empty());
        }
        Ok(also)
    }

    /// Brings these documents up to date; those whose rows go: they are gone, or held, and PostgreSQL would
    /// delete their rows together with what they refer to.
    async fn read_again(
        &mut self,
        source: SourceIndex,
        ids: &[CanonicalId],
        leaving: &Leaving,
        read_after: ClusterTime,
        tallies: &mut HashMap<SourceIndex, Tally>,
    ) -> Result<SourceBatch, Error> {
        let mapped = self.plan.of(source);
        let client = &self.relations.client;
        let found = source::lookup(client, &mapped.mapping.namespace, ids, read_after).await.map_err(read)?;
        let mut gone = SourceBatch::new(source);
        let there: HashSet<CanonicalId> = found.iter().map(|(id, _)| id.clone()).collect();
        let mut batch = SourceBatch::new(source);
        for (id, document) in found {
            batch.put(self.plan, &id, document, None);
        }
        self.put(&mut batch, leaving, Way::Merge, tallies).await?;
        let with_it = mapped.mapping.references.iter().any(|plan| plan.on_delete == OnDelete::Cascade);
        let refused = batch.refused.iter().filter(|_| with_it).map(|refused| &refused.id);
        let vanished = ids.iter().filter(|id| !there.contains(id));
        for id in vanished.chain(refused) {
            gone.deletes.push((id.clone(), id.source_id(mapped.mapping.id_type)));
        }
        gone.held = batch.refused.into_iter().map(|refused| refused.id).collect();
        Ok(gone)
    }

    async fn drop_source(
        &mut self,
        source: SourceIndex,
        read_after: ClusterTime,
        tallies: &mut HashMap<SourceIndex, Tally>,
    ) -> Result<u64, Error> {
        self.let_source_go(source, read_after, tallies).await?;
        let target = &self.plan.of(source).target;
        let dropped = sink::drop_rows(&mut self.transaction, target).await.map_err(apply)?;
        if let Some((_, rejection)) = dropped.refused.first() {
            // Without their documents nobody would ever touch them again: somebody has to decide.
            let mapping = &self.plan.of(source).mapping;
            return Err(Error::halt(
                format!(
                    "collection {} was dropped, but {} of its rows in {} cannot be deleted: {rejection}",
                    mapping.namespace,
                    dropped.refused.len(),
                    mapping.table
                ),
                "delete the rows that refer to them, or set deletes: keep; it goes on by itself then",
            ));
        }
        let (transaction, pipeline, name) = self.named(source);
        held::resolve_source(transaction, pipeline, name).await.map_err(state)?;
        wait::forget_source(transaction, pipeline, name).await.map_err(state)?;
        Ok(dropped.deleted)
    }

    async fn let_source_go(
        &mut self,
        source: SourceIndex,
        read_after: ClusterTime,
        tallies: &mut HashMap<SourceIndex, Tally>,
    ) -> Result<(), Error> {
        if self.plan.inbound(source).is_empty() {
            return Ok(());
        }
        let mut leaving = Leaving { sources: HashSet::from([source]), ..Leaving::default() };
        let (target, id_type) = (&self.plan.of(source).target, self.plan.id_type(source));
        let mut last: Option<String> = None;
        loop {
            let page = sink::source_ids_after(&mut self.transaction, target, last.as_deref());
            let page = page.await.map_err(apply)?;
            let ids: Vec<CanonicalId> =
                page.iter().filter_map(|text| CanonicalId::from_source_id(text, id_type)).collect();
            last = page.into_iter().next_back();
            if last.is_none() {
                return Ok(());
            }
            let also = self.let_go(vec![(source, ids)], &mut leaving, read_after, tallies).await?;
            for batch in also.iter().rev() {
                let target = &self.plan.of(batch.source).target;
                let outcome =
                    sink::delete(&mut self.transaction, target, &batch.deletes).await.map_err(apply)?;
                self.settle_deletes(batch, outcome, tallies).await?;
            }
        }
    }

    async fn snapshot_again(&mut self, source: SourceIndex) -> Result<(), Error> {
        let (transaction, pipeline, name) = self.named(source);
        mapping::snapshot_again(transaction, pipeline, name).await.map_err(state)
    }

    async fn finish_chunk(
        &mut self,
        source: SourceIndex,
        number: i32,
        documents: i64,
    ) -> Result<bool, Error> {
        let (transaction, pipeline, name) = self.named(source);
        chunk::finish(transaction, pipeline, name, number, documents).await.map_err(state)
    }

    /// Everything of the batch that has no row now is held; whatever has one is no longer.
    async fn settle(
        &mut self,
        batch: &SourceBatch,
        outcome: Outcome,
        tallies: &mut HashMap<SourceIndex, Tally>,
    ) -> Result<(), Error> {
        let tally = tallies.entry(batch.source).or_default();
        tally.inserted += outcome.inserted;
        tally.updated += outcome.updated;
        tally.unchanged += outcome.unchanged;
        tally.fell_back |= outcome.fell_back;
        let refused_by_target: HashMap<&CanonicalId, ()> =
            outcome.rejected.iter().map(|(id, _)| (id, ())).collect();
        let applied: Vec<&str> = batch
            .rows
            .iter()
            .filter(|row| !refused_by_target.contains_key(&row.id))
            .map(|row| row.source_id.as_str())
            .chain(batch.kept.iter().map(String::as_str))
            .collect();
        tally.resolved += self.resolve(batch.source, &applied).await?;
        let refused = batch.refused.iter().cloned();
        let by_target = outcome.rejected.into_iter().map(|(id, rejection)| Refused { id, rejection });
        let refused: Vec<Refused> = refused.chain(by_target).collect();
        self.hold(batch, &refused).await?;
        let tally = tallies.entry(batch.source).or_default();
        tally.held.extend(refused.into_iter().map(|refused| (refused.id, refused.rejection)));
        Ok(())
    }

    async fn settle_deletes(
        &mut self,
        batch: &SourceBatch,
        outcome: Outcome,
        tallies: &mut HashMap<SourceIndex, Tally>,
    ) -> Result<(), Error> {
        let tally = tallies.entry(batch.source).or_default();
        tally.deleted += outcome.deleted;
        let kept: HashMap<&CanonicalId, ()> = outcome.rejected.iter().map(|(id, _)| (id, ())).collect();
        let gone: Vec<&str> = batch
            .deletes
            .iter()
            .filter(|(id, _)| !kept.contains_key(id) && !batch.held.contains(id))
            .map(|(_, source_id)| source_id.as_str())
            .collect();
        tally.resolved += self.resolve(batch.source, &gone).await?;
        self.settling(&Leaving::default()).wait(batch.source, &gone, &[]).await?;
        let refused: Vec<Refused> =
            outcome.rejected.into_iter().map(|(id, rejection)| Refused { id, rejection }).collect();
        self.hold(batch, &refused).await?;
        let tally = tallies.entry(batch.source).or_default();
        tally.held.extend(refused.into_iter().map(|refused| (refused.id, refused.rejection)));
        Ok(())
    }

    async fn resolve(&mut self, source: SourceIndex, source_ids: &[&str]) -> Result<u64, Error> {
        if source_ids.is_empty() || !self.holding.may_hold(source) {
            return Ok(0);
        }
        let (transaction, pipeline, name) = self.named(source);
        held::resolve(transaction, pipeline, name, source_ids).await.map_err(state)
    }

    async fn hold(&mut self, batch: &SourceBatch, refused: &[Refused]) -> Result<(), Error> {
        let Some(first) = refused.first() else { return Ok(()) };
        let mapped = self.plan.of(batch.source);
        if mapped.mapping.critical {
            return Err(Error::halt(
                format!(
                    "mapping {} is critical and a document cannot be written: {}",
                    mapped.mapping.source, first.rejection
                ),
                format!(
                    "repair the document with _id {} in {}, or set critical: false to hold such documents",
                    first.id.describe(),
                    mapped.mapping.namespace
                ),
            ));
        }
        let policy = self.policy;
        let documents: HashMap<&CanonicalId, &Document> =
            batch.documents.iter().map(|(id, document)| (id, document)).collect();
        let entries: Vec<Entry> = refused
            .iter()
            .map(|refused| {
                let document = documents.get(&refused.id).copied();
                Entry {
                    source_id: refused.id.source_id(mapped.mapping.id_type),
                    id: refused.id.clone(),
                    rejection: refused.rejection.clone(),
                    document: document.filter(|document| policy.keeps(document)).map(Document::to_vec),
                    document_bytes: document.map(|document| document.len() as i64),
                }
            })
            .collect();
        self.holding.mark(batch.source);
        let (transaction, pipeline, name) = self.named(batch.source);
        held::hold(transaction, pipeline, name, &entries, policy.backoff).await.map_err(state)
    }

    async fn advance(&mut self, position: &crate::domain::Position, seq: i64) -> Result<(), Error> {
        let advanced = checkpoint::advance(
            &mut self.transaction,
            self.pipeline,
            self.epoch,
            seq,
            position,
            &self.plan.scope_hash,
        );
        if advanced.await.map_err(state)? { Ok(()) } else { Err(Error::Fenced) }
    }

    async fn commit(self) -> Result<(), Error> {
        // An error here leaves open whether it happened. The next session takes the lease, which waits
        // for this transaction to end either way, and only then loads the state.
        self.transaction.commit().await.map_err(|error| Error::retry("commit", error))
    }
}

impl HeldPolicy {
    fn keeps(&self, document: &Document) -> bool {
        self.keep_document && document.len() <= self.max_document_bytes
    }
}

/// What an error of the sink means for the session.
pub(super) fn apply(error: sink::Error) -> Error {
    match error.disposition() {
        sink::Disposition::Refresh => Error::Rebuild { because: "the catalog of the target changed" },
        sink::Disposition::Halt { hint } => Error::halt(Error::chain(&error), hint),
        sink::Disposition::Retry => Error::retry("apply", error),
        // A refusal outside of any single row's savepoint would come again and again.
        sink::Disposition::Hold(rejection) => Error::halt(
            format!("{}: {rejection}", Error::chain(&error)),
            "change the constraint or the rows it protects; the pipeline goes on by itself then",
        ),
    }
}

/// What an error of a statement on the state schema means for the session.
pub(super) fn state(error: sqlx::Error) -> Error {
    apply(sink::Error::of_state(error))
}
