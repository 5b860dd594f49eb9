//! Where configuration comes from, and which source wins: `ROWSTREAM__…`, then the file, then the
//! variables that other programs understand too.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use ::config::{ConfigError, Environment, File, FileFormat, Map, Source, Value, ValueKind};

use super::connection::redact;
use super::error::{Error, Mistake};
use super::model::Config;
use super::sections;
use super::tree::{ENVIRONMENT_PREFIX, Reader};

/// Reads the file, if one is named, and the environment that is passed in.
///
/// # Errors
/// [`Error::Mistakes`] holds all mistakes of a file that has a structure; a file without one, or none
/// where one was asked for, is an error by itself.
pub fn load(path: Option<&Path>, environment: &BTreeMap<String, String>) -> Result<Config, Error> {
    let text = path.map(|path| (path, std::fs::read_to_string(path)));
    let text = match text {
        None => None,
        Some((path, Ok(text))) => Some((path, text)),
        Some((path, Err(source))) => return Err(Error::Unreadable { path: path.to_owned(), source }),
    };
    let file = match &text {
        Some((path, text)) => parse_yaml(path, text)?,
        None => Map::new(),
    };
    let reader = Reader::default();
    let surroundings = Surroundings { environment, read_file: &|path| std::fs::read_to_string(path) };
    read(&reader, file, &surroundings).ok_or_else(|| Error::Mistakes(reader.into_mistakes()))
}

/// What is read besides the file itself.
pub(super) struct Surroundings<'a> {
    pub(super) environment: &'a BTreeMap<String, String>,
    /// For the files that hold a secret.
    pub(super) read_file: &'a dyn Fn(&Path) -> io::Result<String>,
}

/// `None`: the reader has mistakes.
pub(super) fn read(
    reader: &Reader,
    file: Map<String, Value>,
    surroundings: &Surroundings<'_>,
) -> Option<Config> {
    let merged = with_environment(reader, file, surroundings.environment);
    let config = sections::config(reader.root(merged), surroundings);
    config.filter(|_| !reader.has_mistakes())
}

pub(super) fn parse_yaml(path: &Path, text: &str) -> Result<Map<String, Value>, Error> {
    File::from_str(text, FileFormat::Yaml).collect().map_err(|error| {
        let message = match error {
            ConfigError::FileParse { cause, .. } => cause.to_string(),
            ConfigError::Type { .. } => "the file must be a map of sections".to_owned(),
            other => other.to_string(),
        };
        let message = match message.contains("unsupported hash key type") {
            true => format!(
                "{message} (a key that is null or a list: put it in quotes; a column's null is on_null:)"
            ),
            false => message,
        };
        // The parser quotes keys, and a key may be a connection string that lost its own.
        let message = if message.contains("://") { redact(&message) } else { message };
        Error::Syntax { path: path.to_owned(), message }
    })
}

/// Lays `ROWSTREAM__SECTION__KEY` over the file. The keys of sections are lower case in both; names
/// that an operator chose (columns, sources) occur in lists only, which no variable can reach.
fn with_environment(
    reader: &Reader,
    file: Map<String, Value>,
    environment: &BTreeMap<String, String>,
) -> Map<String, Value> {
    let mut variables = Map::new();
    for (name, value) in environment {
        let Some(key) = name.strip_prefix(ENVIRONMENT_PREFIX) else { continue };
        if key == "MAPPINGS" || key.starts_with("MAPPINGS__") {
            reader.report(Mistake {
                key: name.clone(),
                constraint: "lists cannot be set by variables".to_owned(),
                given: None,
                hint: Some("write mappings into the file".to_owned()),
            });
        } else {
            variables.insert(name.clone(), value.clone());
        }
    }
    // Compose and Kubernetes templates set a variable to nothing where they have no value.
    let source =
        Environment::with_prefix("ROWSTREAM").separator("__").ignore_empty(true).source(Some(variables));
    let mut merged = Value::new(None, ValueKind::Table(file));
    if let Err(error) = source.collect_to(&mut merged) {
        reader.report(Mistake {
            key: "environment".to_owned(),
            constraint: error.to_string(),
            given: None,
            hint: None,
        });
    }
    match merged.kind {
        ValueKind::Table(entries) => entries,
        _ => Map::new(),
    }
}
