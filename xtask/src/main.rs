//! `cargo xtask`: one file per verb. Every verb installs or builds what it needs by itself, and says so first.

mod bench;
mod build;
mod build_ebpf;
mod check;
mod demo;
mod fresh;
mod fuzz;
mod image;
mod lab;
mod layers;
mod peers;
mod privileges;
mod render;
mod sabotage;
mod scenarios;
mod setup;
mod shell;
mod test;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// Builds, checks, tests and shows Weft.
#[derive(Parser)]
#[command(name = "cargo xtask")]
enum Verb {
    /// Install what is missing on this machine, saying what and why first
    Setup {
        /// Only report; exit non-zero when something is missing
        #[arg(long)]
        check: bool,
    },
    /// Compile the eBPF programs into target/ebpf
    BuildEbpf,
    /// Compile everything: the eBPF programs, the agent, the lab
    Build,
    /// Write deploy/weft.yaml and the chart's CustomResourceDefinitions
    Render,
    /// Make an OCI archive of the agent, without a container engine
    Image(image::Arguments),
    /// Format, lints, docs, dependency direction, licences, spelling
    Check,
    /// Run every test and compare the journeys with tests/scenarios.txt
    Test {
        /// Run only tests whose name contains this; the scenario list is then not compared
        filter: Option<String>,
        /// Run the contract suite and the journeys of tests/real-cluster.txt against the cluster of this kubeconfig instead
        #[arg(long)]
        kubeconfig: Option<PathBuf>,
    },
    /// Break one line per scenario and see that its test notices
    Sabotage {
        /// Only these scenarios, or those whose names contain what is no name
        filters: Vec<String>,
    },
    /// Run the fuzz targets of agent/fuzz, each for a while
    Fuzz {
        /// Only this one
        target: Option<String>,
        /// How long each runs
        #[arg(long, default_value_t = fuzz::SMOKE_SECONDS)]
        seconds: u64,
    },
    /// Bring a lab up and open a shell in one of its pods
    Lab {
        /// The pod to enter
        #[arg(default_value = "client")]
        pod: String,
    },
    /// Watch two live processes join the mesh, in one screen
    Demo {
        /// In a cluster: an API server, and controller, agents and holders in containers as deploy/weft.yaml has them
        #[arg(long)]
        kube: bool,
    },
    /// Measure Weft beside a plain relay and its peers in one run; `bench --help` says what can be chosen
    #[command(disable_help_flag = true)]
    Bench {
        /// The micro-benchmarks of single decisions instead; arguments are criterion's
        #[arg(long)]
        micro: bool,
        /// What a cluster of 50,000 pods costs an agent instead
        #[arg(long, conflicts_with = "micro")]
        scale: bool,
        /// Arguments of the instrument
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Prove demo and test on a fresh Debian 12 in a debootstrap chroot
    Fresh,
}

fn main() -> ExitCode {
    match obey(Verb::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("error: {problem:#}");
            ExitCode::FAILURE
        }
    }
}

fn obey(verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Setup { check: true } => setup::report(),
        Verb::Setup { check: false } => setup::everything(),
        Verb::BuildEbpf => {
            setup::ensure(&[setup::Need::Ebpf])?;
            build_ebpf::run().map(|object| println!("{}", object.display()))
        }
        Verb::Build => build::everything(),
        Verb::Render => render::run(),
        Verb::Image(arguments) => image::run(&arguments),
        Verb::Check => check::all(),
        Verb::Test { filter, kubeconfig: Some(file) } => test::cluster::run(&file, filter.as_deref()),
        Verb::Test { filter, kubeconfig: None } => test::run(filter.as_deref()),
        Verb::Sabotage { filters } => sabotage::run(&filters),
        Verb::Fuzz { target, seconds } => fuzz::run(target.as_deref(), seconds),
        Verb::Lab { pod } => lab::run(&pod),
        Verb::Demo { kube } => demo::run(kube),
        Verb::Bench { micro, scale, arguments } => bench::run(micro, scale, &arguments),
        Verb::Fresh => fresh::run(),
    }
}
