//! The `rowstream run` that is shown, as a process of its own.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::servers::{Directory, free_port, send_signal, spawn, tied_command};
use crate::sides::Sides;
use crate::{expenses, until};

const STOP_LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct Daemon {
    child: Mutex<Child>,
    address: SocketAddr,
    folder: Directory,
}

impl Daemon {
    pub(crate) fn start(program: &Path, sides: &Sides) -> Result<Self> {
        ensure!(program.exists(), "{} is not there: cargo build makes it", program.display());
        let folder = Directory::new("demo")?;
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let file = folder.path().join("rowstream.yaml");
        let text = expenses::configuration(sides.mongodb_name());
        fs::write(&file, format!("{text}\nhttp:\n  listen: {address}\n"))?;
        let log = File::create(folder.path().join("rowstream.log"))?;

        let mut command = tied_command(program, "KILL");
        command.arg("run").arg("--config").arg(&file);
        command.env("MONGODB_URI", &sides.mongodb_uri).env("DATABASE_URL", &sides.postgres_url);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = spawn(command).with_context(|| format!("starting {}", program.display()))?;
        fs::write(folder.path().join("pid"), format!("{}\n", child.id()))?;
        Ok(Self { child: Mutex::new(child), address, folder })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.folder.path().join("rowstream.log")
    }

    pub(crate) fn check_alive(&self) -> Result<()> {
        match self.ended()? {
            None => Ok(()),
            Some(status) => bail!("rowstream ended ({status}); its last words:\n{}", self.last_words()),
        }
    }

    /// As an operator stops it, and the answer it gives.
    pub(crate) async fn stop(&self) -> Result<()> {
        send_signal("TERM", self.pid()?)?;
        let status = until("the end of rowstream", STOP_LIMIT, async || self.ended()).await?;
        ensure!(status.success(), "rowstream ended with {status}; its last words:\n{}", self.last_words());
        Ok(())
    }

    /// The answer's status and body. Loopback, and a second at most: what it says is only shown.
    pub(crate) fn get(&self, path: &str) -> Result<(u16, String)> {
        const LIMIT: Duration = Duration::from_secs(1);
        let mut stream = TcpStream::connect_timeout(&self.address, LIMIT)?;
        stream.set_read_timeout(Some(LIMIT))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.address)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("an answer without an end of its head")?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        Ok((status.context("an answer without a status")?, body.to_owned()))
    }

    fn ended(&self) -> Result<Option<ExitStatus>> {
        let mut child = self.child.lock().map_err(|_| anyhow!("the process is in broken hands"))?;
        Ok(child.try_wait()?)
    }

    fn pid(&self) -> Result<u32> {
        let child = self.child.lock().map_err(|_| anyhow!("the process is in broken hands"))?;
        Ok(child.id())
    }

    fn last_words(&self) -> String {
        const LINES: usize = 15;
        let text = fs::read(self.log()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Where it was not stopped in order there is nothing left to keep: its database goes, too.
        if let Ok(child) = self.child.get_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
