//! `tests/scenarios.txt`: every scenario the project has promised, and whether its test exists, ran and is listed.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};

use crate::shell::root;

/// How a test of the journeys ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It passed.
    Passed,
    /// It failed.
    Failed,
    /// It did not run.
    Ignored,
}

/// The listed scenarios: a line each, the issue that promised it and its name; `#` begins a comment.
pub(crate) fn listed() -> Result<BTreeMap<String, String>> {
    let text = std::fs::read_to_string(root().join("tests/scenarios.txt")).context("reading tests/scenarios.txt")?;
    let mut listed = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let Some((issue, name)) = line.split_once(' ') else {
            bail!("tests/scenarios.txt:{}: expected `issue name`", number + 1)
        };
        if listed.insert(name.trim().to_owned(), issue.to_owned()).is_some() {
            bail!("tests/scenarios.txt:{}: {name} is listed twice", number + 1);
        }
    }
    Ok(listed)
}

/// What is wrong between the list and what ran; empty when all is well. Failures are the tests' own to report.
pub(crate) fn compare(listed: &BTreeMap<String, String>, ran: &BTreeMap<String, Outcome>) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, issue) in listed {
        match ran.get(name) {
            None => problems.push(format!("scenario {name} (issue {issue}) has no test")),
            Some(Outcome::Ignored) => problems.push(format!("scenario {name} (issue {issue}) is ignored")),
            Some(Outcome::Passed | Outcome::Failed) => {}
        }
    }
    let unlisted: BTreeSet<_> = ran.keys().filter(|name| !listed.contains_key(*name)).collect();
    problems.extend(unlisted.into_iter().map(|name| format!("journey {name} is not in tests/scenarios.txt")));
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_ignored_and_unlisted_are_all_noticed() {
        let listed = ["a", "b", "c"].map(|name| (name.to_owned(), "1".to_owned())).into();
        let ran = [("b", Outcome::Ignored), ("c", Outcome::Passed), ("d", Outcome::Passed)]
            .map(|(n, o)| (n.to_owned(), o))
            .into();
        let problems = compare(&listed, &ran);
        assert_eq!(problems.len(), 3, "{problems:?}");
        for (name, problem) in ["a", "b", "d"].iter().zip(&problems) {
            assert!(problem.contains(&format!(" {name} ")), "{problem}");
        }
    }
}
