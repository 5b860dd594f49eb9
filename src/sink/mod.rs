//! Target tables: reads their shape, writes their rows. Every function works inside the transaction of
//! its caller; savepoints are set here, transactions never. The statement of `AtOnce` alone is one by itself.
//!
//! A call either does what it can and names each row it could not write in `Outcome::rejected`, or
//! returns an error that concerns the whole batch and leaves the transaction to be rolled back.

mod arrays;
mod at_once;
mod catalog;
mod children;
mod compare;
mod copy;
mod error;
mod exchange;
mod find;
mod guard;
mod isolate;
mod keyed;
mod occupant;
mod owned;
mod sequence;
mod statement;
mod write;

use std::sync::Arc;

use crate::domain::{CanonicalId, Collision, Rejection};
use crate::mapping::Mapping;

pub use at_once::{AtOnce, InOut, Once, Reached};
pub use catalog::{create_sql, create_table, existing_comment, fingerprint, missing_tables, read_table};
pub use children::{
    Family, LeftOut, Refusal, drop_children, keys_of_owners, referring_parents, remember, replace_children,
    take_back,
};
pub use compare::{Comparison, Deviation, ShownValue, ask};
pub use error::{Disposition, Error, MalformedTuple, ServerError};
pub use find::{Candidate, candidates, delete_stub, find, insert_stubs, referrers};
pub use guard::{changed, guard, is_elsewhere, lock, lock_error, prepare_guard, same_names};
pub use isolate::Savepoint;
pub use keyed::{
    Rekeyed, adoptable, adoptable_by, clear, delete, has_unowned_rows, insert, mark_held, present, rekey,
    take_over,
};
pub use occupant::{Holder, holders};
pub use owned::has_row;
pub use sequence::{Greatest, keep_sequences};
pub use statement::{Around, Parts, SAVEPOINT};
pub use write::{Dropped, analyze, drop_rows, insert_new, source_ids_after, upsert, upsert_behind};

/// One mapping's table with its statements. A mapping that is compiled again is a new target.
#[derive(Debug, Clone)]
pub struct Target {
    mapping: Arc<Mapping>,
    statements: statement::Statements,
    wire_types: Vec<statement::WireType>,
    key_types: Vec<statement::WireType>,
}

impl Target {
    pub fn new(mapping: Arc<Mapping>) -> Self {
        let statements = statement::Statements::new(&mapping);
        let wire_types =
            mapping.columns.iter().map(|column| statement::WireType::of(&column.column_type)).collect();
        let key_types =
            mapping.key.columns.iter().map(|column| statement::key_wire(&mapping, column)).collect();
        Self { mapping, statements, wire_types, key_types }
    }

    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }
}

/// What became of the rows of one call: each is in one of the counts or in `rejected`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    pub inserted: u64,
    pub updated: u64,
    /// Already stored in just this form, given twice in one call, or kept away by a trigger.
    pub unchanged: u64,
    pub deleted: u64,
    pub rejected: Vec<(CanonicalId, Rejection)>,
    /// What is known of those among them that are in another row's way.
    pub collisions: Vec<(CanonicalId, Collision)>,
    /// A first load found a key taken or a row refused, and was merged instead.
    pub fell_back: bool,
}

impl Outcome {
    /// Both together.
    pub fn add(&mut self, other: Self) {
        self.inserted += other.inserted;
        self.updated += other.updated;
        self.unchanged += other.unchanged;
        self.deleted += other.deleted;
        self.rejected.extend(other.rejected);
        self.collisions.extend(other.collisions);
        self.fell_back |= other.fell_back;
    }
}
