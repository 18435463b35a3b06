//! `weft disable` and `enable`: of this node, by its agent; of another or of all, by the API server.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use weft_control::SYSTEM_NAMESPACE;
use weft_control::install::{self, Extent, InstallError};

use super::install::in_cluster;
use super::{Ask, Output, ask};

/// How often is looked whether the pods have left.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How many are named of those that have not.
const NAMED: usize = 20;

#[derive(Debug, clap::Args)]
pub(super) struct SwitchArgs {
    #[command(flatten)]
    ask: Ask,
    /// On the node of this name, by way of the API server; without a name on this one, by its agent, which needs no API
    /// server and is the default
    #[arg(long, conflicts_with = "all", value_name = "NAME", num_args = 0..=1, default_missing_value = "")]
    node: Option<String>,
    /// On every node, by way of the API server
    #[arg(long)]
    all: bool,
    /// By way of the API server: a kubeconfig, whose current context says how to reach the cluster [default: $KUBECONFIG,
    /// or ~/.kube/config]
    #[arg(long, env = "WEFT_KUBECONFIG", value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// With --all: the namespace the mesh itself is in
    #[arg(long, env = "WEFT_NAMESPACE", value_name = "NAMESPACE", default_value = SYSTEM_NAMESPACE)]
    namespace: String,
    /// By way of the API server: how long the agents get to take their pods out of the mesh
    #[arg(long, value_name = "TIME", default_value = "60s")]
    wait: String,
}

impl SwitchArgs {
    /// What the API server is to be told of; `None` is this node, whose agent is.
    fn extent(&self) -> Option<Extent<'_>> {
        match (self.all, self.node.as_deref()) {
            (true, _) => Some(Extent::All(&self.namespace)),
            (false, None | Some("")) => None,
            (false, Some(node)) => Some(Extent::Node(node)),
        }
    }
}

pub(super) fn disable(args: &SwitchArgs) -> anyhow::Result<Output> {
    let Some(extent) = args.extent() else { return ask::order(&args.ask, "/disable") };
    let wait = weft::config::duration(&args.wait).map_err(|why| anyhow::anyhow!("--wait: {why}"))?;
    let left = in_cluster(args.kubeconfig.as_deref(), async |client| {
        install::switch(&client, extent, true).await.map_err(|error| away(error, extent, "disable"))?;
        let deadline = Instant::now() + wait;
        loop {
            let left = install::enrolled(&client, extent).await?;
            if left.is_empty() || Instant::now() >= deadline {
                return Ok(left);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    })?;
    Ok(told(&left, extent))
}

/// With the API server away there is still each node's own agent to be told.
fn away(error: InstallError, extent: Extent<'_>, verb: &str) -> anyhow::Error {
    let there = match extent {
        Extent::All(_) => "on each node".to_owned(),
        Extent::Node(node) => format!("on {node}"),
    };
    match error {
        InstallError::Unreachable { .. } => {
            anyhow::anyhow!("{error}; weft {verb} {there} needs no API server")
        }
        error => error.into(),
    }
}

/// What became of it.
fn told(left: &[String], extent: Extent<'_>) -> Output {
    if left.is_empty() {
        return match extent {
            Extent::All(_) => "every pod is out of the mesh; weft enable --all puts them back\n".to_owned(),
            Extent::Node(node) => {
                format!("every pod of {node} is out of the mesh; weft enable --node {node} puts them back\n")
            }
        }
        .into();
    }
    let mut text = format!("switched off, and {} pods are still in the mesh:\n", left.len());
    for pod in left.iter().take(NAMED) {
        let _ = writeln!(text, "  {pod}");
    }
    if left.len() > NAMED {
        let _ = writeln!(text, "  and {} more", left.len() - NAMED);
    }
    text += "their nodes' agents do not hear the API server, or do not run: weft disable on these nodes\n";
    Output { text, code: ExitCode::FAILURE }
}

pub(super) fn enable(args: &SwitchArgs) -> anyhow::Result<Output> {
    let Some(extent) = args.extent() else { return ask::order(&args.ask, "/enable") };
    in_cluster(args.kubeconfig.as_deref(), async |client| {
        install::switch(&client, extent, false).await.map_err(|error| away(error, extent, "enable"))
    })?;
    Ok(match extent {
        Extent::All(_) => "the mesh is on again; the agents enrol what is labelled\n".to_owned(),
        Extent::Node(node) => format!(
            "the mesh is on again on {node}, unless it was switched off there too (weft enable on {node}) or \
             everywhere (weft enable --all)\n"
        ),
    }
    .into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_that_stay_are_named_and_counted() {
        let all = Extent::All("weft-system");
        assert_eq!(told(&[], all).code, ExitCode::SUCCESS);
        let left: Vec<String> = (0..23).map(|n| format!("shop/cart-{n}")).collect();
        let said = told(&left, all);
        assert_eq!(said.code, ExitCode::FAILURE);
        assert!(
            said.text.starts_with("switched off, and 23 pods") && said.text.contains("and 3 more"),
            "{}",
            said.text
        );
        assert!(said.text.contains("shop/cart-19\n") && !said.text.contains("shop/cart-20\n"), "{}", said.text);
    }
}
