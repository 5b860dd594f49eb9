//! Which keys a chunk must not write, because the pipeline has seen them since the chunk was registered.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::domain::{CanonicalId, ClusterTime, SourceIndex};

/// The chunks that are registered and not yet committed.
///
/// A chunk is registered *before* it is read, and read at or after the time of the last event the
/// pipeline had been handed, or of the last look-up, by then. From there to its commit every key the
/// pipeline sees is remembered here; the chunk's rows and rejections of those keys are dropped, for the
/// pipeline brings newer ones.
#[derive(Debug, Default)]
pub(super) struct Outstanding {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    handed: ClusterTime,
    next: u64,
    chunks: HashMap<u64, Registered>,
}

#[derive(Debug)]
struct Registered {
    source: SourceIndex,
    seen: HashSet<CanonicalId>,
    void: bool,
}

/// A registered chunk. Taking it out of `Outstanding` again is `settle`.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub(super) struct Registration {
    number: u64,
    /// The chunk must be read at or after this time.
    pub read_after: ClusterTime,
}

/// What the pipeline saw while a chunk was outstanding.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Settled {
    /// Drop these keys, write the rest.
    Without(HashSet<CanonicalId>),
    /// The collection was dropped or replaced: nothing of the chunk may be written.
    Void,
}

impl Outstanding {
    /// `handed`: the position the stream starts from, for nothing has been handed over yet.
    pub(super) fn new(handed: ClusterTime) -> Self {
        Self { inner: Mutex::new(Inner { handed, ..Inner::default() }) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Plain data, changed in single steps: a panic elsewhere leaves it whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn register(&self, source: SourceIndex) -> Registration {
        let mut inner = self.lock();
        let number = inner.next;
        inner.next += 1;
        inner.chunks.insert(number, Registered { source, seen: HashSet::new(), void: false });
        Registration { number, read_after: inner.handed }
    }

    /// Called with the chunk's turn to commit held, so that no stream transaction runs until it has.
    pub(super) fn settle(&self, registration: &Registration) -> Settled {
        match self.lock().chunks.remove(&registration.number) {
            Some(chunk) if !chunk.void => Settled::Without(chunk.seen),
            _ => Settled::Void,
        }
    }

    /// A key came from the stream or as a touch.
    pub(super) fn saw(&self, source: SourceIndex, id: &CanonicalId) {
        for chunk in self.lock().chunks.values_mut().filter(|chunk| chunk.source == source) {
            chunk.seen.insert(id.clone());
        }
    }

    /// The whole collection changed at once.
    pub(super) fn void(&self, source: SourceIndex) {
        for chunk in self.lock().chunks.values_mut().filter(|chunk| chunk.source == source) {
            chunk.void = true;
        }
    }

    /// Events up to this time have been handed to the pipeline, or documents are looked up as of it.
    pub(super) fn handed(&self, time: ClusterTime) {
        let mut inner = self.lock();
        inner.handed = inner.handed.max(time);
    }

    pub(super) fn last_handed(&self) -> ClusterTime {
        self.lock().handed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: i64) -> CanonicalId {
        CanonicalId::from_bson(&bson::Bson::Int64(number))
    }

    #[test]
    fn a_key_seen_between_registration_and_commit_is_dropped_from_its_chunk_only() {
        let outstanding = Outstanding::new(ClusterTime::new(1, 1));
        outstanding.saw(SourceIndex(0), &id(1));
        let first = outstanding.register(SourceIndex(0));
        let other = outstanding.register(SourceIndex(1));
        outstanding.saw(SourceIndex(0), &id(2));
        assert_eq!(outstanding.settle(&first), Settled::Without(HashSet::from([id(2)])));
        assert_eq!(outstanding.settle(&other), Settled::Without(HashSet::new()));
    }

    #[test]
    fn a_chunk_is_read_after_the_last_event_handed_over_before_it_was_registered() {
        let outstanding = Outstanding::new(ClusterTime::new(5, 0));
        outstanding.handed(ClusterTime::new(7, 2));
        outstanding.handed(ClusterTime::new(6, 9));
        assert_eq!(outstanding.register(SourceIndex(0)).read_after, ClusterTime::new(7, 2));
    }

    #[test]
    fn a_dropped_collection_voids_its_chunks_and_no_others() {
        let outstanding = Outstanding::new(ClusterTime::default());
        let gone = outstanding.register(SourceIndex(0));
        let kept = outstanding.register(SourceIndex(1));
        outstanding.void(SourceIndex(0));
        assert_eq!(outstanding.settle(&gone), Settled::Void);
        assert_eq!(outstanding.settle(&kept), Settled::Without(HashSet::new()));
    }

    #[test]
    fn a_chunk_settles_once() {
        let outstanding = Outstanding::new(ClusterTime::default());
        let chunk = outstanding.register(SourceIndex(0));
        assert_eq!(outstanding.settle(&chunk), Settled::Without(HashSet::new()));
        assert_eq!(outstanding.settle(&chunk), Settled::Void);
    }
}
