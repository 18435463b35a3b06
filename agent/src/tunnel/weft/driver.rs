//! The task of a tunnel: writes what streams have sealed, reads what the peer has sent, and gives it to the apps.

use std::io;
use std::net::Shutdown;
use std::sync::{Arc, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::time::timeout;

use super::link::{Answer, Broken, Fresh, Link, Slot, State};
use crate::tunnel::mux::{Code, Decoder, Event, Hello, Malformed, Open, Session};
use crate::tunnel::shared::Shared;
use crate::tunnel::{Budget, TunnelError};

/// The size of a read, in bytes: four TLS records. Together with [`TURN`] what one tunnel may do before others have a turn.
const READ: usize = 4 * 16 * 1024;
/// Reads in a row before others get a turn: sockets that never run dry would keep the thread otherwise.
const TURN: usize = 8;
/// How long a closing tunnel gets to say goodbye.
const FAREWELL: Duration = Duration::from_secs(1);

/// Moves a tunnel's frames.
pub(super) struct Driver {
    link: Arc<Link>,
    /// Opened in the handshake already.
    opened: Vec<u8>,
}

impl Driver {
    pub(super) fn new(fresh: Fresh) -> (Arc<Link>, Self) {
        let link = Arc::clone(&fresh.link);
        (fresh.link, Self { link: Arc::clone(&link), opened: fresh.opened })
    }

    /// Works until the tunnel is over: `Ok` when it ended in order or is to be closed, which [`Driver::goodbye`] does.
    /// Streams the peer opens are handed to `opened`.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        opened: &mut dyn FnMut(u32, Open),
    ) -> Poll<Result<(), TunnelError>> {
        if !self.opened.is_empty() {
            let link = Arc::clone(&self.link);
            self.receive(link.state(), opened)?;
        }
        for _ in 0..TURN {
            if self.write(cx)? {
                return Poll::Ready(Ok(()));
            }
            if self.link.tcp.poll_read_ready(cx).map_err(closed)?.is_pending() {
                return Poll::Pending;
            }
            let link = Arc::clone(&self.link);
            let mut state = link.state();
            let incoming = state.tls.incoming();
            match link.tcp.try_read(&mut incoming.room(READ)[..READ]) {
                Ok(0) => {
                    drop(state);
                    return Poll::Ready(self.ended());
                }
                Ok(size) => {
                    incoming.filled(size);
                    link.shared.heard();
                    if self.receive(state, opened)? {
                        return Poll::Ready(self.ended());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => incoming.rest(),
                Err(error) => return Poll::Ready(Err(closed(error))),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes as much as the socket takes. Answers whether there is nothing left to stay for.
    fn write(&mut self, cx: &mut Context<'_>) -> Result<bool, TunnelError> {
        let mut state = self.link.state();
        state.driver = Some(cx.waker().clone());
        state.seal_control()?;
        while !state.out.is_empty() {
            match self.link.tcp.poll_write_ready(cx) {
                Poll::Pending => return Ok(false),
                Poll::Ready(ready) => ready.map_err(closed)?,
            }
            match self.link.tcp.try_write(state.out.bytes()) {
                Ok(size) => {
                    state.out.consume(size);
                    state.admit();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(closed(error)),
            }
        }
        state.out.rest();
        Ok(state.session.is_empty() && (state.retired || state.session.is_leaving()))
    }

    /// Opens what has been read and does what it says, under the lock under which it was read. Answers whether the peer has closed.
    fn receive(
        &mut self,
        mut guard: MutexGuard<'_, State>,
        opened: &mut dyn FnMut(u32, Open),
    ) -> Result<bool, TunnelError> {
        let State { tls, session, decoder, out, hello, .. } = &mut *guard;
        let mut arrivals = Arrivals {
            session,
            decoder,
            hello,
            budget: &self.link.budget,
            shared: &self.link.shared,
            opened: Vec::new(),
            malformed: None,
        };
        arrivals.take(&std::mem::take(&mut self.opened));
        let received = tls.receive(out, |record| arrivals.take(record));
        let Arrivals { opened: new, malformed, .. } = arrivals;
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

/// Frames on their way from a record to where they belong.
struct Arrivals<'a> {
    session: &'a mut Session<Slot>,
    decoder: &'a mut Decoder,
    hello: &'a mut Option<Hello>,
    budget: &'a Budget,
    shared: &'a Shared,
    opened: Vec<(u32, Open)>,
    malformed: Option<Malformed>,
}

impl Arrivals<'_> {
    fn take(&mut self, mut record: &[u8]) {
        while self.malformed.is_none() {
            match self.decoder.next(&mut record) {
                Ok(None) => return,
                Ok(Some(frame)) => match self.session.apply(frame) {
                    Ok(Some(event)) => self.handle(event),
                    Ok(None) => {}
                    Err(malformed) => self.malformed = Some(malformed),
                },
                Err(malformed) => self.malformed = Some(malformed),
            }
        }
    }

    fn handle(&mut self, event: Event<'_>) {
        match event {
            Event::Hello(hello) => *self.hello = Some(hello),
            Event::Opened(stream, open) => {
                self.session.enter(stream, Slot::default());
                self.opened.push((stream, open));
            }
            Event::Accepted(stream) => self.slot(stream, |slot| slot.answer = Answer::Accepted),
            Event::Refused(stream, code) => self.slot(stream, |slot| slot.answer = Answer::Refused(code)),
            Event::Credited(stream) => self.slot(stream, |_| {}),
            Event::Reset(stream, _) => self.slot(stream, |slot| slot.broken = Some(Broken::Far)),
            Event::Data { stream, bytes, end } => self.deliver(stream, bytes, end),
            Event::Pong(_) => {}
            Event::GoingAway(last, code) => self.left(last, code),
        }
    }

    fn slot(&mut self, stream: u32, change: impl FnOnce(&mut Slot)) {
        if let Some(slot) = self.session.owner(stream) {
            change(slot);
            slot.wake();
        }
    }

    /// Straight to the app, as far as it takes it; what it does not waits.
    fn deliver(&mut self, stream: u32, bytes: &[u8], end: bool) {
        let Some(slot) = self.session.owner(stream).filter(|slot| slot.broken.is_none()) else { return };
        let mut taken = 0;
        if let Some(sink) = slot.sink.as_ref().filter(|_| slot.pending.is_empty()) {
            match sink.write(bytes) {
                Ok(size) => taken = size,
                Err(_) => {
                    slot.broken = Some(Broken::Near);
                    return slot.wake();
                }
            }
        }
        let rest = &bytes[taken..];
        if !rest.is_empty() {
            if !self.budget.charge(rest.len(), slot.pending.len()) {
                self.budget.credit(slot.pending.len());
                slot.pending.clear();
                slot.broken = Some(Broken::Far);
                slot.wake();
                return self.session.reset(stream, Code::OverBudget);
            }
            slot.pending.push(rest);
            slot.wake();
        }
        if end {
            slot.ended = true;
            if slot.pending.is_empty() {
                slot.finish();
            }
            slot.wake();
        }
        if taken > 0 {
            let budget = self.budget;
            self.session.took(stream, u32::try_from(taken).unwrap_or(u32::MAX), |growth| budget.grow(growth as usize));
        }
    }

    /// The peer takes no more streams: what it has not taken is to be opened elsewhere.
    fn left(&mut self, last: u32, code: Code) {
        if code == Code::Malformed {
            self.shared.fail(TunnelError::Closed("the peer says that this end broke the protocol".to_owned()));
        }
        self.shared.leave();
        for (stream, _, slot) in self.session.owners() {
            if stream > last && slot.answer == Answer::None {
                slot.answer = Answer::Refused(Code::Leaving);
                slot.wake();
            }
        }
    }
}

fn closed(error: io::Error) -> TunnelError {
    TunnelError::Closed(error.to_string())
}
