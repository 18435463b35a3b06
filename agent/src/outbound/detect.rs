//! What a connection speaks, where `weft.dev/l7: enabled` asks to find out: by its first bytes, which stay where they are.
//!
//! An app that waits for the server to speak says nothing, and is not kept waiting for long; that its service port is such a
//! one is remembered once the server has spoken first. So is a port that carries HTTP: an app that says nothing there is
//! taken to be about to.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;
use weft_core::model::Service;
use weft_core::route::{LOOKED_AT, Said, ServicePortKey, said};
use weft_core::snapshot::Snapshot;

use crate::relay::{Side, Traffic};

/// How long an app may say nothing until the server is asked to speak.
const PATIENCE: Duration = Duration::from_millis(100);
/// Between two looks at bytes that did not suffice.
const LOOK: Duration = Duration::from_millis(2);

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
                if let Some(service) = snapshot.service(&key.service) {
                    self.note(service, key, Speaks::Http);
                }
                Found::Http
            }
            Ok(found) => found,
            Err(_) if known == Some(Speaks::Http) => Found::Http,
            Err(_) => Found::Silent,
        }
    }

    /// Sees who speaks first in a connection whose app said nothing, to know it of the service port from then on.
    pub(super) fn listen(self: &Arc<Self>, snapshot: &Snapshot, key: ServicePortKey, traffic: &Traffic) {
        // Held by a connection that may be silent for days: nothing of the snapshot but its Service.
        let Some(service) = snapshot.service(&key.service).map(Arc::clone) else { return };
        let detected = Arc::clone(self);
        traffic.on_first_byte(move |side| {
            if side == Side::Far {
                detected.note(&service, &key, Speaks::ServerFirst);
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

    fn note(&self, service: &Arc<Service>, key: &ServicePortKey, speaks: Speaks) {
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
    use weft_core::model::{ObjectName, Preference, ServicePort, TrustDomain};
    use weft_core::snapshot::{Delta, Family, Resource};

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (near.unwrap(), far.unwrap().0)
    }

    #[test]
    fn who_speaks_first_is_known_of_the_service_port_as_long_as_the_service_stays_as_it_is() {
        let name = ObjectName::new("demo", "db").unwrap();
        let key = ServicePortKey { service: name.clone(), port: 80, family: Family::V4 };
        let service = |detect| Service {
            name: name.clone(),
            cluster_ips: vec!["10.96.0.1".parse().unwrap()],
            ports: vec![ServicePort { name: "".into(), port: 80, app_protocol: None }],
            publish_not_ready: false,
            fast_path: true,
            detect,
            local_only: false,
            prefers: Preference::None,
            affinity: None,
        };
        let put = |snapshot: &Snapshot, detect| snapshot.apply([Delta::Put(Resource::Service(service(detect)))]);
        let before = put(&Snapshot::new(TrustDomain::new("cluster.local").unwrap()), Some(true));
        let detected = Arc::new(Detected::default());
        let client_first = Traffic::default();
        detected.listen(&before, key.clone(), &client_first);
        client_first.count_sent(5);
        client_first.count_received(5);
        assert_eq!(detected.known(&before, &key), None, "the app had only taken its time");
        let server_first = Traffic::default();
        detected.listen(&before, key.clone(), &server_first);
        assert_eq!(detected.known(&before, &key), None);
        server_first.count_received(5);
        assert_eq!(detected.known(&before, &key), Some(Speaks::ServerFirst));
        let after = put(&before, None);
        assert_eq!(detected.known(&after, &key), None, "it may be another's by now");
        detected.sync(&after);
        assert!(detected.0.read().unwrap().is_empty());
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
