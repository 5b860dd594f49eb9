//! The promises, tested at their seams, on a real mongod replica set and a real PostgreSQL.

#[path = "../support/mod.rs"]
mod support;

mod daemon;
mod following;
mod oracle;
mod stage;

mod check;
mod children;
mod chunk_order;
mod command_line;
mod custom;
mod demo;
mod drift;
mod elections;
mod exchange;
#[cfg(feature = "failpoints")]
mod fail_points;
mod filter;
mod health;
mod held;
mod held_commands;
mod ids;
mod junctions;
mod keys;
mod kills;
mod language;
mod layering;
mod lease;
mod log_events;
mod lookups;
mod mapping_change;
mod mapping_docs;
mod marks;
mod migrations;
mod model;
mod namespaces;
mod one_writer;
mod operations;
mod outages;
mod path;
mod pause;
mod proxy;
mod reconcile;
mod references;
mod reliability;
mod restored;
mod schema;
mod sink_stage;
mod source_stage;
mod systems;
mod timeouts;
mod trouble;
mod types;
mod whole_database;
mod writer;
