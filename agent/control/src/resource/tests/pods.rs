//! Pods.

use super::super::*;
use super::*;

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
