//! Dotted paths into a document.

use super::fault::Fault;
use super::walk::{ARRAY, DOCUMENT, Elements, INT32, NULL, Raw};
use super::word::Name;
use crate::domain::Reason;

/// A path whose first step is a numbered top-level field.
#[derive(Debug, Clone)]
pub(super) struct Path {
    field: usize,
    rest: Vec<Step>,
}

#[derive(Debug, Clone)]
struct Step {
    name: Box<[u8]>,
    /// The step as a place in an array, where it can be one.
    index: Option<usize>,
}

/// The top-level fields that any path begins with.
#[derive(Debug, Clone, Default)]
pub(super) struct Fields {
    names: Vec<Box<[u8]>>,
    /// Of each name.
    heads: Vec<u64>,
}

/// What stands at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found<'a> {
    Absent,
    Null,
    Present(Raw<'a>),
}

impl Fields {
    /// Compiles a path. Its first step is remembered as a field.
    pub(super) fn path(&mut self, text: &str) -> Path {
        let mut steps = text.split('.');
        let first = steps.next().unwrap_or_default();
        let field = self.field(first);
        let rest =
            steps.map(|step| Step { name: step.as_bytes().into(), index: array_index(step) }).collect();
        Path { field, rest }
    }

    /// A field by its whole name, dots and all.
    pub(super) fn field(&mut self, name: &str) -> usize {
        match self.names.iter().position(|known| **known == *name.as_bytes()) {
            Some(field) => field,
            None => {
                self.names.push(name.as_bytes().into());
                self.heads.push(Name::new(name.as_bytes()).head());
                self.names.len() - 1
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The fields of an element: what the words that paths begin with stand for.
    pub(super) fn of_element<'a>(
        &self,
        element: Raw<'a>,
        index: &'a [u8; 4],
        document: &'a [u8],
    ) -> Vec<Option<Raw<'a>>> {
        let field = |name: &[u8]| match name {
            b"$element" => Some(element),
            b"$index" => Some(Raw { element_type: INT32, bytes: index }),
            b"$document" => Some(Raw { element_type: DOCUMENT, bytes: document }),
            _ => None,
        };
        self.names.iter().map(|name| field(name)).collect()
    }

    /// Which field has this name, looked for from `expected` on.
    #[inline]
    fn position(&self, name: Name<'_>, expected: usize) -> Option<usize> {
        let is = |field: &usize| name.is(self.heads[*field], &self.names[*field]);
        (expected..self.heads.len()).find(is).or_else(|| (0..expected).find(is))
    }

    /// Finds all fields in one pass.
    pub(super) fn find<'a>(&self, document: &'a [u8]) -> Result<Vec<Option<Raw<'a>>>, Fault> {
        let count = self.names.len();
        let mut found = vec![None; count];
        // Documents of one collection mostly have their fields in one order, and mappings follow it.
        let mut expected = 0;
        for element in Elements::new(document)? {
            let (name, raw) = element?;
            if let Some(field) = self.position(Name::new(name), expected) {
                if found[field].replace(raw).is_some() {
                    return Err(duplicate());
                }
                expected = (field + 1) % count;
            }
        }
        Ok(found)
    }
}

impl Path {
    pub(super) fn follow<'a>(&self, fields: &[Option<Raw<'a>>]) -> Result<Found<'a>, Fault> {
        let Some(mut raw) = fields.get(self.field).copied().flatten() else {
            return Ok(Found::Absent);
        };
        for step in &self.rest {
            raw = match step.within(raw)? {
                Some(raw) => raw,
                None => return Ok(Found::Absent),
            };
        }
        Ok(if raw.element_type == NULL { Found::Null } else { Found::Present(raw) })
    }
}

impl Step {
    fn within<'a>(&self, raw: Raw<'a>) -> Result<Option<Raw<'a>>, Fault> {
        match (raw.element_type, self.index) {
            (DOCUMENT, _) => {
                let mut found = None;
                for element in Elements::new(raw.bytes)? {
                    let (name, raw) = element?;
                    if *name == *self.name && found.replace(raw).is_some() {
                        return Err(duplicate());
                    }
                }
                Ok(found)
            }
            (ARRAY, Some(index)) => match Elements::new(raw.bytes)?.nth(index) {
                Some(element) => element.map(|(_, raw)| Some(raw)),
                None => Ok(None),
            },
            _ => Ok(None),
        }
    }
}

/// The first path that is present and not null; else null if any is; else absent.
pub(super) fn first<'a>(paths: &[Path], fields: &[Option<Raw<'a>>]) -> Result<Found<'a>, Fault> {
    let mut best = Found::Absent;
    for path in paths {
        match path.follow(fields)? {
            Found::Present(raw) => return Ok(Found::Present(raw)),
            Found::Null => best = Found::Null,
            Found::Absent => {}
        }
    }
    Ok(best)
}

fn array_index(step: &str) -> Option<usize> {
    let canonical = step == "0" || !step.starts_with('0');
    (canonical && step.bytes().all(|byte| byte.is_ascii_digit())).then(|| step.parse().ok()).flatten()
}

fn duplicate() -> Fault {
    Fault::new(Reason::DuplicateField, "the field occurs twice in one document")
}

#[cfg(test)]
mod tests {
    use bson::{RawDocumentBuf, rawdoc};

    use super::*;

    fn find(document: &RawDocumentBuf, paths: &[&str]) -> Result<Option<i32>, Fault> {
        let mut fields = Fields::default();
        let paths: Vec<_> = paths.iter().map(|path| fields.path(path)).collect();
        let found = fields.find(document.as_bytes())?;
        match first(&paths, &found)? {
            Found::Absent => Ok(None),
            Found::Null => Ok(Some(-1)),
            Found::Present(raw) => Ok(Some(i32::from_le_bytes(raw.bytes.try_into().unwrap()))),
        }
    }

    #[test]
    fn paths_walk_documents_and_arrays() {
        let document = rawdoc! {
            "a": { "b": { "c": 1 } }, "l": [10, { "x": 11 }, [12, 13]], "n": null, "": { "": 5 }, "d": { "0": 6 },
        };
        for (path, expected) in [
            ("a.b.c", Some(1)),
            ("a.b.d", None),
            ("a.b.c.d", None),
            ("l.0", Some(10)),
            ("l.1.x", Some(11)),
            ("l.2.1", Some(13)),
            ("l.3", None),
            ("l.01", None),
            ("l.x", None),
            ("d.0", Some(6)),
            ("n", Some(-1)),
            ("n.x", None),
            ("zz", None),
            (".", Some(5)),
        ] {
            assert_eq!(find(&document, &[path]), Ok(expected), "{path}");
        }
    }

    #[test]
    fn the_first_that_is_not_null_wins() {
        let document = rawdoc! { "n": null, "a": 1, "b": 2 };
        assert_eq!(find(&document, &["n", "zz", "b", "a"]), Ok(Some(2)));
        assert_eq!(find(&document, &["zz", "n"]), Ok(Some(-1)));
        assert_eq!(find(&document, &["zz", "yy"]), Ok(None));
    }

    #[test]
    fn a_mapped_field_that_occurs_twice_is_no_guess() {
        let mut document = RawDocumentBuf::new();
        document.append(bson::raw::cstr!("a"), 1);
        document.append(bson::raw::cstr!("a"), 2);
        document.append(bson::raw::cstr!("b"), 3);
        assert_eq!(find(&document, &["a"]).unwrap_err().reason, Reason::DuplicateField);
        assert_eq!(find(&document, &["b"]), Ok(Some(3)));
        let outer = rawdoc! { "o": document };
        assert_eq!(find(&outer, &["o.a"]).unwrap_err().reason, Reason::DuplicateField);
    }
}
