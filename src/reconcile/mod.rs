//! Do rows say what their documents say? Documents are read and transformed again, their references filled, and
//! PostgreSQL compares what should be there with what is, by stored form and in both directions.
//!
//! Nothing here writes a table of the user's: comparing connections are read only by their own setting. What is
//! found is written into the state; a repair only asks the pipeline to read documents again.
//!
//! - [`look`] is the one comparison. It takes documents as a [`SourceBatch`] and gives [`Suspect`]s: what is
//!   missing, different or too much, each by table. A spot check, a full run, the second look and a repair all
//!   come down to it.
//! - A full run walks the documents (`walk`), then the rows that say they are the mapping's: those whose
//!   document it has not met are looked for in MongoDB, and those that have none are too much.
//! - Writes flow meanwhile. So nothing is a finding at first sight: suspects are looked at again (`settle`) once
//!   the pipeline has passed a time that was asked after the first look. Only what still differs, with the same
//!   document both times and nothing due for it, is a [`Finding`]. If nobody follows the stream, its changes
//!   since the checkpoint tell which suspects only wait for somebody to do so.
//! - A run that is cut off goes on where it was (`progress`): steps count in the order of their chunks, and how far
//!   the run is becomes known to the state only when nothing before that place is left to be judged.
//! - A re-sync is a full run that repairs (`resync`): what it finds is read again while it goes on, and judged at its
//!   end.
//! - A document that is held keeps its row as it was: it is counted, and is no finding. One that cannot be
//!   written and is not held is one.
//!
//! [`SourceBatch`]: crate::pipeline::SourceBatch
//! [`Finding`]: crate::state::reconcile::Finding

mod finding;
mod look;
mod progress;
mod repair;
mod report;
mod resync;
mod schedule;
mod settle;
mod verifier;
mod walk;

pub use finding::{Deviating, Kind, Suspect};
pub use repair::{RepairGroup, Repairer, Repairs, Which};
pub use report::{AssertionReport, Group, Report, SourceReport, Verdict};
pub use schedule::{Last, Next, next};
pub use verifier::{Duty, Extent, Options, Outcome, Verifier};
