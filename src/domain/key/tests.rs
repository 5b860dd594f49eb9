use std::str::FromStr;

use bson::raw::RawBson;
use bson::spec::BinarySubtype;
use bson::{Binary, Bson, DateTime, Decimal128, Timestamp, bson, doc, oid::ObjectId};
use proptest::prelude::*;

use super::{CanonicalId, IdType};

const PLAIN: [IdType; 4] = [IdType::ObjectId, IdType::String, IdType::Int, IdType::Uuid];

fn id(value: impl Into<Bson>) -> CanonicalId {
    CanonicalId::from_bson(&value.into())
}

fn decimal(text: &str) -> CanonicalId {
    id(Decimal128::from_str(text).unwrap())
}

fn assert_apart(left: &CanonicalId, right: &CanonicalId) {
    assert_ne!(left, right);
    for plain in PLAIN {
        assert_ne!(left.source_id(plain), right.source_id(plain), "{plain}");
    }
}

#[test]
fn numbers_of_one_value_are_one_id() {
    for one in [id(1_i64), id(1.0), decimal("1"), decimal("1.000"), decimal("10E-1")] {
        assert_eq!(id(1_i32), one);
    }
    assert_eq!(id(0_i32), id(-0.0));
    assert_eq!(id(0_i32), decimal("-0E+12"));
    assert_eq!(id(2.5), decimal("2.50"));
    assert_eq!(id(-2.5), decimal("-25E-1"));
    assert_eq!(id(f64::NAN), decimal("NaN"));
    assert_eq!(id(f64::NAN), id(f64::from_bits(0xfff8_0000_0000_0001)));
    assert_eq!(id(f64::INFINITY), decimal("Infinity"));
    assert_eq!(id(f64::NEG_INFINITY), decimal("-Infinity"));
    assert_eq!(id(1e19), decimal("1E+19"));
    assert_eq!(id(i64::MIN), id(i64::MIN as f64));
    assert_eq!(id(2_f64.powi(63)), decimal("9223372036854775808"));
    assert_eq!(id(2_f64.powi(-20)), decimal("9.5367431640625E-7"));
    assert_eq!(id(2_f64.powi(100)), decimal("1267650600228229401496703205376"));
    assert_eq!(decimal("1E+6144"), decimal("1.000E+6144"));
}

#[test]
fn numbers_of_different_value_are_different_ids() {
    let above = (1_i64 << 53) + 1;
    assert_apart(&id(above), &id(above as f64));
    assert_apart(&id(0.1), &decimal("0.1"));
    assert_apart(&id(1_i32), &id(1.5));
    assert_apart(&id(i64::MAX), &id(i64::MAX as f64));
    assert_apart(&id(1e300), &decimal("1E+300"));
    assert_apart(&id(2_f64.powi(120)), &id(2_f64.powi(121)));
    assert_apart(&id(f64::INFINITY), &id(f64::MAX));
    assert_apart(&id(5e-324), &id(0_i32));
}

#[test]
fn ids_of_different_types_are_different() {
    let hex = "5f43a1b2c3d4e5f60718293a";
    let ids = [
        id(hex),
        id(ObjectId::parse_str(hex).unwrap()),
        id("1"),
        id(1),
        id(true),
        id("true"),
        id(Bson::Null),
        id("$null"),
        id("null"),
        id(Bson::Undefined),
        id(""),
        id(DateTime::from_millis(1)),
        id(Timestamp { time: 0, increment: 1 }),
        id(doc! {}),
        id(Bson::Array(vec![])),
        id(Bson::MinKey),
        id(Bson::MaxKey),
        id(uuid()),
        id(Binary { subtype: BinarySubtype::UuidOld, bytes: vec![7; 16] }),
        id(Binary { subtype: BinarySubtype::Generic, bytes: vec![7; 16] }),
        id("07070707-0707-0707-0707-070707070707"),
        id(format!("{{\"$oid\":\"{hex}\"}}")),
        id(doc! { "$oid": hex }),
    ];
    for (index, left) in ids.iter().enumerate() {
        for right in &ids[index + 1..] {
            assert_apart(left, right);
        }
    }
}

#[test]
fn strings_are_compared_byte_by_byte() {
    let ids = [id("ab"), id("ab "), id("AB"), id("é"), id("e\u{301}"), id("a\0b"), id("a")];
    for (index, left) in ids.iter().enumerate() {
        for right in &ids[index + 1..] {
            assert_apart(left, right);
        }
    }
    assert_eq!(id("ab"), id(Bson::Symbol("ab".into())));
}

#[test]
fn documents_are_equal_by_value_and_field_order() {
    assert_eq!(id(doc! { "a": 1 }), id(doc! { "a": 1.0 }));
    assert_eq!(id(doc! { "a": [{ "b": 2_i64 }] }), id(doc! { "a": [{ "b": 2.0 }] }));
    assert_apart(&id(doc! { "a": 1, "b": 2 }), &id(doc! { "b": 2, "a": 1 }));
    assert_apart(
        &id(doc! { "a": ObjectId::from_bytes([1; 12]) }),
        &id(doc! { "a": { "$oid": "010101010101010101010101" } }),
    );
    assert_apart(&id(doc! { "$a": 1 }), &id(doc! { "$$a": 1 }));
    assert_apart(&id(doc! { "a": [1] }), &id(doc! { "a": { "0": 1 } }));
}

#[test]
fn plain_ids_are_written_as_they_are() {
    let object_id = ObjectId::parse_str("5F43A1B2C3D4E5F60718293A").unwrap();
    assert_eq!(id(object_id).source_id(IdType::ObjectId), "5f43a1b2c3d4e5f60718293a");
    assert_eq!(id("line_item_1").source_id(IdType::String), "line_item_1");
    assert_eq!(id(-12.0).source_id(IdType::Int), "-12");
    assert_eq!(id(uuid()).source_id(IdType::Uuid), "07070707-0707-0707-0707-070707070707");
}

#[test]
fn other_ids_carry_a_tag() {
    let cases = [
        (id(ObjectId::from_bytes([0xab; 12])), "$oid:abababababababababababab"),
        (id("$price"), "$string:$price"),
        (id("a\0"), "$utf8hex:6100"),
        (CanonicalId::from_value(2, b"\x02\0\0\0\xff\0"), "$utf8hex:ff"),
        (id(12), "$number:12"),
        (id(2.5), "$number:2.5"),
        (id(0.1), "$double:1e-1"),
        (decimal("1E+30"), "$number:1e30"),
        (id(f64::NAN), "$number:NaN"),
        (id(uuid()), "$uuid:07070707-0707-0707-0707-070707070707"),
        (id(DateTime::from_millis(-5)), "$date:-5"),
        (id(true), "$bool:true"),
        (id(Bson::Null), "$null"),
        (id(Binary { subtype: BinarySubtype::Generic, bytes: vec![1, 255] }), "$binary:00:01ff"),
        (id(Timestamp { time: 7, increment: 2 }), "$timestamp:7.2"),
        (
            id(doc! { "a": 1, "b": "x\"", "$c": [true, null, 0.1] }),
            r#"$document:{"a":{"$numberLong":"1"},"b":"x\"","$$c":[true,null,{"$numberDouble":"1e-1"}]}"#,
        ),
        // A boolean of 2, a string longer than its bytes: kept raw.
        (CanonicalId::from_value(8, &[2]), "$raw:08:02"),
        (CanonicalId::from_value(2, b"\x09\0\0\0a\0"), "$raw:02:090000006100"),
    ];
    for (id, text) in cases {
        assert_eq!(id.source_id(IdType::String), text);
    }
}

#[test]
fn long_ids_are_hashed() {
    let long = "x".repeat(6000);
    let text = id(long.as_str()).source_id(IdType::String);
    assert!(text.starts_with("$sha256:"), "{text}");
    assert_eq!(text.len(), 8 + 64);
    assert_apart(&id(long.as_str()), &id(format!("{long}y")));
    assert_eq!(id("x".repeat(512)).source_id(IdType::String).len(), 512);
}

#[test]
fn the_canonical_value_can_be_sent_back() {
    for value in [bson!(1), bson!("a"), bson!({ "a": [1.5, null] }), bson!(2.5), bson!(true)] {
        let canonical = CanonicalId::from_bson(&value);
        let back = Bson::try_from(canonical.to_bson()).unwrap();
        assert_eq!(CanonicalId::from_bson(&back), canonical);
        assert_eq!(CanonicalId::from_bytes(canonical.as_bytes()), canonical);
    }
    assert_eq!(CanonicalId::from_value(2, b"\x02\0\0\0\xff\0").to_bson(), RawBson::Undefined);
}

#[test]
fn the_id_type_is_the_one_that_is_written_plain() {
    assert_eq!(id(ObjectId::new()).id_type(), Some(IdType::ObjectId));
    assert_eq!(id("a").id_type(), Some(IdType::String));
    assert_eq!(id(1.0).id_type(), Some(IdType::Int));
    assert_eq!(id(uuid()).id_type(), Some(IdType::Uuid));
    assert_eq!(id(1.5).id_type(), None);
    assert_eq!(id(doc! {}).id_type(), None);
}

#[test]
fn the_description_is_short() {
    assert_eq!(id("é".repeat(200)).describe().chars().count(), 81);
    assert_eq!(id(1).describe(), "$number:1");
}

fn uuid() -> Binary {
    Binary { subtype: BinarySubtype::Uuid, bytes: vec![7; 16] }
}

/// Values from small alphabets, so that near-collisions are likely.
fn any_id() -> impl Strategy<Value = Bson> {
    let leaf = prop_oneof![
        prop::sample::select(vec![0_i32, 1, -1, 12]).prop_map(Bson::from),
        prop::sample::select(vec![0_i64, 1, -1, 12, i64::MAX, i64::MIN]).prop_map(Bson::from),
        any::<f64>().prop_map(Bson::from),
        prop::sample::select(vec![0.0, -0.0, 1.0, 0.1, 2.5, 1e19, 1e40]).prop_map(Bson::from),
        (any::<bool>(), 0_u128..30, -3_i32..20).prop_map(|(negative, coefficient, exponent)| {
            let sign = if negative { "-" } else { "" };
            Bson::from(Decimal128::from_str(&format!("{sign}{coefficient}E{exponent}")).unwrap())
        }),
        any::<[u8; 16]>().prop_map(|bytes| Bson::from(Decimal128::from_bytes(bytes))),
        "[$a-c1{}:\"\\\\\u{0}]{0,4}".prop_map(Bson::from),
        prop::sample::select(vec!["1", "$number:1", "$null", "$oid:01", "null", "$string:1"])
            .prop_map(Bson::from),
        any::<bool>().prop_map(Bson::from),
        Just(Bson::Null),
        Just(Bson::Undefined),
        Just(Bson::MinKey),
        Just(Bson::MaxKey),
        prop::array::uniform12(0_u8..2).prop_map(|bytes| Bson::from(ObjectId::from_bytes(bytes))),
        (0_i64..3).prop_map(|ms| Bson::from(DateTime::from_millis(ms))),
        (0_u32..2, 0_u32..2).prop_map(|(time, increment)| Bson::from(Timestamp { time, increment })),
        (0_u8..6, prop::collection::vec(0_u8..2, 0..2)).prop_map(|(subtype, bytes)| {
            Bson::from(Binary { subtype: BinarySubtype::from(subtype), bytes })
        }),
    ];
    leaf.prop_recursive(3, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Bson::Array),
            prop::collection::vec(("[$a0]{0,2}", inner), 0..3)
                .prop_map(|fields| Bson::Document(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn different_ids_have_different_texts(left in any_id(), right in any_id()) {
        let (left, right) = (id(left), id(right));
        for plain in PLAIN {
            prop_assert_eq!(left == right, left.source_id(plain) == right.source_id(plain));
        }
    }

    #[test]
    fn the_normal_form_is_its_own_normal_form(value in any_id()) {
        let once = id(value);
        let bytes = once.as_bytes();
        prop_assert_eq!(&CanonicalId::from_value(bytes[0], &bytes[1..]), &once);
    }

    #[test]
    fn garbage_is_an_id_like_any_other(
        kind in prop::sample::select((0_u8..=0x13).chain([0x7f, 0xff, 0x55]).collect::<Vec<_>>()),
        left in prop::collection::vec(prop::sample::select(vec![0_u8, 1, 2, 3, 5, 8, 0x10, 0x61, 0xff]), 0..24),
        right in prop::collection::vec(prop::sample::select(vec![0_u8, 1, 2, 5, 0x61]), 0..12),
    ) {
        let (left, right) = (CanonicalId::from_value(kind, &left), CanonicalId::from_value(kind, &right));
        for plain in PLAIN {
            prop_assert_eq!(left == right, left.source_id(plain) == right.source_id(plain));
        }
        left.to_bson();
        left.describe();
        left.id_type();
    }
}
