//! Raw BSON, read and written as bytes: what mongod stores need not be what a strict decoder accepts.

use bson::RawDocumentBuf;

use crate::domain::{ClusterTime, value_length};

pub(super) const STRING: u8 = 0x02;
pub(super) const DOCUMENT: u8 = 0x03;
pub(super) const ARRAY: u8 = 0x04;
pub(super) const BINARY: u8 = 0x05;
pub(super) const INT32: u8 = 0x10;
pub(super) const TIMESTAMP: u8 = 0x11;
pub(super) const DATE: u8 = 0x09;
pub(super) const INT64: u8 = 0x12;
pub(super) const MAX_KEY: u8 = 0x7F;

/// Bytes that are not framed as BSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// One field; `value` is the BSON value without type and name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Element<'a> {
    pub(super) element_type: u8,
    pub(super) name: &'a [u8],
    pub(super) value: &'a [u8],
}

impl<'a> Element<'a> {
    /// The characters of a string, not checked for UTF-8.
    pub(super) fn text(&self) -> Option<&'a [u8]> {
        match self.element_type {
            STRING => self.value.get(4..self.value.len().checked_sub(1)?),
            _ => None,
        }
    }

    pub(super) fn document(&self) -> Option<&'a [u8]> {
        (self.element_type == DOCUMENT).then_some(self.value)
    }

    pub(super) fn array(&self) -> Option<&'a [u8]> {
        (self.element_type == ARRAY).then_some(self.value)
    }

    /// Milliseconds since 1970.
    pub(super) fn date(&self) -> Option<i64> {
        let bytes: [u8; 8] = self.value.try_into().ok()?;
        (self.element_type == DATE).then(|| i64::from_le_bytes(bytes))
    }

    pub(super) fn cluster_time(&self) -> Option<ClusterTime> {
        if self.element_type != TIMESTAMP {
            return None;
        }
        let bytes: [u8; 8] = self.value.try_into().ok()?;
        let value = u64::from_le_bytes(bytes);
        Some(ClusterTime::new((value >> 32) as u32, value as u32))
    }
}

/// The fields of a document or array, in order. Stops after the first malformed one.
#[derive(Debug)]
pub(super) struct Elements<'a> {
    rest: &'a [u8],
}

pub(super) fn elements(document: &[u8]) -> Elements<'_> {
    // Without its length prefix; the closing zero ends the walk.
    Elements { rest: document.get(4..).unwrap_or_default() }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Result<Element<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.rest {
            [0] => None,
            rest => {
                let split = split_element(rest);
                self.rest = split.map_or(&[0], |(_, rest)| rest);
                Some(split.map(|(element, _)| element).ok_or(Malformed))
            }
        }
    }
}

fn split_element(bytes: &[u8]) -> Option<(Element<'_>, &[u8])> {
    let (&element_type, rest) = bytes.split_first()?;
    let (name, rest) = split_text(rest)?;
    let (value, rest) = rest.split_at_checked(sound_length(element_type, rest)?)?;
    Some((Element { element_type, name, value }, rest))
}

fn split_text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|&byte| byte == 0)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

/// As the value has it, if it is long enough to be one.
fn sound_length(element_type: u8, bytes: &[u8]) -> Option<usize> {
    let length = value_length(element_type, bytes)?;
    let least = match element_type {
        STRING | 0x0D | 0x0E | DOCUMENT | ARRAY | 0x0F => 5,
        _ => 0,
    };
    (length >= least).then_some(length)
}

/// Builds a command whose values are given as bytes, so that any `_id` goes back as it came.
#[derive(Debug)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub(super) fn new() -> Self {
        Self(vec![0; 4])
    }

    /// `value` is a BSON value of that type.
    pub(super) fn value(mut self, name: &str, element_type: u8, value: &[u8]) -> Self {
        self.push(name, element_type, value);
        self
    }

    /// Like `value`, for loops.
    pub(super) fn push(&mut self, name: &str, element_type: u8, value: &[u8]) {
        self.0.push(element_type);
        self.0.extend_from_slice(name.as_bytes());
        self.0.push(0);
        self.0.extend_from_slice(value);
    }

    pub(super) fn string(mut self, name: &str, value: &str) -> Self {
        let length = value.len() as i32 + 1;
        self.push(name, STRING, &length.to_le_bytes());
        self.0.extend_from_slice(value.as_bytes());
        self.0.push(0);
        self
    }

    pub(super) fn int(self, name: &str, value: i64) -> Self {
        self.value(name, INT64, &value.to_le_bytes())
    }

    pub(super) fn time(self, name: &str, time: ClusterTime) -> Self {
        self.value(name, TIMESTAMP, &time.to_i64().to_le_bytes())
    }

    pub(super) fn document(self, name: &str, document: Writer) -> Self {
        self.value(name, DOCUMENT, &document.bytes())
    }

    pub(super) fn array(self, name: &str, array: Writer) -> Self {
        self.value(name, ARRAY, &array.bytes())
    }

    pub(super) fn bytes(mut self) -> Vec<u8> {
        self.0.push(0);
        let length = self.0.len() as i32;
        self.0[..4].copy_from_slice(&length.to_le_bytes());
        self.0
    }

    /// `None` only for a command above BSON's own limit of 2 GB.
    pub(super) fn command(self) -> Option<RawDocumentBuf> {
        RawDocumentBuf::from_bytes(self.bytes()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_is_walked_over() -> Result<(), Box<dyn std::error::Error>> {
        let document = bson::doc! {
            "double": 1.5, "string": "text", "document": { "a": 1 }, "array": [1, "b"],
            "binary": bson::Binary { subtype: bson::spec::BinarySubtype::Generic, bytes: vec![1, 2] },
            "undefined": bson::Bson::Undefined, "object_id": bson::oid::ObjectId::new(), "boolean": true,
            "date": bson::DateTime::from_millis(1), "null": bson::Bson::Null,
            "regex": bson::Bson::RegularExpression(bson::Regex {
                pattern: "a.b".try_into()?, options: "i".try_into()?,
            }),
            "code": bson::Bson::JavaScriptCode("x".into()),
            "symbol": bson::Bson::Symbol("s".into()),
            "scope": bson::Bson::JavaScriptCodeWithScope(bson::JavaScriptCodeWithScope {
                code: "x".into(), scope: bson::doc! { "y": 1 },
            }),
            "int32": 1, "timestamp": bson::Timestamp { time: 7, increment: 9 }, "int64": 1_i64,
            "decimal": "1.10".parse::<bson::Decimal128>()?, "min": bson::Bson::MinKey, "max": bson::Bson::MaxKey,
        };
        let bytes = document.to_vec()?;
        let fields: Result<Vec<_>, _> = elements(&bytes).collect();
        let fields = fields.map_err(|_| "malformed")?;
        let names: Vec<_> = fields.iter().map(|field| String::from_utf8_lossy(field.name)).collect();
        assert!(names.iter().eq(document.keys()), "{names:?}");
        assert_eq!(fields[1].text(), Some("text".as_bytes()));
        assert_eq!(fields[15].cluster_time(), Some(ClusterTime::new(7, 9)));

        let mut copy = Writer::new();
        for field in &fields {
            copy.push(&String::from_utf8_lossy(field.name), field.element_type, field.value);
        }
        assert_eq!(copy.bytes(), bytes);
        Ok(())
    }

    #[test]
    fn cut_bytes_are_malformed_and_end_the_walk() {
        let bytes = Writer::new().string("name", "value").bytes();
        for length in 4..bytes.len() {
            let fields: Vec<_> = elements(&bytes[..length]).collect();
            assert!(fields.last().is_some_and(Result::is_err), "cut at {length}");
        }
    }
}
