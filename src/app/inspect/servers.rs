//! What both servers are and allow, whatever the mappings say.

use sqlx::{PgConnection, Row};

use super::{Inspection, Verdict};
use crate::app::pooler;
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

    /// What it gives to other sessions belongs to ours.
    pub(super) async fn pooler(&mut self, config: &Config, connection: &mut PgConnection) {
        if pooler::is_between(config, connection).await {
            self.add(Verdict::Failed, "postgresql", pooler::BETWEEN, pooler::HINT);
        }
    }
}
