use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::domain::{CanonicalId, Document, SourceIndex};
use crate::sink::ShownValue;

/// How a document and its rows in one table differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The document has no row.
    Missing,
    /// Columns say something else than the document.
    Different,
    /// A row says that it is of a document which is not there, or does not belong to the mapping.
    Extra,
    MissingChild,
    DifferentChild,
    ExtraChild,
    /// The document cannot be written, and is not held either.
    NotHeld,
}

impl Kind {
    pub const ALL: [Self; 7] = [
        Self::Missing,
        Self::Different,
        Self::Extra,
        Self::MissingChild,
        Self::DifferentChild,
        Self::ExtraChild,
        Self::NotHeld,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Different => "different",
            Self::Extra => "extra",
            Self::MissingChild => "missing_child",
            Self::DifferentChild => "different_child",
            Self::ExtraChild => "extra_child",
            Self::NotHeld => "not_held",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "missing",
            Self::Different => "different",
            Self::Extra => "extra",
            Self::MissingChild => "missing child",
            Self::DifferentChild => "different child",
            Self::ExtraChild => "extra child",
            Self::NotHeld => "neither written nor held",
        })
    }
}

/// In one table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deviating {
    pub table: String,
    pub kind: Kind,
    /// By name, where columns differ.
    pub columns: Vec<String>,
    /// What they hold and should hold, where somebody asked for it on the command line.
    pub values: Vec<ShownValue>,
}

/// A document whose rows are not as they should be, at one look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspect {
    pub source: SourceIndex,
    pub source_id: String,
    /// `None`: a row is there whose document's id cannot be read back.
    pub id: Option<CanonicalId>,
    /// Of the document; `None`: there is none.
    pub(super) document: Option<Fingerprint>,
    pub deviating: Vec<Deviating>,
}

/// Tells a document from what it was at another time.
pub(super) type Fingerprint = [u8; 32];

pub(super) fn fingerprint(document: &Document) -> Fingerprint {
    Sha256::digest(document.as_bytes()).into()
}
