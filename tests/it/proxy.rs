//! The network between rowstream and each server fails in every way that a network can, while somebody writes.

use std::fmt::Write as _;

use anyhow::{Context, Result};
use bson::{Document, doc};

use crate::daemon::{Daemon, PATIENCE};
use crate::following::{FALLEN, Following, ORDERS};
use crate::oracle::Plain;
use crate::stage::Stage;
use crate::support::proxy::{Proxy, Weather};
use crate::support::until;
use crate::writer::{self, Writer};

/// Both ways through proxies; the writer and the comparison go past them.
#[derive(Debug)]
pub(crate) struct Roads {
    pub(crate) mongodb: Proxy,
    pub(crate) postgres: Proxy,
}

impl Roads {
    pub(crate) async fn to(stage: &Stage) -> Result<Self> {
        let (mongodb, postgres) = (host(&stage.mongodb_uri)?, host(&stage.postgres_url)?);
        let (mongodb, postgres) = tokio::try_join!(Proxy::start(mongodb), Proxy::start(postgres))?;
        Ok(Self { mongodb, postgres })
    }

    fn config(&self, stage: &Stage) -> Result<String> {
        let mut config = self.config_of(stage, &stage.whole(ORDERS))?;
        writeln!(config, "health: {{ outage_failing: 2s }}")?;
        Ok(config)
    }

    pub(crate) fn config_of(&self, stage: &Stage, mappings: &str) -> Result<String> {
        let name = &stage.name;
        // Else the driver would be told the server's own address, and go there.
        let mongodb = format!("mongodb://{}/{name}?directConnection=true", self.mongodb.address());
        let postgres = stage.postgres_url.replace(host(&stage.postgres_url)?, &self.postgres.address());
        Ok(crate::daemon::config(&mongodb, &postgres, mappings))
    }

    fn of(&self, server: Server) -> &Proxy {
        match server {
            Server::Mongodb => &self.mongodb,
            Server::Postgres => &self.postgres,
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Server {
    Mongodb,
    Postgres,
}

impl Server {
    fn checks(self) -> &'static [&'static str] {
        match self {
            Self::Mongodb => &["mongodb", "stream"],
            Self::Postgres => &["postgresql"],
        }
    }
}

/// `host:port` of a URL without credentials, or with.
fn host(url: &str) -> Result<&str> {
    let rest = url.split_once("://").context("no scheme")?.1;
    let authority = rest.split('/').next().unwrap_or(rest);
    Ok(authority.rsplit('@').next().unwrap_or(authority))
}

async fn scene(name: &str, seed: u64) -> Result<(Roads, Following)> {
    let stage = Stage::new(name).await?;
    let roads = Roads::to(&stage).await?;
    let config = roads.config(&stage)?;
    let following = Following::start_with(stage, &config, seed).await?;
    Ok((roads, following))
}

/// Health falls while the weather lasts, rises after it, and what was written meanwhile arrives.
async fn weathers(name: &str, seed: u64, server: Server, weather: Weather) -> Result<()> {
    let (roads, mut following) = scene(name, seed).await?;
    roads.of(server).weather(weather);
    for check in server.checks() {
        following.daemon.check_becomes(check, &FALLEN).await?;
    }
    following.health_becomes(503).await?;
    following.answers().await?;
    let before = writer::arrived(&following.stage, ORDERS).await?;
    following.writer.writes_on(5).await?;
    assert_eq!(writer::arrived(&following.stage, ORDERS).await?, before, "something came through");
    roads.of(server).weather(Weather::Fair);
    for check in server.checks() {
        following.daemon.check_becomes(check, &["ok"]).await?;
    }
    following.goes_on().await?;
    following.ends_well().await
}

#[tokio::test]
async fn a_network_that_is_cut_off_from_mongodb_comes_back() -> Result<()> {
    weathers("cut_mongodb", 61, Server::Mongodb, Weather::Cut).await
}

#[tokio::test]
async fn a_network_that_is_cut_off_from_postgresql_comes_back() -> Result<()> {
    weathers("cut_postgresql", 62, Server::Postgres, Weather::Cut).await
}

#[tokio::test]
async fn a_network_that_stalls_before_mongodb_is_noticed() -> Result<()> {
    weathers("stall_mongodb", 63, Server::Mongodb, Weather::Stall).await
}

#[tokio::test]
async fn a_network_that_stalls_before_postgresql_is_noticed() -> Result<()> {
    weathers("stall_postgresql", 64, Server::Postgres, Weather::Stall).await
}

#[tokio::test]
async fn connections_to_mongodb_that_are_half_open_are_given_up() -> Result<()> {
    weathers("swallow_mongodb", 65, Server::Mongodb, Weather::Swallow).await
}

#[tokio::test]
async fn connections_to_postgresql_that_are_half_open_are_given_up() -> Result<()> {
    weathers("swallow_postgresql", 66, Server::Postgres, Weather::Swallow).await
}

/// A firewall that has forgotten a connection drops its packets for ever, and the server keeps a session whose
/// client is gone, in the middle of a transaction perhaps.
async fn outlives_its_connections(name: &str, seed: u64, server: Server) -> Result<()> {
    let (roads, mut following) = scene(name, seed).await?;
    for _ in 0..3 {
        following.writer.writes_on(2).await?;
        roads.of(server).strand();
        following.goes_on().await?;
    }
    following.ends_well().await
}

#[tokio::test]
async fn connections_to_mongodb_that_a_firewall_forgot_are_replaced() -> Result<()> {
    outlives_its_connections("strand_mongodb", 67, Server::Mongodb).await
}

#[tokio::test]
async fn connections_to_postgresql_that_a_firewall_forgot_are_replaced() -> Result<()> {
    outlives_its_connections("strand_postgresql", 68, Server::Postgres).await
}

/// All others answer, so nobody but the stream itself can notice.
#[tokio::test]
async fn the_one_connection_of_the_stream_that_a_firewall_forgot_is_replaced() -> Result<()> {
    let stage = Stage::new("strand_stream").await?;
    let roads = Roads::to(&stage).await?;
    let config = roads.config(&stage)?.replace("ttl: 3s", "ttl: 2s");
    let mut following = Following::start_with(stage, &config, 72).await?;
    let epoch = "select epoch from rowstream.lease";
    let first = following.stage.number(epoch).await?;
    roads.mongodb.strand_the_follower();
    following.daemon.check_becomes("stream", &FALLEN).await?;
    following.goes_on().await?;
    assert_eq!(following.stage.number(epoch).await?, first, "a session ended for it");
    following.ends_well().await
}

/// The server ends its session when nobody answers; on such a connection nobody hears of it.
#[tokio::test]
async fn the_one_connection_of_the_writer_that_a_firewall_forgot_is_replaced() -> Result<()> {
    let (roads, mut following) = scene("strand_writer", 73).await?;
    let writer = "select client_port || ' ' || pid from pg_stat_activity
        where datname = current_database() and pid <> pg_backend_pid() and query like '%update rowstream.checkpoint%'";
    let seen = until("a commit of the writer", PATIENCE, async || following.stage.text(writer).await).await?;
    let (port, process) = seen.split_once(' ').context("a port and a process")?;
    roads.postgres.strand_from(port.parse()?)?;
    following.stage.text(&format!("select pg_terminate_backend({process})")).await?;
    following.goes_on().await?;
    let told = "has ended the session of the stream's connection";
    assert!(
        following.daemon.log().iter().any(|line| line.contains(told)),
        "{}",
        following.daemon.last_words()
    );
    following.ends_well().await
}

/// In the middle of a chunk: until it is given up, the stream waits for its turn.
#[tokio::test]
async fn the_one_connection_of_a_chunk_that_a_firewall_forgot_is_replaced() -> Result<()> {
    let stage = Stage::new("strand_chunk").await?;
    stage
        .execute(&format!(
            "create table {ORDERS} (source text, source_id text, document jsonb, primary key (source, source_id))"
        ))
        .await?;
    stage.collection(ORDERS).insert_many((0..100_i64).map(|n| doc! { "_id": n })).await?;
    // The stream begins with the last write: were it one of these, the stream would wait for the table as well.
    stage.collection("others").insert_one(doc! {}).await?;
    let roads = Roads::to(&stage).await?;
    // The table can be read, and not be written: there the chunk waits.
    let mut user = stage.postgres().await?;
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!("begin; lock table {ORDERS} in share mode")))
        .execute(&mut user)
        .await?;
    let config = roads.config(&stage)? + "snapshot: { workers: 1 }\n";
    let daemon = Daemon::start(&config)?;
    let waiting = "select client_port || ' ' || pid from pg_stat_activity
        where datname = current_database() and wait_event_type = 'Lock'";
    let seen = until("a chunk that waits", PATIENCE, async || stage.text(waiting).await).await?;
    let (port, process) = seen.split_once(' ').context("a port and a process")?;
    roads.postgres.strand_from(port.parse()?)?;
    stage.text(&format!("select pg_terminate_backend({process})")).await?;
    sqlx::Connection::close(user).await?;
    daemon.logged("snapshot done").await?;
    stage.settled(&daemon, ORDERS).await?;
    stage.equal(ORDERS, Plain::Int).await?;
    let told = "has ended the session of a snapshot's connection";
    assert!(daemon.log().iter().any(|line| line.contains(told)), "{}", daemon.last_words());
    assert!(daemon.stop().await?.success());
    Ok(())
}

#[tokio::test]
async fn a_network_that_drips_only_slows_it_down() -> Result<()> {
    let (roads, mut following) = scene("drip", 69).await?;
    let epoch = "select epoch from rowstream.lease";
    let first = following.stage.number(epoch).await?;
    for server in [Server::Mongodb, Server::Postgres] {
        roads.of(server).weather(Weather::Drip);
        following.goes_on().await?;
        roads.of(server).weather(Weather::Fair);
    }
    assert_eq!(following.stage.number(epoch).await?, first, "slowness ended a session");
    following.ends_well().await
}

/// Chunks that are large enough for COPY, and a reset in the middle of one after the other.
#[tokio::test]
async fn connections_that_are_reset_in_the_middle_of_copy_lose_and_double_nothing() -> Result<()> {
    const DOCUMENTS: i64 = 3_000;
    const RESETS: usize = 6;
    let stage = Stage::new("reset_copy").await?;
    let large = |n: i64| doc! { "_id": n, "n": n, "text": "x".repeat(2_000) };
    let documents: Vec<Document> = (0..DOCUMENTS).map(large).collect();
    stage.collection(ORDERS).insert_many(documents).await?;
    let roads = Roads::to(&stage).await?;
    let config = roads.config(&stage)? + "snapshot: { chunk_documents: 500, workers: 2 }\n";
    let writer = Writer::start(&stage, ORDERS, DOCUMENTS, 70, std::time::Duration::from_millis(10));

    // A chunk has a megabyte: each reset hits the middle of one, or what comes right after it.
    let mut resets = roads.postgres.resets();
    roads.postgres.reset_after(600_000);
    let daemon = Daemon::start(&config)?;
    for count in 1..=RESETS {
        let happened = resets.wait_for(|resets| *resets >= count);
        tokio::time::timeout(PATIENCE, happened).await.context("no reset")??;
        let next = 300_000 + 137_000 * count as i64;
        roads.postgres.reset_after(if count < RESETS { next } else { -1 });
    }
    daemon.logged("snapshot done").await?;
    writer.finish().await?;
    stage.settled(&daemon, ORDERS).await?;
    stage.equal(ORDERS, Plain::Int).await?;
    assert!(daemon.log().iter().any(|line| line.contains("will try again")), "nothing was interrupted");
    assert_eq!(stage.number("select count(*) from rowstream.held").await?, 0);
    assert!(daemon.stop().await?.success());
    Ok(())
}

/// The cursors of the stream and of chunks, in the middle of their replies.
#[tokio::test]
async fn connections_to_mongodb_that_are_reset_are_made_anew() -> Result<()> {
    let (roads, mut following) = scene("reset_mongodb", 71).await?;
    // Requests are small: this is every few seconds of them.
    let mut resets = roads.mongodb.resets();
    for count in 1..=4 {
        roads.mongodb.reset_after(3_000 * count as i64);
        let happened = resets.wait_for(|resets| *resets >= count);
        tokio::time::timeout(PATIENCE, happened).await.context("no reset")??;
        following.goes_on().await?;
    }
    following.ends_well().await
}
