//! `cargo xtask bench --scale`: what a big cluster costs an agent; and the processes it runs inside pods.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use weft_bench::scale::{self, Settings, probe};

/// Measures what a big cluster costs an agent.
#[derive(Parser)]
#[command(name = "cargo xtask bench --scale", args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    role: Option<Role>,
    #[command(flatten)]
    run: Run,
}

#[derive(Args)]
struct Run {
    /// Services, each with its pods
    #[arg(long, default_value_t = Settings::default().size.services)]
    services: usize,
    /// Pods of each
    #[arg(long, default_value_t = Settings::default().size.replicas)]
    replicas: usize,
    /// Endpoint changes a second
    #[arg(long, default_value_t = Settings::default().rate)]
    rate: u32,
    /// Seconds the agent's CPU time is counted for while endpoints change
    #[arg(long, default_value_t = Settings::default().window.as_secs())]
    seconds: u64,
    /// Changes that are timed
    #[arg(long, default_value_t = Settings::default().changes)]
    changes: usize,
    /// More pods of the agent's own node, all in the mesh; the lab has addresses for 240
    #[arg(long, default_value_t = 0)]
    local: usize,
    /// In their place: how much the watches of so many agents cost the API server
    #[arg(long)]
    agents: Option<usize>,
    /// In their place: how long so many new pods, one after another, are not captured
    #[arg(long)]
    enrol: Option<usize>,
    /// Where the result is written
    #[arg(long, default_value = "target/bench")]
    output: PathBuf,
}

#[derive(Subcommand)]
enum Role {
    /// A server that says who it is
    #[command(hide = true)]
    Serve {
        #[arg(long)]
        listen: SocketAddr,
        #[arg(long)]
        name: String,
    },
    /// A client that prints when it is captured
    #[command(hide = true)]
    Dial {
        #[arg(long)]
        to: SocketAddr,
    },
    /// A client that prints who answers
    #[command(hide = true)]
    Watch {
        #[arg(long)]
        to: SocketAddr,
    },
}

fn main() -> Result<ExitCode> {
    let Arguments { role, run } = Arguments::parse();
    match role {
        Some(Role::Serve { listen, name }) => probe::serve(listen, &name)?,
        Some(Role::Watch { to }) => probe::watch(to)?,
        Some(Role::Dial { to }) => probe::dial(to)?,
        None => return measure(&run),
    }
    Ok(ExitCode::SUCCESS)
}

fn measure(run: &Run) -> Result<ExitCode> {
    let say = |what: &str| eprintln!("==> {what}");
    std::fs::create_dir_all(&run.output)?;
    if let Some(agents) = run.agents {
        let report = scale::crowd(&scale::Crowd::of(agents), &say)?;
        std::fs::write(run.output.join("crowd.json"), serde_json::to_string_pretty(&report)?)?;
        print!("{}", report.render());
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(pods) = run.enrol {
        let report = scale::enrol(pods, &say)?;
        std::fs::write(run.output.join("enrol.json"), serde_json::to_string_pretty(&report)?)?;
        print!("{}", report.render());
        return Ok(ExitCode::SUCCESS);
    }
    let mut settings = Settings { rate: run.rate, changes: run.changes, local: run.local, ..Settings::default() };
    (settings.size.services, settings.size.replicas) = (run.services, run.replicas);
    settings.window = Duration::from_secs(run.seconds);
    let report = scale::run(&settings, &say)?;
    println!("{}", report.write(&run.output)?.display());
    print!("{}", report.render());
    let met = report.bars().iter().all(scale::Bar::met);
    Ok(if met { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
