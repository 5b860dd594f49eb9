use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::time::Duration;

use ::config::{Map, Value, ValueKind};

use super::load::{Surroundings, parse_yaml, read};
use super::tree::Reader;
use super::*;
use crate::domain::{IdType, TableName};

const EXAMPLE: &str = include_str!("../../config/example.yaml");
const SERVERS: &str =
    "mongodb: { uri: \"mongodb://localhost/shop\" }\npostgres: { url: \"postgres://localhost/shop\" }\n";

fn environment(variables: &[(&str, &str)]) -> BTreeMap<String, String> {
    variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn load_text(yaml: &str, variables: &[(&str, &str)]) -> Result<Config, Error> {
    let files = |path: &Path| match path.to_str() {
        Some("/secrets/uri") => Ok("mongodb://of.file/shop\n".to_owned()),
        Some("/secrets/url") => Ok("postgres://of.file/shop\r\n".to_owned()),
        Some("/secrets/empty") => Ok("\n".to_owned()),
        _ => Err(io::Error::from(io::ErrorKind::NotFound)),
    };
    let environment = environment(variables);
    let surroundings = Surroundings { environment: &environment, read_file: &files };
    let file = parse_yaml(Path::new("rowstream.yaml"), yaml)?;
    let reader = Reader::default();
    read(&reader, file, &surroundings).ok_or_else(|| Error::Mistakes(reader.into_mistakes()))
}

fn accepted(yaml: &str, variables: &[(&str, &str)]) -> Config {
    load_text(yaml, variables).unwrap_or_else(|error| panic!("refused:\n{error}"))
}

fn mistakes(yaml: &str, variables: &[(&str, &str)]) -> String {
    load_text(yaml, variables).expect_err("accepted").to_string()
}

fn listed(config: &Config) -> &[MappingSpec] {
    match &config.mappings {
        Mappings::Listed(mappings) => mappings,
        Mappings::WholeDatabase { .. } => panic!("no mappings are listed"),
    }
}

#[test]
fn twelve_mistakes_of_six_kinds_give_twelve_messages() {
    let yaml = r#"
mongodb: { uri: "http://app:hunter2@db" }
postgres: { url: "postgres://db/shop", lock_timeout: 5 }
http: { listen: "localhost:8080" }
batch: { max_changes: 0, lingr: 5ms }
snapshot: { workers: two }
lease: { ttl: 1s }
mappings:
  - source: orders
    collection: orders
    colums: { id: { key: uuid } }
  - collection: shop.events
    columns:
      amount: { from: amount, as: unix_second }
      note: { from: note, required: true, default: "" }
"#;
    let text = mistakes(yaml, &[]);
    assert_eq!(text.lines().count(), 12);
    insta::assert_snapshot!(text, @r#"
mongodb.uri: must begin with mongodb:// or mongodb+srv://
postgres.lock_timeout: must be a duration such as 500ms, 10s, 5m, 2h or 7d, given 5
http.listen: must be an IP address and a port such as 127.0.0.1:8080, given "localhost:8080"
batch.max_changes: must be between 1 and 1000000, given 0
batch.lingr: is not a known key (did you mean linger?)
snapshot.workers: must be a whole number, given "two"
lease.ttl: must be between 2s and 10m, given "1s"
mappings[0].collection: must be the full name of a collection: database.collection, given "orders"
mappings[0].colums: is not a known key (did you mean columns?)
mappings[1].source: is required (it names the mapping and is the first half of the key)
mappings[1].columns.amount.as: must be one of unix_seconds, unix_milliseconds, rfc3339, iso8601, text, number, boolean, object_id, json, array, given "unix_second" (did you mean unix_seconds?)
mappings[1].columns.note.default: must not be given together with required: true, given ""
"#);
}

#[test]
fn mistakes_of_mappings_name_their_place() {
    let long = "t".repeat(64);
    let yaml = format!(
        r#"{SERVERS}
mappings:
  - {{ source: a, collection: local.oplog.rs }}
  - {{ source: b, collection: shop.system.views }}
  - {{ source: c, collection: shop.c, table: {long} }}
  - {{ source: d, collection: shop.d, table: a.b.c }}
  - {{ source: e, collection: shop.e, table: rowstream.lease }}
  - {{ source: f, collection: shop.f, key: {{ source: null }} }}
  - {{ source: f, collection: shop.g, table: f }}
  - {{ source: h, collection: shop.h, schema: create, columns: {{ a: b }} }}
  - {{ source: i, collection: shop.i, columns: {{}} }}
  - {{ source: j, collection: shop.j, deletes: soft }}
  - {{ source: 2024, collection: [shop, k] }}
  - shop.l
"#
    );
    insta::assert_snapshot!(mistakes(&yaml, &[]), @r#"
mappings[0].collection: must begin with the name of a database that can be copied; this one belongs to the server itself, given "local.oplog.rs"
mappings[1].collection: must not be a collection of the server's own (system.… or with a $), given "shop.system.views"
mappings[2].table: must not be longer than 63 bytes, given "tttttttttttttttttttttttttttttttttttttttttttttttttttttttttttt"… (PostgreSQL would cut the table's name off)
mappings[3].table: must be a table or schema.table, given "a.b.c" (a name with dots: { schema: public, name: a.b })
mappings[4].table: must not be rowstream, the schema of rowstream's own state, given "rowstream.lease"
mappings[6].source: must differ from mappings[5].source, given "f"
mappings[6].table: must not be the table of mappings[5], since one of the two has key.source: null (a shared table needs a source column, so that each mapping knows its own rows)
mappings[8].columns: must name at least one column, given a map (leave the key out to write whole documents)
mappings[9].deletes: must be hard, keep or { soft: <column> }, given "soft"
mappings[10].source: must be text, given 2024 (put it in quotes)
mappings[10].collection: must be text, given a list
mappings[11]: must be a map
"#);
}

#[test]
fn mistakes_of_children_name_their_place() {
    let yaml = format!(
        r#"{SERVERS}
mappings:
  - source: a
    collection: shop.a
    columns: {{ a: a, b: $element.b, c: {{ ref: {{ to: a, from: x }}, missing: drop }} }}
    children:
      - {{ table: t, columns: {{ p: $parent }} }}
      - {{ table: t, each: e, object: o, columns: {{ p: $parent }} }}
      - {{ table: t, object: o, not_array: drop, columns: {{ p: $parent }} }}
      - {{ table: t, each: e, key: [p, k], columns: {{ p: $parent, a: a, d: $document.x, i: $index.y, z: $parents }} }}
      - {{ table: t, each: e, not_array: keep, on_error: null, columns: {{ a: {{ lookup: {{ table: u, match: {{ n: name }} }} }} }} }}
  - {{ source: b, collection: shop.b, children: [ {{ table: t, each: e, columns: {{ p: $parent }} }} ] }}
"#
    );
    insta::assert_snapshot!(mistakes(&yaml, &[]), @r#"
mappings[0].columns.b: must be one of $document, $id, $cluster_time, $transform, given "$element.b"
mappings[0].columns.c.missing: must be one of hold, keep, given "drop"
mappings[0].children[0]: must have one of each and object (each: an array, object: a nested document)
mappings[0].children[1]: must have one of each and object (each: an array, object: a nested document)
mappings[0].children[2].not_array: must be left out with object, given "drop"
mappings[0].children[3].columns.a: must begin with $element or $document, or be $index, given "a" (a field of the element is $element.name, one of the document around it $document.name)
mappings[0].children[3].columns.i: must begin with $element or $document, or be $index, given "$index.y" (a field of the element is $element.name, one of the document around it $document.name)
mappings[0].children[3].columns.z: must begin with $element or $document, or be $index, given "$parents" (a field of the element is $element.name, one of the document around it $document.name)
mappings[0].children[3].key: must be names among columns, and k is none
mappings[0].children[4].not_array: must be one of hold, drop, single, given "keep"
mappings[0].children[4].columns.a.lookup.match.n: must begin with $element or $document, or be $index, given "name" (a field of the element is $element.name, one of the document around it $document.name)
mappings[0].children[4].columns: must have one column that is $parent (it says whose row it is)
mappings[1].children: must not be given without columns (list the columns of the table)
"#);
}

#[test]
fn mistakes_of_columns_name_their_place() {
    let yaml = format!(
        r#"{SERVERS}
mappings:
  - source: a
    collection: shop.a
    columns:
      source: a
      none: {{ required: true }}
      both: {{ from: a, value: 1 }}
      word: $documnt
      words: {{ from: [$id, a..b, ""] }}
      document: {{ from: $document, as: json }}
      without: {{ from: a, without: [b] }}
      constant: {{ value: 1, required: true }}
      key: {{ key: uuidv5 }}
      prefix: {{ key: {{}} }}
      number: 7
      map: {{ value: {{ a: 1 }} }}
      large: {{ value: 123456789012345678901 }}
      "a.b": {{ from: a, write: never }}
"#
    );
    insta::assert_snapshot!(mistakes(&yaml, &[]), @r#"
mappings[0].columns.source: must not be a column of the key (rowstream writes the key itself, into the columns that key: names)
mappings[0].columns.none: must have one of from, value, cel, key, ref, lookup and collect
mappings[0].columns.both: must have one of from, value, cel, key, ref, lookup and collect
mappings[0].columns.word: must be one of $document, $id, $cluster_time, $transform, given "$documnt" (did you mean $document?)
mappings[0].columns.words.from[0]: must be a path, given "$id" (words with a $ stand alone, not in a list)
mappings[0].columns.words.from[1]: must be names joined by single dots, given "a..b"
mappings[0].columns.words.from[2]: must not be empty, given ""
mappings[0].columns.document.as: must be left out unless from is a path, given "json"
mappings[0].columns.without.without: must be left out unless from is $document, given a list
mappings[0].columns.constant.required: must be left out unless from is a path, given true
mappings[0].columns.key.key: must be uuid or { prefix: … }, given "uuidv5" (did you mean uuid?)
mappings[0].columns.prefix.key.prefix: is required (for example txn_)
mappings[0].columns.number: must be a path, or a map with from, value, cel, key, ref, lookup or collect, given 7
mappings[0].columns.map.value: must be text, a number, true, false or null, given a map
mappings[0].columns.large.value: must be a number that is read exactly, given 123456789012345680000 (put it in quotes)
mappings[0].columns."a.b".write: must be one of always, insert, given "never"
"#);
}

#[test]
fn a_secret_is_never_part_of_a_message() {
    let yaml = r#"
mongodb: { uri: "mongodb://app:hunter2@ss@db/shop" }
postgres: { url: [postgres://app:hunter2@db], password: hunter2, password_file: hunter2 }
http: { listen: "postgres://app:hunter2@db/shop" }
log: "mongodb://app:hunter2@db"
batch: { linger: "mongodb://app:hunt/er2:hunter2@db" }
mongodb_uri: "mongodb://app:hunter2@db"
"#;
    let variables = [("ROWSTREAM__MONGODB__PASSWORD", "hunter2"), ("DATABASE_URL", "hunter2")];
    let text = mistakes(yaml, &variables);
    assert!(!text.contains("hunt"), "{text}");
    assert_eq!(text.lines().count(), 8, "{text}");
    let config = accepted(&format!("{SERVERS}\n"), &[("ROWSTREAM__POSTGRES__PASSWORD", "hunter2")]);
    assert!(!format!("{config:?}{}", redacted(&config)).contains("hunter2"));
}

#[test]
fn a_secret_at_the_wrong_place_is_not_shown_either() {
    let yaml = r#"
mongodb: { uri_file: hunter2 }
postgres: { postgres://app:hun,ter2@pg/shop: , "postgres://app:hunter2@pg/shop": , url_file: 42424242, password_file: hunter2 }
mappings:
  - source: a
    collection: "mongodb://app:hunter2@db1.example.com/shop.orders"
    columns: { "postgres://app:hunter2@pg": 7 }
"#;
    let text = mistakes(yaml, &[]);
    assert!(!["hun", "ter2", "4242"].iter().any(|part| text.contains(part)), "{text}");
    assert_eq!(text.lines().count(), 8, "{text}");
    let variables = [
        ("MONGODB_URI_FILE", "hunter2"),
        ("DATABASE_URL_FILE", "hunter2"),
        ("ROWSTREAM__POSTGRES__PASSWORD_FILE", "hunter2"),
    ];
    let text = mistakes("", &variables);
    assert!(!text.contains("hunter2"), "{text}");
    assert_eq!(text.lines().filter(|line| line.contains("readable file")).count(), 3, "{text}");
}

#[test]
fn a_number_whose_digits_were_lost_is_refused() {
    let constants = |number: &str| {
        format!(
            "{SERVERS}\nmappings: [{{ source: a, collection: s.a, columns: {{ v: {{ value: {number} }}, d: {{ from: d, default: {number} }} }} }}]"
        )
    };
    for number in ["123456789.123456789", "0.1234567890123456789", "-1234567890.123456", "1e300", "1e20"] {
        let text = mistakes(&constants(number), &[]);
        assert_eq!(text.matches("put it in quotes").count(), 2, "{number}: {text}");
    }
    for number in
        ["0.1", "-123456789.123456", "1.5e-9", "1.10", "0.0", "9007199254740993", "\"0.1234567890123456789\""]
    {
        accepted(&constants(number), &[]);
    }
}

#[test]
fn text_that_is_no_yaml_is_one_error_with_its_line() {
    insta::assert_snapshot!(mistakes("pipeline: a\nhttp: [\n", &[]), @r#"rowstream.yaml is not valid YAML: while parsing a node, did not find expected node content at byte 20 line 3 column 1"#);
    insta::assert_snapshot!(mistakes("pipeline: a\npipeline: b\n", &[]), @r#"rowstream.yaml is not valid YAML: String("pipeline"): duplicated key in mapping at byte 22 line 2 column 11"#);
    insta::assert_snapshot!(mistakes("- a\n", &[]), @r#"rowstream.yaml is not valid YAML: invalid type: sequence, expected a map"#);
    insta::assert_snapshot!(mistakes("a: 1\n---\nb: 2\n", &[]), @r#"rowstream.yaml is not valid YAML: Got 2 YAML documents, expected 1"#);
}

#[test]
fn a_file_that_was_asked_for_must_be_there() {
    let error = load(Some(Path::new("/nowhere/rowstream.yaml")), &BTreeMap::new()).expect_err("loaded");
    assert!(matches!(error, Error::Unreadable { .. }));
    assert_eq!(error.to_string(), "cannot read the configuration file /nowhere/rowstream.yaml");
}

#[test]
fn names_keep_their_case_their_order_and_their_dots() {
    let yaml = format!(
        "{SERVERS}
mappings:
  - source: Orders
    collection: Shop.Orders.Archive
    table: App.Orders
    columns:
      updatedAt: a
      createdAt: b
      a.b: {{ from: X.Y }}
      $set: c
      \"[0]\": d
      7: e
  - source: a
    collection: shop.a
    table: {{ name: with.dots }}
"
    );
    let config = accepted(&yaml, &[("ROWSTREAM__PIPELINE", "Copy")]);
    assert_eq!(config.pipeline, "Copy");
    let [orders, other] = listed(&config) else { panic!("two mappings") };
    assert_eq!(orders.source, "Orders");
    assert_eq!(orders.collection.to_string(), "Shop.Orders.Archive");
    assert_eq!(orders.table, TableName { schema: "App".into(), name: "Orders".into() });
    let names: Vec<&str> = orders.columns.iter().flatten().map(|column| column.name.as_str()).collect();
    assert_eq!(names, ["updatedAt", "createdAt", "a.b", "$set", "[0]", "7"]);
    let from = ValueSpec::Path { from: vec!["X.Y".into()], reading: Reading::default() };
    assert_eq!(orders.columns.iter().flatten().nth(2).map(|column| &column.value), Some(&from));
    assert_eq!(other.table, TableName { schema: "public".into(), name: "with.dots".into() });
    assert_eq!((other.schema, other.columns.is_none()), (SchemaMode::Create, true));
}

#[test]
fn a_variable_wins_over_the_file_and_the_file_over_common_variables() {
    let yaml = format!("{SERVERS}batch: {{ max_changes: 10, linger: 1s }}\n");
    let config = accepted(
        &yaml,
        &[
            ("ROWSTREAM__BATCH__MAX_CHANGES", "20"),
            ("ROWSTREAM__BATCH__MAX_BYTES", "1MiB"),
            ("ROWSTREAM__HTTP__ENABLED", "false"),
            ("ROWSTREAM__POSTGRES__URL", "postgres://of.variable/shop"),
            ("ROWSTREAM__LOG__LEVEL", ""),
            ("MONGODB_URI", "mongodb://elsewhere/shop"),
            ("DATABASE_URL", "postgres://elsewhere/shop"),
        ],
    );
    assert_eq!((config.batch.max_changes, config.batch.max_bytes), (20, 1 << 20));
    assert_eq!(config.batch.linger, Duration::from_secs(1));
    assert!(!config.http.enabled);
    assert_eq!(config.log.level, "info");
    assert_eq!(config.mongodb.uri.expose(), "mongodb://localhost/shop");
    assert_eq!(config.postgres.url.as_ref().map(Secret::expose), Some("postgres://of.variable/shop"));
}

#[test]
fn variables_alone_are_enough() {
    let config = accepted("", &[("MONGODB_URI", "mongodb://a/shop"), ("PGHOST", "/var/run/postgresql")]);
    assert!(config.postgres.url.is_none());
    assert!(
        matches!(config.mappings, Mappings::WholeDatabase { database, schema } if database == "shop" && schema == "public")
    );
}

#[test]
fn secrets_can_come_from_files() {
    for (yaml, variables) in [
        ("", vec![("MONGODB_URI_FILE", "/secrets/uri"), ("DATABASE_URL_FILE", "/secrets/url")]),
        (
            "",
            vec![
                ("ROWSTREAM__MONGODB__URI_FILE", "/secrets/uri"),
                ("ROWSTREAM__POSTGRES__URL_FILE", "/secrets/url"),
            ],
        ),
        ("mongodb: { uri_file: /secrets/uri }\npostgres: { url_file: /secrets/url }", vec![]),
        (
            SERVERS,
            vec![
                ("ROWSTREAM__MONGODB__URI_FILE", "/secrets/uri"),
                ("ROWSTREAM__POSTGRES__URL_FILE", "/secrets/url"),
            ],
        ),
    ] {
        let config = accepted(yaml, &variables);
        assert_eq!(config.mongodb.uri.expose(), "mongodb://of.file/shop");
        assert_eq!(config.postgres.url.as_ref().map(Secret::expose), Some("postgres://of.file/shop"));
    }
}

#[test]
fn mistakes_of_variables_name_the_variable() {
    let variables = [
        ("ROWSTREAM__BATCH__MAX_CHANGES", "many"),
        ("ROWSTREAM__HTTP__ENABLED", "yes"),
        ("ROWSTREAM__HTTP__LISTN", "1"),
        ("ROWSTREAM__HTPP__LISTEN", "1"),
        ("ROWSTREAM__MAPPINGS__0__SOURCE", "a"),
        ("ROWSTREAM__LOG", "debug"),
        ("ROWSTREAM_SERVICE_HOST", "10.0.0.1"),
        ("MONGODB_URI", "localhost:27017"),
        ("DATABASE_URL_FILE", "/secrets/empty"),
        ("ROWSTREAM__POSTGRES__PASSWORD_FILE", "/secrets/none"),
    ];
    insta::assert_snapshot!(mistakes("", &variables), @r#"
ROWSTREAM__MAPPINGS__0__SOURCE: lists cannot be set by variables (write mappings into the file)
MONGODB_URI: must begin with mongodb:// or mongodb+srv://
DATABASE_URL_FILE: its file must not be empty
ROWSTREAM__POSTGRES__PASSWORD_FILE: must be the path of a readable file: entity not found
ROWSTREAM__HTTP__ENABLED: must be true or false, given "yes"
ROWSTREAM__HTTP__LISTN: is not a known key (did you mean listen?)
ROWSTREAM__LOG: must be a map
ROWSTREAM__BATCH__MAX_CHANGES: must be a whole number, given "many"
ROWSTREAM__HTPP__LISTEN: is not a known key (did you mean http?)
"#);
}

#[test]
fn servers_and_something_to_copy_are_required() {
    insta::assert_snapshot!(mistakes("", &[]), @r#"
mongodb.uri: is required (or set ROWSTREAM__MONGODB__URI, MONGODB_URI, or mongodb.uri_file)
postgres.url: is required (or set ROWSTREAM__POSTGRES__URL, DATABASE_URL, postgres.url_file, or PGHOST and its like)
"#);
    let servers =
        "mongodb: { uri: \"mongodb://db/?replicaSet=rs0\" }\npostgres: { url: \"postgres://db\" }\n";
    insta::assert_snapshot!(mistakes(servers, &[]), @r#"mappings: is required where the connection string names no database (list mappings, or set copy.database to copy a whole database)"#);
    insta::assert_snapshot!(mistakes(&format!("{servers}mappings: []"), &[]), @r#"mappings: must hold at least one mapping, given a list (leave the key out to copy a whole database)"#);
    insta::assert_snapshot!(mistakes(&format!("{servers}mappings:"), &[]), @r#"mappings: must hold at least one mapping, given nothing (leave the key out to copy a whole database)"#);
    insta::assert_snapshot!(mistakes(&servers.replace("db/?", "db/admin?"), &[]), @r#"mappings: is required where the connection string names the database admin, which belongs to the server itself (list mappings, or set copy.database to copy a whole database)"#);
    let config =
        accepted(servers, &[("ROWSTREAM__COPY__DATABASE", "crm"), ("ROWSTREAM__COPY__SCHEMA", "copy")]);
    assert!(
        matches!(config.mappings, Mappings::WholeDatabase { database, schema } if database == "crm" && schema == "copy")
    );
}

#[test]
fn limits_that_contradict_each_other_are_refused() {
    let yaml = format!(
        "{SERVERS}
held: {{ retry_initial: 1h }}
health: {{ lag_degraded: 10m }}
log: {{ level: inof }}
copy: {{ schema: pg_temp }}
mappings: [ {{ source: a, collection: shop.a }} ]
id_namespace: abc
"
    )
    .replace("postgres: { ", "postgres: { statement_timeout: 1s, ");
    insta::assert_snapshot!(mistakes(&yaml, &[]), @r#"
postgres.lock_timeout: must not be longer than postgres.statement_timeout
log.level: must be one of error, warn, info, debug, trace, off, or a filter such as rowstream=debug,info, given "inof"
held.retry_max: must not be shorter than held.retry_initial
health.lag_failing: must not be shorter than health.lag_degraded
id_namespace: must be a UUID such as 6ba7b811-9dad-11d1-80b4-00c04fd430c8, given "abc"
copy: must not be given together with mappings (it is for a database without mappings)
"#);
}

#[test]
fn the_example_loads_and_says_what_its_comments_say() {
    let config = accepted(EXAMPLE, &[]);
    let servers_only = accepted(SERVERS, &[]);
    let defaults = |config: &Config| {
        let text = redacted(config);
        let text = text.split_once("postgres:").map(|(_, rest)| rest.to_owned()).unwrap_or_default();
        let text = text.split_once("\n").map(|(_, rest)| rest.to_owned()).unwrap_or_default();
        let end = text.find("mappings:").or_else(|| text.find("copy:")).unwrap_or(text.len());
        text[..end].lines().filter(|line| !line.contains("url:")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(
        defaults(&config),
        defaults(&servers_only),
        "the example shows another value than the default"
    );
    assert_eq!(listed(&config).len(), 4);
    assert_eq!(listed(&config)[0].id_type, Some(IdType::ObjectId));
}

#[test]
fn the_example_and_the_docs_hold_every_known_key() {
    // `#key:` without a blank is an alternative that is commented out.
    let uncommented: Vec<String> = EXAMPLE
        .lines()
        .map(|line| match line.trim_start().strip_prefix('#') {
            Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase()) => line.replacen('#', "", 1),
            _ => line.to_owned(),
        })
        .collect();
    let tree = parse_yaml(Path::new("example"), &uncommented.join("\n")).expect("uncommented example");
    let mut present = BTreeSet::new();
    keys(&tree, "", &mut present);

    let reader = Reader::default();
    let read_file = |_: &Path| Ok(String::new());
    read(&reader, tree, &Surroundings { environment: &BTreeMap::new(), read_file: &read_file });
    assert_eq!(present, reader.known_keys());

    let pages = concat!(include_str!("../../docs/CONFIGURATION.md"), include_str!("../../docs/MAPPING.md"));
    let is_described = |key: &str| {
        [format!("`{key}`"), format!("`{key}:"), format!("{key}: ")].iter().any(|form| pages.contains(form))
    };
    let last = |path: &String| path.rsplit('.').next().unwrap_or_default().trim_end_matches("[]").to_owned();
    let undescribed: Vec<&String> = present.iter().filter(|path| !is_described(&last(path))).collect();
    assert!(undescribed.is_empty(), "not in the docs: {undescribed:?}");
}

/// The keys of a tree as the reader names them: `[]` for places, `*` for names that are not ours.
#[test]
fn every_key_of_a_mapping_stands_in_an_example_of_the_reference() {
    let page = include_str!("../../docs/MAPPING.md");
    let mut shown = BTreeSet::new();
    for block in page.split("```yaml example\n").skip(1) {
        let block = block.split("\n```").next().unwrap_or_default();
        let text = if block.starts_with("mappings:") {
            block.to_owned()
        } else {
            let lines = block.lines().map(|line| format!("\n    {line}")).collect::<String>();
            format!("mappings:\n  - source: example{lines}")
        };
        keys(&parse_yaml(Path::new("example"), &text).expect("YAML"), "", &mut shown);
    }
    let reader = Reader::default();
    let read_file = |_: &Path| Ok(String::new());
    let example = parse_yaml(Path::new("example"), EXAMPLE).expect("the example");
    read(&reader, example, &Surroundings { environment: &BTreeMap::new(), read_file: &read_file });
    let known = reader.known_keys().into_iter().filter(|key| key.starts_with("mappings[]."));
    // Transformers are code: theirs is tests/it/custom.rs.
    let missing: Vec<String> =
        known.filter(|key| key != "mappings[].transform" && !shown.contains(key)).collect();
    assert!(missing.is_empty(), "no example of docs/MAPPING.md has {missing:#?}");
}

fn keys(entries: &Map<String, Value>, prefix: &str, found: &mut BTreeSet<String>) {
    if prefix == "mappings[].children[].columns." {
        return;
    }
    for (key, value) in entries {
        // Their keys are names, or values.
        let is_name =
            [".columns.", ".map.", ".match.", ".enum.", ".filter."].iter().any(|map| prefix.ends_with(map));
        let path = format!("{prefix}{}", if is_name { "*" } else { key });
        if !is_name {
            found.insert(path.clone());
        }
        match &value.kind {
            ValueKind::Table(entries) => keys(entries, &format!("{path}."), found),
            ValueKind::Array(items) => {
                for item in items {
                    if let ValueKind::Table(entries) = &item.kind {
                        keys(entries, &format!("{path}[]."), found);
                    }
                }
            }
            _ => {}
        }
    }
}

#[test]
fn mistakes_in_the_rules_of_a_value_are_told_with_their_place() {
    let yaml = format!(
        "{SERVERS}mappings:
  - source: a
    collection: shop.a
    columns:
      when: {{ from: when, as: [iso8601, {{ date: ['%d.%m', '%Q'] }}, dates] }}
      kind: {{ from: kind, enum: {{ Open: OPEN, open: OPEN }}, fold_case: true, otherwise: other }}
      rest: {{ from: rest, otherwise: null, rounding: half_down, null_if: [null, x], scale: -1 }}
      half: {{ from: half, rounding: half_even }}
      none: {{ from: none, on_null: default, on_error: default, trim: 1 }}
      whole: {{ from: $document, trim: true, json: pretty }}
      word: {{ from: $id, json: plain, as: text }}
"
    );
    insta::assert_snapshot!(mistakes(&yaml, &[]), @r#"
mappings[0].columns.when.as[1].date[0]: must name one year, one month and one day, given "%d.%m" (for example "%d.%m.%Y")
mappings[0].columns.when.as[1].date[1]: must be made of %Y %y %m %b %d %a %H %I %p %M %S %f %z %F %T and %%, given "%Q" (for example "%d.%m.%Y")
mappings[0].columns.when.as[2]: must be one of unix_seconds, unix_milliseconds, rfc3339, iso8601, text, number, boolean, object_id, json, array, given "dates"
mappings[0].columns.kind.otherwise: must be hold, null, default or { value: … }, given "other" (a label of the column is written { value: … })
mappings[0].columns.kind.enum.open: must differ from "Open" in more than case (fold_case: true makes them one)
mappings[0].columns.rest.null_if[0]: must not hold null, given nothing (null is null by itself; the text is "null" in quotes)
mappings[0].columns.rest.otherwise: must be left out unless enum is given, given nothing
mappings[0].columns.rest.scale: must be between 0 and 1000, given -1
mappings[0].columns.rest.rounding: must be one of half_up, half_even, given "half_down" (did you mean half_even?)
mappings[0].columns.half.rounding: must be left out unless scale is given, given "half_even"
mappings[0].columns.none.trim: must be true or false, given 1
mappings[0].columns.none.on_null: must not be default where the column has none, given "default" (add default: …)
mappings[0].columns.none.on_error: must not be default where the column has none, given "default" (add default: …)
mappings[0].columns.whole.trim: must be left out unless from is a path, given true
mappings[0].columns.whole.json: must be one of relaxed, canonical, plain, given "pretty"
mappings[0].columns.word.as: must be left out unless from is a path, given "text"
mappings[0].columns.word.json: must be left out unless from is a path, given "plain"
"#);
}

#[test]
fn filters_are_read_or_told_what_is_wrong() {
    let with = |filter: &str| {
        format!("{SERVERS}mappings:\n  - {{ source: a, collection: shop.a, filter: {filter} }}\n")
    };
    let filter = r#"{ "a.b": null, n: { $gt: 1, $lte: 2.5, $in: [x, { $oid: 5f43a1b2c3d4e5f60718293a }] },
        at: { $date: "2025-01-01T00:00:00Z" }, price: { $ne: { $numberDecimal: "1.10" } }, gone: { $exists: false } }"#;
    let config = accepted(&with(filter), &[]);
    let shown = listed(&config)[0].filter.as_ref().expect("a filter").to_yaml();
    let again = accepted(&with(&shown), &[]);
    assert_eq!(listed(&config)[0].filter, listed(&again)[0].filter);
    let wrong = r#"{ $or: [1], a..b: 1, c: { $regex: x }, d: { $date: soon }, e: { $in: 1 }, f: { $oid: 1, $date: 2 },
        g: [1], h: { $gt: { i: 1 } }, j: {} }"#;
    insta::assert_snapshot!(mistakes(&with(wrong), &[]), @r#"
mappings[0].filter.$or: must be names joined by single dots (operators stand behind a path; all conditions must hold)
mappings[0].filter."a..b": must be names joined by single dots (operators stand behind a path; all conditions must hold)
mappings[0].filter.c.$regex: is not a known key (known keys: $eq, $ne, $gt, $gte, $lt, $lte, $in, $nin, $exists)
mappings[0].filter.d.$date: must be a date and time with a zone, given "soon" (for example "2025-01-01T00:00:00Z")
mappings[0].filter.e.$in: must be a list, given 1
mappings[0].filter.f: must be a scalar, or one of $date, $oid and $numberDecimal, given a map (for example { $date: "2025-01-01T00:00:00Z" })
mappings[0].filter.g: must be text, a number, true, false or null, given a list
mappings[0].filter.h.$gt: must be a scalar, or one of $date, $oid and $numberDecimal, given a map (for example { $date: "2025-01-01T00:00:00Z" })
"#);
}

#[test]
fn what_is_shown_can_be_loaded_again() {
    for config in [accepted(EXAMPLE, &[]), accepted(SERVERS, &[])] {
        let shown = redacted(&config);
        let again = accepted(&shown, &[]);
        assert_eq!(format!("{:?}", again), format!("{:?}", config), "{shown}");
    }
}

#[test]
fn a_token_that_could_be_guessed_or_cannot_stand_in_a_header_is_refused_unseen() {
    let with = |token: &str| format!("{SERVERS}http: {{ token: \"{token}\" }}\n");
    for token in ["hunter2", "with a blank in its middle", "0123456789abcdeé"] {
        let text = mistakes(&with(token), &[]);
        assert!(text.contains("http.token: must have at least 16 characters"), "{text}");
        assert!(!text.contains(token), "{text}");
    }
    let config = accepted(SERVERS, &[("ROWSTREAM__HTTP__TOKEN", "0123456789abcdef")]);
    assert_eq!(config.http.token.as_ref().map(Secret::expose), Some("0123456789abcdef"));
    assert!(!redacted(&config).contains("0123456789abcdef"));
}
