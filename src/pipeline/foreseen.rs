//! Updates that rows show already.
//!
//! A document that is looked up while the stream is behind is as it is by then: its row shows every change of it up to
//! that time, also those of which the stream has yet to tell. When it does, an update is neither looked up nor written
//! once more. Whatever else it tells of the document counts, and ends what is known of it.
//!
//! Nothing else may bring a row back behind that time: who reads documents, be it for a chunk, reads them then or later
//! ([`super::outstanding`]).

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use mongodb::Client;
use mongodb::options::{ReadPreference, SelectionCriteria};

use super::batch::Batch;
use super::holding::Holding;
use super::outstanding::Outstanding;
use super::plan::{Mapped, Plan};
use crate::config::ValueSpec;
use crate::domain::{ChangeKind, ClusterTime, Key};
use crate::mapping::Mapping;

/// Documents of one generation; two are remembered, in some 2 MB.
const MOST: usize = 57_000;

#[derive(Debug)]
pub(super) struct Foreseen {
    /// By `SourceIndex`: whether a row is made of its document alone, whenever that is read.
    sources: Vec<bool>,
    /// With others a node that lags would have to be waited for.
    reads_from_primary: bool,
    holding: Arc<Holding>,
    /// What the server had when it answered last.
    server: ClusterTime,
    shown: Shown,
    keys: Prints,
}

/// The documents whose look-ups are remembered: the newest, and as many before them.
#[derive(Debug, Default)]
struct Shown {
    newer: Generation,
    older: Generation,
}

/// Documents that were looked up at `time` or later.
#[derive(Debug, Default)]
struct Generation {
    time: ClusterTime,
    documents: HashSet<u128>,
}

/// Ids may be long: of each its hash. Two with the same one would have to be found by chance among 2^128.
#[derive(Debug, Default)]
struct Prints(RandomState, RandomState);

impl Foreseen {
    pub(super) fn new(plan: &Plan, client: &Client, holding: Arc<Holding>) -> Self {
        let reads_from_primary = match client.selection_criteria() {
            None | Some(SelectionCriteria::ReadPreference(ReadPreference::Primary)) => true,
            Some(_) => false,
        };
        let sources = plan.mapped.iter().map(is_of_its_document_alone).collect();
        Self::of(sources, reads_from_primary, holding)
    }

    fn of(sources: Vec<bool>, reads_from_primary: bool, holding: Arc<Holding>) -> Self {
        Self {
            sources,
            reads_from_primary,
            holding,
            server: ClusterTime::default(),
            shown: Shown::default(),
            keys: Prints::default(),
        }
    }

    /// A reply of the stream came. Behind a new cursor there may be another server, or one that was restored.
    pub(super) fn answered(&mut self, server: Option<ClusterTime>, by_new_cursor: bool) {
        if by_new_cursor {
            self.shown = Shown::default();
            self.server = ClusterTime::default();
        }
        self.server = self.server.max(server.unwrap_or_default());
    }

    /// Somebody wants the document to be read again, whatever the stream tells of it.
    pub(super) fn touched(&mut self, key: &Key) {
        self.shown.remove(self.keys.of(key));
    }

    /// Whether the stream is well behind the server, if this is its last event.
    pub(super) fn is_behind(&self, last: ClusterTime) -> bool {
        self.reads_from_primary && self.server.seconds > last.seconds
    }

    /// Takes out of a batch what rows show already; how much that was. Batches come in the order of the stream. What is
    /// held is tried again with each change of it.
    pub(super) fn spare(&mut self, batch: &mut Batch) -> usize {
        if !batch.ended.is_empty() || batch.skipped {
            self.shown = Shown::default();
        }
        let Some((_, last)) = batch.span else { return 0 };
        self.shown.only_from(last);
        if self.shown.is_empty() {
            return 0;
        }
        let before = batch.changes.len();
        batch.changes.retain(|change| {
            let document = self.keys.of(&change.key);
            match change.kind {
                ChangeKind::Updated => !self.shown.has(document) || self.holding.may_hold(change.key.source),
                ChangeKind::Put(_) | ChangeKind::Delete | ChangeKind::Touch => {
                    self.shown.remove(document);
                    true
                }
            }
        });
        before - batch.changes.len()
    }

    /// What a batch has to look up is going to be looked up, at the time that is told to `outstanding`, and then
    /// written. If the stream is well behind, that is the server's present: for chunks it is as if the stream had told
    /// of these documents up to there. Else nothing is foreseen.
    pub(super) fn look_up(
        &mut self,
        batch: &Batch,
        is_found: impl Fn(&Key) -> bool,
        outstanding: &Outstanding,
    ) {
        let time = self.server;
        if !batch.span.is_some_and(|(_, last)| self.is_behind(last)) {
            return;
        }
        outstanding.handed(time);
        let to_be_read =
            batch.changes.iter().filter(|change| change.is_to_be_read()).map(|change| &change.key);
        for key in to_be_read.filter(|key| !is_found(key)) {
            outstanding.saw(key.source, &key.id);
            if self.sources.get(usize::from(key.source.0)).is_some_and(|spared| *spared) {
                self.shown.insert(self.keys.of(key), time);
            }
        }
    }
}

impl Shown {
    fn is_empty(&self) -> bool {
        self.newer.documents.is_empty() && self.older.documents.is_empty()
    }

    fn has(&self, document: u128) -> bool {
        self.newer.documents.contains(&document) || self.older.documents.contains(&document)
    }

    fn insert(&mut self, document: u128, time: ClusterTime) {
        if self.newer.documents.len() >= MOST {
            self.older = std::mem::take(&mut self.newer);
        }
        if self.newer.documents.is_empty() {
            self.newer.time = time;
        }
        self.newer.documents.insert(document);
    }

    fn remove(&mut self, document: u128) {
        self.newer.documents.remove(&document);
        self.older.documents.remove(&document);
    }

    /// What was looked up before this says nothing of events at it.
    fn only_from(&mut self, time: ClusterTime) {
        for generation in [&mut self.newer, &mut self.older] {
            if generation.time < time {
                *generation = Generation::default();
            }
        }
    }
}

impl Prints {
    fn of(&self, key: &Key) -> u128 {
        u128::from(self.0.hash_one(key)) << 64 | u128::from(self.1.hash_one(key))
    }
}

/// Where documents compete for a row, who wrote last may win; and a column may say when its row was changed.
fn is_of_its_document_alone(mapped: &Mapped) -> bool {
    let tells_time = |mapping: &Mapping| {
        mapping.columns.iter().any(|column| matches!(column.value, ValueSpec::ClusterTime))
    };
    !mapped.mapping.key.is_claimed()
        && !tells_time(&mapped.mapping)
        && !mapped.mapping.children.iter().any(|child| tells_time(&child.mapping))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{CanonicalId, Change, SourceIndex};
    use crate::pipeline::outstanding::Settled;

    fn id(number: i64) -> CanonicalId {
        CanonicalId::from_bson(&bson::Bson::Int64(number))
    }

    fn key(number: i64) -> Key {
        Key { source: SourceIndex(0), id: id(number) }
    }

    fn batch(second: u32, changes: impl IntoIterator<Item = (i64, ChangeKind)>) -> Batch {
        let time = ClusterTime::new(second, 0);
        let mut batch = Batch::default();
        batch.span = Some((time, time));
        batch.changes.extend(changes.into_iter().map(|(number, kind)| Change { key: key(number), kind }));
        batch
    }

    fn updates(second: u32, numbers: std::ops::Range<i64>) -> Batch {
        batch(second, numbers.map(|number| (number, ChangeKind::Updated)))
    }

    /// The server is at second 100.
    fn foreseen() -> Foreseen {
        let mut foreseen = Foreseen::of(vec![true], true, Arc::new(Holding::new(1, &[], &[])));
        foreseen.answered(Some(ClusterTime::new(100, 0)), true);
        foreseen
    }

    fn outstanding() -> Outstanding {
        Outstanding::new(ClusterTime::new(1, 0))
    }

    /// How much is spared of a batch, which is then looked up.
    fn spared(foreseen: &mut Foreseen, mut batch: Batch) -> usize {
        let spared = foreseen.spare(&mut batch);
        foreseen.look_up(&batch, |_| false, &outstanding());
        spared
    }

    #[test]
    fn updates_up_to_the_time_of_a_look_up_are_spared() {
        let mut foreseen = foreseen();
        assert_eq!(spared(&mut foreseen, updates(5, 0..10)), 0);
        assert_eq!(spared(&mut foreseen, updates(6, 5..15)), 5);
        foreseen.answered(Some(ClusterTime::new(200, 0)), false);
        assert_eq!(spared(&mut foreseen, updates(100, 0..15)), 15);
        assert_eq!(spared(&mut foreseen, updates(101, 0..15)), 0, "behind the look-up");
        assert_eq!(spared(&mut foreseen, updates(102, 0..15)), 15);
    }

    #[test]
    fn a_stream_that_is_not_behind_foresees_nothing() {
        let mut foreseen = foreseen();
        let outstanding = outstanding();
        let batch = updates(100, 0..10);
        foreseen.look_up(&batch, |_| false, &outstanding);
        assert_eq!(outstanding.last_handed(), ClusterTime::new(1, 0));
        assert_eq!(spared(&mut foreseen, batch), 0);
    }

    #[test]
    fn whatever_else_becomes_of_a_document_counts() {
        for kind in [ChangeKind::Delete, ChangeKind::Touch] {
            let mut foreseen = foreseen();
            spared(&mut foreseen, updates(5, 0..2));
            let mut other = batch(6, [(0, kind)]);
            assert_eq!((foreseen.spare(&mut other), other.changes.len()), (0, 1));
            assert_eq!(spared(&mut foreseen, updates(7, 0..2)), 1);
        }
    }

    #[test]
    fn what_is_asked_for_is_read_whatever_the_stream_tells_of_it() {
        let mut foreseen = foreseen();
        spared(&mut foreseen, updates(5, 0..2));
        foreseen.touched(&key(0));
        assert_eq!(spared(&mut foreseen, updates(6, 0..2)), 1);
        assert_eq!(spared(&mut foreseen, updates(7, 0..2)), 2);
    }

    #[test]
    fn where_something_is_held_nothing_is_spared() {
        let mut foreseen = foreseen();
        spared(&mut foreseen, updates(5, 0..2));
        foreseen.holding.mark(SourceIndex(0));
        assert_eq!(spared(&mut foreseen, updates(6, 0..2)), 0);
    }

    #[test]
    fn nobody_waits_for_a_secondary_that_lags() {
        let mut foreseen = Foreseen { reads_from_primary: false, ..foreseen() };
        let outstanding = outstanding();
        foreseen.look_up(&updates(5, 0..2), |_| false, &outstanding);
        assert_eq!(outstanding.last_handed(), ClusterTime::new(1, 0));
        assert_eq!(spared(&mut foreseen, updates(6, 0..2)), 0);
    }

    #[test]
    fn a_new_cursor_and_a_collection_that_ends_make_it_forget() {
        let mut foreseen = foreseen();
        spared(&mut foreseen, updates(5, 0..2));
        foreseen.answered(Some(ClusterTime::new(100, 0)), true);
        assert_eq!(spared(&mut foreseen, updates(6, 0..2)), 0);
        let mut dropped = updates(7, 0..0);
        dropped.ended.push(SourceIndex(0));
        foreseen.spare(&mut dropped);
        assert_eq!(spared(&mut foreseen, updates(8, 0..2)), 0);
        // A server that is behind the one before.
        foreseen.answered(Some(ClusterTime::new(8, 1)), true);
        assert_eq!(spared(&mut foreseen, updates(8, 0..2)), 0);
        assert_eq!(spared(&mut foreseen, updates(8, 0..2)), 0);
    }

    #[test]
    fn what_is_read_at_another_time_or_for_another_row_is_not_foreseen() {
        let mut foreseen = foreseen();
        foreseen.look_up(&updates(5, 0..2), |key| key.id == id(0), &outstanding());
        assert_eq!(spared(&mut foreseen, updates(6, 0..2)), 1);
        foreseen.sources = vec![false];
        spared(&mut foreseen, updates(7, 5..9));
        assert_eq!(spared(&mut foreseen, updates(8, 5..9)), 0);
    }

    /// Their rows would be older than what the stream then does not bring again.
    #[test]
    fn chunks_leave_out_what_is_foreseen_and_those_to_come_are_read_after_it() {
        let mut foreseen = foreseen();
        let outstanding = outstanding();
        let before = outstanding.register(SourceIndex(0));
        foreseen.look_up(&updates(5, 0..1), |_| false, &outstanding);
        assert_eq!(outstanding.register(SourceIndex(0)).read_after, ClusterTime::new(100, 0));
        assert_eq!(outstanding.settle(&before), Settled::Without(HashSet::from([id(0)])));
    }

    #[test]
    fn of_very_many_the_newest_are_remembered() {
        let mut foreseen = foreseen();
        let most = MOST as i64;
        spared(&mut foreseen, updates(5, 0..2 * most + 1));
        assert_eq!(foreseen.spare(&mut updates(6, 0..most)), 0);
        assert_eq!(foreseen.spare(&mut updates(6, most..2 * most + 1)), MOST + 1);
    }
}
