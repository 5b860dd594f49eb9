//! A run that repairs what it finds: the pipeline is asked to read those documents again while the comparison goes
//! on, and is looked at once it has.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::finding::Suspect;
use super::repair::findings_of;
use super::settle::Settled;
use super::verifier::{AT_ONCE, KEPT, Running};
use crate::domain::{CanonicalId, SourceIndex};
use crate::pipeline::{Error, state};
use crate::state::{reconcile, touch};

/// How often it looks whether everything was read again.
const POLLED_EVERY: Duration = Duration::from_millis(200);

impl Running {
    /// Asks for what differs, and for what could not be judged, to be read again; not for what an earlier repair
    /// did not help.
    pub(super) async fn send(&mut self, settled: Settled) -> Result<(), Error> {
        let Settled { findings, mut pending, mut unsettled } = settled;
        pending.append(&mut unsettled);
        for (source, found) in by_source(findings) {
            let stubborn = self.write_down(source, &found).await?;
            let (left, sent): (Vec<Suspect>, Vec<Suspect>) =
                found.into_iter().partition(|suspect| stubborn.contains(&suspect.source_id));
            let report = self.report_of(source);
            left.iter().for_each(|suspect| report.found(suspect));
            sent.iter().for_each(|suspect| report.sent(suspect));
            self.touch(source, &sent).await?;
        }
        for (source, unjudged) in by_source(pending) {
            self.touch(source, &unjudged).await?;
        }
        Ok(())
    }

    /// Those among them that differed again after an earlier repair.
    async fn write_down(&mut self, source: SourceIndex, found: &[Suspect]) -> Result<HashSet<String>, Error> {
        let ground = Arc::clone(&self.ground);
        let name = &ground.plan.of(source).mapping.source;
        let has_room = self.report_of(source).repaired.values().sum::<u64>() < KEPT;
        let mut stubborn = HashSet::new();
        for part in found.chunks(AT_ONCE).filter(|_| has_room) {
            let findings: Vec<_> = part.iter().flat_map(|suspect| findings_of(name, suspect)).collect();
            reconcile::found(&mut self.state, &ground.pipeline, self.run, &findings).await.map_err(state)?;
            let ids: Vec<&str> = part.iter().map(|suspect| suspect.source_id.as_str()).collect();
            let known = reconcile::stubborn(&mut self.state, &ground.pipeline, name, &ids).await;
            stubborn.extend(known.map_err(state)?);
        }
        Ok(stubborn)
    }

    async fn touch(&mut self, source: SourceIndex, suspects: &[Suspect]) -> Result<(), Error> {
        let ground = Arc::clone(&self.ground);
        let name = &ground.plan.of(source).mapping.source;
        for part in suspects.chunks(AT_ONCE) {
            let documents: Vec<(&str, &CanonicalId)> =
                part.iter().filter_map(|one| Some((one.source_id.as_str(), one.id.as_ref()?))).collect();
            let ids: Vec<&str> = documents.iter().map(|(source_id, _)| *source_id).collect();
            // In this order: what is found again without having been read again may still be repaired.
            touch::insert(&mut self.state, &ground.pipeline, name, &documents).await.map_err(state)?;
            reconcile::repairing(&mut self.state, &ground.pipeline, name, &ids).await.map_err(state)?;
        }
        Ok(())
    }

    /// Waits until everything was read again, and looks: what differs then is told. `false`: stopped.
    pub(super) async fn judge_repairs(&mut self) -> Result<bool, Error> {
        let sources: Vec<SourceIndex> = self.reports.keys().copied().collect();
        let ground = Arc::clone(&self.ground);
        let names: Vec<&str> =
            sources.iter().map(|source| ground.plan.of(*source).mapping.source.as_str()).collect();
        let mut stop = ground.stop.clone();
        while !self.is_stopping() {
            let left = touch::count(&mut self.state, &ground.pipeline, &names).await.map_err(state)?;
            if left == 0 {
                break;
            }
            self.alive().await?;
            // A sender that is gone is a stop as well.
            let _ = tokio::time::timeout(POLLED_EVERY, stop.wait_for(|stop| *stop)).await;
        }
        for (source, name) in sources.into_iter().zip(names) {
            let mut last: Option<String> = None;
            while !self.is_stopping() {
                let (pipeline, after) = (&ground.pipeline, last.as_deref());
                let page = reconcile::repaired(&mut self.state, pipeline, name, after, AT_ONCE as i64).await;
                let page = page.map_err(state)?;
                let Some((end, _)) = page.last() else { break };
                last = Some(end.clone());
                self.judge(source, page).await?;
                self.alive().await?;
            }
        }
        Ok(!self.is_stopping())
    }

    async fn judge(
        &mut self,
        source: SourceIndex,
        repaired: Vec<(String, CanonicalId)>,
    ) -> Result<(), Error> {
        let ground = Arc::clone(&self.ground);
        let time = self.now().await?;
        let ids: Vec<CanonicalId> = repaired.iter().map(|(_, id)| id.clone()).collect();
        let Some(mut settling) = self.settling(&ground) else { return Ok(()) };
        let again = settling.look(source, &ids, time).await?;
        let Settled { findings, pending, unsettled } = settling.settle(again).await?;
        let name = &ground.plan.of(source).mapping.source;
        let written: Vec<_> = findings.iter().flat_map(|suspect| findings_of(name, suspect)).collect();
        reconcile::found(&mut self.state, &ground.pipeline, self.run, &written).await.map_err(state)?;
        let report = self.report_of(source);
        findings.iter().for_each(|suspect| report.found(suspect));
        report.unsettled += (pending.len() + unsettled.len()) as u64;
        let open: HashSet<&str> = findings
            .iter()
            .chain(&pending)
            .chain(&unsettled)
            .map(|suspect| suspect.source_id.as_str())
            .collect();
        let over: Vec<&str> = repaired.iter().map(|(source_id, _)| source_id.as_str()).collect();
        let over: Vec<&str> = over.into_iter().filter(|source_id| !open.contains(source_id)).collect();
        reconcile::forget(&mut self.state, &ground.pipeline, name, &over).await.map_err(state)
    }
}

fn by_source(suspects: Vec<Suspect>) -> BTreeMap<SourceIndex, Vec<Suspect>> {
    let mut found: BTreeMap<SourceIndex, Vec<Suspect>> = BTreeMap::new();
    for suspect in suspects {
        found.entry(suspect.source).or_default().push(suspect);
    }
    found
}
