//! What Kubernetes knows of the nodes (`status.nodeInfo`), and how the rest is looked at on each of them.

use serde_json::Value;

use super::super::{InstallError, shipped};
use super::kernel::{FAST_PATH, LEAST, two};
use super::{Finding, Grade, name, some};

/// Architectures an image is made for.
const ARCHITECTURES: [&str; 2] = ["amd64", "arm64"];
/// Runtimes whose cgroups are known to name pods.
const RUNTIMES: [&str; 3] = ["containerd", "cri-o", "docker"];

pub(super) fn findings(nodes: &[Value]) -> Vec<Finding> {
    let info = |node: &Value, field: &str| node["status"]["nodeInfo"][field].as_str().unwrap_or_default().to_owned();
    let (linux, others): (Vec<_>, Vec<_>) = nodes.iter().partition(|node| info(node, "operatingSystem") == "linux");
    let named = |field: &'static str, is: &dyn Fn(&str) -> bool| -> Vec<String> {
        let those = linux.iter().filter(|node| is(&info(node, field)));
        those.map(|node| format!("{} ({})", name(node), info(node, field))).collect()
    };
    let mut findings = Vec::new();
    let mut note = |nodes: Vec<String>, what: &str, grade, remedy: &str| {
        let found = !nodes.is_empty();
        if found {
            findings.push(Finding { grade, what: format!("{what}: {}", some(&nodes)), remedy: remedy.to_owned() });
        }
        found
    };
    let old = format!("nodes with a kernel older than {}.{}", LEAST.0, LEAST.1);
    let below = |least| move |version: &str| two(version).is_some_and(|found| found < least);
    let keep = "keep agents off them: agent.nodeSelector";
    let mut unfit =
        note(named("kernelVersion", &below(LEAST)), &old, Grade::Wrong, &format!("upgrade them, or {keep}"));
    if !unfit {
        let what = "connections between pods of one node go through the proxy on";
        let how = format!("Linux {}.{} lets them go directly", FAST_PATH.0, FAST_PATH.1);
        note(named("kernelVersion", &below(FAST_PATH)), what, Grade::Remark, &how);
    }
    let foreign = |architecture: &str| !ARCHITECTURES.contains(&architecture);
    unfit |=
        note(named("architecture", &foreign), "nodes of an architecture there is no image for", Grade::Wrong, keep);
    let unknown = |runtime: &str| !RUNTIMES.iter().any(|known| runtime.starts_with(&format!("{known}://")));
    let how = "see that processes' cgroups there name their pod (cat /proc/PID/cgroup: pod and its UID), by which pods are found";
    note(
        named("containerRuntimeVersion", &unknown),
        "nodes with a container runtime that nobody has tried",
        Grade::Remark,
        how,
    );
    let others: Vec<String> =
        others.into_iter().map(|node| format!("{} ({})", name(node), info(node, "operatingSystem"))).collect();
    note(
        others,
        "nodes that do not run Linux, whose pods stay outside the mesh",
        Grade::Remark,
        "nothing: agents do not go there",
    );
    if linux.is_empty() {
        findings.push(Finding::wrong("no node runs Linux", "add one"));
    } else if !unfit {
        findings.insert(
            0,
            Finding::well(format!("{} Linux nodes have a kernel and an architecture that will do", linux.len())),
        );
    }
    findings
}

/// How to look at what only a node itself can tell.
pub(super) fn the_rest() -> Result<Finding, InstallError> {
    let image = shipped()?.iter().find_map(|object| {
        let image = object.value.pointer("/spec/template/spec/containers/0/image")?;
        image.as_str().map(str::to_owned)
    });
    let what = "cgroup2, the BPF file system and what its kernel was built with are for each node itself to tell, in a pod like this:";
    let how = format!(
        "kubectl debug node/NODE -it --profile=sysadmin --image={} -- /weft check --host --cgroup /host/sys/fs/cgroup --bpffs /host/sys/fs/bpf",
        image.unwrap_or_else(|| "IMAGE".to_owned())
    );
    Ok(Finding { grade: Grade::Well, what: what.to_owned(), remedy: how })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(name: &str, change: impl FnOnce(&mut Value)) -> Value {
        let mut info = json!({"kernelVersion": "6.8.0-45-generic", "operatingSystem": "linux", "architecture": "amd64",
            "containerRuntimeVersion": "containerd://1.7.27"});
        change(&mut info);
        json!({"metadata": {"name": name}, "status": {"nodeInfo": info}})
    }

    fn said(nodes: &[Value]) -> String {
        findings(nodes).iter().map(|finding| format!("{finding}\n")).collect()
    }

    #[test]
    fn each_thing_that_can_be_wrong_with_a_node_is_told_with_its_name() {
        let fine = node("fine", |_| {});
        assert_eq!(
            said(std::slice::from_ref(&fine)),
            "ok      1 Linux nodes have a kernel and an architecture that will do\n"
        );
        let nodes = [
            fine,
            node("old", |info| info["kernelVersion"] = json!("5.15.0")),
            node("riscv", |info| info["architecture"] = json!("riscv64")),
            node("odd", |info| info["containerRuntimeVersion"] = json!("own://1")),
            node("win", |info| {
                (info["operatingSystem"], info["kernelVersion"]) = (json!("windows"), json!("10.0.17763"))
            }),
        ];
        let text = said(&nodes);
        for line in [
            "FAILED  nodes with a kernel older than 6.1: old (5.15.0)\n",
            "FAILED  nodes of an architecture there is no image for: riscv (riscv64)\n",
            "note    nodes with a container runtime that nobody has tried: odd (own://1)\n",
            "note    nodes that do not run Linux, whose pods stay outside the mesh: win (windows)\n",
        ] {
            assert!(text.contains(line), "{line}in\n{text}");
        }
        assert!(!text.contains("will do") && !text.contains("10.0.17763"), "{text}");
        assert!(
            said(&[node("slow", |info| info["kernelVersion"] = json!("6.1.1"))])
                .contains("note    connections between pods")
        );
        assert!(said(&[]).contains("FAILED  no node runs Linux"));
    }

    #[test]
    fn the_command_for_the_rest_names_the_image_of_this_release() {
        let text = the_rest().unwrap().to_string();
        assert!(
            text.starts_with("ok ") && text.contains("--image=ghcr.io/") && text.contains("/weft check --host"),
            "{text}"
        );
    }
}
