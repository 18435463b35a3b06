//! What TrafficPolicies have to say of a request before it is sent: whether it is one too many, and what goes wrong on purpose.

use std::sync::Arc;
use std::time::Instant;

use http::Request;
use weft_core::http::Retry;
use weft_core::model::{RetryBudget, Traffic};
use weft_core::snapshot::Snapshot;

use super::answer::Fault;
use super::exchange::Session;
use super::routing::Routing;
use super::upload::Upload;
use crate::dial::{Kind, Place};

/// What is set for a request: by where it goes, from the most specific on.
pub(super) struct Bounds {
    /// For the rule that takes it.
    rule: Option<Arc<Traffic>>,
    /// For the service port that was dialled.
    dialled: Option<Arc<Traffic>>,
    /// For the one that gets it.
    backend: Option<Arc<Traffic>>,
}

impl Bounds {
    pub(super) fn of(session: &Session, snapshot: &Snapshot, routing: &Routing) -> Self {
        let (dialled, backend) = (&session.client.service, &routing.backend);
        let traffic = |key: &weft_core::route::ServicePortKey| snapshot.traffic(&key.service, key.port).cloned();
        Self { rule: routing.traffic().cloned(), dialled: traffic(dialled), backend: traffic(backend) }
    }

    /// What is said of requests that are made.
    fn asked<T>(&self, set: impl Fn(&Traffic) -> Option<T>) -> Option<T> {
        [&self.rule, &self.dialled].into_iter().flatten().find_map(|traffic| set(traffic))
    }

    /// Whether it is tried again, where its rule does not say.
    pub(super) fn retry(&self) -> Option<&Retry> {
        [&self.rule, &self.dialled, &self.backend].into_iter().flatten().find_map(|traffic| traffic.retry.as_ref())
    }

    pub(super) fn retry_budget(&self) -> RetryBudget {
        self.backend.as_ref().and_then(|traffic| traffic.retry_budget).unwrap_or_default()
    }

    /// What it has in common with those that are to go to the same endpoint.
    pub(super) fn hash(&self, request: &Request<Upload>) -> Option<u64> {
        let hashing = |traffic: &&Arc<Traffic>| traffic.algorithm.is_some();
        let traffic = [&self.backend, &self.dialled].into_iter().flatten().find(hashing)?;
        traffic.hash_key.as_ref()?.of_request(request.uri(), request.headers())
    }
}

impl Session {
    /// Lets a request in: within its rate, after what goes wrong on purpose, and once there is a place for it.
    pub(super) async fn admit(&self, bounds: &Bounds, routing: &Routing) -> Result<Option<Place>, Fault> {
        if bounds.rule.is_none() && bounds.dialled.is_none() && bounds.backend.is_none() {
            return Ok(None);
        }
        let (ledgers, now) = (&self.http.ledgers, Instant::now());
        let of_rule = bounds.rule.as_ref().and_then(|traffic| traffic.rate_limit).zip(routing.rule());
        let limited = match (of_rule, bounds.dialled.as_ref().and_then(|traffic| traffic.rate_limit)) {
            (Some((rate, rule)), _) => ledgers.of_rule(rule).admit(&rate, now),
            (None, Some(rate)) => ledgers.of(&self.client.service).admit(&rate, now),
            (None, None) => Ok(()),
        };
        limited.map_err(Fault::RateLimited)?;
        if let Some(fault) = bounds.asked(|traffic| traffic.fault) {
            let (delay, abort) = fault.befalls([rand::random(), rand::random()]);
            if let Some(delay) = delay {
                tokio::time::sleep(delay).await;
            }
            if let Some(status) = abort {
                return Err(Fault::Injected(status));
            }
        }
        let limits = bounds.backend.as_ref().and_then(|traffic| traffic.limits);
        let dialler = &self.http.dialer;
        Ok(dialler.gates.enter(&routing.backend, Kind::Requests, limits.as_ref(), dialler.budget.each).await?)
    }
}
