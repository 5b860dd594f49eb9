//! A comparison as an undertaking: it goes on after an interruption, ends when it is told to, and says more of the
//! documents than what differs.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use bson::doc;
use serde_json::{Value, json};

use crate::comparison::{copied, filled, found, related, related_damage, set, verify, words};
use crate::daemon::{self, Daemon, PATIENCE};
use crate::stage::Stage;
use crate::support::until;

const STATES: &str =
    "select string_agg(state, ',' order by id) from rowstream.reconcile_run where cause = 'http'";

/// Where a comparison would go on, as far as the state knows it.
const PLACE: &str = "select progress #>> '{kept,current,1}' from rowstream.reconcile_run
    where progress #> '{kept,current,1,documents}' is not null";

fn at(config: &str, documents_per_second: u32) -> String {
    format!(
        "{config}reconcile: {{ every: 0s, documents_per_second: {documents_per_second} }}\n\
         snapshot: {{ chunk_documents: 100 }}\n"
    )
}

async fn begun(daemon: &Daemon, stage: &Stage) -> Result<()> {
    daemon.logged("session started").await?;
    let (code, body) = daemon.ask("POST", "/reconcile").await?;
    ensure!(code == 202, "{code} {body}");
    until("some progress", PATIENCE, async || stage.text(PLACE).await)
        .await
        .with_context(|| daemon.last_words())?;
    Ok(())
}

/// The report of the only comparison that was asked for over HTTP.
async fn ended(daemon: &Daemon, stage: &Stage) -> Result<Value> {
    until("its end", PATIENCE, async || {
        Ok((stage.text(STATES).await?.as_deref() == Some("done")).then_some(()))
    })
    .await
    .with_context(|| daemon.last_words())?;
    let report = stage.text("select report::text from rowstream.reconcile_run where cause = 'http'").await?;
    Ok(serde_json::from_str(&report.context("no report")?)?)
}

#[tokio::test]
async fn a_comparison_that_was_interrupted_goes_on_where_it_was() -> Result<()> {
    let (stage, config) = filled("verify_resumed", 2_000).await?;
    stage.execute("update orders set note = 'x' where source_id = '1999'").await?;
    for how in ["stopped", "killed"] {
        stage.execute("delete from rowstream.reconcile_run").await?;
        let daemon = Daemon::start(&at(&config, 600))?;
        begun(&daemon, &stage).await?;
        match how {
            "killed" => {
                daemon.kill9()?;
                // As if it had been silent for as long as it takes to be nobody's.
                let silent = "update rowstream.reconcile_run set heartbeat = heartbeat - interval '1 hour'";
                stage.execute(silent).await?;
            }
            _ => ensure!(daemon.stop().await?.success()),
        }
        // Before the place where it stopped: whoever began again would find it.
        stage.execute("update orders set note = 'x' where source_id = '0'").await?;
        let daemon = Daemon::start(&at(&config, 0))?;
        let report = ended(&daemon, &stage).await?;
        assert_eq!(found(&report), set(&["different 1999 note"]), "{how}: {report:#}");
        let source = &report["sources"][0];
        assert_eq!((source["documents"].as_u64(), source["rows"].as_u64()), (Some(2_000), Some(2_000)));
        assert_eq!(source["absent_paths"], json!([]), "what was seen before counts");
        daemon.kill9()?;
        stage.execute("update orders set note = 'note 0' where source_id = '0'").await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_comparison_whose_connections_are_cut_goes_on_where_it_was() -> Result<()> {
    let (stage, config) = filled("verify_cut", 2_000).await?;
    stage.execute("update orders set note = 'x' where source_id = '1999'").await?;
    let daemon = Daemon::start(&at(&config, 600))?;
    begun(&daemon, &stage).await?;
    // Before the place where it was: whoever began again would find it.
    stage.execute("update orders set note = 'x' where source_id = '0'").await?;
    let cut = "select pg_terminate_backend(pid) from pg_stat_activity
        where datname = current_database() and application_name = 'rowstream verify test'";
    stage.execute(cut).await?;
    daemon.logged("reconcile_failed").await?;
    let report = ended(&daemon, &stage).await?;
    assert_eq!(found(&report), set(&["different 1999 note"]), "{report:#}");
    assert_eq!(report["sources"][0]["documents"].as_u64(), Some(2_000), "{report:#}");
    assert!(daemon.stop().await?.success());
    Ok(())
}

#[tokio::test]
async fn the_timer_compares_everything_only_within_its_window() -> Result<()> {
    let (stage, config) = filled("verify_window", 10).await?;
    let of_timer = |extent: &str| {
        format!(
            "select count(*) from rowstream.reconcile_run
             where cause = 'timer' and state = 'done' and extent = '{extent}'"
        )
    };
    for (from, to, extent) in [("+2 hours", "+3 hours", "sample"), ("-1 hour", "+1 hour", "full")] {
        let at = |shift: &str| format!("to_char(now() at time zone 'utc' + interval '{shift}', 'HH24:MI')");
        let window =
            stage.text(&format!("select {} || '-' || {}", at(from), at(to))).await?.context("no time")?;
        let timer = format!("reconcile: {{ every: 1s, full_every: 1s, window: \"{window}\" }}\n");
        let daemon = Daemon::start(&format!("{config}{timer}"))?;
        until("two comparisons by the timer", PATIENCE, async || {
            Ok((stage.number(&of_timer(extent)).await.unwrap_or(0) >= 2).then_some(()))
        })
        .await
        .with_context(|| daemon.last_words())?;
        let full = stage.number(&of_timer("full")).await?;
        assert!((full > 0) == (extent == "full"), "{full} comparisons of everything in {window}");
        assert!(daemon.stop().await?.success());
    }
    Ok(())
}

/// What the page's script asks for when its buttons are pressed, and what it reads of the answers.
#[tokio::test]
async fn what_the_page_asks_for_is_what_the_daemon_answers() -> Result<()> {
    let (stage, config) = filled("verify_page", 30).await?;
    stage.execute("update orders set note = 'x' where source_id in ('1', '2')").await?;
    let daemon = Daemon::start(&format!("{config}reconcile: {{ every: 0s }}\n"))?;
    daemon.logged("session started").await?;
    let (_, page) = daemon.get("/").await?;
    for asked in [
        "fetch(\"reconcile\", { method: \"POST\"",
        "compare({ sample: SAMPLE })",
        "const SAMPLE = 1000;",
        "read(`reconcile/${run}`)",
        "read(\"reconcile\")",
    ] {
        assert!(page.contains(asked), "the page no longer asks for {asked}");
    }
    assert_eq!(daemon.status().await?["changes"], "open");
    for body in [json!({ "sample": 1000 }), json!({})] {
        let (code, answer) = daemon.post("/reconcile", &body).await?;
        assert_eq!(code, 202, "{answer}");
        assert!(answer["message"].is_string(), "{answer}");
        let run = answer["id"].as_i64().context("no id")?;
        let of_run = until("its end", PATIENCE, async || {
            let one: Value = serde_json::from_str(&daemon.get(&format!("/reconcile/{run}")).await?.1)?;
            let progress = &one["progress"];
            ensure!(progress.is_null() || progress["sources"].is_array(), "{one:#}");
            Ok((one["state"] == "done").then_some(one))
        })
        .await
        .with_context(|| daemon.last_words())?;
        assert_eq!(of_run["report"]["sources"][0]["documents"], 30);
        let last = until("it in memory", PATIENCE, async || {
            let last = daemon.status().await?["reconcile"].clone();
            Ok((last["run"] == run).then_some(last))
        })
        .await?;
        assert_eq!((&last["findings"], &last["verdict"]), (&json!(2), &json!("failed")), "{last}");
        assert!(last["finished_at"].is_number(), "{last}");
        let report: Value = serde_json::from_str(&daemon.get("/reconcile").await?.1)?;
        let group = &report["sources"][0]["groups"][0];
        let told = (&group["kind"], &group["columns"], &group["table"], &group["count"], &group["keys"]);
        let expected =
            (&json!("different"), &json!(["note"]), &json!("public.orders"), &json!(2), &json!(["1", "2"]));
        assert_eq!(told, expected, "{report:#}");
    }
    assert_eq!(daemon.status().await?["resyncs"], json!([]));
    assert!(daemon.stop().await?.success());
    Ok(())
}

#[tokio::test]
async fn a_comparison_of_an_older_mapping_is_not_gone_on_with() -> Result<()> {
    let (stage, config) = filled("verify_remapped", 1_000).await?;
    let daemon = Daemon::start(&at(&config, 300))?;
    begun(&daemon, &stage).await?;
    assert!(daemon.stop().await?.success());
    stage.execute("update orders set note = 'x' where source_id = '0'").await?;
    let other = "update rowstream.reconcile_run
        set progress = jsonb_set(progress, '{kept,current,0,hash}', '\"of another mapping\"')";
    stage.execute(other).await?;
    let daemon = Daemon::start(&at(&config, 0))?;
    let report = ended(&daemon, &stage).await?;
    assert_eq!(found(&report), set(&["different 0 note"]), "{report:#}");
    assert_eq!(report["sources"][0]["documents"].as_u64(), Some(1_000), "{report:#}");
    assert!(daemon.stop().await?.success());
    Ok(())
}

#[tokio::test]
async fn a_report_tells_what_no_document_has_and_what_no_mapping_reads() -> Result<()> {
    let stage = Stage::new("verify_paths").await?;
    stage
        .execute(
            "create table orders (source text, source_id text, city text, kind text, total numeric,
                 primary key (source, source_id))",
        )
        .await?;
    let config = stage.config(&format!(
        "  - source: orders
    collection: {}.orders
    table: orders
    id_type: int
    allow_empty: true
    columns:
      city: {{ from: [address.town, address.city] }}
      kind: {{ from: kind, enum: {{ a: A }}, otherwise: {{ value: other }} }}
      total: totl\n",
        stage.name
    ));
    let documents = (0..40_i64).map(|n| {
        let kind = if n == 7 { "hunter2" } else { "a" };
        doc! { "_id": n, "address": { "city": "Ulm" }, "kind": kind, "total": n, "coupon": "hunter2" }
    });
    stage.collection("orders").insert_many(documents).await?;
    copied(&config).await?;
    let (report, code) = verify(&config, &[])?;
    let source = &report["sources"][0];
    assert_eq!((code, report["verdict"].as_str()), (0, Some("warning")), "{report:#}");
    assert_eq!(source["absent_paths"], json!(["totl"]), "{report:#}");
    assert_eq!(source["drift"]["fields"].as_array().map(Vec::len), Some(2), "{report:#}");
    assert_eq!(source["drift"]["fields"][0]["name"], "total", "{report:#}");
    assert_eq!(source["drift"]["fields"][1]["name"], "coupon", "{report:#}");
    assert_eq!(source["drift"]["labels"][0], json!({ "name": "kind", "count": 1, "examples": ["7"] }));
    assert_eq!(verify(&config, &["--strict"])?.1, 1);
    let text = words(&daemon::command(&["verify"], &config)?);
    assert!(text.contains("! no document has totl, which the mapping reads"), "{text}");
    assert!(text.contains("! documents have coupon, which no mapping reads: 0, "), "{text}");
    assert!(text.contains("! values of kind are not among the labels of its `enum:`: 7"), "{text}");
    assert!(!format!("{text}{report}").contains("hunter2"), "{text}");
    let (report, _) = verify(&config, &["--sample", "1"])?;
    assert_eq!(report["sources"][0]["absent_paths"], json!([]), "a few documents say nothing of the others");
    Ok(())
}

#[tokio::test]
async fn values_are_shown_to_who_asks_on_the_command_line_and_kept_nowhere() -> Result<()> {
    let (stage, config) = filled("verify_values", 20).await?;
    stage.execute("update orders set note = 'hunter2', at = null where source_id = '3'").await?;
    let text = words(&daemon::command(&["verify", "--show-values"], &config)?);
    assert!(text.contains("3 note: \"hunter2\" should be \"note 3\""), "{text}");
    assert!(text.contains("3 at: null should be \"2023-11-14 22:13:20.003+00\""), "{text}");
    let (report, _) = verify(&config, &["--show-values"])?;
    let values = &report["sources"][0]["groups"][0]["values"];
    let note = json!({ "key": "3", "column": "note", "held": "hunter2", "wanted": "note 3" });
    assert!(
        values.as_array().is_some_and(|values| values.len() == 2 && values.contains(&note)),
        "{report:#}"
    );
    assert!(!verify(&config, &[])?.0.to_string().contains("hunter2"));
    let kept = "select count(*) from rowstream.reconcile_run as r, rowstream.reconcile_finding as f
        where (r::text || f::text) like '%hunter2%'";
    assert_eq!(stage.number(kept).await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_row_whose_id_is_a_hash_and_has_no_document_is_named_and_what_to_do_about_it() -> Result<()> {
    let stage = Stage::new("verify_hashed").await?;
    stage
        .execute(
            "create table notes (source text, source_id text, n bigint, primary key (source, source_id))",
        )
        .await?;
    let config = stage.config(&format!(
        "  - {{ source: notes, collection: {}.notes, table: notes, id_type: string, columns: {{ n: n }} }}\n",
        stage.name
    ));
    let long = |letter: &str| doc! { "_id": letter.repeat(2_000), "n": 1_i64 };
    stage.collection("notes").insert_many([long("a"), long("b")]).await?;
    copied(&config).await?;
    assert_eq!(verify(&config, &[])?.0["verdict"], "passed", "whose document is met needs no reading back");
    let changed =
        "update notes set source_id = overlay(source_id placing 'f0f0f0f0' from length(source_id) - 7)
        where source_id = (select min(source_id) from notes)";
    stage.execute(changed).await?;
    let left = "select source_id from notes where source_id like '%f0f0f0f0'";
    let left = stage.text(left).await?.context("no row")?;
    let (report, code) = verify(&config, &[])?;
    let source = &report["sources"][0];
    assert_eq!(source["unreadable_keys"], json!([left]), "{report:#}");
    assert_eq!((code, source["groups"][0]["kind"].as_str()), (1, Some("missing")), "{report:#}");
    let text = words(&daemon::command(&["verify"], &config)?);
    assert!(text.contains("no repair can remove them; delete those by hand"), "{text}");
    Ok(())
}

#[tokio::test]
async fn an_assertion_that_does_not_hold_fails_the_comparison_and_tells_no_text() -> Result<()> {
    let (_stage, config) = filled("verify_assertions", 10).await?;
    let assertions = "reconcile: { assertions: [
        { name: enough, sql: select count(*) >= 10 from orders, expect: true },
        { name: many, sql: select count(*) from orders, expect: 11 },
        { name: secret, sql: \"select 'hunter2'\", expect: x },
        { name: broken, sql: select nothing from nowhere, expect: 1 },
        { name: harmful, sql: delete from orders returning 1, expect: 1 },
        { name: no row, sql: select 1 where false } ] }\n";
    let (report, code) = verify(&format!("{config}{assertions}"), &[])?;
    let failed =
        "the statement failed: it must be one select of one column, within postgres.statement_timeout";
    let told: Vec<Value> =
        report["assertions"].as_array().context("none")?.iter().map(|one| one["detail"].clone()).collect();
    let expected =
        json!(["", "expected 11, found 10", "expected x, found another value", failed, failed, ""]);
    assert_eq!((code, Value::from(told)), (1, expected), "{report:#}");
    assert_eq!(report["sources"][0]["rows"].as_u64(), Some(10));
    let (report, code) = verify(&config, &[])?;
    assert_eq!((code, report["sources"][0]["rows"].as_u64()), (0, Some(10)), "nothing was deleted");
    Ok(())
}

#[tokio::test]
async fn a_comparison_that_is_told_to_stop_is_cancelled_and_in_nobodys_way() -> Result<()> {
    let (stage, config) = filled("verify_cancelled", 2_000).await?;
    let folder = tempfile::TempDir::new()?;
    let file = folder.path().join("rowstream.yaml");
    std::fs::write(&file, format!("{config}snapshot: {{ chunk_documents: 100 }}\n"))?;
    let mut command = Command::new(daemon::binary());
    command.args(["verify", "--rate", "200", "--config"]).arg(&file).env_remove("RUST_LOG");
    let child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn()?;
    until("some progress", PATIENCE, async || stage.text(PLACE).await).await?;
    let (second, code) = (daemon::command(&["verify"], &config)?, 3);
    assert_eq!(second.status.code(), Some(code), "two never overlap: {}", words(&second));
    ensure!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status()?.success());
    let output = child.wait_with_output()?;
    assert_eq!(output.status.code(), Some(3), "{}", words(&output));
    let states = "select string_agg(state, ',') from rowstream.reconcile_run";
    assert_eq!(stage.text(states).await?.as_deref(), Some("cancelled"));
    assert_eq!(verify(&config, &[])?.1, 0);
    Ok(())
}

#[tokio::test]
async fn a_comparison_reads_its_documents_where_it_is_told_to() -> Result<()> {
    let (stage, config) = filled("verify_secondary", 20).await?;
    let config = config.replace("replicaSet=", "serverSelectionTimeoutMS=1000&replicaSet=");
    for (preference, logged) in [("secondary", "reconcile_failed"), ("secondaryPreferred", "reconcile_ended")]
    {
        // There is no secondary: who asks for nothing else reads nothing, and the pipeline goes on.
        let daemon =
            Daemon::start(&format!("{config}reconcile: {{ every: 0s, read_preference: {preference} }}\n"))?;
        daemon.logged("session started").await?;
        stage.execute("delete from rowstream.reconcile_run").await?;
        assert_eq!(daemon.ask("POST", "/reconcile").await?.0, 202);
        daemon.logged(logged).await?;
        assert!(daemon.stop().await?.success());
    }
    Ok(())
}

/// Every kind of finding, so that no test of one is content with a verifier that looks at nothing.
#[cfg(feature = "failpoints")]
#[tokio::test]
async fn a_verifier_that_does_not_compare_would_find_none_of_the_damage() -> Result<()> {
    let (stage, config) = related("verify_blind").await?;
    let damage = related_damage();
    stage.execute(&damage.sql).await?;
    let folder = tempfile::TempDir::new()?;
    let file = folder.path().join("rowstream.yaml");
    std::fs::write(&file, &config)?;
    let blind = Command::new(daemon::binary())
        .args(["verify", "--output", "json", "--config"])
        .arg(&file)
        .env("FAILPOINTS", "compare_nothing=return(on)")
        .output()?;
    let report: Value = serde_json::from_slice(&blind.stdout).with_context(|| words(&blind))?;
    assert_eq!((blind.status.code(), found(&report)), (Some(0), set(&[])), "{report:#}");
    let (report, _) = verify(&config, &[])?;
    assert_eq!(found(&report), damage.findings, "{report:#}");
    Ok(())
}
