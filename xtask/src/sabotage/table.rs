//! `tests/sabotage.json`: a break for every scenario of `tests/scenarios.txt`, none missing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::scenarios;
use crate::shell::root;

/// A line to break.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Line {
    /// Its file, from the workspace's root.
    pub(super) file: String,
    /// Text that occurs in the file once.
    pub(super) old: String,
    /// What stands there when it is broken.
    pub(super) new: String,
}

/// What one scenario is tried with.
#[derive(Clone)]
pub(super) struct Break {
    /// The scenario, and its journey's name.
    pub(super) scenario: String,
    /// The line.
    pub(super) line: Line,
    /// What the journey's failure has to contain: it shall fail in what the scenario is about.
    pub(super) says: String,
}

/// Reads the table and reports everything that is wrong with it.
pub(super) fn read() -> Result<Vec<Break>> {
    let listed = scenarios::listed()?;
    let text = fs::read_to_string(root().join("tests/sabotage.json")).context("reading tests/sabotage.json")?;
    let entries: Vec<Value> = serde_json::from_str(&text).context("tests/sabotage.json")?;
    let (mut breaks, mut problems) = (Vec::new(), Vec::new());
    for entry in entries {
        match parse(&entry).and_then(|broken| fits(&broken, &listed).map(|()| broken)) {
            Ok(broken) => breaks.push(broken),
            Err(problem) => problems.push(format!("{problem:#}")),
        }
    }
    let mut broken = BTreeSet::new();
    for Break { scenario, .. } in &breaks {
        if !broken.insert(scenario) {
            problems.push(format!("{scenario} has two breaks"));
        }
    }
    let missing = listed.keys().filter(|name| !broken.contains(name));
    problems.extend(missing.map(|name| format!("{name} of tests/scenarios.txt has no break")));
    if problems.is_empty() { Ok(breaks) } else { bail!("tests/sabotage.json:\n  {}", problems.join("\n  ")) }
}

fn parse(entry: &Value) -> Result<Break> {
    let word = |key: &str| {
        let text = entry[key].as_str().map(str::to_owned);
        text.with_context(|| format!("an entry lacks {key:?}: {entry}"))
    };
    let line = Line { file: word("file")?, old: word("old")?, new: word("new")? };
    Ok(Break { scenario: word("scenario")?, line, says: word("says")? })
}

fn fits(broken: &Break, listed: &BTreeMap<String, String>) -> Result<()> {
    let Break { scenario, line: Line { file, old, new }, says } = broken;
    if !listed.contains_key(scenario) {
        bail!("{scenario} is not in tests/scenarios.txt");
    }
    if file.starts_with("tests/") && !scenario.starts_with("lab_") {
        bail!("{scenario} breaks {file}: only scenarios about the lab may break the lab");
    }
    if says.is_empty() || old == new {
        bail!("{scenario}: the break changes nothing, or anything counts as its failure");
    }
    let source = fs::read_to_string(root().join(file)).with_context(|| format!("{scenario}: {file}"))?;
    if source.matches(old).count() != 1 {
        bail!("{scenario}: {old:?} does not occur exactly once in {file}");
    }
    Ok(())
}

/// Scenarios by the line they break, in the order of files: neighbours share most of their compilation.
pub(super) fn by_line(breaks: Vec<Break>) -> Vec<(Line, Vec<Break>)> {
    let mut groups: BTreeMap<Line, Vec<Break>> = BTreeMap::new();
    for broken in breaks {
        groups.entry(broken.line.clone()).or_default().push(broken);
    }
    groups.into_iter().collect()
}

/// The breaks of the scenarios a filter names, or, where it names none, of those whose name contains it; all without a
/// filter.
pub(super) fn chosen(breaks: Vec<Break>, filters: &[String]) -> Vec<Break> {
    let names: Vec<String> = breaks.iter().map(|broken| broken.scenario.clone()).collect();
    let takes = |filter: &String, name: &str| {
        if names.contains(filter) { filter == name } else { name.contains(filter.as_str()) }
    };
    let wanted = |name: &str| filters.is_empty() || filters.iter().any(|filter| takes(filter, name));
    breaks.into_iter().filter(|broken| wanted(&broken.scenario)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_has_a_break_that_fits_the_tree() {
        if let Err(problem) = read() {
            panic!("{problem:#}");
        }
    }

    #[test]
    fn a_name_chooses_itself_and_a_part_of_names_all_of_them() {
        let named = |name: &str| {
            let nothing = String::new;
            let line = Line { file: nothing(), old: nothing(), new: nothing() };
            Break { scenario: name.into(), line, says: nothing() }
        };
        let of = |filters: &[&str]| -> Vec<String> {
            let breaks = ["path", "rewrite_path", "query"].map(named).into();
            let filters: Vec<String> = filters.iter().map(|filter| (*filter).to_owned()).collect();
            chosen(breaks, &filters).into_iter().map(|broken| broken.scenario).collect()
        };
        assert_eq!(of(&[]), ["path", "rewrite_path", "query"]);
        assert_eq!(of(&["path"]), ["path"]);
        assert_eq!(of(&["pat", "query"]), ["path", "rewrite_path", "query"]);
        assert!(of(&["elsewhere"]).is_empty());
    }
}
