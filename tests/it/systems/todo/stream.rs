//! What changes while rowstream follows.

use anyhow::{Context, Result};
use bson::oid::ObjectId;
use bson::{Bson, Document, doc};
use futures_util::TryStreamExt;

use super::documents::{Collection, Size, Todo, date, iso, text};
use super::{TODO, as_in_mongodb, copied, documents, load};
use crate::systems::scene::Scene;

/// 2025-09-01T10:14:35.123456Z
const NOW: i64 = 1_756_721_675_123_456;

async fn update(scene: &Scene, collection: Collection, id: ObjectId, update: Document) -> Result<()> {
    let done = documents(scene, collection).update_one(doc! { "_id": id }, update).await?;
    anyhow::ensure!(done.modified_count == 1, "{} {id} was not updated", collection.name());
    Ok(())
}

#[tokio::test]
async fn todo_what_is_inserted_while_it_follows_arrives() -> Result<()> {
    let mut scene = Scene::set(TODO, "inserted").await?;
    scene.start()?;
    scene.settles().await?;
    load(&scene, &Todo::generate(10, Size::SMALL)).await?;
    as_in_mongodb(&scene).await
}

#[tokio::test]
async fn todo_an_update_moves_references() -> Result<()> {
    let (scene, todo) = copied("moved", 11).await?;
    let (user, team) = (Collection::Users.id(3), Collection::Teams.id(4));
    // From whomever to a user, by the executor's update; and to a team, in the other spelling.
    let reassigned = doc! { "$set": {
        "assignee_id": text(user), "user_type": "user", "updated_by": text(user), "updated_at": date(NOW),
    } };
    update(&scene, Collection::TaskDetails, Collection::TaskDetails.id(1), reassigned).await?;
    let to_team = doc! { "$set": { "assignee_id": team, "user_type": "team", "team_id": team } };
    update(&scene, Collection::TaskDetails, Collection::TaskDetails.id(2), to_team).await?;
    let to_task = doc! { "$set": { "task_id": Collection::Tasks.id(7) } };
    update(&scene, Collection::TaskDetails, Collection::TaskDetails.id(3), to_task).await?;
    // A new point of contact, one who is nobody, and none.
    let poc = |poc: Bson| doc! { "$set": { "poc_id": poc, "updated_at": iso(NOW, "Z") } };
    update(&scene, Collection::Teams, Collection::Teams.id(1), poc(Bson::ObjectId(user))).await?;
    let nobody = Collection::Users.id(777_777);
    update(&scene, Collection::Teams, Collection::Teams.id(2), poc(Bson::ObjectId(nobody))).await?;
    update(&scene, Collection::Teams, Collection::Teams.id(3), poc(Bson::Null)).await?;
    // A member changes the team.
    let member = todo.of(Collection::UserTeamDetails)[0].get_object_id("_id")?;
    let newcomer = doc! { "_id": Collection::Teams.id(900), "name": "New", "invite_code": "900900",
    "created_by": text(user), "updated_by": text(user), "created_at": iso(NOW, "Z"), "updated_at": iso(NOW, "Z") };
    documents(&scene, Collection::Teams).insert_one(newcomer).await?;
    let moved = doc! { "$set": { "team_id": text(Collection::Teams.id(900)), "role_id": "1" } };
    update(&scene, Collection::UserTeamDetails, member, moved).await?;
    as_in_mongodb(&scene).await?;

    // Who was nobody comes: the team has its point of contact, and nobody wrote the team again.
    let mut late = todo.of(Collection::Users)[0].clone();
    late.insert("_id", nobody);
    late.insert("google_id", "late");
    late.insert("email_id", "late@example.org");
    documents(&scene, Collection::Users).insert_one(late).await?;
    as_in_mongodb(&scene).await?;
    let poc = format!("select poc_id from postgres_teams where mongo_id = '{}'", Collection::Teams.id(2));
    assert_eq!(scene.stage.text(&poc).await?, Some(nobody.to_hex()));
    Ok(())
}

#[tokio::test]
async fn todo_labels_are_added_and_removed() -> Result<()> {
    let (scene, todo) = copied("labels", 12).await?;
    let label = |number| Collection::Labels.id(number);
    let with_array = |task: &&Document| task.get_array("labels").is_ok();
    let tasks: Vec<ObjectId> = todo
        .of(Collection::Tasks)
        .iter()
        .filter(with_array)
        .map(|task| task.get_object_id("_id"))
        .collect::<Result<_, _>>()?;
    let set = |labels: Bson| doc! { "$set": { "labels": labels, "updatedAt": date(NOW) } };
    let two = Bson::Array(vec![text(label(1)), text(label(2))]);
    for task in &tasks[..4] {
        update(&scene, Collection::Tasks, *task, set(two.clone())).await?;
    }
    as_in_mongodb(&scene).await?;
    let ids = format!(
        "select string_agg(l.id::text, ' ' order by l.id) from postgres_task_labels as l
         join postgres_tasks as t on t.id = l.task_id where t.mongo_id = '{}' and label_mongo_id = '{}'",
        tasks[0],
        label(2)
    );
    let kept = scene.stage.text(&ids).await?;

    // One more in the other spelling; one less; the same once more in the other spelling; another order.
    update(&scene, Collection::Tasks, tasks[0], doc! { "$push": { "labels": label(3) } }).await?;
    update(&scene, Collection::Tasks, tasks[0], doc! { "$pull": { "labels": text(label(1)) } }).await?;
    update(&scene, Collection::Tasks, tasks[1], doc! { "$push": { "labels": label(2) } }).await?;
    let turned = Bson::Array(vec![Bson::ObjectId(label(2)), Bson::ObjectId(label(1))]);
    update(&scene, Collection::Tasks, tasks[2], set(turned)).await?;
    update(&scene, Collection::Tasks, tasks[3], set(Bson::Array(Vec::new()))).await?;
    update(&scene, Collection::Tasks, tasks[4], doc! { "$unset": { "labels": "" } }).await?;
    update(&scene, Collection::Tasks, tasks[5], set(Bson::Null)).await?;
    as_in_mongodb(&scene).await?;
    assert_eq!(scene.stage.text(&ids).await?, kept, "a label that stays keeps its row");
    for task in &tasks[3..6] {
        let count = format!(
            "select count(*) from postgres_task_labels as l join postgres_tasks as t on t.id = l.task_id
             where t.mongo_id = '{task}'"
        );
        assert_eq!(scene.stage.number(&count).await?, 0);
    }
    Ok(())
}

#[tokio::test]
async fn todo_deferred_details_are_set_and_unset() -> Result<()> {
    let (scene, _) = copied("deferred", 13).await?;
    let task = |number| Collection::Tasks.id(number);
    let details =
        doc! { "deferredAt": date(NOW), "deferredTill": iso(NOW + 1, "Z"), "deferredBy": text(task(0)) };
    let set = |details: Bson| doc! { "$set": { "deferredDetails": details } };
    for number in 1..6 {
        documents(&scene, Collection::Tasks)
            .update_one(doc! { "_id": task(number) }, set(details.clone().into()))
            .await?;
    }
    as_in_mongodb(&scene).await?;
    let count =
        "select count(*) from postgres_deferred_details as d join postgres_tasks as t on t.id = d.task_id
        where t.display_id in ('#2', '#3', '#4', '#5', '#6')";
    assert_eq!(scene.stage.number(count).await?, 5);

    update(&scene, Collection::Tasks, task(1), doc! { "$unset": { "deferredDetails": "" } }).await?;
    update(&scene, Collection::Tasks, task(2), set(Bson::Null)).await?;
    update(&scene, Collection::Tasks, task(3), set(Bson::Document(doc! {}))).await?;
    let later = doc! { "$set": { "deferredDetails.deferredTill": date(NOW + 86_400_000_000) } };
    update(&scene, Collection::Tasks, task(4), later).await?;
    let less = doc! { "$unset": { "deferredDetails.deferredBy": "", "deferredDetails.deferredAt": "" } };
    update(&scene, Collection::Tasks, task(5), less).await?;
    as_in_mongodb(&scene).await?;
    assert_eq!(scene.stage.number(count).await?, 2);
    update(&scene, Collection::Tasks, task(1), set(details.into())).await?;
    as_in_mongodb(&scene).await
}

#[tokio::test]
async fn todo_a_deleted_task_takes_its_children_along_and_comes_back_with_them() -> Result<()> {
    let (scene, todo) = copied("task_gone", 14).await?;
    let deferred = |task: &&Document| task.get_document("deferredDetails").is_ok();
    let task = todo.of(Collection::Tasks).iter().find(deferred).context("a deferred task")?.clone();
    let id = task.get_object_id("_id")?;
    let mut task = task;
    task.insert("labels", vec![Collection::Labels.id(1), Collection::Labels.id(5)]);
    documents(&scene, Collection::Tasks).replace_one(doc! { "_id": id }, &task).await?;
    as_in_mongodb(&scene).await?;
    // Assignments, the watchlist and the log are documents of their own, and stay.
    documents(&scene, Collection::Tasks).delete_one(doc! { "_id": id }).await?;
    as_in_mongodb(&scene).await?;
    documents(&scene, Collection::Tasks).insert_one(&task).await?;
    as_in_mongodb(&scene).await?;
    // Both between two looks: the row may go or stay, its children are there.
    documents(&scene, Collection::Tasks).delete_one(doc! { "_id": id }).await?;
    documents(&scene, Collection::Tasks).insert_one(&task).await?;
    as_in_mongodb(&scene).await
}

#[tokio::test]
async fn todo_memberships_wait_for_their_user_and_their_team() -> Result<()> {
    let (scene, todo) = copied("parents_gone", 15).await?;
    let (user, team, member) =
        (Collection::Users.id(800), Collection::Teams.id(800), Collection::UserTeamDetails.id(800));
    let mut membership = todo.of(Collection::UserTeamDetails)[0].clone();
    membership.insert("_id", member);
    membership.insert("user_id", text(user));
    membership.insert("team_id", team);
    documents(&scene, Collection::UserTeamDetails).insert_one(&membership).await?;
    let key = ("user_team_details".to_owned(), member.to_hex());
    let waits = async |column: Option<&str>| {
        scene
            .waits("the membership to be held", async || {
                let held = scene.held().await?;
                let reason = held.get(&key).filter(|held| held.reason == "unresolved_reference");
                Ok(reason
                    .is_some_and(|held| column.is_none_or(|column| held.column.as_deref() == Some(column))))
            })
            .await
    };
    waits(None).await?;
    let mut person = todo.of(Collection::Users)[0].clone();
    person.insert("_id", user);
    person.insert("google_id", "800");
    person.insert("email_id", "800@example.org");
    documents(&scene, Collection::Users).insert_one(&person).await?;
    waits(Some("team_id")).await?;
    let mut new_team = todo.of(Collection::Teams)[0].clone();
    new_team.insert("_id", team);
    new_team.insert("invite_code", "800800");
    new_team.insert("poc_id", user);
    documents(&scene, Collection::Teams).insert_one(&new_team).await?;
    as_in_mongodb(&scene).await?;

    // The user leaves and comes back: the team loses its point of contact and finds it again, the membership waits.
    documents(&scene, Collection::Users).delete_one(doc! { "_id": user }).await?;
    scene.settles().await?;
    waits(Some("user_id")).await?;
    let poc = format!("select count(*) from postgres_teams where mongo_id = '{team}' and poc_id is null");
    scene.waits("the point of contact to be null", async || Ok(scene.stage.number(&poc).await? == 1)).await?;
    documents(&scene, Collection::Users).insert_one(&person).await?;
    as_in_mongodb(&scene).await
}

#[tokio::test]
async fn todo_unique_values_are_swapped_between_documents() -> Result<()> {
    let (scene, todo) = copied("swapped", 16).await?;
    let swap =
        async |collection: Collection, fields: &[&str], a: usize, b: usize, apart: &str| -> Result<()> {
            let (a, b) = (&todo.of(collection)[a], &todo.of(collection)[b]);
            let values = |of: &Document| -> Document {
                fields
                    .iter()
                    .filter_map(|field| Some(((*field).to_owned(), of.get(*field)?.clone())))
                    .collect()
            };
            // MongoDB has no unique key here: for a moment both have the same.
            for (to, from) in [(a, values(b)), (b, values(a))] {
                update(&scene, collection, to.get_object_id("_id")?, doc! { "$set": from }).await?;
                if !apart.is_empty() {
                    scene.settles().await?;
                }
            }
            Ok(())
        };
    swap(Collection::Users, &["email_id"], 0, 1, "").await?;
    swap(Collection::Users, &["google_id", "email_id"], 2, 3, "").await?;
    swap(Collection::Teams, &["invite_code"], 0, 1, "").await?;
    swap(Collection::Watchlist, &["userId", "taskId"], 0, 1, "").await?;
    swap(Collection::UserTeamDetails, &["user_id", "team_id"], 0, 1, "").await?;
    swap(Collection::InviteCodes, &["code"], 0, 1, "").await?;
    swap(Collection::Labels, &["name"], 0, 1, "").await?;
    as_in_mongodb(&scene).await?;
    // With time between: the first of the two is held until the second has gone.
    swap(Collection::Users, &["email_id"], 4, 5, "apart").await?;
    swap(Collection::Teams, &["invite_code"], 4, 5, "apart").await?;
    as_in_mongodb(&scene).await?;
    // A ring of three.
    let codes = [6, 7, 8].map(|number| &todo.of(Collection::Teams)[number]);
    for (to, from) in [(0, 1), (1, 2), (2, 0)] {
        let code = doc! { "$set": { "invite_code": codes[from].get_str("invite_code")? } };
        update(&scene, Collection::Teams, codes[to].get_object_id("_id")?, code).await?;
    }
    as_in_mongodb(&scene).await
}

#[tokio::test]
async fn todo_a_role_is_given_again_and_again() -> Result<()> {
    let (scene, todo) = copied("roles", 17).await?;
    let mut role = todo.of(Collection::UserRoles)[0].clone();
    role.insert("role_name", "owner");
    role.insert("scope", "TEAM");
    role.insert("team_id", text(Collection::Teams.id(801)));
    let mut id = Collection::UserRoles.id(801);
    // Only one of them is active at a time: the key is unique among those.
    for number in 802..806 {
        role.insert("_id", id);
        role.insert("is_active", true);
        documents(&scene, Collection::UserRoles).insert_one(&role).await?;
        update(&scene, Collection::UserRoles, id, doc! { "$set": { "is_active": false } }).await?;
        id = Collection::UserRoles.id(number);
    }
    // Without a team nothing is unique.
    for number in 810..812 {
        let global = doc! { "_id": Collection::UserRoles.id(number), "user_id": text(Collection::Users.id(1)),
        "role_name": "moderator", "scope": "GLOBAL", "is_active": true, "created_at": date(NOW) };
        documents(&scene, Collection::UserRoles).insert_one(global).await?;
    }
    as_in_mongodb(&scene).await
}

#[tokio::test]
async fn todo_what_is_marked_as_deleted_is_marked_or_gone() -> Result<()> {
    let (scene, todo) = copied("soft", 18).await?;
    let marked =
        doc! { "$set": { "isDeleted": true, "updatedAt": date(NOW), "updatedBy": Collection::Users.id(1) } };
    update(&scene, Collection::Tasks, Collection::Tasks.id(2), marked.clone()).await?;
    update(
        &scene,
        Collection::Teams,
        Collection::Teams.id(2),
        doc! { "$set": { "is_deleted": true, "x": 1 } },
    )
    .await?;
    update(&scene, Collection::Labels, Collection::Labels.id(2), marked).await?;
    as_in_mongodb(&scene).await?;
    assert_eq!(scene.stage.number("select count(*) from postgres_labels").await?, 6);
    // The name of a label is free for another one, and the label comes back under a new name.
    let mut again = todo.of(Collection::Labels)[2].clone();
    again.insert("_id", Collection::Labels.id(9));
    documents(&scene, Collection::Labels).insert_one(&again).await?;
    as_in_mongodb(&scene).await?;
    let back = doc! { "$set": { "isDeleted": false, "name": "Restructuring" } };
    update(&scene, Collection::Labels, Collection::Labels.id(2), back).await?;
    let unmarked = doc! { "$set": { "isDeleted": false } };
    update(&scene, Collection::Tasks, Collection::Tasks.id(2), unmarked).await?;
    as_in_mongodb(&scene).await
}

#[tokio::test]
async fn todo_two_collections_change_in_one_transaction() -> Result<()> {
    let (scene, todo) = copied("transaction", 19).await?;
    let task = doc! { "_id": Collection::Tasks.id(900), "displayId": "#901", "title": "Together", "priority": 1,
    "status": "TODO", "labels": [text(Collection::Labels.id(1))], "createdAt": iso(NOW, "Z"),
    "createdBy": text(Collection::Users.id(1)) };
    let mut session = scene.stage.client.start_session().await?;
    session.start_transaction().await?;
    let counter = doc! { "$inc": { "seq": 1_i64 } };
    scene
        .stage
        .database
        .collection::<Document>("counters")
        .update_one(doc! { "_id": "taskDisplayId" }, counter)
        .session(&mut session)
        .await?;
    let tasks = scene.stage.database.collection::<Document>("tasks");
    tasks.insert_one(task).session(&mut session).await?;
    let mut details = todo.of(Collection::TaskDetails)[0].clone();
    details.insert("_id", Collection::TaskDetails.id(900));
    details.insert("task_id", Collection::Tasks.id(900));
    let assignments = scene.stage.database.collection::<Document>("task_details");
    assignments.insert_one(details).session(&mut session).await?;
    session.commit_transaction().await?;
    as_in_mongodb(&scene).await?;
    let left: Vec<Document> =
        scene.stage.database.collection("counters").find(doc! {}).await?.try_collect().await?;
    assert_eq!(left.len(), 1, "counters is a collection that nobody maps");
    Ok(())
}
