//! The readings an operator can ask for where a value's type alone does not say what it is.

use super::decimal::{self, Number, number};
use super::encode::{self, encode, wrong_type};
use super::fault::Fault;
use super::json;
use super::numeric;
use super::text::Scope;
use super::time;
use super::walk::Value;
use crate::config::Rule;
use crate::domain::{ColumnType, Reason};

/// Whether the rule can ever give a value for such a column.
pub(super) fn fits(rule: Rule, column: &ColumnType) -> bool {
    match rule {
        Rule::UnixSeconds | Rule::UnixMilliseconds | Rule::Rfc3339 => {
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
        Rule::Json => matches!(
            column,
            ColumnType::Json | ColumnType::Jsonb | ColumnType::Text { .. } | ColumnType::Other(_)
        ),
    }
}

/// Appends the value as the rule reads it; `true` if the rule altered the value's type, which is counted.
/// Reading a number or a text as the moment it stands for is a declared reading, not an alteration.
pub(super) fn apply(
    rule: Rule,
    value: &Value<'_>,
    column: &ColumnType,
    out: &mut Vec<u8>,
) -> Result<bool, Fault> {
    match (rule, *value) {
        (Rule::UnixSeconds | Rule::UnixMilliseconds | Rule::Rfc3339, Value::Date(_)) => {
            encode(value, column, out).map(|()| false)
        }
        (Rule::UnixSeconds, _) => unix_time(value, 6, column, out).map(|()| false),
        (Rule::UnixMilliseconds, _) => unix_time(value, 3, column, out).map(|()| false),
        (Rule::Rfc3339, Value::String(text)) => {
            time::write(time::parse_rfc3339(text)?, column, out).map(|()| false)
        }
        (Rule::Number, Value::String(text)) => number_text(text, column, out).map(|()| true),
        (Rule::Number, _) => encode(value, column, out).map(|()| false),
        (Rule::Text, _) => {
            encode::text(value, column, Some(Scope::Anything), out)?;
            let obvious = matches!(
                value,
                Value::String(_) | Value::Symbol(_) | Value::ObjectId(_) | Value::Binary { subtype: 4, .. }
            );
            Ok(!obvious)
        }
        (Rule::Json, _) => {
            let start = out.len();
            encode::begin_json(column, out);
            json::append_value(value, json::Order::of(column), out)?;
            encode::check_text(&out[start..], column)?;
            Ok(false)
        }
        (Rule::Rfc3339, _) => Err(wrong_type(value, column)),
    }
}

/// `shift` is the power of ten between the unit and microseconds.
fn unix_time(value: &Value<'_>, shift: i32, column: &ColumnType, out: &mut Vec<u8>) -> Result<(), Fault> {
    let mut buffer = [0; 40];
    match number(value, &mut buffer).ok_or_else(|| wrong_type(value, column))? {
        Number::Finite(decimal) => {
            let microseconds = decimal.whole(shift).map_err(|fault| match fault.reason {
                Reason::NotExact => Fault::not_exact("the number has digits below the microsecond"),
                _ => Fault::out_of_range("the moment is outside of PostgreSQL's range"),
            })?;
            time::write(microseconds, column, out)
        }
        Number::NaN | Number::Infinity { .. } => {
            Err(Fault::out_of_range("NaN and Infinity are no moment in time"))
        }
    }
}

/// The rule asks for the number that the text means: a float column gets the nearest one.
pub(super) fn number_text(text: &[u8], column: &ColumnType, out: &mut Vec<u8>) -> Result<(), Fault> {
    let mut digits = Vec::new();
    let decimal =
        decimal::parse(text, &mut digits).ok_or_else(|| Fault::wrong_type("the text is not a number"))?;
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
        _ => return Err(wrong_type(&Value::String(text), column)),
    }
    Ok(())
}

#[cfg(test)]
#[path = "rule_tests.rs"]
mod tests;
