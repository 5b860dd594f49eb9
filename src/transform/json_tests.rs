use std::str::FromStr;

use bson::spec::BinarySubtype;
use bson::{Binary, Bson, DateTime, Decimal128, Document, Timestamp, doc, oid::ObjectId};
use proptest::prelude::*;

use super::*;

const RELAXED: Style = relaxed(Order::AsStored);

const fn relaxed(order: Order) -> Style {
    Style { form: JsonForm::Relaxed, order }
}

fn json(document: &Document) -> Result<String, Fault> {
    let mut out = Vec::new();
    append_document(&document.to_vec().unwrap(), &[], RELAXED, &mut out)?;
    Ok(String::from_utf8(out).unwrap())
}

fn one(value: impl Into<Bson>) -> String {
    let text = json(&doc! { "": value.into() }).unwrap();
    text.strip_prefix("{\"\":").unwrap().strip_suffix('}').unwrap().to_owned()
}

#[test]
fn every_type_has_its_form() {
    let id = ObjectId::parse_str("5f43a1b2c3d4e5f60718293a").unwrap();
    let binary = |subtype: BinarySubtype| one(Binary { subtype, bytes: vec![0xfb, 0xff] });
    assert_eq!(one(1), "1");
    assert_eq!(one(i64::MAX), "9223372036854775807");
    assert_eq!(one(1.0), "1.0");
    assert_eq!(one(-0.0), r#"{"$numberDouble":"-0.0"}"#);
    assert_eq!(one(0.0), "0.0");
    assert_eq!(one(f64::NAN), r#"{"$numberDouble":"NaN"}"#);
    assert_eq!(one(f64::NEG_INFINITY), r#"{"$numberDouble":"-Infinity"}"#);
    assert_eq!(one(Decimal128::from_str("1.10").unwrap()), r#"{"$numberDecimal":"1.10"}"#);
    assert_eq!(one("é\n"), "\"é\\n\"");
    assert_eq!(one(true), "true");
    assert_eq!(one(Bson::Null), "null");
    assert_eq!(one(id), r#"{"$oid":"5f43a1b2c3d4e5f60718293a"}"#);
    assert_eq!(one(DateTime::from_millis(0)), r#"{"$date":"1970-01-01T00:00:00Z"}"#);
    assert_eq!(one(DateTime::from_millis(1)), r#"{"$date":"1970-01-01T00:00:00.001Z"}"#);
    assert_eq!(one(DateTime::from_millis(-1)), r#"{"$date":{"$numberLong":"-1"}}"#);
    assert_eq!(
        one(DateTime::from_millis(253_402_300_800_000)),
        r#"{"$date":{"$numberLong":"253402300800000"}}"#
    );
    assert_eq!(binary(BinarySubtype::Generic), r#"{"$binary":{"base64":"+/8=","subType":"00"}}"#);
    assert_eq!(binary(BinarySubtype::BinaryOld), r#"{"$binary":{"base64":"+/8=","subType":"02"}}"#);
    assert_eq!(binary(BinarySubtype::UserDefined(0x80)), r#"{"$binary":{"base64":"+/8=","subType":"80"}}"#);
    assert_eq!(
        one(Bson::RegularExpression(bson::Regex {
            pattern: "a\"/b".try_into().unwrap(),
            options: "xi".try_into().unwrap()
        })),
        r#"{"$regularExpression":{"pattern":"a\"/b","options":"ix"}}"#
    );
    assert_eq!(
        one(Timestamp { time: 4_000_000_000, increment: 2 }),
        r#"{"$timestamp":{"t":4000000000,"i":2}}"#
    );
    assert_eq!(one(Bson::JavaScriptCode("f()".into())), r#"{"$code":"f()"}"#);
    assert_eq!(
        one(Bson::JavaScriptCodeWithScope(bson::JavaScriptCodeWithScope {
            code: "f()".into(),
            scope: doc! { "x": 1 }
        })),
        r#"{"$code":"f()","$scope":{"x":1}}"#
    );
    assert_eq!(one(Bson::Symbol("s".into())), r#"{"$symbol":"s"}"#);
    assert_eq!(one(Bson::MinKey), r#"{"$minKey":1}"#);
    assert_eq!(one(Bson::MaxKey), r#"{"$maxKey":1}"#);
    assert_eq!(one(Bson::Undefined), r#"{"$undefined":true}"#);
    assert_eq!(one(doc! {}), "{}");
    assert_eq!(one(Bson::Array(vec![])), "[]");
    assert_eq!(one(vec![1, 2]), "[1,2]");
}

#[test]
fn the_pointer_of_old_drivers_has_its_form() {
    let bytes = [&b"\x1d\0\0\0\x0cp\0\x06\0\0\0db.co\0"[..], &[0xaa; 12], &[0]].concat();
    let length = bytes.len() as u32;
    let bytes = [&length.to_le_bytes()[..], &bytes[4..]].concat();
    let mut out = Vec::new();
    append_document(&bytes, &[], RELAXED, &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert_eq!(text, r#"{"p":{"$dbPointer":{"$ref":"db.co","$id":{"$oid":"aaaaaaaaaaaaaaaaaaaaaaaa"}}}}"#);
}

#[test]
fn a_users_own_wrapper_is_told_from_a_value() {
    assert_eq!(one(doc! { "$oid": "5f" }), r#"{"$$oid":"5f"}"#);
    assert_eq!(one(doc! { "$$oid": "5f" }), r#"{"$$$oid":"5f"}"#);
    // jsonb has no order of fields: the escape cannot depend on the place.
    assert_eq!(one(doc! { "a": 1, "$date": 2 }), r#"{"a":1,"$$date":2}"#);
    assert_eq!(one(doc! { "$ref": "c", "$id": 1 }), r#"{"$ref":"c","$id":1}"#);
    assert_eq!(one(doc! { "$set": { "oid": 1 } }), r#"{"$set":{"oid":1}}"#);
}

#[test]
fn fields_are_left_out_at_the_top_only() {
    let document = doc! { "_id": 1, "a": { "_id": 2 }, "b": 3 };
    let mut out = Vec::new();
    append_document(&document.to_vec().unwrap(), &[(*b"_id").into(), (*b"b").into()], RELAXED, &mut out)
        .unwrap();
    assert_eq!(String::from_utf8(out).unwrap(), r#"{"a":{"_id":2}}"#);
}

#[test]
fn a_name_that_occurs_twice_is_refused_in_one_object_only() {
    let twice = |count: usize| {
        let mut document = bson::RawDocumentBuf::new();
        for index in 0..count {
            document.append(bson::raw::CString::try_from(format!("f{index}")).unwrap(), index as i64);
        }
        document.append(bson::raw::cstr!("f3"), 1);
        let mut out = Vec::new();
        let mut written = |order| {
            append_document(document.as_bytes(), &[], relaxed(order), &mut out).map_err(|fault| fault.reason)
        };
        (written(Order::AsStored), written(Order::OfJsonb))
    };
    for count in [4, 50, 500] {
        assert_eq!(twice(count), (Err(Reason::DuplicateField), Err(Reason::DuplicateField)), "{count}");
    }
    assert_eq!(twice(3), (Ok(false), Ok(false)));
    assert!(json(&doc! { "a": { "a": { "a": 1 } }, "b": [{ "a": 1 }, { "a": 1 }] }).is_ok());
}

#[test]
fn fields_stand_as_stored_or_as_jsonb_keeps_them() {
    let document = doc! { "bb": 1, "c": { "y": 2, "x": [{ "zz": 3, "z": 4 }] }, "aaa": 5, "ab": 6 };
    let written = |order| {
        let mut out = Vec::new();
        append_document(&document.to_vec().unwrap(), &[], relaxed(order), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    };
    assert_eq!(written(Order::AsStored), r#"{"bb":1,"c":{"y":2,"x":[{"zz":3,"z":4}]},"aaa":5,"ab":6}"#);
    assert_eq!(written(Order::OfJsonb), r#"{"c":{"x":[{"z":4,"zz":3}],"y":2},"ab":6,"bb":1,"aaa":5}"#);
}

#[test]
fn what_jsonb_cannot_hold_is_refused() {
    assert_eq!(json(&doc! { "a": "x\0" }).unwrap_err().reason, Reason::NulCharacter);
    let mut bytes = doc! { "a": "xy" }.to_vec().unwrap();
    let at = bytes.iter().position(|&byte| byte == b'x').unwrap();
    bytes[at] = 0xff;
    let fault = append_document(&bytes, &[], RELAXED, &mut Vec::new()).unwrap_err();
    assert_eq!(fault.reason, Reason::InvalidUtf8);
    let nested = |depth: usize| {
        let mut bson = Bson::from(1);
        for _ in 0..depth {
            bson = Bson::Array(vec![bson]);
        }
        json(&doc! { "a": bson })
    };
    assert!(nested(190).is_ok());
    assert_eq!(nested(200).unwrap_err().reason, Reason::Malformed);
}

#[test]
fn arrays_keep_their_order_whatever_their_names() {
    let inner = doc! { "7": "a", "x": "b", "7 ": "c" }.to_vec().unwrap();
    let mut bytes = vec![0, 0, 0, 0, 4, b'l', 0];
    bytes.extend_from_slice(&inner);
    bytes.push(0);
    bytes[0] = bytes.len() as u8;
    let mut out = Vec::new();
    append_document(&bytes, &[], RELAXED, &mut out).unwrap();
    assert_eq!(String::from_utf8(out).unwrap(), r#"{"l":["a","b","c"]}"#);
}

fn sorted(text: &str) -> String {
    let mut characters: Vec<char> = text.chars().collect();
    characters.sort_unstable();
    characters.into_iter().collect()
}

/// The specification's relaxed form, by way of another library's values.
fn specified(value: Bson) -> serde_json::Value {
    use serde_json::{Value, json};
    match value {
        Bson::Double(double) if double.is_nan() => json!({ "$numberDouble": "NaN" }),
        Bson::Double(double) if double.is_infinite() => {
            json!({ "$numberDouble": if double > 0.0 { "Infinity" } else { "-Infinity" } })
        }
        // serde_json reads some doubles one unit off: the text is read as ours is.
        Bson::Double(double) if double.fract() == 0.0 && double.abs() < 1e19 => {
            serde_json::from_str(&format!("{double:.1}")).unwrap()
        }
        Bson::Double(double) => serde_json::from_str(&format!("{double:?}")).unwrap(),
        Bson::String(text) => json!(text),
        Bson::Array(array) => Value::Array(array.into_iter().map(specified).collect()),
        Bson::Document(document) => {
            Value::Object(document.into_iter().map(|(name, value)| (name, specified(value))).collect())
        }
        Bson::Boolean(value) => json!(value),
        Bson::Null => Value::Null,
        Bson::RegularExpression(bson::Regex { pattern, options }) => json!({
            "$regularExpression": { "pattern": pattern.as_str(), "options": options.as_str() }
        }),
        Bson::JavaScriptCode(code) => json!({ "$code": code }),
        Bson::Int32(int) => json!(int),
        Bson::Int64(int) => json!(int),
        Bson::Timestamp(Timestamp { time, increment }) => {
            json!({ "$timestamp": { "t": time, "i": increment } })
        }
        Bson::Binary(Binary { subtype, bytes }) => json!({
            "$binary": {
                "base64": Binary { subtype, bytes }.to_string().split([' ', ')']).nth(1),
                "subType": format!("{:02x}", u8::from(subtype)),
            }
        }),
        Bson::ObjectId(id) => json!({ "$oid": id.to_hex() }),
        Bson::DateTime(date) => match date.try_to_rfc3339_string() {
            // The specification asks for three digits; bson leaves trailing zeros out.
            Ok(text) if (0..253_402_300_800_000).contains(&date.timestamp_millis()) => {
                match text.strip_suffix('Z').unwrap().split_once('.') {
                    Some((seconds, fraction)) => json!({ "$date": format!("{seconds}.{fraction:0<3}Z") }),
                    None => json!({ "$date": text }),
                }
            }
            Ok(_) | Err(_) => json!({ "$date": { "$numberLong": date.timestamp_millis().to_string() } }),
        },
        Bson::Symbol(text) => json!({ "$symbol": text }),
        Bson::Decimal128(decimal) => json!({ "$numberDecimal": decimal.to_string() }),
        Bson::Undefined => json!({ "$undefined": true }),
        Bson::MinKey => json!({ "$minKey": 1 }),
        Bson::MaxKey => json!({ "$maxKey": 1 }),
        other => panic!("not generated: {other:?}"),
    }
}

/// Values whose form here is the specification's.
fn common() -> impl Strategy<Value = Bson> {
    let leaf = prop_oneof![
        any::<i32>().prop_map(Bson::from),
        any::<i64>().prop_map(Bson::from),
        any::<f64>()
            .prop_filter("-0.0 is wrapped here", |value| *value != 0.0 || value.is_sign_positive())
            .prop_map(Bson::from),
        prop::sample::select(vec![0.0, 1.0, -1.0, 1e18, 1e19, 1e300, 5e-324, f64::INFINITY, f64::NAN])
            .prop_map(Bson::from),
        "[^\u{0}]{0,8}".prop_map(Bson::from),
        any::<bool>().prop_map(Bson::from),
        Just(Bson::Null),
        Just(Bson::MinKey),
        Just(Bson::MaxKey),
        Just(Bson::Undefined),
        any::<[u8; 12]>().prop_map(|bytes| Bson::from(ObjectId::from_bytes(bytes))),
        any::<i64>().prop_map(|ms| Bson::from(DateTime::from_millis(ms))),
        (-1000_i64..300_000_000_000_000).prop_map(|ms| Bson::from(DateTime::from_millis(ms))),
        (any::<u32>(), any::<u32>()).prop_map(|(time, increment)| Bson::from(Timestamp { time, increment })),
        (any::<u8>(), prop::collection::vec(any::<u8>(), 0..20)).prop_map(|(subtype, bytes)| {
            Bson::from(Binary { subtype: BinarySubtype::from(subtype), bytes })
        }),
        (0_u128..10_u128.pow(34), -6176_i32..6111).prop_map(|(coefficient, exponent)| {
            Bson::from(Decimal128::from_str(&format!("{coefficient}E{exponent}")).unwrap())
        }),
        "[a-z]{0,4}".prop_map(Bson::JavaScriptCode),
        "[a-z]{0,4}".prop_map(Bson::Symbol),
        ("[a-z\"/]{0,4}", "[imsx]{0,4}").prop_map(|(pattern, options)| Bson::RegularExpression(
            bson::Regex {
                pattern: pattern.try_into().unwrap(),
                options: sorted(&options).try_into().unwrap()
            }
        )),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Bson::Array),
            prop::collection::btree_map("[a-z.é]{0,3}", inner, 0..4)
                .prop_map(|fields| Bson::Document(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn the_text_is_what_the_specification_says(value in common()) {
        let document = doc! { "v": value };
        let ours: serde_json::Value = serde_json::from_str(&json(&document).unwrap()).unwrap();
        let theirs = specified(Bson::Document(document));
        prop_assert_eq!(ours, theirs);
    }

    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(prop_oneof![any::<u8>(), 0_u8..20, Just(0)], 0..80)) {
        let mut document = (bytes.len() as u32 + 5).to_le_bytes().to_vec();
        document.extend_from_slice(&bytes);
        document.push(0);
        let mut out = Vec::new();
        if append_document(&document, &[], RELAXED, &mut out).is_ok() {
            prop_assert!(serde_json::from_slice::<serde_json::Value>(&out).is_ok());
        }
    }

    #[test]
    fn damaged_documents_never_panic(value in common(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = doc! { "v": value }.to_vec().unwrap();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = append_document(&bytes, &[], RELAXED, &mut Vec::new());
    }
}
