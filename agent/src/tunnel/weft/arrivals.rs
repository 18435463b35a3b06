//! From what has been opened to the apps: frames are taken apart, and what came for one app in a row goes to it in one call.

use std::io::IoSlice;
use std::sync::Arc;

use smallvec::SmallVec;

use super::link::{Answer, Broken, Link, Slot};
use crate::tunnel::codec::{Claims, parse_baggage};
use crate::tunnel::mux::{Code, Decoder, Event, Malformed, Open, Session};
use crate::tunnel::{Budget, TunnelError};

/// Frames given to an app with one call: more than one read of the tunnel brings. A call for each costs a gigabyte a third of
/// a CPU-second more, and wakes the app four times as often.
const PIECES: usize = 16;

/// Frames on their way from records to where they belong.
pub(super) struct Arrivals<'s, 'b> {
    session: &'s mut Session<Slot>,
    decoder: &'s mut Decoder,
    claims: &'s mut Option<Arc<Claims>>,
    link: &'s Link,
    run: Run<'b>,
    opened: Vec<(u32, Open)>,
    malformed: Option<Malformed>,
}

/// What has come for one stream in a row.
#[derive(Default)]
struct Run<'b> {
    stream: u32,
    pieces: SmallVec<[IoSlice<'b>; PIECES]>,
    end: bool,
}

impl<'s, 'b> Arrivals<'s, 'b> {
    pub(super) fn new(
        session: &'s mut Session<Slot>,
        decoder: &'s mut Decoder,
        claims: &'s mut Option<Arc<Claims>>,
        link: &'s Link,
    ) -> Self {
        Self { session, decoder, claims, link, run: Run::default(), opened: Vec::new(), malformed: None }
    }

    /// Takes the next bytes of the peer.
    pub(super) fn take(&mut self, mut record: &'b [u8]) {
        while self.malformed.is_none() {
            match self.decoder.next(&mut record) {
                Ok(None) => return,
                Ok(Some(frame)) => match self.session.apply(frame) {
                    Ok(Some(event)) => self.handle(event),
                    Ok(None) => {}
                    Err(malformed) => self.malformed = Some(malformed),
                },
                Err(malformed) => self.malformed = Some(malformed),
            }
        }
    }

    /// After the last bytes. Answers which streams the peer has opened, and what it broke.
    pub(super) fn finish(mut self) -> (Vec<(u32, Open)>, Option<Malformed>) {
        self.deliver();
        (self.opened, self.malformed)
    }

    fn handle(&mut self, event: Event<'b>) {
        if let Event::Data { stream, bytes, end } = event {
            return self.gather(stream, bytes, end);
        }
        // What came before is delivered before.
        self.deliver();
        match event {
            Event::Hello(hello) => {
                *self.claims = hello.baggage.and_then(|text| parse_baggage(&text).ok()).map(Arc::new);
                if self.session.is_leaving() {
                    self.link.shared.leave();
                }
            }
            Event::Opened(stream, open) => {
                self.session.enter(stream, Slot::default());
                self.opened.push((stream, open));
            }
            Event::Accepted(stream) => self.slot(stream, |slot| slot.answer = Answer::Accepted),
            Event::Refused(stream, code) => self.slot(stream, |slot| slot.answer = Answer::Refused(code)),
            Event::Credited(stream) => self.slot(stream, |_| {}),
            Event::Reset(stream, _) => self.slot(stream, |slot| slot.broken = Some(Broken::Far)),
            Event::GoingAway(last, code) => self.left(last, code),
            Event::Data { .. } | Event::Pong(_) => {}
        }
    }

    fn slot(&mut self, stream: u32, change: impl FnOnce(&mut Slot)) {
        if let Some(slot) = self.session.owner(stream) {
            change(slot);
            slot.wake();
        }
    }

    fn gather(&mut self, stream: u32, bytes: &'b [u8], end: bool) {
        if self.run.stream != stream || self.run.pieces.len() == PIECES {
            self.deliver();
        }
        self.run.stream = stream;
        self.run.end = end;
        if !bytes.is_empty() {
            self.run.pieces.push(IoSlice::new(bytes));
        }
    }

    /// Straight to the app, as far as it takes it; what it does not waits.
    fn deliver(&mut self) {
        let stream = std::mem::take(&mut self.run.stream);
        if let Some(slot) = self.session.owner(stream).filter(|slot| slot.broken.is_none()) {
            match give(slot, &mut self.run.pieces, self.run.end, &self.link.budget) {
                Given::Taken(0) => {}
                Given::Taken(taken) => {
                    let grow = |slot: &mut Slot, growth: u32| self.link.may_grow(slot, growth);
                    self.session.took(stream, u32::try_from(taken).unwrap_or(u32::MAX), grow);
                }
                Given::OverBudget => self.session.reset(stream, Code::OverBudget),
            }
        }
        self.run.pieces.clear();
        self.run.end = false;
    }

    /// The peer takes no more streams: what it has not taken is to be opened elsewhere.
    fn left(&mut self, last: u32, code: Code) {
        let shared = &self.link.shared;
        if code == Code::Malformed {
            shared.fail(TunnelError::Closed("the peer says that this end broke the protocol".to_owned()));
        }
        shared.leave();
        for (stream, _, slot) in self.session.owners() {
            if stream > last && slot.answer == Answer::None {
                slot.answer = Answer::Refused(Code::Leaving);
                slot.wake();
            }
        }
    }
}

/// What came of giving an app its bytes.
enum Given {
    /// It has taken so many.
    Taken(usize),
    /// The rest could not be kept; the stream is broken by that.
    OverBudget,
}

fn give(slot: &mut Slot, mut pieces: &mut [IoSlice<'_>], end: bool, budget: &Budget) -> Given {
    let mut taken = 0;
    if let Some(app) = slot.app.as_ref().filter(|_| slot.pending.is_empty() && !pieces.is_empty()) {
        match app.write(pieces) {
            Ok(size) => taken = size,
            Err(_) => {
                slot.broken = Some(Broken::Near);
                slot.wake();
                return Given::Taken(0);
            }
        }
        IoSlice::advance_slices(&mut pieces, taken);
    }
    if !pieces.is_empty() && !keep(slot, pieces, budget) {
        return Given::OverBudget;
    }
    if end {
        slot.ended = true;
        if slot.pending.is_empty() {
            slot.finish();
        }
        slot.wake();
    }
    Given::Taken(taken)
}

/// Keeps what an app has not taken; `false` if the pod's budget does not allow it, and the stream is broken by that.
fn keep(slot: &mut Slot, rest: &[IoSlice<'_>], budget: &Budget) -> bool {
    let fits = budget.charge(rest.iter().map(|piece| piece.len()).sum(), slot.pending.len());
    if fits {
        rest.iter().for_each(|piece| slot.pending.push(piece));
    } else {
        budget.credit(slot.pending.len());
        slot.pending.clear();
        slot.broken = Some(Broken::Far);
    }
    slot.wake();
    fits
}
