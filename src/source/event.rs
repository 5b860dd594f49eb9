//! What the source hands to the pipeline: one server reply at a time, already understood.

use std::time::Duration;

use crate::domain::{CanonicalId, ChangeKind, ClusterTime, Namespace, ResumeToken};

/// One reply of the change stream, empty ones included.
#[derive(Debug)]
pub struct Reply {
    pub events: Vec<Event>,
    /// The server's `postBatchResumeToken`: everything up to here is in `events` or concerns nobody.
    pub token: ResumeToken,
    /// The time inside that token.
    pub time: ClusterTime,
    /// Bytes of the server's reply. Documents are slices of it, so all of it stays in memory until
    /// the last of them is gone.
    pub size: usize,
    pub continuity: Continuity,
    /// What the server had when it answered: a read that asks for this time shows all of it.
    pub operation_time: Option<ClusterTime>,
    /// The first one of a cursor: the server may be another one than before.
    pub opens_cursor: bool,
}

/// How a reply joins what was handed over before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Continuity {
    /// Nothing lies between this reply and the one before, or the position the stream began at.
    Unbroken,
    /// The server did not know the token, or its clock is behind it, as after a restore: the stream
    /// was reopened by time, and what both sides hold may differ anywhere. Schedule a re-sync.
    TokenNotFound,
    /// The position has left the oplog, or is none of this server's: the stream was reopened at the present.
    /// What happened in between is unknown.
    HistoryLost,
}

/// What becomes of a stream whose position is gone for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterLoss {
    /// It ends with the error.
    End,
    /// It goes on from the present, and its next reply says so.
    GoOn,
}

/// How a stream is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Manner {
    /// Bytes of replies that may wait to be taken; one reply beyond it may be in the stream's hands.
    pub budget: usize,
    pub after_loss: AfterLoss,
    /// A connection without an answer for so long is given up; where that happens again without an answer in
    /// between, for twice as long: a server that has much to skip is not taken for one that is gone.
    pub patience: Duration,
}

/// One event that concerns a mapped collection.
#[derive(Debug)]
pub struct Event {
    pub kind: EventKind,
    pub time: ClusterTime,
    /// Resuming after this token continues behind this very event. Events of one server event
    /// (a rename, a dropDatabase) share it.
    pub token: ResumeToken,
    /// Part of a multi-document transaction: others may follow with the same `time`.
    pub in_transaction: bool,
    /// When the server wrote it, in milliseconds since 1970: finer than `time`, and of no use for order.
    /// `None` before MongoDB 6.0.
    pub wall_time: Option<i64>,
}

#[derive(Debug)]
pub enum EventKind {
    /// Never a `Put` without a document: an update is `Updated`, an oversized event or a delete whose
    /// `documentKey` has more than `_id` is a `Touch`.
    Document { collection: CollectionIndex, id: CanonicalId, change: ChangeKind },
    /// The collection was dropped or renamed away: all its documents are gone. May come twice, once
    /// for the collection and once for its database.
    Dropped { collection: CollectionIndex },
    /// Another collection took this name (rename, `$out`): its documents came without events.
    Replaced { collection: CollectionIndex },
    /// A collection nobody listed has had its first event; only when `Scope::discover` is set.
    Discovered(Namespace),
}

/// A collection's place in `Scope::collections`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CollectionIndex(pub u16);

/// What the one change stream listens to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    pub collections: Vec<Namespace>,
    /// Watch the whole of this database and report collections that are not listed.
    pub discover: Option<String>,
}
