//! Fields that no mapping reads: what comes into a collection after its mapping was written.

use std::collections::HashMap;

use super::walk::{ARRAY, DOCUMENT, Elements, Raw};
use crate::config::{
    Aim, ChildFrom, ColumnSpec, Condition, Expression, FieldsOfDocument, Filter, MappingSpec, MatchSpec,
    Missing, Targets, ValueSpec,
};

/// Elements of one array that are looked into. Those of one array are mostly alike.
const ELEMENTS: usize = 16;

/// Characters of a path that are told.
const PATH_CHARACTERS: usize = 120;

/// What is read of the documents of one collection; finds the rest.
#[derive(Debug)]
pub struct Unread {
    read: Node,
}

/// One field: read as a whole, or only in parts.
#[derive(Debug, Default)]
struct Node {
    whole: bool,
    parts: HashMap<Box<[u8]>, Node>,
}

/// One of the mappings reads whole documents: nothing of them is unread.
struct Everything;

impl Unread {
    /// By all mappings of one collection together. `None`: nothing can be unread.
    pub fn new<'s>(specs: impl IntoIterator<Item = &'s MappingSpec>) -> Option<Self> {
        let mut read = Node::default();
        read.add("_id");
        for spec in specs {
            read.add_mapping(spec).ok()?;
        }
        Some(Self { read })
    }

    /// Calls `found` with the path of each field that is not read, as deep as the mappings look. A document that
    /// is malformed is looked at as far as it is sound.
    pub fn find(&self, document: &[u8], mut found: impl FnMut(&str)) {
        self.read.find(document, &mut String::new(), &mut found);
    }
}

impl Node {
    fn add(&mut self, path: &str) {
        let mut node = self;
        for step in path.split('.') {
            // A place in an array is no name of a field.
            if step.bytes().all(|byte| byte.is_ascii_digit()) && !step.is_empty() {
                continue;
            }
            node = node.parts.entry(step.as_bytes().into()).or_default();
        }
        node.whole = true;
    }

    fn add_mapping(&mut self, spec: &MappingSpec) -> Result<(), Everything> {
        let Some(columns) = spec.columns.as_ref().filter(|_| spec.transform.is_none()) else {
            return Err(Everything);
        };
        match &spec.filter {
            None => {}
            Some(Filter::Expression(expression)) => self.add_expression(expression)?,
            Some(Filter::Conditions(conditions)) => {
                conditions.iter().for_each(|Condition { path, .. }| self.add(path));
            }
        }
        spec.ignore.iter().for_each(|path| self.add(path));
        for column in columns {
            self.add_column(column, None)?;
        }
        for child in &spec.children {
            let (ChildFrom::Each { path, .. } | ChildFrom::Object { path }) = &child.from;
            for column in &child.columns {
                self.add_column(column, Some(path))?;
            }
        }
        Ok(())
    }

    /// `element`: where the elements stand that the column is of.
    fn add_column(&mut self, column: &ColumnSpec, element: Option<&str>) -> Result<(), Everything> {
        match &column.value {
            ValueSpec::Path { from, .. } => from.iter().try_for_each(|path| self.add_path(path, element)),
            ValueSpec::Collect { from, .. } => self.add_path(from, element),
            ValueSpec::Expression { expression, .. } => {
                if let Some(element) = element.filter(|_| expression.is_of_element()) {
                    self.add(element);
                }
                self.add_expression(expression)
            }
            ValueSpec::Document { .. } | ValueSpec::Transformed { .. } => Err(Everything),
            ValueSpec::SourceId
            | ValueSpec::ClusterTime
            | ValueSpec::Constant(_)
            | ValueSpec::KeyUuid
            | ValueSpec::KeyPrefixed(_) => Ok(()),
            ValueSpec::Reference(reference) => {
                self.add_aim(&reference.aim, element)?;
                match &reference.missing {
                    Missing::Create(stub) => {
                        stub.columns.iter().try_for_each(|column| self.add_column(column, element))
                    }
                    Missing::Hold | Missing::Null | Missing::Keep | Missing::Drop => Ok(()),
                }
            }
        }
    }

    fn add_aim(&mut self, aim: &Aim, element: Option<&str>) -> Result<(), Everything> {
        match aim {
            Aim::Document { to, from, .. } => {
                if let Targets::By { path, .. } = to {
                    self.add_path(path, element)?;
                }
                from.iter().try_for_each(|path| self.add_path(path, element))
            }
            Aim::Parent => Ok(()),
            Aim::Row { matches, .. } => matches.iter().try_for_each(|(_, value)| match value {
                MatchSpec::Path(path) => self.add_path(path, element),
                MatchSpec::Constant(_) => Ok(()),
            }),
        }
    }

    fn add_path(&mut self, path: &str, element: Option<&str>) -> Result<(), Everything> {
        let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
        match (first, rest, element) {
            ("$document", None, _) => return Err(Everything),
            ("$document", Some(rest), _) => self.add(rest),
            ("$element", None, Some(element)) => self.add(element),
            ("$element", Some(rest), Some(element)) => self.add(&format!("{element}.{rest}")),
            (name, ..) if name.starts_with('$') => {}
            _ => self.add(path),
        }
        Ok(())
    }

    fn add_expression(&mut self, expression: &Expression) -> Result<(), Everything> {
        match expression.fields() {
            FieldsOfDocument::All => return Err(Everything),
            FieldsOfDocument::Named(names) => names.iter().for_each(|name| self.add(name)),
        }
        Ok(())
    }

    fn find(&self, document: &[u8], path: &mut String, found: &mut impl FnMut(&str)) {
        let Ok(elements) = Elements::new(document) else { return };
        for element in elements {
            let Ok((name, raw)) = element else { return };
            let node = self.parts.get(name);
            if node.is_some_and(|node| node.whole) {
                continue;
            }
            let before = path.len();
            if before > 0 {
                path.push('.');
            }
            path.push_str(&String::from_utf8_lossy(name));
            match node {
                None => found(&shown(path)),
                Some(node) => node.look_into(raw, path, found),
            }
            path.truncate(before);
        }
    }

    fn look_into(&self, raw: Raw<'_>, path: &mut String, found: &mut impl FnMut(&str)) {
        match raw.element_type {
            DOCUMENT => self.find(raw.bytes, path, found),
            ARRAY => {
                let Ok(elements) = Elements::new(raw.bytes) else { return };
                let documents =
                    elements.take(ELEMENTS).flatten().filter(|(_, raw)| raw.element_type == DOCUMENT);
                documents.for_each(|(_, raw)| self.find(raw.bytes, path, found));
            }
            // Something else than what the mapping looks into: the mapping's own rules tell of it.
            _ => {}
        }
    }
}

fn shown(path: &str) -> String {
    match path.char_indices().nth(PATH_CHARACTERS) {
        Some((end, _)) => format!("{}…", &path[..end]),
        None => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;

    fn unread(read: &[&str], document: bson::Document) -> Vec<String> {
        let mut node = Node::default();
        read.iter().for_each(|path| node.add(path));
        let mut found = Vec::new();
        let bytes = document.to_vec().expect("bytes");
        Unread { read: node }.find(&bytes, |path| found.push(path.to_owned()));
        found
    }

    #[test]
    fn what_is_not_read_is_told_as_deep_as_the_mapping_looks() {
        let document = || {
            doc! { "a": { "b": 1, "c": { "d": 1 } }, "e": [{ "f": 1, "g": 2 }, { "f": 1, "h": { "i": 1 } }, 7],
            "j": { "k": 1 }, "": 1 }
        };
        assert_eq!(unread(&["a.b", "e.f"], document()), ["a.c", "e.g", "e.h", "j", ""]);
        assert_eq!(unread(&["a", "e.0.f", "j.k.l", ""], document()), ["e.g", "e.h"]);
        assert_eq!(unread(&["a", "a.b", "e", "j"], document()), [""]);
    }

    #[test]
    fn a_long_name_is_cut_and_a_damaged_document_ends_the_look() {
        let long = "x".repeat(500);
        assert_eq!(unread(&[], doc! { &long: 1 }), [format!("{}…", "x".repeat(PATH_CHARACTERS))]);
        let mut found = 0;
        Unread { read: Node::default() }.find(&[9, 0, 0, 0, 0x10, b'a', 0, 1], |_| found += 1);
        assert_eq!(found, 0);
    }
}
