//! Listeners: what each behaviour does with a connection, and what the listener remembers of it.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::timeout;
use weft_tests::app::protocol::Identity;
use weft_tests::app::{Behaviour, End, Listen, Opened, Payload, Record, Seen, Sum};

use crate::conn::{STALL, drain, ended, enter, named, send};
use crate::http_server::{self, Here};
use crate::table::{Table, lock};

/// Ended connections remembered.
const RECORDS: usize = 1000;

/// An open listener.
pub(crate) struct Listener {
    socket: TcpListener,
    name: String,
    behaviour: Behaviour,
    closing: Notify,
    accepted: AtomicU64,
    open: AtomicU64,
    requests: Arc<AtomicU64>,
    body_bytes: Arc<AtomicU64>,
    cancelled: Arc<AtomicU64>,
    well: Arc<AtomicU64>,
    seen: Mutex<Seen>,
}

impl Listener {
    pub(crate) fn seen(&self) -> Seen {
        let mut seen = lock(&self.seen).clone();
        seen.accepted = self.accepted.load(Ordering::Relaxed);
        seen.open = self.open.load(Ordering::Relaxed);
        seen.requests = self.requests.load(Ordering::Relaxed);
        seen.body_bytes = self.body_bytes.load(Ordering::Relaxed);
        seen.cancelled = self.cancelled.load(Ordering::Relaxed);
        seen
    }

    /// Nothing is taken from here on, not even what the kernel would still queue until the last who serves is done.
    pub(crate) fn close(&self) -> io::Result<()> {
        self.closing.notify_one();
        SockRef::from(&self.socket).shutdown(Shutdown::Read)
    }
}

/// Opens a listener; yields its number and address.
pub(crate) fn open(table: &Table, listen: Listen) -> Result<(u64, SocketAddr)> {
    let socket = Socket::new(Domain::for_address(listen.address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&listen.address.into()).with_context(|| format!("binding {}", listen.address))?;
    socket.listen(i32::try_from(listen.backlog)?)?;
    let socket = TcpListener::from_std(socket.into())?;
    let address = socket.local_addr()?;
    let accepts = !matches!(listen.behaviour, Behaviour::Manual | Behaviour::Deaf);
    let listener = Arc::new(Listener {
        socket,
        name: listen.name,
        behaviour: listen.behaviour,
        closing: Notify::new(),
        accepted: AtomicU64::new(0),
        open: AtomicU64::new(0),
        requests: Arc::default(),
        body_bytes: Arc::default(),
        cancelled: Arc::default(),
        well: Arc::new(AtomicU64::new(200)),
        seen: Mutex::default(),
    });
    if accepts {
        tokio::spawn(accept_all(listener.clone()));
    }
    Ok((table.add_listener(listener), address))
}

/// Takes one connection of a `Manual` listener.
pub(crate) async fn accept(table: &Table, number: u64) -> Result<Opened> {
    let listener = table.listener(number)?;
    let start = Instant::now();
    let (stream, peer) = timeout(STALL, listener.socket.accept()).await.context("no connection came")??;
    listener.accepted.fetch_add(1, Ordering::Relaxed);
    lock(&listener.seen).peers.insert(peer.ip().to_canonical());
    enter(table, stream, start)
}

async fn accept_all(listener: Arc<Listener>) {
    loop {
        let accepted = tokio::select! {
            () = listener.closing.notified() => return,
            accepted = listener.socket.accept() => accepted,
        };
        let Ok((stream, peer)) = accepted else {
            // Out of descriptors: let some connections end first.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        listener.accepted.fetch_add(1, Ordering::Relaxed);
        listener.open.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(serve(listener.clone(), stream, peer));
    }
}

async fn serve(listener: Arc<Listener>, stream: TcpStream, peer: SocketAddr) {
    lock(&listener.seen).peers.insert(peer.ip().to_canonical());
    let local = stream.local_addr().unwrap_or(peer);
    let outcome = behave(&listener, stream, peer, local).await;
    let (received, end) = outcome.unwrap_or((Sum::default(), End::Reset));
    listener.open.fetch_sub(1, Ordering::Relaxed);
    let mut seen = lock(&listener.seen);
    if seen.records.len() == RECORDS {
        seen.records.remove(0);
    }
    seen.records.push(Record { peer: canonical(peer), local: canonical(local), received, end });
}

async fn behave(listener: &Listener, stream: TcpStream, peer: SocketAddr, local: SocketAddr) -> Result<(Sum, End)> {
    stream.set_nodelay(true)?;
    let behaviour = &listener.behaviour;
    if *behaviour == Behaviour::Rst {
        return reset_after_a_byte(stream).await;
    }
    if *behaviour == Behaviour::Http {
        let number = listener.accepted.load(Ordering::Relaxed);
        let here = Here {
            name: listener.name.as_str().into(),
            connection: number,
            peer: canonical(peer),
            requests: Arc::clone(&listener.requests),
            body_bytes: Arc::clone(&listener.body_bytes),
            cancelled: Arc::clone(&listener.cancelled),
            well: Arc::clone(&listener.well),
        };
        http_server::serve(here, stream).await?;
        return Ok((Sum::default(), End::Fin));
    }
    let (mut read, mut write) = stream.into_split();
    match behaviour {
        Behaviour::Identify | Behaviour::Slow { .. } => {
            if let Behaviour::Slow { delay_ms } = behaviour {
                tokio::time::sleep(Duration::from_millis(*delay_ms)).await;
            }
            let identity = Identity { name: listener.name.clone(), peer: canonical(peer), local: canonical(local) };
            identify(&mut read, &mut write, &identity).await
        }
        Behaviour::Echo => echo(&mut read, &mut write).await,
        Behaviour::Greet => {
            write.write_all(format!("{}\n", listener.name).as_bytes()).await?;
            echo(&mut read, &mut write).await
        }
        Behaviour::Digest => {
            let (sum, end) = drain(&mut read).await?;
            write.write_all(format!("{} {:x}\n", sum.length, sum.value).as_bytes()).await?;
            write.shutdown().await?;
            Ok((sum, end))
        }
        Behaviour::Source(payload) => source(&mut read, &mut write, payload).await,
        Behaviour::Stall => {
            // Never reads; the connection stays until the process ends or the peer resets it.
            std::future::pending::<()>().await;
            Ok((Sum::default(), End::Fin))
        }
        Behaviour::Http | Behaviour::Rst | Behaviour::Manual | Behaviour::Deaf => Ok((Sum::default(), End::Fin)),
    }
}

async fn reset_after_a_byte(mut stream: TcpStream) -> Result<(Sum, End)> {
    let mut byte = [0];
    let taken = stream.read(&mut byte).await?;
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    let mut sum = Sum::default();
    sum.add(&byte[..taken]);
    Ok((sum, End::Reset))
}

async fn identify(read: &mut OwnedReadHalf, write: &mut OwnedWriteHalf, identity: &Identity) -> Result<(Sum, End)> {
    let answer = serde_json::to_string(identity)? + "\n";
    each_read(read, write, |bytes| {
        let lines = bytes.iter().filter(|&&byte| byte == b'\n').count();
        answer.repeat(lines).into_bytes()
    })
    .await
}

async fn echo(read: &mut OwnedReadHalf, write: &mut OwnedWriteHalf) -> Result<(Sum, End)> {
    each_read(read, write, <[u8]>::to_vec).await
}

/// Answers every read, and FIN by FIN. Idle connections hold a small buffer only: a lab keeps ten thousand of them.
async fn each_read(
    read: &mut OwnedReadHalf,
    write: &mut OwnedWriteHalf,
    answer: impl Fn(&[u8]) -> Vec<u8>,
) -> Result<(Sum, End)> {
    let mut sum = Sum::default();
    loop {
        read.readable().await?;
        let mut buffer = Vec::with_capacity(65_536);
        match read.try_read_buf(&mut buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            got => match ended(got)? {
                Ok(_) => {
                    sum.add(&buffer);
                    write.write_all(&answer(&buffer)).await.map_err(named)?;
                }
                Err(end) => {
                    if end == End::Fin {
                        write.shutdown().await?;
                    }
                    return Ok((sum, end));
                }
            },
        }
    }
}

async fn source(read: &mut OwnedReadHalf, write: &mut OwnedWriteHalf, payload: &Payload) -> Result<(Sum, End)> {
    let sending = async {
        send(write, payload, 65_536).await?;
        write.shutdown().await.map_err(named)
    };
    let ((), read) = tokio::try_join!(sending, drain(read))?;
    Ok(read)
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
