//! Findings are repaired by the pipeline: it is asked to read their documents again, and brings their rows to
//! what they say. Nothing is written here but the request.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use mongodb::Client;
use serde::Serialize;
use sqlx::PgConnection;

use super::finding::{Kind, Suspect};
use super::look::Comparisons;
use super::settle::Settling;
use crate::domain::{CanonicalId, SourceIndex};
use crate::pipeline::{Error, Plan, read, state};
use crate::source;
use crate::state::reconcile::{self, Finding};
use crate::state::touch;

/// Documents of one look.
const AT_ONCE: usize = 1_000;

/// Keys that are named of each group.
const KEYS: usize = 5;

/// What works on the findings that runs have left.
#[derive(Debug)]
pub struct Repairer {
    client: Client,
    plan: Arc<Plan>,
    pipeline: Arc<str>,
    run: i64,
    comparisons: Vec<Comparisons>,
    comparing: PgConnection,
    state: PgConnection,
    patience: Duration,
    lease_ttl: Duration,
}

/// Which findings are to be repaired.
#[derive(Debug, Clone)]
pub struct Which {
    /// Empty: of all sources.
    pub sources: Vec<String>,
    /// Of so many documents at the most.
    pub limit: u64,
    /// Those too that differed again after a repair.
    pub again: bool,
}

/// What a repair would do, or has done.
#[derive(Debug, Default, Serialize)]
pub struct Repairs {
    pub groups: Vec<RepairGroup>,
    /// Documents whose rows differ still.
    pub documents: u64,
    /// Findings that are none any more.
    pub healed: u64,
    /// Documents that are left alone, since their rows differed again after a repair.
    pub left_alone: u64,
    /// `None`: nothing was done yet.
    pub repaired: Option<u64>,
    /// Of those that were read again, documents that were written all the time, or that the pipeline is behind with.
    pub unjudged: u64,
    /// Documents whose rows differ again.
    pub not_converging: Vec<String>,
    #[serde(skip)]
    suspects: Vec<Suspect>,
}

/// Rows that are written alike.
#[derive(Debug, Serialize)]
pub struct RepairGroup {
    pub source: String,
    pub action: String,
    pub count: u64,
    pub keys: Vec<String>,
}

impl Repairer {
    pub fn new(
        (client, plan): (Client, Arc<Plan>),
        (pipeline, run): (Arc<str>, i64),
        (comparing, state): (PgConnection, PgConnection),
        patience: Duration,
        lease_ttl: Duration,
    ) -> Self {
        let comparisons = Comparisons::of(&plan);
        Self { client, plan, pipeline, run, comparisons, comparing, state, patience, lease_ttl }
    }

    fn settling(&mut self) -> Settling<'_> {
        Settling {
            client: &self.client,
            plan: &self.plan,
            pipeline: &self.pipeline,
            comparisons: &self.comparisons,
            comparing: &mut self.comparing,
            state: &mut self.state,
            shown: 0,
            patience: self.patience,
            lease_ttl: self.lease_ttl,
            stop: None,
        }
    }

    /// Looks at the findings once more: what differs still is to be repaired.
    pub async fn plan(&mut self, which: &Which) -> Result<Repairs, Error> {
        let mut repairs = Repairs::default();
        let plan = Arc::clone(&self.plan);
        for mapped in &plan.mapped {
            let mapping = &mapped.mapping;
            if !which.sources.is_empty() && !which.sources.contains(&mapping.source) {
                continue;
            }
            let limit = i64::try_from(which.limit).unwrap_or(i64::MAX);
            let known = reconcile::known(&mut self.state, &self.pipeline, &mapping.source, None, limit);
            let mut documents: BTreeMap<String, (CanonicalId, bool)> = BTreeMap::new();
            for known in known.await.map_err(state)? {
                let Some(id) = known.finding.id else { continue };
                let (_, converges) = documents.entry(known.finding.source_id).or_insert((id, true));
                *converges &= known.converges;
            }
            let stubborn = documents.values().filter(|(_, converges)| !converges).count() as u64;
            let ids: Vec<CanonicalId> = documents
                .into_values()
                .filter(|(_, converges)| *converges || which.again)
                .map(|(id, _)| id)
                .collect();
            repairs.left_alone += if which.again { 0 } else { stubborn };
            let room = usize::try_from(which.limit).unwrap_or(usize::MAX) - repairs.suspects.len();
            let ids = &ids[..ids.len().min(room)];
            let suspects = self.look(mapping.index, ids).await?;
            repairs.healed += (ids.len() - suspects.len()) as u64;
            repairs.suspects.extend(suspects);
        }
        repairs.documents = repairs.suspects.len() as u64;
        repairs.groups = groups(&plan, &repairs.suspects);
        Ok(repairs)
    }

    async fn look(&mut self, source: SourceIndex, ids: &[CanonicalId]) -> Result<Vec<Suspect>, Error> {
        let mut found = Vec::new();
        for part in ids.chunks(AT_ONCE) {
            let time = source::operation_time(&self.client).await.map_err(read)?;
            found.extend(self.settling().look(source, part, time).await?);
        }
        Ok(found)
    }

    /// Asks the pipeline to read these documents again.
    pub async fn order(&mut self, repairs: &Repairs) -> Result<(), Error> {
        for (source, suspects) in by_source(&repairs.suspects) {
            let name = self.plan.of(source).mapping.source.clone();
            for part in suspects.chunks(AT_ONCE) {
                let documents: Vec<(&str, &CanonicalId)> =
                    part.iter().filter_map(|one| Some((one.source_id.as_str(), one.id.as_ref()?))).collect();
                let ids: Vec<&str> = documents.iter().map(|(source_id, _)| *source_id).collect();
                reconcile::repairing(&mut self.state, &self.pipeline, &name, &ids).await.map_err(state)?;
                touch::insert(&mut self.state, &self.pipeline, &name, &documents).await.map_err(state)?;
            }
        }
        Ok(())
    }

    /// How many documents are still to be read again.
    pub async fn left(&mut self) -> Result<i64, Error> {
        touch::count(&mut self.state, &self.pipeline, &self.plan.names()).await.map_err(state)
    }

    /// Whether somebody leads, and will read what is asked for.
    pub async fn is_followed(&mut self) -> Result<bool, Error> {
        let followed = reconcile::followed(&mut self.state, &self.pipeline).await.map_err(state)?;
        let age = followed.and_then(|followed| followed.heartbeat_age);
        Ok(age.is_some_and(|age| age < self.lease_ttl.as_secs_f64()))
    }

    /// Looks at what was repaired: what differs again does not converge.
    pub async fn judge(&mut self, mut repairs: Repairs) -> Result<Repairs, Error> {
        let mut stubborn = Vec::new();
        for (source, suspects) in by_source(&repairs.suspects) {
            let ids: Vec<CanonicalId> = suspects.iter().filter_map(|suspect| suspect.id.clone()).collect();
            let again = self.look(source, &ids).await?;
            let settled = self.settling().settle(again).await?;
            let name = self.plan.of(source).mapping.source.clone();
            let findings: Vec<Finding> =
                settled.findings.iter().flat_map(|suspect| findings_of(&name, suspect)).collect();
            reconcile::found(&mut self.state, &self.pipeline, self.run, &findings).await.map_err(state)?;
            let open = settled.pending.iter().chain(&settled.unsettled);
            let open: Vec<&str> = open.map(|suspect| suspect.source_id.as_str()).collect();
            repairs.unjudged += open.len() as u64;
            let judged = suspects.iter().map(|suspect| suspect.source_id.as_str());
            let judged: Vec<&str> = judged.filter(|source_id| !open.contains(source_id)).collect();
            reconcile::settled(&mut self.state, &self.pipeline, self.run, &name, &judged)
                .await
                .map_err(state)?;
            stubborn
                .extend(settled.findings.into_iter().map(|suspect| format!("{name} {}", suspect.source_id)));
        }
        repairs.repaired = Some(repairs.documents - stubborn.len() as u64 - repairs.unjudged);
        repairs.not_converging = stubborn;
        Ok(repairs)
    }
}

/// As the state keeps them.
pub(super) fn findings_of(source: &str, suspect: &Suspect) -> Vec<Finding> {
    let of_table = |deviating: &super::Deviating| Finding {
        source: source.to_owned(),
        source_id: suspect.source_id.clone(),
        id: suspect.id.clone(),
        target: deviating.table.clone(),
        kind: deviating.kind.as_str().to_owned(),
        columns: deviating.columns.clone(),
    };
    suspect.deviating.iter().map(of_table).collect()
}

fn by_source(suspects: &[Suspect]) -> BTreeMap<SourceIndex, Vec<Suspect>> {
    let mut found: BTreeMap<SourceIndex, Vec<Suspect>> = BTreeMap::new();
    for suspect in suspects {
        found.entry(suspect.source).or_default().push(suspect.clone());
    }
    found
}

fn groups(plan: &Plan, suspects: &[Suspect]) -> Vec<RepairGroup> {
    let mut groups: HashMap<(SourceIndex, String), RepairGroup> = HashMap::new();
    for suspect in suspects {
        for deviating in &suspect.deviating {
            let columns = deviating.columns.join(", ");
            let table = &deviating.table;
            let action = match deviating.kind {
                Kind::Missing => format!("insert into {table}"),
                Kind::Different => format!("update {table}: {columns}"),
                Kind::Extra => format!("remove from {table}"),
                Kind::MissingChild => format!("insert into {table}"),
                Kind::DifferentChild => format!("update {table}: {columns}"),
                Kind::ExtraChild => format!("delete from {table}"),
                Kind::NotHeld => "hold, with the reason".to_owned(),
            };
            let source = plan.of(suspect.source).mapping.source.clone();
            let group = groups.entry((suspect.source, action.clone())).or_insert_with(|| RepairGroup {
                source,
                action,
                count: 0,
                keys: Vec::new(),
            });
            group.count += 1;
            if group.keys.len() < KEYS {
                group.keys.push(suspect.source_id.clone());
            }
        }
    }
    let mut groups: Vec<RepairGroup> = groups.into_values().collect();
    groups.sort_by(|left, right| (&left.source, &left.action).cmp(&(&right.source, &right.action)));
    groups
}

impl fmt::Display for Repairs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for RepairGroup { source, action, count, keys } in &self.groups {
            let more = if *count > keys.len() as u64 { ", …" } else { "" };
            writeln!(f, "  {source}: {action} ({count}: {}{more})", keys.join(", "))?;
        }
        if self.healed > 0 {
            writeln!(f, "  {} no longer differ", self.healed)?;
        }
        if self.left_alone > 0 {
            writeln!(
                f,
                "! {} differed again after a repair and are left alone; --again repeats it",
                self.left_alone
            )?;
        }
        match self.repaired {
            None if self.documents == 0 => {
                write!(f, "✓ nothing to repair; `rowstream verify` looks for more")
            }
            None => write!(f, "{} documents would be read again: --apply does it", self.documents),
            Some(repaired) => {
                for key in &self.not_converging {
                    writeln!(f, "✗ {key} differs again: a trigger or another writer changes its rows")?;
                }
                if self.unjudged > 0 {
                    writeln!(
                        f,
                        "! {} are written all the time, or not read again yet: not judged",
                        self.unjudged
                    )?;
                }
                let mark = if self.not_converging.is_empty() { '✓' } else { '✗' };
                write!(f, "{mark} {repaired} of {} documents repaired", self.documents)
            }
        }
    }
}
