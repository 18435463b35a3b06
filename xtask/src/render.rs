//! `cargo xtask render`: the plain manifests, which are the chart with its default values, and the chart's copy of the
//! CustomResourceDefinitions, which are the agent's types. Both are committed, for those who have neither Helm nor a build.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::setup::{Need, ensure};
use crate::shell::{cargo, root, run as run_command, say, shown};

const CHART: &str = "deploy/chart/weft";
const MANIFESTS: &str = "deploy/weft.yaml";
const NAMESPACE: &str = "weft-system";

const HEADER: &str = "\
# Weft, to be applied without Helm: `weft install`, or `kubectl apply --server-side -f` this file.
# Made by `cargo xtask render` from deploy/chart/weft: change that, not this.
";

/// Writes both.
pub(crate) fn run() -> Result<()> {
    ensure(&[Need::Ebpf, Need::Helm])?;
    say("compiling the agent, whose types the definitions are");
    run_command(cargo().args(["build", "--bin", "weft"]))?;
    let crds = output(Command::new(root().join("target/debug/weft")).arg("crds"))?;
    fs::write(root().join(CHART).join("files/crds.yaml"), crds.trim_start_matches("---\n"))?;
    fs::write(root().join(MANIFESTS), rendered()?)?;
    println!("{MANIFESTS}");
    Ok(())
}

/// Fails if the manifests are not what the chart renders to now, or the chart has faults.
pub(crate) fn check() -> Result<()> {
    output(helm().args(["lint", "--quiet", "--strict", CHART]))?;
    if fs::read_to_string(root().join(MANIFESTS)).unwrap_or_default() != rendered()? {
        bail!("{MANIFESTS} is not what {CHART} renders to: run `cargo xtask render`");
    }
    Ok(())
}

fn rendered() -> Result<String> {
    let text = output(helm().args(["template", "weft", CHART, "--namespace", NAMESPACE, "--set", "plain=true"]))?;
    Ok(format!("{HEADER}{text}"))
}

fn helm() -> Command {
    let installed: PathBuf = root().join("target/tools/helm/bin/helm");
    let mut command = Command::new(installed);
    // Helm keeps caches and settings of its user: neither is wanted here.
    command.current_dir(root()).env("HELM_CACHE_HOME", root().join("target/tools/helm/cache"));
    command.env("HELM_CONFIG_HOME", root().join("target/tools/helm/config"));
    command
}

fn output(command: &mut Command) -> Result<String> {
    let shown = shown(command);
    let output = command.output().with_context(|| format!("cannot run `{shown}`"))?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned());
        bail!("`{shown}` failed: {}", said.join("\n"));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
