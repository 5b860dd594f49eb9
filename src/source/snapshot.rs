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
    Ok(first.map(|(id, _)| id))
}

/// The documents of one chunk, reply by reply.
pub struct Chunk(Replies);

impl Chunk {
    /// The next documents in the order of `_id`; `None` at the end. An error ends the chunk: read it again
    /// from its beginning. Documents are slices of one reply and keep it in memory.
    pub async fn next(&mut self) -> Result<Option<Vec<Found>>, Error> {
        self.0.next().await
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
    let command = bounded(namespace, lower, upper).document("readConcern", read_concern(Some(after))).value(
        "batchSize",
        INT32,
        &DOCUMENTS_PER_REPLY.to_le_bytes(),
    );
    let replies = find(client, namespace, command, DOCUMENTS_PER_REPLY, "read a chunk").await?;
    Ok(Chunk(replies))
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
