//! Configuration: YAML and environment in, one valid `Config` or every mistake at once out.
//!
//! [`load`] merges the file and the environment into one raw tree (`load`), reads the tree key by key
//! (`tree`), and builds the valid types of `model` from it (`sections`, `mappings`, `columns`, `rules`). Nothing here touches
//! a server: what only a table can tell is checked by [`crate::mapping`].

mod children;
mod columns;
mod connection;
mod date_format;
mod defaults;
mod error;
mod expression;
mod filter;
mod junctions;
mod key;
mod load;
mod mappings;
mod model;
mod nearest;
mod reading;
mod reconcile;
mod references;
mod rules;
mod sections;
mod show;
mod sync;
mod tree;
mod units;

pub use children::{ChildFrom, ChildSpec, ElementError, NotArray};
pub use connection::url_of_each_host;
pub use date_format::{DateFormat, DatePart};
pub use error::{Error, Mistake};
pub use expression::{About, DOCUMENT, ELEMENT, Expression, FieldsOfDocument, INDEX, environment};
pub use filter::{Condition, Filter, Test};
pub use junctions::JunctionSpec;
pub(crate) use key::{follows_from_id, is_derived};
pub use load::load;
pub use model::*;
pub(crate) use nearest::nearest;
pub use reading::{Case, EnumMap, JsonForm, OnError, Otherwise, Reading, Rounding, Scale};
pub use reconcile::{Assertion, Reconcile, Window};
pub use show::redacted;
pub use sync::SyncSpec;

#[cfg(test)]
mod tests;
