//! The normal form of ids: one sequence of bytes for all values MongoDB holds for equal.

use crate::domain::value_length;

pub(super) const DOUBLE: u8 = 0x01;
pub(super) const STRING: u8 = 0x02;
pub(super) const DOCUMENT: u8 = 0x03;
pub(super) const ARRAY: u8 = 0x04;
pub(super) const BINARY: u8 = 0x05;
pub(super) const UNDEFINED: u8 = 0x06;
pub(super) const OBJECT_ID: u8 = 0x07;
pub(super) const BOOL: u8 = 0x08;
pub(super) const DATE: u8 = 0x09;
pub(super) const NULL: u8 = 0x0a;
const DB_POINTER: u8 = 0x0c;
const CODE: u8 = 0x0d;
const SYMBOL: u8 = 0x0e;
const INT32: u8 = 0x10;
pub(super) const TIMESTAMP: u8 = 0x11;
pub(super) const INT64: u8 = 0x12;
pub(super) const DECIMAL128: u8 = 0x13;
pub(super) const MAX_KEY: u8 = 0x7f;
pub(super) const MIN_KEY: u8 = 0xff;

/// Deeper documents are kept as they are; mongod stores at most 180 levels.
pub(super) const MAX_DEPTH: usize = 200;

const MAX_COEFFICIENT: u128 = 10_u128.pow(34) - 1;
const MAX_EXPONENT: i32 = 6111;
const EXPONENT_BIAS: i32 = 6176;

/// A finite number: coefficient × 10^exponent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Decimal {
    pub(super) negative: bool,
    pub(super) coefficient: u128,
    pub(super) exponent: i32,
}

/// Whether every value of this type is its own normal form.
pub(super) fn is_kept(element_type: u8) -> bool {
    !matches!(element_type, INT32 | DOUBLE | DECIMAL128 | DOCUMENT | ARRAY | SYMBOL)
}

/// The type byte and the value bytes of the normal form.
pub(super) fn canonical(element_type: u8, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len() + 1);
    out.push(element_type);
    // The value may change its type, so its place is remembered instead of written twice.
    match append(element_type, value, &mut out, 0) {
        Some(canonical_type) => out[0] = canonical_type,
        None => {
            out.truncate(1);
            out.extend_from_slice(value);
        }
    }
    out
}

/// Appends the normal form of a value and says its type. `None`: not a value of that type.
fn append(element_type: u8, value: &[u8], out: &mut Vec<u8>, depth: usize) -> Option<u8> {
    if sound_length(element_type, value)? != value.len() {
        return None;
    }
    match element_type {
        INT32 => Some(append_int(i64::from(i32::from_le_bytes(value.try_into().ok()?)), out)),
        DOUBLE => Some(append_double(f64::from_le_bytes(value.try_into().ok()?), out)),
        DECIMAL128 => Some(append_decimal128(u128::from_le_bytes(value.try_into().ok()?), out)),
        DOCUMENT | ARRAY => {
            append_document(element_type, value, out, depth)?;
            Some(element_type)
        }
        SYMBOL => {
            out.extend_from_slice(value);
            Some(STRING)
        }
        _ => {
            out.extend_from_slice(value);
            Some(element_type)
        }
    }
}

fn append_document(element_type: u8, value: &[u8], out: &mut Vec<u8>, depth: usize) -> Option<()> {
    if depth >= MAX_DEPTH {
        return None;
    }
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    let mut position = 0_usize;
    for_each_element(value, |inner_type, name, inner| {
        let type_at = out.len();
        out.push(inner_type);
        // An index does not tell an array's place from its order: names of array elements are rewritten.
        if element_type == ARRAY {
            out.extend_from_slice(position.to_string().as_bytes());
        } else {
            out.extend_from_slice(name);
        }
        out.push(0);
        position += 1;
        out[type_at] = append(inner_type, inner, out, depth + 1)?;
        Some(())
    })?;
    out.push(0);
    let length = u32::try_from(out.len() - start).ok()?;
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    Some(())
}

/// Calls with (type, name, value) for each element of a framed document; `None` at the first flaw.
pub(super) fn for_each_element(
    document: &[u8],
    mut visit: impl FnMut(u8, &[u8], &[u8]) -> Option<()>,
) -> Option<()> {
    let (&closing, mut rest) = document.get(4..)?.split_last()?;
    if closing != 0 {
        return None;
    }
    while let Some((&element_type, after_type)) = rest.split_first() {
        let name_length = after_type.iter().position(|&byte| byte == 0)?;
        let after_name = &after_type[name_length + 1..];
        let length = sound_length(element_type, after_name)?;
        visit(element_type, &after_type[..name_length], after_name.get(..length)?)?;
        rest = &after_name[length..];
    }
    Some(())
}

/// How many of the bytes belong to a value of this type; `None` if they cannot hold a sound one.
pub(super) fn sound_length(element_type: u8, bytes: &[u8]) -> Option<usize> {
    let length = value_length(element_type, bytes)?;
    let value = bytes.get(..length)?;
    // A text counts its closing zero, which must be there.
    let is_text = |text: &[u8]| text.len() > 4 && text.ends_with(&[0]);
    let is_sound = match element_type {
        BOOL => matches!(value, [0 | 1]),
        STRING | CODE | SYMBOL => is_text(value),
        DB_POINTER => is_text(&value[..length - 12]),
        DOCUMENT | ARRAY => length >= 5,
        _ => true,
    };
    is_sound.then_some(length)
}

fn append_int(value: i64, out: &mut Vec<u8>) -> u8 {
    out.extend_from_slice(&value.to_le_bytes());
    INT64
}

fn append_double(value: f64, out: &mut Vec<u8>) -> u8 {
    if value.is_finite()
        && let Some(decimal) = exact_decimal(value)
    {
        return append_finite(decimal, out);
    }
    let value = if value.is_nan() { f64::NAN } else { value };
    out.extend_from_slice(&value.to_le_bytes());
    DOUBLE
}

fn append_decimal128(bits: u128, out: &mut Vec<u8>) -> u8 {
    match (bits >> 122) & 0b1_1111 {
        0b1_1110 => append_double(if bits >> 127 == 1 { f64::NEG_INFINITY } else { f64::INFINITY }, out),
        0b1_1111 => append_double(f64::NAN, out),
        _ => append_finite(decode_decimal128(bits), out),
    }
}

fn append_finite(decimal: Decimal, out: &mut Vec<u8>) -> u8 {
    let decimal = strip(decimal);
    if let Some(whole) = whole_number(decimal) {
        return append_int(whole, out);
    }
    out.extend_from_slice(&encode_decimal128(decimal).to_le_bytes());
    DECIMAL128
}

/// The finite number of a Decimal128. A coefficient out of range stands for zero.
pub(super) fn decode_decimal128(bits: u128) -> Decimal {
    let negative = bits >> 127 == 1;
    if (bits >> 125) & 0b11 == 0b11 {
        return Decimal { negative, coefficient: 0, exponent: 0 };
    }
    let exponent = ((bits >> 113) & 0x3fff) as i32 - EXPONENT_BIAS;
    let coefficient = bits & ((1 << 113) - 1);
    Decimal { negative, coefficient: if coefficient > MAX_COEFFICIENT { 0 } else { coefficient }, exponent }
}

fn encode_decimal128(decimal: Decimal) -> u128 {
    let exponent = (decimal.exponent + EXPONENT_BIAS) as u128;
    (u128::from(decimal.negative) << 127) | (exponent << 113) | decimal.coefficient
}

fn strip(decimal: Decimal) -> Decimal {
    let Decimal { negative, mut coefficient, mut exponent } = decimal;
    if coefficient == 0 {
        return Decimal { negative: false, coefficient: 0, exponent: 0 };
    }
    while coefficient.is_multiple_of(10) && exponent < MAX_EXPONENT {
        coefficient /= 10;
        exponent += 1;
    }
    Decimal { negative, coefficient, exponent }
}

/// A stripped decimal as a whole number, if it is one that an int64 holds.
fn whole_number(decimal: Decimal) -> Option<i64> {
    let scale = 10_i128.checked_pow(u32::try_from(decimal.exponent).ok()?)?;
    let magnitude = i128::try_from(decimal.coefficient).ok()?.checked_mul(scale)?;
    i64::try_from(if decimal.negative { -magnitude } else { magnitude }).ok()
}

/// The exact value of a finite double, if at most 34 digits say it.
fn exact_decimal(value: f64) -> Option<Decimal> {
    let bits = value.to_bits();
    let negative = value.is_sign_negative();
    let fraction = bits & ((1 << 52) - 1);
    let biased = ((bits >> 52) & 0x7ff) as i32;
    let (mut mantissa, mut binary_exponent) =
        if biased == 0 { (fraction, -1074) } else { (fraction | 1 << 52, biased - 1075) };
    if mantissa == 0 {
        return Some(Decimal { negative: false, coefficient: 0, exponent: 0 });
    }
    let zeros = mantissa.trailing_zeros();
    mantissa >>= zeros;
    binary_exponent += zeros as i32;
    let mut coefficient = u128::from(mantissa);
    let mut exponent = 0;
    if binary_exponent < 0 {
        // m / 2^n = m × 5^n / 10^n
        exponent = binary_exponent;
        coefficient = coefficient.checked_mul(5_u128.checked_pow(binary_exponent.unsigned_abs())?)?;
    } else {
        while coefficient.is_multiple_of(5) && binary_exponent > 0 {
            coefficient /= 5;
            binary_exponent -= 1;
            exponent += 1;
        }
        if binary_exponent.unsigned_abs() > coefficient.leading_zeros() {
            return None;
        }
        coefficient <<= binary_exponent;
    }
    (coefficient <= MAX_COEFFICIENT).then_some(Decimal { negative, coefficient, exponent })
}
