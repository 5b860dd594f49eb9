//! Fills the references of rows: with what was found, or as the rule for what is missing says.

use super::find::{Finding, Found, choose};
use super::stub::{NoStub, Stubs, stub_text};
use super::{Referring, Settling};
use crate::domain::{CanonicalId, Coercion, Document, Reason, Reference, Rejection, Row, Sought};
use crate::mapping::{Finder, MissingPlan};
use crate::pipeline::Error;
use crate::pipeline::prepare::Refused;
use crate::state::wait::Wait;
use crate::transform::array_literal;

/// What came of the references of some rows.
#[derive(Debug, Default)]
pub struct Settled {
    /// Documents that wait with everything for a row that is not there.
    pub refused: Vec<Refused>,
    /// Every choice that is not there and comes before the one that was taken.
    pub waits: Vec<Wait>,
    /// Elements that have no row until what they refer to is there.
    pub left_out: Vec<LeftOut>,
    /// Documents to be read again as soon as this is committed: what they look up leaves, and until it has left
    /// nothing can be made in its place.
    pub again: Vec<CanonicalId>,
}

/// An element that has no row, for `missing: drop`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    pub id: CanonicalId,
    /// As [`Row::element`].
    pub element: u32,
    /// Index into the columns of its table.
    pub column: usize,
}

/// Why a reference has no value.
enum NoField {
    Hold(Rejection),
    Drop,
}

impl Settling<'_> {
    /// Fills the references of these rows. A row that must wait leaves `rows` and is refused; one that is left
    /// out until then leaves `rows` as well.
    pub(in crate::pipeline) async fn fill(
        &mut self,
        of: Referring<'_>,
        rows: &mut Vec<Row>,
        documents: &[(CanonicalId, Document)],
    ) -> Result<Settled, Error> {
        if rows.iter().all(|row| row.references.is_empty()) {
            return Ok(Settled::default());
        }
        let found = self.finding().find(of, rows).await?;
        let users = self.users_of_stubs(of, rows, &found).await?;
        let stubs = self.make_stubs(of, rows, documents, &found).await?;
        let mut settled = fill(of, rows, &found, &stubs);
        settled.waits.extend(users);
        Ok(settled)
    }
}

impl Finding<'_> {
    /// Fills the references of these rows as [`Settling`] does, but a row that `missing: create` asks for is only
    /// looked for. Which rule was followed where stands in the rows' coercions and in what is returned.
    pub async fn fill(
        &mut self,
        of: Referring<'_>,
        rows: &mut Vec<Row>,
        documents: &[(CanonicalId, Document)],
    ) -> Result<Settled, Error> {
        if rows.iter().all(|row| row.references.is_empty()) {
            return Ok(Settled::default());
        }
        let found = self.find(of, rows).await?;
        let stubs = self.stubs(of, rows, documents, &found).await?;
        Ok(fill(of, rows, &found, &stubs))
    }
}

fn fill(of: Referring<'_>, rows: &mut Vec<Row>, found: &Found, stubs: &Stubs) -> Settled {
    let mut settled = Settled::default();
    let mapping = of.mapping;
    rows.retain_mut(|row| {
        let references = std::mem::take(&mut row.references);
        // From the last to the first: what is filled in moves what stands behind it.
        let mut rest = references.as_slice();
        while let Some(reference) = rest.last() {
            let group = match reference.in_array {
                true => rest.iter().rev().take_while(|other| other.offset == reference.offset).count(),
                false => 1,
            };
            let (before, elements) = rest.split_at(rest.len() - group);
            rest = before;
            let Settled { waits, again, .. } = &mut settled;
            let mut filling = Filling { of, found, stubs, waits, again };
            let field = match reference.in_array {
                true => filling.array(row, elements),
                false => filling.field(row, reference),
            };
            match field {
                Ok(field) => fill_in(row, reference.offset, &field),
                Err(NoField::Hold(rejection)) => {
                    settled.refused.push(Refused { id: row.id.clone(), rejection });
                    return false;
                }
                Err(NoField::Drop) => {
                    let column = mapping.references[usize::from(reference.plan)].column;
                    settled.left_out.push(LeftOut { id: row.id.clone(), element: row.element, column });
                    return false;
                }
            }
        }
        true
    });
    settled
}

/// What the references of rows are filled from.
struct Filling<'a> {
    of: Referring<'a>,
    found: &'a Found,
    stubs: &'a Stubs,
    waits: &'a mut Vec<Wait>,
    again: &'a mut Vec<CanonicalId>,
}

impl Filling<'_> {
    fn field(&mut self, row: &mut Row, reference: &Reference) -> Result<Vec<u8>, NoField> {
        let choice = choose(self.of.mapping, reference, self.found);
        self.waits.extend(choice.unresolved.into_iter().map(|(awaited, key)| Wait {
            source_id: row.source_id.clone(),
            id: row.id.clone(),
            awaited,
            key,
            stub: None,
        }));
        match choice.field {
            Some(field) => field.map_err(NoField::Hold),
            None => self.missing(row, reference),
        }
    }

    /// All elements that one column refers with; those that are dropped are counted.
    fn array(&mut self, row: &mut Row, elements: &[Reference]) -> Result<Vec<u8>, NoField> {
        let Some(plan) =
            elements.first().and_then(|first| self.of.mapping.references.get(usize::from(first.plan)))
        else {
            return Err(NoField::Drop);
        };
        let mut fields: Vec<Option<Vec<u8>>> = Vec::with_capacity(elements.len());
        for reference in elements {
            if reference.choices.is_empty() {
                fields.push(None);
                continue;
            }
            match self.field(row, reference) {
                // Length and bytes; a null has no bytes.
                Ok(field) => fields.push(field.get(4..).filter(|_| !is_null(&field)).map(<[u8]>::to_vec)),
                Err(NoField::Drop) => {
                    row.coercions.push(Coercion { column: plan.column as u16, rule: "missing_drop" });
                }
                Err(hold) => return Err(hold),
            }
        }
        let element = plan.element.as_ref().unwrap_or(&self.of.mapping.columns[plan.column].column_type);
        let literal = array_literal(fields.iter().map(Option::as_deref), element);
        let mut field = (literal.len() as i32).to_be_bytes().to_vec();
        field.extend_from_slice(&literal);
        Ok(field)
    }

    /// What stands in for a row that is not there, by the reference's rule.
    fn missing(&mut self, row: &mut Row, reference: &Reference) -> Result<Vec<u8>, NoField> {
        let mapping = self.of.mapping;
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
                Ok(null())
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
            MissingPlan::Create(_) => {
                match self.stubs.get(&(reference.plan, (row.id.clone(), row.element))) {
                    Some(Ok((field, key))) => {
                        row.coercions.push(coerced("missing_create"));
                        for wait in self.waits.iter_mut().filter(|wait| wait.source_id == row.source_id) {
                            let of_this =
                                compiled.finders.iter().any(|finder| finder.awaited == wait.awaited);
                            if of_this {
                                wait.stub = Some(key.clone());
                            }
                        }
                        Ok(field.clone())
                    }
                    Some(Err(NoStub::Refused(rejection))) => {
                        Err(NoField::Hold(Rejection { column: column(), ..rejection.clone() }))
                    }
                    Some(Err(NoStub::Leaving)) => {
                        self.again.push(row.id.clone());
                        if self.of.child.is_some() {
                            return Err(NoField::Drop);
                        }
                        if !mapping.columns[compiled.column].not_null {
                            row.coercions.push(coerced("missing_null"));
                            return Ok(null());
                        }
                        Err(hold(column(), "refers to a row whose document leaves".to_owned()))
                    }
                    None => Err(hold(column(), "refers to a row that is not there yet".to_owned())),
                }
            }
        }
    }
}

fn null() -> Vec<u8> {
    (-1_i32).to_be_bytes().to_vec()
}

pub(super) fn is_null(field: &[u8]) -> bool {
    field.starts_with(&(-1_i32).to_be_bytes())
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
