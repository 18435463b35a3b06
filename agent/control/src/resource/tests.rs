//! One test per kind and per way it can be wrong. Objects are written as a person writes them.

mod http;
mod pods;
mod policies;
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
