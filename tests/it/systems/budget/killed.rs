//! Entries come and go while rowstream is killed.

use anyhow::Result;

use super::{becomes_expected, loaded};
use crate::systems::churn::killed_while_documents_come_and_go;
use crate::systems::scene::Held;

#[tokio::test]
async fn budget_killed_while_documents_come_and_go_it_ends_with_the_same_rows() -> Result<()> {
    let mut scene = loaded("killed", 50, 300).await?;
    killed_while_documents_come_and_go(&mut scene, 51).await?;
    becomes_expected(&scene).await?;
    scene.holds(&Held::new()).await
}
