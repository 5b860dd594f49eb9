//! Transactions that begin with several statements in one round trip.

use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, PgConnection};

/// Statements that the connection is to know by name.
pub async fn prepare(connection: &mut PgConnection, statements: &[String]) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(statements.join("; "))).execute(connection).await.map(drop)
}

/// Begins, and gives the rows of all the statements.
pub async fn begin(connection: &mut PgConnection, statements: &[String]) -> Result<Vec<PgRow>, sqlx::Error> {
    let text = format!("begin; {}", statements.join("; "));
    sqlx::raw_sql(AssertSqlSafe(text)).fetch_all(connection).await
}

/// ⚠ PostgreSQL answers ROLLBACK to the commit of a transaction that has failed, and calls that no error: a
/// statement before it does.
pub async fn commit(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    commit_behind(connection, "select").await
}

/// Commits behind one more statement, in one round trip; if that fails there is no commit.
pub async fn commit_behind(connection: &mut PgConnection, statement: &str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(format!("{statement}; commit"))).execute(connection).await.map(drop)
}

/// A text as SQL, whatever `standard_conforming_strings` is.
pub(super) fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_literal_cannot_be_left() {
        assert_eq!(literal(r"a'; drop \' --"), r"E'a''; drop \\'' --'");
    }
}
