//! `cargo xtask lab`: two meshed nodes and a shell in one of their pods.

use anyhow::Result;

use crate::setup::{Need, ensure};
use crate::shell::{root, run as run_command};
use crate::{build, privileges};

/// Brings the lab up and opens a shell in a pod; leaving the shell takes it down.
pub(crate) fn run(pod: &str) -> Result<()> {
    hand_over("lab-shell", &[pod])
}

/// Builds everything, then gives the terminal to one of the lab's programs, as root.
pub(crate) fn hand_over(program: &str, arguments: &[&str]) -> Result<()> {
    privileges::demand()?;
    ensure(&[Need::Lab])?;
    build::everything()?;
    run_command(privileges::as_root(root().join("target/debug").join(program)).args(arguments))
}
