//! Databases, targets and rows for the tests of the sink.

use std::sync::Arc;

use crate::support::servers::shared;
use rowstream::config::{Deletes, KeySpec, OnDrop, Scalar, ValueSpec};
use rowstream::domain::{
    CanonicalId, IdType, Namespace, Portion, Row, RowKey, SourceIndex, Table, TableName,
};
use rowstream::mapping::{ColumnPlan, KeyPlan, Mapping, SyncPlan};
use rowstream::sink::{self, Dropped, Outcome, Target};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

/// A database that lives as long as its test.
pub(super) struct Database {
    pub(super) name: String,
    pub(super) server: PgConnectOptions,
    pub(super) conn: PgConnection,
}

impl Database {
    pub(super) async fn create(test: &str) -> Self {
        let url = shared().await.postgres.url();
        let server: PgConnectOptions = url.parse().expect("a connection string");
        let name = format!("sink_{test}_{}", std::process::id());
        let mut admin = PgConnection::connect_with(&server).await.expect("PostgreSQL answers");
        run(&mut admin, &format!("drop database if exists {name} with (force)")).await;
        run(&mut admin, &format!("create database {name}")).await;
        let conn = PgConnection::connect_with(&server.clone().database(&name)).await.expect("new database");
        Self { name, server, conn }
    }

    pub(super) async fn drop(self) {
        self.conn.close().await.expect("close");
        let mut admin = PgConnection::connect_with(&self.server).await.expect("PostgreSQL answers");
        run(&mut admin, &format!("drop database {} with (force)", self.name)).await;
    }

    pub(super) async fn other(&self) -> PgConnection {
        PgConnection::connect_with(&self.server.clone().database(&self.name)).await.expect("second session")
    }
}

pub(super) async fn run(conn: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(conn).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
}

pub(super) async fn texts(conn: &mut PgConnection, sql: &str) -> Vec<String> {
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
        .fetch_all(conn)
        .await
        .unwrap_or_else(|e| panic!("{sql}: {e}"))
}

pub(super) fn public(name: &str) -> TableName {
    TableName { schema: "public".into(), name: name.into() }
}

pub(super) async fn table(conn: &mut PgConnection, name: &TableName) -> Table {
    sink::read_table(conn, name).await.expect("catalog").expect("table exists")
}

/// A target over the named columns of the table; a trailing `+` makes a column insert-only.
pub(super) fn target(table: &Table, key: KeySpec, names: &[&str]) -> Target {
    let columns: Vec<ColumnPlan> = names
        .iter()
        .map(|name| {
            let plain = name.trim_end_matches('+');
            let column = table.column(plain).unwrap_or_else(|| panic!("column {plain}"));
            ColumnPlan {
                name: column.name.clone(),
                column_type: column.column_type.clone(),
                type_sql: column.type_sql.clone(),
                not_null: column.not_null,
                value: ValueSpec::Constant(Scalar::Null),
                insert_only: plain != *name,
                required: false,
                default: None,
                sequence: None,
            }
        })
        .collect();
    let key = KeyPlan::new(&key, &[], &columns).expect("the key is among the columns");
    Target::new(Arc::new(Mapping {
        index: SourceIndex(0),
        source: "venmo".into(),
        namespace: Namespace { database: "db".into(), collection: "venmo".into() },
        table: table.name.clone(),
        id_type: IdType::String,
        key,
        filter: None,
        columns,
        references: Vec::new(),
        children: Vec::new(),
        deletes: Deletes::Hard,
        sync: SyncPlan::default(),
        on_drop: OnDrop::Delete,
        critical: false,
        fingerprint: table.fingerprint.clone(),
        table_oid: 1,
        transform: None,
        meaning: String::new(),
        hash: String::new(),
    }))
}

pub(super) fn both_keys() -> KeySpec {
    KeySpec::SourceId { source: Some("source".into()), source_id: "source_id".into() }
}

#[derive(Clone)]
pub(super) enum Field {
    Null,
    Int4(i32),
    Text(String),
    Jsonb(String),
    /// Base-10000 digits as numeric_send writes them.
    Numeric {
        digits: Vec<i16>,
        weight: i16,
        scale: i16,
    },
}

pub(super) fn text(value: &str) -> Field {
    Field::Text(value.into())
}

pub(super) fn canonical(id: &str) -> CanonicalId {
    let mut bytes = vec![2];
    bytes.extend_from_slice(&(id.len() as i32 + 1).to_le_bytes());
    bytes.extend_from_slice(id.as_bytes());
    bytes.push(0);
    CanonicalId::from_bytes(&bytes)
}

pub(super) fn row(id: &str, fields: &[Field]) -> Row {
    let mut tuple = (fields.len() as i16).to_be_bytes().to_vec();
    for field in fields {
        let bytes = match field {
            Field::Null => None,
            Field::Int4(value) => Some(value.to_be_bytes().to_vec()),
            Field::Text(value) => Some(value.as_bytes().to_vec()),
            Field::Jsonb(value) => Some([&[1], value.as_bytes()].concat()),
            Field::Numeric { digits, weight, scale } => Some(
                [digits.len() as i16, *weight, 0, *scale]
                    .iter()
                    .chain(digits)
                    .flat_map(|part| part.to_be_bytes())
                    .collect(),
            ),
        };
        match bytes {
            None => tuple.extend((-1_i32).to_be_bytes()),
            Some(bytes) => {
                tuple.extend((bytes.len() as i32).to_be_bytes());
                tuple.extend(bytes);
            }
        }
    }
    Row {
        id: canonical(id),
        source_id: id.into(),
        tuple: tuple.into(),
        coercions: Vec::new(),
        references: Vec::new(),
        element: 0,
        collected: None,
    }
}

/// A row keyed by ("venmo", id).
pub(super) fn venmo(id: &str, rest: &[Field]) -> Row {
    row(id, &[&[text("venmo"), text(id)], rest].concat())
}

pub(super) async fn upsert(conn: &mut PgConnection, target: &Target, rows: &[Row]) -> Outcome {
    let mut transaction = conn.begin().await.expect("begin");
    let outcome = sink::upsert(&mut transaction, target, rows, Portion::WHOLE).await.expect("upsert");
    transaction.commit().await.expect("commit");
    outcome
}

pub(super) fn counts(outcome: &Outcome) -> (u64, u64, u64, usize) {
    (outcome.inserted, outcome.updated, outcome.unchanged, outcome.rejected.len())
}

pub(super) async fn insert_new(
    conn: &mut PgConnection,
    target: &Target,
    rows: &[Row],
) -> Result<Outcome, sink::Error> {
    let mut transaction = conn.begin().await.expect("begin");
    let outcome = sink::insert_new(&mut transaction, target, rows, Portion::WHOLE).await;
    match outcome {
        Ok(_) => transaction.commit().await.expect("commit"),
        // A transaction that is only dropped keeps its locks until the session is used again.
        Err(_) => transaction.rollback().await.expect("rollback"),
    }
    outcome
}

pub(super) async fn delete(
    conn: &mut PgConnection,
    target: &Target,
    ids: &[(CanonicalId, String)],
) -> Outcome {
    let mut transaction = conn.begin().await.expect("begin");
    let keys: Vec<_> = ids.iter().map(|(id, text)| (id.clone(), RowKey::of_text(text))).collect();
    let outcome = sink::delete(&mut transaction, target, &keys, Portion::WHOLE).await.expect("delete");
    transaction.commit().await.expect("commit");
    outcome
}

pub(super) async fn drop_rows(conn: &mut PgConnection, target: &Target) -> Dropped {
    let mut transaction = conn.begin().await.expect("begin");
    let dropped = sink::drop_rows(&mut transaction, target, Portion::WHOLE).await.expect("drop");
    transaction.commit().await.expect("commit");
    dropped
}

/// Enough bytes for a first load to take the way of COPY.
pub(super) fn large(ids: std::ops::Range<i32>) -> Vec<Row> {
    ids.map(|id| venmo(&format!("{id:05}"), &[Field::Int4(id), text(&"x".repeat(1000))])).collect()
}
