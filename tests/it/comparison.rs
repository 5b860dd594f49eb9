//! `verify` finds every kind of damage, names it, and nothing else; and it never says that all is well when it
//! is not.

use std::collections::BTreeSet;
use std::process::Output;

use anyhow::{Context, Result, ensure};
use bson::{DateTime, Decimal128, Document, doc};
use serde_json::Value;

use crate::daemon::{self, Daemon, PATIENCE};
use crate::stage::Stage;
use crate::support::until;

const ORDERS: &str = "create table orders (
    source text, source_id text, amount numeric, note text, payload json, at timestamptz, first_seen text,
    primary key (source, source_id))";

pub(crate) async fn orders(name: &str) -> Result<(Stage, String)> {
    let stage = Stage::new(name).await?;
    stage.execute(ORDERS).await?;
    let config = stage.config(&format!(
        "  - source: orders
    collection: {}.orders
    table: orders
    id_type: int
    allow_empty: true
    columns:
      amount: amount
      note: note
      payload: {{ from: payload, as: json }}
      at: at
      first_seen: {{ from: note, write: insert }}\n",
        stage.name
    ));
    Ok((stage, config))
}

pub(crate) fn order(n: i64) -> Result<Document> {
    Ok(doc! {
        "_id": n, "amount": "1.10".parse::<Decimal128>()?, "note": format!("note {n}"),
        "payload": { "n": n, "list": [1, 2] }, "at": DateTime::from_millis(1_700_000_000_000 + n),
    })
}

/// Copies what is there, and leaves nobody following.
pub(crate) async fn copied(config: &str) -> Result<()> {
    let daemon = Daemon::start_with(config, &["--until-caught-up"])?;
    let status = daemon.ends().await?;
    ensure!(status.success(), "the copy ended with {status}");
    Ok(())
}

pub(crate) async fn filled(name: &str, count: i64) -> Result<(Stage, String)> {
    let (stage, config) = orders(name).await?;
    let documents: Vec<Document> = (0..count).map(order).collect::<Result<_>>()?;
    for part in documents.chunks(10_000) {
        stage.collection("orders").insert_many(part).await?;
    }
    copied(&config).await?;
    Ok((stage, config))
}

/// A report, and its exit status.
pub(crate) fn verify(config: &str, arguments: &[&str]) -> Result<(Value, i32)> {
    let all = [&["verify", "--output", "json"], arguments].concat();
    let output = daemon::command(&all, config)?;
    let code = output.status.code().context("killed")?;
    Ok((serde_json::from_slice(&output.stdout).with_context(|| words(&output))?, code))
}

pub(crate) fn words(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Each finding as "kind key columns".
pub(crate) fn found(report: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for source in report["sources"].as_array().into_iter().flatten() {
        for group in source["groups"].as_array().into_iter().flatten() {
            let columns: Vec<&str> =
                group["columns"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            for key in group["keys"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                let kind = group["kind"].as_str().unwrap_or_default();
                found.insert(format!("{kind} {key} {}", columns.join(",")).trim_end().to_owned());
            }
        }
    }
    found
}

pub(crate) fn set(texts: &[&str]) -> BTreeSet<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[tokio::test]
async fn a_copy_that_is_right_has_no_findings() -> Result<()> {
    let (_stage, config) = filled("verify_clean", 50).await?;
    let (report, code) = verify(&config, &[])?;
    assert_eq!((code, report["verdict"].as_str()), (0, Some("passed")), "{report:#}");
    let source = &report["sources"][0];
    assert_eq!((source["documents"].as_u64(), source["compared"].as_u64()), (Some(50), Some(50)));
    assert_eq!((source["rows"].as_u64(), source["held"].as_u64()), (Some(50), Some(0)));
    Ok(())
}

#[tokio::test]
async fn every_kind_of_damage_is_found_and_named_and_nothing_else() -> Result<()> {
    let (stage, config) = filled("verify_damage", 300).await?;
    stage
        .execute(
            "update orders set amount = 1.1 where source_id = '1';
             update orders set payload = '{\"n\":2,\"list\":[1,2] }' where source_id = '2';
             update orders set note = null where source_id = '3';
             update orders set at = at + interval '1 microsecond' where source_id = '4';
             update orders set note = 'x', amount = null where source_id = '5';
             delete from orders where source_id = '6';
             update orders set first_seen = 'left alone' where source_id = '7';
             insert into orders (source, source_id) values ('orders', '1000'), ('elsewhere', '1001')",
        )
        .await?;
    let (report, code) = verify(&config, &[])?;
    let expected = set(&[
        "different 1 amount",
        "different 2 payload",
        "different 3 note",
        "different 4 at",
        "different 5 amount,note",
        "missing 6",
        "extra 1000",
    ]);
    assert_eq!(found(&report), expected, "{report:#}");
    assert_eq!((code, report["verdict"].as_str()), (1, Some("failed")));
    // Comparing has changed nothing: what is put right is right.
    stage.execute("delete from orders where source_id = '1000'").await?;
    let again = verify(&config, &[])?;
    assert_eq!(found(&again.0).len(), expected.len() - 1);
    let oldest = |report: &Value| report["sources"][0]["oldest"].as_f64();
    assert!(oldest(&report).is_some() && oldest(&again.0) == oldest(&report), "what is found again is older");
    let text = words(&daemon::command(&["verify"], &config)?);
    let at = "select to_char(min(first_found_at) at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS')
        from rowstream.reconcile_finding";
    let told = format!("the oldest of these was found at {}", stage.text(at).await?.context("no finding")?);
    assert!(text.contains(&told), "{told}: {text}");
    let kept = "select count(*) from rowstream.reconcile_finding";
    assert_eq!(stage.number(kept).await?, expected.len() as i64 - 1, "what is over is forgotten");
    Ok(())
}

#[tokio::test]
async fn a_table_that_was_emptied_is_found_and_told_in_one_line() -> Result<()> {
    let (stage, config) = filled("verify_truncated", 500).await?;
    stage.execute("truncate orders").await?;
    for arguments in [&[][..], &["--sample", "10"]] {
        let (report, code) = verify(&config, arguments)?;
        let groups = &report["sources"][0]["groups"];
        assert_eq!(code, 1);
        assert_eq!(groups.as_array().map(Vec::len), Some(1), "{report:#}");
        assert!(groups[0]["hint"].as_str().is_some_and(|hint| hint.contains("emptied")), "{report:#}");
    }
    let output = daemon::command(&["verify"], &config)?;
    let text = words(&output);
    assert!(text.contains("✗ orders") && text.contains("✗ 500 missing (public.orders)"), "{text}");
    Ok(())
}

#[tokio::test]
async fn changes_that_nobody_has_applied_are_told_apart_and_are_no_findings() -> Result<()> {
    let (stage, config) = filled("verify_pending", 30).await?;
    let orders = stage.collection("orders");
    orders.update_one(doc! { "_id": 1_i64 }, doc! { "$set": { "note": "changed" } }).await?;
    orders.delete_one(doc! { "_id": 2_i64 }).await?;
    orders.insert_one(order(100)?).await?;
    stage.execute("update orders set note = 'damaged' where source_id = '3'").await?;
    let (report, code) = verify(&config, &[])?;
    assert_eq!(found(&report), set(&["different 3 note"]), "{report:#}");
    assert_eq!((code, report["sources"][0]["pending"].as_u64()), (1, Some(3)));
    stage.execute("update orders set note = 'note 3' where source_id = '3'").await?;
    let (report, code) = verify(&config, &[])?;
    assert_eq!((code, report["verdict"].as_str()), (0, Some("warning")), "{report:#}");
    assert_eq!(verify(&config, &["--strict"])?.1, 1);
    Ok(())
}

#[tokio::test]
async fn a_held_document_is_counted_and_one_that_is_lost_is_a_finding() -> Result<()> {
    let (stage, config) = filled("verify_held", 20).await?;
    let orders = stage.collection("orders");
    for n in [3_i64, 4] {
        orders.update_one(doc! { "_id": n }, doc! { "$set": { "amount": "much" } }).await?;
    }
    let daemon = Daemon::start(&config)?;
    let held = "select count(*) from rowstream.held where state <> 'resolved'";
    until("two held documents", PATIENCE, async || {
        Ok((stage.number(held).await.ok() == Some(2)).then_some(()))
    })
    .await?;
    assert!(daemon.stop().await?.success());
    let (report, code) = verify(&config, &[])?;
    assert_eq!((code, report["sources"][0]["held"].as_u64()), (0, Some(2)), "{report:#}");
    stage.execute("delete from rowstream.held where source_id = '4'").await?;
    let (report, code) = verify(&config, &[])?;
    assert_eq!((code, found(&report)), (1, set(&["not_held 4 amount"])), "{report:#}");
    Ok(())
}

const RELATED: &str = "
    create table customers (id serial primary key, mongo_id text not null unique, name text);
    create table tags (id integer primary key, name text not null, names jsonb);
    create table invoices (id serial primary key, mongo_id text not null unique, total numeric,
        customer_id integer references customers);
    create table invoice_lines (id text primary key, invoice_id integer not null references invoices on delete cascade,
        position integer not null, title text, unique (invoice_id, position));
    create table invoice_tags (invoice_id integer not null references invoices on delete cascade,
        tag_id integer not null references tags, primary key (invoice_id, tag_id));
    select setval('customers_id_seq', 1000); select setval('invoices_id_seq', 5000);";

/// References, children, pairs, and rows that several documents share.
pub(crate) async fn related(name: &str) -> Result<(Stage, String)> {
    let stage = Stage::new(name).await?;
    stage.execute(RELATED).await?;
    let config = stage.config(&format!(
        "  - {{ source: customers, collection: {0}.customers, table: customers, id_type: string,
        key: {{ source: null, source_id: mongo_id }}, columns: {{ name: name }} }}
  - {{ source: tags, collection: {0}.tags, table: tags, id_type: string, key: [id], shared: true,
        columns: {{ id: {{ from: n, required: true }}, name: name, names: {{ collect: name }} }} }}
  - {{ source: invoices, collection: {0}.invoices, table: invoices, id_type: string,
        key: {{ source: null, source_id: mongo_id }},
        columns: {{ total: total, customer_id: {{ ref: {{ to: customers, from: customer }}, missing: null }} }},
        children: [
          {{ table: invoice_lines, each: lines, key: [invoice_id, position], columns: {{
             id: {{ key: {{ prefix: line_ }}, write: insert }}, invoice_id: $parent, position: $index, title: $element.title }} }},
          {{ table: invoice_tags, each: tags, columns: {{
             invoice_id: $parent, tag_id: {{ ref: {{ to: tags, from: $element }}, missing: drop }} }} }} ] }}\n",
        stage.name
    ));
    let customers = ["ada", "bob"].map(|id| doc! { "_id": id, "name": id });
    stage.collection("customers").insert_many(customers).await?;
    let tags = [("t1", 1, "red"), ("t2", 2, "blue"), ("t3", 2, "azure")];
    let tags = tags.map(|(id, n, name)| doc! { "_id": id, "n": n, "name": name });
    stage.collection("tags").insert_many(tags).await?;
    let invoices = (0..40).map(|n| {
        doc! {
            "_id": format!("i{n}"), "total": n, "customer": (["ada", "bob", "nobody"][n as usize % 3]),
            "lines": [{ "title": "one" }, { "title": "two" }], "tags": ["t1", "t3", "none"],
        }
    });
    stage.collection("invoices").insert_many(invoices).await?;
    copied(&config).await?;
    Ok((stage, config))
}

/// Damage to `related`, and what a comparison must say of it.
pub(crate) struct Damage {
    pub(crate) sql: String,
    pub(crate) findings: BTreeSet<String>,
}

/// Of every kind.
pub(crate) fn related_damage() -> Damage {
    let of = |n: u32| format!("(select id from invoices where mongo_id = 'i{n}')");
    let sql = format!(
            "update invoices set customer_id = (select id from customers where mongo_id = 'bob') where mongo_id = 'i0';
         update invoices set customer_id = null where mongo_id = 'i1';
         update invoices set customer_id = (select id from customers where mongo_id = 'bob') where mongo_id = 'i2';
         delete from invoice_lines where invoice_id = {} and position = 1;
         update invoice_lines set title = 'three' where invoice_id = {} and position = 0;
         insert into invoice_lines (id, invoice_id, position) values ('x', {}, 2);
         delete from invoice_tags where invoice_id = {} and tag_id = 1;
         insert into tags (id, name) values (9, 'nobody''s');
         update invoice_tags set tag_id = 9 where invoice_id = {} and tag_id = 2;
         update tags set name = 'green', names = '[]' where id = 2;
         delete from invoices where mongo_id = 'i9';
         insert into invoices (mongo_id) values ('gone')",
        of(3),
        of(4),
        of(5),
        of(6),
        of(7)
    );
    let findings = set(&[
        "different i0 customer_id",
        "different i1 customer_id",
        "different i2 customer_id",
        "missing_child i3",
        "different_child i4 title",
        "extra_child i5",
        "missing_child i6",
        "missing_child i7",
        "extra_child i7",
        "different t2 name,names",
        "missing i9",
        "extra gone",
    ]);
    Damage { sql, findings }
}

#[tokio::test]
async fn references_children_pairs_and_shared_rows_are_compared_in_both_directions() -> Result<()> {
    let (stage, config) = related("verify_related").await?;
    let (report, code) = verify(&config, &[])?;
    assert_eq!((code, found(&report)), (0, set(&[])), "{report:#}");
    let damage = related_damage();
    stage.execute(&damage.sql).await?;
    let (report, code) = verify(&config, &[])?;
    assert_eq!((code, found(&report)), (1, damage.findings), "{report:#}");
    Ok(())
}

#[tokio::test]
async fn a_comparison_sees_no_damage_in_writes_that_flow_and_finds_what_is_damaged_meanwhile() -> Result<()> {
    let (stage, config) = filled("verify_flowing", 3_000).await?;
    let daemon = Daemon::start(&config)?;
    let orders = stage.collection("orders");
    let writes = async {
        for round in 0..40_i64 {
            for n in (0..3_000_i64).filter(|n| n % 40 == round % 40) {
                let id = doc! { "_id": n };
                match (n + round) % 5 {
                    0 if n > 100 => orders.delete_one(id).await.map(drop)?,
                    1 => orders.insert_one(order(10_000 + n * 50 + round)?).await.map(drop)?,
                    _ => {
                        let set = doc! { "$set": { "note": format!("round {round}") } };
                        orders.update_one(id, set).await.map(drop)?;
                    }
                }
            }
        }
        Ok::<_, anyhow::Error>(())
    };
    let config_of_verify = config.clone();
    let comparing = async {
        stage.execute("update orders set amount = 1.1 where source_id = '7'").await?;
        let runs = tokio::task::spawn_blocking(move || {
            (0..3).map(|_| verify(&config_of_verify, &[])).collect::<Result<Vec<_>>>()
        });
        runs.await?
    };
    let (written, runs) = tokio::join!(writes, comparing);
    written?;
    for (report, _) in runs? {
        let others: Vec<String> =
            found(&report).into_iter().filter(|found| found != "different 7 amount").collect();
        assert!(others.is_empty(), "{report:#}");
    }
    stage.execute("update orders set amount = 1.1 where source_id = '9'").await?;
    let (report, _) = verify(&config, &[])?;
    assert!(found(&report).contains("different 9 amount"), "{report:#}");
    assert!(daemon.stop().await?.success());
    Ok(())
}

/// What a repair says, and its exit status.
pub(crate) fn repair(config: &str, arguments: &[&str]) -> Result<(Value, i32)> {
    let all = [&["repair", "--output", "json"], arguments].concat();
    let output = daemon::command(&all, config)?;
    let code = output.status.code().context("killed")?;
    Ok((serde_json::from_slice(&output.stdout).with_context(|| words(&output))?, code))
}

const DAMAGE: &str = "
    update orders set amount = 1.1 where source_id = '1';
    update orders set note = null where source_id = '2';
    delete from orders where source_id in ('3', '4');
    insert into orders (source, source_id) values ('orders', '1000')";

/// Every row with the transaction that wrote it.
const WRITTEN: &str = "select string_agg(source_id || ' ' || xmin, ',' order by source_id) from orders
    where source_id not in ('1', '2', '3', '4', '1000')";

#[tokio::test]
async fn a_repair_says_what_it_would_do_and_then_writes_exactly_the_findings() -> Result<()> {
    let (stage, config) = filled("repair_at_rest", 50).await?;
    stage.execute(DAMAGE).await?;
    assert_eq!(verify(&config, &[])?.1, 1);
    let before = stage.text(WRITTEN).await?;
    let (planned, code) = repair(&config, &[])?;
    assert_eq!((code, planned["documents"].as_u64(), planned["repaired"].as_u64()), (1, Some(5), None));
    let actions: BTreeSet<&str> = planned["groups"]
        .as_array()
        .context("groups")?
        .iter()
        .filter_map(|one| one["action"].as_str())
        .collect();
    let expected = [
        "insert into public.orders",
        "remove from public.orders",
        "update public.orders: amount",
        "update public.orders: note",
    ];
    assert_eq!(actions, BTreeSet::from(expected), "{planned:#}");
    assert_eq!(verify(&config, &[])?.1, 1, "a dry run repairs nothing");
    let (repaired, code) = repair(&config, &["--apply"])?;
    assert_eq!((code, repaired["repaired"].as_u64()), (0, Some(5)), "{repaired:#}");
    let (report, code) = verify(&config, &[])?;
    assert_eq!((code, found(&report)), (0, set(&[])), "{report:#}");
    assert_eq!(stage.text(WRITTEN).await?, before, "other rows are left alone");
    assert_eq!(stage.number("select count(*) from rowstream.touch").await?, 0);
    assert_eq!(stage.number("select count(*) from rowstream.reconcile_finding").await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_running_daemon_does_the_repairs_that_it_is_asked_for() -> Result<()> {
    let (stage, config) = filled("repair_daemon", 50).await?;
    let daemon = Daemon::start(&config)?;
    daemon.logged("session started").await?;
    stage.execute(DAMAGE).await?;
    assert_eq!(verify(&config, &[])?.1, 1);
    let (first, code) = repair(&config, &["--apply", "--limit", "2"])?;
    assert_eq!((code, first["repaired"].as_u64()), (0, Some(2)), "{first:#}");
    let (second, code) = repair(&config, &["--apply"])?;
    assert_eq!((code, second["repaired"].as_u64()), (0, Some(3)), "{second:#}");
    let (report, code) = verify(&config, &[])?;
    assert_eq!((code, found(&report)), (0, set(&[])), "{report:#}");
    assert!(daemon.stop().await?.success());
    Ok(())
}

#[tokio::test]
async fn a_daemon_repairs_no_more_documents_in_a_second_than_it_may() -> Result<()> {
    let (stage, config) = filled("repair_rate", 20).await?;
    let daemon = Daemon::start(&format!("{config}reconcile: {{ every: 0s, repairs_per_second: 1 }}\n"))?;
    daemon.logged("session started").await?;
    stage.execute("delete from orders where source_id in ('1', '2', '3')").await?;
    assert_eq!(verify(&config, &[])?.1, 1);
    let (repaired, code) = repair(&config, &["--apply"])?;
    assert_eq!((code, repaired["repaired"].as_u64()), (0, Some(3)), "{repaired:#}");
    let transactions = "select count(distinct xmin::text) from orders where source_id in ('1', '2', '3')";
    // Two may meet in one batch on a machine that is busy, three seconds do not.
    assert!(stage.number(transactions).await? > 1, "all of them at once");
    assert!(daemon.stop().await?.success());
    Ok(())
}

#[tokio::test]
async fn what_differs_again_after_a_repair_is_told_and_not_repeated() -> Result<()> {
    let (stage, config) = filled("repair_stubborn", 20).await?;
    stage
        .execute(
            "create function shout() returns trigger language plpgsql as
                 $$ begin if new.source_id = '7' then new.note := upper(new.note); end if; return new; end $$;
             create trigger shout before insert or update on orders for each row execute function shout();
             update orders set note = 'x' where source_id in ('7', '8')",
        )
        .await?;
    assert_eq!(verify(&config, &[])?.1, 1);
    let (repairs, code) = repair(&config, &["--apply"])?;
    assert_eq!((code, repairs["repaired"].as_u64()), (1, Some(1)), "{repairs:#}");
    assert_eq!(repairs["not_converging"], serde_json::json!(["orders 7"]));
    let (report, _) = verify(&config, &[])?;
    assert_eq!(found(&report), set(&["different 7 note"]), "{report:#}");
    assert_eq!(report["sources"][0]["not_converging"].as_u64(), Some(1));
    let (repairs, code) = repair(&config, &["--apply"])?;
    assert_eq!((code, repairs["left_alone"].as_u64(), repairs["documents"].as_u64()), (1, Some(1), Some(0)));
    stage.execute("drop trigger shout on orders").await?;
    let (repairs, code) = repair(&config, &["--apply", "--again"])?;
    assert_eq!((code, repairs["repaired"].as_u64()), (0, Some(1)), "{repairs:#}");
    assert_eq!(verify(&config, &[])?.1, 0);
    Ok(())
}

#[tokio::test]
async fn children_pairs_and_shared_rows_are_repaired() -> Result<()> {
    let (stage, config) = related("repair_related").await?;
    stage
        .execute(
            "update invoices set customer_id = null;
             delete from invoice_lines where position = 1;
             insert into invoice_lines (id, invoice_id, position) select 'x' || id, id, 7 from invoices;
             delete from invoice_tags where tag_id = 1;
             update tags set name = 'green' where id = 2;
             insert into invoices (mongo_id) values ('gone')",
        )
        .await?;
    assert_eq!(verify(&config, &[])?.1, 1);
    let (repairs, code) = repair(&config, &["--apply"])?;
    assert_eq!((code, repairs["repaired"].as_u64()), (0, Some(42)), "{repairs:#}");
    let (report, code) = verify(&config, &[])?;
    assert_eq!((code, found(&report)), (0, set(&[])), "{report:#}");
    Ok(())
}

#[tokio::test]
async fn a_daemon_compares_by_its_timer_and_when_it_is_asked_and_tells_what_came_of_it() -> Result<()> {
    let (stage, config) = filled("verify_timer", 40).await?;
    let timer = "reconcile:\n  every: 1s\n  assertions:\n    - { name: has orders, \
                 sql: select count(*) > 0 from orders, expect: true }\n";
    let daemon = Daemon::start(&format!("{config}{timer}"))?;
    let by_timer = "select count(*) from rowstream.reconcile_run where cause = 'timer' and state = 'done'";
    until("two comparisons by the timer", PATIENCE, async || {
        Ok((stage.number(by_timer).await.unwrap_or(0) >= 2).then_some(()))
    })
    .await
    .with_context(|| daemon.last_words())?;
    until("the report in memory", PATIENCE, async || {
        Ok((daemon.get("/reconcile").await?.0 == 200).then_some(()))
    })
    .await?;
    let report: Value = serde_json::from_str(&daemon.get("/reconcile").await?.1)?;
    assert_eq!((report["verdict"].as_str(), report["extent"].as_str()), (Some("passed"), Some("sample")));
    assert_eq!(report["assertions"][0]["verdict"].as_str(), Some("passed"), "{report:#}");
    assert!(daemon.metric("rowstream_reconcile_runs_total").await? >= 1.0);
    assert!(daemon.metric("rowstream_reconcile_last_success_timestamp_seconds").await? > 1.0e9);
    stage.execute("truncate orders").await?;
    daemon.check_becomes("reconcile", &["degraded"]).await?;
    assert_eq!(daemon.metric("rowstream_reconcile_mismatches").await?, 40.0);
    daemon.logged("reconcile_findings").await?;
    let id = until("a comparison that was asked for", PATIENCE, async || {
        let (code, body) = daemon.ask("POST", "/reconcile").await?;
        ensure!(code == 202 || code == 409, "{code} {body}");
        Ok((code == 202).then(|| serde_json::from_str::<Value>(&body).map(|body| body["id"].clone())))
    })
    .await??;
    let of_run = format!("/reconcile/{id}");
    until("its report", PATIENCE, async || {
        let (code, body) = daemon.get(&of_run).await?;
        if code == 503 {
            // A machine that is busy with other tests.
            return Ok(None);
        }
        let run: Value = serde_json::from_str(&body)?;
        ensure!(run["extent"] == "full" && run["cause"] == "http", "{run:#}");
        Ok((run["state"] == "done").then_some(()))
    })
    .await?;
    // The timer's own comparisons are in the way now and then.
    let (repaired, code) =
        until("a repair", PATIENCE, async || Ok(repair(&config, &["--apply"]).ok())).await?;
    assert_eq!((code, repaired["repaired"].as_u64()), (0, Some(40)), "{repaired:#}");
    daemon.check_becomes("reconcile", &["ok"]).await?;
    until("the count of repairs", PATIENCE, async || {
        Ok((daemon.metric("rowstream_reconcile_repaired_total").await? >= 40.0).then_some(()))
    })
    .await?;
    let (_, history) = daemon.get("/reconcile/history").await?;
    assert!(serde_json::from_str::<Value>(&history)?["runs"].as_array().is_some_and(|runs| runs.len() > 3));
    assert_eq!(daemon.get("/reconcile/987654321").await?.0, 404);
    assert!(daemon.stop().await?.success());
    let open = "select count(*) from rowstream.reconcile_run where state = 'running' and heartbeat > now() - interval '1 hour'";
    assert_eq!(stage.number(open).await?, 0, "what was cut off can be taken up at once");
    Ok(())
}

#[tokio::test]
async fn pairs_that_both_sides_list_are_compared_from_both() -> Result<()> {
    let stage = Stage::new("verify_pairs").await?;
    stage
        .execute(
            "create table people (id serial primary key, mongo_id text not null unique, name text);
             create table groups (id serial primary key, mongo_id text not null unique, name text);
             create table members (person_id integer not null references people on delete cascade,
                 group_id integer not null references groups on delete cascade, primary key (person_id, group_id))",
        )
        .await?;
    let mapping = |name: &str, more: &str| {
        format!(
            "  - {{ source: {name}, collection: {0}.{name}, table: {name}, id_type: string, \
             key: {{ source: null, source_id: mongo_id }}, columns: {{ name: name }}{more} }}\n",
            stage.name
        )
    };
    let children =
        ", children: [ { table: members, each: groups, also_from: { source: groups, each: people },
        columns: { person_id: $parent, group_id: { ref: { to: groups, from: $element } } } } ]";
    let config = stage.config(&format!("{}{}", mapping("people", children), mapping("groups", "")));
    let people = [doc! { "_id": "ada", "groups": ["x", "y"] }, doc! { "_id": "bob" }];
    stage.collection("people").insert_many(people).await?;
    let groups = [doc! { "_id": "x", "people": ["ada", "bob"] }, doc! { "_id": "y" }, doc! { "_id": "z" }];
    stage.collection("groups").insert_many(groups).await?;
    copied(&config).await?;
    assert_eq!(stage.number("select count(*) from members").await?, 3);
    let (report, code) = verify(&config, &[])?;
    assert_eq!((code, found(&report)), (0, set(&[])), "{report:#}");
    let swapped = "update members set group_id = (select id from groups where mongo_id = 'z')
        where group_id = (select id from groups where mongo_id = 'x')
            and person_id = (select id from people where mongo_id = 'bob')";
    stage.execute(swapped).await?;
    let (report, code) = verify(&config, &[])?;
    let expected = set(&["missing_child bob", "extra_child bob", "missing_child x", "extra_child z"]);
    assert_eq!((code, found(&report)), (1, expected), "{report:#}");
    assert_eq!(repair(&config, &["--apply"])?.1, 0);
    assert_eq!(verify(&config, &[])?.1, 0);
    Ok(())
}

#[tokio::test]
async fn a_reset_forgets_the_pipeline_and_leaves_the_rows() -> Result<()> {
    let (stage, config) = filled("reset", 20).await?;
    assert_eq!(verify(&config, &["--sample", "5"])?.1, 0);
    assert_eq!(daemon::command(&["reset"], &config)?.status.code(), Some(2), "it wants to be told so");
    let daemon = Daemon::start(&config)?;
    daemon.logged("session started").await?;
    assert_eq!(daemon::command(&["reset", "--yes"], &config)?.status.code(), Some(1), "somebody leads");
    assert!(daemon.stop().await?.success());
    let output = daemon::command(&["reset", "--yes"], &config)?;
    assert!(output.status.success(), "{}", words(&output));
    let tables = "select string_agg(format('select %L as name from rowstream.%I where pipeline = ''test''', table_name,
            table_name), ' union all ') from information_schema.columns
        where table_schema = 'rowstream' and column_name = 'pipeline' and table_name <> 'mapping'";
    let left = stage.text(tables).await?.context("no tables")?;
    assert_eq!(stage.number(&format!("select count(*) from ({left}) as rows")).await?, 0, "nothing is left");
    let known =
        "select string_agg(concat_ws(' ', source, snapshot_state, resync_cause), ',') from rowstream.mapping";
    assert_eq!(stage.text(known).await?.as_deref(), Some("orders pending reset"), "but that it has rows");
    assert_eq!(stage.number("select count(*) from orders").await?, 20);
    let (_, code) = verify(&config, &[]).unwrap_or_default();
    assert_ne!(code, 1, "there is nothing to compare with");
    copied(&config).await?;
    assert_eq!(verify(&config, &[])?.1, 0);
    Ok(())
}
