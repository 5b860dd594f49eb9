//! What a transaction begins and ends with keeps out everybody who must not write.

use std::time::Duration;

use anyhow::{Context, Result};
use rowstream::domain::{ClusterTime, Position, ResumeToken};
use rowstream::state::lease::{Acquired, Epoch};
use rowstream::state::{self, checkpoint, lease, transaction};
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
    /// Holds the lease, and left the checkpoint at 0.
    async fn new(name: &str) -> Result<Self> {
        let url = fresh_database(name).await?.postgres_url;
        let mut connection = PgConnection::connect(&url).await?;
        state::migrate(&mut connection).await?;
        let acquired = lease::acquire(&mut connection, PIPELINE, "leader", TTL).await?;
        let Acquired::Leader(epoch) = acquired else { anyhow::bail!("{acquired:?}") };
        checkpoint::start(&mut connection, PIPELINE, epoch, ClusterTime::new(1, 0), "scope").await?;
        sqlx::raw_sql("create table written (n int)").execute(&mut connection).await?;
        let statements = [
            lease::prepare_fence(PIPELINE, epoch),
            checkpoint::prepare_advance(PIPELINE, epoch, "another scope"),
        ];
        transaction::prepare(&mut connection, &statements).await?;
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

    async fn commits_behind(&mut self, seq: i64) -> Result<(), sqlx::Error> {
        let position =
            Position { token: Some(ResumeToken(vec![0, 0x5c, 0xff])), time: ClusterTime::new(7, 3) };
        let advance = checkpoint::advance(seq, &position);
        transaction::commit(&mut self.connection, Some(&advance)).await
    }

    async fn another(&self) -> Result<PgConnection> {
        Ok(PgConnection::connect(&self.url).await?)
    }

    async fn rows(&self) -> Result<i64> {
        Ok(sqlx::query_scalar("select count(*) from written").fetch_one(&mut self.another().await?).await?)
    }
}

#[tokio::test]
async fn rows_and_checkpoint_are_committed_by_one_command() -> Result<()> {
    let mut leader = Leader::new("fence_commit").await?;
    assert!(leader.begins().await?);
    leader.writes().await?;
    leader.commits_behind(0).await?;
    assert_eq!(leader.rows().await?, 1);
    let left = checkpoint::load(&mut leader.connection, PIPELINE).await?.context("no checkpoint")?;
    assert_eq!((left.seq, left.scope_hash.as_str()), (1, "another scope"));
    assert_eq!(left.position.token, Some(ResumeToken(vec![0, 0x5c, 0xff])));
    assert_eq!(left.position.time, ClusterTime::new(7, 3));
    Ok(())
}

#[tokio::test]
async fn a_checkpoint_that_is_not_where_it_was_left_takes_the_rows_back() -> Result<()> {
    let mut leader = Leader::new("fence_seq").await?;
    assert!(leader.begins().await?);
    leader.writes().await?;
    let error = leader.commits_behind(5).await.expect_err("there was no fifth commit");
    assert!(checkpoint::is_not_ours(&error), "{error}");
    assert_eq!(leader.rows().await?, 0);
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
