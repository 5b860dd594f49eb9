//! The state schema `rowstream` in PostgreSQL, one file per table.
//!
//! Functions take a connection, never a pool: the caller owns the transaction. Progress is
//! monotonic in SQL, and every write of a leader checks its epoch there.

pub mod checkpoint;
pub mod chunk;
pub mod held;
pub mod lease;
pub mod left_out;
pub mod link;
pub mod mapping;
pub mod overview;
pub mod reconcile;
mod reset;
pub mod resync;
pub mod row;
mod schema;
pub mod touch;
pub mod transaction;
pub mod wait;

pub use reset::reset;
pub use schema::{MigrateError, SchemaState, grant, lacking, migrate, schema_state};
