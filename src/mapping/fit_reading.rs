//! Whether the rules for a value and the column's type go together.

use super::problem::{Problems, literal};
use crate::config::{EnumMap, JsonForm, OnError, Otherwise, Reading, Rule, Scalar};
use crate::domain::{Column, ColumnType};

const MOMENT: &str = "date, timestamp or timestamptz";
const NUMBER: &str = "an integer type, numeric, real or double precision";
const JSON: &str = "json, jsonb or text";

/// Everything in the reading that could never work for this column, all at once.
pub(super) fn fit_reading(reading: &Reading, column: &Column, problems: &mut Problems) {
    let name = Some(column.name.as_str());
    let to = value_type(&column.column_type);
    let mut misfits = reading.rules.iter().filter_map(|rule| rule_misfit(rule, to)).collect::<Vec<_>>();
    misfits.extend(misfit(reading.scale.is_some(), is_number(to), "scale", NUMBER));
    misfits.extend(misfit(
        reading.truncate,
        keeps_a_part(to),
        "truncate",
        "varchar(n), character(n), date, or a timestamp of fewer than 6 digits",
    ));
    let takes_json = is_json(to) && (!is_text(to) || reading.rules.contains(&Rule::Json));
    misfits.extend(misfit(
        reading.json != JsonForm::Relaxed,
        takes_json,
        "json",
        "json, jsonb, or as: json with text",
    ));
    misfits.extend(misfit(reading.strip_nul, is_json(to), "strip_nul", JSON));
    misfits.extend(misfit(
        reading.on_error == OnError::Clamp,
        is_number(to) || is_moment(to),
        "on_error: clamp",
        "a number or a moment",
    ));
    misfits.extend(misfit(
        reading.wrap,
        is_list(&column.column_type),
        "as: array",
        "an array, json or jsonb",
    ));
    for (what, types) in misfits {
        problems.fatal(name, format!("has the type {}, but {what} needs {types}", column.type_sql), "");
    }
    if let Some(map) = &reading.labels {
        fit_labels(map, to, column, problems);
    }
    if column.not_null && !is_array(&column.column_type) {
        fit_nulls(reading, column, problems);
    }
}

/// What a rule is said for: the column's own type, or that of its elements.
fn value_type(column_type: &ColumnType) -> &ColumnType {
    match column_type {
        ColumnType::Array { element, .. } => element,
        column_type => column_type,
    }
}

fn is_array(column_type: &ColumnType) -> bool {
    matches!(column_type, ColumnType::Array { .. })
}

fn is_list(column_type: &ColumnType) -> bool {
    is_array(column_type) || matches!(column_type, ColumnType::Json | ColumnType::Jsonb)
}

fn is_text(to: &ColumnType) -> bool {
    matches!(to, ColumnType::Text { .. })
}

fn is_json(to: &ColumnType) -> bool {
    is_text(to) || matches!(to, ColumnType::Json | ColumnType::Jsonb)
}

fn is_moment(to: &ColumnType) -> bool {
    matches!(to, ColumnType::Date | ColumnType::Timestamp { .. } | ColumnType::TimestampTz { .. })
}

fn is_number(to: &ColumnType) -> bool {
    use ColumnType as T;
    matches!(to, T::Int2 | T::Int4 | T::Int8 | T::Float4 | T::Float8 | T::Numeric(_))
}

fn keeps_a_part(to: &ColumnType) -> bool {
    match to {
        ColumnType::Text { limit, .. } => limit.is_some(),
        ColumnType::Date => true,
        ColumnType::Timestamp { precision } | ColumnType::TimestampTz { precision } => *precision < 6,
        _ => false,
    }
}

fn misfit(
    given: bool,
    fits: bool,
    what: &'static str,
    types: &'static str,
) -> Option<(&'static str, &'static str)> {
    (given && !fits).then_some((what, types))
}

fn rule_misfit(rule: &Rule, to: &ColumnType) -> Option<(&'static str, &'static str)> {
    let (fits, what, types) = match rule {
        Rule::UnixSeconds => (is_moment(to), "as: unix_seconds", MOMENT),
        Rule::UnixMilliseconds => (is_moment(to), "as: unix_milliseconds", MOMENT),
        Rule::Rfc3339 => (is_moment(to), "as: rfc3339", MOMENT),
        Rule::Iso8601 => (is_moment(to), "as: iso8601", MOMENT),
        Rule::Date(_) => (is_moment(to), "as: date", MOMENT),
        Rule::Text => {
            (is_text(to) || matches!(to, ColumnType::Enum { .. }), "as: text", "text, varchar or an enum")
        }
        Rule::Number => (is_number(to), "as: number", NUMBER),
        Rule::Boolean => (matches!(to, ColumnType::Bool), "as: boolean", "boolean"),
        Rule::ObjectId => (is_text(to), "as: object_id", "text or varchar"),
        Rule::Json => (is_json(to), "as: json", JSON),
    };
    (!fits).then_some((what, types))
}

/// Of a map into an enum each label must be there; what else does not fit is found when it is encoded.
fn fit_labels(map: &EnumMap, to: &ColumnType, column: &Column, problems: &mut Problems) {
    let ColumnType::Enum { labels } = to else { return };
    let otherwise = match &map.otherwise {
        Otherwise::Label(label) => Some(label),
        Otherwise::Hold | Otherwise::Null | Otherwise::Default => None,
    };
    let mut seen: Vec<&str> = Vec::new();
    for label in map.labels.iter().map(|(_, label)| label).chain(otherwise) {
        if let Scalar::Text(text) = label
            && !labels.contains(text)
            && !seen.contains(&text.as_str())
        {
            seen.push(text);
            problems.fatal(
                Some(&column.name),
                format!("is an enum without the label {}, to which enum: leads", literal(text)),
                format!("the labels are {}", labels.join(", ")),
            );
        }
    }
}

/// Rules that end at null, in a column that takes none.
fn fit_nulls(reading: &Reading, column: &Column, problems: &mut Problems) {
    let mut refuse = |what: &str| {
        let message = format!("is not null, but {what} would make it null");
        problems.fatal(Some(&column.name), message, "use default, or drop the column's not null");
    };
    if reading.on_error == OnError::Null {
        refuse("on_error: null");
    }
    if let Some(map) = &reading.labels {
        if map.otherwise == Otherwise::Null || map.otherwise == Otherwise::Label(Scalar::Null) {
            refuse("otherwise: null");
        }
        if map.labels.iter().any(|(_, label)| *label == Scalar::Null) && !reading.default_for_null {
            refuse("a null in enum");
        }
    }
}
