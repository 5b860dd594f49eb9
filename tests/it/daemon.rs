//! The built binary as a child process, as its users run it.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::until;

/// Long beside anything that should happen here, short beside a test run that hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn binary() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_rowstream"))
}

/// Runs one command to its end.
pub(crate) fn command(arguments: &[&str], config: &str) -> Result<Output> {
    let folder = TempDir::new()?;
    let file = folder.path().join("rowstream.yaml");
    std::fs::write(&file, config)?;
    let mut command = Command::new(binary());
    command.args(arguments).arg("--config").arg(&file).env_remove("RUST_LOG");
    Ok(command.output()?)
}

/// A configuration for these databases; `mappings` is YAML below `mappings:`.
pub(crate) fn config(mongodb: &str, postgres: &str, mappings: &str) -> String {
    let mut text = format!(
        "pipeline: test\nmongodb: {{ uri: \"{mongodb}\" }}\npostgres: {{ url: \"{postgres}\" }}\n\
         http: {{ listen: \"127.0.0.1:0\" }}\nlog: {{ format: json }}\n\
         held: {{ retry_initial: 500ms, retry_max: 2s }}\nlease: {{ ttl: 3s }}\n"
    );
    if !mappings.is_empty() {
        text.push_str("mappings:\n");
        text.push_str(mappings);
    }
    text
}

/// A running `rowstream run`. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    _folder: TempDir,
}

impl Daemon {
    pub(crate) fn start(config: &str) -> Result<Self> {
        Self::start_with(config, &[])
    }

    pub(crate) fn start_with(config: &str, arguments: &[&str]) -> Result<Self> {
        Self::start_in(config, arguments, &[])
    }

    /// With these variables in its environment.
    pub(crate) fn start_in(config: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Result<Self> {
        let folder = TempDir::new()?;
        let file = folder.path().join("rowstream.yaml");
        std::fs::write(&file, config)?;
        let mut child = Command::new(binary())
            .arg("run")
            .args(arguments)
            .arg("--config")
            .arg(&file)
            .env_remove("RUST_LOG")
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start the binary")?;
        let log = Arc::new(Mutex::new(Vec::new()));
        if let Some(stderr) = child.stderr.take() {
            let log = Arc::clone(&log);
            std::thread::spawn(move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    log.lock().expect("no test panics while it holds the log").push(line);
                }
            });
        }
        Ok(Self { child, log, _folder: folder })
    }

    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lock().expect("no test panics while it holds the log").clone()
    }

    /// The first line with this text in it, if there is one by now.
    pub(crate) fn line(&self, text: &str) -> Option<String> {
        let log = self.log.lock().expect("no test panics while it holds the log");
        log.iter().find(|line| line.contains(text)).cloned()
    }

    /// As `line`, once there is one.
    pub(crate) async fn logged(&self, text: &str) -> Result<String> {
        let what = format!("a log line with {text:?}");
        let found = until(&what, PATIENCE, async || Ok(self.line(text)));
        found.await.with_context(|| self.last_words())
    }

    pub(crate) fn last_words(&self) -> String {
        let log = self.log();
        let from = log.len().saturating_sub(25);
        format!("the last lines of the daemon's log:\n{}", log[from..].join("\n"))
    }

    async fn address(&self) -> Result<String> {
        let line = self.logged("http is listening").await?;
        let line: Value = serde_json::from_str(&line)?;
        let address = line.pointer("/fields/address").or_else(|| line.get("address"));
        Ok(address.and_then(Value::as_str).context("no address in the log line")?.to_owned())
    }

    /// Status code and body.
    pub(crate) async fn get(&self, path: &str) -> Result<(u16, String)> {
        self.ask("GET", path).await
    }

    /// As `get`, by any method.
    pub(crate) async fn ask(&self, method: &str, path: &str) -> Result<(u16, String)> {
        http(&self.address().await?, method, path, "").await
    }

    /// The whole answer, head and body, to a request with these further lines of a head, each with its end.
    pub(crate) async fn answer(
        &self,
        method: &str,
        path: &str,
        head: &str,
        body: &str,
    ) -> Result<(u16, String)> {
        let answer = exchange(&self.address().await?, method, path, head, body).await?;
        let code = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
        Ok((code.context("no status code")?, answer))
    }

    /// Status code and answer.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<(u16, Value)> {
        let (code, answer) = http(&self.address().await?, "POST", path, &body.to_string()).await?;
        Ok((code, serde_json::from_str(&answer)?))
    }

    pub(crate) async fn status(&self) -> Result<Value> {
        let (code, body) = self.get("/status").await?;
        ensure!(code == 200, "/status answered {code}");
        Ok(serde_json::from_str(&body)?)
    }

    /// 200 or 503, and the check of this name.
    pub(crate) async fn check(&self, name: &str) -> Result<(u16, String)> {
        let (code, check) = self.whole_check(name).await?;
        Ok((code, check["status"].as_str().unwrap_or_default().to_owned()))
    }

    /// What a check says of itself.
    pub(crate) async fn detail(&self, name: &str) -> Result<String> {
        let (_, check) = self.whole_check(name).await?;
        Ok(check["detail"].as_str().unwrap_or_default().to_owned())
    }

    /// When a check became what it is.
    pub(crate) async fn since(&self, name: &str) -> Result<String> {
        let (_, check) = self.whole_check(name).await?;
        Ok(check["since"].as_str().unwrap_or_default().to_owned())
    }

    async fn whole_check(&self, name: &str) -> Result<(u16, Value)> {
        let (code, body) = self.get("/health").await?;
        let body: Value = serde_json::from_str(&body)?;
        let checks = body["checks"].as_array().context("no checks")?;
        let check = checks.iter().find(|check| check["name"] == name);
        Ok((code, check.with_context(|| format!("no check {name} in {body}"))?.clone()))
    }

    /// Waits until a check has one of these states.
    pub(crate) async fn check_becomes(&self, name: &str, states: &[&str]) -> Result<()> {
        until(&format!("check {name} to be one of {states:?}"), PATIENCE, async || {
            let (_, state) = self.check(name).await?;
            Ok(states.contains(&state.as_str()).then_some(()))
        })
        .await
        .with_context(|| self.last_words())
    }

    /// The sum of a metric over its labels.
    pub(crate) async fn metric(&self, name: &str) -> Result<f64> {
        let (_, body) = self.get("/metrics").await?;
        let of_name =
            |line: &&str| line.starts_with(&format!("{name} ")) || line.starts_with(&format!("{name}{{"));
        Ok(body.lines().filter(of_name).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: &str) -> Result<()> {
        let status = Command::new("sh").args(["-c", &format!("kill -{signal} {}", self.pid())]).status()?;
        ensure!(status.success(), "kill -{signal} failed");
        Ok(())
    }

    pub(crate) fn kill9(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM, and its exit status.
    pub(crate) async fn stop(self) -> Result<ExitStatus> {
        self.signal("TERM")?;
        self.ends().await
    }

    pub(crate) async fn ends(mut self) -> Result<ExitStatus> {
        let words = Arc::clone(&self.log);
        let child = &mut self.child;
        until("the daemon to end", PATIENCE, async || Ok(child.try_wait()?))
            .await
            .with_context(|| format!("{:#?}", words.lock().expect("no test panics while it holds the log")))
    }

    /// What it printed for people, and its exit status.
    pub(crate) async fn ends_with_output(mut self) -> Result<(ExitStatus, String)> {
        let mut stdout = self.child.stdout.take().context("no stdout")?;
        let status = self.ends().await?;
        let mut text = String::new();
        stdout.read_to_string(&mut text)?;
        Ok((status, text))
    }

    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // A stopped process takes the kill as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The answer as it comes.
async fn exchange(address: &str, method: &str, path: &str, head: &str, body: &str) -> Result<String> {
    let exchange = async {
        let mut stream = tokio::net::TcpStream::connect(address).await?;
        let length = match body.len() {
            0 => String::new(),
            length => format!("content-length: {length}\r\n"),
        };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {address}\r\n{head}{length}connection: close\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&answer).into_owned())
    };
    Ok(tokio::time::timeout(PATIENCE, exchange).await.context("no answer over http")??)
}

async fn http(address: &str, method: &str, path: &str, body: &str) -> Result<(u16, String)> {
    let answer = exchange(address, method, path, "", body).await?;
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { bail!("no head in {answer:?}") };
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no status code")?;
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    Ok((code, if chunked { unchunk(body) } else { body.to_owned() }))
}

fn unchunk(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        if size == 0 || size > rest.len() {
            break;
        }
        whole.push_str(&rest[..size]);
        body = rest[size..].trim_start_matches("\r\n");
    }
    whole
}
