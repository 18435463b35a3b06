//! Connections between pods of one node past the proxy.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use weft_abi::FlowEnd;
use weft_core::same_node::SameNode;

use crate::{
    harness::{VIP4, World, accept, assert_idle, eventually, verdict},
    pair::{Pair, VIPS, record},
};

#[test]
fn a_connection_goes_directly_and_both_ends_see_the_truth() {
    isolated!(async |world: World| {
        let pair = Pair::new(&world).await;
        let mut records = pair.steering.flow_records().unwrap();
        let (mut app, mut server) = (pair.client.app(), pair.server.app());
        server.ok("l = listen('::', 80)");
        for vip in VIPS {
            app.dial(SocketAddr::new(vip, 80)).unwrap();
            assert_eq!(app.peer(), SocketAddr::new(vip, 80), "the application sees what it dialled");
            let from = server.ok("c, a = l.accept(); a[0]");
            let from: IpAddr = from.as_str().unwrap().parse().unwrap();
            assert_eq!(from.to_canonical(), pair.client.address(vip), "the server sees the client");
            let opened = record(&mut records, FlowEnd::Opened).await;
            assert_eq!((opened.source, opened.destination), (pair.one.cookie, pair.two.cookie));
            app.ok("s.sendall(b'x' * 1000); s.shutdown(1)");
            server.ok("n = 0\nwhile True:\n  d = c.recv(65536)\n  n += len(d)\n  if not d: break\nc.sendall(b'y' * 333); c.close()");
            app.ok("n = 0\nwhile True:\n  d = s.recv(65536)\n  n += len(d)\n  if not d: break\ns.close()");
            let ended = record(&mut records, FlowEnd::Finished).await;
            assert_eq!((ended.sent, ended.received), (1000, 333), "{ended:?}");
            assert!((1..1_000_000).contains(&ended.rtt_us), "a round trip within one node: {ended:?}");
            assert_eq!(opened.rtt_us, 0, "not measured yet");
            assert_eq!(IpAddr::from(ended.dialled), vip);
        }
        assert_eq!(pair.direct(), (2, 2));
        assert_eq!(pair.steering.attested().unwrap(), [], "what attested them went with their sockets");
        assert_idle(&pair.one.outbound);
        assert_idle(&pair.two.inbound);
    });
}

/// What is attached beyond the hooks that every agent has.
fn hooks_past_the_proxy(world: &World) -> Vec<String> {
    let directory = world.bpffs().join(format!("weft/test/v{}/links", weft_abi::ABI_VERSION));
    let names = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut hooks: Vec<_> = names.filter_map(|name| Some(name.split_once('-')?.0.to_owned())).collect();
    hooks.retain(|hook| !["connect4", "connect6", "lookup"].contains(&hook.as_str()));
    hooks.sort();
    hooks
}

#[test]
fn what_follows_connections_runs_only_while_there_can_be_any() {
    isolated!(async |world: World| {
        drop(world.steer());
        assert_eq!(hooks_past_the_proxy(&world), [""; 0], "not asked for");
        let pair = Pair::new(&world).await;
        assert_eq!(hooks_past_the_proxy(&world), ["flow", "peername4", "peername6"]);
        let (mut app, mut server) = (pair.client.app(), pair.server.app());
        server.ok("l = listen('::', 80)");
        app.dial(SocketAddr::new(VIP4, 80)).unwrap();
        pair.steering.set_same_node(&SameNode::default(), false).unwrap();
        pair.steering.retire_same_node().unwrap();
        assert_eq!(hooks_past_the_proxy(&world).len(), 3, "one connection stands");
        assert_eq!(app.peer(), SocketAddr::new(VIP4, 80));
        app.ok("s.close()");
        eventually("the hooks to go with the last connection", || {
            pair.steering.retire_same_node().unwrap();
            hooks_past_the_proxy(&world).is_empty().then_some(())
        })
        .await;
        pair.steering.set_same_node(&pair.plan, true).unwrap();
        assert_eq!(hooks_past_the_proxy(&world).len(), 3, "on again");
        app.dial(SocketAddr::new(VIP4, 80)).unwrap();
        assert_eq!(pair.direct(), (2, 2));
    });
}

#[test]
fn an_ipv4_connection_of_an_ipv6_socket_goes_directly_too() {
    isolated!(async |world: World| {
        let pair = Pair::new(&world).await;
        let (mut app, mut server) = (pair.client.app(), pair.server.app());
        server.ok("l = listen('::', 80)");
        app.ok(&format!("s = dial('::ffff:{VIP4}', 80)"));
        assert_eq!(app.ok("s.getpeername()[0]"), format!("::ffff:{VIP4}"));
        assert_eq!(pair.direct(), (1, 1));
    });
}

#[test]
fn what_policy_refuses_is_reset_and_reported_as_refused() {
    isolated!(async |world: World| {
        let mut pair = Pair::new(&world).await;
        let mut records = pair.steering.flow_records().unwrap();
        let (mut app, mut server) = (pair.client.app(), pair.server.app());
        server.ok("l = listen('::', 80); l.settimeout(0)");
        pair.deny();
        for vip in VIPS {
            assert_eq!(app.dial(SocketAddr::new(vip, 80)), Err(libc::ECONNREFUSED));
            record(&mut records, FlowEnd::Denied).await;
        }
        assert_eq!(verdict(&pair.steering, "lookup_drop_same_node"), 2);
        assert_eq!(server.run("l.accept()"), Err(libc::EAGAIN), "the server was reached");
        // Refused is not dead: nobody is held off the endpoint for it.
        assert_eq!(app.dial(SocketAddr::new(VIP4, 80)), Err(libc::ECONNREFUSED));
        assert_eq!(verdict(&pair.steering, "connect_same_node"), 3);
    });
}

#[test]
fn an_endpoint_that_refuses_is_left_to_the_proxy() {
    isolated!(async |world: World| {
        let pair = Pair::new(&world).await;
        let mut records = pair.steering.flow_records().unwrap();
        let mut app = pair.client.app();
        assert_eq!(app.dial(SocketAddr::new(VIP4, 80)), Err(libc::ECONNREFUSED), "nobody listens");
        record(&mut records, FlowEnd::Refused).await;
        app.dial(SocketAddr::new(VIP4, 80)).unwrap();
        let (stream, to, _) = accept(&pair.one.outbound).await;
        assert_eq!(to, SocketAddr::new(VIP4, 80));
        assert!(!weft_abi::Marks::is_drawn(weft::sys::socket::mark(&stream).unwrap()), "the proxy draws among all");
        assert_eq!(verdict(&pair.steering, "connect_same_node"), 1);
    });
}

#[test]
fn draws_keep_to_the_share_and_the_rest_says_so() {
    isolated!(async |world: World| {
        let mut pair = Pair::new(&world).await;
        let (mut app, mut server) = (pair.client.app(), pair.server.app());
        server.ok("import threading\ndef loop(l):\n  while True:\n    l.accept()[0].close()\n\
             l = listen('::', 80); l.settimeout(None)\nthreading.Thread(target=loop, args=(l,), daemon=True).start()");
        let dials = 4000_u32;
        for (in_turns, tolerance) in [(false, 150), (true, 3)] {
            pair.plan.frontends.values_mut().for_each(|frontend| frontend.in_turns = in_turns);
            pair.share(u32::MAX / 10 * 3);
            let before = (verdict(&pair.steering, "connect_same_node"), verdict(&pair.steering, "connect_steer_rest"));
            let drain = std::thread::scope(|scope| {
                let outbound = pair.one.outbound.try_clone().unwrap();
                let steered = scope.spawn(move || {
                    let mut drawn = 0;
                    let end = std::time::Instant::now() + Duration::from_secs(60);
                    while std::time::Instant::now() < end {
                        match outbound.accept() {
                            Ok((stream, _)) => {
                                let mark = weft::sys::socket::mark(&stream).unwrap();
                                assert!(weft_abi::Marks::is_drawn(mark), "mark {mark:#x}");
                                drawn += 1;
                                if std::io::Read::read(&mut &stream, &mut [0; 1]).is_ok_and(|n| n == 1) {
                                    return drawn;
                                }
                            }
                            Err(_) => std::thread::sleep(Duration::from_millis(1)),
                        }
                    }
                    drawn
                });
                app.ok(&format!(
                    "for i in range({dials}):\n  s = dial('{VIP4}', 80)\n  s.setsockopt(1, 13, struct.pack('ii', 1, 0))\n  s.close()"
                ));
                // A last word ends the other side's loop; it may take a few dials to be steered.
                app.ok(&format!("\nfor i in range(200):\n  s = dial('{VIP4}', 80)\n  try:\n    s.sendall(b'q')\n  except OSError:\n    pass\n  s.close()"));
                steered.join().unwrap()
            });
            assert!(drain > 0);
            let here = verdict(&pair.steering, "connect_same_node") - before.0;
            let rest = verdict(&pair.steering, "connect_steer_rest") - before.1;
            let total = here + rest;
            assert!(total >= u64::from(dials), "{here} + {rest}");
            let due = total as f64 * 0.3;
            assert!((here as f64 - due).abs() <= f64::from(tolerance), "in turns {in_turns}: {here} of {total}");
        }
    });
}

#[test]
fn a_socket_that_goes_elsewhere_afterwards_leaves_nothing_behind() {
    isolated!(async |world: World| {
        let pair = Pair::new(&world).await;
        let (mut app, mut server) = (pair.client.app(), pair.server.app());
        server.ok("l = listen('::', 80); m = listen('::', 81)");
        app.dial(SocketAddr::new(VIP4, 80)).unwrap();
        app.ok(&format!("disconnect(s); s.connect(('{}', 81))", pair.server.v4));
        assert_eq!(app.peer(), SocketAddr::new(pair.server.v4, 81), "an old note answered");
        assert_eq!(pair.steering.attested().unwrap(), []);
        // And one that was steered goes directly without the mesh's mark.
        app.ok(&format!("disconnect(s); s.connect(('{VIP4}', 80))"));
        assert_eq!(app.ok("mark(s) & 0x3000"), 0);
        assert_eq!(app.peer(), SocketAddr::new(VIP4, 80));
        assert_eq!(pair.direct(), (2, 2));
    });
}

#[test]
fn without_an_agent_connections_still_go_directly() {
    isolated!(async |world: World| {
        let pair = Pair::new(&world).await;
        let (mut app, mut server) = (pair.client.app(), pair.server.app());
        server.ok("l = listen('::', 80)");
        app.dial(SocketAddr::new(VIP4, 80)).unwrap();
        let Pair { steering, one, two, client, server: pod, .. } = pair;
        steering.release();
        drop((steering, one, two));
        for vip in VIPS {
            app.dial(SocketAddr::new(vip, 80)).unwrap();
            assert_eq!(app.peer(), SocketAddr::new(vip, 80));
        }
        app.ok("s.sendall(b'z')");
        assert_eq!(server.ok("[l.accept()[1][0] for _ in range(3)][2]"), client.v6.to_string());
        drop(pod);
    });
}
