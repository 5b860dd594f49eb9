//! `also_from` of a child: a junction whose pairs two collections list, each in an array of its own. The other
//! mapping gets a child of its own for it, so that from here on both sides are alike.

use ::config::ValueKind;

use super::children::{ChildFrom, ChildSpec};
use super::columns::document_path;
use super::model::{Aim, ColumnSpec, MappingSpec, Missing, ReferenceSpec, Targets, ValueSpec};
use super::reading::quoted;
use super::show::line;
use super::tree::{Field, Section};
use crate::domain::Side;

/// What is known of a junction's other side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JunctionSpec {
    /// On which side the child itself is.
    pub side: Side,
    /// The other mapping, and its array.
    pub other: String,
    pub each: String,
}

pub(super) fn also_from(field: Field<'_>) -> Option<JunctionSpec> {
    let mut section = field.into_section()?;
    let other = section.required("source", "the mapping of the other side").and_then(|field| field.text());
    let each = section.required("each", "its array of ids").and_then(|field| document_path(&field));
    section.finish();
    Some(JunctionSpec { side: Side::Left, other: other?, each: each? })
}

/// Says what cannot be in a junction, and lets its references be dropped while they lead nowhere.
pub(super) fn check(
    section: &Section<'_>,
    junction: &JunctionSpec,
    from: Option<&ChildFrom>,
    columns: &mut [ColumnSpec],
) {
    if matches!(from, Some(ChildFrom::Object { .. })) {
        section.mistake_at(
            "also_from",
            "must be left out with object",
            "a junction has an array on each side",
        );
    }
    let mut references = 0;
    for column in columns {
        match &mut column.value {
            ValueSpec::Reference(reference) => match &reference.aim {
                Aim::Parent => {}
                Aim::Document { to: Targets::First(to), .. } if *to == [junction.other.as_str()] => {
                    references += 1;
                    reference.missing = Missing::Drop;
                }
                Aim::Document { .. } | Aim::Row { .. } => references += 2,
            },
            ValueSpec::Constant(_) | ValueSpec::KeyUuid | ValueSpec::KeyPrefixed(_) => {}
            _ => section.mistake_at(
                "columns",
                &format!(
                    "must be references, constants and made ids with also_from, and {} is none",
                    column.name
                ),
                "only one of the two sides could tell its value",
            ),
        }
    }
    if references != 1 {
        section.mistake_at(
            "columns",
            "must have one reference beside $parent with also_from",
            "a ref to the mapping that also_from names",
        );
    }
}

/// Whether a column says what becomes of it while its row is missing, other than to leave the pair out.
pub(super) fn says_missing(field: &Field<'_>) -> bool {
    let ValueKind::Table(entries) = field.value() else { return false };
    let missing = entries.get("missing").map(|missing| &missing.kind);
    missing.is_some_and(|missing| !matches!(missing, ValueKind::String(word) if word == "drop"))
}

/// Gives the other mapping of each junction the child that mirrors it; what cannot be, with the place of the
/// mapping that asked for it.
pub(super) fn mirror(specs: &mut [MappingSpec]) -> Vec<(usize, String)> {
    let mut mistakes = Vec::new();
    let mut mirrors = Vec::new();
    for (place, spec) in specs.iter().enumerate() {
        for child in &spec.children {
            let Some(junction) = &child.junction else { continue };
            let others =
                specs.iter().flat_map(|spec| &spec.children).filter(|other| other.table == child.table);
            let is_mapped = specs.iter().any(|spec| spec.table == child.table);
            if others.count() > 1 || is_mapped {
                mistakes.push((
                    place,
                    format!("must be the only ones that write {}, since it has also_from", child.table),
                ));
            }
            let Some(other) = specs.iter().position(|spec| spec.source == junction.other) else {
                mistakes.push((
                    place,
                    format!("must name a mapping in also_from, and {} is none", junction.other),
                ));
                continue;
            };
            if specs[other].shared || specs[other].columns.is_none() {
                let what = "must name a mapping with columns and without shared: true in also_from";
                mistakes.push((place, what.to_owned()));
            }
            mirrors.extend(mirrored(spec, child, junction).map(|mirrored| (other, mirrored)));
        }
    }
    for (other, child) in mirrors {
        specs[other].children.push(child);
    }
    mistakes
}

/// The same pairs, seen from the other side.
fn mirrored(spec: &MappingSpec, child: &ChildSpec, junction: &JunctionSpec) -> Option<ChildSpec> {
    let ChildFrom::Each { path, not_array } = &child.from else { return None };
    let columns = child.columns.iter().cloned().map(|column| {
        let ValueSpec::Reference(reference) = column.value else { return column };
        let aim = match reference.aim {
            Aim::Parent => Aim::Document {
                to: Targets::First(vec![spec.source.clone()]),
                from: vec!["$element".to_owned()],
                strip_prefix: None,
            },
            Aim::Document { .. } | Aim::Row { .. } => Aim::Parent,
        };
        let missing = if aim == Aim::Parent { Missing::Hold } else { Missing::Drop };
        let reference = ReferenceSpec { aim, take: reference.take, missing };
        ColumnSpec { value: ValueSpec::Reference(Box::new(reference)), ..column }
    });
    Some(ChildSpec {
        table: child.table.clone(),
        from: ChildFrom::Each { path: junction.each.clone(), not_array: *not_array },
        key: child.key.clone(),
        on_error: child.on_error,
        columns: columns.collect(),
        junction: Some(JunctionSpec { side: Side::Right, other: spec.source.clone(), each: path.clone() }),
    })
}

/// For `config show`.
pub(super) fn show(out: &mut String, junction: &JunctionSpec) {
    let JunctionSpec { side: _, other, each } = junction;
    let text = format!("{{ source: {}, each: {} }}", quoted(other), quoted(each));
    line(out, 4, "also_from", &text);
}
