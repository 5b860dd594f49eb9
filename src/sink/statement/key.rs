//! Statements that find rows by their keys. Keys travel as one array per column of the key, so that one text
//! serves any number of them; by join, since `= any(…)` is a linear search per row in PostgreSQL 13 once the
//! planner scans the table.

use super::marks::{Going, going};
use super::{WireType, list, own_rows, qualified, quoted, text_cast, wire_cast};
use crate::config::KeySpec;
use crate::domain::{ColumnType, TextKind};
use crate::mapping::{ColumnPlan, KeyColumn, Mapping};

/// The texts that need nothing but keys. Parameters: the source if the table has a column for it, then one
/// array per column of the key.
#[derive(Debug, Clone)]
pub(in crate::sink) struct KeyStatements {
    pub(in crate::sink) delete: String,
    /// → the places, from 1, of the keys that have a row.
    pub(in crate::sink) present: String,
    /// Arrays of the old keys, then of the new ones.
    pub(in crate::sink) rekey: String,
    /// As the merge, but a row that is there is left alone. → the places of the rows that were inserted.
    pub(in crate::sink) insert: String,
    /// For each unique key of `adopt`.
    pub(in crate::sink) adopt: Vec<String>,
}

impl KeyStatements {
    pub(in crate::sink) fn new(mapping: &Mapping) -> Self {
        let rows = own_rows(mapping);
        let wanted = wanted(mapping, "wanted", "");
        let is_wanted = is_wanted(mapping, "wanted");
        Self {
            delete: match going(mapping) {
                Going::Deleted => format!("delete from {rows} as target using {wanted} where {is_wanted}"),
                Going::Marked { set, unless } => {
                    format!("update {rows} as target set {set} from {wanted} where {is_wanted} and {unless}")
                }
            },
            present: format!(
                "select wanted.place from {} join {rows} as target on {is_wanted}",
                self::wanted(mapping, "wanted", "place")
            ),
            rekey: rekey(mapping),
            insert: insert(mapping),
            adopt: mapping.key.adopt.iter().map(|unique| adopt(mapping, unique)).collect(),
        }
    }
}

/// How a column of a key travels: a `source_id` as text, whole numbers as the largest, to which any compares.
pub(in crate::sink) fn key_wire(mapping: &Mapping, column: &KeyColumn) -> WireType {
    if !mapping.key.is_claimed() {
        return WireType::of(&ColumnType::Text { kind: TextKind::Text, limit: None });
    }
    match &mapping.columns[column.place].column_type {
        ColumnType::Int2 | ColumnType::Int4 => WireType::of(&ColumnType::Int8),
        other => WireType::of(other),
    }
}

fn first_array(mapping: &Mapping) -> usize {
    if mapping.key.source().is_some() { 2 } else { 1 }
}

fn key_plans(mapping: &Mapping) -> impl Iterator<Item = &ColumnPlan> {
    mapping.key.columns.iter().map(|column| &mapping.columns[column.place])
}

/// The keys as a relation, `key1`, `key2`, …, with their places if asked for.
pub(super) fn wanted(mapping: &Mapping, name: &str, place: &str) -> String {
    let arrays = key_arrays(mapping);
    let mut names: Vec<String> = (1..=arrays.len()).map(|number| format!("key{number}")).collect();
    let ordinality = if place.is_empty() { "" } else { " with ordinality" };
    if !place.is_empty() {
        names.push(place.to_owned());
    }
    format!("unnest({}){ordinality} as {name} ({})", arrays.join(", "), names.join(", "))
}

fn key_arrays(mapping: &Mapping) -> Vec<String> {
    let first = first_array(mapping);
    let columns = mapping.key.columns.iter().enumerate();
    columns
        .map(|(number, column)| format!("${}::{}[]", first + number, key_wire(mapping, column).name))
        .collect()
}

/// The keys as [`wanted`], beside each a `status` and an `error`.
pub(super) fn marked(mapping: &Mapping, name: &str) -> String {
    let mut arrays = key_arrays(mapping);
    let next = first_array(mapping) + arrays.len();
    let mut names: Vec<String> = (1..=arrays.len()).map(|number| format!("key{number}")).collect();
    arrays.extend([format!("${next}::text[]"), format!("${}::text[]", next + 1)]);
    names.extend(["status".to_owned(), "error".to_owned()]);
    format!("unnest({}) as {name} ({})", arrays.join(", "), names.join(", "))
}

pub(super) fn is_wanted(mapping: &Mapping, name: &str) -> String {
    let mut conditions: Vec<String> = source_is(mapping, "target").into_iter().collect();
    for (number, plan) in key_plans(mapping).enumerate() {
        let cast = key_cast(mapping, plan);
        conditions.push(format!("target.{} = {name}.key{}{cast}", quoted(&plan.name), number + 1));
    }
    conditions.join(" and ")
}

fn source_is(mapping: &Mapping, table: &str) -> Option<String> {
    let source = &mapping.columns[mapping.key.source()?];
    Some(format!("{table}.{} = $1::text{}", quoted(&source.name), text_cast(mapping, &source.name)))
}

/// None for whole numbers: they compare across their types, by the column's own index.
fn key_cast(mapping: &Mapping, plan: &ColumnPlan) -> String {
    match plan.column_type {
        ColumnType::Int2 | ColumnType::Int4 | ColumnType::Int8 if mapping.key.is_claimed() => String::new(),
        _ => text_cast(mapping, &plan.name),
    }
}

fn rekey(mapping: &Mapping) -> String {
    let first = first_array(mapping);
    let count = mapping.key.columns.len();
    let wires: Vec<&str> = mapping.key.columns.iter().map(|column| key_wire(mapping, column).name).collect();
    let arrays: Vec<String> =
        (0..2 * count).map(|number| format!("${}::{}[]", first + number, wires[number % count])).collect();
    let names: Vec<String> =
        (1..=count).map(|n| format!("key{n}")).chain((1..=count).map(|n| format!("new{n}"))).collect();
    let plans: Vec<(usize, &ColumnPlan)> = key_plans(mapping).enumerate().collect();
    let set = list(&plans, |(number, plan)| {
        let cast = wire_cast(plan).map(|cast| format!("::{cast}")).unwrap_or_default();
        format!("{} = wanted.new{}{cast}", quoted(&plan.name), number + 1)
    });
    format!(
        "update {} as target set {set} from unnest({}) as wanted ({}) where {}",
        own_rows(mapping),
        arrays.join(", "),
        names.join(", "),
        is_wanted(mapping, "wanted"),
    )
}

/// A value that no other row has, for as long as rows change hands; `None` where none can be made up.
pub(in crate::sink) fn placeholder(column: &ColumnPlan) -> Option<String> {
    /// So many that no two are equal.
    const DIGITS: u32 = 32;
    if !column.not_null {
        return Some("null".to_owned());
    }
    match &column.column_type {
        ColumnType::Text { kind: TextKind::Text | TextKind::Varchar | TextKind::Citext, limit } => {
            let digits = limit.unwrap_or(DIGITS).min(DIGITS);
            (digits >= 12).then(|| format!("left(md5(random()::text || target.ctid::text), {digits})"))
        }
        ColumnType::Uuid => Some("gen_random_uuid()".to_owned()),
        ColumnType::Int8 => Some("-1 - (random() * 9e15)::bigint".to_owned()),
        ColumnType::Int4 => Some("-1 - (random() * 2e9)::integer".to_owned()),
        ColumnType::Text { kind: TextKind::Bpchar, .. }
        | ColumnType::Bool
        | ColumnType::Int2
        | ColumnType::Float4
        | ColumnType::Float8
        | ColumnType::Numeric(_)
        | ColumnType::Bytea
        | ColumnType::Date
        | ColumnType::Timestamp { .. }
        | ColumnType::TimestampTz { .. }
        | ColumnType::Json
        | ColumnType::Jsonb
        | ColumnType::Enum { .. }
        | ColumnType::Array { .. }
        | ColumnType::Other(_) => None,
    }
}

/// Puts placeholders into these columns of the rows with these keys.
pub(in crate::sink) fn give_way(mapping: &Mapping, columns: &[usize]) -> String {
    let columns: Vec<&ColumnPlan> = columns.iter().map(|place| &mapping.columns[*place]).collect();
    let set = list(&columns, |column| {
        format!("{} = {}", quoted(&column.name), placeholder(column).unwrap_or_else(|| "null".to_owned()))
    });
    format!(
        "update {} as target set {set} from {} where {}",
        own_rows(mapping),
        wanted(mapping, "wanted", ""),
        is_wanted(mapping, "wanted"),
    )
}

/// The rows of the merge as a relation, `value1`, `value2`, …, with their places.
pub(super) fn given(columns: &[ColumnPlan], first: usize) -> String {
    let arrays: Vec<String> = columns
        .iter()
        .enumerate()
        .map(|(place, column)| format!("${}::{}[]", first + place, WireType::of(&column.column_type).name))
        .collect();
    let names: Vec<String> = (1..=columns.len()).map(|number| format!("value{number}")).collect();
    format!("unnest({}) with ordinality as given ({}, place)", arrays.join(", "), names.join(", "))
}

fn insert(mapping: &Mapping) -> String {
    let names = list(&mapping.columns, |column| quoted(&column.name));
    let numbered: Vec<(usize, &ColumnPlan)> = mapping.columns.iter().enumerate().collect();
    let values = list(&numbered, |(place, column)| {
        let cast = wire_cast(column).map(|cast| format!("::{cast}")).unwrap_or_default();
        format!("given.value{}{cast}", place + 1)
    });
    let conflict = list(&mapping.key.spec.names(), |name| quoted(name));
    let returned = list(&mapping.key.columns, |column| {
        format!("target.{}", quoted(&mapping.columns[column.place].name))
    });
    let is_inserted: Vec<String> = mapping
        .key
        .columns
        .iter()
        .map(|column| {
            let plan = &mapping.columns[column.place];
            let cast = wire_cast(plan).map(|cast| format!("::{cast}")).unwrap_or_default();
            format!("inserted.{} = given.value{}{cast}", quoted(&plan.name), column.place + 1)
        })
        .collect();
    let given = given(&mapping.columns, 1);
    format!(
        "with inserted as (insert into {} as target ({names}) select {values} from {given} \
         on conflict ({conflict}) do nothing returning {returned}) \
         select given.place from {given} join inserted on {}",
        qualified(&mapping.table),
        is_inserted.join(" and "),
    )
}

/// With (source, source_id) in the table, rows without an owner get one, by statement. Else the keys of the
/// rows that match are told, (place from 1, key…), and whose they become is written down elsewhere.
/// Parameters: the source, the ids, the values of the unique key; or those values alone.
fn adopt(mapping: &Mapping, unique: &[usize]) -> String {
    let plans: Vec<ColumnPlan> = unique.iter().map(|place| mapping.columns[*place].clone()).collect();
    let is_given = |first: usize| {
        let conditions = plans.iter().enumerate().map(|(number, plan)| {
            let cast = match plan.column_type {
                ColumnType::Text { .. } | ColumnType::Enum { .. } | ColumnType::Other(_) => {
                    text_cast(mapping, &plan.name)
                }
                _ => String::new(),
            };
            format!("target.{} = given.value{}{cast}", quoted(&plan.name), number + first)
        });
        conditions.collect::<Vec<_>>().join(" and ")
    };
    let KeySpec::SourceId { source_id, .. } = &mapping.key.spec else {
        let keys = list(&mapping.key.columns, |column| {
            format!(
                "target.{}::{}",
                quoted(&mapping.columns[column.place].name),
                key_wire(mapping, column).name
            )
        });
        return format!(
            "select given.place, {keys} from {} join {} as target on {}",
            given(&plans, 1),
            own_rows(mapping),
            is_given(1),
        );
    };
    let (id, cast) = (quoted(source_id), text_cast(mapping, source_id));
    let id_place = first_array(mapping);
    let source = mapping.key.source().map(|place| &mapping.columns[place]);
    let set_source = source.map(|source| {
        let cast = text_cast(mapping, &source.name);
        format!("{} = $1::text{cast}, ", quoted(&source.name))
    });
    let owned = source_is(mapping, "owned").map(|condition| format!("{condition} and ")).unwrap_or_default();
    let arrays: Vec<String> = plans
        .iter()
        .enumerate()
        .map(|(n, plan)| format!("${}::{}[]", id_place + 1 + n, WireType::of(&plan.column_type).name))
        .collect();
    let names: Vec<String> = (1..=plans.len()).map(|number| format!("value{number}")).collect();
    let table = qualified(&mapping.table);
    format!(
        "update {} as target set {}{id} = given.id{cast} \
         from unnest(${id_place}::text[], {}) as given (id, {}) \
         where target.{id} is null and {} \
         and not exists (select from {table} as owned where {owned}owned.{id} = given.id{cast})",
        own_rows(mapping),
        set_source.unwrap_or_default(),
        arrays.join(", "),
        names.join(", "),
        is_given(1),
    )
}
