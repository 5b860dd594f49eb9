//! The shape that a drafted table would have, so that mappings can be compiled before it is made.

use super::{Draft, DraftForeignKey};
use crate::domain::{Column, ForeignKey, Table, UniqueKey};

impl Draft {
    pub fn shape(&self) -> Table {
        let unique_keys: Vec<UniqueKey> = self.keys().map(|columns| self.unique(columns)).collect();
        let referring = self.foreign_keys.iter().map(|key| vec![key.column.clone()]);
        let indexes = unique_keys.iter().map(|key| key.columns.clone()).chain(referring).collect();
        Table {
            name: self.table.clone(),
            // None has this one.
            oid: 0,
            columns: self.columns.iter().map(|column| self.column(column)).collect(),
            unique_keys,
            foreign_keys: self.foreign_keys.iter().map(|key| self.foreign_key(key)).collect(),
            indexes,
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

    fn column(&self, column: &super::DraftColumn) -> Column {
        Column {
            name: column.name.clone(),
            column_type: column.column_type.clone(),
            type_sql: column.type_sql.clone(),
            not_null: column.not_null || self.primary_key.contains(&column.name),
            has_default: false,
            generated: false,
            nondeterministic: false,
            sequence: None,
        }
    }

    fn unique(&self, columns: &[String]) -> UniqueKey {
        UniqueKey {
            name: format!("{}_{}_key", self.table.name, columns.join("_")),
            columns: columns.to_vec(),
            deferrable: false,
            nondeterministic: false,
            partial_or_expression: false,
            predicate: None,
        }
    }

    fn foreign_key(&self, key: &DraftForeignKey) -> ForeignKey {
        ForeignKey {
            name: format!("{}_{}_fkey", self.table.name, key.column),
            columns: vec![key.column.clone()],
            references: key.references.clone(),
            referenced_columns: vec![key.referenced_column.clone()],
            on_delete: if key.with_parent { 'c' } else { 'a' },
            on_update: 'a',
            deferrable: false,
        }
    }
}
