//! One bad row must not hold up the others: what fails is halved under savepoints until the bad row
//! stands alone.

use sqlx::PgConnection;

use super::error::{Disposition, Error};
use super::statement::{self, RELEASE, ROLLBACK, SAVEPOINT};
use super::{Outcome, Target};
use crate::domain::Rejection;

/// Whether the caller has set [`SAVEPOINT`] just now, and nothing was written since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Savepoint {
    #[default]
    Missing,
    Set,
}

/// Writes a slice of items, all or none.
pub(super) trait Attempt<T> {
    async fn attempt(&self, conn: &mut PgConnection, items: &[T]) -> Result<Outcome, Error>;
}

/// Writes all items that can be written, in order; those that were refused, alone, for their own sake.
/// An error that is no item's fault ends it.
pub(super) async fn isolated<'i, T>(
    conn: &mut PgConnection,
    target: &Target,
    work: &impl Attempt<T>,
    items: &'i [T],
) -> Result<(Outcome, Vec<(&'i T, Rejection)>), Error> {
    isolated_behind(conn, target, work, items, Savepoint::Missing).await
}

/// As [`isolated`], behind a savepoint that may be set already.
pub(super) async fn isolated_behind<'i, T>(
    conn: &mut PgConnection,
    target: &Target,
    work: &impl Attempt<T>,
    items: &'i [T],
    mut savepoint: Savepoint,
) -> Result<(Outcome, Vec<(&'i T, Rejection)>), Error> {
    let mut outcome = Outcome::default();
    let mut refused = Vec::new();
    let mut waiting = vec![items];
    // The first savepoint is left to the commit: one round trip less where everything is well. Once
    // something failed they are released, since they would nest by the hundred.
    let mut release = false;
    while let Some(part) = waiting.pop() {
        if part.is_empty() {
            continue;
        }
        if std::mem::take(&mut savepoint) == Savepoint::Missing {
            run(conn, target, SAVEPOINT).await?;
        }
        let error = match work.attempt(conn, part).await {
            Ok(written) => {
                outcome.add(written);
                if release {
                    run(conn, target, RELEASE).await?;
                }
                continue;
            }
            Err(error) => error,
        };
        // What is only suspect has had its other try by the time it stands alone.
        let (Disposition::Hold(rejection) | Disposition::Suspect(rejection)) = error.disposition() else {
            return Err(error);
        };
        run(conn, target, ROLLBACK).await?;
        release = true;
        match part {
            [item] => refused.push((item, rejection)),
            _ => {
                let (first, second) = part.split_at(part.len() / 2);
                waiting.push(second);
                waiting.push(first);
            }
        }
    }
    Ok((outcome, refused))
}

/// One of the savepoint statements.
pub(super) async fn run(conn: &mut PgConnection, target: &Target, sql: &'static str) -> Result<(), Error> {
    sqlx::raw_sql(statement::safe(sql))
        .execute(conn)
        .await
        .map_err(|source| Error::from_sqlx(&target.mapping.table, "set a savepoint", source))?;
    Ok(())
}
