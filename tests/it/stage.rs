//! A test's own MongoDB database and PostgreSQL database, and words to work with both.

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

    /// The same names as `other`, and its PostgreSQL, on another mongod.
    pub(crate) async fn beside(mongod: &Mongod, other: &Self) -> Result<Self> {
        let name = other.name.clone();
        Self::at(name.clone(), mongod.uri_of(&name), other.postgres_url.clone()).await
    }

    async fn at(name: String, mongodb_uri: String, postgres_url: String) -> Result<Self> {
        let client = Client::with_uri_str(&mongodb_uri).await?;
        let database = client.database(&name);
        Ok(Self { name, mongodb_uri, postgres_url, client, database })
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

    pub(crate) async fn execute(&self, sql: &str) -> Result<()> {
        let mut connection = self.postgres().await?;
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).execute(&mut connection).await?;
        connection.close().await?;
        Ok(())
    }

    /// The first column of the first row, as text.
    pub(crate) async fn text(&self, sql: &str) -> Result<Option<String>> {
        let mut connection = self.postgres().await?;
        let sql = format!("select found.first::text from ({sql}) as found(first)");
        let found: Option<Option<String>> =
            sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_optional(&mut connection).await?;
        connection.close().await?;
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

/// Documents `{_id: <number>, n: <number>, text: …}` from `from` to `to`.
pub(crate) fn numbered(from: i64, to: i64) -> impl Iterator<Item = Document> {
    (from..to).map(|n| doc! { "_id": Bson::Int64(n), "n": n, "text": format!("document {n}") })
}
