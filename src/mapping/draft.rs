//! What a table must be for its mappings, where there is none yet: types that a mapping says, else those
//! that a sample of its documents has. A draft takes every value it was made from.

mod child;
mod shape;

use std::collections::BTreeSet;

use bson::raw::{RawBsonRef, RawDocument};
use bson::spec::BinarySubtype;
use serde::Serialize;

use super::compile::specs_of;
use crate::config::{Aim, ColumnSpec, MappingSpec, ReferenceSpec, Rule, Scalar, Targets, ValueSpec};
use crate::domain::{ColumnType, Document, Table, TableName, TextKind};
pub use child::{child_as_mapping, drafted_children};

/// Every whole number up to here is one `double precision`.
const EXACT_IN_DOUBLE: u64 = 1 << 53;

/// The type that takes whatever comes.
const ANYTHING: &str = "jsonb";

/// A table that does not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    pub table: TableName,
    pub columns: Vec<DraftColumn>,
    pub primary_key: Vec<String>,
    /// The mappings' key, where the primary key is another.
    pub unique_key: Option<Vec<String>>,
    pub foreign_keys: Vec<DraftForeignKey>,
    /// What its types were inferred from: elements of documents, not these themselves.
    pub of_elements: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DraftForeignKey {
    pub column: String,
    pub references: TableName,
    pub referenced_column: String,
    /// The rows go with the row that they are inside of.
    pub with_parent: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DraftColumn {
    pub name: String,
    /// As SQL: one of those below, or that of the column it refers to.
    #[serde(rename = "type")]
    pub type_sql: String,
    #[serde(skip)]
    pub column_type: ColumnType,
    pub not_null: bool,
    /// `None`: the mapping says the type.
    pub inferred: Option<Inferred>,
}

impl DraftColumn {
    /// Its type was to be inferred, and neither a document nor a default told it.
    pub fn is_unknown(&self) -> bool {
        let unseen = self.inferred.as_ref().is_some_and(|inferred| inferred.present == 0);
        unseen && self.type_sql == ANYTHING
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

/// One mapping that writes the table, with documents of its collection.
#[derive(Debug, Clone, Copy)]
pub struct DraftedFor<'a> {
    pub spec: &'a MappingSpec,
    pub sample: &'a [Document],
    /// Of children: the table of the documents that they are inside of.
    pub parent: Option<&'a TableName>,
}

/// What references may mean: every mapping, the tables that are there, and those drafted before.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    pub specs: &'a [MappingSpec],
    pub tables: &'a [Table],
    pub drafts: &'a [Draft],
}

impl Draft {
    /// `uses`: every mapping of this table.
    pub fn new(table: &TableName, uses: &[DraftedFor<'_>], around: Surroundings<'_>) -> Self {
        let mut columns: Vec<Drafting> = Vec::new();
        let mut key: Vec<String> = Vec::new();
        let mut foreign_keys: Vec<DraftForeignKey> = Vec::new();
        for used in uses {
            for name in used.spec.key.added() {
                add(&mut columns, Drafting::known(name, Shape::Text, true));
            }
            for name in used.spec.key.names() {
                if !key.iter().any(|known| known == name) {
                    key.push(name.to_owned());
                }
            }
            let specs = specs_of(used.spec);
            for spec in specs.iter() {
                let mut column = Drafting::new(spec, used.sample);
                let with_parent = child::parent_of(&specs, used.parent) == Some(spec.name.as_str());
                column.not_null |= with_parent;
                if let ValueSpec::Reference(reference) = &spec.value
                    && let Some(referred) = around.referred(reference, used.parent)
                {
                    let known = foreign_keys.iter().any(|key| key.column == spec.name);
                    if referred.is_unique && !known && reference.each.is_none() {
                        foreign_keys.push(DraftForeignKey {
                            column: spec.name.clone(),
                            references: referred.table,
                            referenced_column: referred.column,
                            with_parent,
                        });
                    }
                    column.referred = Some(referred.of_type);
                }
                if matches!(&spec.value, ValueSpec::Reference(reference) if reference.each.is_some()) {
                    column.referred = Some(array_of(column.referred));
                }
                add(&mut columns, column);
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
        let of_elements = uses.iter().all(|used| used.parent.is_some());
        Self { table: table.clone(), columns, primary_key, unique_key, foreign_keys, of_elements }
    }

    fn keys(&self) -> impl Iterator<Item = &Vec<String>> {
        std::iter::once(&self.primary_key).chain(&self.unique_key)
    }

    fn has_unique(&self, column: &str) -> bool {
        self.keys().any(|key| *key == [column])
    }

    /// Whether the index of a key serves look-ups by this column.
    pub fn is_led_by(&self, column: &str) -> bool {
        self.keys().any(|key| key.first().is_some_and(|first| first == column))
    }
}

/// A type, as SQL too.
type SqlType = (String, ColumnType);

fn array_of(element: Option<SqlType>) -> SqlType {
    let (sql, element) =
        element.unwrap_or_else(|| (Shape::Text.type_sql().to_owned(), Shape::Text.column_type()));
    let cast_sql = format!("{}[]", sql.split('(').next().unwrap_or(&sql));
    (format!("{sql}[]"), ColumnType::Array { element: Box::new(element), cast_sql })
}

struct Referred {
    table: TableName,
    column: String,
    of_type: SqlType,
    is_unique: bool,
}

impl Surroundings<'_> {
    /// The one column that is meant; none if several tables may have it, or the table is not known yet.
    fn referred(&self, reference: &ReferenceSpec, parent: Option<&TableName>) -> Option<Referred> {
        let mut tables: Vec<&TableName> = match &reference.aim {
            Aim::Row { table, .. } => vec![table],
            Aim::Parent => return self.taken(parent?, None),
            Aim::Document { to, .. } => {
                let is_named = |source: &String| match to {
                    Targets::First(sources) => sources.contains(source),
                    Targets::By { map, .. } => map.iter().any(|(_, of)| of == source),
                };
                self.specs.iter().filter(|spec| is_named(&spec.source)).map(|spec| &spec.table).collect()
            }
        };
        tables.dedup();
        let [name] = tables[..] else { return None };
        self.taken(name, reference.take.as_deref())
    }

    /// This column of a table, or its only key column.
    fn taken(&self, name: &TableName, take: Option<&str>) -> Option<Referred> {
        if let Some(table) = self.tables.iter().find(|table| table.name == *name) {
            // The primary key is the first of them.
            let alone = table.unique_keys.iter().find(|key| key.columns.len() == 1);
            let column = table.column(take.or(alone.map(|key| key.columns[0].as_str()))?)?;
            let is_unique = table.unique_keys.iter().any(|key| {
                key.columns == [column.name.as_str()] && !key.partial_or_expression && !key.deferrable
            });
            let of_type = (column.type_sql.clone(), column.column_type.clone());
            return Some(Referred { table: name.clone(), column: column.name.clone(), of_type, is_unique });
        }
        let draft = self.drafts.iter().find(|draft| draft.table == *name)?;
        let alone = (draft.primary_key.len() == 1).then(|| draft.primary_key[0].as_str());
        let take = take.or(alone)?;
        let column = draft.columns.iter().find(|column| column.name == take)?;
        let of_type = (column.type_sql.clone(), column.column_type.clone());
        let column = column.name.clone();
        Some(Referred { table: name.clone(), is_unique: draft.has_unique(&column), column, of_type })
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
    /// The type of the column that it refers to.
    referred: Option<SqlType>,
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
        Self { name: name.to_owned(), shape, inferred: None, not_null, writers: 1, referred: None }
    }

    /// Types of references are for the caller to know.
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
            ValueSpec::Path { reading, .. }
            | ValueSpec::Expression { reading, .. }
            | ValueSpec::Transformed { reading }
                if !reading.rules.is_empty() || reading.labels.is_some() =>
            {
                let shapes = reading.rules.iter().map(Shape::of_rule);
                let shape = shapes.reduce(Shape::join).unwrap_or(Shape::Text);
                known(shape, spec.required)
            }
            // What comes out is not known before it runs.
            ValueSpec::Path { .. } | ValueSpec::Expression { .. } | ValueSpec::Transformed { .. } => {
                let inferred = Some(Inferred { documents: sample.len() as u64, ..Inferred::default() });
                Self { inferred, ..known(Shape::Nothing, spec.required) }
            }
            ValueSpec::Document { .. } => known(Shape::Anything, true),
            ValueSpec::SourceId => known(Shape::Text, true),
            ValueSpec::ClusterTime => known(Shape::Moment, false),
            ValueSpec::Constant(scalar) => known(Shape::of_scalar(scalar), *scalar != Scalar::Null),
            ValueSpec::KeyUuid => known(Shape::Uuid, true),
            ValueSpec::KeyPrefixed(_) => known(Shape::Text, true),
            ValueSpec::Collect { .. } => known(Shape::Anything, false),
            // Where it is known what the other row has, its type is taken instead.
            ValueSpec::Reference(_) => known(Shape::Text, spec.required),
        }
    }

    fn finish(self, mappings: usize) -> DraftColumn {
        let shape = self.shape;
        let (type_sql, column_type) =
            self.referred.unwrap_or_else(|| (shape.type_sql().to_owned(), shape.column_type()));
        DraftColumn {
            name: self.name,
            type_sql,
            column_type,
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

    fn type_sql(self) -> &'static str {
        match self {
            Self::Boolean => "boolean",
            Self::Integer | Self::Bigint => "bigint",
            Self::Double => "double precision",
            Self::Numeric => "numeric",
            Self::Text => "text",
            Self::Uuid => "uuid",
            Self::Moment => "timestamptz",
            Self::Bytes => "bytea",
            Self::Nothing | Self::Anything => ANYTHING,
        }
    }

    fn column_type(self) -> ColumnType {
        match self {
            Self::Boolean => ColumnType::Bool,
            Self::Integer | Self::Bigint => ColumnType::Int8,
            Self::Double => ColumnType::Float8,
            Self::Numeric => ColumnType::Numeric(None),
            Self::Text => ColumnType::Text { kind: TextKind::Text, limit: None },
            Self::Uuid => ColumnType::Uuid,
            Self::Moment => ColumnType::TimestampTz { precision: 6 },
            Self::Bytes => ColumnType::Bytea,
            Self::Nothing | Self::Anything => ColumnType::Jsonb,
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
    use crate::mapping::tests::named;

    const NOTHING: Surroundings<'_> = Surroundings { specs: &[], tables: &[], drafts: &[] };

    fn spec(columns: Option<Vec<ColumnSpec>>) -> MappingSpec {
        MappingSpec { columns, ..named("orders") }
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
    fn inferred(values: &[Bson]) -> String {
        let sample = documents(&values.iter().map(|value| doc! { "x": value }).collect::<Vec<_>>());
        let spec = spec(Some(vec![column("x", path("x"))]));
        let draft =
            Draft::new(&spec.table, &[DraftedFor { spec: &spec, sample: &sample, parent: None }], NOTHING);
        draft.columns[2].type_sql.clone()
    }

    #[test]
    fn the_type_is_the_narrowest_that_takes_every_value_as_it_is() {
        let decimal: Decimal128 = "1.10".parse().expect("a decimal");
        let (int, double, long) = (Bson::Int32(1), Bson::Double(1.5), Bson::Int64(i64::MAX));
        let text = Bson::String("a".into());
        assert_eq!(inferred(std::slice::from_ref(&int)), "bigint");
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
        let draft =
            Draft::new(&spec.table, &[DraftedFor { spec: &spec, sample: &sample, parent: None }], NOTHING);
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
        let of = |spec| DraftedFor { spec, sample: &sample, parent: None };
        let draft = Draft::new(&left.table, &[of(&left), of(&right)], NOTHING);
        let not_null: Vec<bool> = draft.columns.iter().map(|column| column.not_null).collect();
        assert_eq!(not_null, [true, true, true, false]);
        assert_eq!(draft.primary_key, ["source", "source_id"]);
        assert_eq!(draft.columns[2].inferred.as_ref().map(|inferred| inferred.documents), Some(2));
    }
}
