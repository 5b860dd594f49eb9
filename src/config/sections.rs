//! The raw tree becomes a `Config`: one function per section.

use std::net::SocketAddr;
use std::path::Path;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use uuid::Uuid;

use super::connection::{ConnectionString, mongodb_mistake, postgres_mistake};
use super::defaults;
use super::load::Surroundings;
use super::mappings::{database_mistake, mappings, schema_mistake};
use super::model::{
    Batch, Config, Health, Held, Http, Lease, Log, LogFormat, Mappings, MongoDb, OnHistoryLost, Postgres,
    Secret, Snapshot, SnapshotMode,
};
use super::reconcile::reconcile;
use super::tree::{Field, Section};
use crate::domain::Transformers;

/// Variables of libpq that say where the server is; sqlx reads them itself.
const PG_VARIABLES: [&str; 5] = ["PGHOST", "PGHOSTADDR", "PGPORT", "PGUSER", "PGDATABASE"];

/// `None` if what is missing is needed to go on; the reader then has mistakes.
pub(super) fn config(mut root: Section<'_>, surroundings: &Surroundings<'_>) -> Option<Config> {
    let pipeline = pipeline(&mut root);
    let mongodb = mongodb(root.section("mongodb"), surroundings);
    let postgres = postgres(root.section("postgres"), surroundings);
    let http = http(root.section("http"), surroundings);
    let log = log(root.section("log"));
    let batch = batch(root.section("batch"));
    let snapshot = snapshot(root.section("snapshot"));
    let held = held(root.section("held"));
    let lease = lease(root.section("lease"));
    let health = health(root.section("health"));
    let reconcile = reconcile(root.section("reconcile"));
    let losses = [("halt", OnHistoryLost::Halt), ("resync", OnHistoryLost::Resync)];
    let on_history_lost = root.choice("on_history_lost", &losses).unwrap_or(OnHistoryLost::Halt);
    let namespace = namespace(&mut root);
    let mappings = what_is_copied(&mut root, mongodb.as_ref());
    root.finish();
    Some(Config {
        pipeline,
        mongodb: mongodb?,
        postgres,
        http,
        log,
        batch,
        snapshot,
        held,
        lease,
        health,
        reconcile,
        on_history_lost,
        namespace,
        transformers: Transformers::default(),
        mappings: mappings?,
    })
}

fn pipeline(root: &mut Section<'_>) -> String {
    let Some(field) = root.field("pipeline") else { return defaults::PIPELINE.to_owned() };
    let Some(name) = field.text() else { return defaults::PIPELINE.to_owned() };
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'));
    if !plain || name.len() > 40 {
        field.mistake("must be up to 40 of the characters a-z, A-Z, 0-9, _, - and .", "");
    }
    name
}

fn mongodb(mut section: Section<'_>, surroundings: &Surroundings<'_>) -> Option<MongoDb> {
    let keys = SecretKeys {
        value: "uri",
        file: "uri_file",
        variables: Some(("MONGODB_URI", "MONGODB_URI_FILE")),
        mistake: mongodb_mistake,
    };
    let uri = secret(&mut section, &keys, surroundings);
    if matches!(uri, Found::Nothing) {
        let hint = "or set ROWSTREAM__MONGODB__URI, MONGODB_URI, or mongodb.uri_file";
        section.mistake_at("uri", "is required", hint);
    }
    section.finish();
    uri.usable().map(|uri| MongoDb { uri })
}

fn postgres(mut section: Section<'_>, surroundings: &Surroundings<'_>) -> Postgres {
    let keys = SecretKeys {
        value: "url",
        file: "url_file",
        variables: Some(("DATABASE_URL", "DATABASE_URL_FILE")),
        mistake: postgres_mistake,
    };
    let url = secret(&mut section, &keys, surroundings);
    let is_set = |name: &str| surroundings.environment.get(name).is_some_and(|value| !value.is_empty());
    if matches!(url, Found::Nothing) && !PG_VARIABLES.iter().any(|name| is_set(name)) {
        let hint = "or set ROWSTREAM__POSTGRES__URL, DATABASE_URL, postgres.url_file, or PGHOST and its like";
        section.mistake_at("url", "is required", hint);
    }
    let keys = SecretKeys { value: "password", file: "password_file", variables: None, mistake: |_| None };
    let password = secret(&mut section, &keys, surroundings);
    let postgres = Postgres {
        url: url.usable(),
        password: password.usable(),
        statement_timeout: section.duration("statement_timeout", &defaults::STATEMENT_TIMEOUT),
        lock_timeout: section.duration("lock_timeout", &defaults::LOCK_TIMEOUT),
        idle_in_transaction_timeout: section
            .duration("idle_in_transaction_timeout", &defaults::IDLE_IN_TRANSACTION_TIMEOUT),
    };
    if postgres.lock_timeout > postgres.statement_timeout {
        section.mistake_at("lock_timeout", "must not be longer than postgres.statement_timeout", "");
    }
    section.finish();
    postgres
}

/// The ways to give one secret.
struct SecretKeys {
    value: &'static str,
    file: &'static str,
    /// The value's variable and the file's, which apply where the configuration says nothing.
    variables: Option<(&'static str, &'static str)>,
    mistake: fn(&str) -> Option<&'static str>,
}

enum Found {
    Secret(Secret),
    /// Given, but not usable; reported.
    Unusable,
    Nothing,
}

impl Found {
    fn usable(self) -> Option<Secret> {
        match self {
            Self::Secret(secret) => Some(secret),
            Self::Unusable | Self::Nothing => None,
        }
    }
}

fn secret(section: &mut Section<'_>, keys: &SecretKeys, surroundings: &Surroundings<'_>) -> Found {
    let found = match (section.field(keys.value), section.field(keys.file)) {
        (Some(value), Some(file)) if value.is_from_environment() == file.is_from_environment() => {
            file.hidden_mistake(format!("must not be given together with {}", keys.value), "");
            return Found::Unusable;
        }
        (Some(value), Some(file)) if file.is_from_environment() => {
            drop(value);
            secret_of_file(&file, keys, surroundings)
        }
        (Some(value), _) => secret_of_field(&value, keys),
        (None, Some(file)) => secret_of_file(&file, keys, surroundings),
        (None, None) => return secret_of_variables(section, keys, surroundings),
    };
    found.map_or(Found::Unusable, Found::Secret)
}

fn secret_of_field(field: &Field<'_>, keys: &SecretKeys) -> Option<Secret> {
    let ::config::ValueKind::String(text) = field.value() else {
        field.hidden_mistake("must be text", "put it in quotes");
        return None;
    };
    match problem(text, keys) {
        Some(constraint) => {
            field.hidden_mistake(constraint, "");
            None
        }
        None => Some(Secret::new(text.clone())),
    }
}

fn secret_of_file(field: &Field<'_>, keys: &SecretKeys, surroundings: &Surroundings<'_>) -> Option<Secret> {
    // What is no path may be the secret itself, so what was given is never shown.
    let hint = format!("the value itself belongs into {}", keys.value);
    let path = match field.value() {
        ::config::ValueKind::String(path) if !path.contains("://") => path,
        _ => {
            field.hidden_mistake("must be the path of a file", &hint);
            return None;
        }
    };
    match read_secret(path, keys, surroundings) {
        Ok(secret) => Some(secret),
        Err(constraint) => {
            field.hidden_mistake(constraint, "");
            None
        }
    }
}

fn secret_of_variables(section: &Section<'_>, keys: &SecretKeys, surroundings: &Surroundings<'_>) -> Found {
    let Some((value_name, file_name)) = keys.variables else { return Found::Nothing };
    let variable = |name: &str| surroundings.environment.get(name).filter(|value| !value.is_empty());
    let (name, result) = match (variable(value_name), variable(file_name)) {
        (Some(_), Some(_)) => (file_name, Err(format!("must not be set together with {value_name}"))),
        (Some(text), None) => match problem(text, keys) {
            Some(constraint) => (value_name, Err(constraint.to_owned())),
            None => (value_name, Ok(Secret::new(text.clone()))),
        },
        (None, Some(path)) => (file_name, read_secret(path, keys, surroundings)),
        (None, None) => return Found::Nothing,
    };
    match result {
        Ok(secret) => Found::Secret(secret),
        Err(constraint) => {
            section.mistake_of_variable(name, constraint);
            Found::Unusable
        }
    }
}

fn read_secret(path: &str, keys: &SecretKeys, surroundings: &Surroundings<'_>) -> Result<Secret, String> {
    let text = (surroundings.read_file)(Path::new(path))
        .map_err(|error| format!("must be the path of a readable file: {error}"))?;
    // Editors and `echo` end a file with a line break that is no part of the secret.
    let text = text.trim_end_matches(['\r', '\n']);
    match problem(text, keys) {
        Some(constraint) => Err(format!("its file {constraint}")),
        None => Ok(Secret::new(text.to_owned())),
    }
}

fn problem(text: &str, keys: &SecretKeys) -> Option<&'static str> {
    if text.is_empty() { Some("must not be empty") } else { (keys.mistake)(text) }
}

fn http(mut section: Section<'_>, surroundings: &Surroundings<'_>) -> Http {
    let enabled = section.flag("enabled", true);
    let listen = section.field("listen").and_then(|field| listen(&field)).unwrap_or(defaults::HTTP_LISTEN);
    let keys = SecretKeys { value: "token", file: "token_file", variables: None, mistake: token_mistake };
    let token = secret(&mut section, &keys, surroundings).usable();
    section.finish();
    Http { enabled, listen, token }
}

/// It stands in a header, and must not be guessed.
fn token_mistake(text: &str) -> Option<&'static str> {
    let is_sound = text.len() >= 16 && text.bytes().all(|byte| byte.is_ascii_graphic());
    (!is_sound).then_some("must have at least 16 characters, all of them visible ASCII")
}

fn listen(field: &Field<'_>) -> Option<SocketAddr> {
    let text = field.text()?;
    let address = text.parse().ok();
    if address.is_none() {
        field.mistake("must be an IP address and a port such as 127.0.0.1:8080", "");
    }
    address
}

fn log(mut section: Section<'_>) -> Log {
    let level = section.field("level").and_then(|field| log_level(&field));
    let format = section.choice("format", &[("text", LogFormat::Text), ("json", LogFormat::Json)]);
    section.finish();
    Log {
        level: level.unwrap_or_else(|| defaults::LOG_LEVEL.to_owned()),
        format: format.unwrap_or(LogFormat::Text),
    }
}

fn log_level(field: &Field<'_>) -> Option<String> {
    let text = field.text()?;
    // The filter takes a lone word that is no level for a module's name, and turns everything else off.
    let is_level = |word: &str| word.contains(['=', '[']) || word.trim().parse::<LevelFilter>().is_ok();
    if text.split(',').all(is_level) && EnvFilter::builder().parse(&text).is_ok() {
        return Some(text);
    }
    field.mistake(
        "must be one of error, warn, info, debug, trace, off, or a filter such as rowstream=debug,info",
        "",
    );
    None
}

fn batch(mut section: Section<'_>) -> Batch {
    let batch = Batch {
        max_changes: in_memory(section.count("max_changes", &defaults::BATCH_MAX_CHANGES)),
        max_bytes: in_memory(section.bytes("max_bytes", &defaults::BATCH_MAX_BYTES)),
        linger: section.duration("linger", &defaults::BATCH_LINGER),
    };
    section.finish();
    batch
}

/// All bounds are below 4 GiB; on a smaller machine the limit is what it can address.
fn in_memory(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn snapshot(mut section: Section<'_>) -> Snapshot {
    let modes = [("initial", SnapshotMode::Initial), ("never", SnapshotMode::Never)];
    let snapshot = Snapshot {
        mode: section.choice("mode", &modes).unwrap_or(SnapshotMode::Initial),
        workers: in_memory(section.count("workers", &defaults::SNAPSHOT_WORKERS)),
        chunk_documents: section.count("chunk_documents", &defaults::SNAPSHOT_CHUNK_DOCUMENTS),
        chunk_bytes: section.bytes("chunk_bytes", &defaults::SNAPSHOT_CHUNK_BYTES),
    };
    section.finish();
    snapshot
}

fn held(mut section: Section<'_>) -> Held {
    let held = Held {
        keep_document: section.flag("keep_document", true),
        max_document_bytes: in_memory(
            section.bytes("max_document_bytes", &defaults::HELD_MAX_DOCUMENT_BYTES),
        ),
        retry_initial: section.duration("retry_initial", &defaults::HELD_RETRY_INITIAL),
        retry_max: section.duration("retry_max", &defaults::HELD_RETRY_MAX),
        limit: section.count("limit", &defaults::HELD_LIMIT),
        waiting_limit: section.duration("waiting_limit", &defaults::HELD_WAITING_LIMIT),
        retention: section.duration("retention", &defaults::HELD_RETENTION),
    };
    if held.retry_max < held.retry_initial {
        section.mistake_at("retry_max", "must not be shorter than held.retry_initial", "");
    }
    section.finish();
    held
}

fn lease(mut section: Section<'_>) -> Lease {
    let lease = Lease { ttl: section.duration("ttl", &defaults::LEASE_TTL) };
    section.finish();
    lease
}

fn health(mut section: Section<'_>) -> Health {
    let health = Health {
        lag_degraded: section.duration("lag_degraded", &defaults::LAG_DEGRADED),
        lag_failing: section.duration("lag_failing", &defaults::LAG_FAILING),
        outage_failing: section.duration("outage_failing", &defaults::OUTAGE_FAILING),
        oplog_headroom: section.duration("oplog_headroom", &defaults::OPLOG_HEADROOM),
        checkpoint_degraded: section.duration("checkpoint_degraded", &defaults::CHECKPOINT_DEGRADED),
        snapshot_degraded: section.duration("snapshot_degraded", &defaults::SNAPSHOT_DEGRADED),
    };
    if health.lag_failing < health.lag_degraded {
        section.mistake_at("lag_failing", "must not be shorter than health.lag_degraded", "");
    }
    section.finish();
    health
}

fn namespace(root: &mut Section<'_>) -> Uuid {
    let Some(field) = root.field("id_namespace") else { return defaults::ID_NAMESPACE };
    let namespace = field.text().map(|text| text.parse());
    if let Some(Err(_)) = namespace {
        field.mistake("must be a UUID such as 6ba7b811-9dad-11d1-80b4-00c04fd430c8", "");
    }
    namespace.and_then(Result::ok).unwrap_or(defaults::ID_NAMESPACE)
}

/// The mappings, or without any the whole database of `copy` or of the connection string.
fn what_is_copied(root: &mut Section<'_>, mongodb: Option<&MongoDb>) -> Option<Mappings> {
    let copy_is_given = root.has("copy");
    let mut copy = root.section("copy");
    let database = copy.field("database");
    let schema = copy.field("schema");
    copy.finish();
    if let Some(mappings) = root.field_or_null("mappings") {
        if copy_is_given {
            root.mistake_at(
                "copy",
                "must not be given together with mappings",
                "it is for a database without mappings",
            );
        }
        return self::mappings(mappings).map(Mappings::Listed);
    }
    let schema = match schema {
        Some(field) => {
            let name = field.text()?;
            if let Some(mistake) = schema_mistake(&name) {
                field.mistake(mistake, "");
            }
            name
        }
        None => defaults::SCHEMA.to_owned(),
    };
    let database = match database {
        Some(field) => {
            let name = field.text()?;
            if let Some(mistake) = database_mistake(&name) {
                field.mistake(mistake, "");
            }
            name
        }
        None => database_of_uri(root, mongodb)?,
    };
    Some(Mappings::WholeDatabase { database, schema })
}

fn database_of_uri(root: &mut Section<'_>, mongodb: Option<&MongoDb>) -> Option<String> {
    // Without a usable connection string that mistake comes first.
    let uri = mongodb?.uri.expose();
    let database = ConnectionString::split(uri).map_or("", |uri| uri.path);
    let hint = "list mappings, or set copy.database to copy a whole database";
    if database.is_empty() {
        root.mistake_at("mappings", "is required where the connection string names no database", hint);
        return None;
    }
    if let Some(mistake) = database_mistake(database) {
        let constraint =
            format!("is required where the connection string names the database {database}, which {mistake}");
        root.mistake_at("mappings", &constraint, hint);
        return None;
    }
    Some(database.to_owned())
}
