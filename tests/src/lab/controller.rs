//! Replicas of `weft controller`: real processes with the rights of `deploy/controller-rbac.yaml`, on the network of the API
//! server.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::cluster::ADDRESS;
use super::process::Place;
use super::{Lab, NetNs, Process, binary, cgroup};
use crate::metrics::Metrics;
use crate::wait;

/// Metrics of the first replica; the next has the next port.
const METRICS_PORT: u16 = 15030;
/// Where the Lease of the one that writes is.
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/weft-system/leases/weft-controller";

/// A replica of the controller. Clones are the same.
#[derive(Clone)]
pub struct Controller {
    process: Process,
    network: NetNs,
    metrics: u16,
}

impl Controller {
    /// Its process.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Its metrics.
    ///
    /// # Errors
    /// When the port does not answer.
    pub fn metrics(&self) -> Result<Metrics> {
        let port = self.metrics;
        let text = self.network.run(move || crate::metrics::get((ADDRESS, port).into(), "/metrics"))?;
        Ok(Metrics::parse(&text))
    }

    /// Whether it is the one that writes.
    ///
    /// # Errors
    /// As [`Self::metrics`].
    pub fn leads(&self) -> Result<bool> {
        Ok(self.metrics()?.sum("weft_controller_leader", &[]) > 0.0)
    }
}

impl Lab {
    /// Starts a replica of the controller, and waits until it is ready.
    ///
    /// # Errors
    /// When it ends, or does not become ready.
    pub fn start_controller(&self) -> Result<Controller> {
        let api = self.api().context("a lab without an API server")?;
        let number = self.contents().controllers.len();
        let name = format!("controller-{number}");
        let metrics = METRICS_PORT + u16::try_from(number)?;
        let own_cgroup = self.run.cgroup().join(&name);
        cgroup::create(&own_cgroup)?;
        let command: Vec<String> = [
            &binary("weft")?.display().to_string(),
            "controller",
            "--kubeconfig",
            &api.controllers().display().to_string(),
            "--name",
            &name,
            "--metrics-address",
            &format!("{ADDRESS}:{metrics}"),
            // Those of a lab that issue are begun apart, with their own rights.
            "--issuer-address",
            "off",
        ]
        .map(str::to_owned)
        .into();
        let place = Place { name: name.clone(), netns: &self.fabric, cgroup: &own_cgroup, log: self.log_path(&name) };
        let process = Process::start(place, &command)?;
        let controller = Controller { process, network: self.fabric.clone(), metrics };
        self.contents().controllers.push(controller.clone());
        wait::until(&format!("{name} to be ready"), super::agent::READY, || {
            if let Some(status) = controller.process.exited() {
                bail!("it ended with {status}: {}", controller.process.log());
            }
            controller.network.run(move || crate::metrics::get((ADDRESS, metrics).into(), "/readyz")).map(drop)
        })?;
        Ok(controller)
    }

    /// The replica that writes.
    ///
    /// # Errors
    /// When none does.
    pub fn leader(&self) -> Result<Controller> {
        let controllers = self.contents().controllers.clone();
        let writes = |one: &Controller| one.process.exited().is_none() && one.leads().unwrap_or_default();
        controllers.into_iter().find(writes).context("no replica writes")
    }

    /// The Lease of the one that writes, as the API server has it.
    ///
    /// # Errors
    /// When there is none.
    pub fn lease(&self) -> Result<Value> {
        self.api().context("a lab without an API server")?.get(LEASE)
    }
}
