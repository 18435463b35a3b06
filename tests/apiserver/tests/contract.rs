//! The double against the recording of the real thing.

use weft_apiserver::contract::{RECORDED_TOKEN_SOURCE, Target, accepts, replay};
use weft_apiserver::{Config, Server};

/// The double with what the recorded distribution adds to Kubernetes.
async fn double() -> anyhow::Result<Server> {
    let (name, key) = RECORDED_TOKEN_SOURCE;
    let config = Config { token_sources: vec![(name.into(), key.into())], ..Config::default() };
    Server::start("127.0.0.1:0".parse()?, config).await
}

async fn assert_equal(target: &Target) -> anyhow::Result<()> {
    let outcomes = replay(target).await?;
    assert_eq!(outcomes.len(), 53, "every recorded exchange is replayed");
    let differ: Vec<String> =
        outcomes.iter().filter(|outcome| !outcome.differences.is_empty()).map(ToString::to_string).collect();
    assert!(differ.is_empty(), "{}", differ.join("\n"));
    Ok(())
}

#[tokio::test]
async fn recorded_exchanges_replay_equal() -> anyhow::Result<()> {
    let server = double().await?;
    assert_equal(&Target::of(&server)?).await
}

/// As a cluster that is nobody's double: over TLS, known by its kubeconfig alone, with whatever its controllers do meanwhile.
#[tokio::test]
async fn the_contract_runs_against_what_a_kubeconfig_names() -> anyhow::Result<()> {
    let server = Server::start("127.0.0.1:0".parse()?, Config { tls: true, ..Config::default() }).await?;
    let directory = tempfile::tempdir()?;
    let kubeconfig = directory.path().join("config");
    std::fs::write(&kubeconfig, server.kubeconfig())?;
    let target = Target::from_kubeconfig(&kubeconfig)?;
    assert_equal(&target).await?;
    // Again: nothing is in its way, and what the cluster remembers of the first time counts for nothing.
    assert_equal(&target).await
}

/// What a person installs would be taken as it is, and what would not is named; nothing of it is there afterwards.
#[tokio::test]
async fn manifests_are_tried_strictly_and_leave_nothing() -> anyhow::Result<()> {
    let server = Server::start("127.0.0.1:0".parse()?, Config::default()).await?;
    let target = Target::of(&server)?;
    let shipped = include_str!("../../../deploy/weft.yaml");
    let (count, remarks) = accepts(&target, shipped).await?;
    assert!(count > 20 && remarks.is_empty(), "{remarks:?}");
    let misspelt = shipped.replacen("hostPID:", "hostPids:", 1)
        + "---\napiVersion: weft.dev/v9\nkind: Nothing\nmetadata: {name: one}\n";
    let (_, remarks) = accepts(&target, &misspelt).await?;
    let named: Vec<&str> = remarks.iter().map(|remark| remark.object.as_str()).collect();
    assert!(remarks.iter().all(|remark| remark.refused), "{remarks:?}");
    assert_eq!(named, ["DaemonSet weft-system/weft-agent", "Nothing /one"], "{remarks:?}");
    for path in ["/api/v1/namespaces/weft-system", "/apis/rbac.authorization.k8s.io/v1/clusterroles/weft-agent"] {
        assert_eq!(target.send(http::Method::GET, path, &[], None).await?.status, 404, "{path} is left");
    }
    Ok(())
}
