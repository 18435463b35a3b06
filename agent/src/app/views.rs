//! What the agent tells about itself on its admin socket.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use weft_abi::{Attested, Tuple};
use weft_core::model::{Service, ServicePort, Workload};
use weft_core::route::protocol;
use weft_core::same_node::proxy_only;
use weft_core::snapshot::{Endpoint, Family, Fitness, ServicePortKey, Sides, Snapshot, Split};

use super::node::Node;
use super::pods::Enrolled;
use crate::admin::{
    ConnectionView, EndpointView, KubernetesView, Listing, ServicePortView, ServiceView, Status, WatchView,
    WorkloadView,
};
use crate::direct::{client, server};
use crate::identity::IdentityState;
use crate::observe::Connection;
use crate::sys::clock::monotonic_ns;
use crate::telemetry::access::{Direction, Path};
use weft_control::kubernetes::{Health, WatchState};

impl Node {
    pub(super) fn status(&self) -> Status {
        let counts = self.pods.counts();
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            node: self.config.node.clone(),
            instance: self.config.instance.clone(),
            trust_domain: self.config.trust_domain.to_string(),
            uptime_seconds: self.started.elapsed().as_secs(),
            waiting_for: self.readiness.missing().into_iter().map(String::from).collect(),
            disabled: self.is_off(),
            disabled_because: self.off_because(),
            draining: self.parts.inbound.drain.draining().is_cancelled(),
            generation: self.store.snapshot().generation(),
            enrolled: counts.enrolled,
            pending: counts.pending,
            connections: self.parts.live.list().len() + self.parts.steering.attested().map_or(0, |open| open.len()),
            tunnels: self.parts.outbound.dialer.pool.tunnels(),
            fast_path: self.same_node.status(),
            problems: self.problems().iter().map(ToString::to_string).collect(),
            kubernetes: self.cluster.as_ref().map(cluster_view),
        }
    }

    pub(super) fn workloads(&self) -> Listing<WorkloadView> {
        let snapshot = self.store.snapshot();
        let seconds = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).ok().map(|since| since.as_secs());
        let expiry = |state: IdentityState| Some((state.identity, seconds(state.not_after?)?));
        let expiry: HashMap<_, _> = self.parts.identities.states().into_iter().filter_map(expiry).collect();
        let unreachable =
            |(uid, enrolled): (&Arc<str>, &Enrolled)| Some((uid.clone(), enrolled.unreachable()?.to_owned()));
        let own = Own {
            pending: self.pods.pending.iter().map(|(uid, pending)| (uid.clone(), pending.reason.clone())).collect(),
            unreachable: self.pods.enrolled.iter().filter_map(unreachable).collect(),
            leaving: self.pods.leaving.keys().cloned().collect(),
        };
        Listing::new(move |take| {
            let view = |w: &Workload| {
                let identity = snapshot.identity_of(w);
                let (mesh, reason) = own.standing(&snapshot, w);
                WorkloadView {
                    namespace: w.name.namespace.to_string(),
                    name: w.name.name.to_string(),
                    workload: w.owner.to_string(),
                    uid: w.uid.to_string(),
                    node: w.node.to_string(),
                    addresses: w.addresses.iter().map(ToString::to_string).collect(),
                    certificate_expiry: expiry.get(&identity).copied(),
                    identity: identity.to_string(),
                    mesh: mesh.into(),
                    reason,
                }
            };
            let _ = snapshot.workloads().all(|w| take(view(&w)));
        })
    }

    pub(super) fn services(&self) -> Listing<ServiceView> {
        let snapshot = self.store.snapshot();
        Listing::new(move |take| {
            let view = |service: &Service| ServiceView {
                namespace: service.name.namespace.to_string(),
                name: service.name.name.to_string(),
                addresses: service.cluster_ips.iter().map(ToString::to_string).collect(),
                ports: service.ports.iter().map(|port| port_view(&snapshot, service, port)).collect(),
            };
            let _ = snapshot.services().all(|service| take(view(service)));
        })
    }

    pub(super) fn connections(&self) -> Vec<ConnectionView> {
        let snapshot = self.store.snapshot();
        let name = |ip| snapshot.workload_at(ip).map(|w| w.name.to_string());
        let view = |(id, c): (u64, Arc<Connection>)| {
            let (sent, received) = c.meter.bytes();
            let far = c.endpoint().unwrap_or(c.destination());
            let own = c.pod_name().map(ToString::to_string);
            let (source_workload, destination_workload) = match c.record.direction {
                Direction::Outbound => (own, name(far.ip())),
                Direction::Inbound => (name(c.source().ip()), own),
            };
            ConnectionView {
                id,
                direction: c.record.direction.as_str().into(),
                path: c.record.path.as_str().into(),
                source: c.source().to_string(),
                source_workload,
                destination: c.destination().to_string(),
                endpoint: c.endpoint().map(|e| e.to_string()),
                destination_workload,
                peer_identity: c.peer().map(ToString::to_string),
                sent,
                received,
                age_ms: u64::try_from(c.begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            }
        };
        self.parts.live.list().into_iter().map(view).chain(self.direct_connections()).collect()
    }

    /// Those between pods of this node that go past the proxy; what the kernel says of their bytes, it says at their end.
    fn direct_connections(&self) -> Vec<ConnectionView> {
        let open = self.parts.steering.attested().unwrap_or_default();
        let now = monotonic_ns();
        let view = |(tuple, attested): &(Tuple, Attested)| {
            let [from, to] = self.parts.direct.ends(attested);
            ConnectionView {
                id: attested.socket,
                direction: Direction::Outbound.as_str().into(),
                path: Path::SameNode.as_str().into(),
                source: client(tuple).to_string(),
                source_workload: from.map(|(name, _)| name),
                destination: server(tuple).to_string(),
                endpoint: Some(server(tuple).to_string()),
                destination_workload: to.as_ref().map(|(name, _)| name.clone()),
                peer_identity: to.map(|(_, identity)| identity.to_string()),
                sent: 0,
                received: 0,
                age_ms: now.saturating_sub(attested.opened) / 1_000_000,
            }
        };
        open.iter().filter(|(_, attested)| attested.established != 0).map(view).collect()
    }

    pub(super) fn dump(&self) -> serde_json::Value {
        serde_json::json!({
            "status": self.status(),
            "workloads": self.workloads(),
            "services": self.services(),
            "connections": self.connections(),
            "verdicts": self.parts.steering.verdicts().unwrap_or_default().into_iter().collect::<HashMap<_, _>>(),
        })
    }
}

/// What of this node's pods a snapshot does not say.
struct Own {
    /// Why those are not enrolled yet that are to be.
    pending: HashMap<Arc<str>, String>,
    /// Why peers cannot reach those that are captured.
    unreachable: HashMap<Arc<str>, String>,
    /// Those that are on their way out.
    leaving: HashSet<Arc<str>>,
}

impl Own {
    fn standing(&self, snapshot: &Snapshot, w: &Workload) -> (&'static str, Option<String>) {
        if let Some(reason) = self.pending.get(&w.uid) {
            return ("pending", Some(reason.clone()));
        }
        let unreachable = self.unreachable.get(&w.uid).cloned();
        if snapshot.is_live(w) {
            return ("live", unreachable);
        }
        if unreachable.is_some() {
            return ("pending", unreachable);
        }
        if self.leaving.contains(&w.uid) {
            return ("leaving", Some("its open connections are running on".into()));
        }
        if w.host_network {
            return ("outside", Some("hostNetwork pods cannot be enrolled".into()));
        }
        match snapshot.wants_mesh(w) {
            false if snapshot.is_labelled(w) => ("pending", Some("it has no address".into())),
            true => ("pending", Some(format!("node {} has not published it as served", w.node))),
            false => ("outside", None),
        }
    }
}

fn cluster_view(health: &Health) -> KubernetesView {
    let now = Instant::now();
    let watches = health.watches().into_iter().map(|(kind, watch)| {
        let (state, reason) = match watch.state {
            WatchState::Starting => ("starting", None),
            WatchState::Current => ("current", None),
            WatchState::Absent => ("absent", None),
            WatchState::Stale(reason) => ("stale", Some(reason)),
        };
        WatchView {
            kind: kind.as_str().into(),
            state: state.into(),
            reason,
            heard_seconds_ago: now.saturating_duration_since(watch.heard).as_secs(),
        }
    });
    KubernetesView { stale_seconds: health.stale(now).map(|stale| stale.as_secs()), watches: watches.collect() }
}

fn port_view(snapshot: &Snapshot, service: &Service, port: &ServicePort) -> ServicePortView {
    let endpoint = |e: &Endpoint| {
        let workload = snapshot.workload_at(e.address.ip());
        EndpointView {
            address: e.address.to_string(),
            workload: workload.as_ref().map(|w| w.name.to_string()),
            weight: e.weight.0,
            ready: e.fitness == Fitness::Ready,
            mtls: workload.is_some_and(|w| snapshot.is_live(&w)),
            near: e.proximity.label().map(Into::into),
        }
    };
    let keys = Family::ALL.map(|family| ServicePortKey { service: service.name.clone(), port: port.port, family });
    let sets: Vec<_> = keys.iter().filter_map(|key| snapshot.endpoints(key)).collect();
    ServicePortView {
        port: port.port,
        protocol: protocol(snapshot, &keys[0], None).name().into(),
        protocol_because: protocol(snapshot, &keys[0], None).to_string(),
        app_protocol: port.app_protocol.as_deref().map(Into::into),
        algorithm: format!("{:?}", snapshot.algorithm(&service.name, port.port).unwrap_or_default()),
        affinity_seconds: service.affinity.map(|keep| keep.as_secs()),
        proxy_only: proxy_only(snapshot, service, &keys[0]).map(|why| why.to_string()),
        route: keys.iter().find_map(|key| snapshot.splits(key)).map(routes_view),
        endpoints: sets.iter().flat_map(|set| set.endpoints.iter().map(endpoint)).collect(),
    }
}

/// The routes that divide a port's connections: the one for everybody, then each with the namespace it is for.
fn routes_view(splits: &Sides<Split>) -> String {
    let everybody = splits.for_others().map(|split| split.route.to_string());
    let own = splits.all().skip(usize::from(everybody.is_some()));
    let own = own.map(|split| format!("{} (for {})", split.route, split.route.namespace));
    everybody.into_iter().chain(own).collect::<Vec<_>>().join(", ")
}

/// How many service ports speak what, by protocol and the reason why.
pub(super) fn protocols(snapshot: &Snapshot) -> BTreeMap<(&'static str, &'static str), u64> {
    let mut counts = BTreeMap::new();
    for service in snapshot.services() {
        for port in &service.ports {
            let key = ServicePortKey { service: service.name.clone(), port: port.port, family: Family::V4 };
            let protocol = protocol(snapshot, &key, None);
            *counts.entry((protocol.name(), protocol.label())).or_default() += 1;
        }
    }
    counts
}
