//! Whether a response is one that a rule wants to be had again.

use http::{HeaderMap, StatusCode};

use super::Retry;

impl Retry {
    /// Judges by the head alone. A gRPC call that failed before it said anything has its status there (a trailers-only
    /// response); one that has said something and failed is not to be repeated.
    #[must_use]
    pub fn wants(&self, status: StatusCode, fields: &HeaderMap) -> bool {
        let said = fields.get("grpc-status").filter(|_| status == StatusCode::OK);
        let status = match said.and_then(|said| said.to_str().ok()?.parse().ok()) {
            Some(code) => grpc(code),
            None => Some(status),
        };
        status.is_some_and(|status| self.statuses.contains(&status))
    }
}

/// The HTTP status that says what a gRPC status says (google.rpc.Code); `None` of what is no failure.
fn grpc(code: u8) -> Option<StatusCode> {
    let status = match code {
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        2 | 13 | 15 => 500,
        _ => return None,
    };
    StatusCode::from_u16(status).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_failed_at_once_is_a_failure_like_any() {
        let rule = Retry { attempts: 1, statuses: vec![StatusCode::SERVICE_UNAVAILABLE], backoff: None };
        let with = |code: &'static str| HeaderMap::from_iter([("grpc-status".parse().unwrap(), code.parse().unwrap())]);
        assert!(
            rule.wants(StatusCode::OK, &with("14")) && rule.wants(StatusCode::SERVICE_UNAVAILABLE, &HeaderMap::new())
        );
        for other in ["0", "4", "13", "no number"] {
            assert!(!rule.wants(StatusCode::OK, &with(other)), "{other}");
        }
        assert!(!rule.wants(StatusCode::OK, &HeaderMap::new()));
    }
}
