//! PINGs on a schedule and on demand: a peer that is gone is noticed without waiting for TCP to give up.

use std::future::poll_fn;
use std::sync::Arc;

use h2::{Ping, PingPong};
use tokio::time::{Instant, sleep_until};

use crate::tunnel::Keepalive;
use crate::tunnel::shared::Shared;

/// A peer that sends bytes but answers no PING for this many timeouts is holding the connection open for nothing.
const PATIENCE: u32 = 4;

/// The PINGs of one tunnel.
pub(super) struct Pinger {
    pings: Option<PingPong>,
    settings: Keepalive,
    shared: Arc<Shared>,
    /// When the PING in flight was sent.
    sent: Option<Instant>,
    due: Instant,
}

/// The peer has not answered in time.
#[derive(Debug)]
pub(super) struct Dead;

impl Pinger {
    pub(super) fn new(pings: Option<PingPong>, settings: Keepalive, shared: Arc<Shared>) -> Self {
        Self { pings, settings, shared, sent: None, due: Instant::now() + settings.every }
    }

    /// Sends a PING with the next [`Pinger::run`], if none is in flight.
    pub(super) fn hurry(&mut self) {
        self.due = Instant::now();
    }

    /// Makes one step: sends, receives, or finds the peer dead. Cancel-safe.
    pub(super) async fn run(&mut self) -> Result<(), Dead> {
        let Some(pings) = &mut self.pings else { return std::future::pending().await };
        let Some(sent) = self.sent else {
            sleep_until(self.due).await;
            // Fails when the connection is closing, which its own poll reports.
            let _ = pings.send_ping(Ping::opaque());
            self.sent = Some(Instant::now());
            return Ok(());
        };
        tokio::select! {
            pong = poll_fn(|cx| pings.poll_pong(cx)) => match pong {
                Ok(_) => {
                    self.sent = None;
                    self.due = Instant::now() + self.settings.every;
                    Ok(())
                }
                Err(_) => std::future::pending().await,
            },
            () = sleep_until(gives_up_at(&self.settings, &self.shared, sent)) => {
                if Instant::now() < gives_up_at(&self.settings, &self.shared, sent) { Ok(()) } else { Err(Dead) }
            }
        }
    }
}

/// A busy tunnel answers late: any byte counts as a sign of life, for a while.
fn gives_up_at(settings: &Keepalive, shared: &Shared, sent: Instant) -> Instant {
    let heard = Instant::now().checked_sub(shared.silence()).unwrap_or(sent);
    (sent.max(heard) + settings.timeout).min(sent + settings.timeout * PATIENCE)
}
