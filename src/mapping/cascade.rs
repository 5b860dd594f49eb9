//! Foreign keys by which PostgreSQL would delete, empty or change rows of documents that did not change: nobody would
//! send those again. References see to it that nothing is left for it to do; other columns do not.

use std::collections::HashMap;

use super::compile::{ColumnPlan, Mapping};
use super::problem::{Problem, Problems};
use crate::config::{Deletes, follows_from_id};
use crate::domain::{ForeignKey, Table, TableName};

pub(super) fn cascades(mappings: &[Mapping], tables: &HashMap<TableName, Table>) -> Vec<Problem> {
    let mut found = Vec::new();
    for mapping in mappings {
        let children = mapping.children.iter().map(|child| &child.mapping);
        for of in std::iter::once(mapping).chain(children) {
            let Some(table) = tables.get(&of.table) else { continue };
            let mut problems = Problems::new(&mapping.source, &of.table);
            for key in &table.foreign_keys {
                if is_seen_to(of, key) {
                    continue;
                }
                if let Some(parent) = deleting(mappings, &key.references) {
                    check_deletes(of, key, parent, &mut problems);
                }
                if let Some((parent, column)) = changing(mappings, key) {
                    check_updates(of, key, parent, column, &mut problems);
                }
            }
            found.extend(problems.into_found());
        }
    }
    found
}

/// Who deletes rows of this table.
fn deleting<'m>(mappings: &'m [Mapping], table: &TableName) -> Option<&'m Mapping> {
    mappings.iter().filter(|mapping| mapping.deletes == Deletes::Hard).find(|mapping| {
        mapping.table == *table || mapping.children.iter().any(|child| child.mapping.table == *table)
    })
}

/// Who changes what the foreign key refers to, and which column of it.
fn changing<'m>(mappings: &'m [Mapping], key: &ForeignKey) -> Option<(&'m Mapping, &'m str)> {
    mappings.iter().find_map(|mapping| {
        let own = mapping.columns.iter().filter(|_| mapping.table == key.references);
        // A child row whose key changes is another row.
        let of_children = mapping.children.iter().map(|child| &child.mapping);
        let of_children = of_children.filter(|child| child.table == key.references).flat_map(|child| {
            child
                .columns
                .iter()
                .enumerate()
                .filter(|(place, _)| !child.key.has(*place))
                .map(|(_, column)| column)
        });
        let may_change = |column: &&ColumnPlan| {
            key.referenced_columns.contains(&column.name)
                && !column.insert_only
                && !follows_from_id(&column.value)
        };
        own.chain(of_children).find(may_change).map(|column| (mapping, column.name.as_str()))
    })
}

/// By a reference, which sees to it that nothing is left for PostgreSQL to do, or reads the document again.
fn is_seen_to(of: &Mapping, key: &ForeignKey) -> bool {
    of.references.iter().any(|reference| {
        key.columns.contains(&of.columns[reference.column].name)
            && reference.finders.iter().any(|finder| finder.table == key.references)
    })
}

/// The column of the foreign key that is written every time.
fn written<'m>(of: &'m Mapping, key: &ForeignKey) -> Option<&'m str> {
    let column = of.columns.iter().find(|column| !column.insert_only && key.columns.contains(&column.name));
    column.map(|column| column.name.as_str())
}

fn check_deletes(of: &Mapping, key: &ForeignKey, parent: &Mapping, problems: &mut Problems) {
    let written = written(of, key);
    let effect = match (key.on_delete, written) {
        ('c', _) => "delete the row",
        ('n' | 'd', Some(_)) => "empty the column",
        _ => return,
    };
    let message = format!(
        "foreign key {}: PostgreSQL would {effect} whenever {} goes from {}, and the document would not come again",
        key.name, parent.source, key.references
    );
    let no_action =
        format!("let the foreign key be on delete no action: the row of {} waits then", parent.source);
    match written {
        Some(_) => {
            let hint = format!("say ref: {{ to: {}, from: … }}; or {no_action}", parent.source);
            problems.fatal(written, message, hint);
        }
        // What the application writes there is its own.
        None => problems.warning(written, message, no_action),
    }
}

fn check_updates(of: &Mapping, key: &ForeignKey, parent: &Mapping, column: &str, problems: &mut Problems) {
    // A column that is the application's own may follow.
    let Some(written) = written(of, key) else { return };
    let effect = match key.on_update {
        'c' => "change the column",
        'n' | 'd' => "empty the column",
        _ => return,
    };
    let message = format!(
        "foreign key {}: PostgreSQL would {effect} whenever {} changes {column} of {}, and the document would not come again",
        key.name, parent.source, key.references
    );
    let hint = format!(
        "say lookup: {{ table: {}, match: {{ {column}: … }}, take: {column} }}; or let the foreign key be on update no action: \
         a changed {} is held then while rows refer to the old one",
        key.references.name, parent.source
    );
    problems.fatal(Some(written), message, hint);
}
