//! PostgreSQL's binary `numeric`: groups of four decimal digits.

use super::decimal::{Decimal, Number};
use super::fault::Fault;

const POSITIVE: u16 = 0x0000;
const NEGATIVE: u16 = 0x4000;
const NAN: u16 = 0xc000;
const POSITIVE_INFINITY: u16 = 0xd000;
const NEGATIVE_INFINITY: u16 = 0xf000;

/// PostgreSQL's limits for a numeric without precision.
const MAX_WHOLE_DIGITS: i32 = 131_072;
const MAX_SCALE: i32 = 16_383;

/// Writes the number if the column's (precision, scale) holds it exactly.
pub(super) fn write(
    number: Number<'_>,
    modifier: Option<(u16, i16)>,
    out: &mut Vec<u8>,
) -> Result<(), Fault> {
    match number {
        Number::Finite(decimal) => write_finite(decimal, modifier, out),
        // PostgreSQL takes NaN into numeric(p, s), and refuses Infinity; neither belongs there.
        Number::NaN | Number::Infinity { .. } if modifier.is_some() => {
            Err(Fault::out_of_range("NaN and Infinity do not fit a numeric column that has a precision"))
        }
        Number::NaN => write_special(NAN, out),
        Number::Infinity { negative: false } => write_special(POSITIVE_INFINITY, out),
        Number::Infinity { negative: true } => write_special(NEGATIVE_INFINITY, out),
    }
}

fn write_special(sign: u16, out: &mut Vec<u8>) -> Result<(), Fault> {
    write_head(0, 0, sign, 0, out);
    Ok(())
}

fn write_finite(decimal: Decimal<'_>, modifier: Option<(u16, i16)>, out: &mut Vec<u8>) -> Result<(), Fault> {
    let stripped = decimal.stripped();
    let scale = match modifier {
        Some((precision, scale)) => {
            check(stripped, i32::from(precision), i32::from(scale))?;
            i32::from(scale).max(0)
        }
        None => decimal.exponent.saturating_neg().max(0),
    };
    if stripped.is_zero() {
        let scale = u16::try_from(scale.min(MAX_SCALE)).unwrap_or(0);
        write_head(0, 0, POSITIVE, scale, out);
        return Ok(());
    }
    let length = i32::try_from(stripped.digits.len()).unwrap_or(i32::MAX);
    let top = length.saturating_add(stripped.exponent).saturating_sub(1);
    if top >= MAX_WHOLE_DIGITS {
        return Err(Fault::out_of_range("the number has more digits than numeric holds"));
    }
    let (Ok(scale), true) = (u16::try_from(scale), scale <= MAX_SCALE) else {
        return Err(Fault::not_exact("the number has more fractional digits than numeric holds"));
    };
    let sign = if decimal.negative { NEGATIVE } else { POSITIVE };
    write_digits(stripped, top, sign, scale, out);
    Ok(())
}

fn check(stripped: Decimal<'_>, precision: i32, scale: i32) -> Result<(), Fault> {
    if stripped.is_zero() {
        return Ok(());
    }
    let length = i32::try_from(stripped.digits.len()).unwrap_or(i32::MAX);
    if length.saturating_add(stripped.exponent) > precision - scale {
        return Err(Fault::out_of_range(format!("the number does not fit numeric({precision},{scale})")));
    }
    if stripped.exponent < -scale {
        return Err(Fault::not_exact(format!(
            "the number has more fractional digits than numeric({precision},{scale}) keeps"
        )));
    }
    Ok(())
}

/// `top` is the power of ten of the first digit.
fn write_digits(stripped: Decimal<'_>, top: i32, sign: u16, scale: u16, out: &mut Vec<u8>) {
    let (first, last) = (top.div_euclid(4), stripped.exponent.div_euclid(4));
    write_head((first - last + 1) as u16, first as i16, sign, scale, out);
    let mut group = 0_u16;
    let mut power = top;
    for &digit in stripped.digits {
        group = group * 10 + u16::from(digit);
        if power.rem_euclid(4) == 0 {
            out.extend_from_slice(&group.to_be_bytes());
            group = 0;
        }
        power -= 1;
    }
    let missing = stripped.exponent.rem_euclid(4);
    if missing > 0 {
        group *= 10_u16.pow(missing.unsigned_abs());
        out.extend_from_slice(&group.to_be_bytes());
    }
}

fn write_head(groups: u16, weight: i16, sign: u16, scale: u16, out: &mut Vec<u8>) {
    out.extend_from_slice(&groups.to_be_bytes());
    out.extend_from_slice(&weight.to_be_bytes());
    out.extend_from_slice(&sign.to_be_bytes());
    out.extend_from_slice(&scale.to_be_bytes());
}

/// The text of a binary numeric, with all digits of its scale.
pub(super) fn append_text(bytes: &[u8], out: &mut Vec<u8>) {
    let mut words = bytes.chunks_exact(2).map(|word| u16::from_be_bytes([word[0], word[1]]));
    let mut word = || words.next().unwrap_or(0);
    let (_, weight, sign, scale) = (word(), word() as i16, word(), word());
    match sign {
        NAN => return out.extend_from_slice(b"NaN"),
        POSITIVE_INFINITY => return out.extend_from_slice(b"Infinity"),
        NEGATIVE_INFINITY => return out.extend_from_slice(b"-Infinity"),
        NEGATIVE => out.push(b'-'),
        _ => {}
    }
    let append = |group: u16, digits: usize, out: &mut Vec<u8>| {
        out.extend_from_slice(&format!("{group:04}").as_bytes()[..digits]);
    };
    let start = out.len();
    for _ in 0..=weight {
        append(word(), 4, out);
    }
    let zeros = out[start..].iter().take_while(|&&digit| digit == b'0').count();
    out.drain(start..start + zeros);
    if out.len() == start {
        out.push(b'0');
    }
    if scale == 0 {
        return;
    }
    out.push(b'.');
    let mut missing = usize::from(scale);
    // Groups between the point and the first one that is there.
    let mut leading = usize::from((-1 - weight).max(0).unsigned_abs());
    while missing > 0 {
        let group = if leading > 0 { 0 } else { word() };
        leading = leading.saturating_sub(1);
        append(group, missing.min(4), out);
        missing = missing.saturating_sub(4);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::super::decimal::parse;
    use super::*;
    use crate::domain::Reason;

    /// What PostgreSQL prints for these bytes.
    pub(in super::super) fn decode(bytes: &[u8]) -> String {
        let word = |index: usize| u16::from_be_bytes([bytes[2 * index], bytes[2 * index + 1]]);
        let (groups, weight, sign, scale) = (usize::from(word(0)), word(1) as i16, word(2), word(3));
        assert_eq!(bytes.len(), 8 + 2 * groups);
        match sign {
            NAN => return "NaN".into(),
            POSITIVE_INFINITY => return "Infinity".into(),
            NEGATIVE_INFINITY => return "-Infinity".into(),
            _ => {}
        }
        let group = |power: i32| -> u16 {
            let index = i32::from(weight) - power;
            let group =
                usize::try_from(index).ok().filter(|&index| index < groups).map_or(0, |i| word(4 + i));
            assert!(group < 10_000);
            group
        };
        let mut whole = String::new();
        for power in (0..=i32::from(weight).max(0)).rev() {
            whole.push_str(&format!("{:04}", group(power)));
        }
        let whole = whole.trim_start_matches('0');
        let mut text = if sign == NEGATIVE { "-".to_owned() } else { String::new() };
        text.push_str(if whole.is_empty() { "0" } else { whole });
        if scale > 0 {
            let mut fraction = String::new();
            let mut power = -1;
            while fraction.len() < usize::from(scale) {
                fraction.push_str(&format!("{:04}", group(power)));
                power -= 1;
            }
            assert!(fraction[usize::from(scale)..].bytes().all(|byte| byte == b'0'));
            text.push('.');
            text.push_str(&fraction[..usize::from(scale)]);
        }
        text
    }

    fn stored(text: &str, modifier: Option<(u16, i16)>) -> Result<String, Reason> {
        let mut digits = Vec::new();
        let mut out = Vec::new();
        let decimal = parse(text.as_bytes(), &mut digits).unwrap();
        write(Number::Finite(decimal), modifier, &mut out).map_err(|fault| fault.reason)?;
        let mut text = Vec::new();
        append_text(&out, &mut text);
        assert_eq!(String::from_utf8(text).unwrap(), decode(&out));
        Ok(decode(&out))
    }

    #[test]
    fn any_precision_keeps_trailing_zeros() {
        for (text, expected) in [
            ("0", "0"),
            ("0.00", "0.00"),
            ("1.10", "1.10"),
            ("-1.10", "-1.10"),
            ("1e3", "1000"),
            ("12345678.9", "12345678.9"),
            ("0.00001", "0.00001"),
            ("100000000", "100000000"),
            ("10000.0001", "10000.0001"),
            ("1e-7", "0.0000001"),
            ("99999999", "99999999"),
        ] {
            assert_eq!(stored(text, None).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn precision_and_scale_are_checked_before_postgresql_rounds() {
        let money = Some((12, 2));
        assert_eq!(stored("1.1", money).as_deref(), Ok("1.10"));
        assert_eq!(stored("1.100", money).as_deref(), Ok("1.10"));
        assert_eq!(stored("0", money).as_deref(), Ok("0.00"));
        assert_eq!(stored("10.005", money), Err(Reason::NotExact));
        assert_eq!(stored("9999999999.99", money).as_deref(), Ok("9999999999.99"));
        assert_eq!(stored("10000000000", money), Err(Reason::OutOfRange));
        assert_eq!(stored("1200", Some((3, -2))).as_deref(), Ok("1200"));
        assert_eq!(stored("1250", Some((3, -2))), Err(Reason::NotExact));
        assert_eq!(stored("0.00012", Some((3, 5))).as_deref(), Ok("0.00012"));
        assert_eq!(stored("0.01", Some((3, 5))), Err(Reason::OutOfRange));
    }

    #[test]
    fn limits_of_numeric_are_kept() {
        assert_eq!(stored("1e131072", None), Err(Reason::OutOfRange));
        assert!(stored("1e131071", None).is_ok());
        assert_eq!(stored("1e-16384", None), Err(Reason::NotExact));
        assert!(stored("1e-16383", None).is_ok());
        assert_eq!(stored("1e999999999", None), Err(Reason::OutOfRange));
        assert_eq!(stored("1e-999999999", None), Err(Reason::NotExact));
    }

    proptest! {
        #[test]
        fn every_number_is_stored_as_itself(whole in "[1-9][0-9]{0,40}", fraction in "[0-9]{0,40}") {
            let text = if fraction.is_empty() { whole } else { format!("{whole}.{fraction}") };
            prop_assert_eq!(stored(&text, None), Ok(text));
        }

        #[test]
        fn small_numbers_too(fraction in "[0-9]{1,60}") {
            let text = format!("0.{fraction}");
            prop_assert_eq!(stored(&text, None), Ok(text));
        }
    }
}
