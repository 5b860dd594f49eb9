//! The small parts of JSON: strings and numbers.

use std::io::Write;

use super::decimal;
use super::fault::Fault;
use super::word::{self, EACH, TOP};
use crate::domain::Reason;

const PLAIN: u8 = 0;
const REFUSED: u8 = 1;
const UNICODE: u8 = b'u';

/// What a byte of a string becomes: itself, a refusal, or a backslash and this letter.
const ESCAPES: [u8; 256] = {
    let mut table = [PLAIN; 256];
    let mut control = 1;
    while control < 0x20 {
        table[control] = UNICODE;
        control += 1;
    }
    // jsonb has no NUL, however it is written.
    table[0] = REFUSED;
    table[0x08] = b'b';
    table[0x09] = b't';
    table[0x0a] = b'n';
    table[0x0c] = b'f';
    table[0x0d] = b'r';
    table[b'"' as usize] = b'"';
    table[b'\\' as usize] = b'\\';
    table
};

/// Text with quotes.
pub(super) fn append_string(text: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
    out.push(b'"');
    append_escaped(text, out)?;
    out.push(b'"');
    Ok(())
}

/// Text without quotes.
#[inline]
pub(super) fn append_escaped(text: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
    let length = plain_length(text);
    if length == text.len() {
        out.extend_from_slice(text);
        return Ok(());
    }
    append_with_escapes(text, length, out)
}

/// `plain`: how much of it stands for itself.
#[cold]
fn append_with_escapes(text: &[u8], plain: usize, out: &mut Vec<u8>) -> Result<(), Fault> {
    let (plain, mut rest) = text.split_at(plain);
    out.extend_from_slice(plain);
    // What stands before is ASCII: the rest begins with a character.
    if std::str::from_utf8(rest).is_err() {
        return Err(Fault::new(Reason::InvalidUtf8, "the text is not valid UTF-8"));
    }
    while let Some(at) = rest.iter().position(|&byte| ESCAPES[usize::from(byte)] != PLAIN) {
        out.extend_from_slice(&rest[..at]);
        match ESCAPES[usize::from(rest[at])] {
            REFUSED => {
                return Err(Fault::new(
                    Reason::NulCharacter,
                    "the text has a NUL character, which PostgreSQL cannot store",
                ));
            }
            UNICODE => {
                out.extend_from_slice(b"\\u00");
                append_hex(&rest[at..=at], out);
            }
            letter => out.extend_from_slice(&[b'\\', letter]),
        }
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    Ok(())
}

/// How many bytes from the start are ASCII that stands for itself. Nearly all text is, and eight bytes at
/// a time are several times faster than to decode it and to look every byte up.
fn plain_length(text: &[u8]) -> usize {
    let mut length = 0;
    while let Some(chunk) = text[length..].first_chunk() {
        let marked = marked(u64::from_le_bytes(*chunk));
        if marked != 0 {
            return length + marked.trailing_zeros() as usize / 8;
        }
        length += 8;
    }
    // Blanks where there are no bytes.
    let rest = word::first(&text[length..])
        | (EACH * 0x20).checked_shl(8 * (text.len() - length) as u32).unwrap_or(0);
    match marked(rest) {
        0 => text.len(),
        marked => length + marked.trailing_zeros() as usize / 8,
    }
}

/// The top bit of each byte that is not ASCII, a control character, a quote or a backslash. A borrow spoils only
/// bytes above the first that is marked.
#[inline]
fn marked(word: u64) -> u64 {
    let control = word.wrapping_sub(EACH * 0x20);
    let quote = (word ^ (EACH * u64::from(b'"'))).wrapping_sub(EACH);
    let backslash = (word ^ (EACH * u64::from(b'\\'))).wrapping_sub(EACH);
    (word | control | quote | backslash) & TOP
}

pub(super) fn append_hex(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let start = out.len();
    out.resize(start + 2 * bytes.len(), 0);
    for (pair, byte) in out[start..].chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
}

pub(super) fn append_int(value: i64, out: &mut Vec<u8>) {
    if value < 0 {
        out.push(b'-');
    }
    append_digits(value.unsigned_abs(), out);
}

fn append_digits(mut rest: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

/// A finite double, always with a point or an exponent, so that 1.0 stays another thing than 1. jsonb
/// writes exponents out as zeros; numbers that could then be taken for an int64 get a point instead.
pub(super) fn append_double(value: f64, out: &mut Vec<u8>) {
    if append_short_double(value, out) {
        return;
    }
    // Writing to a Vec cannot fail.
    let _ = if value.fract() == 0.0 && value.abs() < 1e19 {
        write!(out, "{value:.1}")
    } else {
        write!(out, "{value:?}")
    };
}

/// Those of few digits, which most are, in a tenth of the time. `false`: it is another one.
fn append_short_double(value: f64, out: &mut Vec<u8>) -> bool {
    // What is smaller is written with an exponent.
    const LEAST: f64 = 1e-4;
    if value.abs() < LEAST {
        return false;
    }
    let Some(millionths) = decimal::shifted(value, 6) else { return false };
    if millionths < 0 {
        out.push(b'-');
    }
    let millionths = millionths.unsigned_abs();
    append_digits(millionths / 1_000_000, out);
    let (mut fraction, mut digits) = (millionths % 1_000_000, *b".000000");
    let mut length = 2;
    for place in (1..7).rev() {
        digits[place] = b'0' + (fraction % 10) as u8;
        fraction /= 10;
        if digits[place] != b'0' && length == 2 {
            length = place + 1;
        }
    }
    out.extend_from_slice(&digits[..length]);
    true
}

/// 8-4-4-4-12.
pub(super) fn append_uuid(bytes: [u8; 16], out: &mut Vec<u8>) {
    let mut text = uuid::Uuid::encode_buffer();
    out.extend_from_slice(uuid::Uuid::from_bytes(bytes).hyphenated().encode_lower(&mut text).as_bytes());
}

/// A Decimal128 as the specification writes it, with its trailing zeros and its exponent.
pub(super) fn append_decimal128(bits: u128, out: &mut Vec<u8>) {
    use super::decimal::{Decimal, Number, number};
    let mut buffer = [0; 40];
    let decimal = match number(&super::walk::Value::Decimal128(bits), &mut buffer) {
        Some(Number::Infinity { negative: true }) => return out.extend_from_slice(b"-Infinity"),
        Some(Number::Infinity { negative: false }) => return out.extend_from_slice(b"Infinity"),
        Some(Number::NaN) | None => return out.extend_from_slice(b"NaN"),
        Some(Number::Finite(decimal)) => decimal,
    };
    let Decimal { negative, digits, exponent } = decimal;
    let digits = if digits.is_empty() { &[0][..] } else { digits };
    if negative {
        out.push(b'-');
    }
    let append = |digits: &[u8], out: &mut Vec<u8>| out.extend(digits.iter().map(|digit| b'0' + digit));
    let adjusted = exponent + digits.len() as i32 - 1;
    if exponent > 0 || adjusted < -6 {
        append(&digits[..1], out);
        if digits.len() > 1 {
            out.push(b'.');
            append(&digits[1..], out);
        }
        out.push(b'E');
        if adjusted >= 0 {
            out.push(b'+');
        }
        append_int(i64::from(adjusted), out);
    } else if adjusted >= 0 {
        let (whole, fraction) = digits.split_at(adjusted as usize + 1);
        append(whole, out);
        if !fraction.is_empty() {
            out.push(b'.');
            append(fraction, out);
        }
    } else {
        out.extend_from_slice(b"0.");
        out.resize(out.len() + (-adjusted - 1) as usize, b'0');
        append(digits, out);
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use bson::Decimal128;
    use proptest::prelude::*;

    use super::*;

    fn double(value: f64) -> String {
        let mut out = Vec::new();
        append_double(value, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn doubles_do_not_look_like_integers() {
        for (value, text) in [
            (1.0, "1.0"),
            (-2.5, "-2.5"),
            (1e18, "1000000000000000000.0"),
            (9.007_199_254_740_993e15, "9007199254740992.0"),
            (1e300, "1e300"),
            (1.5e-9, "1.5e-9"),
            (0.1, "0.1"),
            (1e-5, "1e-5"),
            (-1_700_000_000.25, "-1700000000.25"),
            (123_456_789.012_345, "123456789.012345"),
            (0.000_011, "1.1e-5"),
        ] {
            assert_eq!(double(value), text);
        }
    }

    #[test]
    fn strings_are_escaped() {
        let mut out = Vec::new();
        append_string("\u{1}\t\n\r\u{8}\u{c}\"\\/é\u{2028}😀".as_bytes(), &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "\"\\u0001\\t\\n\\r\\b\\f\\\"\\\\/é\u{2028}😀\"");
        let reason = |text: &[u8]| append_string(text, &mut Vec::new()).unwrap_err().reason;
        assert_eq!(reason(b"a\0"), Reason::NulCharacter);
        assert_eq!(reason(b"\xed\xa0\x80"), Reason::InvalidUtf8);
    }

    proptest! {
        #[test]
        fn plain_text_ends_where_looking_at_every_byte_says(
            text in prop::collection::vec(prop_oneof![4 => 0x20_u8..0x7f, 1 => any::<u8>()], 0..40))
        {
            let special = |&byte: &u8| byte >= 0x80 || ESCAPES[usize::from(byte)] != PLAIN;
            prop_assert_eq!(plain_length(&text), text.iter().position(special).unwrap_or(text.len()));
        }

        #[test]
        fn doubles_come_back(value in any::<f64>().prop_filter("finite", |value| value.is_finite())) {
            prop_assert_eq!(double(value).parse::<f64>().unwrap().to_bits(), value.to_bits());
        }

        #[test]
        fn doubles_of_few_digits_are_written_as_all_others(digits in -10_000_000_000_000_000_i64..10_000_000_000_000_000, shift in 0_i32..12) {
            let value = digits as f64 / 10_f64.powi(shift);
            let expected = if value.fract() == 0.0 { format!("{value:.1}") } else { format!("{value:?}") };
            prop_assert_eq!(double(value), expected);
        }

        #[test]
        fn integers_are_written(value in any::<i64>()) {
            let mut out = Vec::new();
            append_int(value, &mut out);
            prop_assert_eq!(String::from_utf8(out).unwrap(), value.to_string());
        }

        #[test]
        fn decimals_are_written_as_bson_does(
            digits in "[1-9][0-9]{0,33}|0", exponent in -6176_i32..6000, small in -20_i32..20, negative in any::<bool>(),
        ) {
            for exponent in [exponent, small] {
                let sign = if negative { "-" } else { "" };
                let decimal = Decimal128::from_str(&format!("{sign}{digits}E{exponent}")).unwrap();
                let mut out = Vec::new();
                append_decimal128(u128::from_le_bytes(decimal.bytes()), &mut out);
                prop_assert_eq!(String::from_utf8(out).unwrap(), decimal.to_string());
            }
        }
    }
}
