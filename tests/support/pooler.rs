//! A pooler between a daemon and PostgreSQL, as PgBouncer is: it gives the server's connections to whole sessions,
//! or to single transactions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

/// Whom a connection of the server is given to, and until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pooling {
    /// To one client for as long as that is there.
    Session,
    /// To whoever has something to ask, until `ReadyForQuery` says that no transaction is open.
    Transaction,
}

/// Dropping it closes everything.
#[derive(Debug)]
pub(crate) struct Pooler {
    address: String,
    pool: Arc<Pool>,
    accepting: JoinHandle<()>,
}

/// To servers that ask for no password.
#[derive(Debug)]
struct Pool {
    server: String,
    by_transaction: AtomicBool,
    /// The one that came back last is given out first.
    idle: Mutex<Vec<Backend>>,
    /// Times that a connection went to another client than it served before.
    handed_over: AtomicUsize,
    clients: AtomicUsize,
}

/// A session of the server.
#[derive(Debug)]
struct Backend {
    /// The client that it served last.
    client: usize,
    reading: Messages<OwnedReadHalf>,
    writing: OwnedWriteHalf,
    /// What the server said at its beginning.
    greeting: Vec<u8>,
}

impl Pooler {
    /// In front of `server`, which is `host:port`.
    pub(crate) async fn start(server: &str, pooling: Pooling) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", super::servers::free_port()?)).await?;
        let address = listener.local_addr()?.to_string();
        let pool = Arc::new(Pool {
            server: server.to_owned(),
            by_transaction: AtomicBool::new(pooling == Pooling::Transaction),
            idle: Mutex::default(),
            handed_over: AtomicUsize::new(0),
            clients: AtomicUsize::new(0),
        });
        let pool_of_all = Arc::clone(&pool);
        let accepting = tokio::spawn(async move {
            // An error of accept is one of the connection's, and one of serving the client's.
            loop {
                let Ok((client, _)) = listener.accept().await else { continue };
                let pool = Arc::clone(&pool_of_all);
                tokio::spawn(async move { pool.serve(client).await });
            }
        });
        Ok(Self { address, pool, accepting })
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// From the next transaction on.
    pub(crate) fn pools(&self, pooling: Pooling) {
        self.pool.by_transaction.store(pooling == Pooling::Transaction, Ordering::SeqCst);
    }

    pub(crate) fn handed_over(&self) -> usize {
        self.pool.handed_over.load(Ordering::SeqCst)
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Pool {
    async fn serve(&self, client: TcpStream) -> Result<()> {
        client.set_nodelay(true)?;
        let (mut reading, mut writing) = client.into_split();
        let startup = startup(&mut reading).await?;
        if let Some(refused) = unknown_parameter(&startup) {
            // As PgBouncer says it.
            let text = format!("SFATAL\0C08P01\0Munsupported startup parameter: {refused}\0\0");
            writing.write_all(&message(b'E', text.as_bytes())).await?;
            return Ok(());
        }
        let number = self.clients.fetch_add(1, Ordering::SeqCst);
        let mut backend = self.backend(&startup, number).await?;
        writing.write_all(&backend.greeting).await?;
        let mut asking = Messages::new(reading);
        let mut held = Some(backend);
        loop {
            if self.by_transaction.load(Ordering::SeqCst) {
                self.give_back(held.take()).await;
            }
            // Only now does it need a connection.
            let Some(first) = asking.next().await? else { break };
            if first[0] == b'X' {
                break;
            }
            backend = match held.take() {
                Some(backend) => backend,
                None => self.backend(&startup, number).await?,
            };
            if !one_transaction(&mut asking, &mut writing, &mut backend, first).await? {
                // The client is gone in the middle of something: so is the server's session.
                return Ok(());
            }
            held = Some(backend);
        }
        if let Some(mut backend) = held {
            backend.discard_all().await?;
            self.give_back(Some(backend)).await;
        }
        Ok(())
    }

    async fn give_back(&self, backend: Option<Backend>) {
        self.idle.lock().await.extend(backend);
    }

    async fn backend(&self, startup: &[u8], client: usize) -> Result<Backend> {
        if let Some(mut backend) = self.idle.lock().await.pop() {
            if backend.client != client {
                self.handed_over.fetch_add(1, Ordering::SeqCst);
                backend.client = client;
            }
            return Ok(backend);
        }
        let server = TcpStream::connect(&self.server).await?;
        server.set_nodelay(true)?;
        let (reading, mut writing) = server.into_split();
        writing.write_all(startup).await?;
        let mut reading = Messages::new(reading);
        let mut greeting = Vec::new();
        loop {
            let message = reading.next().await?.context("the server hung up")?;
            ensure!(message[0] != b'E', "the server refuses: {}", String::from_utf8_lossy(&message));
            greeting.extend_from_slice(&message);
            if message[0] == b'Z' {
                break;
            }
        }
        Ok(Backend { client, reading, writing, greeting })
    }
}

impl Backend {
    async fn discard_all(&mut self) -> Result<()> {
        self.writing.write_all(&message(b'Q', b"discard all\0")).await?;
        while self.reading.next().await?.context("the server hung up")?[0] != b'Z' {}
        Ok(())
    }
}

/// Both ways until no transaction is open and nothing that was asked is unanswered. `false`: the client is gone.
async fn one_transaction(
    asking: &mut Messages<OwnedReadHalf>,
    writing: &mut OwnedWriteHalf,
    backend: &mut Backend,
    first: Vec<u8>,
) -> Result<bool> {
    // `Query`, `Sync` and `FunctionCall` are answered by one `ReadyForQuery` each.
    let asks = |message: &[u8]| usize::from(matches!(message[0], b'Q' | b'S' | b'F'));
    let mut unanswered = asks(&first);
    backend.writing.write_all(&first).await?;
    loop {
        tokio::select! {
            asked = asking.next() => {
                let Some(asked) = asked? else { return Ok(false) };
                if asked[0] == b'X' {
                    return Ok(false);
                }
                unanswered += asks(&asked);
                backend.writing.write_all(&asked).await?;
            }
            answer = backend.reading.next() => {
                let answer = answer?.context("the server hung up")?;
                writing.write_all(&answer).await?;
                if answer[0] == b'Z' {
                    unanswered = unanswered.saturating_sub(1);
                    if unanswered == 0 && answer.last() == Some(&b'I') {
                        return Ok(true);
                    }
                }
            }
        }
    }
}

/// Whole messages, each with its type and length.
#[derive(Debug)]
struct Messages<R> {
    from: R,
    buffer: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Messages<R> {
    fn new(from: R) -> Self {
        Self { from, buffer: Vec::new() }
    }

    /// `None` at the end. Cancel-safe: what was read stays in the buffer.
    async fn next(&mut self) -> Result<Option<Vec<u8>>> {
        loop {
            if let Some(length) = self.buffer.get(1..5) {
                let length = 1 + usize::try_from(i32::from_be_bytes(length.try_into()?))?;
                if self.buffer.len() >= length {
                    return Ok(Some(self.buffer.drain(..length).collect()));
                }
            }
            if self.from.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }
}

/// The client's first message, which has no type. TLS is declined.
async fn startup(reading: &mut OwnedReadHalf) -> Result<Vec<u8>> {
    let length = reading.read_i32().await?;
    let mut startup = length.to_be_bytes().to_vec();
    startup.resize(usize::try_from(length)?, 0);
    reading.read_exact(&mut startup[4..]).await?;
    if startup.len() == 8 {
        bail!("tests connect with sslmode=disable");
    }
    Ok(startup)
}

/// What PgBouncer does not know and, left as it is, does not take.
fn unknown_parameter(startup: &[u8]) -> Option<String> {
    const KNOWN: [&str; 7] = [
        "user",
        "database",
        "application_name",
        "client_encoding",
        "DateStyle",
        "TimeZone",
        "standard_conforming_strings",
    ];
    let texts: Vec<_> = startup[8..].split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
    let names = texts.iter().step_by(2).filter(|name| !name.is_empty());
    names.map(|name| name.to_string()).find(|name| !KNOWN.contains(&name.as_str()))
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = i32::try_from(body.len() + 4).expect("a short message");
    [&[kind], &length.to_be_bytes()[..], body].concat()
}
