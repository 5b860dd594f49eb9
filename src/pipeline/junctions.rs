//! Junctions that two collections keep: who lists whom is written down (`rowstream.link`), and a pair has its row
//! while either document lists the other and both have theirs. Whichever comes or changes last makes it right.

use std::collections::{HashMap, HashSet};

use super::Error;
use super::commit::{apply, state};
use super::plan::{Mapped, MappedChild};
use super::prepare::{Refused, SourceBatch};
use super::references::{Finding, Leaving, Settled};
use super::transaction::Open;
use crate::domain::{CanonicalId, Document, Row, Sought, SourceIndex, Tuples};
use crate::mapping::{JunctionPlan, TargetOfReference};
use crate::sink::Refusal;
use crate::state::link::{self, Link, List};

/// A child that is one side of a junction.
#[derive(Debug, Clone, Copy)]
pub(super) struct Listing<'p> {
    child: &'p MappedChild,
    junction: &'p JunctionPlan,
    other: &'p TargetOfReference,
}

impl MappedChild {
    /// `None`: only one collection keeps it.
    pub(super) fn listing(&self) -> Option<Listing<'_>> {
        let (junction, other) = self.transformer.plan().other_side()?;
        Some(Listing { child: self, junction, other })
    }
}

impl Mapped {
    /// Junctions both of whose sides are this mapping.
    fn own_junctions(&self) -> impl Iterator<Item = Listing<'_>> {
        let listings = self.children.iter().filter_map(MappedChild::listing);
        listings.filter(|listing| listing.other.index == self.mapping.index)
    }

    pub(super) fn has_own_junctions(&self) -> bool {
        self.own_junctions().next().is_some()
    }
}

impl<'p> Listing<'p> {
    pub(super) fn list<'l>(&'l self, pipeline: &'l str) -> List<'l> {
        List { pipeline, junction: &self.junction.name, side: self.junction.side }
    }

    fn source_ids(self, ids: &[CanonicalId]) -> Vec<String> {
        let id_type = self.child.transformer.mapping().id_type;
        ids.iter().map(|id| id.source_id(id_type)).collect()
    }

    /// What an element's row refers to.
    fn link(self, row: &Row) -> Option<Link> {
        let plan = self.junction.other as u16;
        let reference = row.references.iter().find(|reference| reference.plan == plan)?;
        let (_, Sought::Document(listed_id)) = reference.choices.first()? else { return None };
        Some(Link {
            lister: row.source_id.clone(),
            lister_id: row.id.clone(),
            listed: listed_id.source_id(self.other.id_type),
            listed_id: listed_id.clone(),
        })
    }
}

impl Finding<'_> {
    /// Fills the rows of a child as [`Finding::fill`] does. The elements of a junction become the rows of its pairs
    /// instead: what these documents list by their elements, and what lists them by what is remembered.
    pub async fn fill_child(
        &mut self,
        child: &MappedChild,
        ids: &[CanonicalId],
        rows: &mut Vec<Row>,
        documents: &[(CanonicalId, Document)],
    ) -> Result<Settled, Error> {
        let Some(listing) = child.listing() else {
            return self.fill(child.referring(), rows, documents).await;
        };
        let source_ids = listing.source_ids(ids);
        let asked: Vec<&str> = source_ids.iter().map(String::as_str).collect();
        let known = link::pairs(self.connection, listing.list(self.pipeline), &asked).await.map_err(state)?;
        let by_source_id: HashMap<&str, &CanonicalId> = asked.into_iter().zip(ids).collect();
        let mut pairs: HashSet<(CanonicalId, CanonicalId)> = rows
            .iter()
            .filter_map(|row| listing.link(row))
            .map(|link| (link.lister_id, link.listed_id))
            .collect();
        for pair in known.into_iter().filter(|pair| pair.is_others) {
            if let Some(id) = by_source_id.get(pair.own.as_str()) {
                pairs.insert(((*id).clone(), pair.other));
            }
        }
        rows.clear();
        let mut tuples = Tuples::default();
        let mut refused = Vec::new();
        for (id, other) in pairs {
            match listing.child.transformer.pair(&id, &other, &mut tuples) {
                Ok(row) => rows.push(row),
                Err(rejection) => refused.push(Refused { id, rejection }),
            }
        }
        let mut settled = self.fill(child.referring(), rows, documents).await?;
        settled.refused.append(&mut refused);
        Ok(settled)
    }
}

impl Open<'_> {
    /// These documents list what their elements, given as rows, refer to; with no rows they list nothing.
    pub(super) async fn list(
        &mut self,
        source: SourceIndex,
        listing: Listing<'_>,
        listers: &[CanonicalId],
        elements: &[Row],
    ) -> Result<(), Error> {
        let mut links: Vec<Link> = elements.iter().filter_map(|row| listing.link(row)).collect();
        let mut once = HashSet::new();
        links.retain(|link| once.insert((link.lister.clone(), link.listed.clone())));
        let source_ids = listing.source_ids(listers);
        let source_ids: Vec<&str> = source_ids.iter().map(String::as_str).collect();
        let (connection, pipeline, _) = self.named(source);
        link::replace(connection, listing.list(pipeline), &source_ids, &links).await.map_err(state)
    }

    /// The rows of these documents' pairs, both of whose documents have theirs. `left_out` are those that the
    /// documents list themselves, and `refused` has documents that lost their rows.
    pub(super) async fn pairs(
        &mut self,
        source: SourceIndex,
        listing: Listing<'_>,
        ids: &[CanonicalId],
        leaving: &Leaving,
    ) -> Result<(Vec<Row>, Settled), Error> {
        let source_ids = listing.source_ids(ids);
        let asked: Vec<&str> = source_ids.iter().map(String::as_str).collect();
        let (connection, pipeline, _) = self.named(source);
        let pairs = link::pairs(connection, listing.list(pipeline), &asked).await.map_err(state)?;
        let by_source_id: HashMap<&str, &CanonicalId> = asked.into_iter().zip(ids).collect();
        let (mut listed, mut listing_us) = (Vec::new(), Vec::new());
        let mut settled = Settled::default();
        let mut tuples = Tuples::default();
        for pair in pairs {
            let Some(id) = by_source_id.get(pair.own.as_str()).copied() else { continue };
            match listing.child.transformer.pair(id, &pair.other, &mut tuples) {
                Ok(row) if pair.is_own => listed.push(row),
                Ok(row) => listing_us.push(row),
                Err(rejection) => settled.refused.push(Refused { id: id.clone(), rejection }),
            }
        }
        // Nobody waits: the link is what is remembered.
        let referring = listing.child.referring();
        let filled = self.settling(leaving).fill(referring, &mut listed, &[]).await?;
        settled.left_out = filled.left_out;
        settled.refused.extend(filled.refused);
        let filled = self.settling(leaving).fill(referring, &mut listing_us, &[]).await?;
        settled.refused.extend(filled.refused);
        listed.append(&mut listing_us);
        Ok((listed, settled))
    }

    /// Pairs of documents that were copied beside each other, neither of which could see the other one's row: call
    /// after the commit of the chunk, in another transaction.
    pub(super) async fn pair_again(&mut self, batch: &SourceBatch) -> Result<(), Error> {
        let plan = self.plan().clone();
        let ids: Vec<CanonicalId> = batch.rows.iter().map(|row| row.id.clone()).collect();
        let leaving = Leaving::default();
        for listing in plan.of(batch.source).own_junctions() {
            let (connection, pipeline, _) = self.named(batch.source);
            link::alone(connection, listing.list(pipeline)).await.map_err(state)?;
            let (rows, _) = self.pairs(batch.source, listing, &ids, &leaving).await?;
            let compiled = listing.child.transformer.plan();
            let owners =
                self.settling(&leaving).finding().owners(batch.source, compiled.owner(), &ids).await?;
            let (families, _) = super::children::families(compiled, &ids, owners, rows);
            let target = &listing.child.target;
            let replaced = self.replace(target, compiled.parent, &families, Refusal::OfFamily).await;
            let (outcome, _) = replaced.map_err(apply)?;
            let refused: Vec<Refused> =
                outcome.rejected.into_iter().map(|(id, rejection)| Refused { id, rejection }).collect();
            self.hold(batch, &refused, &[]).await?;
        }
        Ok(())
    }
}
