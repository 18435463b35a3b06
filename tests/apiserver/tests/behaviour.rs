//! What the recording does not show: watches and their ends, patches, ownership, faults, authorization, the counters.

mod calls;

use std::time::Duration;

use calls::Calls;
use http::Method;
use serde_json::{Value, json};
use weft_apiserver::{Config, Rule};

type Tested = anyhow::Result<()>;

const PODS: &str = "/api/v1/namespaces/default/pods";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn a_watch_sees_objects_come_into_its_selection_and_leave_it() -> Tested {
    let api = Calls::start(Config::default()).await?;
    let made = api.create(MAPS, json!({"metadata": {"name": "a", "labels": {"x": "1"}}})).await?;
    let from = made["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
    api.merge(&format!("{MAPS}/a"), json!({"data": {"k": "v"}})).await?;
    api.merge(&format!("{MAPS}/a"), json!({"metadata": {"labels": {"x": "2"}}})).await?;
    api.merge(&format!("{MAPS}/a"), json!({"metadata": {"labels": {"x": "1"}}})).await?;
    api.delete(&format!("{MAPS}/a"), Value::Null).await?;
    let watch = format!("{MAPS}?watch=1&labelSelector=x%3D1&timeoutSeconds=1&resourceVersion={from}");
    let events = api.get(&watch).await?.events();
    let kinds: Vec<&str> = events.iter().filter_map(|event| event["type"].as_str()).collect();
    assert_eq!(kinds, ["MODIFIED", "DELETED", "ADDED", "DELETED"]);
    assert_eq!(events[1]["object"]["metadata"]["labels"]["x"], "1", "shown as it was in the selection");
    let versions: Vec<u64> = events
        .iter()
        .filter_map(|event| event["object"]["metadata"]["resourceVersion"].as_str()?.parse().ok())
        .collect();
    assert!(versions.len() == 4 && versions.is_sorted(), "{versions:?}");
    Ok(())
}

#[tokio::test]
async fn bookmarks_move_on_with_other_kinds() -> Tested {
    let config = Config { bookmarks: Duration::from_millis(100), ..Config::default() };
    let api = Calls::start(config).await?;
    let from = api.get(PODS).await?.json()["metadata"]["resourceVersion"].clone();
    let made = api.create(MAPS, json!({"metadata": {"name": "a"}})).await?;
    let from = from.as_str().unwrap_or_default();
    let watch = format!("{PODS}?watch=1&allowWatchBookmarks=true&timeoutSeconds=1&resourceVersion={from}");
    let events = api.get(&watch).await?.events();
    let last = events.last().cloned().unwrap_or_default();
    assert_eq!(last["type"], "BOOKMARK");
    assert_eq!(last["object"]["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    Ok(())
}

#[tokio::test]
async fn compaction_ends_the_past_in_both_ways() -> Tested {
    let api = Calls::start(Config::default()).await?;
    for name in ["a", "b", "c"] {
        api.create(MAPS, json!({"metadata": {"name": name}})).await?;
    }
    let page = api.get(&format!("{MAPS}?limit=1")).await?.json();
    let token = page["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
    assert_eq!(page["metadata"]["remainingItemCount"], 2);
    api.create(MAPS, json!({"metadata": {"name": "d"}})).await?;
    api.server.compact();
    let expired = api.get(&format!("{MAPS}?limit=1&continue={token}")).await?;
    assert_eq!((expired.status, expired.json()["reason"].as_str()), (410, Some("Expired")));
    let rest = expired.json()["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
    let rest = api.get(&format!("{MAPS}?continue={rest}")).await?.json();
    assert_eq!(rest["items"].as_array().map(Vec::len), Some(3), "goes on with what there is now");
    assert_eq!(api.get(&format!("{MAPS}?resourceVersion=2&resourceVersionMatch=Exact")).await?.status, 410);
    let watch = format!("{MAPS}?watch=1&resourceVersion=2&timeoutSeconds=1");
    let events = api.get(&watch).await?.events();
    assert_eq!((events[0]["type"].as_str(), &events[0]["object"]["code"]), (Some("ERROR"), &json!(410)));
    api.server.faults().answer_gone_as_status(true);
    assert_eq!(api.get(&watch).await?.status, 410);
    Ok(())
}

#[tokio::test]
async fn compaction_leaves_a_watch_that_missed_nothing() -> Tested {
    let api = Calls::start(Config::default()).await?;
    let secrets = "/api/v1/namespaces/default/secrets";
    let watch = format!("{secrets}?watch=1&timeoutSeconds=2");
    let (watched, made) = tokio::join!(api.get(&watch), async {
        api.until_watched(1).await?;
        api.create(MAPS, json!({"metadata": {"name": "a"}})).await?;
        api.server.compact();
        api.create(secrets, json!({"metadata": {"name": "s"}})).await
    });
    made?;
    let events = watched?.events();
    assert_eq!(events.iter().map(|event| event["type"].clone()).collect::<Vec<_>>(), ["ADDED"]);
    Ok(())
}

#[tokio::test]
async fn lists_at_a_revision_show_that_revision() -> Tested {
    let api = Calls::start(Config { freshness: Duration::from_millis(50), ..Config::default() }).await?;
    let first = api.create(MAPS, json!({"metadata": {"name": "a"}})).await?;
    api.create(MAPS, json!({"metadata": {"name": "b"}})).await?;
    let at = first["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
    let count = async |options: &str| -> anyhow::Result<Option<usize>> {
        Ok(api.get(&format!("{MAPS}?{options}")).await?.json()["items"].as_array().map(Vec::len))
    };
    assert_eq!(count(&format!("resourceVersion={at}&resourceVersionMatch=Exact")).await?, Some(1));
    assert_eq!(count(&format!("resourceVersion={at}&resourceVersionMatch=NotOlderThan")).await?, Some(2));
    assert_eq!(count(&format!("resourceVersion={at}")).await?, Some(2));
    assert_eq!(
        count(&format!("resourceVersion={at}&limit=5")).await?,
        Some(1),
        "with a limit it has always been exact"
    );
    assert_eq!(api.get(&format!("{MAPS}?resourceVersion=9999")).await?.status, 504);
    assert_eq!(api.get(&format!("{MAPS}?resourceVersionMatch=Exact")).await?.status, 422);
    assert_eq!(api.get(&format!("{MAPS}?fieldSelector=data.k%3D1")).await?.status, 400);
    Ok(())
}

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
async fn a_pod_on_a_node_has_its_grace_and_its_tokens_end_with_it() -> Tested {
    let api = Calls::start(Config::default()).await?;
    api.until("/api/v1/namespaces/default/serviceaccounts/default", |reply| reply.status == 200).await?;
    let spec = json!({"nodeName": "node-a", "containers": [{"name": "c", "image": "i:1"}]});
    let pod = api.create(PODS, json!({"metadata": {"generateName": "p-"}, "spec": spec})).await?;
    let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    assert_eq!(pod["spec"]["containers"][0]["imagePullPolicy"], "IfNotPresent");
    let request = json!({"spec": {"audiences": ["a"], "boundObjectRef": {"kind": "Pod", "name": name}}});
    let token = api.create("/api/v1/namespaces/default/serviceaccounts/default/token", request).await?;
    let token = token["status"]["token"].clone();
    let review = async || -> anyhow::Result<Value> {
        let body = json!({"spec": {"token": token, "audiences": ["a"]}});
        Ok(api.create("/apis/authentication.k8s.io/v1/tokenreviews", body).await?["status"].clone())
    };
    let extra = review().await?["user"]["extra"].clone();
    assert_eq!(extra["authentication.kubernetes.io/node-name"], json!(["node-a"]));
    let path = format!("{PODS}/{name}");
    let going = api.delete(&path, Value::Null).await?.json();
    assert_eq!(going["metadata"]["deletionGracePeriodSeconds"], 30);
    assert_eq!(review().await?["authenticated"], true, "it still runs");
    api.delete(&path, json!({"gracePeriodSeconds": 0})).await?;
    assert_eq!(api.get(&path).await?.status, 404);
    assert_eq!(review().await?.get("authenticated"), None);
    Ok(())
}

#[tokio::test]
async fn rbac_decides_for_whoever_has_a_token() -> Tested {
    let api = Calls::start(Config { rbac: true, ..Config::default() }).await?;
    api.until("/api/v1/namespaces/default/serviceaccounts/default", |reply| reply.status == 200).await?;
    let token = api.create("/api/v1/namespaces/default/serviceaccounts/default/token", json!({"spec": {}})).await?;
    let token = token["status"]["token"].as_str().unwrap_or_default().to_owned();
    let caller = api.as_caller(Some(token))?;
    let refused = caller.get(PODS).await?;
    assert_eq!(refused.status, 403);
    let user = "system:serviceaccount:default:default";
    let expected = format!(
        "pods is forbidden: User \"{user}\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
    );
    assert_eq!(refused.json()["message"], json!(expected));
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let rules = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]);
    api.create(&format!("{rbac}/clusterroles"), json!({"metadata": {"name": "r"}, "rules": rules})).await?;
    let binding = json!({"metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": "r"},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": "default"}]});
    api.create(&format!("{rbac}/namespaces/default/rolebindings"), binding).await?;
    assert_eq!(caller.get(PODS).await?.status, 200);
    assert_eq!(caller.get("/api/v1/pods").await?.status, 403, "the binding is of one namespace");
    assert_eq!(api.as_caller(Some("nonsense".into()))?.get(PODS).await?.status, 401);
    assert_eq!(api.as_caller(None)?.get(PODS).await?.status, 403);
    Ok(())
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
async fn faults_strike_as_ordered_and_state_survives_an_absence() -> Tested {
    let api = Calls::start(Config::default()).await?;
    api.create(MAPS, json!({"metadata": {"name": "a"}})).await?;
    let rule = Rule { verb: Some("list".into()), times: Some(1), status: Some(429), ..Rule::default() };
    api.server.faults().add(rule);
    let busy = api.get(MAPS).await?;
    assert_eq!((busy.status, busy.headers.get("retry-after").is_some()), (429, true));
    assert_eq!(api.get(MAPS).await?.status, 200);
    api.server.faults().refuse_connections(true);
    assert!(api.get(MAPS).await.is_err());
    api.server.faults().refuse_connections(false);
    api.server.faults().go_away(true);
    api.until_unreachable(MAPS).await?;
    api.server.faults().go_away(false);
    api.until_reachable(MAPS).await?;
    assert_eq!(api.get(&format!("{MAPS}/a")).await?.status, 200);
    Ok(())
}

#[tokio::test]
async fn watches_are_cut_and_counted() -> Tested {
    let api = Calls::start(Config::default()).await?;
    let watch = format!("{MAPS}?watch=1&timeoutSeconds=30");
    let (cut, began) = tokio::join!(api.get(&watch), async {
        let began = api.until_watched(1).await;
        api.server.faults().cut_watches();
        began
    });
    began?;
    assert!(cut.is_err(), "the stream breaks off: {cut:?}");
    api.create(MAPS, json!({"metadata": {"name": "a"}})).await?;
    let events = api.get(&format!("{MAPS}?watch=1&timeoutSeconds=1")).await?;
    let counts = api.server.counts();
    assert_eq!(counts.requests("watch", "configmaps"), 2);
    assert_eq!(counts.requests("create", "configmaps"), 1);
    let last = counts.watches.values().last().cloned().unwrap_or_default();
    assert_eq!((last.events, last.bytes as usize, last.open), (1, events.text.len(), false));
    Ok(())
}

#[tokio::test]
async fn input_of_no_sense_is_refused_and_served_on() -> Tested {
    let api = Calls::start(Config::default()).await?;
    for body in
        [json!(null), json!([]), json!("x"), json!(1), json!({"metadata": 1}), json!({"metadata": {"labels": "x"}})]
    {
        for path in [MAPS, PODS, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"] {
            let status = api.send(Method::POST, path, "application/json", body.clone()).await?.status;
            assert!((400..500).contains(&status), "{path} {body}: {status}");
        }
        for style in ["json-patch", "merge-patch", "strategic-merge-patch"] {
            let path = "/api/v1/namespaces/default";
            let status = api.patch(path, &format!("application/{style}+json"), body.clone()).await?.status;
            let harmless = style == "json-patch" && body == json!([]);
            assert!(harmless || (400..500).contains(&status), "{style} {body}: {status}");
        }
        let status = api.apply("/api/v1/namespaces/default", "m", true, body.clone()).await?.status;
        assert!((400..500).contains(&status), "apply {body}: {status}");
        let review = "/apis/authentication.k8s.io/v1/tokenreviews";
        let status = api.send(Method::POST, review, "application/json", body.clone()).await?.status;
        assert!(status == 201 || (400..500).contains(&status), "review {body}: {status}");
    }
    let huge = i64::MAX;
    api.until("/api/v1/namespaces/default/serviceaccounts/default", |reply| reply.status == 200).await?;
    let account = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let token = json!({"spec": {"expirationSeconds": huge}});
    assert_eq!(api.send(Method::POST, account, "application/json", token).await?.status, 422);
    let spec =
        json!({"nodeName": "n", "containers": [{"name": "c", "image": "i"}], "terminationGracePeriodSeconds": huge});
    api.create(PODS, json!({"metadata": {"name": "patient"}, "spec": spec})).await?;
    assert_eq!(api.delete(&format!("{PODS}/patient"), Value::Null).await?.status, 200);
    let watch = format!("{MAPS}?watch=1&timeoutSeconds={huge}&resourceVersion=1");
    let (watched, began) = tokio::join!(api.get(&watch), async {
        let began = api.until_watched(1).await;
        api.server.faults().cut_watches();
        began
    });
    began?;
    assert!(watched.is_err(), "it ran until it was cut");
    assert_eq!(api.get("/healthz").await?.text, "ok");
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
