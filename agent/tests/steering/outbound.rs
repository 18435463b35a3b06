//! Connects of enrolled pods.

use std::{
    net::{IpAddr, SocketAddr, TcpListener},
    time::{Duration, Instant},
};

use aya::maps::{Map, MapData, SockHash};
use nix::sys::socket::{getsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};
use weft::sys::{dial, socket::netns_cookie};
use weft_abi::{ListenerKey, ListenerRole, Marks};

use crate::harness::{VIP4, VIP6, World, accept, assert_idle, verdict};

fn at(ip: IpAddr) -> SocketAddr {
    SocketAddr::new(ip, 80)
}

/// Puts any socket into a pod's outbound slot, as only the agent can.
fn set_slot(world: &World, cookie: u64, listener: &TcpListener) {
    let data = MapData::from_pin(world.map(weft_abi::map::LISTENERS)).unwrap();
    let mut slots: SockHash<_, ListenerKey> = Map::SockHash(data).try_into().unwrap();
    slots
        .insert(
            ListenerKey { cookie, role: ListenerRole::Outbound as u64 },
            std::os::fd::AsRawFd::as_raw_fd(listener),
            0,
        )
        .unwrap();
}

fn listener(transparent: bool) -> TcpListener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
    socket.set_ip_transparent_v4(transparent).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(16).unwrap();
    socket.into()
}

#[test]
fn steered_connections_keep_their_true_addresses_v4_and_v6() {
    isolated!(async |world: World| {
        let steering = world.steer();
        let pod = world.pod(1);
        let enrolled = pod.enrolled(&steering).await;
        let mut app = pod.app();
        for vip in [VIP4, VIP6] {
            app.dial(at(vip)).unwrap();
            let (_, to, from) = accept(&enrolled.outbound).await;
            assert_eq!(to, at(vip), "the agent sees what the application dialled");
            assert_eq!(from.ip(), pod.address(vip), "and which pod dialled it");
            assert_eq!(app.peer(), at(vip), "and the application sees what it dialled");
        }
        assert_eq!(verdict(&steering, "connect_steer"), 2);
        assert_eq!(verdict(&steering, "lookup_assign_outbound"), 2);
        assert_idle(&enrolled.inbound);
    });
}

#[test]
fn what_is_not_the_meshs_is_left_alone() {
    isolated!(async |world: World| {
        let steering = world.steer();
        let (pod, other) = (world.pod(1), world.pod(2));
        let enrolled = pod.enrolled(&steering).await;
        let mut server = other.app();
        server.ok("l4 = listen('0.0.0.0', 80); l6 = listen('::', 81)");
        let mut app = pod.app();
        app.dial(SocketAddr::new(other.v4, 80)).unwrap();
        app.dial(SocketAddr::new(other.v6, 81)).unwrap();
        assert_eq!(verdict(&steering, "connect_unknown_destination"), 2);
        app.ok("own4 = listen('0.0.0.0', 8080); own6 = listen('::', 8081)");
        for (to, port) in
            [(pod.v4, 8080), (pod.v6, 8081), ([127, 0, 0, 1].into(), 8080), ("::1".parse().unwrap(), 8081)]
        {
            app.dial(SocketAddr::new(to, port)).unwrap();
        }
        assert_eq!(verdict(&steering, "connect_own_address"), 2);
        assert_eq!(verdict(&steering, "connect_local"), 2);
        assert_eq!(verdict(&steering, "connect_steer"), 0);
        assert_idle(&enrolled.outbound);
        assert_idle(&enrolled.inbound);
    });
}

#[test]
fn invariant_01_local_route_needs_src() {
    isolated!(async |world: World| {
        let steering = world.steer();
        let pod = world.pod(1);
        let enrolled = pod.enrolled(&steering).await;
        let mut app = pod.app();
        let route = pod.ip("route show table 15008");
        assert!(route.contains(&format!("src {}", pod.v4)), "{route}");
        pod.ip("route flush table 15008");
        pod.ip("route add local default dev lo table 15008");
        assert_eq!(app.dial(at(VIP4)), Err(libc::ENETUNREACH), "source and destination would be the same");
        assert_idle(&enrolled.outbound);
    });
}

#[test]
fn invariant_02_listeners_are_transparent() {
    isolated!(async |world: World| {
        let steering = world.steer();
        let pod = world.pod(1);
        let enrolled = pod.enrolled(&steering).await;
        for listener in [&enrolled.outbound, &enrolled.inbound] {
            assert!(getsockopt(listener, sockopt::IpTransparent).unwrap());
        }
        let opaque = pod.ns.run(|| listener(false)).unwrap();
        set_slot(&world, enrolled.cookie, &opaque);
        let mut app = pod.app();
        let dialled = app.run(&format!("s = dial('{VIP4}', 80, timeout=0.5)"));
        assert_eq!(dialled, Err(libc::ETIMEDOUT), "without it nobody answers the SYN");
    });
}

#[test]
fn invariant_03_listeners_live_in_the_pods_namespace() {
    isolated!(async |world: World| {
        let steering = world.steer();
        let pod = world.pod(1);
        let enrolled = pod.enrolled(&steering).await;
        for listener in [&enrolled.outbound, &enrolled.inbound] {
            assert_eq!(netns_cookie(std::os::fd::AsFd::as_fd(listener)).unwrap(), pod.ns.cookie());
        }
        // On the node, not in the pod.
        let foreign = listener(true);
        set_slot(&world, enrolled.cookie, &foreign);
        let mut app = pod.app();
        app.dial(at(VIP4)).expect_err("a listener elsewhere cannot complete the handshake");
    });
}

#[test]
fn invariant_04_marks_of_the_mesh_come_and_go_and_the_applications_stay() {
    isolated!(async |world: World| {
        let steering = world.steer();
        let (pod, other) = (world.pod(1), world.pod(2));
        pod.enrolled(&steering).await;
        let mut server = other.app();
        server.ok("l = listen('0.0.0.0', 80)");
        let mut app = pod.app();
        app.ok(&format!("s = dial('{VIP4}', 80, set=[(1, SO_MARK, 0x40)])"));
        assert_eq!(app.ok("mark(s)"), 0x40 | Marks::STEERED, "the application's bits beside ours");
        app.ok("disconnect(s)");
        assert_eq!(app.ok("mark(s)"), 0x40 | Marks::STEERED, "the kernel does not forget a mark");
        app.ok(&format!("s.connect(('{}', 80))", other.v4));
        assert_eq!(app.ok("mark(s)"), 0x40, "so we do, and reach the destination unsteered");
        app.ok(&format!("s = dial('{}', 80, set=[(1, SO_MARK, 0x40)])", other.v4));
        assert_eq!(app.ok("mark(s)"), 0x40);
    });
}

#[test]
fn invariant_05_sockets_bound_to_a_device_do_not_slip_out() {
    isolated!(async |world: World| {
        let steering = world.steer();
        let (pod, other) = (world.pod(1), world.pod(2));
        let enrolled = pod.enrolled(&steering).await;
        let mut server = other.app();
        server.ok("l = listen('0.0.0.0', 80)");
        let mut app = pod.app();
        let device = "(1, socket.SO_BINDTODEVICE, b'eth0')";
        let index = "(1, 62, socket.if_nametoindex('eth0'))";
        for bound in [device, index] {
            for vip in [VIP4, VIP6] {
                assert_eq!(app.run(&format!("dial('{vip}', 80, set=[{bound}])")), Err(libc::EPERM));
            }
            app.ok(&format!("s = dial('{}', 80, set=[{bound}])", other.v4));
        }
        assert_eq!(verdict(&steering, "connect_refuse_bound_device"), 4);
        // Bound to lo it can go nowhere, so it is none of our business.
        app.run(&format!("dial('{VIP4}', 80, set=[(1, socket.SO_BINDTODEVICE, b'lo')])")).unwrap_err();
        assert_eq!(verdict(&steering, "connect_local"), 1);
        assert_idle(&enrolled.outbound);
    });
}

#[test]
fn invariant_06_the_agent_is_exempt_by_its_cgroup_and_nobody_by_a_mark() {
    isolated!(async |world: World| {
        let steering = world.steer();
        let (pod, other) = (world.pod(1), world.pod(2));
        let enrolled = pod.enrolled(&steering).await;
        steering.set_destinations(&[VIP4, other.v4, other.v6].into()).unwrap();
        let mut server = other.app();
        server.ok("l = listen('::', 80)");
        for (source, to) in [(pod.v4, other.v4), (pod.v6, other.v6)] {
            let stream = dial::tunnel(&pod.ns, source, at(to), Duration::from_secs(5)).await.unwrap();
            assert_eq!(stream.local_addr().unwrap().ip(), source);
        }
        assert_eq!(verdict(&steering, "connect_agent"), 2);
        assert_idle(&enrolled.outbound);
        let mut app = pod.app();
        for mark in [Marks::STEERED, 0x2000, Marks::MASK] {
            app.ok(&format!("s = dial('{}', 80, set=[(1, SO_MARK, {mark})])", other.v4));
            assert_eq!(accept(&enrolled.outbound).await.1, at(other.v4), "mark {mark:#x}");
        }
    });
}

#[test]
fn invariant_07_reverse_path_filters_do_not_break_steering() {
    isolated!(async |world: World| {
        let steering = world.steer();
        let pod = world.pod(1);
        for (key, value) in [
            ("net.ipv4.conf.all.rp_filter", "1"),
            ("net.ipv4.conf.lo.rp_filter", "1"),
            ("net.ipv4.conf.eth0.rp_filter", "1"),
            ("net.ipv4.conf.all.src_valid_mark", "1"),
            ("net.ipv4.conf.all.route_localnet", "0"),
        ] {
            pod.sysctl(key, value);
        }
        let enrolled = pod.enrolled(&steering).await;
        let mut app = pod.app();
        app.dial(at(VIP4)).unwrap();
        assert_eq!(accept(&enrolled.outbound).await.1, at(VIP4));
    });
}

#[test]
fn invariant_25_mptcp_fast_open_syncookies_and_mapped_addresses_are_steered() {
    isolated!(async |world: World| {
        let steering = world.steer();
        let pod = world.pod(1);
        pod.sysctl("net.ipv4.tcp_syncookies", "2");
        pod.sysctl("net.ipv4.tcp_fastopen", "3");
        pod.sysctl("net.mptcp.enabled", "1");
        let enrolled = pod.enrolled(&steering).await;
        let mut app = pod.app();
        let fast_open = format!("s = socket.socket(); s.sendto(b'hello', socket.MSG_FASTOPEN, ('{VIP4}', 80))");
        for code in
            [format!("s = dial('{VIP4}', 80, protocol=262)"), format!("s = dial('::ffff:{VIP4}', 80)"), fast_open]
        {
            app.ok(&code);
            assert_eq!(accept(&enrolled.outbound).await.1, at(VIP4), "{code}");
        }
        assert_eq!(verdict(&steering, "connect_steer"), 3);
    });
}

#[test]
fn invariant_26_established_traffic_pays_nothing() {
    isolated!(async |world: World| {
        use std::io::{Read as _, Write as _};
        let steering = world.steer();
        let pod = world.pod(1);
        let enrolled = pod.enrolled(&steering).await;
        let mut app = pod.app();
        app.dial(at(VIP4)).unwrap();
        let (mut stream, ..) = accept(&enrolled.outbound).await;
        let before = steering.verdicts().unwrap();
        for _ in 0..200 {
            app.ok("s.sendall(b'ping')");
            let mut bytes = [0; 4];
            stream.read_exact(&mut bytes).unwrap();
            stream.write_all(b"pong").unwrap();
            assert_eq!(app.ok("s.recv(4).decode()"), "pong");
        }
        assert_eq!(steering.verdicts().unwrap(), before, "no program ran for 400 segments");
    });
}

#[test]
fn invariant_27_udp_is_left_alone() {
    isolated!(async |world: World| {
        let steering = world.steer();
        let (pod, other) = (world.pod(1), world.pod(2));
        pod.enrolled(&steering).await;
        steering.set_destinations(&[other.v4].into()).unwrap();
        let mut server = other.app();
        server.ok("u = socket.socket(type=socket.SOCK_DGRAM); u.bind(('0.0.0.0', 53)); u.settimeout(5)");
        let mut app = pod.app();
        app.ok(&format!(
            "u = socket.socket(type=socket.SOCK_DGRAM); u.connect(('{0}', 53)); u.send(b'one'); \
             v = socket.socket(type=socket.SOCK_DGRAM); v.sendto(b'two', ('{0}', 53))",
            other.v4
        ));
        assert_eq!(app.ok("[mark(u), mark(v)]"), serde_json::json!([0, 0]));
        assert_eq!(server.ok("sorted(u.recv(9).decode() for _ in range(2))"), serde_json::json!(["one", "two"]));
        assert_eq!(verdict(&steering, "connect_steer"), 0);
    });
}

#[test]
fn a_map_that_is_full_fails_closed_and_heals() {
    isolated!(async |world: World| {
        let mut config = world.config();
        config.destinations = 4;
        let steering = weft::steer::Steering::open(config).unwrap();
        let (pod, other) = (world.pod(1), world.pod(2));
        let enrolled = pod.enrolled(&steering).await;
        let mut server = other.app();
        server.ok("l = listen('0.0.0.0', 80)");
        let many = (1..=9).map(|last| IpAddr::from([10, 96, 1, last])).collect();
        steering.set_destinations(&many).unwrap();
        let mut app = pod.app();
        app.dial(at(other.v4)).unwrap();
        assert_eq!(accept(&enrolled.outbound).await.1, at(other.v4), "captured, so that the agent may decide");
        steering.set_destinations(&[VIP4].into()).unwrap();
        app.dial(at(other.v4)).unwrap();
        assert_idle(&enrolled.outbound);
    });
}

#[test]
fn a_steered_connect_is_answered_at_once() {
    isolated!(async |world: World| {
        let steering = world.steer();
        let pod = world.pod(1);
        let _enrolled = pod.enrolled(&steering).await;
        let mut app = pod.app();
        let started = Instant::now();
        app.ok(&format!("all = [dial('{VIP4}', 80) for _ in range(200)]; len(all)"));
        assert!(started.elapsed() < Duration::from_secs(2), "200 connects took {:?}", started.elapsed());
    });
}

#[test]
fn invariant_30_a_connect_costs_the_same_however_many_destinations_there_are() {
    isolated!(async |world: World| {
        let mut config = world.config();
        config.destinations = 65_536;
        let steering = weft::steer::Steering::open(config).unwrap();
        let (pod, plain, other) = (world.pod(1), world.pod(2), world.pod(3));
        pod.enrolled(&steering).await;
        steering.classify(plain.ns.cookie()).unwrap();
        // Nobody listens there: the connect costs a reset, and the hook what it always does.
        let (mut enrolled, mut bystander) = (pod.app(), plain.app());
        let connects = format!("[socket.socket().connect_ex(('{}', 80)) for _ in range(500)]; 1", other.v4);
        let _statistics = aya::sys::enable_stats(aya::sys::Stats::RunTime).unwrap();
        let few = run_time(&world, || drop((enrolled.ok(&connects), bystander.ok(&connects))));
        let many = (0..50_000_u32).map(|number| IpAddr::from((0x0b00_0000 + number).to_be_bytes())).collect();
        steering.set_destinations(&many).unwrap();
        let with_many = run_time(&world, || drop((enrolled.ok(&connects), bystander.ok(&connects))));
        eprintln!("connect hook: {few:?} with no destination, {with_many:?} with 50,000");
        assert!(with_many < few * 4 + Duration::from_nanos(500), "{few:?} became {with_many:?}");
        assert!(with_many < Duration::from_micros(20), "{with_many:?} for one connect");
    });
}

/// Mean time of the IPv4 connect hook over what `work` does.
fn run_time(world: &World, work: impl FnOnce()) -> Duration {
    let hook = || {
        let programs = aya::programs::loaded_programs().flatten();
        let ours = programs.filter(|program| program.name_as_str() == Some(weft_abi::program::CONNECT4));
        // Other tests load the same program; ours is the one over our maps.
        let map = MapData::from_pin(world.map(weft_abi::map::PODS)).unwrap().info().unwrap().id();
        let mut ours = ours.filter(|program| program.map_ids().unwrap().is_some_and(|maps| maps.contains(&map)));
        let hook = ours.next().expect("the hook is loaded");
        (hook.run_time(), hook.run_count())
    };
    let (time, count) = hook();
    work();
    let (time_after, count_after) = hook();
    (time_after - time) / u32::try_from(count_after - count).unwrap()
}
