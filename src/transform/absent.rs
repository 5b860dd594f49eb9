//! Mapped paths that documents do not have: a misspelt one would be a column of nulls for ever.

use super::walk::{ARRAY, DOCUMENT, Elements, Raw};
use crate::config::{Aim, ChildFrom, MatchSpec, Targets, ValueSpec};
use crate::mapping::{ColumnPlan, Mapping};

/// What a mapping reads of the documents and no document had yet, each as it is told: its path, or those of which
/// the first that is present counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Absent {
    read: Vec<(String, Vec<Steps>)>,
}

/// The names of fields on a path, without places in arrays.
type Steps = Vec<Box<[u8]>>;

impl Absent {
    /// What expressions, filters and transformers read is left out: it may well ask for what is not there.
    pub fn new(mapping: &Mapping) -> Self {
        let mut absent = Self { read: Vec::new() };
        mapping.columns.iter().for_each(|column| absent.add_column(column, None));
        for child in &mapping.children {
            let (ChildFrom::Each { path, .. } | ChildFrom::Object { path }) = &child.from;
            absent.add([path.as_str()], None);
            child.mapping.columns.iter().for_each(|column| absent.add_column(column, Some(path)));
        }
        absent
    }

    pub fn is_empty(&self) -> bool {
        self.read.is_empty()
    }

    /// What is left.
    pub fn names(&self) -> Vec<String> {
        self.read.iter().map(|(name, _)| name.clone()).collect()
    }

    /// Keeps those of these names.
    pub fn retain(&mut self, names: &[String]) {
        self.read.retain(|(name, _)| names.contains(name));
    }

    /// Takes out what this document has, be it null.
    pub fn look_into(&mut self, document: &[u8]) {
        let document = Raw { element_type: DOCUMENT, bytes: document };
        self.read.retain(|(_, paths)| !paths.iter().any(|path| has(document, path)));
    }

    fn add_column(&mut self, column: &ColumnPlan, element: Option<&str>) {
        match &column.value {
            ValueSpec::Path { from, .. } => self.add(from.iter().map(String::as_str), element),
            ValueSpec::Collect { from, .. } => self.add([from.as_str()], element),
            ValueSpec::Reference(reference) => {
                let element = reference.each.as_deref().or(element);
                match &reference.aim {
                    Aim::Document { to, from, .. } => {
                        if let Targets::By { path, .. } = to {
                            self.add([path.as_str()], element);
                        }
                        self.add(from.iter().map(String::as_str), element);
                    }
                    Aim::Parent => {}
                    Aim::Row { matches, .. } => {
                        for (_, value) in matches {
                            match value {
                                MatchSpec::Path(path) => self.add([path.as_str()], element),
                                MatchSpec::Constant(_) => {}
                            }
                        }
                    }
                }
            }
            ValueSpec::Expression { .. }
            | ValueSpec::Transformed { .. }
            | ValueSpec::Document { .. }
            | ValueSpec::SourceId
            | ValueSpec::ClusterTime
            | ValueSpec::Constant(_)
            | ValueSpec::KeyUuid
            | ValueSpec::KeyPrefixed(_) => {}
        }
    }

    /// Paths of which the first that is present counts.
    fn add<'p>(&mut self, paths: impl IntoIterator<Item = &'p str>, element: Option<&str>) {
        let Some(paths) = paths.into_iter().map(|path| whole(path, element)).collect::<Option<Vec<_>>>()
        else {
            return;
        };
        let name = paths.join(" | ");
        if paths.is_empty() || self.read.iter().any(|(known, _)| *known == name) {
            return;
        }
        self.read.push((name, paths.iter().map(|path| steps(path)).collect()));
    }
}

/// From the root of the document; `None`: what is always there.
fn whole(path: &str, element: Option<&str>) -> Option<String> {
    let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
    match (first, rest, element) {
        ("_id", ..) => None,
        ("$document", Some(rest), _) => whole(rest, None),
        ("$element", None, Some(element)) => Some(element.to_owned()),
        ("$element", Some(rest), Some(element)) => Some(format!("{element}.{rest}")),
        (name, ..) if name.starts_with('$') => None,
        _ => Some(path.to_owned()),
    }
}

/// A place in an array is no name of a field.
fn steps(path: &str) -> Steps {
    let is_place = |step: &&str| !step.is_empty() && step.bytes().all(|byte| byte.is_ascii_digit());
    path.split('.').filter(|step| !is_place(step)).map(|step| step.as_bytes().into()).collect()
}

fn has(raw: Raw<'_>, steps: &[Box<[u8]>]) -> bool {
    let Some((first, rest)) = steps.split_first() else { return true };
    if raw.element_type != DOCUMENT && raw.element_type != ARRAY {
        return false;
    }
    let Ok(elements) = Elements::new(raw.bytes) else { return false };
    let is_array = raw.element_type == ARRAY;
    elements.flatten().any(|(name, raw)| match is_array {
        true => has(raw, steps),
        false => *name == **first && has(raw, rest),
    })
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;

    #[test]
    fn what_no_document_has_is_left() {
        let mut absent = Absent { read: Vec::new() };
        for path in ["a.b", "a.x", "e.0.f", "e.z", "$element.g", "$element", "$index", "_id", "n"] {
            absent.add([path], Some("e"));
        }
        absent.add(["x", "a"], None);
        absent.add(["x", "y"], None);
        assert_eq!(absent.names().len(), 9);
        let document = doc! { "a": { "b": 1 }, "e": [7, { "f": 1 }], "n": null };
        absent.look_into(&document.to_vec().expect("bytes"));
        assert_eq!(absent.names(), ["a.x", "e.z", "e.g", "x | y"]);
        absent.look_into(&doc! { "e": [{ "h": 1 }, { "g": null }] }.to_vec().expect("bytes"));
        absent.retain(&["e.z".to_owned(), "x | y".to_owned()]);
        assert_eq!(absent.names(), ["e.z", "x | y"]);
    }
}
