//! Rows by their keys: delete, look up, move to another key, take over, mark.
//!
//! A [`RowKey`] comes from [`crate::mapping::KeyPlan::row_key`] or from `rowstream.row`. Every function takes any
//! number of them for one statement or a few.

use std::collections::HashSet;

use sqlx::postgres::PgArguments;
use sqlx::{Arguments, PgConnection, Row as _, ValueRef};

use super::arrays;
use super::error::{Error, MalformedTuple};
use super::isolate::{Attempt, isolated};
use super::occupant::name_occupants;
use super::statement;
use super::write::{in_key_order, merge_length};
use super::{Outcome, Target};
use crate::config::KeySpec;
use crate::domain::{CanonicalId, CopyFields, Portion, Reason, Rejection, Row, RowKey};

/// Keys of one statement.
const KEYS: usize = 10_000;

/// A set of rows that must move together: each takes the key that the one before has left.
pub type Rekeyed = Vec<(RowKey, RowKey)>;

/// Deletes rows by key, given with the document whose they are. A key that has no row is no mistake.
pub async fn delete(
    conn: &mut PgConnection,
    target: &Target,
    keys: &[(CanonicalId, RowKey)],
    portion: Portion,
) -> Result<Outcome, Error> {
    let (mut outcome, refused) = isolated(conn, target, &Delete { target, portion }, keys).await?;
    outcome.rejected.extend(refused.into_iter().map(|((id, _), rejection)| (id.clone(), rejection)));
    Ok(outcome)
}

/// Makes this column null in rows that go, so that what it refers to can go before them. Where that is
/// refused, it stays.
pub async fn clear(
    conn: &mut PgConnection,
    target: &Target,
    column: usize,
    keys: &[RowKey],
    portion: Portion,
) -> Result<(), Error> {
    let clear = Clear { target, sql: statement::clear(&target.mapping, column), portion };
    isolated(conn, target, &clear, keys).await?;
    Ok(())
}

/// Whether the table has rows that say of no document that they are its own. Where rows do not say it at
/// all: any rows.
pub async fn has_unowned_rows(conn: &mut PgConnection, target: &Target) -> Result<bool, Error> {
    sqlx::query_scalar(statement::has_unowned_rows(&target.mapping))
        .fetch_one(conn)
        .await
        .map_err(|source| failed(target, "look for rows without an owner", source))
}

/// Which of the keys have a row.
pub async fn present(conn: &mut PgConnection, target: &Target, keys: &[RowKey]) -> Result<Vec<bool>, Error> {
    let mut found = vec![false; keys.len()];
    for (number, part) in keys.chunks(KEYS).enumerate() {
        let arguments = key_arguments(target, part.iter()).map_err(|source| malformed(target, source))?;
        let places: Vec<i64> =
            sqlx::query_scalar_with(statement::safe(&target.statements.keys.present), arguments)
                .fetch_all(&mut *conn)
                .await
                .map_err(|source| failed(target, "look for rows", source))?;
        for place in places {
            if let Some(found) = found.get_mut(number * KEYS + place_of(place)) {
                *found = true;
            }
        }
    }
    Ok(found)
}

/// Gives rows other keys, in place: what is not written stays, and so do rows that refer to them, where
/// their foreign keys follow. The sets that were refused, by number.
pub async fn rekey(
    conn: &mut PgConnection,
    target: &Target,
    sets: &[Rekeyed],
) -> Result<Vec<(usize, Rejection)>, Error> {
    let numbered: Vec<(usize, &Rekeyed)> = sets.iter().enumerate().collect();
    let (_, refused) = isolated(conn, target, &Rekey { target }, &numbered).await?;
    Ok(refused.into_iter().map(|((number, _), rejection)| (*number, rejection)).collect())
}

/// Inserts rows whose keys are new. A row that is there with one of them is nobody's, and is left alone.
pub async fn insert(
    conn: &mut PgConnection,
    target: &Target,
    rows: &[Row],
    portion: Portion,
) -> Result<Outcome, Error> {
    let ordered = in_key_order(rows);
    let (mut outcome, refused) = isolated(conn, target, &Insert { target, portion }, &ordered).await?;
    let mut refused: Vec<(&Row, Rejection)> =
        refused.into_iter().map(|(row, rejection)| (*row, rejection)).collect();
    outcome.collisions = name_occupants(conn, target, &mut refused).await?;
    outcome.rejected.extend(refused.into_iter().map(|(row, rejection)| (row.id.clone(), rejection)));
    Ok(outcome)
}

/// The keys of rows that have the same values as these rows in a unique key of `adopt`, by place.
pub async fn adoptable(
    conn: &mut PgConnection,
    target: &Target,
    rows: &[&Row],
) -> Result<Vec<(usize, RowKey)>, Error> {
    let mut found: Vec<(usize, RowKey)> = Vec::new();
    for (sql, places) in target.statements.keys.adopt.iter().zip(&target.mapping.key.adopt) {
        for (place, key) in matching(conn, target, sql, places, rows).await? {
            if !found.iter().any(|(earlier, _)| *earlier == place) {
                found.push((place, key));
            }
        }
    }
    Ok(found)
}

/// As [`adoptable`], by these columns.
pub async fn adoptable_by(
    conn: &mut PgConnection,
    target: &Target,
    columns: &[usize],
    rows: &[&Row],
) -> Result<Vec<(usize, RowKey)>, Error> {
    matching(conn, target, &statement::adopt(&target.mapping, columns), columns, rows).await
}

async fn matching(
    conn: &mut PgConnection,
    target: &Target,
    sql: &str,
    places: &[usize],
    rows: &[&Row],
) -> Result<Vec<(usize, RowKey)>, Error> {
    let unreadable = |source| failed(target, "look for rows to adopt", source);
    let mut found = Vec::new();
    for (number, part) in rows.chunks(KEYS).enumerate() {
        let mut arguments = PgArguments::default();
        arrays::add_values(&mut arguments, &target.wire_types, places, part)
            .map_err(|source| malformed(target, source))?;
        let matches = sqlx::query_with(statement::safe(sql), arguments).fetch_all(&mut *conn).await;
        for row in matches.map_err(unreadable)? {
            let place = number * KEYS + place_of(row.try_get::<i64, _>(0).map_err(unreadable)?);
            let mut key = Vec::new();
            for column in 0..target.key_types.len() {
                key.extend(field_of(&row, column + 1).map_err(unreadable)?);
            }
            found.push((place, RowKey::from_bytes(key)));
        }
    }
    Ok(found)
}

/// Writes (source, source_id) into rows that have none and match by a unique key of `adopt`.
pub(super) async fn adopt(conn: &mut PgConnection, target: &Target, rows: &[&Row]) -> Result<(), Error> {
    for (sql, places) in target.statements.keys.adopt.iter().zip(&target.mapping.key.adopt) {
        take_over_with(conn, target, sql, places, rows).await?;
    }
    Ok(())
}

/// As [`adopt`], by these columns.
pub async fn take_over(
    conn: &mut PgConnection,
    target: &Target,
    columns: &[usize],
    rows: &[&Row],
) -> Result<(), Error> {
    take_over_with(conn, target, &statement::adopt(&target.mapping, columns), columns, rows).await
}

async fn take_over_with(
    conn: &mut PgConnection,
    target: &Target,
    sql: &str,
    places: &[usize],
    rows: &[&Row],
) -> Result<(), Error> {
    if matches!(target.mapping.key.spec, KeySpec::SourceId { .. }) {
        // Of several documents with one value, the first gets the row.
        let mut values: HashSet<Vec<&[u8]>> = HashSet::new();
        let mut firsts: Vec<&Row> = Vec::new();
        for row in rows.iter().copied() {
            let fields: Vec<&[u8]> = CopyFields::of_tuple(&row.tuple).collect();
            if values.insert(places.iter().filter_map(|place| fields.get(*place).copied()).collect()) {
                firsts.push(row);
            }
        }
        let ids: Vec<&str> = firsts.iter().map(|row| row.source_id.as_str()).collect();
        let mut arguments = source_argument(target).map_err(|source| malformed(target, source))?;
        arguments.add(ids).map_err(|_| malformed(target, MalformedTuple))?;
        arrays::add_values(&mut arguments, &target.wire_types, places, &firsts)
            .map_err(|source| malformed(target, source))?;
        sqlx::query_with(statement::safe(sql), arguments)
            .execute(&mut *conn)
            .await
            .map_err(|source| failed(target, "adopt rows", source))?;
    }
    Ok(())
}

/// Marks the rows of documents that are held, where the mapping has columns for it, with status and error. What is
/// marked so already is left alone.
pub async fn mark_held(
    conn: &mut PgConnection,
    target: &Target,
    held: &[(RowKey, &str, String)],
) -> Result<(), Error> {
    let Some(mark) = &target.statements.mark else { return Ok(()) };
    let statuses: Vec<&str> = held.iter().map(|(_, status, _)| *status).collect();
    let errors: Vec<&str> = held.iter().map(|(_, _, error)| error.as_str()).collect();
    let keys = held.iter().map(|(key, _, _)| key);
    let mut arguments = key_arguments(target, keys).map_err(|source| malformed(target, source))?;
    arguments.add(statuses).map_err(|_| malformed(target, MalformedTuple))?;
    arguments.add(errors).map_err(|_| malformed(target, MalformedTuple))?;
    let done = sqlx::query_with(statement::safe(mark), arguments).execute(conn).await;
    done.map(drop).map_err(|source| failed(target, "mark rows as held", source))
}

pub(super) fn key_arguments<'k>(
    target: &Target,
    keys: impl ExactSizeIterator<Item = &'k RowKey>,
) -> Result<PgArguments, MalformedTuple> {
    let mut arguments = source_argument(target)?;
    arrays::add_keys(&mut arguments, &target.key_types, keys)?;
    Ok(arguments)
}

fn source_argument(target: &Target) -> Result<PgArguments, MalformedTuple> {
    let mut arguments = PgArguments::default();
    if target.mapping.key.source().is_some() {
        arguments.add(&target.mapping.source).map_err(|_| MalformedTuple)?;
    }
    Ok(arguments)
}

/// A value as a field of a COPY tuple.
fn field_of(row: &sqlx::postgres::PgRow, column: usize) -> Result<Vec<u8>, sqlx::Error> {
    let value = row.try_get_raw(column)?;
    if value.is_null() {
        return Ok((-1_i32).to_be_bytes().to_vec());
    }
    let bytes = value.as_bytes().map_err(sqlx::Error::Decode)?;
    let mut field = (bytes.len() as i32).to_be_bytes().to_vec();
    field.extend_from_slice(bytes);
    Ok(field)
}

/// Places of SQL begin with 1.
fn place_of(place: i64) -> usize {
    usize::try_from(place - 1).unwrap_or(usize::MAX / 2)
}

fn failed(target: &Target, doing: &'static str, source: sqlx::Error) -> Error {
    Error::from_sqlx(&target.mapping.table, doing, source)
}

fn malformed(target: &Target, source: MalformedTuple) -> Error {
    Error::Malformed { table: target.mapping.table.clone(), source }
}

pub(super) struct Delete<'a> {
    pub(super) target: &'a Target,
    pub(super) portion: Portion,
}

/// Something that is deleted by its key.
pub(super) trait Keyed: Sync {
    fn key(&self) -> &RowKey;
}

impl Keyed for (CanonicalId, RowKey) {
    fn key(&self) -> &RowKey {
        &self.1
    }
}

impl Keyed for RowKey {
    fn key(&self) -> &RowKey {
        self
    }
}

impl<T: Keyed> Attempt<T> for Delete<'_> {
    async fn attempt(&self, conn: &mut PgConnection, items: &[T]) -> Result<Outcome, Error> {
        let mut outcome = Outcome::default();
        for part in items.chunks(self.portion.of(KEYS)) {
            let arguments = key_arguments(self.target, part.iter().map(Keyed::key))
                .map_err(|source| malformed(self.target, source))?;
            let done = sqlx::query_with(statement::safe(&self.target.statements.keys.delete), arguments)
                .execute(&mut *conn)
                .await
                .map_err(|source| failed(self.target, "delete rows", source))?;
            outcome.deleted += done.rows_affected();
        }
        Ok(outcome)
    }
}

struct Clear<'a> {
    target: &'a Target,
    sql: String,
    portion: Portion,
}

impl Attempt<RowKey> for Clear<'_> {
    async fn attempt(&self, conn: &mut PgConnection, keys: &[RowKey]) -> Result<Outcome, Error> {
        for part in keys.chunks(self.portion.of(KEYS)) {
            let arguments =
                key_arguments(self.target, part.iter()).map_err(|source| malformed(self.target, source))?;
            sqlx::query_with(statement::safe(&self.sql), arguments)
                .execute(&mut *conn)
                .await
                .map_err(|source| failed(self.target, "clear references of rows that go", source))?;
        }
        Ok(Outcome::default())
    }
}

struct Rekey<'a> {
    target: &'a Target,
}

impl Attempt<(usize, &Rekeyed)> for Rekey<'_> {
    async fn attempt(&self, conn: &mut PgConnection, sets: &[(usize, &Rekeyed)]) -> Result<Outcome, Error> {
        // The first of every set, then the second of every set: no two keys of one statement meet.
        for step in 0.. {
            let moves: Vec<&(RowKey, RowKey)> = sets.iter().filter_map(|(_, set)| set.get(step)).collect();
            if moves.is_empty() {
                break;
            }
            let mut arguments = key_arguments(self.target, moves.iter().map(|(from, _)| from))
                .map_err(|source| malformed(self.target, source))?;
            arrays::add_keys(&mut arguments, &self.target.key_types, moves.iter().map(|(_, to)| to))
                .map_err(|source| malformed(self.target, source))?;
            sqlx::query_with(statement::safe(&self.target.statements.keys.rekey), arguments)
                .execute(&mut *conn)
                .await
                .map_err(|source| failed(self.target, "change the keys of rows", source))?;
        }
        Ok(Outcome::default())
    }
}

struct Insert<'a> {
    target: &'a Target,
    portion: Portion,
}

impl Attempt<&Row> for Insert<'_> {
    async fn attempt(&self, conn: &mut PgConnection, rows: &[&Row]) -> Result<Outcome, Error> {
        let mut outcome = Outcome::default();
        let mut rest = rows;
        while !rest.is_empty() {
            let (part, after) = rest.split_at(merge_length(rest, self.portion));
            outcome.add(self.insert(conn, part).await?);
            rest = after;
        }
        Ok(outcome)
    }
}

impl Insert<'_> {
    async fn insert(&self, conn: &mut PgConnection, rows: &[&Row]) -> Result<Outcome, Error> {
        let target = self.target;
        let arguments = arrays::arguments(&target.wire_types, rows.iter().map(|row| &*row.tuple))
            .map_err(|source| malformed(target, source))?;
        let places: Vec<i64> =
            sqlx::query_scalar_with(statement::safe(&target.statements.keys.insert), arguments)
                .fetch_all(&mut *conn)
                .await
                .map_err(|source| failed(target, "insert rows", source))?;
        let mut outcome = Outcome { inserted: places.len() as u64, ..Outcome::default() };
        if places.len() == rows.len() {
            return Ok(outcome);
        }
        let mut left: Vec<&Row> = Vec::new();
        let inserted: HashSet<usize> = places.into_iter().map(place_of).collect();
        left.extend(
            rows.iter().enumerate().filter(|(place, _)| !inserted.contains(place)).map(|(_, row)| row),
        );
        let keys: Option<Vec<RowKey>> =
            left.iter().map(|row| target.mapping.key.row_key(&row.tuple).ok()).collect();
        let keys = keys.ok_or_else(|| malformed(target, MalformedTuple))?;
        let present = present(conn, target, &keys).await?;
        for (row, present) in left.into_iter().zip(present) {
            if present {
                outcome.rejected.push((row.id.clone(), taken_by_nobody()));
            } else {
                // A trigger kept it away.
                outcome.unchanged += 1;
            }
        }
        Ok(outcome)
    }
}

fn taken_by_nobody() -> Rejection {
    Rejection {
        column: None,
        reason: Reason::DuplicateKey,
        message: "a row with this key is there, and no document stands for it; delete it, or name the key's \
                  columns in adopt to take such rows over"
            .to_owned(),
    }
}
