//! The only place that begins a transaction on the target; what `at_once` takes is one statement, and begins none.
//!
//! Every transaction has one shape: fence, apply rows, hold rejections, move on, commit. If any step
//! fails, or the answer to the commit is lost, the session ends and the next one loads the state anew.

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mongodb::Client;
use sqlx::PgConnection;
use tokio::sync::Notify;

use super::Error;
use super::at_once::Statements;
use super::claims::Claims;
use super::fail_point::FailPoint;
use super::hold_limit::{HoldLimit, Part};
use super::holding::Holding;
use super::pace::Pace;
use super::plan::{Mapped, Plan};
use super::prepare::{Prepared, SourceBatch};
use super::references::{Leaving, Waiting};
use super::repairing::Repairing;
use super::status::RowCounts;
use super::transaction::{Open, Way};
use crate::domain::{CanonicalId, ClusterTime, Portion, Position, SourceIndex};
use crate::sink::{self, Greatest, Savepoint, Target};
use crate::state::chunk::Chunk;
use crate::state::held::Backoff;
use crate::state::lease::Epoch;
use crate::state::resync::Cause;
use crate::state::{checkpoint, chunk, lease, mapping, transaction};

/// How changes are held.
#[derive(Debug, Clone, Copy)]
pub struct HeldPolicy {
    pub keep_document: bool,
    pub max_document_bytes: usize,
    pub backoff: Backoff,
}

/// A connection that may write the target, and whom it writes for.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) connection: PgConnection,
    /// The connection knows the statements that every transaction begins with.
    prepared: bool,
    pub(super) for_whom: ForWhom,
    /// What sequences are known to be past.
    sequences: HashMap<SourceIndex, Greatest>,
    pub(super) statements: Statements,
}

/// What every writer of a session shares.
#[derive(Debug, Clone)]
pub(super) struct ForWhom {
    pub plan: Arc<Plan>,
    pub pipeline: Arc<str>,
    pub epoch: Epoch,
    pub policy: HeldPolicy,
    pub limit: HoldLimit,
    pub holding: Arc<Holding>,
    pub pace: Pace,
    /// Documents whose rows refer to rows that go are read again.
    pub client: Client,
    pub waiting: Arc<Waiting>,
    /// Rung whenever somebody's wait may be over.
    pub woken: Arc<Notify>,
    /// Whether a repair may want documents to be read again.
    pub repairing: Arc<Repairing>,
}

/// What one transaction did, per source.
#[derive(Debug, Default)]
pub struct Committed {
    pub sources: Vec<(SourceIndex, Tally)>,
    pub apply: Duration,
    /// `None`: part of `apply`.
    pub commit: Option<Duration>,
}

#[derive(Debug, Default, Clone)]
pub struct Tally {
    pub inserted: u64,
    pub updated: u64,
    pub unchanged: u64,
    pub deleted: u64,
    pub resolved: u64,
    pub held: Vec<(CanonicalId, crate::domain::Rejection)>,
    /// Of those, what has waited for a row for too long by now.
    pub overdue: u64,
    /// A snapshot chunk that could not be copied straight into the table.
    pub fell_back: bool,
    /// Of child tables.
    pub coerced: Vec<Coerced>,
    /// Rows of child tables, by table.
    pub children: Vec<(String, RowCounts)>,
}

/// Values of one column that a rule altered, or elements that it left out.
#[derive(Debug, Clone)]
pub struct Coerced {
    pub table: String,
    pub column: String,
    pub rule: &'static str,
    pub count: u64,
}

/// What became of a chunk.
#[derive(Debug)]
pub(super) enum ChunkOutcome {
    Committed(Committed),
    /// The chunk is no longer in the state: its collection was dropped or replaced.
    Gone,
}

/// An open, fenced transaction. Whoever does not come to `commit` gives the connection up, and with it what
/// was written; the fence does not let another one begin there.
#[derive(Debug)]
#[must_use]
pub(super) struct Tx<'a> {
    connection: &'a mut PgConnection,
    /// Fails where a name leads to another table than the one that was compared.
    same_names: Option<String>,
}

impl Deref for Tx<'_> {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.connection
    }
}

impl DerefMut for Tx<'_> {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.connection
    }
}

impl Tx<'_> {
    pub(super) async fn commit(self) -> Result<(), Error> {
        // An error here leaves open whether it happened. The next session takes the lease, which waits
        // for this transaction to end either way, and only then loads the state.
        let committed = match &self.same_names {
            Some(same_names) => transaction::commit_behind(self.connection, same_names).await,
            None => transaction::commit(self.connection).await,
        };
        committed.map_err(not_committed)
    }

    /// As `commit`, with the position of the stream that is reached by it.
    pub(super) async fn commit_at(self, position: &Position, seq: i64) -> Result<(), Error> {
        let mut statement = checkpoint::advance(seq, position);
        if let Some(same_names) = &self.same_names {
            statement = format!("{same_names}; {statement}");
        }
        transaction::commit_behind(self.connection, &statement).await.map_err(not_committed)
    }
}

fn not_committed(error: sqlx::Error) -> Error {
    if checkpoint::is_replaced(&error) {
        Error::Fenced
    } else if sink::is_elsewhere(&error) {
        CATALOG_CHANGED
    } else {
        Error::retry("commit", error)
    }
}

impl ForWhom {
    /// What others are told of a part that is written.
    pub(super) fn committed(&self, part: Part, wakes: bool) {
        self.limit.committed(part);
        if wakes {
            self.woken.notify_one();
        }
    }
}

impl Writer {
    pub(super) fn new(connection: PgConnection, for_whom: ForWhom) -> Self {
        Self {
            connection,
            prepared: false,
            for_whom,
            sequences: HashMap::new(),
            statements: Statements::default(),
        }
    }

    /// One batch of the stream: rows, held changes and checkpoint together.
    /// `seq` is the number of the commit before.
    pub(super) async fn batch(&mut self, prepared: &mut Prepared, seq: i64) -> Result<Committed, Error> {
        if let Some(committed) = self.at_once(prepared, seq).await? {
            return Ok(committed);
        }
        let began = Instant::now();
        let leaving = Leaving::of(&self.for_whom.plan, &prepared.sources);
        let written = prepared.sources.iter().map(|batch| batch.source);
        let written = written.chain(prepared.dropped.iter().copied());
        let touched: Vec<SourceIndex> = written.chain(self.for_whom.plan.referring(&leaving)).collect();
        let mut open = self.begin(&touched).await?;
        let mut tallies: HashMap<SourceIndex, Tally> = HashMap::new();
        for source in &prepared.dropped {
            open.drop_source(*source, prepared.read_after, &mut tallies).await?;
        }
        for source in &prepared.replaced {
            open.snapshot_again(*source).await?;
        }
        for source in &prepared.ended {
            open.collection_ended(*source).await?;
        }
        for (source, uuid) in &prepared.others {
            open.is_another(*source, *uuid).await?;
        }
        if prepared.skipped {
            open.resync(Cause::History).await?;
        }
        for batch in &mut prepared.sources {
            open.put(batch, &leaving, Way::Merge, &mut tallies).await?;
        }
        open.delete(&prepared.sources, leaving, prepared.read_after, &mut tallies).await?;
        open.repaired(&prepared.sources).await?;
        FailPoint::RowsWritten.reach().await?;
        let apply = began.elapsed();
        FailPoint::Commit.reach().await?;
        match &prepared.position {
            Some(position) => open.commit_at(position, seq).await?,
            None => open.commit().await?,
        }
        FailPoint::Committed.reach().await?;
        let commit = Some(began.elapsed().saturating_sub(apply));
        let mut sources: Vec<_> = tallies.into_iter().collect();
        sources.sort_by_key(|(source, _)| *source);
        Ok(Committed { sources, apply, commit })
    }

    /// One snapshot chunk: its rows, its held documents and its end together.
    pub(super) async fn chunk(
        &mut self,
        number: i32,
        documents: u64,
        batch: &mut SourceBatch,
        straight: bool,
        read_after: ClusterTime,
    ) -> Result<ChunkOutcome, Error> {
        let began = Instant::now();
        let leaving = Leaving::of(&self.for_whom.plan, std::slice::from_ref(batch));
        let touched: Vec<SourceIndex> =
            std::iter::once(batch.source).chain(self.for_whom.plan.referring(&leaving)).collect();
        let mut open = self.begin(&touched).await?;
        if !open.finish_chunk(batch.source, number, documents as i64).await? {
            return Ok(ChunkOutcome::Gone);
        }
        let way = if straight { Way::Straight } else { Way::Merge };
        let mut tallies = HashMap::new();
        let waits = open.put(batch, &leaving, way, &mut tallies).await?;
        // Documents that do not belong, whose rows an earlier snapshot may have left.
        open.delete(std::slice::from_ref(batch), leaving, read_after, &mut tallies).await?;
        let apply = began.elapsed();
        FailPoint::CommitChunk.reach().await?;
        open.commit().await?;
        FailPoint::ChunkCommitted.reach().await?;
        let commit = Some(began.elapsed().saturating_sub(apply));
        if !waits.is_empty() {
            // A parent that was committed beside this transaction could not see who waits for it here.
            let mut open = self.begin(&[]).await?;
            open.look_again(batch.source, &waits).await?;
            open.commit().await?;
        }
        if self.for_whom.waiting.may_wake(&self.for_whom.plan, batch.source) {
            // Nor could a transaction beside this one see what came here: whichever commits last sees the other.
            let mut open = self.begin(&[]).await?;
            open.wake_again(batch).await?;
            open.commit().await?;
        }
        if self.for_whom.holding.may_be_occupied(batch.source) {
            let mut open = self.begin(&[]).await?;
            open.look_for_values_again(batch).await?;
            open.commit().await?;
        }
        if self.for_whom.plan.of(batch.source).has_own_junctions() {
            let mut open = self.begin(&[batch.source]).await?;
            open.pair_again(batch).await?;
            open.commit().await?;
        }
        Ok(ChunkOutcome::Committed(Committed { sources: tallies.into_iter().collect(), apply, commit }))
    }

    pub(super) async fn start_snapshot(&mut self, source: SourceIndex, estimated: u64) -> Result<(), Error> {
        let mut open = self.begin(&[]).await?;
        let (transaction, pipeline, name) = open.named(source);
        mapping::snapshot_started(transaction, pipeline, name, estimated as i64).await.map_err(state)?;
        open.commit().await
    }

    /// Writes a chunk down before anybody copies it; `last` also that there are no more.
    pub(super) async fn plan_chunk(
        &mut self,
        source: SourceIndex,
        planned: &Chunk,
        last: bool,
    ) -> Result<(), Error> {
        let mut open = self.begin(&[]).await?;
        let (transaction, pipeline, name) = open.named(source);
        if !chunk::plan(transaction, pipeline, name, planned).await.map_err(state)? {
            return Err(Error::Rebuild { because: "a snapshot was begun again while it was planned" });
        }
        if last {
            mapping::planned(transaction, pipeline, name).await.map_err(state)?;
        }
        FailPoint::PlanChunk.reach().await?;
        open.commit().await
    }

    /// Marks the snapshot done if every chunk is; says whether it is.
    pub(super) async fn finish_snapshot(&mut self, source: SourceIndex) -> Result<bool, Error> {
        let mut open = self.begin(&[]).await?;
        let (transaction, pipeline, name) = open.named(source);
        let done = mapping::snapshot_done(transaction, pipeline, name).await.map_err(state)?;
        open.commit().await?;
        Ok(done)
    }

    /// Fresh statistics for a table that was just filled. Needs its owner; not having that is no fault.
    pub(super) async fn analyze(&mut self, source: SourceIndex) -> Result<(), Error> {
        sink::analyze(&mut self.connection, &self.for_whom.plan.of(source).target).await.map_err(apply)
    }

    async fn begin(&mut self, touched: &[SourceIndex]) -> Result<Open<'_>, Error> {
        let for_whom = &self.for_whom;
        if !self.prepared {
            prepare(&mut self.connection, for_whom).await?;
            self.prepared = true;
        }
        let mapped = || touched.iter().map(|source| for_whom.plan.of(*source));
        let targets: Vec<&Target> = mapped().flat_map(Mapped::targets).collect();
        let transaction = begin_fenced(&mut self.connection, lease::EXECUTE_FENCE, &targets).await?;
        let savepoint = if targets.is_empty() { Savepoint::Missing } else { Savepoint::Set };
        Ok(Open::new(transaction, for_whom, savepoint, &mut self.sequences))
    }
}

async fn prepare(connection: &mut PgConnection, for_whom: &ForWhom) -> Result<(), Error> {
    let statements = [
        lease::prepare_fence(&for_whom.pipeline, for_whom.epoch),
        sink::prepare_guard(),
        checkpoint::prepare_advance(&for_whom.pipeline, for_whom.epoch, &for_whom.plan.scope_hash),
    ];
    transaction::prepare(connection, &statements).await.map_err(state)
}

/// Begins as every transaction on the target must, in one round trip; the answers are looked at before anything
/// is written. The tables it will write are locked against changes of their columns and compared with what the
/// mappings were compiled against: after an `alter table … type` PostgreSQL would round without a word. With
/// targets, which take a connection of a `Writer`, it ends with the savepoint of the first attempt.
pub(super) async fn begin_fenced<'a>(
    connection: &'a mut PgConnection,
    fence: &str,
    targets: &[&Target],
) -> Result<Tx<'a>, Error> {
    // A deferred constraint would pass every savepoint and fail the commit of the whole batch.
    let mut statements = vec!["set constraints all immediate".to_owned()];
    // The lock before the guard: what was compared stays.
    statements.extend(sink::lock(targets).map(|lock| lock.0));
    statements.push(fence.to_owned());
    if let Some(guard) = sink::guard(targets) {
        statements.push(guard.0);
        // Behind the fence: going back to it must not unlock the lease.
        statements.push(sink::SAVEPOINT.to_owned());
    }
    let answers = transaction::begin(connection, &statements).await.map_err(|error| match targets {
        [] => state(error),
        _ => apply(sink::lock_error(targets, error)),
    })?;
    if !answers.iter().any(lease::is_fence) {
        return Err(Error::Fenced);
    }
    match answers.iter().find_map(sink::changed) {
        Some(error) => Err(apply(error)),
        None => Ok(Tx { connection, same_names: sink::same_names(targets).map(|query| query.0) }),
    }
}

/// Deletes the rows of a collection that was dropped, or is another one now: all of them, or it halts. Without
/// their documents nobody would ever touch them again, so somebody has to decide.
pub(super) async fn drop_rows(
    connection: &mut PgConnection,
    pipeline: &str,
    mapped: &Mapped,
    portion: Portion,
) -> Result<u64, Error> {
    super::children::drop_rows(connection, pipeline, mapped, portion).await?;
    let mapping = &mapped.mapping;
    let dropped = match mapping.key.is_claimed() {
        true => Claims::new(connection, pipeline, mapped, portion).drop_rows().await?,
        false => sink::drop_rows(connection, &mapped.target, portion).await.map_err(apply)?,
    };
    let Some(rejection) = dropped.refused.first() else { return Ok(dropped.deleted) };
    let rows = match dropped.refused.len() {
        1 => "1 row".to_owned(),
        count => format!("{count} rows"),
    };
    Err(Error::halt(
        format!(
            "{rows} of mapping {} in {} cannot go with the collection they came from: {rejection}",
            mapping.source, mapping.table
        ),
        "delete the rows that refer to them, or set deletes: keep; it goes on by itself then",
    ))
}

const CATALOG_CHANGED: Error = Error::Rebuild { because: "the catalog of the target changed" };

/// What an error of the sink means for the session.
pub(crate) fn apply(error: sink::Error) -> Error {
    match error.disposition() {
        sink::Disposition::Refresh => CATALOG_CHANGED,
        sink::Disposition::Halt { hint } => Error::halt(Error::chain(&error), hint),
        sink::Disposition::Retry | sink::Disposition::Suspect(_) => Error::retry("apply", error),
        sink::Disposition::Shrink => Error::TimedOut { source: Box::new(error) },
        // A refusal outside of any single row's savepoint would come again and again.
        sink::Disposition::Hold(rejection) => Error::halt(
            format!("{}: {rejection}", Error::chain(&error)),
            "change the constraint or the rows it protects; the pipeline goes on by itself then",
        ),
    }
}

/// What an error of a statement on the state schema means for the session.
pub(crate) fn state(error: sqlx::Error) -> Error {
    let error = sink::Error::of_state(error);
    match error.disposition() {
        // Nothing of it grows with a batch.
        sink::Disposition::Shrink => Error::retry("apply", error),
        sink::Disposition::Refresh if error.is_stale_plan() => {
            Error::Rebuild { because: "the schema rowstream changed" }
        }
        sink::Disposition::Refresh => Error::halt(
            Error::chain(&error),
            "the schema rowstream is not as this version made it: run `rowstream migrate`, or the version that changed it",
        ),
        sink::Disposition::Retry
        | sink::Disposition::Suspect(_)
        | sink::Disposition::Hold(_)
        | sink::Disposition::Halt { .. } => apply(error),
    }
}
