//! Everything that can go wrong with a tunnel: one place for log text, metric label and HBONE status.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::{AlertDescription, Error as TlsError};

use super::codec::AuthorityError;
use super::mux::Malformed;
use crate::identity::{CredentialsError, PeerError, Unavailable};

/// Why a tunnel, or a stream in one, could not be had or was lost.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TunnelError {
    /// This node has no certificate to speak with.
    #[error(transparent)]
    NoCertificate(Box<Unavailable>),
    /// The certificate cannot be used.
    #[error(transparent)]
    Credentials(Box<CredentialsError>),
    /// TCP to the peer failed.
    #[error("cannot reach {to}: {source}; does a NetworkPolicy block port {}, and is the agent of that node running?", to.port())]
    Dial {
        /// Where to.
        to: SocketAddr,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// Nothing happened within the connect budget.
    #[error("{to} did not answer within {after:?}; is its node up, and does a NetworkPolicy drop port {}?", to.port())]
    ConnectTimeout {
        /// Where to.
        to: SocketAddr,
        /// The budget.
        after: Duration,
    },
    /// The peer did not finish its handshake.
    #[error("the peer did not finish its handshake within {0:?}")]
    HandshakeTimeout(Duration),
    /// The peer went away in the handshake.
    #[error("the peer closed the connection during the handshake")]
    HandshakeAborted,
    /// The peer hung up before it had said a word: somebody looked whether the port answers.
    #[error("the peer connected and hung up without a word")]
    NothingSaid,
    /// The peer's certificate was not believed.
    #[error(transparent)]
    Peer(Box<PeerError>),
    /// The peer showed no certificate.
    #[error("the peer showed no client certificate; only workloads of the mesh may open tunnels")]
    NoPeerCertificate,
    /// The peer does not speak TLS.
    #[error("the peer does not speak TLS: is something in plaintext dialling port 15008?")]
    NotTls,
    /// The peer speaks no protocol of tunnels that this node speaks.
    #[error(
        "the peer offers another protocol than weft/1 and h2, or than --tunnel-protocols of both agents have in common"
    )]
    Alpn,
    /// The peer and this node have no TLS version, cipher or group in common, or a record was wrong.
    #[error("TLS failed: {0}")]
    Tls(String),
    /// The peer rejected this node's certificate or handshake.
    #[error("the peer rejected the handshake ({0}): does it trust the same root, and is this node's clock right?")]
    RejectedByPeer(String),
    /// The peer broke HTTP/2.
    #[error("the peer broke the protocol: {0}")]
    Protocol(String),
    /// The peer broke the protocol of Weft's tunnel.
    #[error("the peer broke weft/1: {0}")]
    Malformed(#[from] Malformed),
    /// A pooled tunnel stays silent.
    #[error("the tunnel to {0} is silent")]
    Silent(SocketAddr),
    /// The tunnel went away.
    #[error("the tunnel was closed: {0}")]
    Closed(String),
    /// The peer is shutting the tunnel down and did not take the stream.
    #[error("the peer did not take the stream")]
    NotTaken,
    /// The peer answered the CONNECT with an error.
    #[error("the peer refused the connection with status {status}: {}", explain(*status))]
    Refused {
        /// The HTTP status.
        status: u16,
    },
    /// The peer reset the stream before answering.
    #[error("the peer reset the stream: {0}")]
    Reset(String),
    /// A request this node turned away.
    #[error(transparent)]
    Request(#[from] RequestError),
}

impl From<Unavailable> for TunnelError {
    fn from(error: Unavailable) -> Self {
        Self::NoCertificate(Box::new(error))
    }
}

impl From<CredentialsError> for TunnelError {
    fn from(error: CredentialsError) -> Self {
        Self::Credentials(Box::new(error))
    }
}

impl From<PeerError> for TunnelError {
    fn from(error: PeerError) -> Self {
        Self::Peer(Box::new(error))
    }
}

fn explain(status: u16) -> &'static str {
    match status {
        400 => "it is not the node of that pod (any more)",
        401 | 403 => "its policy denies this connection",
        503 => "nothing listens on that port, or its pod is gone",
        _ => "see its log",
    }
}

/// Why a CONNECT was turned away before anyone was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Another method.
    #[error("a tunnel carries CONNECT only, not {0}")]
    NotConnect(String),
    /// `:authority` is missing, or the request has parts that a CONNECT has not.
    #[error("the request is not a plain CONNECT to an authority")]
    Form,
    /// `:authority` is not an address.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// `:authority` is somebody else's.
    #[error("the authority {0} is no address of this pod")]
    NotThisPod(SocketAddr),
    /// `:authority` is one of [`super::RESERVED_PORTS`].
    #[error("port {0} is reserved")]
    ReservedPort(u16),
    /// The headers are too large.
    #[error("the headers have {0} bytes, more than 64 KiB")]
    HeadersTooLarge(usize),
}

/// What a handler may answer instead of accepting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The address or port is nobody's: 400.
    BadRequest,
    /// Policy says no: 401, as ztunnel answers.
    Denied,
    /// The app does not answer: 503.
    Unreachable,
}

impl Refusal {
    /// The HTTP status.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Denied => 401,
            Self::Unreachable => 503,
        }
    }
}

impl RequestError {
    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::NotConnect(_) | Self::Form | Self::Authority(_) | Self::NotThisPod(_) => 400,
            Self::ReservedPort(_) => 503,
            Self::HeadersTooLarge(_) => 431,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::NotConnect(_) => "not_connect",
            Self::Form | Self::Authority(_) => "bad_authority",
            Self::NotThisPod(_) => "not_this_pod",
            Self::ReservedPort(_) => "reserved_port",
            Self::HeadersTooLarge(_) => "headers_too_large",
        }
    }
}

impl TunnelError {
    /// The label under which metrics count this; a small fixed set.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoCertificate(_) | Self::Credentials(_) => "no_certificate",
            Self::Dial { .. } => "dial_failed",
            Self::ConnectTimeout { .. } => "connect_timeout",
            Self::HandshakeTimeout(_) => "handshake_timeout",
            Self::HandshakeAborted => "handshake_aborted",
            Self::NothingSaid => "nothing_said",
            Self::Peer(error) => error.reason(),
            Self::NoPeerCertificate => "no_client_certificate",
            Self::NotTls => "not_tls",
            Self::Alpn => "wrong_alpn",
            Self::Tls(_) => "tls_failed",
            Self::RejectedByPeer(_) => "rejected_by_peer",
            Self::Protocol(_) => "protocol_error",
            Self::Malformed(malformed) => malformed.reason(),
            Self::Silent(_) => "peer_silent",
            Self::Closed(_) => "tunnel_closed",
            Self::NotTaken => "stream_not_taken",
            Self::Refused { status: 400 } => "refused_bad_request",
            Self::Refused { status: 401 | 403 } => "refused_by_policy",
            Self::Refused { status: 503 } => "refused_unreachable",
            Self::Refused { .. } => "refused",
            Self::Reset(_) => "stream_reset",
            Self::Request(error) => error.reason(),
        }
    }

    /// The status a peer gets to see, where there is an HTTP/2 stream to send it on.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Request(error) => Some(error.status()),
            _ => None,
        }
    }

    /// Whether another tunnel to the same peer may do better, because this one never carried the request.
    pub(super) fn blames_tunnel(&self) -> bool {
        matches!(self, Self::Closed(_) | Self::NotTaken | Self::Silent(_) | Self::Protocol(_) | Self::Malformed(_))
    }

    /// Reads the TLS error out of an I/O error of a handshake or an established connection.
    pub(super) fn from_tls_io(error: &io::Error) -> Option<Self> {
        error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>()).map(Self::from_tls)
    }

    /// What a failed handshake was about.
    pub(super) fn from_handshake(error: &io::Error) -> Self {
        Self::from_tls_io(error).unwrap_or(match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe => Self::HandshakeAborted,
            _ => Self::Tls(error.to_string()),
        })
    }

    pub(super) fn from_tls(error: &TlsError) -> Self {
        if let Some(peer) = crate::identity::peer_error(error) {
            return Self::Peer(Box::new(peer));
        }
        match error {
            TlsError::NoCertificatesPresented => Self::NoPeerCertificate,
            TlsError::InvalidMessage(_) => Self::NotTls,
            TlsError::NoApplicationProtocol => Self::Alpn,
            TlsError::AlertReceived(AlertDescription::NoApplicationProtocol) => Self::Alpn,
            TlsError::AlertReceived(alert) => Self::RejectedByPeer(format!("{alert:?}")),
            other => Self::Tls(other.to_string()),
        }
    }

    /// What an error of a stream's request or response means.
    pub(super) fn from_h2(error: &h2::Error) -> Self {
        match error.reason() {
            Some(h2::Reason::REFUSED_STREAM) => Self::NotTaken,
            Some(h2::Reason::NO_ERROR) if error.is_go_away() => Self::NotTaken,
            Some(reason) if error.is_reset() && error.is_remote() => Self::Reset(reason.to_string()),
            Some(_) => Self::Protocol(error.to_string()),
            None => Self::Closed(error.to_string()),
        }
    }
}
