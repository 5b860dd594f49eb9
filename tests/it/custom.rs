//! Expressions, and code of one's own: a program built with a transformer.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use bson::doc;

use crate::daemon::{Daemon, PATIENCE, command};
use crate::stage::Stage;
use crate::support::until;

const OPEN: &str =
    "select string_agg(concat_ws(' ', source_id, reason, column_name, message), '; ' order by source_id)
                    from rowstream.held where state <> 'resolved'";

async fn becomes(stage: &Stage, daemon: &Daemon, sql: &str, expected: Option<&str>) -> Result<()> {
    let mut last = None;
    let becomes = until("the rows", PATIENCE, async || {
        last = stage.text(sql).await.ok().flatten();
        Ok((last.as_deref() == expected).then_some(()))
    });
    becomes.await.with_context(|| format!("there is {last:?}\n{}", daemon.last_words()))
}

#[tokio::test]
async fn expressions_make_values_and_their_errors_are_held() -> Result<()> {
    let stage = Stage::new("expressions").await?;
    stage
        .execute(
            "create table things (source text, source_id text, total numeric(12, 2), label varchar(12) not null,
                 at timestamptz, tags jsonb, exact bigint, primary key (source, source_id))",
        )
        .await?;
    let things = stage.collection("things");
    things
        .insert_many([
            doc! { "_id": 1, "net": 10, "tax": 1.5, "name": "Ada", "at": bson::DateTime::from_millis(1_500),
            "items": [{ "n": "x", "paid": true }, { "n": "y" }], "big": i64::MAX },
            doc! { "_id": 2, "net": "10", "tax": 1.5, "name": "SECRET", "items": [] },
            doc! { "_id": 3, "name": "Grace", "items": [] },
            doc! { "_id": 4, "net": 1, "tax": 0.25, "name": "an overlong name", "items": [] },
        ])
        .await?;
    let mapping = format!(
        r#"  - source: things
    collection: {}.things
    table: things
    columns:
      total: {{ cel: "has(doc.net) ? double(doc.net) + doc.tax : null" }}
      label: {{ cel: "doc.name.lowerAscii() + (size(doc.items) > 1 ? '!' : '')", case: upper }}
      at: {{ cel: "doc.?at.orValue(null)" }}
      tags: {{ cel: "doc.items.filter(i, has(i.paid)).map(i, i.n)" }}
      exact: {{ cel: "doc.?big.orValue(null)", default: 0, on_null: default }}
"#,
        stage.name
    );
    let config = stage.config(&mapping);
    let output = command(&["check"], &config)?;
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stdout));
    let shown = command(&["config", "show"], &config)?;
    assert!(
        String::from_utf8_lossy(&shown.stdout).contains("cel: \"has(doc.net)"),
        "it is shown as it was given"
    );
    let daemon = Daemon::start(&config)?;
    let rows =
        "select string_agg(concat_ws(' ', source_id, total, label, at at time zone 'utc', tags, exact), '; '
                                  order by source_id) from things";
    let expected =
        "1 11.50 ADA! 1970-01-01 00:00:01.5 [\"x\"] 9223372036854775807; 2 11.50 SECRET [] 0; 3 GRACE [] 0";
    becomes(&stage, &daemon, rows, Some(expected)).await?;
    let held = stage.text(OPEN).await?.unwrap_or_default();
    assert!(held.starts_with("4 too_long label"), "{held}");

    // What an expression cannot do is held with its own reason, and never with a value.
    things.update_one(doc! { "_id": 2 }, doc! { "$set": { "net": [1] } }).await?;
    things.update_one(doc! { "_id": 3 }, doc! { "$unset": { "name": "" } }).await?;
    let expected = "2 expression total the expression applies double to types that it does not take: list; \
                    3 expression label the expression reads a field that is not there: guard it with has(), or write doc.?field.orValue(…); ";
    until("them to be held", PATIENCE, async || {
        let held = stage.text(OPEN).await?.unwrap_or_default();
        Ok(held.starts_with(expected).then_some(()))
    })
    .await
    .with_context(|| daemon.last_words())?;
    things.update_many(doc! {}, doc! { "$set": { "name": "Good", "net": 1, "tax": 1.0 } }).await?;
    becomes(&stage, &daemon, OPEN, None).await?;
    assert!(daemon.log().iter().all(|line| !line.contains("SECRET")));
    Ok(())
}

#[tokio::test]
async fn a_mistake_in_an_expression_is_one_of_the_configuration_with_its_place() -> Result<()> {
    let stage = Stage::new("expression_mistakes").await?;
    let mapping = format!(
        "  - {{ source: a, collection: {}.a, table: a, columns: {{ x: {{ cel: \"doc.a +\" }}, y: {{ cel: \"1 + dok.b\" }},\n      z: $transform }} }}\n",
        stage.name
    );
    let output = command(&["check"], &stage.config(&mapping))?;
    assert_eq!(output.status.code(), Some(2));
    insta::assert_snapshot!("expression_mistakes", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[tokio::test]
async fn a_filter_that_is_an_expression_chooses_documents_and_its_errors_are_held() -> Result<()> {
    let stage = Stage::new("filter_expression").await?;
    stage
        .execute("create table things (source text, source_id text, n int, primary key (source, source_id))")
        .await?;
    let things = stage.collection("things");
    things
        .insert_many([
            doc! { "_id": 1, "n": 1, "kind": "sale" },
            doc! { "_id": 2, "n": 2, "kind": "gift" },
            doc! { "_id": 3, "n": 3, "kind": "sale", "gone": true },
            doc! { "_id": 4, "n": 4, "kind": 5 },
            doc! { "_id": 5, "n": 5, "kind": { "a": 1 }, "odd": true },
        ])
        .await?;
    let mapping = format!(
        "  - {{ source: things, collection: {}.things, table: things, columns: {{ n: n }},\n      \
         filter: 'has(doc.odd) ? doc.kind : doc.kind == \"sale\" && !has(doc.gone)' }}\n",
        stage.name
    );
    let daemon = Daemon::start(&stage.config(&mapping))?;
    let rows = "select string_agg(source_id, ' ' order by source_id) from things";
    becomes(&stage, &daemon, rows, Some("1")).await?;
    let told = "5 expression the filter's expression gives neither true nor false";
    becomes(&stage, &daemon, OPEN, Some(told)).await?;
    things.update_one(doc! { "_id": 1 }, doc! { "$set": { "gone": true } }).await?;
    things.update_one(doc! { "_id": 2 }, doc! { "$set": { "kind": "sale" } }).await?;
    things.delete_one(doc! { "_id": 5 }).await?;
    becomes(&stage, &daemon, rows, Some("2")).await?;
    becomes(&stage, &daemon, OPEN, None).await
}

/// The program of `examples/transformer.rs`, which `cargo test` builds beside the tests.
fn own_program(arguments: &[&str], config: &str) -> Result<(Option<i32>, String)> {
    let program = Path::new(env!("CARGO_BIN_EXE_rowstream")).with_file_name("examples").join("transformer");
    ensure!(program.exists(), "{} is missing: cargo build --example transformer", program.display());
    let folder = tempfile::TempDir::new()?;
    let file = folder.path().join("rowstream.yaml");
    std::fs::write(&file, config)?;
    let output = std::process::Command::new(program)
        .args(arguments)
        .arg("--config")
        .arg(&file)
        .env_remove("RUST_LOG")
        .output()?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8(text)?))
}

#[tokio::test]
async fn a_program_with_a_transformer_of_its_own_writes_what_it_gives_and_holds_what_it_refuses() -> Result<()>
{
    let stage = Stage::new("own_program").await?;
    stage
        .execute(
            "create table stations (source text, source_id text, name text, latitude numeric(6, 3) not null,
                 longitude double precision, primary key (source, source_id))",
        )
        .await?;
    let stations = stage.collection("stations");
    stations
        .insert_many([
            doc! { "_id": 1, "name": "Berlin", "place": "52.52N 13.40E" },
            doc! { "_id": 2, "name": "Rio", "place": "22.911S 43.2W" },
            doc! { "_id": 3, "name": "nowhere", "place": "SECRET 13E" },
            doc! { "_id": 4, "name": "too exact", "place": "1.23456N 1E" },
            doc! { "_id": 5, "name": "none" },
        ])
        .await?;
    let mapping = format!(
        "  - {{ source: stations, collection: {}.stations, table: stations, transform: place,\n      \
         columns: {{ name: name, latitude: $transform, longitude: {{ from: $transform }} }} }}\n",
        stage.name
    );
    let config = stage.config(&mapping);
    let output = command(&["check"], &config)?;
    let text = String::from_utf8(output.stdout)?;
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("the transformer place is not part of this program, which has none"), "{text}");

    assert_eq!(own_program(&["check"], &config)?.0, Some(0));
    let once = ["run", "--until-caught-up"];
    let (code, text) = own_program(&once, &config)?;
    assert_eq!(code, Some(1), "some are held: {text}");
    assert!(!text.contains("SECRET"), "{text}");
    let rows = "select string_agg(concat_ws(' ', source_id, name, latitude, longitude), '; ' order by source_id) from stations";
    assert_eq!(stage.text(rows).await?.as_deref(), Some("1 Berlin 52.520 13.4; 2 Rio -22.911 -43.2"));
    let held = "select string_agg(concat_ws(' ', source_id, reason, column_name), '; ' order by source_id) from rowstream.held";
    assert_eq!(
        stage.text(held).await?.as_deref(),
        Some("3 transformer latitude; 4 not_exact latitude; 5 missing_required latitude")
    );
    stations.update_many(doc! { "_id": { "$gt": 2 } }, doc! { "$set": { "place": "0N 0E" } }).await?;
    let (code, text) = own_program(&once, &config)?;
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(stage.number("select count(*) from stations where latitude = 0").await?, 3);
    // Another transformer is another meaning.
    let (_, text) = own_program(&["check"], &config.replace("transform: place", "transform: initials"))?;
    assert!(text.contains("rows were written: transform"), "{text}");
    Ok(())
}
