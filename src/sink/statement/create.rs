//! DDL for tables that do not exist. Nothing here alters or drops anything.

use super::{list, qualified, quoted};
use crate::domain::TableName;
use crate::mapping::{Draft, DraftColumn};

/// The statements, with a comment behind each type that was inferred.
pub(in crate::sink) fn create(draft: &Draft, with_schema: bool) -> String {
    let mut sql = String::new();
    if with_schema {
        sql.push_str(&format!("create schema if not exists {};\n\n", quoted(&draft.table.schema)));
    }
    sql.push_str(&format!("create table if not exists {} (\n", qualified(&draft.table)));
    for column in &draft.columns {
        let not_null = if column.not_null { " not null" } else { "" };
        sql.push_str(&format!("    {} {}{not_null},", quoted(&column.name), column.type_sql));
        if let Some(comment) = comment(draft, column) {
            sql.push_str(&format!(" -- {comment}"));
        }
        sql.push('\n');
    }
    let key = list(&draft.primary_key, |name| quoted(name));
    sql.push_str(&format!("    primary key ({key})"));
    if let Some(key) = &draft.unique_key {
        sql.push_str(&format!(",\n    unique ({})", list(key, |name| quoted(name))));
    }
    for key in &draft.foreign_keys {
        sql.push_str(&format!(
            ",\n    foreign key ({}) references {} ({}){}",
            quoted(&key.column),
            qualified(&key.references),
            quoted(&key.referenced_column),
            if key.with_parent { " on delete cascade" } else { "" }
        ));
    }
    sql.push_str("\n);\n");
    // A parent's delete looks for its children.
    for key in draft.foreign_keys.iter().filter(|key| !draft.is_led_by(&key.column)) {
        let (table, column) = (qualified(&draft.table), quoted(&key.column));
        let name = quoted(&format!("{}_{}_idx", draft.table.name, key.column));
        sql.push_str(&format!("create index if not exists {name} on {table} ({column});\n"));
    }
    sql
}

/// A table's name inside of a comment, which ends with its line.
pub(in crate::sink) fn named_in_comment(table: &TableName) -> String {
    qualified(table).replace(|c: char| c.is_control(), " ")
}

fn comment(draft: &Draft, column: &DraftColumn) -> Option<String> {
    let inferred = column.inferred.as_ref()?;
    let (present, all) = (inferred.present, inferred.documents);
    let of = if draft.of_elements { "elements" } else { "documents" };
    Some(match present {
        0 if column.is_unknown() => format!("no type known: no value in {all} {of}"),
        0 => format!("as its default: no value in {all} {of}"),
        _ => {
            let types: Vec<&str> = inferred.types.iter().copied().collect();
            format!("inferred: {} in {present} of {all} {of}", types.join(", "))
        }
    })
}
