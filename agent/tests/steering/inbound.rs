//! SYNs that arrive at enrolled pods, and the agent's deliveries to their applications.

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd as _,
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, Socket, Type};
use weft::{
    steer::{EnrolledPod, InboundModes, SteerError, Steering},
    sys::{diag, dial, sysctl},
};
use weft_abi::{EventKind, ListenerRole, Marks, PortMode};

use crate::harness::{TestPod, VIP4, VIP6, World, accept, assert_idle, eventually, verdict};

const SOON: Duration = Duration::from_secs(5);

/// A client's address that is nobody's here.
const CLIENT4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 99, 0, 7));
const CLIENT6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 7));

fn modes(default: PortMode, ports: &[(u16, PortMode)]) -> InboundModes {
    InboundModes { default, ports: ports.iter().copied().collect::<BTreeMap<_, _>>(), ..InboundModes::default() }
}

/// An enrolled pod whose plaintext is met in one way, and another pod.
async fn two(world: &World, default: PortMode) -> (Steering, TestPod, EnrolledPod, TestPod) {
    let steering = world.steer();
    let (pod, other) = (world.pod(1), world.pod(2));
    let mut network = pod.network();
    network.modes = modes(default, &[]);
    let enrolled = steering.enrol(network).await.unwrap();
    (steering, pod, enrolled, other)
}

#[test]
fn tunnels_and_judged_plaintext_reach_the_agent_with_true_addresses() {
    isolated!(async |world: World| {
        let (steering, pod, enrolled, other) = two(&world, PortMode::Judge).await;
        let mut client = other.app();
        for to in [pod.v4, pod.v6] {
            for port in [15008, 80] {
                client.dial(SocketAddr::new(to, port)).unwrap();
                let (_, reached, from) = accept(&enrolled.inbound).await;
                assert_eq!(reached, SocketAddr::new(to, port));
                assert_eq!(from.ip(), other.address(to));
            }
        }
        assert_eq!(verdict(&steering, "lookup_assign_tunnel"), 2);
        assert_eq!(verdict(&steering, "lookup_assign_plaintext"), 2);
        assert_idle(&enrolled.outbound);
    });
}

#[test]
fn invariant_08_calls_to_itself_and_deliveries_are_told_from_calls_from_outside() {
    isolated!(async |world: World| {
        let (steering, pod, enrolled, _) = two(&world, PortMode::Judge).await;
        let mut app = pod.app();
        app.ok("l4 = listen('0.0.0.0', 8080); l6 = listen('::', 8081)");
        for (client, to, port) in [(CLIENT4, pod.v4, 8080), (CLIENT6, pod.v6, 8081)] {
            // Its own call is reported with the device that carries the address, so the source tells.
            app.dial(SocketAddr::new(to, port)).unwrap();
            dial::deliver(&pod.ns, client, SocketAddr::new(to, port), SOON).await.unwrap();
        }
        assert_eq!(verdict(&steering, "lookup_own"), 2);
        assert_eq!(verdict(&steering, "lookup_delivery"), 2);
        assert_idle(&enrolled.inbound);
        // The same delivery without SO_BINDTODEVICE: the agent would be talking to itself.
        let loose = pod.ns.run(|| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
            socket.set_ip_transparent_v4(true).unwrap();
            socket.set_mark(Marks::STEERED).unwrap();
            socket.bind(&SocketAddr::new(CLIENT4, 61_000).into()).unwrap();
            socket.connect_timeout(&SocketAddr::new(pod.v4, 8080).into(), SOON).map(|()| socket)
        });
        let _loose = loose.unwrap().unwrap();
        assert_eq!(accept(&enrolled.inbound).await.2.ip(), CLIENT4, "it loops");
    });
}

#[test]
fn invariant_09_deliveries_carry_the_clients_address_and_a_port_of_their_own() {
    isolated!(async |world: World| {
        let (_steering, pod, _enrolled, _) = two(&world, PortMode::Judge).await;
        let mut app = pod.app();
        app.ok("l4 = listen('0.0.0.0', 8080); l6 = listen('::', 8081)");
        // The application's own dials from every ephemeral port it may want.
        pod.sysctl("net.ipv4.ip_local_port_range", "60000 60063");
        for (client, to, port) in [(CLIENT4, pod.v4, 8080), (CLIENT6, pod.v6, 8081)] {
            let mut streams = Vec::new();
            for _ in 0..150 {
                let stream = dial::deliver(&pod.ns, client, SocketAddr::new(to, port), SOON).await.unwrap();
                let source = stream.local_addr().unwrap();
                assert_eq!(source.ip(), client);
                assert!(source.port() >= 61_000, "{source}");
                streams.push(stream);
            }
            let listener = if to.is_ipv4() { "l4" } else { "l6" };
            let peers =
                app.ok(&format!("a = [{listener}.accept() for _ in range(150)]; sorted({{x[1][0] for x in a}})"));
            assert_eq!(peers, serde_json::json!([client.to_string()]), "the application sees the client");
        }
        app.ok("own = [dial('127.0.0.1', 8080) for _ in range(50)]; len(own)");
    });
}

#[test]
fn invariant_10_a_dead_port_refuses_at_once_and_only_with_the_sysctls() {
    isolated!(async |world: World| {
        let (_steering, pod, _enrolled, _) = two(&world, PortMode::Judge).await;
        for (client, to) in [(CLIENT4, pod.v4), (CLIENT6, pod.v6)] {
            let started = Instant::now();
            let error = dial::deliver(&pod.ns, client, SocketAddr::new(to, 9), SOON).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
            assert!(started.elapsed() < Duration::from_millis(500), "{:?}", started.elapsed());
        }
        pod.sysctl("net.ipv4.fwmark_reflect", "0");
        let short = Duration::from_millis(300);
        let error = dial::deliver(&pod.ns, CLIENT4, SocketAddr::new(pod.v4, 9), short).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut, "the reset left for the real client");
        let mut app = pod.app();
        app.ok("l = listen('0.0.0.0', 8080)");
        dial::deliver(&pod.ns, CLIENT4, SocketAddr::new(pod.v4, 8080), SOON).await.unwrap();
        pod.sysctl("net.ipv4.tcp_fwmark_accept", "0");
        let error = dial::deliver(&pod.ns, CLIENT4, SocketAddr::new(pod.v4, 8080), short).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut, "so did the SYN-ACK");
    });
}

#[test]
fn invariant_11_what_listens_on_loopback_only_is_not_exposed() {
    isolated!(async |world: World| {
        let (_steering, pod, _enrolled, _) = two(&world, PortMode::Judge).await;
        let mut app = pod.app();
        app.ok("l4 = listen('127.0.0.1', 9000); l6 = listen('::1', 9001)");
        for (client, to, port) in [(CLIENT4, pod.v4, 9000), (CLIENT6, pod.v6, 9001)] {
            let error = dial::deliver(&pod.ns, client, SocketAddr::new(to, port), SOON).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        }
    });
}

#[test]
fn invariant_12_plaintext_obeys_each_ports_mode_without_the_proxy_where_it_passes() {
    isolated!(async |world: World| {
        let (steering, pod, enrolled, other) = two(&world, PortMode::Pass).await;
        let mut app = pod.app();
        app.ok("l = listen('::', 80)");
        let mut client = other.app();
        for to in [pod.v4, pod.v6] {
            client.dial(SocketAddr::new(to, 80)).unwrap();
            let peer = app.ok("l.accept()[1][0]");
            assert!(peer.as_str().unwrap().ends_with(&other.address(to).to_string()), "{peer}");
        }
        assert_idle(&enrolled.inbound);
        let mixed = modes(PortMode::Refuse, &[(80, PortMode::Pass), (81, PortMode::Judge)]);
        steering.set_inbound_modes(enrolled.cookie, &mixed).unwrap();
        client.dial(SocketAddr::new(pod.v4, 80)).unwrap();
        client.dial(SocketAddr::new(pod.v4, 81)).unwrap();
        assert_eq!(accept(&enrolled.inbound).await.1.port(), 81);
        assert_eq!(client.dial(SocketAddr::new(pod.v4, 82)), Err(libc::ECONNREFUSED), "reset, not silence");
        client.dial(SocketAddr::new(pod.v4, 15008)).expect("tunnels are no plaintext");
        assert_eq!(accept(&enrolled.inbound).await.1.port(), 15008);
        steering.set_inbound_modes(enrolled.cookie, &modes(PortMode::Judge, &[])).unwrap();
        client.dial(SocketAddr::new(pod.v4, 80)).unwrap();
        assert_eq!(accept(&enrolled.inbound).await.1.port(), 80, "a mode that is gone is gone");
    });
}

#[test]
fn invariant_13_one_listener_serves_both_families_on_a_port_nobody_wants() {
    isolated!(async |world: World| {
        let (_steering, pod, enrolled, _) = two(&world, PortMode::Pass).await;
        let range = sysctl::read(&pod.ns, "net.ipv4.ip_local_port_range").unwrap().unwrap();
        let ends: Vec<u16> = range.split_whitespace().map(|end| end.parse().unwrap()).collect();
        for listener in [&enrolled.outbound, &enrolled.inbound] {
            let at = weft::sys::socket::canonical(listener.local_addr().unwrap());
            assert!(at.ip().is_loopback(), "{at}");
            assert!(at.port() < ends[0] || at.port() > ends[1], "{at} is in {range}");
        }
        // The pod may not be talked into serving what the listener serves.
        let mut app = pod.app();
        let own = enrolled.outbound.local_addr().unwrap();
        app.ok(&format!("s = dial('127.0.0.1', {})", own.port()));
        let (_, to, _) = accept(&enrolled.outbound).await;
        assert!(to.ip().is_loopback(), "the agent can tell, and refuses it: {to}");
    });
}

#[test]
fn invariant_13_a_listener_moves_off_a_port_that_is_declared_later() {
    isolated!(async |world: World| {
        let (steering, pod, enrolled, _) = two(&world, PortMode::Pass).await;
        let wanted = enrolled.outbound.local_addr().unwrap().port();
        drop(enrolled);
        let mut network = pod.network();
        network.avoid_ports = vec![wanted];
        let again = steering.enrol(network).await.unwrap();
        assert_ne!(again.outbound.local_addr().unwrap().port(), wanted);
        let mut app = pod.app();
        app.ok(&format!("l = listen('0.0.0.0', {wanted})"));
        app.dial(SocketAddr::new(VIP4, 80)).unwrap();
        assert_eq!(accept(&again.outbound).await.1, SocketAddr::new(VIP4, 80));
    });
}

#[test]
fn invariant_14_nobody_in_the_pod_can_join_a_listener() {
    isolated!(async |world: World| {
        let (_steering, pod, enrolled, _) = two(&world, PortMode::Pass).await;
        let port = enrolled.outbound.local_addr().unwrap().port();
        let mut app = pod.app();
        for host in ["127.0.0.1", "0.0.0.0", "::ffff:127.0.0.1", "::"] {
            let code = format!(
                "s = socket.socket(socket.AF_INET6 if ':' in '{host}' else socket.AF_INET)\n\
                 if ':' in '{host}': s.setsockopt(41, 26, 0)\n\
                 s.setsockopt(1, socket.SO_REUSEPORT, 1); s.setsockopt(1, socket.SO_REUSEADDR, 1)\n\
                 s.bind(('{host}', {port})); s.listen(5)"
            );
            assert_eq!(app.run(&code), Err(libc::EADDRINUSE), "{host}");
        }
    });
}

#[test]
fn invariant_15_a_pod_reaches_its_own_listeners_only_and_addresses_are_reused() {
    isolated!(async |world: World| {
        let steering = world.steer();
        let (first, second) = (world.pod(1), world.pod(2));
        let (one, two) = (first.enrolled(&steering).await, second.enrolled(&steering).await);
        steering.set_destinations(&[second.v4, second.v6].into()).unwrap();
        let mut app = first.app();
        for to in [second.v4, second.v6] {
            app.dial(SocketAddr::new(to, 80)).unwrap();
            assert_eq!(accept(&one.outbound).await.1.ip(), to, "the pod's own agent side, not the other pod's");
        }
        assert_idle(&two.inbound);
        // The first pod goes; another gets its addresses before the clean-up comes.
        let gone = one.cookie;
        drop((app, one));
        first.ip("addr flush dev eth0");
        let heir = world.pod(3);
        heir.ip(&format!("addr add {}/32 dev eth0", first.v4));
        heir.ip(&format!("addr add {}/128 dev eth0 nodad", first.v6));
        let mut network = heir.network();
        network.addresses = vec![first.v4, first.v6];
        let enrolled = steering.enrol(network).await.unwrap();
        assert_ne!(enrolled.cookie, gone);
        steering.forget(gone).await.unwrap();
        let mut app = heir.app();
        steering.set_destinations(&[VIP4, VIP6].into()).unwrap();
        for (vip, own) in [(VIP4, first.v4), (VIP6, first.v6)] {
            app.dial(SocketAddr::new(vip, 80)).unwrap();
            let (_, _, from) = accept(&enrolled.outbound).await;
            assert_eq!(from.ip(), own, "the heir is steered as before");
        }
    });
}

#[test]
fn invariant_16_a_destroyed_listener_is_reported_and_replaced() {
    isolated!(async |world: World| {
        let (steering, pod, enrolled, other) = two(&world, PortMode::Judge).await;
        let mut events = steering.events().unwrap();
        let port = enrolled.inbound.local_addr().unwrap().port();
        // What `ss -K` does in a container with NET_ADMIN.
        let listeners = diag::listeners(&pod.ns).unwrap();
        let ours = listeners.iter().find(|listener| listener.local.port() == port).unwrap();
        assert!(diag::destroy(&pod.ns, ours).unwrap());
        let error = eventually("accept to fail", || {
            enrolled.inbound.accept().err().filter(|error| error.kind() != ErrorKind::WouldBlock)
        });
        assert_eq!(error.await.raw_os_error(), Some(libc::EINVAL), "for ever: the caller must not spin");
        let mut client = other.app();
        assert_eq!(client.dial(SocketAddr::new(pod.v4, 80)), Err(libc::ECONNREFUSED), "closed, not open");
        let reported = async {
            loop {
                let event = events.next().await.unwrap();
                if event.cookie == enrolled.cookie {
                    return event;
                }
            }
        };
        let event = tokio::time::timeout(SOON, reported).await.unwrap();
        assert_eq!(event.kind(), Some(EventKind::ListenerMissing));
        assert_eq!(event.port, 80);
        assert_eq!(verdict(&steering, "lookup_drop_no_listener"), 1);
        let fresh = steering.recreate_listener(enrolled.cookie, ListenerRole::Inbound).await.unwrap();
        client.dial(SocketAddr::new(pod.v4, 80)).unwrap();
        assert_eq!(accept(&fresh).await.1.port(), 80);
    });
}

#[test]
fn invariant_17_a_forgotten_pod_does_not_keep_its_namespace() {
    isolated!(async |world: World| {
        let (steering, pod, enrolled, _) = two(&world, PortMode::Judge).await;
        let cookie = enrolled.cookie;
        crate::harness::ip(&format!("netns del {}", pod.name));
        let there = || crate::harness::ip("-o link show type veth").contains("v1@");
        assert!(there(), "listeners and handles keep it");
        drop((pod, enrolled));
        steering.forget(cookie).await.unwrap();
        eventually("the namespace to go, and its veth with it", || (!there()).then_some(())).await;
        assert!(matches!(
            steering.set_inbound_modes(cookie, &InboundModes::default()),
            Err(SteerError::UnknownPod { .. })
        ));
    });
}

#[test]
fn one_connection_is_killed_and_its_neighbours_live() {
    isolated!(async |world: World| {
        let (_steering, pod, enrolled, other) = two(&world, PortMode::Judge).await;
        let mut client = other.app();
        client.ok(&format!("a = dial('{0}', 80); b = dial('{0}', 80)", pod.v4));
        let (first, _, first_from) = accept(&enrolled.inbound).await;
        let (second, _, second_from) = accept(&enrolled.inbound).await;
        assert!(first.as_raw_fd() != second.as_raw_fd());
        let killed = diag::destroy_matching(&pod.ns, |connection| connection.remote == first_from).unwrap();
        assert_eq!(killed, 1);
        let error = std::io::Read::read(&mut &first, &mut [0]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ECONNABORTED), "the killed side");
        let own = client.ok("{'a': a.getsockname()[1]}")["a"].as_u64().unwrap() as u16;
        let (dead, alive) = if own == first_from.port() { ("a", "b") } else { ("b", "a") };
        assert_eq!(client.run(&format!("{dead}.recv(1)")), Err(libc::ECONNRESET), "its peer");
        std::io::Write::write_all(&mut &second, b"x").unwrap();
        assert_eq!(client.ok(&format!("{alive}.recv(1).decode()")), "x");
        assert!(diag::connections(&pod.ns).unwrap().iter().any(|connection| connection.remote == second_from));
    });
}
