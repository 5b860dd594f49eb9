//! References are settled inside the transaction that writes their rows: what they point at is looked for
//! there, what is missing follows its rule, and whoever points at a row that goes is settled first.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};

use sha2::{Digest, Sha256};
use sqlx::PgConnection;

use super::Error;
use super::claims;
use super::commit::{apply, state};
use super::plan::{Mapped, MappedChild, Plan};
use super::prepare::{Refused, SourceBatch};
use crate::config::Deletes;
use crate::domain::{
    CanonicalId, Coercion, CopyFields, Document, Reason, Reference, Rejection, Row, RowKey, Sought,
    SourceIndex, TableName,
};
use crate::mapping::{Finder, Mapping, MissingPlan, SoughtColumn};
use crate::sink::{self, Target};
use crate::state::row;
use crate::state::wait::{self, Stub, Wait};
use crate::transform::{ChildTransformer, Transformer};

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
    pub(super) fn of(plan: &Plan, batches: &[SourceBatch]) -> Self {
        // A row that is only marked stays, and what points at it points at a row.
        let batches = batches.iter().filter(|batch| plan.of(batch.source).mapping.deletes == Deletes::Hard);
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
    /// Elements that have no row until what they refer to is there.
    pub left_out: u64,
}

/// Why a reference has no value.
enum NoField {
    Hold(Rejection),
    Drop,
}

/// Whose references are settled: the rows of a mapping, or those of a child table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Referring<'p> {
    pub mapping: &'p Mapping,
    stubs: &'p [Option<StubMaker>],
    child: Option<&'p ChildTransformer>,
}

impl Mapped {
    pub(super) fn referring(&self) -> Referring<'_> {
        Referring { mapping: &self.mapping, stubs: &self.stubs, child: None }
    }

    pub(super) fn has_references(&self) -> bool {
        !self.mapping.references.is_empty() || !self.children.is_empty()
    }

    /// Its own rows, and those of each child table.
    fn all_referring(&self) -> impl Iterator<Item = Referring<'_>> {
        std::iter::once(self.referring()).chain(self.children.iter().map(MappedChild::referring))
    }
}

impl MappedChild {
    pub(super) fn referring(&self) -> Referring<'_> {
        let mapping = self.transformer.mapping();
        Referring { mapping, stubs: &self.stubs, child: Some(&self.transformer) }
    }
}

impl<'p> Referring<'p> {
    fn finders(self) -> impl Iterator<Item = &'p Finder> {
        self.mapping.references.iter().flat_map(|reference| &reference.finders)
    }
}

impl StubMaker {
    fn row(
        &self,
        of: Referring<'_>,
        source_id: &str,
        document: &Document,
        element: u32,
    ) -> Result<Row, Rejection> {
        match of.child {
            None => self.transformer.stub(source_id, document),
            Some(child) => child.stub(&self.transformer, source_id, document, element),
        }
    }
}

/// Who waits, and for what: nearly always nobody, and then a statement less is needed. Right for the same
/// reason as [`super::holding::Holding`]; names are added before the transaction that needs them commits.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    sources: HashMap<String, AtomicBool>,
    awaited: HashMap<String, AtomicBool>,
    /// By table: whether it has stubs.
    stubbed: HashMap<String, AtomicBool>,
}

impl Waiting {
    pub(super) fn new(plan: &Plan, known: &wait::Overview) -> Self {
        let mut waiting = Self::default();
        for mapped in plan.mapped.iter().filter(|mapped| mapped.has_references()) {
            waiting.sources.insert(mapped.mapping.source.clone(), AtomicBool::new(false));
            for finder in mapped.all_referring().flat_map(Referring::finders) {
                waiting.awaited.insert(finder.awaited.clone(), AtomicBool::new(false));
                waiting.stubbed.insert(finder.table.to_string(), AtomicBool::new(false));
            }
        }
        for (awaited, source) in &known.awaited {
            waiting.mark(awaited, source);
        }
        for table in &known.stubbed {
            waiting.mark_stubbed(table);
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

    fn mark_stubbed(&self, table: &str) {
        if let Some(flag) = self.stubbed.get(table) {
            flag.store(true, Ordering::Release);
        }
    }

    fn has_stubs(&self, table: &str) -> bool {
        self.stubbed.get(table).is_some_and(|flag| flag.load(Ordering::Acquire))
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

/// By reference and finder.
type Found = HashMap<(u16, u16), Fields>;

/// What one finder found, by the names of what it sought.
#[derive(Debug, Default)]
struct Fields {
    sought: HashMap<Vec<u8>, Sought>,
    /// Leaves in this very transaction.
    gone: HashSet<Vec<u8>>,
    found: HashMap<Vec<u8>, Vec<u8>>,
}

impl Settling<'_> {
    /// Fills the references of these rows. A row that must wait leaves `rows` and is refused; one that is left
    /// out until then leaves `rows` as well.
    pub(super) async fn fill(
        &mut self,
        of: Referring<'_>,
        rows: &mut Vec<Row>,
        documents: &[(CanonicalId, Document)],
    ) -> Result<Settled, Error> {
        let mut settled = Settled::default();
        if rows.iter().all(|row| row.references.is_empty()) {
            return Ok(settled);
        }
        let found = self.find(of, rows).await?;
        settled.waits.extend(self.users_of_stubs(of, rows, &found).await?);
        let stubs = self.make_stubs(of, rows, documents, &found).await?;
        let mapping = of.mapping;
        rows.retain_mut(|row| {
            let references = std::mem::take(&mut row.references);
            // From the last to the first: what is filled in moves what stands behind it.
            for reference in references.iter().rev() {
                let choice = choose(mapping, reference, &found);
                settled.waits.extend(choice.unresolved.into_iter().map(|(awaited, key)| Wait {
                    source_id: row.source_id.clone(),
                    id: row.id.clone(),
                    awaited,
                    key,
                    stub: None,
                }));
                let field = match choice.field {
                    Some(field) => Ok(field),
                    None => missing(mapping, row, reference, &stubs, &mut settled.waits),
                };
                match field {
                    Ok(field) => fill_in(row, reference.offset, &field),
                    Err(NoField::Hold(rejection)) => {
                        settled.refused.push(Refused { id: row.id.clone(), rejection });
                        return false;
                    }
                    Err(NoField::Drop) => {
                        settled.left_out += 1;
                        return false;
                    }
                }
            }
            true
        });
        Ok(settled)
    }

    /// One statement for each finder.
    async fn find(&mut self, of: Referring<'_>, rows: &[Row]) -> Result<Found, Error> {
        let mut found: Found = HashMap::new();
        for reference in rows.iter().flat_map(|row| &row.references) {
            for (place, sought) in &reference.choices {
                let finder = finder_of(of.mapping, reference.plan, *place);
                let fields = found.entry((reference.plan, *place)).or_default();
                let leaves = match (&finder.target, sought) {
                    (Some(target), Sought::Document(id)) => self.leaving.has(target.index, id),
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
            let values = self.look(finder, &tuples).await?;
            for ((name, _), value) in sought.into_iter().zip(values) {
                fields.found.extend(value.map(|value| (name, value)));
            }
        }
        Ok(found)
    }

    /// What is taken from the rows with these keys, by place.
    async fn look(
        &mut self,
        finder: &Finder,
        tuples: &[Option<Vec<u8>>],
    ) -> Result<Vec<Option<Vec<u8>>>, Error> {
        let keys: Vec<&[u8]> = tuples.iter().flatten().map(Vec::as_slice).collect();
        let mut values = sink::find(self.connection, finder, &keys).await.map_err(apply)?.into_iter();
        Ok(tuples.iter().map(|tuple| tuple.as_ref().and_then(|_| values.next().flatten())).collect())
    }

    /// The keys of what is sought, as tuples; `None` where no row can be.
    async fn tuples<'s>(
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

    /// What the rows of these documents have that finder takes from them.
    pub(super) async fn owners(
        &mut self,
        source: SourceIndex,
        finder: &Finder,
        ids: &[CanonicalId],
    ) -> Result<Vec<Option<Vec<u8>>>, Error> {
        let keys = self.document_keys(source, ids).await?;
        self.look(finder, &keys).await
    }

    /// The keys of documents' rows, as tuples of the finder's columns.
    async fn document_keys(
        &mut self,
        source: SourceIndex,
        ids: &[CanonicalId],
    ) -> Result<Vec<Option<Vec<u8>>>, Error> {
        let mapped = self.plan.of(source);
        let mapping = &mapped.mapping;
        let made = |key: Option<RowKey>| key.map(|key| tuple_of_key(mapping, &key));
        if !mapping.key.is_claimed() {
            return Ok(ids.iter().map(|id| made(mapped.transformer.row_key(id))).collect());
        }
        let source_ids: Vec<String> = ids.iter().map(|id| id.source_id(mapping.id_type)).collect();
        let asked: Vec<&str> = source_ids.iter().map(String::as_str).collect();
        let target = claims::target(mapping);
        let scope = claims::scope(self.pipeline, &target, mapping);
        let claims = row::of_documents(self.connection, scope, &asked).await.map_err(state)?;
        let claimed: HashMap<&str, &RowKey> =
            claims.iter().filter_map(|claim| Some((claim.source_id.as_str(), claim.key.as_ref()?))).collect();
        let key = |source_id: &String| claimed.get(source_id.as_str()).map(|key| (*key).clone());
        Ok(source_ids.iter().map(|source_id| made(key(source_id))).collect())
    }

    /// Makes the rows of references that are to be created; the fields that are taken from them, or why they
    /// cannot be made, by reference and document.
    async fn make_stubs(
        &mut self,
        of: Referring<'_>,
        rows: &[Row],
        documents: &[(CanonicalId, Document)],
        found: &Found,
    ) -> Result<Stubs, Error> {
        let mut wanted: HashMap<u16, Vec<(&Row, &Reference)>> = HashMap::new();
        for row in rows {
            for reference in &row.references {
                let is_created = matches!(
                    of.mapping.references[usize::from(reference.plan)].missing,
                    MissingPlan::Create(_)
                );
                if is_created && choose(of.mapping, reference, found).field.is_none() {
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
            let missing = &of.mapping.references[usize::from(place)].missing;
            let (Some(Some(maker)), MissingPlan::Create(stub)) = (of.stubs.get(usize::from(place)), missing)
            else {
                continue;
            };
            let mut made: Vec<Row> = Vec::new();
            let mut of_rows: Vec<((CanonicalId, u32), Vec<u8>)> = Vec::new();
            for (row, reference) in wanted {
                let Some(document) = documents.get(&row.id) else { continue };
                let of_row = (row.id.clone(), row.element);
                match maker.row(of, &stub_id(&stub.prefix, reference), document, row.element) {
                    Ok(stub) => {
                        of_rows.push((of_row, key_of(&stub.tuple, maker.target.mapping())));
                        made.push(stub);
                    }
                    Err(rejection) => {
                        stubs.insert((place, of_row), Err(rejection));
                    }
                }
            }
            made.sort_by(|left, right| left.source_id.cmp(&right.source_id));
            made.dedup_by(|left, right| left.source_id == right.source_id);
            let (inserted, _) = sink::insert_stubs(self.connection, &maker.target, &stub.finder, &made)
                .await
                .map_err(apply)?;
            let target = stub.finder.table.to_string();
            let inserted: Vec<Stub> =
                inserted.into_iter().map(|(key, hash)| Stub { target: target.clone(), key, hash }).collect();
            if !inserted.is_empty() {
                self.waiting.mark_stubbed(&target);
                wait::add_stubs(self.connection, self.pipeline, &inserted).await.map_err(state)?;
            }
            let keys: Vec<&[u8]> = of_rows.iter().map(|(_, key)| key.as_slice()).collect();
            let fields = sink::find(self.connection, &stub.finder, &keys).await.map_err(apply)?;
            for ((of_row, key), field) in of_rows.iter().zip(fields) {
                let made = field.map(|field| (field, key.clone())).ok_or_else(|| Rejection {
                    column: None,
                    reason: Reason::UnresolvedReference,
                    message: format!("the row that create: makes in {target} is refused there"),
                });
                stubs.insert((place, of_row.clone()), made);
            }
        }
        Ok(stubs)
    }

    /// Who looks a stub up uses it as much as the one for whom it was made: it stays as long as one of them does.
    async fn users_of_stubs(
        &mut self,
        of: Referring<'_>,
        rows: &[Row],
        found: &Found,
    ) -> Result<Vec<Wait>, Error> {
        let mut users = Vec::new();
        for (place, reference) in of.mapping.references.iter().enumerate() {
            let (MissingPlan::Create(_), Some(finder)) = (&reference.missing, reference.finders.first())
            else {
                continue;
            };
            let table = finder.table.to_string();
            let place = (place as u16, 0);
            let (Some(fields), true) = (found.get(&place), finder.target.is_none()) else { continue };
            if !self.waiting.has_stubs(&table) {
                continue;
            }
            let names: Vec<&[u8]> = fields.found.keys().map(Vec::as_slice).collect();
            let stubs = wait::stubs(self.connection, self.pipeline, &table, &names).await.map_err(state)?;
            let stubs: HashSet<Vec<u8>> = stubs.into_iter().collect();
            for row in rows {
                let of_plan = row.references.iter().filter(|reference| reference.plan == place.0);
                for (_, sought) in of_plan.flat_map(|reference| &reference.choices) {
                    let name = name_of(finder, sought);
                    if stubs.contains(&name) {
                        users.push(Wait {
                            source_id: row.source_id.clone(),
                            id: row.id.clone(),
                            awaited: format!("stub {table}"),
                            key: name.clone(),
                            stub: Some(name),
                        });
                    }
                }
            }
        }
        Ok(users)
    }

    /// Rows that a document has made its own are stubs no longer.
    pub(super) async fn own(&mut self, source: SourceIndex, rows: &[Row]) -> Result<(), Error> {
        let mapping = &self.plan.of(source).mapping;
        let table = mapping.table.to_string();
        if rows.is_empty() || !self.waiting.has_stubs(&table) {
            return Ok(());
        }
        let keys: Vec<Vec<u8>> = rows.iter().map(|row| key_of(&row.tuple, mapping)).collect();
        wait::forget_stubs(self.connection, self.pipeline, &table, &keys).await.map_err(state)
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
        // Several elements of one document may wait for the same row.
        let mut once = HashSet::new();
        let mut waits = waits.to_vec();
        waits.retain(|wait| once.insert((wait.source_id.clone(), wait.awaited.clone(), wait.key.clone())));
        let left = wait::replace(self.connection, self.pipeline, name, source_ids, &waits);
        let left = left.await.map_err(state)?;
        if left.is_empty() {
            return Ok(());
        }
        let abandoned = wait::take_abandoned(self.connection, self.pipeline, &left).await.map_err(state)?;
        for stub in abandoned {
            let referring = self.plan.mapped.iter().flat_map(Mapped::all_referring);
            let finders = referring.flat_map(|of| &of.mapping.references);
            let finder = finders.filter_map(|reference| match &reference.missing {
                MissingPlan::Create(made) => Some(&made.finder),
                MissingPlan::Hold | MissingPlan::Null | MissingPlan::Keep | MissingPlan::Drop => None,
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
        for finder in self.plan.of(source).all_referring().flat_map(Referring::finders) {
            let of_finder = waits
                .iter()
                .filter(|wait| wait.awaited == finder.awaited && wait.key.first() != Some(&HASHED));
            let keys: Vec<&[u8]> = of_finder.map(|wait| wait.key.as_slice()).collect();
            if keys.is_empty() {
                continue;
            }
            let sought: Vec<Sought> = keys.iter().map(|key| sought_by(finder, key)).collect();
            let tuples = self.tuples(finder, sought.iter()).await?;
            let fields = self.look(finder, &tuples).await?;
            let there: Vec<&[u8]> =
                keys.into_iter().zip(fields).filter_map(|(key, field)| field.map(|_| key)).collect();
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
            let child = inbound.child.and_then(|place| of.children.get(place));
            let referring = child.map_or_else(|| of.referring(), MappedChild::referring);
            let reference = &referring.mapping.references[inbound.reference];
            let finder = Finder {
                table: target.mapping.table.clone(),
                key: SoughtColumn::of_mapping(&target.mapping),
                ..reference.finders[inbound.finder].clone()
            };
            let keys = self.document_keys(source, ids).await?;
            let keys: Vec<&[u8]> = keys.iter().flatten().map(Vec::as_slice).collect();
            let column = reference.column;
            let rows = match child {
                None => sink::referrers(self.connection, &of.target, column, &finder, &keys).await,
                Some(child) => {
                    let plan = child.transformer.plan();
                    let parent = &of.mapping;
                    sink::referring_parents(self.connection, parent, plan, column, &finder, &keys).await
                }
            };
            let rows = rows.map_err(apply)?;
            let documents = self.documents_of(inbound.source, &rows).await?;
            let documents = documents.into_iter().filter(|id| !self.leaving.has(inbound.source, id));
            found.extend(documents.map(|id| (inbound.source, id)));
        }
        Ok(found)
    }

    /// Whose rows these are. An id that is only known by its hash is nobody's we could read.
    async fn documents_of(
        &mut self,
        source: SourceIndex,
        keys: &[RowKey],
    ) -> Result<Vec<CanonicalId>, Error> {
        let mapping = &self.plan.of(source).mapping;
        if !mapping.key.is_claimed() {
            let texts = keys.iter().filter_map(RowKey::text);
            return Ok(texts.filter_map(|text| CanonicalId::from_source_id(text, mapping.id_type)).collect());
        }
        let target = claims::target(mapping);
        let scope = claims::scope(self.pipeline, &target, mapping);
        let keys: Vec<&RowKey> = keys.iter().collect();
        let claims = row::load(self.connection, scope, &[], &keys).await.map_err(state)?;
        Ok(claims.into_iter().filter(|claim| claim.source == mapping.source).map(|claim| claim.id).collect())
    }
}

/// By reference, document and element: the field that is taken and the stub's key, or why there is none.
type Stubs = HashMap<(u16, (CanonicalId, u32)), Result<(Vec<u8>, Vec<u8>), Rejection>>;

struct Choice {
    field: Option<Vec<u8>>,
    /// Better choices that are not there: what is awaited, and its key.
    unresolved: Vec<(String, Vec<u8>)>,
}

/// The first choice that is there.
fn choose(mapping: &Mapping, reference: &Reference, found: &Found) -> Choice {
    let mut unresolved = Vec::new();
    for (place, sought) in &reference.choices {
        let finder = finder_of(mapping, reference.plan, *place);
        let name = name_of(finder, sought);
        let fields = found.get(&(reference.plan, *place));
        let field = fields.and_then(|fields| {
            let is_gone = fields.gone.contains(&name);
            fields.found.get(&name).filter(|_| !is_gone).cloned()
        });
        if field.is_some() {
            return Choice { field, unresolved };
        }
        unresolved.push((finder.awaited.clone(), name));
    }
    Choice { field: None, unresolved }
}

/// What stands in for a row that is not there, by the reference's rule.
fn missing(
    mapping: &Mapping,
    row: &mut Row,
    reference: &Reference,
    stubs: &Stubs,
    waits: &mut [Wait],
) -> Result<Vec<u8>, NoField> {
    let compiled = &mapping.references[usize::from(reference.plan)];
    let column = || mapping.columns.get(compiled.column).map(|column| column.name.clone());
    let coerced = |rule| Coercion { column: compiled.column as u16, rule };
    match &compiled.missing {
        MissingPlan::Hold => {
            let awaited: Vec<String> = compiled.finders.iter().map(named).collect();
            let message = format!("refers to a row that is not there yet: {}", awaited.join(", "));
            Err(hold(column(), message))
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
        MissingPlan::Drop => Err(NoField::Drop),
        MissingPlan::Create(_) => match stubs.get(&(reference.plan, (row.id.clone(), row.element))) {
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
            Some(Err(rejection)) => Err(NoField::Hold(Rejection { column: column(), ..rejection.clone() })),
            None => Err(hold(column(), "refers to a row that is not there yet".to_owned())),
        },
    }
}

fn hold(column: Option<String>, message: String) -> NoField {
    NoField::Hold(Rejection { column, reason: Reason::UnresolvedReference, message })
}

fn named(finder: &Finder) -> String {
    match &finder.target {
        Some(target) => format!("mapping {}", target.source),
        None => finder.awaited.clone(),
    }
}

fn fill_in(row: &mut Row, offset: usize, field: &[u8]) {
    // The placeholder is a null: a length without bytes.
    let mut tuple = Vec::with_capacity(row.tuple.len() + field.len());
    tuple.extend_from_slice(&row.tuple[..offset]);
    tuple.extend_from_slice(field);
    tuple.extend_from_slice(&row.tuple[offset + 4..]);
    row.tuple = tuple.into();
}

fn finder_of(mapping: &Mapping, reference: u16, finder: u16) -> &Finder {
    &mapping.references[usize::from(reference)].finders[usize::from(finder)]
}

/// How the state names what is sought: by the document's source_id, or by the fields it is looked up with.
fn name_of(finder: &Finder, sought: &Sought) -> Vec<u8> {
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
fn sought_by(finder: &Finder, name: &[u8]) -> Sought {
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
pub(super) fn tuple_of_key(mapping: &Mapping, key: &RowKey) -> Vec<u8> {
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

/// The fields of a stub's key, in the order of its finder.
fn key_of(tuple: &[u8], mapping: &Mapping) -> Vec<u8> {
    let fields: Vec<&[u8]> = CopyFields::of_tuple(tuple).collect();
    let places =
        mapping.key.source().into_iter().chain(mapping.key.columns.iter().map(|column| column.place));
    let mut key = (mapping.key_columns().count() as i16).to_be_bytes().to_vec();
    for place in places {
        key.extend_from_slice(fields.get(place).copied().unwrap_or_default());
    }
    key
}

fn stub_id(prefix: &str, reference: &Reference) -> String {
    match reference.choices.first() {
        Some((_, Sought::Document(id))) => format!("{prefix}{}", stub_text(id)),
        Some((_, Sought::Row(tuple))) => {
            let values = CopyFields::of_tuple(tuple).filter_map(|field| field.get(4..));
            values.map(String::from_utf8_lossy).collect::<Vec<_>>().join("\u{1f}")
        }
        None => prefix.to_owned(),
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
    /// Index into the mapping's children, if it is one of theirs.
    pub child: Option<usize>,
    /// Index into the references, and into the finders of that.
    pub reference: usize,
    pub finder: usize,
}

impl Plan {
    pub(super) fn has_references(&self) -> bool {
        self.mapped.iter().any(Mapped::has_references)
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
        let referring = self.mapped.iter().flat_map(Mapped::all_referring);
        referring
            .flat_map(Referring::finders)
            .filter(move |finder| finder.target.is_none() && finder.table == *table)
    }

    /// References that may point at rows of this mapping.
    pub(super) fn inbound(&self, target: SourceIndex) -> Vec<Inbound> {
        let table = &self.of(target).mapping.table;
        let mut inbound = Vec::new();
        for mapped in &self.mapped {
            for (place, of) in mapped.all_referring().enumerate() {
                let child = place.checked_sub(1);
                let of_parent = of.child.map(|child| child.plan().parent_reference);
                for (reference, plan) in of.mapping.references.iter().enumerate() {
                    for (finder, found) in plan.finders.iter().enumerate() {
                        let points = match &found.target {
                            Some(of) => of.index == target,
                            None => found.table == *table,
                        };
                        // Rows of one's own go with the document.
                        if points && of_parent != Some(reference) {
                            inbound.push(Inbound { source: mapped.mapping.index, child, reference, finder });
                        }
                    }
                }
            }
        }
        inbound
    }
}
