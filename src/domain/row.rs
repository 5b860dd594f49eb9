use std::fmt;

use super::CanonicalId;

/// One row of a mapping's table, encoded for binary COPY in the order of the mapping's columns.
#[derive(Debug, Clone)]
pub struct Row {
    /// Whose row it is, to name it when the target refuses it.
    pub id: CanonicalId,
    /// The text form of the id, as it stands in the key column.
    pub source_id: String,
    /// A whole binary COPY tuple: i16 field count, then i32 length and bytes per field.
    pub tuple: Vec<u8>,
    /// Values that were altered by a rule the operator wrote.
    pub coercions: Vec<Coercion>,
    /// Fields that stand in other rows, in the order of the tuple: nulls so far.
    pub references: Vec<Reference>,
}

/// A field whose value must be looked for when the row is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Which of the mapping's references.
    pub plan: u16,
    /// Where the field begins in the tuple.
    pub offset: usize,
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
    Constraint,
    UniqueViolation,
    ForeignKeyViolation,
    UnresolvedReference,
    DuplicateId,
    DuplicateKey,
    RejectedByTarget,
}

impl Reason {
    pub const ALL: [Self; 18] = [
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
        Self::Constraint,
        Self::UniqueViolation,
        Self::ForeignKeyViolation,
        Self::UnresolvedReference,
        Self::DuplicateId,
        Self::DuplicateKey,
        Self::RejectedByTarget,
    ];

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
