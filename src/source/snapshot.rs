//! Copying what is there, in chunks by `_id` in full BSON order: ⚠ a range like `{_id: {$gt: x}}` is
//! bracketed by type and skips documents whose `_id` has another one; index bounds are not.

use std::fmt;

use mongodb::Client;

use super::element::{INT32, MAX_KEY, Writer};
use super::error::Error;
use super::find::{Found, Replies, find, read_concern};
use super::lookup::lookup;
use crate::domain::{CanonicalId, ClusterTime, Namespace};

/// With documents of 0.5 to 4 KB a reply is 0.5 to 4 MB, which is where replies are cheapest. The server
/// caps a reply at 16 MB in any case.
const DOCUMENTS_PER_REPLY: u32 = 1_000;

/// The next chunk waits until this one is read, and each reply is a round trip. More would only take memory.
const DOCUMENTS_PER_REPLY_OF_NEXT: u32 = 4_000;

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
    let command = bounded(namespace, lower, upper);
    begin(client, namespace, (lower, upper), command, DOCUMENTS_PER_REPLY, after).await
}

/// Reads the first documents from `lower` on, as `read_chunk` does, and with them where the next chunk begins; `None`:
/// it is the last. Who asks for that alone has the server walk the index twice. ⚠ Without a sort, which the index makes
/// free, mongos hands out what comes first from any shard: others before it would belong to no chunk.
pub async fn read_next(
    client: &Client,
    namespace: &Namespace,
    lower: Option<&CanonicalId>,
    documents: u64,
    after: ClusterTime,
) -> Result<(Vec<Vec<Found>>, Option<CanonicalId>), Error> {
    let mut left = usize::try_from(documents.max(1)).unwrap_or(usize::MAX);
    let limit = i64::try_from(left).unwrap_or(i64::MAX).saturating_add(1);
    let command =
        bounded(namespace, lower, None).document("sort", Writer::new().int("_id", 1)).int("limit", limit);
    let mut chunk =
        begin(client, namespace, (lower, None), command, DOCUMENTS_PER_REPLY_OF_NEXT, after).await?;
    let mut read: Vec<Vec<Found>> = Vec::new();
    while let Some(mut reply) = chunk.next().await? {
        if reply.len() > left {
            let (next, _) = reply.swap_remove(left);
            read.push(reply);
            return Ok((read, Some(next)));
        }
        left -= reply.len();
        read.push(reply);
    }
    Ok((read, None))
}

async fn begin(
    client: &Client,
    namespace: &Namespace,
    (lower, upper): (Option<&CanonicalId>, Option<&CanonicalId>),
    command: Writer,
    documents_per_reply: u32,
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
    let command = command.document("readConcern", read_concern(Some(after))).value(
        "batchSize",
        INT32,
        &documents_per_reply.to_le_bytes(),
    );
    let replies = find(client, namespace, command, documents_per_reply, "read a chunk").await?;
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
