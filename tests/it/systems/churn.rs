//! Documents leave and come back as they were, of all collections of a system, while the daemon is killed at
//! moments that nobody chose: in the end everything is as at the beginning.

use anyhow::Result;
use bson::{Bson, Document, doc};
use futures_util::TryStreamExt;

use super::scene::Scene;
use crate::writer::Random;

const KILLS: usize = 3;

/// Starts the daemon, too; the first kills come in the middle of the copy. Same `seed`, same documents.
#[expect(clippy::print_stdout, reason = "a failing test shows its seed")]
pub(super) async fn killed_while_documents_come_and_go(scene: &mut Scene, seed: u64) -> Result<()> {
    println!("the seed: {seed}");
    let mut random = Random(seed);
    let mut names = scene.stage.database.list_collection_names().await?;
    names.sort();
    let mut gone: Vec<(String, Document)> = Vec::new();
    scene.start()?;
    for _ in 0..KILLS {
        for _ in 0..=random.below(12) {
            let name = &names[random.below(names.len() as i64) as usize];
            let collection = scene.stage.collection(name);
            let count = collection.count_documents(doc! {}).await?;
            let some = collection.find(doc! {}).sort(doc! { "_id": 1 });
            let skip = random.below(i64::try_from(count)?) as u64;
            let some: Vec<Document> = some.skip(skip).limit(1 + random.below(4)).await?.try_collect().await?;
            let ids: Vec<Bson> = some.iter().filter_map(|document| document.get("_id").cloned()).collect();
            collection.delete_many(doc! { "_id": { "$in": ids } }).await?;
            gone.extend(some.into_iter().map(|document| (name.clone(), document)));
            // Others than those that left just now.
            for _ in 0..random.below(4).min(gone.len() as i64) {
                let (name, document) = gone.swap_remove(random.below(gone.len() as i64) as usize);
                scene.stage.collection(&name).insert_one(document).await?;
            }
        }
        scene.dies().await?;
        scene.start()?;
    }
    for (name, document) in gone {
        scene.stage.collection(&name).insert_one(document).await?;
    }
    Ok(())
}
