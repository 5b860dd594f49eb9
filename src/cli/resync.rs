//! `rowstream resync`

use std::time::Duration;

use anyhow::Context;

use super::run::stop_on_signal;
use super::verify::could_not_run;
use super::{Exit, connect_both, say};
use crate::app::{self, Apply, Asked};
use crate::config::Config;
use crate::reconcile::{Extent, Outcome, Which};

/// Findings of a source are kept up to a number, so a table that was emptied takes several rounds.
const ROUNDS: usize = 1_000;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The mapping whose rows are brought to what their documents say
    #[arg(required = true)]
    source: Vec<String>,
    /// Wait so long for the pipeline, where it makes no progress
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    patience: u64,
}

/// Everything is compared, what differs is repaired, until nothing is left that a repair can help.
pub(super) async fn run(arguments: Arguments, config: Config) -> anyhow::Result<Exit> {
    let (stop, _abandoned) = stop_on_signal().context("cannot listen for signals")?;
    let patience = Duration::from_secs(arguments.patience);
    let which = Which { sources: arguments.source.clone(), limit: u64::from(u32::MAX), again: false };
    for _ in 0..ROUNDS {
        let asked = Asked {
            extent: Extent::Full,
            sources: arguments.source.clone(),
            documents_per_second: None,
            patience,
            shown: 0,
        };
        let servers = connect_both(&config, "resync").await?;
        let report = match app::verify(&config, servers, asked, "command", stop.clone()).await {
            Ok(Outcome::Done(report)) => report,
            Ok(Outcome::Stopped) => return Ok(Exit::Unreachable),
            Err(error) => return Ok(could_not_run(error)),
        };
        say(&report.to_string());
        if report.findings() == 0 {
            return Ok(Exit::Fine);
        }
        let servers = connect_both(&config, "resync").await?;
        let repairing =
            app::repair(config.clone(), servers, which.clone(), Apply::Apply, patience, stop.clone()).await;
        let repairs = match repairing {
            Ok(repairs) => repairs,
            Err(error) => return Ok(could_not_run(error)),
        };
        say(&repairs.to_string());
        if repairs.repaired.unwrap_or(0) == 0 && repairs.healed == 0 {
            return Ok(Exit::Findings);
        }
    }
    Ok(Exit::Findings)
}
