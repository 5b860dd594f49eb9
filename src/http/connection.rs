//! Connections that cannot be held for ever: an operator's port must answer the next probe whatever
//! the last client did.

use std::future::Future;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::serve;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

/// Open at once; further clients wait in the backlog. A person, a few probes and scrapers need ten.
const CONNECTIONS: usize = 64;

/// From the last byte of an answer (or the opening) to the first byte of the next. A client that has not
/// finished its request by then, and one that does not take its answer, is let go. Above the usual
/// scrape interval of 15 s, so that connections are kept.
const PATIENCE: Duration = Duration::from_secs(30);

/// Of one request, headers and body: none of ours needs a body.
const REQUEST_BYTES: usize = 16 * 1024;

pub(super) struct Listener {
    tcp: TcpListener,
    places: Arc<Semaphore>,
}

impl Listener {
    pub(super) fn new(tcp: TcpListener) -> Self {
        Self { tcp, places: Arc::new(Semaphore::new(CONNECTIONS)) }
    }
}

impl serve::Listener for Listener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        // The semaphore is never closed; without a place the connection is merely not counted.
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        let (stream, address) = serve::Listener::accept(&mut self.tcp).await;
        (Connection::new(stream, place), address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

pub(super) struct Connection {
    stream: TcpStream,
    patience: Pin<Box<Sleep>>,
    /// Since the last answer.
    read: usize,
    _place: Option<OwnedSemaphorePermit>,
}

impl Connection {
    fn new(stream: TcpStream, place: Option<OwnedSemaphorePermit>) -> Self {
        let patience = Box::pin(tokio::time::sleep(PATIENCE));
        Self { stream, patience, read: 0, _place: place }
    }

    fn is_over(&mut self, context: &mut Context<'_>) -> bool {
        self.read > REQUEST_BYTES || self.patience.as_mut().poll(context).is_ready()
    }

    fn answered(&mut self, written: &io::Result<usize>) {
        if matches!(written, Ok(1..)) {
            self.read = 0;
            self.patience.as_mut().reset(Instant::now() + PATIENCE);
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
