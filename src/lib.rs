//! rowstream keeps PostgreSQL tables in step with MongoDB collections.
//!
//! The modules stand in the order in which a change passes through them; `docs/ARCHITECTURE.md`
//! walks one change from the change stream to its committed row.

pub mod domain;
pub mod config;
pub mod mapping;
pub mod source;
pub mod transform;
pub mod sink;
pub mod state;
pub mod pipeline;
pub mod http;
pub mod metrics;
pub mod logging;
pub mod app;
pub mod cli;
