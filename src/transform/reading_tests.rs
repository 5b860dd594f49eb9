use super::super::numeric::tests::decode;
use super::*;
use crate::config::{DateFormat, JsonForm, Rounding};
use crate::domain::TextKind;

const TEXT: ColumnType = ColumnType::Text { kind: TextKind::Text, limit: None };
const MOMENT: ColumnType = ColumnType::TimestampTz { precision: 6 };
const DAY: ColumnType = ColumnType::Date;
const MONEY: ColumnType = ColumnType::Numeric(Some((4, 2)));

/// What is stored, and what was counted.
#[derive(Debug, PartialEq)]
enum Became {
    Value(Vec<u8>, Vec<&'static str>),
    Null(Vec<&'static str>),
    Default(Vec<&'static str>),
    Held(Reason),
}

fn became(reading: Reading, value: Value<'_>, column: &ColumnType) -> Became {
    let reader = Reader::new(&reading, column).unwrap().expect("a reading with rules");
    let (mut out, mut into) = (b"before".to_vec(), Vec::new());
    let stored = reader.store(&value, column, &mut out, &mut Counted { column: 3, into: &mut into });
    assert!(into.iter().all(|coercion| coercion.column == 3));
    let counted = into.into_iter().map(|coercion| coercion.rule).collect();
    let value = out.strip_prefix(b"before").expect("what was there stays").to_vec();
    assert!(value.is_empty() || stored == Ok(Stored::Value), "half a value is left");
    match stored {
        Ok(Stored::Value) => Became::Value(value, counted),
        Ok(Stored::Null | Stored::NullByRule) => Became::Null(counted),
        Ok(Stored::Default) => Became::Default(counted),
        Err(fault) => Became::Held(fault.reason),
    }
}

fn value(text: &str, counted: &[&'static str]) -> Became {
    Became::Value(text.as_bytes().to_vec(), counted.to_vec())
}

fn text(text: &str) -> Value<'_> {
    Value::String(text.as_bytes())
}

fn none() -> Reading {
    Reading::default()
}

fn varchar(limit: u32) -> ColumnType {
    ColumnType::Text { kind: TextKind::Varchar, limit: Some(limit) }
}

fn statuses() -> ColumnType {
    ColumnType::Enum { labels: ["OPEN", "DONE", "OTHER"].map(str::to_owned).to_vec() }
}

fn map(fold_case: bool, otherwise: Otherwise) -> Reading {
    let labels = [("open", "OPEN"), ("DONE", "DONE"), ("1", "DONE"), ("true", "OPEN")];
    let labels = labels.map(|(value, label)| (value.to_owned(), Scalar::Text(label.to_owned()))).to_vec();
    Reading { labels: Some(EnumMap { labels, fold_case, otherwise }), ..none() }
}

#[test]
fn text_is_cleaned_and_each_step_counted_only_where_it_alters() {
    let reading = || Reading {
        strip_nul: true,
        trim: true,
        strip_prefix: Some("line_item_".to_owned()),
        case: Some(Case::Upper),
        ..none()
    };
    assert_eq!(became(reading(), text("A1"), &TEXT), value("A1", &[]));
    let all = ["strip_nul", "trim", "strip_prefix", "case"];
    assert_eq!(became(reading(), text("\0 line_item_ä1\t\u{a0}"), &TEXT), value("Ä1", &all));
    assert_eq!(became(reading(), Value::Symbol(b"a"), &TEXT), value("A", &["case"]));
    assert_eq!(became(reading(), Value::String(b" \xff"), &TEXT), Became::Held(Reason::InvalidUtf8));
    assert_eq!(became(reading(), Value::Int32(1), &TEXT), Became::Held(Reason::WrongType));
}

#[test]
fn values_that_count_as_null_are_null_after_trimming() {
    let null_if =
        vec![Scalar::Text("".into()), Scalar::Text("N/A".into()), Scalar::Int(0), Scalar::Bool(false)];
    let reading = || Reading { trim: true, null_if: null_if.clone(), rules: vec![Rule::Text], ..none() };
    for null in [text("N/A"), Value::Int32(0), Value::Double(0.0), Value::Double(-0.0), Value::Bool(false)] {
        assert_eq!(became(reading(), null, &TEXT), Became::Null(vec!["null_if"]), "{null:?}");
    }
    assert_eq!(became(reading(), text("  "), &TEXT), Became::Null(vec!["trim", "null_if"]));
    assert_eq!(became(reading(), text("n/a"), &TEXT), value("n/a", &[]));
    assert_eq!(became(reading(), Value::Int32(10), &TEXT), value("10", &["text"]));
    assert_eq!(became(reading(), Value::Double(f64::NAN), &TEXT), value("NaN", &["text"]));
}

#[test]
fn an_enum_map_names_labels_and_what_becomes_of_the_rest() {
    let statuses = statuses();
    let hold = || map(false, Otherwise::Hold);
    assert_eq!(became(hold(), text("open"), &statuses), value("OPEN", &["enum"]));
    assert_eq!(became(hold(), text("DONE"), &statuses), value("DONE", &[]));
    assert_eq!(became(hold(), Value::Double(1.0), &statuses), value("DONE", &["enum"]));
    assert_eq!(became(hold(), Value::Bool(true), &statuses), value("OPEN", &["enum"]));
    assert_eq!(became(hold(), text("Open"), &statuses), Became::Held(Reason::UnknownEnumLabel));
    assert_eq!(became(hold(), text("OPEN"), &statuses), Became::Held(Reason::UnknownEnumLabel));
    assert_eq!(became(hold(), Value::Undefined, &statuses), Became::Held(Reason::WrongType));
    let folded = || map(true, Otherwise::Label(Scalar::Text("OTHER".into())));
    assert_eq!(became(folded(), text("oPEN"), &statuses), value("OPEN", &["enum"]));
    assert_eq!(became(folded(), text("no"), &statuses), value("OTHER", &["otherwise"]));
    assert_eq!(became(folded(), Value::Undefined, &statuses), value("OTHER", &["otherwise"]));
    assert_eq!(became(map(false, Otherwise::Null), text("no"), &statuses), Became::Null(vec!["otherwise"]));
    assert_eq!(
        became(map(false, Otherwise::Default), text("no"), &statuses),
        Became::Default(vec!["otherwise"])
    );
}

#[test]
fn labels_that_do_not_fit_the_column_are_told_at_the_start() {
    let narrow = ColumnType::Enum { labels: vec!["OPEN".into()] };
    let (what, fault) = Reader::new(&map(false, Otherwise::Hold), &narrow).unwrap_err();
    assert_eq!((what, fault.reason), ("a label", Reason::UnknownEnumLabel));
    assert!(Reader::new(&Rule::Number.into(), &TEXT).is_err());
    assert!(Reader::new(&Reading { default_for_null: true, ..none() }, &TEXT).unwrap().is_none());
}

#[test]
fn labels_may_be_numbers() {
    let labels = vec![
        ("low".to_owned(), Scalar::Int(1)),
        ("high".to_owned(), Scalar::Text("3".into())),
        ("2".to_owned(), Scalar::Int(2)),
    ];
    let reading = || Reading {
        labels: Some(EnumMap { labels: labels.clone(), fold_case: false, otherwise: Otherwise::Hold }),
        ..none()
    };
    assert_eq!(became(reading(), text("low"), &ColumnType::Int2), Became::Value(vec![0, 1], vec!["enum"]));
    assert_eq!(became(reading(), text("high"), &ColumnType::Int2), Became::Value(vec![0, 3], vec!["enum"]));
    assert_eq!(became(reading(), text("2"), &ColumnType::Int2), Became::Value(vec![0, 2], vec!["enum"]));
    assert_eq!(
        became(reading(), Value::Int32(2), &ColumnType::Int2),
        Became::Value(vec![0, 2], vec![]),
        "as it is"
    );
}

#[test]
fn of_several_rules_the_first_that_can_reads_the_value() {
    let formats = vec![DateFormat::parse("%d.%m.%Y").unwrap()];
    let reading = || Reading {
        rules: vec![Rule::Iso8601, Rule::Date(formats.clone()), Rule::UnixMilliseconds],
        ..none()
    };
    let day = |days: i64, counted: &[&'static str]| {
        Became::Value((days * 86_400_000_000).to_be_bytes().to_vec(), counted.to_vec())
    };
    assert_eq!(became(reading(), text("2000-01-02"), &MOMENT), day(1, &[]));
    assert_eq!(became(reading(), Value::Date(946_684_800_000), &MOMENT), day(0, &[]));
    // Another spelling than the first is counted.
    assert_eq!(became(reading(), text("03.01.2000"), &MOMENT), day(2, &["date"]));
    assert_eq!(became(reading(), Value::Int64(946_684_800_000), &MOMENT), day(0, &["unix_milliseconds"]));
    assert_eq!(became(reading(), text("2000-13-01"), &MOMENT), Became::Held(Reason::InvalidDate));
    assert_eq!(became(reading(), Value::Bool(true), &MOMENT), Became::Held(Reason::WrongType));
}

#[test]
fn booleans_have_words() {
    let read = |value: Value<'_>| became(Rule::Boolean.into(), value, &ColumnType::Bool);
    let is = |flag: bool, counted: &[&'static str]| Became::Value(vec![u8::from(flag)], counted.to_vec());
    assert_eq!(read(Value::Bool(true)), is(true, &[]));
    for yes in [text("yes"), text("On"), text("1"), text("TRUE"), Value::Int32(1), Value::Double(1.0)] {
        assert_eq!(read(yes), is(true, &["boolean"]), "{yes:?}");
    }
    for no in [text("false"), text("no"), text("off"), text("0"), Value::Int64(0)] {
        assert_eq!(read(no), is(false, &["boolean"]), "{no:?}");
    }
    for neither in
        [text(""), text("y"), Value::Int32(2), Value::Double(0.5), Value::Double(f64::NAN), Value::Date(0)]
    {
        assert_eq!(read(neither), Became::Held(Reason::WrongType), "{neither:?}");
    }
}

#[test]
fn an_object_id_may_be_text() {
    let read = |value: Value<'_>| became(Rule::ObjectId.into(), value, &TEXT);
    assert_eq!(read(Value::ObjectId(&[0xab; 12])), value(&"ab".repeat(12), &[]));
    assert_eq!(read(text(&"ab".repeat(12))), value(&"ab".repeat(12), &[]));
    assert_eq!(read(text(&"AB".repeat(12))), value(&"ab".repeat(12), &["object_id"]));
    for other in [text("abc"), text(&"xy".repeat(12)), text(&"a".repeat(25)), Value::Int32(1)] {
        assert_eq!(read(other), Became::Held(Reason::WrongType));
    }
}

fn scaled(value: Value<'_>, places: u16, rounding: Rounding, rules: &[Rule]) -> (String, Vec<&'static str>) {
    let scale = Some(Scale { places, rounding });
    let reading = Reading { scale, rules: rules.to_vec(), ..none() };
    match became(reading, value, &ColumnType::Numeric(None)) {
        Became::Value(bytes, counted) => (decode(&bytes), counted),
        other => panic!("{value:?} became {other:?}"),
    }
}

#[test]
fn numbers_are_rounded_half_away_from_zero_or_half_to_even() {
    let away = |value, places| scaled(value, places, Rounding::HalfAwayFromZero, &[]);
    let even = |value, places| scaled(value, places, Rounding::HalfEven, &[]);
    let altered = |text: &str| (text.to_owned(), vec!["scale"]);
    assert_eq!(away(Value::Double(0.125), 2), altered("0.13"));
    assert_eq!(away(Value::Double(-0.125), 2), altered("-0.13"));
    assert_eq!(even(Value::Double(0.125), 2), altered("0.12"));
    assert_eq!(even(Value::Double(0.375), 2), altered("0.38"));
    assert_eq!(even(Value::Double(0.1251), 2), altered("0.13"));
    assert_eq!(away(Value::Double(9.999), 2), altered("10.00"));
    assert_eq!(away(Value::Double(0.5), 0), altered("1"));
    assert_eq!(even(Value::Double(0.5), 0), altered("0"));
    assert_eq!(even(Value::Double(1.5), 0), altered("2"));
    assert_eq!(away(Value::Double(0.05), 0), altered("0"));
    assert_eq!(away(Value::Double(-1e-300), 2), altered("0.00"));
    assert_eq!(away(Value::Double(1.005), 2), altered("1.01"));
    assert_eq!(away(Value::Int32(7), 2), ("7".to_owned(), vec![]));
    assert_eq!(away(Value::Double(7.25), 2), ("7.25".to_owned(), vec![]));
    let text = |text: &'static str| {
        scaled(Value::String(text.as_bytes()), 2, Rounding::HalfAwayFromZero, &[Rule::Number])
    };
    assert_eq!(text("1.239"), ("1.24".to_owned(), vec!["scale", "number"]));
    assert_eq!(text("1.2300"), ("1.23".to_owned(), vec!["number"]));
    assert_eq!(
        text("99999999999999999999.995"),
        ("100000000000000000000.00".to_owned(), vec!["scale", "number"])
    );
    assert_eq!(text("1e-999999"), ("0.00".to_owned(), vec!["scale", "number"]));
}

#[test]
fn rounding_reaches_every_column_of_numbers() {
    let scale = Some(Scale { places: 0, rounding: Rounding::HalfAwayFromZero });
    let stored = |value, column: &ColumnType| became(Reading { scale, ..none() }, value, column);
    assert_eq!(stored(Value::Double(1.5), &ColumnType::Int2), Became::Value(vec![0, 2], vec!["scale"]));
    assert_eq!(
        stored(Value::Double(1.5), &ColumnType::Float8),
        Became::Value(2.0_f64.to_be_bytes().to_vec(), vec!["scale"])
    );
    assert_eq!(
        stored(Value::Double(-0.0), &ColumnType::Float8),
        Became::Value((-0.0_f64).to_be_bytes().to_vec(), vec![])
    );
    assert_eq!(stored(Value::Double(f64::NAN), &ColumnType::Int2), Became::Held(Reason::OutOfRange));
    assert_eq!(stored(text("1.5"), &ColumnType::Int2), Became::Held(Reason::WrongType));
}

#[test]
fn text_and_moments_are_cut_to_what_the_column_keeps() {
    let cut = |rules: &[Rule], value, column: &ColumnType| {
        became(Reading { truncate: true, rules: rules.to_vec(), ..none() }, value, column)
    };
    assert_eq!(cut(&[], text("ééé"), &varchar(3)), value("ééé", &[]));
    assert_eq!(cut(&[], text("éééa"), &varchar(3)), value("ééé", &["truncate"]));
    assert_eq!(cut(&[Rule::Text], Value::Int32(12_345), &varchar(3)), value("123", &["truncate", "text"]));
    let days =
        |days: i32, counted: &[&'static str]| Became::Value(days.to_be_bytes().to_vec(), counted.to_vec());
    assert_eq!(cut(&[], Value::Date(946_684_800_000 - 1), &DAY), days(-1, &["truncate"]));
    assert_eq!(cut(&[Rule::Iso8601], text("2000-01-02T23:59:59Z"), &DAY), days(1, &["truncate"]));
    assert_eq!(cut(&[], Value::Date(946_684_800_000), &DAY), days(0, &[]));
    let seconds = cut(&[], Value::Date(946_684_800_999), &ColumnType::Timestamp { precision: 0 });
    assert_eq!(seconds, Became::Value(vec![0; 8], vec!["truncate"]));
}

#[test]
fn a_value_that_does_not_fit_becomes_what_on_error_says() {
    let on_error = |on_error, value, column: &ColumnType| {
        became(Reading { on_error, trim: true, ..none() }, value, column)
    };
    let int = ColumnType::Int2;
    assert_eq!(on_error(OnError::Null, text(" 1"), &int), Became::Null(vec!["on_error_null"]));
    assert_eq!(
        on_error(OnError::Default, Value::Double(0.5), &int),
        Became::Default(vec!["on_error_default"])
    );
    assert_eq!(on_error(OnError::Null, Value::Int32(5), &int), Became::Value(vec![0, 5], vec![]));
    let clamped = |bytes: &[u8]| Became::Value(bytes.to_vec(), vec!["on_error_clamp"]);
    let clamp = |value, column: &ColumnType| on_error(OnError::Clamp, value, column);
    assert_eq!(clamp(Value::Int32(40_000), &int), clamped(&[0x7f, 0xff]));
    assert_eq!(clamp(Value::Double(f64::NEG_INFINITY), &int), clamped(&[0x80, 0]));
    assert_eq!(clamp(Value::Double(f64::NAN), &int), Became::Held(Reason::OutOfRange));
    assert_eq!(clamp(Value::Double(0.5), &int), Became::Held(Reason::NotExact));
    assert_eq!(clamp(text("x"), &int), Became::Held(Reason::WrongType));
    assert_eq!(clamp(Value::Double(-1e300), &ColumnType::Float4), clamped(&f32::MIN.to_be_bytes()));
    let Became::Value(money, counted) = clamp(Value::Int64(-1_000), &MONEY) else { panic!("not clamped") };
    assert_eq!((decode(&money), counted), ("-99.99".to_owned(), vec!["on_error_clamp"]));
    let (first, last) = (-211_813_488_000_000_000_i64, 9_223_371_331_199_999_999_i64);
    assert_eq!(clamp(Value::Date(i64::MIN), &MOMENT), clamped(&first.to_be_bytes()));
    assert_eq!(clamp(Value::Date(i64::MAX), &MOMENT), clamped(&last.to_be_bytes()));
    let whole_seconds = ColumnType::Timestamp { precision: 0 };
    assert_eq!(clamp(Value::Date(i64::MAX), &whole_seconds), clamped(&(last - 999_999).to_be_bytes()));
    assert_eq!(clamp(Value::Date(i64::MAX), &DAY), clamped(&2_145_031_948_i32.to_be_bytes()));
}

#[test]
fn nul_goes_from_json_too() {
    let reading = || Reading { strip_nul: true, rules: vec![Rule::Json], ..none() };
    let document = bson::doc! { "a": ["x\0y"] }.to_vec().unwrap();
    assert_eq!(
        became(reading(), Value::Document(&document), &TEXT),
        value(r#"{"a":["xy"]}"#, &["strip_nul"])
    );
    assert_eq!(became(reading(), text("a\0"), &ColumnType::Jsonb), value("\u{1}\"a\"", &["strip_nul"]));
}

#[test]
fn json_takes_other_forms_and_wraps_single_values() {
    let json = |json, wrap| Reading { json, wrap, ..none() };
    let id = Value::ObjectId(&[0xab; 12]);
    let (plain, canonical) = (json(JsonForm::Plain, true), json(JsonForm::Canonical, false));
    assert_eq!(
        became(plain, id, &ColumnType::Json),
        value(&format!("[\"{}\"]", "ab".repeat(12)), &["json_plain", "array"])
    );
    assert_eq!(became(canonical, Value::Int32(1), &ColumnType::Json), value(r#"{"$numberInt":"1"}"#, &[]));
    let one = bson::doc! { "0": 1 }.to_vec().unwrap();
    assert_eq!(
        became(json(JsonForm::Relaxed, true), Value::Array(&one), &ColumnType::Json),
        value("[1]", &[])
    );
}

#[test]
fn each_element_of_an_array_is_read_by_the_rules() {
    let texts = |element| ColumnType::Array { element: Box::new(element), cast_sql: "text[]".into() };
    let array = |values: bson::Array| bson::doc! { "a": values }.to_vec().unwrap();
    let inner = |document: &[u8]| document[7..document.len() - 1].to_vec();
    let document = array(vec![" a".into(), "".into(), bson::Bson::Null, 5.into()]);
    let values = inner(&document);
    let reading = || Reading {
        trim: true,
        null_if: vec![Scalar::Text(String::new())],
        rules: vec![Rule::Text],
        wrap: true,
        ..none()
    };
    assert_eq!(
        became(reading(), Value::Array(&values), &texts(TEXT)),
        value("{\"a\",NULL,NULL,\"5\"}", &["trim", "null_if", "text"])
    );
    assert_eq!(became(reading(), text("x"), &texts(TEXT)), value("{\"x\"}", &["array"]));
    assert_eq!(became(reading(), text(" "), &texts(TEXT)), Became::Null(vec!["trim", "null_if"]));
    let strict = || Reading { wrap: false, ..reading() };
    assert_eq!(became(strict(), text("x"), &texts(TEXT)), Became::Held(Reason::WrongType));
    assert_eq!(became(strict(), text(""), &texts(TEXT)), Became::Null(vec!["null_if"]));

    let numbers = || texts(ColumnType::Int2);
    let on_error = |on_error| Reading { on_error, ..none() };
    let document = array(vec![1.into(), 70_000.into()]);
    let values = inner(&document);
    let array = Value::Array(&values);
    assert_eq!(became(on_error(OnError::Null), array, &numbers()), value("{\"1\",NULL}", &["on_error_null"]));
    assert_eq!(
        became(on_error(OnError::Clamp), array, &numbers()),
        value("{\"1\",\"32767\"}", &["on_error_clamp"])
    );
    assert_eq!(
        became(on_error(OnError::Default), array, &numbers()),
        Became::Default(vec!["on_error_default"])
    );
    assert_eq!(became(on_error(OnError::Null), text("x"), &numbers()), Became::Null(vec!["on_error_null"]));
    assert_eq!(became(Reading { trim: true, ..none() }, array, &numbers()), Became::Held(Reason::OutOfRange));
}
