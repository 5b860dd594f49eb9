//! Statements for the columns that rowstream fills by itself: soft deletes and sync columns.

use super::key::{is_wanted, marked};
use super::{list, list_with, own_rows, quoted, wire_cast};
use crate::config::Deletes;
use crate::domain::ColumnType;
use crate::mapping::{ColumnPlan, Mapping};

/// How a row goes: it is deleted, or marked. What is marked already stays as it is, and with it the time.
pub(super) enum Going {
    Deleted,
    /// `set` and the condition that leaves marked rows alone.
    Marked {
        set: String,
        unless: String,
    },
}

pub(super) fn going(mapping: &Mapping) -> Going {
    let Deletes::Soft { column } = &mapping.deletes else { return Going::Deleted };
    let name = quoted(column);
    let found = mapping.columns.iter().find(|plan| plan.name == *column);
    match found.map(|plan| &plan.column_type) {
        Some(ColumnType::Bool) => Going::Marked {
            set: format!("{name} = true"),
            unless: format!("target.{name} is distinct from true"),
        },
        _ => Going::Marked {
            set: format!("{name} = {}", now(found)),
            unless: format!("target.{name} is null"),
        },
    }
}

/// The time of the transaction. A timestamp without a zone is in UTC, as those of documents are.
pub(super) fn now(column: Option<&ColumnPlan>) -> &'static str {
    match column.map(|plan| &plan.column_type) {
        Some(ColumnType::Timestamp { .. }) => "(now() at time zone 'UTC')",
        _ => "now()",
    }
}

/// Marks rows whose documents are held. Parameters: as for keys, then their statuses and errors. `None`: the mapping
/// has no such columns.
pub(super) fn mark(mapping: &Mapping) -> Option<String> {
    let cast = |plan: &ColumnPlan| wire_cast(plan).map_or_else(String::new, |cast| format!("::{cast}"));
    let status = mapping.sync.status.as_ref().map(|plan| (plan, format!("held.status{}", cast(plan))));
    let error = mapping.sync.error.as_ref().map(|plan| {
        let text = match &plan.column_type {
            ColumnType::Text { limit: Some(limit), .. } => format!("left(held.error, {limit})"),
            _ => "held.error".to_owned(),
        };
        (plan, text)
    });
    let marks: Vec<(&ColumnPlan, String)> = status.into_iter().chain(error).collect();
    if marks.is_empty() {
        return None;
    }
    let changes = |(plan, value): &(&ColumnPlan, String)| {
        format!("target.{} is distinct from {value}", quoted(&plan.name))
    };
    Some(format!(
        "update {} as target set {} from {} where {} and ({})",
        own_rows(mapping),
        list(&marks, |(plan, value)| format!("{} = {value}", quoted(&plan.name))),
        marked(mapping, "held"),
        is_wanted(mapping, "held"),
        list_with(&marks, " or ", changes),
    ))
}
