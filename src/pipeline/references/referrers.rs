//! Whose rows refer to rows that leave.

use super::Settling;
use crate::domain::{CanonicalId, RowKey, SourceIndex};
use crate::mapping::{Finder, SoughtColumn};
use crate::pipeline::Error;
use crate::pipeline::claims;
use crate::pipeline::commit::{apply, state};
use crate::pipeline::plan::MappedChild;
use crate::pipeline::prepare::SourceBatch;
use crate::sink;
use crate::state::row;
use crate::state::wait::{self, Wait};

impl Settling<'_> {
    /// Documents, other than those that leave themselves, whose rows refer to the mapping's rows with these keys
    /// (tuples).
    pub(in crate::pipeline) async fn referrers(
        &mut self,
        source: SourceIndex,
        keys: &[Vec<u8>],
    ) -> Result<Vec<(SourceIndex, CanonicalId)>, Error> {
        let mut found = Vec::new();
        let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
        if keys.is_empty() {
            return Ok(found);
        }
        let plan = self.plan;
        let target = plan.of(source);
        for inbound in plan.inbound(source) {
            let of = plan.of(inbound.source);
            let child = inbound.child.and_then(|place| of.children.get(place));
            let referring = child.map_or_else(|| of.referring(), MappedChild::referring);
            let reference = &referring.mapping.references[inbound.reference];
            let finder = Finder {
                table: target.mapping.table.clone(),
                key: SoughtColumn::of_mapping(&target.mapping),
                ..reference.finders[inbound.finder].clone()
            };
            let column = reference.column;
            let rows = match child {
                None => sink::referrers(self.connection, &of.target, column, &finder, &keys).await,
                Some(child) => {
                    let plan = child.transformer.plan();
                    let parent = &of.mapping;
                    sink::referring_parents(self.connection, parent, plan, column, &finder, &keys).await
                }
            };
            let rows = rows.map_err(apply)?;
            let documents = self.documents_of(inbound.source, &rows).await?;
            let documents = documents.into_iter().filter(|id| !self.leaving.has(inbound.source, id));
            found.extend(documents.map(|id| (inbound.source, id)));
        }
        Ok(found)
    }

    /// Documents whose rows do not tell their ids, for [`Self::documents_of`].
    pub(in crate::pipeline) fn own_ids(&self, batch: &SourceBatch) -> Vec<Wait> {
        let mapping = &self.plan.of(batch.source).mapping;
        if mapping.key.is_claimed() {
            return Vec::new();
        }
        let refused = batch.refused.iter().map(|refused| &refused.id);
        let ids = batch.rows.iter().map(|row| &row.id).chain(refused);
        let named = ids.map(|id| (id, id.source_id(mapping.id_type)));
        let opaque = named.filter(|(_, source_id)| {
            source_id.starts_with('$') && CanonicalId::from_source_id(source_id, mapping.id_type).is_none()
        });
        let remembered = |(id, source_id): (&CanonicalId, String)| Wait {
            source_id,
            id: id.clone(),
            awaited: wait::OWN_ID.to_owned(),
            key: Vec::new(),
            stub: None,
        };
        opaque.map(remembered).collect()
    }

    /// Whose rows these are.
    async fn documents_of(
        &mut self,
        source: SourceIndex,
        keys: &[RowKey],
    ) -> Result<Vec<CanonicalId>, Error> {
        let mapping = &self.plan.of(source).mapping;
        if !mapping.key.is_claimed() {
            let (mut ids, mut opaque) = (Vec::with_capacity(keys.len()), Vec::new());
            for text in keys.iter().filter_map(RowKey::text) {
                match CanonicalId::from_source_id(text, mapping.id_type) {
                    Some(id) => ids.push(id),
                    None => opaque.push(text),
                }
            }
            if !opaque.is_empty() {
                let own = wait::own_ids(self.connection, self.pipeline, &mapping.source, &opaque);
                ids.extend(own.await.map_err(state)?);
            }
            return Ok(ids);
        }
        let target = claims::target(mapping);
        let scope = claims::scope(self.pipeline, &target, mapping);
        let keys: Vec<&RowKey> = keys.iter().collect();
        let claims = row::load(self.connection, scope, &[], &keys).await.map_err(state)?;
        Ok(claims.into_iter().filter(|claim| claim.source == mapping.source).map(|claim| claim.id).collect())
    }
}
