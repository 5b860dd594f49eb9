//! Rows that go: whoever refers to them is settled first, then they are deleted, children before parents.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::Error;
use super::commit::{apply, drop_rows, state};
use super::prepare::{SourceBatch, read};
use super::references::{Leaving, tuple_of_key};
use super::transaction::{Open, Tallies, Way};
use crate::config::Deletes;
use crate::domain::{CanonicalId, ClusterTime, RowKey, SourceIndex};
use crate::mapping::{Finder, OnDelete};
use crate::sink::{self, Outcome, Savepoint};
use crate::source;
use crate::state::row::Claim;
use crate::state::{held, wait};

impl Open<'_> {
    /// Children first: the order of the configuration has parents first.
    pub(super) async fn delete(
        &mut self,
        sources: &[SourceBatch],
        mut leaving: Leaving,
        read_after: ClusterTime,
        tallies: &mut Tallies,
    ) -> Result<(), Error> {
        self.savepoint = Savepoint::Missing;
        let with_deletes = sources.iter().filter(|batch| !batch.deletes.is_empty());
        let plan = &self.for_whom.plan;
        let hard: Vec<(SourceIndex, Vec<CanonicalId>)> = with_deletes
            .clone()
            .filter(|batch| plan.of(batch.source).mapping.deletes == Deletes::Hard)
            .map(|batch| (batch.source, batch.deletes.iter().map(|(id, _)| id.clone()).collect()))
            .collect();
        let mut going = Vec::with_capacity(hard.len());
        for (source, ids) in hard {
            going.push((source, self.keys_of(source, &ids).await?));
        }
        let mut also = self.let_go(going, &mut leaving, read_after, tallies).await?;
        also.sort_by_key(|batch| batch.source);
        let mut batches: Vec<&SourceBatch> = with_deletes.chain(&also).collect();
        batches.sort_by_key(|batch| batch.source);
        self.untie(&batches).await?;
        for batch in batches.into_iter().rev() {
            let outcome = self.remove_with_children(batch, tallies).await?;
            self.settle(batch, batch.deleted(), &[], outcome, tallies).await?;
            self.no_longer_wait(batch).await?;
        }
        self.let_abandoned_go(&mut leaving, read_after, tallies).await
    }

    /// Of rows in a circle none can go first: those that go later refer to none of those that go before them.
    async fn untie(&mut self, batches: &[&SourceBatch]) -> Result<(), Error> {
        let plan = Arc::clone(self.plan());
        for batch in batches {
            let mapped = plan.of(batch.source);
            let earlier = |finder: &Finder| {
                let goes = |other: &&&SourceBatch| plan.of(other.source).mapping.table == finder.table;
                batches.iter().filter(goes).any(|other| other.source > batch.source)
            };
            let ties = mapped.mapping.references.iter().filter(|reference| {
                let column = &mapped.mapping.columns[reference.column];
                reference.on_delete == OnDelete::Restrict
                    && !column.not_null
                    && reference.finders.iter().any(earlier)
            });
            for reference in ties {
                let ids: Vec<CanonicalId> = batch.deletes.iter().map(|(id, _)| id.clone()).collect();
                let none = Leaving::default();
                let keys = self.settling(&none).finding().row_keys(batch.source, &ids).await?;
                let keys: Vec<RowKey> = keys.into_iter().flatten().collect();
                let (target, portion) = (&mapped.target, self.portion);
                let cleared = sink::clear(&mut self.transaction, target, reference.column, &keys, portion);
                cleared.await.map_err(apply)?;
            }
        }
        Ok(())
    }

    /// Rows whose documents have changed their keys, and left them to nobody.
    async fn let_abandoned_go(
        &mut self,
        leaving: &mut Leaving,
        read_after: ClusterTime,
        tallies: &mut Tallies,
    ) -> Result<(), Error> {
        while !self.abandoned.is_empty() {
            let mut by_source: BTreeMap<SourceIndex, Vec<Claim>> = BTreeMap::new();
            for (source, claim) in std::mem::take(&mut self.abandoned) {
                leaving.rows.extend(claim.key.clone().map(|key| (source, key)));
                by_source.entry(source).or_default().push(claim);
            }
            for (source, claims) in &by_source {
                if self.for_whom.holding.may_be_occupied(*source) {
                    self.changed.rows(*source, claims.iter().filter_map(|claim| claim.key.clone()));
                }
            }
            let tuples = |source: SourceIndex, claims: &[Claim]| {
                let mapping = &self.for_whom.plan.of(source).mapping;
                let keys = claims.iter().filter_map(|claim| claim.key.as_ref());
                keys.map(|key| tuple_of_key(mapping, key)).collect()
            };
            let going = by_source.iter().map(|(source, claims)| (*source, tuples(*source, claims))).collect();
            let also = self.let_go(going, leaving, read_after, tallies).await?;
            self.remove_also(&also, tallies).await?;
            for (source, claims) in by_source {
                let Some(of_source) = self.claims(source) else { continue };
                let outcome = of_source.remove_abandoned(claims).await?;
                self.settle(&SourceBatch::new(source), std::iter::empty(), &[], outcome, tallies).await?;
            }
        }
        Ok(())
    }

    /// The keys of documents' rows, as tuples.
    async fn keys_of(&mut self, source: SourceIndex, ids: &[CanonicalId]) -> Result<Vec<Vec<u8>>, Error> {
        let keys = self.settling(&Leaving::default()).finding().document_keys(source, ids).await?;
        Ok(keys.into_iter().flatten().collect())
    }

    /// What must go with rows that go; the last that was found is the first to go.
    async fn remove_also(&mut self, also: &[SourceBatch], tallies: &mut Tallies) -> Result<(), Error> {
        for batch in also.iter().rev() {
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
    /// rows that must go with them. Rows are given by their keys, as tuples.
    async fn let_go(
        &mut self,
        mut going: Vec<(SourceIndex, Vec<Vec<u8>>)>,
        leaving: &mut Leaving,
        read_after: ClusterTime,
        tallies: &mut Tallies,
    ) -> Result<Vec<SourceBatch>, Error> {
        let mut also = Vec::new();
        let mut seen = HashSet::new();
        while !going.is_empty() {
            let mut referrers: BTreeMap<SourceIndex, Vec<CanonicalId>> = BTreeMap::new();
            for (source, keys) in going.drain(..) {
                for (of, id) in self.settling(leaving).referrers(source, &keys).await? {
                    if seen.insert((of, id.clone())) {
                        referrers.entry(of).or_default().push(id);
                    }
                }
            }
            for (of, ids) in referrers {
                let gone = self.read_again(of, &ids, leaving, read_after, tallies).await?;
                let ids: Vec<CanonicalId> = gone.deletes.iter().map(|(id, _)| id.clone()).collect();
                leaving.documents.extend(gone.deletes.iter().map(|(id, _)| (of, id.clone())));
                going.push((of, self.keys_of(of, &ids).await?));
                also.push(gone);
            }
            going.retain(|(_, keys)| !keys.is_empty());
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
        self.savepoint = Savepoint::Missing;
        if self.for_whom.plan.of(source).mapping.deletes == Deletes::Hard {
            self.let_source_go(source, read_after, tallies).await?;
        }
        if self.for_whom.holding.may_be_occupied(source) {
            self.changed.all_of(source);
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
            let keys = self.page(source, &mut last).await?;
            if last.is_none() {
                return Ok(());
            }
            let also = self.let_go(vec![(source, keys)], &mut leaving, read_after, tallies).await?;
            self.remove_also(&also, tallies).await?;
        }
    }

    /// The keys of the next rows, as tuples; `last` is the source_id of the last of them, or none at the end.
    async fn page(&mut self, source: SourceIndex, last: &mut Option<String>) -> Result<Vec<Vec<u8>>, Error> {
        if let Some(claims) = self.claims(source) {
            let ids = claims.page(last).await?;
            return self.keys_of(source, &ids).await;
        }
        let mapped = self.for_whom.plan.of(source);
        let page = sink::source_ids_after(&mut self.transaction, &mapped.target, last.as_deref());
        let page = page.await.map_err(apply)?;
        let keys = page.iter().map(|text| tuple_of_key(&mapped.mapping, &RowKey::of_text(text))).collect();
        *last = page.into_iter().next_back();
        Ok(keys)
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
}
