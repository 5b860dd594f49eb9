//! A validated mapping compiled against its table: names resolved to columns, nothing left to fail on.
//!
//! What the catalog can tell is told before the first write: `compile` finds each column and whether its
//! value fits (`fit`), `table` whether the table can be written to and merged into. Constants and defaults
//! are the exception: [`crate::transform`] encodes them once, and refuses those that do not fit.

mod cascade;
mod child;
mod circle;
mod compile;
mod draft;
mod fit;
mod fit_reading;
mod hash;
mod key;
mod marks;
mod order;
mod problem;
mod reference;
mod table;
mod taking;

pub use child::{ChildPlan, JunctionPlan};
pub use compile::{ColumnPlan, Mapping, compile};
pub use draft::{
    Draft, DraftColumn, DraftForeignKey, DraftedFor, Inferred, Surroundings, child_as_mapping,
    drafted_children,
};
pub use hash::differences;
pub use key::{KeyColumn, KeyKind, KeyPlan, NoKey};
pub use marks::{FAILED, PENDING, SyncPlan};
pub use order::{Order, parents_first};
pub use problem::Problem;
pub use reference::{
    Finder, MissingPlan, OnDelete, ReferencePlan, SoughtColumn, StubPlan, TargetOfReference, link,
    looked_into,
};
pub use taking::Taking;

#[cfg(test)]
mod tests;
