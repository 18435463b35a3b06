//! Everything that tries to get in by the way past the proxy, or to leave the mesh by it, and does not.

use std::{net::SocketAddr, time::Duration};

use weft_abi::capacity;

use crate::{
    harness::{VIP4, World, accept, eventually, ip, verdict},
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

#[test]
fn attack_a_stale_tuple_is_worth_nothing() {
    isolated!(async |world: World| {
        let pair = Pair::new(&world).await;
        let attacker = world.pod(3);
        let (mut app, mut server, mut raw) = (pair.client.app(), pair.server.app(), forger(&attacker));
        server.ok("l = listen('::', 80)");
        // However a socket ends, what attested it ends too: by FIN and by RST, by AF_UNSPEC, by a kill.
        let from = pair.client.v4;
        let open = |port: u16| {
            format!(
                "s = socket.socket(); s.setsockopt(1, 2, 1); s.bind(('{from}', {port})); s.settimeout(5); s.connect(('{VIP4}', 80))"
            )
        };
        let mut victims = vec![app];
        for (port, end) in [
            (40_001, "s.shutdown(1); s.close()"),
            (40_002, "s.setsockopt(1, 13, struct.pack('ii', 1, 0)); s.close()"),
            (40_003, "disconnect(s)"),
            (40_004, "0"),
        ] {
            app = victims.pop().unwrap_or_else(|| pair.client.app());
            app.ok(&open(port));
            app.ok(end);
            server.ok("c, a = l.accept(); c.close()");
            if port != 40_004 {
                victims.push(app);
            } else {
                drop(app);
            }
            eventually("the entry to go", || pair.steering.attested().unwrap().is_empty().then_some(())).await;
            let before = (pair.direct(), verdict(&pair.steering, "lookup_assign_plaintext"));
            raw.ok(&format!("forge('{from}', '{}', {port}, 80)", pair.server.v4));
            eventually("the forged SYN to arrive", || {
                (verdict(&pair.steering, "lookup_assign_plaintext") > before.1).then_some(())
            })
            .await;
            assert_eq!(pair.direct(), before.0, "port {port}: a forged SYN was believed");
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
        let from = pair.client.v4;
        app.ok(&format!("s = socket.socket(); s.bind(('{from}', 40001)); s.connect(('{VIP4}', 80))"));
        // The server's socket is gone and the client's is not: nothing at the server knows the tuple any more.
        server.ok("c, a = l.accept(); c.setsockopt(1, 13, struct.pack('ii', 1, 0)); disconnect(c)");
        let before = pair.direct();
        tokio::time::sleep(Duration::from_nanos(weft_abi::Attested::ACK_NS + 200_000_000)).await;
        raw.ok(&format!("forge('{from}', '{}', 40001, 80)", pair.server.v4));
        // And one for another port, which was never attested: it marks that the first has arrived.
        let mark = verdict(&pair.steering, "lookup_assign_plaintext");
        raw.ok(&format!("forge('{from}', '{}', 40009, 80)", pair.server.v4));
        eventually("the second to arrive", || {
            (verdict(&pair.steering, "lookup_assign_plaintext") > mark).then_some(())
        })
        .await;
        assert_eq!(pair.direct(), before, "a forged SYN was believed");
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

#[test]
fn attack_a_flood_of_half_open_connections_evicts_nobody() {
    isolated!(async |world: World| {
        let pair = Pair::new(&world).await;
        let (mut flooder, mut other, mut server) = (pair.client.app(), pair.server.app(), pair.server.app());
        server.ok("l = listen('::', 80)");
        // The second pod's own connection to itself by the VIP is attested first, and must stay so.
        other.dial(SocketAddr::new(VIP4, 80)).unwrap();
        let cap = u64::from(u32::try_from(capacity::ATTESTED_PER_POD).unwrap());
        pair.server.ip("link set eth0 down");
        flooder.ok(&format!(
            "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (20000, 20000))\nall = []\n\
             for i in range({}):\n  s = socket.socket()\n  s.setblocking(False)\n  s.connect_ex(('{VIP4}', 80))\n  all.append(s)",
            cap + 300
        ));
        let mine = pair.steering.attested().unwrap();
        let of = |cookie: u64| mine.iter().filter(|(_, attested)| attested.source == cookie).count() as u64;
        assert_eq!(of(pair.one.cookie), cap, "a pod has its share and no more");
        assert_eq!(of(pair.two.cookie), 1, "another's entry was evicted");
        assert_eq!(verdict(&pair.steering, "connect_steer"), 300, "beyond it, connections go through the proxy");
        drop(flooder);
        eventually("the entries to go with their sockets", || {
            (pair.steering.attested().unwrap().len() <= 1).then_some(())
        })
        .await;
    });
}

#[test]
fn attack_a_foreign_listener_at_the_same_address_is_not_reached_nor_believed() {
    isolated!(async |world: World| {
        let pair = Pair::new(&world).await;
        let thief = world.pod(3);
        let enrolled = thief.enrolled(&pair.steering).await;
        // The thief takes the server's address and listens there.
        thief.ip(&format!("addr add {}/32 dev lo", pair.server.v4));
        let (mut app, mut server, mut stolen) = (pair.client.app(), pair.server.app(), thief.app());
        stolen.ok("l = listen('0.0.0.0', 80); l.settimeout(0)");
        server.ok("l = listen('::', 80)");
        app.dial(SocketAddr::new(VIP4, 80)).unwrap();
        server.ok("c, a = l.accept()");
        assert_eq!(stolen.run("l.accept()"), Err(libc::EAGAIN), "the thief was reached");
        // Enrolled in the server's name, with its own cookie: entries meant for the server say nothing there.
        drop(enrolled);
        let mut network = thief.network();
        network.addresses = vec![pair.server.v4];
        let heir = pair.steering.enrol(network).await.unwrap();
        ip(&format!("route replace {}/32 dev v3", pair.server.v4));
        let before = verdict(&pair.steering, "lookup_same_node");
        app.ok(&format!("s.close(); t = socket.socket(); t.setblocking(False); t.connect_ex(('{VIP4}', 80))"));
        accept(&heir.inbound).await;
        assert_eq!(verdict(&pair.steering, "lookup_same_node"), before, "an entry for another pod was believed");
    });
}
