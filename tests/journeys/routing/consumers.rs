//! Routes of the namespaces of clients.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde_json::json;
use weft_tests::app::{Ask, Http, Requests};
use weft_tests::lab::NAMESPACE;
use weft_tests::wait;

use super::{ROW, Routes};

#[test]
fn consumer_routes_are_their_namespaces_own() -> Result<()> {
    let routes = Routes::new("consumer", Some("http"))?;
    // In turns: what is counted here is who is concerned, not which endpoint is faster on a busy machine.
    routes.lab.algorithm(&routes.web, "RoundRobin")?;
    let other = routes.lab.pod(&routes.a, "other").namespace("elsewhere").mesh("enabled").create()?;
    let theirs = other.app(&routes.lab)?;
    routes.lab.wait_live(&other)?;
    let to_v2 = json!([{"name": "v2", "namespace": NAMESPACE, "port": 80}]);
    routes.route("HTTPRoute", "elsewhere", "web", json!([{"backendRefs": to_v2, "filters": [
        {"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": [{"name": "x-by", "value": "consumer"}]}}
    ]}]))?;
    routes.lab.manifests().put(json!({
        "apiVersion": "gateway.networking.k8s.io/v1beta1", "kind": "ReferenceGrant",
        "metadata": {"name": "routes", "namespace": NAMESPACE},
        "spec": {
            "from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "elsewhere"}],
            "to": [{"group": "", "kind": "Service"}]
        }
    }))?;
    wait::until("the consumer's route", wait::DEADLINE, || {
        let reply = theirs.fetch(routes.web.v4(), Http::One, Ask::get("/"))?;
        ensure!(reply.header("x-by") == Some("consumer") && reply.header("x-name") == Some("v2"), "{reply:?}");
        Ok(())
    })?;
    let answers = theirs.request(Requests::to(routes.web.v4(), Http::One, Ask::get("/"), ROW as u64))?;
    ensure!(answers.names == BTreeMap::from([("v2".to_owned(), ROW as u64)]), "{answers:?}");
    let answers = routes.app.request(Requests::to(routes.web.v4(), Http::One, Ask::get("/"), ROW as u64))?;
    ensure!(answers.names.len() == 2, "others are not concerned: {answers:?}");
    ensure!(routes.get(&Ask::get("/"))?.header("x-by").is_none());
    routes.lab.finish()
}
