//! Statements for rows that are made from inside of documents.

use super::{
    WireType, cast_to, is_of_source, is_sought, key_wire, list, list_with, own_rows, qualified, quoted,
    refers, sought_keys, text_cast,
};
use crate::mapping::{ChildPlan, Finder, Mapping};

/// Values of the parent's column → (their place, the key) of each row that has one of them.
pub(in crate::sink) fn rows_of_owners(mapping: &Mapping, parent: usize) -> String {
    let column = &mapping.columns[parent];
    format!(
        "select owner.place, {} from unnest($1::{}[]) with ordinality as owner (value, place) \
         join {} as target on target.{} = owner.value{}",
        list(&mapping.key.columns, |column| {
            let name = quoted(&mapping.columns[column.place].name);
            format!("target.{name}::{}", key_wire(mapping, column).name)
        }),
        WireType::of(&column.column_type).name,
        own_rows(mapping),
        quoted(&column.name),
        cast_to(&column.column_type, &column.type_sql),
    )
}

/// (source) or nothing. `None`: the parent's rows do not say whose they are.
pub(in crate::sink) fn drop_children(parent: &Mapping, child: &Mapping, plan: &ChildPlan) -> Option<String> {
    let is_ours = is_of_source(parent, 1)?;
    Some(format!(
        "delete from {} as target where exists (select from (select {} from {} where {is_ours}) as owner where {})",
        own_rows(child),
        quoted(&plan.owner().take),
        own_rows(parent),
        refers(&child.columns[plan.parent], plan.owner(), "target", "owner"),
    ))
}

/// Keys, one array per column → the keys of the rows of `parent` whose child rows refer to the rows they name.
pub(in crate::sink) fn referring_parents(
    parent: &Mapping,
    plan: &ChildPlan,
    column: usize,
    finder: &Finder,
) -> String {
    let of_source = parent.key.source().map_or_else(String::new, |place| {
        let source = &parent.columns[place];
        let literal = parent.source.replace('\'', "''");
        format!(" and owner.{} = '{literal}'{}", quoted(&source.name), text_cast(parent, &source.name))
    });
    format!(
        "select distinct {} from {} join {} as target on {} join {} as referrer on {} \
         join {} as owner on {}{of_source} where {}",
        list(&parent.key.columns, |column| {
            let name = quoted(&parent.columns[column.place].name);
            format!("owner.{name}::{}", key_wire(parent, column).name)
        }),
        sought_keys(finder),
        qualified(&finder.table),
        is_sought(finder),
        own_rows(&plan.mapping),
        refers(&plan.mapping.columns[column], finder, "referrer", "target"),
        own_rows(parent),
        refers(&plan.mapping.columns[plan.parent], plan.owner(), "referrer", "owner"),
        list_with(&parent.key.columns, " and ", |column| {
            format!("owner.{} is not null", quoted(&parent.columns[column.place].name))
        }),
    )
}
