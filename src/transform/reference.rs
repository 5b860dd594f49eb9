//! What a reference in a document seeks: the keys of the rows it may mean.

use super::constant;
use super::encode::encode;
use super::fault::Fault;
use super::path::{self, Fields, Found, Path};
use super::row::{field, measured};
use super::walk::{Raw, Value};
use crate::config::{Aim, MatchSpec, ReferenceSpec, Targets};
use crate::domain::{CanonicalId, ColumnType, IdType, Reason, Sought};
use crate::mapping::ReferencePlan;

const ARRAY: u8 = 0x04;
const STRING: u8 = 0x02;

/// A reference made ready to be read from documents.
pub(super) struct Seek {
    /// Which of the mapping's references.
    pub(super) plan: u16,
    aim: SeekAim,
}

enum SeekAim {
    Document {
        from: Vec<Path>,
        strip_prefix: Option<Vec<u8>>,
        targets: SeekTargets,
    },
    /// The document itself.
    Parent,
    Row {
        columns: Vec<(SeekValue, ColumnType)>,
    },
}

enum SeekTargets {
    /// The id type of each finder, in order.
    First(Vec<IdType>),
    By {
        path: Path,
        kinds: Vec<(Vec<u8>, u16, IdType)>,
    },
}

enum SeekValue {
    Path(Path),
    /// A whole field.
    Constant(Vec<u8>),
}

impl Seek {
    /// `None`: the mapping was not linked.
    pub(super) fn new(
        plan: u16,
        spec: &ReferenceSpec,
        compiled: &ReferencePlan,
        fields: &mut Fields,
    ) -> Result<Self, Fault> {
        let id_types = || {
            let targets = compiled.finders.iter().filter_map(|finder| finder.target.as_ref());
            targets.map(|target| target.id_type)
        };
        let aim = match &spec.aim {
            Aim::Document { to, from, strip_prefix } => SeekAim::Document {
                from: from.iter().map(|path| fields.path(path)).collect(),
                strip_prefix: strip_prefix.as_ref().map(|prefix| prefix.as_bytes().to_vec()),
                targets: match to {
                    Targets::First(_) => SeekTargets::First(id_types().collect()),
                    Targets::By { path, map } => SeekTargets::By {
                        path: fields.path(path),
                        kinds: map
                            .iter()
                            .zip(id_types())
                            .enumerate()
                            .map(|(place, ((kind, _), id_type))| {
                                (kind.as_bytes().to_vec(), place as u16, id_type)
                            })
                            .collect(),
                    },
                },
            },
            Aim::Parent => SeekAim::Parent,
            Aim::Row { matches, .. } => {
                let key = compiled.finders.first().map(|finder| finder.key.as_slice()).unwrap_or_default();
                let columns = matches.iter().zip(key).map(|((_, value), column)| {
                    let value = match value {
                        MatchSpec::Path(path) => SeekValue::Path(fields.path(path)),
                        MatchSpec::Constant(scalar) => {
                            let value = constant::encode_scalar(scalar, &[], &column.column_type)?;
                            SeekValue::Constant(field(value.as_deref()))
                        }
                    };
                    Ok((value, column.column_type.clone()))
                });
                SeekAim::Row { columns: columns.collect::<Result<_, Fault>>()? }
            }
        };
        Ok(Self { plan, aim })
    }

    /// In the row of a junction.
    pub(super) fn of_pair(&self, of: &CanonicalId, other: &CanonicalId) -> Vec<(u16, Sought)> {
        let id = match &self.aim {
            SeekAim::Parent => of,
            SeekAim::Document { .. } | SeekAim::Row { .. } => other,
        };
        vec![(0, Sought::Document(id.clone()))]
    }

    /// The rows that may be meant, best first; nothing where the document refers to nothing.
    pub(super) fn choices(
        &self,
        of: &CanonicalId,
        fields: &[Option<Raw<'_>>],
    ) -> Result<Vec<(u16, Sought)>, Fault> {
        match &self.aim {
            SeekAim::Document { from, strip_prefix, targets } => {
                let Found::Present(raw) = path::first(from, fields)? else { return Ok(Vec::new()) };
                let id = id(raw, strip_prefix.as_deref())?;
                let sought = |id_type| Sought::Document(id.as_reference(id_type));
                match targets {
                    SeekTargets::First(id_types) => Ok(id_types
                        .iter()
                        .enumerate()
                        .map(|(place, id_type)| (place as u16, sought(*id_type)))
                        .collect()),
                    SeekTargets::By { path, kinds } => {
                        let Found::Present(kind) = path.follow(fields)? else { return Ok(Vec::new()) };
                        let Value::String(kind) = kind.value()? else {
                            return Err(Fault::wrong_type(
                                "the field that tells what is referred to is no text",
                            ));
                        };
                        let Some((_, place, id_type)) = kinds.iter().find(|(name, ..)| name == kind) else {
                            let message =
                                "the field that tells what is referred to has none of the values of map";
                            return Err(Fault::new(Reason::UnknownEnumLabel, message));
                        };
                        Ok(vec![(*place, sought(*id_type))])
                    }
                }
            }
            SeekAim::Parent => Ok(vec![(0, Sought::Document(of.clone()))]),
            SeekAim::Row { columns } => {
                let mut tuple = (columns.len() as i16).to_be_bytes().to_vec();
                for (value, column_type) in columns {
                    match value {
                        SeekValue::Constant(field) => tuple.extend_from_slice(field),
                        SeekValue::Path(path) => {
                            let Found::Present(raw) = path.follow(fields)? else { return Ok(Vec::new()) };
                            let value = raw.value()?;
                            measured(&mut tuple, |tuple| encode(&value, column_type, tuple))?;
                        }
                    }
                }
                Ok(vec![(0, Sought::Row(tuple))])
            }
        }
    }
}

fn id(raw: Raw<'_>, strip_prefix: Option<&[u8]>) -> Result<CanonicalId, Fault> {
    if raw.element_type == ARRAY {
        return Err(Fault::wrong_type("an array is no id"));
    }
    if let (Some(prefix), Value::String(text)) = (strip_prefix, raw.value()?)
        && let Some(rest) = text.strip_prefix(prefix)
    {
        let mut value = (rest.len() as u32 + 1).to_le_bytes().to_vec();
        value.extend_from_slice(rest);
        value.push(0);
        return Ok(CanonicalId::from_value(STRING, &value));
    }
    Ok(CanonicalId::from_value(raw.element_type, raw.bytes))
}
