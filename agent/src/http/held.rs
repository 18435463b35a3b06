//! What a request holds until the last byte of its response, or of what it has switched to: its place among those in flight,
//! and its connection.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::{Response, StatusCode};
use hyper::body::Frame;
use tokio::time::{Sleep, sleep_until};
use weft_core::balance::Pick;
use weft_core::model::Identity;

use super::answer::Fault;
use super::exchange::Session;
use super::record::Seen;
use super::upload::Progress;
use super::upstream::Place;
use super::wire::Lent;
use crate::dial;

/// See the module. Dropped before the last byte, the app has given its request up.
pub(super) struct Held {
    session: Arc<Session>,
    /// Keeps the endpoint's count of what is in flight.
    pick: Pick,
    lent: Option<(Place, Lent)>,
    server: Option<Identity>,
    progress: Arc<Progress>,
    seen: Option<Seen>,
    /// Its place among those the service port may have open.
    place: Option<dial::Place>,
    /// When all of the response must have come.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Held {
    pub(super) fn new(
        session: &Arc<Session>,
        pick: Pick,
        (lent, server): ((Place, Lent), Option<Identity>),
        progress: Arc<Progress>,
        seen: Seen,
        deadline: Option<Instant>,
    ) -> Box<Self> {
        let deadline = deadline.map(|at| Box::pin(sleep_until(at.into())));
        let (session, lent, seen) = (Arc::clone(session), Some(lent), Some(seen));
        Box::new(Self { session, pick, lent, server, progress, seen, place: None, deadline })
    }

    /// Keeps its place among those that are open.
    pub(super) fn keep(&mut self, place: Option<dial::Place>) {
        self.place = place;
    }

    /// The response's head has come.
    pub(super) fn answered<B>(&mut self, sent_at: Instant, response: &Response<B>) {
        judge(&mut self.pick, sent_at, response.status());
        if let Some(seen) = &mut self.seen {
            seen.answered(response.status(), response.headers());
        }
    }

    /// Ready once the time is over.
    pub(super) fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.deadline.as_mut().map_or(Poll::Pending, |deadline| deadline.as_mut().poll(cx))
    }

    /// A part of the response has come.
    pub(super) fn received(&mut self, frame: &Frame<Bytes>) {
        if let Some(seen) = &mut self.seen {
            seen.received(frame);
        }
    }

    /// So much went each way after the protocol was switched.
    pub(super) fn carried(&mut self, sent: u64, received: u64) {
        if let Some(seen) = &mut self.seen {
            (seen.sent, seen.received) = (sent, received);
        }
    }

    /// It broke off; `label` says why in one word.
    pub(super) fn broke(&mut self, label: &'static str, error: &dyn std::fmt::Display) {
        self.lent = None;
        if let Some(mut seen) = self.seen.take() {
            seen.sent += self.progress.bytes();
            seen.broke(label, error.to_string());
        }
    }

    /// The mesh answers in the place of the endpoint, whose answer cannot be passed on.
    pub(super) fn failed(mut self: Box<Self>, fault: &Fault) {
        self.lent = None;
        if let Some(mut seen) = self.seen.take() {
            seen.sent += self.progress.bytes();
            seen.failed(fault);
        }
    }

    /// All of it has come: the connection is free for the next.
    pub(super) fn ended(mut self: Box<Self>) {
        if let Some((place, Lent::Http1(lent))) = self.lent.take()
            && self.progress.is_whole()
        {
            self.session.http.upstreams.give_back(place, self.server.take(), lent);
        }
        if let Some(mut seen) = self.seen.take() {
            seen.sent += self.progress.bytes();
            seen.done();
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(mut seen) = self.seen.take() {
            seen.sent += self.progress.bytes();
            drop(seen);
        }
    }
}

/// Tells balancing how an endpoint has answered.
pub(super) fn judge(pick: &mut Pick, sent_at: Instant, status: StatusCode) {
    let now = Instant::now();
    pick.answered(status, now.saturating_duration_since(sent_at), now);
}
