//! Moments as PostgreSQL prints a timestamptz in UTC, by a reckoning of the tests' own.

/// Microseconds since 1970 of a text as ISO 8601 has it: a date, with or without a time, a fraction, a zone (UTC where
/// there is none).
pub(crate) fn parse(text: &str) -> Option<i64> {
    let (day, time) = text.split_once(['T', ' ']).unwrap_or((text, "00:00:00"));
    let mut parts = day.split('-');
    let mut number = || parts.next()?.parse::<i64>().ok();
    let (year, month, day) = (number()?, number()?, number()?);
    if !(1..=12).contains(&month) || !(1..=days_in(year, month)).contains(&day) || parts.next().is_some() {
        return None;
    }
    let (time, shift) = match (time.strip_suffix('Z'), time.find(['+', '-'])) {
        (Some(time), _) => (time, 0),
        (None, None) => (time, 0),
        (None, Some(place)) => {
            let (hours, minutes) = time[place + 1..].split_once(':')?;
            let shift = hours.parse::<i64>().ok()? * 60 + minutes.parse::<i64>().ok()?;
            (&time[..place], if time[place..].starts_with('-') { -shift } else { shift })
        }
    };
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut parts = time.split(':');
    let mut number = |limit: i64| parts.next()?.parse::<i64>().ok().filter(|part| *part < limit);
    let seconds = number(24)? * 3600 + number(60)? * 60 + number(60)? - shift * 60;
    let micros: i64 = format!("{fraction:0<6}").parse().ok()?;
    Some((days_from_civil(year, month, day) * 86_400 + seconds) * 1_000_000 + micros)
}

/// `2025-09-01 10:14:35.12+00`.
pub(crate) fn text(microseconds: i64) -> String {
    let (seconds, micros) = (microseconds.div_euclid(1_000_000), microseconds.rem_euclid(1_000_000));
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil_from_days(days);
    let time = format!("{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60);
    let fraction = format!(".{micros:06}");
    let fraction = if micros == 0 { "" } else { fraction.trim_end_matches('0') };
    format!("{year:04}-{month:02}-{day:02} {time}{fraction}+00")
}

fn days_in(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    [31, 28 + i64::from(leap), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][month as usize - 1]
}

/// Years begin in March here, so that the leap day is the last of a year.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month > 2 { year } else { year - 1 };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

#[test]
fn moments_are_reckoned_as_the_calendar_has_them() {
    for (given, printed) in [
        ("1970-01-01", "1970-01-01 00:00:00+00"),
        ("1969-12-31T23:59:59.5Z", "1969-12-31 23:59:59.5+00"),
        ("2024-02-29T12:00:00+02:00", "2024-02-29 10:00:00+00"),
        ("2025-09-01T10:14:35.120", "2025-09-01 10:14:35.12+00"),
    ] {
        assert_eq!(parse(given).map(text).as_deref(), Some(printed));
    }
    assert_eq!(parse("2025-02-29"), None);
    assert_eq!(text(1_700_000_000_000 * 1_000_000), "55840-11-08 22:13:20+00");
}
