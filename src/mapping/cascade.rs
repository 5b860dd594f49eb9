//! Foreign keys by which PostgreSQL would delete or empty rows of documents that did not change: nobody would
//! send those again. References see to it that nothing is left for it to do; other columns do not.

use std::collections::HashMap;

use super::compile::Mapping;
use super::problem::{Problem, Problems};
use crate::config::Deletes;
use crate::domain::{ForeignKey, Table, TableName};

pub(super) fn cascades(mappings: &[Mapping], tables: &HashMap<TableName, Table>) -> Vec<Problem> {
    let mut found = Vec::new();
    for mapping in mappings {
        let children = mapping.children.iter().map(|child| &child.mapping);
        for of in std::iter::once(mapping).chain(children) {
            let Some(table) = tables.get(&of.table) else { continue };
            let mut problems = Problems::new(&mapping.source, &of.table);
            for key in &table.foreign_keys {
                if let Some(parent) = deleting(mappings, &key.references) {
                    check(of, key, parent, &mut problems);
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

fn check(of: &Mapping, key: &ForeignKey, parent: &Mapping, problems: &mut Problems) {
    let is_seen_to = of.references.iter().any(|reference| {
        key.columns.contains(&of.columns[reference.column].name)
            && reference.finders.iter().any(|finder| finder.table == key.references)
    });
    if is_seen_to {
        return;
    }
    let written = of.columns.iter().find(|column| !column.insert_only && key.columns.contains(&column.name));
    let name = written.map(|column| column.name.as_str());
    let (effect, written) = match (key.on_delete, written) {
        ('c', written) => ("delete the row", written),
        ('n' | 'd', Some(written)) => ("empty the column", Some(written)),
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
            problems.fatal(name, message, hint);
        }
        // What the application writes there is its own.
        None => problems.warning(name, message, no_action),
    }
}
