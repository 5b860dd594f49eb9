//! Elements of a document become rows of another table.

use std::fmt;
use std::sync::Arc;

use super::{Counted, Input, Made, Pair, Row, Transformer};
use crate::config::{ChildFrom, ElementError, NotArray, ValueSpec};
use crate::domain::{
    CanonicalId, ClusterTime, Coercion, Document, Reference, Rejection, Side, Sought, Tuples,
};
use crate::mapping::{ChildPlan, Mapping, Problem};
use crate::transform::expression::Inside;
use crate::transform::fault::Fault;
use crate::transform::path::{Fields, Found, Path};
use crate::transform::walk::{ARRAY, DOCUMENT, Elements, Raw};

/// Turns what stands at one path of a document into rows of a child table. Where ids of other rows belong they
/// have holes, that of the document's own row among them.
pub struct ChildTransformer {
    transformer: Transformer,
    plan: ChildPlan,
    /// Of the document.
    fields: Fields,
    path: Path,
    makes_ids: bool,
}

/// Whose element it is.
#[derive(Clone, Copy)]
struct Owner<'a> {
    id: &'a CanonicalId,
    source_id: &'a str,
    document: &'a [u8],
    time: Option<ClusterTime>,
}

impl ChildTransformer {
    /// # Errors
    /// Constants and defaults that cannot fit their column, all at once.
    pub fn new(plan: &ChildPlan, namespace: uuid::Uuid) -> Result<Self, Vec<Problem>> {
        let transformer = Transformer::new(Arc::new(plan.mapping.clone()), namespace)?;
        let mut fields = Fields::default();
        let path = match &plan.from {
            ChildFrom::Each { path, .. } | ChildFrom::Object { path } => fields.path(path),
        };
        let is_made = |value: &ValueSpec| matches!(value, ValueSpec::KeyUuid | ValueSpec::KeyPrefixed(_));
        let makes_ids = plan.mapping.columns.iter().any(|column| is_made(&column.value));
        Ok(Self { transformer, plan: plan.clone(), fields, path, makes_ids })
    }

    /// Of the child table.
    pub fn mapping(&self) -> &Arc<Mapping> {
        self.transformer.mapping()
    }

    pub fn plan(&self) -> &ChildPlan {
        &self.plan
    }

    /// Appends the rows of a document; how many elements were left out because they cannot become a row.
    pub fn rows(
        &self,
        id: &CanonicalId,
        document: &Document,
        time: Option<ClusterTime>,
        tuples: &mut Tuples,
        rows: &mut Vec<Row>,
    ) -> Result<u64, Rejection> {
        let before = rows.len();
        let source_id = id.source_id(self.plan.mapping.id_type);
        let owner = Owner { id, source_id: &source_id, document: document.as_bytes(), time };
        let (elements, mut left_out) =
            self.elements(owner.document).map_err(|fault| self.told(fault.in_column(None)))?;
        for (index, element) in elements.into_iter().enumerate() {
            let made = self.row(&self.transformer, owner, (index, element), tuples);
            match (made, self.plan.on_error) {
                (Ok(row), _) => rows.push(row),
                (Err(_), ElementError::Drop) => left_out += 1,
                (Err(rejection), ElementError::Hold) => {
                    rows.truncate(before);
                    return Err(self.told(rejection));
                }
            }
        }
        Ok(left_out)
    }

    /// The row of a junction for a document and one of the other side, whichever lists the other.
    pub fn pair(&self, id: &CanonicalId, other: &CanonicalId, tuples: &mut Tuples) -> Result<Row, Rejection> {
        let Some((junction, target)) = self.plan.other_side() else {
            return Err(Fault::malformed().in_column(None));
        };
        // Made ids are the left side's, so that both sides make the same.
        let (own_type, own_source) = (self.plan.mapping.id_type, self.plan.mapping.source.as_str());
        let (left, right, source) = match junction.side {
            Side::Left => (id.source_id(own_type), other, own_source),
            Side::Right => (other.source_id(target.id_type), id, target.source.as_str()),
        };
        // As `identity` has it: the reference is null so far, and known by what it is looked for with.
        let element = [&(-1_i32).to_be_bytes(), right.as_bytes()].concat();
        let input = Input {
            id,
            source_id: &left,
            document: &[],
            fields: &[],
            given: &[],
            time: None,
            transformer: &self.transformer,
            element: Some(&element),
            inside: None,
            pair: Some(Pair { other, source }),
        };
        let (tuple, (coercions, references)) =
            tuples.tuple(|tuple| self.transformer.append(&input, tuple))?;
        let (id, source_id) = (id.clone(), id.source_id(own_type));
        Ok(Row { id, source_id, tuple, coercions, references, element: 0, collected: None })
    }

    /// The row of a stub that one of a document's elements refers to.
    pub fn stub(
        &self,
        stub: &Transformer,
        source_id: &str,
        document: &Document,
        element: u32,
    ) -> Result<Row, Rejection> {
        let (elements, _) = self.elements(document.as_bytes()).map_err(|fault| fault.in_column(None))?;
        let found = elements.into_iter().enumerate().nth(element as usize);
        let Some(found) = found else { return Err(Fault::malformed().in_column(None)) };
        let id = CanonicalId::from_bson(&bson::Bson::String(source_id.to_owned()));
        let owner = Owner { id: &id, source_id, document: document.as_bytes(), time: None };
        self.row(stub, owner, found, &mut Tuples::default())
    }

    /// With the table before it, since the columns are not those of the document's own row.
    fn told(&self, rejection: Rejection) -> Rejection {
        let message = format!("table {}: {}", self.plan.mapping.table, rejection.message);
        Rejection { message, ..rejection }
    }

    /// What becomes rows, and how many values were left out because they are none.
    fn elements<'a>(&self, document: &'a [u8]) -> Result<(Vec<Raw<'a>>, u64), Fault> {
        let fields = self.fields.find(document)?;
        let Found::Present(raw) = self.path.follow(&fields)? else { return Ok((Vec::new(), 0)) };
        match &self.plan.from {
            ChildFrom::Each { .. } if raw.element_type == ARRAY => {
                let elements: Result<Vec<Raw<'a>>, Fault> =
                    Elements::new(raw.bytes)?.map(|element| element.map(|(_, raw)| raw)).collect();
                Ok((elements?, 0))
            }
            ChildFrom::Each { path, not_array } => match not_array {
                NotArray::Hold => {
                    let found = raw.value()?.type_name();
                    Err(Fault::wrong_type(format!(
                        "{path} is no array but of type {found}; not_array: single or drop takes it"
                    )))
                }
                NotArray::Drop => Ok((Vec::new(), 1)),
                NotArray::Single => Ok((vec![raw], 0)),
            },
            ChildFrom::Object { .. } if raw.element_type == DOCUMENT => {
                let is_empty = Elements::new(raw.bytes)?.next().is_none();
                Ok((if is_empty { Vec::new() } else { vec![raw] }, 0))
            }
            ChildFrom::Object { path } => match self.plan.on_error {
                ElementError::Hold => {
                    let found = raw.value()?.type_name();
                    Err(Fault::wrong_type(format!("{path} is no object but of type {found}")))
                }
                ElementError::Drop => Ok((Vec::new(), 1)),
            },
        }
    }

    fn row(
        &self,
        transformer: &Transformer,
        owner: Owner<'_>,
        (index, element): (usize, Raw<'_>),
        tuples: &mut Tuples,
    ) -> Result<Row, Rejection> {
        let Owner { id, source_id, document, time } = owner;
        let place = (index as i32).to_le_bytes();
        let fields = transformer.fields.of_element(element, &place, document);
        let input = Input {
            id,
            source_id,
            document,
            fields: &fields,
            given: &[],
            time,
            transformer,
            element: None,
            inside: Some(Inside { element, index }),
            pair: None,
        };
        let is_own = std::ptr::eq(transformer, &self.transformer);
        let identity = match self.makes_ids && is_own {
            true => Some(self.identity(&input, place)?),
            false => None,
        };
        let input = Input { element: identity.as_deref(), ..input };
        let (tuple, (coercions, references)) = tuples.tuple(|tuple| transformer.append(&input, tuple))?;
        let (id, source_id) = (id.clone(), source_id.to_owned());
        let element = index as u32;
        Ok(Row { id, source_id, tuple, coercions, references, element, collected: None })
    }

    /// What tells the element from the others of its document: its values in the key, or else its place.
    fn identity(&self, input: &Input<'_>, place: [u8; 4]) -> Result<Vec<u8>, Rejection> {
        if self.plan.identity.is_empty() {
            return Ok(match &self.plan.from {
                ChildFrom::Each { .. } => place.to_vec(),
                ChildFrom::Object { .. } => Vec::new(),
            });
        }
        let mut identity = Vec::new();
        for place in &self.plan.identity {
            let (column, plan) = (&self.transformer.columns[*place], &self.plan.mapping.columns[*place]);
            let mut coercions: Vec<Coercion> = Vec::new();
            let mut references: Vec<Reference> = Vec::new();
            let counted = Counted { column: *place as u16, into: &mut coercions };
            let mut made = Made { counted, references: &mut references };
            column
                .append(plan, input, &mut identity, &mut made)
                .map_err(|fault| fault.in_column(Some(&plan.name)))?;
            // What is referred to is known by what it is looked for with.
            match references.first().and_then(|reference| reference.choices.first()) {
                Some((_, Sought::Document(id))) => identity.extend_from_slice(id.as_bytes()),
                Some((_, Sought::Row(tuple))) => identity.extend_from_slice(tuple),
                None => {}
            }
        }
        Ok(identity)
    }
}

impl fmt::Debug for ChildTransformer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChildTransformer").field("table", &self.plan.mapping.table).finish_non_exhaustive()
    }
}
