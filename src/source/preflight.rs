//! What the source is and lets us do, asked before the first change is taken. Returns facts and findings;
//! prints nothing, decides nothing.

use std::time::Duration;

use std::fmt;

use bson::{Bson, Document, doc};
use futures_util::{StreamExt, TryStreamExt};
use mongodb::Client;
use uuid::Uuid;

use super::client::{hello, run, server_times};
use super::error::{Disposition, Error, Fault};
use super::event::Scope;
use super::stream::{Target, probe, target};
use crate::domain::{CanonicalId, ClusterTime, IdType, Namespace};

/// Ids looked at per collection, beside both ends of the index. Types that fewer than one document in
/// some hundred has may be missed: a sample suggests, it does not prove.
const SAMPLED_IDS: u32 = 1_000;

/// For each question whose answer is good to know but not needed.
const PATIENCE: Duration = Duration::from_secs(10);

/// The first version with what the stream and the reads rely on.
const OLDEST_MAJOR_VERSION: u32 = 5;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    pub version: String,
    pub topology: Topology,
    /// `None` where the user may not ask.
    pub feature_compatibility: Option<String>,
    /// `None` where the user may not read `local.oplog.rs`, and on a sharded cluster.
    pub oplog: Option<OplogWindow>,
    /// In the order of `Scope::collections`.
    pub collections: Vec<CollectionFacts>,
    /// Nothing that was seen of them is newer.
    pub looked_at: ClusterTime,
    pub findings: Vec<Finding>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topology {
    ReplicaSet { name: String },
    Sharded,
    Standalone,
}

impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReplicaSet { name } => write!(f, "replica set {name}"),
            Self::Sharded => f.write_str("sharded cluster"),
            Self::Standalone => f.write_str("standalone"),
        }
    }
}

/// The times of the oplog's first and last entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OplogWindow {
    pub first: ClusterTime,
    pub last: ClusterTime,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CollectionFacts {
    pub namespace: Namespace,
    pub kind: CollectionKind,
    /// `None` where the user may not list collections.
    pub uuid: Option<Uuid>,
    pub capped: bool,
    pub clustered: bool,
    /// Has a collation of its own: ids that differ in case may be one.
    pub collation: bool,
    pub documents: Option<u64>,
    /// In bytes, uncompressed.
    pub average_size: Option<u64>,
    /// Types of sampled ids, the most frequent first. `None` stands for any other type.
    pub id_types: Vec<(Option<IdType>, u64)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CollectionKind {
    Collection,
    View,
    TimeSeries,
    Missing,
    /// The user may not list the collections of this database.
    Unknown,
}

/// One thing the operator should know. `name` is stable, for tests and machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub name: &'static str,
    pub fatal: bool,
    pub message: String,
    pub hint: &'static str,
}

/// An error means that the server could not be asked at all; everything it says is a finding.
pub async fn preflight(client: &Client, scope: &Scope) -> Result<Facts, Error> {
    let hello = hello(client).await?;
    let mut findings = Vec::new();
    let topology = topology(&hello);
    let version = version(client, &mut findings).await?;
    if topology == Topology::Standalone {
        findings.push(Finding {
            name: "standalone",
            fatal: true,
            message: "the server is a standalone: it has no change streams".into(),
            hint: "turn it into a replica set, one member is enough: start it with --replSet, run rs.initiate()",
        });
    } else {
        findings.extend(stream_finding(client, scope).await);
    }
    let mut collections = Vec::with_capacity(scope.collections.len());
    for namespace in &scope.collections {
        collections.push(collection(client, namespace, &mut findings).await?);
    }
    let oplog = match topology {
        Topology::ReplicaSet { .. } => watched_oplog(client, &mut findings).await,
        Topology::Sharded | Topology::Standalone => None,
    };
    let looked_at = match topology {
        Topology::ReplicaSet { .. } | Topology::Sharded => server_times(client).await?.cluster,
        Topology::Standalone => ClusterTime::default(),
    };
    let feature_compatibility = feature_compatibility(client).await;
    Ok(Facts { version, topology, feature_compatibility, oplog, collections, looked_at, findings })
}

fn topology(hello: &Document) -> Topology {
    match (hello.get_str("setName"), hello.get_str("msg")) {
        (Ok(name), _) => Topology::ReplicaSet { name: name.into() },
        (Err(_), Ok("isdbgrid")) => Topology::Sharded,
        _ => Topology::Standalone,
    }
}

async fn version(client: &Client, findings: &mut Vec<Finding>) -> Result<String, Error> {
    let information = run(client, "admin", doc! { "buildInfo": 1 }, "ask the server for its version").await?;
    let version = information.get_str("version").unwrap_or("unknown").to_owned();
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    if major.is_some_and(|major| major < OLDEST_MAJOR_VERSION) {
        findings.push(Finding {
            name: "old_version",
            fatal: false,
            message: format!("MongoDB {version} is older than what rowstream is tested with"),
            hint: "expect an error rather than a wrong row; MongoDB 5.0 or later is advised",
        });
    }
    Ok(version)
}

async fn feature_compatibility(client: &Client) -> Option<String> {
    let command = doc! { "getParameter": 1, "featureCompatibilityVersion": 1 };
    let reply = run(client, "admin", command, "ask for the feature compatibility version").await.ok()?;
    let version = reply.get_document("featureCompatibilityVersion").ok()?;
    version.get_str("version").ok().map(str::to_owned)
}

/// Opens the change stream for a moment: privileges can be granted in more ways than can be listed.
async fn stream_finding(client: &Client, scope: &Scope) -> Option<Finding> {
    let error = probe(client, scope).await.err()?;
    let Disposition::Halt { hint } = error.disposition() else {
        return Some(Finding {
            name: "stream_unavailable",
            fatal: false,
            message: with_cause("the change stream cannot be opened now", &error),
            hint: "it is tried again until it can",
        });
    };
    let on = match target(scope) {
        Ok(Target::Collection(namespace)) => format!("the collection {namespace}"),
        Ok(Target::Database(database)) => format!("the database {database}"),
        Ok(Target::Deployment) => "the whole deployment, for several databases are mapped".into(),
        Err(_) => "nothing".into(),
    };
    Some(Finding {
        name: "stream_refused",
        fatal: true,
        message: with_cause(&format!("a change stream on {on} is refused"), &error),
        hint,
    })
}

async fn collection(
    client: &Client,
    namespace: &Namespace,
    findings: &mut Vec<Finding>,
) -> Result<CollectionFacts, Error> {
    let mut facts = CollectionFacts {
        namespace: namespace.clone(),
        kind: CollectionKind::Unknown,
        uuid: None,
        capped: false,
        clustered: false,
        collation: false,
        documents: None,
        average_size: None,
        id_types: Vec::new(),
    };
    match listed(client, namespace).await {
        Ok(Some(listed)) => {
            let options = listed.get_document("options").cloned().unwrap_or_default();
            facts.kind = match listed.get_str("type") {
                Ok("view") => CollectionKind::View,
                Ok("timeseries") => CollectionKind::TimeSeries,
                _ => CollectionKind::Collection,
            };
            facts.uuid = listed.get_document("info").ok().and_then(uuid_of);
            facts.capped = options.get_bool("capped").unwrap_or(false);
            facts.clustered = options.contains_key("clusteredIndex");
            facts.collation = options.contains_key("collation");
        }
        Ok(None) => facts.kind = CollectionKind::Missing,
        Err(error) if matches!(error.disposition(), Disposition::Halt { .. }) => {}
        Err(error) => return Err(error),
    }
    findings.extend(kind_findings(&facts));
    if !matches!(facts.kind, CollectionKind::Collection | CollectionKind::Unknown) {
        return Ok(facts);
    }
    (facts.documents, facts.average_size) = size(client, namespace).await;
    match sample_id_types(client, namespace).await {
        Ok(types) => facts.id_types = types,
        Err(error) => findings.push(Finding {
            name: "unreadable",
            fatal: matches!(error.disposition(), Disposition::Halt { .. }),
            message: with_cause(&format!("{namespace} cannot be read"), &error),
            hint: "grant the user `read` on the database",
        }),
    }
    Ok(facts)
}

fn kind_findings(facts: &CollectionFacts) -> Vec<Finding> {
    let namespace = &facts.namespace;
    let mut findings = Vec::new();
    let mut add = |name, fatal, message, hint| findings.push(Finding { name, fatal, message, hint });
    match facts.kind {
        CollectionKind::View => add(
            "view",
            true,
            format!("{namespace} is a view: it has no change events"),
            "map the collection behind the view",
        ),
        CollectionKind::TimeSeries => add(
            "time_series",
            true,
            format!("{namespace} is a time series: MongoDB sends no change events for it"),
            "leave it out, or copy it into an ordinary collection",
        ),
        CollectionKind::Missing => add(
            "missing_collection",
            false,
            format!("{namespace} does not exist"),
            "correct the name; upper and lower case count. A collection to be is no mistake: set allow_empty",
        ),
        CollectionKind::Collection | CollectionKind::Unknown => {}
    }
    if facts.capped {
        add(
            "capped",
            false,
            format!("{namespace} is capped: what falls out of it may leave its row behind"),
            "servers before 7.0 send deletes for it; otherwise use deletes: keep",
        );
    }
    if facts.collation {
        add(
            "collation",
            false,
            format!("{namespace} has a collation: an _id may come back in another spelling"),
            "ids that are not strings are not concerned",
        );
    }
    findings
}

fn uuid_of(info: &Document) -> Option<Uuid> {
    match info.get("uuid") {
        Some(Bson::Binary(binary)) => Uuid::from_slice(&binary.bytes).ok(),
        _ => None,
    }
}

/// The collection's entry in the list of its database.
async fn listed(client: &Client, namespace: &Namespace) -> Result<Option<Document>, Error> {
    let command = doc! {
        "listCollections": 1, "filter": { "name": &namespace.collection }, "authorizedCollections": true,
        "nameOnly": false,
    };
    let reply = run(client, &namespace.database, command, "list the collections").await;
    let reply = match reply {
        // Without the right to list, names of what one may read can still be had.
        Err(error) if matches!(error.disposition(), Disposition::Halt { .. }) => {
            let command = doc! {
                "listCollections": 1, "filter": { "name": &namespace.collection },
                "authorizedCollections": true, "nameOnly": true,
            };
            run(client, &namespace.database, command, "list the collections").await?
        }
        reply => reply?,
    };
    let batch = reply.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch"));
    Ok(batch.ok().and_then(|batch| batch.first()).and_then(Bson::as_document).cloned())
}

/// Every collection of a database that can be followed, by name: no views, no time series, nothing of the
/// server's own.
pub async fn collections(client: &Client, database: &str) -> Result<Vec<Namespace>, Error> {
    let command = doc! {
        "listCollections": 1, "filter": { "type": "collection" }, "authorizedCollections": true,
        "nameOnly": true, "cursor": { "batchSize": 100_000 },
    };
    let reply = run(client, database, command, "list the collections").await?;
    let batch = reply.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch"));
    let entries = batch.map(|batch| batch.iter().filter_map(Bson::as_document)).into_iter().flatten();
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.get_str("name").ok().map(str::to_owned)).collect();
    names.retain(|name| !name.starts_with("system."));
    names.sort();
    let namespace = |collection| Namespace { database: database.to_owned(), collection };
    Ok(names.into_iter().map(namespace).collect())
}

/// Number of documents and their average size, as the server's own statistics have them.
async fn size(client: &Client, namespace: &Namespace) -> (Option<u64>, Option<u64>) {
    let collection = client.database(&namespace.database).collection::<Document>(&namespace.collection);
    let statistics = async {
        let pipeline = [
            doc! { "$collStats": { "storageStats": {} } },
            // One document per shard.
            doc! { "$group": { "_id": 1, "count": { "$sum": "$storageStats.count" }, "size": { "$sum": "$storageStats.size" } } },
        ];
        collection.aggregate(pipeline).await.ok()?.next().await?.ok()
    };
    let statistics: Option<Document> = tokio::time::timeout(PATIENCE, statistics).await.ok().flatten();
    let number = |name: &str| match statistics.as_ref()?.get(name)? {
        Bson::Int32(value) => u64::try_from(*value).ok(),
        Bson::Int64(value) => u64::try_from(*value).ok(),
        Bson::Double(value) if *value >= 0.0 => Some(*value as u64),
        _ => None,
    };
    match (number("count"), number("size")) {
        (Some(count), Some(size)) => (Some(count), size.checked_div(count)),
        _ => (collection.estimated_document_count().await.ok(), None),
    }
}

/// The types of some ids: a random sample, and both ends of the index, where another type would stand.
pub async fn sample_id_types(
    client: &Client,
    namespace: &Namespace,
) -> Result<Vec<(Option<IdType>, u64)>, Error> {
    let collection = client.database(&namespace.database).collection::<Document>(&namespace.collection);
    let failed = Error::collection("sample the ids", namespace);
    let mut counts: Vec<(Option<IdType>, u64)> = Vec::new();
    let mut count = |batch: &[u8]| {
        for id in ids(batch) {
            let id_type = id.id_type();
            match counts.iter_mut().find(|(known, _)| *known == id_type) {
                Some((_, count)) => *count += 1,
                None => counts.push((id_type, 1)),
            }
        }
    };
    for direction in [1, -1] {
        let find =
            collection.find(doc! {}).projection(doc! { "_id": 1 }).sort(doc! { "_id": direction }).limit(1);
        let batches: Vec<_> = find.batch().await.map_err(&failed)?.try_collect().await.map_err(&failed)?;
        batches.iter().for_each(|batch| count(batch.as_raw_document().as_bytes()));
    }
    let sample = async {
        let pipeline = [doc! { "$sample": { "size": SAMPLED_IDS } }, doc! { "$project": { "_id": 1 } }];
        let batches = collection.aggregate(pipeline).max_time(PATIENCE).batch().await?;
        batches.try_collect::<Vec<_>>().await
    };
    match sample.await.map_err(&failed) {
        Ok(batches) => batches.iter().for_each(|batch| count(batch.as_raw_document().as_bytes())),
        // Both ends are better than nothing when a sample takes too long.
        Err(error) if error.disposition() == Disposition::Retry => {}
        Err(error) => return Err(error),
    }
    counts.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    Ok(counts)
}

fn ids(reply: &[u8]) -> Vec<CanonicalId> {
    super::find::batch(reply)
        .into_iter()
        .flat_map(super::element::elements)
        .filter_map(|element| super::element::elements(element.ok()?.document()?).next()?.ok())
        .map(|id| CanonicalId::from_value(id.element_type, id.value))
        .collect()
}

async fn watched_oplog(client: &Client, findings: &mut Vec<Finding>) -> Option<OplogWindow> {
    match read_oplog(client).await {
        Ok(window) => window,
        Err(fault) => {
            findings.push(Finding {
                name: "oplog_unreadable",
                fatal: false,
                message: format!("the oplog's window is not known: {fault}"),
                hint: "grant `clusterMonitor` and `read` on the database `local` to have it watched",
            });
            None
        }
    }
}

/// How far the oplog reaches back now; `None` where the user may not read it.
pub async fn oplog_window(client: &Client) -> Option<OplogWindow> {
    read_oplog(client).await.ok().flatten()
}

async fn read_oplog(client: &Client) -> Result<Option<OplogWindow>, Fault> {
    let oplog = client.database("local").collection::<Document>("oplog.rs");
    let end = async |direction: i32| {
        let entry = oplog
            .find_one(doc! {})
            .sort(doc! { "$natural": direction })
            .projection(doc! { "ts": 1 })
            .max_time(PATIENCE)
            .await
            .map_err(|error| Fault::from(&error))?;
        Ok::<_, Fault>(entry.and_then(|entry| super::client::timestamp(&entry, "ts")))
    };
    let ends = end(1).await?.zip(end(-1).await?);
    Ok(ends.map(|(first, last)| OplogWindow { first, last }))
}

fn with_cause(text: &str, error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{text}: {cause}"),
        None => format!("{text}: {error}"),
    }
}
