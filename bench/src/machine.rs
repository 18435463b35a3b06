//! Where and of what a run was: read from the kernel and from git while it runs, never from a file that could be old.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::load::watch;

/// The machine, the moment and the commit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// When the run began, UTC.
    pub began: String,
    /// The commit, with `+` if the tree had changes; empty outside a clone.
    pub commit: String,
    /// The kernel's release.
    pub kernel: String,
    /// The CPU's name.
    pub cpu: String,
    /// CPUs online.
    pub cpus: usize,
    /// Memory, in bytes.
    pub memory: u64,
    /// The share of all CPUs' time during the run that went to anything but the run: what else the machine was doing.
    pub others: f64,
    /// The versions of what was measured beside Weft.
    pub versions: Vec<(String, String)>,
}

impl Machine {
    /// Looks.
    #[must_use]
    pub fn now() -> Self {
        let cpus = read("/proc/cpuinfo");
        Self {
            began: moment(),
            commit: commit(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            cpu: field(&cpus, "model name").unwrap_or("unknown").to_owned(),
            cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory: field(&read("/proc/meminfo"), "MemTotal")
                .and_then(|text| text.split(' ').next()?.parse::<u64>().ok())
                .unwrap_or_default()
                * 1024,
            others: 0.0,
            versions: Vec::new(),
        }
    }

    /// Whether so much else ran that figures are not to be quoted.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.others > 0.05
    }
}

/// CPU time used so far, to tell what the run used from what the machine did.
#[derive(Clone, Debug)]
pub struct Usage {
    at: Instant,
    busy: f64,
    ours: f64,
}

impl Usage {
    /// Reads it; `ours` is the cgroup everything of the run is in.
    #[must_use]
    pub fn now(ours: &Path) -> Self {
        let ours = watch::usage(ours).unwrap_or_default() / 1e6;
        Self { at: Instant::now(), busy: busy(), ours }
    }

    /// The share of `cpus` CPUs' time since then that was not ours.
    #[must_use]
    pub fn others(&self, now: &Self, cpus: usize) -> f64 {
        let all = (now.at - self.at).as_secs_f64() * cpus as f64;
        ((now.busy - self.busy) - (now.ours - self.ours)).max(0.0) / all.max(f64::MIN_POSITIVE)
    }
}

/// Seconds all CPUs were busy since boot: what `/proc/stat` counts, in hundredths, without idling and waiting for disks.
fn busy() -> f64 {
    let stat = read("/proc/stat");
    let fields = stat.lines().next().unwrap_or_default().split_whitespace().skip(1).take(8);
    let hundredths = fields.map(|field| field.parse::<f64>().unwrap_or_default()).enumerate();
    hundredths.filter(|(place, _)| ![3, 4].contains(place)).map(|(_, time)| time).sum::<f64>() / 100.0
}

fn moment() -> String {
    let now = OffsetDateTime::now_utc().replace_nanosecond(0);
    now.ok().and_then(|now| now.format(&Rfc3339).ok()).unwrap_or_default()
}

fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short", "HEAD"]) else { return String::new() };
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|changes| !changes.is_empty());
    format!("{commit}{}", if changed { "+" } else { "" })
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The first `name: value` of a file of such lines.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name))?;
    Some(line.split_once(':')?.1.trim())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_others_used_is_what_was_busy_and_not_ours() {
        let at = Instant::now();
        let before = Usage { at, busy: 100.0, ours: 10.0 };
        let after = Usage { at: at + Duration::from_secs(10), busy: 115.0, ours: 20.0 };
        assert!((before.others(&after, 2) - 0.25).abs() < 1e-9);
        // Two clocks that are read one after the other may disagree a little.
        assert!(before.others(&Usage { busy: 109.9, ..after }, 2).abs() < 1e-9);
    }

    #[test]
    fn fields_of_the_kernels_files() {
        let text = "processor\t: 0\nmodel name\t: A: B\nMemTotal:       16384 kB\n";
        assert_eq!(field(text, "model name"), Some("A: B"));
        assert_eq!(field(text, "MemTotal").and_then(|text| text.split(' ').next()), Some("16384"));
        assert_eq!(field(text, "bogomips"), None);
    }
}
