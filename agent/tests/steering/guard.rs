//! The guard on pods' links: nobody sends in an enrolled pod's name, whether pods have a link each or share a bridge.

use std::{net::SocketAddr, time::Duration};

use weft::steer::Guarded;

use crate::{
    harness::{World, eventually, ip, verdict},
    pair::{Pair, VIPS, forger, guards_on},
};

#[test]
fn attack_in_the_name_of_another_is_stopped_by_the_guard() {
    isolated!(async |world: World| {
        let pair = Pair::new(&world).await;
        let attacker = world.pod(3);
        let mut raw = forger(&attacker);
        let (client, server) = (pair.client.v4, pair.server.v4);
        let arrived = || verdict(&pair.steering, "lookup_assign_plaintext");
        // Unguarded, a forged SYN arrives: the test can fail.
        for (client, server, _) in pair.families() {
            let before = arrived();
            raw.ok(&format!("forge('{client}', '{server}', 41000, 80)"));
            eventually("the forged SYN to arrive", || (arrived() > before).then_some(())).await;
        }
        assert_eq!(pair.steering.guard(&pair.guarded(&[&attacker])).await.unwrap(), Guarded::default());
        let sources = || verdict(&pair.steering, "guard_drop_source");
        let neighbours = || verdict(&pair.steering, "guard_drop_neighbour");
        let routers = || verdict(&pair.steering, "guard_drop_router");
        let before = arrived();
        for (client, server, _) in pair.families() {
            for (what, code) in [
                ("a SYN", format!("forge('{client}', '{server}', 41001, 80)")),
                ("a SYN-ACK in a frame", format!("framed(syn('{server}', '{client}', 80, 40001, 18))")),
                (
                    "the same in a tag",
                    format!("framed(syn('{server}', '{client}', 80, 40001, 18), tags=b'\\x81\\0\\0\\x05')"),
                ),
            ] {
                let dropped = sources();
                raw.ok(&code);
                eventually(&format!("{what} from {server} to be dropped"), || (sources() > dropped).then_some(()))
                    .await;
            }
        }
        for (what, code, counter) in [
            (
                "an echo request",
                format!("frame(0x86dd, icmp6('{}', '{}', b'\\x80' + b'\\0' * 7))", pair.server.v6, pair.client.v6),
                &sources as &dyn Fn() -> u64,
            ),
            (
                "an ARP answer",
                format!(
                    "frame(0x806, struct.pack('!HHBBH', 1, 0x800, 6, 4, 2) + own + socket.inet_aton('{server}') + own + socket.inet_aton('{client}'))"
                ),
                &neighbours,
            ),
            (
                "a neighbour advertisement",
                format!(
                    "na = b'\\x88\\0\\0\\0\\x60\\0\\0\\0' + socket.inet_pton(socket.AF_INET6, '{}') + b'\\x02\\x01' + own\nframe(0x86dd, icmp6('fe80::99', 'ff02::1', na))",
                    pair.server.v6
                ),
                &neighbours,
            ),
            (
                "the same behind a hop-by-hop header",
                "frame(0x86dd, icmp6('fe80::99', 'ff02::1', na, b'\\x3a\\0\\x01\\x04\\0\\0\\0\\0'))".into(),
                &neighbours,
            ),
            (
                "a router advertisement",
                "frame(0x86dd, icmp6('fe80::99', 'ff02::1', b'\\x86' + b'\\0' * 15))".into(),
                &routers,
            ),
            ("a redirect", "frame(0x86dd, icmp6('fe80::99', 'ff02::1', b'\\x89' + b'\\0' * 39))".into(), &routers),
        ] {
            let dropped = counter();
            raw.ok(&code);
            eventually(&format!("{what} to be dropped"), || (counter() > dropped).then_some(())).await;
        }
        assert_eq!(arrived(), before, "something forged arrived");
        // What is its own passes, and so does what is nobody's here.
        for ((_, server, vip), nobody) in pair.families().into_iter().zip(["10.99.0.7", "fd99::7"]) {
            let before = arrived();
            raw.ok(&format!("forge('{}', '{server}', 41002, 80)", attacker.address(vip)));
            eventually("its own SYN to arrive", || (arrived() > before).then_some(())).await;
            raw.ok(&format!("forge('{nobody}', '{server}', 41003, 80)"));
            eventually("a SYN of nobody here to arrive", || (arrived() > before + 1).then_some(())).await;
        }
        // Guarded pods reach each other as before, in both families.
        let (mut app, mut peer) = (pair.client.app(), pair.server.app());
        peer.ok("l = listen('::', 80)");
        for vip in VIPS {
            app.dial(SocketAddr::new(vip, 80)).unwrap();
        }
        assert_eq!(pair.direct(), (2, 2));
        // Taken off, nothing of it stays.
        assert_eq!(pair.steering.guard(&[]).await.unwrap(), Guarded::default());
        for link in ["v1", "v2", "v3"] {
            // The kernel lets go of an unpinned link a moment later.
            eventually(&format!("the guard of {link} to go"), || (guards_on(link) == 0).then_some(())).await;
        }
    });
}

#[test]
fn a_pod_with_another_way_out_keeps_everybody_off() {
    isolated!(async |world: World| {
        let pair = Pair::new(&world).await;
        let attacker = world.pod(3);
        assert_eq!(pair.steering.guard(&pair.guarded(&[&attacker])).await.unwrap(), Guarded::default());
        for link in ["v1", "v2", "v3"] {
            assert_eq!(guards_on(link), 1);
        }
        // A second link to the node is guarded as well; one to another pod cannot be.
        ip("link add w3 type veth peer name eth1 netns pod3");
        assert_eq!(pair.steering.guard(&pair.guarded(&[&attacker])).await.unwrap(), Guarded::default());
        assert_eq!(guards_on("w3"), 1);
        attacker.ip("link add x3 type veth peer name x2 netns pod2");
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        loop {
            let open = pair.steering.guard(&pair.guarded(&[&attacker])).await.unwrap().open;
            if open.iter().any(|reason| reason.starts_with("pod3")) {
                break;
            }
            assert!(std::time::Instant::now() < deadline, "the new way out went unnoticed: {open:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
}

#[test]
fn attack_with_a_stolen_hardware_address_does_not_draw_its_frames() {
    isolated!(async |world: World| {
        let pair = Pair::bridged(&world).await;
        let attacker = world.bridged_pod(3);
        let mut raw = forger(&attacker);
        let server = pair.server.station();
        let plain = pair.server.hardware_address();
        let learned = || {
            let output = std::process::Command::new("bridge").args(["fdb", "show", "dev", "v3"]).output().unwrap();
            String::from_utf8(output.stdout).unwrap().contains(&plain)
        };
        let steal = format!(
            "s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.bind(('eth0', 0)); s.send(b'\\xff' * 6 + {server} + b'\\x88\\xb5' + b'\\0' * 46)"
        );
        // Again and again: a port that has just come up learns nothing yet, and the server's own frames set it right.
        eventually("the bridge to be deceived where nobody guards", || {
            raw.ok(&steal);
            learned().then_some(())
        })
        .await;
        // The server's own frame sets it right again.
        let (mut app, mut peer) = (pair.client.app(), pair.server.app());
        peer.ok("l = listen('::', 80)");
        peer.ok(&format!(
            "u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.sendto(b'x', ('{}', 9))",
            pair.client.v4
        ));
        eventually("the bridge to learn better", || (!learned()).then_some(())).await;
        assert_eq!(pair.steering.guard(&pair.guarded(&[&attacker])).await.unwrap(), Guarded::default());
        let dropped = || verdict(&pair.steering, "guard_drop_station");
        let before = dropped();
        raw.ok(&steal);
        eventually("the frame to be dropped", || (dropped() > before).then_some(())).await;
        assert!(!learned(), "the bridge sends the server's frames to the attacker");
        // Nor does an enrolled pod that gives its device the address of another.
        let thief = world.bridged_pod(4);
        let enrolled = thief.enrolled(&pair.steering).await;
        let mut pods = pair.guarded(&[&attacker]);
        pods.push(thief.guarded(true));
        pair.steering.guard(&pods).await.unwrap();
        thief.ip(&format!("link set eth0 address {plain}"));
        let mut other = thief.app();
        let before = dropped();
        other.ok("u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.sendto(b'x', ('10.88.0.1', 9))");
        eventually("the thief's frames to be dropped", || (dropped() > before).then_some(())).await;
        drop(enrolled);
        // The others reach each other as before.
        for vip in VIPS {
            app.dial(SocketAddr::new(vip, 80)).unwrap();
        }
        assert_eq!(pair.direct(), (2, 2));
    });
}

#[test]
fn strangers_on_the_bridge_are_guarded_as_well() {
    isolated!(async |world: World| {
        let pair = Pair::bridged(&world).await;
        // A container of nobody's: the agent is not told of it.
        let stranger = world.bridged_pod(3);
        let _elsewhere = world.pod(4);
        let mut raw = forger(&stranger);
        assert_eq!(pair.steering.guard(&pair.guarded(&[])).await.unwrap(), Guarded::default());
        assert_eq!((guards_on("v3"), guards_on("v4")), (1, 0), "who shares no bridge with a pod is left alone");
        let (client, server) = (pair.client.v4, pair.server.v4);
        for (what, code, counter) in [
            ("a SYN", format!("forge('{client}', '{server}', 41000, 80)"), "guard_drop_source"),
            (
                "a SYN of IPv6",
                format!("forge('{}', '{}', 41000, 80)", pair.client.v6, pair.server.v6),
                "guard_drop_source",
            ),
            (
                "an ARP answer for a pod",
                format!("frame(0x806, struct.pack('!HHBBH', 1, 0x800, 6, 4, 2) + own + socket.inet_aton('{server}') + own + socket.inet_aton('{client}'))"),
                "guard_drop_neighbour",
            ),
            (
                "an ARP answer for the gateway",
                format!("frame(0x806, struct.pack('!HHBBH', 1, 0x800, 6, 4, 2) + own + socket.inet_aton('10.88.0.254') + own + socket.inet_aton('{client}'))"),
                "guard_drop_neighbour",
            ),
            (
                "an advertisement of a pod",
                format!(
                    "na = b'\\x88\\0\\0\\0\\x60\\0\\0\\0' + socket.inet_pton(socket.AF_INET6, '{}') + b'\\x02\\x01' + own
frame(0x86dd, icmp6('fe80::99', 'ff02::1', na))",
                    pair.server.v6
                ),
                "guard_drop_neighbour",
            ),
            (
                "an advertisement of the gateway",
                "na = b'\\x88\\0\\0\\0\\x60\\0\\0\\0' + socket.inet_pton(socket.AF_INET6, 'fd88::fe') + b'\\x02\\x01' + own
frame(0x86dd, icmp6('fe80::99', 'ff02::1', na))".into(),
                "guard_drop_neighbour",
            ),
        ] {
            let before = verdict(&pair.steering, counter);
            raw.ok(&code);
            eventually(&format!("{what} to be dropped"), || (verdict(&pair.steering, counter) > before).then_some(())).await;
        }
        // What is its own passes.
        for (_, server, vip) in pair.families() {
            let before = verdict(&pair.steering, "lookup_assign_plaintext");
            raw.ok(&format!("forge('{}', '{server}', 41002, 80)", stranger.address(vip)));
            eventually("its own SYN to arrive", || {
                (verdict(&pair.steering, "lookup_assign_plaintext") > before).then_some(())
            })
            .await;
        }
        // One that comes later is noticed.
        let mut changes = pair.steering.link_changes().unwrap();
        let _late = world.bridged_pod(5);
        tokio::time::timeout(Duration::from_secs(5), changes.next()).await.expect("a new link is reported");
        pair.steering.guard(&pair.guarded(&[])).await.unwrap();
        assert_eq!(guards_on("v5"), 1);
        // And one that turns out to be a pod's goes on being guarded.
        assert_eq!(pair.steering.guard(&pair.guarded(&[&stranger])).await.unwrap(), Guarded::default());
        assert_eq!(guards_on("v3"), 1);
        pair.steering.guard(&[]).await.unwrap();
        for link in ["v1", "v2", "v3", "v5"] {
            eventually(&format!("the guard of {link} to go"), || (guards_on(link) == 0).then_some(())).await;
        }
    });
}

#[test]
fn links_of_many_pods_are_guarded_some_at_a_time() {
    isolated!(async |world: World| {
        let pair = Pair::new(&world).await;
        let others: Vec<_> = (3..=36).map(|number| world.pod(number)).collect();
        let others: Vec<_> = others.iter().collect();
        let (mut waiting, mut turns) = (usize::MAX, 0);
        while waiting > 0 {
            let guarded = pair.steering.guard(&pair.guarded(&others)).await.unwrap();
            assert_eq!(guarded.open, Vec::<String>::new());
            assert!(guarded.waiting < waiting, "no link more is guarded after {turns} turns");
            (waiting, turns) = (guarded.waiting, turns + 1);
            assert_eq!((1..=36).filter(|number| guards_on(&format!("v{number}")) == 1).count(), 36 - waiting);
        }
        assert_eq!(turns, 2);
    });
}
