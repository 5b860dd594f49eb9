//! Copying what is there, in chunks by `_id` in full BSON order: ⚠ a range like `{_id: {$gt: x}}` is
//! bracketed by type and skips documents whose `_id` has another one; index bounds are not.

use std::fmt;

use mongodb::Client;

use super::element::{BOOLEAN, INT32, Writer};
use super::error::Error;
use super::find::{Found, Replies, find, read_concern};
use crate::domain::{CanonicalId, ClusterTime, Namespace};

/// With documents of 0.5 to 4 KB a reply is 0.5 to 4 MB, which is where replies are cheapest. The server
/// caps a reply at 16 MB in any case.
const DOCUMENTS_PER_REPLY: u32 = 1_000;

/// ⚠ Index bounds without `max` end before MaxKey, which may itself be an `_id`.
const MAX_KEY: u8 = 0x7f;

/// Where the chunk that begins at `lower` (inclusive; `None`: at the very beginning) ends: the first `_id`
/// behind its `documents` documents. `None`: it is the last chunk. Walks the index alone.
pub async fn next_boundary(
    client: &Client,
    namespace: &Namespace,
    lower: Option<&CanonicalId>,
    documents: u64,
) -> Result<Option<CanonicalId>, Error> {
    let skip = i64::try_from(documents.max(1)).unwrap_or(i64::MAX);
    let command = bounded(namespace, lower, None)
        .document("projection", Writer::new().int("_id", 1))
        .int("skip", skip)
        .int("limit", 1)
        .value("singleBatch", BOOLEAN, &[1])
        .document("readConcern", read_concern(None));
    let mut replies = find(client, namespace, command, 1, "divide the snapshot").await?;
    let first = replies.next().await?.and_then(|documents| documents.into_iter().next());
    // No chunk can begin at MaxKey; the last one reaches it.
    Ok(first.map(|(id, _)| id).filter(|id| id.as_bytes().first() != Some(&MAX_KEY)))
}

/// The documents of one chunk, reply by reply.
pub struct Chunk {
    bounded: Replies,
    max_key: Option<Replies>,
}

impl Chunk {
    /// The next documents in the order of `_id`; `None` at the end. An error ends the chunk: read it again
    /// from its beginning. Documents are slices of one reply and keep it in memory.
    pub async fn next(&mut self) -> Result<Option<Vec<Found>>, Error> {
        if let Some(documents) = self.bounded.next().await? {
            return Ok(Some(documents));
        }
        match &mut self.max_key {
            Some(replies) => replies.next().await,
            None => Ok(None),
        }
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chunk").finish_non_exhaustive()
    }
}

/// Reads the documents from `lower` (inclusive) to `upper` (exclusive), `None` being open, as they are at
/// `after` or later. ⚠ Not a snapshot: a document may be of any time between `after` and the reply.
pub async fn read_chunk(
    client: &Client,
    namespace: &Namespace,
    lower: Option<&CanonicalId>,
    upper: Option<&CanonicalId>,
    after: ClusterTime,
) -> Result<Chunk, Error> {
    let read = async |command: Writer| {
        let command = command.document("readConcern", read_concern(Some(after))).value(
            "batchSize",
            INT32,
            &DOCUMENTS_PER_REPLY.to_le_bytes(),
        );
        find(client, namespace, command, DOCUMENTS_PER_REPLY, "read a chunk").await
    };
    let bounded = read(bounded(namespace, lower, upper)).await?;
    let max_key = if lower.is_some() && upper.is_none() {
        let filter = Writer::new().value("_id", MAX_KEY, &[]);
        Some(read(Writer::new().string("find", &namespace.collection).document("filter", filter)).await?)
    } else {
        None
    };
    Ok(Chunk { bounded, max_key })
}

/// A find over the `_id` index between two of its keys.
fn bounded(namespace: &Namespace, lower: Option<&CanonicalId>, upper: Option<&CanonicalId>) -> Writer {
    let mut command = Writer::new()
        .string("find", &namespace.collection)
        .document("filter", Writer::new())
        .document("hint", Writer::new().int("_id", 1));
    for (bound, id) in [("min", lower), ("max", upper)] {
        if let Some((&element_type, value)) = id.and_then(|id| id.as_bytes().split_first()) {
            command = command.document(bound, Writer::new().value("_id", element_type, value));
        }
    }
    command
}
