//! What people type and what they read: exit codes, and the texts themselves.

use anyhow::{Context, Result};
use bson::doc;

use crate::daemon::{self, Daemon, command};
use crate::stage::{Stage, numbered};

/// Exit code, what it says, what it complains of.
fn ask(arguments: &[&str], config: &str) -> Result<(i32, String, String)> {
    let output = command(arguments, config)?;
    let code = output.status.code().context("ended by a signal")?;
    Ok((code, String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?))
}

fn minimal() -> String {
    daemon::config("mongodb://127.0.0.1:1/shop", "postgres://127.0.0.1:1/shop", "")
}

/// Whatever differs from one run or one machine to the next.
fn redacted(stage: &Stage, text: &str) -> String {
    let text = text.replace(&stage.name, "<database>");
    let line = |line: &str| match line.split_once(": ") {
        Some((subject @ ("✓ mongodb" | "✓ postgresql"), _)) => format!("{subject}: <version>"),
        _ => line.to_owned(),
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn help_says_what_there_is() -> Result<()> {
    let mut all = String::new();
    for verb in
        ["", "run", "check", "schema", "migrate", "status", "held", "pause", "resume", "verify", "config"]
    {
        let arguments: Vec<&str> = [verb, "--help"].into_iter().filter(|word| !word.is_empty()).collect();
        let (code, text, complaint) = ask(&arguments, "")?;
        assert_eq!((code, complaint.as_str()), (0, ""), "{verb}");
        all.push_str(&format!("$ rowstream {}\n{text}\n", arguments.join(" ")));
    }
    insta::assert_snapshot!("help", all);
    let (code, text, _) = ask(&["--version"], "")?;
    assert_eq!((code, text), (0, format!("rowstream {}\n", env!("CARGO_PKG_VERSION"))));
    Ok(())
}

#[test]
fn usage_and_configuration_mistakes_end_with_2_and_are_told_all_at_once() -> Result<()> {
    for arguments in [&["run", "--nonsense"][..], &["nonsense"], &[]] {
        let (code, _, complaint) = ask(arguments, &minimal())?;
        assert_eq!(code, 2, "{complaint}");
    }
    let mistakes = "mongodb: { uri: \"http://secret-user:s3cret@here\" }\n\
                    postgres: { url: \"postgres://u:s3cret@127.0.0.1:1/shop\", lock_timout: 5s }\n\
                    batch: { max_changes: 0, max_bytes: plenty }\nlease: { ttl: 1ms }\nhttp: { listen: nowhere }\n\
                    mappings:\n  - { source: a, collection: nodot, table: t, deletes: soft }\n  - { source: a, table: t }\n";
    for verb in ["run", "check", "migrate", "status"] {
        let (code, text, complaint) = ask(&[verb], mistakes)?;
        assert_eq!((code, text.as_str()), (2, ""), "{verb}");
        assert!(!complaint.contains("s3cret"), "{complaint}");
        if verb == "check" {
            insta::assert_snapshot!("mistakes", complaint);
        }
    }
    let (code, _, complaint) = ask(&["config", "show"], mistakes)?;
    assert_eq!(code, 2, "{complaint}");
    Ok(())
}

#[test]
fn config_show_fills_in_every_default_and_leaves_every_secret_out() -> Result<()> {
    let config = minimal()
        .replace("mongodb://", "mongodb://reader:s3cret@")
        .replace("postgres://", "postgres://writer:s3cret@");
    let (code, text, _) = ask(&["config", "show"], &config)?;
    assert_eq!(code, 0);
    assert!(!text.contains("s3cret"), "{text}");
    insta::assert_snapshot!("config_show", text);
    Ok(())
}

#[test]
fn servers_that_cannot_be_reached_end_with_3_and_no_password_is_told() -> Result<()> {
    let config = daemon::config(
        "mongodb://reader:s3cret@127.0.0.1:1/shop?serverSelectionTimeoutMS=500",
        "postgres://writer:s3cret@127.0.0.1:1/shop",
        "",
    );
    let config = format!("{config}health: {{ outage_failing: 1s }}\n");
    for arguments in [&["check"][..], &["schema"], &["migrate"], &["status"], &["run", "--until-caught-up"]] {
        let (code, text, complaint) = ask(arguments, &config)?;
        assert_eq!((code, text.as_str()), (3, ""), "{arguments:?}: {complaint}");
        assert!(complaint.contains("postgresql"), "it says which server: {complaint}");
        assert!(!complaint.contains("s3cret"), "{complaint}");
    }
    Ok(())
}

#[tokio::test]
async fn a_mongodb_that_cannot_be_reached_ends_check_with_3() -> Result<()> {
    let stage = Stage::new("no_mongodb").await?;
    let uri = "mongodb://reader:s3cret@127.0.0.1:1/shop?serverSelectionTimeoutMS=500";
    let (code, _, complaint) = ask(&["check"], &daemon::config(uri, &stage.postgres_url, ""))?;
    assert_eq!(code, 3, "{complaint}");
    assert!(!complaint.contains("s3cret"), "{complaint}");
    insta::assert_snapshot!("mongodb_unreachable", complaint);
    Ok(())
}

#[tokio::test]
async fn check_reports_every_problem_at_once_and_writes_nothing() -> Result<()> {
    let stage = Stage::new("check").await?;
    stage.collection("orders").insert_many(numbered(0, 5)).await?;
    stage
        .execute(
            "create table fine (source text, source_id text, n bigint, primary key (source, source_id));
             create table keyless (source text, source_id text, n bigint);
             create table strict (source text, source_id text, n bigint, must text not null,
                 made bigint generated always as (1) stored, primary key (source, source_id));
             create view seen as select 1 as one",
        )
        .await?;
    let mapping = |source: &str, table: &str, columns: &str| {
        format!(
            "  - {{ source: {source}, collection: {}.orders, table: {table}, id_type: int, columns: {{ {columns} }} }}\n",
            stage.name
        )
    };
    let fine = mapping("fine", "fine", "n: n");
    let (code, text, _) = ask(&["check"], &stage.config(&fine))?;
    assert_eq!(code, 0, "{text}");
    let (strict, text, _) = ask(&["check", "--strict"], &stage.config(&fine))?;
    assert_eq!(strict, 1, "no state schema yet is a warning: {text}");

    let mappings = [
        fine,
        mapping("absent", "absent", "n: n"),
        mapping("keyless", "keyless", "n: n"),
        mapping("strict", "strict", "n: n, made: n, nobody: n"),
        mapping("a_view", "seen", "one: n"),
        format!("  - {{ source: none, collection: {}.no_orders, table: none }}\n", stage.name),
    ];
    let config = stage.config(&mappings.concat());
    let (code, text, complaint) = ask(&["check"], &config)?;
    assert_eq!((code, complaint.as_str()), (1, ""));
    insta::assert_snapshot!("check", redacted(&stage, &text));
    let (code, json, _) = ask(&["check", "--output", "json"], &config)?;
    assert_eq!(code, 1);
    let lines: serde_json::Value = serde_json::from_str(&json)?;
    let failed = lines.as_array().into_iter().flatten().filter(|line| line["verdict"] == "failed").count();
    assert!(failed >= 5, "{json}");
    assert_eq!(stage.number("select count(*) from pg_namespace where nspname = 'rowstream'").await?, 0);
    assert_eq!(stage.number("select count(*) from pg_class where relname = 'none'").await?, 0);
    Ok(())
}

#[tokio::test]
async fn status_tells_how_far_it_is_with_a_code_for_what_is_held() -> Result<()> {
    let stage = Stage::new("status").await?;
    stage.collection("things").insert_many(numbered(0, 5)).await?;
    let config = stage.config(&stage.whole("things"));
    let (code, text, _) = ask(&["migrate"], &config)?;
    assert_eq!((code, text.as_str()), (0, "schema rowstream is up to date\n"));
    let (code, text, _) = ask(&["status"], &config)?;
    assert_eq!((code, text.as_str()), (0, "pipeline test has no state in this database yet\n"));

    let run = &["--until-caught-up"];
    assert_eq!(Daemon::start_with(&config, run)?.ends().await?.code(), Some(0));
    let (code, text, _) = ask(&["status"], &config)?;
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("things") && text.contains("done") && text.contains("public.things"), "{text}");

    stage.collection("things").insert_one(doc! { "_id": 9, "bad": "\0" }).await?;
    assert_eq!(Daemon::start_with(&config, run)?.ends().await?.code(), Some(1));
    let (code, _, _) = ask(&["status"], &config)?;
    assert_eq!(code, 1, "something is held");
    let (code, json, _) = ask(&["status", "--output", "json"], &config)?;
    let json: serde_json::Value = serde_json::from_str(&json)?;
    assert_eq!((code, &json["mappings"][0]["held"]), (1, &1.into()), "{json}");
    Ok(())
}

#[tokio::test]
async fn a_role_that_may_only_write_the_table_runs_after_a_migrate_that_grants_to_it() -> Result<()> {
    let stage = Stage::new("granted").await?;
    let role = &stage.name;
    stage.collection("things").insert_many(numbered(0, 20)).await?;
    stage
        .execute(&format!(
            "create table things (source text, source_id text, n bigint, primary key (source, source_id));
             create role {role} login;
             grant select, insert, update, delete on things to {role}"
        ))
        .await?;
    let mapping = format!(
        "  - {{ source: things, collection: {}.things, table: things, id_type: int, columns: {{ n: n }} }}\n",
        stage.name
    );
    let url = stage.postgres_url.replace("postgres://postgres@", &format!("postgres://{role}@"));
    let restricted = daemon::config(&stage.mongodb_uri, &url, &mapping);

    let (code, text, complaint) = ask(&["run", "--until-caught-up"], &restricted)?;
    assert_eq!(code, 1, "{text}{complaint}");
    assert!(complaint.contains("rowstream migrate") && complaint.contains("--grant-to"), "{complaint}");

    let (code, text, complaint) = ask(&["migrate", "--grant-to", role], &stage.config(&mapping))?;
    assert_eq!(code, 0, "{complaint}");
    assert_eq!(text, format!("schema rowstream is up to date\nrole {role} may work with it\n"));
    for n in [20, 19] {
        let (code, text, complaint) = ask(&["run", "--until-caught-up"], &restricted)?;
        assert_eq!(code, 0, "{text}{complaint}");
        assert_eq!(stage.number("select count(*) from things").await?, n);
        stage.collection("things").delete_one(doc! { "_id": n - 1 }).await?;
    }
    let (code, text, _) = ask(&["status"], &restricted)?;
    assert_eq!(code, 0, "{text}");
    Ok(())
}
