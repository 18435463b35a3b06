//! One check of one endpoint: a connection as traffic makes it, and a question as the endpoint's protocol has it.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, TE, USER_AGENT};
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use weft_core::model::HealthProbe;
use weft_core::route::Target;

use crate::dial::{Caller, Dialer, Refused};
use crate::relay::Far;

/// The call of a health check (grpc.health.v1).
const CHECK: &str = "/grpc.health.v1.Health/Check";
/// What is read of an answer at the most, in bytes.
const ANSWER_MAX: usize = 4096;
/// The answer of a service that serves: one message, not compressed, whose field `status` is `SERVING`.
const SERVING: &[u8] = &[0, 0, 0, 0, 2, 0x08, 1];
/// Who asks.
const AGENT: &str = concat!("weft-health-check/", env!("CARGO_PKG_VERSION"));

/// Why a check did not go well.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unwell {
    /// It could not be connected to.
    #[error("{0}")]
    Refused(#[from] Refused),
    /// It was connected to, and gave no answer.
    #[error("it gave no answer: {0}")]
    Silent(#[from] hyper::Error),
    /// Another status than those that are good.
    #[error("it answered with status {0}")]
    Status(StatusCode),
    /// `grpc.health.v1` says otherwise.
    #[error("it does not say that it serves (grpc-status {0})")]
    NotServing(String),
    /// What is asked cannot be asked so.
    #[error("the question cannot be put: {0}")]
    Question(#[from] http::Error),
    /// The answer took too long.
    #[error("it took longer than the check's timeout")]
    Late,
}

impl Unwell {
    /// Whether it says something of the endpoint: nobody is unwell because this node's pod may not ask.
    pub(super) fn is_endpoints_fault(&self) -> bool {
        match self {
            Self::Refused(refused) => refused.is_endpoints_fault(),
            Self::Question(_) => false,
            _ => true,
        }
    }

    /// One word.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Refused(_) => "connect",
            Self::Silent(_) => "no_answer",
            Self::Status(_) => "status",
            Self::NotServing(_) => "not_serving",
            Self::Question(_) => "question",
            Self::Late => "timeout",
        }
    }
}

/// Asks an endpoint how it is.
///
/// # Errors
/// [`Unwell`].
pub(super) async fn ask(
    dialer: &Dialer,
    caller: &Caller<'_>,
    target: &Target,
    probe: &HealthProbe,
    http2: bool,
) -> Result<(), Unwell> {
    let far = dialer.dial(caller, target).await?;
    let request = match probe {
        HealthProbe::Tcp => return Ok(()),
        HealthProbe::Http { path, host, .. } => {
            let own = target.address.to_string();
            get(path, host.as_deref().unwrap_or(&own), http2)?
        }
        HealthProbe::Grpc { service } => call(service, &target.address.to_string())?,
    };
    let http2 = request.version() == Version::HTTP_2;
    let response = match far {
        Far::Tcp(tcp) => put(tcp, request, http2).await?,
        Far::Stream(stream) => put(stream.into_io(), request, http2).await?,
    };
    judge(probe, &response)
}

fn judge(probe: &HealthProbe, response: &Response<(Bytes, HeaderMap)>) -> Result<(), Unwell> {
    if !probe.expects(response.status()) {
        return Err(Unwell::Status(response.status()));
    }
    if matches!(probe, HealthProbe::Grpc { .. }) {
        let (message, trailers) = response.body();
        let status = trailers.get("grpc-status").or_else(|| response.headers().get("grpc-status"));
        let status = status.map_or(String::new(), |status| String::from_utf8_lossy(status.as_bytes()).into_owned());
        if status != "0" || **message != *SERVING {
            return Err(Unwell::NotServing(status));
        }
    }
    Ok(())
}

fn get(path: &str, host: &str, http2: bool) -> http::Result<Request<Full<Bytes>>> {
    let request = Request::builder().method(Method::GET).header(USER_AGENT, AGENT);
    let request = if http2 {
        request.version(Version::HTTP_2).uri(format!("http://{host}{path}"))
    } else {
        request.uri(path).header(HOST, host)
    };
    request.body(Full::default())
}

fn call(service: &str, host: &str) -> http::Result<Request<Full<Bytes>>> {
    let mut message = Vec::new();
    if !service.is_empty() {
        // Field 1, a string: its key, its length in sevens of bits, and it.
        message.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(service.as_bytes());
    }
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes();
    let framed = [&[0][..], &length, &message].concat();
    Request::builder()
        .method(Method::POST)
        .version(Version::HTTP_2)
        .uri(format!("http://{host}{CHECK}"))
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header(USER_AGENT, AGENT)
        .body(Full::from(framed))
}

/// Sends a request over a connection of its own, and reads the answer. Dropped before that, it ends the connection.
async fn put<T>(io: T, request: Request<Full<Bytes>>, http2: bool) -> Result<Response<(Bytes, HeaderMap)>, Unwell>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut driving = tokio::task::JoinSet::new();
    let response = if http2 {
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await?;
        driving.spawn(async move { _ = connection.await });
        sender.send_request(request).await?
    } else {
        let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await?;
        driving.spawn(async move { _ = connection.await });
        sender.send_request(request).await?
    };
    Ok(read(response).await)
}

/// As much of an answer as anybody looks at.
async fn read(response: Response<Incoming>) -> Response<(Bytes, HeaderMap)> {
    let (head, body) = response.into_parts();
    // A page of any length is a good answer: its head has come, and that is what is asked for.
    let body = match Limited::new(body, ANSWER_MAX).collect().await {
        Ok(body) => {
            let trailers = body.trailers().cloned().unwrap_or_default();
            (body.to_bytes(), trailers)
        }
        Err(_) => Default::default(),
    };
    Response::from_parts(head, body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    fn answer(status: u16, grpc: &str, message: &[u8]) -> Response<(Bytes, HeaderMap)> {
        let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), grpc.parse().unwrap())]);
        Response::builder().status(status).body((Bytes::copy_from_slice(message), trailers)).unwrap()
    }

    #[test]
    fn a_service_that_serves_says_so() {
        let grpc = HealthProbe::Grpc { service: "".into() };
        assert!(judge(&grpc, &answer(200, "0", SERVING)).is_ok());
        for (status, code, message) in
            [(200, "0", &[0, 0, 0, 0, 2, 8, 2][..]), (200, "5", &[]), (200, "0", &[0, 0, 0, 0, 0]), (503, "0", SERVING)]
        {
            assert!(judge(&grpc, &answer(status, code, message)).is_err(), "{status} {code} {message:?}");
        }
        let http = |statuses: &[u16]| HealthProbe::Http {
            path: "/".into(),
            host: None,
            statuses: statuses.iter().map(|status| StatusCode::from_u16(*status).unwrap()).collect(),
        };
        assert!(judge(&http(&[]), &answer(302, "", &[])).is_ok() && judge(&http(&[]), &answer(404, "", &[])).is_err());
        assert!(
            judge(&http(&[404]), &answer(404, "", &[])).is_ok() && judge(&http(&[404]), &answer(200, "", &[])).is_err()
        );
    }

    #[test]
    fn a_service_is_named_as_protobuf_has_it() {
        let sent = |service: &str| {
            let body = call(service, "a").unwrap().into_body();
            futures_util::FutureExt::now_or_never(body.collect()).unwrap().unwrap().to_bytes()
        };
        assert_eq!(&sent("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&sent("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(&sent(&"x".repeat(200))[..8], [0, 0, 0, 0, 203, 0x0a, 0xc8, 1]);
    }

    #[tokio::test]
    async fn it_asks_as_a_server_expects() {
        let (near, mut far) = duplex(4096);
        let asked = tokio::spawn(put(near, get("/healthz?x=1", "example", false).unwrap(), false));
        let mut head = vec![0; 1024];
        let length = far.read(&mut head).await.unwrap();
        let head = String::from_utf8_lossy(&head[..length]).to_lowercase();
        assert!(head.starts_with("get /healthz?x=1 http/1.1\r\n") && head.contains("host: example\r\n"), "{head}");
        far.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        assert_eq!(asked.await.unwrap().unwrap().status(), 204);
    }
}
