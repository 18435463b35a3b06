//! `pods/NAME:PORT/proxy/...`: a GET that is passed on to a port of a pod, at the address its status names.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{Body, full};
use crate::engine::Shared;
use crate::request::Target;
use crate::status::ApiError;
use crate::store::key;

/// Time for a pod's answer.
const ANSWER: Duration = Duration::from_secs(10);

pub(super) fn serves(target: &Target) -> bool {
    target.group.is_empty() && target.plural == "pods" && target.subresource == "proxy"
}

pub(super) async fn get(shared: &Shared, target: &Target, query: Option<&str>) -> Result<Response<Body>, ApiError> {
    let (name, port) = target.name.split_once(':').unwrap_or((&target.name, "80"));
    let resource = shared.find("", "v1", "pods").ok_or_else(ApiError::no_such_resource)?;
    let found = shared.store().get(&resource.table(), &key(&target.namespace, name));
    let found = found.ok_or_else(|| ApiError::not_found(&resource, name))?;
    let ip = found.value()["status"]["podIP"].as_str().unwrap_or_default().to_owned();
    let lost =
        |why: String| ApiError::new(503, "ServiceUnavailable", format!("error trying to reach service: {why}"), None);
    let port = port.parse().map_err(|_| ApiError::bad_request(format!("invalid port {port:?}")))?;
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    let path = format!("/{}{query}", target.rest);
    let asked = exchange((&ip, port), &path);
    match tokio::time::timeout(ANSWER, asked).await {
        Ok(answer) => answer.map_err(|error| lost(format!("dial tcp {ip}:{port}: {error:#}"))),
        Err(_) => Err(lost("context deadline exceeded".to_owned())),
    }
}

async fn exchange((ip, port): (&str, u16), path: &str) -> anyhow::Result<Response<Body>> {
    let stream = TcpStream::connect((ip, port)).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(path).header(http::header::HOST, ip).body(Empty::<Bytes>::new())?;
    let answer = async move {
        let (parts, body) = sender.send_request(request).await?.into_parts();
        anyhow::Ok(Response::from_parts(parts, full(body.collect().await?.to_bytes().to_vec())))
    };
    tokio::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        // The connection may end just as the answer is complete.
        _ = connection => answer.await,
    }
}
