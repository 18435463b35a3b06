//! `cargo xtask test --kubeconfig FILE`: the contract suite against a real cluster, whether it takes what is shipped, and the
//! journeys that a cluster can have without taking orders, one at a time. What is not run is named, with the reason.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::{JOURNEYS, Program, Tally, programs, run_program};
use crate::scenarios;
use crate::setup::{Need, ensure};
use crate::shell::{root, run as run_command, say};
use crate::{build, privileges};

/// Which journeys those are.
const LIST: &str = "tests/real-cluster.txt";
/// How the lab is told of the cluster.
const KUBECONFIG: &str = "WEFT_TEST_KUBECONFIG";

/// A journey that is configured by an API server.
struct Listed {
    name: String,
    /// Why it is not run against a real one.
    left_out: Option<String>,
}

/// Runs what there is to run against the cluster of a kubeconfig; only journeys whose name contains `filter`, if there is
/// one, and then not the contract suite.
pub(crate) fn run(kubeconfig: &Path, filter: Option<&str>) -> Result<()> {
    let kubeconfig = kubeconfig.canonicalize().with_context(|| kubeconfig.display().to_string())?;
    let listed = listed()?;
    privileges::demand()?;
    ensure(&[Need::Lab, Need::Clients, Need::Kubectl])?;
    build::everything()?;
    let journeys = programs()?.into_iter().find(|program| program.name == JOURNEYS).context("no journeys")?;
    let mut tally = Tally::default();
    if filter.is_none()
        && let Err(problem) = contract(&journeys, &kubeconfig)
    {
        tally.failed.push(format!("the contract: {problem:#}"));
    }
    let chosen: Vec<&str> = listed
        .iter()
        .filter(|one| one.left_out.is_none() && filter.is_none_or(|filter| one.name.contains(filter)))
        .map(|one| one.name.as_str())
        .collect();
    if chosen.is_empty() {
        bail!("no journey of {LIST} that can be run against a real cluster has {:?} in its name", filter.unwrap_or(""));
    }
    run_program(&journeys, command(&journeys, &kubeconfig, &chosen)?, &mut tally)?;
    for name in chosen.iter().filter(|name| !tally.journeys.contains_key(**name)) {
        tally.failed.push(format!("journey {name} did not run"));
    }
    tell_left_out(&listed, filter)?;
    tally.report();
    if tally.failed.is_empty() { Ok(()) } else { bail!("{} failed", tally.failed.len()) }
}

/// The contract suite, and whether the cluster would take `deploy/weft.yaml` and the kinds as `weft crds` prints them.
fn contract(journeys: &Program, kubeconfig: &Path) -> Result<()> {
    let built = journeys.executable.ancestors().nth(2).context("an executable without a directory")?;
    let kinds = root().join("target/kinds.yaml");
    let printed = Command::new(built.join("weft")).arg("crds").output().context("running weft crds")?;
    std::fs::write(&kinds, printed.stdout).with_context(|| format!("writing {}", kinds.display()))?;
    say("the contract suite; it makes and deletes namespace demo and CRD widgets.example.dev");
    let mut command = Command::new(built.join("weft-apiserver"));
    command.arg("contract").arg("--kubeconfig").arg(kubeconfig);
    command.arg("--manifest").arg(root().join("deploy/weft.yaml")).arg("--manifest").arg(kinds);
    command.env("RUST_LIB_BACKTRACE", "0");
    run_command(&mut command)
}

/// The program with exactly these journeys, one at a time: they share the cluster.
fn command(journeys: &Program, kubeconfig: &Path, names: &[&str]) -> Result<Command> {
    let output =
        Command::new(&journeys.executable).args(["--list", "--format", "terse"]).stderr(Stdio::inherit()).output();
    let all = String::from_utf8(output.context("listing the journeys")?.stdout)?;
    let paths: Vec<&str> = all.lines().filter_map(|line| line.strip_suffix(": test")).collect();
    let mut command = privileges::as_root("env");
    command.arg(format!("{KUBECONFIG}={}", kubeconfig.display())).arg("RUST_LIB_BACKTRACE=0").arg(&journeys.executable);
    for name in names {
        let path = paths.iter().find(|path| path.rsplit("::").next() == Some(name));
        command.arg(path.with_context(|| format!("{LIST}: there is no journey {name}"))?);
    }
    command.args(["--exact", "--test-threads", "1"]).current_dir(&journeys.directory);
    Ok(command)
}

fn tell_left_out(listed: &[Listed], filter: Option<&str>) -> Result<()> {
    if filter.is_some() {
        println!("not run: the contract suite, and journeys that the filter leaves out");
    }
    for (one, why) in listed.iter().filter_map(|one| one.left_out.as_ref().map(|why| (one, why))) {
        println!("not run: {}: {why}", one.name);
    }
    let others = scenarios::listed()?.len().saturating_sub(listed.len());
    println!("not run: {others} journeys that no API server configures");
    Ok(())
}

/// Reads the list: `run NAME`, or `not NAME: why`; `#` begins a comment.
fn listed() -> Result<Vec<Listed>> {
    let text = std::fs::read_to_string(root().join(LIST)).with_context(|| format!("reading {LIST}"))?;
    let mut listed: Vec<Listed> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let one = match line.split_once(' ') {
            None if line.is_empty() => continue,
            Some(("run", name)) => Listed { name: name.to_owned(), left_out: None },
            Some(("not", rest)) => {
                let (name, why) = rest.split_once(": ").with_context(|| format!("{LIST}:{}: say why", number + 1))?;
                Listed { name: name.to_owned(), left_out: Some(why.to_owned()) }
            }
            _ => bail!("{LIST}:{}: expected `run NAME` or `not NAME: why`", number + 1),
        };
        if listed.iter().any(|known| known.name == one.name) {
            bail!("{LIST}:{}: {} is listed twice", number + 1, one.name);
        }
        listed.push(one);
    }
    Ok(listed)
}

#[cfg(test)]
mod tests {
    mod makes;

    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_journey_in_a_cluster_is_listed_and_no_other() {
        let made = makes::cluster_journeys(&root().join("tests/journeys")).expect("the journeys' sources");
        let listed: BTreeSet<String> = listed().expect("the list").into_iter().map(|one| one.name).collect();
        let missing: Vec<_> = made.difference(&listed).collect();
        assert!(missing.is_empty(), "{LIST} lacks journeys that make a lab with an API server: {missing:?}");
        let others: Vec<_> = listed.difference(&made).collect();
        assert!(
            others.is_empty(),
            "{LIST} names journeys that are none, or make no lab with an API server: {others:?}"
        );
    }
}
