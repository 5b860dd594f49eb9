//! How long an answer of the server is waited for.
//!
//! ⚠ A connection that a firewall has forgotten stays open and silent for a quarter of an hour, while all others
//! live. But a server that has much to skip or to read is silent as well: whoever asks again asks for longer.

use std::time::{Duration, Instant};

use super::error::Fault;

/// What the longest look through an oplog is given in the end.
const LONGEST: Duration = Duration::from_secs(3600);

/// Doubles with each answer that does not come, and stays at twice of what the last one took: on a slow network a
/// large reply is not read in vain more than once.
#[derive(Debug)]
pub(super) struct Patience {
    first: Duration,
    now: Duration,
    took: Duration,
}

impl Patience {
    pub(super) fn new(first: Duration) -> Self {
        Self { first, now: first, took: Duration::ZERO }
    }

    /// What waits is dropped when the time is over, and its connection with it.
    pub(super) async fn wait_for<T>(&mut self, answer: impl Future<Output = T>) -> Result<T, Fault> {
        let began = Instant::now();
        let answer = tokio::time::timeout(self.now, answer).await;
        self.took = began.elapsed();
        answer.map_err(|_| {
            let silent = Fault::silent(self.now);
            self.now = (self.now * 2).min(LONGEST);
            silent
        })
    }

    /// What was waited for last is what was asked for.
    pub(super) fn answered(&mut self) {
        self.now = (self.took * 2).clamp(self.first, LONGEST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn patience_doubles_until_an_answer_comes() {
        let first = Duration::from_millis(50);
        let mut patience = Patience { now: first / 50, ..Patience::new(first) };
        for doubled in [2, 4, 8] {
            assert!(patience.wait_for(std::future::pending::<()>()).await.is_err());
            assert_eq!(patience.now, first / 50 * doubled);
        }
        // Something smaller that was asked on the way.
        assert_eq!(patience.wait_for(std::future::ready(7)).await, Ok(7));
        assert_eq!(patience.now, first / 50 * 8);
        patience.answered();
        assert_eq!(patience.now, first);
        patience.took = first * 3;
        patience.answered();
        assert_eq!(patience.now, first * 6);
    }
}
