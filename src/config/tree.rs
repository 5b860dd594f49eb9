//! Reads the raw tree key by key, and collects what is wrong instead of stopping at the first.
//!
//! Each key that a reader asks for becomes a known key; what is left over when a section is finished
//! is unknown. So the list of known keys cannot drift from the parser.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use ::config::{Map, Value, ValueKind};

use super::connection::redact;
use super::error::Mistake;
use super::nearest::nearest;
use super::units::{parse_bytes, parse_duration, show_bytes, show_duration};

pub(super) const ENVIRONMENT_PREFIX: &str = "ROWSTREAM__";
/// How the `config` crate calls the origin of a value that came from a variable.
const ENVIRONMENT: &str = "the environment";
/// A given value is shown up to here.
const SHOWN_CHARACTERS: usize = 60;

#[derive(Debug, Default)]
pub(super) struct Reader {
    mistakes: RefCell<Vec<Mistake>>,
    known: RefCell<BTreeSet<String>>,
}

impl Reader {
    pub(super) fn root(&self, entries: Map<String, Value>) -> Section<'_> {
        Section::new(self, KeyPath::default(), entries)
    }

    pub(super) fn report(&self, mistake: Mistake) {
        self.mistakes.borrow_mut().push(mistake);
    }

    pub(super) fn has_mistakes(&self) -> bool {
        !self.mistakes.borrow().is_empty()
    }

    pub(super) fn into_mistakes(self) -> Vec<Mistake> {
        self.mistakes.into_inner()
    }

    /// Every key that was asked for, with `[]` for any place in a list and `*` for any name.
    #[cfg(test)]
    pub(super) fn known_keys(&self) -> BTreeSet<String> {
        self.known.borrow().clone()
    }
}

/// Where a value stands: as the operator wrote it, and as a pattern over all such places.
#[derive(Debug, Clone, Default)]
pub(super) struct KeyPath {
    shown: String,
    pattern: String,
}

impl KeyPath {
    pub(super) fn key(&self, key: &str) -> Self {
        Self { shown: joined(&self.shown, key), pattern: joined(&self.pattern, key) }
    }

    fn any_key(&self, key: &str) -> Self {
        let plain =
            !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '$'));
        // A connection string that lost its own key becomes one; a comma in its password makes it two.
        let shown = match key {
            _ if plain => key.to_owned(),
            _ if key.contains("://") || key.contains('@') => "\"***\"".to_owned(),
            _ => format!("{key:?}"),
        };
        Self { shown: joined(&self.shown, &shown), pattern: joined(&self.pattern, "*") }
    }

    fn index(&self, index: usize) -> Self {
        Self { shown: format!("{}[{index}]", self.shown), pattern: format!("{}[]", self.pattern) }
    }

    pub(super) fn shown(&self) -> &str {
        &self.shown
    }

    fn is_of_child(&self) -> bool {
        self.pattern.starts_with("mappings[].children[].columns")
    }

    fn variable(&self) -> String {
        format!("{ENVIRONMENT_PREFIX}{}", self.shown.replace('.', "__").to_uppercase())
    }
}

fn joined(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// A map whose keys are fixed.
#[derive(Debug)]
pub(super) struct Section<'r> {
    reader: &'r Reader,
    path: KeyPath,
    entries: Map<String, Value>,
    asked: Vec<&'static str>,
}

impl<'r> Section<'r> {
    fn new(reader: &'r Reader, path: KeyPath, entries: Map<String, Value>) -> Self {
        Self { reader, path, entries, asked: Vec::new() }
    }

    pub(super) fn path(&self) -> &KeyPath {
        &self.path
    }

    /// The value of a key, also when it is null.
    pub(super) fn field_or_null(&mut self, key: &'static str) -> Option<Field<'r>> {
        self.asked.push(key);
        let path = self.path.key(key);
        // What these can say is what the columns of a mapping can say.
        if !path.is_of_child() || path.pattern.ends_with("].columns") {
            self.reader.known.borrow_mut().insert(path.pattern.clone());
        }
        let value = self.entries.get(key)?.clone();
        Some(Field { reader: self.reader, path, value })
    }

    /// The value of a key; null is as good as absent.
    pub(super) fn field(&mut self, key: &'static str) -> Option<Field<'r>> {
        self.field_or_null(key).filter(|field| !field.is_null())
    }

    pub(super) fn required(&mut self, key: &'static str, hint: &str) -> Option<Field<'r>> {
        let field = self.field(key);
        if field.is_none() {
            self.mistake_at(key, "is required", hint);
        }
        field
    }

    /// A section that is absent is an empty one, so that its keys take their defaults.
    pub(super) fn section(&mut self, key: &'static str) -> Section<'r> {
        let path = self.path.key(key);
        let section = self.field(key).and_then(Field::into_section);
        section.unwrap_or_else(|| Section::new(self.reader, path, Map::new()))
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    pub(super) fn flag(&mut self, key: &'static str, default: bool) -> bool {
        self.field(key).and_then(|field| field.flag()).unwrap_or(default)
    }

    pub(super) fn choice<T: Copy>(&mut self, key: &'static str, choices: &[(&'static str, T)]) -> Option<T> {
        self.field(key)?.choice(choices)
    }

    pub(super) fn count(&mut self, key: &'static str, setting: &Setting<u64>) -> u64 {
        self.field(key).and_then(|field| field.count(&setting.allowed)).unwrap_or(setting.default)
    }

    pub(super) fn bytes(&mut self, key: &'static str, setting: &Setting<u64>) -> u64 {
        self.field(key).and_then(|field| field.bytes(&setting.allowed)).unwrap_or(setting.default)
    }

    pub(super) fn duration(&mut self, key: &'static str, setting: &Setting<Duration>) -> Duration {
        self.field(key).and_then(|field| field.duration(&setting.allowed)).unwrap_or(setting.default)
    }

    pub(super) fn mistake_at(&self, key: &str, constraint: &str, hint: &str) {
        self.reader.report(Mistake {
            key: self.path.key(key).shown,
            constraint: constraint.to_owned(),
            given: None,
            hint: some_text(hint),
        });
    }

    /// A mistake of the section as a whole.
    pub(super) fn mistake(&self, constraint: impl Into<String>, hint: &str) {
        self.reader.report(Mistake {
            key: self.path.shown.clone(),
            constraint: constraint.into(),
            given: None,
            hint: some_text(hint),
        });
    }

    /// A mistake of a variable that stands in for a key of this section.
    pub(super) fn mistake_of_variable(&self, name: &str, constraint: String) {
        self.reader.report(Mistake { key: name.to_owned(), constraint, given: None, hint: None });
    }

    /// Reports every key that nobody asked for.
    pub(super) fn finish(&self) {
        for (key, value) in self.entries.iter().filter(|(key, _)| !self.asked.contains(&key.as_str())) {
            let hint = match nearest(key, self.asked.iter().copied()) {
                Some(known) => format!("did you mean {known}?"),
                None => format!("known keys: {}", self.asked.join(", ")),
            };
            let path = self.path.any_key(key);
            let mut places = variables(value, &path);
            if places.is_empty() {
                places.push(path.shown);
            }
            for key in places {
                let (constraint, hint) = ("is not a known key".to_owned(), Some(hint.clone()));
                self.reader.report(Mistake { key, constraint, given: None, hint });
            }
        }
    }
}

/// The variables from which an unknown part of the tree came; none for what the file says.
fn variables(value: &Value, path: &KeyPath) -> Vec<String> {
    match &value.kind {
        ValueKind::Table(entries) => {
            entries.iter().flat_map(|(key, value)| variables(value, &path.key(key))).collect()
        }
        _ if value.origin() == Some(ENVIRONMENT) => vec![path.variable()],
        _ => Vec::new(),
    }
}

/// A default, and the values that make sense.
#[derive(Debug, Clone)]
pub(super) struct Setting<T> {
    pub(super) default: T,
    pub(super) allowed: RangeInclusive<T>,
}

/// One value with its place.
#[derive(Debug, Clone)]
pub(super) struct Field<'r> {
    reader: &'r Reader,
    path: KeyPath,
    value: Value,
}

impl<'r> Field<'r> {
    pub(super) fn is_from_environment(&self) -> bool {
        self.value.origin() == Some(ENVIRONMENT)
    }

    /// Within the columns of `children`, whose paths begin with `$element` or `$document`.
    pub(super) fn is_of_child(&self) -> bool {
        self.path.is_of_child()
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(self.value.kind, ValueKind::Nil)
    }

    pub(super) fn value(&self) -> &ValueKind {
        &self.value.kind
    }

    pub(super) fn mistake(&self, constraint: impl Into<String>, hint: &str) {
        self.report(constraint.into(), Some(self.given()), hint);
    }

    /// For secrets: says what is wrong without what was given.
    pub(super) fn hidden_mistake(&self, constraint: impl Into<String>, hint: &str) {
        self.report(constraint.into(), None, hint);
    }

    fn report(&self, constraint: String, given: Option<String>, hint: &str) {
        let key = if self.is_from_environment() { self.path.variable() } else { self.path.shown.clone() };
        self.reader.report(Mistake { key, constraint, given, hint: some_text(hint) });
    }

    fn given(&self) -> String {
        match &self.value.kind {
            ValueKind::Nil => "nothing".to_owned(),
            ValueKind::Table(_) => "a map".to_owned(),
            ValueKind::Array(_) => "a list".to_owned(),
            ValueKind::String(text) => shown_text(text),
            number_or_flag => number_or_flag.to_string(),
        }
    }

    pub(super) fn into_section(self) -> Option<Section<'r>> {
        match self.value.kind {
            ValueKind::Table(entries) => Some(Section::new(self.reader, self.path, entries)),
            // What stands in the place of a section may be a secret that belongs inside.
            ValueKind::String(_) => {
                self.hidden_mistake("must be a map", "");
                None
            }
            _ => {
                self.mistake("must be a map", "");
                None
            }
        }
    }

    /// The entries of a map whose keys are names.
    pub(super) fn entries(self) -> Option<Vec<(String, Field<'r>)>> {
        let ValueKind::Table(entries) = self.value.kind else {
            self.mistake("must be a map", "");
            return None;
        };
        let (reader, path) = (self.reader, self.path);
        let fields = entries.into_iter().map(|(key, value)| {
            let field = Field { reader, path: path.any_key(&key), value };
            (key, field)
        });
        Some(fields.collect())
    }

    pub(super) fn items(self) -> Option<Vec<Field<'r>>> {
        let ValueKind::Array(items) = self.value.kind else {
            self.mistake("must be a list", "");
            return None;
        };
        let (reader, path) = (self.reader, self.path);
        let items = items.into_iter().enumerate();
        Some(items.map(|(index, value)| Field { reader, path: path.index(index), value }).collect())
    }

    /// Text that is not empty and fits where names and texts go.
    pub(super) fn text(&self) -> Option<String> {
        match &self.value.kind {
            ValueKind::String(text) if text.is_empty() => self.mistake("must not be empty", ""),
            ValueKind::String(text) if text.contains('\0') => {
                self.mistake("must not contain the character NUL", "")
            }
            ValueKind::String(text) => return Some(text.clone()),
            ValueKind::Table(_) | ValueKind::Array(_) | ValueKind::Nil => self.mistake("must be text", ""),
            _ => self.mistake("must be text", "put it in quotes"),
        }
        None
    }

    pub(super) fn flag(&self) -> Option<bool> {
        match &self.value.kind {
            ValueKind::Boolean(flag) => return Some(*flag),
            ValueKind::String(text) if self.is_from_environment() && text == "true" => return Some(true),
            ValueKind::String(text) if self.is_from_environment() && text == "false" => return Some(false),
            _ => self.mistake("must be true or false", ""),
        }
        None
    }

    pub(super) fn choice<T: Copy>(&self, choices: &[(&'static str, T)]) -> Option<T> {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let constraint = format!("must be one of {}", names.join(", "));
        let ValueKind::String(text) = &self.value.kind else {
            self.mistake(constraint, "");
            return None;
        };
        if let Some((_, choice)) = choices.iter().find(|(name, _)| name == text) {
            return Some(*choice);
        }
        let hint = nearest(text, names).map(|name| format!("did you mean {name}?")).unwrap_or_default();
        self.mistake(constraint, &hint);
        None
    }

    pub(super) fn count(&self, allowed: &RangeInclusive<u64>) -> Option<u64> {
        let number = match &self.value.kind {
            ValueKind::I64(number) => Some(u64::try_from(*number).ok()),
            ValueKind::String(text) if self.is_from_environment() => text.parse().ok().map(Some),
            _ => None,
        };
        let Some(number) = number else {
            self.mistake("must be a whole number", "");
            return None;
        };
        self.within(number, allowed, u64::to_string)
    }

    pub(super) fn bytes(&self, allowed: &RangeInclusive<u64>) -> Option<u64> {
        let number = match &self.value.kind {
            ValueKind::I64(number) => Some(u64::try_from(*number).ok()),
            ValueKind::String(text) => parse_bytes(text).map(Some),
            _ => None,
        };
        let Some(number) = number else {
            self.mistake("must be a number of bytes such as 8MiB or 512KiB", "");
            return None;
        };
        self.within(number, allowed, |bytes| show_bytes(*bytes))
    }

    pub(super) fn duration(&self, allowed: &RangeInclusive<Duration>) -> Option<Duration> {
        let duration = match &self.value.kind {
            ValueKind::I64(0) => Some(Duration::ZERO),
            ValueKind::String(text) => parse_duration(text),
            _ => None,
        };
        let Some(duration) = duration else {
            self.mistake("must be a duration such as 500ms, 10s, 5m, 2h or 7d", "");
            return None;
        };
        self.within(Some(duration), allowed, |duration| show_duration(*duration))
    }

    fn within<T: PartialOrd>(
        &self,
        value: Option<T>,
        allowed: &RangeInclusive<T>,
        show: impl Fn(&T) -> String,
    ) -> Option<T> {
        let value = value.filter(|value| allowed.contains(value));
        if value.is_none() {
            let (least, most) = (show(allowed.start()), show(allowed.end()));
            self.mistake(format!("must be between {least} and {most}"), "");
        }
        value
    }
}

fn some_text(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// A value that was written at the wrong place may be a connection string.
fn shown_text(text: &str) -> String {
    if text.contains("://") {
        return format!("{:?}", redact(text));
    }
    if text.chars().count() <= SHOWN_CHARACTERS {
        return format!("{text:?}");
    }
    let start: String = text.chars().take(SHOWN_CHARACTERS).collect();
    format!("{start:?}…")
}
