//! The promises, tested at their seams, on a real mongod replica set and a real PostgreSQL.

#[path = "../support/mod.rs"]
mod support;

mod daemon;
mod oracle;
mod stage;

mod chunk_order;
mod command_line;
mod demo;
mod health;
mod held;
mod ids;
mod kills;
mod layering;
mod lease;
mod namespaces;
mod operations;
mod outages;
mod path;
mod references;
mod restored;
mod sink_stage;
mod source_stage;
mod systems;
mod whole_database;
mod writer;
