//! What a transaction begins and ends with keeps out everybody who must not write.

use std::time::Duration;

use anyhow::Result;
use rowstream::state::lease::{Acquired, Epoch};
use rowstream::state::{self, lease, transaction};
use sqlx::{Connection, PgConnection};

use crate::support::servers::fresh_database;

const PIPELINE: &str = r"it's a \pipeline";
const TTL: Duration = Duration::from_secs(60);

struct Leader {
    connection: PgConnection,
    url: String,
    epoch: Epoch,
}

impl Leader {
    /// Holds the lease.
    async fn new(name: &str) -> Result<Self> {
        let url = fresh_database(name).await?.postgres_url;
        let mut connection = PgConnection::connect(&url).await?;
        state::migrate(&mut connection).await?;
        let acquired = lease::acquire(&mut connection, PIPELINE, "leader", TTL).await?;
        let Acquired::Leader(epoch) = acquired else { anyhow::bail!("{acquired:?}") };
        sqlx::raw_sql("create table written (n int)").execute(&mut connection).await?;
        transaction::prepare(&mut connection, &[lease::prepare_fence(PIPELINE, epoch)]).await?;
        Ok(Self { connection, url, epoch })
    }

    /// Whether the fence let it.
    async fn begins(&mut self) -> Result<bool> {
        let answers = transaction::begin(&mut self.connection, &[lease::EXECUTE_FENCE.to_owned()]).await?;
        Ok(answers.iter().any(lease::is_fence))
    }

    async fn writes(&mut self) -> Result<()> {
        sqlx::raw_sql("insert into written values (1)").execute(&mut self.connection).await?;
        Ok(())
    }

    async fn another(&self) -> Result<PgConnection> {
        Ok(PgConnection::connect(&self.url).await?)
    }

    async fn rows(&self) -> Result<i64> {
        Ok(sqlx::query_scalar("select count(*) from written").fetch_one(&mut self.another().await?).await?)
    }
}

#[tokio::test]
async fn whoever_leads_begins_and_commits() -> Result<()> {
    let mut leader = Leader::new("fence_commit").await?;
    for rows in 1..=2 {
        assert!(leader.begins().await?);
        leader.writes().await?;
        transaction::commit(&mut leader.connection).await?;
        assert_eq!(leader.rows().await?, rows);
    }
    Ok(())
}

#[tokio::test]
async fn whoever_lost_the_lease_does_not_begin() -> Result<()> {
    let mut leader = Leader::new("fence_lost").await?;
    let mut other = leader.another().await?;
    let acquired = lease::acquire(&mut other, PIPELINE, "leader", TTL).await?;
    let Acquired::Leader(epoch) = acquired else { anyhow::bail!("{acquired:?}") };
    assert!(epoch > leader.epoch);
    assert!(!leader.begins().await?);
    Ok(())
}

#[tokio::test]
async fn a_transaction_that_was_left_open_is_not_gone_on_with() -> Result<()> {
    let mut leader = Leader::new("fence_open").await?;
    assert!(leader.begins().await?);
    leader.writes().await?;
    assert!(!leader.begins().await?, "its rows would be committed with those of the next");
    assert_eq!(leader.rows().await?, 0);
    Ok(())
}

/// PostgreSQL answers ROLLBACK to its commit, and calls that no error.
#[tokio::test]
async fn a_transaction_that_has_failed_is_not_taken_for_committed() -> Result<()> {
    let mut leader = Leader::new("fence_failed").await?;
    assert!(leader.begins().await?);
    leader.writes().await?;
    let failed = sqlx::raw_sql("select 1 / 0").execute(&mut leader.connection).await;
    assert!(failed.is_err());
    let error = transaction::commit(&mut leader.connection).await.expect_err("nothing was committed");
    let code = error.as_database_error().and_then(|error| error.code().map(String::from));
    assert_eq!(code.as_deref(), Some("25P02"));
    assert_eq!(leader.rows().await?, 0);
    Ok(())
}
