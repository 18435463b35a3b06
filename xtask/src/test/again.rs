//! The second chance of a test that failed: alone, and several times over.
//!
//! Journeys have deadlines, and a machine that stands still for longer than one of them (a paused virtual machine, a disk
//! that does not answer) fails a journey whatever it tests. Such a test passes every time once it has the machine to
//! itself; a defect does not. Nothing is hidden by it: a test that needed this is named in the last lines, with what it
//! said, and more than a few of them are a failure whatever they do alone.

use super::{Failure, Outcome, Tally};
use crate::shell::say;

/// More failed tests than this are no accident of the machine.
const TESTS_MAX: usize = 2;

/// How often in a row each has to pass.
const TIMES: usize = 3;

/// Runs the tests that failed again, and moves those that now pass from the failed to the unsteady.
pub(super) fn run(tally: &mut Tally) {
    if !worth_it(&tally.failed) {
        return;
    }
    let (passed, failed) = std::mem::take(&mut tally.failed).into_iter().partition(passes);
    tally.failed = failed;
    tally.unsteady = passed;
    for failure in &tally.unsteady {
        tally.passed += 1;
        let short = failure.what.rsplit([':', ' ']).next().unwrap_or_default();
        if let Some(outcome) = tally.journeys.get_mut(short) {
            *outcome = Outcome::Passed;
        }
    }
}

/// Whether all that failed is a few tests.
fn worth_it(failed: &[Failure]) -> bool {
    !failed.is_empty() && failed.len() <= TESTS_MAX && failed.iter().all(|failure| failure.test.is_some())
}

/// Whether a test passes every time it is run alone.
fn passes(failure: &Failure) -> bool {
    let Some((program, name)) = &failure.test else { return false };
    (1..=TIMES).all(|time| {
        say(&format!("running {} again, alone, {time} of {TIMES}", failure.what));
        let Ok(output) = program.command().args(["--exact", name]).output() else { return false };
        let log = String::from_utf8_lossy(&output.stdout);
        println!("{log}");
        // A name that no test has would pass as well.
        output.status.success() && log.contains(" 1 passed;")
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::super::Program;
    use super::*;

    /// A test of a program that is this script.
    fn failure(directory: &Path, name: &str, script: &str) -> Failure {
        let executable = directory.join(name);
        // By another process: a test that forks meanwhile would hold this one's descriptor, and the kernel runs no file
        // that is open for writing.
        let write = ["-c", "printf '#!/bin/sh\\n%s\\n' \"$2\" > \"$1\" && chmod 755 \"$1\"", "sh"];
        assert!(Command::new("sh").args(write).arg(&executable).arg(script).status().unwrap().success());
        let program = Program { name: "journeys".into(), executable, directory: directory.into() };
        Failure { what: format!("journeys m::{name}"), test: Some((program, format!("m::{name}"))) }
    }

    const PASSES: &str = "echo 'test result: ok. 1 passed; 0 failed'";

    #[test]
    fn only_a_few_tests_are_worth_it() {
        let dir = tempfile::tempdir().unwrap();
        let some = |names: &[&str]| names.iter().map(|name| failure(dir.path(), name, PASSES)).collect::<Vec<_>>();
        assert!(!worth_it(&[]));
        assert!(worth_it(&some(&["a", "b"])));
        assert!(!worth_it(&some(&["a", "b", "c"])));
        assert!(!worth_it(&["fuzz: it crashed".to_owned().into()]));
    }

    #[test]
    fn who_passes_every_time_is_unsteady_and_who_does_not_has_failed() {
        let dir = tempfile::tempdir().unwrap();
        let once = format!("{PASSES}; test -e once && exit 1; touch once");
        let failed = vec![failure(dir.path(), "steady", PASSES), failure(dir.path(), "once", &once)];
        let journeys = [("steady", Outcome::Failed), ("once", Outcome::Failed)];
        let mut tally = Tally { failed, ..Tally::default() };
        tally.journeys.extend(journeys.map(|(name, outcome)| (name.to_owned(), outcome)));
        run(&mut tally);
        assert_eq!(tally.failed.iter().map(|f| &f.what).collect::<Vec<_>>(), ["journeys m::once"]);
        assert_eq!(tally.unsteady.iter().map(|f| &f.what).collect::<Vec<_>>(), ["journeys m::steady"]);
        assert_eq!(tally.passed, 1);
        assert!(tally.journeys["steady"] == Outcome::Passed && tally.journeys["once"] == Outcome::Failed);
    }

    #[test]
    fn a_name_without_a_test_does_not_pass() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!passes(&failure(dir.path(), "nobody", "echo 'test result: ok. 0 passed; 0 failed'")));
    }
}
