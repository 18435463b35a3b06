//! Which pod a process is of, by the names of its cgroups.
//!
//! Kubelet names a pod's cgroup after its UID: `pod<uid>` with the cgroupfs driver, and with systemd's the last part of a
//! slice's name, where a dash would be another level and so stands as `_`. What is above (`kubepods`, a QoS class, the
//! node's own cgroup in kind) and below (`cri-containerd-<id>.scope`, `crio-<id>.scope`, a bare id) differs; in a cgroup
//! namespace what is above may be missing. Where kubelet has systemd's driver and the runtime cgroupfs, what kubelet means for
//! systemd (`slice:prefix:id`) becomes the name of one cgroup, below the runtime's own (kubernetes/kubernetes#106514). So only
//! the part with the UID is looked for, and its form is checked.

/// The UID of the pod that a process with this `/proc/<pid>/cgroup` belongs to, written as Kubernetes does.
pub(super) fn pod_uid(contents: &str) -> Option<String> {
    // hierarchy-ID:controllers:path, one line a hierarchy; on hybrid machines not all of them name the pod.
    contents
        .lines()
        .filter_map(|line| line.splitn(3, ':').nth(2))
        .find_map(|path| path.split('/').rev().find_map(of_part))
}

fn of_part(part: &str) -> Option<String> {
    let (unit, apart) = part.split_once(':').map_or((part, false), |(unit, _)| (unit, true));
    let name = match unit.strip_suffix(".slice") {
        Some(slice) => slice.rsplit('-').next().unwrap_or(slice),
        // Without the suffix where the runtime's driver has taken it off.
        None if apart => unit.rsplit('-').next().unwrap_or(unit),
        None => unit,
    };
    uid(name.strip_prefix("pod")?)
}

/// A UUID, or the hash that stands for one in the cgroups of static pods.
fn uid(text: &str) -> Option<String> {
    let text = text.replace('_', "-");
    let hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase());
    let groups: Vec<&str> = text.split('-').collect();
    let lengths: Vec<usize> = groups.iter().map(|group| group.len()).collect();
    let formed = lengths == [8, 4, 4, 4, 12] || lengths == [32];
    (formed && groups.iter().all(|group| hex(group))).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0b8f3c5e-7f0a-4c1b-9d2e-5a6b7c8d9e0f";

    #[test]
    fn every_layout_names_the_pod() {
        for path in [
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0b8f3c5e_7f0a_4c1b_9d2e_5a6b7c8d9e0f.slice/cri-containerd-4c9a.scope",
            "/kubepods.slice/kubepods-pod0b8f3c5e_7f0a_4c1b_9d2e_5a6b7c8d9e0f.slice/crio-4c9a.scope/container",
            "/kubepods/besteffort/pod0b8f3c5e-7f0a-4c1b-9d2e-5a6b7c8d9e0f/4c9a",
            "/kubepods/pod0b8f3c5e-7f0a-4c1b-9d2e-5a6b7c8d9e0f/4c9a",
            "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod0b8f3c5e_7f0a_4c1b_9d2e_5a6b7c8d9e0f.slice/cri-containerd-4c9a.scope",
            "/docker/1f2e/kubelet/kubepods/burstable/pod0b8f3c5e-7f0a-4c1b-9d2e-5a6b7c8d9e0f/4c9a",
            // Two drivers at once.
            "/system.slice/containerd.service/kubepods-burstable-pod0b8f3c5e_7f0a_4c1b_9d2e_5a6b7c8d9e0f.slice:cri-containerd:4c9a",
            "/kuberuntime/containerd/kubepods-pod0b8f3c5e_7f0a_4c1b_9d2e_5a6b7c8d9e0f:cri-containerd:4c9a",
            // Seen from another container's cgroup namespace.
            "/../../kubepods-besteffort-pod0b8f3c5e_7f0a_4c1b_9d2e_5a6b7c8d9e0f.slice/cri-containerd-4c9a.scope",
            "/../../besteffort/pod0b8f3c5e-7f0a-4c1b-9d2e-5a6b7c8d9e0f/4c9a",
        ] {
            assert_eq!(pod_uid(&format!("0::{path}\n")).as_deref(), Some(UID), "{path}");
        }
    }

    #[test]
    fn any_hierarchy_may_name_it() {
        let hybrid =
            "12:memory:/kubepods/burstable/pod0b8f3c5e-7f0a-4c1b-9d2e-5a6b7c8d9e0f/4c9a\n1:name=systemd:/\n0::/\n";
        assert_eq!(pod_uid(hybrid).as_deref(), Some(UID));
        let below = "12:cpu,cpuacct:/\n0::/kubepods.slice/kubepods-pod0b8f3c5e_7f0a_4c1b_9d2e_5a6b7c8d9e0f.slice/crio-4c9a.scope\n";
        assert_eq!(pod_uid(below).as_deref(), Some(UID));
    }

    #[test]
    fn static_pods_go_by_their_hash() {
        let path = "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod3a5b8e6e2b1f4d7c9a0e1f2d3c4b5a69.slice/cri-containerd-9.scope";
        assert_eq!(pod_uid(path).as_deref(), Some("3a5b8e6e2b1f4d7c9a0e1f2d3c4b5a69"));
    }

    #[test]
    fn what_is_no_pod_is_none() {
        for path in [
            "/",
            "/init.scope",
            "/system.slice/containerd.service",
            "/system.slice/podman.service",
            "/user.slice/user-1000.slice/session-2.scope",
            "/machine.slice/libpod-4c9a.scope",
            "/podracer/pod/pod-x/podinfo.slice",
            "/system.slice/containerd.service/kubepods-burstable.slice:cri-containerd:4c9a",
            "/kubepods.slice/kubepods-burstable.slice",
            "/kubepods/podZZ8f3c5e-7f0a-4c1b-9d2e-5a6b7c8d9e0f/1",
        ] {
            assert_eq!(pod_uid(&format!("0::{path}\n")), None, "{path}");
        }
    }
}
