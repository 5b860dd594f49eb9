//! `rowstream resync`

use std::time::Duration;

use anyhow::Context;

use super::run::stop_on_signal;
use super::verify::{could_not_run, exit};
use super::{Exit, Output, complain, connect_both, say};
use crate::app::{self, Resynced};
use crate::config::Config;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The mapping whose rows are brought to what their documents say
    #[arg(required = true)]
    source: Vec<String>,
    /// Wait so long for the pipeline, where it makes no progress
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    patience: u64,
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Count warnings as findings
    #[arg(long)]
    strict: bool,
}

/// Everything is compared, and what differs is read again.
pub(super) async fn run(arguments: Arguments, config: Config) -> anyhow::Result<Exit> {
    let (stop, _abandoned) = stop_on_signal().context("cannot listen for signals")?;
    let patience = Duration::from_secs(arguments.patience);
    let servers = connect_both(&config, "resync").await?;
    let report = match app::resync(config, servers, arguments.source, patience, stop).await {
        Ok(Resynced::Done(report)) => report,
        Ok(Resynced::Stopped) => {
            complain("stopped before it was done: the daemon goes on with it, or the next run");
            return Ok(Exit::Unreachable);
        }
        Err(error) => return Ok(could_not_run(error)),
    };
    match arguments.output {
        Output::Json => say(&serde_json::to_string_pretty(&report)?),
        Output::Text => say(&report.to_string()),
    }
    Ok(exit(report.verdict, arguments.strict))
}
