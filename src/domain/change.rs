use super::{Document, Key};

/// One thing that must be brought up to date on the target.
#[derive(Debug, Clone)]
pub struct Change {
    pub key: Key,
    pub kind: ChangeKind,
}

#[derive(Debug, Clone)]
pub enum ChangeKind {
    /// This is the document now.
    Put(Document),
    /// The document is gone.
    Delete,
    /// Something changed: read the document again, then it becomes a `Put` or a `Delete`.
    Touch,
    /// An update event: read the document again. If it is not there, its delete, or the drop of its
    /// collection, follows in the stream and says what becomes of the row.
    Updated,
}

impl Change {
    /// What it brings must be read first.
    pub fn is_to_be_read(&self) -> bool {
        match self.kind {
            ChangeKind::Touch | ChangeKind::Updated => true,
            ChangeKind::Put(_) | ChangeKind::Delete => false,
        }
    }

    /// Bytes this change holds in memory, for limits and back-pressure.
    pub fn size(&self) -> usize {
        let document = match &self.kind {
            ChangeKind::Put(document) => document.len(),
            ChangeKind::Delete | ChangeKind::Touch | ChangeKind::Updated => 0,
        };
        document + self.key.id.as_bytes().len() + size_of::<Self>()
    }
}
