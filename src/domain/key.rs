//! Identity: which document, in MongoDB's own sense of equal.

mod canonical;
#[cfg(test)]
mod tests;
mod text;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use bson::raw::{RawBson, RawDocumentBuf};
use bson::{Bson, Document};

/// A mapping's place in the pipeline's list: the first half of every key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceIndex(pub u16);

/// (source, source_id) before the id becomes text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    pub source: SourceIndex,
    pub id: CanonicalId,
}

/// An `_id` such that two ids MongoDB holds for equal have equal bytes: 1, 1.0 and Decimal 1 are one.
/// The bytes are a BSON type byte and a BSON value which MongoDB holds for equal to the original,
/// so it can be sent back in a query.
#[derive(Clone)]
pub struct CanonicalId(Stored);

/// Ids are copied often, and nearly all are as short as this.
#[derive(Clone)]
enum Stored {
    Inline { length: u8, bytes: [u8; INLINE] },
    Shared(Arc<[u8]>),
}

/// A uuid has 22 bytes: its type, its length, its subtype and its own 16.
const INLINE: usize = 22;

/// The type whose ids are written plain; ids of other types carry a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdType {
    ObjectId,
    String,
    /// Whole numbers, however they are stored.
    Int,
    Uuid,
}

/// Characters of an id that `describe` shows.
const DESCRIBED_CHARACTERS: usize = 80;

impl CanonicalId {
    /// From a BSON element's type byte and value bytes as the server sent them. Bytes that are not a
    /// value of that type are kept as they are.
    pub fn from_value(element_type: u8, value: &[u8]) -> Self {
        if canonical::is_kept(element_type)
            && let Some(stored) = Stored::inline(&[element_type], value)
        {
            return Self(stored);
        }
        Self::from_bytes(&canonical::canonical(element_type, value))
    }

    pub fn from_bson(value: &Bson) -> Self {
        let mut wrapper = Document::new();
        wrapper.insert("", value.clone());
        // A value that cannot be serialized (a regex with a NUL) cannot come from a server either.
        match wrapper.to_vec() {
            // [i32 length][type][empty name's NUL][value][NUL]
            Ok(bytes) if bytes.len() >= 7 => Self::from_value(bytes[4], &bytes[6..bytes.len() - 1]),
            Ok(_) | Err(_) => Self::from_value(canonical::UNDEFINED, &[]),
        }
    }

    /// From bytes that `as_bytes` gave, for example as the state schema kept them.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(Stored::inline(&[], bytes).unwrap_or_else(|| Stored::Shared(bytes.into())))
    }

    /// The type byte, then the value.
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Stored::Inline { length, bytes } => &bytes[..usize::from(*length)],
            Stored::Shared(bytes) => bytes,
        }
    }

    /// The value, to send it back in a query. `bson` cannot express some values that mongod stores (text
    /// that is not UTF-8): those become `undefined`, which a query refuses. `append_to` writes all.
    pub fn to_bson(&self) -> RawBson {
        let mut bytes = vec![0; 4];
        self.append_to("", &mut bytes);
        bytes.push(0);
        let length = bytes.len() as u32;
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        RawDocumentBuf::from_bytes(bytes)
            .ok()
            .and_then(|document| match document.iter().next() {
                Some(Ok((_, value))) => Some(value.into()),
                Some(Err(_)) | None => None,
            })
            .unwrap_or(RawBson::Undefined)
    }

    /// Writes the id as one BSON element, byte for byte, for a query that is built by hand:
    /// `$in` with the names "0", "1", …
    pub fn append_to(&self, name: &str, element: &mut Vec<u8>) {
        element.push(self.element_type());
        element.extend_from_slice(name.as_bytes());
        element.push(0);
        element.extend_from_slice(self.value());
    }

    /// The type under which this id would be written plain, if there is one.
    pub fn id_type(&self) -> Option<IdType> {
        text::id_type(self.element_type(), self.value())
    }

    /// The id that a reference with this value means, where ids of the target are mostly of `id_type`: text
    /// of the right form is taken for an ObjectId, a whole number or a UUID, and those for text. What has no
    /// such form is an id of another type, as it is.
    pub fn as_reference(&self, id_type: IdType) -> Self {
        match text::converted(self.element_type(), self.value(), id_type) {
            Some((element_type, value)) => Self::from_value(element_type, &value),
            None => self.clone(),
        }
    }

    /// The id whose `source_id` this is; `None`: the text is only its hash, or none of ours.
    pub fn from_source_id(text: &str, plain: IdType) -> Option<Self> {
        text::parsed(text, plain).filter(|id| id.source_id(plain) == text)
    }

    /// The id as text without NUL, of at most 512 bytes; different ids have different texts. Ids of the
    /// `plain` type are written as they are; all others begin with `$` and a tag.
    pub fn source_id(&self, plain: IdType) -> String {
        text::source_id(self.element_type(), self.value(), Some(plain))
    }

    /// Short, for logs at debug level and for operators.
    pub fn describe(&self) -> String {
        let mut text = text::source_id(self.element_type(), self.value(), None);
        if let Some((end, _)) = text.char_indices().nth(DESCRIBED_CHARACTERS) {
            text.truncate(end);
            text.push('…');
        }
        text
    }

    fn element_type(&self) -> u8 {
        self.as_bytes().first().copied().unwrap_or(canonical::UNDEFINED)
    }

    fn value(&self) -> &[u8] {
        self.as_bytes().get(1..).unwrap_or_default()
    }
}

impl Stored {
    /// `None` if the two together are too long.
    fn inline(head: &[u8], tail: &[u8]) -> Option<Self> {
        let length = head.len() + tail.len();
        let mut bytes = [0; INLINE];
        let room = bytes.get_mut(..length)?;
        room[..head.len()].copy_from_slice(head);
        room[head.len()..].copy_from_slice(tail);
        Some(Self::Inline { length: length as u8, bytes })
    }
}

impl PartialEq for CanonicalId {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for CanonicalId {}

impl Hash for CanonicalId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl fmt::Debug for CanonicalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CanonicalId").field(&self.as_bytes()).finish()
    }
}

impl fmt::Display for IdType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ObjectId => "object_id",
            Self::String => "string",
            Self::Int => "int",
            Self::Uuid => "uuid",
        })
    }
}
