//! A container of a manifest as the configuration an OCI runtime reads.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::super::binary;
use super::sandbox::Sandbox;
use super::seccomp;

/// A container to be made.
pub(super) struct Bundle<'a> {
    pub(super) sandbox: &'a Sandbox,
    pub(super) container: &'a Value,
    /// What is its `/etc/hosts`.
    pub(super) hosts: PathBuf,
}

/// Every capability's name is known by the manifest without this.
const CAP: &str = "CAP_";
/// What runtimes hide and protect in every container that is not privileged.
const MASKED: [&str; 8] = [
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

impl Bundle<'_> {
    pub(super) fn write(&self, directory: &Path) -> Result<()> {
        std::fs::create_dir_all(directory)?;
        let (root, mut mounts) = rootfs(directory)?;
        mounts.extend(self.mounts()?);
        let (context, of_pod) = (&self.container["securityContext"], &self.sandbox.spec["securityContext"]);
        let capabilities = capabilities(&context["capabilities"]);
        let mut linux = json!({
            "maskedPaths": MASKED, "readonlyPaths": READ_ONLY,
            "namespaces": [{"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "cgroup"}],
        });
        let namespaces = linux["namespaces"].as_array_mut().context("namespaces")?;
        namespaces.push(json!({"type": "network", "path": self.sandbox.netns.path()}));
        if self.sandbox.spec["hostPID"] != true {
            namespaces.push(json!({"type": "pid"}));
        }
        let profile = [context, of_pod].map(|c| c["seccompProfile"]["type"].as_str());
        match profile.into_iter().flatten().next() {
            Some("RuntimeDefault") => linux["seccomp"] = seccomp::runtime_default(&capabilities)?,
            Some("Unconfined") | None => {}
            Some(other) => bail!("a seccomp profile of type {other:?}"),
        }
        let args: Vec<&str> = ["/weft"].into_iter().chain(strings(&self.container["args"])).collect();
        let setting = |name: &str| [context, of_pod].iter().find_map(|context| context[name].as_u64()).unwrap_or(0);
        let config = json!({
            "ociVersion": "1.0.2",
            "process": {
                "terminal": false, "cwd": "/", "args": args, "env": self.environment(),
                "user": {"uid": setting("runAsUser"), "gid": setting("runAsGroup")},
                "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
                "noNewPrivileges": context["allowPrivilegeEscalation"] == false,
            },
            "root": {"path": root, "readonly": context["readOnlyRootFilesystem"] == true},
            "mounts": mounts, "linux": linux,
        });
        std::fs::write(directory.join("config.json"), config.to_string()).context("writing config.json")
    }

    fn environment(&self) -> Vec<String> {
        let mut environment = vec![
            format!("KUBERNETES_SERVICE_HOST={}", super::super::api_server::ADDRESS),
            "KUBERNETES_SERVICE_PORT=6443".to_owned(),
            // All nodes of the lab share one BPF file system.
            format!("WEFT_INSTANCE={}", self.sandbox.node.name()),
        ];
        for variable in self.container["env"].as_array().into_iter().flatten() {
            let value = match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
                Some("spec.nodeName") => self.sandbox.node.name(),
                Some("metadata.name") => &self.sandbox.name,
                Some("metadata.namespace") => super::NAMESPACE,
                _ => variable["value"].as_str().unwrap_or_default(),
            };
            environment.push(format!("{}={value}", variable["name"].as_str().unwrap_or_default()));
        }
        environment
    }

    fn mounts(&self) -> Result<Vec<Value>> {
        let mut mounts = vec![
            json!({"destination": "/proc", "type": "proc", "source": "proc"}),
            json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"]}),
            json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]}),
            json!({"destination": "/sys/fs/cgroup", "type": "cgroup2", "source": "cgroup2", "options": ["nosuid", "noexec", "nodev", "ro"]}),
            bind(&self.sandbox.home.join("account"), "/var/run/secrets/kubernetes.io/serviceaccount", true),
            bind(&self.hosts, "/etc/hosts", true),
        ];
        for mount in self.container["volumeMounts"].as_array().into_iter().flatten() {
            let (name, at) = (&mount["name"], mount["mountPath"].as_str().context("a mount without a path")?);
            let volume = self.sandbox.spec["volumes"].as_array().into_iter().flatten().find(|v| v["name"] == *name);
            let volume = volume.with_context(|| format!("no volume {name}"))?;
            let source = match volume["hostPath"]["path"].as_str() {
                Some(path) => {
                    let found = self.sandbox.host.iter().find(|(known, _)| known == path);
                    found.with_context(|| format!("the lab has nothing for the host's {path}"))?.1.clone()
                }
                None => self.sandbox.home.join(name.as_str().unwrap_or_default()),
            };
            mounts.push(bind(&source, at, mount["readOnly"] == true));
        }
        Ok(mounts)
    }
}

/// A root for the container and what must be mounted into it: of an image there is all in it.
fn rootfs(directory: &Path) -> Result<(PathBuf, Vec<Value>)> {
    let root = directory.join("rootfs");
    if let Some(image) = std::env::var_os("WEFT_TEST_ROOTFS") {
        // Mount points are made in it, so each container has a copy.
        let status = std::process::Command::new("cp").arg("-a").arg(image).arg(&root).status()?;
        return if status.success() { Ok((root, Vec::new())) } else { bail!("cp: {status}") };
    }
    std::fs::create_dir_all(&root)?;
    let mut mounts = Vec::new();
    for name in ["lib", "lib64", "usr/lib", "usr/lib64"] {
        let host = Path::new("/").join(name);
        match std::fs::read_link(&host) {
            Ok(target) => symlink(target, root.join(name))?,
            Err(_) if host.exists() => mounts.push(bind(&host, &format!("/{name}"), true)),
            Err(_) => {}
        }
    }
    std::fs::write(root.join("weft"), "")?;
    mounts.push(bind(&binary("weft")?, "/weft", true));
    Ok((root, mounts))
}

fn bind(source: &Path, destination: &str, read_only: bool) -> Value {
    let access = if read_only { "ro" } else { "rw" };
    json!({"destination": destination, "type": "bind", "source": source, "options": ["rbind", "rprivate", access]})
}

/// What is left of the runtime's own set after the manifest has dropped and added.
fn capabilities(context: &Value) -> Vec<String> {
    const DEFAULT: [&str; 14] = [
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "NET_RAW",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ];
    let dropped: Vec<&str> = strings(&context["drop"]).collect();
    let kept = DEFAULT.into_iter().filter(|name| !dropped.contains(&"ALL") && !dropped.contains(name));
    kept.chain(strings(&context["add"])).map(|name| format!("{CAP}{name}")).collect()
}

fn strings(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str)
}
