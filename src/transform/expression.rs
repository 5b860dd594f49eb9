//! CEL expressions: a document as values of CEL, and a result as the BSON value that it stands for, so that
//! it goes the way of any value from there on.

use std::collections::HashMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use cel::objects::{Key, Map, Opaque};
use cel::{Context, Env, ExecutionError, Value as Cel};

use super::fault::Fault;
use super::walk::{ARRAY, DOCUMENT, Elements, NULL, Raw, Value};
use crate::config::{self, Expression, FieldsOfDocument};
use crate::domain::Reason;

/// Values below are kept as they are, and cannot be looked into: CEL recurses.
const DEPTH: usize = 100;

/// A compiled expression, ready to be evaluated.
pub(super) struct Evaluator {
    expression: Expression,
    environment: Arc<Env>,
}

/// The element that a row is made of, and its place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inside<'a> {
    pub(super) element: Raw<'a>,
    pub(super) index: usize,
}

/// A BSON value in a buffer of its own.
pub(super) struct Made {
    element_type: u8,
    bytes: Vec<u8>,
}

impl Made {
    /// `None` for null.
    pub(super) fn raw(&self) -> Option<Raw<'_>> {
        (self.element_type != NULL).then_some(Raw { element_type: self.element_type, bytes: &self.bytes })
    }

    pub(super) fn as_bool(&self) -> Option<bool> {
        match self.raw()?.value() {
            Ok(Value::Bool(flag)) => Some(flag),
            Ok(_) | Err(_) => None,
        }
    }
}

impl Evaluator {
    pub(super) fn new(expression: &Expression) -> Self {
        Self { expression: expression.clone(), environment: config::environment() }
    }

    /// `inside`: where the row is made of an element.
    pub(super) fn evaluate(&self, document: &[u8], inside: Option<Inside<'_>>) -> Result<Made, Fault> {
        let fields = self.fields(document)?;
        let inside = inside.filter(|_| self.expression.is_of_element());
        // Not even a mistake in the evaluator may stop the pipeline.
        let result = catch_unwind(AssertUnwindSafe(|| {
            let mut context = Context::with_env(Arc::clone(&self.environment));
            context.add_variable_from_value(config::DOCUMENT, map(fields));
            if let Some(Inside { element, index }) = inside {
                context.add_variable_from_value(config::ELEMENT, value(element, 0));
                context.add_variable_from_value(config::INDEX, Cel::Int(index as i64));
            }
            self.expression.program().execute(&context)
        }));
        let value = match result {
            Ok(result) => result.map_err(|error| fault(&error))?,
            Err(_) => return Err(failed("cannot be evaluated for this document")),
        };
        let mut bytes = Vec::new();
        let element_type = append(&value, &mut bytes, 0)?;
        Ok(Made { element_type, bytes })
    }

    /// Those of the document that the expression can look at.
    fn fields(&self, document: &[u8]) -> Result<HashMap<Key, Cel>, Fault> {
        let mut fields = HashMap::new();
        let wanted = self.expression.fields();
        if matches!(wanted, FieldsOfDocument::Named(names) if names.is_empty()) {
            return Ok(fields);
        }
        for element in Elements::new(document)? {
            let (name, raw) = element?;
            let is_wanted = match wanted {
                FieldsOfDocument::All => true,
                FieldsOfDocument::Named(names) => {
                    std::str::from_utf8(name).is_ok_and(|name| names.contains(name))
                }
            };
            if is_wanted
                && let Ok(name) = std::str::from_utf8(name)
                && fields.insert(key(name), value(raw, 0)).is_some()
            {
                return Err(Fault::new(Reason::DuplicateField, "a field occurs twice in the document"));
            }
        }
        Ok(fields)
    }
}

impl fmt::Debug for Evaluator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.expression.fmt(f)
    }
}

/// A value that CEL has no type for, or cannot hold: it can be passed on, not looked into.
#[derive(PartialEq, Eq)]
struct Kept {
    element_type: u8,
    bytes: Vec<u8>,
}

impl Opaque for Kept {
    fn runtime_type_name(&self) -> &str {
        "bson"
    }
}

/// Without its value, which may get into a message.
impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bson type {}", self.element_type)
    }
}

fn key(name: &str) -> Key {
    Key::String(Arc::new(name.to_owned()))
}

fn map(fields: HashMap<Key, Cel>) -> Cel {
    Cel::Map(Map { map: Arc::new(fields) })
}

fn value(raw: Raw<'_>, depth: usize) -> Cel {
    let kept = || Cel::Opaque(Arc::new(Kept { element_type: raw.element_type, bytes: raw.bytes.to_vec() }));
    let text = |bytes: &[u8]| std::str::from_utf8(bytes).map_or_else(|_| kept(), Cel::from);
    match raw.value() {
        Ok(Value::Double(number)) => Cel::Float(number),
        Ok(Value::String(bytes) | Value::Symbol(bytes)) => text(bytes),
        Ok(Value::Document(document)) if depth < DEPTH => fields(document, depth).map_or_else(kept, map),
        Ok(Value::Array(array)) if depth < DEPTH => match Elements::new(array) {
            Ok(items) => {
                let items: Result<Vec<Cel>, Fault> =
                    items.map(|item| item.map(|(_, raw)| value(raw, depth + 1))).collect();
                items.map_or_else(|_| kept(), |items| Cel::List(Arc::new(items)))
            }
            Err(_) => kept(),
        },
        Ok(Value::Binary { subtype: 0, bytes }) => Cel::Bytes(Arc::new(bytes.to_vec())),
        Ok(Value::ObjectId(bytes)) => {
            Cel::from(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
        }
        Ok(Value::Bool(flag)) => Cel::Bool(flag),
        Ok(Value::Date(milliseconds)) => chrono::DateTime::from_timestamp_millis(milliseconds)
            .map_or_else(kept, |moment| Cel::Timestamp(moment.fixed_offset())),
        Ok(Value::Null) => Cel::Null,
        Ok(Value::Int32(number)) => Cel::Int(i64::from(number)),
        Ok(Value::Int64(number)) => Cel::Int(number),
        Ok(Value::Decimal128(bits)) => {
            Cel::from(bson::Decimal128::from_bytes(bits.to_le_bytes()).to_string())
        }
        Ok(
            Value::Document(_)
            | Value::Array(_)
            | Value::Binary { .. }
            | Value::Undefined
            | Value::Regex { .. }
            | Value::DbPointer { .. }
            | Value::Code(_)
            | Value::CodeWithScope { .. }
            | Value::Timestamp { .. }
            | Value::MinKey
            | Value::MaxKey,
        )
        | Err(_) => kept(),
    }
}

/// `None` if CEL's map cannot hold all of it.
fn fields(document: &[u8], depth: usize) -> Option<HashMap<Key, Cel>> {
    let mut fields = HashMap::new();
    for element in Elements::new(document).ok()? {
        let (name, raw) = element.ok()?;
        let name = std::str::from_utf8(name).ok()?;
        if fields.insert(key(name), value(raw, depth + 1)).is_some() {
            return None;
        }
    }
    Some(fields)
}

/// Appends the value's bytes, and tells its BSON type.
fn append(value: &Cel, bytes: &mut Vec<u8>, depth: usize) -> Result<u8, Fault> {
    match value {
        Cel::Int(number) => bytes.extend_from_slice(&number.to_le_bytes()),
        Cel::UInt(number) => {
            let number = i64::try_from(*number).map_err(|_| {
                Fault::out_of_range("the expression's result is above the greatest whole number")
            })?;
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        Cel::Float(number) => bytes.extend_from_slice(&number.to_le_bytes()),
        Cel::String(text) => {
            bytes.extend_from_slice(&length(text.len() + 1)?);
            bytes.extend_from_slice(text.as_bytes());
            bytes.push(0);
        }
        Cel::Bytes(binary) => {
            bytes.extend_from_slice(&length(binary.len())?);
            bytes.push(0);
            bytes.extend_from_slice(binary);
        }
        Cel::Bool(flag) => bytes.push(u8::from(*flag)),
        Cel::Timestamp(moment) => {
            if moment.timestamp_subsec_nanos() % 1_000_000 != 0 {
                return Err(Fault::not_exact("the expression's result has parts of a millisecond"));
            }
            bytes.extend_from_slice(&moment.timestamp_millis().to_le_bytes());
        }
        Cel::Null => {}
        Cel::List(items) => {
            let names = (0..).map(|index: usize| index.to_string());
            return append_document(names.zip(items.iter()), ARRAY, bytes, depth);
        }
        Cel::Map(map) => {
            let mut entries: Vec<(String, &Cel)> =
                map.map.iter().map(|(key, value)| (key.to_string(), value)).collect();
            // The map has no order of its own; the same result must be the same bytes.
            entries.sort_by(|left, right| left.0.cmp(&right.0));
            return append_document(entries.into_iter(), DOCUMENT, bytes, depth);
        }
        Cel::Opaque(opaque) => match opaque.downcast_ref::<Kept>() {
            Some(kept) => {
                bytes.extend_from_slice(&kept.bytes);
                return Ok(kept.element_type);
            }
            None => return Err(no_value()),
        },
        Cel::Duration(_) => {
            return Err(failed("gives a duration, which no column takes: use getSeconds() or string()"));
        }
        Cel::Function(..) | Cel::Struct(_) => return Err(no_value()),
    }
    Ok(match value {
        Cel::Int(_) | Cel::UInt(_) => 0x12,
        Cel::Float(_) => 0x01,
        Cel::String(_) => 0x02,
        Cel::Bytes(_) => 0x05,
        Cel::Bool(_) => 0x08,
        Cel::Timestamp(_) => 0x09,
        _ => NULL,
    })
}

fn append_document<'v>(
    entries: impl Iterator<Item = (String, &'v Cel)>,
    element_type: u8,
    bytes: &mut Vec<u8>,
    depth: usize,
) -> Result<u8, Fault> {
    if depth > 2 * DEPTH {
        return Err(failed("gives a value that is nested too deeply"));
    }
    let start = bytes.len();
    bytes.extend_from_slice(&[0; 4]);
    for (name, value) in entries {
        if name.contains('\0') {
            return Err(Fault::new(Reason::NulCharacter, "the expression's result has a name with a NUL"));
        }
        let place = bytes.len();
        bytes.push(0);
        bytes.extend_from_slice(name.as_bytes());
        bytes.push(0);
        bytes[place] = append(value, bytes, depth + 1)?;
    }
    bytes.push(0);
    let length = length(bytes.len() - start)?;
    bytes[start..start + 4].copy_from_slice(&length);
    Ok(element_type)
}

fn length(length: usize) -> Result<[u8; 4], Fault> {
    i32::try_from(length)
        .map(i32::to_le_bytes)
        .map_err(|_| Fault::new(Reason::TooLong, "the expression's result has more than 2 GB"))
}

fn failed(what: impl fmt::Display) -> Fault {
    Fault::new(Reason::Expression, format!("the expression {what}"))
}

fn no_value() -> Fault {
    failed("gives something that is no value")
}

/// Without the values that CEL's own messages quote. Names of functions and types are the expression's own.
fn fault(error: &ExecutionError) -> Fault {
    match error {
        ExecutionError::NoSuchKey(_) => {
            failed("reads a field that is not there: guard it with has(), or write doc.?field.orValue(…)")
        }
        ExecutionError::NoSuchOverload(overload) => failed(format!(
            "applies {} to types that it does not take: {}",
            overload.function(),
            overload.argument_types().join(", ")
        )),
        ExecutionError::UnsupportedBinaryOperator(operator, left, right) => failed(format!(
            "applies {operator} to types that it does not take: {}, {}",
            left.type_of(),
            right.type_of()
        )),
        ExecutionError::UndeclaredReference(name) => failed(format!("calls {name}, which does not exist")),
        ExecutionError::FunctionError { function, .. } => failed(format!("fails in {function}")),
        ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => failed("divides by zero"),
        ExecutionError::Overflow(..) => failed("overflows the range of whole numbers"),
        ExecutionError::IndexOutOfBounds(_) => failed("reads behind the end of a list"),
        ExecutionError::ValuesNotComparable(..) => failed("compares values of two types"),
        _ => failed("cannot be evaluated for this document"),
    }
}

#[cfg(test)]
mod tests {
    use bson::{Bson, doc};
    use proptest::prelude::*;

    use super::*;
    use crate::config::About;

    fn evaluate(text: &str, document: &bson::Document) -> Result<Option<Bson>, Fault> {
        let compiled = Expression::compile(text, About::Document);
        let expression = compiled.unwrap_or_else(|errors| panic!("{errors:?}"));
        let made = Evaluator::new(&expression).evaluate(&document.to_vec().expect("encodes"), None)?;
        let Some(raw) = made.raw() else { return Ok(None) };
        let mut bytes = vec![0; 4];
        bytes.extend_from_slice(&[raw.element_type, b'x', 0]);
        bytes.extend_from_slice(raw.bytes);
        bytes.push(0);
        let length = bytes.len() as i32;
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        Ok(bson::Document::from_reader(bytes.as_slice()).expect("BSON").remove("x"))
    }

    #[test]
    fn what_is_passed_on_is_the_same_value() {
        let uuid = Bson::from(bson::Uuid::from_bytes([7; 16]));
        let values = [
            Bson::Int64(i64::MIN),
            Bson::Double(0.1),
            Bson::String("é".into()),
            Bson::Boolean(true),
            uuid,
            Bson::DateTime(bson::DateTime::from_millis(-1)),
            Bson::DateTime(bson::DateTime::MAX),
            Bson::Array(vec![Bson::Int64(1), Bson::Null]),
            Bson::Document(doc! { "a": { "b": 1_i64 } }),
            Bson::MinKey,
            Bson::Timestamp(bson::Timestamp { time: 1, increment: 2 }),
            Bson::Binary(bson::Binary { subtype: bson::spec::BinarySubtype::Generic, bytes: vec![0, 255] }),
        ];
        for value in values {
            let document = doc! { "v": value.clone(), "w": "other" };
            assert_eq!(evaluate("doc.v", &document), Ok(Some(value.clone())));
            assert_eq!(evaluate("doc['v']", &document), Ok(Some(value)));
        }
        assert_eq!(evaluate("doc.v", &doc! { "v": null }), Ok(None));
        let id = bson::oid::ObjectId::from_bytes([10; 12]);
        assert_eq!(evaluate("doc._id", &doc! { "_id": id }), Ok(Some(Bson::String("0a".repeat(12)))));
        let price: bson::Decimal128 = "1.10".parse().expect("a decimal");
        assert_eq!(evaluate("doc.p + '!'", &doc! { "p": price }), Ok(Some(Bson::String("1.10!".into()))));
    }

    #[test]
    fn what_the_reference_shows_works() {
        let document = doc! { "net": 10, "tax": 1.5, "name": "Ada", "items": [{ "n": "x", "paid": true }, { "n": "y" }] };
        let text = |text: &str| Ok(Some(Bson::String(text.into())));
        for (given, expected) in [
            ("has(doc.net) ? double(doc.net) + doc.tax : null", Ok(Some(Bson::Double(11.5)))),
            ("double(doc.net) + doc.?tax.orValue(0.0)", Ok(Some(Bson::Double(11.5)))),
            ("has(doc.none) ? doc.none : null", Ok(None)),
            ("doc.name.lowerAscii() + (size(doc.items) > 1 ? '!' : '')", text("ada!")),
            ("doc.?at.orValue(null)", Ok(None)),
            (
                "doc.items.filter(i, has(i.paid)).map(i, i.n)",
                Ok(Some(Bson::Array(vec![Bson::String("x".into())]))),
            ),
        ] {
            assert_eq!(evaluate(given, &document), expected, "{given}");
        }
    }

    #[test]
    fn what_fails_says_why_without_a_value() {
        let document = doc! { "n": i64::MAX, "t": "SECRET", "l": [1], "z": 0 };
        let texts = [
            "doc.absent",
            "doc.n + 1",
            "1 / doc.z",
            "doc.t + 1",
            "doc.l[7]",
            "int(doc.t)",
            "duration('1s')",
            "doc.t.matches('(')",
            "doc.n == doc.n ? [1].map(i, i / doc.z) : []",
        ];
        for text in texts {
            let fault = evaluate(text, &document).expect_err(text);
            assert_eq!(fault.reason, Reason::Expression, "{text}");
            assert!(!fault.message.contains("SECRET"), "{text}: {}", fault.message);
        }
    }

    #[test]
    fn the_longest_chains_fit_the_stack() {
        let document = doc! { "a": 1 };
        assert_eq!(evaluate(&format!("1{}", "+1".repeat(29)), &document), Ok(Some(Bson::Int64(30))));
        assert_eq!(evaluate(&format!("{}true", "!".repeat(400)), &document), Ok(Some(Bson::Boolean(true))));
        assert!(evaluate(&format!("doc{}", ".a".repeat(29)), &document).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_of_a_document_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let mut document = (bytes.len() as i32 + 5).to_le_bytes().to_vec();
            document.extend_from_slice(&bytes);
            document.push(0);
            let expression = Expression::compile("doc", About::Document).expect("an expression");
            // Whatever comes of it, it comes as a result.
            let _ = Evaluator::new(&expression).evaluate(&document, None);
        }
    }
}
