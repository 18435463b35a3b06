//! Where a client is asked to keep its endpoint in two ways at once: by what it shows (`sessionPersistence`), and by its
//! address. Both cannot be followed, so that neither is chosen in silence: a rule that asks for it takes its requests and
//! refuses them, a policy that does is not accepted (GEP-1619, "Session Affinity in K8S Services").

use super::{Snapshot, traffic};
use crate::model::{Algorithm, HashKey, HttpRule, ObjectName, Service, Traffic};

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
    let by_address = |name: &ObjectName, port: Option<u16>| {
        let service = snapshot.service(name)?;
        let port = service.ports.iter().find(|known| Some(known.port) == port);
        let traffic = port.and_then(|port| traffic::merged_for(snapshot, name, port));
        of_port(service, port.map_or(0, |port| port.port), traffic.as_ref())
    };
    let backends = rule.backends.iter().map(|backend| &backend.backend);
    by_address(parent, None)
        .or_else(|| backends.clone().find_map(|backend| by_address(&backend.service, Some(backend.port))))
}

/// Why no `sessionPersistence` can be followed for a port of `service`, for which `traffic` is set, if so.
pub(super) fn of_port(service: &Service, port: u16, traffic: Option<&Traffic>) -> Option<SessionClash> {
    if service.affinity.is_some() {
        return Some(SessionClash::ClientIp(service.name.clone()));
    }
    let traffic = traffic?;
    let algorithm = traffic.algorithm.filter(|algorithm| algorithm.is_hash())?;
    matches!(traffic.hash_key, None | Some(HashKey::SourceIp)).then(|| SessionClash::SourceIp {
        service: service.name.clone(),
        port,
        algorithm,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Refusal;
    use crate::model::{
        BackendRef, Carrier, HttpBackend, HttpKind, HttpMatch, HttpRoute, HttpRouteId, ParentRef, SessionPersistence,
        TrafficPolicy, TrafficTarget, Weight,
    };
    use crate::snapshot::{Delta, Resource};
    use crate::testing::{object, service, snapshot, tuned};
    use std::sync::Arc;

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
        let parents = vec![ParentRef { service: object("n/front"), port: None }];
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
        Resource::TrafficPolicy(TrafficPolicy { id: tuned("n/p"), targets, traffic })
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

    #[test]
    fn a_policy_keeps_no_session_where_its_service_keeps_clients_by_their_address() {
        let back = service("n/back", "10.96.0.2", 80);
        let traffic =
            Box::new(Traffic { session: Some(persistence()), idle: Some(Service::AFFINITY), ..Traffic::default() });
        let targets = vec![TrafficTarget::Service(back.name.clone(), None)];
        let policy = Resource::TrafficPolicy(TrafficPolicy { id: tuned("n/s"), targets, traffic });
        let at_rest = snapshot([Resource::Service(back.clone()), policy]);
        let session = |snapshot: &Snapshot| {
            let traffic = snapshot.traffic(&back.name, 80).unwrap();
            assert!(traffic.idle.is_some(), "the rest of it is in force");
            traffic.session.is_some()
        };
        assert!(session(&at_rest));
        for change in [kept(back.clone()), hashing(None)] {
            assert!(!session(&at_rest.apply([Delta::Put(change)])));
        }
    }
}
