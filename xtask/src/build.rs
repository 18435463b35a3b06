//! `cargo xtask build`: the eBPF programs first, since the agent carries them inside.

use anyhow::Result;

use crate::build_ebpf;
use crate::setup::{Need, ensure};
use crate::shell::{cargo, run, say};

/// Compiles everything that is run: programs, agent, lab.
pub(crate) fn everything() -> Result<()> {
    ensure(&[Need::Ebpf])?;
    say("compiling the eBPF programs");
    build_ebpf::run()?;
    say("compiling the agent and the lab");
    run(cargo().args(["build", "--bins"]))
}
