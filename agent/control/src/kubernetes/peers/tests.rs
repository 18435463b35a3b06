//! What slices and the node's own Pods lead to, against a naive model.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use weft_core::model::Name;

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

fn name(name: u8) -> ObjectName {
    ObjectName::new("demo", &format!("p{name}")).unwrap()
}

fn workload(said: &SliceWorkload) -> Workload {
    workload_slice::workload(&said.uid, said.pod.as_ref().unwrap()).unwrap()
}

/// What the deltas have left true.
#[derive(Default)]
struct World {
    workloads: BTreeMap<ObjectName, Workload>,
    live: BTreeMap<String, BTreeSet<String>>,
}

impl World {
    fn apply(&mut self, deltas: Vec<Delta>) {
        for delta in deltas {
            match delta {
                Delta::Put(Resource::Workload(workload)) => _ = self.workloads.insert(workload.name.clone(), workload),
                Delta::Remove(Key::Workload(name)) => _ = self.workloads.remove(&name),
                Delta::Put(Resource::Liveness(node)) => {
                    let live = node.live.iter().map(ToString::to_string).collect();
                    self.live.insert(node.node.to_string(), live);
                }
                Delta::Remove(Key::Liveness(node)) => _ = self.live.remove(&*node),
                other => panic!("{other:?}"),
            }
        }
    }
}

/// A pod comes, goes, or changes; the controller rewrites slices, in any order, and each when it likes.
#[derive(Clone, Debug)]
enum Step {
    /// A pod of this name is made anew, on a node, in a slice.
    Come(u8, u8, u8, bool),
    Go(u8),
    /// A slice is written as things are now.
    Write(u8),
    /// The node's own watch is told how a name stands now.
    Own(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..6_u8, 0..3_u8, 0..3_u8, any::<bool>())
            .prop_map(|(name, node, slice, live)| Step::Come(name, node, slice, live)),
        (0..6_u8).prop_map(Step::Go),
        (0..3_u8).prop_map(Step::Write),
        (0..6_u8).prop_map(Step::Own),
    ]
}

struct Run {
    peers: Peers,
    world: World,
    /// Pods there are, by name: and the slice each is in.
    pods: BTreeMap<u8, (SliceWorkload, u8)>,
    own: BTreeSet<u8>,
}

impl Run {
    fn write(&mut self, slice: u8) {
        let said: Vec<_> =
            self.pods.values().filter(|(_, place)| *place == slice).map(|(said, _)| said.clone()).collect();
        let mut deltas = Vec::new();
        assert!(self.peers.put(&format!("s{slice}"), &said, &mut deltas).is_empty());
        self.peers.changes(&mut deltas);
        self.world.apply(deltas);
    }

    fn own(&mut self, number: u8) {
        let here = self.pods.get(&number).map(|(said, _)| workload(said)).filter(|w| *w.node == *HERE);
        let mut deltas = match here {
            Some(workload) => {
                self.own.insert(number);
                vec![Delta::Put(Resource::Workload(workload))]
            }
            None if self.own.remove(&number) => vec![Delta::Remove(Key::Workload(name(number)))],
            None => Vec::new(),
        };
        self.peers.give_way(&mut deltas);
        self.world.apply(deltas);
    }
}

proptest! {
    /// However the news come, when all have come the agent knows every pod, of its own node and of others, and who of the
    /// others is live.
    #[test]
    fn slices_and_own_pods_lead_to_what_there_is(steps in prop::collection::vec(step(), 0..60)) {
        let mut run = Run { peers: Peers::new(HERE.into()), world: World::default(), pods: BTreeMap::new(), own: BTreeSet::new() };
        for (uid, step) in steps.into_iter().enumerate() {
            match step {
                Step::Come(name, node, slice, live) => {
                    let uid = u32::try_from(uid).unwrap();
                    run.pods.insert(name, (told(name, uid, node, live), slice));
                }
                Step::Go(name) => _ = run.pods.remove(&name),
                Step::Write(slice) => run.write(slice),
                Step::Own(number) => run.own(number),
            }
        }
        (0..3).for_each(|slice| run.write(slice));
        (0..6).for_each(|number| run.own(number));
        // A pod whose name an own one held when its slice was written has been told of since.
        (0..3).for_each(|slice| run.write(slice));
        let there: BTreeMap<_, _> = run.pods.values().map(|(said, _)| (workload(said).name.clone(), workload(said))).collect();
        prop_assert_eq!(&run.world.workloads, &there);
        let mut live: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (said, _) in run.pods.values().filter(|(said, _)| said.live && said.pod.as_ref().unwrap().node != HERE) {
            live.entry(said.pod.as_ref().unwrap().node.clone()).or_default().insert(said.uid.clone());
        }
        prop_assert_eq!(&run.world.live, &live);
        for (said, _) in run.pods.values().filter(|(said, _)| said.pod.as_ref().unwrap().node == HERE) {
            prop_assert_eq!(run.peers.tells_live(&said.uid), said.live);
        }
    }
}

#[test]
fn a_pod_that_moved_away_is_known_as_soon_as_its_own_node_lets_go() {
    let mut peers = Peers::new(HERE.into());
    let (mut world, moved) = (World::default(), told(1, 2, 1, true));
    let mut deltas = vec![Delta::Put(Resource::Workload(workload(&told(1, 1, 0, true))))];
    peers.give_way(&mut deltas);
    peers.put("s0", std::slice::from_ref(&moved), &mut deltas);
    world.apply(deltas);
    assert_eq!(*world.workloads[&name(1)].node, *HERE, "what the node's own Pods say wins");
    let mut deltas = vec![Delta::Remove(Key::Workload(name(1)))];
    peers.give_way(&mut deltas);
    world.apply(deltas);
    assert_eq!(world.workloads[&name(1)], workload(&moved));
}

#[test]
fn what_is_no_name_is_left_out_and_said() {
    let mut peers = Peers::new(HERE.into());
    let mut bad = told(1, 1, 1, true);
    bad.pod.as_mut().unwrap().service_account = "Not A Name".into();
    let mut deltas = Vec::new();
    let wrong = peers.put("s0", &[bad, told(2, 2, 1, false)], &mut deltas);
    assert_eq!((wrong.len(), deltas.len()), (1, 1), "{wrong:?}");
    assert!(Name::new("Not A Name").is_err() && wrong[0].contains("u1"));
}
