//! `weft disable` and `enable`: of this node, by its agent; of all nodes, by the API server.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use weft_control::{SYSTEM_NAMESPACE, install};

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
    /// On this node, by its agent, which needs no API server; what happens without --all as well
    #[arg(long, conflicts_with = "all")]
    #[allow(dead_code, reason = "to say so is to say the default")]
    node: bool,
    /// On every node, by way of the API server, instead of this one
    #[arg(long)]
    all: bool,
    /// With --all: a kubeconfig, whose current context says how to reach the cluster [default: $KUBECONFIG, or
    /// ~/.kube/config]
    #[arg(long, env = "WEFT_KUBECONFIG", value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// With --all: the namespace the mesh itself is in
    #[arg(long, env = "WEFT_NAMESPACE", value_name = "NAMESPACE", default_value = SYSTEM_NAMESPACE)]
    namespace: String,
    /// With --all: how long the agents get to take their pods out of the mesh
    #[arg(long, value_name = "TIME", default_value = "60s")]
    wait: String,
}

pub(super) fn disable(args: &SwitchArgs) -> anyhow::Result<Output> {
    if !args.all {
        return ask::order(&args.ask, "/disable");
    }
    let wait = weft::config::duration(&args.wait).map_err(|why| anyhow::anyhow!("--wait: {why}"))?;
    let left = in_cluster(args.kubeconfig.as_deref(), async |client| {
        install::switch(&client, &args.namespace, true).await?;
        let deadline = Instant::now() + wait;
        loop {
            let left = install::enrolled(&client).await?;
            if left.is_empty() || Instant::now() >= deadline {
                return Ok(left);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    })?;
    Ok(told(&left))
}

/// What became of it.
fn told(left: &[String]) -> Output {
    if left.is_empty() {
        return "every pod is out of the mesh; weft enable --all puts them back\n".to_owned().into();
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
    if !args.all {
        return ask::order(&args.ask, "/enable");
    }
    in_cluster(args.kubeconfig.as_deref(), async |client| Ok(install::switch(&client, &args.namespace, false).await?))?;
    Ok("the mesh is on again; the agents enrol what is labelled\n".to_owned().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_that_stay_are_named_and_counted() {
        assert_eq!(told(&[]).code, ExitCode::SUCCESS);
        let left: Vec<String> = (0..23).map(|n| format!("shop/cart-{n}")).collect();
        let said = told(&left);
        assert_eq!(said.code, ExitCode::FAILURE);
        assert!(
            said.text.starts_with("switched off, and 23 pods") && said.text.contains("and 3 more"),
            "{}",
            said.text
        );
        assert!(said.text.contains("shop/cart-19\n") && !said.text.contains("shop/cart-20\n"), "{}", said.text);
    }
}
