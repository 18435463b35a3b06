//! `cargo xtask fresh`: the README's promise, kept on a machine that has nothing.
//!
//! A debootstrap chroot of Debian 12 with only rustup's toolchain mounted; in it a clean clone runs `cargo xtask demo`
//! and then `cargo xtask test`. The script does the mounting, so that it can also be read and run alone.

use anyhow::Result;

use crate::privileges;
use crate::shell::{root, run as run_command};

/// Runs the script as root.
pub(crate) fn run() -> Result<()> {
    privileges::demand()?;
    run_command(privileges::as_root(root().join("tests/fresh-machine.sh")).current_dir(root()))
}
