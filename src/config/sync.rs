//! `sync`: columns of the table that say how a row stands with its document.

use ::config::ValueKind;

use super::key::column_name;
use super::tree::{Field, Section};

/// Columns that rowstream fills by itself. Each may be missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncSpec {
    /// SYNCED, FAILED while the document is held, or PENDING while it waits.
    pub status: Option<String>,
    /// Why the document is held.
    pub error: Option<String>,
    /// When the row was last written.
    pub at: Option<String>,
}

const STATUS: &str = "sync_status";
const ERROR: &str = "sync_error";
const AT: &str = "last_sync_at";

pub(super) fn sync(field: Field<'_>) -> Option<SyncSpec> {
    if let ValueKind::Boolean(wanted) = field.value() {
        let all = SyncSpec { status: Some(STATUS.into()), error: Some(ERROR.into()), at: Some(AT.into()) };
        return wanted.then_some(all);
    }
    if !matches!(field.value(), ValueKind::Table(_)) {
        field.mistake("must be true, or a map with status, error and at", "");
        return None;
    }
    let mut section = field.into_section()?;
    let spec = SyncSpec {
        status: named(&mut section, "status"),
        error: named(&mut section, "error"),
        at: named(&mut section, "at"),
    };
    section.finish();
    Some(spec)
}

fn named(section: &mut Section<'_>, key: &'static str) -> Option<String> {
    let field = section.field(key)?;
    column_name(&field)
}

impl SyncSpec {
    /// As YAML that reads back as the same.
    pub fn to_yaml(&self) -> String {
        let name =
            |name: &Option<String>| name.as_deref().map_or_else(|| "null".to_owned(), super::reading::quoted);
        let (status, error, at) = (name(&self.status), name(&self.error), name(&self.at));
        format!("{{ status: {status}, error: {error}, at: {at} }}")
    }
}
