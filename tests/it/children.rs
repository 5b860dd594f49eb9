//! What stands inside of a document becomes rows of other tables: arrays and objects, in step with the row of the
//! document itself, all or nothing.

use anyhow::Result;
use bson::{Bson, Document, doc};

use crate::daemon::Daemon;
use crate::stage::{Stage, says};

const TABLES: &str = "
    create table labels (id serial primary key, mongo_id text not null unique, name text unique);
    create table tasks (id serial primary key, mongo_id text not null unique, title text);
    create table task_labels (
        task_id integer not null references tasks on delete cascade,
        label_id integer not null references labels on delete cascade, primary key (task_id, label_id));
    create index on task_labels (label_id);
    create table task_items (
        id text primary key, task_id integer not null references tasks on delete cascade,
        position integer not null, title text not null check (title <> 'forbidden'), task_title text,
        unique (task_id, position));
    create table task_details (
        task_id integer primary key references tasks on delete cascade, at date, by text not null);
    select setval('tasks_id_seq', 1000);
    select setval('labels_id_seq', 5000);";

const ITEMS: &str = "{ table: task_items, each: items, key: [task_id, position], columns: {
    id: { key: { prefix: item_ }, write: insert }, task_id: $parent, position: $index,
    title: { from: $element.title, required: true }, task_title: $document.title } }";
const DETAILS: &str = "{ table: task_details, object: details, columns: {
    task_id: $parent, at: { from: $element.at, as: iso8601 }, by: $element.by } }";
const LABELS: &str = "{ table: task_labels, each: labels, columns: {
    task_id: $parent, label_id: { ref: { to: labels, from: $element }, missing: drop } } }";

async fn stage(name: &str, children: &str) -> Result<(Stage, String)> {
    let stage = Stage::new(name).await?;
    stage.execute(TABLES).await?;
    let mappings = format!(
        "  - {{ source: tasks, collection: {0}.tasks, table: tasks, id_type: string, allow_empty: true,
        key: {{ source: null, source_id: mongo_id }}, columns: {{ title: title }}, children: [ {children} ] }}
  - {{ source: labels, collection: {0}.labels, table: labels, id_type: string, allow_empty: true,
        key: {{ source: null, source_id: mongo_id }}, columns: {{ name: name }} }}\n",
        stage.name
    );
    let config = stage.config(&mappings);
    Ok((stage, config))
}

/// `task: title title`, by position.
const ALL_ITEMS: &str = "select string_agg(line, '; ' order by line) from (
    select mongo_id || ':' || string_agg(position || i.title, ' ' order by position) as line
    from task_items i join tasks t on t.id = i.task_id group by mongo_id) lines";
/// `task-label`.
const ALL_LABELS: &str =
    "select string_agg(t.mongo_id || '-' || l.mongo_id, ' ' order by t.mongo_id, l.mongo_id)
    from task_labels j join tasks t on t.id = j.task_id join labels l on l.id = j.label_id";
const ALL_DETAILS: &str =
    "select string_agg(mongo_id || ':' || by || coalesce(' ' || at, ''), '; ' order by mongo_id)
    from task_details d join tasks t on t.id = d.task_id";
const HELD: &str = "select string_agg(source_id || ' ' || reason, ', ' order by source_id)
    from rowstream.held where state <> 'resolved'";
const WAITS: &str = "select count(*) from rowstream.wait";

fn task(id: &str, items: &[&str]) -> Document {
    let items: Vec<Bson> = items.iter().map(|title| Bson::Document(doc! { "title": *title })).collect();
    doc! { "_id": id, "title": format!("task {id}"), "items": items }
}

fn labelled(id: &str, labels: &[&str]) -> Document {
    doc! { "_id": id, "labels": labels.iter().map(|label| Bson::from(*label)).collect::<Vec<_>>() }
}

async fn set(stage: &Stage, id: &str, fields: Document) -> Result<()> {
    stage.collection("tasks").update_one(doc! { "_id": id }, doc! { "$set": fields }).await?;
    Ok(())
}

#[tokio::test]
async fn elements_are_added_removed_reordered_and_others_are_left_alone() -> Result<()> {
    let (stage, config) = stage("child_array", ITEMS).await?;
    let tasks = stage.collection("tasks");
    tasks.insert_many([task("a", &["x", "y"]), task("b", &["z"]), doc! { "_id": "c" }]).await?;
    let daemon = Daemon::start(&config)?;
    says(&stage, &daemon, ALL_ITEMS, "a:0x 1y; b:0z").await?;
    let xmin = "select string_agg(xmin::text, ',' order by id) from task_items where title in ('x', 'z')";
    let before = stage.text(xmin).await?;
    set(&stage, "a", doc! { "items": [{ "title": "x" }, { "title": "w" }, { "title": "v" }] }).await?;
    says(&stage, &daemon, ALL_ITEMS, "a:0x 1w 2v; b:0z").await?;
    assert_eq!(stage.text(xmin).await?, before, "equal rows are not written again");
    set(&stage, "a", doc! { "items": [{ "title": "w" }, { "title": "x" }] }).await?;
    says(&stage, &daemon, ALL_ITEMS, "a:0w 1x; b:0z").await?;
    set(&stage, "a", doc! { "items": Bson::Null }).await?;
    tasks.update_one(doc! { "_id": "b" }, doc! { "$unset": { "items": "" } }).await?;
    set(&stage, "c", doc! { "items": [{ "title": "late" }] }).await?;
    says(&stage, &daemon, ALL_ITEMS, "c:0late").await?;
    says(
        &stage,
        &daemon,
        "select count(*) from task_items where task_title is null and id like 'item_%'",
        "1",
    )
    .await?;
    Ok(())
}

#[tokio::test]
async fn a_parent_takes_its_rows_with_it_and_brings_them_back() -> Result<()> {
    let (stage, config) = stage("child_parent", &format!("{ITEMS}, {DETAILS}, {LABELS}")).await?;
    // PostgreSQL itself would forbid it.
    stage
        .execute(
            "alter table task_items drop constraint task_items_task_id_fkey,
                 add foreign key (task_id) references tasks on delete restrict",
        )
        .await?;
    stage.collection("labels").insert_one(doc! { "_id": "l", "name": "red" }).await?;
    let whole = doc! { "_id": "a", "items": [{ "title": "x" }], "labels": ["l"], "details": { "by": "me" } };
    stage.collection("tasks").insert_many([whole.clone(), task("b", &["y"])]).await?;
    let daemon = Daemon::start(&config)?;
    let all = "select count(*) from task_items, task_labels, task_details";
    says(&stage, &daemon, all, "2").await?;
    stage.collection("tasks").delete_one(doc! { "_id": "a" }).await?;
    says(&stage, &daemon, ALL_ITEMS, "b:0y").await?;
    says(&stage, &daemon, ALL_LABELS, "").await?;
    says(&stage, &daemon, "select string_agg(mongo_id, ' ') from tasks", "b").await?;
    stage.collection("tasks").insert_one(whole).await?;
    says(&stage, &daemon, ALL_ITEMS, "a:0x; b:0y").await?;
    says(&stage, &daemon, ALL_LABELS, "a-l").await?;
    says(&stage, &daemon, ALL_DETAILS, "a:me").await?;
    stage.collection("tasks").drop().await?;
    says(&stage, &daemon, "select count(*) from tasks", "0").await?;
    says(&stage, &daemon, ALL_ITEMS, "").await?;
    says(&stage, &daemon, HELD, "").await?;
    Ok(())
}

#[tokio::test]
async fn an_object_is_one_row_that_comes_and_goes_with_it() -> Result<()> {
    let (stage, config) = stage("child_object", DETAILS).await?;
    let tasks = stage.collection("tasks");
    tasks
        .insert_many([
            doc! { "_id": "a", "details": { "by": "me", "at": "2025-01-02" } },
            doc! { "_id": "b", "details": {} },
            doc! { "_id": "c", "details": Bson::Null },
            doc! { "_id": "d", "details": "text" },
            doc! { "_id": "e", "details": [] },
            doc! { "_id": "f", "details": { "at": "2025-01-02" } },
        ])
        .await?;
    let daemon = Daemon::start(&config)?;
    says(&stage, &daemon, ALL_DETAILS, "a:me 2025-01-02").await?;
    says(&stage, &daemon, HELD, "d wrong_type, e wrong_type, f missing_required").await?;
    says(&stage, &daemon, "select string_agg(mongo_id, ' ' order by mongo_id) from tasks", "a b c").await?;
    let message = stage.text("select message from rowstream.held where source_id = 'd'").await?;
    assert_eq!(
        message.as_deref(),
        Some("table public.task_details: details is no object but of type string")
    );
    set(&stage, "a", doc! { "details": { "by": "you" } }).await?;
    set(&stage, "b", doc! { "details": { "by": "b" } }).await?;
    set(&stage, "d", doc! { "details": { "by": "d" } }).await?;
    says(&stage, &daemon, ALL_DETAILS, "a:you; b:b; d:d").await?;
    tasks.update_one(doc! { "_id": "a" }, doc! { "$unset": { "details": "" } }).await?;
    set(&stage, "b", doc! { "details": {} }).await?;
    says(&stage, &daemon, ALL_DETAILS, "d:d").await?;
    Ok(())
}

#[tokio::test]
async fn an_element_that_cannot_become_a_row_holds_its_document_and_leaves_its_rows() -> Result<()> {
    let (stage, config) = stage("child_held", ITEMS).await?;
    let tasks = stage.collection("tasks");
    tasks.insert_many([task("a", &["x", "y"]), task("b", &["x"])]).await?;
    let daemon = Daemon::start(&config)?;
    says(&stage, &daemon, ALL_ITEMS, "a:0x 1y; b:0x").await?;
    // Refused by the transform, by the table, and not at all, in one batch.
    set(&stage, "a", doc! { "title": "new", "items": [{ "title": "new" }, {}] }).await?;
    says(&stage, &daemon, HELD, "a missing_required").await?;
    set(&stage, "b", doc! { "title": "new", "items": [{ "title": "new" }, { "title": "forbidden" }] })
        .await?;
    says(&stage, &daemon, HELD, "a missing_required, b constraint").await?;
    tasks.insert_many([task("c", &["forbidden"]), task("d", &["fine"])]).await?;
    says(&stage, &daemon, HELD, "a missing_required, b constraint, c constraint").await?;
    says(&stage, &daemon, ALL_ITEMS, "a:0x 1y; b:0x; d:0fine").await?;
    says(
        &stage,
        &daemon,
        "select string_agg(title, ', ' order by mongo_id) from tasks",
        "task a, task b, task d",
    )
    .await?;
    set(&stage, "b", doc! { "items": [{ "title": "good" }] }).await?;
    set(&stage, "c", doc! { "items": [] }).await?;
    says(&stage, &daemon, ALL_ITEMS, "a:0x 1y; b:0good; d:0fine").await?;
    says(&stage, &daemon, HELD, "a missing_required").await?;
    Ok(())
}

#[tokio::test]
async fn with_on_error_drop_an_element_that_cannot_become_a_row_is_left_out() -> Result<()> {
    let children = ITEMS.replace("each: items,", "each: items, on_error: drop, not_array: single,");
    let (stage, config) = stage("child_dropped", &children).await?;
    let tasks = stage.collection("tasks");
    tasks
        .insert_many([
            doc! { "_id": "a", "items": [{ "title": "x" }, {}, 7, { "title": "z" }] },
            doc! { "_id": "b", "items": { "title": "single" } },
            task("c", &["forbidden", "kept"]),
        ])
        .await?;
    let daemon = Daemon::start(&config)?;
    says(&stage, &daemon, ALL_ITEMS, "a:0x 3z; b:0single; c:1kept").await?;
    set(&stage, "a", doc! { "items": [{ "title": "forbidden" }, { "title": "y" }] }).await?;
    says(&stage, &daemon, ALL_ITEMS, "a:1y; b:0single; c:1kept").await?;
    says(&stage, &daemon, HELD, "").await?;
    let (_, metrics) = daemon.get("/metrics").await?;
    assert!(
        metrics.contains(
            "rowstream_coercions_total{column=\"\",rule=\"element_left_out\",table=\"public.task_items\"}"
        ),
        "{metrics}"
    );
    Ok(())
}

#[tokio::test]
async fn what_is_no_array_is_held_or_dropped_as_the_mapping_says() -> Result<()> {
    let dropping = LABELS.replace("each: labels,", "each: labels, not_array: drop,");
    let (stage, config) = stage("child_no_array", &format!("{ITEMS}, {dropping}")).await?;
    stage
        .collection("tasks")
        .insert_many([doc! { "_id": "a", "labels": "l" }, doc! { "_id": "b", "items": "x" }])
        .await?;
    let daemon = Daemon::start(&config)?;
    says(&stage, &daemon, HELD, "b wrong_type").await?;
    says(&stage, &daemon, "select string_agg(mongo_id, ' ') from tasks", "a").await?;
    Ok(())
}

#[tokio::test]
async fn a_pair_exists_once_and_only_while_its_target_does() -> Result<()> {
    let (stage, config) = stage("child_junction", LABELS).await?;
    let labels = stage.collection("labels");
    labels.insert_many([doc! { "_id": "l1" }, doc! { "_id": "l2" }]).await?;
    stage
        .collection("tasks")
        .insert_many([labelled("a", &["l1", "l1", "l2", "late"]), labelled("b", &["l2"])])
        .await?;
    let daemon = Daemon::start(&config)?;
    says(&stage, &daemon, ALL_LABELS, "a-l1 a-l2 b-l2").await?;
    says(&stage, &daemon, WAITS, "1").await?;
    labels.insert_one(doc! { "_id": "late" }).await?;
    says(&stage, &daemon, ALL_LABELS, "a-l1 a-l2 a-late b-l2").await?;
    says(&stage, &daemon, WAITS, "0").await?;
    // Others' rows are settled before the row they refer to goes.
    labels.delete_one(doc! { "_id": "l2" }).await?;
    says(&stage, &daemon, ALL_LABELS, "a-l1 a-late").await?;
    says(&stage, &daemon, WAITS, "2").await?;
    labels.insert_one(doc! { "_id": "l2" }).await?;
    says(&stage, &daemon, ALL_LABELS, "a-l1 a-l2 a-late b-l2").await?;
    set(&stage, "a", doc! { "labels": ["l2"] }).await?;
    says(&stage, &daemon, ALL_LABELS, "a-l2 b-l2").await?;
    labels.drop().await?;
    says(&stage, &daemon, ALL_LABELS, "").await?;
    says(&stage, &daemon, HELD, "").await?;
    Ok(())
}

#[tokio::test]
async fn under_missing_hold_the_document_waits_for_every_target() -> Result<()> {
    let holding = LABELS.replace("missing: drop", "missing: hold");
    let (stage, config) = stage("child_junction_hold", &holding).await?;
    let labels = stage.collection("labels");
    labels.insert_one(doc! { "_id": "l1" }).await?;
    stage
        .collection("tasks")
        .insert_many([labelled("a", &["l1", "l2"]), labelled("b", &["l1"]), labelled("c", &["l3"])])
        .await?;
    let daemon = Daemon::start(&config)?;
    says(&stage, &daemon, ALL_LABELS, "b-l1").await?;
    says(&stage, &daemon, HELD, "a unresolved_reference, c unresolved_reference").await?;
    labels.insert_many([doc! { "_id": "l2" }, doc! { "_id": "l3" }]).await?;
    says(&stage, &daemon, ALL_LABELS, "a-l1 a-l2 b-l1 c-l3").await?;
    says(&stage, &daemon, HELD, "").await?;
    Ok(())
}

#[tokio::test]
async fn a_looked_up_row_is_made_for_the_elements_that_name_it() -> Result<()> {
    let stage = Stage::new("child_tags").await?;
    stage
        .execute(
            "create table events (id text primary key, mongo_id text not null unique);
             create table tags (id text primary key, name text not null unique);
             create table event_tags (id text primary key, event_id text not null references events on delete cascade,
                 tag_id text not null references tags, unique (event_id, tag_id))",
        )
        .await?;
    let config = stage.config(&format!(
        "  - source: events
    collection: {}.events
    table: events
    id_type: string
    allow_empty: true
    key: {{ source: null, source_id: mongo_id }}
    columns: {{ id: {{ key: {{ prefix: event_ }}, write: insert }} }}
    children:
      - table: event_tags
        each: tags
        key: [event_id, tag_id]
        columns:
          id: {{ key: {{ prefix: etag_ }}, write: insert }}
          event_id: $parent
          tag_id:
            lookup: {{ table: tags, match: {{ name: $element }}, take: id }}
            missing: {{ create: {{ columns: {{ id: {{ key: {{ prefix: tag_ }} }} }} }} }}\n",
        stage.name
    ));
    stage.execute("insert into tags values ('mine', 'red')").await?;
    let events = stage.collection("events");
    events
        .insert_many([
            doc! { "_id": "1", "tags": ["red", "blue", "blue"] },
            doc! { "_id": "2", "tags": ["blue", "green"] },
            doc! { "_id": "3" },
        ])
        .await?;
    let daemon = Daemon::start(&config)?;
    const ALL: &str = "select string_agg(mongo_id || name, ' ' order by mongo_id, name)
        from event_tags j join events e on e.id = event_id join tags t on t.id = tag_id";
    says(&stage, &daemon, ALL, "1blue 1red 2blue 2green").await?;
    says(&stage, &daemon, "select count(*) from tags where id like 'tag_%'", "2").await?;
    events.update_one(doc! { "_id": "2" }, doc! { "$set": { "tags": ["blue"] } }).await?;
    says(&stage, &daemon, ALL, "1blue 1red 2blue").await?;
    // The row that was made for it goes with the last one who named it.
    says(&stage, &daemon, "select string_agg(name, ' ' order by name) from tags", "blue red").await?;
    Ok(())
}

#[tokio::test]
async fn parents_targets_and_pairs_of_one_transaction_come_together() -> Result<()> {
    let (stage, config) =
        stage("child_transaction", &LABELS.replace("missing: drop", "missing: hold")).await?;
    stage.collection("labels").insert_one(doc! { "_id": "before" }).await?;
    stage.collection("tasks").insert_one(labelled("a", &["before"])).await?;
    let daemon = Daemon::start(&config)?;
    says(&stage, &daemon, ALL_LABELS, "a-before").await?;
    let mut session = stage.client.start_session().await?;
    session.start_transaction().await?;
    for number in 0..50 {
        let (task, label) = (format!("t{number:02}"), format!("l{number:02}"));
        stage
            .database
            .collection::<Document>("tasks")
            .insert_one(labelled(&task, &[&label]))
            .session(&mut session)
            .await?;
        stage
            .database
            .collection::<Document>("labels")
            .insert_one(doc! { "_id": label })
            .session(&mut session)
            .await?;
    }
    session.commit_transaction().await?;
    says(&stage, &daemon, "select count(*) from task_labels", "51").await?;
    says(&stage, &daemon, "select count(*) from rowstream.held where source_id like 't%'", "0").await?;
    Ok(())
}

#[tokio::test]
async fn ten_thousand_parents_with_ten_elements_each_are_copied() -> Result<()> {
    let (stage, config) = stage("child_many", ITEMS).await?;
    let titles: Vec<String> = (0..10).map(|number| format!("item {number}")).collect();
    let titles: Vec<&str> = titles.iter().map(String::as_str).collect();
    let documents = (0..10_000).map(|number| task(&format!("{number:05}"), &titles));
    stage.collection("tasks").insert_many(documents).await?;
    let daemon = Daemon::start(&config)?;
    says(&stage, &daemon, "select count(*) from task_items i join tasks t on t.id = i.task_id", "100000")
        .await?;
    says(
        &stage,
        &daemon,
        "select count(*) from rowstream.mapping where source = 'tasks' and snapshot_state = 'done'",
        "1",
    )
    .await?;
    let written = "select count(distinct xmin::text) from task_items";
    let before = stage.text(written).await?;
    anyhow::ensure!(daemon.stop().await?.success());
    // Copied again, nothing is written again.
    stage.execute("update rowstream.mapping set mapping_hash = 'other' where source = 'tasks'").await?;
    let daemon = Daemon::start(&config)?;
    says(
        &stage,
        &daemon,
        "select count(*) from rowstream.mapping where source = 'tasks' and snapshot_state = 'done'
             and mapping_hash <> 'other'",
        "1",
    )
    .await?;
    assert_eq!(stage.text(written).await?, before);
    Ok(())
}
