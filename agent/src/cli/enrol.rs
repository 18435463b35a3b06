//! `weft enrol`: what labelling a namespace would break, and the label, if it breaks nothing.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use weft_control::enrol::{self, Report};
use weft_core::model::TrustDomain;

use super::Output;
use super::install::in_cluster;

#[derive(Debug, clap::Args)]
pub(super) struct EnrolArgs {
    /// The namespace
    namespace: String,
    /// Only say what the label would break; exits with 1 if it would break anything
    #[arg(long)]
    dry_run: bool,
    /// Label it whatever breaks
    #[arg(long, conflicts_with = "dry_run")]
    force: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// A kubeconfig, whose current context says how to reach the cluster [default: $KUBECONFIG, or ~/.kube/config]
    #[arg(long, env = "WEFT_KUBECONFIG", value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The mesh's trust domain
    #[arg(long, env = "WEFT_TRUST_DOMAIN", value_name = "DOMAIN", default_value = "cluster.local")]
    trust_domain: String,
}

pub(super) fn run(args: &EnrolArgs) -> anyhow::Result<Output> {
    let trust_domain = TrustDomain::new(&args.trust_domain).context("--trust-domain")?;
    let (report, labelled) = in_cluster(args.kubeconfig.as_deref(), async |client| {
        let report = enrol::judge(&client, &args.namespace, &trust_domain).await?;
        let goes = !args.dry_run && !report.labelled && (args.force || report.breaks() == 0);
        if goes {
            enrol::label(&client, &args.namespace).await?;
        }
        Ok((report, goes))
    })?;
    let failed = report.breaks() > 0 && !args.force;
    let text = if args.json {
        format!("{}\n", serde_json::to_string_pretty(&report)?)
    } else {
        let findings: String = report.findings.iter().map(|finding| format!("{finding}\n")).collect();
        findings + &summary(&report, args.dry_run, labelled)
    };
    Ok(Output { text, code: if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS } })
}

/// What it comes to, and what was done.
fn summary(report: &Report, dry_run: bool, labelled: bool) -> String {
    let Report { namespace, joining, staying, .. } = report;
    let of = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let mut text = format!("{namespace}: {} in the mesh, {} outside it", of(*joining, "pod"), of(*staying, "pod"));
    let broken = match report.breaks() {
        0 => "nothing breaks".to_owned(),
        count => format!("{} would break", of(count, "thing")),
    };
    let _ = writeln!(text, "; {broken}");
    text.push_str(&match (labelled, report.labelled, dry_run) {
        (true, ..) => format!("namespace/{namespace} labelled\n"),
        (_, true, _) => format!("namespace/{namespace} is labelled already\n"),
        (.., true) => String::new(),
        (.., false) => format!("namespace/{namespace} is not labelled: mend what breaks, or --force\n"),
    });
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_says_what_was_done() {
        let report = |labelled| Report { namespace: "demo".into(), labelled, joining: 1, staying: 0, findings: vec![] };
        let first = "demo: 1 pod in the mesh, 0 pods outside it; nothing breaks\n";
        for (known, dry_run, done, second) in [
            (false, false, true, "namespace/demo labelled\n"),
            (true, false, false, "namespace/demo is labelled already\n"),
            (false, true, false, ""),
            (false, false, false, "namespace/demo is not labelled: mend what breaks, or --force\n"),
        ] {
            assert_eq!(summary(&report(known), dry_run, done), format!("{first}{second}"));
        }
    }
}
