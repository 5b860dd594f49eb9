//! Scalars as the text an operator would write.

use super::decimal::whole_double;
use super::fault::Fault;
use super::json;
use super::json_text::{append_decimal128, append_hex, append_int, append_uuid};
use super::time::{Fraction, append_rfc3339};
use super::walk::Value;
use super::word;
use crate::domain::Reason;

/// How much a text column takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// Text, and ids whose text is beyond doubt.
    Obvious,
    /// Any scalar that has a plain text.
    Scalar,
    /// Everything; what has no plain text as extended JSON.
    Anything,
}

/// Appends the text; `Ok(false)` if the scope does not take such a value.
pub(super) fn append(value: &Value<'_>, scope: Scope, out: &mut Vec<u8>) -> Result<bool, Fault> {
    match *value {
        Value::String(text) | Value::Symbol(text) => out.extend_from_slice(checked(text)?),
        Value::ObjectId(id) => append_hex(id, out),
        Value::Binary { subtype: 4, bytes } if bytes.len() == 16 => {
            append_uuid(bytes.try_into().map_err(|_| Fault::malformed())?, out);
        }
        _ if scope == Scope::Obvious => return Ok(false),
        Value::Int32(int) => append_int(i64::from(int), out),
        Value::Int64(int) => append_int(int, out),
        Value::Double(double) => append_plain_double(double, out),
        Value::Decimal128(bits) => append_decimal128(bits, out),
        Value::Bool(value) => out.extend_from_slice(if value { b"true" } else { b"false" }),
        Value::Date(milliseconds) => append_rfc3339(milliseconds, Fraction::Always, out)
            .ok_or_else(|| Fault::new(Reason::InvalidDate, "the year is outside of 0 to 9999"))?,
        _ if scope == Scope::Scalar => return Ok(false),
        _ => json::append_value(value, out)?,
    }
    Ok(true)
}

/// The text, if PostgreSQL can store it.
pub(super) fn checked(text: &[u8]) -> Result<&[u8], Fault> {
    if word::is_ascii_without_nul(text) {
        return Ok(text);
    }
    if std::str::from_utf8(text).is_err() {
        return Err(Fault::new(Reason::InvalidUtf8, "the text is not valid UTF-8"));
    }
    if text.contains(&0) {
        return Err(Fault::new(
            Reason::NulCharacter,
            "the text has a NUL character, which PostgreSQL cannot store",
        ));
    }
    Ok(text)
}

/// 1.0 and 1 have one text, as they are one number.
fn append_plain_double(value: f64, out: &mut Vec<u8>) {
    if let Some(whole) = whole_double(value) {
        return append_int(whole, out);
    }
    let text = match value {
        f64::INFINITY => "Infinity".to_owned(),
        f64::NEG_INFINITY => "-Infinity".to_owned(),
        // Also right for NaN.
        value => format!("{value:?}"),
    };
    out.extend_from_slice(text.as_bytes());
}
