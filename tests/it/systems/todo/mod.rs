//! A task manager leaves MongoDB for the tables of its Django models: serial keys with `mongo_id`, ids and moments
//! in two spellings, a label junction and a one-to-one table under deferred foreign keys, sync columns.

mod bad;
mod documents;
mod expected;
mod half_filled;
mod killed;
mod large;
mod snapshot;
mod stream;

use anyhow::Result;
use bson::{Document, doc};
use futures_util::TryStreamExt;
use mongodb::{Collection as Documents, Database};

use self::documents::{Collection, Size, Todo};
use crate::systems::scene::{Held, Scene, System, system};

pub(super) const TODO: System = system!("todo", "todo");

async fn load(scene: &Scene, todo: &Todo) -> Result<()> {
    for collection in Collection::ALL {
        let documents = todo.of(collection);
        if !documents.is_empty() {
            scene.load(collection.name(), documents).await?;
        }
    }
    Ok(())
}

/// A scene that holds a small set, copied.
async fn copied(test: &str, seed: u64) -> Result<(Scene, Todo)> {
    let mut scene = Scene::set(TODO, test).await?;
    let todo = Todo::generate(seed, Size::SMALL);
    load(&scene, &todo).await?;
    scene.start()?;
    as_in_mongodb(&scene).await?;
    Ok((scene, todo))
}

fn documents(scene: &Scene, collection: Collection) -> Documents<Document> {
    scene.stage.collection(collection.name())
}

/// What MongoDB holds now.
async fn present(database: &Database) -> Result<Todo> {
    let mut todo = Todo::default();
    for collection in Collection::ALL {
        let found = database.collection::<Document>(collection.name()).find(doc! {}).await?;
        todo.set(collection, found.try_collect().await?);
    }
    Ok(todo)
}

/// Every table becomes what the documents say, and nothing is held.
async fn as_in_mongodb(scene: &Scene) -> Result<()> {
    scene.becomes(&expected::tables(&present(&scene.stage.database).await?)?).await?;
    scene.holds(&Held::new()).await
}
