//! A network that misbehaves on demand: a TCP proxy between a daemon and a server.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What the network does to all of its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Weather {
    Fair,
    /// Everything arrives, in small pieces, one after the other.
    Drip,
    /// Nothing arrives, and everything will once it is over.
    Stall,
    /// Nothing arrives, and nothing of it ever will: both ends believe in their connection. Once it is over,
    /// those connections are reset.
    Swallow,
    /// Connections are closed, and new ones closed at once.
    Cut,
}

/// Of a slow drip: about 100 kB in a second, far below what any batch takes.
const PIECE: usize = 512;
const BETWEEN_PIECES: Duration = Duration::from_millis(5);

/// In a request for the next reply of a cursor.
const NEXT_REPLY: &[u8] = b"getMore\0";

/// Dropping it closes everything.
#[derive(Debug)]
pub(crate) struct Proxy {
    address: SocketAddr,
    network: Arc<Network>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Network {
    server: String,
    weather: watch::Sender<Weather>,
    /// Connections with a smaller number lead nowhere any more; their ends are not told.
    stranded: watch::Sender<usize>,
    /// The one connection that leads nowhere any more while all others live.
    forgotten: watch::Sender<Option<usize>>,
    /// The connection that last asked for the next reply of a MongoDB cursor.
    following: AtomicUsize,
    /// By the port from which the server sees each connection.
    ports: Mutex<HashMap<u16, usize>>,
    opened: AtomicUsize,
    /// Bytes towards the server until a connection is reset; below zero: never.
    until_reset: AtomicI64,
    resets: watch::Sender<usize>,
}

impl Proxy {
    /// In front of `server`, which is `host:port`.
    pub(crate) async fn start(server: &str) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", super::servers::free_port()?)).await?;
        let address = listener.local_addr()?;
        let network = Arc::new(Network {
            server: server.to_owned(),
            weather: watch::Sender::new(Weather::Fair),
            stranded: watch::Sender::new(0),
            forgotten: watch::Sender::new(None),
            following: AtomicUsize::new(0),
            ports: Mutex::default(),
            opened: AtomicUsize::new(0),
            until_reset: AtomicI64::new(-1),
            resets: watch::Sender::new(0),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&network)));
        Ok(Self { address, network, accepting })
    }

    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn weather(&self, weather: Weather) {
        self.network.weather.send_replace(weather);
    }

    /// A firewall forgets all connections of now: they lead nowhere, and nobody is told. New ones work.
    pub(crate) fn strand(&self) {
        self.network.stranded.send_replace(self.network.opened.load(Ordering::SeqCst));
    }

    /// As `strand`, of the connection alone that follows a MongoDB cursor.
    pub(crate) fn strand_the_follower(&self) {
        self.network.forgotten.send_replace(Some(self.network.following.load(Ordering::SeqCst)));
    }

    /// As `strand`, of the connection alone that the server sees as coming from `port`.
    pub(crate) fn strand_from(&self, port: u16) -> Result<()> {
        let ports = self.network.ports.lock().map_err(|_| anyhow::anyhow!("somebody panicked"))?;
        let number = *ports.get(&port).context("no connection of this port")?;
        self.network.forgotten.send_replace(Some(number));
        Ok(())
    }

    /// So many bytes on the way to the server from now on, and the connection that carries the last of them is
    /// reset on both sides. Once.
    pub(crate) fn reset_after(&self, bytes: i64) {
        self.network.until_reset.store(bytes, Ordering::SeqCst);
    }

    /// How many connections were reset, as it grows.
    pub(crate) fn resets(&self) -> watch::Receiver<usize> {
        self.network.resets.subscribe()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        // Wakes whoever waits for better weather, and closes.
        self.network.weather.send_replace(Weather::Cut);
    }
}

async fn accept(listener: TcpListener, network: Arc<Network>) {
    // An error of accept is one of the connection's.
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        let number = network.opened.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(carry(client, number, Arc::clone(&network)));
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    ToServer,
    ToClient,
}

/// How a way ends.
enum End {
    /// One end has closed, or cannot be written to.
    Closed,
    Reset,
    /// Nothing goes through any more, and nobody is told.
    Dead,
}

async fn carry(mut client: TcpStream, number: usize, network: Arc<Network>) {
    let Some(mut server) = open(&network).await else { return };
    if let (Ok(address), Ok(mut ports)) = (server.local_addr(), network.ports.lock()) {
        ports.insert(address.port(), number);
    }
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let mut weather = network.weather.subscribe();
    let end = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        tokio::select! {
            end = carry_one_way(from_client, to_server, &network, number, Way::ToServer) => end,
            end = carry_one_way(from_server, to_client, &network, number, Way::ToClient) => end,
            _ = weather.wait_for(|weather| *weather == Weather::Cut) => Ok(End::Closed),
        }
    };
    match end {
        Ok(End::Closed) | Err(_) => {}
        Ok(End::Reset) => {
            reset(&client);
            reset(&server);
            network.resets.send_modify(|count| *count += 1);
        }
        Ok(End::Dead) => {
            // Both sockets stay open and unread for as long as the network is bad, or the stranding lasts.
            let over = |weather: &Weather| *weather == Weather::Cut;
            let over_swallow = |weather: &Weather| *weather != Weather::Swallow;
            let stranded = number < *network.stranded.borrow() || *network.forgotten.borrow() == Some(number);
            let _ = match stranded {
                true => weather.wait_for(over).await,
                false => weather.wait_for(over_swallow).await,
            };
            reset(&client);
            reset(&server);
        }
    }
}

/// The way to the server, once the weather lets somebody through.
async fn open(network: &Network) -> Option<TcpStream> {
    let mut weather = network.weather.subscribe();
    // A swallowed connection attempt of a real network is answered by nobody; here the kernel has answered it.
    let passable = weather.wait_for(|weather| !matches!(weather, Weather::Stall | Weather::Swallow)).await;
    if *passable.ok()? == Weather::Cut {
        return None;
    }
    TcpStream::connect(&network.server).await.ok()
}

/// The peer is told at once, and whatever was on its way is thrown away.
fn reset(stream: &TcpStream) {
    // One that is gone already cannot be reset.
    let _ = stream.set_zero_linger();
}

async fn carry_one_way(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    network: &Network,
    number: usize,
    way: Way,
) -> io::Result<End> {
    let mut weather = network.weather.subscribe();
    let mut stranded = network.stranded.subscribe();
    let mut forgotten = network.forgotten.subscribe();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read?,
            _ = stranded.wait_for(|until| number < *until) => return Ok(End::Dead),
            _ = forgotten.wait_for(|forgotten| *forgotten == Some(number)) => return Ok(End::Dead),
            _ = weather.wait_for(|weather| *weather == Weather::Swallow) => return Ok(End::Dead),
        };
        if read == 0 {
            return Ok(End::Closed);
        }
        let mut bytes = &buffer[..read];
        if way == Way::ToServer && bytes.windows(NEXT_REPLY.len()).any(|window| window == NEXT_REPLY) {
            network.following.store(number, Ordering::SeqCst);
        }
        if way == Way::ToServer
            && let Some(left) = network.reset_comes(read)
        {
            to.write_all(&bytes[..left]).await?;
            return Ok(End::Reset);
        }
        while !bytes.is_empty() {
            let now = *weather.borrow_and_update();
            match now {
                Weather::Fair => {
                    to.write_all(bytes).await?;
                    bytes = &[];
                }
                Weather::Drip => {
                    let (piece, rest) = bytes.split_at(PIECE.min(bytes.len()));
                    to.write_all(piece).await?;
                    bytes = rest;
                    tokio::time::sleep(BETWEEN_PIECES).await;
                }
                Weather::Stall => {
                    // The sender lives as long as the network.
                    let _ = weather.changed().await;
                }
                Weather::Swallow => return Ok(End::Dead),
                Weather::Cut => return Ok(End::Closed),
            }
        }
    }
}

impl Network {
    /// Counts what goes to the server; how much of it still does, if the connection is to be reset now.
    fn reset_comes(&self, bytes: usize) -> Option<usize> {
        let bytes = i64::try_from(bytes).ok()?;
        let before = self
            .until_reset
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                (left >= 0).then(|| if left <= bytes { -1 } else { left - bytes })
            })
            .ok()?;
        (before <= bytes).then(|| usize::try_from(before).unwrap_or(0))
    }
}
