//! The dialling end of a Weft tunnel.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use super::driver::Driver;
use super::handle::Handle;
use super::link::{Link, Slot};
use super::pulse::Pulse;
use crate::tunnel::TunnelError;
use crate::tunnel::codec::Claims;
use crate::tunnel::connect::ConnectRequest;
use crate::tunnel::mux::{Code, Hello, NotOpened, Open, Side};
use crate::tunnel::settings::PoolSettings;
use crate::tunnel::shared::Shared;
use crate::tunnel::tls::Established;

/// A tunnel this node dialled. Dropped, it closes behind its last stream.
pub(in crate::tunnel) struct Client {
    link: Arc<Link>,
}

/// The other half: what must be driven.
pub(in crate::tunnel) struct Running {
    driver: Driver,
    link: Arc<Link>,
}

/// Over a connection that agreed on `weft/1`. The server's HELLO is not waited for.
///
/// # Errors
/// When TLS cannot be taken over.
pub(in crate::tunnel) fn establish(
    established: Established,
    shared: Arc<Shared>,
    request: &ConnectRequest,
) -> Result<(Client, Running), TunnelError> {
    let hello = Hello { streams: 0, baggage: request.baggage.as_deref().map(str::to_owned) };
    let fresh = Link::over(established, Side::Client, hello, shared, Arc::clone(&request.budget))?;
    let (link, driver) = Driver::new(fresh);
    Ok((Client { link: Arc::clone(&link) }, Running { driver, link }))
}

impl Client {
    /// Whether one more stream may be opened.
    pub(in crate::tunnel) fn has_room(&self) -> bool {
        let state = self.link.state();
        !state.gone && state.session.may_open().is_ok()
    }

    /// Opens a stream and waits for the server's answer. No byte of the app goes with the OPEN: a tunnel that is lost before
    /// the answer would leave it unknown whether it was delivered, and nobody else could be asked.
    pub(in crate::tunnel) async fn open(
        &self,
        request: &ConnectRequest,
    ) -> Result<(Handle, Option<Arc<Claims>>), TunnelError> {
        let open = Open { to: request.authority, from: request.client, host: request.host.clone() };
        let handle = self.begin(&open)?;
        handle.answered().await?;
        Ok((handle, self.link.state().claims.clone()))
    }

    fn begin(&self, open: &Open) -> Result<Handle, TunnelError> {
        let mut state = self.link.state();
        if state.gone {
            return Err(self.link.shared.lost());
        }
        let (stream, _) = state.session.open(open, &[], Slot::default()).map_err(|why| match why {
            NotOpened::Leaving => TunnelError::Closed("it takes no more streams".to_owned()),
            NotOpened::Full => TunnelError::NotTaken,
        })?;
        state.wake_driver();
        Ok(Handle::new(Arc::clone(&self.link), stream))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.link.retire();
    }
}

impl Running {
    /// Drives the tunnel until it ends. `retire` is asked once it has been idle for long, and answers whether it has removed
    /// the tunnel from the pool, so that no stream can join any more.
    pub(in crate::tunnel) async fn drive(
        self,
        settings: &PoolSettings,
        retire: &(impl Fn() -> bool + Sync),
    ) -> Option<TunnelError> {
        let Self { mut driver, link } = self;
        let mut pulse = Pulse::new(Arc::clone(&link), settings.keepalive);
        let ended = loop {
            let idle_left = link.shared.idle().map_or(settings.idle, |idle| settings.idle.saturating_sub(idle));
            tokio::select! {
                biased;
                ended = poll_fn(|cx| driver.poll(cx, &mut |_, _| {})) => break ended,
                () = link.shared.wake.notified() => if link.shared.take_probe() { pulse.hurry() },
                () = pulse.stops() => {
                    break Err(TunnelError::Closed("the peer does not answer any more".to_owned()));
                }
                () = tokio::time::sleep(idle_left.max(Duration::from_millis(10))) => {
                    if link.shared.idle().is_some_and(|idle| idle >= settings.idle) && retire() {
                        break Ok(());
                    }
                }
            }
        };
        finish(driver, &link, ended).await
    }
}

/// Closes what is left to close. The cause is known to every stream before it hears that it is over.
pub(super) async fn finish(driver: Driver, link: &Arc<Link>, ended: Result<(), TunnelError>) -> Option<TunnelError> {
    let cause = ended.err();
    link.shared.fail(cause.clone().unwrap_or_else(|| TunnelError::Closed("in order".to_owned())));
    match &cause {
        None => driver.goodbye(Code::Leaving).await,
        Some(TunnelError::Malformed(_) | TunnelError::Tls(_)) => {
            link.state().lose();
            driver.goodbye(Code::Malformed).await;
        }
        Some(_) => link.state().lose(),
    }
    cause
}
