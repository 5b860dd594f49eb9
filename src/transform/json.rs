//! Extended JSON (v2), relaxed unless asked for otherwise, written straight from BSON bytes.
//!
//! It differs from the specification where the text would not tell two values apart once jsonb has it:
//! doubles always have a point or an exponent, -0.0 is wrapped, and a field of the user's own whose name is
//! that of a wrapper gets one more `$`.

use super::base64;
use super::fault::Fault;
use super::json_form;
use super::json_text::{
    append_decimal128, append_double, append_escaped, append_hex, append_int, append_string,
};
use super::time::{Fraction, append_rfc3339};
use super::walk::{ARRAY, DOCUMENT, Elements, Raw, STRING, Value};
use super::word::Name;
use crate::config::JsonForm;
use crate::domain::{ColumnType, Reason};

/// mongod nests 180 levels at most.
const MAX_DEPTH: usize = 200;

/// Elements of the objects that are open at once, for most documents: one allocation.
const OPEN_ELEMENTS: usize = 20;

const WRAPPERS: [&[u8]; 16] = [
    b"oid",
    b"numberInt",
    b"numberLong",
    b"numberDouble",
    b"numberDecimal",
    b"date",
    b"binary",
    b"uuid",
    b"regularExpression",
    b"timestamp",
    b"code",
    b"symbol",
    b"dbPointer",
    b"minKey",
    b"maxKey",
    b"undefined",
];

/// In which order the fields of an object are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    AsStored,
    /// By length, then by bytes: jsonb keeps them so, and to sort what is sorted costs PostgreSQL next to
    /// nothing, else a tenth of its work.
    OfJsonb,
}

/// How JSON is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Style {
    pub(super) form: JsonForm,
    pub(super) order: Order,
}

impl Style {
    pub(super) fn of(form: JsonForm, column: &ColumnType) -> Self {
        let order = if matches!(column, ColumnType::Jsonb) { Order::OfJsonb } else { Order::AsStored };
        Self { form, order }
    }
}

/// Writes one value, as relaxed extended JSON with its fields as they are stored.
pub(super) fn append_value(value: &Value<'_>, out: &mut Vec<u8>) -> Result<(), Fault> {
    let style = Style { form: JsonForm::Relaxed, order: Order::AsStored };
    append_value_as(value, style, out).map(drop)
}

/// Writes one value; `true` if plain JSON lost the type of anything in it.
pub(super) fn append_value_as(value: &Value<'_>, style: Style, out: &mut Vec<u8>) -> Result<bool, Fault> {
    let mut writer = Writer::new(style);
    writer.value(value, out, 0)?;
    Ok(writer.lost)
}

/// Writes a whole document without some of its top-level fields; `true` if plain JSON lost a type.
pub(super) fn append_document(
    document: &[u8],
    without: &[Box<[u8]>],
    style: Style,
    out: &mut Vec<u8>,
) -> Result<bool, Fault> {
    let mut writer = Writer::new(style);
    writer.document(document, without, out, 0)?;
    Ok(writer.lost)
}

struct Writer<'a> {
    form: JsonForm,
    order: Order,
    /// Of the objects that are open, the innermost at the end.
    elements: Vec<(Name<'a>, Raw<'a>)>,
    lost: bool,
}

impl<'a> Writer<'a> {
    fn new(style: Style) -> Self {
        Self { form: style.form, order: style.order, elements: Vec::new(), lost: false }
    }

    /// Most values are texts, objects and arrays: those without the detour over a `Value`, which costs as much
    /// as to write them.
    #[inline]
    fn raw(&mut self, raw: Raw<'a>, out: &mut Vec<u8>, depth: usize) -> Result<(), Fault> {
        if self.form == JsonForm::Relaxed {
            match raw.element_type {
                DOCUMENT => return self.document(raw.bytes, &[], out, depth),
                ARRAY => return self.array(raw.bytes, out, depth),
                STRING => return append_string(raw.text().ok_or_else(Fault::malformed)?, out),
                _ => {}
            }
        }
        self.value(&raw.value()?, out, depth)
    }

    fn value(&mut self, value: &Value<'a>, out: &mut Vec<u8>, depth: usize) -> Result<(), Fault> {
        match self.form {
            JsonForm::Relaxed => {}
            JsonForm::Canonical if json_form::append_canonical(value, out) => return Ok(()),
            JsonForm::Plain if json_form::append_plain(value, out)? => {
                self.lost = true;
                return Ok(());
            }
            JsonForm::Canonical | JsonForm::Plain => {}
        }
        match *value {
            Value::Double(double) => append_number_double(double, out),
            Value::String(text) => append_string(text, out)?,
            Value::Document(document) => self.document(document, &[], out, depth)?,
            Value::Array(array) => self.array(array, out, depth)?,
            Value::Binary { subtype, bytes } => append_binary(subtype, bytes, out)?,
            Value::Undefined => out.extend_from_slice(br#"{"$undefined":true}"#),
            Value::ObjectId(id) => append_object_id(id, out),
            Value::Bool(true) => out.extend_from_slice(b"true"),
            Value::Bool(false) => out.extend_from_slice(b"false"),
            Value::Date(milliseconds) => append_date(milliseconds, out),
            Value::Null => out.extend_from_slice(b"null"),
            Value::Regex { pattern, options } => append_regex(pattern, options, out)?,
            Value::DbPointer { namespace, id } => {
                out.extend_from_slice(br#"{"$dbPointer":{"$ref":"#);
                append_string(namespace, out)?;
                out.extend_from_slice(br#","$id":"#);
                append_object_id(id, out);
                out.extend_from_slice(b"}}");
            }
            Value::Code(code) => {
                out.extend_from_slice(br#"{"$code":"#);
                append_string(code, out)?;
                out.push(b'}');
            }
            Value::Symbol(text) => {
                out.extend_from_slice(br#"{"$symbol":"#);
                append_string(text, out)?;
                out.push(b'}');
            }
            Value::CodeWithScope { code, scope } => {
                out.extend_from_slice(br#"{"$code":"#);
                append_string(code, out)?;
                out.extend_from_slice(br#","$scope":"#);
                self.document(scope, &[], out, depth + 1)?;
                out.push(b'}');
            }
            Value::Int32(int) => append_int(i64::from(int), out),
            Value::Timestamp { seconds, increment } => {
                out.extend_from_slice(br#"{"$timestamp":{"t":"#);
                append_int(i64::from(seconds), out);
                out.extend_from_slice(br#","i":"#);
                append_int(i64::from(increment), out);
                out.extend_from_slice(b"}}");
            }
            Value::Int64(int) => append_int(int, out),
            Value::Decimal128(bits) => {
                out.extend_from_slice(br#"{"$numberDecimal":""#);
                append_decimal128(bits, out);
                out.extend_from_slice(br#""}"#);
            }
            Value::MinKey => out.extend_from_slice(br#"{"$minKey":1}"#),
            Value::MaxKey => out.extend_from_slice(br#"{"$maxKey":1}"#),
        }
        Ok(())
    }

    fn document(
        &mut self,
        document: &'a [u8],
        without: &[Box<[u8]>],
        out: &mut Vec<u8>,
        depth: usize,
    ) -> Result<(), Fault> {
        check_depth(depth)?;
        if self.elements.capacity() == 0 {
            self.elements.reserve(OPEN_ELEMENTS);
        }
        let first = self.elements.len();
        for element in Elements::new(document)? {
            let (name, raw) = element?;
            if !without.iter().any(|left_out| **left_out == *name) {
                self.elements.push((Name::new(name), raw));
            }
        }
        let end = self.elements.len();
        if self.order == Order::OfJsonb {
            self.sort(first)?;
        }
        out.push(b'{');
        for index in first..end {
            let (name, raw) = self.elements[index];
            if index > first {
                out.push(b',');
            }
            append_name(name.bytes, self.form, out)?;
            self.raw(raw, out, depth + 1)?;
        }
        if self.order == Order::AsStored {
            self.sort(first)?;
        }
        self.elements.truncate(first);
        out.push(b'}');
        Ok(())
    }

    /// Finds names that occur twice as well: jsonb would keep only the last.
    fn sort(&mut self, first: usize) -> Result<(), Fault> {
        let open = &mut self.elements[first..];
        open.sort_unstable_by_key(|(name, _)| *name);
        match open.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            true => Err(Fault::new(Reason::DuplicateField, "a field name occurs twice in one document")),
            false => Ok(()),
        }
    }

    fn array(&mut self, array: &'a [u8], out: &mut Vec<u8>, depth: usize) -> Result<(), Fault> {
        check_depth(depth)?;
        out.push(b'[');
        for (index, element) in Elements::new(array)?.enumerate() {
            // The name is the index, or wrong: the order is what counts.
            let (_, raw) = element?;
            if index > 0 {
                out.push(b',');
            }
            self.raw(raw, out, depth + 1)?;
        }
        out.push(b']');
        Ok(())
    }
}

fn check_depth(depth: usize) -> Result<(), Fault> {
    if depth >= MAX_DEPTH {
        return Err(Fault::new(Reason::Malformed, "the document is nested more than 200 levels deep"));
    }
    Ok(())
}

fn append_name(name: &[u8], form: JsonForm, out: &mut Vec<u8>) -> Result<(), Fault> {
    out.push(b'"');
    if name.first() == Some(&b'$') && form != JsonForm::Plain {
        let dollars = name.iter().take_while(|&&byte| byte == b'$').count();
        if WRAPPERS.contains(&&name[dollars..]) {
            out.push(b'$');
        }
    }
    append_escaped(name, out)?;
    out.extend_from_slice(b"\":");
    Ok(())
}

fn append_number_double(value: f64, out: &mut Vec<u8>) {
    let wrapped = match value {
        value if value.is_nan() => "NaN",
        f64::INFINITY => "Infinity",
        f64::NEG_INFINITY => "-Infinity",
        value if value == 0.0 && value.is_sign_negative() => "-0.0",
        value => return append_double(value, out),
    };
    out.extend_from_slice(br#"{"$numberDouble":""#);
    out.extend_from_slice(wrapped.as_bytes());
    out.extend_from_slice(br#""}"#);
}

fn append_object_id(id: &[u8; 12], out: &mut Vec<u8>) {
    out.extend_from_slice(br#"{"$oid":""#);
    append_hex(id, out);
    out.extend_from_slice(br#""}"#);
}

fn append_date(milliseconds: i64, out: &mut Vec<u8>) {
    out.extend_from_slice(br#"{"$date":"#);
    let text_at = out.len();
    out.push(b'"');
    // The specification's relaxed form begins in 1970.
    if milliseconds >= 0 && append_rfc3339(milliseconds, Fraction::Needed, out).is_some() {
        out.extend_from_slice(br#""}"#);
        return;
    }
    out.truncate(text_at);
    out.extend_from_slice(br#"{"$numberLong":""#);
    append_int(milliseconds, out);
    out.extend_from_slice(br#""}}"#);
}

fn append_binary(subtype: u8, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
    let bytes = if subtype == 2 { old_binary(bytes)? } else { bytes };
    out.extend_from_slice(br#"{"$binary":{"base64":""#);
    base64::append(bytes, out);
    out.extend_from_slice(br#"","subType":""#);
    append_hex(&[subtype], out);
    out.extend_from_slice(br#""}}"#);
    Ok(())
}

/// Subtype 2 has a second length inside. mongod stores it unchecked.
pub(super) fn old_binary(bytes: &[u8]) -> Result<&[u8], Fault> {
    match bytes {
        [a, b, c, d, rest @ ..] if u32::from_le_bytes([*a, *b, *c, *d]) as usize == rest.len() => Ok(rest),
        _ => Err(Fault::new(Reason::Malformed, "a binary of subtype 2 has a wrong inner length")),
    }
}

fn append_regex(pattern: &[u8], options: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
    out.extend_from_slice(br#"{"$regularExpression":{"pattern":"#);
    append_string(pattern, out)?;
    out.extend_from_slice(br#","options":"#);
    if options.is_ascii() {
        let mut options = options.to_vec();
        options.sort_unstable();
        append_string(&options, out)?;
    } else {
        append_string(options, out)?;
    }
    out.extend_from_slice(b"}}");
    Ok(())
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;
