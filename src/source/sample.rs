//! Some documents of a collection, to see what they look like. A sample suggests, it does not prove.

use std::time::Duration;

use bson::doc;
use bytes::Bytes;
use futures_util::TryStreamExt;
use mongodb::Client;

use super::element::elements;
use super::error::{Disposition, Error};
use super::find::{OwnedBatch, batch, found};
use crate::domain::{CanonicalId, Document, Namespace};

/// Types that fewer than one document in some hundred has may be missed.
const DOCUMENTS: i64 = 1_000;

/// Large documents make a small sample.
const BYTES: usize = 16 * 1024 * 1024;

/// A random sample may sort the whole collection.
const PATIENCE: Duration = Duration::from_secs(10);

/// At most a thousand documents or 16 MiB, at random, or the first ones where that takes too long.
pub async fn sample_documents(client: &Client, namespace: &Namespace) -> Result<Vec<Document>, Error> {
    match documents(client, namespace, doc! { "$sample": { "size": DOCUMENTS } }).await {
        Err(error) if error.disposition() == Disposition::Retry => {
            documents(client, namespace, doc! { "$limit": DOCUMENTS }).await
        }
        sampled => sampled,
    }
}

/// The `_id`s of so many documents at random, in no order; one may come twice. More than a twentieth of the
/// collection makes the server sort all of it.
pub async fn sample_ids(
    client: &Client,
    namespace: &Namespace,
    size: i64,
) -> Result<Vec<CanonicalId>, Error> {
    let failed = Error::collection("sample the documents", namespace);
    let collection = client.database(&namespace.database).collection::<bson::Document>(&namespace.collection);
    let stages = [doc! { "$sample": { "size": size } }, doc! { "$project": { "_id": 1 } }];
    let mut batches = collection.aggregate(stages).batch_size(10_000).batch().await.map_err(&failed)?;
    let mut ids = Vec::new();
    while let Some(reply) = batches.try_next().await.map_err(&failed)? {
        let reply = Bytes::from_owner(OwnedBatch(reply));
        ids.extend(found(&reply)?.into_iter().map(|(id, _)| id));
    }
    Ok(ids)
}

async fn documents(
    client: &Client,
    namespace: &Namespace,
    stage: bson::Document,
) -> Result<Vec<Document>, Error> {
    const DOCUMENT: Error = Error::Malformed { what: "a document" };
    let failed = Error::collection("sample the documents", namespace);
    let collection = client.database(&namespace.database).collection::<bson::Document>(&namespace.collection);
    let aggregate = collection.aggregate([stage]).max_time(PATIENCE).batch_size(100);
    let mut batches = aggregate.batch().await.map_err(&failed)?;
    let (mut documents, mut bytes) = (Vec::new(), 0);
    while let Some(reply) = batches.try_next().await.map_err(&failed)? {
        let reply = Bytes::from_owner(OwnedBatch(reply));
        let found = batch(&reply).ok_or(Error::Malformed { what: "a reply to aggregate" })?;
        for element in elements(found) {
            let document = element.ok().and_then(|element| element.document()).ok_or(DOCUMENT)?;
            bytes += document.len();
            if bytes > BYTES && !documents.is_empty() {
                return Ok(documents);
            }
            documents.push(Document::new(reply.slice_ref(document)).ok_or(DOCUMENT)?);
        }
    }
    Ok(documents)
}
