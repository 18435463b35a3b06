//! A request's body on its way to the endpoint: counted, kept only where it may have to be sent again ([`super::replay`]), held
//! back where the endpoint is to ask for it, and copied for those who are to get a copy, as far as they keep up.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::task::AtomicWaker;
use http::HeaderMap;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::mpsc;
use tokio::time::{Sleep, sleep};

use super::ahead::Full;
use super::claim::{Claim, is_cut, settle};
use super::replay::{Reader, Reel};
use crate::tunnel::Budget;

/// Pieces of a body that a copy may be behind. One that falls further behind is broken off: nobody waits for it.
const BEHIND_MAX: usize = 32;

/// How far a request's body has come; shared by those at its two ends.
#[derive(Debug, Default)]
pub(super) struct Progress {
    bytes: AtomicU64,
    /// The endpoint's connection has all of it.
    whole: AtomicBool,
    /// It broke off, and not at the endpoint's end.
    broken: OnceLock<Break>,
}

/// Where a request's body broke off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Break {
    /// At the app's end.
    App,
    /// Here: its pod's budget is used up.
    Budget,
}

impl Progress {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn is_whole(&self) -> bool {
        self.whole.load(Ordering::Relaxed)
    }

    pub(super) fn broken(&self) -> Option<Break> {
        self.broken.get().copied()
    }

    fn breaks(&self, at: Break) {
        let _ = self.broken.set(at);
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

/// Why a request's body breaks off.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    /// At the app's end.
    #[error(transparent)]
    App(#[from] hyper::Error),
    /// The same, by a code that is no failure's.
    #[error("the app reset the request before its end")]
    Cut,
    /// The copy could not keep up.
    #[error("the copy of the request fell behind")]
    Behind,
    /// The request is being sent again.
    #[error("the request is sent again")]
    Superseded,
    /// Its pod's budget is used up.
    #[error("bodies that nobody reads use up what the pod may hold")]
    Budget,
}

/// A piece of a body, as copies get it. Without an end it has broken off.
enum Piece {
    Data(Bytes),
    End(Option<HeaderMap>),
}

enum Source {
    None,
    App(Intake),
    /// The same, kept.
    Kept(Reader),
    Copy(mpsc::Receiver<Piece>),
}

/// The next frame, if there is one, and whether none comes after it.
pub(super) type Next = (Option<Frame<Bytes>>, bool);

/// What the app sends, as it comes: counted, and given to those who get copies.
pub(super) struct Intake {
    incoming: Incoming,
    progress: Arc<Progress>,
    copies: Vec<mpsc::Sender<Piece>>,
    claim: Option<Claim>,
}

impl Intake {
    pub(super) fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }

    /// The next frame, and whether it is the last.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Next, Broken>> {
        let polled = Pin::new(&mut self.incoming).poll_frame(cx);
        let cut = is_cut(self.claim.as_ref(), &polled, &self.incoming);
        if settle(&mut self.claim, &polled).is_err() {
            self.progress.breaks(Break::Budget);
            return Poll::Ready(Err(Broken::Budget));
        }
        let frame = ready!(polled).transpose().map_err(Broken::App);
        let frame = if cut { Err(Broken::Cut) } else { frame };
        let frame = frame.inspect_err(|_| self.progress.breaks(Break::App))?;
        if let Some(data) = frame.as_ref().and_then(Frame::data_ref) {
            self.progress.bytes.fetch_add(data.remaining() as u64, Ordering::Relaxed);
            if !self.copies.is_empty() {
                self.share(|| Piece::Data(data.clone()));
            }
        }
        let ended = frame.is_none() || self.incoming.is_end_stream();
        if ended {
            let trailers = frame.as_ref().and_then(Frame::trailers_ref);
            self.share(|| Piece::End(trailers.cloned()));
            self.copies.clear();
        }
        Poll::Ready(Ok((frame, ended)))
    }

    /// Gives a piece to those who get copies and keep up.
    fn share(&mut self, piece: impl Fn() -> Piece) {
        self.copies.retain(|copy| copy.try_send(piece()).is_ok());
    }
}

/// What a body waits for before it is read, and how long at the most.
type Behind = (Arc<Gate>, Option<Pin<Box<Sleep>>>);

/// See the module.
pub(super) struct Upload {
    source: Source,
    progress: Arc<Progress>,
    gate: Option<Behind>,
    /// Whether its connection takes no more for now.
    full: Option<Full>,
}

impl Upload {
    /// Of a body over HTTP/2 that has not ended, `claim` is what it may hold.
    pub(super) fn new(incoming: Incoming, progress: Arc<Progress>, claim: Option<Claim>) -> Self {
        if incoming.is_end_stream() {
            progress.whole.store(true, Ordering::Relaxed);
        }
        let intake = Intake { incoming, progress: Arc::clone(&progress), copies: Vec::new(), claim };
        Self { source: Source::App(intake), progress, gate: None, full: None }
    }

    /// The body of a request that has none.
    pub(super) fn empty(progress: Arc<Progress>) -> Self {
        progress.whole.store(true, Ordering::Relaxed);
        Self { source: Source::None, progress, gate: None, full: None }
    }

    /// One that was sent already, from its beginning.
    pub(super) fn again(reel: &Arc<Reel>, progress: Arc<Progress>) -> Self {
        progress.whole.store(false, Ordering::Relaxed);
        Self { source: Source::Kept(reel.reader()), progress, gate: None, full: None }
    }

    /// Nothing holds it back.
    pub(super) fn invited(&mut self) {
        self.gate = None;
    }

    /// The same, held back until the gate opens.
    pub(super) fn behind(self, gate: Arc<Gate>) -> Self {
        Self { gate: Some((gate, None)), ..self }
    }

    /// The same, of which nothing is taken while its connection takes no more.
    pub(super) fn paced(&mut self, full: &Full) {
        self.full = Some(full.clone());
    }

    /// Keeps what passes from now on, so that it can be sent again, as far as the budget has room; `None` of one that cannot.
    pub(super) fn keep(&mut self, budget: &Arc<Budget>) -> Option<Arc<Reel>> {
        match std::mem::replace(&mut self.source, Source::None) {
            Source::App(intake) => {
                let reel = Reel::new(intake, budget);
                self.source = Source::Kept(reel.reader());
                Some(reel)
            }
            Source::Kept(reader) => {
                let reel = reader.reel();
                self.source = Source::Kept(reader);
                Some(reel)
            }
            other => {
                self.source = other;
                None
            }
        }
    }

    /// A copy, which gets what this one gets from now on.
    pub(super) fn copy(&mut self, progress: Arc<Progress>) -> Self {
        match &mut self.source {
            Source::App(intake) if !intake.is_end_stream() => {
                let (to, from) = mpsc::channel(BEHIND_MAX);
                intake.copies.push(to);
                Self { source: Source::Copy(from), progress, gate: None, full: None }
            }
            _ => Self::empty(progress),
        }
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
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = &mut *self;
        ready!(this.poll_gate(cx));
        if this.full.as_ref().is_some_and(Full::is) {
            return Poll::Pending;
        }
        let (frame, ended) = match &mut this.source {
            Source::None => return Poll::Ready(None),
            Source::App(intake) => ready!(intake.poll(cx))?,
            Source::Kept(reader) => ready!(reader.poll(cx))?,
            Source::Copy(from) => match ready!(from.poll_recv(cx)) {
                Some(Piece::Data(data)) => (Some(Frame::data(data)), false),
                Some(Piece::End(trailers)) => {
                    this.source = Source::None;
                    (trailers.map(Frame::trailers), true)
                }
                None => return Poll::Ready(Some(Err(Broken::Behind))),
            },
        };
        if ended {
            this.progress.whole.store(true, Ordering::Relaxed);
        }
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::None => true,
            Source::App(intake) => intake.is_end_stream(),
            Source::Kept(reader) => reader.is_end_stream(),
            Source::Copy(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::None => SizeHint::with_exact(0),
            Source::App(intake) => intake.size_hint(),
            Source::Kept(reader) => reader.size_hint(),
            Source::Copy(_) => SizeHint::default(),
        }
    }
}
