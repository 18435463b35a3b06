//! What the API server refuses of TrafficPolicies, by the schema and the rules of their definition, which is what agents refuse;
//! and what kubectl shows of the kinds of `weft.dev`.

use super::*;

/// A policy for the Service `cart` that sets these.
fn setting(settings: Value) -> Value {
    let mut spec = json!({"targetRefs": [{"name": "cart"}]});
    spec.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
    spec
}

fn targeting(targets: Value) -> Value {
    json!({"targetRefs": targets, "retry": {"attempts": 2}})
}

/// A policy for a route that sets these.
fn of_route(settings: Value) -> Value {
    let mut spec = setting(settings);
    spec["targetRefs"] = json!([{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "cart"}]);
    spec
}

/// Whether an agent goes by such a policy.
fn agent_takes(spec: &Value) -> bool {
    let object = json!({"apiVersion": "weft.dev/v1alpha1", "kind": "TrafficPolicy",
        "metadata": {"name": "x", "namespace": "demo"}, "spec": spec});
    Item::read(Kind::TrafficPolicy, object.to_string().as_bytes()).is_ok_and(|item| item.valid)
}

#[tokio::test]
async fn traffic_policies_that_mean_something_are_taken() -> Tested {
    let rig = Rig::populated(Config::default()).await?;
    let everything = setting(json!({
        "loadBalancer": {"algorithm": "RingHash", "hashOn": {"cookie": "cart-id"}}, "slowStart": "30s", "idleTimeout": "1h30m",
        "outlierDetection": {"consecutiveFailures": 3, "statuses": "Server", "successRate": {"percent": 90}},
        "healthCheck": {"http": {"path": "/healthz"}, "interval": "5s"}, "retry": {"attempts": 2, "codes": [503]},
        "retryBudget": {"percent": 0, "minPerSecond": 10}, "rateLimit": {"requests": 100, "burst": 20},
        "limits": {"requests": 64, "pending": 16}, "spillover": {"healthyPercent": 80},
        "fallback": {"name": "cart-spare", "port": 80}, "tcpKeepalive": {"time": "60s"},
        "fault": {"delay": {"percent": 10, "duration": "2s"}, "abort": {"percent": 1, "status": 503}}
    }));
    for spec in [
        everything,
        targeting(json!([{"group": "", "kind": "Service", "name": "cart", "sectionName": "http"}])),
        targeting(
            json!([{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "cart", "sectionName": "checkout"}]),
        ),
        targeting(json!([{"group": "gateway.networking.k8s.io", "kind": "GRPCRoute", "name": "cart"}])),
        setting(json!({"loadBalancer": {"algorithm": "Maglev"}})),
        setting(json!({"healthCheck": {"tcp": {}}})),
        setting(json!({"healthCheck": {"grpc": {}}})),
        setting(json!({"limits": {"connections": 1}})),
        of_route(json!({"fault": {"abort": {"percent": 1, "status": 503}}, "rateLimit": {"requests": 1}, "retry": {}})),
    ] {
        assert_eq!(rig.takes("TrafficPolicy", "trafficpolicies", spec.clone()).await?, Ok(()), "{spec}");
        assert!(agent_takes(&spec), "an agent would not: {spec}");
    }
    Ok(())
}

#[tokio::test]
async fn each_rule_of_traffic_policies_refuses_in_its_own_words() -> Tested {
    let rig = Rig::populated(Config::default()).await?;
    let gateway = "gateway.networking.k8s.io";
    let targets =
        "only Services (group \\\"\\\"), HTTPRoutes and GRPCRoutes (group gateway.networking.k8s.io) can be targeted";
    let of_routes = "of a route only fault, rateLimit and retry can be set: target the Service for the rest";
    for (spec, says) in [
        (targeting(json!([{"name": "cart", "kind": "Pod"}])), targets),
        (targeting(json!([{"name": "cart", "group": "apps"}])), targets),
        (targeting(json!([{"name": "cart", "group": gateway}])), targets),
        (targeting(json!([{"name": "cart", "group": gateway, "kind": "TCPRoute"}])), targets),
        (targeting(json!([{"name": "cart", "kind": "HTTPRoute"}])), targets),
        (targeting(json!([{"name": "cart"}, {"name": "cart", "kind": "Pod"}])), targets),
        (
            setting(json!({"loadBalancer": {"algorithm": "Random", "hashOn": {"header": "x"}}})),
            "hashOn is for RingHash and Maglev",
        ),
        (
            setting(json!({"loadBalancer": {"algorithm": "Maglev", "hashOn": {}}})),
            "hashOn names one of header, cookie and query",
        ),
        (
            setting(json!({"loadBalancer": {"algorithm": "Maglev", "hashOn": {"header": "x", "query": "y"}}})),
            "hashOn names one of header, cookie and query",
        ),
        (setting(json!({"healthCheck": {}})), "healthCheck is one of tcp, http and grpc"),
        (setting(json!({"healthCheck": {"tcp": {}, "grpc": {}}})), "healthCheck is one of tcp, http and grpc"),
        (setting(json!({"fault": {}})), "it says nothing: set delay or abort"),
        (setting(json!({"limits": {"pending": 3}})), "it limits nothing: set connections or requests"),
        (of_route(json!({"slowStart": "30s"})), of_routes),
        (of_route(json!({"retry": {}, "retryBudget": {}})), of_routes),
        (of_route(json!({"fallback": {"name": "a", "port": 1}})), of_routes),
    ] {
        let said = rig.takes("TrafficPolicy", "trafficpolicies", spec.clone()).await?;
        let said = said.expect_err(&format!("it takes {spec}"));
        assert!(said.contains(says), "{spec}: {said}");
        assert!(!agent_takes(&spec), "an agent would: {spec}");
    }
    Ok(())
}

#[tokio::test]
async fn values_of_traffic_policies_are_bounded() -> Tested {
    let rig = Rig::populated(Config::default()).await?;
    for spec in [
        targeting(json!([])),
        targeting(json!([{"name": ""}])),
        setting(json!({"loadBalancer": {"algorithm": "Fastest"}})),
        setting(json!({"slowStart": "soon"})),
        setting(json!({"outlierDetection": {"consecutiveFailures": 0}})),
        setting(json!({"outlierDetection": {"successRate": {"percent": 101}}})),
        setting(json!({"healthCheck": {"http": {"path": "healthz"}}})),
        setting(json!({"retry": {"codes": [200]}})),
        setting(json!({"retryBudget": {"percent": 101}})),
        setting(json!({"rateLimit": {"requests": 0}})),
        setting(json!({"rateLimit": {}})),
        setting(json!({"limits": {"requests": 0}})),
        setting(json!({"spillover": {"healthyPercent": 0}})),
        setting(json!({"fallback": {"name": "a", "port": 0}})),
        setting(json!({"fallback": {"port": 80}})),
        setting(json!({"fault": {"abort": {"percent": 1, "status": 200}}})),
        setting(json!({"fault": {"delay": {"percent": 0, "duration": "1s"}}})),
        setting(json!({"tcpKeepalive": {"probes": 0}})),
    ] {
        assert!(rig.takes("TrafficPolicy", "trafficpolicies", spec.clone()).await?.is_err(), "it takes {spec}");
        assert!(!agent_takes(&spec), "an agent would: {spec}");
    }
    Ok(())
}

#[tokio::test]
async fn kubectl_shows_of_each_kind_what_a_person_looks_for() -> Tested {
    let rig = Rig::populated(Config::default()).await?;
    let path = "/apis/weft.dev/v1alpha1/namespaces/demo/trafficpolicies";
    let mut spec = setting(json!({"loadBalancer": {"algorithm": "Random"}}));
    spec["targetRefs"] = json!([{"name": "cart"}, {"name": "pay"}]);
    rig.create(
        path,
        json!({"apiVersion": "weft.dev/v1alpha1", "kind": "TrafficPolicy", "metadata": {"name": "p"}, "spec": spec}),
    )
    .await?;
    let condition = json!({"type": "Accepted", "status": "False", "reason": "TargetNotFound", "message": "m",
        "lastTransitionTime": "2026-01-01T00:00:00Z"});
    rig.merge(&format!("{path}/p/status"), json!({"status": {"conditions": [condition]}})).await?;
    let table = async |plural: &str, namespace: &str| {
        let accept = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
        let path = format!("/apis/weft.dev/v1alpha1/namespaces/{namespace}/{plural}");
        anyhow::Ok(rig.target.send(Method::GET, &path, &accept, None).await?.json())
    };
    let policies = table("trafficpolicies", "demo").await?;
    let cells = policies["rows"][0]["cells"].as_array().unwrap();
    assert_eq!(cells[..2], [json!("p"), json!("Random")]);
    assert_eq!(cells[3], "False", "{cells:?}");
    for (plural, namespace, columns) in [
        ("trafficpolicies", "demo", &["Name", "Algorithm", "Services", "Accepted", "Age"][..]),
        ("authorizationpolicies", "demo", &["Name", "Action", "Audit", "Accepted", "Age"]),
        ("peerauthentications", "demo", &["Name", "Mode", "Accepted", "Age"]),
        ("workloadslices", "weft-system", &["Name", "Age"]),
    ] {
        let shown = table(plural, namespace).await?;
        let names: Vec<_> =
            shown["columnDefinitions"].as_array().into_iter().flatten().map(|c| c["name"].clone()).collect();
        assert_eq!(names, columns, "{plural}");
    }
    Ok(())
}
