//! The source stage against a real replica set.

use std::collections::HashSet;
use std::time::Duration;

use crate::support::servers::Mongod;
use anyhow::{Context, Result, bail};
use futures_util::TryStreamExt;
use mongodb::Client;
use mongodb::bson::{Bson, Document, doc};
use rowstream::domain::{CanonicalId, ChangeKind, ClusterTime, Namespace, Position, ResumeToken};
use rowstream::source::{
    self, AfterLoss, CollectionIndex, Continuity, Event, EventKind, Manner, Reply, Scope, Stream, StreamState,
};

/// Waiting replies in bytes; small enough that some tests meet the limit.
const MANNER: Manner = Manner { budget: 1 << 20, after_loss: AfterLoss::End, patience: PATIENCE };

/// Nothing here takes this long; a condition that never comes must not hang the run.
const PATIENCE: Duration = Duration::from_secs(60);

/// A database of a test's own. The stage's client has the database's name for its application name, so that
/// failures can be aimed at it; the test itself writes through another.
struct Source {
    client: Client,
    writer: Client,
    name: String,
}

impl Source {
    async fn new(test: &str) -> Result<Self> {
        // Of their own: a fail point is one for the whole server.
        static MONGOD: tokio::sync::OnceCell<Mongod> = tokio::sync::OnceCell::const_new();
        let uri = MONGOD.get_or_try_init(Mongod::start).await?.uri();
        let name = format!("src_{test}_{}", std::process::id());
        let writer = source::connect(&uri, "writer").await?;
        // A server that a fail point calls shut down is looked at again by the next heartbeat only.
        let separator = if uri.contains('?') { '&' } else { '?' };
        let client = source::connect(&format!("{uri}{separator}heartbeatFrequencyMS=500"), &name).await?;
        writer.database(&name).drop().await?;
        Ok(Self { client, writer, name })
    }

    fn collection(&self, name: &str) -> mongodb::Collection<Document> {
        self.writer.database(&self.name).collection(name)
    }

    fn namespace(&self, collection: &str) -> Namespace {
        Namespace { database: self.name.clone(), collection: collection.into() }
    }

    fn scope(&self, collections: &[&str]) -> Scope {
        Scope { collections: collections.iter().map(|name| self.namespace(name)).collect(), discover: None }
    }

    async fn now(&self) -> Result<Position> {
        Ok(Position { token: None, time: source::operation_time(&self.writer).await? })
    }

    /// A stream that starts behind all that was written up to now.
    async fn follow(&self, scope: Scope) -> Result<Follower> {
        let position = self.now().await?;
        let mut follower = self.follow_from(scope, position);
        follower.catch_up(self).await?;
        follower.replies.clear();
        Ok(follower)
    }

    fn follow_from(&self, scope: Scope, position: Position) -> Follower {
        Follower { stream: source::open(&self.client, scope, position, MANNER), replies: Vec::new() }
    }

    /// Lets the next commands of this test's client fail on the server.
    async fn fail(&self, times: i32, data: Document) -> Result<Failure<'_>> {
        let turn = FAIL_POINT.lock().await;
        let mut data = data;
        data.insert("appName", &self.name);
        let command = doc! { "configureFailPoint": "failCommand", "mode": { "times": times }, "data": data };
        let reply = self.writer.database("admin").run_command(command).await?;
        Ok(Failure { source: self, entered: reply.get_i32("count")? + times, _turn: turn })
    }

    async fn done(self) -> Result<()> {
        self.writer.database(&self.name).drop().await?;
        Ok(())
    }
}

/// The server has one fail point of this name for everybody.
static FAIL_POINT: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

struct Failure<'a> {
    source: &'a Source,
    entered: i32,
    _turn: tokio::sync::MutexGuard<'a, ()>,
}

impl Failure<'_> {
    async fn happened(self) -> Result<()> {
        let command = doc! {
            "waitForFailPoint": "failCommand", "timesEntered": self.entered,
            "maxTimeMS": PATIENCE.as_millis() as i64,
        };
        self.source.writer.database("admin").run_command(command).await.context("the failure never came")?;
        Ok(())
    }
}

struct Follower {
    stream: Stream,
    replies: Vec<Reply>,
}

impl Follower {
    async fn next(&mut self) -> Result<Reply> {
        let reply = tokio::time::timeout(PATIENCE, self.stream.next()).await.context("no reply in time")?;
        Ok(reply.context("the stream has ended")??)
    }

    /// Takes replies while waiting: a stream that nobody reads stands still.
    async fn read_until(&mut self, condition: impl Future<Output = Result<()>>) -> Result<()> {
        tokio::pin!(condition);
        loop {
            tokio::select! {
                done = &mut condition => return done,
                reply = self.next() => self.replies.push(reply?),
            }
        }
    }

    /// Takes replies until everything that was written before this call has come.
    async fn catch_up(&mut self, source: &Source) -> Result<()> {
        let target = source::operation_time(&source.writer).await?;
        while self.replies.last().is_none_or(|reply| reply.time < target) {
            let reply = self.next().await?;
            self.replies.push(reply);
        }
        Ok(())
    }

    fn events(&self) -> impl Iterator<Item = &Event> {
        self.replies.iter().flat_map(|reply| &reply.events)
    }

    fn told(&self) -> Vec<String> {
        self.events().map(tell).collect()
    }
}

/// An event in few words: `put 0 10:01000000` is collection, type and value of the id.
fn tell(event: &Event) -> String {
    match &event.kind {
        EventKind::Document { collection: CollectionIndex(index), id, change } => {
            let change = match change {
                ChangeKind::Put(_) => "put",
                ChangeKind::Delete => "delete",
                ChangeKind::Touch | ChangeKind::Updated => "touch",
            };
            format!("{change} {index} {}", show(id))
        }
        EventKind::Dropped { collection: CollectionIndex(index) } => format!("dropped {index}"),
        EventKind::Replaced { collection: CollectionIndex(index) } => format!("replaced {index}"),
        EventKind::Discovered(namespace) => format!("discovered {}", namespace.collection),
    }
}

/// The canonical form of an id is the domain's; here small numbers and text are made readable.
fn show(id: &CanonicalId) -> String {
    match id.as_bytes() {
        [0x10, rest @ ..] | [0x12, rest @ ..] => rest.first().map(u8::to_string).unwrap_or_default(),
        [0x02, _, _, _, _, text @ .., 0] => String::from_utf8_lossy(text).into_owned(),
        bytes => format!("{bytes:02x?}"),
    }
}

fn mixed_ids() -> Result<Vec<Bson>> {
    let mut ids = vec![
        Bson::MinKey,
        Bson::MaxKey,
        Bson::Null,
        Bson::Boolean(true),
        Bson::Boolean(false),
        Bson::Double(f64::NAN),
        Bson::Double(f64::NEG_INFINITY),
        Bson::Double(1.5),
        Bson::Decimal128("3.14".parse()?),
        Bson::Int64(i64::MAX),
        Bson::Symbol("symbol".into()),
        Bson::JavaScriptCode("code".into()),
        Bson::Timestamp(mongodb::bson::Timestamp { time: 1, increment: 2 }),
        Bson::DateTime(mongodb::bson::DateTime::from_millis(-1)),
        Bson::Document(doc! {}),
        Bson::Document(doc! { "a": 1, "b": "x" }),
        Bson::Document(doc! { "b": "x", "a": 1 }),
        Bson::from(mongodb::bson::Uuid::from_bytes([7; 16])),
        Bson::Binary(mongodb::bson::Binary {
            subtype: mongodb::bson::spec::BinarySubtype::Generic,
            bytes: vec![],
        }),
        Bson::String(String::new()),
    ];
    for number in 0..40 {
        ids.push(Bson::Int32(number * 2));
        ids.push(Bson::Double(f64::from(number) * 2.0 + 0.25));
        ids.push(Bson::String(format!("text {number}")));
        ids.push(Bson::ObjectId(mongodb::bson::oid::ObjectId::from_bytes([number as u8; 12])));
    }
    Ok(ids)
}

#[tokio::test]
async fn mixed_ids_are_chunked_in_full_order() -> Result<()> {
    let source = Source::new("chunks").await?;
    let ids = mixed_ids()?;
    source.collection("mixed").insert_many(ids.iter().map(|id| doc! { "_id": id })).await?;
    let namespace = source.namespace("mixed");
    let after = source::operation_time(&source.writer).await?;

    for size in [1, 7, 100, 1_000] {
        let mut copied = Vec::new();
        let mut lower: Option<CanonicalId> = None;
        loop {
            let (replies, upper) =
                source::read_next(&source.client, &namespace, lower.as_ref(), size, after).await?;
            let read: Vec<CanonicalId> = replies.into_iter().flatten().map(|(id, _)| id).collect();
            // Who comes later reads the same between the bounds.
            let mut chunk =
                source::read_chunk(&source.client, &namespace, lower.as_ref(), upper.as_ref(), after).await?;
            let mut again = Vec::new();
            while let Some(documents) = chunk.next().await? {
                again.extend(documents.into_iter().map(|(id, _)| id));
            }
            assert_eq!(read, again);
            if upper.is_some() {
                assert_eq!(read.len(), size as usize);
            }
            copied.extend(read);
            lower = upper;
            if lower.is_none() {
                break;
            }
        }
        let distinct: HashSet<_> = copied.iter().collect();
        assert_eq!((copied.len(), distinct.len()), (ids.len(), ids.len()), "chunks of {size}");

        let found = source::lookup(&source.client, &namespace, &copied, after).await?;
        assert_eq!(found.len(), ids.len());
    }
    source.done().await
}

/// One server has them in order whatever it is asked; mongos only if it is asked for that.
#[tokio::test]
async fn the_next_documents_are_asked_for_in_the_order_of_the_index_and_nobody_sorts() -> Result<()> {
    let source = Source::new("ordered").await?;
    source.collection("orders").insert_many((0..50).map(|n| doc! { "_id": n })).await?;
    let namespace = source.namespace("orders");
    let after = source::operation_time(&source.writer).await?;
    let database = source.writer.database(&source.name);
    database.run_command(doc! { "profile": 2 }).await?;
    let lower = CanonicalId::from_bson(&Bson::Int32(7));
    for lower in [None, Some(&lower)] {
        source::read_next(&source.client, &namespace, lower, 10, after).await?;
    }
    database.run_command(doc! { "profile": 0 }).await?;
    let asked = doc! { "op": "query", "ns": format!("{}.orders", source.name) };
    let profile = database.collection::<Document>("system.profile");
    let asked: Vec<Document> = profile.find(asked).await?.try_collect().await?;
    assert_eq!(asked.len(), 2);
    for asked in asked {
        assert_eq!(asked.get_document("command")?.get_document("sort")?, &doc! { "_id": 1_i64 });
        assert!(!asked.contains_key("hasSortStage"), "{asked}");
        assert_eq!(asked.get_i32("docsExamined")?, 11);
    }
    source.done().await
}

#[tokio::test]
async fn empty_and_missing_collections_have_one_empty_chunk() -> Result<()> {
    let source = Source::new("empty").await?;
    source.writer.database(&source.name).create_collection("empty").await?;
    for name in ["empty", "missing"] {
        let namespace = source.namespace(name);
        let after = ClusterTime::default();
        let (replies, next) = source::read_next(&source.client, &namespace, None, 10, after).await?;
        assert_eq!((replies.concat().len(), next), (0, None));
        let id = CanonicalId::from_value(0x0A, &[]);
        let mut chunk =
            source::read_chunk(&source.client, &namespace, Some(&id), None, ClusterTime::default()).await?;
        while let Some(documents) = chunk.next().await? {
            assert!(documents.is_empty());
        }
        let found = source::lookup(&source.client, &namespace, &[id], ClusterTime::default()).await?;
        assert!(found.is_empty());
    }
    source.done().await
}

#[tokio::test]
async fn an_id_with_invalid_text_is_found_again() -> Result<()> {
    let source = Source::new("invalid").await?;
    let invalid = |document: Document| -> Result<_> {
        let mut bytes = mongodb::bson::serialize_to_vec(&document)?;
        bytes.iter_mut().filter(|byte| **byte == b'?').for_each(|byte| *byte = 0xFF);
        Ok(mongodb::bson::RawDocumentBuf::from_bytes(bytes)?)
    };
    let document = invalid(doc! { "_id": "a?c" })?;
    let insert = invalid(doc! { "insert": "texts", "documents": [{ "_id": "a?c" }] })?;
    let mut follower = source.follow(source.scope(&["texts"])).await?;
    source.writer.database(&source.name).run_raw_command(insert).await?;
    follower.catch_up(&source).await?;

    let after = source::operation_time(&source.writer).await?;
    let Some(EventKind::Document { id, change: ChangeKind::Put(put), .. }) =
        follower.events().next().map(|event| &event.kind)
    else {
        bail!("no put: {:?}", follower.told());
    };
    assert_eq!(put.as_bytes(), document.as_bytes());
    let found =
        source::lookup(&source.client, &source.namespace("texts"), std::slice::from_ref(id), after).await?;
    assert_eq!(found.len(), 1);
    assert_eq!((&found[0].0, found[0].1.as_bytes()), (id, document.as_bytes()));
    source.done().await
}

#[tokio::test]
async fn operations_become_put_touch_and_delete() -> Result<()> {
    let source = Source::new("operations").await?;
    let mut follower = source.follow(source.scope(&["a", "b"])).await?;
    let a = source.collection("a");
    a.insert_one(doc! { "_id": 1, "x": 1 }).await?;
    a.update_one(doc! { "_id": 1 }, doc! { "$set": { "x": 2 } }).await?;
    a.replace_one(doc! { "_id": 1 }, doc! { "x": 3 }).await?;
    source.collection("elsewhere").insert_one(doc! { "_id": 9 }).await?;
    a.delete_one(doc! { "_id": 1 }).await?;
    source.collection("b").insert_one(doc! { "_id": 2 }).await?;
    follower.catch_up(&source).await?;
    assert_eq!(follower.told(), ["put 0 1", "touch 0 1", "put 0 1", "delete 0 1", "put 1 2"]);
    assert!(follower.events().all(|event| !event.in_transaction));
    source.done().await
}

#[tokio::test]
async fn a_transaction_has_one_time_and_is_over_at_an_empty_reply() -> Result<()> {
    let source = Source::new("transaction").await?;
    for name in ["a", "b"] {
        source.writer.database(&source.name).create_collection(name).await?;
    }
    let mut follower = source.follow(source.scope(&["a", "b"])).await?;
    let mut session = source.writer.start_session().await?;
    session.start_transaction().await?;
    for number in 0..50 {
        let name = if number % 2 == 0 { "a" } else { "b" };
        source.collection(name).insert_one(doc! { "_id": number }).session(&mut session).await?;
    }
    session.commit_transaction().await?;
    follower.catch_up(&source).await?;
    let times: HashSet<_> = follower.events().map(|event| event.time).collect();
    assert_eq!((follower.events().count(), times.len()), (50, 1));
    assert!(follower.events().all(|event| event.in_transaction));

    let last = follower.next().await?;
    assert!(last.events.is_empty());
    assert!(times.iter().all(|time| *time <= last.time));
    source.done().await
}

#[tokio::test]
async fn a_transaction_can_be_resumed_after_each_of_its_events() -> Result<()> {
    let source = Source::new("inside").await?;
    for name in ["a", "b"] {
        source.writer.database(&source.name).create_collection(name).await?;
    }
    let mut follower = source.follow(source.scope(&["a", "b"])).await?;
    let mut session = source.writer.start_session().await?;
    session.start_transaction().await?;
    for number in 0..4 {
        source.collection("a").insert_one(doc! { "_id": number }).session(&mut session).await?;
        source.collection("b").insert_one(doc! { "_id": number }).session(&mut session).await?;
        source.collection("a").delete_one(doc! { "_id": number }).session(&mut session).await?;
    }
    session.commit_transaction().await?;
    source.collection("b").insert_one(doc! { "_id": 9 }).await?;
    follower.catch_up(&source).await?;
    let told = follower.told();
    assert_eq!(told.len(), 13, "{told:?}");
    for (behind, event) in (1..).zip(follower.events()) {
        let position = Position { token: Some(event.token.clone()), time: event.time };
        let mut again = source.follow_from(source.scope(&["a", "b"]), position);
        again.catch_up(&source).await?;
        assert_eq!(again.told(), told[behind..], "behind {behind} events");
    }
    source.done().await
}

#[tokio::test]
async fn an_aborted_transaction_leaves_no_event() -> Result<()> {
    let source = Source::new("abort").await?;
    source.writer.database(&source.name).create_collection("a").await?;
    let mut follower = source.follow(source.scope(&["a"])).await?;
    let mut session = source.writer.start_session().await?;
    session.start_transaction().await?;
    source.collection("a").insert_one(doc! { "_id": 1 }).session(&mut session).await?;
    session.abort_transaction().await?;
    source.collection("a").insert_one(doc! { "_id": 2 }).await?;
    follower.catch_up(&source).await?;
    assert_eq!(follower.told(), ["put 0 2"]);
    source.done().await
}

#[tokio::test]
async fn drop_rename_and_out_are_told() -> Result<()> {
    let source = Source::new("names").await?;
    for name in ["a", "b", "other"] {
        source.collection(name).insert_one(doc! { "_id": 1 }).await?;
    }
    let mut follower = source.follow(source.scope(&["a", "b"])).await?;
    let rename = async |from: &str, to: &str| {
        let command = doc! {
            "renameCollection": format!("{}.{from}", source.name), "to": format!("{}.{to}", source.name),
            "dropTarget": true,
        };
        source.writer.database("admin").run_command(command).await
    };
    rename("other", "a").await?;
    rename("a", "b").await?;
    rename("b", "elsewhere").await?;
    source.collection("elsewhere").aggregate([doc! { "$out": "a" }]).await?;
    source.collection("elsewhere").aggregate([doc! { "$out": "a" }]).await?;
    source.collection("a").drop().await?;
    source.collection("a").insert_one(doc! { "_id": 2 }).await?;
    follower.catch_up(&source).await?;
    assert_eq!(
        follower.told(),
        [
            "replaced 0",
            "dropped 0",
            "replaced 1",
            "dropped 1",
            "replaced 0",
            "replaced 0",
            "dropped 0",
            "put 0 2"
        ]
    );
    source.done().await
}

#[tokio::test]
async fn a_dropped_database_is_told_and_the_stream_goes_on() -> Result<()> {
    for names in [&["a"][..], &["a", "b"]] {
        let source = Source::new(&format!("database{}", names.len())).await?;
        for name in names {
            source.collection(name).insert_one(doc! { "_id": 1 }).await?;
        }
        let mut follower = source.follow(source.scope(names)).await?;
        source.writer.database(&source.name).drop().await?;
        source.collection("a").insert_one(doc! { "_id": 2 }).await?;
        follower.catch_up(&source).await?;
        let told = follower.told();
        assert_eq!(told.last().map(String::as_str), Some("put 0 2"), "{told:?}");
        for index in 0..names.len() {
            assert!(told.contains(&format!("dropped {index}")), "{told:?}");
        }
        source.done().await?;
    }
    Ok(())
}

/// A start by time begins with what happened at that time, be it the end of everything.
#[tokio::test]
async fn a_stream_that_starts_at_the_very_drop_of_its_database_goes_on() -> Result<()> {
    for names in [&["a"][..], &["a", "b"]] {
        let source = Source::new(&format!("at_drop{}", names.len())).await?;
        for name in names {
            source.collection(name).insert_one(doc! { "_id": 1 }).await?;
        }
        let mut follower = source.follow(source.scope(names)).await?;
        source.writer.database(&source.name).drop().await?;
        follower.catch_up(&source).await?;
        source.collection("a").insert_one(doc! { "_id": 2 }).await?;
        let times: Vec<_> = follower.events().map(|event| event.time).collect();
        assert!(times.len() >= names.len(), "{:?}", follower.told());
        for time in times {
            let mut again = source.follow_from(source.scope(names), Position { token: None, time });
            again.catch_up(&source).await?;
            let told = again.told();
            assert!(told.first().is_some_and(|first| first.starts_with("dropped")), "{told:?}");
            assert_eq!(told.last().map(String::as_str), Some("put 0 2"), "{told:?}");
        }
        source.done().await?;
    }
    Ok(())
}

#[tokio::test]
async fn every_event_of_an_invalidated_stream_can_be_resumed_after() -> Result<()> {
    let source = Source::new("invalidate").await?;
    source.collection("a").insert_one(doc! { "_id": 1 }).await?;
    let mut follower = source.follow(source.scope(&["a"])).await?;
    source.collection("a").delete_one(doc! { "_id": 1 }).await?;
    source.collection("a").drop().await?;
    source.collection("a").insert_one(doc! { "_id": 2 }).await?;
    source.collection("a").drop().await?;
    source.collection("a").insert_one(doc! { "_id": 3 }).await?;
    follower.catch_up(&source).await?;
    let told = follower.told();
    assert_eq!(told, ["delete 0 1", "dropped 0", "put 0 2", "dropped 0", "put 0 3"]);

    let positions = follower.events().map(|event| (event.token.clone(), event.time));
    for (behind, (token, time)) in (1..).zip(positions) {
        let mut again = source.follow_from(source.scope(&["a"]), Position { token: Some(token), time });
        again.catch_up(&source).await?;
        assert_eq!(again.told(), told[behind..], "behind {behind} events");
    }
    source.done().await
}

#[tokio::test]
async fn an_idle_stream_reaches_the_time_asked() -> Result<()> {
    let source = Source::new("idle").await?;
    let mut follower = source.follow(source.scope(&["a"])).await?;
    let elsewhere = Source::new("idle_elsewhere").await?;
    elsewhere.collection("z").insert_one(doc! { "_id": 1 }).await?;
    follower.catch_up(&source).await?;
    assert!(follower.told().is_empty());
    elsewhere.done().await?;
    source.done().await
}

#[tokio::test]
async fn unlisted_collections_are_discovered_once() -> Result<()> {
    let source = Source::new("discover").await?;
    source.collection("listed").insert_one(doc! { "_id": 0 }).await?;
    let mut scope = source.scope(&["listed"]);
    scope.discover = Some(source.name.clone());
    let mut follower = source.follow(scope).await?;
    for number in 1..3 {
        source.collection("listed").insert_one(doc! { "_id": number }).await?;
        source.collection("fresh").insert_one(doc! { "_id": number }).await?;
    }
    source.collection("fresh").aggregate([doc! { "$out": "made" }]).await?;
    follower.catch_up(&source).await?;
    assert_eq!(follower.told(), ["put 0 1", "discovered fresh", "put 0 2", "discovered made"]);
    source.done().await
}

#[tokio::test]
async fn resumable_errors_lose_nothing() -> Result<()> {
    let source = Source::new("resumable").await?;
    let mut follower = source.follow(source.scope(&["a", "b"])).await?;
    let failures = [
        6, 7, 43, 50, 63, 89, 91, 133, 134, 150, 189, 234, 237, 262, 9001, 10107, 11600, 11601, 11602, 13435,
        13436,
    ];
    let mut written = 0;
    for code in failures {
        let failure = source.fail(2, doc! { "failCommands": ["getMore", "aggregate"], "errorCode": code });
        let failure = failure.await?;
        for name in ["a", "b"] {
            source.collection(name).insert_one(doc! { "_id": written }).await?;
        }
        written += 1;
        follower.read_until(failure.happened()).await?;
        // Back at work: else the back-off of one failure would add to the next one's.
        follower.catch_up(&source).await?;
    }
    let failure = source.fail(2, doc! { "failCommands": ["getMore", "aggregate"], "closeConnection": true });
    let failure = failure.await?;
    source.collection("a").insert_one(doc! { "_id": 200 }).await?;
    follower.read_until(failure.happened()).await?;
    follower.catch_up(&source).await?;
    let mut expected: Vec<_> =
        (0..written).flat_map(|number| [format!("put 0 {number}"), format!("put 1 {number}")]).collect();
    expected.push("put 0 200".into());
    assert_eq!(follower.told(), expected);
    assert!(follower.replies.iter().all(|reply| reply.continuity == Continuity::Unbroken));
    source.done().await
}

/// One that routers raise. A server takes it from its fail point only with all that belongs to it.
#[tokio::test]
async fn a_stale_routing_table_loses_nothing() -> Result<()> {
    let source = Source::new("stale_config").await?;
    let mut follower = source.follow(source.scope(&["a", "b"])).await?;
    let version = doc! { "e": mongodb::bson::oid::ObjectId::new(), "t": mongodb::bson::Timestamp { time: 1, increment: 1 },
    "v": mongodb::bson::Timestamp { time: 1, increment: 0 } };
    let info = doc! { "ns": format!("{}.a", source.name), "vReceived": version, "shardId": "shard" };
    let failure = source.fail(
        2,
        doc! { "failCommands": ["getMore", "aggregate"], "errorCode": 13388, "errorExtraInfo": info },
    );
    let failure = failure.await?;
    source.collection("a").insert_one(doc! { "_id": 1 }).await?;
    follower.read_until(failure.happened()).await?;
    follower.catch_up(&source).await?;
    assert_eq!(follower.told(), ["put 0 1"]);
    source.done().await
}

/// A server that takes a request and is silent: the time-out of the socket.
#[tokio::test]
async fn a_reply_that_never_comes_is_given_up_and_loses_nothing() -> Result<()> {
    let source = Source::new("silent").await?;
    let position = source.now().await?;
    let silence = doc! { "failCommands": ["getMore"], "blockConnection": true, "blockTimeMS": 20_000 };
    let failure = source.fail(1, silence).await?;
    source.collection("a").insert_one(doc! { "_id": 1 }).await?;
    let manner = Manner { patience: Duration::from_millis(500), ..MANNER };
    let stream = source::open(&source.client, source.scope(&["a", "b"]), position, manner);
    let mut follower = Follower { stream, replies: Vec::new() };
    let mut state = follower.stream.state();
    let told = state.wait_for(|state| matches!(state, StreamState::Retrying { .. }));
    let told = tokio::time::timeout(PATIENCE, told).await??.clone();
    let silent = |state: &StreamState| matches!(state, StreamState::Retrying { error, .. } if error.contains("no answer within"));
    assert!(silent(&told), "{told:?}");
    failure.happened().await?;
    follower.catch_up(&source).await?;
    assert_eq!(follower.told(), ["put 0 1"]);
    source.done().await
}

/// Many entries of an oplog that must be skipped take long, and would at each attempt.
#[tokio::test]
async fn a_server_that_takes_longer_than_the_patience_is_given_more_each_time() -> Result<()> {
    const ATTEMPTS: i32 = 20;
    let source = Source::new("patience").await?;
    let manner = Manner { patience: Duration::from_millis(200), ..MANNER };
    let slow = doc! { "failCommands": ["aggregate"], "blockConnection": true, "blockTimeMS": 1_000 };
    let position = source.now().await?;
    let failure = source.fail(ATTEMPTS, slow).await?;
    source.collection("a").insert_one(doc! { "_id": 1 }).await?;
    let stream = source::open(&source.client, source.scope(&["a", "b"]), position, manner);
    let mut follower = Follower { stream, replies: Vec::new() };
    follower.catch_up(&source).await?;
    assert_eq!(follower.told(), ["put 0 1"]);
    let off = doc! { "configureFailPoint": "failCommand", "mode": "off" };
    let off = source.writer.database("admin").run_command(off).await?;
    let spared = failure.entered - off.get_i32("count")?;
    drop(failure);
    assert!(spared > ATTEMPTS / 2, "{} attempts were needed", ATTEMPTS - spared);
    source.done().await
}

#[tokio::test]
async fn an_unknown_error_is_resumable_only_if_the_server_says_so() -> Result<()> {
    let source = Source::new("label").await?;
    let mut follower = source.follow(source.scope(&["a", "b"])).await?;
    let unknown = doc! { "failCommands": ["getMore"], "errorCode": 4711 };
    let mut labelled = unknown.clone();
    labelled.insert("errorLabels", ["ResumableChangeStreamError"].as_slice());
    let failure = source.fail(2, labelled).await?;
    source.collection("a").insert_one(doc! { "_id": 1 }).await?;
    follower.read_until(failure.happened()).await?;
    follower.catch_up(&source).await?;
    assert_eq!(follower.told(), ["put 0 1"]);

    let failure = source.fail(1, unknown).await?;
    let error = loop {
        match tokio::time::timeout(PATIENCE, follower.stream.next()).await?.context("no error")? {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    let source::Disposition::Halt { hint } = error.disposition() else { bail!("{error:?} is retried") };
    assert!(hint.contains("look the code up"), "{hint}");
    assert!(follower.stream.next().await.is_none());
    failure.happened().await?;
    source.done().await
}

#[tokio::test]
async fn a_killed_cursor_is_opened_again() -> Result<()> {
    let source = Source::new("killed").await?;
    let mut follower = source.follow(source.scope(&["a", "b"])).await?;
    for number in 0..3 {
        kill_cursors(&source).await?;
        source.collection("a").insert_one(doc! { "_id": number }).await?;
        follower.catch_up(&source).await?;
    }
    assert_eq!(follower.told(), ["put 0 0", "put 0 1", "put 0 2"]);
    source.done().await
}

async fn change_stream_cursors(source: &Source) -> Result<Vec<i64>> {
    use futures_util::TryStreamExt;
    let pipeline = [
        doc! { "$currentOp": { "idleCursors": true, "allUsers": true } },
        doc! { "$match": { "appName": &source.name, "cursor.tailable": true } },
    ];
    let operations: Vec<Document> =
        source.writer.database("admin").aggregate(pipeline).await?.try_collect().await?;
    Ok(operations
        .iter()
        .filter_map(|operation| operation.get_document("cursor").ok()?.get_i64("cursorId").ok())
        .collect())
}

async fn kill_cursors(source: &Source) -> Result<()> {
    let cursors = loop {
        let cursors = change_stream_cursors(source).await?;
        if !cursors.is_empty() {
            break cursors;
        }
    };
    let command = doc! { "killCursors": "$cmd.aggregate", "cursors": cursors };
    source.writer.database(&source.name).run_command(command).await?;
    Ok(())
}

#[tokio::test]
async fn dropping_the_receiver_ends_the_task_and_kills_the_cursor() -> Result<()> {
    let source = Source::new("abandoned").await?;
    let follower = source.follow(source.scope(&["a", "b"])).await?;
    let mut state = follower.stream.state();
    drop(follower);
    tokio::time::timeout(PATIENCE, state.wait_for(|state| *state == StreamState::Ended)).await??;
    let cursors_are_gone = async {
        while !change_stream_cursors(&source).await?.is_empty() {}
        anyhow::Ok(())
    };
    tokio::time::timeout(PATIENCE, cursors_are_gone).await.context("the cursor lives on")??;
    source.done().await
}

#[tokio::test]
async fn a_fatal_error_ends_the_stream_with_a_hint() -> Result<()> {
    let source = Source::new("fatal").await?;
    let failure = source.fail(1, doc! { "failCommands": ["aggregate"], "errorCode": 286 }).await?;
    let mut stream = source::open(&source.client, source.scope(&["a"]), source.now().await?, MANNER);
    let Some(Err(error)) = stream.next().await else { bail!("no error") };
    assert!(matches!(error, source::Error::HistoryLost { .. }), "{error:?}");
    assert!(stream.next().await.is_none());
    failure.happened().await?;

    let data = mongodb::bson::serialize_to_vec(&doc! { "_data": "8200000000000000" })?;
    let position = Position { token: Some(ResumeToken(data)), time: ClusterTime::new(1, 1) };
    let mut stream = source::open(&source.client, source.scope(&["a"]), position, MANNER);
    let Some(Err(error)) = stream.next().await else { bail!("no error") };
    assert!(matches!(error, source::Error::InvalidToken { .. }), "{error:?}");
    source.done().await
}

#[tokio::test]
async fn what_does_not_pass_by_itself_is_told_with_what_to_do() -> Result<()> {
    let source = Source::new("told").await?;
    for (code, told) in [
        (13, "grant the user `read`"),
        (59, "change streams need a replica set"),
        (260, "restore the URI, or let `on_history_lost: resync`"),
        (280, "the source may have been restored"),
        (286, "size the oplog"),
        (40573, "change streams need a replica set"),
        (4711, "look the code up"),
    ] {
        let failure = source.fail(1, doc! { "failCommands": ["aggregate"], "errorCode": code }).await?;
        let mut stream = source::open(&source.client, source.scope(&["a"]), source.now().await?, MANNER);
        let error = tokio::time::timeout(PATIENCE, stream.next()).await.context("no error in time")?;
        let Some(Err(error)) = error else { bail!("{code} was passed over") };
        let source::Disposition::Halt { hint } = error.disposition() else { bail!("{error:?} is retried") };
        assert!(hint.contains(told), "{code}: {hint}");
        assert!(stream.next().await.is_none(), "the stream goes on after {code}");
        failure.happened().await?;
    }
    source.done().await
}

#[tokio::test]
async fn a_token_that_is_not_found_is_replaced_by_its_time() -> Result<()> {
    let source = Source::new("token").await?;
    source.collection("a").insert_one(doc! { "_id": 1 }).await?;
    let mut follower = source.follow(source.scope(&["a", "b"])).await?;
    let failure = source.fail(1, doc! { "failCommands": ["getMore"], "errorCode": 280 }).await?;
    source.collection("a").insert_one(doc! { "_id": 2 }).await?;
    follower.read_until(failure.happened()).await?;
    source.collection("a").insert_one(doc! { "_id": 3 }).await?;
    follower.catch_up(&source).await?;
    assert_eq!(follower.told().last().map(String::as_str), Some("put 0 3"));
    let flagged = follower.replies.iter().filter(|reply| reply.continuity == Continuity::TokenNotFound);
    assert_eq!(flagged.count(), 1);
    source.done().await
}

#[tokio::test]
async fn a_position_ahead_of_the_server_is_noticed() -> Result<()> {
    let source = Source::new("ahead").await?;
    let mut position = source.now().await?;
    position.time.seconds += 10_000;
    let mut follower = source.follow_from(source.scope(&["a"]), position);
    source.collection("a").insert_one(doc! { "_id": 1 }).await?;
    let first = follower.next().await?;
    assert_eq!(first.continuity, Continuity::TokenNotFound);
    source.collection("a").insert_one(doc! { "_id": 2 }).await?;
    follower.catch_up(&source).await?;
    assert_eq!(follower.told().last().map(String::as_str), Some("put 0 2"));
    source.done().await
}

#[tokio::test]
async fn large_documents_and_large_updates_pass() -> Result<()> {
    let source = Source::new("large").await?;
    let mut follower = source.follow(source.scope(&["a", "b"])).await?;
    let a = source.collection("a");
    let largest = 16 * 1024 * 1024 - 60;
    a.insert_one(doc! { "_id": 1, "text": "x".repeat(largest) }).await?;
    a.insert_one(doc! { "_id": 2, "text": "x".repeat(7_000_000) }).await?;
    a.update_one(doc! { "_id": 2 }, doc! { "$set": { "more": "y".repeat(8_500_000) } }).await?;
    a.insert_one(doc! { "_id": 3 }).await?;
    follower.catch_up(&source).await?;
    assert_eq!(follower.told(), ["put 0 1", "put 0 2", "touch 0 2", "put 0 3"]);
    source.done().await
}

#[tokio::test]
async fn an_event_above_the_limit_becomes_a_touch() -> Result<()> {
    let source = Source::new("oversized").await?;
    let mut follower = source.follow(source.scope(&["a", "b"])).await?;
    let a = source.collection("a");
    a.insert_one(doc! { "_id": 1 }).await?;
    a.insert_one(doc! { "_id": 2 }).await?;
    follower.catch_up(&source).await?;
    follower.replies.clear();
    // The server raises this at a getMore; whatever comes next is taken for the large event.
    let failure = source.fail(1, doc! { "failCommands": ["getMore"], "errorCode": 10334 }).await?;
    a.replace_one(doc! { "_id": 1 }, doc! { "x": 1 }).await?;
    a.delete_one(doc! { "_id": 2 }).await?;
    follower.read_until(failure.happened()).await?;
    follower.catch_up(&source).await?;
    a.insert_one(doc! { "_id": 3 }).await?;
    follower.catch_up(&source).await?;
    let told = follower.told();
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(["touch 0 1", "put 0 1"].contains(&told[0].as_str()), "{told:?}");
    assert_eq!(told[1..], ["delete 0 2", "put 0 3"]);
    source.done().await
}

#[tokio::test]
async fn an_event_the_server_cannot_send_does_not_stop_the_stream() -> Result<()> {
    let source = Source::new("unsendable").await?;
    let mut follower = source.follow(source.scope(&["a", "b"])).await?;
    let a = source.collection("a");
    a.insert_one(doc! { "_id": 1 }).await?;
    // The id is in the token, in the documentKey and in the document: together more than 16 MB.
    let id = "x".repeat(2_000_000);
    a.insert_one(doc! { "_id": &id, "text": "y".repeat(11_000_000) }).await?;
    a.insert_one(doc! { "_id": 2 }).await?;
    a.insert_one(doc! { "_id": 3, "text": "y".repeat(15_000_000) }).await?;
    follower.catch_up(&source).await?;
    a.insert_one(doc! { "_id": 4 }).await?;
    follower.catch_up(&source).await?;
    let told = follower.told();
    let briefly: Vec<_> = told.iter().map(|event| event.split(' ').next().unwrap_or_default()).collect();
    assert_eq!(briefly.len(), 5, "{briefly:?}");
    assert!(told[1] == format!("touch 0 {id}"), "{briefly:?}");
    assert_eq!(told[4], "put 0 4");
    source.done().await
}

#[tokio::test]
async fn a_slow_reader_holds_the_cursor_back() -> Result<()> {
    let source = Source::new("slow").await?;
    let position = source.now().await?;
    let text = "x".repeat(100_000);
    for batch in 0..8 {
        let documents = (0..50).map(|number| doc! { "_id": batch * 50 + number, "text": &text });
        source.collection("a").insert_many(documents).await?;
    }
    let mut follower = source.follow_from(source.scope(&["a"]), position);
    follower.catch_up(&source).await?;
    assert_eq!(follower.events().count(), 400);
    source.done().await
}

#[tokio::test]
async fn a_stream_over_several_databases_keeps_them_apart() -> Result<()> {
    let (one, other) = (Source::new("several_one").await?, Source::new("several_other").await?);
    let scope = Scope { collections: vec![one.namespace("a"), other.namespace("b")], discover: None };
    let mut follower = one.follow(scope).await?;
    for source in [&one, &other] {
        for name in ["a", "b"] {
            source.collection(name).insert_one(doc! { "_id": 1 }).await?;
        }
    }
    follower.catch_up(&one).await?;
    assert_eq!(follower.told(), ["put 0 1", "put 1 1"]);
    one.done().await?;
    other.done().await
}

#[tokio::test]
async fn preflight_tells_what_is_there() -> Result<()> {
    let source = Source::new("preflight").await?;
    let database = source.writer.database(&source.name);
    source
        .collection("plain")
        .insert_many([doc! { "_id": 1 }, doc! { "_id": "x" }, doc! { "_id": 2_i64 }])
        .await?;
    database.create_collection("capped").capped(true).size(4096_u64).await?;
    database.run_command(doc! { "create": "view", "viewOn": "plain", "pipeline": [] }).await?;
    database.run_command(doc! { "create": "series", "timeseries": { "timeField": "t" } }).await?;
    database
        .run_command(doc! { "create": "collated", "collation": { "locale": "en", "strength": 2 } })
        .await?;
    database
        .run_command(
            doc! { "create": "clustered", "clusteredIndex": { "key": { "_id": 1 }, "unique": true } },
        )
        .await?;
    let scope = source.scope(&["plain", "capped", "view", "series", "collated", "clustered", "missing"]);
    let facts = source::preflight(&source.client, &scope).await?;
    let names: Vec<_> = facts.findings.iter().map(|finding| (finding.name, finding.fatal)).collect();
    assert_eq!(
        names,
        [
            ("capped", false),
            ("view", true),
            ("time_series", true),
            ("collation", false),
            ("missing_collection", false)
        ]
    );
    assert!(matches!(facts.topology, source::Topology::ReplicaSet { .. }));
    assert!(facts.oplog.is_some_and(|window| window.first < window.last));
    assert!(facts.feature_compatibility.is_some());
    let plain = &facts.collections[0];
    assert_eq!((plain.documents, plain.id_types.len()), (Some(3), 2));
    assert!(facts.collections[5].clustered);
    source.done().await
}
