//! Constants and defaults of the file, encoded once at the start.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::array;
use super::encode::{self, encode};
use super::fault::Fault;
use super::reading::{Counted, Reader};
use super::rule;
use super::time;
use super::walk::Value;
use crate::config::{Reading, Rule, Scalar};
use crate::domain::{ColumnType, Reason};

/// The binary form of a constant; `None` is NULL. A column's rules read its default as they read the
/// document's values; text may also say what YAML has no type for: a moment, a number, JSON.
pub(super) fn encode_scalar(
    scalar: &Scalar,
    rules: &[Rule],
    column: &ColumnType,
) -> Result<Option<Vec<u8>>, Fault> {
    let value = match scalar {
        Scalar::Null => return Ok(None),
        Scalar::Bool(value) => Value::Bool(*value),
        Scalar::Int(value) => Value::Int64(*value),
        Scalar::Float(value) => Value::Double(*value),
        Scalar::Text(text) => Value::String(text.as_bytes()),
        Scalar::List(items) => return list(items, rules, column).map(Some),
    };
    let mut out = Vec::new();
    if let Scalar::Text(text) = scalar {
        // In a format of the rule's own, or as any text for a moment.
        if is_moment(column) && by_rules(&value, rules, column, &mut out).is_ok() {
            return Ok(Some(out));
        }
        out.clear();
        if write_text(text, column, &mut out)? {
            return Ok(Some(out));
        }
    }
    by_rules(&value, rules, column, &mut out)?;
    Ok(Some(out))
}

fn is_moment(column: &ColumnType) -> bool {
    matches!(column, ColumnType::Date | ColumnType::Timestamp { .. } | ColumnType::TimestampTz { .. })
}

fn by_rules(value: &Value<'_>, rules: &[Rule], column: &ColumnType, out: &mut Vec<u8>) -> Result<(), Fault> {
    let reading = Reading { rules: rules.to_vec(), ..Reading::default() };
    match Reader::new(&reading, column).map_err(|(_, fault)| fault)? {
        Some(reader) => {
            let mut altered = Vec::new();
            reader.store(value, column, out, &mut Counted { column: 0, into: &mut altered }).map(drop)
        }
        None => encode(value, column, out),
    }
}

/// A list, into a column that holds several values.
fn list(items: &[Scalar], rules: &[Rule], column: &ColumnType) -> Result<Vec<u8>, Fault> {
    if let ColumnType::Array { element, .. } = column {
        let encoded: Vec<Option<Vec<u8>>> = items
            .iter()
            .enumerate()
            .map(|(place, item)| encode_scalar(item, rules, element).map_err(|fault| fault.in_element(place)))
            .collect::<Result<_, _>>()?;
        return Ok(array::literal(encoded.iter().map(Option::as_deref), element));
    }
    let (ColumnType::Json | ColumnType::Jsonb) = column else {
        return Err(Fault::wrong_type("a list does not fit a column of single values"));
    };
    let items: Vec<serde_json::Value> = items.iter().map(json).collect();
    let text = serde_json::Value::Array(items).to_string();
    check_json(&text)?;
    let mut out = Vec::new();
    encode::begin_json(column, &mut out);
    out.extend_from_slice(text.as_bytes());
    Ok(out)
}

fn json(scalar: &Scalar) -> serde_json::Value {
    match scalar {
        Scalar::Null => serde_json::Value::Null,
        Scalar::Bool(flag) => (*flag).into(),
        Scalar::Int(number) => (*number).into(),
        Scalar::Float(number) => (*number).into(),
        Scalar::Text(text) => text.as_str().into(),
        Scalar::List(items) => items.iter().map(json).collect(),
    }
}

/// `Ok(false)`: the column takes text as it takes a document's.
fn write_text(text: &str, column: &ColumnType, out: &mut Vec<u8>) -> Result<bool, Fault> {
    match column {
        ColumnType::Json | ColumnType::Jsonb => {
            check_json(text)?;
            encode::begin_json(column, out);
            out.extend_from_slice(super::text::checked(text.as_bytes())?);
        }
        ColumnType::Date | ColumnType::Timestamp { .. } | ColumnType::TimestampTz { .. } => {
            let moment = match time::parse_day(text.as_bytes()) {
                Some(day) => day,
                None => time::parse_rfc3339(text.as_bytes())?,
            };
            time::write(moment, column, out)?;
        }
        ColumnType::Int2
        | ColumnType::Int4
        | ColumnType::Int8
        | ColumnType::Float4
        | ColumnType::Float8
        | ColumnType::Numeric(_) => rule::number_text(text.as_bytes(), column, out)?,
        _ => return Ok(false),
    }
    Ok(true)
}

/// As strict as with documents: PostgreSQL refuses NUL in jsonb, and keeps one of two equal names.
fn check_json(text: &str) -> Result<(), Fault> {
    let value: serde_json::Value = serde_json::from_str(text)
        .map_err(|_| Fault::wrong_type("the constant of a JSON column is not JSON"))?;
    // It is JSON, so all that can be wrong here is a name.
    serde_json::from_str::<DistinctNames>(text)
        .map_err(|_| Fault::new(Reason::DuplicateField, "a field name occurs twice in one JSON object"))?;
    if has_nul(&value) {
        return Err(Fault::new(
            Reason::NulCharacter,
            "the JSON has a NUL character, which PostgreSQL cannot store",
        ));
    }
    Ok(())
}

fn has_nul(value: &serde_json::Value) -> bool {
    use serde_json::Value as Json;
    match value {
        Json::String(text) => text.contains('\0'),
        Json::Array(items) => items.iter().any(has_nul),
        Json::Object(fields) => fields.iter().any(|(name, value)| name.contains('\0') || has_nul(value)),
        Json::Null | Json::Bool(_) | Json::Number(_) => false,
    }
}

/// JSON whose objects have no name twice: `serde_json::Value` would only have the last.
struct DistinctNames;

impl<'de> Deserialize<'de> for DistinctNames {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for DistinctNames {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON whose names are distinct")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self, A::Error> {
        let mut names = HashSet::new();
        while let Some(name) = fields.next_key::<String>()? {
            if !names.insert(name) {
                return Err(A::Error::custom("a name occurs twice"));
            }
            fields.next_value::<Self>()?;
        }
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self, A::Error> {
        while items.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::TextKind;

    const TEXT: ColumnType = ColumnType::Text { kind: TextKind::Text, limit: None };
    const MOMENT: ColumnType = ColumnType::TimestampTz { precision: 6 };

    fn plain(scalar: Scalar, column: &ColumnType) -> Result<Option<Vec<u8>>, Reason> {
        encode_scalar(&scalar, &[], column).map_err(|fault| fault.reason)
    }

    fn text(text: &str) -> Scalar {
        Scalar::Text(text.into())
    }

    #[test]
    fn constants_fit_their_columns() {
        assert_eq!(plain(Scalar::Null, &ColumnType::Bool), Ok(None));
        assert_eq!(plain(Scalar::Int(5), &ColumnType::Int2), Ok(Some(vec![0, 5])));
        assert_eq!(plain(text("ab"), &TEXT), Ok(Some(b"ab".to_vec())));
        assert_eq!(plain(text("{}"), &ColumnType::Jsonb), Ok(Some(b"\x01{}".to_vec())));
        assert_eq!(plain(text("2000-01-01"), &ColumnType::Date), Ok(Some(vec![0; 4])));
        assert_eq!(plain(text("2000-01-01T00:00:00Z"), &MOMENT), Ok(Some(vec![0; 8])));
        assert_eq!(plain(text("7"), &ColumnType::Int2), Ok(Some(vec![0, 7])));
        let numeric = ColumnType::Numeric(Some((4, 2)));
        assert!(plain(Scalar::Float(0.1), &numeric).unwrap().is_some());
    }

    #[test]
    fn constants_that_do_not_fit_say_why() {
        assert_eq!(plain(Scalar::Int(70_000), &ColumnType::Int2), Err(Reason::OutOfRange));
        assert_eq!(plain(Scalar::Int(1), &TEXT), Err(Reason::WrongType));
        assert_eq!(plain(text("Unknown"), &ColumnType::Jsonb), Err(Reason::WrongType));
        assert_eq!(plain(text("soon"), &MOMENT), Err(Reason::InvalidDate));
        let labels = ColumnType::Enum { labels: vec!["a".into()] };
        assert_eq!(plain(text("b"), &labels), Err(Reason::UnknownEnumLabel));
        assert_eq!(plain(text("a"), &labels), Ok(Some(b"a".to_vec())));
    }

    #[test]
    fn json_that_postgresql_refuses_or_alters_is_no_constant() {
        for column in [ColumnType::Json, ColumnType::Jsonb] {
            for nul in [r#""a\u0000b""#, r#"{"a\u0000":1}"#, r#"[{"a":["\u0000"]}]"#] {
                assert_eq!(plain(text(nul), &column), Err(Reason::NulCharacter), "{nul}");
            }
            for twice in [r#"{"a":1,"a":1}"#, r#"[{"b":{"a":1,"c":2,"\u0061":"\u0000"}}]"#] {
                assert_eq!(plain(text(twice), &column), Err(Reason::DuplicateField), "{twice}");
            }
            assert!(plain(text(r#"{"a":{"a":[1,{"a":2}]},"b":"\\u0000"}"#), &column).is_ok());
        }
    }

    #[test]
    fn a_default_is_read_by_the_columns_rule() {
        let stored = encode_scalar(&Scalar::Int(946_684_800), &[Rule::UnixSeconds], &MOMENT);
        assert_eq!(stored, Ok(Some(vec![0; 8])));
        let stored = encode_scalar(&text("2000-01-01"), &[Rule::UnixSeconds], &MOMENT);
        assert_eq!(stored, Ok(Some(vec![0; 8])));
        let stored = encode_scalar(&Scalar::Int(3), &[Rule::Text], &TEXT);
        assert_eq!(stored, Ok(Some(b"3".to_vec())));
    }
}
