//! Who may, what is refused, and what goes wrong as ordered.

use super::*;

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
