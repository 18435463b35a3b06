//! What a connection speaks, where `weft.dev/l7: enabled` asks to find out: by its first bytes, which stay where they are.
//!
//! An app that waits for the server to speak says nothing, and is not kept waiting for long; that its service port is such a
//! one is remembered once the server has spoken first. So is a port that carries HTTP: an app that says nothing there is
//! taken to be about to.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use weft_core::model::Service;
use weft_core::route::{LOOKED_AT, Said, ServicePortKey, said};
use weft_core::snapshot::Snapshot;

use crate::relay::Traffic;

/// How long an app may say nothing until the server is asked to speak.
const PATIENCE: Duration = Duration::from_millis(100);
/// Between two looks at bytes that did not suffice.
const LOOK: Duration = Duration::from_millis(2);
/// Between two looks at who spoke first, and how long that is of interest.
const LISTEN: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(30));

/// What was found out about service ports, as long as their Services stay as they are.
#[derive(Debug, Default)]
pub struct Detected(RwLock<HashMap<ServicePortKey, (Arc<Service>, Speaks)>>);

/// What a service port speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Speaks {
    Http,
    /// What its servers begin.
    ServerFirst,
}

/// What a connection turned out to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Found {
    Http,
    Other,
    /// The app said nothing, or not enough.
    Silent,
    /// The same is known of its service port.
    KnownSilent,
}

impl Found {
    /// One word.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Other => "other",
            Self::Silent => "silent",
            Self::KnownSilent => "known_silent",
        }
    }
}

impl Detected {
    /// Finds out what an app's connection to a service port speaks. Nothing of it is read.
    pub(super) async fn look(&self, app: &TcpStream, snapshot: &Snapshot, key: &ServicePortKey) -> Found {
        let known = self.known(snapshot, key);
        if known == Some(Speaks::ServerFirst) {
            return Found::KnownSilent;
        }
        match timeout(PATIENCE, first_bytes(app)).await {
            Ok(Found::Http) if known.is_none() => {
                self.note(snapshot, key, Speaks::Http);
                Found::Http
            }
            Ok(found) => found,
            Err(_) if known == Some(Speaks::Http) => Found::Http,
            Err(_) => Found::Silent,
        }
    }

    /// Sees who speaks first in a connection whose app said nothing, to know it of the service port from then on.
    pub(super) fn listen(self: &Arc<Self>, snapshot: &Arc<Snapshot>, key: ServicePortKey, traffic: &Arc<Traffic>) {
        let (detected, snapshot, traffic) = (Arc::clone(self), Arc::clone(snapshot), Arc::clone(traffic));
        tokio::spawn(async move {
            let until = Instant::now() + LISTEN.1;
            while Instant::now() < until {
                tokio::time::sleep(LISTEN.0).await;
                // Nobody else has it any more: the connection has ended, and what it told it has told.
                let ended = Arc::strong_count(&traffic) == 1;
                if traffic.is_far_first() {
                    return detected.note(&snapshot, &key, Speaks::ServerFirst);
                }
                if traffic.sent() > 0 || ended {
                    return;
                }
            }
        });
    }

    /// Forgets what is gone.
    pub fn sync(&self, snapshot: &Snapshot) {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        all.retain(|key, (service, _)| snapshot.service(&key.service).is_some_and(|now| Arc::ptr_eq(now, service)));
    }

    fn known(&self, snapshot: &Snapshot, key: &ServicePortKey) -> Option<Speaks> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let (service, speaks) = all.get(key)?;
        snapshot.service(&key.service).filter(|now| Arc::ptr_eq(now, service)).map(|_| *speaks)
    }

    fn note(&self, snapshot: &Snapshot, key: &ServicePortKey, speaks: Speaks) {
        let Some(service) = snapshot.service(&key.service) else { return };
        tracing::debug!(service = %key, ?speaks, "found out what a service port speaks");
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        all.insert(key.clone(), (Arc::clone(service), speaks));
    }
}

/// Looks until it is clear, or the app has finished sending.
async fn first_bytes(app: &TcpStream) -> Found {
    let (mut bytes, mut before) = ([0; LOOKED_AT], 0);
    loop {
        let Ok(length) = app.peek(&mut bytes).await else { return Found::Other };
        match said(&bytes[..length]) {
            Said::Http => return Found::Http,
            Said::Other => return Found::Other,
            Said::Unclear if length == 0 => return Found::Other,
            // What was looked at is there still, so that waiting for more of it is no waiting at all.
            Said::Unclear => {
                let wait = if length == before { LOOK } else { Duration::ZERO };
                before = length;
                tokio::time::sleep(wait).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (near.unwrap(), far.unwrap().0)
    }

    #[tokio::test]
    async fn bytes_are_looked_at_and_left() {
        for (text, found) in [("GET / HTTP/1.1\r\n\r\n", Found::Http), ("EHLO x\r\n", Found::Other)] {
            let (mut app, mut near) = pair().await;
            for byte in text.as_bytes() {
                app.write_all(&[*byte]).await.unwrap();
            }
            assert_eq!(first_bytes(&near).await, found);
            let mut there = vec![0; text.len()];
            near.read_exact(&mut there).await.unwrap();
            assert_eq!(there, text.as_bytes(), "all of it is there still");
        }
        let (app, near) = pair().await;
        drop(app);
        assert_eq!(first_bytes(&near).await, Found::Other);
    }
}
