//! `cargo xtask fuzz`: the targets of `agent/fuzz`, compiled with coverage counters by the stable compiler.
//!
//! Only this project's own crates are instrumented (`agent/fuzz/rustc`), so a smoke-run costs one more build of the agent
//! and not of everything it stands on. What a run finds beyond the committed corpus is kept in `target/fuzz`, so that
//! a longer run goes on where the last one stopped.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::setup::{Need, ensure};
use crate::shell::{cargo, root, say, shown};

/// How long a target runs as part of the test suite.
pub(crate) const SMOKE_SECONDS: u64 = 5;

/// What the names of the programs begin with.
const PREFIX: &str = "fuzz-";

/// Runs one target, or all, for `seconds` each. A crash is an error and leaves its input in `agent/fuzz/artifacts`.
pub(crate) fn run(target: Option<&str>, seconds: u64) -> Result<()> {
    ensure(&[Need::Fuzz])?;
    let programs = build()?;
    let chosen: Vec<_> = programs.iter().filter(|(name, _)| target.is_none_or(|wanted| wanted == name)).collect();
    if chosen.is_empty() {
        let names: Vec<_> = programs.iter().map(|(name, _)| name.as_str()).collect();
        bail!("there is no such fuzz target; there are: {}", names.join(", "));
    }
    for (name, program) in chosen {
        say(&format!("fuzzing {name} for {seconds} s"));
        fuzz(name, program, seconds)?;
    }
    Ok(())
}

/// Compiles the targets; answers their names and programs.
fn build() -> Result<Vec<(String, PathBuf)>> {
    say("compiling the fuzz targets");
    let mut command = cargo();
    command
        .args(["build", "--package", "weft-fuzz", "--bins", "--message-format=json-render-diagnostics"])
        .env("RUSTC_WORKSPACE_WRAPPER", root().join("agent/fuzz/rustc"))
        .stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot run `{}`", shown(&command)))?;
    let output = child.stdout.take().context("cargo has no output")?;
    let mut programs = Vec::new();
    for line in BufReader::new(output).lines() {
        let Ok(message) = serde_json::from_str::<serde_json::Value>(&line?) else { continue };
        let name = message["target"]["name"].as_str().and_then(|name| name.strip_prefix(PREFIX));
        if let (Some(name), Some(program)) = (name, message["executable"].as_str()) {
            programs.push((name.to_owned(), program.into()));
        }
    }
    if !child.wait()?.success() {
        bail!("`{}` failed", shown(&command));
    }
    Ok(programs)
}

fn fuzz(name: &str, program: &Path, seconds: u64) -> Result<()> {
    let fuzz = root().join("agent/fuzz");
    let (found, artifacts) = (root().join("target/fuzz").join(name), fuzz.join("artifacts").join(name));
    for directory in [&found, &artifacts] {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }
    let output = Command::new(program)
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .args(["-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1"])
        .arg(found)
        .arg(fuzz.join("corpus").join(name))
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let report = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("{name} failed: {}\n{report}", output.status);
    }
    for line in report.lines().filter_map(|line| line.strip_prefix("stat::")) {
        eprintln!("    {line}");
    }
    Ok(())
}
