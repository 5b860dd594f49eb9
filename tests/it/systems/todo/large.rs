//! At least 10,000 rows in every table that grows.

use anyhow::Result;

use super::documents::{Collection, Size, Todo};
use super::{TODO, as_in_mongodb, load};
use crate::systems::scene::Scene;

#[tokio::test]
async fn todo_every_look_up_of_a_large_set_uses_an_index() -> Result<()> {
    let mut scene = Scene::set(TODO, "large").await?;
    let todo = Todo::generate(30, Size::LARGE);
    for collection in Collection::ALL {
        let fixed = matches!(collection, Collection::Labels | Collection::Roles | Collection::Counters);
        assert!(fixed || todo.of(collection).len() >= 10_000, "{}", collection.name());
    }
    load(&scene, &todo).await?;
    scene.start()?;
    as_in_mongodb(&scene).await?;
    scene.queries_use_indexes(1_000).await
}

#[tokio::test]
async fn todo_a_large_set_arrives_while_it_is_followed() -> Result<()> {
    let mut scene = Scene::set(TODO, "large_stream").await?;
    scene.start()?;
    scene.settles().await?;
    load(&scene, &Todo::generate(31, Size::LARGE)).await?;
    as_in_mongodb(&scene).await
}
