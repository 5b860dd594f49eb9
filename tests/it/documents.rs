//! Documents that mongod stores and drivers choke on: each is written or held, by snapshot and by stream, and none
//! of them stops the batch it came with.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use bson::doc;
use bson::raw::RawDocumentBuf;
use sqlx::{Connection, Row};

use crate::daemon::{Daemon, PATIENCE};
use crate::oracle::Plain;
use crate::stage::Stage;
use crate::support::until;

const DOUBLE: u8 = 0x01;
const STRING: u8 = 0x02;
const DOCUMENT: u8 = 0x03;
const ARRAY: u8 = 0x04;
const BINARY: u8 = 0x05;
const REGEX: u8 = 0x0B;
const POINTER: u8 = 0x0C;
const INT: u8 = 0x10;
const TIMESTAMP: u8 = 0x11;

fn element(kind: u8, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Vec<u8> {
    [&[kind], name.as_ref(), &[0], value.as_ref()].concat()
}

fn document(elements: &[Vec<u8>]) -> Vec<u8> {
    let elements = elements.concat();
    let length = elements.len() as i32 + 5;
    [&length.to_le_bytes()[..], &elements, &[0]].concat()
}

fn string(text: impl AsRef<[u8]>) -> Vec<u8> {
    let text = text.as_ref();
    [&(text.len() as i32 + 1).to_le_bytes()[..], text, &[0]].concat()
}

fn int(value: i32) -> Vec<u8> {
    value.to_le_bytes().to_vec()
}

/// What becomes of a document.
#[derive(Debug, Clone, PartialEq)]
enum Outcome {
    /// The row's JSON, without `_id` and `last`.
    Stored(String),
    /// The reason.
    Held(&'static str),
}

use Outcome::{Held, Stored};

struct Case {
    name: &'static str,
    /// The elements between `_id` and `last`.
    elements: Vec<Vec<u8>>,
    outcome: Outcome,
}

fn case(name: &'static str, elements: Vec<Vec<u8>>, outcome: Outcome) -> Case {
    Case { name, elements, outcome }
}

fn stored(json: &str) -> Outcome {
    Stored(json.to_owned())
}

/// `levels` documents or arrays, one in the other, around a 1.
fn nested(kind: u8, levels: usize) -> (Vec<u8>, String) {
    let name = if kind == ARRAY { "0" } else { "d" };
    let mut value = element(INT, name, int(1));
    for _ in 1..levels {
        value = element(kind, name, document(&[value]));
    }
    let (open, close) = if kind == ARRAY { ("[", "]") } else { ("{\"d\":", "}") };
    (document(&[value]), format!("{}1{}", open.repeat(levels), close.repeat(levels)))
}

fn text_that_is_no_utf8() -> Vec<Case> {
    let bytes: [(&str, &[u8]); 4] = [
        ("a lone surrogate", b"a\xED\xA0\x80"),
        ("an overlong NUL", b"a\xC0\x80"),
        ("latin 1", b"caf\xE9"),
        ("cut in a character", b"caf\xC3"),
    ];
    let mut cases: Vec<Case> = bytes
        .map(|(name, bytes)| case(name, vec![element(STRING, "t", string(bytes))], Held("invalid_utf8")))
        .into();
    let name = element(INT, b"\xFF", int(1));
    cases.push(case("a name that is not UTF-8", vec![name], Held("invalid_utf8")));
    let deep = document(&[element(STRING, "t", string(b"\xFF"))]);
    cases.push(case("not UTF-8 in an array", vec![element(ARRAY, "l", deep)], Held("invalid_utf8")));
    cases.push(case("NUL in text", vec![element(STRING, "t", string("a\0b"))], Held("nul_character")));
    cases
}

fn names() -> Vec<Case> {
    let long = "k".repeat(5_000);
    let one = |name: &str| element(INT, name, int(1));
    let all =
        ["op", "id", "_data", "ns", "documentKey", "0", "a b", "tab\t", "quote\"", "\\", "é", "\u{2028}"];
    let all_json: BTreeMap<&str, i32> = all.map(|name| (name, 1)).into();
    let inner = document(&[one("b")]);
    vec![
        case("an empty name", vec![one("")], stored(r#"{"": 1}"#)),
        case(
            "a name with dots",
            vec![one("a.b"), element(DOCUMENT, "a", inner)],
            stored(r#"{"a.b": 1, "a": {"b": 1}}"#),
        ),
        case("a name of 5000 bytes", vec![one(&long)], Stored(format!(r#"{{"{long}": 1}}"#))),
        case(
            "names that mean something elsewhere",
            all.map(one).into(),
            Stored(serde_json::json!(all_json).to_string()),
        ),
        case("a name twice", vec![one("a"), one("a")], Held("duplicate_field")),
        case(
            "a name twice in a document",
            vec![element(DOCUMENT, "d", document(&[one("a"), one("b"), one("a")]))],
            Held("duplicate_field"),
        ),
        case(
            "an array with wrong names",
            vec![element(ARRAY, "l", document(&[one("7"), one(""), element(INT, "x", int(2))]))],
            stored(r#"{"l": [1, 1, 2]}"#),
        ),
        case(
            "nothing in everything",
            vec![
                element(DOCUMENT, "d", document(&[])),
                element(ARRAY, "l", document(&[])),
                element(STRING, "t", string("")),
            ],
            stored(r#"{"d": {}, "l": [], "t": ""}"#),
        ),
    ]
}

/// Documents of the user's own that look like something else.
fn look_alikes() -> Vec<Case> {
    let text = |name: &str, value: &str| element(STRING, name, string(value));
    let wrapped = |elements: &[Vec<u8>]| vec![element(DOCUMENT, "d", document(elements))];
    vec![
        case(
            "a reference",
            wrapped(&[text("$ref", "c"), element(INT, "$id", int(1)), text("$db", "x")]),
            stored(r#"{"d": {"$ref": "c", "$id": 1, "$db": "x"}}"#),
        ),
        case(
            "a reference of wrong types",
            wrapped(&[
                element(INT, "$ref", int(1)),
                element(DOCUMENT, "$id", document(&[])),
                element(INT, "$db", int(2)),
            ]),
            stored(r#"{"d": {"$ref": 1, "$id": {}, "$db": 2}}"#),
        ),
        case(
            "half a reference at the top",
            vec![element(INT, "$id", int(1)), text("$ref", "c")],
            stored(r#"{"$id": 1, "$ref": "c"}"#),
        ),
        case("like an ObjectId", wrapped(&[text("$oid", "5f")]), stored(r#"{"d": {"$$oid": "5f"}}"#)),
        case("like a long", wrapped(&[text("$numberLong", "5")]), stored(r#"{"d": {"$$numberLong": "5"}}"#)),
        case("like an operator", wrapped(&[element(INT, "$type", int(2))]), stored(r#"{"d": {"$type": 2}}"#)),
        case("escaped already", wrapped(&[text("$$oid", "5f")]), stored(r#"{"d": {"$$$oid": "5f"}}"#)),
    ]
}

fn values() -> Vec<Case> {
    let binary = |subtype: u8, bytes: &[u8]| {
        let length = (bytes.len() as i32).to_le_bytes();
        element(BINARY, "b", [&length[..], &[subtype], bytes].concat())
    };
    let base64 = |subtype: &str, text: &str| {
        Stored(format!(r#"{{"b": {{"$binary": {{"base64": "{text}", "subType": "{subtype}"}}}}}}"#))
    };
    let stamp = element(TIMESTAMP, "s", [0; 8]);
    let pointer = [string("c").as_slice(), &[0xAA; 12]].concat();
    // A NaN with a payload; both signs of it are one to PostgreSQL and to extended JSON.
    let nan = 0xFFF8_0000_0000_0001_u64.to_le_bytes();
    vec![
        case("an old binary of wrong length", vec![binary(2, &[9, 0, 0, 0, 1])], Held("malformed")),
        case("an old binary too short for a length", vec![binary(2, &[1])], Held("malformed")),
        case("an old binary", vec![binary(2, &[1, 0, 0, 0, 0xFF])], base64("02", "/w==")),
        case("a vector", vec![binary(9, &[3, 0, 1])], base64("09", "AwAB")),
        case("an encrypted binary", vec![binary(6, &[1])], base64("06", "AQ==")),
        case("an empty binary", vec![binary(0x80, &[])], base64("80", "")),
        case("an md5", vec![binary(5, &[0; 3])], base64("05", "AAAA")),
        case("an old uuid that is too short", vec![binary(3, &[0; 3])], base64("03", "AAAA")),
        case(
            "a nested zero timestamp",
            vec![element(DOCUMENT, "d", document(&[stamp]))],
            stored(r#"{"d": {"s": {"$timestamp": {"t": 0, "i": 0}}}}"#),
        ),
        case(
            "a pointer",
            vec![element(POINTER, "p", pointer)],
            stored(r#"{"p": {"$dbPointer": {"$ref": "c", "$id": {"$oid": "aaaaaaaaaaaaaaaaaaaaaaaa"}}}}"#),
        ),
        case(
            "options of no regular expression",
            vec![element(REGEX, "r", b"(/\0xim\0"), element(REGEX, "e", b"\0\0")],
            stored(
                r#"{"r": {"$regularExpression": {"pattern": "(/", "options": "imx"}}, "e": {"$regularExpression": {"pattern": "", "options": ""}}}"#,
            ),
        ),
        case(
            "a NaN of its own",
            vec![element(DOUBLE, "n", nan)],
            stored(r#"{"n": {"$numberDouble": "NaN"}}"#),
        ),
    ]
}

fn depths_and_lengths() -> Vec<Case> {
    let many: Vec<Vec<u8>> =
        (0..100_000).map(|index| element(INT, index.to_string(), int(index % 7))).collect();
    let json = (0..100_000).map(|index| (index % 7).to_string()).collect::<Vec<_>>().join(",");
    let mut cases = vec![case(
        "100 000 elements",
        vec![element(ARRAY, "l", document(&many))],
        Stored(format!(r#"{{"l": [{json}]}}"#)),
    )];
    // The document itself is a level, and mongod takes 180.
    for (name, kind, levels) in
        [("100 levels", DOCUMENT, 99), ("180 levels", DOCUMENT, 179), ("180 levels of arrays", ARRAY, 179)]
    {
        let (value, json) = nested(kind, levels);
        cases.push(case(name, vec![element(kind, "v", value)], Stored(format!(r#"{{"v": {json}}}"#))));
    }
    cases
}

fn cases() -> Vec<Case> {
    let mut cases = text_that_is_no_utf8();
    cases.extend(names());
    cases.extend(look_alikes());
    cases.extend(values());
    cases.extend(depths_and_lengths());
    cases
}

/// All of them in one command, a good one after each.
async fn insert(stage: &Stage, prefix: &str) -> Result<()> {
    let mut documents = Vec::new();
    for case in cases() {
        for (id, elements) in [
            (format!("{prefix} {}", case.name), case.elements),
            (format!("{prefix} after {}", case.name), vec![]),
        ] {
            let mut all = vec![element(STRING, "_id", string(id))];
            all.extend(elements);
            all.push(element(INT, "last", int(0)));
            documents.push(element(DOCUMENT, documents.len().to_string(), document(&all)));
        }
    }
    let concern = document(&[element(STRING, "w", string("majority"))]);
    let command = document(&[
        element(STRING, "insert", string("things")),
        element(ARRAY, "documents", document(&documents)),
        element(DOCUMENT, "writeConcern", concern),
    ]);
    let reply = stage.database.run_raw_command(RawDocumentBuf::from_bytes(command)?).await?;
    ensure!(reply.get_i32("n")? == documents.len() as i32, "{reply}");
    Ok(())
}

/// The outcome of each, as far as it has one.
async fn outcomes(stage: &Stage, prefix: &str, last: i32) -> Result<BTreeMap<&'static str, String>> {
    let mut connection = stage.postgres().await?;
    let mut outcomes = BTreeMap::new();
    for case in cases() {
        let id = format!("{prefix} {}", case.name);
        let json = match &case.outcome {
            Stored(json) => json.as_str(),
            Held(_) => "null",
        };
        let row = sqlx::query(
            "select (select document - '_id' - 'last' = $2::jsonb from things where source_id = $1 and document->>'last' = $3),
                    (select reason from rowstream.held where source_id = $1 and state <> 'resolved'),
                    (select count(*) from things where source_id = $4)",
        )
        .bind(&id)
        .bind(json)
        .bind(last.to_string())
        .bind(format!("{prefix} after {}", case.name))
        .fetch_one(&mut connection)
        .await?;
        let (equal, reason, after): (Option<bool>, Option<String>, i64) =
            (row.get(0), row.get(1), row.get(2));
        let found = match (equal, reason, &case.outcome) {
            (Some(true), None, Stored(_)) => "right".to_owned(),
            (None, Some(reason), Held(expected)) if reason == *expected => "right".to_owned(),
            (equal, reason, expected) => {
                let expected = if matches!(expected, Stored(_)) { "stored" } else { "held" };
                format!("a row that is equal: {equal:?}, held: {reason:?}, but it is to be {expected}")
            }
        };
        outcomes.insert(
            case.name,
            if after == 1 { found } else { format!("{found}, and the next one is missing") },
        );
    }
    connection.close().await?;
    Ok(outcomes)
}

async fn become_right(stage: &Stage, daemon: &Daemon, prefix: &str, last: i32) -> Result<()> {
    let mut wrong = BTreeMap::new();
    let right = until("every document to have its outcome", PATIENCE, async || {
        wrong = outcomes(stage, prefix, last).await.unwrap_or_default();
        let all = wrong.len();
        wrong.retain(|_, outcome| outcome != "right");
        Ok((all > 0 && wrong.is_empty()).then_some(()))
    });
    right.await.with_context(|| format!("{prefix}: {wrong:#?}\n{}", daemon.last_words()))
}

#[tokio::test]
async fn every_document_that_mongod_takes_is_written_or_held_and_stops_nobody() -> Result<()> {
    let stage = Stage::new("documents").await?;
    insert(&stage, "copied").await?;
    let mapping = stage.whole("things").replace("allow_empty", "id_type: string, allow_empty");
    let daemon = Daemon::start(&stage.config(&mapping))?;
    become_right(&stage, &daemon, "copied", 0).await?;
    insert(&stage, "followed").await?;
    become_right(&stage, &daemon, "followed", 0).await?;

    // An update is read again: by look-up, they are the same.
    let things = stage.collection("things");
    things.update_many(doc! {}, doc! { "$set": { "last": 1 } }).await?;
    for prefix in ["copied", "followed"] {
        become_right(&stage, &daemon, prefix, 1).await?;
    }
    things.delete_many(doc! {}).await?;
    let left = "select (select count(*) from things) + (select count(*) from rowstream.held where state <> 'resolved')";
    let gone =
        until("nothing to be left", PATIENCE, async || Ok((stage.number(left).await? == 0).then_some(())));
    gone.await.with_context(|| daemon.last_words())?;
    assert!(daemon.stop().await?.success());
    Ok(())
}

/// A flaw in a field that no column takes is nobody's concern.
#[tokio::test]
async fn what_no_column_takes_may_be_as_broken_as_it_likes() -> Result<()> {
    let stage = Stage::new("unmapped").await?;
    stage
        .execute("create table things (source text, source_id text, n int, primary key (source, source_id))")
        .await?;
    insert(&stage, "copied").await?;
    let mapping = format!(
        "  - {{ source: things, collection: {}.things, table: things, id_type: string, columns: {{ n: last }} }}\n",
        stage.name
    );
    let daemon = Daemon::start(&stage.config(&mapping))?;
    let all = cases().len() as i64 * 2;
    let count = async |expected: i64| {
        let rows = until("all rows", PATIENCE, async || {
            Ok((stage.number("select count(*) from things where n = 0").await? == expected).then_some(()))
        });
        rows.await.with_context(|| daemon.last_words())
    };
    count(all).await?;
    insert(&stage, "followed").await?;
    count(2 * all).await?;
    assert_eq!(stage.number("select count(*) from rowstream.held").await?, 0);
    assert!(daemon.stop().await?.success());
    Ok(())
}

#[tokio::test]
async fn documents_of_sixteen_megabytes_are_copied_inserted_replaced_and_updated_into_their_rows()
-> Result<()> {
    const LARGEST: usize = 16 * 1024 * 1024;
    let stage = Stage::new("sixteen").await?;
    let things = stage.collection("things");
    let large =
        |id: i64, letter: &str, less: usize| doc! { "_id": id, "text": letter.repeat(LARGEST - less) };
    things.insert_one(large(1, "a", 60)).await?;
    let daemon = Daemon::start(&stage.config(&stage.whole("things")))?;
    daemon.logged("snapshot done").await?;
    stage.settled(&daemon, "things").await?;
    let lengths = "select string_agg(length(document->>'text')::text, ' ' order by source_id) from things";
    assert_eq!(stage.text(lengths).await?, Some((LARGEST - 60).to_string()), "copied");

    things.insert_one(large(2, "b", 60)).await?;
    things.insert_one(doc! { "_id": 3_i64, "text": "c".repeat(7_000_000) }).await?;
    stage.settled(&daemon, "things").await?;
    assert_eq!(stage.text(lengths).await?, Some(format!("{0} {0} 7000000", LARGEST - 60)), "followed");
    // With the whole document beside it, the event of this update would be above what the server sends.
    let more = doc! { "$set": { "more": "d".repeat(8_500_000) } };
    things.update_one(doc! { "_id": 3_i64 }, more).await?;
    things.replace_one(doc! { "_id": 1_i64 }, large(1, "e", 60)).await?;
    things.update_one(doc! { "_id": 2_i64 }, doc! { "$set": { "text": "small again" } }).await?;

    // Its id is in the event three times: not even the insert can be sent.
    let id = "i".repeat(2_000_000);
    things.insert_one(doc! { "_id": &id, "text": "f".repeat(11_000_000) }).await?;
    things.insert_one(doc! { "_id": 4_i64, "last": true }).await?;
    let length = "select length(document->>'text') from things where source_id like '$sha256:%'";
    let there = until("the one that cannot be sent", PATIENCE, async || {
        Ok((stage.text(length).await?.as_deref() == Some("11000000")).then_some(()))
    });
    there.await.with_context(|| daemon.last_words())?;
    things.delete_one(doc! { "_id": &id }).await?;
    stage.settled(&daemon, "things").await?;
    stage.equal("things", Plain::Int).await?;
    assert_eq!(stage.number("select count(*) from things").await?, 4);
    assert_eq!(stage.number("select count(*) from rowstream.held").await?, 0);
    assert!(daemon.stop().await?.success());
    Ok(())
}

/// What means something to COPY or to an array's text, in every way a row is written; and rows that PostgreSQL
/// keeps outside of the table.
#[tokio::test]
async fn what_means_something_to_copy_is_only_text() -> Result<()> {
    let stage = Stage::new("copy_escapes").await?;
    stage
        .execute(
            "create table things (source text, source_id text, t text, c varchar(12), l text[], j json, b bytea,
                 primary key (source, source_id))",
        )
        .await?;
    let texts = [
        "\t",
        "\n",
        "\r",
        "\r\n",
        "\\",
        "\\\\",
        "\\N",
        "\\.",
        "\\n",
        "\n\\.\n",
        "\"",
        "''",
        ",",
        "{}",
        "{\"a\"}",
        "NULL",
        "null",
        "",
        " ",
        "\u{8}\u{b}\u{c}",
        "\u{1}\u{7f}",
        "$1",
        "%s",
        "\u{2028}\u{2029}",
        "😀",
        "\u{feff}",
    ];
    let rows = |prefix: &str| -> Vec<bson::Document> {
        let one = |(place, text): (usize, &&str)| {
            doc! { "_id": format!("{prefix} {place:02}{text}"), "t": *text, "l": [*text, "x", *text], "place": place as i32,
            "b": bson::Binary { subtype: bson::spec::BinarySubtype::Generic, bytes: text.as_bytes().to_vec() } }
        };
        let mut rows: Vec<_> = texts.iter().enumerate().map(one).collect();
        for (place, bytes) in [(90, 9_000), (91, 100_000), (92, 3_000_000)] {
            // Random digits: what compresses well stays in the table.
            let mut random = crate::writer::Random(place);
            let text: String = (0..bytes / 16).map(|_| format!("{:016x}", random.below(i64::MAX))).collect();
            rows.push(
                doc! { "_id": format!("{prefix} {place}"), "t": &text, "l": [&text], "place": place as i32,
                "b": bson::Binary { subtype: bson::spec::BinarySubtype::Generic, bytes: text.into_bytes() } },
            );
        }
        rows
    };
    let mapping = format!(
        "  - {{ source: things, collection: {}.things, table: things, id_type: string,
            columns: {{ t: t, c: {{ from: t, truncate: true }}, l: l, j: {{ from: t, as: json }}, b: b }} }}\n",
        stage.name
    );
    // Many at once are copied into an empty table, a few at once and single ones go other ways.
    let things = stage.collection("things");
    things.insert_many(rows("copied")).await?;
    let daemon = Daemon::start(&stage.config(&mapping))?;
    let wrong = async |expected: &[bson::Document]| {
        let mut connection = stage.postgres().await?;
        let mut wrong = Vec::new();
        for document in expected {
            let text = document.get_str("t")?;
            let row = sqlx::query(
                "select t = $2 and c = left($2, 12) and b = convert_to($2, 'UTF8') and l[1] = $2 and l[array_length(l, 1)] = $2
                        and (j #>> '{}') = $2 from things where source_id = $1",
            )
            .bind(document.get_str("_id")?)
            .bind(text)
            .fetch_optional(&mut connection)
            .await?;
            if row.as_ref().map(|row| row.get::<Option<bool>, _>(0)) != Some(Some(true)) {
                wrong.push(format!("{:?}", text.chars().take(10).collect::<String>()));
            }
        }
        connection.close().await?;
        Ok::<_, anyhow::Error>(wrong)
    };
    let right = async |expected: Vec<bson::Document>| {
        let mut last = Vec::new();
        let right = until("the texts", PATIENCE, async || {
            last = wrong(&expected).await?;
            Ok(last.is_empty().then_some(()))
        });
        right.await.with_context(|| format!("{last:?}\n{}", daemon.last_words()))
    };
    right(rows("copied")).await?;
    things.insert_many(rows("followed")).await?;
    right(rows("followed")).await?;
    for document in rows("single") {
        things.insert_one(document).await?;
    }
    right(rows("single")).await?;
    assert_eq!(stage.number("select count(*) from rowstream.held").await?, 0);
    assert!(daemon.stop().await?.success());
    Ok(())
}
