//! What must be in PostgreSQL, from the documents alone and by rules that fit on a page; and what a fresh copy has.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use bson::{Bson, Document, doc};
use futures_util::TryStreamExt;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::operations::Kind;
use crate::daemon::{self, Daemon};
use crate::oracle::{Plain, whole_documents};
use crate::stage::Stage;
use crate::support::servers::fresh_database;

pub(super) const SCHEMA: &str = "
    create table people (
        source text, source_id text, name text, score integer not null, primary key (source, source_id));
    create table parents (id serial primary key, mongo_id text not null unique, name text);
    create table children (
        id serial primary key, mongo_id text not null unique, title text,
        parent_id integer references parents);";

pub(super) fn mappings(stage: &Stage) -> String {
    let name = &stage.name;
    stage.whole(Kind::Orders.collection()).replace("allow_empty", "id_type: int, allow_empty")
        + &format!(
            "  - {{ source: people, collection: {name}.people, table: people, id_type: int, allow_empty: true,
        columns: {{ name: name, score: {{ from: score, required: true }} }} }}
  - {{ source: parents, collection: {name}.parents, table: parents, id_type: string, allow_empty: true,
        key: {{ source: null, source_id: mongo_id }}, columns: {{ name: name }} }}
  - {{ source: children, collection: {name}.children, table: children, id_type: string, allow_empty: true,
        key: {{ source: null, source_id: mongo_id }},
        columns: {{ title: title, parent_id: {{ ref: {{ to: parents, from: parent }}, missing: null }} }} }}\n"
        )
}

type Lines = BTreeSet<String>;

/// Every difference between the documents and the rows.
pub(super) async fn differences(stage: &Stage) -> Result<Vec<String>> {
    let mut found = whole_documents(stage, Kind::Orders.collection(), Plain::Int).await?;
    let mut documents: BTreeMap<&str, Vec<Document>> = BTreeMap::new();
    for kind in [Kind::People, Kind::Parents, Kind::Children] {
        let all = stage.collection(kind.collection()).find(doc! {}).await?.try_collect().await?;
        documents.insert(kind.collection(), all);
    }
    let (people, held): (Vec<&Document>, Vec<&Document>) =
        documents["people"].iter().partition(|document| score(document).is_some());
    let held: Lines = held.iter().map(|document| format!("people {}", id(document))).collect();
    let line = |document: &&Document| {
        let score = score(document).unwrap_or_default();
        format!("{} {score} {}", id(document), optional(document, "name"))
    };
    let people: Lines = people.iter().map(line).collect();
    let parents: Lines = documents["parents"]
        .iter()
        .map(|document| format!("{} {}", id(document), optional(document, "name")))
        .collect();
    let there: BTreeSet<String> = documents["parents"].iter().map(id).collect();
    let child = |document: &Document| {
        let parent = document.get_str("parent").ok().filter(|parent| there.contains(*parent));
        format!("{} {} {}", id(document), parent.unwrap_or("-"), optional(document, "title"))
    };
    let children: Lines = documents["children"].iter().map(child).collect();

    let expected = [("held", held), ("people", people), ("parents", parents), ("children", children)];
    let mut session = stage.session().await?;
    for ((what, expected), (_, sql)) in expected.into_iter().zip(TABLES) {
        let actual: Lines = lines(&mut session, sql).await?.into_iter().collect();
        found.extend(expected.difference(&actual).map(|line| format!("{what}: {line:?} is missing")));
        found.extend(actual.difference(&expected).map(|line| format!("{what}: {line:?} is too much")));
    }
    Ok(found)
}

fn id(document: &Document) -> String {
    match document.get("_id") {
        Some(Bson::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    }
}

fn optional<'a>(document: &'a Document, field: &str) -> &'a str {
    document.get_str(field).unwrap_or("-")
}

/// The number, if the column takes it.
fn score(document: &Document) -> Option<i32> {
    match document.get("score")? {
        Bson::Int32(score) => Some(*score),
        Bson::Int64(score) => i32::try_from(*score).ok(),
        _ => None,
    }
}

/// Rows of documents that are held are of an earlier time, and another one in a copy made later.
const TABLES: [(&str, &str); 4] = [
    (
        "held",
        "select concat(source, ' ', source_id) from rowstream.held where state <> 'resolved'",
    ),
    (
        "people",
        "select concat(source_id, ' ', score, ' ', coalesce(name, '-')) from people
         where (source, source_id) not in (select source, source_id from rowstream.held where state <> 'resolved')",
    ),
    ("parents", "select concat(mongo_id, ' ', coalesce(name, '-')) from parents"),
    (
        "children",
        "select concat(c.mongo_id, ' ', coalesce(p.mongo_id, '-'), ' ', coalesce(c.title, '-'))
         from children as c left join parents as p on p.id = c.parent_id",
    ),
];

const ORDERS: &str = "select concat(source_id, ' ', document::text) from orders";

async fn lines(connection: &mut PgConnection, sql: &str) -> Result<Vec<String>> {
    let sql = AssertSqlSafe(format!("{sql} order by 1"));
    Ok(sqlx::query_scalar(sql).fetch_all(connection).await?)
}

/// Copies everything once more, into an empty database, and compares.
pub(super) async fn equals_a_fresh_copy(stage: &Stage) -> Result<()> {
    let fresh = fresh_database("model_copy").await?;
    let mut there = PgConnection::connect(&fresh.postgres_url).await?;
    sqlx::raw_sql(SCHEMA).execute(&mut there).await?;
    let config = daemon::config(&stage.mongodb_uri, &fresh.postgres_url, &mappings(stage));
    let copy = Daemon::start_with(&config, &["--until-caught-up"])?;
    let (status, summary) = copy.ends_with_output().await?;
    // 1 is said if something is held.
    ensure!(matches!(status.code(), Some(0 | 1)), "the copy failed: {summary}");
    let mut here = stage.postgres().await?;
    for (what, sql) in TABLES.into_iter().chain([("orders", ORDERS)]) {
        let (followed, copied) = (lines(&mut here, sql).await?, lines(&mut there, sql).await?);
        ensure!(followed == copied, "{what} was followed to {followed:#?}\nand is copied as {copied:#?}");
    }
    here.close().await?;
    there.close().await.context("closing")
}
