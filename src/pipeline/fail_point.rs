//! Places where tests make the pipeline fail, wait or die: before and after each durable step. Without the feature
//! `failpoints` they are nothing.

use super::Error;

/// Where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailPoint {
    TakeLease,
    LeaseTaken,
    /// A chunk is written down, not committed.
    PlanChunk,
    /// Registered and not read.
    ReadChunk,
    /// Read and not settled with what the stream brought meanwhile.
    ChunkRead,
    /// Inside its transaction, before the first row.
    Copy,
    CommitChunk,
    /// The answer is lost.
    ChunkCommitted,
    /// A batch of the stream, before its documents are read.
    LookUp,
    /// Before the one statement of a batch that needs no more.
    AtOnce,
    /// Rows are written, the checkpoint is not.
    RowsWritten,
    Hold,
    Commit,
    /// The answer is lost.
    Committed,
}

impl FailPoint {
    pub const ALL: [Self; 14] = [
        Self::TakeLease,
        Self::LeaseTaken,
        Self::PlanChunk,
        Self::ReadChunk,
        Self::ChunkRead,
        Self::Copy,
        Self::CommitChunk,
        Self::ChunkCommitted,
        Self::LookUp,
        Self::AtOnce,
        Self::RowsWritten,
        Self::Hold,
        Self::Commit,
        Self::Committed,
    ];

    /// As in the variable FAILPOINTS.
    pub fn name(self) -> &'static str {
        match self {
            Self::TakeLease => "take_lease",
            Self::LeaseTaken => "lease_taken",
            Self::PlanChunk => "plan_chunk",
            Self::ReadChunk => "read_chunk",
            Self::ChunkRead => "chunk_read",
            Self::Copy => "copy",
            Self::CommitChunk => "commit_chunk",
            Self::ChunkCommitted => "chunk_committed",
            Self::LookUp => "look_up",
            Self::AtOnce => "at_once",
            Self::RowsWritten => "rows_written",
            Self::Hold => "hold",
            Self::Commit => "commit",
            Self::Committed => "committed",
        }
    }

    /// Whether a test wants to be here at all.
    pub fn is_given(self) -> bool {
        #[cfg(feature = "failpoints")]
        return armed::given().contains(self.name());
        #[cfg(not(feature = "failpoints"))]
        false
    }

    /// Does what FAILPOINTS says about this point, if anything.
    #[cfg(not(feature = "failpoints"))]
    pub fn reach(self) -> impl Future<Output = Result<(), Error>> {
        std::future::ready(Ok(()))
    }

    /// Does what FAILPOINTS says about this point, if anything: `return(error)`, `return(panic)`, `return(abort)`,
    /// `return(2000)` for so many milliseconds, and what the crate `fail` knows besides.
    #[cfg(feature = "failpoints")]
    pub async fn reach(self) -> Result<(), Error> {
        let Some(action) = armed::action(self.name()) else { return Ok(()) };
        tracing::info!(point = self.name(), action, "fail point reached");
        match action.as_str() {
            "error" => Err(Error::retry("fail", armed::Failed(self.name()))),
            "panic" => panic!("fail point {}", self.name()),
            "abort" => std::process::abort(),
            milliseconds => {
                let milliseconds = milliseconds.parse().expect("error, panic, abort or milliseconds");
                tokio::time::sleep(std::time::Duration::from_millis(milliseconds)).await;
                Ok(())
            }
        }
    }
}

/// Whether a test has taken the comparison of rows away, to see that nothing else finds what differs.
pub(crate) fn compares_nothing() -> bool {
    #[cfg(feature = "failpoints")]
    return armed::action("compare_nothing").is_some();
    #[cfg(not(feature = "failpoints"))]
    false
}

#[cfg(feature = "failpoints")]
mod armed {
    use std::collections::HashSet;
    use std::sync::LazyLock;

    #[derive(Debug, thiserror::Error)]
    #[error("fail point {0}")]
    pub(super) struct Failed(pub(super) &'static str);

    static GIVEN: LazyLock<HashSet<String>> = LazyLock::new(|| {
        let all = std::env::var("FAILPOINTS").unwrap_or_default();
        let points = all.split(';').filter_map(|one| one.split_once('='));
        let configure = |(name, actions): (&str, &str)| {
            fail::cfg(name.trim(), actions).expect("FAILPOINTS is point=actions;…");
            name.trim().to_owned()
        };
        points.map(configure).collect()
    });

    /// The points that FAILPOINTS names.
    pub(super) fn given() -> &'static HashSet<String> {
        &GIVEN
    }

    /// What is to be done at this point now; each asking counts.
    pub(super) fn action(point: &str) -> Option<String> {
        LazyLock::force(&GIVEN);
        fail::fail_point!(point, |action: Option<String>| action);
        None
    }
}
