//! What a table must be for its mappings, where there is none yet: types that a mapping says, else those
//! that a sample of its documents has. A draft takes every value it was made from.

use std::collections::BTreeSet;

use bson::raw::{RawBsonRef, RawDocument};
use bson::spec::BinarySubtype;
use serde::Serialize;

use super::compile::specs_of;
use crate::config::{ColumnSpec, MappingSpec, Rule, Scalar, ValueSpec};
use crate::domain::{Document, TableName};

/// Every whole number up to here is one `double precision`.
const EXACT_IN_DOUBLE: u64 = 1 << 53;

/// A table that does not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    pub table: TableName,
    pub columns: Vec<DraftColumn>,
    pub primary_key: Vec<String>,
    /// The mappings' key, where the primary key is another.
    pub unique_key: Option<Vec<String>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DraftColumn {
    pub name: String,
    #[serde(rename = "type")]
    pub column_type: DraftType,
    pub not_null: bool,
    /// `None`: the mapping says the type.
    pub inferred: Option<Inferred>,
}

impl DraftColumn {
    /// Its type was to be inferred, and neither a document nor a default told it.
    pub fn is_unknown(&self) -> bool {
        let unseen = self.inferred.as_ref().is_some_and(|inferred| inferred.present == 0);
        unseen && self.column_type == DraftType::Jsonb
    }
}

/// What a type was inferred from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Inferred {
    /// Documents of the sample that have a value, and all of it.
    pub present: u64,
    pub documents: u64,
    /// BSON types, by name.
    pub types: BTreeSet<&'static str>,
}

/// The types that a draft knows: the widest that keep a value as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DraftType {
    Boolean,
    Bigint,
    #[serde(rename = "double precision")]
    Double,
    Numeric,
    Text,
    Uuid,
    Timestamptz,
    Bytea,
    Jsonb,
}

impl DraftType {
    pub fn sql(self) -> &'static str {
        match self {
            Self::Boolean => "boolean",
            Self::Bigint => "bigint",
            Self::Double => "double precision",
            Self::Numeric => "numeric",
            Self::Text => "text",
            Self::Uuid => "uuid",
            Self::Timestamptz => "timestamptz",
            Self::Bytea => "bytea",
            Self::Jsonb => "jsonb",
        }
    }
}

/// One mapping that writes the table, with documents of its collection.
#[derive(Debug, Clone, Copy)]
pub struct DraftedFor<'a> {
    pub spec: &'a MappingSpec,
    pub sample: &'a [Document],
}

impl Draft {
    /// `uses`: every mapping of this table.
    pub fn new(table: &TableName, uses: &[DraftedFor<'_>]) -> Self {
        let mut columns: Vec<Drafting> = Vec::new();
        let mut key: Vec<String> = Vec::new();
        for used in uses {
            for name in used.spec.key.added() {
                add(&mut columns, Drafting::known(name, Shape::Text, true));
            }
            for name in used.spec.key.names() {
                if !key.iter().any(|known| known == name) {
                    key.push(name.to_owned());
                }
            }
            for spec in specs_of(used.spec).iter() {
                add(&mut columns, Drafting::new(spec, used.sample));
            }
        }
        // Ids that rowstream makes are what others will refer to.
        let made = |spec: &ColumnSpec| matches!(spec.value, ValueSpec::KeyUuid | ValueSpec::KeyPrefixed(_));
        let of_all =
            |name: &str| columns.iter().any(|column| column.name == name && column.writers == uses.len());
        let id = uses
            .iter()
            .flat_map(|used| used.spec.columns.iter().flatten())
            .find(|spec| made(spec) && of_all(&spec.name));
        let (primary_key, unique_key) = match id {
            Some(spec) => (vec![spec.name.clone()], Some(key)),
            None => (key, None),
        };
        let columns = columns.into_iter().map(|column| column.finish(uses.len())).collect();
        Self { table: table.clone(), columns, primary_key, unique_key }
    }
}

/// A column while mappings are added to it.
struct Drafting {
    name: String,
    shape: Shape,
    inferred: Option<Inferred>,
    not_null: bool,
    /// How many mappings write it.
    writers: usize,
}

/// What is known of a column's values so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// No document has a value.
    Nothing,
    Boolean,
    /// Whole numbers that a double holds, and any.
    Integer,
    Bigint,
    Double,
    Numeric,
    Text,
    Uuid,
    Moment,
    Bytes,
    Anything,
}

fn add(columns: &mut Vec<Drafting>, column: Drafting) {
    match columns.iter_mut().find(|present| present.name == column.name) {
        None => columns.push(column),
        Some(present) => {
            present.shape = present.shape.join(column.shape);
            present.not_null &= column.not_null;
            present.writers += 1;
            if let Some(more) = column.inferred {
                let inferred = present.inferred.get_or_insert_default();
                inferred.present += more.present;
                inferred.documents += more.documents;
                inferred.types.extend(more.types);
            }
        }
    }
}

impl Drafting {
    fn known(name: &str, shape: Shape, not_null: bool) -> Self {
        Self { name: name.to_owned(), shape, inferred: None, not_null, writers: 1 }
    }

    fn new(spec: &ColumnSpec, sample: &[Document]) -> Self {
        let known = |shape, not_null| Self::known(&spec.name, shape, not_null);
        match &spec.value {
            ValueSpec::Path { from, reading } if reading.rules.is_empty() && reading.labels.is_none() => {
                let (shape, inferred) = infer(from, sample);
                let shape = match (shape, &spec.default) {
                    // Text can also be how a number or a moment is written, where the file has no type for it.
                    (shape, None | Some(Scalar::Null | Scalar::Text(_))) if shape != Shape::Nothing => shape,
                    (shape, None) => shape,
                    (shape, Some(default)) => shape.join(Shape::of_scalar(default)),
                };
                Self { inferred: Some(inferred), ..known(shape, spec.required) }
            }
            ValueSpec::Path { reading, .. } => {
                let shapes = reading.rules.iter().map(Shape::of_rule);
                let shape = shapes.reduce(Shape::join).unwrap_or(Shape::Text);
                known(shape, spec.required)
            }
            ValueSpec::Document { .. } => known(Shape::Anything, true),
            ValueSpec::SourceId => known(Shape::Text, true),
            ValueSpec::ClusterTime => known(Shape::Moment, false),
            ValueSpec::Constant(scalar) => known(Shape::of_scalar(scalar), *scalar != Scalar::Null),
            ValueSpec::KeyUuid => known(Shape::Uuid, true),
            ValueSpec::KeyPrefixed(_) => known(Shape::Text, true),
            // What the other row has is not known here: text takes every id.
            ValueSpec::Reference(_) => known(Shape::Text, spec.required),
        }
    }

    fn finish(self, mappings: usize) -> DraftColumn {
        DraftColumn {
            name: self.name,
            column_type: self.shape.column_type(),
            // What one mapping does not write is null in its rows.
            not_null: self.not_null && self.writers >= mappings,
            inferred: self.inferred,
        }
    }
}

impl Shape {
    fn of_rule(rule: &Rule) -> Self {
        match rule {
            Rule::UnixSeconds | Rule::UnixMilliseconds | Rule::Rfc3339 | Rule::Iso8601 | Rule::Date(_) => {
                Self::Moment
            }
            Rule::Text | Rule::ObjectId => Self::Text,
            Rule::Number => Self::Numeric,
            Rule::Boolean => Self::Boolean,
            Rule::Json => Self::Anything,
        }
    }

    fn of_scalar(scalar: &Scalar) -> Self {
        match scalar {
            Scalar::Null => Self::Nothing,
            Scalar::Bool(_) => Self::Boolean,
            Scalar::Int(number) if number.unsigned_abs() <= EXACT_IN_DOUBLE => Self::Integer,
            Scalar::Int(_) => Self::Bigint,
            Scalar::Float(_) => Self::Double,
            Scalar::Text(_) => Self::Text,
            Scalar::List(_) => Self::Anything,
        }
    }

    /// What holds both.
    fn join(self, other: Self) -> Self {
        match (self, other) {
            (left, right) if left == right => left,
            (Self::Nothing, shape) | (shape, Self::Nothing) => shape,
            (Self::Integer, Self::Bigint) | (Self::Bigint, Self::Integer) => Self::Bigint,
            (Self::Integer, Self::Double) | (Self::Double, Self::Integer) => Self::Double,
            (left, right) if left.is_number() && right.is_number() => Self::Numeric,
            (Self::Text, Self::Uuid) | (Self::Uuid, Self::Text) => Self::Text,
            _ => Self::Anything,
        }
    }

    fn is_number(self) -> bool {
        matches!(self, Self::Integer | Self::Bigint | Self::Double | Self::Numeric)
    }

    fn column_type(self) -> DraftType {
        match self {
            Self::Boolean => DraftType::Boolean,
            Self::Integer | Self::Bigint => DraftType::Bigint,
            Self::Double => DraftType::Double,
            Self::Numeric => DraftType::Numeric,
            Self::Text => DraftType::Text,
            Self::Uuid => DraftType::Uuid,
            Self::Moment => DraftType::Timestamptz,
            Self::Bytes => DraftType::Bytea,
            // Takes whatever comes.
            Self::Nothing | Self::Anything => DraftType::Jsonb,
        }
    }
}

fn infer(from: &[String], sample: &[Document]) -> (Shape, Inferred) {
    let mut shape = Shape::Nothing;
    let mut inferred = Inferred { documents: sample.len() as u64, ..Inferred::default() };
    for document in sample {
        let Ok(document) = RawDocument::from_bytes(document.as_bytes()) else { continue };
        let Some(value) = from.iter().find_map(|path| at(document, path)) else { continue };
        let (of_value, name) = shape_of(value);
        shape = shape.join(of_value);
        inferred.present += 1;
        inferred.types.insert(name);
    }
    (shape, inferred)
}

/// What is at a path and not null. Bytes that cannot be read have no type to tell.
fn at<'d>(document: &'d RawDocument, path: &str) -> Option<RawBsonRef<'d>> {
    let mut names = path.split('.');
    let mut value = document.get(names.next()?).ok()??;
    for name in names {
        value = match value {
            RawBsonRef::Document(inner) => inner.get(name).ok()??,
            RawBsonRef::Array(items) => items.get(name.parse().ok()?).ok()??,
            _ => return None,
        };
    }
    (value != RawBsonRef::Null).then_some(value)
}

fn shape_of(value: RawBsonRef<'_>) -> (Shape, &'static str) {
    match value {
        RawBsonRef::Double(_) => (Shape::Double, "double"),
        RawBsonRef::String(_) => (Shape::Text, "string"),
        RawBsonRef::Symbol(_) => (Shape::Text, "symbol"),
        RawBsonRef::ObjectId(_) => (Shape::Text, "objectId"),
        RawBsonRef::Boolean(_) => (Shape::Boolean, "bool"),
        RawBsonRef::Int32(_) => (Shape::Integer, "int"),
        RawBsonRef::Int64(number) if number.unsigned_abs() <= EXACT_IN_DOUBLE => (Shape::Integer, "long"),
        RawBsonRef::Int64(_) => (Shape::Bigint, "long"),
        RawBsonRef::Decimal128(_) => (Shape::Numeric, "decimal"),
        RawBsonRef::DateTime(_) => (Shape::Moment, "date"),
        RawBsonRef::Binary(binary) => match binary.subtype {
            BinarySubtype::Uuid if binary.bytes.len() == 16 => (Shape::Uuid, "uuid"),
            BinarySubtype::Generic => (Shape::Bytes, "binData"),
            _ => (Shape::Anything, "binData"),
        },
        RawBsonRef::Document(_) => (Shape::Anything, "object"),
        RawBsonRef::Array(_) => (Shape::Anything, "array"),
        RawBsonRef::Null
        | RawBsonRef::RegularExpression(_)
        | RawBsonRef::JavaScriptCode(_)
        | RawBsonRef::JavaScriptCodeWithScope(_)
        | RawBsonRef::Timestamp(_)
        | RawBsonRef::Undefined
        | RawBsonRef::DbPointer(_)
        | RawBsonRef::MaxKey
        | RawBsonRef::MinKey => (Shape::Anything, "other"),
    }
}

#[cfg(test)]
mod tests {
    use bson::{Bson, Decimal128, doc};

    use super::*;
    use crate::config::{Deletes, KeySpec, OnDrop, OnMappingChange, SchemaMode};
    use crate::domain::Namespace;

    fn spec(columns: Option<Vec<ColumnSpec>>) -> MappingSpec {
        MappingSpec {
            source: "orders".into(),
            collection: Namespace { database: "shop".into(), collection: "orders".into() },
            table: TableName { schema: "public".into(), name: "orders".into() },
            id_type: None,
            key: KeySpec::SourceId { source: Some("source".into()), source_id: "source_id".into() },
            adopt: None,
            shared: false,
            columns,
            deletes: Deletes::Hard,
            schema: SchemaMode::Create,
            on_drop: OnDrop::Delete,
            on_mapping_change: OnMappingChange::Resync,
            critical: false,
            enabled: true,
            allow_empty: false,
        }
    }

    fn column(name: &str, value: ValueSpec) -> ColumnSpec {
        ColumnSpec { name: name.into(), value, insert_only: false, required: false, default: None }
    }

    fn path(from: &str) -> ValueSpec {
        ValueSpec::Path { from: vec![from.into()], reading: crate::config::Reading::default() }
    }

    fn documents(values: &[bson::Document]) -> Vec<Document> {
        let bytes = |document: &bson::Document| document.to_vec().expect("encodes").into();
        values.iter().filter_map(|document| Document::new(bytes(document))).collect()
    }

    /// The type of column `x` for these values.
    fn inferred(values: &[Bson]) -> &'static str {
        let sample = documents(&values.iter().map(|value| doc! { "x": value }).collect::<Vec<_>>());
        let spec = spec(Some(vec![column("x", path("x"))]));
        let draft = Draft::new(&spec.table, &[DraftedFor { spec: &spec, sample: &sample }]);
        draft.columns[2].column_type.sql()
    }

    #[test]
    fn the_type_is_the_narrowest_that_takes_every_value_as_it_is() {
        let decimal: Decimal128 = "1.10".parse().expect("a decimal");
        let (int, double, long) = (Bson::Int32(1), Bson::Double(1.5), Bson::Int64(i64::MAX));
        let text = Bson::String("a".into());
        assert_eq!(inferred(&[int.clone()]), "bigint");
        assert_eq!(inferred(&[int.clone(), Bson::Int64(7)]), "bigint");
        assert_eq!(inferred(&[int.clone(), double.clone()]), "double precision");
        assert_eq!(inferred(&[long, double.clone()]), "numeric", "a double has no room for it");
        assert_eq!(inferred(&[double, Bson::Decimal128(decimal)]), "numeric");
        assert_eq!(inferred(&[text.clone(), Bson::ObjectId(bson::oid::ObjectId::new())]), "text");
        assert_eq!(inferred(&[text, int.clone()]), "jsonb");
        assert_eq!(inferred(&[Bson::Boolean(true), Bson::Null]), "boolean");
        assert_eq!(inferred(&[Bson::DateTime(bson::DateTime::from_millis(1))]), "timestamptz");
        assert_eq!(inferred(&[bson::Uuid::new().into()]), "uuid");
        assert_eq!(inferred(&[Bson::Null]), "jsonb", "nothing is known, anything may come");
        assert_eq!(inferred(&[Bson::Array(vec![int])]), "jsonb");
    }

    #[test]
    fn a_made_id_is_the_primary_key_and_the_key_is_unique_beside_it() {
        let columns = vec![column("id", ValueSpec::KeyPrefixed("o_".into())), column("n", path("a.0.n"))];
        let spec = spec(Some(columns));
        let sample = documents(&[doc! { "a": [{ "n": 1 }] }, doc! { "a": 5 }]);
        let draft = Draft::new(&spec.table, &[DraftedFor { spec: &spec, sample: &sample }]);
        assert_eq!(draft.primary_key, ["id"]);
        assert_eq!(draft.unique_key.as_deref(), Some(&["source".to_owned(), "source_id".to_owned()][..]));
        let inferred = draft.columns[3].inferred.as_ref().expect("by a path");
        assert_eq!((inferred.present, inferred.documents), (1, 2));
    }

    #[test]
    fn a_column_that_one_of_two_mappings_leaves_out_takes_null() {
        let required = |name: &str| ColumnSpec { required: true, ..column(name, path(name)) };
        let left = spec(Some(vec![required("both"), required("one")]));
        let right = MappingSpec { source: "other".into(), ..spec(Some(vec![required("both")])) };
        let sample = documents(&[doc! { "both": 1, "one": 1 }]);
        let of = |spec| DraftedFor { spec, sample: &sample };
        let draft = Draft::new(&left.table, &[of(&left), of(&right)]);
        let not_null: Vec<bool> = draft.columns.iter().map(|column| column.not_null).collect();
        assert_eq!(not_null, [true, true, true, false]);
        assert_eq!(draft.primary_key, ["source", "source_id"]);
        assert_eq!(draft.columns[2].inferred.as_ref().map(|inferred| inferred.documents), Some(2));
    }
}
