//! Collections that are not those that were followed.
//!
//! A position behind no event of ours is good for any cluster's oplog: one that was restored, or is another, can be
//! followed from there as if nothing had happened. Its collections tell: what is made anew has another UUID. So has one
//! that was dropped and made again, but of that the stream tells. Hence who is another is known once the stream has come
//! to where the collections were looked at.

use sqlx::PgConnection;
use uuid::Uuid;

use super::Error;
use super::commit::state;
use super::plan::Plan;
use crate::domain::{ClusterTime, SourceIndex};
use crate::state::mapping::{self, Known};

#[derive(Debug)]
pub struct Others {
    found: Vec<(SourceIndex, Uuid)>,
    looked_at: ClusterTime,
}

impl Others {
    /// Compares the plan's collections with those that are `known`, and remembers those that were not.
    pub(super) async fn load(
        connection: &mut PgConnection,
        pipeline: &str,
        plan: &Plan,
        known: &[Known],
    ) -> Result<Self, Error> {
        let mut found = Vec::new();
        for mapped in &plan.mapped {
            let Some(uuid) = mapped.collection_uuid else { continue };
            let source = mapped.mapping.source.as_str();
            let known = known.iter().find(|known| known.source == source);
            let followed = known
                .filter(|known| known.in_scope && known.collection == mapped.mapping.namespace.to_string());
            match followed.and_then(|known| known.collection_uuid) {
                Some(before) if before == uuid => {}
                Some(_) => found.push((mapped.mapping.index, uuid)),
                None => mapping::is_of_collection(connection, pipeline, source, Some(uuid))
                    .await
                    .map_err(state)?,
            }
        }
        Ok(Self { found, looked_at: plan.looked_at })
    }

    /// Those that are others for sure behind `position`, each once. `ended`: of what the stream has told up to there.
    pub(super) fn settled(
        &mut self,
        ended: &[SourceIndex],
        position: Option<ClusterTime>,
    ) -> Vec<(SourceIndex, Uuid)> {
        self.found.retain(|(source, _)| !ended.contains(source));
        match position {
            Some(time) if time >= self.looked_at => std::mem::take(&mut self.found),
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_another_is_known_once_the_stream_has_come_there_and_has_not_told_of_it() {
        let uuid = Uuid::from_u128(7);
        let found = (0..3).map(|source| (SourceIndex(source), uuid)).collect();
        let mut others = Others { found, looked_at: ClusterTime::new(5, 1) };
        assert_eq!(others.settled(&[], None), []);
        assert_eq!(others.settled(&[SourceIndex(0)], Some(ClusterTime::new(4, 9))), []);
        assert_eq!(others.settled(&[SourceIndex(2)], Some(ClusterTime::new(5, 1))), [(SourceIndex(1), uuid)]);
        assert_eq!(others.settled(&[], Some(ClusterTime::new(6, 1))), []);
    }
}
