//! The promises, tested at their seams, on a real mongod replica set and a real PostgreSQL.

#[path = "../support/mod.rs"]
mod support;

mod daemon;
mod oracle;
mod stage;

mod check;
mod children;
mod chunk_order;
mod command_line;
mod custom;
mod demo;
mod drift;
mod exchange;
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
mod namespaces;
mod operations;
mod outages;
mod path;
mod pause;
mod reconcile;
mod references;
mod referrers;
mod reliability;
mod restored;
mod schema;
mod sink_stage;
mod source_stage;
mod stubs;
mod systems;
mod timeouts;
mod types;
mod whole_database;
mod writer;
