//! Flow control of one direction of one stream. Streams share no window: a reader who stops costs his own stream.
//!
//! Both ends count the same sum: what the sender may still send, what is under way, what the receiver holds for the app,
//! what the app has taken and was not yet granted again, and grants under way, are together the receiver's window.
//! `tests/credit.rs` visits every state of small windows and finds that sum kept, and no state without a way on.

use super::malformed::Malformed;

/// How much a stream's sender may have under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Windows {
    /// Both ends know it without being told, in bytes.
    pub initial: u32,
    /// What it may grow to, in bytes.
    pub most: u32,
}

impl Windows {
    /// 256 KiB fill 2 Gbit/s at a round trip of 1 ms; 4 MiB fill 30.
    pub const DEFAULT: Self = Self { initial: 256 * 1024, most: 4 * 1024 * 1024 };
}

/// What may be sent.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Outbound {
    credit: u32,
    ended: bool,
}

impl Outbound {
    pub(super) fn new(windows: &Windows) -> Self {
        Self { credit: windows.initial, ended: false }
    }

    /// Bytes that may be sent now.
    #[must_use]
    pub fn credit(&self) -> u32 {
        self.credit
    }

    /// Whether the end has been sent.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Takes note of `bytes` sent, at most [`Outbound::credit`].
    pub(super) fn sent(&mut self, bytes: u32, end: bool) {
        debug_assert!(bytes <= self.credit && !self.ended, "sent without credit, or past the end");
        self.credit = self.credit.saturating_sub(bytes);
        self.ended |= end;
    }

    pub(super) fn granted(&mut self, amount: u32) -> Result<(), Malformed> {
        if amount == 0 {
            return Err(Malformed::CreditAmount);
        }
        self.credit = self.credit.checked_add(amount).ok_or(Malformed::CreditAmount)?;
        Ok(())
    }
}

/// What may come.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Inbound {
    /// What the peer may still send.
    credit: u32,
    /// What it may have sent and not been granted again.
    window: u32,
    /// Received and not taken by the app.
    held: u32,
    /// Taken by the app and not granted again.
    taken: u32,
    /// Taken since the window last might have grown.
    since_asked: u32,
    ended: bool,
}

impl Inbound {
    pub(super) fn new(windows: &Windows) -> Self {
        Self { credit: windows.initial, window: windows.initial, held: 0, taken: 0, since_asked: 0, ended: false }
    }

    /// Bytes received that the app has not taken.
    #[must_use]
    pub fn held(&self) -> u32 {
        self.held
    }

    /// The window as it is now, in bytes.
    #[must_use]
    pub fn window(&self) -> u32 {
        self.window
    }

    /// Whether the peer has sent its end.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.ended
    }

    pub(super) fn received(&mut self, bytes: u32, end: bool) -> Result<(), Malformed> {
        if self.ended {
            return Err(Malformed::DataAfterEnd);
        }
        self.credit = self.credit.checked_sub(bytes).ok_or(Malformed::CreditExceeded)?;
        self.held += bytes;
        self.ended = end;
        Ok(())
    }

    /// The app has taken `bytes`. Answers what to grant, when it is worth a frame: half of the window.
    ///
    /// The window doubles when the app has taken one full window and left nothing lying, if `more` says so. It is asked
    /// once for each window taken.
    pub(super) fn took(&mut self, bytes: u32, windows: &Windows, more: impl FnOnce(u32) -> bool) -> Option<u32> {
        debug_assert!(bytes <= self.held, "took more than there was");
        self.held -= bytes.min(self.held);
        self.taken += bytes;
        self.since_asked = self.since_asked.saturating_add(bytes);
        if self.ended || self.taken < (self.window / 2).max(1) {
            return None;
        }
        let growth = self.window.min(windows.most.saturating_sub(self.window));
        let mut grant = std::mem::take(&mut self.taken);
        if growth > 0 && self.held == 0 && self.since_asked >= self.window {
            self.since_asked = 0;
            if more(growth) {
                self.window += growth;
                grant += growth;
            }
        }
        self.credit += grant;
        Some(grant)
    }

    /// What the peer may still send, as this end sees it.
    #[cfg(test)]
    pub(super) fn may_come(&self) -> u32 {
        self.credit
    }

    /// Everything this end knows of the window.
    #[cfg(test)]
    pub(super) fn accounted(&self) -> u32 {
        self.credit + self.held + self.taken
    }
}
