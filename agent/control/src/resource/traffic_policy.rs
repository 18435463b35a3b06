//! `weft.dev TrafficPolicy`.

use http::uri::{Authority, PathAndQuery};
use http::{HeaderName, StatusCode};
use weft_core::model::{
    Algorithm, Fallback, Fault, HashKey, HealthCheck, HealthProbe, HttpKind, HttpRouteId, Keepalive, Limits,
    ObjectName, Outlier, Rate, Retry, RetryBudget, SuccessRate, Traffic, TrafficKind, TrafficPolicy, TrafficPolicyId,
    TrafficTarget,
};
use weft_core::parse_duration;

use std::sync::Arc;
use std::time::Duration;

use super::Findings;
use crate::crd;

/// Checks more often than this cost an endpoint more than they tell.
const LEAST_INTERVAL: Duration = Duration::from_millis(100);

/// Converts a TrafficPolicy.
pub fn convert(object: &crd::TrafficPolicy, findings: &mut Findings) -> Option<TrafficPolicy> {
    let name = super::object_name(&object.metadata, findings);
    let namespace = super::namespace_of(&object.metadata);
    let mut targets = Vec::new();
    for (i, given) in object.spec.target_refs.iter().enumerate() {
        targets.extend(target(&format!("spec.targetRefs[{i}]"), namespace, given, findings));
    }
    if object.spec.target_refs.is_empty() {
        findings.error("spec.targetRefs", "is empty: name the Services the policy is for");
    }
    let traffic = traffic(&object.spec, namespace, findings);
    if targets.iter().any(|target| matches!(target, TrafficTarget::Route(..))) {
        let of_routes = Traffic {
            fault: traffic.fault,
            rate_limit: traffic.rate_limit,
            retry: traffic.retry.clone(),
            ..Traffic::default()
        };
        if of_routes != traffic {
            findings.error(
                "spec",
                "of a route only fault, rateLimit and retry can be set: target the Service for the rest",
            );
        }
    }
    let id = TrafficPolicyId { kind: TrafficKind::Weft, name: name? };
    Some(TrafficPolicy { id, targets, traffic: Box::new(traffic), created: super::created(&object.metadata) })
}

fn target(path: &str, namespace: &str, given: &crd::TargetRef, findings: &mut Findings) -> Option<TrafficTarget> {
    let name = findings.keep(format!("{path}.name"), ObjectName::new(namespace, &given.name))?;
    let section = given.section_name.as_deref().map(Into::into);
    match (given.group.as_str(), given.kind.as_str()) {
        ("" | "core", "Service") => Some(TrafficTarget::Service(name, section)),
        ("gateway.networking.k8s.io", kind @ ("HTTPRoute" | "GRPCRoute")) => {
            let kind = if kind == "HTTPRoute" { HttpKind::Http } else { HttpKind::Grpc };
            Some(TrafficTarget::Route(HttpRouteId { kind, name }, section))
        }
        (group, kind) => {
            let reason =
                format!("{kind:?} of group {group:?} cannot be a target: use a Service, an HTTPRoute or a GRPCRoute");
            findings.error(path, reason);
            None
        }
    }
}

fn traffic(spec: &crd::TrafficPolicySpec, namespace: &str, findings: &mut Findings) -> Traffic {
    let mut read = Reader(findings);
    let balancer = spec.load_balancer.as_ref();
    Traffic {
        algorithm: balancer.map(|balancer| algorithm(balancer.algorithm)),
        hash_key: balancer.and_then(|balancer| read.hash_key(balancer)),
        slow_start: read.time("spec.slowStart", spec.slow_start.as_ref()),
        outlier: spec.outlier_detection.as_ref().map(|given| read.outlier(given)),
        retry: spec.retry.as_ref().map(|given| read.retry(given)),
        retry_budget: spec.retry_budget.as_ref().map(|given| read.budget(given)),
        fault: spec.fault.as_ref().map(|given| read.fault(given)),
        rate_limit: spec.rate_limit.as_ref().and_then(|given| read.rate(given)),
        limits: spec.limits.as_ref().map(|given| read.limits(given)),
        idle: read.positive("spec.idleTimeout", spec.idle_timeout.as_ref()),
        keepalive: spec.tcp_keepalive.as_ref().map(|given| read.keepalive(given)),
        healthy_percent: spec
            .spillover
            .as_ref()
            .map(|given| read.number("spec.spillover.healthyPercent", given.healthy_percent, 1, 100)),
        fallback: spec.fallback.as_ref().and_then(|given| read.fallback(namespace, given)),
        health: spec.health_check.as_ref().and_then(|given| read.health(given)).map(Arc::new),
        session: None,
    }
}

/// Reads settings, and notes what is wrong with them.
struct Reader<'a>(&'a mut Findings);

impl Reader<'_> {
    fn time(&mut self, path: &str, given: Option<&String>) -> Option<Duration> {
        given.and_then(|text| self.0.keep(path, parse_duration(text)))
    }

    /// A time that is more than none.
    fn positive(&mut self, path: &str, given: Option<&String>) -> Option<Duration> {
        let time = self.time(path, given)?;
        self.0.keep(path, if time.is_zero() { Err("must be longer than nothing") } else { Ok(time) })
    }

    /// A number within what the schema says, which standalone agents have no API server to see to.
    fn number(&mut self, path: &str, given: u32, least: u32, most: u32) -> u32 {
        let within = (least..=most).contains(&given);
        self.0
            .keep(path, within.then_some(given).ok_or_else(|| format!("{given} is not {least} to {most}")))
            .unwrap_or(least)
    }

    fn status(&mut self, path: &str, code: u16) -> Option<StatusCode> {
        let status = StatusCode::from_u16(code).ok().filter(|_| (400..600).contains(&code));
        self.0.keep(path, status.ok_or_else(|| format!("{code} is not the status of a failure: use 400 to 599")))
    }

    fn hash_key(&mut self, balancer: &crd::LoadBalancer) -> Option<HashKey> {
        let (path, given) = ("spec.loadBalancer.hashOn", balancer.hash_on.as_ref()?);
        if !algorithm(balancer.algorithm).is_hash() {
            self.0.error(path, "is for RingHash and Maglev");
        }
        match (&given.header, &given.cookie, &given.query) {
            (Some(name), None, None) => {
                let name = HeaderName::try_from(name.as_str()).map_err(|_| format!("{name:?} is not a header"));
                self.0.keep(format!("{path}.header"), name).map(HashKey::Header)
            }
            (None, Some(name), None) => Some(HashKey::Cookie(name.as_str().into())),
            (None, None, Some(name)) => Some(HashKey::Query(name.as_str().into())),
            _ => {
                self.0.error(path, "names one of header, cookie and query");
                None
            }
        }
    }

    fn outlier(&mut self, given: &crd::OutlierDetection) -> Outlier {
        let at = |field: &str| format!("spec.outlierDetection.{field}");
        let failures = given.consecutive_failures;
        Outlier {
            failures: failures.map(|given| self.number(&at("consecutiveFailures"), given, 1, 1000)),
            base: self.positive(&at("baseEjectionTime"), given.base_ejection_time.as_ref()),
            cap: self.positive(&at("maxEjectionTime"), given.max_ejection_time.as_ref()),
            server_errors: given.statuses == Some(crd::FailureStatuses::Server),
            success_rate: given.success_rate.as_ref().map(|given| SuccessRate {
                percent: self.number(&at("successRate.percent"), given.percent, 1, 100),
                requests: self.number(&at("successRate.minRequests"), given.min_requests.unwrap_or(100), 1, 1_000_000),
                interval: self
                    .positive(&at("successRate.interval"), given.interval.as_ref())
                    .unwrap_or(Duration::from_secs(10)),
            }),
        }
    }

    fn retry(&mut self, given: &crd::RetrySpec) -> Retry {
        let codes = given.codes.iter().flatten();
        Retry {
            attempts: self.number("spec.retry.attempts", given.attempts.unwrap_or(1), 0, 10),
            statuses: codes.filter_map(|code| self.status("spec.retry.codes", *code)).collect(),
            backoff: self.time("spec.retry.backoff", given.backoff.as_ref()),
        }
    }

    fn budget(&mut self, given: &crd::RetryBudgetSpec) -> RetryBudget {
        let usual = RetryBudget::default();
        let percent = self.number("spec.retryBudget.percent", given.percent.unwrap_or(usual.percent), 0, 100);
        let interval = self.positive("spec.retryBudget.interval", given.interval.as_ref()).unwrap_or(usual.interval);
        let least = given.min_per_second.map_or(usual.least, Rate::per_second);
        RetryBudget { percent, interval, least }
    }

    fn fault(&mut self, given: &crd::FaultSpec) -> Fault {
        let delay = given.delay.as_ref().and_then(|given| {
            let percent = self.number("spec.fault.delay.percent", given.percent, 1, 100);
            Some((percent, self.positive("spec.fault.delay.duration", Some(&given.duration))?))
        });
        let abort = given.abort.as_ref().and_then(|given| {
            let percent = self.number("spec.fault.abort.percent", given.percent, 1, 100);
            Some((percent, self.status("spec.fault.abort.status", given.status)?))
        });
        if given.delay.is_none() && given.abort.is_none() {
            self.0.error("spec.fault", "says nothing: set delay or abort");
        }
        Fault { delay, abort }
    }

    fn rate(&mut self, given: &crd::RateLimitSpec) -> Option<Rate> {
        let count = self.number("spec.rateLimit.requests", given.requests, 1, 10_000_000);
        let per = match &given.interval {
            Some(interval) => self.positive("spec.rateLimit.interval", Some(interval))?,
            None => Duration::from_secs(1),
        };
        let burst = self.number("spec.rateLimit.burst", given.burst.unwrap_or(count), 1, 10_000_000);
        Some(Rate { count, per, burst })
    }

    fn limits(&mut self, given: &crd::LimitsSpec) -> Limits {
        if given.connections.is_none() && given.requests.is_none() {
            self.0.error("spec.limits", "limits nothing: set connections or requests");
        }
        let mut number = |field: &str, given: Option<u32>| {
            given.map(|given| self.number(&format!("spec.limits.{field}"), given, 1, 1_000_000))
        };
        let (connections, requests) = (number("connections", given.connections), number("requests", given.requests));
        Limits { connections, requests, pending: given.pending.unwrap_or(0) }
    }

    fn fallback(&mut self, namespace: &str, given: &crd::FallbackSpec) -> Option<Fallback> {
        let service = self.0.keep("spec.fallback.name", ObjectName::new(namespace, &given.name));
        let port = self.0.port("spec.fallback.port", i32::from(given.port));
        Some(Fallback { service: service?, port: port? })
    }

    fn health(&mut self, given: &crd::HealthCheckSpec) -> Option<HealthCheck> {
        let at = |field: &str| format!("spec.healthCheck.{field}");
        let probe = match (&given.tcp, &given.http, &given.grpc) {
            (Some(_), None, None) => HealthProbe::Tcp,
            (None, Some(given), None) => HealthProbe::Http {
                path: self.path(&at("http.path"), &given.path)?,
                host: match &given.host {
                    Some(host) => Some(self.host(&at("http.host"), host)?),
                    None => None,
                },
                statuses: self.statuses(&at("http.statuses"), given.statuses.as_deref().unwrap_or_default()),
            },
            (None, None, Some(given)) => {
                HealthProbe::Grpc { service: given.service.as_deref().unwrap_or_default().into() }
            }
            _ => return self.0.keep("spec.healthCheck", Err("is one of tcp, http and grpc")),
        };
        let mut time = |field: &str, given: Option<&String>, usual: u64| {
            self.positive(&at(field), given).unwrap_or(Duration::from_secs(usual))
        };
        let (interval, timeout) =
            (time("interval", given.interval.as_ref(), 10), time("timeout", given.timeout.as_ref(), 1));
        if interval < LEAST_INTERVAL {
            self.0.error(at("interval"), format!("is shorter than {LEAST_INTERVAL:?}"));
        }
        let healthy = self.number(&at("healthyThreshold"), given.healthy_threshold.unwrap_or(1), 1, 100);
        let unhealthy = self.number(&at("unhealthyThreshold"), given.unhealthy_threshold.unwrap_or(3), 1, 100);
        Some(HealthCheck { probe, interval, timeout, healthy, unhealthy })
    }

    fn path(&mut self, at: &str, given: &str) -> Option<Arc<str>> {
        let read = given.parse::<PathAndQuery>().ok().filter(|_| given.starts_with('/'));
        self.0.keep(at, read.ok_or_else(|| format!("{given:?} is not a path"))).map(|_| given.into())
    }

    fn host(&mut self, at: &str, given: &str) -> Option<Arc<str>> {
        let read = given.parse::<Authority>().map_err(|_| format!("{given:?} is not a host"));
        self.0.keep(at, read).map(|_| given.into())
    }

    fn statuses(&mut self, at: &str, given: &[u16]) -> Vec<StatusCode> {
        let read = |code: &u16| StatusCode::from_u16(*code).ok().filter(|_| (100..600).contains(code));
        let mut status = |code| self.0.keep(at, read(code).ok_or_else(|| format!("{code} is not a status")));
        given.iter().filter_map(&mut status).collect()
    }

    fn keepalive(&mut self, given: &crd::KeepaliveSpec) -> Keepalive {
        // Where it is absent, Linux' own.
        let mut time = |field: &str, given: Option<&String>, usual: u64| {
            self.positive(&format!("spec.tcpKeepalive.{field}"), given).unwrap_or(Duration::from_secs(usual))
        };
        let (idle, interval) = (time("time", given.time.as_ref(), 7200), time("interval", given.interval.as_ref(), 75));
        let probes = self.number("spec.tcpKeepalive.probes", given.probes.unwrap_or(9), 1, 127);
        Keepalive { time: idle, interval, probes }
    }
}

fn algorithm(name: crd::AlgorithmName) -> Algorithm {
    match name {
        crd::AlgorithmName::PeakEwma => Algorithm::PeakEwma,
        crd::AlgorithmName::LeastRequest => Algorithm::LeastRequest,
        crd::AlgorithmName::RoundRobin => Algorithm::RoundRobin,
        crd::AlgorithmName::Random => Algorithm::Random,
        crd::AlgorithmName::RingHash => Algorithm::RingHash,
        crd::AlgorithmName::Maglev => Algorithm::Maglev,
    }
}
