//! What an app's connection over HTTP/1 holds of heads, and for how long: charged to its pod beyond a free share, and ended
//! when a head stays unfinished.
//!
//! A head that has outgrown the free share is charged whole while it is unfinished, then for what it came to as long as the
//! connection lives: what is kept of a request points into it, and hyper keeps its buffer. Where that makes the pod short of room
//! the connection ends with the answer. So connections that wait, and requests of the usual size, cost nothing; and a timer is set only
//! for a head that did not come at once.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

use super::room::{FREE, Room};
use crate::tunnel::Budget;

/// See the module.
#[derive(Debug)]
pub(super) struct Heads {
    /// For long ones, until their requests are answered.
    room: Room,
    /// Bytes of the head that is not complete.
    unfinished: usize,
    patience: Duration,
    late: Option<Pin<Box<Sleep>>>,
}

impl Heads {
    /// Of a connection of the pod whose budget this is. A head has `patience` to become complete, or what is left of it.
    pub(super) fn new(budget: &Arc<Budget>, patience: Duration, late: Option<Pin<Box<Sleep>>>) -> Self {
        Self { room: Room::new(budget), unfinished: 0, patience, late }
    }

    /// After `came` more bytes a head is `unfinished` bytes long. `false` if its pod has no room for it.
    pub(super) fn hold(&mut self, came: usize, unfinished: usize) -> bool {
        let mut fits = true;
        if unfinished < self.unfinished + came {
            // One is complete. What came at once costs nothing.
            if self.unfinished > FREE {
                fits = self.room.complete(self.unfinished + came - unfinished);
            }
            self.late = None;
        }
        self.unfinished = unfinished;
        self.room.begun(unfinished) && fits
    }

    /// Whether there is anything to be told of requests that are answered.
    pub(super) fn has_complete(&self) -> bool {
        self.room.has_complete()
    }

    /// Whether the connection keeps what others may need.
    pub(super) fn is_in_the_way(&self) -> bool {
        self.room.is_in_the_way()
    }

    /// All requests are answered.
    pub(super) fn answered(&mut self) {
        self.room.over();
    }

    /// No head is read any more.
    pub(super) fn close(&mut self) {
        self.unfinished = 0;
        self.late = None;
        self.room.begun(0);
    }

    /// Ready once what is begun has had its time, which is this.
    pub(super) fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<Duration> {
        let patience = self.patience;
        self.late.get_or_insert_with(|| Box::pin(sleep(patience))).as_mut().poll(cx).map(|()| patience)
    }
}

#[cfg(test)]
mod tests {
    use super::super::room::WHOLE;
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    fn heads(budget: &Arc<Budget>) -> Heads {
        Heads::new(budget, PATIENCE, None)
    }

    #[test]
    fn long_heads_are_charged_while_they_are_there_and_no_others() {
        // An eighth of it is for these: two whole heads.
        let budget = Arc::new(Budget::new(8 * 2 * WHOLE));
        let mut first = heads(&budget);
        assert!(first.hold(FREE, FREE) && budget.claimed() == 0, "the free share");
        assert!(first.hold(1, FREE + 1) && budget.claimed() == WHOLE);
        assert!(first.hold(100, 0), "complete");
        assert_eq!(budget.claimed(), FREE + 101, "for what it came to");
        assert!(!first.is_in_the_way());
        let (mut second, mut third) = (heads(&budget), heads(&budget));
        assert!(second.hold(2 * FREE, 2 * FREE) && !third.hold(2 * FREE, 2 * FREE), "no room for a third");
        third.close();
        assert!(first.is_in_the_way() && !third.is_in_the_way());
        drop(first);
        assert!(third.hold(2 * FREE, 2 * FREE), "what is over makes room");
        second.close();
        drop(third);
        assert_eq!(budget.claimed(), 0);
    }

    #[test]
    fn a_connection_is_charged_for_its_longest_head() {
        let budget = Arc::new(Budget::default());
        let mut heads = heads(&budget);
        let long = |heads: &mut Heads, size: usize| assert!(heads.hold(size - 1, size - 1) && heads.hold(1, 0));
        long(&mut heads, 20_000);
        long(&mut heads, 10_000);
        assert!(heads.has_complete() && budget.claimed() == 30_000, "neither is answered");
        heads.answered();
        assert!(!heads.has_complete() && budget.claimed() == 20_000);
        long(&mut heads, 10_000);
        heads.answered();
        assert_eq!(budget.claimed(), 20_000);
    }

    #[test]
    fn heads_that_come_at_once_cost_nothing() {
        let budget = Arc::new(Budget::default());
        let mut heads = heads(&budget);
        for _ in 0..3 {
            assert!(heads.hold(500, 0) && heads.hold(700, 200) && heads.hold(100, 0));
        }
        assert!(budget.claimed() == 0 && !heads.has_complete() && heads.late.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn each_head_has_its_own_time() {
        let mut heads = heads(&Arc::new(Budget::default()));
        let late = async |heads: &mut Heads, wait: u64| {
            tokio::time::timeout(Duration::from_secs(wait), std::future::poll_fn(|cx| heads.poll_late(cx)))
                .await
                .is_ok()
        };
        assert!(heads.hold(1, 1) && !late(&mut heads, 3).await);
        assert!(heads.hold(1, 0) && heads.hold(1, 1) && !late(&mut heads, 3).await, "another head");
        assert!(heads.hold(1, 2) && late(&mut heads, 3).await, "more of it gives it no more time");
    }
}
