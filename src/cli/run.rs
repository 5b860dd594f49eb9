//! `rowstream run`

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};

use super::{Exit, say};
use crate::app::{self, Until};
use crate::config::Config;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Stop once everything that had happened by then is copied and applied, and print a summary
    #[arg(long)]
    until_caught_up: bool,
}

pub(super) async fn run(arguments: Arguments, config: Config) -> anyhow::Result<Exit> {
    let (shutdown, abandoned) = stop_on_signal().context("cannot listen for signals")?;
    let until = if arguments.until_caught_up { Until::CaughtUp } else { Until::Stopped };
    let summary = tokio::select! {
        summary = app::run(config, until, shutdown) => summary?,
        // Whatever was in flight is rolled back, and taken up again by the next start.
        _ = abandoned => return Ok(Exit::Fine),
    };
    if arguments.until_caught_up {
        say(&summary.to_string());
    }
    let unfinished = arguments.until_caught_up && (!summary.caught_up || summary.held() > 0);
    Ok(if unfinished { Exit::Findings } else { Exit::Fine })
}

/// The first SIGTERM or SIGINT asks to stop, the second one not to wait for it.
pub(super) fn stop_on_signal() -> std::io::Result<(watch::Receiver<bool>, oneshot::Receiver<()>)> {
    let (stop, stopped) = watch::channel(false);
    let (abandon, abandoned) = oneshot::channel();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        for first in [true, false] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if first {
                tracing::info!("stopping");
                stop.send_replace(true);
            }
        }
        // Nobody listens any more only if the process ends anyway.
        let _ = abandon.send(());
    });
    Ok((stopped, abandoned))
}
