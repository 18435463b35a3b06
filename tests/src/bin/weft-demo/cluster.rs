//! What there is to see only in a cluster: the installation and its rights, pods as the API server shows them, and who
//! issues certificates.

use anyhow::{Context, Result, ensure};
use weft_tests::lab::{AgentPod, ApiServer, ControllerPod, Lab, NAMESPACE, Pod, Process};
use weft_tests::wait;

use super::screen::Screen;

/// `SYS_ADMIN`, `SYS_PTRACE` and `NET_ADMIN`, as `/proc/PID/status` counts them.
const OF_AGENTS: u64 = 1 << 21 | 1 << 19 | 1 << 12;

/// The pods the shipped manifests ask for.
pub(crate) struct Installation {
    controllers: Vec<ControllerPod>,
    agents: Vec<AgentPod>,
}

fn api(lab: &Lab) -> Result<&ApiServer> {
    lab.api().context("a lab without an API server")
}

/// Labels the pods' namespace, as a person does.
pub(crate) fn label(lab: &Lab, meshed: bool) -> Result<()> {
    let label = if meshed { "weft.dev/mesh=enabled" } else { "weft.dev/mesh-" };
    api(lab)?.kubectl(&["label", "namespace", NAMESPACE, label]).map(drop)
}

/// Shows how `pods` stand, and checks it: `status` is what their agents are to have written.
fn show_pods(screen: &mut Screen, lab: &Lab, pods: [&Pod; 3], status: &str) -> Result<()> {
    let columns =
        r"custom-columns=POD:.metadata.name,NODE:.spec.nodeName,STATUS:.metadata.annotations.weft\.dev/status";
    let text = wait::until(&format!("every pod to be {status}"), wait::DEADLINE, || {
        let text = api(lab)?.kubectl(&["get", "pods", "--namespace", NAMESPACE, "--output", columns])?;
        for pod in pods {
            let row = [pod.name(), pod.node().name(), status];
            ensure!(text.lines().any(|line| line.split_whitespace().eq(row)), "{} is not:\n{text}", pod.name());
        }
        Ok(text)
    })?;
    screen.show(&format!("$ kubectl get pods, with weft.dev/status\n{text}"));
    Ok(())
}

/// Shows that the API server says nothing more of the mesh.
pub(crate) fn show_left(screen: &mut Screen, lab: &Lab, pods: [&Pod; 3]) -> Result<()> {
    show_pods(screen, lab, pods, "<none>")
}

impl Installation {
    /// Starts what `deploy/weft.yaml` asks for, and shows it and what the label would break.
    pub(crate) fn show(screen: &mut Screen, lab: &Lab) -> Result<Self> {
        screen.step("kubectl apply -f deploy/weft.yaml: the controller, and an agent and its holder on each node");
        let installation = Self { controllers: lab.start_deployment()?, agents: lab.start_daemonset()? };
        let Self { controllers, agents } = &installation;
        for agent in agents {
            ensure!(capabilities(agent.agent().process())? == OF_AGENTS, "an agent has other capabilities");
            ensure!(capabilities(agent.holder())? == 0, "a holder has capabilities");
        }
        for controller in controllers {
            ensure!(capabilities(controller.controller().process())? == 0, "a controller has capabilities");
        }
        let counts = format!("{} controllers and {} agents are ready", controllers.len(), agents.len());
        screen.saw(
            "installed",
            format!("{counts}; of capabilities agents hold SYS_ADMIN, SYS_PTRACE and NET_ADMIN, all others none"),
        );
        screen.step("What would the label break?");
        let said = api(lab)?.weft(&["enrol", "--dry-run", NAMESPACE])?;
        ensure!(said.contains("3 pods in the mesh") && said.contains("nothing breaks"), "{said}");
        screen.show(&format!("$ weft enrol --dry-run {NAMESPACE}\n{said}"));
        screen.saw("judged", "nothing would break: no policy, probe or port is in the way".into());
        Ok(installation)
    }

    /// Shows how the API server shows the meshed pods.
    pub(crate) fn show_enrolled(&self, screen: &mut Screen, lab: &Lab, pods: [&Pod; 3]) -> Result<()> {
        show_pods(screen, lab, pods, "enrolled")
    }

    /// Shows who has signed the identities.
    pub(crate) fn show_issuer(&self, screen: &mut Screen) -> Result<()> {
        let count =
            |pod: &ControllerPod| Ok(pod.controller().metrics()?.sum("weft_controller_certificates_issued_total", &[]));
        let issued = self.controllers.iter().map(count).sum::<Result<f64>>()?;
        // Three service accounts, each on one node.
        ensure!(issued >= 3.0, "the controller has signed {issued} certificates");
        let embedded = self.agents.iter().find(|agent| agent.agent().state().join("ca").exists());
        ensure!(embedded.is_none(), "an agent has an authority of its own");
        screen.saw(
            "issuer",
            format!("{issued} certificates, all signed by the controller for pods of the asking agent's node"),
        );
        Ok(())
    }
}

/// What a process may do beyond what everybody may.
fn capabilities(process: &Process) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid()))?;
    let found = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    u64::from_str_radix(found.context("no capabilities in a status")?.trim(), 16).context("capabilities")
}
