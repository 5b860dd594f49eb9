//! What documents have come to hold that no mapping expects: told, never a reason to stop.

use serde::{Deserialize, Serialize};

/// Paths that are told by name; the rest are counted together. An object with ids for names has no end of them.
const PATHS: usize = 50;

/// Ids that are kept as examples.
const EXAMPLES: usize = 3;

/// Of one source, since the process started; used for one batch as well.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drift {
    /// Documents that were looked at for fields: a sample of all.
    pub documents: u64,
    /// Fields that no mapping of the collection reads.
    pub fields: Vec<Sighting>,
    /// Sightings of further fields.
    pub further_fields: u64,
    /// Columns with values that their `enum:` does not name, held or replaced by its `otherwise:`.
    pub labels: Vec<Sighting>,
}

/// Something that was seen in documents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sighting {
    /// A path of the document, or a column of the table.
    pub name: String,
    pub count: u64,
    /// By source_id.
    pub examples: Vec<String>,
}

impl Drift {
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty() && self.labels.is_empty()
    }

    /// Fields that were seen, each time.
    pub fn sightings(&self) -> u64 {
        self.fields.iter().map(|field| field.count).sum::<u64>() + self.further_fields
    }

    pub fn field_seen(&mut self, path: &str, count: u64, examples: impl IntoIterator<Item = String>) {
        if !seen(&mut self.fields, path, count, examples) {
            self.further_fields += count;
        }
    }

    pub fn label_seen(&mut self, column: &str, count: u64, examples: impl IntoIterator<Item = String>) {
        seen(&mut self.labels, column, count, examples);
    }

    pub fn add(&mut self, other: &Self) {
        self.documents += other.documents;
        self.further_fields += other.further_fields;
        for field in &other.fields {
            self.field_seen(&field.name, field.count, field.examples.iter().cloned());
        }
        for label in &other.labels {
            self.label_seen(&label.name, label.count, label.examples.iter().cloned());
        }
    }
}

/// `false`: there is no room for another name.
fn seen(
    sightings: &mut Vec<Sighting>,
    name: &str,
    count: u64,
    examples: impl IntoIterator<Item = String>,
) -> bool {
    let place = match sightings.iter().position(|sighting| sighting.name == name) {
        Some(place) => place,
        None if sightings.len() < PATHS => {
            sightings.push(Sighting { name: name.to_owned(), count: 0, examples: Vec::new() });
            sightings.len() - 1
        }
        None => return false,
    };
    let sighting = &mut sightings[place];
    sighting.count += count;
    for example in examples {
        if sighting.examples.len() < EXAMPLES && !sighting.examples.contains(&example) {
            sighting.examples.push(example);
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_examples_are_bounded_and_nothing_is_counted_twice() {
        let mut all = Drift::default();
        for number in 0..PATHS + 10 {
            let mut one = Drift { documents: 1, ..Drift::default() };
            one.field_seen(&format!("field {number}"), 1, [number.to_string()]);
            one.field_seen("field 0", 1, [number.to_string()]);
            all.add(&one);
        }
        assert_eq!((all.documents, all.fields.len(), all.further_fields), (60, PATHS, 10));
        assert_eq!((all.fields[0].count, all.sightings()), (61, 120));
        assert_eq!(all.fields[0].examples, ["0", "1", "2"]);
    }
}
