//! Sessions of clients that keep their endpoint, as heads of requests and responses show them (GEP-1619).

use http::header::SET_COOKIE;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::PathMatch;
use super::hash::cookies;
use crate::balance::{Times, Token};
use crate::model::{Carrier, SessionPersistence};

/// Tokens looked at in one request: a browser sends several cookies of one name if their paths differ.
const TOKENS_MAX: usize = 4;
/// What ends the part of a regular expression that stands for itself.
const META: &[char] = &['\\', '.', '+', '*', '?', '(', ')', '|', '[', ']', '{', '}', '^', '$'];

impl SessionPersistence {
    /// The tokens a request shows.
    pub fn tokens<'a>(&'a self, headers: &'a HeaderMap) -> impl Iterator<Item = Token> + 'a {
        let name = match &self.carrier {
            Carrier::Header(name) => Some(name),
            Carrier::Cookie { .. } => None,
        };
        let fields = name.into_iter().flat_map(|name| headers.get_all(name)).filter_map(|value| value.to_str().ok());
        let cookies = cookies(headers, &self.name).filter(move |_| name.is_none());
        fields.chain(cookies).filter_map(Token::parse).take(TOKENS_MAX)
    }

    /// Whether a session of these times goes on at `now`, in seconds since the epoch. Times ahead of it were given by a node
    /// whose clock is: they count as now.
    #[must_use]
    pub fn goes_on(&self, times: Times, now: u32) -> bool {
        let within = |limit: Option<std::time::Duration>, since: u32| {
            limit.is_none_or(|limit| u64::from(now.saturating_sub(since)) < limit.as_secs().max(1))
        };
        within(self.absolute, times.begun) && within(self.idle, times.used)
    }

    /// Whether a client is to be given another token for the same session at `now`.
    #[must_use]
    pub fn renews(&self, times: Times, now: u32) -> bool {
        self.idle.is_some() && now > times.used
    }

    /// What gives a client its token: a field of the response. `path` is where the cookie is for, if it is not for all that
    /// the client asks for in the same place.
    #[must_use]
    pub fn field(&self, token: &Token, path: Option<&str>, now: u32) -> Option<(HeaderName, HeaderValue)> {
        let permanent = match &self.carrier {
            Carrier::Header(name) => return Some((name.clone(), token.to_string().parse().ok()?)),
            Carrier::Cookie { permanent } => *permanent,
        };
        let mut text = format!("{}={token}", self.name);
        if let Some(path) = path {
            text.push_str("; Path=");
            text.push_str(path);
        }
        if let (true, Some(absolute)) = (permanent, self.absolute) {
            let spent = u64::from(now.saturating_sub(token.times.begun));
            text.push_str(&format!("; Max-Age={}", absolute.as_secs().max(1).saturating_sub(spent)));
        }
        // Not `Secure`: what leaves an app in the clear is encrypted by the mesh, of which the app knows nothing.
        text.push_str("; HttpOnly; SameSite=Strict");
        Some((SET_COOKIE, text.parse().ok()?))
    }
}

impl PathMatch {
    /// For which paths a cookie is that was given for a request this condition took: those it takes, or some more.
    #[must_use]
    pub fn cookie_path(&self) -> &str {
        let path = match self {
            Self::Exact(path) | Self::Prefix(path) => path,
            Self::Regex(pattern) => {
                let text = pattern.text();
                let plain = text.find(META).map_or(text, |end| &text[..end]);
                plain.rfind('/').map_or("", |end| &plain[..end])
            }
            Self::Grpc { .. } => "",
        };
        let sayable = path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b';');
        if sayable { path } else { "/" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Pattern;
    use std::time::Duration;

    const TOKEN: &str = "000102030405060700000064000000c8000102030405060708090a0b0c0d0e0f";

    fn session(carrier: Carrier, absolute: Option<u64>, idle: Option<u64>) -> SessionPersistence {
        let time = |seconds: Option<u64>| seconds.map(Duration::from_secs);
        SessionPersistence { name: "cart".into(), carrier, absolute: time(absolute), idle: time(idle) }
    }

    fn fields(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn tokens_are_read_where_they_belong() {
        let cookie = session(Carrier::Cookie { permanent: false }, None, None);
        let header = session(Carrier::Header("cart".parse().unwrap()), None, None);
        let (in_cookie, in_header) =
            (fields(&[("cookie", &format!("a=b; cart=x; cart={TOKEN}"))]), fields(&[("cart", TOKEN)]));
        let read =
            |session: &SessionPersistence, headers| session.tokens(headers).map(|t| t.to_string()).collect::<Vec<_>>();
        assert_eq!((read(&cookie, &in_cookie), read(&cookie, &in_header)), (vec![TOKEN.to_owned()], vec![]));
        assert_eq!((read(&header, &in_header), read(&header, &in_cookie)), (vec![TOKEN.to_owned()], vec![]));
        let many = fields(&[("cookie", &vec![format!("cart={TOKEN}"); 100].join("; "))]);
        assert_eq!(read(&cookie, &many).len(), TOKENS_MAX);
    }

    #[test]
    fn sessions_end_when_their_time_is_over() {
        let times = Times { begun: 100, used: 200 };
        let of = |absolute, idle| session(Carrier::Cookie { permanent: false }, absolute, idle);
        assert!(of(None, None).goes_on(times, u32::MAX));
        assert!(of(Some(150), None).goes_on(times, 249) && !of(Some(150), None).goes_on(times, 250));
        assert!(of(None, Some(60)).goes_on(times, 259) && !of(None, Some(60)).goes_on(times, 260));
        assert!(of(Some(50), Some(60)).goes_on(times, 0), "a clock that is behind");
        assert!(of(None, Some(60)).renews(times, 201) && !of(None, Some(60)).renews(times, 200));
        assert!(!of(Some(60), None).renews(times, 300));
    }

    #[test]
    fn what_a_client_is_given() {
        let token = Token::parse(TOKEN).unwrap();
        let given = |session: &SessionPersistence, path| {
            let (name, value) = session.field(&token, path, 110).unwrap();
            format!("{name}: {}", value.to_str().unwrap())
        };
        let cookie = session(Carrier::Cookie { permanent: false }, Some(60), None);
        assert_eq!(given(&cookie, Some("/a")), format!("set-cookie: cart={TOKEN}; Path=/a; HttpOnly; SameSite=Strict"));
        let permanent = session(Carrier::Cookie { permanent: true }, Some(60), None);
        assert_eq!(given(&permanent, None), format!("set-cookie: cart={TOKEN}; Max-Age=50; HttpOnly; SameSite=Strict"));
        assert_eq!(
            given(&session(Carrier::Header("x-cart".parse().unwrap()), None, None), None),
            format!("x-cart: {TOKEN}")
        );
    }

    #[test]
    fn cookies_are_for_the_paths_that_were_matched() {
        for (path, of) in [
            (PathMatch::default(), "/"),
            (PathMatch::Prefix("/a/b".into()), "/a/b"),
            (PathMatch::Exact("/a;b".into()), "/"),
            (PathMatch::Regex(Pattern::new("/p1/p2/.*/p3").unwrap()), "/p1/p2"),
            (PathMatch::Regex(Pattern::new(".*").unwrap()), "/"),
            (PathMatch::Grpc { service: None, method: None }, "/"),
        ] {
            assert_eq!(path.cookie_path(), of, "{path:?}");
        }
    }
}
