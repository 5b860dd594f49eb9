//! Children whose rows are not simply their document's: of documents that share a row, and those that are left out.

use anyhow::Result;
use bson::doc;

use crate::comparison::{copied, found, repair, set, verify};
use crate::stage::Stage;

#[tokio::test]
async fn children_of_documents_that_share_a_row_are_those_of_the_one_that_writes_it() -> Result<()> {
    let stage = Stage::new("verify_shared").await?;
    stage
        .execute(
            "create table categories (id integer primary key, name text);
             create table words (category_id integer not null references categories on delete cascade,
                 position integer not null, word text, primary key (category_id, position))",
        )
        .await?;
    let config = stage.config(&format!(
        "  - {{ source: categories, collection: {}.categories, table: categories, id_type: string, key: [id],
        shared: true, columns: {{ id: {{ from: n, required: true }}, name: name }}, children: [
          {{ table: words, each: words, key: [category_id, position], columns: {{
             category_id: $parent, position: $index, word: $element }} }} ] }}\n",
        stage.name
    ));
    let documents = [
        doc! { "_id": "a", "n": 1, "name": "one", "words": ["x", "y"] },
        doc! { "_id": "b", "n": 1, "name": "other", "words": ["z"] },
        doc! { "_id": "c", "n": 2, "name": "two", "words": ["q"] },
    ];
    stage.collection("categories").insert_many(documents).await?;
    copied(&config).await?;
    let (report, code) = verify(&config, &[])?;
    assert_eq!((code, found(&report)), (0, set(&[])), "{report:#}");
    stage
        .execute(
            "delete from words where category_id = 1 and position = 1;
             insert into words values (1, 7, 'nobody''s');
             update words set word = 'r' where category_id = 2;
             insert into words values (2, 1, 'z')",
        )
        .await?;
    let (report, code) = verify(&config, &[])?;
    let expected = set(&["missing_child a", "extra_child a", "different_child c word", "extra_child c"]);
    assert_eq!((code, found(&report)), (1, expected), "{report:#}");
    assert_eq!(repair(&config, &["--apply"])?.1, 0);
    let words = "select string_agg(category_id || word, ' ' order by category_id, position) from words";
    assert_eq!(stage.text(words).await?.as_deref(), Some("1x 1y 2q"));
    assert_eq!(verify(&config, &[])?.1, 0);
    Ok(())
}

#[tokio::test]
async fn elements_that_the_table_refuses_and_that_may_be_left_out_are_not_missed_and_others_are() -> Result<()>
{
    let stage = Stage::new("verify_left_out").await?;
    stage
        .execute(
            "create table orders (mongo_id text primary key, note text);
             create table lines (order_id text references orders on delete cascade, position integer, amount integer check (amount > 0),
                 primary key (order_id, position))",
        )
        .await?;
    let config = stage.config(&format!(
        "  - {{ source: orders, collection: {}.orders, table: orders, id_type: string,
        key: {{ source: null, source_id: mongo_id }}, columns: {{ note: note }}, children: [
          {{ table: lines, each: lines, on_error: drop, key: [order_id, position], columns: {{
             order_id: $parent, position: $index, amount: $element }} }} ] }}\n",
        stage.name
    ));
    let documents = [
        doc! { "_id": "a", "lines": [1, -1, 2] },
        doc! { "_id": "b", "lines": [-5] },
        doc! { "_id": "c", "lines": [7] },
    ];
    stage.collection("orders").insert_many(documents).await?;
    copied(&config).await?;
    assert_eq!(stage.number("select count(*) from lines").await?, 3);
    let (report, code) = verify(&config, &[])?;
    assert_eq!((code, found(&report)), (0, set(&[])), "{report:#}");
    stage.execute("delete from lines where position in (0, 2)").await?;
    let (report, code) = verify(&config, &[])?;
    assert_eq!((code, found(&report)), (1, set(&["missing_child a", "missing_child c"])), "{report:#}");
    assert_eq!(repair(&config, &["--apply"])?.1, 0);
    // What is left out now is not what was: it counts again once the document has changed.
    let b = doc! { "_id": "b" };
    stage.collection("orders").update_one(b, doc! { "$set": { "lines": [5] } }).await?;
    copied(&config).await?;
    assert_eq!(verify(&config, &[])?.1, 0);
    stage.execute("delete from lines where order_id = 'b'").await?;
    assert_eq!(found(&verify(&config, &[])?.0), set(&["missing_child b"]));
    let left = "select string_agg(source_id, ',') from rowstream.left_out";
    assert_eq!(stage.text(left).await?.as_deref(), Some("a"));
    Ok(())
}
