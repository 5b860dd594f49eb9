//! `children` of a mapping: rows of other tables that are made from inside of its documents.

use std::fmt::Write;

use super::columns::{any_column, document_path};
use super::junctions::{self, JunctionSpec, also_from, says_missing};
use super::key::names;
use super::mappings::table;
use super::model::{Aim, ColumnSpec, ValueSpec};
use super::reading::quoted;
use super::show::{line, quoted_list, value};
use super::tree::{Field, Section};
use crate::domain::{Side, TableName};

/// The rows that an array, or an object, of a document becomes in another table.
#[derive(Debug, Clone, PartialEq)]
pub struct ChildSpec {
    pub table: TableName,
    pub from: ChildFrom,
    /// Names among the columns. `None`: the table's own key, if all its columns are mapped.
    pub key: Option<Vec<String>>,
    pub on_error: ElementError,
    pub columns: Vec<ColumnSpec>,
    /// The pairs of a junction that another mapping lists as well.
    pub junction: Option<JunctionSpec>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChildFrom {
    /// A row for each element of the array at this path.
    Each { path: String, not_array: NotArray },
    /// A row for the object at this path, if it is there and not empty.
    Object { path: String },
}

/// What a value is that should be an array and is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotArray {
    Hold,
    /// No rows.
    Drop,
    /// An array of one.
    Single,
}

/// What an element does that cannot become a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ElementError {
    /// The whole document is held.
    Hold,
    /// It is left out.
    Drop,
}

impl ChildSpec {
    /// The column that says whose row it is.
    pub fn parent(&self) -> Option<&ColumnSpec> {
        self.columns.iter().find(|column| is_parent(column))
    }
}

fn is_parent(column: &ColumnSpec) -> bool {
    matches!(&column.value, ValueSpec::Reference(reference) if reference.aim == Aim::Parent)
}

const NOT_ARRAY: [(&str, NotArray); 3] =
    [("hold", NotArray::Hold), ("drop", NotArray::Drop), ("single", NotArray::Single)];
const ON_ERROR: [(&str, ElementError); 2] = [("hold", ElementError::Hold), ("drop", ElementError::Drop)];

pub(super) fn children(field: Field<'_>) -> Vec<ChildSpec> {
    let items = field.items().unwrap_or_default();
    items.into_iter().filter_map(Field::into_section).filter_map(child).collect()
}

fn child(mut section: Section<'_>) -> Option<ChildSpec> {
    let table = section.required("table", "the table of these rows").and_then(table);
    let each = section.field("each");
    let object = section.field("object");
    let not_array_field = section.field("not_array");
    let key = section.field("key").map(names);
    let also_from_field = section.field("also_from");
    let on_error = section.choice("on_error", &ON_ERROR).unwrap_or(ElementError::Hold);
    let columns = section.required("columns", "column → where its value comes from").and_then(Field::entries);
    section.finish();
    let not_array = not_array_field.as_ref().and_then(|field| field.choice(&NOT_ARRAY));
    let from = match (each, object) {
        (Some(each), None) => document_path(&each)
            .map(|path| ChildFrom::Each { path, not_array: not_array.unwrap_or(NotArray::Hold) }),
        (None, Some(object)) => {
            if let Some(field) = &not_array_field {
                field.mistake("must be left out with object", "");
            }
            document_path(&object).map(|path| ChildFrom::Object { path })
        }
        (None, None) | (Some(_), Some(_)) => {
            section.mistake("must have one of each and object", "each: an array, object: a nested document");
            None
        }
    };
    let columns = columns?;
    let waits = columns.iter().find(|(_, field)| says_missing(field)).map(|(name, _)| name.clone());
    let mut columns: Vec<ColumnSpec> =
        columns.into_iter().filter_map(|(name, field)| any_column(name, field)).collect();
    if columns.iter().filter(|column| is_parent(column)).count() != 1 {
        section.mistake_at("columns", "must have one column that is $parent", "it says whose row it is");
    }
    for name in key.iter().flatten() {
        if columns.iter().all(|column| column.name != *name) {
            section.mistake_at("key", &format!("must be names among columns, and {name} is none"), "");
        }
    }
    let junction = also_from_field.and_then(also_from);
    if let Some(junction) = &junction {
        junctions::check(&section, junction, from.as_ref(), &mut columns);
        if let Some(name) = waits {
            let hint = "a pair is there while both of its rows are";
            section.mistake_at(
                "columns",
                &format!("must not say more than missing: drop with also_from, as {name} does"),
                hint,
            );
        }
    }
    Some(ChildSpec { table: table?, from: from?, key, on_error, columns, junction })
}

/// What a column of a child takes its value from: the element, its place, or the document around it.
pub(super) fn element_path(field: &Field<'_>) -> Option<String> {
    let path = field.text()?;
    let (first, rest) =
        path.split_once('.').map_or((path.as_str(), None), |(first, rest)| (first, Some(rest)));
    let is_known = matches!((first, rest), ("$element", _) | ("$index", None) | ("$document", Some(_)));
    if !is_known {
        let hint = "a field of the element is $element.name, one of the document around it $document.name";
        field.mistake("must begin with $element or $document, or be $index", hint);
        return None;
    }
    if path.split('.').any(str::is_empty) {
        field.mistake("must be names joined by single dots", "");
        return None;
    }
    Some(path)
}

/// Whether a text stands for a path of [`element_path`], and not for one of the words that stand alone.
pub(super) fn is_element_path(text: &str) -> bool {
    !matches!(text, "$document" | "$id" | "$cluster_time" | "$parent")
}

/// For `config show`.
pub(super) fn show(out: &mut String, children: &[ChildSpec]) {
    // The other ones are told by `also_from`.
    let is_own = |child: &&ChildSpec| child.junction.as_ref().is_none_or(|of| of.side == Side::Left);
    let own: Vec<&ChildSpec> = children.iter().filter(is_own).collect();
    if own.is_empty() {
        return;
    }
    line(out, 2, "children", "");
    for child in own {
        let (schema, name) = (quoted(&child.table.schema), quoted(&child.table.name));
        line(out, 3, "- table", &format!("{{ schema: {schema}, name: {name} }}"));
        match &child.from {
            ChildFrom::Each { path, not_array } => {
                line(out, 4, "each", &quoted(path));
                line(out, 4, "not_array", word(&NOT_ARRAY, *not_array));
            }
            ChildFrom::Object { path } => line(out, 4, "object", &quoted(path)),
        }
        if let Some(key) = &child.key {
            line(out, 4, "key", &quoted_list(key));
        }
        if let Some(junction) = &child.junction {
            junctions::show(out, junction);
        }
        line(out, 4, "on_error", word(&ON_ERROR, child.on_error));
        line(out, 4, "columns", "");
        for column in &child.columns {
            line(out, 5, &quoted(&column.name), &value(column));
        }
    }
}

fn word<T: Copy + PartialEq>(words: &[(&'static str, T)], value: T) -> &'static str {
    words.iter().find(|(_, of)| *of == value).map_or("", |(word, _)| word)
}

impl ChildSpec {
    /// Where its rows come from, as text that is equal where they come from the same.
    pub fn origin(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = match &self.from {
            ChildFrom::Each { path, not_array } => {
                write!(text, "each {path} {}", word(&NOT_ARRAY, *not_array))
            }
            ChildFrom::Object { path } => write!(text, "object {path}"),
        };
        let _ = write!(text, " {}", word(&ON_ERROR, self.on_error));
        if let Some(junction) = &self.junction {
            let _ = write!(text, " {} of {}", junction.side.as_str(), junction.other);
        }
        text
    }
}
