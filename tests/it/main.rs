//! The promises, tested at their seams, on a real mongod replica set and a real PostgreSQL.

#[path = "../support/mod.rs"]
mod support;

mod daemon;
mod oracle;
mod stage;

mod command_line;
mod chunk_order;
mod held;
mod health;
mod ids;
mod kills;
mod layering;
mod lease;
mod namespaces;
mod outages;
mod path;
mod restored;
mod whole_database;
