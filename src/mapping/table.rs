//! Whether a table can be merged into, whatever its columns hold.

use super::problem::{Problems, quoted, quoted_columns, quoted_table};
use crate::config::{Aim, ColumnSpec, MappingSpec, Missing, ValueSpec};
use crate::domain::{Table, UniqueKey};

pub(super) fn check_table(spec: &MappingSpec, table: &Table, problems: &mut Problems) {
    check_kind(table, problems);
    check_access(table, problems);
    check_unique_key(spec, table, problems);
    check_rules(table, problems);
    if !table.triggers.is_empty() {
        let names = table.triggers.join(", ");
        let message = format!("has triggers that will fire for each row: {names}");
        problems.warning(
            None,
            message,
            "what they change in mapped columns is written over by the next change",
        );
    }
    if let Some(specs) = &spec.columns {
        warn_of_constraints(spec, specs, table, problems);
    }
}

fn check_kind(table: &Table, problems: &mut Problems) {
    let kind = match table.kind {
        'r' | 'p' => return,
        'v' => "a view",
        'm' => "a materialized view",
        'f' => "a foreign table",
        _ => "no table",
    };
    problems.fatal(None, format!("is {kind}"), "map to an ordinary or a partitioned table");
}

fn check_access(table: &Table, problems: &mut Problems) {
    if table.row_security {
        problems.fatal(
            None,
            "has row-level security that applies to rowstream's role",
            "grant the role bypassrls, or let it own the table without force row level security",
        );
    }
    if !table.missing_privileges.is_empty() {
        let privileges = table.missing_privileges.join(", ").to_lowercase();
        let hint = format!("grant {privileges} on {} to the role of postgres.url", quoted_table(&table.name));
        problems.fatal(None, format!("rowstream's role lacks {privileges}"), hint);
    }
}

fn check_rules(table: &Table, problems: &mut Problems) {
    let [first, ..] = table.rules.as_slice() else { return };
    problems.fatal(
        None,
        format!("has rules that change or forbid what is written: {}", table.rules.join(", ")),
        format!("drop rule {} on {}; or use a trigger", quoted(first), quoted_table(&table.name)),
    );
}

/// Exactly what the statements read and write. A column that is not written is filled by its default.
pub(super) fn check_columns_access(
    spec: &MappingSpec,
    specs: &[ColumnSpec],
    table: &Table,
    problems: &mut Problems,
) {
    let key = spec.key.names();
    for (column, privilege) in &table.missing_column_privileges {
        let written = specs.iter().find(|spec| spec.name == *column);
        let is_key = key.contains(&column.as_str());
        // The values of a key that is made of columns change with the document's.
        let is_updated =
            spec.key.added().is_empty() && is_key || !is_key && written.is_some_and(|spec| !spec.insert_only);
        let is_needed = match privilege.as_str() {
            "insert" => is_key || written.is_some(),
            "update" => is_updated,
            "select" => is_key || is_updated,
            // To keep a sequence past what is written; or to take the next value from it.
            _ if privilege.starts_with("select, update on sequence") => is_key || written.is_some(),
            _ => !is_key && written.is_none(),
        };
        if is_needed {
            let hint = match privilege.as_str() {
                "select" | "insert" | "update" => {
                    format!("grant {privilege} ({}) on {}", quoted(column), quoted_table(&table.name))
                }
                _ => format!("grant {privilege}"),
            };
            problems.fatal(
                Some(column),
                format!("rowstream's role lacks {privilege}"),
                format!("{hint} to the role of postgres.url"),
            );
        }
    }
}

/// `on conflict (…)` needs one that holds at once and for all rows, and takes every one that holds for all
/// rows: one that is deferrable makes it fail, one that calls different ids equal makes them share a row.
fn check_unique_key(spec: &MappingSpec, table: &Table, problems: &mut Problems) {
    let key = spec.key.names();
    let candidates: Vec<&UniqueKey> =
        table.unique_keys.iter().filter(|unique| same_columns(&unique.columns, &key)).collect();
    let columns = key.join(", ");
    let whole = || candidates.iter().filter(|unique| !unique.partial_or_expression);
    for unique in whole().filter(|unique| unique.nondeterministic) {
        problems.fatal(
            None,
            format!("unique key {} on ({columns}) has a nondeterministic collation", unique.name),
            "different ids would share a row: drop it, or build it with a deterministic collation",
        );
    }
    let is_served = whole().any(|unique| !unique.deferrable);
    if is_served && let Some(unique) = whole().find(|unique| unique.deferrable) {
        problems.fatal(
            None,
            format!("has more than one unique key on ({columns}), of which {} is deferrable", unique.name),
            format!("drop {}: on conflict fails with it", quoted(&unique.name)),
        );
    }
    if is_served {
        return;
    }
    let message = match candidates.first() {
        None => format!("has no unique key on ({columns})"),
        Some(unique) if unique.deferrable => {
            format!("has a unique key on ({columns}), but {} is deferrable", unique.name)
        }
        Some(unique) => match &unique.predicate {
            Some(predicate) => {
                format!("has a unique key on ({columns}), but {} holds only where {predicate}", unique.name)
            }
            None => format!("has a unique key on ({columns}), but {} is on an expression", unique.name),
        },
    };
    let quoted = quoted_columns(key.iter().copied());
    problems.fatal(None, message, format!("create unique index on {} ({quoted})", quoted_table(&table.name)));
}

/// In any order: `on conflict` does not ask for one.
fn same_columns(left: &[String], right: &[&str]) -> bool {
    left.len() == right.len() && left.iter().all(|column| right.contains(&column.as_str()))
}

/// Constraints that a document may violate although each value fits its column.
fn warn_of_constraints(spec: &MappingSpec, specs: &[ColumnSpec], table: &Table, problems: &mut Problems) {
    let writes = |column: &String| specs.iter().any(|spec| spec.name == *column);
    for key in table.foreign_keys.iter().filter(|key| key.columns.iter().any(writes)) {
        if key.columns.iter().any(|column| is_held_without_parent(column, specs)) {
            let message = format!(
                "foreign key {}: a row whose parent in {} is missing is held",
                key.name, key.references
            );
            problems.warning(None, message, "it is retried until the parent is there");
        }
        // A parent's delete looks for its children. Row by row, that is a scan of the table each time.
        if !table.has_index_on(&key.columns) {
            let columns = key.columns.join(", ");
            problems.warning(
                None,
                format!("foreign key {}: no index on ({columns})", key.name),
                format!(
                    "each delete in {} reads the whole table: create index on {} ({})",
                    key.references,
                    quoted_table(&table.name),
                    quoted_columns(key.columns.iter().map(String::as_str))
                ),
            );
        }
    }
    for unique in colliding_keys(spec, specs, table) {
        let columns = unique.columns.join(", ");
        let message =
            format!("unique key {} on ({columns}): the second row with one value is held", unique.name);
        problems.warning(None, message, "");
    }
}

/// Whether the column takes its value from the document, or from another row that it waits for.
fn is_held_without_parent(column: &String, specs: &[ColumnSpec]) -> bool {
    let Some(spec) = specs.iter().find(|spec| spec.name == *column) else { return false };
    match &spec.value {
        ValueSpec::Reference(reference) => match (&reference.aim, &reference.missing) {
            // Its parent is the document's own row.
            (Aim::Parent, _) => false,
            (_, Missing::Hold) => true,
            (_, Missing::Null | Missing::Keep | Missing::Drop | Missing::Create(_)) => false,
        },
        _ => true,
    }
}

/// Unique keys, other than the key, in which two documents can meet.
pub(super) fn colliding_keys<'t>(
    spec: &'t MappingSpec,
    specs: &'t [ColumnSpec],
    table: &'t Table,
) -> impl Iterator<Item = &'t UniqueKey> {
    // Ids that rowstream makes are as unique as the key itself.
    let from_documents = |column: &String| {
        specs.iter().any(|spec| {
            spec.name == *column && !matches!(spec.value, ValueSpec::KeyUuid | ValueSpec::KeyPrefixed(_))
        })
    };
    let key = spec.key.names();
    table.unique_keys.iter().filter(move |unique| {
        !unique.columns.is_empty()
            && !same_columns(&unique.columns, &key)
            && unique.columns.iter().all(|column| from_documents(column) || key.contains(&column.as_str()))
            && !key.iter().all(|column| unique.columns.iter().any(|name| name == column))
    })
}

/// Columns that nobody fills.
pub(super) fn check_unmapped_columns(
    spec: &MappingSpec,
    specs: &[ColumnSpec],
    table: &Table,
    problems: &mut Problems,
) {
    let key = spec.key.names();
    for column in &table.columns {
        let written =
            key.contains(&column.name.as_str()) || specs.iter().any(|spec| spec.name == column.name);
        if column.not_null && !column.has_default && !column.generated && !written {
            problems.fatal(
                Some(&column.name),
                "is not null and has no default, but is not mapped",
                "map it, or give the column a default",
            );
        }
    }
}
