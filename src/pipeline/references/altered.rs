//! Rows that others find by what stands in them: when that changes, whoever did is settled again.

use std::collections::{BTreeMap, HashSet};

use super::{Referring, Settling};
use crate::config::ValueSpec;
use crate::domain::{CanonicalId, CopyFields, Row, SourceIndex};
use crate::mapping::{ColumnPlan, Finder, SoughtColumn};
use crate::pipeline::Error;
use crate::pipeline::commit::state;
use crate::pipeline::plan::{Mapped, Plan};
use crate::state::wait;

impl Plan {
    /// Columns of the mapping by which rows are looked up, or that references take, if a document can change
    /// them. Places among its columns.
    pub(super) fn relied_on(&self, source: SourceIndex) -> Vec<usize> {
        let mapping = &self.of(source).mapping;
        let mut names: HashSet<&str> = HashSet::new();
        for of in self.mapped.iter().flat_map(Mapped::all_referring) {
            for finder in others(of) {
                match &finder.target {
                    Some(target) if target.index == source => drop(names.insert(&finder.take)),
                    None if finder.table == mapping.table => {
                        names.insert(&finder.take);
                        names.extend(finder.key.iter().map(|column| column.name.as_str()));
                    }
                    Some(_) | None => {}
                }
            }
        }
        let relied_on = |column: &ColumnPlan| !is_fixed(column) && names.contains(column.name.as_str());
        let columns = mapping.columns.iter().enumerate();
        columns.filter(|(_, column)| relied_on(column)).map(|(place, _)| place).collect()
    }
}

/// Rows of one's own are written together with the document.
fn others<'p>(of: Referring<'p>) -> impl Iterator<Item = &'p Finder> {
    let of_parent = of.child.map(|child| child.plan().parent_reference);
    let references = of.mapping.references.iter().enumerate();
    references.filter(move |(place, _)| of_parent != Some(*place)).flat_map(|(_, plan)| &plan.finders)
}

/// Follows from the document's `_id`, or is written once.
fn is_fixed(column: &ColumnPlan) -> bool {
    column.insert_only || matches!(column.value, ValueSpec::KeyUuid | ValueSpec::KeyPrefixed(_))
}

impl Settling<'_> {
    /// Before these rows are written: the documents that have found their rows by what they say no longer, or
    /// have taken it.
    pub(in crate::pipeline) async fn altered(
        &mut self,
        source: SourceIndex,
        rows: &[Row],
    ) -> Result<Vec<(SourceIndex, CanonicalId)>, Error> {
        let waiting = self.waiting;
        let relied_on = waiting.relied_on(source);
        if rows.is_empty() || relied_on.is_empty() {
            return Ok(Vec::new());
        }
        let mapping = &self.plan.of(source).mapping;
        let ids: Vec<CanonicalId> = rows.iter().map(|row| row.id.clone()).collect();
        let mut finding = self.finding();
        let keys = finding.document_keys(source, &ids).await?;
        let mut altered: HashSet<usize> = HashSet::new();
        for place in relied_on {
            let column = &mapping.columns[*place];
            let finder = Finder::of_column(mapping, SoughtColumn::from(column));
            let before = finding.look(&finder, &keys).await?;
            for (number, (row, before)) in rows.iter().zip(before).enumerate() {
                let now = CopyFields::of_tuple(&row.tuple).nth(*place);
                if before.is_some_and(|before| Some(&before[..]) != now) {
                    altered.insert(number);
                }
            }
        }
        let keys: Vec<Vec<u8>> = keys
            .into_iter()
            .enumerate()
            .filter(|(number, _)| altered.contains(number))
            .filter_map(|(_, key)| key)
            .collect();
        self.referrers(source, &keys).await
    }

    /// They are read again, soon.
    pub(in crate::pipeline) async fn touch(
        &mut self,
        documents: Vec<(SourceIndex, CanonicalId)>,
    ) -> Result<(), Error> {
        let mut by_source: BTreeMap<SourceIndex, Vec<(String, CanonicalId)>> = BTreeMap::new();
        for (source, id) in documents {
            let source_id = id.source_id(self.plan.id_type(source));
            by_source.entry(source).or_default().push((source_id, id));
        }
        for (source, documents) in by_source {
            let name = &self.plan.of(source).mapping.source;
            self.waiting.mark("change", name);
            wait::touch(self.connection, self.pipeline, name, &documents).await.map_err(state)?;
        }
        Ok(())
    }
}
