//! A pod on the same bridge that answers in another's name: what the guard is there for.

use std::net::{IpAddr, SocketAddr};

use weft::steer::Guarded;

use crate::{
    harness::{VIP4, VIP6, World, ip, verdict},
    pair::{Pair, forger},
};

/// Has a forger answer the next SYN to the server that it hears, as if it were the server.
const IMPERSONATE: &str = r#"
import threading
def heard(f):
    # A SYN's addresses, ports and number, by where its header begins.
    if f[12:14] == b'\x86\xdd':
        return f[20] == 6 and (f[22:38], f[38:54], f[54:])
    return f[12:14] == b'\x08\0' and f[23] == 6 and (f[26:30], f[30:34], f[34:])
def impersonate(address, station):
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    s.bind(('eth0', 3))
    s.settimeout(20)
    while True:
        f = s.recv(2048)
        found = heard(f)
        if found and found[1] == packed(address) and found[2][13] & 0x12 == 2:
            client, _, tcp = found
            sport, dport, seq = struct.unpack('!HHI', tcp[:8])
            client = socket.inet_ntop(socket.AF_INET if len(client) == 4 else socket.AF_INET6, client)
            packet = syn(address, client, dport, sport, 18, seq + 1 & 0xffffffff)
            s.send(f[6:12] + station + f[12:14] + packet)
            return
"#;

/// Who answers in the server's name.
#[derive(Clone, Copy, PartialEq)]
enum Station {
    /// The attacker by its own hardware address.
    Own,
    /// The attacker by the server's.
    Stolen,
}

/// The client dials a server that is silent, while a pod on the same bridge answers in the server's name. Yields what became
/// of it, and how much the guard dropped for its source and for its station.
async fn hijack(world: &World, vip: IpAddr, guarded: bool, station: Station) -> (Result<(), i32>, [u64; 2]) {
    let pair = Pair::bridged(world).await;
    let attacker = world.bridged_pod(3);
    let (mut app, mut server, mut raw) = (pair.client.app(), pair.server.app(), forger(&attacker));
    server.ok("l = listen('::', 80)");
    app.dial(SocketAddr::new(vip, 80)).unwrap();
    if guarded {
        assert_eq!(pair.steering.guard(&pair.guarded(&[&attacker])).await.unwrap(), Guarded::default());
    }
    // A bridge sends what is for a port that is down to every other one.
    ip("link set v2 down");
    let station = if station == Station::Stolen { pair.server.station() } else { "own".into() };
    raw.ok(IMPERSONATE);
    raw.ok(&format!(
        "threading.Thread(target=impersonate, args=('{}', {station}), daemon=True).start()",
        pair.server.address(vip)
    ));
    let dialled = app.run(&format!("s = dial('{vip}', 80, timeout=2.5)")).map(drop);
    assert_eq!(pair.direct().0, 2, "it went by the proxy");
    (dialled, ["guard_drop_source", "guard_drop_station"].map(|label| verdict(&pair.steering, label)))
}

/// What comes of it where nobody guards: without this, the others would show nothing.
async fn unguarded(world: World, vip: IpAddr) {
    assert_eq!(hijack(&world, vip, false, Station::Own).await, (Ok(()), [0, 0]));
}

async fn from_its_own_station(world: World, vip: IpAddr) {
    let (dialled, [sources, _]) = hijack(&world, vip, true, Station::Own).await;
    assert_eq!(dialled, Err(libc::ETIMEDOUT), "hijacked");
    assert!(sources > 0, "nothing was dropped");
}

async fn from_a_stolen_station(world: World, vip: IpAddr) {
    let (dialled, [_, stations]) = hijack(&world, vip, true, Station::Stolen).await;
    assert_eq!(dialled, Err(libc::ETIMEDOUT), "hijacked");
    assert!(stations > 0, "nothing was dropped");
}

#[test]
fn a_live_hijack_on_a_shared_bridge_succeeds_where_nobody_guards() {
    isolated!(async |world: World| unguarded(world, VIP4).await);
}

#[test]
fn a_live_hijack_on_a_shared_bridge_succeeds_where_nobody_guards_ipv6() {
    isolated!(async |world: World| unguarded(world, VIP6).await);
}

#[test]
fn attack_a_live_hijack_on_a_shared_bridge_gets_nothing() {
    isolated!(async |world: World| from_its_own_station(world, VIP4).await);
}

#[test]
fn attack_a_live_hijack_on_a_shared_bridge_gets_nothing_ipv6() {
    isolated!(async |world: World| from_its_own_station(world, VIP6).await);
}

#[test]
fn attack_a_live_hijack_from_a_stolen_hardware_address_gets_nothing() {
    isolated!(async |world: World| from_a_stolen_station(world, VIP4).await);
}

#[test]
fn attack_a_live_hijack_from_a_stolen_hardware_address_gets_nothing_ipv6() {
    isolated!(async |world: World| from_a_stolen_station(world, VIP6).await);
}
