//! `rowstream run`

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::{Exit, say};
use crate::app::{self, Summary};
use crate::config::Config;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Stop once everything that had happened by then is copied and applied, and print a summary
    #[arg(long)]
    until_caught_up: bool,
}

pub(super) async fn run(arguments: Arguments, config: Config) -> anyhow::Result<Exit> {
    let shutdown = stop_on_signal().context("cannot listen for signals")?;
    let summary = app::run(config, arguments.until_caught_up, shutdown).await?;
    if arguments.until_caught_up {
        say(&summary.to_string());
    }
    Ok(exit(&summary))
}

fn exit(summary: &Summary) -> Exit {
    if summary.caught_up && summary.held() > 0 { Exit::Findings } else { Exit::Fine }
}

/// True from the first SIGTERM or SIGINT on. A second one ends the process at once.
fn stop_on_signal() -> std::io::Result<watch::Receiver<bool>> {
    let (stop, stopped) = watch::channel(false);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        stop.send_replace(true);
        // Held open: a dropped sender would look like a stop that never comes.
        stop.closed().await;
    });
    Ok(stopped)
}
