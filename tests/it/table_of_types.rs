//! docs/TYPES.md keeps its word: each cell of its table of BSON types and column types is tried, and what was
//! written is compared with what PostgreSQL itself makes of the value's text.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use bson::oid::ObjectId;
use bson::spec::BinarySubtype;
use bson::{Binary, Bson, DateTime, Decimal128, JavaScriptCodeWithScope, Regex, Timestamp, doc};

use crate::daemon::command;
use crate::stage::Stage;

const PAGE: &str = include_str!("../../docs/TYPES.md");
/// Ends the heading of the table that is read.
const TABLE: &str = "## At a glance";

/// Cells that must be exact, whatever becomes of the page.
const MUST_BE_EXACT: &str = "
    bool: boolean json jsonb
    int: integer bigint double numeric json jsonb
    long: bigint numeric json jsonb
    double: double json jsonb
    decimal: numeric json jsonb
    string: text json jsonb
    objectId: text json jsonb
    uuid: text uuid json jsonb
    binary: bytea json jsonb
    date: timestamptz timestamp json jsonb
    document: json jsonb
    array: json jsonb
    regex: json jsonb
    timestamp: json jsonb
    javascript: json jsonb
    minKey: json jsonb
    maxKey: json jsonb";

/// Columns of the table, as SQL.
fn column_sql(name: &str) -> &str {
    match name {
        "double" => "double precision",
        "numeric(p,s)" => "numeric(12,2)",
        "varchar(n)" => "varchar(60)",
        "enum" => "mood",
        "timestamp" => "timestamp(3)",
        other => other,
    }
}

/// The rule that a cell with the word `rule` stands for.
fn rule(column: &str) -> Option<&'static str> {
    Some(match column {
        "boolean" => "boolean",
        "smallint" | "integer" | "bigint" | "real" | "double" | "numeric" | "numeric(p,s)" => "number",
        "date" | "timestamptz" | "timestamp" => "[iso8601, unix_milliseconds]",
        "text[]" => "[array, text]",
        "json" | "jsonb" => "json",
        "uuid" | "bytea" => return None,
        _ => "text",
    })
}

/// A value, and the text that PostgreSQL is given of it; `None`: no column of another type can hold it.
fn samples(bson_type: &str) -> Result<Vec<(Bson, Option<&'static str>)>> {
    let decimal = |text: &str| text.parse::<Decimal128>().map(Bson::from);
    let date = |text: &str| DateTime::parse_rfc3339_str(text).map(Bson::from);
    let some = |value: Bson, text| (value, Some(text));
    let id = ObjectId::parse_str("5f43a1b2c3d4e5f60718293a")?;
    let binary = |subtype, bytes: Vec<u8>| Bson::from(Binary { subtype, bytes });
    Ok(match bson_type {
        "bool" => vec![some(true.into(), "true"), some(false.into(), "false")],
        "int" => vec![some(0.into(), "0"), some(1.into(), "1"), some(i32::MIN.into(), "-2147483648")],
        "long" => vec![
            some(0_i64.into(), "0"),
            some(7_i64.into(), "7"),
            some(i64::MAX.into(), "9223372036854775807"),
            some(9_007_199_254_740_993_i64.into(), "9007199254740993"),
        ],
        "double" => vec![
            some(0.0.into(), "0"),
            some(2.0.into(), "2"),
            some(0.1.into(), "0.1"),
            some((-1.5).into(), "-1.5"),
            some(1e300.into(), "1e300"),
            some(f64::NAN.into(), "NaN"),
        ],
        "decimal" => vec![
            some(decimal("0")?, "0"),
            some(decimal("1.10")?, "1.10"),
            some(decimal("-0.5")?, "-0.5"),
            some(decimal("1E+3")?, "1000"),
            some(decimal("1234567890123456789012345678901234")?, "1234567890123456789012345678901234"),
        ],
        "string" => vec![
            some("happy".into(), "happy"),
            some("12.50".into(), "12.50"),
            some("7".into(), "7"),
            some("".into(), ""),
            some(
                "a text that is longer than the sixty characters which its column has room for".into(),
                "a text that is longer than the sixty characters which its column has room for",
            ),
            some("é\\\"{,}".into(), "é\\\"{,}"),
            some("yes".into(), "yes"),
            some("2025-09-01T10:14:35.120Z".into(), "2025-09-01T10:14:35.120Z"),
            some("2025-09-01".into(), "2025-09-01"),
            some("6ba7b811-9dad-11d1-80b4-00c04fd430c8".into(), "6ba7b811-9dad-11d1-80b4-00c04fd430c8"),
        ],
        "symbol" => vec![some(Bson::Symbol("happy".into()), "happy")],
        "objectId" => vec![some(id.into(), "5f43a1b2c3d4e5f60718293a")],
        "uuid" => {
            let bytes = bson::Uuid::parse_str("6ba7b811-9dad-11d1-80b4-00c04fd430c8")?.bytes();
            let uuid = binary(BinarySubtype::Uuid, bytes.to_vec());
            vec![some(uuid, "6ba7b811-9dad-11d1-80b4-00c04fd430c8")]
        }
        "binary" => vec![some(binary(BinarySubtype::Generic, vec![0, 0xff]), "\\x00ff")],
        "date" => vec![
            some(date("2025-09-01T10:14:35.123Z")?, "2025-09-01T10:14:35.123Z"),
            some(date("2025-09-01T00:00:00Z")?, "2025-09-01T00:00:00Z"),
            some(date("1969-12-31T23:59:59.999Z")?, "1969-12-31T23:59:59.999Z"),
        ],
        "timestamp" => vec![(Timestamp { time: 1, increment: 2 }.into(), None)],
        "document" => vec![(doc! { "a": { "b": [1, null] } }.into(), None), (doc! {}.into(), None)],
        "array" => vec![
            some(
                Bson::Array(vec!["a".into(), "NULL".into(), Bson::Null, "b,\" c".into()]),
                "{a,\"NULL\",NULL,\"b,\\\" c\"}",
            ),
            some(Bson::Array(vec![]), "{}"),
            some(Bson::Array(vec![1.into(), 2_i64.into()]), "{1,2}"),
        ],
        "regex" => vec![(
            Bson::RegularExpression(Regex { pattern: "a".try_into()?, options: "i".try_into()? }),
            None,
        )],
        "javascript" => vec![
            (Bson::JavaScriptCode("x".into()), None),
            (
                Bson::JavaScriptCodeWithScope(JavaScriptCodeWithScope {
                    code: "x".into(),
                    scope: doc! { "a": 1 },
                }),
                None,
            ),
        ],
        "minKey" => vec![(Bson::MinKey, None)],
        "maxKey" => vec![(Bson::MaxKey, None)],
        "undefined" => vec![(Bson::Undefined, None)],
        other => anyhow::bail!("no samples of {other}: add some here"),
    })
}

/// BSON type → column → word.
type Words = BTreeMap<String, BTreeMap<String, String>>;

fn table() -> Result<(Vec<String>, Words)> {
    let text = PAGE.split(TABLE).nth(1).context("the page has no such table")?;
    let rows =
        text.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect()
    };
    let mut rows = rows.map(cells).filter(|cells| !cells[0].starts_with("---"));
    let columns: Vec<String> = rows.next().context("no header")?.into_iter().skip(1).collect();
    let types = rows.map(|cells| {
        let words = columns.iter().cloned().zip(cells[1..].iter().cloned()).collect();
        (cells[0].clone(), words)
    });
    Ok((columns.clone(), types.collect()))
}

#[test]
fn the_cells_that_must_be_exact_are_exact_on_the_page() -> Result<()> {
    let (_, table) = table()?;
    for line in MUST_BE_EXACT.lines().filter(|line| !line.trim().is_empty()) {
        let (bson_type, columns) = line.split_once(':').context("a type and its columns")?;
        for column in columns.split_whitespace() {
            let word = table.get(bson_type.trim()).and_then(|row| row.get(column));
            ensure!(word.map(String::as_str) == Some("exact"), "{bson_type} × {column} is {word:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn each_cell_of_the_table_of_types_is_as_postgresql_says() -> Result<()> {
    let (columns, table) = table()?;
    let stage = Stage::new("types_table").await?;
    stage.execute("create type mood as enum ('happy', 'sad')").await?;
    let mut mappings = String::new();
    for (place, column) in columns.iter().enumerate() {
        for (name, rules) in [
            ("plain", String::new()),
            ("ruled", rule(column).map_or_else(String::new, |rule| format!(", as: {rule}"))),
        ] {
            let table = format!("{name}_{place}");
            stage
                .execute(&format!("create table {table} (id text primary key, c {})", column_sql(column)))
                .await?;
            mappings.push_str(&format!(
                "  - {{ source: {table}, collection: {}.samples, table: {table}, id_type: string,
        key: {{ source: null, source_id: id }}, columns: {{ c: {{ from: c{rules} }} }} }}\n",
                stage.name
            ));
        }
    }
    let mut documents = Vec::new();
    for bson_type in table.keys() {
        for (place, (value, _)) in samples(bson_type)?.into_iter().enumerate() {
            documents.push(doc! { "_id": format!("{bson_type} {place}"), "c": value });
        }
    }
    stage.collection("samples").insert_many(documents).await?;
    // Most of them are meant to be held.
    let config = stage.config(&mappings).replace("held: { ", "held: { limit: 0, ");
    let output = command(&["run", "--until-caught-up"], &config)?;
    // 1: something is held.
    ensure!(output.status.code() == Some(1), "{}", String::from_utf8_lossy(&output.stderr));

    let mut connection = stage.postgres().await?;
    let mut wrong = Vec::new();
    for (place, column) in columns.iter().enumerate() {
        for (bson_type, row) in &table {
            let word = row.get(column).context("a cell")?.as_str();
            let (mut stored, mut held, mut ruled) = (0, 0, 0);
            for (sample, (value, text)) in samples(bson_type)?.into_iter().enumerate() {
                let id = format!("{bson_type} {sample}");
                let sql = format!(
                    "select (select count(*) from plain_{place} where id = $1),
                            (select count(*) from ruled_{place} where id = $1)"
                );
                let (plain, by_rule): (i64, i64) =
                    sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(&id).fetch_one(&mut connection).await?;
                ruled += by_rule;
                if plain == 0 {
                    held += 1;
                    continue;
                }
                let is_json = column.starts_with("json");
                let sql = match (is_json, text) {
                    // What another program makes of the value's extended JSON.
                    (true, _) => format!("select c::jsonb = $2::jsonb from plain_{place} where id = $1"),
                    // Both as they are and as they print: numeric calls 1.10 and 1.1 equal.
                    (false, _) => format!(
                        "select c is not distinct from $2::text::{0} and c::text = ($2::text::{0})::text
                         from plain_{place} where id = $1",
                        column_sql(column)
                    ),
                };
                let json = value.clone().into_relaxed_extjson().to_string();
                let text = if is_json { Some(json.as_str()) } else { text };
                let equal: Result<Option<bool>, sqlx::Error> = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
                    .bind(&id)
                    .bind(text)
                    .fetch_one(&mut connection)
                    .await;
                match equal {
                    Ok(Some(true)) => stored += 1,
                    Ok(_) => wrong.push(format!("{id} × {column}: stored otherwise than PostgreSQL does")),
                    Err(error) => {
                        wrong.push(format!("{id} × {column}: stored, but PostgreSQL refuses it: {error}"));
                    }
                }
            }
            let is_right = match word {
                "exact" => held == 0 && stored > 0,
                "fits" => stored > 0,
                "rule" => stored == 0 && ruled > 0,
                "held" => stored == 0 && ruled == 0,
                _ => false,
            };
            if !is_right {
                wrong.push(format!(
                    "{bson_type} × {column} is {word:?}, but {stored} were stored, {held} held, {ruled} by rule"
                ));
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}
