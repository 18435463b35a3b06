//! Pods' network namespaces, found from `/proc`: needs the host's PID namespace and the right to look into others'
//! processes (CAP_SYS_PTRACE).
//!
//! Of a pod's processes those in the agent's own network namespace do not count (conmon of CRI-O runs in the pod's cgroup
//! and in the host's network, and so does all of a hostNetwork pod). Of the rest the oldest is the sandbox's, or of the
//! first container where the runtime keeps no sandbox process; what it has made since (a container engine inside the pod
//! makes network namespaces of its own) is younger.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::cgroup::pod_uid;

/// All processes are looked at no more often than this, and no more than a tenth of the time.
const SCAN_EVERY: Duration = Duration::from_millis(20);
/// Times its own length that a look is not repeated.
const SHARE: u32 = 10;

/// Finds pods among the processes of the machine.
#[derive(Debug)]
pub struct Processes {
    proc: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    found: HashMap<String, Found>,
    /// When the next look may be.
    next: Option<Instant>,
}

/// A process in a pod's network namespace.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Found {
    pid: u32,
    /// The namespace, as the kernel names it (`net:[4026532281]`).
    netns: PathBuf,
    /// When it started, in ticks since the machine did.
    started: u64,
}

impl Default for Processes {
    fn default() -> Self {
        Self::of("/proc".into())
    }
}

impl Processes {
    fn of(proc: PathBuf) -> Self {
        Self { proc, state: Mutex::default() }
    }

    /// The path of a pod's network namespace, by way of one of its processes; `None` while it has none.
    #[must_use]
    pub fn path(&self, uid: &str) -> Option<PathBuf> {
        self.find(uid).ok()
    }

    /// The same.
    ///
    /// # Errors
    /// It is not known: with the moment of the next look if this was too soon for one, without if it was looked for just now.
    pub fn find(&self, uid: &str) -> Result<PathBuf, Option<Instant>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let path = |found: &Found| self.proc.join(found.pid.to_string()).join("ns/net");
        let stands = |found: &&Found| self.place(found.pid).is_some_and(|(of, now)| of == uid && now == found.netns);
        if let Some(found) = state.found.get(uid).filter(stands) {
            return Ok(path(found));
        }
        let began = Instant::now();
        if let Some(next) = state.next.filter(|next| began < *next) {
            return Err(Some(next));
        }
        state.found = self.scan(&state.found);
        state.next = Some(Instant::now() + (began.elapsed() * SHARE).max(SCAN_EVERY));
        state.found.get(uid).map(path).ok_or(None)
    }

    /// Looks at every process. A pod stays where it was as long as any process of it is there.
    fn scan(&self, known: &HashMap<String, Found>) -> HashMap<String, Found> {
        let Ok(own) = fs::read_link(self.proc.join("self/ns/net")) else { return HashMap::new() };
        let mut found: HashMap<String, Found> = HashMap::new();
        let entries = fs::read_dir(&self.proc).into_iter().flatten().flatten();
        for pid in entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()) {
            let Some((uid, process)) = self.look(pid).filter(|(_, process)| process.netns != own) else { continue };
            let rank = |of: &Found| (known.get(&uid).is_none_or(|before| before.netns != of.netns), of.started, of.pid);
            if found.get(&uid).is_none_or(|other| rank(&process) < rank(other)) {
                found.insert(uid, process);
            }
        }
        found
    }

    /// The pod a process belongs to, and where it is; `None` for what is no pod's or has ended.
    fn look(&self, pid: u32) -> Option<(String, Found)> {
        let (uid, netns) = self.place(pid)?;
        Some((uid, Found { pid, netns, started: started(&self.proc.join(pid.to_string()))? }))
    }

    /// The pod a process belongs to, and the network namespace it is in.
    fn place(&self, pid: u32) -> Option<(String, PathBuf)> {
        let directory = self.proc.join(pid.to_string());
        let uid = pod_uid(&fs::read_to_string(directory.join("cgroup")).ok()?)?;
        Some((uid, fs::read_link(directory.join("ns/net")).ok()?))
    }
}

/// The 22nd field of `stat`; the second, the program's name, may hold anything.
fn started(process: &Path) -> Option<u64> {
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    const WEB: &str = "0b8f3c5e-7f0a-4c1b-9d2e-5a6b7c8d9e0f";
    const DB: &str = "7d1f2a3b-4c5d-4e6f-8a9b-0c1d2e3f4a5b";
    const HOST: &str = "c3d4e5f6-0718-4929-8a3b-4c5d6e7f8091";

    /// A `/proc` as a fixture describes it: `pid started netns`, and the lines of its `cgroup` indented below.
    fn proc(fixture: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        add(dir.path(), "self 1 1000\n    0::/\n");
        add(dir.path(), fixture);
        dir
    }

    fn add(proc: &Path, fixture: &str) {
        let mut process = PathBuf::new();
        for line in fixture.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
            if let Some(cgroup) = line.strip_prefix("    ") {
                let so_far = fs::read_to_string(process.join("cgroup")).unwrap_or_default();
                fs::write(process.join("cgroup"), format!("{so_far}{cgroup}\n")).unwrap();
                continue;
            }
            let [pid, started, netns] = line.split_whitespace().collect::<Vec<_>>()[..] else { panic!("{line}") };
            process = proc.join(pid);
            fs::create_dir_all(process.join("ns")).unwrap();
            symlink(format!("net:[{netns}]"), process.join("ns/net")).unwrap();
            let stat = format!("{pid} (a (strange) name) S {}{started} 0 0", "0 ".repeat(18));
            fs::write(process.join("stat"), stat).unwrap();
        }
    }

    fn pid_of(processes: &Processes, uid: &str) -> Option<String> {
        // Not behind the pause between two looks.
        processes.state.lock().unwrap().next = None;
        let path = processes.path(uid)?;
        Some(path.iter().rev().nth(2)?.to_string_lossy().into_owned())
    }

    #[test]
    fn every_layout_is_read() {
        for (name, fixture) in [
            ("containerd, systemd driver, v2", include_str!("fixtures/containerd-systemd-v2.txt")),
            ("containerd, cgroupfs driver, v1", include_str!("fixtures/containerd-cgroupfs-v1.txt")),
            ("containerd, hybrid", include_str!("fixtures/containerd-hybrid.txt")),
            ("containerd without, kubelet with systemd", include_str!("fixtures/containerd-mixed-drivers-v1.txt")),
            ("CRI-O, systemd driver, v2", include_str!("fixtures/crio-systemd-v2.txt")),
            ("CRI-O, cgroupfs driver, hybrid", include_str!("fixtures/crio-cgroupfs-hybrid.txt")),
            ("kind, v2", include_str!("fixtures/kind-v2.txt")),
            ("kind, v1", include_str!("fixtures/kind-v1.txt")),
        ] {
            let proc = proc(fixture);
            let processes = Processes::of(proc.path().to_owned());
            assert_eq!(pid_of(&processes, WEB).as_deref(), Some("201"), "{name}: the sandbox");
            assert_eq!(pid_of(&processes, DB).as_deref(), Some("301"), "{name}: the oldest of its own network");
            assert_eq!(pid_of(&processes, HOST), None, "{name}: a hostNetwork pod");
        }
    }

    #[test]
    fn a_pod_stays_where_it_was_while_any_process_of_it_is_there() {
        let cgroup = "    0::/kubepods/pod0b8f3c5e-7f0a-4c1b-9d2e-5a6b7c8d9e0f/4c9a\n";
        let proc = proc(&format!("201 10 2000\n{cgroup}202 20 2000\n{cgroup}203 15 3000\n{cgroup}"));
        let processes = Processes::of(proc.path().to_owned());
        assert_eq!(pid_of(&processes, WEB).as_deref(), Some("201"));
        fs::remove_dir_all(proc.path().join("201")).unwrap();
        // 203 is older, but in a namespace the pod has made since.
        assert_eq!(pid_of(&processes, WEB).as_deref(), Some("202"));
        fs::remove_dir_all(proc.path().join("202")).unwrap();
        assert_eq!(pid_of(&processes, WEB).as_deref(), Some("203"), "nobody is left in the old one");
        fs::remove_dir_all(proc.path().join("203")).unwrap();
        assert_eq!(pid_of(&processes, WEB), None);
        // A pid that is somebody else's by now.
        add(proc.path(), "201 90 2000\n    0::/system.slice/cron.service\n");
        assert_eq!(pid_of(&processes, WEB), None);
    }
}
