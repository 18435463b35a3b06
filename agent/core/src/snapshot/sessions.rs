//! Where a client is asked to keep its endpoint in two ways at once: by what it shows (`sessionPersistence`), and by its
//! address. Both cannot be followed, so that neither is chosen in silence: a rule that asks for it takes its requests and
//! refuses them, a policy that does is not accepted (GEP-1619, "Session Affinity in K8S Services").

use super::{Snapshot, traffic};
use crate::model::{Algorithm, BackendRef, HashKey, HttpRule, ObjectName, Service, ServicePort};

/// What keeps clients at their endpoint by their address, where `sessionPersistence` is asked for.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SessionClash {
    /// The Service itself.
    #[error(
        "sessionPersistence does not go together with sessionAffinity: ClientIP of Service {0}: use one of the two"
    )]
    ClientIp(ObjectName),
    /// A TrafficPolicy for a port of it.
    #[error(
        "sessionPersistence does not go together with the {algorithm:?} of the client's address that a TrafficPolicy sets for \
         Service {service} port {port}: use one of the two, or set hashOn"
    )]
    SourceIp {
        /// The Service.
        service: ObjectName,
        /// Its port.
        port: u16,
        /// What hashes.
        algorithm: Algorithm,
    },
}

/// Why a rule's `sessionPersistence` cannot be followed for requests to the Service `parent`, if so.
pub(super) fn of_rule(snapshot: &Snapshot, parent: &ObjectName, rule: &HttpRule) -> Option<SessionClash> {
    rule.session.as_ref()?;
    let by_address = |name: &ObjectName| snapshot.service(name).and_then(|service| of_affinity(service));
    let of_backend = |backend: &BackendRef| {
        let service = snapshot.service(&backend.service)?;
        let port = service.ports.iter().find(|port| port.port == backend.port);
        of_affinity(service).or_else(|| of_hash(snapshot, service, port?))
    };
    by_address(parent).or_else(|| rule.backends.iter().find_map(|backend| of_backend(&backend.backend)))
}

/// Why no `sessionPersistence` can be followed for all ports of a service, if so.
pub(super) fn of_service(snapshot: &Snapshot, service: &Service) -> Option<SessionClash> {
    of_affinity(service).or_else(|| service.ports.iter().find_map(|port| of_hash(snapshot, service, port)))
}

fn of_affinity(service: &Service) -> Option<SessionClash> {
    service.affinity.map(|_| SessionClash::ClientIp(service.name.clone()))
}

fn of_hash(snapshot: &Snapshot, service: &Service, port: &ServicePort) -> Option<SessionClash> {
    let traffic = traffic::own(snapshot, &service.name, port)?;
    let algorithm = traffic.algorithm.filter(|algorithm| algorithm.is_hash())?;
    matches!(traffic.hash_key, None | Some(HashKey::SourceIp)).then(|| SessionClash::SourceIp {
        service: service.name.clone(),
        port: port.port,
        algorithm,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Refusal;
    use crate::model::{
        BackendRef, Carrier, HttpBackend, HttpKind, HttpMatch, HttpRoute, HttpRouteId, ParentRef, SessionPersistence,
        Traffic, TrafficKind, TrafficPolicy, TrafficPolicyId, TrafficTarget, Weight,
    };
    use crate::snapshot::{Delta, PolicyAttachment, Resource};
    use crate::testing::{object, service, snapshot, tuned};
    use std::sync::Arc;
    use std::time::Duration;

    fn persistence() -> Arc<SessionPersistence> {
        let carrier = Carrier::Cookie { permanent: false };
        Arc::new(SessionPersistence { name: "cart".into(), carrier, absolute: None, idle: None })
    }

    /// A route of `n/front` to `n/back` whose clients keep their endpoint.
    fn route() -> HttpRoute {
        let backend = BackendRef { service: object("n/back"), port: 80, weight: Weight(1) };
        let rule = HttpRule {
            matches: vec![HttpMatch::default()],
            backends: vec![HttpBackend { backend, filters: Default::default() }],
            session: Some(persistence()),
            ..HttpRule::default()
        };
        let parents = vec![ParentRef::whole(object("n/front"))];
        let id = HttpRouteId { kind: HttpKind::Http, name: object("n/r") };
        HttpRoute { id, parents, rules: vec![Arc::new(rule)], created: 0 }
    }

    fn kept(mut service: Service) -> Resource {
        service.affinity = Some(Service::AFFINITY);
        Resource::Service(service)
    }

    fn hashing(hash_key: Option<HashKey>) -> Resource {
        let traffic = Box::new(Traffic { algorithm: Some(Algorithm::Maglev), hash_key, ..Traffic::default() });
        let targets = vec![TrafficTarget::Service(object("n/back"), None)];
        Resource::TrafficPolicy(TrafficPolicy { id: tuned("n/p"), targets, traffic, created: 0 })
    }

    /// Why requests to `n/front` are refused.
    fn refused(snapshot: &Snapshot) -> Option<String> {
        let routes = snapshot.http_routes(&object("n/front"), 80).unwrap();
        let router = routes.for_client(&object("n/front").namespace).unwrap();
        let routed = router.rules().next().unwrap();
        assert_eq!(routed.targets().count() == 0, routed.target(0).is_err(), "who was there before gets no further");
        match routed.target(0) {
            Err(Refusal::Unsupported(_, why)) => Some(why.to_string()),
            other => other.map(|_| None).unwrap(),
        }
    }

    #[test]
    fn a_rule_is_refused_as_long_as_a_service_keeps_clients_by_their_address() {
        let (front, back) = (service("n/front", "10.96.0.1", 80), service("n/back", "10.96.0.2", 80));
        let plain = [front.clone(), back.clone()].map(Resource::Service);
        let at_rest = snapshot(plain.clone().into_iter().chain([Resource::HttpRoute(route())]));
        assert_eq!(refused(&at_rest), None);
        for (change, says) in [
            (kept(front), "sessionAffinity: ClientIP of Service n/front"),
            (kept(back), "sessionAffinity: ClientIP of Service n/back"),
            (hashing(None), "the Maglev of the client's address"),
            (hashing(Some(HashKey::SourceIp)), "Service n/back port 80"),
        ] {
            let undone = plain.iter().find(|known| known.key() == change.key()).cloned().map(Delta::Put);
            let undone = undone.unwrap_or_else(|| Delta::Remove(change.key()));
            let clashing = at_rest.apply([Delta::Put(change)]);
            let why = refused(&clashing).unwrap_or_default();
            assert!(why.contains(says) && why.contains("use one of the two"), "{says}: {why}");
            assert_eq!(refused(&clashing.apply([undone])), None, "{says}, and no more");
        }
        let by_header = hashing(Some(HashKey::Header("x-user".parse().unwrap())));
        assert_eq!(refused(&at_rest.apply([Delta::Put(by_header)])), None, "who is new goes by the header");
    }

    /// A policy of Gateway API for `n/back`.
    fn asking(named: &str, created: i64, session: bool, idle: u64) -> TrafficPolicy {
        let session = session.then(persistence);
        let traffic = Box::new(Traffic { session, idle: Some(Duration::from_secs(idle)), ..Traffic::default() });
        let targets = vec![TrafficTarget::Service(object("n/back"), None)];
        let id = TrafficPolicyId { kind: TrafficKind::Gateway, name: object(named) };
        TrafficPolicy { id, targets, traffic, created }
    }

    #[test]
    fn a_policy_is_in_force_only_if_it_is_the_oldest_and_can_be_followed() {
        let back = service("n/back", "10.96.0.2", 80);
        let policies = [asking("n/a", 2, false, 1), asking("n/z", 1, true, 2), asking("n/b", 2, true, 3)];
        let all = policies.iter().cloned().map(Resource::TrafficPolicy).chain([Resource::Service(back.clone())]);
        let at_rest = snapshot(all);
        let idle = |snapshot: &Snapshot| {
            let traffic = snapshot.traffic(&back.name, 80)?;
            traffic.idle.map(|idle| (idle.as_secs(), traffic.session.is_some()))
        };
        let fates =
            |snapshot: &Snapshot| policies.each_ref().map(|policy| snapshot.policy_attachments(policy).remove(0));
        let conflicted = |with: &str| PolicyAttachment::Conflicted(object(with));
        assert_eq!(idle(&at_rest), Some((2, true)));
        assert_eq!(fates(&at_rest), [conflicted("n/z"), PolicyAttachment::Accepted, conflicted("n/z")]);
        // Its place is nobody's, as long as it only cannot be followed.
        for change in [kept(back.clone()), hashing(None)] {
            let clashing = at_rest.apply([Delta::Put(change)]);
            assert_eq!(idle(&clashing), None);
            let [first, second, third] = fates(&clashing);
            assert_eq!((first, third), (conflicted("n/z"), conflicted("n/z")));
            assert!(matches!(second, PolicyAttachment::Clash(_)), "{second:?}");
        }
        let next = at_rest.apply([Delta::Remove(Resource::TrafficPolicy(policies[1].clone()).key())]);
        assert_eq!(idle(&next), Some((1, false)), "the same age: the smaller name");
        assert_eq!(fates(&next)[2], conflicted("n/a"));
        let none = next.apply([Delta::Remove(Resource::Service(back.clone()).key())]);
        assert_eq!(fates(&none)[0], PolicyAttachment::NoService);
    }
}
