//! The two databases, on servers of our own or of yours.

use std::collections::BTreeMap;
use std::env;
use std::process;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection, Executor};

use crate::expenses::{self, Collection};
use crate::servers::{Mongod, Postgres};

/// Both databases, and the servers if they are ours.
#[derive(Debug)]
pub(crate) struct Sides {
    pub(crate) mongodb: mongodb::Database,
    pub(crate) mongodb_uri: String,
    pub(crate) postgres_url: String,
    /// A name of its own on both servers, so that nothing of yours is touched.
    name: String,
    servers: Servers,
}

#[derive(Debug)]
enum Servers {
    Ours { _pair: Box<(Mongod, Postgres)> },
    Yours { postgres: Box<PgConnectOptions> },
}

/// Rows or documents of each collection.
pub(crate) type Counts = BTreeMap<Collection, i64>;

impl Sides {
    pub(crate) async fn open() -> Result<Self> {
        let given = |name| env::var(name).ok().filter(|text| !text.is_empty());
        let name = format!("rowstream_demo_{}", process::id());
        match (given("MONGODB_URI"), given("DATABASE_URL")) {
            (None, None) => Self::on_our_servers(name).await,
            (Some(uri), Some(url)) => Self::on_your_servers(name, uri, &url).await,
            _ => bail!("set both MONGODB_URI and DATABASE_URL, or none to have servers started"),
        }
    }

    async fn on_our_servers(name: String) -> Result<Self> {
        println!("starting MongoDB and PostgreSQL …");
        let (mongod, postgres) = tokio::try_join!(Mongod::start(), Postgres::start())?;
        postgres.create_database(&name).await?;
        Ok(Self {
            mongodb: expenses::database(&mongod.client().await?, &name),
            mongodb_uri: mongod.uri(),
            postgres_url: postgres.url_of(&name),
            name,
            servers: Servers::Ours { _pair: Box::new((mongod, postgres)) },
        })
    }

    async fn on_your_servers(name: String, uri: String, url: &str) -> Result<Self> {
        println!("using the servers of MONGODB_URI and DATABASE_URL, in databases named {name} …");
        let client = mongodb::Client::with_uri_str(&uri).await.context("MONGODB_URI")?;
        let options = PgConnectOptions::from_str(url).context("DATABASE_URL")?;
        let mut postgres =
            PgConnection::connect_with(&options).await.context("connecting to DATABASE_URL")?;
        postgres
            .execute(AssertSqlSafe(format!("create database {name}")))
            .await
            .context("creating a database for the demo (its user needs createdb)")?;
        Ok(Self {
            mongodb: expenses::database(&client, &name),
            mongodb_uri: uri,
            postgres_url: with_database(url, &name),
            name,
            servers: Servers::Yours { postgres: Box::new(options) },
        })
    }

    /// Removes what was made on servers of yours. Those of ours go with all they hold.
    pub(crate) async fn close(self) {
        let Servers::Yours { postgres } = &self.servers else { return };
        if let Err(error) = self.mongodb.drop().await {
            println!("database {} stays in MongoDB: {error}", self.name);
        }
        let dropped = async {
            let mut connection = PgConnection::connect_with(postgres).await?;
            connection.execute(AssertSqlSafe(format!("drop database {} with (force)", self.name))).await
        };
        if let Err(error) = dropped.await {
            println!("database {} stays in PostgreSQL: {error}", self.name);
        }
    }

    pub(crate) async fn postgres(&self) -> Result<PgConnection> {
        PgConnection::connect(&self.postgres_url).await.context("connecting to PostgreSQL")
    }

    /// What to type to look inside.
    pub(crate) fn psql_line(&self) -> String {
        let psql = match self.servers {
            Servers::Ours { .. } => Postgres::psql(),
            Servers::Yours { .. } => None,
        };
        let psql = psql.map_or_else(|| "psql".into(), |path| path.display().to_string());
        // Your URL may hold a password: it is not shown.
        match self.servers {
            Servers::Ours { .. } => format!("{psql} {}", self.postgres_url),
            Servers::Yours { .. } => format!("{psql} … (DATABASE_URL with database {})", self.name),
        }
    }

    /// What to hand to a MongoDB client.
    pub(crate) fn mongodb_line(&self) -> String {
        match self.servers {
            Servers::Ours { .. } => format!("{} (database {})", self.mongodb_uri, self.name),
            Servers::Yours { .. } => format!("MONGODB_URI (database {})", self.name),
        }
    }

    pub(crate) fn mongodb_name(&self) -> &str {
        &self.name
    }

    pub(crate) async fn documents(&self) -> Result<Counts> {
        let mut counts = Counts::new();
        for collection in Collection::ALL {
            let handle = self.mongodb.collection::<bson::Document>(collection.name());
            counts.insert(collection, handle.estimated_document_count().await?.try_into()?);
        }
        Ok(counts)
    }

    pub(crate) async fn rows(&self, postgres: &mut PgConnection) -> Result<Counts> {
        let mut counts: Counts = Collection::ALL.map(|collection| (collection, 0)).into();
        let by_source: Vec<(String, i64)> =
            sqlx::query_as("select source::text, count(*) from transactions group by 1")
                .fetch_all(&mut *postgres)
                .await?;
        for collection in Collection::ALL {
            if collection.is_transaction() {
                let found = by_source.iter().find(|(source, _)| source == collection.source());
                counts.insert(collection, found.map_or(0, |(_, count)| *count));
                continue;
            }
            if table_exists(postgres, collection).await? {
                let sql = format!("select count(*) from {}", collection.source());
                let count = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut *postgres).await?;
                counts.insert(collection, count);
            }
        }
        Ok(counts)
    }
}

/// The same server and parameters, another database: by hand, since what sqlx would write has parameters of its
/// own that no other program knows.
fn with_database(url: &str, database: &str) -> String {
    let (place, parameters) =
        url.split_once('?').map_or((url, String::new()), |(place, rest)| (place, format!("?{rest}")));
    let host_at = place.find("://").map_or(0, |at| at + 3);
    let end = place[host_at..].find('/').map_or(place.len(), |slash| host_at + slash);
    format!("{}/{database}{parameters}", &place[..end])
}

/// rowstream makes the tables of whole documents; until then they have no rows.
pub(crate) async fn table_exists(postgres: &mut PgConnection, collection: Collection) -> Result<bool> {
    let exists = sqlx::query_scalar("select to_regclass($1) is not null").bind(collection.source());
    Ok(exists.fetch_one(postgres).await?)
}
