//! Bodies on their way through: counted, never kept. With a response's body lives whatever its request holds.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::task::AtomicWaker;
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Sleep, sleep};

use super::exchange::Held;

/// How far a request's body has come; shared by those at its two ends.
#[derive(Debug, Default)]
pub(super) struct Progress {
    bytes: AtomicU64,
    /// The endpoint's connection has all of it.
    whole: AtomicBool,
}

impl Progress {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn is_whole(&self) -> bool {
        self.whole.load(Ordering::Relaxed)
    }
}

/// Holds a body back until the endpoint asks for it (`Expect: 100-continue`): to ask for it here is what has the app send it.
#[derive(Debug, Default)]
pub(super) struct Gate {
    open: AtomicBool,
    waker: AtomicWaker,
}

impl Gate {
    /// How long an endpoint may take to ask. One that does not know the expectation never does, and gets the body then.
    const PATIENCE: Duration = Duration::from_secs(1);

    /// The endpoint has asked.
    pub(super) fn open(&self) {
        self.open.store(true, Ordering::Release);
        self.waker.wake();
    }

    fn poll_open(&self, cx: &Context<'_>) -> bool {
        self.waker.register(cx.waker());
        self.open.load(Ordering::Acquire)
    }
}

/// A request's body, on its way to the endpoint.
pub(super) struct Upload {
    incoming: Option<Incoming>,
    progress: Arc<Progress>,
    gate: Option<(Arc<Gate>, Option<Pin<Box<Sleep>>>)>,
}

impl Upload {
    pub(super) fn new(incoming: Incoming, progress: Arc<Progress>) -> Self {
        if incoming.is_end_stream() {
            progress.whole.store(true, Ordering::Relaxed);
        }
        Self { incoming: Some(incoming), progress, gate: None }
    }

    /// The same, held back until the gate opens.
    pub(super) fn behind(self, gate: Arc<Gate>) -> Self {
        Self { gate: Some((gate, None)), ..self }
    }

    /// Ready once nothing holds it back.
    fn poll_gate(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some((gate, patience)) = &mut self.gate else { return Poll::Ready(()) };
        if !gate.poll_open(cx) {
            let patience = patience.get_or_insert_with(|| Box::pin(sleep(Gate::PATIENCE)));
            ready!(patience.as_mut().poll(cx));
        }
        self.gate = None;
        Poll::Ready(())
    }

    /// The body of a request that has none.
    pub(super) fn empty(progress: Arc<Progress>) -> Self {
        Self { incoming: None, progress, gate: None }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        ready!(this.poll_gate(cx));
        let Some(incoming) = &mut this.incoming else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(&mut *incoming).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => count(frame, &this.progress.bytes),
            Some(Err(_)) => {}
            None => this.progress.whole.store(true, Ordering::Relaxed),
        }
        if incoming.is_end_stream() {
            this.progress.whole.store(true, Ordering::Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

/// A response's body, on its way to the app.
pub(super) struct Download {
    from: From,
    /// What the request holds until the last byte; taken when that has come.
    held: Option<Box<Held>>,
}

enum From {
    Endpoint(Incoming),
    Mesh(Full<Bytes>),
}

impl Download {
    /// An endpoint's.
    pub(super) fn endpoint(incoming: Incoming, held: Box<Held>) -> Self {
        let ended = incoming.is_end_stream();
        let mut download = Self { from: From::Endpoint(incoming), held: Some(held) };
        if ended {
            download.end();
        }
        download
    }

    /// The mesh's own.
    pub(super) fn mesh(text: Bytes) -> Self {
        Self { from: From::Mesh(Full::new(text)), held: None }
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
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        let incoming = match &mut this.from {
            From::Mesh(text) => return Pin::new(text).poll_frame(cx).map_err(|never| match never {}),
            From::Endpoint(incoming) => incoming,
        };
        let frame = ready!(Pin::new(&mut *incoming).poll_frame(cx));
        let ended = incoming.is_end_stream();
        match (&frame, &mut this.held) {
            (Some(Ok(frame)), Some(held)) => held.received(frame),
            (Some(Err(error)), Some(held)) => held.broke(error),
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

fn count(frame: &Frame<Bytes>, bytes: &AtomicU64) {
    if let Some(data) = frame.data_ref() {
        bytes.fetch_add(data.remaining() as u64, Ordering::Relaxed);
    }
}
