//! From a batch of changes to encoded rows: look up what was only touched, transform, sort by what
//! must be written, deleted and held.

use std::collections::{HashMap, HashSet};

use mongodb::Client;
use uuid::Uuid;

use super::Error;
use super::ahead::{Place, look_up};
use super::batch::Batch;
use super::children::ChildRows;
use super::plan::{Mapped, Plan};
use super::status::Drift;
use crate::config::Deletes;
use crate::domain::{
    CanonicalId, Change, ChangeKind, ClusterTime, Document, IdType, Key, Position, Reason, Rejection, Row,
    SourceIndex, Tuples,
};
use crate::source;

/// One of so many documents is looked at for fields that nobody reads: what is new in a collection is in many
/// of its documents, and a look costs about as much as a row of a few columns.
const LOOKED_AT: usize = 16;

/// A batch, ready to be written.
#[derive(Debug, Default)]
pub struct Prepared {
    pub position: Option<Position>,
    pub dropped: Vec<SourceIndex>,
    pub replaced: Vec<SourceIndex>,
    /// Dropped and replaced ones too, and those whose rows stay.
    pub ended: Vec<SourceIndex>,
    pub others: Vec<(SourceIndex, Uuid)>,
    /// Changes may be missing before these.
    pub skipped: bool,
    /// In the order of the plan.
    pub sources: Vec<SourceBatch>,
    pub events: usize,
    pub span: Option<(ClusterTime, ClusterTime)>,
    pub written_at: Option<i64>,
    pub lookups: usize,
    pub lookups_missing: usize,
    /// Updates that rows showed already.
    pub spared: usize,
    /// Documents that are read later for this batch are read at this time or later.
    pub read_after: ClusterTime,
}

/// What one mapping has to write.
#[derive(Debug)]
pub struct SourceBatch {
    pub source: SourceIndex,
    pub rows: Vec<Row>,
    pub deletes: Vec<(CanonicalId, String)>,
    /// Documents that are gone while their rows stay (`deletes: keep`): nothing is held for them any more.
    pub kept: Vec<(CanonicalId, String)>,
    /// By child of the mapping, of all documents that have a row.
    pub children: Vec<ChildRows>,
    pub refused: Vec<Refused>,
    /// Among `deletes`: documents that are there and held, only their rows go.
    pub held: HashSet<CanonicalId>,
    /// Documents of this batch, to be kept beside those that are held.
    pub documents: Vec<(CanonicalId, Document)>,
    /// What its documents hold that no mapping expects.
    pub drift: Drift,
    tuples: Tuples,
}

/// A document that has no row, and why.
#[derive(Debug, Clone)]
pub struct Refused {
    pub id: CanonicalId,
    pub rejection: Rejection,
}

impl Prepared {
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty() && self.ended.is_empty() && self.others.is_empty() && !self.skipped
    }

    /// To be written or deleted.
    pub fn changes(&self) -> usize {
        self.sources.iter().map(|batch| batch.rows.len() + batch.deletes.len()).sum()
    }
}

impl SourceBatch {
    pub fn new(source: SourceIndex) -> Self {
        Self {
            source,
            rows: Vec::new(),
            deletes: Vec::new(),
            kept: Vec::new(),
            children: Vec::new(),
            refused: Vec::new(),
            held: HashSet::new(),
            documents: Vec::new(),
            drift: Drift::default(),
            tuples: Tuples::default(),
        }
    }

    /// Nothing of these is written, nor of what is known of them forgotten: somebody else has newer ones.
    pub(super) fn leave_out(&mut self, seen: &HashSet<CanonicalId>) {
        if seen.is_empty() {
            return;
        }
        self.rows.retain(|row| !seen.contains(&row.id));
        self.deletes.retain(|(id, _)| !seen.contains(id));
        self.kept.retain(|(id, _)| !seen.contains(id));
        self.refused.retain(|refused| !seen.contains(&refused.id));
        self.documents.retain(|(id, _)| !seen.contains(id));
        for child in &mut self.children {
            child.rows.retain(|row| !seen.contains(&row.id));
        }
    }

    /// Every so many documents, the first of the batch among them.
    fn look_for_drift(&mut self, mapped: &Mapped, id: &CanonicalId, document: &Document) {
        let Some(unread) = &mapped.unread else { return };
        if !self.documents.len().is_multiple_of(LOOKED_AT) {
            return;
        }
        self.drift.documents += 1;
        unread.find(document.as_bytes(), |path| {
            self.drift.field_seen(path, 1, [id.source_id(mapped.mapping.id_type)]);
        });
    }

    /// Its drift with the labels that no `enum:` names. `column`: the name of one, by its place.
    pub fn drifted<'n>(&self, id_type: IdType, column: impl Fn(usize) -> &'n str) -> Drift {
        let mut drift = self.drift.clone();
        for row in &self.rows {
            for coercion in row.coercions.iter().filter(|coercion| coercion.rule == "otherwise") {
                drift.label_seen(column(usize::from(coercion.column)), 1, [row.source_id.clone()]);
            }
        }
        for Refused { id, rejection } in &self.refused {
            if rejection.reason == Reason::UnknownEnumLabel {
                let column = rejection.column.as_deref().unwrap_or_default();
                drift.label_seen(column, 1, [id.source_id(id_type)]);
            }
        }
        drift
    }

    /// Every document of the batch.
    pub(super) fn source_ids(&self, plan: &Plan) -> Vec<String> {
        let id_type = plan.id_type(self.source);
        let put = self.documents.iter().map(|(id, _)| id.source_id(id_type));
        let gone = self.deletes.iter().chain(&self.kept).map(|(_, source_id)| source_id.clone());
        put.chain(gone).collect()
    }

    /// Ids as rows were made of them. Where rows stay (`deletes: keep`), nothing is left to be done either.
    pub(super) fn written(&self) -> impl Iterator<Item = (&CanonicalId, &str)> {
        let rows = self.rows.iter().map(|row| (&row.id, row.source_id.as_str()));
        rows.chain(self.kept.iter().map(|(id, source_id)| (id, source_id.as_str())))
    }

    pub(super) fn deleted(&self) -> impl Iterator<Item = (&CanonicalId, &str)> {
        let deletes = self.deletes.iter().filter(|(id, _)| !self.held.contains(id));
        deletes.map(|(id, source_id)| (id, source_id.as_str()))
    }

    fn put_children(
        &mut self,
        mapped: &Mapped,
        id: &CanonicalId,
        document: &Document,
        time: Option<ClusterTime>,
    ) -> Result<(), Rejection> {
        self.children.resize_with(mapped.children.len(), ChildRows::default);
        for (child, into) in mapped.children.iter().zip(&mut self.children) {
            into.left_out += child.transformer.rows(id, document, time, &mut self.tuples, &mut into.rows)?;
        }
        Ok(())
    }

    /// Takes one document in: as a row, with the reason why it has none, or as gone if it does not belong.
    pub fn put(&mut self, plan: &Plan, id: &CanonicalId, document: Document, time: Option<ClusterTime>) {
        let mapped = plan.of(self.source);
        match mapped.transformer.wants(&document) {
            Ok(true) => {
                let row = mapped.transformer.row(id, &document, time, &mut self.tuples);
                match row.and_then(|row| self.put_children(mapped, id, &document, time).map(|()| row)) {
                    Ok(row) => self.rows.push(row),
                    Err(rejection) => self.refused.push(Refused { id: id.clone(), rejection }),
                }
            }
            Ok(false) => return self.gone(plan, id.clone()),
            Err(rejection) => self.refused.push(Refused { id: id.clone(), rejection }),
        }
        self.look_for_drift(mapped, id, &document);
        self.documents.push((id.clone(), document));
    }

    /// Takes in that a document is gone, or does not belong to the mapping any more.
    pub fn gone(&mut self, plan: &Plan, id: CanonicalId) {
        let source_id = id.source_id(plan.id_type(self.source));
        match plan.of(self.source).mapping.deletes {
            Deletes::Hard | Deletes::Soft { .. } => self.deletes.push((id, source_id)),
            Deletes::Keep => self.kept.push((id, source_id)),
        }
    }
}

/// `now`: the last event the pipeline was handed; documents are read at this time or later. `found`: those that
/// were read already.
pub(super) async fn prepare(
    client: &Client,
    plan: &Plan,
    mut batch: Batch,
    found: HashMap<Place, Document>,
    now: ClusterTime,
) -> Result<Prepared, Error> {
    let (lookups, lookups_missing) = resolve_touches(client, plan, &mut batch.changes, found, now).await?;
    let time = batch.span.map(|(_, last)| last);
    let sources = sort(plan, batch.changes, time);
    Ok(Prepared {
        position: batch.position,
        dropped: batch.dropped,
        replaced: batch.replaced,
        ended: batch.ended,
        others: batch.others,
        skipped: batch.skipped,
        sources,
        events: batch.events,
        span: batch.span,
        written_at: batch.written_at,
        lookups,
        lookups_missing,
        spared: 0,
        read_after: now,
    })
}

/// One look-up per collection turns every touch into a put or a delete.
async fn resolve_touches(
    client: &Client,
    plan: &Plan,
    changes: &mut Vec<Change>,
    mut found: HashMap<Place, Document>,
    now: ClusterTime,
) -> Result<(usize, usize), Error> {
    let place_of = |key: &Key| (plan.of(key.source).collection, key.id.clone());
    let touched = changes.iter().filter(|change| change.is_to_be_read());
    let touched: Vec<Place> = touched.map(|change| place_of(&change.key)).collect();
    let lookups = touched.len();
    let unread = touched.into_iter().filter(|place| !found.contains_key(place)).collect();
    found.extend(look_up(client, plan, unread, now).await?);
    let mut missing = 0;
    changes.retain_mut(|change| {
        let vanished = match change.kind {
            ChangeKind::Put(_) | ChangeKind::Delete => return true,
            ChangeKind::Touch => true,
            // Whether the row goes is for the event that took the document away to say.
            ChangeKind::Updated => false,
        };
        if let Some(document) = found.get(&place_of(&change.key)) {
            change.kind = ChangeKind::Put(document.clone());
            return true;
        }
        missing += 1;
        change.kind = ChangeKind::Delete;
        vanished
    });
    Ok((lookups, missing))
}

fn sort(plan: &Plan, changes: Vec<Change>, time: Option<ClusterTime>) -> Vec<SourceBatch> {
    let mut sources: Vec<Option<SourceBatch>> = plan.mapped.iter().map(|_| None).collect();
    for change in changes {
        let source = change.key.source;
        let batch = sources[usize::from(source.0)].get_or_insert_with(|| SourceBatch::new(source));
        match change.kind {
            ChangeKind::Put(document) => batch.put(plan, &change.key.id, document, time),
            ChangeKind::Delete | ChangeKind::Touch | ChangeKind::Updated => batch.gone(plan, change.key.id),
        }
    }
    let mut sources: Vec<SourceBatch> = sources.into_iter().flatten().collect();
    for batch in &mut sources {
        // Rows in key order: two writers that meet take their locks in one order.
        batch.rows.sort_by(|left, right| left.source_id.cmp(&right.source_id));
        batch.deletes.sort_by(|left, right| left.1.cmp(&right.1));
    }
    sources
}

/// What an error of the source means for the session.
pub(crate) fn read(error: source::Error) -> Error {
    match error.disposition() {
        source::Disposition::Retry => Error::retry("read", error),
        source::Disposition::Halt { hint } => Error::halt(Error::chain(&error), hint),
    }
}
