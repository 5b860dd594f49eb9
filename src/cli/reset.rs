//! `rowstream reset`

use anyhow::Context;

use super::{Exit, complain, say};
use crate::app;
use crate::config::Config;
use crate::state::{self, SchemaState};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Yes, forget it
    #[arg(long)]
    yes: bool,
}

pub(super) async fn run(arguments: Arguments, config: Config) -> anyhow::Result<Exit> {
    let pipeline = &config.pipeline;
    if !arguments.yes {
        complain(&format!(
            "this forgets everything about pipeline {pipeline}: how far it is, what is held, which documents \
             stand for which rows, and all reports. Rows stay as they are; the next run copies every collection \
             again and removes rows whose documents are gone. Say --yes to do it"
        ));
        return Ok(Exit::Usage);
    }
    let mut connection = app::connect_postgres(&config, "reset").await.context("cannot reach postgresql")?;
    if state::schema_state(&mut connection).await.context("cannot read the state")? != SchemaState::Current {
        say(&format!("pipeline {pipeline} has no state of this version in this database"));
        return Ok(Exit::Fine);
    }
    let ttl = config.lease.ttl.as_secs_f64();
    if state::reset(&mut connection, pipeline, ttl).await.context("cannot forget the state")? {
        say(&format!("pipeline {pipeline} is forgotten; `rowstream run` begins anew"));
        return Ok(Exit::Fine);
    }
    complain(&format!("a daemon leads pipeline {pipeline}: stop it first"));
    Ok(Exit::Findings)
}
