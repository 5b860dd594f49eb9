//! Copying what is there, in chunks by `_id` in full BSON order: ⚠ a range like `{_id: {$gt: x}}` is
//! bracketed by type and skips documents whose `_id` has another one; index bounds are not.

use std::fmt;

use mongodb::Client;

use super::element::{BOOLEAN, INT32, MAX_KEY, Writer};
use super::error::Error;
use super::find::{Found, Replies, find, read_concern};
use super::lookup::lookup;
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
    if lower.is_some_and(is_max_key) {
        return Ok(None);
    }
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
pub struct Chunk {
    replies: Option<Replies>,
    last: Option<Last>,
}

/// ⚠ Index bounds end before MaxKey, which may be an `_id` as well: it is asked for by itself.
struct Last {
    client: Client,
    namespace: Namespace,
    after: ClusterTime,
}

impl Chunk {
    /// The next documents in the order of `_id`; `None` at the end. An error ends the chunk: read it again
    /// from its beginning. Documents are slices of one reply and keep it in memory.
    pub async fn next(&mut self) -> Result<Option<Vec<Found>>, Error> {
        if let Some(replies) = &mut self.replies {
            if let Some(documents) = replies.next().await? {
                return Ok(Some(documents));
            }
            self.replies = None;
        }
        let Some(last) = self.last.take() else { return Ok(None) };
        let max_key = CanonicalId::from_value(MAX_KEY, &[]);
        lookup(&last.client, &last.namespace, &[max_key], last.after).await.map(Some)
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
    let last = (lower.is_some() && upper.is_none()).then(|| Last {
        client: client.clone(),
        namespace: namespace.clone(),
        after,
    });
    if lower.is_some_and(is_max_key) {
        return Ok(Chunk { replies: None, last });
    }
    let command = bounded(namespace, lower, upper).document("readConcern", read_concern(Some(after))).value(
        "batchSize",
        INT32,
        &DOCUMENTS_PER_REPLY.to_le_bytes(),
    );
    let replies = find(client, namespace, command, DOCUMENTS_PER_REPLY, "read a chunk").await?;
    Ok(Chunk { replies: Some(replies), last })
}

fn is_max_key(id: &CanonicalId) -> bool {
    id.as_bytes() == [MAX_KEY]
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
