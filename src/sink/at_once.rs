//! Rows in and out in one statement, together with what a transaction on the target has besides.

use sqlx::postgres::PgArguments;
use sqlx::{Arguments, PgConnection};

use super::arrays;
use super::error::Error;
use super::statement::{self, Around, Parts};
use super::write::{in_key_order, merge_length};
use super::{Outcome, Target};
use crate::domain::{Portion, Row};

/// Ids of one statement.
const IDS: usize = 10_000;

/// The statement of one mapping. Its text is constant, so that the connection's statement cache hits.
#[derive(Debug)]
pub struct AtOnce {
    sql: String,
}

/// What goes in and out.
#[derive(Debug, Clone, Copy)]
pub struct InOut<'b> {
    /// Ids of documents, one row at the most each.
    pub rows: &'b [Row],
    pub gone: &'b [&'b str],
}

/// What became of a batch.
#[derive(Debug)]
pub enum Once {
    Written {
        outcome: Outcome,
        resolved: u64,
    },
    /// Nothing was written.
    Not(Reached),
}

/// Which condition did not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reached {
    /// Somebody else leads, or the position is not the one that was left.
    Fence,
    /// The table is no longer what the mapping was compiled against.
    Table,
}

impl InOut<'_> {
    pub fn parts(self) -> Parts {
        Parts { rows: !self.rows.is_empty(), gone: !self.gone.is_empty() }
    }
}

impl AtOnce {
    /// `None`: rows of this mapping do not say whose they are, or have more to them than their columns.
    pub fn new(target: &Target, around: &Around, parts: Parts) -> Option<Self> {
        let mapping = &target.mapping;
        let has_sequence = mapping.columns.iter().any(|column| column.sequence.is_some());
        if mapping.key.is_claimed() || has_sequence || !target.statements.keys.adopt.is_empty() {
            return None;
        }
        statement::at_once(mapping, around, parts).map(|sql| Self { sql })
    }

    /// Whether it is not too much for one statement.
    pub fn takes(in_out: InOut<'_>, portion: Portion) -> bool {
        let rows: Vec<&Row> = in_out.rows.iter().collect();
        portion.is_whole()
            && in_out.gone.len() <= IDS
            && (rows.is_empty() || merge_length(&rows, portion) == rows.len())
    }

    /// `arguments`: those of what is around. The statement is made for the parts of `in_out`. An error leaves nothing
    /// written and no transaction open, unless the answer was lost.
    pub async fn write(
        &self,
        conn: &mut PgConnection,
        target: &Target,
        mut arguments: PgArguments,
        in_out: InOut<'_>,
    ) -> Result<Once, Error> {
        let table = &target.mapping.table;
        let parts = in_out.parts();
        let mut added = true;
        if parts.gone {
            added = arguments.add(in_out.gone).is_ok();
        }
        if parts.rows {
            let ordered = in_key_order(in_out.rows);
            let tuples = ordered.iter().map(|row| &row.tuple[..]);
            added &= arrays::add_tuples(&mut arguments, &target.wire_types, tuples).is_ok();
        }
        if !added {
            return Err(Error::Malformed { table: table.clone(), source: super::MalformedTuple });
        }
        // All of the answer, up to the commit: a constraint may be deferred until then.
        let answers: Vec<(bool, bool, bool, i64, i64, i64, i64)> =
            sqlx::query_as_with(statement::safe(&self.sql), arguments)
                .fetch_all(conn)
                .await
                .map_err(|source| Error::from_sqlx(table, "write a batch", source))?;
        let Some((is_ours, is_changed, is_moved, inserted, updated, gone, resolved)) =
            answers.into_iter().next()
        else {
            return Ok(Once::Not(Reached::Fence));
        };
        if is_ours && is_changed {
            return Ok(Once::Not(Reached::Table));
        }
        if !is_moved {
            return Ok(Once::Not(Reached::Fence));
        }
        let [inserted, updated, deleted, resolved] =
            [inserted, updated, gone, resolved].map(i64::unsigned_abs);
        let unchanged = (in_out.rows.len() as u64).saturating_sub(inserted + updated);
        let outcome = Outcome { inserted, updated, unchanged, deleted, ..Outcome::default() };
        Ok(Once::Written { outcome, resolved })
    }
}
