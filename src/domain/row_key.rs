//! Which row of a table: the values of its key.

use std::fmt;

/// The values of a row's key, in the key's order: i32 length and bytes each, as in a COPY tuple. Whole numbers
/// take 8 bytes whatever their column takes, so that equal keys are equal bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowKey(Vec<u8>);

impl RowKey {
    /// From bytes that `as_bytes` gave, for example as the state schema kept them.
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// A key of one text.
    pub fn of_text(text: &str) -> Self {
        let mut bytes = (text.len() as i32).to_be_bytes().to_vec();
        bytes.extend_from_slice(text.as_bytes());
        Self(bytes)
    }

    /// The text of a key of one text.
    pub fn text(&self) -> Option<&str> {
        let value = self.fields().next()?.get(4..)?;
        std::str::from_utf8(value).ok()
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Length and bytes of each value.
    pub fn fields(&self) -> CopyFields<'_> {
        CopyFields(&self.0)
    }
}

/// A key is data of a document: it is never printed.
impl fmt::Debug for RowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RowKey({} bytes)", self.0.len())
    }
}

/// The fields of a COPY tuple behind its count, each with its length. Ends early where bytes are missing.
#[derive(Debug, Clone)]
pub struct CopyFields<'a>(&'a [u8]);

impl<'a> CopyFields<'a> {
    /// Of a whole tuple, count and all.
    pub fn of_tuple(tuple: &'a [u8]) -> Self {
        Self(tuple.get(2..).unwrap_or_default())
    }

    /// Nothing is left, not even what is no field.
    pub fn is_at_end(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'a> Iterator for CopyFields<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let length = i32::from_be_bytes(*self.0.first_chunk()?);
        // A null has a length of -1 and no bytes.
        let (field, rest) = self.0.split_at_checked(4 + usize::try_from(length).unwrap_or(0))?;
        self.0 = rest;
        Some(field)
    }
}
