//! CPU counters read at the two ends of a window.
//!
//! `cpu.stat` of a cgroup counts what its processes ran, in the kernel as well: a packet sent over a veth is received in
//! the sender's time, up to the socket it is for. What is left to `ksoftirqd` belongs to nobody and is read apart.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

/// A cgroup to read, under the name its time is reported by.
#[derive(Clone, Debug)]
pub struct Watch {
    /// Whose time it is: several cgroups of one name are added up.
    pub name: String,
    /// The cgroup's directory.
    pub cgroup: PathBuf,
}

impl std::str::FromStr for Watch {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, cgroup) = text.split_once('=').ok_or("not NAME=CGROUP")?;
        Ok(Self { name: name.to_owned(), cgroup: cgroup.into() })
    }
}

/// Microseconds used so far, by name; `ksoftirqd` is always among them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Used(BTreeMap<String, f64>);

impl Used {
    /// Reads all counters.
    #[must_use]
    pub fn read(watches: &[Watch]) -> Self {
        let mut used = BTreeMap::new();
        for watch in watches {
            *used.entry(watch.name.clone()).or_default() += usage(&watch.cgroup).unwrap_or_default();
        }
        used.insert("ksoftirqd".to_owned(), ksoftirqd());
        Self(used)
    }

    /// What was used since `before`, under `cpu.NAME_us`.
    pub fn since(&self, before: &Self) -> impl Iterator<Item = (String, f64)> {
        self.0.iter().map(|(name, after)| {
            let used = after - before.0.get(name).copied().unwrap_or_default();
            (format!("cpu.{name}_us"), used)
        })
    }
}

/// Microseconds the processes of a cgroup have used.
#[must_use]
pub fn usage(cgroup: &std::path::Path) -> Option<f64> {
    let stat = fs::read_to_string(cgroup.join("cpu.stat")).ok()?;
    stat.lines().find_map(|line| line.strip_prefix("usage_usec "))?.trim().parse().ok()
}

/// Time of all `ksoftirqd` threads; the first number of `schedstat` is nanoseconds on a CPU.
fn ksoftirqd() -> f64 {
    let Ok(processes) = fs::read_dir("/proc") else { return 0.0 };
    let threads = processes.flatten().filter(|process| {
        fs::read_to_string(process.path().join("comm")).is_ok_and(|name| name.starts_with("ksoftirqd/"))
    });
    let nanos = threads.filter_map(|thread| {
        let stat = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        stat.split(' ').next()?.parse::<f64>().ok()
    });
    nanos.sum::<f64>() / 1000.0
}
