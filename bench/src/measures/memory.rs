//! Memory of a subject's proxies: at rest, and what each of many idle connections adds.
//!
//! Resident memory of the processes, all of a subject's added up. What the kernel keeps for the sockets is the same for
//! every pair of proxies and not in it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use weft_tests::lab::{Lab, Process, cgroup};
use weft_tests::wait;

use super::run::{load, said};
use crate::load::Outcome;
use crate::subjects::Subject;

/// Time the connections get to open: two hundred handshakes a second.
const OPENING: Duration = Duration::from_secs(90);

/// Bytes resident in each of the cgroups.
fn resident_in(cgroups: &[impl AsRef<Path>]) -> Result<Vec<u64>> {
    let of = |cgroup: &Path| cgroup::members(cgroup).into_iter().map(resident).sum();
    cgroups.iter().map(|cgroup| of(cgroup.as_ref())).collect()
}

/// Opens `count` connections, and yields what they add to `rest` bytes at rest.
///
/// # Errors
/// When the client does not open them.
pub fn idle(lab: &Lab, subject: &Subject, count: usize) -> Result<Outcome> {
    let rest = resident_in(&subject.proxies)?;
    let largest = rest.iter().copied().max().unwrap_or_default();
    let rest: u64 = rest.iter().sum();
    let command = load(&["idle", "--to", &subject.to.to_string(), "--count", &count.to_string()])?;
    let (process, _) = subject.client.spawn_apart(lab, "load", &command)?;
    let measured = opened(&process).and_then(|mut outcome| {
        let open = outcome.values.get("open").copied().unwrap_or_default();
        let with: u64 = resident_in(&subject.proxies)?.iter().sum();
        outcome.set("rest_mb", rest as f64 / 1e6);
        outcome.set("rest_largest_mb", largest as f64 / 1e6);
        outcome.set("idle_kb", (with as f64 - rest as f64) / open / 1000.0);
        Ok(outcome)
    });
    process.kill()?;
    measured
}

fn opened(process: &Process) -> Result<Outcome> {
    wait::until("the connections to open", OPENING, || match (said(process), process.exited()) {
        (Some(outcome), _) => Ok(Some(outcome)),
        (None, Some(_)) => Ok(None),
        (None, None) => bail!("it has not said so"),
    })?
    .ok_or_else(|| anyhow::anyhow!("{}", process.log().trim().to_owned()))
}

fn resident(pid: i32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes: u64 = line.and_then(|line| line.split_whitespace().next()).unwrap_or("0").parse()?;
    Ok(kilobytes * 1024)
}
