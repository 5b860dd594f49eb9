//! The only run-time SQL: every statement whose text depends on the user's tables is made here, and
//! identifiers are quoted nowhere else.
//!
//! Rows travel as one binary array per column. The parameters have built-in types that follow from the
//! mapping alone, and the target's assignment casts do the rest: a column whose type was changed behind
//! our back converts by value or fails, but never takes the bytes of one type for those of another, and
//! no object of ours depends on a user's type.

mod at_once;
mod children;
mod compare;
mod create;
mod key;
mod marks;

use std::collections::BTreeSet;
use std::fmt::Write;

use sqlx::AssertSqlSafe;

pub(super) use at_once::at_once;
pub use at_once::{Around, Parts};
pub(super) use children::{drop_children, referring_parents, rows_of_owners};
pub(super) use compare::{count_owned, deviations, living, sample_source_ids, shown_values};
pub(super) use create::{create, named_in_comment};
pub(super) use key::{KeyStatements, adopt, clear, give_way, key_wire, placeholder};
use marks::Going;

use super::catalog::{ColumnsOf, is_partitioned};
use crate::config::KeySpec;
use crate::domain::{ColumnType, Sequence, TableName, TextKind};
use crate::mapping::{ColumnPlan, Finder, Mapping, Taking};

/// The savepoint of every attempt. Names may repeat: the newest hides the older.
pub const SAVEPOINT: &str = "savepoint rowstream_attempt";
/// What was written for documents with children, taken back as one.
pub(super) const SAVEPOINT_FAMILIES: &str = "savepoint rowstream_families";
pub(super) const ROLLBACK_FAMILIES: &str = "rollback to savepoint rowstream_families";
pub(super) const RELEASE: &str = "release savepoint rowstream_attempt";
pub(super) const ROLLBACK: &str =
    "rollback to savepoint rowstream_attempt; release savepoint rowstream_attempt";

/// Text with nothing but quoted identifiers and type names of the catalog in it.
pub(super) type Sql = AssertSqlSafe<String>;

/// The texts for one mapping. Constant, so that the connection's statement cache hits.
#[derive(Debug, Clone)]
pub(super) struct Statements {
    /// One array per column → (inserted, updated).
    pub(super) merge: String,
    pub(super) keys: KeyStatements,
    /// (source) or nothing. Empty where the rows do not say whose they are.
    pub(super) delete_source: String,
    /// Marks rows whose documents are held; not every mapping does.
    pub(super) mark: Option<String>,
    /// (last id or null, source) or (last id or null) → a page of ids. Empty as above.
    pub(super) source_ids: String,
    /// Locks the table, compares it, sets the savepoint.
    pub(super) begin_copy: String,
    pub(super) copy: String,
    pub(super) analyze: String,
}

impl Statements {
    pub(super) fn new(mapping: &Mapping) -> Self {
        let table = qualified(&mapping.table);
        let names = list(&mapping.columns, |column| quoted(&column.name));
        Self {
            merge: merge(mapping),
            keys: KeyStatements::new(mapping),
            delete_source: delete_source(mapping),
            mark: marks::mark(mapping),
            source_ids: source_ids(mapping),
            begin_copy: format!(
                "lock table {table} in row exclusive mode; {}; {SAVEPOINT}",
                super::guard::text(mapping)
            ),
            analyze: format!("analyze {table}"),
            copy: format!("copy {table} ({names}) from stdin (format binary)"),
        }
    }
}

/// A statement made by [`Statements`].
pub(super) fn safe(text: &str) -> AssertSqlSafe<&str> {
    AssertSqlSafe(text)
}

pub(super) fn is_empty(table: &TableName) -> Sql {
    AssertSqlSafe(format!("select not exists (select from {})", qualified(table)))
}

/// `$1`: the source_id; `$2`: the source, or null where the table has no column for it.
pub(super) fn has_row(table: &TableName, source: Option<&str>, source_id: &str) -> Sql {
    let (table, source_id) = (qualified(table), quoted(source_id));
    let of_source =
        source.map_or_else(|| "$2::text is null".to_owned(), |source| format!("{} = $2", quoted(source)));
    AssertSqlSafe(format!("select exists (select from {table} where {source_id} = $1 and {of_source})"))
}

fn merge(mapping: &Mapping) -> String {
    let Merge { insert, counted } = Merge::new(mapping, 1, "");
    format!(
        "with merged as ({insert}) \
         select count(*) filter (where inserted), count(*) filter (where not inserted) from {counted}"
    )
}

/// Insert, or update where the stored form differs: an equal row is not written again.
///
/// `*<>` compares the stored bytes, since `json` has no equality, numeric calls 1.10 and 1.1 equal and
/// citext ignores case. It takes records, hence the casts: two bare `row(…)` would be compared column
/// by column.
struct Merge {
    /// To be named `merged`.
    insert: String,
    /// The relation of the rows that were written, by whether they were `inserted`.
    counted: String,
}

impl Merge {
    /// `first`: the parameter with the values of the first column; `from`: what the rows come from besides.
    fn new(mapping: &Mapping, first: usize, from: &str) -> Self {
        let mut names = list(&mapping.columns, |column| quoted(&column.name));
        let mut values = values(mapping, first);
        let key_names = mapping.key.spec.names();
        let key = list(&key_names, |name| quoted(name));
        let updated: Vec<&ColumnPlan> = mapping
            .columns
            .iter()
            .enumerate()
            .filter(|(place, column)| !column.insert_only && !mapping.key.has(*place))
            .map(|(_, column)| column)
            .collect();
        // The time of the last write is no difference by itself.
        let mut clock = String::new();
        if let Some(at) = &mapping.sync.at {
            let name = quoted(&at.name);
            let _ = write!(names, ", {name}");
            let _ = write!(values, ", {}", marks::now(Some(at)));
            let _ = write!(clock, ", {name} = excluded.{name}");
        }
        let action = if updated.is_empty() {
            "do nothing".to_owned()
        } else {
            format!(
                "do update set {}{clock} where row({})::record *<> row({})::record",
                list(&updated, |column| format!("{0} = excluded.{0}", quoted(&column.name))),
                list(&updated, |column| format!("target.{}", quoted(&column.name))),
                list(&updated, |column| format!("excluded.{}", quoted(&column.name))),
            )
        };
        let table = qualified(&mapping.table);
        let insert = format!(
            "insert into {table} as target ({names}) select {values}{from} on conflict ({key}) {action}"
        );
        if is_partitioned(&mapping.fingerprint) {
            // A partition with its parent's layout returns no system columns. The outer query sees the table
            // as it was before the insert.
            let is_same = key_names
                .iter()
                .map(|name| format!("old.{0} = merged.{0}", quoted(name)))
                .collect::<Vec<_>>()
                .join(" and ");
            let returned = list(&key_names, |name| format!("target.{}", quoted(name)));
            Self {
                insert: format!("{insert} returning {returned}"),
                counted: format!(
                    "(select not exists (select from {table} as old where {is_same}) as inserted from merged) \
                     as counted"
                ),
            }
        } else {
            // A row that was updated bears the lock of its own conflict in `xmax`, a new one has none: free,
            // where looking for the old row is a second search whose plan may have been made for a small table.
            Self {
                insert: format!("{insert} returning target.xmax = 0 as inserted"),
                counted: "merged".to_owned(),
            }
        }
    }
}

/// The columns of the rows, from one array each.
fn values(mapping: &Mapping, first: usize) -> String {
    let mut values = String::new();
    for (place, column) in mapping.columns.iter().enumerate() {
        let wire = WireType::of(&column.column_type);
        let separator = if place == 0 { "" } else { ", " };
        let _ = write!(values, "{separator}unnest(${}::{}[])", place + first, wire.name);
        if let Some(cast) = wire_cast(column) {
            let _ = write!(values, "::{cast}");
        }
    }
    values
}

/// One array per column → the keys of the rows that were not there, with the hash of the whole row.
pub(super) fn insert_stubs(mapping: &Mapping, finder: &Finder) -> String {
    let key = finder.key.iter();
    let key: Vec<String> = key
        .map(|column| format!("target.{}::{}", quoted(&column.name), WireType::of(&column.column_type).name))
        .collect();
    format!(
        "insert into {} as target ({}) select {} on conflict do nothing returning {}, md5(target::text)",
        qualified(&mapping.table),
        list(&mapping.columns, |column| quoted(&column.name)),
        values(mapping, 1),
        key.join(", "),
    )
}

/// Keys, one array per column, and a hash: a row that is no longer what was inserted stays.
pub(super) fn delete_stub(finder: &Finder) -> String {
    format!(
        "delete from {} as target using {} where {} and md5(target::text) = ${}",
        qualified(&finder.table),
        sought_keys(finder),
        is_sought(finder),
        finder.key.len() + 1,
    )
}

/// So many values away, a sequence is set; else it is counted on.
const FAR: i64 = 1_000;

/// ($1: the value that must be behind it). Values that a session has taken in advance come out of order, so
/// that counting would not get anywhere.
pub(super) fn advance(sequence: &Sequence) -> Sql {
    let name = qualified(&sequence.name);
    let regclass = format!("'{}'::regclass", name.replace('\'', "''"));
    let Sequence { increment, maximum, cache, .. } = sequence;
    let far = if *cache > 1 { 0 } else { FAR };
    AssertSqlSafe(format!(
        "select case \
             when way <= 0 then null \
             when way > {far}::numeric * {increment} or $1 >= {maximum} then setval({regclass}, least($1, {maximum})) \
             else (select max(nextval({regclass})) from generate_series(1, ceil(way / {increment})::int8)) end \
         from (select $1::int8::numeric - case when is_called then last_value else last_value - {increment} end as way \
               from {name}) as sequence"
    ))
}

/// Whether a table has rows without an owner.
pub(super) fn has_unowned_rows(mapping: &Mapping) -> Sql {
    let rows = own_rows(mapping);
    AssertSqlSafe(match &mapping.key.spec {
        KeySpec::SourceId { source_id, .. } => {
            format!("select exists (select from {rows} where {} is null)", quoted(source_id))
        }
        KeySpec::Columns(_) => format!("select exists (select from {rows})"),
    })
}

/// The rows of a table itself and of its partitions. Tables that inherit from an ordinary one hold rows
/// that no merge of ours has written.
fn own_rows(mapping: &Mapping) -> String {
    let only = if is_partitioned(&mapping.fingerprint) { "" } else { "only " };
    format!("{only}{}", qualified(&mapping.table))
}

fn delete_source(mapping: &Mapping) -> String {
    let Some(is_ours) = is_of_source(mapping, 1) else { return String::new() };
    let table = own_rows(mapping);
    match marks::going(mapping) {
        Going::Deleted => format!("delete from {table} where {is_ours}"),
        Going::Marked { set, unless } => {
            format!("update {table} as target set {set} where {is_ours} and {unless}")
        }
    }
}

/// How many ids `source_ids` gives at once.
const PAGE: usize = 10_000;

fn source_ids(mapping: &Mapping) -> String {
    let KeySpec::SourceId { source_id, .. } = &mapping.key.spec else { return String::new() };
    let (id, cast) = (quoted(source_id), text_cast(mapping, source_id));
    let Some(is_ours) = is_of_source(mapping, 2) else { return String::new() };
    format!(
        "select {id}::text from {} where {is_ours} and ($1::text is null or {id} > $1::text{cast}) \
         order by {id} limit {PAGE}",
        own_rows(mapping),
    )
}

/// Which rows are the mapping's, as far as they say so. Without a source column the table may still have rows
/// of others: those that no document stands for.
fn is_of_source(mapping: &Mapping, parameter: usize) -> Option<String> {
    match &mapping.key.spec {
        KeySpec::SourceId { source: Some(source), .. } => {
            Some(format!("{} = ${parameter}::text{}", quoted(source), text_cast(mapping, source)))
        }
        KeySpec::SourceId { source: None, source_id } => Some(format!("{} is not null", quoted(source_id))),
        KeySpec::Columns(_) => None,
    }
}

/// Keys, one array per column → (place, what is taken), for the rows that are there. Of several rows with one
/// key the one with the least value is taken, always the same one.
pub(super) fn find(finder: &Finder) -> String {
    format!(
        "select sought.place, min({})::{} from {} join {} as target on {} group by sought.place",
        taken(finder),
        taken_type(finder),
        sought_keys(finder),
        qualified(&finder.table),
        is_sought(finder),
    )
}

/// As [`find`], but every row, that with the least value first: (place, what is taken, the key of each of these
/// mappings where the row may be its own).
pub(super) fn candidates(finder: &Finder, mappings: &[&Mapping]) -> String {
    let keys = mappings.iter().map(|mapping| {
        let is_own = mapping.key.source().map(|place| {
            let source = &mapping.columns[place];
            let literal = mapping.source.replace('\'', "''");
            format!("target.{} = '{literal}'{}", quoted(&source.name), text_cast(mapping, &source.name))
        });
        list(&mapping.key.columns, |column| {
            let name = quoted(&mapping.columns[column.place].name);
            let value = format!("target.{name}::{}", key_wire(mapping, column).name);
            match &is_own {
                Some(is_own) => format!("case when {is_own} then {value} end"),
                None => value,
            }
        })
    });
    let keys: String = keys.map(|key| format!(", {key}")).collect();
    format!(
        "select sought.place, {0}::{1}{keys} from {2} join {3} as target on {4} order by sought.place, {0}",
        taken(finder),
        taken_type(finder),
        sought_keys(finder),
        qualified(&finder.table),
        is_sought(finder),
    )
}

fn taken(finder: &Finder) -> String {
    format!("target.{}::text", quoted(&finder.take))
}

/// What may not fit is given as text, and looked at before it is written.
fn taken_type(finder: &Finder) -> &str {
    if finder.taking == Taking::MayNotFit {
        return "text";
    }
    match &finder.column_type {
        ColumnType::Enum { .. } | ColumnType::Text { .. } => "text",
        ColumnType::Other(name) => name,
        other => WireType::of(other).name,
    }
}

/// Keys, one array per column → the keys of the rows of `mapping` that refer to the rows they name.
pub(super) fn referrers(mapping: &Mapping, column: usize, finder: &Finder) -> String {
    let of_source = mapping.key.source().map_or_else(String::new, |place| {
        let source = &mapping.columns[place];
        let literal = mapping.source.replace('\'', "''");
        format!(" and referrer.{} = '{literal}'{}", quoted(&source.name), text_cast(mapping, &source.name))
    });
    let key = list(&mapping.key.columns, |column| {
        let name = quoted(&mapping.columns[column.place].name);
        format!("referrer.{name}::{}", key_wire(mapping, column).name)
    });
    let no_key = list_with(&mapping.key.columns, " and ", |column| {
        format!("referrer.{} is not null", quoted(&mapping.columns[column.place].name))
    });
    let refers = mapping
        .columns
        .get(column)
        .map_or_else(String::new, |column| refers(column, finder, "referrer", "target"));
    format!(
        "select distinct {key} from {} join {} as target on {} \
         join {} as referrer on {refers}{of_source} where {no_key}",
        sought_keys(finder),
        qualified(&finder.table),
        is_sought(finder),
        own_rows(mapping),
    )
}

/// Whether the row `referrer` has in its column what the finder takes from the row `target`: by operators that are
/// there and casts that cannot fail, so that the column's index finds it wherever the types allow that.
fn refers(column: &ColumnPlan, finder: &Finder, referrer: &str, target: &str) -> String {
    let own = format!("{referrer}.{}", quoted(&column.name));
    let taken = format!("{target}.{}", quoted(&finder.take));
    let is_text = |column_type: &ColumnType| matches!(column_type, ColumnType::Text { .. });
    let is_enum = matches!(finder.column_type, ColumnType::Enum { .. });
    if let ColumnType::Array { cast_sql, .. } = &column.column_type {
        return match finder.taking {
            // As an index on the arrays' elements finds it.
            Taking::Fits if is_enum => format!("{own} @> array[{taken}::text]::{cast_sql}"),
            Taking::Fits => format!("{own} @> array[{taken}]::{cast_sql}"),
            Taking::MayNotFit => format!("{own}::text[] @> array[{taken}::text]"),
        };
    }
    if is_enum && finder.column_type != finder.take_type {
        return format!("{own}::text = {taken}::text");
    }
    if is_text(&finder.column_type) && !is_text(&finder.take_type) {
        return format!("{own} = {taken}::text");
    }
    format!("{own} = {taken}")
}

fn sought_keys(finder: &Finder) -> String {
    let places: Vec<usize> = (1..=finder.key.len()).collect();
    let arrays: Vec<String> = places
        .iter()
        .zip(&finder.key)
        .map(|(place, column)| format!("${place}::{}[]", WireType::of(&column.column_type).name))
        .collect();
    format!(
        "unnest({}) with ordinality as sought ({}, place)",
        arrays.join(", "),
        list(&places, |place| format!("key{place}")),
    )
}

fn is_sought(finder: &Finder) -> String {
    let equal = finder.key.iter().enumerate().map(|(place, column)| {
        format!(
            "target.{} = sought.key{}{}",
            quoted(&column.name),
            place + 1,
            cast_to(&column.column_type, &column.type_sql)
        )
    });
    equal.collect::<Vec<_>>().join(" and ")
}

/// Keeps the columns of these tables as they are until the transaction ends. Without their partitions and
/// heirs: no type of a partition's column changes but by its parent. ⚠ A schema can be renamed all the same.
pub(super) fn lock<'t>(tables: impl Iterator<Item = &'t TableName>) -> Sql {
    let names: Vec<String> = tables.map(|table| format!("only {}", qualified(table))).collect();
    AssertSqlSafe(format!("lock table {} in row exclusive mode", names.join(", ")))
}

/// What the statement of [`same_names`] fails with: no number.
pub(super) const ELSEWHERE: &str = "22P02";

/// A query that fails unless the tables of these names have these oids.
pub(super) fn same_names(wanted: &BTreeSet<(&TableName, &str)>) -> Sql {
    let same: Vec<String> = wanted
        .iter()
        .map(|(table, oid)| format!("to_regclass({}) is not distinct from {oid}", literal(&qualified(table))))
        .collect();
    let same = same.join(" and ");
    AssertSqlSafe(format!("select (case when {same} then '1' else 'a table is another one' end)::int"))
}

/// Runs what `prepare_guard` prepared.
pub(super) fn guard(wanted: &BTreeSet<(&TableName, ColumnsOf<'_>)>) -> Sql {
    let wanted: Vec<_> = wanted.iter().collect();
    AssertSqlSafe(format!(
        "execute rowstream_guard (array[{}], array[{}], array[{}]::oid[], array[{}])",
        list(&wanted, |(table, _)| literal(&table.schema)),
        list(&wanted, |(table, _)| literal(&table.name)),
        list(&wanted, |(_, columns)| literal(columns.oid)),
        list(&wanted, |(_, columns)| literal(columns.versions)),
    ))
}

/// How a column's values travel: a built-in type, its oid, and the oid of its array type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WireType {
    pub(super) name: &'static str,
    pub(super) element: u32,
    pub(super) array: u32,
}

impl WireType {
    /// Without modifiers: a cast to `varchar(3)` truncates in silence, the assignment that follows does not.
    pub(super) fn of(column_type: &ColumnType) -> Self {
        let (name, element, array) = match column_type {
            ColumnType::Bool => ("bool", 16, 1000),
            ColumnType::Int2 => ("int2", 21, 1005),
            ColumnType::Int4 => ("int4", 23, 1007),
            ColumnType::Int8 => ("int8", 20, 1016),
            ColumnType::Float4 => ("float4", 700, 1021),
            ColumnType::Float8 => ("float8", 701, 1022),
            ColumnType::Numeric(_) => ("numeric", 1700, 1231),
            ColumnType::Uuid => ("uuid", 2950, 2951),
            ColumnType::Bytea => ("bytea", 17, 1001),
            ColumnType::Date => ("date", 1082, 1182),
            ColumnType::Timestamp { .. } => ("timestamp", 1114, 1115),
            ColumnType::TimestampTz { .. } => ("timestamptz", 1184, 1185),
            ColumnType::Json => ("json", 114, 199),
            ColumnType::Jsonb => ("jsonb", 3802, 3807),
            // `unnest` flattens arrays of arrays: an array's text is cast instead.
            ColumnType::Text { .. }
            | ColumnType::Enum { .. }
            | ColumnType::Array { .. }
            | ColumnType::Other(_) => ("text", 25, 1009),
        };
        Self { name, element, array }
    }
}

/// What text must be cast to, where no assignment does it.
fn wire_cast(column: &ColumnPlan) -> Option<&str> {
    match &column.column_type {
        ColumnType::Enum { .. } => Some(&column.type_sql),
        ColumnType::Array { cast_sql: name, .. } | ColumnType::Other(name) => Some(name),
        _ => None,
    }
}

/// The cast that makes a text parameter comparable to a key column by that column's own index.
fn text_cast(mapping: &Mapping, name: &str) -> String {
    let Some(column) = mapping.columns.iter().find(|column| column.name == name) else {
        return String::new();
    };
    cast_to(&column.column_type, &column.type_sql)
}

/// From the type in which a value travels to the column's, for a comparison.
fn cast_to(column_type: &ColumnType, type_sql: &str) -> String {
    match column_type {
        ColumnType::Text { kind: TextKind::Text | TextKind::Varchar, .. } => String::new(),
        ColumnType::Text { kind: TextKind::Bpchar, .. } => "::bpchar".to_owned(),
        ColumnType::Text { kind: TextKind::Citext, .. } | ColumnType::Enum { .. } => {
            format!("::{type_sql}")
        }
        ColumnType::Other(name) => format!("::{name}"),
        other => format!("::{}", WireType::of(other).name),
    }
}

fn list<T>(items: &[T], text: impl Fn(&T) -> String) -> String {
    list_with(items, ", ", text)
}

fn list_with<T>(items: &[T], between: &str, text: impl Fn(&T) -> String) -> String {
    items.iter().map(text).collect::<Vec<_>>().join(between)
}

fn qualified(table: &TableName) -> String {
    format!("{}.{}", quoted(&table.schema), quoted(&table.name))
}

/// Right whatever `standard_conforming_strings` is.
pub(super) fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
