//! The rules for a value, as the file writes them: `as`, `trim`, `enum`, `scale`, `on_error` and their like.

use std::collections::HashMap;

use ::config::ValueKind;

use super::columns::scalar;
use super::date_format::DateFormat;
use super::model::{Rule, Scalar};
use super::reading::{Case, EnumMap, JsonForm, OnError, Otherwise, Reading, Rounding, Scale};
use super::tree::{Field, Section};

/// PostgreSQL's own limit for the scale of a numeric column.
const PLACES: std::ops::RangeInclusive<u64> = 0..=1000;

/// `None` is `array`, which may stand beside a rule.
const RULES: [(&str, Option<&Rule>); 10] = [
    ("unix_seconds", Some(&Rule::UnixSeconds)),
    ("unix_milliseconds", Some(&Rule::UnixMilliseconds)),
    ("rfc3339", Some(&Rule::Rfc3339)),
    ("iso8601", Some(&Rule::Iso8601)),
    ("text", Some(&Rule::Text)),
    ("number", Some(&Rule::Number)),
    ("boolean", Some(&Rule::Boolean)),
    ("object_id", Some(&Rule::ObjectId)),
    ("json", Some(&Rule::Json)),
    ("array", None),
];

const JSON_FORMS: [(&str, JsonForm); 3] =
    [("relaxed", JsonForm::Relaxed), ("canonical", JsonForm::Canonical), ("plain", JsonForm::Plain)];

/// The keys of one column that say how its value is read.
#[derive(Debug)]
pub(super) struct RuleKeys<'r> {
    strip_nul: Option<Field<'r>>,
    json: Option<Field<'r>>,
    /// All others; those two are for whole documents too.
    only_values: Vec<(&'static str, Field<'r>)>,
}

impl<'r> RuleKeys<'r> {
    pub(super) fn take(section: &mut Section<'r>) -> Self {
        let strip_nul = section.field("strip_nul");
        let json = section.field("json");
        let keys = [
            "as",
            "trim",
            "case",
            "strip_prefix",
            "null_if",
            "enum",
            "fold_case",
            "otherwise",
            "scale",
            "rounding",
            "truncate",
            "on_null",
            "on_error",
        ];
        let take = |key| Some((key, section.field_or_null(key)?));
        Self { strip_nul, json, only_values: keys.into_iter().filter_map(take).collect() }
    }

    /// The keys that were given and make no sense for a value without rules.
    pub(super) fn refuse(&self, is_document: bool) {
        let shared = self.strip_nul.iter().chain(&self.json).filter(|_| !is_document);
        for field in self.only_values.iter().map(|(_, field)| field).chain(shared) {
            field.mistake("must be left out unless from is a path", "");
        }
    }

    /// What of it a whole document takes: the form of its JSON, and `strip_nul`.
    pub(super) fn document(self) -> (JsonForm, bool) {
        let json = self.json.and_then(|field| field.choice(&JSON_FORMS));
        (json.unwrap_or_default(), self.strip_nul.is_some_and(|field| field.flag().unwrap_or(false)))
    }

    /// `section`: of the column. `default`: whether it has one, and `required` is not said.
    pub(super) fn reading(mut self, section: &Section<'_>, has_default: bool) -> Reading {
        let mut taken = |key: &str| {
            let place = self.only_values.iter().position(|(name, _)| *name == key)?;
            Some(self.only_values.swap_remove(place).1)
        };
        let mut given = |key: &str| taken(key).filter(|field| !field.is_null());
        let (rules, wrap) = given("as").map(rules).unwrap_or_default();
        let flag = |field: Option<Field<'_>>| field.and_then(|field| field.flag()).unwrap_or(false);
        let trim = flag(given("trim"));
        let case =
            given("case").and_then(|field| field.choice(&[("lower", Case::Lower), ("upper", Case::Upper)]));
        let strip_prefix = given("strip_prefix").and_then(|field| field.text());
        let null_if = given("null_if").map(null_if).unwrap_or_default();
        let labels = given("enum");
        let fold_case = given("fold_case");
        let otherwise = taken("otherwise");
        if labels.is_none() {
            for field in fold_case.iter().chain(&otherwise) {
                field.mistake("must be left out unless enum is given", "");
            }
        }
        let labels = labels.and_then(|field| {
            enum_map(field, flag(fold_case), otherwise.map(|field| self::otherwise(field, has_default)))
        });
        let mut given = |key: &str| taken(key).filter(|field| !field.is_null());
        let places = given("scale").and_then(|field| field.count(&PLACES));
        let rounding = given("rounding");
        if let Some(field) = rounding.as_ref().filter(|_| places.is_none() && !section.has("scale")) {
            field.mistake("must be left out unless scale is given", "");
        }
        let roundings = [("half_up", Rounding::HalfAwayFromZero), ("half_even", Rounding::HalfEven)];
        let rounding = rounding.and_then(|field| field.choice(&roundings));
        let truncate = flag(given("truncate"));
        let on_null = taken("on_null").map(|field| whether_default(&field, "null", has_default));
        let on_error = taken("on_error").map(|field| on_error(&field, has_default));
        Reading {
            strip_nul: self.strip_nul.is_some_and(|field| field.flag().unwrap_or(false)),
            trim,
            strip_prefix,
            null_if,
            case,
            labels,
            rules,
            wrap,
            json: self.json.and_then(|field| field.choice(&JSON_FORMS)).unwrap_or_default(),
            scale: places.map(|places| Scale {
                places: places as u16,
                rounding: rounding.unwrap_or(Rounding::HalfAwayFromZero),
            }),
            truncate,
            default_for_null: on_null.unwrap_or(false),
            on_error: on_error.unwrap_or_default(),
        }
    }
}

/// One rule or a list of them, and whether `array` is among them.
fn rules(field: Field<'_>) -> (Vec<Rule>, bool) {
    let fields = match field.value() {
        ValueKind::Array(items) if items.is_empty() => {
            field.mistake("must hold at least one rule", "");
            return (Vec::new(), false);
        }
        ValueKind::Array(_) => field.items().unwrap_or_default(),
        _ => vec![field],
    };
    let (mut rules, mut wrap) = (Vec::new(), false);
    for field in fields {
        let rule = match field.value() {
            ValueKind::Table(_) => date_formats(field),
            _ => match field.choice(&RULES) {
                Some(Some(rule)) => Some(rule.clone()),
                Some(None) => {
                    wrap = true;
                    None
                }
                None => None,
            },
        };
        rules.extend(rule);
    }
    (rules, wrap)
}

fn date_formats(field: Field<'_>) -> Option<Rule> {
    let mut section = field.into_section()?;
    let field = section.required("date", "for example { date: [\"%Y-%m-%d\", \"%d.%m.%Y\"] }");
    section.finish();
    let field = field?;
    let fields = match field.value() {
        ValueKind::Array(items) if items.is_empty() => {
            field.mistake("must hold at least one format", "");
            return None;
        }
        ValueKind::Array(_) => field.items()?,
        _ => vec![field],
    };
    let formats = fields.iter().map(|field| {
        let text = field.text()?;
        DateFormat::parse(&text).map_err(|mistake| field.mistake(mistake, "for example \"%d.%m.%Y\"")).ok()
    });
    formats.collect::<Vec<_>>().into_iter().collect::<Option<_>>().map(Rule::Date)
}

fn null_if(field: Field<'_>) -> Vec<Scalar> {
    let fields = match field.value() {
        ValueKind::Array(_) => field.items().unwrap_or_default(),
        _ => vec![field],
    };
    let values = fields.into_iter().filter_map(|field| {
        if field.is_null() {
            field.mistake("must not hold null", "null is null by itself; the text is \"null\" in quotes");
            return None;
        }
        scalar(&field)
    });
    values.collect()
}

fn enum_map(field: Field<'_>, fold_case: bool, otherwise: Option<Option<Otherwise>>) -> Option<EnumMap> {
    if matches!(field.value(), ValueKind::Table(entries) if entries.is_empty()) {
        field.mistake("must name at least one value", "");
        return None;
    }
    let mut labels = Vec::new();
    let mut folded: HashMap<String, String> = HashMap::new();
    for (value, field) in field.entries()? {
        if fold_case && let Some(other) = folded.insert(value.to_lowercase(), value.clone()) {
            field.hidden_mistake(
                format!("must differ from {other:?} in more than case"),
                "fold_case: true makes them one",
            );
        }
        labels.push((value, scalar(&field)?));
    }
    let otherwise = match otherwise {
        Some(otherwise) => otherwise?,
        None => Otherwise::Hold,
    };
    Some(EnumMap { labels, fold_case, otherwise })
}

fn otherwise(field: Field<'_>, has_default: bool) -> Option<Otherwise> {
    const CONSTRAINT: &str = "must be hold, null, default or { value: … }";
    match field.value() {
        ValueKind::Nil => Some(Otherwise::Null),
        ValueKind::String(text) => match text.as_str() {
            "hold" => Some(Otherwise::Hold),
            "null" => Some(Otherwise::Null),
            "default" => whether_default(&field, "null", has_default).then_some(Otherwise::Default),
            _ => {
                field.mistake(CONSTRAINT, "a label of the column is written { value: … }");
                None
            }
        },
        ValueKind::Table(_) => {
            let mut section = field.into_section()?;
            let label = section.field_or_null("value");
            if label.is_none() {
                section.mistake_at("value", "is required", "for example { value: OTHER }");
            }
            section.finish();
            label.and_then(|field| scalar(&field)).map(Otherwise::Label)
        }
        _ => {
            field.mistake(CONSTRAINT, "");
            None
        }
    }
}

/// `null` is written with quotes and without.
fn on_error(field: &Field<'_>, has_default: bool) -> OnError {
    if field.is_null() {
        return OnError::Null;
    }
    let choices = [
        ("hold", OnError::Hold),
        ("null", OnError::Null),
        ("default", OnError::Default),
        ("clamp", OnError::Clamp),
    ];
    let choice = field.choice(&choices).unwrap_or_default();
    if choice == OnError::Default && !has_default {
        needs_default(field);
    }
    choice
}

/// For a key that is `default` or this other word.
fn whether_default(field: &Field<'_>, other: &'static str, has_default: bool) -> bool {
    if field.is_null() {
        return false;
    }
    let is_default = field.choice(&[("default", true), (other, false)]).unwrap_or(false);
    if is_default && !has_default {
        needs_default(field);
    }
    is_default
}

fn needs_default(field: &Field<'_>) {
    field.mistake("must not be default where the column has none", "add default: …");
}
