//! A stream of a Weft tunnel, as the relay sees it.

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Poll, Waker};

use super::link::{Answer, Broken, Link, OUT_MAX, State};
use crate::tunnel::TunnelError;
use crate::tunnel::mux::{Code, HEADER, PAYLOAD_MAX, Windows};

/// The largest read from an app, in bytes: four full frames.
const TURN: usize = 4 * PAYLOAD_MAX;

thread_local! {
    /// What was read from an app and is being sealed: no stream has a buffer of its own.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Where a stream's bytes go: the app's socket. Called by whoever has them, so that nobody needs to be woken.
pub(crate) trait Sink: Send + Sync {
    /// Writes what fits without waiting; 0 if nothing does.
    ///
    /// # Errors
    /// When the socket has failed.
    fn write(&self, bytes: &[u8]) -> io::Result<usize>;

    /// Ends this direction, behind what was written.
    fn finish(&self);
}

/// What has come of the peer's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Drained {
    /// All that has arrived is with the app.
    Idle,
    /// The app's socket is full.
    Blocked,
    /// The app has everything, and the end.
    Ended,
    /// The stream was reset by the peer or lost with its tunnel, and the app has all that came before.
    Far,
    /// The same, but the app has not taken all that came before.
    FarBlocked,
    /// The app's socket has failed.
    Near,
}

/// What has come of the app's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    /// So many are on their way.
    Some(usize),
    /// The app has ended; so has the stream, in this direction.
    End,
    /// The app has nothing now.
    Nothing,
    /// The peer's window is full.
    NoCredit,
    /// The tunnel's buffer is full; the stream is in line.
    NoRoom,
    /// The app's socket has failed.
    Near,
    /// The stream takes nothing any more.
    Over,
}

/// One stream. Dropping it ends the stream: in order if both directions have ended, with a reset otherwise.
pub(crate) struct Handle {
    link: Arc<Link>,
    stream: u32,
}

impl Handle {
    pub(super) fn new(link: Arc<Link>, stream: u32) -> Self {
        Self { link, stream }
    }

    /// Has everything that arrives go to `sink`, and `waker` woken when there is something to do.
    pub(crate) fn attach(&self, sink: Arc<dyn Sink>) {
        if let Some(slot) = self.link.state().session.owner(self.stream) {
            slot.sink = Some(sink);
        }
    }

    /// Has `waker` woken when anything changes for this stream.
    pub(crate) fn register(&self, waker: &Waker) {
        if let Some(slot) = self.link.state().session.owner(self.stream) {
            slot.register(waker);
        }
    }

    /// Gives the app what has arrived.
    pub(crate) fn drain(&self) -> Drained {
        let mut state = self.link.state();
        let state = &mut *state;
        let budget = &self.link.budget;
        let Some(slot) = state.session.owner(self.stream) else { return Drained::Far };
        let mut taken = 0;
        while let (Some(sink), false) =
            (&slot.sink, slot.pending.is_empty() || matches!(slot.broken, Some(Broken::Near)))
        {
            match sink.write(slot.pending.front()) {
                Ok(0) => break,
                Ok(size) => {
                    slot.pending.took(size);
                    budget.credit(size);
                    taken += size;
                }
                Err(_) => slot.broken = Some(Broken::Near),
            }
        }
        let drained = match (&slot.broken, slot.pending.is_empty()) {
            (Some(Broken::Near), _) => Drained::Near,
            (Some(Broken::Far), true) => Drained::Far,
            (Some(Broken::Far), false) => Drained::FarBlocked,
            (None, false) => Drained::Blocked,
            (None, true) if slot.ended => {
                slot.finish();
                Drained::Ended
            }
            (None, true) => Drained::Idle,
        };
        if taken > 0 {
            state
                .session
                .took(self.stream, u32::try_from(taken).unwrap_or(u32::MAX), |growth| budget.grow(growth as usize));
            state.wake_driver();
        }
        drained
    }

    /// Reads from the app by `read` and sends what it got, as far as there is credit and room.
    pub(crate) fn send(&self, read: impl FnOnce(&mut [u8]) -> io::Result<usize>) -> Sent {
        let mut guard = self.link.state();
        let state = &mut *guard;
        let Some((outbound, _)) = state.session.flow(self.stream).filter(|_| !state.gone) else { return Sent::Over };
        let credit = usize::try_from(outbound.credit()).unwrap_or(usize::MAX);
        if outbound.ended() {
            return Sent::Over;
        }
        let full = state.out.len() >= OUT_MAX;
        let Some(slot) = state.session.owner(self.stream).filter(|slot| slot.broken.is_none()) else {
            return Sent::Over;
        };
        if credit == 0 {
            return Sent::NoCredit;
        }
        if full {
            if !std::mem::replace(&mut slot.waiting, true) {
                state.waiting.push_back(self.stream);
            }
            state.wake_driver();
            return Sent::NoRoom;
        }
        let room = OUT_MAX.saturating_sub(state.out.len()).max(PAYLOAD_MAX);
        let size = credit.min(room).min(TURN);
        let sent = SCRATCH.with_borrow_mut(|scratch| {
            scratch.resize(HEADER + TURN, 0);
            match read(&mut scratch[HEADER..HEADER + size]) {
                Ok(0) => state.seal_all(self.stream, &mut scratch[..HEADER], true).map(|()| Sent::End),
                Ok(size) => {
                    state.seal_all(self.stream, &mut scratch[..HEADER + size], false).map(|()| Sent::Some(size))
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Sent::Nothing),
                Err(_) => Ok(Sent::Near),
            }
        });
        if matches!(sent, Ok(Sent::Some(_) | Sent::End)) {
            state.wake_driver();
        }
        sent.unwrap_or_else(|error| {
            self.link.shared.fail(error);
            state.lose();
            state.wake_driver();
            Sent::Over
        })
    }

    /// Tells the peer that the app has accepted.
    ///
    /// # Errors
    /// When the stream is over already.
    pub(super) fn accept(&self) -> Result<(), TunnelError> {
        let mut state = self.link.state();
        let accepted = !state.gone && state.session.accept(self.stream);
        state.wake_driver();
        if accepted { Ok(()) } else { Err(TunnelError::Reset("the client gave up".to_owned())) }
    }

    /// Tells the peer no.
    pub(super) fn refuse(&self, code: Code) {
        let mut state = self.link.state();
        state.session.refuse(self.stream, code);
        state.wake_driver();
    }

    /// Waits until the stream is over although nobody here has ended it.
    pub(super) async fn given_up(&self) {
        poll_fn(|cx| match self.link.state().session.owner(self.stream) {
            Some(slot) if slot.broken.is_none() => {
                slot.register(cx.waker());
                Poll::Pending
            }
            _ => Poll::Ready(()),
        })
        .await;
    }

    /// Waits for the peer's answer to the OPEN.
    pub(super) async fn answered(&self) -> Result<(), TunnelError> {
        poll_fn(|cx| {
            let mut state = self.link.state();
            let Some(slot) = state.session.owner(self.stream) else { return Poll::Ready(Err(self.link.shared.lost())) };
            match (slot.answer, &slot.broken) {
                (Answer::Accepted, _) => Poll::Ready(Ok(())),
                (Answer::Refused(code), _) => Poll::Ready(Err(refused(code))),
                (Answer::None, Some(_)) if self.link.shared.failure().is_some() => {
                    Poll::Ready(Err(self.link.shared.lost()))
                }
                (Answer::None, Some(_)) => Poll::Ready(Err(TunnelError::Reset("by the server".to_owned()))),
                (Answer::None, None) => {
                    slot.register(cx.waker());
                    Poll::Pending
                }
            }
        })
        .await
    }
}

/// In the words of HBONE, which logs and metrics know.
fn refused(code: Code) -> TunnelError {
    match code {
        Code::Leaving => TunnelError::NotTaken,
        Code::BadRequest => TunnelError::Refused { status: 400 },
        Code::Denied => TunnelError::Refused { status: 401 },
        Code::Unreachable | Code::ReservedPort => TunnelError::Refused { status: 503 },
        Code::Cancelled | Code::OverBudget | Code::Malformed => TunnelError::Refused { status: 500 },
    }
}

impl State {
    /// Seals `frames`, whose first bytes are room for a header, as DATA frames. Each later header is written over bytes
    /// that have been sealed by then.
    fn seal_all(&mut self, stream: u32, frames: &mut [u8], end: bool) -> Result<(), TunnelError> {
        let payload = frames.len() - HEADER;
        let mut at = 0;
        loop {
            let size = (payload - at).min(PAYLOAD_MAX);
            match self.seal_data(stream, &mut frames[at..at + HEADER + size], end) {
                Some(sealed) => sealed?,
                None => return Ok(()),
            }
            at += size;
            if at >= payload {
                return Ok(());
            }
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut state = self.link.state();
        let grown =
            state.session.flow(self.stream).map_or(0, |(_, inbound)| inbound.window() - Windows::DEFAULT.initial);
        self.link.budget.shrink(grown as usize);
        if let Some(mut slot) = state.session.release(self.stream, Code::Cancelled) {
            self.link.budget.credit(slot.pending.len());
            slot.pending.clear();
        }
        state.wake_driver();
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handle({})", self.stream)
    }
}
