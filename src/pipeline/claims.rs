//! Documents and rows of tables that do not say whose their rows are: keys of the mapping's own columns.
//!
//! Claims are written before rows: of two transactions that want one key, the index of `rowstream.row` lets one
//! wait for the other, and the loser's document is held. Whatever is refused afterwards gives its claim back.

mod decide;
mod leaving;
mod occupants;
mod shared;

use std::collections::{HashMap, HashSet};

use sqlx::PgConnection;

use super::Error;
use super::commit::{apply, state};
use super::plan::Mapped;
use super::prepare::SourceBatch;
use super::references::Stubbed;
use crate::domain::{CanonicalId, Portion, Reason, Rejection, Row, RowKey};
use crate::mapping::{KeyPlan, Mapping, NoKey};
use crate::sink::{self, Outcome, Rekeyed};
use crate::state::row::{self, Claim, Scope};
use decide::{Decision, Holder, Set, Verdict, Wish, decide};

/// Claims that are read at once where all of a source go.
const PAGE: i64 = 10_000;

/// One mapping's claims, within a transaction of the caller's.
pub(super) struct Claims<'a> {
    pub(super) connection: &'a mut PgConnection,
    pub(super) pipeline: &'a str,
    pub(super) mapped: &'a Mapped,
    pub(super) target: String,
    pub(super) portion: Portion,
    /// Rows of others may refer to these: one that is left to nobody cannot go before those are settled.
    pub(super) referred: bool,
}

/// What came of the rows of a batch.
#[derive(Default)]
pub(super) struct Written {
    pub(super) outcome: Outcome,
    /// Rows that no document stands for any more, by the claims they had; others refer to them first.
    pub(super) abandoned: Vec<Claim>,
}

/// A document's row on its way.
struct Contender<'r> {
    row: &'r Row,
    key: RowKey,
}

impl<'a> Claims<'a> {
    pub(super) fn new(
        connection: &'a mut PgConnection,
        pipeline: &'a str,
        mapped: &'a Mapped,
        portion: Portion,
    ) -> Self {
        Self { connection, pipeline, mapped, target: target(&mapped.mapping), portion, referred: false }
    }

    /// Writes the rows of a batch, each to the key that is its document's; what could not be had is rejected.
    /// `straight`: most of them are new. `stubbed` have rows already, which were made for others.
    pub(super) async fn put(
        mut self,
        batch: &SourceBatch,
        straight: bool,
        stubbed: &[Stubbed],
    ) -> Result<Written, Error> {
        let mut written = match self.key().shared {
            true => self.put_shared(batch, stubbed).await?,
            false => {
                let outcome = self.put_alone(batch, straight, stubbed).await?;
                Written { outcome, ..Written::default() }
            }
        };
        self.name_occupants(&mut written.outcome).await?;
        Ok(written)
    }

    async fn put_alone(
        &mut self,
        batch: &SourceBatch,
        straight: bool,
        stubbed: &[Stubbed],
    ) -> Result<Outcome, Error> {
        let mut outcome = Outcome::default();
        self.keep(&batch.kept).await?;
        let mut contenders = contenders(self.key(), &batch.rows, &mut outcome);
        if straight && self.key().adopt.is_empty() && stubbed.is_empty() {
            let claims: Vec<Claim> = contenders.iter().map(|one| self.claim(one, None)).collect();
            let written = self.insert(&claims).await?;
            if written.len() == batch.rows.len() {
                let written =
                    sink::insert_new(self.connection, &self.mapped.target, &batch.rows, self.portion);
                outcome.add(written.await.map_err(apply)?);
                self.give_back(&outcome.rejected, &batch.rows).await?;
                return Ok(outcome);
            }
            let (new, old) = contenders.into_iter().partition(|one| written.contains(&one.row.source_id));
            contenders = old;
            outcome.add(self.insert_rows(new).await?);
        }
        if !contenders.is_empty() {
            self.contend(batch, contenders, stubbed, &mut outcome).await?;
        }
        Ok(outcome)
    }

    async fn contend(
        &mut self,
        batch: &SourceBatch,
        contenders: Vec<Contender<'_>>,
        stubbed: &[Stubbed],
        outcome: &mut Outcome,
    ) -> Result<(), Error> {
        let ids: Vec<&str> = contenders.iter().map(|one| one.row.source_id.as_str()).collect();
        let keys: Vec<&RowKey> = contenders.iter().map(|one| &one.key).collect();
        let scope = scope(self.pipeline, &self.target, &self.mapped.mapping);
        let mut known = row::load(self.connection, scope, &ids, &keys).await.map_err(state)?;
        self.delete_in_the_way(batch, &mut known, outcome).await?;
        let adopted = self.adopt(&contenders, &known, stubbed).await?;
        let new = |claim: &&Claim| !adopted.iter().any(|new| new.source_id == claim.source_id);
        let claims: Vec<Claim> = known.iter().filter(new).chain(&adopted).cloned().collect();
        let wishes: Vec<Wish<'_>> =
            contenders.iter().map(|one| Wish { source_id: &one.row.source_id, key: &one.key }).collect();
        let Decision { mut verdicts, mut sets } = decide(&self.mapped.mapping.source, &wishes, &claims);
        let old: HashMap<&str, &Claim> = known
            .iter()
            .filter(|claim| claim.source == self.mapped.mapping.source)
            .map(|claim| (claim.source_id.as_str(), claim))
            .collect();
        self.write_claims(&contenders, &claims, &adopted, &old, &mut verdicts, &mut sets).await?;
        let refused = self.rekey(&contenders, &old, &mut verdicts, sets).await?;
        outcome.rejected.extend(refused);
        self.write_rows(contenders, &claims, &old, verdicts, outcome).await
    }

    /// Claims on rows that are there without an owner, for documents that have none.
    async fn adopt(
        &mut self,
        contenders: &[Contender<'_>],
        claims: &[Claim],
        stubbed: &[Stubbed],
    ) -> Result<Vec<Claim>, Error> {
        if self.key().adopt.is_empty() && stubbed.is_empty() {
            return Ok(Vec::new());
        }
        let has_row: HashSet<&str> = claims
            .iter()
            .filter(|claim| claim.source == self.mapped.mapping.source && claim.key.is_some())
            .map(|claim| claim.source_id.as_str())
            .collect();
        let without: Vec<&Contender<'_>> =
            contenders.iter().filter(|one| !has_row.contains(one.row.source_id.as_str())).collect();
        let rows: Vec<&Row> = without.iter().map(|one| one.row).collect();
        let mut found = sink::adoptable(self.connection, &self.mapped.target, &rows).await.map_err(apply)?;
        for stubbed in stubbed {
            let is_stub = |place: &usize| stubbed.documents.contains(&rows[*place].id);
            let places: Vec<usize> = (0..rows.len()).filter(is_stub).collect();
            let of_stubs: Vec<&Row> = places.iter().map(|place| rows[*place]).collect();
            let target = &self.mapped.target;
            let stubs = sink::adoptable_by(self.connection, target, &stubbed.columns, &of_stubs);
            let stubs = stubs.await.map_err(apply)?;
            found.extend(stubs.into_iter().map(|(place, key)| (places[place], key)));
        }
        let keys: Vec<&RowKey> = found.iter().map(|(_, key)| key).collect();
        let scope = scope(self.pipeline, &self.target, &self.mapped.mapping);
        let owned = row::load(self.connection, scope, &[], &keys).await.map_err(state)?;
        let mut taken: HashSet<RowKey> = owned.into_iter().filter_map(|claim| claim.key).collect();
        let mut adopted = Vec::new();
        for (place, key) in found {
            if taken.insert(key.clone()) {
                let claim = self.claim(without[place], None);
                adopted.push(Claim { adopted: claim.key.as_ref() != Some(&key), key: Some(key), ..claim });
            }
        }
        Ok(adopted)
    }

    /// Writes down what was decided. A key that another transaction took meanwhile turns a verdict into a held
    /// document, and takes its set with it.
    async fn write_claims(
        &mut self,
        contenders: &[Contender<'_>],
        claims: &[Claim],
        adopted: &[Claim],
        old: &HashMap<&str, &Claim>,
        verdicts: &mut [Verdict],
        sets: &mut Vec<Set>,
    ) -> Result<(), Error> {
        let mut new: Vec<Claim> = adopted.to_vec();
        for (one, verdict) in contenders.iter().zip(verdicts.iter()) {
            let before = old.get(one.row.source_id.as_str());
            match verdict {
                Verdict::Stays | Verdict::StaysAdopted => {
                    // Written again only if it waited, or was gone. One that was adopted just now is new.
                    let again =
                        before.filter(|claim| claim.key.is_some() && (claim.wants.is_some() || claim.kept));
                    new.extend(again.map(|claim| Claim { wants: None, kept: false, ..Claim::clone(claim) }));
                }
                Verdict::TakesOver(number) => {
                    let gone = &claims[*number];
                    row::delete(self.connection, self.pipeline, &gone.source, &[&gone.source_id])
                        .await
                        .map_err(state)?;
                    new.push(self.claim(one, None));
                }
                Verdict::Takes | Verdict::Moves | Verdict::Follows => new.push(self.claim(one, None)),
                Verdict::Held(_) => {}
            }
        }
        let replaced: Vec<&str> = new
            .iter()
            .map(|claim| claim.source_id.as_str())
            .filter(|source_id| old.contains_key(source_id))
            .collect();
        self.forget(&replaced).await?;
        let written = self.insert(&new).await?;
        if written.len() == new.len() {
            return Ok(());
        }
        let lost: HashSet<&str> = new.iter().map(|claim| claim.source_id.as_str()).collect();
        let is_lost = |number: &usize| {
            let source_id = &contenders[*number].row.source_id;
            lost.contains(source_id.as_str()) && !written.contains(source_id)
        };
        let lost: Vec<usize> = (0..contenders.len()).filter(is_lost).collect();
        for number in lost {
            let of_set = sets.iter().position(|set| set.members.contains(&number));
            let members = of_set.map_or_else(|| vec![number], |set| sets.remove(set).members);
            self.restore(contenders, old, &members).await?;
            for member in members {
                verdicts[member] = Verdict::Held(Holder::Wish(member));
            }
        }
        Ok(())
    }

    /// The claims of these documents are again what they were.
    async fn restore(
        &mut self,
        contenders: &[Contender<'_>],
        old: &HashMap<&str, &Claim>,
        members: &[usize],
    ) -> Result<(), Error> {
        let ids: Vec<&str> =
            members.iter().map(|member| contenders[*member].row.source_id.as_str()).collect();
        self.forget(&ids).await?;
        let before: Vec<Claim> =
            ids.iter().filter_map(|id| old.get(id)).map(|claim| Claim::clone(claim)).collect();
        self.insert(&before).await?;
        Ok(())
    }

    /// Moves rows to their new keys, set by set. The documents of a set that was refused are rejected.
    async fn rekey(
        &mut self,
        contenders: &[Contender<'_>],
        old: &HashMap<&str, &Claim>,
        verdicts: &mut [Verdict],
        sets: Vec<Set>,
    ) -> Result<Vec<(CanonicalId, Rejection)>, Error> {
        if sets.is_empty() {
            return Ok(Vec::new());
        }
        let mapping = &self.mapped.mapping;
        let old_key = |member: usize| old.get(contenders[member].row.source_id.as_str())?.key.clone();
        let moves: Vec<Option<Rekeyed>> = sets
            .iter()
            .enumerate()
            .map(|(number, set)| moves(mapping, contenders, &old_key, set, number))
            .collect();
        let possible: Vec<Rekeyed> = moves.iter().map(|moves| moves.clone().unwrap_or_default()).collect();
        let mut refused =
            sink::rekey(self.connection, &self.mapped.target, &possible).await.map_err(apply)?;
        let impossible = moves.iter().enumerate().filter(|(_, moves)| moves.is_none());
        refused.extend(impossible.map(|(number, _)| (number, cannot_be_parked())));
        let mut rejected = Vec::new();
        for (number, rejection) in refused {
            let members = &sets[number].members;
            self.restore(contenders, old, members).await?;
            for member in members {
                // Rejected here; whatever else is held by these keys names them.
                verdicts[*member] = Verdict::Held(Holder::Wish(*member));
                rejected.push((contenders[*member].row.id.clone(), rejection.clone()));
            }
        }
        let moved = verdicts.iter().enumerate().filter(|(_, verdict)| **verdict == Verdict::Moves);
        let left: Vec<RowKey> = moved.filter_map(|(number, _)| old_key(number)).collect();
        let left: Vec<&RowKey> = left.iter().collect();
        row::release(self.connection, self.pipeline, &self.target, &left).await.map_err(state)?;
        Ok(rejected)
    }

    async fn write_rows(
        &mut self,
        contenders: Vec<Contender<'_>>,
        claims: &[Claim],
        old: &HashMap<&str, &Claim>,
        verdicts: Vec<Verdict>,
        outcome: &mut Outcome,
    ) -> Result<(), Error> {
        let rejected: HashSet<CanonicalId> = outcome.rejected.iter().map(|(id, _)| id.clone()).collect();
        let adopted: HashMap<&str, &RowKey> = claims
            .iter()
            .filter(|claim| claim.adopted && claim.source == self.mapped.mapping.source)
            .filter_map(|claim| Some((claim.source_id.as_str(), claim.key.as_ref()?)))
            .collect();
        let (mut merged, mut inserted, mut held) = (Vec::new(), Vec::new(), Vec::new());
        for (one, verdict) in contenders.into_iter().zip(verdicts) {
            match verdict {
                Verdict::Stays | Verdict::Moves | Verdict::TakesOver(_) => merged.push(one.row.clone()),
                Verdict::StaysAdopted => match adopted.get(one.row.source_id.as_str()) {
                    Some(key) => {
                        let tuple = self.key().with_key(&one.row.tuple, key);
                        merged.push(Row { tuple: tuple.into(), ..one.row.clone() });
                    }
                    None => merged.push(one.row.clone()),
                },
                Verdict::Takes | Verdict::Follows => inserted.push(one),
                Verdict::Held(_) if rejected.contains(&one.row.id) => {}
                Verdict::Held(holder) => held.push((one, holder)),
            }
        }
        let written =
            sink::upsert(self.connection, &self.mapped.target, &merged, self.portion).await.map_err(apply)?;
        outcome.add(written);
        outcome.add(self.insert_rows(inserted).await?);
        self.hold(held, claims, old, outcome).await
    }

    /// Rows at keys that no document had. A claim whose row was refused is given back.
    async fn insert_rows(&mut self, new: Vec<Contender<'_>>) -> Result<Outcome, Error> {
        if new.is_empty() {
            return Ok(Outcome::default());
        }
        let rows: Vec<Row> = new.iter().map(|one| one.row.clone()).collect();
        let target = &self.mapped.target;
        let written = match self.key().adopts_by_key {
            true => sink::upsert(self.connection, target, &rows, self.portion).await,
            false => sink::insert(self.connection, target, &rows, self.portion).await,
        };
        let outcome = written.map_err(apply)?;
        self.give_back(&outcome.rejected, &rows).await?;
        Ok(outcome)
    }

    async fn give_back(&mut self, rejected: &[(CanonicalId, Rejection)], rows: &[Row]) -> Result<(), Error> {
        if rejected.is_empty() {
            return Ok(());
        }
        let refused: HashSet<&CanonicalId> = rejected.iter().map(|(id, _)| id).collect();
        let ids: Vec<&str> =
            rows.iter().filter(|row| refused.contains(&row.id)).map(|row| row.source_id.as_str()).collect();
        self.forget(&ids).await
    }

    /// Documents whose key somebody else has, with whom they wait for.
    async fn hold(
        &mut self,
        held: Vec<(Contender<'_>, Holder)>,
        claims: &[Claim],
        old: &HashMap<&str, &Claim>,
        outcome: &mut Outcome,
    ) -> Result<(), Error> {
        if held.is_empty() {
            return Ok(());
        }
        // Some were lost to another transaction, or to one of this batch: who has them stands in the state.
        let keys: Vec<&RowKey> = held.iter().map(|(one, _)| &one.key).collect();
        let scope = scope(self.pipeline, &self.target, &self.mapped.mapping);
        let present = row::load(self.connection, scope, &[], &keys).await.map_err(state)?;
        let owners: HashMap<&RowKey, &Claim> =
            present.iter().filter_map(|claim| Some((claim.key.as_ref()?, claim))).collect();
        let mut waiting = Vec::new();
        for (one, holder) in &held {
            let first = match holder {
                Holder::Claim(number) => owners.get(&one.key).copied().or(claims.get(*number)),
                Holder::Wish(_) => owners.get(&one.key).copied(),
            };
            outcome.rejected.push((one.row.id.clone(), taken(&self.mapped.mapping, first)));
            let before = old.get(one.row.source_id.as_str()).copied();
            waiting.push(Claim {
                wants: Some(one.key.clone()),
                ..before.cloned().unwrap_or_else(|| Claim { key: None, ..self.claim(one, None) })
            });
        }
        let ids: Vec<&str> = waiting.iter().map(|claim| claim.source_id.as_str()).collect();
        self.forget(&ids).await?;
        self.insert(&waiting).await?;
        Ok(())
    }

    /// The keys of the rows that these documents have written.
    pub(super) async fn written(self, source_ids: &[&str]) -> Result<HashMap<String, RowKey>, Error> {
        let scope = scope(self.pipeline, &self.target, &self.mapped.mapping);
        let claims = row::of_documents(self.connection, scope, source_ids).await.map_err(state)?;
        let mut keys: HashMap<String, RowKey> = claims
            .into_iter()
            .filter(|claim| !claim.kept)
            .filter_map(|claim| Some((claim.source_id, claim.key?)))
            .collect();
        if self.key().shared {
            let wanted: Vec<&RowKey> = keys.values().collect();
            let all = row::load(self.connection, scope, &[], &wanted).await.map_err(state)?;
            let writers = shared::writers(&all, &self.mapped.mapping.source);
            keys.retain(|source_id, _| writers.contains(source_id.as_str()));
        }
        Ok(keys)
    }

    pub(super) fn is_shared(&self) -> bool {
        self.key().shared
    }

    /// The next documents of the source that have rows, after the one with the source_id `last`, which becomes
    /// that of the last one found, or none at the end.
    pub(super) async fn page(self, last: &mut Option<String>) -> Result<Vec<CanonicalId>, Error> {
        let scope = scope(self.pipeline, &self.target, &self.mapped.mapping);
        let claims = row::page(self.connection, scope, last.as_deref(), PAGE).await.map_err(state)?;
        *last = claims.last().map(|claim| claim.source_id.clone());
        Ok(claims.into_iter().filter(|claim| claim.key.is_some()).map(|claim| claim.id).collect())
    }

    /// Claims of an earlier session that this mapping can go on with. Those on another table are forgotten:
    /// its rows are left as they are.
    pub(super) async fn take_up(self) -> Result<(), Error> {
        let mapping = &self.mapped.mapping;
        let scope = scope(self.pipeline, &self.target, mapping);
        let others = row::other_targets(self.connection, scope).await.map_err(state)?;
        let of_table = format!("{} (", mapping.table);
        if let Some(other) = others.iter().find(|other| other.starts_with(&of_table)) {
            return Err(Error::halt(
                format!(
                    "mapping {} has the key {} now, and its rows were written as {other}",
                    mapping.source, self.target
                ),
                "set the key back, or use a new source name and take the rows over with adopt",
            ));
        }
        if !others.is_empty() {
            row::delete_source(self.connection, self.pipeline, &mapping.source).await.map_err(state)?;
        }
        row::set_shared(self.connection, scope).await.map_err(state)
    }

    fn key(&self) -> &'a KeyPlan {
        &self.mapped.mapping.key
    }

    fn claim(&self, one: &Contender<'_>, collected: Option<String>) -> Claim {
        Claim {
            source: self.mapped.mapping.source.clone(),
            source_id: one.row.source_id.clone(),
            id: one.row.id.clone(),
            key: Some(one.key.clone()),
            wants: None,
            adopted: false,
            kept: false,
            collected,
        }
    }

    async fn insert(&mut self, claims: &[Claim]) -> Result<HashSet<String>, Error> {
        let claims: Vec<&Claim> = claims.iter().collect();
        let scope = scope(self.pipeline, &self.target, &self.mapped.mapping);
        let written = row::insert(self.connection, scope, &claims).await.map_err(state)?;
        Ok(written.into_iter().collect())
    }

    async fn forget(&mut self, source_ids: &[&str]) -> Result<(), Error> {
        let source = &self.mapped.mapping.source;
        row::delete(self.connection, self.pipeline, source, source_ids).await.map_err(state)
    }
}

/// With the key's columns: a claim on one key says nothing about another key of the same table.
pub(crate) fn target(mapping: &Mapping) -> String {
    format!("{} ({})", mapping.table, mapping.key.spec.names().join(", "))
}

pub(crate) fn scope<'s>(pipeline: &'s str, target: &'s str, mapping: &'s Mapping) -> Scope<'s> {
    Scope { pipeline, source: &mapping.source, target, shared: mapping.key.shared }
}

/// Rows in the order of their source_ids, each document once; those without a key are rejected.
fn contenders<'r>(key: &KeyPlan, rows: &'r [Row], outcome: &mut Outcome) -> Vec<Contender<'r>> {
    let mut latest: Vec<&Row> = rows.iter().rev().collect();
    latest.sort_by(|left, right| left.source_id.cmp(&right.source_id));
    latest.dedup_by(|later, first| later.source_id == first.source_id);
    let mut contenders = Vec::with_capacity(latest.len());
    for row in latest {
        match key.row_key(&row.tuple) {
            Ok(key) => contenders.push(Contender { row, key }),
            Err(why) => outcome.rejected.push((row.id.clone(), without_key(why))),
        }
    }
    contenders
}

/// The steps of one set. `None`: it is a circle, and no key is to spare.
fn moves(
    mapping: &Mapping,
    contenders: &[Contender<'_>],
    old_key: &impl Fn(usize) -> Option<RowKey>,
    set: &Set,
    number: usize,
) -> Option<Rekeyed> {
    let mut moves: Rekeyed = set
        .members
        .iter()
        .filter_map(|member| Some((old_key(*member)?, contenders[*member].key.clone())))
        .collect();
    if set.circle {
        let parked = mapping.key.parked(&moves.first()?.0, &mapping.columns, number)?;
        let last = (parked.clone(), std::mem::replace(&mut moves.first_mut()?.1, parked));
        moves.push(last);
    }
    Some(moves)
}

fn taken(mapping: &Mapping, first: Option<&Claim>) -> Rejection {
    let column = mapping.key.columns.first().map(|column| mapping.columns[column.place].name.clone());
    let message = match first {
        Some(claim) => {
            format!("its key is that of the document {} of mapping {}", claim.id.describe(), claim.source)
        }
        None => "another document came first with its key".to_owned(),
    };
    Rejection { column, reason: Reason::DuplicateKey, message }
}

fn without_key(why: NoKey) -> Rejection {
    let (reason, message) = match why {
        NoKey::Null => (Reason::MissingRequired, "a column of its key is null"),
        NoKey::TooLong => (Reason::TooLong, "its key has more than 2,000 bytes"),
    };
    Rejection { column: None, reason, message: message.to_owned() }
}

fn cannot_be_parked() -> Rejection {
    Rejection {
        column: None,
        reason: Reason::DuplicateKey,
        message: "it exchanges its key with other documents, and no column of the key has a value to spare"
            .to_owned(),
    }
}
