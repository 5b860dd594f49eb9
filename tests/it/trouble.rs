//! A PostgreSQL that is there and does not take what it is given: for a while, nothing is held for it, and nothing
//! has to be started.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use bson::doc;
use sqlx::Executor;

use crate::daemon::{Daemon, PATIENCE};
use crate::following::{FALLEN, Following, ORDERS};
use crate::oracle::Plain;
use crate::stage::{Stage, numbered};
use crate::support::servers::{Directory, Mongod, Postgres};
use crate::support::until;

const TABLE: &str = "create table orders (
    source text, source_id text, document jsonb not null, primary key (source, source_id))";

/// Ends the daemon's sessions of this database, as an administrator would.
async fn end_sessions(stage: &Stage) -> Result<()> {
    let sql = "select count(pg_terminate_backend(pid)) from pg_stat_activity
               where datname = current_database() and application_name like 'rowstream %'";
    stage.number(sql).await?;
    Ok(())
}

/// Every code that passes by itself, raised as it would be by the server.
#[tokio::test]
async fn what_passes_by_itself_is_tried_again_and_nothing_is_held_for_it() -> Result<()> {
    // Serialization, deadlock, disk full, out of memory, too many connections, starting up, I/O, read-only.
    const CODES: [&str; 8] = ["40001", "40P01", "53100", "53200", "53300", "57P03", "58030", "25006"];
    let stage = Stage::new("passing").await?;
    stage.execute(TABLE).await?;
    let mut following = Following::start(stage, 110).await?;
    for code in CODES {
        let stage = &following.stage;
        stage
            .execute(&format!(
                "create or replace function fail() returns trigger language plpgsql as
                     $$begin raise exception 'no' using errcode = '{code}'; end$$;
                 create or replace trigger fail before insert or update on orders
                     for each row execute function fail()"
            ))
            .await?;
        following.daemon.check_becomes("postgresql", &FALLEN).await.with_context(|| code.to_owned())?;
        stage.execute("drop trigger fail on orders").await?;
        following.goes_on().await.with_context(|| code.to_owned())?;
        following.daemon.check_becomes("postgresql", &["ok"]).await?;
    }
    following.ends_well().await
}

#[tokio::test]
async fn a_database_that_is_read_only_for_a_while_is_waited_for() -> Result<()> {
    let mut following = Following::start(Stage::new("read_only").await?, 111).await?;
    let name = following.stage.name.clone();
    let alter = |what: &str| format!("begin read write; alter database \"{name}\" {what}; commit");
    following.stage.execute(&alter("set default_transaction_read_only = on")).await?;
    end_sessions(&following.stage).await?;
    following.daemon.check_becomes("postgresql", &FALLEN).await?;
    following.health_becomes(503).await?;
    following.answers().await?;
    following.stage.execute(&alter("reset default_transaction_read_only")).await?;
    following.daemon.check_becomes("postgresql", &["ok"]).await?;
    following.goes_on().await?;
    following.ends_well().await
}

#[tokio::test]
async fn too_many_connections_are_waited_for() -> Result<()> {
    let stage = Stage::new("connections").await?;
    let name = &stage.name;
    let role = format!(
        "create role \"{name}\" login; alter database \"{name}\" owner to \"{name}\";
         alter schema public owner to \"{name}\""
    );
    stage.execute(&role).await?;
    let as_role =
        stage.config(&stage.whole(ORDERS)).replace("postgres://postgres@", &format!("postgres://{name}@"));
    let config = as_role + "health: { outage_failing: 2s }\n";
    let limit = |limit: i32| format!("alter role \"{name}\" connection limit {limit}");
    let (none, one, any) = (limit(0), limit(1), limit(-1));
    let mut following = Following::start_with(stage, &config, 112).await?;
    // With one connection it can take the lease, and nothing more.
    for too_few in [none, one] {
        following.stage.execute(&too_few).await?;
        end_sessions(&following.stage).await?;
        following.daemon.check_becomes("postgresql", &FALLEN).await?;
        until("the reason to be told", PATIENCE, async || {
            let told = |text: &str| following.daemon.line(text);
            Ok(told("53300").or_else(|| told("too many connections")))
        })
        .await?;
        following.stage.execute(&any).await?;
        following.goes_on().await?;
        following.daemon.check_becomes("postgresql", &["ok"]).await?;
    }
    following.ends_well().await
}

#[tokio::test]
async fn sessions_that_are_ended_at_random_moments_lose_nothing() -> Result<()> {
    let mut following = Following::start(Stage::new("ended_sessions").await?, 113).await?;
    for _ in 0..8 {
        following.writer.writes_on(1).await?;
        end_sessions(&following.stage).await?;
        let connected = "select count(*) from pg_stat_activity
                         where datname = current_database() and application_name like 'rowstream %'";
        until("the next session", PATIENCE, async || {
            Ok((following.stage.number(connected).await? >= 2).then_some(()))
        })
        .await
        .with_context(|| following.daemon.last_words())?;
    }
    following.ends_well().await
}

/// A file system of a few megabytes, for root alone.
#[derive(Debug)]
struct SmallDisk {
    /// Its janitor unmounts it.
    folder: Directory,
}

impl SmallDisk {
    fn mount() -> Result<Option<Self>> {
        let folder = Directory::new("disk")?;
        let disk = Self { folder };
        fs::create_dir(disk.path())?;
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"]).arg(disk.path()).output();
        Ok(mounted.is_ok_and(|output| output.status.success()).then_some(disk))
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }

    /// To the last byte.
    fn fill(&self) {
        // It ends with the error that is wanted.
        let _ = fs::write(self.filler(), vec![b'x'; 16 << 20]);
    }
}

#[tokio::test]
async fn a_full_disk_is_waited_for() -> Result<()> {
    let Some(disk) = SmallDisk::mount()? else {
        // Past the capture of a passing test's words: nobody shall believe that this was tried.
        writeln!(
            std::io::stderr(),
            "\nNOT TESTED: a full disk. Only root may mount a small one; run the tests as root to try it. \
             The code of a full disk (53100) is tested for everybody."
        )?;
        return Ok(());
    };
    // Servers of its own: what is in a tablespace whose disk is gone makes every checkpoint of its server fail.
    let (mongod, postgres) = tokio::try_join!(Mongod::start(), Postgres::start())?;
    let stage = Stage::on(&mongod, &postgres).await?;
    let data = stage.text("select setting from pg_settings where name = 'data_directory'").await?;
    let owner = fs::metadata(data.context("no data directory")?)?;
    let space = disk.path().join("space");
    fs::create_dir(&space)?;
    chown(&space, Some(owner.uid()), Some(owner.gid()))?;
    let name = &stage.name;
    stage.execute(&format!("create tablespace \"{name}\" location '{}'", space.display())).await?;
    stage.execute(&format!("{TABLE} tablespace \"{name}\"")).await?;
    let mut following = Following::start(stage, 114).await?;
    disk.fill();
    following.daemon.check_becomes("postgresql", &FALLEN).await?;
    following.daemon.logged("53100").await?;
    following.health_becomes(503).await?;
    following.answers().await?;
    fs::remove_file(disk.filler())?;
    following.goes_on().await?;
    following.daemon.check_becomes("postgresql", &["ok"]).await?;
    following.ends_well().await
}

#[tokio::test]
async fn a_stop_in_the_middle_of_a_large_batch_is_clean_and_loses_nothing() -> Result<()> {
    const DOCUMENTS: i64 = 5_000;
    let stage = Stage::new("stopped_batch").await?;
    let orders = stage.collection(ORDERS);
    orders.insert_many(numbered(0, DOCUMENTS)).await?;
    let config = stage.config(&stage.whole(ORDERS));
    let daemon = Daemon::start(&config)?;
    daemon.logged("snapshot done").await?;
    stage.settled(&daemon, ORDERS).await?;

    // Its checkpoint waits when the signal comes.
    let mut lock = stage.postgres().await?;
    lock.execute("begin; select from rowstream.checkpoint for update").await?;
    orders.update_many(doc! {}, doc! { "$set": { "n": -1 } }).await?;
    let waiting = "select count(*) from pg_stat_activity where datname = current_database()
                   and wait_event_type = 'Lock' and query like '%update rowstream.checkpoint%'";
    until("the batch to wait", PATIENCE, async || Ok((stage.number(waiting).await? == 1).then_some(())))
        .await
        .with_context(|| daemon.last_words())?;
    daemon.signal("TERM")?;
    daemon.logged("stopping").await?;
    lock.execute("commit").await?;
    let status = daemon.ends().await?;
    ensure!(status.success(), "it ended with {status}");
    let written = "select count(*) from orders where document->>'n' = '-1'";
    ensure!(stage.number(written).await? > 0, "the batch in flight was thrown away");

    let daemon = Daemon::start(&config)?;
    stage.settled(&daemon, ORDERS).await?;
    stage.equal(ORDERS, Plain::Int).await?;
    assert!(daemon.stop().await?.success());
    Ok(())
}
