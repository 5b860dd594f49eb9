//! What a one-shot run says at its end.

use std::fmt;
use std::time::Duration;

use crate::pipeline::StatusSnapshot;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    pub caught_up: bool,
    pub took: Duration,
    pub sources: Vec<SourceSummary>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceSummary {
    pub source: String,
    pub table: String,
    pub inserted: u64,
    pub updated: u64,
    pub unchanged: u64,
    pub deleted: u64,
    /// Open ones, also from earlier runs.
    pub held: u64,
}

impl Summary {
    pub(super) fn new(status: &StatusSnapshot, caught_up: bool, took: Duration) -> Self {
        let sources = status.sources.iter().map(|source| SourceSummary {
            source: source.source.clone(),
            table: source.table.clone(),
            inserted: source.rows.inserted,
            updated: source.rows.updated,
            unchanged: source.rows.unchanged,
            deleted: source.rows.deleted,
            held: source.held.open(),
        });
        Self { caught_up, took, sources: sources.collect() }
    }

    pub fn held(&self) -> u64 {
        self.sources.iter().map(|source| source.held).sum()
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = if self.caught_up { "caught up" } else { "stopped before it was caught up" };
        writeln!(f, "{end} after {:.1} s", self.took.as_secs_f64())?;
        let width = self.sources.iter().map(|source| source.source.chars().count()).max().unwrap_or(0).max(6);
        write!(
            f,
            "{:width$}  {:>9}  {:>9}  {:>9}  {:>9}  {:>6}  table",
            "source", "inserted", "updated", "unchanged", "deleted", "held"
        )?;
        for source in &self.sources {
            write!(
                f,
                "\n{:width$}  {:>9}  {:>9}  {:>9}  {:>9}  {:>6}  {}",
                source.source,
                source.inserted,
                source.updated,
                source.unchanged,
                source.deleted,
                source.held,
                source.table
            )?;
        }
        if self.held() > 0 {
            let changes = if self.held() == 1 {
                "1 change is".to_owned()
            } else {
                format!("{} changes are", self.held())
            };
            write!(f, "\n{changes} held: see rowstream.held for the reason of each")?;
        }
        Ok(())
    }
}
