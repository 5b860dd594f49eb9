//! NextCRM: 29 collections, 39 tables, ten junctions that both sides keep, references everywhere.

mod bad_data;
mod compared;
mod generator;
mod killed;
mod model;
mod oracle;
mod relations;
mod snapshot;
mod stream;

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use bson::oid::ObjectId;
use bson::{Document, doc};
use futures_util::TryStreamExt;
use serde_json::{Value, json};

use self::generator::{Documents, Size};
use self::model::{COLLECTIONS, JUNCTIONS};
use self::oracle::{Expected, Oracle};
use super::scene::{Reason, Scene, System, system};
use crate::stage::Stage;

pub(super) const NEXTCRM: System = system!("nextcrm", "nextcrm");

/// The scene with its oracle.
#[derive(Debug)]
struct Crm {
    scene: Scene,
    oracle: Oracle,
    /// Deleted in MongoDB, while PostgreSQL does not allow it.
    ghosts: Documents,
}

impl Crm {
    async fn set(test: &str) -> Result<Self> {
        Ok(Self {
            scene: Scene::set(NEXTCRM, test).await?,
            oracle: Oracle::default(),
            ghosts: Documents::new(),
        })
    }

    async fn load(&self, documents: &Documents) -> Result<()> {
        for (collection, documents) in documents {
            self.scene.load(collection, documents).await?;
        }
        Ok(())
    }

    async fn insert(&self, collection: &str, document: Document) -> Result<()> {
        self.scene.stage.collection(collection).insert_one(document).await?;
        Ok(())
    }

    async fn replace(&self, collection: &str, document: Document) -> Result<()> {
        let id = doc! { "_id": document.get_object_id("_id")? };
        let replaced = self.scene.stage.collection(collection).replace_one(id, document).await?;
        ensure!(replaced.matched_count == 1, "nothing to replace in {collection}");
        Ok(())
    }

    async fn update(&self, collection: &str, id: ObjectId, update: Document) -> Result<()> {
        let updated = self.scene.stage.collection(collection).update_one(doc! { "_id": id }, update).await?;
        ensure!(updated.matched_count == 1, "nothing to update in {collection}");
        Ok(())
    }

    /// What was deleted.
    async fn delete(&self, collection: &str, id: ObjectId) -> Result<Document> {
        let deleted = self.scene.stage.collection(collection).find_one_and_delete(doc! { "_id": id }).await?;
        deleted.with_context(|| format!("nothing to delete in {collection}"))
    }

    /// Of what is in MongoDB now.
    async fn expected(&self) -> Result<Expected> {
        let mut documents = self.ghosts.clone();
        for collection in COLLECTIONS.iter() {
            let found = self.scene.stage.collection(collection.name).find(doc! {}).await?;
            let found: Vec<Document> = found.try_collect().await?;
            documents.entry(collection.name).or_default().extend(found);
        }
        self.oracle.expects(&self.scene.stage, &documents).await
    }

    /// Every table is, or becomes, what the documents say.
    async fn becomes_right(&self) -> Result<()> {
        let expected = self.expected().await?;
        self.scene.becomes(&expected.tables).await
    }

    /// Held is what needs a row that is not there, and nothing else.
    async fn holds_what_waits(&self) -> Result<()> {
        let reason = |column: &str| Reason {
            reason: "unresolved_reference".to_owned(),
            column: Some(column.to_owned()),
        };
        let waiting = self.expected().await?.waiting.into_iter();
        let held = waiting.map(|(source, id, column)| ((source.to_owned(), id.to_hex()), reason(column)));
        self.scene.holds(&held.collect()).await
    }

    /// Waits for the snapshot of a large set, as long as it makes progress.
    async fn copied(&self) -> Result<()> {
        let finished = "select count(*) from rowstream.chunk where finished_at is not null";
        let mut before = -1;
        loop {
            let Err(error) = self.scene.settles().await else { return Ok(()) };
            let after = self.scene.stage.number(finished).await?;
            if after == before {
                return Err(error);
            }
            before = after;
        }
    }
}

#[tokio::test]
async fn the_schema_is_what_the_oracle_takes_it_for() -> Result<()> {
    let stage = Stage::new("nextcrm_schema").await?;
    stage.execute(NEXTCRM.schema).await?;
    let counts = "select concat_ws(' ', (select count(*) from pg_tables where schemaname = 'public'),
        (select count(*) from pg_constraint where contype = 'f'),
        (select count(*) from pg_indexes where schemaname = 'public' and indexdef like 'CREATE INDEX%'),
        (select count(*) from pg_type where typtype = 'e'))";
    assert_eq!(
        stage.text(counts).await?.as_deref(),
        Some("39 52 120 10"),
        "tables, foreign keys, indexes, enums"
    );
    let columns = "select string_agg(format('%s %s%s', a.attname, format_type(a.atttypid, a.atttypmod),
            case when a.attnotnull then ' not null' end), ', ' order by a.attname collate \"C\")
        from pg_attribute a where a.attnum > 0 and a.attrelid = to_regclass(quote_ident(";
    for collection in COLLECTIONS.iter() {
        let mut expected: BTreeMap<&str, String> = BTreeMap::from([("id", "id uuid not null".to_owned())]);
        for column in &collection.columns {
            let not_null = if column.required { " not null" } else { "" };
            let text = format!("{} {}{not_null}", column.name, column.kind.sql_type());
            expected.insert(column.name, text);
        }
        let expected = expected.into_values().collect::<Vec<_>>().join(", ");
        let actual = stage.text(&format!("{columns}'{}'))", collection.name)).await?;
        assert_eq!(actual.as_deref(), Some(expected.as_str()), "{}", collection.name);
    }
    for junction in &JUNCTIONS {
        let columns =
            "select count(*) from pg_constraint where contype = 'f' and confdeltype = 'c' and conrelid = ";
        let cascades =
            stage.number(&format!("{columns} to_regclass(quote_ident('{}'))", junction.table)).await?;
        assert_eq!(cascades, 2, "{}", junction.table);
    }
    Ok(())
}

/// PostgreSQL checks the oracle: a reference, a null or a value that the schema does not allow is the oracle's mistake.
#[tokio::test]
async fn what_the_oracle_expects_fits_the_schema() -> Result<()> {
    let stage = Stage::new("nextcrm_oracle").await?;
    stage.execute(NEXTCRM.schema).await?;
    let documents = generator::generate(1, Size::Small);
    let expected = Oracle::default().expects(&stage, &documents).await?;
    assert_eq!(expected.waiting, []);
    let mut connection = stage.postgres().await?;
    // Collections stand in the order of their references, and junctions after them.
    let collections = COLLECTIONS.iter().map(Some).chain(std::iter::repeat(None));
    for (table, collection) in expected.tables.iter().zip(collections) {
        let rows = table.rows.iter().map(|(key, row)| match collection {
            Some(collection) => {
                let mut object = serde_json::Map::from_iter([("id".to_owned(), Value::from(key.as_str()))]);
                for column in &collection.columns {
                    let value = match row[column.name].as_deref() {
                        Some(text) if column.kind.is_json() => serde_json::from_str(text)?,
                        text => Value::from(text),
                    };
                    object.insert(column.name.to_owned(), value);
                }
                Ok(Value::Object(object))
            }
            None => {
                let (left, right) = key.split_once(' ').context("a pair")?;
                let junction = JUNCTIONS.iter().find(|junction| junction.table == table.name);
                let junction = junction.context(table.name)?;
                Ok(json!({ junction.left.column: left, junction.right.column: right }))
            }
        });
        let rows = Value::Array(rows.collect::<Result<_>>()?).to_string();
        let name = table.name;
        let insert = format!(
            "insert into \"{name}\" select made.* from jsonb_array_elements($1::jsonb) as given,
             jsonb_populate_record(null::\"{name}\", given) as made"
        );
        sqlx::query(sqlx::AssertSqlSafe(insert)).bind(rows).execute(&mut connection).await.context(name)?;
    }
    Ok(())
}
