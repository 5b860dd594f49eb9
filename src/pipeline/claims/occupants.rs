//! Whose row has the unique value for which a document's row was refused, where only the claims can tell.

use std::collections::{HashMap, HashSet};

use super::{Claims, scope};
use crate::domain::{Collision, RowKey};
use crate::pipeline::Error;
use crate::pipeline::commit::state;
use crate::sink::Outcome;
use crate::state::row;

impl Claims<'_> {
    /// Adds it to the reasons. A row that nobody stands for is named by its value alone.
    pub(super) async fn name_occupants(&mut self, outcome: &mut Outcome) -> Result<(), Error> {
        if outcome.collisions.is_empty() {
            return Ok(());
        }
        let keys: HashSet<&RowKey> = outcome.collisions.iter().map(|(_, one)| &one.occupant).collect();
        let keys: Vec<&RowKey> = keys.into_iter().collect();
        let scope = scope(self.pipeline, &self.target, &self.mapped.mapping);
        let mut claims = row::load(self.connection, scope, &[], &keys).await.map_err(state)?;
        // Of those that share a row, the one that writes it.
        claims.sort_by(|left, right| right.source_id.cmp(&left.source_id));
        let owners: HashMap<&RowKey, &str> =
            claims.iter().filter_map(|claim| Some((claim.key.as_ref()?, claim.source_id.as_str()))).collect();
        for (id, rejection) in &mut outcome.rejected {
            let collision = outcome.collisions.iter().find(|(of, _)| of == id);
            if let Some(owner) = collision.and_then(|(_, one)| owners.get(&one.occupant)) {
                rejection.message.push_str(&Collision::told(owner));
            }
        }
        Ok(())
    }
}
