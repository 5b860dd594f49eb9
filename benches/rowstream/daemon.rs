//! The release binary as a process of its own, and what the kernel says of it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sqlx::PgConnection;
use tempfile::TempDir;

use crate::support::servers::{Mongod, send_signal, spawn, tied_command};
use crate::support::until;

pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// /proc counts in hundredths of a second, on every Linux of today.
const TICKS_PER_SECOND: f64 = 100.0;

/// More than a daemon says in a whole run; nobody reads them once its session has started.
const LOG_LINES: usize = 10_000;

#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    log: mpsc::Receiver<(Instant, String)>,
    _folder: TempDir,
}

impl Daemon {
    /// Default settings: what is measured is what a user gets.
    pub(crate) fn start(mongod: &Mongod, postgres_url: &str, mappings: &str) -> Result<Self> {
        let folder = TempDir::new()?;
        let file = folder.path().join("rowstream.yaml");
        let config = format!(
            "pipeline: bench\nmongodb: {{ uri: \"{}\" }}\npostgres: {{ url: \"{postgres_url}\" }}\n\
             http: {{ listen: \"127.0.0.1:0\" }}\nmappings:\n{mappings}",
            mongod.uri()
        );
        fs::write(&file, config)?;
        let program = std::env::var_os("ROWSTREAM_BIN")
            .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_rowstream")), PathBuf::from);
        let mut command = tied_command(&program, "KILL");
        command.arg("run").arg("--config").arg(&file).env_remove("RUST_LOG");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = spawn(command).with_context(|| format!("starting {}", program.display()))?;
        let stderr = child.stderr.take().context("no stderr")?;
        let (lines, log) = mpsc::sync_channel(LOG_LINES);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                // Full, or nobody listens any more.
                let _ = lines.try_send((Instant::now(), line));
            }
        });
        Ok(Self { child, log, _folder: folder })
    }

    /// When it opened its change stream.
    pub(crate) async fn session_started(&mut self) -> Result<Instant> {
        let mut words = Vec::new();
        let started = until("the session of the daemon", PATIENCE, async || {
            while let Ok((at, line)) = self.log.try_recv() {
                if line.contains("session started") {
                    return Ok(Some(at));
                }
                words.push(line);
            }
            ensure!(self.child.try_wait()?.is_none(), "the daemon ended");
            Ok(None)
        });
        started.await.with_context(|| words.join("\n"))
    }

    /// User and system time so far.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields = stat.rsplit_once(") ").context("no name in /proc/PID/stat")?.1;
        // Counted from the state: utime and stime are fields 14 and 15 of the whole line.
        let ticks: Vec<f64> =
            fields.split(' ').skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
        Ok(Duration::from_secs_f64(ticks.iter().sum::<f64>() / TICKS_PER_SECOND))
    }

    /// The most memory it ever had, in bytes.
    pub(crate) fn peak_memory(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
        let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kibibytes * 1024)
    }

    pub(crate) async fn stop(mut self) -> Result<()> {
        send_signal("TERM", self.child.id())?;
        let status = until("the end of the daemon", PATIENCE, async || Ok(self.child.try_wait()?)).await?;
        ensure!(status.success(), "the daemon ended with {status}");
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until a query on the daemon's state says `true`; a missing table is a state that is not there yet.
pub(crate) async fn reached(connection: &mut PgConnection, what: &str, sql: &'static str) -> Result<()> {
    until(what, PATIENCE, async || {
        let found: Result<Option<bool>, _> = sqlx::query_scalar(sql).fetch_optional(&mut *connection).await;
        Ok(found.ok().flatten().filter(|reached| *reached).map(drop))
    })
    .await
}
