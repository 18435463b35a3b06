//! Judgements of made-up clusters, a table for each thing that can break.

mod served;

use serde_json::{Value, json};
use weft_core::model::{Name, TrustDomain};

use super::cluster::{Cluster, Seen};
use super::*;
use crate::install::check::Grade::{self, Remark, Wrong};

/// What is expected of a finding: how grave it is, and words of it or of its remedy.
type Expected = (Grade, &'static [&'static str]);

fn trust_domain() -> TrustDomain {
    TrustDomain::new("cluster.local").unwrap()
}

fn space(name: &str, meshed: bool) -> Value {
    let mut labels = json!({"kubernetes.io/metadata.name": name});
    if meshed {
        labels["weft.dev/mesh"] = json!("enabled");
    }
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

/// A pod `namespace/name` whose label `app` is its name.
fn pod(name: &str, ip: &str, container: Value) -> Value {
    let (namespace, name) = name.split_once('/').unwrap();
    let mut object = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": {"nodeName": "n", "containers": [{"name": "app", "image": "i"}]},
        "status": {"phase": "Running", "hostIP": "192.168.0.1", "podIP": ip, "podIPs": [{"ip": ip}]}
    });
    for (key, value) in container.as_object().unwrap() {
        object["spec"]["containers"][0][key] = value.clone();
    }
    object
}

/// A pod with some of its fields others.
fn but(mut pod: Value, pointer: &str, value: Value) -> Value {
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    pod.pointer_mut(parent).unwrap()[field.replace("~1", "/")] = value;
    pod
}

fn client() -> Value {
    pod("demo/client", "10.0.0.1", json!({}))
}

fn server() -> Value {
    server_with(json!({}))
}

fn server_with(container: Value) -> Value {
    let mut all = json!({"ports": [{"name": "web", "containerPort": 8080}]});
    all.as_object_mut().unwrap().extend(container.as_object().unwrap().clone());
    pod("demo/server", "10.0.0.2", all)
}

fn network(name: &str, selects: &str, spec: Value) -> Value {
    let (namespace, name) = name.split_once('/').unwrap();
    let mut object = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": namespace}, "spec": spec
    });
    object["spec"]["podSelector"] = if selects == "*" { json!({}) } else { json!({"matchLabels": {"app": selects}}) };
    object
}

fn from(app: &str) -> Value {
    json!([{"podSelector": {"matchLabels": {"app": app}}}])
}

fn weft(kind: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "weft.dev/v1alpha1", "kind": kind, "metadata": {"name": "p", "namespace": "demo"}, "spec": spec
    })
}

fn strict() -> Value {
    weft("PeerAuthentication", json!({"mtls": {"mode": "Strict"}}))
}

fn cluster(objects: impl IntoIterator<Item = Value>) -> Cluster {
    let mut cluster = Cluster::new(&trust_domain());
    cluster.add(Seen::Namespace, space("demo", false));
    for object in objects {
        let seen = match object["kind"].as_str().unwrap() {
            "Namespace" => Seen::Namespace,
            "Pod" => Seen::Pod,
            "NetworkPolicy" => Seen::NetworkPolicy,
            "Service" => Seen::Service,
            "PeerAuthentication" => Seen::PeerAuthentication,
            "AuthorizationPolicy" => Seen::AuthorizationPolicy,
            other => panic!("{other}"),
        };
        cluster.add(seen, object);
    }
    cluster
}

fn judged(objects: impl IntoIterator<Item = Value>) -> Report {
    super::judge::judge(&cluster(objects), &Name::new("demo").unwrap())
}

/// Judges a cluster and demands these findings and no other.
#[track_caller]
fn expect(case: &str, objects: impl IntoIterator<Item = Value>, expected: &[Expected]) {
    let report = judged(objects);
    let shown: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
    assert_eq!(shown.len(), expected.len(), "{case}: {shown:#?}");
    for (grade, words) in expected {
        let fits =
            |finding: &&Finding| finding.grade == *grade && words.iter().all(|word| finding.to_string().contains(word));
        assert!(report.findings.iter().any(|finding| fits(&finding)), "{case}: {words:?} in {shown:#?}");
        assert!(report.findings.iter().all(|finding| !finding.remedy.is_empty()), "{case}: {shown:#?}");
    }
}

#[test]
fn network_policies_that_list_ports_and_not_the_tunnels() {
    let web =
        |ports: Value| network("demo/web", "server", json!({"ingress": [{"from": from("client"), "ports": ports}]}));
    let opening = network("demo/mesh", "*", json!({"ingress": [{"ports": [{"port": 15008}]}]}));
    let out = |ports: Value| {
        let egress = json!([{"to": from("server"), "ports": ports}]);
        network("demo/out", "client", json!({"policyTypes": ["Egress"], "egress": egress}))
    };
    let cut: &[&str] = &["demo/web lets demo/client in to demo/server on TCP 8080", "spec.ingress[0].ports"];
    let cut_out: &[&str] = &["demo/out lets demo/client out to demo/server on TCP 8080", "spec.egress[0].ports"];
    let cases: Vec<(&str, Vec<Value>, Vec<Expected>)> = vec![
        ("no policy", vec![], vec![]),
        ("one port", vec![web(json!([{"port": 8080}]))], vec![(Wrong, cut)]),
        ("a port by name", vec![web(json!([{"port": "web"}]))], vec![(Wrong, cut)]),
        ("with the tunnels'", vec![web(json!([{"port": 8080}, {"port": 15008}]))], vec![]),
        ("a range that holds it", vec![web(json!([{"port": 8080, "endPort": 16000}]))], vec![]),
        ("a range that ends before", vec![web(json!([{"port": 8080, "endPort": 15007}]))], vec![(Wrong, &["15007"])]),
        ("every port", vec![web(json!([]))], vec![]),
        ("every TCP port", vec![web(json!([{"protocol": "TCP"}]))], vec![]),
        ("UDP only, so nothing passes", vec![web(json!([{"port": 53, "protocol": "UDP"}]))], vec![]),
        ("nothing passes", vec![network("demo/none", "*", json!({"ingress": []}))], vec![]),
        ("another policy lets it in", vec![web(json!([{"port": 8080}])), opening.clone()], vec![]),
        ("the client's", vec![out(json!([{"port": 8080}]))], vec![(Wrong, cut_out)]),
        (
            "both",
            vec![web(json!([{"port": 8080}])), out(json!([{"port": 8080}]))],
            vec![(Wrong, cut), (Wrong, cut_out)],
        ),
        (
            "what the client may not call anyway",
            vec![web(json!([{"port": 8080}])), out(json!([{"port": 9090}, {"port": 15008}]))],
            vec![(Remark, &["demo/web spec.ingress[0]", "no meshed pod passes there yet"])],
        ),
    ];
    for (case, policies, expected) in cases {
        expect(case, [client(), server()].into_iter().chain(policies), &expected);
    }
}

#[test]
fn peers_of_other_namespaces_count_once_they_are_meshed() {
    let of_shop = json!([{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "shop"}}}]);
    let policy = network("demo/web", "server", json!({"ingress": [{"from": of_shop, "ports": [{"port": 8080}]}]}));
    let theirs = || pod("shop/cart", "10.0.1.1", json!({}));
    let place = [server(), theirs(), policy];
    expect("meshed", place.clone().into_iter().chain([space("shop", true)]), &[(Wrong, &["lets shop/cart in"])]);
    let later: Expected = (Remark, &["demo/web spec.ingress[0]", "before such pods join"]);
    expect("not meshed", place.clone().into_iter().chain([space("shop", false)]), &[later]);
    // A label of the pod itself goes before its namespace's.
    let labelled = but(theirs(), "/metadata/labels/weft.dev~1mesh", json!("enabled"));
    expect("itself", [server(), labelled, place[2].clone(), space("shop", false)], &[(Wrong, &["shop/cart"])]);
    // The servers may be the ones that are meshed already.
    let of_demo = json!([{"namespaceSelector": {"matchExpressions": [
        {"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["demo"]}
    ]}, "podSelector": {"matchExpressions": [{"key": "app", "operator": "Exists"}]}}]);
    let guarded = network("shop/in", "cart", json!({"ingress": [{"from": of_demo, "ports": [{"port": 80}]}]}));
    let there = [client(), theirs(), guarded, space("shop", true)];
    expect(
        "server elsewhere",
        there,
        &[(Wrong, &["NetworkPolicy shop/in lets demo/client in to shop/cart on TCP 80"])],
    );
}

#[test]
fn address_blocks_are_those_of_pods() {
    let block = |except: Value| {
        let peer = json!([{"ipBlock": {"cidr": "10.0.0.0/24", "except": except}}]);
        network("demo/web", "server", json!({"ingress": [{"from": peer, "ports": [{"port": 8080}]}]}))
    };
    expect("in it", [client(), server(), block(json!([]))], &[(Wrong, &["lets demo/client in"])]);
    let hole = block(json!(["10.0.0.1/32"]));
    expect("in its hole", [client(), server(), hole], &[(Remark, &["no meshed pod passes there yet"])]);
    let broken = network("demo/web", "server", json!({"ingress": [{"from": [{"ipBlock": {"cidr": "ten"}}]}]}));
    expect("none", [client(), server(), broken], &[(Remark, &["cannot be understood", "ten"])]);
}

#[test]
fn pods_that_cannot_join_or_could_not_be_served() {
    let ambient = json!({"ambient.istio.io/redirection": "enabled"});
    let cases: Vec<(&str, Value, Vec<Expected>)> = vec![
        ("host", but(client(), "/spec/hostNetwork", json!(true)), vec![(Remark, &["demo/client", "host's network"])]),
        (
            "out",
            but(client(), "/metadata/labels/weft.dev~1mesh", json!("disabled")),
            vec![(Remark, &["demo/client", "stays outside"])],
        ),
        ("over", but(but(client(), "/spec/hostNetwork", json!(true)), "/status/phase", json!("Succeeded")), vec![]),
        (
            "the mesh's port",
            server_with(json!({"ports": [{"containerPort": 15008}]})),
            vec![(Wrong, &["demo/server", "15008", "another port"])],
        ),
        ("the same in UDP", server_with(json!({"ports": [{"containerPort": 15008, "protocol": "UDP"}]})), vec![]),
        ("a sidecar", server_with(json!({"name": "istio-proxy"})), vec![(Wrong, &["another mesh"])]),
        ("ambient", but(client(), "/metadata/annotations", ambient), vec![(Wrong, &["demo/client", "another mesh"])]),
        ("kata", but(client(), "/spec/runtimeClassName", json!("kata")), vec![(Remark, &["runtime class"])]),
    ];
    for (case, pod, expected) in cases {
        expect(case, [pod], &expected);
    }
    let report =
        judged([client(), server(), but(pod("demo/out", "10.0.0.3", json!({})), "/spec/hostNetwork", json!(true))]);
    assert_eq!((report.joining, report.staying, report.breaks(), report.labelled), (2, 1, 0, false));
    assert!(judged([space("demo", true)]).labelled);
}

#[test]
fn what_kubelet_asks_in_plaintext() {
    let probing = |probe: Value| server_with(json!({"readinessProbe": probe}));
    let hook = |port: Value| server_with(json!({"lifecycle": {"preStop": {"httpGet": {"port": port}}}}));
    let http = || hook(json!("web"));
    let by_identity = |more: Value| {
        let mut rules = json!([{"from": [{"serviceAccounts": ["default"]}]}]);
        rules.as_array_mut().unwrap().extend(more.as_array().unwrap().clone());
        weft("AuthorizationPolicy", json!({"action": "Allow", "rules": rules}))
    };
    let refused: &[&str] =
        &["demo/server: the preStop hook of container app (port 8080)", "PeerAuthentication demo/p", "portLevelMtls"];
    let cases: Vec<(&str, Vec<Value>, Vec<Expected>)> = vec![
        ("permissive", vec![http()], vec![]),
        ("strict", vec![http(), strict()], vec![(Wrong, refused)]),
        ("by number", vec![hook(json!(8080)), strict()], vec![(Wrong, refused)]),
        ("a probe, which is exempt", vec![probing(json!({"httpGet": {"port": "web"}})), strict()], vec![]),
        (
            "a hook of a port that is probed",
            vec![
                server_with(json!({
                    "lifecycle": {"preStop": {"httpGet": {"port": 8080}}}, "readinessProbe": {"grpc": {"port": 8080}}
                })),
                strict(),
            ],
            vec![],
        ),
        (
            "its port is permissive",
            vec![
                http(),
                weft(
                    "PeerAuthentication",
                    json!({"mtls": {"mode": "Strict"}, "portLevelMtls": {"8080": {"mode": "Permissive"}}}),
                ),
            ],
            vec![],
        ),
        (
            "strict elsewhere",
            vec![
                http(),
                weft(
                    "PeerAuthentication",
                    json!({"selector": {"matchLabels": {"app": "x"}}, "mtls": {"mode": "Strict"}}),
                ),
            ],
            vec![],
        ),
        (
            "identities",
            vec![http(), by_identity(json!([]))],
            vec![(Wrong, &["preStop hook", "AuthorizationPolicies", "ipBlocks"])],
        ),
        ("and the node", vec![http(), by_identity(json!([{"from": [{"ipBlocks": ["192.168.0.0/24"]}]}]))], vec![]),
    ];
    for (case, objects, expected) in cases {
        expect(case, objects, &expected);
    }
}

#[test]
fn ways_in_from_outside_the_cluster() {
    let host_port = || server_with(json!({"ports": [{"containerPort": 8080, "hostPort": 80}]}));
    let service = |kind: &str| {
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "demo"},
            "spec": {"type": kind, "selector": {"app": "server"}, "ports": [{"port": 80, "targetPort": "web"}]}
        })
    };
    let only_meshed =
        || weft("AuthorizationPolicy", json!({"action": "Allow", "rules": [{"from": [{"namespaces": ["demo"]}]}]}));
    let cases: Vec<(&str, Vec<Value>, Vec<Expected>)> = vec![
        ("host port", vec![host_port()], vec![(Remark, &["hostPort 80 of container app", "stays plaintext"])]),
        (
            "strict host port",
            vec![host_port(), strict()],
            vec![(Wrong, &["hostPort 80", "port 8080, which is Strict"])],
        ),
        ("judged host port", vec![host_port(), only_meshed()], vec![(Remark, &["hostPort 80", "no identity"])]),
        ("inner service", vec![server(), service("ClusterIP"), strict()], vec![]),
        ("node port", vec![server(), service("NodePort")], vec![(Remark, &["Service demo/web (NodePort)"])]),
        (
            "strict node port",
            vec![server(), service("NodePort"), strict()],
            vec![(Wrong, &["Service demo/web", "Strict"])],
        ),
        ("balancer", vec![server(), service("LoadBalancer"), strict()], vec![(Wrong, &["(LoadBalancer)", "8080"])]),
    ];
    for (case, objects, expected) in cases {
        expect(case, objects, &expected);
    }
}

#[test]
fn policies_that_come_into_force() {
    let stranger = || pod("other/caller", "10.0.2.1", json!({}));
    let fellow = || but(pod("demo/old", "10.0.0.9", json!({})), "/metadata/labels/weft.dev~1mesh", json!("disabled"));
    let kept_out = || network("demo/in", "server", json!({"ingress": [{"from": [{"podSelector": {}}]}]}));
    let deny = |spec: Value| weft("AuthorizationPolicy", spec);
    let cut: &[&str] =
        &["PeerAuthentication demo/p is Strict: demo/server would refuse", "port 8080", "a pod of other"];
    let cases: Vec<(&str, Vec<Value>, Vec<Expected>)> = vec![
        ("permissive", vec![server(), stranger()], vec![]),
        ("strict, all meshed", vec![server(), client(), strict()], vec![]),
        ("strict", vec![server(), stranger(), strict()], vec![(Wrong, cut)]),
        ("strict, and they are meshed", vec![server(), stranger(), space("other", true), strict()], vec![]),
        ("strict, and they cannot reach it", vec![server(), stranger(), kept_out(), strict()], vec![]),
        (
            "strict, and a pod that stays out",
            vec![server(), fellow(), strict()],
            vec![
                (Wrong, &["would refuse plaintext (port 8080) of pods that stay outside", "demo/old"]),
                (Remark, &["demo/old", "disabled"]),
            ],
        ),
        ("a pod that tells no port", vec![client(), stranger(), strict()], vec![(Wrong, &["any port"])]),
        (
            "denied by name",
            vec![
                server(),
                client(),
                deny(json!({
                    "action": "Deny", "selector": {"matchLabels": {"app": "server"}},
                    "rules": [{"from": [{"serviceAccounts": ["default"]}]}]
                })),
            ],
            vec![(
                Remark,
                &[
                    "AuthorizationPolicy demo/p would come into force at demo/server",
                    "(port 8080), and refuse demo/client",
                ],
            )],
        ),
        (
            "allowed by name",
            vec![
                server(),
                client(),
                stranger(),
                deny(json!({"action": "Allow", "rules": [{"from": [{"namespaces": ["demo"]}]}]})),
            ],
            vec![(Remark, &["come into force", "a pod of other"])],
        ),
        (
            "not understood",
            vec![server(), stranger(), deny(json!({"action": "Allow", "rules": [{"from": [{"ipBlocks": ["ten"]}]}]}))],
            vec![(Wrong, &["demo/p cannot be understood"]), (Remark, &["ipBlocks", "ten"])],
        ),
    ];
    for (case, objects, expected) in cases {
        expect(case, objects, &expected);
    }
}
