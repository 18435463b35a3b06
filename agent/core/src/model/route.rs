//! Routes with a Service as parent (Gateway API, GAMMA).

use std::sync::Arc;

use super::name::{Name, ObjectName};
use super::service::ServicePort;
use super::workload::Weight;

/// The Service, or one port of it, that a route is attached to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParentRef {
    /// The Service.
    pub service: ObjectName,
    /// Only the port of it with this number; any where absent.
    pub port: Option<u16>,
    /// Only the port of it with this name (`sectionName`); any where absent. Where both are there, both have to fit.
    pub section: Option<Arc<str>>,
}

impl ParentRef {
    /// All ports of a Service.
    #[must_use]
    pub const fn whole(service: ObjectName) -> Self {
        Self { service, port: None, section: None }
    }

    /// Whether a route with this parent is attached to `port` of the Service.
    #[must_use]
    pub fn takes(&self, port: &ServicePort) -> bool {
        self.port.is_none_or(|number| number == port.port)
            && self.section.as_ref().is_none_or(|name| *name == port.name)
    }
}

/// A Service port that receives a share of a route's connections.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BackendRef {
    /// The Service.
    pub service: ObjectName,
    /// Its port.
    pub port: u16,
    /// Its share; 0 gets nothing.
    pub weight: Weight,
}

/// A TCPRoute. It has one rule (Gateway API v1alpha2 has no matches, so further rules could never apply).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TcpRoute {
    /// Namespace and name.
    pub name: ObjectName,
    /// The Services it is attached to.
    pub parents: Vec<ParentRef>,
    /// Where connections go.
    pub backends: Vec<BackendRef>,
    /// Seconds since the epoch at which the object was created (0 where the manifest has none); the older of two routes wins.
    pub created: i64,
}

/// The kinds of routes that ReferenceGrants speak of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum GrantKind {
    /// `TCPRoute`.
    Tcp,
    /// `HTTPRoute`.
    Http,
    /// `GRPCRoute`.
    Grpc,
}

impl GrantKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Http, Self::Grpc];

    /// The `kind` of a manifest.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCPRoute",
            Self::Http => "HTTPRoute",
            Self::Grpc => "GRPCRoute",
        }
    }
}

/// A ReferenceGrant that lets routes of one namespace name Services of another as backends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReferenceGrant {
    /// Namespace (that of the Services) and name.
    pub name: ObjectName,
    /// Routes of which kinds and namespaces may refer here.
    pub from: Vec<(GrantKind, Name)>,
    /// The Services they may name; empty means any of the namespace.
    pub to: Vec<Name>,
}
