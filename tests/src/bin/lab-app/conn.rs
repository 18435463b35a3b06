//! One connection, driven by commands from either side of it: opened here or taken from a listener.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::socket::{self as nix_socket, MsgFlags, sockopt};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::os::fd::AsRawFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Mutex;
use tokio::time::timeout;
use weft_tests::app::frames::{flag, kind};
use weft_tests::app::{End, Exchanged, Frame, Frames, Opened, Options, Payload, Received, Sent, Sum, Until};

use crate::table::Table;

/// A read or write that makes no progress for so long has stalled.
pub(crate) const STALL: Duration = Duration::from_secs(10);
/// Most text an answer carries.
const TEXT: usize = 65_536;

/// A connection; its halves are locked apart, so that a blocked read does not hold up a write.
pub(crate) struct Conn {
    read: Mutex<OwnedReadHalf>,
    write: Mutex<OwnedWriteHalf>,
}

/// Opens a connection and enters it in the table.
pub(crate) async fn open(table: &Table, to: SocketAddr, options: &Options) -> Result<Opened> {
    let start = Instant::now();
    let stream = connect(to, options).await.map_err(named)?;
    enter(table, stream, start)
}

/// Dissolves the association and connects the same socket anew: blocking calls on a duplicate, as an app would do.
pub(crate) async fn reconnect(table: &Table, number: u64, to: SocketAddr) -> Result<Opened> {
    let start = Instant::now();
    let conn = std::sync::Arc::into_inner(table.take(number)?).context("the connection is in use")?;
    let stream = conn.read.into_inner().reunite(conn.write.into_inner())?.into_std()?;
    let stream = tokio::task::spawn_blocking(move || -> Result<std::net::TcpStream> {
        let socket = Socket::from(stream);
        socket.set_nonblocking(false)?;
        rustix::net::connect_unspec(&socket).context("dissolving the association")?;
        socket.connect_timeout(&SockAddr::from(to), STALL).map_err(named)?;
        Ok(socket.into())
    })
    .await??;
    stream.set_nonblocking(true)?;
    let stream = TcpStream::from_std(stream)?;
    let opened =
        Opened { conn: number, local: stream.local_addr()?, peer: stream.peer_addr()?, took_ms: elapsed(start) };
    table.put_back(number, Conn::new(stream)?);
    Ok(opened)
}

/// Enters a connected stream in the table.
pub(crate) fn enter(table: &Table, stream: TcpStream, since: Instant) -> Result<Opened> {
    let (local, peer) = (stream.local_addr()?, stream.peer_addr().map_err(named)?);
    let conn = table.add_conn(Conn::new(stream)?);
    Ok(Opened { conn, local, peer, took_ms: elapsed(since) })
}

/// Connects as the options say; plain ones the way any tokio program does.
pub(crate) async fn connect(to: SocketAddr, options: &Options) -> io::Result<TcpStream> {
    let deadline = Duration::from_millis(options.deadline_ms);
    let protocol = if options.mptcp { Protocol::MPTCP } else { Protocol::TCP };
    let socket = Socket::new(Domain::for_address(to), Type::STREAM.nonblocking(), Some(protocol))?;
    socket.set_reuse_address(options.reuse_address)?;
    if let Some(device) = &options.device {
        socket.bind_device(Some(device.as_bytes()))?;
    }
    if let Some(size) = options.receive_buffer {
        socket.set_recv_buffer_size(size)?;
    }
    if options.fast_open {
        nix_socket::setsockopt(&socket.as_fd(), sockopt::TcpFastOpenConnect, &true)?;
    }
    if let Some(bind) = options.bind {
        socket.bind(&bind.into())?;
    }
    let socket = TcpSocket::from_std_stream(socket.into());
    timeout(deadline, socket.connect(to)).await.map_err(|_| io::Error::from(ErrorKind::TimedOut))?
}

impl Conn {
    fn new(stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true)?;
        let (read, write) = stream.into_split();
        Ok(Self { read: Mutex::new(read), write: Mutex::new(write) })
    }

    pub(crate) async fn send(&self, payload: &Payload, chunk: usize, urgent: bool) -> Result<Sent> {
        let mut write = self.write.lock().await;
        let sum = if urgent { send_urgent(&write, payload).await? } else { send(&mut *write, payload, chunk).await? };
        Ok(Sent { sum })
    }

    pub(crate) async fn receive(&self, until: Until) -> Result<Received> {
        let mut read = self.read.lock().await;
        let (mut sum, mut text, mut end) = (Sum::default(), Vec::new(), None);
        let mut buffer = vec![0; 262_144];
        loop {
            let most = match until {
                Until::Bytes(wanted) if sum.length >= wanted => break,
                Until::Bytes(wanted) => usize::try_from(wanted - sum.length).unwrap_or(usize::MAX).min(buffer.len()),
                Until::Line | Until::Head => 1,
                Until::End => buffer.len(),
            };
            let got = match timeout(STALL, read.read(&mut buffer[..most])).await {
                Err(_) => bail!("nothing arrived for {STALL:?} after {} bytes", sum.length),
                Ok(read) => ended(read)?,
            };
            let taken = match got {
                Ok(taken) => taken,
                Err(how) => {
                    end = Some(how);
                    break;
                }
            };
            sum.add(&buffer[..taken]);
            let room = TEXT.saturating_sub(text.len()).min(taken);
            text.extend_from_slice(&buffer[..room]);
            let done = match until {
                Until::Line => buffer[0] == b'\n',
                Until::Head => text.ends_with(b"\r\n\r\n"),
                Until::Bytes(_) | Until::End => false,
            };
            if done {
                break;
            }
        }
        Ok(Received { text: String::from_utf8_lossy(&text).into_owned(), sum, end })
    }

    pub(crate) async fn frames(&self, kinds: &[u8], stream: u32) -> Result<Frames> {
        let mut read = self.read.lock().await;
        let mut frames = Vec::new();
        loop {
            let mut head = [0; 9];
            if let Err(end) = fill(&mut read, &mut head).await? {
                return Ok(Frames { frames, end: Some(end) });
            }
            let (mut frame, length) = Frame::head(&head);
            let mut payload = vec![0; length];
            if let Err(end) = fill(&mut read, &mut payload).await? {
                return Ok(Frames { frames, end: Some(end) });
            }
            payload.truncate(Frame::KEPT);
            frame.payload = payload;
            let acknowledged = frame.kind == kind::SETTINGS && frame.flags & flag::ACK != 0;
            let done = (kinds.contains(&frame.kind) && !acknowledged) || frame.ends(stream);
            frames.push(frame);
            if done {
                return Ok(Frames { frames, end: None });
            }
        }
    }

    pub(crate) async fn exchange(&self, payload: &Payload) -> Result<Exchanged> {
        let (mut read, mut write) = (self.read.lock().await, self.write.lock().await);
        let sending = async {
            let sum = send(&mut *write, payload, TEXT).await?;
            write.shutdown().await.map_err(named)?;
            Ok::<_, anyhow::Error>(sum)
        };
        let (sent, (received, end)) = tokio::try_join!(sending, drain(&mut *read))?;
        Ok(Exchanged { sent, received, end })
    }

    pub(crate) async fn finish(&self) -> Result<()> {
        self.write.lock().await.shutdown().await.map_err(named)
    }

    /// Lingering zero seconds makes the close that follows a reset.
    pub(crate) fn reset(self: std::sync::Arc<Self>) -> Result<()> {
        let write = self.write.try_lock().context("a command is under way on it")?;
        socket2::SockRef::from(write.as_ref()).set_linger(Some(Duration::ZERO))?;
        drop(write);
        let conn = std::sync::Arc::into_inner(self).context("a command is under way on it")?;
        drop(conn.read.into_inner().reunite(conn.write.into_inner())?);
        Ok(())
    }
}

/// Fills the buffer, unless the direction ends before that.
async fn fill(read: &mut OwnedReadHalf, mut buffer: &mut [u8]) -> Result<Result<(), End>> {
    while !buffer.is_empty() {
        let got = match timeout(STALL, read.read(buffer)).await {
            Err(_) => bail!("nothing arrived for {STALL:?}"),
            Ok(got) => ended(got)?,
        };
        match got {
            Ok(size) => buffer = &mut buffer[size..],
            Err(end) => return Ok(Err(end)),
        }
    }
    Ok(Ok(()))
}

/// Sends all of a payload in writes of at most `chunk` bytes.
pub(crate) async fn send(write: &mut (impl AsyncWriteExt + Unpin), payload: &Payload, chunk: usize) -> Result<Sum> {
    let (block, mut sum, mut left) = (payload.block(), Sum::default(), payload.length());
    while left > 0 {
        let whole = block.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        for piece in block[..whole].chunks(chunk.max(1)) {
            match timeout(STALL, write.write_all(piece)).await {
                Err(_) => bail!("no room to send for {STALL:?} after {} bytes", sum.length),
                Ok(written) => written.map_err(named)?,
            }
            sum.add(piece);
        }
        left -= whole as u64;
    }
    Ok(sum)
}

async fn send_urgent(write: &OwnedWriteHalf, payload: &Payload) -> Result<Sum> {
    let (block, mut sum, mut at) = (payload.block(), Sum::default(), 0);
    let stream = write.as_ref();
    while at < block.len() {
        timeout(STALL, stream.writable()).await.context("no room to send")??;
        let sent = stream.try_io(tokio::io::Interest::WRITABLE, || {
            nix_socket::send(stream.as_raw_fd(), &block[at..], MsgFlags::MSG_OOB).map_err(io::Error::from)
        });
        match sent {
            Ok(sent) => at += sent,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(named(error)),
        }
    }
    sum.add(&block);
    Ok(sum)
}

/// Reads and sums until the peer ends.
pub(crate) async fn drain(read: &mut (impl AsyncReadExt + Unpin)) -> Result<(Sum, End)> {
    let (mut sum, mut buffer) = (Sum::default(), vec![0; 262_144]);
    loop {
        let got = timeout(STALL * 3, read.read(&mut buffer))
            .await
            .map_err(|_| anyhow!("nothing arrived for {:?} after {} bytes", STALL * 3, sum.length))?;
        match ended(got)? {
            Ok(taken) => sum.add(&buffer[..taken]),
            Err(end) => return Ok((sum, end)),
        }
    }
}

/// Sorts the outcome of a read: bytes, the end of the direction, or an error that is neither.
pub(crate) fn ended(read: io::Result<usize>) -> Result<Result<usize, End>> {
    match read {
        Ok(0) => Ok(Err(End::Fin)),
        Ok(taken) => Ok(Ok(taken)),
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe
            ) =>
        {
            Ok(Err(End::Reset))
        }
        Err(error) => Err(named(error)),
    }
}

/// An error that begins with its kind, which journeys match on.
pub(crate) fn named(error: io::Error) -> anyhow::Error {
    anyhow!("{}", reason(&error))
}

/// [`named`] as text, for counting.
pub(crate) fn reason(error: &io::Error) -> String {
    format!("{:?}: {error}", error.kind())
}

/// Whole milliseconds since.
pub(crate) fn elapsed(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
