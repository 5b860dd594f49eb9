//! Tables of children, drafted like any other: each element stands for a document of its own, in which the names
//! that paths begin with are fields.

use bson::RawDocumentBuf;
use bson::raw::{RawBsonRef, RawDocument, cstr};

use super::at;
use crate::config::{Aim, ChildFrom, ChildSpec, ColumnSpec, KeySpec, MappingSpec, NotArray, ValueSpec};
use crate::domain::{Document, Side, TableName};
use crate::mapping::reference::mapping_spec;

/// Elements of one sample: documents may have very many.
const ELEMENTS: usize = 10_000;

/// The tables that these children need, each once in each mapping: a junction is its first side's.
pub fn drafted_children(spec: &MappingSpec) -> impl Iterator<Item = &ChildSpec> {
    spec.children.iter().filter(|child| child.junction.as_ref().is_none_or(|of| of.side == Side::Left))
}

/// A child as a mapping of its own, and its elements as documents.
pub fn child_as_mapping(
    spec: &MappingSpec,
    child: &ChildSpec,
    sample: &[Document],
) -> (MappingSpec, Vec<Document>) {
    let key = KeySpec::Columns(child.key.clone().unwrap_or_else(|| key(child)));
    let of_table = mapping_spec(spec, spec.source.clone(), &child.table, key, child.columns.clone());
    let mut elements = Vec::new();
    for document in sample {
        let Ok(document) = RawDocument::from_bytes(document.as_bytes()) else { continue };
        for (place, element) in of_document(child, document).into_iter().enumerate() {
            if elements.len() == ELEMENTS {
                break;
            }
            elements.extend(as_document(document, element, place));
        }
    }
    (of_table, elements)
}

fn of_document<'d>(child: &ChildSpec, document: &'d RawDocument) -> Vec<RawBsonRef<'d>> {
    match &child.from {
        ChildFrom::Object { path } => at(document, path).into_iter().collect(),
        ChildFrom::Each { path, not_array } => match at(document, path) {
            Some(RawBsonRef::Array(items)) => items.into_iter().flatten().collect(),
            Some(single) if *not_array == NotArray::Single => vec![single],
            Some(_) | None => Vec::new(),
        },
    }
}

fn as_document(around: &RawDocument, element: RawBsonRef<'_>, place: usize) -> Option<Document> {
    let mut whole = RawDocumentBuf::new();
    whole.append(cstr!("_id"), i64::try_from(place).ok()?);
    whole.append(cstr!("$index"), i64::try_from(place).ok()?);
    whole.append(cstr!("$element"), element);
    whole.append(cstr!("$document"), around);
    Document::new(whole.into_bytes().into())
}

/// What tells the elements of one document apart, where the mapping does not say it.
fn key(child: &ChildSpec) -> Vec<String> {
    let path = |column: &ColumnSpec| match &column.value {
        ValueSpec::Path { from, .. } => from.first().map(String::as_str).unwrap_or_default().to_owned(),
        _ => String::new(),
    };
    let is_made = |column: &ColumnSpec| {
        matches!(column.value, ValueSpec::KeyUuid | ValueSpec::KeyPrefixed(_) | ValueSpec::Constant(_))
    };
    let refers = |column: &ColumnSpec| {
        path(column) == "$element"
            || matches!(&column.value, ValueSpec::Reference(reference) if reference.aim != Aim::Parent)
    };
    let parent = child.parent().map(|column| column.name.clone());
    let others: Vec<&ColumnSpec> = child
        .columns
        .iter()
        .filter(|column| Some(&column.name) != parent.as_ref() && !is_made(column))
        .collect();
    let place: Vec<&ColumnSpec> = others.iter().copied().filter(|column| path(column) == "$index").collect();
    let what: Vec<&ColumnSpec> = others.iter().copied().filter(|column| refers(column)).collect();
    let telling = match (&child.from, place.is_empty(), what.is_empty()) {
        (ChildFrom::Object { .. }, _, _) => Vec::new(),
        (ChildFrom::Each { .. }, false, _) => place,
        (ChildFrom::Each { .. }, true, false) => what,
        (ChildFrom::Each { .. }, true, true) => others,
    };
    parent.into_iter().chain(telling.into_iter().map(|column| column.name.clone())).collect()
}

/// The column that says whose row it is, and that document's table.
pub(super) fn parent_of<'s>(columns: &'s [ColumnSpec], parent: Option<&'s TableName>) -> Option<&'s str> {
    parent?;
    let is_parent = |column: &&ColumnSpec| matches!(&column.value, ValueSpec::Reference(reference) if reference.aim == Aim::Parent);
    columns.iter().find(is_parent).map(|column| column.name.as_str())
}
