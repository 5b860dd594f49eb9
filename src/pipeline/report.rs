//! What happens, told to the status and to the metrics in one call each.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::commit::Committed;
use super::load::Loaded;
use super::plan::Plan;
use super::prepare::{Prepared, SourceBatch};
use super::{Drift, HeldCounts, LastReconcile, Moment, ResyncStatus, RowCounts, SourceStatus, Status};
use crate::domain::{ChangeKind, ClusterTime, IdType, SourceIndex, TableName};
use crate::metrics::{BatchSummary, EventOp, Metrics, Stage, TableSummary};
use crate::source::{Event, EventKind, OplogWindow, Reply, StreamState};
use crate::state::held::Count;
use crate::state::lease::Epoch;

/// Cheap to clone; every task of a session has one.
#[derive(Debug, Clone)]
pub struct Report {
    status: Status,
    metrics: Arc<Metrics>,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    plan: Option<Arc<Names>>,
    /// Everything up to this time is applied.
    applied: ClusterTime,
    /// Sources whose last chunk could not be copied straight into the table.
    merging: Vec<SourceIndex>,
    snapshot_documents: Vec<u64>,
    /// Tables of this plan at which writing took too long. What is committed elsewhere proves nothing for them.
    slow: Vec<String>,
    /// A write failed, and none has succeeded since: being connected alone is no recovery.
    writes_fail: bool,
    /// Taken while halted: a leader in name, until something is committed.
    unproven: Option<(Epoch, String)>,
}

/// Names by `SourceIndex`, for what is reported by name.
#[derive(Debug)]
struct Names {
    tables: Vec<String>,
    sources: Vec<String>,
    columns: Vec<Vec<String>>,
    id_types: Vec<IdType>,
}

impl Report {
    pub fn new(status: Status, metrics: Arc<Metrics>) -> Self {
        Self { status, metrics, seen: Arc::default() }
    }

    pub fn status(&self) -> Status {
        self.status.clone()
    }

    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }

    fn seen<T>(&self, look: impl FnOnce(&mut Seen) -> T) -> T {
        // Plain data, changed in single steps: a panic elsewhere leaves it whole.
        look(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    // The life of the process.

    pub fn standby(&self, leader: &str) {
        self.status.became_standby(leader, Moment::now());
        self.status.phase_changed("standing by");
    }

    pub fn leader(&self, epoch: Epoch, owner: &str) {
        let now = Moment::now();
        if self.status.snapshot(now).halt.is_some() {
            self.seen(|seen| seen.unproven = Some((epoch, owner.to_owned())));
            return;
        }
        self.status.became_leader(epoch.0, owner, now);
    }

    /// Something was written to these tables, or everything is: whatever was wrong is over.
    fn proven(&self, tables: impl Iterator<Item = SourceIndex>, now: Moment) {
        let is_over = self.seen(|seen| {
            let names = seen.plan.as_ref().map_or(&[][..], |plan| &plan.tables);
            let written: Vec<&String> =
                tables.filter_map(|source| names.get(usize::from(source.0))).collect();
            if seen.slow.iter().any(|table| written.contains(&table)) {
                seen.slow.clear();
            }
            seen.writes_fail &= !seen.slow.is_empty();
            !seen.writes_fail
        });
        if is_over {
            self.status.postgresql_up(now);
        }
        if let Some((epoch, owner)) = self.seen(|seen| seen.unproven.take()) {
            self.status.became_leader(epoch.0, &owner, now);
            self.status.phase_changed("following");
        }
    }

    pub fn running(&self) {
        if self.seen(|seen| seen.unproven.is_none()) {
            self.status.phase_changed("following");
        }
        tracing::info!("session started");
    }

    pub fn restarting(&self) {
        self.status.restarting(Moment::now());
        self.status.phase_changed("loading the state again");
    }

    /// Says whether this reason is new, and worth a line in the log.
    pub fn halted(&self, reason: &str, hint: &str) -> bool {
        let now = Moment::now();
        let before = self.status.snapshot(now).halt;
        self.seen(|seen| seen.unproven = None);
        self.status.halted(reason, hint, now);
        self.status.phase_changed("halted");
        before.is_none_or(|halt| halt.reason != reason)
    }

    pub fn failed(&self, stage: &str, error: &str) {
        let now = Moment::now();
        if stage == "read" {
            self.status.mongodb_failed(error, now);
            self.metrics.retried(Stage::Stream);
        } else {
            self.status.postgresql_failed(error, now);
            self.seen(|seen| seen.writes_fail = !stage.starts_with("connect"));
            let stage = if stage == "commit" { Stage::Commit } else { Stage::Write };
            self.metrics.retried(stage);
        }
    }

    /// As `failed`, at these tables.
    pub fn timed_out(&self, tables: &[TableName], error: &str) {
        self.failed("apply", error);
        self.seen(|seen| seen.slow = tables.iter().map(TableName::to_string).collect());
    }

    pub fn progressed(&self) {
        self.status.progressed(Moment::now());
    }

    // Comparisons of rows with their documents.

    pub fn reconciled(&self, last: LastReconcile) {
        self.status.reconciled(last);
    }

    /// Sources that are due for a re-sync now.
    pub fn resyncs(&self, due: Vec<ResyncStatus>) {
        self.status.resyncs(due);
    }

    /// Which of them is told as the last one.
    pub fn last_reconcile(&self) -> Option<i64> {
        self.status.snapshot(Moment::now()).reconcile.map(|last| last.run)
    }

    pub fn reconcile_ended(&self, result: &str, documents: u64) {
        self.metrics.reconcile_ended(result, documents);
    }

    /// Documents that were read again for a repair.
    pub fn repaired(&self, documents: u64) {
        self.metrics.repaired(documents);
    }

    // The servers.

    pub fn postgresql_up(&self) {
        if self.seen(|seen| !seen.writes_fail && seen.slow.is_empty()) {
            self.status.postgresql_up(Moment::now());
        }
    }

    pub fn mongodb_up(&self) {
        self.status.mongodb_up(Moment::now());
    }

    pub fn mongodb_failed(&self, error: &str) {
        self.status.mongodb_failed(error, Moment::now());
    }

    pub fn stream_state(&self, state: &StreamState) {
        let now = Moment::now();
        match state {
            StreamState::Connecting => self.status.stream_connecting(now),
            StreamState::Live => self.status.stream_live(now),
            StreamState::Retrying { error, .. } => {
                self.status.stream_failed(error, now);
                self.metrics.retried(Stage::Stream);
            }
            StreamState::Ended => {}
        }
    }

    pub fn oplog(&self, window: Option<OplogWindow>) {
        if let Some(window) = window {
            let length = window.last.seconds.saturating_sub(window.first.seconds);
            let length = Duration::from_secs(length.into());
            let applied = self.applied();
            let headroom = match applied == ClusterTime::default() {
                true => length,
                false => Duration::from_secs(applied.seconds.saturating_sub(window.first.seconds).into()),
            };
            self.status.oplog_measured(length, headroom);
        }
    }

    /// The server's own time: what has been applied is behind it by the lag.
    pub fn server_time(&self, time: ClusterTime) {
        let now = Moment::now();
        self.status.mongodb_up(now);
        self.status.progressed(now);
        let applied = self.applied();
        if applied >= time {
            self.status.caught_up();
            self.nothing_waits(now);
            self.status.lag_measured(Duration::ZERO, now);
        } else if applied != ClusterTime::default() {
            self.status.fell_behind();
            let lag = Duration::from_secs(time.seconds.saturating_sub(applied.seconds).into());
            self.status.lag_measured(lag, now);
        }
    }

    /// Everything is applied: a table that was slow may have nothing left to be written.
    fn nothing_waits(&self, now: Moment) {
        let is_copied = |source: &SourceStatus| !source.snapshot.is_unfinished();
        if self.seen(|seen| !seen.slow.is_empty()) && self.status.snapshot(now).sources.iter().all(is_copied)
        {
            self.seen(|seen| seen.slow.clear());
            self.proven(std::iter::empty(), now);
        }
    }

    // The plan and the state it begins with.

    pub fn planned(&self, plan: &Plan) {
        self.status.sources_begin();
        for mapped in &plan.mapped {
            let mapping = &mapped.mapping;
            let (collection, table) = (mapping.namespace.to_string(), mapping.table.to_string());
            self.status.source_added(mapping.index, &mapping.source, &collection, &table);
        }
        let names = Names {
            tables: plan.mapped.iter().map(|mapped| mapped.mapping.table.to_string()).collect(),
            sources: plan.mapped.iter().map(|mapped| mapped.mapping.source.clone()).collect(),
            id_types: plan.mapped.iter().map(|mapped| mapped.mapping.id_type).collect(),
            columns: plan
                .mapped
                .iter()
                .map(|mapped| mapped.mapping.columns.iter().map(|column| column.name.clone()).collect())
                .collect(),
        };
        self.seen(|seen| {
            seen.snapshot_documents = vec![0; names.sources.len()];
            seen.merging.clear();
            seen.plan = Some(Arc::new(names));
        });
    }

    pub fn loaded(&self, loaded: &Loaded) {
        let now = Moment::now();
        let checkpoint = &loaded.checkpoint;
        let committed_at = now.before(checkpoint.age);
        self.status.checkpoint_committed(checkpoint.position.time, checkpoint.seq, committed_at);
        for pending in &loaded.pending {
            self.status.snapshot_pending(pending.source, now);
        }
        for source in &loaded.done {
            self.status.snapshot_done(*source, 0, now);
        }
        // Where the server is, only its own replies can tell: it may have been set back in time.
        self.seen(|seen| seen.applied = ClusterTime::default());
    }

    fn names(&self) -> Option<Arc<Names>> {
        self.seen(|seen| seen.plan.clone())
    }

    // The stream.

    pub fn reply_read(&self, plan: &Plan, reply: &Reply) {
        let now = Moment::now();
        self.status.polled(now);
        self.status.progressed(now);
        if let Some(event) = reply.events.last() {
            self.status.event_read(event.time, now);
        }
        for event in &reply.events {
            if let Some((collection, op)) = counted(event)
                && let Some(namespace) = plan.scope.collections.get(usize::from(collection))
            {
                self.metrics.events_read(&namespace.to_string(), op, 1);
            }
        }
    }

    pub fn queue_measured(&self, bytes: usize) {
        self.status.queue_measured(bytes as u64);
    }

    pub fn backpressure(&self, waiting: bool) {
        if waiting {
            self.status.backpressure_began(Moment::now());
        } else {
            self.status.backpressure_ended();
        }
    }

    /// Nothing came, and everything before is committed.
    pub fn idle(&self, batch: &Prepared) {
        self.status.progressed(Moment::now());
        if let Some(position) = &batch.position {
            self.seen(|seen| seen.applied = seen.applied.max(position.time));
        }
    }

    pub fn applied(&self) -> ClusterTime {
        self.seen(|seen| seen.applied)
    }

    pub fn batch_committed(&self, batch: &Prepared, committed: &Committed, seq: i64) {
        let now = Moment::now();
        let written = batch.sources.iter().map(|batch| batch.source);
        self.proven(written.chain(batch.dropped.iter().copied()), now);
        self.idle(batch);
        if let Some(position) = &batch.position {
            self.status.checkpoint_committed(position.time, seq, now);
        }
        self.metrics.looked_up(batch.lookups as u64, batch.lookups_missing as u64, batch.spared as u64);
        let puts: Vec<(SourceIndex, u64, u64)> = batch
            .sources
            .iter()
            .map(|batch| {
                (batch.source, (batch.rows.len() + batch.refused.len()) as u64, batch.deletes.len() as u64)
            })
            .collect();
        for batch in &batch.sources {
            self.coerced(batch.source, &batch.rows);
            self.drifted(batch);
        }
        if !batch.is_empty() {
            self.committed(&puts, committed, batch.written_at.map(lag_of));
        }
        for source in &batch.replaced {
            self.status.snapshot_pending(*source, now);
        }
    }

    fn coerced(&self, source: SourceIndex, rows: &[crate::domain::Row]) {
        let Some(names) = self.names() else { return };
        let place = usize::from(source.0);
        for coercion in rows.iter().flat_map(|row| &row.coercions) {
            let column = names.columns[place].get(usize::from(coercion.column)).map_or("", String::as_str);
            self.metrics.coerced(&names.tables[place], column, coercion.rule, 1);
        }
    }

    /// What the documents of a batch hold that no mapping expects.
    fn drifted(&self, batch: &SourceBatch) {
        let Some(names) = self.names() else { return };
        let place = usize::from(batch.source.0);
        let column = |column| names.columns[place].get(column).map_or("", String::as_str);
        let drift = batch.drifted(names.id_types[place], column);
        if drift != Drift::default() {
            self.metrics.unmapped_seen(&names.sources[place], drift.sightings());
            self.status.drifted(batch.source, &drift);
        }
    }

    fn children(&self, committed: &Committed) {
        for (_, tally) in &committed.sources {
            for coerced in &tally.coerced {
                self.metrics.coerced(&coerced.table, &coerced.column, coerced.rule, coerced.count);
            }
            for (table, rows) in &tally.children {
                self.metrics.rows_written(table, rows);
            }
        }
    }

    fn committed(&self, puts: &[(SourceIndex, u64, u64)], committed: &Committed, lag: Option<Duration>) {
        let now = Moment::now();
        let Some(names) = self.names() else { return };
        self.children(committed);
        let mut tables = Vec::new();
        for (source, tally) in &committed.sources {
            let place = usize::from(source.0);
            let rows = RowCounts {
                inserted: tally.inserted,
                updated: tally.updated,
                unchanged: tally.unchanged,
                deleted: tally.deleted,
            };
            self.status.rows_committed(*source, rows);
            for (id, rejection) in &tally.held {
                self.metrics.held(&names.sources[place], rejection.reason);
                self.status.change_held(*source, rejection, now);
                tracing::debug!(source = names.sources[place], id = id.describe(), "change held");
            }
            if tally.overdue > 0 {
                tracing::warn!(
                    event = "waited_too_long",
                    severity = "error",
                    source = names.sources[place],
                    table = names.tables[place],
                    count = tally.overdue,
                    "what changes wait for has not come within held.waiting_limit"
                );
            }
            if let Some((_, rejection)) = tally.held.first() {
                tracing::warn!(
                    event = "held",
                    severity = "error",
                    source = names.sources[place],
                    table = names.tables[place],
                    count = tally.held.len(),
                    reason = rejection.reason.as_str(),
                    column = rejection.column,
                    error = rejection.message,
                    "changes held"
                );
            }
            let (puts, deletes) = puts
                .iter()
                .find(|(of, _, _)| of == source)
                .map_or((0, tally.deleted), |(_, puts, deletes)| (*puts, *deletes));
            tables.push(TableSummary { table: &names.tables[place], puts, deletes, rows });
        }
        let commit = committed.commit.map(|commit| (Stage::Commit, commit));
        let stages: Vec<_> = std::iter::once((Stage::Write, committed.apply)).chain(commit).collect();
        self.metrics.batch_committed(&BatchSummary { tables: &tables, stages: &stages, apply_lag: lag });
    }

    // The snapshot.

    pub fn snapshot_started(&self, plan: &Plan, source: SourceIndex, documents: u64) {
        let mapped = plan.of(source);
        tracing::info!(
            source = mapped.mapping.source,
            table = %mapped.mapping.table,
            estimated = mapped.documents_estimated,
            resumed_at = documents,
            "snapshot started"
        );
        self.seen(|seen| seen.snapshot_documents[usize::from(source.0)] = documents);
        self.status.snapshot_began(source, documents, Some(mapped.documents_estimated), Moment::now());
    }

    /// Straight into the table until a key turned out to be taken; then by merging.
    pub fn copies_straight(&self, source: SourceIndex) -> bool {
        !self.seen(|seen| seen.merging.contains(&source))
    }

    pub fn chunk_committed(
        &self,
        batch: &super::prepare::SourceBatch,
        documents: u64,
        committed: &Committed,
    ) {
        let source = batch.source;
        let now = Moment::now();
        self.status.progressed(now);
        self.proven(std::iter::once(source), now);
        self.status.chunk_committed(source, documents, now);
        let fell_back = committed.sources.iter().any(|(_, tally)| tally.fell_back);
        self.seen(|seen| {
            seen.snapshot_documents[usize::from(source.0)] += documents;
            if fell_back && !seen.merging.contains(&source) {
                seen.merging.push(source);
            }
        });
        self.coerced(source, &batch.rows);
        self.drifted(batch);
        self.committed(&[(source, documents, 0)], committed, None);
    }

    pub fn snapshot_done(&self, plan: &Plan, source: SourceIndex) {
        let documents = self.seen(|seen| seen.snapshot_documents[usize::from(source.0)]);
        tracing::info!(source = plan.of(source).mapping.source, documents, "snapshot done");
        self.status.snapshot_done(source, documents, Moment::now());
    }

    // Held changes.

    pub fn held_counted(&self, counts: &[Count]) {
        let Some(names) = self.names() else { return };
        for (place, source) in names.sources.iter().enumerate() {
            let of = |state: &str| {
                let found = counts.iter().find(|count| &count.source == source && count.state == state);
                found.map_or(0, |count| count.count as u64)
            };
            let held = HeldCounts { waiting: of("waiting"), failed: of("failed"), resolved: of("resolved") };
            self.status.held_counted(SourceIndex(place as u16), held);
        }
    }
}

/// From MongoDB's clock to ours: as good as the two agree.
fn lag_of(written_at: i64) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(Duration::from_millis(written_at.try_into().unwrap_or(0)))
}

fn counted(event: &Event) -> Option<(u16, EventOp)> {
    match &event.kind {
        EventKind::Document { collection, change, .. } => Some((
            collection.0,
            match change {
                ChangeKind::Put(_) => EventOp::Put,
                ChangeKind::Delete => EventOp::Delete,
                ChangeKind::Touch | ChangeKind::Updated => EventOp::Touch,
            },
        )),
        EventKind::Dropped { collection } => Some((collection.0, EventOp::Drop)),
        EventKind::Replaced { collection } => Some((collection.0, EventOp::Replace)),
        EventKind::Discovered(_) => None,
    }
}
