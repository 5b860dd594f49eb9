//! What has an age: changes that wait for a row, resolved ones, reports. The clock is moved by moving the rows'.

use std::time::Duration;

use anyhow::{Context, Result};
use bson::doc;
use rowstream::domain::{CanonicalId, Reason, Rejection};
use rowstream::state;
use rowstream::state::held::{Backoff, Entry, HeldAs, State, hold};

use crate::daemon::{Daemon, PATIENCE};
use crate::stage::{Stage, says};
use crate::support::until;

/// Notes refer to people by their id, and say how they stand.
async fn notes(name: &str, more: &str) -> Result<(Stage, String)> {
    let stage = Stage::new(name).await?;
    stage
        .execute(
            "create table people (source text, source_id text, name text, primary key (source, source_id));
             create table notes (source text, source_id text, owner text, amount int, sync_status text,
                 sync_error text, last_sync_at timestamptz, primary key (source, source_id))",
        )
        .await?;
    let config = stage.config(&format!(
        "  - {{ source: people, collection: {0}.people, table: people, id_type: string, allow_empty: true,
      columns: {{ name: name }} }}
  - source: notes
    collection: {0}.notes
    table: notes
    id_type: string
    allow_empty: true
    sync: true{more}
    columns: {{ amount: amount, owner: {{ ref: {{ to: people, from: owner, take: name }} }} }}\n",
        stage.name
    ));
    Ok((stage, config.replace("retry_max: 2s", "retry_max: 1s, waiting_limit: 1h")))
}

#[tokio::test]
async fn what_waits_for_too_long_is_told_once_and_still_applied_when_its_row_comes() -> Result<()> {
    let (stage, config) = notes("overdue", "").await?;
    let (people, notes) = (stage.collection("people"), stage.collection("notes"));
    people.insert_one(doc! { "_id": "ann", "name": "Ann" }).await?;
    notes.insert_one(doc! { "_id": "a", "owner": "ann", "amount": 1 }).await?;
    let daemon = Daemon::start(&config)?;
    let row = "select concat_ws(' ', owner, amount, sync_status) from notes";
    says(&stage, &daemon, row, "Ann 1 SYNCED").await?;
    notes.update_one(doc! { "_id": "a" }, doc! { "$set": { "owner": "bob", "amount": 2 } }).await?;
    says(&stage, &daemon, row, "Ann 1 PENDING").await?;
    says(&stage, &daemon, "select state from rowstream.held where attempts > 1", "waiting").await?;
    until("health to say that it waits", PATIENCE, async || {
        Ok(daemon.detail("held_changes").await?.contains("1 held (1 wait").then_some(()))
    })
    .await?;
    assert!(!daemon.log().iter().any(|line| line.contains("waited_too_long")));

    stage.execute("update rowstream.held set waiting_since = waiting_since - interval '2 hours'").await?;
    let line = daemon.logged("\"event\":\"waited_too_long\"").await?;
    for told in ["\"severity\":\"error\"", "\"source\":\"notes\"", "\"count\":1", "held.waiting_limit"] {
        assert!(line.contains(told), "{told} is not in {line}");
    }
    says(&stage, &daemon, row, "Ann 1 FAILED").await?;
    says(
        &stage,
        &daemon,
        "select concat_ws(' ', state, reason) from rowstream.held",
        "failed unresolved_reference",
    )
    .await?;
    let attempts = stage.number("select attempts from rowstream.held").await?;
    says(&stage, &daemon, &format!("select attempts > {attempts} + 1 from rowstream.held"), "true").await?;
    assert_eq!(daemon.log().iter().filter(|line| line.contains("waited_too_long")).count(), 1);
    let (_, answer) = daemon.get("/status/notes/a").await?;
    assert!(answer.contains("\"failed\""), "{answer}");
    until("figures that say so", PATIENCE, async || {
        let (_, metrics) = daemon.get("/metrics").await?;
        let failed = "rowstream_held_changes{source=\"notes\",state=\"failed\"} 1";
        Ok((metrics.contains(failed) && !daemon.detail("held_changes").await?.contains("wait")).then_some(()))
    })
    .await?;

    people.insert_one(doc! { "_id": "bob", "name": "Bob" }).await?;
    says(&stage, &daemon, row, "Bob 2 SYNCED").await?;
    says(&stage, &daemon, "select state from rowstream.held", "resolved").await?;
    daemon.check_becomes("held_changes", &["ok"]).await?;
    Ok(())
}

#[tokio::test]
async fn a_critical_mapping_waits_for_a_row_that_comes_later_and_halts_only_for_a_fault() -> Result<()> {
    let (stage, config) = notes("critical_waits", "\n    critical: true").await?;
    let (people, notes) = (stage.collection("people"), stage.collection("notes"));
    let daemon = Daemon::start(&config)?;
    notes.insert_one(doc! { "_id": "a", "owner": "ann", "amount": 1 }).await?;
    says(&stage, &daemon, "select state from rowstream.held", "waiting").await?;
    people.insert_one(doc! { "_id": "ann", "name": "Ann" }).await?;
    says(&stage, &daemon, "select concat_ws(' ', owner, amount) from notes", "Ann 1").await?;
    daemon.check_becomes("leader", &["ok"]).await?;
    assert!(!daemon.log().iter().any(|line| line.contains("\"event\":\"halted\"")));

    // One that waits and one that is bad: the bad one counts.
    notes
        .insert_many([
            doc! { "_id": "b", "owner": "bob", "amount": 2 },
            doc! { "_id": "c", "owner": "ann", "amount": "none" },
        ])
        .await?;
    let line = daemon.logged("\"event\":\"halted\"").await?;
    assert!(line.contains("notes is critical") && line.contains("column amount"), "{line}");
    assert_eq!(stage.number("select count(*) from rowstream.held where state = 'failed'").await?, 0);
    notes.delete_one(doc! { "_id": "c" }).await?;
    daemon.check_becomes("leader", &["ok"]).await?;
    Ok(())
}

#[tokio::test]
async fn resolved_changes_and_reports_go_when_their_retention_ends_and_no_others() -> Result<()> {
    let (stage, config) = notes("retention", "").await?;
    let notes = stage.collection("notes");
    let bad = |id: &str| doc! { "_id": id, "amount": "none" };
    notes.insert_many(["old", "new", "open"].map(bad)).await?;
    let config = format!("{config}reconcile: {{ every: 1s, retention: 30d }}\n");
    let daemon = Daemon::start(&config)?;
    says(&stage, &daemon, "select count(*) from rowstream.held where state = 'failed'", "3").await?;
    notes.update_many(doc! { "_id": { "$ne": "open" } }, doc! { "$set": { "amount": 1 } }).await?;
    says(&stage, &daemon, "select count(*) from rowstream.held where state = 'resolved'", "2").await?;
    assert!(daemon.stop().await?.success());
    stage
        .execute(
            "update rowstream.held set resolved_at = resolved_at - interval '6 days';
             update rowstream.held set resolved_at = resolved_at - interval '2 days' where source_id = 'old';
             update rowstream.held set first_held_at = first_held_at - interval '90 days' where source_id = 'open';
             delete from rowstream.reconcile_run;
             insert into rowstream.reconcile_run (pipeline, extent, cause, state, started_at, finished_at, report)
             select 'test', 'full', 'command', 'done', now() - age, now() - age, '{}'
             from unnest(array['31 days', '29 days']::interval[]) as age",
        )
        .await?;
    let daemon = Daemon::start(&config)?;
    let held = "select string_agg(source_id, ' ' order by source_id) from rowstream.held";
    says(&stage, &daemon, held, "new open").await?;
    let old = "select count(*) from rowstream.reconcile_run where finished_at < now() - interval '30 days'";
    says(&stage, &daemon, old, "0").await?;
    let young = "select count(*) from rowstream.reconcile_run where finished_at < now() - interval '1 day'";
    assert_eq!(stage.number(young).await?, 1);
    Ok(())
}

fn entry(source_id: &str, reason: Reason, document: usize) -> Entry {
    Entry {
        source_id: source_id.to_owned(),
        id: CanonicalId::from_value(2, source_id.as_bytes()),
        rejection: Rejection { column: None, reason, message: reason.as_str().to_owned() },
        collision: None,
        document: (document > 0).then(|| vec![0; document]),
        document_bytes: Some(document as i64),
    }
}

/// What was a fault for days and then waits for a row begins to wait only then.
#[tokio::test]
async fn the_age_of_a_wait_begins_with_the_wait() -> Result<()> {
    const WAITS: Reason = Reason::UnresolvedReference;
    const FAULT: Reason = Reason::WrongType;
    let stage = Stage::new("wait_begins").await?;
    let mut connection = stage.postgres().await?;
    state::migrate(&mut connection).await?;
    let (initial, max) = (Duration::from_secs(1), Duration::from_secs(1));
    let backoff = Backoff { initial, max, waiting_limit: Duration::from_secs(3_600) };
    let days = "update rowstream.held set first_held_at = now() - interval '9 days', waiting_since = waiting_since - interval '9 days'";
    let as_what =
        |state, is_new_fault, is_overdue| HeldAs { state, is_new_fault, is_overdue, collides_anew: false };
    for (reason, expected) in [
        (FAULT, as_what(State::Failed, true, false)),
        (WAITS, as_what(State::Waiting, false, false)),
        (WAITS, as_what(State::Failed, false, true)),
        // Told once.
        (WAITS, as_what(State::Failed, false, false)),
        (FAULT, as_what(State::Failed, false, false)),
        (WAITS, as_what(State::Waiting, false, false)),
    ] {
        let held = hold(&mut connection, "p", "s", "public.t (source_id)", &[entry("a", reason, 0)], backoff)
            .await?;
        assert_eq!(held, [expected]);
        if expected.state == State::Waiting {
            let again =
                hold(&mut connection, "p", "s", "public.t (source_id)", &[entry("a", reason, 0)], backoff)
                    .await?;
            assert_eq!(
                again,
                [as_what(State::Waiting, false, false)],
                "it has waited for a moment, not for days"
            );
        }
        stage.execute(days).await?;
    }
    Ok(())
}

/// More than one statement takes: in the order in which they came, and of two with one key the last one.
#[tokio::test]
async fn thousands_of_changes_are_held_at_once_each_with_its_own_reason() -> Result<()> {
    let stage = Stage::new("held_many").await?;
    let mut connection = stage.postgres().await?;
    state::migrate(&mut connection).await?;
    let second = Duration::from_secs(1);
    let backoff = Backoff { initial: second, max: second, waiting_limit: second };
    let reasons = [Reason::UnresolvedReference, Reason::TooLong, Reason::OutOfRange];
    let mut entries: Vec<Entry> = (0..2_500)
        .map(|n| entry(&format!("id {n}"), reasons[n % 3], if n % 100 == 0 { 600_000 } else { 10 }))
        .collect();
    entries.push(entry("id 2499", Reason::Constraint, 0));
    let held = hold(&mut connection, "p", "s", "public.t (source_id)", &entries, backoff).await?;
    assert_eq!(held.len(), entries.len());
    for (n, held) in held.iter().take(2_000).enumerate() {
        assert_eq!(held.state, if n % 3 == 0 { State::Waiting } else { State::Failed }, "{n}");
    }
    let counted = "select string_agg(reason || ' ' || count, ', ' order by reason) from
        (select reason, count(*) from rowstream.held where length(document) in (10, 600000) or document is null group by 1) as c";
    let counted = stage.text(counted).await?.context("nothing is held")?;
    assert_eq!(counted, "constraint 1, out_of_range 833, too_long 833, unresolved_reference 833");
    Ok(())
}
