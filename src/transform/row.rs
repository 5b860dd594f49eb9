//! A mapping made ready to write rows.

mod child;

use std::fmt;
use std::sync::Arc;

use sha1::{Digest, Sha1};
use uuid::Uuid;

use super::constant;
use super::custom::Custom;
use super::encode::{self, encode, type_name};
use super::expression::{Evaluator, Inside};
use super::fault::Fault;
use super::filter::Filter;
use super::json::{self, Style};
use super::path::{self, Fields, Found, Path};
use super::reading::{self, Counted, Reader, Stored};
use super::reference::{Seek, SeekEach};
use super::time;
use super::walk::{NULL, Raw, Value};
use crate::config::{JsonForm, ValueSpec};
use crate::domain::{
    CanonicalId, ClusterTime, Coercion, ColumnType, Document, IdType, Reason, Reference, Rejection, Row,
    RowKey, TextKind, Transformers, Tuples,
};
use crate::mapping::{ColumnPlan, KeyKind, Mapping, Problem, ReferencePlan};

pub use child::ChildTransformer;

/// Turns documents of one mapping into rows of its table.
pub struct Transformer {
    mapping: Arc<Mapping>,
    namespace: Uuid,
    /// `None`: every document has a row.
    filter: Option<Filter>,
    fields: Fields,
    /// Code of the program's own. Most mappings have none, and pay nothing for it.
    custom: Option<Custom>,
    columns: Vec<Column>,
}

/// How one column comes about.
struct Column {
    write: Write,
    /// What is written instead of an absent value.
    if_absent: Instead,
    if_null: Instead,
    /// Whether null becomes a default, which is counted.
    null_is_altered: bool,
}

enum Write {
    /// A whole field, length and bytes.
    Fixed(Vec<u8>),
    Path {
        paths: Vec<Path>,
        /// `None`: the value as it is.
        reader: Option<Box<Reader>>,
    },
    Expression {
        evaluator: Box<Evaluator>,
        reader: Option<Box<Reader>>,
    },
    Transformed {
        /// Place among the values that the transformer gave.
        value: usize,
        reader: Option<Box<Reader>>,
    },
    Document {
        without: Vec<Box<[u8]>>,
        form: JsonForm,
        strip_nul: bool,
    },
    SourceId,
    ClusterTime,
    KeyUuid,
    KeyPrefixed(String),
    Reference(Seek),
    References(SeekEach),
    /// A place to be filled once it is known what the other documents have.
    Collect {
        path: Path,
    },
}

enum Instead {
    Field(Vec<u8>),
    Reject,
}

/// What is told of a row beside its bytes.
struct Made<'a> {
    counted: Counted<'a>,
    references: &'a mut Vec<Reference>,
}

/// What a row is made from.
struct Input<'a> {
    id: &'a CanonicalId,
    source_id: &'a str,
    document: &'a [u8],
    fields: &'a [Option<Raw<'a>>],
    /// What the mapping's own transformer gave.
    given: &'a [Option<Raw<'a>>],
    time: Option<ClusterTime>,
    transformer: &'a Transformer,
    /// Of an element: what tells it from the others of its document.
    element: Option<&'a [u8]>,
    inside: Option<Inside<'a>>,
    pair: Option<Pair<'a>>,
}

/// The other document of a junction's row.
#[derive(Clone, Copy)]
struct Pair<'a> {
    other: &'a CanonicalId,
    /// Whose ids are made.
    source: &'a str,
}

impl Transformer {
    /// Encodes constants and defaults; those that cannot fit their column are problems, all at once.
    pub fn new(mapping: Arc<Mapping>, namespace: Uuid) -> Result<Self, Vec<Problem>> {
        Self::with_transformers(mapping, namespace, &Transformers::default())
    }

    /// As `new`, with the transformers that the program was built with.
    pub fn with_transformers(
        mapping: Arc<Mapping>,
        namespace: Uuid,
        transformers: &Transformers,
    ) -> Result<Self, Vec<Problem>> {
        let mut fields = Fields::default();
        let mut given = Fields::default();
        let mut columns = Vec::with_capacity(mapping.columns.len());
        let mut problems = Vec::new();
        for (index, plan) in mapping.columns.iter().enumerate() {
            let reference = mapping.references.iter().position(|reference| reference.column == index);
            let reference = reference.map(|place| (place as u16, &mapping.references[place]));
            match Column::new(plan, reference, &mut fields, &mut given) {
                Ok(column) => columns.push(column),
                Err(misfit) => problems.push(misfit.problem(&mapping, plan)),
            }
        }
        let custom = match &mapping.transform {
            None => None,
            Some(name) => {
                let transformer = transformers.get(name);
                if transformer.is_none() {
                    problems.push(unknown_transformer(&mapping, name, transformers));
                }
                transformer.map(|transformer| Custom::new(transformer, given))
            }
        };
        if !problems.is_empty() {
            return Err(problems);
        }
        let filter = mapping.filter.as_ref().map(Filter::new);
        Ok(Self { mapping, namespace, filter, fields, custom, columns })
    }

    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// Whether the document belongs to the mapping. One that does not has no row, as if it were not there.
    pub fn wants(&self, document: &Document) -> Result<bool, Rejection> {
        match &self.filter {
            None => Ok(true),
            Some(filter) => filter.matches(document.as_bytes()).map_err(|fault| fault.in_column(None)),
        }
    }

    /// The row of a document. `time` is the commit time of its change; a snapshot has none.
    pub fn row(
        &self,
        id: &CanonicalId,
        document: &Document,
        time: Option<ClusterTime>,
        tuples: &mut Tuples,
    ) -> Result<Row, Rejection> {
        self.row_of(id.clone(), id.source_id(self.mapping.id_type), document, time, tuples)
    }

    /// A row that stands for no document of its own: its `source_id` is given, its columns are taken from the
    /// document that refers to it.
    pub fn stub(&self, source_id: &str, document: &Document) -> Result<Row, Rejection> {
        let id = CanonicalId::from_bson(&bson::Bson::String(source_id.to_owned()));
        self.row_of(id, source_id.to_owned(), document, None, &mut Tuples::default())
    }

    fn row_of(
        &self,
        id: CanonicalId,
        source_id: String,
        document: &Document,
        time: Option<ClusterTime>,
        tuples: &mut Tuples,
    ) -> Result<Row, Rejection> {
        let document = document.as_bytes();
        let fields = match self.fields.is_empty() {
            true => Vec::new(),
            false => self.fields.find(document).map_err(|fault| fault.in_column(None))?,
        };
        let given = self.custom.as_ref().map(|custom| Ok((custom, custom.call(document)?))).transpose()?;
        let given = given.as_ref().map(|(custom, given)| custom.values(given)).transpose()?;
        let given = given.as_deref().unwrap_or_default();
        let input = Input {
            given,
            id: &id,
            source_id: &source_id,
            document,
            fields: &fields,
            time,
            transformer: self,
            element: None,
            inside: None,
            pair: None,
        };
        let collected = self.collected(&fields)?;
        let (tuple, (coercions, references)) = tuples.tuple(|tuple| self.append(&input, tuple))?;
        Ok(Row { id, source_id, tuple, coercions, references, element: 0, collected })
    }

    fn append(
        &self,
        input: &Input<'_>,
        tuple: &mut Vec<u8>,
    ) -> Result<(Vec<Coercion>, Vec<Reference>), Rejection> {
        // PostgreSQL's tables have at most 1,600 columns.
        tuple.extend_from_slice(&(self.columns.len() as i16).to_be_bytes());
        let (mut coercions, mut references) = (Vec::new(), Vec::new());
        for (index, (column, plan)) in self.columns.iter().zip(&self.mapping.columns).enumerate() {
            let counted = Counted { column: index as u16, into: &mut coercions };
            let mut made = Made { counted, references: &mut references };
            column
                .append(plan, input, tuple, &mut made)
                .map_err(|fault| fault.in_column(Some(&plan.name)))?;
        }
        Ok((coercions, references))
    }

    /// What the document adds to the columns that collect; a value that is absent or null adds nothing.
    fn collected(&self, fields: &[Option<Raw<'_>>]) -> Result<Option<String>, Rejection> {
        if self.mapping.collects().next().is_none() {
            return Ok(None);
        }
        let mut members = Vec::new();
        for (column, plan) in self.columns.iter().zip(&self.mapping.columns) {
            let Write::Collect { path } = &column.write else { continue };
            let in_column = |fault: Fault| fault.in_column(Some(&plan.name));
            let found = path::first(std::slice::from_ref(path), fields).map_err(in_column)?;
            let Found::Present(raw) = found else { continue };
            let mut value = Vec::new();
            let read = raw.value().map_err(in_column)?;
            json::append_value(&read, &mut value).map_err(in_column)?;
            let name = serde_json::Value::from(plan.name.as_str());
            members.push(format!("{name}:{}", String::from_utf8_lossy(&value)));
        }
        Ok(Some(format!("{{{}}}", members.join(","))))
    }

    /// The key of the row of a document, if it follows from the id alone and the id fits.
    pub fn row_key(&self, id: &CanonicalId) -> Option<RowKey> {
        let source_id = id.source_id(self.mapping.id_type);
        match self.mapping.key.kind {
            KeyKind::SourceId { .. } => return Some(RowKey::of_text(&source_id)),
            KeyKind::Derived => {}
            KeyKind::Fields => return None,
        }
        let mut document = vec![0; 4];
        id.append_to("_id", &mut document);
        document.push(0);
        let length = i32::try_from(document.len()).ok()?;
        document[..4].copy_from_slice(&length.to_le_bytes());
        let fields = match self.fields.is_empty() {
            true => Vec::new(),
            false => self.fields.find(&document).ok()?,
        };
        let input = Input {
            id,
            source_id: &source_id,
            document: &document,
            fields: &fields,
            given: &[],
            time: None,
            transformer: self,
            element: None,
            inside: None,
            pair: None,
        };
        let mut tuple = (self.columns.len() as i16).to_be_bytes().to_vec();
        for (place, (column, plan)) in self.columns.iter().zip(&self.mapping.columns).enumerate() {
            if self.mapping.key.has(place) {
                let counted = Counted { column: place as u16, into: &mut Vec::new() };
                let mut made = Made { counted, references: &mut Vec::new() };
                column.append(plan, &input, &mut tuple, &mut made).ok()?;
            } else {
                tuple.extend_from_slice(&(-1_i32).to_be_bytes());
            }
        }
        self.mapping.key.row_key(&tuple).ok()
    }

    /// UUIDv5 of (namespace, source, source_id); of an element also of its table and what tells it apart.
    fn key(&self, input: &Input<'_>) -> Uuid {
        let Input { source_id, element, pair, .. } = input;
        let source = pair.map_or(self.mapping.source.as_str(), |pair| pair.source);
        let mut hash = Sha1::new();
        for part in [self.namespace.as_bytes(), source.as_bytes(), &[0], source_id.as_bytes()] {
            hash.update(part);
        }
        if let Some(element) = element {
            for part in [&[0], self.mapping.table.to_string().as_bytes(), &[0], element] {
                hash.update(part);
            }
        }
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash.finalize()[..16]);
        uuid::Builder::from_sha1_bytes(bytes).into_uuid()
    }
}

impl fmt::Debug for Transformer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transformer").field("source", &self.mapping.source).finish_non_exhaustive()
    }
}

fn unknown_transformer(mapping: &Mapping, name: &str, transformers: &Transformers) -> Problem {
    let names: Vec<&str> = transformers.names().collect();
    let has = match names.as_slice() {
        [] => "none".to_owned(),
        names => names.join(", "),
    };
    Problem {
        source: mapping.source.clone(),
        table: mapping.table.clone(),
        column: None,
        message: format!("the transformer {name} is not part of this program, which has {has}"),
        hint: "build a program that registers it: see examples/transformer.rs".to_owned(),
        fatal: true,
    }
}

/// Why a column's plan cannot work, whatever the documents are.
struct Misfit {
    message: String,
    hint: &'static str,
}

impl Misfit {
    fn problem(self, mapping: &Mapping, plan: &ColumnPlan) -> Problem {
        Problem {
            source: mapping.source.clone(),
            table: mapping.table.clone(),
            column: Some(plan.name.clone()),
            message: self.message,
            hint: self.hint.to_owned(),
            fatal: true,
        }
    }
}

impl Column {
    fn new(
        plan: &ColumnPlan,
        reference: Option<(u16, &ReferencePlan)>,
        fields: &mut Fields,
        given: &mut Fields,
    ) -> Result<Self, Misfit> {
        let (rules, default_for_null) = match &plan.value {
            ValueSpec::Path { reading, .. }
            | ValueSpec::Expression { reading, .. }
            | ValueSpec::Transformed { reading } => (reading.rules.as_slice(), reading.default_for_null),
            _ => (&[][..], true),
        };
        let default = match &plan.default {
            Some(scalar) => constant::encode_scalar(scalar, rules, &plan.column_type)
                .map_err(|fault| misfit("the default", &fault))?,
            None => None,
        };
        let instead = |value: Option<&[u8]>| match value {
            _ if plan.required => Instead::Reject,
            None if plan.not_null => Instead::Reject,
            value => Instead::Field(field(value)),
        };
        let if_absent = instead(default.as_deref());
        let for_null = default.as_deref().filter(|_| default_for_null);
        let (if_null, null_is_altered) = (instead(for_null), for_null.is_some());
        let write = Write::new(plan, reference, fields, given)?;
        if matches!((&write, &if_absent), (Write::ClusterTime, Instead::Reject)) {
            return Err(Misfit {
                message: "the column takes no null, and a document of the snapshot has no cluster time"
                    .into(),
                hint: "drop the column's not null, or give a default",
            });
        }
        Ok(Self { write, if_absent, if_null, null_is_altered })
    }

    /// Appends length and value.
    fn append(
        &self,
        plan: &ColumnPlan,
        input: &Input<'_>,
        tuple: &mut Vec<u8>,
        made: &mut Made<'_>,
    ) -> Result<(), Fault> {
        let column = &plan.column_type;
        match &self.write {
            Write::Fixed(field) => tuple.extend_from_slice(field),
            Write::Collect { .. } => tuple.extend_from_slice(&field(None)),
            Write::Path { paths, reader } => {
                let found = path::first(paths, input.fields)?;
                self.append_found(plan, found, reader.as_deref(), tuple, made)?;
            }
            Write::Expression { evaluator, reader } => {
                let result = evaluator.evaluate(input.document, input.inside)?;
                let found = result.raw().map_or(Found::Null, Found::Present);
                self.append_found(plan, found, reader.as_deref(), tuple, made)?;
            }
            Write::Transformed { value, reader } => {
                let found = match input.given.get(*value).copied().flatten() {
                    None => Found::Absent,
                    Some(raw) if raw.element_type == NULL => Found::Null,
                    Some(raw) => Found::Present(raw),
                };
                self.append_found(plan, found, reader.as_deref(), tuple, made)?;
            }
            Write::Document { without, form, strip_nul } => measured(tuple, |tuple| {
                encode::begin_json(column, tuple);
                let start = tuple.len();
                let style = Style::of(*form, column);
                reading::append_document(
                    input.document,
                    without,
                    (style, *strip_nul),
                    tuple,
                    &mut made.counted,
                )?;
                encode::check_text(&tuple[start..], column)
            })?,
            Write::SourceId => measured(tuple, |tuple| append_source_id(input, column, tuple))?,
            Write::ClusterTime => match input.time {
                Some(time) => measured(tuple, |tuple| append_cluster_time(time, column, tuple))?,
                None => append_instead(&self.if_absent, "absent", plan, tuple)?,
            },
            Write::KeyUuid => measured(tuple, |tuple| {
                let key = input.transformer.key(input);
                encode(&Value::Binary { subtype: 4, bytes: key.as_bytes() }, column, tuple)
            })?,
            Write::KeyPrefixed(prefix) => measured(tuple, |tuple| {
                let text = format!("{prefix}{}", ulid(input.transformer.key(input)));
                encode(&Value::String(text.as_bytes()), column, tuple)
            })?,
            Write::Reference(seek) => {
                let choices = match input.pair {
                    Some(pair) => seek.of_pair(input.id, pair.other),
                    None => seek.choices(input.id, input.fields)?,
                };
                if choices.is_empty() {
                    append_instead(&self.if_absent, "absent", plan, tuple)?;
                } else {
                    let (plan, offset) = (seek.plan, tuple.len());
                    made.references.push(Reference { plan, offset, in_array: false, choices });
                    tuple.extend_from_slice(&field(None));
                }
            }
            Write::References(each) => match each.elements(input.id, input.document, input.fields)? {
                None => append_instead(&self.if_absent, "absent", plan, tuple)?,
                Some(elements) if elements.is_empty() => tuple.extend_from_slice(&field(Some(b"{}"))),
                Some(elements) => {
                    let (plan, offset) = (each.plan(), tuple.len());
                    let reference = |choices| Reference { plan, offset, in_array: true, choices };
                    made.references.extend(elements.into_iter().map(reference));
                    tuple.extend_from_slice(&field(None));
                }
            },
        }
        Ok(())
    }

    fn append_found(
        &self,
        plan: &ColumnPlan,
        found: Found<'_>,
        reader: Option<&Reader>,
        tuple: &mut Vec<u8>,
        made: &mut Made<'_>,
    ) -> Result<(), Fault> {
        match found {
            Found::Present(raw) => {
                let value = raw.value()?;
                match reader {
                    None => measured(tuple, |tuple| encode(&value, &plan.column_type, tuple)),
                    Some(reader) => self.append_read(plan, reader, &value, tuple, &mut made.counted),
                }
            }
            Found::Null => {
                if self.null_is_altered {
                    made.counted.add("on_null");
                }
                append_instead(&self.if_null, "null", plan, tuple)
            }
            Found::Absent => append_instead(&self.if_absent, "absent", plan, tuple),
        }
    }

    fn append_read(
        &self,
        plan: &ColumnPlan,
        reader: &Reader,
        value: &Value<'_>,
        tuple: &mut Vec<u8>,
        counted: &mut Counted<'_>,
    ) -> Result<(), Fault> {
        let start = tuple.len();
        let stored = measured(tuple, |tuple| reader.store(value, &plan.column_type, tuple, counted))?;
        if stored != Stored::Value {
            tuple.truncate(start);
        }
        match stored {
            Stored::Value => Ok(()),
            Stored::Default => append_instead(&self.if_absent, "absent", plan, tuple),
            Stored::Null => append_instead(&self.if_null, "null", plan, tuple),
            Stored::NullByRule if plan.not_null => {
                append_instead(&Instead::Reject, "null by on_error", plan, tuple)
            }
            Stored::NullByRule => {
                tuple.extend_from_slice(&field(None));
                Ok(())
            }
        }
    }
}

/// `state`: of the value, for the message.
fn append_instead(
    instead: &Instead,
    state: &str,
    plan: &ColumnPlan,
    tuple: &mut Vec<u8>,
) -> Result<(), Fault> {
    match instead {
        Instead::Field(field) => {
            tuple.extend_from_slice(field);
            Ok(())
        }
        Instead::Reject => {
            let why = if plan.required { "required" } else { "not null in the table" };
            Err(Fault::new(Reason::MissingRequired, format!("the value is {state}, and the column is {why}")))
        }
    }
}

impl Write {
    fn new(
        plan: &ColumnPlan,
        reference: Option<(u16, &ReferencePlan)>,
        fields: &mut Fields,
        given: &mut Fields,
    ) -> Result<Self, Misfit> {
        let column = &plan.column_type;
        let refuse = |what: &str, hint| Misfit {
            message: format!("{what} does not fit a column of type {}", type_name(column)),
            hint,
        };
        let is_text = matches!(column, ColumnType::Text { .. } | ColumnType::Other(_));
        match &plan.value {
            ValueSpec::Expression { expression, reading } => {
                let reader = Reader::new(reading, column).map_err(|(what, fault)| misfit(what, &fault))?;
                Ok(Self::Expression { evaluator: Box::new(Evaluator::new(expression)), reader })
            }
            ValueSpec::Transformed { reading } => {
                let reader = Reader::new(reading, column).map_err(|(what, fault)| misfit(what, &fault))?;
                Ok(Self::Transformed { value: given.field(&plan.name), reader })
            }
            ValueSpec::Path { from, reading } => {
                let reader = Reader::new(reading, column).map_err(|(what, fault)| misfit(what, &fault))?;
                Ok(Self::Path { paths: from.iter().map(|path| fields.path(path)).collect(), reader })
            }
            ValueSpec::Document { without, json, strip_nul } => {
                if !is_text && !matches!(column, ColumnType::Json | ColumnType::Jsonb) {
                    return Err(refuse("a whole document", "make the column jsonb"));
                }
                let without = without.iter().map(|name| name.as_bytes().into()).collect();
                Ok(Self::Document { without, form: *json, strip_nul: *strip_nul })
            }
            ValueSpec::SourceId => {
                // citext and character(n) hold texts for equal that are different ids.
                let folds =
                    matches!(column, ColumnType::Text { kind: TextKind::Citext | TextKind::Bpchar, .. });
                let is_number = matches!(column, ColumnType::Int2 | ColumnType::Int4 | ColumnType::Int8);
                if folds || !(is_text || is_number || matches!(column, ColumnType::Uuid)) {
                    return Err(refuse("the document's id", "make the column text"));
                }
                Ok(Self::SourceId)
            }
            ValueSpec::ClusterTime => {
                if !matches!(
                    column,
                    ColumnType::Timestamp { .. } | ColumnType::TimestampTz { .. } | ColumnType::Int8
                ) {
                    return Err(refuse("a cluster time", "make the column timestamptz or bigint"));
                }
                Ok(Self::ClusterTime)
            }
            ValueSpec::Constant(scalar) => {
                let value = constant::encode_scalar(scalar, &[], column)
                    .map_err(|fault| misfit("the constant", &fault))?;
                if value.is_none() && plan.not_null {
                    return Err(Misfit {
                        message: "the constant is null, and the column is not null".into(),
                        hint: "give another constant, or drop the column's not null",
                    });
                }
                Ok(Self::Fixed(field(value.as_deref())))
            }
            ValueSpec::Collect { from, .. } => Ok(Self::Collect { path: fields.path(from) }),
            ValueSpec::KeyUuid => {
                if !is_text && !matches!(column, ColumnType::Uuid) {
                    return Err(refuse("a uuid", "make the column uuid or text"));
                }
                check_length(36, column)?;
                Ok(Self::KeyUuid)
            }
            ValueSpec::KeyPrefixed(prefix) => {
                if !is_text {
                    return Err(refuse("a prefixed id", "make the column text"));
                }
                check_length(prefix.chars().count() + ULID_LENGTH, column)?;
                Ok(Self::KeyPrefixed(prefix.clone()))
            }
            ValueSpec::Reference(spec) => {
                let Some((place, compiled)) = reference else {
                    return Err(refuse("a reference without a target", "name a mapping that is enabled"));
                };
                let write = match &spec.each {
                    None => Seek::new(place, spec, compiled, fields).map(Self::Reference),
                    Some(each) => SeekEach::new(place, (spec, each), compiled, fields).map(Self::References),
                };
                write.map_err(|fault| misfit("what is looked up", &fault))
            }
        }
    }
}

fn check_length(length: usize, column: &ColumnType) -> Result<(), Misfit> {
    match column {
        ColumnType::Text { limit: Some(limit), .. } if (*limit as usize) < length => Err(Misfit {
            message: format!("ids of {length} characters do not fit the column's limit of {limit}"),
            hint: "widen the column",
        }),
        _ => Ok(()),
    }
}

fn misfit(what: &str, fault: &Fault) -> Misfit {
    Misfit {
        message: format!("{what} does not fit: {}", fault.message),
        hint: "give a value the column holds",
    }
}

/// A field of a COPY tuple.
pub(super) fn field(value: Option<&[u8]>) -> Vec<u8> {
    let length = value.map_or(-1, |value| value.len() as i32);
    let mut field = length.to_be_bytes().to_vec();
    field.extend_from_slice(value.unwrap_or_default());
    field
}

/// Puts the length before what `write` appends.
pub(super) fn measured<T>(
    tuple: &mut Vec<u8>,
    write: impl FnOnce(&mut Vec<u8>) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let start = tuple.len();
    tuple.extend_from_slice(&[0; 4]);
    let result = write(tuple)?;
    let length = i32::try_from(tuple.len() - start - 4)
        .map_err(|_| Fault::new(Reason::TooLong, "the value has more than 2 GB"))?;
    tuple[start..start + 4].copy_from_slice(&length.to_be_bytes());
    Ok(result)
}

fn append_source_id(input: &Input<'_>, column: &ColumnType, tuple: &mut Vec<u8>) -> Result<(), Fault> {
    let plain = match column {
        ColumnType::Uuid => IdType::Uuid,
        ColumnType::Int2 | ColumnType::Int4 | ColumnType::Int8 => IdType::Int,
        _ => return encode(&Value::String(input.source_id.as_bytes()), column, tuple),
    };
    match input.id.as_bytes() {
        [element_type, bytes @ ..] if input.id.id_type() == Some(plain) => {
            encode(&Raw { element_type: *element_type, bytes }.value()?, column, tuple)
        }
        _ => Err(Fault::wrong_type(format!("an _id that is no {plain} does not fit the column"))),
    }
}

fn append_cluster_time(time: ClusterTime, column: &ColumnType, tuple: &mut Vec<u8>) -> Result<(), Fault> {
    match column {
        ColumnType::Int8 => {
            tuple.extend_from_slice(&time.to_i64().to_be_bytes());
            Ok(())
        }
        _ => time::write(i128::from(time.seconds) * 1_000_000, column, tuple),
    }
}

/// 128 bits, 5 per character, the first character holding the upper 3.
const ULID_LENGTH: usize = 26;

/// The ULID text of a UUID's bits: Crockford's base 32.
fn ulid(id: Uuid) -> String {
    const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let bits = id.as_u128();
    (0..ULID_LENGTH).rev().map(|place| char::from(ALPHABET[((bits >> (5 * place)) & 31) as usize])).collect()
}

#[cfg(test)]
#[path = "row_tests.rs"]
mod tests;
