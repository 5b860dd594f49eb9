//! Tables that the application's own dual write has half filled: rows with ids of their own, some without
//! `mongo_id`, with the mistakes that it is known for.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context, Result};

use super::documents::{Collection, Size, Todo};
use super::{TODO, as_in_mongodb, expected, load};
use crate::systems::scene::Scene;

/// The tables of `expected`, and whether a row without `mongo_id` can be told by another unique key.
const TABLES: [(&str, &str, bool); 11] = [
    ("users", "postgres_users", true),
    ("teams", "postgres_teams", true),
    ("tasks", "postgres_tasks", false),
    ("assignments", "postgres_task_assignments", false),
    ("members", "postgres_user_team_details", true),
    ("user_roles", "postgres_user_roles", false),
    ("labels", "postgres_labels", true),
    ("roles", "postgres_roles", true),
    ("watchlist", "postgres_watchlist", true),
    ("audit_logs", "postgres_audit_logs", false),
    ("invite_codes", "postgres_team_creation_invite_codes", true),
];

fn quoted(value: Option<&str>) -> String {
    value.map_or("null".to_owned(), |value| format!("'{}'", value.replace('\'', "''")))
}

/// Fills two rows of three, as an earlier script did; returns which id the row of each document has.
async fn dual_write(scene: &Scene, todo: &Todo) -> Result<BTreeMap<(&'static str, String), i64>> {
    let mut ids = BTreeMap::new();
    for table in expected::tables(todo)? {
        let Some((_, name, adoptable)) = TABLES.into_iter().find(|(of, ..)| *of == table.name) else {
            continue;
        };
        let mut insert = String::new();
        for (number, (mongo_id, row)) in (0_i64..).zip(&table.rows).filter(|(number, _)| number % 3 > 0) {
            let id = 5_000 + 7 * number;
            ids.insert((name, mongo_id.clone()), id);
            let known = (number % 3 == 1 || !adoptable).then_some(mongo_id.as_str());
            let mut columns = "id, mongo_id, last_sync_at".to_owned();
            let mut values = format!("{id}, {}, now()", quoted(known));
            for (column, value) in row {
                write!(columns, ", {column}")?;
                // It set created_at to now, and forgot updates.
                match column.as_str() {
                    "created_at" => values.push_str(", now()"),
                    "description" => values.push_str(", 'as it was'"),
                    _ => write!(values, ", {}", quoted(value.as_deref()))?,
                }
            }
            writeln!(insert, "insert into {name} ({columns}) values ({values});")?;
        }
        writeln!(
            insert,
            "select setval(pg_get_serial_sequence('{name}', 'id'), (select max(id) from {name}));"
        )?;
        scene.stage.execute(&insert).await.with_context(|| name.to_owned())?;
    }
    // The labels of a task were lost or are old ones, deferrals are of another day.
    scene
        .stage
        .execute(
            "insert into postgres_task_labels (task_id, label_mongo_id)
                 select id, repeat('6', 24) from postgres_tasks where id % 2 = 0;
             insert into postgres_deferred_details (task_id, deferred_by)
                 select id, created_by from postgres_tasks where id % 5 = 0",
        )
        .await?;
    Ok(ids)
}

async fn id_of(scene: &Scene, table: &str, mongo_id: &str) -> Result<i64> {
    scene.stage.number(&format!("select id from {table} where mongo_id = '{mongo_id}'")).await
}

#[tokio::test]
async fn todo_rows_of_the_dual_write_are_taken_over_and_keep_their_ids() -> Result<()> {
    let mut scene = Scene::set(TODO, "half_filled").await?;
    let todo = Todo::generate(50, Size::SMALL);
    load(&scene, &todo).await?;
    let ids = dual_write(&scene, &todo).await?;
    assert!(ids.len() > 400);
    scene.start()?;
    as_in_mongodb(&scene).await?;
    for ((table, mongo_id), id) in &ids {
        assert_eq!(id_of(&scene, table, mongo_id).await?, *id, "{table} {mongo_id}");
    }
    scene.verifies(100)?;
    // The application goes on with its own sequences.
    scene
        .stage
        .execute(
            "insert into postgres_labels (name, color, created_at, last_sync_at, sync_status)
                 values ('Own', '#000000', now(), now(), 'PENDING');
             insert into postgres_deferred_details (task_id)
                 select id from postgres_tasks as t where not exists
                     (select from postgres_deferred_details as d where d.task_id = t.id) limit 1",
        )
        .await?;
    Ok(())
}

#[tokio::test]
async fn todo_rows_that_the_dual_write_adds_while_it_is_followed_are_taken_over() -> Result<()> {
    let (scene, todo) = super::copied("dual_write", 51).await?;
    let insert = "insert into postgres_users
        (google_id, email_id, name, created_at, last_sync_at, sync_status)
        values ('dual', 'dual@example.org', 'Dual', now(), now(), 'SYNCED') returning id";
    scene.stage.execute(insert).await?;
    let id = scene.stage.number("select id from postgres_users where google_id = 'dual'").await?;
    let mut user = todo.of(Collection::Users)[0].clone();
    user.insert("_id", Collection::Users.id(700));
    user.insert("google_id", "dual");
    user.insert("email_id", "dual@example.org");
    super::documents(&scene, Collection::Users).insert_one(user).await?;
    as_in_mongodb(&scene).await?;
    assert_eq!(id_of(&scene, "postgres_users", &Collection::Users.id(700).to_hex()).await?, id);
    Ok(())
}
