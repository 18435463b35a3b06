//! Kinds that are not installed, or only later; and what the API server itself refuses of those that are.

use super::*;

#[tokio::test]
async fn the_first_batch_is_everything_and_kinds_that_are_not_installed_do_not_hold_it_up() -> Tested {
    let mut rig = Rig::start(Config { tls: true, ..Config::default() }).await?;
    rig.until(|s| s.namespaces().count() == 3).await?;
    assert_eq!(rig.batches.len(), 1, "default, kube-system and weft-system come at once");
    let watches = rig.cluster.health.watches();
    assert_eq!(watches[&Kind::Pod].state, WatchState::Current);
    assert_eq!(watches[&Kind::TcpRoute].state, WatchState::Absent);
    Ok(())
}

#[tokio::test]
async fn without_slices_nothing_is_told_and_the_remedy_is_and_a_kind_installed_later_is_found() -> Tested {
    let mut rig = Rig::bare(Config::default()).await?;
    rig.create("/api/v1/namespaces", json!({"metadata": {"name": "demo"}})).await?;
    let said = |rig: &Rig| format!("{:?}", rig.cluster.source.problems.borrow());
    rig.holds("the remedy", async |rig| Ok(said(rig).contains("Is weft controller running"))).await?;
    assert!(rig.batches.is_empty(), "{:?}", rig.batches);
    rig.install_kinds().await?;
    rig.publish().await?;
    rig.until(|s| s.namespaces().any(|n| n.name.as_str() == "demo")).await?;
    assert!(!said(&rig).contains("Is weft controller running"), "{}", said(&rig));
    let policy = json!({"apiVersion": "weft.dev/v1alpha1", "kind": "AuthorizationPolicy", "metadata": {"name": "p"},
        "spec": {"action": "Deny", "rules": [{"to": [{"ports": [22]}]}]}});
    rig.create("/apis/weft.dev/v1alpha1/namespaces/demo/authorizationpolicies", policy).await?;
    let held = |batches: &[Vec<Delta>]| format!("{batches:?}").contains("AuthorizationPolicy");
    rig.holds("the policy", async |rig| Ok(held(&rig.batches))).await
}

#[tokio::test]
async fn the_api_server_refuses_what_the_agent_would() -> Tested {
    let rig = Rig::populated(Config::default()).await?;
    let policy = async |spec: Value| rig.takes("AuthorizationPolicy", "authorizationpolicies", spec).await;
    let rule = |rule: Value| json!({"action": "Allow", "rules": [rule]});
    let everything = json!({"selector": {"matchLabels": {"app": "cart"}}, "action": "Deny", "audit": true, "rules": [{
        "from": [{"principals": ["spiffe://cluster.local/ns/demo/sa/a"], "notNamespaces": ["b"], "serviceAccounts": ["c", "d/e"],
                  "ipBlocks": ["10.0.0.0/8", "fd00::1"]}],
        "to": [{"ports": [80], "notPorts": [8080]}]}]});
    assert_eq!(policy(everything).await?, Ok(()));
    assert_eq!(policy(json!({"action": "Allow"})).await?, Ok(()), "nobody may connect");
    for wrong in [
        json!({"action": "Deny"}),
        json!({"action": "Permit"}),
        rule(json!({})),
        // Pruned to an empty rule, which would let everybody in.
        rule(json!({"form": [{"namespaces": ["a"]}]})),
        rule(json!({"from": []})),
        rule(json!({"from": [{}]})),
        rule(json!({"from": [{"principal": ["spiffe://cluster.local/ns/demo/sa/a"]}]})),
        rule(json!({"from": [{"principals": ["cluster.local/ns/demo/sa/a"]}]})),
        rule(json!({"from": [{"namespaces": ["Upper"]}]})),
        rule(json!({"from": [{"ipBlocks": ["10.0.0.0-10.1.0.0"]}]})),
        rule(json!({"to": [{"ports": [0]}]})),
        rule(json!({"to": [{"ports": [70000]}]})),
    ] {
        assert!(policy(wrong.clone()).await?.is_err(), "{wrong}");
    }
    let said = policy(json!({"action": "Deny"})).await?.unwrap_err();
    assert!(said.contains("without any it denies nothing"), "{said}");
    let authentication = async |spec: Value| rig.takes("PeerAuthentication", "peerauthentications", spec).await;
    assert_eq!(authentication(json!({"portLevelMtls": {"8080": {"mode": "Permissive"}}})).await?, Ok(()));
    for wrong in
        [json!({}), json!({"portLevelMtls": {"http": {"mode": "Strict"}}}), json!({"mtls": {"mode": "STRICT"}})]
    {
        assert!(authentication(wrong.clone()).await?.is_err(), "{wrong}");
    }
    Ok(())
}

#[tokio::test]
async fn a_kind_that_is_missing_is_not_asked_for_and_is_watched_once_discovery_has_it() -> Tested {
    let mut rig = Rig::start(Config::default()).await?;
    let group = "get /apis/gateway.networking.k8s.io";
    let looks = |rig: &Rig| rig.server.counts().requests.get(group).copied().unwrap_or_default();
    let asked = |rig: &Rig| rig.server.counts().requests("watch", "tcproutes.gateway.networking.k8s.io");
    rig.holds("looks", async |rig| Ok(looks(rig) >= 2)).await?;
    assert_eq!(asked(&rig), 1, "the first found that it is missing");
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let version = json!({"name": "v1alpha2", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}});
    let names = json!({"kind": "TCPRoute", "plural": "tcproutes", "singular": "tcproute", "listKind": "TCPRouteList"});
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "tcproutes.gateway.networking.k8s.io",
            "annotations": {"api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/gateway-api/pull/1"}},
        "spec": {"group": "gateway.networking.k8s.io", "scope": "Namespaced", "names": names, "versions": [version]},
    });
    rig.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition).await?;
    let state = |rig: &Rig, kind| rig.cluster.health.watches()[&kind].state.clone();
    rig.holds("the watch", async |rig| Ok(state(rig, Kind::TcpRoute) == WatchState::Current)).await?;
    assert_eq!(asked(&rig), 2, "and then it was asked for once");
    assert_eq!(state(&rig, Kind::HttpRoute), WatchState::Absent, "of the same group, and still missing");
    Ok(())
}
