//! TrafficPolicies: what they set for each service port, and for each rule of a route.
//!
//! Each setting is that of the most specific policy that has it: one for the port or rule before one for all of them, and of
//! those TrafficPolicies, and the one with the smallest name.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Snapshot, sessions};
use crate::model::{HttpRouteId, ObjectName, Service, ServicePort, Traffic, TrafficPolicy, TrafficTarget};

/// By port, for one service.
pub(super) type Ports = BTreeMap<u16, Arc<Traffic>>;

/// What is in force for a port of a service: no session where its clients keep their endpoint by their address.
pub(super) fn of_port(snapshot: &Snapshot, service: &Service, port: &ServicePort) -> Option<Traffic> {
    let mut traffic = merged_for(snapshot, &service.name, port)?;
    if sessions::of_port(service, port.port, Some(&traffic)).is_some() {
        traffic.session = None;
    }
    Some(traffic)
}

/// What policies set for a port of a service.
pub(super) fn merged_for(snapshot: &Snapshot, service: &ObjectName, port: &ServicePort) -> Option<Traffic> {
    let number = port.port.to_string();
    merged(snapshot.primary.traffic_for.at(service), |target| match target {
        TrafficTarget::Service(name, section) if name == service => {
            Some(section.as_deref().map(|section| section == &*port.name || section == number))
        }
        _ => None,
    })
}

/// What is set for a rule of a route.
pub(super) fn of_rule(snapshot: &Snapshot, route: &HttpRouteId, rule: Option<&str>) -> Option<Traffic> {
    merged(snapshot.primary.traffic_for_routes.at(route), |target| match target {
        TrafficTarget::Route(id, section) if id == route => {
            Some(section.as_deref().map(|section| Some(section) == rule))
        }
        _ => None,
    })
}

/// `fits` says of a target that is meant whether it is so in all its parts (`Some(None)`), or in this one.
fn merged(policies: &[Arc<TrafficPolicy>], fits: impl Fn(&TrafficTarget) -> Option<Option<bool>>) -> Option<Traffic> {
    let with = |wanted: Option<bool>| {
        let fits = &fits;
        policies.iter().filter(move |policy| policy.targets.iter().any(|target| fits(target) == Some(wanted)))
    };
    let all = with(Some(true)).chain(with(None)).map(|policy| &*policy.traffic);
    all.fold(None, |merged: Option<Traffic>, next| Some(merged.map_or_else(|| next.clone(), |merged| merged.or(next))))
}
