//! How much is tried at once: less after something took too long, more again while it goes well.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::batch::Limits;
use crate::domain::Portion;

/// Commits in a row until twice as much is tried, the first time. Too low: every few commits a statement
/// runs into its time-out again. Too high: a lock that was held once makes for small batches for minutes.
const COMMITS_UNTIL_MORE: u32 = 8;

/// Doubled after each time-out up to here, so that a table that stays slow costs few time-outs.
const MOST_COMMITS_UNTIL_MORE: u32 = 1_024;

/// Even the largest batch that can be configured is a single change by then.
const MOST_HALVINGS: u32 = 20;

/// Outlives sessions: the one thing a session learns from the failure of another. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Pace {
    whole: Limits,
    present: Arc<Mutex<Present>>,
}

#[derive(Debug)]
struct Present {
    halvings: u32,
    /// Since the last time-out or the last doubling.
    commits: u32,
    commits_until_more: u32,
}

impl Pace {
    pub fn new(whole: Limits) -> Self {
        let present = Present { halvings: 0, commits: 0, commits_until_more: COMMITS_UNTIL_MORE };
        Self { whole, present: Arc::new(Mutex::new(present)) }
    }

    /// As configured.
    pub(super) fn whole(&self) -> Limits {
        self.whole
    }

    pub fn limits(&self) -> Limits {
        self.whole.portion(self.portion())
    }

    pub(super) fn portion(&self) -> Portion {
        Portion::halved(self.present().halvings)
    }

    /// A statement, or the wait for a lock, took too long.
    pub fn timed_out(&self) {
        let mut present = self.present();
        present.halvings = (present.halvings + 1).min(MOST_HALVINGS);
        present.commits = 0;
        present.commits_until_more = (present.commits_until_more * 2).min(MOST_COMMITS_UNTIL_MORE);
    }

    /// It happened with so many changes: a half of them is to be tried next, not a half of what was allowed.
    pub(super) fn timed_out_with(&self, changes: usize) {
        let mut present = self.present();
        while present.halvings < MOST_HALVINGS
            && Portion::halved(present.halvings).of(self.whole.max_changes) > changes.max(1)
        {
            present.halvings += 1;
        }
    }

    pub(super) fn committed(&self) {
        let mut present = self.present();
        if present.halvings == 0 {
            return;
        }
        present.commits += 1;
        if present.commits >= present.commits_until_more {
            present.commits = 0;
            present.halvings -= 1;
        }
        if present.halvings == 0 {
            present.commits_until_more = COMMITS_UNTIL_MORE;
        }
    }

    fn present(&self) -> MutexGuard<'_, Present> {
        // Plain numbers: a panic elsewhere leaves them whole.
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace() -> Pace {
        Pace::new(Limits { max_changes: 5_000, max_bytes: 8 << 20 })
    }

    fn commits_until_more(pace: &Pace) -> u32 {
        let before = pace.limits().max_changes;
        (1..)
            .find(|_| {
                pace.committed();
                pace.limits().max_changes > before
            })
            .expect("it grows")
    }

    #[test]
    fn each_time_out_halves_and_good_commits_double() {
        let pace = pace();
        pace.timed_out();
        pace.timed_out();
        assert_eq!((pace.limits().max_changes, pace.limits().max_bytes), (1_250, 2 << 20));
        assert_eq!(commits_until_more(&pace), 32);
        assert_eq!(commits_until_more(&pace), 32);
        assert_eq!(pace.limits().max_changes, 5_000);
        pace.timed_out();
        assert_eq!(commits_until_more(&pace), 16, "what was learned is forgotten once all is well");
    }

    #[test]
    fn a_small_batch_that_took_too_long_is_halved_itself_and_one_change_stays_one() {
        let pace = pace();
        pace.timed_out_with(300);
        pace.timed_out();
        assert_eq!(pace.limits().max_changes, 78);
        pace.timed_out_with(1_000);
        pace.timed_out();
        assert_eq!(pace.limits().max_changes, 39, "no more than was allowed");
        for _ in 0..50 {
            pace.timed_out_with(0);
            pace.timed_out();
        }
        assert_eq!((pace.limits().max_changes, pace.limits().max_bytes), (1, 8));
    }
}
