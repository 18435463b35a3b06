//! A pod as kubelet makes it: its volumes, then its containers, each run by crun in a cgroup of its own.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::super::process::Place;
use super::super::{ApiServer, Lab, NetNs, Node, Process, cgroup, cluster};
use super::bundle::Bundle;
use super::{NAMESPACE, PATIENCE};
use crate::wait;

/// A pod and what is made of it on this machine.
pub(super) struct Sandbox {
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) node: Node,
    /// Where its containers run.
    pub(super) netns: NetNs,
    pub(super) spec: Value,
    /// Host paths of the manifest, and what stands for them.
    pub(super) host: Vec<(String, PathBuf)>,
    /// The node's own files.
    pub(super) directory: PathBuf,
    /// The pod's: a volume that is no host path is below it by its name.
    pub(super) home: PathBuf,
}

/// Where a cgroup is for a runtime that is shown the unified hierarchy only.
pub(super) fn shown(cgroup: &Path) -> Result<PathBuf> {
    Ok(Path::new("/sys/fs/cgroup").join(cgroup.strip_prefix(cgroup::mount_point()?)?))
}

impl Sandbox {
    /// Mounts its volumes, waiting for what has yet to be published, as kubelet does.
    pub(super) fn made(self, lab: &Lab) -> Result<Self> {
        let api = lab.api().context("a lab without an API server")?;
        std::fs::create_dir_all(self.home.join("account"))?;
        self.write_account(api)?;
        for volume in self.spec["volumes"].as_array().into_iter().flatten() {
            let directory = self.home.join(volume["name"].as_str().unwrap_or_default());
            std::fs::create_dir_all(&directory)?;
            self.write_tokens(api, volume, &directory)?;
            write_config_map(api, volume, &directory)?;
        }
        Ok(self)
    }

    /// What is mounted of the pod's service account: a token bound to the pod, the authority, the namespace.
    fn write_account(&self, api: &ApiServer) -> Result<()> {
        let directory = self.home.join("account");
        std::fs::write(directory.join("token"), self.token(api, &[])?)?;
        std::fs::write(directory.join("ca.crt"), api.authority()?)?;
        std::fs::write(directory.join("namespace"), NAMESPACE)?;
        Ok(())
    }

    fn token(&self, api: &ApiServer, audiences: &[&str]) -> Result<String> {
        let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": self.name, "uid": self.uid});
        api.token(NAMESPACE, self.spec["serviceAccountName"].as_str().unwrap_or("default"), audiences, &bound)
    }

    /// Projected tokens: an audience each.
    fn write_tokens(&self, api: &ApiServer, volume: &Value, directory: &Path) -> Result<()> {
        for source in volume["projected"]["sources"].as_array().into_iter().flatten() {
            let Some(path) = source["serviceAccountToken"]["path"].as_str() else { continue };
            let audience = source["serviceAccountToken"]["audience"].as_str().unwrap_or_default();
            std::fs::write(directory.join(path), self.token(api, &[audience])?)?;
        }
        Ok(())
    }

    /// Makes a container's bundle and has crun run it.
    pub(super) fn start(&self, lab: &Lab, container: &str) -> Result<Process> {
        let listed = ["initContainers", "containers"].iter().filter_map(|list| self.spec[*list].as_array()).flatten();
        let spec = listed.into_iter().find(|c| c["name"] == container).with_context(|| format!("no {container}"))?;
        let directory = self.home.join(container);
        Bundle { sandbox: self, container: spec, hosts: lab.hosts_file()? }.write(&directory)?;
        // As containerd with the systemd driver names it, in a cgroup namespace of its own.
        let own_cgroup = cluster::cgroups(self.node.cgroup(), &self.uid, container).1;
        cgroup::create(&own_cgroup)?;
        let name = format!("{}-{container}", self.name);
        let pid_file = directory.join("pid");
        let command = runtime(lab, &name, &directory, &pid_file)?;
        let place = Place { name: name.clone(), netns: &self.netns, cgroup: &own_cgroup, log: lab.log_path(&name) };
        let process = Process::start(place, &command)?;
        let pid = wait::until(&format!("{name} to run"), PATIENCE, || {
            if let Some(status) = process.exited() {
                return Ok(Err(anyhow::anyhow!("{name} ended with {status}: {}", process.log())));
            }
            Ok(Ok(std::fs::read_to_string(&pid_file)?.trim().parse::<i32>()?))
        })??;
        process.waits_for(pid);
        Ok(process)
    }
}

/// A ConfigMap's keys, as files.
fn write_config_map(api: &ApiServer, volume: &Value, directory: &Path) -> Result<()> {
    let Some(name) = volume["configMap"]["name"].as_str() else { return Ok(()) };
    let path = format!("/api/v1/namespaces/{NAMESPACE}/configmaps/{name}");
    let map = wait::until(&format!("the ConfigMap {name}"), PATIENCE, || api.get(&path))?;
    let items = volume["configMap"]["items"].as_array().with_context(|| format!("which keys of {name}?"))?;
    for item in items {
        let (Some(key), Some(file)) = (item["key"].as_str(), item["path"].as_str()) else { bail!("{item}") };
        let text = map["data"][key].as_str().with_context(|| format!("{name} has no {key}"))?;
        std::fs::write(directory.join(file), text)?;
    }
    Ok(())
}

/// What runs a bundle. crun refuses machines with both hierarchies of cgroups: it is shown the unified one only, where nodes
/// have it.
fn runtime(lab: &Lab, name: &str, bundle: &Path, pid_file: &Path) -> Result<Vec<String>> {
    let id = format!("{}-{name}", lab.directory().file_name().and_then(|n| n.to_str()).unwrap_or("lab"));
    let text = |path: &Path| path.display().to_string();
    let command = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        "mount --bind \"$0\" /sys/fs/cgroup && exec \"$@\"",
        &text(&cgroup::mount_point()?),
        "crun",
        "--cgroup-manager=disabled",
        "--root",
        &text(&lab.directory().join("crun")),
        "run",
        "--bundle",
        &text(bundle),
        "--pid-file",
        &text(pid_file),
        &id,
    ];
    Ok(command.map(str::to_owned).into())
}
