//! Sequences stay ahead of the values that are written, so that what the application inserts next does not
//! collide with them.
//!
//! A sequence only ever moves upwards, and is not rolled back with the transaction, which does no harm. The
//! application takes values meanwhile. A short way is gone by `nextval`, which cannot go back behind it; only a
//! long one by `setval`, and for that to do harm the application would have to take `FAR` values between the
//! look at the sequence and the jump within one statement.

use sqlx::PgConnection;

use super::error::Error;
use super::{Target, statement};
use crate::domain::{CopyFields, Row, Sequence};

/// The greatest values that were seen in one session, by place of the column.
pub type Greatest = std::collections::HashMap<usize, i64>;

/// Moves the sequences of the target's columns past the values of these rows.
pub async fn keep_sequences<'r>(
    conn: &mut PgConnection,
    target: &Target,
    rows: impl Iterator<Item = &'r Row> + Clone,
    seen: &mut Greatest,
) -> Result<(), Error> {
    for (place, plan) in target.mapping.columns.iter().enumerate() {
        let Some(sequence) = &plan.sequence else { continue };
        let values = rows.clone().filter_map(|row| number(CopyFields::of_tuple(&row.tuple).nth(place)?));
        let Some(greatest) = values.max() else { continue };
        if seen.get(&place).is_some_and(|seen| *seen >= greatest) {
            continue;
        }
        advance(conn, target, sequence, greatest).await?;
        seen.insert(place, greatest);
    }
    Ok(())
}

async fn advance(
    conn: &mut PgConnection,
    target: &Target,
    sequence: &Sequence,
    to: i64,
) -> Result<(), Error> {
    sqlx::query(statement::advance(sequence))
        .bind(to)
        .execute(conn)
        .await
        .map_err(|source| Error::from_sqlx(&target.mapping.table, "move a sequence on", source))?;
    Ok(())
}

/// A whole number of a COPY field.
fn number(field: &[u8]) -> Option<i64> {
    match field.get(4..)? {
        bytes @ [_, _] => Some(i64::from(i16::from_be_bytes(bytes.try_into().ok()?))),
        bytes @ [_, _, _, _] => Some(i64::from(i32::from_be_bytes(bytes.try_into().ok()?))),
        bytes => Some(i64::from_be_bytes(bytes.try_into().ok()?)),
    }
}
