//! How far a run is, so that whoever leads next goes on with it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::report::SourceReport;
use super::walk::Step;
use crate::domain::CanonicalId;
use crate::mapping::Mapping;

/// What is kept of a run that goes on: nothing but what is compared and judged.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Progress {
    /// Of what the run has taken until then.
    pub seconds: f64,
    /// Mappings that are compared.
    pub done: Vec<Compared>,
    /// The one that is compared as a whole at the moment.
    pub current: Option<(Compared, Place)>,
}

/// What was compared of a mapping, as it was then: another one is compared anew.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Compared {
    pub hash: String,
    pub report: SourceReport,
}

/// Where a walk goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Place {
    /// With the documents from this id on.
    Documents(Vec<u8>),
    /// With the rows after this source_id; `None`: all of them.
    Rows(Option<String>),
}

impl Place {
    /// What follows a chunk that ends here.
    pub(super) fn after_chunk(upper: Option<&CanonicalId>) -> Self {
        upper.map_or(Self::Rows(None), |upper| Self::Documents(upper.as_bytes().to_vec()))
    }
}

impl Compared {
    fn is_of(&self, mapping: &Mapping) -> bool {
        self.report.source == mapping.source && self.hash == mapping.hash
    }
}

impl Progress {
    /// From what the state has kept; of another version, nothing is.
    pub(super) fn read(kept: Option<&Value>) -> Self {
        let kept = kept.and_then(|kept| serde_json::from_value(kept["kept"].clone()).ok());
        kept.unwrap_or_default()
    }

    pub(super) fn take_done(&mut self, mapping: &Mapping) -> Option<SourceReport> {
        let place = self.done.iter().position(|one| one.is_of(mapping))?;
        Some(self.done.swap_remove(place).report)
    }

    pub(super) fn take_current(&mut self, mapping: &Mapping) -> Option<(SourceReport, Place)> {
        let (compared, place) = self.current.take_if(|(one, _)| one.is_of(mapping))?;
        Some((compared.report, place))
    }
}

/// As the state has it: how far the run is, and where somebody else could go on, if that is known anew.
pub(super) fn told<'r>(reports: impl Iterator<Item = &'r SourceReport>, kept: Option<&Progress>) -> Value {
    let sources: Vec<Value> =
        reports.map(|report| json!({ "source": report.source, "documents": report.documents })).collect();
    match kept {
        None => json!({ "sources": sources }),
        Some(kept) => json!({ "sources": sources, "kept": kept }),
    }
}

/// Brings the steps of several workers into the order of their chunks: what is counted is always of the
/// documents before one place.
#[derive(Debug, Default)]
pub(super) struct Turns {
    next: u64,
    early: BTreeMap<u64, Step>,
}

impl Turns {
    pub(super) fn arrived(&mut self, step: Step) {
        self.early.insert(step.number, step);
    }

    pub(super) fn next(&mut self) -> Option<Step> {
        let step = self.early.remove(&self.next)?;
        self.next += 1;
        Some(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::look::Sight;

    #[test]
    fn chunks_count_in_their_order_whoever_is_faster() {
        let mut turns = Turns::default();
        let mut counted = |number: u64| {
            turns.arrived(Step { number, ..Step::new(0, Sight::default(), Place::Rows(None)) });
            std::iter::from_fn(|| turns.next()).map(|step| step.number).collect::<Vec<_>>()
        };
        assert_eq!(
            [counted(1), counted(3), counted(0), counted(2)],
            [vec![], vec![], vec![0, 1], vec![2, 3]]
        );
    }
}
