//! Identity: which document, in MongoDB's own sense of equal.

use std::sync::Arc;

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
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CanonicalId(Arc<[u8]>);

/// The type whose ids are written plain; ids of other types carry a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdType {
    ObjectId,
    String,
    /// Whole numbers, however they are stored.
    Int,
    Uuid,
}

impl CanonicalId {
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}
