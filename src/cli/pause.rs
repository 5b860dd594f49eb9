//! `rowstream pause` and `rowstream resume`

use anyhow::Context;
use sqlx::PgConnection;

use super::{Exit, say};
use crate::app;
use crate::config::Config;
use crate::state::lease;

pub(super) async fn pause(config: Config) -> anyhow::Result<Exit> {
    let mut connection = connect(&config, "pause").await?;
    lease::pause(&mut connection, &config.pipeline).await.context("cannot write the state")?;
    say(&format!(
        "pipeline {} is paused: nothing is applied until `rowstream resume`. Its place in the oplog is kept as long as \
         the oplog is.",
        config.pipeline
    ));
    Ok(Exit::Fine)
}

pub(super) async fn resume(config: Config) -> anyhow::Result<Exit> {
    let mut connection = connect(&config, "resume").await?;
    let was_paused =
        lease::resume(&mut connection, &config.pipeline).await.context("cannot write the state")?;
    say(&match was_paused {
        true => format!("pipeline {} goes on within seconds", config.pipeline),
        false => format!("pipeline {} was not paused", config.pipeline),
    });
    Ok(Exit::Fine)
}

async fn connect(config: &Config, verb: &str) -> anyhow::Result<PgConnection> {
    app::connect_postgres(config, verb).await.context("cannot reach postgresql")
}
