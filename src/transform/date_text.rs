//! Dates and moments in text, by ISO 8601 or by a format of the operator's own.

use super::fault::Fault;
use super::time::{day_number, digits};
use crate::config::{DateFormat, DatePart};
use crate::domain::Reason;

const MICROSECONDS_PER_SECOND: i64 = 1_000_000;
const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];
const WEEKDAYS: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];

fn invalid() -> Fault {
    Fault::new(Reason::InvalidDate, "the text is not an ISO 8601 date, or date and time")
}

/// A calendar moment in parts. Without a zone it is in UTC.
#[derive(Debug, Default)]
struct Parts {
    year: i64,
    month: i64,
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
    nanoseconds: i64,
    offset_minutes: i64,
}

impl Parts {
    /// Microseconds since 1970 UTC. A leap second has no place in PostgreSQL's time.
    fn moment(&self, invalid: impl Fn() -> Fault) -> Result<i128, Fault> {
        let days = day_number(self.year, self.month, self.day).ok_or_else(&invalid)?;
        if self.hour > 23 || self.minute > 59 || self.second > 59 {
            return Err(invalid());
        }
        if self.nanoseconds % 1000 != 0 {
            return Err(Fault::not_exact("the text has digits below the microsecond"));
        }
        let minutes = self.hour * 60 + self.minute - self.offset_minutes;
        let seconds = days * 86_400 + minutes * 60 + self.second;
        Ok(i128::from(seconds * MICROSECONDS_PER_SECOND + self.nanoseconds / 1000))
    }
}

/// A day alone, or with a time of day; without a zone in UTC. Microseconds since 1970 UTC.
pub(super) fn parse_iso8601(text: &[u8]) -> Result<i128, Fault> {
    let mut cursor = Cursor { rest: text };
    let read = || -> Option<Parts> {
        let mut parts = Parts { year: cursor.number(4, 4)?, ..Parts::default() };
        cursor.byte(b'-')?;
        parts.month = cursor.number(2, 2)?;
        cursor.byte(b'-')?;
        parts.day = cursor.number(2, 2)?;
        if cursor.rest.is_empty() {
            return Some(parts);
        }
        cursor.byte(b'T').or_else(|| cursor.byte(b't')).or_else(|| cursor.byte(b' '))?;
        parts.hour = cursor.number(2, 2)?;
        cursor.byte(b':')?;
        parts.minute = cursor.number(2, 2)?;
        if cursor.byte(b':').is_some() {
            parts.second = cursor.number(2, 2)?;
            if cursor.byte(b'.').is_some() {
                parts.nanoseconds = cursor.fraction()?;
            }
        }
        if !cursor.rest.is_empty() {
            parts.offset_minutes = cursor.zone()?;
        }
        cursor.rest.is_empty().then_some(parts)
    }();
    read.ok_or_else(invalid)?.moment(invalid)
}

/// By the first format that can read the text.
pub(super) fn parse(formats: &[DateFormat], text: &[u8]) -> Result<i128, Fault> {
    let mut fault = None;
    for format in formats {
        match parse_one(format, text) {
            Ok(moment) => return Ok(moment),
            Err(worse) if worse.reason == Reason::NotExact => fault = Some(worse),
            Err(worse) => fault = fault.or(Some(worse)),
        }
    }
    Err(fault.unwrap_or_else(unread))
}

fn unread() -> Fault {
    Fault::new(Reason::InvalidDate, "the text is not a date in any of the column's formats")
}

fn parse_one(format: &DateFormat, text: &[u8]) -> Result<i128, Fault> {
    let mut parts = Parts::default();
    let mut cursor = Cursor { rest: text };
    let mut half_day = None;
    for part in format.parts() {
        cursor.part(*part, &mut parts, &mut half_day).ok_or_else(unread)?;
    }
    if !cursor.rest.is_empty() {
        return Err(unread());
    }
    if let Some(is_afternoon) = half_day {
        if !(1..=12).contains(&parts.hour) {
            return Err(unread());
        }
        parts.hour = parts.hour % 12 + if is_afternoon { 12 } else { 0 };
    }
    parts.moment(unread)
}

struct Cursor<'a> {
    rest: &'a [u8],
}

impl Cursor<'_> {
    fn part(&mut self, part: DatePart, into: &mut Parts, half_day: &mut Option<bool>) -> Option<()> {
        match part {
            DatePart::Literal(character) => {
                let mut buffer = [0; 4];
                self.rest = self.rest.strip_prefix(character.encode_utf8(&mut buffer).as_bytes())?;
            }
            DatePart::Year => into.year = self.number(4, 4)?,
            DatePart::ShortYear => {
                let year = self.number(2, 2)?;
                into.year = if year >= 69 { 1900 + year } else { 2000 + year };
            }
            DatePart::Month => into.month = self.number(1, 2)?,
            DatePart::MonthName => into.month = self.name(&MONTHS)? + 1,
            DatePart::Day => {
                // `%e` pads with a blank.
                if let [b' ', digit, ..] = self.rest
                    && digit.is_ascii_digit()
                {
                    self.rest = &self.rest[1..];
                }
                into.day = self.number(1, 2)?;
            }
            DatePart::Weekday => {
                self.name(&WEEKDAYS)?;
            }
            DatePart::Hour | DatePart::Hour12 => into.hour = self.number(1, 2)?,
            DatePart::HalfDay => *half_day = Some(self.name(&["am", "pm"])? == 1),
            DatePart::Minute => into.minute = self.number(1, 2)?,
            DatePart::Second => into.second = self.number(1, 2)?,
            DatePart::Fraction => into.nanoseconds = self.fraction()?,
            DatePart::Zone => into.offset_minutes = self.zone()?,
        }
        Some(())
    }

    fn byte(&mut self, wanted: u8) -> Option<()> {
        self.rest = self.rest.strip_prefix(&[wanted])?;
        Some(())
    }

    /// As many digits as there are, from `least` to `most`.
    fn number(&mut self, least: usize, most: usize) -> Option<i64> {
        let length = self.rest.iter().take(most).take_while(|byte| byte.is_ascii_digit()).count();
        let (number, rest) = self.rest.split_at_checked(length).filter(|_| length >= least)?;
        self.rest = rest;
        digits(number)
    }

    /// One to nine digits, as nanoseconds.
    fn fraction(&mut self) -> Option<i64> {
        let before = self.rest.len();
        let fraction = self.number(1, 9)?;
        let length = before - self.rest.len();
        Some(fraction * 10_i64.pow(9 - length as u32))
    }

    /// Minutes east of UTC.
    fn zone(&mut self) -> Option<i64> {
        if self.byte(b'Z').or_else(|| self.byte(b'z')).is_some() {
            return Some(0);
        }
        let sign = match self.byte(b'-') {
            Some(()) => -1,
            None => self.byte(b'+').map(|()| 1)?,
        };
        let hours = self.number(2, 2)?;
        let minutes = match self.rest {
            [] => 0,
            [b':', ..] => {
                self.byte(b':')?;
                self.number(2, 2)?
            }
            _ => self.number(2, 2)?,
        };
        (hours < 24 && minutes < 60).then_some(sign * (hours * 60 + minutes))
    }

    /// One of these names in any case, whole or its first three letters; its place.
    fn name(&mut self, names: &[&str]) -> Option<i64> {
        let length = self.rest.iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
        let (word, rest) = self.rest.split_at(length);
        let place = names.iter().position(|name| {
            word.eq_ignore_ascii_case(name.as_bytes())
                || name.len() > 3 && word.eq_ignore_ascii_case(&name.as_bytes()[..3])
        })?;
        self.rest = rest;
        Some(place as i64)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::time::parse_rfc3339;
    use super::*;

    fn iso(text: &str) -> Result<i128, Reason> {
        parse_iso8601(text.as_bytes()).map_err(|fault| fault.reason)
    }

    fn formatted(formats: &[&str], text: &str) -> Result<i128, Reason> {
        let formats: Vec<_> = formats.iter().map(|format| DateFormat::parse(format).unwrap()).collect();
        parse(&formats, text.as_bytes()).map_err(|fault| fault.reason)
    }

    fn rfc(text: &str) -> Result<i128, Reason> {
        parse_rfc3339(text.as_bytes()).map_err(|fault| fault.reason)
    }

    #[test]
    fn iso_8601_may_leave_out_zone_seconds_and_time() {
        for (text, same) in [
            ("2025-09-01", "2025-09-01T00:00:00Z"),
            ("2025-09-01T10:14", "2025-09-01T10:14:00Z"),
            ("2025-09-01 10:14:35", "2025-09-01T10:14:35Z"),
            ("2025-09-01T10:14:35.5", "2025-09-01T10:14:35.500Z"),
            ("2025-09-01T10:14:35.123456", "2025-09-01T10:14:35.123456Z"),
            ("2025-09-01T10:14:35+0200", "2025-09-01T10:14:35+02:00"),
            ("2025-09-01T10:14:35-02", "2025-09-01T10:14:35-02:00"),
            ("2025-09-01T10:14:35z", "2025-09-01T10:14:35Z"),
        ] {
            assert_eq!(iso(text), Ok(rfc(same).unwrap()), "{text}");
        }
    }

    #[test]
    fn what_is_no_day_or_no_time_is_refused() {
        for text in [
            "",
            "2025",
            "2025-09",
            "2025-9-1",
            "20250901",
            "2025-13-01",
            "2025-02-29",
            "2025-09-01T",
            "2025-09-01T10",
            "2025-09-01T24:00",
            "2025-09-01T10:14:60",
            "2025-09-01T10:14:35.",
            "2025-09-01Z",
            "2025-09-01T10:14:35 Z",
            "2025-09-01T10:14:35+2",
            "01/11/2025",
            " 2025-09-01",
        ] {
            assert_eq!(iso(text), Err(Reason::InvalidDate), "{text}");
        }
        assert_eq!(iso("2025-09-01T10:14:35.1234567"), Err(Reason::NotExact));
    }

    #[test]
    fn formats_are_tried_in_order() {
        let formats = ["%Y-%m-%d", "%d.%m.%Y", "%d/%m/%Y"];
        let day = Ok(rfc("2025-11-02T00:00:00Z").unwrap());
        for text in ["2025-11-02", "02.11.2025", "2.11.2025", "2/11/2025"] {
            assert_eq!(formatted(&formats, text), day, "{text}");
        }
        for text in ["2025-11-02 ", "2025/11/02", "31/11/2025", "", "13.13.2025"] {
            assert_eq!(formatted(&formats, text), Err(Reason::InvalidDate), "{text}");
        }
    }

    #[test]
    fn a_format_has_names_halves_of_days_and_zones() {
        let moment = |text: &str| Ok(rfc(text).unwrap());
        assert_eq!(
            formatted(&["%a, %d %b %Y %T %z"], "Sun, 02 Nov 2025 23:04:05 +0130"),
            moment("2025-11-02T21:34:05Z")
        );
        assert_eq!(
            formatted(&["%B %e, %Y %I:%M %p"], "november  2, 2025 12:05 am"),
            moment("2025-11-02T00:05:00Z")
        );
        assert_eq!(
            formatted(&["%B %e, %Y %I:%M %p"], "Nov 2, 2025 12:05 PM"),
            moment("2025-11-02T12:05:00Z")
        );
        assert_eq!(formatted(&["%B %e, %Y %I:%M %p"], "Nov 2, 2025 13:05 PM"), Err(Reason::InvalidDate));
        assert_eq!(formatted(&["%m/%d/%y %H:%M:%S.%f"], "11/2/69 1:2:3.5"), moment("1969-11-02T01:02:03.5Z"));
        assert_eq!(formatted(&["%m/%d/%y"], "11/02/68"), moment("2068-11-02T00:00:00Z"));
    }

    proptest! {
        #[test]
        fn what_rfc_3339_reads_iso_8601_reads_the_same(text in "20[0-9]{2}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,7})?(Z|[+-][0-2][0-9]:[0-5][0-9])") {
            prop_assert_eq!(iso(&text), rfc(&text));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[-0-9TZ:.+ /a-z]{0,32}") {
            let _ = iso(&text);
            let _ = formatted(&["%Y-%m-%d %H:%M", "%a %d %b %y", "%F%z"], &text);
        }
    }
}
