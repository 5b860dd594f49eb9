//! A value on its way into its column: cleaned, mapped, read by a rule, rounded or cut, and what becomes
//! of it if it still does not fit. Each alteration is counted under the name of the rule.

use std::borrow::Cow;
use std::collections::HashMap;

use super::array;
use super::constant;
use super::decimal::{Decimal, Number, number};
use super::encode::{self, encode, wrong_type};
use super::fault::Fault;
use super::json::{self, Style};
use super::rule::{self, Read, Scratch};
use super::strip;
use super::text::{self, Scope};
use super::time;
use super::walk::Value;
use crate::config::{Case, EnumMap, OnError, Otherwise, Reading, Rule, Scalar, Scale};
use crate::domain::{Coercion, ColumnType, Reason};

/// Where alterations of one column's value are counted.
#[derive(Debug)]
pub(super) struct Counted<'a> {
    pub(super) column: u16,
    pub(super) into: &'a mut Vec<Coercion>,
}

impl Counted<'_> {
    pub(super) fn add(&mut self, rule: &'static str) {
        let coercion = Coercion { column: self.column, rule };
        if self.into.last() != Some(&coercion) {
            self.into.push(coercion);
        }
    }
}

/// What stands in the column now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stored {
    /// The value, which was appended.
    Value,
    /// Nothing was appended: the value counts as null.
    Null,
    /// Nothing was appended: null, whatever the column does with nulls of the document.
    NullByRule,
    /// Nothing was appended: the column's default.
    Default,
}

/// A [`Reading`] made ready for one column.
#[derive(Debug)]
pub(super) struct Reader {
    reading: Reading,
    /// Whether text is changed before anything else.
    cleans: bool,
    labels: Option<Labels>,
}

#[derive(Debug)]
struct Labels {
    by_text: HashMap<Vec<u8>, Label>,
    fold_case: bool,
    otherwise: Unnamed,
}

#[derive(Debug)]
struct Label {
    /// In the column's binary form; `None` is null.
    bytes: Option<Vec<u8>>,
    text: Vec<u8>,
    is_number: bool,
}

#[derive(Debug)]
enum Unnamed {
    Hold,
    Null,
    Default,
    Label(Option<Vec<u8>>),
}

impl Reader {
    /// `None`: the value goes into its column as it is.
    ///
    /// # Errors
    /// What of the reading cannot fit the column, and why.
    pub(super) fn new(
        reading: &Reading,
        column: &ColumnType,
    ) -> Result<Option<Box<Self>>, (&'static str, Fault)> {
        if reading.is_plain() {
            return Ok(None);
        }
        let column = match column {
            ColumnType::Array { element, .. } => element,
            column => column,
        };
        for rule in &reading.rules {
            if !rule::fits(rule, column) {
                let message = format!("the rule {} does not fit the column's type", rule.as_str());
                return Err(("a rule", Fault::wrong_type(message)));
            }
        }
        let labels = match &reading.labels {
            Some(map) => Some(Labels::new(map, &reading.rules, column).map_err(|fault| ("a label", fault))?),
            None => None,
        };
        let cleans =
            reading.strip_nul || reading.trim || reading.strip_prefix.is_some() || reading.case.is_some();
        Ok(Some(Box::new(Self { reading: reading.clone(), cleans, labels })))
    }

    /// Appends the value's binary form, without its length; of an array each element by itself.
    pub(super) fn store(
        &self,
        value: &Value<'_>,
        column: &ColumnType,
        out: &mut Vec<u8>,
        counted: &mut Counted<'_>,
    ) -> Result<Stored, Fault> {
        let ColumnType::Array { element, .. } = column else {
            return self.store_one(value, column, out, counted);
        };
        let (start, before) = (out.len(), counted.into.len());
        let stored = match value {
            Value::Array(bytes) => {
                array::append(bytes, element, out, |value, out| self.store_one(value, element, out, counted))
            }
            value => self.store_single(value, column, element, out, counted),
        };
        match stored {
            Ok(Stored::Default) => out.truncate(start),
            Ok(_) => {}
            Err(fault) => {
                out.truncate(start);
                counted.into.truncate(before);
                return self.instead(fault, counted);
            }
        }
        stored
    }

    /// A value that is no array, where one belongs.
    fn store_single(
        &self,
        value: &Value<'_>,
        column: &ColumnType,
        element: &ColumnType,
        out: &mut Vec<u8>,
        counted: &mut Counted<'_>,
    ) -> Result<Stored, Fault> {
        if !self.reading.wrap {
            return self.cleaned(value, counted, |value, _| Err(wrong_type(&value, column)));
        }
        let mut bytes = Vec::new();
        let stored = self.store_one(value, element, &mut bytes, counted)?;
        if stored == Stored::Value {
            out.extend_from_slice(&array::literal(std::iter::once(Some(bytes.as_slice())), element));
            counted.add("array");
        }
        Ok(stored)
    }

    fn store_one(
        &self,
        value: &Value<'_>,
        column: &ColumnType,
        out: &mut Vec<u8>,
        counted: &mut Counted<'_>,
    ) -> Result<Stored, Fault> {
        let (start, before) = (out.len(), counted.into.len());
        let fault = match self.attempt(value, column, out, counted) {
            Ok(stored) => return Ok(stored),
            Err(fault) => fault,
        };
        out.truncate(start);
        counted.into.truncate(before);
        if self.reading.on_error == OnError::Clamp && fault.reason == Reason::OutOfRange {
            if append_nearest(value, column, out) {
                counted.add("on_error_clamp");
                return Ok(Stored::Value);
            }
            out.truncate(start);
        }
        self.instead(fault, counted)
    }

    /// What stands for a value that does not fit.
    fn instead(&self, fault: Fault, counted: &mut Counted<'_>) -> Result<Stored, Fault> {
        match self.reading.on_error {
            OnError::Hold | OnError::Clamp => Err(fault),
            OnError::Null => {
                counted.add("on_error_null");
                Ok(Stored::NullByRule)
            }
            OnError::Default => {
                counted.add("on_error_default");
                Ok(Stored::Default)
            }
        }
    }

    fn attempt(
        &self,
        value: &Value<'_>,
        column: &ColumnType,
        out: &mut Vec<u8>,
        counted: &mut Counted<'_>,
    ) -> Result<Stored, Fault> {
        self.cleaned(value, counted, |value, counted| match &self.labels {
            Some(labels) => labels.store(&value, out, counted),
            None => self.read(value, column, out, counted).map(|()| Stored::Value),
        })
    }

    /// Cleans the value and hands it on, unless it counts as null.
    fn cleaned(
        &self,
        value: &Value<'_>,
        counted: &mut Counted<'_>,
        then: impl FnOnce(Value<'_>, &mut Counted<'_>) -> Result<Stored, Fault>,
    ) -> Result<Stored, Fault> {
        let cleaned;
        let mut value = *value;
        if self.cleans
            && let Value::String(text) | Value::Symbol(text) = value
        {
            cleaned = self.clean(text, counted);
            value = with_text(value, &cleaned);
        }
        if !self.reading.null_if.is_empty() && self.reading.null_if.iter().any(|null| equals(null, &value)) {
            counted.add("null_if");
            return Ok(Stored::Null);
        }
        let cased;
        if let Some(case) = self.reading.case
            && let Value::String(text) | Value::Symbol(text) = value
        {
            cased = in_case(text, case);
            if *cased != *text {
                counted.add("case");
            }
            value = with_text(value, &cased);
        }
        then(value, counted)
    }

    fn clean<'t>(&self, text: &'t [u8], counted: &mut Counted<'_>) -> Cow<'t, [u8]> {
        let mut text = Cow::Borrowed(text);
        if self.reading.strip_nul && text.contains(&0) {
            text.to_mut().retain(|&byte| byte != 0);
            counted.add("strip_nul");
        }
        if self.reading.trim
            && let Ok(whole) = std::str::from_utf8(&text)
        {
            let trimmed = whole.trim();
            if trimmed.len() < whole.len() {
                let start = whole.len() - whole.trim_start().len();
                let kept = start..start + trimmed.len();
                text = match text {
                    Cow::Borrowed(text) => Cow::Borrowed(&text[kept]),
                    Cow::Owned(text) => Cow::Owned(text[kept].to_vec()),
                };
                counted.add("trim");
            }
        }
        if let Some(prefix) = &self.reading.strip_prefix
            && text.starts_with(prefix.as_bytes())
        {
            text = match text {
                Cow::Borrowed(text) => Cow::Borrowed(&text[prefix.len()..]),
                Cow::Owned(text) => Cow::Owned(text[prefix.len()..].to_vec()),
            };
            counted.add("strip_prefix");
        }
        text
    }

    /// By the first rule that can; where none can, the fault of the rule that came furthest is told.
    fn read(
        &self,
        value: Value<'_>,
        column: &ColumnType,
        out: &mut Vec<u8>,
        counted: &mut Counted<'_>,
    ) -> Result<(), Fault> {
        let (start, before) = (out.len(), counted.into.len());
        let mut told: Option<Fault> = None;
        for (place, rule) in self.reading.rules.iter().enumerate() {
            let mut scratch = Scratch::default();
            let stored = rule::read(rule, value, column, &mut scratch).and_then(|(read, altered)| {
                self.finish(read, column, out, counted)?;
                // The first rule says how values are spelled; another spelling is worth a look.
                if altered || place > 0 {
                    counted.add(rule.as_str());
                }
                Ok(())
            });
            let Err(fault) = stored else { return Ok(()) };
            out.truncate(start);
            counted.into.truncate(before);
            if told.as_ref().is_none_or(|told| told.reason == Reason::WrongType) {
                told = Some(fault);
            }
        }
        match told {
            Some(fault) => Err(fault),
            None => self.finish(Read::Value(value), column, out, counted),
        }
    }

    /// Rounds or cuts where that was asked for, and writes what the column then holds exactly.
    fn finish(
        &self,
        read: Read<'_>,
        column: &ColumnType,
        out: &mut Vec<u8>,
        counted: &mut Counted<'_>,
    ) -> Result<(), Fault> {
        let reading = &self.reading;
        match read {
            Read::Value(value) => match (value, column) {
                _ if let Some(scale) = reading.scale => rounded_value(value, scale, column, out, counted),
                (Value::Date(milliseconds), _) if reading.truncate => {
                    cut_moment(i128::from(milliseconds) * 1000, column, out, counted)
                }
                (_, ColumnType::Text { .. }) if reading.truncate => {
                    cut_text(&value, Scope::Obvious, column, out, counted)
                }
                (_, ColumnType::Json | ColumnType::Jsonb) => self.json(&value, column, out, counted),
                _ => encode(&value, column, out),
            },
            Read::Moment(microseconds) if reading.truncate => cut_moment(microseconds, column, out, counted),
            Read::Moment(microseconds) => time::write(microseconds, column, out),
            Read::Number(decimal) => match reading.scale {
                Some(scale) => {
                    let mut digits = Vec::new();
                    let (rounded, altered) = decimal.rounded(scale, &mut digits);
                    if altered {
                        counted.add("scale");
                    }
                    rule::write_number(rounded, column, out)
                }
                None => rule::write_number(decimal, column, out),
            },
            Read::TextOf(value) if reading.truncate => {
                cut_text(&value, Scope::Anything, column, out, counted)
            }
            Read::TextOf(value) => encode::text(&value, column, Some(Scope::Anything), out),
            Read::JsonOf(value) => self.json(&value, column, out, counted),
        }
    }

    fn json(
        &self,
        value: &Value<'_>,
        column: &ColumnType,
        out: &mut Vec<u8>,
        counted: &mut Counted<'_>,
    ) -> Result<(), Fault> {
        let start = out.len();
        encode::begin_json(column, out);
        let wraps = self.reading.wrap && !matches!(value, Value::Array(_));
        if wraps {
            out.push(b'[');
        }
        append_json(value, Style::of(self.reading.json, column), self.reading.strip_nul, out, counted)?;
        if wraps {
            out.push(b']');
            counted.add("array");
        }
        encode::check_text(&out[start..], column)
    }
}

/// Writes the value's JSON.
pub(super) fn append_json(
    value: &Value<'_>,
    style: Style,
    strip_nul: bool,
    out: &mut Vec<u8>,
    counted: &mut Counted<'_>,
) -> Result<(), Fault> {
    let start = out.len();
    let mut altered = json::append_value_as(value, style, out);
    if strip_nul && altered.as_ref().is_err_and(|fault| fault.reason == Reason::NulCharacter) {
        out.truncate(start);
        counted.add("strip_nul");
        let mut buffer = Vec::new();
        altered = json::append_value_as(&strip::without_nul(value, &mut buffer)?, style, out);
    }
    if altered? {
        counted.add("json_plain");
    }
    Ok(())
}

/// Writes a whole document, without some of its fields, in this style and with or without NUL.
pub(super) fn append_document(
    document: &[u8],
    without: &[Box<[u8]>],
    (style, strip_nul): (Style, bool),
    out: &mut Vec<u8>,
    counted: &mut Counted<'_>,
) -> Result<(), Fault> {
    let start = out.len();
    let mut altered = json::append_document(document, without, style, out);
    if strip_nul && altered.as_ref().is_err_and(|fault| fault.reason == Reason::NulCharacter) {
        out.truncate(start);
        counted.add("strip_nul");
        altered = json::append_document(&strip::document(document, 0)?, without, style, out);
    }
    if altered? {
        counted.add("json_plain");
    }
    Ok(())
}

impl Labels {
    fn new(map: &EnumMap, rules: &[Rule], column: &ColumnType) -> Result<Self, Fault> {
        let mut by_text = HashMap::new();
        for (value, label) in &map.labels {
            let key = if map.fold_case { value.to_lowercase() } else { value.clone() };
            let bytes = constant::encode_scalar(label, rules, column)?;
            let is_number = matches!(label, Scalar::Int(_));
            by_text.insert(key.into_bytes(), Label { bytes, text: plain_text(label), is_number });
        }
        let otherwise = match &map.otherwise {
            Otherwise::Hold => Unnamed::Hold,
            Otherwise::Null => Unnamed::Null,
            Otherwise::Default => Unnamed::Default,
            Otherwise::Label(label) => Unnamed::Label(constant::encode_scalar(label, rules, column)?),
        };
        Ok(Self { by_text, fold_case: map.fold_case, otherwise })
    }

    fn store(
        &self,
        value: &Value<'_>,
        out: &mut Vec<u8>,
        counted: &mut Counted<'_>,
    ) -> Result<Stored, Fault> {
        let mut text = Vec::new();
        let has_text = text::append(value, Scope::Scalar, &mut text)?;
        let found = match self.fold_case {
            _ if !has_text => None,
            true => self.by_text.get(&*in_case(&text, Case::Lower)),
            false => self.by_text.get(&text),
        };
        let (bytes, rule) = match (found, &self.otherwise) {
            (Some(label), _) if label.text == text && label.is_of_kind(value) => (&label.bytes, None),
            (Some(label), _) => (&label.bytes, Some("enum")),
            (None, Unnamed::Label(label)) => (label, Some("otherwise")),
            (None, Unnamed::Null) => (&None, Some("otherwise")),
            (None, Unnamed::Default) => {
                counted.add("otherwise");
                return Ok(Stored::Default);
            }
            (None, Unnamed::Hold) if has_text => {
                return Err(Fault::new(Reason::UnknownEnumLabel, "the value is not one that enum: names"));
            }
            (None, Unnamed::Hold) => {
                let message = format!("{} is no value that enum: could name", value.type_name());
                return Err(Fault::wrong_type(message));
            }
        };
        if let Some(rule) = rule {
            counted.add(rule);
        }
        match bytes {
            Some(bytes) => {
                out.extend_from_slice(bytes);
                Ok(Stored::Value)
            }
            None => Ok(Stored::Null),
        }
    }
}

impl Label {
    /// Whether the label is of the value's own kind, so that the same text is the same value.
    fn is_of_kind(&self, value: &Value<'_>) -> bool {
        if self.is_number {
            matches!(value, Value::Int32(_) | Value::Int64(_) | Value::Double(_) | Value::Decimal128(_))
        } else {
            matches!(value, Value::String(_) | Value::Symbol(_))
        }
    }
}

/// Nothing for what a value's text never is.
fn plain_text(label: &Scalar) -> Vec<u8> {
    match label {
        Scalar::Text(text) => text.clone().into_bytes(),
        Scalar::Int(number) => number.to_string().into_bytes(),
        Scalar::Null | Scalar::Bool(_) | Scalar::Float(_) | Scalar::List(_) => Vec::new(),
    }
}

fn with_text<'a>(value: Value<'_>, text: &'a [u8]) -> Value<'a> {
    if matches!(value, Value::Symbol(_)) { Value::Symbol(text) } else { Value::String(text) }
}

/// Text that is not UTF-8 stays as it is: it will be held for that.
fn in_case(text: &[u8], case: Case) -> Cow<'_, [u8]> {
    let Ok(whole) = std::str::from_utf8(text) else { return Cow::Borrowed(text) };
    Cow::Owned(match case {
        Case::Lower => whole.to_lowercase().into_bytes(),
        Case::Upper => whole.to_uppercase().into_bytes(),
    })
}

/// Whether a value of the document is this one of the file: text by its characters, numbers by value.
fn equals(scalar: &Scalar, value: &Value<'_>) -> bool {
    let wanted = match (scalar, value) {
        (Scalar::Text(text), Value::String(value) | Value::Symbol(value)) => {
            return text.as_bytes() == *value;
        }
        (Scalar::Bool(flag), Value::Bool(value)) => return flag == value,
        (Scalar::Int(number), _) => Value::Int64(*number),
        (Scalar::Float(number), _) => Value::Double(*number),
        _ => return false,
    };
    let (mut left, mut right) = ([0; 40], [0; 40]);
    match (number(&wanted, &mut left), number(value, &mut right)) {
        (Some(Number::Finite(wanted)), Some(Number::Finite(value))) => {
            let (wanted, value) = (wanted.stripped(), value.stripped());
            wanted.digits == value.digits
                && (wanted.is_zero()
                    || (wanted.negative, wanted.exponent) == (value.negative, value.exponent))
        }
        (Some(wanted), Some(value)) => wanted == value,
        _ => false,
    }
}

/// A number that is exact in its place is written as it came: -0.0 stays -0.0 where there is one.
fn rounded_value(
    value: Value<'_>,
    scale: Scale,
    column: &ColumnType,
    out: &mut Vec<u8>,
    counted: &mut Counted<'_>,
) -> Result<(), Fault> {
    let mut buffer = [0; 40];
    let decimal = match number(&value, &mut buffer).ok_or_else(|| wrong_type(&value, column))? {
        Number::Finite(decimal) => decimal,
        Number::NaN | Number::Infinity { .. } => return encode(&value, column, out),
    };
    let mut digits = Vec::new();
    let (rounded, altered) = decimal.rounded(scale, &mut digits);
    if !altered && matches!(value, Value::Int32(_) | Value::Int64(_) | Value::Double(_)) {
        return encode(&value, column, out);
    }
    let is_float = matches!(column, ColumnType::Float4 | ColumnType::Float8);
    if altered || is_float {
        counted.add("scale");
    }
    rule::write_number(rounded, column, out)
}

fn cut_moment(
    microseconds: i128,
    column: &ColumnType,
    out: &mut Vec<u8>,
    counted: &mut Counted<'_>,
) -> Result<(), Fault> {
    let kept = time::floor(microseconds, column);
    if kept != microseconds {
        counted.add("truncate");
    }
    time::write(kept, column, out)
}

fn cut_text(
    value: &Value<'_>,
    scope: Scope,
    column: &ColumnType,
    out: &mut Vec<u8>,
    counted: &mut Counted<'_>,
) -> Result<(), Fault> {
    let start = out.len();
    if !text::append(value, scope, out)? {
        return Err(wrong_type(value, column));
    }
    if let ColumnType::Text { limit: Some(limit), .. } = column {
        // The first byte of the first character too many.
        let starts = out[start..].iter().enumerate().filter(|(_, byte)| **byte & 0xc0 != 0x80);
        if let Some((end, _)) = starts.map(|(place, byte)| (place, *byte)).nth(*limit as usize) {
            out.truncate(start + end);
            counted.add("truncate");
        }
    }
    encode::check_text(&out[start..], column)
}

/// The end of the column's range that a value beyond it is nearest to; `false` if there is none.
fn append_nearest(value: &Value<'_>, column: &ColumnType, out: &mut Vec<u8>) -> bool {
    let mut buffer = [0; 40];
    let negative = match (value, number(value, &mut buffer)) {
        (_, Some(Number::Finite(decimal))) => decimal.negative,
        (_, Some(Number::Infinity { negative })) => negative,
        (_, Some(Number::NaN)) => return false,
        (Value::Date(milliseconds), None) => *milliseconds < 0,
        (Value::String(text) | Value::Symbol(text), None) => text.trim_ascii_start().starts_with(b"-"),
        (_, None) => return false,
    };
    let end = |least: i64, most: i64| if negative { least } else { most };
    match column {
        ColumnType::Int2 => {
            out.extend_from_slice(&(end(i16::MIN.into(), i16::MAX.into()) as i16).to_be_bytes())
        }
        ColumnType::Int4 => {
            out.extend_from_slice(&(end(i32::MIN.into(), i32::MAX.into()) as i32).to_be_bytes())
        }
        ColumnType::Int8 => out.extend_from_slice(&end(i64::MIN, i64::MAX).to_be_bytes()),
        ColumnType::Float4 => {
            out.extend_from_slice(&if negative { f32::MIN } else { f32::MAX }.to_be_bytes());
        }
        ColumnType::Float8 => {
            out.extend_from_slice(&if negative { f64::MIN } else { f64::MAX }.to_be_bytes());
        }
        ColumnType::Numeric(Some((precision, scale))) => {
            let digits = vec![9; usize::from(*precision)];
            let decimal = Decimal { negative, digits: &digits, exponent: -i32::from(*scale) };
            return rule::write_number(decimal, column, out).is_ok();
        }
        ColumnType::Date | ColumnType::Timestamp { .. } | ColumnType::TimestampTz { .. } => {
            return time::write(time::end_of_range(negative, column), column, out).is_ok();
        }
        _ => return false,
    }
    true
}

#[cfg(test)]
#[path = "reading_tests.rs"]
mod tests;
