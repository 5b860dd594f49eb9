//! How a raw value becomes the value of a column, wherever the value comes from: a path, an expression,
//! an element of an array.

use super::model::{Rule, Scalar};

/// The rules for a value, in the order in which they apply. The default is none at all.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Reading {
    /// U+0000 is taken out of text, and of the texts inside of JSON.
    pub strip_nul: bool,
    /// Blanks at both ends of text go.
    pub trim: bool,
    pub strip_prefix: Option<String>,
    /// Values that count as null.
    pub null_if: Vec<Scalar>,
    pub case: Option<Case>,
    pub labels: Option<EnumMap>,
    /// The first that can read the value does. Empty: the value's type says enough.
    pub rules: Vec<Rule>,
    /// A single value is an array of one.
    pub wrap: bool,
    pub json: JsonForm,
    pub scale: Option<Scale>,
    /// Text is cut to the column's limit, a moment to what the column keeps of it.
    pub truncate: bool,
    /// The column's default stands in for null too, not only for absent.
    pub default_for_null: bool,
    pub on_error: OnError,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Case {
    Lower,
    Upper,
}

/// What values of the document are called in the table.
#[derive(Debug, Clone, PartialEq)]
pub struct EnumMap {
    /// By the value's text. With `fold_case` no two differ in case alone.
    pub labels: Vec<(String, Scalar)>,
    pub fold_case: bool,
    pub otherwise: Otherwise,
}

/// What becomes of a value that the map does not name.
#[derive(Debug, Clone, PartialEq)]
pub enum Otherwise {
    Hold,
    Null,
    Default,
    Label(Scalar),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scale {
    /// Decimal places that are kept.
    pub places: u16,
    pub rounding: Rounding,
}

/// Where a number half way between two others goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    HalfAwayFromZero,
    HalfEven,
}

/// How BSON becomes JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum JsonForm {
    /// Relaxed extended JSON: every type can be told from every other.
    #[default]
    Relaxed,
    /// Canonical extended JSON: numbers are wrapped as well.
    Canonical,
    /// As a program without MongoDB would write it: ids, dates and decimals are plain text and numbers.
    Plain,
}

/// What becomes of a value that does not fit its column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnError {
    #[default]
    Hold,
    Null,
    Default,
    /// The nearest value of the column's range; what has none is held.
    Clamp,
}

impl Reading {
    /// Whether a value goes into its column just as it is.
    pub fn is_plain(&self) -> bool {
        Self { default_for_null: false, ..self.clone() } == Self::default()
    }

    /// The settings that differ from their defaults, as the configuration writes them: key and YAML. The
    /// same settings give the same texts, so they also say whether two readings mean the same.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        let mut settings = Vec::new();
        let mut add = |given: bool, key, text: &dyn Fn() -> String| {
            if given {
                settings.push((key, text()));
            }
        };
        let yes = || "true".to_owned();
        add(self.strip_nul, "strip_nul", &yes);
        add(self.trim, "trim", &yes);
        add(self.strip_prefix.is_some(), "strip_prefix", &|| {
            quoted(self.strip_prefix.as_deref().unwrap_or_default())
        });
        add(!self.null_if.is_empty(), "null_if", &|| list(self.null_if.iter().map(Scalar::to_yaml)));
        add(self.case.is_some(), "case", &|| match self.case {
            Some(Case::Upper) => "upper".to_owned(),
            Some(Case::Lower) | None => "lower".to_owned(),
        });
        if let Some(map) = &self.labels {
            let entries =
                map.labels.iter().map(|(value, label)| format!("{}: {}", quoted(value), label.to_yaml()));
            add(true, "enum", &|| format!("{{ {} }}", entries.clone().collect::<Vec<_>>().join(", ")));
            add(map.fold_case, "fold_case", &yes);
            add(map.otherwise != Otherwise::Hold, "otherwise", &|| match &map.otherwise {
                Otherwise::Hold => "hold".to_owned(),
                Otherwise::Null => "null".to_owned(),
                Otherwise::Default => "default".to_owned(),
                Otherwise::Label(label) => format!("{{ value: {} }}", label.to_yaml()),
            });
        }
        let rules =
            || self.wrap.then(|| "array".to_owned()).into_iter().chain(self.rules.iter().map(Rule::to_yaml));
        add(self.wrap || !self.rules.is_empty(), "as", &|| list(rules()));
        add(self.json != JsonForm::Relaxed, "json", &|| self.json.as_str().to_owned());
        if let Some(Scale { places, rounding }) = self.scale {
            add(true, "scale", &|| places.to_string());
            add(rounding == Rounding::HalfEven, "rounding", &|| "half_even".to_owned());
        }
        add(self.truncate, "truncate", &yes);
        add(self.default_for_null, "on_null", &|| "default".to_owned());
        add(self.on_error != OnError::Hold, "on_error", &|| self.on_error.as_str().to_owned());
        settings
    }
}

impl From<Rule> for Reading {
    fn from(rule: Rule) -> Self {
        Self { rules: vec![rule], ..Self::default() }
    }
}

impl JsonForm {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Relaxed => "relaxed",
            Self::Canonical => "canonical",
            Self::Plain => "plain",
        }
    }
}

impl OnError {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Null => "null",
            Self::Default => "default",
            Self::Clamp => "clamp",
        }
    }
}

impl Rule {
    /// The rule's name, in the configuration, in metrics and in coercions.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::UnixSeconds => "unix_seconds",
            Self::UnixMilliseconds => "unix_milliseconds",
            Self::Rfc3339 => "rfc3339",
            Self::Iso8601 => "iso8601",
            Self::Date(_) => "date",
            Self::Text => "text",
            Self::Number => "number",
            Self::Boolean => "boolean",
            Self::ObjectId => "object_id",
            Self::Json => "json",
        }
    }

    fn to_yaml(&self) -> String {
        match self {
            Self::Date(formats) => {
                format!("{{ date: {} }}", list(formats.iter().map(|format| quoted(format.as_str()))))
            }
            rule => rule.as_str().to_owned(),
        }
    }
}

impl Scalar {
    /// As YAML that reads back as the same.
    pub fn to_yaml(&self) -> String {
        match self {
            Self::Null => "null".to_owned(),
            Self::Bool(flag) => flag.to_string(),
            Self::Int(number) => number.to_string(),
            // `{:?}` keeps the point of 1.0, which makes it a float again.
            Self::Float(number) => format!("{number:?}"),
            Self::Text(text) => quoted(text),
            Self::List(items) => list(items.iter().map(Self::to_yaml)),
        }
    }
}

fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}

/// A JSON string is a YAML string that means the same.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
