//! What is done inside of an open, fenced transaction: rows in and out, references settled, changes held.
//! It is begun in `commit`, and nowhere else.

use std::collections::{BTreeMap, HashMap, HashSet};

use sqlx::PgConnection;

use super::Error;
use super::commit::{ForWhom, HeldPolicy, Tally, Tx, apply, drop_rows, state};
use super::prepare::{Refused, SourceBatch, read};
use super::references::{Leaving, Settling};
use crate::domain::{CanonicalId, ClusterTime, Document, Portion, Position, SourceIndex};
use crate::mapping::OnDelete;
use crate::sink::{self, Outcome};
use crate::source;
use crate::state::held::Entry;
use crate::state::wait::Wait;
use crate::state::{checkpoint, chunk, held, mapping, wait};

/// An open, fenced transaction.
pub(super) struct Open<'a> {
    transaction: Tx<'a>,
    for_whom: &'a ForWhom,
    portion: Portion,
}

/// How rows come into a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Merge,
    /// By COPY, as long as every key is new.
    Straight,
}

type Tallies = HashMap<SourceIndex, Tally>;

impl<'a> Open<'a> {
    pub(super) fn new(transaction: Tx<'a>, for_whom: &'a ForWhom) -> Self {
        Self { transaction, for_whom, portion: for_whom.pace.portion() }
    }

    pub(super) fn named(&mut self, source: SourceIndex) -> (&mut PgConnection, &str, &str) {
        (&mut self.transaction, &self.for_whom.pipeline, &self.for_whom.plan.of(source).mapping.source)
    }

    fn settling<'s>(&'s mut self, leaving: &'s Leaving) -> Settling<'s> {
        Settling {
            connection: &mut self.transaction,
            pipeline: &self.for_whom.pipeline,
            plan: &self.for_whom.plan,
            waiting: &self.for_whom.waiting,
            leaving,
        }
    }

    /// References first, then the rows; what waits from now on.
    pub(super) async fn put(
        &mut self,
        batch: &mut SourceBatch,
        leaving: &Leaving,
        way: Way,
        tallies: &mut Tallies,
    ) -> Result<Vec<Wait>, Error> {
        let filled = self.settling(leaving).fill(batch.source, &mut batch.rows, &batch.documents).await?;
        batch.refused.extend(filled.refused);
        let target = &self.for_whom.plan.of(batch.source).target;
        let outcome = match way {
            Way::Merge => sink::upsert(&mut self.transaction, target, &batch.rows, self.portion).await,
            Way::Straight => sink::insert_new(&mut self.transaction, target, &batch.rows, self.portion).await,
        };
        let outcome = outcome.map_err(apply)?;
        self.settle(batch, batch.written(), &batch.refused, outcome, tallies).await?;
        if self.for_whom.plan.has_references() {
            let all = batch.source_ids(&self.for_whom.plan);
            let all: Vec<&str> = all.iter().map(String::as_str).collect();
            let rows: Vec<&str> = batch.rows.iter().map(|row| row.source_id.as_str()).collect();
            let mut settling = self.settling(leaving);
            settling.own(batch.source, &batch.rows).await?;
            settling.wait(batch.source, &all, &filled.waits).await?;
            if settling.wake(batch.source, &rows).await? > 0 {
                self.for_whom.woken.notify_one();
            }
        }
        Ok(filled.waits)
    }

    pub(super) async fn look_again(&mut self, source: SourceIndex, waits: &[Wait]) -> Result<(), Error> {
        if self.settling(&Leaving::default()).look_again(source, waits).await? > 0 {
            self.for_whom.woken.notify_one();
        }
        Ok(())
    }

    /// Children first: the order of the configuration has parents first.
    pub(super) async fn delete(
        &mut self,
        sources: &[SourceBatch],
        mut leaving: Leaving,
        read_after: ClusterTime,
        tallies: &mut Tallies,
    ) -> Result<(), Error> {
        let with_deletes = sources.iter().filter(|batch| !batch.deletes.is_empty());
        let going: Vec<(SourceIndex, Vec<CanonicalId>)> = with_deletes
            .clone()
            .map(|batch| (batch.source, batch.deletes.iter().map(|(id, _)| id.clone()).collect()))
            .collect();
        let mut also = self.let_go(going, &mut leaving, read_after, tallies).await?;
        also.sort_by_key(|batch| batch.source);
        let mut batches: Vec<&SourceBatch> = with_deletes.chain(&also).collect();
        batches.sort_by_key(|batch| batch.source);
        for batch in batches.into_iter().rev() {
            let target = &self.for_whom.plan.of(batch.source).target;
            let outcome = sink::delete(&mut self.transaction, target, &batch.keys(), self.portion)
                .await
                .map_err(apply)?;
            self.settle(batch, batch.deleted(), &[], outcome, tallies).await?;
            self.no_longer_wait(batch).await?;
        }
        Ok(())
    }

    /// Documents that are gone wait for nothing.
    async fn no_longer_wait(&mut self, batch: &SourceBatch) -> Result<(), Error> {
        let gone: Vec<&str> = batch.deleted().map(|(_, source_id)| source_id).collect();
        self.settling(&Leaving::default()).wait(batch.source, &gone, &[]).await
    }

    /// Settles the rows of other documents that refer to rows that go, as if those were gone already; the
    /// rows that must go with them.
    async fn let_go(
        &mut self,
        mut going: Vec<(SourceIndex, Vec<CanonicalId>)>,
        leaving: &mut Leaving,
        read_after: ClusterTime,
        tallies: &mut Tallies,
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
        tallies: &mut Tallies,
    ) -> Result<SourceBatch, Error> {
        let mapped = self.for_whom.plan.of(source);
        let client = &self.for_whom.client;
        let found = source::lookup(client, &mapped.mapping.namespace, ids, read_after).await.map_err(read)?;
        let mut gone = SourceBatch::new(source);
        let there: HashSet<CanonicalId> = found.iter().map(|(id, _)| id.clone()).collect();
        let mut batch = SourceBatch::new(source);
        for (id, document) in found {
            batch.put(&self.for_whom.plan, &id, document, None);
        }
        self.put(&mut batch, leaving, Way::Merge, tallies).await?;
        let with_it = mapped.mapping.references.iter().any(|plan| plan.on_delete == OnDelete::Cascade);
        let refused = batch.refused.iter().filter(|_| with_it).map(|refused| &refused.id);
        let vanished = ids.iter().filter(|id| !there.contains(id));
        for id in vanished.chain(refused) {
            gone.deletes.push((id.clone(), id.source_id(mapped.mapping.id_type)));
        }
        gone.deletes.extend(batch.deletes);
        gone.held = batch.refused.into_iter().map(|refused| refused.id).collect();
        Ok(gone)
    }

    /// The rows of a collection that is gone, or is another one now.
    pub(super) async fn drop_source(
        &mut self,
        source: SourceIndex,
        read_after: ClusterTime,
        tallies: &mut Tallies,
    ) -> Result<(), Error> {
        self.let_source_go(source, read_after, tallies).await?;
        let mapped = self.for_whom.plan.of(source);
        let deleted = drop_rows(&mut self.transaction, mapped, self.portion).await?;
        tallies.entry(source).or_default().deleted += deleted;
        let (transaction, pipeline, name) = self.named(source);
        held::resolve_source(transaction, pipeline, name).await.map_err(state)?;
        wait::forget_source(transaction, pipeline, name).await.map_err(state)
    }

    async fn let_source_go(
        &mut self,
        source: SourceIndex,
        read_after: ClusterTime,
        tallies: &mut Tallies,
    ) -> Result<(), Error> {
        if self.for_whom.plan.inbound(source).is_empty() {
            return Ok(());
        }
        let mut leaving = Leaving { sources: HashSet::from([source]), ..Leaving::default() };
        let (target, id_type) = (&self.for_whom.plan.of(source).target, self.for_whom.plan.id_type(source));
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
                let target = &self.for_whom.plan.of(batch.source).target;
                let outcome = sink::delete(&mut self.transaction, target, &batch.keys(), self.portion)
                    .await
                    .map_err(apply)?;
                self.settle(batch, batch.deleted(), &[], outcome, tallies).await?;
                self.no_longer_wait(batch).await?;
            }
        }
    }

    pub(super) async fn snapshot_again(&mut self, source: SourceIndex) -> Result<(), Error> {
        let (transaction, pipeline, name) = self.named(source);
        mapping::snapshot_again(transaction, pipeline, name).await.map_err(state)
    }

    pub(super) async fn finish_chunk(
        &mut self,
        source: SourceIndex,
        number: i32,
        documents: i64,
    ) -> Result<bool, Error> {
        let (transaction, pipeline, name) = self.named(source);
        chunk::finish(transaction, pipeline, name, number, documents).await.map_err(state)
    }

    /// What was written or deleted: everything of it that was refused is held, all else is held no longer.
    async fn settle(
        &mut self,
        batch: &SourceBatch,
        tried: impl Iterator<Item = (&CanonicalId, &str)>,
        before: &[Refused],
        outcome: Outcome,
        tallies: &mut Tallies,
    ) -> Result<(), Error> {
        let by_target: HashSet<&CanonicalId> = outcome.rejected.iter().map(|(id, _)| id).collect();
        let applied: Vec<&str> =
            tried.filter(|(id, _)| !by_target.contains(id)).map(|(_, source_id)| source_id).collect();
        let resolved = self.resolve(batch.source, &applied).await?;
        let by_target = outcome.rejected.into_iter().map(|(id, rejection)| Refused { id, rejection });
        let refused: Vec<Refused> = before.iter().cloned().chain(by_target).collect();
        self.hold(batch, &refused).await?;
        let tally = tallies.entry(batch.source).or_default();
        tally.inserted += outcome.inserted;
        tally.updated += outcome.updated;
        tally.unchanged += outcome.unchanged;
        tally.deleted += outcome.deleted;
        tally.fell_back |= outcome.fell_back;
        tally.resolved += resolved;
        tally.held.extend(refused.into_iter().map(|refused| (refused.id, refused.rejection)));
        Ok(())
    }

    async fn resolve(&mut self, source: SourceIndex, source_ids: &[&str]) -> Result<u64, Error> {
        if source_ids.is_empty() || !self.for_whom.holding.may_hold(source) {
            return Ok(0);
        }
        let (transaction, pipeline, name) = self.named(source);
        held::resolve(transaction, pipeline, name, source_ids).await.map_err(state)
    }

    async fn hold(&mut self, batch: &SourceBatch, refused: &[Refused]) -> Result<(), Error> {
        let Some(first) = refused.first() else { return Ok(()) };
        let mapped = self.for_whom.plan.of(batch.source);
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
        let policy = self.for_whom.policy;
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
        self.for_whom.holding.mark(batch.source);
        let (transaction, pipeline, name) = self.named(batch.source);
        held::hold(transaction, pipeline, name, &entries, policy.backoff).await.map_err(state)
    }

    pub(super) async fn advance(&mut self, position: &Position, seq: i64) -> Result<(), Error> {
        let advanced = checkpoint::advance(
            &mut self.transaction,
            &self.for_whom.pipeline,
            self.for_whom.epoch,
            seq,
            position,
            &self.for_whom.plan.scope_hash,
        );
        if advanced.await.map_err(state)? { Ok(()) } else { Err(Error::Fenced) }
    }

    pub(super) async fn commit(self) -> Result<(), Error> {
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
