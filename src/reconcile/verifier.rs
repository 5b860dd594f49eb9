//! One run from its beginning to its report.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mongodb::Client;
use serde_json::Value;
use sqlx::PgConnection;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::finding::Suspect;
use super::look::{Comparisons, Sight};
use super::progress::{Compared, Place, Progress, Turns, told};
use super::repair::findings_of;
use super::report::{AssertionReport, Report, SourceReport};
use super::settle::{Settled, Settling};
use super::walk::{Budget, Ground, Step, Walk};
use crate::config::{Assertion, Deletes};
use crate::domain::{CanonicalId, ClusterTime, SourceIndex};
use crate::pipeline::{Error, Moment, Plan, read, state};
use crate::state::mapping::SnapshotState;
use crate::state::{mapping, reconcile};
use crate::transform::Absent;
use crate::{sink, source};

/// Suspects that are kept before they are looked at again: enough to wait for the pipeline seldom, and a few
/// megabytes.
const SUSPECTS: usize = 5_000;

/// Findings that are written down for a source; the others are only counted. Whoever repairs these finds the
/// next ones.
pub(super) const KEPT: u64 = 100_000;

/// How often the state is told that a run lives, and how far it is.
const TOLD_EVERY: Duration = Duration::from_secs(1);

/// How often suspects are judged at least: what was compared since is compared again after an interruption.
const JUDGED_EVERY: Duration = Duration::from_secs(30);

/// Sampled documents of one look.
pub(super) const AT_ONCE: usize = 1_000;

/// A collection of fewer documents than so many samples is compared as a whole.
const SAMPLES: u64 = 20;

/// How much is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Every document and every row.
    Full,
    /// So many documents and rows of each mapping, at random.
    Sample(u64),
}

impl Extent {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Sample(_) => "sample",
        }
    }
}

/// What becomes of findings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duty {
    /// They are told.
    Report,
    /// Their documents are read again by the pipeline, whatever could not be judged as well; what differs then
    /// is told. A pipeline has to be led meanwhile.
    Repair,
}

#[derive(Debug, Clone)]
pub struct Options {
    pub extent: Extent,
    pub duty: Duty,
    /// Empty: all of them.
    pub sources: Vec<String>,
    /// `None`: as fast as it goes.
    pub documents_per_second: Option<u64>,
    /// How long the pipeline may take to pass a look.
    pub patience: Duration,
    pub lease_ttl: Duration,
    pub assertions: Vec<Assertion>,
    /// Of so many rows of each look, the values that differ come with the report; they are never kept.
    pub shown: usize,
}

/// Everything one run works with.
#[derive(Debug)]
pub struct Verifier {
    pub client: Client,
    pub plan: Arc<Plan>,
    pub pipeline: Arc<str>,
    /// The run's number in the state; it has begun.
    pub run: i64,
    /// What an interrupted run has kept.
    pub progress: Option<Value>,
    pub options: Options,
    /// Read only by their own setting; at least one.
    pub comparing: Vec<PgConnection>,
    pub state: PgConnection,
    pub stop: watch::Receiver<bool>,
}

/// How a run ended.
#[derive(Debug)]
pub enum Outcome {
    Done(Report),
    /// It was stopped; where somebody could go on is written down, up to what was judged.
    Stopped,
}

impl Verifier {
    /// Compares, settles, and writes report and findings down.
    pub async fn run(self) -> Result<Outcome, Error> {
        let Self { client, plan, pipeline, run, progress, options, comparing, state, stop } = self;
        let ground = Ground {
            client,
            comparisons: Comparisons::of(&plan),
            plan,
            pipeline,
            budget: Budget::new(options.documents_per_second),
            stop,
        };
        let mut running = Running {
            ground: Arc::new(ground),
            run,
            options,
            comparing,
            state,
            suspects: Vec::new(),
            reports: BTreeMap::new(),
            done: Vec::new(),
            current: None,
            resumed: Progress::read(progress.as_ref()),
            began: Instant::now(),
            seen: Instant::now(),
            kept: Instant::now(),
        };
        let started = Moment::now();
        match running.compare().await {
            Ok(true) => {
                let report = running.report(started, running.took()).await?;
                let value = serde_json::to_value(&report).unwrap_or(Value::Null);
                let pipeline = Arc::clone(&running.ground.pipeline);
                reconcile::finish(&mut running.state, &pipeline, run, "done", Some(&value))
                    .await
                    .map_err(self::state)?;
                Ok(Outcome::Done(report))
            }
            Ok(false) => Ok(Outcome::Stopped),
            Err(error) => Err(error),
        }
    }
}

pub(super) struct Running {
    pub(super) ground: Arc<Ground>,
    pub(super) run: i64,
    pub(super) options: Options,
    comparing: Vec<PgConnection>,
    pub(super) state: PgConnection,
    suspects: Vec<Suspect>,
    pub(super) reports: BTreeMap<SourceIndex, SourceReport>,
    /// Mappings that are compared; their suspects may still have to be judged.
    done: Vec<SourceIndex>,
    /// The mapping that is compared as a whole, and where somebody else would go on with it.
    current: Option<(SourceIndex, Place)>,
    /// What is left of what an interrupted run has kept.
    resumed: Progress,
    began: Instant,
    /// When the state was told last that the run lives, and where it could go on.
    seen: Instant,
    kept: Instant,
}

impl Running {
    /// `false`: it was stopped.
    async fn compare(&mut self) -> Result<bool, Error> {
        let plan = Arc::clone(&self.ground.plan);
        let known = mapping::load(&mut self.state, &self.ground.pipeline).await.map_err(state)?;
        for mapped in &plan.mapped {
            let mapping = &mapped.mapping;
            if !self.options.sources.is_empty() && !self.options.sources.contains(&mapping.source) {
                continue;
            }
            let mut report = SourceReport::new(mapping);
            let known = known.iter().find(|known| known.source == mapping.source);
            report.is_copied = known.is_some_and(|known| known.snapshot == SnapshotState::Done);
            let is_copied = report.is_copied;
            if let Some(compared) = self.resumed.take_done(mapping).filter(|_| is_copied) {
                self.reports.insert(mapping.index, compared);
                self.done.push(mapping.index);
                continue;
            }
            self.reports.insert(mapping.index, report);
            if !is_copied {
                continue;
            }
            let compared = match self.options.extent {
                Extent::Sample(size) if mapped.documents_estimated > size.saturating_mul(SAMPLES) => {
                    self.sample(mapping.index, size).await?
                }
                Extent::Full | Extent::Sample(_) => self.walk(mapping.index).await?,
            };
            if !compared {
                return Ok(false);
            }
            self.current = None;
            self.done.push(mapping.index);
        }
        self.settle().await?;
        self.forget().await?;
        match self.options.duty {
            Duty::Report => Ok(!self.is_stopping()),
            Duty::Repair => self.judge_repairs().await,
        }
    }

    pub(super) fn is_stopping(&self) -> bool {
        *self.ground.stop.borrow()
    }

    pub(super) fn report_of(&mut self, source: SourceIndex) -> &mut SourceReport {
        let mapping = &self.ground.plan.of(source).mapping;
        self.reports.entry(source).or_insert_with(|| SourceReport::new(mapping))
    }

    /// Every document and every row of a mapping; `false`: stopped.
    async fn walk(&mut self, source: SourceIndex) -> Result<bool, Error> {
        let mapping = Arc::clone(&self.ground.plan.of(source).mapping);
        let mut absent = Absent::new(&mapping);
        let (mut report, from) = match self.resumed.take_current(&mapping) {
            Some((report, place)) => {
                absent.retain(&report.absent_paths);
                (report, Some(place))
            }
            None => (SourceReport::new(&mapping), None),
        };
        report.is_whole = true;
        report.absent_paths = absent.names();
        self.reports.insert(source, report);
        self.current = from.clone().map(|place| (source, place));
        let after = self.now().await?;
        let walk = Walk::new(Arc::clone(&self.ground), source, after, from.as_ref(), absent);
        let walk = Arc::new(walk);
        let mut turns = Turns::default();
        let (sender, mut steps) = mpsc::channel(2);
        let mut workers: JoinSet<Result<PgConnection, Error>> = JoinSet::new();
        let mut others: Vec<PgConnection> = std::mem::take(&mut self.comparing);
        // Suspects are looked at again while the others go on.
        let spare = others.pop();
        for connection in others {
            let (walk, sender) = (Arc::clone(&walk), sender.clone());
            workers.spawn(async move { walk.work(connection, sender).await });
        }
        drop(sender);
        self.comparing.extend(spare);
        while let Some(step) = steps.recv().await {
            turns.arrived(step);
            while let Some(step) = turns.next() {
                self.step(source, step).await?;
            }
        }
        while let Some(worker) = workers.join_next().await {
            self.comparing.insert(0, worker.map_err(|error| Error::retry("compare", error))??);
        }
        if self.is_stopping() {
            return Ok(false);
        }
        if mapping.deletes != Deletes::Keep {
            let after = match from {
                Some(Place::Rows(after)) => after,
                None | Some(Place::Documents(_)) => None,
            };
            self.back(source, &walk, after).await?;
        }
        let count = self.count(source).await?;
        let report = self.report_of(source);
        report.rows = count;
        if report.compared == 0 {
            report.absent_paths.clear();
        }
        Ok(!self.is_stopping())
    }

    async fn back(
        &mut self,
        source: SourceIndex,
        walk: &Arc<Walk>,
        after: Option<String>,
    ) -> Result<(), Error> {
        let Some(mut connection) = (self.comparing.len() > 1).then(|| self.comparing.remove(0)) else {
            return Err(Error::halt("a comparison needs two connections", ""));
        };
        let (sender, mut steps) = mpsc::channel(2);
        let going_back = Arc::clone(walk);
        let worker = tokio::spawn(async move {
            let unreadable = going_back.back(&mut connection, &sender, after).await?;
            Ok::<_, Error>((connection, unreadable))
        });
        while let Some(step) = steps.recv().await {
            self.step(source, step).await?;
        }
        let (connection, unreadable) = worker.await.map_err(|error| Error::retry("compare", error))??;
        self.comparing.insert(0, connection);
        let report = self.report_of(source);
        report.unreadable = unreadable.count;
        report.unreadable_keys = unreadable.keys;
        Ok(())
    }

    async fn count(&mut self, source: SourceIndex) -> Result<Option<u64>, Error> {
        let ground = Arc::clone(&self.ground);
        let Some(connection) = self.comparing.first_mut() else { return Ok(None) };
        let comparison = &ground.comparisons[usize::from(source.0)].own;
        match comparison.count(connection).await {
            // Only a figure: a table may be too large to be counted in time.
            Err(error) if error.disposition() == sink::Disposition::Shrink => Ok(None),
            count => count.map_err(crate::pipeline::apply),
        }
    }

    /// Some documents and some rows of a mapping, at random, and everything that an earlier run has found.
    async fn sample(&mut self, source: SourceIndex, size: u64) -> Result<bool, Error> {
        let after = self.now().await?;
        let mapping = Arc::clone(&self.ground.plan.of(source).mapping);
        let limit = i64::try_from(size).unwrap_or(i64::MAX);
        let sampled = source::sample_ids(&self.ground.client, &mapping.namespace, limit).await;
        let mut ids: Vec<CanonicalId> = sampled.map_err(read)?;
        let known =
            reconcile::known(&mut self.state, &self.ground.pipeline, &mapping.source, None, KEPT as i64);
        ids.extend(known.await.map_err(state)?.into_iter().filter_map(|known| known.finding.id));
        let mut once = HashSet::new();
        ids.retain(|id| once.insert(id.clone()));
        let ground = Arc::clone(&self.ground);
        for part in ids.chunks(AT_ONCE) {
            if self.is_stopping() {
                return Ok(false);
            }
            let (documents, drift, sight) = ground.look_at(self.connection()?, source, part, after).await?;
            self.report_of(source).drift.add(&drift);
            self.sighted(source, documents, sight).await?;
            let id_type = mapping.id_type;
            let looked: Vec<String> = part.iter().map(|id| id.source_id(id_type)).collect();
            self.report_of(source).looked_at.extend(looked);
        }
        if mapping.deletes == Deletes::Keep {
            return Ok(true);
        }
        let ids = self.sampled_rows(source, limit).await?;
        for part in ids.chunks(AT_ONCE) {
            let sight = ground.look_for(self.connection()?, source, part, after).await?;
            self.sighted(source, 0, sight).await?;
        }
        Ok(true)
    }

    async fn sampled_rows(&mut self, source: SourceIndex, limit: i64) -> Result<Vec<CanonicalId>, Error> {
        let ground = Arc::clone(&self.ground);
        let mapped = ground.plan.of(source);
        let mapping = &mapped.mapping;
        // Twice as many pages as hold so many rows; all of them, where that finds none.
        let share = 200.0 * limit as f32 / mapped.documents_estimated.max(1) as f32;
        for percent in [share.clamp(0.01, 100.0), 100.0] {
            let ids: Vec<CanonicalId> = if mapping.key.is_claimed() {
                let (pipeline, name) = (&ground.pipeline, &mapping.source);
                let claims = reconcile::sample_claims(&mut self.state, pipeline, name, percent, limit);
                claims.await.map_err(state)?.into_iter().map(|(_, id)| id).collect()
            } else {
                let comparison = &ground.comparisons[usize::from(source.0)].own;
                let texts = comparison.sample(self.connection()?, percent, limit).await;
                let texts = texts.map_err(crate::pipeline::apply)?;
                texts.iter().filter_map(|text| CanonicalId::from_source_id(text, mapping.id_type)).collect()
            };
            if !ids.is_empty() {
                return Ok(ids);
            }
        }
        Ok(Vec::new())
    }

    fn connection(&mut self) -> Result<&mut PgConnection, Error> {
        let none = || Error::halt("a comparison needs a connection", "");
        self.comparing.first_mut().ok_or_else(none)
    }

    pub(super) async fn now(&self) -> Result<ClusterTime, Error> {
        source::operation_time(&self.ground.client).await.map_err(read)
    }

    async fn step(&mut self, source: SourceIndex, step: Step) -> Result<(), Error> {
        let Step { documents, sight, next, seen, drift, .. } = step;
        let report = self.report_of(source);
        report.absent_paths.retain(|path| !seen.contains(path));
        report.drift.add(&drift);
        self.current = Some((source, next));
        self.sighted(source, documents, sight).await
    }

    async fn sighted(&mut self, source: SourceIndex, documents: u64, sight: Sight) -> Result<(), Error> {
        let Sight { suspects, compared, filtered, held } = sight;
        let report = self.report_of(source);
        report.documents += documents;
        report.compared += compared;
        report.filtered += filtered;
        report.held += held;
        self.suspects.extend(suspects);
        if self.suspects.len() >= SUSPECTS {
            self.settle().await?;
        }
        self.alive().await
    }

    /// Tells the state now and then; whoever finds the run taken away stops.
    pub(super) async fn alive(&mut self) -> Result<(), Error> {
        if self.seen.elapsed() < TOLD_EVERY {
            return Ok(());
        }
        self.seen = Instant::now();
        if self.kept.elapsed() >= JUDGED_EVERY {
            self.settle().await?;
        }
        let kept = self.progress();
        if kept.is_some() {
            self.kept = Instant::now();
        }
        let progress = told(self.reports.values(), kept.as_ref());
        let pipeline = Arc::clone(&self.ground.pipeline);
        let ours = reconcile::progressed(&mut self.state, &pipeline, self.run, Some(&progress)).await;
        match ours.map_err(state)? {
            true => Ok(()),
            false => Err(Error::Rebuild { because: "another comparison has taken over" }),
        }
    }

    /// `None`: something before this place is not judged yet, and would be forgotten.
    fn progress(&self) -> Option<Progress> {
        if !self.suspects.is_empty() {
            return None;
        }
        let plan = &self.ground.plan;
        let compared = |source: &SourceIndex| {
            let report = self.reports.get(source)?.clone();
            Some(Compared { hash: plan.of(*source).mapping.hash.clone(), report })
        };
        let done = self.done.iter().filter_map(compared).collect();
        let current = self.current.as_ref();
        let current = current.and_then(|(source, place)| Some((compared(source)?, place.clone())));
        Some(Progress { seconds: self.took().as_secs_f64(), done, current })
    }

    /// Of the run, the time before it was cut off included.
    fn took(&self) -> Duration {
        self.began.elapsed() + Duration::try_from_secs_f64(self.resumed.seconds).unwrap_or_default()
    }

    /// The second look at what differed so far.
    async fn settle(&mut self) -> Result<(), Error> {
        let suspects = std::mem::take(&mut self.suspects);
        if suspects.is_empty() || self.is_stopping() {
            return Ok(());
        }
        let ground = Arc::clone(&self.ground);
        let Some(mut settling) = self.settling(&ground) else { return Ok(()) };
        let settled = settling.settle(suspects).await?;
        if self.options.duty == Duty::Repair {
            return self.send(settled).await;
        }
        let Settled { findings, pending, unsettled } = settled;
        for suspect in pending {
            self.report_of(suspect.source).pending += 1;
        }
        for suspect in unsettled {
            self.report_of(suspect.source).unsettled += 1;
        }
        self.keep(&findings).await
    }

    pub(super) fn settling<'a>(&'a mut self, ground: &'a Ground) -> Option<Settling<'a>> {
        Some(Settling {
            client: &ground.client,
            plan: &ground.plan,
            pipeline: &ground.pipeline,
            comparisons: &ground.comparisons,
            comparing: self.comparing.last_mut()?,
            state: &mut self.state,
            shown: self.options.shown,
            patience: self.options.patience,
            lease_ttl: self.options.lease_ttl,
            stop: Some(ground.stop.clone()),
        })
    }

    /// Writes findings down.
    async fn keep(&mut self, findings: &[Suspect]) -> Result<(), Error> {
        let mut kept = Vec::new();
        for suspect in findings {
            let source = self.ground.plan.of(suspect.source).mapping.source.clone();
            let report = self.report_of(suspect.source);
            let has_room = report.findings() < KEPT;
            report.found(suspect);
            if has_room {
                kept.extend(findings_of(&source, suspect));
            }
        }
        let pipeline = Arc::clone(&self.ground.pipeline);
        reconcile::found(&mut self.state, &pipeline, self.run, &kept).await.map_err(state)
    }

    /// What earlier runs have found and this one has not is over.
    async fn forget(&mut self) -> Result<(), Error> {
        let pipeline = Arc::clone(&self.ground.pipeline);
        for report in self.reports.values_mut().filter(|report| report.is_copied) {
            // Whoever was not judged may be one of them.
            if report.pending + report.unsettled > 0 {
                continue;
            }
            let source = &report.source;
            if report.is_whole {
                reconcile::forget_others(&mut self.state, &pipeline, self.run, source)
                    .await
                    .map_err(state)?;
                continue;
            }
            let looked = std::mem::take(&mut report.looked_at);
            let ids: Vec<&str> = looked.iter().map(String::as_str).collect();
            reconcile::settled(&mut self.state, &pipeline, self.run, source, &ids).await.map_err(state)?;
        }
        Ok(())
    }

    async fn report(&mut self, started: Moment, took: Duration) -> Result<Report, Error> {
        let pipeline = Arc::clone(&self.ground.pipeline);
        for (source, first_found_at, stubborn) in
            reconcile::oldest(&mut self.state, &pipeline).await.map_err(state)?
        {
            if let Some(report) = self.reports.values_mut().find(|report| report.source == source) {
                report.oldest = Some(first_found_at);
                report.not_converging = stubborn.unsigned_abs();
            }
        }
        for (source, held) in reconcile::held_counts(&mut self.state, &pipeline).await.map_err(state)? {
            if let Some(report) = self.reports.values_mut().find(|report| report.source == source) {
                report.held = held.unsigned_abs();
            }
        }
        let assertions = self.assertions().await?;
        let sources = std::mem::take(&mut self.reports).into_values().collect();
        Ok(Report::new(self.run, &pipeline, self.options.extent, started, took, sources, assertions))
    }

    async fn assertions(&mut self) -> Result<Vec<AssertionReport>, Error> {
        let asked = std::mem::take(&mut self.options.assertions);
        let mut reports = Vec::with_capacity(asked.len());
        for assertion in asked {
            let found = sink::ask(self.connection()?, &assertion.sql).await;
            reports.push(AssertionReport::new(&assertion, found.map_err(|error| error.to_string())));
        }
        Ok(reports)
    }
}

impl SourceReport {
    pub(super) fn found(&mut self, suspect: &Suspect) {
        for deviating in &suspect.deviating {
            self.count(deviating, &suspect.source_id);
        }
    }
}
