//! Rows that are made from inside of documents, written in the transaction of the document's own row: all rows
//! of a document, or none.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use sqlx::PgConnection;

use super::Error;
use super::claims::Claims;
use super::commit::{Coerced, apply, state};
use super::plan::Mapped;
use super::prepare::{Refused, SourceBatch};
use super::references::{Leaving, owned, tuple_of_key};
use super::status::RowCounts;
use super::transaction::{Open, Way};
use crate::config::{Deletes, ElementError};
use crate::domain::{CanonicalId, Coercion, Portion, Reason, Rejection, Row, SourceIndex};
use crate::mapping::{ChildPlan, Mapping};
use crate::sink::{self, Family, Outcome, Refusal};
use crate::state::wait::Wait;
use crate::state::{left_out, link, row};

/// Documents of one statement.
const PAGE: i64 = 5_000;

/// The rows that the documents of a batch have in one child table.
#[derive(Debug, Default)]
pub struct ChildRows {
    pub rows: Vec<Row>,
    /// Elements that cannot become a row.
    pub left_out: u64,
}

/// What came of the children of some documents.
#[derive(Debug, Default)]
struct Raised {
    refused: Vec<Refused>,
    waits: Vec<Wait>,
    again: Vec<CanonicalId>,
    coerced: Vec<Coerced>,
    rows: ChildCounts,
}

/// What came of documents with their children.
#[derive(Debug, Default)]
pub(super) struct Families {
    pub outcome: Outcome,
    pub waits: Vec<Wait>,
    /// As [`crate::pipeline::references::Settled::again`].
    pub again: Vec<CanonicalId>,
    pub coerced: Vec<Coerced>,
    pub rows: ChildCounts,
}

/// What was written and deleted, by child table.
pub(super) type ChildCounts = Vec<(String, RowCounts)>;

impl Open<'_> {
    /// Writes the rows of documents with their children. A document one of whose rows is refused has its rows as
    /// they were before.
    pub(super) async fn put_families(
        &mut self,
        batch: &mut SourceBatch,
        leaving: &Leaving,
        way: Way,
    ) -> Result<Families, Error> {
        let mut families = Families::default();
        let mut refused: Vec<Refused> = Vec::new();
        self.remember(batch).await?;
        loop {
            let outcome = self.write(batch, way).await?;
            let not_there: HashSet<&CanonicalId> = outcome.rejected.iter().map(|(id, _)| id).collect();
            let written: Vec<CanonicalId> =
                batch.rows.iter().map(|row| &row.id).filter(|id| !not_there.contains(id)).cloned().collect();
            let written = self.writers(batch.source, written).await?;
            let mut raised = self.raise(batch, &written, leaving).await?;
            families.again.append(&mut raised.again);
            let failed: HashSet<CanonicalId> =
                raised.refused.iter().map(|refused| refused.id.clone()).collect();
            if failed.is_empty() {
                families.outcome = outcome;
                families.waits.append(&mut raised.waits);
                families.coerced = raised.coerced;
                families.rows = raised.rows;
                break;
            }
            // What they wait for holds; all else is tried again without them.
            raised.waits.retain(|wait| failed.contains(&wait.id));
            families.waits.append(&mut raised.waits);
            batch.rows.retain(|row| !failed.contains(&row.id));
            refused.append(&mut raised.refused);
            self.take_back(batch).await?;
        }
        // Of several reasons the first is told.
        let mut told = HashSet::new();
        refused.retain(|refused| told.insert(refused.id.clone()));
        let refused = refused.into_iter().map(|refused| (refused.id, refused.rejection));
        families.outcome.rejected.extend(refused);
        Ok(families)
    }

    /// Of documents that share a row, the one that writes it also writes its child rows.
    async fn writers(
        &mut self,
        source: SourceIndex,
        ids: Vec<CanonicalId>,
    ) -> Result<Vec<CanonicalId>, Error> {
        let id_type = self.plan().id_type(source);
        let Some(claims) = self.claims(source).filter(Claims::is_shared) else { return Ok(ids) };
        let source_ids: Vec<String> = ids.iter().map(|id| id.source_id(id_type)).collect();
        let asked: Vec<&str> = source_ids.iter().map(String::as_str).collect();
        let written = claims.written(&asked).await?;
        let is_writer = |(id, source_id): (_, &String)| written.contains_key(source_id).then_some(id);
        Ok(ids.into_iter().zip(&source_ids).filter_map(is_writer).collect())
    }

    /// Of documents that share a row, those that take it with them.
    async fn last(
        &mut self,
        source: SourceIndex,
        going: &[(CanonicalId, String)],
    ) -> Result<Vec<CanonicalId>, Error> {
        let all = || going.iter().map(|(id, _)| id.clone()).collect();
        let Some(claims) = self.claims(source).filter(Claims::is_shared) else { return Ok(all()) };
        let asked: Vec<&str> = going.iter().map(|(_, source_id)| source_id.as_str()).collect();
        let last = claims.last(&asked).await?;
        let going = going.iter().filter(|(_, source_id)| last.contains(source_id));
        Ok(going.map(|(id, _)| id.clone()).collect())
    }

    /// The child rows of documents whose own rows are there.
    async fn raise(
        &mut self,
        batch: &SourceBatch,
        written: &[CanonicalId],
        leaving: &Leaving,
    ) -> Result<Raised, Error> {
        let mut raised = Raised::default();
        let plan = Arc::clone(self.plan());
        for (child, of_child) in plan.of(batch.source).children.iter().zip(&batch.children) {
            let compiled = child.transformer.plan();
            let ids: HashSet<&CanonicalId> = written.iter().collect();
            let mut rows: Vec<Row> =
                of_child.rows.iter().filter(|row| ids.contains(&row.id)).cloned().collect();
            let filled = match child.listing() {
                Some(listing) => {
                    self.list(batch.source, listing, written, &rows).await?;
                    let (pairs, settled) = self.pairs(batch.source, listing, written, leaving).await?;
                    rows = pairs;
                    settled
                }
                None => self.settling(leaving).fill(child.referring(), &mut rows, &batch.documents).await?,
            };
            raised.waits.extend(filled.waits);
            raised.again.extend(filled.again);
            raised.refused.extend(filled.refused);
            let owners =
                self.settling(leaving).finding().owners(batch.source, compiled.owner(), written).await?;
            let dropped = filled
                .left_out
                .iter()
                .map(|element| Coercion { column: element.column as u16, rule: "missing_drop" });
            let coercions: Vec<Coercion> =
                rows.iter().flat_map(|row| row.coercions.clone()).chain(dropped).collect();
            let (families, keyless) = families(compiled, written, owners, rows);
            let keyless_left_out = match compiled.on_error {
                ElementError::Drop => keyless.len() as u64,
                ElementError::Hold => {
                    raised.refused.extend(keyless);
                    0
                }
            };
            let refusal = match compiled.on_error {
                ElementError::Hold => Refusal::OfFamily,
                ElementError::Drop => Refusal::OfRow,
            };
            let replaced = self.replace(&child.target, compiled.parent, &families, refusal).await;
            let (outcome, not_taken) = replaced.map_err(apply)?;
            self.note_left_out(batch.source, compiled, written, &not_taken).await?;
            raised.rows.push(counts(&compiled.mapping, &outcome));
            let rejected = outcome.rejected.into_iter();
            raised.refused.extend(
                rejected
                    .map(|(id, rejection)| Refused { id, rejection: in_table(&compiled.mapping, rejection) }),
            );
            raised.coerced.extend(coerced(&compiled.mapping, &coercions));
            let left_out = of_child.left_out + not_taken.len() as u64 + keyless_left_out;
            raised.coerced.extend(counted(&compiled.mapping, "element_left_out", left_out));
        }
        Ok(raised)
    }

    /// What the table has not taken of these documents, so that a comparison does not miss it.
    async fn note_left_out(
        &mut self,
        source: SourceIndex,
        plan: &ChildPlan,
        ids: &[CanonicalId],
        left_out: &[sink::LeftOut],
    ) -> Result<(), Error> {
        if plan.on_error == ElementError::Hold {
            return Ok(());
        }
        let id_type = self.plan().id_type(source);
        let ids: Vec<String> = ids.iter().map(|id| id.source_id(id_type)).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let elements = left_out.iter().map(|(id, key)| (id.source_id(id_type), key.as_bytes()));
        let elements: Vec<(String, &[u8])> = elements.collect();
        let target = plan.mapping.table.to_string();
        let (transaction, pipeline, source) = self.named(source);
        let scope = left_out::Scope { pipeline, source, target: &target };
        left_out::replace(transaction, scope, &ids, &elements).await.map_err(state)
    }

    /// The child rows of documents whose own rows go; those documents where one is refused.
    pub(super) async fn remove_children(
        &mut self,
        batch: &SourceBatch,
        gone: &[CanonicalId],
        leaving: &Leaving,
    ) -> Result<(Vec<(CanonicalId, Rejection)>, ChildCounts), Error> {
        let plan = Arc::clone(self.plan());
        let (mut refused, mut rows) = (Vec::new(), ChildCounts::new());
        for child in plan.of(batch.source).children.iter().rev() {
            let compiled = child.transformer.plan();
            if let Some(listing) = child.listing() {
                self.list(batch.source, listing, gone, &[]).await?;
            }
            let owners =
                self.settling(leaving).finding().owners(batch.source, compiled.owner(), gone).await?;
            let (families, _) = families(compiled, gone, owners, Vec::new());
            let replaced = self.replace(&child.target, compiled.parent, &families, Refusal::OfFamily).await;
            let (outcome, _) = replaced.map_err(apply)?;
            self.note_left_out(batch.source, compiled, gone, &[]).await?;
            rows.push(counts(&compiled.mapping, &outcome));
            let rejected = outcome.rejected.into_iter();
            refused.extend(rejected.map(|(id, rejection)| (id, in_table(&compiled.mapping, rejection))));
        }
        Ok((refused, rows))
    }

    /// Rows go with their children, those first. A document one of whose rows is refused keeps all of them.
    pub(super) async fn remove_families(
        &mut self,
        batch: &SourceBatch,
    ) -> Result<(Outcome, ChildCounts), Error> {
        let mut going = batch.deletes.clone();
        let mut refused = Vec::new();
        self.remember(batch).await?;
        loop {
            let ids = self.last(batch.source, &going).await?;
            let (mut stay, rows) = self.remove_children(batch, &ids, &Leaving::default()).await?;
            let mut outcome = Outcome::default();
            if stay.is_empty() {
                outcome = self.remove(batch.source, &going).await?;
                stay.append(&mut outcome.rejected);
            }
            if stay.is_empty() {
                outcome.rejected = refused;
                return Ok((outcome, rows));
            }
            going.retain(|(id, _)| stay.iter().all(|(other, _)| other != id));
            refused.append(&mut stay);
            self.take_back(batch).await?;
        }
    }
}

/// The child rows of a collection that is gone, before the rows of its documents.
pub(super) async fn drop_rows(
    connection: &mut PgConnection,
    pipeline: &str,
    mapped: &Mapped,
    portion: Portion,
) -> Result<(), Error> {
    left_out::forget(connection, pipeline, &mapped.mapping.source).await.map_err(state)?;
    // Rows that are only marked keep their children.
    let is_hard = mapped.mapping.deletes == Deletes::Hard;
    for child in mapped.children.iter().rev().filter(|_| is_hard) {
        let plan = child.transformer.plan();
        if let Some(listing) = child.listing() {
            link::forget(connection, listing.list(pipeline)).await.map_err(state)?;
        }
        if !mapped.mapping.key.is_claimed() {
            sink::drop_children(connection, &mapped.target, &child.target, plan).await.map_err(apply)?;
            continue;
        }
        let target = mapped.mapping.table.to_string();
        let scope = row::Scope {
            pipeline,
            source: &mapped.mapping.source,
            target: &target,
            shared: mapped.mapping.key.shared,
        };
        let mut last: Option<String> = None;
        loop {
            let claims = row::page(connection, scope, last.as_deref(), PAGE).await.map_err(state)?;
            last = claims.last().map(|claim| claim.source_id.clone());
            if last.is_none() {
                break;
            }
            let (mut ids, mut keys) = (Vec::new(), Vec::new());
            for claim in claims {
                if let Some(key) = &claim.key {
                    keys.push(tuple_of_key(&mapped.mapping, key));
                    ids.push(claim.id);
                }
            }
            let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
            let owners = sink::find(connection, plan.owner(), &keys).await.map_err(apply)?;
            let owners = owned(plan.owner(), owners);
            let (families, _) = families(plan, &ids, owners, Vec::new());
            let parent = plan.parent;
            // What is refused here keeps its document's row, too, and that is told.
            let refusal = Refusal::OfFamily;
            sink::replace_children(connection, &child.target, parent, &families, refusal, portion)
                .await
                .map_err(apply)?;
        }
    }
    Ok(())
}

/// By document; with the rows that have no key. Of rows with one key the first counts.
pub(super) fn families(
    plan: &ChildPlan,
    ids: &[CanonicalId],
    owners: Vec<Option<Vec<u8>>>,
    rows: Vec<Row>,
) -> (Vec<Family>, Vec<Refused>) {
    let mut keyless = Vec::new();
    let mut of_documents: HashMap<CanonicalId, Vec<(crate::domain::RowKey, Row)>> = HashMap::new();
    let mut seen = HashSet::new();
    for row in rows {
        match plan.mapping.key.row_key(&row.tuple) {
            Ok(key) => {
                if seen.insert(key.clone()) {
                    of_documents.entry(row.id.clone()).or_default().push((key, row));
                }
            }
            Err(_) => {
                let message = "a column of the key is null, or the key is too long".to_owned();
                let rejection = Rejection { column: None, reason: Reason::MissingRequired, message };
                keyless.push(Refused { id: row.id, rejection: in_table(&plan.mapping, rejection) });
            }
        }
    }
    let mut families = Vec::with_capacity(ids.len());
    for (id, owner) in ids.iter().zip(owners) {
        let rows = of_documents.remove(id).unwrap_or_default();
        if let Some(owner) = owner {
            families.push(Family { id: id.clone(), owner, rows });
        }
    }
    (families, keyless)
}

/// With the table before it, since the columns are not those of the document's own row.
fn in_table(mapping: &Mapping, rejection: Rejection) -> Rejection {
    Rejection { message: format!("table {}: {}", mapping.table, rejection.message), ..rejection }
}

fn coerced(mapping: &Mapping, coercions: &[Coercion]) -> Vec<Coerced> {
    let mut counts: HashMap<(u16, &'static str), u64> = HashMap::new();
    for coercion in coercions {
        *counts.entry((coercion.column, coercion.rule)).or_default() += 1;
    }
    let table = mapping.table.to_string();
    let name = |column: u16| mapping.columns.get(usize::from(column)).map(|column| column.name.clone());
    counts
        .into_iter()
        .map(|((column, rule), count)| Coerced {
            table: table.clone(),
            column: name(column).unwrap_or_default(),
            rule,
            count,
        })
        .collect()
}

fn counts(mapping: &Mapping, outcome: &Outcome) -> (String, RowCounts) {
    let Outcome { inserted, updated, unchanged, deleted, .. } = *outcome;
    (mapping.table.to_string(), RowCounts { inserted, updated, unchanged, deleted })
}

fn counted(mapping: &Mapping, rule: &'static str, count: u64) -> Option<Coerced> {
    let table = mapping.table.to_string();
    (count > 0).then(|| Coerced { table, column: String::new(), rule, count })
}
