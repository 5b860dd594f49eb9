//! What the tests, the benchmarks and the demo share: real servers, and an expense tracker's data.
//!
//! Each of them takes this folder in as a module: `#[path = "../support/mod.rs"] mod support;`.

#![allow(dead_code, reason = "each includer uses a part; an `expect` would fail where all is used")]

pub(crate) mod expenses;
pub(crate) mod pooler;
pub(crate) mod proxy;
pub(crate) mod servers;

use std::time::{Duration, Instant};

use anyhow::bail;

/// Polls until `probe` has something to give. For what cannot tell us when it happens: another process.
pub(crate) async fn until<T>(
    what: &str,
    limit: Duration,
    mut probe: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    /// Short beside what is waited for (servers starting, rows arriving), long beside a query.
    const INTERVAL: Duration = Duration::from_millis(20);
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = probe().await? {
            return Ok(found);
        }
        if Instant::now() > deadline {
            bail!("{what} did not come about within {limit:?}");
        }
        tokio::time::sleep(INTERVAL).await;
    }
}
