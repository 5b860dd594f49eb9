use bson::{Bson, DateTime, RawDocumentBuf, doc, oid::ObjectId, rawdoc};
use bytes::Bytes;
use proptest::prelude::*;

use super::super::rule;
use super::*;
use crate::config::{DateFormat, Deletes, KeySpec, OnDrop, OnError, Reading, Rule, Scalar};
use crate::domain::Coercion;
use crate::domain::{Namespace, SourceIndex, TableName};
use crate::mapping::{KeyPlan, SyncPlan};

const TEXT: ColumnType = ColumnType::Text { kind: TextKind::Text, limit: None };
const MOMENT: ColumnType = ColumnType::TimestampTz { precision: 6 };
const ROOT: Uuid = Uuid::from_u128(0x6ba7_b810_9dad_11d1_80b4_00c0_4fd4_30c8);

fn column(name: &str, column_type: ColumnType, value: ValueSpec) -> ColumnPlan {
    ColumnPlan {
        name: name.into(),
        type_sql: type_name(&column_type).into(),
        column_type,
        not_null: false,
        value,
        insert_only: false,
        required: false,
        default: None,
        sequence: None,
    }
}

fn from(path: &str) -> ValueSpec {
    ValueSpec::Path { from: vec![path.into()], reading: Reading::default() }
}

fn by_rule(path: &str, rule: Rule) -> ValueSpec {
    ValueSpec::Path { from: vec![path.into()], reading: rule.into() }
}

fn whole(without: Vec<String>) -> ValueSpec {
    ValueSpec::Document { without, json: JsonForm::Relaxed, strip_nul: false }
}

/// These rows are not told apart.
fn key_of(spec: &KeySpec) -> KeyPlan {
    KeyPlan::new(spec, &[], &[]).expect("no column is missing")
}

fn transformer(columns: Vec<ColumnPlan>) -> Result<Transformer, Vec<Problem>> {
    let mapping = Mapping {
        index: SourceIndex(0),
        source: "venmo".into(),
        namespace: Namespace { database: "d".into(), collection: "c".into() },
        table: TableName { schema: "public".into(), name: "transactions".into() },
        id_type: IdType::String,
        key: key_of(&KeySpec::Columns(Vec::new())),
        filter: None,
        columns,
        references: Vec::new(),
        children: Vec::new(),
        deletes: Deletes::Hard,
        sync: SyncPlan::default(),
        on_drop: OnDrop::Delete,
        critical: false,
        fingerprint: String::new(),
        table_oid: 1,
        transform: None,
        meaning: String::new(),
        hash: String::new(),
    };
    Transformer::new(Arc::new(mapping), ROOT)
}

fn document(raw: RawDocumentBuf) -> Document {
    Document::new(Bytes::from(raw.into_bytes())).unwrap()
}

fn row(columns: Vec<ColumnPlan>, raw: RawDocumentBuf) -> Result<Row, Rejection> {
    let id = CanonicalId::from_bson(&Bson::from("a"));
    transformer(columns).unwrap().row(&id, &document(raw), None, &mut Tuples::default())
}

/// The fields of a COPY tuple.
fn fields(tuple: &[u8]) -> Vec<Option<Vec<u8>>> {
    let (count, mut rest) = tuple.split_at(2);
    let count = i16::from_be_bytes(count.try_into().unwrap());
    let mut fields = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        match usize::try_from(i32::from_be_bytes(*length)) {
            Ok(length) => {
                fields.push(Some(after[..length].to_vec()));
                rest = &after[length..];
            }
            Err(_) => {
                fields.push(None);
                rest = after;
            }
        }
    }
    assert!(rest.is_empty());
    assert_eq!(fields.len(), usize::try_from(count).unwrap());
    fields
}

fn texts(row: &Row) -> Vec<String> {
    fields(&row.tuple)
        .into_iter()
        .map(|field| field.map_or("NULL".into(), |bytes| String::from_utf8_lossy(&bytes).into_owned()))
        .collect()
}

fn first_reason(columns: Vec<ColumnPlan>, raw: RawDocumentBuf) -> Reason {
    row(columns, raw).unwrap_err().reason
}

#[test]
fn a_row_has_every_column_in_order() {
    let columns = vec![
        column("source", TEXT, ValueSpec::Constant(Scalar::Text("venmo".into()))),
        column("source_id", TEXT, ValueSpec::SourceId),
        column(
            "note",
            TEXT,
            ValueSpec::Path { from: vec!["memo".into(), "a.note".into()], reading: Reading::default() },
        ),
        column("amount", ColumnType::Int4, from("amount")),
        column("gone", TEXT, from("gone")),
        column(
            "source_data",
            ColumnType::Jsonb,
            ValueSpec::Document { without: vec!["_id".into()], json: JsonForm::default(), strip_nul: false },
        ),
    ];
    let row = row(columns, rawdoc! { "_id": "a", "amount": 5, "memo": null, "a": { "note": "hi" } }).unwrap();
    assert_eq!(row.source_id, "a");
    assert_eq!(row.coercions, vec![]);
    assert_eq!(
        texts(&row),
        [
            "venmo",
            "a",
            "hi",
            "\0\0\0\u{5}",
            "NULL",
            "\u{1}{\"a\":{\"note\":\"hi\"},\"memo\":null,\"amount\":5}"
        ]
    );
}

#[test]
fn what_is_missing_is_null_a_default_or_a_rejection() {
    let plain = || column("c", TEXT, from("x"));
    let default = || ColumnPlan { default: Some(Scalar::Text("d".into())), ..plain() };
    let required = || ColumnPlan { required: true, ..default() };
    let not_null = || ColumnPlan { not_null: true, ..plain() };
    for missing in [rawdoc! {}, rawdoc! { "x": null }] {
        assert_eq!(texts(&row(vec![plain()], missing.clone()).unwrap()), ["NULL"]);
        assert_eq!(first_reason(vec![required()], missing.clone()), Reason::MissingRequired);
        let rejection = row(vec![not_null()], missing).unwrap_err();
        assert_eq!(rejection.reason, Reason::MissingRequired);
        assert_eq!(rejection.column.as_deref(), Some("c"));
        assert!(rejection.message.contains("not null in the table"), "{rejection}");
    }
    assert_eq!(texts(&row(vec![default()], rawdoc! {}).unwrap()), ["d"]);
    assert_eq!(texts(&row(vec![default()], rawdoc! { "x": null }).unwrap()), ["NULL"]);
    let with_default = ColumnPlan { not_null: true, ..default() };
    assert_eq!(texts(&row(vec![with_default.clone()], rawdoc! {}).unwrap()), ["d"]);
    assert_eq!(first_reason(vec![with_default], rawdoc! { "x": null }), Reason::MissingRequired);
    let reading = Reading { default_for_null: true, ..Reading::default() };
    let for_null = ColumnPlan { value: ValueSpec::Path { from: vec!["x".into()], reading }, ..default() };
    let by_null = row(vec![for_null.clone()], rawdoc! { "x": null }).unwrap();
    assert_eq!((texts(&by_null), by_null.coercions[0].rule), (vec!["d".to_owned()], "on_null"));
    assert_eq!(row(vec![for_null], rawdoc! {}).unwrap().coercions, [], "nothing was there to be altered");
    let json = column("c", ColumnType::Jsonb, from("x"));
    assert_eq!(texts(&row(vec![json], rawdoc! { "x": null }).unwrap()), ["NULL"]);
}

#[test]
fn what_a_rule_makes_null_is_treated_as_the_column_treats_nulls() {
    let null_if = || Reading { null_if: vec![Scalar::Int(0)], ..Reading::default() };
    let reading = |reading| ValueSpec::Path { from: vec!["x".into()], reading };
    let document = || rawdoc! { "x": 0 };
    let plan =
        |value| ColumnPlan { default: Some(Scalar::Int(7)), ..column("c", ColumnType::Int2, reading(value)) };
    let seven = Some(vec![0, 7]);
    let stored = |plan| {
        let row = row(vec![plan], document()).unwrap();
        (
            fields(&row.tuple).remove(0),
            row.coercions.into_iter().map(|coercion| coercion.rule).collect::<Vec<_>>(),
        )
    };
    assert_eq!(stored(plan(null_if())), (None, vec!["null_if"]));
    let for_null = Reading { default_for_null: true, ..null_if() };
    assert_eq!(stored(plan(for_null)), (seven.clone(), vec!["null_if"]));
    let required = ColumnPlan { required: true, default: None, ..plan(null_if()) };
    assert_eq!(first_reason(vec![required], document()), Reason::MissingRequired);
    let on_error = |on_error| Reading { on_error, rules: vec![Rule::Number], ..Reading::default() };
    let bad = |plan| row(vec![plan], rawdoc! { "x": "seven" }).unwrap();
    assert_eq!(fields(&bad(plan(on_error(OnError::Default))).tuple), [seven]);
    assert_eq!(fields(&bad(plan(on_error(OnError::Null))).tuple), [None]);
}

#[test]
fn rejections_name_the_column() {
    let columns =
        vec![column("note", TEXT, from("note")), column("amount", ColumnType::Int4, from("amount"))];
    let rejection = row(columns, rawdoc! { "note": "a", "amount": "12" }).unwrap_err();
    assert_eq!(rejection.to_string(), "column amount: string does not fit a column of type integer");
}

#[test]
fn rules_that_alter_a_type_are_counted() {
    let columns = vec![
        column("a", TEXT, by_rule("a", Rule::Text)),
        column("b", ColumnType::Int4, by_rule("b", Rule::Number)),
        column("c", MOMENT, by_rule("c", Rule::UnixSeconds)),
    ];
    let row = row(columns, rawdoc! { "a": 1, "b": "2", "c": 946_684_800 }).unwrap();
    assert_eq!(texts(&row)[0], "1");
    let expected = [Coercion { column: 0, rule: "text" }, Coercion { column: 1, rule: "number" }];
    assert_eq!(row.coercions, expected);
}

#[test]
fn ids_are_computed_from_source_and_source_id() {
    let columns = vec![
        column("id", ColumnType::Uuid, ValueSpec::KeyUuid),
        column("text", TEXT, ValueSpec::KeyUuid),
        column("prefixed", TEXT, ValueSpec::KeyPrefixed("txn_".into())),
    ];
    let row = row(columns, rawdoc! { "_id": "a" }).unwrap();
    let expected = Uuid::new_v5(&ROOT, b"venmo\0a");
    let fields = fields(&row.tuple);
    assert_eq!(fields[0].as_deref(), Some(&expected.as_bytes()[..]));
    assert_eq!(fields[1].as_deref(), Some(expected.to_string().as_bytes()));
    let prefixed = String::from_utf8(fields[2].clone().unwrap()).unwrap();
    assert_eq!(prefixed, format!("txn_{}", ulid(expected)));
    assert_eq!(prefixed.len(), 4 + 26);
}

#[test]
fn a_ulid_is_crockfords_base_32() {
    assert_eq!(ulid(Uuid::nil()), "0".repeat(26));
    assert_eq!(ulid(Uuid::max()), format!("7{}", "Z".repeat(25)));
    // The vector of the ULID specification's reference implementations.
    assert_eq!(
        ulid(Uuid::from_u128(0x0156_3e3a_b5d3_d676_4c61_efb9_9302_bd5b)),
        "01ARZ3NDEKTSV4RRFFQ69G5FAV"
    );
}

#[test]
fn the_cluster_time_is_written_when_there_is_one() {
    let columns = || {
        vec![
            column("at", MOMENT, ValueSpec::ClusterTime),
            column("number", ColumnType::Int8, ValueSpec::ClusterTime),
        ]
    };
    let id = CanonicalId::from_bson(&Bson::from("a"));
    let time = ClusterTime::new(946_684_801, 7);
    let row = transformer(columns())
        .unwrap()
        .row(&id, &document(rawdoc! {}), Some(time), &mut Tuples::default())
        .unwrap();
    let expected = [1_000_000_i64.to_be_bytes().to_vec(), time.to_i64().to_be_bytes().to_vec()];
    assert_eq!(fields(&row.tuple), expected.map(Some));
    let row = transformer(columns())
        .unwrap()
        .row(&id, &document(rawdoc! {}), None, &mut Tuples::default())
        .unwrap();
    assert_eq!(texts(&row), ["NULL", "NULL"]);
}

#[test]
fn ids_fit_typed_key_columns_only_as_themselves() {
    let columns = || vec![column("k", ColumnType::Int8, ValueSpec::SourceId)];
    let transformer = transformer(columns()).unwrap();
    let row = |id: Bson| {
        transformer.row(&CanonicalId::from_bson(&id), &document(rawdoc! {}), None, &mut Tuples::default())
    };
    let tuple = row(Bson::from(5.0)).unwrap().tuple;
    assert_eq!(fields(&tuple), [Some(5_i64.to_be_bytes().to_vec())]);
    assert_eq!(row(Bson::from("5")).unwrap_err().reason, Reason::WrongType);
}

#[test]
fn plans_that_cannot_work_are_all_told_at_once() {
    let not_null = |plan: ColumnPlan| ColumnPlan { not_null: true, ..plan };
    let columns = vec![
        column("a", ColumnType::Int4, ValueSpec::Constant(Scalar::Text("x".into()))),
        ColumnPlan { default: Some(Scalar::Int(70_000)), ..column("b", ColumnType::Int2, from("b")) },
        not_null(column("c", MOMENT, ValueSpec::ClusterTime)),
        column("d", ColumnType::Int4, by_rule("d", Rule::UnixSeconds)),
        column("e", ColumnType::Int4, whole(vec![])),
        column("f", ColumnType::Text { kind: TextKind::Citext, limit: None }, ValueSpec::SourceId),
        column("g", ColumnType::Text { kind: TextKind::Varchar, limit: Some(20) }, ValueSpec::KeyUuid),
        column("h", ColumnType::Uuid, ValueSpec::KeyPrefixed("x".into())),
        not_null(column("i", TEXT, ValueSpec::Constant(Scalar::Null))),
        column("fine", TEXT, from("fine")),
    ];
    let problems = transformer(columns).unwrap_err();
    let named: Vec<_> = problems.iter().filter_map(|problem| problem.column.as_deref()).collect();
    assert_eq!(named, ["a", "b", "c", "d", "e", "f", "g", "h", "i"]);
    assert!(problems.iter().all(|problem| problem.fatal && !problem.hint.is_empty()));
}

#[test]
fn a_flaw_in_an_unmapped_field_does_not_matter() {
    let mut bytes = doc! { "x": "ok", "y": "bad" }.to_vec().unwrap();
    let at = bytes.windows(3).position(|window| window == b"bad").unwrap();
    bytes[at] = 0xff;
    let raw = RawDocumentBuf::from_bytes(bytes).unwrap();
    assert_eq!(texts(&row(vec![column("c", TEXT, from("x"))], raw.clone()).unwrap()), ["ok"]);
    assert_eq!(first_reason(vec![column("c", TEXT, from("y"))], raw), Reason::InvalidUtf8);
}

fn everything() -> Transformer {
    let enumeration = ColumnType::Enum { labels: vec!["a".into()] };
    let types = [
        ColumnType::Bool,
        ColumnType::Int2,
        ColumnType::Int8,
        ColumnType::Float4,
        ColumnType::Float8,
        ColumnType::Numeric(None),
        ColumnType::Numeric(Some((5, 2))),
        TEXT,
        ColumnType::Uuid,
        ColumnType::Bytea,
        ColumnType::Date,
        MOMENT,
        ColumnType::Jsonb,
        enumeration,
        ColumnType::Other("inet".into()),
        ColumnType::Array { element: Box::new(TEXT), cast_sql: "text[]".into() },
    ];
    let formats = vec![DateFormat::parse("%d.%m.%Y").unwrap()];
    let rules = [
        Rule::UnixSeconds,
        Rule::UnixMilliseconds,
        Rule::Rfc3339,
        Rule::Iso8601,
        Rule::Date(formats),
        Rule::Text,
        Rule::Number,
        Rule::Boolean,
        Rule::ObjectId,
        Rule::Json,
    ];
    let mut columns = Vec::new();
    for (index, column_type) in types.iter().enumerate() {
        let name = format!("c{index}");
        columns.push(column(&name, column_type.clone(), from(&format!("f{index}"))));
        for rule in rules.iter().filter(|rule| rule::fits(rule, column_type)) {
            columns.push(column(&name, column_type.clone(), by_rule(&format!("f{index}.0.a"), rule.clone())));
        }
    }
    columns.push(column("document", ColumnType::Jsonb, whole(vec![])));
    transformer(columns).unwrap()
}

fn value() -> impl Strategy<Value = Bson> {
    let leaf = prop_oneof![
        any::<i32>().prop_map(Bson::from),
        any::<i64>().prop_map(Bson::from),
        any::<f64>().prop_map(Bson::from),
        any::<[u8; 16]>().prop_map(|bytes| Bson::from(bson::Decimal128::from_bytes(bytes))),
        "[0-9.eE+:TZ\u{0}-]{0,12}".prop_map(Bson::from),
        any::<bool>().prop_map(Bson::from),
        Just(Bson::Null),
        Just(Bson::Undefined),
        any::<[u8; 12]>().prop_map(|bytes| Bson::from(ObjectId::from_bytes(bytes))),
        any::<i64>().prop_map(|ms| Bson::from(DateTime::from_millis(ms))),
        (any::<u8>(), prop::collection::vec(any::<u8>(), 0..20))
            .prop_map(|(subtype, bytes)| { Bson::from(bson::Binary { subtype: subtype.into(), bytes }) }),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Bson::Array),
            inner.prop_map(|value| Bson::Array(vec![Bson::Document(doc! { "a": value })])),
        ]
    })
}

proptest! {
    #[test]
    fn any_document_gives_a_whole_tuple_or_a_rejection(
        values in prop::collection::vec(value(), 16),
        at in any::<prop::sample::Index>(),
        byte in prop::option::of(any::<u8>()),
    ) {
        let transformer = everything();
        let document: bson::Document =
            values.into_iter().enumerate().map(|(index, value)| (format!("f{index}"), value)).collect();
        let mut bytes = document.to_vec().unwrap();
        if let Some(byte) = byte {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let Some(document) = Document::new(Bytes::from(bytes)) else { return Ok(()) };
        let id = CanonicalId::from_bson(&Bson::from(1));
        if let Ok(row) = transformer.row(&id, &document, None, &mut Tuples::default()) {
            prop_assert_eq!(fields(&row.tuple).len(), transformer.mapping().columns.len());
        }
    }

    #[test]
    fn one_value_gives_a_whole_tuple_or_a_rejection(value in value(), field in 0_usize..16) {
        let transformer = everything();
        let raw = RawDocumentBuf::try_from(&doc! { format!("f{field}"): value }).unwrap();
        let id = CanonicalId::from_bson(&Bson::from(1));
        match transformer.row(&id, &document(raw), None, &mut Tuples::default()) {
            Ok(row) => prop_assert_eq!(fields(&row.tuple).len(), transformer.mapping().columns.len()),
            Err(rejection) => prop_assert!(!rejection.message.is_empty()),
        }
    }
}
