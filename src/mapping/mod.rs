//! A validated mapping compiled against its table: names resolved to columns, nothing left to fail on.

mod compile;

pub use compile::{ColumnPlan, Mapping, Problem, compile};
