//! The readings an operator can ask for where a value's type alone does not say what it is.

use super::date_text;
use super::decimal::{self, Decimal, Number, number};
use super::encode::wrong_type;
use super::fault::Fault;
use super::numeric;
use super::time;
use super::walk::Value;
use crate::config::Rule;
use crate::domain::{ColumnType, Reason};

/// What a rule takes a value for, before the column has its say.
#[derive(Debug, Clone, Copy)]
pub(super) enum Read<'a> {
    /// As the document has it.
    Value(Value<'a>),
    /// Microseconds since 1970 UTC.
    Moment(i128),
    /// The number that a text means: a float column gets the nearest one.
    Number(Decimal<'a>),
    TextOf(Value<'a>),
    JsonOf(Value<'a>),
}

/// Whether the rule can ever give a value for such a column.
pub(super) fn fits(rule: &Rule, column: &ColumnType) -> bool {
    match rule {
        Rule::UnixSeconds | Rule::UnixMilliseconds | Rule::Rfc3339 | Rule::Iso8601 | Rule::Date(_) => {
            matches!(column, ColumnType::Date | ColumnType::Timestamp { .. } | ColumnType::TimestampTz { .. })
        }
        Rule::Text => {
            matches!(column, ColumnType::Text { .. } | ColumnType::Enum { .. } | ColumnType::Other(_))
        }
        Rule::Number => matches!(
            column,
            ColumnType::Int2
                | ColumnType::Int4
                | ColumnType::Int8
                | ColumnType::Float4
                | ColumnType::Float8
                | ColumnType::Numeric(_)
        ),
        Rule::Boolean => matches!(column, ColumnType::Bool),
        Rule::ObjectId => matches!(column, ColumnType::Text { .. } | ColumnType::Other(_)),
        Rule::Json => matches!(
            column,
            ColumnType::Json | ColumnType::Jsonb | ColumnType::Text { .. } | ColumnType::Other(_)
        ),
    }
}

/// What a text is read into.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    digits: Vec<u8>,
    text: [u8; 24],
}

/// The value as the rule reads it, and whether that altered its type, which is counted. Reading a number or
/// a text as the moment it stands for is a declared reading, not an alteration.
pub(super) fn read<'a>(
    rule: &Rule,
    value: Value<'a>,
    column: &ColumnType,
    scratch: &'a mut Scratch,
) -> Result<(Read<'a>, bool), Fault> {
    let read = match (rule, value) {
        (
            Rule::UnixSeconds | Rule::UnixMilliseconds | Rule::Rfc3339 | Rule::Iso8601 | Rule::Date(_),
            Value::Date(_),
        ) => Read::Value(value),
        (Rule::UnixSeconds, _) => Read::Moment(unix_time(&value, 6, column)?),
        (Rule::UnixMilliseconds, _) => Read::Moment(unix_time(&value, 3, column)?),
        (Rule::Rfc3339, Value::String(text)) => Read::Moment(time::parse_rfc3339(text)?),
        (Rule::Iso8601, Value::String(text)) => Read::Moment(date_text::parse_iso8601(text)?),
        (Rule::Date(formats), Value::String(text)) => Read::Moment(date_text::parse(formats, text)?),
        (Rule::Number, Value::String(text)) => {
            let decimal = decimal::parse(text, &mut scratch.digits);
            return Ok((Read::Number(decimal.ok_or_else(not_a_number)?), true));
        }
        (Rule::Number, _) => Read::Value(value),
        (Rule::Text, _) => {
            let obvious = matches!(
                value,
                Value::String(_) | Value::Symbol(_) | Value::ObjectId(_) | Value::Binary { subtype: 4, .. }
            );
            return Ok((Read::TextOf(value), !obvious));
        }
        (Rule::Json, _) => Read::JsonOf(value),
        (Rule::Boolean, Value::Bool(_)) => Read::Value(value),
        (Rule::Boolean, _) => return Ok((Read::Value(Value::Bool(boolean(&value, column)?)), true)),
        (Rule::ObjectId, Value::ObjectId(_)) => Read::Value(value),
        (Rule::ObjectId, Value::String(text) | Value::Symbol(text)) => {
            let digits: &[u8; 24] = text
                .try_into()
                .ok()
                .filter(|text: &&[u8; 24]| text.iter().all(u8::is_ascii_hexdigit))
                .ok_or_else(|| Fault::wrong_type("the text is not an ObjectId of 24 hexadecimal digits"))?;
            scratch.text = digits.to_ascii_lowercase().try_into().unwrap_or(*digits);
            let altered = scratch.text != *digits;
            return Ok((Read::Value(Value::String(&scratch.text)), altered));
        }
        (Rule::Rfc3339 | Rule::Iso8601 | Rule::Date(_) | Rule::ObjectId, _) => {
            return Err(wrong_type(&value, column));
        }
    };
    Ok((read, false))
}

fn not_a_number() -> Fault {
    Fault::wrong_type("the text is not a number")
}

fn boolean(value: &Value<'_>, column: &ColumnType) -> Result<bool, Fault> {
    const WORDS: [(&str, bool); 8] = [
        ("true", true),
        ("false", false),
        ("yes", true),
        ("no", false),
        ("on", true),
        ("off", false),
        ("1", true),
        ("0", false),
    ];
    if let Value::String(text) | Value::Symbol(text) = value {
        let word = WORDS.iter().find(|(word, _)| text.eq_ignore_ascii_case(word.as_bytes()));
        return word
            .map(|(_, meaning)| *meaning)
            .ok_or_else(|| Fault::wrong_type("the text is none of true, false, yes, no, on, off, 1 and 0"));
    }
    let mut buffer = [0; 40];
    let number = number(value, &mut buffer).ok_or_else(|| wrong_type(value, column))?;
    let whole = match number {
        Number::Finite(decimal) => decimal.whole(0).ok(),
        Number::NaN | Number::Infinity { .. } => None,
    };
    match whole {
        Some(0) => Ok(false),
        Some(1) => Ok(true),
        _ => Err(Fault::wrong_type("the number is neither 1 nor 0")),
    }
}

/// `shift` is the power of ten between the unit and microseconds.
fn unix_time(value: &Value<'_>, shift: i32, column: &ColumnType) -> Result<i128, Fault> {
    match *value {
        Value::Int32(int) => return Ok(i128::from(int) * 10_i128.pow(shift.unsigned_abs())),
        Value::Int64(int) => return Ok(i128::from(int) * 10_i128.pow(shift.unsigned_abs())),
        Value::Double(double) => {
            if let Some(whole) = decimal::shifted(double, shift) {
                return Ok(i128::from(whole));
            }
        }
        _ => {}
    }
    let mut buffer = [0; 40];
    match number(value, &mut buffer).ok_or_else(|| wrong_type(value, column))? {
        Number::Finite(decimal) => decimal.whole(shift).map_err(|fault| match fault.reason {
            Reason::NotExact => Fault::not_exact("the number has digits below the microsecond"),
            _ => Fault::out_of_range("the moment is outside of PostgreSQL's range"),
        }),
        Number::NaN | Number::Infinity { .. } => {
            Err(Fault::out_of_range("NaN and Infinity are no moment in time"))
        }
    }
}

pub(super) fn number_text(text: &[u8], column: &ColumnType, out: &mut Vec<u8>) -> Result<(), Fault> {
    let mut digits = Vec::new();
    write_number(decimal::parse(text, &mut digits).ok_or_else(not_a_number)?, column, out)
}

/// Writes the number; a float column gets the nearest one.
pub(super) fn write_number(
    decimal: Decimal<'_>,
    column: &ColumnType,
    out: &mut Vec<u8>,
) -> Result<(), Fault> {
    let integer = |range: std::ops::RangeInclusive<i128>| -> Result<i128, Fault> {
        let whole = decimal.whole(0)?;
        if range.contains(&whole) {
            return Ok(whole);
        }
        Err(Fault::out_of_range("the number is out of the column's range"))
    };
    let check_nearest = |is_finite: bool, is_zero: bool| -> Result<(), Fault> {
        if !is_finite {
            return Err(Fault::out_of_range("the number is out of the column's range"));
        }
        if is_zero && !decimal.is_zero() {
            return Err(Fault::not_exact("the number is closer to zero than the column can tell"));
        }
        Ok(())
    };
    match column {
        ColumnType::Int2 => {
            let whole = integer(i128::from(i16::MIN)..=i128::from(i16::MAX))?;
            out.extend_from_slice(&(whole as i16).to_be_bytes());
        }
        ColumnType::Int4 => {
            let whole = integer(i128::from(i32::MIN)..=i128::from(i32::MAX))?;
            out.extend_from_slice(&(whole as i32).to_be_bytes());
        }
        ColumnType::Int8 => {
            let whole = integer(i128::from(i64::MIN)..=i128::from(i64::MAX))?;
            out.extend_from_slice(&(whole as i64).to_be_bytes());
        }
        ColumnType::Float8 => {
            let double = decimal.nearest_double();
            check_nearest(double.is_finite(), double == 0.0)?;
            out.extend_from_slice(&double.to_be_bytes());
        }
        ColumnType::Float4 => {
            let single = decimal.nearest_single();
            check_nearest(single.is_finite(), single == 0.0)?;
            out.extend_from_slice(&single.to_be_bytes());
        }
        ColumnType::Numeric(modifier) => numeric::write(Number::Finite(decimal), *modifier, out)?,
        _ => return Err(Fault::wrong_type("a number does not fit a column that is none")),
    }
    Ok(())
}

#[cfg(test)]
#[path = "rule_tests.rs"]
mod tests;
