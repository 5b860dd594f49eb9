//! What a session begins with: the state as PostgreSQL has it once the lease is ours.

use sqlx::PgConnection;

use super::Error;
use super::commit::{begin_fenced, state};
use super::plan::Plan;
use super::snapshot::Pending;
use crate::config::SnapshotMode;
use crate::domain::{ClusterTime, Position};
use crate::state::checkpoint::Checkpoint;
use crate::state::lease::Epoch;
use crate::state::mapping::{Known, SnapshotState};
use crate::state::{checkpoint, chunk, held, mapping};

#[derive(Debug)]
pub struct Loaded {
    pub checkpoint: Checkpoint,
    /// Snapshots that are not done, in the order of the plan.
    pub pending: Vec<Pending>,
    /// Sources whose snapshot is done, or is not wanted.
    pub done: Vec<crate::domain::SourceIndex>,
    /// Sources with held changes that are not resolved.
    pub held: Vec<crate::domain::SourceIndex>,
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
) -> Result<Loaded, Error> {
    let mut transaction = begin_fenced(connection, pipeline, epoch).await?;
    let known = mapping::load(&mut transaction, pipeline).await.map_err(state)?;
    for mapped in &plan.mapped {
        let known = known.iter().find(|known| known.source == mapped.mapping.source);
        bring_up_to_date(&mut transaction, pipeline, mapped, known, mode).await?;
    }
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
        let progress = chunk::progress(&mut transaction, pipeline, source).await.map_err(state)?;
        pending.push(Pending { source: mapped.mapping.index, planned: known.planned, progress });
    }
    let counts = held::counts(&mut transaction, pipeline).await.map_err(state)?;
    let open = counts.iter().filter(|count| count.state != "resolved");
    let held = open.filter_map(|count| plan.source(&count.source)).collect();
    transaction.commit().await.map_err(|error| Error::retry("commit", error))?;
    Ok(Loaded { checkpoint, pending, done, held })
}

async fn bring_up_to_date(
    connection: &mut PgConnection,
    pipeline: &str,
    mapped: &super::Mapped,
    known: Option<&Known>,
    mode: SnapshotMode,
) -> Result<(), Error> {
    let mapping = &mapped.mapping;
    let Some(known) = known else {
        let snapshot = match mode {
            SnapshotMode::Initial => SnapshotState::Pending,
            SnapshotMode::Never => SnapshotState::Done,
        };
        let target = mapping.table.to_string();
        return mapping::register(
            connection,
            pipeline,
            &mapping.source,
            &mapping.hash,
            mapping.id_type,
            &target,
            snapshot,
        )
        .await
        .map_err(state);
    };
    if known.mapping_hash == mapping.hash {
        return Ok(());
    }
    tracing::warn!(source = mapping.source, "the mapping changed, copying its collection again");
    mapping::changed(connection, pipeline, &mapping.source, &mapping.hash, &mapping.table.to_string())
        .await
        .map_err(state)?;
    mapping::snapshot_again(connection, pipeline, &mapping.source).await.map_err(state)
}
