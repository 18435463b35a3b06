//! A pod on the same bridge that answers in another's name: what the guard is there for.

use std::net::SocketAddr;

use crate::{
    app::App,
    harness::{World, ip, verdict},
    pair::{Pair, VIPS, forger},
};

/// Has a forger answer the next SYN to the server that it hears, as if it were the server.
fn impersonate(raw: &mut App, pair: &Pair, station: &str) {
    raw.ok(&format!(
        r#"
import threading
def impersonate(address, station):
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x800))
    s.bind(('eth0', 0x800))
    s.settimeout(20)
    while True:
        f = s.recv(2048)
        if f[23] == 6 and f[30:34] == socket.inet_aton(address) and f[47] & 0x12 == 2:
            seq = struct.unpack('!I', f[38:42])[0] + 1 & 0xffffffff
            sport, dport = struct.unpack('!HH', f[34:38])
            packet = syn(address, socket.inet_ntoa(f[26:30]), dport, sport, 18, seq)
            s.send(f[6:12] + station + struct.pack('!H', 0x800) + packet)
            return
threading.Thread(target=impersonate, args=('{}', {station}), daemon=True).start()"#,
        pair.server.v4
    ));
}

/// The client dials a server that is silent, while a pod on the same bridge answers in the server's name: from its own
/// hardware address or the server's. Yields what became of it, and the counters that moved.
async fn hijack(world: &World, guarded: bool, stolen: bool) -> (Result<(), i32>, [u64; 2]) {
    let pair = Pair::bridged(world).await;
    let attacker = world.bridged_pod(3);
    let (mut app, mut server, mut raw) = (pair.client.app(), pair.server.app(), forger(&attacker));
    server.ok("l = listen('::', 80)");
    app.dial(SocketAddr::new(VIPS[0], 80)).unwrap();
    if guarded {
        assert_eq!(pair.steering.guard(&pair.guarded(&[&attacker])).await.unwrap(), Vec::<String>::new());
    }
    // A bridge sends what is for a port that is down to every other one.
    ip("link set v2 down");
    impersonate(&mut raw, &pair, &if stolen { pair.server.station() } else { "own".into() });
    let dialled = app.run(&format!("s = dial('{}', 80, timeout=2.5)", VIPS[0])).map(drop);
    assert_eq!(pair.direct().0, 2, "it went by the proxy");
    (dialled, ["guard_drop_source", "guard_drop_station"].map(|label| verdict(&pair.steering, label)))
}

#[test]
fn a_live_hijack_on_a_shared_bridge_succeeds_where_nobody_guards() {
    isolated!(async |world: World| assert_eq!(hijack(&world, false, false).await, (Ok(()), [0, 0])));
}

#[test]
fn attack_a_live_hijack_on_a_shared_bridge_gets_nothing() {
    isolated!(async |world: World| {
        let (dialled, [sources, _]) = hijack(&world, true, false).await;
        assert_eq!(dialled, Err(libc::ETIMEDOUT), "hijacked");
        assert!(sources > 0, "nothing was dropped");
    });
}

#[test]
fn attack_a_live_hijack_from_a_stolen_hardware_address_gets_nothing() {
    isolated!(async |world: World| {
        let (dialled, [_, stations]) = hijack(&world, true, true).await;
        assert_eq!(dialled, Err(libc::ETIMEDOUT), "hijacked");
        assert!(stations > 0, "nothing was dropped");
    });
}
