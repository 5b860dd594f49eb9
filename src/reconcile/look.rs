//! One look: some documents, and whether their rows are as they should be.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};

use sqlx::PgConnection;

use super::finding::{Deviating, Kind, Suspect, fingerprint};
use crate::config::{Deletes, ElementError};
use crate::domain::{CanonicalId, Document, Reference, Row, RowKey, Sought, SourceIndex, Tuples};
use crate::mapping::{ChildPlan, JunctionPlan, Mapping, TargetOfReference};
use crate::pipeline::{
    Error, Finding, Mapped, MappedChild, Plan, SourceBatch, apply, claimed, claims_of, compares_nothing,
    state, tuple_of_key,
};
use crate::sink::{self, Comparison, Deviation, ShownValue};
use crate::state::left_out;
use crate::state::link::{self, List};
use crate::state::row::{self, Claim};
use crate::state::{reconcile, wait};

/// What compares the rows of one mapping, and of each of its children.
#[derive(Debug)]
pub(super) struct Comparisons {
    pub own: Comparison,
    pub children: Vec<Comparison>,
}

impl Comparisons {
    pub(super) fn of(plan: &Plan) -> Vec<Self> {
        let of_children =
            |mapped: &Mapped| mapped.children.iter().map(|child| Comparison::new(&child.target)).collect();
        let of =
            |mapped: &Mapped| Self { own: Comparison::new(&mapped.target), children: of_children(mapped) };
        plan.mapped.iter().map(of).collect()
    }
}

/// What looks.
#[derive(Debug)]
pub(super) struct Looker<'a> {
    pub connection: &'a mut PgConnection,
    pub pipeline: &'a str,
    pub plan: &'a Plan,
    /// By source.
    pub comparisons: &'a [Comparisons],
    /// Of so many rows more, the values that differ are taken along.
    pub shown: usize,
}

/// What one look has seen.
#[derive(Debug, Default)]
pub(super) struct Sight {
    pub suspects: Vec<Suspect>,
    /// Documents whose rows are as they should be, or differ.
    pub compared: u64,
    /// Documents that are there and do not belong to the mapping.
    pub filtered: u64,
    /// Documents that are held and whose rows therefore say something else.
    pub held: u64,
}

/// What deviates, by document.
type Deviations = BTreeMap<CanonicalIdText, (CanonicalId, Vec<Deviating>)>;
type CanonicalIdText = String;

/// A row as it should be: of which document, and its COPY tuple.
struct Expected<'r> {
    row: &'r Row,
    tuple: Cow<'r, [u8]>,
}

impl Looker<'_> {
    pub(super) async fn look(&mut self, mut batch: SourceBatch) -> Result<Sight, Error> {
        let plan = self.plan;
        let mapped = plan.of(batch.source);
        let mapping = &mapped.mapping;
        let mut deviations = Deviations::new();
        self.fill(mapped, &mut batch).await?;
        let rows = std::mem::take(&mut batch.rows);
        let compared = rows.len() as u64;
        let there = self.own_rows(mapped, &rows, &mut deviations).await?;
        self.children(mapped, &mut batch, &there, &mut deviations).await?;
        for refused in &batch.refused {
            let columns = refused.rejection.column.iter().cloned().collect();
            let source_id = refused.id.source_id(mapping.id_type);
            add(&mut deviations, &source_id, &refused.id, mapping, Kind::NotHeld, columns);
        }
        self.gone(mapped, &batch.deletes, &mut deviations).await?;
        if compares_nothing() {
            deviations.clear();
        }
        let mut documents: HashMap<&CanonicalId, &Document> = HashMap::new();
        if !deviations.is_empty() {
            documents.extend(batch.documents.iter().map(|(id, document)| (id, document)));
        }
        let suspects: Vec<Suspect> = deviations
            .into_iter()
            .map(|(source_id, (id, mut deviating))| {
                deviating.sort();
                deviating.dedup();
                let document = documents.get(&id).map(|document| fingerprint(document));
                Suspect { source: batch.source, source_id, id: Some(id), document, deviating }
            })
            .collect();
        let filtered = (batch.deletes.len() + batch.kept.len()) as u64;
        let (suspects, held) = self.without_held(batch.source, suspects).await?;
        Ok(Sight { suspects, compared, filtered, held })
    }

    /// A held document explains every difference of its rows.
    async fn without_held(
        &mut self,
        source: SourceIndex,
        mut suspects: Vec<Suspect>,
    ) -> Result<(Vec<Suspect>, u64), Error> {
        if suspects.is_empty() {
            return Ok((suspects, 0));
        }
        let ids: Vec<&str> = suspects.iter().map(|suspect| suspect.source_id.as_str()).collect();
        let name = &self.plan.of(source).mapping.source;
        let held = reconcile::held(self.connection, self.pipeline, name, &ids).await.map_err(state)?;
        let held: HashSet<String> = held.into_iter().collect();
        suspects.retain(|suspect| !held.contains(&suspect.source_id));
        Ok((suspects, held.len() as u64))
    }

    async fn fill(&mut self, mapped: &Mapped, batch: &mut SourceBatch) -> Result<(), Error> {
        let mut finding = Finding::new(self.connection, self.pipeline, self.plan);
        let settled = finding.fill(mapped.referring(), &mut batch.rows, &batch.documents).await?;
        batch.refused.extend(settled.refused);
        Ok(())
    }

    /// Compares the documents' own rows; with the documents that have one, if they can have children.
    async fn own_rows(
        &mut self,
        mapped: &Mapped,
        rows: &[Row],
        deviations: &mut Deviations,
    ) -> Result<HashSet<CanonicalId>, Error> {
        let mapping = &mapped.mapping;
        let expected = match mapping.key.is_claimed() {
            true => self.claimed_rows(mapping, rows, deviations).await?,
            false => rows.iter().map(Expected::as_is).collect(),
        };
        let comparison = &self.comparisons[usize::from(mapping.index.0)].own;
        let tuples: Vec<&[u8]> = expected.iter().map(|expected| &*expected.tuple).collect();
        let found = comparison.deviations(self.connection, &tuples).await.map_err(apply)?;
        let mut there = HashSet::new();
        if !mapped.children.is_empty() {
            there.extend(expected.iter().map(|expected| expected.row.id.clone()));
        }
        for (place, deviation) in found {
            let Some(Expected { row, tuple }) = expected.get(place) else { continue };
            let (kind, columns) = match deviation {
                Deviation::Missing => {
                    there.remove(&row.id);
                    (Kind::Missing, Vec::new())
                }
                Deviation::Differs(columns) => (Kind::Different, columns),
            };
            let values = self.values(comparison, tuple, &columns).await?;
            let columns = names(mapping, &columns);
            add_shown(deviations, (&row.source_id, &row.id), mapping, kind, columns, values);
        }
        Ok(there)
    }

    async fn values(
        &mut self,
        comparison: &Comparison,
        tuple: &[u8],
        columns: &[usize],
    ) -> Result<Vec<ShownValue>, Error> {
        if self.shown == 0 || columns.is_empty() {
            return Ok(Vec::new());
        }
        self.shown -= 1;
        comparison.values(self.connection, tuple, columns).await.map_err(apply)
    }

    /// What the rows of documents should be where it stands in `rowstream.row` which they are.
    async fn claimed_rows<'r>(
        &mut self,
        mapping: &Mapping,
        rows: &'r [Row],
        deviations: &mut Deviations,
    ) -> Result<Vec<Expected<'r>>, Error> {
        let target = claimed(mapping);
        let scope = claims_of(self.pipeline, &target, mapping);
        let ids: Vec<&str> = rows.iter().map(|row| row.source_id.as_str()).collect();
        let claims = row::of_documents(self.connection, scope, &ids).await.map_err(state)?;
        let claims: HashMap<&str, &Claim> =
            claims.iter().map(|claim| (claim.source_id.as_str(), claim)).collect();
        let mut expected = Vec::with_capacity(rows.len());
        for row in rows {
            let key = claims.get(row.source_id.as_str()).and_then(|claim| Some((claim.key.clone()?, claim)));
            let own = mapping.key.row_key(&row.tuple).ok();
            match key {
                Some((key, claim)) if claim.adopted => {
                    let tuple = Cow::Owned(mapping.key.with_key(&row.tuple, &key));
                    expected.push((key, Expected { row, tuple }));
                }
                Some((key, _)) if Some(&key) == own.as_ref() => {
                    expected.push((key, Expected::as_is(row)));
                }
                // Its row has the key that the document had before.
                Some(_) => {
                    let places: Vec<usize> = mapping.key.columns.iter().map(|column| column.place).collect();
                    let columns = names(mapping, &places);
                    add(deviations, &row.source_id, &row.id, mapping, Kind::Different, columns);
                }
                None => add(deviations, &row.source_id, &row.id, mapping, Kind::Missing, Vec::new()),
            }
        }
        if mapping.key.shared {
            self.written_by(mapping, &mut expected).await?;
        }
        Ok(expected.into_iter().map(|(_, expected)| expected).collect())
    }

    /// Where several documents stand for a row, only the one with the lowest source_id says what is in it, with
    /// what all of them have collected.
    async fn written_by(
        &mut self,
        mapping: &Mapping,
        expected: &mut Vec<(RowKey, Expected<'_>)>,
    ) -> Result<(), Error> {
        let target = claimed(mapping);
        let scope = claims_of(self.pipeline, &target, mapping);
        let keys: Vec<RowKey> = expected.iter().map(|(key, _)| key.clone()).collect();
        let keys: Vec<&RowKey> = keys.iter().collect();
        let claims = row::load(self.connection, scope, &[], &keys).await.map_err(state)?;
        let mut writers: HashMap<&RowKey, (&str, &str)> = HashMap::new();
        for claim in claims.iter().filter(|claim| !claim.kept) {
            let Some(key) = &claim.key else { continue };
            let document = (claim.source_id.as_str(), claim.source.as_str());
            let writer = writers.entry(key).or_insert(document);
            *writer = document.min(*writer);
        }
        expected.retain(|(key, expected)| {
            let writes = (expected.row.source_id.as_str(), mapping.source.as_str());
            writers.get(key).is_none_or(|writer| *writer == writes)
        });
        let columns: Vec<(usize, bool)> = mapping.collects().collect();
        if columns.is_empty() {
            return Ok(());
        }
        let name = |place: usize| mapping.columns[place].name.as_str();
        let distinct: Vec<&str> =
            columns.iter().filter(|(_, distinct)| *distinct).map(|(place, _)| name(*place)).collect();
        let keys: Vec<RowKey> = expected.iter().map(|(key, _)| key.clone()).collect();
        let keys: Vec<&RowKey> = keys.iter().collect();
        let collected = row::collected(self.connection, scope, &keys, &distinct).await.map_err(state)?;
        let collected: HashMap<(RowKey, String), String> =
            collected.into_iter().map(|(key, column, value)| ((key, column), value)).collect();
        for (key, expected) in expected {
            for (place, _) in &columns {
                let of_column = (key.clone(), name(*place).to_owned());
                let value = collected.get(&of_column).map_or("[]", String::as_str);
                expected.tuple = Cow::Owned(mapping.with_json(&expected.tuple, *place, value));
            }
        }
        Ok(())
    }

    /// The child rows of documents whose own rows are there, in both directions.
    async fn children(
        &mut self,
        mapped: &Mapped,
        batch: &mut SourceBatch,
        there: &HashSet<CanonicalId>,
        deviations: &mut Deviations,
    ) -> Result<(), Error> {
        let mut ids: Vec<CanonicalId> = there.iter().cloned().collect();
        ids.sort_by(|left, right| left.as_bytes().cmp(right.as_bytes()));
        let all = std::mem::take(&mut batch.children);
        for (place, (child, of_child)) in mapped.children.iter().zip(all).enumerate() {
            let plan = child.transformer.plan();
            let mut rows = of_child.rows;
            rows.retain(|row| there.contains(&row.id));
            if let Some((junction, other)) = plan.other_side() {
                let looked = Junction { mapping: &mapped.mapping, child, junction, other };
                rows = self.pairs(looked, rows, &ids, deviations).await?;
            }
            let mut finding = Finding::new(self.connection, self.pipeline, self.plan);
            let settled = finding.fill_child(child, &ids, &mut rows, &batch.documents).await?;
            batch.refused.extend(settled.refused);
            let owners = finding.owners(batch.source, plan.owner(), &ids).await?;
            let owned: Vec<(&CanonicalId, Vec<u8>)> =
                ids.iter().zip(owners).filter_map(|(id, owner)| Some((id, owner?))).collect();
            let wanted = by_key(plan, rows, &mut batch.refused);
            let comparison = &self.comparisons[usize::from(batch.source.0)].children[place];
            self.child_rows(comparison, plan, mapped, &wanted, &owned, deviations).await?;
        }
        Ok(())
    }

    /// The rows of a junction that two mappings keep: what the documents list themselves, and what the state says
    /// that documents of the other side list. What the state says of these documents must be what they list.
    async fn pairs(
        &mut self,
        looked: Junction<'_>,
        mut rows: Vec<Row>,
        ids: &[CanonicalId],
        deviations: &mut Deviations,
    ) -> Result<Vec<Row>, Error> {
        let Junction { mapping, child, junction, other } = looked;
        let by_source_id: HashMap<String, &CanonicalId> =
            ids.iter().map(|id| (id.source_id(mapping.id_type), id)).collect();
        let source_ids: Vec<&str> = by_source_id.keys().map(String::as_str).collect();
        let list = List { pipeline: self.pipeline, junction: &junction.name, side: junction.side };
        let listed = |row: &Row| {
            let of_other = |reference: &&Reference| usize::from(reference.plan) == junction.other;
            match row.references.iter().find(of_other)?.choices.first()? {
                (_, Sought::Document(id)) => Some((row.source_id.clone(), id.source_id(other.id_type))),
                (_, Sought::Row(_)) => None,
            }
        };
        let wanted: HashSet<(String, String)> = rows.iter().filter_map(listed).collect();
        let known = link::listed(self.connection, list, &source_ids).await.map_err(state)?;
        let known: HashSet<(String, String)> = known.into_iter().collect();
        let table = child.transformer.mapping();
        for (kind, (lister, _)) in wanted
            .difference(&known)
            .map(|link| (Kind::MissingChild, link))
            .chain(known.difference(&wanted).map(|link| (Kind::ExtraChild, link)))
        {
            if let Some(id) = by_source_id.get(lister) {
                add(deviations, lister, id, table, kind, Vec::new());
            }
        }
        let mut tuples = Tuples::default();
        for (own, lister) in link::listing(self.connection, list, &source_ids).await.map_err(state)? {
            let Some(id) = by_source_id.get(&own) else { continue };
            rows.extend(child.transformer.pair(id, &lister, &mut tuples).ok());
        }
        Ok(rows)
    }

    async fn child_rows(
        &mut self,
        comparison: &Comparison,
        plan: &ChildPlan,
        parent: &Mapped,
        wanted: &HashMap<RowKey, Row>,
        owned: &[(&CanonicalId, Vec<u8>)],
        deviations: &mut Deviations,
    ) -> Result<(), Error> {
        let mapping = &plan.mapping;
        let (keys, rows): (Vec<&RowKey>, Vec<&Row>) = wanted.iter().unzip();
        let tuples: Vec<&[u8]> = rows.iter().map(|row| &*row.tuple).collect();
        let mut found = comparison.deviations(self.connection, &tuples).await.map_err(apply)?;
        if plan.on_error == ElementError::Drop {
            self.spare_left_out((mapping, parent), &keys, &rows, &mut found).await?;
        }
        for (place, deviation) in found {
            let Some(row) = rows.get(place) else { continue };
            let (kind, columns) = match deviation {
                Deviation::Missing => (Kind::MissingChild, Vec::new()),
                Deviation::Differs(columns) => (Kind::DifferentChild, columns),
            };
            let values = self.values(comparison, &row.tuple, &columns).await?;
            let columns = names(mapping, &columns);
            add_shown(deviations, (&row.source_id, &row.id), mapping, kind, columns, values);
        }
        let values: Vec<&[u8]> = owned.iter().map(|(_, owner)| owner.as_slice()).collect();
        let keys = sink::keys_of_owners(self.connection, comparison.target(), plan.parent, &values);
        for ((id, _), keys) in owned.iter().zip(keys.await.map_err(apply)?) {
            let extra = keys.iter().any(|key| wanted.get(key).is_none_or(|row| row.id != **id));
            if extra {
                let source_id = id.source_id(parent.mapping.id_type);
                add(deviations, &source_id, id, mapping, Kind::ExtraChild, Vec::new());
            }
        }
        Ok(())
    }

    /// What the table has refused is not missing.
    async fn spare_left_out(
        &mut self,
        (mapping, parent): (&Mapping, &Mapped),
        keys: &[&RowKey],
        rows: &[&Row],
        found: &mut Vec<(usize, Deviation)>,
    ) -> Result<(), Error> {
        let missing = found.iter().filter(|(_, deviation)| *deviation == Deviation::Missing);
        let places: Vec<usize> =
            missing.map(|(place, _)| *place).filter(|place| *place < rows.len()).collect();
        if places.is_empty() {
            return Ok(());
        }
        let element = |place: &usize| (rows[*place].source_id.as_str(), keys[*place].as_bytes());
        let elements: Vec<(&str, &[u8])> = places.iter().map(element).collect();
        let target = mapping.table.to_string();
        let scope =
            left_out::Scope { pipeline: self.pipeline, source: &parent.mapping.source, target: &target };
        let known = left_out::known(self.connection, scope, &elements).await.map_err(state)?;
        let spared: HashSet<usize> =
            known.into_iter().filter_map(|number| places.get(number).copied()).collect();
        found.retain(|(place, _)| !spared.contains(place));
        Ok(())
    }

    /// Documents that are not there, or do not belong to the mapping, and have a row all the same.
    async fn gone(
        &mut self,
        mapped: &Mapped,
        gone: &[(CanonicalId, String)],
        deviations: &mut Deviations,
    ) -> Result<(), Error> {
        if gone.is_empty() {
            return Ok(());
        }
        let mapping = &mapped.mapping;
        let mut extra: HashSet<String> = HashSet::new();
        if mapping.key.is_claimed() {
            let target = claimed(mapping);
            let scope = claims_of(self.pipeline, &target, mapping);
            let ids: Vec<&str> = gone.iter().map(|(_, source_id)| source_id.as_str()).collect();
            let claims = row::of_documents(self.connection, scope, &ids).await.map_err(state)?;
            let (kept, left): (Vec<Claim>, Vec<Claim>) =
                claims.into_iter().filter(|claim| claim.key.is_some()).partition(|claim| claim.kept);
            extra.extend(left.into_iter().map(|claim| claim.source_id));
            // Their rows stay, marked.
            if matches!(mapping.deletes, Deletes::Soft { .. }) {
                let keys: Vec<RowKey> = kept.iter().filter_map(|claim| claim.key.clone()).collect();
                let comparison = &self.comparisons[usize::from(mapping.index.0)].own;
                let living = comparison.living(self.connection, &keys).await.map_err(apply)?;
                let living = kept.into_iter().zip(living).filter(|(_, living)| *living);
                extra.extend(living.map(|(claim, _)| claim.source_id));
            }
        } else {
            let ids: Vec<&str> = gone.iter().map(|(_, source_id)| source_id.as_str()).collect();
            extra.extend(self.living(mapping, &ids).await?);
        }
        for (id, source_id) in gone.iter().filter(|(_, source_id)| extra.contains(source_id)) {
            add(deviations, source_id, id, mapping, Kind::Extra, Vec::new());
        }
        Ok(())
    }

    /// Which of these have a row that does not say that its document is gone, and that was not made for a
    /// reference.
    pub(super) async fn living(
        &mut self,
        mapping: &Mapping,
        source_ids: &[&str],
    ) -> Result<Vec<String>, Error> {
        let keys: Vec<RowKey> = source_ids.iter().map(|source_id| RowKey::of_text(source_id)).collect();
        let comparison = &self.comparisons[usize::from(mapping.index.0)].own;
        let living = comparison.living(self.connection, &keys).await.map_err(apply)?;
        let living: Vec<(&str, Vec<u8>)> = source_ids
            .iter()
            .zip(&keys)
            .zip(living)
            .filter(|(_, living)| *living)
            .map(|((source_id, key), _)| (*source_id, tuple_of_key(mapping, key)))
            .collect();
        if living.is_empty() {
            return Ok(Vec::new());
        }
        let names: Vec<&[u8]> = living.iter().map(|(_, name)| name.as_slice()).collect();
        let table = mapping.table.to_string();
        let stubs = wait::stubs(self.connection, self.pipeline, &table, &names).await.map_err(state)?;
        let stubs: HashSet<Vec<u8>> = stubs.into_iter().collect();
        let real = living.into_iter().filter(|(_, name)| !stubs.contains(name));
        Ok(real.map(|(source_id, _)| source_id.to_owned()).collect())
    }
}

/// One side of a junction that two mappings keep.
#[derive(Clone, Copy)]
struct Junction<'a> {
    mapping: &'a Mapping,
    child: &'a MappedChild,
    junction: &'a JunctionPlan,
    other: &'a TargetOfReference,
}

impl<'r> Expected<'r> {
    fn as_is(row: &'r Row) -> Self {
        Self { row, tuple: Cow::Borrowed(&row.tuple) }
    }
}

/// Of rows with one key the first counts, as in the pipeline. What has no key is refused, or left out.
fn by_key(
    plan: &ChildPlan,
    rows: Vec<Row>,
    refused: &mut Vec<crate::pipeline::Refused>,
) -> HashMap<RowKey, Row> {
    let mut wanted = HashMap::with_capacity(rows.len());
    for row in rows {
        match (plan.mapping.key.row_key(&row.tuple), plan.on_error) {
            (Ok(key), _) => {
                wanted.entry(key).or_insert(row);
            }
            (Err(_), ElementError::Drop) => {}
            (Err(_), ElementError::Hold) => {
                let rejection = crate::domain::Rejection {
                    column: None,
                    reason: crate::domain::Reason::MissingRequired,
                    message: "a column of the key is null, or the key is too long".to_owned(),
                };
                refused.push(crate::pipeline::Refused { id: row.id, rejection });
            }
        }
    }
    wanted
}

fn names(mapping: &Mapping, places: &[usize]) -> Vec<String> {
    places.iter().filter_map(|place| Some(mapping.columns.get(*place)?.name.clone())).collect()
}

fn add(
    deviations: &mut Deviations,
    source_id: &str,
    id: &CanonicalId,
    mapping: &Mapping,
    kind: Kind,
    columns: Vec<String>,
) {
    add_shown(deviations, (source_id, id), mapping, kind, columns, Vec::new());
}

fn add_shown(
    deviations: &mut Deviations,
    (source_id, id): (&str, &CanonicalId),
    mapping: &Mapping,
    kind: Kind,
    columns: Vec<String>,
    values: Vec<ShownValue>,
) {
    let (_, deviating) = deviations.entry(source_id.to_owned()).or_insert_with(|| (id.clone(), Vec::new()));
    let table = mapping.table.to_string();
    // Of several elements, the columns of all.
    if let Some(known) = deviating.iter_mut().find(|known| known.table == table && known.kind == kind) {
        known.columns.extend(columns);
        known.columns.sort();
        known.columns.dedup();
        known.values.extend(values);
    } else {
        deviating.push(Deviating { table, kind, columns, values });
    }
}
