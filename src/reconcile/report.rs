//! What a run has found, for people and for programs. Keys are named; values never are.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::time::Duration;

use bson::DateTime;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::finding::{Deviating, Kind, Suspect};
use super::verifier::Extent;
use crate::config::Assertion;
use crate::mapping::Mapping;
use crate::pipeline::{Drift, Moment, Sighting};
use crate::sink::ShownValue;

/// Keys that are named of each group of findings.
pub(super) const KEYS: usize = 5;

/// Findings with one cause are told as one from so many on.
const PATTERN: u64 = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Passed,
    /// Something could not be judged, or is worth a look.
    Warning,
    Failed,
}

impl Verdict {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Warning => "warning",
            Self::Failed => "failed",
        }
    }

    fn mark(self) -> char {
        match self {
            Self::Passed => '✓',
            Self::Warning => '!',
            Self::Failed => '✗',
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    pub run: i64,
    pub pipeline: String,
    pub extent: String,
    pub verdict: Verdict,
    /// As in RFC 3339.
    pub started_at: String,
    pub seconds: f64,
    pub documents: u64,
    pub documents_per_second: f64,
    pub sources: Vec<SourceReport>,
    pub assertions: Vec<AssertionReport>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SourceReport {
    pub source: String,
    pub collection: String,
    pub table: String,
    pub verdict: Verdict,
    /// Everything of it was compared.
    pub is_whole: bool,
    /// Its first copy is done; else nothing is compared.
    pub is_copied: bool,
    /// Documents that were read.
    pub documents: u64,
    /// Of those, documents that do not belong to the mapping.
    pub filtered: u64,
    /// Documents whose rows were compared.
    pub compared: u64,
    /// Rows that say they are the mapping's, where they say it and everything was compared.
    pub rows: Option<u64>,
    pub held: u64,
    /// Documents with changes that nobody has applied, since nobody follows.
    pub pending: u64,
    /// Documents that were written all the time.
    pub unsettled: u64,
    /// Rows without a document that was met, whose ids are only known by their hashes.
    pub unreadable: u64,
    /// Some of them.
    pub unreadable_keys: Vec<String>,
    /// Findings by kind.
    pub findings: BTreeMap<Kind, u64>,
    /// What differed and was read again by this run, by kind; what differed still is among the findings.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub repaired: BTreeMap<Kind, u64>,
    /// Of all findings, those that differed again after a repair.
    pub not_converging: u64,
    /// When the oldest open finding was found, in seconds since 1970.
    pub oldest: Option<f64>,
    pub groups: Vec<Group>,
    /// Paths that the mapping reads and none of the documents has, where all of them were looked at.
    pub absent_paths: Vec<String>,
    /// What the documents hold that no mapping expects.
    pub drift: Drift,
    #[serde(skip)]
    pub(super) looked_at: Vec<String>,
}

/// Findings that look alike.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Group {
    pub kind: Kind,
    pub table: String,
    pub columns: Vec<String>,
    pub count: u64,
    /// The first of them.
    pub keys: Vec<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hint: String,
    /// What of some of them differs: for the command line alone, never for the state.
    #[serde(skip)]
    pub(super) shown: Vec<(String, ShownValue)>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AssertionReport {
    pub name: String,
    pub verdict: Verdict,
    pub detail: String,
}

impl AssertionReport {
    /// A result that is no number may be a value of a document, and is not told.
    pub(super) fn new(assertion: &Assertion, found: Result<Option<String>, String>) -> Self {
        let told = |value: &Option<String>| match value {
            None => "nothing".to_owned(),
            Some(text) if text.parse::<f64>().is_ok() || text == "true" || text == "false" => text.clone(),
            Some(_) => "another value".to_owned(),
        };
        let (verdict, detail) = match found {
            Ok(value) if value == assertion.expect => (Verdict::Passed, String::new()),
            Ok(value) => {
                let expected = assertion.expect.as_deref().unwrap_or("nothing");
                (Verdict::Failed, format!("expected {expected}, found {}", told(&value)))
            }
            Err(_) => (
                Verdict::Failed,
                "the statement failed: it must be one select of one column, within postgres.statement_timeout"
                    .to_owned(),
            ),
        };
        Self { name: assertion.name.clone(), verdict, detail }
    }
}

impl SourceReport {
    pub(super) fn new(mapping: &Mapping) -> Self {
        Self {
            source: mapping.source.clone(),
            collection: mapping.namespace.to_string(),
            table: mapping.table.to_string(),
            verdict: Verdict::Passed,
            is_whole: false,
            is_copied: true,
            documents: 0,
            filtered: 0,
            compared: 0,
            rows: None,
            held: 0,
            pending: 0,
            unsettled: 0,
            unreadable: 0,
            unreadable_keys: Vec::new(),
            findings: BTreeMap::new(),
            repaired: BTreeMap::new(),
            not_converging: 0,
            oldest: None,
            groups: Vec::new(),
            absent_paths: Vec::new(),
            drift: Drift::default(),
            looked_at: Vec::new(),
        }
    }

    pub fn findings(&self) -> u64 {
        self.findings.values().sum()
    }

    /// Its document is read again.
    pub(super) fn sent(&mut self, suspect: &Suspect) {
        for deviating in &suspect.deviating {
            *self.repaired.entry(deviating.kind).or_default() += 1;
        }
    }

    pub(super) fn count(&mut self, deviating: &Deviating, source_id: &str) {
        let Deviating { kind, table, columns, values } = deviating;
        let kind = *kind;
        *self.findings.entry(kind).or_default() += 1;
        let is_alike =
            |group: &&mut Group| group.kind == kind && &group.table == table && &group.columns == columns;
        let group = match self.groups.iter_mut().find(is_alike) {
            Some(group) => group,
            None => {
                self.groups.push(Group {
                    kind,
                    table: table.clone(),
                    columns: columns.clone(),
                    count: 0,
                    keys: Vec::new(),
                    shown: Vec::new(),
                    hint: String::new(),
                });
                let last = self.groups.len() - 1;
                &mut self.groups[last]
            }
        };
        group.count += 1;
        if group.keys.len() < KEYS {
            group.keys.push(source_id.to_owned());
            group.shown.extend(values.iter().map(|value| (source_id.to_owned(), value.clone())));
        }
    }

    fn judge(&mut self) {
        let (compared, findings) = (self.compared, self.findings());
        for group in &mut self.groups {
            group.keys.sort();
            group.hint = hint(group, compared).to_owned();
        }
        self.groups
            .sort_by(|left, right| right.count.cmp(&left.count).then_with(|| left.kind.cmp(&right.kind)));
        self.verdict = if findings > 0 {
            Verdict::Failed
        } else if !self.is_copied
            || self.pending + self.unsettled + self.unreadable > 0
            || !self.absent_paths.is_empty()
        {
            Verdict::Warning
        } else {
            Verdict::Passed
        };
    }
}

/// What many findings of one kind are likely to come from.
fn hint(group: &Group, compared: u64) -> &'static str {
    if group.count < PATTERN {
        return "";
    }
    match group.kind {
        Kind::Missing if group.count >= compared => {
            "no document has its row: was the table emptied, or put back to an older state?"
        }
        Kind::Missing => "rows were deleted on the side, or the table was put back to an older state",
        Kind::Different if group.columns.len() == 1 => {
            "always in this column: somebody else writes it, a trigger changes it, or its mapping has changed"
        }
        Kind::Different => {
            "always in these columns: rows written under an older mapping, or put back to an older state"
        }
        Kind::Extra => {
            "rows whose documents are gone: deletes were missed, or somebody inserted them by hand"
        }
        Kind::MissingChild | Kind::DifferentChild | Kind::ExtraChild => {
            "the table of the children was changed on the side, or its mapping has changed"
        }
        Kind::NotHeld => "these documents cannot be written: a repair holds them, with the reason of each",
    }
}

impl Report {
    pub(super) fn new(
        run: i64,
        pipeline: &str,
        extent: Extent,
        started_at: Moment,
        took: Duration,
        mut sources: Vec<SourceReport>,
        assertions: Vec<AssertionReport>,
    ) -> Self {
        sources.iter_mut().for_each(SourceReport::judge);
        let verdicts = sources.iter().map(|source| source.verdict);
        let verdict = verdicts.chain(assertions.iter().map(|assertion| assertion.verdict)).max();
        let documents: u64 = sources.iter().map(|source| source.documents).sum();
        let seconds = took.as_secs_f64();
        Self {
            run,
            pipeline: pipeline.to_owned(),
            extent: extent.as_str().to_owned(),
            verdict: verdict.unwrap_or(Verdict::Passed),
            started_at: started_at.to_string(),
            seconds,
            documents,
            documents_per_second: if seconds > 0.0 { documents as f64 / seconds } else { 0.0 },
            sources,
            assertions,
        }
    }

    /// For programs, with the values that are shown: for the operator's own eyes.
    pub fn with_values(&self) -> serde_json::Result<Value> {
        let mut told = serde_json::to_value(self)?;
        for (place, source) in self.sources.iter().enumerate() {
            for (number, group) in
                source.groups.iter().enumerate().filter(|(_, group)| !group.shown.is_empty())
            {
                let value = |(key, value): &(String, ShownValue)| json!({ "key": key, "column": value.column, "held": value.held, "wanted": value.wanted });
                told["sources"][place]["groups"][number]["values"] = group.shown.iter().map(value).collect();
            }
        }
        Ok(told)
    }

    pub fn findings(&self) -> u64 {
        self.sources.iter().map(SourceReport::findings).sum()
    }

    /// Differences whose documents were read again.
    pub fn repaired(&self) -> u64 {
        self.sources.iter().flat_map(|source| source.repaired.values()).sum()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.sources.iter().map(|source| source.source.chars().count()).max().unwrap_or(0).max(6);
        writeln!(
            f,
            "  {:width$}  {:>10}  {:>10}  {:>10}  {:>6}  {:>8}  table",
            "source", "documents", "compared", "rows", "held", "findings"
        )?;
        for source in &self.sources {
            let rows = source.rows.map_or_else(|| "-".to_owned(), |rows| rows.to_string());
            writeln!(
                f,
                "{} {:width$}  {:>10}  {:>10}  {rows:>10}  {:>6}  {:>8}  {}",
                source.verdict.mark(),
                source.source,
                source.documents,
                source.compared,
                source.held,
                source.findings(),
                source.table
            )?;
            f.write_str(&details(source)?)?;
        }
        for assertion in &self.assertions {
            let colon = if assertion.detail.is_empty() { "" } else { ": " };
            let AssertionReport { name, detail, verdict } = assertion;
            writeln!(f, "{} {name}{colon}{detail}", verdict.mark())?;
        }
        let findings = match self.findings() {
            0 => "nothing differs".to_owned(),
            1 => "1 finding".to_owned(),
            findings => format!("{findings} findings"),
        };
        write!(
            f,
            "{} {}: {findings} in {} documents, {:.1} s, {:.0} documents/s (run {}, {})",
            self.verdict.mark(),
            self.verdict.as_str(),
            self.documents,
            self.seconds,
            self.documents_per_second,
            self.run,
            self.extent
        )
    }
}

fn details(source: &SourceReport) -> Result<String, fmt::Error> {
    let mut text = String::new();
    if !source.is_copied {
        writeln!(text, "    ! its first copy is not done: nothing was compared")?;
    }
    if !source.repaired.is_empty() {
        let counts: Vec<String> =
            source.repaired.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        writeln!(text, "    ✓ {}: their documents were read again", counts.join(", "))?;
    }
    for group in &source.groups {
        let columns = match group.columns.as_slice() {
            [] => String::new(),
            columns => format!(" in {}", columns.join(", ")),
        };
        let more = if group.count > group.keys.len() as u64 { ", …" } else { "" };
        let Group { kind, table, count, .. } = group;
        writeln!(text, "    ✗ {count} {kind}{columns} ({table}): {}{more}", group.keys.join(", "))?;
        if !group.hint.is_empty() {
            writeln!(text, "      {}", group.hint)?;
        }
        for (key, ShownValue { column, held, wanted }) in &group.shown {
            let told =
                |value: &Option<String>| value.as_ref().map_or("null".to_owned(), |text| format!("{text:?}"));
            writeln!(text, "      {key} {column}: {} should be {}", told(held), told(wanted))?;
        }
    }
    if let Some(oldest) = source.oldest.filter(|_| source.findings() > 0) {
        let oldest = DateTime::from_millis((oldest * 1_000.0) as i64);
        writeln!(
            text,
            "      the oldest of these was found at {}",
            oldest.try_to_rfc3339_string().unwrap_or_default()
        )?;
    }
    for path in &source.absent_paths {
        writeln!(text, "    ! no document has {path}, which the mapping reads: is it misspelt?")?;
    }
    for Sighting { name, examples, .. } in &source.drift.fields {
        writeln!(text, "    ! documents have {name}, which no mapping reads: {}, …", examples.join(", "))?;
    }
    for Sighting { name, examples, .. } in &source.drift.labels {
        let keys = examples.join(", ");
        writeln!(text, "    ! values of {name} are not among the labels of its `enum:`: {keys}, …")?;
    }
    let notes = [
        (source.not_converging, "differed again after a repair: a trigger or another writer changes them"),
        (source.pending, "have changes that are not applied: nobody follows the stream"),
        (source.unsettled, "could not be judged: they were written all the time, or the pipeline is behind"),
    ];
    for (count, note) in notes.iter().filter(|(count, _)| *count > 0) {
        writeln!(text, "    ! {count} {note}")?;
    }
    if source.unreadable > 0 {
        writeln!(
            text,
            "    ! {} rows with hashes for ids, too long to be read back, have no document that was met: {}, …\n      \
             no repair can remove them; delete those by hand whose documents are gone",
            source.unreadable,
            source.unreadable_keys.join(", ")
        )?;
    }
    Ok(text)
}
