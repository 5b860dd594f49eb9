//! PostgreSQL's array literals. Arrays travel as text that the merge casts: each element is first written
//! in its type's binary form, which checks it as a value of its own, and then as that type's text.

use super::fault::Fault;
use super::json_text::{append_hex, append_int, append_uuid};
use super::numeric;
use super::reading::Stored;
use super::time;
use super::walk::{Elements, Value};
use crate::domain::ColumnType;

/// Writes a literal of a BSON array. `each` appends one element's binary form; what it gives as null is
/// NULL, and where it gives the default, that stands for the whole array: what was appended is no literal.
pub(super) fn append(
    array: &[u8],
    element: &ColumnType,
    out: &mut Vec<u8>,
    mut each: impl FnMut(&Value<'_>, &mut Vec<u8>) -> Result<Stored, Fault>,
) -> Result<Stored, Fault> {
    let mut literal = Literal::begin(out);
    let mut bytes = Vec::new();
    for (place, entry) in Elements::new(array)?.enumerate() {
        let value = entry?.1.value()?;
        bytes.clear();
        let stored = match value {
            Value::Null => Stored::Null,
            value => each(&value, &mut bytes).map_err(|fault| fault.in_element(place))?,
        };
        match stored {
            Stored::Value => literal.push(Some(&bytes), element),
            Stored::Null | Stored::NullByRule => literal.push(None, element),
            Stored::Default => return Ok(Stored::Default),
        }
    }
    literal.end();
    Ok(Stored::Value)
}

/// A literal of elements that are in their binary form already.
pub fn literal<'e>(elements: impl Iterator<Item = Option<&'e [u8]>>, element: &ColumnType) -> Vec<u8> {
    let mut out = Vec::new();
    let mut literal = Literal::begin(&mut out);
    for bytes in elements {
        literal.push(bytes, element);
    }
    literal.end();
    out
}

struct Literal<'o> {
    out: &'o mut Vec<u8>,
    is_empty: bool,
}

impl<'o> Literal<'o> {
    fn begin(out: &'o mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, is_empty: true }
    }

    /// Always in quotes, which no element's text is mistaken in: neither `NULL` nor a blank or a comma.
    fn push(&mut self, bytes: Option<&[u8]>, element: &ColumnType) {
        if !self.is_empty {
            self.out.push(b',');
        }
        self.is_empty = false;
        let Some(bytes) = bytes else { return self.out.extend_from_slice(b"NULL") };
        self.out.push(b'"');
        let start = self.out.len();
        append_text(bytes, element, self.out);
        if self.out[start..].iter().any(|byte| matches!(byte, b'"' | b'\\')) {
            let text = self.out.split_off(start);
            for byte in text {
                if matches!(byte, b'"' | b'\\') {
                    self.out.push(b'\\');
                }
                self.out.push(byte);
            }
        }
        self.out.push(b'"');
    }

    fn end(self) {
        self.out.push(b'}');
    }
}

/// The text that PostgreSQL reads as the value with this binary form.
fn append_text(bytes: &[u8], column: &ColumnType, out: &mut Vec<u8>) {
    match column {
        ColumnType::Bool => out.push(if bytes == [0] { b'f' } else { b't' }),
        ColumnType::Int2 => append_int(i64::from(i16::from_be_bytes(sized(bytes))), out),
        ColumnType::Int4 => append_int(i64::from(i32::from_be_bytes(sized(bytes))), out),
        ColumnType::Int8 => append_int(i64::from_be_bytes(sized(bytes)), out),
        // The shortest text that gives the same number back.
        ColumnType::Float4 => append_float(format!("{:?}", f32::from_be_bytes(sized(bytes))), out),
        ColumnType::Float8 => append_float(format!("{:?}", f64::from_be_bytes(sized(bytes))), out),
        ColumnType::Numeric(_) => numeric::append_text(bytes, out),
        ColumnType::Uuid => append_uuid(sized(bytes), out),
        ColumnType::Bytea => {
            out.extend_from_slice(b"\\x");
            append_hex(bytes, out);
        }
        ColumnType::Date => time::append_sql_date(i32::from_be_bytes(sized(bytes)), out),
        ColumnType::Timestamp { .. } => time::append_sql_timestamp(i64::from_be_bytes(sized(bytes)), "", out),
        ColumnType::TimestampTz { .. } => {
            time::append_sql_timestamp(i64::from_be_bytes(sized(bytes)), "+00", out);
        }
        ColumnType::Jsonb => out.extend_from_slice(bytes.get(1..).unwrap_or_default()),
        // The catalog knows no arrays of arrays.
        ColumnType::Text { .. }
        | ColumnType::Json
        | ColumnType::Enum { .. }
        | ColumnType::Array { .. }
        | ColumnType::Other(_) => out.extend_from_slice(bytes),
    }
}

/// The encoder wrote just so many.
fn sized<const LENGTH: usize>(bytes: &[u8]) -> [u8; LENGTH] {
    bytes.try_into().unwrap_or([0; LENGTH])
}

fn append_float(text: String, out: &mut Vec<u8>) {
    match text.as_str() {
        "inf" => out.extend_from_slice(b"Infinity"),
        "-inf" => out.extend_from_slice(b"-Infinity"),
        text => out.extend_from_slice(text.as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use bson::{Bson, DateTime, rawdoc};

    use super::super::encode::encode;
    use super::*;
    use crate::domain::{Reason, TextKind};

    const TEXT: ColumnType = ColumnType::Text { kind: TextKind::Text, limit: None };

    fn literal_of(values: Vec<Bson>, element: ColumnType) -> Result<String, (Reason, String)> {
        let document = bson::doc! { "a": values }.to_vec().unwrap();
        let (_, raw) = Elements::new(&document).unwrap().next().unwrap().unwrap();
        let column = ColumnType::Array { element: Box::new(element), cast_sql: "some[]".into() };
        let mut out = Vec::new();
        encode(&raw.value().unwrap(), &column, &mut out)
            .map_err(|fault| (fault.reason, fault.message.into_owned()))?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn elements_are_quoted_so_that_nothing_is_mistaken() {
        let texts = ["a", "", "NULL", "{x,y}", "\"\\", " b\n", "é"].map(Bson::from).to_vec();
        assert_eq!(
            literal_of(texts, TEXT).unwrap(),
            "{\"a\",\"\",\"NULL\",\"{x,y}\",\"\\\"\\\\\",\" b\n\",\"é\"}"
        );
        assert_eq!(literal_of(vec![], TEXT).unwrap(), "{}");
        assert_eq!(literal_of(vec![Bson::Null, "a".into()], TEXT).unwrap(), "{NULL,\"a\"}");
    }

    #[test]
    fn every_type_has_its_text() {
        let moment = |ms| Bson::from(DateTime::from_millis(ms));
        for (value, element, text) in [
            (Bson::from(-5), ColumnType::Int2, "-5"),
            (Bson::from(i64::MIN), ColumnType::Int8, "-9223372036854775808"),
            (Bson::from(true), ColumnType::Bool, "t"),
            (Bson::from(-0.0), ColumnType::Float8, "-0.0"),
            (Bson::from(f64::NEG_INFINITY), ColumnType::Float4, "-Infinity"),
            (Bson::from(-1234.5), ColumnType::Numeric(Some((12, 2))), "-1234.50"),
            (
                Bson::from(bson::Binary { subtype: bson::spec::BinarySubtype::Generic, bytes: vec![0, 255] }),
                ColumnType::Bytea,
                "\\\\x00ff",
            ),
            (moment(-62_167_219_200_000), ColumnType::Date, "0001-01-01 BC"),
            (moment(951_827_696_120), ColumnType::Timestamp { precision: 6 }, "2000-02-29 12:34:56.120000"),
            (
                moment(253_402_300_800_000),
                ColumnType::TimestampTz { precision: 3 },
                "10000-01-01 00:00:00.000000+00",
            ),
            (bson::doc! { "a": "b" }.into(), ColumnType::Jsonb, "{\\\"a\\\":\\\"b\\\"}"),
        ] {
            assert_eq!(literal_of(vec![value], element).unwrap(), format!("{{\"{text}\"}}"));
        }
    }

    #[test]
    fn an_element_that_does_not_fit_is_named_by_its_place() {
        let (reason, message) = literal_of(vec![1.into(), 70_000.into()], ColumnType::Int2).unwrap_err();
        assert_eq!((reason, message.starts_with("element 1: ")), (Reason::OutOfRange, true), "{message}");
        let nested = literal_of(vec![Bson::Array(vec![1.into()])], ColumnType::Int2).unwrap_err();
        assert_eq!(nested.0, Reason::WrongType);
        let whole = rawdoc! {};
        let column = ColumnType::Array { element: Box::new(TEXT), cast_sql: "text[]".into() };
        let fault = encode(&Value::Document(whole.as_bytes()), &column, &mut Vec::new()).unwrap_err();
        assert_eq!(fault.message, "document does not fit a column of type text[]");
    }
}
