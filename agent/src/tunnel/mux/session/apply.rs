//! What the peer's frames do to a session: every transition of `docs/tunnel.md`, "States", that begins at the peer.

use super::{Event, Phase, Session, Side};
use crate::tunnel::mux::fields::{Hello, Open};
use crate::tunnel::mux::frame::{Code, Frame};
use crate::tunnel::mux::malformed::Malformed;

impl<T> Session<T> {
    /// What a frame means.
    ///
    /// # Errors
    /// [`Malformed`]; the tunnel must be closed, with a GOAWAY that says so.
    pub fn apply<'a>(&mut self, frame: Frame<'a>) -> Result<Option<Event<'a>>, Malformed> {
        if !self.hello && !matches!(frame, Frame::Hello(_)) {
            return Err(Malformed::NoHello);
        }
        match frame {
            Frame::Hello(hello) => self.greeted(hello).map(Some),
            Frame::Open(stream, open) => self.opened(stream, open),
            Frame::Data { stream, bytes, end } => self.received(stream, bytes, end),
            Frame::Accept(stream) => self.accepted(stream),
            Frame::Refuse(stream, code) => self.refused(stream, code),
            Frame::Credit(stream, amount) => self.credited(stream, amount),
            Frame::Reset(stream, code) => Ok(self.known(stream)?.then(|| self.was_reset(stream, code)).flatten()),
            Frame::Ping(token) => {
                Frame::Pong(token).write(&mut self.control);
                Ok(None)
            }
            Frame::Pong(token) if self.pinged == Some(token) => {
                self.pinged = None;
                Ok(Some(Event::Pong(token)))
            }
            Frame::Pong(_) => Err(Malformed::Pong),
            Frame::GoAway(last, code) => self.left(last, code).map(Some),
        }
    }

    fn greeted(&mut self, hello: Hello) -> Result<Event<'static>, Malformed> {
        if std::mem::replace(&mut self.hello, true) {
            return Err(Malformed::RepeatedHello);
        }
        if self.side == Side::Client {
            self.limit = hello.streams;
            if hello.streams == 0 {
                // Nothing will ever be opened in it again: no tunnel to keep.
                self.peer_leaving = Some(self.last);
            }
        }
        Ok(Event::Hello(hello))
    }

    fn opened(&mut self, stream: u32, open: Open) -> Result<Option<Event<'static>>, Malformed> {
        if self.side == Side::Client {
            return Err(Malformed::WrongSide);
        }
        if self.last.checked_add(1) != Some(stream) {
            return Err(Malformed::OpenOrder);
        }
        self.last = stream;
        if self.leaving.is_some() {
            // Sent before the peer heard of the GOAWAY: it knows from there that nobody takes it.
            return Ok(None);
        }
        // The untold number may be open before our HELLO is read.
        if self.open >= self.limit.max(Hello::STREAMS_UNTOLD) {
            return Err(Malformed::TooManyStreams);
        }
        Ok(Some(Event::Opened(stream, open)))
    }

    /// Whether a stream is there; if it is not, it must at least have been.
    fn known(&self, stream: u32) -> Result<bool, Malformed> {
        if stream > self.last {
            return Err(Malformed::UnknownStream);
        }
        Ok(self.streams.get(&stream).is_some_and(|known| known.phase != Phase::Reset))
    }

    fn received<'a>(&mut self, stream: u32, bytes: &'a [u8], end: bool) -> Result<Option<Event<'a>>, Malformed> {
        if !self.known(stream)? {
            return Ok(None);
        }
        let Some(known) = self.streams.get_mut(&stream) else { return Ok(None) };
        if self.side == Side::Client && known.phase == Phase::Opening {
            return Err(Malformed::NotOpening);
        }
        known.inbound.received(u32::try_from(bytes.len()).map_err(|_| Malformed::Length)?, end)?;
        if known.is_over() {
            self.open -= 1;
        }
        Ok(Some(Event::Data { stream, bytes, end }))
    }

    fn accepted(&mut self, stream: u32) -> Result<Option<Event<'static>>, Malformed> {
        if self.side == Side::Server {
            return Err(Malformed::WrongSide);
        }
        if !self.known(stream)? {
            return Ok(None);
        }
        match self.streams.get_mut(&stream) {
            Some(known) if known.phase == Phase::Opening => {
                known.phase = Phase::Open;
                Ok(Some(Event::Accepted(stream)))
            }
            _ => Err(Malformed::NotOpening),
        }
    }

    fn refused(&mut self, stream: u32, code: Code) -> Result<Option<Event<'static>>, Malformed> {
        if self.side == Side::Server {
            return Err(Malformed::WrongSide);
        }
        if !self.known(stream)? {
            return Ok(None);
        }
        match self.streams.get_mut(&stream) {
            Some(known) if known.phase == Phase::Opening => {
                self.was_reset(stream, code);
                Ok(Some(Event::Refused(stream, code)))
            }
            _ => Err(Malformed::NotOpening),
        }
    }

    fn credited(&mut self, stream: u32, amount: u32) -> Result<Option<Event<'static>>, Malformed> {
        if amount == 0 {
            return Err(Malformed::CreditAmount);
        }
        if !self.known(stream)? {
            return Ok(None);
        }
        let Some(known) = self.streams.get_mut(&stream) else { return Ok(None) };
        known.outbound.granted(amount)?;
        Ok(Some(Event::Credited(stream)))
    }

    fn was_reset(&mut self, stream: u32, code: Code) -> Option<Event<'static>> {
        let known = self.streams.get_mut(&stream)?;
        if !known.is_over() {
            self.open -= 1;
        }
        known.phase = Phase::Reset;
        Some(Event::Reset(stream, code))
    }

    fn left(&mut self, last: u32, code: Code) -> Result<Event<'static>, Malformed> {
        let grows = self.peer_leaving.is_some_and(|before| last > before);
        if grows || (self.side == Side::Client && last > self.last) {
            return Err(Malformed::GoAway);
        }
        self.peer_leaving = Some(last);
        Ok(Event::GoingAway(last, code))
    }
}
