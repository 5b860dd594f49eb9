//! A pooler that gives each transaction to whatever connection is free. Prepared statements, temporary tables,
//! settings and the locks of migrations belong to a session: behind such a pooler they are somebody else's, so
//! nothing is written there.

use std::time::Duration;

use sqlx::PgConnection;

use super::postgres;
use crate::config::Config;
use crate::pipeline::Error;
use crate::state::lease;

pub(super) const BETWEEN: &str = "a transaction pooler is in between: prepared statements, temporary tables and time-outs of a session get lost";
pub(super) const HINT: &str =
    "connect to the server itself, or let the pooler give out whole sessions (pool_mode = session)";

/// Rounds of looks. Behind an idle pooler the first one tells; what others do there meanwhile may hide it once.
const ROUNDS: usize = 3;

const PATIENCE: Duration = Duration::from_secs(5);

/// Halts if there is one.
pub async fn refuse_pooler(config: &Config, connection: &mut PgConnection) -> Result<(), Error> {
    if is_between(config, connection).await { Err(Error::halt(BETWEEN, HINT)) } else { Ok(()) }
}

/// Seen by two sessions that meet in one process of the server, or by one that changes its process. A server that
/// does not answer is a matter of whoever asks it next.
pub(super) async fn is_between(config: &Config, connection: &mut PgConnection) -> bool {
    tokio::time::timeout(PATIENCE, look(config, connection)).await.unwrap_or(false)
}

async fn look(config: &Config, connection: &mut PgConnection) -> bool {
    let Ok(mut other) = postgres::connect(&config.postgres, "rowstream check").await else { return false };
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        first.extend(lease::process(connection).await);
        second.extend(lease::process(&mut other).await);
    }
    shows_a_pooler(&first, &second)
}

/// Whether processes that served two sessions in turn show that neither had one of its own.
fn shows_a_pooler(first: &[i32], second: &[i32]) -> bool {
    let moved = |pids: &[i32]| pids.windows(2).any(|pair| pair[0] != pair[1]);
    moved(first) || moved(second) || first.iter().any(|pid| second.contains(pid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_that_change_or_share_their_process_are_pooled() {
        assert!(!shows_a_pooler(&[1, 1, 1], &[2, 2]));
        assert!(shows_a_pooler(&[1, 1, 1], &[1, 1]));
        assert!(shows_a_pooler(&[1, 2, 1], &[3, 3]));
        assert!(shows_a_pooler(&[1, 1, 2], &[3, 3]));
    }
}
