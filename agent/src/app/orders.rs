//! What the running agent is told over its admin socket, and the switch that takes the node's pods out of the mesh.

use std::path::{Path, PathBuf};

use super::node::Node;
use crate::admin::{AdminRequest, Reply, Transition};
use crate::config::Config;

impl Node {
    /// Whether no pod of this node is to be in the mesh: by order of its own, or of the whole cluster.
    pub(super) fn is_off(&self) -> bool {
        self.disabled || self.off_everywhere()
    }

    fn off_everywhere(&self) -> bool {
        self.store.snapshot().is_off(&self.config.namespace)
    }

    pub(super) async fn answer(&mut self, request: AdminRequest) {
        // Who asked may have hung up; that is no failure.
        match request {
            AdminRequest::Status(reply) => drop(reply.send(Ok(self.status()))),
            AdminRequest::Workloads(reply) => drop(reply.send(Ok(self.workloads()))),
            AdminRequest::Services(reply) => drop(reply.send(Ok(self.services()))),
            AdminRequest::Connections(reply) => drop(reply.send(Ok(self.connections()))),
            AdminRequest::Dump(reply) => drop(reply.send(Ok(self.dump()))),
            AdminRequest::Disable(reply) => self.set_disabled(true, reply).await,
            AdminRequest::Enable(reply) => self.set_disabled(false, reply).await,
            AdminRequest::Handover(reply) => drop(reply.send(Err("the agent is stopping".into()))),
        }
    }

    /// Switches the mesh off or on for this node; remembered over restarts.
    async fn set_disabled(&mut self, disabled: bool, reply: Reply<Transition>) {
        let marker = marker(&self.config);
        let remembered = if disabled { std::fs::write(&marker, "") } else { remove_if_there(&marker) };
        if let Err(error) = remembered {
            let _ = reply.send(Err(format!("cannot remember it in {}: {error}", marker.display())));
            return;
        }
        self.disabled = disabled;
        if disabled {
            self.waiting.push(reply);
        } else {
            let done = match self.off_everywhere() {
                true => "on for this node, and still off for the whole cluster: weft enable --all",
                false => "the mesh is on again; pods are being enrolled",
            };
            let _ = reply.send(Ok(Transition { done: done.into() }));
        }
        self.reconcile().await;
    }

    /// Tells those who wait for the pods to have left.
    pub(super) fn answer_waiting(&mut self) {
        for reply in self.waiting.drain(..) {
            let _ = reply.send(Ok(Transition { done: "every pod of this node is out of the mesh".into() }));
        }
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
