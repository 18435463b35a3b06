//! GRPCRoutes: calls by service, method and metadata.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde_json::json;
use weft_tests::app::{Ask, Http, Requests};
use weft_tests::lab::NAMESPACE;
use weft_tests::wait;

use super::{ROW, Routes, to};

#[test]
fn grpc_routes_match_methods() -> Result<()> {
    let routes = Routes::new("grpcroute", Some("kubernetes.io/h2c"))?;
    routes.route(
        "GRPCRoute",
        NAMESPACE,
        "web",
        json!([
            {"matches": [{"method": {"service": "lab.Echo", "method": "Say"}, "headers": [{"name": "x-version", "value": "two"}]}], "backendRefs": to("v2")},
            {"matches": [{"method": {"service": "lab.Echo"}}], "backendRefs": to("v1")},
        ]),
    )?;
    let ask =
        |requests: Ask| routes.app.request(Requests::to(routes.web.v4(), Http::Two, requests, ROW as u64).over(1, 5));
    wait::until("the route", wait::DEADLINE, || {
        let answers = ask(Ask::grpc("hello"))?;
        ensure!(answers.names == BTreeMap::from([("v1".to_owned(), ROW as u64)]), "{answers:?}");
        Ok(())
    })?;
    let two = ask(Ask::grpc("hello").with(&[("x-version", "two")]))?;
    ensure!(
        two.names == BTreeMap::from([("v2".to_owned(), ROW as u64)]) && two.grpc.get("0") == Some(&(ROW as u64)),
        "{two:?}"
    );
    // A service no rule names is not implemented, as far as the client can tell.
    let unknown = Ask { target: "/lab.Other/Say".into(), ..Ask::grpc("hello") };
    let reply = routes.app.fetch(routes.web.v4(), Http::Two, unknown)?;
    ensure!((reply.status, reply.header("grpc-status")) == (200, Some("12")), "{reply:?}");
    routes.lab.finish()
}
