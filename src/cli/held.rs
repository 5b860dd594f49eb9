//! `rowstream held`: changes that could not be applied, looked at, tried again, discarded, taken out.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use anyhow::Context;
use bson::{Bson, Document};
use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};
use sqlx::PgConnection;

use super::table::Table;
use super::{Exit, Output, complain, printable, say};
use crate::app;
use crate::config::Config;
use crate::domain::Reason;
use crate::operator::retry;
use crate::state::held::{self, After, Filter, Group, HeldChange, Kept, Page, State, WaitsFor};

/// Entries read at a time for an export: with their documents they may be large.
const EXPORTED_AT_ONCE: i64 = 50;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List held changes, by source and _id
    List {
        #[command(flatten)]
        which: Which,
        /// At most so many
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(i64).range(1..=100_000))]
        limit: i64,
        #[arg(short, long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// Tell everything of one held change, and what it waits for
    Show {
        source: String,
        /// The _id as it stands in source_id
        id: String,
        /// Show the document as it was when it was held
        #[arg(long)]
        show_values: bool,
        #[arg(short, long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// Count held changes by table, column and reason, each with what to do
    Summary {
        #[command(flatten)]
        which: Which,
        #[arg(short, long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// Try them again now instead of later: the running daemon reads their documents anew
    Retry {
        #[command(flatten)]
        which: Which,
        #[arg(short, long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// Forget held changes: their rows keep their last good state
    Discard {
        #[command(flatten)]
        which: Which,
        /// Whatever the other options leave, instead of single --id
        #[arg(long)]
        all: bool,
        /// Do it; without this it is only told what would be discarded
        #[arg(long)]
        yes: bool,
        #[arg(short, long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// Write them with their documents as lines of JSON (canonical extended JSON): holds values
    Export {
        #[command(flatten)]
        which: Which,
        /// Instead of standard output
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
}

/// Which held changes are meant: all conditions hold.
#[derive(Debug, clap::Args)]
struct Which {
    #[arg(long)]
    source: Option<String>,
    /// `table` or `schema.table`
    #[arg(long)]
    table: Option<String>,
    /// Left out: waiting and failed
    #[arg(long, value_enum)]
    state: Option<StateWord>,
    #[arg(long, value_parser = reason)]
    reason: Option<Reason>,
    #[arg(long)]
    column: Option<String>,
    /// The _id as it stands in source_id; may be repeated
    #[arg(long = "id", requires = "source")]
    ids: Vec<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum StateWord {
    Waiting,
    Failed,
    Resolved,
}

fn reason(word: &str) -> Result<Reason, String> {
    Reason::named(word).ok_or_else(|| format!("one of {}", Reason::ALL.map(Reason::as_str).join(", ")))
}

impl Which {
    fn filter(self) -> Filter {
        let state = self.state.map(|word| match word {
            StateWord::Waiting => State::Waiting,
            StateWord::Failed => State::Failed,
            StateWord::Resolved => State::Resolved,
        });
        let (source, table, reason, column) = (self.source, self.table, self.reason, self.column);
        Filter { source, table, state, reason, column, ids: self.ids }
    }
}

pub(super) async fn run(arguments: Arguments, config: Config) -> anyhow::Result<Exit> {
    let mut connection = app::connect_postgres(&config, "held").await.context("cannot reach postgresql")?;
    let state = crate::state::schema_state(&mut connection).await.context("cannot read the state")?;
    if state == crate::state::SchemaState::Missing {
        complain("there is no state in this database yet");
        return Ok(Exit::Findings);
    }
    let (connection, pipeline) = (&mut connection, config.pipeline.as_str());
    let asked = match arguments.verb {
        Verb::List { which, limit, output } => {
            let page = held::list(connection, pipeline, &which.filter(), None, limit).await?;
            say(&match output {
                Output::Json => pretty(&json!({ "held": page.entries, "total": page.total })),
                Output::Text => list_text(&page),
            });
            Exit::Fine
        }
        Verb::Show { source, id, show_values, output } => {
            return show(connection, pipeline, &source, &id, show_values, output).await;
        }
        Verb::Summary { which, output } => {
            let groups = held::summary(connection, pipeline, &which.filter()).await?;
            say(&match output {
                Output::Json => pretty(&json!({ "groups": groups })),
                Output::Text => summary_text(&groups),
            });
            Exit::Fine
        }
        Verb::Retry { which, output } => {
            let retried = retry(connection, pipeline, &which.filter(), config.lease.ttl).await?;
            say(&match output {
                Output::Json => pretty(&json!({ "due": retried.count, "led": retried.led })),
                Output::Text => retried_text(retried.count, retried.led),
            });
            if retried.count > 0 && !retried.led { Exit::Findings } else { Exit::Fine }
        }
        Verb::Discard { which, all, yes, output } => {
            return discard(connection, pipeline, which, all, yes, output).await;
        }
        Verb::Export { which, file } => return export(connection, pipeline, which.filter(), file).await,
    };
    Ok(asked)
}

fn retried_text(count: u64, led: bool) -> String {
    match (count, led) {
        (0, _) => "nothing that matches is held".to_owned(),
        (_, true) => format!("{} due: the daemon reads the documents again within seconds", changes(count)),
        (_, false) => {
            format!("{} due, but no daemon leads now: the next `rowstream run` tries them", changes(count))
        }
    }
}

/// `1 held change is`, `2 held changes are`.
fn changes(count: u64) -> String {
    match count {
        1 => "1 held change is".to_owned(),
        count => format!("{count} held changes are"),
    }
}

const DISCARDED: &str = "The rows keep their last good state until their documents change again; verify tells them as \
                         differences until then.";

async fn discard(
    connection: &mut PgConnection,
    pipeline: &str,
    which: Which,
    all: bool,
    yes: bool,
    output: Output,
) -> anyhow::Result<Exit> {
    if !all && which.ids.is_empty() {
        complain("say which: --source and --id, or --all with any of the other options");
        return Ok(Exit::Usage);
    }
    let filter = which.filter();
    if !yes {
        let count = held::list(connection, pipeline, &filter, None, 1).await?.total;
        complain(&format!("{count} would be discarded. {DISCARDED} Add --yes to do it."));
        return Ok(Exit::Usage);
    }
    let count = held::discard(connection, pipeline, &filter).await?;
    say(&match (output, count) {
        (Output::Json, count) => pretty(&json!({ "discarded": count })),
        (Output::Text, 0) => "nothing that matches is held".to_owned(),
        (Output::Text, count) => format!("{count} discarded. {DISCARDED}"),
    });
    Ok(Exit::Fine)
}

async fn show(
    connection: &mut PgConnection,
    pipeline: &str,
    source: &str,
    id: &str,
    show_values: bool,
    output: Output,
) -> anyhow::Result<Exit> {
    let Some(kept) = held::find(connection, pipeline, source, id).await? else {
        complain(&format!("nothing is held for {} of {source}", printable(id)));
        return Ok(Exit::Findings);
    };
    let waits = held::waits(connection, pipeline, source, id).await?;
    let document = kept.document.as_deref().filter(|_| show_values).map(extended_json);
    say(&match output {
        Output::Json => {
            let mut shown = serde_json::to_value(&kept.change)?;
            shown["waits"] = serde_json::to_value(&waits)?;
            shown["hint"] = json!(kept.change.hint());
            if let Some(document) = document {
                shown["document"] = document;
            }
            pretty(&shown)
        }
        Output::Text => {
            let mut text = show_text(&kept.change, &waits);
            match (document, show_values) {
                (Some(document), _) => text.push_str(&format!("\n\n{}", pretty(&document))),
                (None, true) => text.push_str("\n\nthe document is not kept: read it in MongoDB"),
                (None, false) => {}
            }
            text
        }
    });
    Ok(Exit::Fine)
}

async fn export(
    connection: &mut PgConnection,
    pipeline: &str,
    filter: Filter,
    file: Option<PathBuf>,
) -> anyhow::Result<Exit> {
    let mut out: BufWriter<Box<dyn Write + Send>> = BufWriter::new(match &file {
        Some(path) => {
            Box::new(File::create(path).with_context(|| format!("cannot write {}", path.display()))?)
        }
        None => Box::new(std::io::stdout()),
    });
    let (mut written, mut without) = (0_u64, 0_u64);
    let mut after: Option<After> = None;
    loop {
        let page = held::kept(connection, pipeline, &filter, after.as_ref(), EXPORTED_AT_ONCE).await?;
        for kept in &page {
            without += u64::from(kept.document.is_none());
            written += 1;
            writeln!(out, "{}", exported(kept)?).context("cannot write the export")?;
        }
        let Some(last) = page.last() else { break };
        after = Some(After { source: last.change.source.clone(), source_id: last.change.source_id.clone() });
    }
    out.flush().context("cannot write the export")?;
    if let Some(path) = &file {
        let without = if without > 0 { format!(", {without} without the document") } else { String::new() };
        say(&format!("{written} written to {}{without}", path.display()));
    }
    Ok(Exit::Fine)
}

fn exported(kept: &Kept) -> anyhow::Result<Value> {
    let mut line = serde_json::to_value(&kept.change)?;
    line["document"] = kept.document.as_deref().map_or(Value::Null, extended_json);
    Ok(line)
}

/// What `bson` cannot read (text that is not UTF-8) is given as the bytes themselves.
fn extended_json(document: &[u8]) -> Value {
    match Document::from_reader(document) {
        Ok(document) => Bson::Document(document).into_canonical_extjson(),
        Err(_) => {
            let hex: String = document.iter().map(|byte| format!("{byte:02x}")).collect();
            json!({ "$bson_hex": hex })
        }
    }
}

fn list_text(page: &Page) -> String {
    if page.entries.is_empty() {
        return "nothing that matches is held".to_owned();
    }
    let mut table =
        Table::new(["state", "source", "source_id", "reason", "column", "tries", "held since", "message"]);
    for entry in &page.entries {
        table.row([
            entry.state.clone(),
            entry.source.clone(),
            entry.source_id.clone(),
            entry.reason.clone(),
            entry.column.clone().unwrap_or_else(|| "–".to_owned()),
            entry.attempts.to_string(),
            entry.first_held_at.clone(),
            entry.message.clone(),
        ]);
    }
    let mut text = table.text();
    if page.has_more {
        text.push_str(&format!("\n{} of {}: --limit shows more", page.entries.len(), page.total));
    }
    text
}

fn summary_text(groups: &[Group]) -> String {
    if groups.is_empty() {
        return "nothing that matches is held".to_owned();
    }
    let paragraphs = groups.iter().map(|group| {
        let place = match (&group.table, &group.column) {
            (Some(table), Some(column)) => format!("{table}.{column}"),
            (Some(table), None) => table.clone(),
            (None, column) => column.clone().unwrap_or_else(|| "a table that is no longer mapped".to_owned()),
        };
        let examples: Vec<String> = group.examples.iter().map(|id| printable(id)).collect();
        format!(
            "{:>6}  {} {} at {place}, from {}\n        since {}, {}\n        for example {}\n        → {}",
            group.count,
            group.state,
            group.reason,
            printable(&group.source),
            group.oldest,
            match group.most_attempts {
                1 => "tried once".to_owned(),
                tries => format!("tried up to {tries} times"),
            },
            examples.join(", "),
            group.hint,
        )
    });
    let paragraphs: Vec<String> = paragraphs.collect();
    paragraphs.join("\n\n")
}

fn show_text(change: &HeldChange, waits: &[WaitsFor]) -> String {
    let mut lines = vec![
        format!("source      {}", printable(&change.source)),
        format!("source_id   {}", printable(&change.source_id)),
        format!("table       {}", change.table.as_deref().unwrap_or("no longer mapped")),
        format!("state       {}", change.state),
        format!("reason      {}", change.reason),
        format!("column      {}", change.column.as_deref().unwrap_or("–")),
        format!("message     {}", change.message),
        format!("what to do  {}", change.hint()),
        format!("held since  {}", change.first_held_at),
        format!("last try    {} ({} so far)", change.last_attempt_at, change.attempts),
    ];
    if let Some(next) = &change.next_attempt_at {
        lines.push(format!("next try    {next}"));
    }
    if let Some(resolved) = &change.resolved_at {
        lines.push(format!("resolved    {resolved}"));
    }
    lines.extend(waits.iter().map(wait_text));
    lines.join("\n")
}

/// `waits for   source users 42, since …`
pub(super) fn wait_text(wait: &WaitsFor) -> String {
    let id = wait.source_id.as_deref().map(|id| format!(" {}", printable(id))).unwrap_or_default();
    let stub = if wait.stub { ", a stub stands in for it" } else { "" };
    let due = if wait.due { ", which has come: it is read again" } else { "" };
    format!("waits for   {}{id}, since {}{stub}{due}", wait.awaited, wait.since)
}

fn pretty(value: &Value) -> String {
    // Writing a Value cannot fail: its keys are text.
    serde_json::to_string_pretty(value).unwrap_or_default()
}
