//! References are settled inside the transaction that writes their rows: what they point at is looked for
//! there, what is missing follows its rule, and whoever points at a row that goes is settled first.
//!
//! [`Finding`] only reads, so a verifier fills rows with it as they should be; [`Settling`] also makes the rows
//! that are missing, and remembers who waits for what.

mod altered;
mod fill;
mod find;
mod inbound;
mod referrers;
mod stub;
mod wait;

use std::collections::HashSet;

use sqlx::PgConnection;

use super::plan::{Mapped, MappedChild, Plan};
use super::prepare::SourceBatch;
use crate::config::Deletes;
use crate::domain::{CanonicalId, RowKey, SourceIndex, TableName};
use crate::mapping::{Finder, Mapping};
use crate::transform::ChildTransformer;

pub use fill::{LeftOut, Settled};
pub use find::Finding;
pub(super) use find::owned;
pub(crate) use find::tuple_of_key;
pub use stub::StubMaker;
pub(super) use stub::Stubbed;
pub(super) use wait::Waiting;

/// Rows that go in this transaction: nothing points at them any more.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    pub documents: HashSet<(SourceIndex, CanonicalId)>,
    pub sources: HashSet<SourceIndex>,
    /// Rows that no document stands for any more, by their keys.
    pub rows: HashSet<(SourceIndex, RowKey)>,
    /// Mappings whose documents may leave rows behind when their keys change.
    pub shared: HashSet<SourceIndex>,
}

impl Leaving {
    /// The documents that are deleted in this batch.
    pub(super) fn of(plan: &Plan, batches: &[SourceBatch]) -> Self {
        let written = batches.iter().map(|batch| batch.source);
        // A row that is only marked stays, and what points at it points at a row.
        let batches = batches.iter().filter(|batch| plan.of(batch.source).mapping.deletes == Deletes::Hard);
        let documents = batches
            .flat_map(|batch| batch.deletes.iter().map(|(id, _)| (batch.source, id.clone())))
            .collect();
        let shared = written.filter(|source| plan.of(*source).mapping.key.shared).collect();
        Self { documents, shared, ..Self::default() }
    }

    /// The mappings that lose rows of this table.
    fn tables<'p>(&self, plan: &'p Plan, table: &TableName) -> Vec<&'p Mapping> {
        let loses = |mapped: &&Mapped| {
            let source = mapped.mapping.index;
            mapped.mapping.table == *table
                && (self.sources.contains(&source)
                    || self.documents.iter().any(|(of, _)| *of == source)
                    || self.rows.iter().any(|(of, _)| *of == source))
        };
        plan.mapped.iter().filter(loses).map(|mapped| &*mapped.mapping).collect()
    }

    fn has(&self, source: SourceIndex, id: &CanonicalId) -> bool {
        self.sources.contains(&source)
            || (!self.documents.is_empty() && self.documents.contains(&(source, id.clone())))
    }
}

/// Whose references are settled: the rows of a mapping, or those of a child table.
#[derive(Debug, Clone, Copy)]
pub struct Referring<'p> {
    mapping: &'p Mapping,
    stubs: &'p [Option<StubMaker>],
    child: Option<&'p ChildTransformer>,
}

impl Mapped {
    pub fn referring(&self) -> Referring<'_> {
        Referring { mapping: &self.mapping, stubs: &self.stubs, child: None }
    }

    pub(super) fn has_references(&self) -> bool {
        !self.mapping.references.is_empty() || !self.children.is_empty()
    }

    /// Its own rows, and those of each child table.
    fn all_referring(&self) -> impl Iterator<Item = Referring<'_>> {
        std::iter::once(self.referring()).chain(self.children.iter().map(MappedChild::referring))
    }
}

impl MappedChild {
    pub fn referring(&self) -> Referring<'_> {
        let mapping = self.transformer.mapping();
        Referring { mapping, stubs: &self.stubs, child: Some(&self.transformer) }
    }
}

impl<'p> Referring<'p> {
    fn finders(self) -> impl Iterator<Item = &'p Finder> {
        self.mapping.references.iter().flat_map(|reference| &reference.finders)
    }
}

/// One place where references are settled: an open transaction and what it needs to know.
#[derive(Debug)]
pub(super) struct Settling<'a> {
    pub connection: &'a mut PgConnection,
    pub pipeline: &'a str,
    pub plan: &'a Plan,
    pub waiting: &'a Waiting,
    pub leaving: &'a Leaving,
}

impl Settling<'_> {
    pub(super) fn finding(&mut self) -> Finding<'_> {
        Finding {
            connection: self.connection,
            pipeline: self.pipeline,
            plan: self.plan,
            leaving: Some(self.leaving),
        }
    }
}
