//! The mesh most journeys start from: a client on one node, a server behind a Service on another, both meshed.

use std::collections::BTreeMap;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use weft_tests::app::{App, Behaviour};
use weft_tests::lab::{Agent, AgentOptions, AgentPod, ApiServer, ControllerPod, Lab, NetNs, Node, Pod, Service};

/// Any address, both families.
pub(crate) fn anywhere(port: u16) -> SocketAddr {
    (Ipv6Addr::UNSPECIFIED, port).into()
}

/// Two nodes, an agent each; `client` on `a`, `server` on `b` behind the Service `echo`.
pub(crate) struct Mesh {
    pub(crate) lab: Lab,
    pub(crate) a: Node,
    pub(crate) b: Node,
    pub(crate) client: Pod,
    pub(crate) server: Pod,
    pub(crate) echo: Service,
    /// The client's process; it was running before the mesh.
    pub(crate) app: App,
    /// The server's process.
    pub(crate) peer: App,
}

impl Mesh {
    /// Everything up and unmeshed, agents running.
    pub(crate) fn unmeshed(name: &str) -> Result<Self> {
        Self::on(Lab::new(name)?)
    }

    /// As [`Mesh::unmeshed`], with an API server in the place of a directory of manifests.
    pub(crate) fn in_cluster(name: &str) -> Result<Self> {
        Self::on(Lab::cluster(name)?)
    }

    /// As [`Mesh::in_cluster`], with the API server of a kubeconfig, dialled in this network.
    pub(crate) fn in_cluster_of(name: &str, kubeconfig: &Path, netns: &NetNs) -> Result<Self> {
        Self::on(Lab::cluster_of(name, kubeconfig, netns)?)
    }

    /// As [`Mesh::in_cluster`], its agents with these arguments.
    pub(crate) fn in_cluster_with(name: &str, arguments: &[&str]) -> Result<Self> {
        let mesh = Self::without_agents(Lab::cluster(name)?)?;
        mesh.lab.start_agents_with(&AgentOptions::with(arguments))?;
        Ok(mesh)
    }

    /// As [`Mesh::in_cluster`], meshed, the server answering on 8080.
    pub(crate) fn serving_in_cluster(name: &str) -> Result<Self> {
        let mesh = Self::in_cluster(name)?;
        mesh.peer.listen(anywhere(8080), "server", Behaviour::Identify)?;
        mesh.lab.mesh()?;
        Ok(mesh)
    }

    /// The API server that configures it.
    pub(crate) fn api(&self) -> Result<&ApiServer> {
        self.lab.api().context("a lab without an API server")
    }

    /// As [`Mesh::in_cluster`], of the shipped manifests: controllers, agents and holders in containers.
    pub(crate) fn installed(name: &str) -> Result<(Self, Vec<ControllerPod>, Vec<AgentPod>)> {
        Self::of_installation(Lab::installed(name)?)
    }

    /// The same in a lab whose API server has the shipped manifests by other means.
    pub(crate) fn of_installation(lab: Lab) -> Result<(Self, Vec<ControllerPod>, Vec<AgentPod>)> {
        let mesh = Self::without_agents(lab)?;
        let controllers = mesh.lab.start_deployment()?;
        let agents = mesh.lab.start_daemonset()?;
        Ok((mesh, controllers, agents))
    }

    fn on(lab: Lab) -> Result<Self> {
        let mesh = Self::without_agents(lab)?;
        mesh.lab.start_agents()?;
        Ok(mesh)
    }

    fn without_agents(lab: Lab) -> Result<Self> {
        let (a, b) = (lab.node("a")?, lab.node("b")?);
        let client = lab.pod(&a, "client").create()?;
        let server = lab.pod(&b, "server").ports(&[8080]).create()?;
        let echo = lab.service("echo").pods(&[&server]).create()?;
        let (app, peer) = (client.app(&lab)?, server.app(&lab)?);
        Ok(Self { lab, a, b, client, server, echo, app, peer })
    }

    /// Everything up and meshed.
    pub(crate) fn up(name: &str) -> Result<Self> {
        let mesh = Self::unmeshed(name)?;
        mesh.lab.mesh()?;
        Ok(mesh)
    }

    /// Everything up and meshed, the server doing `behaviour` behind the Service; yields the listener's number.
    pub(crate) fn serving(name: &str, behaviour: Behaviour) -> Result<(Self, u64)> {
        let mesh = Self::up(name)?;
        let (listener, _) = mesh.peer.listen(anywhere(8080), "server", behaviour)?;
        Ok((mesh, listener))
    }

    /// The four ways to the server: its Service and itself, in both families.
    pub(crate) fn ways(&self) -> Result<[SocketAddr; 4]> {
        Ok([self.echo.v4(), self.echo.v6(), self.server.v4(8080)?, self.server.v6(8080)?])
    }

    /// The agent of a node.
    pub(crate) fn agent(&self, node: &Node) -> Result<Agent> {
        running_agent(&self.lab, node)
    }

    /// Checks that the tunnels between the two nodes spoke this protocol, at both ends, and no other.
    pub(crate) fn spoke(&self, protocol: &str) -> Result<()> {
        for node in [&self.a, &self.b] {
            let spoken = self.agent(node)?.metrics()?.by_label("weft_tunnels_opened_total", "tunnel_protocol");
            ensure!(spoken.len() == 1 && spoken.get(protocol).is_some_and(|n| *n > 0), "{}: {spoken:?}", node.name());
        }
        Ok(())
    }

    /// Runs `journey`, which makes at least `count` connections from the client to the server, and checks that the
    /// kernel steered each and handed it to the agents at both ends.
    pub(crate) fn steered<R>(&self, count: u64, journey: impl FnOnce() -> Result<R>) -> Result<R> {
        let (ours, theirs) = (self.agent(&self.a)?, self.agent(&self.b)?);
        let before = (ours.verdicts()?, theirs.verdicts()?);
        let result = journey()?;
        moved(&ours, &before.0, "connect_steer", count)?;
        moved(&ours, &before.0, "lookup_assign_outbound", count)?;
        // Tunnels are pooled: one is enough for any number of connections, and it may stand already.
        ensure!(
            theirs.verdicts()?.get("lookup_assign_tunnel").copied().unwrap_or_default() > 0,
            "no tunnel reached the server's node"
        );
        Ok(result)
    }
}

/// The running agent of a node.
pub(crate) fn running_agent(lab: &Lab, node: &Node) -> Result<Agent> {
    lab.agent_on(node).ok_or_else(|| anyhow::anyhow!("no agent runs on {}", node.name()))
}

/// Checks that a verdict was given at least `count` times since `before`.
pub(crate) fn moved(agent: &Agent, before: &BTreeMap<String, u64>, verdict: &str, count: u64) -> Result<()> {
    let after = agent.verdicts()?;
    let of = |verdicts: &BTreeMap<String, u64>| verdicts.get(verdict).copied().unwrap_or_default();
    let by = of(&after).saturating_sub(of(before));
    ensure!(by >= count, "{verdict} moved by {by}, not {count}, on {}: {after:?}", agent.node().name());
    Ok(())
}

/// Runs `journey` and checks that a verdict was given at least `count` times on the node meanwhile.
pub(crate) fn moves<R>(
    lab: &Lab,
    node: &Node,
    verdict: &str,
    count: u64,
    journey: impl FnOnce() -> Result<R>,
) -> Result<R> {
    let agent = running_agent(lab, node)?;
    let before = agent.verdicts()?;
    let result = journey()?;
    moved(&agent, &before, verdict, count)?;
    Ok(result)
}
