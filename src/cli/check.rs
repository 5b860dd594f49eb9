//! `rowstream check`

use anyhow::Context;

use super::{Exit, Output, complain, in_one_line, say};
use crate::app::{self, Tables, Verdict};
use crate::config::Config;
use crate::source;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Count warnings as findings
    #[arg(long)]
    strict: bool,
}

pub(super) async fn run(arguments: Arguments, config: Config) -> anyhow::Result<Exit> {
    let client = source::connect(config.mongodb.uri.expose(), "rowstream check").await?;
    // Both are asked before either is judged: whoever must mend two things wants to know of both.
    let (mongodb, postgresql) =
        tokio::join!(source::operation_time(&client), app::connect_postgres(&config, "check"));
    let mut connection = match (mongodb, postgresql) {
        (Ok(_), postgresql) => postgresql.context("cannot reach postgresql")?,
        (Err(mongodb), Ok(_)) => return Err(mongodb).context("cannot reach mongodb"),
        (Err(mongodb), Err(postgresql)) => {
            let mongodb = anyhow::Error::new(mongodb).context("cannot reach mongodb");
            complain(&in_one_line(&mongodb));
            return Err(postgresql).context("cannot reach postgresql");
        }
    };
    let inspection = app::inspect(&config, &client, &mut connection, Tables::LeaveAlone, &[]).await?;
    match arguments.output {
        Output::Json => say(&serde_json::to_string_pretty(&inspection.lines)?),
        Output::Text => inspection.lines.iter().for_each(|line| say(&line.to_string())),
    }
    let warned = inspection.lines.iter().any(|line| line.verdict == Verdict::Warning);
    Ok(if inspection.has_failed() || (arguments.strict && warned) { Exit::Findings } else { Exit::Fine })
}
