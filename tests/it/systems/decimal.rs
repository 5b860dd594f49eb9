//! Numbers as `numeric(p,2)` prints them, by a reckoning of the tests' own.

use bson::Bson;

/// Rounded half away from zero to two places; `None` for what is no number, or has more than `digits` before the
/// point.
pub(crate) fn cents(value: &Bson, digits: u32) -> Option<String> {
    let text = match value {
        Bson::Int32(number) => number.to_string(),
        Bson::Int64(number) => number.to_string(),
        // The shortest text that gives the same double back, never with an exponent.
        Bson::Double(number) if number.is_finite() => number.to_string(),
        Bson::Decimal128(number) => number.to_string(),
        Bson::String(text) => text.clone(),
        _ => return None,
    };
    let (sign, rest) = text.strip_prefix('-').map_or(("", text.as_str()), |rest| ("-", rest));
    let (whole, fraction) = rest.split_once('.').unwrap_or((rest, ""));
    let number = |digits: &str| -> Option<u128> {
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let padded = format!("{fraction}000");
    // What is behind the thousandths decides nothing: half a cent goes up, whatever follows.
    number(&padded)?;
    let cents = (number(whole)? * 1000 + number(&padded[..3])? + 5) / 10;
    let sign = if cents == 0 { "" } else { sign };
    (cents < 100 * 10_u128.pow(digits)).then(|| format!("{sign}{}.{:02}", cents / 100, cents % 100))
}
