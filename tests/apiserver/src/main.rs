//! `weft-apiserver`: the API server double as a process, and the contract suite against any cluster.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use weft_apiserver::contract::{self, Target};
use weft_apiserver::{Config, Server};

/// A Kubernetes API server to test with.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Serves until it is interrupted.
    Serve {
        /// Where to listen; port 0 is any free one.
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
        /// Serves TLS.
        #[arg(long)]
        tls: bool,
        /// Lets RBAC objects decide what callers may do.
        #[arg(long)]
        rbac: bool,
        /// Changes to remember for each kind before older revisions are gone.
        #[arg(long, default_value_t = Config::default().history)]
        history: usize,
        /// Objects that are there from the start, one a line of JSON, as a backup of etcd would have them.
        #[arg(long)]
        restore: Option<PathBuf>,
        /// Where to write the kubeconfig of system:admin; standard output if absent.
        #[arg(long)]
        kubeconfig: Option<PathBuf>,
    },
    /// Replays the recorded exchanges and says what differs. Makes and deletes namespace `demo` and CRD
    /// `widgets.example.dev`. Then asks whether the manifests named would be taken, without writing them.
    Contract {
        /// The cluster to hold to the contract.
        #[arg(long)]
        kubeconfig: PathBuf,
        /// Files of objects, sent by server-side apply as a dry run with strict validation; may be given more than once.
        #[arg(long = "manifest")]
        manifests: Vec<PathBuf>,
    },
}

#[tokio::main]
async fn main() -> Result<()> {
    match Arguments::parse().what {
        What::Serve { listen, tls, rbac, history, restore, kubeconfig } => {
            let server = Server::start(listen, Config { tls, rbac, history, ..Config::default() }).await?;
            if let Some(path) = restore {
                let file = std::fs::File::open(&path).with_context(|| format!("opening {}", path.display()))?;
                let count =
                    server.restore(std::io::BufReader::new(file)).with_context(|| path.display().to_string())?;
                println!("restored {count} objects");
            }
            match kubeconfig {
                Some(path) => {
                    std::fs::write(&path, server.kubeconfig())
                        .with_context(|| format!("writing {}", path.display()))?;
                    println!("serving {}", server.url());
                }
                None => print!("{}", server.kubeconfig()),
            }
            tokio::signal::ctrl_c().await?;
        }
        What::Contract { kubeconfig, manifests } => hold_to_contract(&kubeconfig, &manifests).await?,
    }
    Ok(())
}

/// Replays the recording, then tries the manifests; fails with how much differs and is refused.
async fn hold_to_contract(kubeconfig: &Path, manifests: &[PathBuf]) -> Result<()> {
    let target = Target::from_kubeconfig(kubeconfig)?;
    let outcomes = contract::replay(&target).await?;
    for outcome in &outcomes {
        println!("{outcome}");
    }
    let differ = outcomes.iter().filter(|outcome| !outcome.differences.is_empty()).count();
    println!("{} of {} exchanges equal", outcomes.len() - differ, outcomes.len());
    let mut refused = 0;
    for path in manifests {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let (count, remarks) = contract::accepts(&target, &text).await.with_context(|| path.display().to_string())?;
        for remark in &remarks {
            let word = if remark.refused { "REFUSED" } else { "warned of" };
            println!("{word} {} of {}\n    {}", remark.object, path.display(), remark.text);
        }
        let refusals = remarks.iter().filter(|remark| remark.refused).count();
        println!("{} of {count} objects of {} accepted", count - refusals, path.display());
        refused += refusals;
    }
    if differ + refused > 0 {
        bail!("{differ} exchanges differ from what was recorded, {refused} objects are refused");
    }
    Ok(())
}
