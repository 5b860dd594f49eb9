//! Comparisons for commands: the same as the daemon's, on connections of their own.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::postgres::{self, Servers};
use super::{Tables, inspect};
use crate::config::Config;
use crate::pipeline::Error;
use crate::reconcile::{Extent, Options, Outcome, Verifier};
use crate::state::{self, SchemaState, reconcile};

/// What is to be compared.
#[derive(Debug, Clone)]
pub struct Asked {
    pub extent: Extent,
    /// Empty: all of them.
    pub sources: Vec<String>,
    pub documents_per_second: Option<u64>,
    pub patience: Duration,
}

/// Compares once and keeps the report in the state.
pub async fn verify(
    config: &Config,
    servers: Servers,
    asked: Asked,
    cause: &str,
    stop: watch::Receiver<bool>,
) -> Result<Outcome, Error> {
    let Servers { client, mut connection } = servers;
    let failed = |error| Error::retry("look at the schema rowstream", error);
    if state::schema_state(&mut connection).await.map_err(failed)? != SchemaState::Current {
        let hint = "nothing was copied by this version yet: start `rowstream run` first";
        return Err(Error::halt("there is no state of this version to compare with", hint));
    }
    let inspection = inspect(config, &client, &mut connection, Tables::LeaveAlone, &[]).await?;
    let plan = Arc::new(inspection.into_plan()?);
    let known = |name: &&String| plan.source(name).is_none();
    if let Some(unknown) = asked.sources.iter().find(known) {
        let names: Vec<&str> = plan.mapped.iter().map(|mapped| mapped.mapping.source.as_str()).collect();
        let hint = format!("the sources are {}", names.join(", "));
        return Err(Error::halt(format!("there is no source {unknown}"), hint));
    }
    let mut comparing = Vec::new();
    for _ in 0..=config.snapshot.workers {
        let name = format!("rowstream verify {}", config.pipeline);
        let connected = postgres::connect_read_only(&config.postgres, &name).await;
        comparing.push(connected.map_err(|error| postgres::failed("connect to postgresql", error))?);
    }
    let pipeline: Arc<str> = config.pipeline.as_str().into();
    let kept = |error| Error::retry("keep the report", error);
    let begun = reconcile::begin(&mut connection, &pipeline, asked.extent.as_str(), cause).await;
    let Some(run) = begun.map_err(kept)? else {
        let hint = "wait until it is over; one whose process is gone is over after a minute";
        return Err(Error::halt("another comparison of this pipeline is going on", hint));
    };
    let name = format!("rowstream verify {}", config.pipeline);
    let state = postgres::connect(&config.postgres, &name).await;
    let verifier = Verifier {
        client,
        plan,
        pipeline: Arc::clone(&pipeline),
        run,
        options: Options {
            extent: asked.extent,
            sources: asked.sources,
            documents_per_second: asked.documents_per_second,
            patience: asked.patience,
            lease_ttl: config.lease.ttl,
            assertions: Vec::new(),
        },
        comparing,
        state: state.map_err(|error| postgres::failed("connect to postgresql", error))?,
        stop,
    };
    let outcome = verifier.run().await;
    let ended = match &outcome {
        Ok(Outcome::Done(_)) => return outcome,
        Ok(Outcome::Stopped) => "cancelled",
        Err(_) => "failed",
    };
    reconcile::finish(&mut connection, &pipeline, run, ended, None).await.map_err(kept)?;
    outcome
}
