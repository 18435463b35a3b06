//! Why an app's connection was not carried, with the one mapping to metric label and log text.

use std::io;
use std::net::{IpAddr, SocketAddr};

use weft_core::balance::PickError;
use weft_core::route::{RefuseReason, ServicePortKey};

use crate::observe::connect_label;
use crate::tunnel::TunnelError;

/// An outbound connection that ended before it was relayed; the app sees a reset.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Its destination is the agent's own listener, or its socket was gone before it could be asked.
    #[error("the connection was made to the mesh's own listener, not to a destination")]
    OwnListener,
    /// The pod left the configuration while its connections still arrive.
    #[error("the pod is no longer among the manifests")]
    UnknownPod,
    /// The plan says no.
    #[error("{0}")]
    Plan(RefuseReason),
    /// No endpoint may be picked.
    #[error("{0}")]
    Pick(#[from] PickError),
    /// The tunnel to the endpoint's node failed.
    #[error(transparent)]
    Tunnel(#[from] TunnelError),
    /// A plaintext destination did not accept.
    #[error("cannot connect to {to}: {error}")]
    Connect {
        /// Whom.
        to: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// The pod has no address of the endpoint's family.
    #[error("the pod has no address of the family of {0}; give it one, or the Service endpoints of the pod's family")]
    Family(IpAddr),
    /// As much is open as its TrafficPolicy allows, and as much waits.
    #[error("{0} has as much open as its TrafficPolicy allows; raise limits, or add endpoints")]
    Overloaded(ServicePortKey),
    /// The connect budget allows no attempt.
    #[error("no endpoint of {0} was tried: the connect budget is zero; raise --connect-attempts")]
    Unroutable(SocketAddr),
}

impl Refused {
    /// The value of the `reason` label.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::OwnListener => "own_listener",
            Self::UnknownPod => "unknown_pod",
            Self::Plan(reason) => reason.label(),
            Self::Pick(error) => error.label(),
            Self::Tunnel(error) => error.reason(),
            Self::Connect { error, .. } => connect_label(error.kind()),
            Self::Family(_) => "address_family",
            Self::Overloaded(_) => "overloaded",
            Self::Unroutable(_) => "no_attempts",
        }
    }

    /// Whether the same endpoint may answer if asked again: it was slow, or its tunnel went away.
    #[must_use]
    pub fn passes(&self) -> bool {
        match self {
            Self::Connect { error, .. } => error.kind() == io::ErrorKind::TimedOut,
            Self::Tunnel(error) => matches!(
                error,
                TunnelError::ConnectTimeout { .. }
                    | TunnelError::HandshakeTimeout(_)
                    | TunnelError::HandshakeAborted
                    | TunnelError::Silent(_)
                    | TunnelError::Closed(_)
                    | TunnelError::NotTaken
            ),
            _ => false,
        }
    }

    /// Whether another endpoint might do better, and this one should be trusted less.
    #[must_use]
    pub fn is_endpoints_fault(&self) -> bool {
        match self {
            Self::Connect { .. } => true,
            Self::Tunnel(error) => !matches!(
                error,
                TunnelError::NoCertificate(_)
                    | TunnelError::Credentials(_)
                    | TunnelError::Refused { status: 401 | 403 }
            ),
            _ => false,
        }
    }
}
