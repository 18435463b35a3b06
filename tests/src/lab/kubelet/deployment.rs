//! The controller's Deployment: its replicas are pods of the lab whose container is run as its manifest says.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use super::super::{Controller, Lab, Node, Pod};
use super::sandbox::Sandbox;
use super::{NAMESPACE, PATIENCE, find};

/// The Deployment, its service account, and the Service before it.
const NAME: &str = "weft-controller";
/// The container's port for metrics and probes.
const METRICS_PORT: u16 = 15020;

/// A pod of the Deployment.
#[derive(Clone)]
pub struct ControllerPod {
    pod: Pod,
    controller: Controller,
}

impl ControllerPod {
    /// Its pod.
    #[must_use]
    pub fn pod(&self) -> &Pod {
        &self.pod
    }

    /// The replica in it.
    #[must_use]
    pub fn controller(&self) -> &Controller {
        &self.controller
    }
}

impl Lab {
    /// Puts the Deployment into the API server, and runs as many replicas of it as it asks for, on one node after another.
    ///
    /// # Errors
    /// When one does not become ready.
    pub fn start_deployment(&self) -> Result<Vec<ControllerPod>> {
        let deployment = find("Deployment", NAME)?;
        self.api().context("a lab without an API server")?.put(&deployment)?;
        let replicas = deployment["spec"]["replicas"].as_u64().context("how many replicas?")?;
        let nodes = self.contents().nodes.clone();
        let each = nodes.iter().cycle().zip(0..replicas);
        let pods: Vec<_> = each.map(|(node, _)| self.launch_controller_pod(node)).collect::<Result<_>>()?;
        pods.iter().try_for_each(|pod| pod.controller.wait_ready())?;
        self.name_controllers(&pods)?;
        Ok(pods)
    }

    /// Starts one more replica, and waits until it is ready. It gets requests once [`Self::name_controllers`] says so.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn start_controller_pod(&self, node: &Node) -> Result<ControllerPod> {
        let pod = self.launch_controller_pod(node)?;
        pod.controller.wait_ready()?;
        Ok(pod)
    }

    /// Deletes a replica's pod as kubelet does it.
    ///
    /// # Errors
    /// When it does not stop well.
    pub fn end_controller_pod(&self, pod: &ControllerPod) -> Result<()> {
        let status = pod.controller.process().terminate(PATIENCE)?;
        ensure!(status.success(), "{} ended with {status}", pod.controller.process().name());
        self.delete_pod(&pod.pod)
    }

    /// Has the Service's name stand for these replicas, as the cluster's DNS and kube-proxy would.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn name_controllers(&self, pods: &[ControllerPod]) -> Result<()> {
        let lines = pods.iter().flat_map(|pod| pod.pod.addresses()).filter(|ip| ip.is_ipv4());
        let text: String = lines.map(|ip| format!("{ip} {NAME}.{NAMESPACE}.svc\n")).collect();
        // In place: it is mounted.
        std::fs::write(self.hosts_file()?, text).context("writing the names")
    }

    /// What is mounted at `/etc/hosts`.
    pub(super) fn hosts_file(&self) -> Result<PathBuf> {
        let path = self.directory().join("hosts");
        if !path.exists() {
            std::fs::write(&path, "")?;
        }
        Ok(path)
    }

    fn launch_controller_pod(&self, node: &Node) -> Result<ControllerPod> {
        let template = find("Deployment", NAME)?["spec"]["template"].clone();
        let number = self.contents().controllers.len();
        let name = format!("{NAME}-{number}");
        let mut spec = self.pod(node, &name).namespace(NAMESPACE).service_account(NAME);
        for (key, value) in template["metadata"]["labels"].as_object().into_iter().flatten() {
            spec = spec.label(key, value.as_str().unwrap_or_default());
        }
        let pod = spec.create()?;
        let ip = pod.v4(METRICS_PORT)?;
        // The API server is on the nodes' network, which knows of no pods.
        self.fabric.ip(&[format!("route replace {} via {}", ip.ip(), node.addresses().0)])?;
        let directory = self.directory().join("nodes").join(node.name());
        let home = directory.join("pods").join(&name);
        let sandbox = Sandbox {
            name,
            uid: pod.uid().to_owned(),
            node: node.clone(),
            netns: pod.netns().clone(),
            spec: template["spec"].clone(),
            host: Vec::new(),
            directory,
            home,
        };
        let process = sandbox.made(self)?.start(self, "controller")?;
        let controller = Controller::adopt(self, process, node.netns().clone(), ip);
        Ok(ControllerPod { pod, controller })
    }
}
