//! What both servers are and allow, whatever the mappings say.

use sqlx::{PgConnection, Row};

use super::{Inspection, Verdict};
use crate::app::connect_postgres;
use crate::config::Config;
use crate::pipeline::Error;
use crate::source::Facts;
use crate::state::{self, SchemaState};

/// The oldest PostgreSQL whose catalogs and SQL rowstream is written for.
const OLDEST_POSTGRESQL: i32 = 130_000;

impl Inspection {
    pub(super) fn mongodb(&mut self, facts: &Facts) {
        // Whether a missing collection is a mistake is the mapping's to say.
        for finding in facts.findings.iter().filter(|finding| finding.name != "missing_collection") {
            let verdict = if finding.fatal { Verdict::Failed } else { Verdict::Warning };
            self.add(verdict, format!("mongodb {}", finding.name), &finding.message, finding.hint);
        }
        if !facts.findings.iter().any(|finding| finding.fatal) {
            let window = match &facts.oplog {
                Some(oplog) => format!(
                    ", oplog window {:.1} h",
                    f64::from(oplog.last.seconds.saturating_sub(oplog.first.seconds)) / 3600.0
                ),
                None => String::new(),
            };
            self.add(
                Verdict::Passed,
                "mongodb",
                format!("{}, {}{window}", facts.version, facts.topology),
                "",
            );
        }
    }

    pub(super) async fn postgresql(&mut self, connection: &mut PgConnection) -> Result<(), Error> {
        let failed = |error| Error::retry("look at postgresql", error);
        let row = sqlx::query(
            "select current_setting('server_version_num')::int as number, current_setting('server_version') as text,
                    current_database() as database, current_user::text as role,
                    has_database_privilege(current_database(), 'TEMP') as temporary,
                    pg_is_in_recovery() as standby",
        )
        .fetch_one(&mut *connection)
        .await
        .map_err(failed)?;
        let (number, text): (i32, String) = (row.get("number"), row.get("text"));
        let (database, role): (String, String) = (row.get("database"), row.get("role"));
        if number < OLDEST_POSTGRESQL {
            self.add(
                Verdict::Failed,
                "postgresql",
                format!("version {text} is too old"),
                "13 or later is needed",
            );
        } else if row.get("standby") {
            self.add(
                Verdict::Failed,
                "postgresql",
                "the server is a read-only standby",
                "name the primary in postgres.url, or all of its hosts: rowstream takes the one that is no standby",
            );
        } else if !row.get::<bool, _>("temporary") {
            self.add(
                Verdict::Failed,
                "postgresql",
                format!("role {role} may not create temporary tables in {database}"),
                &format!("grant temporary on database {database} to {role}"),
            );
        } else {
            self.add(Verdict::Passed, "postgresql", format!("{text}, database {database}, role {role}"), "");
        }
        let lacking = state::lacking(connection).await.map_err(failed)?;
        match state::schema_state(connection).await.map_err(failed)? {
            SchemaState::Current | SchemaState::Closed if !lacking.is_empty() => self.add(
                Verdict::Failed,
                "state",
                format!("role {role} lacks {} on the schema rowstream", lacking.join(", ")),
                &format!("run `rowstream migrate --grant-to {role}` as the owner of the schema"),
            ),
            SchemaState::Current | SchemaState::Closed => {
                self.add(Verdict::Passed, "state", "schema rowstream is up to date", "")
            }
            SchemaState::Missing | SchemaState::Outdated => self.add(
                Verdict::Warning,
                "state",
                "schema rowstream is not there yet or of an older version",
                "`rowstream run` brings it up to date if its role may, else run `rowstream migrate`",
            ),
            SchemaState::Newer => self.add(
                Verdict::Failed,
                "state",
                "the schema rowstream was written by a newer version",
                "run that version or a later one",
            ),
        }
        Ok(())
    }

    /// Settings and prepared statements of a session do not survive a pooler that gives each transaction
    /// to whatever connection is free. Seen by two sessions
    /// that meet in one process of the server.
    pub(super) async fn pooler(&mut self, config: &Config, connection: &mut PgConnection) {
        let Ok(mut other) = connect_postgres(config, "check").await else { return };
        let Some(first) = processes(connection).await else { return };
        let Some(second) = processes(&mut other).await else { return };
        let Some(again) = processes(connection).await else { return };
        let first = [first, again].concat();
        if is_pooled(&first, &second) {
            self.add(
                Verdict::Warning,
                "postgresql",
                "a transaction pooler is in between: time-outs and prepared statements of a session get lost",
                "connect to the server itself, or use session pooling",
            );
        }
    }
}

/// The server's processes for two statements of a session. Not prepared: behind a pooler, the name of a
/// prepared statement may be another session's.
async fn processes(connection: &mut PgConnection) -> Option<[i32; 2]> {
    let mut found = [0; 2];
    for pid in &mut found {
        let row = sqlx::raw_sql("select pg_backend_pid()").fetch_one(&mut *connection).await.ok()?;
        *pid = row.try_get(0).ok()?;
    }
    Some(found)
}

/// Whether processes that served two sessions in turn show that neither had one of its own.
fn is_pooled(first: &[i32], second: &[i32]) -> bool {
    let moved = |pids: &[i32]| pids.windows(2).any(|pair| pair[0] != pair[1]);
    moved(first) || moved(second) || first.iter().any(|pid| second.contains(pid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_that_change_or_share_their_process_are_pooled() {
        assert!(!is_pooled(&[1, 1, 1], &[2, 2]));
        assert!(is_pooled(&[1, 1, 1], &[1, 1]));
        assert!(is_pooled(&[1, 2, 1], &[3, 3]));
        assert!(is_pooled(&[1, 1, 2], &[3, 3]));
    }
}
