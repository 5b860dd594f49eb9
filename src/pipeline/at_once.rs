//! A batch of the stream in one statement, which is its transaction: fence, catalog, rows and position in one round
//! trip. For what nothing but rows is written for; and whatever is refused here is written in the usual way, where
//! it can be taken apart.

use std::collections::HashMap;
use std::time::Instant;

use super::Error;
use super::commit::{Committed, ForWhom, Tally, Writer, apply, state};
use super::fail_point::FailPoint;
use super::hold_limit::Part;
use super::plan::Mapped;
use super::prepare::{Prepared, SourceBatch};
use crate::domain::{Position, SourceIndex};
use crate::sink::{self, Around, AtOnce, Disposition, InOut, Once, Parts, Reached};
use crate::state::{checkpoint, held, lease};

/// After a refusal, so many batches of the mapping take the usual way: there may be more of its kind.
const APART: u32 = 20;

/// What one connection knows of its statements.
#[derive(Debug, Default)]
pub(super) struct Statements {
    /// By mapping, its parts and whether changes may be held for it. `None`: it is not for this way.
    known: HashMap<(SourceIndex, Parts, bool), Option<AtOnce>>,
    apart: HashMap<SourceIndex, u32>,
}

impl Writer {
    /// `None`: nothing was written, and the batch must take the usual way.
    pub(super) async fn at_once(
        &mut self,
        prepared: &Prepared,
        seq: i64,
    ) -> Result<Option<Committed>, Error> {
        let began = Instant::now();
        let Some((batch, position)) = self.for_whom.only_rows(prepared) else { return Ok(None) };
        if let Some(left) = self.statements.apart.get_mut(&batch.source).filter(|left| **left > 0) {
            *left -= 1;
            return Ok(None);
        }
        let for_whom = &self.for_whom;
        let (mapped, may_hold) = (for_whom.plan.of(batch.source), for_whom.holding.may_hold(batch.source));
        let gone: Vec<&str> = batch.deletes.iter().map(|(_, source_id)| source_id.as_str()).collect();
        let in_out = InOut { rows: &batch.rows, gone: &gone };
        let known = self.statements.known.entry((batch.source, in_out.parts(), may_hold));
        let known = known.or_insert_with(|| for_whom.statement(mapped, in_out.parts(), may_hold));
        let Some(statement) = known else { return Ok(None) };
        if !AtOnce::takes(in_out, for_whom.pace.portion()) {
            return Ok(None);
        }
        let mut arguments = checkpoint::arguments(seq, position).map_err(state)?;
        let written: Vec<&str> = batch.written().chain(batch.deleted()).map(|(_, id)| id).collect();
        if may_hold {
            held::add_ids(&mut arguments, &written).map_err(state)?;
        }
        FailPoint::AtOnce.reach().await?;
        let once = statement.write(&mut self.connection, &mapped.target, arguments, in_out).await;
        let once = match once {
            Ok(once) => once,
            Err(error) => {
                return match error.disposition() {
                    Disposition::Retry | Disposition::Shrink => Err(apply(error)),
                    Disposition::Hold(_)
                    | Disposition::Suspect(_)
                    | Disposition::Refresh
                    | Disposition::Halt { .. } => {
                        // Whoever takes it apart tells what is wrong; if nothing is then, this does.
                        let mapping = mapped.mapping.source.as_str();
                        tracing::debug!(
                            mapping,
                            error = Error::chain(&error),
                            "a batch is not written at once"
                        );
                        self.statements.apart.insert(batch.source, APART);
                        Ok(None)
                    }
                };
            }
        };
        let (outcome, resolved) = match once {
            Once::Written { outcome, resolved } => (outcome, resolved),
            Once::Not(Reached::Fence) => return Err(Error::Fenced),
            Once::Not(Reached::Table) => {
                let table = mapped.mapping.table.clone();
                return Err(apply(sink::Error::CatalogChanged { table }));
            }
        };
        FailPoint::Committed.reach().await?;
        for_whom.committed(Part { changes: written.len() as u64, newly_held: 0 }, false);
        let tally = Tally {
            inserted: outcome.inserted,
            updated: outcome.updated,
            unchanged: outcome.unchanged,
            deleted: outcome.deleted,
            resolved,
            ..Tally::default()
        };
        let sources = vec![(batch.source, tally)];
        Ok(Some(Committed { sources, apply: began.elapsed(), commit: None }))
    }
}

impl ForWhom {
    /// The one mapping that a batch has something for, and the position, if rows and position are all there is to write.
    fn only_rows<'b>(&self, prepared: &'b Prepared) -> Option<(&'b SourceBatch, &'b Position)> {
        let [batch] = &prepared.sources[..] else { return None };
        let position = prepared.position.as_ref()?;
        let source = batch.source;
        let is_more = !prepared.ended.is_empty()
            || !prepared.others.is_empty()
            || prepared.skipped
            || !batch.refused.is_empty()
            || !batch.held.is_empty()
            || self.plan.has_references()
            || self.waiting.may_concern(&self.plan, source)
            || self.holding.may_be_occupied(source)
            || self.repairing.is_wanted();
        let is_cut =
            [FailPoint::Hold, FailPoint::RowsWritten, FailPoint::Commit].into_iter().any(FailPoint::is_given);
        (!is_more && !is_cut).then_some((batch, position))
    }

    fn statement(&self, mapped: &Mapped, parts: Parts, may_hold: bool) -> Option<AtOnce> {
        if !mapped.children.is_empty() {
            return None;
        }
        let (pipeline, scope_hash) = (&self.pipeline, &self.plan.scope_hash);
        let resolve = || held::resolving(pipeline, &mapped.mapping.source, checkpoint::ARGUMENTS + 1);
        let around = Around {
            fence: lease::fence(pipeline, self.epoch),
            advance: checkpoint::advancing(pipeline, self.epoch, scope_hash),
            resolve: may_hold.then(resolve),
            parameters: checkpoint::ARGUMENTS + usize::from(may_hold),
        };
        AtOnce::new(&mapped.target, &around, parts)
    }
}
