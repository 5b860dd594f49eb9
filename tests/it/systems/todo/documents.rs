//! A task manager's MongoDB, made up. The same seed gives the same documents on every machine.
//!
//! The spellings are those of a real application: what it inserts is a JSON dump (ids and moments as text, no
//! nulls), what it updates goes through the driver (ObjectIds, dates, nulls). With the oddities that do no harm:
//! fields of older versions, ids of another system, absent labels.

use std::collections::{BTreeMap, BTreeSet};

use bson::oid::ObjectId;
use bson::{Bson, DateTime, Document, doc};

use crate::support::expenses::Random;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Collection {
    Users,
    Teams,
    Tasks,
    TaskDetails,
    UserTeamDetails,
    UserRoles,
    Labels,
    Roles,
    Watchlist,
    AuditLogs,
    InviteCodes,
    Counters,
}

impl Collection {
    pub(super) const ALL: [Self; 12] = [
        Self::Users,
        Self::Teams,
        Self::Tasks,
        Self::TaskDetails,
        Self::UserTeamDetails,
        Self::UserRoles,
        Self::Labels,
        Self::Roles,
        Self::Watchlist,
        Self::AuditLogs,
        Self::InviteCodes,
        Self::Counters,
    ];

    /// In MongoDB, and as a source.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Users => "users",
            Self::Teams => "teams",
            Self::Tasks => "tasks",
            Self::TaskDetails => "task_details",
            Self::UserTeamDetails => "user_team_details",
            Self::UserRoles => "user_roles",
            Self::Labels => "labels",
            Self::Roles => "roles",
            Self::Watchlist => "watchlist",
            Self::AuditLogs => "audit_logs",
            Self::InviteCodes => "team_creation_invite_codes",
            Self::Counters => "counters",
        }
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|collection| collection.name() == name)
    }

    /// Of its `number`th document.
    pub(super) fn id(self, number: u64) -> ObjectId {
        let mut bytes = [0x68, 0xb5, 0x2a, self as u8, 0, 0, 0, 0, 0, 0, 0, 0];
        bytes[4..].copy_from_slice(&number.to_be_bytes());
        ObjectId::from_bytes(bytes)
    }
}

/// How many documents of each kind there are; labels and roles are fixed sets.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub(super) users: u64,
    pub(super) teams: u64,
    pub(super) tasks: u64,
    pub(super) assignments: u64,
    pub(super) members: u64,
    pub(super) roles: u64,
    pub(super) watched: u64,
    pub(super) logs: u64,
    pub(super) codes: u64,
}

impl Size {
    pub(super) const SMALL: Self = Self {
        users: 60,
        teams: 20,
        tasks: 120,
        assignments: 160,
        members: 80,
        roles: 70,
        watched: 60,
        logs: 120,
        codes: 20,
    };

    pub(super) const LARGE: Self = Self {
        users: 10_000,
        teams: 10_000,
        tasks: 12_000,
        assignments: 15_000,
        members: 12_000,
        roles: 10_000,
        watched: 10_000,
        logs: 15_000,
        codes: 10_000,
    };
}

/// Everything that the application holds.
#[derive(Debug, Clone, Default)]
pub(super) struct Todo {
    documents: BTreeMap<Collection, Vec<Document>>,
}

/// Makes the document of a number.
type OneOfKind = fn(&mut Writer, u64) -> Document;

impl Todo {
    pub(super) fn generate(seed: u64, size: Size) -> Self {
        let mut writer = Writer { random: Random(seed), size };
        let mut todo = Self::default();
        let kinds: [(Collection, u64, OneOfKind); 9] = [
            (Collection::Users, size.users, Writer::user),
            (Collection::Teams, size.teams, Writer::team),
            (Collection::Tasks, size.tasks, Writer::task),
            (Collection::TaskDetails, size.assignments, Writer::assignment),
            (Collection::Labels, 8, Writer::label),
            (Collection::Roles, 4, Writer::role),
            (Collection::AuditLogs, size.logs, Writer::log),
            (Collection::InviteCodes, size.codes, Writer::code),
            (Collection::Counters, 1, Writer::counter),
        ];
        for (collection, count, document) in kinds {
            let documents = (0..count).map(|number| document(&mut writer, number)).collect();
            todo.documents.insert(collection, documents);
        }
        todo.documents.insert(Collection::UserTeamDetails, writer.members());
        todo.documents.insert(Collection::UserRoles, writer.roles());
        todo.documents.insert(Collection::Watchlist, writer.watchlist());
        todo
    }

    pub(super) fn of(&self, collection: Collection) -> &[Document] {
        self.documents.get(&collection).map_or(&[], Vec::as_slice)
    }

    pub(super) fn set(&mut self, collection: Collection, documents: Vec<Document>) {
        self.documents.insert(collection, documents);
    }

    pub(super) fn push(&mut self, collection: Collection, document: Document) {
        self.documents.entry(collection).or_default().push(document);
    }

    pub(super) fn count(&self) -> usize {
        self.documents.values().map(Vec::len).sum()
    }
}

// ----------------------------------------------------------------------------------------------------
// Spellings

/// As pydantic dumps an instant: microseconds if there are any, and `Z`.
pub(super) fn iso(microseconds: i64, zone: &str) -> Bson {
    let seconds = DateTime::from_millis(microseconds.div_euclid(1_000_000) * 1_000);
    let text = seconds.try_to_rfc3339_string().expect("a year of four digits");
    let fraction = match microseconds.rem_euclid(1_000_000) {
        0 => String::new(),
        some => format!(".{some:06}"),
    };
    Bson::String(format!("{}{fraction}{zone}", text.trim_end_matches('Z')))
}

/// As the driver stores it.
pub(super) fn date(microseconds: i64) -> Bson {
    Bson::DateTime(DateTime::from_millis(microseconds.div_euclid(1_000)))
}

pub(super) fn text(id: ObjectId) -> Bson {
    Bson::String(id.to_hex())
}

#[derive(Debug)]
struct Writer {
    random: Random,
    size: Size,
}

impl Writer {
    fn one_in(&mut self, count: u64) -> bool {
        self.random.below(count) == 0
    }

    /// In the first ten months of 2025, in microseconds.
    fn moment(&mut self) -> i64 {
        let seconds = 1_735_689_600 + self.random.below(300 * 86_400) as i64;
        let fraction = if self.one_in(8) { 0 } else { self.random.below(1_000_000) as i64 };
        seconds * 1_000_000 + fraction
    }

    fn either_moment(&mut self) -> Bson {
        let moment = self.moment();
        if self.one_in(2) { date(moment) } else { iso(moment, "Z") }
    }

    fn either(&mut self, id: ObjectId) -> Bson {
        if self.one_in(2) { Bson::ObjectId(id) } else { text(id) }
    }

    fn a_user(&mut self) -> ObjectId {
        Collection::Users.id(self.random.below(self.size.users))
    }

    fn a_team(&mut self) -> ObjectId {
        Collection::Teams.id(self.random.below(self.size.teams))
    }

    fn a_task(&mut self) -> ObjectId {
        Collection::Tasks.id(self.random.below(self.size.tasks))
    }

    fn some_labels(&mut self) -> Vec<ObjectId> {
        let mut labels = BTreeSet::new();
        for _ in 0..self.random.below(4) {
            labels.insert(Collection::Labels.id(self.random.below(8)));
        }
        labels.into_iter().collect()
    }

    fn user(&mut self, number: u64) -> Document {
        let created = self.moment();
        let mut user = doc! {
            "_id": Collection::Users.id(number),
            "google_id": format!("1{:020}", 10_000_000_000 + number * 7_919),
            "email_id": format!("person.{number}@example.org"),
            "name": format!("{} {}", self.random.pick(FIRST_NAMES), self.random.pick(LAST_NAMES)),
            "created_at": date(created),
            "updated_at": date(created + 86_400_000_000),
        };
        match self.random.below(4) {
            0 => {}
            1 => drop(user.insert("picture", Bson::Null)),
            _ => drop(user.insert("picture", format!("https://example.org/pictures/{number}?sz=96"))),
        }
        user
    }

    fn team(&mut self, number: u64) -> Document {
        let mut team = doc! { "_id": Collection::Teams.id(number), "name": format!("Team {number} ⛵") };
        if self.one_in(2) {
            team.insert("description", self.random.pick(NOTES));
        }
        // Among them digits only, with a leading zero: text all the same.
        let code = if number.is_multiple_of(5) { format!("{number:07}") } else { format!("T{number:05}x") };
        team.insert("invite_code", code);
        let poc = self.a_user();
        match self.random.below(8) {
            0 => {}
            1 => drop(team.insert("poc_id", Bson::Null)),
            _ => drop(team.insert("poc_id", self.either(poc))),
        }
        let (created_by, updated_by) = (self.a_user(), self.a_user());
        team.insert("created_by", text(created_by));
        team.insert("updated_by", text(updated_by));
        team.insert("created_at", self.either_moment());
        team.insert("updated_at", self.either_moment());
        team.insert("is_deleted", self.one_in(20));
        team
    }

    fn task(&mut self, number: u64) -> Document {
        let oldest = number.is_multiple_of(20);
        let mut task = doc! {
            "_id": Collection::Tasks.id(number),
            "displayId": format!("#{}", number + 1),
            "title": format!("{} {number}", self.random.pick(TITLES)),
            "priority": self.random.pick(&[1, 2, 3]),
            "status": self.random.pick(STATUSES),
            "isAcknowledged": self.one_in(2),
            "isDeleted": false,
        };
        if !self.one_in(3) {
            task.insert("description", self.random.pick(NOTES));
        }
        let labels = self.some_labels();
        if !oldest {
            task.insert("labels", labels.iter().copied().map(text).collect::<Vec<_>>());
        }
        for field in ["startedAt", "dueAt"] {
            let moment = self.moment();
            match self.random.below(3) {
                0 => {}
                1 => drop(task.insert(field, iso(moment, "Z"))),
                _ => drop(task.insert(field, date(moment))),
            }
        }
        let created = self.moment();
        task.insert("createdAt", iso(created, if oldest { "" } else { "Z" }));
        let creator = self.a_user();
        // The oldest came from another system, with its ids.
        let foreign = number.is_multiple_of(50);
        task.insert(
            "createdBy",
            if foreign { Bson::String(format!("fs{number:018}")) } else { text(creator) },
        );
        if oldest {
            let assignee = self.a_user();
            task.insert("assignee", text(assignee));
        }
        if number % 97 == 1 {
            task.insert("private", true);
        }
        if self.one_in(2) {
            self.update_task(&mut task, created);
        }
        if number % 31 == 3 {
            // The removal of a member wrote the naming style of another collection.
            let remover = self.a_user();
            task.insert("updated_at", date(created + 7_200_000_000));
            task.insert("updated_by", remover);
        }
        task
    }

    fn update_task(&mut self, task: &mut Document, created: i64) {
        let updater = self.a_user();
        task.insert("updatedAt", date(created + 3_600_000_000));
        task.insert("updatedBy", text(updater));
        if self.one_in(2) {
            task.insert("labels", self.some_labels());
        }
        match self.random.below(4) {
            0 => {
                let deferrer = self.a_user();
                let deferred = doc! {
                    "deferredAt": date(created + 3_600_000_000),
                    "deferredTill": date(created + 864_000_000_000),
                    "deferredBy": text(deferrer),
                };
                task.insert("deferredDetails", deferred);
            }
            1 => drop(task.insert("deferredDetails", Bson::Null)),
            _ => {}
        }
        if self.one_in(10) {
            task.insert("isDeleted", true);
        }
    }

    fn assignment(&mut self, number: u64) -> Document {
        // After one for each task, history: several that are no longer active.
        let history = number >= self.size.tasks;
        let task = Collection::Tasks.id(number % self.size.tasks);
        let to_team = self.one_in(5);
        let assignee = if to_team { self.a_team() } else { self.a_user() };
        let creator = self.a_user();
        let mut details = doc! {
            "_id": Collection::TaskDetails.id(number),
            "task_id": self.either(task),
            "assignee_id": self.either(assignee),
            "user_type": if to_team { "team" } else { "user" },
            "is_active": !history,
            "created_by": self.either(creator),
            "created_at": iso(self.moment(), "Z"),
        };
        if to_team {
            details.insert("team_id", self.either(assignee));
            let executor = self.a_user();
            if self.one_in(2) {
                details.insert("executor_id", self.either(executor));
            }
        }
        if history {
            let updater = self.a_user();
            details.insert("updated_by", updater);
            details.insert("updated_at", date(self.moment()));
        }
        details
    }

    fn members(&mut self) -> Vec<Document> {
        let mut pairs = BTreeSet::new();
        let mut members = Vec::new();
        while (members.len() as u64) < self.size.members {
            let (user, team) = (self.a_user(), self.a_team());
            if !pairs.insert((user, team)) {
                continue;
            }
            let (creator, updater) = (self.a_user(), self.a_user());
            let mut member = doc! {
                "_id": Collection::UserTeamDetails.id(members.len() as u64),
                "user_id": self.either(user),
                "team_id": self.either(team),
                "is_active": !self.one_in(6),
                "created_by": text(creator),
                "updated_by": self.either(updater),
                "created_at": self.either_moment(),
                "updated_at": self.either_moment(),
            };
            if self.one_in(10) {
                // Left, and came back.
                member.insert("role_id", "1");
            }
            members.push(member);
        }
        members
    }

    fn roles(&mut self) -> Vec<Document> {
        let mut active = BTreeSet::new();
        (0..self.size.roles)
            .map(|number| {
                let (user, team, creator) = (self.a_user(), self.a_team(), self.a_user());
                let global = self.one_in(8);
                let name = if global { "moderator" } else { self.random.pick(&["owner", "admin", "member"]) };
                let mut role = doc! {
                    "_id": Collection::UserRoles.id(number),
                    "user_id": text(user),
                    "role_name": name,
                    "scope": if global { "GLOBAL" } else { "TEAM" },
                };
                if !global {
                    role.insert("team_id", text(team));
                }
                // Once more the same role is history; without a team the key is never taken.
                let free = global || active.insert((user, name, team));
                role.insert("is_active", free && !self.one_in(8));
                role.insert("created_at", self.either_moment());
                match self.random.below(3) {
                    0 => {}
                    1 => drop(role.insert("created_by", "system")),
                    _ => drop(role.insert("created_by", text(creator))),
                }
                role
            })
            .collect()
    }

    fn label(&mut self, number: u64) -> Document {
        let (name, color) = LABELS[number as usize];
        doc! {
            "_id": Collection::Labels.id(number),
            "name": name,
            "color": color,
            "description": format!("Tasks about {}", name.to_lowercase()),
            // Nobody uses the last one any more.
            "isDeleted": number == 7,
            "createdAt": date(self.moment()),
            "updatedAt": Bson::Null,
            "createdBy": "system",
            "updatedBy": Bson::Null,
        }
    }

    fn role(&mut self, number: u64) -> Document {
        let name = ["moderator", "owner", "admin", "member"][number as usize];
        doc! {
            "_id": Collection::Roles.id(number),
            "name": name,
            "scope": if number == 0 { "GLOBAL" } else { "TEAM" },
            "description": format!("{name} of a {}", if number == 0 { "site" } else { "team" }),
            "is_active": true,
            "created_at": iso(self.moment(), "Z"),
            "created_by": "system",
        }
    }

    fn watchlist(&mut self) -> Vec<Document> {
        let mut pairs = BTreeSet::new();
        let mut watched = Vec::new();
        while (watched.len() as u64) < self.size.watched {
            let (user, task) = (self.a_user(), self.a_task());
            if !pairs.insert((user, task)) {
                continue;
            }
            let updated = self.one_in(3);
            let created = self.moment();
            watched.push(doc! {
                "_id": Collection::Watchlist.id(watched.len() as u64),
                "taskId": text(task),
                "userId": text(user),
                "isActive": !(updated && self.one_in(2)),
                "createdAt": date(created),
                "createdBy": text(user),
                "updatedAt": if updated { date(created + 60_000_000) } else { Bson::Null },
                "updatedBy": if updated { Bson::ObjectId(user) } else { Bson::Null },
            });
        }
        watched
    }

    fn log(&mut self, number: u64) -> Document {
        let action = self.random.pick(ACTIONS);
        let ids: [ObjectId; 4] = [self.a_user(), self.a_user(), self.a_user(), self.a_user()];
        let (task, team) = (self.a_task(), self.a_team());
        let mut log = doc! {
            "_id": Collection::AuditLogs.id(number),
            "action": action,
            "timestamp": iso(self.moment(), "Z"),
            "performed_by": text(ids[0]),
        };
        match action {
            "status_changed" => {
                log.insert("task_id", text(task));
                log.insert("status_from", self.random.pick(STATUSES));
                log.insert("status_to", self.random.pick(STATUSES));
            }
            "reassign_executor" => {
                log.insert("task_id", text(task));
                log.insert("team_id", text(team));
                log.insert("spoc_id", text(ids[1]));
                log.insert("previous_executor_id", text(ids[2]));
                log.insert("new_executor_id", text(ids[3]));
            }
            "assigned_to_team" | "unassigned_from_team" | "assigned_to_member" => {
                log.insert("task_id", text(task));
                log.insert("team_id", text(team));
                log.insert("assignee_from", text(ids[1]));
                log.insert("assignee_to", text(ids[2]));
            }
            _ => drop(log.insert("team_id", text(team))),
        }
        log
    }

    fn code(&mut self, number: u64) -> Document {
        let (creator, user) = (self.a_user(), self.a_user());
        let created = self.moment();
        let used = self.one_in(2);
        let mut code = doc! {
            "_id": Collection::InviteCodes.id(number),
            "code": format!("{number:06}"),
            "created_by": text(creator),
            "created_at": iso(created, "Z"),
            "is_used": used,
        };
        if self.one_in(2) {
            code.insert("description", self.random.pick(NOTES));
        }
        if used {
            code.insert("used_by", text(user));
            code.insert("used_at", iso(created + 5_000_001, "+00:00"));
        }
        code
    }

    fn counter(&mut self, _: u64) -> Document {
        doc! { "_id": "taskDisplayId", "seq": self.size.tasks as i64 }
    }
}

const FIRST_NAMES: &[&str] = &["Asha", "Björn", "Chidi", "Dolores", "Émile", "Fatima", "Grace", "Hiro"];
const LAST_NAMES: &[&str] = &["Almeida", "O'Brien", "Çelik", "de la Cruz", "Eze", "García", "Hayashi"];
const TITLES: &[&str] =
    &["Fix the build", "Write release notes ✍", "Ask for \"access\"", "Füße hoch", "  indented"];
const NOTES: &[&str] =
    &["", "see https://example.org/a?b=c&d=%20", "line one\nline two\ttab", "夕食 🍕", "\\N is no null"];
const STATUSES: &[&str] = &["TODO", "IN_PROGRESS", "DEFERRED", "BLOCKED", "DONE"];
const LABELS: &[(&str, &str); 8] = &[
    ("Feature", "#a1c4fd"),
    ("Bug", "#ef5350"),
    ("Refactoring", "#43cea2"),
    ("API", "#ffb347"),
    ("UI/UX", "#bc8bf7"),
    ("Testing", "#26c6da"),
    ("Documentation", "#78909c"),
    ("Review", "#ffd54f"),
];
const ACTIONS: &[&str] = &[
    "assigned_to_team",
    "unassigned_from_team",
    "assigned_to_member",
    "status_changed",
    "reassign_executor",
    "team_created",
    "member_joined_team",
    "member_added_to_team",
    "member_removed_from_team",
    "member_left_team",
    "team_updated",
    "poc_changed",
    "team_creation_invite_code_generated",
    "team_creation_invite_code_consumed",
];
