//! What slices lead to, against a naive model: the snapshot that knows every pod of other nodes once each slice is written as
//! things are.

use std::collections::BTreeMap;

use proptest::prelude::*;
use weft_core::model::{Name, ObjectName, TrustDomain, Workload};
use weft_core::snapshot::{Here, Snapshot};

use super::*;
use crate::crd::SlicePod;

const HERE: &str = "n0";

fn told(name: u8, uid: u32, node: u8, live: bool) -> SliceWorkload {
    let pod = SlicePod {
        namespace: "demo".into(),
        name: format!("p{name}"),
        service_account: "app".into(),
        node: format!("n{node}"),
        ips: vec![format!("10.0.{name}.{}", uid % 250 + 1)],
        workload: None,
        weight: None,
        host_network: false,
    };
    SliceWorkload { uid: format!("u{uid}"), live, pod: Some(pod) }
}

fn workload(said: &SliceWorkload) -> Workload {
    workload_slice::workload(&said.uid, said.pod.as_ref().unwrap()).unwrap()
}

/// An agent of [`HERE`] that knows nothing yet.
fn world() -> Snapshot {
    Snapshot::on(TrustDomain::new("cluster.local").unwrap(), Here { node: HERE.into(), zone: None })
}

/// A pod comes, goes, or changes; the controller rewrites slices, in any order, and each when it likes.
#[derive(Clone, Debug)]
enum Step {
    /// A pod of this name is made anew, on a node, in a slice.
    Come(u8, u8, u8, bool),
    Go(u8),
    /// A slice is written as things are now.
    Write(u8),
    /// A slice is deleted, by whomever.
    Delete(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..6_u8, 0..3_u8, 0..3_u8, any::<bool>())
            .prop_map(|(name, node, slice, live)| Step::Come(name, node, slice, live)),
        2 => (0..6_u8).prop_map(Step::Go),
        4 => (0..3_u8).prop_map(Step::Write),
        1 => (0..3_u8).prop_map(Step::Delete),
    ]
}

struct Run {
    peers: Peers,
    world: Snapshot,
    /// Pods there are, by name: and the slice each is in.
    pods: BTreeMap<u8, (SliceWorkload, u8)>,
}

impl Run {
    fn write(&mut self, slice: u8) {
        let said: Vec<_> =
            self.pods.values().filter(|(_, place)| *place == slice).map(|(said, _)| said.clone()).collect();
        let mut deltas = Vec::new();
        assert!(self.peers.put(&format!("s{slice}"), &said, &mut deltas).is_empty());
        self.world = self.world.apply(deltas);
    }

    fn delete(&mut self, slice: u8) {
        let mut deltas = Vec::new();
        let before = self.world.workloads().count();
        self.peers.remove(&format!("s{slice}"), &mut deltas);
        self.world = self.world.apply(deltas);
        assert_eq!(self.world.workloads().count(), before, "nobody is forgotten because a slice was taken away");
    }
}

proptest! {
    /// However the news come, when all have come the agent knows every pod of other nodes at its address, and who is live.
    #[test]
    fn slices_lead_to_what_there_is(steps in prop::collection::vec(step(), 0..60)) {
        let mut run = Run { peers: Peers::new(HERE.into()), world: world(), pods: BTreeMap::new() };
        for (uid, step) in steps.into_iter().enumerate() {
            match step {
                Step::Come(name, node, slice, live) => {
                    let uid = u32::try_from(uid).unwrap();
                    run.pods.insert(name, (told(name, uid, node, live), slice));
                }
                Step::Go(name) => _ = run.pods.remove(&name),
                Step::Write(slice) => run.write(slice),
                Step::Delete(slice) => run.delete(slice),
            }
        }
        (0..3).for_each(|slice| run.write(slice));
        let there: Vec<_> = run.pods.values().filter(|(said, _)| *workload(said).node != *HERE).collect();
        prop_assert_eq!(run.world.workloads().count(), there.len());
        for (said, _) in there {
            let known = run.world.workload_at(workload(said).addresses[0]).unwrap();
            prop_assert_eq!(&*known, &workload(said));
            prop_assert_eq!(run.world.is_live(&known), said.live);
            prop_assert_eq!(run.world.is_destination(known.addresses[0]), said.live);
        }
        for (said, _) in run.pods.values().filter(|(said, _)| *workload(said).node == *HERE) {
            prop_assert_eq!(run.peers.tells_live(&said.uid), said.live);
        }
    }
}

#[test]
fn what_the_nodes_own_pods_say_of_an_address_wins_when_they_are_live() {
    let mut peers = Peers::new(HERE.into());
    let own = Workload { uid: "own".into(), ..workload(&told(1, 2, 0, true)) };
    let stale = told(1, 2, 1, false);
    let mut deltas = vec![Delta::Put(Resource::Workload(own.clone()))];
    peers.put("s0", std::slice::from_ref(&stale), &mut deltas);
    let world = world().apply(deltas);
    assert_eq!(*world.workload_at(own.addresses[0]).unwrap(), own);
    let gone = world.apply([Delta::Remove(Key::Workload(own.name.clone()))]);
    assert_eq!(*gone.workload_at(own.addresses[0]).unwrap(), workload(&stale));
    assert_eq!(own.name, ObjectName::new("demo", "p1").unwrap());
}

#[test]
fn what_is_no_name_is_left_out_and_said() {
    let mut peers = Peers::new(HERE.into());
    let mut bad = told(1, 1, 1, true);
    bad.pod.as_mut().unwrap().service_account = "Not A Name".into();
    let mut deltas = Vec::new();
    let wrong = peers.put("s0", &[bad, told(2, 2, 1, false)], &mut deltas);
    let Delta::Put(Resource::Peers(slice)) = &deltas[0] else { panic!("{deltas:?}") };
    assert_eq!((wrong.len(), slice.pods().count()), (1, 1), "{wrong:?}");
    assert!(Name::new("Not A Name").is_err() && wrong[0].contains("u1"));
}
