//! The `columns` of a mapping: where each value comes from.

use ::config::ValueKind;

use super::children::{element_path, is_element_path};
use super::expression::expression;
use super::mappings::NAME_BYTES;
use super::model::{Aim, ColumnSpec, KeySpec, Missing, ReferenceSpec, Scalar, ValueSpec};
use super::nearest::nearest;
use super::reading::{JsonForm, Reading};
use super::references;
use super::rules::RuleKeys;
use super::tree::{Field, Section};

/// From here on a number in a file is not exact: digits were lost when it was read.
const INEXACT_FROM: f64 = 9_007_199_254_740_992.0;
/// Any number of so many digits is told from its neighbours when it is read; of one with more, another
/// number may be left.
const EXACT_DIGITS: usize = 15;

const WORDS: [(&str, Word); 5] = [
    ("$document", Word::Document),
    ("$id", Word::Id),
    ("$cluster_time", Word::ClusterTime),
    ("$transform", Word::Transform),
    ("$parent", Word::Parent),
];
/// Of these, the ones that a mapping's own columns can have.
const DOCUMENT_WORDS: usize = 4;

/// What a value is taken from, besides a path.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    Document,
    Id,
    ClusterTime,
    Transform,
    Parent,
}

enum Origin {
    Paths(Vec<String>),
    Word(Word),
}

/// A column with a mistake is left out, and the mistake is reported.
pub(super) fn columns(field: Field<'_>, key: &KeySpec) -> Vec<ColumnSpec> {
    if field.is_null() || matches!(field.value(), ValueKind::Table(entries) if entries.is_empty()) {
        field.mistake("must name at least one column", "leave the key out to write whole documents");
        return Vec::new();
    }
    let Some(entries) = field.entries() else { return Vec::new() };
    entries.into_iter().filter_map(|(name, field)| column(name, field, key)).collect()
}

fn column(name: String, field: Field<'_>, key: &KeySpec) -> Option<ColumnSpec> {
    if key.added().contains(&name.as_str()) {
        let hint = "rowstream writes the key itself, into the columns that key: names";
        field.hidden_mistake("must not be a column of the key", hint);
    }
    any_column(name, field)
}

/// A column of whatever table: of a mapping, or of a stub.
pub(super) fn any_column(name: String, field: Field<'_>) -> Option<ColumnSpec> {
    if name.is_empty() || name.len() > NAME_BYTES || name.contains('\0') {
        field.hidden_mistake(format!("must have a name of 1 to {NAME_BYTES} bytes"), "");
    }
    match field.value() {
        ValueKind::String(_) => {
            let value = match origin(field)? {
                Origin::Paths(from) => ValueSpec::Path { from, reading: Reading::default() },
                Origin::Word(Word::Document) => {
                    ValueSpec::Document { without: Vec::new(), json: JsonForm::default(), strip_nul: false }
                }
                Origin::Word(Word::Id) => ValueSpec::SourceId,
                Origin::Word(Word::ClusterTime) => ValueSpec::ClusterTime,
                Origin::Word(Word::Transform) => ValueSpec::Transformed { reading: Reading::default() },
                Origin::Word(Word::Parent) => parent(),
            };
            Some(ColumnSpec { name, value, insert_only: false, required: false, default: None })
        }
        ValueKind::Table(_) => described_column(name, field.into_section()?),
        _ => {
            field.mistake("must be a path, or a map with from, value, cel, key, ref, lookup or collect", "");
            None
        }
    }
}

fn described_column(name: String, mut section: Section<'_>) -> Option<ColumnSpec> {
    let origin_field = section.field("from");
    let constant_field = section.field_or_null("value");
    let expression_field = section.field("cel");
    let key_field = section.field("key");
    let each_field = section.field("each");
    let ref_field = section.field("ref");
    let lookup_field = section.field("lookup");
    let missing_field = section.field_or_null("missing");
    let collect_field = section.field("collect");
    let distinct_field = section.field("distinct");
    let rules = RuleKeys::take(&mut section);
    let without_field = section.field("without");
    let required_field = section.field("required");
    let default_field = section.field_or_null("default");
    let writes = section.choice("write", &[("always", false), ("insert", true)]);
    section.finish();

    let given = usize::from(origin_field.is_some())
        + usize::from(constant_field.is_some())
        + usize::from(expression_field.is_some())
        + usize::from(key_field.is_some())
        + usize::from(ref_field.is_some())
        + usize::from(lookup_field.is_some())
        + usize::from(collect_field.is_some());
    if given != 1 {
        section.mistake("must have one of from, value, cel, key, ref, lookup and collect", "");
        return None;
    }
    if let Some(field) = distinct_field.as_ref().filter(|_| collect_field.is_none()) {
        field.mistake("must be left out without collect", "");
    }
    let distinct = distinct_field.as_ref().and_then(Field::flag).unwrap_or(false);
    let origin = match origin_field {
        Some(field) => Some(origin(field)?),
        None => None,
    };
    let is_document = matches!(origin, Some(Origin::Word(Word::Document)));
    // Whatever a value comes from, it is read by the same rules.
    let is_path = matches!(origin, Some(Origin::Paths(_) | Origin::Word(Word::Transform)))
        || expression_field.is_some();
    let is_reference = ref_field.is_some() || lookup_field.is_some();
    if let Some(field) = default_field.as_ref().filter(|_| !is_path) {
        field.mistake("must be left out unless from is a path", "");
    }
    if let Some(field) = required_field.as_ref().filter(|_| !is_path && !is_reference) {
        field.mistake("must be left out unless from is a path", "");
    }
    if let Some(field) = each_field.as_ref().filter(|field| ref_field.is_none() || field.is_of_child()) {
        field.mistake("must be left out without ref, and in children", "an array of values needs no each");
        return None;
    }
    if let Some(field) = missing_field.as_ref().filter(|_| !is_reference) {
        field.mistake("must be left out without ref or lookup", "for an absent field: required, or default");
    }
    if let Some(field) = without_field.as_ref().filter(|_| !is_document) {
        field.mistake("must be left out unless from is $document", "");
    }
    let without = without_field.and_then(names).unwrap_or_default();
    let required = required_field.as_ref().and_then(Field::flag).unwrap_or(false);
    if let Some(field) = default_field.as_ref().filter(|_| required) {
        field.mistake("must not be given together with required: true", "");
    }
    let has_default = default_field.is_some();
    let default = default_field.and_then(|field| constant(&field));
    if !is_path {
        rules.refuse(is_document);
    }
    let value = match (origin, constant_field, key_field) {
        (Some(Origin::Paths(from)), _, _) => {
            ValueSpec::Path { from, reading: rules.reading(&section, has_default) }
        }
        (Some(Origin::Word(Word::Document)), _, _) => {
            let (json, strip_nul) = rules.document();
            ValueSpec::Document { without, json, strip_nul }
        }
        (Some(Origin::Word(Word::Id)), _, _) => ValueSpec::SourceId,
        (Some(Origin::Word(Word::ClusterTime)), _, _) => ValueSpec::ClusterTime,
        (Some(Origin::Word(Word::Transform)), _, _) => {
            ValueSpec::Transformed { reading: rules.reading(&section, has_default) }
        }
        (None, None, None) if expression_field.is_some() => ValueSpec::Expression {
            expression: expression(&expression_field?)?,
            reading: rules.reading(&section, has_default),
        },
        (Some(Origin::Word(Word::Parent)), _, _) => parent(),
        (None, Some(field), _) => ValueSpec::Constant(constant(&field)?),
        (None, None, Some(field)) => key_value(field)?,
        (None, None, None) => match collect_field {
            Some(field) => ValueSpec::Collect { from: path(&field)?, distinct },
            None => {
                let reference = references::reference(each_field, ref_field, lookup_field, missing_field)?;
                ValueSpec::Reference(Box::new(reference))
            }
        },
    };
    Some(ColumnSpec { name, value, insert_only: writes.unwrap_or(false), required, default })
}

fn parent() -> ValueSpec {
    ValueSpec::Reference(Box::new(ReferenceSpec {
        aim: Aim::Parent,
        each: None,
        take: None,
        missing: Missing::Hold,
    }))
}

/// A path, a list of paths, or one of the words with a `$`.
fn origin(field: Field<'_>) -> Option<Origin> {
    if let ValueKind::Array(items) = field.value() {
        if items.is_empty() {
            field.mistake("must hold at least one path", "");
            return None;
        }
        let paths: Vec<Option<String>> = field.items()?.iter().map(path).collect();
        return Some(Origin::Paths(paths.into_iter().collect::<Option<_>>()?));
    }
    match field.value() {
        ValueKind::String(text) if field.is_of_child() && is_element_path(text) => {
            Some(Origin::Paths(vec![path(&field)?]))
        }
        ValueKind::String(text) if text.starts_with('$') => {
            let words = if field.is_of_child() { &WORDS[..] } else { &WORDS[..DOCUMENT_WORDS] };
            field.choice(words).map(Origin::Word)
        }
        ValueKind::String(_) => Some(Origin::Paths(vec![path(&field)?])),
        _ => {
            field.mistake("must be a path, a list of paths, $document, $id, $cluster_time or $transform", "");
            None
        }
    }
}

pub(super) fn path(field: &Field<'_>) -> Option<String> {
    if field.is_of_child() { element_path(field) } else { document_path(field) }
}

pub(super) fn document_path(field: &Field<'_>) -> Option<String> {
    let path = field.text()?;
    if path.starts_with('$') {
        field.mistake("must be a path", "words with a $ stand alone, not in a list");
        return None;
    }
    if path.split('.').any(str::is_empty) {
        field.mistake("must be names joined by single dots", "");
        return None;
    }
    Some(path)
}

/// Top-level fields, by name.
fn names(field: Field<'_>) -> Option<Vec<String>> {
    let names: Vec<Option<String>> = field.items()?.iter().map(Field::text).collect();
    names.into_iter().collect()
}

fn key_value(field: Field<'_>) -> Option<ValueSpec> {
    match field.value() {
        ValueKind::String(text) if text == "uuid" => Some(ValueSpec::KeyUuid),
        ValueKind::Table(_) => {
            let mut section = field.into_section()?;
            let prefix = section.required("prefix", "for example txn_").and_then(|field| field.text());
            section.finish();
            prefix.map(ValueSpec::KeyPrefixed)
        }
        ValueKind::String(text) => {
            let hint = nearest(text, ["uuid"]).map(|_| "did you mean uuid?").unwrap_or_default();
            field.mistake("must be uuid or { prefix: … }", hint);
            None
        }
        _ => {
            field.mistake("must be uuid or { prefix: … }", "");
            None
        }
    }
}

/// A scalar, or a list of them for arrays and JSON.
fn constant(field: &Field<'_>) -> Option<Scalar> {
    let ValueKind::Array(_) = field.value() else { return scalar(field) };
    let items: Vec<Option<Scalar>> = field.clone().items()?.iter().map(scalar).collect();
    items.into_iter().collect::<Option<_>>().map(Scalar::List)
}

pub(super) fn scalar(field: &Field<'_>) -> Option<Scalar> {
    match field.value() {
        ValueKind::Nil => Some(Scalar::Null),
        ValueKind::Boolean(flag) => Some(Scalar::Bool(*flag)),
        ValueKind::I64(number) => Some(Scalar::Int(*number)),
        ValueKind::Float(number) if is_exact(*number) => Some(Scalar::Float(*number)),
        ValueKind::String(text) if text.is_empty() => Some(Scalar::Text(String::new())),
        ValueKind::String(_) => field.text().map(Scalar::Text),
        ValueKind::Table(_) | ValueKind::Array(_) => {
            field.mistake("must be text, a number, true, false or null", "");
            None
        }
        _ => {
            field.mistake("must be a number that is read exactly", "put it in quotes");
            None
        }
    }
}

fn is_exact(number: f64) -> bool {
    let text = format!("{number:e}");
    let mantissa = text.split('e').next().unwrap_or_default();
    number.abs() < INEXACT_FROM && mantissa.bytes().filter(u8::is_ascii_digit).count() <= EXACT_DIGITS
}
