//! Looking for rows by their keys: what references take from other rows, and who refers to a row.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use sqlx::postgres::PgRow;
use sqlx::{Arguments, PgConnection, Row as _, ValueRef};

use super::arrays;
use super::error::{Disposition, Error};
use super::isolate::{Attempt, isolated};
use super::statement::{self, ROLLBACK, SAVEPOINT, WireType};
use super::{Outcome, Target};
use crate::domain::{Row, RowKey};
use crate::mapping::{Finder, Mapping};

/// Keys of one statement.
const KEYS: usize = 5_000;

/// For each key, given as a binary COPY tuple of the finder's key columns: the field of the taken column as it
/// stands in such a tuple (length and bytes), or `None` if there is no such row.
pub async fn find(
    conn: &mut PgConnection,
    finder: &Finder,
    keys: &[&[u8]],
) -> Result<Vec<Option<Vec<u8>>>, Error> {
    let failed = |source| Error::from_sqlx(&finder.table, "look rows up", source);
    let sql = statement::find(finder);
    let types: Vec<WireType> = finder.key.iter().map(|column| WireType::of(&column.column_type)).collect();
    let mut found = vec![None; keys.len()];
    for (part, keys) in keys.chunks(KEYS).enumerate() {
        let arguments = arrays::arguments(&types, keys.iter().copied())
            .map_err(|source| Error::Malformed { table: finder.table.clone(), source })?;
        let rows =
            sqlx::query_with(statement::safe(&sql), arguments).fetch_all(&mut *conn).await.map_err(failed)?;
        for row in rows {
            let place: i64 = row.try_get(0).map_err(failed)?;
            let place = usize::try_from(place).unwrap_or_default().saturating_sub(1);
            if let Some(slot) = found.get_mut(part * KEYS + place) {
                *slot = Some(field(&row, 1).map_err(failed)?);
            }
        }
    }
    Ok(found)
}

/// A row that has what was sought.
#[derive(Debug)]
pub struct Candidate {
    /// Of the key that it was sought by.
    pub place: usize,
    /// As [`find`] gives it.
    pub field: Vec<u8>,
    /// By mapping: its key, if it may be a row of that one.
    pub keys: Vec<Option<RowKey>>,
}

/// As [`find`], but every row that has one of these keys, in the order of preference, with the keys by which
/// these mappings know it.
pub async fn candidates(
    conn: &mut PgConnection,
    finder: &Finder,
    mappings: &[&Mapping],
    keys: &[&[u8]],
) -> Result<Vec<Candidate>, Error> {
    let failed = |source| Error::from_sqlx(&finder.table, "look rows up", source);
    let sql = statement::candidates(finder, mappings);
    let types: Vec<WireType> = finder.key.iter().map(|column| WireType::of(&column.column_type)).collect();
    let mut found = Vec::new();
    for (part, keys) in keys.chunks(KEYS).enumerate() {
        let arguments = arrays::arguments(&types, keys.iter().copied())
            .map_err(|source| Error::Malformed { table: finder.table.clone(), source })?;
        let rows =
            sqlx::query_with(statement::safe(&sql), arguments).fetch_all(&mut *conn).await.map_err(failed)?;
        for row in rows {
            let place: i64 = row.try_get(0).map_err(failed)?;
            let place = part * KEYS + usize::try_from(place).unwrap_or_default().saturating_sub(1);
            let mut column = 2;
            let mut keys = Vec::with_capacity(mappings.len());
            for mapping in mappings {
                let columns = column..column + mapping.key.columns.len();
                column = columns.end;
                keys.push(row_key(&row, columns).map_err(failed)?);
            }
            found.push(Candidate { place, field: field(&row, 1).map_err(failed)?, keys });
        }
    }
    Ok(found)
}

/// `None` if one of its columns is null.
fn row_key(row: &PgRow, columns: Range<usize>) -> Result<Option<RowKey>, sqlx::Error> {
    let mut key = Vec::new();
    for column in columns {
        if row.try_get_raw(column)?.is_null() {
            return Ok(None);
        }
        key.extend(field(row, column)?);
    }
    Ok(Some(RowKey::from_bytes(key)))
}

/// The keys of the rows of `of` whose `column` holds what the finder takes from rows with these keys.
pub async fn referrers(
    conn: &mut PgConnection,
    of: &Target,
    column: usize,
    finder: &Finder,
    keys: &[&[u8]],
) -> Result<Vec<RowKey>, Error> {
    let table = &of.mapping.table;
    let failed = |source| Error::from_sqlx(table, "look for rows that refer to another", source);
    let sql = statement::referrers(&of.mapping, column, finder);
    let types: Vec<WireType> = finder.key.iter().map(|column| WireType::of(&column.column_type)).collect();
    let mut found = Vec::new();
    for keys in keys.chunks(KEYS) {
        let arguments = arrays::arguments(&types, keys.iter().copied())
            .map_err(|source| Error::Malformed { table: table.clone(), source })?;
        let rows =
            sqlx::query_with(statement::safe(&sql), arguments).fetch_all(&mut *conn).await.map_err(failed)?;
        for row in rows {
            let mut key = Vec::new();
            for place in 0..row.len() {
                key.extend(field(&row, place).map_err(failed)?);
            }
            found.push(RowKey::from_bytes(key));
        }
    }
    Ok(found)
}

/// Inserts rows that nobody's document stands for, where nothing is in their way; those that were inserted,
/// by their key, each with the hash of the whole row.
pub async fn insert_stubs(
    conn: &mut PgConnection,
    target: &Target,
    finder: &Finder,
    rows: &[Row],
) -> Result<(Vec<(Vec<u8>, String)>, Outcome), Error> {
    let stubs = Stubs { target, finder, inserted: Mutex::default() };
    let rows: Vec<&Row> = rows.iter().collect();
    let (mut outcome, refused) = isolated(conn, target, &stubs, &rows).await?;
    outcome.rejected.extend(refused.into_iter().map(|(row, rejection)| (row.id.clone(), rejection)));
    let inserted = stubs.inserted.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok((inserted, outcome))
}

struct Stubs<'a> {
    target: &'a Target,
    finder: &'a Finder,
    inserted: Mutex<Vec<(Vec<u8>, String)>>,
}

impl Attempt<&Row> for Stubs<'_> {
    async fn attempt(&self, conn: &mut PgConnection, rows: &[&Row]) -> Result<Outcome, Error> {
        let table = &self.target.mapping.table;
        let failed = |source| Error::from_sqlx(table, "insert stubs", source);
        let tuples = rows.iter().map(|row| &row.tuple[..]);
        let arguments = arrays::arguments(&self.target.wire_types, tuples)
            .map_err(|source| Error::Malformed { table: table.clone(), source })?;
        let sql = statement::insert_stubs(&self.target.mapping, self.finder);
        let found =
            sqlx::query_with(statement::safe(&sql), arguments).fetch_all(conn).await.map_err(failed)?;
        let mut inserted = Vec::with_capacity(found.len());
        for row in &found {
            let columns = row.len().saturating_sub(1);
            let mut key = (columns as i16).to_be_bytes().to_vec();
            for column in 0..columns {
                key.extend(field(row, column).map_err(failed)?);
            }
            inserted.push((key, row.try_get(columns).map_err(failed)?));
        }
        let outcome = Outcome { inserted: inserted.len() as u64, ..Outcome::default() };
        self.inserted.lock().unwrap_or_else(PoisonError::into_inner).extend(inserted);
        Ok(outcome)
    }
}

/// Deletes a stub, if its row is as it was made and nothing refers to it; says whether it did.
pub async fn delete_stub(
    conn: &mut PgConnection,
    finder: &Finder,
    key: &[u8],
    hash: &str,
) -> Result<bool, Error> {
    let failed = |source| Error::from_sqlx(&finder.table, "delete a stub", source);
    let types: Vec<WireType> = finder.key.iter().map(|column| WireType::of(&column.column_type)).collect();
    let mut arguments = arrays::arguments(&types, [key].into_iter())
        .map_err(|source| Error::Malformed { table: finder.table.clone(), source })?;
    arguments.add(hash).map_err(|error| failed(sqlx::Error::Encode(error)))?;
    sqlx::raw_sql(statement::safe(SAVEPOINT)).execute(&mut *conn).await.map_err(failed)?;
    let sql = statement::delete_stub(finder);
    let error = match sqlx::query_with(statement::safe(&sql), arguments).execute(&mut *conn).await {
        Ok(done) => return Ok(done.rows_affected() > 0),
        Err(source) => failed(source),
    };
    let Disposition::Hold(_) = error.disposition() else { return Err(error) };
    sqlx::raw_sql(statement::safe(ROLLBACK)).execute(conn).await.map_err(failed)?;
    Ok(false)
}

/// A column of an answer, as a field of a tuple.
fn field(row: &PgRow, column: usize) -> Result<Vec<u8>, sqlx::Error> {
    let value = row.try_get_raw(column)?;
    if value.is_null() {
        return Ok((-1_i32).to_be_bytes().to_vec());
    }
    let bytes = value.as_bytes().map_err(sqlx::Error::Decode)?;
    let mut field = (bytes.len() as i32).to_be_bytes().to_vec();
    field.extend_from_slice(bytes);
    Ok(field)
}
