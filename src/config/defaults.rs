//! Every default and its bounds: why this number, and what too high or too low costs.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use uuid::{Uuid, uuid};

use super::tree::Setting;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

const fn milliseconds(number: u64) -> Duration {
    Duration::from_millis(number)
}

const fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

const fn minutes(number: u64) -> Duration {
    seconds(number * 60)
}

const fn hours(number: u64) -> Duration {
    minutes(number * 60)
}

const fn days(number: u64) -> Duration {
    hours(number * 24)
}

pub(super) const PIPELINE: &str = "default";

pub(super) const SCHEMA: &str = "public";

/// UUIDv5 of the DNS name `rowstream`: the same everywhere, so that ids can be computed by anybody.
pub(super) const ID_NAMESPACE: Uuid = uuid!("95f5c7b4-e87b-5645-84e5-2e5531347372");

/// A full batch merges in well under a second; a minute is a table in trouble. Too low: large batches
/// never commit on a slow disk. Too high: a stuck statement goes unnoticed for as long.
pub(super) const STATEMENT_TIMEOUT: Setting<Duration> =
    Setting { default: seconds(60), allowed: seconds(1)..=hours(1) };

/// Long enough for an application's short transactions, short enough not to queue others behind us
/// while a migration waits for its lock. Too low: needless retries. Too high: we block a migration.
pub(super) const LOCK_TIMEOUT: Setting<Duration> =
    Setting { default: seconds(5), allowed: milliseconds(100)..=minutes(10) };

/// Frees the rows of a daemon that was stopped inside a transaction. Too low: a paused process loses its
/// batch and repeats it. Too high: a frozen daemon holds its locks for as long.
pub(super) const IDLE_IN_TRANSACTION_TIMEOUT: Setting<Duration> =
    Setting { default: seconds(30), allowed: seconds(1)..=hours(1) };

/// Loopback: nobody else can ask before the operator says so. In a container use `0.0.0.0:8080`.
pub(super) const HTTP_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

pub(super) const LOG_LEVEL: &str = "info";

/// Where the cost of a commit is spread thin enough. Too low: commits dominate, a backlog drains slowly.
/// Too high: more memory, longer locks, and more to repeat after a failure.
pub(super) const BATCH_MAX_CHANGES: Setting<u64> = Setting { default: 5_000, allowed: 1..=1_000_000 };

/// Bounds the memory of a batch of large documents; one document may be 16 MiB by itself. Too low:
/// small batches. Too high: several batches are in memory at once, and each may be this large.
pub(super) const BATCH_MAX_BYTES: Setting<u64> = Setting { default: 8 * MIB, allowed: 64 * KIB..=GIB };

/// Zero: a change is applied at once when nothing else is waiting, and batches grow by themselves under
/// load. Higher: fewer, larger commits, and every change is late by as much.
pub(super) const BATCH_LINGER: Setting<Duration> =
    Setting { default: Duration::ZERO, allowed: Duration::ZERO..=seconds(60) };

/// Connections that copy; half as many chunks again are in work. More: faster on large machines, and more load on
/// the source while its users work.
pub(super) const SNAPSHOT_WORKERS: Setting<u64> = Setting { default: 2, allowed: 1..=64 };

/// About a quarter of a second of work. Too low: the bookkeeping of chunks costs more than their rows. Too high: more
/// to repeat after a restart, and more keys to remember beside the stream.
pub(super) const SNAPSHOT_CHUNK_DOCUMENTS: Setting<u64> = Setting { default: 8_192, allowed: 1..=1_000_000 };

/// Bounds the memory of a chunk of large documents; about five times as much is in memory for each.
pub(super) const SNAPSHOT_CHUNK_BYTES: Setting<u64> = Setting { default: 4 * MIB, allowed: 64 * KIB..=GIB };

/// Keeps a held document for inspection, without filling the state schema with 16 MiB outliers.
pub(super) const HELD_MAX_DOCUMENT_BYTES: Setting<u64> = Setting { default: MIB, allowed: 0..=16 * MIB };

/// A parent that is on its way arrives within seconds. Too low: load without effect.
pub(super) const HELD_RETRY_INITIAL: Setting<Duration> =
    Setting { default: seconds(5), allowed: milliseconds(100)..=hours(24) };

/// How long a repair of the target may go unnoticed. Too low: thousands of held changes are tried again
/// and again. Too high: they stay held long after the cause is gone.
pub(super) const HELD_RETRY_MAX: Setting<Duration> =
    Setting { default: minutes(10), allowed: seconds(1)..=days(7) };

/// With more than half of the last 10,000 changes, a systemic fault. Too low: a bad import stops what could go on.
/// Too high: a wrong mapping drains its collection into `held` before anybody looks.
pub(super) const HELD_LIMIT: Setting<u64> = Setting { default: 1_000, allowed: 0..=1_000_000_000 };

/// What comes in another order comes within minutes. Too low: a slow copy of the parents looks like their
/// absence. Too high: nobody hears of a row that never comes.
pub(super) const HELD_WAITING_LIMIT: Setting<Duration> =
    Setting { default: hours(24), allowed: seconds(1)..=days(3_650) };

/// A week of history to look back on. Higher: a larger `held` table, with documents in it.
pub(super) const HELD_RETENTION: Setting<Duration> =
    Setting { default: days(7), allowed: minutes(1)..=days(3_650) };

/// The time until a standby takes over from a leader that is gone. Too low: a slow heartbeat costs the
/// leader its lease. Too high: a longer gap after a crash.
pub(super) const LEASE_TTL: Setting<Duration> =
    Setting { default: seconds(10), allowed: seconds(2)..=minutes(10) };

/// Lag of a healthy pipeline is well under a second; half a minute is a backlog that people notice.
pub(super) const LAG_DEGRADED: Setting<Duration> =
    Setting { default: seconds(30), allowed: seconds(1)..=days(7) };

/// Lag at which somebody should be woken. Too low: alarms at every bulk load. Too high: stale rows.
pub(super) const LAG_FAILING: Setting<Duration> =
    Setting { default: minutes(5), allowed: seconds(1)..=days(7) };

/// An election takes about 12 s, a fail-over of PostgreSQL some tens: those are weather, not failure.
pub(super) const OUTAGE_FAILING: Setting<Duration> =
    Setting { default: minutes(1), allowed: seconds(1)..=days(7) };

/// The time left to repair an outage before the oplog forgets where we stand. Too low: the warning
/// comes too late. Too high: a warning for ever where the oplog is short.
pub(super) const OPLOG_HEADROOM: Setting<Duration> =
    Setting { default: hours(1), allowed: Duration::ZERO..=days(30) };

/// A leader commits its checkpoint every five seconds, idle or not. Too low: a long transaction looks like
/// an illness. Too high: a stuck pipeline is noticed by its users first.
pub(super) const CHECKPOINT_DEGRADED: Setting<Duration> =
    Setting { default: minutes(1), allowed: seconds(10)..=days(7) };

/// A chunk takes seconds; without a committed one for this long a copy counts as stalled. Too low: large
/// chunks look stalled. Too high: a copy stands still for as long and nobody knows.
pub(super) const SNAPSHOT_DEGRADED: Setting<Duration> =
    Setting { default: minutes(2), allowed: seconds(1)..=days(7) };

/// Spot checks are cheap, and an hour is soon enough to hear of damage that nobody has noticed. Zero: none.
/// Too low: load without news. Too high: damage is found by users first.
pub(super) const RECONCILE_EVERY: Setting<Duration> =
    Setting { default: hours(1), allowed: Duration::ZERO..=days(365) };

/// A thousand of each mapping find damage of one row in a hundred nearly always, and take about a second. Too
/// low: only gross damage is found. Too high: as dear as a comparison of everything.
pub(super) const RECONCILE_SAMPLE: Setting<u64> = Setting { default: 1_000, allowed: 1..=10_000_000 };

/// Never, until somebody says when: it reads every document.
pub(super) const RECONCILE_FULL_EVERY: Setting<Duration> =
    Setting { default: Duration::ZERO, allowed: Duration::ZERO..=days(365) };

/// So few that production does not feel it. Zero: as fast as it goes. Too low: a full comparison takes days.
pub(super) const RECONCILE_DOCUMENTS_PER_SECOND: Setting<u64> =
    Setting { default: 5_000, allowed: 0..=10_000_000 };

/// The pipeline passes a look within seconds. Too low: what differs while it is busy is not judged. Too high:
/// a comparison hangs for as long while the pipeline is behind.
pub(super) const RECONCILE_PATIENCE: Setting<Duration> =
    Setting { default: minutes(1), allowed: seconds(1)..=hours(24) };

/// A month of reports, each of a few kilobytes.
pub(super) const RECONCILE_RETENTION: Setting<Duration> =
    Setting { default: days(30), allowed: minutes(1)..=days(3_650) };

/// Repairs share the way of all changes. Too low: a large repair takes hours. Too high: fresh changes wait
/// behind it.
pub(super) const REPAIRS_PER_SECOND: Setting<u64> = Setting { default: 500, allowed: 1..=1_000_000 };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_namespace_of_ids_never_changes() {
        assert_eq!(ID_NAMESPACE, Uuid::new_v5(&Uuid::NAMESPACE_DNS, b"rowstream"));
    }
}
