//! Events become batches: coalesced by key, cut only between cluster times.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};

use uuid::Uuid;

use crate::config::{Deletes, OnDrop};
use crate::domain::{Change, ChangeKind, ClusterTime, Key, Namespace, Portion, Position, SourceIndex};
use crate::mapping::Mapping;
use crate::source::{Event, EventKind, Reply};

/// When a batch is full.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub max_changes: usize,
    pub max_bytes: usize,
}

impl Limits {
    pub(super) fn portion(self, portion: Portion) -> Self {
        Self { max_changes: portion.of(self.max_changes), max_bytes: portion.of(self.max_bytes) }
    }

    fn hard(self) -> Self {
        Self {
            max_changes: self.max_changes.saturating_mul(HARD_LIMIT_FACTOR),
            max_bytes: self.max_bytes.saturating_mul(HARD_LIMIT_FACTOR),
        }
    }
}

/// A transaction may exceed a full batch by this factor before it is cut after all: memory is finite.
const HARD_LIMIT_FACTOR: usize = 8;

/// What the pipeline does with an event of a collection.
#[derive(Debug, Clone)]
pub struct Route {
    pub source: SourceIndex,
    pub on_drop: OnDropRoute,
    /// What a document that must be read again is expected to weigh.
    pub document_bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDropRoute {
    Delete,
    Keep,
    Halt,
}

impl OnDropRoute {
    pub fn of(mapping: &Mapping) -> Self {
        match (mapping.on_drop, &mapping.deletes) {
            (OnDrop::Halt, _) => Self::Halt,
            (OnDrop::Delete, Deletes::Keep) => Self::Keep,
            (OnDrop::Delete, Deletes::Hard | Deletes::Soft { .. }) => Self::Delete,
        }
    }
}

/// Changes that become one transaction.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// One per key, the last one of it.
    pub changes: Vec<Change>,
    /// Sources whose rows all go first, before any change is applied.
    pub dropped: Vec<SourceIndex>,
    /// Sources that another collection took over: to be copied again.
    pub replaced: Vec<SourceIndex>,
    /// Their collections came to an end: the next one of that name is another.
    pub ended: Vec<SourceIndex>,
    /// Their collections are others than those that were followed.
    pub others: Vec<(SourceIndex, Uuid)>,
    /// Changes may be missing before these: every source is to be compared with its documents.
    pub skipped: bool,
    /// Where the stream goes on once this is committed. `None`: touches only.
    pub position: Option<Position>,
    /// Events this batch came from, coalesced ones included.
    pub events: usize,
    /// Cluster times of the first and the last event.
    pub span: Option<(ClusterTime, ClusterTime)>,
    /// When the oldest of them was written, in milliseconds since 1970.
    pub written_at: Option<i64>,
    bytes: usize,
    /// Of each change.
    weights: Vec<usize>,
    index: HashMap<Key, usize>,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        // What was dropped or replaced has ended.
        self.changes.is_empty() && self.ended.is_empty() && !self.skipped
    }

    /// `weight`: the bytes the change will hold once it has its document.
    fn put(&mut self, change: Change, weight: usize) {
        self.bytes += weight;
        match self.index.entry(change.key.clone()) {
            Entry::Occupied(place) => {
                let place = *place.get();
                self.changes[place] = change;
                self.bytes -= std::mem::replace(&mut self.weights[place], weight);
            }
            Entry::Vacant(place) => {
                place.insert(self.changes.len());
                self.changes.push(change);
                self.weights.push(weight);
            }
        }
    }

    /// Everything of this source that waits in the batch is over.
    fn forget(&mut self, source: SourceIndex) {
        let changes = std::mem::take(&mut self.changes);
        let weights = std::mem::take(&mut self.weights);
        self.index.clear();
        self.bytes = 0;
        for (change, weight) in changes.into_iter().zip(weights) {
            if change.key.source != source {
                self.put(change, weight);
            }
        }
    }

    fn reaches(&self, limits: Limits) -> bool {
        self.changes.len() >= limits.max_changes || self.bytes >= limits.max_bytes
    }
}

/// Why the stream cannot be taken further than the batch that is being gathered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stop {
    /// A collection whose mapping says `on_drop: halt` was dropped.
    Dropped(SourceIndex),
    /// A collection that is not mapped yet has events.
    Discovered(Namespace),
}

/// Takes replies in, gives batches out.
#[derive(Debug)]
pub(super) struct Gatherer {
    limits: Limits,
    /// Of a single cluster time, whatever `limits` has become.
    hard: Limits,
    /// By `CollectionIndex`.
    routes: Vec<Vec<Route>>,
    backlog: VecDeque<Event>,
    backlog_bytes: usize,
    batch: Batch,
    /// Of the last event that was taken from the backlog.
    last: Option<Last>,
    /// Of the last reply: valid once the backlog is used up.
    tail: Option<Position>,
    stop: Option<Stop>,
}

#[derive(Debug)]
struct Last {
    position: Position,
    in_transaction: bool,
}

impl Gatherer {
    pub(super) fn new(limits: Limits, routes: Vec<Vec<Route>>) -> Self {
        Self {
            limits,
            hard: limits.hard(),
            routes,
            backlog: VecDeque::new(),
            backlog_bytes: 0,
            batch: Batch::default(),
            last: None,
            tail: None,
            stop: None,
        }
    }

    /// How full the next batches may be.
    pub(super) fn limit(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// The sources an event of the stream concerns, for those who must know before it is batched.
    pub(super) fn sources<'a>(&'a self, event: &Event) -> impl Iterator<Item = SourceIndex> + 'a {
        let collection = match &event.kind {
            EventKind::Document { collection, .. }
            | EventKind::Dropped { collection }
            | EventKind::Replaced { collection } => Some(usize::from(collection.0)),
            EventKind::Discovered(_) => None,
        };
        collection.and_then(|place| self.routes.get(place)).into_iter().flatten().map(|route| route.source)
    }

    pub(super) fn offer(&mut self, reply: Reply) {
        if self.stop.is_some() {
            return;
        }
        if reply.events.is_empty()
            && self.backlog.is_empty()
            && let Some(last) = &mut self.last
        {
            // The server has nothing more now, so nothing more of that time.
            last.in_transaction = false;
        }
        self.backlog_bytes += reply.size;
        self.backlog.extend(reply.events);
        self.tail = Some(Position { token: Some(reply.token), time: reply.time });
        self.fill();
    }

    /// A touch moves no position; it joins whatever batch is next.
    pub(super) fn touch(&mut self, key: Key) {
        // A change that waits already is at least as new as a second look would be... unless it carries
        // an older document: the touch reads at the present time, and wins.
        let route = self.routes.iter().flatten().find(|route| route.source == key.source);
        let document = route.map_or(0, |route| route.document_bytes);
        let change = Change { key, kind: ChangeKind::Touch };
        let weight = change.size() + document;
        self.batch.put(change, weight);
    }

    /// The stream may have skipped changes, deletes among them: every source is due for a re-sync.
    pub(super) fn skipped(&mut self) {
        self.batch.skipped = true;
    }

    /// No more replies are wanted before a batch is taken.
    pub(super) fn is_full(&self) -> bool {
        self.stop.is_some() || !self.backlog.is_empty() || (self.batch.reaches(self.limits) && self.closed())
    }

    /// The batch may be cut here: no cluster time is torn.
    pub(super) fn closed(&self) -> bool {
        let Some(last) = &self.last else { return true };
        if !self.backlog.is_empty() || self.stop.is_some() {
            return true;
        }
        let over = self.tail.as_ref().is_some_and(|tail| tail.time > last.position.time);
        !last.in_transaction || over || self.batch.reaches(self.hard)
    }

    pub(super) fn has_changes(&self) -> bool {
        !self.batch.is_empty()
    }

    /// There is something a commit could record, be it only that nothing happened.
    pub(super) fn has_position(&self) -> bool {
        self.last.is_some() || self.tail.is_some()
    }

    /// Set once everything before the stop has been taken.
    pub(super) fn stopped(&self) -> Option<&Stop> {
        self.stop.as_ref().filter(|_| self.batch.is_empty())
    }

    /// Keys of documents that must be read before the batch can be written.
    pub(super) fn touched(&self) -> impl Iterator<Item = &Key> {
        let changes = self.batch.changes.iter();
        changes.filter(|change| change.is_to_be_read()).map(|change| &change.key)
    }

    /// Of the newest event in the batch.
    pub(super) fn last_time(&self) -> Option<ClusterTime> {
        self.batch.span.map(|(_, last)| last)
    }

    pub(super) fn bytes(&self) -> usize {
        self.backlog_bytes + self.batch.bytes
    }

    /// Cuts. Call only when `closed`.
    pub(super) fn take(&mut self) -> Batch {
        let mut batch = std::mem::take(&mut self.batch);
        let last = self.last.take();
        batch.position = if self.backlog.is_empty() && self.stop.is_none() {
            self.tail.take().or(last.map(|last| last.position))
        } else {
            last.map(|last| last.position)
        };
        self.fill();
        batch
    }

    fn fill(&mut self) {
        while let Some(event) = self.backlog.front() {
            let same_time = self.last.as_ref().is_some_and(|last| last.position.time == event.time);
            let full = self.batch.reaches(if same_time { self.hard } else { self.limits });
            if full || self.stop.is_some() {
                return;
            }
            if let Some(stop) = self.stops(event) {
                self.stop = Some(stop);
                self.backlog.clear();
                self.backlog_bytes = 0;
                return;
            }
            if let Some(event) = self.backlog.pop_front() {
                self.take_event(event);
            }
        }
        self.backlog_bytes = 0;
    }

    fn stops(&self, event: &Event) -> Option<Stop> {
        match &event.kind {
            EventKind::Discovered(namespace) => Some(Stop::Discovered(namespace.clone())),
            EventKind::Dropped { collection } | EventKind::Replaced { collection } => self
                .routes
                .get(usize::from(collection.0))?
                .iter()
                .find(|route| route.on_drop == OnDropRoute::Halt)
                .map(|route| Stop::Dropped(route.source)),
            EventKind::Document { .. } => None,
        }
    }

    fn take_event(&mut self, event: Event) {
        let time = event.time;
        self.batch.events += 1;
        self.batch.span = Some((self.batch.span.map_or(time, |(first, _)| first), time));
        self.batch.written_at = self.batch.written_at.or(event.wall_time);
        self.last = Some(Last {
            position: Position { token: Some(event.token), time },
            in_transaction: event.in_transaction,
        });
        match event.kind {
            EventKind::Document { collection, id, change } => {
                for route in self.routes.get(usize::from(collection.0)).into_iter().flatten() {
                    let key = Key { source: route.source, id: id.clone() };
                    let change = Change { key, kind: change.clone() };
                    let document = match change.kind {
                        ChangeKind::Touch | ChangeKind::Updated => route.document_bytes,
                        ChangeKind::Put(_) | ChangeKind::Delete => 0,
                    };
                    let weight = change.size() + document;
                    self.batch.put(change, weight);
                }
            }
            EventKind::Dropped { collection } => self.take_drop(collection.0, |_| {}),
            EventKind::Replaced { collection } => {
                let mut replaced = Vec::new();
                self.take_drop(collection.0, |source| replaced.push(source));
                self.batch.replaced.extend(replaced);
            }
            EventKind::Discovered(_) => {}
        }
    }

    fn take_drop(&mut self, collection: u16, mut also: impl FnMut(SourceIndex)) {
        for route in self.routes.get(usize::from(collection)).into_iter().flatten() {
            self.batch.forget(route.source);
            if route.on_drop == OnDropRoute::Delete && !self.batch.dropped.contains(&route.source) {
                self.batch.dropped.push(route.source);
            }
            if !self.batch.ended.contains(&route.source) {
                self.batch.ended.push(route.source);
            }
            also(route.source);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{CanonicalId, Document, ResumeToken};
    use crate::source::{CollectionIndex, Continuity};

    const LIMITS: Limits = Limits { max_changes: 3, max_bytes: 1 << 20 };

    fn gatherer() -> Gatherer {
        gatherer_with(OnDropRoute::Delete)
    }

    fn gatherer_with(on_drop: OnDropRoute) -> Gatherer {
        let route = |source| Route { source: SourceIndex(source), on_drop, document_bytes: 1_000 };
        Gatherer::new(LIMITS, vec![vec![route(0)], vec![route(1)]])
    }

    fn id(number: i64) -> CanonicalId {
        CanonicalId::from_bson(&bson::Bson::Int64(number))
    }

    fn token(time: u32, increment: u32) -> ResumeToken {
        ResumeToken(vec![time as u8, increment as u8])
    }

    fn document() -> ChangeKind {
        let bytes = bson::serialize_to_vec(&bson::doc! { "a": 1 }).unwrap();
        ChangeKind::Put(Document::new(bytes.into()).unwrap())
    }

    fn event(time: u32, increment: u32, kind: EventKind) -> Event {
        Event {
            kind,
            time: ClusterTime::new(time, 0),
            token: token(time, increment),
            in_transaction: false,
            wall_time: None,
        }
    }

    fn change(time: u32, number: i64, change: ChangeKind) -> Event {
        let kind = EventKind::Document { collection: CollectionIndex(0), id: id(number), change };
        event(time, number as u32, kind)
    }

    fn in_transaction(mut event: Event) -> Event {
        event.in_transaction = true;
        event
    }

    /// A reply whose token is of time `time`.
    fn reply(time: u32, events: Vec<Event>) -> Reply {
        Reply {
            events,
            token: token(time, 99),
            time: ClusterTime::new(time, 0),
            size: 100,
            continuity: Continuity::Unbroken,
            operation_time: None,
            opens_cursor: false,
        }
    }

    fn kinds(batch: &Batch) -> Vec<(u16, &'static str)> {
        let kind = |change: &Change| match change.kind {
            ChangeKind::Put(_) => "put",
            ChangeKind::Delete => "delete",
            ChangeKind::Touch => "touch",
            ChangeKind::Updated => "updated",
        };
        batch.changes.iter().map(|change| (change.key.source.0, kind(change))).collect()
    }

    #[test]
    fn the_last_change_of_a_key_wins() {
        let mut gatherer = gatherer();
        gatherer.offer(reply(
            5,
            vec![
                change(1, 7, document()),
                change(2, 8, document()),
                change(3, 7, ChangeKind::Touch),
                change(4, 8, ChangeKind::Delete),
            ],
        ));
        let batch = gatherer.take();
        assert_eq!(kinds(&batch), [(0, "touch"), (0, "delete")]);
        assert_eq!(batch.events, 4);
        assert_eq!(batch.position.unwrap().token, Some(token(5, 99)));
    }

    #[test]
    fn a_full_batch_ends_at_the_token_of_its_last_event_and_the_rest_follows() {
        let mut gatherer = gatherer();
        gatherer.offer(reply(9, (1..=5).map(|n| change(n, i64::from(n), document())).collect()));
        assert!(gatherer.is_full());
        let first = gatherer.take();
        assert_eq!(first.changes.len(), 3);
        assert_eq!(first.position.unwrap().token, Some(token(3, 3)));
        let second = gatherer.take();
        assert_eq!(second.changes.len(), 2);
        assert_eq!(second.position.unwrap().token, Some(token(9, 99)));
    }

    #[test]
    fn documents_that_must_be_read_again_count_before_they_are_read() {
        let limits = Limits { max_changes: 1_000, max_bytes: 10_000 };
        let route = Route { source: SourceIndex(0), on_drop: OnDropRoute::Delete, document_bytes: 1_000 };
        let mut gatherer = Gatherer::new(limits, vec![vec![route]]);
        gatherer.offer(reply(99, (1..=50).map(|n| change(n, i64::from(n), ChangeKind::Updated)).collect()));
        assert!(
            gatherer.take().changes.len() <= 10,
            "50 documents of 1,000 bytes are too many for one batch"
        );
    }

    #[test]
    fn one_cluster_time_is_never_cut_in_two() {
        let mut gatherer = gatherer();
        let events = (1..=6).map(|n| in_transaction(change(1, n, document())));
        gatherer.offer(reply(2, events.chain([change(2, 9, document())]).collect()));
        let first = gatherer.take();
        assert_eq!(first.changes.len(), 6, "the whole transaction, above the limit of 3");
        assert_eq!(gatherer.take().changes.len(), 1);
    }

    #[test]
    fn a_transaction_stays_open_until_a_later_time_or_an_empty_reply_that_has_passed_it() {
        let mut gatherer = gatherer();
        gatherer.offer(reply(1, vec![in_transaction(change(1, 1, document()))]));
        assert!(!gatherer.closed());
        gatherer.offer(reply(1, vec![in_transaction(change(1, 2, document()))]));
        assert!(!gatherer.closed());
        gatherer.offer(reply(1, Vec::new()));
        assert!(gatherer.closed(), "an empty reply: nothing of this time is left");
        assert_eq!(gatherer.take().changes.len(), 2);
    }

    #[test]
    fn a_transaction_beyond_memory_is_cut_after_all() {
        let mut gatherer = gatherer();
        let most = (LIMITS.max_changes * HARD_LIMIT_FACTOR) as i64;
        gatherer.offer(reply(1, (0..most + 5).map(|n| in_transaction(change(1, n, document()))).collect()));
        assert!(gatherer.closed());
        assert_eq!(gatherer.take().changes.len() as i64, most);
        assert_eq!(gatherer.take().changes.len(), 5);
    }

    #[test]
    fn a_single_write_is_over_at_once() {
        let mut gatherer = gatherer();
        gatherer.offer(reply(1, vec![change(1, 1, document())]));
        assert!(gatherer.closed());
    }

    #[test]
    fn a_drop_takes_the_waiting_changes_of_its_source_along_and_no_others() {
        let mut gatherer = gatherer();
        let other = EventKind::Document { collection: CollectionIndex(1), id: id(1), change: document() };
        gatherer.offer(reply(
            9,
            vec![
                change(1, 1, document()),
                event(2, 0, other),
                event(3, 0, EventKind::Dropped { collection: CollectionIndex(0) }),
                change(4, 2, document()),
            ],
        ));
        let batch = gatherer.take();
        assert_eq!(batch.dropped, [SourceIndex(0)]);
        assert_eq!(kinds(&batch), [(1, "put"), (0, "put")]);
    }

    #[test]
    fn a_drop_that_halts_lets_everything_before_it_pass_and_nothing_behind() {
        let mut gatherer = gatherer_with(OnDropRoute::Halt);
        gatherer.offer(reply(
            9,
            vec![
                change(1, 1, document()),
                event(2, 0, EventKind::Dropped { collection: CollectionIndex(0) }),
                change(3, 2, document()),
            ],
        ));
        assert_eq!(gatherer.stopped(), None);
        let batch = gatherer.take();
        assert_eq!(batch.changes.len(), 1);
        assert_eq!(batch.position.unwrap().token, Some(token(1, 1)));
        assert_eq!(gatherer.stopped(), Some(&Stop::Dropped(SourceIndex(0))));
    }

    #[test]
    fn a_touch_moves_no_position() {
        let mut gatherer = gatherer();
        gatherer.touch(Key { source: SourceIndex(0), id: id(1) });
        assert!(gatherer.has_changes() && gatherer.closed());
        assert_eq!(gatherer.take().position, None);
    }

    #[test]
    fn an_idle_stream_has_a_position_to_write_down() {
        let mut gatherer = gatherer();
        gatherer.offer(reply(5, Vec::new()));
        assert!(gatherer.has_position() && !gatherer.has_changes());
        assert_eq!(gatherer.take().position.unwrap().time, ClusterTime::new(5, 0));
        assert!(!gatherer.has_position());
    }
}
