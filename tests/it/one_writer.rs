//! Whatever is done to two or three daemons of one pipeline, only one of them writes, and /health says which.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::daemon::{Daemon, PATIENCE};
use crate::following::{DOCUMENTS, ORDERS};
use crate::oracle::Plain;
use crate::stage::{Stage, numbered};
use crate::support::until;
use crate::writer::{self, Random, Writer};

/// The lease of the tests takes 3 s to run out; the rest is for a machine that has other things to do.
const SOON: Duration = Duration::from_secs(13);

/// Every row that is written says by which daemon (connections are named by their owner), and every checkpoint
/// under which epoch. What is rolled back is not in it.
const AUDIT: &str = r#"
    create table audit (number bigint generated always as identity, owner text, epoch bigint);
    create function audit_row() returns trigger language plpgsql as $$begin
        insert into audit (owner) values (split_part(current_setting('application_name'), ' ', 2));
        return null;
    end$$;
    create function audit_epoch() returns trigger language plpgsql as $$begin
        insert into audit (owner, epoch)
        values (split_part(current_setting('application_name'), ' ', 2), new.epoch);
        return null;
    end$$;
    create table orders (
        source text, source_id text, document jsonb not null, primary key (source, source_id));
    create trigger audit after insert or update or delete on orders
        for each statement execute function audit_row();
"#;

/// The daemon makes its own schema first.
const AUDIT_EPOCHS: &str = "create or replace trigger audit after insert or update on rowstream.checkpoint
    for each row execute function audit_epoch()";

struct Crew {
    stage: Stage,
    config: String,
    daemons: Vec<Daemon>,
    writer: Writer,
}

impl Crew {
    async fn new(name: &str, seed: u64) -> Result<Self> {
        let stage = Stage::new(name).await?;
        stage.execute(AUDIT).await?;
        stage.collection(ORDERS).insert_many(numbered(0, DOCUMENTS)).await?;
        let config = stage.config(&stage.whole(ORDERS)) + "snapshot: { chunk_documents: 100, workers: 2 }\n";
        let output = crate::daemon::command(&["migrate"], &config)?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        stage.execute(AUDIT_EPOCHS).await?;
        let writer = Writer::start(&stage, ORDERS, DOCUMENTS, seed, Duration::from_millis(20));
        Ok(Self { stage, config, daemons: Vec::new(), writer })
    }

    fn last_words(&self) -> String {
        self.daemons.iter().map(Daemon::last_words).collect::<Vec<_>>().join("\n")
    }

    /// What is written from now on arrives.
    async fn goes_on(&mut self) -> Result<()> {
        self.writer.writes_on(3).await?;
        let goal = self.writer.written().bursts;
        until("what was written to arrive", PATIENCE, async || {
            Ok((writer::arrived(&self.stage, ORDERS).await.unwrap_or(0) >= goal).then_some(()))
        })
        .await
        .with_context(|| self.last_words())
    }

    async fn becomes(&self, number: usize, role: &str) -> Result<()> {
        let daemon = &self.daemons[number];
        until(&format!("daemon {number} to be {role}"), PATIENCE, async || {
            Ok((daemon.status().await?["role"] == role).then_some(()))
        })
        .await
        .with_context(|| self.last_words())?;
        let (code, _) = daemon.get("/health").await?;
        let (detail, led) = (daemon.detail("leader").await?, daemon.metric("rowstream_leader").await?);
        let leads = role == "leader";
        ensure!(leads != detail.contains("standby"), "the {role} says {detail}");
        ensure!((led > 0.0) == leads, "the {role} has rowstream_leader {led}");
        ensure!(leads || code == 200, "a standby is well, but says {code}");
        Ok(())
    }

    /// Which of those that are awake leads.
    async fn leader(&self, awake: &[usize]) -> Result<usize> {
        until("a leader", PATIENCE, async || {
            let mut leaders = Vec::new();
            for number in awake {
                if self.daemons[*number].status().await?["role"] == "leader" {
                    leaders.push(*number);
                }
            }
            Ok((leaders.len() == 1).then(|| leaders[0]))
        })
        .await
        .with_context(|| self.last_words())
    }

    async fn turns(&self) -> Result<i64> {
        let turns = "select count(*) from (
                select owner, lag(owner) over (order by number) as before from audit) as written
            where owner is distinct from before";
        self.stage.number(turns).await
    }

    /// A write of somebody whose time was over would be a turn more, and the return from it another.
    async fn only_one_wrote(&self, expected: i64) -> Result<()> {
        let turns = self.turns().await?;
        ensure!(turns == expected, "{turns} turns were taken, {expected} expected");
        let back = "select count(*) from (
                select epoch, max(epoch) over (order by number) as highest from audit where epoch is not null) as epochs
            where epoch < highest";
        ensure!(self.stage.number(back).await? == 0, "a checkpoint of an epoch that was over");
        Ok(())
    }

    async fn ends_well(self, leader: usize, turns: i64) -> Result<()> {
        self.only_one_wrote(turns).await?;
        self.writer.finish().await?;
        self.stage.settled(&self.daemons[leader], ORDERS).await?;
        self.stage.equal(ORDERS, Plain::Int).await
    }
}

/// Frozen at this point until somebody else leads, then woken: it goes on exactly there.
#[cfg(feature = "failpoints")]
async fn frozen_at(point: rowstream::pipeline::FailPoint, seed: u64) -> Result<()> {
    use rowstream::pipeline::FailPoint;

    let name = point.name();
    let mut crew = Crew::new(&format!("frozen_{name}"), seed).await?;
    // Long enough to be frozen within it, over when it wakes.
    let first = point == FailPoint::LeaseTaken;
    let fault = format!("{name}={}1*return(2000)", if first { "" } else { "2*off->" });
    crew.daemons.push(Daemon::start_in(&crew.config, &[], &[("FAILPOINTS", &fault)])?);
    crew.daemons[0].logged("fail point reached").await?;
    crew.daemons[0].signal("STOP")?;
    let frozen = Instant::now();
    crew.daemons.push(Daemon::start(&crew.config)?);
    crew.becomes(1, "leader").await?;
    ensure!(frozen.elapsed() < SOON, "the take-over took {:?}", frozen.elapsed());
    crew.goes_on().await?;
    crew.daemons[0].signal("CONT")?;
    crew.becomes(0, "standby").await?;
    crew.becomes(1, "leader").await?;
    crew.goes_on().await?;
    // At the earliest points the first has written nothing.
    let wrote = crew.stage.number("select count(distinct owner) from audit").await?;
    crew.ends_well(1, wrote).await
}

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn a_leader_frozen_in_a_batch_writes_nothing_of_it_when_it_wakes() -> Result<()> {
    use rowstream::pipeline::FailPoint::{AtOnce, Commit, LeaseTaken, LookUp, RowsWritten};
    for (point, seed) in [(LeaseTaken, 90), (LookUp, 91), (RowsWritten, 92), (Commit, 93), (AtOnce, 88)] {
        frozen_at(point, seed).await.with_context(|| format!("frozen at {}", point.name()))?;
    }
    Ok(())
}

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn a_leader_frozen_in_a_chunk_writes_nothing_of_it_when_it_wakes() -> Result<()> {
    use rowstream::pipeline::FailPoint::{ChunkRead, CommitChunk, PlanChunk, ReadChunk};
    for (point, seed) in [(PlanChunk, 94), (ReadChunk, 95), (ChunkRead, 96), (CommitChunk, 97)] {
        frozen_at(point, seed).await.with_context(|| format!("frozen at {}", point.name()))?;
    }
    Ok(())
}

#[tokio::test]
async fn of_three_daemons_one_writes_whoever_is_frozen_killed_or_stopped() -> Result<()> {
    const ROUNDS: usize = 5;
    let mut crew = Crew::new("three", 98).await?;
    for _ in 0..3 {
        crew.daemons.push(Daemon::start(&crew.config)?);
    }
    let mut random = Random(99);
    let mut leader = crew.leader(&[0, 1, 2]).await?;
    crew.goes_on().await?;
    for _ in 0..ROUNDS {
        // Somewhere in its work: the writer does not wait for it.
        crew.writer.writes_on(1 + random.below(4)).await?;
        let others: Vec<usize> = (0..3).filter(|number| *number != leader).collect();
        let fallen = leader;
        let how = random.below(3);
        let began = Instant::now();
        match how {
            0 => crew.daemons[fallen].signal("STOP")?,
            1 => crew.daemons[fallen].signal("KILL")?,
            _ => crew.daemons[fallen].signal("TERM")?,
        }
        leader = crew.leader(&others).await?;
        ensure!(began.elapsed() < SOON, "the take-over took {:?}", began.elapsed());
        crew.goes_on().await?;
        match how {
            0 => crew.daemons[fallen].signal("CONT")?,
            _ => crew.daemons[fallen] = Daemon::start(&crew.config)?,
        }
        crew.becomes(fallen, "standby").await?;
        crew.goes_on().await?;
    }
    crew.becomes(leader, "leader").await?;
    crew.ends_well(leader, ROUNDS as i64 + 1).await
}
