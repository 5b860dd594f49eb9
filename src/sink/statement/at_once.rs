//! A whole batch as one statement, which is a transaction by itself: nothing is written unless every condition holds.

use super::marks::{Going, going};
use super::{Merge, literal, own_rows, quoted, text_cast};
use crate::config::KeySpec;
use crate::mapping::Mapping;
use crate::sink::guard;

/// What a transaction on the target has besides rows, in SQL of the state. Its first parameters are the caller's.
#[derive(Debug, Clone)]
pub struct Around {
    /// A query without a row if somebody else leads.
    pub fence: String,
    /// Moves the position on; ends with its conditions, and more are added.
    pub advance: String,
    /// What is held for documents that are written is over; ends with its conditions, and one is added.
    pub resolve: Option<String>,
    /// How many parameters these have.
    pub parameters: usize,
}

/// Which of its parts a statement has: a trigger of the whole statement fires, and a plan costs, with no row too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Parts {
    pub rows: bool,
    pub gone: bool,
}

/// Parameters: those of `around`, the ids of rows that go, one array per column of those that come → whether it was
/// fenced, whether the table has changed, whether the position was moved on, (inserted, updated, gone, resolved).
/// `None` where rows do not say whose they are.
///
/// An insert, like a delete, locks its table against changes of its columns before anything is looked at, so that
/// what the guard compares stays. Under `read committed`, that is: else what is seen may be older than the lock.
pub(in crate::sink) fn at_once(mapping: &Mapping, around: &Around, parts: Parts) -> Option<String> {
    let Around { fence, advance, resolve, parameters } = around;
    let going = gone(mapping, parameters + 1)?;
    let guard = guard::text(mapping);
    let mut sql = format!(
        "with fence as materialized ({fence}), changed as materialized ({guard}), \
         advanced as ({advance} and exists (select from fence) and not exists (select from changed) returning seq)"
    );
    let [mut inserted, mut updated, mut gone, mut resolved] = ["0::bigint"; 4].map(str::to_owned);
    if parts.rows {
        let first = parameters + 1 + usize::from(parts.gone);
        let Merge { insert, counted } = Merge::new(mapping, first, " from advanced");
        sql.push_str(&format!(
            ", merged as ({insert}), counts as (select count(*) filter (where inserted) as came, \
             count(*) filter (where not inserted) as changed from {counted})"
        ));
        inserted = "(select came from counts)".to_owned();
        updated = "(select changed from counts)".to_owned();
    }
    if parts.gone {
        sql.push_str(&format!(", gone as ({going} returning 1)"));
        gone = "(select count(*) from gone)".to_owned();
    }
    if let Some(resolve) = resolve {
        sql.push_str(&format!(", resolved as ({resolve} and exists (select from advanced) returning 1)"));
        resolved = "(select count(*) from resolved)".to_owned();
    }
    Some(format!(
        "{sql} select exists (select from fence), exists (select from changed), exists (select from advanced), \
         {inserted}, {updated}, {gone}, {resolved}"
    ))
}

fn gone(mapping: &Mapping, ids: usize) -> Option<String> {
    let KeySpec::SourceId { source, source_id } = &mapping.key.spec else { return None };
    let rows = own_rows(mapping);
    let mut condition = format!("target.{} = going.id{}", quoted(source_id), text_cast(mapping, source_id));
    if let Some(source) = source {
        let (name, cast) = (quoted(source), text_cast(mapping, source));
        condition.push_str(&format!(" and target.{name} = {}::text{cast}", literal(&mapping.source)));
    }
    let going_ids = format!("unnest(${ids}::text[]) as going (id), advanced");
    Some(match going(mapping) {
        Going::Deleted => format!("delete from {rows} as target using {going_ids} where {condition}"),
        Going::Marked { set, unless } => {
            format!("update {rows} as target set {set} from {going_ids} where {condition} and {unless}")
        }
    })
}
