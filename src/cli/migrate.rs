//! `rowstream migrate`

use anyhow::Context;

use super::{Exit, say};
use crate::config::Config;
use crate::{app, state};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Let this role work with the state: for when `run` connects as another role than `migrate`
    #[arg(long, value_name = "ROLE")]
    grant_to: Option<String>,
}

pub(super) async fn run(arguments: Arguments, config: Config) -> anyhow::Result<Exit> {
    let mut connection =
        app::connect_postgres(&config, "migrate").await.context("cannot reach postgresql")?;
    app::refuse_pooler(&config, &mut connection).await?;
    state::migrate(&mut connection).await?;
    say("schema rowstream is up to date");
    if let Some(role) = &arguments.grant_to {
        state::grant(&mut connection, role).await.with_context(|| format!("cannot grant to {role}"))?;
        say(&format!("role {role} may work with it"));
    }
    Ok(Exit::Fine)
}
