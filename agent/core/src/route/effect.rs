//! Settings of a TrafficPolicy that do nothing, because of what the ports it is for speak.
//!
//! A policy for a whole Service may well set what only some of its ports have: told is what none of them has. What makes a port
//! HTTP by being set ([`Traffic::is_of_requests`]) does nothing only where the port says that it speaks something else.

use super::{OpaqueBecause, Protocol, protocol};
use crate::model::{HashKey, Service, ServicePort, Traffic, TrafficPolicy, TrafficTarget};
use crate::snapshot::{Family, ServicePortKey, Snapshot};

/// For each target, the settings that do nothing there, and why, in words.
#[must_use]
pub fn without_effect(snapshot: &Snapshot, policy: &TrafficPolicy) -> Vec<String> {
    policy.targets.iter().filter_map(|target| of_target(snapshot, &policy.traffic, target)).collect()
}

fn of_target(snapshot: &Snapshot, traffic: &Traffic, target: &TrafficTarget) -> Option<String> {
    let TrafficTarget::Service(name, section) = target else { return None };
    let service = snapshot.service(name)?;
    let is = |port: &&ServicePort| {
        section.as_deref().is_none_or(|section| section == &*port.name || section == port.port.to_string())
    };
    let spoken: Vec<_> = service.ports.iter().filter(is).map(|port| spoken(snapshot, service, port)).collect();
    // Nothing is known of a port that may yet turn out to speak either.
    let first = (*spoken.first()?)?;
    let by_bytes = spoken.iter().all(|known| matches!(known, Some(Protocol::Opaque(_))));
    let by_requests = spoken.iter().all(|known| matches!(known, Some(Protocol::Http(_))));
    let settings = if by_bytes {
        of_requests(traffic)
    } else if by_requests {
        of_bytes(traffic)
    } else {
        return None;
    };
    let how = if by_bytes { "byte by byte" } else { "request by request" };
    let whose =
        section.as_deref().map_or_else(|| format!("Service {name}"), |port| format!("port {port} of Service {name}"));
    (!settings.is_empty()).then(|| format!("{} on {whose}, which is carried {how}: {first}", settings.join(", ")))
}

/// What a port surely speaks. The controller knows no Namespaces, which may ask to find out what ports speak that say nothing.
fn spoken(snapshot: &Snapshot, service: &Service, port: &ServicePort) -> Option<Protocol> {
    let key = ServicePortKey { service: service.name.clone(), port: port.port, family: Family::V4 };
    let spoken = protocol(snapshot, &key, None);
    let known = service.detect.is_some() || snapshot.namespace(&service.name.namespace).is_some();
    match spoken {
        Protocol::Detected => None,
        Protocol::Opaque(OpaqueBecause::Undeclared) if !known => None,
        spoken => Some(spoken),
    }
}

/// What of it only requests have, by its names in the object.
fn of_requests(traffic: &Traffic) -> Vec<&'static str> {
    let hashes = traffic.hash_key.as_ref().is_some_and(|key| *key != HashKey::SourceIp);
    [
        ("fault", traffic.fault.is_some()),
        ("rateLimit", traffic.rate_limit.is_some()),
        ("retry", traffic.retry.is_some()),
        ("retryBudget", traffic.retry_budget.is_some()),
        ("limits.requests", traffic.limits.is_some_and(|limits| limits.requests.is_some())),
        ("outlierDetection.statuses", traffic.outlier.is_some_and(|outlier| outlier.server_errors)),
        ("loadBalancer.hashOn (the client's address is hashed)", hashes),
    ]
    .into_iter()
    .filter_map(|(name, set)| set.then_some(name))
    .collect()
}

/// What of it only connections have that are carried byte by byte.
fn of_bytes(traffic: &Traffic) -> Vec<&'static str> {
    let limited = traffic.limits.is_some_and(|limits| limits.connections.is_some());
    if limited { vec!["limits.connections"] } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Fault, Limits, Name, Namespace, RetryBudget, TrafficKind, TrafficPolicyId};
    use crate::snapshot::{Delta, Resource};
    use crate::testing::{labels, object, service, snapshot};

    fn policy(traffic: &Traffic, section: Option<&str>) -> TrafficPolicy {
        TrafficPolicy {
            id: TrafficPolicyId { kind: TrafficKind::Weft, name: object("a/p") },
            targets: vec![TrafficTarget::Service(object("a/s"), section.map(Into::into))],
            traffic: Box::new(traffic.clone()),
            created: 0,
        }
    }

    /// What is said beside a Service whose ports 80 and on speak these.
    fn said(speaks: &[Option<&str>], traffic: &Traffic, section: Option<&str>) -> Vec<String> {
        let mut of = service("a/s", "10.9.0.1", 80);
        let ports = speaks.iter().zip(80..);
        of.ports = ports
            .map(|(said, port)| ServicePort {
                name: format!("p{port}").into(),
                port,
                app_protocol: said.map(Into::into),
            })
            .collect();
        let space =
            Namespace { name: Name::new("a").unwrap(), mesh: None, labels: labels(&[]), fast_path: true, detect: None };
        let policy = policy(traffic, section);
        let all = [Resource::Service(of), Resource::Namespace(space), Resource::TrafficPolicy(policy.clone())];
        without_effect(&snapshot(all), &policy)
    }

    #[test]
    fn what_no_port_has_is_told_and_what_one_has_is_not() {
        let budget = RetryBudget::default();
        let requests = Traffic { fault: Some(Fault::default()), retry_budget: Some(budget), ..Traffic::default() };
        let told = said(&[Some("redis")], &requests, None);
        let wanted =
            "fault, retryBudget on Service a/s, which is carried byte by byte: its appProtocol is none of HTTP";
        assert_eq!(told, [wanted]);
        assert!(said(&[Some("redis"), Some("http")], &requests, None).is_empty(), "one of its ports has it");
        assert!(said(&[Some("redis"), Some("http")], &requests, Some("81")).is_empty());
        assert!(
            said(&[Some("redis"), Some("http")], &requests, Some("p80"))[0]
                .starts_with("fault, retryBudget on port p80")
        );
        // A port of which nothing is said is made HTTP by the one, and not by the other.
        assert!(said(&[None], &requests, None).is_empty());
        let alone = Traffic { retry_budget: Some(budget), ..Traffic::default() };
        assert_eq!(said(&[None], &alone, None).len(), 1);
        let connections = Limits { connections: Some(1), requests: None, pending: 0 };
        let connections = Traffic { limits: Some(connections), ..Traffic::default() };
        assert!(said(&[Some("http")], &connections, None)[0].contains("limits.connections"));
        assert!(said(&[Some("redis")], &connections, None).is_empty());
        assert!(said(&[Some("redis")], &Traffic::default(), None).is_empty());
    }

    #[test]
    fn where_the_namespace_is_not_known_nothing_is_said_of_ports_that_say_nothing() {
        let budget = RetryBudget::default();
        let policy = policy(&Traffic { retry_budget: Some(budget), ..Traffic::default() }, None);
        let alone =
            snapshot([Resource::Service(service("a/s", "10.9.0.1", 80)), Resource::TrafficPolicy(policy.clone())]);
        assert!(without_effect(&alone, &policy).is_empty());
        let mut told = service("a/s", "10.9.0.1", 80);
        told.detect = Some(false);
        assert_eq!(without_effect(&alone.apply([Delta::Put(Resource::Service(told))]), &policy).len(), 1);
    }
}
