//! What happens in MongoDB while rowstream follows it.

use anyhow::{Result, ensure};
use bson::{Document, doc};
use futures_util::TryStreamExt;

use super::Crm;
use super::generator::{Size, another, generate, id};
use super::model::{COLLECTIONS, JUNCTIONS, Junction, Kind};

impl Crm {
    /// A hundred and more of a large set at once, beside each other: references move, arrays grow and shrink on either side,
    /// free JSON is set and unset, parents go and come back.
    pub(super) async fn much_changes(&self) -> Result<()> {
        // Of every collection the same numbers, so that most pairs of them have nothing to do with each other.
        let some = |collection: &str| {
            let ids: Vec<_> = (300..450).map(|number| id(collection, number)).collect();
            doc! { "_id": { "$in": ids } }
        };
        for (collection, change) in [
            (
                "crm_Accounts",
                doc! { "$set": { "assigned_to": id("Users", 1), "industry": id("crm_Industry_Type", 1) } },
            ),
            ("crm_Accounts", doc! { "$addToSet": { "watchers": id("Users", 2) } }),
            (
                "Documents",
                doc! { "$set": { "tags": { "a.dotted.name": [1, 2.5] } }, "$unset": { "invoiceIDs": "" } },
            ),
            ("Documents", doc! { "$addToSet": { "tasksIDs": id("Tasks", 1) } }),
            ("Invoices", doc! { "$pop": { "connected_documents": 1 }, "$unset": { "invoice_items": "" } }),
            ("crm_Contacts", doc! { "$push": { "notes": "one, and \"one\" more" } }),
            ("Tasks", doc! { "$set": { "section": id("Sections", 1) }, "$inc": { "position": 7 } }),
        ] {
            let updated =
                self.scene.stage.collection(collection).update_many(some(collection), change).await?;
            ensure!(updated.modified_count > 100, "{} of {collection}", updated.modified_count);
        }
        for collection in ["Tasks", "crm_Opportunities", "crm_Leads"] {
            let parents = self.scene.stage.collection(collection);
            let gone: Vec<Document> = parents.find(some(collection)).await?.try_collect().await?;
            parents.delete_many(some(collection)).await?;
            parents.insert_many(&gone[..75]).await?;
        }
        Ok(())
    }
}

pub(super) async fn running(test: &str, seed: u64) -> Result<Crm> {
    let mut crm = Crm::set(test).await?;
    crm.load(&generate(seed, Size::Small)).await?;
    crm.scene.start()?;
    crm.becomes_right().await?;
    Ok(crm)
}

#[tokio::test]
async fn every_collection_is_followed_through_inserts_updates_replaces_and_deletes() -> Result<()> {
    let crm = running("followed", 11).await?;
    for collection in COLLECTIONS.iter() {
        crm.insert(collection.name, another(collection.name, 1, Size::Small)).await?;
        crm.insert(collection.name, another(collection.name, 2, Size::Small)).await?;
    }
    crm.becomes_right().await?;

    for collection in COLLECTIONS.iter() {
        let name = collection.name;
        let first = another(name, 1, Size::Small);
        let mut other = another(name, 3, Size::Small);
        other.insert("_id", first.get_object_id("_id")?);
        crm.replace(name, other).await?;
        // What may be absent goes, field by field.
        let optional =
            collection.columns.iter().filter(|column| !column.required && column.name != "created_on");
        let unset: Document = optional.map(|column| (column.name.to_owned(), "".into())).collect();
        if !unset.is_empty() {
            let second = another(name, 2, Size::Small).get_object_id("_id")?;
            crm.update(name, second, doc! { "$unset": unset }).await?;
        }
    }
    crm.becomes_right().await?;

    for collection in COLLECTIONS.iter() {
        for number in [1, 2] {
            let known = another(collection.name, number, Size::Small).get_object_id("_id")?;
            crm.delete(collection.name, known).await?;
        }
    }
    crm.becomes_right().await?;
    crm.holds_what_waits().await
}

#[tokio::test]
async fn every_reference_moves_to_another_document_and_back_to_nothing() -> Result<()> {
    let crm = running("moved", 12).await?;
    for number in [2, 3] {
        for collection in COLLECTIONS.iter() {
            let references = collection.columns.iter().filter_map(|column| match column.kind {
                Kind::Ref(target) => Some((column.name.to_owned(), id(target, number).into())),
                Kind::Int | Kind::Text | Kind::Enum(_) | Kind::Bool | Kind::Date => None,
                Kind::Refs(_) | Kind::Texts | Kind::Json => None,
            });
            let set: Document = references.collect();
            if !set.is_empty() {
                crm.update(collection.name, id(collection.name, 0), doc! { "$set": set }).await?;
            }
        }
        crm.becomes_right().await?;
    }
    for collection in COLLECTIONS.iter() {
        let optional = collection.columns.iter().filter(|column| !column.required);
        let references = optional.filter(|column| matches!(column.kind, Kind::Ref(_)));
        let unset: Document = references.map(|column| (column.name.to_owned(), "".into())).collect();
        if !unset.is_empty() {
            crm.update(collection.name, id(collection.name, 0), doc! { "$unset": unset }).await?;
        }
    }
    crm.becomes_right().await
}

/// Adds or removes each junction's pair on one side, where that side has an array.
async fn list(crm: &Crm, on_the_left: bool, listed: bool) -> Result<()> {
    let operator = if listed { "$addToSet" } else { "$pull" };
    for Junction { left, right, .. } in &JUNCTIONS {
        let (side, other) = if on_the_left { (left, right) } else { (right, left) };
        let Some(array) = side.array else { continue };
        let own = another(side.collection, 50, Size::Small).get_object_id("_id")?;
        let other = another(other.collection, 50, Size::Small).get_object_id("_id")?;
        crm.update(side.collection, own, doc! { operator: { array: other } }).await?;
    }
    // The whole pipeline has seen it: only then does a pair that stays prove something.
    crm.becomes_right().await
}

#[tokio::test]
async fn a_pair_is_there_while_either_side_lists_it_whichever_lets_go_first() -> Result<()> {
    let crm = running("pairs", 13).await?;
    for name in COLLECTIONS.iter().map(|collection| collection.name) {
        if JUNCTIONS
            .iter()
            .any(|junction| [junction.left, junction.right].iter().any(|side| side.collection == name))
        {
            crm.insert(name, another(name, 50, Size::Small)).await?;
        }
    }
    const LEFT: bool = true;
    const RIGHT: bool = false;
    for first in [LEFT, RIGHT] {
        for last in [LEFT, RIGHT] {
            list(&crm, first, true).await?;
            list(&crm, !first, true).await?;
            list(&crm, last, false).await?;
            list(&crm, !last, false).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn arrays_of_ids_and_texts_follow_what_is_pushed_and_pulled() -> Result<()> {
    let crm = running("arrays", 14).await?;
    let board = id("Boards", 1);
    let contact = id("crm_Contacts", 1);
    for update in [
        doc! { "$set": { "sharedWith": [id("Users", 1), id("Users", 2)] } },
        doc! { "$push": { "sharedWith": id("Users", 3) } },
        doc! { "$pull": { "sharedWith": id("Users", 1) } },
        doc! { "$set": { "sharedWith": [] } },
        doc! { "$unset": { "sharedWith": "" } },
    ] {
        crm.update("Boards", board, update).await?;
        crm.becomes_right().await?;
    }
    for update in [
        doc! { "$set": { "tags": ["a", "b, with a comma", "NULL", "", "{}", "\"quoted\"", "back\\slash"] } },
        doc! { "$push": { "tags": "one more" } },
        doc! { "$set": { "tags": [] } },
        doc! { "$unset": { "tags": "" } },
    ] {
        crm.update("crm_Contacts", contact, update).await?;
        crm.becomes_right().await?;
    }
    Ok(())
}
