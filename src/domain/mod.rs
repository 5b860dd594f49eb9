//! The words that cross the seams between stages. No I/O, no logging, no sibling imported.

mod change;
mod document;
mod key;
mod namespace;
mod position;
mod row;
mod row_key;
mod table;

pub use change::{Change, ChangeKind};
pub use document::Document;
pub use key::{CanonicalId, IdType, Key, SourceIndex};
pub use namespace::Namespace;
pub use position::{ClusterTime, Position, ResumeToken};
pub use row::{Coercion, Reason, Rejection, Row};
pub use row_key::{CopyFields, RowKey};
pub use table::{Column, ColumnType, ForeignKey, Sequence, Table, TableName, TextKind, UniqueKey};
