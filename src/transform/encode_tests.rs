use std::str::FromStr;

use bson::Decimal128;

use super::super::numeric::tests::decode;
use super::*;

const NUMERIC: ColumnType = ColumnType::Numeric(None);
const MONEY: ColumnType = ColumnType::Numeric(Some((12, 2)));
const TEXT: ColumnType = ColumnType::Text { kind: TextKind::Text, limit: None };

fn stored(value: Value<'_>, column: &ColumnType) -> Result<Vec<u8>, Reason> {
    let mut out = Vec::new();
    encode(&value, column, &mut out).map(|()| out).map_err(|fault| fault.reason)
}

fn decimal(text: &str) -> Value<'static> {
    Value::Decimal128(u128::from_le_bytes(Decimal128::from_str(text).unwrap().bytes()))
}

fn text(text: &str) -> Value<'_> {
    Value::String(text.as_bytes())
}

fn int4(value: Value<'_>) -> Result<i32, Reason> {
    stored(value, &ColumnType::Int4).map(|bytes| i32::from_be_bytes(bytes.try_into().unwrap()))
}

fn int8(value: Value<'_>) -> Result<i64, Reason> {
    stored(value, &ColumnType::Int8).map(|bytes| i64::from_be_bytes(bytes.try_into().unwrap()))
}

fn float8(value: Value<'_>) -> Result<f64, Reason> {
    stored(value, &ColumnType::Float8).map(|bytes| f64::from_be_bytes(bytes.try_into().unwrap()))
}

fn numeric(value: Value<'_>, column: &ColumnType) -> Result<String, Reason> {
    stored(value, column).map(|bytes| decode(&bytes))
}

#[test]
fn integers_take_whole_numbers_in_range() {
    assert_eq!(int4(Value::Int32(-7)), Ok(-7));
    assert_eq!(int4(Value::Int64(7)), Ok(7));
    assert_eq!(int4(Value::Double(2.0)), Ok(2));
    assert_eq!(int4(Value::Double(-0.0)), Ok(0));
    assert_eq!(int4(decimal("2.00")), Ok(2));
    assert_eq!(int4(decimal("-1E+3")), Ok(-1000));
    assert_eq!(int4(decimal("0E+6000")), Ok(0));
    assert_eq!(int4(Value::Double(2.5)), Err(Reason::NotExact));
    assert_eq!(int4(decimal("2.5")), Err(Reason::NotExact));
    assert_eq!(int4(Value::Int64(1 << 31)), Err(Reason::OutOfRange));
    assert_eq!(int4(Value::Double(f64::NAN)), Err(Reason::OutOfRange));
    assert_eq!(int4(Value::Double(f64::INFINITY)), Err(Reason::OutOfRange));
    assert_eq!(int4(decimal("1E+6000")), Err(Reason::OutOfRange));
    assert_eq!(int4(text("2")), Err(Reason::WrongType));
    assert_eq!(int4(Value::Bool(true)), Err(Reason::WrongType));
    assert_eq!(stored(Value::Int32(40_000), &ColumnType::Int2), Err(Reason::OutOfRange));
    assert_eq!(stored(Value::Int32(-2), &ColumnType::Int2), Ok(vec![0xff, 0xfe]));
    assert_eq!(int8(Value::Double(9_007_199_254_740_994.0)), Ok(9_007_199_254_740_994));
    assert_eq!(int8(Value::Double(-9_223_372_036_854_775_808.0)), Ok(i64::MIN));
    assert_eq!(int8(Value::Double(9_223_372_036_854_775_808.0)), Err(Reason::OutOfRange));
    assert_eq!(int8(decimal("9223372036854775807")), Ok(i64::MAX));
    assert_eq!(int8(decimal("9223372036854775808")), Err(Reason::OutOfRange));
}

#[test]
fn floats_take_what_they_hold_exactly() {
    assert_eq!(float8(Value::Double(0.1)), Ok(0.1));
    let payload = f64::from_bits(0x7ff8_0000_0000_1234);
    assert_eq!(float8(Value::Double(payload)).unwrap().to_bits(), payload.to_bits());
    assert_eq!(float8(Value::Double(-0.0)).unwrap().to_bits(), (-0.0_f64).to_bits());
    assert_eq!(float8(Value::Int64(1 << 53)), Ok(9_007_199_254_740_992.0));
    assert_eq!(float8(Value::Int64((1 << 53) + 1)), Err(Reason::NotExact));
    assert_eq!(float8(Value::Int64(i64::MAX)), Err(Reason::NotExact));
    assert_eq!(float8(decimal("0.5")), Ok(0.5));
    assert_eq!(float8(decimal("0.1")), Err(Reason::NotExact));
    assert_eq!(float8(decimal("-Infinity")), Ok(f64::NEG_INFINITY));
    let float4 =
        |value| stored(value, &ColumnType::Float4).map(|bytes| f32::from_be_bytes(bytes.try_into().unwrap()));
    assert_eq!(float4(Value::Double(0.5)), Ok(0.5));
    assert_eq!(float4(Value::Double(0.1)), Err(Reason::NotExact));
    assert_eq!(float4(Value::Double(1e300)), Err(Reason::OutOfRange));
    assert_eq!(float4(Value::Int32(16_777_217)), Err(Reason::NotExact));
    assert!(float4(Value::Double(f64::NAN)).unwrap().is_nan());
}

#[test]
fn numeric_takes_every_number_that_fits() {
    assert_eq!(numeric(Value::Int32(-5), &NUMERIC).as_deref(), Ok("-5"));
    assert_eq!(numeric(Value::Double(0.1), &NUMERIC).as_deref(), Ok("0.1"));
    assert_eq!(numeric(decimal("1.10"), &NUMERIC).as_deref(), Ok("1.10"));
    assert_eq!(numeric(decimal("1E+3"), &NUMERIC).as_deref(), Ok("1000"));
    assert_eq!(numeric(decimal("-0"), &NUMERIC).as_deref(), Ok("0"));
    assert_eq!(numeric(decimal("NaN"), &NUMERIC).as_deref(), Ok("NaN"));
    assert_eq!(numeric(Value::Double(f64::NEG_INFINITY), &NUMERIC).as_deref(), Ok("-Infinity"));
    assert_eq!(numeric(decimal("1E-6176"), &NUMERIC).unwrap().len(), 6178);
    assert_eq!(numeric(decimal("9E+6144"), &NUMERIC).unwrap().len(), 6145);
    assert_eq!(numeric(Value::Int32(5), &MONEY).as_deref(), Ok("5.00"));
    assert_eq!(numeric(Value::Double(10.25), &MONEY).as_deref(), Ok("10.25"));
    assert_eq!(numeric(Value::Double(10.255), &MONEY), Err(Reason::NotExact));
    assert_eq!(numeric(Value::Double(1e10), &MONEY), Err(Reason::OutOfRange));
    assert_eq!(numeric(Value::Double(f64::NAN), &MONEY), Err(Reason::OutOfRange));
    assert_eq!(numeric(text("1"), &MONEY), Err(Reason::WrongType));
}

#[test]
fn text_takes_text_and_ids() {
    let varchar = ColumnType::Text { kind: TextKind::Varchar, limit: Some(3) };
    let bpchar = ColumnType::Text { kind: TextKind::Bpchar, limit: Some(3) };
    assert_eq!(stored(text("aé"), &TEXT), Ok("aé".into()));
    assert_eq!(stored(Value::Symbol(b"s"), &TEXT), Ok(b"s".to_vec()));
    assert_eq!(stored(Value::ObjectId(&[0xab; 12]), &TEXT), Ok("ab".repeat(12).into_bytes()));
    assert_eq!(
        stored(Value::Binary { subtype: 4, bytes: &[7; 16] }, &TEXT),
        Ok(b"07070707-0707-0707-0707-070707070707".to_vec())
    );
    assert_eq!(stored(Value::Int32(1), &TEXT), Err(Reason::WrongType));
    assert_eq!(stored(Value::Undefined, &TEXT), Err(Reason::WrongType));
    assert_eq!(stored(text("a\0"), &TEXT), Err(Reason::NulCharacter));
    assert_eq!(stored(Value::String(b"\xff"), &TEXT), Err(Reason::InvalidUtf8));
    assert_eq!(stored(text("ééé"), &varchar), Ok("ééé".into()));
    assert_eq!(stored(text("abcd"), &varchar), Err(Reason::TooLong));
    assert_eq!(stored(text("abc "), &varchar), Err(Reason::TooLong));
    assert_eq!(stored(text("ab"), &bpchar), Ok("ab".into()));
    assert_eq!(stored(text("ab "), &bpchar), Err(Reason::NotExact));
}

#[test]
fn uuids_bytes_booleans_and_labels() {
    let uuid = |value| stored(value, &ColumnType::Uuid);
    let hyphenated = "07070707-0707-0707-0707-070707070707";
    assert_eq!(uuid(Value::Binary { subtype: 4, bytes: &[7; 16] }), Ok(vec![7; 16]));
    assert_eq!(uuid(Value::Binary { subtype: 4, bytes: &[7; 15] }), Err(Reason::Malformed));
    assert_eq!(uuid(Value::Binary { subtype: 3, bytes: &[7; 16] }), Err(Reason::WrongType));
    assert_eq!(uuid(text(hyphenated)), Ok(vec![7; 16]));
    assert_eq!(uuid(text("07070707070707070707070707070707")), Err(Reason::WrongType));
    assert_eq!(uuid(text("0707070-70707-0707-0707-070707070707")), Err(Reason::WrongType));
    let bytea = |value| stored(value, &ColumnType::Bytea);
    assert_eq!(bytea(Value::Binary { subtype: 0, bytes: &[1, 2] }), Ok(vec![1, 2]));
    assert_eq!(bytea(Value::Binary { subtype: 2, bytes: &[1, 0, 0, 0, 9] }), Ok(vec![9]));
    assert_eq!(bytea(Value::Binary { subtype: 2, bytes: &[2, 0, 0, 0, 9] }), Err(Reason::Malformed));
    assert_eq!(bytea(Value::Binary { subtype: 0x80, bytes: &[] }), Err(Reason::WrongType));
    assert_eq!(bytea(text("a")), Err(Reason::WrongType));
    assert_eq!(stored(Value::Bool(true), &ColumnType::Bool), Ok(vec![1]));
    assert_eq!(stored(Value::Int32(1), &ColumnType::Bool), Err(Reason::WrongType));
    let labels = ColumnType::Enum { labels: vec!["red".into(), "blue".into()] };
    assert_eq!(stored(text("blue"), &labels), Ok(b"blue".to_vec()));
    assert_eq!(stored(text("Blue"), &labels), Err(Reason::UnknownEnumLabel));
    assert_eq!(stored(Value::Int32(0), &labels), Err(Reason::WrongType));
}

#[test]
fn moments_go_to_moments_only() {
    let zoned = ColumnType::TimestampTz { precision: 6 };
    assert_eq!(stored(Value::Date(946_684_800_001), &zoned), Ok(1000_i64.to_be_bytes().to_vec()));
    assert_eq!(stored(Value::Date(i64::MIN), &zoned), Err(Reason::OutOfRange));
    let seconds = ColumnType::Timestamp { precision: 0 };
    assert_eq!(stored(Value::Date(1), &seconds), Err(Reason::NotExact));
    assert_eq!(stored(Value::Date(946_684_800_000), &ColumnType::Date), Ok(vec![0; 4]));
    assert_eq!(stored(Value::Date(1), &ColumnType::Date), Err(Reason::NotExact));
    let timestamp = Value::Timestamp { seconds: 1, increment: 0 };
    assert_eq!(stored(timestamp, &zoned), Err(Reason::WrongType));
    assert_eq!(stored(Value::Int64(1), &zoned), Err(Reason::WrongType));
    assert_eq!(stored(text("2000-01-01T00:00:00Z"), &zoned), Err(Reason::WrongType));
}

#[test]
fn json_takes_everything() {
    assert_eq!(stored(text("a\"b"), &ColumnType::Json), Ok(b"\"a\\\"b\"".to_vec()));
    assert_eq!(stored(Value::Int32(1), &ColumnType::Jsonb), Ok(b"\x011".to_vec()));
    assert_eq!(stored(text("\0"), &ColumnType::Jsonb), Err(Reason::NulCharacter));
}

#[test]
fn unknown_types_get_the_text_of_scalars() {
    let other = ColumnType::Other("inet".into());
    assert_eq!(stored(text("10.0.0.1"), &other), Ok(b"10.0.0.1".to_vec()));
    assert_eq!(stored(Value::Int32(5), &other), Ok(b"5".to_vec()));
    assert_eq!(stored(Value::Double(1.5), &other), Ok(b"1.5".to_vec()));
    assert_eq!(stored(Value::Bool(false), &other), Ok(b"false".to_vec()));
    assert_eq!(stored(Value::Date(0), &other), Ok(b"1970-01-01T00:00:00.000Z".to_vec()));
    assert_eq!(stored(Value::Document(b"\x05\0\0\0\0"), &other), Err(Reason::WrongType));
    assert_eq!(stored(text("a\0"), &other), Err(Reason::NulCharacter));
}

#[test]
fn messages_name_types_and_never_values() {
    let message = |value: Value<'_>, column: &ColumnType| {
        encode(&value, column, &mut Vec::new()).unwrap_err().message.into_owned()
    };
    assert_eq!(message(text("secret"), &ColumnType::Int4), "string does not fit a column of type integer");
    let limited = ColumnType::Text { kind: TextKind::Varchar, limit: Some(3) };
    assert_eq!(message(text("secret"), &limited), "the text has more than 3 characters");
    assert_eq!(
        message(Value::Int64(987_654_321_000), &ColumnType::Int4),
        "the number is out of the range of integer"
    );
}
