//! What fuzzers feed: the bytes of a server's reply, and those of a document. Whatever they are, they are read
//! or refused, without a panic, and what is made of them is whole. The tests feed them too, damaged at random.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rowstream::config::{self, Mappings};
use rowstream::domain::{
    CanonicalId, Column, ColumnType, Document, IdType, Namespace, SourceIndex, Table, TableName, TextKind,
    Tuples, UniqueKey,
};
use rowstream::mapping::compile;
use rowstream::source::{Scope, decode_reply};
use rowstream::transform::Transformer;

/// A reply of a change stream: `{ cursor: { … } }`.
pub fn decode(bytes: &[u8]) {
    let namespace = |collection: &str| Namespace { database: "d".into(), collection: collection.into() };
    let scope = Scope { collections: vec![namespace("a"), namespace("b")], discover: Some("d".into()) };
    let Ok(reply) = decode_reply(&scope, &Bytes::copy_from_slice(bytes)) else { return };
    assert_eq!(reply.size, bytes.len());
}

/// Documents into rows of a table that has a column of each type.
#[derive(Debug)]
pub struct Converter(Transformer);

impl Converter {
    /// With the mapping of this configuration.
    pub fn new(configuration: impl AsRef<Path>) -> Self {
        let config =
            config::load(Some(configuration.as_ref()), &BTreeMap::new()).expect("the fuzzer's configuration");
        let Mappings::Listed(specs) = &config.mappings else { panic!("no mappings") };
        let compiled = compile(SourceIndex(0), &specs[0], IdType::ObjectId, &table());
        let (mapping, _) = compiled.expect("a mapping that fits its table");
        let transformer = Transformer::new(Arc::new(mapping), config.namespace);
        Self(transformer.expect("constants that fit"))
    }

    /// Bytes between the length of a document and its closing zero.
    pub fn convert(&self, bytes: &[u8]) {
        let Ok(length) = i32::try_from(bytes.len() + 5) else { return };
        let framed = [&length.to_le_bytes(), bytes, &[0]].concat();
        let Some(document) = Document::new(framed.into()) else { return };
        let id = match bytes.split_first() {
            Some((element_type, value)) => CanonicalId::from_value(*element_type, value),
            None => return,
        };
        if !matches!(self.0.wants(&document), Ok(true)) {
            return;
        }
        match self.0.row(&id, &document, None, &mut Tuples::default()) {
            Ok(row) => assert_eq!(fields(&row.tuple), Some(self.0.mapping().columns.len()), "half a tuple"),
            Err(rejection) => assert!(!rejection.to_string().is_empty()),
        }
    }
}

/// How many fields there are in a tuple of binary COPY, if it is a whole one.
fn fields(tuple: &[u8]) -> Option<usize> {
    let (count, mut rest) = tuple.split_first_chunk::<2>()?;
    let count = usize::try_from(i16::from_be_bytes(*count)).ok()?;
    for _ in 0..count {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let length = i32::from_be_bytes(*length);
        rest = if length == -1 { after } else { after.get(usize::try_from(length).ok()?..)? };
    }
    rest.is_empty().then_some(count)
}

fn table() -> Table {
    let text = |limit: Option<u32>| ColumnType::Text {
        kind: if limit.is_some() { TextKind::Varchar } else { TextKind::Text },
        limit,
    };
    let array =
        |element, cast_sql: &str| ColumnType::Array { element: Box::new(element), cast_sql: cast_sql.into() };
    let columns = [
        ("source", text(None), "text"),
        ("source_id", text(None), "text"),
        ("flag", ColumnType::Bool, "boolean"),
        ("small", ColumnType::Int2, "smallint"),
        ("whole", ColumnType::Int4, "integer"),
        ("large", ColumnType::TimestampTz { precision: 6 }, "timestamp with time zone"),
        ("single", ColumnType::Float4, "real"),
        ("double", ColumnType::Float8, "double precision"),
        ("exact", ColumnType::Numeric(Some((12, 2))), "numeric(12,2)"),
        ("any", ColumnType::Numeric(None), "numeric"),
        ("body", text(Some(5)), "character varying(5)"),
        ("words", text(None), "text"),
        ("uuid", ColumnType::Uuid, "uuid"),
        ("bytes", ColumnType::Bytea, "bytea"),
        ("day", ColumnType::Date, "date"),
        ("time", ColumnType::Timestamp { precision: 3 }, "timestamp(3) without time zone"),
        ("moment", ColumnType::TimestampTz { precision: 0 }, "timestamp(0) with time zone"),
        ("json", ColumnType::Json, "json"),
        ("jsonb", ColumnType::Jsonb, "jsonb"),
        ("label", ColumnType::Enum { labels: vec!["one".into(), "two".into()] }, "label"),
        ("numbers", array(ColumnType::Int8, "bigint[]"), "bigint[]"),
        ("texts", array(text(None), "text[]"), "text[]"),
        ("made", text(None), "text"),
        ("document", ColumnType::Jsonb, "jsonb"),
    ];
    let key = ["source", "source_id"].map(str::to_owned).to_vec();
    Table {
        name: TableName { schema: "public".into(), name: "things".into() },
        oid: 1,
        columns: columns
            .map(|(name, column_type, type_sql)| Column {
                name: name.into(),
                column_type,
                type_sql: type_sql.into(),
                not_null: false,
                has_default: false,
                generated: false,
                nondeterministic: false,
                sequence: None,
            })
            .to_vec(),
        unique_keys: vec![UniqueKey {
            name: "things_pkey".into(),
            columns: key.clone(),
            deferrable: false,
            nondeterministic: false,
            partial_or_expression: false,
            predicate: None,
        }],
        foreign_keys: Vec::new(),
        indexes: vec![key],
        element_indexes: Vec::new(),
        triggers: Vec::new(),
        rules: Vec::new(),
        row_security: false,
        missing_privileges: Vec::new(),
        missing_column_privileges: Vec::new(),
        kind: 'r',
        is_empty: true,
        fingerprint: String::new(),
    }
}
