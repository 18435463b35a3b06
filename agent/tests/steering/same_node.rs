//! Connections between pods of one node past the proxy, and everything that tries to get in by that way.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use weft::steer::{EnrolledPod, FlowRecords, GuardedPod, Steering};
use weft_abi::{FlowEnd, FlowRecord, capacity};
use weft_core::{
    policy::{Admission, Sources},
    same_node::{Choice, Frontend, SameNode},
};

use crate::{
    app::App,
    harness::{TestPod, VIP4, VIP6, World, accept, assert_idle, eventually, ip, verdict},
};

/// Two enrolled pods of one node; the first reaches the second by both VIPs, directly.
struct Pair {
    steering: Steering,
    client: TestPod,
    server: TestPod,
    one: EnrolledPod,
    two: EnrolledPod,
    plan: SameNode,
}

impl Pair {
    async fn new(world: &World) -> Self {
        let steering = world.steer();
        let (client, server) = (world.pod(1), world.pod(2));
        let (one, two) = (client.enrolled(&steering).await, server.enrolled(&steering).await);
        let frontend = |address: IpAddr| {
            let address = SocketAddr::new(address, 80);
            Frontend { in_turns: false, choices: vec![Choice { address, cookie: two.cookie, last: u32::MAX }] }
        };
        let everyone = Admission { default: Sources::ALL, ports: BTreeMap::new() };
        let plan = SameNode {
            frontends: BTreeMap::from([
                (SocketAddr::new(VIP4, 80), frontend(server.v4)),
                (SocketAddr::new(VIP6, 80), frontend(server.v6)),
            ]),
            admissions: BTreeMap::from([(one.cookie, everyone.clone()), (two.cookie, everyone)]),
            sources: BTreeMap::from([(one.cookie, 0), (two.cookie, 1)]),
            drawn: HashMap::new(),
        };
        steering.set_same_node(&plan, true).unwrap();
        Self { steering, client, server, one, two, plan }
    }

    /// Sends the share of the frontend that ends here to the server, the rest to the proxy.
    fn share(&mut self, last: u32) {
        for frontend in self.plan.frontends.values_mut() {
            frontend.choices[0].last = last;
        }
        self.steering.set_same_node(&self.plan, true).unwrap();
    }

    /// Lets nobody in.
    fn deny(&mut self) {
        let nobody = Admission { default: Sources::default(), ports: BTreeMap::new() };
        self.plan.admissions.insert(self.two.cookie, nobody);
        self.steering.set_same_node(&self.plan, true).unwrap();
    }

    fn guarded(&self, others: &[&TestPod]) -> Vec<GuardedPod> {
        let guarded = |pod: &TestPod, protects: Vec<IpAddr>| GuardedPod {
            name: pod.name.clone(),
            netns: Arc::clone(&pod.ns),
            protects,
        };
        let enrolled = [&self.client, &self.server].map(|pod| guarded(pod, vec![pod.v4, pod.v6]));
        enrolled.into_iter().chain(others.iter().map(|pod| guarded(pod, Vec::new()))).collect()
    }

    /// How often connects went directly, and how often the SYN was believed.
    fn direct(&self) -> (u64, u64) {
        (verdict(&self.steering, "connect_same_node"), verdict(&self.steering, "lookup_same_node"))
    }
}

const VIPS: [IpAddr; 2] = [VIP4, VIP6];

async fn record(records: &mut FlowRecords, end: FlowEnd) -> FlowRecord {
    let found = async {
        loop {
            let batch = records.next().await.unwrap();
            if let Some(record) = batch.into_iter().find(|record| record.end == end as u32) {
                return record;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(5), found).await.expect("a record in time")
}

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

/// Raw TCP packets, as a container with NET_RAW may send them.
const FORGE: &str = r#"
def checksum(data):
    data += b'\0' * (len(data) % 2)
    total = sum(struct.unpack('!%dH' % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
def syn(src, dst, sport, dport, flags=2):
    a, b = socket.inet_aton(src), socket.inet_aton(dst)
    tcp = struct.pack('!HHIIBBHHH', sport, dport, 1000, 0, 5 << 4, flags, 65535, 0, 0)
    tcp = tcp[:16] + struct.pack('!H', checksum(a + b + struct.pack('!BBH', 0, 6, 20) + tcp)) + tcp[18:]
    ip = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 40, 7, 0, 64, 6, 0, a, b)
    return ip[:10] + struct.pack('!H', checksum(ip)) + ip[12:] + tcp
def forge(src, dst, sport, dport):
    s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    s.sendto(syn(src, dst, sport, dport), (dst, 0))
def mac(name):
    return bytes.fromhex(open('/sys/class/net/%s/address' % name).read().strip().replace(':', ''))
def frame(kind, payload, to=b'\xff' * 6, tags=b''):
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    s.bind(('eth0', 0))
    s.send(to + own + tags + struct.pack('!H', kind) + payload)
def icmp6(src, dst, body, extensions=b''):
    a, b = socket.inet_pton(socket.AF_INET6, src), socket.inet_pton(socket.AF_INET6, dst)
    body = body[:2] + struct.pack('!H', checksum(a + b + struct.pack('!II', len(body), 58) + body)) + body[4:]
    first = 0 if extensions else 58
    return struct.pack('!IHBB', 6 << 28, len(extensions) + len(body), first, 255) + a + b + extensions + body
"#;

/// An un-enrolled pod's process that can forge, and knows its own device's address.
fn forger(pod: &TestPod) -> App {
    let mut app = pod.app();
    let link = pod.ip("link show eth0");
    let own = link.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).unwrap().replace(':', "");
    app.ok(FORGE);
    app.ok(&format!("own = bytes.fromhex('{own}')"));
    app
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

#[test]
fn attack_on_a_shared_bridge_is_stopped_by_the_guard() {
    isolated!(async |world: World| {
        let pair = Pair::new(&world).await;
        let attacker = world.pod(3);
        let mut raw = forger(&attacker);
        let (client, server) = (pair.client.v4, pair.server.v4);
        let arrived = || verdict(&pair.steering, "lookup_assign_plaintext");
        // Unguarded, a forged SYN arrives: the test can fail.
        let before = arrived();
        raw.ok(&format!("forge('{client}', '{server}', 41000, 80)"));
        eventually("the forged SYN to arrive", || (arrived() > before).then_some(())).await;
        assert_eq!(pair.steering.guard(&pair.guarded(&[&attacker])).await.unwrap(), Vec::<String>::new());
        let sources = || verdict(&pair.steering, "guard_drop_source");
        let neighbours = || verdict(&pair.steering, "guard_drop_neighbour");
        let routers = || verdict(&pair.steering, "guard_drop_router");
        let before = arrived();
        for (what, code, counter) in [
            ("a SYN", format!("forge('{client}', '{server}', 41001, 80)"), &sources as &dyn Fn() -> u64),
            ("a SYN-ACK in a frame", format!("frame(0x800, syn('{server}', '{client}', 80, 40001, 18))"), &sources),
            (
                "the same in a tag",
                format!("frame(0x800, syn('{server}', '{client}', 80, 40001, 18), tags=b'\\x81\\0\\0\\x05')"),
                &sources,
            ),
            (
                "IPv6",
                format!("frame(0x86dd, icmp6('{}', '{}', b'\\x80' + b'\\0' * 7))", pair.server.v6, pair.client.v6),
                &sources,
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
        raw.ok(&format!("forge('{}', '{server}', 41002, 80)", attacker.v4));
        eventually("its own SYN to arrive", || (arrived() > before).then_some(())).await;
        raw.ok(&format!("forge('10.99.0.7', '{server}', 41003, 80)"));
        eventually("a SYN of nobody here to arrive", || (arrived() > before + 1).then_some(())).await;
        // Guarded pods reach each other as before, in both families.
        let (mut app, mut peer) = (pair.client.app(), pair.server.app());
        peer.ok("l = listen('::', 80)");
        for vip in VIPS {
            app.dial(SocketAddr::new(vip, 80)).unwrap();
        }
        assert_eq!(pair.direct(), (2, 2));
        // Taken off, nothing of it stays.
        assert_eq!(pair.steering.guard(&[]).await.unwrap(), Vec::<String>::new());
        for link in ["v1", "v2", "v3"] {
            // The kernel lets go of an unpinned link a moment later.
            eventually(&format!("the guard of {link} to go"), || (guards_on(link) == 0).then_some(())).await;
        }
    });
}

/// Programs in front of what comes in by a device.
fn guards_on(link: &str) -> usize {
    let (_, programs) = aya::programs::SchedClassifier::query_tcx(link, aya::programs::TcAttachType::Ingress).unwrap();
    programs.len()
}

#[test]
fn a_pod_with_another_way_out_keeps_everybody_off() {
    isolated!(async |world: World| {
        let pair = Pair::new(&world).await;
        let attacker = world.pod(3);
        assert_eq!(pair.steering.guard(&pair.guarded(&[&attacker])).await.unwrap(), Vec::<String>::new());
        for link in ["v1", "v2", "v3"] {
            assert_eq!(guards_on(link), 1);
        }
        // A second link to the node is guarded as well; one to another pod cannot be.
        ip("link add w3 type veth peer name eth1 netns pod3");
        assert_eq!(pair.steering.guard(&pair.guarded(&[&attacker])).await.unwrap(), Vec::<String>::new());
        assert_eq!(guards_on("w3"), 1);
        attacker.ip("link add x3 type veth peer name x2 netns pod2");
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        loop {
            let open = pair.steering.guard(&pair.guarded(&[&attacker])).await.unwrap();
            if open.iter().any(|reason| reason.starts_with("pod3")) {
                break;
            }
            assert!(std::time::Instant::now() < deadline, "the new way out went unnoticed: {open:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
}
