//! `weft controller` as the lab's certificate authority, and what kubelet does for agents that ask it: tokens bound to a
//! pod of theirs, and the mounted bundle of roots.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::api_server::ADDRESS;
use super::process::Place;
use super::{Lab, Node, Process, binary, cgroup};
use crate::metrics::Metrics;
use crate::wait;

/// Port of the first replica; the next has the next.
const PORT: u16 = 15012;
/// Metrics of the first replica.
const METRICS_PORT: u16 = 15040;
/// The name in the issuer's certificate.
const NAME: &str = "weft-controller.weft-system.svc";
/// The audience of tokens for it.
const AUDIENCE: &str = "weft-ca";
/// Where the roots are published.
const BUNDLE: &str = "/api/v1/namespaces/weft-system/configmaps/weft-root-bundle";

/// A replica of the issuer. Clones are the same.
#[derive(Clone)]
pub struct Issuer {
    process: Process,
    network: super::NetNs,
    number: u16,
}

impl Issuer {
    /// Its process.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Where it is asked for certificates.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        (ADDRESS, PORT + self.number).into()
    }

    /// Its metrics.
    ///
    /// # Errors
    /// When the port does not answer.
    pub fn metrics(&self) -> Result<Metrics> {
        self.get("/metrics").map(|text| Metrics::parse(&text))
    }

    fn get(&self, path: &'static str) -> Result<String> {
        let port = METRICS_PORT + self.number;
        self.network.run(move || crate::metrics::get((ADDRESS, port).into(), path))
    }
}

impl Lab {
    /// Starts a replica of the issuer without waiting for it, in the place of an earlier one of this number if there is one.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn launch_issuer(&self, number: u16, arguments: &[&str]) -> Result<Issuer> {
        let kubeconfig = self.admit_issuers()?;
        let name = format!("issuer-{number}");
        let own_cgroup = self.run.cgroup().join(&name);
        cgroup::create(&own_cgroup)?;
        let mut command = vec![binary("weft")?.display().to_string(), "controller".into()];
        for (option, value) in [
            ("--kubeconfig", kubeconfig.display().to_string()),
            ("--name", name.clone()),
            ("--issuer-address", format!("{ADDRESS}:{}", PORT + number)),
            ("--metrics-address", format!("{ADDRESS}:{}", METRICS_PORT + number)),
        ] {
            command.extend([option.to_owned(), value]);
        }
        command.extend(arguments.iter().map(|&argument| argument.to_owned()));
        let place = Place { name: name.clone(), netns: &self.fabric, cgroup: &own_cgroup, log: self.log_path(&name) };
        let issuer = Issuer { process: Process::start(place, &command)?, network: self.fabric.clone(), number };
        self.contents().issuers.push(issuer.clone());
        Ok(issuer)
    }

    /// Starts a replica of the issuer and waits until it can sign.
    ///
    /// # Errors
    /// When it ends, or does not become ready.
    pub fn start_issuer(&self, number: u16, arguments: &[&str]) -> Result<Issuer> {
        let issuer = self.launch_issuer(number, arguments)?;
        wait::until(&format!("issuer {number} to be ready"), super::agent::READY, || {
            if let Some(status) = issuer.process.exited() {
                bail!("it ended with {status}: {}", issuer.process.log());
            }
            issuer.get("/readyz").map(drop)
        })?;
        Ok(issuer)
    }

    /// The account of the controller, with the rights of `deploy/issuer-rbac.yaml` and no other; yields its kubeconfig.
    fn admit_issuers(&self) -> Result<PathBuf> {
        let path = self.run.path().join("kubeconfig-issuer");
        if path.exists() {
            return Ok(path);
        }
        let api = self.api().context("a lab without an API server")?;
        self.deploy(include_str!("../../../deploy/issuer-rbac.yaml"))?;
        let token = self.token("weft-controller", &json!({"expirationSeconds": 3600}))?;
        let mut config: Value = serde_saphyr::from_str(&std::fs::read_to_string(api.admin())?)?;
        config["users"] = json!([{"name": "admin", "user": {"token": token}}]);
        std::fs::write(&path, serde_saphyr::to_string(&config)?).context("writing the issuer's kubeconfig")?;
        Ok(path)
    }

    /// A token of a service account of the mesh's own.
    ///
    /// # Errors
    /// When the API server gives none.
    pub fn token(&self, account: &str, spec: &Value) -> Result<String> {
        let api = self.api().context("a lab without an API server")?;
        let path = format!("/api/v1/namespaces/weft-system/serviceaccounts/{account}/token");
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
        let granted = api.done("POST", &path, "application/json", Some(&request))?;
        granted["status"]["token"].as_str().map(str::to_owned).context("the API server gave no token")
    }

    /// Makes the pod of a node's agent, has a token bound to it as kubelet would, and yields the file it is in.
    ///
    /// # Errors
    /// When the API server refuses.
    pub fn agent_token(&self, node: &Node) -> Result<PathBuf> {
        let api = self.api().context("a lab without an API server")?;
        let name = format!("weft-agent-{}", node.name());
        let address = node.addresses().0.to_string();
        api.put(&json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "weft-system", "labels": {}},
            "spec": {"nodeName": node.name(), "hostNetwork": true, "serviceAccountName": "weft-agent",
                "containers": [{"name": "agent", "image": "weft"}]},
            "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}
        }))?;
        let uid = api.get(&format!("/api/v1/namespaces/weft-system/pods/{name}"))?["metadata"]["uid"].clone();
        let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid});
        let spec = json!({"audiences": [AUDIENCE], "expirationSeconds": 3600, "boundObjectRef": bound});
        let token = self.token("weft-agent", &spec)?;
        let path = self.run.path().join(format!("token-{}", node.name()));
        std::fs::write(&path, token).context("writing a token")?;
        Ok(path)
    }

    /// What has the agent of a node ask this issuer for certificates.
    ///
    /// # Errors
    /// As [`Lab::agent_token`].
    pub fn issuer_arguments(&self, node: &Node, issuer: &Issuer) -> Result<Vec<String>> {
        let arguments = [
            ("--ca-address", issuer.address().to_string()),
            ("--ca-name", NAME.to_owned()),
            ("--ca-root-file", self.roots_file().display().to_string()),
            ("--ca-token-file", self.agent_token(node)?.display().to_string()),
        ];
        Ok(arguments.into_iter().flat_map(|(option, value)| [option.to_owned(), value]).collect())
    }

    /// The mounted bundle of roots.
    #[must_use]
    pub fn roots_file(&self) -> PathBuf {
        self.run.path().join("roots.pem")
    }

    /// The roots that are published, as PEM.
    ///
    /// # Errors
    /// When there are none.
    pub fn published_roots(&self) -> Result<Vec<String>> {
        let bundle = self.api().context("a lab without an API server")?.get(BUNDLE)?;
        let text = bundle["data"]["roots.pem"].as_str().context("no roots in the bundle")?;
        Ok(text.split_inclusive("-----END CERTIFICATE-----\n").map(str::to_owned).collect())
    }

    /// Brings the mounted bundle up to date, as kubelet does now and then.
    ///
    /// # Errors
    /// When there is none to mount.
    pub fn mount_roots(&self) -> Result<()> {
        let beside = self.roots_file().with_extension("new");
        std::fs::write(&beside, self.published_roots()?.concat())?;
        std::fs::rename(beside, self.roots_file()).context("mounting the roots")
    }

    /// Asks an issuer for a certificate with this token, from the nodes' network; yields what `weft ca request` says.
    ///
    /// # Errors
    /// The issuer's refusal.
    pub fn request_certificate(&self, issuer: &Issuer, token: &Path, identity: &str) -> Result<String> {
        let out = self.run.path().join("requested").display().to_string();
        let command: Vec<String> = [
            &binary("weft")?.display().to_string(),
            "ca",
            "request",
            "--ca-address",
            &issuer.address().to_string(),
            "--ca-name",
            NAME,
            "--ca-root-file",
            &self.roots_file().display().to_string(),
            "--ca-token-file",
            &token.display().to_string(),
            "--identity",
            identity,
            "--out",
            &out,
        ]
        .map(str::to_owned)
        .into();
        self.fabric.run(move || super::run_command(&command, ""))
    }
}
