//! The copy of the work tree that is broken, and what is compiled of it.

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::table::Line;
use crate::build_ebpf;
use crate::shell::{root, say};

/// The copy. Only the thread that compiles touches it.
pub(super) struct Copy {
    base: PathBuf,
    tree: PathBuf,
    /// The eBPF object is that of the tree as it is.
    programs_fit: Cell<bool>,
}

impl Copy {
    /// Copies what git knows of, with the work tree's contents, and what is compiled already of the dependencies.
    pub(super) fn make() -> Result<Self> {
        let base = root().join("target/sabotage");
        let tree = base.join("tree");
        fs::create_dir_all(&tree)?;
        let listing =
            Command::new("git").args(["ls-files", "-co", "--exclude-standard"]).current_dir(root()).output()?;
        let listing = String::from_utf8_lossy(&listing.stdout).into_owned();
        let files: Vec<&Path> = listing.lines().map(Path::new).filter(|file| root().join(file).is_file()).collect();
        remove_others(&tree, &files)?;
        for file in files {
            update(&root().join(file), &tree.join(file))?;
        }
        seed(&base.join("target/debug"))?;
        lend_tools(&tree)?;
        Ok(Self { base, tree, programs_fit: Cell::new(false) })
    }

    /// Breaks a line; yields what [`Copy::mend`] puts back.
    pub(super) fn break_line(&self, line: &Line) -> Result<String> {
        let whole = fs::read_to_string(self.tree.join(&line.file))?;
        self.write(line, &whole.replacen(&line.old, &line.new, 1))?;
        Ok(whole)
    }

    /// Puts the file of a broken line back.
    pub(super) fn mend(&self, line: &Line, whole: &str) -> Result<()> {
        self.write(line, whole)
    }

    fn write(&self, line: &Line, text: &str) -> Result<()> {
        if line.file.starts_with("ebpf/") {
            self.programs_fit.set(false);
        }
        fs::write(self.tree.join(&line.file), text).with_context(|| line.file.clone())
    }

    /// Compiles the tree and puts the programs aside, so that the next may be compiled while these run. Two builds are
    /// kept: the one that runs and the one that waits.
    pub(super) fn build(&self, number: usize) -> Result<PathBuf> {
        if !self.programs_fit.get() {
            build_ebpf::run_in(&self.tree).context("a break that does not compile is a mistake of the table")?;
            self.programs_fit.set(true);
        }
        // At a lower priority than the journeys: a broken build may take its time, a journey has deadlines.
        let mut command = Command::new("nice");
        command.args(["-n", "5"]).arg(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(["build", "--quiet", "--bins", "--test", "journeys", "--message-format=json"]);
        let output = command
            .current_dir(&self.tree)
            .env("CARGO_TARGET_DIR", self.base.join("target"))
            // Nobody debugs a broken build.
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            // The linker's path counts as part of every dependency: with the copy's own, what was seeded would not do.
            .env(linker(), std::env::var_os(linker()).unwrap_or_else(|| root().join("xtask/host-cc").into()))
            .env("WEFT_EBPF_OBJECT", build_ebpf::object_in(&self.tree))
            .output()
            .context("running cargo")?;
        let messages: Vec<Value> = String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        if !output.status.success() {
            let first = messages.iter().find(|message| message["message"]["level"] == "error");
            let said = first.and_then(|message| message["message"]["rendered"].as_str()).map(str::to_owned);
            let said = said.unwrap_or_else(|| String::from_utf8_lossy(&output.stderr).into_owned());
            bail!("it does not compile, a mistake of the table: {said}");
        }
        let programs = self.base.join("programs").join((number % 2).to_string());
        let _ = fs::remove_dir_all(&programs);
        fs::create_dir_all(&programs)?;
        for message in &messages {
            let (Some(executable), Some(name)) = (message["executable"].as_str(), message["target"]["name"].as_str())
            else {
                continue;
            };
            fs::copy(executable, programs.join(name)).with_context(|| format!("putting {name} aside"))?;
        }
        Ok(programs)
    }
}

/// Copies a file unless it is the same already: what is not touched is not compiled again.
fn update(from: &Path, to: &Path) -> Result<()> {
    let contents = fs::read(from).with_context(|| from.display().to_string())?;
    if fs::read(to).is_ok_and(|theirs| theirs == contents) {
        return Ok(());
    }
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    // `fs::copy` keeps the permissions; the time has to be new, or cargo would not look.
    fs::copy(from, to).map(drop).with_context(|| format!("copying {}", from.display()))
}

/// Removes what the work tree no longer has.
fn remove_others(tree: &Path, files: &[&Path]) -> Result<()> {
    let mut directories = vec![tree.to_path_buf()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory)?.flatten() {
            let path = entry.path();
            let Ok(relative) = path.strip_prefix(tree) else { continue };
            if relative.starts_with("target") {
                continue;
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                directories.push(path);
            } else if !files.contains(&relative) {
                fs::remove_file(&path)?;
            }
        }
    }
    Ok(())
}

/// Programs that `cargo xtask setup` has installed below `target`: journeys look for them in their own tree's.
fn lend_tools(tree: &Path) -> Result<()> {
    let there = tree.join("target/tools");
    if there.symlink_metadata().is_err() {
        fs::create_dir_all(tree.join("target"))?;
        symlink(root().join("target/tools"), &there).with_context(|| there.display().to_string())?;
    }
    Ok(())
}

/// The dependencies do not depend on where the workspace lies: what the work tree has of them need not be compiled.
fn seed(target: &Path) -> Result<()> {
    let ours = root().join("target/debug");
    if target.exists() || !ours.exists() {
        return Ok(());
    }
    say("copying compiled dependencies");
    fs::create_dir_all(target)?;
    for part in ["deps", "build", ".fingerprint"] {
        let status = Command::new("cp").args(["-a", "--reflink=auto"]).arg(ours.join(part)).arg(target).status()?;
        if !status.success() {
            bail!("cannot copy {}: {status}", ours.join(part).display());
        }
    }
    Ok(())
}

/// The variable that names this machine's linker, in place of `.cargo/config.toml`.
fn linker() -> String {
    format!("CARGO_TARGET_{}_UNKNOWN_LINUX_GNU_LINKER", std::env::consts::ARCH.to_uppercase())
}
