//! A full comparison, beside the snapshot that has made its rows.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::shares::Shares;
use crate::support::servers::{Mongod, Postgres};
use crate::{Round, Scale, copy, ledger};

pub(crate) async fn rounds(mongod: &Mongod, postgres: &Postgres, scale: &Scale) -> Result<Vec<Round>> {
    let mut rounds = Vec::new();
    for number in 0..scale.rounds {
        let snapshot = copy::snapshot(mongod, postgres, scale.documents).await?;
        let shares = Shares::now()?;
        let value = verify(mongod, &postgres.url_of(copy::DATABASE), scale.documents)?;
        let shares = shares.until_now()?;
        println!("verify round {number}: {value:.0} of {:.0} documents/s; {shares}", snapshot.value);
        rounds.push(Round { value, limit: snapshot.value, ..snapshot });
    }
    Ok(rounds)
}

/// Documents in a second, by the report's own clock: from the first to the last look.
fn verify(mongod: &Mongod, postgres_url: &str, documents: u64) -> Result<f64> {
    let folder = TempDir::new()?;
    let file = folder.path().join("rowstream.yaml");
    let config = format!(
        "pipeline: bench\nmongodb: {{ uri: \"{}\" }}\npostgres: {{ url: \"{postgres_url}\" }}\nmappings:\n{}",
        mongod.uri(),
        ledger::MAPPING
    );
    std::fs::write(&file, config)?;
    let program = std::env::var_os("ROWSTREAM_BIN")
        .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_rowstream")), PathBuf::from);
    let mut command = Command::new(program);
    command.args(["verify", "--output", "json", "--config"]).arg(&file).env_remove("RUST_LOG");
    let output = command.output().context("starting verify")?;
    ensure!(output.status.success(), "verify: {}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout)?;
    ensure!(report["documents"].as_u64() == Some(documents), "not all were compared: {report:#}");
    report["documents_per_second"].as_f64().context("no rate")
}
