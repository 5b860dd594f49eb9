//! The checked-in tables of bad data: kind × what becomes of it.
//!
//! A line of `bad_data.md` is `| kind | collection | outcome | why |`, where an outcome is one or more of these,
//! apart by `;`:
//!
//! | outcome | |
//! |---|---|
//! | `exact` | the row is there, with every value as it is in the document |
//! | `coerced amount scale` | the row is there; this rule altered the value of this column, and was counted |
//! | `null payment_method_id` | the row is there, null in this column, and the reference is waited for |
//! | `stub transaction_id` | the row is there and refers to a stub; the real one is waited for |
//! | `held amount not_exact` | no row; held with this column (or `-`) and this reason |
//! | `dropped line_items` | the row is there, without this element |
//! | `source` | says what has to happen before there is a document: nothing that rowstream sees |

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Exact,
    Coerced {
        column: String,
        rule: String,
    },
    Null {
        column: String,
    },
    Stub {
        column: String,
    },
    Held {
        column: Option<String>,
        reason: String,
    },
    Dropped {
        what: String,
    },
    /// Never reaches a collection.
    Source,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) collection: String,
    pub(crate) outcomes: Vec<Outcome>,
}

impl Line {
    pub(crate) fn held(&self) -> Option<(&Option<String>, &str)> {
        self.outcomes.iter().find_map(|outcome| match outcome {
            Outcome::Held { column, reason } => Some((column, reason.as_str())),
            Outcome::Exact
            | Outcome::Coerced { .. }
            | Outcome::Null { .. }
            | Outcome::Stub { .. }
            | Outcome::Dropped { .. }
            | Outcome::Source => None,
        })
    }
}

/// By (collection, kind).
pub(crate) type BadData = BTreeMap<(String, String), Line>;

/// Every line of every table in the text whose head begins with `kind`.
pub(crate) fn read(markdown: &str) -> Result<BadData> {
    let mut found = BadData::new();
    for line in markdown.lines().filter(|line| line.starts_with('|')) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [kind, collection, outcome, _why] = cells[..] else { bail!("four cells are expected: {line}") };
        if kind == "kind" || kind.starts_with("--") {
            continue;
        }
        let outcomes = outcome.split(';').map(|one| self::outcome(one.trim_matches([' ', '`'])));
        let outcomes = outcomes.collect::<Result<Vec<_>>>().with_context(|| line.to_owned())?;
        let key = (collection.to_owned(), kind.to_owned());
        let line = Line { collection: collection.to_owned(), outcomes };
        ensure!(found.insert(key, line).is_none(), "{collection} {kind} is there twice");
    }
    Ok(found)
}

fn outcome(text: &str) -> Result<Outcome> {
    let words: Vec<&str> = text.split(' ').collect();
    Ok(match words[..] {
        ["exact"] => Outcome::Exact,
        ["coerced", column, rule] => Outcome::Coerced { column: column.to_owned(), rule: rule.to_owned() },
        ["null", column] => Outcome::Null { column: column.to_owned() },
        ["held", column, reason] => {
            Outcome::Held { column: (column != "-").then(|| column.to_owned()), reason: reason.to_owned() }
        }
        ["stub", column] => Outcome::Stub { column: column.to_owned() },
        ["dropped", what] => Outcome::Dropped { what: what.to_owned() },
        ["source"] => Outcome::Source,
        _ => bail!("not an outcome: {text}"),
    })
}
