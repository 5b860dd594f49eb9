//! Rows that are made from inside of a document: a small mapping of its own for each table, whose documents
//! are the elements, and one of whose columns refers to the document's own row.

use std::collections::HashMap;

use super::compile::{Mapping, compile};
use super::problem::{Problem, Problems};
use super::reference::{Finder, Linking, TargetOfReference, mapping_spec};
use crate::config::{Aim, ChildFrom, ChildSpec, ColumnSpec, ElementError, KeySpec, MappingSpec, ValueSpec};
use crate::domain::{Side, Table, TableName};

/// The rows of one child table.
#[derive(Debug, Clone)]
pub struct ChildPlan {
    /// Of the child table: its columns, key and references. Source and ids are those of the documents.
    pub mapping: Mapping,
    pub from: ChildFrom,
    pub on_error: ElementError,
    /// The column that says whose row it is, and which of the references fills it.
    pub parent: usize,
    pub parent_reference: usize,
    /// Columns of the key that tell the elements of one document apart, where ids are made of them. Empty: their
    /// places do.
    pub identity: Vec<usize>,
    /// A junction that two mappings list.
    pub junction: Option<JunctionPlan>,
}

/// A junction whose rows are pairs that both of their documents may list.
#[derive(Debug, Clone)]
pub struct JunctionPlan {
    /// As the state schema names it.
    pub name: String,
    pub side: Side,
    /// The reference to the other side, among the child's.
    pub other: usize,
}

impl ChildPlan {
    /// Finds the value of the parent's column.
    pub fn owner(&self) -> &Finder {
        // Compiled only with it.
        &self.mapping.references[self.parent_reference].finders[0]
    }

    /// The mapping of a junction's other side.
    pub fn other_side(&self) -> Option<(&JunctionPlan, &TargetOfReference)> {
        let junction = self.junction.as_ref()?;
        let finder = self.mapping.references.get(junction.other)?.finders.first()?;
        Some((junction, finder.target.as_ref()?))
    }
}

/// Compiles the children of a mapping. Problems, warnings among them, are added to `found`.
pub(super) fn children(
    mapping: &Mapping,
    spec: &MappingSpec,
    all: &[Mapping],
    tables: &HashMap<TableName, Table>,
    found: &mut Vec<Problem>,
) -> Vec<ChildPlan> {
    let mut plans = Vec::new();
    for child in &spec.children {
        let mut problems = Problems::new(&spec.source, &child.table);
        plans.extend(plan(mapping, spec, child, all, tables, &mut problems));
        found.extend(problems.into_found());
    }
    plans
}

fn plan(
    mapping: &Mapping,
    spec: &MappingSpec,
    child: &ChildSpec,
    all: &[Mapping],
    tables: &HashMap<TableName, Table>,
    problems: &mut Problems,
) -> Option<ChildPlan> {
    let Some(table) = tables.get(&child.table) else {
        problems.fatal(None, "the table does not exist", "create it with your own migrations");
        return None;
    };
    let parent = child.parent()?;
    let Some(key) = child.key.clone().or_else(|| default_key(child, table)) else {
        let hint = "name the columns of a unique key with key:, and list them among columns";
        problems.fatal(None, "has no unique key all of whose columns are mapped", hint);
        return None;
    };
    check_key(child, parent, &key, problems);
    let of_table = mapping_spec(
        spec,
        spec.source.clone(),
        &child.table,
        KeySpec::Columns(key.clone()),
        child.columns.clone(),
    );
    let mut compiled = match compile(mapping.index, &of_table, mapping.id_type, table) {
        Ok((compiled, warnings)) => {
            problems.extend(warnings);
            compiled
        }
        Err(errors) => {
            problems.extend(errors);
            return None;
        }
    };
    let linking = Linking { spec: &of_table, table, all, tables };
    for column in &child.columns {
        if let ValueSpec::Reference(reference) = &column.value {
            let place = place(&compiled, &column.name)?;
            let plan = linking.reference(&compiled, place, column, reference, problems);
            compiled.references.extend(plan);
        }
    }
    let parent = place(&compiled, &parent.name)?;
    let parent_reference = compiled.references.iter().position(|reference| reference.column == parent)?;
    let identity = key.iter().filter_map(|name| child.columns.iter().find(|column| column.name == *name));
    let identity =
        identity.filter(|column| !is_made(column)).filter_map(|column| place(&compiled, &column.name));
    let identity = identity.filter(|place| *place != parent).collect();
    let other = compiled.references.iter().position(|reference| reference.column != parent);
    let junction = child.junction.as_ref().zip(other).map(|(junction, other)| JunctionPlan {
        name: child.table.to_string(),
        side: junction.side,
        other,
    });
    Some(ChildPlan {
        junction,
        mapping: compiled,
        from: child.from.clone(),
        on_error: child.on_error,
        parent,
        parent_reference,
        identity,
    })
}

fn place(mapping: &Mapping, name: &str) -> Option<usize> {
    mapping.columns.iter().position(|column| column.name == name)
}

fn is_made(column: &ColumnSpec) -> bool {
    matches!(column.value, ValueSpec::KeyUuid | ValueSpec::KeyPrefixed(_))
}

/// The first unique key, the primary one before the others, all of whose columns are mapped.
fn default_key(child: &ChildSpec, table: &Table) -> Option<Vec<String>> {
    let is_mapped = |name: &String| child.columns.iter().any(|column| column.name == *name);
    let usable = table.unique_keys.iter().filter(|key| !key.partial_or_expression && !key.deferrable);
    let mut mapped = usable.filter(|key| !key.columns.is_empty() && key.columns.iter().all(is_mapped));
    mapped.next().map(|key| key.columns.clone())
}

/// Two documents must never share a row, nor two elements that are no duplicates.
fn check_key(child: &ChildSpec, parent: &ColumnSpec, key: &[String], problems: &mut Problems) {
    let is_of_parent = key.contains(&parent.name);
    let all_made =
        key.iter().all(|name| child.columns.iter().any(|column| column.name == *name && is_made(column)));
    if !is_of_parent && !all_made {
        problems.fatal(
            None,
            format!("the key ({}) does not tell rows of different documents apart", key.join(", ")),
            format!("make a unique key with {} in it, and name its columns with key:", parent.name),
        );
    }
    if matches!(child.from, ChildFrom::Each { .. }) && key.len() == 1 && is_of_parent {
        problems.fatal(
            None,
            format!("the key ({}) does not tell the elements of one document apart", parent.name),
            "make a unique key with another column in it, and name its columns with key:",
        );
    }
}

/// Tables that the children of a mapping need: their own, and those they look into.
pub(super) fn tables_of(spec: &MappingSpec) -> impl Iterator<Item = &TableName> {
    spec.children.iter().flat_map(|child| {
        let looked_into = child.columns.iter().filter_map(|column| match &column.value {
            ValueSpec::Reference(reference) => match &reference.aim {
                Aim::Row { table, .. } => Some(table),
                Aim::Document { .. } | Aim::Parent => None,
            },
            _ => None,
        });
        std::iter::once(&child.table).chain(looked_into)
    })
}
