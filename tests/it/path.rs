//! The first row of the mission: four raw sources in one `transactions` table. What each row must be is
//! computed here, from the document, without a line of the product's transform.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use bson::{Bson, Document, doc};
use futures_util::TryStreamExt;
use sqlx::Row;
use uuid::{Uuid, uuid};

use crate::daemon::{Daemon, PATIENCE};
use crate::oracle::{self, Plain};
use crate::stage::Stage;
use crate::support::expenses::{Collection, Expenses, SCHEMA, Writer, configuration};
use crate::support::until;

/// The default of `id_namespace`, as docs/CONFIGURATION.md promises it.
const NAMESPACE: Uuid = uuid!("95f5c7b4-e87b-5645-84e5-2e5531347372");

const TRANSACTIONS: [(Collection, Plain); 4] = [
    (Collection::Venmo, Plain::String),
    (Collection::Splitwise, Plain::Int),
    (Collection::Stripe, Plain::String),
    (Collection::Cash, Plain::ObjectId),
];

const WHOLE: [&str; 3] = ["accounts", "line_items", "events"];

/// A row as it must be.
#[derive(Debug)]
struct Transaction {
    source: &'static str,
    source_id: String,
    id: String,
    source_data: String,
    /// Of transaction_date, since 1970.
    microseconds: i64,
}

/// `prefix` and Crockford's base 32 of 128 bits, by long division.
fn ulid(prefix: &str, id: Uuid) -> String {
    let mut rest = u128::from_be_bytes(*id.as_bytes());
    let mut digits = Vec::new();
    while digits.len() < 26 {
        digits.push(char::from(b"0123456789ABCDEFGHJKMNPQRSTVWXYZ"[(rest % 32) as usize]));
        rest /= 32;
    }
    prefix.chars().chain(digits.into_iter().rev()).collect()
}

fn seconds(document: &Document, field: &str) -> Result<i64> {
    Ok(match document.get(field) {
        Some(Bson::Int32(seconds)) => i64::from(*seconds) * 1_000_000,
        Some(Bson::Int64(seconds)) => seconds * 1_000_000,
        Some(Bson::Double(seconds)) => (seconds * 1e6) as i64,
        other => anyhow::bail!("{field} is {other:?}"),
    })
}

fn expected(collection: Collection, plain: Plain, document: &Document) -> Result<Transaction> {
    let source = collection.source();
    let source_id = oracle::source_id(document.get("_id").context("no _id")?, plain)?;
    let name = format!("{source}\0{source_id}");
    let mut without_id = document.clone();
    without_id.remove("_id");
    let microseconds = match collection {
        Collection::Venmo => seconds(document, "date_created")?,
        Collection::Splitwise => {
            bson::DateTime::parse_rfc3339_str(document.get_str("date")?)?.timestamp_millis() * 1000
        }
        Collection::Stripe => seconds(document, "transacted_at")?,
        _ => seconds(document, "date")?,
    };
    let id = ulid("txn_", Uuid::new_v5(&NAMESPACE, name.as_bytes()));
    Ok(Transaction {
        source,
        source_id,
        id,
        source_data: oracle::json(&without_id).to_string(),
        microseconds,
    })
}

/// Every difference, both ways: row by row and value by value.
async fn differences(stage: &Stage) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for (collection, plain) in TRANSACTIONS {
        let mut documents = stage.collection(collection.name()).find(doc! {}).await?;
        while let Some(document) = documents.try_next().await? {
            all.push(expected(collection, plain, &document)?);
        }
    }
    let texts = |of: fn(&Transaction) -> &str| all.iter().map(|row| of(row).to_owned()).collect::<Vec<_>>();
    let mut session = stage.session().await?;
    let rows = sqlx::query(
        "with expected as (
             select *, x.source_data::jsonb as document
             from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[])
                  as x(source, source_id, id, source_data, microseconds)
         )
         select concat('row ', actual, ' expected ', expected) from transactions as actual
         full join expected on expected.source = actual.source::text and expected.source_id = actual.source_id
         where (actual.id, actual.source_data, (extract(epoch from actual.transaction_date) * 1000000)::bigint)
               is distinct from (expected.id, expected.document, expected.microseconds)",
    )
    .bind(texts(|row| row.source))
    .bind(texts(|row| &row.source_id))
    .bind(texts(|row| &row.id))
    .bind(texts(|row| &row.source_data))
    .bind(all.iter().map(|row| row.microseconds).collect::<Vec<_>>())
    .fetch_all(&mut *session)
    .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

async fn becomes_equal(stage: &Stage, daemon: &Daemon) -> Result<()> {
    let mut last = Vec::new();
    let equal = until("transactions to equal the documents", PATIENCE, async || {
        last = differences(stage).await?;
        Ok(last.is_empty().then_some(()))
    })
    .await;
    equal.with_context(|| format!("{:#?}\n{}", last.first(), daemon.last_words()))?;
    for table in WHOLE {
        stage.becomes_equal(daemon, table, Plain::String).await?;
    }
    Ok(())
}

async fn stage(name: &str) -> Result<(Stage, String)> {
    let stage = Stage::new(name).await?;
    stage.execute(SCHEMA).await?;
    let servers = stage.config("").replacen("pipeline: test\n", "", 1);
    let config = format!("{servers}{}", configuration(&stage.name));
    Ok((stage, config))
}

/// Which version of each row is there: another one after any write, even of equal values.
async fn versions(stage: &Stage, columns: &str) -> Result<BTreeMap<String, String>> {
    let mut connection = stage.postgres().await?;
    let sql = format!("select id, concat_ws(' ', {columns}) from transactions");
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(&mut connection).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

#[tokio::test]
async fn four_sources_become_one_table_by_snapshot_and_by_stream() -> Result<()> {
    let (stage, config) = stage("path").await?;
    let expenses = Expenses::generate(20, 1_500);
    expenses.insert_into(&stage.database).await?;
    let daemon = Daemon::start(&config)?;
    becomes_equal(&stage, &daemon).await?;
    for (collection, _) in TRANSACTIONS {
        let sql = format!("select count(*) from transactions where source = '{collection}'");
        assert_eq!(stage.number(&sql).await?, expenses.of(collection).len() as i64, "{collection}");
    }

    // An update writes the row, and leaves alone what it may only write on insert.
    let stamps = versions(&stage, "imported_at, created_at").await?;
    let before = versions(&stage, "xmin").await?;
    let updates = [
        (Collection::Venmo, doc! { "$set": { "date_created": 1_600_000_000_i64, "note": "again" } }),
        (Collection::Splitwise, doc! { "$set": { "date": "2024-02-29T23:59:59Z" } }),
        (Collection::Stripe, doc! { "$inc": { "transacted_at": 86_400, "amount": -1 } }),
        (Collection::Cash, doc! { "$set": { "date": 1.5e9 + 0.25 }, "$unset": { "person": "" } }),
    ];
    for (collection, update) in updates {
        let id = expenses.of(collection)[0].get("_id").cloned();
        let updated = stage.collection(collection.name()).update_one(doc! { "_id": id }, update).await?;
        assert_eq!(updated.modified_count, 1);
    }
    becomes_equal(&stage, &daemon).await?;
    let after = versions(&stage, "xmin").await?;
    let rewritten: BTreeSet<_> =
        before.iter().filter(|(id, version)| after.get(*id) != Some(version)).collect();
    assert_eq!(rewritten.len(), 4, "one row of each source is written, and no other");
    assert_eq!(versions(&stage, "imported_at, created_at").await?, stamps);

    // The application at work: inserts, updates, replaces, deletes, inserts again.
    let mut writer = Writer::new(7, 0, 1, &expenses);
    for _ in 0..400 {
        writer.next_write().apply(&stage.database).await?;
    }
    becomes_equal(&stage, &daemon).await?;
    assert_eq!(stage.number("select count(*) from rowstream.held").await?, 0);
    assert!(daemon.stop().await?.success());
    Ok(())
}

#[tokio::test]
async fn a_second_run_until_caught_up_changes_nothing() -> Result<()> {
    let (stage, config) = stage("second_run").await?;
    let expenses = Expenses::generate(21, 600);
    expenses.insert_into(&stage.database).await?;

    let (status, summary) = Daemon::start_with(&config, &["--until-caught-up"])?.ends_with_output().await?;
    assert_eq!(status.code(), Some(0), "{summary}");
    assert!(summary.starts_with("caught up after "), "{summary}");
    for (collection, _) in TRANSACTIONS {
        let counts = counts(&summary, collection.source())?;
        assert_eq!(counts, [expenses.of(collection).len() as u64, 0, 0, 0, 0], "{summary}");
    }
    assert_eq!(differences(&stage).await?, Vec::<String>::new());
    let before = versions(&stage, "xmin, ctid, imported_at").await?;

    let (status, summary) = Daemon::start_with(&config, &["--until-caught-up"])?.ends_with_output().await?;
    assert_eq!(status.code(), Some(0), "{summary}");
    assert_eq!(versions(&stage, "xmin, ctid, imported_at").await?, before);

    // What happens between two runs is the second one's work.
    let mut writer = Writer::new(8, 0, 1, &expenses);
    for _ in 0..100 {
        writer.next_write().apply(&stage.database).await?;
    }
    let (status, summary) = Daemon::start_with(&config, &["--until-caught-up"])?.ends_with_output().await?;
    assert_eq!(status.code(), Some(0), "{summary}");
    assert_eq!(differences(&stage).await?, Vec::<String>::new());
    for table in WHOLE {
        stage.equal(table, Plain::String).await?;
    }
    Ok(())
}

/// inserted, updated, unchanged, deleted, held
fn counts(summary: &str, source: &str) -> Result<[u64; 5]> {
    let line = summary.lines().find(|line| line.split_whitespace().next() == Some(source));
    let line = line.with_context(|| format!("no line of {source} in {summary}"))?;
    let counts: Vec<u64> =
        line.split_whitespace().skip(1).take(5).map(str::parse).collect::<Result<_, _>>()?;
    counts.try_into().ok().context("five counts")
}

#[tokio::test]
async fn until_caught_up_with_held_changes_ends_with_1_and_says_so() -> Result<()> {
    let (stage, config) = stage("caught_up_held").await?;
    let expenses = Expenses::generate(22, 60);
    expenses.insert_into(&stage.database).await?;
    stage.collection("venmo_raw_data").insert_one(doc! { "_id": "dateless", "note": "no date" }).await?;
    stage.collection("cash_raw_data").insert_one(doc! { "date": "2024-05-05", "amount": 1 }).await?;

    let (status, summary) = Daemon::start_with(&config, &["--until-caught-up"])?.ends_with_output().await?;
    assert_eq!(status.code(), Some(1), "{summary}");
    assert!(summary.contains("2 changes are held"), "{summary}");
    assert_eq!(counts(&summary, "venmo")?, [expenses.of(Collection::Venmo).len() as u64, 0, 0, 0, 1]);
    assert_eq!(counts(&summary, "cash")?, [expenses.of(Collection::Cash).len() as u64, 0, 0, 0, 1]);
    let held = stage.text(
        "select string_agg(concat_ws(' ', source, reason, column_name), ', ' order by source) from rowstream.held",
    );
    assert_eq!(
        held.await?.as_deref(),
        Some("cash wrong_type transaction_date, venmo missing_required transaction_date")
    );
    assert_eq!(
        stage.number("select count(*) from transactions").await?,
        TRANSACTIONS.iter().map(|(of, _)| expenses.of(*of).len() as i64).sum::<i64>(),
        "the others are there"
    );
    Ok(())
}
