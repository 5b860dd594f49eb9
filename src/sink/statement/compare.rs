//! Statements that compare rows with what they should be. They only read.

use super::key::{given, is_wanted, wanted};
use super::marks::{Going, going};
use super::{cast_to, is_of_source, list, list_with, own_rows, quoted};
use crate::config::KeySpec;
use crate::mapping::{ColumnPlan, Mapping};

/// One array per column of the mapping → (place from 1, whether the row is there, the numbers of the columns
/// that differ), of each row that is not as given.
///
/// Compared are stored forms, as in the merge: `*<>` of records of one type. The casts make it the same type
/// where a column is of a domain, and give values their modifiers: the transform has seen to it that they lose
/// nothing by that. The lateral join is a search by the key's own index for each row, however small the
/// statistics say that the table is.
pub(in crate::sink) fn deviations(mapping: &Mapping, compared: &[usize]) -> String {
    let is_key = is_key(mapping);
    let found = |place: &usize| {
        let ColumnPlan { name, type_sql, .. } = &mapping.columns[*place];
        format!("found.{}::{type_sql}", quoted(name))
    };
    let wanted = |place: &usize| format!("given.value{}::{}", place + 1, mapping.columns[*place].type_sql);
    let (differs, which) = match compared {
        [] => ("false".to_owned(), "'{}'::int4[]".to_owned()),
        _ => (
            format!("row({})::record *<> row({})::record", list(compared, found), list(compared, wanted)),
            format!(
                "array_remove(array[{}], null)",
                list(compared, |place| {
                    format!(
                        "case when row({})::record *<> row({})::record then {place}::int4 end",
                        found(place),
                        wanted(place)
                    )
                })
            ),
        ),
    };
    let columns: Vec<String> = compared.iter().map(|place| quoted(&mapping.columns[*place].name)).collect();
    let columns: String = columns.iter().map(|name| format!(", target.{name}")).collect();
    format!(
        "select given.place, found.tableoid is not null, {which} from {} left join lateral \
         (select target.tableoid{columns} from {} as target where {is_key} offset 0) as found on true \
         where found.tableoid is null or {differs}",
        given(&mapping.columns, 1),
        own_rows(mapping),
    )
}

/// Arrays as for [`deviations`] → (place from 1, what these columns hold, what they should hold), as text. Of
/// rows that are there.
pub(in crate::sink) fn shown_values(mapping: &Mapping, columns: &[usize]) -> String {
    let is_key = is_key(mapping);
    let held = list(columns, |place| format!("target.{}::text", quoted(&mapping.columns[*place].name)));
    let wanted = list(columns, |place| {
        format!("given.value{}::{}::text", place + 1, mapping.columns[*place].type_sql)
    });
    format!(
        "select given.place, array[{held}]::text[], array[{wanted}]::text[] from {} join {} as target on {is_key}",
        given(&mapping.columns, 1),
        own_rows(mapping),
    )
}

/// Finds the row of what is given.
fn is_key(mapping: &Mapping) -> String {
    let places =
        mapping.key.source().into_iter().chain(mapping.key.columns.iter().map(|column| column.place));
    let places: Vec<usize> = places.collect();
    list_with(&places, " and ", |place| {
        let column = &mapping.columns[*place];
        let cast = cast_to(&column.column_type, &column.type_sql);
        format!("target.{} = given.value{}{cast}", quoted(&column.name), place + 1)
    })
}

/// Keys as in [`super::KeyStatements`] → the places, from 1, of those that have a row which does not say that
/// its document is gone.
pub(in crate::sink) fn living(mapping: &Mapping) -> String {
    let not_marked = match going(mapping) {
        Going::Deleted => String::new(),
        Going::Marked { unless, .. } => format!(" and {unless}"),
    };
    format!(
        "select wanted.place from {} join {} as target on {}{not_marked}",
        wanted(mapping, "wanted", "place"),
        own_rows(mapping),
        is_wanted(mapping, "wanted"),
    )
}

/// (source) or nothing → how many rows say that they are the mapping's. `None`: rows do not say it.
pub(in crate::sink) fn count_owned(mapping: &Mapping) -> Option<String> {
    let is_ours = is_of_source(mapping, 1)?;
    let not_marked = match going(mapping) {
        Going::Deleted => String::new(),
        Going::Marked { unless, .. } => format!(" and {unless}"),
    };
    Some(format!("select count(*) from {} as target where {is_ours}{not_marked}", own_rows(mapping)))
}

/// (percent of the table's pages, limit, source) or without source → source_ids of rows at random.
pub(in crate::sink) fn sample_source_ids(mapping: &Mapping) -> Option<String> {
    let KeySpec::SourceId { source_id, .. } = &mapping.key.spec else { return None };
    let is_ours = is_of_source(mapping, 3)?;
    Some(format!(
        "select {}::text from {} tablesample system ($1::float4) where {is_ours} limit $2",
        quoted(source_id),
        own_rows(mapping),
    ))
}
