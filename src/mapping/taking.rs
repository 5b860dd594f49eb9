//! Whether what a reference takes from another row can stand in its own column.

use crate::domain::{Column, ColumnType, Table, TextKind};

/// How sure it is that what is taken fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taking {
    /// Every value fits, unaltered.
    Fits,
    /// Each value tells: the column is narrower.
    MayNotFit,
}

/// `None`: no value could be expected to fit.
pub(super) fn taking(from: &ColumnType, to: &ColumnType) -> Option<Taking> {
    use ColumnType as T;
    if from == to {
        return Some(Taking::Fits);
    }
    let fits = match (from, to) {
        (_, T::Text { kind, limit }) => {
            let is_padded = *kind == TextKind::Bpchar;
            limit.is_none_or(|limit| !is_padded && longest(from).is_some_and(|longest| longest <= limit))
        }
        (T::Int2, T::Int4 | T::Int8 | T::Float4 | T::Float8) => true,
        (T::Int4, T::Int8 | T::Float8) => true,
        (T::Int2 | T::Int4 | T::Int8 | T::Numeric(_), T::Numeric(None)) => true,
        (T::Int2 | T::Int4 | T::Int8 | T::Numeric(_), T::Int2 | T::Int4 | T::Int8 | T::Numeric(_)) => false,
        (T::Enum { labels: from }, T::Enum { labels: to }) => from.iter().all(|label| to.contains(label)),
        (T::Text { .. }, T::Enum { .. }) => false,
        (T::Timestamp { precision: from }, T::Timestamp { precision: to })
        | (T::TimestampTz { precision: from }, T::TimestampTz { precision: to })
            if from <= to =>
        {
            true
        }
        _ => return None,
    };
    Some(if fits { Taking::Fits } else { Taking::MayNotFit })
}

/// The most characters that a value's text has, where its type says so.
fn longest(column_type: &ColumnType) -> Option<u32> {
    match column_type {
        ColumnType::Bool => Some(5),
        ColumnType::Int2 => Some(6),
        ColumnType::Int4 => Some(11),
        ColumnType::Int8 => Some(20),
        ColumnType::Uuid => Some(36),
        ColumnType::Text { limit, .. } => *limit,
        ColumnType::Enum { labels } => {
            labels.iter().map(|label| label.chars().count() as u32).max().or(Some(0))
        }
        ColumnType::Float4
        | ColumnType::Float8
        | ColumnType::Numeric(_)
        | ColumnType::Bytea
        | ColumnType::Date
        | ColumnType::Timestamp { .. }
        | ColumnType::TimestampTz { .. }
        | ColumnType::Json
        | ColumnType::Jsonb
        | ColumnType::Array { .. }
        | ColumnType::Other(_) => None,
    }
}

/// The columns of a table that are a key alone and could be taken.
pub(super) fn alternatives<'t>(table: &'t Table, own: &Column) -> Vec<&'t str> {
    let single = table.unique_keys.iter().filter_map(|key| match key.columns.as_slice() {
        [column] if !key.partial_or_expression => table.column(column),
        _ => None,
    });
    let fitting = single.filter(|column| taking(&column.column_type, &own.column_type).is_some());
    fitting.map(|column| column.name.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(limit: Option<u32>) -> ColumnType {
        ColumnType::Text { kind: TextKind::Varchar, limit }
    }

    fn labels(labels: &[&str]) -> ColumnType {
        ColumnType::Enum { labels: labels.iter().map(|label| (*label).to_owned()).collect() }
    }

    #[test]
    fn what_is_wider_holds_everything_and_what_is_narrower_must_be_looked_at() {
        use ColumnType as T;
        let numeric = |precision, scale| T::Numeric(Some((precision, scale)));
        let cases = [
            (T::Int4, T::Int4, Some(Taking::Fits)),
            (T::Int2, T::Int8, Some(Taking::Fits)),
            (T::Int8, T::Int4, Some(Taking::MayNotFit)),
            (T::Int8, T::Numeric(None), Some(Taking::Fits)),
            (numeric(10, 4), numeric(10, 2), Some(Taking::MayNotFit)),
            (T::Numeric(None), T::Int4, Some(Taking::MayNotFit)),
            (T::Int4, T::Float8, Some(Taking::Fits)),
            (T::Int8, T::Float8, None),
            (T::Uuid, text(None), Some(Taking::Fits)),
            (T::Uuid, text(Some(36)), Some(Taking::Fits)),
            (T::Uuid, text(Some(35)), Some(Taking::MayNotFit)),
            (T::Int4, text(Some(3)), Some(Taking::MayNotFit)),
            (text(Some(24)), text(Some(40)), Some(Taking::Fits)),
            (text(None), text(Some(40)), Some(Taking::MayNotFit)),
            (labels(&["a"]), labels(&["b", "a"]), Some(Taking::Fits)),
            (labels(&["a", "b"]), labels(&["a"]), Some(Taking::MayNotFit)),
            (text(None), labels(&["a"]), Some(Taking::MayNotFit)),
            (text(None), T::Int4, None),
            (text(None), T::Uuid, None),
            (T::Int4, T::Uuid, None),
            (T::Timestamp { precision: 3 }, T::Timestamp { precision: 6 }, Some(Taking::Fits)),
            (T::Timestamp { precision: 6 }, T::Timestamp { precision: 3 }, None),
            (T::Timestamp { precision: 6 }, T::Date, None),
            (T::Jsonb, T::Json, None),
        ];
        for (from, to, wanted) in cases {
            assert_eq!(taking(&from, &to), wanted, "{from:?} into {to:?}");
        }
    }
}
