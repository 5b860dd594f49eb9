//! Who waits for which row.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};

use super::fill::is_null;
use super::find::{HASHED, name_of, sought_by};
use super::{Referring, Settling};
use crate::domain::{CanonicalId, Row, Sought, SourceIndex};
use crate::mapping::{Finder, Mapping};
use crate::pipeline::Error;
use crate::pipeline::commit::{apply, state};
use crate::pipeline::plan::Plan;
use crate::sink;
use crate::state::wait::{self, Wait};

/// Look-ups that wait, looked through by one statement after a table was written.
const WOKEN_LOOKUPS: i64 = 10_000;

/// Who waits, and for what: nearly always nobody, and then a statement less is needed. Right for the same
/// reason as [`crate::pipeline::holding::Holding`]; names are added before the transaction that needs them commits.
#[derive(Debug, Default)]
pub(in crate::pipeline) struct Waiting {
    sources: HashMap<String, AtomicBool>,
    awaited: HashMap<String, AtomicBool>,
    /// By table: whether it has stubs.
    stubbed: HashMap<String, AtomicBool>,
    relied_on: HashMap<SourceIndex, Vec<usize>>,
}

impl Waiting {
    pub(in crate::pipeline) fn new(plan: &Plan, known: &wait::Overview) -> Self {
        let mut waiting = Self::default();
        for mapped in plan.mapped.iter().filter(|mapped| mapped.has_references()) {
            waiting.sources.insert(mapped.mapping.source.clone(), AtomicBool::new(false));
            for finder in mapped.all_referring().flat_map(Referring::finders) {
                waiting.awaited.insert(finder.awaited.clone(), AtomicBool::new(false));
                waiting.stubbed.insert(finder.table.to_string(), AtomicBool::new(false));
            }
        }
        for mapped in &plan.mapped {
            let source = mapped.mapping.index;
            waiting.relied_on.insert(source, plan.relied_on(source));
        }
        for (awaited, source) in &known.awaited {
            waiting.mark(awaited, source);
        }
        for table in &known.stubbed {
            waiting.mark_stubbed(table);
        }
        waiting
    }

    pub(super) fn relied_on(&self, source: SourceIndex) -> &[usize] {
        self.relied_on.get(&source).map_or(&[], Vec::as_slice)
    }

    pub(super) fn mark(&self, awaited: &str, source: &str) {
        for (flags, name) in [(&self.awaited, awaited), (&self.sources, source)] {
            if let Some(flag) = flags.get(name) {
                flag.store(true, Ordering::Release);
            }
        }
    }

    pub(super) fn mark_stubbed(&self, table: &str) {
        if let Some(flag) = self.stubbed.get(table) {
            flag.store(true, Ordering::Release);
        }
    }

    pub(super) fn has_stubs(&self, table: &str) -> bool {
        self.stubbed.get(table).is_some_and(|flag| flag.load(Ordering::Acquire))
    }

    fn may_wait(&self, source: &str) -> bool {
        self.sources.get(source).is_some_and(|flag| flag.load(Ordering::Acquire))
    }

    /// Whether it may wait, or be waited for.
    pub(in crate::pipeline) fn may_concern(&self, plan: &Plan, source: SourceIndex) -> bool {
        self.may_wait(&plan.of(source).mapping.source) || self.may_wake(plan, source)
    }

    /// Whether anybody may wait for a row of this source, by the document or by what it says.
    pub(in crate::pipeline) fn may_wake(&self, plan: &Plan, source: SourceIndex) -> bool {
        let mapping = &plan.of(source).mapping;
        self.may_be_awaited(&of_document(mapping))
            || plan.lookups(&mapping.table).any(|finder| self.may_be_awaited(&finder.awaited))
    }

    fn may_be_awaited(&self, awaited: &str) -> bool {
        self.awaited.get(awaited).is_some_and(|flag| flag.load(Ordering::Acquire))
    }
}

/// How the state names the documents of a mapping when they are awaited.
fn of_document(mapping: &Mapping) -> String {
    format!("source {}", mapping.source)
}

impl Settling<'_> {
    /// What the documents of a batch wait for from now on. Stubs that nobody stands behind any more go.
    pub(in crate::pipeline) async fn wait(
        &mut self,
        source: SourceIndex,
        source_ids: &[&str],
        waits: &[Wait],
    ) -> Result<(), Error> {
        let name = &self.plan.of(source).mapping.source;
        for wait in waits {
            self.waiting.mark(&wait.awaited, name);
        }
        if !self.waiting.may_wait(name) {
            return Ok(());
        }
        // Several elements of one document may wait for the same row.
        let mut once = HashSet::new();
        let mut waits = waits.to_vec();
        waits.retain(|wait| once.insert((wait.source_id.clone(), wait.awaited.clone(), wait.key.clone())));
        let left = wait::replace(self.connection, self.pipeline, name, source_ids, &waits);
        let left = left.await.map_err(state)?;
        if left.is_empty() {
            return Ok(());
        }
        let abandoned = wait::take_abandoned(self.connection, self.pipeline, &left).await.map_err(state)?;
        for stub in abandoned {
            let finder = self.plan.stub_finders().find(|finder| finder.table.to_string() == stub.target);
            if let Some(finder) = finder {
                sink::delete_stub(self.connection, finder, &stub.key, &stub.hash).await.map_err(apply)?;
            }
        }
        Ok(())
    }

    /// These rows are there: whoever waits for them is due.
    pub(in crate::pipeline) async fn wake(
        &mut self,
        source: SourceIndex,
        rows: &[Row],
    ) -> Result<u64, Error> {
        let mapping = &self.plan.of(source).mapping;
        let awaited = of_document(mapping);
        let mut woken = 0;
        if rows.is_empty() {
            return Ok(0);
        }
        if self.waiting.may_be_awaited(&awaited) {
            let keys: Vec<&[u8]> = rows.iter().map(|row| row.source_id.as_bytes()).collect();
            woken += wait::wake(self.connection, self.pipeline, &awaited, &keys).await.map_err(state)?;
        }
        let ids: Vec<CanonicalId> = rows.iter().map(|row| row.id.clone()).collect();
        for finder in self.plan.lookups(&mapping.table) {
            if self.waiting.may_be_awaited(&finder.awaited) {
                woken += self.wake_lookups(source, finder, &ids).await?;
            }
        }
        Ok(woken)
    }

    /// Whoever looks for what these rows say now.
    async fn wake_lookups(
        &mut self,
        source: SourceIndex,
        finder: &Finder,
        ids: &[CanonicalId],
    ) -> Result<u64, Error> {
        if !finder.key.iter().all(|column| column.has_one_form) {
            return self.wake_all_lookups(finder).await;
        }
        let said = self.said(source, finder, ids).await?;
        let names: Vec<Vec<u8>> =
            said.into_iter().flatten().map(|tuple| name_of(finder, &Sought::Row(tuple))).collect();
        let names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
        if names.is_empty() {
            return Ok(0);
        }
        wait::wake(self.connection, self.pipeline, &finder.awaited, &names).await.map_err(state)
    }

    /// What the rows of these documents have in the columns by which a finder looks, as tuples: a trigger or a
    /// default may have had its say. `None` for a row that is not there, or has a null among them.
    async fn said(
        &mut self,
        source: SourceIndex,
        finder: &Finder,
        ids: &[CanonicalId],
    ) -> Result<Vec<Option<Vec<u8>>>, Error> {
        let mapping = &self.plan.of(source).mapping;
        let mut finding = self.finding();
        let keys = finding.document_keys(source, ids).await?;
        let mut said = vec![Some((finder.key.len() as i16).to_be_bytes().to_vec()); keys.len()];
        for column in &finder.key {
            let fields = finding.look(&Finder::of_column(mapping, column.clone()), &keys).await?;
            for (said, field) in said.iter_mut().zip(fields) {
                match (said.as_mut(), field.filter(|field| !is_null(field))) {
                    (Some(tuple), Some(field)) => tuple.extend(field),
                    (Some(_), None) => *said = None,
                    (None, _) => {}
                }
            }
        }
        Ok(said)
    }

    /// Where equal values may differ in their bytes, only PostgreSQL can tell who has found a row.
    async fn wake_all_lookups(&mut self, finder: &Finder) -> Result<u64, Error> {
        let (mut woken, mut last) = (0, Vec::new());
        loop {
            let keys = wait::keys(self.connection, self.pipeline, &finder.awaited, &last, WOKEN_LOOKUPS);
            let mut keys = keys.await.map_err(state)?;
            let Some(greatest) = keys.last() else { return Ok(woken) };
            last = greatest.clone();
            keys.retain(|key| key.first() != Some(&HASHED));
            let slices: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
            let fields = sink::find(self.connection, finder, &slices).await.map_err(apply)?;
            let there: Vec<&[u8]> =
                slices.into_iter().zip(fields).filter_map(|(key, field)| field.map(|_| key)).collect();
            if !there.is_empty() {
                let awaited = &finder.awaited;
                woken += wait::wake(self.connection, self.pipeline, awaited, &there).await.map_err(state)?;
            }
        }
    }

    /// Waits whose rows came in a transaction beside this one, which could not see them: call after the commit
    /// of the transaction that registered them, in another one.
    pub(in crate::pipeline) async fn look_again(
        &mut self,
        source: SourceIndex,
        waits: &[Wait],
    ) -> Result<u64, Error> {
        let mut woken = 0;
        for finder in self.plan.of(source).all_referring().flat_map(Referring::finders) {
            let of_finder = waits
                .iter()
                .filter(|wait| wait.awaited == finder.awaited && wait.key.first() != Some(&HASHED));
            let keys: Vec<&[u8]> = of_finder.map(|wait| wait.key.as_slice()).collect();
            if keys.is_empty() {
                continue;
            }
            let sought: Vec<Sought> = keys.iter().map(|key| sought_by(finder, key)).collect();
            let tuples = self.finding().tuples(finder, sought.iter()).await?;
            let fields = self.finding().look(finder, &tuples).await?;
            let there: Vec<&[u8]> =
                keys.into_iter().zip(fields).filter_map(|(key, field)| field.map(|_| key)).collect();
            if !there.is_empty() {
                let awaited = &finder.awaited;
                woken += wait::wake(self.connection, self.pipeline, awaited, &there).await.map_err(state)?;
            }
        }
        Ok(woken)
    }
}
