//! The second look: what differed is judged once the pipeline has passed the first one.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use mongodb::Client;
use sqlx::PgConnection;
use tokio::sync::watch;

use super::finding::{Kind, Suspect};
use super::look::{Comparisons, Looker};
use crate::domain::{CanonicalId, ClusterTime, Position, SourceIndex};
use crate::pipeline::{Error, Plan, SourceBatch, read, state};
use crate::source::{self, AfterLoss, Continuity, EventKind, Manner};
use crate::state::{checkpoint, reconcile};

/// Looks after the first one. A document that is written all the time is never judged; its next quiet moment,
/// or the next run, does it.
const LOOKS: usize = 4;

/// Documents of one look.
const AT_ONCE: usize = 1_000;

const POLLED_EVERY: Duration = Duration::from_millis(200);

/// Of the stream, where nobody follows it.
const MANNER: Manner =
    Manner { budget: 8 * 1024 * 1024, after_loss: AfterLoss::End, patience: Duration::from_secs(30) };

/// What became of suspects.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// Differ still, with the same document.
    pub findings: Vec<Suspect>,
    /// Nobody follows the stream, and it has changes for them.
    pub pending: Vec<Suspect>,
    /// Written all the time, or the pipeline did not come so far in time.
    pub unsettled: Vec<Suspect>,
}

/// What settles.
#[derive(Debug)]
pub(super) struct Settling<'a> {
    pub client: &'a Client,
    pub plan: &'a Plan,
    pub pipeline: &'a str,
    pub comparisons: &'a [Comparisons],
    pub comparing: &'a mut PgConnection,
    pub state: &'a mut PgConnection,
    /// Of so many rows of each look, the values that differ are taken along.
    pub shown: usize,
    /// How long the pipeline may take to pass a look.
    pub patience: Duration,
    /// A leader without a sign of life for so long leads no longer.
    pub lease_ttl: Duration,
    /// Nothing is judged any more once it is true.
    pub stop: Option<watch::Receiver<bool>>,
}

enum Passed {
    /// Everything up to the look is applied.
    Applied,
    /// Nobody follows: these suspects have changes that are not applied.
    Changed(HashSet<(SourceIndex, CanonicalId)>),
    Late,
}

impl Settling<'_> {
    pub(super) async fn settle(&mut self, suspects: Vec<Suspect>) -> Result<Settled, Error> {
        let mut settled = Settled::default();
        let mut open = suspects;
        for _ in 0..LOOKS {
            if open.is_empty() {
                return Ok(settled);
            }
            let time = source::operation_time(self.client).await.map_err(read)?;
            match self.pass(time, &open).await? {
                Passed::Applied => {}
                Passed::Late => break,
                Passed::Changed(changed) => {
                    let has_changed = |suspect: &Suspect| {
                        let key = suspect.id.clone().map(|id| (suspect.source, id));
                        key.is_some_and(|key| changed.contains(&key))
                    };
                    settled.pending.extend(open.extract_if(.., |suspect| has_changed(suspect)));
                }
            }
            open = self.look_again(open, time, &mut settled).await?;
        }
        settled.unsettled.append(&mut open);
        Ok(settled)
    }

    /// What is not judged by this look either.
    async fn look_again(
        &mut self,
        suspects: Vec<Suspect>,
        time: ClusterTime,
        settled: &mut Settled,
    ) -> Result<Vec<Suspect>, Error> {
        let mut by_source: HashMap<SourceIndex, Vec<Suspect>> = HashMap::new();
        for suspect in suspects {
            by_source.entry(suspect.source).or_default().push(suspect);
        }
        let mut open = Vec::new();
        for (source, suspects) in by_source {
            for part in suspects.chunks(AT_ONCE) {
                let ids: Vec<CanonicalId> = part.iter().filter_map(|suspect| suspect.id.clone()).collect();
                let again = self.look(source, &ids, time).await?;
                let again: HashMap<&str, &Suspect> =
                    again.iter().map(|suspect| (suspect.source_id.as_str(), suspect)).collect();
                let due = self.due(source, part).await?;
                for before in part {
                    let Some(now) = again.get(before.source_id.as_str()) else { continue };
                    let mut now = Suspect::clone(now);
                    let is_same = now.document == before.document && !due.contains(&now.source_id);
                    let seen = |table: &str, kind: Kind| {
                        before.deviating.iter().any(|one| one.table == table && one.kind == kind)
                    };
                    if is_same && now.deviating.iter().any(|one| seen(&one.table, one.kind)) {
                        now.deviating.retain(|one| seen(&one.table, one.kind));
                        settled.findings.push(now);
                    } else {
                        open.push(now);
                    }
                }
            }
        }
        Ok(open)
    }

    /// What the pipeline will read again by itself, and has not yet.
    async fn due(&mut self, source: SourceIndex, suspects: &[Suspect]) -> Result<HashSet<String>, Error> {
        let ids: Vec<&str> = suspects.iter().map(|suspect| suspect.source_id.as_str()).collect();
        let name = &self.plan.of(source).mapping.source;
        let due = reconcile::due(self.state, self.pipeline, name, &ids).await.map_err(state)?;
        Ok(due.into_iter().collect())
    }

    /// Looks at these documents as they are at `time` or later.
    pub(super) async fn look(
        &mut self,
        source: SourceIndex,
        ids: &[CanonicalId],
        time: ClusterTime,
    ) -> Result<Vec<Suspect>, Error> {
        let namespace = &self.plan.of(source).mapping.namespace;
        let found = source::lookup(self.client, namespace, ids, time).await.map_err(read)?;
        let mut batch = SourceBatch::new(source);
        let mut missing: HashSet<CanonicalId> = ids.iter().cloned().collect();
        for (id, document) in found {
            missing.remove(&id);
            batch.put(self.plan, &id, document, None);
        }
        missing.into_iter().for_each(|id| batch.gone(self.plan, id));
        let mut looker = Looker {
            connection: self.comparing,
            pipeline: self.pipeline,
            plan: self.plan,
            comparisons: self.comparisons,
            shown: self.shown,
        };
        Ok(looker.look(batch).await?.suspects)
    }

    /// Waits until everything up to `time` is applied, or says what is not.
    async fn pass(&mut self, time: ClusterTime, suspects: &[Suspect]) -> Result<Passed, Error> {
        let began = Instant::now();
        loop {
            let followed = reconcile::followed(self.state, self.pipeline).await.map_err(state)?;
            let Some(followed) = followed else { return Ok(Passed::Late) };
            if followed.applied >= time {
                return Ok(Passed::Applied);
            }
            let leads = followed.heartbeat_age.is_some_and(|age| age < self.lease_ttl.as_secs_f64());
            if !leads {
                return self.changed_since(time, suspects).await;
            }
            let is_stopped = self.stop.as_ref().is_some_and(|stop| *stop.borrow());
            if is_stopped || began.elapsed() >= self.patience {
                return Ok(Passed::Late);
            }
            tokio::time::sleep(POLLED_EVERY).await;
        }
    }

    /// Reads what nobody has followed: which suspects have changed between the checkpoint and `time`.
    async fn changed_since(&mut self, time: ClusterTime, suspects: &[Suspect]) -> Result<Passed, Error> {
        let Some(checkpoint) = checkpoint::load(self.state, self.pipeline).await.map_err(state)? else {
            return Ok(Passed::Late);
        };
        let mut position = checkpoint.position;
        if checkpoint.scope_hash != self.plan.scope_hash {
            // A token is of the stream it came from; its time is good for any.
            position = Position { token: None, time: position.time };
        }
        let wanted: HashSet<(SourceIndex, &CanonicalId)> =
            suspects.iter().filter_map(|one| Some((one.source, one.id.as_ref()?))).collect();
        let all_of = |source: SourceIndex| {
            let of_source = wanted.iter().filter(move |(of, _)| *of == source);
            of_source.map(|(of, id)| (*of, CanonicalId::clone(id)))
        };
        let routes = self.plan.routes();
        let mut replies = source::open(self.client, self.plan.scope.clone(), position, MANNER);
        let mut changed = HashSet::new();
        let began = Instant::now();
        loop {
            let Ok(reply) = tokio::time::timeout(self.patience, replies.next()).await else {
                return Ok(Passed::Late);
            };
            let Some(reply) = reply.transpose().map_err(read)? else { return Ok(Passed::Late) };
            if reply.continuity != Continuity::Unbroken || began.elapsed() >= self.patience {
                return Ok(Passed::Late);
            }
            for event in &reply.events {
                let (collection, id) = match &event.kind {
                    EventKind::Document { collection, id, .. } => (*collection, Some(id)),
                    EventKind::Dropped { collection } | EventKind::Replaced { collection } => {
                        (*collection, None)
                    }
                    EventKind::Discovered(_) => continue,
                };
                for route in routes.get(usize::from(collection.0)).into_iter().flatten() {
                    match id {
                        Some(id) if wanted.contains(&(route.source, id)) => {
                            changed.insert((route.source, id.clone()));
                        }
                        Some(_) => {}
                        None => changed.extend(all_of(route.source)),
                    }
                }
            }
            if reply.time >= time {
                return Ok(Passed::Changed(changed));
            }
        }
    }
}
