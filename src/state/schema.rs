//! Creating and upgrading the state schema.

use sqlx::migrate::{Migrate, Migrator};
use sqlx::{Connection, PgConnection, Row};

static EMBEDDED: Migrator = sqlx::migrate!("./migrations");

/// Our own book-keeping table: the application may well use sqlx in `public` too.
const TABLE: &str = "rowstream._sqlx_migrations";

#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    #[error("cannot bring the schema rowstream up to date")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    #[error("cannot create the schema rowstream")]
    CreateSchema(#[from] sqlx::Error),
}

/// How the state schema stands to this binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchemaState {
    Missing,
    /// Older than this binary: `rowstream migrate` brings it up to date.
    Outdated,
    Current,
    /// Written by a newer rowstream; this one must not touch it.
    Newer,
    /// It is there, and this role may not even read its version.
    Closed,
}

fn migrator() -> Migrator {
    let mut migrator = Migrator { migrations: EMBEDDED.migrations.clone(), ..Migrator::DEFAULT };
    migrator.dangerous_set_table_name(TABLE);
    migrator
}

fn newest() -> i64 {
    EMBEDDED.iter().map(|migration| migration.version).max().unwrap_or(0)
}

/// Creates the schema if it is not there and applies what is missing. Safe to run at any time, by any
/// number of processes: an advisory lock lets one through.
pub async fn migrate(connection: &mut PgConnection) -> Result<(), MigrateError> {
    if schema_state(connection).await? == SchemaState::Current {
        return Ok(());
    }
    let exists: bool =
        sqlx::query_scalar("select exists (select from pg_namespace where nspname = 'rowstream')")
            .fetch_one(&mut *connection)
            .await?;
    if !exists {
        // Two processes may come here at once; `if not exists` alone still races on the catalog index.
        connection.lock().await?;
        let created = sqlx::query("create schema if not exists rowstream").execute(&mut *connection).await;
        connection.unlock().await?;
        created?;
    }
    migrator().run_direct(None, connection, false).await?;
    Ok(())
}

/// What this role may not do with the state, if that is there; empty for whom `migrate --grant-to` has named.
pub async fn lacking(connection: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(include_str!("lacking.sql")).fetch_all(connection).await
}

pub async fn schema_state(connection: &mut PgConnection) -> Result<SchemaState, sqlx::Error> {
    let lacking = lacking(connection).await?;
    if lacking.iter().any(|privilege| matches!(privilege.as_str(), "usage" | "select")) {
        return Ok(SchemaState::Closed);
    }
    let mut transaction = connection.begin().await?;
    let exists: bool = sqlx::query("select to_regclass('rowstream._sqlx_migrations') is not null")
        .fetch_one(&mut *transaction)
        .await?
        .get(0);
    let applied: Option<i64> = if exists {
        sqlx::query_scalar("select max(version) from rowstream._sqlx_migrations where success")
            .fetch_one(&mut *transaction)
            .await?
    } else {
        None
    };
    transaction.commit().await?;
    Ok(match applied {
        None => SchemaState::Missing,
        Some(version) if version < newest() => SchemaState::Outdated,
        Some(version) if version > newest() => SchemaState::Newer,
        Some(_) => SchemaState::Current,
    })
}

/// Lets another role read and write the state, but not change its schema.
pub async fn grant(connection: &mut PgConnection, role: &str) -> Result<(), sqlx::Error> {
    // Quoted by the server itself: role names are data here.
    let quoted: String =
        sqlx::query_scalar("select quote_ident($1)").bind(role).fetch_one(&mut *connection).await?;
    let statement = format!(
        "grant usage on schema rowstream to {quoted};
         grant select, insert, update, delete on all tables in schema rowstream to {quoted}"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(connection).await?;
    Ok(())
}
