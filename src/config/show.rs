//! The configuration as it applies, for `config show`: YAML that can be read back, without its secrets.

use std::fmt::Write;

use super::children;
use super::connection::redact;
use super::model::{
    Aim, ColumnSpec, Config, Deletes, KeySpec, LogFormat, MappingSpec, Mappings, MatchSpec, Missing, OnDrop,
    OnHistoryLost, OnMappingChange, ReferenceSpec, SchemaMode, SnapshotMode, Targets, ValueSpec,
};
use super::reading::{JsonForm, quoted};
use super::reconcile::Reconcile;
use super::units::{show_bytes, show_duration};

/// Every setting with the value that applies. Connection strings keep their hosts; passwords are `***`.
pub fn redacted(config: &Config) -> String {
    let mut yaml = String::new();
    let out = &mut yaml;
    line(out, 0, "pipeline", &quoted(&config.pipeline));
    servers(out, config);
    service(out, config);
    work(out, config);
    let on_history_lost = match config.on_history_lost {
        OnHistoryLost::Halt => "halt",
        OnHistoryLost::Resync => "resync",
    };
    line(out, 0, "on_history_lost", on_history_lost);
    line(out, 0, "id_namespace", &quoted(&config.namespace.to_string()));
    match &config.mappings {
        Mappings::WholeDatabase { database, schema } => {
            line(out, 0, "copy", "");
            line(out, 1, "database", &quoted(database));
            line(out, 1, "schema", &quoted(schema));
        }
        Mappings::Listed(mappings) => {
            line(out, 0, "mappings", "");
            for spec in mappings {
                mapping(out, spec);
            }
        }
    }
    yaml
}

fn servers(out: &mut String, config: &Config) {
    line(out, 0, "mongodb", "");
    line(out, 1, "uri", &quoted(&redact(config.mongodb.uri.expose())));
    let postgres = &config.postgres;
    line(out, 0, "postgres", "");
    if let Some(url) = &postgres.url {
        line(out, 1, "url", &quoted(&redact(url.expose())));
    }
    if let Some(password) = &postgres.password {
        line(out, 1, "password", &quoted(&password.to_string()));
    }
    line(out, 1, "statement_timeout", &show_duration(postgres.statement_timeout));
    line(out, 1, "lock_timeout", &show_duration(postgres.lock_timeout));
    line(out, 1, "idle_in_transaction_timeout", &show_duration(postgres.idle_in_transaction_timeout));
}

fn service(out: &mut String, config: &Config) {
    line(out, 0, "http", "");
    line(out, 1, "enabled", &config.http.enabled.to_string());
    line(out, 1, "listen", &quoted(&config.http.listen.to_string()));
    if let Some(token) = &config.http.token {
        line(out, 1, "token", &quoted(&token.to_string()));
    }
    line(out, 0, "log", "");
    line(out, 1, "level", &quoted(&config.log.level));
    let format = match config.log.format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    };
    line(out, 1, "format", format);
}

fn work(out: &mut String, config: &Config) {
    line(out, 0, "batch", "");
    line(out, 1, "max_changes", &config.batch.max_changes.to_string());
    line(out, 1, "max_bytes", &show_bytes(config.batch.max_bytes as u64));
    line(out, 1, "linger", &show_duration(config.batch.linger));
    let snapshot = &config.snapshot;
    line(out, 0, "snapshot", "");
    let mode = match snapshot.mode {
        SnapshotMode::Initial => "initial",
        SnapshotMode::Never => "never",
    };
    line(out, 1, "mode", mode);
    line(out, 1, "workers", &snapshot.workers.to_string());
    line(out, 1, "chunk_documents", &snapshot.chunk_documents.to_string());
    line(out, 1, "chunk_bytes", &show_bytes(snapshot.chunk_bytes));
    let held = &config.held;
    line(out, 0, "held", "");
    line(out, 1, "keep_document", &held.keep_document.to_string());
    line(out, 1, "max_document_bytes", &show_bytes(held.max_document_bytes as u64));
    line(out, 1, "retry_initial", &show_duration(held.retry_initial));
    line(out, 1, "retry_max", &show_duration(held.retry_max));
    line(out, 1, "limit", &held.limit.to_string());
    line(out, 1, "waiting_limit", &show_duration(held.waiting_limit));
    line(out, 1, "retention", &show_duration(held.retention));
    line(out, 0, "lease", "");
    line(out, 1, "ttl", &show_duration(config.lease.ttl));
    let health = &config.health;
    line(out, 0, "health", "");
    line(out, 1, "lag_degraded", &show_duration(health.lag_degraded));
    line(out, 1, "lag_failing", &show_duration(health.lag_failing));
    line(out, 1, "outage_failing", &show_duration(health.outage_failing));
    line(out, 1, "oplog_headroom", &show_duration(health.oplog_headroom));
    line(out, 1, "checkpoint_degraded", &show_duration(health.checkpoint_degraded));
    line(out, 1, "snapshot_degraded", &show_duration(health.snapshot_degraded));
    reconcile(out, &config.reconcile);
}

fn reconcile(out: &mut String, reconcile: &Reconcile) {
    line(out, 0, "reconcile", "");
    line(out, 1, "every", &show_duration(reconcile.every));
    line(out, 1, "sample", &reconcile.sample.to_string());
    line(out, 1, "full_every", &show_duration(reconcile.full_every));
    if let Some(window) = reconcile.window {
        line(out, 1, "window", &quoted(&window.show()));
    }
    line(out, 1, "documents_per_second", &reconcile.documents_per_second.unwrap_or(0).to_string());
    if let Some(preference) = reconcile.read_preference {
        line(out, 1, "read_preference", preference);
    }
    line(out, 1, "patience", &show_duration(reconcile.patience));
    line(out, 1, "retention", &show_duration(reconcile.retention));
    line(out, 1, "repairs_per_second", &reconcile.repairs_per_second.to_string());
    if !reconcile.assertions.is_empty() {
        line(out, 1, "assertions", "");
    }
    for assertion in &reconcile.assertions {
        line(out, 2, "- name", &quoted(&assertion.name));
        line(out, 3, "sql", &quoted(&assertion.sql));
        line(out, 3, "expect", &assertion.expect.as_deref().map_or_else(|| "null".to_owned(), quoted));
    }
}

fn mapping(out: &mut String, spec: &MappingSpec) {
    line(out, 1, "- source", &quoted(&spec.source));
    line(out, 2, "collection", &quoted(&spec.collection.to_string()));
    let (schema, name) = (quoted(&spec.table.schema), quoted(&spec.table.name));
    line(out, 2, "table", &format!("{{ schema: {schema}, name: {name} }}"));
    if let Some(id_type) = spec.id_type {
        line(out, 2, "id_type", &id_type.to_string());
    }
    let list = |names: &[String]| {
        format!("[{}]", names.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", "))
    };
    let key = match &spec.key {
        KeySpec::SourceId { source, source_id } => {
            let source = source.as_deref().map_or_else(|| "null".to_owned(), quoted);
            format!("{{ source: {source}, source_id: {} }}", quoted(source_id))
        }
        KeySpec::Columns(names) => list(names),
    };
    line(out, 2, "key", &key);
    if let Some(adopt) = &spec.adopt {
        let keys: Vec<String> = adopt.iter().map(|names| list(names)).collect();
        line(out, 2, "adopt", &format!("[{}]", keys.join(", ")));
    }
    if spec.shared {
        line(out, 2, "shared", "true");
    }
    if let Some(transform) = &spec.transform {
        line(out, 2, "transform", &quoted(transform));
    }
    if let Some(filter) = &spec.filter {
        line(out, 2, "filter", &filter.to_yaml());
    }
    if let Some(columns) = &spec.columns {
        line(out, 2, "columns", "");
        for column in columns {
            line(out, 3, &quoted(&column.name), &value(column));
        }
    }
    children::show(out, &spec.children);
    if !spec.ignore.is_empty() {
        line(out, 2, "ignore", &list(&spec.ignore));
    }
    let deletes = match &spec.deletes {
        Deletes::Hard => "hard".to_owned(),
        Deletes::Keep => "keep".to_owned(),
        Deletes::Soft { column } => format!("{{ soft: {} }}", quoted(column)),
    };
    line(out, 2, "deletes", &deletes);
    if let Some(sync) = &spec.sync {
        line(out, 2, "sync", &sync.to_yaml());
    }
    let schema = match spec.schema {
        SchemaMode::Expect => "expect",
        SchemaMode::Create => "create",
    };
    line(out, 2, "schema", schema);
    let on_drop = match spec.on_drop {
        OnDrop::Delete => "delete",
        OnDrop::Halt => "halt",
    };
    line(out, 2, "on_drop", on_drop);
    let on_mapping_change = match spec.on_mapping_change {
        OnMappingChange::Resync => "resync",
        OnMappingChange::Halt => "halt",
    };
    line(out, 2, "on_mapping_change", on_mapping_change);
    line(out, 2, "critical", &spec.critical.to_string());
    line(out, 2, "enabled", &spec.enabled.to_string());
    line(out, 2, "allow_empty", &spec.allow_empty.to_string());
}

pub(super) fn value(column: &ColumnSpec) -> String {
    let mut parts = match &column.value {
        ValueSpec::Path { from, reading } => {
            let settings = reading.settings().into_iter().map(|(key, value)| format!("{key}: {value}"));
            std::iter::once(format!("from: {}", quoted_list(from))).chain(settings).collect()
        }
        ValueSpec::Document { without, json, strip_nul } => {
            let mut parts = vec!["from: $document".to_owned()];
            parts.extend((!without.is_empty()).then(|| format!("without: {}", quoted_list(without))));
            parts.extend((*json != JsonForm::Relaxed).then(|| format!("json: {}", json.as_str())));
            parts.extend(strip_nul.then(|| "strip_nul: true".to_owned()));
            parts
        }
        ValueSpec::Expression { expression, reading } => {
            let settings = reading.settings().into_iter().map(|(key, value)| format!("{key}: {value}"));
            std::iter::once(format!("cel: {}", quoted(expression.text()))).chain(settings).collect()
        }
        ValueSpec::Transformed { reading } => {
            let settings = reading.settings().into_iter().map(|(key, value)| format!("{key}: {value}"));
            std::iter::once("from: $transform".to_owned()).chain(settings).collect()
        }
        ValueSpec::SourceId => vec!["from: $id".to_owned()],
        ValueSpec::ClusterTime => vec!["from: $cluster_time".to_owned()],
        ValueSpec::Constant(scalar) => vec![format!("value: {}", scalar.to_yaml())],
        ValueSpec::Collect { from, distinct } => {
            vec![format!("collect: {}", quoted(from)), format!("distinct: {distinct}")]
        }
        ValueSpec::KeyUuid => vec!["key: uuid".to_owned()],
        ValueSpec::KeyPrefixed(prefix) => vec![format!("key: {{ prefix: {} }}", quoted(prefix))],
        ValueSpec::Reference(spec) if spec.aim == Aim::Parent => vec!["from: $parent".to_owned()],
        ValueSpec::Reference(spec) => reference(spec),
    };
    if column.required {
        parts.push("required: true".to_owned());
    }
    parts.extend(column.default.iter().map(|default| format!("default: {}", default.to_yaml())));
    if column.insert_only {
        parts.push("write: insert".to_owned());
    }
    format!("{{ {} }}", parts.join(", "))
}

fn reference(spec: &ReferenceSpec) -> Vec<String> {
    let take = spec.take.iter().map(|take| format!("take: {}", quoted(take)));
    let aim = match &spec.aim {
        Aim::Document { to, from, strip_prefix } => {
            let to = match to {
                Targets::First(sources) => format!("to: {}", quoted_list(sources)),
                Targets::By { path, map } => {
                    let map =
                        map.iter().map(|(kind, source)| format!("{}: {}", quoted(kind), quoted(source)));
                    let map = map.collect::<Vec<_>>().join(", ");
                    format!("by: {{ path: {}, map: {{ {map} }} }}", quoted(path))
                }
            };
            let mut parts = vec![to, format!("from: {}", quoted_list(from))];
            parts.extend(strip_prefix.iter().map(|prefix| format!("strip_prefix: {}", quoted(prefix))));
            format!("ref: {{ {} }}", parts.into_iter().chain(take).collect::<Vec<_>>().join(", "))
        }
        Aim::Parent => "from: $parent".to_owned(),
        Aim::Row { table, matches } => {
            let matches = matches.iter().map(|(column, value)| match value {
                MatchSpec::Path(path) => format!("{}: {}", quoted(column), quoted(path)),
                MatchSpec::Constant(constant) => {
                    format!("{}: {{ value: {} }}", quoted(column), constant.to_yaml())
                }
            });
            let matches = matches.collect::<Vec<_>>().join(", ");
            let table = format!("{{ schema: {}, name: {} }}", quoted(&table.schema), quoted(&table.name));
            let parts = vec![format!("table: {table}"), format!("match: {{ {matches} }}")];
            format!("lookup: {{ {} }}", parts.into_iter().chain(take).collect::<Vec<_>>().join(", "))
        }
    };
    let each = spec.each.iter().map(|each| format!("each: {}", quoted(each)));
    let missing = match &spec.missing {
        Missing::Hold => "hold".to_owned(),
        Missing::Null => "null".to_owned(),
        Missing::Keep => "keep".to_owned(),
        Missing::Drop => "drop".to_owned(),
        Missing::Create(stub) => {
            let mut parts = Vec::new();
            parts.extend(stub.source.iter().map(|source| format!("source: {}", quoted(source))));
            parts.extend(stub.prefix.iter().map(|prefix| format!("prefix: {}", quoted(prefix))));
            let columns =
                stub.columns.iter().map(|column| format!("{}: {}", quoted(&column.name), value(column)));
            parts.push(format!("columns: {{ {} }}", columns.collect::<Vec<_>>().join(", ")));
            format!("{{ create: {{ {} }} }}", parts.join(", "))
        }
    };
    each.chain([aim, format!("missing: {missing}")]).collect()
}

pub(super) fn quoted_list(items: &[String]) -> String {
    let items: Vec<String> = items.iter().map(|item| quoted(item)).collect();
    format!("[{}]", items.join(", "))
}

pub(super) fn line(out: &mut String, depth: usize, key: &str, value: &str) {
    let space = if value.is_empty() { "" } else { " " };
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{:indent$}{key}:{space}{value}", "", indent = depth * 2);
}
