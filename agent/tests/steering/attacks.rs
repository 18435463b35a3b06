//! Everything that tries to get in by the way past the proxy, or to leave the mesh by it, and does not.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use aya::maps::{HashMap, Map, MapData};
use weft_abi::capacity;

use crate::{
    harness::{TestPod, World, accept, eventually, ip, verdict},
    pair::{Pair, VIPS, forger},
};

#[test]
fn escape_by_binding_to_a_device_is_refused() {
    isolated!(async |world: World| {
        let pair = Pair::new(&world).await;
        let (mut app, mut server) = (pair.client.app(), pair.server.app());
        server.ok("l = listen('::', 80)");
        for vip in VIPS {
            let code = format!("s = dial('{vip}', 80, set=[(1, 25, b'eth0\\0')])");
            assert_eq!(app.run(&code), Err(libc::EPERM));
        }
        assert_eq!(pair.direct(), (0, 0));
        assert_eq!(verdict(&pair.steering, "connect_refuse_bound_device"), 2);
    });
}

/// The SYN found the agent's queue full, and the application sends the next one elsewhere.
#[test]
fn escape_by_binding_to_a_device_after_the_connect_gets_nowhere() {
    isolated!(async |world: World| {
        let steering = world.steer();
        let (pod, other) = (world.pod(1), world.pod(2));
        // The shortest queue there can be, so that a few connections fill it.
        pod.sysctl("net.core.somaxconn", "8");
        let _enrolled = pod.enrolled(&steering).await;
        steering.set_destinations(&[other.v4, other.v6].into()).unwrap();
        let (mut app, mut server) = (pod.app(), other.app());
        server.ok("l = listen('::', 80); l.settimeout(0.2)");
        for (to, family) in [(other.v4, "AF_INET"), (other.v6, "AF_INET6")] {
            app.ok(&format!(
                "all = []\nfor i in range(40):\n  s = socket.socket(socket.{family})\n  s.setblocking(False)\n  \
                 s.connect_ex(('{to}', 80))\n  all.append(s)"
            ));
            let waiting = "s = [s for s in all if s.getsockopt(6, 11, 1)[0] == 2][-1]";
            app.ok(&format!("{waiting}\ns.setsockopt(1, socket.SO_BINDTODEVICE, b'eth0\\0')"));
            eventually("the SYN to be tried again", || {
                let info = app.ok("[b for b in s.getsockopt(6, 11, 3)]");
                (info[0] != 2 || info[2] != 0).then_some(())
            })
            .await;
            assert_eq!(
                server.run("l.accept()[1][0]"),
                Err(libc::ETIMEDOUT),
                "{to}: the server was reached past the mesh"
            );
            app.ok("for s in all: s.close()");
        }
    });
}

/// A client's socket at an address and port of its own choice, connected to the service as `name`.
fn bound(name: &str, from: IpAddr, port: u16, vip: IpAddr) -> String {
    let family = if from.is_ipv4() { "AF_INET" } else { "AF_INET6" };
    format!(
        "{name} = socket.socket(socket.{family}); {name}.setsockopt(1, 2, 1); {name}.bind(('{from}', {port})); \
         {name}.settimeout(5); {name}.connect(('{vip}', 80))"
    )
}

#[test]
fn attack_a_stale_tuple_is_worth_nothing() {
    isolated!(async |world: World| {
        let pair = Pair::new(&world).await;
        let attacker = world.pod(3);
        let (mut server, mut raw) = (pair.server.app(), forger(&attacker));
        server.ok("l = listen('::', 80)");
        // However a socket ends, what attested it ends too: by FIN and by RST, by AF_UNSPEC, by a kill.
        let ends = [
            (40_001, "s.shutdown(1); s.close()"),
            (40_002, "s.setsockopt(1, 13, struct.pack('ii', 1, 0)); s.close()"),
            (40_003, "disconnect(s)"),
            (40_004, "os.kill(os.getpid(), 9)"),
        ];
        for (from, to, vip) in pair.families() {
            for (port, end) in ends {
                let mut app = pair.client.app();
                app.ok(&bound("s", from, port, vip));
                app.last(end);
                server.ok("c, a = l.accept(); c.close()");
                eventually("the entry to go", || pair.steering.attested().unwrap().is_empty().then_some(())).await;
                let before = (pair.direct(), verdict(&pair.steering, "lookup_assign_plaintext"));
                raw.ok(&format!("forge('{from}', '{to}', {port}, 80)"));
                eventually("the forged SYN to arrive", || {
                    (verdict(&pair.steering, "lookup_assign_plaintext") > before.1).then_some(())
                })
                .await;
                assert_eq!(pair.direct(), before.0, "{from}:{port}: a forged SYN was believed");
            }
        }
    });
}

#[test]
fn attack_the_tuple_of_a_live_connection_is_believed_by_nobody_else() {
    isolated!(async |world: World| {
        let pair = Pair::new(&world).await;
        let attacker = world.pod(3);
        let (mut app, mut server, mut raw) = (pair.client.app(), pair.server.app(), forger(&attacker));
        server.ok("l = listen('::', 80)");
        for (name, (from, _, vip)) in ["a", "b"].into_iter().zip(pair.families()) {
            app.ok(&bound(name, from, 40_001, vip));
            // The server's socket is gone and the client's is not: nothing at the server knows the tuple any more.
            server.ok("c, a = l.accept(); c.setsockopt(1, 13, struct.pack('ii', 1, 0)); disconnect(c)");
        }
        let before = pair.direct();
        tokio::time::sleep(Duration::from_nanos(weft_abi::Attested::ACK_NS + 200_000_000)).await;
        for (from, to, _) in pair.families() {
            raw.ok(&format!("forge('{from}', '{to}', 40001, 80)"));
            // And one for another port, which was never attested: it marks that the first has arrived.
            let mark = verdict(&pair.steering, "lookup_assign_plaintext");
            raw.ok(&format!("forge('{from}', '{to}', 40009, 80)"));
            eventually("the second to arrive", || {
                (verdict(&pair.steering, "lookup_assign_plaintext") > mark).then_some(())
            })
            .await;
            assert_eq!(pair.direct(), before, "a forged SYN from {from} was believed");
        }
    });
}

#[test]
fn attack_the_place_of_a_live_connection_is_taken_by_nobody() {
    const TRANSPARENT: [&str; 2] = ["0, 19", "41, 75"];
    isolated!(async |world: World| {
        let mut pair = Pair::new(&world).await;
        // A pod of the mesh that goes directly too, and may bind to any address.
        let attacker = world.pod(3);
        let enrolled = attacker.enrolled(&pair.steering).await;
        pair.plan.sources.insert(enrolled.cookie, 2);
        pair.steering.set_same_node(&pair.plan, true).unwrap();
        let (mut app, mut server, mut thief) = (pair.client.app(), pair.server.app(), attacker.app());
        server.ok("l = listen('::', 80)");
        let victims = [(pair.client.v4, "AF_INET"), (pair.client.v6, "AF_INET6")];
        for ((from, family), vip) in victims.iter().zip(VIPS) {
            app.ok(&format!(
                "s_{family} = socket.socket(socket.{family}); s_{family}.bind(('{from}', 40001)); s_{family}.connect(('{vip}', 80))"
            ));
        }
        let before = pair.steering.attested().unwrap();
        assert_eq!(before.len(), 2);
        for (((from, family), vip), transparent) in victims.iter().zip(VIPS).zip(TRANSPARENT) {
            let direct = pair.direct().0;
            thief.ok(&format!(
                "t = socket.socket(socket.{family}); t.setsockopt({transparent}, 1); t.setblocking(False); \
                 t.bind(('{from}', 40001)); t.connect_ex(('{vip}', 80))"
            ));
            assert_eq!(pair.direct().0, direct + 1, "the attack went another way");
            let after = |when: &str| {
                let mut now = pair.steering.attested().unwrap();
                now.sort_unstable_by_key(|(tuple, _)| before.iter().position(|(known, _)| known == tuple));
                assert_eq!(now, before, "{when}");
            };
            after("another's connection was overwritten");
            thief.ok("t.close()");
            after("another's connection was forgotten");
        }
        drop((app, server));
        eventually("the entries to go with their sockets", || {
            pair.steering.attested().unwrap().is_empty().then_some(())
        })
        .await;
        assert!(!pair.steering.has_flows(0), "entries are counted that are gone");
    });
}

/// Has the server's frames go nowhere, and nobody be told: what connects to it stays half open.
fn silence(server: &TestPod) {
    for address in [server.v4, server.v6] {
        ip(&format!("neigh replace {address} lladdr 02:00:00:00:00:99 dev v2 nud permanent"));
    }
}

/// Begins so many connections at once.
fn flood(count: u64, vip: IpAddr) -> String {
    let family = if vip.is_ipv4() { "AF_INET" } else { "AF_INET6" };
    format!(
        "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (20000, 20000))\nall = []\n\
         for i in range({count}):\n  s = socket.socket(socket.{family})\n  s.setblocking(False)\n  \
         s.connect_ex(('{vip}', 80))\n  all.append(s)"
    )
}

#[test]
fn attack_a_flood_of_half_open_connections_evicts_nobody() {
    isolated!(async |world: World| {
        let pair = Pair::new(&world).await;
        let (mut other, mut server) = (pair.server.app(), pair.server.app());
        server.ok("l = listen('::', 80)");
        // The second pod's own connections to itself by the VIPs are attested first, and must stay so.
        for (name, vip) in ["a", "b"].into_iter().zip(VIPS) {
            other.ok(&format!("{name} = dial('{vip}', 80)"));
        }
        silence(&pair.server);
        for vip in VIPS {
            let steered = verdict(&pair.steering, "connect_steer");
            let mut flooder = pair.client.app();
            flooder.ok(&flood(capacity::ATTESTED_PER_POD + 300, vip));
            let all = pair.steering.attested().unwrap();
            let of = |cookie: u64| all.iter().filter(|(_, attested)| attested.source == cookie).count() as u64;
            assert_eq!(of(pair.one.cookie), capacity::ATTESTED_PER_POD, "{vip}: a pod has its share and no more");
            assert_eq!(of(pair.two.cookie), 2, "{vip}: another's entry was evicted");
            let steered = verdict(&pair.steering, "connect_steer") - steered;
            assert_eq!(steered, 300, "{vip}: beyond it, connections go through the proxy");
            drop(flooder);
            eventually("the entries to go with their sockets", || {
                (pair.steering.attested().unwrap().len() == 2).then_some(())
            })
            .await;
        }
    });
}

#[test]
fn attack_of_many_pods_together_leaves_the_map_room() {
    const LEFT: u64 = 40;
    isolated!(async |world: World| {
        let pair = Pair::new(&world).await;
        let (mut other, mut server) = (pair.server.app(), pair.server.app());
        server.ok("l = listen('::', 80)");
        silence(&pair.server);
        // As if sixteen other pods had nearly used it up: cookie 0 counts all.
        let counts = MapData::from_pin(world.map(weft_abi::map::FLOW_COUNTS)).unwrap();
        let mut counts: HashMap<_, u64, u64> = Map::HashMap(counts).try_into().unwrap();
        counts.insert(0, capacity::ATTESTED_IN_ALL - LEFT, 0).unwrap();
        for vip in VIPS {
            let before = (pair.direct().0, verdict(&pair.steering, "connect_steer"));
            let mut flooder = pair.client.app();
            flooder.ok(&flood(LEFT + 10, vip));
            let after = (pair.direct().0, verdict(&pair.steering, "connect_steer"));
            assert_eq!(after.0 - before.0, LEFT, "{vip}: what the node has left");
            assert_eq!(after.1 - before.1, 10, "{vip}: beyond it, connections go through the proxy");
            assert_eq!(pair.steering.attested().unwrap().len() as u64, LEFT, "{vip}");
            // So do those of a pod that has none, and it is not refused.
            other.dial(SocketAddr::new(vip, 80)).unwrap();
            accept(&pair.two.outbound).await;
            drop(flooder);
            eventually("the entries to go with their sockets", || {
                (counts.get(&0, 0).unwrap() == capacity::ATTESTED_IN_ALL - LEFT).then_some(())
            })
            .await;
        }
    });
}

#[test]
fn attack_a_foreign_listener_at_the_same_address_is_not_reached_nor_believed() {
    isolated!(async |world: World| {
        let pair = Pair::new(&world).await;
        let thief = world.pod(3);
        let enrolled = thief.enrolled(&pair.steering).await;
        // The thief takes the server's addresses and listens there.
        thief.ip(&format!("addr add {}/32 dev lo", pair.server.v4));
        thief.ip(&format!("addr add {}/128 dev lo nodad", pair.server.v6));
        let (mut app, mut server, mut stolen) = (pair.client.app(), pair.server.app(), thief.app());
        stolen.ok("l = listen('::', 80); l.settimeout(0)");
        server.ok("l = listen('::', 80)");
        for vip in VIPS {
            app.dial(SocketAddr::new(vip, 80)).unwrap();
            server.ok("c, a = l.accept()");
            assert_eq!(stolen.run("l.accept()"), Err(libc::EAGAIN), "{vip}: the thief was reached");
        }
        // Enrolled in the server's name, with its own cookie: entries meant for the server say nothing there.
        drop(enrolled);
        let mut network = thief.network();
        network.addresses = vec![pair.server.v4, pair.server.v6];
        let heir = pair.steering.enrol(network).await.unwrap();
        ip(&format!("route replace {} via {} dev v3", pair.server.v4, thief.v4));
        ip(&format!("-6 route replace {} via {} dev v3", pair.server.v6, thief.v6));
        let before = pair.direct();
        for (family, vip) in ["AF_INET", "AF_INET6"].into_iter().zip(VIPS) {
            app.ok(&format!(
                "s.close(); s = socket.socket(socket.{family}); s.setblocking(False); s.connect_ex(('{vip}', 80))"
            ));
            accept(&heir.inbound).await;
        }
        assert_eq!(pair.direct(), (before.0 + 2, before.1), "an entry for another pod was believed");
    });
}
