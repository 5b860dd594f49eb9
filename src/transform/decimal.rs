//! Exact decimal numbers: what int64, double, Decimal128 and number text have in common.

use std::io::Write;

use super::fault::Fault;
use super::walk::Value;
use crate::config::{Rounding, Scale};
use crate::domain::Reason;

/// Digits of a u128, with one to spare.
pub(super) type Buffer = [u8; 40];

/// The shortest text of a double in scientific notation has at most 24 bytes.
const DOUBLE_TEXT: usize = 32;

/// A finite number: digits × 10^exponent. No leading zeros; no digits at all for zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Decimal<'a> {
    pub(super) negative: bool,
    /// Values 0 to 9, most significant first. Trailing zeros are kept: 1.10 is not 1.1.
    pub(super) digits: &'a [u8],
    pub(super) exponent: i32,
}

/// A number as it came.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Number<'a> {
    Finite(Decimal<'a>),
    NaN,
    Infinity { negative: bool },
}

/// The decimal reading of a number; `None` if the value is not a number. A double that is a whole number
/// an int64 could hold is that number; others are read by the shortest text that gives the same double
/// back: 0.1 is 0.1.
pub(super) fn number<'a>(value: &Value<'_>, buffer: &'a mut Buffer) -> Option<Number<'a>> {
    Some(match *value {
        Value::Int32(int) => Number::Finite(from_int(i64::from(int), buffer)),
        Value::Int64(int) => Number::Finite(from_int(int, buffer)),
        Value::Double(double) if double.is_nan() => Number::NaN,
        Value::Double(double) if double.is_infinite() => Number::Infinity { negative: double < 0.0 },
        Value::Double(double) => Number::Finite(match whole_double(double) {
            Some(whole) => from_int(whole, buffer),
            None => from_double(double, buffer),
        }),
        Value::Decimal128(bits) => from_decimal128(bits, buffer),
        _ => return None,
    })
}

/// The int64 of exactly this value. -0.0 is 0.
pub(super) fn whole_double(value: f64) -> Option<i64> {
    // 2^63 itself is out of range, and exact as a double.
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    (value.fract() == 0.0 && (-LIMIT..LIMIT).contains(&value)).then_some(value as i64)
}

/// value × 10^shift by the decimal reading of `value`, where that is a whole number found without writing the
/// double out: most moments are. `None` says nothing.
pub(super) fn shifted(value: f64, shift: i32) -> Option<i64> {
    // Of decimals of at most 15 digits no two have the same double, and the shortest text of one that such a
    // decimal has is that decimal.
    const LIMIT: f64 = 1e17;
    let power = 10_f64.powi(shift);
    let product = value * power;
    if product.abs() >= LIMIT {
        return None;
    }
    let whole = product.round() as i64;
    let mut digits = whole;
    while digits != 0 && digits % 10 == 0 {
        digits /= 10;
    }
    let is_short = digits.unsigned_abs() < 10_u64.pow(15);
    (is_short && whole as f64 / power == value).then_some(whole)
}

fn from_int(value: i64, buffer: &mut Buffer) -> Decimal<'_> {
    from_coefficient(value < 0, u128::from(value.unsigned_abs()), 0, buffer)
}

fn from_coefficient(negative: bool, mut rest: u128, exponent: i32, buffer: &mut Buffer) -> Decimal<'_> {
    let mut start = buffer.len();
    // Two steps: division of 64 bits is several times faster.
    while rest > u128::from(u64::MAX) {
        start -= 1;
        buffer[start] = (rest % 10) as u8;
        rest /= 10;
    }
    let mut rest = rest as u64;
    while rest > 0 {
        start -= 1;
        buffer[start] = (rest % 10) as u8;
        rest /= 10;
    }
    Decimal { negative, digits: &buffer[start..], exponent }
}

fn from_double(value: f64, buffer: &mut Buffer) -> Decimal<'_> {
    let mut text = [0; DOUBLE_TEXT];
    let mut rest = &mut text[..];
    // Cannot fail: the buffer is larger than any text; if it did, the digits would be cut, not wrong bytes.
    let _ = write!(rest, "{:e}", value.abs());
    let unused = rest.len();
    let text = &text[..DOUBLE_TEXT - unused];
    let mut length = 0;
    let mut fraction = 0;
    let mut seen_point = false;
    let mut exponent = 0;
    for (index, &byte) in text.iter().enumerate() {
        match byte {
            b'0'..=b'9' => {
                if length > 0 || byte != b'0' {
                    buffer[length] = byte - b'0';
                    length += 1;
                }
                fraction += i32::from(seen_point);
            }
            b'.' => seen_point = true,
            _ => {
                exponent = std::str::from_utf8(&text[index + 1..])
                    .ok()
                    .and_then(|exponent| exponent.parse::<i32>().ok())
                    .unwrap_or(0);
                break;
            }
        }
    }
    Decimal { negative: value < 0.0, digits: &buffer[..length], exponent: exponent - fraction }
}

fn from_decimal128(bits: u128, buffer: &mut Buffer) -> Number<'_> {
    let negative = bits >> 127 == 1;
    match (bits >> 122) & 0b1_1111 {
        0b1_1110 => Number::Infinity { negative },
        0b1_1111 => Number::NaN,
        combination => {
            let (coefficient, exponent) = if combination >> 3 == 0b11 {
                // The large form: its coefficients are all out of range, and stand for zero.
                (0, (bits >> 111) & 0x3fff)
            } else {
                (bits & ((1 << 113) - 1), (bits >> 113) & 0x3fff)
            };
            let coefficient = if coefficient < 10_u128.pow(34) { coefficient } else { 0 };
            Number::Finite(from_coefficient(negative, coefficient, exponent as i32 - 6176, buffer))
        }
    }
}

/// Number text: sign, digits with an optional point, exponent. The digits go to `digits`.
pub(super) fn parse<'a>(text: &[u8], digits: &'a mut Vec<u8>) -> Option<Decimal<'a>> {
    let (negative, text) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    let (mantissa, exponent) = match text.iter().position(|byte| matches!(byte, b'e' | b'E')) {
        Some(at) => (&text[..at], parse_exponent(&text[at + 1..])?),
        None => (text, 0),
    };
    let (whole, fraction) = match mantissa.iter().position(|&byte| byte == b'.') {
        Some(at) => (&mantissa[..at], &mantissa[at + 1..]),
        None => (mantissa, &[][..]),
    };
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    digits.clear();
    for &byte in whole.iter().chain(fraction) {
        match byte {
            b'0' if digits.is_empty() => {}
            b'0'..=b'9' => digits.push(byte - b'0'),
            _ => return None,
        }
    }
    let exponent = exponent - i64::try_from(fraction.len()).ok()?;
    let exponent = i32::try_from(exponent).ok()?;
    Some(Decimal { negative, digits, exponent })
}

fn parse_exponent(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").or_else(|| text.strip_prefix(b"+")).unwrap_or(text);
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    // Beyond any column's range, and still far from overflow.
    const LIMIT: i64 = 1_000_000_000;
    let value = std::str::from_utf8(digits).ok()?.parse().unwrap_or(LIMIT).min(LIMIT);
    Some(if text.starts_with(b"-") { -value } else { value })
}

impl Decimal<'_> {
    pub(super) fn is_zero(&self) -> bool {
        self.digits.is_empty()
    }

    /// Without trailing zeros.
    pub(super) fn stripped(self) -> Self {
        let kept = self.digits.iter().rposition(|&digit| digit != 0).map_or(0, |last| last + 1);
        let removed = i32::try_from(self.digits.len() - kept).unwrap_or(i32::MAX);
        Self { digits: &self.digits[..kept], exponent: self.exponent.saturating_add(removed), ..self }
    }

    /// The number × 10^shift as a whole number that fits i128.
    pub(super) fn whole(self, shift: i32) -> Result<i128, Fault> {
        let stripped = self.stripped();
        if stripped.is_zero() {
            return Ok(0);
        }
        let exponent = stripped.exponent.saturating_add(shift);
        if exponent < 0 {
            return Err(Fault::not_exact("the number has a fraction, and the column holds integers"));
        }
        let too_large = || Fault::new(Reason::OutOfRange, "the number is too large for the column");
        let scale = 10_i128.checked_pow(exponent.unsigned_abs()).ok_or_else(too_large)?;
        let mut whole = 0_i128;
        for &digit in stripped.digits {
            whole = whole
                .checked_mul(10)
                .and_then(|whole| whole.checked_add(i128::from(digit)))
                .ok_or_else(too_large)?;
        }
        let whole = whole.checked_mul(scale).ok_or_else(too_large)?;
        Ok(if self.negative { -whole } else { whole })
    }

    /// Rounded to so many decimal places, and whether that made it another number.
    pub(super) fn rounded<'d>(self, scale: Scale, digits: &'d mut Vec<u8>) -> (Decimal<'d>, bool) {
        digits.clear();
        let least = -i32::from(scale.places);
        // How many digits at the end are beyond the last place.
        let beyond = usize::try_from(least.saturating_sub(self.exponent)).unwrap_or(0);
        if beyond == 0 {
            digits.extend_from_slice(self.digits);
            return (Decimal { negative: self.negative, digits, exponent: self.exponent }, false);
        }
        let (kept, cut) = self.digits.split_at(self.digits.len().saturating_sub(beyond));
        digits.extend_from_slice(kept);
        let altered = cut.iter().any(|&digit| digit != 0);
        // More digits beyond than there are: the first of them is a zero.
        let first = if beyond > self.digits.len() { 0 } else { cut.first().copied().unwrap_or(0) };
        let is_half = first == 5 && cut[1..].iter().all(|&digit| digit == 0);
        let up = match scale.rounding {
            Rounding::HalfEven if is_half => kept.last().is_some_and(|digit| digit % 2 == 1),
            Rounding::HalfEven | Rounding::HalfAwayFromZero => first >= 5,
        };
        if up {
            match digits.iter().rposition(|&digit| digit != 9) {
                Some(place) => {
                    digits[place] += 1;
                    digits[place + 1..].fill(0);
                }
                None => {
                    digits.fill(0);
                    digits.insert(0, 1);
                }
            }
        }
        (Decimal { negative: self.negative && !digits.is_empty(), digits, exponent: least }, altered)
    }

    /// The nearest double.
    pub(super) fn nearest_double(&self) -> f64 {
        self.scientific().parse().unwrap_or(f64::NAN)
    }

    /// The nearest real. Not by way of a double: rounding twice can end at another one.
    pub(super) fn nearest_single(&self) -> f32 {
        self.scientific().parse().unwrap_or(f32::NAN)
    }

    fn scientific(&self) -> String {
        let mut text = String::with_capacity(self.digits.len() + 16);
        if self.negative {
            text.push('-');
        }
        text.push('0');
        text.extend(self.digits.iter().map(|&digit| char::from(b'0' + digit)));
        text.push('e');
        text.push_str(&self.exponent.to_string());
        text
    }

    /// The double of exactly this value, if there is one.
    pub(super) fn exact_double(&self) -> Option<f64> {
        // No exact double has more fractional decimals than 1074, nor more whole digits than 309.
        let stripped = self.stripped();
        if stripped.is_zero() {
            return Some(if self.negative { -0.0 } else { 0.0 });
        }
        if stripped.exponent < -1074 || stripped.exponent > 309 {
            return None;
        }
        let double = stripped.nearest_double();
        if !double.is_finite() {
            return None;
        }
        let exact = format!("{:.1074}", double.abs());
        let mut digits = Vec::new();
        let exact = parse(exact.as_bytes(), &mut digits)?.stripped();
        (exact.digits == stripped.digits && exact.exponent == stripped.exponent).then_some(double)
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use bson::Decimal128;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_moment_found_the_short_way_is_the_one_of_the_decimal_reading(
            value in prop_oneof![
                any::<f64>().prop_filter("finite", |value| value.is_finite()),
                (any::<i32>(), 0..7).prop_map(|(digits, power)| f64::from(digits) / 10_f64.powi(power)),
                (any::<i64>(), 0..12).prop_map(|(digits, power)| digits as f64 / 10_f64.powi(power)),
                (0_i64..4_000_000_000_000_000).prop_map(|microseconds| microseconds as f64 / 1e6),
            ],
            shift in prop_oneof![Just(3), Just(6)],
        ) {
            let mut buffer = [0; 40];
            let Some(Number::Finite(decimal)) = number(&Value::Double(value), &mut buffer) else { panic!() };
            if let Some(whole) = shifted(value, shift) {
                prop_assert_eq!(decimal.whole(shift), Ok(i128::from(whole)));
            }
        }
    }

    #[test]
    fn usual_moments_are_found_the_short_way() {
        assert_eq!(shifted(1_600_000_000.25, 6), Some(1_600_000_000_250_000));
        assert_eq!(shifted(-0.1, 6), Some(-100_000));
        assert_eq!(shifted(1_600_000_000_123.0, 3), Some(1_600_000_000_123_000));
        assert_eq!(shifted(0.000_000_1, 6), None);
    }

    fn decimal128(text: &str) -> Value<'static> {
        Value::Decimal128(u128::from_le_bytes(Decimal128::from_str(text).unwrap().bytes()))
    }

    fn read(value: Value<'_>) -> (bool, Vec<u8>, i32) {
        let mut buffer = [0; 40];
        match number(&value, &mut buffer) {
            Some(Number::Finite(Decimal { negative, digits, exponent })) => {
                (negative, digits.to_vec(), exponent)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn numbers_are_read_exactly() {
        assert_eq!(read(Value::Int64(i64::MIN)).1.len(), 19);
        assert_eq!(read(Value::Int32(-120)), (true, vec![1, 2, 0], 0));
        assert_eq!(read(Value::Double(0.1)), (false, vec![1], -1));
        assert_eq!(read(Value::Double(-1234.5)), (true, vec![1, 2, 3, 4, 5], -1));
        assert_eq!(read(Value::Double(1e300)), (false, vec![1], 300));
        assert_eq!(read(Value::Double(5e-324)), (false, vec![5], -324));
        assert_eq!(read(Value::Double(-0.0)), (false, vec![], 0));
        let two_to_60 = read(Value::Int64(1 << 60));
        assert_eq!(read(Value::Double(2_f64.powi(60))), two_to_60);
        assert_eq!(read(Value::Double(1e23)), (false, vec![1], 23));
        assert_eq!(read(decimal128("1.10")), (false, vec![1, 1, 0], -2));
        assert_eq!(read(decimal128("-1E+3")), (true, vec![1], 3));
        assert_eq!(read(decimal128("1E-6176")), (false, vec![1], -6176));
        let large = "9999999999999999999999999999999999E+6111";
        assert_eq!(read(decimal128(large)), (false, vec![9; 34], 6111));
    }

    #[test]
    fn coefficients_out_of_range_are_zero() {
        let bits = (0b11_u128 << 125) | 5;
        assert_eq!(read(Value::Decimal128(bits)).1, Vec::<u8>::new());
        let bits = (6176_u128 << 113) | 10_u128.pow(34);
        assert_eq!(read(Value::Decimal128(bits)).1, Vec::<u8>::new());
    }

    #[test]
    fn text_is_a_number_or_not() {
        let mut digits = Vec::new();
        for text in ["", "-", ".", "1e", "e5", "1,000", " 1", "1 ", "0x10", "NaN", "1.2.3", "--1", "1e+", "١"]
        {
            assert_eq!(parse(text.as_bytes(), &mut digits), None, "{text}");
        }
        for (text, expected) in [
            ("1", (false, vec![1], 0)),
            ("-001.50", (true, vec![1, 5, 0], -2)),
            ("+.5", (false, vec![5], -1)),
            ("5.", (false, vec![5], 0)),
            ("1E3", (false, vec![1], 3)),
            ("12e-30", (false, vec![1, 2], -30)),
            ("0.00", (false, vec![], -2)),
        ] {
            let decimal = parse(text.as_bytes(), &mut digits).unwrap();
            assert_eq!((decimal.negative, decimal.digits.to_vec(), decimal.exponent), expected, "{text}");
        }
        assert!(parse(b"1e99999999999999999999", &mut digits).unwrap().exponent > 1_000_000);
    }

    #[test]
    fn exact_doubles_are_told_from_near_ones() {
        let exact = |text: &str| parse(text.as_bytes(), &mut Vec::new()).unwrap().exact_double();
        assert_eq!(exact("0.5"), Some(0.5));
        assert_eq!(exact("-2.50"), Some(-2.5));
        assert_eq!(exact("0.1"), None);
        assert_eq!(exact("9007199254740993"), None);
        assert_eq!(exact("1e22"), Some(1e22));
        assert_eq!(exact("1e23"), None);
        assert_eq!(exact("1e400"), None);
        assert_eq!(exact("1e-400"), None);
    }

    proptest! {
        #[test]
        fn the_reading_of_a_double_gives_it_back(value in any::<f64>().prop_filter("finite", |v| v.is_finite())) {
            let mut buffer = [0; 40];
            let Some(Number::Finite(decimal)) = number(&Value::Double(value), &mut buffer) else {
                return Err(TestCaseError::fail("not finite"));
            };
            prop_assert_eq!(decimal.nearest_double(), value);
        }
    }
}
