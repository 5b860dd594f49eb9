//! Passwords, the token of the HTTP server, and values of documents: planted wherever they can be, and nowhere in
//! what is printed, logged, answered, or kept as a message.

use std::process::Output;

use anyhow::{Context, Result, ensure};
use bson::{Document, doc};

use crate::daemon::{Daemon, PATIENCE, command};
use crate::stage::Stage;
use crate::support::until;

/// In every secret and in every value. Nothing that is told on purpose has it.
const MARK: &str = "hunter2";
/// As it would look as text of `bytea`, and in base64 at each of the three places.
const DISGUISES: [&str; 5] = [MARK, "68756e74657232", "aHVudGVyM", "h1bnRlcj", "odW50ZXIy"];

const TOKEN: &str = "hunter2-token-0123456789";

const TABLES: &str = "
    create type mood as enum ('good', 'bad');
    create table people (email text primary key, name varchar(30));
    create table tags (source text, source_id text, word text unique, primary key (source, source_id));
    create table parents (id int primary key);
    create table notes (
        source text, source_id text, at date, amount numeric(6,2) check (amount >= 0), title varchar(30), code text unique,
        mood mood, number int, tag text, person text, parent int references parents, judged text, sum int,
        body jsonb, primary key (source, source_id), exclude using btree (judged with =),
        unique (source_id));
    create table lines (source_id text references notes (source_id), ordinal int, word varchar(30), count int, primary key (source_id, ordinal));
    create function judge() returns trigger language plpgsql as $$
        begin
            if new.judged like '% refused' then
                raise exception 'no %', new.judged using detail = new.judged, hint = new.judged;
            end if;
            return new;
        end $$;
    create trigger judge before insert or update on notes for each row execute function judge();";

fn mappings(database: &str) -> String {
    format!(
        "  - {{ source: people, collection: {database}.people, table: people, id_type: int, key: [email],
      columns: {{ email: email, name: name }} }}
  - {{ source: tags, collection: {database}.tags, table: tags, id_type: int, columns: {{ word: word }} }}
  - source: notes
    collection: {database}.notes
    table: notes
    id_type: string
    columns:
      at: {{ from: at, as: {{ date: ['%Y-%m-%d'] }} }}
      amount: amount
      title: title
      code: code
      mood: {{ from: mood, enum: {{ good: good, bad: bad }} }}
      number: {{ from: number, as: number }}
      tag: {{ lookup: {{ table: tags, match: {{ word: tag }}, take: source_id }} }}
      person: {{ ref: {{ to: people, from: person, take: email }} }}
      parent: parent
      judged: judged
      sum: {{ cel: 'doc.terms[0] + doc.terms[1]' }}
      body: {{ from: $document, without: [_id] }}
    children:
      - table: lines
        each: lines
        columns: {{ source_id: $parent, ordinal: $index, word: $element.word, count: $element.count }}\n"
    )
}

fn good(id: &str) -> Document {
    doc! { "_id": id, "title": format!("{MARK} fine {id}"), "code": format!("{MARK} {id}"), "terms": [1, 2] }
}

/// One for each way in which a document cannot be written, with its mark in the very value.
fn bad() -> Vec<Document> {
    let with = |id: &str, field: &str, value: bson::Bson| {
        let mut document = good(id);
        document.insert(field, value);
        document
    };
    let marked = || bson::Bson::String(MARK.to_owned());
    vec![
        with("date", "at", marked()),
        with("type", "amount", marked()),
        with("type of a document", "title", doc! { MARK: MARK }.into()),
        with("long", "title", MARK.repeat(9).into()),
        with("check", "amount", (-1).into()),
        with("taken", "code", format!("{MARK} one").into()),
        with("label", "mood", marked()),
        with("number", "number", marked()),
        with("looked up", "tag", marked()),
        with("orphan", "person", 77.into()),
        with("foreign key", "parent", 99.into()),
        with("judged", "judged", format!("{MARK} refused").into()),
        with("excluded", "judged", format!("{MARK} twice").into()),
        with("expression", "terms", bson::bson!([MARK, 1])),
        with("nul", "judged", format!("{MARK}\0").into()),
        with("line", "lines", bson::bson!([{ "word": MARK, "count": MARK }])),
        with("long line", "lines", bson::bson!([{ "word": MARK.repeat(9), "count": 1 }])),
        with("nul in json", "else", format!("{MARK}\0").into()),
    ]
}

/// Nothing of what was planted is in this text.
fn is_clean(what: &str, text: &str) -> Result<()> {
    for mark in DISGUISES {
        ensure!(!text.contains(mark), "{what} tells {mark}: {text}");
    }
    Ok(())
}

fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn tells_nothing(arguments: &[&str], config: &str) -> Result<String> {
    let text = told(&command(arguments, config)?);
    is_clean(&arguments.join(" "), &text)?;
    Ok(text)
}

/// The stage, its configuration with secrets in it, and how many documents are bad.
async fn planted(name: &str) -> Result<(Stage, String, i64)> {
    let stage = Stage::new(name).await?;
    stage.execute(TABLES).await?;
    let password = format!("{MARK}-mongodb");
    let user = doc! { "createUser": "reader", "pwd": &password, "roles": ["root"] };
    // The server is everybody's, and so may the user be.
    let admin = stage.client.database("admin");
    if let Err(error) = admin.run_command(user).await {
        ensure!(error.to_string().contains("already exists"), "{error}");
    }
    let config = stage
        .config(&mappings(&stage.name))
        .replace("mongodb://", &format!("mongodb://reader:{password}@"))
        .replace("?replicaSet", "?authSource=admin&replicaSet")
        .replace("postgres://postgres@", &format!("postgres://postgres:{MARK}-postgres@"))
        .replace("http: {", &format!("http: {{ token: {TOKEN},"))
        .replace("log: { format: json }", "log: { format: json, level: trace }")
        .replace("retry_initial: 500ms, retry_max: 2s", "retry_initial: 1h, retry_max: 2h");
    let mut excluded = good("excluded before");
    excluded.insert("judged", format!("{MARK} twice"));
    stage.collection("notes").insert_many([good("one"), good("two"), excluded]).await?;
    let person = |id: i64| doc! { "_id": id, "email": format!("{MARK}@example.com"), "name": MARK };
    stage.collection("people").insert_many([person(1), person(2)]).await?;
    stage.collection("tags").insert_one(doc! { "_id": 1, "word": format!("{MARK} tag") }).await?;
    stage.collection("notes").insert_many(bad()).await?;
    // The second person has the first one's key.
    Ok((stage, config, bad().len() as i64 + 1))
}

async fn becomes(stage: &Stage, daemon: &Daemon, sql: &str, wanted: i64) -> Result<()> {
    let mut last = None;
    let reached = until(sql, PATIENCE, async || {
        last = stage.number(sql).await.ok();
        Ok((last == Some(wanted)).then_some(()))
    });
    reached.await.with_context(|| format!("found {last:?}; {}", daemon.last_words()))
}

const OPEN: &str = "select count(*) from rowstream.held where state <> 'resolved'";

/// What stays in the state beside keys and the kept documents.
const KEPT: &str = "select concat(
    (select string_agg(to_jsonb(h)::text, ' ') from (select message, column_name, reason from rowstream.held) as h), ' ',
    (select string_agg(to_jsonb(r)::text, ' ') from rowstream.reconcile_run as r), ' ',
    (select string_agg(to_jsonb(f)::text, ' ') from rowstream.reconcile_finding as f), ' ',
    (select string_agg(to_jsonb(m)::text, ' ') from rowstream.mapping as m))";

const PAGES: [&str; 17] = [
    "/",
    "/health",
    "/livez",
    "/readyz",
    "/metrics",
    "/status",
    "/held",
    "/held?reason=too_long&limit=2",
    "/held/summary",
    "/status/notes/one",
    "/status/notes/taken",
    "/status/notes/orphan",
    "/status/people/2",
    "/reconcile",
    "/reconcile/history",
    "/reconcile/1",
    "/nowhere",
];

#[tokio::test]
async fn what_a_daemon_logs_answers_and_keeps_has_no_secret_and_no_value_of_a_document() -> Result<()> {
    let (stage, config, bad) = planted("planted").await?;
    let daemon = Daemon::start(&config)?;
    becomes(&stage, &daemon, OPEN, bad).await?;
    let reasons = "select count(distinct reason) from rowstream.held";
    assert!(stage.number(reasons).await? >= 12, "as many kinds as there are ways");

    // Rows differ from their documents in ways that `verify` finds.
    stage
        .execute(&format!(
            "update notes set title = '{MARK} damaged' where source_id = 'one';
             delete from notes where source_id = 'two';
             insert into notes (source, source_id, title) values ('notes', 'extra', '{MARK} extra')"
        ))
        .await?;
    let bearer = format!("authorization: Bearer {TOKEN}\r\n");
    let (code, answer) = daemon.answer("POST", "/reconcile", &bearer, "").await?;
    assert_eq!(code, 202, "{answer}");
    is_clean("/reconcile", &answer)?;
    let compared =
        "select count(*) from rowstream.reconcile_run where state = 'done' and report->>'verdict' = 'failed'";
    becomes(&stage, &daemon, compared, 1).await?;
    let json = "content-type: application/json\r\n";
    for (path, head, body, expected) in [
        ("/held/retry", bearer.as_str(), "{\"source\": \"notes\"}", 202),
        ("/held/retry", &format!("{bearer}{json}"), "{\"state\": \"lost\"}", 400),
        ("/held/discard", &bearer, "{\"source\": \"notes\", \"ids\": [\"nul\"]}", 200),
        ("/held/discard", "", "{\"all\": true}", 401),
        ("/pause", "authorization: Bearer of nothing\r\n", "", 401),
        ("/pause", &bearer, "", 202),
        ("/resume", &bearer, "", 202),
    ] {
        let (code, answer) = daemon.answer("POST", path, head, body).await?;
        assert_eq!(code, expected, "{path} {answer}");
        is_clean(path, &answer)?;
    }
    for path in PAGES {
        let (_, answer) = daemon.answer("GET", path, "", "").await?;
        is_clean(path, &answer)?;
    }
    // Then what stops it: a table that goes.
    stage.execute("drop table tags").await?;
    stage.collection("tags").insert_one(doc! { "_id": 2, "word": format!("{MARK} more") }).await?;
    daemon.logged("\"event\":\"halted\"").await?;
    let (_, health) = daemon.answer("GET", "/health", "", "").await?;
    is_clean("/health", &health)?;

    is_clean("the state", &stage.text(KEPT).await?.context("no state")?)?;
    for line in daemon.log() {
        is_clean("the log", &line)?;
    }
    assert!(daemon.log().iter().any(|line| line.contains("TRACE") || line.contains("DEBUG")));
    Ok(())
}

#[tokio::test]
async fn what_commands_print_has_no_secret_and_no_value_but_where_it_was_asked_for() -> Result<()> {
    let (stage, config, bad) = planted("printed").await?;
    for arguments in
        [&["check"][..], &["check", "--output", "json"], &["schema"], &["migrate"], &["config", "show"]]
    {
        let text = tells_nothing(arguments, &config)?;
        assert!(!text.is_empty(), "{arguments:?}");
    }
    tells_nothing(&["run", "--until-caught-up"], &config)?;
    assert_eq!(stage.number(OPEN).await?, bad);
    stage
        .execute(&format!(
            "update notes set title = '{MARK} damaged' where source_id = 'one'; delete from people"
        ))
        .await?;
    for arguments in [
        &["verify"][..],
        &["verify", "--output", "json"],
        &["repair"],
        &["status"],
        &["status", "--output", "json"],
        &["status", "notes", "taken"],
        &["status", "people", "2"],
        &["held", "list"],
        &["held", "list", "--output", "json"],
        &["held", "summary"],
        &["held", "show", "notes", "long"],
        &["held", "show", "notes", "looked up", "--output", "json"],
        &["held", "retry"],
        &["held", "discard", "--all"],
        &["pause"],
        &["run", "--until-caught-up"],
        &["resume"],
        &["reset"],
        &["repair", "--apply"],
        &["resync", "notes"],
    ] {
        tells_nothing(arguments, &config)?;
    }
    let shown = told(&command(&["held", "show", "notes", "long", "--show-values"], &config)?);
    let exported = told(&command(&["held", "export"], &config)?);
    assert!(shown.contains(MARK) && exported.contains(MARK), "what is looked for can be found");
    assert!(!shown.contains(TOKEN) && !exported.contains(TOKEN));

    // Servers that let nobody in, and mistakes at the very places of secrets.
    let wrong = |from: &str, to: &str| config.replace(from, to) + "health: { outage_failing: 1s }\n";
    for (config, what) in [
        (wrong("hunter2-mongodb@", "hunter2-wrong@"), "mongodb"),
        (wrong("postgres@", "nobody_hunter@").replace("hunter2-postgres", "hunter2-wrong"), "postgresql"),
        (wrong(TOKEN, "hunter2"), "http.token"),
        (wrong("authSource=admin", "authSource=admin&tlsCAFile=/hunter2/ca.pem&unknown=hunter2"), "mongodb"),
        (wrong("mongodb://reader:hunter2-mongodb@", "mongodb://reader:hunter2:more@"), "mongodb.uri"),
        (wrong("postgres://postgres:", "postgres://postgres:%zzhunter2"), "postgres"),
    ] {
        let text = tells_nothing(&["check"], &config)?;
        assert!(text.to_lowercase().contains(what) || what == "postgresql", "{what}: {text}");
    }
    Ok(())
}
