//! What failed tests said, for the end of the log: that is what is read first, and what is kept of a long one.

use std::collections::BTreeMap;

/// How many lines of a failure are said once more at the end.
const SAID_MAX: usize = 12;

/// Keeps what libtest prints of a failed test of `program`, from its error on, by both names; `about` is whom it speaks of.
pub(super) fn listen(line: &str, program: &str, about: &mut Option<String>, said: &mut BTreeMap<String, Vec<String>>) {
    if let Some(name) = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----")) {
        *about = Some(format!("{program} {name}"));
    } else if line == "failures:" {
        *about = None;
    } else if let Some(name) = about {
        let lines = said.entry(name.clone()).or_default();
        let begins = line.starts_with("Error:") || line.contains("panicked at");
        if (begins || !lines.is_empty()) && lines.len() < SAID_MAX && !line.is_empty() {
            lines.push(line.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_failed_test_said_is_kept() {
        let (mut about, mut said) = (None, BTreeMap::new());
        let log = "failures:\n\n---- a::b stdout ----\na log line\nError: too few\n\nCaused by:\n    one\n\nfailures:\n    a::b";
        log.lines().for_each(|line| listen(line, "journeys", &mut about, &mut said));
        assert_eq!(said["journeys a::b"], ["Error: too few", "Caused by:", "    one"]);
        assert_eq!(said.len(), 1);
    }
}
