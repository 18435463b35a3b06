//! Puts a program into a pod: joins the network namespace and the cgroup while single-threaded, then becomes it, so that
//! the pid the lab knows is the program's own.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;
use nix::sched::{CloneFlags, setns};

/// Where to run what.
#[derive(Args)]
pub(crate) struct Enter {
    /// File of the network namespace.
    #[arg(long)]
    netns: PathBuf,
    /// Directory of the cgroup.
    #[arg(long)]
    cgroup: PathBuf,
    /// The program and its arguments.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    command: Vec<OsString>,
}

impl Enter {
    pub(crate) fn exec(self) -> Result<()> {
        let procs = self.cgroup.join("cgroup.procs");
        std::fs::write(&procs, std::process::id().to_string())
            .with_context(|| format!("joining {}", procs.display()))?;
        let netns = File::open(&self.netns).with_context(|| format!("opening {}", self.netns.display()))?;
        setns(netns, CloneFlags::CLONE_NEWNET).context("entering the network namespace")?;
        let Some((program, arguments)) = self.command.split_first() else { bail!("no program named") };
        Err(Command::new(program).args(arguments).exec()).with_context(|| format!("running {}", program.display()))
    }
}
