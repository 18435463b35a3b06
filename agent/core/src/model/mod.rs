//! What the mesh knows, valid by construction: the resources a source delivers and the snapshot indexes.
//!
//! The types mirror the Kubernetes objects they come from but hold only what a decision needs. A value that exists
//! here has been checked; checking, with file and line, is the source's job.

mod authorization;
mod health;
mod http_route;
mod identity;
mod name;
mod peer;
mod policy;
mod pool;
mod route;
mod service;
mod session;
mod traffic;
mod workload;

pub use authorization::{Action, AuthorizationPolicy, AuthorizationRule, Match, PeerMatch, PortMatch, Scope};
pub use health::{HealthCheck, HealthProbe};
pub use http_route::{
    Cors, Filters, ForeignBackend, HeaderEdits, HeaderMatch, HttpBackend, HttpKind, HttpMatch, HttpRoute, HttpRouteId,
    HttpRule, Mirror, OriginMatch, PathEdit, PathMatch, Pattern, QueryMatch, Redirect, Retry, Rewrite, TextMatch,
    Timeouts,
};
pub use identity::{Identity, IdentityError, TrustDomain};
pub use name::{Label, Labels, Name, NameError, ObjectName, Selector};
pub use peer::{Peer, Roles};
pub use policy::{MtlsMode, PeerAuthentication};
pub use pool::Pool;
pub use route::{BackendRef, GrantKind, ParentRef, ReferenceGrant, TcpRoute};
pub use service::{EndpointAddress, EndpointSlice, Hints, Place, Preference, Service, ServicePort, SlicePort};
pub use session::{Carrier, SessionPersistence};
pub use traffic::{
    Algorithm, Fallback, Fault, HashKey, Keepalive, Limits, Outlier, Rate, RetryBudget, SuccessRate, Traffic,
    TrafficKind, TrafficPolicy, TrafficPolicyId, TrafficTarget,
};
pub use workload::{MeshLabel, Namespace, Node, NodeLiveness, OFF_LABEL, Weight, Workload};
