//! One endpoint, dialled on a pod's behalf: by a stream of a tunnel if it is meshed, in the clear if it is not.
//!
//! Which endpoint, and whether another is tried, its callers decide: [`crate::outbound`] for connections, [`crate::http`] for
//! requests.

mod gate;
mod quiet;
mod refused;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use weft_core::model::{Keepalive, Workload};
use weft_core::route::{Target, Transport};

use crate::pod::Pod;
use crate::relay::Far;
use crate::sys;
use crate::tunnel::{ConnectRequest, Pool};

pub use gate::{Gates, Kind, Place};
pub use quiet::watch;
pub use refused::Refused;

/// How long and how often an app's connection or request is tried before it is refused.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Endpoints tried at most.
    pub attempts: usize,
    /// Time each of them has; through a tunnel it is the pool's.
    pub each: Duration,
}

/// Dials for all pods of the node.
pub struct Dialer {
    /// Tunnels to other pods.
    pub pool: Pool,
    /// The connect budget.
    pub budget: Budget,
    /// How much of each service port is open at once.
    pub gates: Gates,
}

/// Has TCP look after a connection to an endpoint that is reached in the clear. A tunnel looks after itself.
pub fn keep_alive(far: &Far, keepalive: Option<&Keepalive>) {
    if let (Far::Tcp(tcp), Some(set)) = (far, keepalive)
        && let Err(error) = sys::socket::set_keepalive(tcp, (set.time, set.interval, set.probes))
    {
        tracing::debug!(%error, "TCP's keepalive could not be set");
    }
}

/// On whose behalf.
#[derive(Clone, Copy)]
pub struct Caller<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The same, as the snapshot has it.
    pub workload: &'a Workload,
    /// The app's own address.
    pub client: SocketAddr,
}

impl Dialer {
    /// Connects to `target`.
    ///
    /// # Errors
    /// [`Refused`]. Nothing of the app's bytes has been sent then.
    pub async fn dial(&self, caller: &Caller<'_>, target: &Target) -> Result<Far, Refused> {
        let source = caller.source_address(target.address.ip())?;
        match &target.transport {
            // A tunnel to oneself would meet nobody: the pod's own SYNs are not given to its inbound listener.
            Transport::Hbone { server } if !target.is_own(caller.workload) => {
                let request = ConnectRequest {
                    source: caller.pod.identity.clone(),
                    dial: caller.pod.netns.clone(),
                    source_address: source,
                    authority: target.address,
                    server: server.clone(),
                    client: caller.client,
                    host: None,
                    baggage: caller.pod.baggage.clone(),
                    budget: Arc::clone(&caller.pod.budget),
                };
                Ok(Far::Stream(self.pool.connect(&request).await?))
            }
            Transport::Hbone { .. } | Transport::Plaintext => {
                let dialled =
                    sys::dial::pass_through(&caller.pod.netns, source, target.address, self.budget.each).await;
                dialled.map(Far::Tcp).map_err(|error| Refused::Connect { to: target.address, error })
            }
        }
    }
}

impl Caller<'_> {
    /// The client's address, as far as it is the pod's: in its own namespace a pod may dial from others too, and each of
    /// those is to be remembered as the pod.
    #[must_use]
    pub fn own_address(&self) -> Option<IpAddr> {
        let (own, from) = (&self.workload.addresses, self.client.ip().to_canonical());
        own.iter().find(|ip| **ip == from).or_else(|| own.first()).copied()
    }

    /// The address to dial `to` from.
    ///
    /// # Errors
    /// When the pod has none of that family.
    pub fn source_address(&self, to: IpAddr) -> Result<IpAddr, Refused> {
        // The address the app's own socket has, where the families agree: a pod may have several.
        if self.client.is_ipv4() == to.is_ipv4() && !self.client.ip().is_loopback() {
            return Ok(self.client.ip());
        }
        self.pod.address_like(to).ok_or(Refused::Family(to))
    }
}
