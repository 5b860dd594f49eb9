//! rowstream keeps PostgreSQL tables in step with MongoDB collections.
//!
//! The modules stand in the order in which a change passes through them; `docs/ARCHITECTURE.md`
//! walks one change from the change stream to its committed row.

pub mod app;
pub mod cli;
pub mod config;
pub mod domain;
pub mod http;
pub mod logging;
pub mod mapping;
pub mod metrics;
pub mod notify;
pub mod operator;
pub mod pipeline;
pub mod reconcile;
pub mod sink;
pub mod source;
pub mod state;
pub mod transform;

pub use domain::{Refusal, Transformer, Transformers};
