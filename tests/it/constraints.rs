//! Constraints that PostgreSQL would only look at when the transaction commits.

use anyhow::Result;
use bson::doc;

use crate::daemon::Daemon;
use crate::stage::{Stage, says};

#[tokio::test]
async fn a_deferred_constraint_holds_the_row_that_violates_it_and_fails_no_commit() -> Result<()> {
    let stage = Stage::new("deferred").await?;
    stage
        .execute(
            "create table owners (name text primary key);
             insert into owners values ('ada'), ('grace');
             create table things (mongo_id text primary key,
                 owner text references owners deferrable initially deferred,
                 code int unique deferrable initially deferred);
             create index on things (owner)",
        )
        .await?;
    let config = stage.config(&format!(
        "  - {{ source: things, collection: {}.things, table: things, id_type: string,
        key: {{ source: null, source_id: mongo_id }}, columns: {{ owner: owner, code: code }} }}\n",
        stage.name
    ));
    let thing = |id: &str, owner: &str, code: i32| doc! { "_id": id, "owner": owner, "code": code };
    let things = stage.collection("things");
    things.insert_many([thing("a", "ada", 1), thing("b", "nobody", 2), thing("c", "ada", 3)]).await?;
    let daemon = Daemon::start(&config)?;
    let rows = "select string_agg(concat_ws(' ', mongo_id, owner, code), ', ' order by mongo_id) from things";
    let held = "select string_agg(source_id || ' ' || reason, ', ' order by source_id)
        from rowstream.held where state <> 'resolved'";
    says(&stage, &daemon, rows, "a ada 1, c ada 3").await?;
    says(&stage, &daemon, held, "b foreign_key_violation").await?;
    // By the stream as by the copy, and one code twice.
    things.insert_many([thing("d", "grace", 4), thing("e", "no one", 5), thing("f", "grace", 4)]).await?;
    says(&stage, &daemon, rows, "a ada 1, c ada 3, d grace 4").await?;
    says(&stage, &daemon, held, "b foreign_key_violation, e foreign_key_violation, f unique_violation")
        .await?;
    // What was held heals once the row is there, or the value is free.
    stage.execute("insert into owners values ('nobody'), ('no one')").await?;
    things.delete_one(doc! { "_id": "d" }).await?;
    says(&stage, &daemon, rows, "a ada 1, b nobody 2, c ada 3, e no one 5, f grace 4").await?;
    says(&stage, &daemon, held, "").await?;
    Ok(())
}
