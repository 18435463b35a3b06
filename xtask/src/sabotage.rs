//! `cargo xtask sabotage`: breaks one line for each scenario of `tests/sabotage.json` and demands that its test goes red.
//!
//! A test that cannot fail proves nothing. The breaks are made in a copy of the work tree under `target/sabotage`, so an
//! interrupted run leaves no broken source behind.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::privileges;
use crate::scenarios;
use crate::setup::{Need, ensure};
use crate::shell::{cargo, root, run as run_command, say};

/// One break.
struct Break {
    scenario: String,
    file: String,
    old: String,
    new: String,
}

/// Applies every break whose scenario contains `filter`, one after another.
pub(crate) fn run(filter: Option<&str>) -> Result<()> {
    privileges::demand()?;
    ensure(&[Need::Ebpf, Need::Lab])?;
    let tree = root().join("target/sabotage/tree");
    let wanted = |broken: &Break| filter.is_none_or(|text| broken.scenario.contains(text));
    let breaks: Vec<Break> = table()?.into_iter().filter(wanted).collect();
    if breaks.is_empty() {
        bail!("no scenario of tests/sabotage.json contains {filter:?}");
    }
    copy_tree(&tree)?;
    say("the unbroken tests must pass first");
    let names: Vec<&str> = breaks.iter().map(|broken| broken.scenario.as_str()).collect();
    if !passes(&tree, &names)? {
        bail!("some of them fail without any break");
    }
    let mut green = Vec::new();
    for broken in &breaks {
        say(&format!("{}: breaking {}", broken.scenario, broken.file));
        if survives(&tree, broken)? {
            green.push(broken.scenario.as_str());
        }
    }
    println!("{} passed, {} failed", breaks.len() - green.len(), green.len());
    if green.is_empty() { Ok(()) } else { bail!("still green with their line broken: {}", green.join(", ")) }
}

fn table() -> Result<Vec<Break>> {
    let listed = scenarios::listed()?;
    let text = fs::read_to_string(root().join("tests/sabotage.json")).context("reading tests/sabotage.json")?;
    let entries: Vec<Value> = serde_json::from_str(&text).context("tests/sabotage.json")?;
    let mut breaks = Vec::new();
    for entry in entries {
        let word = |key: &str| {
            entry[key]
                .as_str()
                .map(str::to_owned)
                .with_context(|| format!("tests/sabotage.json: an entry lacks {key:?}: {entry}"))
        };
        let broken = Break { scenario: word("scenario")?, file: word("file")?, old: word("old")?, new: word("new")? };
        if !listed.contains_key(&broken.scenario) {
            bail!("tests/sabotage.json: {} is not in tests/scenarios.txt", broken.scenario);
        }
        let source = fs::read_to_string(root().join(&broken.file))
            .with_context(|| format!("{}: {}", broken.scenario, broken.file))?;
        if source.matches(&broken.old).count() != 1 {
            bail!("{}: {:?} does not occur exactly once in {}", broken.scenario, broken.old, broken.file);
        }
        breaks.push(broken);
    }
    Ok(breaks)
}

/// Makes one break, runs its test, and puts the line back.
fn survives(tree: &Path, broken: &Break) -> Result<bool> {
    let path = tree.join(&broken.file);
    let source = fs::read_to_string(&path)?;
    fs::write(&path, source.replacen(&broken.old, &broken.new, 1))?;
    let outcome = passes(tree, &[&broken.scenario]);
    fs::write(&path, source)?;
    outcome
}

/// Builds the copy and runs these journeys in it. A break that does not compile is a mistake in the table.
fn passes(tree: &Path, scenarios: &[&str]) -> Result<bool> {
    let target = root().join("target/sabotage/target");
    let in_copy = || {
        let mut command = cargo();
        command.current_dir(tree).env("CARGO_TARGET_DIR", &target);
        command
    };
    run_command(
        in_copy()
            .args(["run", "--quiet", "--package", "xtask", "--", "build-ebpf"])
            .stdout(std::process::Stdio::null()),
    )?;
    run_command(in_copy().args(["build", "--quiet", "--bins"]).env("WEFT_EBPF_OBJECT", object(tree)))?;
    let output = in_copy()
        .args(["test", "--quiet", "--no-run", "--package", "weft-tests", "--test", "journeys", "--message-format=json"])
        .env("WEFT_EBPF_OBJECT", object(tree))
        .output()?;
    let executable = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find_map(|message| message["executable"].as_str().filter(|path| path.contains("journeys")).map(str::to_owned))
        .context("the broken tree's journeys did not compile: the table's new text is wrong")?;
    let mut journeys: Command = privileges::as_root(executable);
    journeys.current_dir(tree.join("tests")).args(scenarios).env("RUST_LIB_BACKTRACE", "0");
    Ok(journeys.status()?.success())
}

fn object(tree: &Path) -> std::path::PathBuf {
    tree.join("target/ebpf/bpfel-unknown-none/release/weft-programs")
}

/// Copies what git knows of, with the work tree's contents.
fn copy_tree(tree: &Path) -> Result<()> {
    let listing = Command::new("git").args(["ls-files", "-co", "--exclude-standard"]).current_dir(root()).output()?;
    for file in String::from_utf8_lossy(&listing.stdout).lines() {
        let (from, to) = (root().join(file), tree.join(file));
        if let (Ok(ours), Ok(theirs)) = (fs::read(&from), fs::read(&to))
            && ours == theirs
        {
            continue;
        }
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent)?;
        }
        if from.is_file() {
            fs::copy(&from, &to).with_context(|| format!("copying {file}"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_break_fits_the_tree() {
        if let Err(problem) = table() {
            panic!("{problem:#}");
        }
    }
}
