//! A pooler between rowstream and PostgreSQL: one of sessions is as good as the server, one of transactions is refused.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use bson::doc;
use tempfile::TempDir;

use crate::daemon::{Daemon, PATIENCE, command};
use crate::oracle::Plain;
use crate::stage::{Stage, numbered};
use crate::support::pooler::{Pooler, Pooling};
use crate::support::servers::{free_port, spawn, tied_command};
use crate::support::until;

const SEEN: &str = "a transaction pooler is in between";
const REMEDY: &str = "pool_mode = session";

async fn stage(name: &str) -> Result<Stage> {
    let stage = Stage::new(name).await?;
    stage.collection("things").insert_many(numbered(0, 300)).await?;
    Ok(stage)
}

/// `host:port` of the real server.
fn server(stage: &Stage) -> Result<&str> {
    stage.postgres_url.split(['@', '/']).nth(3).context("host and port")
}

/// As the stage's own configuration, to `database` by way of `address`.
fn config(stage: &Stage, address: &str, database: &str) -> Result<String> {
    let mappings = stage.whole("things").replace("allow_empty", "id_type: int, allow_empty");
    let direct = stage.config(&mappings);
    let pooled = format!("postgres://postgres@{address}/{database}?sslmode=disable");
    let pooled = direct.replace(&stage.postgres_url, &pooled) + "snapshot: { chunk_documents: 50 }\n";
    ensure!(pooled != direct, "no URL in the configuration");
    Ok(pooled)
}

/// Commands are waited for by this thread; a pooler of ours needs another one.
async fn said(arguments: &'static [&'static str], config: &str) -> Result<(Option<i32>, String)> {
    let config = config.to_owned();
    let output = tokio::task::spawn_blocking(move || command(arguments, &config)).await??;
    Ok((output.status.code(), String::from_utf8([output.stdout, output.stderr].concat())?))
}

/// Every command that writes, and the daemon: they say what is in the way, and nothing is written.
async fn is_refused(stage: &Stage, config: &str) -> Result<Daemon> {
    for (arguments, code) in [(&["check"], Some(1)), (&["migrate"], Some(1))] {
        let (exit, text) = said(arguments, config).await?;
        ensure!(exit == code, "{arguments:?} ended with {exit:?}: {text}");
        ensure!(text.contains(SEEN) && text.contains(REMEDY), "{arguments:?}: {text}");
    }
    let daemon = Daemon::start(config)?;
    let line = daemon.logged("\"event\":\"halted\"").await?;
    ensure!(line.contains(SEEN) && line.contains(REMEDY), "{line}");
    daemon.check_becomes("leader", &["failing"]).await?;
    ensure!(daemon.detail("leader").await?.contains(REMEDY));
    let made = "select count(*) from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
                where n.nspname in ('rowstream', 'public')";
    assert_eq!(stage.number(made).await?, 0, "something was made behind the pooler");
    Ok(daemon)
}

async fn works(stage: &Stage, daemon: &Daemon) -> Result<()> {
    stage.becomes_equal(daemon, "things", Plain::Int).await?;
    stage.collection("things").update_many(doc! {}, doc! { "$inc": { "n": 1 } }).await?;
    stage.becomes_equal(daemon, "things", Plain::Int).await?;
    daemon.check_becomes("leader", &["ok"]).await
}

#[tokio::test]
async fn a_transaction_pooler_is_refused_before_anything_is_written_and_one_of_sessions_works() -> Result<()>
{
    let stage = stage("pooled").await?;
    let pooler = Pooler::start(server(&stage)?, Pooling::Transaction).await?;
    let config = config(&stage, pooler.address(), &stage.name)?;
    let mut daemon = is_refused(&stage, &config).await?;
    assert!(pooler.handed_over() > 0, "no connection was given to another client");
    assert!(daemon.is_running());

    pooler.pools(Pooling::Session);
    works(&stage, &daemon).await?;
    let (code, text) = said(&["check"], &config).await?;
    assert_eq!(code, Some(0), "{text}");
    assert!(daemon.stop().await?.success());
    Ok(())
}

/// It looked when it began, and somebody changes the pooler's settings later.
#[tokio::test]
async fn a_pooler_that_begins_to_pool_transactions_stops_it_and_falsifies_nothing() -> Result<()> {
    let stage = stage("pooled_later").await?;
    let pooler = Pooler::start(server(&stage)?, Pooling::Session).await?;
    let config = config(&stage, pooler.address(), &stage.name)?;
    let daemon = Daemon::start(&config)?;
    works(&stage, &daemon).await?;

    let things = stage.collection("things");
    pooler.pools(Pooling::Transaction);
    let halted = async {
        let mut next = 1_000;
        loop {
            things.insert_many(numbered(next, next + 10)).await?;
            things.delete_one(doc! { "_id": next - 1_000 }).await?;
            next += 10;
            if daemon.log().iter().any(|line| line.contains(SEEN) && line.contains("\"halted\"")) {
                return anyhow::Ok(());
            }
        }
    };
    let halted = tokio::time::timeout(PATIENCE, halted).await;
    halted.with_context(|| daemon.last_words())??;
    pooler.pools(Pooling::Session);
    works(&stage, &daemon).await?;
    assert_eq!(stage.number("select count(*) from rowstream.held").await?, 0);
    assert!(daemon.stop().await?.success());
    Ok(())
}

/// The real thing, with settings as they are when one installs it.
struct PgBouncer {
    child: std::process::Child,
    address: String,
    _folder: TempDir,
}

impl PgBouncer {
    /// `None`: it is not installed.
    async fn start(stage: &Stage) -> Result<Option<Self>> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let programs = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
        let Some(program) = programs.map(|folder| folder.join("pgbouncer")).find(|file| file.is_file())
        else {
            return Ok(None);
        };
        let (host, port) = server(stage)?.split_once(':').context("a port")?;
        let target = format!("host={host} port={port} dbname={} user=postgres", stage.name);
        let listen = free_port()?;
        let folder = TempDir::new()?;
        let file = folder.path().join("pgbouncer.ini");
        std::fs::write(
            &file,
            format!(
                "[databases]\nby_transaction = {target} pool_mode=transaction\nby_session = {target} pool_mode=session\n\
                 [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {listen}\nauth_type = any\nunix_socket_dir =\n"
            ),
        )?;
        let mut command = tied_command(program, "KILL");
        // It refuses to run as root, and says who shall run it instead.
        if std::fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0) {
            command.args(["-u", "nobody"]);
        }
        command.arg("-q").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = spawn(command).context("starting pgbouncer")?;
        let this = Self { child, address: format!("127.0.0.1:{listen}"), _folder: folder };
        until("pgbouncer to listen", PATIENCE, async || {
            Ok(tokio::net::TcpStream::connect(&this.address).await.is_ok().then_some(()))
        })
        .await?;
        Ok(Some(this))
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn pgbouncer_where_it_is_installed_is_refused_by_transaction_and_works_by_session() -> Result<()> {
    let stage = stage("pgbouncer").await?;
    let Some(pgbouncer) = PgBouncer::start(&stage).await? else {
        eprintln!("pgbouncer is not installed: only the pooler of tests/support was tested");
        return Ok(());
    };
    eprintln!("tested with {}", pgbouncer.address);
    let config_of = |database: &str| config(&stage, &pgbouncer.address, database);
    let refused = is_refused(&stage, &config_of("by_transaction")?).await?;
    assert!(refused.stop().await?.success());
    let daemon = Daemon::start(&config_of("by_session")?)?;
    works(&stage, &daemon).await?;
    assert!(daemon.stop().await?.success());
    Ok(())
}
