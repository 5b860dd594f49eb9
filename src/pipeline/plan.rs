//! What one session of the pipeline works with: every mapping compiled against the catalog as it was
//! when the session began.

use std::sync::Arc;

use uuid::Uuid;

use super::claims;
use super::references::StubMaker;
use crate::domain::{ClusterTime, IdType, SourceIndex};
use crate::mapping::Mapping;
use crate::pipeline::batch::{OnDropRoute, Route};
use crate::sink::Target;
use crate::source::{CollectionIndex, Scope};
use crate::transform::{ChildTransformer, Transformer, Unread};

/// One mapping, ready to work.
#[derive(Debug)]
pub struct Mapped {
    pub mapping: Arc<Mapping>,
    pub collection: CollectionIndex,
    /// Tells it from another one of its name, if the user may see it.
    pub collection_uuid: Option<Uuid>,
    pub transformer: Transformer,
    pub target: Target,
    /// By reference: what makes the row that it is to create.
    pub stubs: Vec<Option<StubMaker>>,
    /// By child of the mapping.
    pub children: Vec<MappedChild>,
    /// `None`: whole documents are read.
    pub unread: Option<Unread>,
    pub documents_estimated: u64,
    /// Documents in a chunk, by the collection's average size.
    pub chunk_documents: u64,
    /// In bytes.
    pub average_size: u64,
}

/// Rows of another table that are made from inside of the documents.
#[derive(Debug)]
pub struct MappedChild {
    pub transformer: ChildTransformer,
    pub target: Target,
    pub stubs: Vec<Option<StubMaker>>,
}

#[derive(Debug)]
pub struct Plan {
    /// By `SourceIndex`: parents before children, else in the order of the configuration.
    pub mapped: Vec<Mapped>,
    pub scope: Scope,
    /// Nothing that was seen of its collections is newer.
    pub looked_at: ClusterTime,
    /// Changes when the stream's tokens were made under another filter.
    pub scope_hash: String,
}

impl Mapped {
    /// Every table that is written for its documents.
    pub(super) fn targets(&self) -> impl Iterator<Item = &Target> {
        let stubs = self.stubs.iter().chain(self.children.iter().flat_map(|child| &child.stubs));
        let stubs = stubs.flatten().map(|stub| &stub.target);
        let children = self.children.iter().map(|child| &child.target);
        std::iter::once(&self.target).chain(children).chain(stubs)
    }
}

impl Plan {
    pub fn of(&self, source: SourceIndex) -> &Mapped {
        &self.mapped[usize::from(source.0)]
    }

    pub fn id_type(&self, source: SourceIndex) -> IdType {
        self.of(source).mapping.id_type
    }

    pub fn names(&self) -> Vec<&str> {
        self.mapped.iter().map(|mapped| mapped.mapping.source.as_str()).collect()
    }

    /// By name, for what the state schema knows by name.
    pub fn source(&self, name: &str) -> Option<SourceIndex> {
        self.mapped.iter().find(|mapped| mapped.mapping.source == name).map(|mapped| mapped.mapping.index)
    }

    /// The mappings that write this table by this key, as [`super::claims::target`] names them.
    pub(super) fn of_target(&self, target: &str) -> impl Iterator<Item = SourceIndex> {
        let of_target = self.mapped.iter().filter(move |mapped| claims::target(&mapped.mapping) == target);
        of_target.map(|mapped| mapped.mapping.index)
    }

    /// For each collection of the scope, the mappings it feeds.
    pub fn routes(&self) -> Vec<Vec<Route>> {
        let mut routes = vec![Vec::new(); self.scope.collections.len()];
        for mapped in &self.mapped {
            if let Some(of_collection) = routes.get_mut(usize::from(mapped.collection.0)) {
                of_collection.push(Route {
                    source: mapped.mapping.index,
                    on_drop: OnDropRoute::of(&mapped.mapping),
                    document_bytes: usize::try_from(mapped.average_size).unwrap_or(usize::MAX),
                });
            }
        }
        routes
    }
}
