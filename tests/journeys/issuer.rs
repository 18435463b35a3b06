//! A mesh whose certificates come from `weft controller`: who gets which, and what becomes of it when the root changes or the
//! issuer is away.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, RsaKeySize,
};
use serde_json::{Value, json};
use weft_tests::app::{App, Behaviour, Calls};
use weft_tests::lab::{AgentOptions, Issuer, Lab, Node, Pod, Service};
use weft_tests::wait;

use crate::fixture::{anywhere, moves};

/// How long nobody signs, at the least. Certificates of 120 s are renewed when they have 24 to 60 left.
const OUTAGE: Duration = Duration::from_secs(60);

/// Two nodes whose agents ask an issuer; `client` on `a`, `server` on `b` behind the Service `echo`, both meshed.
pub(crate) struct Issued {
    pub(crate) lab: Lab,
    pub(crate) a: Node,
    b: Node,
    client: Pod,
    server: Pod,
    pub(crate) echo: Service,
    pub(crate) app: App,
    /// The server's process.
    _peer: App,
    pub(crate) issuer: Issuer,
}

impl Issued {
    pub(crate) fn up(name: &str, issuing: &[&str], asking: &[&str]) -> Result<Self> {
        Self::up_in(Lab::cluster(name)?, issuing, asking)
    }

    /// In a cluster where somebody else has made the root.
    fn up_in(lab: Lab, issuing: &[&str], asking: &[&str]) -> Result<Self> {
        let (a, b) = (lab.node("a")?, lab.node("b")?);
        let client = lab.pod(&a, "client").create()?;
        let server = lab.pod(&b, "server").ports(&[8080]).create()?;
        let echo = lab.service("echo").pods(&[&server]).create()?;
        let (app, peer) = (client.app(&lab)?, server.app(&lab)?);
        peer.listen(anywhere(8080), "server", Behaviour::Identify)?;
        let issuer = lab.start_issuer(0, issuing)?;
        lab.mount_roots()?;
        let mesh = Self { lab, a, b, client, server, echo, app, _peer: peer, issuer };
        for node in [&mesh.a, &mesh.b] {
            mesh.agent(node, asking)?;
        }
        mesh.lab.mesh()?;
        Ok(mesh)
    }

    /// Starts the agent of a node.
    fn agent(&self, node: &Node, asking: &[&str]) -> Result<()> {
        let mut arguments = self.lab.issuer_arguments(node, &self.issuer)?;
        arguments.extend(asking.iter().map(|&argument| argument.to_owned()));
        self.lab.start_agent(node, AgentOptions { arguments, ..AgentOptions::default() }).map(drop)
    }

    /// Calls by every way, each steered and carried through a tunnel.
    pub(crate) fn serves(&self) -> Result<()> {
        moves(&self.lab, &self.a, "connect_steer", 4, || {
            for to in [self.echo.v4(), self.echo.v6(), self.server.v4(8080)?, self.server.v6(8080)?] {
                let name = self.app.call_once(to)?;
                ensure!(name == "server", "{name} answered");
            }
            Ok(())
        })?;
        let tunnels = self.agent_metrics(&self.b)?.sum("weft_tunnels_opened_total", &[("direction", "inbound")]);
        ensure!(tunnels > 0.0, "no tunnel reached the server's node");
        Ok(())
    }

    fn agent_metrics(&self, node: &Node) -> Result<weft_tests::metrics::Metrics> {
        crate::fixture::running_agent(&self.lab, node)?.metrics()
    }

    fn issued(&self) -> Result<f64> {
        Ok(self.issuer.metrics()?.sum("weft_controller_certificates_issued_total", &[]))
    }

    /// When the certificate of a pod's identity expires, as its node's agent says.
    fn expiry(&self, node: &Node, pod: &Pod) -> Result<f64> {
        let expiry = self.agent_metrics(node)?;
        Ok(expiry.sum("weft_certificate_expiry_timestamp_seconds", &[("identity", &pod.spiffe())]))
    }
}

#[test]
fn cluster_certificates_from_the_controller() -> Result<()> {
    let mesh = Issued::up("issuer", &[], &[])?;
    mesh.serves()?;
    ensure!(mesh.issued()? >= 2.0, "the issuer has signed nothing");
    ensure!(!mesh.lab.directory().join("ca").exists(), "an embedded CA was made");
    for (node, pod) in [(&mesh.a, &mesh.client), (&mesh.b, &mesh.server)] {
        ensure!(mesh.expiry(node, pod)? > 0.0, "no certificate for {}", pod.spiffe());
    }
    let audited = mesh.issuer.process().log();
    let line = audited.lines().find(|line| line.contains("certificate issued") && line.contains(&mesh.server.spiffe()));
    ensure!(line.is_some_and(|line| line.contains("weft-agent-b") && line.contains("serial")), "{audited}");
    // Replicas that begin together agree on one root.
    let roots = mesh.lab.published_roots()?;
    let others = [mesh.lab.start_issuer(1, &[])?, mesh.lab.start_issuer(2, &[])?];
    for other in &others {
        let token = mesh.lab.agent_token(&mesh.a)?;
        mesh.lab.request_certificate(other, &token, &mesh.client.spiffe())?;
    }
    ensure!(mesh.lab.published_roots()? == roots, "another replica made another root");
    mesh.lab.finish()
}

#[test]
fn issuer_refuses_identity_of_other_node() -> Result<()> {
    let mesh = Issued::up("issuer-other-node", &[], &[])?;
    mesh.serves()?;
    let lab = &mesh.lab;
    let token = lab.agent_token(&mesh.a)?;
    let ask = |identity: &str| lab.request_certificate(&mesh.issuer, &token, identity);
    ask(&mesh.client.spiffe())?;
    let refused = |identity: &str, why: &str| match ask(identity) {
        Ok(said) => bail!("{identity} was given to node a: {said}"),
        Err(error) if format!("{error:#}").contains(why) => Ok(()),
        Err(error) => bail!("refused, but not because {why:?}: {error:#}"),
    };
    refused(&mesh.server.spiffe(), "runs on node a")?;
    refused("spiffe://cluster.local/ns/demo/sa/nobody", "runs on node a")?;
    refused("spiffe://other.mesh/ns/demo/sa/client", "another trust domain")?;
    // What a pod on the node would have: another account's token, one for another audience, one bound to no pod.
    let audience = json!({"audiences": ["weft-ca"], "expirationSeconds": 3600});
    for (account, spec, why) in [
        ("weft-controller", &audience, "is not a node agent"),
        ("weft-agent", &json!({"expirationSeconds": 3600}), "does not accept the token"),
        ("weft-agent", &audience, "not bound to a pod"),
    ] {
        std::fs::write(&token, lab.token(account, spec)?)?;
        refused(&mesh.client.spiffe(), why)?;
    }
    std::fs::write(&token, "nonsense")?;
    refused(&mesh.client.spiffe(), "does not accept the token")?;
    let refusals = mesh.issuer.metrics()?.by_label("weft_controller_certificates_refused_total", "reason");
    ensure!(refusals.get("not_on_this_node") == Some(&2), "{refusals:?}");
    // Once a pod of it is scheduled here, the node may have it, without anybody having to be told.
    let token = lab.agent_token(&mesh.a)?;
    let second = lab.pod(&mesh.a, "second").service_account("server").create()?;
    lab.wait_live(&second)?;
    lab.request_certificate(&mesh.issuer, &token, &mesh.server.spiffe())?;
    mesh.serves()?;
    mesh.lab.finish()
}

#[test]
fn root_rotation() -> Result<()> {
    let rotating = ["--root-settle", "4s", "--issuer-lifetime-max", "12s"];
    let mesh = Issued::up("root-rotation", &rotating, &["--certificate-lifetime", "12s"])?;
    let second = mesh.lab.start_issuer(1, &rotating)?;
    let first = mesh.lab.published_roots()?;
    ensure!(first.len() == 1, "{} roots", first.len());
    let held = mesh.app.hold(Calls::to(mesh.echo.v4()).times(10, 2))?;
    let looping = mesh.app.start_loop(Calls::to(mesh.echo.v6()).times(0, 4), Duration::from_millis(5))?;
    let api = mesh.lab.api().ok_or_else(|| anyhow::anyhow!("no API server"))?;
    let secret = "/api/v1/namespaces/weft-system/secrets/weft-root";
    let (status, answer) = api.send("DELETE", secret, "application/json", None)?;
    ensure!(status == 200, "{status} {answer}");
    wait::until("both roots to be published", Duration::from_secs(30), || {
        let now = mesh.lab.published_roots()?;
        ensure!(now.len() == 2 && now.contains(&first[0]), "{} roots", now.len());
        Ok(())
    })?;
    mesh.lab.mount_roots()?;
    // Until nothing that the old root signed is valid any more.
    wait::until("the old root to be gone", Duration::from_secs(90), || {
        mesh.lab.mount_roots()?;
        let now = mesh.lab.published_roots()?;
        ensure!(now.len() == 1 && now != first, "{} roots", now.len());
        Ok(())
    })?;
    mesh.serves()?;
    let report = mesh.app.stop_loop(looping)?;
    ensure!(report.failed() == 0 && report.ok > 100, "{report:?}");
    let poked = mesh.app.poke(held.group)?;
    ensure!(poked.ok == 10, "connections did not outlive the root they began with: {poked:?}");
    mesh.app.release(held.group)?;
    // An agent that has never known the old root: whoever it talks to has left it behind as well.
    crate::fixture::running_agent(&mesh.lab, &mesh.a)?.process().kill()?;
    mesh.agent(&mesh.a, &["--certificate-lifetime", "12s"])?;
    mesh.lab.wait_live(&mesh.client)?;
    mesh.serves()?;
    for issuer in [&mesh.issuer, &second] {
        ensure!(issuer.process().exited().is_none(), "an issuer was restarted");
    }
    mesh.lab.finish()
}

/// A root and an authority under it, each with its key, as cert-manager's issuers have them.
struct CertManager {
    root: Certificate,
    middle: Certificate,
    middle_key: KeyPair,
}

impl CertManager {
    fn new() -> Result<Self> {
        let root_key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?;
        let middle_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let root = authority("root")?.self_signed(&root_key)?;
        let by_root = rcgen::Issuer::from_ca_cert_der(root.der(), &root_key)?;
        let middle = authority("middle")?.signed_by(&middle_key, &by_root)?;
        Ok(Self { root, middle, middle_key })
    }

    /// The Secret of a Certificate with `isCA: true`, its key and certificate new; and that certificate.
    fn secret(&self) -> Result<(Value, String)> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let by_middle = rcgen::Issuer::from_ca_cert_der(self.middle.der(), &self.middle_key)?;
        let own = authority("weft")?.signed_by(&key, &by_middle)?.pem();
        let data = json!({
            "tls.crt": format!("{own}{}", self.middle.pem()), "tls.key": key.serialize_pem(), "ca.crt": self.root.pem()
        });
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "stringData": data,
            "metadata": {"name": "weft-root", "namespace": "weft-system", "annotations": {
                "cert-manager.io/certificate-name": "weft-root", "cert-manager.io/issuer-name": "middle"
            }}
        });
        Ok((secret, own))
    }
}

fn authority(name: &str) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
    Ok(params)
}

/// Writes the root's Secret, in the place of the one there is.
fn give_root(lab: &Lab, secret: &Value) -> Result<()> {
    let api = lab.api().context("no API server")?;
    let all = "/api/v1/namespaces/weft-system/secrets";
    let (status, answer) = match api.get(&format!("{all}/weft-root")) {
        Ok(_) => api.send("PUT", &format!("{all}/weft-root"), "application/json", Some(secret.to_string()))?,
        Err(_) => api.send("POST", all, "application/json", Some(secret.to_string()))?,
    };
    ensure!(status < 300, "{status} {answer}");
    Ok(())
}

#[test]
fn issuer_signs_with_cert_managers_intermediate() -> Result<()> {
    let manager = CertManager::new()?;
    let (secret, own) = manager.secret()?;
    let lab = Lab::cluster("cert-manager")?;
    give_root(&lab, &secret)?;
    let short = ["--certificate-lifetime", "12s"];
    let mesh = Issued::up_in(lab, &["--root-given", "--issuer-lifetime-max", "12s"], &short)?;
    mesh.serves()?;
    ensure!(mesh.lab.published_roots()? == [manager.root.pem()], "published is {:?}", mesh.lab.published_roots()?);
    let token = mesh.lab.agent_token(&mesh.a)?;
    let chain = || -> Result<String> {
        mesh.lab.request_certificate(&mesh.issuer, &token, &mesh.client.spiffe())?;
        Ok(std::fs::read_to_string(mesh.lab.directory().join("requested/cert.pem"))?)
    };
    let shown = chain()?;
    ensure!(shown.ends_with(&format!("{own}{}", manager.middle.pem())), "the chain is {shown}");
    // Renewed with another key under the same root: nobody has to learn anything, and nothing is restarted.
    let looping = mesh.app.start_loop(Calls::to(mesh.echo.v6()).times(0, 4), Duration::from_millis(5))?;
    let (renewed, next) = manager.secret()?;
    give_root(&mesh.lab, &renewed)?;
    wait::until("the renewed authority to sign", Duration::from_secs(30), || {
        ensure!(chain()?.contains(&next), "it is still the old one");
        Ok(())
    })?;
    let due = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs_f64() + 12.0;
    wait::until("every certificate to be of the renewed authority", Duration::from_secs(60), || {
        for (node, pod) in [(&mesh.a, &mesh.client), (&mesh.b, &mesh.server)] {
            let expiry = mesh.expiry(node, pod)?;
            ensure!(expiry > due, "that of {} expires at {expiry}, not after {due}", pod.spiffe());
        }
        Ok(())
    })?;
    mesh.serves()?;
    // What nobody would believe is not signed with, and said: a chain that does not lead to the root.
    let (mut astray, _) = CertManager::new()?.secret()?;
    astray["stringData"]["ca.crt"] = manager.root.pem().into();
    give_root(&mesh.lab, &astray)?;
    wait::until("the issuer to complain", Duration::from_secs(30), || {
        let log = mesh.issuer.process().log();
        ensure!(log.contains("what it signs is not believed"), "{log}");
        Ok(())
    })?;
    ensure!(mesh.issuer.metrics()?.sum("weft_controller_root_problem", &[]) == 1.0);
    ensure!(chain()?.contains(&next), "it signs with what nobody believes");
    let report = mesh.app.stop_loop(looping)?;
    ensure!(report.failed() == 0 && report.ok > 100, "{report:?}");
    mesh.serves()?;
    mesh.lab.finish()
}

#[test]
fn ca_outage_keeps_serving() -> Result<()> {
    let mesh = Issued::up("ca-outage", &[], &["--certificate-lifetime", "120s"])?;
    mesh.serves()?;
    let held = mesh.app.hold(Calls::to(mesh.echo.v4()).times(10, 2))?;
    let looping = mesh.app.start_loop(Calls::to(mesh.echo.v4()).times(0, 4), Duration::from_millis(5))?;
    let before = mesh.expiry(&mesh.a, &mesh.client)?;
    mesh.issuer.process().terminate(wait::DEADLINE)?;
    let away = Instant::now();
    // A pod that begins meanwhile, with an identity the node holds: new tunnels, with the certificate there is.
    let second = mesh.lab.pod(&mesh.a, "second").service_account("client").create()?;
    let app = second.app(&mesh.lab)?;
    mesh.lab.wait_live(&second)?;
    moves(&mesh.lab, &mesh.a, "connect_steer", 10, || {
        let summary = app.call(Calls::to(mesh.echo.v6()).times(10, 2))?;
        ensure!(summary.ok == 10, "{summary:?}");
        Ok(())
    })?;
    // Certificates fall due, and cannot be had.
    wait::until("a renewal to fail", Duration::from_secs(100), || {
        let agent = crate::fixture::running_agent(&mesh.lab, &mesh.a)?;
        ensure!(agent.process().log().contains("no certificate; trying again"), "none has failed");
        Ok(())
    })?;
    mesh.serves()?;
    wait::until("the outage to last", OUTAGE, || {
        ensure!(away.elapsed() >= OUTAGE, "{:?}", away.elapsed());
        Ok(())
    })?;
    let report = mesh.app.loop_report(looping)?;
    ensure!(report.failed() == 0, "while nobody signs: {report:?}");
    let issuer = mesh.lab.start_issuer(0, &[])?;
    wait::until("the certificate to be renewed", Duration::from_secs(60), || {
        let now = mesh.expiry(&mesh.a, &mesh.client)?;
        ensure!(now > before, "it still expires at {now}");
        Ok(())
    })?;
    ensure!(issuer.metrics()?.sum("weft_controller_certificates_issued_total", &[]) > 0.0, "somebody else signed it");
    mesh.serves()?;
    let report = mesh.app.stop_loop(looping)?;
    ensure!(report.failed() == 0 && report.ok > 100, "{report:?}");
    let poked = mesh.app.poke(held.group)?;
    ensure!(poked.ok == 10, "connections ended: {poked:?}");
    mesh.lab.finish()
}
