use bson::RawDocument;
use bytes::Bytes;

/// A whole BSON document as the server sent it: a cheap slice of the reply it came in.
/// Only the outer length is known to be right; what is inside may be anything mongod stores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document(Bytes);

impl Document {
    /// `None` if the bytes are not framed as one BSON document (length prefix, closing zero).
    pub fn new(bytes: Bytes) -> Option<Self> {
        RawDocument::from_bytes(&bytes).ok()?;
        Some(Self(bytes))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn to_vec(&self) -> Vec<u8> {
        self.0.to_vec()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.len() <= 5
    }
}
