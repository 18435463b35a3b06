//! `gateway.networking.k8s.io GRPCRoute` with a Service as parent (GAMMA).

use std::sync::Arc;

use gateway_api::apis::experimental::grpcroutes as api;
use gateway_api::apis::experimental::httproutes::HttpRouteRules;
use weft_core::model::{HttpKind, HttpRoute, HttpRouteId};

use super::{Findings, gateway, http_match, http_route};

/// Converts a GRPCRoute. Parents that are no Service (a Gateway) are somebody else's.
pub fn convert(object: &api::GrpcRoute, findings: &mut Findings) -> Option<HttpRoute> {
    let name = super::object_name(&object.metadata, findings);
    let namespace = super::namespace_of(&object.metadata);
    let parents = gateway::parents(object.spec.parent_refs.as_ref(), namespace, findings);
    if parents.is_empty() && !findings.invalid() {
        return None;
    }
    if object.spec.hostnames.as_ref().is_some_and(|names| !names.is_empty()) {
        findings.warning("spec.hostnames", "say nothing about calls to a Service: they are told apart by its address");
    }
    let (id, mut rules) = (HttpRouteId { kind: HttpKind::Grpc, name: name? }, Vec::new());
    for (index, given) in object.spec.rules.iter().flatten().enumerate() {
        let path = format!("spec.rules[{index}]");
        let matches = http_match::of_grpc(&path, given.matches.as_ref(), findings);
        // All but the matches is as an HTTPRoute's.
        let rest = api::GrpcRouteRules { matches: None, ..given.clone() };
        if let Some(rest) = findings.keep::<HttpRouteRules, _>(&path, gateway::same(&rest)) {
            rules.push(Arc::new(http_route::rule(&id, &path, matches, &rest, findings)));
        }
    }
    Some(HttpRoute { id, parents, rules, created: super::created(&object.metadata) })
}
