//! Transactions, accounts and events come and go while rowstream is killed.

use anyhow::Result;

use super::{becomes_expected, handful, loaded};
use crate::systems::churn::killed_while_documents_come_and_go;

#[tokio::test]
async fn expenses_killed_while_documents_come_and_go_it_ends_with_the_same_rows() -> Result<()> {
    let mut scene = loaded("killed", &handful()).await?;
    killed_while_documents_come_and_go(&mut scene, 51).await?;
    becomes_expected(&scene).await
}
