//! The status of routes and of policies, written by the replica that holds the Lease: for every Service they are
//! attached to, whether the mesh goes by them there, and whether all a route refers to is there.
//!
//! They are read by the same functions as agents read them, and judged by the same snapshot; this room only puts the
//! outcome into Gateway API's words ([`routes`], [`policies`], [`own`]). Entries of other controllers are left as they are, and nothing
//! is written that says what stands there already.

mod judge;
mod own;
mod policies;
mod routes;
mod write;

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;
use weft_control::kubernetes::{Attached, Facts, Interest, Item, Known, News, Observed, observe};
use weft_control::manifests::ObjectRef;
use weft_control::resource::Kind;
use weft_core::model::{HttpRoute, TcpRoute, TrafficPolicy};
use weft_core::snapshot::{Delta, Resource, Snapshot};

use crate::lease::Term;
use crate::parts::Common;
use judge::Seen;
use write::Writer;

/// What decides about a route or a policy.
const KINDS: [Kind; 9] = [
    Kind::Service,
    Kind::TcpRoute,
    Kind::HttpRoute,
    Kind::GrpcRoute,
    Kind::ReferenceGrant,
    Kind::TrafficPolicy,
    Kind::AuthorizationPolicy,
    Kind::PeerAuthentication,
    Kind::BackendTrafficPolicy,
];
/// How long changes are gathered before all are judged again.
const GATHER: Duration = Duration::from_millis(100);
/// Pause between two writes: the bound is ten a second.
const PAUSE: Duration = Duration::from_millis(100);
/// Pause after a write that failed.
const AGAIN: Duration = Duration::from_secs(2);
/// News taken at once.
const BATCH: usize = 1024;

/// A route or a policy as the mesh goes by it.
enum Model {
    Tcp(TcpRoute),
    Http(HttpRoute),
    Policy(TrafficPolicy),
    /// Of a kind that refers to nothing.
    Alone,
}

/// Keeps the status of routes and policies until told to stop, whenever `term` says that this replica is the one that does.
pub(crate) async fn run(common: Common, term: watch::Receiver<Term>) -> Result<(), String> {
    let Observed { news, stop: _watches, .. } = observe(&common.client, KINDS.map(Interest::from));
    let room = Room {
        writer: Writer::new(common.client.clone(), &common.telemetry),
        snapshot: Snapshot::new(common.settings.trust_domain.clone()),
        known: KINDS.into_iter().map(|kind| (kind, Known::default())).collect(),
        attached: BTreeMap::new(),
        unread: KINDS.into(),
        due: None,
    };
    common.shutdown.run_until_cancelled(room.serve(news, term)).await;
    Ok(())
}

struct Room {
    writer: Writer,
    snapshot: Snapshot,
    known: BTreeMap<Kind, Known>,
    attached: BTreeMap<ObjectRef, Seen>,
    unread: Vec<Kind>,
    /// When all are to be judged again.
    due: Option<Instant>,
}

impl Room {
    async fn serve(mut self, mut news: tokio::sync::mpsc::Receiver<(Kind, News)>, mut term: watch::Receiver<Term>) {
        let mut heard = Vec::new();
        loop {
            let held = term.borrow_and_update().holds();
            tokio::select! {
                count = news.recv_many(&mut heard, BATCH) => {
                    if count == 0 {
                        return;
                    }
                    let mut deltas = Vec::new();
                    heard.drain(..).for_each(|(kind, news)| self.hear(kind, news, &mut deltas));
                    self.snapshot = self.snapshot.apply(deltas);
                    self.due.get_or_insert_with(|| Instant::now() + GATHER);
                }
                changed = term.changed() => match changed {
                    Err(_) => return,
                    Ok(()) if term.borrow().holds() != held => self.due = Some(Instant::now()),
                    Ok(()) => {}
                },
                () = until(self.due) => self.write(&term).await,
            }
        }
    }

    fn hear(&mut self, kind: Kind, news: News, deltas: &mut Vec<Delta>) {
        let Some(known) = self.known.get_mut(&kind) else { return };
        if matches!(news, News::Listed(_) | News::Absent) {
            self.unread.retain(|unread| *unread != kind);
        }
        match news {
            News::Listed(names) => {
                let present = names.places();
                self.attached
                    .retain(|object, _| object.kind != kind || present.contains(&(&*object.namespace, &*object.name)));
                known.keep_only(&names, deltas);
            }
            News::Found(item) | News::Put(item) => {
                self.attached.extend(seen(&item));
                known.put(*item, deltas);
            }
            News::Deleted(object) => {
                self.attached.remove(&object);
                known.remove(&object, deltas);
            }
            News::Absent => {}
        }
    }

    /// Writes the status of each whose status is another.
    async fn write(&mut self, term: &watch::Receiver<Term>) {
        self.due = None;
        let may_write = || term.borrow().may_write();
        if !self.unread.is_empty() || !term.borrow().holds() {
            return;
        }
        for (object, seen) in &self.attached {
            let Some(entries) = judge::entries(&self.snapshot, object, seen, Timestamp::now()) else { continue };
            if !may_write() || !self.writer.write(object, &seen.facts, &entries).await {
                self.due = Some(Instant::now() + AGAIN);
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn seen(item: &Item) -> Option<(ObjectRef, Seen)> {
    let Facts::Attached(facts) = &item.facts else { return None };
    let model = match &item.resource {
        Some(Resource::TcpRoute(route)) if item.valid => Some(Model::Tcp(route.clone())),
        Some(Resource::HttpRoute(route)) if item.valid => Some(Model::Http(route.clone())),
        Some(Resource::TrafficPolicy(policy)) if item.valid => Some(Model::Policy(policy.clone())),
        Some(Resource::AuthorizationPolicy(_) | Resource::PeerAuthentication(_)) if item.valid => Some(Model::Alone),
        _ => None,
    };
    let seen = Seen { facts: Attached::clone(facts), findings: item.findings.clone(), model };
    Some((item.object.clone(), seen))
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
