//! One test per kind and per way it can be wrong. Objects are written as a person writes them.

mod http;
mod routes;
mod traffic;

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::de::DeserializeOwned;
use weft_core::model::{Action, Algorithm, GrantKind, MtlsMode, Name, Preference, Scope, Traffic, Weight};

use super::*;
use crate::crd;
use crate::manifests::Body;

fn read<T: DeserializeOwned>(yaml: &str) -> T {
    Body::Text(yaml).read().unwrap()
}

/// Converts `yaml`, and gives the paths of errors and of warnings beside it.
fn convert<T: DeserializeOwned, R>(
    yaml: &str,
    with: fn(&T, &mut Findings) -> Option<R>,
) -> (Option<R>, Vec<String>, Vec<String>) {
    let mut findings = Findings::default();
    let result = with(&read(yaml), &mut findings);
    let (warnings, errors): (Vec<_>, Vec<_>) = findings.into_vec().into_iter().partition(|f| f.warning);
    let paths = |list: Vec<Finding>| list.into_iter().map(|f| f.path).collect();
    (result, paths(errors), paths(warnings))
}

fn good<T: DeserializeOwned, R>(yaml: &str, with: fn(&T, &mut Findings) -> Option<R>) -> R {
    let (result, errors, warnings) = convert(yaml, with);
    assert_eq!((errors, warnings), (vec![], vec![]));
    result.unwrap()
}

#[test]
fn a_pod_in_full() {
    let pod = good::<core::Pod, _>(
        r#"
apiVersion: v1
kind: Pod
metadata:
  name: cart-7c9f-x2
  namespace: shop
  uid: 0b8f
  labels: {app: cart, pod-template-hash: 7c9f, weft.dev/mesh: disabled}
  annotations: {weft.dev/weight: "90", weft.dev/netns: /run/netns/cart}
  ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: cart-7c9f, uid: u, controller: true}]
spec:
  nodeName: node-1
  serviceAccountName: cart
  initContainers: [{name: proxy, ports: [{containerPort: 9000}]}]
  containers:
  - name: a
    ports: [{containerPort: 8080, name: web}, {containerPort: 53, protocol: UDP}]
    readinessProbe: {httpGet: {port: web, path: /}}
    livenessProbe: {tcpSocket: {port: 8081}}
  - name: b
    ports: [{containerPort: 8080}]
    startupProbe: {grpc: {port: 9090}}
    readinessProbe: {httpGet: {port: 7070, host: 192.0.2.1}}
    livenessProbe: {exec: {command: ["true"]}}
status:
  podIP: 10.0.0.7
  podIPs: [{ip: 10.0.0.7}, {ip: "fd00::7"}]
"#,
        pod::convert,
    );
    assert_eq!((pod.name.to_string().as_str(), &*pod.uid, &*pod.node), ("shop/cart-7c9f-x2", "0b8f", "node-1"));
    assert_eq!(pod.addresses, ["10.0.0.7".parse::<IpAddr>().unwrap(), "fd00::7".parse().unwrap()]);
    assert_eq!((pod.service_account.as_str(), pod.weight), ("cart", Weight(90)));
    assert_eq!((pod.mesh, &*pod.owner), (Some(MeshLabel::Disabled), "cart"));
    assert_eq!(pod.netns.as_deref(), Some(std::path::Path::new("/run/netns/cart")));
    assert_eq!((pod.declared_ports, pod.host_network), (vec![8080, 9000], false));
    assert_eq!(pod.probe_ports, [8080, 8081, 9090]);
}

#[test]
fn a_pod_of_defaults() {
    let yaml = "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [], hostNetwork: true}}";
    let pod = good::<core::Pod, _>(yaml, pod::convert);
    assert_eq!((pod.name.to_string().as_str(), &*pod.uid, &*pod.owner), ("default/p", "default/p", "p"));
    assert_eq!((pod.service_account.as_str(), pod.weight, pod.mesh), ("default", Weight(1), None));
    assert!(pod.addresses.is_empty() && pod.host_network);
}

#[test]
fn a_pod_that_has_ended_has_no_address() {
    let yaml = "{apiVersion: v1, kind: Pod, metadata: {name: p}, status: {phase: Succeeded, podIP: 10.0.0.1}}";
    assert!(good::<core::Pod, _>(yaml, pod::convert).addresses.is_empty());
}

#[test]
fn a_pod_wrong_in_every_place() {
    let (_, errors, _) = convert::<core::Pod, _>(
        r#"
apiVersion: v1
kind: Pod
metadata:
  name: Cart
  labels: {weft.dev/mesh: "on"}
  annotations: {weft.dev/weight: "1000001", weft.dev/netns: relative/path}
spec:
  serviceAccountName: a_b
  containers: [{name: a, ports: [{containerPort: 70000}]}]
status: {podIP: 10.0.0.256}
"#,
        pod::convert,
    );
    assert_eq!(
        errors,
        [
            "metadata.name",
            "spec.serviceAccountName",
            "metadata.annotations[weft.dev/weight]",
            "metadata.annotations[weft.dev/netns]",
            "metadata.labels[weft.dev/mesh]",
            "status.podIP",
            "spec.containers[0].ports[0].containerPort",
        ]
    );
}

#[test]
fn the_owner_falls_back_from_controller_to_labels_to_the_pod() {
    let owner = |metadata: &str| {
        let yaml = format!("{{apiVersion: v1, kind: Pod, metadata: {{name: p, {metadata}}}}}");
        good::<core::Pod, _>(&yaml, pod::convert).owner.to_string()
    };
    let set = "ownerReferences: [{apiVersion: apps/v1, kind: StatefulSet, name: db, uid: u, controller: true}]";
    assert_eq!(owner(set), "db");
    assert_eq!(owner("labels: {app.kubernetes.io/name: web, app: x}"), "web");
    assert_eq!(owner("labels: {app: x}"), "x");
    assert_eq!(owner("labels: {}"), "p");
}

#[test]
fn services() {
    let spec = "clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, 'fd00::1'], ports: [{name: a, port: 80, appProtocol: http}, \
                {name: u, port: 53, protocol: UDP}]";
    let yaml = |spec: &str| format!("{{apiVersion: v1, kind: Service, metadata: {{name: s}}, spec: {{{spec}}}}}");
    let found = good::<core::Service, _>(&yaml(spec), service::convert);
    assert_eq!((found.cluster_ips.len(), found.ports.len()), (2, 1));
    assert_eq!((found.ports[0].port, found.ports[0].app_protocol.as_deref()), (80, Some("http")));

    let headless = good::<core::Service, _>(&yaml("clusterIP: None, publishNotReadyAddresses: true"), service::convert);
    assert!(headless.cluster_ips.is_empty() && headless.publish_not_ready);

    let (external, errors, _) =
        convert::<core::Service, _>(&yaml("type: ExternalName, externalName: example.com"), service::convert);
    assert_eq!((external, errors), (None, vec![]));
    let (_, _, warnings) = convert::<core::Service, _>(&yaml("ports: [{port: 80}]"), service::convert);
    assert_eq!(warnings, ["spec.clusterIP"]);
    let (_, errors, _) = convert::<core::Service, _>(
        &yaml("clusterIP: here, ports: [{port: 0}, {name: a, port: 80}, {name: b, port: 80}]"),
        service::convert,
    );
    assert_eq!(errors, ["spec.clusterIP", "spec.ports[0].port", "spec.ports[2].port"]);
}

#[test]
fn what_a_service_says_of_its_endpoints() {
    let yaml = |metadata: &str, spec: &str| {
        format!("{{apiVersion: v1, kind: Service, metadata: {{name: s{metadata}}}, spec: {{clusterIP: None, {spec}}}}}")
    };
    let service = |spec: &str| good::<core::Service, _>(&yaml("", spec), service::convert);
    let plain = service("ports: []");
    assert_eq!((plain.prefers, plain.local_only, plain.affinity), (Preference::None, false, None));
    assert_eq!(service("trafficDistribution: PreferClose").prefers, Preference::SameZone);
    assert_eq!(service("trafficDistribution: PreferSameZone").prefers, Preference::SameZone);
    assert_eq!(service("trafficDistribution: PreferSameNode").prefers, Preference::SameNode);
    let allocated = ", annotations: {service.kubernetes.io/topology-mode: Auto}";
    let text = yaml(allocated, "trafficDistribution: PreferSameZone");
    assert_eq!(good::<core::Service, _>(&text, service::convert).prefers, Preference::None, "the slices' hints decide");
    assert!(service("internalTrafficPolicy: Local").local_only);
    assert_eq!(service("sessionAffinity: ClientIP").affinity, Some(Duration::from_secs(10_800)));
    let config = "sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 7}}";
    assert_eq!(service(config).affinity, Some(Duration::from_secs(7)));
    assert_eq!(service(&config.replace("ClientIP", "None")).affinity, None);

    let wrong = |spec: &str| convert::<core::Service, _>(&yaml("", spec), service::convert);
    assert_eq!(wrong("trafficDistribution: PreferMoon").2, ["spec.trafficDistribution"]);
    assert_eq!(wrong("internalTrafficPolicy: local").1, ["spec.internalTrafficPolicy"]);
    assert_eq!(wrong("sessionAffinity: Cookie").1, ["spec.sessionAffinity"]);
    let path = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
    assert_eq!(wrong(&config.replace('7', "0")).1, [path]);
    assert_eq!(wrong(&config.replace('7', "86401")).1, [path]);
}

#[test]
fn nodes() {
    let yaml = "{apiVersion: v1, kind: Node, metadata: {name: n1.example, labels: {topology.kubernetes.io/zone: z}}}";
    let node = good::<core::Node, _>(yaml, node::convert);
    assert_eq!((&*node.name, node.zone.as_deref(), node.off), ("n1.example", Some("z"), false));
    let off = yaml.replace("zone: z", "zone: z, weft.dev/disabled: 'true'");
    assert!(good::<core::Node, _>(&off, node::convert).off);
    assert!(!good::<core::Node, _>(&off.replace("'true'", "'no'"), node::convert).off);
    let nowhere = "{apiVersion: v1, kind: Node, metadata: {name: n1, labels: {topology.kubernetes.io/zone: ''}}}";
    assert_eq!(good::<core::Node, _>(nowhere, node::convert).zone, None);
}

#[test]
fn endpoint_slices() {
    let slice = |rest: &str| {
        let labels = "labels: {kubernetes.io/service-name: echo}";
        format!("{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: e, {labels}}}, {rest}}}")
    };
    let found = good::<EndpointSlice, _>(
        &slice(
            "addressType: IPv4, ports: [{name: a, port: 80}, {name: u, port: 53, protocol: UDP}], endpoints: [\
             {addresses: [10.0.0.1, 10.0.0.9], zone: z, nodeName: n}, \
             {addresses: [10.0.0.2], conditions: {ready: false, serving: true, terminating: true}}]",
        ),
        endpoint_slice::convert,
    );
    assert_eq!(
        (found.service.to_string().as_str(), found.port("a"), found.port("u")),
        ("default/echo", Some(80), None)
    );
    let (first, second) = (&found.endpoints[0], &found.endpoints[1]);
    assert_eq!((first.address.to_string().as_str(), first.ready, first.serving), ("10.0.0.1", true, true));
    assert_eq!((second.ready, second.serving, second.terminating), (false, true, true));
    assert_eq!((first.place.hints.clone(), second.place.hints.clone()), (None, None));

    let found = good::<EndpointSlice, _>(
        &slice(
            "addressType: IPv4, endpoints: [\
             {addresses: [10.0.0.1], hints: {forZones: [{name: a}, {name: b}], forNodes: [{name: n}]}}, \
             {addresses: [10.0.0.2], hints: {forZones: []}, conditions: {ready: false}}]",
        ),
        endpoint_slice::convert,
    );
    let hints = found.endpoints[0].place.hints.clone().unwrap();
    assert_eq!((hints.zones.len(), &*hints.nodes[0]), (2, "n"));
    assert_eq!(found.endpoints[1].place.hints, None, "hints that name nobody are none");
    assert!(found.endpoints[1].serving, "what is not said to be not serving is serving");

    let (_, errors, _) = convert::<EndpointSlice, _>(
        &slice("addressType: IPv4, endpoints: [{addresses: []}, {addresses: [nowhere]}]"),
        endpoint_slice::convert,
    );
    assert_eq!(errors, ["endpoints[0].addresses", "endpoints[1].addresses[0]"]);
    let (none, errors, warnings) =
        convert::<EndpointSlice, _>(&slice("addressType: FQDN, endpoints: []"), endpoint_slice::convert);
    assert_eq!((none, errors, warnings), (None, vec![], vec!["addressType".to_owned()]));
    let orphan = "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: e}, addressType: IPv6, \
                  endpoints: []}";
    let (none, _, warnings) = convert::<EndpointSlice, _>(orphan, endpoint_slice::convert);
    assert_eq!((none, warnings), (None, vec!["metadata.labels".to_owned()]));
}

fn route(spec: &str) -> String {
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1alpha2, kind: TCPRoute, metadata: {{name: r, namespace: shop, \
         creationTimestamp: '2026-01-02T03:04:05Z'}}, spec: {{{spec}}}}}"
    )
}

const PARENT: &str = "parentRefs: [{group: '', kind: Service, name: echo, port: 80}]";

#[test]
fn tcp_routes() {
    let found = good::<gateway_api::apis::experimental::tcproutes::TcpRoute, _>(
        &route(&format!(
            "{PARENT}, rules: [{{backendRefs: [{{name: v1, port: 80, weight: 90}}, {{name: v2, namespace: other, port: 81}}]}}]"
        )),
        tcp_route::convert,
    );
    assert_eq!((found.parents[0].service.to_string().as_str(), found.parents[0].port), ("shop/echo", Some(80)));
    assert_eq!((found.backends[0].weight, found.backends[1].weight), (Weight(90), Weight(1)));
    assert_eq!((found.backends[1].service.to_string().as_str(), found.backends[1].port), ("other/v2", 81));
    assert_eq!(found.created, 1_767_323_045);
}

#[test]
fn tcp_routes_that_are_wrong() {
    let errors = |spec: &str| convert(&route(spec), tcp_route::convert).1;
    let rules = |backend: &str| format!("{PARENT}, rules: [{{backendRefs: [{{{backend}}}]}}]");
    assert_eq!(errors(&format!("{PARENT}, rules: []")), ["spec.rules"]);
    assert_eq!(errors(&rules("name: v1")), ["spec.rules[0].backendRefs[0]"]);
    assert_eq!(errors(&rules("name: v1, port: 99999")), ["spec.rules[0].backendRefs[0].port"]);
    assert_eq!(errors(&rules("name: v1, port: 1, weight: -1")), ["spec.rules[0].backendRefs[0].weight"]);
    assert_eq!(errors(&rules("name: v1, port: 1, kind: Bucket")), ["spec.rules[0].backendRefs[0].kind"]);
    let section = "parentRefs: [{group: '', kind: Service, name: echo, sectionName: tcp}], rules: [{backendRefs: []}]";
    let named = convert(&route(section), tcp_route::convert).0.expect("a port may be named");
    assert_eq!(named.parents[0].section.as_deref(), Some("tcp"));
    // A Gateway's routes are its own affair.
    let gateway = "parentRefs: [{name: gw}], rules: [{backendRefs: [{name: a, port: 1}]}]";
    let (none, errors, warnings) = convert(&route(gateway), tcp_route::convert);
    assert_eq!((none, errors, warnings), (None, vec![], vec!["spec.parentRefs[0]".to_owned()]));
}

#[test]
fn reference_grants_never_grant_more_than_they_say() {
    let grant = |spec: &str| {
        format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: ReferenceGrant, metadata: {{name: g}}, spec: {{{spec}}}}}"
        )
    };
    let from = "from: [{group: gateway.networking.k8s.io, kind: TCPRoute, namespace: shop}, \
                {group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: web}]";
    let one = good(&grant(&format!("{from}, to: [{{group: '', kind: Service, name: a}}]")), reference_grant::convert);
    let from_both = vec![(GrantKind::Tcp, Name::new("shop").unwrap()), (GrantKind::Http, Name::new("web").unwrap())];
    assert_eq!((one.from, one.to), (from_both, vec![Name::new("a").unwrap()]));
    let all = "to: [{group: '', kind: Service, name: a}, {group: '', kind: Service}]";
    assert!(good(&grant(&format!("{from}, {all}")), reference_grant::convert).to.is_empty(), "any of the namespace");
    for to in ["to: []", "to: [{group: '', kind: Secret}]"] {
        let (none, errors, _) = convert(&grant(&format!("{from}, {to}")), reference_grant::convert);
        assert_eq!((none, errors), (None, vec![]), "{to} is no leave to name Services");
    }
}

fn policy(spec: &str) -> String {
    format!(
        "{{apiVersion: weft.dev/v1alpha1, kind: AuthorizationPolicy, metadata: {{name: p, namespace: shop}}, spec: {{{spec}}}}}"
    )
}

#[test]
fn authorization_policies() {
    let found = good(
        &policy(
            "selector: {matchLabels: {app: cart}}, action: Deny, audit: true, rules: [{from: [{principals: \
             ['spiffe://cluster.local/ns/a/sa/b'], notNamespaces: [c], serviceAccounts: [d, e/f], ipBlocks: [10.0.0.0/8, \
             'fd00::1']}], to: [{ports: [80], notPorts: [81]}]}]",
        ),
        authorization_policy::convert,
    );
    assert_eq!((found.action, found.audit, found.valid), (Action::Deny, true, true));
    assert!(matches!(&found.scope, Scope::Workloads(selector) if selector.0.len() == 1));
    let from = &found.rules[0].from[0];
    assert_eq!(from.principals.any[0].to_string(), "spiffe://cluster.local/ns/a/sa/b");
    assert_eq!(from.namespaces.none[0].as_str(), "c");
    let accounts: Vec<_> = from.service_accounts.any.iter().map(ToString::to_string).collect();
    assert_eq!(accounts, ["shop/d", "e/f"]);
    let blocks: Vec<_> = from.ip_blocks.any.iter().map(ToString::to_string).collect();
    assert_eq!(blocks, ["10.0.0.0/8", "fd00::1/128"]);
    assert_eq!((&found.rules[0].to[0].ports.any, &found.rules[0].to[0].ports.none), (&vec![80], &vec![81]));

    let nobody = good(&policy("action: Allow"), authorization_policy::convert);
    assert_eq!((nobody.scope, nobody.rules.len()), (Scope::Namespace, 0));
}

#[test]
fn a_wrong_authorization_policy_refuses_what_it_selects() {
    let from =
        |clause: &str| policy(&format!("selector: {{matchLabels: {{app: a}}}}, action: Allow, rules: [{{{clause}}}]"));
    for (clause, path) in [
        ("from: []", "spec.rules[0].from"),
        ("from: [{}]", "spec.rules[0].from[0]"),
        ("from: [{principals: []}]", "spec.rules[0].from[0].principals"),
        ("from: [{principals: [cluster.local/ns/a/sa/b]}]", "spec.rules[0].from[0].principals[0]"),
        ("from: [{namespaces: ['*']}]", "spec.rules[0].from[0].namespaces[0]"),
        ("from: [{serviceAccounts: [a/b/c]}]", "spec.rules[0].from[0].serviceAccounts[0]"),
        ("from: [{ipBlocks: [10.0.0.0/33]}]", "spec.rules[0].from[0].ipBlocks[0]"),
        ("from: [{notIpBlocks: [10.0.0.1/8]}]", "spec.rules[0].from[0].notIpBlocks[0]"),
        ("to: [{}]", "spec.rules[0].to[0]"),
        ("to: [{ports: [80, 0]}]", "spec.rules[0].to[0].ports[1]"),
    ] {
        let (found, errors, _) = convert(&from(clause), authorization_policy::convert);
        assert_eq!(errors, [path], "{clause}");
        let found = found.unwrap();
        assert!(!found.valid && matches!(found.scope, Scope::Workloads(_)), "{clause}");
    }
}

#[test]
fn peer_authentications() {
    let peer = |spec: &str| {
        format!("{{apiVersion: weft.dev/v1alpha1, kind: PeerAuthentication, metadata: {{name: p}}, spec: {{{spec}}}}}")
    };
    let found =
        good(&peer("mtls: {mode: Strict}, portLevelMtls: {'8080': {mode: Permissive}}"), peer_authentication::convert);
    assert_eq!((found.mode, found.ports[&8080]), (Some(MtlsMode::Strict), MtlsMode::Permissive));
    let (_, errors, _) =
        convert(&peer("portLevelMtls: {http: {mode: Strict}, '0': {mode: Strict}}"), peer_authentication::convert);
    assert_eq!(errors, ["spec.portLevelMtls[0]", "spec.portLevelMtls[http]"]);
    let (_, _, warnings) = convert(&peer(""), peer_authentication::convert);
    assert_eq!(warnings, ["spec"]);
}

#[test]
fn traffic_policies_and_slices() {
    let traffic = |spec: &str| {
        format!("{{apiVersion: weft.dev/v1alpha1, kind: TrafficPolicy, metadata: {{name: p}}, spec: {{{spec}}}}}")
    };
    let found = good(
        &traffic("targetRefs: [{group: '', kind: Service, name: a}, {name: b}], loadBalancer: {algorithm: RoundRobin}"),
        traffic_policy::convert,
    );
    assert_eq!((found.targets.len(), found.traffic.algorithm), (2, Some(Algorithm::RoundRobin)));
    let found = good(&traffic("targetRefs: [{name: b}]"), traffic_policy::convert);
    assert_eq!(*found.traffic, Traffic::default());
    assert_eq!(convert(&traffic("targetRefs: []"), traffic_policy::convert).1, ["spec.targetRefs"]);
    let pod = traffic("targetRefs: [{kind: Pod, name: a}]");
    assert_eq!(convert(&pod, traffic_policy::convert).1, ["spec.targetRefs[0]"]);

    let slice = "{apiVersion: weft.dev/v1alpha1, kind: WorkloadSlice, metadata: {name: n}, spec: {node: n, workloads: \
                 [{uid: a, live: true}, {uid: b, live: false}]}}";
    let found = good::<crd::WorkloadSlice, _>(slice, workload_slice::convert);
    assert_eq!(found.live.iter().map(|uid| &**uid).collect::<Vec<_>>(), ["a"]);
}
