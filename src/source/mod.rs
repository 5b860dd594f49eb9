//! Every MongoDB call. Knows neither PostgreSQL nor the mapping.

mod event;

pub use event::{CollectionIndex, Event, EventKind, Reply, Scope};
