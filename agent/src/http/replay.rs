//! A request's body that may have to be sent again: kept while it passes, as long as it is small. Whoever began to read it
//! last gets it, from the beginning; those before get no more of it.
//!
//! What is kept is charged to its pod. A body for which there is no room goes on, and is not sent again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Frame, SizeHint};

use super::upload::{Broken, Intake, Next};
use crate::tunnel::Budget;

/// What is kept of a body, in bytes. One that is longer is not sent again.
const KEPT_MAX: usize = 64 * 1024;
/// The least room made for one.
const KEPT_MIN: usize = 1024;

/// A body and what is kept of it.
pub(super) struct Reel(Mutex<State>);

struct State {
    intake: Intake,
    /// What has come so far; `None` once that is too much, or nobody may want it again.
    kept: Option<Kept>,
    trailers: Option<HeaderMap>,
    ended: bool,
    /// The number of the last reader.
    readers: u32,
}

/// The beginning of a body. Room for it is charged to a budget.
#[derive(Debug)]
struct Kept {
    bytes: Vec<u8>,
    budget: Arc<Budget>,
    room: usize,
}

impl Kept {
    fn new(budget: &Arc<Budget>) -> Self {
        Self { bytes: Vec::new(), budget: Arc::clone(budget), room: 0 }
    }

    /// Keeps a further piece; `false` if that is more than there may be, of this body or of all together.
    fn keep(&mut self, data: &[u8]) -> bool {
        let length = self.bytes.len() + data.len();
        if length > KEPT_MAX {
            return false;
        }
        if length > self.room {
            let room = length.next_power_of_two().max(KEPT_MIN);
            if !self.budget.claim(room - self.room) {
                return false;
            }
            self.bytes.reserve_exact(room - self.bytes.len());
            self.room = room;
        }
        self.bytes.extend_from_slice(data);
        true
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.budget.disclaim(self.room);
    }
}

/// One reading of it.
pub(super) struct Reader {
    reel: Arc<Reel>,
    number: u32,
    /// How much of what is kept it has had.
    at: usize,
    trailers: bool,
}

impl Reel {
    pub(super) fn new(intake: Intake, budget: &Arc<Budget>) -> Arc<Self> {
        let (ended, kept) = (intake.is_end_stream(), Some(Kept::new(budget)));
        Arc::new(Self(Mutex::new(State { intake, kept, trailers: None, ended, readers: 0 })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to read it from the beginning.
    pub(super) fn reader(self: &Arc<Self>) -> Reader {
        let mut state = self.state();
        state.readers += 1;
        Reader { reel: Arc::clone(self), number: state.readers, at: 0, trailers: false }
    }

    /// Whether all that has come is there to be read again.
    pub(super) fn is_whole(&self) -> bool {
        self.state().kept.is_some()
    }

    /// Nobody will read it again.
    pub(super) fn release(&self) {
        self.state().release();
    }
}

impl State {
    /// The last reader goes on with what is new.
    fn release(&mut self) {
        self.kept = None;
    }

    /// Keeps what has come.
    fn keep(&mut self, data: &Bytes) {
        if self.kept.as_mut().is_some_and(|kept| !kept.keep(data)) {
            self.release();
        }
    }
}

impl Reader {
    /// What it reads.
    pub(super) fn reel(&self) -> Arc<Reel> {
        Arc::clone(&self.reel)
    }

    /// The next frame, and whether it is the last.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Next, Broken>> {
        let mut state = self.reel.state();
        let state = &mut *state;
        if state.readers != self.number {
            return Poll::Ready(Err(Broken::Superseded));
        }
        if let Some(kept) = state.kept.as_ref().filter(|kept| self.at < kept.bytes.len()) {
            let again = Bytes::copy_from_slice(&kept.bytes[self.at..]);
            self.at = kept.bytes.len();
            return Poll::Ready(Ok((Some(Frame::data(again)), state.ended && state.trailers.is_none())));
        }
        if state.ended {
            let trailers = state.trailers.clone().filter(|_| !std::mem::replace(&mut self.trailers, true));
            return Poll::Ready(Ok((trailers.map(Frame::trailers), true)));
        }
        let (frame, ended) = match ready!(state.intake.poll(cx)) {
            Ok(frame) => frame,
            Err(broken) => {
                state.release();
                return Poll::Ready(Err(broken));
            }
        };
        state.ended = ended || frame.is_none();
        if let Some(data) = frame.as_ref().and_then(Frame::data_ref) {
            state.keep(data);
            self.at += data.len();
        } else if let Some(trailers) = frame.as_ref().and_then(Frame::trailers_ref) {
            state.trailers = Some(trailers.clone());
            (state.ended, self.trailers) = (true, true);
        }
        Poll::Ready(Ok((frame, state.ended)))
    }

    pub(super) fn is_end_stream(&self) -> bool {
        let state = self.reel.state();
        let left = state.kept.as_ref().is_some_and(|kept| self.at < kept.bytes.len());
        state.ended && !left && (self.trailers || state.trailers.is_none())
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        let state = self.reel.state();
        let left = state.kept.as_ref().map_or(0, |kept| kept.bytes.len().saturating_sub(self.at)) as u64;
        let coming = if state.ended { SizeHint::with_exact(0) } else { state.intake.size_hint() };
        let mut hint = SizeHint::new();
        hint.set_lower(coming.lower() + left);
        if let Some(upper) = coming.upper() {
            hint.set_upper(upper + left);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_charged_and_given_back() {
        // An eighth of it is for bodies: four of the largest.
        let budget = Arc::new(Budget::new(8 * 4 * KEPT_MAX));
        let mut small = Kept::new(&budget);
        assert!(small.keep(b"a few") && small.keep(b" bytes") && small.bytes == b"a few bytes");
        assert_eq!((budget.claimed(), small.bytes.capacity()), (KEPT_MIN, KEPT_MIN));
        assert!(!small.keep(&[0; KEPT_MAX]), "too long");
        drop(small);
        assert_eq!(budget.claimed(), 0);
        let mut whole: Vec<_> = (0..5).map(|_| Kept::new(&budget)).collect();
        let kept = |one: &mut Kept| (0..4).all(|_| one.keep(&[0; KEPT_MAX / 4]));
        assert_eq!(whole.iter_mut().map(kept).collect::<Vec<_>>(), [true, true, true, true, false]);
        assert!(whole[0].bytes.capacity() == KEPT_MAX && budget.claimed() == 4 * KEPT_MAX);
        whole.clear();
        assert_eq!(budget.claimed(), 0);
    }
}
