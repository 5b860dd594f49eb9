//! Rows turned into columns: one binary array per column, made from the fields as they are, since an
//! array's elements and a COPY tuple's fields have the same form (i32 length, bytes; -1 is null).

use sqlx::encode::{Encode, IsNull};
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgArguments, PgTypeInfo};
use sqlx::{Arguments, Postgres, Type};

use super::error::MalformedTuple;
use super::statement::WireType;
use crate::domain::{CopyFields, Row, RowKey};

/// Dimensions, a null flag, element type, length, lower bound: the head of a one-dimensional array.
const HEAD: usize = 20;
const LENGTH: usize = 4;

/// One array per column, of tuples that have these types.
pub(super) fn arguments<'t>(
    types: &[WireType],
    tuples: impl ExactSizeIterator<Item = &'t [u8]>,
) -> Result<PgArguments, MalformedTuple> {
    let mut arguments = PgArguments::default();
    add_tuples(&mut arguments, types, tuples)?;
    Ok(arguments)
}

/// Adds one array per column of these tuples.
pub(super) fn add_tuples<'t>(
    arguments: &mut PgArguments,
    types: &[WireType],
    tuples: impl ExactSizeIterator<Item = &'t [u8]>,
) -> Result<(), MalformedTuple> {
    let mut columns: Vec<Vec<u8>> = types.iter().map(|wire| head(*wire, tuples.len())).collect();
    for tuple in tuples {
        append(&mut columns, tuple)?;
    }
    add_arrays(arguments, types, columns)
}

/// Adds one array per column of the key.
pub(super) fn add_keys<'k>(
    arguments: &mut PgArguments,
    types: &[WireType],
    keys: impl ExactSizeIterator<Item = &'k RowKey>,
) -> Result<(), MalformedTuple> {
    let mut columns: Vec<Vec<u8>> = types.iter().map(|wire| head(*wire, keys.len())).collect();
    for key in keys {
        let mut fields = key.fields();
        for column in &mut columns {
            column.extend_from_slice(fields.next().ok_or(MalformedTuple)?);
        }
    }
    add_arrays(arguments, types, columns)
}

/// Adds one array for each of these places of the rows.
pub(super) fn add_values(
    arguments: &mut PgArguments,
    types: &[WireType],
    places: &[usize],
    rows: &[&Row],
) -> Result<(), MalformedTuple> {
    let types: Vec<WireType> = places.iter().map(|place| types[*place]).collect();
    let mut columns: Vec<Vec<u8>> = types.iter().map(|wire| head(*wire, rows.len())).collect();
    for row in rows {
        let fields: Vec<&[u8]> = CopyFields::of_tuple(&row.tuple).collect();
        for (column, place) in columns.iter_mut().zip(places) {
            column.extend_from_slice(fields.get(*place).ok_or(MalformedTuple)?);
        }
    }
    add_arrays(arguments, &types, columns)
}

fn add_arrays(
    arguments: &mut PgArguments,
    types: &[WireType],
    columns: Vec<Vec<u8>>,
) -> Result<(), MalformedTuple> {
    for (wire, bytes) in types.iter().zip(columns) {
        arguments.add(Array { bytes, oid: wire.array }).map_err(|_| MalformedTuple)?;
    }
    Ok(())
}

fn head(wire: WireType, rows: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD + rows * 2 * LENGTH);
    bytes.extend_from_slice(&1_i32.to_be_bytes());
    bytes.extend_from_slice(&1_i32.to_be_bytes());
    bytes.extend_from_slice(&wire.element.to_be_bytes());
    bytes.extend_from_slice(&(rows as i32).to_be_bytes());
    bytes.extend_from_slice(&1_i32.to_be_bytes());
    bytes
}

fn append(columns: &mut [Vec<u8>], tuple: &[u8]) -> Result<(), MalformedTuple> {
    let (count, mut rest) = tuple.split_first_chunk::<2>().ok_or(MalformedTuple)?;
    if usize::try_from(i16::from_be_bytes(*count)) != Ok(columns.len()) {
        return Err(MalformedTuple);
    }
    for column in columns {
        let length = i32::from_be_bytes(*rest.first_chunk().ok_or(MalformedTuple)?);
        // A null has a length of -1 and no bytes.
        let end = LENGTH + usize::try_from(length).unwrap_or(0);
        let (field, after) = rest.split_at_checked(end).ok_or(MalformedTuple)?;
        column.extend_from_slice(field);
        rest = after;
    }
    if rest.is_empty() { Ok(()) } else { Err(MalformedTuple) }
}

/// Bytes that are already a binary array of the type with this oid.
struct Array {
    bytes: Vec<u8>,
    oid: u32,
}

impl Type<Postgres> for Array {
    /// Never asked for: each value says what it is in `produces`.
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(0))
    }
}

impl Encode<'_, Postgres> for Array {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.extend_from_slice(&self.bytes);
        Ok(IsNull::No)
    }

    fn produces(&self) -> Option<PgTypeInfo> {
        Some(PgTypeInfo::with_oid(Oid(self.oid)))
    }

    fn size_hint(&self) -> usize {
        self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tuple_is_spread_over_its_columns() {
        let mut columns = vec![Vec::new(), Vec::new()];
        append(&mut columns, &[0, 2, 0, 0, 0, 1, 7, 255, 255, 255, 255]).expect("a whole tuple");
        assert_eq!(columns, [vec![0, 0, 0, 1, 7], vec![255; 4]]);
    }

    #[test]
    fn a_tuple_that_is_cut_or_too_long_is_refused() {
        let whole = [0, 1, 0, 0, 0, 1, 7];
        for length in 0..whole.len() {
            assert!(append(&mut [Vec::new()], &whole[..length]).is_err(), "{length} bytes");
        }
        assert!(append(&mut [Vec::new()], &[0, 1, 0, 0, 0, 1, 7, 8]).is_err());
        assert!(append(&mut [Vec::new(), Vec::new()], &whole).is_err());
    }
}
