//! What the running agent is told over its admin socket, and the switch that takes the node's pods out of the mesh.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::node::Node;
use crate::admin::{AdminRequest, Reply, Transition};
use crate::config::Config;

/// How long whoever switches the mesh off waits for the pods to have left for good. What takes longer (connections that are
/// open, peers that cannot be told) ends by itself, and is said.
const PATIENCE: Duration = Duration::from_secs(10);

/// Somebody who has switched the mesh off and waits for the pods to have left, until when.
pub(super) struct Waiting {
    reply: Reply<Transition>,
    until: Instant,
}

impl Node {
    /// Whether no pod of this node is to be in the mesh: by order of its own, or from elsewhere.
    pub(super) fn is_off(&self) -> bool {
        self.disabled || self.off_from_elsewhere().is_some()
    }

    /// How the mesh was switched off that is not for this agent to switch on.
    fn off_from_elsewhere(&self) -> Option<String> {
        let snapshot = self.store.snapshot();
        if snapshot.is_off(&self.config.namespace) {
            return Some("for the whole cluster: weft enable --all".into());
        }
        let node = &self.parts.node;
        snapshot.is_node_off(node).then(|| format!("by the label on its Node: weft enable --node {node}"))
    }

    /// Who has switched it off, if anybody has, and what switches it on.
    pub(super) fn off_because(&self) -> Option<String> {
        if self.disabled { Some("on this node: weft enable".into()) } else { self.off_from_elsewhere() }
    }

    pub(super) async fn answer(&mut self, request: AdminRequest) {
        // Who asked may have hung up; that is no failure.
        match request {
            AdminRequest::Status(reply) => drop(reply.send(Ok(self.status()))),
            AdminRequest::Workloads(reply) => drop(reply.send(Ok(self.workloads()))),
            AdminRequest::Services(reply) => drop(reply.send(Ok(self.services()))),
            AdminRequest::Connections(reply) => drop(reply.send(Ok(self.connections()))),
            AdminRequest::Dump(reply) => drop(reply.send(Ok(self.dump()))),
            AdminRequest::Disable(reply) => self.disable(reply).await,
            AdminRequest::Enable(reply) => self.enable(reply).await,
            AdminRequest::Handover(reply) => drop(reply.send(Err("the agent is stopping".into()))),
        }
    }

    /// Switches the mesh off for this node; remembered over restarts.
    async fn disable(&mut self, reply: Reply<Transition>) {
        let marker = marker(&self.config);
        if let Err(error) = std::fs::write(&marker, "") {
            let _ = reply.send(Err(format!("cannot remember it in {}: {error}", marker.display())));
            return;
        }
        self.disabled = true;
        self.waiting.push(Waiting { reply, until: Instant::now() + PATIENCE });
        self.reconcile().await;
    }

    /// Switches it on again. Who waits for it to be off waits for nothing.
    async fn enable(&mut self, reply: Reply<Transition>) {
        let marker = marker(&self.config);
        if let Err(error) = remove_if_there(&marker) {
            let _ = reply.send(Err(format!("cannot forget it in {}: {error}", marker.display())));
            return;
        }
        self.disabled = false;
        for waiting in self.waiting.drain(..) {
            let _ = waiting.reply.send(Err("it was switched on again meanwhile".into()));
        }
        self.reconcile().await;
        let _ = reply.send(Ok(Transition { done: self.resumed() }));
    }

    fn resumed(&self) -> String {
        if let Some(why) = self.off_from_elsewhere() {
            return format!("on for this node, and still off {why}");
        }
        if !self.settled {
            return "on; nothing is known of the pods yet, see weft status: they are enrolled once it is".into();
        }
        let mut done = format!("the mesh is on again: {} pods are in it", self.pods.enrolled.len());
        if let Some(pending) = self.pods.pending.values().next() {
            done += &format!(", {} are not yet ({}), see weft workloads", self.pods.pending.len(), pending.reason);
        }
        done
    }

    /// Tells those who wait that the pods have left, or what still stays.
    pub(super) fn answer_waiting(&mut self, now: Instant) {
        let left = !self.settled || self.pods.enrolled.is_empty() && self.pods.all_left();
        if !left && self.waiting.iter().all(|waiting| waiting.until > now) {
            return;
        }
        let done = if left { "every pod of this node is out of the mesh".into() } else { self.lingering() };
        for Waiting { reply, .. } in self.waiting.extract_if(.., |waiting| left || waiting.until <= now) {
            let _ = reply.send(Ok(Transition { done: done.clone() }));
        }
    }

    /// Why pods that take no new connection of their own any more are not wholly out of the mesh.
    fn lingering(&self) -> String {
        let pods = self.pods.leaving.len();
        let open: usize = self.pods.leaving.keys().map(|uid| self.parts.live.count(uid)).sum();
        let mut done = format!(
            "what this node's pods dial is direct; {pods} of them are still served to peers, and leave by themselves"
        );
        if open > 0 {
            done += &format!("; {open} connections are open, and go on until they end");
        }
        if self.cluster.as_ref().is_some_and(|cluster| cluster.stale(Instant::now()).is_some()) {
            done += "; the API server is away, so peers cannot be told to dial them directly: port 15008 is served until they are";
        }
        done
    }
}

/// The file whose presence keeps the mesh off on this node.
pub(super) fn marker(config: &Config) -> PathBuf {
    config.state.join("disabled")
}

fn remove_if_there(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
