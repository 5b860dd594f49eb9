//! `find` as a command of our own: values go as bytes, replies come as bytes, and the read waits for a
//! given cluster time. The driver's `find` can do none of the three.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use mongodb::Client;
use mongodb::raw_batch_cursor::{RawBatch, RawBatchCursor};

use super::element::{Writer, elements};
use super::error::Error;
use super::patience::Patience;
use crate::domain::{CanonicalId, ClusterTime, Document, Namespace};

/// A document and its `_id`, read without looking at the rest.
pub type Found = (CanonicalId, Document);

/// Thousands of documents that a slow disk has to find one by one take some ten seconds. Too short: a slow server is
/// asked again for what it was about to say. Too long: a connection that is dead keeps everything waiting.
const FIRST_REPLY_WITHIN: Duration = Duration::from_secs(60);
const ATTEMPTS: u32 = 3;

/// A cursor cannot be asked again.
const NEXT_REPLY_WITHIN: Duration = Duration::from_secs(240);

/// A find that goes on reply by reply.
pub(super) struct Replies {
    cursor: RawBatchCursor,
    namespace: Namespace,
    action: &'static str,
}

/// Majority-committed data as of `after` or later; without it, of whenever.
pub(super) fn read_concern(after: Option<ClusterTime>) -> Writer {
    let concern = Writer::new().string("level", "majority");
    match after {
        // The beginning of time is not accepted, and needs no waiting for.
        Some(time) if time > ClusterTime::default() => concern.time("afterClusterTime", time),
        _ => concern,
    }
}

/// `command` has everything but the read preference, which is the URI's.
pub(super) async fn find(
    client: &Client,
    namespace: &Namespace,
    command: Writer,
    documents_per_reply: u32,
    action: &'static str,
) -> Result<Replies, Error> {
    let command = command.command().ok_or(Error::Malformed { what: "a command above 2 GB" })?;
    let database = client.database(&namespace.database);
    let mut patience = Patience::new(FIRST_REPLY_WITHIN);
    let mut attempts = 1;
    loop {
        let mut request = database.run_raw_cursor_command(command.clone()).batch_size(documents_per_reply);
        if let Some(criteria) = client.selection_criteria() {
            request = request.selection_criteria(criteria.clone());
        }
        match patience.wait_for(request.batch()).await {
            Ok(cursor) => {
                let cursor = cursor.map_err(Error::collection(action, namespace))?;
                return Ok(Replies { cursor, namespace: namespace.clone(), action });
            }
            Err(_) if attempts < ATTEMPTS => attempts += 1,
            Err(fault) => return Err(Error::Collection { action, namespace: namespace.clone(), fault }),
        }
    }
}

impl Replies {
    /// The documents of the next reply; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Found>>, Error> {
        let reply = Patience::new(NEXT_REPLY_WITHIN).wait_for(self.cursor.next()).await;
        let silent =
            |fault| Error::Collection { action: self.action, namespace: self.namespace.clone(), fault };
        match reply.map_err(silent)? {
            Some(Ok(batch)) => found(&Bytes::from_owner(OwnedBatch(batch))).map(Some),
            Some(Err(error)) => Err(Error::collection(self.action, &self.namespace)(error)),
            None => Ok(None),
        }
    }
}

/// The array of documents in a reply of any cursor.
pub(super) fn batch(reply: &[u8]) -> Option<&[u8]> {
    let cursor = elements(reply)
        .filter_map(Result::ok)
        .find(|element| element.name == b"cursor")
        .and_then(|element| element.document())?;
    elements(cursor)
        .filter_map(Result::ok)
        .find(|element| matches!(element.name, b"firstBatch" | b"nextBatch"))
        .and_then(|element| element.array())
}

/// The documents of a reply of any cursor.
pub(super) fn found(reply: &Bytes) -> Result<Vec<Found>, Error> {
    const DOCUMENT: Error = Error::Malformed { what: "a document" };
    let batch = batch(reply).ok_or(Error::Malformed { what: "a reply to find" })?;
    elements(batch)
        .map(|element| {
            let document = element.ok().and_then(|element| element.document()).ok_or(DOCUMENT)?;
            // Always there in a collection with an _id index, and always first.
            let id = elements(document)
                .filter_map(Result::ok)
                .find(|element| element.name == b"_id")
                .ok_or(Error::Malformed { what: "a document without _id" })?;
            let id = CanonicalId::from_value(id.element_type, id.value);
            Ok((id, Document::new(reply.slice_ref(document)).ok_or(DOCUMENT)?))
        })
        .collect()
}

/// Lets the driver's reply be the memory that documents are slices of.
pub(super) struct OwnedBatch(pub(super) RawBatch);

impl AsRef<[u8]> for OwnedBatch {
    fn as_ref(&self) -> &[u8] {
        self.0.as_raw_document().as_bytes()
    }
}
