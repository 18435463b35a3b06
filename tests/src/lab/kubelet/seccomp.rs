//! The profile that stands for `RuntimeDefault`: that of Podman and CRI-O, from Debian's package of it, which agrees with
//! containerd's in what an agent needs: bpf(2), setns(2) and their like only beside CAP_SYS_ADMIN.

use anyhow::{Context, Result};
use serde_json::{Value, json};

const PROFILE: &str = "/usr/share/containers/seccomp.json";

/// The profile for a container with these capabilities, in the form an OCI runtime takes.
pub(super) fn runtime_default(capabilities: &[String]) -> Result<Value> {
    let text = std::fs::read_to_string(PROFILE)
        .with_context(|| format!("{PROFILE}: `cargo xtask setup` installs golang-github-containers-common"))?;
    let profile: Value = serde_json::from_str(&text).context(PROFILE)?;
    let mine = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let has = |name: &Value| name.as_str().is_some_and(|name| capabilities.iter().any(|known| known == name));
    let lists = |condition: &Value, key: &str| condition[key].as_array().cloned().unwrap_or_default();
    let applies = |rule: &&Value| {
        let (includes, excludes) = (&rule["includes"], &rule["excludes"]);
        let arches = lists(includes, "arches");
        lists(includes, "caps").iter().all(has)
            && (arches.is_empty() || arches.iter().any(|arch| arch == mine))
            && !lists(excludes, "caps").iter().any(has)
            && !lists(excludes, "arches").iter().any(|arch| arch == mine)
    };
    let rules = profile["syscalls"].as_array().context("a profile without syscalls")?.iter().filter(applies);
    let rules: Vec<Value> = rules
        .map(|rule| {
            let mut rule = rule.clone();
            if let Some(rule) = rule.as_object_mut() {
                rule.retain(|key, value| {
                    matches!(key.as_str(), "names" | "action" | "args" | "errnoRet") && !value.is_null()
                });
            }
            rule
        })
        .collect();
    let arch = if cfg!(target_arch = "aarch64") { "SCMP_ARCH_AARCH64" } else { "SCMP_ARCH_X86_64" };
    Ok(json!({
        "defaultAction": profile["defaultAction"], "defaultErrnoRet": profile["defaultErrnoRet"],
        "architectures": [arch], "syscalls": rules,
    }))
}
