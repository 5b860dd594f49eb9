//! Each kind of bad data, and what becomes of it as `bad_data.md` says.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use bson::oid::ObjectId;
use bson::{Bson, DateTime, Document, doc};

use super::documents::{Collection, Size, Todo, date, iso, text};
use super::{TODO, as_in_mongodb, documents, expected, load};
use crate::systems::bad_data::{self, BadData, Outcome};
use crate::systems::scene::{Coercions, Held, Reason, Scene};

fn table() -> Result<BadData> {
    bad_data::read(include_str!("bad_data.md"))
}

/// As the system's description lists them.
const KINDS: [&str; 19] = [
    "array_ref_not_array",
    "bool_as_string",
    "dangling_array_ref",
    "dangling_ref",
    "date_as_number",
    "date_out_of_range",
    "duplicate_array_ref",
    "duplicate_natural_key",
    "invalid_date",
    "malformed_ref",
    "missing_required",
    "nested_object_wrong",
    "nul_char",
    "null_required",
    "rule_violation",
    "too_long_for_column",
    "unknown_enum",
    "wrong_type_string",
    // Not in the list, and as likely.
    "malformed_array_ref",
];

/// A bad document is a healthy one after `spoil`. If its row is there, it is that of the healthy one after `as_if`.
struct Kind {
    collection: Collection,
    kind: &'static str,
    spoil: fn(&mut Document, &Document),
    as_if: fn(&mut Document),
}

fn set(document: &mut Document, field: &str, value: impl Into<Bson>) {
    document.insert(field, value);
}

fn nobody() -> ObjectId {
    Collection::Users.id(999_999_999)
}

const TOO_LONG: &str = "0123456789012345678901234567";

/// `spoil` is also handed a document of the same collection that came before.
#[rustfmt::skip]
fn kinds() -> Vec<Kind> {
    use Collection::{AuditLogs, InviteCodes, Labels, TaskDetails, Tasks, Teams, UserRoles, UserTeamDetails, Users, Watchlist};
    let kind = |collection, kind, spoil, as_if| Kind { collection, kind, spoil, as_if };
    // For what is held: there is no row to be as if.
    let held = |collection, kind, spoil| Kind { collection, kind, spoil, as_if: |_| {} };
    vec![
        kind(Watchlist, "dangling_ref (text)", |d, _| set(d, "taskId", text(nobody())), |d| set(d, "taskId", text(nobody()))),
        kind(TaskDetails, "dangling_ref (ObjectId)", |d, _| set(d, "task_id", nobody()), |d| set(d, "task_id", nobody())),
        kind(TaskDetails, "dangling_ref (assignee)", |d, _| set(d, "assignee_id", nobody()), |d| set(d, "assignee_id", nobody())),
        kind(Teams, "dangling_ref (point of contact, text)", |d, _| set(d, "poc_id", text(nobody())), |d| drop(d.remove("poc_id"))),
        kind(Teams, "dangling_ref (point of contact, ObjectId)", |d, _| set(d, "poc_id", nobody()), |d| drop(d.remove("poc_id"))),
        held(UserTeamDetails, "dangling_ref (member)", |d, _| set(d, "user_id", nobody())),
        held(UserTeamDetails, "dangling_ref (member's team)", |d, _| set(d, "team_id", text(nobody()))),
        held(Watchlist, "malformed_ref (\"undefined\")", |d, _| set(d, "taskId", "undefined")),
        held(Tasks, "malformed_ref (\"undefined\", creator)", |d, _| set(d, "createdBy", "undefined")),
        kind(TaskDetails, "malformed_ref (empty)", |d, _| set(d, "team_id", ""), |d| drop(d.remove("team_id"))),
        kind(Tasks, "malformed_ref (empty, updater)", |d, _| set(d, "updatedBy", ""), |d| drop(d.remove("updatedBy"))),
        held(Tasks, "malformed_ref (28 characters)", |d, _| set(d, "createdBy", TOO_LONG)),
        held(AuditLogs, "malformed_ref (28 characters, in a log)", |d, _| set(d, "performed_by", TOO_LONG)),
        kind(Tasks, "dangling_array_ref (text)", |d, _| set(d, "labels", vec![text(nobody())]), |d| set(d, "labels", vec![nobody()])),
        kind(Tasks, "dangling_array_ref (ObjectId)", |d, _| set(d, "labels", vec![nobody()]), |d| set(d, "labels", vec![nobody()])),
        kind(Tasks, "malformed_array_ref",
            |d, _| set(d, "labels", vec![text(Labels.id(1)), "undefined".into()]),
            |d| set(d, "labels", vec![Labels.id(1)])),
        kind(Tasks, "duplicate_array_ref",
            |d, _| set(d, "labels", vec![text(Labels.id(1)), Labels.id(2).into(), Labels.id(1).into()]),
            |d| set(d, "labels", vec![Labels.id(1), Labels.id(2)])),
        kind(Tasks, "array_ref_not_array (an id)", |d, _| set(d, "labels", text(Labels.id(1))), |d| set(d, "labels", vec![Labels.id(1)])),
        kind(Tasks, "array_ref_not_array (a name)", |d, _| set(d, "labels", "Bug"), |d| drop(d.remove("labels"))),
        kind(Tasks, "unknown_enum (\"Done\")", |d, _| set(d, "status", "Done"), |d| set(d, "status", "DONE")),
        held(Tasks, "unknown_enum (status)", |d, _| set(d, "status", "REVIEW")),
        kind(Tasks, "unknown_enum (priority \"HIGH\")", |d, _| set(d, "priority", "HIGH"), |d| set(d, "priority", 1)),
        held(Tasks, "unknown_enum (priority 0)", |d, _| set(d, "priority", 0)),
        held(UserRoles, "unknown_enum (role)", |d, _| set(d, "role_name", "Owner")),
        held(TaskDetails, "unknown_enum (kind of assignee)", |d, _| set(d, "user_type", "group")),
        kind(UserRoles, "rule_violation (owner of everything)", |d, _| owner_of_everything(d), owner_of_everything),
        kind(TaskDetails, "rule_violation (a user as team)", |d, _| set(d, "user_type", "team"), |d| set(d, "user_type", "team")),
        held(Tasks, "missing_required (title)", |d, _| drop(d.remove("title"))),
        held(Users, "missing_required (google_id)", |d, _| drop(d.remove("google_id"))),
        held(TaskDetails, "missing_required (task)", |d, _| drop(d.remove("task_id"))),
        held(Teams, "null_required (name)", |d, _| set(d, "name", Bson::Null)),
        kind(Tasks, "null_required (priority)", |d, _| set(d, "priority", Bson::Null), |d| set(d, "priority", 3)),
        held(Tasks, "invalid_date (a day that is none)", |d, _| set(d, "createdAt", "2025-02-30T10:00:00Z")),
        kind(Tasks, "invalid_date (a word)", |d, _| set(d, "startedAt", "soon"), |d| drop(d.remove("startedAt"))),
        kind(Tasks, "date_as_number", |d, _| set(d, "dueAt", NOW / 1_000), |d| set(d, "dueAt", date(NOW))),
        held(AuditLogs, "date_as_number (in a log)", |d, _| set(d, "timestamp", NOW / 1_000)),
        held(Users, "date_out_of_range", |d, _| set(d, "created_at", DateTime::from_millis(i64::MAX))),
        kind(Watchlist, "bool_as_string (\"true\")", |d, _| set(d, "isActive", "true"), |d| set(d, "isActive", true)),
        held(Teams, "bool_as_string (\"maybe\")", |d, _| set(d, "is_deleted", "maybe")),
        kind(Tasks, "nested_object_wrong (empty)", |d, _| set(d, "deferredDetails", doc! {}), |_| {}),
        held(Tasks, "nested_object_wrong (an array)", |d, _| set(d, "deferredDetails", Bson::Array(Vec::new()))),
        held(Tasks, "nested_object_wrong (text)", |d, _| set(d, "deferredDetails", "later")),
        held(Tasks, "nested_object_wrong (a date that is none)", |d, _| set(d, "deferredDetails", doc! { "deferredTill": "2025-02-30T10:00:00Z" })),
        held(Tasks, "wrong_type_string (a number)", |d, _| set(d, "title", 12)),
        held(Users, "wrong_type_string (an object)", |d, _| set(d, "name", doc! { "first": "A" })),
        kind(Tasks, "too_long_for_column (title)", |d, _| set(d, "title", "é".repeat(501)), |d| set(d, "title", "é".repeat(500))),
        held(Labels, "too_long_for_column (color)", |d, _| set(d, "color", "#a1b2c3d")),
        kind(Tasks, "nul_char (description)", |d, _| set(d, "description", "a\0b"), |d| set(d, "description", "ab")),
        held(Users, "nul_char (name)", |d, _| set(d, "name", "a\0b")),
        held(Users, "duplicate_natural_key (google_id)", |d, first| copy(d, first, &["google_id"])),
        held(Users, "duplicate_natural_key (email)", |d, first| copy(d, first, &["email_id"])),
        held(Teams, "duplicate_natural_key (invite code)", |d, first| copy(d, first, &["invite_code"])),
        held(Watchlist, "duplicate_natural_key (user and task)", |d, first| copy(d, first, &["userId", "taskId"])),
        held(UserTeamDetails, "duplicate_natural_key (user and team)", |d, first| {
            copy(d, first, &["user_id", "team_id"]);
            let other_spelling = match d.get("user_id") {
                Some(Bson::ObjectId(id)) => text(*id),
                Some(Bson::String(hex)) => ObjectId::parse_str(hex).map_or(Bson::Null, Bson::ObjectId),
                _ => Bson::Null,
            };
            set(d, "user_id", other_spelling);
        }),
        held(UserRoles, "duplicate_natural_key (active role)", |d, first| copy(d, first, &["user_id", "role_name", "scope", "team_id", "is_active"])),
        held(Labels, "duplicate_natural_key (label)", |d, first| copy(d, first, &["name"])),
        held(InviteCodes, "duplicate_natural_key (code)", |d, first| copy(d, first, &["code"])),
    ]
}

fn owner_of_everything(role: &mut Document) {
    set(role, "role_name", "owner");
    set(role, "scope", "GLOBAL");
    role.remove("team_id");
}

fn copy(document: &mut Document, from: &Document, fields: &[&str]) {
    for field in fields {
        match from.get(*field) {
            Some(value) => drop(document.insert(*field, value.clone())),
            None => drop(document.remove(*field)),
        }
    }
}

/// 2025-09-01T10:14:35.123Z
const NOW: i64 = 1_756_721_675_123_000;

/// Nothing is wrong with it, and nothing of it is anybody else's. Its user is one of its own, with the same number.
fn healthy(collection: Collection, number: u64) -> Document {
    let (user, team) = (Collection::Users.id(OWN_USERS + number), Collection::Teams.id(0));
    let mut document = doc! { "_id": collection.id(number) };
    document.extend(match collection {
        Collection::Users => doc! {
            "google_id": format!("9{number:020}"), "email_id": format!("bad.{number}@example.org"), "name": "Healthy",
            "created_at": date(NOW), "updated_at": date(NOW),
        },
        Collection::Teams => doc! {
            "name": "Healthy", "invite_code": format!("H{number}"), "poc_id": user, "created_by": text(user),
            "updated_by": text(user), "created_at": iso(NOW, "Z"), "updated_at": iso(NOW, "Z"), "is_deleted": false,
        },
        Collection::Tasks => doc! {
            "displayId": format!("#{number}"), "title": "Healthy", "priority": 2, "status": "TODO",
            "isAcknowledged": false, "isDeleted": false, "createdAt": iso(NOW, "Z"), "createdBy": text(user),
        },
        Collection::TaskDetails => doc! {
            "task_id": text(Collection::Tasks.id(0)), "assignee_id": text(user), "user_type": "user",
            "is_active": false, "created_by": text(user), "created_at": iso(NOW, "Z"),
        },
        Collection::UserTeamDetails => doc! {
            "user_id": text(user), "team_id": text(team), "is_active": true, "created_by": text(user),
            "updated_by": text(user), "created_at": iso(NOW, "Z"), "updated_at": iso(NOW, "Z"),
        },
        Collection::UserRoles => doc! {
            "user_id": text(user), "role_name": "member", "scope": "TEAM", "team_id": text(team), "is_active": true,
            "created_at": iso(NOW, "Z"), "created_by": "system",
        },
        Collection::Labels => doc! {
            "name": format!("Label {number}"), "color": "#a1b2c3", "isDeleted": false, "createdAt": date(NOW),
            "updatedAt": Bson::Null, "createdBy": "system", "updatedBy": Bson::Null,
        },
        Collection::Watchlist => doc! {
            "taskId": text(Collection::Tasks.id(0)), "userId": text(user), "isActive": true, "createdAt": date(NOW),
            "createdBy": text(user), "updatedAt": Bson::Null, "updatedBy": Bson::Null,
        },
        Collection::AuditLogs => doc! {
            "action": "team_updated", "timestamp": iso(NOW, "Z"), "team_id": text(team), "performed_by": text(user),
        },
        Collection::InviteCodes => doc! {
            "code": format!("H{number}"), "created_by": text(user), "created_at": iso(NOW, "Z"), "is_used": false,
        },
        Collection::Roles | Collection::Counters => doc! {},
    });
    document
}

/// Where the numbers of the healthy documents' own users begin.
const OWN_USERS: u64 = 1_000_000;

/// The bad documents of all kinds, with numbers from `from`, and what MongoDB would hold if each were as good as it
/// gets.
struct Spoiled {
    bad: Vec<(Collection, &'static str, Document)>,
    /// By the place in `bad`; None if it is held.
    as_if: Vec<Option<Document>>,
    users: Vec<Document>,
}

fn spoil(todo: &Todo, from: u64) -> Result<Spoiled> {
    let table = table()?;
    let mut spoiled = Spoiled { bad: Vec::new(), as_if: Vec::new(), users: Vec::new() };
    for (kind, number) in kinds().iter().zip(from..) {
        spoiled.users.push(healthy(Collection::Users, OWN_USERS + number));
        let line = table.get(&(kind.collection.name().to_owned(), kind.kind.to_owned()));
        let line =
            line.with_context(|| format!("bad_data.md lacks {} of {}", kind.kind, kind.collection.name()))?;
        let first = first_of(todo, kind.collection).context("a document to copy from")?;
        let (mut bad, mut good) = (healthy(kind.collection, number), healthy(kind.collection, number));
        (kind.spoil)(&mut bad, first);
        (kind.as_if)(&mut good);
        spoiled.bad.push((kind.collection, kind.kind, bad));
        spoiled.as_if.push(line.held().is_none().then_some(good));
    }
    Ok(spoiled)
}

/// An active one, where that matters: only active roles are unique.
fn first_of(todo: &Todo, collection: Collection) -> Option<&Document> {
    let unique = |document: &&Document| {
        collection != Collection::UserRoles
            || (document.get_bool("is_active").unwrap_or(false) && document.contains_key("team_id"))
    };
    todo.of(collection).iter().find(unique)
}

impl Spoiled {
    async fn insert(&self, scene: &Scene) -> Result<()> {
        scene.load(Collection::Users.name(), &self.users).await?;
        let mut all: BTreeMap<Collection, Vec<Document>> = BTreeMap::new();
        for (collection, _, document) in &self.bad {
            all.entry(*collection).or_default().push(document.clone());
        }
        for (collection, documents) in all {
            scene.load(collection.name(), &documents).await?;
        }
        Ok(())
    }

    /// As if nothing else were there.
    fn added_to(&self, todo: &mut Todo) {
        for user in &self.users {
            todo.push(Collection::Users, user.clone());
        }
        for ((collection, ..), document) in self.bad.iter().zip(&self.as_if) {
            if let Some(document) = document {
                todo.push(*collection, document.clone());
            }
        }
    }

    /// Who waits for a row that is not there, as `source source_id`.
    fn waiting(&self) -> Result<BTreeSet<String>> {
        let table = table()?;
        let mut waiting = BTreeSet::new();
        for (collection, kind, document) in &self.bad {
            let line = &table[&(collection.name().to_owned(), (*kind).to_owned())];
            let waits = line.outcomes.iter().any(|outcome| match outcome {
                Outcome::Null { .. } => true,
                Outcome::Coerced { rule, .. } => rule == "missing_keep",
                Outcome::Held { reason, .. } => reason == "unresolved_reference",
                Outcome::Exact | Outcome::Stub { .. } | Outcome::Dropped { .. } | Outcome::Source => false,
            });
            if waits {
                waiting.insert(format!("{} {}", collection.name(), document.get_object_id("_id")?));
            }
        }
        Ok(waiting)
    }

    fn held(&self) -> Result<Held> {
        let table = table()?;
        let mut held = Held::new();
        for (collection, kind, document) in &self.bad {
            let line = &table[&(collection.name().to_owned(), (*kind).to_owned())];
            if let Some((column, reason)) = line.held() {
                let key = (collection.name().to_owned(), document.get_object_id("_id")?.to_hex());
                held.insert(key, Reason { reason: reason.to_owned(), column: column.clone() });
            }
        }
        Ok(held)
    }
}

fn table_of(collection: Collection) -> &'static str {
    match collection {
        Collection::Users => "postgres_users",
        Collection::Teams => "postgres_teams",
        Collection::Tasks => "postgres_tasks",
        Collection::TaskDetails => "postgres_task_assignments",
        Collection::UserTeamDetails => "postgres_user_team_details",
        Collection::UserRoles => "postgres_user_roles",
        Collection::Labels => "postgres_labels",
        Collection::Roles => "postgres_roles",
        Collection::Watchlist => "postgres_watchlist",
        Collection::AuditLogs => "postgres_audit_logs",
        Collection::InviteCodes => "postgres_team_creation_invite_codes",
        Collection::Counters => "",
    }
}

/// What is altered, by the lines of the table. Healthy documents are copied exactly: nothing of them is counted.
fn coercions() -> Result<Coercions> {
    let mut coercions = Coercions::new();
    for ((collection, _), line) in table()? {
        let collection = Collection::named(&collection).context(collection)?;
        for outcome in line.outcomes {
            let (table, column, rule) = match outcome {
                Outcome::Coerced { column, rule } => (table_of(collection), column, rule),
                Outcome::Null { column } => (table_of(collection), column, "missing_null".to_owned()),
                Outcome::Dropped { .. } => {
                    ("postgres_task_labels", String::new(), "element_left_out".to_owned())
                }
                Outcome::Exact | Outcome::Stub { .. } | Outcome::Held { .. } | Outcome::Source => continue,
            };
            *coercions.entry((format!("public.{table}"), column, rule)).or_default() += 1;
        }
    }
    Ok(coercions)
}

#[test]
fn todo_the_table_of_bad_data_has_every_kind_and_a_maker_for_each() -> Result<()> {
    let table = table()?;
    let made: BTreeSet<_> =
        kinds().iter().map(|kind| (kind.collection.name().to_owned(), kind.kind.to_owned())).collect();
    assert_eq!(made, table.keys().cloned().collect());
    let listed: BTreeSet<&str> = table.keys().filter_map(|(_, kind)| kind.split(' ').next()).collect();
    assert_eq!(listed, BTreeSet::from(KINDS));
    let held = table.values().filter(|line| line.held().is_some()).count();
    ensure!(held * 3 < table.len() * 2, "holding everything is a failure: {held} of {}", table.len());
    Ok(())
}

#[tokio::test]
async fn todo_bad_data_ends_as_the_table_says_and_heals_when_it_is_repaired() -> Result<()> {
    let mut scene = Scene::set(TODO, "bad").await?;
    let todo = Todo::generate(40, Size::SMALL);
    load(&scene, &todo).await?;
    let copied = spoil(&todo, 1_000)?;
    copied.insert(&scene).await?;
    // The stream begins with the last write: let that be none of a mapping, or it would come before the copy.
    scene.load(Collection::Counters.name(), &[doc! { "_id": "last", "seq": 1_i64 }]).await?;
    scene.start()?;
    let mut as_if = todo.clone();
    copied.added_to(&mut as_if);
    scene.becomes(&expected::tables(&as_if)?).await?;
    scene.holds(&copied.held()?).await?;
    assert_eq!(scene.coercions().await?, coercions()?, "by snapshot");
    let waiting = "select distinct concat_ws(' ', source, source_id) from rowstream.wait";
    assert_eq!(scene.rows(waiting).await?.into_keys().collect::<BTreeSet<_>>(), copied.waiting()?);

    // The same once more, while it follows.
    let followed = spoil(&todo, 2_000)?;
    followed.insert(&scene).await?;
    followed.added_to(&mut as_if);
    scene.becomes(&expected::tables(&as_if)?).await?;
    let mut held = copied.held()?;
    held.extend(followed.held()?);
    scene.holds(&held).await?;
    scene.verifies(100)?;
    let twice = coercions()?.into_iter().map(|(rule, count)| (rule, 2 * count)).collect::<Coercions>();
    assert_eq!(scene.coercions().await?, twice, "and by stream");

    // Somebody repairs them in MongoDB, and does nothing else.
    for (collection, kind, document) in copied.bad.iter().chain(&followed.bad) {
        let id = document.get_object_id("_id")?;
        let number = u64::from_be_bytes(id.bytes()[4..].try_into()?);
        let repaired = documents(&scene, *collection)
            .replace_one(doc! { "_id": id }, healthy(*collection, number))
            .await?;
        ensure!(repaired.matched_count == 1, "{kind}");
    }
    as_in_mongodb(&scene).await?;
    scene.verifies(100)?;
    let resolved = "select count(*) from rowstream.held where state = 'resolved'";
    assert_eq!(scene.stage.number(resolved).await?, held.len() as i64);
    assert_eq!(scene.stage.number("select count(*) from rowstream.wait").await?, 0);
    Ok(())
}

#[tokio::test]
async fn todo_a_row_whose_document_goes_bad_keeps_its_state_and_says_so() -> Result<()> {
    let (scene, _) = super::copied("marked", 41).await?;
    let task = Collection::Tasks.id(5);
    let row =
        format!("select concat_ws(' ', title, sync_status) from postgres_tasks where mongo_id = '{task}'");
    let before = scene.stage.text(&row).await?.context("the row")?;
    let spoil = doc! { "$set": { "title": 12, "status": "DONE" } };
    documents(&scene, Collection::Tasks).update_one(doc! { "_id": task }, spoil).await?;
    let marked = before.replace("SYNCED", "FAILED");
    scene
        .waits("the row to be marked", async || Ok(scene.stage.text(&row).await?.as_ref() == Some(&marked)))
        .await?;
    let error = format!("select sync_error from postgres_tasks where mongo_id = '{task}'");
    let error = scene.stage.text(&error).await?.context("an error")?;
    assert!(error.contains("title"), "{error}");
    let repair = doc! { "$set": { "title": "Good again" } };
    documents(&scene, Collection::Tasks).update_one(doc! { "_id": task }, repair).await?;
    as_in_mongodb(&scene).await
}
