//! Everything of a CRM, with its pairs and references, comes and goes while rowstream is killed.

use anyhow::Result;

use super::Crm;
use super::generator::{Size, generate};
use crate::systems::churn::killed_while_documents_come_and_go;
use crate::systems::scene::Held;

#[tokio::test]
async fn nextcrm_killed_while_documents_come_and_go_it_ends_with_the_same_rows() -> Result<()> {
    let mut crm = Crm::set("killed").await?;
    crm.load(&generate(50, Size::Small)).await?;
    killed_while_documents_come_and_go(&mut crm.scene, 51).await?;
    crm.becomes_right().await?;
    crm.scene.holds(&Held::new()).await
}
