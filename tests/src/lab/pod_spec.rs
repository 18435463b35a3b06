//! A pod to be made: described the way its manifest will say, then created with its namespace, link and cgroup.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use serde_json::json;

use super::pod::{Inner, Pod, configuration};
use super::state::NetState;
use super::{Lab, MESH, NAMESPACE, NetNs, Node, cgroup, cluster};

/// A pod to be made.
pub struct PodSpec<'a> {
    lab: &'a Lab,
    node: Node,
    name: String,
    namespace: String,
    service_account: String,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    ports: Vec<u16>,
    probe: Option<u16>,
    addresses: Option<Vec<IpAddr>>,
    families: (bool, bool),
    uid: Option<String>,
    netns: Option<PathBuf>,
    hidden: bool,
    host_network: bool,
}

impl<'a> PodSpec<'a> {
    pub(super) fn new(lab: &'a Lab, node: &Node, name: &str) -> Self {
        Self {
            lab,
            node: node.clone(),
            name: name.to_owned(),
            namespace: NAMESPACE.to_owned(),
            service_account: name.to_owned(),
            labels: BTreeMap::from([("app".to_owned(), name.to_owned())]),
            annotations: BTreeMap::new(),
            ports: Vec::new(),
            probe: None,
            addresses: None,
            families: (true, true),
            uid: None,
            netns: None,
            hidden: false,
            host_network: false,
        }
    }

    /// In this namespace instead of [`NAMESPACE`].
    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> Self {
        namespace.clone_into(&mut self.namespace);
        self
    }

    /// With this service account instead of one of its own name.
    #[must_use]
    pub fn service_account(mut self, account: &str) -> Self {
        account.clone_into(&mut self.service_account);
        self
    }

    /// With a label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// With an annotation.
    #[must_use]
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.to_owned(), value.to_owned());
        self
    }

    /// With this weight among the endpoints of its services.
    #[must_use]
    pub fn weight(self, weight: u32) -> Self {
        self.annotation("weft.dev/weight", &weight.to_string())
    }

    /// Labelled into or out of the mesh by itself.
    #[must_use]
    pub fn mesh(self, value: &str) -> Self {
        self.label(MESH, value)
    }

    /// With declared container ports.
    #[must_use]
    pub fn ports(mut self, ports: &[u16]) -> Self {
        self.ports.extend_from_slice(ports);
        self
    }

    /// Whose readiness kubelet would ask for by HTTP at this port.
    #[must_use]
    pub fn probe(mut self, port: u16) -> Self {
        self.probe = Some(port);
        self
    }

    /// At these addresses instead of the node's next ones.
    #[must_use]
    pub fn addresses(mut self, addresses: &[IpAddr]) -> Self {
        self.addresses = Some(addresses.to_vec());
        self
    }

    /// With an IPv4 address only.
    #[must_use]
    pub fn v4_only(mut self) -> Self {
        self.families = (true, false);
        self
    }

    /// With an IPv6 address only.
    #[must_use]
    pub fn v6_only(mut self) -> Self {
        self.families = (false, true);
        self
    }

    /// As this pod, whose sandbox has gone and is made anew: its UID, its addresses, and another network namespace where
    /// the old one was.
    #[must_use]
    pub fn anew(mut self, pod: &Pod) -> Self {
        self.uid = Some(pod.uid().to_owned());
        self.addresses = Some(pod.addresses().to_vec());
        self.netns = Some(pod.netns().path().to_owned());
        self
    }

    /// Without a manifest, until [`Lab::reveal`] writes it: a pod that no agent has heard of.
    #[must_use]
    pub fn hidden(mut self) -> Self {
        self.hidden = true;
        self
    }

    /// Declared to share its node's network. The lab gives it a namespace all the same: what counts is what its object
    /// says.
    #[must_use]
    pub fn host_network(mut self) -> Self {
        self.host_network = true;
        self
    }

    /// Makes the pod and its manifest.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn create(self) -> Result<Pod> {
        self.lab.namespace(&self.namespace)?;
        let number = {
            let mut contents = self.lab.contents();
            contents.next += 1;
            contents.next
        };
        let addresses = self.addresses.clone().unwrap_or_else(|| {
            let (v4, v6) = self.node.pod_addresses(u8::try_from(number + 9).unwrap_or(u8::MAX));
            let mut both = Vec::new();
            both.extend(self.families.0.then_some(IpAddr::from(v4)));
            both.extend(self.families.1.then_some(IpAddr::from(v6)));
            both
        });
        let link = format!("p{number}");
        let path = || self.lab.run.path().join("netns").join(format!("{}-{number}", self.name));
        let netns = NetNs::create(&self.netns.clone().unwrap_or_else(path))?;
        connect(&netns, &self.node, &link, &addresses)?;
        let before = NetState::settled(&netns)?;
        let uid = self.uid(number)?;
        let flat = || self.node.cgroup().join("pods").join(format!("{}-{number}", self.name));
        let (cgroup, container) = match self.lab.api() {
            Some(_) => cluster::cgroups(self.node.cgroup(), &uid, "app"),
            None => (flat(), flat()),
        };
        cgroup::create(&container)?;
        let object = self.object(&uid, &netns, &addresses);
        let pod = Pod {
            inner: Arc::new(Inner {
                name: self.name.clone(),
                namespace: self.namespace.clone(),
                service_account: self.service_account.clone(),
                uid,
                node: self.node.clone(),
                netns,
                link,
                cgroup,
                container,
                addresses,
                before,
                object,
            }),
        };
        if self.lab.api().is_some() {
            let (_, sandbox) = cluster::cgroups(pod.node().cgroup(), pod.uid(), "pause");
            cgroup::create(&sandbox)?;
            pod.pause(self.lab, &sandbox)?;
        }
        if !self.hidden {
            self.lab.reveal(&pod)?;
        }
        self.lab.contents().pods.push(pod.clone());
        Ok(pod)
    }

    /// Its UID: in a cluster the API server gives it one, when the Pod is created and before it has any address.
    fn uid(&self, number: u16) -> Result<String> {
        if let Some(uid) = &self.uid {
            return Ok(uid.clone());
        }
        let Some(api) = self.lab.api() else {
            return Ok(format!("{:08x}-{number:04x}-4000-8000-000000000000", std::process::id()));
        };
        let mut object = self.object("", &self.node.netns().clone(), &[]);
        if let Some(fields) = object.as_object_mut() {
            fields.remove("status");
        }
        api.put(&object)?;
        let made = api.get(&format!("/api/v1/namespaces/{}/pods/{}", self.namespace, self.name))?;
        made["metadata"]["uid"].as_str().map(str::to_owned).context("the API server gave the Pod no UID")
    }

    /// The Pod, as a manifest says it; in a cluster, without what the API server and the runtime assign.
    fn object(&self, uid: &str, netns: &NetNs, addresses: &[IpAddr]) -> serde_json::Value {
        let ports: Vec<_> = self.ports.iter().map(|port| json!({"containerPort": port, "protocol": "TCP"})).collect();
        let ips: Vec<_> = addresses.iter().map(|ip| json!({"ip": ip.to_string()})).collect();
        let mut object = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": self.name, "namespace": self.namespace, "labels": self.labels, "annotations": self.annotations
            },
            "spec": {
                "nodeName": self.node.name(),
                "hostNetwork": self.host_network,
                "serviceAccountName": self.service_account,
                "containers": [{"name": "app", "image": "lab-app", "ports": ports}]
            },
            "status": {"phase": "Running", "podIP": addresses.first(), "podIPs": ips}
        });
        if let Some(port) = self.probe {
            object["spec"]["containers"][0]["readinessProbe"] = json!({"httpGet": {"path": "/", "port": port}});
        }
        if self.lab.api().is_none() {
            object["metadata"]["uid"] = uid.into();
            object["metadata"]["annotations"]["weft.dev/netns"] = netns.path().display().to_string().into();
        }
        object
    }
}

/// Links a pod's namespace to its node.
fn connect(netns: &NetNs, node: &Node, link: &str, addresses: &[IpAddr]) -> Result<()> {
    netns.sysctl("net/ipv6/conf/default/accept_dad", "0")?;
    netns.ip(&[format!("link add eth0 type veth peer name {link} netns {}", node.netns().path().display())])?;
    node.connect_pod(link, addresses)?;
    netns.ip(&configuration(node, addresses, "add"))
}
