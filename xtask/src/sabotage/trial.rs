//! Running journeys of a build, and what their ends mean.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::table::Break;
use crate::{privileges, scenarios, test};

/// What a broken journey may take, in seconds: the longest goes on for a minute, and fails after waits of up to three.
const DEADLINE: u64 = 300;

/// What all of them may take together, without a break.
const DEADLINE_UNBROKEN: u64 = 1800;

/// How much of a failure is shown.
const SHOWN: usize = 200;

/// How a scenario took its break.
pub(super) enum Outcome {
    /// It failed, and of that; what it said.
    Red(String),
    /// It failed of something else.
    RedOtherwise(String),
    /// It passed.
    Green,
    /// It proves nothing, and why.
    Unsound(String),
}

/// One scenario's break and what came of it.
pub(super) struct Trial {
    pub(super) scenario: String,
    pub(super) outcome: Outcome,
    pub(super) took: Duration,
}

impl Trial {
    /// Whether the scenario noticed.
    pub(super) fn is_red(&self) -> bool {
        matches!(self.outcome, Outcome::Red(_))
    }
}

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, text) = match &self.outcome {
            Outcome::Red(text) => ("red", text.as_str()),
            Outcome::RedOtherwise(text) => ("RED OTHERWISE", text.as_str()),
            Outcome::Green => ("GREEN", ""),
            Outcome::Unsound(text) => ("UNSOUND", text.as_str()),
        };
        let shown: String = text.chars().take(if self.is_red() { SHOWN } else { 10 * SHOWN }).collect();
        write!(f, "{:40} {word:13} {:3} s  {shown}", self.scenario, self.took.as_secs())
    }
}

/// The journeys' full names by scenario.
pub(super) type Names = BTreeMap<String, String>;

/// Asks a build for its journeys.
pub(super) fn journeys(programs: &Path) -> Result<Names> {
    let output =
        std::process::Command::new(programs.join("journeys")).args(["--list", "--format", "terse"]).output()?;
    let listing = String::from_utf8_lossy(&output.stdout).into_owned();
    let names = listing.lines().filter_map(|line| line.strip_suffix(": test"));
    Ok(names.map(|name| (name.rsplit("::").next().unwrap_or(name).to_owned(), name.to_owned())).collect())
}

/// Runs the journeys of these breaks without any of them; yields those that failed, and how.
pub(super) fn unbroken(programs: &Path, breaks: &[Break], names: &Names) -> Result<BTreeMap<String, String>> {
    let scenarios: BTreeSet<&str> = breaks.iter().map(|broken| broken.scenario.as_str()).collect();
    let mut wanted = Vec::new();
    for scenario in &scenarios {
        wanted.push(names.get(*scenario).with_context(|| format!("{scenario} has no journey"))?.as_str());
    }
    let output = execute(programs, &wanted, DEADLINE_UNBROKEN)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let passed: BTreeSet<&str> = text
        .lines()
        .filter_map(test::parse)
        .filter(|(_, outcome)| *outcome == scenarios::Outcome::Passed)
        .map(|(name, _)| name)
        .collect();
    let failed = wanted.iter().filter(|name| !passed.contains(**name));
    Ok(failed
        .map(|name| {
            let scenario = name.rsplit("::").next().unwrap_or(name).to_owned();
            (scenario, format!("it fails without any break: {}", complaint(&text, name)))
        })
        .collect())
}

/// Runs the journey of one break.
pub(super) fn run(programs: &Path, broken: &Break, names: &Names) -> Outcome {
    let Some(name) = names.get(&broken.scenario) else { return Outcome::Unsound("it has no journey".into()) };
    let output = match execute(programs, &[name.as_str()], DEADLINE) {
        Ok(output) => output,
        Err(problem) => return Outcome::Unsound(format!("{problem:#}")),
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let _ = std::fs::write(logs().join(format!("{}.log", broken.scenario)), &text);
    let outcome = text.lines().filter_map(test::parse).find(|(ran, _)| ran == name).map(|(_, outcome)| outcome);
    match (outcome, output.status.code()) {
        (Some(scenarios::Outcome::Passed), Some(0)) => Outcome::Green,
        (Some(scenarios::Outcome::Failed), Some(_)) => {
            let complaint = complaint(&text, name);
            if complaint.contains(&broken.says) { Outcome::Red(complaint) } else { Outcome::RedOtherwise(complaint) }
        }
        // 124 is what `timeout` says; a journey waits with deadlines and must end by itself, whatever it meets.
        (_, Some(124)) => Outcome::Unsound(format!("it did not end within {DEADLINE} s")),
        _ => Outcome::Unsound(format!("the journeys ended with {}: {text}", output.status)),
    }
}

/// Where all that the broken journeys said is kept.
pub(super) fn logs() -> PathBuf {
    crate::shell::root().join("target/sabotage/logs")
}

/// Runs these journeys as root, killed when they take too long.
fn execute(programs: &Path, names: &[&str], deadline: u64) -> Result<Output> {
    let journeys = programs.join("journeys");
    if !journeys.exists() {
        bail!("{} was not compiled", journeys.display());
    }
    let mut command = privileges::as_root("timeout");
    command.args(["--kill-after=10", &deadline.to_string()]).arg(journeys).arg("--exact").args(names);
    command.current_dir(crate::shell::root().join("target/sabotage/tree/tests")).env("RUST_LIB_BACKTRACE", "0");
    command.output().context("running the journeys")
}

/// What a failed journey said, on one line: libtest shows it below a heading, after all that was printed meanwhile.
fn complaint(text: &str, name: &str) -> String {
    let heading = format!("---- {name} stdout ----");
    let below = text.lines().skip_while(|line| *line != heading).skip(1);
    let ends = |line: &str| line == "failures:" || (line.starts_with("---- ") && line.ends_with(" stdout ----"));
    let said: Vec<&str> = below.take_while(|line| !ends(line)).collect();
    let last = said.iter().rposition(|line| line.starts_with("Error: ") || line.starts_with("thread '"));
    said[last.unwrap_or(0)..].join(" ").split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::complaint;

    #[test]
    fn a_complaint_is_what_the_journey_ended_with() {
        let text = "test a::b ... FAILED\n\nfailures:\n\n---- a::c stdout ----\nError: other\n\n---- a::b stdout ----\n\
                    ---- the end of a.log\na line\nError: not so\n\nCaused by:\n    that\n\nfailures:\n    a::b\n";
        assert_eq!(complaint(text, "a::b"), "Error: not so Caused by: that");
        assert_eq!(complaint(text, "a::d"), "");
    }
}
