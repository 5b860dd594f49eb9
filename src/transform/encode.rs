//! BSON value × column type: the exact ways. Everything else is refused, and may have a rule.

use uuid::Uuid;

use super::array;
use super::decimal::{Number, number};
use super::fault::Fault;
use super::json::{self, Style};
use super::numeric;
use super::reading::Stored;
use super::text::{self, Scope};
use super::time;
use super::walk::Value;
use crate::config::JsonForm;
use crate::domain::{ColumnType, Reason, TextKind};

/// jsonb's binary form is this version and then the text.
const JSONB_VERSION: u8 = 1;

/// Appends the value's binary form, without its length, if the column holds it exactly.
pub(super) fn encode(value: &Value<'_>, column: &ColumnType, out: &mut Vec<u8>) -> Result<(), Fault> {
    match column {
        ColumnType::Bool => match *value {
            Value::Bool(value) => out.push(u8::from(value)),
            _ => return Err(wrong_type(value, column)),
        },
        ColumnType::Int2 => {
            let whole = i16::try_from(whole(value, column)?).map_err(|_| out_of_range(column))?;
            out.extend_from_slice(&whole.to_be_bytes());
        }
        ColumnType::Int4 => {
            let whole = i32::try_from(whole(value, column)?).map_err(|_| out_of_range(column))?;
            out.extend_from_slice(&whole.to_be_bytes());
        }
        ColumnType::Int8 => out.extend_from_slice(&whole(value, column)?.to_be_bytes()),
        ColumnType::Float4 => out.extend_from_slice(&float4(value, column)?.to_be_bytes()),
        ColumnType::Float8 => out.extend_from_slice(&float8(value, column)?.to_be_bytes()),
        ColumnType::Numeric(modifier) => {
            let mut buffer = [0; 40];
            let number = number(value, &mut buffer).ok_or_else(|| wrong_type(value, column))?;
            numeric::write(number, *modifier, out)?;
        }
        ColumnType::Text { .. } | ColumnType::Other(_) => text(value, column, None, out)?,
        ColumnType::Uuid => out.extend_from_slice(uuid(value, column)?.as_bytes()),
        ColumnType::Bytea => out.extend_from_slice(bytea(value, column)?),
        ColumnType::Date | ColumnType::Timestamp { .. } | ColumnType::TimestampTz { .. } => match *value {
            Value::Date(milliseconds) => time::write(i128::from(milliseconds) * 1000, column, out)?,
            _ => return Err(wrong_type(value, column)),
        },
        ColumnType::Json | ColumnType::Jsonb => {
            begin_json(column, out);
            json::append_value_as(value, Style::of(JsonForm::Relaxed, column), out)?;
        }
        ColumnType::Enum { labels } => match *value {
            Value::String(text) | Value::Symbol(text) => {
                out.extend_from_slice(label(text, labels)?);
            }
            _ => return Err(wrong_type(value, column)),
        },
        ColumnType::Array { element, .. } => match *value {
            Value::Array(bytes) => {
                array::append(bytes, element, out, |value, out| {
                    encode(value, element, out).map(|()| Stored::Value)
                })?;
            }
            _ => return Err(wrong_type(value, column)),
        },
    }
    Ok(())
}

/// What stands before the text of a json or jsonb value.
pub(super) fn begin_json(column: &ColumnType, out: &mut Vec<u8>) {
    if matches!(column, ColumnType::Jsonb) {
        out.push(JSONB_VERSION);
    }
}

/// Writes the value's text into a column of text; `scope` `None` is what the column's type implies.
pub(super) fn text(
    value: &Value<'_>,
    column: &ColumnType,
    scope: Option<Scope>,
    out: &mut Vec<u8>,
) -> Result<(), Fault> {
    // A type that is not known here goes as text and is cast: there, any scalar's text may be right.
    let implied = if matches!(column, ColumnType::Other(_)) { Scope::Scalar } else { Scope::Obvious };
    let start = out.len();
    if !text::append(value, scope.unwrap_or(implied), out)? {
        return Err(wrong_type(value, column));
    }
    check_text(&out[start..], column)
}

/// Whether a column of text can hold this text, which is UTF-8, without cutting or padding it.
pub(super) fn check_text(text: &[u8], column: &ColumnType) -> Result<(), Fault> {
    match column {
        ColumnType::Text { kind, limit: Some(limit) } => {
            let limit = *limit as usize;
            if text.len() > limit && text.iter().filter(|&&byte| byte & 0xc0 != 0x80).count() > limit {
                return Err(Fault::new(
                    Reason::TooLong,
                    format!("the text has more than {limit} characters"),
                ));
            }
            if *kind == TextKind::Bpchar && text.ends_with(b" ") {
                return Err(Fault::not_exact("the text ends in a blank, which character(n) does not keep"));
            }
            Ok(())
        }
        ColumnType::Enum { labels } => label(text, labels).map(|_| ()),
        _ => Ok(()),
    }
}

fn label<'a>(text: &'a [u8], labels: &[String]) -> Result<&'a [u8], Fault> {
    if labels.iter().any(|label| label.as_bytes() == text) {
        return Ok(text);
    }
    Err(Fault::new(Reason::UnknownEnumLabel, "the text is not a label of the enum"))
}

fn whole(value: &Value<'_>, column: &ColumnType) -> Result<i64, Fault> {
    match *value {
        Value::Int32(int) => return Ok(i64::from(int)),
        Value::Int64(int) => return Ok(int),
        _ => {}
    }
    let mut buffer = [0; 40];
    match number(value, &mut buffer).ok_or_else(|| wrong_type(value, column))? {
        Number::Finite(decimal) => i64::try_from(decimal.whole(0)?).map_err(|_| out_of_range(column)),
        Number::NaN | Number::Infinity { .. } => {
            Err(Fault::out_of_range("NaN and Infinity do not fit a column of integers"))
        }
    }
}

fn float8(value: &Value<'_>, column: &ColumnType) -> Result<f64, Fault> {
    let inexact = || Fault::not_exact("no double has exactly this value");
    match *value {
        Value::Double(double) => Ok(double),
        Value::Int32(int) => Ok(f64::from(int)),
        Value::Int64(int) => {
            let double = int as f64;
            if double as i128 == i128::from(int) { Ok(double) } else { Err(inexact()) }
        }
        Value::Decimal128(_) => {
            let mut buffer = [0; 40];
            match number(value, &mut buffer).ok_or_else(|| wrong_type(value, column))? {
                Number::Finite(decimal) => decimal.exact_double().ok_or_else(inexact),
                Number::NaN => Ok(f64::NAN),
                Number::Infinity { negative } => Ok(if negative { f64::NEG_INFINITY } else { f64::INFINITY }),
            }
        }
        _ => Err(wrong_type(value, column)),
    }
}

fn float4(value: &Value<'_>, column: &ColumnType) -> Result<f32, Fault> {
    let double = float8(value, column)?;
    let single = double as f32;
    if double.is_finite() && single.is_infinite() {
        return Err(out_of_range(column));
    }
    if !double.is_nan() && f64::from(single) != double {
        return Err(Fault::not_exact("the number has more digits than real keeps"));
    }
    Ok(single)
}

fn uuid(value: &Value<'_>, column: &ColumnType) -> Result<Uuid, Fault> {
    match *value {
        Value::Binary { subtype: 4, bytes } => Uuid::from_slice(bytes)
            .map_err(|_| Fault::new(Reason::Malformed, "a uuid does not have 16 bytes")),
        Value::Binary { subtype: 3, .. } => Err(Fault::wrong_type(
            "a binary of subtype 3 is a uuid whose byte order depends on the driver that wrote it",
        )),
        // 36 characters: hyphenated. The shorter and longer forms would not read back as they were.
        Value::String(text) if text.len() == 36 => std::str::from_utf8(text)
            .ok()
            .and_then(|text| Uuid::try_parse(text).ok())
            .ok_or_else(|| Fault::wrong_type("the text is not a uuid")),
        Value::String(_) => Err(Fault::wrong_type("the text is not a hyphenated uuid")),
        _ => Err(wrong_type(value, column)),
    }
}

fn bytea<'a>(value: &Value<'a>, column: &ColumnType) -> Result<&'a [u8], Fault> {
    match *value {
        Value::Binary { subtype: 0, bytes } => Ok(bytes),
        Value::Binary { subtype: 2, bytes } => json::old_binary(bytes),
        Value::Binary { subtype, .. } => {
            Err(Fault::wrong_type(format!("bytea does not keep the binary's subtype {subtype}")))
        }
        _ => Err(wrong_type(value, column)),
    }
}

pub(super) fn wrong_type(value: &Value<'_>, column: &ColumnType) -> Fault {
    Fault::wrong_type(format!("{} does not fit a column of type {}", value.type_name(), type_name(column)))
}

fn out_of_range(column: &ColumnType) -> Fault {
    Fault::out_of_range(format!("the number is out of the range of {}", type_name(column)))
}

/// The column's type, for messages.
pub(super) fn type_name(column: &ColumnType) -> &str {
    match column {
        ColumnType::Bool => "boolean",
        ColumnType::Int2 => "smallint",
        ColumnType::Int4 => "integer",
        ColumnType::Int8 => "bigint",
        ColumnType::Float4 => "real",
        ColumnType::Float8 => "double precision",
        ColumnType::Numeric(_) => "numeric",
        ColumnType::Text { kind: TextKind::Text, .. } => "text",
        ColumnType::Text { kind: TextKind::Varchar, .. } => "character varying",
        ColumnType::Text { kind: TextKind::Bpchar, .. } => "character",
        ColumnType::Text { kind: TextKind::Citext, .. } => "citext",
        ColumnType::Uuid => "uuid",
        ColumnType::Bytea => "bytea",
        ColumnType::Date => "date",
        ColumnType::Timestamp { .. } => "timestamp",
        ColumnType::TimestampTz { .. } => "timestamp with time zone",
        ColumnType::Json => "json",
        ColumnType::Jsonb => "jsonb",
        ColumnType::Enum { .. } => "enum",
        ColumnType::Array { cast_sql: sql, .. } | ColumnType::Other(sql) => sql,
    }
}

#[cfg(test)]
#[path = "encode_tests.rs"]
mod tests;
