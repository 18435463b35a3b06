//! What the tests of the same-node fast path start from: two pods that reach each other, and one that forges.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use weft::steer::{EnrolledPod, FlowRecords, GuardedPod, Steering};
use weft_abi::{FlowEnd, FlowRecord};
use weft_core::{
    policy::{Admission, Sources},
    same_node::{Choice, Frontend, SameNode},
};

use crate::{
    app::App,
    harness::{TestPod, VIP4, VIP6, World, verdict},
};

/// Two enrolled pods of one node; the first reaches the second by both VIPs, directly.
pub(crate) struct Pair {
    pub(crate) steering: Steering,
    pub(crate) client: TestPod,
    pub(crate) server: TestPod,
    pub(crate) one: EnrolledPod,
    pub(crate) two: EnrolledPod,
    pub(crate) plan: SameNode,
}

impl Pair {
    /// Each with a link of its own to the node.
    pub(crate) async fn new(world: &World) -> Self {
        Self::over(world.steer(), world.pod(1), world.pod(2)).await
    }

    /// Both on the node's bridge.
    pub(crate) async fn bridged(world: &World) -> Self {
        Self::over(world.steer(), world.bridged_pod(1), world.bridged_pod(2)).await
    }

    /// These, whether they are enrolled yet or not.
    pub(crate) async fn over(steering: Steering, client: TestPod, server: TestPod) -> Self {
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
    pub(crate) fn share(&mut self, last: u32) {
        for frontend in self.plan.frontends.values_mut() {
            frontend.choices[0].last = last;
        }
        self.steering.set_same_node(&self.plan, true).unwrap();
    }

    /// Lets nobody in.
    pub(crate) fn deny(&mut self) {
        let nobody = Admission { default: Sources::default(), ports: BTreeMap::new() };
        self.plan.admissions.insert(self.two.cookie, nobody);
        self.steering.set_same_node(&self.plan, true).unwrap();
    }

    pub(crate) fn guarded(&self, others: &[&TestPod]) -> Vec<GuardedPod> {
        let enrolled = [&self.client, &self.server].map(|pod| pod.guarded(true));
        enrolled.into_iter().chain(others.iter().map(|pod| pod.guarded(false))).collect()
    }

    /// Of each family: the client's address, the server's, and that of the service.
    pub(crate) fn families(&self) -> [(IpAddr, IpAddr, IpAddr); 2] {
        VIPS.map(|vip| (self.client.address(vip), self.server.address(vip), vip))
    }

    /// How often connects went directly, and how often the SYN was believed.
    pub(crate) fn direct(&self) -> (u64, u64) {
        (verdict(&self.steering, "connect_same_node"), verdict(&self.steering, "lookup_same_node"))
    }
}

/// Both addresses of the service.
pub(crate) const VIPS: [IpAddr; 2] = [VIP4, VIP6];

/// Waits for a record of a connection that came to this.
pub(crate) async fn record(records: &mut FlowRecords, end: FlowEnd) -> FlowRecord {
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

/// Programs in front of what comes in by a device.
pub(crate) fn guards_on(link: &str) -> usize {
    let (_, programs) = aya::programs::SchedClassifier::query_tcx(link, aya::programs::TcAttachType::Ingress).unwrap();
    programs.len()
}

/// Raw TCP packets, as a container with NET_RAW may send them.
const FORGE: &str = r#"
def checksum(data):
    data += b'\0' * (len(data) % 2)
    total = sum(struct.unpack('!%dH' % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
def packed(address):
    return socket.inet_pton(socket.AF_INET6 if ':' in address else socket.AF_INET, address)
def syn(src, dst, sport, dport, flags=2, ack=0):
    a, b = packed(src), packed(dst)
    tcp = struct.pack('!HHIIBBHHH', sport, dport, 1000, ack, 5 << 4, flags, 65535, 0, 0)
    pseudo = a + b + (struct.pack('!BBH', 0, 6, 20) if len(a) == 4 else struct.pack('!II', 20, 6))
    tcp = tcp[:16] + struct.pack('!H', checksum(pseudo + tcp)) + tcp[18:]
    if len(a) == 16:
        return struct.pack('!IHBB', 6 << 28, 20, 6, 64) + a + b + tcp
    ip = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 40, 7, 0, 64, 6, 0, a, b)
    return ip[:10] + struct.pack('!H', checksum(ip)) + ip[12:] + tcp
def forge(src, dst, sport, dport):
    family = socket.AF_INET6 if ':' in dst else socket.AF_INET
    s = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
    s.sendto(syn(src, dst, sport, dport), (dst, 0))
def mac(name):
    return bytes.fromhex(open('/sys/class/net/%s/address' % name).read().strip().replace(':', ''))
def frame(kind, payload, to=b'\xff' * 6, tags=b''):
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    s.bind(('eth0', 0))
    s.send(to + own + tags + struct.pack('!H', kind) + payload)
def framed(packet, tags=b''):
    frame(0x86dd if packet[0] >> 4 == 6 else 0x800, packet, tags=tags)
def icmp6(src, dst, body, extensions=b''):
    a, b = socket.inet_pton(socket.AF_INET6, src), socket.inet_pton(socket.AF_INET6, dst)
    body = body[:2] + struct.pack('!H', checksum(a + b + struct.pack('!II', len(body), 58) + body)) + body[4:]
    first = 0 if extensions else 58
    return struct.pack('!IHBB', 6 << 28, len(extensions) + len(body), first, 255) + a + b + extensions + body
"#;

/// An un-enrolled pod's process that can forge, and knows its own device's address.
pub(crate) fn forger(pod: &TestPod) -> App {
    let mut app = pod.app();
    app.ok(FORGE);
    app.ok(&format!("own = {}", pod.station()));
    app
}
