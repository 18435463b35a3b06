//! What a service port speaks, as far as the mesh goes by it: HTTP is carried request by request, all else byte by byte.
//!
//! Only what was said counts, by `appProtocol` or by a route, never what bytes look like; unless `weft.dev/l7: enabled` asks to
//! go by those. Which version of HTTP a connection speaks its first bytes tell: clients of one port may differ.

use crate::model::{Name, ServicePort};
use crate::reason::reasons;
use crate::snapshot::{ServicePortKey, Snapshot};

/// How the connections to a service port are carried, and why so.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Protocol {
    /// Request by request.
    Http(HttpBecause),
    /// Byte by byte.
    Opaque(OpaqueBecause),
    /// As the first bytes of each have it.
    Detected,
}

reasons! {
    /// Why a service port is taken to speak HTTP.
    HttpBecause {
        /// `http` and its kin.
        Declared = "app_protocol_http", "its appProtocol is HTTP";
        /// `kubernetes.io/h2c` and its kin.
        DeclaredHttp2 = "app_protocol_http2", "its appProtocol is HTTP/2";
        /// `grpc` and its kin.
        DeclaredGrpc = "app_protocol_grpc", "its appProtocol is gRPC";
        /// A TrafficPolicy says something of its requests.
        Policy = "traffic_policy", "a TrafficPolicy sets for it what only requests have";
        /// A route says what becomes of its requests.
        Routed = "route", "an HTTPRoute or GRPCRoute is attached to it";
    }
}

reasons! {
    /// Why a service port is carried byte by byte.
    OpaqueBecause {
        /// Nothing was said.
        Undeclared = "undeclared", "it has no appProtocol, and no HTTPRoute or GRPCRoute";
        /// TLS, of which only the ends know what is in it.
        Encrypted = "encrypted", "its appProtocol is encrypted from end to end";
        /// Some other protocol.
        Other = "other_protocol", "its appProtocol is none of HTTP";
        /// It is to be found out, but is known.
        ServerFirst = "server_first_port", "servers speak first on this port, by convention";
        /// There is no such port, or none any more.
        Unknown = "unknown_port", "no Service has it";
    }
}

impl Protocol {
    /// Whether it is carried request by request.
    #[must_use]
    pub const fn is_http(self) -> bool {
        matches!(self, Self::Http(_))
    }

    /// The word in metrics and views: `http`, `tcp` or `detected`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http(_) => "http",
            Self::Opaque(_) => "tcp",
            Self::Detected => "detected",
        }
    }

    /// Why, as a metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Http(because) => because.label(),
            Self::Opaque(because) => because.label(),
            Self::Detected => "asked_for",
        }
    }
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Http(because) => because.fmt(f),
            Self::Opaque(because) => because.fmt(f),
            Self::Detected => f.write_str("weft.dev/l7: enabled asks to tell by the first bytes of each connection"),
        }
    }
}

/// Values of `appProtocol`: Kubernetes' own, those IANA has registered, and those Istio made usual.
const HTTP: &[&str] = &["http", "http/1.1", "kubernetes.io/ws"];
const HTTP2: &[&str] = &["kubernetes.io/h2c", "h2c", "http2"];
const GRPC: &[&str] = &["grpc", "grpc-web"];
/// Ports whose servers speak first, or whose clients speak no HTTP: SMTP, MySQL, PostgreSQL, Redis, memcached, Elasticsearch's
/// transport, submission of mail, Galera's group communication.
const SERVER_FIRST: &[u16] = &[25, 3306, 5432, 6379, 11_211, 9300, 587, 4444];
const ENCRYPTED: &[&str] = &["https", "tls", "h2", "http/2", "kubernetes.io/wss"];

/// What the port `key` names speaks with the clients of a namespace; without one, with any.
///
/// A consumer's route makes it HTTP for the clients of its own namespace only.
#[must_use]
pub fn protocol(snapshot: &Snapshot, key: &ServicePortKey, client: Option<&Name>) -> Protocol {
    let ports = snapshot.service(&key.service).map_or(&[][..], |service| &service.ports);
    let Some(port) = ports.iter().find(|port| port.port == key.port) else {
        return Protocol::Opaque(OpaqueBecause::Unknown);
    };
    let declared = declared(port);
    let routes = snapshot.http_routes(&key.service, key.port);
    let routed = routes.is_some_and(|routes| client.is_none_or(|client| routes.for_client(client).is_some()));
    match declared {
        Protocol::Http(_) => declared,
        Protocol::Opaque(_) if routed => Protocol::Http(HttpBecause::Routed),
        // Of a port that says it speaks something else only what it speaks can be meant.
        Protocol::Opaque(OpaqueBecause::Undeclared)
            if snapshot.traffic(&key.service, key.port).is_some_and(|traffic| traffic.is_of_requests()) =>
        {
            Protocol::Http(HttpBecause::Policy)
        }
        Protocol::Opaque(OpaqueBecause::Undeclared) if is_asked(snapshot, key) => {
            let known = SERVER_FIRST.contains(&key.port);
            if known { Protocol::Opaque(OpaqueBecause::ServerFirst) } else { Protocol::Detected }
        }
        Protocol::Opaque(_) | Protocol::Detected => declared,
    }
}

/// Whether the endpoints of the port `key` names speak HTTP/2 from their first byte, by its `appProtocol`: what an app asks over
/// HTTP/1 they get as HTTP/2 (Gateway API's GEP-1911).
#[must_use]
pub fn takes_http2(snapshot: &Snapshot, key: &ServicePortKey) -> bool {
    let service = snapshot.service(&key.service);
    let port = service.and_then(|service| service.ports.iter().find(|port| port.port == key.port));
    port.is_some_and(|port| declared(port) == Protocol::Http(HttpBecause::DeclaredHttp2))
}

/// Whether it is asked for that the mesh finds out what a port speaks. A Service's word goes before its namespace's.
fn is_asked(snapshot: &Snapshot, key: &ServicePortKey) -> bool {
    let of_service = snapshot.service(&key.service).and_then(|service| service.detect);
    let of_namespace = || snapshot.namespace(&key.service.namespace).and_then(|namespace| namespace.detect);
    of_service.or_else(of_namespace).unwrap_or(false)
}

/// What a port's `appProtocol` says. Names are compared without regard to case, as Istio does and people expect.
fn declared(port: &ServicePort) -> Protocol {
    let Some(said) = port.app_protocol.as_deref() else { return Protocol::Opaque(OpaqueBecause::Undeclared) };
    let is = |names: &[&str]| names.iter().any(|name| name.eq_ignore_ascii_case(said));
    match () {
        () if is(HTTP) => Protocol::Http(HttpBecause::Declared),
        () if is(HTTP2) => Protocol::Http(HttpBecause::DeclaredHttp2),
        () if is(GRPC) => Protocol::Http(HttpBecause::DeclaredGrpc),
        () if is(ENCRYPTED) => Protocol::Opaque(OpaqueBecause::Encrypted),
        () => Protocol::Opaque(OpaqueBecause::Other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(app_protocol: Option<&str>) -> Protocol {
        declared(&ServicePort { name: "".into(), port: 80, app_protocol: app_protocol.map(Into::into) })
    }

    #[test]
    fn what_is_said_of_a_port_is_what_it_speaks() {
        for (said, label) in [
            (Some("http"), "app_protocol_http"),
            (Some("HTTP"), "app_protocol_http"),
            (Some("kubernetes.io/ws"), "app_protocol_http"),
            (Some("kubernetes.io/h2c"), "app_protocol_http2"),
            (Some("http2"), "app_protocol_http2"),
            (Some("grpc"), "app_protocol_grpc"),
            (Some("grpc-web"), "app_protocol_grpc"),
            (Some("https"), "encrypted"),
            (Some("kubernetes.io/wss"), "encrypted"),
            (Some("redis"), "other_protocol"),
            (Some("example.com/http"), "other_protocol"),
            (None, "undeclared"),
        ] {
            let protocol = of(said);
            assert_eq!(protocol.label(), label, "{said:?}");
            assert_eq!(protocol.is_http(), label.starts_with("app_protocol"), "{said:?}");
        }
    }
}
