//! Replicas of `weft controller`: real processes with the rights of `deploy/controller-rbac.yaml`, on the network of the API
//! server.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::api_server::ADDRESS;
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
    /// Where its metrics are.
    metrics: SocketAddr,
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
        self.get("/metrics").map(|text| Metrics::parse(&text))
    }

    fn get(&self, path: &'static str) -> Result<String> {
        let address = self.metrics;
        self.network.run(move || crate::metrics::get(address, path))
    }

    /// A replica that is running, wherever it was started, among those of its lab.
    pub(super) fn adopt(lab: &Lab, process: Process, network: NetNs, metrics: SocketAddr) -> Self {
        let controller = Self { process, network, metrics };
        lab.contents().controllers.push(controller.clone());
        controller
    }

    /// Waits until it is ready.
    pub(super) fn wait_ready(&self) -> Result<()> {
        wait::until(&format!("{} to be ready", self.process.name()), super::agent::READY, || {
            if let Some(status) = self.process.exited() {
                bail!("it ended with {status}: {}", self.process.log());
            }
            self.get("/readyz").map(drop)
        })
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
        let controller = Controller::adopt(self, process, self.fabric.clone(), (ADDRESS, metrics).into());
        controller.wait_ready()?;
        Ok(controller)
    }

    /// Has the replicas that run end by themselves.
    pub(super) fn end_controllers(&self) -> Result<()> {
        let controllers = self.contents().controllers.clone();
        for process in controllers.iter().map(Controller::process).filter(|process| process.exited().is_none()) {
            let status = process.terminate(super::teardown::DEADLINE)?;
            ensure!(status.success(), "{} ended with {status} on SIGTERM", process.name());
        }
        Ok(())
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
