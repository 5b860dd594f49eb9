//! pipeline

mod moment;
mod status;

pub use moment::Moment;
pub use status::{
    Checkpoint, EventTime, Halt, HeldCounts, LAG_FRESH_FOR, Lag, LastRejection, Link, LinkState, Oplog, Role,
    RowCounts, STALLED_AFTER, SnapshotState, SnapshotStatus, SourceStatus, Status, StatusSnapshot,
};
