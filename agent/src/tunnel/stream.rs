//! One connection inside a tunnel, whichever protocol the tunnel speaks. [`crate::relay`] moves its bytes.

use std::sync::Arc;

use bytes::Bytes;
use h2::{RecvStream, SendStream};

use super::Protocol;
use super::codec::Claims;
use super::io::StreamIo;
use super::shared::{Lease, Standing};
use super::weft;
use crate::identity::PeerCertificate;

/// A connection that was accepted, from either side.
#[derive(Debug)]
pub struct Stream {
    pub(crate) body: Body,
    pub(crate) lease: Lease,
    /// Who is at the other end, from its certificate.
    pub peer: Arc<PeerCertificate>,
    /// What the other end says about itself; never to be believed.
    pub claims: Option<Arc<Claims>>,
}

/// What carries the bytes.
#[derive(Debug)]
pub(crate) enum Body {
    /// A stream of HTTP/2.
    Hbone(SendStream<Bytes>, RecvStream),
    /// A stream of a Weft tunnel.
    Weft(weft::Handle),
}

impl Stream {
    /// How its tunnel stands, also later.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.lease.standing()
    }

    /// Records its tunnel has sealed under the present key, and opened under the peer's; `None` where TLS does not tell.
    #[cfg(test)]
    pub(super) fn under_keys(&self) -> Option<(u64, u64)> {
        match &self.body {
            Body::Hbone(..) => None,
            Body::Weft(handle) => Some(handle.under_keys()),
        }
    }

    /// As bytes to be read and written.
    #[must_use]
    pub fn into_io(self) -> StreamIo {
        let Self { body, lease, .. } = self;
        match body {
            Body::Weft(handle) => StreamIo::weft(handle, lease),
            Body::Hbone(send, recv) => StreamIo::hbone(send, recv, lease),
        }
    }

    /// Which protocol its tunnel speaks.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        match self.body {
            Body::Hbone(..) => Protocol::Hbone,
            Body::Weft(_) => Protocol::Weft,
        }
    }
}
