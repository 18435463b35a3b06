//! Un-enrolment leaves nothing, wherever enrolment ended; and what was connected stays connected, both ways.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use aya::maps::{HashMap as KernelMap, Map, MapData};
use weft::{
    steer::{SteerError, Steering},
    sys::{diag, sysctl},
};
use weft_abi::{PodEntry, map};

use crate::harness::{TestPod, VIP4, VIP6, World, accept, assert_idle, ip};

/// Everything enrolment could change in a pod.
#[derive(PartialEq, Eq)]
struct Traces {
    rules: [String; 2],
    routes: [String; 2],
    sysctls: BTreeMap<String, String>,
    listeners: usize,
}

fn traces(pod: &TestPod) -> Traces {
    let mut sysctls = BTreeMap::new();
    for root in ["net/ipv4", "net/ipv6"] {
        pod.ns.run(|| read_tree(&Path::new("/proc/sys").join(root), &mut sysctls)).unwrap();
    }
    Traces {
        rules: [pod.ip("-4 rule show"), pod.ip("-6 rule show")],
        routes: [pod.ip("-4 route show table all"), pod.ip("-6 route show table all")],
        sysctls,
        listeners: diag::listeners(&pod.ns).unwrap().len(),
    }
}

/// Fails with what differs, and not with everything.
#[track_caller]
fn assert_same(now: &Traces, before: &Traces, when: &str) {
    let lines = |traces: &Traces| -> BTreeSet<String> {
        let lists = traces.rules.iter().chain(&traces.routes).flat_map(|list| list.lines().map(str::to_owned));
        let sysctls = traces.sysctls.iter().map(|(key, value)| format!("{key} = {value}"));
        lists.chain(sysctls).chain([format!("{} listeners", traces.listeners)]).collect()
    };
    let (now, before) = (lines(now), lines(before));
    let left: Vec<_> = now.difference(&before).collect();
    let lost: Vec<_> = before.difference(&now).collect();
    assert!(left.is_empty() && lost.is_empty(), "{when}: left behind {left:#?}, lost {lost:#?}");
}

/// Counters of attempts and the like are no settings.
const MOVING: [&str; 2] = ["route/gc_elasticity", "stable_secret"];

fn read_tree(directory: &Path, found: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            read_tree(&path, found);
        } else if let Ok(value) = fs::read_to_string(&path) {
            let key = path.to_string_lossy().into_owned();
            if !MOVING.iter().any(|moving| key.ends_with(moving)) {
                found.insert(key, value);
            }
        }
    }
}

/// Links and map entries of the node.
fn pins(world: &World) -> Vec<PathBuf> {
    fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).unwrap().flatten() {
            found.push(entry.path());
            if entry.path().is_dir() {
                walk(&entry.path(), found);
            }
        }
    }
    let mut found = Vec::new();
    walk(&world.bpffs(), &mut found);
    found.sort();
    found
}

fn entries(world: &World) -> BTreeMap<u64, u32> {
    let data = MapData::from_pin(world.map(map::PODS)).unwrap();
    let pods: KernelMap<_, u64, PodEntry> = Map::HashMap(data).try_into().unwrap();
    pods.iter().map(|entry| entry.map(|(cookie, entry)| (cookie, entry.flags)).unwrap()).collect()
}

async fn unenrol(steering: &Steering, cookie: u64) {
    steering.withdraw(cookie).await.unwrap();
    steering.detach(cookie).await.unwrap();
    steering.restore(cookie).await.unwrap();
}

#[test]
fn nothing_is_left_after_unenrolment() {
    isolated!(async |world: World| {
        let steering = world.steer();
        let pod = world.pod(1);
        // One of the values is unlike the kernel's default: what is restored is what was there.
        pod.sysctl("net.ipv4.tcp_fwmark_accept", "0");
        pod.sysctl("net.ipv6.fwmark_reflect", "1");
        let (before, pinned, known) = (traces(&pod), pins(&world), entries(&world));
        let enrolled = pod.enrolled(&steering).await;
        let cookie = enrolled.cookie;
        assert!(traces(&pod) != before);
        assert_ne!(pins(&world), pinned);
        assert_eq!(entries(&world)[&cookie], PodEntry::ENROLLED);
        assert_eq!(sysctl::read(&pod.ns, "net.ipv4.fwmark_reflect").unwrap().as_deref(), Some("1"));
        drop(enrolled);
        unenrol(&steering, cookie).await;
        assert_same(&traces(&pod), &before, "after all stages");
        assert_eq!(pins(&world), pinned);
        let mut after = entries(&world);
        assert_eq!(after.remove(&cookie), Some(0), "known, and not meshed");
        assert_eq!(after, known);
        assert_eq!(fs::read_dir(world.state().join("enrolments")).unwrap().count(), 0);
        unenrol(&steering, cookie).await;
        assert_same(&traces(&pod), &before, "every stage may be asked for twice");
    });
}

#[test]
fn an_enrolment_that_fails_takes_itself_back() {
    isolated!(async |world: World| {
        let steering = world.steer();
        let pod = world.pod(1);
        let (before, pinned) = (traces(&pod), pins(&world));
        let mut network = pod.network();
        // Not the pod's: no route can have it as its source.
        network.addresses = vec![pod.v4, "fd77:9::2".parse().unwrap()];
        let error = steering.enrol(network).await.unwrap_err();
        assert!(matches!(error, SteerError::Pod { .. }), "{error}");
        assert_same(&traces(&pod), &before, "after all stages");
        assert_eq!(pins(&world), pinned);
    });
}

#[test]
fn a_successor_can_reverse_what_a_dead_agent_did() {
    isolated!(async |world: World| {
        let pod = world.pod(1);
        let before = traces(&pod);
        let steering = world.steer();
        let cookie = pod.enrolled(&steering).await.cookie;
        drop(steering);
        let successor = world.steer();
        let adopted = successor.adopted();
        assert_eq!(adopted.iter().map(|entry| entry.cookie).collect::<Vec<_>>(), [cookie]);
        assert_eq!(adopted[0].uid, pod.name);
        unenrol(&successor, cookie).await;
        assert_same(&traces(&pod), &before, "after all stages");
        assert!(successor.adopted().is_empty());
    });
}

#[test]
fn remove_all_leaves_a_node_as_it_was() {
    isolated!(async |world: World| {
        let (first, second) = (world.pod(1), world.pod(2));
        let (before, pinned) = ((traces(&first), traces(&second)), pins(&world));
        let steering = world.steer();
        drop((first.enrolled(&steering).await, second.enrolled(&steering).await));
        steering.remove_all().await.unwrap();
        assert_same(&traces(&first), &before.0, "first");
        assert_same(&traces(&second), &before.1, "second");
        assert_eq!(pins(&world), pinned);
        let mut server = second.app();
        server.ok("l = listen('0.0.0.0', 80)");
        first.app().dial(SocketAddr::new(second.v4, 80)).unwrap();
        assert!(matches!(steering.enrol(first.network()).await, Err(SteerError::Released)));
        // And the node can be meshed again.
        let again = world.steer();
        let enrolled = first.enrolled(&again).await;
        let mut app = first.app();
        app.dial(SocketAddr::new(VIP4, 80)).unwrap();
        accept(&enrolled.outbound).await;
    });
}

#[test]
fn existing_connections_live_through_enrolment_and_back() {
    isolated!(async |world: World| {
        let steering = world.steer();
        let (pod, other) = (world.pod(1), world.pod(2));
        let (mut app, mut peer) = (pod.app(), other.app());
        app.ok("l = listen('::', 80)");
        peer.ok("l = listen('::', 80)");
        steering.set_destinations(&[VIP4, VIP6, other.v4, other.v6, pod.v4, pod.v6].into()).unwrap();
        app.ok(&format!("out4 = dial('{}', 80); out6 = dial('{}', 80)", other.v4, other.v6));
        peer.ok("x, y = l.accept()[0], l.accept()[0]");
        peer.ok(&format!("in4 = dial('{}', 80); in6 = dial('{}', 80)", pod.v4, pod.v6));
        app.ok("v, w = l.accept()[0], l.accept()[0]");
        let talk = |app: &mut crate::app::App, peer: &mut crate::app::App| {
            app.ok("[s.sendall(b'a') for s in (out4, out6, v, w)]");
            assert_eq!(
                peer.ok("[s.recv(1).decode() for s in (x, y, in4, in6)]"),
                serde_json::json!(["a", "a", "a", "a"])
            );
            peer.ok("[s.sendall(b'b') for s in (x, y, in4, in6)]");
            assert_eq!(
                app.ok("[s.recv(1).decode() for s in (out4, out6, v, w)]"),
                serde_json::json!(["b", "b", "b", "b"])
            );
        };
        talk(&mut app, &mut peer);
        let enrolled = pod.enrolled(&steering).await;
        talk(&mut app, &mut peer);
        // A connection made under enrolment survives until restore, which waits for it.
        app.dial(SocketAddr::new(VIP4, 80)).unwrap();
        let (mut steered, ..) = accept(&enrolled.outbound).await;
        steering.withdraw(enrolled.cookie).await.unwrap();
        steering.detach(enrolled.cookie).await.unwrap();
        std::io::Write::write_all(&mut steered, b"c").unwrap();
        assert_eq!(app.ok("s.recv(1).decode()"), "c");
        talk(&mut app, &mut peer);
        app.dial(SocketAddr::new(other.v4, 80)).unwrap();
        peer.ok("l.accept()[0]; 1");
        assert_idle(&enrolled.outbound);
        drop(steered);
        steering.restore(enrolled.cookie).await.unwrap();
        talk(&mut app, &mut peer);
    });
}

#[test]
fn a_sysctl_somebody_changed_meanwhile_is_theirs() {
    isolated!(async |world: World| {
        let steering = world.steer();
        let pod = world.pod(1);
        let cookie = pod.enrolled(&steering).await.cookie;
        pod.sysctl("net.ipv4.tcp_fwmark_accept", "0");
        pod.sysctl("net.ipv4.fwmark_reflect", "1");
        unenrol(&steering, cookie).await;
        assert_eq!(sysctl::read(&pod.ns, "net.ipv4.tcp_fwmark_accept").unwrap().as_deref(), Some("0"));
        assert_eq!(sysctl::read(&pod.ns, "net.ipv4.fwmark_reflect").unwrap().as_deref(), Some("0"));
    });
}

#[test]
fn a_pod_that_died_while_no_agent_ran_is_forgotten() {
    isolated!(async |world: World| {
        let steering = world.steer();
        let pod = world.pod(1);
        let cookie = pod.enrolled(&steering).await.cookie;
        drop(steering);
        ip(&format!("netns del {}", pod.name));
        drop(pod);
        let successor = world.steer();
        assert!(successor.adopted().is_empty());
        assert!(!entries(&world).contains_key(&cookie));
        assert!(!pins(&world).iter().any(|pin| pin.to_string_lossy().contains("lookup-")));
        assert_eq!(fs::read_dir(world.state().join("enrolments")).unwrap().count(), 0);
    });
}

#[test]
fn a_pod_whose_address_changed_is_routed_by_the_new_one() {
    isolated!(async |world: World| {
        let steering = world.steer();
        let pod = world.pod(1);
        let before = traces(&pod);
        drop(pod.enrolled(&steering).await);
        let moved: std::net::IpAddr = "10.77.1.9".parse().unwrap();
        pod.ip("addr add 10.77.1.9/24 dev eth0");
        let mut network = pod.network();
        network.addresses = vec![moved];
        let enrolled = steering.enrol(network).await.unwrap();
        let mut app = pod.app();
        app.dial(SocketAddr::new(VIP4, 80)).unwrap();
        assert_eq!(accept(&enrolled.outbound).await.2.ip(), moved);
        let cookie = enrolled.cookie;
        drop((app, enrolled));
        unenrol(&steering, cookie).await;
        pod.ip("addr del 10.77.1.9/24 dev eth0");
        assert_same(&traces(&pod), &before, "of both addresses nothing is left");
    });
}

#[test]
fn a_change_that_fails_leaves_an_enrolled_pod_steered() {
    isolated!(async |world: World| {
        let steering = world.steer();
        let pod = world.pod(1);
        let enrolled = pod.enrolled(&steering).await;
        let mut network = pod.network();
        network.addresses = vec![pod.v4, "fd77:9::2".parse().unwrap()];
        steering.enrol(network).await.unwrap_err();
        let mut app = pod.app();
        app.dial(SocketAddr::new(VIP4, 80)).unwrap();
        accept(&enrolled.outbound).await;
    });
}
