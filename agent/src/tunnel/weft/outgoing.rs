//! From the apps into the tunnel's buffer: reading and sealing, by a stream's own task while there is room, in turn by the
//! driver when there is not.

use std::io::{self, IoSliceMut};

use smallvec::SmallVec;

use super::handle::App;
use super::link::{Broken, OUT_MAX, State};
use crate::tunnel::TunnelError;
use crate::tunnel::mux::{HEADER, PAYLOAD_MAX};
use crate::tunnel::tls::{PREFIX, SUFFIX};

/// Records filled by one read from an app.
const TURN: usize = 16;
/// What a stream in line sends before it is another's turn, in bytes. What the buffer had no room for is sent before the next
/// begins (deficit round robin: Shreedhar and Varghese, SIGCOMM 1995), or streams that find the buffer nearly full would
/// find it so every time: the slowest of four had 0.6 of the fastest's share.
const QUANTUM: usize = TURN * PAYLOAD_MAX;
/// What a full DATA frame takes as a record.
const RECORD: usize = PREFIX + HEADER + PAYLOAD_MAX + SUFFIX;

/// What has come of the app's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    /// Some are on their way.
    Some,
    /// The same, and the app had no more.
    All,
    /// The app has ended; so has the stream, in this direction.
    End,
    /// The app has nothing now.
    Nothing,
    /// The peer's window is full.
    NoCredit,
    /// The tunnel's buffer is full; the stream is in line.
    NoRoom,
    /// The app's socket has failed.
    Near,
    /// The stream takes nothing any more.
    Over,
}

impl State {
    /// Sends what a stream's app has, if it is the stream's turn; puts it in line otherwise.
    ///
    /// # Errors
    /// [`TunnelError`] that ends the tunnel.
    pub(super) fn send(&mut self, stream: u32) -> Result<Sent, TunnelError> {
        let credit = match self.credit(stream) {
            Ok(credit) => credit,
            Err(sent) => return Ok(sent),
        };
        if self.out.len() < OUT_MAX && self.line.is_empty() {
            let app = self.session.owner(stream).and_then(|slot| slot.app.clone());
            return app.map_or(Ok(Sent::Nothing), |app| self.pull(stream, credit, &*app));
        }
        self.join_line(stream);
        Ok(Sent::NoRoom)
    }

    /// Sends what `app` has in the place of the stream's own, if there is room for it now.
    ///
    /// # Errors
    /// As [`State::send`].
    pub(super) fn send_now(&mut self, stream: u32, app: &dyn App) -> Result<Sent, TunnelError> {
        match self.credit(stream) {
            Err(sent) => Ok(sent),
            Ok(credit) if self.out.len() < OUT_MAX && self.line.is_empty() => self.pull(stream, credit, app),
            Ok(_) => Ok(Sent::NoRoom),
        }
    }

    /// Has a stream's turn come, unless it waits for it already.
    pub(super) fn join_line(&mut self, stream: u32) {
        if let Some(slot) = self.session.owner(stream)
            && !std::mem::replace(&mut slot.in_line, true)
        {
            self.line.join(stream);
        }
    }

    /// Gives those in line their turns, as long as there is room.
    ///
    /// # Errors
    /// As [`State::send`].
    pub(super) fn serve_line(&mut self) -> Result<(), TunnelError> {
        while self.out.len() < OUT_MAX {
            let Some(stream) = self.line.next() else { return Ok(()) };
            let app = self.session.owner(stream).and_then(|slot| slot.app.clone());
            let sent = match (self.credit(stream), app) {
                (Ok(credit), Some(app)) => self.take_turn(stream, credit, &*app)?,
                (Ok(_), None) => Sent::Nothing,
                (Err(sent), _) => sent,
            };
            if let Some(slot) = self.session.owner(stream)
                && !matches!(sent, Sent::Some | Sent::All)
            {
                // Whatever it is, its own task has to see to it.
                slot.in_line = false;
                slot.spent = 0;
                slot.wake();
            }
        }
        Ok(())
    }

    /// Sends what is left of a stream's turn, as far as there is room, and puts it where it goes in line.
    fn take_turn(&mut self, stream: u32, credit: usize, app: &dyn App) -> Result<Sent, TunnelError> {
        let spent = self.session.owner(stream).map_or(0, |slot| slot.spent);
        let allowed = credit.min(QUANTUM - spent);
        let before = credit;
        let sent = self.pull(stream, allowed, app)?;
        if !matches!(sent, Sent::Some | Sent::All) {
            return Ok(sent);
        }
        let spent = spent + before - self.credit(stream).unwrap_or(0);
        let over = sent == Sent::All || spent + PAYLOAD_MAX > QUANTUM;
        if let Some(slot) = self.session.owner(stream) {
            slot.spent = if over { 0 } else { spent };
        }
        if over {
            self.line.again(stream)
        } else {
            self.line.go_on(stream)
        }
        Ok(sent)
    }

    /// What a stream may send, in bytes and more than 0, or why it may not.
    fn credit(&mut self, stream: u32) -> Result<usize, Sent> {
        let Some((outbound, _)) = self.session.flow(stream).filter(|_| !self.gone) else { return Err(Sent::Over) };
        let (credit, ended) = (outbound.credit(), outbound.ended());
        match self.session.owner(stream) {
            Some(slot) if slot.broken == Some(Broken::Near) => Err(Sent::Near),
            Some(slot) if slot.broken.is_none() => match credit {
                _ if ended => Err(Sent::End),
                0 => Err(Sent::NoCredit),
                _ => Ok(usize::try_from(credit).unwrap_or(usize::MAX)),
            },
            _ => Err(Sent::Over),
        }
    }

    /// One read from the app, straight to where it is sealed.
    fn pull(&mut self, stream: u32, credit: usize, app: &dyn App) -> Result<Sent, TunnelError> {
        self.seal_control()?;
        self.tls.renew(&mut self.out).map_err(failed)?;
        let room = OUT_MAX.saturating_sub(self.out.len()).max(PAYLOAD_MAX);
        let size = credit.min(room).min(TURN * PAYLOAD_MAX);
        let read = read(app, self.out.room(size.div_ceil(PAYLOAD_MAX) * RECORD), size);
        if !matches!(read, Ok(1..)) {
            // Or every idle tunnel would keep a buffer that was made for what its app did not say.
            self.out.rest();
        }
        match read {
            Ok(0) => self.seal_data(stream, 0, true).map(|()| Sent::End),
            Ok(read) => {
                let mut left = read;
                while left > 0 {
                    let size = left.min(PAYLOAD_MAX);
                    self.seal_data(stream, size, false)?;
                    left -= size;
                }
                Ok(if read < size { Sent::All } else { Sent::Some })
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Sent::Nothing),
            Err(_) => {
                if let Some(slot) = self.session.owner(stream) {
                    slot.broken.get_or_insert(Broken::Near);
                }
                Ok(Sent::Near)
            }
        }
    }

    /// Seals a DATA frame whose payload [`read`] has put into the buffer's room.
    fn seal_data(&mut self, stream: u32, size: usize, end: bool) -> Result<(), TunnelError> {
        let Some(header) = self.session.data(stream, size, end) else { return Ok(()) };
        let size = PREFIX + HEADER + size + SUFFIX;
        let record = &mut self.out.room(size)[..size];
        record[PREFIX..PREFIX + HEADER].copy_from_slice(&header);
        self.tls.seal_in_place(record).map_err(failed)?;
        self.out.filled(size);
        Ok(())
    }
}

/// Reads up to `size` bytes to where the payloads of consecutive full records lie in `room`.
fn read(app: &dyn App, room: &mut [u8], size: usize) -> io::Result<usize> {
    let mut left = size;
    let mut payloads: SmallVec<[IoSliceMut<'_>; TURN]> = SmallVec::new();
    for record in room.chunks_exact_mut(RECORD) {
        let payload = left.min(PAYLOAD_MAX);
        if payload == 0 {
            break;
        }
        payloads.push(IoSliceMut::new(&mut record[PREFIX + HEADER..][..payload]));
        left -= payload;
    }
    app.read(&mut payloads)
}

fn failed(error: rustls::Error) -> TunnelError {
    TunnelError::Tls(error.to_string())
}
