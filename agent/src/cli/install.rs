//! `weft install`, `upgrade` and `uninstall`: the installation of `weft-control`, told line by line.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use weft_control::install::{self, Installed, Left, Object, Outcome, Settings};
use weft_control::kubernetes;

use super::Output;

/// How to reach the cluster.
#[derive(Debug, clap::Args)]
struct Cluster {
    /// A kubeconfig, whose current context says how to reach the cluster [default: $KUBECONFIG, or ~/.kube/config]
    #[arg(long, env = "WEFT_KUBECONFIG", value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Say what would be done, as the API server judges it, and do nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct InstallArgs {
    #[command(flatten)]
    cluster: Cluster,
    /// The image of the agents, in place of the one the manifests name
    #[arg(long, value_name = "REPOSITORY:TAG")]
    image: Option<String>,
    /// Take over fields that another program or person has set to other values
    #[arg(long)]
    force_conflicts: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct UninstallArgs {
    #[command(flatten)]
    cluster: Cluster,
    /// Delete the kinds of weft.dev as well, and every policy that was written in them
    #[arg(long)]
    crds: bool,
    /// How long the agents get to take their pods out of the mesh
    #[arg(long, value_name = "TIME", default_value = "90s")]
    wait: String,
}

pub(super) fn install(args: &InstallArgs) -> anyhow::Result<Output> {
    apply(args, |installed| match installed {
        Installed::By(manager) => bail!("the mesh is installed by {manager}: upgrade it with that"),
        // Installing again mends what has been changed by hand.
        Installed::Plainly | Installed::No => Ok(()),
    })
}

pub(super) fn upgrade(args: &InstallArgs) -> anyhow::Result<Output> {
    apply(args, |installed| match installed {
        Installed::By(manager) => bail!("the mesh is installed by {manager}: upgrade it with that"),
        Installed::No => bail!("the mesh is not installed in this cluster: weft install"),
        Installed::Plainly => Ok(()),
    })
}

fn apply(args: &InstallArgs, fits: impl FnOnce(&Installed) -> anyhow::Result<()>) -> anyhow::Result<Output> {
    let cluster = &args.cluster;
    let settings = Settings { dry_run: cluster.dry_run, force: args.force_conflicts, image: args.image.clone() };
    in_cluster(cluster.kubeconfig.as_deref(), async |client| {
        fits(&install::installed(&client).await?)?;
        install::apply(&client, &settings, |object, outcome| tell(object, outcome, cluster.dry_run)).await?;
        Ok(())
    })?;
    Ok(String::new().into())
}

pub(super) fn uninstall(args: &UninstallArgs) -> anyhow::Result<Output> {
    let cluster = &args.cluster;
    let wait: Duration = weft::config::duration(&args.wait).map_err(|why| anyhow::anyhow!("--wait: {why}"))?;
    let left = in_cluster(cluster.kubeconfig.as_deref(), async |client| {
        if let Installed::By(manager) = install::installed(&client).await? {
            bail!("the mesh is installed by {manager}: uninstall it with that");
        }
        let settings = (cluster.dry_run, args.crds, wait);
        let told = |object: &Object, outcome| tell(object, outcome, cluster.dry_run);
        Ok(install::uninstall(&client, settings, told).await?)
    })?;
    let code = if left.agents.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    Ok(Output { text: remains(&left), code })
}

/// Said as it happens: what comes after it may fail. Whoever has stopped listening has had enough.
fn tell(object: &Object, outcome: Outcome, dry_run: bool) {
    let remark = if dry_run { " (dry run)" } else { "" };
    let _ = writeln!(io::stdout(), "{object} {}{remark}", outcome.word());
}

/// What a person has still to see to.
fn remains(left: &Left) -> String {
    let mut text = String::new();
    let mut say = |names: &[String], what: &str| {
        if !names.is_empty() {
            let _ = writeln!(text, "{what}: {}", names.join(", "));
        }
    };
    say(&left.agents, "agents that have not ended, whose nodes may still be steered (run weft disable there)");
    say(&left.marked, "pods still marked as meshed by an agent that could not say goodbye; nothing steers them");
    say(&left.labelled, "namespaces still labelled weft.dev/mesh=enabled, which join when the mesh is installed again");
    say(&left.off, "nodes still labelled weft.dev/disabled, whose pods stay out when the mesh is installed again");
    say(&left.kinds, "kinds that stay, with what was written in them (--crds deletes them)");
    text
}

/// Does `work` with a client of the cluster.
pub(super) fn in_cluster<R>(
    kubeconfig: Option<&Path>,
    work: impl AsyncFnOnce(kubernetes::Client) -> anyhow::Result<R>,
) -> anyhow::Result<R> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let found = kubeconfig.map(Path::to_owned).or_else(usual);
        let client = kubernetes::connect(found.as_deref(), concat!("weft/", env!("CARGO_PKG_VERSION"))).await?;
        work(client).await
    })
}

/// Where kubectl looks.
fn usual() -> Option<PathBuf> {
    let named = std::env::var_os("KUBECONFIG").filter(|path| !path.is_empty()).map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".kube/config"));
    named.or(home).filter(|path| path.exists())
}
