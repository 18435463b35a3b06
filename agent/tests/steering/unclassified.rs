//! Pods that nobody has classified: reported always, held only where that was asked for and an agent is alive.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

use weft::steer::{SteerError, Steering, Unclassified};
use weft_abi::{Config, EventKind};

use crate::harness::{VIP4, World, accept, eventually, verdict};

const SOON: Duration = Duration::from_secs(5);

fn closed(world: &World) -> Steering {
    let mut config = world.config();
    config.unclassified = Unclassified::Closed;
    let steering = Steering::open(config).unwrap();
    steering.set_destinations(&[VIP4].into()).unwrap();
    steering.settle(&BTreeSet::new()).unwrap();
    steering
}

#[test]
fn closed_waits_until_the_agent_knows_its_pods() {
    isolated!(async |world: World| {
        let mut config = world.config();
        config.unclassified = Unclassified::Closed;
        let steering = Steering::open(config).unwrap();
        let (pod, other) = (world.pod(1), world.pod(2));
        let mut server = other.app();
        server.ok("l = listen('0.0.0.0', 80)");
        let (mut app, to) = (pod.app(), SocketAddr::new(other.v4, 80));
        // Longer than it takes to beat, had that begun.
        let deadline = Instant::now() + Duration::from_millis(1500);
        while Instant::now() < deadline {
            app.dial(to).expect("an agent that knows nothing holds nobody");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        steering.settle(&BTreeSet::from([other.ns.cookie()])).unwrap();
        assert_eq!(app.dial(to), Err(libc::ECONNREFUSED));
    });
}

#[test]
fn invariant_22_an_unknown_namespace_is_reported_with_its_thread() {
    isolated!(async |world: World| {
        let steering = world.steer();
        let mut events = steering.events().unwrap();
        let (pod, other) = (world.pod(1), world.pod(2));
        steering.classify(other.ns.cookie()).unwrap();
        let mut server = other.app();
        server.ok("l = listen('0.0.0.0', 80)");
        let mut app = pod.app();
        let to = SocketAddr::new(other.v4, 80);
        app.dial(to).expect("open: it passes");
        let event = tokio::time::timeout(SOON, events.next()).await.unwrap().unwrap();
        assert_eq!((event.kind(), event.cookie), (Some(EventKind::Unclassified), pod.ns.cookie()));
        assert_eq!(event.tid(), app.id());
        assert_eq!(std::net::IpAddr::from(event.destination), other.v4);
        assert_eq!(event.port, 80);
        // Many more connects in no time are counted and not reported one by one.
        let started = Instant::now();
        for _ in 0..20 {
            app.dial(to).unwrap();
        }
        assert_eq!(verdict(&steering, "connect_unclassified"), 21);
        let intervals = started.elapsed().as_nanos() / u128::from(weft_abi::Event::INTERVAL_NS) + 1;
        let mut reported = 0;
        while let Ok(event) = tokio::time::timeout(Duration::ZERO, events.next()).await {
            event.unwrap();
            reported += 1;
        }
        assert!(reported <= intervals, "{reported} reports in {intervals} intervals");
        steering.classify(pod.ns.cookie()).unwrap();
        app.dial(to).unwrap();
        assert_eq!(verdict(&steering, "connect_unclassified"), 21, "known is not unclassified");
    });
}

#[test]
fn invariant_23_closed_refuses_tcp_with_an_errno_applications_retry() {
    isolated!(async |world: World| {
        let steering = closed(&world);
        let mut events = steering.events().unwrap();
        let (pod, other) = (world.pod(1), world.pod(2));
        steering.classify(other.ns.cookie()).unwrap();
        let mut server = other.app();
        server.ok(
            "l = listen('::', 80); u = socket.socket(type=socket.SOCK_DGRAM); u.bind(('0.0.0.0', 53)); u.settimeout(5)",
        );
        let mut app = pod.app();
        for to in [other.v4, other.v6] {
            assert_eq!(app.dial(SocketAddr::new(to, 80)), Err(libc::ECONNREFUSED));
        }
        let event = tokio::time::timeout(SOON, events.next()).await.unwrap().unwrap();
        assert_eq!(event.kind(), Some(EventKind::UnclassifiedRefused));
        app.ok(&format!("u = socket.socket(type=socket.SOCK_DGRAM); u.sendto(b'dns', ('{}', 53))", other.v4));
        assert_eq!(server.ok("u.recv(9).decode()"), "dns", "or names would not resolve");
        app.ok("l = listen('127.0.0.1', 80); s = dial('127.0.0.1', 80)");
        let enrolled = pod.enrolled(&steering).await;
        app.dial(SocketAddr::new(VIP4, 80)).expect("held no longer");
        accept(&enrolled.outbound).await;
        assert_eq!(verdict(&steering, "connect_refuse_unclassified"), 2);
    });
}

#[test]
fn invariant_24_closed_needs_a_heartbeat_and_spares_the_host() {
    isolated!(async |world: World| {
        let steering = closed(&world);
        let (pod, other) = (world.pod(1), world.pod(2));
        steering.classify(other.ns.cookie()).unwrap();
        let mut server = other.app();
        server.ok("l = listen('0.0.0.0', 80)");
        let to = SocketAddr::new(other.v4, 80);
        // A process of the node itself, as a hostNetwork pod's would be.
        let node = weft::sys::NetNs::current().unwrap();
        let group = world.cgroup.join("pod1");
        crate::app::App::start(&node, &group).dial(to).expect("the host is never held");
        let mut app = pod.app();
        // The test has the agent's only thread, and may have kept it from its heartbeat so far.
        eventually("the agent's heartbeat", || (app.dial(to) == Err(libc::ECONNREFUSED)).then_some(())).await;
        // Longer than a heartbeat lasts, and an agent that lives still holds.
        let fresh = Duration::from_nanos(Config::HEARTBEAT_FRESH_NS);
        let deadline = Instant::now() + fresh + Duration::from_millis(500);
        while Instant::now() < deadline {
            let turn = Instant::now();
            tokio::time::sleep(Duration::from_millis(50)).await;
            let dialled = app.dial(to);
            // A machine that stood still for seconds is no dead agent, but looks like one.
            assert!(dialled == Err(libc::ECONNREFUSED) || turn.elapsed() > Duration::from_secs(1), "{dialled:?}");
        }
        drop(steering);
        let died = Instant::now();
        while app.dial(to).is_err() {
            assert!(died.elapsed() < fresh + Duration::from_secs(2), "a dead agent holds the node's new pods");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
}

#[test]
fn closed_holds_nobody_while_new_pods_are_not_heard_of() {
    isolated!(async |world: World| {
        let steering = closed(&world);
        let (pod, other) = (world.pod(1), world.pod(2));
        steering.classify(other.ns.cookie()).unwrap();
        let mut server = other.app();
        server.ok("l = listen('0.0.0.0', 80)");
        let (mut app, to) = (pod.app(), SocketAddr::new(other.v4, 80));
        eventually("the agent's heartbeat", || (app.dial(to) == Err(libc::ECONNREFUSED)).then_some(())).await;
        steering.set_hearing(false);
        eventually("the pod to be let go", || app.dial(to).is_ok().then_some(())).await;
        steering.set_hearing(true);
        eventually("the pod to be held again", || (app.dial(to) == Err(libc::ECONNREFUSED)).then_some(())).await;
    });
}

#[test]
fn invariant_29_host_network_is_refused_by_name() {
    isolated!(async |world: World| {
        let steering = world.steer();
        let pod = world.pod(1);
        let mut network = pod.network();
        network.netns = "/proc/thread-self/ns/net".into();
        // On a thread of the node's namespace, as every thread of the agent is.
        let error = steering.enrol(network).await.unwrap_err();
        assert!(matches!(error, SteerError::HostNetwork { .. }), "{error}");
        assert!(error.to_string().contains("hostNetwork"), "{error}");
    });
}
