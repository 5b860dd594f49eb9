//! Batches that are one statement, and those that must not be.

use anyhow::{Context, Result, ensure};
use bson::doc;
#[cfg(feature = "failpoints")]
use sqlx::Executor;

use crate::daemon::{Daemon, PATIENCE};
use crate::stage::{Stage, becomes, says};
use crate::support::until;

/// `ways` keeps by which statement each row was written: by that of a whole batch, or not.
const TABLE: &str = "create table notes (source text, source_id text, body text, code int unique deferrable initially deferred,
        primary key (source, source_id));
    create table ways (id bigserial, source_id text, at_once bool, epoch bigint);
    create function note() returns trigger language plpgsql as $$begin
        insert into ways (source_id, at_once, epoch) values (coalesce(new.source_id, old.source_id),
            current_query() like '%rowstream.checkpoint%', (select epoch from rowstream.lease));
        return null; end$$;
    create trigger note after insert or update or delete on notes for each row execute function note()";
const ROWS: &str =
    "select string_agg(concat_ws(' ', source_id, body, code), ', ' order by source_id) from notes";
const HELD: &str = "select coalesce(string_agg(source_id || ' ' || reason, ', ' order by source_id), '')
    from rowstream.held where state <> 'resolved'";

async fn notes(name: &str, fault: &str) -> Result<(Stage, Daemon)> {
    let stage = Stage::new(name).await?;
    stage.execute(TABLE).await?;
    let config = stage.config(&format!(
        "  - {{ source: notes, collection: {}.notes, table: notes, id_type: string,
        columns: {{ body: {{ from: body, required: true }}, code: code }} }}\n",
        stage.name
    ));
    stage.collection("notes").insert_one(doc! { "_id": "a", "body": "one", "code": 1 }).await?;
    let daemon = Daemon::start_in(&config, &[], &[("FAILPOINTS", fault)])?;
    says(&stage, &daemon, ROWS, "a one 1").await?;
    Ok((stage, daemon))
}

/// Of the writes that `ways` has of this row, the last.
async fn was_at_once(stage: &Stage, id: &str) -> Result<bool> {
    let sql = format!("select at_once::text from ways where source_id = '{id}' order by id desc limit 1");
    Ok(stage.text(&sql).await?.with_context(|| format!("nothing was written of {id}"))? == "true")
}

/// A batch may always take the long way, with an event of before, say: one of these must not.
const IDS: [&str; 5] = ["b", "c", "d", "e", "f"];

#[tokio::test]
async fn rows_come_change_and_go_with_their_position_in_one_statement() -> Result<()> {
    let (stage, daemon) = notes("once", "").await?;
    let notes = stage.collection("notes");
    for id in IDS {
        let seq = stage.number("select seq from rowstream.checkpoint").await?;
        let body =
            |body: &str| format!("select count(*) from notes where source_id = '{id}' and body = '{body}'");
        notes.insert_one(doc! { "_id": id, "body": "two" }).await?;
        becomes(&stage, &daemon, &body("two"), 1).await?;
        let came = was_at_once(&stage, id).await?;
        notes.update_one(doc! { "_id": id }, doc! { "$set": { "body": "dos" } }).await?;
        becomes(&stage, &daemon, &body("dos"), 1).await?;
        let changed = was_at_once(&stage, id).await?;
        notes.delete_one(doc! { "_id": id }).await?;
        becomes(&stage, &daemon, &body("dos"), 0).await?;
        let went = was_at_once(&stage, id).await?;
        let moved = stage.number("select seq from rowstream.checkpoint").await? - seq;
        ensure!(moved >= 3, "the position was moved on {moved} times");
        for op in ["insert", "update", "delete"] {
            let name = format!("rowstream_rows_written_total{{op=\"{op}\",table=\"public.notes\"}}");
            // Counted a moment after the commit.
            until(&name, PATIENCE, async || Ok((daemon.metric(&name).await? >= 1.0).then_some(()))).await?;
        }
        if came && changed && went {
            return Ok(());
        }
    }
    anyhow::bail!("all of them went the long way")
}

#[tokio::test]
async fn rows_are_marked_as_gone_in_one_statement_too() -> Result<()> {
    let stage = Stage::new("once_soft").await?;
    stage
        .execute("create table notes (source text, source_id text, n int, gone_at timestamptz, primary key (source, source_id))")
        .await?;
    let config = stage.config(&format!(
        "  - {{ source: notes, collection: {}.notes, table: notes, id_type: string, deletes: {{ soft: gone_at }},
        columns: {{ n: n }} }}\n",
        stage.name
    ));
    let notes = stage.collection("notes");
    notes.insert_many([doc! { "_id": "a" }, doc! { "_id": "b" }]).await?;
    let daemon = Daemon::start(&config)?;
    becomes(&stage, &daemon, "select count(*) from notes where gone_at is null", 2).await?;
    notes.delete_one(doc! { "_id": "a" }).await?;
    let marked =
        "select string_agg(source_id || ' ' || (gone_at is not null), ', ' order by source_id) from notes";
    says(&stage, &daemon, marked, "a true, b false").await?;
    notes.insert_one(doc! { "_id": "a" }).await?;
    says(&stage, &daemon, marked, "a false, b false").await
}

#[tokio::test]
async fn what_is_refused_is_taken_apart_and_what_is_mended_is_held_no_longer() -> Result<()> {
    let (stage, daemon) = notes("once_refused", "").await?;
    let notes = stage.collection("notes");
    // By the transform, by the target at the end of the statement, and well.
    notes
        .insert_many([
            doc! { "_id": "b", "code": 2 },
            doc! { "_id": "c", "body": "three", "code": 1 },
            doc! { "_id": "d", "body": "four", "code": 4 },
        ])
        .await?;
    says(&stage, &daemon, ROWS, "a one 1, d four 4").await?;
    says(&stage, &daemon, HELD, "b missing_required, c unique_violation").await?;
    notes.update_one(doc! { "_id": "b" }, doc! { "$set": { "body": "two" } }).await?;
    notes.update_one(doc! { "_id": "c" }, doc! { "$set": { "code": 3 } }).await?;
    says(&stage, &daemon, ROWS, "a one 1, b two 2, c three 3, d four 4").await?;
    says(&stage, &daemon, HELD, "").await?;
    Ok(())
}

#[tokio::test]
async fn what_was_held_is_resolved_in_the_same_statement() -> Result<()> {
    let (stage, daemon) = notes("once_resolved", "").await?;
    let notes = stage.collection("notes");
    for id in IDS {
        notes.insert_one(doc! { "_id": id }).await?;
        says(&stage, &daemon, HELD, &format!("{id} missing_required")).await?;
        notes.update_one(doc! { "_id": id }, doc! { "$set": { "body": "two" } }).await?;
        says(&stage, &daemon, HELD, "").await?;
        if was_at_once(&stage, id).await? {
            notes.insert_one(doc! { "_id": "z" }).await?;
            says(&stage, &daemon, HELD, "z missing_required").await?;
            notes.delete_one(doc! { "_id": "z" }).await?;
            return says(&stage, &daemon, HELD, "").await;
        }
    }
    anyhow::bail!("all of them went the long way")
}

#[tokio::test]
async fn a_column_that_was_narrowed_meanwhile_rounds_nothing() -> Result<()> {
    let stage = Stage::new("once_narrowed").await?;
    stage
        .execute(
            "create table sums (source text, source_id text, sum numeric, primary key (source, source_id))",
        )
        .await?;
    let config = stage.config(&format!(
        "  - {{ source: sums, collection: {}.sums, table: sums, id_type: string, columns: {{ sum: sum }} }}\n",
        stage.name
    ));
    let sums = stage.collection("sums");
    sums.insert_one(doc! { "_id": "a", "sum": 1.25 }).await?;
    let daemon = Daemon::start(&config)?;
    let rows = "select string_agg(source_id || ' ' || sum, ', ' order by source_id) from sums";
    says(&stage, &daemon, rows, "a 1.25").await?;
    // Often enough that the statement has its final plan.
    for n in 0..10 {
        sums.update_one(doc! { "_id": "a" }, doc! { "$set": { "sum": 2.25 + f64::from(n) } }).await?;
        says(&stage, &daemon, rows, &format!("a {}.25", 2 + n)).await?;
    }
    // Together with the next change: there is no pause in which a session could be compiled anew.
    stage.execute("alter table sums alter sum type numeric(12, 1)").await?;
    sums.insert_one(doc! { "_id": "b", "sum": 7.75 }).await?;
    says(&stage, &daemon, "select reason from rowstream.held where source_id = 'b'", "not_exact").await?;
    ensure!(stage.number("select count(*) from sums where source_id = 'b'").await? == 0, "b was rounded");
    Ok(())
}

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn who_no_longer_leads_when_the_statement_comes_writes_nothing_with_it() -> Result<()> {
    let (stage, daemon) = notes("once_fenced", "at_once=return(250)").await?;
    let notes = stage.collection("notes");
    // The stream may begin before what was copied: it is past that with the next document.
    notes.insert_one(doc! { "_id": "z", "body": "last" }).await?;
    says(&stage, &daemon, ROWS, "a one 1, z last").await?;
    let reached = || daemon.log().iter().filter(|line| line.contains("fail point reached")).count();
    // A slow machine may be too late for one of them.
    for id in IDS {
        let before = reached();
        notes.insert_one(doc! { "_id": id, "body": "one more" }).await?;
        until("the statement", PATIENCE, async || Ok((reached() > before).then_some(()))).await?;
        // As a take-over does: no statement is on its way while it is locked.
        let mut other = stage.postgres().await?;
        other.execute("begin; select from rowstream.lease for update").await?;
        let of_id = format!("from ways where source_id = '{id}'");
        if stage.number(&format!("select count(*) {of_id}")).await? > 0 {
            other.execute("rollback").await?;
            continue;
        }
        let epoch = stage.number("select epoch from rowstream.lease").await?;
        other.execute("update rowstream.lease set epoch = epoch + 1; commit").await?;
        becomes(&stage, &daemon, &format!("select count(*) from notes where source_id = '{id}'"), 1).await?;
        let written = stage.number(&format!("select min(epoch) {of_id}")).await?;
        ensure!(written > epoch + 1, "{id} was written by the leader of epoch {epoch}");
        return Ok(());
    }
    anyhow::bail!("no statement was waited for in time")
}

#[tokio::test]
async fn a_trigger_of_the_whole_statement_fires_for_what_happens_and_for_nothing_else() -> Result<()> {
    let (stage, daemon) = notes("once_statements", "").await?;
    stage
        .execute(
            "create table fired (op text);
             create function fire() returns trigger language plpgsql as $$begin
                 insert into fired values (tg_op); return null; end$$;
             create trigger fire after insert or delete on notes for each statement execute function fire()",
        )
        .await?;
    let fired = "select coalesce(string_agg(distinct op, ' ' order by op), '') from fired";
    let notes = stage.collection("notes");
    for id in IDS {
        let there = format!("select count(*) from notes where source_id = '{id}'");
        notes.insert_one(doc! { "_id": id, "body": "two" }).await?;
        becomes(&stage, &daemon, &there, 1).await?;
        stage.execute("delete from fired").await?;
        notes.delete_one(doc! { "_id": id }).await?;
        becomes(&stage, &daemon, &there, 0).await?;
        if was_at_once(&stage, id).await? && stage.text(fired).await?.as_deref() == Some("DELETE") {
            return Ok(());
        }
    }
    anyhow::bail!("deletes fired more than their own triggers")
}

#[tokio::test]
async fn a_statement_that_rules_do_not_allow_takes_the_long_way() -> Result<()> {
    let (stage, daemon) = notes("once_rules", "").await?;
    // A delete with a rule cannot stand inside of a statement.
    stage
        .execute(
            "create table gone (source_id text);
             create rule gone as on delete to notes do also insert into gone values (old.source_id)",
        )
        .await?;
    let notes = stage.collection("notes");
    notes.insert_one(doc! { "_id": "b", "body": "two" }).await?;
    says(&stage, &daemon, ROWS, "a one 1, b two").await?;
    notes.delete_one(doc! { "_id": "b" }).await?;
    says(&stage, &daemon, ROWS, "a one 1").await?;
    says(&stage, &daemon, "select string_agg(source_id, ' ') from gone", "b").await
}
