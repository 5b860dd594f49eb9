//! `rowstream status`

use anyhow::Context;

use sqlx::PgConnection;

use super::held::wait_text;
use super::{Exit, Output, complain, printable, say};
use crate::app;
use crate::config::Config;
use crate::operator::{self, DocumentState, DocumentStatus};
use crate::state::overview::{self, Overview};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Tell one document: the name of its mapping …
    #[arg(requires = "id")]
    source: Option<String>,
    /// … and its _id as it stands in source_id
    #[arg(requires = "source")]
    id: Option<String>,
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// From the state in PostgreSQL, so that it answers whether or not a daemon runs, and wherever.
pub(super) async fn run(arguments: Arguments, config: Config) -> anyhow::Result<Exit> {
    let mut connection = app::connect_postgres(&config, "status").await.context("cannot reach postgresql")?;
    if let (Some(source), Some(id)) = (&arguments.source, &arguments.id) {
        return document(&mut connection, &config, source, id, arguments.output).await;
    }
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

async fn document(
    connection: &mut PgConnection,
    config: &Config,
    source: &str,
    id: &str,
    output: Output,
) -> anyhow::Result<Exit> {
    let found = operator::status(connection, &config.pipeline, &config.mappings, source, id);
    let Some(status) = found.await? else {
        complain(&format!("no source {} has been copied yet", printable(source)));
        return Ok(Exit::Findings);
    };
    match output {
        Output::Json => say(&serde_json::to_string_pretty(&status)?),
        Output::Text => say(&document_text(&status)),
    }
    Ok(match status.state {
        DocumentState::Synced => Exit::Fine,
        DocumentState::Pending | DocumentState::Failed | DocumentState::Absent => Exit::Findings,
    })
}

fn document_text(status: &DocumentStatus) -> String {
    let row = match (&status.row.exists, &status.row.claim) {
        (true, Some(claim)) if claim.adopted => "is there, taken over from before",
        (true, Some(claim)) if claim.kept => "is there, though its document is gone",
        (true, _) => "is there",
        (false, Some(claim)) if claim.waits_for_key => "none: another document has its key",
        (false, _) => "none",
    };
    let mut lines = vec![
        format!("document    {} of {}", printable(&status.source_id), printable(&status.source)),
        format!("collection  {}", status.collection),
        format!("table       {}, by ({})", status.table, status.row.key.join(", ")),
        format!("state       {}", status.state.as_str()),
    ];
    lines.extend(status.since.iter().map(|since| format!("since       {since}")));
    lines.push(format!("why         {}", status.why));
    lines.extend(status.hint.iter().map(|hint| format!("what to do  {hint}")));
    lines.push(format!("row         {row}"));
    lines.extend(status.waits.iter().map(wait_text));
    lines.join("\n")
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
    for mapping in &overview.mappings {
        let due = |cause| format!("! a re-sync of {} is due or under way: {cause}", mapping.source);
        lines.extend(mapping.resync.iter().map(due));
    }
    lines.join("\n")
}
