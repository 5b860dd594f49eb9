//! What is there when rowstream comes.

use anyhow::Result;

use super::documents::{Size, Todo};
use super::{TODO, as_in_mongodb, copied, load};
use crate::systems::scene::{Coercions, Scene};

#[tokio::test]
async fn todo_eleven_collections_become_thirteen_tables_by_snapshot() -> Result<()> {
    let (mut scene, todo) = copied("snapshot", 1).await?;
    assert!((100..=1_000).contains(&todo.count()));
    // Each kind of row is there, the children too: nothing above holds for want of data.
    for table in ["task_labels", "deferred_details", "user_roles", "watchlist", "labels"] {
        let count = format!("select count(*) from postgres_{table}");
        assert!(scene.stage.number(&count).await? > 5, "{table}");
    }
    scene.stop().await
}

#[tokio::test]
async fn todo_a_second_run_writes_no_row_again() -> Result<()> {
    let versions =
        "select string_agg(concat_ws(' ', id, xmin, last_sync_at), ', ' order by id) from postgres_tasks";
    let (mut scene, _) = copied("again", 2).await?;
    let before = scene.stage.text(versions).await?;
    scene.stop().await?;
    scene.stage.execute("drop schema rowstream cascade").await?;
    scene.start()?;
    as_in_mongodb(&scene).await?;
    assert_eq!(
        scene.stage.text(versions).await?,
        before,
        "equal rows are left alone, their last_sync_at too"
    );
    Ok(())
}

#[tokio::test]
async fn todo_the_oldest_documents_and_stray_fields_pass_exactly() -> Result<()> {
    let mut scene = Scene::set(TODO, "oddities").await?;
    let todo = Todo::generate(3, Size { tasks: 400, ..Size::SMALL });
    load(&scene, &todo).await?;
    scene.start()?;
    as_in_mongodb(&scene).await?;
    let foreign = "select count(*) from postgres_tasks where length(created_by) = 20";
    assert_eq!(scene.stage.number(foreign).await?, 8, "ids of another system");
    assert_eq!(scene.coercions().await?, Coercions::new(), "nothing of it is altered");
    assert_eq!(scene.stage.number("select count(*) from rowstream.wait").await?, 0, "nor missing");
    Ok(())
}
