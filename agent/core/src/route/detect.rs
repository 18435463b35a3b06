//! What the first bytes of a connection say about its protocol, where that is asked for.

/// What is looked at, in bytes.
pub const LOOKED_AT: usize = 1024;

/// What a connection speaks, as far as can be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Said {
    /// HTTP/1 or HTTP/2.
    Http,
    /// Something else.
    Other,
    /// Either, so far.
    Unclear,
}

/// What a client that speaks HTTP/2 begins with (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// No method is longer.
const METHOD_MAX: usize = 32;

/// Tells by the first bytes a client has sent: the preface of HTTP/2, or a request line of HTTP/1. Whatever comes after
/// changes nothing of what was said once, other than `Unclear`.
#[must_use]
pub fn said(bytes: &[u8]) -> Said {
    let bytes = &bytes[..bytes.len().min(LOOKED_AT)];
    if bytes.len() >= PREFACE.len() && bytes.starts_with(PREFACE) {
        return Said::Http;
    }
    if PREFACE.starts_with(bytes) {
        return Said::Unclear;
    }
    let method = bytes.iter().take_while(|byte| byte.is_ascii_uppercase() || **byte == b'-').count();
    let whole = bytes.len() == LOOKED_AT;
    match bytes.get(method) {
        None if method <= METHOD_MAX => return Said::Unclear,
        Some(b' ') if (1..=METHOD_MAX).contains(&method) => {}
        _ => return Said::Other,
    }
    let rest = &bytes[method + 1..];
    let target = rest.iter().take_while(|byte| byte.is_ascii_graphic() || **byte >= 0x80).count();
    let version = match rest.get(target) {
        // The target alone fills what is looked at: nothing else begins like that.
        None if whole => return Said::Http,
        None => return Said::Unclear,
        Some(b' ') if target > 0 => &rest[target + 1..],
        Some(_) => return Said::Other,
    };
    let known = b"HTTP/1.";
    match version.len() {
        length if length > known.len() && version.starts_with(known) => Said::Http,
        length if length <= known.len() && known.starts_with(version) && !whole => Said::Unclear,
        length if length <= known.len() && known.starts_with(version) => Said::Http,
        _ => Said::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn requests_are_told_from_what_only_looks_like_them() {
        for http in [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "OPTIONS * HTTP/1.0\r\n",
            "CONNECT a:443 HTTP/1.1\r\n",
            "VERSION-CONTROL /x HTTP/1.1\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "GET http://a/b HTTP/1.1",
        ] {
            assert_eq!(said(http.as_bytes()), Said::Http, "{http:?}");
        }
        for other in [
            "PING\r\n",
            "GET key\r\n",
            "get / HTTP/1.1\r\n",
            "EHLO example\r\n",
            "SSH-2.0-x\r\n",
            "\x16\x03\x01\x02",
            "\0\0\0\x08",
            "*1\r\n$4\r\nPING\r\n",
            "GET / FTP/1.1\r\n",
            "USER nick 0 * :name\r\n",
            " GET / HTTP/1.1",
            "PRI * HTTP/3.0\r\n\r\n",
            "GET  / HTTP/1.1\r\n",
            "GET / HTTP/2.0\r\n",
        ] {
            assert_eq!(said(other.as_bytes()), Said::Other, "{other:?}");
        }
        for unclear in ["", "G", "GET", "GET /", "GET / ", "GET / HTTP/1.", "PRI * HTTP/2.0\r\n\r\nS"] {
            assert_eq!(said(unclear.as_bytes()), Said::Unclear, "{unclear:?}");
        }
        let long = format!("GET /{} HTTP/1.1\r\n", "x".repeat(2000));
        assert_eq!(said(long.as_bytes()), Said::Http);
        assert_eq!(said(&[b'A'; 40]), Said::Other);
    }

    proptest! {
        /// Bytes may come one by one: what is said of fewer is never taken back.
        #[test]
        fn more_bytes_never_change_what_was_said(
            start in prop_oneof![Just("GET /a HTTP/1.1\r\n"), Just("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), Just("PUT x"), Just("")],
            more in proptest::collection::vec(any::<u8>(), 0..1200),
        ) {
            let bytes = [start.as_bytes(), &more].concat();
            let mut before = Said::Unclear;
            for length in 0..=bytes.len() {
                let now = said(&bytes[..length]);
                prop_assert!(before == Said::Unclear || now == before, "{length}: {before:?}, then {now:?}");
                before = now;
            }
            prop_assert!(bytes.len() < LOOKED_AT || before != Said::Unclear, "what fills all that is looked at is clear");
        }
    }
}
