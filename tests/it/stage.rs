//! A test's own MongoDB database and PostgreSQL database, and words to work with both.

use std::ops::{Deref, DerefMut};
use std::sync::Mutex;

use anyhow::{Context, Result};
use bson::{Bson, Document, doc};
use mongodb::options::{Acknowledgment, WriteConcern};
use mongodb::{Client, Collection, Database};
use sqlx::{Connection, PgConnection};

use crate::daemon::{self, Daemon, PATIENCE};
use crate::oracle;
use crate::support::servers::{Mongod, Postgres, fresh_database};
use crate::support::until;

/// Both databases of a test.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) name: String,
    pub(crate) mongodb_uri: String,
    pub(crate) postgres_url: String,
    pub(crate) client: Client,
    pub(crate) database: Database,
    /// Of whoever looked last. Most looks are polls, and a new session costs PostgreSQL more than what is asked.
    idle: Mutex<Option<PgConnection>>,
}

impl Stage {
    /// On the servers that all tests share.
    pub(crate) async fn new(name: &str) -> Result<Self> {
        let databases = fresh_database(name).await?;
        Self::at(databases.name, databases.mongodb_uri, databases.postgres_url).await
    }

    /// On servers of the test's own, which it may harm.
    pub(crate) async fn on(mongod: &Mongod, postgres: &Postgres) -> Result<Self> {
        postgres.create_database("app").await?;
        Self::at("app".into(), mongod.uri_of("app"), postgres.url_of("app")).await
    }

    /// On a mongod of the test's own, and the PostgreSQL that all tests share.
    pub(crate) async fn with_mongod(mongod: &Mongod, name: &str) -> Result<Self> {
        let databases = fresh_database(name).await?;
        Self::at(databases.name.clone(), mongod.uri_of(&databases.name), databases.postgres_url).await
    }

    /// The same, as another PostgreSQL has it.
    pub(crate) fn on_postgres(&self, postgres_url: String) -> Self {
        Self {
            name: self.name.clone(),
            mongodb_uri: self.mongodb_uri.clone(),
            postgres_url,
            client: self.client.clone(),
            database: self.database.clone(),
            idle: Mutex::default(),
        }
    }

    /// The same names as `other`, and its PostgreSQL, on another mongod.
    pub(crate) async fn beside(mongod: &Mongod, other: &Self) -> Result<Self> {
        let name = other.name.clone();
        Self::at(name.clone(), mongod.uri_of(&name), other.postgres_url.clone()).await
    }

    async fn at(name: String, mongodb_uri: String, postgres_url: String) -> Result<Self> {
        let client = Client::with_uri_str(&mongodb_uri).await?;
        let database = client.database(&name);
        Ok(Self { name, mongodb_uri, postgres_url, client, database, idle: Mutex::default() })
    }

    /// Writes wait for the majority, so that they are visible to streams when they return.
    pub(crate) fn collection(&self, name: &str) -> Collection<Document> {
        let concern = WriteConcern::builder().w(Acknowledgment::Majority).build();
        let options = mongodb::options::CollectionOptions::builder().write_concern(concern).build();
        self.database.collection_with_options(name, options)
    }

    pub(crate) async fn postgres(&self) -> Result<PgConnection> {
        PgConnection::connect(&self.postgres_url).await.context("postgresql")
    }

    /// A session to look with, in UTC: the last one that was given back, if it still answers.
    pub(crate) async fn session(&self) -> Result<Session<'_>> {
        let idle = self.idle.lock().expect("nobody panics with it in hand").take();
        if let Some(mut connection) = idle
            && connection.ping().await.is_ok()
        {
            return Ok(Session { stage: self, connection: Some(connection) });
        }
        Ok(Session { stage: self, connection: Some(self.postgres().await?) })
    }

    pub(crate) async fn execute(&self, sql: &str) -> Result<()> {
        let mut connection = self.postgres().await?;
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).execute(&mut connection).await?;
        connection.close().await?;
        Ok(())
    }

    /// The first column of the first row, as text.
    pub(crate) async fn text(&self, sql: &str) -> Result<Option<String>> {
        let mut session = self.session().await?;
        let sql = format!("select found.first::text from ({sql}) as found(first)");
        // Not prepared: tests alter what they look at.
        let query = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).persistent(false);
        let found: Option<Option<String>> = query.fetch_optional(&mut *session).await?;
        Ok(found.flatten())
    }

    pub(crate) async fn number(&self, sql: &str) -> Result<i64> {
        let text = self.text(sql).await?.context("no row")?;
        Ok(text.parse()?)
    }

    pub(crate) fn config(&self, mappings: &str) -> String {
        daemon::config(&self.mongodb_uri, &self.postgres_url, mappings)
    }

    /// One collection as whole documents, mapped by name.
    pub(crate) fn whole(&self, collection: &str) -> String {
        format!(
            "  - {{ source: {collection}, collection: \"{}.{collection}\", table: {collection}, allow_empty: true }}\n",
            self.name
        )
    }

    /// Waits until everything written so far is applied: a marker document has arrived in `collection`,
    /// and left again.
    pub(crate) async fn settled(&self, daemon: &Daemon, collection: &str) -> Result<()> {
        let marker = format!("marker {}", bson::oid::ObjectId::new());
        let documents = self.collection(collection);
        documents.insert_one(doc! { "_id": &marker }).await?;
        let count = format!("select count(*) from \"{collection}\" where source_id like '%{marker}'");
        for (gone, expected) in [(false, 1), (true, 0)] {
            if gone {
                documents.delete_one(doc! { "_id": &marker }).await?;
            }
            until("the marker to pass through", PATIENCE, async || {
                Ok((self.number(&count).await.unwrap_or(-1) == expected).then_some(()))
            })
            .await
            .with_context(|| daemon.last_words())?;
        }
        Ok(())
    }

    /// Every document of the collection equals its row, by value and by count.
    pub(crate) async fn equal(&self, collection: &str, id_type: oracle::Plain) -> Result<()> {
        let differences = oracle::whole_documents(self, collection, id_type).await?;
        anyhow::ensure!(
            differences.is_empty(),
            "{} differences in {collection}, the first ones: {:#?}",
            differences.len(),
            &differences[..differences.len().min(10)]
        );
        Ok(())
    }

    /// As `equal`, once the pipeline had the time to get there.
    pub(crate) async fn becomes_equal(
        &self,
        daemon: &Daemon,
        collection: &str,
        id_type: oracle::Plain,
    ) -> Result<()> {
        let mut last = Vec::new();
        let equal = until("both sides to be equal", PATIENCE, async || {
            last = oracle::whole_documents(self, collection, id_type)
                .await
                .unwrap_or_else(|error| vec![error.to_string()]);
            Ok(last.is_empty().then_some(()))
        })
        .await;
        equal.with_context(|| {
            format!("{} differences: {:#?}\n{}", last.len(), &last[..last.len().min(5)], daemon.last_words())
        })
    }
}

/// Of [`Stage::session`]; given back when dropped, so it must not be altered. Two lookers at once have two.
#[derive(Debug)]
pub(crate) struct Session<'s> {
    stage: &'s Stage,
    connection: Option<PgConnection>,
}

impl Deref for Session<'_> {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.connection.as_ref().expect("it is given back only by drop")
    }
}

impl DerefMut for Session<'_> {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.connection.as_mut().expect("it is given back only by drop")
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        *self.stage.idle.lock().expect("nobody panics with it in hand") = self.connection.take();
    }
}

/// Waits until a query says this; no row and null are the empty text.
pub(crate) async fn says(stage: &Stage, daemon: &Daemon, sql: &str, wanted: &str) -> Result<()> {
    let mut last = None;
    let reached = until(sql, PATIENCE, async || {
        last = stage.text(sql).await.ok().map(Option::unwrap_or_default);
        Ok((last.as_deref() == Some(wanted)).then_some(()))
    });
    reached.await.with_context(|| format!("wanted {wanted:?}, found {last:?}; {}", daemon.last_words()))
}

/// As `says`, for a number.
pub(crate) async fn becomes(stage: &Stage, daemon: &Daemon, sql: &str, number: i64) -> Result<()> {
    says(stage, daemon, sql, &number.to_string()).await
}

/// Documents `{_id: <number>, n: <number>, text: …}` from `from` to `to`.
pub(crate) fn numbered(from: i64, to: i64) -> impl Iterator<Item = Document> {
    (from..to).map(|n| doc! { "_id": Bson::Int64(n), "n": n, "text": format!("document {n}") })
}
