//! Which mappings refer to which.

use super::{Leaving, Referring};
use crate::domain::{SourceIndex, TableName};
use crate::mapping::Finder;
use crate::pipeline::plan::{Mapped, Plan};

/// A reference of one mapping that may point at the rows of another.
#[derive(Debug, Clone)]
pub(in crate::pipeline) struct Inbound {
    pub source: SourceIndex,
    /// Index into the mapping's children, if it is one of theirs.
    pub child: Option<usize>,
    /// Index into the references, and into the finders of that.
    pub reference: usize,
    pub finder: usize,
}

impl Plan {
    pub(in crate::pipeline) fn has_references(&self) -> bool {
        self.mapped.iter().any(Mapped::has_references)
    }

    /// Mappings whose rows may have to be written because these leave.
    pub(in crate::pipeline) fn referring(&self, leaving: &Leaving) -> Vec<SourceIndex> {
        let mut found: Vec<SourceIndex> = Vec::new();
        let mut open: Vec<SourceIndex> = leaving.documents.iter().map(|(source, _)| *source).collect();
        open.extend(&leaving.sources);
        open.sort();
        open.dedup();
        while let Some(source) = open.pop() {
            for inbound in self.inbound(source) {
                if !found.contains(&inbound.source) {
                    found.push(inbound.source);
                    open.push(inbound.source);
                }
            }
        }
        found
    }

    /// Look-ups into a table, whoever writes it.
    pub(in crate::pipeline) fn lookups<'p>(
        &'p self,
        table: &'p TableName,
    ) -> impl Iterator<Item = &'p Finder> {
        let referring = self.mapped.iter().flat_map(Mapped::all_referring);
        referring
            .flat_map(Referring::finders)
            .filter(move |finder| finder.target.is_none() && finder.table == *table)
    }

    /// References that may point at rows of this mapping.
    pub(in crate::pipeline) fn inbound(&self, target: SourceIndex) -> Vec<Inbound> {
        let table = &self.of(target).mapping.table;
        let mut inbound = Vec::new();
        for mapped in &self.mapped {
            for (place, of) in mapped.all_referring().enumerate() {
                let child = place.checked_sub(1);
                let of_parent = of.child.map(|child| child.plan().parent_reference);
                // The rows of a junction go with either of their documents, and come with either.
                let is_junction = of.child.is_some_and(|child| child.plan().junction.is_some());
                let references = of.mapping.references.iter().enumerate();
                for (reference, plan) in references.filter(|_| !is_junction) {
                    for (finder, found) in plan.finders.iter().enumerate() {
                        let points = match &found.target {
                            Some(of) => of.index == target,
                            None => found.table == *table,
                        };
                        // Rows of one's own go with the document.
                        if points && of_parent != Some(reference) {
                            inbound.push(Inbound { source: mapped.mapping.index, child, reference, finder });
                        }
                    }
                }
            }
        }
        inbound
    }
}
