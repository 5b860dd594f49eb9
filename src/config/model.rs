//! The valid configuration: what the rest of the program may rely on.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use uuid::Uuid;

use super::children::ChildSpec;
use super::date_format::DateFormat;
use super::expression::Expression;
use super::filter::Filter;
use super::reading::{JsonForm, Reading};
use super::reconcile::Reconcile;
use super::sync::SyncSpec;
use crate::domain::{IdType, Namespace, TableName, Transformers};

/// Everything `rowstream` was told, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Keys the state schema: two pipelines can share one database.
    pub pipeline: String,
    pub mongodb: MongoDb,
    pub postgres: Postgres,
    pub http: Http,
    pub log: Log,
    pub batch: Batch,
    pub snapshot: Snapshot,
    pub held: Held,
    pub lease: Lease,
    pub health: Health,
    pub reconcile: Reconcile,
    pub on_history_lost: OnHistoryLost,
    /// Root of every deterministic id. Changing it changes all of them.
    pub namespace: Uuid,
    pub mappings: Mappings,
    /// What the program was built with; no part of the file.
    pub transformers: Transformers,
}

/// What is copied: the mappings of the file, or every collection of one database as whole documents.
#[derive(Debug, Clone)]
pub enum Mappings {
    Listed(Vec<MappingSpec>),
    /// No mapping at all was given: each collection of the URI's database becomes a table
    /// `<schema>.<collection>` of whole documents.
    WholeDatabase {
        database: String,
        schema: String,
    },
}

/// Text that cannot be printed: `Debug` and `Display` show `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(value: String) -> Self {
        Self(value)
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What happens when the changes since the checkpoint are gone for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnHistoryLost {
    /// Somebody must decide.
    Halt,
    /// Goes on from the present; every row is brought up to date.
    Resync,
}

#[derive(Debug, Clone)]
pub struct MongoDb {
    /// Any connection string the driver understands.
    pub uri: Secret,
}

#[derive(Debug, Clone)]
pub struct Postgres {
    /// `None`: the PG* environment variables alone say where.
    pub url: Option<Secret>,
    /// Takes the place of the password in `url`, where one is given apart.
    pub password: Option<Secret>,
    pub statement_timeout: Duration,
    pub lock_timeout: Duration,
    pub idle_in_transaction_timeout: Duration,
    /// What a commit of rows waits for. Position and rows are lost together, so `off` loses nothing.
    pub synchronous_commit: &'static str,
}

#[derive(Debug, Clone)]
pub struct Http {
    pub enabled: bool,
    pub listen: SocketAddr,
    /// What a request must bring that changes something.
    pub token: Option<Secret>,
}

#[derive(Debug, Clone)]
pub struct Log {
    /// A tracing filter: `info`, `rowstream=debug,info`.
    pub level: String,
    pub format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone)]
pub struct Batch {
    pub max_changes: usize,
    pub max_bytes: usize,
    /// How long a change may wait for company. Zero: applied at once when idle.
    pub linger: Duration,
}

#[derive(Debug, Clone)]
pub struct Snapshot {
    pub mode: SnapshotMode,
    pub workers: usize,
    pub chunk_documents: u64,
    pub chunk_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotMode {
    /// Copy what is there once, then follow.
    Initial,
    /// Follow only.
    Never,
}

#[derive(Debug, Clone)]
pub struct Held {
    pub keep_document: bool,
    pub max_document_bytes: usize,
    pub retry_initial: Duration,
    pub retry_max: Duration,
    /// Newly held changes above which the pipeline halts, if they are more than half of the latest; 0: never.
    pub limit: u64,
    /// What has waited for a row for longer is no longer `waiting`, but `failed`.
    pub waiting_limit: Duration,
    /// How long a resolved entry is kept.
    pub retention: Duration,
}

#[derive(Debug, Clone)]
pub struct Lease {
    pub ttl: Duration,
}

#[derive(Debug, Clone)]
pub struct Health {
    /// Lag above which `/health` is degraded, and failing.
    pub lag_degraded: Duration,
    pub lag_failing: Duration,
    /// How long a server may be away before degraded becomes failing.
    pub outage_failing: Duration,
    /// Headroom of the oplog below which `/health` is degraded.
    pub oplog_headroom: Duration,
    /// Without a checkpoint, or while copying without a chunk, for so long it is degraded, too.
    pub checkpoint_degraded: Duration,
    pub snapshot_degraded: Duration,
}

/// One mapping: which documents, which table, which columns.
#[derive(Debug, Clone)]
pub struct MappingSpec {
    /// First half of the key (source, source_id); unique in the file.
    pub source: String,
    pub collection: Namespace,
    pub table: TableName,
    /// `None`: sampled once and stored.
    pub id_type: Option<IdType>,
    pub key: KeySpec,
    /// Unique keys by which rows that are there without an owner are taken over. `None`: not said, and a
    /// table in which such rows are in the way is refused.
    pub adopt: Option<Vec<Vec<String>>>,
    /// Several documents may stand for one row.
    pub shared: bool,
    /// A transformer of the program's own, by its name.
    pub transform: Option<String>,
    /// `None`: every document of the collection.
    pub filter: Option<Filter>,
    /// `None`: whole documents.
    pub columns: Option<Vec<ColumnSpec>>,
    /// Rows of other tables that are made from inside of the documents.
    pub children: Vec<ChildSpec>,
    /// Fields that are known to be mapped to nothing.
    pub ignore: Vec<String>,
    pub deletes: Deletes,
    pub sync: Option<SyncSpec>,
    pub schema: SchemaMode,
    pub on_drop: OnDrop,
    pub on_mapping_change: OnMappingChange,
    /// Nothing is held: a document that cannot be written stops the pipeline.
    pub critical: bool,
    pub enabled: bool,
    /// An empty or missing collection is no mistake.
    pub allow_empty: bool,
}

/// The columns that hold the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySpec {
    /// Columns that rowstream writes itself.
    SourceId {
        /// `None`: the table belongs to one source and has no such column.
        source: Option<String>,
        source_id: String,
    },
    /// Names among the mapping's columns.
    Columns(Vec<String>),
}

impl KeySpec {
    /// In the order of the key.
    pub fn names(&self) -> Vec<&str> {
        match self {
            Self::SourceId { source, source_id } => {
                source.as_deref().into_iter().chain([source_id.as_str()]).collect()
            }
            Self::Columns(names) => names.iter().map(String::as_str).collect(),
        }
    }

    /// Whether two mappings of one table know their own rows apart: by a source column, or by what is
    /// remembered of each row. In one table it is the same for all.
    pub fn can_share_with(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::SourceId { source, .. }, Self::SourceId { source: others, .. }) => {
                source.is_some() && others.is_some()
            }
            (Self::Columns(names), Self::Columns(others)) => names == others,
            (Self::SourceId { .. }, Self::Columns(_)) | (Self::Columns(_), Self::SourceId { .. }) => false,
        }
    }

    /// Columns that rowstream writes besides those of the mapping.
    pub fn added(&self) -> Vec<&str> {
        match self {
            Self::SourceId { .. } => self.names(),
            Self::Columns(_) => Vec::new(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deletes {
    Hard,
    Keep,
    /// The row stays, and this column says that its document is gone.
    Soft {
        column: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchemaMode {
    /// The table must exist.
    Expect,
    /// rowstream creates it if it does not exist.
    Create,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDrop {
    /// A dropped collection deletes its rows, by `deletes`.
    Delete,
    Halt,
}

/// What a mapping does that says something else than when its rows were written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnMappingChange {
    /// Its collection is copied again, and compared with all rows.
    Resync,
    Halt,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ColumnSpec {
    pub name: String,
    pub value: ValueSpec,
    /// Written on insert only; an update leaves it alone.
    pub insert_only: bool,
    /// Absent or null is a rejection.
    pub required: bool,
    /// Instead of absent; of null too if the value's reading says so.
    pub default: Option<Scalar>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum ValueSpec {
    /// The first of these dotted paths that is present.
    Path {
        from: Vec<String>,
        reading: Reading,
    },
    /// The whole document, as extended JSON, without these top-level fields.
    Document {
        without: Vec<String>,
        json: JsonForm,
        /// U+0000 is taken out of its texts.
        strip_nul: bool,
    },
    /// The `_id` as its `source_id` text.
    SourceId,
    /// Commit time of the change in MongoDB. Null when it came by snapshot.
    ClusterTime,
    Constant(Scalar),
    /// The value at a path of every document that stands for the row, as a JSON array in the order of their
    /// source_ids; `distinct`: each value once.
    Collect {
        from: String,
        distinct: bool,
    },
    /// UUIDv5 of (namespace, source, source_id).
    KeyUuid,
    /// A prefix and the ULID text of that UUID.
    KeyPrefixed(String),
    /// What CEL makes of the document.
    Expression {
        expression: Expression,
        reading: Reading,
    },
    /// What the mapping's transformer gives under the column's name.
    Transformed {
        reading: Reading,
    },
    /// What stands in another row.
    Reference(Box<ReferenceSpec>),
}

/// A value that is taken from another row, and what to do while there is none.
#[derive(Debug, Clone, PartialEq)]
pub struct ReferenceSpec {
    pub aim: Aim,
    /// The array each of whose elements refers to a row, where the column is an array; then the paths of the aim
    /// are of the element.
    pub each: Option<String>,
    /// The column of the other row; `None`: the one that the column's foreign key refers to.
    pub take: Option<String>,
    pub missing: Missing,
}

/// Which row is meant.
#[derive(Debug, Clone, PartialEq)]
pub enum Aim {
    /// The row of a document, by its id.
    Document {
        to: Targets,
        /// The first of these dotted paths that is present.
        from: Vec<String>,
        strip_prefix: Option<String>,
    },
    /// The row of the document that the element is in.
    Parent,
    /// The row of any table that has these values.
    Row { table: TableName, matches: Vec<(String, MatchSpec)> },
}

/// Whose document is meant, by names of mappings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Targets {
    /// The first of them that has the row.
    First(Vec<String>),
    /// Told by another field of the document: its text → a mapping.
    By { path: String, map: Vec<(String, String)> },
}

#[derive(Debug, Clone, PartialEq)]
pub enum MatchSpec {
    Path(String),
    Constant(Scalar),
}

/// What becomes of a reference to a row that is not there (yet).
#[derive(Debug, Clone, PartialEq)]
pub enum Missing {
    /// The document is held until the row is there.
    Hold,
    Null,
    /// The id as text.
    Keep,
    /// The element has no row until then.
    Drop,
    /// The row is made, as a stub.
    Create(StubSpec),
}

/// The row that is made for a reference; its columns' paths are of the referring document.
#[derive(Debug, Clone, PartialEq)]
pub struct StubSpec {
    /// First half of the stub's key, where the table has one.
    pub source: Option<String>,
    /// Before the id, in the second half.
    pub prefix: Option<String>,
    pub columns: Vec<ColumnSpec>,
}

/// How a value is read where its type alone does not say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    UnixSeconds,
    UnixMilliseconds,
    /// RFC 3339 text: `2025-09-01T10:14:35.123Z`.
    Rfc3339,
    /// As RFC 3339, also without a zone (UTC), without seconds, or a day alone.
    Iso8601,
    /// Text in one of these formats, tried in order.
    Date(Vec<DateFormat>),
    /// Any scalar as its text.
    Text,
    /// A number written as text.
    Number,
    /// Yes or no, in words or as 1 and 0.
    Boolean,
    /// An ObjectId, also as text: its 24 hexadecimal digits in lower case.
    ObjectId,
    /// Any value as JSON.
    Json,
}

/// A constant of the file.
#[derive(Debug, Clone, PartialEq)]
pub enum Scalar {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    /// For columns that hold arrays, or JSON.
    List(Vec<Scalar>),
}
