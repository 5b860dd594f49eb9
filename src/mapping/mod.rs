//! A validated mapping compiled against its table: names resolved to columns, nothing left to fail on.
//!
//! What the catalog can tell is told before the first write: `compile` finds each column and whether its
//! value fits (`fit`), `table` whether the table can be written to and merged into. Constants and defaults
//! are the exception: [`crate::transform`] encodes them once, and refuses those that do not fit.

mod compile;
mod fit;
mod fit_reading;
mod hash;
mod problem;
mod table;

pub use compile::{ColumnPlan, Mapping, compile};
pub use problem::Problem;

#[cfg(test)]
mod tests;
