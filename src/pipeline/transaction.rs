//! What is done inside of an open, fenced transaction: rows in and out, references settled, changes held.
//! It is begun in `commit`, and nowhere else.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use sqlx::PgConnection;
use uuid::Uuid;

use super::Error;
use super::claims::{self, Claims};
use super::commit::{ForWhom, HeldPolicy, Tally, Tx, apply, state};
use super::fail_point::FailPoint;
use super::hold_limit::Part;
use super::occupied::Changed;
use super::plan::Plan;
use super::prepare::{Refused, SourceBatch};
use super::references::{Leaving, Settling};
use crate::config::Deletes;
use crate::domain::{CanonicalId, Collision, Document, Portion, Position, Reason, Row, RowKey, SourceIndex};
use crate::mapping::{FAILED, PENDING};
use crate::sink::{self, Family, Greatest, Outcome, Refusal, Savepoint, Target};
use crate::state::held::{Entry, HeldAs, State};
use crate::state::resync::{self, Cause};
use crate::state::row::Claim;
use crate::state::wait::Wait;
use crate::state::{chunk, held, mapping, touch};

/// An open, fenced transaction.
pub(super) struct Open<'a> {
    pub(super) transaction: Tx<'a>,
    pub(super) for_whom: &'a ForWhom,
    pub(super) portion: Portion,
    /// Set behind the fence, for the first statement that writes.
    pub(super) savepoint: Savepoint,
    sequences: &'a mut HashMap<SourceIndex, Greatest>,
    part: Part,
    /// Why the first of those was held that nobody had held before.
    first_held: String,
    /// Somebody's wait is over once this is committed.
    pub(super) wakes: bool,
    /// Rows whose last document has another one now; they go when everything is written.
    pub(super) abandoned: Vec<(SourceIndex, Claim)>,
    /// Rows for whose values somebody may wait.
    pub(super) changed: Changed,
}

/// How rows come into a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Merge,
    /// By COPY, as long as every key is new.
    Straight,
}

pub(super) type Tallies = HashMap<SourceIndex, Tally>;

impl<'a> Open<'a> {
    pub(super) fn new(
        transaction: Tx<'a>,
        for_whom: &'a ForWhom,
        savepoint: Savepoint,
        sequences: &'a mut HashMap<SourceIndex, Greatest>,
    ) -> Self {
        Self {
            transaction,
            for_whom,
            portion: for_whom.pace.portion(),
            savepoint,
            sequences,
            part: Part::default(),
            first_held: String::new(),
            wakes: false,
            abandoned: Vec::new(),
            changed: Changed::default(),
        }
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
        self.note_rows(batch).await?;
        let (source, plan) = (batch.source, Arc::clone(self.plan()));
        let none = Leaving::default();
        let stubbed = self.settling(&none).stubbed(source, &batch.rows).await?;
        if let Some(mut claims) = self.claims(source) {
            // A row that is only marked stays where it is.
            let is_soft = matches!(claims.mapped.mapping.deletes, Deletes::Soft { .. });
            claims.referred = !is_soft && plan.is_referred_to(source);
            let written = claims.put(batch, way == Way::Straight, &stubbed).await?;
            self.abandoned.extend(written.abandoned.into_iter().map(|claim| (source, claim)));
            self.settling(&none).no_stubs(source, &stubbed).await?;
            return Ok(written.outcome);
        }
        let target = &plan.of(source).target;
        if !stubbed.is_empty() {
            self.savepoint = Savepoint::Missing;
        }
        for stubbed in &stubbed {
            let rows: Vec<&Row> =
                batch.rows.iter().filter(|row| stubbed.documents.contains(&row.id)).collect();
            let taken = sink::take_over(&mut self.transaction, target, &stubbed.columns, &rows).await;
            taken.map_err(apply)?;
        }
        self.settling(&none).no_stubs(source, &stubbed).await?;
        let written = match way {
            Way::Merge => {
                let savepoint = std::mem::take(&mut self.savepoint);
                sink::upsert_behind(&mut self.transaction, target, &batch.rows, self.portion, savepoint).await
            }
            Way::Straight => sink::insert_new(&mut self.transaction, target, &batch.rows, self.portion).await,
        };
        written.map_err(apply)
    }

    pub(super) async fn remove(
        &mut self,
        source: SourceIndex,
        deletes: &[(CanonicalId, String)],
    ) -> Result<Outcome, Error> {
        let ids: Vec<&str> = deletes.iter().map(|(_, source_id)| source_id.as_str()).collect();
        self.note(source, &ids, &[]).await?;
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
        self.savepoint = Savepoint::Missing;
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
    ) -> Result<(Outcome, Vec<sink::LeftOut>), sink::Error> {
        let portion = self.portion;
        sink::replace_children(&mut self.transaction, target, parent, families, refusal, portion).await
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
        if mapped.has_references() || mapped.mapping.key.is_claimed() {
            // More is written before the rows, and must survive a return to the savepoint of the rows.
            self.savepoint = Savepoint::Missing;
        }
        let mut filled =
            self.settling(leaving).fill(mapped.referring(), &mut batch.rows, &batch.documents).await?;
        batch.refused.extend(filled.refused);
        let mut altered = self.settling(leaving).altered(batch.source, &batch.rows).await?;
        let outcome = if mapped.children.is_empty() {
            self.write(batch, way).await?
        } else {
            let families = self.put_families(batch, leaving, way).await?;
            filled.waits.extend(families.waits);
            filled.again.extend(families.again);
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
            let mut settling = self.settling(leaving);
            settling.own(batch.source, &batch.rows).await?;
            if mapped.has_references() {
                filled.waits.extend(settling.own_ids(batch));
            }
            settling.wait(batch.source, &all, &filled.waits).await?;
            altered.extend(filled.again.into_iter().map(|id| (batch.source, id)));
            let is_altered = !altered.is_empty();
            settling.touch(altered).await?;
            self.wakes |= settling.wake(batch.source, &batch.rows).await? > 0 || is_altered;
        }
        Ok(filled.waits)
    }

    pub(super) async fn look_again(&mut self, source: SourceIndex, waits: &[Wait]) -> Result<(), Error> {
        self.wakes |= self.settling(&Leaving::default()).look_again(source, waits).await? > 0;
        Ok(())
    }

    /// Whoever waits for these rows and was committed beside them, unseen: call after their commit.
    pub(super) async fn wake_again(&mut self, batch: &SourceBatch) -> Result<(), Error> {
        self.wakes |= self.settling(&Leaving::default()).wake(batch.source, &batch.rows).await? > 0;
        Ok(())
    }

    pub(super) async fn snapshot_again(&mut self, source: SourceIndex) -> Result<(), Error> {
        let (transaction, pipeline, name) = self.named(source);
        mapping::snapshot_again(transaction, pipeline, name).await.map_err(state)
    }

    pub(super) async fn collection_ended(&mut self, source: SourceIndex) -> Result<(), Error> {
        let (transaction, pipeline, name) = self.named(source);
        mapping::is_of_collection(transaction, pipeline, name, None).await.map_err(state)
    }

    /// It is followed from here on; what happened to it before, nobody has told.
    pub(super) async fn is_another(&mut self, source: SourceIndex, uuid: Uuid) -> Result<(), Error> {
        let (transaction, pipeline, name) = self.named(source);
        mapping::is_of_collection(transaction, pipeline, name, Some(uuid)).await.map_err(state)?;
        let (transaction, pipeline, name) = self.named(source);
        resync::ask(transaction, pipeline, &[name], Cause::History).await.map(drop).map_err(state)
    }

    /// Every source is due for a re-sync.
    pub(super) async fn resync(&mut self, cause: Cause) -> Result<(), Error> {
        let plan = Arc::clone(self.plan());
        self.savepoint = Savepoint::Missing;
        let asked = resync::ask(&mut self.transaction, &self.for_whom.pipeline, &plan.names(), cause).await;
        asked.map(drop).map_err(state)
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
    pub(super) async fn settle(
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
        let overdue = self.hold(batch, &refused, &outcome.collisions).await?;
        let tally = tallies.entry(batch.source).or_default();
        tally.overdue += overdue;
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

    /// Returns how many of them have waited for a row for too long by now.
    pub(super) async fn hold(
        &mut self,
        batch: &SourceBatch,
        refused: &[Refused],
        collisions: &[(CanonicalId, Collision)],
    ) -> Result<u64, Error> {
        if refused.is_empty() {
            return Ok(0);
        }
        let mapped = self.for_whom.plan.of(batch.source);
        // Not one that waits: who halts for a row that is not there yet never gets to it.
        let fault = refused.iter().find(|refused| refused.rejection.reason != Reason::UnresolvedReference);
        if let Some(first) = fault.filter(|_| mapped.mapping.critical) {
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
        // Its value is part of the document.
        let known = collisions.iter().filter(|_| policy.keep_document);
        let collisions: HashMap<&CanonicalId, &Collision> =
            known.map(|(id, collision)| (id, collision)).collect();
        let entries: Vec<Entry> = refused
            .iter()
            .map(|refused| {
                let document = documents.get(&refused.id).copied();
                Entry {
                    source_id: refused.id.source_id(mapped.mapping.id_type),
                    id: refused.id.clone(),
                    rejection: refused.rejection.clone(),
                    collision: collisions.get(&refused.id).copied().cloned(),
                    document: document.filter(|document| policy.keeps(document)).map(Document::to_vec),
                    document_bytes: document.map(|document| document.len() as i64),
                }
            })
            .collect();
        FailPoint::Hold.reach().await?;
        self.for_whom.holding.mark(batch.source);
        let target = claims::target(&mapped.mapping);
        if !collisions.is_empty() {
            let sources = self.for_whom.plan.of_target(&target);
            sources.for_each(|source| self.for_whom.holding.mark_occupied(source));
        }
        let (transaction, pipeline, name) = self.named(batch.source);
        let held = held::hold(transaction, pipeline, name, &target, &entries, policy.backoff);
        let held = held.await.map_err(state)?;
        let new = held.iter().filter(|held| held.is_new_fault).count() as u64;
        if let Some(first) = fault.filter(|_| self.part.newly_held == 0 && new > 0) {
            self.first_held = format!("{}, of mapping {}", first.rejection, mapped.mapping.source);
        }
        self.part.newly_held += new;
        let overdue = held.iter().filter(|held| held.is_overdue).count() as u64;
        let (transaction, pipeline, name) = self.named(batch.source);
        let mark = |(entry, held): (&Entry, &HeldAs)| {
            let status = if held.state == State::Waiting { PENDING } else { FAILED };
            (entry.source_id.clone(), status, entry.rejection.to_string())
        };
        let marks: Vec<(String, &str, String)> = match mapped.mapping.sync.marks_held() {
            true => entries.iter().zip(&held).map(mark).collect(),
            false => Vec::new(),
        };
        if held.iter().any(|held| held.collides_anew) {
            held::try_together(transaction, pipeline, name).await.map_err(state)?;
        }
        self.mark_held(batch.source, marks).await?;
        Ok(overdue)
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

    /// What a repair wanted to be read again has been.
    pub(super) async fn repaired(&mut self, batches: &[SourceBatch]) -> Result<(), Error> {
        if !self.for_whom.repairing.is_wanted() {
            return Ok(());
        }
        for batch in batches {
            let ids = batch.source_ids(&self.for_whom.plan);
            let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
            let (transaction, pipeline, name) = self.named(batch.source);
            let done = touch::done(transaction, pipeline, name, &ids).await.map_err(state)?;
            self.for_whom.repairing.done(done);
        }
        Ok(())
    }

    /// With the position that is reached by it.
    pub(super) async fn commit_at(mut self, position: &Position, seq: i64) -> Result<(), Error> {
        self.release_values().await?;
        self.for_whom.limit.check(self.part, &self.first_held)?;
        self.transaction.commit_at(position, seq).await?;
        self.for_whom.committed(self.part, self.wakes);
        Ok(())
    }

    pub(super) async fn commit(mut self) -> Result<(), Error> {
        self.release_values().await?;
        self.for_whom.limit.check(self.part, &self.first_held)?;
        self.transaction.commit().await?;
        self.for_whom.committed(self.part, self.wakes);
        Ok(())
    }
}

impl HeldPolicy {
    fn keeps(&self, document: &Document) -> bool {
        self.keep_document && document.len() <= self.max_document_bytes
    }
}
