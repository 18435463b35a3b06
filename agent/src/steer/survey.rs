//! What is to be guarded: every link of every pod of the node, and where an enrolled pod is on a bridge, all of its ports.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use weft_abi::{Address, Link, Station};

use super::{Steering, lock};
use crate::sys::{
    NetNs,
    link::{self, Device, Look},
};

/// How long is believed what was seen inside a pod: which devices it has.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// A pod of this node, enrolled or not.
#[derive(Clone, Debug)]
pub struct GuardedPod {
    /// Its name, to be told who is in the way.
    pub name: String,
    /// Its network namespace.
    pub netns: Arc<NetNs>,
    /// Its addresses, if it is enrolled: nobody else may use them.
    pub protects: Vec<IpAddr>,
}

/// A pod that was looked into.
#[derive(Clone)]
pub(super) struct Seen {
    when: Instant,
    /// How many veth ends it has, if that is all there is.
    pairs: Option<usize>,
    /// Their hardware addresses when they were first seen, by the node's device: a pod may change its own, and is not to
    /// become another by it.
    stations: BTreeMap<u32, Station>,
}

/// What is to be guarded.
#[derive(Default)]
pub(super) struct Plan {
    /// Who has a way out that cannot be guarded, and why.
    pub(super) open: Vec<String>,
    pub(super) owners: BTreeMap<IpAddr, u64>,
    pub(super) posts: BTreeMap<u32, Post>,
}

/// One device where the guard is to stand.
pub(super) struct Post {
    pub(super) device: Device,
    /// Whose link it is, to be told.
    pub(super) of: String,
    pub(super) enrolled: bool,
    pub(super) link: Link,
}

impl Steering {
    pub(super) async fn survey(&self, pods: &[GuardedPod]) -> std::io::Result<Plan> {
        let look = Look::at(&self.shared.host).await?;
        let mut plan = Plan::default();
        for pod in pods {
            let cookie = pod.netns.cookie();
            plan.owners.extend(pod.protects.iter().map(|ip| (ip.to_canonical(), cookie)));
            let devices = look.of_pod(&pod.netns).await?;
            let seen = match self.look_into(pod, devices.len()).await {
                Ok(seen) => seen,
                Err(error) => {
                    plan.open.push(format!("{}: its devices cannot be listed: {error}", pod.name));
                    continue;
                }
            };
            plan.open.extend(way_out(&seen, devices.len()).map(|reason| format!("{}: {reason}", pod.name)));
            let mut own = [Address::UNSPECIFIED; 2];
            own.iter_mut().zip(&pod.protects).for_each(|(own, ip)| *own = Address::from(*ip));
            for device in devices {
                let station = seen.stations.get(&device.index).copied().unwrap_or(Station::NONE);
                let flags = if device.bridge.is_some() { Link::SHARED } else { 0 };
                let link = Link { cookie, station, own, flags };
                let (of, enrolled) = (pod.name.clone(), !pod.protects.is_empty());
                plan.posts.insert(device.index, Post { device: device.clone(), of, enrolled, link });
            }
        }
        self.survey_bridges(&look, &mut plan).await?;
        Ok(plan)
    }

    /// Adds the other ports of the bridges that enrolled pods are on, and these bridges' own addresses.
    async fn survey_bridges(&self, look: &Look, plan: &mut Plan) -> std::io::Result<()> {
        let bridges: BTreeSet<u32> =
            plan.posts.values().filter(|post| post.enrolled).filter_map(|post| post.device.bridge).collect();
        for bridge in bridges {
            for ip in look.addresses(bridge).await? {
                plan.owners.entry(ip.to_canonical()).or_insert(self.shared.host.cookie());
            }
            for device in look.ports(bridge) {
                let beyond = if device.peer.is_none() { Link::UPLINK } else { 0 };
                plan.posts.entry(device.index).or_insert_with(|| Post {
                    device: device.clone(),
                    of: format!("{}, which is no pod's", device.name),
                    enrolled: false,
                    link: Link { flags: Link::SHARED | beyond, ..Link::UNKNOWN },
                });
            }
        }
        Ok(())
    }

    /// What a pod has that leads out of it, looked at again now and then, and when the node's ends are not as many.
    async fn look_into(&self, pod: &GuardedPod, devices: usize) -> std::io::Result<Seen> {
        let cookie = pod.netns.cookie();
        let before = lock(&self.shared.guard).seen.get(&cookie).cloned();
        if let Some(seen) = before.as_ref().filter(|s| s.when.elapsed() < LOOK_AGAIN && s.pairs == Some(devices)) {
            return Ok(seen.clone());
        }
        let exits = link::exits(&pod.netns).await?;
        let mut stations = before.map(|seen| seen.stations).unwrap_or_default();
        for (index, octets) in exits.stations {
            stations.entry(index).or_insert(Station::from_octets(octets));
        }
        let seen = Seen { when: Instant::now(), pairs: (exits.others == 0).then_some(exits.pairs), stations };
        lock(&self.shared.guard).seen.insert(cookie, seen.clone());
        Ok(seen)
    }
}

/// Why a pod cannot be guarded at the node's ends of so many veth pairs, if it cannot.
fn way_out(seen: &Seen, devices: usize) -> Option<String> {
    match seen.pairs {
        None => Some("it has a device that is no veth, at whose other end nothing can be guarded".into()),
        Some(pairs) if pairs != devices => {
            Some(format!("{pairs} of its devices are veths, of which {devices} end on the node"))
        }
        Some(_) => None,
    }
}
