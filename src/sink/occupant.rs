//! Whose row has the value for which another one was refused, and whether it still has.

use sqlx::PgConnection;

use super::catalog;
use super::error::Error;
use super::{Target, find};
use crate::config::KeySpec;
use crate::domain::{CanonicalId, Collision, CopyFields, Reason, Rejection, Row, RowKey, UniqueKey};
use crate::mapping::{Finder, Mapping, SoughtColumn};

/// Says for each row that collides with another one which that is, and adds it to the reason where rows tell
/// their `source_id`. Of several only the first: the next is met when that is out of the way.
pub(super) async fn name_occupants(
    conn: &mut PgConnection,
    target: &Target,
    refused: &mut [(&Row, Rejection)],
) -> Result<Vec<(CanonicalId, Collision)>, Error> {
    let mapping = &target.mapping;
    let mut collisions = Vec::new();
    let mut colliding: Vec<&mut (&Row, Rejection)> =
        refused.iter_mut().filter(|(_, rejection)| rejection.reason == Reason::UniqueViolation).collect();
    if colliding.is_empty() {
        return Ok(collisions);
    }
    let Some(table) = catalog::read_table(conn, &mapping.table).await? else { return Ok(collisions) };
    for unique in &table.unique_keys {
        let Some(places) = places(mapping, unique) else { continue };
        let sought: Vec<Option<Vec<u8>>> = colliding.iter().map(|(row, _)| values(row, &places)).collect();
        let occupants = occupants(conn, mapping, &places, &sought).await?;
        let mut others = Vec::new();
        for ((refused, value), occupant) in colliding.into_iter().zip(sought).zip(occupants) {
            let (row, rejection) = &mut *refused;
            match (value, occupant) {
                (Some(value), Some(Occupant { key: Some(key), source }))
                    if !is_own(&key, source.as_deref(), mapping, row) =>
                {
                    let of = source.filter(|source| *source != mapping.source);
                    if let KeySpec::SourceId { .. } = mapping.key.spec
                        && let Some(owner) = key.text()
                    {
                        let of = of.map(|source| format!("{owner} of mapping {source}"));
                        rejection.message.push_str(&Collision::told(of.as_deref().unwrap_or(owner)));
                    }
                    let columns = unique.columns.clone();
                    collisions.push((row.id.clone(), Collision { columns, value, occupant: key }));
                }
                (_, _) => others.push(refused),
            }
        }
        colliding = others;
    }
    Ok(collisions)
}

/// Who has a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    Nobody,
    Row(RowKey),
    /// A row that does not say whose it is.
    Unowned,
}

/// Who has these values, tuples of these columns, by place.
pub async fn holders(
    conn: &mut PgConnection,
    mapping: &Mapping,
    columns: &[String],
    values: &[Vec<u8>],
) -> Result<Vec<Holder>, Error> {
    let place = |name: &String| mapping.columns.iter().position(|column| column.name == *name);
    let places: Option<Vec<usize>> = columns.iter().map(place).collect();
    let Some(places) = places else {
        // The mapping is another one now: whoever waits finds out.
        return Ok(vec![Holder::Nobody; values.len()]);
    };
    let sought: Vec<Option<Vec<u8>>> = values.iter().cloned().map(Some).collect();
    let found = occupants(conn, mapping, &places, &sought).await?;
    let holder = |occupant: Option<Occupant>| match occupant {
        None => Holder::Nobody,
        Some(Occupant { key: Some(key), .. }) => Holder::Row(key),
        Some(Occupant { key: None, .. }) => Holder::Unowned,
    };
    Ok(found.into_iter().map(holder).collect())
}

/// A row that has what was sought.
struct Occupant {
    key: Option<RowKey>,
    /// Where rows say it.
    source: Option<String>,
}

fn is_own(key: &RowKey, source: Option<&str>, mapping: &Mapping, row: &Row) -> bool {
    source.is_none_or(|source| *source == mapping.source)
        && mapping.key.row_key(&row.tuple).as_ref() == Ok(key)
}

/// By place; `None` where no row has the value.
async fn occupants(
    conn: &mut PgConnection,
    mapping: &Mapping,
    places: &[usize],
    sought: &[Option<Vec<u8>>],
) -> Result<Vec<Option<Occupant>>, Error> {
    let mut found: Vec<Option<Occupant>> = sought.iter().map(|_| None).collect();
    let asked: Vec<(usize, &[u8])> =
        sought.iter().enumerate().filter_map(|(place, value)| Some((place, value.as_deref()?))).collect();
    let values: Vec<&[u8]> = asked.iter().map(|(_, value)| *value).collect();
    let Some(key) = mapping.key.columns.first() else { return Ok(found) };
    if mapping.key.is_claimed() {
        let finder = finder(mapping, places, key.place);
        for candidate in find::candidates(conn, &finder, &[mapping], &values).await? {
            let key = candidate.keys.into_iter().next().flatten();
            found[asked[candidate.place].0] = Some(Occupant { key, source: None });
        }
        return Ok(found);
    }
    let owners = find::find(conn, &finder(mapping, places, key.place), &values).await?;
    let sources = match mapping.key.source() {
        Some(source) => find::find(conn, &finder(mapping, places, source), &values).await?,
        None => vec![None; values.len()],
    };
    let text = |mut field: Vec<u8>| String::from_utf8(field.split_off(4)).ok();
    for (((place, _), owner), source) in asked.into_iter().zip(owners).zip(sources) {
        found[place] = owner.map(|owner| {
            let owner = text(owner).filter(|owner| !owner.is_empty());
            Occupant { key: owner.map(|owner| RowKey::of_text(&owner)), source: source.and_then(text) }
        });
    }
    Ok(found)
}

/// What rows with certain values in these columns have in that one.
fn finder(mapping: &Mapping, places: &[usize], take: usize) -> Finder {
    let column = |place: usize| SoughtColumn::from(&mapping.columns[place]);
    let key = places.iter().map(|place| column(*place)).collect();
    Finder { key, ..Finder::of_column(mapping, column(take)) }
}

/// Where its columns stand, if it holds for all rows and the mapping writes all of them.
fn places(mapping: &Mapping, unique: &UniqueKey) -> Option<Vec<usize>> {
    if unique.partial_or_expression || unique.columns.is_empty() {
        return None;
    }
    let place = |name: &String| mapping.columns.iter().position(|column| column.name == *name);
    unique.columns.iter().map(place).collect()
}

/// As a tuple; `None` with a null among them, which collides with nothing.
fn values(row: &Row, places: &[usize]) -> Option<Vec<u8>> {
    let fields: Vec<&[u8]> = CopyFields::of_tuple(&row.tuple).collect();
    let mut values = (places.len() as i16).to_be_bytes().to_vec();
    for place in places {
        let field = fields.get(*place)?;
        if field.len() <= 4 && field.starts_with(&(-1_i32).to_be_bytes()) {
            return None;
        }
        values.extend_from_slice(field);
    }
    Some(values)
}
