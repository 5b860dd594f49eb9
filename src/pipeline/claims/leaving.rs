//! Documents that leave: their rows go, or stay for the next one, and whoever waits for their keys is due.

use std::collections::HashSet;

use super::{Claims, PAGE, scope};
use crate::config::Deletes;
use crate::domain::{CanonicalId, RowKey};
use crate::pipeline::Error;
use crate::pipeline::commit::{apply, state};
use crate::pipeline::prepare::SourceBatch;
use crate::sink::{self, Dropped, Outcome};
use crate::state::row::{self, Claim};

impl Claims<'_> {
    /// Deletes the rows of documents that are gone, by their claims: a document without one has no row.
    pub(in crate::pipeline) async fn delete(
        mut self,
        ids: &[(CanonicalId, String)],
    ) -> Result<Outcome, Error> {
        let ids: Vec<&str> = ids.iter().map(|(_, source_id)| source_id.as_str()).collect();
        let scope = scope(self.pipeline, &self.target, &self.mapped.mapping);
        let claims = row::of_documents(self.connection, scope, &ids).await.map_err(state)?;
        if self.key().shared {
            return self.delete_shared(claims).await;
        }
        self.delete_claimed(claims).await
    }

    async fn delete_claimed(&mut self, claims: Vec<Claim>) -> Result<Outcome, Error> {
        let keyed: Vec<(CanonicalId, RowKey)> =
            claims.iter().filter_map(|claim| Some((claim.id.clone(), claim.key.clone()?))).collect();
        let outcome =
            sink::delete(self.connection, &self.mapped.target, &keyed, self.portion).await.map_err(apply)?;
        let refused: HashSet<&CanonicalId> = outcome.rejected.iter().map(|(id, _)| id).collect();
        let gone: Vec<&Claim> = claims.iter().filter(|claim| !refused.contains(&claim.id)).collect();
        let rows_stay = self.rows_stay();
        let (kept, forgotten): (Vec<&Claim>, Vec<&Claim>) =
            gone.iter().copied().partition(|claim| rows_stay && claim.key.is_some());
        let forgotten: Vec<&str> = forgotten.iter().map(|claim| claim.source_id.as_str()).collect();
        self.forget(&forgotten).await?;
        let kept: Vec<&str> = kept.iter().map(|claim| claim.source_id.as_str()).collect();
        if !kept.is_empty() {
            let source = &self.mapped.mapping.source;
            row::keep(self.connection, self.pipeline, source, &kept).await.map_err(state)?;
        }
        let free: Vec<&RowKey> = gone.iter().filter_map(|claim| claim.key.as_ref()).collect();
        row::release(self.connection, self.pipeline, &self.target, &free).await.map_err(state)?;
        Ok(outcome)
    }

    /// Deletes every row of the source, and what is known of its documents.
    pub(in crate::pipeline) async fn drop_rows(mut self) -> Result<Dropped, Error> {
        let mut dropped = Dropped::default();
        let mut last: Option<String> = None;
        loop {
            let scope = scope(self.pipeline, &self.target, &self.mapped.mapping);
            let claims = row::page(self.connection, scope, last.as_deref(), PAGE).await.map_err(state)?;
            last = claims.last().map(|claim| claim.source_id.clone());
            if last.is_none() {
                return Ok(dropped);
            }
            let outcome = self.delete_claimed(claims).await?;
            dropped.deleted += outcome.deleted;
            dropped.refused.extend(outcome.rejected.into_iter().map(|(_, rejection)| rejection));
        }
    }

    /// Documents that are gone while their rows stay. Whoever wants their keys may have the rows.
    pub(super) async fn keep(&mut self, kept: &[(CanonicalId, String)]) -> Result<(), Error> {
        if kept.is_empty() {
            return Ok(());
        }
        let ids: Vec<&str> = kept.iter().map(|(_, source_id)| source_id.as_str()).collect();
        let source = &self.mapped.mapping.source;
        row::keep(self.connection, self.pipeline, source, &ids).await.map_err(state)?;
        let scope = scope(self.pipeline, &self.target, &self.mapped.mapping);
        let claims = row::of_documents(self.connection, scope, &ids).await.map_err(state)?;
        let free: Vec<&RowKey> = claims.iter().filter_map(|claim| claim.key.as_ref()).collect();
        row::release(self.connection, self.pipeline, &self.target, &free).await.map_err(state)?;
        Ok(())
    }

    /// Documents that leave with this batch and have a key that another one of it wants go first.
    pub(super) async fn delete_in_the_way(
        &mut self,
        batch: &SourceBatch,
        claims: &mut Vec<Claim>,
        outcome: &mut Outcome,
    ) -> Result<(), Error> {
        let leaving: HashSet<&str> = batch.deletes.iter().map(|(_, source_id)| source_id.as_str()).collect();
        let source = &self.mapped.mapping.source;
        let is_leaving =
            |claim: &Claim| claim.source == *source && leaving.contains(claim.source_id.as_str());
        let in_the_way: Vec<Claim> = claims.iter().filter(|claim| is_leaving(claim)).cloned().collect();
        if in_the_way.is_empty() {
            return Ok(());
        }
        let deleted = self.delete_claimed(in_the_way).await?;
        outcome.deleted += deleted.deleted;
        // Those that were refused are tried once more with the other deletes, and held there.
        let stay: HashSet<&CanonicalId> = deleted.rejected.iter().map(|(id, _)| id).collect();
        let rows_stay = self.rows_stay();
        claims.retain_mut(|claim| {
            if !is_leaving(claim) || stay.contains(&claim.id) {
                return true;
            }
            claim.kept = true;
            rows_stay && claim.key.is_some()
        });
        Ok(())
    }

    /// Whether a row outlives its document, marked.
    pub(super) fn rows_stay(&self) -> bool {
        matches!(self.mapped.mapping.deletes, Deletes::Soft { .. })
    }
}
