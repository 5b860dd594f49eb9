use super::super::numeric::tests::decode;
use super::super::reading::{Counted, Reader};
use super::*;
use crate::domain::TextKind;

const MOMENT: ColumnType = ColumnType::TimestampTz { precision: 6 };
const TEXT: ColumnType = ColumnType::Text { kind: TextKind::Text, limit: None };
const EPOCH_SECONDS: i64 = 946_684_800;

fn read(rule: Rule, value: Value<'_>, column: &ColumnType) -> Result<(Vec<u8>, bool), Reason> {
    let reader = Reader::new(&rule.into(), column).unwrap().unwrap();
    let (mut out, mut altered) = (Vec::new(), Vec::new());
    let stored = reader.store(&value, column, &mut out, &mut Counted { column: 0, into: &mut altered });
    stored.map(|_| (out, !altered.is_empty())).map_err(|fault| fault.reason)
}

fn moment(rule: Rule, value: Value<'_>) -> Result<i64, Reason> {
    let (bytes, altered) = read(rule, value, &MOMENT)?;
    assert!(!altered);
    Ok(i64::from_be_bytes(bytes.try_into().unwrap()))
}

fn plain(rule: Rule, value: Value<'_>) -> Result<String, Reason> {
    read(rule, value, &TEXT).map(|(bytes, _)| String::from_utf8(bytes).unwrap())
}

#[test]
fn unix_times_are_exact_to_the_microsecond() {
    let seconds = |value| moment(Rule::UnixSeconds, value);
    assert_eq!(seconds(Value::Int32(EPOCH_SECONDS as i32)), Ok(0));
    assert_eq!(seconds(Value::Double(946_684_800.123)), Ok(123_000));
    assert_eq!(seconds(Value::Double(946_684_800.123_456)), Ok(123_456));
    assert_eq!(seconds(Value::Double(0.000_000_1)), Err(Reason::NotExact));
    assert_eq!(seconds(Value::Double(f64::NAN)), Err(Reason::OutOfRange));
    assert_eq!(seconds(Value::Double(1e300)), Err(Reason::OutOfRange));
    assert_eq!(seconds(Value::Int64(i64::MAX)), Err(Reason::OutOfRange));
    assert_eq!(seconds(Value::String(b"946684800")), Err(Reason::WrongType));
    assert_eq!(seconds(Value::Date(EPOCH_SECONDS * 1000)), Ok(0));
    let milliseconds = |value| moment(Rule::UnixMilliseconds, value);
    assert_eq!(milliseconds(Value::Int64(EPOCH_SECONDS * 1000 + 1)), Ok(1000));
    assert_eq!(milliseconds(Value::Double(946_684_800_000.5)), Ok(500));
    let day = read(Rule::UnixSeconds, Value::Int64(EPOCH_SECONDS + 86_400), &ColumnType::Date);
    assert_eq!(day, Ok((vec![0, 0, 0, 1], false)));
    let day = read(Rule::UnixSeconds, Value::Int64(EPOCH_SECONDS + 1), &ColumnType::Date);
    assert_eq!(day, Err(Reason::NotExact));
}

#[test]
fn rfc3339_reads_text() {
    let read = |value| moment(Rule::Rfc3339, value);
    assert_eq!(read(Value::String(b"2000-01-01T01:00:00.5+01:00")), Ok(500_000));
    assert_eq!(read(Value::Date(EPOCH_SECONDS * 1000)), Ok(0));
    assert_eq!(read(Value::String(b"2000-01-01")), Err(Reason::InvalidDate));
    assert_eq!(read(Value::Int32(5)), Err(Reason::WrongType));
}

#[test]
fn text_of_anything_is_counted_when_it_was_something_else() {
    assert_eq!(read(Rule::Text, Value::Int32(5), &TEXT), Ok((b"5".to_vec(), true)));
    assert_eq!(read(Rule::Text, Value::String(b"a"), &TEXT), Ok((b"a".to_vec(), false)));
    assert!(!read(Rule::Text, Value::ObjectId(&[1; 12]), &TEXT).unwrap().1);
    for (value, text) in [
        (Value::Double(1.0), "1"),
        (Value::Double(-0.0), "0"),
        (Value::Double(2.5), "2.5"),
        (Value::Double(1e18), "1000000000000000000"),
        (Value::Double(1_152_921_504_606_846_976.0), "1152921504606846976"),
        (Value::Double(1e300), "1e300"),
        (Value::Double(f64::NAN), "NaN"),
        (Value::Bool(true), "true"),
        (Value::Date(1), "1970-01-01T00:00:00.001Z"),
        (Value::Array(b"\x0c\0\0\0\x100\0\x01\0\0\0\0"), "[1]"),
        (Value::Timestamp { seconds: 1, increment: 2 }, r#"{"$timestamp":{"t":1,"i":2}}"#),
    ] {
        assert_eq!(plain(Rule::Text, value).as_deref(), Ok(text));
    }
    assert_eq!(plain(Rule::Text, Value::Date(i64::MAX)), Err(Reason::InvalidDate));
    let labels = ColumnType::Enum { labels: vec!["1".into()] };
    assert_eq!(read(Rule::Text, Value::Int32(1), &labels), Ok((b"1".to_vec(), true)));
    assert_eq!(read(Rule::Text, Value::Int32(2), &labels), Err(Reason::UnknownEnumLabel));
}

#[test]
fn number_text_becomes_the_number() {
    let money = ColumnType::Numeric(Some((12, 2)));
    let number =
        |text: &'static str, column: &ColumnType| read(Rule::Number, Value::String(text.as_bytes()), column);
    let (bytes, altered) = number("-12.5", &money).unwrap();
    assert_eq!((decode(&bytes).as_str(), altered), ("-12.50", true));
    assert_eq!(number("12.505", &money), Err(Reason::NotExact));
    assert_eq!(number("1,000", &money), Err(Reason::WrongType));
    assert_eq!(number("", &money), Err(Reason::WrongType));
    assert_eq!(number("4e1", &ColumnType::Int2), Ok((vec![0, 40], true)));
    assert_eq!(number("40000", &ColumnType::Int2), Err(Reason::OutOfRange));
    assert_eq!(number("1.5", &ColumnType::Int8), Err(Reason::NotExact));
    assert_eq!(number("0.1", &ColumnType::Float8), Ok((0.1_f64.to_be_bytes().to_vec(), true)));
    assert_eq!(number("1e400", &ColumnType::Float8), Err(Reason::OutOfRange));
    assert_eq!(number("1e-400", &ColumnType::Float8), Err(Reason::NotExact));
    let wei = "115792089237316195423570985008687907853269984665640564039457584007913129639935";
    assert_eq!(decode(&number(wei, &ColumnType::Numeric(None)).unwrap().0), wei);
    assert_eq!(read(Rule::Number, Value::Int32(5), &ColumnType::Int2), Ok((vec![0, 5], false)));
    assert_eq!(read(Rule::Number, Value::Bool(true), &ColumnType::Int2), Err(Reason::WrongType));
}

#[test]
fn json_goes_to_text_too() {
    assert_eq!(plain(Rule::Json, Value::String(b"a")).as_deref(), Ok("\"a\""));
    let limited = ColumnType::Text { kind: TextKind::Varchar, limit: Some(2) };
    assert_eq!(read(Rule::Json, Value::String(b"a"), &limited), Err(Reason::TooLong));
    assert_eq!(read(Rule::Json, Value::Bool(true), &ColumnType::Jsonb), Ok((b"\x01true".to_vec(), false)));
}

#[test]
fn number_text_is_rounded_once() {
    let number = |text: &str, column| read(Rule::Number, Value::String(text.as_bytes()), &column);
    let real = |text: &str| {
        let (bytes, _) = number(text, ColumnType::Float4)?;
        Ok(f32::from_be_bytes(bytes.try_into().unwrap()))
    };
    // Just below the middle of two reals, and in the middle once it is a double.
    assert_eq!(real("1.00000017881393432617187499"), Ok(1.0 + f32::EPSILON));
    assert_eq!(real("-0.1"), Ok(-0.1));
    assert_eq!(real("0.0"), Ok(0.0));
    assert_eq!(real("1e39"), Err(Reason::OutOfRange));
    assert_eq!(real("1e-60"), Err(Reason::NotExact));
    assert_eq!(real("1e-400"), Err(Reason::NotExact));
}

#[test]
fn a_decimal_far_from_any_moment_is_out_of_range() {
    // The least Decimal128 whose microseconds an i128 holds.
    let decimal: bson::Decimal128 = "-1701411834604692317316873037158841E-1".parse().unwrap();
    for negative in [true, false] {
        let bits = u128::from_le_bytes(decimal.bytes()) ^ (u128::from(!negative) << 127);
        for column in [MOMENT, ColumnType::Timestamp { precision: 0 }, ColumnType::Date] {
            let value = Value::Decimal128(bits);
            assert_eq!(read(Rule::UnixSeconds, value, &column), Err(Reason::OutOfRange));
        }
    }
}
