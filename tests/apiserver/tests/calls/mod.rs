//! Calls of the API, for tests.

use std::time::Duration;

use anyhow::{Result, bail};
use http::Method;
use serde_json::Value;
use weft_apiserver::contract::{Reply, Target};
use weft_apiserver::{Config, Server};

/// How long a condition may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A server and a client of it.
pub(crate) struct Calls {
    pub(crate) server: std::sync::Arc<Server>,
    target: Target,
}

impl Calls {
    pub(crate) async fn start(config: Config) -> Result<Self> {
        let server = Server::start("127.0.0.1:0".parse()?, config).await?;
        let target = Target::of(&server)?;
        Ok(Self { server: server.into(), target })
    }

    /// The same server, called by somebody else.
    pub(crate) fn as_caller(&self, token: Option<String>) -> Result<Self> {
        Ok(Self { server: self.server.clone(), target: Target::of(&self.server)?.with_token(token) })
    }

    pub(crate) async fn send(&self, method: Method, path: &str, kind: &str, body: Value) -> Result<Reply> {
        let body = (!body.is_null() || method != Method::DELETE).then(|| body.to_string());
        self.target.send(method, path, &[("content-type", kind), ("user-agent", "test/1")], body).await
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Reply> {
        self.target.send(Method::GET, path, &[], None).await
    }

    pub(crate) async fn get_as(&self, path: &str, accept: &str) -> Result<Reply> {
        self.target.send(Method::GET, path, &[("accept", accept)], None).await
    }

    /// Creates what has to be creatable.
    pub(crate) async fn create(&self, path: &str, body: Value) -> Result<Value> {
        let reply = self.send(Method::POST, path, "application/json", body).await?;
        if reply.status != 201 {
            bail!("creating in {path}: {} {}", reply.status, reply.text);
        }
        Ok(reply.json())
    }

    pub(crate) async fn patch(&self, path: &str, kind: &str, body: Value) -> Result<Reply> {
        self.send(Method::PATCH, path, kind, body).await
    }

    /// A merge patch that has to work.
    pub(crate) async fn merge(&self, path: &str, body: Value) -> Result<Value> {
        let reply = self.patch(path, "application/merge-patch+json", body).await?;
        if reply.status != 200 {
            bail!("patching {path}: {} {}", reply.status, reply.text);
        }
        Ok(reply.json())
    }

    pub(crate) async fn apply(&self, path: &str, manager: &str, force: bool, body: Value) -> Result<Reply> {
        let path = format!("{path}?fieldManager={manager}&force={force}");
        self.patch(&path, "application/apply-patch+yaml", body).await
    }

    pub(crate) async fn delete(&self, path: &str, body: Value) -> Result<Reply> {
        self.send(Method::DELETE, path, "application/json", body).await
    }

    /// Waits for an answer that will do.
    pub(crate) async fn until(&self, path: &str, will_do: impl Fn(&Reply) -> bool) -> Result<()> {
        self.wait(path, |reply| reply.is_ok_and(|reply| will_do(&reply))).await
    }

    pub(crate) async fn until_reachable(&self, path: &str) -> Result<()> {
        self.wait(path, |reply| reply.is_ok()).await
    }

    pub(crate) async fn until_unreachable(&self, path: &str) -> Result<()> {
        self.wait(path, |reply| reply.is_err()).await
    }

    /// Waits until so many watches have begun.
    pub(crate) async fn until_watched(&self, count: usize) -> Result<()> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while self.server.counts().watches.len() < count {
            if tokio::time::Instant::now() > deadline {
                bail!("there are no {count} watches");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    async fn wait(&self, path: &str, will_do: impl Fn(Result<Reply>) -> bool) -> Result<()> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !will_do(self.get(path).await) {
            if tokio::time::Instant::now() > deadline {
                bail!("{path} is not as it should become");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }
}
