//! What becomes of objects: patches and who owns their fields, defaults, what goes with what, kinds of one's own.

use super::*;

#[tokio::test]
async fn apply_owns_fields_and_gives_them_up() -> Tested {
    let api = Calls::start(Config::default()).await?;
    let path = format!("{MAPS}/a");
    let map = |data: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data});
    assert_eq!(api.apply(&path, "one", false, map(json!({"x": "1", "y": "1"}))).await?.status, 201);
    assert_eq!(api.apply(&path, "two", false, map(json!({"z": "2"}))).await?.status, 200);
    let conflict = api.apply(&path, "two", false, map(json!({"x": "2", "z": "2"}))).await?;
    assert_eq!((conflict.status, &conflict.json()["details"]["causes"][0]["field"]), (409, &json!(".data.x")));
    let same = api.apply(&path, "two", false, map(json!({"x": "1", "z": "2"}))).await?;
    assert_eq!(same.status, 200, "agreeing is no conflict");
    api.apply(&path, "one", false, map(json!({"y": "1"}))).await?;
    let shared = api.get(&path).await?.json()["data"].clone();
    assert_eq!(shared, json!({"x": "1", "y": "1", "z": "2"}), "two still owns x");
    api.apply(&path, "two", false, map(json!({"z": "2"}))).await?;
    assert_eq!(api.get(&path).await?.json()["data"], json!({"y": "1", "z": "2"}));
    api.merge(&path, json!({"data": {"y": "edited"}})).await?;
    let conflict = api.apply(&path, "one", false, map(json!({"y": "1"}))).await?;
    assert_eq!(conflict.status, 409, "an edit takes what it changes");
    let forced = api.apply(&path, "one", true, map(json!({"y": "1"}))).await?;
    assert_eq!((forced.status, &forced.json()["data"]["y"]), (200, &json!("1")));
    let before = forced.json()["metadata"]["resourceVersion"].clone();
    let again = api.apply(&path, "one", true, map(json!({"y": "1"}))).await?;
    assert_eq!(again.json()["metadata"]["resourceVersion"], before, "nothing changed, nothing was written");
    Ok(())
}

#[tokio::test]
async fn patches_of_every_style() -> Tested {
    let api = Calls::start(Config::default()).await?;
    let ports = json!([{"name": "a", "port": 80}, {"name": "b", "port": 81}]);
    api.create("/api/v1/namespaces/default/services", json!({"metadata": {"name": "s"}, "spec": {"ports": ports}}))
        .await?;
    let path = "/api/v1/namespaces/default/services/s";
    let strategic = "application/strategic-merge-patch+json";
    let patched = api.patch(path, strategic, json!({"spec": {"ports": [{"port": 81, "appProtocol": "http"}]}})).await?;
    assert_eq!(patched.json()["spec"]["ports"][1]["appProtocol"], "http");
    assert_eq!(patched.json()["spec"]["ports"].as_array().map(Vec::len), Some(2));
    let json_patch = json!([{"op": "test", "path": "/spec/ports/0/port", "value": 80},
        {"op": "replace", "path": "/spec/ports/0/port", "value": 90}]);
    let patched = api.patch(path, "application/json-patch+json", json_patch.clone()).await?;
    assert_eq!(patched.json()["spec"]["ports"][0]["port"], 90);
    assert_eq!(api.patch(path, "application/json-patch+json", json_patch).await?.status, 422, "the test fails now");
    assert_eq!(api.patch(path, "text/plain", json!({})).await?.status, 415);
    let stale = json!({"metadata": {"resourceVersion": "1"}, "spec": {"sessionAffinity": "ClientIP"}});
    assert_eq!(api.patch(path, "application/merge-patch+json", stale).await?.status, 409);
    Ok(())
}

#[tokio::test]
async fn events_are_the_same_in_both_groups() -> Tested {
    let api = Calls::start(Config::default()).await?;
    let (core, new) = ("/api/v1/namespaces/default/events", "/apis/events.k8s.io/v1/namespaces/default/events");
    let event = json!({"metadata": {"name": "e"}, "regarding": {"kind": "Pod", "name": "p"}, "note": "n", "type": "Warning",
        "reason": "R", "action": "A", "reportingController": "weft", "reportingInstance": "i", "eventTime": "2026-11-21T00:00:00.000000Z"});
    assert_eq!(api.create(new, event).await?["note"], "n");
    let found = api.get(&format!("{core}?fieldSelector=involvedObject.name%3Dp,type%3DWarning")).await?.json();
    let found = &found["items"][0];
    assert_eq!(
        (&found["message"], &found["reportingComponent"], &found["eventTime"]),
        (&json!("n"), &json!("weft"), &json!("2026-11-21T00:00:00.000000Z"))
    );
    api.merge(&format!("{core}/e"), json!({"message": "m", "count": 2})).await?;
    let listed = api.get(new).await?.json()["items"][0].clone();
    assert_eq!(
        (&listed["note"], &listed["deprecatedCount"], &listed["regarding"]["kind"]),
        (&json!("m"), &json!(2), &json!("Pod"))
    );
    let events = api.get(&format!("{new}?watch=1&timeoutSeconds=1")).await?.events();
    assert_eq!(events[0]["object"]["note"], "m");
    Ok(())
}

#[tokio::test]
async fn services_get_addresses_of_the_families_they_ask_for() -> Tested {
    let api = Calls::start(Config::default()).await?;
    let services = "/api/v1/namespaces/default/services";
    let make = async |name: &str, spec: Value| -> anyhow::Result<Value> {
        let mut spec = spec;
        spec["ports"] = json!([{"port": 80}]);
        Ok(api.create(services, json!({"metadata": {"name": name}, "spec": spec})).await?["spec"].clone())
    };
    let both = make("both", json!({"ipFamilyPolicy": "RequireDualStack"})).await?;
    assert_eq!(both["ipFamilies"], json!(["IPv4", "IPv6"]));
    let ips: Vec<std::net::IpAddr> =
        both["clusterIPs"].as_array().into_iter().flatten().filter_map(|ip| ip.as_str()?.parse().ok()).collect();
    assert!(ips.len() == 2 && ips[0].is_ipv4() && ips[1].is_ipv6() && both["clusterIP"] == json!(ips[0]), "{both}");
    let six = make("six", json!({"ipFamilies": ["IPv6"]})).await?;
    assert!(six["clusterIP"].as_str().is_some_and(|ip| ip.contains(':')), "{six}");
    let headless = make("headless", json!({"clusterIP": "None"})).await?;
    assert_eq!((&headless["clusterIPs"], &headless["ipFamilies"]), (&json!(["None"]), &json!(["IPv4"])));
    let taken =
        json!({"metadata": {"name": "taken"}, "spec": {"clusterIP": both["clusterIP"], "ports": [{"port": 80}]}});
    assert_eq!(api.send(Method::POST, services, "application/json", taken).await?.status, 422);
    let node = make("node", json!({"type": "NodePort"})).await?;
    assert!(node["ports"][0]["nodePort"].as_u64().is_some_and(|port| port >= 30_000), "{node}");
    Ok(())
}

#[tokio::test]
async fn unknown_fields_warn_or_refuse_and_dry_runs_leave_nothing() -> Tested {
    let api = Calls::start(Config::default()).await?;
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "bogus": 1});
    let warned = api.send(Method::POST, &format!("{MAPS}?dryRun=All"), "application/json", body.clone()).await?;
    let warning = warned.headers.get("warning").and_then(|value| value.to_str().ok());
    assert_eq!((warned.status, warning), (201, Some("299 - \"unknown field \\\"bogus\\\"\"")));
    assert!(warned.json()["metadata"].get("resourceVersion").is_none() && warned.json().get("bogus").is_none());
    let refused = api.send(Method::POST, &format!("{MAPS}?fieldValidation=Strict"), "application/json", body).await?;
    assert_eq!(refused.status, 400);
    assert_eq!(api.get(&format!("{MAPS}/a")).await?.status, 404);
    Ok(())
}

#[tokio::test]
async fn a_namespace_takes_its_contents_with_it() -> Tested {
    let api = Calls::start(Config::default()).await?;
    api.create("/api/v1/namespaces", json!({"metadata": {"name": "n"}})).await?;
    let maps = "/api/v1/namespaces/n/configmaps";
    api.create(maps, json!({"metadata": {"name": "held", "finalizers": ["x.dev/hold"]}})).await?;
    let going = api.delete("/api/v1/namespaces/n", Value::Null).await?.json();
    assert_eq!(going["status"]["phase"], "Terminating");
    let refused = api.send(Method::POST, maps, "application/json", json!({"metadata": {"name": "late"}})).await?;
    assert_eq!(refused.json()["details"]["causes"][0]["reason"], "NamespaceTerminating");
    api.until(&format!("{maps}/held"), |reply| reply.json()["metadata"].get("deletionTimestamp").is_some()).await?;
    api.merge(&format!("{maps}/held"), json!({"metadata": {"finalizers": null}})).await?;
    api.until("/api/v1/namespaces/n", |reply| reply.status == 404).await
}

#[tokio::test]
async fn custom_kinds_have_columns_and_no_strategic_merge() -> Tested {
    let api = Calls::start(Config::default()).await?;
    let spec = json!({"type": "object", "properties": {"size": {"type": "integer"}}});
    let schema = json!({"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}});
    let column = json!({"name": "Size", "type": "integer", "jsonPath": ".spec.size"});
    let version =
        json!({"name": "v1", "served": true, "storage": true, "schema": schema, "additionalPrinterColumns": [column]});
    let names = json!({"kind": "Thing", "plural": "things"});
    let spec = json!({"group": "x.dev", "names": names, "scope": "Cluster", "versions": [version]});
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    api.create(definitions, json!({"metadata": {"name": "things.x.dev"}, "spec": spec})).await?;
    let thing = json!({"apiVersion": "x.dev/v1", "kind": "Thing", "metadata": {"name": "t"}, "spec": {"size": 3}});
    api.create("/apis/x.dev/v1/things", thing).await?;
    let table = api.get_as("/apis/x.dev/v1/things", "application/json;as=Table;v=v1;g=meta.k8s.io").await?.json();
    assert_eq!(table["rows"][0]["cells"], json!(["t", 3]));
    assert_eq!(table["columnDefinitions"][1]["name"], "Size");
    let strategic = api.patch("/apis/x.dev/v1/things/t", "application/strategic-merge-patch+json", json!({})).await?;
    assert_eq!(strategic.status, 415);
    let established = |reply: &weft_apiserver::contract::Reply| {
        let conditions = reply.json()["status"]["conditions"].clone();
        conditions
            .as_array()
            .is_some_and(|list| list.iter().any(|one| one["type"] == "Established" && one["status"] == "True"))
    };
    api.until(&format!("{definitions}/things.x.dev"), established).await?;
    api.delete(&format!("{definitions}/things.x.dev"), Value::Null).await?;
    assert_eq!(api.get("/apis/x.dev/v1/things").await?.status, 404);
    Ok(())
}

#[tokio::test]
async fn restored_objects_are_as_they_were_and_change_like_any_other() -> Tested {
    let api = Calls::start(Config::default()).await?;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "default", "uid": "u-1"}, "data": {"k": "v"}});
    assert_eq!(api.server.restore(format!("{map}\n").as_bytes())?, 1);
    let found = api.get(&format!("{MAPS}/a")).await?.json();
    assert_eq!((&found["metadata"]["uid"], &found["data"]["k"]), (&json!("u-1"), &json!("v")));
    let changed = api.merge(&format!("{MAPS}/a"), json!({"data": {"k": "w"}})).await?;
    assert_eq!((&changed["metadata"]["uid"], &changed["data"]["k"]), (&json!("u-1"), &json!("w")));
    for wrong in [
        json!({"kind": "Unheard", "apiVersion": "v1"}),
        json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p"}}),
    ] {
        assert!(api.server.restore(wrong.to_string().as_bytes()).is_err());
    }
    Ok(())
}
