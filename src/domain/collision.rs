//! A unique value that another row has.

use std::fmt;

use super::RowKey;

/// What stands between a document and its row: the row of another one has a value of its own.
#[derive(Clone, PartialEq, Eq)]
pub struct Collision {
    /// Of the unique key.
    pub columns: Vec<String>,
    /// What both would have in them: a COPY tuple.
    pub value: Vec<u8>,
    /// The row that has it.
    pub occupant: RowKey,
}

impl Collision {
    /// What is added to the reason, where it is known whose row that is.
    pub fn told(owner: &str) -> String {
        format!(", which the row of {owner} has")
    }
}

/// The value is data of a document: it is never printed.
impl fmt::Debug for Collision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collision").field("columns", &self.columns).finish_non_exhaustive()
    }
}
