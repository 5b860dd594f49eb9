//! An expense tracker: raw answers of four services in one table, line items that refer to them by a text in their
//! own id, payment methods made of several accounts, events with two junctions.

mod documents;
mod expected;
mod killed;

use anyhow::{Context, Result, ensure};
use bson::{Bson, Document, doc};
use sqlx::AssertSqlSafe;

use super::bad_data::{self, Line, Outcome};
use super::scene::{Coercions, Held, Reason, Scene, System, system};
use documents::{
    ACCOUNTS, CASH, COLLECTIONS, Documents, EVENTS, LINE_ITEMS, SPLITWISE, STRIPE, USERS, VENMO, account,
    cash, event, line_item, object_id, user, venmo,
};

pub(super) const EXPENSES: System = system!("expenses", "flask_db");

/// Among 10,000 rows, reading all of them is a mistake.
const LARGE: i64 = 2_000;

async fn loaded(test: &str, documents: &Documents) -> Result<Scene> {
    let scene = Scene::set(EXPENSES, test).await?;
    load(&scene, documents).await?;
    Ok(scene)
}

async fn load(scene: &Scene, documents: &Documents) -> Result<()> {
    for collection in COLLECTIONS {
        if let Some(documents) = documents.get(collection).filter(|documents| !documents.is_empty()) {
            scene.load(collection, documents).await?;
        }
    }
    Ok(())
}

async fn becomes_expected(scene: &Scene) -> Result<()> {
    scene.becomes(&expected::tables(scene).await?).await
}

async fn insert(scene: &Scene, collection: &str, document: Document) -> Result<()> {
    scene.load(collection, &[document]).await
}

async fn update(scene: &Scene, collection: &str, id: impl Into<Bson>, update: Document) -> Result<()> {
    let done = scene.stage.collection(collection).update_one(doc! { "_id": id.into() }, update).await?;
    ensure!(done.matched_count == 1, "no such document in {collection}");
    Ok(())
}

async fn remove(scene: &Scene, collection: &str, id: impl Into<Bson>) -> Result<Document> {
    let removed = scene.stage.collection(collection).find_one_and_delete(doc! { "_id": id.into() }).await?;
    removed.with_context(|| format!("no such document in {collection}"))
}

/// A few of everything, small enough to be told by name.
fn handful() -> Documents {
    Documents::from([
        (VENMO, (1..=6).map(|number| venmo(&format!("{number}"))).collect()),
        (SPLITWISE, vec![documents::splitwise(1), documents::splitwise(20)]),
        (STRIPE, vec![documents::stripe("fctxn_1")]),
        (CASH, vec![cash(object_id(1))]),
        (
            ACCOUNTS,
            vec![account("fca_1", "Checking"), account("fca_2", "Checking"), account("fca_3", "Savings")],
        ),
        (USERS, vec![user(1), user(2)]),
        (LINE_ITEMS, (1..=6).map(|number| line_item(&format!("{number}"))).collect()),
        (
            EVENTS,
            vec![
                event("event_1", &["line_item_1", "line_item_2"]),
                event("event_2", &["line_item_2", "line_item_3"]),
                event("event_3", &[]),
            ],
        ),
    ])
}

#[tokio::test]
async fn the_tracker_is_copied_and_followed() -> Result<()> {
    let mut scene = loaded("small", &documents::generate(11, 800, 2)).await?;
    scene.start()?;
    becomes_expected(&scene).await?;
    scene.holds(&Held::new()).await?;

    // What the application does in a day: raw answers come, items are made of them, events of those.
    load(&scene, &renamed(documents::generate(12, 300, 0))).await?;
    let some = expected::found(&scene).await?;
    for (place, item) in some[LINE_ITEMS].iter().enumerate().take(60) {
        let id = item.get("_id").context("an id")?.clone();
        let change = match place % 5 {
            0 => doc! { "$set": { "amount": 7.77, "notes": "corrected" } },
            1 => doc! { "$set": { "payment_method": "Cash" } },
            2 => doc! { "$unset": { "responsible_party": "" } },
            3 => doc! { "$set": { "payment_method": "Freedom", "date": "2025-03-01T00:00:00Z" } },
            _ => {
                remove(&scene, LINE_ITEMS, id).await?;
                continue;
            }
        };
        update(&scene, LINE_ITEMS, id, change).await?;
    }
    for (place, event) in some[EVENTS].iter().enumerate().take(60) {
        let id = event.get("_id").context("an id")?.clone();
        let other = some[LINE_ITEMS][some[LINE_ITEMS].len() - 1 - place].get_str("_id")?;
        let change = match place % 6 {
            0 => doc! { "$push": { "line_items": other } },
            1 => doc! { "$pop": { "line_items": 1 } },
            2 => doc! { "$set": { "category": "Travel", "tags": ["trip", "new tag"] } },
            3 => doc! { "$unset": { "tags": "", "line_items": "" } },
            4 => doc! { "$set": { "is_duplicate_transaction": true } },
            _ => {
                let event = remove(&scene, EVENTS, id).await?;
                insert(&scene, EVENTS, event).await?;
                continue;
            }
        };
        update(&scene, EVENTS, id, change).await?;
    }
    becomes_expected(&scene).await?;
    scene.holds(&Held::new()).await?;
    scene.verifies(100)?;
    scene.stop().await
}

/// Accounts and users of another generation have ids of the first: only what is new is left.
fn renamed(mut documents: Documents) -> Documents {
    documents.remove(ACCOUNTS);
    for collection in [VENMO, SPLITWISE, STRIPE, CASH, LINE_ITEMS, EVENTS] {
        for document in documents.entry(collection).or_default() {
            let id = match document.get("_id") {
                Some(Bson::String(id)) => {
                    Bson::String(id.replacen("line_item_", "line_item_9", 1).replacen("event_", "event_9", 1))
                }
                Some(Bson::Int64(id)) => Bson::Int64(id / 3 + 1),
                Some(Bson::ObjectId(id)) => {
                    let mut bytes = id.bytes();
                    bytes[0] = 0x64;
                    bson::oid::ObjectId::from_bytes(bytes).into()
                }
                other => other.cloned().unwrap_or(Bson::Null),
            };
            let id = match (collection, id) {
                (VENMO | STRIPE, Bson::String(id)) => Bson::String(format!("9{id}")),
                (_, id) => id,
            };
            document.insert("_id", id);
            if let Ok(items) = document.get_array_mut("line_items") {
                for item in items {
                    *item = item.as_str().unwrap_or_default().replacen("line_item_", "line_item_9", 1).into();
                }
            }
        }
    }
    documents
}

#[tokio::test]
async fn a_manual_transaction_gives_way_to_the_real_one_and_comes_back() -> Result<()> {
    let mut scene = Scene::set(EXPENSES, "manual").await?;
    scene.start()?;
    // The items come first; their transactions are still to come.
    scene.load(LINE_ITEMS, &[line_item("1"), line_item("77"), line_item("fctxn_9")]).await?;
    insert(&scene, LINE_ITEMS, line_item(&object_id(5).to_hex())).await?;
    becomes_expected(&scene).await?;
    let manual = "select count(*) from transactions where source = 'manual'";
    assert_eq!(scene.stage.number(manual).await?, 4);

    insert(&scene, SPLITWISE, documents::splitwise(77)).await?;
    insert(&scene, CASH, cash(object_id(5))).await?;
    insert(&scene, STRIPE, documents::stripe("fctxn_9")).await?;
    becomes_expected(&scene).await?;
    assert_eq!(scene.stage.number(manual).await?, 1);
    // An earlier choice wins, whenever it comes.
    insert(&scene, VENMO, venmo("77")).await?;
    becomes_expected(&scene).await?;
    remove(&scene, VENMO, "77").await?;
    becomes_expected(&scene).await?;
    // The transaction goes, its line item stays: it is another document.
    let payment = remove(&scene, STRIPE, "fctxn_9").await?;
    becomes_expected(&scene).await?;
    assert_eq!(scene.stage.number(manual).await?, 2);
    insert(&scene, STRIPE, payment).await?;
    becomes_expected(&scene).await?;
    // With its last line item a manual transaction goes.
    remove(&scene, LINE_ITEMS, "line_item_1").await?;
    becomes_expected(&scene).await?;
    assert_eq!(scene.stage.number(manual).await?, 0);
    scene.holds(&Held::new()).await
}

#[tokio::test]
async fn several_accounts_are_one_payment_method_with_their_aliases() -> Result<()> {
    let mut scene = loaded("methods", &handful()).await?;
    for (item, method) in [("line_item_1", "Checking"), ("line_item_2", "Savings"), ("line_item_3", "Later")]
    {
        update(&scene, LINE_ITEMS, item, doc! { "$set": { "payment_method": method } }).await?;
    }
    scene.start()?;
    becomes_expected(&scene).await?;
    // The payment method that an item named comes late.
    insert(&scene, ACCOUNTS, account("fca_9", "Later")).await?;
    becomes_expected(&scene).await?;
    // Linked again; an earlier id that speaks for the row; one claimant less.
    insert(&scene, ACCOUNTS, account("fca_0", "Checking")).await?;
    update(
        &scene,
        ACCOUNTS,
        "fca_0",
        doc! { "$set": { "status": "inactive", "subcategory": "credit_card" } },
    )
    .await?;
    becomes_expected(&scene).await?;
    remove(&scene, ACCOUNTS, "fca_0").await?;
    becomes_expected(&scene).await?;
    // Another name: it leaves one payment method and is the first of another.
    update(&scene, ACCOUNTS, "fca_2", doc! { "$set": { "display_name": "College" } }).await?;
    becomes_expected(&scene).await?;
    update(&scene, ACCOUNTS, "fca_2", doc! { "$set": { "display_name": "Savings" } }).await?;
    becomes_expected(&scene).await?;
    // The last of a name goes while items use it: they refer to Unknown, until it is back.
    let last = remove(&scene, ACCOUNTS, "fca_1").await?;
    becomes_expected(&scene).await?;
    insert(&scene, ACCOUNTS, last).await?;
    becomes_expected(&scene).await?;
    scene.holds(&Held::new()).await
}

#[tokio::test]
async fn pairs_follow_both_ends_and_come_back_with_them() -> Result<()> {
    let mut scene = loaded("pairs", &handful()).await?;
    scene.start()?;
    becomes_expected(&scene).await?;
    let ids = "select string_agg(id, ' ' order by id) from event_line_items";
    let before = scene.stage.text(ids).await?;
    update(&scene, EVENTS, "event_1", doc! { "$set": { "name": "Renamed" } }).await?;
    becomes_expected(&scene).await?;
    assert_eq!(scene.stage.text(ids).await?, before, "equal pairs are left alone");

    // An element added, one removed, one twice, all of them, none.
    for change in [
        doc! { "$push": { "line_items": "line_item_4" } },
        doc! { "$pull": { "line_items": "line_item_1" } },
        doc! { "$push": { "line_items": "line_item_4" } },
        doc! { "$set": { "line_items": ["line_item_6", "line_item_5", "line_item_4"] } },
        doc! { "$unset": { "line_items": "" } },
        doc! { "$set": { "line_items": ["line_item_1"] } },
    ] {
        update(&scene, EVENTS, "event_1", change).await?;
        becomes_expected(&scene).await?;
    }
    // The line item goes and comes: the event is not written again.
    let item = remove(&scene, LINE_ITEMS, "line_item_2").await?;
    becomes_expected(&scene).await?;
    insert(&scene, LINE_ITEMS, item).await?;
    becomes_expected(&scene).await?;
    // The event goes and comes.
    let gone = remove(&scene, EVENTS, "event_2").await?;
    becomes_expected(&scene).await?;
    insert(&scene, EVENTS, gone).await?;
    becomes_expected(&scene).await?;
    // An event speaks of an item that is still to come.
    insert(&scene, EVENTS, event("event_4", &["line_item_7", "line_item_1"])).await?;
    becomes_expected(&scene).await?;
    insert(&scene, LINE_ITEMS, line_item("7")).await?;
    insert(&scene, VENMO, venmo("7")).await?;
    becomes_expected(&scene).await?;
    // Tags likewise.
    for tags in [vec!["trip", "work"], vec!["work"], vec!["work", "work", "tax"], vec![]] {
        update(&scene, EVENTS, "event_4", doc! { "$set": { "tags": tags } }).await?;
        becomes_expected(&scene).await?;
    }
    scene.holds(&Held::new()).await
}

#[tokio::test]
async fn two_users_swap_their_addresses() -> Result<()> {
    let mut scene = loaded("users", &handful()).await?;
    scene.start()?;
    becomes_expected(&scene).await?;
    let address = |number: u64, of: u64| {
        let change = doc! { "$set": { "email": format!("user{of}@example.org") } };
        update(&scene, USERS, object_id(number), change)
    };
    address(1, 2).await?;
    address(2, 1).await?;
    becomes_expected(&scene).await?;
    scene.holds(&Held::new()).await
}

#[tokio::test]
async fn rows_of_an_earlier_script_keep_their_ids_and_are_mended() -> Result<()> {
    let mut scene = loaded("half_filled", &handful()).await?;
    // Half of everything, with ids of its own and its known faults: Stripe in 1970, events without a description,
    // amounts of another day, the accounts' first ids only.
    scene.stage.execute(EARLIER_SCRIPT).await?;
    let ids = "select string_agg(id, ' ' order by id) from
               (select id from transactions union all select id from line_items union all select id from events
                union all select id from payment_methods union all select id from event_line_items
                union all select id from bank_accounts union all select id from users) as every
               where id like '%_EARLIER_%'";
    let before = scene.stage.text(ids).await?;
    scene.start()?;
    becomes_expected(&scene).await?;
    assert_eq!(scene.stage.text(ids).await?, before, "a row keeps its id");

    update(&scene, VENMO, "1", doc! { "$set": { "note": "later" } }).await?;
    update(&scene, EVENTS, "event_1", doc! { "$push": { "line_items": "line_item_3" } }).await?;
    remove(&scene, LINE_ITEMS, "line_item_2").await?;
    becomes_expected(&scene).await?;
    scene.holds(&Held::new()).await?;
    scene.verifies(20)
}

const EARLIER_SCRIPT: &str = r#"
insert into transactions (id, source, source_id, source_data, transaction_date) values
    ('txn_EARLIER_1', 'venmo', '1', '{}', '2025-02-19'), ('txn_EARLIER_2', 'venmo', '2', '{}', '2025-02-19'),
    ('txn_EARLIER_3', 'stripe', 'fctxn_1', '{}', '1970-01-01');
insert into payment_methods (id, name, type, external_id, is_active) values
    ('pm_EARLIER_1', 'Checking', 'bank', 'fca_2', true);
insert into bank_accounts (id, mongo_id, institution_name, display_name, last4, status) values
    ('fca_1', 'fca_1', 'Ally', 'old name', '0000', 'inactive');
insert into users (id, mongo_id, first_name, last_name, email, password_hash) values
    ('user_EARLIER_1', '666666660000000000000001', 'Ana', 'Old', 'old@example.org', 'x');
insert into line_items (id, transaction_id, mongo_id, date, amount, description, payment_method_id) values
    ('li_EARLIER_1', 'txn_EARLIER_1', 'line_item_1', '2025-02-19', 0, '', 'pm_venmo'),
    ('li_EARLIER_2', 'txn_EARLIER_1', 'line_item_2', '2025-02-19', 0, '', 'pm_EARLIER_1');
insert into events (id, mongo_id, date, description, category_id) values
    ('event_EARLIER_1', 'event_1', '2025-02-19', '', 'cat_rent');
insert into event_line_items (id, event_id, line_item_id) values
    ('eli_EARLIER_1', 'event_EARLIER_1', 'li_EARLIER_1');
"#;

/// A kind that was made: its source, its document (the last of those inserted), its line of `bad_data.md`.
#[derive(Debug)]
struct Kind {
    source: String,
    name: String,
    made: documents::Made,
    line: Line,
}

impl Kind {
    fn document(&self) -> Result<&Document> {
        Ok(&self.made.last().context("a document")?.1)
    }
}

/// One of each kind. What one document means to two mappings is made once.
fn one_of_each() -> Result<Vec<Kind>> {
    let mut kinds: Vec<Kind> = Vec::new();
    for ((collection, name), line) in bad_data::read(include_str!("bad_data.md"))? {
        let sources: &[&str] = match collection.as_str() {
            "raw" => &["venmo", "splitwise", "stripe", "cash"],
            other => &[other],
        };
        for source in sources {
            let other = if *source == "payment_methods" { "bank_accounts" } else { "" };
            let twin = kinds.iter().find(|kind| kind.source == other && kind.name == name);
            let made = match twin {
                Some(twin) => twin.made.clone(),
                None => documents::bad(source, &name, kinds.len() as u64)?,
            };
            let kind = Kind { source: (*source).to_owned(), name: name.clone(), made, line: line.clone() };
            // The oracle and the table were written apart: they must not contradict each other.
            let taken = *source == "users" && name == "duplicate_natural_key";
            let held = taken || !expected::has_row(source, kind.document()?)?;
            ensure!(held == line.held().is_some(), "{source} {name}: the table and the oracle disagree");
            kinds.push(kind);
        }
    }
    Ok(kinds)
}

fn outcomes(kinds: &[Kind]) -> Result<(Held, Coercions)> {
    let counted = |table: &str, column: &str, rule: &str| {
        (format!("public.{table}"), column.to_owned(), rule.to_owned())
    };
    let of_good_ones = [
        counted("payment_methods", "type", "enum"),
        counted("payment_methods", "is_active", "enum"),
        // The first event with a tag makes it.
        counted("event_tags", "tag_id", "missing_create"),
    ];
    let mut coercions: Coercions = of_good_ones.map(|key| (key, 1)).into();
    let mut held = Held::new();
    for kind in kinds {
        if let Some((column, reason)) = kind.line.held() {
            let key = expected::held_key(&kind.source, kind.document()?);
            held.insert(key, Reason { reason: reason.to_owned(), column: column.clone() });
        }
        let table = match kind.source.as_str() {
            "venmo" | "splitwise" | "stripe" | "cash" => "transactions",
            other => other,
        };
        for outcome in &kind.line.outcomes {
            let key = match outcome {
                Outcome::Coerced { column, rule } => counted(table, column, rule),
                Outcome::Stub { column } => counted(table, column, "missing_create"),
                Outcome::Null { column } => counted(table, column, "missing_null"),
                Outcome::Dropped { what } if what == "tags" => counted("event_tags", "", "element_left_out"),
                Outcome::Dropped { .. } => counted("event_line_items", "line_item_id", "missing_drop"),
                Outcome::Exact | Outcome::Held { .. } | Outcome::Source => continue,
            };
            *coercions.entry(key).or_default() += 1;
        }
    }
    Ok((held, coercions))
}

#[tokio::test]
async fn every_kind_of_bad_document_has_its_outcome_by_snapshot_and_heals() -> Result<()> {
    every_kind_has_its_outcome("bad_snapshot", false).await
}

#[tokio::test]
async fn every_kind_of_bad_document_has_its_outcome_by_stream_and_heals() -> Result<()> {
    every_kind_has_its_outcome("bad_stream", true).await
}

async fn every_kind_has_its_outcome(test: &str, by_stream: bool) -> Result<()> {
    let kinds = one_of_each()?;
    let (held, coercions) = outcomes(&kinds)?;
    let mut scene = loaded(test, &documents::generate(14, 300, 3)).await?;
    if by_stream {
        scene.start()?;
        becomes_expected(&scene).await?;
    }
    let mut inserted = 0;
    for (place, kind) in kinds.iter().enumerate() {
        if kinds[..place].iter().any(|other| other.made == kind.made) {
            continue;
        }
        for (collection, document) in &kind.made {
            insert(&scene, collection, document.clone()).await?;
            inserted += 1;
        }
    }
    if !by_stream {
        scene.start()?;
    }
    becomes_expected(&scene).await?;
    scene.holds(&held).await?;
    scene.verifies(100)?;
    ensure!(held.len() * 2 < inserted, "{} of {inserted} are held", held.len());
    // The good ones are counted too, and what waits counts each time it is written.
    let counted = scene.coercions().await?;
    let expected: Vec<_> = coercions.keys().collect();
    ensure!(counted.keys().collect::<Vec<_>>() == expected, "counted {counted:#?}\nexpected {coercions:#?}");
    ensure!(
        coercions.iter().all(|(key, count)| counted[key] >= *count),
        "counted {counted:#?}\nexpected {coercions:#?}"
    );
    let stubs =
        kinds.iter().filter(|kind| kind.line.outcomes.iter().any(|one| matches!(one, Outcome::Stub { .. })));
    let waits = "select count(*) from rowstream.wait";
    ensure!(
        scene.stage.number(waits).await? >= stubs.count() as i64,
        "what refers to a stub waits for the real row"
    );

    // Repaired in MongoDB, each becomes its row, and its entry is resolved.
    for kind in kinds.iter().filter(|kind| kind.line.held().is_some()) {
        let (collection, document) = kind.made.last().context("a document")?;
        let id = document.get("_id").context("an id")?;
        let repaired = documents::repaired(collection, document)?;
        scene.stage.collection(collection).replace_one(doc! { "_id": id }, repaired).await?;
    }
    scene.holds(&Held::new()).await?;
    becomes_expected(&scene).await?;
    let resolved = "select count(*) from rowstream.held where state = 'resolved'";
    ensure!(scene.stage.number(resolved).await? >= held.len() as i64, "every entry is resolved");
    Ok(())
}

#[tokio::test]
async fn a_category_that_comes_late_releases_the_events_that_wait_for_it() -> Result<()> {
    let mut scene = loaded("category", &handful()).await?;
    let mut waiting = event("event_9", &["line_item_6"]);
    waiting.insert("category", "Pets");
    insert(&scene, EVENTS, waiting).await?;
    scene.start()?;
    becomes_expected(&scene).await?;
    let reason = Reason { reason: "unresolved_reference".into(), column: Some("category_id".into()) };
    scene.holds(&Held::from([(("events".into(), "event_9".into()), reason)])).await?;
    // The application adds it: no document tells of that.
    scene
        .stage
        .execute("insert into categories (id, name, is_active) values ('cat_pets', 'Pets', true)")
        .await?;
    scene.holds(&Held::new()).await?;
    let there = "select count(*) from events join event_line_items as pair on pair.event_id = events.id
                 where category_id = 'cat_pets'";
    scene.waits("the event with its pair", async || Ok(scene.stage.number(there).await? == 1)).await
}

#[tokio::test]
async fn ten_thousand_and_more_are_there_and_are_looked_up_by_index() -> Result<()> {
    let documents = documents::generate(13, 36_000, 2_500);
    let mut scene = loaded("large", &documents).await?;
    scene.start()?;
    becomes_expected(&scene).await?;
    // Many at once, beside each other.
    let items = scene.stage.collection(LINE_ITEMS);
    items
        .update_many(doc! { "payment_method": "Freedom" }, doc! { "$set": { "payment_method": "Cash" } })
        .await?;
    scene
        .stage
        .collection(EVENTS)
        .update_many(doc! { "category": "Travel" }, doc! { "$pop": { "line_items": 1 } })
        .await?;
    scene.stage.collection(STRIPE).delete_many(doc! { "amount": { "$gt": 4_000 } }).await?;
    becomes_expected(&scene).await?;
    scene.holds(&Held::new()).await?;
    for table in ["transactions", "line_items", "event_line_items"] {
        let mut connection = scene.stage.postgres().await?;
        let count = format!("select count(*) from {table}");
        let rows: i64 = sqlx::query_scalar(AssertSqlSafe(count)).fetch_one(&mut connection).await?;
        ensure!(rows >= 10_000, "{rows} rows of {table}");
    }
    scene.queries_use_indexes(LARGE).await
}

#[test]
fn the_table_of_bad_data_and_the_oracle_agree() -> Result<()> {
    let kinds = one_of_each()?;
    assert!(kinds.iter().any(|kind| kind.name == "orphan_line_item"));
    let (held, _) = outcomes(&kinds)?;
    assert!(held.len() * 2 < kinds.len(), "holding everything is a failure");
    Ok(())
}
