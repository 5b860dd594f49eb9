//! Text in columns.

use super::printable;

/// Columns as wide as their widest cell; the last one runs free.
#[derive(Debug)]
pub(super) struct Table<const N: usize>(Vec<[String; N]>);

impl<const N: usize> Table<N> {
    pub(super) fn new(heads: [&str; N]) -> Self {
        Self(vec![heads.map(str::to_owned)])
    }

    /// What a terminal would act on is written out.
    pub(super) fn row(&mut self, cells: [String; N]) {
        self.0.push(cells.map(|cell| printable(&cell)));
    }

    pub(super) fn text(&self) -> String {
        let width = |place: usize| self.0.iter().map(|row| row[place].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..N).map(width).collect();
        let line = |row: &[String; N]| {
            let cells: Vec<String> =
                row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            cells.join("  ").trim_end().to_owned()
        };
        let lines: Vec<String> = self.0.iter().map(line).collect();
        lines.join("\n")
    }
}
