//! What a person gets to hear about wrong settings, and what the defaults are.

use clap::Parser;

use super::*;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    agent: AgentArgs,
}

fn check(args: &[&str]) -> Result<Config, ConfigErrors> {
    let args = [&["weft"], args].concat();
    Config::check(&Cli::try_parse_from(args).unwrap().agent)
}

#[test]
fn the_defaults() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let config = check(&["--manifests", path, "--node", "n1", "--state", "/s"]).unwrap();
    assert_eq!((config.node.as_str(), config.trust_domain.as_str()), ("n1", "cluster.local"));
    assert_eq!((config.status, config.ca), ("/s/status".into(), CaSource::Embedded("/s/ca".into())));
    assert_eq!(config.metrics, Some("[::]:15020".parse().unwrap()));
    assert_eq!(config.connect_timeout, Duration::from_secs(1));
    assert_eq!(config.request_head_timeout, Duration::from_secs(60));
    assert_eq!((config.connect_attempts, config.drain_deadline), (3, Duration::from_secs(30)));
    assert_eq!(config.unclassified, Unclassified::Open);
    assert!(config.cgroup.join("cgroup.procs").exists(), "{:?}", config.cgroup);
}

#[test]
fn every_problem_is_reported_at_once() {
    let wrong = [
        "--trust-domain=Not A Domain",
        "--node=UPPER",
        "--namespace=a_b",
        "--cgroup=/tmp",
        "--instance=a/b",
        "--metrics-address=15020",
        "--drain-deadline=soon",
        "--after-handover=stay",
        "--daemonset=weft",
        "--connect-timeout=0s",
        "--connect-attempts=0",
        "--request-head-timeout=0s",
        "--unclassified=maybe",
        "--log-format=xml",
        "--log-level=weft=loud",
        "--certificate-lifetime=100000h",
        "--ca-address=nowhere",
    ];
    let errors = check(&wrong).unwrap_err();
    // And --manifests, which is missing.
    assert_eq!(errors.0.len(), wrong.len() + 1, "{errors}");
    for argument in wrong.iter().chain(&["--manifests="]) {
        let flag = argument.split_once('=').unwrap().0;
        assert!(errors.0.iter().any(|problem| problem.starts_with(flag)), "{flag}: {errors}");
    }
}

#[test]
fn a_cluster_or_a_directory_but_not_both() {
    let dir = tempfile::tempdir().unwrap();
    let directory = dir.path().to_str().unwrap();
    let source = |args: &[&str]| check(&[&["--node=a"], args].concat()).map(|config| config.source);
    assert_eq!(source(&["--kubernetes"]).unwrap(), ConfigSource::Kubernetes { kubeconfig: None });
    let file = dir.path().join("config");
    std::fs::write(&file, "").unwrap();
    let kubeconfig = Some(file.clone());
    assert_eq!(source(&["--kubeconfig", file.to_str().unwrap()]).unwrap(), ConfigSource::Kubernetes { kubeconfig });
    assert_eq!(source(&["--manifests", directory]).unwrap(), ConfigSource::Manifests(dir.path().into()));
    for wrong in [&["--manifests", directory, "--kubernetes"][..], &["--kubeconfig", "/nowhere/config"], &[]] {
        assert!(source(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn metrics_can_be_off() {
    let dir = tempfile::tempdir().unwrap();
    let config = check(&["--manifests", dir.path().to_str().unwrap(), "--node=a", "--metrics-address=off"]).unwrap();
    assert_eq!(config.metrics, None);
}
