//! Rows turned into columns: one binary array per column, made from the fields as they are, since an
//! array's elements and a COPY tuple's fields have the same form (i32 length, bytes; -1 is null).
//!
//! They are written into the statement's own memory, column by column: thousands of rows are megabytes, and to gather
//! each column first would copy all of it twice, into memory that is new to the process each time.

use std::cell::RefCell;

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
    let mut bytes = 0;
    let mut rest = Vec::with_capacity(tuples.len());
    for tuple in tuples {
        let count = i16::from_be_bytes(*tuple.first_chunk().ok_or(MalformedTuple)?);
        if usize::try_from(count) != Ok(types.len()) {
            return Err(MalformedTuple);
        }
        bytes += tuple.len();
        rest.push(CopyFields::of_tuple(tuple));
    }
    add_fields(arguments, types, rest, bytes)
}

/// Adds one array per column of the key.
pub(super) fn add_keys<'k>(
    arguments: &mut PgArguments,
    types: &[WireType],
    keys: impl ExactSizeIterator<Item = &'k RowKey>,
) -> Result<(), MalformedTuple> {
    let mut bytes = 0;
    let fields = |key: &'k RowKey| {
        bytes += key.as_bytes().len();
        key.fields()
    };
    let rest = keys.map(fields).collect();
    add_fields(arguments, types, rest, bytes)
}

/// Adds one array for each of these places of the rows.
pub(super) fn add_values(
    arguments: &mut PgArguments,
    types: &[WireType],
    places: &[usize],
    rows: &[&Row],
) -> Result<(), MalformedTuple> {
    for place in places {
        let field = |row: usize| CopyFields::of_tuple(&rows[row].tuple).nth(*place);
        add_array(arguments, types[*place], rows.len(), field)?;
    }
    Ok(())
}

/// Adds one array of the first fields, one of the second, and so on until there are none. `bytes`: of all of them.
fn add_fields(
    arguments: &mut PgArguments,
    types: &[WireType],
    mut rest: Vec<CopyFields<'_>>,
    bytes: usize,
) -> Result<(), MalformedTuple> {
    arguments.reserve(types.len(), bytes + types.len() * (LENGTH + HEAD));
    for wire in types {
        add_array(arguments, *wire, rest.len(), |row| rest[row].next())?;
    }
    if rest.iter().all(CopyFields::is_at_end) { Ok(()) } else { Err(MalformedTuple) }
}

fn add_array<'f>(
    arguments: &mut PgArguments,
    wire: WireType,
    rows: usize,
    field: impl FnMut(usize) -> Option<&'f [u8]>,
) -> Result<(), MalformedTuple> {
    arguments.add(Array { wire, rows, field: RefCell::new(field) }).map_err(|_| MalformedTuple)
}

/// A binary array of the fields that are given for each row, with their lengths, in the rows' order.
struct Array<F> {
    wire: WireType,
    rows: usize,
    field: RefCell<F>,
}

impl<F> Type<Postgres> for Array<F> {
    /// Never asked for: each value says what it is in `produces`.
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(0))
    }
}

impl<'f, F: FnMut(usize) -> Option<&'f [u8]>> Encode<'_, Postgres> for Array<F> {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        let (dimensions, may_be_null, lower_bound) = (1_i32, 1_i32, 1_i32);
        buffer.extend_from_slice(&dimensions.to_be_bytes());
        buffer.extend_from_slice(&may_be_null.to_be_bytes());
        buffer.extend_from_slice(&self.wire.element.to_be_bytes());
        buffer.extend_from_slice(&(self.rows as i32).to_be_bytes());
        buffer.extend_from_slice(&lower_bound.to_be_bytes());
        let mut field = self.field.borrow_mut();
        for row in 0..self.rows {
            buffer.extend_from_slice(field(row).ok_or(MalformedTuple)?);
        }
        Ok(IsNull::No)
    }

    fn produces(&self) -> Option<PgTypeInfo> {
        Some(PgTypeInfo::with_oid(Oid(self.wire.array)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TYPES: [WireType; 2] = [
        WireType { name: "int4", element: 23, array: 1007 },
        WireType { name: "text", element: 25, array: 1009 },
    ];

    /// A number of four bytes, and a null.
    const TUPLE: [u8; 14] = [0, 2, 0, 0, 0, 4, 0, 0, 0, 7, 255, 255, 255, 255];

    fn adds(types: &[WireType], tuples: &[&[u8]]) -> bool {
        arguments(types, tuples.iter().copied()).is_ok()
    }

    #[test]
    fn fields_are_an_array_as_they_are() {
        let mut tuples = [&TUPLE, &TUPLE].map(|tuple| CopyFields::of_tuple(tuple));
        let mut array = |wire: WireType| {
            let field = RefCell::new(|row: usize| tuples[row].next());
            let mut buffer = PgArgumentBuffer::default();
            let encoded = Array { wire, rows: 2, field }.encode_by_ref(&mut buffer);
            assert!(!encoded.expect("there are fields").is_null());
            buffer.to_vec()
        };
        let head =
            |element| [[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, element], [0, 0, 0, 2], [0, 0, 0, 1]].concat();
        let number = [0, 0, 0, 4, 0, 0, 0, 7];
        assert_eq!(array(TYPES[0]), [&head(23)[..], &number, &number].concat());
        assert_eq!(array(TYPES[1]), [&head(25)[..], &[255; 8]].concat());
    }

    #[test]
    fn a_tuple_that_is_cut_or_too_long_or_has_another_number_of_fields_is_refused() {
        assert!(adds(&TYPES, &[&TUPLE, &TUPLE]) && adds(&TYPES, &[]));
        for length in 0..TUPLE.len() {
            assert!(!adds(&TYPES, &[&TUPLE, &TUPLE[..length]]), "{length} bytes");
        }
        let longer = [&TUPLE[..], &[8]].concat();
        assert!(!adds(&TYPES, &[&longer]));
        let one_more = [&TUPLE[..], &[255; 4]].concat();
        assert!(!adds(&TYPES, &[&one_more]));
        assert!(!adds(&TYPES[..1], &[&TUPLE]));
    }
}
