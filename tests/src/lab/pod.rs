//! A pod: a network namespace linked to its node, a cgroup below the node's, a Pod object, and processes.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use serde_json::json;

use super::node::{GATEWAY_V4, GATEWAY_V6};
use super::process::Place;
use super::state::NetState;
use super::{Lab, MESH, NAMESPACE, NetNs, Node, Process, binary, cgroup};
use crate::app::App;

/// Sheds root and every capability, the bounding set included, as container runtimes do.
const UNPRIVILEGED: [&str; 8] = [
    "setpriv",
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    "--bounding-set=-all",
    "--inh-caps=-all",
    "--no-new-privs",
    "--",
];

/// A pod of the lab. Clones are the same pod.
#[derive(Clone, Debug)]
pub struct Pod {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    namespace: String,
    service_account: String,
    uid: String,
    node: Node,
    netns: NetNs,
    link: String,
    cgroup: PathBuf,
    addresses: Vec<IpAddr>,
    before: NetState,
    object: serde_json::Value,
}

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
    addresses: Option<Vec<IpAddr>>,
    families: (bool, bool),
    uid: Option<String>,
    hidden: bool,
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
            addresses: None,
            families: (true, true),
            uid: None,
            hidden: false,
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

    /// With this UID: the same pod as one before, its sandbox made anew.
    #[must_use]
    pub fn uid(mut self, uid: &str) -> Self {
        self.uid = Some(uid.to_owned());
        self
    }

    /// Without a manifest, until [`Lab::reveal`] writes it: a pod that no agent has heard of.
    #[must_use]
    pub fn hidden(mut self) -> Self {
        self.hidden = true;
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
        let netns = NetNs::create(&self.lab.run.path().join("netns").join(format!("{}-{number}", self.name)))?;
        connect(&netns, &self.node, &link, &addresses)?;
        let cgroup = self.node.cgroup().join("pods").join(format!("{}-{number}", self.name));
        cgroup::create(&cgroup)?;
        let before = NetState::settled(&netns)?;
        let uid = self
            .uid
            .clone()
            .unwrap_or_else(|| format!("{:08x}-{number:04x}-4000-8000-000000000000", std::process::id()));
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
                addresses,
                before,
                object,
            }),
        };
        if !self.hidden {
            self.lab.reveal(&pod)?;
        }
        self.lab.contents().pods.push(pod.clone());
        Ok(pod)
    }

    fn object(&self, uid: &str, netns: &NetNs, addresses: &[IpAddr]) -> serde_json::Value {
        let mut annotations = self.annotations.clone();
        annotations.insert("weft.dev/netns".into(), netns.path().display().to_string());
        let ports: Vec<_> = self.ports.iter().map(|port| json!({"containerPort": port, "protocol": "TCP"})).collect();
        let ips: Vec<_> = addresses.iter().map(|ip| json!({"ip": ip.to_string()})).collect();
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": self.name, "namespace": self.namespace, "uid": uid, "labels": self.labels, "annotations": annotations
            },
            "spec": {
                "nodeName": self.node.name(),
                "serviceAccountName": self.service_account,
                "containers": [{"name": "app", "image": "lab-app", "ports": ports}]
            },
            "status": {"phase": "Running", "podIP": addresses.first(), "podIPs": ips}
        })
    }
}

/// Links a pod's namespace to its node the way point-to-point CNI plugins do.
fn connect(netns: &NetNs, node: &Node, link: &str, addresses: &[IpAddr]) -> Result<()> {
    netns.sysctl("net/ipv6/conf/default/accept_dad", "0")?;
    netns.ip(&[format!("link add eth0 type veth peer name {link} netns {}", node.netns().path().display())])?;
    node.route_pod(link, addresses)?;
    netns.ip(&configuration(addresses, "add"))
}

/// `ip` lines for a pod's end of its link.
fn configuration(addresses: &[IpAddr], verb: &str) -> Vec<String> {
    let mut lines: Vec<_> = addresses
        .iter()
        .map(|ip| match ip {
            IpAddr::V4(v4) => format!("addr {verb} {v4}/32 dev eth0"),
            IpAddr::V6(v6) => format!("addr {verb} {v6}/128 dev eth0 nodad"),
        })
        .collect();
    lines.push("link set eth0 up".into());
    if addresses.iter().any(IpAddr::is_ipv4) {
        lines.push(format!("route {verb} {GATEWAY_V4} dev eth0 scope link"));
        lines.push(format!("route {verb} default via {GATEWAY_V4} dev eth0"));
    }
    if addresses.iter().any(IpAddr::is_ipv6) {
        lines.push(format!("route {verb} default via {GATEWAY_V6} dev eth0"));
    }
    lines
}

impl Pod {
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

    /// Its UID.
    #[must_use]
    pub fn uid(&self) -> &str {
        &self.inner.uid
    }

    /// The SPIFFE identity its service account has in the trust domain `cluster.local`.
    #[must_use]
    pub fn spiffe(&self) -> String {
        format!("spiffe://cluster.local/ns/{}/sa/{}", self.inner.namespace, self.inner.service_account)
    }

    /// Its node.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.inner.node
    }

    /// Its network namespace.
    #[must_use]
    pub fn netns(&self) -> &NetNs {
        &self.inner.netns
    }

    /// Its cgroup.
    #[must_use]
    pub fn cgroup(&self) -> &Path {
        &self.inner.cgroup
    }

    /// Its addresses, the primary one first.
    #[must_use]
    pub fn addresses(&self) -> &[IpAddr] {
        &self.inner.addresses
    }

    /// Its IPv4 address with a port.
    ///
    /// # Errors
    /// When it has none.
    pub fn v4(&self, port: u16) -> Result<SocketAddr> {
        self.at(port, IpAddr::is_ipv4).with_context(|| format!("{} has no IPv4 address", self.name()))
    }

    /// Its IPv6 address with a port.
    ///
    /// # Errors
    /// When it has none.
    pub fn v6(&self, port: u16) -> Result<SocketAddr> {
        self.at(port, IpAddr::is_ipv6).with_context(|| format!("{} has no IPv6 address", self.name()))
    }

    fn at(&self, port: u16, family: impl Fn(&IpAddr) -> bool) -> Option<SocketAddr> {
        let ip = self.inner.addresses.iter().copied().find(family)?;
        Some(SocketAddr::new(ip, port))
    }

    /// What its network namespace looked like before any agent could touch it.
    #[must_use]
    pub fn before(&self) -> &NetState {
        &self.inner.before
    }

    /// TCP ports listened on in it, by whomever.
    ///
    /// # Errors
    /// When its namespace cannot be entered.
    pub fn listening_ports(&self) -> Result<Vec<u16>> {
        super::state::listening_ports(self.netns())
    }

    /// Brings its link up again, with what was lost when it went down.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn reconnect(&self) -> Result<()> {
        self.netns().ip(&configuration(self.addresses(), "replace"))
    }

    /// Starts a `lab-app` in it.
    ///
    /// # Errors
    /// When it does not start.
    pub fn app(&self, lab: &Lab) -> Result<App> {
        let command = vec![binary("lab-app")?.display().to_string(), "run".into()];
        let (process, input, output) = Process::start_piped(self.place(lab, "app"), &command)?;
        lab.contents().processes.push(process.clone());
        Ok(App::new(process, input, output))
    }

    /// Starts a `lab-app` as a container without privileges runs its process: no root, no capability.
    ///
    /// # Errors
    /// When it does not start.
    pub fn unprivileged_app(&self, lab: &Lab) -> Result<App> {
        let mut command: Vec<String> = UNPRIVILEGED.map(str::to_owned).into();
        command.extend([binary("lab-app")?.display().to_string(), "run".into()]);
        let (process, input, output) = Process::start_piped(self.place(lab, "unprivileged"), &command)?;
        lab.contents().processes.push(process.clone());
        Ok(App::new(process, input, output))
    }

    /// Runs a command as a container without privileges would; yields whether it succeeded.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn try_unprivileged(&self, lab: &Lab, command: &[&str]) -> Result<bool> {
        let command: Vec<&str> = UNPRIVILEGED.iter().chain(command).copied().collect();
        Ok(self.spawn(lab, "attempt", &command)?.wait(crate::wait::DEADLINE)?.success())
    }

    /// Starts any program in it, its output going to a log.
    ///
    /// # Errors
    /// When it does not start.
    pub fn spawn(&self, lab: &Lab, name: &str, command: &[&str]) -> Result<Process> {
        let command: Vec<String> = command.iter().map(|&word| word.to_owned()).collect();
        let process = Process::start(self.place(lab, name), &command)?;
        lab.contents().processes.push(process.clone());
        Ok(process)
    }

    fn place(&self, lab: &Lab, what: &str) -> Place<'_> {
        let number = lab.contents().processes.len();
        let name = format!("{}-{what}-{number}", self.name());
        let log = lab.log_path(&name);
        Place { name, netns: self.netns(), cgroup: self.cgroup(), log }
    }
}

impl Lab {
    /// Writes the manifest of a pod made without one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn reveal(&self, pod: &Pod) -> Result<()> {
        self.manifests.put(pod.inner.object.clone())
    }

    /// Deletes a pod: its object, its processes, its network namespace, in the order a cluster does.
    ///
    /// # Errors
    /// When its cgroup does not empty.
    pub fn delete_pod(&self, pod: &Pod) -> Result<()> {
        self.manifests.remove("Pod", pod.namespace(), pod.name());
        cgroup::remove(pod.cgroup())?;
        // A container runtime takes the link away before it lets go of the namespace.
        let _ = pod.node().netns().ip(&[format!("link del {}", pod.inner.link)]);
        pod.netns().remove();
        self.contents().pods.retain(|other| other.uid() != pod.uid());
        Ok(())
    }

    /// Labels a pod (`None` takes the label off).
    ///
    /// # Errors
    /// When its manifest cannot be written.
    pub fn label_pod(&self, pod: &Pod, key: &str, value: Option<&str>) -> Result<()> {
        self.manifests.change("Pod", pod.namespace(), pod.name(), |object| {
            let labels = &mut object["metadata"]["labels"];
            match value {
                Some(value) => labels[key] = value.into(),
                None => {
                    if let Some(labels) = labels.as_object_mut() {
                        labels.remove(key);
                    }
                }
            }
        })
    }
}
