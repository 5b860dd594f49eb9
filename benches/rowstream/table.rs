//! The result, as a person reads it.

use std::fmt::Write;

/// The first goal for every phase.
const MEMORY_GOAL_MIB: f64 = 96.0;

#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) value: String,
    pub(crate) limit: String,
    pub(crate) ratio: Option<f64>,
    pub(crate) goal: Option<Goal>,
}

#[derive(Debug)]
pub(crate) struct Goal {
    pub(crate) text: String,
    pub(crate) reached: bool,
}

impl Line {
    /// A figure without limit or goal.
    pub(crate) fn plain(name: impl Into<String>, value: String) -> Self {
        Self { name: name.into(), value, limit: String::new(), ratio: None, goal: None }
    }

    pub(crate) fn memory(phase: &str, peak_bytes: u64) -> Self {
        let mib = peak_bytes as f64 / f64::from(1 << 20);
        Self {
            goal: Some(Goal { text: format!("≤ {MEMORY_GOAL_MIB} MiB"), reached: mib <= MEMORY_GOAL_MIB }),
            ..Self::plain(format!("{phase}, peak memory"), format!("{mib:.0} MiB"))
        }
    }
}

pub(crate) fn render(lines: &[Line]) -> String {
    let head = ["", "value", "limit of the same run", "ratio", "goal", ""].map(str::to_owned);
    let rows: Vec<[String; 6]> = std::iter::once(head)
        .chain(lines.iter().map(|line| {
            [
                line.name.clone(),
                line.value.clone(),
                line.limit.clone(),
                line.ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default(),
                line.goal.as_ref().map(|goal| goal.text.clone()).unwrap_or_default(),
                line.goal
                    .as_ref()
                    .map(|goal| if goal.reached { "✓" } else { "✗" })
                    .unwrap_or_default()
                    .into(),
            ]
        }))
        .collect();
    let mut widths = [0; 6];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// `218400` as `218 k`: more digits would be noise.
pub(crate) fn thousands(number: f64) -> String {
    format!("{:.1} k", number / 1_000.0)
}
