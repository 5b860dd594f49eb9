//! Real servers, started by whoever needs them and gone with whoever started them.
//!
//! Two things see to the end, since a test may be killed at any point: each server asks the kernel to
//! be told when its starter dies (`setpriv --pdeathsig`), and each folder has a janitor, a small shell that
//! waits for our end of its pipe to close, ends the server if it still runs, and removes the folder.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, OnceLock, mpsc};
use std::time::Duration;
use std::{env, io, process, thread};

use anyhow::{Context, Result, anyhow, bail, ensure};
use bson::{Document, doc};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Executor};
use tokio::sync::OnceCell;

use super::until;

/// Generous, since several test processes may share two cores.
const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// The name of every replica set that is started here.
const REPLICA_SET: &str = "rowstream";

// ----------------------------------------------------------------------------------------------------
// MongoDB

/// One mongod, member of a replica set.
#[derive(Debug)]
pub(crate) struct Mongod {
    process: Process,
    /// All members of its set, as `host:port`.
    hosts: Vec<String>,
}

impl Mongod {
    /// A replica set of one, ready to be written to.
    pub(crate) async fn start() -> Result<Self> {
        Self::start_with(&[]).await
    }

    /// As `start`, with more arguments for mongod.
    pub(crate) async fn start_with(arguments: &[&str]) -> Result<Self> {
        let mut members = Self::start_members(1, arguments).await?;
        members.pop().context("a set of one has a member")
    }

    /// A replica set of `count`; the first is the primary to begin with.
    pub(crate) async fn start_members(count: usize, arguments: &[&str]) -> Result<Vec<Self>> {
        let mut members = Vec::new();
        for _ in 0..count {
            members.push(Self::launch(arguments).await?);
        }
        let hosts: Vec<String> = members.iter().map(Self::host).collect();
        for member in &mut members {
            member.hosts.clone_from(&hosts);
        }
        let listed: Vec<Document> = (0..)
            .zip(&hosts)
            .map(|(id, host)| doc! { "_id": id, "host": host, "priority": if id == 0 { 2.0 } else { 1.0 } })
            .collect();
        members[0]
            .run_admin(doc! { "replSetInitiate": {
                // Ten seconds are for networks; here they would only be waited for.
                "_id": REPLICA_SET, "members": listed, "settings": { "electionTimeoutMillis": 3_000 },
            } })
            .await
            .context("initiating the replica set")?;
        members[0].wait_for("isWritablePrimary").await?;
        for member in &members[1..] {
            member.wait_for("secondary").await?;
        }
        Ok(members)
    }

    async fn launch(arguments: &[&str]) -> Result<Self> {
        let programs = programs()?;
        let process = Process::start_on_free_port("mongod", None, |directory, port| {
            fs::create_dir_all(directory.data())?;
            let mut command = Command::new(&programs.mongod);
            command.arg("--dbpath").arg(directory.data());
            command.args(["--port", &port.to_string(), "--bind_ip", "127.0.0.1", "--nounixsocket"]);
            command.args(["--replSet", REPLICA_SET]);
            // Half of the memory is mongod's own choice: too much for a guest.
            command.args(["--wiredTigerCacheSizeGB", "0.5"]);
            // Fail points, so that tests can force errors; and no 15 seconds of courtesy at a clean stop.
            command.args(["--setParameter", "enableTestCommands=1"]);
            command.args(["--setParameter", "shutdownTimeoutMillisForSignaledShutdown=100"]);
            command.args(["--setParameter", "diagnosticDataCollectionEnabled=false"]);
            command.args(arguments);
            Ok(command)
        })
        .await?;
        let mongod = Self { process, hosts: Vec::new() };
        mongod.wait_until_it_answers().await?;
        Ok(mongod)
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.pid()
    }

    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.process.port)
    }

    /// For the replica set as a whole.
    pub(crate) fn uri(&self) -> String {
        self.uri_of("")
    }

    /// With a default database.
    pub(crate) fn uri_of(&self, database: &str) -> String {
        format!("mongodb://{}/{database}?replicaSet={REPLICA_SET}", self.hosts.join(","))
    }

    /// Of this member alone, whatever its role.
    pub(crate) fn direct_uri(&self) -> String {
        format!("mongodb://{}/?directConnection=true&serverSelectionTimeoutMS=2000", self.host())
    }

    /// A client belongs to the runtime that made it: each test makes its own.
    pub(crate) async fn client(&self) -> Result<mongodb::Client> {
        Ok(mongodb::Client::with_uri_str(self.uri()).await?)
    }

    /// Runs a command on this member's `admin` database: fail points, `replSetStepDown`, `hello`.
    pub(crate) async fn run_admin(&self, command: Document) -> Result<Document> {
        let client = mongodb::Client::with_uri_str(self.direct_uri()).await?;
        let reply = client.database("admin").run_command(command).await;
        client.shutdown().await;
        Ok(reply?)
    }

    /// As if the power went.
    pub(crate) async fn kill9(&self) -> Result<()> {
        self.process.end("KILL").await
    }

    /// A clean shutdown.
    pub(crate) async fn stop(&self) -> Result<()> {
        self.process.end("TERM").await
    }

    /// Starts it again, on the same port and data, after `kill9` or `stop`; and waits until it is primary
    /// or secondary.
    pub(crate) async fn start_again(&self) -> Result<()> {
        self.process.launch()?;
        self.wait_until_it_answers().await?;
        self.wait_for("either").await
    }

    /// `stop` and `start_again`.
    pub(crate) async fn restart(&self) -> Result<()> {
        self.stop().await?;
        self.start_again().await
    }

    /// Freezes it: connections stay open and nothing answers.
    pub(crate) fn pause(&self) -> Result<()> {
        self.process.signal("STOP")
    }

    pub(crate) fn resume(&self) -> Result<()> {
        self.process.signal("CONT")
    }

    async fn wait_until_it_answers(&self) -> Result<()> {
        until("an answer of mongod", START_LIMIT, async || {
            self.process.check_alive()?;
            Ok(self.run_admin(doc! { "ping": 1 }).await.ok())
        })
        .await?;
        Ok(())
    }

    async fn wait_for(&self, role: &str) -> Result<()> {
        until(&format!("role {role} of mongod"), START_LIMIT, async || {
            self.process.check_alive()?;
            let Ok(hello) = self.run_admin(doc! { "hello": 1 }).await else { return Ok(None) };
            let is = |role: &str| hello.get_bool(role).unwrap_or(false);
            let reached = is(role) || (role == "either" && (is("isWritablePrimary") || is("secondary")));
            Ok(reached.then_some(()))
        })
        .await
    }
}

// ----------------------------------------------------------------------------------------------------
// PostgreSQL

/// One PostgreSQL, durable as it comes (fsync on), trusting whoever comes over loopback.
#[derive(Debug)]
pub(crate) struct Postgres {
    process: Process,
    user: Option<User>,
}

/// A copy of a PostgreSQL's data. It goes when the server goes.
#[derive(Debug)]
pub(crate) struct Backup(PathBuf);

impl Postgres {
    pub(crate) async fn start() -> Result<Self> {
        Self::start_with(&[]).await
    }

    /// With settings of its own: `start_with(&["wal_level=logical"])`.
    pub(crate) async fn start_with(settings: &[&str]) -> Result<Self> {
        let pg_bin = &programs()?.pg_bin;
        Self::start_of(pg_bin, settings, |directory, user| initdb(pg_bin, directory, user)).await
    }

    /// One whose build has TLS. The pinned one has none: then those that are installed are tried.
    pub(crate) async fn start_able_of_tls() -> Result<Self> {
        let mut candidates = vec![programs()?.pg_bin.clone()];
        let installed = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        candidates.extend(installed.map(|version| version.path().join("bin")));
        for pg_bin in candidates.iter().filter(|pg_bin| pg_bin.join("initdb").exists()) {
            let postgres =
                Self::start_of(pg_bin, &[], |directory, user| initdb(pg_bin, directory, user)).await?;
            let mut connection = postgres.connect("postgres").await?;
            let library: String = sqlx::query_scalar("show ssl_library").fetch_one(&mut connection).await?;
            if !library.is_empty() {
                return Ok(postgres);
            }
        }
        bail!("no PostgreSQL here is built with TLS ({candidates:?}): apt-get install postgresql")
    }

    /// A standby that follows this server, which is stopped and started again for it.
    pub(crate) async fn start_standby(&self) -> Result<Self> {
        let backup = self.back_up().await?;
        let primary =
            format!("primary_conninfo = 'host=127.0.0.1 port={} user=postgres'\n", self.process.port);
        Self::start_of(&programs()?.pg_bin, &[], |directory, user| {
            let data = directory.data();
            copy_folder(&backup.0, &data)?;
            fs::write(data.join("postgresql.auto.conf"), &primary)?;
            fs::write(data.join("standby.signal"), "")?;
            for file in ["postgresql.auto.conf", "standby.signal"] {
                hand_over(&data.join(file), user)?;
            }
            Ok(())
        })
        .await
    }

    /// `fill` makes the folder of data.
    async fn start_of(
        pg_bin: &Path,
        settings: &[&str],
        fill: impl Fn(&Directory, Option<User>) -> Result<()>,
    ) -> Result<Self> {
        // It refuses to run as root.
        let user = if is_root()? { Some(User::unprivileged()?) } else { None };
        let process = Process::start_on_free_port("postgres", user, |directory, port| {
            fill(directory, user)?;
            let mut command = Command::new(pg_bin.join("postgres"));
            command.arg("-D").arg(directory.data());
            let socket = directory.data();
            // The kernel's limit for a socket's path is 107 bytes.
            let socket = if socket.as_os_str().len() < 80 { socket } else { PathBuf::new() };
            for setting in [
                format!("port={port}"),
                "listen_addresses=127.0.0.1".into(),
                format!("unix_socket_directories={}", socket.display()),
                "max_connections=200".into(),
            ] {
                command.arg("-c").arg(setting);
            }
            for setting in settings {
                command.arg("-c").arg(setting);
            }
            Ok(command)
        })
        .await?;
        let postgres = Self { process, user };
        postgres.wait_until_it_answers().await?;
        Ok(postgres)
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.pid()
    }

    pub(crate) fn url(&self) -> String {
        self.url_of("postgres")
    }

    pub(crate) fn url_of(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.process.port)
    }

    pub(crate) async fn connect(&self, database: &str) -> Result<PgConnection> {
        Ok(PgConnection::connect(&self.url_of(database)).await?)
    }

    pub(crate) async fn create_database(&self, database: &str) -> Result<()> {
        let mut connection = self.connect("postgres").await?;
        connection.execute(AssertSqlSafe(format!("create database \"{database}\""))).await?;
        connection.close().await?;
        Ok(())
    }

    /// As if the power went: the postmaster and all its backends.
    pub(crate) async fn kill9(&self) -> Result<()> {
        let family = self.family();
        self.process.end("KILL").await?;
        for pid in &family {
            // Those that noticed by themselves are gone already.
            let _ = send_signal("KILL", *pid);
        }
        until("the end of PostgreSQL's backends", STOP_LIMIT, async || {
            Ok(family.iter().all(|pid| !is_running(*pid)).then_some(()))
        })
        .await
    }

    /// A clean, fast shutdown: sessions are told `57P01`.
    pub(crate) async fn stop(&self) -> Result<()> {
        self.process.end("INT").await
    }

    /// An immediate shutdown: sessions are cut off, and the next start recovers as after a crash.
    pub(crate) async fn stop_at_once(&self) -> Result<()> {
        self.process.end("QUIT").await
    }

    /// Starts it again, on the same port and data, after `kill9` or `stop`.
    pub(crate) async fn start_again(&self) -> Result<()> {
        self.process.launch()?;
        self.wait_until_it_answers().await
    }

    /// `stop` and `start_again`.
    pub(crate) async fn restart(&self) -> Result<()> {
        self.stop().await?;
        self.start_again().await
    }

    /// Freezes the postmaster and all its backends: connections stay open and nothing answers.
    pub(crate) fn pause(&self) -> Result<()> {
        // The postmaster first, so that it starts no backend that would be missed.
        self.process.signal("STOP")?;
        for pid in self.family() {
            send_signal("STOP", pid)?;
        }
        Ok(())
    }

    pub(crate) fn resume(&self) -> Result<()> {
        for pid in self.family() {
            send_signal("CONT", pid)?;
        }
        self.process.signal("CONT")
    }

    /// A copy of the data as it is now, for `restore`. The server is stopped for it and started again.
    pub(crate) async fn back_up(&self) -> Result<Backup> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let backup = self.process.directory.path.join(format!("backup-{number}"));
        self.stop().await?;
        copy_folder(&self.process.directory.data(), &backup)?;
        self.start_again().await?;
        Ok(Backup(backup))
    }

    /// Puts the server back to what it was: everything since is lost.
    pub(crate) async fn restore(&self, backup: &Backup) -> Result<()> {
        if self.pid().is_some() {
            self.kill9().await?;
        }
        let data = self.process.directory.data();
        fs::remove_dir_all(&data)?;
        copy_folder(&backup.0, &data)?;
        self.start_again().await
    }

    /// psql of this PostgreSQL, else one on PATH.
    pub(crate) fn psql() -> Option<PathBuf> {
        let own = programs().ok()?.pg_bin.join("psql");
        if own.exists() {
            return Some(own);
        }
        env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join("psql")).find(|path| path.exists())
    }

    /// Makes a file this server's own: it takes no key that others may read.
    pub(crate) fn hand_over(&self, file: &Path) -> Result<()> {
        hand_over(file, self.user)
    }

    fn family(&self) -> Vec<u32> {
        self.pid().map(children_of).unwrap_or_default()
    }

    async fn wait_until_it_answers(&self) -> Result<()> {
        until("an answer of PostgreSQL", START_LIMIT, async || {
            self.process.check_alive()?;
            let Ok(connection) = self.connect("postgres").await else { return Ok(None) };
            Ok(connection.close().await.ok())
        })
        .await
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // A frozen backend could not be told of the end.
        let _ = self.resume();
    }
}

fn hand_over(file: &Path, user: Option<User>) -> Result<()> {
    fs::set_permissions(file, fs::Permissions::from_mode(0o600))?;
    if let Some(user) = user {
        chown(file, Some(user.id), Some(user.group))?;
    }
    Ok(())
}

/// UTF-8 and the C locale: the same order on every machine.
fn initdb(pg_bin: &Path, directory: &Directory, user: Option<User>) -> Result<()> {
    let data = directory.data();
    fs::create_dir_all(&data)?;
    fs::set_permissions(&data, fs::Permissions::from_mode(0o700))?;
    let mut command = Command::new(pg_bin.join("initdb"));
    command.arg("--pgdata").arg(&data);
    command.args(["--username=postgres", "--encoding=UTF8", "--no-locale", "--auth=trust"]);
    // Only initdb's own files are not flushed; the server's are.
    command.arg("--no-sync");
    if let Some(user) = user {
        chown(&data, Some(user.id), Some(user.group))?;
        command.uid(user.id).gid(user.group);
    }
    let output = command.current_dir(&directory.path).output().context("starting initdb")?;
    ensure!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

// ----------------------------------------------------------------------------------------------------
// A pair that all tests share

/// One MongoDB and one PostgreSQL for all tests of this process that do not harm them.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) mongod: Mongod,
    pub(crate) postgres: Postgres,
}

/// A test's own corner of the shared servers.
#[derive(Debug, Clone)]
pub(crate) struct Databases {
    /// The same name on both sides.
    pub(crate) name: String,
    /// With the database in its path.
    pub(crate) mongodb_uri: String,
    pub(crate) postgres_url: String,
}

/// Nobody takes its power away, so that nothing has to be flushed for that; and with hundreds of databases
/// autovacuum would start a worker several times a second.
const UNHARMED: [&str; 3] = ["fsync=off", "full_page_writes=off", "autovacuum_naptime=5min"];

/// Started by the first who asks; they end with the process.
pub(crate) async fn shared() -> &'static Shared {
    static SHARED: OnceCell<Shared> = OnceCell::const_new();
    SHARED
        .get_or_init(|| async {
            match tokio::try_join!(Mongod::start(), Postgres::start_with(&UNHARMED)) {
                Ok((mongod, postgres)) => Shared { mongod, postgres },
                Err(error) => panic!("the servers of the tests do not start: {error:#}"),
            }
        })
        .await
}

/// Empty databases on both shared servers. `name` is for people: it need not be unique.
pub(crate) async fn fresh_database(name: &str) -> Result<Databases> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let Shared { mongod, postgres } = shared().await;
    // Both servers take at most 63 bytes.
    let short: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').take(50).collect();
    let name = format!("{short}_{}", COUNT.fetch_add(1, Ordering::Relaxed)).to_lowercase();
    postgres.create_database(&name).await?;
    Ok(Databases { mongodb_uri: mongod.uri_of(&name), postgres_url: postgres.url_of(&name), name })
}

// ----------------------------------------------------------------------------------------------------
// Where the servers are

#[derive(Debug)]
struct Programs {
    mongod: PathBuf,
    pg_bin: PathBuf,
}

/// From the environment, else by `deploy/local/provision`, so that a bare `cargo test` works.
fn programs() -> Result<&'static Programs> {
    static PROGRAMS: OnceLock<Result<Programs, String>> = OnceLock::new();
    PROGRAMS
        .get_or_init(|| find_programs().map_err(|error| format!("{error:#}")))
        .as_ref()
        .map_err(|error| anyhow!("{error}"))
}

fn find_programs() -> Result<Programs> {
    if let (Some(mongod), Some(pg_bin)) = (env::var_os("ROWSTREAM_MONGOD"), env::var_os("ROWSTREAM_PG_BIN")) {
        return Ok(Programs { mongod: mongod.into(), pg_bin: pg_bin.into() });
    }
    let provision = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/local/provision");
    // Its lines are shell, so a shell reads them.
    let script =
        r#"set -e; lines=$("$0"); eval "$lines"; printf '%s\n' "$ROWSTREAM_MONGOD" "$ROWSTREAM_PG_BIN""#;
    let output = Command::new("bash")
        .args(["-c", script])
        .arg(&provision)
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("running {}", provision.display()))?;
    ensure!(output.status.success(), "{} found no servers", provision.display());
    let text = String::from_utf8(output.stdout).context("a server's path is not UTF-8")?;
    let mut lines = text.lines().map(PathBuf::from);
    match (lines.next(), lines.next()) {
        (Some(mongod), Some(pg_bin)) => Ok(Programs { mongod, pg_bin }),
        _ => bail!("{} printed no servers", provision.display()),
    }
}

// ----------------------------------------------------------------------------------------------------
// Processes

/// A server's process, its port and its folder; the process can come and go.
#[derive(Debug)]
struct Process {
    name: &'static str,
    port: u16,
    user: Option<User>,
    command: Invocation,
    // Before `directory`: the process ends, then its janitor cleans.
    child: Mutex<Option<Child>>,
    directory: Directory,
}

/// A command that can be started again: `std::process::Command` cannot be copied.
#[derive(Debug)]
struct Invocation {
    program: OsString,
    arguments: Vec<OsString>,
}

impl Process {
    /// Another process may take a free port before the server does: then it is tried again on another.
    async fn start_on_free_port(
        name: &'static str,
        user: Option<User>,
        prepare: impl Fn(&Directory, u16) -> Result<Command>,
    ) -> Result<Self> {
        const ATTEMPTS: usize = 5;
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let directory = Directory::new(name)?;
            let port = free_port()?;
            let command = prepare(&directory, port)?;
            let command = Invocation {
                program: command.get_program().into(),
                arguments: command.get_args().map(Into::into).collect(),
            };
            let process = Self { name, port, user, command, child: Mutex::new(None), directory };
            process.launch()?;
            let opened = until("an open port", START_LIMIT, async || {
                process.check_alive()?;
                let open = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok();
                Ok(open.then_some(()))
            });
            match opened.await {
                // Somebody else may be the one who answers: alive once more tells.
                Ok(()) if process.check_alive().is_ok() => return Ok(process),
                Ok(()) => {}
                Err(error) if process.log().contains("in use") => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| anyhow!("{name} found no free port")))
    }

    fn launch(&self) -> Result<()> {
        let mut child = self.child();
        ensure!(child.is_none(), "{} runs already", self.name);
        let log = File::options().create(true).append(true).open(self.directory.log())?;
        let mut command = tied_command(&self.command.program, self.death_signal());
        command.args(&self.command.arguments).current_dir(&self.directory.path);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        if let Some(user) = self.user {
            command.uid(user.id).gid(user.group);
        }
        *child = Some(spawn(command).with_context(|| format!("starting {}", self.name))?);
        Ok(())
    }

    /// A postmaster that is killed leaves backends and shared memory; on QUIT it takes them along.
    fn death_signal(&self) -> &'static str {
        if self.name == "postgres" { "QUIT" } else { "KILL" }
    }

    fn pid(&self) -> Option<u32> {
        self.child().as_ref().map(Child::id)
    }

    fn signal(&self, signal: &str) -> Result<()> {
        send_signal(signal, self.pid().with_context(|| format!("{} does not run", self.name))?)
    }

    /// Sends the signal, wakes the process if it is frozen, and waits for its end.
    async fn end(&self, signal: &str) -> Result<()> {
        self.signal(signal)?;
        // Gone already if the signal was KILL.
        let _ = self.signal("CONT");
        until(&format!("the end of {}", self.name), STOP_LIMIT, async || self.try_wait()).await?;
        *self.child() = None;
        Ok(())
    }

    fn try_wait(&self) -> Result<Option<ExitStatus>> {
        Ok(match self.child().as_mut() {
            Some(child) => child.try_wait()?,
            None => None,
        })
    }

    fn check_alive(&self) -> Result<()> {
        if let Some(status) = self.try_wait()? {
            bail!("{} ended by itself ({status}):\n{}", self.name, self.log());
        }
        Ok(())
    }

    /// The last lines of the log.
    fn log(&self) -> String {
        const LINES: usize = 20;
        let text = fs::read(self.directory.log()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().expect("nobody panics with the process in hand")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.child().take() {
            let _ = send_signal(self.death_signal(), child.id());
            let _ = send_signal("CONT", child.id());
            let _ = child.wait();
        }
    }
}

/// A command whose process is sent `death_signal` when this process dies. To be started with `spawn`.
pub(crate) fn tied_command(program: impl AsRef<OsStr>, death_signal: &str) -> Command {
    let mut command = if dies_with_its_parent() {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", death_signal, "--"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    // A process group of its own: Ctrl-C is for us, who end our children in order.
    command.process_group(0);
    command
}

/// Starts the command from a thread that lives as long as the process. The kernel's death signal is tied to
/// the *thread* that started the child, and a test's thread ends with the test.
pub(crate) fn spawn(command: Command) -> io::Result<Child> {
    type Order = (Command, mpsc::SyncSender<io::Result<Child>>);
    static SPAWNER: LazyLock<mpsc::SyncSender<Order>> = LazyLock::new(|| {
        let (orders, inbox) = mpsc::sync_channel::<Order>(1);
        thread::Builder::new()
            .name("spawner".into())
            .spawn(move || {
                for (mut command, answer) in inbox {
                    let _ = answer.send(command.spawn());
                }
            })
            .expect("a thread can be started");
        orders
    });
    let (answer, child) = mpsc::sync_channel(1);
    SPAWNER.send((command, answer)).expect("the spawner lives as long as the process");
    child.recv().expect("the spawner answers")
}

/// Whether `setpriv` is here and knows the option (util-linux 2.33). Without it, the janitor is alone.
fn dies_with_its_parent() -> bool {
    static KNOWN: LazyLock<bool> = LazyLock::new(|| {
        let probe = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", "true"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        probe.is_ok_and(|status| status.success())
    });
    *KNOWN
}

/// By the shell's own `kill`: the program is missing on lean systems, and the library call is unsafe code.
pub(crate) fn send_signal(signal: &str, pid: u32) -> Result<()> {
    let status = Command::new("sh")
        .args(["-c", r#"kill -s "$1" "$2""#, "sh", signal, &pid.to_string()])
        .stderr(Stdio::null())
        .status()?;
    ensure!(status.success(), "no signal {signal} could be sent to process {pid}");
    Ok(())
}

/// Neither gone nor a zombie. Linux only, as are the pinned servers.
fn is_running(pid: u32) -> bool {
    status_fields(pid).is_some_and(|(state, _)| state != "Z")
}

fn children_of(parent: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| status_fields(*pid).is_some_and(|(_, its_parent)| its_parent == parent))
        .collect()
}

/// State and parent of a process, from /proc/PID/stat: `pid (name) state parent …`.
fn status_fields(pid: u32) -> Option<(String, u32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(") ")?.1.split(' ');
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}

// ----------------------------------------------------------------------------------------------------
// Folders, ports, users

/// A folder below /tmp, with the janitor who removes it.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    janitor: Child,
}

impl Directory {
    pub(crate) fn new(name: &str) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        // As root, the folder of choice may be closed to the user who runs PostgreSQL.
        let parent = if is_root()? { PathBuf::from("/tmp") } else { env::temp_dir() };
        let path = parent.join(format!("rowstream-{name}-{}-{number}", process::id()));
        // The remains of another process with our number, whose janitor was killed too.
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        fs::create_dir(&path).with_context(|| format!("creating {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        let janitor = Command::new("sh")
            .args(["-c", JANITOR, "sh"])
            .arg(&path)
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("starting the janitor")?;
        Ok(Self { path, janitor })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    fn log(&self) -> PathBuf {
        self.path.join("log")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        drop(self.janitor.stdin.take());
        let _ = self.janitor.wait();
    }
}

/// Waits for the end of its input, which comes when we say so and when we die; then ends the server that has
/// its data here (or the process whose number the file `pid` holds), if it still runs, and removes the folder.
const JANITOR: &str = r#"
trap '' INT TERM HUP
read -r _
for lock in "$1/data/postmaster.pid" "$1/data/mongod.lock" "$1/pid"; do
    pid=
    read -r pid <"$lock"
    # Numbers are used again: only a process that names this folder is ours.
    test -n "$pid" && grep -qF -- "$1" "/proc/$pid/cmdline" || continue
    case $lock in
        *postmaster.pid) kill -s QUIT "$pid" ;;
        *) kill -s KILL "$pid" ;;
    esac
    kill -s CONT "$pid"
    tries=0
    # A zombie has no command line: whether somebody reaps it is not our concern.
    while grep -qF -- "$1" "/proc/$pid/cmdline" && test $tries -lt 100; do
        sleep 0.1
        tries=$((tries + 1))
    done
    grep -qF -- "$1" "/proc/$pid/cmdline" && kill -s KILL "$pid"
done
umount -l "$1/disk"
rm -rf -- "$1"
"#;

/// Below the kernel's range for outgoing connections (32768 and up): a client that knocks at a stopped server's
/// port in that range can be given this very port as its own, and be connected to itself.
pub(crate) fn free_port() -> Result<u16> {
    const FIRST: u32 = 17_000;
    const COUNT: u32 = 15_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Processes that start together begin apart.
    let offset = process::id().wrapping_mul(97);
    for _ in 0..COUNT {
        let number = offset.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(FIRST + number % COUNT)?;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port is free on loopback")
}

#[derive(Debug, Clone, Copy)]
struct User {
    id: u32,
    group: u32,
}

impl User {
    fn unprivileged() -> Result<Self> {
        let accounts = fs::read_to_string("/etc/passwd")?;
        ["postgres", "nobody"]
            .iter()
            .find_map(|name| Self::find(&accounts, name))
            .context("PostgreSQL cannot run as root, and there is no user postgres or nobody to run it as")
    }

    fn find(accounts: &str, name: &str) -> Option<Self> {
        let mut fields = accounts
            .lines()
            .map(|line| line.split(':'))
            .find(|fields| fields.clone().next() == Some(name))?;
        Some(Self { id: fields.nth(2)?.parse().ok()?, group: fields.next()?.parse().ok()? })
    }
}

/// What we make is ours: a folder tells who we are without a library call.
fn is_root() -> Result<bool> {
    static ROOT: OnceLock<bool> = OnceLock::new();
    if let Some(root) = ROOT.get() {
        return Ok(*root);
    }
    let uid = match fs::metadata("/proc/self") {
        Ok(metadata) => metadata.uid(),
        // No /proc: not Linux, where root is nobody's daily account.
        Err(_) => u32::MAX,
    };
    Ok(*ROOT.get_or_init(|| uid == 0))
}

/// With owners and permissions: PostgreSQL checks them.
fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("cp").arg("-a").arg("--").arg(from).arg(to).status()?;
    ensure!(status.success(), "{} could not be copied", from.display());
    Ok(())
}
