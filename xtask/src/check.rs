//! `cargo xtask check`: everything a reviewer should not have to look for.

use std::process::Command;

use anyhow::{Result, bail};

use crate::setup::{Need, cargo_home, ensure};
use crate::shell::{cargo, root, run, say};
use crate::{layers, render};

type Check = fn() -> Result<()>;

/// Runs every check and reports all that failed, not only the first.
pub(crate) fn all() -> Result<()> {
    ensure(&[Need::Check, Need::Helm])?;
    let checks: [(&str, Check); 7] = [
        ("formatting", || run(cargo().args(["fmt", "--all", "--check"]))),
        ("dependency direction", layers::check),
        ("rendered manifests", render::check),
        ("lints", || run(cargo().args(["clippy", "--all-targets", "--quiet", "--", "-D", "warnings"]))),
        ("documentation", || run(cargo().args(["doc", "--no-deps", "--quiet"]).env("RUSTDOCFLAGS", "-D warnings"))),
        ("licences, bans and sources", || run(cargo().args(["deny", "check", "licenses", "bans", "sources"]))),
        ("spelling", spelling),
    ];
    let mut failed = Vec::new();
    for (name, check) in checks {
        say(name);
        if let Err(problem) = check() {
            eprintln!("{name}: {problem:#}");
            failed.push(name);
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("failed: {}", failed.join(", ")) }
}

fn spelling() -> Result<()> {
    let installed = cargo_home().map(|home| home.join("bin/typos")).filter(|path| path.exists());
    run(Command::new(installed.unwrap_or_else(|| "typos".into())).current_dir(root()))
}
