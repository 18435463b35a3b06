//! A tunnel this node dialled, whichever protocol it speaks: brought up, joined, and asked for a stream.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::connect::ConnectRequest;
use super::settings::PoolSettings;
use super::shared::{Lease, Shared};
use super::stream::{Body, Stream};
use super::{Events, Protocol, Side, TunnelError, hbone, tls, weft};
use crate::identity::{Credentials, PeerCertificate};
use crate::sys::socket;

/// A peer that was silent for this long is probed together with the next stream.
const FRESH: Duration = Duration::from_secs(1);

/// A tunnel this node dialled.
pub(super) struct Tunnel {
    speaks: Speaks,
    to: SocketAddr,
    pub(super) shared: Arc<Shared>,
    /// What it was dialled with: with newer ones it takes no more streams.
    pub(super) credentials: Arc<Credentials>,
    peer: Arc<PeerCertificate>,
}

enum Speaks {
    Hbone(hbone::Client),
    Weft(weft::Client),
}

/// What somebody must drive for the tunnel to live.
pub(super) enum Running {
    Hbone(Box<hbone::Running>),
    Weft(Box<weft::Running>),
}

impl Tunnel {
    /// TLS and the protocol both ends prefer, over a fresh TCP connection.
    pub(super) async fn establish(
        tcp: TcpStream,
        credentials: Arc<Credentials>,
        request: &ConnectRequest,
        to: SocketAddr,
        settings: &PoolSettings,
    ) -> Result<(Self, Running), TunnelError> {
        let _ = socket::for_tunnel(&tcp);
        let config = credentials.client_config(&request.server)?;
        let name = ServerName::IpAddress(to.ip().into());
        let established = tls::connect(tcp, config, name, settings.protocols.alpn())
            .await
            .map_err(|error| TunnelError::from_handshake(&error))?;
        // A server that chose nothing is none of ours, nor HBONE.
        let chosen = established.tls.alpn().ok_or(TunnelError::Alpn)?;
        let protocol = settings.protocols.agreed(Some(chosen)).ok_or(TunnelError::Alpn)?;
        let peer = Arc::new(credentials.read_peer(established.tls.peer_certificates())?);
        let shared = Shared::new();
        let (speaks, running) = match protocol {
            Protocol::Hbone => {
                let (client, running) = hbone::establish(established, Arc::clone(&shared)).await?;
                (Speaks::Hbone(client), Running::Hbone(Box::new(running)))
            }
            Protocol::Weft => {
                let (client, running) = weft::establish(established, Arc::clone(&shared), request)?;
                (Speaks::Weft(client), Running::Weft(Box::new(running)))
            }
        };
        Ok((Self { speaks, to, shared, credentials, peer }, running))
    }

    /// Takes a place in this tunnel, if one more stream may join. Call under the pool's lock.
    pub(super) fn join(&self, settings: &PoolSettings) -> Option<Lease> {
        let welcome = self.is_open()
            && !self.shared.is_suspect()
            && match &self.speaks {
                Speaks::Hbone(client) => client.has_room(settings.streams),
                Speaks::Weft(client) => client.has_room(),
            };
        welcome.then(|| self.shared.lease())
    }

    /// Whether it may ever take a stream again.
    pub(super) fn is_open(&self) -> bool {
        self.shared.is_open()
    }

    /// Asks for a stream and waits for the answer. `patience` is how long a peer that was silent may stay so.
    pub(super) async fn open(
        &self,
        lease: Lease,
        request: &ConnectRequest,
        patience: Duration,
    ) -> Result<Stream, TunnelError> {
        let mut answer = pin!(self.ask(lease, request));
        if self.shared.silence() > FRESH {
            self.shared.probe();
            let asked = Instant::now();
            if let Ok(answer) = timeout(patience, &mut answer).await {
                return answer;
            }
            if self.shared.silence() >= asked.elapsed() {
                self.shared.distrust();
                return Err(TunnelError::Silent(self.to));
            }
        }
        answer.await
    }

    async fn ask(&self, lease: Lease, request: &ConnectRequest) -> Result<Stream, TunnelError> {
        let (body, claims) = match &self.speaks {
            Speaks::Hbone(client) => client.open(request).await?,
            Speaks::Weft(client) => client.open(request).await.map(|(handle, claims)| (Body::Weft(handle), claims))?,
        };
        Ok(Stream { body, lease, peer: Arc::clone(&self.peer), claims })
    }
}

impl Running {
    fn protocol(&self) -> Protocol {
        match self {
            Self::Hbone(_) => Protocol::Hbone,
            Self::Weft(_) => Protocol::Weft,
        }
    }

    /// Drives the tunnel until it ends. `retire` takes it out of the pool, unless it still has a stream and may go on.
    pub(super) async fn drive(
        self,
        shared: Arc<Shared>,
        settings: PoolSettings,
        events: Arc<dyn Events>,
        retire: impl Fn() -> bool + Sync,
    ) {
        let protocol = self.protocol();
        events.opened(Side::Client, protocol);
        let cause = match self {
            Self::Hbone(running) => running.drive(&settings, &retire).await,
            Self::Weft(running) => running.drive(&settings, &retire).await,
        };
        shared.fail(cause.clone().unwrap_or_else(|| TunnelError::Closed("in order".to_owned())));
        retire();
        events.closed(Side::Client, protocol, cause.as_ref());
    }
}
