//! Reading again what was touched.

use mongodb::Client;

use super::element::{INT32, Writer};
use super::error::Error;
use super::find::{Found, find, read_concern};
use crate::domain::{CanonicalId, ClusterTime, Namespace};

/// Ids of one find, in number and in bytes. The command's limit is 48 MB, a value's 16 MB; far less keeps a
/// find short, so that no cursor grows old, and costs nothing per id.
const IDS_PER_FIND: usize = 5_000;
const BYTES_PER_FIND: usize = 4 * 1024 * 1024;

/// The documents that exist among `ids`, in no order, as they are at `after` or later, majority-committed.
/// An id that is not among them is gone. In a collection with a collation the id of a document may be
/// another spelling than the one asked for.
pub async fn lookup(
    client: &Client,
    namespace: &Namespace,
    ids: &[CanonicalId],
    after: ClusterTime,
) -> Result<Vec<Found>, Error> {
    find_all(client, namespace, ids, |ids| command(namespace, ids, after)).await
}

/// Which of these ids have a document, as `lookup`. Reads the index alone.
pub async fn existing(
    client: &Client,
    namespace: &Namespace,
    ids: &[CanonicalId],
    after: ClusterTime,
) -> Result<Vec<CanonicalId>, Error> {
    let only_ids = |ids: &[CanonicalId]| {
        command(namespace, ids, after).document("projection", Writer::new().int("_id", 1))
    };
    let found = find_all(client, namespace, ids, only_ids).await?;
    Ok(found.into_iter().map(|(id, _)| id).collect())
}

async fn find_all(
    client: &Client,
    namespace: &Namespace,
    ids: &[CanonicalId],
    command: impl Fn(&[CanonicalId]) -> Writer,
) -> Result<Vec<Found>, Error> {
    let mut found = Vec::with_capacity(ids.len());
    let mut rest = ids;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(fitting(rest));
        let command = command(now);
        let mut replies =
            find(client, namespace, command, IDS_PER_FIND as u32 + 1, "look documents up").await?;
        while let Some(documents) = replies.next().await? {
            found.extend(documents);
        }
        rest = later;
    }
    Ok(found)
}

/// How many of the ids go into one command; at least one.
fn fitting(ids: &[CanonicalId]) -> usize {
    let mut bytes = 0;
    let fitting = ids
        .iter()
        .take(IDS_PER_FIND)
        .take_while(|id| {
            bytes += id.as_bytes().len() + 8;
            bytes <= BYTES_PER_FIND
        })
        .count();
    fitting.max(1)
}

fn command(namespace: &Namespace, ids: &[CanonicalId], after: ClusterTime) -> Writer {
    let mut array = Writer::new();
    for (index, id) in ids.iter().enumerate() {
        if let Some((&element_type, value)) = id.as_bytes().split_first() {
            array.push(&index.to_string(), element_type, value);
        }
    }
    let condition = Writer::new().array("$in", array);
    Writer::new()
        .string("find", &namespace.collection)
        .document("filter", Writer::new().document("_id", condition))
        // More than there are: everything in one reply, as long as it fits.
        .value("batchSize", INT32, &(IDS_PER_FIND as i32 + 1).to_le_bytes())
        .document("readConcern", read_concern(Some(after)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_split_by_number_and_by_bytes() {
        let small = vec![CanonicalId::from_value(0x10, &[0; 4]); IDS_PER_FIND + 1];
        assert_eq!(fitting(&small), IDS_PER_FIND);
        let large = vec![CanonicalId::from_value(0x05, &vec![0; BYTES_PER_FIND / 2]); 3];
        assert_eq!(fitting(&large), 1);
        let huge = [CanonicalId::from_value(0x05, &vec![0; BYTES_PER_FIND * 2])];
        assert_eq!(fitting(&huge), 1);
    }
}
