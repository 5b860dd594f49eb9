//! Any value into any column, with any rules: stored as it is, altered by a rule that is counted, or held.

use bson::{Bson, doc};
use proptest::prelude::*;

use super::array;
use super::reading::{Counted, Reader, Stored};
use super::walk::{Elements, Value};
use super::{encode::encode, filter};
use crate::config::{Case, JsonForm, OnError, Reading, Rounding, Rule, Scalar, Scale};
use crate::domain::{ColumnType, TextKind};

fn column() -> impl Strategy<Value = ColumnType> {
    let text = |kind, limit| ColumnType::Text { kind, limit };
    let scalar = prop_oneof![
        Just(ColumnType::Bool),
        Just(ColumnType::Int2),
        Just(ColumnType::Int4),
        Just(ColumnType::Int8),
        Just(ColumnType::Float4),
        Just(ColumnType::Float8),
        Just(ColumnType::Numeric(None)),
        Just(ColumnType::Numeric(Some((5, 2)))),
        Just(text(TextKind::Text, None)),
        Just(text(TextKind::Varchar, Some(3))),
        Just(text(TextKind::Bpchar, Some(3))),
        Just(ColumnType::Uuid),
        Just(ColumnType::Bytea),
        Just(ColumnType::Date),
        Just(ColumnType::Timestamp { precision: 3 }),
        Just(ColumnType::TimestampTz { precision: 6 }),
        Just(ColumnType::Json),
        Just(ColumnType::Jsonb),
        Just(ColumnType::Enum { labels: vec!["a".into(), "1".into()] }),
    ];
    (scalar, any::<bool>()).prop_map(|(element, is_array)| match is_array {
        true => ColumnType::Array { element: Box::new(element), cast_sql: "array".into() },
        false => element,
    })
}

fn value() -> impl Strategy<Value = Bson> {
    let leaf = prop_oneof![
        any::<i32>().prop_map(Bson::from),
        (-2_i32..3).prop_map(Bson::from),
        any::<i64>().prop_map(Bson::from),
        any::<f64>().prop_map(Bson::from),
        (-40_000..40_000).prop_map(|hundredths| Bson::from(f64::from(hundredths) / 100.0)),
        any::<[u8; 16]>().prop_map(|bytes| Bson::from(bson::Decimal128::from_bytes(bytes))),
        "[0-9]{1,4}(\\.[0-9]{0,3})?".prop_map(|text| Bson::from(text.parse::<bson::Decimal128>().unwrap())),
        "[ a1.\u{0}é,{}\"\\\\]{0,5}".prop_map(Bson::from),
        any::<bool>().prop_map(Bson::from),
        Just(Bson::Undefined),
        any::<[u8; 12]>().prop_map(|bytes| Bson::from(bson::oid::ObjectId::from_bytes(bytes))),
        any::<i64>().prop_map(|ms| Bson::from(bson::DateTime::from_millis(ms))),
        (-30_000_i64..30_000).prop_map(|days| Bson::from(bson::DateTime::from_millis(days * 86_400_000))),
        (0_u8..5, prop::collection::vec(any::<u8>(), 16))
            .prop_map(|(subtype, bytes)| Bson::from(bson::Binary { subtype: subtype.into(), bytes })),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Bson::Array),
            inner.prop_map(|value| Bson::Document(doc! { "a": value })),
        ]
    })
}

prop_compose! {
    fn reading()(
        flags in any::<[bool; 6]>(),
        case in prop::option::of(prop_oneof![Just(Case::Lower), Just(Case::Upper)]),
        rules in prop::collection::vec(prop_oneof![
            Just(Rule::UnixSeconds), Just(Rule::UnixMilliseconds), Just(Rule::Rfc3339), Just(Rule::Iso8601),
            Just(Rule::Text), Just(Rule::Number), Just(Rule::Boolean), Just(Rule::ObjectId), Just(Rule::Json),
        ], 0..3),
        json in prop_oneof![Just(JsonForm::Relaxed), Just(JsonForm::Canonical), Just(JsonForm::Plain)],
        places in prop::option::of(0_u16..4),
        on_error in prop_oneof![
            Just(OnError::Hold), Just(OnError::Null), Just(OnError::Default), Just(OnError::Clamp),
        ],
    ) -> Reading {
        let [strip_nul, trim, prefixed, nulled, truncate, wrap] = flags;
        Reading {
            strip_nul,
            trim,
            strip_prefix: prefixed.then(|| "a".to_owned()),
            null_if: if nulled { vec![Scalar::Text(String::new()), Scalar::Int(0)] } else { Vec::new() },
            case,
            rules,
            wrap,
            json,
            scale: places.map(|places| Scale { places, rounding: Rounding::HalfEven }),
            truncate,
            on_error,
            ..Reading::default()
        }
    }
}

/// The text of what is stored; `None` where it is held.
fn stored(value: &Value<'_>, column: &ColumnType) -> Option<String> {
    let mut bytes = Vec::new();
    encode(value, column, &mut bytes).ok()?;
    if let ColumnType::Array { .. } = column {
        return Some(String::from_utf8(bytes).unwrap());
    }
    let literal = array::literal(std::iter::once(Some(bytes.as_slice())), column);
    let text = String::from_utf8(literal).ok()?;
    let quoted = text.strip_prefix("{\"").unwrap().strip_suffix("\"}").unwrap();
    Some(quoted.replace("\\\"", "\"").replace("\\\\", "\\"))
}

fn with_value<T>(value: &Bson, then: impl FnOnce(Value<'_>) -> T) -> T {
    let document = doc! { "a": value.clone() }.to_vec().unwrap();
    let (_, raw) = Elements::new(&document).unwrap().next().unwrap().unwrap();
    then(raw.value().unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn what_is_stored_without_a_rule_is_the_value_itself(bson in value(), column in column()) {
        with_value(&bson, |value| {
            let Some(text) = stored(&value, &column) else { return Ok(()) };
            let is_number = matches!(
                column,
                ColumnType::Int2 | ColumnType::Int4 | ColumnType::Int8 | ColumnType::Numeric(_)
                    | ColumnType::Float4 | ColumnType::Float8
            );
            match (&bson, &column) {
                // A double is the shortest decimal that gives it back.
                (Bson::Double(double), ColumnType::Numeric(_)) => {
                    let back: f64 = text.parse().unwrap();
                    prop_assert!(back == *double || back.is_nan() && double.is_nan(), "{text}");
                }
                _ if is_number => {
                    let back: Bson = match text.parse::<f64>() {
                        Ok(back) if matches!(column, ColumnType::Float4 | ColumnType::Float8) => back.into(),
                        // By its word: numbers above the largest double are none of these.
                        Ok(back) if text.ends_with(char::is_alphabetic) => back.into(),
                        _ if text.trim_start_matches('-').len() <= 18 && !text.contains('.') => {
                            text.parse::<i64>().unwrap().into()
                        }
                        _ => match text.parse::<bson::Decimal128>() {
                            Ok(back) => back.into(),
                            Err(_) => return Ok(()),
                        },
                    };
                    prop_assert!(filter::same(&value, &back), "{bson} became {text}");
                }
                (Bson::String(string), ColumnType::Text { .. } | ColumnType::Enum { .. }) => {
                    prop_assert_eq!(&text, string);
                }
                (Bson::Boolean(flag), _) if matches!(column, ColumnType::Bool) => {
                    prop_assert_eq!(text == "t", *flag);
                }
                (Bson::ObjectId(id), ColumnType::Text { .. }) => prop_assert_eq!(text, id.to_hex()),
                _ => {}
            }
            Ok(())
        })?;
    }

    #[test]
    fn what_a_rule_alters_is_counted(bson in value(), column in column(), reading in reading()) {
        // Rules that do not go with the column are refused before the first document.
        let Ok(Some(reader)) = Reader::new(&reading, &column) else { return Ok(()) };
        with_value(&bson, |value| {
            let (mut out, mut into) = (Vec::new(), Vec::new());
            let result = reader.store(&value, &column, &mut out, &mut Counted { column: 0, into: &mut into });
            let mut plain = Vec::new();
            let fits = encode(&value, &column, &mut plain).is_ok();
            let declared = !reading.rules.is_empty() || reading.json != JsonForm::Relaxed || reading.scale.is_some();
            match result {
                Ok(Stored::Value) => {
                    // A rule that says how to read is no alteration; all others are counted where they alter.
                    prop_assert!(!into.is_empty() || declared || fits && plain == out, "{bson} was altered");
                }
                Ok(Stored::Null | Stored::NullByRule | Stored::Default) => prop_assert!(!into.is_empty()),
                Err(fault) => prop_assert!(!fault.message.is_empty()),
            }
            Ok(())
        })?;
    }
}
