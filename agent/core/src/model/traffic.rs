//! TrafficPolicies: how connections and requests are spread over a service's endpoints, and how much those are asked to bear.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, StatusCode};

use super::health::HealthCheck;
use super::http_route::{HttpRouteId, Retry};
use super::name::ObjectName;
use super::session::SessionPersistence;

/// How a service's endpoints are chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub enum Algorithm {
    /// Two random ready endpoints, the one with the lower peak-EWMA cost wins.
    #[default]
    PeakEwma,
    /// Two random ready endpoints, the one with fewer connections in flight per weight wins.
    LeastRequest,
    /// Smooth weighted round robin.
    RoundRobin,
    /// Weighted random.
    Random,
    /// The next one on a ring, by the hash of what requests have in common.
    RingHash,
    /// The one a table has for that hash.
    Maglev,
}

impl Algorithm {
    /// Whether the same requests go to the same endpoint.
    #[must_use]
    pub const fn is_hash(self) -> bool {
        matches!(self, Self::RingHash | Self::Maglev)
    }
}

/// What requests have in common that are to go to the same endpoint.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum HashKey {
    /// The client's address.
    #[default]
    SourceIp,
    /// A header's value.
    Header(HeaderName),
    /// A cookie's value.
    Cookie(Arc<str>),
    /// The value of a parameter of the query.
    Query(Arc<str>),
}

/// Which kind a policy is of, the one whose word goes first first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum TrafficKind {
    /// `weft.dev TrafficPolicy`.
    Weft,
    /// `gateway.networking.x-k8s.io XBackendTrafficPolicy`.
    Gateway,
}

/// The name of a policy among those of both kinds.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct TrafficPolicyId {
    /// Its kind.
    pub kind: TrafficKind,
    /// Namespace and name.
    pub name: ObjectName,
}

/// A `TrafficPolicy`, or what of Gateway API sets the same.
#[derive(Clone, PartialEq, Debug)]
pub struct TrafficPolicy {
    /// Kind, namespace and name.
    pub id: TrafficPolicyId,
    /// What it is for, all of its own namespace.
    pub targets: Vec<TrafficTarget>,
    /// What it sets.
    pub traffic: Box<Traffic>,
    /// Seconds since the epoch at which the object was created (0 where the manifest has none).
    pub created: i64,
}

/// What a TrafficPolicy is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TrafficTarget {
    /// A Service, or one port of it by name or number.
    Service(ObjectName, Option<Arc<str>>),
    /// The requests that a route takes, or one of its rules by name.
    Route(HttpRouteId, Option<Arc<str>>),
}

/// What TrafficPolicies set for a service port or the rule of a route; what none sets is as it is without.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Traffic {
    /// How endpoints are chosen.
    pub algorithm: Option<Algorithm>,
    /// What is hashed, where the algorithm hashes.
    pub hash_key: Option<HashKey>,
    /// How long the weight of a new endpoint grows.
    pub slow_start: Option<Duration>,
    /// When an endpoint is ejected.
    pub outlier: Option<Outlier>,
    /// Whether failed requests are tried again, where their rule says nothing.
    pub retry: Option<Retry>,
    /// How many of the requests may be retries.
    pub retry_budget: Option<RetryBudget>,
    /// What goes wrong on purpose.
    pub fault: Option<Fault>,
    /// How many requests are let in.
    pub rate_limit: Option<Rate>,
    /// How many connections and requests may be open at once.
    pub limits: Option<Limits>,
    /// After how long without a byte a connection is ended.
    pub idle: Option<Duration>,
    /// TCP's keepalive.
    pub keepalive: Option<Keepalive>,
    /// Near endpoints get everything while so many of a hundred are well.
    pub healthy_percent: Option<u32>,
    /// The Service port whose endpoints stand in while none of its own is well.
    pub fallback: Option<Fallback>,
    /// How endpoints are asked how they are.
    pub health: Option<Arc<HealthCheck>>,
    /// How clients keep their endpoint, where the rule of their route does not say.
    pub session: Option<Arc<SessionPersistence>>,
}

impl Traffic {
    /// Whether it sets what only requests have.
    #[must_use]
    pub fn is_of_requests(&self) -> bool {
        let hashes = self.hash_key.as_ref().is_some_and(|key| *key != HashKey::SourceIp);
        let limits = self.limits.is_some_and(|limits| limits.requests.is_some());
        let alone = self.fault.is_some() || self.rate_limit.is_some() || self.retry.is_some();
        hashes || limits || alone || self.session.is_some()
    }

    /// What this one does not set, another does.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        Self {
            algorithm: self.algorithm.or(other.algorithm),
            hash_key: self.hash_key.clone().or_else(|| other.hash_key.clone()),
            slow_start: self.slow_start.or(other.slow_start),
            outlier: self.outlier.or(other.outlier),
            retry: self.retry.clone().or_else(|| other.retry.clone()),
            retry_budget: self.retry_budget.or(other.retry_budget),
            fault: self.fault.or(other.fault),
            rate_limit: self.rate_limit.or(other.rate_limit),
            limits: self.limits.or(other.limits),
            idle: self.idle.or(other.idle),
            keepalive: self.keepalive.or(other.keepalive),
            healthy_percent: self.healthy_percent.or(other.healthy_percent),
            fallback: self.fallback.clone().or_else(|| other.fallback.clone()),
            health: self.health.clone().or_else(|| other.health.clone()),
            session: self.session.clone().or_else(|| other.session.clone()),
        }
    }
}

/// A Service port that stands in for another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fallback {
    /// The Service.
    pub service: ObjectName,
    /// Its port.
    pub port: u16,
}

/// When an endpoint is ejected; what is absent is as it is without.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Outlier {
    /// Failures in a row.
    pub failures: Option<u32>,
    /// How long the first ejection lasts.
    pub base: Option<Duration>,
    /// The most that grows to.
    pub cap: Option<Duration>,
    /// Every status from 500 is a failure, not a gateway's alone (502, 503, 504).
    pub server_errors: bool,
    /// Too few successes in all.
    pub success_rate: Option<SuccessRate>,
}

/// How many of an endpoint's answers must be good.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SuccessRate {
    /// So many of a hundred.
    pub percent: u32,
    /// Once there are so many in an interval.
    pub requests: u32,
    /// Over how long they are counted.
    pub interval: Duration,
}

/// What goes wrong on purpose, so that it is known how clients bear it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Fault {
    /// So many of a hundred requests wait so long before they are sent.
    pub delay: Option<(u32, Duration)>,
    /// So many of a hundred are answered so, and not sent.
    pub abort: Option<(u32, StatusCode)>,
}

/// How many connections and requests of one node a service port may have at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Connections that are carried byte by byte.
    pub connections: Option<u32>,
    /// Requests.
    pub requests: Option<u32>,
    /// How many more may wait for one of those to end.
    pub pending: u32,
}

/// TCP's keepalive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Keepalive {
    /// How long nothing has come before the first probe.
    pub time: Duration,
    /// Between two probes.
    pub interval: Duration,
    /// So many without an answer end the connection.
    pub probes: u32,
}

/// So many in so long, and so many at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// How many.
    pub count: u32,
    /// In how long.
    pub per: Duration,
    /// How many at once, after a time in which there were none; never 0 unless `count` is.
    pub burst: u32,
}

impl Rate {
    /// So many a second, all of them at once if need be.
    #[must_use]
    pub const fn per_second(count: u32) -> Self {
        Self { count, per: Duration::from_secs(1), burst: count }
    }

    /// The time for each.
    #[must_use]
    pub fn each(&self) -> Duration {
        if self.count == 0 { Duration::MAX / 4 } else { self.per / self.count }
    }

    /// The time for as many as may come at once.
    #[must_use]
    pub fn whole(&self) -> Duration {
        if self.count == 0 { Duration::ZERO } else { self.each() * self.burst }
    }
}

/// How many of a service port's requests may be retries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RetryBudget {
    /// For each hundred requests of the interval.
    pub percent: u32,
    /// Over how long requests and retries are counted.
    pub interval: Duration,
    /// Besides that, whatever else was retried.
    pub least: Rate,
}

impl Default for RetryBudget {
    /// A fifth of the requests of ten seconds, and ten a second (finagle's and Linkerd's).
    fn default() -> Self {
        Self { percent: 20, interval: Duration::from_secs(10), least: Rate::per_second(10) }
    }
}
