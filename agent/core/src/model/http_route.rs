//! HTTPRoutes and GRPCRoutes with a Service as parent: what of Gateway API's two kinds the mesh decides by.
//!
//! A GRPCRoute is a route over HTTP whose paths are a service and a method; nothing else about it differs.

mod filters;
mod matches;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::name::ObjectName;
use super::route::{BackendRef, ParentRef};
use super::session::SessionPersistence;
use super::workload::Weight;

pub use filters::{Cors, Filters, HeaderEdits, Mirror, OriginMatch, PathEdit, Redirect, Rewrite};
pub use matches::{HeaderMatch, HttpMatch, PathMatch, Pattern, QueryMatch, TextMatch};

/// Which kind a route is of. Of several kinds for one port the one that says most about its requests decides, in this order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum HttpKind {
    /// `GRPCRoute`.
    Grpc,
    /// `HTTPRoute`.
    Http,
}

impl HttpKind {
    /// The `kind` of a manifest.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Grpc => "GRPCRoute",
            Self::Http => "HTTPRoute",
        }
    }
}

impl fmt::Display for HttpKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The name of a route among those of both kinds.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct HttpRouteId {
    /// Its kind.
    pub kind: HttpKind,
    /// Namespace and name.
    pub name: ObjectName,
}

impl fmt::Display for HttpRouteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// An HTTPRoute or GRPCRoute.
#[derive(Clone, PartialEq, Debug)]
pub struct HttpRoute {
    /// Kind, namespace and name.
    pub id: HttpRouteId,
    /// The Services it is attached to.
    pub parents: Vec<ParentRef>,
    /// What it does with requests. One without any matches nothing.
    pub rules: Vec<Arc<HttpRule>>,
    /// Seconds since the epoch at which the object was created (0 where the manifest has none); the older of two routes wins.
    pub created: i64,
}

impl HttpRoute {
    /// Every Service port it names, as backend or as mirror.
    pub fn backends(&self) -> impl Iterator<Item = &BackendRef> {
        self.rules.iter().flat_map(|rule| {
            let direct = rule.backends.iter().map(|backend| &backend.backend);
            let filters = std::iter::once(&rule.filters).chain(rule.backends.iter().map(|backend| &backend.filters));
            direct.chain(filters.flat_map(|filters| &filters.mirrors).map(|mirror| &mirror.backend))
        })
    }
}

/// One rule of a route.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct HttpRule {
    /// Its name, for logs.
    pub name: Option<Arc<str>>,
    /// It takes a request that any of these fits; never empty.
    pub matches: Vec<HttpMatch>,
    /// What is done to every request it takes.
    pub filters: Filters,
    /// Where they go, by weight.
    pub backends: Vec<HttpBackend>,
    /// Backends that are no Services: the shares nobody can have.
    pub foreign: Vec<ForeignBackend>,
    /// How long they may take.
    pub timeouts: Timeouts,
    /// Whether they are tried again.
    pub retry: Option<Retry>,
    /// How clients keep their endpoint, where its backends are concerned.
    pub session: Option<Arc<SessionPersistence>>,
    /// Why its requests are refused all: it asks for something that cannot be done here.
    pub unsupported: Option<Arc<str>>,
}

/// A Service port that receives a share of a rule's requests.
#[derive(Clone, PartialEq, Debug)]
pub struct HttpBackend {
    /// Which, and its share.
    pub backend: BackendRef,
    /// What is done to the requests that go there, after the rule's own filters.
    pub filters: Filters,
}

/// What a rule names as a backend and is of a kind nothing can be sent to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ForeignBackend {
    /// What it is, for the answer to those that fall to it.
    pub what: Arc<str>,
    /// Its share.
    pub weight: Weight,
}

/// How long requests may take; without limits where absent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Timeouts {
    /// From the request's first byte to the response's last, whatever is tried meanwhile.
    pub request: Option<Duration>,
    /// One try: from its beginning to the response's last byte.
    pub backend_request: Option<Duration>,
}

/// Whether requests are tried again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Retry {
    /// How often at most, besides the first time.
    pub attempts: u32,
    /// Which statuses ask for it, besides failures of the connection.
    pub statuses: Vec<StatusCode>,
    /// The least time between two tries.
    pub backoff: Option<Duration>,
}
