//! When rows are compared with their documents, and what that may cost.

use std::time::Duration;

use ::config::ValueKind;

use super::defaults;
use super::tree::{Field, Section};

/// The timer's comparisons, and what all of them share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reconcile {
    /// Between spot checks; zero: none.
    pub every: Duration,
    /// Documents and rows of each mapping in a spot check.
    pub sample: u64,
    /// Between comparisons of everything; zero: none.
    pub full_every: Duration,
    /// When those may begin; `None`: at any time.
    pub window: Option<Window>,
    /// `None`: as fast as it goes.
    pub documents_per_second: Option<u64>,
    /// Where documents are read; `None`: as the connection string says.
    pub read_preference: Option<&'static str>,
    /// How long the pipeline may take to pass a look.
    pub patience: Duration,
    /// How long reports are kept.
    pub retention: Duration,
    pub repairs_per_second: u64,
    pub assertions: Vec<Assertion>,
}

/// What the operator holds to be true of the tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assertion {
    pub name: String,
    /// One select of one column.
    pub sql: String,
    /// Its value as text; `None`: null, or no row.
    pub expect: Option<String>,
}

/// Hours of the day in UTC, past midnight if it ends before it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Minutes since midnight.
    pub from: u32,
    pub to: u32,
}

const MINUTES_OF_A_DAY: u32 = 24 * 60;

impl Window {
    fn parse(text: &str) -> Option<Self> {
        let minute = |text: &str| {
            let (hours, minutes) = text.trim().split_once(':')?;
            let (hours, minutes): (u32, u32) = (hours.parse().ok()?, minutes.parse().ok()?);
            (hours < 24 && minutes < 60).then_some(hours * 60 + minutes)
        };
        let (from, to) = text.split_once('-')?;
        let (from, to) = (minute(from)?, minute(to)?);
        (from != to).then_some(Self { from, to })
    }

    /// Whether this many seconds since 1970 are within it.
    pub fn has(self, unix_seconds: u64) -> bool {
        let minute = (unix_seconds / 60 % u64::from(MINUTES_OF_A_DAY)) as u32;
        match self.from < self.to {
            true => (self.from..self.to).contains(&minute),
            false => minute >= self.from || minute < self.to,
        }
    }

    pub(super) fn show(self) -> String {
        let show = |minute: u32| format!("{:02}:{:02}", minute / 60, minute % 60);
        format!("{}-{}", show(self.from), show(self.to))
    }
}

pub(super) fn reconcile(mut section: Section<'_>) -> Reconcile {
    let preferences = ["primary", "primaryPreferred", "secondary", "secondaryPreferred", "nearest"];
    let per_second = section.count("documents_per_second", &defaults::RECONCILE_DOCUMENTS_PER_SECOND);
    let reconcile = Reconcile {
        every: section.duration("every", &defaults::RECONCILE_EVERY),
        sample: section.count("sample", &defaults::RECONCILE_SAMPLE),
        full_every: section.duration("full_every", &defaults::RECONCILE_FULL_EVERY),
        window: section.field("window").and_then(|field| window(&field)),
        documents_per_second: (per_second > 0).then_some(per_second),
        read_preference: section.choice("read_preference", &preferences.map(|name| (name, name))),
        patience: section.duration("patience", &defaults::RECONCILE_PATIENCE),
        retention: section.duration("retention", &defaults::RECONCILE_RETENTION),
        repairs_per_second: section.count("repairs_per_second", &defaults::REPAIRS_PER_SECOND),
        assertions: section.field("assertions").map(assertions).unwrap_or_default(),
    };
    section.finish();
    reconcile
}

fn window(field: &Field<'_>) -> Option<Window> {
    let window = Window::parse(&field.text()?);
    if window.is_none() {
        field.mistake("must be two times of the day in UTC such as 22:00-05:30", "");
    }
    window
}

fn assertions(field: Field<'_>) -> Vec<Assertion> {
    let sections = field.items().into_iter().flatten().filter_map(Field::into_section);
    sections.filter_map(assertion).collect()
}

fn assertion(mut section: Section<'_>) -> Option<Assertion> {
    let name = section.required("name", "");
    let sql = section.required("sql", "one select of one column, such as select count(*) from …");
    let expect = section.field("expect").and_then(|field| expected(&field));
    section.finish();
    Some(Assertion { name: name?.text()?, sql: sql?.text()?, expect })
}

fn expected(field: &Field<'_>) -> Option<String> {
    match field.value() {
        ValueKind::String(text) => return Some(text.clone()),
        ValueKind::Boolean(flag) => return Some(flag.to_string()),
        ValueKind::I64(number) => return Some(number.to_string()),
        _ => field.mistake("must be a whole number, true, false or text", "numbers with a fraction as text"),
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hours: u64, minutes: u64) -> u64 {
        86_400 * 20_000 + hours * 3_600 + minutes * 60
    }

    #[test]
    fn a_window_may_span_midnight() {
        let night = Window::parse("22:00-05:30").expect("a window");
        assert!(night.has(at(23, 0)) && night.has(at(0, 0)) && night.has(at(5, 29)));
        assert!(!night.has(at(5, 30)) && !night.has(at(12, 0)) && !night.has(at(21, 59)));
        let day = Window::parse("08:00 - 09:00").expect("a window");
        assert!(day.has(at(8, 0)) && !day.has(at(9, 0)) && !day.has(at(7, 59)));
        assert_eq!(night.show(), "22:00-05:30");
    }

    #[test]
    fn what_is_no_window_is_refused() {
        for text in ["", "22:00", "24:00-01:00", "22:60-23:00", "22:00-22:00", "22-23"] {
            assert!(Window::parse(text).is_none(), "{text}");
        }
    }
}
