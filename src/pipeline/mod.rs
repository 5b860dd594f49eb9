//! The loop that joins the stages: stream and snapshot in, transactions out.
//!
//! A *session* is one uninterrupted stretch of work under one epoch of the lease. Whatever goes wrong
//! ends the session; the next one loads the state from PostgreSQL and goes on from there. Nothing that
//! was in memory survives, so nothing in memory needs to be right after a failure.

mod ahead;
mod at_once;
mod batch;
mod children;
mod claims;
mod commit;
mod departure;
mod error;
mod fail_point;
mod foreseen;
mod hold_limit;
mod holding;
mod junctions;
mod load;
mod moment;
mod occupied;
mod others;
mod outstanding;
mod pace;
mod plan;
mod prepare;
mod references;
mod repairing;
mod report;
mod session;
mod snapshot;
mod status;
mod stream;
mod transaction;

pub use batch::Limits;
pub(crate) use claims::{scope as claims_of, target as claimed};
pub use commit::HeldPolicy;
pub(crate) use commit::{apply, state};
pub use error::Error;
pub use fail_point::FailPoint;
pub(crate) use fail_point::compares_nothing;
pub use hold_limit::HoldLimit;
pub use load::{Loaded, load};
pub use moment::Moment;
pub use others::Others;
pub use pace::Pace;
pub use plan::{Mapped, MappedChild, Plan};
pub(crate) use prepare::read;
pub use prepare::{Refused, SourceBatch};
pub(crate) use references::tuple_of_key;
pub use references::{Finding, LeftOut, Referring, Settled, StubMaker};
pub use report::Report;
pub use session::{End, Finish, Session, SessionState};
pub use status::{
    Checkpoint, Drift, EventTime, Halt, HeldCounts, LAG_FRESH_FOR, Lag, LastReconcile, LastRejection, Link,
    LinkState, Oplog, ResyncStatus, Role, RowCounts, STALLED_AFTER, Sighting, SnapshotState, SnapshotStatus,
    SourceStatus, Status, StatusSnapshot,
};
