//! The task of a tunnel: writes what streams have sealed, reads what the peer has sent, and gives it to the apps.

use std::io;
use std::net::Shutdown;
use std::ops::Range;
use std::sync::{Arc, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::time::timeout;

use super::arrivals::Arrivals;
use super::link::{Fresh, Link, State};
use crate::sys::socket::read_some;
use crate::tunnel::TunnelError;
use crate::tunnel::mux::{Code, Open};

/// The size of a read, in bytes: sixteen TLS records. Together with [`TURN`] what one tunnel may do before others have a turn.
const READ: usize = 16 * 16 * 1024;
/// Reads in a row before others get a turn: sockets that never run dry would keep the thread otherwise.
const TURN: usize = 4;
/// How long a closing tunnel gets to say goodbye.
const FAREWELL: Duration = Duration::from_secs(1);

/// Moves a tunnel's frames.
pub(super) struct Driver {
    link: Arc<Link>,
    /// Opened in the handshake already; `None` once it has been looked at.
    opened: Option<Vec<u8>>,
    /// Where what was opened lies; empty between reads.
    parts: Vec<Range<usize>>,
}

/// What has come of writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    /// All there was.
    All,
    /// All there was, and there is nothing left to stay for.
    Last,
    /// What the socket took: it wakes this task.
    Blocked,
    /// There may be more.
    Some,
}

impl Driver {
    pub(super) fn new(fresh: Fresh) -> (Arc<Link>, Self) {
        let link = Arc::clone(&fresh.link);
        (fresh.link, Self { link: Arc::clone(&link), opened: Some(fresh.opened), parts: Vec::new() })
    }

    /// Works until the tunnel is over: `Ok` when it ended in order or is to be closed, which [`Driver::goodbye`] does.
    /// Streams the peer opens are handed to `opened`.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        opened: &mut dyn FnMut(u32, Open),
    ) -> Poll<Result<(), TunnelError>> {
        if self.opened.is_some() {
            let link = Arc::clone(&self.link);
            // The peer's goodbye may have come with its handshake.
            if self.receive(link.state(), opened)? {
                return Poll::Ready(self.ended());
            }
        }
        for _ in 0..TURN {
            let written = self.write(cx)?;
            if written == Written::Last {
                return Poll::Ready(Ok(()));
            }
            if self.link.tcp.poll_read_ready(cx).map_err(closed)?.is_ready() {
                if self.read(opened)? {
                    return Poll::Ready(self.ended());
                }
            } else if written != Written::Some {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes what there is to write, and lets in more while the socket takes it.
    fn write(&mut self, cx: &mut Context<'_>) -> Result<Written, TunnelError> {
        let mut state = self.link.state();
        state.register_driver(cx.waker());
        for _ in 0..TURN {
            state.seal_control()?;
            state.serve_line()?;
            if state.out.is_empty() {
                state.out.rest();
                let last = state.session.is_empty() && (state.retired || state.session.is_leaving());
                return Ok(if last { Written::Last } else { Written::All });
            }
            match self.link.tcp.poll_write_ready(cx) {
                Poll::Pending => return Ok(Written::Blocked),
                Poll::Ready(ready) => ready.map_err(closed)?,
            }
            match self.link.tcp.try_write(state.out.bytes()) {
                Ok(size) => state.out.consume(size),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(closed(error)),
            }
        }
        Ok(Written::Some)
    }

    /// Reads once and does what came. Answers whether the peer has closed.
    fn read(&mut self, opened: &mut dyn FnMut(u32, Open)) -> Result<bool, TunnelError> {
        let link = Arc::clone(&self.link);
        let mut state = link.state();
        let incoming = state.tls.incoming();
        match read_some(&link.tcp, &mut incoming.room(READ)[..READ]) {
            Ok(0) => Ok(true),
            Ok(size) => {
                incoming.filled(size);
                link.shared.heard();
                self.receive(state, opened)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                incoming.rest();
                Ok(false)
            }
            Err(error) => Err(closed(error)),
        }
    }

    /// Opens what has been read and does what it says, under the lock under which it was read. Answers whether the peer has closed.
    fn receive(
        &mut self,
        mut guard: MutexGuard<'_, State>,
        opened: &mut dyn FnMut(u32, Open),
    ) -> Result<bool, TunnelError> {
        let early = self.opened.take().unwrap_or_default();
        let State { tls, session, decoder, out, claims, .. } = &mut *guard;
        let received = tls.receive(out, &mut self.parts);
        let mut arrivals = Arrivals::new(session, decoder, claims, &self.link);
        arrivals.take(&early);
        self.parts.drain(..).for_each(|part| arrivals.take(tls.opened(part)));
        let (new, malformed) = arrivals.finish();
        tls.incoming().rest();
        let closed = tls.peer_closed();
        drop(guard);
        for (stream, open) in new {
            opened(stream, open);
        }
        match malformed {
            Some(malformed) => Err(malformed.into()),
            None => received.map(|()| closed).map_err(|error| TunnelError::from_tls(&error)),
        }
    }

    /// The peer has closed: in order, if it has said so and no stream is cut off by it.
    fn ended(&self) -> Result<(), TunnelError> {
        let mut state = self.link.state();
        if state.tls.peer_closed() {
            state.decoder.finish()?;
        }
        let closed = state.tls.peer_closed();
        let cut_off = state.session.owners().any(|(_, over, _)| !over);
        match (cut_off, closed) {
            (true, _) => Err(TunnelError::Closed("the peer closed it with connections open".to_owned())),
            (false, true) => Ok(()),
            (false, false) => Err(TunnelError::Closed("the peer is gone".to_owned())),
        }
    }

    /// Says that nothing follows, and waits until the peer has heard it.
    pub(super) async fn goodbye(mut self, code: Code) {
        {
            let mut state = self.link.state();
            state.session.leave(code);
            let _ = state.seal_control();
            let State { tls, out, .. } = &mut *state;
            let _ = tls.close(out);
        }
        let _ = timeout(FAREWELL, self.farewell()).await;
        self.link.state().lose();
    }

    async fn farewell(&mut self) -> io::Result<()> {
        loop {
            {
                let mut state = self.link.state();
                while !state.out.is_empty() {
                    match self.link.tcp.try_write(state.out.bytes()) {
                        Ok(size) => state.out.consume(size),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                        Err(error) => return Err(error),
                    }
                }
                if state.out.is_empty() {
                    break;
                }
            }
            self.link.tcp.writable().await?;
        }
        SockRef::from(&self.link.tcp).shutdown(Shutdown::Write)?;
        let mut scratch = vec![0; 4096];
        // A socket closed with bytes unread is reset, and what the peer has not read yet would be lost with it.
        loop {
            self.link.tcp.readable().await?;
            match self.link.tcp.try_read(&mut scratch) {
                Ok(0) => return Ok(()),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
        }
    }
}

fn closed(error: io::Error) -> TunnelError {
    TunnelError::Closed(error.to_string())
}
