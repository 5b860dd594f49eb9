use std::fmt;

/// A table's name. Names are exact: quoted when they become SQL, never folded.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableName {
    pub schema: String,
    pub name: String,
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

/// A table's shape as the catalog tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    pub name: TableName,
    /// Another table of the same name has another one.
    pub oid: u32,
    /// In attribute order.
    pub columns: Vec<Column>,
    pub unique_keys: Vec<UniqueKey>,
    /// Foreign keys of this table.
    pub foreign_keys: Vec<ForeignKey>,
    /// The columns of each index that holds for all rows.
    pub indexes: Vec<Vec<String>>,
    /// Columns of arrays whose rows are found by an element.
    pub element_indexes: Vec<String>,
    /// Names of enabled user triggers that fire on rows.
    pub triggers: Vec<String>,
    /// Names of rules for insert or update, or in place of delete.
    pub rules: Vec<String>,
    /// Row-level security applies to the connected role.
    pub row_security: bool,
    /// What the connected role lacks, whatever the columns.
    pub missing_privileges: Vec<String>,
    /// What it lacks on single columns, as (column, privilege).
    pub missing_column_privileges: Vec<(String, String)>,
    /// 'r' ordinary, 'p' partitioned, 'v' view …
    pub kind: char,
    pub is_empty: bool,
    /// Changes whenever anything a plan depends on changes (oid, columns, types, enum labels, keys), and with
    /// whatever else is done to a column. The sink knows its parts; for others it is one text.
    pub fingerprint: String,
}

impl Table {
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// Rows with given values of these columns are found without reading the whole table.
    pub fn has_index_on(&self, columns: &[String]) -> bool {
        let begins = |index: &Vec<String>| {
            index.len() >= columns.len() && index[..columns.len()].iter().all(|name| columns.contains(name))
        };
        self.indexes.iter().any(begins)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    pub column_type: ColumnType,
    /// The type as SQL, with modifiers; for a domain its base type. Safe to paste: from format_type.
    pub type_sql: String,
    /// Not null, by the column or by its domain.
    pub not_null: bool,
    /// A default, identity, or serial fills it when it is not written.
    pub has_default: bool,
    /// `generated always` (stored or identity): it cannot be written.
    pub generated: bool,
    /// Its collation calls different texts equal.
    pub nondeterministic: bool,
    /// The sequence that belongs to it: of a serial column, or of an identity.
    pub sequence: Option<Sequence>,
}

/// A sequence as far as it decides what its next value is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence {
    pub name: TableName,
    pub increment: i64,
    pub maximum: i64,
    /// How many values a session takes at once.
    pub cache: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ColumnType {
    Bool,
    Int2,
    Int4,
    Int8,
    Float4,
    Float8,
    /// `None`: any precision. Else (precision, scale); scale may be negative.
    Numeric(Option<(u16, i16)>),
    /// Limit in characters, where the type has one.
    Text {
        kind: TextKind,
        limit: Option<u32>,
    },
    Uuid,
    Bytea,
    Date,
    /// Digits of a second that are kept: 0 to 6.
    Timestamp {
        precision: u8,
    },
    TimestampTz {
        precision: u8,
    },
    Json,
    Jsonb,
    Enum {
        labels: Vec<String>,
    },
    /// One-dimensional, of a type that is neither an array nor `Other`.
    Array {
        element: Box<ColumnType>,
        /// Its SQL name without modifiers, to cast to.
        cast_sql: String,
    },
    /// A type rowstream does not encode; by its SQL name.
    Other(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextKind {
    Text,
    Varchar,
    Bpchar,
    Citext,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UniqueKey {
    pub name: String,
    pub columns: Vec<String>,
    pub deferrable: bool,
    /// A collation of the index calls different texts equal.
    pub nondeterministic: bool,
    /// A partial or expression index cannot serve `on conflict (columns)`.
    pub partial_or_expression: bool,
    /// The condition of a partial index, as SQL.
    pub predicate: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignKey {
    pub name: String,
    pub columns: Vec<String>,
    pub references: TableName,
    pub referenced_columns: Vec<String>,
    /// pg_constraint.confdeltype: 'a' no action, 'r' restrict, 'c' cascade, 'n' set null, 'd' set default.
    pub on_delete: char,
    /// pg_constraint.confupdtype, likewise.
    pub on_update: char,
    pub deferrable: bool,
}
