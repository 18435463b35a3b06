//! One end of a tunnel: which streams there are, in which state, and what may happen next. `docs/tunnel.md`, "States".
//!
//! Frames go in by [`Session::apply`], which answers what they mean to the owner of the streams or that the peer broke the
//! protocol. What this end has to say is appended to a buffer of frames that the owner sends, in that order, before any
//! later DATA. `T` is whatever the owner keeps with a stream.

mod apply;

use std::collections::HashMap;

use super::credit::{Inbound, Outbound, Windows};
use super::fields::{Hello, Open};
use super::frame::{Code, Frame, HEADER, data_header, write_open};

/// Which end of the tunnel this is. Only the client opens streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// Has dialled.
    Client,
    /// Has accepted.
    Server,
}

/// Something the owner has to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<'a> {
    /// The peer's HELLO.
    Hello(Hello),
    /// To be accepted or refused.
    Opened(u32, Open),
    /// The peer has accepted.
    Accepted(u32),
    /// The peer has refused: its state stays until it is released.
    Refused(u32, Code),
    /// Bytes for the app, and whether they are the last.
    Data {
        /// The stream.
        stream: u32,
        /// May be empty, with an end.
        bytes: &'a [u8],
        /// Nothing follows.
        end: bool,
    },
    /// More may be sent.
    Credited(u32),
    /// The peer has reset the stream: its state stays until it is released.
    Reset(u32, Code),
    /// The PING with this token was answered.
    Pong(u64),
    /// The peer takes no stream above this one; those have to be opened elsewhere.
    GoingAway(u32, Code),
}

/// Why no stream could be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotOpened {
    /// One of both ends is leaving, or the numbers are used up.
    Leaving,
    /// The peer allows no more at once.
    Full,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Phase {
    Opening,
    Open,
    Reset,
}

#[derive(Debug, Clone)]
struct Stream<T> {
    phase: Phase,
    outbound: Outbound,
    inbound: Inbound,
    owner: T,
}

impl<T> Stream<T> {
    fn is_over(&self) -> bool {
        self.phase == Phase::Reset || (self.outbound.ended() && self.inbound.ended())
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Session<T> {
    side: Side,
    windows: Windows,
    /// What the client may have open at once.
    limit: u32,
    hello: bool,
    streams: HashMap<u32, Stream<T>>,
    /// Streams that count against the limit.
    open: u32,
    /// The newest stream's number.
    last: u32,
    /// The last stream taken, once this end has said that it leaves.
    leaving: Option<u32>,
    /// The same of the peer.
    peer_leaving: Option<u32>,
    /// The token of the PING under way.
    pinged: Option<u64>,
    control: Vec<u8>,
}

impl<T> Session<T> {
    /// A tunnel whose `hello` is the first thing to be sent. The server's says how many streams the client may open.
    #[must_use]
    pub fn new(side: Side, windows: Windows, hello: Hello) -> Self {
        let limit = if side == Side::Server { hello.streams } else { Hello::STREAMS_UNTOLD };
        let mut control = Vec::new();
        Frame::Hello(hello).write(&mut control);
        Self {
            side,
            windows,
            limit,
            hello: false,
            streams: HashMap::new(),
            open: 0,
            last: 0,
            leaving: None,
            peer_leaving: None,
            pinged: None,
            control,
        }
    }

    /// Frames to be sent before any other; the owner empties it.
    pub fn control(&mut self) -> &mut Vec<u8> {
        &mut self.control
    }

    /// Streams that are not over.
    #[must_use]
    pub fn open_streams(&self) -> u32 {
        self.open
    }

    /// Whether the client may open a stream.
    ///
    /// # Errors
    /// [`NotOpened`] says why not.
    pub fn may_open(&self) -> Result<(), NotOpened> {
        if self.leaving.is_some() || self.peer_leaving.is_some() || self.last == u32::MAX {
            return Err(NotOpened::Leaving);
        }
        if self.open < self.limit { Ok(()) } else { Err(NotOpened::Full) }
    }

    /// Whether either end takes no more streams.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.leaving.is_some() || self.peer_leaving.is_some()
    }

    /// What the owner keeps with a stream.
    #[must_use]
    pub fn owner(&mut self, stream: u32) -> Option<&mut T> {
        self.streams.get_mut(&stream).map(|stream| &mut stream.owner)
    }

    /// Of every stream its number, whether it is over, and what the owner keeps.
    pub fn owners(&mut self) -> impl Iterator<Item = (u32, bool, &mut T)> {
        self.streams.iter_mut().map(|(number, stream)| (*number, stream.is_over(), &mut stream.owner))
    }

    /// Whether no stream is known any more, over or not.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    /// The flow control of a stream: what may be sent and what has come.
    #[must_use]
    pub fn flow(&self, stream: u32) -> Option<(&Outbound, &Inbound)> {
        self.streams.get(&stream).map(|stream| (&stream.outbound, &stream.inbound))
    }

    /// Opens a stream, with its `first` bytes as far as a frame has room for them. Answers its number and how many it took.
    ///
    /// # Errors
    /// [`NotOpened`]; another tunnel may do.
    pub fn open(&mut self, open: &Open, first: &[u8], owner: T) -> Result<(u32, usize), NotOpened> {
        self.may_open()?;
        debug_assert_eq!(self.side, Side::Client, "only clients open streams");
        self.last += 1;
        let taken = write_open(self.last, open, first, false, &mut self.control);
        self.insert(self.last, owner);
        if let Some(stream) = self.streams.get_mut(&self.last) {
            stream.outbound.sent(u32::try_from(taken).unwrap_or(u32::MAX), false);
        }
        Ok((self.last, taken))
    }

    fn insert(&mut self, number: u32, owner: T) {
        let (outbound, inbound) = (Outbound::new(&self.windows), Inbound::new(&self.windows));
        self.streams.insert(number, Stream { phase: Phase::Opening, outbound, inbound, owner });
        self.open += 1;
    }

    /// Accepts what was [`Event::Opened`]. `false` if the stream is over already.
    pub fn accept(&mut self, stream: u32) -> bool {
        let Some(known) = self.streams.get_mut(&stream).filter(|known| known.phase == Phase::Opening) else {
            return false;
        };
        known.phase = Phase::Open;
        Frame::Accept(stream).write(&mut self.control);
        true
    }

    /// Refuses what was [`Event::Opened`]; the stream is gone.
    pub fn refuse(&mut self, stream: u32, code: Code) {
        if self.streams.get(&stream).is_some_and(|known| known.phase == Phase::Opening) {
            self.remove(stream);
            Frame::Refuse(stream, code).write(&mut self.control);
        }
    }

    /// The header to send in front of `bytes` bytes of data, which the stream has credit for.
    pub fn data(&mut self, stream: u32, bytes: usize, end: bool) -> Option<[u8; HEADER]> {
        let known = self.streams.get_mut(&stream)?;
        let was_over = known.is_over();
        let amount = u32::try_from(bytes).ok().filter(|amount| *amount <= known.outbound.credit())?;
        if known.outbound.ended() || known.phase == Phase::Reset {
            return None;
        }
        known.outbound.sent(amount, end);
        if known.is_over() && !was_over {
            self.open -= 1;
        }
        Some(data_header(stream, bytes, end))
    }

    /// The app has taken `bytes` of a stream; see [`Inbound`] for `more`.
    pub fn took(&mut self, stream: u32, bytes: u32, more: impl FnOnce(&mut T, u32) -> bool) {
        let Some(known) = self.streams.get_mut(&stream) else { return };
        let windows = &self.windows;
        if let Some(grant) = known.inbound.took(bytes, windows, |growth| more(&mut known.owner, growth))
            && known.phase != Phase::Reset
        {
            Frame::Credit(stream, grant).write(&mut self.control);
        }
    }

    /// Ends a stream at once, and keeps its state until it is released.
    pub fn reset(&mut self, stream: u32, code: Code) {
        let Some(known) = self.streams.get_mut(&stream).filter(|known| !known.is_over()) else { return };
        known.phase = Phase::Reset;
        self.open -= 1;
        Frame::Reset(stream, code).write(&mut self.control);
    }

    /// Forgets a stream. If it is not over, the peer is told so with `code`.
    pub fn release(&mut self, stream: u32, code: Code) -> Option<T> {
        let over = self.streams.get(&stream)?.is_over();
        if !over {
            Frame::Reset(stream, code).write(&mut self.control);
        }
        self.remove(stream)
    }

    fn remove(&mut self, stream: u32) -> Option<T> {
        let known = self.streams.remove(&stream)?;
        if !known.is_over() {
            self.open -= 1;
        }
        Some(known.owner)
    }

    /// Asks whether the peer is there. `false` while an earlier PING is not answered.
    pub fn ping(&mut self, token: u64) -> bool {
        if self.pinged.is_some() {
            return false;
        }
        self.pinged = Some(token);
        Frame::Ping(token).write(&mut self.control);
        true
    }

    /// Takes no more streams from the peer, and opens none.
    pub fn leave(&mut self, code: Code) {
        if self.leaving.is_none() {
            self.leaving = Some(self.last);
            Frame::GoAway(self.last, code).write(&mut self.control);
        }
    }

    /// Enters a stream that was [`Event::Opened`].
    pub fn enter(&mut self, stream: u32, owner: T) {
        self.insert(stream, owner);
    }
}
