//! Which journeys make a lab with an API server, by their sources: those that call what makes one, or a function that does.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result};

/// What makes such a lab.
const MAKES: [&str; 5] =
    ["Lab::cluster(", "Lab::cluster_of(", "Lab::installed(", "Lab::uninstalled(", "Lab::restored_cluster("];

struct Function {
    file: String,
    /// The type it belongs to.
    owner: Option<String>,
    name: String,
    body: String,
    test: bool,
}

impl Function {
    /// How it is called from this file.
    fn calls(&self, file: &str) -> Vec<String> {
        let name = &self.name;
        let module = self.file.rsplit('/').next().unwrap_or_default().trim_end_matches(".rs");
        match (&self.owner, self.file == file) {
            (Some(owner), true) => vec![format!("{owner}::{name}("), format!("Self::{name}("), format!(".{name}(")],
            (Some(owner), false) => vec![format!("{owner}::{name}(")],
            (None, true) => vec![format!(" {name}("), format!("({name}("), format!("!{name}(")],
            (None, false) => vec![format!("{module}::{name}(")],
        }
    }

    fn makes(&self, makers: &[&Self]) -> bool {
        MAKES.iter().any(|call| self.body.contains(call))
            || makers.iter().any(|maker| maker.calls(&self.file).iter().any(|call| self.body.contains(call)))
    }
}

/// The names of the tests among the files of a directory that make one.
pub(super) fn cluster_journeys(directory: &Path) -> Result<BTreeSet<String>> {
    let mut functions = Vec::new();
    read(directory, &mut functions)?;
    let mut makers: Vec<&Function> = Vec::new();
    loop {
        let more: Vec<&Function> = functions.iter().filter(|f| !f.test && f.makes(&makers)).collect();
        if more.len() == makers.len() {
            break;
        }
        makers = more;
    }
    Ok(functions.iter().filter(|f| f.test && f.makes(&makers)).map(|f| f.name.clone()).collect())
}

fn read(directory: &Path, functions: &mut Vec<Function>) -> Result<()> {
    for entry in std::fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            read(&path, functions)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            parse(&path.display().to_string(), &std::fs::read_to_string(&path)?, functions);
        }
    }
    Ok(())
}

/// Functions as rustfmt writes them: `impl` and its closing brace at the beginning of a line, a function's head on its own.
fn parse(file: &str, text: &str, functions: &mut Vec<Function>) {
    let (mut owner, mut before) = (None, "");
    for line in text.lines() {
        if line.starts_with("impl") {
            owner = line.trim_end_matches(" {").rsplit(' ').next().map(str::to_owned);
        } else if line == "}" {
            owner = None;
        }
        let head =
            line.trim().trim_start_matches("pub(crate) ").trim_start_matches("pub ").trim_start_matches("async ");
        if let Some(rest) = head.strip_prefix("fn ") {
            let name = rest.split(['(', '<']).next().unwrap_or_default().to_owned();
            let owner = owner.clone().filter(|_| line.starts_with(' '));
            functions.push(Function {
                file: file.to_owned(),
                owner,
                name,
                body: String::new(),
                test: before == "#[test]",
            });
        } else if let Some(last) = functions.last_mut().filter(|last| last.file == file) {
            last.body.push_str(line);
            last.body.push('\n');
        }
        before = line;
    }
}
