//! Is it well? One pure function over a snapshot of the status; every check can fall and can rise.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::config;
use crate::pipeline::{Link, LinkState, Moment, Role, SnapshotState, StatusSnapshot};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckStatus {
    Ok,
    /// Works, or will again by itself; somebody should look today.
    Degraded,
    /// Somebody should look now.
    Failing,
}

impl CheckStatus {
    /// As in `rowstream_health_check`.
    pub fn as_number(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Degraded => 1,
            Self::Failing => 2,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Failing => "failing",
        }
    }
}

/// The answer of `/health`: as bad as its worst check.
#[derive(Debug, Clone, Serialize)]
pub struct Health {
    pub status: CheckStatus,
    pub checks: Vec<Check>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Check {
    pub name: &'static str,
    pub status: CheckStatus,
    /// When `status` last became what it is.
    pub since: Moment,
    pub detail: String,
}

/// What each check was, and since when: the only memory health has.
#[derive(Debug, Default)]
pub struct HealthMemory(HashMap<&'static str, (CheckStatus, Moment)>);

impl HealthMemory {
    fn since(&mut self, name: &'static str, status: CheckStatus, now: Moment) -> Moment {
        let entry = self.0.entry(name).or_insert((status, now));
        if entry.0 != status {
            *entry = (status, now);
        }
        entry.1
    }
}

/// What one check finds.
#[derive(Debug)]
struct Finding {
    status: CheckStatus,
    detail: String,
}

fn ok(detail: impl fmt::Display) -> Finding {
    Finding { status: CheckStatus::Ok, detail: detail.to_string() }
}

fn degraded(detail: impl fmt::Display) -> Finding {
    Finding { status: CheckStatus::Degraded, detail: detail.to_string() }
}

fn failing(detail: impl fmt::Display) -> Finding {
    Finding { status: CheckStatus::Failing, detail: detail.to_string() }
}

/// Pure but for the memory: the present time is `status.at`.
pub fn evaluate(status: &StatusSnapshot, limits: &config::Health, memory: &mut HealthMemory) -> Health {
    let findings = [
        ("leader", leader(status, limits)),
        ("mongodb", mongodb(status, limits)),
        ("postgresql", link(&status.postgresql, status.at, limits)),
        ("stream", followed(status, limits)),
        ("checkpoint", while_leading(status, |status| checkpoint(status, limits))),
        ("lag", while_leading(status, |status| lag(status, limits))),
        ("oplog_headroom", while_leading(status, |status| oplog_headroom(status, limits))),
        ("held_changes", while_leading(status, held_changes)),
        ("snapshot", while_leading(status, |status| snapshot(status, limits))),
        ("reconcile", while_leading(status, reconcile)),
    ];
    let checks: Vec<_> = findings
        .into_iter()
        .map(|(name, Finding { status: found, detail })| Check {
            name,
            status: found,
            since: memory.since(name, found, status.at),
            detail,
        })
        .collect();
    let worst = checks.iter().map(|check| check.status).max().unwrap_or(CheckStatus::Ok);
    Health { status: worst, checks }
}

/// Below this, an oplog has only begun, and nothing can have fallen out of it yet.
const YOUNG_OPLOG: Duration = Duration::from_secs(60);

/// A standby asks PostgreSQL alone, so it knows nothing of MongoDB.
fn mongodb(status: &StatusSnapshot, limits: &config::Health) -> Finding {
    match status.role {
        Role::Standby => ok("not leader"),
        _ => link(&status.mongodb, status.at, limits),
    }
}

/// Who has led before and must begin again does not follow the stream meanwhile.
fn followed(status: &StatusSnapshot, limits: &config::Health) -> Finding {
    match status.role {
        Role::Starting if status.has_started => {
            outage(status.role_since, status.at, limits, "closed until the session has started again")
        }
        _ => while_leading(status, |status| stream(status, limits)),
    }
}

/// What only a leader can know is no complaint about anybody else. A halted pipeline still owes it.
fn while_leading(status: &StatusSnapshot, check: impl FnOnce(&StatusSnapshot) -> Finding) -> Finding {
    match status.role {
        Role::Leader | Role::Halted => check(status),
        Role::Starting | Role::Standby => ok("not leader"),
        Role::Stopping => ok("stopping"),
    }
}

/// Bad from the first moment, worse after the configured outage.
fn outage(since: Moment, now: Moment, limits: &config::Health, what: impl fmt::Display) -> Finding {
    let length = now.since(since);
    let detail = format!("{what}, for {}", Span(length));
    if length >= limits.outage_failing { failing(detail) } else { degraded(detail) }
}

fn leader(status: &StatusSnapshot, limits: &config::Health) -> Finding {
    match status.role {
        Role::Leader => match status.epoch {
            Some(epoch) => ok(format_args!("leader, epoch {epoch}")),
            None => ok("leader"),
        },
        Role::Standby => match &status.owner {
            Some(owner) => ok(format_args!("standby, {owner} leads")),
            None => ok("standby"),
        },
        Role::Starting => outage(status.role_since, status.at, limits, "starting"),
        Role::Stopping => degraded("stopping"),
        Role::Halted => match &status.halt {
            Some(halt) if halt.hint.is_empty() => failing(format_args!("halted: {}", halt.reason)),
            Some(halt) => failing(format_args!("halted: {} ({})", halt.reason, halt.hint)),
            None => failing("halted"),
        },
    }
}

fn link(link: &Link, now: Moment, limits: &config::Health) -> Finding {
    match link.state {
        LinkState::Up => ok("connected"),
        LinkState::Connecting => outage(link.since, now, limits, "not connected yet"),
        LinkState::Retrying => {
            let error = link.last_error.as_deref().unwrap_or("no error text");
            outage(link.since, now, limits, format_args!("retrying, {} failed: {error}", link.failures))
        }
    }
}

fn stream(status: &StatusSnapshot, limits: &config::Health) -> Finding {
    if status.role == Role::Halted {
        return failing("halted");
    }
    let stream = &status.stream;
    match stream.state {
        LinkState::Up => ok("live"),
        LinkState::Connecting => outage(stream.since, status.at, limits, "opening"),
        LinkState::Retrying => link(stream, status.at, limits),
    }
}

fn checkpoint(status: &StatusSnapshot, limits: &config::Health) -> Finding {
    let leading_since = status.leading_since.unwrap_or(status.role_since);
    let committed_at = status.checkpoint.as_ref().map(|checkpoint| checkpoint.committed_at);
    let age = status.at.since(committed_at.unwrap_or(leading_since));
    // A new leader has had no time to commit one.
    let owed = age.min(status.at.since(leading_since));
    if owed < limits.checkpoint_degraded {
        return match committed_at {
            None => ok("none yet"),
            Some(_) if age < limits.checkpoint_degraded => ok("moving"),
            Some(_) => ok(format_args!("{} old, to be moved", Span(age))),
        };
    }
    let detail = format!("has not moved for {}", Span(age));
    if owed >= limits.outage_failing.max(limits.checkpoint_degraded) {
        failing(detail)
    } else {
        degraded(detail)
    }
}

fn lag(status: &StatusSnapshot, limits: &config::Health) -> Finding {
    let Some(lag) = status.lag.as_ref().map(|lag| lag.present) else {
        return ok("not known yet");
    };
    let detail = format!("{} behind the source", Span(lag));
    if lag >= limits.lag_failing {
        failing(detail)
    } else if lag >= limits.lag_degraded {
        degraded(detail)
    } else {
        ok(detail)
    }
}

fn oplog_headroom(status: &StatusSnapshot, limits: &config::Health) -> Finding {
    let Some(oplog) = &status.oplog else {
        return ok("not known: needs the role clusterMonitor, or read on local.oplog.rs");
    };
    let detail = format!("{} of a window of {}", Span(oplog.headroom), Span(oplog.window));
    // The oplog's times have whole seconds: at its very beginning everything is zero.
    if oplog.headroom.is_zero() && oplog.window > YOUNG_OPLOG {
        failing(format_args!("{detail}: the place in the oplog is gone"))
    } else if oplog.headroom < limits.oplog_headroom && oplog.headroom < oplog.window.mul_f64(0.75) {
        // A short oplog that is used up by nobody is a young one, not a scarce one.
        degraded(detail)
    } else {
        ok(detail)
    }
}

fn held_changes(status: &StatusSnapshot) -> Finding {
    let held: Vec<_> = status.sources.iter().filter(|source| source.held.open() > 0).collect();
    let total: u64 = held.iter().map(|source| source.held.open()).sum();
    let waiting: u64 = held.iter().map(|source| source.held.waiting).sum();
    let Some(worst) = held.iter().max_by_key(|source| source.held.open()) else {
        return ok("none");
    };
    let reason = match &worst.last_rejection {
        Some(last) => format!(", last: {}", last.reason.as_str()),
        None => String::new(),
    };
    let waiting = match waiting {
        0 => String::new(),
        waiting => format!(" ({waiting} waiting for a row)"),
    };
    degraded(format_args!("{total} held{waiting}, most of {}{reason}", worst.source))
}

fn snapshot(status: &StatusSnapshot, limits: &config::Health) -> Finding {
    let wanted = || status.sources.iter().filter(|source| source.snapshot.state != SnapshotState::Skipped);
    let total = wanted().count();
    let done = wanted().filter(|source| source.snapshot.state == SnapshotState::Done).count();
    if done == total {
        return ok(if total == 0 {
            "not asked for".to_owned()
        } else {
            format!("complete, {total} sources")
        });
    }
    let leading_since = status.leading_since.unwrap_or(status.role_since);
    let moved = status.snapshot_moved_at.map_or(leading_since, |at| at.later_of(leading_since));
    let age = status.at.since(moved);
    if age >= limits.snapshot_degraded {
        return degraded(format_args!("{done} of {total} sources copied, no progress for {}", Span(age)));
    }
    ok(format_args!("{done} of {total} sources copied"))
}

/// Rows that differ do no harm to the pipeline, but somebody should look.
fn reconcile(status: &StatusSnapshot) -> Finding {
    if let [first, others @ ..] = status.resyncs.as_slice() {
        let age = Span(Duration::from_secs_f64((status.at.unix_seconds() - first.since).max(0.0)));
        let and = if others.is_empty() { String::new() } else { format!(" and {} more", others.len()) };
        let (source, cause) = (&first.source, &first.cause);
        return degraded(format_args!("a re-sync of {source}{and} is under way for {age}: {cause}"));
    }
    let Some(last) = &status.reconcile else { return ok("nothing was compared yet") };
    let age = Span(Duration::from_secs_f64((status.at.unix_seconds() - last.finished_at).max(0.0)));
    let run = last.run;
    match last.verdict.as_str() {
        "failed" => degraded(format_args!("{} findings in run {run}, {age} ago", last.findings)),
        verdict => ok(format_args!("{verdict}, run {run}, {age} ago")),
    }
}

/// A duration as people say it: `850 ms`, `12 s`, `3 min 5 s`, `2 h 10 min`, `3 d 4 h`.
struct Span(Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        match seconds {
            0 => write!(f, "{} ms", self.0.as_millis()),
            1..60 => write!(f, "{seconds} s"),
            60..3_600 => write!(f, "{} min {} s", seconds / 60, seconds % 60),
            3_600..86_400 => write!(f, "{} h {} min", seconds / 3_600, seconds / 60 % 60),
            _ => write!(f, "{} d {} h", seconds / 86_400, seconds / 3_600 % 24),
        }
    }
}

#[cfg(test)]
mod tests;
