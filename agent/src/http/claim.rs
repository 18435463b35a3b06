//! What a body over HTTP/2 may hold of an agent's memory while nobody reads it, charged to its pod.
//!
//! A stream's window is promised to whoever sends, and is filled where the other end does not keep up. Of every body that
//! *may* be behind the whole window is charged: from the last piece that was taken of it until it is asked for more and has
//! none, when its window is known to be empty. So bodies that flow, and streams that wait, cost nothing.

use std::sync::Arc;
use std::task::Poll;

use hyper::body::{Body, Incoming};

use crate::tunnel::Budget;

/// What a stream's reader may leave unread, in bytes: at the app's side, and at the endpoint's.
pub(super) const WINDOW: u32 = 64 * 1024;

/// One body's share of its pod's budget.
#[derive(Debug)]
pub(super) struct Claim {
    budget: Arc<Budget>,
    held: bool,
}

impl Claim {
    /// For a body that may have begun to arrive; `None` if its pod has used up what it has.
    pub(super) fn new(budget: &Arc<Budget>) -> Option<Self> {
        let mut claim = Self { budget: Arc::clone(budget), held: false };
        claim.hold().then_some(claim)
    }

    /// A piece was taken: others may be waiting. `false` if they must not.
    pub(super) fn hold(&mut self) -> bool {
        if !self.held {
            self.held = self.budget.claim(WINDOW as usize);
        }
        self.held
    }

    /// Nothing is waiting.
    pub(super) fn free(&mut self) {
        if std::mem::take(&mut self.held) {
            self.budget.disclaim(WINDOW as usize);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.free();
    }
}

/// Follows what was asked of a body.
///
/// # Errors
/// When its pod has used up what it has.
pub(super) fn settle<T, E>(claim: &mut Option<Claim>, polled: &Poll<Option<Result<T, E>>>) -> Result<(), ()> {
    let Some(held) = claim else { return Ok(()) };
    match polled {
        Poll::Pending => held.free(),
        Poll::Ready(Some(Ok(_))) => return if held.hold() { Ok(()) } else { Err(()) },
        Poll::Ready(_) => *claim = None,
    }
    Ok(())
}

/// Whether a body that seems to be over, over HTTP/2 if there is a claim for it, was cut short: hyper takes a reset with NO_ERROR for
/// an end, which it is behind END_STREAM only (RFC 9113, 8.1). To be asked before the claim is settled.
pub(super) fn is_cut<T, E>(claim: Option<&Claim>, polled: &Poll<Option<Result<T, E>>>, body: &Incoming) -> bool {
    claim.is_some() && matches!(polled, Poll::Ready(None)) && !body.is_end_stream()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_behind_is_charged_and_nothing_else() {
        let budget = Arc::new(Budget::new(24 * WINDOW as usize));
        let mut claims: Vec<_> = std::iter::from_fn(|| Claim::new(&budget)).take(100).collect();
        assert_eq!(claims.len(), 3, "an eighth of the budget is for bodies");
        assert!(claims[0].hold(), "what is held is not charged twice");
        claims[0].free();
        claims[0].free();
        let fourth = Claim::new(&budget);
        assert!(fourth.is_some() && !claims[0].hold());
        drop((claims, fourth));
        assert_eq!(budget.claimed(), 0);
    }
}
