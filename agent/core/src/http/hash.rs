//! What requests have in common that are to go to the same endpoint, as a hash.

use http::header::COOKIE;
use http::{HeaderMap, Uri};

use crate::balance::hash_of;
use crate::model::HashKey;

impl HashKey {
    /// The hash of a request; `None` where it lacks what is hashed, or that is not the request's to say.
    #[must_use]
    pub fn of_request(&self, uri: &Uri, headers: &HeaderMap) -> Option<u64> {
        match self {
            Self::SourceIp => None,
            Self::Header(name) => headers.get(name).map(|value| hash_of(value.as_bytes())),
            Self::Cookie(name) => cookie(headers, name).map(|value| hash_of(value.as_bytes())),
            Self::Query(name) => {
                let mut all = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
                all.find(|(known, _)| **known == **name).map(|(_, value)| hash_of(value.as_bytes()))
            }
        }
    }
}

/// A cookie's value; the first counts.
#[must_use]
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    cookies(headers, name).next()
}

/// The values of the cookies of one name (RFC 6265, 4.2.1).
pub(super) fn cookies<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
    let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.filter(move |(known, _)| *known == name).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_the_same_has_the_same_hash() {
        let request = |uri: &str, fields: &[(&'static str, &str)]| {
            let fields =
                fields.iter().map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()));
            (uri.parse::<Uri>().unwrap(), fields.collect::<HeaderMap>())
        };
        let of = |key: &HashKey, (uri, headers): (Uri, HeaderMap)| key.of_request(&uri, &headers);
        let cookie = HashKey::Cookie("id".into());
        let seven = of(&cookie, request("/", &[("cookie", "a=b; id=7")]));
        assert!(seven.is_some() && seven == of(&cookie, request("/x", &[("cookie", "a=c"), ("cookie", "id=7; id=8")])));
        assert_ne!(seven, of(&cookie, request("/", &[("cookie", "id=8")])));
        assert_eq!(of(&cookie, request("/", &[("cookie", "idx=7")])), None);
        let query = HashKey::Query("user".into());
        assert_eq!(of(&query, request("/?user=a%20b", &[])), of(&query, request("/y?z=1&user=a+b", &[])));
        let header = HashKey::Header("x-user".parse().unwrap());
        assert!(of(&header, request("/", &[("x-user", "a")])).is_some() && of(&header, request("/", &[])).is_none());
        assert_eq!(of(&HashKey::SourceIp, request("/", &[])), None);
    }
}
