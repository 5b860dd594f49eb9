//! Four real systems, whole: their collections, their tables with all constraints, their bad data.
//!
//! Each has its mapping, schema and look-ups in `config/examples/<system>`, and here a generator, an oracle that
//! computes the rows by itself, and a table of bad data with the outcome of each kind.

mod bad_data;
mod churn;
mod constraints;
mod decimal;
mod moment;
mod scene;

mod budget;
mod expenses;
mod nextcrm;
mod todo;
