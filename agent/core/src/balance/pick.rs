//! A picked endpoint, and the word back on how connecting to it went.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;

use super::member::Member;
use super::pool::{Chosen, Judging, Pool};
use super::token::{Holder, Times, Token};
use crate::model::Keepalive;
use crate::route::{ServicePortKey, Target};

/// A connection to an endpoint that counts until this is dropped: what is left of a [`Pick`] once the connection stands.
#[derive(Debug)]
pub struct InFlight(Arc<Member>);

impl InFlight {
    fn new(member: &Arc<Member>) -> Self {
        member.begin();
        Self(Arc::clone(member))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// A picked endpoint. To be kept as long as the connection lasts: dropping it ends its being in flight.
pub struct Pick {
    /// What to dial.
    pub target: Target,
    /// The service port it is an endpoint of: the one dialled, or a backend of its route.
    pub backend: ServicePortKey,
    pool: Arc<Pool>,
    member: Arc<Member>,
    /// It is a probe, and nothing has been said of it yet.
    probing: bool,
    jitter: u64,
    judging: Judging,
}

impl Pick {
    /// Wraps what the pool chose.
    pub(super) fn new(target: Target, backend: ServicePortKey, pool: Arc<Pool>, chosen: Chosen) -> Self {
        let Chosen { member, probe, jitter, judging } = chosen;
        Self { target, backend, pool, member, probing: probe, jitter, judging }
    }

    /// The connection stands; connecting took so long.
    pub fn connected(&mut self, took: Duration, now: Instant) {
        self.probing = false;
        self.pool.connected(&self.member, self.judging, took, now);
    }

    /// What TCP's keepalive is to be in a connection to it.
    #[must_use]
    pub fn keepalive(&self) -> Option<&Keepalive> {
        self.judging.keepalive.as_ref()
    }

    /// Whether the endpoints of its service port are to be asked how they are, as long as they are used.
    #[must_use]
    pub fn is_checked(&self) -> bool {
        self.judging.checked
    }

    /// What leads to this endpoint again, in the session `session`.
    #[must_use]
    pub fn token(&self, session: &str, times: Times) -> Token {
        let holder = Holder { address: self.member.address, uid: self.member.uid.as_ref() };
        holder.token(&self.backend, session, times)
    }

    /// A response with this status has come after so long.
    pub fn answered(&mut self, status: StatusCode, took: Duration, now: Instant) {
        // What a gateway says of somebody behind it; of others where that is asked for.
        let gateway = matches!(status.as_u16(), 502..=504);
        if gateway || (self.judging.server_errors && status.is_server_error()) {
            self.failed(now);
        } else {
            self.connected(took, now);
        }
    }

    /// The connection could not be made.
    pub fn failed(&mut self, now: Instant) {
        self.pool.failed(&self.member, std::mem::take(&mut self.probing), now, self.jitter);
    }

    /// Has the connection count beyond this pick, which takes ten times the memory.
    #[must_use]
    pub fn stand(self) -> InFlight {
        InFlight::new(&self.member)
    }

    /// Connections to this endpoint, by way of this service port, that are being made or stand; this one included.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.member.in_flight()
    }
}

impl Drop for Pick {
    fn drop(&mut self) {
        self.member.end();
        if self.probing {
            self.pool.unprobe(&self.member);
        }
    }
}

impl fmt::Debug for Pick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Pick");
        out.field("target", &self.target).field("backend", &self.backend).field("probe", &self.probing);
        out.finish_non_exhaustive()
    }
}
