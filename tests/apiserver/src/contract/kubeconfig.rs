//! What a kubeconfig says of one server and of who asks it, and the same said of it by another address.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Uri;
use serde_json::{Value, json};

/// The current context of a kubeconfig, with every file it names read.
pub struct Kubeconfig {
    pub(super) server: Uri,
    /// The name its certificate is held to: `tls-server-name`, or the host it is dialled by.
    pub(super) known_as: String,
    /// PEM.
    pub(super) authority: Option<Vec<u8>>,
    /// Chain and key of the client, PEM.
    pub(super) certificate: Option<(Vec<u8>, Vec<u8>)>,
    pub(super) token: Option<String>,
}

impl Kubeconfig {
    /// Reads a file. Plugins that fetch credentials are not run, and no proxy is used.
    ///
    /// # Errors
    /// When the file cannot be read, or names no server or no usable credentials.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        Self::parse(&text, path.parent().unwrap_or(Path::new("."))).with_context(|| path.display().to_string())
    }

    /// Reads a text whose relative file names are of this directory.
    pub(super) fn parse(text: &str, directory: &Path) -> Result<Self> {
        let config: Value = serde_saphyr::from_str(text).context("the kubeconfig")?;
        let named = |list: &str, name: &Value, what: &str| -> Result<Value> {
            let items = config[list].as_array().map_or(&[] as &[Value], Vec::as_slice);
            let found = items.iter().find(|item| &item["name"] == name);
            found.map(|found| found[what].clone()).with_context(|| format!("the kubeconfig has no {what} {name}"))
        };
        let context = named("contexts", &config["current-context"], "context")?;
        let cluster = named("clusters", &context["cluster"], "cluster")?;
        let user = named("users", &context["user"], "user")?;
        if user.get("exec").is_some() || user.get("auth-provider").is_some() {
            bail!("the kubeconfig asks a plugin for credentials: use one with a token or a certificate");
        }
        if cluster.get("proxy-url").is_some() {
            bail!("the kubeconfig names a proxy (proxy-url): use one whose server is dialled directly");
        }
        let file = |name: &str| std::fs::read(directory.join(name)).with_context(|| format!("reading {name}"));
        let pem = |of: &Value, name: &str| -> Result<Option<Vec<u8>>> {
            match (of[format!("{name}-data")].as_str(), of[name].as_str()) {
                (Some(data), _) => Ok(Some(STANDARD.decode(data)?)),
                (None, Some(name)) => file(name).map(Some),
                (None, None) => Ok(None),
            }
        };
        let server: Uri = cluster["server"].as_str().context("the cluster has no server")?.parse()?;
        let host = server.host().context("the server's URL has no host")?.trim_matches(['[', ']']).to_owned();
        let token = match (user["token"].as_str(), user["tokenFile"].as_str()) {
            (Some(token), _) => Some(token.to_owned()),
            (None, Some(name)) => Some(String::from_utf8(file(name)?)?.trim().to_owned()),
            (None, None) => None,
        };
        Ok(Self {
            known_as: cluster["tls-server-name"].as_str().map_or(host, str::to_owned),
            authority: pem(&cluster, "certificate-authority")?,
            certificate: pem(&user, "client-certificate")?.zip(pem(&user, "client-key")?),
            server,
            token,
        })
    }

    /// Where the server is dialled: `host:port`.
    pub fn address(&self) -> String {
        let port = self.server.port_u16().unwrap_or(if self.server.scheme_str() == Some("https") { 443 } else { 80 });
        format!("{}:{port}", self.server.host().unwrap_or_default())
    }

    /// A kubeconfig without other files for the same server, dialled at `address` and still held to its own name.
    pub fn through(&self, address: SocketAddr) -> String {
        let mut cluster = json!({"server": format!("{}://{address}", self.server.scheme_str().unwrap_or("http"))});
        if let Some(authority) = &self.authority {
            cluster["certificate-authority-data"] = STANDARD.encode(authority).into();
            cluster["tls-server-name"] = self.known_as.as_str().into();
        }
        let mut user = json!({});
        if let Some((chain, key)) = &self.certificate {
            user["client-certificate-data"] = STANDARD.encode(chain).into();
            user["client-key-data"] = STANDARD.encode(key).into();
        }
        if let Some(token) = &self.token {
            user["token"] = token.as_str().into();
        }
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "cluster",
            "clusters": [{"name": "cluster", "cluster": cluster}], "users": [{"name": "admin", "user": user}],
            "contexts": [{"name": "cluster", "context": {"cluster": "cluster", "user": "admin", "namespace": "default"}}]
        })
        .to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cluster known by a file beside it, and a user by a certificate.
    const WRITTEN: &str = "current-context: there
contexts: [{name: there, context: {cluster: one, user: me}}]
clusters: [{name: one, cluster: {server: 'https://api.example.com', certificate-authority: ca.pem}}]
users: [{name: me, user: {client-certificate-data: Y2hhaW4=, client-key-data: a2V5}}]
";

    #[test]
    fn what_is_dialled_elsewhere_is_held_to_its_own_name() -> Result<()> {
        let directory = tempfile::tempdir()?;
        std::fs::write(directory.path().join("ca.pem"), "roots")?;
        let read = Kubeconfig::parse(WRITTEN, directory.path())?;
        assert_eq!(read.address(), "api.example.com:443");
        let elsewhere = Kubeconfig::parse(&read.through("172.18.0.254:6443".parse()?), Path::new("/nowhere"))?;
        assert_eq!(elsewhere.address(), "172.18.0.254:6443");
        assert_eq!(elsewhere.known_as, "api.example.com");
        assert_eq!(elsewhere.authority.as_deref(), Some(b"roots".as_slice()));
        assert_eq!(elsewhere.certificate, Some((b"chain".to_vec(), b"key".to_vec())));
        Ok(())
    }

    #[test]
    fn what_needs_a_plugin_or_a_proxy_is_refused() {
        for (from, to) in
            [("client-key-data: a2V5", "exec: {command: aws}"), ("server:", "proxy-url: 'http://p', server:")]
        {
            assert!(Kubeconfig::parse(&WRITTEN.replace(from, to), Path::new(".")).is_err(), "{to}");
        }
    }
}
