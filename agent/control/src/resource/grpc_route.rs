//! `gateway.networking.k8s.io GRPCRoute` with a Service as parent (GAMMA).

use gateway_api::apis::experimental::grpcroutes as api;
use gateway_api::apis::experimental::httproutes::HttpRouteRules;
use serde_json::Value;
use weft_core::model::{HttpKind, HttpRoute, HttpRouteId, HttpRule};

use super::{Findings, fields, gateway, http_match, http_route, route};

/// Converts a GRPCRoute. Parents that are no Service (a Gateway) are somebody else's.
pub fn convert(object: &Value, findings: &mut Findings) -> Option<HttpRoute> {
    route::convert(HttpKind::Grpc, object, rule, findings)
}

fn rule(id: &HttpRouteId, path: &str, raw: &Value, findings: &mut Findings) -> HttpRule {
    let mut own = Findings::default();
    let matches = http_match::of_grpc(path, raw, &mut own);
    // All but the matches is as an HTTPRoute's.
    let rest: api::GrpcRouteRules = fields::read(path, &route::without(raw, &["matches"]), &mut own);
    let rest: HttpRouteRules = own.keep(path, gateway::same(&rest)).unwrap_or_default();
    http_route::rule(id, path, matches, &rest, own, findings)
}
