//! The foreign peer of `tests/peers/hbone_peer.py` in a pod of the lab, with certificates that are good or bad.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rcgen::{CertificateParams, Issuer, KeyPair, SanType};
use serde_json::{Value, json};
use weft_tests::lab::{Lab, Pod, Process, binary};
use weft_tests::wait;

/// A directory with `cert.pem`, `key.pem` and `roots.pem`.
pub(crate) struct Certificates(PathBuf);

/// Certificates of the mesh's own CA.
pub(crate) fn signed(lab: &Lab, identity: &str, lifetime: &str) -> Result<Certificates> {
    sign(lab, &lab.directory().join("ca"), identity, lifetime)
}

/// Certificates of a CA that the mesh does not know, which trust the mesh's roots: only the mesh has a reason to refuse.
pub(crate) fn stranger(lab: &Lab, identity: &str) -> Result<Certificates> {
    let domain = identity.split('/').nth(2).context("no trust domain")?;
    let certificates = sign(lab, &lab.directory().join(format!("other-ca-{domain}")), identity, "1h")?;
    let ours = signed(lab, "spiffe://cluster.local/ns/any/sa/any", "1h")?;
    std::fs::copy(ours.0.join("roots.pem"), certificates.0.join("roots.pem"))?;
    Ok(certificates)
}

/// Certificates of another trust domain under the mesh's own root, which a root that several domains share may sign: the
/// chain is good, and the name alone gives a reason to refuse.
pub(crate) fn of_other_domain(lab: &Lab, identity: &str) -> Result<Certificates> {
    let certificates = signed(lab, "spiffe://cluster.local/ns/any/sa/any", "1h")?;
    let ca = lab.directory().join("ca");
    let root = KeyPair::from_pem(&std::fs::read_to_string(ca.join("root.key"))?)?;
    let issuer = Issuer::from_ca_cert_pem(&std::fs::read_to_string(ca.join("root.crt"))?, root)?;
    let key = KeyPair::generate()?;
    let mut leaf = CertificateParams::default();
    leaf.subject_alt_names = vec![SanType::URI(identity.try_into()?)];
    std::fs::write(certificates.0.join("cert.pem"), leaf.signed_by(&key, &issuer)?.pem())?;
    std::fs::write(certificates.0.join("key.pem"), key.serialize_pem())?;
    Ok(certificates)
}

/// Certificates of the mesh's CA that are no longer valid.
pub(crate) fn expired(lab: &Lab, identity: &str) -> Result<Certificates> {
    let certificates = signed(lab, identity, "1s")?;
    let start = std::time::SystemTime::now();
    // Certificates count whole seconds.
    wait::holds("the certificate to expire", || start.elapsed().is_ok_and(|age| age > Duration::from_millis(2100)))?;
    Ok(certificates)
}

fn sign(lab: &Lab, ca: &Path, identity: &str, lifetime: &str) -> Result<Certificates> {
    let name = identity.replace(['/', ':'], "-");
    let out = lab.directory().join(format!("certificates-{name}-{}", rand::random::<u32>()));
    let mut command = Command::new(binary("weft")?);
    command
        .args(["ca", "sign", "--identity", identity, "--lifetime", lifetime])
        .arg("--ca")
        .arg(ca)
        .arg("--out")
        .arg(&out);
    let output = command.output().context("running weft ca sign")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(Certificates(out))
}

/// A running peer.
pub(crate) struct Peer(Process);

/// Starts the peer in a pod: `arguments` begin with its role.
pub(crate) fn start(lab: &Lab, pod: &Pod, certificates: &Certificates, arguments: &[&str]) -> Result<Peer> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/hbone_peer.py");
    let (role, rest) = arguments.split_first().context("no role")?;
    let directory = certificates.0.display().to_string();
    let command: Vec<&str> =
        ["/usr/bin/python3", script, role, "--certs", &directory].into_iter().chain(rest.iter().copied()).collect();
    pod.spawn(lab, "hbone-peer", &command).map(Peer)
}

/// Runs the peer as a client to its end, which must be a good one by its own judgement; yields what it said.
pub(crate) fn client(lab: &Lab, pod: &Pod, certificates: &Certificates, arguments: &[&str]) -> Result<Vec<Value>> {
    let arguments: Vec<&str> = ["client"].iter().chain(arguments).copied().collect();
    let peer = start(lab, pod, certificates, &arguments)?;
    let status = peer.0.wait(Duration::from_secs(40))?;
    ensure!(status.success(), "{arguments:?}: {}", peer.0.log());
    Ok(peer.events())
}

/// Runs the client of `tests/peers/weft_peer.py` to its end: whether the server did as the specification says.
pub(crate) fn weft_client(lab: &Lab, pod: &Pod, certificates: &Certificates, arguments: &[&str]) -> Result<()> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/weft_peer.py");
    let directory = certificates.0.display().to_string();
    let command: Vec<&str> =
        ["/usr/bin/python3", script, "--certs", &directory].into_iter().chain(arguments.iter().copied()).collect();
    let peer = pod.spawn(lab, "weft-peer", &command)?;
    let status = peer.wait(Duration::from_secs(40))?;
    ensure!(status.success(), "{arguments:?}: {}", peer.log());
    Ok(())
}

/// Starts `tests/peers/weft_peer.py` as a server on a pod's tunnel port of one family, answering as `mode` says.
pub(crate) fn weft_server(
    lab: &Lab,
    pod: &Pod,
    certificates: &Certificates,
    at: SocketAddr,
    mode: &str,
) -> Result<Peer> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/weft_peer.py");
    let (directory, at) = (certificates.0.display().to_string(), at.to_string());
    let command = ["/usr/bin/python3", script, "--certs", &directory, "--listen", &at, "--mode", mode];
    let peer = pod.spawn(lab, "weft-server", &command).map(Peer)?;
    peer.event("listening")?;
    Ok(peer)
}

impl Peer {
    /// What it said so far.
    pub(crate) fn events(&self) -> Vec<Value> {
        self.0.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits for an event of this name.
    pub(crate) fn event(&self, name: &str) -> Result<Value> {
        wait::until(&format!("the peer to say {name}"), wait::DEADLINE, || {
            self.events().into_iter().find(|event| event["event"] == name).with_context(|| self.0.log())
        })
    }

    /// Ends it.
    pub(crate) fn stop(self) -> Result<()> {
        self.0.kill()
    }
}

/// Publishes pods of a node that has no agent as live, as the foreign mesh they belong to would.
pub(crate) fn publish_live(lab: &Lab, node: &str, pods: &[&Pod]) -> Result<()> {
    let workloads: Vec<_> = pods.iter().map(|pod| json!({"uid": pod.uid(), "live": true})).collect();
    let slice = json!({
        "apiVersion": "weft.dev/v1alpha1", "kind": "WorkloadSlice",
        "metadata": {"name": node, "namespace": "weft-system"},
        "spec": {"node": node, "workloads": workloads}
    });
    let status = lab.directory().join("status");
    let staged = lab.directory().join("staging").join(format!("{node}.yaml"));
    std::fs::write(&staged, serde_json::to_string(&slice)?)?;
    std::fs::rename(staged, status.join(format!("{node}.yaml"))).context("publishing")
}
