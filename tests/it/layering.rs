//! The seams of the house, as the table of the architecture has them: who may know whom.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Which of the crate's modules each module may name. Those that only join things are left out.
const MAY_NAME: [(&str, &[&str]); 9] = [
    ("domain", &[]),
    ("config", &["domain"]),
    ("mapping", &["config", "domain"]),
    ("source", &["domain"]),
    ("transform", &["config", "domain", "mapping"]),
    ("sink", &["config", "domain", "mapping"]),
    ("state", &["domain"]),
    ("operator", &["config", "domain", "sink", "state"]),
    // `sink` is missing: pages and figures come from the status. `state` is named for its words alone.
    ("http", &["config", "domain", "metrics", "operator", "pipeline", "state"]),
];

/// Who begins a transaction on the target, and why each but the first may.
const BEGINS: [(&str, &str); 4] = [
    ("pipeline/commit.rs", "the one way rows are written"),
    ("state/lease.rs", "taking the lease: before it there is no fence to pass"),
    ("state/schema.rs", "`migrate`: the state schema's own migrations, under a lock"),
    ("state/overview.rs", "`status`: reads several tables as of one moment, read only"),
];

/// Path below src, and the text without comments and unit tests.
fn sources() -> Result<BTreeMap<String, String>> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            match path.is_dir() {
                true => walk(&path, found)?,
                false => found.push(path),
            }
        }
        Ok(())
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    walk(&root, &mut files)?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "rs"));
    let read = |path: PathBuf| {
        let name = path.strip_prefix(&root)?.to_str().context("a path in UTF-8")?.to_owned();
        let text = fs::read_to_string(&path)?;
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        Ok((name, lines.collect::<Vec<_>>().join("\n")))
    };
    let sources: BTreeMap<String, String> = files.into_iter().map(read).collect::<Result<_>>()?;
    Ok(sources.into_iter().filter(|(name, _)| !name.ends_with("tests.rs")).collect())
}

/// The first name after each `crate::`, also those in a list: `use crate::{app, config::Config}`.
fn named(code: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (place, _) in code.match_indices("crate::") {
        let rest = &code[place + "crate::".len()..];
        let list = match rest.strip_prefix('{') {
            Some(list) => list.split_once("};").map_or(list, |(list, _)| list),
            None => rest.split([';', ' ', '(', ')', ',', '\n']).next().unwrap_or_default(),
        };
        let mut depth = 0;
        let top = list.split(|c: char| {
            depth += match c {
                '{' => 1,
                '}' => -1,
                _ => 0,
            };
            c == ',' && depth == 0
        });
        names.extend(top.filter_map(|path| path.trim().split("::").next()).map(str::to_owned));
    }
    names
}

fn stage_of(file: &str) -> &str {
    file.split(['/', '.']).next().unwrap_or(file)
}

#[test]
fn no_module_names_one_that_it_must_not_know() -> Result<()> {
    let sources = sources()?;
    assert!(sources.len() > 60, "the files are found");
    for (stage, _) in MAY_NAME {
        assert!(sources.keys().any(|file| stage_of(file) == stage), "{stage} is still there");
    }
    let mut wrong = Vec::new();
    for (file, code) in &sources {
        let stage = stage_of(file);
        let Some((_, allowed)) = MAY_NAME.iter().find(|(of, _)| *of == stage) else { continue };
        for name in named(code) {
            if name != stage && !allowed.contains(&name.as_str()) {
                wrong.push(format!("{file} names crate::{name}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

#[test]
fn nothing_but_the_commit_begins_a_transaction_on_the_target() -> Result<()> {
    let begins = |code: &str| {
        [".begin_with(", "connection.begin()", "transaction::begin("].iter().any(|call| code.contains(call))
    };
    let found: Vec<String> =
        sources()?.into_iter().filter(|(_, code)| begins(code)).map(|(file, _)| file).collect();
    let mut allowed = BEGINS.map(|(file, _)| file.to_owned());
    allowed.sort();
    assert_eq!(found, allowed);
    Ok(())
}

#[test]
fn each_server_is_spoken_to_in_its_own_module() -> Result<()> {
    let mut wrong = Vec::new();
    for (file, code) in sources()? {
        let stage = stage_of(&file);
        let has = |text: &str| code.contains(text);
        let sql = has("sqlx::query") || has("sqlx::raw_sql");
        // app/inspect/servers.rs asks what no table says: version, role, standby. app/postgres.rs sets up a session.
        let may_have_sql = matches!(stage, "sink" | "state")
            || matches!(file.as_str(), "app/inspect/servers.rs" | "app/postgres.rs");
        if sql && !may_have_sql {
            wrong.push(format!("{file} contains SQL"));
        }
        let may_know_postgresql =
            matches!(stage, "app" | "sink" | "state" | "pipeline" | "operator" | "reconcile");
        // A command hands its connection on.
        let may_know_postgresql = may_know_postgresql || stage == "cli";
        if has("sqlx::") && !may_know_postgresql {
            wrong.push(format!("{file} knows PostgreSQL"));
        }
        // app, cli, reconcile and pipeline hand the client on.
        let may_know_mongodb = matches!(stage, "app" | "source" | "pipeline" | "reconcile");
        if has("mongodb::") && !may_know_mongodb {
            wrong.push(format!("{file} knows the MongoDB driver"));
        }
        if stage == "pipeline" && (has(".aggregate(") || has("run_command") || has("doc! {")) {
            wrong.push(format!("{file} speaks to MongoDB itself"));
        }
        if stage == "transform" && (has("async ") || has("::now()") || has("tracing::")) {
            wrong.push(format!("{file} is not pure"));
        }
        if stage == "domain" && (has("async ") || has("tracing::") || has("std::fs") || has("tokio::")) {
            wrong.push(format!("{file} does I/O"));
        }
        if stage == "sink" && has("ResumeToken") {
            wrong.push(format!("{file} knows a resume token"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

/// The clock of this machine may be wrong, or jump: it is shown, and decides nothing about who writes what.
#[test]
fn the_clock_of_this_machine_is_only_looked_at_for_what_is_told() -> Result<()> {
    const TOLD: [&str; 2] = ["pipeline/moment.rs", "pipeline/report.rs"];
    let reads =
        |code: &str| ["SystemTime", "Utc::now", "DateTime::now"].iter().any(|clock| code.contains(clock));
    let found: Vec<String> =
        sources()?.into_iter().filter(|(_, code)| reads(code)).map(|(file, _)| file).collect();
    assert_eq!(found, TOLD);
    Ok(())
}
