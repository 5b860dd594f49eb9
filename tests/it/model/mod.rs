//! Random documents, random operations, random faults: in the end every row is what its document makes of it, and
//! what a fresh copy makes of it.
//!
//! MODEL_SEED repeats a run; MODEL_SECONDS is its budget, `make soak` sets SOAK_MINUTES.

mod operations;
mod oracle;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bson::doc;
use proptest::prelude::{BoxedStrategy, Just, Strategy, any, prop_oneof};
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::daemon::{Daemon, PATIENCE};
use crate::proxy::Roads;
use crate::stage::Stage;
use crate::support::proxy::Weather;
use crate::support::until;
use operations::{Operation, operations};

/// What happens around some operations.
#[derive(Debug, Clone, Copy)]
enum Fault {
    None,
    /// Killed before them, started after them.
    Kill,
    Restart,
    /// Frozen while they happen.
    Freeze,
    CutMongodb,
    CutPostgres,
    /// So many bytes, and the connection is reset.
    ResetPostgres(u16),
    ResetMongodb(u16),
    /// All of its sessions.
    TerminateBackends,
}

#[derive(Debug, Clone)]
struct Step {
    fault: Fault,
    operations: Vec<Operation>,
    /// Whether it may catch up before what comes next.
    catch_up: bool,
}

fn steps() -> BoxedStrategy<Vec<Step>> {
    let fault = prop_oneof![
        3 => Just(Fault::None),
        2 => Just(Fault::Kill),
        1 => Just(Fault::Restart),
        1 => Just(Fault::Freeze),
        1 => Just(Fault::CutMongodb),
        1 => Just(Fault::CutPostgres),
        1 => any::<u16>().prop_map(Fault::ResetPostgres),
        1 => (0..4_000_u16).prop_map(Fault::ResetMongodb),
        1 => Just(Fault::TerminateBackends),
    ];
    let step = (fault, operations(), any::<bool>()).prop_map(|(fault, operations, catch_up)| Step {
        fault,
        operations,
        catch_up,
    });
    proptest::collection::vec(step, 3..8).boxed()
}

struct Model {
    stage: Stage,
    roads: Roads,
    config: String,
    daemon: Option<Daemon>,
}

impl Model {
    async fn new() -> Result<Self> {
        let stage = Stage::new("model").await?;
        stage.execute(oracle::SCHEMA).await?;
        let roads = Roads::to(&stage).await?;
        // Batches and chunks are small, so that there are many.
        let config = roads.config_of(&stage, &oracle::mappings(&stage))?
            + "snapshot: { chunk_documents: 5, workers: 2 }\nbatch: { max_changes: 10 }\n";
        Ok(Self { stage, roads, config, daemon: None })
    }

    fn daemon(&self) -> Result<&Daemon> {
        self.daemon.as_ref().context("no daemon")
    }

    async fn start(&mut self) -> Result<()> {
        // The dead cannot give their lease up; there is none before the first.
        let _ = self.stage.execute("update rowstream.lease set heartbeat = 'epoch'").await;
        self.daemon = Some(Daemon::start(&self.config)?);
        Ok(())
    }

    async fn write(&self, operations: &[Operation]) -> Result<()> {
        for operation in operations {
            operation.apply(&self.stage.database).await.with_context(|| format!("{operation:?}"))?;
        }
        Ok(())
    }

    async fn step(&mut self, step: &Step) -> Result<()> {
        match step.fault {
            Fault::None => self.write(&step.operations).await?,
            Fault::Kill => {
                self.daemon.take().context("no daemon")?.kill9()?;
                self.write(&step.operations).await?;
                self.start().await?;
            }
            Fault::Restart => {
                self.write(&step.operations).await?;
                // Whoever has only just been started does not listen to signals yet.
                self.daemon()?.logged("http is listening").await?;
                let stopped = self.daemon.take().context("no daemon")?.stop().await?;
                ensure!(stopped.success(), "it did not stop well: {stopped}");
                self.start().await?;
            }
            Fault::Freeze => {
                self.daemon()?.signal("STOP")?;
                self.write(&step.operations).await?;
                self.daemon()?.signal("CONT")?;
            }
            Fault::CutMongodb => {
                self.roads.mongodb.weather(Weather::Cut);
                self.write(&step.operations).await?;
                self.roads.mongodb.weather(Weather::Fair);
            }
            Fault::CutPostgres => {
                self.roads.postgres.weather(Weather::Cut);
                self.write(&step.operations).await?;
                self.roads.postgres.weather(Weather::Fair);
            }
            Fault::ResetPostgres(bytes) => {
                self.roads.postgres.reset_after(bytes.into());
                self.write(&step.operations).await?;
            }
            Fault::ResetMongodb(bytes) => {
                self.roads.mongodb.reset_after(bytes.into());
                self.write(&step.operations).await?;
            }
            Fault::TerminateBackends => {
                let (half, rest) = step.operations.split_at(step.operations.len() / 2);
                self.write(half).await?;
                let sql = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                           where datname = current_database() and application_name like 'rowstream %'";
                self.stage.number(sql).await?;
                self.write(rest).await?;
            }
        }
        if step.catch_up {
            self.stage.settled(self.daemon()?, "orders").await?;
        }
        Ok(())
    }

    async fn ends_equal(self) -> Result<()> {
        let daemon = self.daemon()?;
        self.stage.settled(daemon, "orders").await?;
        let mut last = Vec::new();
        let equal = until("rows that are what their documents make of them", PATIENCE, async || {
            last = oracle::differences(&self.stage).await?;
            Ok(last.is_empty().then_some(()))
        });
        equal.await.with_context(|| format!("{last:#?}\n{}", daemon.last_words()))?;
        oracle::equals_a_fresh_copy(&self.stage).await
    }
}

async fn case(steps: &[Step]) -> Result<()> {
    let mut model = Model::new().await?;
    // What is there before the daemon.
    model.write(&steps[0].operations).await?;
    model.start().await?;
    for step in &steps[1..] {
        model.step(step).await?;
    }
    model.ends_equal().await
}

fn number(variable: &str) -> Result<Option<u64>> {
    let Ok(text) = std::env::var(variable) else { return Ok(None) };
    Ok(Some(text.parse().with_context(|| format!("{variable} must be a whole number"))?))
}

#[tokio::test]
async fn whatever_happens_rows_are_what_their_documents_make_of_them() -> Result<()> {
    const SECONDS: u64 = 30;
    let soak = number("SOAK_MINUTES")?.map(|minutes| minutes * 60);
    let budget = Duration::from_secs(number("MODEL_SECONDS")?.or(soak).unwrap_or(SECONDS));
    let mut seed = number("MODEL_SEED")?.unwrap_or(1);
    let (began, strategy) = (Instant::now(), steps());
    // Each case has a seed of its own: the one that failed is repeated alone.
    loop {
        println!("the model's seed: MODEL_SEED={seed}");
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let random = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        let mut runner = TestRunner::new_with_rng(Config::default(), random);
        let steps = strategy.new_tree(&mut runner).map_err(anyhow::Error::msg)?.current();
        case(&steps).await.with_context(|| format!("MODEL_SEED={seed}: {steps:#?}"))?;
        if began.elapsed() >= budget {
            return Ok(());
        }
        seed += 1;
    }
}

/// A comparison that cannot fail proves nothing.
#[tokio::test]
async fn a_planted_difference_is_found_by_the_rules_and_by_the_fresh_copy() -> Result<()> {
    let stage = Stage::new("model_planted").await?;
    stage.execute(oracle::SCHEMA).await?;
    for id in 0..4 {
        stage.collection("orders").insert_one(doc! { "_id": id, "a": [id] }).await?;
        stage.collection("people").insert_one(doc! { "_id": id, "name": "n", "score": id }).await?;
        stage.collection("parents").insert_one(doc! { "_id": format!("p{id}"), "name": "n" }).await?;
        let child = doc! { "_id": format!("c{id}"), "title": "t", "parent": format!("p{id}") };
        stage.collection("children").insert_one(child).await?;
    }
    stage.collection("people").insert_one(doc! { "_id": 4, "name": "n", "score": "many" }).await?;
    let config = stage.config(&oracle::mappings(&stage));
    let (_, summary) = Daemon::start_with(&config, &["--until-caught-up"])?.ends_with_output().await?;
    let found = oracle::differences(&stage).await?;
    ensure!(found.is_empty(), "{summary} {found:#?}");
    oracle::equals_a_fresh_copy(&stage).await?;
    for (plant, remove) in [
        (
            "update orders set document = '{\"a\": [1.0]}' where source_id = '1'",
            "update orders set document = '{\"_id\": 1, \"a\": [1]}' where source_id = '1'",
        ),
        (
            "update people set score = 7 where source_id = '1'",
            "update people set score = 1 where source_id = '1'",
        ),
        (
            "update children set parent_id = null where mongo_id = 'c1'",
            "update children set parent_id = p.id from parents p where children.mongo_id = 'c1' and p.mongo_id = 'p1'",
        ),
        ("insert into parents (mongo_id) values ('p9')", "delete from parents where mongo_id = 'p9'"),
        ("update rowstream.held set state = 'resolved'", "update rowstream.held set state = 'failed'"),
    ] {
        stage.execute(plant).await?;
        ensure!(!oracle::differences(&stage).await?.is_empty(), "the rules do not see: {plant}");
        ensure!(oracle::equals_a_fresh_copy(&stage).await.is_err(), "the copy does not see: {plant}");
        stage.execute(remove).await?;
    }
    Ok(())
}
