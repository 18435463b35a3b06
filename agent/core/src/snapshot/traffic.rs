//! TrafficPolicies: what they set for each service port, and for each rule of a route.
//!
//! Each setting is that of the most specific TrafficPolicy that has it: one for the port or rule before one for all of them,
//! and of those the one with the smallest name. What none of them sets, Gateway API's policy for the Service does. Of several
//! of those only the oldest counts, then the one with the smallest name (GEP-713); none where it asks for what cannot be.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{SessionClash, Snapshot, sessions};
use crate::model::{
    Fallback, HttpRouteId, HttpRule, ObjectName, Service, ServicePort, Traffic, TrafficKind, TrafficPolicy,
    TrafficTarget,
};

/// By port, for one service.
pub(super) type Ports = BTreeMap<u16, Arc<Traffic>>;

/// What a target makes of a policy of Gateway API.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PolicyAttachment {
    /// The policy is in force for it.
    Accepted,
    /// There is no such Service.
    NoService,
    /// An older policy, or one of smaller name, is in force for it: this one.
    Conflicted(ObjectName),
    /// It asks for sessions where clients keep their endpoint by their address.
    Clash(SessionClash),
}

/// What is in force for a port of a service.
pub(super) fn of_port(snapshot: &Snapshot, service: &Service, port: &ServicePort) -> Option<Traffic> {
    let further = oldest(snapshot, &service.name).filter(|policy| clash(snapshot, service, policy).is_none());
    let (own, further) = (own(snapshot, &service.name, port), further.map(|policy| &policy.traffic));
    match (own, further) {
        (Some(own), Some(further)) => Some(own.or(further)),
        (own, further) => own.or_else(|| further.map(|further| Traffic::clone(further))),
    }
}

/// What TrafficPolicies set for a port of a service.
pub(super) fn own(snapshot: &Snapshot, service: &ObjectName, port: &ServicePort) -> Option<Traffic> {
    let number = port.port.to_string();
    let policies = snapshot.primary.traffic_for.at(service).iter().filter(|policy| policy.id.kind == TrafficKind::Weft);
    merged(policies, |target| match target {
        TrafficTarget::Service(name, section) if name == service => {
            Some(section.as_deref().map(|section| section == &*port.name || section == number))
        }
        _ => None,
    })
}

/// What each target of a policy of Gateway API makes of it, in the order of its `targets`.
pub(super) fn attachments(snapshot: &Snapshot, policy: &TrafficPolicy) -> Vec<PolicyAttachment> {
    let of = |target: &TrafficTarget| {
        let TrafficTarget::Service(name, _) = target else { return PolicyAttachment::NoService };
        let Some(service) = snapshot.service(name) else { return PolicyAttachment::NoService };
        match oldest(snapshot, name) {
            Some(first) if first.id != policy.id => PolicyAttachment::Conflicted(first.id.name.clone()),
            _ => clash(snapshot, service, policy).map_or(PolicyAttachment::Accepted, PolicyAttachment::Clash),
        }
    };
    policy.targets.iter().map(of).collect()
}

/// The targets of a policy that there are not, each in words.
pub(super) fn absent(snapshot: &Snapshot, policy: &TrafficPolicy) -> Vec<String> {
    let of = |target: &TrafficTarget| match target {
        TrafficTarget::Service(name, section) => {
            let Some(service) = snapshot.service(name) else {
                return Some(format!("Service {name}, which does not exist"));
            };
            let section = section.as_deref()?;
            let is = |port: &ServicePort| section == &*port.name || section == port.port.to_string();
            (!service.ports.iter().any(is)).then(|| format!("port {section} of Service {name}, which has no such port"))
        }
        TrafficTarget::Route(id, section) => {
            let Some(route) = snapshot.http_route(id) else { return Some(format!("{id}, which does not exist")) };
            let section = section.as_deref()?;
            let is = |rule: &Arc<HttpRule>| rule.name.as_deref() == Some(section);
            (!route.rules.iter().any(is)).then(|| format!("rule {section} of {id}, which has no rule of that name"))
        }
    };
    policy.targets.iter().filter_map(of).collect()
}

/// What a policy has stand in, if there is no such thing, in words.
pub(super) fn absent_fallback(snapshot: &Snapshot, policy: &TrafficPolicy) -> Option<String> {
    let Fallback { service: name, port } = policy.traffic.fallback.as_ref()?;
    let Some(service) = snapshot.service(name) else { return Some(format!("Service {name}, which does not exist")) };
    let there = service.ports.iter().any(|known| known.port == *port);
    (!there).then(|| format!("port {port} of Service {name}, which has no such TCP port"))
}

/// The policy of Gateway API that counts for a service.
fn oldest<'a>(snapshot: &'a Snapshot, service: &ObjectName) -> Option<&'a Arc<TrafficPolicy>> {
    let all = snapshot.primary.traffic_for.at(service).iter();
    all.filter(|policy| policy.id.kind == TrafficKind::Gateway).min_by_key(|policy| policy.created)
}

/// Why a policy cannot be followed for a service, if so.
fn clash(snapshot: &Snapshot, service: &Service, policy: &TrafficPolicy) -> Option<SessionClash> {
    policy.traffic.session.as_ref().and_then(|_| sessions::of_service(snapshot, service))
}

/// What is set for a rule of a route.
pub(super) fn of_rule(snapshot: &Snapshot, route: &HttpRouteId, rule: Option<&str>) -> Option<Traffic> {
    merged(snapshot.primary.traffic_for_routes.at(route).iter(), |target| match target {
        TrafficTarget::Route(id, section) if id == route => {
            Some(section.as_deref().map(|section| Some(section) == rule))
        }
        _ => None,
    })
}

/// `fits` says of a target that is meant whether it is so in all its parts (`Some(None)`), or in this one.
fn merged<'a>(
    policies: impl Iterator<Item = &'a Arc<TrafficPolicy>> + Clone,
    fits: impl Fn(&TrafficTarget) -> Option<Option<bool>>,
) -> Option<Traffic> {
    let with = |wanted: Option<bool>| {
        let fits = &fits;
        policies.clone().filter(move |policy| policy.targets.iter().any(|target| fits(target) == Some(wanted)))
    };
    let all = with(Some(true)).chain(with(None)).map(|policy| &*policy.traffic);
    all.fold(None, |merged: Option<Traffic>, next| Some(merged.map_or_else(|| next.clone(), |merged| merged.or(next))))
}
