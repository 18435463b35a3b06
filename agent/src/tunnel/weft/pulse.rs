//! PINGs when it is quiet: a peer that is gone is noticed without waiting for TCP to give up.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::link::Link;
use crate::tunnel::Keepalive;

/// What silence is known to: an answer within it must not be taken for none.
const GRAIN: Duration = Duration::from_millis(2);
/// How much less often a tunnel without streams is asked.
const IDLE: u32 = 10;

/// The pulse of one tunnel.
pub(super) struct Pulse {
    link: Arc<Link>,
    settings: Keepalive,
    /// When an answer began to be awaited.
    pinged: Option<Instant>,
    token: u64,
}

impl Pulse {
    pub(super) fn new(link: Arc<Link>, settings: Keepalive) -> Self {
        Self { link, settings, pinged: None, token: 0 }
    }

    /// Asks at once, if no answer is awaited.
    pub(super) fn hurry(&mut self) {
        let mut state = self.link.state();
        self.token += 1;
        if state.session.ping(self.token) {
            state.wake_driver();
        }
        self.pinged.get_or_insert_with(Instant::now);
    }

    /// Ends when the peer is dead. Cancel-safe.
    pub(super) async fn stops(&mut self) {
        loop {
            let (silence, quiet) = (self.link.shared.silence(), self.quiet());
            // Whatever has been heard since is an answer.
            self.pinged = self.pinged.filter(|asked| silence > asked.elapsed() + GRAIN);
            match self.pinged.map(|asked| asked.elapsed()) {
                None if silence < quiet => sleep(quiet - silence).await,
                None => self.hurry(),
                Some(waited) if waited < self.settings.timeout => sleep(self.settings.timeout - waited).await,
                Some(_) => return,
            }
        }
    }

    /// How long it may be quiet before anyone asks.
    fn quiet(&self) -> Duration {
        if self.link.shared.idle().is_some() { self.settings.every * IDLE } else { self.settings.every }
    }
}
