//! A walk over raw BSON: element by element, bounds-checked, no copy. What is malformed says so where it
//! is met, so that a flaw in a field that nobody maps does not matter as long as its length is right.

use super::fault::Fault;
use super::word;
use crate::domain::value_length;

pub(super) const STRING: u8 = 0x02;
pub(super) const DOCUMENT: u8 = 0x03;
pub(super) const ARRAY: u8 = 0x04;
pub(super) const NULL: u8 = 0x0a;
pub(super) const INT32: u8 = 0x10;

/// A value not yet looked into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Raw<'a> {
    pub(super) element_type: u8,
    pub(super) bytes: &'a [u8],
}

/// A value. Text is bytes: mongod stores text that is not UTF-8.
///
/// The tag as wide as a word: what follows is copied in whole words then, which is several times faster.
#[derive(Debug, Clone, Copy)]
#[repr(u64)]
pub(super) enum Value<'a> {
    Double(f64),
    String(&'a [u8]),
    /// Whole, with length and closing zero.
    Document(&'a [u8]),
    Array(&'a [u8]),
    Binary {
        subtype: u8,
        bytes: &'a [u8],
    },
    Undefined,
    ObjectId(&'a [u8; 12]),
    Bool(bool),
    /// Milliseconds since 1970.
    Date(i64),
    Null,
    Regex {
        pattern: &'a [u8],
        options: &'a [u8],
    },
    DbPointer {
        namespace: &'a [u8],
        id: &'a [u8; 12],
    },
    Code(&'a [u8]),
    Symbol(&'a [u8]),
    CodeWithScope {
        code: &'a [u8],
        scope: &'a [u8],
    },
    Int32(i32),
    Timestamp {
        seconds: u32,
        increment: u32,
    },
    Int64(i64),
    /// Bits of a Decimal128.
    Decimal128(u128),
    MinKey,
    MaxKey,
}

/// The elements of one document or array.
#[derive(Debug, Clone)]
pub(super) struct Elements<'a> {
    rest: &'a [u8],
}

impl<'a> Elements<'a> {
    /// From a whole document: length, elements, closing zero.
    pub(super) fn new(document: &'a [u8]) -> Result<Self, Fault> {
        match document {
            [a, b, c, d, rest @ .., 0]
                if usize::try_from(i32::from_le_bytes([*a, *b, *c, *d])) == Ok(document.len()) =>
            {
                Ok(Self { rest })
            }
            _ => Err(Fault::malformed()),
        }
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Result<(&'a [u8], Raw<'a>), Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        let (&element_type, rest) = self.rest.split_first()?;
        let element = (|| {
            let name_length = word::zero(rest)?;
            let (name, rest) = rest.split_at_checked(name_length)?;
            let rest = rest.get(1..)?;
            let (bytes, rest) = rest.split_at_checked(value_length(element_type, rest)?)?;
            Some((name, Raw { element_type, bytes }, rest))
        })();
        match element {
            Some((name, raw, rest)) => {
                self.rest = rest;
                Some(Ok((name, raw)))
            }
            None => {
                self.rest = &[];
                Some(Err(Fault::malformed()))
            }
        }
    }
}

impl<'a> Raw<'a> {
    /// Of a value of text: without its length and its closing zero.
    #[inline]
    pub(super) fn text(self) -> Option<&'a [u8]> {
        text(self.bytes)
    }

    pub(super) fn value(self) -> Result<Value<'a>, Fault> {
        self.decode().ok_or_else(Fault::malformed)
    }

    fn decode(self) -> Option<Value<'a>> {
        let bytes = self.bytes;
        Some(match self.element_type {
            0x01 => Value::Double(f64::from_le_bytes(bytes.try_into().ok()?)),
            STRING => Value::String(text(bytes)?),
            DOCUMENT => Value::Document(bytes),
            ARRAY => Value::Array(bytes),
            0x05 => {
                let (head, bytes) = bytes.split_at_checked(5)?;
                Value::Binary { subtype: head[4], bytes }
            }
            0x06 => Value::Undefined,
            0x07 => Value::ObjectId(bytes.try_into().ok()?),
            0x08 => match bytes {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                _ => return None,
            },
            0x09 => Value::Date(i64::from_le_bytes(bytes.try_into().ok()?)),
            NULL => Value::Null,
            0x0b => {
                let end = bytes.iter().position(|&byte| byte == 0)?;
                Value::Regex { pattern: &bytes[..end], options: bytes[end + 1..].strip_suffix(&[0])? }
            }
            0x0c => {
                let (namespace, id) = bytes.split_at_checked(bytes.len().checked_sub(12)?)?;
                Value::DbPointer { namespace: text(namespace)?, id: id.try_into().ok()? }
            }
            0x0d => Value::Code(text(bytes)?),
            0x0e => Value::Symbol(text(bytes)?),
            0x0f => {
                let rest = bytes.get(4..)?;
                let (code, scope) = rest.split_at_checked(value_length(STRING, rest)?)?;
                Value::CodeWithScope { code: text(code)?, scope }
            }
            0x10 => Value::Int32(i32::from_le_bytes(bytes.try_into().ok()?)),
            0x11 => {
                let bits = u64::from_le_bytes(bytes.try_into().ok()?);
                Value::Timestamp { seconds: (bits >> 32) as u32, increment: bits as u32 }
            }
            0x12 => Value::Int64(i64::from_le_bytes(bytes.try_into().ok()?)),
            0x13 => Value::Decimal128(u128::from_le_bytes(bytes.try_into().ok()?)),
            0x7f => Value::MaxKey,
            0xff => Value::MinKey,
            _ => return None,
        })
    }
}

impl Value<'_> {
    /// The type's name, for messages.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Double(_) => "double",
            Self::String(_) => "string",
            Self::Document(_) => "document",
            Self::Array(_) => "array",
            Self::Binary { subtype: 3 | 4, .. } => "uuid",
            Self::Binary { .. } => "binary",
            Self::Undefined => "undefined",
            Self::ObjectId(_) => "objectId",
            Self::Bool(_) => "bool",
            Self::Date(_) => "date",
            Self::Null => "null",
            Self::Regex { .. } => "regex",
            Self::DbPointer { .. } => "dbPointer",
            Self::Code(_) => "javascript",
            Self::Symbol(_) => "symbol",
            Self::CodeWithScope { .. } => "javascriptWithScope",
            Self::Int32(_) => "int",
            Self::Timestamp { .. } => "timestamp",
            Self::Int64(_) => "long",
            Self::Decimal128(_) => "decimal",
            Self::MinKey => "minKey",
            Self::MaxKey => "maxKey",
        }
    }
}

fn prefix(bytes: &[u8]) -> Option<usize> {
    let length = i32::from_le_bytes(*bytes.first_chunk()?);
    usize::try_from(length).ok()
}

/// Without its length and its closing zero.
fn text(bytes: &[u8]) -> Option<&[u8]> {
    let (&closing, text) = bytes.get(4..)?.split_last()?;
    (closing == 0 && prefix(bytes)? == text.len() + 1).then_some(text)
}

#[cfg(test)]
mod tests {
    use bson::{Bson, doc, rawdoc};
    use proptest::prelude::*;

    use super::*;

    fn walk(document: &[u8], depth: usize) -> Result<usize, Fault> {
        let mut count = 0;
        for element in Elements::new(document)? {
            let (_, raw) = element?;
            count += 1;
            match raw.value()? {
                Value::Document(inner) | Value::Array(inner) if depth < 200 => {
                    count += walk(inner, depth + 1)?;
                }
                _ => {}
            }
        }
        Ok(count)
    }

    #[test]
    fn every_type_is_walked() {
        let document = doc! {
            "double": 1.5, "string": "a", "document": { "b": 1 }, "array": [1, 2],
            "binary": Bson::Binary(bson::Binary { subtype: 2.into(), bytes: vec![1, 2] }),
            "undefined": Bson::Undefined, "oid": bson::oid::ObjectId::new(), "bool": true,
            "date": bson::DateTime::from_millis(1), "null": null,
            "regex": Bson::RegularExpression(bson::Regex { pattern: "a".try_into().unwrap(), options: "i".try_into().unwrap() }),
            "code": Bson::JavaScriptCode("x".into()), "symbol": Bson::Symbol("s".into()),
            "scope": Bson::JavaScriptCodeWithScope(bson::JavaScriptCodeWithScope {
                code: "x".into(), scope: doc! { "a": 1 } }),
            "int": 1, "timestamp": bson::Timestamp { time: 1, increment: 2 }, "long": 1_i64,
            "decimal": "1".parse::<bson::Decimal128>().unwrap(), "min": Bson::MinKey, "max": Bson::MaxKey,
        };
        assert_eq!(walk(&document.to_vec().unwrap(), 0), Ok(23));
    }

    #[test]
    fn a_document_cut_anywhere_is_malformed() {
        let whole = rawdoc! { "a": { "b": "text" }, "c": [1, 2.5] };
        for end in 0..whole.as_bytes().len() {
            assert_eq!(walk(&whole.as_bytes()[..end], 0), Err(Fault::malformed()));
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(
            prop_oneof![any::<u8>(), 0_u8..20, Just(0_u8)], 0..64))
        {
            let _ = walk(&bytes, 0);
            let mut framed = (bytes.len() as u32 + 5).to_le_bytes().to_vec();
            framed.extend_from_slice(&bytes);
            framed.push(0);
            let _ = walk(&framed, 0);
        }

        #[test]
        fn a_flipped_byte_never_panics(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let whole = rawdoc! { "a": { "b": "text", "r": bson::Regex { pattern: "a".try_into().unwrap(), options: "i".try_into().unwrap() } },
                "c": [1, 2.5, true, null], "d": bson::oid::ObjectId::new() };
            let mut bytes = whole.into_bytes();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = walk(&bytes, 0);
        }
    }
}
