//! What a run found, as JSON and as text, and the bars of the project's plan.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::{Settings, Size, Written};
use crate::machine::Machine;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ScaleReport {
    /// Where and of what.
    pub machine: Machine,
    /// How.
    pub settings: Settings,
    /// Objects the API server held at the start, and their bytes of JSON.
    pub objects: usize,
    /// See `objects`.
    pub bytes: usize,
    /// Seconds from the agent's start until it was ready.
    pub first_sync: f64,
    /// The most memory that was resident until then.
    pub memory_start: u64,
    /// Resident once nothing had happened for a while.
    pub memory_settled: u64,
    /// The most that was resident in the whole run.
    pub memory_peak: u64,
    /// Resident at the end.
    pub memory_after: u64,
    /// Kernel memory of its eBPF maps, in bytes.
    pub maps: u64,
    /// Kernel memory of its eBPF programs, in bytes.
    pub programs: u64,
    /// The share of one core used while nothing happened.
    pub cpu_idle: f64,
    /// The share of one core used while endpoints changed.
    pub cpu_churn: f64,
    /// The changes of that time.
    pub churn: Written,
    /// Snapshots the agent made of them.
    pub generations: f64,
    /// The changes while those of one Service were timed.
    pub churn_timed: Written,
    /// Milliseconds from sending a change to the first connection by it.
    pub from_sent: Vec<f64>,
    /// From the API server's answer.
    pub from_accepted: Vec<f64>,
    /// What the agent found wrong with the objects.
    pub problems: String,
}

/// One bar.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Bar {
    /// What is asked for.
    pub name: &'static str,
    /// What was found.
    pub found: f64,
    /// The most it may be.
    pub most: f64,
    /// Of what.
    pub unit: &'static str,
}

impl Bar {
    /// Whether it is met.
    #[must_use]
    pub fn met(&self) -> bool {
        self.found <= self.most
    }
}

impl Default for Settings {
    fn default() -> Self {
        let size = Size { services: 10_000, replicas: 5, nodes: 100, namespaces: 100 };
        Self { size, rate: 500, window: std::time::Duration::from_secs(20), changes: 200, local: 0 }
    }
}

/// The value below which a share of all lies.
pub(super) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(at.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

const MB: f64 = 1e6;

impl ScaleReport {
    /// The bars.
    #[must_use]
    pub fn bars(&self) -> Vec<Bar> {
        vec![
            Bar { name: "peak memory", found: self.memory_peak as f64 / MB, most: 60.0, unit: "MB" },
            Bar { name: "CPU while endpoints change", found: self.cpu_churn * 100.0, most: 10.0, unit: "% of a core" },
            Bar {
                name: "a change in the data path, p99",
                found: quantile(&self.from_accepted, 0.99),
                most: 50.0,
                unit: "ms",
            },
            Bar { name: "first sync", found: self.first_sync, most: 5.0, unit: "s" },
        ]
    }

    /// As text.
    #[must_use]
    pub fn render(&self) -> String {
        let mut out = String::new();
        let (size, machine) = (&self.settings.size, &self.machine);
        let _ = writeln!(
            out,
            "{}, commit {}, {} CPUs ({}), Linux {}",
            machine.began, machine.commit, machine.cpus, machine.cpu, machine.kernel
        );
        let _ = writeln!(
            out,
            "{} pods, {} of them beside the agent and in the mesh, {} services with {} endpoints each, {} nodes; {} objects, {:.0} MB of JSON",
            size.pods(),
            self.settings.local + 1,
            size.services,
            size.replicas,
            size.nodes,
            self.objects,
            self.bytes as f64 / MB
        );
        let mb = |bytes: u64| format!("{:.1} MB", bytes as f64 / MB);
        let ms = |values: &[f64]| {
            format!(
                "p50 {:.1} ms, p99 {:.1} ms, most {:.1} ms, of {}",
                quantile(values, 0.5),
                quantile(values, 0.99),
                quantile(values, 1.0),
                values.len()
            )
        };
        let churn = |written: &Written| format!("{:.0}/s, {} failed", written.rate(), written.failed);
        for (name, value) in [
            ("first sync", format!("{:.2} s", self.first_sync)),
            ("resident, most until ready", mb(self.memory_start)),
            ("resident, settled", mb(self.memory_settled)),
            ("resident, most of all", mb(self.memory_peak)),
            ("resident, at the end", mb(self.memory_after)),
            ("kernel memory of its maps", mb(self.maps)),
            ("kernel memory of its programs", mb(self.programs)),
            ("CPU, nothing changes", format!("{:.2} % of a core", self.cpu_idle * 100.0)),
            ("CPU, endpoints change", format!("{:.2} % of a core", self.cpu_churn * 100.0)),
            ("changes then", churn(&self.churn)),
            ("snapshots of them", format!("{:.0}", self.generations)),
            ("from acceptance to connection", ms(&self.from_accepted)),
            ("from sending it", ms(&self.from_sent)),
            ("changes meanwhile", churn(&self.churn_timed)),
        ] {
            let _ = writeln!(out, "  {name:<31}{value}");
        }
        for bar in self.bars() {
            let word = if bar.met() { "met    " } else { "NOT MET" };
            let _ = writeln!(out, "  {word}  {:<32}{:>7.2}  asked ≤ {} {}", bar.name, bar.found, bar.most, bar.unit);
        }
        if !self.problems.is_empty() {
            let _ = writeln!(out, "  the agent says: {}", self.problems);
        }
        out
    }

    /// Writes it as JSON; yields where.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, directory: &Path) -> Result<PathBuf> {
        std::fs::create_dir_all(directory)?;
        let path = directory.join("scale.json");
        std::fs::write(&path, serde_json::to_string_pretty(self)?).with_context(|| path.display().to_string())?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_of_the_ninety_ninth_of_a_hundred() {
        let from_accepted: Vec<f64> = (1..=100).map(f64::from).collect();
        let report = ScaleReport { from_accepted, first_sync: 5.0, memory_peak: 60_000_001, ..ScaleReport::default() };
        let bars = report.bars();
        assert!((bars[2].found - 99.0).abs() < 1e-9 && !bars[2].met());
        assert!(bars[3].met() && !bars[0].met());
        // Nothing measured is nothing met.
        assert!(!ScaleReport::default().bars()[2].met());
    }
}
