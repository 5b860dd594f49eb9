//! What a session begins with: the state as PostgreSQL has it once the lease is ours.

use sqlx::PgConnection;

use super::Error;
use super::claims::Claims;
use super::commit::{begin_fenced, state};
use super::others::Others;
use super::pace::Pace;
use super::plan::Plan;
use super::snapshot::Pending;
use crate::config::SnapshotMode;
use crate::domain::{ClusterTime, Position};
use crate::state::checkpoint::Checkpoint;
use crate::state::lease::Epoch;
use crate::state::mapping::{Known, Registered, SnapshotState};
use crate::state::resync::{self, Cause};
use crate::state::{checkpoint, chunk, held, lease, mapping, wait};

#[derive(Debug)]
pub struct Loaded {
    pub checkpoint: Checkpoint,
    /// Snapshots that are not done, in the order of the plan.
    pub pending: Vec<Pending>,
    /// Sources whose snapshot is done, or is not wanted.
    pub done: Vec<crate::domain::SourceIndex>,
    /// Sources with held changes that are not resolved.
    pub held: Vec<crate::domain::SourceIndex>,
    /// Sources for a value of whose rows somebody is held.
    pub occupied: Vec<crate::domain::SourceIndex>,
    pub waits: wait::Overview,
    pub others: Others,
}

/// `now`: an operation time asked of the server before this call; a pipeline without a checkpoint
/// begins there.
pub async fn load(
    connection: &mut PgConnection,
    pipeline: &str,
    epoch: Epoch,
    plan: &Plan,
    mode: SnapshotMode,
    now: ClusterTime,
    pace: &Pace,
) -> Result<Loaded, Error> {
    let mut transaction = begin_fenced(connection, &lease::fence(pipeline, epoch), &[]).await?;
    let known = mapping::load(&mut transaction, pipeline).await.map_err(state)?;
    for mapped in &plan.mapped {
        let known = known.iter().find(|known| known.source == mapped.mapping.source);
        if mapped.mapping.key.is_claimed() {
            Claims::new(&mut transaction, pipeline, mapped, pace.portion()).take_up().await?;
        }
        bring_up_to_date(&mut transaction, pipeline, mapped, known, mode).await?;
    }
    let others = Others::load(&mut transaction, pipeline, plan, &known).await?;
    let followed: Vec<&str> = plan.mapped.iter().map(|mapped| mapped.mapping.source.as_str()).collect();
    mapping::leave_scope(&mut transaction, pipeline, &followed).await.map_err(state)?;
    checkpoint::start(&mut transaction, pipeline, epoch, now, &plan.scope_hash).await.map_err(state)?;
    let checkpoint = checkpoint::load(&mut transaction, pipeline).await.map_err(state)?;
    let mut checkpoint = checkpoint.ok_or(Error::Fenced)?;
    if checkpoint.scope_hash != plan.scope_hash {
        // A token is of the stream it came from; its time is good for any.
        checkpoint.position = Position { token: None, time: checkpoint.position.time };
    }
    let known = mapping::load(&mut transaction, pipeline).await.map_err(state)?;
    let (mut pending, mut done) = (Vec::new(), Vec::new());
    for mapped in &plan.mapped {
        let source = &mapped.mapping.source;
        let Some(known) = known.iter().find(|known| &known.source == source) else { continue };
        if known.snapshot == SnapshotState::Done {
            done.push(mapped.mapping.index);
            continue;
        }
        let mut progress = chunk::progress(&mut transaction, pipeline, source).await.map_err(state)?;
        if progress.unfinished.last().is_some_and(|last| last.upper.is_none()) {
            chunk::reopen_last(&mut transaction, pipeline, source).await.map_err(state)?;
            progress = chunk::progress(&mut transaction, pipeline, source).await.map_err(state)?;
        }
        let open_ended = progress.last.as_ref().is_some_and(|last| last.upper.is_none());
        pending.push(Pending { source: mapped.mapping.index, planned: open_ended, progress });
    }
    let counts = held::counts(&mut transaction, pipeline).await.map_err(state)?;
    let open = counts.iter().filter(|count| count.state != "resolved");
    let held = open.filter_map(|count| plan.source(&count.source)).collect();
    let occupied = held::targets(&mut transaction, pipeline).await.map_err(state)?;
    let occupied = occupied.iter().flat_map(|target| plan.of_target(target)).collect();
    let waits = wait::overview(&mut transaction, pipeline).await.map_err(state)?;
    transaction.commit().await?;
    Ok(Loaded { checkpoint, pending, done, held, occupied, waits, others })
}

/// A mapping that is new is registered. One that has changed, has another table, or was not followed for a while, is
/// copied again by merging, since more than its rows is made of its documents (who waits for what, who stands for which
/// row); then a re-sync is due, which removes the rows whose documents are gone. Until then rows stay as they are.
async fn bring_up_to_date(
    connection: &mut PgConnection,
    pipeline: &str,
    mapped: &super::Mapped,
    known: Option<&Known>,
    mode: SnapshotMode,
) -> Result<(), Error> {
    let mapping = &mapped.mapping;
    let (collection, target) = (mapping.namespace.to_string(), mapping.table.to_string());
    let registered = Registered {
        source: &mapping.source,
        mapping_hash: &mapping.hash,
        meaning: &mapping.meaning,
        id_type: mapping.id_type,
        collection: &collection,
        target: &target,
        target_oid: mapping.table_oid,
    };
    let Some(known) = known else {
        let snapshot = match mode {
            SnapshotMode::Initial => SnapshotState::Pending,
            SnapshotMode::Never => SnapshotState::Done,
        };
        return mapping::register(connection, pipeline, registered, snapshot).await.map_err(state);
    };
    let followed = known.in_scope && known.collection == collection;
    let same_table = known.target_oid == mapping.table_oid;
    if followed && same_table && known.mapping_hash == mapping.hash {
        // Somebody took the new hash over by hand.
        if known.meaning != mapping.meaning {
            mapping::changed(connection, pipeline, registered).await.map_err(state)?;
        }
        return Ok(());
    }
    let cause = match (followed, known.mapping_hash == mapping.hash) {
        (false, _) => Cause::Scope,
        // Dropped and made again, or another one was renamed onto its name: nobody knows what is in it.
        (true, true) => Cause::Table,
        (true, false) => Cause::Mapping,
    };
    tracing::warn!(
        event = "copied_again",
        severity = "warning",
        source = mapping.source,
        %target,
        %cause,
        "the collection is copied again, then compared with its rows"
    );
    mapping::changed(connection, pipeline, registered).await.map_err(state)?;
    mapping::snapshot_again(connection, pipeline, &mapping.source).await.map_err(state)?;
    resync::ask(connection, pipeline, &[&mapping.source], cause).await.map_err(state)?;
    Ok(())
}
