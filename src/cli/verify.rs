//! `rowstream verify`

use std::time::Duration;

use anyhow::Context;

use super::run::stop_on_signal;
use super::{Exit, Output, complain, connect_both, in_one_line, say};
use crate::app::{self, Asked};
use crate::config::Config;
use crate::pipeline::Error;
use crate::reconcile::{Extent, Outcome, Verdict};

/// Rows of each look whose values are shown, where they are wanted.
const SHOWN: usize = 100;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Compare so many documents and rows of each mapping, at random, instead of everything
    #[arg(long, value_name = "DOCUMENTS")]
    sample: Option<u64>,
    /// Compare this mapping alone; may be given several times
    #[arg(long, value_name = "NAME")]
    source: Vec<String>,
    /// Read at most so many documents in a second
    #[arg(long, value_name = "DOCUMENTS")]
    rate: Option<u64>,
    /// Wait so long for the pipeline before a difference is judged
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    patience: u64,
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Print what some of the columns that differ hold and should hold; values are kept nowhere
    #[arg(long)]
    show_values: bool,
    /// Count warnings as findings
    #[arg(long)]
    strict: bool,
}

pub(super) async fn run(arguments: Arguments, config: Config) -> anyhow::Result<Exit> {
    let (stop, _abandoned) = stop_on_signal().context("cannot listen for signals")?;
    let servers = connect_both(&config, "verify").await?;
    let asked = Asked {
        extent: arguments.sample.map_or(Extent::Full, Extent::Sample),
        sources: arguments.source,
        documents_per_second: arguments.rate,
        patience: Duration::from_secs(arguments.patience),
        shown: if arguments.show_values { SHOWN } else { 0 },
    };
    let report = match app::verify(&config, servers, asked, "command", stop).await {
        Ok(Outcome::Done(report)) => report,
        Ok(Outcome::Stopped) => {
            complain("stopped before everything was compared");
            return Ok(Exit::Unreachable);
        }
        Err(error) => return Ok(could_not_run(error)),
    };
    match arguments.output {
        Output::Json => say(&serde_json::to_string_pretty(&report.with_values()?)?),
        Output::Text => say(&report.to_string()),
    }
    Ok(exit(report.verdict, arguments.strict))
}

/// Warnings do not fail unless asked.
pub(super) fn exit(verdict: Verdict, strict: bool) -> Exit {
    match verdict {
        Verdict::Passed => Exit::Fine,
        Verdict::Warning if !strict => Exit::Fine,
        Verdict::Warning | Verdict::Failed => Exit::Findings,
    }
}

/// What was not compared is no finding, whatever the reason.
pub(super) fn could_not_run(error: Error) -> Exit {
    let hint = match &error {
        Error::Halt { hint, .. } => hint.clone(),
        _ => String::new(),
    };
    complain(&in_one_line(&error.into()));
    if !hint.is_empty() {
        complain(&format!("  {hint}"));
    }
    Exit::Unreachable
}
