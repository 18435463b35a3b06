//! `cargo xtask`: one file per verb.

mod build_ebpf;

use clap::Parser;

/// Builds, checks, tests and shows Weft.
#[derive(Parser)]
#[command(name = "cargo xtask")]
enum Verb {
    /// Compile the eBPF programs into target/ebpf
    BuildEbpf,
}

fn main() -> anyhow::Result<()> {
    match Verb::parse() {
        Verb::BuildEbpf => build_ebpf::run().map(|object| println!("{}", object.display())),
    }
}
