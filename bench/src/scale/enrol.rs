//! How long a new pod is not captured: pods whose process dials before the cluster knows of them, then their Pod objects with
//! an address; from the API server's answer to that until the first connection that the kernel marks, and until the
//! pod is served.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use weft_tests::lab::{AgentOptions, Lab, NAMESPACE};
use weft_tests::wait;

use super::probe::monotonic;
use super::report::quantile;
use super::stage::{ensure_listens, instrument};
use crate::machine::Machine;

/// Where the server listens.
const PORT: u16 = 8080;
/// Time between two pods: what one leaves behind is not the next one's.
const PAUSE: Duration = Duration::from_millis(200);

/// What was found; times in milliseconds, one for each pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EnrolReport {
    /// Where and of what.
    pub machine: Machine,
    /// From the API server's answer to the pod's address until its connections are captured.
    pub captured: Vec<f64>,
    /// Until it is served: captured, with a certificate, and open to tunnels.
    pub served: Vec<f64>,
}

/// Enrols so many pods one after another on a node whose agent runs.
///
/// # Errors
/// When a part does not start, or a pod is not enrolled.
pub fn enrol(pods: usize, say: &dyn Fn(&str)) -> Result<EnrolReport> {
    let mut report = EnrolReport { machine: Machine::now(), ..EnrolReport::default() };
    say("starting a cluster of two nodes");
    let lab = Lab::cluster("enrol")?;
    let (near, far) = (lab.node("near")?, lab.node("far")?);
    let server = lab.pod(&far, "server").create()?;
    let listen = format!("0.0.0.0:{PORT}");
    let process = server.spawn(&lab, "serve", &[&instrument()?, "serve", "--listen", &listen, "--name", "server"])?;
    wait::until("the server to listen", wait::DEADLINE, || ensure_listens(&server))?;
    let to = lab.service("echo").port(80, PORT).pods(&[&server]).create()?.v4().to_string();
    lab.label_namespace(NAMESPACE, true)?;
    for node in [&near, &far] {
        lab.start_agent(node, AgentOptions::default())?;
    }
    lab.wait_live(&server)?;
    say(&format!("enrolling {pods} pods"));
    for number in 0..pods {
        let pod = lab.pod(&near, &format!("new-{number}")).hidden().create()?;
        let dialling = pod.spawn(&lab, "dial", &[&instrument()?, "dial", "--to", &to])?;
        wait::until("the pod to dial", wait::DEADLINE, || {
            ensure!(dialling.log().contains("dials"), "{}", dialling.log());
            Ok(())
        })?;
        lab.reveal(&pod)?;
        let written = monotonic()?;
        lab.wait_live(&pod)?;
        let served = monotonic()?;
        let marked = wait::until("the pod's connections to be captured", wait::DEADLINE, || {
            let log = dialling.log();
            let marked = log.lines().find_map(|line| line.strip_suffix(" marked")?.parse::<u64>().ok());
            marked.with_context(|| format!("it printed {log}"))
        })?;
        // It may come before the answer has: then nothing was waited for.
        report.captured.push(marked.saturating_sub(written) as f64 / 1e6);
        report.served.push(served.saturating_sub(written) as f64 / 1e6);
        lab.delete_pod(&pod)?;
        std::thread::sleep(PAUSE);
    }
    process.kill()?;
    if let Err(problem) = lab.finish() {
        say(&format!("taking it down: {problem:#}"));
    }
    Ok(report)
}

impl EnrolReport {
    /// As text.
    #[must_use]
    pub fn render(&self) -> String {
        let line = |what: &str, times: &[f64]| {
            format!(
                "  {what:<52}p50 {:.1} ms, p99 {:.1} ms, most {:.1} ms",
                quantile(times, 0.5),
                quantile(times, 0.99),
                quantile(times, 1.0)
            )
        };
        [
            format!("{}, commit {}: {} pods", self.machine.began, self.machine.commit, self.captured.len()),
            line("from a pod's address to its connections captured", &self.captured),
            line("from there until it is served", &self.served),
        ]
        .join("\n")
            + "\n"
    }
}
