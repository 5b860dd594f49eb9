use std::sync::Arc;

use super::*;
use crate::domain::{ClusterTime, Reason, Rejection, SourceIndex};
use crate::pipeline::{HeldCounts, LastReconcile, Status};

const VENMO: SourceIndex = SourceIndex(0);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn limits() -> config::Health {
    config::Health {
        lag_degraded: seconds(30),
        lag_failing: seconds(300),
        outage_failing: seconds(120),
        oplog_headroom: seconds(3_600),
        checkpoint_degraded: seconds(60),
        snapshot_degraded: seconds(120),
    }
}

/// A leader that is well at `now`, and was for an hour.
fn well(now: Moment) -> Status {
    let status = Status::new("expenses", "0.1.0", now);
    status.source_added(VENMO, "venmo", "flask_db.venmo", "public.transactions");
    status.became_leader(3, "host/1", now);
    status.mongodb_up(now);
    status.postgresql_up(now);
    status.polled(now);
    status.checkpoint_committed(ClusterTime::new(100, 1), 5, now);
    status.lag_measured(seconds(1), now);
    status.oplog_measured(seconds(86_400), seconds(80_000));
    status.snapshot_done(VENMO, 10, now);
    status
}

fn check(status: &Status, name: &str, now: Moment) -> Check {
    let health = evaluate(&status.snapshot(now), &limits(), &mut HealthMemory::default());
    health.checks.into_iter().find(|check| check.name == name).expect("a check of that name")
}

/// One way in which a check falls, and how it rises again.
fn compared(verdict: &str, findings: u64, now: Moment) -> LastReconcile {
    LastReconcile {
        run: 7,
        verdict: verdict.to_owned(),
        finished_at: now.unix_seconds(),
        findings,
        mismatches: Vec::new(),
        report: Arc::default(),
    }
}

struct Case {
    check: &'static str,
    falls: fn(&Status, Moment),
    /// Seconds after `falls`, the status then, and the detail.
    then: &'static [(u64, CheckStatus, &'static str)],
    rises: fn(&Status, Moment),
}

const CASES: &[Case] = &[
    Case {
        check: "leader",
        falls: |status, now| status.halted("table public.a is gone", "create it", now),
        then: &[(0, CheckStatus::Failing, "halted: table public.a is gone (create it)")],
        rises: |status, now| status.became_leader(4, "host/1", now),
    },
    Case {
        check: "leader",
        falls: |status, now| status.restarting(now),
        then: &[
            (119, CheckStatus::Degraded, "starting, for 1 min 59 s"),
            (120, CheckStatus::Failing, "starting, for 2 min 0 s"),
        ],
        rises: |status, now| status.became_standby("host/2", now),
    },
    Case {
        check: "mongodb",
        falls: |status, now| status.mongodb_failed("connection refused", now),
        then: &[
            (3, CheckStatus::Degraded, "retrying, 1 failed: connection refused, for 3 s"),
            (120, CheckStatus::Failing, "retrying, 1 failed: connection refused, for 2 min 0 s"),
        ],
        rises: |status, now| status.mongodb_up(now),
    },
    Case {
        check: "postgresql",
        falls: |status, now| status.postgresql_failed("shutting down", now),
        then: &[
            (3, CheckStatus::Degraded, "retrying, 1 failed: shutting down, for 3 s"),
            (7_300, CheckStatus::Failing, "retrying, 1 failed: shutting down, for 2 h 1 min"),
        ],
        rises: |status, now| status.postgresql_up(now),
    },
    Case {
        check: "stream",
        falls: |status, now| status.stream_failed("cursor killed", now),
        then: &[
            (3, CheckStatus::Degraded, "retrying, 1 failed: cursor killed, for 3 s"),
            (200, CheckStatus::Failing, "retrying, 1 failed: cursor killed, for 3 min 20 s"),
        ],
        rises: |status, now| status.polled(now),
    },
    Case {
        check: "stream",
        falls: |status, now| status.halted("history is lost", "", now),
        then: &[(0, CheckStatus::Failing, "halted")],
        rises: |status, now| {
            status.became_leader(4, "host/1", now);
            status.polled(now);
        },
    },
    Case {
        check: "checkpoint",
        falls: |_, _| (),
        then: &[
            (59, CheckStatus::Ok, "moving"),
            (60, CheckStatus::Degraded, "has not moved for 1 min 0 s"),
            (120, CheckStatus::Failing, "has not moved for 2 min 0 s"),
        ],
        rises: |status, now| status.checkpoint_committed(ClusterTime::new(101, 1), 6, now),
    },
    Case {
        check: "lag",
        falls: |status, now| status.lag_measured(seconds(30), now),
        then: &[(0, CheckStatus::Degraded, "30 s behind the source")],
        rises: |status, now| status.lag_measured(Duration::from_millis(12), now),
    },
    Case {
        check: "lag",
        falls: |status, now| status.lag_measured(seconds(2), now),
        then: &[
            (15, CheckStatus::Ok, "2 s behind the source"),
            (40, CheckStatus::Degraded, "42 s behind the source"),
            (298, CheckStatus::Failing, "5 min 0 s behind the source"),
        ],
        rises: |status, now| status.lag_measured(seconds(0), now),
    },
    Case {
        check: "oplog_headroom",
        falls: |status, _| status.oplog_measured(seconds(86_400), seconds(3_599)),
        then: &[(0, CheckStatus::Degraded, "59 min 59 s of a window of 1 d 0 h")],
        rises: |status, _| status.oplog_measured(seconds(86_400), seconds(3_600)),
    },
    Case {
        check: "oplog_headroom",
        falls: |status, _| status.oplog_measured(seconds(3_600), seconds(0)),
        then: &[(0, CheckStatus::Failing, "0 ms of a window of 1 h 0 min: the place in the oplog is gone")],
        rises: |status, _| status.oplog_measured(seconds(86_400), seconds(86_000)),
    },
    Case {
        check: "held_changes",
        falls: |status, now| {
            status.held_counted(VENMO, HeldCounts { waiting: 1, failed: 2, resolved: 4 });
            let rejection =
                Rejection { column: None, reason: Reason::OutOfRange, message: "too large".into() };
            status.change_held(VENMO, &rejection, now);
        },
        then: &[(
            0,
            CheckStatus::Degraded,
            "3 held (1 waiting for a row), most of venmo, last: out_of_range",
        )],
        rises: |status, _| status.held_counted(VENMO, HeldCounts { waiting: 0, failed: 0, resolved: 7 }),
    },
    Case {
        check: "reconcile",
        falls: |status, now| status.reconciled(compared("failed", 3, now)),
        then: &[(60, CheckStatus::Degraded, "3 findings in run 7, 1 min 0 s ago")],
        rises: |status, now| status.reconciled(compared("warning", 0, now)),
    },
    Case {
        check: "snapshot",
        falls: |status, now| status.snapshot_began(VENMO, 0, Some(1_000), now),
        then: &[
            (119, CheckStatus::Ok, "0 of 1 sources copied"),
            (120, CheckStatus::Degraded, "0 of 1 sources copied, no progress for 2 min 0 s"),
        ],
        rises: |status, now| status.chunk_committed(VENMO, 100, now),
    },
];

#[test]
fn every_check_falls_and_rises() {
    for case in CASES {
        let start = Moment::now();
        let status = well(start);
        assert_eq!(check(&status, case.check, start).status, CheckStatus::Ok, "{} at first", case.check);
        (case.falls)(&status, start);
        for (after, expected, detail) in case.then {
            let found = check(&status, case.check, start.after(seconds(*after)));
            assert_eq!((found.status, found.detail.as_str()), (*expected, *detail), "{}", case.check);
        }
        let end = start.after(seconds(10_000));
        (case.rises)(&status, end);
        let risen = check(&status, case.check, end);
        assert_eq!(risen.status, CheckStatus::Ok, "{} rises: {}", case.check, risen.detail);
    }
    let now = Moment::now();
    let health = evaluate(&well(now).snapshot(now), &limits(), &mut HealthMemory::default());
    for check in health.checks {
        assert!(CASES.iter().any(|case| case.check == check.name), "{} is never made to fall", check.name);
    }
}

#[test]
fn health_is_as_bad_as_its_worst_check() {
    let now = Moment::now();
    let status = well(now);
    let worst =
        |status: &Status| evaluate(&status.snapshot(now), &limits(), &mut HealthMemory::default()).status;
    assert_eq!(worst(&status), CheckStatus::Ok);
    status.mongodb_failed("gone", now);
    assert_eq!(worst(&status), CheckStatus::Degraded);
    status.halted("gone", "", now);
    assert_eq!(worst(&status), CheckStatus::Failing);
}

#[test]
fn a_standby_is_well_however_long_it_waits() {
    let start = Moment::now();
    let status = well(start);
    status.became_standby("host/2", start);
    let later = status.snapshot(start.after(seconds(100_000)));
    let health = evaluate(&later, &limits(), &mut HealthMemory::default());
    assert_eq!(health.status, CheckStatus::Ok, "{health:?}");
    let details: Vec<_> =
        health.checks.iter().map(|check| format!("{}: {}", check.name, check.detail)).collect();
    insta::assert_snapshot!(details.join("\n"), @r"
    leader: standby, host/2 leads
    mongodb: not leader
    postgresql: connected
    stream: not leader
    checkpoint: not leader
    lag: not leader
    oplog_headroom: not leader
    held_changes: not leader
    snapshot: not leader
    reconcile: not leader
    ");
}

#[test]
fn a_new_leader_has_time_to_move_its_checkpoint_and_says_how_old_it_is() {
    let start = Moment::now();
    let status = well(start);
    let later = start.after(seconds(5_000));
    status.became_standby("host/2", later);
    status.checkpoint_committed(ClusterTime::new(100, 1), 5, start);
    status.became_leader(4, "host/1", later);
    let found = |after| {
        let found = check(&status, "checkpoint", later.after(seconds(after)));
        (found.status, found.detail)
    };
    assert_eq!(found(30), (CheckStatus::Ok, "1 h 23 min old, to be moved".into()));
    assert_eq!(found(70), (CheckStatus::Degraded, "has not moved for 1 h 24 min".into()));
    assert_eq!(found(130), (CheckStatus::Failing, "has not moved for 1 h 25 min".into()));
}

#[test]
fn sessions_that_end_again_and_again_move_no_checkpoint() {
    let start = Moment::now();
    let status = well(start);
    for session in 1..=20 {
        let now = start.after(seconds(session * 5));
        status.restarting(now);
        status.checkpoint_committed(ClusterTime::new(100, 1), 5, start);
        status.became_leader(3, "host/1", now);
    }
    let found = check(&status, "checkpoint", start.after(seconds(100)));
    assert_eq!(
        (found.status, found.detail.as_str()),
        (CheckStatus::Degraded, "has not moved for 1 min 40 s")
    );
}

#[test]
fn since_is_when_the_status_of_a_check_last_changed() {
    let start = Moment::now();
    let status = well(start);
    let mut memory = HealthMemory::default();
    let mut since = |now: Moment| {
        let health = evaluate(&status.snapshot(now), &limits(), &mut memory);
        health.checks[1].since
    };
    assert_eq!(since(start), start);
    assert_eq!(since(start.after(seconds(5))), start);
    status.mongodb_failed("gone", start.after(seconds(9)));
    assert_eq!(since(start.after(seconds(10))), start.after(seconds(10)));
    assert_eq!(since(start.after(seconds(20))), start.after(seconds(10)));
    assert_eq!(since(start.after(seconds(200))), start.after(seconds(200)), "degraded became failing");
    status.mongodb_up(start.after(seconds(300)));
    assert_eq!(since(start.after(seconds(300))), start.after(seconds(300)));
}
