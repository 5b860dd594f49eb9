//! `ref`, `lookup` and `missing`: values that stand in other rows.

use ::config::ValueKind;

use super::children::element_path;
use super::columns::{any_column, path, scalar};
use super::mappings::table;
use super::model::{Aim, MatchSpec, Missing, ReferenceSpec, StubSpec, Targets};
use super::tree::Field;

/// From exactly one of `ref` and `lookup`; with `each`, from one `ref` for each element of an array.
pub(super) fn reference(
    each: Option<Field<'_>>,
    reference: Option<Field<'_>>,
    lookup: Option<Field<'_>>,
    missing: Option<Field<'_>>,
) -> Option<ReferenceSpec> {
    let is_lookup = lookup.is_some();
    let missing = match missing {
        Some(field) => self::missing(field, is_lookup, each.is_some()),
        None => Some(Missing::Hold),
    };
    let (aim, take) = match (reference, lookup) {
        (Some(field), _) => document(field, each.is_some())?,
        (None, Some(field)) => row(field)?,
        (None, None) => return None,
    };
    let each = match each {
        Some(field) => Some(path(&field)?),
        None => None,
    };
    Some(ReferenceSpec { aim, each, take, missing: missing? })
}

/// `in_array`: its paths are of an element, which is referred by its own value or one of its fields.
fn document(field: Field<'_>, in_array: bool) -> Option<(Aim, Option<String>)> {
    let mut section = field.into_section()?;
    let to = section.field("to");
    let by = section.field("by");
    let one = if in_array { element_path } else { path };
    let from = section.required("from", "the path of the id").and_then(|field| paths(field, one));
    let strip_prefix = section.field("strip_prefix").and_then(|field| field.text());
    let take = section.field("take").and_then(|field| field.text());
    section.finish();
    let to = match (to, by) {
        (Some(to), None) => Targets::First(sources(to)?),
        (None, Some(by)) if in_array => {
            by.mistake("must be left out with each", "all elements refer to the same mappings: to");
            return None;
        }
        (None, Some(by)) => by_kind(by)?,
        (None, None) | (Some(_), Some(_)) => {
            section.mistake("must have one of to and by", "to: the mapping whose document is meant");
            return None;
        }
    };
    Some((Aim::Document { to, from: from?, strip_prefix }, take))
}

fn by_kind(field: Field<'_>) -> Option<Targets> {
    let mut section = field.into_section()?;
    let kind_field = section.required("path", "the field that tells which mapping is meant");
    let map = section.required("map", "its text → a mapping").and_then(Field::entries);
    section.finish();
    let kind = kind_field.and_then(|field| path(&field));
    let map: Vec<(String, Option<String>)> =
        map?.into_iter().map(|(kind, source)| (kind, source.text())).collect();
    let map = map.into_iter().map(|(kind, source)| Some((kind, source?))).collect::<Option<_>>()?;
    Some(Targets::By { path: kind?, map })
}

fn row(field: Field<'_>) -> Option<(Aim, Option<String>)> {
    let mut section = field.into_section()?;
    let table_field = section.required("table", "the table to look into").and_then(table);
    let matches = section.required("match", "column → path").and_then(Field::entries);
    let take = section.field("take").and_then(|field| field.text());
    section.finish();
    let matches = matches?;
    if matches.is_empty() {
        section.mistake_at("match", "must name at least one column", "column → path");
        return None;
    }
    let matches: Vec<Option<(String, MatchSpec)>> =
        matches.into_iter().map(|(column, field)| Some((column, match_spec(field)?))).collect();
    let matches = matches.into_iter().collect::<Option<_>>()?;
    Some((Aim::Row { table: table_field?, matches }, take))
}

fn match_spec(field: Field<'_>) -> Option<MatchSpec> {
    if matches!(field.value(), ValueKind::Table(_)) {
        let mut section = field.into_section()?;
        let value =
            section.required("value", "a constant; a path stands alone").and_then(|field| scalar(&field));
        section.finish();
        return value.map(MatchSpec::Constant);
    }
    path(&field).map(MatchSpec::Path)
}

#[derive(Clone, Copy)]
enum Word {
    Hold,
    Keep,
    Drop,
}

fn missing(field: Field<'_>, is_lookup: bool, in_array: bool) -> Option<Missing> {
    match field.value() {
        ValueKind::Nil => Some(Missing::Null),
        ValueKind::Table(_) if in_array => {
            field.mistake("must be hold, null, keep or drop with each", "");
            None
        }
        ValueKind::Table(_) => {
            let mut section = field.into_section()?;
            let create = section.required("create", "or: hold, null, keep").and_then(Field::into_section);
            section.finish();
            let mut create = create?;
            let source = create.field("source").and_then(|field| field.text());
            let prefix = create.field("prefix").and_then(|field| field.text());
            let columns = create.field("columns").and_then(Field::entries).unwrap_or_default();
            create.finish();
            if is_lookup && (source.is_some() || prefix.is_some()) {
                create.mistake(
                    "must not have source or prefix",
                    "the key of a looked-up row is what it is matched by",
                );
            }
            let columns: Vec<_> =
                columns.into_iter().filter_map(|(name, field)| any_column(name, field)).collect();
            Some(Missing::Create(StubSpec { source, prefix, columns }))
        }
        ValueKind::String(text) if text == "null" => Some(Missing::Null),
        _ => {
            let words = [("hold", Word::Hold), ("keep", Word::Keep), ("drop", Word::Drop)];
            // Only an element can be left out.
            let words = if field.is_of_child() || in_array { &words[..] } else { &words[..2] };
            Some(match field.choice(words)? {
                Word::Hold => Missing::Hold,
                Word::Keep => Missing::Keep,
                Word::Drop => Missing::Drop,
            })
        }
    }
}

fn paths(field: Field<'_>, one: fn(&Field<'_>) -> Option<String>) -> Option<Vec<String>> {
    if matches!(field.value(), ValueKind::Array(_)) {
        let paths: Vec<Option<String>> = field.items()?.iter().map(one).collect();
        return paths.into_iter().collect();
    }
    Some(vec![one(&field)?])
}

fn sources(field: Field<'_>) -> Option<Vec<String>> {
    if matches!(field.value(), ValueKind::Array(_)) {
        let sources: Vec<Option<String>> = field.items()?.iter().map(Field::text).collect();
        return sources.into_iter().collect();
    }
    Some(vec![field.text()?])
}
