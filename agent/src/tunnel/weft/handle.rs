//! A stream of a Weft tunnel, as the relay sees it.

use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice, IoSliceMut};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::io::ReadBuf;

use super::link::{Answer, Broken, Link, Slot};
use super::outgoing::Sent;
use crate::tunnel::TunnelError;
use crate::tunnel::mux::{Code, Windows};

/// The app's socket. Called by whoever has bytes for it or room for its bytes, so that nobody needs to be woken.
pub(crate) trait App: Send + Sync {
    /// Reads what is there; 0 is the end.
    ///
    /// # Errors
    /// `WouldBlock` while there is nothing; others when the socket has failed.
    fn read(&self, room: &mut [IoSliceMut<'_>]) -> io::Result<usize>;

    /// Writes what fits without waiting; 0 if nothing does.
    ///
    /// # Errors
    /// When the socket has failed.
    fn write(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize>;

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

/// One stream. Dropping it ends the stream: in order if both directions have ended, with a reset otherwise.
pub(crate) struct Handle {
    pub(super) link: Arc<Link>,
    pub(super) stream: u32,
}

impl Handle {
    pub(super) fn new(link: Arc<Link>, stream: u32) -> Self {
        Self { link, stream }
    }

    /// See [`crate::tunnel::Stream::under_keys`].
    #[cfg(test)]
    pub(in crate::tunnel) fn under_keys(&self) -> (u64, u64) {
        self.link.state().tls.under_keys()
    }

    /// Has everything that arrives go to `app`, and what is sent read from it.
    pub(crate) fn attach(&self, app: Arc<dyn App>) {
        if let Some(slot) = self.link.state().session.owner(self.stream) {
            slot.app = Some(app);
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
        while let (Some(app), false) = (&slot.app, slot.pending.is_empty() || matches!(slot.broken, Some(Broken::Near)))
        {
            match app.write(&[IoSlice::new(slot.pending.front())]) {
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
            let grow = |slot: &mut Slot, growth: u32| self.link.may_grow(slot, growth);
            state.session.took(self.stream, u32::try_from(taken).unwrap_or(u32::MAX), grow);
            state.wake_driver();
        }
        drained
    }

    /// Sends what the app has, as far as there is credit and room.
    pub(crate) fn send(&self) -> Sent {
        let mut state = self.link.state();
        let sent = state.send(self.stream).unwrap_or_else(|error| {
            self.link.shared.fail(error);
            state.lose();
            Sent::Over
        });
        if matches!(sent, Sent::Some | Sent::All | Sent::End | Sent::NoRoom | Sent::Over) {
            state.wake_driver();
        }
        sent
    }

    /// Sends what `app` has in the place of the stream's own, if there is room for it now.
    pub(super) fn send_now(&self, app: &dyn App) -> Sent {
        let mut state = self.link.state();
        let sent = state.send_now(self.stream, app).unwrap_or_else(|error| {
            self.link.shared.fail(error);
            state.lose();
            Sent::Over
        });
        if matches!(sent, Sent::Some | Sent::All | Sent::End | Sent::Over) {
            state.wake_driver();
        }
        sent
    }

    /// Has this stream woken when it is its turn.
    pub(super) fn wait_in_line(&self) {
        let mut state = self.link.state();
        state.join_line(self.stream);
        state.wake_driver();
    }

    /// Takes what has arrived and is with no app; nothing is the end.
    pub(super) fn poll_read(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.link.state();
        let state = &mut *state;
        let Some(slot) = state.session.owner(self.stream) else { return Poll::Ready(Err(reset())) };
        let before = buf.remaining();
        while buf.remaining() > 0 && !slot.pending.is_empty() {
            let size = slot.pending.front().len().min(buf.remaining());
            buf.put_slice(&slot.pending.front()[..size]);
            slot.pending.took(size);
        }
        let taken = before - buf.remaining();
        if taken == 0 {
            return match (&slot.broken, slot.ended) {
                (_, true) => Poll::Ready(Ok(())),
                (Some(_), false) => Poll::Ready(Err(reset())),
                (None, false) => {
                    slot.register(cx.waker());
                    Poll::Pending
                }
            };
        }
        self.link.budget.credit(taken);
        let grow = |slot: &mut Slot, growth: u32| self.link.may_grow(slot, growth);
        state.session.took(self.stream, u32::try_from(taken).unwrap_or(u32::MAX), grow);
        state.wake_driver();
        Poll::Ready(Ok(()))
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

pub(super) fn reset() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "the stream was reset, or its tunnel is gone")
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
