//! A tunnel's state: TLS, the session of the protocol, and with each stream what has arrived for it and whom to wake.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use tokio::net::TcpStream;

use super::handle::Sink;
use super::pending::Pending;
use crate::tunnel::buffer::Buffer;
use crate::tunnel::mux::{Code, Decoder, HEADER, Hello, Malformed, Session, Side, Windows};
use crate::tunnel::shared::Shared;
use crate::tunnel::tls::{Established, Tls};
use crate::tunnel::{Budget, TunnelError};

/// Sealed bytes beyond which streams wait for the writer: what a small message may have to wait behind. Echoes beside four
/// bulk flows take 1.2 ms at 64 KiB, 3.8 at 256 KiB, 8.8 at 1 MiB.
pub(super) const OUT_MAX: usize = 64 * 1024;
/// Answers that a peer does not read, in bytes, beyond which it means harm.
const CONTROL_MAX: usize = 1024 * 1024;
/// Streams that are let in again for each so many bytes of room.
const TURN: usize = 16 * 1024;

/// What is kept with a stream beside the protocol's state.
#[derive(Default)]
pub(super) struct Slot {
    /// The app's socket, once the stream is relayed.
    pub(super) sink: Option<Arc<dyn Sink>>,
    /// What the app has not taken.
    pub(super) pending: Pending,
    /// Whom to wake when anything changes for this stream.
    pub(super) waker: Option<Waker>,
    pub(super) answer: Answer,
    /// The peer has ended its direction.
    pub(super) ended: bool,
    /// The app's socket has seen that end.
    pub(super) finished: bool,
    /// The stream is over, not in order.
    pub(super) broken: Option<Broken>,
    /// In line for room in the buffer.
    pub(super) waiting: bool,
}

/// What became of an OPEN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Answer {
    #[default]
    None,
    Accepted,
    Refused(Code),
}

/// How a stream broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    /// The peer or the tunnel: what had arrived is still the app's.
    Far,
    /// The app's socket.
    Near,
}

impl Slot {
    pub(super) fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Tells the app that nothing follows, once.
    pub(super) fn finish(&mut self) {
        if let Some(sink) = self.sink.as_ref().filter(|_| !self.finished) {
            sink.finish();
            self.finished = true;
        }
    }

    pub(super) fn register(&mut self, waker: &Waker) {
        if !self.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            self.waker = Some(waker.clone());
        }
    }
}

/// See the module.
pub(super) struct State {
    pub(super) tls: Tls,
    pub(super) session: Session<Slot>,
    pub(super) decoder: Decoder,
    /// Sealed, to be written.
    pub(super) out: Buffer,
    /// Streams that wait for room in `out`.
    pub(super) waiting: VecDeque<u32>,
    /// The task that writes and reads.
    pub(super) driver: Option<Waker>,
    /// No stream will be opened any more: to be closed after the last.
    pub(super) retired: bool,
    /// The tunnel is gone; nothing is sent.
    pub(super) gone: bool,
    /// The peer's HELLO.
    pub(super) hello: Option<Hello>,
}

/// One tunnel.
pub(super) struct Link {
    pub(super) tcp: TcpStream,
    pub(super) shared: Arc<Shared>,
    pub(super) budget: Arc<Budget>,
    state: Mutex<State>,
}

/// A link, and what of its bytes arrived with the handshake.
pub(super) struct Fresh {
    pub(super) link: Arc<Link>,
    pub(super) opened: Vec<u8>,
}

impl Link {
    /// Over a connection that agreed on `weft/1`.
    pub(super) fn over(
        established: Established,
        side: Side,
        hello: Hello,
        shared: Arc<Shared>,
        budget: Arc<Budget>,
    ) -> Fresh {
        let Established { tcp, tls, opened } = established;
        let state = State {
            tls,
            session: Session::new(side, Windows::DEFAULT, hello),
            decoder: Decoder::default(),
            out: Buffer::default(),
            waiting: VecDeque::new(),
            driver: None,
            retired: false,
            gone: false,
            hello: None,
        };
        Fresh { link: Arc::new(Self { tcp, shared, budget, state: Mutex::new(state) }), opened }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// No stream will be opened any more by this end.
    pub(super) fn retire(&self) {
        let mut state = self.state();
        state.retired = true;
        state.wake_driver();
    }
}

impl State {
    /// Has the driver write what there is, after everyone who is ready has had a turn.
    pub(super) fn wake_driver(&mut self) {
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }

    /// Seals the session's own frames behind what is sealed already.
    ///
    /// # Errors
    /// [`TunnelError`] when answers pile up, or TLS may not be written to.
    pub(super) fn seal_control(&mut self) -> Result<(), TunnelError> {
        let control = self.session.control();
        if control.is_empty() {
            return Ok(());
        }
        let sealed = self.tls.seal(control, &mut self.out);
        control.clear();
        control.shrink_to(256);
        sealed.map_err(|error| TunnelError::Tls(error.to_string()))?;
        if self.out.len() > CONTROL_MAX { Err(Malformed::Flood.into()) } else { Ok(()) }
    }

    /// Seals a DATA frame: `frame` is room for its header, and its payload. `None` if the stream is over.
    pub(super) fn seal_data(&mut self, stream: u32, frame: &mut [u8], end: bool) -> Option<Result<(), TunnelError>> {
        if let Err(error) = self.seal_control() {
            return Some(Err(error));
        }
        let header = self.session.data(stream, frame.len() - HEADER, end)?;
        frame[..HEADER].copy_from_slice(&header);
        Some(self.tls.seal(frame, &mut self.out).map_err(|error| TunnelError::Tls(error.to_string())))
    }

    /// Lets streams in again, as many as there is room for.
    pub(super) fn admit(&mut self) {
        let room = OUT_MAX.saturating_sub(self.out.len());
        for _ in 0..room.div_ceil(TURN) {
            let Some(stream) = self.waiting.pop_front() else { return };
            if let Some(slot) = self.session.owner(stream) {
                slot.waiting = false;
                slot.wake();
            }
        }
    }

    /// The tunnel is gone: whatever its streams have not finished is broken.
    pub(super) fn lose(&mut self) {
        self.gone = true;
        self.waiting.clear();
        for (_, over, slot) in self.session.owners() {
            if !over && slot.broken.is_none() {
                slot.broken = Some(Broken::Far);
            }
            slot.wake();
        }
    }
}
