//! What people ask and tell over HTTP while the pipeline runs: on a connection of its own for each request,
//! a few at a time, each over within seconds. The pipeline neither waits for it nor shares anything with it.

mod document;

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::{Connection, PgConnection};
use tokio::sync::Semaphore;

pub use document::{ClaimStatus, DocumentState, DocumentStatus, RowStatus, status};

use crate::config::Mappings;
use crate::state::held::{self, After, Filter, Group, Page};
use crate::state::lease;

/// Requests that ask the database at a time. Too low: people wait for each other. Too high: a script that asks
/// without end takes connections from the application.
const AT_ONCE: usize = 4;

/// From the request to its answer. Below the time for which an HTTP connection is kept without one.
const PATIENCE: Duration = Duration::from_secs(4);

pub type Connecting = BoxFuture<'static, Result<PgConnection, Box<dyn StdError + Send + Sync>>>;

/// Asks the state schema. Cheap to clone.
#[derive(Clone)]
pub struct Operator {
    pipeline: Arc<str>,
    lease_ttl: Duration,
    mappings: Arc<Mappings>,
    connect: Arc<dyn Fn() -> Connecting + Send + Sync>,
    places: Arc<Semaphore>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    #[error("{AT_ONCE} other requests are asking the database: try again")]
    Busy,
    #[error("postgresql does not answer within {} s", PATIENCE.as_secs())]
    Silent,
    #[error("postgresql cannot be reached")]
    Unreachable(#[source] Box<dyn StdError + Send + Sync>),
    #[error("there is no state in this database yet")]
    NoState,
    #[error("postgresql could not answer")]
    Failed(#[source] Box<dyn StdError + Send + Sync>),
}

/// What became of a request to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retried {
    pub count: u64,
    /// A daemon leads, and reads their documents within seconds.
    pub led: bool,
}

impl Operator {
    pub fn new(
        pipeline: &str,
        lease_ttl: Duration,
        mappings: Mappings,
        connect: impl Fn() -> Connecting + Send + Sync + 'static,
    ) -> Self {
        Self {
            pipeline: pipeline.into(),
            lease_ttl,
            mappings: Arc::new(mappings),
            connect: Arc::new(connect),
            places: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// At most so many at a time, and each over in time.
    async fn answer<T>(
        &self,
        asking: impl Future<Output = Result<T, Unavailable>>,
    ) -> Result<T, Unavailable> {
        let _place = self.places.try_acquire().map_err(|_| Unavailable::Busy)?;
        tokio::time::timeout(PATIENCE, asking).await.map_err(|_| Unavailable::Silent)?
    }

    async fn connection(&self) -> Result<PgConnection, Unavailable> {
        (self.connect)().await.map_err(Unavailable::Unreachable)
    }

    pub async fn held(
        &self,
        filter: &Filter,
        after: Option<&After>,
        limit: i64,
    ) -> Result<Page, Unavailable> {
        self.answer(async {
            let mut connection = self.connection().await?;
            let page = held::list(&mut connection, &self.pipeline, filter, after, limit).await;
            ended(connection, page.map_err(unavailable)).await
        })
        .await
    }

    pub async fn held_summary(&self, filter: &Filter) -> Result<Vec<Group>, Unavailable> {
        self.answer(async {
            let mut connection = self.connection().await?;
            let groups = held::summary(&mut connection, &self.pipeline, filter).await;
            ended(connection, groups.map_err(unavailable)).await
        })
        .await
    }

    pub async fn retry_held(&self, filter: &Filter) -> Result<Retried, Unavailable> {
        self.answer(async {
            let mut connection = self.connection().await?;
            let retried = retry(&mut connection, &self.pipeline, filter, self.lease_ttl).await;
            ended(connection, retried.map_err(unavailable)).await
        })
        .await
    }

    pub async fn discard_held(&self, filter: &Filter) -> Result<u64, Unavailable> {
        self.answer(async {
            let mut connection = self.connection().await?;
            let discarded = held::discard(&mut connection, &self.pipeline, filter).await;
            ended(connection, discarded.map_err(unavailable)).await
        })
        .await
    }

    pub async fn pause(&self) -> Result<(), Unavailable> {
        self.answer(async {
            let mut connection = self.connection().await?;
            let paused = lease::pause(&mut connection, &self.pipeline).await;
            ended(connection, paused.map_err(unavailable)).await
        })
        .await
    }

    /// `false`: it was not paused.
    pub async fn resume(&self) -> Result<bool, Unavailable> {
        self.answer(async {
            let mut connection = self.connection().await?;
            let resumed = lease::resume(&mut connection, &self.pipeline).await;
            ended(connection, resumed.map_err(unavailable)).await
        })
        .await
    }

    /// `None`: there is no such source.
    pub async fn document(
        &self,
        source: &str,
        source_id: &str,
    ) -> Result<Option<DocumentStatus>, Unavailable> {
        self.answer(async {
            let mut connection = self.connection().await?;
            let found = status(&mut connection, &self.pipeline, &self.mappings, source, source_id).await;
            let found = found.map_err(|error| match error {
                document::Error::State(error) => unavailable(error),
                document::Error::Target(error) => Unavailable::Failed(error.into()),
            });
            ended(connection, found).await
        })
        .await
    }
}

async fn ended<T>(connection: PgConnection, answer: Result<T, Unavailable>) -> Result<T, Unavailable> {
    let answer = answer?;
    // It has answered: how the connection ends does not matter.
    connection.close().await.ok();
    Ok(answer)
}

/// Makes held changes due, and says whether anybody is there to try them.
pub async fn retry(
    connection: &mut PgConnection,
    pipeline: &str,
    filter: &Filter,
    lease_ttl: Duration,
) -> Result<Retried, sqlx::Error> {
    let count = held::retry(connection, pipeline, filter).await?;
    let led = held::is_led(connection, pipeline, lease_ttl).await?;
    Ok(Retried { count, led })
}

fn unavailable(error: sqlx::Error) -> Unavailable {
    let is_missing = |code: &str| matches!(code, "42P01" | "3F000");
    match error.as_database_error().and_then(|database| database.code()) {
        Some(code) if is_missing(&code) => Unavailable::NoState,
        _ => Unavailable::Failed(error.into()),
    }
}

impl fmt::Debug for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operator").field("pipeline", &self.pipeline).finish_non_exhaustive()
    }
}
