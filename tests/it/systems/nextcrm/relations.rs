//! Parents that go and come back, under each rule of their foreign keys; parents that come late; values that swap.

use anyhow::{Context, Result, ensure};
use bson::{Document, doc};
use mongodb::ClientSession;

use super::Crm;
use super::generator::{Size, another, id};
use super::stream::running;
use crate::systems::scene::Held;

#[tokio::test]
async fn under_set_null_the_children_of_a_parent_that_goes_are_null_until_it_is_back() -> Result<()> {
    let crm = running("set_null", 21).await?;
    for (collection, field, parent) in [
        ("crm_Accounts", "industry", "crm_Industry_Type"),
        ("crm_Accounts", "assigned_to", "Users"),
        ("crm_Opportunities", "account", "crm_Accounts"),
        ("Tasks", "section", "Sections"),
        ("Invoices", "invoice_state_id", "invoice_States"),
    ] {
        let mut gone = another(parent, 60, Size::Small);
        let parent_id = gone.get_object_id("_id")?;
        crm.insert(parent, gone.clone()).await?;
        for number in [1, 2] {
            crm.update(collection, id(collection, number), doc! { "$set": { field: parent_id } }).await?;
        }
        crm.becomes_right().await?;
        crm.delete(parent, parent_id).await?;
        crm.becomes_right().await?;
        // Nobody writes the children again.
        gone.remove("__v");
        crm.insert(parent, gone).await?;
        crm.becomes_right().await?;
        let there = format!("select count(*) from \"{collection}\" where \"{field}\" is not null");
        ensure!(crm.scene.stage.number(&there).await? >= 2, "{collection} {field}");
    }
    crm.scene.holds(&Held::new()).await
}

#[tokio::test]
async fn under_cascade_the_rows_of_other_documents_outlive_their_parent() -> Result<()> {
    let crm = running("cascade", 22).await?;
    let task = another("Tasks", 60, Size::Small);
    let task_id = task.get_object_id("_id")?;
    crm.insert("Tasks", task.clone()).await?;
    for number in [1, 2, 3] {
        crm.update("tasksComments", id("tasksComments", number), doc! { "$set": { "task": task_id } })
            .await?;
    }
    crm.update("Documents", id("Documents", 1), doc! { "$set": { "tasksIDs": [task_id] } }).await?;
    crm.becomes_right().await?;
    crm.delete("Tasks", task_id).await?;
    // The comments stay, without a task; the pair goes.
    crm.becomes_right().await?;
    crm.insert("Tasks", task).await?;
    crm.becomes_right().await?;

    // A document at one end of pairs that only the other end lists.
    let document = another("Documents", 60, Size::Small);
    let document_id = document.get_object_id("_id")?;
    crm.insert("Documents", document.clone()).await?;
    for (collection, array) in [
        ("Invoices", "connected_documents"),
        ("crm_Contacts", "documentsIDs"),
        ("crm_Accounts", "documentsIDs"),
    ] {
        crm.update(collection, id(collection, 2), doc! { "$set": { array: [document_id] } }).await?;
    }
    crm.becomes_right().await?;
    crm.delete("Documents", document_id).await?;
    crm.becomes_right().await?;
    crm.insert("Documents", document).await?;
    crm.becomes_right().await?;
    crm.scene.holds(&Held::new()).await
}

#[tokio::test]
async fn under_restrict_a_delete_waits_until_the_last_referrer_has_gone() -> Result<()> {
    let mut crm = running("restrict", 23).await?;
    let user = another("Users", 60, Size::Small);
    let user_id = user.get_object_id("_id")?;
    let mut board = another("Boards", 60, Size::Small);
    board.insert("user", user_id);
    let board_id = board.get_object_id("_id")?;
    let mut section = another("Sections", 60, Size::Small);
    section.insert("board", board_id);
    crm.insert("Users", user.clone()).await?;
    crm.insert("Boards", board.clone()).await?;
    crm.insert("Sections", section.clone()).await?;
    crm.becomes_right().await?;

    // Held: the row stays, and so does what refers to it.
    crm.delete("Users", user_id).await?;
    crm.ghosts.entry("Users").or_default().push(user.clone());
    held(&crm, "Users", &user).await?;
    crm.becomes_right().await?;
    crm.delete("Boards", board_id).await?;
    crm.ghosts.entry("Boards").or_default().push(board.clone());
    held(&crm, "Boards", &board).await?;
    crm.becomes_right().await?;

    // The section goes, then the board can, then the user.
    crm.delete("Sections", section.get_object_id("_id")?).await?;
    crm.ghosts.clear();
    crm.becomes_right().await?;
    crm.scene.holds(&Held::new()).await?;

    // The other way out: what was deleted is inserted again, with the same id.
    crm.insert("Boards", board.clone()).await?;
    crm.becomes_right().await?;
    crm.holds_what_waits().await?;
    crm.insert("Users", user.clone()).await?;
    crm.becomes_right().await?;
    crm.delete("Users", user_id).await?;
    held(&crm, "Users", &user).await?;
    crm.insert("Users", user).await?;
    crm.becomes_right().await?;
    crm.scene.holds(&Held::new()).await
}

/// Waits until the document is held, for whatever reason.
async fn held(crm: &Crm, collection: &str, document: &Document) -> Result<()> {
    let key = (collection.to_owned(), document.get_object_id("_id")?.to_hex());
    crm.scene.waits("the delete to be held", async || Ok(crm.scene.held().await?.contains_key(&key))).await
}

#[tokio::test]
async fn what_needs_a_parent_waits_for_it_through_every_generation() -> Result<()> {
    let crm = running("late", 24).await?;
    // Grandchildren first.
    let [user, mut board, mut section, mut task] =
        ["Users", "Boards", "Sections", "Tasks"].map(|collection| another(collection, 60, Size::Small));
    board.insert("user", user.get_object_id("_id")?);
    section.insert("board", board.get_object_id("_id")?);
    task.insert("section", section.get_object_id("_id")?);
    let mut comment = another("tasksComments", 60, Size::Small);
    comment.insert("task", task.get_object_id("_id")?);
    comment.insert("user", user.get_object_id("_id")?);
    for (collection, document) in
        [("tasksComments", comment), ("Tasks", task), ("Sections", section), ("Boards", board)]
    {
        crm.insert(collection, document).await?;
        crm.becomes_right().await?;
        crm.holds_what_waits().await?;
    }
    crm.insert("Users", user).await?;
    crm.becomes_right().await?;
    crm.scene.holds(&Held::new()).await
}

#[tokio::test]
async fn a_comment_finds_the_account_task_that_its_task_field_names() -> Result<()> {
    let crm = running("wrong_collection", 25).await?;
    let comment = id("tasksComments", 0);
    let row = "select concat_ws(' ', \"task\" is not null, \"assigned_crm_account_task\" is not null)
               from \"tasksComments\" where \"comment\" = 'this one'";
    for (task, found) in [
        (id("Tasks", 1), "t f"),
        (id("crm_Accounts_Tasks", 1), "f t"),
        (id("crm_Leads", 1), "f f"),
        (id("crm_Accounts_Tasks", 2), "f t"),
        (id("Tasks", 2), "t f"),
    ] {
        let update = doc! {
            "$set": { "task": task, "comment": "this one" }, "$unset": { "assigned_crm_account_task": "" },
        };
        crm.update("tasksComments", comment, update).await?;
        crm.becomes_right().await?;
        assert_eq!(crm.scene.stage.text(row).await?.as_deref(), Some(found));
    }
    // Where both fields are set, each says its own.
    let both = doc! { "$set": { "assigned_crm_account_task": id("crm_Accounts_Tasks", 3) } };
    crm.update("tasksComments", comment, both).await?;
    crm.becomes_right().await?;
    assert_eq!(crm.scene.stage.text(row).await?.as_deref(), Some("t t"));
    Ok(())
}

#[tokio::test]
async fn two_users_swap_their_e_mail_addresses_and_three_pass_theirs_on() -> Result<()> {
    let crm = running("swap", 26).await?;
    let emails = ["user.1@crm.example", "user.2@crm.example", "user.3@crm.example"];
    let set = |email: &str| doc! { "$set": { "email": email } };

    // One after the other: for a moment two have the same.
    crm.update("Users", id("Users", 1), set(emails[1])).await?;
    crm.update("Users", id("Users", 2), set(emails[0])).await?;
    crm.becomes_right().await?;
    crm.scene.holds(&Held::new()).await?;

    // Back, in one transaction.
    let mut session = crm.scene.stage.client.start_session().await?;
    session.start_transaction().await?;
    for number in [1, 2] {
        update_in(&crm, &mut session, number, emails[number - 1]).await?;
    }
    session.commit_transaction().await?;
    crm.becomes_right().await?;

    // A ring of three, and a chain whose last address is new.
    for (number, email) in [(1, emails[1]), (2, emails[2]), (3, emails[0])] {
        crm.update("Users", id("Users", number), set(email)).await?;
    }
    crm.becomes_right().await?;
    for (number, email) in [(1, emails[0]), (3, emails[2]), (2, "somebody.new@crm.example")] {
        crm.update("Users", id("Users", number), set(email)).await?;
    }
    crm.becomes_right().await?;
    crm.scene.holds(&Held::new()).await
}

async fn update_in(crm: &Crm, session: &mut ClientSession, number: usize, email: &str) -> Result<()> {
    let users = crm.scene.stage.database.collection::<Document>("Users");
    let update = doc! { "$set": { "email": email } };
    let done = users.update_one(doc! { "_id": id("Users", number) }, update).session(session).await?;
    (done.matched_count == 1).then_some(()).context("nobody to update")
}

#[tokio::test]
async fn an_address_that_is_taken_holds_the_second_until_the_first_lets_go() -> Result<()> {
    let mut crm = running("taken", 27).await?;
    let mut second = another("Users", 60, Size::Small);
    second.insert("email", "user.4@crm.example");
    let key = second.get_object_id("_id")?;
    crm.oracle.verdicts.insert(("Users", key), super::oracle::Verdict { held: true, ..Default::default() });
    crm.insert("Users", second.clone()).await?;
    held(&crm, "Users", &second).await?;
    crm.becomes_right().await?;
    crm.oracle.verdicts.clear();
    crm.update("Users", id("Users", 4), doc! { "$set": { "email": "moved@crm.example" } }).await?;
    crm.becomes_right().await?;
    crm.scene.holds(&Held::new()).await
}
