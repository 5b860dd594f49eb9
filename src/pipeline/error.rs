//! How a session of the pipeline ends, other than by being done.

use std::error::Error as StdError;

use crate::domain::Namespace;
use crate::sink;

/// Every failure comes down to one of these; what they have in common is that everything in memory
/// is dropped and the state is loaded again before the pipeline goes on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody else is the leader, or the state is not the one we left (PostgreSQL was restored).
    #[error("the state in postgresql is no longer the one this session left")]
    Fenced,
    /// The plan must be made again: the catalog changed, or a new collection came.
    #[error("{because}")]
    Rebuild { because: &'static str },
    /// A collection nobody listed has events: the plan must be made again with it.
    #[error("collection {namespace} is new")]
    Discovered { namespace: Namespace },
    /// It will pass: a server is away, a lock was held too long.
    #[error("{stage} must try again")]
    Retry {
        stage: &'static str,
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// A statement on these rows, or its wait for a lock, took too long: it may pass with less at once.
    #[error("apply must try again with less at once")]
    TimedOut {
        #[source]
        source: Box<sink::Error>,
    },
    /// An operator wants nothing to be applied until they say so.
    #[error("paused by an operator since {since}")]
    Paused { since: String },
    /// Going on would lose or falsify something, or cannot work.
    #[error("{reason}")]
    Halt { reason: String, hint: String },
}

impl Error {
    /// What lets a paused pipeline go on.
    pub const RESUME: &str =
        "`rowstream resume` or POST /resume lets it go on; mind the oplog headroom until then";

    pub fn retry(stage: &'static str, source: impl StdError + Send + Sync + 'static) -> Self {
        Self::Retry { stage, source: Box::new(source) }
    }

    pub fn halt(reason: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Halt { reason: reason.into(), hint: hint.into() }
    }

    /// A chain of causes in one line, as logs and `/health` show it.
    pub fn chain(error: &(dyn StdError + 'static)) -> String {
        let mut line = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let text = error.to_string();
            // Some drivers paste the cause into their own message already.
            if !line.contains(&text) {
                line.push_str(": ");
                line.push_str(&text);
            }
            cause = error.source();
        }
        line
    }
}
