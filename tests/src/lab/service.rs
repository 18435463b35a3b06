//! Services, their EndpointSlices, and what a cluster without a mesh does for them: kube-proxy's rules in nftables, so
//! that pods outside the mesh reach the same VIPs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Result;
use serde_json::{Value, json};

use super::{Lab, NAMESPACE, Node, Pod};

/// A Service of the lab. Clones are the same Service.
#[derive(Clone, Debug)]
pub struct Service {
    inner: Arc<Inner>,
    endpoints: Vec<Endpoint>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    namespace: String,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
    port: u16,
    target_port: u16,
    app_protocol: Option<String>,
    annotations: BTreeMap<String, String>,
}

/// A pod behind a Service.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The pod.
    pub pod: Pod,
    /// Whether it takes new connections.
    pub ready: bool,
    /// Whether it is shutting down.
    pub terminating: bool,
}

impl From<&Pod> for Endpoint {
    fn from(pod: &Pod) -> Self {
        Self { pod: pod.clone(), ready: true, terminating: false }
    }
}

/// A Service to be made.
pub struct ServiceSpec<'a> {
    lab: &'a Lab,
    name: String,
    namespace: String,
    port: u16,
    target_port: u16,
    app_protocol: Option<String>,
    annotations: BTreeMap<String, String>,
    pods: Vec<Endpoint>,
}

impl<'a> ServiceSpec<'a> {
    pub(super) fn new(lab: &'a Lab, name: &str) -> Self {
        Self {
            lab,
            name: name.to_owned(),
            namespace: NAMESPACE.to_owned(),
            port: 80,
            target_port: 8080,
            app_protocol: None,
            annotations: BTreeMap::new(),
            pods: Vec::new(),
        }
    }

    /// In this namespace instead of [`NAMESPACE`].
    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> Self {
        namespace.clone_into(&mut self.namespace);
        self
    }

    /// With this port, and this one on the pods, instead of 80 and 8080.
    #[must_use]
    pub fn port(mut self, port: u16, target_port: u16) -> Self {
        (self.port, self.target_port) = (port, target_port);
        self
    }

    /// With this `appProtocol`.
    #[must_use]
    pub fn speaks(mut self, app_protocol: &str) -> Self {
        self.app_protocol = Some(app_protocol.to_owned());
        self
    }

    /// With an annotation.
    #[must_use]
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.to_owned(), value.to_owned());
        self
    }

    /// With these pods ready behind it.
    #[must_use]
    pub fn pods(mut self, pods: &[&Pod]) -> Self {
        self.pods.extend(pods.iter().map(|&pod| Endpoint::from(pod)));
        self
    }

    /// Makes it: manifests, and the rules of every node.
    ///
    /// # Errors
    /// When a manifest or a rule cannot be written.
    pub fn create(self) -> Result<Service> {
        let lab = self.lab;
        lab.namespace(&self.namespace)?;
        let number = {
            let mut contents = lab.contents();
            contents.next += 1;
            contents.next
        };
        let (v4, v6) = addresses(number, lab.is_shared());
        let service = Service {
            inner: Arc::new(Inner {
                name: self.name,
                namespace: self.namespace,
                v4,
                v6,
                port: self.port,
                target_port: self.target_port,
                app_protocol: self.app_protocol,
                annotations: self.annotations,
            }),
            endpoints: self.pods,
        };
        lab.manifests.put(service.object())?;
        lab.publish(service.clone())?;
        Ok(service)
    }
}

/// The addresses of the `n`th Service; those of a cluster that others use too are from where theirs seldom are.
pub(super) fn addresses(n: u16, shared: bool) -> (Ipv4Addr, Ipv6Addr) {
    let number = if shared { n | 0xc800 } else { n };
    let [high, low] = number.to_be_bytes();
    (Ipv4Addr::new(10, 96, high, low), Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, number))
}

impl Service {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Its namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.inner.namespace
    }

    /// Its IPv4 VIP and port.
    #[must_use]
    pub fn v4(&self) -> SocketAddr {
        (self.inner.v4, self.inner.port).into()
    }

    /// Its IPv6 VIP and port.
    #[must_use]
    pub fn v6(&self) -> SocketAddr {
        (self.inner.v6, self.inner.port).into()
    }

    fn object(&self) -> Value {
        let inner = &self.inner;
        let mut port = json!({"name": "tcp", "protocol": "TCP", "port": inner.port, "targetPort": inner.target_port});
        if let Some(app_protocol) = &inner.app_protocol {
            port["appProtocol"] = app_protocol.as_str().into();
        }
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": inner.name, "namespace": inner.namespace, "annotations": inner.annotations},
            "spec": {
                "clusterIP": inner.v4, "clusterIPs": [inner.v4.to_string(), inner.v6.to_string()],
                "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack",
                "ports": [port]
            }
        })
    }

    fn slice(&self, family: &str, wanted: impl Fn(&IpAddr) -> bool) -> Value {
        let inner = &self.inner;
        let endpoints: Vec<_> = self
            .endpoints
            .iter()
            .filter_map(|endpoint| {
                let ip = endpoint.pod.addresses().iter().find(|ip| wanted(ip))?;
                Some(json!({
                    "addresses": [ip.to_string()],
                    "conditions": {"ready": endpoint.ready, "serving": endpoint.ready || endpoint.terminating, "terminating": endpoint.terminating},
                    "nodeName": endpoint.pod.node().name(),
                    "targetRef": {
                        "kind": "Pod", "namespace": endpoint.pod.namespace(), "name": endpoint.pod.name(), "uid": endpoint.pod.uid()
                    }
                }))
            })
            .collect();
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{}-{}", inner.name, family.to_lowercase()), "namespace": inner.namespace,
                "labels": {"kubernetes.io/service-name": inner.name}
            },
            "addressType": family,
            "ports": [{"name": "tcp", "protocol": "TCP", "port": inner.target_port}],
            "endpoints": endpoints
        })
    }

    /// One nft rule a family: DNAT to a random ready endpoint, or a reset where there is none.
    fn rules(&self, dnat: &mut String, reject: &mut String) -> std::fmt::Result {
        let ready: Vec<IpAddr> = self
            .endpoints
            .iter()
            .filter(|e| e.ready && !e.terminating)
            .flat_map(|e| e.pod.addresses().to_vec())
            .collect();
        for (family, vip, v4) in
            [("ip", IpAddr::from(self.inner.v4), true), ("ip6", IpAddr::from(self.inner.v6), false)]
        {
            let matches = format!("{family} daddr {vip} tcp dport {}", self.inner.port);
            let targets: Vec<_> = ready.iter().filter(|ip| ip.is_ipv4() == v4).collect();
            if targets.is_empty() {
                writeln!(reject, "{matches} reject with tcp reset")?;
                continue;
            }
            let map: Vec<_> =
                targets.iter().enumerate().map(|(i, ip)| format!("{i} : {ip} . {}", self.inner.target_port)).collect();
            writeln!(
                dnat,
                "{matches} dnat {family} to numgen random mod {} map {{ {} }}",
                targets.len(),
                map.join(", ")
            )?;
        }
        Ok(())
    }
}

impl Lab {
    /// Replaces the pods behind a Service.
    ///
    /// # Errors
    /// When a manifest or a rule cannot be written.
    pub fn set_endpoints(&self, service: &Service, endpoints: Vec<Endpoint>) -> Result<()> {
        self.publish(Service { inner: service.inner.clone(), endpoints })
    }

    /// Writes a Service's slices and every node's rules.
    fn publish(&self, service: Service) -> Result<()> {
        self.manifests.put(service.slice("IPv4", IpAddr::is_ipv4))?;
        self.manifests.put(service.slice("IPv6", IpAddr::is_ipv6))?;
        let (services, nodes) = {
            let mut contents = self.contents();
            contents.services.retain(|known| !Arc::ptr_eq(&known.inner, &service.inner));
            contents.services.push(service);
            (contents.services.clone(), contents.nodes.clone())
        };
        nodes.iter().try_for_each(|node| program(node, &services))
    }

    /// Adds a TCPRoute that splits a Service's connections between backends by weight.
    ///
    /// # Errors
    /// When its manifest cannot be written.
    pub fn split(&self, name: &str, parent: &Service, backends: &[(&Service, u32)]) -> Result<()> {
        let refs: Vec<_> = backends
            .iter()
            .map(|(service, weight)| json!({"group": "", "kind": "Service", "namespace": service.namespace(), "name": service.name(), "port": service.inner.port, "weight": weight}))
            .collect();
        self.manifests.put(json!({
            "apiVersion": "gateway.networking.k8s.io/v1alpha2",
            "kind": "TCPRoute",
            "metadata": {"name": name, "namespace": parent.namespace()},
            "spec": {
                "parentRefs": [{"group": "", "kind": "Service", "name": parent.name(), "port": parent.inner.port}],
                "rules": [{"backendRefs": refs}]
            }
        }))
    }

    /// Sets a Service's balancing algorithm by a TrafficPolicy.
    ///
    /// # Errors
    /// When its manifest cannot be written.
    pub fn algorithm(&self, service: &Service, algorithm: &str) -> Result<()> {
        self.manifests.put(json!({
            "apiVersion": "weft.dev/v1alpha1",
            "kind": "TrafficPolicy",
            "metadata": {"name": service.name(), "namespace": service.namespace()},
            "spec": {
                "targetRefs": [{"group": "", "kind": "Service", "name": service.name()}],
                "loadBalancer": {"algorithm": algorithm}
            }
        }))
    }
}

/// Loads all Services' rules into a node in one transaction, as kube-proxy's nftables mode does.
fn program(node: &Node, services: &[Service]) -> Result<()> {
    let (mut dnat, mut reject) = (String::new(), String::new());
    for service in services {
        service.rules(&mut dnat, &mut reject)?;
    }
    let rules = format!(
        "table inet kube_proxy\ndelete table inet kube_proxy\ntable inet kube_proxy {{\n\
         chain services {{ type nat hook prerouting priority dstnat; policy accept;\n{dnat}}}\n\
         chain own_services {{ type nat hook output priority -100; policy accept;\n{dnat}}}\n\
         chain no_endpoints {{ type filter hook prerouting priority -150; policy accept;\n{reject}}}\n}}\n"
    );
    node.netns().feed(&["nft", "-f", "-"], &rules).map(drop)
}
