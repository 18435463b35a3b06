//! Clients that keep their endpoint over many requests: the token a request shows is held against the endpoints there are, and
//! one who has none, or one that leads nowhere any more, is given another. Nothing is remembered at any node.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use http::header::SET_COOKIE;
use http::{HeaderMap, HeaderName, HeaderValue};
use weft_core::balance::{Balancers, Pick, Times};
use weft_core::http::{Routed, Target};
use weft_core::model::SessionPersistence;
use weft_core::route::ServicePortKey;
use weft_core::snapshot::{Family, Snapshot};

/// Finds what tokens stand for.
pub(super) struct Recall<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) balancers: &'a Balancers,
}

/// The session of a request.
pub(super) struct Sticky {
    persistence: Arc<SessionPersistence>,
    /// Where its cookie is for, if it is one of a route's rule.
    path: Option<Arc<str>>,
    kept: Option<(SocketAddr, Times)>,
}

/// What a response gives the client, after all else that is done to it.
#[derive(Clone)]
pub(super) struct Given(HeaderName, HeaderValue);

impl Sticky {
    /// Where the request is to go, if that may be.
    pub(super) fn endpoint(&self) -> Option<SocketAddr> {
        self.kept.map(|(endpoint, _)| endpoint)
    }

    /// What the client is to show from now on, if that is not what it has shown. `pick` has answered.
    pub(super) fn give(&self, pick: &Pick) -> Option<Given> {
        let (now, session) = (now(), &self.persistence);
        let times = match self.kept {
            Some((endpoint, times)) if endpoint == pick.target.address => {
                Some(Times { used: now, ..times }).filter(|_| session.renews(times, now))?
            }
            _ => Times { begun: now, used: now },
        };
        let (name, value) = session.field(&pick.token(&session.name, times), self.path.as_deref(), now)?;
        Some(Given(name, value))
    }
}

impl Given {
    /// Puts it among a response's fields.
    pub(super) fn add_to(self, headers: &mut HeaderMap) {
        let Self(name, value) = self;
        if name == SET_COOKIE {
            headers.append(name, value);
        } else {
            headers.insert(name, value);
        }
    }
}

impl Recall<'_> {
    /// How clients keep their endpoint of a service port, and the one this client keeps.
    pub(super) fn of_port(&self, key: &ServicePortKey, headers: &HeaderMap) -> Option<Sticky> {
        let persistence = self.snapshot.traffic(&key.service, key.port)?.session.clone()?;
        let kept = self.kept(key, &persistence, headers);
        Some(Sticky { persistence, path: None, kept })
    }

    /// Where the client of a request that a rule takes went before, whatever the weights say now.
    pub(super) fn of_rule<'r>(
        &self,
        routed: &'r Routed,
        (family, path): (Family, &str),
        headers: &HeaderMap,
    ) -> Option<(Target<'r>, Sticky)> {
        routed.targets().find_map(|target| {
            let sticky = self.of_target(routed, &target, (family, path), headers)?;
            sticky.kept.is_some().then_some((target, sticky))
        })
    }

    /// How clients keep their endpoint among those of a rule's backend, and the one this client keeps. A rule's own word comes
    /// before that of the backend's policy.
    pub(super) fn of_target(
        &self,
        routed: &Routed,
        target: &Target<'_>,
        (family, path): (Family, &str),
        headers: &HeaderMap,
    ) -> Option<Sticky> {
        let key = ServicePortKey { service: target.backend.service.clone(), port: target.backend.port, family };
        let Some(persistence) = routed.rule.session.clone() else { return self.of_port(&key, headers) };
        let kept = self.kept(&key, &persistence, headers);
        Some(Sticky { persistence, path: Some(path.into()), kept })
    }

    fn kept(
        &self,
        key: &ServicePortKey,
        persistence: &SessionPersistence,
        headers: &HeaderMap,
    ) -> Option<(SocketAddr, Times)> {
        let now = now();
        let open = persistence.tokens(headers).filter(|token| persistence.goes_on(token.times, now));
        open.filter_map(|token| {
            let endpoint = self.balancers.held_by(self.snapshot, key, &persistence.name, &token)?;
            Some((endpoint, token.times))
        })
        .next()
    }
}

/// Seconds since the epoch.
fn now() -> u32 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
}
