//! What the lab needs of the machine, tested before anything is built: a missing privilege is one message, not a page of
//! failed tests.

use std::fs;
use std::process::Command;

use anyhow::{Result, bail};

/// Whether this process is root.
pub(crate) fn is_root() -> bool {
    fs::read_to_string("/proc/self/status").is_ok_and(|status| {
        status.lines().any(|line| line.starts_with("Uid:") && line.split_whitespace().nth(2) == Some("0"))
    })
}

/// A command that runs as root: itself, or by sudo with the environment kept, so that nothing is built as root.
pub(crate) fn as_root(program: impl AsRef<std::ffi::OsStr>) -> Command {
    if is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.arg("--preserve-env=PATH,HOME,CARGO_HOME,RUSTUP_HOME,RUST_BACKTRACE").arg(program);
    command
}

/// Fails with every problem and its remedy when the lab could not run here.
pub(crate) fn demand() -> Result<()> {
    let mut problems = Vec::new();
    if !is_root() && !crate::shell::on_path("sudo") {
        problems.push("namespaces, cgroups and eBPF need root: run as root, or install sudo".to_owned());
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    if !mounts.lines().any(|line| line.split(' ').nth(2) == Some("cgroup2")) {
        problems.push("no cgroup2 is mounted: `mount -t cgroup2 none /sys/fs/cgroup`".to_owned());
    }
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !known.lines().any(|line| line.ends_with("\tbpf")) {
        problems.push("the kernel knows no BPF file system: it needs CONFIG_BPF_SYSCALL".to_owned());
    }
    match kernel_version() {
        Some(version) if version < (5, 15) => {
            problems.push(format!("Linux {}.{} is too old: the programs need 5.15 or later", version.0, version.1));
        }
        _ => {}
    }
    if is_root() && !may_unshare() {
        problems.push(
            "this root may not make network namespaces: a container needs CAP_SYS_ADMIN (`--privileged`)".to_owned(),
        );
    }
    if problems.is_empty() {
        return Ok(());
    }
    bail!("the lab cannot run on this machine:\n  - {}", problems.join("\n  - "))
}

fn kernel_version() -> Option<(u32, u32)> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    let mut numbers = release.split(['.', '-']).map(|word| word.trim().parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

fn may_unshare() -> bool {
    // util-linux is essential on every distribution; without it the lab's own message has to do.
    Command::new("unshare").args(["--net", "true"]).status().map_or(true, |status| status.success())
}
