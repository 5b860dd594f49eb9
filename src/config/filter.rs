//! `filter`: which documents of its collection belong to a mapping.

use ::config::ValueKind;
use bson::oid::ObjectId;
use bson::{Bson, DateTime, Decimal128};

use super::columns::scalar;
use super::expression::{Expression, expression};
use super::model::Scalar;
use super::reading::quoted;
use super::tree::{Field, Section};

#[derive(Debug, Clone, PartialEq)]
pub enum Filter {
    /// All of them hold, as MongoDB's query language has it.
    Conditions(Vec<Condition>),
    /// True for those that belong.
    Expression(Expression),
}

/// What must be the case at one dotted path.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    pub path: String,
    pub test: Test,
}

/// Operands are null, booleans, int64, doubles, strings, dates, ObjectIds and decimals.
#[derive(Debug, Clone, PartialEq)]
pub enum Test {
    Equal(Bson),
    NotEqual(Bson),
    In(Vec<Bson>),
    NotIn(Vec<Bson>),
    Exists(bool),
    Less(Bson),
    LessOrEqual(Bson),
    Greater(Bson),
    GreaterOrEqual(Bson),
}

pub(super) fn filter(field: Field<'_>) -> Option<Filter> {
    if matches!(field.value(), ValueKind::String(_)) {
        return expression(&field).map(Filter::Expression);
    }
    if matches!(field.value(), ValueKind::Table(entries) if entries.is_empty()) {
        field.mistake("must have at least one condition", "for example { deleted: { $ne: true } }");
        return None;
    }
    let mut conditions = Vec::new();
    let mut is_whole = true;
    for (name, field) in field.entries()? {
        match self::conditions(&name, field) {
            Some(of_path) => conditions.extend(of_path),
            None => is_whole = false,
        }
    }
    is_whole.then_some(Filter::Conditions(conditions))
}

/// The conditions on one path: a value, or a map of operators.
fn conditions(name: &str, field: Field<'_>) -> Option<Vec<Condition>> {
    if name.starts_with('$') || name.split('.').any(str::is_empty) {
        field.hidden_mistake(
            "must be names joined by single dots",
            "operators stand behind a path; all conditions must hold",
        );
        return None;
    }
    let condition = |test| Condition { path: name.to_owned(), test };
    if !is_operators(&field) {
        return operand(field).map(|value| vec![condition(Test::Equal(value))]);
    }
    let mut section = field.into_section()?;
    let mut tests = Vec::new();
    let mut one = |section: &mut Section<'_>, key, test: fn(Bson) -> Test| {
        tests.extend(section.field_or_null(key).map(|field| operand(field).map(test)));
    };
    one(&mut section, "$eq", Test::Equal);
    one(&mut section, "$ne", Test::NotEqual);
    one(&mut section, "$gt", Test::Greater);
    one(&mut section, "$gte", Test::GreaterOrEqual);
    one(&mut section, "$lt", Test::Less);
    one(&mut section, "$lte", Test::LessOrEqual);
    tests.extend(section.field("$in").map(|field| operands(field).map(Test::In)));
    tests.extend(section.field("$nin").map(|field| operands(field).map(Test::NotIn)));
    tests.extend(section.field("$exists").map(|field| field.flag().map(Test::Exists)));
    section.finish();
    let tests: Option<Vec<Test>> = tests.into_iter().collect();
    tests.filter(|tests| !tests.is_empty()).map(|tests| tests.into_iter().map(condition).collect())
}

/// A map is one of operators, unless it writes down a single value of a type that YAML does not have.
fn is_operators(field: &Field<'_>) -> bool {
    let ValueKind::Table(entries) = field.value() else { return false };
    !entries.keys().any(|key| ["$date", "$oid", "$numberDecimal"].contains(&key.as_str()))
}

fn operands(field: Field<'_>) -> Option<Vec<Bson>> {
    let operands: Vec<Option<Bson>> = field.items()?.into_iter().map(operand).collect();
    operands.into_iter().collect()
}

fn operand(field: Field<'_>) -> Option<Bson> {
    if matches!(field.value(), ValueKind::Table(_)) {
        return typed(field);
    }
    Some(match scalar(&field)? {
        Scalar::Null => Bson::Null,
        Scalar::Bool(flag) => flag.into(),
        Scalar::Int(number) => number.into(),
        Scalar::Float(number) => number.into(),
        Scalar::Text(text) => text.into(),
        Scalar::List(_) => return None,
    })
}

/// A value of a type that YAML does not have, as extended JSON writes it.
fn typed(field: Field<'_>) -> Option<Bson> {
    let constraint = "must be a scalar, or one of $date, $oid and $numberDecimal";
    let hint = "for example { $date: \"2025-01-01T00:00:00Z\" }";
    let whole = field.clone();
    let entries = field.entries()?;
    let [(name, value)] = entries.as_slice() else {
        whole.mistake(constraint, hint);
        return None;
    };
    let read = match name.as_str() {
        "$date" => date,
        "$oid" => object_id,
        "$numberDecimal" => decimal,
        _ => {
            whole.mistake(constraint, hint);
            return None;
        }
    };
    read(value, &value.text()?)
}

fn date(field: &Field<'_>, text: &str) -> Option<Bson> {
    let date = DateTime::parse_rfc3339_str(text).ok();
    if date.is_none() {
        field.mistake("must be a date and time with a zone", "for example \"2025-01-01T00:00:00Z\"");
    }
    date.map(Bson::from)
}

fn object_id(field: &Field<'_>, text: &str) -> Option<Bson> {
    let id = ObjectId::parse_str(text).ok();
    if id.is_none() {
        field.mistake("must be 24 hexadecimal digits", "");
    }
    id.map(Bson::from)
}

fn decimal(field: &Field<'_>, text: &str) -> Option<Bson> {
    let decimal = text.parse::<Decimal128>().ok();
    if decimal.is_none() {
        field.mistake("must be a decimal number in quotes", "for example \"12.50\"");
    }
    decimal.map(Bson::from)
}

impl Filter {
    /// As YAML that reads back as the same: the same filter gives the same text.
    pub fn to_yaml(&self) -> String {
        let conditions = match self {
            Self::Conditions(conditions) => conditions,
            Self::Expression(expression) => return quoted(expression.text()),
        };
        let mut paths: Vec<(&str, Vec<String>)> = Vec::new();
        for condition in conditions {
            let test = condition.test.to_yaml();
            match paths.iter_mut().find(|(path, _)| *path == condition.path) {
                Some((_, tests)) => tests.push(test),
                None => paths.push((&condition.path, vec![test])),
            }
        }
        let paths = paths.iter().map(|(path, tests)| format!("{}: {{ {} }}", quoted(path), tests.join(", ")));
        format!("{{ {} }}", paths.collect::<Vec<_>>().join(", "))
    }
}

impl Test {
    fn to_yaml(&self) -> String {
        let list =
            |values: &[Bson]| format!("[{}]", values.iter().map(operand_yaml).collect::<Vec<_>>().join(", "));
        match self {
            Self::Equal(value) => format!("$eq: {}", operand_yaml(value)),
            Self::NotEqual(value) => format!("$ne: {}", operand_yaml(value)),
            Self::In(values) => format!("$in: {}", list(values)),
            Self::NotIn(values) => format!("$nin: {}", list(values)),
            Self::Exists(wanted) => format!("$exists: {wanted}"),
            Self::Less(value) => format!("$lt: {}", operand_yaml(value)),
            Self::LessOrEqual(value) => format!("$lte: {}", operand_yaml(value)),
            Self::Greater(value) => format!("$gt: {}", operand_yaml(value)),
            Self::GreaterOrEqual(value) => format!("$gte: {}", operand_yaml(value)),
        }
    }
}

fn operand_yaml(value: &Bson) -> String {
    match value {
        Bson::Boolean(flag) => flag.to_string(),
        Bson::Int64(number) => number.to_string(),
        Bson::Double(number) => format!("{number:?}"),
        Bson::String(text) => quoted(text),
        Bson::DateTime(date) => {
            let text = date.try_to_rfc3339_string().unwrap_or_default();
            format!("{{ $date: {} }}", quoted(&text))
        }
        Bson::ObjectId(id) => format!("{{ $oid: {} }}", quoted(&id.to_hex())),
        Bson::Decimal128(number) => format!("{{ $numberDecimal: {} }}", quoted(&number.to_string())),
        _ => "null".to_owned(),
    }
}
