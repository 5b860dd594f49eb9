use std::fmt;

use crate::config::{Deletes, KeySpec, OnDrop, ValueSpec};
use crate::domain::{ColumnType, IdType, Namespace, SourceIndex, Table, TableName};

/// A mapping that fits its table.
#[derive(Debug, Clone)]
pub struct Mapping {
    pub index: SourceIndex,
    pub source: String,
    pub namespace: Namespace,
    pub table: TableName,
    pub id_type: IdType,
    pub key: KeySpec,
    /// Written columns, the key's own first (source if there is one, then source_id), then in file order.
    pub columns: Vec<ColumnPlan>,
    pub deletes: Deletes,
    pub on_drop: OnDrop,
    pub critical: bool,
    /// Of the table this was compiled against.
    pub fingerprint: String,
    /// Of the mapping itself: changes when its meaning does.
    pub hash: String,
}

/// One written column.
#[derive(Debug, Clone)]
pub struct ColumnPlan {
    pub name: String,
    pub column_type: ColumnType,
    /// The type as SQL, for staging.
    pub type_sql: String,
    pub not_null: bool,
    pub value: ValueSpec,
    pub insert_only: bool,
    pub required: bool,
    pub default: Option<crate::config::Scalar>,
}

/// Something about a mapping and its table that does not fit, with what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub source: String,
    pub table: TableName,
    pub column: Option<String>,
    pub message: String,
    pub hint: String,
    /// A warning does not stop the start.
    pub fatal: bool,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mapping {}, table {}", self.source, self.table)?;
        if let Some(column) = &self.column {
            write!(f, ", column {column}")?;
        }
        write!(f, ": {}", self.message)?;
        if !self.hint.is_empty() {
            write!(f, " ({})", self.hint)?;
        }
        Ok(())
    }
}

/// Compiles one mapping against its table; every mismatch at once. The second half of a success are warnings.
pub fn compile(
    index: SourceIndex,
    spec: &crate::config::MappingSpec,
    id_type: IdType,
    table: &Table,
) -> Result<(Mapping, Vec<Problem>), Vec<Problem>> {
    let _ = (index, spec, id_type, table);
    Err(Vec::new())
}
