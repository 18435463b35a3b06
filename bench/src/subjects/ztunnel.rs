//! Istio's ztunnel, one in each pod (its dedicated mode), where `WEFT_BENCH_ZTUNNEL` names a binary.
//!
//! Its project ships it in container images only, which no package registry has, so this follows its documentation of local
//! runs and has not been run by us: a build with the feature `testing` makes its own certificates (`FAKE_CA`). The client's
//! connections reach it as in a cluster, by a redirection in the pod's network namespace.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use weft_tests::lab::Pod;

use super::Subject;
use super::pair::Pair;
use super::stage::SERVER_PORT;

/// Names the binary.
const VARIABLE: &str = "WEFT_BENCH_ZTUNNEL";

/// The ports it listens on for what leaves a pod, and for what other ztunnels bring.
const OUTBOUND: u16 = 15001;
const INBOUND: u16 = 15008;

/// Starts both.
pub(super) fn start(pair: &Pair<'_>) -> Result<Subject> {
    let binary = std::env::var_os(VARIABLE).with_context(|| format!("{VARIABLE} names no binary"))?;
    let binary = PathBuf::from(binary);
    ensure!(binary.is_file(), "{} is no file", binary.display());
    let (client, server) = (&pair.stage.outside, &pair.stage.plain_far.pod);
    let [client_ip, server_at] = [client.v4(0)?, server.v4(SERVER_PORT)?];
    let config = pair.stage.lab.directory().join("peers-ztunnel.yaml");
    let text = include_str!("../../peers/ztunnel.yaml")
        .replace("@CLIENT_IP@", &client_ip.ip().to_string())
        .replace("@SERVER_IP@", &server_at.ip().to_string());
    std::fs::write(&config, text)?;
    let command = |name: &str, node: &str, pod: &Pod| -> Result<Vec<String>> {
        let mut words = vec!["env".to_owned()];
        let workers = std::thread::available_parallelism()?.to_string();
        for (variable, value) in [
            ("FAKE_CA", "true"),
            ("XDS_ADDRESS", ""),
            ("LOCAL_XDS_PATH", &config.display().to_string()),
            ("PROXY_MODE", "dedicated"),
            ("NODE_NAME", node),
            ("POD_NAME", name),
            ("POD_NAMESPACE", "outside"),
            ("SERVICE_ACCOUNT", name),
            ("INSTANCE_IP", &pod.v4(0)?.ip().to_string()),
            ("ZTUNNEL_WORKER_THREADS", &workers),
        ] {
            words.push(format!("{variable}={value}"));
        }
        words.extend([binary.display().to_string(), "proxy".into(), "ztunnel".into()]);
        Ok(words)
    };
    pair.start_in(server, INBOUND, &command("server", "b", server)?)?;
    pair.start_in(client, OUTBOUND, &command("client", "a", client)?)?;
    let rule = format!("ip daddr {} tcp dport {SERVER_PORT} redirect to :{OUTBOUND}", server_at.ip());
    let table = format!("table ip bench {{ chain out {{ type nat hook output priority -100; {rule}; }} }}\n");
    client.netns().feed(&["nft", "-f", "-"], &table)?;
    Ok(Subject { to: server_at, ..pair.subject() })
}
