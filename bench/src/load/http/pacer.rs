//! Which request a lane carries next, since when it has been due, and what became of it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt::Display;
use std::io;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::sync::{Notify, Semaphore, mpsc};

use super::super::Outcome;
use super::super::outcome::{latencies, note};
use super::super::pace::Schedule;

/// Requests due and under way, shared by the lanes of one thread.
pub(super) struct Queue {
    /// When requests are due; `None`: whenever a lane is free.
    schedule: Option<Schedule>,
    /// Of a lane that is free at once: until when.
    end: Instant,
    due: RefCell<VecDeque<Instant>>,
    waiting: Semaphore,
    /// By lane.
    under_way: RefCell<Vec<Option<Instant>>>,
    counts_from: Cell<Instant>,
    latencies: RefCell<Histogram<u64>>,
    outcome: RefCell<Outcome>,
    ended: Notify,
}

impl Queue {
    /// Of requests that are due at even times.
    pub(super) fn paced(schedule: Schedule, lanes: usize) -> io::Result<Self> {
        Ok(Self { schedule: Some(schedule), ..Self::eager(Instant::now(), lanes) })
    }

    /// Of requests that follow each other until then.
    pub(super) fn eager(end: Instant, lanes: usize) -> Self {
        Self {
            schedule: None,
            end,
            due: RefCell::default(),
            waiting: Semaphore::new(0),
            under_way: RefCell::new(vec![None; lanes]),
            counts_from: Cell::new(Instant::now()),
            latencies: RefCell::new(latencies()),
            outcome: RefCell::default(),
            ended: Notify::new(),
        }
    }

    /// Requests due before are in no figure.
    pub(super) fn counts_from(&self, from: Instant) {
        self.counts_from.set(from);
    }

    /// Makes requests due at their times, to the last. A thread of its own tells the times: the runtime's timers know
    /// milliseconds.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub(super) async fn pace(&self) -> io::Result<()> {
        let Some(mut schedule) = self.schedule.clone() else { return Ok(()) };
        let (tells, mut told) = mpsc::unbounded_channel();
        std::thread::Builder::new().name("pacer".into()).spawn(move || {
            while let Some(due) = schedule.due() {
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                while let Some((_, due)) = schedule.take(Instant::now()) {
                    // Who no longer listens needs no more.
                    let _ = tells.send(due);
                }
            }
        })?;
        while let Some(due) = told.recv().await {
            self.due.borrow_mut().push_back(due);
            self.waiting.add_permits(1);
        }
        self.waiting.close();
        Ok(())
    }

    /// The next request of a lane, and since when it has been due; `None` after the last.
    pub(super) async fn next(&self, lane: usize) -> Option<Instant> {
        let due = if self.schedule.is_some() {
            // Once closed, what is left has still to be carried.
            if let Ok(permit) = self.waiting.acquire().await {
                permit.forget();
            }
            self.due.borrow_mut().pop_front()
        } else {
            let now = Instant::now();
            (now < self.end).then_some(now)
        };
        self.under_way.borrow_mut()[lane] = due;
        due
    }

    /// It was answered.
    pub(super) fn answered(&self, lane: usize) {
        let due = self.under_way.borrow_mut()[lane].take();
        if let Some(due) = due.filter(|due| *due >= self.counts_from.get()) {
            note(&mut self.latencies.borrow_mut(), due.elapsed());
        }
    }

    /// It failed.
    pub(super) fn failed(&self, lane: usize, reason: impl Display) {
        self.under_way.borrow_mut()[lane] = None;
        self.outcome.borrow_mut().fail(reason);
    }

    /// A lane has no more to do.
    pub(super) fn left(&self) {
        self.ended.notify_one();
    }

    /// Waits until nothing is due or under way.
    pub(super) async fn done(&self) {
        while !self.due.borrow().is_empty() || self.under_way.borrow().iter().any(Option::is_some) {
            self.ended.notified().await;
        }
    }

    /// What was found. Requests never answered count with the time they have waited.
    pub(super) fn finish(&self, window: Duration) -> Outcome {
        let (mut latencies, mut outcome) = (self.latencies.borrow_mut(), self.outcome.take());
        for due in self.due.take().into_iter().chain(self.under_way.take().into_iter().flatten()) {
            note(&mut latencies, due.elapsed());
            outcome.fail("unanswered at the end");
        }
        outcome.operations(&latencies, window.as_secs_f64());
        outcome
    }
}
