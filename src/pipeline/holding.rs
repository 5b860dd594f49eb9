//! Which sources may have held changes. Nearly all have none, and then nothing need be resolved: one
//! statement less in every transaction. Likewise for those who wait for a unique value of another row.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::domain::SourceIndex;

/// Right because only the leader holds changes: loaded under its epoch, marked before the
/// transaction that holds one commits, never unmarked while the session lasts. Transactions of chunks
/// and of the stream exclude each other, so that whoever looks sees every mark that was committed.
#[derive(Debug)]
pub(super) struct Holding {
    /// By `SourceIndex`.
    held: Vec<AtomicBool>,
    /// By `SourceIndex`: whether somebody may wait for a row of its table to give a value up.
    occupied: Vec<AtomicBool>,
}

impl Holding {
    pub(super) fn new(sources: usize, held: &[SourceIndex], occupied: &[SourceIndex]) -> Self {
        let none = || (0..sources).map(|_| AtomicBool::new(false)).collect();
        let holding = Self { held: none(), occupied: none() };
        for source in held {
            holding.mark(*source);
        }
        for source in occupied {
            holding.mark_occupied(*source);
        }
        holding
    }

    pub(super) fn mark(&self, source: SourceIndex) {
        if let Some(held) = self.held.get(usize::from(source.0)) {
            held.store(true, Ordering::Release);
        }
    }

    pub(super) fn may_hold(&self, source: SourceIndex) -> bool {
        self.held.get(usize::from(source.0)).is_none_or(|held| held.load(Ordering::Acquire))
    }

    pub(super) fn mark_occupied(&self, source: SourceIndex) {
        if let Some(occupied) = self.occupied.get(usize::from(source.0)) {
            occupied.store(true, Ordering::Release);
        }
    }

    pub(super) fn may_be_occupied(&self, source: SourceIndex) -> bool {
        self.occupied.get(usize::from(source.0)).is_none_or(|occupied| occupied.load(Ordering::Acquire))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_without_held_changes_has_nothing_to_resolve_until_one_is_held() {
        let holding = Holding::new(2, &[SourceIndex(1)], &[]);
        assert!(!holding.may_hold(SourceIndex(0)) && holding.may_hold(SourceIndex(1)));
        holding.mark(SourceIndex(0));
        assert!(holding.may_hold(SourceIndex(0)) && !holding.may_be_occupied(SourceIndex(0)));
        holding.mark_occupied(SourceIndex(0));
        assert!(holding.may_be_occupied(SourceIndex(0)) && !holding.may_be_occupied(SourceIndex(1)));
    }
}
