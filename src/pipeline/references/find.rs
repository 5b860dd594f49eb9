//! Looks for the rows that references point at.

use std::collections::{HashMap, HashSet};

use sha2::{Digest, Sha256};
use sqlx::PgConnection;

use super::fill::is_null;
use super::{Leaving, Referring};
use crate::domain::{CanonicalId, Reason, Reference, Rejection, Row, RowKey, Sought, SourceIndex};
use crate::mapping::{Finder, Mapping, Taking};
use crate::pipeline::Error;
use crate::pipeline::claims;
use crate::pipeline::commit::{apply, state};
use crate::pipeline::plan::Plan;
use crate::sink;
use crate::state::row;
use crate::transform::taken;

/// Longer keys are hashed: an index entry of PostgreSQL holds 2,704 bytes at most.
const KEY_BYTES: usize = 2_000;

/// Begins a key that is a hash: no tuple has so many fields.
pub(super) const HASHED: u8 = 0xff;

/// What stands in the tables now, as one connection sees it; nothing is written.
#[derive(Debug)]
pub struct Finding<'a> {
    pub(in crate::pipeline) connection: &'a mut PgConnection,
    pub(in crate::pipeline) pipeline: &'a str,
    pub(super) plan: &'a Plan,
    pub(super) leaving: Option<&'a Leaving>,
}

/// By reference and finder.
pub(super) type Found = HashMap<(u16, u16), Fields>;

/// What one finder found, by the names of what it sought.
#[derive(Debug, Default)]
pub(super) struct Fields {
    sought: HashMap<Vec<u8>, Sought>,
    /// Leaves in this very transaction.
    gone: HashSet<Vec<u8>>,
    pub(super) found: HashMap<Vec<u8>, Vec<u8>>,
}

/// The first choice that is there.
pub(super) struct Choice {
    /// What is taken from its row, or why that cannot stand in the column.
    pub(super) field: Option<Result<Vec<u8>, Rejection>>,
    /// Better choices that are not there: what is awaited, and its key.
    pub(super) unresolved: Vec<(String, Vec<u8>)>,
}

impl<'a> Finding<'a> {
    /// The pipeline's name says whose claims are read.
    pub fn new(connection: &'a mut PgConnection, pipeline: &'a str, plan: &'a Plan) -> Self {
        Self { connection, pipeline, plan, leaving: None }
    }

    fn leaves(&self, source: SourceIndex, id: &CanonicalId) -> bool {
        self.leaving.is_some_and(|leaving| leaving.has(source, id))
    }

    /// One statement for each finder.
    pub(super) async fn find(&mut self, of: Referring<'_>, rows: &[Row]) -> Result<Found, Error> {
        let mut found: Found = HashMap::new();
        for reference in rows.iter().flat_map(|row| &row.references) {
            for (place, sought) in &reference.choices {
                let finder = finder_of(of.mapping, reference.plan, *place);
                let fields = found.entry((reference.plan, *place)).or_default();
                let leaves = match (&finder.target, sought) {
                    (Some(target), Sought::Document(id)) => self.leaves(target.index, id),
                    (None, _) | (_, Sought::Row(_)) => false,
                };
                let name = name_of(finder, sought);
                match leaves {
                    true => fields.gone.insert(name),
                    false => fields.sought.insert(name, sought.clone()).is_none(),
                };
            }
        }
        for ((plan, place), fields) in &mut found {
            let finder = finder_of(of.mapping, *plan, *place);
            let sought: Vec<(Vec<u8>, Sought)> = std::mem::take(&mut fields.sought).into_iter().collect();
            let tuples = self.tuples(finder, sought.iter().map(|(_, sought)| sought)).await?;
            let values = self.look_past_leavers(finder, &tuples).await?;
            for ((name, _), value) in sought.into_iter().zip(values) {
                fields.found.extend(value.map(|value| (name, value)));
            }
        }
        Ok(found)
    }

    /// What is taken from the rows with these keys, by place.
    pub(super) async fn look(
        &mut self,
        finder: &Finder,
        tuples: &[Option<Vec<u8>>],
    ) -> Result<Vec<Option<Vec<u8>>>, Error> {
        let keys: Vec<&[u8]> = tuples.iter().flatten().map(Vec::as_slice).collect();
        let mut values = sink::find(self.connection, finder, &keys).await.map_err(apply)?.into_iter();
        Ok(tuples.iter().map(|tuple| tuple.as_ref().and_then(|_| values.next().flatten())).collect())
    }

    /// As [`Self::look`], but without rows that leave. A document that leaves is not sought at all; what is
    /// looked up by other columns may be anybody's row.
    pub(super) async fn look_past_leavers(
        &mut self,
        finder: &Finder,
        tuples: &[Option<Vec<u8>>],
    ) -> Result<Vec<Option<Vec<u8>>>, Error> {
        let plan = self.plan;
        let losing: Vec<&Mapping> = match (&finder.target, self.leaving) {
            (None, Some(leaving)) => leaving.tables(plan, &finder.table),
            (Some(_), _) | (None, None) => Vec::new(),
        };
        if losing.is_empty() {
            return self.look(finder, tuples).await;
        }
        let sought = tuples.iter().enumerate();
        let sought: Vec<(usize, &[u8])> =
            sought.filter_map(|(place, tuple)| Some((place, tuple.as_deref()?))).collect();
        let keys: Vec<&[u8]> = sought.iter().map(|(_, key)| *key).collect();
        let candidates = sink::candidates(self.connection, finder, &losing, &keys).await.map_err(apply)?;
        let mut leavers: Vec<HashSet<RowKey>> = Vec::with_capacity(losing.len());
        for (number, mapping) in losing.iter().enumerate() {
            let keys = candidates.iter().filter_map(|candidate| candidate.keys[number].clone()).collect();
            leavers.push(self.leavers(mapping, keys).await?);
        }
        let mut values = vec![None; tuples.len()];
        for candidate in candidates {
            let mut keys = candidate.keys.iter().zip(&leavers);
            let leaves = keys.any(|(key, leavers)| key.as_ref().is_some_and(|key| leavers.contains(key)));
            let value = &mut values[sought[candidate.place].0];
            if !leaves && value.is_none() {
                *value = Some(candidate.field);
            }
        }
        Ok(values)
    }

    /// Those of these rows of a mapping that leave with their documents, the last of them where there are several.
    async fn leavers(&mut self, mapping: &Mapping, keys: Vec<RowKey>) -> Result<HashSet<RowKey>, Error> {
        if !mapping.key.is_claimed() {
            // By their texts: not every id can be read back from its own.
            let Some(leaving) = self.leaving else { return Ok(HashSet::new()) };
            let leavers = leaving.documents.iter().filter(|(source, _)| *source == mapping.index);
            let leavers: HashSet<String> = leavers.map(|(_, id)| id.source_id(mapping.id_type)).collect();
            let all = leaving.sources.contains(&mapping.index);
            let leaves = |key: &RowKey| all || key.text().is_some_and(|text| leavers.contains(text));
            return Ok(keys.into_iter().filter(leaves).collect());
        }
        let target = claims::target(mapping);
        let scope = claims::scope(self.pipeline, &target, mapping);
        let asked: Vec<&RowKey> = keys.iter().collect();
        let claims = row::load(self.connection, scope, &[], &asked).await.map_err(state)?;
        let abandoned = |key: &RowKey| {
            self.leaving.is_some_and(|leaving| leaving.rows.contains(&(mapping.index, key.clone())))
        };
        let mut stays: HashMap<RowKey, bool> =
            keys.iter().filter(|key| abandoned(key)).map(|key| (key.clone(), false)).collect();
        for claim in claims {
            let leaves = self.plan.source(&claim.source).is_some_and(|source| self.leaves(source, &claim.id));
            if let Some(key) = claim.key {
                *stays.entry(key).or_default() |= !leaves;
            }
        }
        Ok(stays.into_iter().filter(|(_, stays)| !stays).map(|(key, _)| key).collect())
    }

    /// The keys of what is sought, as tuples; `None` where no row can be.
    pub(super) async fn tuples<'s>(
        &mut self,
        finder: &Finder,
        sought: impl Iterator<Item = &'s Sought>,
    ) -> Result<Vec<Option<Vec<u8>>>, Error> {
        let mut ids = Vec::new();
        let mut tuples: Vec<Option<Vec<u8>>> = Vec::new();
        for sought in sought {
            match (sought, &finder.target) {
                (Sought::Row(tuple), _) => tuples.push(Some(tuple.clone())),
                (Sought::Document(_), None) => tuples.push(None),
                (Sought::Document(id), Some(_)) => {
                    ids.push((tuples.len(), id.clone()));
                    tuples.push(None);
                }
            }
        }
        let Some(target) = &finder.target else { return Ok(tuples) };
        let just_ids: Vec<CanonicalId> = ids.iter().map(|(_, id)| id.clone()).collect();
        let keys = self.document_keys(target.index, &just_ids).await?;
        for ((place, _), key) in ids.into_iter().zip(keys) {
            tuples[place] = key;
        }
        Ok(tuples)
    }

    /// What the rows of these documents have that finder takes from them. What does not fit is nobody's: a row
    /// that would have it is refused.
    pub async fn owners(
        &mut self,
        source: SourceIndex,
        finder: &Finder,
        ids: &[CanonicalId],
    ) -> Result<Vec<Option<Vec<u8>>>, Error> {
        let keys = self.document_keys(source, ids).await?;
        Ok(owned(finder, self.look(finder, &keys).await?))
    }

    /// The keys of documents' rows, as tuples of the finder's columns.
    pub(in crate::pipeline) async fn document_keys(
        &mut self,
        source: SourceIndex,
        ids: &[CanonicalId],
    ) -> Result<Vec<Option<Vec<u8>>>, Error> {
        let keys = self.row_keys(source, ids).await?;
        let mapping = &self.plan.of(source).mapping;
        Ok(keys.into_iter().map(|key| key.map(|key| tuple_of_key(mapping, &key))).collect())
    }

    pub(in crate::pipeline) async fn row_keys(
        &mut self,
        source: SourceIndex,
        ids: &[CanonicalId],
    ) -> Result<Vec<Option<RowKey>>, Error> {
        let mapped = self.plan.of(source);
        let mapping = &mapped.mapping;
        if !mapping.key.is_claimed() {
            return Ok(ids.iter().map(|id| mapped.transformer.row_key(id)).collect());
        }
        let source_ids: Vec<String> = ids.iter().map(|id| id.source_id(mapping.id_type)).collect();
        let asked: Vec<&str> = source_ids.iter().map(String::as_str).collect();
        let target = claims::target(mapping);
        let scope = claims::scope(self.pipeline, &target, mapping);
        let claims = row::of_documents(self.connection, scope, &asked).await.map_err(state)?;
        let claimed: HashMap<&str, &RowKey> =
            claims.iter().filter_map(|claim| Some((claim.source_id.as_str(), claim.key.as_ref()?))).collect();
        Ok(source_ids
            .iter()
            .map(|source_id| claimed.get(source_id.as_str()).map(|key| (*key).clone()))
            .collect())
    }
}

pub(super) fn choose(mapping: &Mapping, reference: &Reference, found: &Found) -> Choice {
    let mut unresolved = Vec::new();
    for (place, sought) in &reference.choices {
        let finder = finder_of(mapping, reference.plan, *place);
        let name = name_of(finder, sought);
        let column = &mapping.columns[mapping.references[usize::from(reference.plan)].column];
        let fields = found.get(&(reference.plan, *place));
        let field = fields.and_then(|fields| {
            let is_gone = fields.gone.contains(&name);
            fields.found.get(&name).filter(|_| !is_gone).cloned()
        });
        if let Some(field) = field {
            return Choice { field: Some(as_taken(finder, field, &column.name)), unresolved };
        }
        // Equal values of many forms are compared by PostgreSQL alone, which needs more than the hash.
        if name.first() == Some(&HASHED) && !finder.key.iter().all(|column| column.has_one_form) {
            let rejection = Rejection {
                column: Some(column.name.clone()),
                reason: Reason::TooLong,
                message: format!(
                    "is looked up by a value of more than {KEY_BYTES} bytes, which cannot be awaited"
                ),
            };
            return Choice { field: Some(Err(rejection)), unresolved };
        }
        unresolved.push((finder.awaited.clone(), name));
    }
    Choice { field: None, unresolved }
}

/// What stands in the rows of owners with these fields.
pub(in crate::pipeline) fn owned(finder: &Finder, found: Vec<Option<Vec<u8>>>) -> Vec<Option<Vec<u8>>> {
    found.into_iter().map(|field| as_taken(finder, field?, &finder.take).ok()).collect()
}

/// A field of the column's type, from what a finder has found.
pub(in crate::pipeline) fn as_taken(
    finder: &Finder,
    field: Vec<u8>,
    column: &str,
) -> Result<Vec<u8>, Rejection> {
    if finder.taking == Taking::Fits || is_null(&field) {
        return Ok(field);
    }
    let value = taken(field.get(4..).unwrap_or_default(), &finder.column_type, column)?;
    let mut field = (value.len() as i32).to_be_bytes().to_vec();
    field.extend_from_slice(&value);
    Ok(field)
}

fn finder_of(mapping: &Mapping, reference: u16, finder: u16) -> &Finder {
    &mapping.references[usize::from(reference)].finders[usize::from(finder)]
}

/// How the state names what is sought: by the document's source_id, or by the fields it is looked up with.
pub(super) fn name_of(finder: &Finder, sought: &Sought) -> Vec<u8> {
    let name = match (sought, &finder.target) {
        (Sought::Document(id), Some(target)) => id.source_id(target.id_type).into_bytes(),
        (Sought::Document(id), None) => id.as_bytes().to_vec(),
        (Sought::Row(tuple), _) => tuple.clone(),
    };
    if name.len() <= KEY_BYTES {
        return name;
    }
    let mut hashed = vec![HASHED];
    hashed.extend_from_slice(&Sha256::digest(&name));
    hashed
}

/// What a name that is no hash stands for.
pub(super) fn sought_by(finder: &Finder, name: &[u8]) -> Sought {
    match &finder.target {
        None => Sought::Row(name.to_vec()),
        Some(target) => {
            let text = String::from_utf8_lossy(name);
            let id = CanonicalId::from_source_id(&text, target.id_type);
            // An id that is known by its hash alone: nothing has this one.
            Sought::Document(id.unwrap_or_else(|| CanonicalId::from_bytes(&[])))
        }
    }
}

/// A row's key as a tuple of the columns that [`SoughtColumn::of_mapping`] gives.
pub(crate) fn tuple_of_key(mapping: &Mapping, key: &RowKey) -> Vec<u8> {
    let has_source = mapping.key.source().is_some();
    let count = mapping.key.columns.len() + usize::from(has_source);
    let mut tuple = (count as i16).to_be_bytes().to_vec();
    if has_source {
        tuple.extend_from_slice(&(mapping.source.len() as i32).to_be_bytes());
        tuple.extend_from_slice(mapping.source.as_bytes());
    }
    tuple.extend_from_slice(key.as_bytes());
    tuple
}
