//! The accepting end of a Weft tunnel.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use super::client::finish;
use super::driver::Driver;
use super::handle::Handle;
use super::link::Link;
use super::pulse::Pulse;
use crate::tunnel::codec::Forwarded;
use crate::tunnel::mux::{Code, Hello, Open, Side};
use crate::tunnel::server::{Asked, Door};
use crate::tunnel::settings::WEFT_STREAMS;
use crate::tunnel::tls::Established;
use crate::tunnel::{Incoming, Refusal, RequestError, TunnelError};

/// What answers an OPEN.
pub(in crate::tunnel) struct Answer(Handle);

impl Answer {
    /// # Errors
    /// When the peer has given up.
    pub(in crate::tunnel) fn accept(self) -> Result<Handle, TunnelError> {
        self.0.accept()?;
        Ok(self.0)
    }

    pub(in crate::tunnel) fn refuse(self, refusal: Refusal) {
        self.0.refuse(match refusal {
            Refusal::BadRequest => Code::BadRequest,
            Refusal::Denied => Code::Denied,
            Refusal::Unreachable => Code::Unreachable,
        });
    }

    /// Waits until the peer gives up.
    pub(in crate::tunnel) async fn given_up(&self) {
        self.0.given_up().await;
    }
}

/// Serves a tunnel that agreed on `weft/1` until it ends; `handler` runs as its own task for every stream.
pub(in crate::tunnel) async fn run<H, F>(established: Established, door: &Door, handler: &H) -> Option<TunnelError>
where
    H: Fn(Incoming) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let context = &door.context;
    let settings = &context.settings;
    let baggage = context.baggage.as_ref().and_then(|text| text.to_str().ok()).map(str::to_owned);
    let hello = Hello { streams: WEFT_STREAMS, baggage };
    let budget = Arc::clone(&context.budget);
    let fresh = match Link::over(established, Side::Server, hello, Arc::clone(&door.shared), budget) {
        Ok(fresh) => fresh,
        Err(error) => return Some(error),
    };
    let (link, mut driver) = Driver::new(fresh);
    let mut pulse = Pulse::new(Arc::clone(&link), settings.keepalive);
    let mut expired = pin!(door.until_expiry());
    let mut opened = |stream, open| asked(&link, door, stream, open, handler);
    let mut closing = false;
    let ended = loop {
        let idle_left = door.shared.idle().map_or(settings.idle, |idle| settings.idle.saturating_sub(idle));
        let leave = tokio::select! {
            biased;
            ended = poll_fn(|cx| driver.poll(cx, &mut opened)) => break ended,
            () = pulse.stops() => break Err(TunnelError::Silent(door.source)),
            () = door.shared.wake.notified() => false,
            () = context.drain.cancelled(), if !closing => true,
            () = &mut expired, if !closing => true,
            () = tokio::time::sleep(idle_left.max(Duration::from_millis(10))), if !closing => {
                door.shared.idle().is_some_and(|idle| idle >= settings.idle)
            }
        };
        if leave {
            closing = true;
            link.state().session.leave(Code::Leaving);
        }
    };
    if let Err(error @ (TunnelError::Malformed(_) | TunnelError::Tls(_))) = &ended {
        door.reject(error.clone());
    }
    finish(driver, &link, ended).await
}

/// Answers what is wrong, hands on what is right.
fn asked<H, F>(link: &Arc<Link>, door: &Door, stream: u32, open: Open, handler: &H)
where
    H: Fn(Incoming) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let handle = Handle::new(Arc::clone(link), stream);
    if let Err(error) = door.admits(open.to) {
        let reserved = matches!(error, RequestError::ReservedPort(_));
        handle.refuse(if reserved { Code::ReservedPort } else { Code::BadRequest });
        return door.reject(error.into());
    }
    let claims = link.state().claims.clone();
    let forwarded = Some(Forwarded { client: open.from, host: open.host });
    let incoming = door.incoming(Asked { authority: open.to, forwarded, claims }, Answer(handle).into());
    tokio::spawn(handler(incoming));
}
