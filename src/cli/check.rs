//! `rowstream check`

use super::{Exit, Output, connect_both, say};
use crate::app::{self, Tables, Verdict};
use crate::config::Config;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Count warnings as findings
    #[arg(long)]
    strict: bool,
}

pub(super) async fn run(arguments: Arguments, config: Config) -> anyhow::Result<Exit> {
    let app::Servers { client, mut connection } = connect_both(&config, "check").await?;
    let inspection = app::inspect(&config, &client, &mut connection, Tables::Draft, &[]).await?;
    match arguments.output {
        Output::Json => say(&serde_json::to_string_pretty(&inspection.lines)?),
        Output::Text => inspection.lines.iter().for_each(|line| say(&line.to_string())),
    }
    let warned = inspection.lines.iter().any(|line| line.verdict == Verdict::Warning);
    Ok(if inspection.has_failed() || (arguments.strict && warned) { Exit::Findings } else { Exit::Fine })
}
