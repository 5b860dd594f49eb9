//! What fuzzers feed (`fuzz/`), here with replies and documents that are nearly right.

#[path = "../../fuzz/src/lib.rs"]
#[expect(unreachable_pub, reason = "it is a library for the fuzzers")]
mod targets;

use bson::{Bson, DateTime, Decimal128, Document, Timestamp, doc, oid::ObjectId};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use targets::{Converter, decode};

fn value() -> impl Strategy<Value = Bson> {
    let leaf = prop_oneof![
        any::<i32>().prop_map(Bson::from),
        any::<i64>().prop_map(Bson::from),
        any::<f64>().prop_map(Bson::from),
        any::<[u8; 16]>().prop_map(|bytes| Bson::from(Decimal128::from_bytes(bytes))),
        "[0-9]{1,4}(\\.[0-9]{0,3})?|[0-9]{2}\\.[0-9]{2}\\.[0-9]{4}|20[0-9]{2}-[0-9]{2}-[0-9]{2}T[0-9]{2}:00:00Z"
            .prop_map(Bson::from),
        "[ a1.\u{0}é,{}\"\\\\]{0,8}".prop_map(Bson::from),
        any::<bool>().prop_map(Bson::from),
        Just(Bson::Null),
        Just(Bson::MinKey),
        any::<[u8; 12]>().prop_map(|bytes| Bson::from(ObjectId::from_bytes(bytes))),
        any::<i64>().prop_map(|ms| Bson::from(DateTime::from_millis(ms))),
        (any::<u8>(), vec(any::<u8>(), 0..20))
            .prop_map(|(subtype, bytes)| Bson::from(bson::Binary { subtype: subtype.into(), bytes })),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Bson::Array),
            (inner.clone(), inner).prop_map(|(b, c)| Bson::Document(doc! { "b": b, "c": c })),
        ]
    })
}

/// Of nothing, of one byte, or of many.
fn damage() -> impl Strategy<Value = Vec<(Index, u8)>> {
    prop_oneof![
        Just(Vec::new()),
        vec((any::<Index>(), any::<u8>()), 1..2),
        vec((any::<Index>(), any::<u8>()), 2..9)
    ]
}

fn damaged(mut bytes: Vec<u8>, damage: &[(Index, u8)]) -> Vec<u8> {
    for (at, byte) in damage {
        let at = at.index(bytes.len());
        bytes[at] = *byte;
    }
    bytes
}

fn reply(operation: &str, collection: &str, value: Bson) -> Document {
    let event = doc! {
        "_id": { "_data": "82635E" }, "operationType": operation, "clusterTime": Timestamp { time: 7, increment: 1 },
        "ns": { "db": "d", "coll": collection }, "to": { "db": "d", "coll": "b" }, "documentKey": { "_id": value.clone() },
        "fullDocument": { "_id": value.clone(), "a": value }, "wallTime": DateTime::from_millis(7_000), "txnNumber": 1_i64,
    };
    doc! { "cursor": { "nextBatch": [event], "postBatchResumeToken": { "_data": "82635E" }, "id": 1_i64 }, "ok": 1 }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_reply_that_is_damaged_anywhere_is_read_or_refused(
        operation in prop_oneof![
            Just("insert"), Just("update"), Just("delete"), Just("replace"), Just("drop"), Just("rename"), Just("create"),
            Just("dropDatabase"), Just("invalidate"),
        ],
        collection in prop_oneof![Just("a"), Just("c"), Just("")],
        value in value(),
        damage in damage(),
    ) {
        decode(&damaged(reply(operation, collection, value).to_vec().unwrap(), &damage));
    }

    #[test]
    fn a_document_that_is_damaged_anywhere_becomes_a_whole_row_or_is_refused(
        a in value(), b in value(), damage in damage(),
    ) {
        static CONVERTER: std::sync::LazyLock<Converter> =
            std::sync::LazyLock::new(|| Converter::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/convert.yaml")));
        let bytes = doc! { "a": a, "b": b }.to_vec().unwrap();
        CONVERTER.convert(&damaged(bytes[4..bytes.len() - 1].to_vec(), &damage));
    }
}
