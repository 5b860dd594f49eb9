//! What was in MongoDB before rowstream came.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use bson::doc;
use uuid::Uuid;

use super::Crm;
use super::bad_data::{Case, cases, missing};
use super::generator::{Documents, Size, another, generate, id};
use super::model::COLLECTIONS;
use super::oracle::Verdict;
use crate::systems::bad_data::{BadData, Outcome, read};
use crate::systems::scene::{Held, Reason};

#[tokio::test]
async fn a_whole_crm_is_copied_exactly_with_nothing_held_and_nothing_altered() -> Result<()> {
    let mut crm = Crm::set("copied").await?;
    let documents = generate(1, Size::Small);
    let count: usize = documents.values().map(Vec::len).sum();
    ensure!((100..=1_000).contains(&count), "{count} documents");
    crm.load(&documents).await?;
    crm.scene.start()?;
    crm.becomes_right().await?;
    crm.scene.holds(&Held::new()).await?;
    assert_eq!(crm.altered().await?, BTreeMap::new());

    // Nothing of it depends on what the first run had in memory.
    crm.scene.stop().await?;
    crm.scene.start()?;
    crm.becomes_right().await
}

#[tokio::test]
async fn a_large_crm_is_copied_exactly_and_every_look_up_of_the_application_uses_an_index() -> Result<()> {
    let mut crm = Crm::set("large").await?;
    crm.load(&generate(2, Size::Large)).await?;
    crm.scene.start()?;
    crm.copied().await?;
    crm.much_changes().await?;
    crm.becomes_right().await?;
    crm.scene.holds(&Held::new()).await?;
    crm.scene.queries_use_indexes(1_000).await
}

#[tokio::test]
async fn every_kind_of_bad_data_that_was_there_has_its_outcome_and_heals() -> Result<()> {
    let mut crm = Crm::set("bad_copied").await?;
    let table = table()?;
    let mut documents = generate(3, Size::Small);
    for case in cases() {
        documents.entry(case.collection).or_default().push(case.bad);
    }
    crm.load(&documents).await?;
    let held = crm.judge(&table)?;
    crm.scene.start()?;
    crm.has_outcomes(&table, &held).await?;
    crm.heals().await
}

#[tokio::test]
async fn every_kind_of_bad_data_that_comes_has_its_outcome_and_heals() -> Result<()> {
    let mut crm = Crm::set("bad_followed").await?;
    let table = table()?;
    crm.load(&generate(4, Size::Small)).await?;
    crm.scene.start()?;
    crm.becomes_right().await?;
    for case in cases() {
        crm.insert(case.collection, case.bad).await?;
    }
    let held = crm.judge(&table)?;
    crm.has_outcomes(&table, &held).await?;
    crm.heals().await
}

/// The checked-in table, of which every line is made and nothing else.
fn table() -> Result<BadData> {
    let table = read(include_str!("bad_data.md"))?;
    let listed: BTreeSet<_> = table.keys().cloned().collect();
    let made: BTreeSet<_> =
        cases().iter().map(|case| (case.collection.to_owned(), case.kind.to_owned())).collect();
    ensure!(
        listed == made,
        "listed or made alone: {:#?}",
        listed.symmetric_difference(&made).collect::<Vec<_>>()
    );
    let held = table.values().filter(|line| line.held().is_some()).count();
    ensure!(held * 2 < table.len(), "holding {held} of {} is no way to treat data", table.len());
    Ok(table)
}

#[test]
fn every_line_of_the_table_of_bad_data_is_made() -> Result<()> {
    table().map(drop)
}

fn case_key(case: &Case) -> (String, String) {
    (case.collection.to_owned(), case.kind.to_owned())
}

impl Crm {
    /// Tells the oracle what the table says, and gives what must be held.
    fn judge(&mut self, table: &BadData) -> Result<Held> {
        let mut held = Held::new();
        for case in cases() {
            let line = &table[&case_key(&case)];
            let id = case.bad.get_object_id("_id")?;
            let mut verdict = Verdict::default();
            let given = case.columns.iter().map(|(name, value)| (*name, value.map(ToOwned::to_owned)));
            verdict.columns.extend(given);
            for outcome in &line.outcomes {
                match outcome {
                    Outcome::Held { column, reason } => {
                        verdict.held = true;
                        let reason = Reason { reason: reason.clone(), column: column.clone() };
                        held.insert((case.collection.to_owned(), id.to_hex()), reason);
                    }
                    Outcome::Coerced { column, .. } => {
                        let given = verdict.columns.contains_key(column.as_str());
                        ensure!(given, "{} {}: what is {column}?", case.collection, case.kind);
                    }
                    Outcome::Null { column } => {
                        let columns = &super::model::collection(case.collection).columns;
                        let column = columns.iter().find(|known| known.name == column);
                        verdict.columns.insert(column.context("an unknown column")?.name, None);
                    }
                    Outcome::Exact | Outcome::Dropped { .. } => {}
                    Outcome::Source | Outcome::Stub { .. } => {
                        anyhow::bail!("{} never comes about", case.kind)
                    }
                }
            }
            self.oracle.verdicts.insert((case.collection, id), verdict);
        }
        Ok(held)
    }

    async fn has_outcomes(&self, table: &BadData, held: &Held) -> Result<()> {
        self.becomes_right().await?;
        self.scene.holds(held).await?;
        self.scene.verifies(100)?;
        self.counts_coercions(table).await?;
        for case in cases() {
            let waits = self.waits(case.collection, case.bad.get_object_id("_id")?).await?;
            let outcomes = &table[&case_key(&case)].outcomes;
            for outcome in outcomes {
                let remembered = match outcome {
                    Outcome::Null { .. } | Outcome::Stub { .. } | Outcome::Dropped { .. } => true,
                    Outcome::Held { reason, .. } => reason == "unresolved_reference",
                    Outcome::Exact | Outcome::Coerced { .. } | Outcome::Source => false,
                };
                ensure!(waits > 0 || !remembered, "{} {}: nothing waits", case.collection, case.kind);
            }
        }
        Ok(())
    }

    /// What is remembered of references that lead nowhere: single ones, and those of junctions.
    async fn waits(&self, source: &str, id: bson::oid::ObjectId) -> Result<i64> {
        let waits =
            format!("select count(*) from rowstream.wait where source = '{source}' and source_id = '{id}'");
        let links = format!("select count(*) from rowstream.link where lister = '{id}'");
        self.scene.stage.number(&format!("select ({waits}) + ({links})")).await
    }

    /// How often each rule altered a value, but for references that were not there at first.
    async fn altered(&self) -> Result<BTreeMap<(String, String, String), u64>> {
        let coercions =
            self.scene.coercions().await?.into_iter().filter(|((.., rule), _)| !rule.starts_with("missing_"));
        Ok(coercions
            .map(|((table, column, rule), count)| {
                ((table.trim_start_matches("public.").to_owned(), column, rule), count)
            })
            .collect())
    }

    /// Each rule of the table was counted for its column, and no other was.
    async fn counts_coercions(&self, table: &BadData) -> Result<()> {
        let mut expected: BTreeMap<(String, String, String), u64> = BTreeMap::new();
        for ((collection, _), line) in table {
            for outcome in &line.outcomes {
                if let Outcome::Coerced { column, rule } = outcome {
                    *expected.entry((collection.clone(), column.clone(), rule.clone())).or_default() += 1;
                }
            }
        }
        let counted = self.altered().await?;
        // What waited for a reference was written, and counted, more than once.
        let fewer: Vec<_> = expected.iter().filter(|(key, count)| counted.get(*key) < Some(count)).collect();
        let others: Vec<_> = counted.keys().filter(|key| !expected.contains_key(*key)).collect();
        ensure!(
            fewer.is_empty() && others.is_empty(),
            "too few of {fewer:#?}, and nobody asked for {others:#?}"
        );
        Ok(())
    }

    /// Somebody repairs what is held, and what was referred to comes late.
    async fn heals(&mut self) -> Result<()> {
        let cases = cases();
        for case in &cases {
            let id = case.good.get_object_id("_id")?;
            let verdict = self.oracle.verdicts.remove(&(case.collection, id)).context("not judged")?;
            if verdict.held && !waits_for_somebody(case) {
                self.replace(case.collection, case.good.clone()).await?;
            } else {
                let kept = Verdict { held: false, columns: case.columns.iter().map(own).collect() };
                self.oracle.verdicts.insert((case.collection, id), kept);
            }
        }
        for collection in ["Users", "crm_Accounts", "Boards", "Tasks", "Documents", "Invoices"] {
            let mut late = another(collection, 900_000, Size::Small);
            late.insert("_id", missing(collection));
            self.insert(collection, late).await?;
        }
        self.becomes_right().await?;
        // Whose reference is no id at all waits on, and so does the board of the user "null".
        let stuck =
            cases.iter().find(|case| case.kind == "malformed_ref \"null\"").context("no such case")?;
        let user = id("Users", 0);
        self.update(stuck.collection, stuck.good.get_object_id("_id")?, doc! { "$set": { "user": user } })
            .await?;
        self.becomes_right().await?;
        self.scene.holds(&Held::new()).await?;
        self.scene.verifies(100)?;
        let resolved =
            "select count(*) from rowstream.held where state = 'resolved' and resolved_at is not null";
        ensure!(self.scene.stage.number(resolved).await? > 0, "what was held is remembered as resolved");
        Ok(())
    }
}

/// Repaired by the document that it refers to, not by its own.
fn waits_for_somebody(case: &Case) -> bool {
    case.kind.starts_with("dangling_ref") || case.kind == "malformed_ref \"null\""
}

fn own((name, value): &(&'static str, Option<&'static str>)) -> (&'static str, Option<String>) {
    (*name, value.map(ToOwned::to_owned))
}

#[tokio::test]
async fn users_of_an_earlier_script_keep_their_ids_and_all_that_refers_to_them_gets_those() -> Result<()> {
    let mut crm = Crm::set("adopted").await?;
    let documents = generate(5, Size::Small);
    let emails = documents["Users"].iter().step_by(2).map(|user| Ok(user.get_str("email")?.to_owned()));
    for email in emails.collect::<Result<Vec<_>>>()? {
        let found = Uuid::new_v4();
        let values = format!("'{found}', 0, '{email}', 'of the script', now()::timestamp");
        let columns = "\"id\", \"__v\", \"email\", \"name\", \"created_on\"";
        crm.scene.stage.execute(&format!("insert into \"Users\" ({columns}) values ({values})")).await?;
        crm.oracle.adopted.insert(email, found);
    }
    crm.load(&documents).await?;
    crm.scene.start()?;
    crm.becomes_right().await?;

    // By stream as well: a reference to one of them, and one of them changed.
    let adopted = documents["Users"][0].get_object_id("_id")?;
    let made = documents["Users"][1].get_object_id("_id")?;
    let account = id("crm_Accounts", 0);
    crm.update("crm_Accounts", account, doc! { "$set": { "assigned_to": made } }).await?;
    crm.becomes_right().await?;
    crm.update("crm_Accounts", account, doc! { "$set": { "assigned_to": adopted } }).await?;
    crm.update("Users", adopted, doc! { "$set": { "name": "of the document" } }).await?;
    crm.becomes_right().await?;
    crm.scene.verifies(100)
}

#[tokio::test]
async fn where_every_reference_leads_nowhere_it_is_null_or_holds_its_document() -> Result<()> {
    let mut crm = Crm::set("nowhere").await?;
    let mut documents = Documents::new();
    for collection in COLLECTIONS.iter() {
        documents.insert(collection.name, vec![another(collection.name, 1, Size::Small)]);
    }
    crm.load(&documents).await?;
    crm.scene.start()?;
    crm.becomes_right().await?;
    let expected = crm.expected().await?;
    let boards_and_what_has_a_user =
        ["Boards", "Sections", "openAi_keys", "secondBrain_notions", "tasksComments"];
    let waiting: BTreeSet<&str> = expected.waiting.iter().map(|(collection, ..)| *collection).collect();
    assert_eq!(waiting.into_iter().collect::<Vec<_>>(), boards_and_what_has_a_user);
    crm.holds_what_waits().await
}
