//! TrafficPolicies, setting by setting.

use std::time::Duration;

use gateway_api::apis::experimental::xbackendtrafficpolicies::XBackendTrafficPolicy;
use http::StatusCode;
use weft_core::model::{Algorithm, HashKey, HealthProbe, Rate, TrafficKind, TrafficPolicy, TrafficTarget};

use super::super::{backend_traffic_policy, traffic_policy};
use super::{convert, good};
use crate::crd;

fn policy(spec: &str) -> String {
    format!(
        "{{apiVersion: weft.dev/v1alpha1, kind: TrafficPolicy, metadata: {{name: p, namespace: shop}}, spec: {{{spec}}}}}"
    )
}

fn well(spec: &str) -> TrafficPolicy {
    good::<crd::TrafficPolicy, _>(&policy(&format!("targetRefs: [{{name: s}}], {spec}")), traffic_policy::convert)
}

#[test]
fn settings_are_read() {
    let read = *well(
        "loadBalancer: {algorithm: Maglev, hashOn: {header: X-User}}, slowStart: 30s, idleTimeout: 1h, \
         outlierDetection: {consecutiveFailures: 3, baseEjectionTime: 5s, statuses: Server, successRate: {percent: 90}}, \
         retry: {attempts: 2, codes: [503]}, retryBudget: {percent: 50, minPerSecond: 1}, \
         fault: {delay: {percent: 10, duration: 2s}, abort: {percent: 5, status: 503}}, \
         rateLimit: {requests: 100, interval: 1m, burst: 7}, limits: {requests: 8, pending: 2}, tcpKeepalive: {time: 1m}",
    )
    .traffic;
    assert_eq!(
        (read.algorithm, read.hash_key),
        (Some(Algorithm::Maglev), Some(HashKey::Header("x-user".parse().unwrap())))
    );
    assert_eq!((read.slow_start, read.idle), (Some(Duration::from_secs(30)), Some(Duration::from_secs(3600))));
    let outlier = read.outlier.unwrap();
    assert!(outlier.failures == Some(3) && outlier.server_errors && outlier.success_rate.unwrap().requests == 100);
    assert_eq!(read.retry.unwrap().statuses[0].as_u16(), 503);
    assert_eq!((read.retry_budget.unwrap().percent, read.retry_budget.unwrap().least), (50, Rate::per_second(1)));
    let fault = read.fault.unwrap();
    assert_eq!((fault.delay.unwrap(), fault.abort.unwrap().1.as_u16()), ((10, Duration::from_secs(2)), 503));
    assert_eq!(read.rate_limit, Some(Rate { count: 100, per: Duration::from_secs(60), burst: 7 }));
    let limits = read.limits.unwrap();
    assert_eq!((limits.connections, limits.requests, limits.pending), (None, Some(8), 2));
    assert_eq!(read.keepalive.unwrap().probes, 9);
}

#[test]
fn a_port_or_a_rule_may_be_meant() {
    let spec = "targetRefs: [{name: s, sectionName: http}, {group: gateway.networking.k8s.io, kind: HTTPRoute, name: r, \
                sectionName: slow}], fault: {abort: {percent: 1, status: 500}}";
    let read: TrafficPolicy = good::<crd::TrafficPolicy, _>(&policy(spec), traffic_policy::convert);
    assert!(matches!(&read.targets[0], TrafficTarget::Service(_, Some(port)) if &**port == "http"));
    assert!(
        matches!(&read.targets[1], TrafficTarget::Route(id, Some(rule)) if &**rule == "slow" && id.name.to_string() == "shop/r")
    );
    let wrong = spec.replace("fault:", "slowStart: 1s, fault:");
    assert_eq!(convert::<crd::TrafficPolicy, _>(&policy(&wrong), traffic_policy::convert).1, ["spec"]);
}

#[test]
fn checks_are_read() {
    let read = |spec: &str| well(&format!("healthCheck: {{{spec}}}")).traffic.health.unwrap();
    let usual = read("tcp: {}");
    assert_eq!(
        (&usual.probe, usual.interval, usual.timeout),
        (&HealthProbe::Tcp, Duration::from_secs(10), Duration::from_secs(1))
    );
    assert_eq!((usual.healthy, usual.unhealthy), (1, 3));
    let http =
        read("http: {path: '/healthz?deep=1', host: web, statuses: [204]}, interval: 200ms, healthyThreshold: 2");
    let HealthProbe::Http { path, host, .. } = &http.probe else { panic!("{http:?}") };
    assert_eq!((&**path, host.as_deref(), http.healthy), ("/healthz?deep=1", Some("web"), 2));
    assert!(http.probe.expects(StatusCode::NO_CONTENT) && !http.probe.expects(StatusCode::OK));
    assert_eq!(read("grpc: {service: a.B}").probe, HealthProbe::Grpc { service: "a.B".into() });
}

#[test]
fn who_stands_in_and_when_far_ones_help() {
    let read = *well("spillover: {healthyPercent: 50}, fallback: {name: t, port: 81}").traffic;
    assert_eq!(read.healthy_percent, Some(50));
    assert_eq!(read.fallback.map(|to| (to.service.to_string(), to.port)), Some(("shop/t".to_owned(), 81)));
}

#[test]
fn policies_of_gateway_api_are_read() {
    let of = |spec: &str| {
        format!(
            "{{apiVersion: gateway.networking.x-k8s.io/v1alpha1, kind: XBackendTrafficPolicy, metadata: {{name: p, namespace: shop}}, \
             spec: {{{spec}}}}}"
        )
    };
    let spec = "targetRefs: [{group: '', kind: Service, name: s}], retryConstraint: {budget: {percent: 30, interval: 5s}, \
                minRetryRate: {count: 4, interval: 2s}}, sessionPersistence: {sessionName: cart}";
    let read: TrafficPolicy = good::<XBackendTrafficPolicy, _>(&of(spec), backend_traffic_policy::convert);
    assert_eq!((read.id.kind, read.targets.len()), (TrafficKind::Gateway, 1));
    let budget = read.traffic.retry_budget.unwrap();
    assert_eq!((budget.percent, budget.interval), (30, Duration::from_secs(5)));
    assert_eq!(budget.least, Rate { count: 4, per: Duration::from_secs(2), burst: 4 });
    assert_eq!(&*read.traffic.session.unwrap().name, "cart");
    let wrong =
        "targetRefs: [{group: '', kind: Service, name: s}], retryConstraint: {budget: {percent: 101, interval: 0s}}";
    assert_eq!(
        convert::<XBackendTrafficPolicy, _>(&of(wrong), backend_traffic_policy::convert).1,
        ["spec.retryConstraint.budget.percent", "spec.retryConstraint.budget.interval"]
    );
}

#[test]
fn what_cannot_be_meant_is_an_error() {
    for (spec, path) in [
        ("spillover: {healthyPercent: 0}", "spec.spillover.healthyPercent"),
        ("fallback: {name: t, port: 0}", "spec.fallback.port"),
        ("healthCheck: {}", "spec.healthCheck"),
        ("healthCheck: {tcp: {}, grpc: {}}", "spec.healthCheck"),
        ("healthCheck: {http: {path: healthz}}", "spec.healthCheck.http.path"),
        ("healthCheck: {http: {path: /, host: 'a b'}}", "spec.healthCheck.http.host"),
        ("healthCheck: {http: {path: /, statuses: [99]}}", "spec.healthCheck.http.statuses"),
        ("healthCheck: {tcp: {}, interval: 50ms}", "spec.healthCheck.interval"),
        ("healthCheck: {tcp: {}, unhealthyThreshold: 0}", "spec.healthCheck.unhealthyThreshold"),
        ("loadBalancer: {algorithm: Random, hashOn: {cookie: c}}", "spec.loadBalancer.hashOn"),
        ("loadBalancer: {algorithm: RingHash, hashOn: {cookie: c, query: q}}", "spec.loadBalancer.hashOn"),
        ("loadBalancer: {algorithm: RingHash, hashOn: {header: 'a b'}}", "spec.loadBalancer.hashOn.header"),
        ("slowStart: 1 day", "spec.slowStart"),
        ("idleTimeout: 0s", "spec.idleTimeout"),
        ("fault: {}", "spec.fault"),
        ("fault: {abort: {percent: 101, status: 500}}", "spec.fault.abort.percent"),
        ("fault: {abort: {percent: 1, status: 200}}", "spec.fault.abort.status"),
        ("rateLimit: {requests: 0}", "spec.rateLimit.requests"),
        ("limits: {pending: 1}", "spec.limits"),
        ("retry: {codes: [200]}", "spec.retry.codes"),
    ] {
        let text = policy(&format!("targetRefs: [{{name: s}}], {spec}"));
        assert_eq!(convert::<crd::TrafficPolicy, _>(&text, traffic_policy::convert).1, [path], "{spec}");
    }
}
