//! `weft check --host`: whether this machine can be a node of the mesh. What the API server cannot tell of a node is looked at, and
//! what an agent does to the kernel is tried; no cluster is asked, and nothing is left.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use weft::config::cgroup2;
use weft::steer::{SteerConfig, Tried, Unclassified, trial};
use weft::sys::cgroup::is_bpffs;
use weft_control::install::check::{Finding, Grade, kernel};

use super::Output;

/// Where this machine's file systems are, by the same names and variables as an agent's.
#[derive(Debug, clap::Args)]
pub(super) struct HostArgs {
    /// With --host: the cgroup whose processes are to be steered [default: the root of the machine's cgroup2 hierarchy]
    #[arg(long, env = "WEFT_CGROUP", value_name = "DIR")]
    cgroup: Option<PathBuf>,
    /// With --host: the BPF file system
    #[arg(long, env = "WEFT_BPFFS", value_name = "DIR", default_value = "/sys/fs/bpf")]
    bpffs: PathBuf,
    /// With --host: where sysctls of pods are written
    #[arg(long, env = "WEFT_PROC_SYS", value_name = "DIR", default_value = "/proc/sys")]
    proc_sys: PathBuf,
}

/// Capabilities of an agent, by their numbers and names.
const CAPABILITIES: [(u32, &str); 3] = [(12, "NET_ADMIN"), (19, "SYS_PTRACE"), (21, "SYS_ADMIN")];
/// The beginning of the name of what is made for a trial; its process follows.
const MADE: &str = "weft-check-";

pub(super) fn findings(args: &HostArgs) -> anyhow::Result<Vec<Finding>> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut findings = kernel::findings(release.trim());
    let status = fs::read_to_string("/proc/self/status")?;
    let capable = capabilities(&status);
    let cgroup = cgroup2(args.cgroup.as_deref());
    let bpffs = bpffs(&args.bpffs);
    let whole = [&capable, &bpffs].iter().all(|finding| finding.grade == Grade::Well);
    findings.extend([capable, cgroup_finding(cgroup.as_deref()), bpffs]);
    let Some(cgroup) = cgroup.ok().filter(|_| whole) else {
        let what = "the eBPF programs were not tried";
        findings.push(Finding::remark(what, "mend what failed, and check again"));
        return Ok(findings);
    };
    findings.extend(tried(args, &cgroup)?);
    Ok(findings)
}

/// What is said, and whether something of it is wrong.
pub(super) fn told(findings: &[Finding], strict: bool) -> Output {
    let worst = if strict { Grade::Remark } else { Grade::Wrong };
    let failed = findings.iter().any(|finding| finding.grade >= worst);
    let text = findings.iter().map(|finding| format!("{finding}\n")).collect();
    Output { text, code: if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS } }
}

fn capabilities(status: &str) -> Finding {
    let held = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let held = held.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    let lacking: Vec<_> =
        CAPABILITIES.into_iter().filter(|(number, _)| held & 1 << number == 0).map(|(_, name)| name).collect();
    if lacking.is_empty() {
        return Finding::well("this process has an agent's capabilities");
    }
    let what = format!("this process lacks the capabilities {}", lacking.join(", "));
    Finding::wrong(what, "check as root, in a container with the capabilities of the DaemonSet's agent")
}

fn cgroup_finding(cgroup: Result<&Path, &String>) -> Finding {
    match cgroup {
        Ok(path) => Finding::well(format!("cgroup2 is at {}", path.display())),
        Err(why) => Finding::wrong(
            format!("there is no cgroup2: {why}"),
            "boot with systemd.unified_cgroup_hierarchy=1, or mount -t cgroup2 none /sys/fs/cgroup/unified beside cgroup1",
        ),
    }
}

fn bpffs(path: &Path) -> Finding {
    let how = format!(
        "mount -t bpf bpf {0}, at every boot (systemd does); in a container, mount the host's at {0}",
        path.display()
    );
    match is_bpffs(path) {
        Ok(true) => Finding::well(format!("a BPF file system is at {}", path.display())),
        Ok(false) => Finding::wrong(format!("{} is no BPF file system", path.display()), how),
        Err(error) => Finding::wrong(format!("{} cannot be looked at: {error}", path.display()), how),
    }
}

/// What the kernel did of what an agent asks of it.
fn tried(args: &HostArgs, cgroup: &Path) -> anyhow::Result<Vec<Finding>> {
    forget_the_dead(cgroup, &args.bpffs);
    let own = format!("{MADE}{}", std::process::id());
    let empty = match Made::at(cgroup.join(&own)) {
        Ok(made) => made,
        Err(error) => {
            let what =
                format!("the eBPF programs were not tried: no cgroup can be made below {} ({error})", cgroup.display());
            return Ok(vec![Finding::remark(what, "check where it is mounted writable, as `weft check --pre` says")]);
        }
    };
    let state = [std::env::temp_dir(), "/dev/shm".into()].into_iter().find_map(|below| Made::at(below.join(&own)).ok());
    let state = state.ok_or_else(|| anyhow::anyhow!("no directory can be made in $TMPDIR or /dev/shm"))?;
    let config = SteerConfig {
        bpffs: args.bpffs.clone(),
        instance: own,
        cgroup: empty.0.clone(),
        state: state.0.clone(),
        proc_sys: args.proc_sys.clone(),
        unclassified: Unclassified::Open,
        holder: None,
        destinations: 1024,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(trial(config)).into_iter().map(finding).collect())
}

fn finding(tried: Tried) -> Finding {
    let Tried { what, outcome, lost } = tried;
    let Err(error) = outcome else { return Finding::well(format!("the kernel {what}")) };
    let what = format!("the kernel: {what}: {error}");
    match lost {
        Some(lost) => {
            Finding::remark(what, format!("without it, {lost}; a newer kernel, or one built with it, has it"))
        }
        None => Finding::wrong(
            what,
            "a kernel of a current distribution has it (CONFIG_BPF_SYSCALL, CONFIG_CGROUP_BPF, CONFIG_INET, CONFIG_IP_MULTIPLE_TABLES); \
             lockdown=confidentiality forbids it",
        ),
    }
}

/// A directory that goes with this.
struct Made(PathBuf);

impl Made {
    fn at(path: PathBuf) -> std::io::Result<Self> {
        fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        // A cgroup's directory is empty for whoever removes it.
        let _ = fs::remove_dir(&self.0).or_else(|_| fs::remove_dir_all(&self.0));
    }
}

/// Removes what checks have left that were killed.
fn forget_the_dead(cgroup: &Path, bpffs: &Path) {
    for directory in [cgroup.to_owned(), bpffs.join("weft"), std::env::temp_dir(), "/dev/shm".into()] {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let process = name.to_str().and_then(|name| name.strip_prefix(MADE)).map(|id| Path::new("/proc").join(id));
            if process.is_some_and(|process| !process.exists()) {
                drop(Made(entry.path()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_off_the_status() {
        assert_eq!(capabilities("CapEff:\t000001ffffffffff\n").grade, Grade::Well);
        let some = capabilities("CapPrm:\t0\nCapEff:\t0000000000001000\n");
        assert_eq!(
            (some.grade, some.what.as_str()),
            (Grade::Wrong, "this process lacks the capabilities SYS_PTRACE, SYS_ADMIN")
        );
    }

    #[test]
    fn what_is_not_there_has_a_remedy() {
        for finding in [bpffs(Path::new("/proc")), bpffs(Path::new("/none")), cgroup_finding(Err(&"none".to_owned()))] {
            assert!(finding.grade == Grade::Wrong && finding.remedy.contains("mount"), "{finding}");
        }
    }
}
