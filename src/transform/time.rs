//! Moments: milliseconds and microseconds since 1970, RFC 3339 text, PostgreSQL's epoch of 2000.

use super::fault::Fault;
use crate::domain::{ColumnType, Reason};

const MICROSECONDS_PER_SECOND: i128 = 1_000_000;
const MICROSECONDS_PER_DAY: i128 = 86_400 * MICROSECONDS_PER_SECOND;
/// 2000-01-01 in days since 1970.
const POSTGRES_EPOCH_DAYS: i128 = 10_957;
/// PostgreSQL's timestamps, in microseconds since 2000: from 4714-11-24 BC to before 294277 AD.
const TIMESTAMP_RANGE: std::ops::Range<i128> = -211_813_488_000_000_000..9_223_371_331_200_000_000;
/// PostgreSQL's dates, in days since 2000: from 4714-11-24 BC to before 5874898-06-04 AD.
const DATE_RANGE: std::ops::Range<i128> = -2_451_545..2_145_031_949;

/// Writes a moment, in microseconds since 1970 UTC, into a date or timestamp column.
pub(super) fn write(microseconds: i128, column: &ColumnType, out: &mut Vec<u8>) -> Result<(), Fault> {
    match column {
        ColumnType::Date => write_date(microseconds, out),
        ColumnType::Timestamp { precision } | ColumnType::TimestampTz { precision } => {
            write_timestamp(microseconds, *precision, out)
        }
        _ => Err(Fault::wrong_type("a moment does not fit a column that is no date or timestamp")),
    }
}

fn write_date(microseconds: i128, out: &mut Vec<u8>) -> Result<(), Fault> {
    let days = microseconds.div_euclid(MICROSECONDS_PER_DAY) - POSTGRES_EPOCH_DAYS;
    if !DATE_RANGE.contains(&days) {
        return Err(Fault::out_of_range("the date is outside of PostgreSQL's range"));
    }
    if microseconds.rem_euclid(MICROSECONDS_PER_DAY) != 0 {
        return Err(Fault::not_exact("the moment is not midnight UTC, and the column holds days"));
    }
    out.extend_from_slice(&(days as i32).to_be_bytes());
    Ok(())
}

fn write_timestamp(microseconds: i128, precision: u8, out: &mut Vec<u8>) -> Result<(), Fault> {
    // A Decimal128 of seconds can come close to the least i128.
    let since_2000 = microseconds
        .checked_sub(POSTGRES_EPOCH_DAYS * MICROSECONDS_PER_DAY)
        .filter(|since_2000| TIMESTAMP_RANGE.contains(since_2000))
        .ok_or_else(|| Fault::out_of_range("the moment is outside of PostgreSQL's range"))?;
    let since_2000 = since_2000 as i64;
    let unit = 10_i64.pow(u32::from(6_u8.saturating_sub(precision)));
    if since_2000.rem_euclid(unit) != 0 {
        return Err(Fault::not_exact(format!(
            "the moment has more fractional digits than the {precision} the column keeps"
        )));
    }
    out.extend_from_slice(&since_2000.to_be_bytes());
    Ok(())
}

/// The moment without what the column does not keep of it: the time of a day, digits of a second.
pub(super) fn floor(microseconds: i128, column: &ColumnType) -> i128 {
    let unit = match column {
        ColumnType::Date => MICROSECONDS_PER_DAY,
        ColumnType::Timestamp { precision } | ColumnType::TimestampTz { precision } => {
            10_i128.pow(u32::from(6_u8.saturating_sub(*precision)))
        }
        _ => 1,
    };
    microseconds.div_euclid(unit).saturating_mul(unit)
}

/// The first or the last moment that the column holds.
pub(super) fn end_of_range(first: bool, column: &ColumnType) -> i128 {
    let epoch = POSTGRES_EPOCH_DAYS * MICROSECONDS_PER_DAY;
    let range = match column {
        ColumnType::Date => DATE_RANGE.start * MICROSECONDS_PER_DAY..DATE_RANGE.end * MICROSECONDS_PER_DAY,
        _ => TIMESTAMP_RANGE,
    };
    epoch + if first { range.start } else { floor(range.end - 1, column) }
}

/// RFC 3339 to microseconds since 1970 UTC.
pub(super) fn parse_rfc3339(text: &[u8]) -> Result<i128, Fault> {
    let invalid = || Fault::new(Reason::InvalidDate, "the text is not an RFC 3339 date and time");
    let &[y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2, b'T' | b't', ref rest @ ..] = text else {
        return Err(invalid());
    };
    let &[h1, h2, b':', n1, n2, b':', s1, s2, ref rest @ ..] = rest else {
        return Err(invalid());
    };
    let two = |high: u8, low: u8| digits(&[high, low]).ok_or_else(invalid);
    let year = digits(&[y1, y2, y3, y4]).ok_or_else(invalid)?;
    let (month, day) = (two(m1, m2)?, two(d1, d2)?);
    let (hour, minute, second) = (two(h1, h2)?, two(n1, n2)?, two(s1, s2)?);
    let days = day_number(year, month, day).ok_or_else(invalid)?;
    // A leap second has no place in PostgreSQL's time: 60 is not taken for the next minute.
    if hour > 23 || minute > 59 || second > 59 {
        return Err(invalid());
    }
    let (nanoseconds, zone) = match rest {
        [b'.', rest @ ..] => {
            let length = rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
            if length == 0 || length > 9 {
                return Err(invalid());
            }
            let fraction = digits(&rest[..length]).ok_or_else(invalid)?;
            (fraction * 10_i64.pow(9 - length as u32), &rest[length..])
        }
        _ => (0, rest),
    };
    let offset_minutes = match *zone {
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (hours, minutes) = (two(h1, h2)?, two(m1, m2)?);
            if hours > 23 || minutes > 59 {
                return Err(invalid());
            }
            let offset = hours * 60 + minutes;
            if sign == b'-' { -offset } else { offset }
        }
        _ => return Err(invalid()),
    };
    if nanoseconds % 1000 != 0 {
        return Err(Fault::not_exact("the text has digits below the microsecond"));
    }
    let seconds = days * 86_400 + hour * 3_600 + minute * 60 + second - offset_minutes * 60;
    Ok(i128::from(seconds) * MICROSECONDS_PER_SECOND + i128::from(nanoseconds / 1000))
}

/// A day as `2025-09-01`, to microseconds since 1970 UTC.
pub(super) fn parse_day(text: &[u8]) -> Option<i128> {
    let &[y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = text else {
        return None;
    };
    let days = day_number(digits(&[y1, y2, y3, y4])?, digits(&[m1, m2])?, digits(&[d1, d2])?)?;
    Some(i128::from(days) * MICROSECONDS_PER_DAY)
}

/// How many digits of a second a text shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fraction {
    Always,
    /// Only when it is not zero.
    Needed,
}

/// `2025-09-01T10:14:35.123Z`. `None` outside of the years 0 to 9999, which RFC 3339 cannot write.
pub(super) fn append_rfc3339(milliseconds: i64, fraction: Fraction, out: &mut Vec<u8>) -> Option<()> {
    const MILLISECONDS_PER_DAY: i64 = 86_400_000;
    let (days, rest) =
        (milliseconds.div_euclid(MILLISECONDS_PER_DAY), milliseconds.rem_euclid(MILLISECONDS_PER_DAY));
    // Years -1 to 10000, roughly: far from overflow in what follows.
    if !(-719_893..2_932_897).contains(&days) {
        return None;
    }
    let (year, month, day) = civil(days);
    if !(0..=9999).contains(&year) {
        return None;
    }
    let (milliseconds, seconds) = (rest % 1000, rest / 1000);
    let mut text = *b"0000-00-00T00:00:00.000Z";
    for (place, value) in [
        (0, year / 100),
        (2, year % 100),
        (5, month),
        (8, day),
        (11, seconds / 3600),
        (14, seconds / 60 % 60),
        (17, seconds % 60),
        (20, milliseconds / 10),
    ] {
        text[place] = b'0' + (value / 10) as u8;
        text[place + 1] = b'0' + (value % 10) as u8;
    }
    text[22] = b'0' + (milliseconds % 10) as u8;
    out.extend_from_slice(&text);
    if milliseconds == 0 && fraction == Fraction::Needed {
        out.truncate(out.len() - 5);
        out.push(b'Z');
    }
    Some(())
}

/// A binary `date` as text: days since 2000.
pub(super) fn append_sql_date(days: i32, out: &mut Vec<u8>) {
    let is_bc = append_day(i64::from(days) + POSTGRES_EPOCH_DAYS as i64, out);
    append_era(is_bc, out);
}

/// A binary timestamp as text: microseconds since 2000. The zone's text is put behind it.
pub(super) fn append_sql_timestamp(microseconds: i64, zone: &str, out: &mut Vec<u8>) {
    const MICROSECONDS_PER_DAY: i64 = super::time::MICROSECONDS_PER_DAY as i64;
    let (days, rest) =
        (microseconds.div_euclid(MICROSECONDS_PER_DAY), microseconds.rem_euclid(MICROSECONDS_PER_DAY));
    let is_bc = append_day(days + POSTGRES_EPOCH_DAYS as i64, out);
    out.push(b' ');
    let (seconds, fraction) = (rest / 1_000_000, rest % 1_000_000);
    append_digits(seconds / 3600, 2, out);
    out.push(b':');
    append_digits(seconds / 60 % 60, 2, out);
    out.push(b':');
    append_digits(seconds % 60, 2, out);
    out.push(b'.');
    append_digits(fraction, 6, out);
    out.extend_from_slice(zone.as_bytes());
    append_era(is_bc, out);
}

/// Year, month and day; whether the year is before Christ, which has no year 0.
fn append_day(days: i64, out: &mut Vec<u8>) -> bool {
    let (year, month, day) = civil(days);
    let is_bc = year < 1;
    let year = if is_bc { 1 - year } else { year };
    append_digits(year, 4.max(year.ilog10() + 1), out);
    out.push(b'-');
    append_digits(month, 2, out);
    out.push(b'-');
    append_digits(day, 2, out);
    is_bc
}

fn append_era(is_bc: bool, out: &mut Vec<u8>) {
    if is_bc {
        out.extend_from_slice(b" BC");
    }
}

fn append_digits(value: i64, count: u32, out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + count as usize, 0);
    let mut rest = value.unsigned_abs();
    for digit in out[start..].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
}

pub(super) fn digits(text: &[u8]) -> Option<i64> {
    text.iter()
        .try_fold(0_i64, |value, &byte| byte.is_ascii_digit().then(|| value * 10 + i64::from(byte - b'0')))
}

/// Days since 1970 of a day in the Gregorian calendar, if there is such a day.
pub(super) fn day_number(year: i64, month: i64, day: i64) -> Option<i64> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 => 28 + i64::from(leap),
        _ => return None,
    };
    if !(1..=length).contains(&day) {
        return None;
    }
    // Years that begin in March put the leap day last (Hinnant, "chrono-compatible date algorithms").
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468)
}

/// The inverse of `day_number`.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(milliseconds: i64, fraction: Fraction) -> Option<String> {
        let mut out = Vec::new();
        append_rfc3339(milliseconds, fraction, &mut out)?;
        Some(String::from_utf8(out).unwrap())
    }

    #[test]
    fn moments_are_written() {
        assert_eq!(text(0, Fraction::Needed).unwrap(), "1970-01-01T00:00:00Z");
        assert_eq!(text(-1, Fraction::Needed).unwrap(), "1969-12-31T23:59:59.999Z");
        assert_eq!(text(951_827_696_000, Fraction::Always).unwrap(), "2000-02-29T12:34:56.000Z");
        assert_eq!(text(253_402_300_799_999, Fraction::Needed).unwrap(), "9999-12-31T23:59:59.999Z");
        assert_eq!(text(-62_167_219_200_000, Fraction::Needed).unwrap(), "0000-01-01T00:00:00Z");
        for outside in [253_402_300_800_000, -62_167_219_200_001, i64::MIN, i64::MAX] {
            assert_eq!(text(outside, Fraction::Needed), None);
        }
    }

    #[test]
    fn rfc3339_is_read() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1970-01-01t01:00:00.5+01:00", 500_000),
            ("1969-12-31T23:59:59.999999Z", -1),
            ("2025-09-01T10:14:35.123Z", 1_756_721_675_123_000),
            ("2025-09-01T10:14:35.123456000Z", 1_756_721_675_123_456),
            ("2024-02-29T00:00:00-23:59", 1_709_164_800_000_000 + 86_340_000_000),
        ] {
            assert_eq!(parse_rfc3339(text.as_bytes()), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_not_rfc3339_is_refused() {
        for text in [
            "",
            "2025-09-01",
            "2025-09-01 10:14:35Z",
            "2025-09-01T10:14:35",
            "2025-09-01T10:14Z",
            "2025-13-01T00:00:00Z",
            "2025-00-01T00:00:00Z",
            "2025-02-29T00:00:00Z",
            "1900-02-29T00:00:00Z",
            "2025-04-31T00:00:00Z",
            "2025-09-01T24:00:00Z",
            "2016-12-31T23:59:60Z",
            "2025-09-01T10:14:35.Z",
            "2025-09-01T10:14:35.0000000000Z",
            "2025-09-01T10:14:35+0100",
            "2025-09-01T10:14:35+24:00",
            "2025-09-01T10:14:35Z ",
            "+025-09-01T10:14:35Z",
        ] {
            assert_eq!(parse_rfc3339(text.as_bytes()).unwrap_err().reason, Reason::InvalidDate, "{text}");
        }
        let below = parse_rfc3339(b"2025-09-01T10:14:35.1234567Z").unwrap_err();
        assert_eq!(below.reason, Reason::NotExact);
    }

    #[test]
    fn columns_take_what_they_can_hold() {
        let stored = |microseconds: i128, column: ColumnType| {
            let mut out = Vec::new();
            write(microseconds, &column, &mut out).map(|()| out).map_err(|fault| fault.reason)
        };
        let epoch = 946_684_800_000_000;
        assert_eq!(stored(epoch, ColumnType::Date), Ok(vec![0; 4]));
        assert_eq!(stored(epoch - 86_400_000_000, ColumnType::Date), Ok(vec![0xff; 4]));
        assert_eq!(stored(epoch + 1, ColumnType::Date), Err(Reason::NotExact));
        let milliseconds = ColumnType::Timestamp { precision: 3 };
        assert_eq!(stored(epoch + 1_000, milliseconds.clone()), Ok(1000_i64.to_be_bytes().to_vec()));
        assert_eq!(stored(epoch + 1, milliseconds), Err(Reason::NotExact));
        let zoned = ColumnType::TimestampTz { precision: 6 };
        assert_eq!(stored(epoch - 1, zoned.clone()), Ok(vec![0xff; 8]));
        let last = 9_223_371_331_199_999_999 + epoch;
        assert!(stored(last, zoned.clone()).is_ok());
        assert_eq!(stored(last + 1, zoned.clone()), Err(Reason::OutOfRange));
        let first = -211_813_488_000_000_000 + epoch;
        assert!(stored(first, zoned.clone()).is_ok());
        assert_eq!(stored(first - 1, zoned.clone()), Err(Reason::OutOfRange));
        assert_eq!(stored(i128::from(i64::MIN) * 1000, zoned), Err(Reason::OutOfRange));
        assert_eq!(stored(i128::from(i64::MAX) * 1000, ColumnType::Date), Err(Reason::OutOfRange));
    }

    proptest! {
        #[test]
        fn text_and_back(milliseconds in -62_167_219_200_000_i64..253_402_300_800_000) {
            for fraction in [Fraction::Always, Fraction::Needed] {
                let text = text(milliseconds, fraction).unwrap();
                prop_assert_eq!(parse_rfc3339(text.as_bytes()), Ok(i128::from(milliseconds) * 1000));
                let expected = bson::DateTime::from_millis(milliseconds).try_to_rfc3339_string().unwrap();
                prop_assert_eq!(
                    bson::DateTime::parse_rfc3339_str(&text).unwrap(),
                    bson::DateTime::parse_rfc3339_str(expected).unwrap()
                );
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[-0-9TZ:.+ ]{0,32}") {
            let _ = parse_rfc3339(text.as_bytes());
        }
    }
}
