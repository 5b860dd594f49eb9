use std::fmt;

use crate::domain::TableName;

/// Something about a mapping and its table that does not fit, with what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub source: String,
    pub table: TableName,
    pub column: Option<String>,
    pub message: String,
    pub hint: String,
    /// A warning does not stop the start.
    pub fatal: bool,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mapping {}, table {}", self.source, self.table)?;
        if let Some(column) = &self.column {
            write!(f, ", column {column}")?;
        }
        write!(f, ": {}", self.message)?;
        if !self.hint.is_empty() {
            write!(f, " ({})", self.hint)?;
        }
        Ok(())
    }
}

/// Collects what does not fit for one mapping.
#[derive(Debug)]
pub(super) struct Problems {
    source: String,
    table: TableName,
    found: Vec<Problem>,
}

impl Problems {
    pub(super) fn new(source: &str, table: &TableName) -> Self {
        Self { source: source.to_owned(), table: table.clone(), found: Vec::new() }
    }

    pub(super) fn extend(&mut self, found: Vec<Problem>) {
        self.found.extend(found);
    }

    pub(super) fn fatal(
        &mut self,
        column: Option<&str>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        let problem = self.problem(column, message.into(), hint.into());
        self.found.push(Problem { fatal: true, ..problem });
    }

    pub(super) fn warning(
        &mut self,
        column: Option<&str>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        let problem = self.problem(column, message.into(), hint.into());
        self.found.push(problem);
    }

    fn problem(&self, column: Option<&str>, message: String, hint: String) -> Problem {
        let column = column.map(str::to_owned);
        Problem {
            source: self.source.clone(),
            table: self.table.clone(),
            column,
            message,
            hint,
            fatal: false,
        }
    }

    pub(super) fn has_fatal(&self) -> bool {
        self.found.iter().any(|problem| problem.fatal)
    }

    pub(super) fn into_found(self) -> Vec<Problem> {
        self.found
    }
}

/// An identifier inside a hint's SQL.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

pub(super) fn quoted_table(table: &TableName) -> String {
    format!("{}.{}", quoted(&table.schema), quoted(&table.name))
}

pub(super) fn quoted_columns<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.into_iter().map(quoted).collect();
    names.join(", ")
}

/// A text inside a hint's SQL.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
