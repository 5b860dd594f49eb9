//! A systemic fault must not drain a collection into the table of held changes: one wrong column type, and every
//! document is "bad". Then the pipeline halts before the batch is committed, and tries it again until it fits.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use super::Error;

/// The latest changes that are looked at.
const WINDOW: u64 = 10_000;

/// What was committed lately, through all sessions of the process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct HoldLimit {
    /// Newly held changes of the window that are no reason yet. `None`: never one.
    limit: Option<u64>,
    latest: Arc<Mutex<Window>>,
}

/// By transaction, oldest first.
#[derive(Debug, Default)]
struct Window {
    transactions: VecDeque<Part>,
    sum: Part,
}

/// Of one transaction. What waits for a row is a change, but counts as held for nobody.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Part {
    pub changes: u64,
    /// For the first time: to be held again and again is no news.
    pub newly_held: u64,
}

impl HoldLimit {
    /// `limit` 0: none.
    pub fn new(limit: u64) -> Self {
        Self { limit: (limit > 0).then_some(limit), latest: Arc::default() }
    }

    /// Whether a transaction may commit: with it, not more than the limit and half of all are held.
    pub(super) fn check(&self, part: Part, what: &str) -> Result<(), Error> {
        let Some(limit) = self.limit.filter(|_| part.newly_held > 0) else { return Ok(()) };
        let sum = self.window(|window| window.with(part));
        if sum.newly_held <= limit || sum.newly_held * 2 <= sum.changes {
            return Ok(());
        }
        Err(Error::halt(
            format!("{} of the last {} changes cannot be applied: {what}", sum.newly_held, sum.changes),
            "correct the mapping or the table, and it goes on; if all of them are to be held, raise held.limit or set \
             it to 0",
        ))
    }

    pub(super) fn committed(&self, part: Part) {
        self.window(|window| window.push(part));
    }

    fn window<T>(&self, look: impl FnOnce(&mut Window) -> T) -> T {
        // Plain numbers: a panic elsewhere leaves them whole.
        look(&mut self.latest.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Window {
    fn with(&self, part: Part) -> Part {
        let mut sum = self.sum;
        sum.add(part);
        // As many of the oldest as do not belong to the window any more.
        for old in &self.transactions {
            if sum.changes - old.changes < WINDOW {
                break;
            }
            sum.take(*old);
        }
        sum
    }

    fn push(&mut self, part: Part) {
        if part == Part::default() {
            return;
        }
        let mut changes = self.sum.changes + part.changes;
        self.sum = self.with(part);
        self.transactions.push_back(part);
        while changes > self.sum.changes {
            let Some(old) = self.transactions.pop_front() else { break };
            changes -= old.changes;
        }
    }
}

impl Part {
    pub(super) fn add(&mut self, other: Self) {
        self.changes += other.changes;
        self.newly_held += other.newly_held;
    }

    fn take(&mut self, other: Self) {
        self.changes -= other.changes;
        self.newly_held -= other.newly_held;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(changes: u64, newly_held: u64) -> Part {
        Part { changes, newly_held }
    }

    #[test]
    fn both_conditions_must_hold() {
        let limit = HoldLimit::new(1_000);
        assert!(limit.check(part(1_000, 1_000), "").is_ok(), "not more than the limit");
        assert!(limit.check(part(3_000, 1_500), "").is_ok(), "not more than half");
        assert!(limit.check(part(2_000, 1_001), "").is_err());
        assert!(HoldLimit::new(0).check(part(9_000, 9_000), "").is_ok(), "switched off");
    }

    #[test]
    fn only_the_latest_changes_count_and_a_refused_transaction_leaves_no_trace() {
        let limit = HoldLimit::new(1_000);
        limit.committed(part(900, 900));
        assert!(limit.check(part(200, 200), "").is_err());
        assert!(limit.check(part(100, 100), "").is_ok());
        for _ in 0..10 {
            limit.committed(part(1_000, 0));
        }
        assert!(limit.check(part(1_000, 1_000), "").is_ok(), "those of before are long ago");
        assert!(limit.check(part(12_000, 7_000), "").is_err());
    }
}
