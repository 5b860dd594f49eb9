//! The words that cross the seams between stages. No I/O, no logging, no sibling imported.

mod change;
mod collision;
mod document;
mod element;
mod key;
mod namespace;
mod portion;
mod position;
mod row;
mod row_key;
mod side;
mod table;
mod transformer;

pub use change::{Change, ChangeKind};
pub use collision::Collision;
pub use document::Document;
pub use element::value_length;
pub use key::{CanonicalId, IdType, Key, SourceIndex};
pub use namespace::Namespace;
pub use portion::Portion;
pub use position::{ClusterTime, Position, ResumeToken};
pub use row::{Coercion, Reason, Reference, Rejection, Row, Sought, Tuples};
pub use row_key::{CopyFields, RowKey};
pub use side::Side;
pub use table::{Column, ColumnType, ForeignKey, Sequence, Table, TableName, TextKind, UniqueKey};
pub use transformer::{Refusal, Transformer, Transformers};
