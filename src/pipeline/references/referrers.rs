//! Whose rows refer to rows that leave.

use super::Settling;
use crate::domain::{CanonicalId, RowKey, SourceIndex};
use crate::mapping::{Finder, SoughtColumn};
use crate::pipeline::Error;
use crate::pipeline::claims;
use crate::pipeline::commit::{apply, state};
use crate::pipeline::plan::MappedChild;
use crate::sink;
use crate::state::row;

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

    /// Whose rows these are. An id that is only known by its hash is nobody's we could read.
    async fn documents_of(
        &mut self,
        source: SourceIndex,
        keys: &[RowKey],
    ) -> Result<Vec<CanonicalId>, Error> {
        let mapping = &self.plan.of(source).mapping;
        if !mapping.key.is_claimed() {
            let texts = keys.iter().filter_map(RowKey::text);
            return Ok(texts.filter_map(|text| CanonicalId::from_source_id(text, mapping.id_type)).collect());
        }
        let target = claims::target(mapping);
        let scope = claims::scope(self.pipeline, &target, mapping);
        let keys: Vec<&RowKey> = keys.iter().collect();
        let claims = row::load(self.connection, scope, &[], &keys).await.map_err(state)?;
        Ok(claims.into_iter().filter(|claim| claim.source == mapping.source).map(|claim| claim.id).collect())
    }
}
