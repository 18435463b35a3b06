//! Running the load in a subject's client pod.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use weft_tests::lab::{Lab, Process, binary, cgroup};

use crate::load::Outcome;
use crate::subjects::{Stage, Subject};

/// Time a client gets beyond its window: for connections to open, and for failures to become failures.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// The cgroup of the clients, below their pod's.
pub(super) const CLIENTS: &str = "load";

/// A port nobody listens on.
const CLOSED: &str = "127.0.0.1:9";

/// Runs a client of `weft-load` for one window.
///
/// # Errors
/// When it fails as a whole: the reason it gave.
pub fn window(lab: &Lab, subject: &Subject, arguments: &[&str], length: Duration) -> Result<Outcome> {
    let mut command = load(arguments)?;
    command.extend(["--to".into(), subject.to.to_string(), "--window".into(), length.as_millis().to_string()]);
    let watch = |name: &str, cgroup: &PathBuf| ["--watch".to_owned(), format!("{name}={}", cgroup.display())];
    command.extend(subject.proxies.iter().flat_map(|cgroup| watch("proxies", cgroup)));
    command.extend(watch("ends", &subject.client.cgroup().join(CLIENTS)));
    command.extend(watch("ends", &subject.server));
    let (process, _) = subject.client.spawn_apart(lab, CLIENTS, &command)?;
    finished(&process, length + PATIENCE)
}

/// Measures `connect()` in a pod outside the mesh, with the agent's hook and in a cgroup it is not attached to.
///
/// # Errors
/// When the process fails.
pub fn connect_cost(stage: &Stage, bursts: usize) -> Result<Outcome> {
    let with = stage.outside.cgroup().join("hooked");
    let without = cgroup::mount_point()?.join("weft-bench");
    cgroup::create(&with)?;
    cgroup::create(&without)?;
    let mut command = load(&["hook", "--to", CLOSED, "--bursts", &bursts.to_string()])?;
    command.extend(["--without".into(), without.display().to_string(), "--with".into(), with.display().to_string()]);
    let measured = stage
        .outside
        .spawn_apart(&stage.lab, CLIENTS, &command)
        .and_then(|(process, _)| finished(&process, PATIENCE + PATIENCE));
    cgroup::remove(&without)?;
    measured
}

/// A command line of `weft-load`.
pub(super) fn load(arguments: &[&str]) -> Result<Vec<String>> {
    let mut command = vec![binary("weft-load")?.display().to_string()];
    command.extend(arguments.iter().map(|&argument| argument.to_owned()));
    Ok(command)
}

/// Waits for a client to end, and reads what it found.
pub(super) fn finished(process: &Process, deadline: Duration) -> Result<Outcome> {
    let status = process.wait(deadline).or_else(|late| process.kill().and(Err(late)))?;
    if !status.success() {
        bail!("{}", process.log().trim());
    }
    said(process).with_context(|| format!("{} said no outcome: {}", process.name(), process.log()))
}

/// The outcome a client has printed, if it has.
pub(super) fn said(process: &Process) -> Option<Outcome> {
    process.log().lines().rev().find_map(|line| serde_json::from_str(line).ok())
}
