//! References are settled inside the transaction that writes their rows: what they point at is looked for
//! there, what is missing follows its rule, and whoever points at a row that goes is settled first.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};

use sha2::{Digest, Sha256};
use sqlx::PgConnection;

use super::Error;
use super::commit::{apply, state};
use super::plan::Plan;
use super::prepare::{Prepared, Refused};
use crate::domain::{
    CanonicalId, Coercion, Document, Reason, Reference, Rejection, Row, Sought, SourceIndex, TableName,
};
use crate::mapping::{Finder, MissingPlan};
use crate::sink::{self, Target};
use crate::state::wait::{self, Stub, Wait};
use crate::transform::Transformer;

/// Longer keys are hashed: an index entry of PostgreSQL holds 2,704 bytes at most.
const KEY_BYTES: usize = 2_000;

/// Begins a key that is a hash: no tuple has so many fields.
const HASHED: u8 = 0xff;

/// Look-ups that wait, looked through at once after a table was written.
const WOKEN_LOOKUPS: i64 = 10_000;

/// What makes the row of a reference that points nowhere.
#[derive(Debug)]
pub struct StubMaker {
    pub transformer: Transformer,
    pub target: Target,
}

/// Rows that go in this transaction: nothing points at them any more.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    pub documents: HashSet<(SourceIndex, CanonicalId)>,
    pub sources: HashSet<SourceIndex>,
}

impl Leaving {
    /// The documents that are deleted in this batch.
    pub(super) fn of(prepared: &Prepared) -> Self {
        let batches = prepared.sources.iter();
        let documents = batches
            .flat_map(|batch| batch.deletes.iter().map(|(id, _)| (batch.source, id.clone())))
            .collect();
        Self { documents, sources: HashSet::new() }
    }

    fn has(&self, source: SourceIndex, id: &CanonicalId) -> bool {
        self.sources.contains(&source)
            || (!self.documents.is_empty() && self.documents.contains(&(source, id.clone())))
    }
}

/// What came of the references of some rows.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// Documents that wait with everything for a row that is not there.
    pub refused: Vec<Refused>,
    pub waits: Vec<Wait>,
}

/// Who waits, and for what: nearly always nobody, and then a statement less is needed. Right for the same
/// reason as [`super::holding::Holding`]; names are added before the transaction that needs them commits.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    sources: HashMap<String, AtomicBool>,
    awaited: HashMap<String, AtomicBool>,
}

impl Waiting {
    /// `known`: (awaited, source) of every wait in the state.
    pub(super) fn new(plan: &Plan, known: &[(String, String)]) -> Self {
        let mut waiting = Self::default();
        for mapped in plan.mapped.iter().filter(|mapped| !mapped.mapping.references.is_empty()) {
            waiting.sources.insert(mapped.mapping.source.clone(), AtomicBool::new(false));
            for finder in mapped.mapping.references.iter().flat_map(|reference| &reference.finders) {
                waiting.awaited.insert(finder.awaited.clone(), AtomicBool::new(false));
            }
        }
        for (awaited, source) in known {
            waiting.mark(awaited, source);
        }
        waiting
    }

    fn mark(&self, awaited: &str, source: &str) {
        for (flags, name) in [(&self.awaited, awaited), (&self.sources, source)] {
            if let Some(flag) = flags.get(name) {
                flag.store(true, Ordering::Release);
            }
        }
    }

    fn may_wait(&self, source: &str) -> bool {
        self.sources.get(source).is_some_and(|flag| flag.load(Ordering::Acquire))
    }

    fn may_be_awaited(&self, awaited: &str) -> bool {
        self.awaited.get(awaited).is_some_and(|flag| flag.load(Ordering::Acquire))
    }
}

/// One place where references are settled: an open transaction and what it needs to know.
#[derive(Debug)]
pub(super) struct Settling<'a> {
    pub connection: &'a mut PgConnection,
    pub pipeline: &'a str,
    pub plan: &'a Plan,
    pub waiting: &'a Waiting,
    pub leaving: &'a Leaving,
}

/// Fields found, by reference, finder and key.
type Found = HashMap<(u16, u16), HashMap<Vec<u8>, Option<Vec<u8>>>>;

impl Settling<'_> {
    /// Fills the references of these rows. A row that must wait leaves `rows` and is refused.
    pub(super) async fn fill(
        &mut self,
        source: SourceIndex,
        rows: &mut Vec<Row>,
        documents: &[(CanonicalId, Document)],
    ) -> Result<Settled, Error> {
        let mut settled = Settled::default();
        if rows.iter().all(|row| row.references.is_empty()) {
            return Ok(settled);
        }
        let found = self.find(source, rows).await?;
        let stubs = self.make_stubs(source, rows, documents, &found).await?;
        let plan = self.plan;
        rows.retain_mut(|row| {
            let references = std::mem::take(&mut row.references);
            // From the last to the first: what is filled in moves what stands behind it.
            for reference in references.iter().rev() {
                let choice = choose(plan, source, reference, &found);
                settled.waits.extend(choice.unresolved.into_iter().map(|(awaited, key)| Wait {
                    source_id: row.source_id.clone(),
                    id: row.id.clone(),
                    awaited,
                    key,
                    stub: None,
                }));
                let field = match choice.field {
                    Some(field) => Ok(field),
                    None => missing(plan, source, row, reference, &stubs, &mut settled.waits),
                };
                match field {
                    Ok(field) => fill_in(row, reference.offset, &field),
                    Err(rejection) => {
                        settled.refused.push(Refused { id: row.id.clone(), rejection });
                        return false;
                    }
                }
            }
            true
        });
        Ok(settled)
    }

    /// One statement for each finder.
    async fn find(&mut self, source: SourceIndex, rows: &[Row]) -> Result<Found, Error> {
        let mut found: Found = HashMap::new();
        for reference in rows.iter().flat_map(|row| &row.references) {
            for (finder, sought) in &reference.choices {
                let key = key(self.plan, finder_of(self.plan, source, reference.plan, *finder), sought);
                found.entry((reference.plan, *finder)).or_default().entry(key).or_default();
            }
        }
        let leaving = self.leaving_keys(source, rows);
        for ((plan, place), keys) in &mut found {
            let finder = finder_of(self.plan, source, *plan, *place);
            let gone = leaving.get(&(*plan, *place));
            let sought: Vec<Vec<u8>> =
                keys.keys().filter(|key| gone.is_none_or(|gone| !gone.contains(*key))).cloned().collect();
            let slices: Vec<&[u8]> = sought.iter().map(Vec::as_slice).collect();
            let fields = sink::find(self.connection, finder, &slices).await.map_err(apply)?;
            for (key, field) in sought.into_iter().zip(fields) {
                keys.insert(key, field);
            }
        }
        Ok(found)
    }

    /// Keys that are sought and leave in this very transaction.
    fn leaving_keys(&self, source: SourceIndex, rows: &[Row]) -> HashMap<(u16, u16), HashSet<Vec<u8>>> {
        let mut gone: HashMap<(u16, u16), HashSet<Vec<u8>>> = HashMap::new();
        if self.leaving.documents.is_empty() && self.leaving.sources.is_empty() {
            return gone;
        }
        for reference in rows.iter().flat_map(|row| &row.references) {
            for (place, sought) in &reference.choices {
                let finder = finder_of(self.plan, source, reference.plan, *place);
                if let (Some(target), Sought::Document(id)) = (&finder.target, sought)
                    && self.leaving.has(target.index, id)
                {
                    gone.entry((reference.plan, *place)).or_default().insert(key(self.plan, finder, sought));
                }
            }
        }
        gone
    }

    /// Makes the rows of references that are to be created; the fields that are taken from them, or why they
    /// cannot be made, by reference and document.
    async fn make_stubs(
        &mut self,
        source: SourceIndex,
        rows: &[Row],
        documents: &[(CanonicalId, Document)],
        found: &Found,
    ) -> Result<Stubs, Error> {
        let mut wanted: HashMap<u16, Vec<(&Row, &Reference)>> = HashMap::new();
        for row in rows {
            for reference in &row.references {
                let is_created = matches!(
                    self.plan.of(source).mapping.references[usize::from(reference.plan)].missing,
                    MissingPlan::Create(_)
                );
                if is_created && choose(self.plan, source, reference, found).field.is_none() {
                    wanted.entry(reference.plan).or_default().push((row, reference));
                }
            }
        }
        let mut stubs = Stubs::new();
        if wanted.is_empty() {
            return Ok(stubs);
        }
        let documents: HashMap<&CanonicalId, &Document> =
            documents.iter().map(|(id, document)| (id, document)).collect();
        for (place, wanted) in wanted {
            let mapped = self.plan.of(source);
            let (Some(Some(maker)), MissingPlan::Create(stub)) = (
                mapped.stubs.get(usize::from(place)),
                &mapped.mapping.references[usize::from(place)].missing,
            ) else {
                continue;
            };
            let mut made: Vec<Row> = Vec::new();
            let mut of_documents: Vec<(CanonicalId, Vec<u8>)> = Vec::new();
            for (row, reference) in wanted {
                let Some(document) = documents.get(&row.id) else { continue };
                match maker.transformer.stub(&stub_id(&stub.prefix, reference), document) {
                    Ok(stub) => {
                        of_documents.push((row.id.clone(), key_of(&stub.tuple, maker.target.mapping())));
                        made.push(stub);
                    }
                    Err(rejection) => {
                        stubs.insert((place, row.id.clone()), Err(rejection));
                    }
                }
            }
            made.sort_by(|left, right| left.source_id.cmp(&right.source_id));
            made.dedup_by(|left, right| left.source_id == right.source_id);
            let (inserted, _) =
                sink::insert_stubs(self.connection, &maker.target, &made).await.map_err(apply)?;
            let target = stub.finder.table.to_string();
            let inserted: Vec<Stub> =
                inserted.into_iter().map(|(key, hash)| Stub { target: target.clone(), key, hash }).collect();
            if !inserted.is_empty() {
                wait::add_stubs(self.connection, self.pipeline, &inserted).await.map_err(state)?;
            }
            let keys: Vec<&[u8]> = of_documents.iter().map(|(_, key)| key.as_slice()).collect();
            let fields = sink::find(self.connection, &stub.finder, &keys).await.map_err(apply)?;
            for ((id, key), field) in of_documents.iter().zip(fields) {
                let made = field.map(|field| (field, key.clone())).ok_or_else(|| Rejection {
                    column: None,
                    reason: Reason::UnresolvedReference,
                    message: format!("the row that create: makes in {target} is refused there"),
                });
                stubs.insert((place, id.clone()), made);
            }
        }
        Ok(stubs)
    }

    /// What the documents of a batch wait for from now on. Stubs that nobody stands behind any more go.
    pub(super) async fn wait(
        &mut self,
        source: SourceIndex,
        source_ids: &[&str],
        waits: &[Wait],
    ) -> Result<(), Error> {
        let name = &self.plan.of(source).mapping.source;
        for wait in waits {
            self.waiting.mark(&wait.awaited, name);
        }
        if !self.waiting.may_wait(name) {
            return Ok(());
        }
        let left = wait::replace(self.connection, self.pipeline, name, source_ids, waits);
        let left = left.await.map_err(state)?;
        if left.is_empty() {
            return Ok(());
        }
        let abandoned = wait::take_abandoned(self.connection, self.pipeline, &left).await.map_err(state)?;
        for stub in abandoned {
            let finders = self.plan.mapped.iter().flat_map(|mapped| &mapped.mapping.references);
            let finder = finders.filter_map(|reference| match &reference.missing {
                MissingPlan::Create(made) => Some(&made.finder),
                MissingPlan::Hold | MissingPlan::Null | MissingPlan::Keep => None,
            });
            let finder = finder.into_iter().find(|finder| finder.table.to_string() == stub.target);
            if let Some(finder) = finder {
                sink::delete_stub(self.connection, finder, &stub.key, &stub.hash).await.map_err(apply)?;
            }
        }
        Ok(())
    }

    /// These documents have their rows: whoever waits for them is due.
    pub(super) async fn wake(&mut self, source: SourceIndex, source_ids: &[&str]) -> Result<u64, Error> {
        let mapping = &self.plan.of(source).mapping;
        let awaited = format!("source {}", mapping.source);
        let mut woken = 0;
        if !source_ids.is_empty() && self.waiting.may_be_awaited(&awaited) {
            let keys: Vec<&[u8]> = source_ids.iter().map(|id| id.as_bytes()).collect();
            woken += wait::wake(self.connection, self.pipeline, &awaited, &keys).await.map_err(state)?;
        }
        for finder in self.plan.lookups(&mapping.table) {
            if self.waiting.may_be_awaited(&finder.awaited) {
                woken += self.wake_lookups(finder).await?;
            }
        }
        Ok(woken)
    }

    async fn wake_lookups(&mut self, finder: &Finder) -> Result<u64, Error> {
        let keys = wait::keys(self.connection, self.pipeline, &finder.awaited, WOKEN_LOOKUPS);
        let mut keys = keys.await.map_err(state)?;
        keys.retain(|key| key.first() != Some(&HASHED));
        let slices: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
        let fields = sink::find(self.connection, finder, &slices).await.map_err(apply)?;
        let there: Vec<&[u8]> =
            slices.into_iter().zip(fields).filter_map(|(key, field)| field.map(|_| key)).collect();
        if there.is_empty() {
            return Ok(0);
        }
        wait::wake(self.connection, self.pipeline, &finder.awaited, &there).await.map_err(state)
    }

    /// Waits whose rows came in a transaction beside this one, which could not see them: call after the commit
    /// of the transaction that registered them, in another one.
    pub(super) async fn look_again(&mut self, source: SourceIndex, waits: &[Wait]) -> Result<u64, Error> {
        let mut woken = 0;
        let mapping = &self.plan.of(source).mapping;
        for finder in mapping.references.iter().flat_map(|reference| &reference.finders) {
            let keys: Vec<(&[u8], Vec<u8>)> = waits
                .iter()
                .filter(|wait| wait.awaited == finder.awaited && wait.key.first() != Some(&HASHED))
                .map(|wait| (wait.key.as_slice(), tuple_of(self.plan, finder, &wait.key)))
                .collect();
            if keys.is_empty() {
                continue;
            }
            let tuples: Vec<&[u8]> = keys.iter().map(|(_, tuple)| tuple.as_slice()).collect();
            let fields = sink::find(self.connection, finder, &tuples).await.map_err(apply)?;
            let there: Vec<&[u8]> =
                keys.iter().zip(fields).filter_map(|((key, _), field)| field.map(|_| *key)).collect();
            if !there.is_empty() {
                let awaited = &finder.awaited;
                woken += wait::wake(self.connection, self.pipeline, awaited, &there).await.map_err(state)?;
            }
        }
        Ok(woken)
    }

    /// Documents, other than those that leave themselves, whose rows refer to rows that leave.
    pub(super) async fn referrers(
        &mut self,
        source: SourceIndex,
        ids: &[CanonicalId],
    ) -> Result<Vec<(SourceIndex, CanonicalId)>, Error> {
        let mut found = Vec::new();
        let plan = self.plan;
        let target = plan.of(source);
        for inbound in plan.inbound(source) {
            let of = plan.of(inbound.source);
            let reference = &of.mapping.references[inbound.reference];
            let finder = Finder {
                table: target.mapping.table.clone(),
                key: target.mapping.key_columns().map(From::from).collect(),
                ..reference.finders[inbound.finder].clone()
            };
            let keys: Vec<Vec<u8>> = ids.iter().map(|id| document_key(plan, source, id)).collect();
            let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
            let texts = sink::referrers(self.connection, &of.target, reference.column, &finder, &keys);
            for text in texts.await.map_err(apply)? {
                if let Some(id) = CanonicalId::from_source_id(&text, of.mapping.id_type)
                    && !self.leaving.has(inbound.source, &id)
                {
                    found.push((inbound.source, id));
                }
            }
        }
        Ok(found)
    }
}

/// By reference and document: the field that is taken and the stub's key, or why there is none.
type Stubs = HashMap<(u16, CanonicalId), Result<(Vec<u8>, Vec<u8>), Rejection>>;

struct Choice {
    field: Option<Vec<u8>>,
    /// Better choices that are not there: what is awaited, and its key.
    unresolved: Vec<(String, Vec<u8>)>,
}

/// The first choice that is there.
fn choose(plan: &Plan, source: SourceIndex, reference: &Reference, found: &Found) -> Choice {
    let mut unresolved = Vec::new();
    for (place, sought) in &reference.choices {
        let finder = finder_of(plan, source, reference.plan, *place);
        let key = key(plan, finder, sought);
        let field = found.get(&(reference.plan, *place)).and_then(|keys| keys.get(&key)).cloned().flatten();
        if field.is_some() {
            return Choice { field, unresolved };
        }
        unresolved.push((finder.awaited.clone(), wait_key(finder, sought, key)));
    }
    Choice { field: None, unresolved }
}

/// What stands in for a row that is not there, by the reference's rule.
fn missing(
    plan: &Plan,
    source: SourceIndex,
    row: &mut Row,
    reference: &Reference,
    stubs: &Stubs,
    waits: &mut [Wait],
) -> Result<Vec<u8>, Rejection> {
    let mapping = &plan.of(source).mapping;
    let compiled = &mapping.references[usize::from(reference.plan)];
    let column = || mapping.columns.get(compiled.column).map(|column| column.name.clone());
    let coerced = |rule| Coercion { column: compiled.column as u16, rule };
    match &compiled.missing {
        MissingPlan::Hold => {
            let awaited: Vec<String> = compiled.finders.iter().map(named).collect();
            let message = format!("refers to a row that is not there yet: {}", awaited.join(", "));
            Err(Rejection { column: column(), reason: Reason::UnresolvedReference, message })
        }
        MissingPlan::Null => {
            row.coercions.push(coerced("missing_null"));
            Ok((-1_i32).to_be_bytes().to_vec())
        }
        MissingPlan::Keep => {
            row.coercions.push(coerced("missing_keep"));
            let text = match reference.choices.first() {
                Some((_, Sought::Document(id))) => stub_text(id),
                Some((_, Sought::Row(_))) | None => String::new(),
            };
            let mut field = (text.len() as i32).to_be_bytes().to_vec();
            field.extend_from_slice(text.as_bytes());
            Ok(field)
        }
        MissingPlan::Create(_) => match stubs.get(&(reference.plan, row.id.clone())) {
            Some(Ok((field, key))) => {
                row.coercions.push(coerced("missing_create"));
                for wait in waits.iter_mut().filter(|wait| wait.source_id == row.source_id) {
                    let of_this = compiled.finders.iter().any(|finder| finder.awaited == wait.awaited);
                    if of_this {
                        wait.stub = Some(key.clone());
                    }
                }
                Ok(field.clone())
            }
            Some(Err(rejection)) => Err(Rejection { column: column(), ..rejection.clone() }),
            None => Err(Rejection {
                column: column(),
                reason: Reason::UnresolvedReference,
                message: "refers to a row that is not there yet".to_owned(),
            }),
        },
    }
}

fn named(finder: &Finder) -> String {
    match &finder.target {
        Some(target) => format!("mapping {}", target.source),
        None => finder.awaited.clone(),
    }
}

fn fill_in(row: &mut Row, offset: usize, field: &[u8]) {
    // The placeholder is a null: a length without bytes.
    row.tuple.splice(offset..offset + 4, field.iter().copied());
}

fn finder_of(plan: &Plan, source: SourceIndex, reference: u16, finder: u16) -> &Finder {
    &plan.of(source).mapping.references[usize::from(reference)].finders[usize::from(finder)]
}

fn key(plan: &Plan, finder: &Finder, sought: &Sought) -> Vec<u8> {
    match (sought, &finder.target) {
        (Sought::Document(id), Some(target)) => document_key(plan, target.index, id),
        (Sought::Row(tuple), _) => tuple.clone(),
        (Sought::Document(_), None) => Vec::new(),
    }
}

/// The key of a document's row, as a binary COPY tuple.
fn document_key(plan: &Plan, source: SourceIndex, id: &CanonicalId) -> Vec<u8> {
    let mapping = &plan.of(source).mapping;
    let source_id = id.source_id(mapping.id_type);
    match &mapping.key.source {
        Some(_) => text_tuple(&[&mapping.source, &source_id]),
        None => text_tuple(&[&source_id]),
    }
}

fn text_tuple(texts: &[&str]) -> Vec<u8> {
    let mut tuple = (texts.len() as i16).to_be_bytes().to_vec();
    for text in texts {
        tuple.extend_from_slice(&(text.len() as i32).to_be_bytes());
        tuple.extend_from_slice(text.as_bytes());
    }
    tuple
}

/// How a wait names the row: by the document's source_id, or by the fields it is looked up with.
fn wait_key(finder: &Finder, sought: &Sought, key: Vec<u8>) -> Vec<u8> {
    let key = match (sought, &finder.target) {
        (Sought::Document(id), Some(target)) => id.source_id(target.id_type).into_bytes(),
        (Sought::Document(_), None) | (Sought::Row(_), _) => key,
    };
    if key.len() <= KEY_BYTES {
        return key;
    }
    let mut hashed = vec![HASHED];
    hashed.extend_from_slice(&Sha256::digest(&key));
    hashed
}

/// The tuple that finds what a wait names.
fn tuple_of(plan: &Plan, finder: &Finder, wait_key: &[u8]) -> Vec<u8> {
    let Some(target) = &finder.target else { return wait_key.to_vec() };
    let source_id = String::from_utf8_lossy(wait_key);
    match &plan.of(target.index).mapping.key.source {
        Some(_) => text_tuple(&[&target.source, &source_id]),
        None => text_tuple(&[&source_id]),
    }
}

/// The first fields of a tuple: those of the key.
fn key_of(tuple: &[u8], mapping: &crate::mapping::Mapping) -> Vec<u8> {
    let count = mapping.key_columns().count();
    let mut end = 2;
    for _ in 0..count {
        let length =
            tuple.get(end..end + 4).and_then(|bytes| bytes.try_into().ok()).map_or(-1, i32::from_be_bytes);
        end += 4 + usize::try_from(length).unwrap_or(0);
    }
    let mut key = (count as i16).to_be_bytes().to_vec();
    key.extend_from_slice(tuple.get(2..end).unwrap_or_default());
    key
}

fn stub_id(prefix: &str, reference: &Reference) -> String {
    match reference.choices.first() {
        Some((_, Sought::Document(id))) => format!("{prefix}{}", stub_text(id)),
        Some((_, Sought::Row(_))) | None => prefix.to_owned(),
    }
}

/// The id as people would write it, under its own type.
fn stub_text(id: &CanonicalId) -> String {
    id.source_id(id.id_type().unwrap_or(crate::domain::IdType::String))
}

/// A reference of one mapping that may point at the rows of another.
#[derive(Debug, Clone)]
pub(super) struct Inbound {
    pub source: SourceIndex,
    /// Index into the mapping's references, and into the finders of that.
    pub reference: usize,
    pub finder: usize,
}

impl Plan {
    pub(super) fn has_references(&self) -> bool {
        self.mapped.iter().any(|mapped| !mapped.mapping.references.is_empty())
    }

    /// Mappings whose rows may have to be written because these leave.
    pub(super) fn referring(&self, leaving: &Leaving) -> Vec<SourceIndex> {
        let mut found: Vec<SourceIndex> = Vec::new();
        let mut open: Vec<SourceIndex> = leaving.documents.iter().map(|(source, _)| *source).collect();
        open.extend(&leaving.sources);
        open.sort();
        open.dedup();
        while let Some(source) = open.pop() {
            for inbound in self.inbound(source) {
                if !found.contains(&inbound.source) {
                    found.push(inbound.source);
                    open.push(inbound.source);
                }
            }
        }
        found
    }

    /// Look-ups into a table, whoever writes it.
    pub(super) fn lookups<'p>(&'p self, table: &'p TableName) -> impl Iterator<Item = &'p Finder> {
        let references = self.mapped.iter().flat_map(|mapped| &mapped.mapping.references);
        references
            .flat_map(|reference| &reference.finders)
            .filter(move |finder| finder.target.is_none() && finder.table == *table)
    }

    /// References that may point at rows of this mapping.
    pub(super) fn inbound(&self, target: SourceIndex) -> Vec<Inbound> {
        let table = &self.of(target).mapping.table;
        let mut inbound = Vec::new();
        for mapped in &self.mapped {
            for (reference, plan) in mapped.mapping.references.iter().enumerate() {
                for (finder, found) in plan.finders.iter().enumerate() {
                    let points = match &found.target {
                        Some(of) => of.index == target,
                        None => found.table == *table,
                    };
                    if points {
                        inbound.push(Inbound { source: mapped.mapping.index, reference, finder });
                    }
                }
            }
        }
        inbound
    }
}
