//! `rowstream config schema`: what editors know of the configuration is what rowstream knows.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value};

use crate::daemon::binary;

const EXAMPLE: &str = include_str!("../../config/example.yaml");

fn yaml(text: &str) -> Result<Value> {
    let file = config::File::from_str(text, config::FileFormat::Yaml);
    Ok(config::Config::builder().add_source(file).build()?.try_deserialize()?)
}

/// With the alternatives that are left out, which begin with `#key`.
fn whole_example() -> String {
    let line = |line: &str| {
        let bare = line.trim_start();
        let is_key = |text: &str| text.starts_with(|first: char| first.is_ascii_lowercase());
        match bare.strip_prefix('#').filter(|rest| is_key(rest) && !rest.starts_with("copy")) {
            Some(key) => format!("{}{key}", " ".repeat(line.len() - bare.len())),
            None => line.to_owned(),
        }
    };
    EXAMPLE.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// The part of JSON Schema that is used: what does not fit, each with its place.
fn misfits(root: &Value, schema: &Value, value: &Value, place: &str) -> Vec<String> {
    if let Some(name) = schema["$ref"].as_str() {
        return misfits(root, &root["definitions"][name.trim_start_matches("#/definitions/")], value, place);
    }
    if let Some(alternatives) = schema["anyOf"].as_array() {
        let of_each = alternatives.iter().map(|one| misfits(root, one, value, place));
        return of_each.min_by_key(|found| found.len()).unwrap_or_default();
    }
    if let Some(allowed) = schema["enum"].as_array() {
        return if allowed.contains(value) { Vec::new() } else { vec![format!("{place}: {value}")] };
    }
    let is = |name: &Value| match name.as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        Some("null") => value.is_null(),
        _ => false,
    };
    let fits = match &schema["type"] {
        Value::Null => true,
        Value::Array(names) => names.iter().any(is),
        name => is(name),
    };
    if !fits {
        return vec![format!("{place}: {value} is not {}", schema["type"])];
    }
    match value {
        Value::Array(items) => {
            let each = (0..).zip(items);
            each.flat_map(|(at, item)| misfits(root, &schema["items"], item, &format!("{place}[{at}]")))
                .collect()
        }
        Value::Object(fields) => of_object(root, schema, fields, place),
        _ => Vec::new(),
    }
}

fn of_object(root: &Value, schema: &Value, fields: &Map<String, Value>, place: &str) -> Vec<String> {
    let missing = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let missing =
        missing.filter(|key| !fields.contains_key(*key)).map(|key| format!("{place}.{key} is missing"));
    let given = fields.iter().flat_map(|(key, value)| {
        let place = format!("{place}.{key}");
        match (&schema["properties"][key], &schema["additionalProperties"]) {
            (Value::Null, Value::Bool(false)) => vec![format!("{place} is not known")],
            (Value::Null, any) => misfits(root, any, value, &place),
            (known, _) => misfits(root, known, value, &place),
        }
    });
    missing.chain(given).collect()
}

/// Every name below `properties`, wherever it stands.
fn names(schema: &Value, found: &mut BTreeSet<String>) {
    for (key, inner) in schema.as_object().into_iter().flatten() {
        if let (true, Some(properties)) = (key == "properties", inner.as_object()) {
            found.extend(properties.keys().cloned());
            properties.values().for_each(|property| names(property, found));
        } else {
            names(inner, found);
        }
    }
    schema.as_array().into_iter().flatten().for_each(|item| names(item, found));
}

#[test]
fn the_schema_for_editors_knows_every_key_of_the_example_and_no_other() -> Result<()> {
    // Nothing need be configured to ask for it.
    let output = Command::new(binary()).args(["config", "schema"]).env_clear().output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let schema: Value = serde_json::from_slice(&output.stdout).context("no JSON")?;
    let fits = |text: &str| anyhow::Ok(misfits(&schema, &schema, &yaml(text)?, ""));
    assert_eq!(fits(EXAMPLE)?, [""; 0]);
    assert_eq!(fits(&whole_example())?, [""; 0]);
    for (mistake, told) in [
        ("batch: { lingr: 5ms }", ".batch.lingr is not known"),
        ("log: { format: xml }", ".log.format: \"xml\""),
        ("mappings: [{ source: a }]", ".mappings[0].collection is missing"),
        ("mappings: [{ source: a, collection: b.c, colums: { x: y } }]", ".mappings[0].colums is not known"),
    ] {
        assert_eq!(fits(mistake)?, [told]);
    }
    let mut known = BTreeSet::new();
    names(&schema, &mut known);
    let example = whole_example();
    let unknown: Vec<&String> = known.iter().filter(|name| !example.contains(&format!("{name}:"))).collect();
    assert!(unknown.is_empty(), "config/example.yaml does not show {unknown:?}");
    Ok(())
}
