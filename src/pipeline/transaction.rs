//! What is done inside of an open, fenced transaction: rows in and out, references settled, changes held.
//! It is begun in `commit`, and nowhere else.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use sqlx::PgConnection;

use super::Error;
use super::claims::Claims;
use super::commit::{ForWhom, HeldPolicy, Tally, Tx, apply, drop_rows, state};
use super::fail_point::FailPoint;
use super::hold_limit::Part;
use super::plan::Plan;
use super::prepare::{Refused, SourceBatch, read};
use super::references::{Leaving, Settling};
use crate::config::Deletes;
use crate::domain::{CanonicalId, ClusterTime, Document, Portion, Position, Reason, RowKey, SourceIndex};
use crate::mapping::{FAILED, OnDelete, PENDING};
use crate::sink::{self, Family, Greatest, Outcome, Refusal, Target};
use crate::source;
use crate::state::held::Entry;
use crate::state::wait::Wait;
use crate::state::{checkpoint, chunk, held, mapping, wait};

/// An open, fenced transaction.
pub(super) struct Open<'a> {
    transaction: Tx<'a>,
    for_whom: &'a ForWhom,
    portion: Portion,
    sequences: &'a mut HashMap<SourceIndex, Greatest>,
    part: Part,
    /// Why the first of those was held that nobody had held before.
    first_held: String,
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
    pub(super) fn new(
        transaction: Tx<'a>,
        for_whom: &'a ForWhom,
        sequences: &'a mut HashMap<SourceIndex, Greatest>,
    ) -> Self {
        let portion = for_whom.pace.portion();
        Self { transaction, for_whom, portion, sequences, part: Part::default(), first_held: String::new() }
    }

    pub(super) fn claims(&mut self, source: SourceIndex) -> Option<Claims<'_>> {
        let mapped = self.for_whom.plan.of(source);
        let is_claimed = mapped.mapping.key.is_claimed();
        is_claimed.then(|| Claims::new(&mut self.transaction, &self.for_whom.pipeline, mapped, self.portion))
    }

    /// The rows of the documents themselves.
    pub(super) async fn write(&mut self, batch: &SourceBatch, way: Way) -> Result<Outcome, Error> {
        if way == Way::Straight {
            FailPoint::Copy.reach().await?;
        }
        if let Some(claims) = self.claims(batch.source) {
            return claims.put(batch, way == Way::Straight).await;
        }
        let target = &self.for_whom.plan.of(batch.source).target;
        let written = match way {
            Way::Merge => sink::upsert(&mut self.transaction, target, &batch.rows, self.portion).await,
            Way::Straight => sink::insert_new(&mut self.transaction, target, &batch.rows, self.portion).await,
        };
        written.map_err(apply)
    }

    pub(super) async fn remove(
        &mut self,
        source: SourceIndex,
        deletes: &[(CanonicalId, String)],
    ) -> Result<Outcome, Error> {
        if let Some(claims) = self.claims(source) {
            return claims.delete(deletes).await;
        }
        let target = &self.for_whom.plan.of(source).target;
        let keys: Vec<(CanonicalId, RowKey)> =
            deletes.iter().map(|(id, source_id)| (id.clone(), RowKey::of_text(source_id))).collect();
        sink::delete(&mut self.transaction, target, &keys, self.portion).await.map_err(apply)
    }

    /// Before the rows are seen, so that nobody is handed a value that one of them has.
    async fn keep_sequences(&mut self, batch: &SourceBatch, outcome: &Outcome) -> Result<(), Error> {
        let target = &self.for_whom.plan.of(batch.source).target;
        let refused: HashSet<&CanonicalId> = outcome.rejected.iter().map(|(id, _)| id).collect();
        let written = batch.rows.iter().filter(|row| !refused.contains(&row.id));
        let seen = self.sequences.entry(batch.source).or_default();
        sink::keep_sequences(&mut self.transaction, target, written, seen).await.map_err(apply)
    }

    pub(super) fn named(&mut self, source: SourceIndex) -> (&mut PgConnection, &str, &str) {
        (&mut self.transaction, &self.for_whom.pipeline, &self.for_whom.plan.of(source).mapping.source)
    }

    pub(super) fn settling<'s>(&'s mut self, leaving: &'s Leaving) -> Settling<'s> {
        Settling {
            connection: &mut self.transaction,
            pipeline: &self.for_whom.pipeline,
            plan: &self.for_whom.plan,
            waiting: &self.for_whom.waiting,
            leaving,
        }
    }

    pub(super) fn plan(&self) -> &Arc<Plan> {
        &self.for_whom.plan
    }

    pub(super) async fn remember(&mut self, batch: &SourceBatch) -> Result<(), Error> {
        let target = &self.for_whom.plan.of(batch.source).target;
        sink::remember(&mut self.transaction, target).await.map_err(apply)
    }

    pub(super) async fn take_back(&mut self, batch: &SourceBatch) -> Result<(), Error> {
        let target = &self.for_whom.plan.of(batch.source).target;
        sink::take_back(&mut self.transaction, target).await.map_err(apply)
    }

    pub(super) async fn replace(
        &mut self,
        target: &Target,
        parent: usize,
        families: &[Family],
        refusal: Refusal,
    ) -> Result<(Outcome, u64), sink::Error> {
        let portion = self.portion;
        sink::replace_children(&mut self.transaction, target, parent, families, refusal, portion).await
    }

    /// With their children, if they have any.
    async fn remove_with_children(
        &mut self,
        batch: &SourceBatch,
        tallies: &mut Tallies,
    ) -> Result<Outcome, Error> {
        let mapped = self.for_whom.plan.of(batch.source);
        // A row that is only marked keeps its children.
        if mapped.children.is_empty() || mapped.mapping.deletes != Deletes::Hard {
            return self.remove(batch.source, &batch.deletes).await;
        }
        let (outcome, rows) = self.remove_families(batch).await?;
        tallies.entry(batch.source).or_default().children.extend(rows);
        Ok(outcome)
    }

    /// References first, then the rows; what waits from now on.
    pub(super) async fn put(
        &mut self,
        batch: &mut SourceBatch,
        leaving: &Leaving,
        way: Way,
        tallies: &mut Tallies,
    ) -> Result<Vec<Wait>, Error> {
        let plan = Arc::clone(self.plan());
        let mapped = plan.of(batch.source);
        let mut filled =
            self.settling(leaving).fill(mapped.referring(), &mut batch.rows, &batch.documents).await?;
        batch.refused.extend(filled.refused);
        let outcome = if mapped.children.is_empty() {
            self.write(batch, way).await?
        } else {
            let families = self.put_families(batch, leaving, way).await?;
            filled.waits.extend(families.waits);
            let tally = tallies.entry(batch.source).or_default();
            tally.coerced.extend(families.coerced);
            tally.children.extend(families.rows);
            families.outcome
        };
        self.keep_sequences(batch, &outcome).await?;
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
        let plan = &self.for_whom.plan;
        let going: Vec<(SourceIndex, Vec<CanonicalId>)> = with_deletes
            .clone()
            .filter(|batch| plan.of(batch.source).mapping.deletes == Deletes::Hard)
            .map(|batch| (batch.source, batch.deletes.iter().map(|(id, _)| id.clone()).collect()))
            .collect();
        let mut also = self.let_go(going, &mut leaving, read_after, tallies).await?;
        also.sort_by_key(|batch| batch.source);
        let mut batches: Vec<&SourceBatch> = with_deletes.chain(&also).collect();
        batches.sort_by_key(|batch| batch.source);
        for batch in batches.into_iter().rev() {
            let outcome = self.remove_with_children(batch, tallies).await?;
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
        if self.for_whom.plan.of(source).mapping.deletes == Deletes::Hard {
            self.let_source_go(source, read_after, tallies).await?;
        }
        let mapped = self.for_whom.plan.of(source);
        let deleted = drop_rows(&mut self.transaction, &self.for_whom.pipeline, mapped, self.portion).await?;
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
        let mut last: Option<String> = None;
        loop {
            let ids = self.page(source, &mut last).await?;
            if last.is_none() {
                return Ok(());
            }
            let also = self.let_go(vec![(source, ids)], &mut leaving, read_after, tallies).await?;
            for batch in also.iter().rev() {
                let outcome = self.remove_with_children(batch, tallies).await?;
                self.settle(batch, batch.deleted(), &[], outcome, tallies).await?;
                self.no_longer_wait(batch).await?;
            }
        }
    }

    /// The next documents that have rows; `last` is the source_id of the last of them, or none at the end.
    async fn page(
        &mut self,
        source: SourceIndex,
        last: &mut Option<String>,
    ) -> Result<Vec<CanonicalId>, Error> {
        if let Some(claims) = self.claims(source) {
            return claims.page(last).await;
        }
        let (target, id_type) = (&self.for_whom.plan.of(source).target, self.for_whom.plan.id_type(source));
        let page = sink::source_ids_after(&mut self.transaction, target, last.as_deref());
        let page = page.await.map_err(apply)?;
        let ids = page.iter().filter_map(|text| CanonicalId::from_source_id(text, id_type)).collect();
        *last = page.into_iter().next_back();
        Ok(ids)
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
        self.part.changes += (applied.len() + by_target.len() + before.len()) as u64;
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

    pub(super) async fn hold(&mut self, batch: &SourceBatch, refused: &[Refused]) -> Result<(), Error> {
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
        FailPoint::Hold.reach().await?;
        self.for_whom.holding.mark(batch.source);
        let (transaction, pipeline, name) = self.named(batch.source);
        let new = held::hold(transaction, pipeline, name, &entries, policy.backoff).await.map_err(state)?;
        if self.part.newly_held == 0 && new > 0 {
            self.first_held = format!("{}, of mapping {}", first.rejection, mapped.mapping.source);
        }
        self.part.newly_held += new;
        let (transaction, pipeline, name) = self.named(batch.source);
        let mark = |entry: &Entry| {
            let status = match entry.rejection.reason {
                Reason::UnresolvedReference => PENDING,
                _ => FAILED,
            };
            (entry.source_id.clone(), status, entry.rejection.to_string())
        };
        let marks: Vec<(String, &str, String)> = match mapped.mapping.sync.marks_held() {
            true => entries.iter().map(mark).collect(),
            false => Vec::new(),
        };
        let collides = |entry: &&Entry| entry.rejection.reason == Reason::UniqueViolation;
        let colliding: Vec<&str> =
            entries.iter().filter(collides).map(|entry| entry.source_id.as_str()).collect();
        if !colliding.is_empty() {
            held::try_together(transaction, pipeline, name, &colliding).await.map_err(state)?;
        }
        self.mark_held(batch.source, marks).await
    }

    /// Rows of held documents stay as they are, but for the columns that say so.
    async fn mark_held(
        &mut self,
        source: SourceIndex,
        marks: Vec<(String, &str, String)>,
    ) -> Result<(), Error> {
        if marks.is_empty() {
            return Ok(());
        }
        let ids: Vec<&str> = marks.iter().map(|(source_id, ..)| source_id.as_str()).collect();
        let keys: HashMap<String, RowKey> = match self.claims(source) {
            Some(claims) => claims.written(&ids).await?,
            None => ids.into_iter().map(|id| (id.to_owned(), RowKey::of_text(id))).collect(),
        };
        let with_row =
            |(source_id, status, error): (String, _, _)| Some((keys.get(&source_id)?.clone(), status, error));
        let marks: Vec<(RowKey, &str, String)> = marks.into_iter().filter_map(with_row).collect();
        let target = &self.for_whom.plan.of(source).target;
        sink::mark_held(&mut self.transaction, target, &marks).await.map_err(apply)
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
        self.for_whom.limit.check(self.part, &self.first_held)?;
        // An error here leaves open whether it happened. The next session takes the lease, which waits
        // for this transaction to end either way, and only then loads the state.
        self.transaction.commit().await.map_err(|error| Error::retry("commit", error))?;
        self.for_whom.limit.committed(self.part);
        Ok(())
    }
}

impl HeldPolicy {
    fn keeps(&self, document: &Document) -> bool {
        self.keep_document && document.len() <= self.max_document_bytes
    }
}
