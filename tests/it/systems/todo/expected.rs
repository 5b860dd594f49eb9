//! The thirteen tables as they must be, computed from the documents without a line of the product's code.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use bson::{Bson, Document};

use super::documents::{Collection, Todo};
use crate::systems::moment;
use crate::systems::scene::{Row, Rows, Table, row};

/// Every table, and what it must hold while MongoDB holds this.
pub(super) fn tables(todo: &Todo) -> Result<Vec<Table>> {
    let users = ids(todo, Collection::Users)?;
    let teams = ids(todo, Collection::Teams)?;
    let rows = |collection, row: &dyn Fn(&Document) -> Result<Option<Row>>| -> Result<Rows> {
        let mut rows = Rows::new();
        for document in todo.of(collection) {
            let of_document = row(document).with_context(|| format!("{document}"))?;
            if let Some(of_document) = of_document {
                rows.insert(id(document)?, of_document);
            }
        }
        Ok(rows)
    };
    Ok(vec![
        Table { name: "users", select: USERS, rows: rows(Collection::Users, &user)? },
        Table { name: "teams", select: TEAMS, rows: rows(Collection::Teams, &|team_| team(team_, &users))? },
        Table { name: "tasks", select: TASKS, rows: rows(Collection::Tasks, &task)? },
        Table { name: "task_labels", select: TASK_LABELS, rows: task_labels(todo)? },
        Table { name: "deferred_details", select: DEFERRED, rows: rows(Collection::Tasks, &deferred)? },
        Table { name: "assignments", select: ASSIGNMENTS, rows: rows(Collection::TaskDetails, &assignment)? },
        Table {
            name: "members",
            select: MEMBERS,
            rows: rows(Collection::UserTeamDetails, &|one| member(one, &users, &teams))?,
        },
        Table { name: "user_roles", select: USER_ROLES, rows: rows(Collection::UserRoles, &user_role)? },
        Table { name: "labels", select: LABELS, rows: rows(Collection::Labels, &label)? },
        Table { name: "roles", select: ROLES, rows: rows(Collection::Roles, &role)? },
        Table { name: "watchlist", select: WATCHLIST, rows: rows(Collection::Watchlist, &watched)? },
        Table { name: "audit_logs", select: AUDIT_LOGS, rows: rows(Collection::AuditLogs, &log)? },
        Table { name: "invite_codes", select: CODES, rows: rows(Collection::InviteCodes, &code)? },
    ])
}

fn id(document: &Document) -> Result<String> {
    Ok(document.get_object_id("_id")?.to_hex())
}

fn ids(todo: &Todo, collection: Collection) -> Result<BTreeSet<String>> {
    todo.of(collection).iter().map(id).collect()
}

/// The first of these fields that is there and not null.
fn first<'d>(document: &'d Document, fields: &[&str]) -> Option<&'d Bson> {
    fields.iter().filter_map(|field| document.get(*field)).find(|value| **value != Bson::Null)
}

/// Text as it is, an ObjectId as its hexadecimal digits.
fn text(document: &Document, fields: &[&str]) -> Result<Option<String>> {
    Ok(match first(document, fields) {
        None => None,
        Some(Bson::String(text)) => Some(text.clone()),
        Some(Bson::ObjectId(id)) => Some(id.to_hex()),
        Some(other) => bail!("{fields:?} is a {:?}", other.element_type()),
    })
}

fn flag(document: &Document, field: &str, absent: bool) -> Result<Option<String>> {
    let flag = match first(document, &[field]) {
        None => absent,
        Some(Bson::Boolean(flag)) => *flag,
        Some(other) => bail!("{field} is a {:?}", other.element_type()),
    };
    Ok(Some(if flag { "t" } else { "f" }.to_owned()))
}

/// A moment as PostgreSQL prints it in UTC.
fn moment(document: &Document, fields: &[&str]) -> Result<Option<String>> {
    let microseconds = match first(document, fields) {
        None => return Ok(None),
        Some(Bson::DateTime(date)) => date.timestamp_millis() * 1_000,
        Some(Bson::String(text)) => {
            moment::parse(text).with_context(|| format!("{fields:?} is no moment"))?
        }
        Some(other) => bail!("{fields:?} is a {:?}", other.element_type()),
    };
    Ok(Some(moment::text(microseconds)))
}

/// A row that was last written without an error.
fn synced<const N: usize>(columns: [(&str, Option<String>); N]) -> Row {
    let mut row = row(columns);
    row.insert("sync_status".to_owned(), Some("SYNCED".to_owned()));
    row.insert("sync_error".to_owned(), None);
    row
}

const USERS: &str = "select mongo_id, google_id, email_id, name, picture, created_at, updated_at,
    sync_status, sync_error from postgres_users";

fn user(user: &Document) -> Result<Option<Row>> {
    Ok(Some(synced([
        ("google_id", text(user, &["google_id"])?),
        ("email_id", text(user, &["email_id"])?),
        ("name", text(user, &["name"])?),
        ("picture", text(user, &["picture"])?),
        ("created_at", moment(user, &["created_at"])?),
        ("updated_at", moment(user, &["updated_at"])?),
    ])))
}

const TEAMS: &str =
    "select mongo_id, name, description, invite_code, poc_id, created_by, updated_by, is_deleted,
    created_at, updated_at, sync_status, sync_error from postgres_teams";

fn team(team: &Document, users: &BTreeSet<String>) -> Result<Option<Row>> {
    Ok(Some(synced([
        ("name", text(team, &["name"])?),
        ("description", text(team, &["description"])?),
        ("invite_code", text(team, &["invite_code"])?),
        // Nobody's id is nobody's.
        ("poc_id", text(team, &["poc_id"])?.filter(|user| users.contains(user))),
        ("created_by", text(team, &["created_by"])?),
        ("updated_by", text(team, &["updated_by"])?),
        ("is_deleted", flag(team, "is_deleted", false)?),
        ("created_at", moment(team, &["created_at"])?),
        ("updated_at", moment(team, &["updated_at"])?),
    ])))
}

const TASKS: &str = "select mongo_id, display_id, title, description, priority, status, is_acknowledged, is_deleted,
    started_at, due_at, created_at, updated_at, created_by, updated_by, sync_status, sync_error from postgres_tasks";

fn task(task: &Document) -> Result<Option<Row>> {
    let priority = match first(task, &["priority"]) {
        None => 3,
        Some(Bson::Int32(priority)) => *priority,
        Some(other) => bail!("priority is a {:?}", other.element_type()),
    };
    Ok(Some(synced([
        ("display_id", text(task, &["displayId"])?),
        ("title", text(task, &["title"])?),
        ("description", text(task, &["description"])?),
        ("priority", Some(priority.to_string())),
        ("status", text(task, &["status"])?.or_else(|| Some("TODO".to_owned()))),
        ("is_acknowledged", flag(task, "isAcknowledged", false)?),
        ("is_deleted", flag(task, "isDeleted", false)?),
        ("started_at", moment(task, &["startedAt"])?),
        ("due_at", moment(task, &["dueAt"])?),
        ("created_at", moment(task, &["createdAt"])?),
        ("updated_at", moment(task, &["updatedAt", "updated_at"])?),
        ("created_by", text(task, &["createdBy"])?),
        ("updated_by", text(task, &["updatedBy", "updated_by"])?),
    ])))
}

const TASK_LABELS: &str = "select concat_ws(' ', task.mongo_id, label_mongo_id) from postgres_task_labels
    join postgres_tasks as task on task.id = task_id";

/// One for each label of a task, however often and in whichever spelling it is listed.
fn task_labels(todo: &Todo) -> Result<Rows> {
    let mut rows = Rows::new();
    for task in todo.of(Collection::Tasks) {
        let Some(labels) = first(task, &["labels"]) else { continue };
        for label in labels.as_array().context("labels is no array")? {
            let label = match label {
                Bson::ObjectId(id) => id.to_hex(),
                Bson::String(text) => text.clone(),
                other => bail!("a label is a {:?}", other.element_type()),
            };
            rows.insert(format!("{} {label}", id(task)?), Row::new());
        }
    }
    Ok(rows)
}

const DEFERRED: &str = "select task.mongo_id, deferred_at, deferred_till, deferred_by
    from postgres_deferred_details join postgres_tasks as task on task.id = task_id";

fn deferred(task: &Document) -> Result<Option<Row>> {
    let Some(details) = first(task, &["deferredDetails"]) else { return Ok(None) };
    let details = details.as_document().context("deferredDetails is no document")?;
    if details.is_empty() {
        return Ok(None);
    }
    Ok(Some(row([
        ("deferred_at", moment(details, &["deferredAt"])?),
        ("deferred_till", moment(details, &["deferredTill"])?),
        ("deferred_by", text(details, &["deferredBy"])?),
    ])))
}

const ASSIGNMENTS: &str =
    "select mongo_id, task_mongo_id, assignee_id, user_type, team_id, is_active, created_at,
    updated_at, created_by, updated_by, sync_status, sync_error from postgres_task_assignments";

fn assignment(details: &Document) -> Result<Option<Row>> {
    Ok(Some(synced([
        ("task_mongo_id", text(details, &["task_id"])?),
        // Kept as it is, whether there is such a user or team or not.
        ("assignee_id", text(details, &["assignee_id"])?),
        ("user_type", text(details, &["user_type"])?),
        ("team_id", text(details, &["team_id"])?),
        ("is_active", flag(details, "is_active", true)?),
        ("created_at", moment(details, &["created_at"])?),
        ("updated_at", moment(details, &["updated_at"])?),
        ("created_by", text(details, &["created_by"])?),
        ("updated_by", text(details, &["updated_by"])?),
    ])))
}

const MEMBERS: &str =
    "select mongo_id, user_id, team_id, created_by, updated_by, is_active, created_at, updated_at,
    sync_status, sync_error from postgres_user_team_details";

/// None while its user or its team is not there.
fn member(member: &Document, users: &BTreeSet<String>, teams: &BTreeSet<String>) -> Result<Option<Row>> {
    let (user, team) = (text(member, &["user_id"])?, text(member, &["team_id"])?);
    let there = |id: &Option<String>, all: &BTreeSet<String>| id.as_ref().is_some_and(|id| all.contains(id));
    if !there(&user, users) || !there(&team, teams) {
        return Ok(None);
    }
    Ok(Some(synced([
        ("user_id", user),
        ("team_id", team),
        ("created_by", text(member, &["created_by"])?),
        ("updated_by", text(member, &["updated_by", "created_by"])?),
        ("is_active", flag(member, "is_active", true)?),
        ("created_at", moment(member, &["created_at"])?),
        ("updated_at", moment(member, &["updated_at", "created_at"])?),
    ])))
}

const USER_ROLES: &str =
    "select mongo_id, user_id, role_name, scope, team_id, is_active, created_at, created_by,
    sync_status, sync_error from postgres_user_roles";

fn user_role(role: &Document) -> Result<Option<Row>> {
    Ok(Some(synced([
        ("user_id", text(role, &["user_id"])?),
        ("role_name", text(role, &["role_name"])?),
        ("scope", text(role, &["scope"])?),
        ("team_id", text(role, &["team_id"])?),
        ("is_active", flag(role, "is_active", true)?),
        ("created_at", moment(role, &["created_at"])?),
        ("created_by", text(role, &["created_by"])?.or_else(|| Some("system".to_owned()))),
    ])))
}

const LABELS: &str =
    "select mongo_id, name, color, description, created_at, updated_at, sync_status, sync_error
    from postgres_labels";

/// None for a deleted one: the table knows no such thing.
fn label(label: &Document) -> Result<Option<Row>> {
    if label.get("isDeleted") == Some(&Bson::Boolean(true)) {
        return Ok(None);
    }
    Ok(Some(synced([
        ("name", text(label, &["name"])?),
        ("color", text(label, &["color"])?.or_else(|| Some("#000000".to_owned()))),
        ("description", text(label, &["description"])?),
        ("created_at", moment(label, &["createdAt"])?),
        ("updated_at", moment(label, &["updatedAt"])?),
    ])))
}

const ROLES: &str =
    "select mongo_id, name, description, permissions, created_at, updated_at, sync_status, sync_error
    from postgres_roles";

fn role(role: &Document) -> Result<Option<Row>> {
    Ok(Some(synced([
        ("name", text(role, &["name"])?),
        ("description", text(role, &["description"])?),
        ("permissions", Some("{}".to_owned())),
        ("created_at", moment(role, &["created_at"])?),
        ("updated_at", moment(role, &["updated_at"])?),
    ])))
}

const WATCHLIST: &str =
    "select mongo_id, task_id, user_id, is_active, created_by, created_at, updated_by, updated_at,
    sync_status, sync_error from postgres_watchlist";

fn watched(watched: &Document) -> Result<Option<Row>> {
    Ok(Some(synced([
        ("task_id", text(watched, &["taskId"])?),
        ("user_id", text(watched, &["userId"])?),
        ("is_active", flag(watched, "isActive", true)?),
        ("created_by", text(watched, &["createdBy"])?),
        ("created_at", moment(watched, &["createdAt"])?),
        ("updated_by", text(watched, &["updatedBy"])?),
        ("updated_at", moment(watched, &["updatedAt"])?),
    ])))
}

const AUDIT_LOGS: &str =
    "select mongo_id, task_id, team_id, previous_executor_id, new_executor_id, spoc_id, action,
    timestamp, status_from, status_to, assignee_from, assignee_to, performed_by, sync_status, sync_error
    from postgres_audit_logs";

fn log(log: &Document) -> Result<Option<Row>> {
    Ok(Some(synced([
        ("task_id", text(log, &["task_id"])?),
        ("team_id", text(log, &["team_id"])?),
        ("previous_executor_id", text(log, &["previous_executor_id"])?),
        ("new_executor_id", text(log, &["new_executor_id"])?),
        ("spoc_id", text(log, &["spoc_id"])?),
        ("action", text(log, &["action"])?),
        ("timestamp", moment(log, &["timestamp"])?),
        ("status_from", text(log, &["status_from"])?),
        ("status_to", text(log, &["status_to"])?),
        ("assignee_from", text(log, &["assignee_from"])?),
        ("assignee_to", text(log, &["assignee_to"])?),
        ("performed_by", text(log, &["performed_by"])?),
    ])))
}

const CODES: &str = "select mongo_id, code, description, created_by, used_by, is_used, created_at, used_at,
    sync_status, sync_error from postgres_team_creation_invite_codes";

fn code(code: &Document) -> Result<Option<Row>> {
    Ok(Some(synced([
        ("code", text(code, &["code"])?),
        ("description", text(code, &["description"])?),
        ("created_by", text(code, &["created_by"])?),
        ("used_by", text(code, &["used_by"])?),
        ("is_used", flag(code, "is_used", false)?),
        ("created_at", moment(code, &["created_at"])?),
        ("used_at", moment(code, &["used_at"])?),
    ])))
}
