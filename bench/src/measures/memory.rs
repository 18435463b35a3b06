//! Memory of a subject's proxies: at rest, and what each of many idle connections adds.
//!
//! Resident memory of the processes, all of a subject's added up; of what connections add, heap and stacks, for more code
//! is in memory too once it runs. What the kernel keeps for the sockets is the same for every pair of proxies and not in it.

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

/// How often memory is looked at while it settles, how often in a row it has to be the same, and how often at most.
const LOOK: Duration = Duration::from_secs(1);
const SAME: usize = 3;
const LOOKS: usize = 20;

/// What a process holds, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Resident {
    /// All of it, code of files and mapped memory of the kernel too.
    all: u64,
    /// What is its own: heap and stacks.
    own: u64,
}

/// What is resident in each of the cgroups.
fn resident_in(cgroups: &[impl AsRef<Path>]) -> Result<Vec<Resident>> {
    let of = |cgroup: &Path| {
        cgroup::members(cgroup).into_iter().map(resident).try_fold(Resident::default(), |sum, process| {
            process.map(|process| Resident { all: sum.all + process.all, own: sum.own + process.own })
        })
    };
    cgroups.iter().map(|cgroup| of(cgroup.as_ref())).collect()
}

/// What is resident once that no longer changes, or hardly: whoever has just started may still be about to give something
/// back, and whoever gives back what it does not use holds now more, now less. The median of `watch` looks after that.
fn at_rest(cgroups: &[impl AsRef<Path>], watch: usize) -> Result<Vec<Resident>> {
    let mut seen = vec![resident_in(cgroups)?];
    let look = |seen: &mut Vec<Vec<Resident>>| -> Result<()> {
        std::thread::sleep(LOOK);
        seen.push(resident_in(cgroups)?);
        Ok(())
    };
    for _ in 0..LOOKS {
        look(&mut seen)?;
        if seen.len() >= SAME && seen[seen.len() - SAME..].iter().all(|one| Some(one) == seen.last()) {
            break;
        }
    }
    let mut watched = Vec::new();
    for _ in 0..watch {
        look(&mut watched)?;
    }
    let watched = if watched.is_empty() { seen.split_off(seen.len() - 1) } else { watched };
    Ok((0..cgroups.len())
        .map(|cgroup| {
            let mut resident: Vec<Resident> = watched.iter().map(|look| look[cgroup]).collect();
            resident.sort_by_key(|one| one.all);
            resident[resident.len() / 2]
        })
        .collect())
}

/// A client with its connections open: it ends when this goes.
pub struct Held(Process);

impl Drop for Held {
    fn drop(&mut self) {
        // One that has ended by itself is noticed by the lab.
        let _ = self.0.kill();
    }
}

/// Opens `count` connections, and yields what they add to heap and stacks at rest, which is looked at `watch` times.
///
/// # Errors
/// When the client does not open them.
pub fn idle(lab: &Lab, subject: &Subject, arguments: &[&str], count: usize, watch: usize) -> Result<(Held, Outcome)> {
    let sum = |of: fn(&Resident) -> u64, resident: &[Resident]| resident.iter().map(of).sum::<u64>() as f64;
    let rest = at_rest(&subject.proxies, watch)?;
    let largest = rest.iter().map(|one| one.all).max().unwrap_or_default();
    let command =
        load(&[&["idle", "--to", &subject.to.to_string(), "--count", &count.to_string()], arguments].concat())?;
    let (process, _) = subject.client.spawn_apart(lab, "load", &command)?;
    let held = Held(process);
    let mut outcome = opened(&held.0)?;
    let open = outcome.values.get("open").copied().unwrap_or_default();
    let with = resident_in(&subject.proxies)?;
    outcome.set("rest_mb", sum(|one| one.all, &rest) / 1e6);
    outcome.set("rest_largest_mb", largest as f64 / 1e6);
    outcome.set("idle_kb", (sum(|one| one.own, &with) - sum(|one| one.own, &rest)) / open / 1000.0);
    Ok((held, outcome))
}

fn opened(process: &Process) -> Result<Outcome> {
    wait::until("the connections to open", OPENING, || match (said(process), process.exited()) {
        (Some(outcome), _) => Ok(Some(outcome)),
        (None, Some(_)) => Ok(None),
        (None, None) => bail!("it has not said so"),
    })?
    .ok_or_else(|| anyhow::anyhow!("{}", process.log().trim().to_owned()))
}

fn resident(pid: i32) -> Result<Resident> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let bytes = |name: &str| -> Result<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kilobytes: u64 = line.and_then(|line| line.split_whitespace().next()).unwrap_or("0").parse()?;
        Ok(kilobytes * 1024)
    };
    Ok(Resident { all: bytes("VmRSS:")?, own: bytes("RssAnon:")? })
}
