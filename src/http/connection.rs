//! Connections that cannot be held for ever: an operator's port must answer the next probe whatever
//! the last client did.

use std::future::Future;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::serve;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep};

/// Open at once; a further client takes the place of the one that is idle for longest. A person, a few
/// probes and scrapers need ten.
const CONNECTIONS: usize = 64;

/// From the opening to the first byte of the first answer, which comes as soon as the request is complete.
const FIRST_PATIENCE: Duration = Duration::from_secs(5);

/// From the last byte of an answer to the first byte of the next. A client that has not finished its
/// request by then, and one that does not take its answer, is let go. Above the usual scrape interval of
/// 15 s, so that connections are kept.
const PATIENCE: Duration = Duration::from_secs(30);

/// Of one request, headers and body: a list of some hundred keys.
const REQUEST_BYTES: usize = 16 * 1024;

pub(super) struct Listener {
    tcp: TcpListener,
    places: Places,
}

impl Listener {
    pub(super) fn new(tcp: TcpListener) -> Self {
        Self { tcp, places: Places::default() }
    }
}

impl serve::Listener for Listener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        // Never waits for a place: a probe must be answered although others sit idle.
        let (stream, address) = serve::Listener::accept(&mut self.tcp).await;
        (Connection::new(stream, self.places.take()), address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

/// The open connections, as the listener knows them.
#[derive(Default)]
struct Places {
    taken: Vec<Taken>,
    /// Counts openings and answers: who has the lower number is idle for longer.
    turns: Arc<AtomicU64>,
}

struct Taken {
    last_turn: Arc<AtomicU64>,
    /// Dropped to end the connection; closed once the connection has ended by itself.
    end: oneshot::Sender<()>,
}

/// A connection's side of its place.
struct Place {
    turns: Arc<AtomicU64>,
    last_turn: Arc<AtomicU64>,
    ended: oneshot::Receiver<()>,
}

impl Places {
    /// A place for a new connection. If there is none, the connection that is idle for longest ends.
    fn take(&mut self) -> Place {
        self.taken.retain(|taken| !taken.end.is_closed());
        if self.taken.len() >= CONNECTIONS {
            let turn = |taken: &Taken| taken.last_turn.load(Ordering::Relaxed);
            let longest = self.taken.iter().enumerate().min_by_key(|(_, taken)| turn(taken));
            if let Some((index, _)) = longest {
                self.taken.swap_remove(index);
            }
        }
        let (end, ended) = oneshot::channel();
        let place = Place { turns: Arc::clone(&self.turns), last_turn: Arc::default(), ended };
        place.is_used();
        self.taken.push(Taken { last_turn: Arc::clone(&place.last_turn), end });
        place
    }
}

impl Place {
    fn is_used(&self) {
        self.last_turn.store(self.turns.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
    }

    fn has_ended(&mut self, context: &mut Context<'_>) -> bool {
        // Terminated: it was seen to have ended before, and must not be polled again.
        self.ended.is_terminated() || Pin::new(&mut self.ended).poll(context).is_ready()
    }
}

pub(super) struct Connection {
    stream: TcpStream,
    patience: Pin<Box<Sleep>>,
    /// Since the last answer.
    read: usize,
    place: Place,
}

impl Connection {
    fn new(stream: TcpStream, place: Place) -> Self {
        let patience = Box::pin(tokio::time::sleep(FIRST_PATIENCE));
        Self { stream, patience, read: 0, place }
    }

    fn is_over(&mut self, context: &mut Context<'_>) -> bool {
        self.read > REQUEST_BYTES
            || self.patience.as_mut().poll(context).is_ready()
            || self.place.has_ended(context)
    }

    fn answered(&mut self, written: &io::Result<usize>) {
        if matches!(written, Ok(1..)) {
            self.read = 0;
            self.patience.as_mut().reset(Instant::now() + PATIENCE);
            self.place.is_used();
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_over(context) {
            // As if the client had closed: no error for anybody's log.
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        self.read += buffer.filled().len() - before;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.finish_write(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.finish_write(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Connection {
    fn finish_write(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(written) => {
                self.answered(&written);
                Poll::Ready(written)
            }
            Poll::Pending if self.is_over(context) => Poll::Ready(Err(ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}
