//! Ids as text: different ids, different texts.
//!
//! A text without a leading `$` is an id of the plain type; all others are `$tag` or `$tag:…`, each tag
//! one kind of value, so that no two kinds can meet.

use std::fmt::Write;

use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::IdType;
use super::canonical::{
    ARRAY, BINARY, BOOL, DATE, DECIMAL128, DOCUMENT, DOUBLE, Decimal, INT64, MAX_DEPTH, MAX_KEY, MIN_KEY,
    NULL, OBJECT_ID, STRING, TIMESTAMP, UNDEFINED, decode_decimal128, for_each_element, sound_length,
};

/// Longer texts are hashed: an index entry of PostgreSQL holds 2,704 bytes at most, and the key is in
/// several indexes together with other columns.
const MAX_BYTES: usize = 512;

const UUID_SUBTYPE: u8 = 4;

pub(super) fn id_type(element_type: u8, value: &[u8]) -> Option<IdType> {
    match element_type {
        OBJECT_ID if value.len() == 12 => Some(IdType::ObjectId),
        STRING => string(value).map(|_| IdType::String),
        INT64 => int(value).map(|_| IdType::Int),
        BINARY => uuid(value).map(|_| IdType::Uuid),
        _ => None,
    }
}

pub(super) fn source_id(element_type: u8, value: &[u8], plain: Option<IdType>) -> String {
    let text = readable(element_type, value, plain)
        .unwrap_or_else(|| format!("$raw:{element_type:02x}:{}", Hex(value)));
    if text.len() <= MAX_BYTES {
        return text;
    }
    let digest = Sha256::new().chain_update([element_type]).chain_update(value).finalize();
    format!("$sha256:{}", Hex(&digest))
}

/// `None`: bytes that are not a value of that type, or a kind too rare for a form of its own.
fn readable(element_type: u8, value: &[u8], plain: Option<IdType>) -> Option<String> {
    if sound_length(element_type, value)? != value.len() {
        return None;
    }
    let text = match element_type {
        OBJECT_ID => {
            let bytes: &[u8; 12] = value.try_into().ok()?;
            // The usual id of all: without the detour of formatting.
            let tag = if plain == Some(IdType::ObjectId) { "" } else { "$oid:" };
            let mut text = String::with_capacity(tag.len() + 2 * bytes.len());
            text.push_str(tag);
            Hex(bytes).append_to(&mut text);
            text
        }
        STRING => string_text(string(value)?, plain),
        INT64 => tagged(plain == Some(IdType::Int), "$number:", int(value)?),
        DECIMAL128 => {
            let bits = u128::from_le_bytes(value.try_into().ok()?);
            format!("$number:{}", DecimalText(decode_decimal128(bits)))
        }
        DOUBLE => {
            let double = f64::from_le_bytes(value.try_into().ok()?);
            match () {
                () if double.is_nan() => "$number:NaN".to_owned(),
                () if double.is_infinite() && double > 0.0 => "$number:Infinity".to_owned(),
                () if double.is_infinite() => "$number:-Infinity".to_owned(),
                // Not `$number`: the double 0.1 is another id than the decimal 0.1.
                () => format!("$double:{double:e}"),
            }
        }
        BINARY => match uuid(value) {
            Some(uuid) => tagged(plain == Some(IdType::Uuid), "$uuid:", uuid.hyphenated()),
            None => format!("$binary:{:02x}:{}", value.get(4)?, Hex(value.get(5..)?)),
        },
        DATE => format!("$date:{}", int(value)?),
        BOOL => format!("$bool:{}", *value.first()? != 0),
        TIMESTAMP => {
            let (increment, seconds) = value.split_at_checked(4)?;
            format!("$timestamp:{}.{}", unsigned(seconds)?, unsigned(increment)?)
        }
        NULL => "$null".to_owned(),
        UNDEFINED => "$undefined".to_owned(),
        MIN_KEY => "$minkey".to_owned(),
        MAX_KEY => "$maxkey".to_owned(),
        DOCUMENT => {
            let mut text = "$document:".to_owned();
            append_json(element_type, value, &mut text, 0)?;
            text
        }
        ARRAY => {
            let mut text = "$array:".to_owned();
            append_json(element_type, value, &mut text, 0)?;
            text
        }
        _ => return None,
    };
    Some(text)
}

/// A reference's value as an id of another type; `None`: it has no such form, or is of that type already.
pub(super) fn converted(element_type: u8, value: &[u8], to: IdType) -> Option<(u8, Vec<u8>)> {
    if element_type == STRING {
        return plain_value(std::str::from_utf8(string(value)?).ok()?, to).filter(|_| to != IdType::String);
    }
    if to != IdType::String {
        return None;
    }
    // Only ids that would be written plain under their own type: others have no obvious text.
    let own = id_type(element_type, value)?;
    Some(string_value(&readable(element_type, value, Some(own))?))
}

/// The id a plain text stands for.
fn plain_value(text: &str, id_type: IdType) -> Option<(u8, Vec<u8>)> {
    match id_type {
        IdType::ObjectId => Some((OBJECT_ID, hex(text).filter(|bytes| bytes.len() == 12)?)),
        IdType::String => Some(string_value(text)),
        IdType::Int => {
            let number: i64 = text.parse().ok()?;
            (number.to_string() == text).then(|| (INT64, number.to_le_bytes().to_vec()))
        }
        IdType::Uuid => {
            let uuid = Uuid::parse_str(text).ok()?;
            let mut value = 16_i32.to_le_bytes().to_vec();
            value.push(UUID_SUBTYPE);
            value.extend_from_slice(uuid.as_bytes());
            Some((BINARY, value))
        }
    }
}

fn string_value(text: &str) -> (u8, Vec<u8>) {
    let mut value = (text.len() as u32 + 1).to_le_bytes().to_vec();
    value.extend_from_slice(text.as_bytes());
    value.push(0);
    (STRING, value)
}

fn hex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    (0..text.len()).step_by(2).map(|place| u8::from_str_radix(text.get(place..place + 2)?, 16).ok()).collect()
}

/// The id of a text that `source_id` made, as far as the commoner forms go. Whoever asks makes the text
/// again and compares: a form that is not exact is none.
pub(super) fn parsed(text: &str, plain: IdType) -> Option<super::CanonicalId> {
    let made = |(element_type, value): (u8, Vec<u8>)| super::CanonicalId::from_value(element_type, &value);
    let Some(tagged) = text.strip_prefix('$') else { return plain_value(text, plain).map(made) };
    let Some((tag, rest)) = tagged.split_once(':') else {
        let element_type = match tagged {
            "null" => NULL,
            "undefined" => UNDEFINED,
            "minkey" => MIN_KEY,
            "maxkey" => MAX_KEY,
            _ => return None,
        };
        return Some(made((element_type, Vec::new())));
    };
    let value = match tag {
        "oid" => plain_value(rest, IdType::ObjectId)?,
        "string" => string_value(rest),
        "utf8hex" => {
            let bytes = hex(rest)?;
            let mut value = (bytes.len() as u32 + 1).to_le_bytes().to_vec();
            value.extend_from_slice(&bytes);
            value.push(0);
            (STRING, value)
        }
        "number" if plain_value(rest, IdType::Int).is_some() => plain_value(rest, IdType::Int)?,
        "double" => (DOUBLE, rest.parse::<f64>().ok()?.to_le_bytes().to_vec()),
        "uuid" => plain_value(rest, IdType::Uuid)?,
        "binary" => {
            let (subtype, bytes) = rest.split_once(':')?;
            let bytes = hex(bytes)?;
            let mut value = (bytes.len() as u32).to_le_bytes().to_vec();
            value.extend_from_slice(&hex(subtype)?);
            value.extend_from_slice(&bytes);
            (BINARY, value)
        }
        "date" => (DATE, rest.parse::<i64>().ok()?.to_le_bytes().to_vec()),
        "bool" => (BOOL, vec![u8::from(rest == "true")]),
        "raw" => {
            let (element_type, bytes) = rest.split_once(':')?;
            (*hex(element_type)?.first()?, hex(bytes)?)
        }
        _ => return None,
    };
    Some(made(value))
}

fn tagged(plain: bool, tag: &str, text: impl std::fmt::Display) -> String {
    if plain { text.to_string() } else { format!("{tag}{text}") }
}

fn string_text(bytes: &[u8], plain: Option<IdType>) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if bytes.contains(&0) => format!("$utf8hex:{}", Hex(text.as_bytes())),
        Ok(text) if plain == Some(IdType::String) && !text.starts_with('$') => text.to_owned(),
        Ok(text) => format!("$string:{text}"),
        Err(_) => format!("$utf8hex:{}", Hex(bytes)),
    }
}

/// Canonical extended JSON, except that a user's own field names that begin with `$` get one more, so
/// that a document which only looks like a wrapped value is not taken for one.
fn append_json(element_type: u8, value: &[u8], out: &mut String, depth: usize) -> Option<()> {
    match element_type {
        DOCUMENT | ARRAY if depth >= MAX_DEPTH => return None,
        DOCUMENT | ARRAY => {
            let (open, close) = if element_type == DOCUMENT { ('{', '}') } else { ('[', ']') };
            out.push(open);
            let mut first = true;
            for_each_element(value, |inner_type, name, inner| {
                if !std::mem::take(&mut first) {
                    out.push(',');
                }
                if element_type == DOCUMENT {
                    let name = std::str::from_utf8(name).ok()?;
                    let escape = if name.starts_with('$') { "$" } else { "" };
                    append_quoted(&format!("{escape}{name}"), out)?;
                    out.push(':');
                }
                append_json(inner_type, inner, out, depth + 1)
            })?;
            out.push(close);
        }
        STRING => append_quoted(std::str::from_utf8(string(value)?).ok()?, out)?,
        BOOL => out.push_str(if *value.first()? == 0 { "false" } else { "true" }),
        NULL => out.push_str("null"),
        INT64 => write!(out, r#"{{"$numberLong":"{}"}}"#, int(value)?).ok()?,
        OBJECT_ID => write!(out, r#"{{"$oid":"{}"}}"#, Hex(value)).ok()?,
        DATE => write!(out, r#"{{"$date":{{"$numberLong":"{}"}}}}"#, int(value)?).ok()?,
        DECIMAL128 => {
            let bits = u128::from_le_bytes(value.try_into().ok()?);
            write!(out, r#"{{"$numberDecimal":"{}"}}"#, DecimalText(decode_decimal128(bits))).ok()?;
        }
        DOUBLE => {
            let double = f64::from_le_bytes(value.try_into().ok()?);
            write!(out, r#"{{"$numberDouble":"{double:e}"}}"#).ok()?;
        }
        // The rest by the same tags as at the top.
        _ => {
            let text = readable(element_type, value, None)
                .unwrap_or_else(|| format!("$raw:{element_type:02x}:{}", Hex(value)));
            write!(out, r#"{{"$value":"{text}"}}"#).ok()?;
        }
    }
    Some(())
}

fn append_quoted(text: &str, out: &mut String) -> Option<()> {
    out.push_str(&serde_json::to_string(text).ok()?);
    Some(())
}

/// The bytes of a BSON string without its length and closing zero.
fn string(value: &[u8]) -> Option<&[u8]> {
    let length = unsigned(value.get(..4)?)?;
    let (&closing, text) = value.get(4..)?.split_last()?;
    (closing == 0 && text.len() + 1 == length as usize).then_some(text)
}

fn int(value: &[u8]) -> Option<i64> {
    Some(i64::from_le_bytes(value.try_into().ok()?))
}

fn unsigned(value: &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(value.try_into().ok()?))
}

fn uuid(value: &[u8]) -> Option<Uuid> {
    let (head, bytes) = value.split_at_checked(5)?;
    (head == [16, 0, 0, 0, UUID_SUBTYPE]).then_some(Uuid::from_bytes(bytes.try_into().ok()?))
}

/// A stripped decimal: digits, and an exponent where there is one.
struct DecimalText(Decimal);

impl std::fmt::Display for DecimalText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Decimal { negative, coefficient, exponent } = self.0;
        let sign = if negative { "-" } else { "" };
        let digits = coefficient.to_string();
        let places = usize::try_from(-exponent).unwrap_or(0);
        if exponent == 0 {
            write!(f, "{sign}{digits}")
        } else if places > 0 && places < digits.len() {
            let (whole, fraction) = digits.split_at(digits.len() - places);
            write!(f, "{sign}{whole}.{fraction}")
        } else {
            write!(f, "{sign}{digits}e{exponent}")
        }
    }
}

struct Hex<'a>(&'a [u8]);

impl std::fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut text = String::with_capacity(2 * self.0.len());
        self.append_to(&mut text);
        f.write_str(&text)
    }
}

impl Hex<'_> {
    fn append_to(&self, text: &mut String) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        for byte in self.0 {
            text.push(char::from(DIGITS[usize::from(byte >> 4)]));
            text.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
    }
}
