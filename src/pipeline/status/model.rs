use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::domain::{ClusterTime, Reason, SourceIndex};
use crate::pipeline::Moment;
use crate::state::resync::Due;

use super::{Drift, STALLED_AFTER};

/// A measured lag is taken as it is for this long; beyond, its age is added, since nobody can say more
/// than that the source is at most that far ahead. The pipeline measures every few seconds.
pub const LAG_FRESH_FOR: Duration = Duration::from_secs(15);

/// Everything at one moment. Serialized as it stands.
#[derive(Debug, Clone, Serialize)]
pub struct StatusSnapshot {
    pub pipeline: String,
    pub version: String,
    pub at: Moment,
    pub started_at: Moment,
    pub role: Role,
    pub role_since: Moment,
    /// Since this process last took the lead from another, or from nobody, whatever sessions it had since.
    #[serde(skip)]
    pub leading_since: Option<Moment>,
    /// Of the lease, while this process leads.
    pub epoch: Option<i64>,
    /// Who holds the lease, as far as this process knows.
    pub owner: Option<String>,
    /// What is going on, in words: "copying", "following", "waiting for postgresql".
    pub phase: String,
    /// The start has succeeded once: as a leader or as a standby.
    pub has_started: bool,
    pub halt: Option<Halt>,
    pub mongodb: Link,
    pub postgresql: Link,
    pub stream: Link,
    pub checkpoint: Option<Checkpoint>,
    pub lag: Option<Lag>,
    pub caught_up: bool,
    pub last_event: Option<EventTime>,
    /// Last reply of the stream, empty ones included.
    pub last_poll_at: Option<Moment>,
    pub last_progress_at: Moment,
    pub oplog: Option<Oplog>,
    pub queue_bytes: u64,
    pub backpressure_since: Option<Moment>,
    /// Last sign of progress of any snapshot: a chunk committed, done; or since when there is anything to copy.
    pub snapshot_moved_at: Option<Moment>,
    /// What the last comparison of rows with their documents said.
    pub reconcile: Option<LastReconcile>,
    /// Sources whose rows are compared with all of their documents, and repaired, as soon as can be.
    pub resyncs: Vec<ResyncStatus>,
    /// In the order of the mappings.
    pub sources: Vec<SourceStatus>,
    /// Of the plan before, while the next one is taken in.
    #[serde(skip)]
    pub(super) former_sources: Vec<SourceStatus>,
}

/// The last comparison of rows with their documents.
#[derive(Debug, Clone, Serialize)]
pub struct LastReconcile {
    pub run: i64,
    /// `passed`, `warning` or `failed`.
    pub verdict: String,
    /// Seconds since 1970.
    pub finished_at: f64,
    pub findings: u64,
    /// By source and kind.
    pub mismatches: Vec<(String, String, u64)>,
    /// The whole of it.
    #[serde(skip)]
    pub report: Arc<Value>,
}

/// A source that is due for a re-sync.
#[derive(Debug, Clone, Serialize)]
pub struct ResyncStatus {
    pub source: String,
    /// Why, in words.
    pub cause: String,
    /// Seconds since 1970.
    pub since: f64,
}

impl ResyncStatus {
    pub fn of(due: &Due) -> Self {
        Self { source: due.source.clone(), cause: due.cause.to_string(), since: due.since }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Starting,
    Standby,
    Leader,
    Halted,
    Stopping,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Standby => "standby",
            Self::Leader => "leader",
            Self::Halted => "halted",
            Self::Stopping => "stopping",
        }
    }
}

/// Why the pipeline does not go on by itself, and what its operator can do.
#[derive(Debug, Clone, Serialize)]
pub struct Halt {
    pub reason: String,
    pub hint: String,
    pub since: Moment,
}

/// A connection that is kept up.
#[derive(Debug, Clone, Serialize)]
pub struct Link {
    pub state: LinkState,
    /// When `state` was entered.
    pub since: Moment,
    /// Attempts that failed since it was last up.
    pub failures: u64,
    /// Stays after recovery: what it was is asked afterwards.
    pub last_error: Option<String>,
    pub last_error_at: Option<Moment>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkState {
    /// Not up yet, and nothing has failed.
    Connecting,
    Up,
    Retrying,
}

#[derive(Debug, Clone, Serialize)]
pub struct Checkpoint {
    /// The time inside the stored token.
    #[serde(serialize_with = "as_text")]
    pub cluster_time: ClusterTime,
    pub sequence: i64,
    pub committed_at: Moment,
}

/// How far the source is ahead, by the servers' own clocks.
#[derive(Debug, Clone, Serialize)]
pub struct Lag {
    #[serde(skip)]
    pub measured: Duration,
    pub measured_at: Moment,
    /// What can be said of it at the time of the snapshot: see [`LAG_FRESH_FOR`].
    #[serde(rename = "seconds", serialize_with = "as_seconds")]
    pub present: Duration,
}

impl Lag {
    pub(super) fn at(&self, now: Moment) -> Duration {
        let age = now.since(self.measured_at);
        if age <= LAG_FRESH_FOR { self.measured } else { self.measured + age }
    }
}

#[derive(Debug, Clone, Serialize)]
pub struct EventTime {
    #[serde(serialize_with = "as_text")]
    pub cluster_time: ClusterTime,
    pub read_at: Moment,
}

#[derive(Debug, Clone, Serialize)]
pub struct Oplog {
    /// From its oldest entry to its newest.
    #[serde(rename = "window_seconds", serialize_with = "as_seconds")]
    pub window: Duration,
    /// From its oldest entry to the checkpoint: how long the pipeline may stand still.
    #[serde(rename = "headroom_seconds", serialize_with = "as_seconds")]
    pub headroom: Duration,
}

/// One mapping.
#[derive(Debug, Clone, Serialize)]
pub struct SourceStatus {
    #[serde(skip)]
    pub index: SourceIndex,
    pub source: String,
    pub collection: String,
    pub table: String,
    pub snapshot: SnapshotStatus,
    pub rows: RowCounts,
    pub held: HeldCounts,
    pub last_rejection: Option<LastRejection>,
    pub drift: Drift,
}

#[derive(Debug, Clone, Serialize)]
pub struct SnapshotStatus {
    pub state: SnapshotState,
    pub documents: u64,
    /// By the collection's own count when the copy began.
    pub documents_estimated: Option<u64>,
    pub started_at: Option<Moment>,
    pub finished_at: Option<Moment>,
    /// `documents` when this process took the copy up: only its own pace says when it ends.
    #[serde(skip)]
    pub documents_at_start: u64,
    #[serde(serialize_with = "as_optional_seconds", rename = "eta_seconds")]
    pub eta: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotState {
    Pending,
    Running,
    Done,
    /// The configuration asks for none.
    Skipped,
}

/// Rows since the process started; used for one batch as well.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct RowCounts {
    pub inserted: u64,
    pub updated: u64,
    pub unchanged: u64,
    pub deleted: u64,
}

/// As they stand in the state schema.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct HeldCounts {
    pub waiting: u64,
    pub failed: u64,
    /// Kept until their retention ends.
    pub resolved: u64,
}

impl HeldCounts {
    pub fn open(self) -> u64 {
        self.waiting + self.failed
    }
}

#[derive(Debug, Clone, Serialize)]
pub struct LastRejection {
    #[serde(serialize_with = "as_reason")]
    pub reason: Reason,
    pub column: Option<String>,
    pub message: String,
    pub at: Moment,
}

impl StatusSnapshot {
    pub(super) fn starting(pipeline: &str, version: &str, now: Moment) -> Self {
        Self {
            pipeline: pipeline.to_owned(),
            version: version.to_owned(),
            at: now,
            started_at: now,
            role: Role::Starting,
            role_since: now,
            leading_since: None,
            epoch: None,
            owner: None,
            phase: "starting".to_owned(),
            has_started: false,
            halt: None,
            mongodb: Link::new(now),
            postgresql: Link::new(now),
            stream: Link::new(now),
            checkpoint: None,
            lag: None,
            caught_up: false,
            last_event: None,
            last_poll_at: None,
            last_progress_at: now,
            oplog: None,
            queue_bytes: 0,
            backpressure_since: None,
            snapshot_moved_at: None,
            reconcile: None,
            resyncs: Vec::new(),
            sources: Vec::new(),
            former_sources: Vec::new(),
        }
    }

    pub fn is_alive(&self) -> bool {
        self.at.since(self.last_progress_at) < STALLED_AFTER
    }

    /// What a leader knew is not known to a standby: it is forgotten, not shown as if it still held.
    pub(super) fn enter(&mut self, role: Role, now: Moment) {
        if self.role != role {
            self.role = role;
            self.role_since = now;
        }
        match role {
            Role::Leader => drop(self.leading_since.get_or_insert(now)),
            Role::Standby => self.leading_since = None,
            Role::Starting | Role::Halted | Role::Stopping => {}
        }
        if role != Role::Halted && role != Role::Stopping {
            self.halt = None;
        }
        if matches!(role, Role::Starting | Role::Standby) {
            self.epoch = None;
            self.checkpoint = None;
            self.lag = None;
            self.caught_up = false;
            self.queue_bytes = 0;
            self.backpressure_since = None;
            self.oplog = None;
            self.stream.connecting(now);
        }
    }
}

impl Link {
    pub(super) fn new(now: Moment) -> Self {
        Self { state: LinkState::Connecting, since: now, failures: 0, last_error: None, last_error_at: None }
    }

    fn enter(&mut self, state: LinkState, now: Moment) {
        if self.state != state {
            self.state = state;
            self.since = now;
        }
    }

    pub(super) fn connecting(&mut self, now: Moment) {
        self.enter(LinkState::Connecting, now);
        self.failures = 0;
    }

    pub(super) fn up(&mut self, now: Moment) {
        self.enter(LinkState::Up, now);
        self.failures = 0;
    }

    pub(super) fn failed(&mut self, error: &str, now: Moment) {
        self.enter(LinkState::Retrying, now);
        self.failures += 1;
        self.last_error = Some(error.to_owned());
        self.last_error_at = Some(now);
    }
}

impl SourceStatus {
    pub(super) fn new(index: SourceIndex, source: &str, collection: &str, table: &str) -> Self {
        Self {
            index,
            source: source.to_owned(),
            collection: collection.to_owned(),
            table: table.to_owned(),
            snapshot: SnapshotStatus::pending(),
            rows: RowCounts::default(),
            held: HeldCounts::default(),
            last_rejection: None,
            drift: Drift::default(),
        }
    }
}

impl SnapshotStatus {
    pub(super) fn pending() -> Self {
        Self {
            state: SnapshotState::Pending,
            documents: 0,
            documents_estimated: None,
            started_at: None,
            finished_at: None,
            documents_at_start: 0,
            eta: None,
        }
    }

    pub fn is_unfinished(&self) -> bool {
        matches!(self.state, SnapshotState::Pending | SnapshotState::Running)
    }

    /// By the pace since this process took it up; `None` before the first chunk.
    pub(super) fn eta_at(&self, now: Moment) -> Option<Duration> {
        if self.state != SnapshotState::Running {
            return None;
        }
        let copied = self.documents.saturating_sub(self.documents_at_start);
        let left = self.documents_estimated?.saturating_sub(self.documents);
        let elapsed = now.since(self.started_at?).as_secs_f64();
        if copied == 0 {
            return None;
        }
        Duration::try_from_secs_f64(elapsed * left as f64 / copied as f64).ok()
    }
}

impl RowCounts {
    pub fn add(&mut self, other: Self) {
        self.inserted += other.inserted;
        self.updated += other.updated;
        self.unchanged += other.unchanged;
        self.deleted += other.deleted;
    }
}

fn as_text<S: Serializer>(time: &ClusterTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}

fn as_reason<S: Serializer>(reason: &Reason, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(reason.as_str())
}

fn as_seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

fn as_optional_seconds<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    duration.map(|duration| duration.as_secs_f64()).serialize(serializer)
}
