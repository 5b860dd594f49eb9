//! Formats of dates in text, in the words of `strftime`.

/// A format that names a whole day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DateFormat {
    text: String,
    parts: Vec<DatePart>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatePart {
    Literal(char),
    /// `%Y`: four digits.
    Year,
    /// `%y`: two digits, 69 to 99 are of the last century.
    ShortYear,
    /// `%m`
    Month,
    /// `%b` and `%B`: in English, whole or its first three letters, in any case.
    MonthName,
    /// `%d` and `%e`
    Day,
    /// `%a` and `%A`: in English; only looked over.
    Weekday,
    /// `%H`
    Hour,
    /// `%I`
    Hour12,
    /// `%p`: AM or PM, in any case.
    HalfDay,
    /// `%M`
    Minute,
    /// `%S`
    Second,
    /// `%f`: one to nine digits.
    Fraction,
    /// `%z`: `Z`, `+hh:mm`, `+hhmm` or `+hh`.
    Zone,
}

impl DateFormat {
    /// # Errors
    /// What is wrong with the format.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let mut parts = Vec::new();
        let mut characters = text.chars();
        while let Some(character) = characters.next() {
            if character != '%' {
                parts.push(DatePart::Literal(character));
                continue;
            }
            match characters.next() {
                Some('Y') => parts.push(DatePart::Year),
                Some('y') => parts.push(DatePart::ShortYear),
                Some('m') => parts.push(DatePart::Month),
                Some('b' | 'B') => parts.push(DatePart::MonthName),
                Some('d' | 'e') => parts.push(DatePart::Day),
                Some('a' | 'A') => parts.push(DatePart::Weekday),
                Some('H') => parts.push(DatePart::Hour),
                Some('I') => parts.push(DatePart::Hour12),
                Some('p') => parts.push(DatePart::HalfDay),
                Some('M') => parts.push(DatePart::Minute),
                Some('S') => parts.push(DatePart::Second),
                Some('f') => parts.push(DatePart::Fraction),
                Some('z') => parts.push(DatePart::Zone),
                Some('%') => parts.push(DatePart::Literal('%')),
                Some('F') => parts.extend(Self::parse("%Y-%m-%d")?.parts),
                Some('T') => parts.extend([
                    DatePart::Hour,
                    DatePart::Literal(':'),
                    DatePart::Minute,
                    DatePart::Literal(':'),
                    DatePart::Second,
                ]),
                _ => return Err("must be made of %Y %y %m %b %d %a %H %I %p %M %S %f %z %F %T and %%"),
            }
        }
        let has = |wanted: &[DatePart]| parts.iter().filter(|part| wanted.contains(part)).count() == 1;
        if !(has(&[DatePart::Year, DatePart::ShortYear])
            && has(&[DatePart::Month, DatePart::MonthName])
            && has(&[DatePart::Day]))
        {
            return Err("must name one year, one month and one day");
        }
        let twice = parts
            .iter()
            .enumerate()
            .any(|(place, part)| !matches!(part, DatePart::Literal(_)) && parts[..place].contains(part));
        if twice || (parts.contains(&DatePart::Hour) && parts.contains(&DatePart::Hour12)) {
            return Err("must not name a part twice");
        }
        if parts.contains(&DatePart::Hour12) != parts.contains(&DatePart::HalfDay) {
            return Err("must have both of %I and %p, or neither");
        }
        Ok(Self { text: text.to_owned(), parts })
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn parts(&self) -> &[DatePart] {
        &self.parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_names_one_day_and_no_part_twice() {
        for format in
            ["%Y-%m-%d", "%d.%m.%Y", "%e %B %y", "%FT%T%z", "%a %b %d %Y", "%m/%d/%Y %I:%M %p", "%%%F"]
        {
            assert_eq!(
                DateFormat::parse(format).map(|parsed| parsed.as_str().to_owned()),
                Ok(format.to_owned())
            );
        }
        for format in
            ["", "%", "%Q", "%Y-%m", "%m-%d", "%Y-%m-%d %Y", "%F %H %I %p", "%F %I", "%F %p", "%F %d"]
        {
            assert!(DateFormat::parse(format).is_err(), "{format}");
        }
    }
}
