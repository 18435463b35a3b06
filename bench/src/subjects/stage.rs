//! The lab every subject is measured on: two nodes with an agent each, pods in the mesh and pods outside it.

use std::net::Ipv6Addr;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use serde_json::json;
use weft_tests::lab::{Agent, Lab, NAMESPACE, Node, Pod, Process, Service, binary};
use weft_tests::wait;

/// The port servers listen on.
pub(super) const SERVER_PORT: u16 = 8080;

/// The port they speak HTTP on.
pub(super) const HTTP_PORT: u16 = 8081;

/// The namespace of the pods that stay outside the mesh.
const OUTSIDE: &str = "outside";

/// A server and the Service in front of it.
pub struct Server {
    /// Its pod.
    pub pod: Pod,
    /// What clients dial.
    pub service: Service,
    /// The cgroup of its process.
    pub cgroup: PathBuf,
}

/// The lab.
pub struct Stage {
    /// The lab itself.
    pub lab: Lab,
    /// The agents of the client's and of the server's node.
    pub agents: Vec<Agent>,
    /// A client in the mesh, on the first node.
    pub client: Pod,
    /// Its neighbour in the mesh.
    pub second: Pod,
    /// A client outside the mesh, on the first node.
    pub outside: Pod,
    /// A server in the mesh on the client's node.
    pub near: Server,
    /// A server in the mesh on the other node.
    pub far: Server,
    /// Another there.
    pub far_second: Server,
    /// A server outside the mesh on the client's node.
    pub plain_near: Server,
    /// A server outside the mesh on the other node.
    pub plain_far: Server,
    /// HTTP at `far`, behind a route.
    pub web: Server,
    /// HTTP at `plain_far`.
    pub plain_web: Server,
}

impl Stage {
    /// Brings everything up.
    ///
    /// # Errors
    /// When a part of it does not come up.
    pub fn set() -> Result<Self> {
        let lab = Lab::new("bench")?;
        let (a, b) = (lab.node("a")?, lab.node("b")?);
        for node in [&a, &b] {
            calm(node)?;
        }
        let client = lab.pod(&a, "client").create()?;
        let second = lab.pod(&a, "second").create()?;
        let outside = lab.pod(&a, "outside").namespace(OUTSIDE).create()?;
        let near = Server::start(&lab, &a, "near", None)?;
        let far = Server::start(&lab, &b, "far", None)?;
        let far_second = Server::start(&lab, &b, "far-second", None)?;
        let plain_near = Server::start(&lab, &a, "plain-near", Some(OUTSIDE))?;
        let plain_far = Server::start(&lab, &b, "plain-far", Some(OUTSIDE))?;
        let plain_web = plain_far.http(&lab, "plain-web", OUTSIDE)?;
        let web = routed(&lab, &far)?;
        let agents = lab.start_agents()?;
        lab.mesh()?;
        Ok(Self { lab, agents, client, second, outside, near, far, far_second, plain_near, plain_far, web, plain_web })
    }
}

impl Stage {
    /// The cgroup everything runs in, the agents too.
    #[must_use]
    pub fn cgroup(&self) -> PathBuf {
        let node = self.client.node().cgroup();
        node.parent().unwrap_or(node).to_owned()
    }
}

impl Server {
    fn start(lab: &Lab, node: &Node, name: &str, namespace: Option<&str>) -> Result<Self> {
        let (mut pod, mut service) = (lab.pod(node, name).ports(&[SERVER_PORT, HTTP_PORT]), lab.service(name));
        if let Some(namespace) = namespace {
            (pod, service) = (pod.namespace(namespace), service.namespace(namespace));
        }
        let pod = pod.create()?;
        let service = service.port(80, SERVER_PORT).pods(&[&pod]).create()?;
        let command = [
            binary("weft-load")?.display().to_string(),
            "serve".into(),
            "--listen".into(),
            format!("[{}]:{SERVER_PORT}", Ipv6Addr::UNSPECIFIED),
            "--http".into(),
            format!("[{}]:{HTTP_PORT}", Ipv6Addr::UNSPECIFIED),
        ];
        let (process, cgroup) = pod.spawn_apart(lab, "serve", &command)?;
        listening(&process, &pod, SERVER_PORT)?;
        listening(&process, &pod, HTTP_PORT)?;
        Ok(Self { pod, service, cgroup })
    }

    /// A Service in front of the same process' HTTP.
    fn http(&self, lab: &Lab, name: &str, namespace: &str) -> Result<Self> {
        let service = lab.service(name).namespace(namespace).port(80, HTTP_PORT).speaks("http").pods(&[&self.pod]);
        Ok(Self { pod: self.pod.clone(), service: service.create()?, cgroup: self.cgroup.clone() })
    }
}

/// HTTP at a server behind the route that every peer is configured with: a header decides the rule, and its two backends
/// share by weight.
fn routed(lab: &Lab, server: &Server) -> Result<Server> {
    let web = server.http(lab, "web", NAMESPACE)?;
    for backend in ["web-v1", "web-v2"] {
        server.http(lab, backend, NAMESPACE)?;
    }
    let to = |name: &str, weight: u16| json!({"name": name, "port": 80, "weight": weight});
    lab.manifests().put(json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "web", "namespace": NAMESPACE},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": "web"}],
            "rules": [
                {
                    "matches": [{"headers": [{"name": "x-tenant", "value": "blue"}]}],
                    "backendRefs": [to("web-v1", 90), to("web-v2", 10)]
                },
                {"backendRefs": [to("web-v1", 1)]}
            ]
        }
    }))?;
    Ok(web)
}

/// Waits until a process listens on a port of a pod.
pub(super) fn listening(process: &Process, pod: &Pod, port: u16) -> Result<()> {
    let ended = wait::until(&format!("{} to listen on port {port}", process.name()), wait::DEADLINE, || {
        if process.exited().is_some() {
            return Ok(true);
        }
        let ports = pod.listening_ports()?;
        ensure!(ports.contains(&port), "only {ports:?} are open");
        Ok(false)
    })?;
    ensure!(!ended, "it ended: {}", process.log().trim());
    Ok(())
}

/// Connection tracking keeps closed connections for two minutes, which tens of thousands a second would fill.
fn calm(node: &Node) -> Result<()> {
    node.netns().sysctl("net/netfilter/nf_conntrack_tcp_timeout_time_wait", "5")
}
