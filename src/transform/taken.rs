//! What a reference takes from another row, where its own column is narrower than the one it comes from.

use super::encode::encode;
use super::fault::Fault;
use super::rule;
use super::walk::Value;
use crate::domain::{ColumnType, Rejection};

/// From PostgreSQL's text of the value to the column's binary form: exactly, or not at all.
pub fn taken(text: &[u8], column: &ColumnType, name: &str) -> Result<Vec<u8>, Rejection> {
    let mut out = Vec::new();
    let written = match column {
        ColumnType::Int2 | ColumnType::Int4 | ColumnType::Int8 | ColumnType::Numeric(_) => {
            rule::number_text(text, column, &mut out)
        }
        _ => encode(&Value::String(text), column, &mut out),
    };
    written.map(|()| out).map_err(|fault| {
        let message = format!("what is taken from the other row does not fit: {}", fault.message).into();
        Fault { message, ..fault }.in_column(Some(name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Reason, TextKind};

    fn reason(text: &str, column: &ColumnType) -> Result<Vec<u8>, Reason> {
        taken(text.as_bytes(), column, "c").map_err(|rejection| rejection.reason)
    }

    #[test]
    fn a_narrower_column_takes_what_fits_exactly_and_nothing_else() {
        let short = ColumnType::Text { kind: TextKind::Varchar, limit: Some(3) };
        let numeric = ColumnType::Numeric(Some((4, 1)));
        assert_eq!(reason("7", &ColumnType::Int2), Ok(vec![0, 7]));
        assert_eq!(reason("7.00", &ColumnType::Int2), Ok(vec![0, 7]));
        assert_eq!(reason("2147483648", &ColumnType::Int4), Err(Reason::OutOfRange));
        assert_eq!(reason("7.5", &ColumnType::Int8), Err(Reason::NotExact));
        assert_eq!(reason("abc", &short), Ok(b"abc".to_vec()));
        assert_eq!(reason("abcd", &short), Err(Reason::TooLong));
        assert!(reason("7.5", &numeric).is_ok());
        assert_eq!(reason("7.25", &numeric), Err(Reason::NotExact));
        let labels = ColumnType::Enum { labels: vec!["a".to_owned()] };
        assert_eq!(reason("b", &labels), Err(Reason::UnknownEnumLabel));
    }
}
