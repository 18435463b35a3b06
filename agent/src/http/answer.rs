//! What the app is told when its request cannot be carried: the one table of failures and their statuses.
//!
//! The header `weft-error` says in one word that the mesh answered, and why; the body says it in a sentence. A gRPC call is
//! answered as gRPC clients read answers: status 200, and the failure in `grpc-status`.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};

use super::hop::BadRequest;
use crate::dial::Refused;
use crate::tunnel::TunnelError;

/// Says that the mesh answered, and why, in the word of the metrics.
const WEFT_ERROR: HeaderName = HeaderName::from_static("weft-error");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Why a request was not answered by an endpoint.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// It cannot be carried as it is.
    #[error("{0}")]
    BadRequest(#[from] BadRequest),
    /// No rule of the service port's routes takes it.
    #[error("no rule of the routes of this Service takes the request")]
    NoRoute,
    /// The rule that takes it gives it to nobody.
    #[error("{0}")]
    Rule(#[from] weft_core::http::Refusal),
    /// What the rule makes of it cannot be sent.
    #[error("{0}")]
    Edit(#[from] weft_core::http::EditError),
    /// It took longer than its rule allows.
    #[error("there was no answer within {0:?}, the time its route gives it")]
    Timeout(Duration),
    /// No endpoint could be connected to.
    #[error("{0}")]
    Refused(#[from] Refused),
    /// The endpoint was connected to, and gave no answer.
    #[error("the endpoint gave no answer: {}", sentence(.0))]
    Upstream(hyper::Error),
    /// The endpoint switched to another protocol.
    #[error("the endpoint switched to a protocol nobody asked for")]
    Switched,
    /// The endpoint's response can be read in two ways, or not at all.
    #[error(
        "the endpoint's response has no one length: both Content-Length and Transfer-Encoding, several of one, or a coding other than chunked"
    )]
    Framing,
    /// It is one too many.
    #[error("there are more requests than the TrafficPolicy lets in; the next is let in after {0:?}")]
    RateLimited(Duration),
    /// It goes wrong on purpose.
    #[error("a TrafficPolicy has this request fail, with {0}")]
    Injected(StatusCode),
    /// Its pod's budget is used up.
    #[error("bodies that nobody reads and long heads use up what the pod may hold")]
    Budget,
    /// Its head is not complete.
    #[error("the head of the request was not complete within {0:?}")]
    Unfinished(Duration),
    /// It has been through the mesh too often.
    #[error("the request has passed {0} proxies of the mesh: do two services send it to each other?")]
    Loop(u32),
}

impl Fault {
    /// The word in metrics, the access log and `weft-error`.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::BadRequest(_) => "bad_request",
            Self::NoRoute => "no_route",
            Self::Rule(refusal) => refusal.label(),
            Self::Edit(_) => "invalid_rewrite",
            Self::Timeout(_) => "timeout",
            Self::Refused(refused) => refused.label(),
            Self::Upstream(error) if error.is_parse() => "malformed_response",
            Self::Upstream(_) => "upstream_reset",
            Self::Switched | Self::Framing => "malformed_response",
            Self::RateLimited(_) => "rate_limited",
            Self::Injected(_) => "fault_injected",
            Self::Budget => "over_budget",
            Self::Unfinished(_) => "request_timeout",
            Self::Loop(_) => "loop",
        }
    }

    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(bad) => bad.status(),
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::Rule(_) | Self::Edit(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Timeout(_) => StatusCode::GATEWAY_TIMEOUT,
            Self::Refused(Refused::Tunnel(TunnelError::Refused { status: 401 | 403 })) => StatusCode::FORBIDDEN,
            Self::Refused(_) | Self::Budget => StatusCode::SERVICE_UNAVAILABLE,
            Self::Upstream(_) | Self::Switched | Self::Framing => StatusCode::BAD_GATEWAY,
            Self::RateLimited(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Injected(status) => *status,
            Self::Unfinished(_) => StatusCode::REQUEST_TIMEOUT,
            Self::Loop(_) => StatusCode::LOOP_DETECTED,
        }
    }

    /// The answer.
    pub(super) fn response(&self, grpc: bool) -> Response<Bytes> {
        let (label, status) = (HeaderValue::from_static(self.label()), self.status());
        if !grpc {
            let mut response = Response::new(Bytes::from(format!("weft: {self}\n")));
            *response.status_mut() = status;
            response.headers_mut().insert(WEFT_ERROR, label);
            if let Self::RateLimited(wait) = self {
                // Whole seconds, and none less than it takes (RFC 9110, 10.2.3).
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(wait.as_secs() + 1));
            }
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
            return response;
        }
        let mut response = Response::new(Bytes::new());
        let headers = response.headers_mut();
        headers.insert(WEFT_ERROR, label);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(GRPC_STATUS, HeaderValue::from_static(grpc_status(status)));
        if let Ok(message) = HeaderValue::try_from(percent_encoded(&format!("weft: {self}"))) {
            headers.insert(GRPC_MESSAGE, message);
        }
        response
    }
}

/// An error and what led to it: hyper's own text does not say.
fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Whether a request is a gRPC call.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// What gRPC makes of a status (its "HTTP to gRPC Status Code Mapping"), but for timeouts, which it has a code for.
fn grpc_status(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 => "13",
        401 => "16",
        403 => "7",
        404 => "12",
        429 | 502 | 503 => "14",
        504 => "4",
        _ => "2",
    }
}

/// As `grpc-message` wants it: printable ASCII but for `%`.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_speaks_grpc_is_answered_in_grpc() {
        let denied = Fault::Refused(Refused::Tunnel(TunnelError::Refused { status: 401 }));
        let plain = denied.response(false);
        assert_eq!(
            (plain.status(), plain.headers()["weft-error"].to_str().unwrap()),
            (StatusCode::FORBIDDEN, denied.label())
        );
        assert!(plain.body().starts_with(b"weft: "));
        let grpc = denied.response(true);
        assert_eq!((grpc.status(), grpc.headers()["grpc-status"].to_str().unwrap()), (StatusCode::OK, "7"));
        assert!(grpc.body().is_empty());
        let looping = Fault::Loop(33);
        assert_eq!((looping.status(), looping.label()), (StatusCode::LOOP_DETECTED, "loop"));
        assert_eq!(percent_encoded("50 % é\n"), "50 %25 %C3%A9%0A");
    }
}
