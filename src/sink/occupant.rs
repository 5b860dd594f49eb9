//! Whose row has the value for which another one was refused.

use sqlx::PgConnection;

use super::catalog;
use super::error::Error;
use super::{Target, find};
use crate::config::KeySpec;
use crate::domain::{CopyFields, Reason, Rejection, Row, UniqueKey};
use crate::mapping::{Finder, Mapping, SoughtColumn};

/// Told once for each row, however many values it collides in.
const TOLD: &str = ", which the row of ";

/// Adds to each reason the `source_id` of the row that is in the way, where rows tell theirs.
pub(super) async fn name_occupants(
    conn: &mut PgConnection,
    target: &Target,
    refused: &mut [(&Row, Rejection)],
) -> Result<(), Error> {
    let mapping = &target.mapping;
    let KeySpec::SourceId { source_id, .. } = &mapping.key.spec else { return Ok(()) };
    if refused.iter().all(|(_, rejection)| rejection.reason != Reason::UniqueViolation) {
        return Ok(());
    }
    let Some(owner) = mapping.columns.iter().find(|column| column.name == *source_id) else { return Ok(()) };
    let Some(table) = catalog::read_table(conn, &mapping.table).await? else { return Ok(()) };
    for unique in &table.unique_keys {
        let Some(places) = places(mapping, unique) else { continue };
        let finder = Finder {
            key: places.iter().map(|place| SoughtColumn::from(&mapping.columns[*place])).collect(),
            ..Finder::of_column(mapping, SoughtColumn::from(owner))
        };
        let colliding = refused.iter_mut().filter(|(_, rejection)| {
            rejection.reason == Reason::UniqueViolation && !rejection.message.contains(TOLD)
        });
        let mut sought = Vec::new();
        for (row, rejection) in colliding {
            sought.extend(values(row, &places).map(|values| (values, row, rejection)));
        }
        let keys: Vec<&[u8]> = sought.iter().map(|(values, _, _)| values.as_slice()).collect();
        let found = find::find(conn, &finder, &keys).await?;
        for ((_, row, rejection), field) in sought.into_iter().zip(found) {
            let owner = field.as_deref().and_then(|field| std::str::from_utf8(field.get(4..)?).ok());
            if let Some(owner) = owner.filter(|owner| !owner.is_empty() && *owner != row.source_id) {
                rejection.message.push_str(&format!("{TOLD}{owner} has"));
            }
        }
    }
    Ok(())
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
