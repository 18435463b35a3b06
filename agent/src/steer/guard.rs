//! The guard at the node's end of every pod's link: the same-node fast path's precondition.
//!
//! The kernel's word on who connects is worth what the addresses in packets are worth. The guard drops what a pod sends in
//! the name of an enrolled pod it is not; while a single pod of the node has a way out that is not guarded, connections go
//! through the proxy.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use aya::{
    Ebpf,
    maps::{HashMap, MapData},
    programs::{LinkOrder, SchedClassifier, TcAttachType, links::FdLink, tc::TcAttachOptions},
};
use weft_abi::{Address, PodIdentity, map, program};

use super::{
    SteerError, Steering, lock,
    object::{Programs, find, replace},
    tables::{optional, take},
};
use crate::sys::{
    NetNs,
    link::{self, Device},
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

/// The program, its maps, and where it runs.
pub(super) struct Guard {
    ebpf: Ebpf,
    owners: HashMap<MapData, Address, u64>,
    devices: HashMap<MapData, u32, u64>,
    /// Links this agent attached or took over: (cookie, index).
    attached: BTreeSet<(u64, u32)>,
    /// Pods looked into: when, and how many veth ends were seen, if that is all there is.
    seen: BTreeMap<u64, (Instant, Option<usize>)>,
}

impl Guard {
    /// Nothing is loaded, and nothing runs but where a predecessor attached its own, before there is a pod to guard.
    pub(super) fn new(programs: &Programs) -> Result<Self, SteerError> {
        let mut ebpf = programs.load(0, PodIdentity::default())?;
        Ok(Self {
            owners: take(&mut ebpf, map::GUARDED)?,
            devices: take(&mut ebpf, map::DEVICES)?,
            ebpf,
            attached: BTreeSet::new(),
            seen: BTreeMap::new(),
        })
    }

    fn set_owners(&mut self, wanted: &BTreeMap<IpAddr, u64>) -> Result<(), SteerError> {
        let held: Result<Vec<_>, _> = self.owners.iter().collect();
        let held: BTreeMap<IpAddr, u64> =
            held.map_err(SteerError::map(map::GUARDED))?.into_iter().map(|(ip, owner)| (ip.into(), owner)).collect();
        for (ip, owner) in wanted.iter().filter(|(ip, owner)| held.get(*ip) != Some(*owner)) {
            self.owners.insert(Address::from(*ip), owner, 0).map_err(SteerError::map(map::GUARDED))?;
        }
        for ip in held.keys().filter(|ip| !wanted.contains_key(*ip)) {
            optional(self.owners.remove(&(*ip).into())).map_err(SteerError::map(map::GUARDED))?;
        }
        Ok(())
    }

    /// Runs the program on a device, in front of all others: one before it that lets a packet through would be the last.
    fn attach(&mut self, node: &NetNs, cookie: u64, device: &Device, pin: &Path) -> Result<(), SteerError> {
        self.devices.insert(device.index, cookie, 0).map_err(SteerError::map(map::DEVICES))?;
        if self.attached.contains(&(cookie, device.index)) {
            return Ok(());
        }
        let guard: &mut SchedClassifier = find(&mut self.ebpf, program::GUARD)?;
        if guard.fd().is_err() {
            guard.load().map_err(SteerError::load)?;
        }
        if !replace(pin, guard.fd().map_err(SteerError::load)?)? {
            let order = TcAttachOptions::TcxOrder(LinkOrder::first());
            let attach = || guard.attach_with_options(&device.name, TcAttachType::Ingress, order);
            let link = node.run(attach).map_err(SteerError::file("enter the namespace of", "the node"))?;
            let link = guard.take_link(link.map_err(SteerError::load)?).map_err(SteerError::load)?;
            FdLink::try_from(link).map_err(SteerError::load)?.pin(pin).map_err(SteerError::load)?;
        }
        self.attached.insert((cookie, device.index));
        Ok(())
    }

    /// Takes the program off every device that is not wanted.
    fn detach_others(&mut self, programs: &Programs, wanted: &BTreeSet<(u64, u32)>) -> Result<(), SteerError> {
        self.attached.retain(|at| wanted.contains(at));
        let guard: &mut SchedClassifier = find(&mut self.ebpf, program::GUARD)?;
        if wanted.is_empty() && guard.fd().is_ok() {
            guard.unload().map_err(SteerError::load)?;
        }
        programs.pins.remove_links(|name| guarded(name).is_some_and(|at| !wanted.contains(&at)))?;
        let held: Result<Vec<u32>, _> = self.devices.keys().collect();
        for index in held.map_err(SteerError::map(map::DEVICES))? {
            if !wanted.iter().any(|(_, wanted)| *wanted == index) {
                optional(self.devices.remove(&index)).map_err(SteerError::map(map::DEVICES))?;
            }
        }
        Ok(())
    }
}

/// What the name of a pin says: whose link is guarded, and by which device.
fn guarded(pin: &str) -> Option<(u64, u32)> {
    let (cookie, index) = pin.strip_prefix("guard-")?.split_once('-')?;
    Some((cookie.parse().ok()?, index.parse().ok()?))
}

impl Steering {
    /// Guards exactly these pods. Returns the names of those that have a way out which cannot be guarded, with the reason.
    pub async fn guard(&self, pods: &[GuardedPod]) -> Result<Vec<String>, SteerError> {
        let _turn = self.turn.lock().await;
        self.shared.check_owner()?;
        let failed = |source| SteerError::File { action: "list the devices of", path: "the node".into(), source };
        let node = &self.shared.host;
        let pairs = if pods.is_empty() { Vec::new() } else { link::pairs(node).await.map_err(failed)? };
        let mut found = Vec::new();
        let mut open = Vec::new();
        for pod in pods {
            let devices = link::of_pod(node, &pairs, &pod.netns).await.map_err(failed)?;
            match self.way_out(pod, devices.len()).await {
                Some(reason) => open.push(format!("{}: {reason}", pod.name)),
                None => found.push((pod, devices)),
            }
        }
        let mut guard = lock(&self.shared.guard);
        self.shared.check_owner()?;
        let protects =
            pods.iter().flat_map(|pod| pod.protects.iter().map(|ip| (ip.to_canonical(), pod.netns.cookie())));
        guard.set_owners(&protects.collect())?;
        let mut wanted = BTreeSet::new();
        for (cookie, device) in found.iter().flat_map(|(pod, all)| all.iter().map(|one| (pod.netns.cookie(), one))) {
            let pin = self.shared.programs.pins.guard(cookie, device.index);
            guard.attach(node, cookie, device, &pin)?;
            wanted.insert((cookie, device.index));
        }
        guard.seen.retain(|cookie, _| pods.iter().any(|pod| pod.netns.cookie() == *cookie));
        guard.detach_others(&self.shared.programs, &wanted)?;
        Ok(open)
    }

    /// Why a pod cannot be guarded at the node's ends of so many veth pairs, if it cannot.
    async fn way_out(&self, pod: &GuardedPod, devices: usize) -> Option<String> {
        let cookie = pod.netns.cookie();
        let seen = lock(&self.shared.guard).seen.get(&cookie).copied();
        let pairs = match seen.filter(|(when, pairs)| when.elapsed() < LOOK_AGAIN && *pairs == Some(devices)) {
            Some((_, pairs)) => pairs,
            None => match link::exits(&pod.netns).await {
                Ok(exits) => {
                    let pairs = (exits.others == 0).then_some(exits.pairs);
                    lock(&self.shared.guard).seen.insert(cookie, (Instant::now(), pairs));
                    pairs
                }
                Err(error) => return Some(format!("its devices cannot be listed: {error}")),
            },
        };
        match pairs {
            None => Some("it has a device that is no veth, at whose other end nothing can be guarded".into()),
            Some(pairs) if pairs != devices => {
                Some(format!("{pairs} of its devices are veths, of which {devices} end on the node"))
            }
            Some(_) => None,
        }
    }
}
