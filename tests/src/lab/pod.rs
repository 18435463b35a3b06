//! A pod: a network namespace linked to its node, a cgroup below the node's, a Pod object, and processes.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use aya::programs::{SchedClassifier, TcAttachType};

use super::node::Layout;
use super::process::Place;
use super::state::NetState;
use super::{Lab, NetNs, Node, Process, binary, cgroup};
use crate::app::App;
use crate::wait;

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
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) service_account: String,
    pub(super) uid: String,
    pub(super) node: Node,
    pub(super) netns: NetNs,
    pub(super) link: String,
    pub(super) cgroup: PathBuf,
    /// The cgroup of its container; its own where nothing imitates containers.
    pub(super) container: PathBuf,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) before: NetState,
    pub(super) object: serde_json::Value,
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

    /// Whether something looks at its packets where they reach the node.
    ///
    /// # Errors
    /// When the node's namespace cannot be entered.
    pub fn is_guarded(&self) -> Result<bool> {
        let link = self.inner.link.clone();
        self.node().netns().run(move || {
            let (_, programs) = SchedClassifier::query_tcx(&link, TcAttachType::Ingress)?;
            Ok(!programs.is_empty())
        })
    }

    /// The hardware address of its end of its link.
    ///
    /// # Errors
    /// When its namespace cannot be entered.
    pub fn hardware_address(&self) -> Result<String> {
        let said = self.netns().output(&["ip", "-o", "link", "show", "eth0"])?;
        let mut words = said.split_whitespace().skip_while(|word| *word != "link/ether");
        words.nth(1).map(str::to_owned).with_context(|| format!("no hardware address: {said}"))
    }

    /// Brings its link up again, with what was lost when it went down.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn reconnect(&self) -> Result<()> {
        self.netns().ip(&configuration(self.node(), self.addresses(), "replace"))
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

    /// Starts any program in a cgroup of its own below the pod's, so that what it uses can be told from the rest; yields that
    /// cgroup too. Programs of one name share it.
    ///
    /// # Errors
    /// When it does not start.
    pub fn spawn_apart(&self, lab: &Lab, name: &str, command: &[String]) -> Result<(Process, PathBuf)> {
        let cgroup = self.cgroup().join(name);
        cgroup::create(&cgroup)?;
        let place = Place { cgroup: &cgroup, ..self.place(lab, name) };
        let process = Process::start(place, command)?;
        lab.contents().processes.push(process.clone());
        Ok((process, cgroup))
    }

    /// Starts what a container runtime keeps in every pod: a process that does nothing but hold its namespaces.
    pub(super) fn pause(&self, lab: &Lab, sandbox: &Path) -> Result<()> {
        let place = Place { cgroup: sandbox, ..self.place(lab, "pause") };
        let process = Process::start(place, &["sleep".to_owned(), "infinity".to_owned()])?;
        lab.contents().processes.push(process.clone());
        // A pod has a sandbox before it has an address.
        let namespace = format!("/proc/{}/ns/net", process.pid());
        wait::until("the pod's sandbox", wait::DEADLINE, || {
            let inside = self.netns().is(Path::new(&namespace)) && !cgroup::members(sandbox).is_empty();
            if inside { Ok(()) } else { bail!("process {} is not in it yet", process.pid()) }
        })
    }

    fn place(&self, lab: &Lab, what: &str) -> Place<'_> {
        let number = lab.contents().processes.len();
        let name = format!("{}-{what}-{number}", self.name());
        let log = lab.log_path(&name);
        Place { name, netns: self.netns(), cgroup: &self.inner.container, log }
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
        self.delete_sandbox(pod)
    }

    /// Ends a pod's processes and takes its network namespace away, as when its sandbox dies; its object stays.
    ///
    /// # Errors
    /// When its cgroup does not empty.
    pub fn delete_sandbox(&self, pod: &Pod) -> Result<()> {
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

/// `ip` lines for a pod's end of its link.
pub(super) fn configuration(node: &Node, addresses: &[IpAddr], verb: &str) -> Vec<String> {
    let routed = node.layout() == Layout::Routed;
    let (v4_length, v6_length) = if routed { (32, 128) } else { (24, 64) };
    let mut lines: Vec<_> = addresses
        .iter()
        .map(|ip| match ip {
            IpAddr::V4(v4) => format!("addr {verb} {v4}/{v4_length} dev eth0"),
            IpAddr::V6(v6) => format!("addr {verb} {v6}/{v6_length} dev eth0 nodad"),
        })
        .collect();
    lines.push("link set eth0 up".into());
    let (v4, v6) = node.gateways();
    if addresses.iter().any(IpAddr::is_ipv4) {
        if routed {
            lines.push(format!("route {verb} {v4} dev eth0 scope link"));
        }
        lines.push(format!("route {verb} default via {v4} dev eth0"));
    }
    if addresses.iter().any(IpAddr::is_ipv6) {
        lines.push(format!("route {verb} default via {v6} dev eth0"));
    }
    lines
}
