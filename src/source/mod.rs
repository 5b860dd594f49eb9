//! Every MongoDB call: ask what is there (preflight), follow what changes (stream, decode), copy what is
//! there (snapshot), read again what was touched (lookup).
//!
//! Promises: nothing is ever written to MongoDB; no event between two replies is lost, whatever the
//! connection does; errors carry no credentials and no values of documents. Knows neither PostgreSQL
//! nor the mapping.

mod client;
mod decode;
mod element;
mod error;
mod event;
mod find;
mod lookup;
mod patience;
mod preflight;
mod sample;
mod snapshot;
mod stream;
mod token;

pub use client::{connect, connect_preferring, operation_time};
pub use decode::decode_reply;
pub use error::{Disposition, Error, Fault, FaultKind};
pub use event::{AfterLoss, CollectionIndex, Continuity, Event, EventKind, Manner, Reply, Scope};
pub use find::Found;
pub use lookup::{existing, lookup};
pub use preflight::{
    CollectionFacts, CollectionKind, Facts, Finding, OplogWindow, Topology, collections, oplog_window,
    preflight, sample_id_types,
};
pub use sample::{sample_documents, sample_ids};
pub use snapshot::{Chunk, read_chunk, read_next};
pub use stream::{Stream, StreamState, open};
pub use token::token_time;
