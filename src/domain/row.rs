use std::fmt;

use bytes::{Bytes, BytesMut};

use super::CanonicalId;

/// One row of a mapping's table, encoded for binary COPY in the order of the mapping's columns.
#[derive(Debug, Clone)]
pub struct Row {
    /// Whose row it is, to name it when the target refuses it.
    pub id: CanonicalId,
    /// The text form of the id, as it stands in the key column.
    pub source_id: String,
    /// A whole binary COPY tuple: i16 field count, then i32 length and bytes per field.
    pub tuple: Bytes,
    /// Values that were altered by a rule the operator wrote.
    pub coercions: Vec<Coercion>,
    /// Fields that stand in other rows, in the order of the tuple: nulls so far.
    pub references: Vec<Reference>,
    /// Of a row that is made of an element: which one it is in its document. Else 0.
    pub element: u32,
    /// What the document adds to columns that collect from several: a JSON object by column.
    pub collected: Option<String>,
}

/// A field whose value must be looked for when the row is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Which of the mapping's references.
    pub plan: u16,
    /// Where the field begins in the tuple.
    pub offset: usize,
    /// One element of an array: the others have the same offset, and stand beside it in order. Without choices it
    /// is null.
    pub in_array: bool,
    /// The rows that may have it, best first: which finder of the plan, and the key it looks for.
    pub choices: Vec<(u16, Sought)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Sought {
    /// The row of the document with this id.
    Document(CanonicalId),
    /// The row whose columns hold these fields: a binary COPY tuple.
    Row(Vec<u8>),
}

/// Memory for the tuples of many rows: they stand one after the other in blocks, each just as long as it
/// is, where a buffer for each would be allocated, grown, cut and freed by itself.
#[derive(Debug, Default)]
pub struct Tuples {
    scratch: Vec<u8>,
    block: BytesMut,
    /// Of the block, when it was new.
    block_bytes: usize,
}

/// A batch of one row should not pay for thousands.
const SMALLEST_BLOCK: usize = 4 * 1024;
const LARGEST_BLOCK: usize = 256 * 1024;

impl Tuples {
    /// The tuple that `write` appends to an empty buffer.
    pub fn tuple<T, E>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> Result<T, E>) -> Result<(Bytes, T), E> {
        self.scratch.clear();
        let written = write(&mut self.scratch)?;
        let length = self.scratch.len();
        if self.block.capacity() < length {
            self.block_bytes = (self.block_bytes * 2).clamp(SMALLEST_BLOCK, LARGEST_BLOCK);
            self.block = BytesMut::with_capacity(self.block_bytes.max(length));
        }
        self.block.extend_from_slice(&self.scratch);
        Ok((self.block.split().freeze(), written))
    }
}

/// A value that a rule altered: index into the mapping's columns, and the rule's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Coercion {
    pub column: u16,
    pub rule: &'static str,
}

/// Why a document has no row. The message names types and limits, never a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    pub column: Option<String>,
    pub reason: Reason,
    pub message: String,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.column {
            Some(column) => write!(f, "column {column}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

/// The closed list of reasons; `as_str` is the word in SQL, metrics and HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    MissingRequired,
    WrongType,
    OutOfRange,
    NotExact,
    TooLong,
    NulCharacter,
    InvalidUtf8,
    UnknownEnumLabel,
    InvalidDate,
    DuplicateField,
    Malformed,
    Expression,
    Transformer,
    Constraint,
    UniqueViolation,
    ForeignKeyViolation,
    UnresolvedReference,
    DuplicateId,
    DuplicateKey,
    RejectedByTarget,
}

impl Reason {
    pub const ALL: [Self; 20] = [
        Self::MissingRequired,
        Self::WrongType,
        Self::OutOfRange,
        Self::NotExact,
        Self::TooLong,
        Self::NulCharacter,
        Self::InvalidUtf8,
        Self::UnknownEnumLabel,
        Self::InvalidDate,
        Self::DuplicateField,
        Self::Malformed,
        Self::Expression,
        Self::Transformer,
        Self::Constraint,
        Self::UniqueViolation,
        Self::ForeignKeyViolation,
        Self::UnresolvedReference,
        Self::DuplicateId,
        Self::DuplicateKey,
        Self::RejectedByTarget,
    ];

    /// The reason with this word.
    pub fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == word)
    }

    /// What whoever is asked to look can do.
    pub fn hint(self) -> &'static str {
        match self {
            Self::MissingRequired => "give the column a default, or fill the field in the documents",
            Self::WrongType => {
                "say how the value is read (as:), what it becomes (on_error:), or repair the documents"
            }
            Self::OutOfRange => "widen the column, or say on_error: clamp or null",
            Self::NotExact => "say scale: for the column, widen it, or repair the documents",
            Self::TooLong => "widen the column, or say truncate: true",
            Self::NulCharacter => "say strip_nul: true: PostgreSQL's text holds no U+0000",
            Self::InvalidUtf8 => "repair the text in the documents: it is not UTF-8",
            Self::UnknownEnumLabel => "add the label to enum: or to the type, or say otherwise:",
            Self::InvalidDate => "say as: with the format of these dates, or repair the documents",
            Self::DuplicateField => "repair the documents: one field stands in them twice",
            Self::Malformed => "repair the documents: their BSON is damaged",
            Self::Expression => "correct the expression, or make it expect what these documents have",
            Self::Transformer => "see what the program's transformer says of these documents",
            Self::Constraint => "repair the documents, or change the constraint of the table",
            Self::UniqueViolation => {
                "comes when the other row gives the value up; else repair one of the two, or drop the unique key"
            }
            Self::ForeignKeyViolation => "map the column as ref or lookup, so that it can wait for its row",
            Self::UnresolvedReference => {
                "comes by itself with the row it waits for; else say missing: null, create or keep"
            }
            Self::DuplicateId => "two documents have this _id: remove one, or copy the shards apart",
            Self::DuplicateKey => "another document has this key: repair one of the two, or say shared: true",
            Self::RejectedByTarget => "read the message: the table itself refuses these rows",
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::MissingRequired => "missing_required",
            Self::WrongType => "wrong_type",
            Self::OutOfRange => "out_of_range",
            Self::NotExact => "not_exact",
            Self::TooLong => "too_long",
            Self::NulCharacter => "nul_character",
            Self::InvalidUtf8 => "invalid_utf8",
            Self::UnknownEnumLabel => "unknown_enum_label",
            Self::InvalidDate => "invalid_date",
            Self::DuplicateField => "duplicate_field",
            Self::Malformed => "malformed",
            Self::Expression => "expression",
            Self::Transformer => "transformer",
            Self::Constraint => "constraint",
            Self::UniqueViolation => "unique_violation",
            Self::ForeignKeyViolation => "foreign_key_violation",
            Self::UnresolvedReference => "unresolved_reference",
            Self::DuplicateId => "duplicate_id",
            Self::DuplicateKey => "duplicate_key",
            Self::RejectedByTarget => "rejected_by_target",
        }
    }
}
