//! The one change stream: a task of its own owns the cursor, reopens it whenever that is possible, and
//! feeds a bounded channel.

use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use bson::{Bson, Document, RawDocument, doc};
use bytes::Bytes;
use futures_util::StreamExt;
use mongodb::Client;
use mongodb::options::ReadConcern;
use mongodb::raw_batch_cursor::RawBatchCursor;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::client::server_times;
use super::decode::{Decoded, Decoder};
use super::error::{Error, Fault, FaultKind};
use super::event::{AfterLoss, Continuity, Manner, Reply, Scope};
use super::find::OwnedBatch;
use super::patience::Patience;
use crate::domain::{ClusterTime, Namespace, Position, ResumeToken};

/// How long the server holds an idle getMore before it answers with an empty reply. Events are sent at once
/// whatever this is. A transaction at the end of a reply is known to be over only by a later time or by
/// such an empty reply, so this is the latency of the last transaction before a pause; lower costs the
/// server a request more per second and stream.
const AWAIT_TIME: Duration = Duration::from_millis(100);

/// Events per reply: 0.5 to 4 MB with usual documents, which is where replies are cheapest. The server
/// caps a reply at 16 MB in any case.
const EVENTS_PER_REPLY: u32 = 2_000;

/// Replies that wait for the pipeline, besides the limit in bytes. Idle replies are small, hence not one.
const WAITING_REPLIES: usize = 16;

/// Between attempts to reopen, doubled each time, with up to as much again at random. An election takes
/// seconds: longer adds to the lag after it, shorter is load on a server in trouble.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How long a position ahead of the server's clock is put down to a node that lags, before it is taken for
/// a source that was set back in time.
const CLOCK_PATIENCE: Duration = Duration::from_secs(5);

/// What the stream's task is about. For status, never for correctness.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamState {
    Connecting,
    Live,
    /// Reopens by itself; `error` may be shown to anybody.
    Retrying {
        error: String,
        since: Instant,
        attempts: u32,
    },
    /// A terminal error was handed over, or nobody listens any more.
    Ended,
}

/// The receiving end. Dropping it ends the task and kills the cursor.
#[derive(Debug)]
pub struct Stream {
    replies: mpsc::Receiver<Sent>,
    state: watch::Receiver<StreamState>,
}

#[derive(Debug)]
struct Sent {
    reply: Result<Reply, Error>,
    /// Given back when the reply leaves the channel: what the pipeline holds is the pipeline's to limit.
    _budget: Option<OwnedSemaphorePermit>,
}

impl Stream {
    /// The next reply, empty ones included: at least one per 100 ms while the server is reachable. An error
    /// is terminal, `None` follows it; whatever passes is retried here and shows in `state` alone.
    /// Cancel-safe: nothing is lost when this future is dropped.
    pub async fn next(&mut self) -> Option<Result<Reply, Error>> {
        self.replies.recv().await.map(|sent| sent.reply)
    }

    pub fn state(&self) -> watch::Receiver<StreamState> {
        self.state.clone()
    }
}

/// Opens the change stream at `position`, in a task of its own.
pub fn open(client: &Client, scope: Scope, position: Position, manner: Manner) -> Stream {
    let (sender, replies) = mpsc::channel(WAITING_REPLIES);
    let (state_sender, state) = watch::channel(StreamState::Connecting);
    let budget = manner.budget.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize)) as u32;
    let mut task = Task {
        client: client.clone(),
        decoder: Decoder::new(&scope),
        scope,
        position,
        continuity: Continuity::Unbroken,
        detail: Detail::Documents,
        sender: sender.clone(),
        budget: Budget { bytes: budget, semaphore: std::sync::Arc::new(Semaphore::new(budget as usize)) },
        state: state_sender,
        after_loss: manner.after_loss,
        patience: Patience::new(manner.patience),
        pauses: pauses(),
        attempts: 0,
    };
    tokio::spawn(async move {
        tokio::select! {
            () = sender.closed() => {}
            () = task.run() => {}
        }
        task.state.send_replace(StreamState::Ended);
    });
    Stream { replies, state }
}

/// Opens the change stream at the present and closes it: whether the server lets us is known then.
pub(super) async fn probe(client: &Client, scope: &Scope) -> Result<(), Error> {
    let time = server_times(client).await?.majority;
    open_cursor(client, scope, &Position { token: None, time }, Detail::KeysOnly).await.map(drop)
}

async fn open_cursor(
    client: &Client,
    scope: &Scope,
    position: &Position,
    detail: Detail,
) -> Result<RawBatchCursor, Error> {
    let pipeline = pipeline(scope, position, detail)?;
    let (database, collection) = match target(scope)? {
        Target::Collection(namespace) => (namespace.database.as_str(), Some(namespace.collection.as_str())),
        Target::Database(database) => (database, None),
        Target::Deployment => ("admin", None),
    };
    let database = client.database(database);
    let collection = collection.map(|name| database.collection::<Document>(name));
    let aggregate = match &collection {
        Some(collection) => collection.aggregate(pipeline),
        None => database.aggregate(pipeline),
    };
    aggregate
        .read_concern(ReadConcern::majority())
        .max_await_time(AWAIT_TIME)
        .batch_size(EVENTS_PER_REPLY)
        .batch()
        .await
        .map_err(Error::failed(OPEN))
}

/// What is asked of the server for each event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Detail {
    Documents,
    /// For one reply, to get past an event above 16 MB: inserts and replaces become touches.
    KeysOnly,
}

#[derive(Debug)]
struct Budget {
    bytes: u32,
    semaphore: std::sync::Arc<Semaphore>,
}

#[derive(Debug)]
struct Task {
    client: Client,
    scope: Scope,
    decoder: Decoder,
    /// Behind the last reply that was handed over.
    position: Position,
    /// For the next reply.
    continuity: Continuity,
    detail: Detail,
    sender: mpsc::Sender<Sent>,
    budget: Budget,
    state: watch::Sender<StreamState>,
    after_loss: AfterLoss,
    patience: Patience,
    pauses: ExponentialBackoff,
    attempts: u32,
}

/// Why a cursor is done with.
enum End {
    /// The next one begins behind the position, at once.
    Reopen,
    /// The receiver is gone.
    Abandoned,
}

impl Task {
    async fn run(&mut self) {
        loop {
            match self.follow_one_cursor().await {
                Ok(End::Reopen) => {}
                Ok(End::Abandoned) => return,
                Err(error) => {
                    if let Err(error) = self.recover(error).await {
                        let sent = Sent { reply: Err(error), _budget: None };
                        // A receiver that is gone has no use for the error.
                        let _ = self.sender.send(sent).await;
                        return;
                    }
                }
            }
        }
    }

    async fn follow_one_cursor(&mut self) -> Result<End, Error> {
        self.check_clock().await?;
        let opened = Instant::now();
        let opening = open_cursor(&self.client, &self.scope, &self.position, self.detail);
        let mut cursor = self.patience.wait_for(opening).await.map_err(silent(OPEN))??;
        let mut opens_cursor = true;
        loop {
            let batch = self.patience.wait_for(cursor.next()).await.map_err(silent(READ))?;
            let Some(batch) = batch else {
                return Err(Error::Failed { action: READ, fault: Fault::cursor_closed() });
            };
            let batch = batch.map_err(Error::failed(READ))?;
            self.patience.answered();
            let mut decoded = self.decoder.reply(&Bytes::from_owner(OwnedBatch(batch)))?;
            decoded.reply.opens_cursor = std::mem::take(&mut opens_cursor);
            self.note_progress(&decoded, opened);
            let past_large_event = self.detail == Detail::KeysOnly && decoded.received > 0;
            let invalidated = decoded.invalidated;
            if self.hand_over(decoded.reply).await.is_none() {
                return Ok(End::Abandoned);
            }
            if past_large_event {
                self.detail = Detail::Documents;
            }
            if past_large_event || invalidated {
                return Ok(End::Reopen);
            }
        }
    }

    /// ⚠ The server takes a start in the future without a word and sends nothing of what happens until then.
    async fn check_clock(&mut self) -> Result<(), Error> {
        let begun = Instant::now();
        loop {
            let server = self.patience.wait_for(server_times(&self.client)).await.map_err(silent(OPEN))??;
            if self.position.time <= server.cluster {
                return Ok(());
            }
            if begun.elapsed() >= CLOCK_PATIENCE {
                self.reopen_at(server.majority, Continuity::TokenNotFound);
                return Ok(());
            }
            tokio::time::sleep(CLOCK_PATIENCE / 10).await;
        }
    }

    fn reopen_at(&mut self, time: ClusterTime, continuity: Continuity) {
        self.position = Position { token: None, time };
        self.continuity = continuity;
    }

    /// The position is gone for good. One of the present that is refused as well is no position's fault.
    async fn lost(&mut self, error: Error) -> Result<(), Error> {
        if self.after_loss == AfterLoss::End || self.continuity == Continuity::HistoryLost {
            return Err(error);
        }
        let now = server_times(&self.client).await?.majority;
        self.reopen_at(now, Continuity::HistoryLost);
        Ok(())
    }

    /// A cursor that brings the position forward, or lives long, was no failure.
    fn note_progress(&mut self, decoded: &Decoded, opened: Instant) {
        let moved = self.position.token.as_ref() != Some(&decoded.reply.token);
        if self.attempts > 0 && (moved || opened.elapsed() >= LONGEST_PAUSE) {
            self.attempts = 0;
            self.pauses = pauses();
        }
        self.state.send_if_modified(|state| {
            let changed = *state != StreamState::Live;
            *state = StreamState::Live;
            changed
        });
    }

    /// `None` when the receiver is gone. Waits for the pipeline, and with it the cursor does.
    async fn hand_over(&mut self, mut reply: Reply) -> Option<()> {
        let permits = u32::try_from(reply.size).unwrap_or(u32::MAX).min(self.budget.bytes);
        let budget = self.budget.semaphore.clone().acquire_many_owned(permits).await.ok()?;
        reply.continuity = self.continuity;
        let position = Position { token: Some(reply.token.clone()), time: reply.time };
        self.sender.send(Sent { reply: Ok(reply), _budget: Some(budget) }).await.ok()?;
        self.continuity = Continuity::Unbroken;
        self.position = position;
        Some(())
    }

    /// Either the next cursor may be opened now, or the error is terminal.
    async fn recover(&mut self, error: Error) -> Result<(), Error> {
        let Error::Failed { action, fault } = error else { return Err(error) };
        match fault.kind {
            FaultKind::Unreachable | FaultKind::Interrupted => {
                self.pause(action, &fault).await;
                Ok(())
            }
            FaultKind::TooLarge if self.detail == Detail::Documents => {
                self.detail = Detail::KeysOnly;
                Ok(())
            }
            FaultKind::TooLarge => Err(Error::EventTooLarge { fault }),
            // By time, this cannot come a second time.
            FaultKind::TokenNotFound if self.position.token.is_some() => {
                self.reopen_at(self.position.time, Continuity::TokenNotFound);
                Ok(())
            }
            FaultKind::HistoryLost => self.lost(Error::HistoryLost { fault }).await,
            FaultKind::InvalidToken => self.lost(Error::InvalidToken { fault }).await,
            // FailedToParse and Overflow: bytes that are no token at all.
            FaultKind::Unknown
                if action == OPEN && self.position.token.is_some() && matches!(fault.code, Some(9 | 15)) =>
            {
                self.lost(Error::InvalidToken { fault }).await
            }
            FaultKind::TokenNotFound => self.lost(Error::Failed { action, fault }).await,
            FaultKind::Tls
            | FaultKind::Authentication
            | FaultKind::Unauthorized
            | FaultKind::Unsupported
            | FaultKind::Unknown => Err(Error::Failed { action, fault }),
        }
    }

    async fn pause(&mut self, action: &'static str, fault: &Fault) {
        self.attempts = self.attempts.saturating_add(1);
        let attempts = self.attempts;
        self.state.send_modify(|state| {
            let since = match state {
                StreamState::Retrying { since, .. } => *since,
                StreamState::Connecting | StreamState::Live | StreamState::Ended => Instant::now(),
            };
            *state = StreamState::Retrying { error: format!("could not {action}: {fault}"), since, attempts };
        });
        tokio::time::sleep(self.pauses.next().unwrap_or(LONGEST_PAUSE)).await;
    }
}

fn silent(action: &'static str) -> impl Fn(Fault) -> Error {
    move |fault| Error::Failed { action, fault }
}

const OPEN: &str = "open the change stream";
const READ: &str = "read the change stream";

fn pauses() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(SHORTEST_PAUSE)
        .with_max_delay(LONGEST_PAUSE)
        .with_jitter()
        .without_max_times()
        .build()
}

/// What the stream is opened on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target<'a> {
    Collection(&'a Namespace),
    Database(&'a str),
    Deployment,
}

/// The narrowest that covers the scope.
pub(super) fn target(scope: &Scope) -> Result<Target<'_>, Error> {
    let mut databases: Vec<&str> = scope
        .collections
        .iter()
        .map(|namespace| &namespace.database)
        .chain(&scope.discover)
        .map(|s| s.as_str())
        .collect();
    databases.sort_unstable();
    databases.dedup();
    match (databases.as_slice(), scope.collections.as_slice(), &scope.discover) {
        ([], _, _) => Err(Error::Malformed { what: "a scope without collections" }),
        ([_], [namespace], None) => Ok(Target::Collection(namespace)),
        ([database], _, _) => Ok(Target::Database(database)),
        _ => Ok(Target::Deployment),
    }
}

fn pipeline(scope: &Scope, position: &Position, detail: Detail) -> Result<Vec<Document>, Error> {
    let mut stage = match &position.token {
        // Not resumeAfter: that refuses the token of an invalidate.
        Some(token) => doc! { "startAfter": token_document(token)? },
        None => doc! { "startAtOperationTime": bson::Timestamp {
            time: position.time.seconds, increment: position.time.increment,
        } },
    };
    if target(scope)? == Target::Deployment {
        stage.insert("allChangesForCluster", true);
    }
    let mut pipeline = vec![doc! { "$changeStream": stage }];
    if scope.discover.is_none() {
        pipeline.push(doc! { "$match": filter(scope) });
    }
    pipeline.push(doc! { "$project": projection(detail) });
    Ok(pipeline)
}

/// By collection name alone: servers push that down to the oplog, but not a comparison with
/// `{db, coll}`, which is ten times slower. Databases are compared when the event is decoded.
fn filter(scope: &Scope) -> Document {
    let mut names: Vec<&str> =
        scope.collections.iter().map(|namespace| namespace.collection.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    doc! { "$or": [
        { "ns.coll": { "$in": &names } },
        { "to.coll": { "$in": &names } },
        { "operationType": { "$in": ["dropDatabase", "invalidate"] } },
    ] }
}

fn projection(detail: Detail) -> Document {
    let mut fields = doc! { "_id": 1, "operationType": 1, "clusterTime": 1, "ns": 1, "to": 1, "documentKey": 1, "txnNumber": 1, "wallTime": 1 };
    if detail == Detail::Documents {
        fields.insert("fullDocument", 1);
    }
    fields
}

fn token_document(token: &ResumeToken) -> Result<Bson, Error> {
    RawDocument::from_bytes(&token.0)
        .and_then(Document::try_from)
        .map(Bson::Document)
        .map_err(|_| Error::Malformed { what: "the stored resume token" })
}
