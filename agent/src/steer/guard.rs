//! The guard at the node's end of every pod's link: the same-node fast path's precondition.
//!
//! The kernel's word on who connects is worth what the addresses in packets are worth. The guard drops what a pod sends in
//! the name of an enrolled pod it is not; while a single pod of the node has a way out that is not guarded, connections go
//! through the proxy. On a bridge everybody hears everybody, so there the guard stands at every port, whoever's it is, and
//! minds hardware addresses and the bridge's own address as well.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use aya::{
    Ebpf,
    maps::{HashMap, MapData},
    programs::{LinkOrder, SchedClassifier, TcAttachType, links::FdLink, tc::TcAttachOptions},
};
use weft_abi::{Address, Link, PodIdentity, Station, map, program};

use super::{
    SteerError, Steering, lock,
    object::{Programs, fd, find, run},
    survey::{GuardedPod, Plan, Post, Seen},
    tables::{optional, take},
};
use crate::sys::{
    NetNs,
    link::{Changes, Device},
};

/// Looks at a node whose pods do not seem to be whole.
const LOOKS: usize = 3;
/// Devices the program is put on at a time: for each the kernel waits until nobody runs what ran there before, some 12 ms.
const AT_ONCE: usize = 32;

/// How far the guard of a node's pods has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guarded {
    /// Who has a way out that cannot be guarded, and why.
    pub open: Vec<String>,
    /// Links that are to be guarded at the next call.
    pub waiting: usize,
}

/// The program, its maps, and where it runs.
pub(super) struct Guard {
    ebpf: Ebpf,
    owners: HashMap<MapData, Address, u64>,
    stations: HashMap<MapData, u64, u64>,
    links: HashMap<MapData, u32, Link>,
    /// Devices where this agent attached it, or took it over.
    attached: BTreeSet<u32>,
    pub(super) seen: BTreeMap<u64, Seen>,
}

impl Guard {
    /// Nothing is loaded, and nothing runs but where a predecessor attached its own, before there is a pod to guard.
    pub(super) fn new(programs: &Programs) -> Result<Self, SteerError> {
        let mut ebpf = programs.load(0, PodIdentity::default())?;
        Ok(Self {
            owners: take(&mut ebpf, map::GUARDED)?,
            stations: take(&mut ebpf, map::STATIONS)?,
            links: take(&mut ebpf, map::LINKS)?,
            ebpf,
            attached: BTreeSet::new(),
            seen: BTreeMap::new(),
        })
    }

    /// Guards as planned. What is known of a link is written before anybody's address is protected, or a pod would be
    /// kept from using its own; the other way round where it is taken back.
    fn apply(&mut self, programs: &Programs, node: &NetNs, mut plan: Plan) -> Result<Guarded, SteerError> {
        let stations = self.settle_stations(&mut plan)?;
        let mut wanted = BTreeSet::new();
        let (mut now, mut waiting) = (AT_ONCE, 0);
        for post in plan.posts.values() {
            self.links.insert(post.device.index, post.link, 0).map_err(SteerError::map(map::LINKS))?;
            wanted.insert(post.device.index);
            if self.attached.contains(&post.device.index) {
                continue;
            }
            if now == 0 {
                waiting += 1;
                continue;
            }
            now -= 1;
            if let Err(error) = self.attach(node, &post.device, &programs.pins.guard(post.device.index)) {
                let reason = format!("{}: its packets cannot be guarded (Linux 6.6 can): {error}", post.of);
                plan.open.push(reason);
            }
        }
        exactly(&mut self.stations, map::STATIONS, &stations)?;
        let owners = plan.owners.iter().map(|(ip, owner)| (Address::from(*ip), *owner)).collect();
        exactly(&mut self.owners, map::GUARDED, &owners)?;
        self.detach_others(programs, &wanted)?;
        Ok(Guarded { open: plan.open, waiting })
    }

    /// Whose each hardware address on a bridge is: who had it first keeps it. A link does not vouch for one that is another's.
    fn settle_stations(&self, plan: &mut Plan) -> Result<BTreeMap<u64, u64>, SteerError> {
        let enrolled = |post: &&Post| post.enrolled && post.link.is_shared() && post.link.station != Station::NONE;
        let claims: Vec<(u64, u64)> =
            plan.posts.values().filter(enrolled).map(|post| (post.link.station.number(), post.link.cookie)).collect();
        let mut owners = BTreeMap::new();
        for entry in self.stations.iter() {
            let held = entry.map_err(SteerError::map(map::STATIONS))?;
            if claims.contains(&held) {
                owners.insert(held.0, held.1);
            }
        }
        for (station, cookie) in claims {
            owners.entry(station).or_insert(cookie);
        }
        for post in plan.posts.values_mut() {
            if owners.get(&post.link.station.number()).is_some_and(|owner| *owner != post.link.cookie) {
                post.link.station = Station::NONE;
            }
        }
        Ok(owners)
    }

    /// Runs the program on a device, in front of all others: one before it that lets a packet through would be the last.
    fn attach(&mut self, node: &NetNs, device: &Device, pin: &Path) -> Result<(), SteerError> {
        let guard: &mut SchedClassifier = find(&mut self.ebpf, program::GUARD)?;
        if guard.fd().is_err() {
            guard.load().map_err(SteerError::load)?;
        }
        run(pin, &fd(guard.fd())?, || {
            let order = TcAttachOptions::TcxOrder(LinkOrder::first());
            let attach = || guard.attach_with_options(&device.name, TcAttachType::Ingress, order);
            let link = node.run(attach).map_err(SteerError::file("enter the namespace of", "the node"))?;
            let link = guard.take_link(link.map_err(SteerError::load)?).map_err(SteerError::load)?;
            FdLink::try_from(link).map_err(SteerError::load)
        })?;
        self.attached.insert(device.index);
        Ok(())
    }

    /// Takes the program off every device that is not wanted.
    fn detach_others(&mut self, programs: &Programs, wanted: &BTreeSet<u32>) -> Result<(), SteerError> {
        self.attached.retain(|index| wanted.contains(index));
        let guard: &mut SchedClassifier = find(&mut self.ebpf, program::GUARD)?;
        if wanted.is_empty() && guard.fd().is_ok() {
            guard.unload().map_err(SteerError::load)?;
        }
        programs.pins.remove_links(|name| guarded(name).is_some_and(|index| !wanted.contains(&index)))?;
        let held: Result<Vec<u32>, _> = self.links.keys().collect();
        for index in held.map_err(SteerError::map(map::LINKS))? {
            if !wanted.contains(&index) {
                optional(self.links.remove(&index)).map_err(SteerError::map(map::LINKS))?;
            }
        }
        Ok(())
    }
}

/// Makes a map hold exactly these.
fn exactly<K: aya::Pod + Ord>(
    map: &mut HashMap<MapData, K, u64>,
    name: &'static str,
    wanted: &BTreeMap<K, u64>,
) -> Result<(), SteerError> {
    let held: Result<BTreeMap<K, u64>, _> = map.iter().collect();
    let held = held.map_err(SteerError::map(name))?;
    for (key, owner) in wanted.iter().filter(|(key, owner)| held.get(*key) != Some(*owner)) {
        map.insert(key, owner, 0).map_err(SteerError::map(name))?;
    }
    for key in held.keys().filter(|key| !wanted.contains_key(*key)) {
        optional(map.remove(key)).map_err(SteerError::map(name))?;
    }
    Ok(())
}

/// What the name of a pin says: which device is guarded.
fn guarded(pin: &str) -> Option<u32> {
    pin.strip_prefix("guard-")?.parse().ok()
}

impl Steering {
    /// Guards exactly these pods, and whoever shares a bridge with an enrolled one; of very many some at a time.
    pub async fn guard(&self, pods: &[GuardedPod]) -> Result<Guarded, SteerError> {
        let _turn = self.turn.lock().await;
        self.shared.check_owner()?;
        let failed = |source| SteerError::File { action: "list the devices of", path: "the node".into(), source };
        let mut plan = Plan::default();
        for _ in 0..LOOKS {
            // A pod that comes or goes between two looks, one at the node and one into the pod, is seen whole by the next.
            if !pods.is_empty() && (plan.posts.is_empty() || !plan.open.is_empty()) {
                plan = self.survey(pods).await.map_err(failed)?;
            }
        }
        let cookies: BTreeSet<u64> = pods.iter().map(|pod| pod.netns.cookie()).collect();
        self.blocking(move |shared| {
            let mut guard = lock(&shared.guard);
            shared.check_owner()?;
            guard.seen.retain(|cookie, _| cookies.contains(cookie));
            guard.apply(&shared.programs, &shared.host, plan)
        })
        .await
    }

    /// Tells when the node's devices change, and [`Self::guard`] may have others to guard.
    pub fn link_changes(&self) -> std::io::Result<Changes> {
        Changes::of(&self.shared.host)
    }
}
