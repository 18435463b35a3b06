//! A tunnel's state: TLS, the session of the protocol, and with each stream what has arrived for it and whom to wake.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Instant;

use tokio::net::TcpStream;

use super::handle::App;
use super::line::Line;
use super::pace::Pace;
use super::pending::Pending;
use crate::sys::socket::shortest_round_trip;
use crate::tunnel::buffer::Buffer;
use crate::tunnel::codec::Claims;
use crate::tunnel::mux::{Code, Decoder, Hello, Malformed, Session, Side, Windows};
use crate::tunnel::shared::Shared;
use crate::tunnel::tls::{Established, Records};
use crate::tunnel::{Budget, TunnelError};

/// Sealed bytes beyond which streams wait for their turn. A small message waits for no more than that, since it goes before
/// those who always have something: see [`super::line`].
pub(super) const OUT_MAX: usize = 256 * 1024;
/// Answers that a peer does not read, in bytes, beyond which it means harm.
const CONTROL_MAX: usize = 1024 * 1024;

/// What is kept with a stream beside the protocol's state.
#[derive(Default)]
pub(super) struct Slot {
    /// The app's socket, once the stream is relayed.
    pub(super) app: Option<Arc<dyn App>>,
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
    /// How fast the app takes what comes.
    pub(super) pace: Pace,
    /// Waits for its turn to fill the buffer.
    pub(super) in_line: bool,
    /// What it has sent of that turn, in bytes.
    pub(super) spent: usize,
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
        if let Some(app) = self.app.as_ref().filter(|_| !self.finished) {
            app.finish();
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
    pub(super) tls: Records,
    pub(super) session: Session<Slot>,
    pub(super) decoder: Decoder,
    /// Sealed, to be written.
    pub(super) out: Buffer,
    /// Streams that wait for room in `out`.
    pub(super) line: Line,
    /// The task that writes and reads.
    driver: Option<Waker>,
    /// It has been woken since it last looked.
    roused: bool,
    /// No stream will be opened any more: to be closed after the last.
    pub(super) retired: bool,
    /// The tunnel is gone; nothing is sent.
    pub(super) gone: bool,
    /// What the peer's HELLO says about itself.
    pub(super) claims: Option<Arc<Claims>>,
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
    ///
    /// # Errors
    /// When TLS cannot be taken over.
    pub(super) fn over(
        established: Established,
        side: Side,
        hello: Hello,
        shared: Arc<Shared>,
        budget: Arc<Budget>,
    ) -> Result<Fresh, TunnelError> {
        let Established { tcp, tls, opened } = established;
        let tls = tls.into_records().map_err(|error| TunnelError::Tls(error.to_string()))?;
        let state = State {
            tls,
            session: Session::new(side, Windows::DEFAULT, hello),
            decoder: Decoder::default(),
            out: Buffer::default(),
            line: Line::default(),
            driver: None,
            roused: false,
            retired: false,
            gone: false,
            claims: None,
        };
        Ok(Fresh { link: Arc::new(Self { tcp, shared, budget, state: Mutex::new(state) }), opened })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a stream's window, of `growth` bytes, may grow by as many: where more of it would be used, and the pod's budget
    /// allows it.
    pub(super) fn may_grow(&self, slot: &mut Slot, growth: u32) -> bool {
        let round_trip = shortest_round_trip(&self.tcp).unwrap_or_default();
        slot.pace.fills(growth, round_trip, &self.budget, Instant::now()) && self.budget.grow(growth as usize)
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
        if let Some(driver) = self.driver.as_ref().filter(|_| !self.roused) {
            driver.wake_by_ref();
            self.roused = true;
        }
    }

    /// The driver looks after what there is to do; [`State::wake_driver`] wakes it again.
    pub(super) fn register_driver(&mut self, waker: &Waker) {
        self.roused = false;
        if !self.driver.as_ref().is_some_and(|known| known.will_wake(waker)) {
            self.driver = Some(waker.clone());
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

    /// The tunnel is gone: whatever its streams have not finished is broken.
    pub(super) fn lose(&mut self) {
        self.gone = true;
        self.line.clear();
        for (_, over, slot) in self.session.owners() {
            if !over && slot.broken.is_none() {
                slot.broken = Some(Broken::Far);
            }
            slot.wake();
        }
    }
}
