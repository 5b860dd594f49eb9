//! Numbers for Prometheus: one typed struct with its own registry, methods named by the event.
//!
//! Counters are counted here as things happen; everything that has an age or a present state is
//! computed from the status when it is scraped. What is not known has no series, rather than a zero.
//! Labels are bounded by the configuration and by closed lists. `docs/OPERATIONS.md` explains each.

use std::time::Duration;

use prometheus::core::{Atomic, Collector, GenericCounter};
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry,
    TextEncoder,
};

use crate::domain::Reason;
use crate::pipeline::{Role, RowCounts, SnapshotState, SourceStatus, StatusSnapshot};

/// From a commit in MongoDB to the commit in PostgreSQL. Fine around the few milliseconds of a healthy
/// pipeline, coarse up to the half hour of an outage.
const APPLY_LAG_BUCKETS: [f64; 16] =
    [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1800.0];

/// Of the parts of a batch: statement time-outs end them at some tens of seconds.
const STAGE_BUCKETS: [f64; 13] =
    [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 30.0];

const BATCH_ROWS_BUCKETS: [f64; 9] = [1.0, 5.0, 20.0, 100.0, 500.0, 1_000.0, 2_000.0, 5_000.0, 20_000.0];

/// What an event of the stream asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventOp {
    Put,
    Delete,
    Touch,
    /// The collection was dropped or renamed away.
    Drop,
    /// Another collection took the name.
    Replace,
}

impl EventOp {
    fn as_str(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Delete => "delete",
            Self::Touch => "touch",
            Self::Drop => "drop",
            Self::Replace => "replace",
        }
    }
}

/// Where time is spent, and where a retry happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    Lease,
    Stream,
    Snapshot,
    Lookup,
    Transform,
    Write,
    Commit,
}

impl Stage {
    fn as_str(self) -> &'static str {
        match self {
            Self::Lease => "lease",
            Self::Stream => "stream",
            Self::Snapshot => "snapshot",
            Self::Lookup => "lookup",
            Self::Transform => "transform",
            Self::Write => "write",
            Self::Commit => "commit",
        }
    }
}

/// One transaction that was committed, of the stream or of a chunk.
#[derive(Debug, Clone, Copy)]
pub struct BatchSummary<'a> {
    /// Per mapping; two mappings of one table are two entries.
    pub tables: &'a [TableSummary<'a>],
    pub stages: &'a [(Stage, Duration)],
    /// Of the oldest change in the batch: the worst that a reader saw. `None` for a chunk.
    pub apply_lag: Option<Duration>,
}

#[derive(Debug, Clone, Copy)]
pub struct TableSummary<'a> {
    pub table: &'a str,
    /// Changes after coalescing.
    pub puts: u64,
    pub deletes: u64,
    pub rows: RowCounts,
}

/// Counters and histograms; `Sync`, shared by reference.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    events_read: IntCounterVec,
    events_applied: IntCounterVec,
    lookups: IntCounter,
    lookup_missing: IntCounter,
    lookups_spared: IntCounter,
    rows_written: IntCounterVec,
    batch_rows: Histogram,
    batch_duration: HistogramVec,
    apply_lag: Histogram,
    coercions: IntCounterVec,
    held: IntCounterVec,
    retries: IntCounterVec,
    unmapped: IntCounterVec,
    reconcile_runs: IntCounterVec,
    reconcile_documents: IntCounter,
    reconcile_repaired: IntCounter,
}

impl Metrics {
    /// Fails only on a mistake in this file: names and labels are constants.
    pub fn new(version: &str, revision: &str) -> prometheus::Result<Self> {
        let registry = Registry::new();
        let build = GaugeVec::new(
            Opts::new("rowstream_build_info", "Always 1; the labels say which build runs."),
            &["version", "revision"],
        )?;
        build.with_label_values(&[version, revision]).set(1.0);
        registry.register(Box::new(build))?;
        #[cfg(target_os = "linux")]
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;

        let counters = |name, help, labels: &[&str]| {
            register(&registry, IntCounterVec::new(Opts::new(name, help), labels)?)
        };
        let counter = |name, help| register(&registry, IntCounter::new(name, help)?);
        let histogram = |name, help, buckets: &[f64]| {
            let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
            register(&registry, Histogram::with_opts(opts)?)
        };
        Ok(Self {
            events_read: counters(
                "rowstream_events_read_total",
                "Events of the change stream.",
                &["collection", "op"],
            )?,
            events_applied: counters(
                "rowstream_events_applied_total",
                "Changes committed, after coalescing.",
                &["table", "op"],
            )?,
            lookups: counter("rowstream_lookups_total", "Documents that were read again by their id.")?,
            lookup_missing: counter(
                "rowstream_lookup_missing_total",
                "Documents that were gone when they were read again.",
            )?,
            lookups_spared: counter(
                "rowstream_lookups_spared_total",
                "Updates that an earlier look-up had shown already.",
            )?,
            rows_written: counters(
                "rowstream_rows_written_total",
                "Rows inserted, updated and deleted; a row that was equal already is not written.",
                &["table", "op"],
            )?,
            batch_rows: histogram(
                "rowstream_batch_rows",
                "Changes per committed transaction.",
                &BATCH_ROWS_BUCKETS,
            )?,
            batch_duration: register(
                &registry,
                HistogramVec::new(
                    HistogramOpts::new(
                        "rowstream_batch_duration_seconds",
                        "Time spent on a transaction, by its parts.",
                    )
                    .buckets(STAGE_BUCKETS.to_vec()),
                    &["stage"],
                )?,
            )?,
            apply_lag: histogram(
                "rowstream_apply_lag_seconds",
                "From commit in MongoDB to commit in PostgreSQL, of the oldest change of each batch.",
                &APPLY_LAG_BUCKETS,
            )?,
            coercions: counters(
                "rowstream_coercions_total",
                "Values that were altered by a rule of the mapping.",
                &["table", "column", "rule"],
            )?,
            held: counters(
                "rowstream_held_total",
                "Changes that were held, once per attempt.",
                &["source", "reason"],
            )?,
            unmapped: counters(
                "rowstream_unmapped_fields_total",
                "Fields that no mapping reads, in those documents that are looked at for them: one of 16.",
                &["source"],
            )?,
            retries: counters(
                "rowstream_retries_total",
                "Attempts that failed and are repeated.",
                &["stage"],
            )?,
            reconcile_runs: counters(
                "rowstream_reconcile_runs_total",
                "Comparisons of rows with their documents.",
                &["result"],
            )?,
            reconcile_documents: register(
                &registry,
                IntCounter::new(
                    "rowstream_reconcile_documents_checked_total",
                    "Documents that were compared with their rows.",
                )?,
            )?,
            reconcile_repaired: register(
                &registry,
                IntCounter::new(
                    "rowstream_reconcile_repaired_total",
                    "Documents that were read again for a repair.",
                )?,
            )?,
            registry,
        })
    }

    /// `collection` by its full name, from the configuration.
    pub fn events_read(&self, collection: &str, op: EventOp, count: u64) {
        add(&self.events_read.with_label_values(&[collection, op.as_str()]), count);
    }

    /// Documents asked for again, how many of them were gone, and how many updates asked for nothing.
    pub fn looked_up(&self, documents: u64, missing: u64, spared: u64) {
        add(&self.lookups, documents);
        add(&self.lookup_missing, missing);
        add(&self.lookups_spared, spared);
    }

    /// After the commit, never before.
    pub fn batch_committed(&self, batch: &BatchSummary<'_>) {
        let changes: u64 = batch.tables.iter().map(|table| table.puts + table.deletes).sum();
        self.batch_rows.observe(changes as f64);
        for (stage, duration) in batch.stages {
            self.batch_duration.with_label_values(&[stage.as_str()]).observe(duration.as_secs_f64());
        }
        if let Some(lag) = batch.apply_lag {
            self.apply_lag.observe(lag.as_secs_f64());
        }
        for table in batch.tables {
            let name = table.table;
            add(&self.events_applied.with_label_values(&[name, "put"]), table.puts);
            add(&self.events_applied.with_label_values(&[name, "delete"]), table.deletes);
            self.rows_written(name, &table.rows);
        }
    }

    pub fn rows_written(&self, table: &str, rows: &RowCounts) {
        add(&self.rows_written.with_label_values(&[table, "insert"]), rows.inserted);
        add(&self.rows_written.with_label_values(&[table, "update"]), rows.updated);
        add(&self.rows_written.with_label_values(&[table, "delete"]), rows.deleted);
    }

    pub fn coerced(&self, table: &str, column: &str, rule: &'static str, count: u64) {
        add(&self.coercions.with_label_values(&[table, column, rule]), count);
    }

    pub fn held(&self, source: &str, reason: Reason) {
        self.held.with_label_values(&[source, reason.as_str()]).inc();
    }

    /// `result`: the verdict, or `failed` for a comparison that could not be made.
    pub fn reconcile_ended(&self, result: &str, documents: u64) {
        self.reconcile_runs.with_label_values(&[result]).inc();
        add(&self.reconcile_documents, documents);
    }

    pub fn repaired(&self, documents: u64) {
        add(&self.reconcile_repaired, documents);
    }

    pub fn unmapped_seen(&self, source: &str, sightings: u64) {
        add(&self.unmapped.with_label_values(&[source]), sightings);
    }

    pub fn retried(&self, stage: Stage) {
        self.retries.with_label_values(&[stage.as_str()]).inc();
    }

    /// The text format. `checks` are the health checks: name, and 0 ok, 1 degraded, 2 failing.
    pub fn encode(&self, status: &StatusSnapshot, checks: &[(&str, u8)]) -> prometheus::Result<String> {
        let mut families = self.registry.gather();
        families.extend(present_state(status, checks)?.gather());
        families.sort_by(|left, right| left.name().cmp(right.name()));
        TextEncoder::new().encode_to_string(&families)
    }
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> prometheus::Result<C> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

fn add<P: Atomic<T = u64>>(counter: &GenericCounter<P>, count: u64) {
    if count > 0 {
        counter.inc_by(count);
    }
}

/// What is true at this scrape, in a registry of its own.
fn present_state(status: &StatusSnapshot, checks: &[(&str, u8)]) -> prometheus::Result<Registry> {
    let registry = Registry::new();
    let gauge = |name: &str, help: &str, value: Option<f64>| match value {
        Some(value) => register(&registry, Gauge::new(name, help)?).map(|gauge| gauge.set(value)),
        None => Ok(()),
    };
    let leads = status.role == Role::Leader;
    gauge("rowstream_leader", "1 while this process holds the lease.", Some(f64::from(u8::from(leads))))?;
    gauge(
        "rowstream_leader_epoch",
        "Epoch of the lease: one more with each change of leader.",
        status.epoch.map(|epoch| epoch as f64),
    )?;
    gauge(
        "rowstream_source_lag_seconds",
        "How far the source is ahead of what was applied, by the servers' clocks.",
        status.lag.as_ref().map(|lag| lag.present.as_secs_f64()),
    )?;
    gauge(
        "rowstream_checkpoint_age_seconds",
        "Since the checkpoint was last committed.",
        status.checkpoint.as_ref().map(|one| status.at.since(one.committed_at).as_secs_f64()),
    )?;
    gauge(
        "rowstream_last_poll_timestamp_seconds",
        "When the change stream last answered, empty answers included.",
        status.last_poll_at.map(|at| at.unix_seconds()),
    )?;
    gauge(
        "rowstream_last_event_timestamp_seconds",
        "Time in MongoDB of the newest event that was read.",
        status.last_event.as_ref().map(|event| f64::from(event.cluster_time.seconds)),
    )?;
    gauge(
        "rowstream_oplog_window_seconds",
        "From the oldest to the newest entry of the oplog.",
        status.oplog.as_ref().map(|oplog| oplog.window.as_secs_f64()),
    )?;
    gauge(
        "rowstream_oplog_headroom_seconds",
        "How long the pipeline may stand still before its place in the oplog is gone.",
        status.oplog.as_ref().map(|oplog| oplog.headroom.as_secs_f64()),
    )?;
    gauge(
        "rowstream_queue_bytes",
        "Changes in memory, between the stream and the target.",
        Some(status.queue_bytes as f64),
    )?;
    gauge(
        "rowstream_backpressure_active",
        "1 while the stream is not read because the target is slower.",
        Some(f64::from(u8::from(status.backpressure_since.is_some()))),
    )?;
    let health = GaugeVec::new(
        Opts::new("rowstream_health_check", "Each check of /health: 0 ok, 1 degraded, 2 failing."),
        &["check"],
    )?;
    for (check, value) in checks {
        health.with_label_values(&[check]).set(f64::from(*value));
    }
    registry.register(Box::new(health))?;
    gauge(
        "rowstream_reconcile_last_success_timestamp_seconds",
        "When rows were last compared with their documents and nothing differed.",
        status.reconcile.as_ref().filter(|last| last.findings == 0).map(|last| last.finished_at),
    )?;
    mismatches(&registry, status)?;
    resyncs(&registry, status)?;
    per_source(&registry, &status.sources)?;
    Ok(registry)
}

fn mismatches(registry: &Registry, status: &StatusSnapshot) -> prometheus::Result<()> {
    let options =
        Opts::new("rowstream_reconcile_mismatches", "What the last comparison has found to differ.");
    let mismatches = register(registry, GaugeVec::new(options, &["source", "kind"])?)?;
    for (source, kind, count) in status.reconcile.iter().flat_map(|last| &last.mismatches) {
        mismatches.with_label_values(&[source, kind]).set(*count as f64);
    }
    Ok(())
}

fn resyncs(registry: &Registry, status: &StatusSnapshot) -> prometheus::Result<()> {
    let options = Opts::new(
        "rowstream_resync_due",
        "1 while the rows of a source are compared with all of its documents and repaired.",
    );
    let due = register(registry, GaugeVec::new(options, &["source"])?)?;
    status.resyncs.iter().for_each(|resync| due.with_label_values(&[&resync.source]).set(1.0));
    Ok(())
}

fn per_source(registry: &Registry, sources: &[SourceStatus]) -> prometheus::Result<()> {
    let gauges =
        |name, help, labels: &[&str]| register(registry, GaugeVec::new(Opts::new(name, help), labels)?);
    let held = gauges(
        "rowstream_held_changes",
        "Changes in the table of held changes, as they stand.",
        &["source", "state"],
    )?;
    let state =
        gauges("rowstream_snapshot_state", "0 pending, 1 running, 2 done, 3 not asked for.", &["source"])?;
    let estimated = gauges(
        "rowstream_snapshot_documents_estimated",
        "Documents of the collection when its copy began.",
        &["source"],
    )?;
    let eta = gauges(
        "rowstream_snapshot_eta_seconds",
        "Until the copy is complete, by the pace so far.",
        &["source"],
    )?;
    let unmapped = gauges(
        "rowstream_unmapped_paths",
        "Different fields that were seen since the start and that no mapping reads, up to 50.",
        &["source"],
    )?;
    let documents = register(
        registry,
        IntCounterVec::new(
            Opts::new("rowstream_snapshot_documents_total", "Documents copied by the snapshot."),
            &["source"],
        )?,
    )?;
    for one in sources {
        let source = one.source.as_str();
        held.with_label_values(&[source, "waiting"]).set(one.held.waiting as f64);
        held.with_label_values(&[source, "failed"]).set(one.held.failed as f64);
        held.with_label_values(&[source, "resolved"]).set(one.held.resolved as f64);
        state.with_label_values(&[source]).set(state_number(one.snapshot.state));
        add(&documents.with_label_values(&[source]), one.snapshot.documents);
        unmapped.with_label_values(&[source]).set(one.drift.fields.len() as f64);
        if let Some(count) = one.snapshot.documents_estimated {
            estimated.with_label_values(&[source]).set(count as f64);
        }
        if let Some(duration) = one.snapshot.eta {
            eta.with_label_values(&[source]).set(duration.as_secs_f64());
        }
    }
    Ok(())
}

fn state_number(state: SnapshotState) -> f64 {
    match state {
        SnapshotState::Pending => 0.0,
        SnapshotState::Running => 1.0,
        SnapshotState::Done => 2.0,
        SnapshotState::Skipped => 3.0,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::domain::{ClusterTime, SourceIndex};
    use std::sync::Arc;

    use crate::pipeline::{HeldCounts, LastReconcile, Moment, ResyncStatus, Status};

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// A scrape in which everything is known.
    fn scrape() -> String {
        let start = Moment::now();
        let status = Status::new("expenses", "0.1.0", start);
        let venmo = SourceIndex(0);
        status.source_added(venmo, "venmo", "flask_db.venmo", "public.transactions");
        status.became_leader(4, "host/1", start);
        status.polled(start);
        status.event_read(ClusterTime::new(1_756_721_675, 1), start);
        status.checkpoint_committed(ClusterTime::new(1_756_721_675, 1), 9, start);
        status.lag_measured(seconds(2), start.after(seconds(5)));
        status.oplog_measured(seconds(7_200), seconds(7_000));
        status.snapshot_began(venmo, 0, Some(300), start);
        status.chunk_committed(venmo, 100, start.after(seconds(5)));
        status.held_counted(venmo, HeldCounts { waiting: 0, failed: 3, resolved: 1 });

        let metrics = Metrics::new("0.1.0", "abc").expect("metrics");
        metrics.events_read("flask_db.venmo", EventOp::Touch, 7);
        metrics.looked_up(7, 1, 2);
        metrics.coerced("public.transactions", "amount", "scale", 2);
        metrics.held("venmo", Reason::OutOfRange);
        metrics.unmapped_seen("venmo", 2);
        metrics.retried(Stage::Commit);
        metrics.reconcile_ended("passed", 300);
        metrics.repaired(2);
        status.reconciled(LastReconcile {
            run: 1,
            verdict: "passed".to_owned(),
            finished_at: 1_756_721_675.0,
            findings: 0,
            mismatches: vec![("venmo".to_owned(), "missing".to_owned(), 0)],
            report: Arc::default(),
        });
        let (source, cause) = ("venmo".to_owned(), "its mapping has changed".to_owned());
        status.resyncs(vec![ResyncStatus { source, cause, since: 1_756_721_675.0 }]);
        let rows = RowCounts { inserted: 4, updated: 1, unchanged: 2, deleted: 1 };
        metrics.batch_committed(&BatchSummary {
            tables: &[TableSummary { table: "public.transactions", puts: 7, deletes: 1, rows }],
            stages: &[(Stage::Write, Duration::from_millis(3))],
            apply_lag: Some(Duration::from_millis(4)),
        });
        let snapshot = status.snapshot(start.after(seconds(10)));
        metrics.encode(&snapshot, &[("leader", 0), ("held_changes", 1)]).expect("text")
    }

    #[test]
    fn the_names_are_these() {
        let text = scrape();
        let names: Vec<_> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE "))
            .filter(|name| name.starts_with("rowstream_"))
            .collect();
        insta::assert_snapshot!(names.join("\n"), @"
        rowstream_apply_lag_seconds histogram
        rowstream_backpressure_active gauge
        rowstream_batch_duration_seconds histogram
        rowstream_batch_rows histogram
        rowstream_build_info gauge
        rowstream_checkpoint_age_seconds gauge
        rowstream_coercions_total counter
        rowstream_events_applied_total counter
        rowstream_events_read_total counter
        rowstream_health_check gauge
        rowstream_held_changes gauge
        rowstream_held_total counter
        rowstream_last_event_timestamp_seconds gauge
        rowstream_last_poll_timestamp_seconds gauge
        rowstream_leader gauge
        rowstream_leader_epoch gauge
        rowstream_lookup_missing_total counter
        rowstream_lookups_spared_total counter
        rowstream_lookups_total counter
        rowstream_oplog_headroom_seconds gauge
        rowstream_oplog_window_seconds gauge
        rowstream_queue_bytes gauge
        rowstream_reconcile_documents_checked_total counter
        rowstream_reconcile_last_success_timestamp_seconds gauge
        rowstream_reconcile_mismatches gauge
        rowstream_reconcile_repaired_total counter
        rowstream_reconcile_runs_total counter
        rowstream_resync_due gauge
        rowstream_retries_total counter
        rowstream_rows_written_total counter
        rowstream_snapshot_documents_estimated gauge
        rowstream_snapshot_documents_total counter
        rowstream_snapshot_eta_seconds gauge
        rowstream_snapshot_state gauge
        rowstream_source_lag_seconds gauge
        rowstream_unmapped_fields_total counter
        rowstream_unmapped_paths gauge
        ");
        #[cfg(target_os = "linux")]
        assert!(text.contains("process_resident_memory_bytes "));
    }

    #[test]
    fn the_handbook_explains_every_name() {
        let handbook = include_str!("../docs/OPERATIONS.md");
        for line in scrape().lines() {
            if let Some(name) = line.strip_prefix("# TYPE rowstream_").and_then(|rest| rest.split(' ').next())
            {
                assert!(handbook.contains(&format!("| `{name}` |")), "docs/OPERATIONS.md lacks {name}");
            }
        }
    }

    #[test]
    fn every_line_parses_and_every_name_has_help_and_type() {
        let mut described: BTreeMap<String, u8> = BTreeMap::new();
        for line in scrape().lines() {
            if let Some(rest) = line.strip_prefix("# ") {
                let name = rest.split(' ').nth(1).expect("a name").to_owned();
                *described.entry(name).or_default() += 1;
                continue;
            }
            let (series, value) = line.rsplit_once(' ').expect("a value");
            assert!(value.parse::<f64>().is_ok(), "{line}");
            let name = series.split('{').next().expect("a name");
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            let described =
                [Some(name), family].iter().flatten().any(|name| described.get(*name) == Some(&2));
            assert!(described, "no HELP and TYPE: {line}");
        }
    }

    #[test]
    fn what_happened_is_counted_and_what_has_an_age_is_computed_at_the_scrape() {
        let text = scrape();
        for line in [
            r#"rowstream_events_read_total{collection="flask_db.venmo",op="touch"} 7"#,
            r#"rowstream_rows_written_total{op="insert",table="public.transactions"} 4"#,
            r#"rowstream_held_changes{source="venmo",state="failed"} 3"#,
            r#"rowstream_held_total{reason="out_of_range",source="venmo"} 1"#,
            r#"rowstream_snapshot_eta_seconds{source="venmo"} 20"#,
            r#"rowstream_health_check{check="held_changes"} 1"#,
            "rowstream_checkpoint_age_seconds 10",
            "rowstream_source_lag_seconds 2",
            "rowstream_last_event_timestamp_seconds 1756721675",
            "rowstream_leader_epoch 4",
            "rowstream_batch_rows_sum 8",
        ] {
            assert!(text.lines().any(|one| one == line), "missing: {line}\n{text}");
        }
    }

    #[test]
    fn what_is_not_known_has_no_series() {
        let start = Moment::now();
        let status = Status::new("expenses", "0.1.0", start).snapshot(start);
        let text = Metrics::new("0.1.0", "abc").expect("metrics").encode(&status, &[]).expect("text");
        assert!(!text.contains("rowstream_source_lag_seconds"));
        assert!(!text.contains("rowstream_oplog_headroom_seconds"));
        assert!(text.contains("rowstream_leader 0"));
    }
}
