//! `cargo xtask test`: every test of every crate, the journeys against their list, and a smoke-run of the fuzz targets.
//!
//! Everything is compiled first, as the calling user; only the compiled tests run as root, which the lab needs.

pub(crate) mod cluster;
mod said;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::scenarios::{self, Outcome};
use crate::setup::{Need, ensure};
use crate::shell::{cargo, root, run as run_command, say, shown};
use crate::{build, fuzz, privileges};

/// Counts over all test programs.
#[derive(Default)]
struct Tally {
    passed: u64,
    /// Tests by their program and name, and whatever else did.
    failed: Vec<String>,
    /// What the failed tests said, by the same.
    said: BTreeMap<String, Vec<String>>,
    journeys: BTreeMap<String, Outcome>,
}

/// The program whose tests are the scenarios.
const JOURNEYS: &str = "journeys";

/// How many journeys run at once on each core: they wait for most of their time.
const AT_ONCE: usize = 2;

/// Runs the tests whose name contains `filter`, or all of them and everything around them.
pub(crate) fn run(filter: Option<&str>) -> Result<()> {
    privileges::demand()?;
    ensure(&[Need::Lab, Need::Clients, Need::Kubectl, Need::Helm])?;
    build::everything()?;
    let listed = scenarios::listed()?;
    let mut tally = Tally::default();
    for program in programs()? {
        run_program(&program, program.filtered(filter), &mut tally)?;
    }
    if filter.is_none() {
        if let Err(problem) = fuzz::run(None, fuzz::SMOKE_SECONDS) {
            tally.failed.push(format!("fuzz: {problem:#}"));
        }
        let problems = scenarios::compare(&listed, &tally.journeys);
        for problem in &problems {
            eprintln!("{problem}");
        }
        tally.failed.extend(problems);
    }
    tally.report();
    if !tally.failed.is_empty() {
        bail!("{} of {} failed", tally.failed.len(), tally.passed + tally.failed.len() as u64);
    }
    if tally.passed == 0 {
        bail!("no test ran");
    }
    Ok(())
}

impl Tally {
    /// Says what failed, and how much passed.
    fn report(&self) {
        for failed in &self.failed {
            eprintln!("failed: {failed}");
            self.said.get(failed).into_iter().flatten().for_each(|line| eprintln!("    {line}"));
        }
        println!("{} passed, {} failed", self.passed, self.failed.len());
    }
}

/// The journeys that name the DaemonSet, with its containers made of an image's root.
const OF_THE_DAEMONSET: &str = "deployment::";

/// Runs the DaemonSet's journeys with an unpacked image.
pub(crate) fn with_image(rootfs: &Path) -> Result<()> {
    ensure(&[Need::Lab])?;
    build::everything()?;
    let journeys = programs()?.into_iter().find(|program| program.name == JOURNEYS).context("no journeys")?;
    say(&format!("running the journeys of the DaemonSet with {}", rootfs.display()));
    let mut command = privileges::as_root("env");
    command.arg(format!("WEFT_TEST_ROOTFS={}", rootfs.display())).arg(&journeys.executable).arg(OF_THE_DAEMONSET);
    command.current_dir(&journeys.directory).env("RUST_LIB_BACKTRACE", "0");
    run_command(&mut command)
}

/// A compiled test program, and the directory its tests expect to run in.
struct Program {
    name: String,
    executable: PathBuf,
    directory: PathBuf,
}

impl Program {
    /// The tests whose name contains `filter`, or all of them, as many at once as the machine takes.
    fn filtered(&self, filter: Option<&str>) -> Command {
        let mut command = privileges::as_root(&self.executable);
        // Failures say what was expected and seen; the frames below them are the test runner's.
        command.current_dir(&self.directory).args(filter).env("RUST_LIB_BACKTRACE", "0");
        if self.name == JOURNEYS && std::env::var_os("RUST_TEST_THREADS").is_none() {
            let cores = std::thread::available_parallelism().map_or(1, Into::into);
            command.arg(format!("--test-threads={}", AT_ONCE * cores));
        }
        command
    }
}

/// Compiles all tests and lists their programs, the journeys last: they take longest.
fn programs() -> Result<Vec<Program>> {
    say("compiling the tests");
    let mut command = cargo();
    command.args(["test", "--no-run", "--message-format=json-render-diagnostics"]).stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot run `{}`", shown(&command)))?;
    let output = child.stdout.take().context("cargo has no output")?;
    let mut programs = Vec::new();
    for line in BufReader::new(output).lines() {
        let Ok(message) = serde_json::from_str::<serde_json::Value>(&line?) else { continue };
        let (Some(executable), Some(true)) = (message["executable"].as_str(), message["profile"]["test"].as_bool())
        else {
            continue;
        };
        let manifest = PathBuf::from(message["manifest_path"].as_str().unwrap_or_default());
        programs.push(Program {
            name: message["target"]["name"].as_str().unwrap_or_default().to_owned(),
            executable: executable.into(),
            directory: manifest.parent().map_or_else(root, Into::into),
        });
    }
    if !child.wait()?.success() {
        bail!("the tests do not compile");
    }
    programs.sort_by_key(|program| program.name == JOURNEYS);
    Ok(programs)
}

fn run_program(program: &Program, mut command: Command, tally: &mut Tally) -> Result<()> {
    say(&format!("running {}", program.name));
    command.stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot run {}", program.executable.display()))?;
    let output = child.stdout.take().context("the tests have no output")?;
    let (mut closed, mut failures, mut about) = (false, 0, None);
    for line in BufReader::new(output).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        // Test runners' own closing lines would be taken for ours: ours is the one that counts everything.
        if line.starts_with("test result:") {
            closed = true;
        } else {
            println!("{line}");
            let _ = std::io::stdout().flush();
        }
        said::listen(&line, &program.name, &mut about, &mut tally.said);
        let Some((name, outcome)) = parse(&line) else { continue };
        let short = name.rsplit("::").next().unwrap_or(name).to_owned();
        match outcome {
            Outcome::Passed => tally.passed += 1,
            Outcome::Failed => {
                failures += 1;
                tally.failed.push(format!("{} {name}", program.name));
            }
            Outcome::Ignored => {}
        }
        if program.name == JOURNEYS {
            tally.journeys.insert(short, outcome);
        }
    }
    let status = child.wait()?;
    if !closed || (!status.success() && failures == 0) {
        tally.failed.push(format!("{} ended early: {status}", program.name));
    }
    Ok(())
}

/// `test NAME ... ok`, as libtest prints it.
pub(crate) fn parse(line: &str) -> Option<(&str, Outcome)> {
    let (name, outcome) = line.strip_prefix("test ")?.split_once(" ... ")?;
    let outcome = match outcome.split([' ', ',']).next()? {
        "ok" => Outcome::Passed,
        "FAILED" => Outcome::Failed,
        "ignored" => Outcome::Ignored,
        _ => return None,
    };
    Some((name.trim_end_matches(" - should panic"), outcome))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libtest_lines_are_told_apart() {
        assert!(matches!(parse("test a::b ... ok"), Some(("a::b", Outcome::Passed))));
        assert!(matches!(parse("test a ... FAILED"), Some(("a", Outcome::Failed))));
        assert!(matches!(parse("test a ... ignored, why"), Some(("a", Outcome::Ignored))));
        assert!(parse("running 3 tests").is_none());
        assert!(parse("test result: ok. 3 passed; 0 failed").is_none());
    }
}
