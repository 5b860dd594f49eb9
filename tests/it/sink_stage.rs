//! The sink against a real PostgreSQL: shapes read, rows merged, bad rows isolated.
//! `DATABASE_URL` names the server; each test makes and drops a database of its own.

mod catalog;
mod refusals;
mod rows;
mod setup;
