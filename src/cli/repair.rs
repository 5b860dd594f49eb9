//! `rowstream repair`

use std::time::Duration;

use anyhow::Context;

use super::run::stop_on_signal;
use super::verify::could_not_run;
use super::{Exit, Output, connect_both, say};
use crate::app::{self, Apply};
use crate::config::Config;
use crate::reconcile::Which;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Do it; without, it only says what it would do
    #[arg(long)]
    apply: bool,
    /// Repair the rows of this mapping alone; may be given several times
    #[arg(long, value_name = "NAME")]
    source: Vec<String>,
    /// Repair the rows of so many documents at the most
    #[arg(long, value_name = "DOCUMENTS", default_value_t = 10_000)]
    limit: u64,
    /// Repair also what differed again after an earlier repair
    #[arg(long)]
    again: bool,
    /// Wait so long for a daemon that makes no progress
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    patience: u64,
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Count what could not be judged, too
    #[arg(long)]
    strict: bool,
}

pub(super) async fn run(arguments: Arguments, config: Config) -> anyhow::Result<Exit> {
    let (stop, _abandoned) = stop_on_signal().context("cannot listen for signals")?;
    let servers = connect_both(&config, "repair").await?;
    let which = Which { sources: arguments.source, limit: arguments.limit, again: arguments.again };
    let apply = if arguments.apply { Apply::Apply } else { Apply::DryRun };
    let patience = Duration::from_secs(arguments.patience);
    let repairs = match app::repair(config, servers, which, apply, patience, stop).await {
        Ok(repairs) => repairs,
        Err(error) => return Ok(could_not_run(error)),
    };
    match arguments.output {
        Output::Json => say(&serde_json::to_string_pretty(&repairs)?),
        Output::Text => say(&repairs.to_string()),
    }
    let unfinished = repairs.repaired.is_none() && repairs.documents > 0;
    let unjudged = arguments.strict && repairs.unjudged > 0;
    let left = unfinished || unjudged || !repairs.not_converging.is_empty() || repairs.left_alone > 0;
    Ok(if left { Exit::Findings } else { Exit::Fine })
}
