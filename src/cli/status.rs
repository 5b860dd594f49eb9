//! `rowstream status`

use anyhow::Context;

use super::{Exit, Output, say};
use crate::app;
use crate::config::Config;
use crate::state::overview::{self, Overview};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// From the state in PostgreSQL, so that it answers whether or not a daemon runs, and wherever.
pub(super) async fn run(arguments: Arguments, config: Config) -> anyhow::Result<Exit> {
    let mut connection = app::connect_postgres(&config, "status").await.context("cannot reach postgresql")?;
    let found = overview::load(&mut connection, &config.pipeline).await.context("cannot read the state")?;
    let Some(overview) = found else {
        say(&format!("pipeline {} has no state in this database yet", config.pipeline));
        return Ok(Exit::Fine);
    };
    match arguments.output {
        Output::Json => say(&serde_json::to_string_pretty(&overview)?),
        Output::Text => say(&text(&overview)),
    }
    Ok(if overview.held() > 0 { Exit::Findings } else { Exit::Fine })
}

fn text(overview: &Overview) -> String {
    let mut lines = vec![format!("pipeline    {}", overview.pipeline)];
    lines.push(match &overview.leader {
        Some(leader) => format!(
            "leader      {} (epoch {}, heartbeat {:.1} s ago)",
            leader.owner, leader.epoch, leader.heartbeat_age_seconds
        ),
        None => "leader      none".to_owned(),
    });
    lines.push(match &overview.checkpoint {
        Some(checkpoint) => format!(
            "checkpoint  {} (commit {}, written {:.1} s ago)",
            checkpoint.cluster_time, checkpoint.seq, checkpoint.age_seconds
        ),
        None => "checkpoint  none".to_owned(),
    });
    lines.push(String::new());
    let width =
        overview.mappings.iter().map(|mapping| mapping.source.chars().count()).max().unwrap_or(0).max(6);
    lines.push(format!("{:width$}  snapshot   documents  held  table", "source"));
    for mapping in &overview.mappings {
        lines.push(format!(
            "{:width$}  {:8}  {:>10}  {:>4}  {}",
            mapping.source, mapping.snapshot_state, mapping.documents, mapping.held, mapping.table
        ));
    }
    lines.join("\n")
}
