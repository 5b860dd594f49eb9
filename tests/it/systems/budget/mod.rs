//! A household's budget that was two JSON files: integer ids, serial keys, values that nobody ever checked.

mod documents;
mod expected;
mod killed;

use anyhow::{Context, Result};
use bson::{Bson, Document, doc};

use super::bad_data::{self, Outcome};
use super::scene::{Coercions, Held, Reason, Scene, System, system};
use crate::support::expenses::Random;
use documents::{File, entries, entry, object_id, plain};

pub(super) const BUDGET: System = system!("budget", "home_budget");

/// Among 10,000 rows, reading all of them is a mistake.
const LARGE: i64 = 1_000;

async fn loaded(test: &str, seed: u64, count: i64) -> Result<Scene> {
    let scene = Scene::set(BUDGET, test).await?;
    for file in File::BOTH {
        scene.load(file.name(), &entries(file, seed, count)).await?;
    }
    Ok(scene)
}

async fn becomes_expected(scene: &Scene) -> Result<()> {
    scene.becomes(&expected::tables(scene).await?).await
}

/// What the application does next: it lets the table choose the number.
async fn application_inserts(scene: &Scene, file: File) -> Result<i64> {
    let sql = format!(
        "insert into {} (date, category, amount, account, currency) values ('2026-01-01', 'Food', 1, 'Cash', '₪')
         returning id",
        file.name()
    );
    let mut connection = scene.stage.postgres().await?;
    let id: i32 = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&mut connection).await?;
    Ok(i64::from(id))
}

async fn update(scene: &Scene, file: File, number: i64, update: Document) -> Result<()> {
    let done =
        scene.stage.collection(file.name()).update_one(doc! { "_id": object_id(number) }, update).await?;
    anyhow::ensure!(done.matched_count == 1, "no entry {number}");
    Ok(())
}

#[tokio::test]
async fn both_files_are_copied_and_followed() -> Result<()> {
    let mut scene = loaded("small", 1, 300).await?;
    scene.start()?;
    becomes_expected(&scene).await?;
    scene.holds(&Held::new()).await?;

    let mut random = Random(99);
    for file in File::BOTH {
        let collection = scene.stage.collection(file.name());
        for number in 301..=340 {
            collection.insert_one(entry(file, &mut random, number)).await?;
        }
        for number in 1..=40 {
            let new = entry(file, &mut random, number);
            match number % 4 {
                0 => drop(collection.replace_one(doc! { "_id": object_id(number) }, new).await?),
                1 => {
                    update(
                        &scene,
                        file,
                        number,
                        doc! { "$set": { "amount": 9.99 }, "$unset": { "notes": "" } },
                    )
                    .await?
                }
                2 => {
                    collection.delete_one(doc! { "_id": object_id(number) }).await?;
                }
                // Gone, and here again.
                _ => {
                    collection.delete_one(doc! { "_id": object_id(number) }).await?;
                    collection.insert_one(new).await?;
                }
            }
        }
        // The number is the key: the row moves.
        update(&scene, file, 100, doc! { "$set": { "id": 5_000 } }).await?;
        update(&scene, file, 101, doc! { "$set": { "id": 100 } }).await?;
    }
    becomes_expected(&scene).await?;
    scene.holds(&Held::new()).await?;
    scene.stop().await?;

    // What happened while nobody looked.
    update(&scene, File::Expenses, 50, doc! { "$set": { "id": 6_000, "business": "late" } }).await?;
    scene.stage.collection("incomes").delete_one(doc! { "_id": object_id(51) }).await?;
    scene.start()?;
    becomes_expected(&scene).await
}

#[tokio::test]
async fn what_the_application_inserts_next_collides_with_nothing() -> Result<()> {
    let mut scene = loaded("sequences", 2, 120).await?;
    scene.start()?;
    becomes_expected(&scene).await?;
    for file in File::BOTH {
        assert_eq!(
            application_inserts(&scene, file).await?,
            121,
            "{}: past the greatest that was copied",
            file.name()
        );
    }
    // By the stream as well, and a smaller one moves nothing back.
    for number in [900, 700] {
        scene.load("expenses", &[plain(File::Expenses, number)]).await?;
    }
    scene.settles().await?;
    let id = "select count(*) from expenses where id in (700, 900)";
    scene.waits("both rows", async || Ok(scene.stage.number(id).await? == 2)).await?;
    assert_eq!(application_inserts(&scene, File::Expenses).await?, 901);
    assert_eq!(application_inserts(&scene, File::Incomes).await?, 122);

    // The rows of the application are not ours: neither removed nor altered, whatever the documents do.
    for file in File::BOTH {
        scene.stage.collection(file.name()).delete_many(doc! {}).await?;
    }
    scene.settles().await?;
    for (file, left) in [(File::Expenses, "121, 901"), (File::Incomes, "121, 122")] {
        let ids = format!("select string_agg(id::text, ', ' order by id) from {}", file.name());
        scene
            .waits("ours to be gone", async || Ok(scene.stage.text(&ids).await?.as_deref() == Some(left)))
            .await?;
    }
    Ok(())
}

#[tokio::test]
async fn two_entries_with_one_number_are_told_apart() -> Result<()> {
    let mut scene = loaded("duplicates", 3, 20).await?;
    scene.start()?;
    becomes_expected(&scene).await?;

    let collection = scene.stage.collection("expenses");
    let taken = || Reason { reason: "duplicate_key".into(), column: Some("id".into()) };
    let second = ("expenses".to_owned(), object_id(500).to_hex());
    let mut duplicate = plain(File::Expenses, 500);
    duplicate.insert("id", 7);
    collection.insert_one(&duplicate).await?;
    scene.holds(&Held::from([(second.clone(), taken())])).await?;
    becomes_expected(&scene).await?;
    let message = "select message from rowstream.held where state <> 'resolved'";
    let message = scene.stage.text(message).await?.context("a message")?;
    assert!(message.contains(&object_id(7).to_hex()), "it names who has the number: {message}");

    // The first takes another number: the second has it now.
    update(&scene, File::Expenses, 7, doc! { "$set": { "id": 70 } }).await?;
    scene.holds(&Held::new()).await?;
    becomes_expected(&scene).await?;

    // The first wants its number back, and gets it when the second is gone.
    update(&scene, File::Expenses, 7, doc! { "$set": { "id": 7 } }).await?;
    let first = ("expenses".to_owned(), object_id(7).to_hex());
    scene.holds(&Held::from([(first, taken())])).await?;
    collection.delete_one(doc! { "_id": object_id(500) }).await?;
    scene.holds(&Held::new()).await?;
    becomes_expected(&scene).await
}

async fn set_number(scene: &Scene, number: i64, id: i32) -> Result<()> {
    update(scene, File::Expenses, number, doc! { "$set": { "id": id } }).await
}

#[tokio::test]
async fn numbers_are_swapped_and_moved_along_a_chain() -> Result<()> {
    let mut scene = loaded("swaps", 4, 30).await?;
    scene.start()?;
    becomes_expected(&scene).await?;
    // One after the other, as they arrive while rowstream follows: 1 and 2 swap, 3 to 5 go round.
    for (number, id) in [(1, 2), (2, 1), (3, 4), (4, 5), (5, 3)] {
        set_number(&scene, number, id).await?;
    }
    scene.holds(&Held::new()).await?;
    becomes_expected(&scene).await?;
    scene.stop().await?;
    // All at once, as they are found after a pause: a swap, a circle of three, a chain that ends in a new number.
    for (number, id) in [(6, 7), (7, 6), (8, 9), (9, 10), (10, 8), (11, 12), (12, 13), (13, 1_000)] {
        set_number(&scene, number, id).await?;
    }
    scene.start()?;
    scene.settles().await?;
    scene.holds(&Held::new()).await?;
    becomes_expected(&scene).await
}

#[tokio::test]
async fn a_file_that_is_written_anew_as_a_whole_leaves_the_same_rows() -> Result<()> {
    let mut scene = loaded("rewritten", 5, 150).await?;
    scene.start()?;
    becomes_expected(&scene).await?;
    // `mongoimport --drop`: the same numbers, other `_id`s, one entry less and one more.
    for (file, shift) in [(File::Expenses, 10_000), (File::Incomes, 20_000)] {
        let mut random = Random(50);
        let anew: Vec<Document> = (2..=151)
            .map(|number| {
                let mut entry = entry(file, &mut random, number);
                entry.insert("_id", object_id(number + shift));
                entry
            })
            .collect();
        scene.stage.collection(file.name()).drop().await?;
        scene.load(file.name(), &anew).await?;
    }
    scene.holds(&Held::new()).await?;
    becomes_expected(&scene).await
}

#[tokio::test]
async fn rows_that_dual_write_has_left_are_taken_over() -> Result<()> {
    let mut scene = loaded("adopted", 6, 200).await?;
    // The second half, with the numbers of the files; the sequence knows nothing of them. Some rows are stale.
    for file in File::BOTH {
        let sql = format!(
            "insert into {} (id, date, category, amount, account, currency, notes)
             select number, '2020-01-01', 'stale', 0, 'Cash', '₪', 'written twice' from generate_series(101, 200) as number",
            file.name()
        );
        scene.stage.execute(&sql).await?;
    }
    // And one that the application alone knows.
    scene
        .stage
        .execute(
            "insert into expenses (id, date, category, amount, account, currency)
             values (3000, '2026-01-01', 'Food', 1, 'Cash', '₪')",
        )
        .await?;
    scene.start()?;
    let own = "select count(*) from expenses where id = 3000 and category = 'Food'";
    let mut tables = expected::tables(&scene).await?;
    tables[0].select = "select id, date, business, category, amount, account, currency, notes, test_column
                        from expenses where id < 3000";
    scene.becomes(&tables).await?;
    assert_eq!(scene.stage.number(own).await?, 1, "a row that no document speaks of is not ours");
    assert_eq!(application_inserts(&scene, File::Incomes).await?, 201);

    // They are ours from now on.
    scene.stage.collection("expenses").delete_many(doc! { "id": { "$gt": 150 } }).await?;
    update(&scene, File::Expenses, 120, doc! { "$set": { "notes": "ours" } }).await?;
    tables[0] = expected::table(File::Expenses, &found(&scene, File::Expenses).await?);
    tables[0].select = "select id, date, business, category, amount, account, currency, notes, test_column
                        from expenses where id < 3000";
    tables[1].select =
        "select id, date, category, amount, account, currency, notes from incomes where id < 201";
    scene.becomes(&tables).await?;
    scene.verifies(100)?;
    assert_eq!(scene.stage.number(own).await?, 1);
    Ok(())
}

async fn found(scene: &Scene, file: File) -> Result<Vec<Document>> {
    use futures_util::TryStreamExt as _;
    Ok(scene.stage.collection(file.name()).find(doc! {}).sort(doc! { "_id": 1 }).await?.try_collect().await?)
}

/// One entry of each kind that can be made, numbered from 1001, with its line of `bad_data.md`.
fn one_of_each() -> Result<Vec<(File, Document, bad_data::Line)>> {
    let mut made = Vec::new();
    for ((collection, kind), line) in bad_data::read(include_str!("bad_data.md"))? {
        if line.outcomes == [Outcome::Source] {
            continue;
        }
        for file in File::BOTH {
            if collection == "both" || collection == file.name() {
                let number = 1_001 + made.len() as i64;
                let entry = documents::bad(file, &kind, number)?;
                // The oracle and the table were written apart: they must not contradict each other.
                let held = expected::expected(file, &entry).is_none() || kind == "duplicate_id";
                anyhow::ensure!(held == line.held().is_some(), "{kind}: the table and the oracle disagree");
                made.push((file, entry, line.clone()));
            }
        }
    }
    Ok(made)
}

/// What must be held, and what must have been counted, for these entries.
fn outcomes(made: &[(File, Document, bad_data::Line)]) -> Result<(Held, Coercions)> {
    let (mut held, mut coercions) = (Held::new(), Coercions::new());
    for (file, entry, line) in made {
        if let Some((column, reason)) = line.held() {
            let key = (file.name().to_owned(), entry.get_object_id("_id")?.to_hex());
            held.insert(key, Reason { reason: reason.to_owned(), column: column.clone() });
        }
        for outcome in &line.outcomes {
            if let Outcome::Coerced { column, rule } = outcome {
                let key = (format!("public.{}", file.name()), column.clone(), rule.clone());
                *coercions.entry(key).or_default() += 1;
            }
        }
    }
    Ok((held, coercions))
}

#[tokio::test]
async fn every_kind_of_bad_entry_has_its_outcome_by_snapshot_and_heals() -> Result<()> {
    let scene = loaded("bad_snapshot", 7, 150).await?;
    every_kind_has_its_outcome(scene, false).await
}

#[tokio::test]
async fn every_kind_of_bad_entry_has_its_outcome_by_stream_and_heals() -> Result<()> {
    let scene = loaded("bad_stream", 8, 150).await?;
    every_kind_has_its_outcome(scene, true).await
}

async fn every_kind_has_its_outcome(mut scene: Scene, by_stream: bool) -> Result<()> {
    let made = one_of_each()?;
    let (held, coercions) = outcomes(&made)?;
    if by_stream {
        scene.start()?;
        becomes_expected(&scene).await?;
    }
    for file in File::BOTH {
        let entries: Vec<Document> =
            made.iter().filter(|(of, ..)| *of == file).map(|(_, entry, _)| entry.clone()).collect();
        scene.load(file.name(), &entries).await?;
    }
    if !by_stream {
        scene.start()?;
    }
    becomes_expected(&scene).await?;
    scene.holds(&held).await?;
    scene.verifies(100)?;
    anyhow::ensure!(held.len() * 2 < made.len(), "{} of {} are held", held.len(), made.len());
    let counted = scene.coercions().await?;
    anyhow::ensure!(counted == coercions, "counted {counted:#?}\nexpected {coercions:#?}");

    // Repaired in MongoDB, each becomes its row, and its entry is resolved.
    for (file, entry, _) in made.iter().filter(|(_, _, line)| line.held().is_some()) {
        let number = i64::from_be_bytes(entry.get_object_id("_id")?.bytes()[4..].try_into()?);
        let repaired = plain(*file, number);
        scene.stage.collection(file.name()).replace_one(doc! { "_id": entry.get("_id") }, repaired).await?;
    }
    scene.holds(&Held::new()).await?;
    becomes_expected(&scene).await?;
    let resolved = "select count(*) from rowstream.held where state = 'resolved'";
    assert_eq!(scene.stage.number(resolved).await?, held.len() as i64);
    let rows = "select (select count(*) from expenses) + (select count(*) from incomes)";
    assert_eq!(scene.stage.number(rows).await?, 300 + made.len() as i64, "every entry has a row now");
    Ok(())
}

#[tokio::test]
async fn of_a_file_that_no_importer_reads_nothing_arrives_and_nothing_goes() -> Result<()> {
    let mut scene = loaded("files", 9, 20).await?;
    scene.start()?;
    becomes_expected(&scene).await?;
    let whole = br#"[{"date": "2025-11-02", "category": "Food", "amount": 12.0, "account": "0802", "currency": "\u20aa",
                      "business": null, "notes": "", "id": 21}]"#;
    let unreadable = [
        ("half_written_file", whole[..whole.len() - 20].to_vec()),
        ("file_without_array", br#"{"id": 21}"#.to_vec()),
        ("file_with_byte_order_mark", [b"\xef\xbb\xbf", whole.as_slice()].concat()),
        ("file_with_nan", String::from_utf8_lossy(whole).replace("12.0", "NaN").into_bytes()),
    ];
    let table = bad_data::read(include_str!("bad_data.md"))?;
    let kinds = table.iter().filter(|(_, line)| line.outcomes == [Outcome::Source]).count();
    assert_eq!(kinds, unreadable.len(), "each kind of file is tried");
    for (kind, file) in unreadable {
        assert!(table.contains_key(&("both".to_owned(), kind.to_owned())), "{kind}");
        assert!(documents::import(&file).is_err(), "{kind}");
    }
    becomes_expected(&scene).await?;

    let mut imported = documents::import(whole)?;
    assert_eq!(imported[0].get("currency"), Some(&Bson::String("₪".into())));
    imported[0].insert("_id", object_id(21));
    scene.load("expenses", &imported).await?;
    becomes_expected(&scene).await?;
    scene.holds(&Held::new()).await
}

#[tokio::test]
async fn ten_thousand_entries_of_each_are_there_and_are_looked_up_by_index() -> Result<()> {
    let mut scene = loaded("large", 10, 10_000).await?;
    scene.start()?;
    becomes_expected(&scene).await?;
    // Many at once, beside each other.
    for file in File::BOTH {
        let collection = scene.stage.collection(file.name());
        collection
            .update_many(doc! { "id": { "$gt": 8_000 } }, doc! { "$set": { "category": "moved" } })
            .await?;
        collection.delete_many(doc! { "id": { "$lte": 500 } }).await?;
        collection.update_many(doc! { "id": { "$mod": [7, 0] } }, doc! { "$inc": { "id": 100_000 } }).await?;
    }
    becomes_expected(&scene).await?;
    scene.holds(&Held::new()).await?;
    for file in File::BOTH {
        let greatest = format!("select max(id) from {}", file.name());
        let greatest = scene.stage.number(&greatest).await?;
        assert_eq!(application_inserts(&scene, file).await?, greatest + 1);
    }
    scene.queries_use_indexes(LARGE).await
}

#[test]
fn the_table_of_bad_data_and_the_oracle_agree() -> Result<()> {
    let made = one_of_each()?;
    let (held, _) = outcomes(&made)?;
    assert!(held.len() * 2 < made.len(), "holding everything is a failure");
    Ok(())
}
