//! Unique values that documents are held for: when the row that has one gives it up, whoever waits for it is due.
//!
//! The transaction that writes or deletes such a row looks in the end whether its value is free. Nobody else does, so
//! what frees a value without rowstream is found by the next attempt.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::Error;
use super::claims;
use super::commit::{apply, state};
use super::prepare::SourceBatch;
use super::transaction::Open;
use crate::domain::{Row, RowKey, SourceIndex};
use crate::sink::{self, Holder};
use crate::state::{held, row};

/// Rows that this transaction may have changed, while somebody waits for a value of their table.
#[derive(Debug, Default)]
pub(super) struct Changed(BTreeMap<SourceIndex, Rows>);

#[derive(Debug)]
enum Rows {
    All,
    Of(HashSet<RowKey>),
}

impl Changed {
    /// Every row of the source.
    pub(super) fn all_of(&mut self, source: SourceIndex) {
        self.0.insert(source, Rows::All);
    }

    pub(super) fn rows(&mut self, source: SourceIndex, keys: impl IntoIterator<Item = RowKey>) {
        match self.0.entry(source).or_insert_with(|| Rows::Of(HashSet::new())) {
            Rows::All => {}
            Rows::Of(rows) => rows.extend(keys),
        }
    }
}

impl Open<'_> {
    /// Before the rows of a batch are written.
    pub(super) async fn note_rows(&mut self, batch: &SourceBatch) -> Result<(), Error> {
        let ids = batch.rows.iter().map(|row| row.source_id.as_str());
        let ids: Vec<&str> =
            ids.chain(batch.deletes.iter().map(|(_, source_id)| source_id.as_str())).collect();
        self.note(batch.source, &ids, &batch.rows).await
    }

    /// Before the rows of these documents are deleted, or written as these.
    pub(super) async fn note(
        &mut self,
        source: SourceIndex,
        source_ids: &[&str],
        rows: &[Row],
    ) -> Result<(), Error> {
        if !self.for_whom.holding.may_be_occupied(source) {
            return Ok(());
        }
        let mapping = &self.for_whom.plan.of(source).mapping;
        if !mapping.key.is_claimed() {
            self.changed.rows(source, source_ids.iter().map(|source_id| RowKey::of_text(source_id)));
            return Ok(());
        }
        let target = claims::target(mapping);
        let scope = claims::scope(&self.for_whom.pipeline, &target, mapping);
        let had = row::of_documents(&mut self.transaction, scope, source_ids).await.map_err(state)?;
        let have = rows.iter().filter_map(|row| mapping.key.row_key(&row.tuple).ok());
        self.changed.rows(source, had.into_iter().filter_map(|claim| claim.key).chain(have));
        Ok(())
    }

    /// What transactions beside this chunk's could not see of it, nor it of them: call after its commit.
    pub(super) async fn look_for_values_again(&mut self, batch: &SourceBatch) -> Result<(), Error> {
        self.note_rows(batch).await?;
        let ids = batch.source_ids(&self.for_whom.plan);
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let (transaction, pipeline, name) = self.named(batch.source);
        let occupants = held::occupants(transaction, pipeline, name, &ids).await.map_err(state)?;
        self.changed.rows(batch.source, occupants);
        Ok(())
    }

    /// Whoever waits for a value that none of the noted rows has any more is due. The last thing before the commit.
    pub(super) async fn release_values(&mut self) -> Result<(), Error> {
        for (source, rows) in std::mem::take(&mut self.changed).0 {
            let target = claims::target(&self.for_whom.plan.of(source).mapping);
            let keys: Option<Vec<&[u8]>> = match &rows {
                Rows::All => None,
                Rows::Of(keys) => Some(keys.iter().map(RowKey::as_bytes).collect()),
            };
            let pipeline = &self.for_whom.pipeline;
            let occupied = held::occupied(&mut self.transaction, pipeline, &target, keys.as_deref());
            let mut by_key: HashMap<_, Vec<_>> = HashMap::new();
            for one in occupied.await.map_err(state)? {
                by_key.entry((one.source, one.columns)).or_default().push((one.value, one.occupant));
            }
            for ((waiting, columns), occupied) in by_key {
                // Nobody can try those of a mapping that is no longer there.
                if let Some(waiting) = self.for_whom.plan.source(&waiting) {
                    self.look_for(waiting, &target, &columns, occupied).await?;
                }
            }
        }
        Ok(())
    }

    /// Whether these values, each with the row that had it, are free.
    async fn look_for(
        &mut self,
        waiting: SourceIndex,
        target: &str,
        columns: &[String],
        occupied: Vec<(Vec<u8>, RowKey)>,
    ) -> Result<(), Error> {
        let mapping = &self.for_whom.plan.of(waiting).mapping;
        let pipeline = &self.for_whom.pipeline;
        let (values, had): (Vec<Vec<u8>>, Vec<RowKey>) = occupied.into_iter().unzip();
        let has = sink::holders(&mut self.transaction, mapping, columns, &values).await.map_err(apply)?;
        let mut free: Vec<&[u8]> = Vec::new();
        let mut passed_on: Vec<(&[u8], &RowKey)> = Vec::new();
        for ((value, had), has) in values.iter().zip(&had).zip(&has) {
            match has {
                Holder::Nobody => free.push(value),
                Holder::Row(has) if has != had => passed_on.push((value, has)),
                Holder::Row(_) | Holder::Unowned => {}
            }
        }
        if !free.is_empty() {
            let released = held::release(&mut self.transaction, pipeline, target, columns, &free);
            released.await.map_err(state)?;
        }
        if !passed_on.is_empty() {
            let done = held::pass_on(&mut self.transaction, pipeline, target, columns, &passed_on);
            done.await.map_err(state)?;
        }
        Ok(())
    }
}
