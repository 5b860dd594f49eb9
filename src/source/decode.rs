//! Bytes of a change stream's reply in, events out. Pure but for the memory of what was discovered.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use super::element::{Element, Malformed, elements};
use super::error::Error;
use super::event::{CollectionIndex, Continuity, Event, EventKind, Reply, Scope};
use super::token::token_time;
use crate::domain::{CanonicalId, ChangeKind, ClusterTime, Document, Namespace, ResumeToken};

/// Knows which names are mapped, and which collections were reported as discovered.
#[derive(Debug)]
pub(super) struct Decoder {
    databases: HashMap<Vec<u8>, HashMap<Vec<u8>, CollectionIndex>>,
    discover: Option<String>,
    discovered: HashSet<Vec<u8>>,
}

/// A reply, and what the task that owns the cursor must know of it.
#[derive(Debug)]
pub(super) struct Decoded {
    pub(super) reply: Reply,
    /// Events the server sent, mapped or not.
    pub(super) received: usize,
    /// The server has closed the cursor for good; go on behind the token.
    pub(super) invalidated: bool,
}

/// The fields of an event, as far as the projection lets them through.
#[derive(Debug, Default)]
struct Envelope<'a> {
    token: Option<&'a [u8]>,
    operation: &'a [u8],
    time: Option<ClusterTime>,
    namespace: Names<'a>,
    to: Names<'a>,
    document_key: Option<&'a [u8]>,
    full_document: Option<&'a [u8]>,
    in_transaction: bool,
    wall_time: Option<i64>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Names<'a> {
    database: &'a [u8],
    collection: &'a [u8],
}

/// What the stream makes of one reply: for whoever has bytes and no cursor, as a fuzzer.
///
/// # Errors
/// `Malformed` for what is no reply.
pub fn decode_reply(scope: &Scope, bytes: &Bytes) -> Result<Reply, Error> {
    Decoder::new(scope).reply(bytes).map(|decoded| decoded.reply)
}

impl Decoder {
    pub(super) fn new(scope: &Scope) -> Self {
        let mut databases: HashMap<_, HashMap<_, _>> = HashMap::new();
        for (index, namespace) in (0..).zip(&scope.collections) {
            databases
                .entry(namespace.database.clone().into_bytes())
                .or_default()
                .insert(namespace.collection.clone().into_bytes(), CollectionIndex(index));
        }
        Self { databases, discover: scope.discover.clone(), discovered: HashSet::new() }
    }

    /// `bytes` is the whole reply of an aggregate or getMore. Documents become slices of it.
    pub(super) fn reply(&mut self, bytes: &Bytes) -> Result<Decoded, Error> {
        let cursor = field(bytes, b"cursor")?
            .and_then(|element| element.document())
            .ok_or(Error::Malformed { what: "a reply of the change stream" })?;
        let mut token = None;
        let mut batch = None;
        for element in elements(cursor) {
            let element = element.map_err(reply_malformed)?;
            match element.name {
                b"postBatchResumeToken" => token = element.document(),
                b"firstBatch" | b"nextBatch" => batch = element.array(),
                _ => {}
            }
        }
        let (Some(token), Some(batch)) = (token, batch) else {
            return Err(Error::Malformed { what: "a reply of the change stream" });
        };
        let token = ResumeToken(token.to_vec());
        let time = token_time(&token).ok_or(Error::Malformed { what: "a resume token" })?;

        let mut events = Vec::new();
        let mut received = 0;
        let mut invalidated = false;
        for element in elements(batch) {
            let event =
                element.map_err(reply_malformed)?.document().ok_or(Error::Malformed { what: "an event" })?;
            let envelope = Envelope::read(event)?;
            received += 1;
            invalidated |= envelope.operation == b"invalidate";
            self.event(bytes, &envelope, &mut events)?;
        }
        let operation_time = field(bytes, b"operationTime")?.and_then(|element| element.cluster_time());
        let reply = Reply {
            events,
            token,
            time,
            size: bytes.len(),
            continuity: Continuity::Unbroken,
            operation_time,
            opens_cursor: false,
        };
        Ok(Decoded { reply, received, invalidated })
    }

    fn event(
        &mut self,
        reply: &Bytes,
        envelope: &Envelope<'_>,
        events: &mut Vec<Event>,
    ) -> Result<(), Error> {
        let mut kinds = Vec::new();
        match envelope.operation {
            b"insert" | b"update" | b"replace" | b"delete" => match self.index(envelope.namespace) {
                Some(collection) => {
                    let kind = document_event(reply, envelope, collection)?;
                    events.push(envelope.event(kind)?);
                    return Ok(());
                }
                None => kinds.extend(self.discovery(envelope.namespace)),
            },
            b"drop" => kinds.extend(self.dropped(envelope.namespace)),
            b"rename" => {
                kinds.extend(self.dropped(envelope.namespace));
                match self.index(envelope.to) {
                    Some(collection) => kinds.push(EventKind::Replaced { collection }),
                    None => kinds.extend(self.discovery(envelope.to)),
                }
            }
            b"dropDatabase" => {
                let collections = self.databases.get(envelope.namespace.database);
                let mut collections: Vec<_> = collections.into_iter().flat_map(HashMap::values).collect();
                collections.sort();
                kinds.extend(collections.into_iter().map(|&collection| EventKind::Dropped { collection }));
            }
            // create, modify, invalidate, and whatever a later server invents: no document changed.
            _ => {}
        }
        for kind in kinds {
            events.push(envelope.event(kind)?);
        }
        Ok(())
    }

    fn index(&self, names: Names<'_>) -> Option<CollectionIndex> {
        self.databases.get(names.database)?.get(names.collection).copied()
    }

    fn dropped(&mut self, names: Names<'_>) -> Option<EventKind> {
        // Created once more, it is discovered once more.
        self.discovered.remove(names.collection);
        self.index(names).map(|collection| EventKind::Dropped { collection })
    }

    fn discovery(&mut self, names: Names<'_>) -> Option<EventKind> {
        let database = self.discover.as_ref().filter(|database| database.as_bytes() == names.database)?;
        if is_internal(names.collection) || self.discovered.contains(names.collection) {
            return None;
        }
        let collection = std::str::from_utf8(names.collection).ok().filter(|name| !name.is_empty())?;
        self.discovered.insert(names.collection.to_vec());
        Some(EventKind::Discovered(Namespace { database: database.clone(), collection: collection.into() }))
    }
}

fn document_event(
    reply: &Bytes,
    envelope: &Envelope<'_>,
    collection: CollectionIndex,
) -> Result<EventKind, Error> {
    const KEY: Error = Error::Malformed { what: "the documentKey of an event" };
    let document_key = envelope.document_key.ok_or(KEY)?;
    let mut id = None;
    let mut only_id = true;
    for element in elements(document_key) {
        let element = element.map_err(|_| KEY)?;
        match element.name {
            b"_id" => id = Some(CanonicalId::from_value(element.element_type, element.value)),
            _ => only_id = false,
        }
    }
    let change = match (envelope.operation, envelope.full_document) {
        (b"insert" | b"replace", Some(document)) => {
            let document = Document::new(reply.slice_ref(document));
            ChangeKind::Put(document.ok_or(Error::Malformed { what: "the fullDocument of an event" })?)
        }
        (b"delete", _) if only_id => ChangeKind::Delete,
        (b"update", _) => ChangeKind::Updated,
        _ => ChangeKind::Touch,
    };
    Ok(EventKind::Document { collection, id: id.ok_or(KEY)?, change })
}

impl<'a> Envelope<'a> {
    fn read(event: &'a [u8]) -> Result<Self, Error> {
        let mut envelope = Self::default();
        for element in elements(event) {
            let element = element.map_err(|_| Error::Malformed { what: "an event" })?;
            match element.name {
                b"_id" => envelope.token = element.document(),
                b"operationType" => envelope.operation = element.text().unwrap_or_default(),
                b"clusterTime" => envelope.time = element.cluster_time(),
                b"ns" => envelope.namespace = Names::read(element),
                b"to" => envelope.to = Names::read(element),
                b"documentKey" => envelope.document_key = element.document(),
                // null stands for a document that is no longer there.
                b"fullDocument" => envelope.full_document = element.document(),
                b"wallTime" => envelope.wall_time = element.date(),
                b"txnNumber" => envelope.in_transaction = true,
                _ => {}
            }
        }
        Ok(envelope)
    }

    fn event(&self, kind: EventKind) -> Result<Event, Error> {
        let token = self.token.ok_or(Error::Malformed { what: "the _id of an event" })?;
        let token = ResumeToken(token.to_vec());
        let time = self.time.or_else(|| token_time(&token));
        let time = time.ok_or(Error::Malformed { what: "the clusterTime of an event" })?;
        Ok(Event { kind, time, token, in_transaction: self.in_transaction, wall_time: self.wall_time })
    }
}

impl<'a> Names<'a> {
    fn read(element: Element<'a>) -> Self {
        let mut names = Self::default();
        for element in elements(element.document().unwrap_or_default()).filter_map(Result::ok) {
            match element.name {
                b"db" => names.database = element.text().unwrap_or_default(),
                b"coll" => names.collection = element.text().unwrap_or_default(),
                _ => {}
            }
        }
        names
    }
}

/// Collections of the server itself, and the temporary ones of `$out`, mapReduce and renames across
/// databases: what comes of those is seen when they are renamed.
fn is_internal(collection: &[u8]) -> bool {
    let temporary_rename = collection.starts_with(b"tmp") && collection.ends_with(b".renameCollection");
    temporary_rename
        || [&b"system."[..], b"tmp.agg_out.", b"tmp.mr.", b"enxcol_."]
            .iter()
            .any(|prefix| collection.starts_with(prefix))
}

fn field<'a>(document: &'a [u8], name: &[u8]) -> Result<Option<Element<'a>>, Error> {
    for element in elements(document) {
        let element = element.map_err(reply_malformed)?;
        if element.name == name {
            return Ok(Some(element));
        }
    }
    Ok(None)
}

fn reply_malformed(_: Malformed) -> Error {
    Error::Malformed { what: "a reply of the server" }
}

#[cfg(test)]
mod tests {
    use bson::{Timestamp, doc};

    use super::*;

    const TOKEN: &str = "826B01034A000000042B022C0100296E04";

    fn scope() -> Scope {
        let namespace = |database: &str, collection: &str| Namespace {
            database: database.into(),
            collection: collection.into(),
        };
        Scope {
            collections: vec![
                namespace("shop", "orders"),
                namespace("shop", "users"),
                namespace("crm", "orders"),
            ],
            discover: Some("shop".into()),
        }
    }

    fn event(operation: &str, database: &str, collection: &str, rest: bson::Document) -> bson::Document {
        let mut event = doc! {
            "_id": { "_data": TOKEN }, "operationType": operation, "clusterTime": Timestamp { time: 7, increment: 9 },
            "ns": { "db": database, "coll": collection },
        };
        event.extend(rest);
        event
    }

    fn decode(events: Vec<bson::Document>) -> Result<Decoded, Box<dyn std::error::Error>> {
        let reply = doc! {
            "cursor": { "nextBatch": events, "postBatchResumeToken": { "_data": TOKEN }, "id": 1_i64, "ns": "shop.$cmd" },
            "ok": 1.0,
        };
        Ok(Decoder::new(&scope()).reply(&Bytes::from(reply.to_vec()?))?)
    }

    fn tell(event: &Event) -> String {
        match &event.kind {
            EventKind::Document { collection, change: ChangeKind::Put(document), .. } => {
                format!("put {} {}", collection.0, document.len())
            }
            EventKind::Document { collection, change: ChangeKind::Delete, .. } => {
                format!("delete {}", collection.0)
            }
            EventKind::Document { collection, change: ChangeKind::Touch | ChangeKind::Updated, .. } => {
                format!("touch {}", collection.0)
            }
            EventKind::Dropped { collection } => format!("dropped {}", collection.0),
            EventKind::Replaced { collection } => format!("replaced {}", collection.0),
            EventKind::Discovered(namespace) => format!("discovered {namespace}"),
        }
    }

    fn told(events: Vec<bson::Document>) -> Result<Vec<String>, Box<dyn std::error::Error>> {
        Ok(decode(events)?.reply.events.iter().map(tell).collect())
    }

    #[test]
    fn data_events_become_changes() -> Result<(), Box<dyn std::error::Error>> {
        let key = doc! { "_id": 1 };
        let sharded = doc! { "region": "eu", "_id": 1 };
        let full = |document: bson::Document| doc! { "documentKey": &key, "fullDocument": document };
        let told = told(vec![
            event("insert", "shop", "orders", full(doc! { "_id": 1 })),
            event("replace", "shop", "users", full(doc! { "_id": 1 })),
            event("replace", "crm", "orders", doc! { "documentKey": &key }),
            event("insert", "crm", "orders", doc! { "documentKey": &key, "fullDocument": bson::Bson::Null }),
            event("update", "shop", "orders", full(doc! { "_id": 1 })),
            event("delete", "shop", "orders", doc! { "documentKey": &key }),
            event("delete", "shop", "orders", doc! { "documentKey": sharded }),
            event("insert", "crm", "users", full(doc! { "_id": 1 })),
        ])?;
        let expected = ["put 0 14", "put 1 14", "touch 2", "touch 2", "touch 0", "delete 0", "touch 0"];
        assert_eq!(told, expected);
        Ok(())
    }

    #[test]
    fn names_that_change_hands_are_told() -> Result<(), Box<dyn std::error::Error>> {
        let to = |database: &str, collection: &str| doc! { "to": { "db": database, "coll": collection } };
        let decoded = decode(vec![
            event("drop", "shop", "orders", doc! {}),
            event("rename", "shop", "orders", to("shop", "users")),
            event("rename", "shop", "tmp.agg_out.1", to("shop", "orders")),
            event("rename", "shop", "users", to("shop", "fresh")),
            event("insert", "shop", "fresh", doc! {}),
            event("insert", "shop", "system.views", doc! {}),
            event("insert", "shop", "tmp.agg_out.2", doc! {}),
            event("create", "shop", "users", doc! {}),
            event("someday", "shop", "users", doc! {}),
            event("dropDatabase", "shop", "", doc! {}),
            event("invalidate", "shop", "", doc! {}),
        ])?;
        assert!(decoded.invalidated);
        assert_eq!(decoded.received, 11);
        let told: Vec<_> = decoded.reply.events.iter().map(tell).collect();
        let expected = [
            "dropped 0",
            "dropped 0",
            "replaced 1",
            "replaced 0",
            "dropped 1",
            "discovered shop.fresh",
            "dropped 0",
            "dropped 1",
        ];
        assert_eq!(told, expected);
        Ok(())
    }

    #[test]
    fn the_envelope_is_read() -> Result<(), Box<dyn std::error::Error>> {
        let rest = doc! { "documentKey": { "_id": 1 }, "txnNumber": 3_i64 };
        let decoded = decode(vec![event("delete", "shop", "orders", rest)])?;
        let event = &decoded.reply.events[0];
        assert!(event.in_transaction);
        assert_eq!(event.time, ClusterTime::new(7, 9));
        assert_eq!(event.token.0, doc! { "_data": TOKEN }.to_vec()?);
        assert_eq!(decoded.reply.time, ClusterTime::new(0x6B01_034A, 4));
        Ok(())
    }

    #[test]
    fn shard_keys_beside_the_id_make_a_delete_a_second_look() -> Result<(), Box<dyn std::error::Error>> {
        let delete = |key: bson::Document| event("delete", "shop", "orders", doc! { "documentKey": key });
        let keys = [
            doc! { "region": "eu", "_id": 1 },
            doc! { "_id": 1, "region": "eu" },
            doc! { "address.country": "at", "_id": 1 },
            doc! { "address": { "country": "at", "_id": 2 }, "_id": 1 },
            doc! { "hashed": bson::Bson::Null, "_id": 1 },
        ];
        let decoded = decode(keys.into_iter().map(delete).collect())?;
        let one = CanonicalId::from_bson(&bson::Bson::Int32(1));
        for event in &decoded.reply.events {
            let is_touch = matches!(&event.kind, EventKind::Document { id, change: ChangeKind::Touch, .. } if *id == one);
            assert!(is_touch, "{event:?}");
        }
        assert_eq!(decoded.reply.events.len(), 5);

        // Moved to another shard: gone there, and here again.
        let key = |region: &str| doc! { "region": region, "_id": 1 };
        let full = doc! { "documentKey": key("us"), "fullDocument": { "_id": 1, "region": "us" } };
        let moved = told(vec![
            delete(key("eu")),
            event("insert", "shop", "orders", full),
            event("update", "shop", "orders", doc! { "documentKey": key("asia") }),
        ])?;
        assert_eq!(moved, ["touch 0", "put 0 29", "touch 0"]);
        Ok(())
    }

    #[test]
    fn what_other_servers_leave_out_or_add_changes_nothing() -> Result<(), Box<dyn std::error::Error>> {
        let namespace = |fields: bson::Document| doc! { "ns": fields, "documentKey": { "_id": 1 } };
        let mut old = event("delete", "shop", "orders", doc! { "documentKey": { "_id": 1 } });
        old.remove("clusterTime");
        let decoded = decode(vec![
            old,
            event("delete", "", "", namespace(doc! { "coll": "users", "uuid": 1, "db": "shop" })),
            event(
                "delete",
                "shop",
                "orders",
                doc! { "documentKey": { "_id": 1 }, "wallTime": bson::DateTime::from_millis(5), "lsid": { "id": 1 },
                "collectionUUID": 1, "operationDescription": {}, "someday": [1, { "a": 1 }] },
            ),
            event("delete", "", "", doc! { "ns": "shop.orders", "documentKey": { "_id": 1 } }),
            event("reshardCollection", "shop", "orders", doc! { "documentKey": 7, "fullDocument": "x" }),
        ])?;
        let events = &decoded.reply.events;
        assert_eq!(events.iter().map(tell).collect::<Vec<_>>(), ["delete 0", "delete 1", "delete 0"]);
        // The time of its token stands for that of the event.
        assert_eq!((events[0].time, events[0].wall_time), (ClusterTime::new(0x6B01_034A, 4), None));
        assert_eq!((events[2].time, events[2].wall_time), (ClusterTime::new(7, 9), Some(5)));
        Ok(())
    }

    #[test]
    fn an_event_that_is_not_understood_is_an_error() {
        for rest in [doc! {}, doc! { "documentKey": { "other": 1 } }, doc! { "documentKey": 1 }] {
            assert!(decode(vec![event("insert", "shop", "orders", rest)]).is_err());
        }
    }
}
