//! docs/MAPPING.md keeps its word: every example of the page is run on real servers.
//!
//! An example is fenced blocks with `example` in their first line, in this order: `yaml` (one mapping; where it
//! begins with `- source:` or `mappings:`, several), `sql` (the tables), `json` (documents, one per line; a
//! word after `example` names their collection), `text` (the rows; a word after it names their table).
//! Documents behind a `+` are put, those behind a `-` deleted, once the others are copied. Rows of `held:` name
//! the id, the column and the reason of what is held.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use bson::{Document, doc};
use serde_json::Value;
use sqlx::Row;

use crate::daemon::command;
use crate::stage::Stage;

const PAGES: [(&str, &str); 1] = [("docs/MAPPING.md", include_str!("../../docs/MAPPING.md"))];

#[derive(Debug, Default)]
struct Example {
    /// Page and heading.
    place: String,
    mapping: String,
    tables: String,
    /// (collection, line).
    documents: Vec<(String, String)>,
    /// Table → text.
    rows: BTreeMap<String, String>,
}

fn examples() -> Result<Vec<Example>> {
    let mut examples: Vec<Example> = Vec::new();
    for (page, text) in PAGES {
        let (mut heading, mut lines) = ("", text.lines().enumerate());
        while let Some((number, line)) = lines.next() {
            if line.starts_with('#') {
                heading = line.trim_start_matches(['#', ' ']);
            }
            let Some(words) = line.strip_prefix("```") else { continue };
            let words: Vec<&str> = words.split_whitespace().collect();
            let body: Vec<&str> =
                lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```").collect();
            let [language, "example", rest @ ..] = words.as_slice() else { continue };
            let name = rest.first().map_or("", |name| name).to_owned();
            if *language == "yaml" {
                let place = format!("{page}:{} ({heading})", number + 1);
                examples.push(Example { place, mapping: body.join("\n"), ..Example::default() });
                continue;
            }
            let example = examples.last_mut().with_context(|| format!("{page}: no yaml before {line}"))?;
            match *language {
                "sql" => example.tables = body.join("\n"),
                "json" => {
                    example.documents.extend(body.iter().map(|line| (name.clone(), (*line).to_owned())))
                }
                "text" => drop(example.rows.insert(name, body.join("\n"))),
                other => bail!("{}: a block of {other} in an example", example.place),
            }
        }
    }
    Ok(examples)
}

impl Example {
    fn is_whole(&self) -> bool {
        self.mapping.starts_with("mappings:") || self.mapping.starts_with("- source:")
    }

    /// Below `mappings:`, with what an example leaves out.
    fn mappings(&self, database: &str) -> String {
        if self.is_whole() {
            let lines = self.mapping.lines().filter(|line| *line != "mappings:");
            return lines
                .map(|line| format!("  {}\n", line.replace("shop.", &format!("{database}."))))
                .collect();
        }
        let has = |key: &str| self.mapping.lines().any(|line| line.starts_with(&format!("{key}:")));
        let mut text = format!("  - source: example\n    collection: {database}.documents\n");
        let table = format!("table: {}", self.table(""));
        let left_out = [
            ("id_type", "id_type: string"),
            ("key", "key: { source: null, source_id: id }"),
            ("table", &table),
        ];
        for (key, line) in left_out {
            if !has(key) {
                text.push_str(&format!("    {line}\n"));
            }
        }
        text.extend(self.mapping.lines().map(|line| format!("    {line}\n")));
        text
    }

    /// The table that is made first, if none is named.
    fn table<'e>(&'e self, name: &'e str) -> &'e str {
        let made = self.tables.split("create table ").nth(1);
        let first = made.and_then(|rest| rest.split([' ', '(']).next()).unwrap_or("documents");
        if name.is_empty() { first } else { name }
    }

    async fn run(&self, number: usize) -> Result<()> {
        let stage = Stage::new(&format!("docs_{number}")).await?;
        if !self.tables.is_empty() {
            stage.execute(&self.tables).await?;
        }
        let config = stage.config(&self.mappings(&stage.name));
        let later = |line: &str| line.starts_with(['+', '-']);
        for (collection, line) in self.documents.iter().filter(|(_, line)| !later(line)) {
            let collection = if collection.is_empty() { "documents" } else { collection };
            stage.collection(collection).insert_one(parsed(line)?).await?;
        }
        catch_up(&config)?;
        if self.documents.iter().any(|(_, line)| later(line)) {
            for (collection, line) in self.documents.iter().filter(|(_, line)| later(line)) {
                let name = if collection.is_empty() { "documents" } else { collection };
                let document = parsed(&line[1..])?;
                let id = doc! { "_id": document.get("_id").context("no _id")?.clone() };
                match line.starts_with('-') {
                    true => {
                        stage.collection(name).delete_one(id).await?;
                    }
                    false => {
                        let collection = stage.collection(name);
                        collection.replace_one(id, document).upsert(true).await?;
                    }
                }
            }
            catch_up(&config)?;
        }
        for (name, expected) in &self.rows {
            let found = rows(&stage, self.table(name), expected).await?;
            let expected: Vec<String> =
                normal(expected).into_iter().filter(|line| !line.starts_with(HELD)).collect();
            ensure!(found == expected, "expected\n{}\nfound\n{}", expected.join("\n"), found.join("\n"));
        }
        let told = self.rows.values().flat_map(|text| normal(text)).filter(|line| line.starts_with(HELD));
        let (told, held) = (told.collect::<Vec<_>>(), held(&stage).await?);
        ensure!(told == held, "expected\n{}\nfound\n{}", told.join("\n"), held.join("\n"));
        Ok(())
    }
}

fn parsed(line: &str) -> Result<Document> {
    let json: serde_json::Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
    Ok(Document::try_from(json.as_object().context("not an object")?.clone())?)
}

fn catch_up(config: &str) -> Result<()> {
    let output = command(&["run", "--until-caught-up"], config)?;
    // 1: something is held, which an example may show.
    ensure!(matches!(output.status.code(), Some(0 | 1)), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Cells without the blanks that align them.
fn normal(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| !line.trim().is_empty() && !line.contains("-+-"));
    lines.map(|line| line.split('|').map(str::trim).collect::<Vec<_>>().join(" | ")).collect()
}

/// How a line begins that tells what is held.
const HELD: &str = "held: ";

/// The table as the example shows it: its header, its rows by the first column.
async fn rows(stage: &Stage, table: &str, expected: &str) -> Result<Vec<String>> {
    let mut connection = stage.postgres().await?;
    sqlx::query("set time zone 'UTC'").execute(&mut connection).await?;
    let header = normal(expected).first().cloned().context("no header")?;
    let columns: Vec<String> =
        header.split(" | ").map(|name| format!("coalesce(\"{name}\"::text, 'null')")).collect();
    let sql = format!("select concat_ws(' | ', {}) from {table} order by 1", columns.join(", "));
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(&mut connection).await?;
    let mut found = vec![header];
    found.extend(rows.iter().map(|row| row.get::<String, _>(0)));
    Ok(found)
}

async fn held(stage: &Stage) -> Result<Vec<String>> {
    let mut connection = stage.postgres().await?;
    let held = "select concat('held: ', source_id, ', column ', column_name, ', ', reason)
                from rowstream.held where state <> 'resolved' order by 1";
    let rows = sqlx::query(held).fetch_all(&mut connection).await?;
    Ok(rows.iter().map(|row| row.get::<String, _>(0)).collect())
}

#[tokio::test]
async fn every_example_of_the_mapping_reference_does_what_it_shows() -> Result<()> {
    let examples = examples()?;
    ensure!(examples.len() >= 20, "only {} examples were found", examples.len());
    let mut wrong = Vec::new();
    for (number, example) in examples.iter().enumerate() {
        if let Err(error) = example.run(number).await {
            wrong.push(format!("{}: {error:#}", example.place));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    Ok(())
}

/// Names of `properties`, wherever they stand.
fn keys(schema: &Value, definitions: &Value, found: &mut BTreeSet<String>) {
    match schema {
        Value::Array(items) => items.iter().for_each(|item| keys(item, definitions, found)),
        Value::Object(fields) => {
            for (name, field) in fields {
                match (name.as_str(), field) {
                    ("properties", Value::Object(properties)) => {
                        for (name, property) in properties {
                            found.insert(name.clone());
                            keys(property, definitions, found);
                        }
                    }
                    ("$ref", Value::String(name)) => {
                        let name = name.trim_start_matches("#/definitions/");
                        if found.insert(format!("#{name}")) {
                            keys(&definitions[name], definitions, found);
                        }
                    }
                    (_, field) => keys(field, definitions, found),
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn every_key_of_a_mapping_stands_in_an_example_that_is_run() -> Result<()> {
    let schema: Value = serde_json::from_str(include_str!("../../config/schema.json"))?;
    let mut all = BTreeSet::new();
    keys(&schema["properties"]["mappings"], &schema["definitions"], &mut all);
    all.retain(|key| !key.starts_with('#'));
    ensure!(all.contains("columns") && all.contains("strip_prefix"), "these are not the keys: {all:?}");
    let examples: String = examples()?.into_iter().map(|example| example.mapping + "\n").collect();
    let words: BTreeSet<&str> = examples
        .split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$' || c == ':'))
        .filter_map(|word| word.strip_suffix(':'))
        .collect();
    // A program of one's own: tests/it/custom.rs.
    all.remove("transform");
    let without: Vec<&String> = all.iter().filter(|key| !words.contains(key.as_str())).collect();
    ensure!(without.is_empty(), "no example has {without:?}");
    Ok(())
}
