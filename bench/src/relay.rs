//! A plain relay: what any pair of proxies costs that looks at nothing, encrypts nothing and logs nothing.
//!
//! The floor Weft is measured against, so it is made as fast as bytes can go through user space: one scratch buffer a worker,
//! written on at once; nothing is allocated for a connection that keeps up. Workers are current-thread runtimes with a
//! listener each in one SO_REUSEPORT group. It does not splice: what is encrypted must come through user space, and a floor
//! that no proxy with TLS can stand on would say nothing.

use std::cell::RefCell;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::load::socket::{make_room, reason};

/// Bytes read at once, and in one turn: after as many, every other connection has its turn. Of 32 KiB to 256 KiB in one to
/// eight reads this took the least CPU per byte and let echoes beside bulk wait least. tokio's own budget for a turn, 128
/// reads, is what makes them wait for hundreds of milliseconds.
const SCRATCH: usize = 256 * 1024;

/// Room for ten thousand connections, each of two sockets, and as many that come and go.
const DESCRIPTORS: u64 = 65_536;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; SCRATCH]);
}

/// Relays from `listen` to `upstream` for ever, on `workers` threads.
///
/// # Errors
/// When the address cannot be bound.
pub fn run(listen: SocketAddr, upstream: SocketAddr, workers: usize) -> io::Result<()> {
    make_room(DESCRIPTORS)?;
    let others = (1..workers)
        .map(|_| std::thread::Builder::new().name("worker".into()).spawn(move || work(listen, upstream)))
        .collect::<io::Result<Vec<_>>>()?;
    work(listen, upstream)?;
    others.into_iter().try_for_each(|other| other.join().map_err(|_| io::Error::other("a worker panicked"))?)
}

fn work(listen: SocketAddr, upstream: SocketAddr) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let socket = if listen.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.set_reuseport(true)?;
        socket.bind(listen)?;
        serve(socket.listen(4096)?, upstream).await
    })
}

/// Relays every connection of a listener.
///
/// # Errors
/// When the listener fails.
pub async fn serve(listener: TcpListener, upstream: SocketAddr) -> io::Result<()> {
    loop {
        let (client, _) = listener.accept().await?;
        tokio::spawn(async move {
            if let Err(error) = pass(client, upstream).await {
                eprintln!("a connection broke: {}", reason(&error));
            }
        });
    }
}

async fn pass(client: TcpStream, upstream: SocketAddr) -> io::Result<()> {
    client.set_nodelay(true)?;
    let server = TcpStream::connect(upstream).await?;
    server.set_nodelay(true)?;
    let (mut there, mut back) = (Direction::default(), Direction::default());
    while !(there.done && back.done) {
        let turn = std::future::poll_fn(|context| {
            let turns = [there.poll(context, &client, &server)?, back.poll(context, &server, &client)?];
            // It is over for now when one direction has had its turn, or neither has anything left to do.
            let over = turns.contains(&Poll::Ready(Turn::Over)) || turns.iter().all(Poll::is_ready);
            if over { Poll::Ready(io::Result::Ok(())) } else { Poll::Pending }
        });
        turn.await?;
        // Unlike a task that wakes itself, one that yields lets the runtime look at its sockets first.
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// Why a direction stopped without waiting for a socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Turn {
    /// It has had its turn and has more to do.
    Over,
    /// It has ended.
    Ended,
}

/// One direction of a connection.
#[derive(Default)]
struct Direction {
    /// What the receiver had no room for, and how much of it has gone since.
    left: Vec<u8>,
    gone: usize,
    ended: bool,
    done: bool,
}

impl Direction {
    /// Moves bytes until there are none, no room, or the turn is over.
    fn poll(&mut self, context: &mut Context<'_>, from: &TcpStream, to: &TcpStream) -> Poll<io::Result<Turn>> {
        let mut moved = 0;
        while !self.done {
            if self.gone < self.left.len() {
                ready!(to.poll_write_ready(context))?;
                match to.try_write(&self.left[self.gone..]) {
                    Ok(n) => self.gone += n,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Poll::Ready(Err(error)),
                }
            } else if self.ended {
                // The receiver may have gone meanwhile; then there is nobody to tell.
                let _ = SockRef::from(to).shutdown(Shutdown::Write);
                self.done = true;
            } else {
                if moved >= SCRATCH {
                    return Poll::Ready(Ok(Turn::Over));
                }
                ready!(from.poll_read_ready(context))?;
                moved += BUFFER.with_borrow_mut(|buffer| self.carry(buffer, from, to))?;
            }
        }
        Poll::Ready(Ok(Turn::Ended))
    }

    /// Reads once and writes it on; keeps what the receiver does not take. Yields how much was read.
    fn carry(&mut self, buffer: &mut [u8], from: &TcpStream, to: &TcpStream) -> io::Result<usize> {
        let read = match from.try_read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            read => read?,
        };
        self.ended = read == 0;
        let written = match to.try_write(&buffer[..read]) {
            _ if read == 0 => 0,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            written => written?,
        };
        self.left.clear();
        self.left.extend_from_slice(&buffer[written..read]);
        self.gone = 0;
        Ok(read)
    }
}
