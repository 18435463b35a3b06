//! `weft check` and what it looks at: agents that are asked by way of the API server, what the controller says of objects, and
//! a machine.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use weft_tests::lab::{ApiServer, Lab, NAMESPACE, binary};
use weft_tests::wait;

use crate::fixture::Mesh;

/// What agents may read.
const ROLE: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles/weft-agent";
const POLICIES: &str = "/apis/weft.dev/v1alpha1/namespaces/demo/trafficpolicies";
/// Staleness is said after half a minute.
const PATIENCE: Duration = Duration::from_secs(90);

/// What `weft check` says, whether or not something is wrong.
fn said(api: &ApiServer) -> String {
    api.weft(&["check"]).unwrap_or_else(|error| format!("{error:#}"))
}

fn says(api: &ApiServer, patience: Duration, lines: &[&str]) -> Result<()> {
    wait::until("weft check to say how it is", patience, || {
        let text = said(api);
        lines.iter().try_for_each(|line| {
            ensure!(text.contains(line), "no {line:?} in:\n{text}");
            Ok(())
        })
    })
}

#[test]
fn check_says_which_agents_are_stale_and_what_is_refused() -> Result<()> {
    let (mesh, _, _) = Mesh::installed("check")?;
    mesh.lab.mesh()?;
    let api = mesh.api()?;
    says(api, wait::DEADLINE, &["ok      2 agents follow the API server", "ok      2 pods are meshed"])?;
    let text = said(api);
    ensure!(!text.contains("cannot be asked") && !text.contains("no replica of the controller"), "{text}");
    let (status, refused) = api.send("POST", POLICIES, "application/json", Some(json!({
        "apiVersion": "weft.dev/v1alpha1", "kind": "TrafficPolicy", "metadata": {"name": "astray", "namespace": NAMESPACE},
        "spec": {"targetRefs": [{"group": "", "kind": "Service", "name": "none"}], "slowStart": "30s"}
    }).to_string()))?;
    ensure!(status == 201, "{refused}");
    says(api, wait::DEADLINE, &["note    TrafficPolicy demo/astray: TargetNotFound: it is for Service demo/none"])?;
    // Somebody takes from the agents what they need, and their watches break off.
    let role = api.get(ROLE)?;
    let mut less = role["rules"].clone();
    for rule in less.as_array_mut().into_iter().flatten() {
        if let Some(resources) = rule["resources"].as_array_mut() {
            resources.retain(|resource| *resource != "services");
        }
    }
    api.merge(ROLE, &json!({"rules": less}))?;
    api.order("cut", &Value::Null)?;
    says(
        api,
        PATIENCE,
        &["FAILED  agents do not follow the API server", "(on a) for ", "(on b) for ", " s (Service)", "weft status"],
    )?;
    api.merge(ROLE, &json!({"rules": role["rules"]}))?;
    says(api, PATIENCE, &["ok      2 agents follow the API server"])?;
    mesh.lab.finish()
}

/// Runs `weft check --host` where the mounts are as `prepare` leaves them, for nobody else; yields whether it found nothing wrong,
/// and what it said.
fn host(prepare: &str) -> Result<(bool, String)> {
    let weft = binary("weft")?;
    let bare = "for at in $(awk '$3 == \"bpf\" {print $2}' /proc/mounts); do umount -l $at; done";
    let left = "find /sys/fs/bpf /sys/fs/cgroup /dev/shm /tmp -maxdepth 3 -name 'weft-check-*' 2>/dev/null";
    let script =
        format!("{bare}\n{prepare} {} check --host; code=$?; echo \"left: $({left})\"; exit $code", weft.display());
    let done = Command::new("unshare").args(["--mount", "sh", "-c", &script]).env_remove("WEFT_CGROUP").output()?;
    let text = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    ensure!(text.contains("left: \n"), "it has left something: {text}");
    Ok((done.status.success(), text))
}

#[test]
fn check_host_says_what_a_machine_lacks() -> Result<()> {
    let lab = Lab::new("check-host")?;
    let mounted = "mount -t bpf bpf /sys/fs/bpf;";
    let (fits, text) = host(mounted)?;
    ensure!(fits, "this machine does not fit: {text}");
    for line in [
        "ok      cgroup2 is at /sys/fs/cgroup",
        "ok      a BPF file system is at /sys/fs/bpf",
        "ok      the kernel takes the programs, and runs them for a cgroup",
        "ok      the kernel steers a network namespace",
        "ok      the kernel ends open connections",
        "the kernel guards the links of pods",
    ] {
        ensure!(text.contains(line), "no {line:?} in:\n{text}");
    }
    let ungrouped =
        format!("{mounted} for at in $(awk '$3 == \"cgroup2\" {{print $2}}' /proc/mounts); do umount -l $at; done;");
    let uncapable = format!("{mounted} setpriv --bounding-set=-net_admin");
    for (prepare, says, remedy) in [
        ("", "FAILED  /sys/fs/bpf is no BPF file system", "mount -t bpf bpf /sys/fs/bpf"),
        (&*ungrouped, "FAILED  there is no cgroup2", "systemd.unified_cgroup_hierarchy=1"),
        (&*uncapable, "FAILED  this process lacks the capabilities NET_ADMIN", "as root"),
    ] {
        let (fits, text) = host(prepare)?;
        ensure!(!fits && text.contains(says) && text.contains(remedy), "{prepare:?}: {text}");
        ensure!(text.contains("note    the eBPF programs were not tried"), "{prepare:?}: {text}");
    }
    lab.finish()
}
