//! How one document stands: the one question that people ask when somebody misses a row.

use serde::Serialize;
use sqlx::PgConnection;

use crate::config::{KeySpec, Mappings};
use crate::sink;
use crate::state::held::{self, HeldChange, WaitsFor};
use crate::state::mapping::SnapshotState;
use crate::state::{mapping, row};

/// What the state and the table know of one document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DocumentStatus {
    pub source: String,
    pub source_id: String,
    pub collection: String,
    pub table: String,
    pub state: DocumentState,
    /// Of a held change: when it was first held; of one that was applied after all: when.
    pub since: Option<String>,
    /// In words.
    pub why: String,
    /// What to do, if anything is to be done.
    pub hint: Option<&'static str>,
    pub row: RowStatus,
    pub held: Option<HeldChange>,
    pub waits: Vec<WaitsFor>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DocumentState {
    /// Its row is as of the checkpoint.
    Synced,
    /// Comes by itself: it waits for a row, or for its turn in the copy.
    Pending,
    /// Held: its row, if there is one, keeps its last good state.
    Failed,
    /// No row, and nothing is held.
    Absent,
}

impl DocumentState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Synced => "synced",
            Self::Pending => "pending",
            Self::Failed => "failed",
            Self::Absent => "absent",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RowStatus {
    pub exists: bool,
    /// The columns by which it is found.
    pub key: Vec<String>,
    /// Where the table does not say whose its rows are: what is remembered of the document.
    pub claim: Option<ClaimStatus>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClaimStatus {
    /// It wants the key of a row that another document has.
    pub waits_for_key: bool,
    /// The row was there before, and was taken over.
    pub adopted: bool,
    /// The document is gone, and its row stays.
    pub kept: bool,
}

/// Why it could not be found out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the state cannot be read")]
    State(#[from] sqlx::Error),
    #[error(transparent)]
    Target(#[from] sink::Error),
}

/// `None`: no source of this name has ever been copied. The id is given as it stands in `source_id`.
pub async fn status(
    connection: &mut PgConnection,
    pipeline: &str,
    mappings: &Mappings,
    source: &str,
    source_id: &str,
) -> Result<Option<DocumentStatus>, Error> {
    let known = mapping::load(connection, pipeline).await?;
    let Some(known) = known.into_iter().find(|known| known.source == source) else { return Ok(None) };
    let held = held::find(connection, pipeline, source, source_id).await?.map(|kept| kept.change);
    let waits = held::waits(connection, pipeline, source, source_id).await?;
    let scope = row::Scope { pipeline, source, target: "", shared: false };
    let claim = row::of_documents(connection, scope, &[source_id]).await?.into_iter().next();
    let key = key_of(mappings, source);
    let exists = match &key {
        KeySpec::SourceId { source: of, source_id: by } => {
            let source = of.as_deref().map(|column| (column, source));
            sink::has_row(connection, known.target_oid, source, (by, source_id)).await?
        }
        KeySpec::Columns(_) => claim.as_ref().is_some_and(|claim| claim.key.is_some()),
    };
    let row = RowStatus {
        exists,
        key: key.names().into_iter().map(str::to_owned).collect(),
        claim: claim.map(|claim| ClaimStatus {
            waits_for_key: claim.wants.is_some(),
            adopted: claim.adopted,
            kept: claim.kept,
        }),
    };
    let judged = judge(&row, held.as_ref(), &waits, known.snapshot);
    Ok(Some(DocumentStatus {
        source: source.to_owned(),
        source_id: source_id.to_owned(),
        collection: known.collection,
        table: known.target,
        state: judged.state,
        since: judged.since,
        why: judged.why,
        hint: judged.hint,
        row,
        held,
        waits,
    }))
}

struct Judged {
    state: DocumentState,
    since: Option<String>,
    why: String,
    hint: Option<&'static str>,
}

fn judge(row: &RowStatus, held: Option<&HeldChange>, waits: &[WaitsFor], snapshot: SnapshotState) -> Judged {
    if let Some(open) = held.filter(|held| held.state != "resolved") {
        let state = if open.state == "waiting" { DocumentState::Pending } else { DocumentState::Failed };
        let column = open.column.as_ref().map(|column| format!("column {column}: ")).unwrap_or_default();
        let stale = if row.exists { "; its row keeps its last good state" } else { "" };
        let why = format!("{column}{}{stale}", open.message);
        return Judged { state, since: Some(open.first_held_at.clone()), why, hint: Some(open.hint()) };
    }
    let since = held.and_then(|held| held.resolved_at.clone());
    let nothing = |state, why: String| Judged { state, since: since.clone(), why, hint: None };
    if row.exists {
        let why = match waits.len() {
            0 => "its row is as of the checkpoint".to_owned(),
            1 => "its row is as of the checkpoint; a reference in it waits for its row".to_owned(),
            count => format!("its row is as of the checkpoint; {count} references in it wait for their rows"),
        };
        return nothing(DocumentState::Synced, why);
    }
    match snapshot {
        SnapshotState::Pending | SnapshotState::Running => {
            let why = "it has no row yet, and its collection is still being copied".to_owned();
            nothing(DocumentState::Pending, why)
        }
        SnapshotState::Done => {
            let why =
                "no row: there is no such document, a filter leaves it out, or its event is still to come";
            nothing(DocumentState::Absent, why.to_owned())
        }
    }
}

/// A mapping that the file does not name any more was written in the usual way, as far as anybody knows.
fn key_of(mappings: &Mappings, source: &str) -> KeySpec {
    let spec = match mappings {
        Mappings::Listed(specs) => specs.iter().find(|spec| spec.source == source),
        Mappings::WholeDatabase { .. } => None,
    };
    let usual = || KeySpec::SourceId { source: Some("source".to_owned()), source_id: "source_id".to_owned() };
    spec.map_or_else(usual, |spec| spec.key.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(state: &str) -> HeldChange {
        HeldChange {
            source: "notes".into(),
            source_id: "1".into(),
            table: Some("public.notes".into()),
            state: state.into(),
            reason: "too_long".into(),
            column: Some("title".into()),
            message: "has 12 characters, and the column takes 10".into(),
            attempts: 2,
            first_held_at: "first".into(),
            last_attempt_at: "last".into(),
            next_attempt_at: Some("next".into()),
            resolved_at: (state == "resolved").then(|| "resolved".into()),
            document_bytes: None,
            document_kept: false,
        }
    }

    fn row(exists: bool) -> RowStatus {
        RowStatus { exists, key: vec!["source_id".into()], claim: None }
    }

    #[test]
    fn what_is_held_says_more_than_a_row_and_a_row_more_than_the_copy() {
        let judged = |exists, state: Option<&str>, snapshot| {
            let held = state.map(held);
            let judged = judge(&row(exists), held.as_ref(), &[], snapshot);
            (judged.state, judged.since)
        };
        let since = |text: &str| Some(text.to_owned());
        use SnapshotState::{Done, Running};
        assert_eq!(judged(true, Some("failed"), Done), (DocumentState::Failed, since("first")));
        assert_eq!(judged(false, Some("waiting"), Running), (DocumentState::Pending, since("first")));
        assert_eq!(judged(true, Some("resolved"), Done), (DocumentState::Synced, since("resolved")));
        assert_eq!(judged(true, None, Running), (DocumentState::Synced, None));
        assert_eq!(judged(false, None, Running), (DocumentState::Pending, None));
        assert_eq!(judged(false, None, Done), (DocumentState::Absent, None));
    }
}
