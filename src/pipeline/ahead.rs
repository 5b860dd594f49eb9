//! Documents that the next batch needs are read while the one before is being committed.
//!
//! What is read here is as good as what would be read later: each document is read after the last event that
//! was taken of it, and forgotten as soon as another one comes.

use std::collections::{HashMap, HashSet};

use mongodb::Client;

use super::Error;
use super::plan::Plan;
use super::prepare::read;
use crate::domain::{CanonicalId, ClusterTime, Document};
use crate::source::{self, CollectionIndex};

/// A document, by where it stands.
pub(super) type Place = (CollectionIndex, CanonicalId);

/// Documents of one look. A batch that needs more is not waited for by anybody: it is read as one.
const AT_ONCE: usize = 500;

#[derive(Debug, Default)]
pub(super) struct Ahead {
    found: HashMap<Place, Document>,
    /// Being read, or not there when they were, and not changed since.
    asked: HashSet<Place>,
}

impl Ahead {
    /// An event or a touch of this document came: what was read, or is being read, may be older.
    pub(super) fn changed(&mut self, collection: CollectionIndex, id: &CanonicalId) {
        if self.found.is_empty() && self.asked.is_empty() {
            return;
        }
        let place = (collection, id.clone());
        self.found.remove(&place);
        self.asked.remove(&place);
    }

    /// A whole collection changed.
    pub(super) fn forget(&mut self) {
        self.found.clear();
        self.asked.clear();
    }

    /// What is to be read now, if anything.
    pub(super) fn wanted(&mut self, touched: impl Iterator<Item = Place>) -> Vec<Place> {
        let wanted: Vec<Place> =
            touched.filter(|place| !self.found.contains_key(place) && !self.asked.contains(place)).collect();
        if wanted.len() > AT_ONCE {
            return Vec::new();
        }
        self.asked.extend(wanted.iter().cloned());
        wanted
    }

    pub(super) fn came(&mut self, documents: Vec<(Place, Document)>) {
        for (place, document) in documents {
            if self.asked.remove(&place) {
                self.found.insert(place, document);
            }
        }
    }

    /// For the batch that is cut now.
    pub(super) fn take(&mut self) -> HashMap<Place, Document> {
        self.asked.clear();
        std::mem::take(&mut self.found)
    }
}

/// One look-up per collection; what is not there is not among the answers. `now`: documents are read at this
/// time or later.
pub(super) async fn look_up(
    client: &Client,
    plan: &Plan,
    places: Vec<Place>,
    now: ClusterTime,
) -> Result<Vec<(Place, Document)>, Error> {
    let mut by_collection: HashMap<CollectionIndex, Vec<CanonicalId>> = HashMap::new();
    for (collection, id) in places {
        by_collection.entry(collection).or_default().push(id);
    }
    let mut found = Vec::new();
    for (collection, ids) in by_collection {
        let namespace = &plan.scope.collections[usize::from(collection.0)];
        let documents = source::lookup(client, namespace, &ids, now).await.map_err(read)?;
        found.extend(documents.into_iter().map(|(id, document)| ((collection, id), document)));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(number: i64) -> Place {
        (CollectionIndex(0), CanonicalId::from_bson(&bson::Bson::Int64(number)))
    }

    fn document(n: i32) -> Document {
        let bytes = bson::serialize_to_vec(&bson::doc! { "n": n }).expect("a document");
        Document::new(bytes.into()).expect("a document")
    }

    #[test]
    fn each_document_is_asked_for_once() {
        let mut ahead = Ahead::default();
        assert_eq!(ahead.wanted([place(1), place(2)].into_iter()), [place(1), place(2)]);
        assert_eq!(ahead.wanted([place(1), place(3)].into_iter()), [place(3)]);
        ahead.came(vec![(place(1), document(1))]);
        assert!(ahead.wanted([place(1), place(2)].into_iter()).is_empty(), "found, or looked for in vain");
        assert!(ahead.take().contains_key(&place(1)));
        assert_eq!(ahead.wanted([place(2)].into_iter()), [place(2)], "the next batch asks again");
    }

    #[test]
    fn what_changes_while_it_is_read_or_afterwards_is_read_again() {
        let mut ahead = Ahead::default();
        ahead.wanted([place(1), place(2)].into_iter());
        ahead.changed(CollectionIndex(0), &place(1).1);
        ahead.came(vec![(place(1), document(1)), (place(2), document(2))]);
        ahead.changed(CollectionIndex(0), &place(2).1);
        assert_eq!(ahead.wanted([place(1), place(2)].into_iter()), [place(1), place(2)]);
        assert!(ahead.take().is_empty());
    }

    #[test]
    fn many_are_left_to_the_batch() {
        let mut ahead = Ahead::default();
        assert!(ahead.wanted((0..501).map(place)).is_empty());
        assert_eq!(ahead.wanted((0..500).map(place)).len(), 500);
    }

    #[test]
    fn a_collection_that_was_dropped_takes_all_with_it() {
        let mut ahead = Ahead::default();
        ahead.wanted([place(1)].into_iter());
        ahead.forget();
        ahead.came(vec![(place(1), document(1))]);
        assert!(ahead.take().is_empty());
    }
}
