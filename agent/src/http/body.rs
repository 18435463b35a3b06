//! A response's body on its way to the app: counted, never kept. With it lives whatever its request holds.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::claim::{Claim, is_cut, settle};
use super::ends::Answering;
use super::held::Held;

/// Why a response's body breaks off.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    /// At the endpoint's end.
    #[error(transparent)]
    Endpoint(#[from] hyper::Error),
    /// The same, by a code that is no failure's.
    #[error("the endpoint reset the response before its end")]
    Cut,
    /// It took longer than its route allows.
    #[error("the response took longer than its route allows")]
    Late,
    /// Its pod's budget is used up.
    #[error("bodies that nobody reads use up what the pod may hold")]
    Budget,
}

/// A response's body, on its way to the app.
pub(super) struct Download {
    from: From,
    /// What the request holds until the last byte; taken when that has come.
    held: Option<Box<Held>>,
    answering: Option<Answering>,
    claim: Option<Claim>,
}

enum From {
    Endpoint(Incoming),
    Mesh(Full<Bytes>),
}

impl Download {
    /// An endpoint's. Of a body over HTTP/2 that has not ended, `claim` is what it may hold.
    pub(super) fn endpoint(incoming: Incoming, held: Box<Held>, claim: Option<Claim>) -> Self {
        let ended = incoming.is_end_stream();
        let mut download = Self { from: From::Endpoint(incoming), held: Some(held), answering: None, claim };
        if ended {
            download.end();
        }
        download
    }

    /// The mesh's own.
    pub(super) fn mesh(text: Bytes) -> Self {
        Self { from: From::Mesh(Full::new(text)), held: None, answering: None, claim: None }
    }

    /// Holds that until the last byte.
    pub(super) fn hold(&mut self, answering: Option<Answering>) {
        self.answering = answering;
    }

    /// The last byte has come.
    fn end(&mut self) {
        if let Some(held) = self.held.take() {
            held.ended();
        }
    }
}

impl Body for Download {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = &mut *self;
        let incoming = match &mut this.from {
            From::Mesh(text) => return Pin::new(text).poll_frame(cx).map_err(|never| match never {}),
            From::Endpoint(incoming) => incoming,
        };
        if let Some(held) = &mut this.held
            && held.poll_deadline(cx).is_ready()
        {
            held.broke("timeout", &Broken::Late);
            this.held = None;
            return Poll::Ready(Some(Err(Broken::Late)));
        }
        if this.answering.as_ref().is_some_and(Answering::is_held_up) {
            return Poll::Pending;
        }
        let polled = Pin::new(&mut *incoming).poll_frame(cx);
        let cut = is_cut(this.claim.as_ref(), &polled, incoming);
        if settle(&mut this.claim, &polled).is_err() {
            if let Some(mut held) = this.held.take() {
                held.broke("over_budget", &Broken::Budget);
            }
            return Poll::Ready(Some(Err(Broken::Budget)));
        }
        let frame = ready!(polled).map(|frame| frame.map_err(Broken::Endpoint));
        let frame = if cut { Some(Err(Broken::Cut)) } else { frame };
        let ended = incoming.is_end_stream();
        match (&frame, &mut this.held) {
            (Some(Ok(frame)), Some(held)) => held.received(frame),
            (Some(Err(error)), Some(held)) => held.broke("upstream_reset", error),
            _ => {}
        }
        if frame.is_none() || ended {
            this.end();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.from {
            From::Mesh(text) => text.is_end_stream(),
            From::Endpoint(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.from {
            From::Mesh(text) => text.size_hint(),
            From::Endpoint(incoming) => incoming.size_hint(),
        }
    }
}
