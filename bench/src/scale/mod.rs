//! What a big cluster costs an agent: an API server that holds it, the real controller, and one real agent on a node of
//! the lab, in a process of its own; first its start, then changes of endpoints.
//!
//! The API server is a double, which speaks HTTP/2 and TLS as a real one does. What it and the controller use is theirs;
//! they share the machine's CPUs with the agent, so its times are if anything too long.

mod churn;
mod crowd;
mod enrol;
mod maps;
mod objects;
pub mod probe;
mod report;
mod stage;

use std::time::Duration;

use anyhow::{Context, Result};

pub use churn::Written;
pub use crowd::{Crowd, CrowdReport, crowd};
pub use enrol::{EnrolReport, enrol};
pub use objects::Size;
pub use report::{Bar, ScaleReport};
use stage::Stage;

use crate::machine::Machine;

/// How to run.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Settings {
    /// The cluster.
    pub size: Size,
    /// Endpoint changes a second.
    pub rate: u32,
    /// How long the agent's CPU time is counted while endpoints change.
    pub window: Duration,
    /// Changes of one Service that are timed.
    pub changes: usize,
    /// Pods of the agent's own node that are in the mesh, beside the one that dials.
    pub local: usize,
}

/// Time changes go on before anything is counted.
const WARM_UP: Duration = Duration::from_secs(3);
/// Time an agent has been left alone after which its memory counts as settled.
const REST: Duration = Duration::from_secs(10);

/// Runs everything, saying what it is at.
///
/// # Errors
/// When a part does not start, or a timed change is not seen.
pub fn run(settings: &Settings, say: &dyn Fn(&str)) -> Result<ScaleReport> {
    let mut report = ScaleReport { machine: Machine::now(), settings: settings.clone(), ..ScaleReport::default() };
    say("making the cluster");
    let stage = Stage::set(settings, &mut report, say)?;
    let programs = maps::programs()?;
    say("starting the agent");
    let agent = stage.start_agent(&mut report)?;
    std::thread::sleep(REST);
    report.memory_settled = stage::memory(&agent, "VmRSS")?;
    report.maps = maps::held(agent.process().pid())?;
    report.programs = maps::programs()?.saturating_sub(programs);
    report.cpu_idle = stage.cpu_share(&agent, REST)?;
    say("changing endpoints");
    stage.churn(&agent, settings, &mut report)?;
    say("timing changes of one Service meanwhile");
    stage.time_changes(settings, &mut report)?;
    report.memory_peak = stage::memory(&agent, "VmHWM")?;
    report.memory_after = stage::memory(&agent, "VmRSS")?;
    report.problems = stage.problems(&agent).context("what the agent says")?;
    if let Err(problem) = stage.finish() {
        say(&format!("taking the stage down: {problem:#}"));
    }
    Ok(report)
}
