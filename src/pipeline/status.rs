//! What the pipeline knows about itself, for those who ask: `/status`, `/health`, `/metrics`, the page.
//! Memory only, so it answers while both servers are away. The pipeline tells it what happened,
//! everyone else reads a [`StatusSnapshot`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Moment;
use crate::domain::{ClusterTime, Rejection, SourceIndex};

mod drift;
mod model;

pub use drift::{Drift, Sighting};
pub use model::{
    Checkpoint, EventTime, Halt, HeldCounts, LAG_FRESH_FOR, Lag, LastReconcile, LastRejection, Link,
    LinkState, Oplog, ResyncStatus, Role, RowCounts, SnapshotState, SnapshotStatus, SourceStatus,
    StatusSnapshot,
};

/// Without a sign of life from the loop for this long the process counts as stuck: `/livez` falls and
/// the watchdog is no longer fed. The loop shows life every second or so, waiting for a server
/// included. Too low: a loaded machine is restarted for nothing. Too high: a deadlock lasts.
pub const STALLED_AFTER: Duration = Duration::from_secs(60);

/// The shared handle: cheap to clone, never held across an await.
#[derive(Debug, Clone)]
pub struct Status(Arc<Mutex<StatusSnapshot>>);

impl Status {
    pub fn new(pipeline: &str, version: &str, now: Moment) -> Self {
        Self(Arc::new(Mutex::new(StatusSnapshot::starting(pipeline, version, now))))
    }

    pub fn snapshot(&self, now: Moment) -> StatusSnapshot {
        let mut snapshot = self.lock().clone();
        snapshot.at = now;
        if let Some(lag) = &mut snapshot.lag {
            lag.present = lag.at(now);
        }
        for source in &mut snapshot.sources {
            source.snapshot.eta = source.snapshot.eta_at(now);
        }
        snapshot
    }

    fn lock(&self) -> MutexGuard<'_, StatusSnapshot> {
        // Nothing in here can be left half done by a panic elsewhere.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new plan: its sources are added now, in an order of their own. What was counted is carried over by
    /// name.
    pub fn sources_begin(&self) {
        let mut status = self.lock();
        let former = std::mem::take(&mut status.sources);
        status.former_sources = former;
    }

    /// A mapping is there; again for the same index is no mistake and changes nothing.
    pub fn source_added(&self, index: SourceIndex, source: &str, collection: &str, table: &str) {
        let mut status = self.lock();
        if let Err(place) = status.sources.binary_search_by_key(&index, |source| source.index) {
            let former = status.former_sources.iter().position(|former| former.source == source);
            let mut added = SourceStatus::new(index, source, collection, table);
            if let Some(former) = former.map(|place| status.former_sources.swap_remove(place)) {
                added = SourceStatus { index, collection: added.collection, table: added.table, ..former };
            }
            status.sources.insert(place, added);
        }
    }

    /// Back to the beginning without a lease: after a lost lease, an unknown commit, a halt that is over.
    pub fn restarting(&self, now: Moment) {
        let mut status = self.lock();
        status.enter(Role::Starting, now);
        status.owner = None;
    }

    /// Another process leads.
    pub fn became_standby(&self, owner: &str, now: Moment) {
        let mut status = self.lock();
        status.enter(Role::Standby, now);
        status.owner = Some(owner.to_owned());
        status.has_started = true;
    }

    pub fn became_leader(&self, epoch: i64, owner: &str, now: Moment) {
        let mut status = self.lock();
        status.enter(Role::Leader, now);
        status.epoch = Some(epoch);
        status.owner = Some(owner.to_owned());
        status.has_started = true;
    }

    /// `reason` and `hint` are shown as they are: no value of a document, no credential.
    pub fn halted(&self, reason: &str, hint: &str, now: Moment) {
        let mut status = self.lock();
        let since = status.halt.as_ref().map_or(now, |halt| halt.since);
        status.enter(Role::Halted, now);
        "waiting for its operator".clone_into(&mut status.phase);
        status.halt = Some(Halt { reason: reason.to_owned(), hint: hint.to_owned(), since });
    }

    pub fn stopping(&self, now: Moment) {
        let mut status = self.lock();
        status.enter(Role::Stopping, now);
        "stopping".clone_into(&mut status.phase);
    }

    pub fn phase_changed(&self, phase: &str) {
        let mut status = self.lock();
        phase.clone_into(&mut status.phase);
    }

    pub fn mongodb_up(&self, now: Moment) {
        self.lock().mongodb.up(now);
    }

    /// An attempt failed; call it for each one. `error` is shown as it is.
    pub fn mongodb_failed(&self, error: &str, now: Moment) {
        self.lock().mongodb.failed(error, now);
    }

    pub fn postgresql_up(&self, now: Moment) {
        self.lock().postgresql.up(now);
    }

    /// An attempt failed; call it for each one. `error` is shown as it is.
    pub fn postgresql_failed(&self, error: &str, now: Moment) {
        self.lock().postgresql.failed(error, now);
    }

    pub fn stream_connecting(&self, now: Moment) {
        self.lock().stream.connecting(now);
    }

    pub fn stream_live(&self, now: Moment) {
        self.lock().stream.up(now);
    }

    pub fn stream_failed(&self, error: &str, now: Moment) {
        self.lock().stream.failed(error, now);
    }

    /// A reply of the stream, an empty one included.
    pub fn polled(&self, now: Moment) {
        let mut status = self.lock();
        status.last_poll_at = Some(now);
        status.stream.up(now);
    }

    /// The newest event of a reply.
    pub fn event_read(&self, cluster_time: ClusterTime, now: Moment) {
        self.lock().last_event = Some(EventTime { cluster_time, read_at: now });
    }

    /// The checkpoint was committed, or loaded. An idle pipeline commits one every few seconds too.
    pub fn checkpoint_committed(&self, cluster_time: ClusterTime, sequence: i64, now: Moment) {
        self.lock().checkpoint = Some(Checkpoint { cluster_time, sequence, committed_at: now });
    }

    pub fn lag_measured(&self, lag: Duration, now: Moment) {
        self.lock().lag = Some(Lag { measured: lag, measured_at: now, present: lag });
    }

    pub fn caught_up(&self) {
        self.lock().caught_up = true;
    }

    pub fn fell_behind(&self) {
        self.lock().caught_up = false;
    }

    pub fn oplog_measured(&self, window: Duration, headroom: Duration) {
        self.lock().oplog = Some(Oplog { window, headroom });
    }

    /// The loop is alive: call it on every turn, waiting for a server included.
    pub fn progressed(&self, now: Moment) {
        self.lock().last_progress_at = now;
    }

    /// For the watchdog: see [`STALLED_AFTER`].
    pub fn is_alive(&self, now: Moment) -> bool {
        now.since(self.lock().last_progress_at) < STALLED_AFTER
    }

    pub fn queue_measured(&self, bytes: u64) {
        self.lock().queue_bytes = bytes;
    }

    pub fn backpressure_began(&self, now: Moment) {
        self.lock().backpressure_since.get_or_insert(now);
    }

    pub fn backpressure_ended(&self) {
        self.lock().backpressure_since = None;
    }

    pub fn reconciled(&self, last: LastReconcile) {
        self.lock().reconcile = Some(last);
    }

    pub fn resyncs(&self, due: Vec<ResyncStatus>) {
        self.lock().resyncs = due;
    }

    pub fn snapshot_skipped(&self, index: SourceIndex) {
        self.with_source(index, |source| source.snapshot.state = SnapshotState::Skipped);
    }

    /// To be copied: not begun, or voided by a drop or a rename.
    pub fn snapshot_pending(&self, index: SourceIndex, now: Moment) {
        {
            let mut status = self.lock();
            // What was pending before makes no progress by being loaded once more.
            if !status.sources.iter().any(|source| source.snapshot.is_unfinished()) {
                status.snapshot_moved_at = Some(now);
            }
        }
        self.with_source(index, |source| source.snapshot = SnapshotStatus::pending());
    }

    /// A copy begins, or is taken up again at `documents`.
    pub fn snapshot_began(&self, index: SourceIndex, documents: u64, estimated: Option<u64>, now: Moment) {
        self.with_source(index, |source| {
            source.snapshot = SnapshotStatus {
                state: SnapshotState::Running,
                documents,
                documents_estimated: estimated,
                started_at: Some(now),
                documents_at_start: documents,
                ..SnapshotStatus::pending()
            };
        });
    }

    /// `documents` of this chunk, those that were held or dropped for a newer change included.
    pub fn chunk_committed(&self, index: SourceIndex, documents: u64, now: Moment) {
        self.lock().snapshot_moved_at = Some(now);
        self.with_source(index, |source| source.snapshot.documents += documents);
    }

    /// Also for a snapshot that an earlier process finished.
    pub fn snapshot_done(&self, index: SourceIndex, documents: u64, now: Moment) {
        let mut is_new = false;
        self.with_source(index, |source| {
            is_new = source.snapshot.is_unfinished();
            source.snapshot.state = SnapshotState::Done;
            source.snapshot.documents = documents;
            source.snapshot.finished_at = Some(now);
        });
        if is_new {
            self.lock().snapshot_moved_at = Some(now);
        }
    }

    pub fn rows_committed(&self, index: SourceIndex, rows: RowCounts) {
        self.with_source(index, |source| source.rows.add(rows));
    }

    pub fn drifted(&self, index: SourceIndex, drift: &Drift) {
        self.with_source(index, |source| source.drift.add(drift));
    }

    pub fn held_counted(&self, index: SourceIndex, held: HeldCounts) {
        self.with_source(index, |source| source.held = held);
    }

    /// A change was held; [`Status::held_counted`] brings the numbers.
    pub fn change_held(&self, index: SourceIndex, rejection: &Rejection, now: Moment) {
        self.with_source(index, |source| {
            source.last_rejection = Some(LastRejection {
                reason: rejection.reason,
                column: rejection.column.clone(),
                message: rejection.message.clone(),
                at: now,
            });
        });
    }

    /// A source nobody added is passed over: status must never stop the pipeline.
    fn with_source(&self, index: SourceIndex, update: impl FnOnce(&mut SourceStatus)) {
        let mut status = self.lock();
        if let Ok(place) = status.sources.binary_search_by_key(&index, |source| source.index) {
            update(&mut status.sources[place]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VENMO: SourceIndex = SourceIndex(0);
    const CASH: SourceIndex = SourceIndex(1);

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn status(now: Moment) -> Status {
        let status = Status::new("expenses", "0.1.0", now);
        status.source_added(CASH, "cash", "flask_db.cash", "public.transactions");
        status.source_added(VENMO, "venmo", "flask_db.venmo", "public.transactions");
        status
    }

    #[test]
    fn sources_stand_in_the_order_of_the_mappings() {
        let now = Moment::now();
        let names: Vec<_> = status(now).snapshot(now).sources.into_iter().map(|one| one.source).collect();
        assert_eq!(names, ["venmo", "cash"]);
    }

    #[test]
    fn a_link_remembers_since_when_and_what_went_wrong() {
        let start = Moment::now();
        let status = status(start);
        status.mongodb_up(start.after(seconds(1)));
        status.mongodb_failed("connection refused", start.after(seconds(5)));
        status.mongodb_failed("connection reset", start.after(seconds(7)));
        let link = status.snapshot(start.after(seconds(8))).mongodb;
        assert_eq!((link.state, link.since), (LinkState::Retrying, start.after(seconds(5))));
        assert_eq!((link.failures, link.last_error.as_deref()), (2, Some("connection reset")));

        status.mongodb_up(start.after(seconds(9)));
        status.mongodb_up(start.after(seconds(11)));
        let link = status.snapshot(start.after(seconds(12))).mongodb;
        assert_eq!((link.state, link.since), (LinkState::Up, start.after(seconds(9))));
        assert_eq!((link.failures, link.last_error.as_deref()), (0, Some("connection reset")));
    }

    #[test]
    fn the_end_of_a_snapshot_is_estimated_by_the_pace_of_this_process() {
        let start = Moment::now();
        let status = status(start);
        status.snapshot_began(VENMO, 500, Some(1_000), start);
        assert_eq!(status.snapshot(start.after(seconds(5))).sources[0].snapshot.eta, None);
        status.chunk_committed(VENMO, 100, start.after(seconds(10)));
        let snapshot = status.snapshot(start.after(seconds(10)));
        assert_eq!(snapshot.sources[0].snapshot.eta, Some(seconds(40)));
        status.snapshot_done(VENMO, 1_001, start.after(seconds(50)));
        let done = &status.snapshot(start.after(seconds(50))).sources[0].snapshot;
        assert_eq!((done.state, done.documents, done.eta), (SnapshotState::Done, 1_001, None));
    }

    #[test]
    fn an_old_measurement_of_the_lag_grows() {
        let start = Moment::now();
        let lag = Lag { measured: seconds(2), measured_at: start, present: seconds(2) };
        assert_eq!(lag.at(start.after(LAG_FRESH_FOR)), seconds(2));
        assert_eq!(lag.at(start.after(seconds(60))), seconds(62));
    }

    #[test]
    fn a_leader_that_lost_its_lease_forgets_what_only_a_leader_knows() {
        let start = Moment::now();
        let status = status(start);
        status.became_leader(7, "a", start);
        status.checkpoint_committed(ClusterTime::new(100, 1), 12, start);
        status.lag_measured(seconds(1), start);
        status.caught_up();
        status.became_standby("b", start.after(seconds(3)));
        let now = status.snapshot(start.after(seconds(4)));
        assert_eq!((now.role, now.role_since), (Role::Standby, start.after(seconds(3))));
        assert!(now.epoch.is_none() && now.checkpoint.is_none() && now.lag.is_none() && !now.caught_up);
        assert_eq!(now.owner.as_deref(), Some("b"));
    }

    #[test]
    fn a_halt_keeps_its_beginning_and_ends_with_the_next_start() {
        let start = Moment::now();
        let status = status(start);
        status.halted("table is gone", "create it", start.after(seconds(1)));
        status.halted("column is gone", "create it", start.after(seconds(9)));
        let halt = status.snapshot(start.after(seconds(9))).halt.expect("halted");
        assert_eq!((halt.reason.as_str(), halt.since), ("column is gone", start.after(seconds(1))));
        status.restarting(start.after(seconds(10)));
        assert!(status.snapshot(start.after(seconds(10))).halt.is_none());
    }

    #[test]
    fn the_loop_counts_as_stuck_without_a_sign_of_life() {
        let start = Moment::now();
        let status = status(start);
        status.progressed(start.after(seconds(10)));
        assert!(status.is_alive(start.after(seconds(69))));
        assert!(!status.is_alive(start.after(seconds(70))));
    }

    #[test]
    fn an_unknown_source_changes_nothing() {
        let start = Moment::now();
        let status = status(start);
        status.held_counted(SourceIndex(9), HeldCounts { waiting: 1, failed: 1, resolved: 0 });
        assert!(status.snapshot(start).sources.iter().all(|source| source.held.open() == 0));
    }

    #[test]
    fn status_is_json_with_units_in_its_names() {
        let start = Moment::now();
        let status = status(start);
        status.became_leader(3, "host/1", start);
        status.checkpoint_committed(ClusterTime::new(100, 2), 12, start);
        status.lag_measured(Duration::from_millis(1_500), start);
        status.rows_committed(CASH, RowCounts { inserted: 2, deleted: 1, ..RowCounts::default() });
        let json = serde_json::to_value(status.snapshot(start)).expect("status is JSON");
        assert_eq!(json["role"], "leader");
        assert_eq!(json["lag"]["seconds"], 1.5);
        assert_eq!(json["checkpoint"]["cluster_time"], "100.2");
        assert_eq!(json["sources"][1]["rows"]["inserted"], 2);
        assert_eq!(json["sources"][1]["snapshot"]["eta_seconds"], serde_json::Value::Null);
    }
}
