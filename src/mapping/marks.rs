//! Columns that rowstream fills by itself: the mark of a soft delete, and the sync columns.

use super::compile::ColumnPlan;
use super::problem::{Problems, literal};
use crate::config::{ColumnSpec, Deletes, MappingSpec, Scalar, ValueSpec};
use crate::domain::{ColumnType, Table};

const SYNCED: &str = "SYNCED";
pub const FAILED: &str = "FAILED";
pub const PENDING: &str = "PENDING";

/// The sync columns that a mapping has, in its table's terms.
#[derive(Debug, Clone, Default)]
pub struct SyncPlan {
    pub status: Option<ColumnPlan>,
    pub error: Option<ColumnPlan>,
    pub at: Option<ColumnPlan>,
}

impl SyncPlan {
    /// Whether a row says that its document is held.
    pub fn marks_held(&self) -> bool {
        self.status.is_some() || self.error.is_some()
    }
}

/// The marks as columns that each row is written with: not deleted, synced, without an error.
pub(super) fn written_marks(spec: &MappingSpec, table: &Table, problems: &mut Problems) -> Vec<ColumnSpec> {
    let mut marks = Vec::new();
    if let Deletes::Soft { column } = &spec.deletes {
        let found = table.column(column);
        let value = match found.map(|column| &column.column_type) {
            Some(ColumnType::Bool) => Scalar::Bool(false),
            Some(ColumnType::Timestamp { .. } | ColumnType::TimestampTz { .. }) | None => Scalar::Null,
            Some(_) => {
                let type_sql = found.map_or("", |column| column.type_sql.as_str());
                let message = format!(
                    "has the type {type_sql}, but deletes: soft needs timestamptz, timestamp or boolean"
                );
                problems.fatal(Some(column), message, "");
                Scalar::Null
            }
        };
        marks.push(mark(column, value));
    }
    if let Some(sync) = &spec.sync {
        marks.extend(sync.status.as_ref().map(|name| mark(name, Scalar::Text(SYNCED.to_owned()))));
        marks.extend(sync.error.as_ref().map(|name| mark(name, Scalar::Null)));
    }
    for name in marks.iter().map(|mark| &mark.name).chain(at_column(spec)) {
        if spec.columns.iter().flatten().any(|column| column.name == *name) {
            let hint = "rowstream fills it: leave it out of columns";
            problems.fatal(Some(name), "is in columns, and in deletes or sync", hint);
        }
    }
    marks.retain(|mark| !spec.columns.iter().flatten().any(|column| column.name == mark.name));
    marks
}

/// The column whose value is told by PostgreSQL's clock, for checks that ask who fills a column. Its
/// constant is never written; it only is not null.
pub(super) fn clock_mark(spec: &MappingSpec) -> Option<ColumnSpec> {
    at_column(spec).map(|name| mark(name, Scalar::Bool(true)))
}

fn at_column(spec: &MappingSpec) -> Option<&String> {
    spec.sync.as_ref().and_then(|sync| sync.at.as_ref())
}

fn mark(name: &str, value: Scalar) -> ColumnSpec {
    ColumnSpec {
        name: name.to_owned(),
        value: ValueSpec::Constant(value),
        insert_only: false,
        required: false,
        default: None,
    }
}

/// The sync columns, once the columns that are written are known.
pub(super) fn sync_plan(
    spec: &MappingSpec,
    columns: &[ColumnPlan],
    at: Option<ColumnPlan>,
    problems: &mut Problems,
) -> SyncPlan {
    let Some(sync) = &spec.sync else { return SyncPlan::default() };
    let plan = |name: &Option<String>| columns.iter().find(|plan| Some(&plan.name) == name.as_ref()).cloned();
    let found = SyncPlan { status: plan(&sync.status), error: plan(&sync.error), at };
    if let Some(ColumnPlan { name, column_type: ColumnType::Enum { labels }, type_sql, .. }) = &found.status {
        for label in [SYNCED, FAILED, PENDING] {
            if !labels.iter().any(|known| known == label) {
                let label = literal(label);
                let hint = format!("alter type {type_sql} add value {label}");
                problems.fatal(Some(name), format!("is an enum without the label {label}"), hint);
            }
        }
    }
    if let Some(plan) = &found.error
        && !matches!(plan.column_type, ColumnType::Text { .. })
    {
        let message = format!("has the type {}, but the error of sync needs text", plan.type_sql);
        problems.fatal(Some(&plan.name), message, "");
    }
    if let Some(plan) = &found.at
        && !matches!(plan.column_type, ColumnType::Timestamp { .. } | ColumnType::TimestampTz { .. })
    {
        let message =
            format!("has the type {}, but the time of sync needs timestamptz or timestamp", plan.type_sql);
        problems.fatal(Some(&plan.name), message, "");
    }
    found
}
