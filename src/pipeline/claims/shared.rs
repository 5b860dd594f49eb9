//! Several documents, one row: each has a claim, and the one with the lowest source_id writes.
//!
//! Transactions of one mapping wait for each other at the mapping's own line in the state, so that each sees
//! all claims. A document that must write because another one left is touched: it comes again by the stream.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::{Claims, Contender, SourceBatch, Stubbed, Written, contenders, scope};
use crate::domain::{CanonicalId, Row, RowKey};
use crate::mapping::Mapping;
use crate::pipeline::Error;
use crate::pipeline::commit::{apply, state};
use crate::sink::{self, Outcome};
use crate::state::mapping;
use crate::state::row::{self, Claim};

/// What the claims on one key ask for.
#[derive(Debug, PartialEq, Eq)]
enum Turn {
    /// The document with this source_id has its row in the batch, and writes.
    Writes(String),
    /// The document (source, source_id) must come again: another one wrote before it, or what all of them
    /// have collected is no longer the same.
    Touched(String, String),
    /// Nothing changes.
    Rests,
    /// Nobody is left.
    Gone,
}

/// The row at one key: who had claims before, who has them now (lowest first), which of them are in the batch.
fn turn(before: &[&Claim], now: &[&Claim], source: &str, batch: &HashSet<&str>, collects: bool) -> Turn {
    let Some(lowest) = now.first() else { return Turn::Gone };
    if lowest.source == source && batch.contains(lowest.source_id.as_str()) {
        return Turn::Writes(lowest.source_id.clone());
    }
    let was = before.first().map(|claim| (&claim.source, &claim.source_id));
    let is_new_writer = was != Some((&lowest.source, &lowest.source_id));
    let list = |claims: &[&Claim]| {
        claims.iter().map(|claim| (claim.source_id.clone(), claim.collected.clone())).collect::<Vec<_>>()
    };
    if is_new_writer || collects && list(before) != list(now) {
        return Turn::Touched(lowest.source.clone(), lowest.source_id.clone());
    }
    Turn::Rests
}

/// Claims by key, the lowest source_id first.
fn by_key(claims: &[Claim]) -> HashMap<&RowKey, Vec<&Claim>> {
    let mut found: HashMap<&RowKey, Vec<&Claim>> = HashMap::new();
    for claim in claims.iter().filter(|claim| !claim.kept) {
        if let Some(key) = &claim.key {
            found.entry(key).or_default().push(claim);
        }
    }
    for claims in found.values_mut() {
        claims.sort_by_key(|claim| (&claim.source_id, &claim.source));
    }
    found
}

/// The documents of the source that write the rows of these claims: of each key the one with the lowest source_id.
pub(super) fn writers<'c>(claims: &'c [Claim], source: &str) -> HashSet<&'c str> {
    let firsts = by_key(claims).into_values().filter_map(|claims| claims.first().copied());
    firsts.filter(|claim| claim.source == source).map(|claim| claim.source_id.as_str()).collect()
}

impl Claims<'_> {
    pub(super) async fn put_shared(
        &mut self,
        batch: &SourceBatch,
        stubbed: &[Stubbed],
    ) -> Result<Written, Error> {
        let mut outcome = Outcome::default();
        self.lock().await?;
        self.keep(&batch.kept).await?;
        let contenders = contenders(self.key(), &batch.rows, &mut outcome);
        let ids: Vec<&str> = contenders.iter().map(|one| one.row.source_id.as_str()).collect();
        let wanted: BTreeSet<&RowKey> = contenders.iter().map(|one| &one.key).collect();
        let scope = scope(self.pipeline, &self.target, &self.mapped.mapping);
        let own = row::of_documents(self.connection, scope, &ids).await.map_err(state)?;
        let left = own.iter().filter_map(|claim| claim.key.as_ref());
        let keys: Vec<&RowKey> =
            wanted.iter().copied().chain(left).collect::<BTreeSet<_>>().into_iter().collect();
        let before = row::load(self.connection, scope, &[], &keys).await.map_err(state)?;
        self.forget(&ids).await?;
        let claims: Vec<Claim> =
            contenders.iter().map(|one| self.claim(one, one.row.collected.clone())).collect();
        self.insert(&claims).await?;
        let abandoned = self.settle_shared(&before, &keys, &contenders, stubbed, &mut outcome).await?;
        Ok(Written { outcome, abandoned })
    }

    /// Rows that nobody stands for any more, unless somebody does again.
    pub(in crate::pipeline) async fn remove_abandoned(
        mut self,
        mut abandoned: Vec<Claim>,
    ) -> Result<Outcome, Error> {
        self.lock().await?;
        let mut outcome = Outcome::default();
        let keys: Vec<&RowKey> = abandoned.iter().filter_map(|claim| claim.key.as_ref()).collect();
        let scope = scope(self.pipeline, &self.target, &self.mapped.mapping);
        let now = row::load(self.connection, scope, &[], &keys).await.map_err(state)?;
        abandoned.retain(|claim| now.iter().all(|other| other.key != claim.key));
        self.remove(abandoned, &mut outcome).await?;
        Ok(outcome)
    }

    pub(super) async fn delete_shared(mut self, claims: Vec<Claim>) -> Result<Outcome, Error> {
        self.lock().await?;
        let mut outcome = Outcome::default();
        // Rows that outlive their documents are nobody's to delete once more.
        let claims: Vec<Claim> = claims.into_iter().filter(|claim| !claim.kept).collect();
        let keys: BTreeSet<&RowKey> = claims.iter().filter_map(|claim| claim.key.as_ref()).collect();
        let keys: Vec<&RowKey> = keys.into_iter().collect();
        let scope = scope(self.pipeline, &self.target, &self.mapped.mapping);
        let before = row::load(self.connection, scope, &[], &keys).await.map_err(state)?;
        let ids: Vec<&str> = claims.iter().map(|claim| claim.source_id.as_str()).collect();
        self.forget(&ids).await?;
        self.settle_shared(&before, &keys, &[], &[], &mut outcome).await?;
        Ok(outcome)
    }

    /// Those of the documents after which nobody is left who has their row.
    pub(in crate::pipeline) async fn last(self, source_ids: &[&str]) -> Result<HashSet<String>, Error> {
        let scope = scope(self.pipeline, &self.target, &self.mapped.mapping);
        let own = row::of_documents(self.connection, scope, source_ids).await.map_err(state)?;
        let keys: BTreeSet<&RowKey> = own.iter().filter_map(|claim| claim.key.as_ref()).collect();
        let keys: Vec<&RowKey> = keys.into_iter().collect();
        let all = row::load(self.connection, scope, &[], &keys).await.map_err(state)?;
        let going: HashSet<&str> = source_ids.iter().copied().collect();
        let source = &self.mapped.mapping.source;
        let goes = |claim: &&Claim| claim.source == *source && going.contains(claim.source_id.as_str());
        let of_nobody = by_key(&all).into_values().filter(|claims| claims.iter().all(goes));
        Ok(of_nobody.flatten().map(|claim| claim.source_id.clone()).collect())
    }

    async fn lock(&mut self) -> Result<(), Error> {
        let source = &self.mapped.mapping.source;
        mapping::lock(self.connection, self.pipeline, source).await.map_err(state)
    }

    /// Brings the rows of these keys to what their claims say now; the claims of those that are left to
    /// nobody, and have not gone yet.
    async fn settle_shared(
        &mut self,
        before: &[Claim],
        keys: &[&RowKey],
        contenders: &[Contender<'_>],
        stubbed: &[Stubbed],
        outcome: &mut Outcome,
    ) -> Result<Vec<Claim>, Error> {
        let scope = scope(self.pipeline, &self.target, &self.mapped.mapping);
        let now = row::load(self.connection, scope, &[], keys).await.map_err(state)?;
        let (before_by_key, now_by_key) = (by_key(before), by_key(&now));
        let batch: HashSet<&str> = contenders.iter().map(|one| one.row.source_id.as_str()).collect();
        let collects = self.mapped.mapping.collects().next().is_some();
        let rows: HashMap<&str, &Contender<'_>> =
            contenders.iter().map(|one| (one.row.source_id.as_str(), one)).collect();
        let had_row = |key: &RowKey| before.iter().any(|claim| claim.key.as_ref() == Some(key));
        let is_stub = |row: &Row| self.has_stub(stubbed, &row.id);
        let mut touched: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let (mut merged, mut inserted, mut gone) = (Vec::new(), Vec::new(), Vec::new());
        for key in keys {
            let was = before_by_key.get(key).map_or(&[][..], Vec::as_slice);
            let is = now_by_key.get(key).map_or(&[][..], Vec::as_slice);
            match turn(was, is, &self.mapped.mapping.source, &batch, collects) {
                Turn::Writes(source_id) => match rows.get(source_id.as_str()) {
                    Some(one) if had_row(key) || self.key().adopts_by_key || is_stub(one.row) => {
                        merged.push(one.row.clone());
                    }
                    Some(one) => inserted.push(one.row.clone()),
                    None => {}
                },
                Turn::Touched(source, source_id) => touched.entry(source).or_default().push(source_id),
                Turn::Rests => {}
                Turn::Gone => gone.extend(was.first().map(|claim| (*claim).clone())),
            }
        }
        self.gather(&mut merged, &mut inserted).await?;
        if !self.referred {
            self.remove(std::mem::take(&mut gone), outcome).await?;
        }
        let written =
            sink::upsert(self.connection, &self.mapped.target, &merged, self.portion).await.map_err(apply)?;
        outcome.add(written);
        let written = sink::insert(self.connection, &self.mapped.target, &inserted, self.portion)
            .await
            .map_err(apply)?;
        self.pass_on(&written, &inserted, &now_by_key, &mut touched).await?;
        outcome.add(written);
        for (source, ids) in touched {
            let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
            row::touch(self.connection, self.pipeline, &source, &ids).await.map_err(state)?;
        }
        Ok(gone)
    }

    /// Whether the row of this document was made as a stub, by the columns of the key.
    fn has_stub(&self, stubbed: &[Stubbed], id: &CanonicalId) -> bool {
        let columns = &self.key().columns;
        let by_key = |stubbed: &&Stubbed| {
            stubbed.columns.len() == columns.len()
                && columns.iter().all(|column| stubbed.columns.contains(&column.place))
        };
        stubbed.iter().filter(by_key).any(|stubbed| stubbed.documents.contains(id))
    }

    /// Rows whose last document has left. One that is refused keeps the claim of the document it was written
    /// by, which is held.
    async fn remove(&mut self, gone: Vec<Claim>, outcome: &mut Outcome) -> Result<(), Error> {
        let keyed: Vec<(CanonicalId, RowKey)> =
            gone.iter().filter_map(|claim| Some((claim.id.clone(), claim.key.clone()?))).collect();
        let deleted =
            sink::delete(self.connection, &self.mapped.target, &keyed, self.portion).await.map_err(apply)?;
        let refused: HashSet<&CanonicalId> = deleted.rejected.iter().map(|(id, _)| id).collect();
        let rows_stay = self.rows_stay();
        let stay = |claim: Claim| {
            let is_refused = refused.contains(&claim.id);
            (is_refused || rows_stay).then_some(Claim { kept: !is_refused, ..claim })
        };
        let stay: Vec<Claim> = gone.into_iter().filter_map(stay).collect();
        self.insert(&stay).await?;
        outcome.add(deleted);
        Ok(())
    }

    /// A document whose row was refused has none: the next one has its turn.
    async fn pass_on(
        &mut self,
        written: &Outcome,
        rows: &[Row],
        claims: &HashMap<&RowKey, Vec<&Claim>>,
        touched: &mut BTreeMap<String, Vec<String>>,
    ) -> Result<(), Error> {
        self.give_back(&written.rejected, rows).await?;
        for (id, _) in &written.rejected {
            let of_key = claims.values().find(|claims| claims.first().is_some_and(|claim| claim.id == *id));
            if let Some(next) = of_key.and_then(|claims| claims.get(1)) {
                touched.entry(next.source.clone()).or_default().push(next.source_id.clone());
            }
        }
        Ok(())
    }

    /// Puts what all documents of a key have collected into the rows that are written.
    async fn gather(&mut self, merged: &mut [Row], inserted: &mut [Row]) -> Result<(), Error> {
        let mapping: &Mapping = &self.mapped.mapping;
        let columns: Vec<(usize, bool)> = mapping.collects().collect();
        if columns.is_empty() {
            return Ok(());
        }
        let distinct: Vec<&str> = columns
            .iter()
            .filter(|(_, distinct)| *distinct)
            .map(|(place, _)| mapping.columns[*place].name.as_str())
            .collect();
        let key_of = |row: &Row| mapping.key.row_key(&row.tuple).ok();
        let keys: Vec<RowKey> = merged.iter().chain(inserted.iter()).filter_map(key_of).collect();
        let keys: Vec<&RowKey> = keys.iter().collect();
        let scope = scope(self.pipeline, &self.target, mapping);
        let found = row::collected(self.connection, scope, &keys, &distinct).await.map_err(state)?;
        let found: HashMap<(RowKey, String), String> =
            found.into_iter().map(|(key, column, value)| ((key, column), value)).collect();
        for row in merged.iter_mut().chain(inserted.iter_mut()) {
            let Some(key) = key_of(row) else { continue };
            for (place, _) in &columns {
                let name = mapping.columns[*place].name.clone();
                let value = found.get(&(key.clone(), name)).map_or("[]", String::as_str);
                row.tuple = mapping.with_json(&row.tuple, *place, value).into();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Claims are `a1`: the document a, which adds 1.
    fn claims(text: &str) -> Vec<Claim> {
        let claim = |word: &str| {
            let (source_id, collected) = word.split_at(1);
            Claim {
                source: "ours".into(),
                source_id: source_id.into(),
                id: CanonicalId::from_bytes(source_id.as_bytes()),
                key: Some(RowKey::of_text("1")),
                wants: None,
                adopted: false,
                kept: false,
                collected: Some(collected.into()),
            }
        };
        text.split_whitespace().map(claim).collect()
    }

    fn turn_of(before: &str, now: &str, batch: &[&str], collects: bool) -> Turn {
        let (before, now) = (claims(before), claims(now));
        let (before, now): (Vec<&Claim>, Vec<&Claim>) = (before.iter().collect(), now.iter().collect());
        turn(&before, &now, "ours", &batch.iter().copied().collect(), collects)
    }

    fn touched(source_id: &str) -> Turn {
        Turn::Touched("ours".into(), source_id.into())
    }

    #[test]
    fn the_lowest_document_writes_and_the_others_rest() {
        assert_eq!(turn_of("", "a1", &["a"], false), Turn::Writes("a".into()));
        assert_eq!(turn_of("a1", "a1 b2", &["b"], false), Turn::Rests);
        assert_eq!(turn_of("b2", "a1 b2", &["a"], false), Turn::Writes("a".into()));
    }

    #[test]
    fn when_the_writer_leaves_the_next_comes_again_and_after_the_last_the_row_goes() {
        assert_eq!(turn_of("a1 b2", "b2", &[], false), touched("b"));
        assert_eq!(turn_of("a1 b2", "a1", &[], false), Turn::Rests);
        assert_eq!(turn_of("a1", "", &[], false), Turn::Gone);
    }

    #[test]
    fn the_writer_comes_again_when_another_one_adds_something_to_what_is_collected() {
        assert_eq!(turn_of("a1", "a1 b2", &["b"], true), touched("a"));
        assert_eq!(turn_of("a1 b2", "a1 b3", &["b"], true), touched("a"));
        assert_eq!(turn_of("a1 b2", "a1 b2", &["b"], true), Turn::Rests);
    }
}
