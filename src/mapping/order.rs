//! The order in which mappings are copied and written: whoever is referred to comes first.

use crate::config::{Aim, ChildSpec, MappingSpec, Targets, ValueSpec};
use crate::domain::{Side, Table, TableName};

/// Places in the list that was given, parents before children, else as they were.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    pub places: Vec<usize>,
    /// Tables that refer to each other, the first one again at the end. No order suits them.
    pub cycles: Vec<Vec<TableName>>,
}

/// By the foreign keys of the mappings' tables and by their references; `tables` is in the order of `specs`,
/// `None` where one is not there. A table that refers to itself makes no cycle: nothing can come before itself.
pub fn parents_first(specs: &[MappingSpec], tables: &[Option<&Table>]) -> Order {
    let mut walk = Walk {
        specs,
        tables,
        marks: vec![Mark::New; tables.len()],
        path: Vec::new(),
        order: Order { places: Vec::with_capacity(tables.len()), cycles: Vec::new() },
    };
    for place in 0..tables.len() {
        walk.visit(place);
    }
    walk.order
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    New,
    /// Some of its parents are not placed yet.
    Open,
    Placed,
}

struct Walk<'t> {
    specs: &'t [MappingSpec],
    tables: &'t [Option<&'t Table>],
    marks: Vec<Mark>,
    /// From the mapping that was asked for to the one in hand, child by parent.
    path: Vec<usize>,
    order: Order,
}

impl Walk<'_> {
    fn visit(&mut self, place: usize) {
        match self.marks[place] {
            Mark::Placed => return,
            Mark::Open => return self.cycle(place),
            Mark::New => {}
        }
        self.marks[place] = Mark::Open;
        self.path.push(place);
        for parent in self.parents(place) {
            self.visit(parent);
        }
        self.path.pop();
        self.marks[place] = Mark::Placed;
        self.order.places.push(place);
    }

    fn parents(&self, place: usize) -> Vec<usize> {
        let spec = &self.specs[place];
        let by_key = |other: &MappingSpec| {
            self.tables[place]
                .is_some_and(|table| table.foreign_keys.iter().any(|key| key.references == other.table))
        };
        let is_parent =
            |other: &MappingSpec| other.table != spec.table && (by_key(other) || refers_to(spec, other));
        (0..self.specs.len()).filter(|other| is_parent(&self.specs[*other])).collect()
    }

    fn cycle(&mut self, place: usize) {
        let from = self.path.iter().position(|open| *open == place).unwrap_or_default();
        let mut names: Vec<TableName> =
            self.path[from..].iter().map(|open| self.specs[*open].table.clone()).collect();
        // One of several mappings of a table stands for all of them.
        names.dedup();
        if let Some(least) = names.iter().enumerate().min_by_key(|(_, name)| *name).map(|(place, _)| place) {
            names.rotate_left(least);
        }
        names.extend(names.first().cloned());
        if !self.order.cycles.contains(&names) {
            self.order.cycles.push(names);
        }
    }
}

fn refers_to(spec: &MappingSpec, other: &MappingSpec) -> bool {
    // What mirrors a junction waits for nobody: its pairs come with whichever row comes last.
    let is_mirror = |child: &&ChildSpec| child.junction.as_ref().is_some_and(|of| of.side == Side::Right);
    let children = spec.children.iter().filter(|child| !is_mirror(child));
    let of_children = children.flat_map(|child| &child.columns);
    spec.columns.iter().flatten().chain(of_children).any(|column| match &column.value {
        ValueSpec::Reference(reference) => match &reference.aim {
            Aim::Document { to: Targets::First(sources), .. } => sources.contains(&other.source),
            Aim::Document { to: Targets::By { map, .. }, .. } => {
                map.iter().any(|(_, source)| *source == other.source)
            }
            Aim::Row { table, .. } => *table == other.table,
            Aim::Parent => false,
        },
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ColumnSpec, Missing, ReferenceSpec};
    use crate::domain::ForeignKey;
    use crate::mapping::tests::named;

    fn name(name: &str) -> TableName {
        TableName { schema: "public".into(), name: name.into() }
    }

    fn table(of: &str, parents: &[&str]) -> Table {
        let foreign_keys = parents.iter().map(|parent| ForeignKey {
            name: format!("{of}_{parent}"),
            columns: vec!["parent".into()],
            references: name(parent),
            referenced_columns: vec!["id".into()],
            on_delete: 'a',
            on_update: 'a',
            deferrable: false,
        });
        Table {
            name: name(of),
            oid: 1,
            columns: Vec::new(),
            unique_keys: Vec::new(),
            foreign_keys: foreign_keys.collect(),
            indexes: Vec::new(),
            element_indexes: Vec::new(),
            triggers: Vec::new(),
            rules: Vec::new(),
            row_security: false,
            missing_privileges: Vec::new(),
            missing_column_privileges: Vec::new(),
            kind: 'r',
            is_empty: true,
            fingerprint: String::new(),
        }
    }

    fn spec(table: &Table) -> MappingSpec {
        named(&table.name.name)
    }

    fn order(tables: &[Table]) -> (String, Vec<String>) {
        let specs: Vec<MappingSpec> = tables.iter().map(spec).collect();
        let order = parents_first(&specs, &tables.iter().map(Some).collect::<Vec<_>>());
        let names =
            |names: &[TableName]| names.iter().map(|name| name.name.as_str()).collect::<Vec<_>>().join(" ");
        let placed: Vec<TableName> = order.places.iter().map(|place| tables[*place].name.clone()).collect();
        (names(&placed), order.cycles.iter().map(|cycle| names(cycle)).collect())
    }

    #[test]
    fn parents_come_before_children_and_the_rest_stays_as_it_is() {
        let tables = [
            table("line_items", &["transactions", "categories"]),
            table("alone", &[]),
            table("transactions", &["users"]),
            table("transactions", &["users"]),
            table("users", &["users", "elsewhere"]),
            table("categories", &[]),
        ];
        let (placed, cycles) = order(&tables);
        assert_eq!(placed, "users transactions transactions categories line_items alone");
        assert!(cycles.is_empty(), "a table that refers to itself is no cycle: {cycles:?}");
    }

    #[test]
    fn a_cycle_is_named_once_and_stops_nothing() {
        let tables = [
            table("c", &["b"]),
            table("b", &["a"]),
            table("a", &["c", "root"]),
            table("root", &[]),
            table("a", &["c"]),
        ];
        let (placed, cycles) = order(&tables);
        assert_eq!(cycles, ["a c b a"]);
        let mut all: Vec<&str> = placed.split(' ').collect();
        assert!(
            all.iter().position(|name| *name == "root") < all.iter().position(|name| *name == "a"),
            "{placed}"
        );
        all.sort_unstable();
        assert_eq!(all, ["a", "a", "b", "c", "root"]);
    }

    #[test]
    fn what_is_missing_has_its_place_and_references_count_as_foreign_keys() {
        let parent = table("parent", &[]);
        let child = table("child", &["parent"]);
        let specs = [spec(&child), named("absent"), spec(&parent)];
        assert_eq!(parents_first(&specs, &[Some(&child), None, Some(&parent)]).places, [2, 0, 1]);

        let aim = Aim::Document {
            to: Targets::First(vec!["absent".into()]),
            from: vec!["a".into()],
            strip_prefix: None,
        };
        let reference = ReferenceSpec { aim, each: None, take: None, missing: Missing::Hold };
        let column = ColumnSpec {
            name: "a".into(),
            value: ValueSpec::Reference(Box::new(reference)),
            insert_only: false,
            required: false,
            default: None,
        };
        let specs = [MappingSpec { columns: Some(vec![column]), ..spec(&parent) }, named("absent")];
        assert_eq!(parents_first(&specs, &[Some(&parent), None]).places, [1, 0]);
    }
}
