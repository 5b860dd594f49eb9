//! Rows that are made from inside of documents: those of one document are replaced as one, by difference.

use sqlx::{PgConnection, Row as _, ValueRef};

use super::arrays;
use super::error::Error;
use super::isolate::{Attempt, isolated, run};
use super::keyed::Delete;
use super::statement::{self, ROLLBACK_FAMILIES, SAVEPOINT_FAMILIES, WireType};
use super::write::{merge, merge_length};
use super::{Outcome, Target};
use crate::domain::{CanonicalId, Portion, Row, RowKey};
use crate::mapping::{ChildPlan, Finder, Mapping, SoughtColumn};

/// Owners of one statement.
const OWNERS: usize = 5_000;

/// The rows that one document has in a child table from now on; no two have one key.
#[derive(Debug)]
pub struct Family {
    pub id: CanonicalId,
    /// What its rows have in the parent's column: length and bytes, as in a COPY tuple.
    pub owner: Vec<u8>,
    pub rows: Vec<(RowKey, Row)>,
}

/// What is done for one document.
struct Change<'f> {
    id: &'f CanonicalId,
    unwanted: Vec<RowKey>,
    rows: Vec<&'f Row>,
}

/// A row that was refused, by its document and its key.
pub type LeftOut = (CanonicalId, RowKey);

/// Whether rows that the table refuses are left out, or keep all of their document's rows out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    OfFamily,
    OfRow,
}

/// Remembers the moment: what is written afterwards can be taken back. Call it again for a later moment.
pub async fn remember(conn: &mut PgConnection, target: &Target) -> Result<(), Error> {
    run(conn, target, SAVEPOINT_FAMILIES).await
}

/// Takes everything back that was written since.
pub async fn take_back(conn: &mut PgConnection, target: &Target) -> Result<(), Error> {
    run(conn, target, ROLLBACK_FAMILIES).await
}

/// Makes the families' rows the only ones that their owners have in the table. Equal rows are left alone, a
/// family that is refused stays as it is. With the rows that were left out, by document.
pub async fn replace_children(
    conn: &mut PgConnection,
    target: &Target,
    parent: usize,
    families: &[Family],
    refusal: Refusal,
    portion: Portion,
) -> Result<(Outcome, Vec<LeftOut>), Error> {
    let owners: Vec<&[u8]> = families.iter().map(|family| family.owner.as_slice()).collect();
    let present = keys_of_owners(conn, target, parent, &owners).await?;
    let changes: Vec<Change<'_>> = families
        .iter()
        .zip(present)
        .map(|(family, mut present)| {
            let wanted: std::collections::HashSet<&RowKey> = family.rows.iter().map(|(key, _)| key).collect();
            present.retain(|key| !wanted.contains(key));
            let rows = family.rows.iter().map(|(_, row)| row).collect();
            Change { id: &family.id, unwanted: present, rows }
        })
        .collect();
    let replace = Replace { target, portion };
    let (mut outcome, refused) = isolated(conn, target, &replace, &changes).await?;
    let mut left_out = Vec::new();
    for (change, rejection) in refused {
        match refusal {
            Refusal::OfFamily => outcome.rejected.push((change.id.clone(), rejection)),
            Refusal::OfRow => {
                let (done, rows) = replace_each(conn, &replace, change).await?;
                outcome.add(done);
                left_out.extend(rows);
            }
        }
    }
    Ok((outcome, left_out))
}

/// Row by row, without those that are refused; which those are.
async fn replace_each(
    conn: &mut PgConnection,
    replace: &Replace<'_>,
    change: &Change<'_>,
) -> Result<(Outcome, Vec<LeftOut>), Error> {
    let deleted = Change { id: change.id, unwanted: change.unwanted.clone(), rows: Vec::new() };
    let rows = change.rows.iter().map(|row| Change { id: change.id, unwanted: Vec::new(), rows: vec![*row] });
    let parts: Vec<Change<'_>> = std::iter::once(deleted).chain(rows).collect();
    let (mut outcome, refused) = isolated(conn, replace.target, replace, &parts).await?;
    let mut left_out: Vec<LeftOut> = Vec::new();
    for (part, rejection) in refused {
        match part.rows.first() {
            None => outcome.rejected.push((part.id.clone(), rejection)),
            Some(row) => {
                let key = replace.target.mapping.key.row_key(&row.tuple);
                left_out.extend(key.ok().map(|key| (part.id.clone(), key)));
            }
        }
    }
    let unwanted: Vec<RowKey> = left_out.iter().map(|(_, key)| key.clone()).collect();
    // What stood there for such an element is no longer what the document says.
    let delete = Delete { target: replace.target, portion: replace.portion };
    let (deleted, _) = isolated(conn, replace.target, &delete, &unwanted).await?;
    outcome.add(deleted);
    Ok((outcome, left_out))
}

struct Replace<'a> {
    target: &'a Target,
    portion: Portion,
}

impl Attempt<Change<'_>> for Replace<'_> {
    async fn attempt(&self, conn: &mut PgConnection, changes: &[Change<'_>]) -> Result<Outcome, Error> {
        let mut outcome = Outcome::default();
        let unwanted: Vec<RowKey> = changes.iter().flat_map(|change| change.unwanted.clone()).collect();
        if !unwanted.is_empty() {
            let delete = Delete { target: self.target, portion: self.portion };
            outcome.add(delete.attempt(conn, &unwanted).await?);
        }
        let rows: Vec<&Row> = changes.iter().flat_map(|change| change.rows.iter().copied()).collect();
        let mut rest = rows.as_slice();
        while !rest.is_empty() {
            let (part, after) = rest.split_at(merge_length(rest, self.portion));
            outcome.add(merge(conn, self.target, part).await?);
            rest = after;
        }
        Ok(outcome)
    }
}

/// The keys of the rows that are there, by owner: what they have in the parent's column.
pub async fn keys_of_owners(
    conn: &mut PgConnection,
    target: &Target,
    parent: usize,
    owners: &[&[u8]],
) -> Result<Vec<Vec<RowKey>>, Error> {
    let table = &target.mapping.table;
    let failed = |source| Error::from_sqlx(table, "look for the rows of documents", source);
    let sql = statement::rows_of_owners(&target.mapping, parent);
    let types = [target.wire_types[parent]];
    let mut present = vec![Vec::new(); owners.len()];
    for (number, part) in owners.chunks(OWNERS).enumerate() {
        let tuples: Vec<Vec<u8>> = part.iter().map(|owner| [&[0, 1], *owner].concat()).collect();
        let arguments = arrays::arguments(&types, tuples.iter().map(Vec::as_slice))
            .map_err(|source| Error::Malformed { table: table.clone(), source })?;
        let rows =
            sqlx::query_with(statement::safe(&sql), arguments).fetch_all(&mut *conn).await.map_err(failed)?;
        for row in rows {
            let place: i64 = row.try_get(0).map_err(failed)?;
            let place = number * OWNERS + usize::try_from(place - 1).unwrap_or_default();
            if let Some(keys) = present.get_mut(place) {
                keys.push(key(&row, 1).map_err(failed)?);
            }
        }
    }
    Ok(present)
}

/// Deletes the child rows of every row that the source has in the parent's table, where the rows say whose they
/// are; how many.
pub async fn drop_children(
    conn: &mut PgConnection,
    parent: &Target,
    child: &Target,
    plan: &ChildPlan,
) -> Result<u64, Error> {
    let Some(sql) = statement::drop_children(&parent.mapping, &child.mapping, plan) else { return Ok(0) };
    let mut query = sqlx::query(statement::safe(&sql));
    if parent.mapping.key.source().is_some() {
        query = query.bind(&parent.mapping.source);
    }
    let done = query.execute(conn).await;
    let table = &child.mapping.table;
    let done = done.map_err(|source| Error::from_sqlx(table, "delete the child rows of a source", source))?;
    Ok(done.rows_affected())
}

/// The keys of the parents' rows whose child rows hold, in this column, what the finder takes from rows with these
/// keys.
pub async fn referring_parents(
    conn: &mut PgConnection,
    parent: &Mapping,
    plan: &ChildPlan,
    column: usize,
    finder: &Finder,
    keys: &[&[u8]],
) -> Result<Vec<RowKey>, Error> {
    let table = &plan.mapping.table;
    let failed = |source| Error::from_sqlx(table, "look for rows that refer to another", source);
    let sql = statement::referring_parents(parent, plan, column, finder);
    let wire = |column: &SoughtColumn| WireType::of(&column.column_type);
    let types: Vec<WireType> = finder.key.iter().map(wire).collect();
    let mut found = Vec::new();
    for keys in keys.chunks(OWNERS) {
        let arguments = arrays::arguments(&types, keys.iter().copied())
            .map_err(|source| Error::Malformed { table: table.clone(), source })?;
        let rows =
            sqlx::query_with(statement::safe(&sql), arguments).fetch_all(&mut *conn).await.map_err(failed)?;
        for row in &rows {
            found.push(key(row, 0).map_err(failed)?);
        }
    }
    Ok(found)
}

/// The columns of an answer from this one on, as a key.
fn key(row: &sqlx::postgres::PgRow, first: usize) -> Result<RowKey, sqlx::Error> {
    let mut key = Vec::new();
    for column in first..row.len() {
        let value = row.try_get_raw(column)?;
        if value.is_null() {
            key.extend_from_slice(&(-1_i32).to_be_bytes());
            continue;
        }
        let bytes = value.as_bytes().map_err(sqlx::Error::Decode)?;
        key.extend_from_slice(&(bytes.len() as i32).to_be_bytes());
        key.extend_from_slice(bytes);
    }
    Ok(RowKey::from_bytes(key))
}
