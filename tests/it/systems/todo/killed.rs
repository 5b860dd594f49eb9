//! Tasks and what belongs to them come and go while rowstream is killed.

use anyhow::Result;

use super::documents::{Size, Todo};
use super::{TODO, as_in_mongodb, load};
use crate::systems::churn::killed_while_documents_come_and_go;
use crate::systems::scene::Scene;

#[tokio::test]
async fn todo_killed_while_documents_come_and_go_it_ends_with_the_same_rows() -> Result<()> {
    let mut scene = Scene::set(TODO, "killed").await?;
    load(&scene, &Todo::generate(50, Size::SMALL)).await?;
    killed_while_documents_come_and_go(&mut scene, 51).await?;
    as_in_mongodb(&scene).await
}
