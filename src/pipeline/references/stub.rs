//! Rows that are made for references, and go with the last of their users.

use std::collections::{HashMap, HashSet};

use super::find::{Finding, Found, as_taken, choose, name_of};
use super::{Referring, Settling};
use crate::domain::{
    CanonicalId, CopyFields, Document, IdType, Reason, Reference, Rejection, Row, Sought, SourceIndex,
};
use crate::mapping::{Mapping, MissingPlan, StubPlan};
use crate::pipeline::Error;
use crate::pipeline::commit::{apply, state};
use crate::sink::{self, Target};
use crate::state::wait::{self, Stub, Wait};
use crate::transform::Transformer;

/// What makes the row of a reference that points nowhere.
#[derive(Debug)]
pub struct StubMaker {
    pub transformer: Transformer,
    pub target: Target,
}

/// Documents of a batch whose rows are there already, as stubs of others' look-ups.
#[derive(Debug)]
pub(in crate::pipeline) struct Stubbed {
    /// What the stubs were looked up by: places of the mapping's columns.
    pub columns: Vec<usize>,
    pub documents: HashSet<CanonicalId>,
    keys: Vec<Vec<u8>>,
}

/// Whose: the document and its element.
type OfRow = (CanonicalId, u32);

/// By reference, document and element: the field that is taken and the stub's key, or why there is none.
pub(super) type Stubs = HashMap<(u16, OfRow), Result<(Vec<u8>, Vec<u8>), NoStub>>;

/// Why there is no stub.
#[derive(Debug)]
pub(super) enum NoStub {
    Refused(Rejection),
    /// The row of a document stands in its place, and leaves in this very transaction.
    Leaving,
}

/// The rows that one reference asks for.
struct Wanted<'p> {
    place: u16,
    maker: &'p StubMaker,
    plan: &'p StubPlan,
    rows: Vec<Row>,
    /// For whom, and their keys.
    of_rows: Vec<(OfRow, Vec<u8>)>,
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

impl Settling<'_> {
    /// Makes the rows of references that are to be created.
    pub(super) async fn make_stubs(
        &mut self,
        of: Referring<'_>,
        rows: &[Row],
        documents: &[(CanonicalId, Document)],
        found: &Found,
    ) -> Result<Stubs, Error> {
        let mut stubs = Stubs::new();
        for wanted in wanted(of, rows, documents, found, &mut stubs) {
            let finder = &wanted.plan.finder;
            let made = sink::insert_stubs(self.connection, &wanted.maker.target, finder, &wanted.rows);
            let (inserted, _) = made.await.map_err(apply)?;
            let target = finder.table.to_string();
            let inserted: Vec<Stub> =
                inserted.into_iter().map(|(key, hash)| Stub { target: target.clone(), key, hash }).collect();
            if !inserted.is_empty() {
                self.waiting.mark_stubbed(&target);
                wait::add_stubs(self.connection, self.pipeline, &inserted).await.map_err(state)?;
            }
            self.finding().stubs_of(wanted, &mut stubs).await?;
        }
        Ok(stubs)
    }

    /// Who looks a stub up uses it as much as the one for whom it was made: it stays as long as one of them does.
    pub(super) async fn users_of_stubs(
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

    /// The documents whose rows were made for look-ups before they came.
    pub(in crate::pipeline) async fn stubbed(
        &mut self,
        source: SourceIndex,
        rows: &[Row],
    ) -> Result<Vec<Stubbed>, Error> {
        let mapping = &self.plan.of(source).mapping;
        let table = mapping.table.to_string();
        let mut found: Vec<Stubbed> = Vec::new();
        if rows.is_empty() || !self.waiting.has_stubs(&table) {
            return Ok(found);
        }
        for finder in self.plan.stub_finders().filter(|finder| finder.table == mapping.table) {
            let place = |name: &str| mapping.columns.iter().position(|column| column.name == name);
            let columns: Option<Vec<usize>> = finder.key.iter().map(|column| place(&column.name)).collect();
            // A stub that is known by (source, source_id) is never in a document's way.
            let by_source_id = |columns: &[usize]| {
                !mapping.key.is_claimed() && columns.iter().any(|place| mapping.key.has(*place))
            };
            let Some(columns) = columns.filter(|columns| !by_source_id(columns)) else { continue };
            if found.iter().any(|other| other.columns == columns) {
                continue;
            }
            let keys: Vec<Vec<u8>> = rows.iter().map(|row| fields(&row.tuple, &columns)).collect();
            let asked: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
            let stubs = wait::stubs(self.connection, self.pipeline, &table, &asked).await.map_err(state)?;
            let stubs: HashSet<Vec<u8>> = stubs.into_iter().collect();
            let documents = rows.iter().zip(&keys).filter(|(_, key)| stubs.contains(*key));
            let documents: HashSet<CanonicalId> = documents.map(|(row, _)| row.id.clone()).collect();
            if !documents.is_empty() {
                found.push(Stubbed { columns, documents, keys: stubs.into_iter().collect() });
            }
        }
        Ok(found)
    }

    /// Their documents have come.
    pub(in crate::pipeline) async fn no_stubs(
        &mut self,
        source: SourceIndex,
        stubbed: &[Stubbed],
    ) -> Result<(), Error> {
        let table = self.plan.of(source).mapping.table.to_string();
        for stubbed in stubbed {
            wait::forget_stubs(self.connection, self.pipeline, &table, &stubbed.keys).await.map_err(state)?;
        }
        Ok(())
    }

    /// Rows that a document has made its own are stubs no longer.
    pub(in crate::pipeline) async fn own(&mut self, source: SourceIndex, rows: &[Row]) -> Result<(), Error> {
        let mapping = &self.plan.of(source).mapping;
        let table = mapping.table.to_string();
        if rows.is_empty() || !self.waiting.has_stubs(&table) {
            return Ok(());
        }
        let keys: Vec<Vec<u8>> = rows.iter().map(|row| key_of(&row.tuple, mapping)).collect();
        wait::forget_stubs(self.connection, self.pipeline, &table, &keys).await.map_err(state)
    }
}

impl Finding<'_> {
    /// Looks for the rows of references that are to be created.
    pub(super) async fn stubs(
        &mut self,
        of: Referring<'_>,
        rows: &[Row],
        documents: &[(CanonicalId, Document)],
        found: &Found,
    ) -> Result<Stubs, Error> {
        let mut stubs = Stubs::new();
        for wanted in wanted(of, rows, documents, found, &mut stubs) {
            self.stubs_of(wanted, &mut stubs).await?;
        }
        Ok(stubs)
    }

    async fn stubs_of(&mut self, wanted: Wanted<'_>, stubs: &mut Stubs) -> Result<(), Error> {
        let finder = &wanted.plan.finder;
        let keys: Vec<Option<Vec<u8>>> = wanted.of_rows.iter().map(|(_, key)| Some(key.clone())).collect();
        let fields = self.look_past_leavers(finder, &keys).await?;
        let there = match fields.iter().any(Option::is_none) {
            true => self.look(finder, &keys).await?,
            false => vec![None; fields.len()],
        };
        for (((of_row, key), field), there) in wanted.of_rows.into_iter().zip(fields).zip(there) {
            let none = || match there {
                Some(_) => NoStub::Leaving,
                None => NoStub::Refused(Rejection {
                    column: None,
                    reason: Reason::UnresolvedReference,
                    message: format!("the row that create: makes in {} is refused there", finder.table),
                }),
            };
            let taken = |field| as_taken(finder, field, &finder.take).map_err(NoStub::Refused);
            let made = field.ok_or_else(none).and_then(taken).map(|field| (field, key));
            stubs.insert((wanted.place, of_row), made);
        }
        Ok(())
    }
}

/// The rows to be created, each once; those that cannot be made are in `stubs`.
fn wanted<'p>(
    of: Referring<'p>,
    rows: &[Row],
    documents: &[(CanonicalId, Document)],
    found: &Found,
    stubs: &mut Stubs,
) -> Vec<Wanted<'p>> {
    let mut unresolved: HashMap<u16, Vec<(&Row, &Reference)>> = HashMap::new();
    for row in rows {
        for reference in &row.references {
            let missing = &of.mapping.references[usize::from(reference.plan)].missing;
            let is_created = matches!(missing, MissingPlan::Create(_));
            if is_created && choose(of.mapping, reference, found).field.is_none() {
                unresolved.entry(reference.plan).or_default().push((row, reference));
            }
        }
    }
    if unresolved.is_empty() {
        return Vec::new();
    }
    let documents: HashMap<&CanonicalId, &Document> =
        documents.iter().map(|(id, document)| (id, document)).collect();
    let mut all = Vec::with_capacity(unresolved.len());
    for (place, unresolved) in unresolved {
        let missing = &of.mapping.references[usize::from(place)].missing;
        let (Some(Some(maker)), MissingPlan::Create(plan)) = (of.stubs.get(usize::from(place)), missing)
        else {
            continue;
        };
        let mut wanted = Wanted { place, maker, plan, rows: Vec::new(), of_rows: Vec::new() };
        for (row, reference) in unresolved {
            let Some(document) = documents.get(&row.id) else { continue };
            let of_row = (row.id.clone(), row.element);
            match maker.row(of, &stub_id(&plan.prefix, reference), document, row.element) {
                Ok(stub) => {
                    wanted.of_rows.push((of_row, key_of(&stub.tuple, maker.target.mapping())));
                    wanted.rows.push(stub);
                }
                Err(rejection) => {
                    stubs.insert((place, of_row), Err(NoStub::Refused(rejection)));
                }
            }
        }
        wanted.rows.sort_by(|left, right| left.source_id.cmp(&right.source_id));
        wanted.rows.dedup_by(|left, right| left.source_id == right.source_id);
        all.push(wanted);
    }
    all
}

/// The fields of a stub's key, in the order of its finder.
fn key_of(tuple: &[u8], mapping: &Mapping) -> Vec<u8> {
    let columns = mapping.key.columns.iter().map(|column| column.place);
    let places: Vec<usize> = mapping.key.source().into_iter().chain(columns).collect();
    fields(tuple, &places)
}

/// A tuple of some fields of another.
fn fields(tuple: &[u8], places: &[usize]) -> Vec<u8> {
    let fields: Vec<&[u8]> = CopyFields::of_tuple(tuple).collect();
    let mut some = (places.len() as i16).to_be_bytes().to_vec();
    for place in places {
        some.extend_from_slice(fields.get(*place).copied().unwrap_or_default());
    }
    some
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
pub(super) fn stub_text(id: &CanonicalId) -> String {
    id.source_id(id.id_type().unwrap_or(IdType::String))
}
