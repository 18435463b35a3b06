//! `cargo xtask bench`: everything built as it would be shipped, then the instrument of `bench/`; with `--micro`
//! the micro-benchmarks of single decisions instead, with `--scale` one agent that follows a big cluster.

use anyhow::Result;

use crate::setup::{Need, ensure};
use crate::shell::{cargo, root, run as run_command, say};
use crate::{build_ebpf, privileges};

/// Builds in release and hands the terminal to `weft-bench`, as root, with the arguments it was given.
pub(crate) fn run(micro: bool, scale: bool, arguments: &[String]) -> Result<()> {
    if micro {
        say("compiling and running the micro-benchmarks");
        // By itself: all other packages' tests would bring features of their own, and everything be compiled again.
        let mut bench = cargo();
        bench.args(["bench", "--package", "weft-bench", "--bench", "micro", "--"]).args(arguments);
        return run_command(&mut bench);
    }
    privileges::demand()?;
    ensure(if scale { &[Need::Lab, Need::Ebpf] } else { &[Need::Lab, Need::Ebpf, Need::Peers] })?;
    say("compiling the eBPF programs");
    build_ebpf::run()?;
    say("compiling the agent, the lab and the instrument, optimised");
    run_command(cargo().args(["build", "--release", "--bins"]))?;
    let mut bench =
        privileges::as_root(root().join("target/release").join(if scale { "weft-scale" } else { "weft-bench" }));
    run_command(bench.args(arguments).current_dir(root()))
}
