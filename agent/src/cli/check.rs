//! `weft check`: manifests (`--manifests DIR`), a cluster the mesh is to be installed in (`--pre`), a machine (`--host`), or the
//! installation in a cluster.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, ensure};
use weft_control::SYSTEM_NAMESPACE;
use weft_control::install::check;
use weft_control::manifests::{self, Problem, Severity};
use weft_core::model::TrustDomain;

use super::Output;
use super::host::{self, HostArgs, told};
use super::install::in_cluster;

#[derive(Debug, clap::Args)]
pub(super) struct CheckArgs {
    /// Directory of Kubernetes manifests, in the place of a cluster
    #[arg(long, env = "WEFT_MANIFESTS", value_name = "DIR", conflicts_with_all = ["pre", "kubeconfig"])]
    manifests: Option<PathBuf>,
    /// Whether the mesh can be installed in the cluster, in the place of how its installation is
    #[arg(long)]
    pre: bool,
    /// Whether this machine can be a node of the mesh: as root on it, without a cluster; nothing of it is left
    #[arg(long, conflicts_with = "pre")]
    host: bool,
    #[command(flatten)]
    machine: HostArgs,
    /// A kubeconfig, whose current context says how to reach the cluster [default: $KUBECONFIG, or ~/.kube/config]
    #[arg(long, env = "WEFT_KUBECONFIG", value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The namespace the mesh itself is in
    #[arg(long, env = "WEFT_NAMESPACE", value_name = "NAMESPACE", default_value = SYSTEM_NAMESPACE)]
    namespace: String,
    /// The mesh's trust domain
    #[arg(long, env = "WEFT_TRUST_DOMAIN", value_name = "DOMAIN", default_value = "cluster.local")]
    trust_domain: String,
    /// Exit with 1 for warnings as well
    #[arg(long)]
    strict: bool,
}

pub(super) fn run(args: &CheckArgs) -> anyhow::Result<Output> {
    if args.host {
        return Ok(told(&host::findings(&args.machine)?, args.strict));
    }
    let Some(directory) = &args.manifests else { return cluster(args) };
    ensure!(directory.is_dir(), "{} is not a directory", directory.display());
    let trust_domain = TrustDomain::new(&args.trust_domain).context("--trust-domain")?;
    Ok(report(&manifests::check(directory, &trust_domain), args.strict))
}

fn cluster(args: &CheckArgs) -> anyhow::Result<Output> {
    let findings = in_cluster(args.kubeconfig.as_deref(), async |client| {
        Ok(if args.pre { check::before(&client).await? } else { check::after(&client, &args.namespace).await? })
    })?;
    Ok(told(&findings, args.strict))
}

/// One problem a line, in the form compilers use, and a last line that counts them.
fn report(problems: &[Problem], strict: bool) -> Output {
    let mut text: String = problems.iter().map(|problem| format!("{problem}\n")).collect();
    let errors = problems.iter().filter(|problem| problem.severity == Severity::Error).count();
    let warnings = problems.len() - errors;
    text.push_str(&match (errors, warnings) {
        (0, 0) => "no problems\n".to_owned(),
        _ => format!("{errors} errors, {warnings} warnings\n"),
    });
    let failed = errors > 0 || strict && warnings > 0;
    Output { text, code: if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_fail_only_when_strict() {
        let problem = |severity| Problem {
            file: "f.yaml".into(),
            line: Some(3),
            severity,
            object: None,
            reason: "is odd".to_owned(),
        };
        let code = |problems: &[Problem], strict| format!("{:?}", report(problems, strict).code);
        let (ok, failed) = (format!("{:?}", ExitCode::SUCCESS), format!("{:?}", ExitCode::FAILURE));
        assert_eq!((code(&[], true), report(&[], true).text), (ok.clone(), "no problems\n".to_owned()));
        let warning = [problem(Severity::Warning)];
        assert_eq!((code(&warning, false), code(&warning, true)), (ok, failed.clone()));
        let both = [problem(Severity::Error), problem(Severity::Warning)];
        assert_eq!(code(&both, false), failed);
        let text = "f.yaml:3: error: is odd\nf.yaml:3: warning: is odd\n1 errors, 1 warnings\n";
        assert_eq!(report(&both, false).text, text);
    }
}
