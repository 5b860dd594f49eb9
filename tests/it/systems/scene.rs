//! One system on its stage: the example's mapping and schema as they are checked in, a fresh database on both
//! sides, a daemon, and comparison of whole tables with what a test expects of them.
//!
//! Rows are text: a table is a `select` whose first column is the key and whose columns are compared as
//! PostgreSQL prints them (time zone UTC, ISO dates). What rowstream alone decides (ids that it makes) is left out
//! of the select, or replaced by a join to what it stands for.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bson::Document;
use serde_json::Value;
use sqlx::postgres::{PgConnection, PgRow, PgValueFormat};
use sqlx::{AssertSqlSafe, Column as _, Row as _, TypeInfo as _, ValueRef as _};

use crate::comparison::{found, verify};
use crate::daemon::{Daemon, PATIENCE};
use crate::stage::Stage;
use crate::support::until;

/// What is checked in under `config/examples/<system>`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct System {
    pub(crate) name: &'static str,
    /// The database that the mapping names, replaced by the test's own.
    pub(crate) database: &'static str,
    pub(crate) mapping: &'static str,
    pub(crate) schema: &'static str,
    pub(crate) queries: &'static str,
}

/// `system!("budget", "home_budget")`: reads the files of an example when the tests are compiled.
macro_rules! system {
    ($name:literal, $database:literal) => {
        $crate::systems::scene::System {
            name: $name,
            database: $database,
            mapping: include_str!(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/config/examples/",
                $name,
                "/rowstream.yaml"
            )),
            schema: include_str!(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/config/examples/",
                $name,
                "/schema.sql"
            )),
            queries: include_str!(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/config/examples/",
                $name,
                "/queries.sql"
            )),
        }
    };
}
pub(crate) use system;

/// A mapping of the tests' own, appended to the system's (whose file must end with its list of mappings): a
/// document of it that has arrived proves that everything written before it has.
const MARKER: &str = "scene_marker";

/// A row: its columns as text, `None` for null.
pub(crate) type Row = BTreeMap<String, Option<String>>;

/// The rows of a table by their key.
pub(crate) type Rows = BTreeMap<String, Row>;

/// `row([("date", Some("2025-11-02")), …])`.
pub(crate) fn row<const N: usize>(columns: [(&str, Option<String>); N]) -> Row {
    columns.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// What a table must hold.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) name: &'static str,
    /// Its first column is the key, and not compared a second time.
    pub(crate) select: &'static str,
    pub(crate) rows: Rows,
}

/// A held change that is not resolved, by (source, source_id).
pub(crate) type Held = BTreeMap<(String, String), Reason>;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Reason {
    pub(crate) reason: String,
    pub(crate) column: Option<String>,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", self.reason, self.column.as_deref().unwrap_or("no column"))
    }
}

/// How often each (table, column, rule) was applied.
pub(crate) type Coercions = BTreeMap<(String, String, String), u64>;

#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) stage: Stage,
    pub(crate) system: System,
    /// Of the daemon; a test may alter it before `start`.
    pub(crate) config: String,
    daemon: Option<Daemon>,
}

impl Scene {
    /// Fresh databases with the system's schema; nothing runs yet.
    pub(crate) async fn set(system: System, test: &str) -> Result<Self> {
        let stage = Stage::new(&format!("{}_{test}", system.name)).await?;
        stage.execute(system.schema).await.with_context(|| format!("schema.sql of {}", system.name))?;
        let servers = stage.config("").replacen("pipeline: test\n", "", 1);
        let mapping = system.mapping.replace(&format!("{}.", system.database), &format!("{}.", stage.name));
        let config = format!("{servers}{}\n{}", mapping.trim_end(), stage.whole(MARKER));
        Ok(Self { stage, system, config, daemon: None })
    }

    /// Inserts in this order, in as few calls as the server takes.
    pub(crate) async fn load(&self, collection: &str, documents: &[Document]) -> Result<()> {
        for some in documents.chunks(5_000) {
            self.stage
                .collection(collection)
                .insert_many(some)
                .await
                .with_context(|| format!("loading {collection}"))?;
        }
        Ok(())
    }

    pub(crate) fn start(&mut self) -> Result<()> {
        self.daemon = Some(Daemon::start(&self.config)?);
        Ok(())
    }

    pub(crate) fn daemon(&self) -> Result<&Daemon> {
        self.daemon.as_ref().context("the scene was not started")
    }

    /// As by kill -9; what would take the lease's time-out happens at once.
    pub(crate) async fn dies(&mut self) -> Result<()> {
        self.daemon.take().context("the scene was not started")?.kill9()?;
        // Killed before it had made its schema, there is no lease.
        let _ = self.stage.execute("update rowstream.lease set heartbeat = 'epoch'").await;
        Ok(())
    }

    pub(crate) async fn stop(&mut self) -> Result<()> {
        let daemon = self.daemon.take().context("the scene was not started")?;
        let words = daemon.last_words();
        ensure!(daemon.stop().await?.success(), "the daemon failed: {words}");
        Ok(())
    }

    /// Every snapshot is complete, and everything written so far is applied or held. References that come
    /// later may still be on their way: [`Scene::becomes`] waits for those.
    pub(crate) async fn settles(&self) -> Result<()> {
        let pending = "select count(*) from rowstream.mapping where in_scope and snapshot_state <> 'done'";
        let mapped = "select count(*) from rowstream.mapping";
        self.waits("every snapshot to be complete", async || {
            // It would look at its tables every few seconds for ever.
            let halted = self.daemon()?.line("\"halted\"");
            ensure!(halted.is_none(), "{}", halted.unwrap_or_default());
            let mapped = self.stage.number(mapped).await.unwrap_or(0);
            Ok(mapped > 0 && self.stage.number(pending).await? == 0)
        })
        .await?;
        self.stage.settled(self.daemon()?, MARKER).await
    }

    /// Polls a condition; a time-out shows the daemon's last words.
    pub(crate) async fn waits(
        &self,
        what: &str,
        mut condition: impl AsyncFnMut() -> Result<bool>,
    ) -> Result<()> {
        self.waits_for(what, PATIENCE, &mut condition).await
    }

    async fn waits_for(
        &self,
        what: &str,
        patience: Duration,
        condition: &mut impl AsyncFnMut() -> Result<bool>,
    ) -> Result<()> {
        let done = until(what, patience, async || Ok(condition().await?.then_some(()))).await;
        match &self.daemon {
            Some(daemon) => done.with_context(|| daemon.last_words()),
            None => done,
        }
    }

    /// Settled, and then every table equals what is expected of it, or does so within a minute.
    pub(crate) async fn becomes(&self, tables: &[Table]) -> Result<()> {
        self.settles().await?;
        // One table at a time, until all of them in a row are as expected: reading all of them again and again
        // would take the time from those who are to make them so.
        let (mut place, mut in_a_row) = (0, 0);
        let equal = until("the tables to be as expected", PATIENCE, async || {
            while in_a_row < tables.len() {
                let table = &tables[place % tables.len()];
                if self.rows(table.select).await? != table.rows {
                    in_a_row = 0;
                    return Ok(None);
                }
                place += 1;
                in_a_row += 1;
            }
            Ok(Some(()))
        })
        .await;
        let report = match equal {
            Ok(()) => String::new(),
            Err(_) => self.differences(tables).await?,
        };
        // The report first: it is what the reader of a failed test wants.
        match (equal, &self.daemon) {
            (Ok(()), _) => Ok(()),
            (Err(error), Some(daemon)) => {
                let held = self.held().await?;
                let shown: Vec<String> =
                    held.iter().take(10).map(|(key, reason)| format!("{key:?}: {reason}")).collect();
                let waits = self.waiting().await?;
                let count = held.len();
                bail!(
                    "{error:#}\n{report}{count} held: {shown:#?}\nwaiting: {waits:#?}\n{}",
                    daemon.last_words()
                )
            }
            (Err(error), None) => bail!("{error:#}\n{report}"),
        }
    }

    /// Who waits for what, by numbers.
    async fn waiting(&self) -> Result<Vec<String>> {
        let waiting = "select format('%s for %s, due %s: %s', source, awaited, due_at is not null, count(*))
            from rowstream.wait group by source, awaited, due_at is not null order by 1";
        Ok(sqlx::query_scalar(waiting).fetch_all(&mut *self.stage.session().await?).await?)
    }

    /// In words; empty if every table is as expected.
    async fn differences(&self, tables: &[Table]) -> Result<String> {
        let mut report = String::new();
        for table in tables {
            let actual = self.rows(table.select).await?;
            let differences = differences(&table.rows, &actual);
            if !differences.is_empty() {
                writeln!(
                    report,
                    "{}: {} differences; {} rows, {} expected",
                    table.name,
                    differences.len(),
                    actual.len(),
                    table.rows.len()
                )?;
                for difference in differences.iter().take(8) {
                    writeln!(report, "    {difference}")?;
                }
            }
        }
        Ok(report)
    }

    /// What a select finds, by its first column.
    pub(crate) async fn rows(&self, select: &str) -> Result<Rows> {
        let mut session = self.stage.session().await?;
        // The simple protocol gives every value as text.
        let found = sqlx::raw_sql(AssertSqlSafe(select.to_owned()))
            .fetch_all(&mut *session)
            .await
            .context(select.to_owned())?;
        let mut rows = Rows::new();
        for row in &found {
            let key = text(row, 0)?.with_context(|| format!("the key is null in {select}"))?;
            let columns = row.columns().iter().skip(1);
            let values: Row = columns
                .map(|column| {
                    let value = text(row, column.ordinal())?;
                    let is_json = column.type_info().name().starts_with("JSON");
                    let value =
                        value.map(|text| if is_json { canonical(&text) } else { Ok(text) }).transpose()?;
                    Ok((column.name().to_owned(), value))
                })
                .collect::<Result<_>>()?;
            ensure!(rows.insert(key.clone(), values).is_none(), "{key} is there twice in {select}");
        }
        Ok(rows)
    }

    /// A comparison of every document with its rows, child rows and pairs has no findings, and compares so many.
    pub(crate) fn verifies(&self, at_least: u64) -> Result<()> {
        let (report, code) = verify(&self.config, &[])?;
        ensure!(code == 0, "verify ended with {code}: {:#?}\n{report:#}", found(&report));
        let sources = report["sources"].as_array().context("no sources")?;
        let compared: u64 = sources.iter().filter_map(|source| source["compared"].as_u64()).sum();
        ensure!(compared >= at_least, "only {compared} documents were compared");
        Ok(())
    }

    /// What is held now.
    pub(crate) async fn held(&self) -> Result<Held> {
        let mut session = self.stage.session().await?;
        let rows: Vec<(String, String, String, Option<String>)> = sqlx::query_as(
            "select source, source_id, reason, column_name from rowstream.held where state <> 'resolved'",
        )
        .fetch_all(&mut *session)
        .await?;
        let entry = |(source, source_id, reason, column)| ((source, source_id), Reason { reason, column });
        Ok(rows.into_iter().map(entry).collect())
    }

    /// Exactly this is held, or will be within a minute.
    pub(crate) async fn holds(&self, expected: &Held) -> Result<()> {
        let mut last = Held::new();
        let same = until("what is held to be as expected", PATIENCE, async || {
            last = self.held().await?;
            Ok((last == *expected).then_some(()))
        })
        .await;
        let shown = |reason: Option<&Reason>| reason.map_or("not held".to_owned(), ToString::to_string);
        same.with_context(|| {
            let keys: BTreeSet<_> = expected.keys().chain(last.keys()).collect();
            let wrong = keys.into_iter().filter(|key| expected.get(key) != last.get(key)).map(|key| {
                format!("{key:?} is {}, expected {}", shown(last.get(key)), shown(expected.get(key)))
            });
            let wrong: Vec<String> = wrong.take(20).collect();
            let words = self.daemon.as_ref().map(Daemon::last_words).unwrap_or_default();
            format!("{wrong:#?}\n{words}")
        })
    }

    /// As /metrics counts them, since the daemon was started; those of value 0 left out.
    pub(crate) async fn coercions(&self) -> Result<Coercions> {
        let (_, body) = self.daemon()?.get("/metrics").await?;
        let mut found = Coercions::new();
        for line in body.lines() {
            let Some(rest) = line.strip_prefix("rowstream_coercions_total{") else { continue };
            let (labels, count) = rest.rsplit_once("} ").context("a metric without labels")?;
            let label = |name: &str| {
                let rest = labels.split_once(&format!("{name}=\""))?.1;
                Some(rest.split_once('"')?.0.to_owned())
            };
            let key = (label("table"), label("column"), label("rule"));
            let (Some(table), Some(column), Some(rule)) = key else { bail!("labels are missing: {line}") };
            let count = count.parse::<f64>()? as u64;
            if count > 0 {
                found.insert((table, column, rule), count);
            }
        }
        Ok(found)
    }

    /// Explains every query of `queries.sql` and runs it: each uses an index, and none reads a table of more than
    /// `large` rows from end to end. Prints the time of each.
    ///
    /// A query of the file begins with a comment that names it; its parameters are given by comments of the form
    /// `-- $1 = select max(id) from expenses`, any expression.
    #[expect(clippy::print_stdout, reason = "the times are for whoever runs the test")]
    pub(crate) async fn queries_use_indexes(&self, large: i64) -> Result<()> {
        let mut connection = self.stage.postgres().await?;
        sqlx::raw_sql("analyze").execute(&mut connection).await?;
        let mut wrong = Vec::new();
        let queries = queries(self.system.queries);
        ensure!(!queries.is_empty(), "{} has no queries", self.system.name);
        for query in queries {
            let plan = explain(&mut connection, &query).await.with_context(|| query.name.clone())?;
            let (mut indexes, mut scanned) = (0, Vec::new());
            walk(&plan[0]["Plan"], &mut |node| {
                let kind = node["Node Type"].as_str().unwrap_or_default();
                indexes += usize::from(kind.contains("Index"));
                if kind == "Seq Scan" {
                    scanned.push(node["Relation Name"].as_str().unwrap_or_default().to_owned());
                }
            });
            println!(
                "{} {:>8.2} ms  {}",
                self.system.name,
                plan[0]["Execution Time"].as_f64().unwrap_or(f64::NAN),
                query.name
            );
            if indexes == 0 {
                wrong.push(format!("{}: uses no index", query.name));
            }
            for table in scanned {
                let count = format!("select count(*) from \"{table}\"");
                let rows: i64 = sqlx::query_scalar(AssertSqlSafe(count)).fetch_one(&mut connection).await?;
                if rows > large {
                    wrong.push(format!("{}: reads all {rows} rows of {table}", query.name));
                }
            }
        }
        ensure!(wrong.is_empty(), "{wrong:#?}");
        Ok(())
    }
}

/// JSON with the fields of each object in the order of their names: what json and jsonb columns are compared as.
pub(crate) fn canonical(json: &str) -> Result<String> {
    fn write(value: &Value, out: &mut String) {
        match value {
            Value::Object(fields) => {
                let sorted: BTreeMap<&String, &Value> = fields.iter().collect();
                for (place, (name, value)) in sorted.into_iter().enumerate() {
                    out.push(if place == 0 { '{' } else { ',' });
                    out.push_str(&Value::from(name.as_str()).to_string());
                    out.push(':');
                    write(value, out);
                }
                out.push_str(if fields.is_empty() { "{}" } else { "}" });
            }
            Value::Array(elements) => {
                for (place, value) in elements.iter().enumerate() {
                    out.push(if place == 0 { '[' } else { ',' });
                    write(value, out);
                }
                out.push_str(if elements.is_empty() { "[]" } else { "]" });
            }
            scalar => out.push_str(&scalar.to_string()),
        }
    }
    let mut out = String::new();
    write(&serde_json::from_str(json)?, &mut out);
    Ok(out)
}

fn text(row: &PgRow, place: usize) -> Result<Option<String>> {
    let value = row.try_get_raw(place)?;
    if value.is_null() {
        return Ok(None);
    }
    ensure!(value.format() == PgValueFormat::Text, "values are expected as text");
    // Whatever its type is, in this format it is its text.
    Ok(Some(value.as_str().map_err(|error| anyhow::anyhow!("{error}"))?.to_owned()))
}

/// In words, in the order of the keys.
fn differences(expected: &Rows, actual: &Rows) -> Vec<String> {
    let shown = |value: Option<&Option<String>>| match value {
        None => "not selected".to_owned(),
        Some(None) => "null".to_owned(),
        Some(Some(text)) => format!("{text:?}"),
    };
    let mut all = Vec::new();
    let keys: BTreeSet<&String> = expected.keys().chain(actual.keys()).collect();
    for key in keys {
        match (expected.get(key), actual.get(key)) {
            (Some(expected), None) => all.push(format!("{key}: no row; expected {expected:?}")),
            (None, Some(actual)) => all.push(format!("{key}: a row too many: {actual:?}")),
            (Some(expected), Some(actual)) if expected != actual => {
                let columns: BTreeSet<&String> = expected.keys().chain(actual.keys()).collect();
                let wrong = columns.into_iter().filter(|name| expected.get(*name) != actual.get(*name));
                let wrong: Vec<String> = wrong
                    .map(|name| {
                        format!(
                            "{name} is {}, expected {}",
                            shown(actual.get(name)),
                            shown(expected.get(name))
                        )
                    })
                    .collect();
                all.push(format!("{key}: {}", wrong.join("; ")));
            }
            (Some(_), Some(_)) | (None, None) => {}
        }
    }
    all
}

/// One statement of `queries.sql`.
#[derive(Debug)]
struct Query {
    name: String,
    /// Expressions, in the order of the parameters.
    parameters: Vec<String>,
    sql: String,
}

fn queries(file: &str) -> Vec<Query> {
    let mut queries = Vec::new();
    for statement in file.split_inclusive(";\n") {
        let (comments, lines): (Vec<&str>, Vec<&str>) =
            statement.lines().filter(|line| !line.trim().is_empty()).partition(|line| line.starts_with("--"));
        let comments: Vec<&str> = comments.iter().map(|line| line.trim_start_matches("--").trim()).collect();
        let parameters =
            comments.iter().filter(|line| line.starts_with('$')).filter_map(|line| line.split_once(" = "));
        let parameters = parameters.map(|(_, expression)| expression.to_owned()).collect();
        // A head of the file is apart from its first query by an empty line, so the last comment names it.
        let name =
            comments.iter().rfind(|line| !line.starts_with('$')).copied().unwrap_or("a query without a name");
        let sql = lines.join("\n").trim_end_matches(';').to_owned();
        if !sql.is_empty() {
            queries.push(Query { name: name.to_owned(), parameters, sql });
        }
    }
    queries
}

/// With the values that the expressions have now, as an application would send them.
async fn explain(connection: &mut PgConnection, query: &Query) -> Result<Value> {
    let mut values = Vec::new();
    for expression in &query.parameters {
        let sql =
            format!("select quote_nullable(found.value::text) from ({}) as found(value)", select(expression));
        let value: String = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut *connection).await?;
        values.push(value);
    }
    let arguments = if values.is_empty() { String::new() } else { format!("({})", values.join(", ")) };
    let run = |sql: String| sqlx::raw_sql(AssertSqlSafe(sql));
    run(format!("prepare look_up as {}", query.sql)).execute(&mut *connection).await?;
    let explain = format!("explain (analyze, format json) execute look_up{arguments}");
    let row = run(explain).fetch_one(&mut *connection).await?;
    run("deallocate look_up".to_owned()).execute(&mut *connection).await?;
    Ok(serde_json::from_str(&text(&row, 0)?.context("no plan")?)?)
}

fn select(expression: &str) -> String {
    if expression.starts_with("select ") { expression.to_owned() } else { format!("select {expression}") }
}

fn walk(node: &Value, visit: &mut impl FnMut(&Value)) {
    visit(node);
    for child in node["Plans"].as_array().into_iter().flatten() {
        walk(child, visit);
    }
}
